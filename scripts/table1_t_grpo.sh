#!/usr/bin/env bash
# Table 1, "T-GRPO" as App. B.3 compares it (threshold 1, 8 shuffled rollouts). Paper on 4B: 49.8; 8B: 54.5.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run t_grpo --method t_grpo "$@"
