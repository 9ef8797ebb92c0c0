#!/usr/bin/env bash
# App. F.2: what shares one standard deviation. joint is the paper's choice, so table1_crpo.sh's run. No number given.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
for x in ${VALUES:-branch joint batch}; do
  case $x in joint) name=crpo ;; *) name=std_$x ;; esac
  run "$name" --std-scope "$x" "$@"
done
