"""How fast benchmarks are answered: `eval.run`'s way against one request at a time, and decoding behind generation.

    python -m bench.evaluate --json evaluate.json                       # the toy's checkpoint and pairs
    python -m bench.evaluate --model DIR --pairs FILE --data-root D     # further flags are those of eval.run

Three ways through one engine and the same decoding processes: a question decoded, then asked, then the next; chunks of
questions, each decoded before it is asked; and the same with the next chunk decoded meanwhile, which is what eval.run
does. The engine's caches are dropped between them. Times are medians over repetitions that take turns, so that a busy
machine slows all alike.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import transformers
import tyro

import config
import parallel
from eval.answer import in_chunks
from eval.jobs import Task, load_pairs
from eval.predictions import Prompts, build
from eval.settings import BenchmarkArgs
from model import resolve_checkpoint
from pictures import table
from rollout import Request, Sampling


@dataclass
class BenchArgs:
    """Time the answering of pairs."""

    json: Path | None = None
    """Also write the numbers here."""
    repeats: int = 2
    """Times that each way answers every question."""
    toy_pairs: int = 8
    """Pairs of each of the toy world's four sub-tasks, where no --pairs are given."""


class Waiting(Prompts):
    """Notes how long a prompt waited for its clip."""

    seconds = 0.0

    def _view(self, question):
        begin = time.perf_counter()
        try:
            return super()._view(question)
        finally:
            self.seconds += time.perf_counter() - begin


def one_by_one(engine, tasks: Sequence[Task], prompts: Prompts, request: Callable) -> list:
    """What an evaluation loop does that knows nothing of batches."""
    return [engine.generate([request(task, prompts.prompt(task))])[0].rollouts for task in tasks]


def chunked(engine, tasks: Sequence[Task], prompts: Prompts, request: Callable, *, chunk: int, ahead: bool) -> list:
    """`eval.run`'s way; without `ahead` a chunk's clips are first looked for when it is asked."""
    how = dict(title="", chunk=chunk) | (dict(ahead=prompts.ahead) if ahead else {})
    chunks = in_chunks(engine, tasks, prompts.prompt, request, **how)
    return [answered.rollouts for some in chunks for answered in some]


def measure(args: BenchmarkArgs, bench: BenchArgs) -> dict:
    """Seconds, questions a second and waiting for clips of each way, and the ratios."""
    folder = resolve_checkpoint(args.model)
    engine, processor = build(args, folder, parallel.start())
    sampling = Sampling(n=1, temperature=0.0, max_tokens=args.max_completion_tokens)
    tasks = [Task("pairs", "identity", item) for item in load_pairs(args).items]
    common = dict(request=lambda _, prompt: Request(prompt, sampling, seed=0))
    ways = {
        "one by one": (one_by_one, {}),
        "chunks": (chunked, dict(chunk=args.chunk, ahead=False)),
        "eval.run": (chunked, dict(chunk=args.chunk, ahead=True)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    waited: dict[str, list[float]] = {name: [] for name in ways}
    replies = {}
    prompts = Waiting(args, processor)
    with prompts.clips:
        one_by_one(engine, tasks[:2], prompts, **common)  # workers started, kernels built
        for _ in range(bench.repeats):
            for name, (way, how) in ways.items():
                engine.drop_caches()
                prompts.seconds, begin = 0.0, time.perf_counter()
                out = way(engine, tasks, prompts, **common, **how)
                seconds[name].append(time.perf_counter() - begin)
                waited[name].append(prompts.seconds)
                replies[name] = [rollouts[0].text for rollouts in out]
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        {
            "way": name,
            "questions": len(tasks),
            "seconds": medians[name],
            "questions_per_second": len(tasks) / medians[name],
            "waited_for_clips": statistics.median(waited[name]),
        }
        for name in ways
    ]
    same = sum(a == b for a, b in zip(replies["one by one"], replies["eval.run"], strict=True))
    return {
        "ways": rows,
        "ratio": medians["one by one"] / medians["eval.run"],
        "ratio_of_decoding_ahead": medians["chunks"] / medians["eval.run"],
        "same_replies": same / len(tasks),
    }


def main(argv: list[str] | None = None) -> None:
    bench, rest = tyro.cli(BenchArgs, args=argv, return_unknown_args=True)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        if not any(word.startswith("--pairs") for word in rest):
            from toy.world import write_world  # only where it is asked for

            write_world(folder, train=0, pairs=bench.toy_pairs)
            toy = ["--preset", "toy", "--model", "toy/warm_start_checkpoint", "--pairs", f"{folder}/eval.jsonl"]
            rest = [*toy, "--chunk", "32", *rest]
        result = measure(config.parse(rest, BenchmarkArgs), bench)
    shown = [
        {name: f"{value:.2f}" if isinstance(value, float) else value for name, value in row.items()}
        for row in result["ways"]
    ]
    print(table(shown, list(shown[0])))
    print(", ".join(f"{name} {value:.2f}" for name, value in result.items() if name != "ways"))
    if bench.json is not None:
        bench.json.write_text(json.dumps(result, indent=2))
    sys.stdout.flush()
    parallel.leave()


if __name__ == "__main__":
    main()
