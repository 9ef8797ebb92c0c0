#!/usr/bin/env bash
# Table 1 and Table 2, "CRPO (Ours)"; the middle of both sweeps of Figure 9. Paper on 4B: 54.8; 8B: 58.1.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run crpo "$@"
