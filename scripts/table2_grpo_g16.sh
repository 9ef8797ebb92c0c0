#!/usr/bin/env bash
# Table 2, "GRPO (Gx2)": as many rollouts a question as CRPO. Paper, DyBench P-Acc: 50.2.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run grpo_g16 --method grpo --rollouts 16 "$@"
