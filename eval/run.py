"""Ask a checkpoint about clips: benchmarks answered greedily and scored, or pass rates of rows.

    torchrun --nproc_per_node 8 -m eval.run --model DIR --benchmarks dybench timeblind --data-root D --output RUN
    python -m eval.run --model DIR --pairs pairs.jsonl --output RUN --shown identity single_frame shuffled text_only
    python -m eval.run --engine openai --base-url https://HOST/v1 --model NAME --benchmarks dybench ...
    torchrun --nproc_per_node 8 -m eval.run --model DIR --rows rows.jsonl --data-root D --output pass_rates.jsonl

This file starts and ends the program; `eval/settings.py` has the flags, `eval/predictions.py` answers benchmarks,
`eval/pass_rates.py` samples rows. Both go on where they were stopped.
Exit code: 0 done, 1 a question of a benchmark could not be asked (start again to ask it), 2 a mistake in flags or
files, in one line.
"""

from __future__ import annotations

import os
import sys

import torch.distributed as dist
import transformers

import config
import parallel
from eval import jobs, pass_rates, predictions
from eval.settings import BenchmarkArgs, PassRateArgs, check_benchmarks, check_pass_rates
from model import resolve_checkpoint
from parallel import is_main


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    of_rows = any(word.partition("=")[0] == "--rows" for word in argv)
    prepare, work = (pass_rates.prepare, pass_rates.run) if of_rows else (jobs.prepare, predictions.run)
    args = config.parse(argv, PassRateArgs if of_rows else BenchmarkArgs)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # read before the engine: vLLM overwrites it
    device = parallel.start(timeout_minutes=24 * 60)  # ranks meet at the end alone, and one may have the longer clips
    try:
        if of_rows:
            check_pass_rates(args, local_ranks)
        else:
            check_benchmarks(args, dist.get_world_size(), local_ranks)
        own = args.engine in ("vllm", "hf") or os.path.isdir(args.model)
        folder = resolve_checkpoint(args.model) if own else args.model
        job = prepare(args, folder)
    except (ValueError, OSError) as error:
        if is_main():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.excepthook = parallel.die_at_once
    parallel.leave(work(args, folder, job, device))


if __name__ == "__main__":
    main()
