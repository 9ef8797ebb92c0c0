#!/usr/bin/env bash
# Figure 9 left, App. D.3 sweep A: lambda_d = lambda_s, at w_aug 0.5. 0.3 is table1_crpo.sh's run, and shared with it.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
for x in ${VALUES:-0.0 0.1 0.3 0.5}; do
  case $x in 0.3) name=crpo ;; *) name=lambda_$x ;; esac
  run "$name" --lambda-d "$x" --lambda-s "$x" "$@"
done
