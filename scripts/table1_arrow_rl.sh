#!/usr/bin/env bash
# Table 1, "ArrowRL" (App. B.3). Paper on 4B: 47.5; 8B: 52.2.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run arrow_rl --method arrow_rl "$@"
