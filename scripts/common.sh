# Sourced by the scripts beside it: `run NAME FLAGS` trains one row of a table into $RUNS/NAME_seed$SEED.
#   TRAIN_FILE=rows.jsonl DATA_ROOT=videos EVAL_FILE=pairs.jsonl scripts/table2_no_flip.sh
#   NPROC=2 scripts/table2_no_flip.sh --preset toy --max-steps 3
# Flags after a script's name go to train.py as they are. --preset toy brings its own model, rows and pairs: MODEL,
# TRAIN_FILE, EVAL_FILE and DATA_ROOT are then left aside. On several nodes start the same line on each of them:
#   NNODES=4 NPROC=8 RDZV_ENDPOINT=HOST:29500 MODEL=Qwen3-VL-8B TRAIN_FILE=... scripts/table1_crpo.sh
# Variables: MODEL (Qwen3-VL-4B), SEED (0), RUNS (runs/toy, or runs/ and the last part of MODEL), NPROC (the GPUs of
# this node; 2 without any), NNODES (1), RDZV_ENDPOINT, PYTHON (.venv's where there is one).
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python}"
[ -x "$ROOT/.venv/bin/python" ] && [ "$PYTHON" = python ] && PYTHON="$ROOT/.venv/bin/python"
MODEL="${MODEL:-Qwen3-VL-4B}" TRAIN_FILE="${TRAIN_FILE:-}" NNODES="${NNODES:-1}"
GPUS="$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)"
NPROC="${NPROC:-$((GPUS > 0 ? GPUS : 2))}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # torchrun's own choice, without its warning

run() {
  local name="$1_seed${SEED:-0}" runs="${RUNS:-runs/$(basename "$MODEL")}" world=() nodes=(--standalone)
  shift
  case " $* " in
    *" --preset toy "* | *" --preset=toy "*) runs="${RUNS:-runs/toy}" ;;
    *)
      world=(--model "$MODEL" ${TRAIN_FILE:+--train-file "$TRAIN_FILE"})
      world+=(${EVAL_FILE:+--eval-file "$EVAL_FILE"} ${DATA_ROOT:+--data-root "$DATA_ROOT"})
      ;;
  esac
  local flags=("${world[@]}" --run-dir "$runs/$name" --seed "${SEED:-0}" "$@")
  # torchrun would bury train.py's one line about the missing rows, or print the help once a process.
  case " ${world[*]} $* " in
    *" --help "*) exec "$PYTHON" "$ROOT/train.py" --help ;;
    *" --train-file"* | *" --preset toy "* | *" --preset=toy "*) ;;
    *) exec "$PYTHON" "$ROOT/train.py" "${flags[@]}" ;;
  esac
  if [ "$NNODES" -gt 1 ]; then
    [ -n "${RDZV_ENDPOINT:-}" ] || { echo "error: NNODES=$NNODES needs RDZV_ENDPOINT=HOST:PORT" >&2; exit 2; }
    # torch 2.11's agents keep the address of their first meeting: one that comes back would wait for it in vain.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    nodes=(--nnodes "$NNODES" --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "$name")
  fi
  echo "== $runs/$name" >&2
  "$PYTHON" -m torch.distributed.run "${nodes[@]}" --nproc_per_node "$NPROC" "$ROOT/train.py" "${flags[@]}"
}
