#!/usr/bin/env bash
# Evaluate a checkpoint of ours with VLMEvalKit itself: 32 frames, greedy, on the benchmarks it knows.
#   VLMEVALKIT=~/VLMEvalKit scripts/vlmevalkit.sh runs/crpo/export [flags of its run.py]
# VLMEVALKIT is a clone of github.com/open-compass/VLMEvalKit with an environment of its own (PYTHON, python); FRAMES
# (32), WORK (runs/vlmevalkit), SYSTEM_PROMPT (none; App. B.1's for a trained model), NAME (of the model in its results:
# the folder's, or that of the run around it where the folder is called export).
# CONFIG_ONLY=1 writes the model entry, WORK/NAME.json, and stops.
# Its shipped Qwen3-VL entries sample (temperature 0.7) and no shortcut of it has 32 frames, hence this entry. It is
# greedy where temperature and presence_penalty are 0; post_process takes the last \boxed{}. DyBench and TimeBlind are
# not among its datasets: python -m eval.run.
set -euo pipefail
MODEL="${1:?usage: VLMEVALKIT=CLONE scripts/vlmevalkit.sh MODEL_FOLDER}"
shift
PYTHON="${PYTHON:-python}" FRAMES="${FRAMES:-32}" WORK="${WORK:-runs/vlmevalkit}"
MODEL="$(realpath "$MODEL")"
RUN="${MODEL%/export}"
NAME="${NAME:-$(basename "$RUN")}"
mkdir -p "$WORK"
WORK="$(realpath "$WORK")"
"$PYTHON" - "$MODEL" "$NAME" "$FRAMES" >"$WORK/$NAME.json" <<'PY'
import json
import os
import sys

folder, name, frames = sys.argv[1:]
model = {
    "class": "Qwen3VLChat", "model_path": folder, "use_custom_prompt": False, "use_vllm": True,
    "do_sample": False, "temperature": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0,
    "max_new_tokens": 4096, "post_process": True, "system_prompt": os.environ.get("SYSTEM_PROMPT") or None,
}
classes = {
    "Video-MME": "VideoMME", "MVBench_MP4": "MVBench_MP4",
    "TempCompass_MCQ": "TempCompass_MCQ", "TempCompass_YorN": "TempCompass_YorN",
}
data = {key: {"class": cls, "dataset": key, "nframe": int(frames)} for key, cls in classes.items()}
print(json.dumps({"model": {name: model}, "data": data}, indent=2))
PY
[ -z "${CONFIG_ONLY:-}" ] || exit 0
cd "${VLMEVALKIT:?the folder of a clone of VLMEvalKit}"
exec "$PYTHON" run.py --config "$WORK/$NAME.json" --work-dir "$WORK" --judge exact_matching "$@"
