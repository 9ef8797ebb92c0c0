#!/usr/bin/env bash
# Table 2, "w/o R_CRR". Paper: 51.2.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run no_crr --no-crr "$@"
