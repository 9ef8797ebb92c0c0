#!/usr/bin/env bash
# Table 2, "w/o Spatial Flip". Paper: 53.2.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run no_flip --no-flip "$@"
