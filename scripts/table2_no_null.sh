#!/usr/bin/env bash
# Table 2, "w/o Null Option". Paper: 50.1.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run no_null --null-option off "$@"
