#!/usr/bin/env bash
# T-GRPO with its authors' own settings. Spelled out, for --preset video-r1 and --preset toy exclude each other.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
run t_grpo_video_r1 --method t_grpo --temporal-threshold 0.8 --shuffled-share 0.5 --length-bonus 0.2 "$@"
