#!/usr/bin/env bash
# Table 2, "w/o R_behave". Paper: 52.7.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run no_behave --no-behave "$@"
