#!/usr/bin/env bash
# Two nodes on this machine: two torchrun agents that meet on loopback, as four would on a cluster. Flags go to train.py.
#   scripts/two_nodes.sh --preset toy --max-steps 4
#   NPROC=2 scripts/two_nodes.sh --preset toy --shard-ranks 2       2 x 2: sharded within a "node", replicated across
# Kill what belongs to one agent and start that agent again (NODE=1 scripts/two_nodes.sh SAME FLAGS): both go on from the
# last checkpoint. Variables: NPROC (1) ranks a node, RESTARTS (3), PORT (29517), NODE (0 or 1: that agent alone), PYTHON.
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python}"
[ -x "$ROOT/.venv/bin/python" ] && [ "$PYTHON" = python ] && PYTHON="$ROOT/.venv/bin/python"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# torch 2.11's agents keep the address of their first meeting: one that comes back would wait for it in vain.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

agent() { # the first one hosts the meeting point; exec: a signal to the agent reaches it
  local node="$1" host=false
  shift
  [ "$node" = 0 ] && host=true
  exec "$PYTHON" -m torch.distributed.run --nnodes 2 --nproc_per_node "${NPROC:-1}" --max-restarts "${RESTARTS:-3}" \
    --rdzv-backend c10d --rdzv-endpoint "127.0.0.1:${PORT:-29517}" --rdzv-id two_nodes --rdzv-conf "is_host=$host" \
    "$ROOT/train.py" "$@"
}

[ -n "${NODE:-}" ] && agent "$NODE" "$@"
agent 0 "$@" &
first=$!
agent 1 "$@" &
second=$!
trap 'kill -TERM "$first" "$second" 2>/dev/null || true' TERM INT
code=0
wait "$first" || code=$?
wait "$second" || code=$?
exit "$code"
