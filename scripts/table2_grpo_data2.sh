#!/usr/bin/env bash
# Table 2, "GRPO (Data x2)": each row twice an epoch. Paper: 48.4.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run grpo_data2 --method grpo --repeat-data 2 "$@"
