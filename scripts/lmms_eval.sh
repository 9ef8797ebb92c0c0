#!/usr/bin/env bash
# Evaluate a checkpoint of ours with lmms-eval (pip install lmms-eval, an environment of its own: PYTHON): 32 frames, greedy.
#   scripts/lmms_eval.sh runs/crpo/export [flags of lmms_eval]
# TASKS (videomme,mvbench,tempcompass_multi_choice,tempcompass_yes_no,tempcompass_caption_matching; newer versions also
# have timeblind), FRAMES (32), NPROC (1), WORK (runs/lmms_eval). Its tasks allow few new tokens (16 for most): a model
# that thinks first is cut off, and needs --gen_kwargs max_new_tokens=4096 and answers read by python -m eval.score.
set -euo pipefail
MODEL="${1:?usage: scripts/lmms_eval.sh MODEL_FOLDER}"
shift
PYTHON="${PYTHON:-python}" FRAMES="${FRAMES:-32}" WORK="${WORK:-runs/lmms_eval}" NPROC="${NPROC:-1}"
PARTS="tempcompass_multi_choice,tempcompass_yes_no,tempcompass_caption_matching"
exec "$PYTHON" -m accelerate.commands.launch --num_processes "$NPROC" -m lmms_eval --model qwen3_vl \
  --model_args "pretrained=$(realpath "$MODEL"),max_num_frames=$FRAMES" --tasks "${TASKS:-videomme,mvbench,$PARTS}" \
  --batch_size 1 --log_samples --output_path "$WORK" --gen_kwargs temperature=0,do_sample=False "$@"
