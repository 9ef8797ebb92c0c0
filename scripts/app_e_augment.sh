#!/usr/bin/env bash
# App. E: standard augmentation, the second view keeps the original label. The paper argues, and gives no number.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run augment --method augment "$@"
