#!/usr/bin/env bash
# Figure 9 right, App. D.3 sweep B: w_aug, at lambda 0.3. 0.5 is table1_crpo.sh's run, 0 table2_no_counterfactual.sh's.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
for x in ${VALUES:-0.0 0.3 0.5 0.7}; do
  case $x in 0.0) name=no_counterfactual ;; 0.5) name=crpo ;; *) name=w_aug_$x ;; esac
  run "$name" --w-aug "$x" "$@"
done
