#!/usr/bin/env bash
# Checks a machine's GPU path from attention kernels to benchmarks and two whole rounds; prints one table, exits non-zero
# on a failure. Needs no network; parts that need vLLM are skipped without it.
#   bash scripts/gpu_check.sh                                  everything, at Qwen3-VL-4B size with random weights
#   bash scripts/gpu_check.sh --only flex sleep1                some parts; --help lists them
#   bash scripts/gpu_check.sh --budget-s 530 --only tests fsdp bench_update bench_update_8b bench_mfu bench_memory sleep1
#                                                              GPU tests and benchmarks within nine minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false VLLM_LOGGING_LEVEL="${VLLM_LOGGING_LEVEL:-WARNING}"
PYTHON="${PYTHON:-python}"
[ -x .venv/bin/python ] && [ "$PYTHON" = python ] && PYTHON=.venv/bin/python
exec "$PYTHON" scripts/gpu_check.py "$@"
