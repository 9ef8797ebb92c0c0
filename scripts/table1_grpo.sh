#!/usr/bin/env bash
# Table 1 and Table 2, "GRPO". Paper on 4B, DyBench P-Acc: 48.2; MODEL=Qwen3-VL-8B: 52.4.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run grpo --method grpo "$@"
