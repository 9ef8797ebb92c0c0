#!/usr/bin/env bash
# Table 2, "w/o Temporal Reversal". Paper: 50.7.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run no_reverse --no-reverse "$@"
