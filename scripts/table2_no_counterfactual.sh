#!/usr/bin/env bash
# Table 2, "w/o Counterfactual Branch"; also the left end of Figure 9, right. Paper: 48.8.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run no_counterfactual --w-aug 0 "$@"
