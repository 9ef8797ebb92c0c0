"""How fast groups are sampled: one request for a group with its clip named, against one request for each rollout.

    python -m bench.rollout --json rollout.json                  # toy model on this machine
    python -m bench.rollout --model Qwen3-VL-4B --dtype bfloat16 --frames 32 --side 256 --completion-tokens 300

`hashed` leaves it to vLLM to tell clips apart by their pixels. Caches are dropped before each way, as after a sync.
Completions end where the model ends them, so the ways are compared by tokens a second. Medians over repetitions that
take turns.
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import transformers
import tyro

import parallel
from bench.timing import seconds_of
from data.prompts import build_prompt
from episode import Prompt, Question, View
from model import banned_ids, load_processor, resolve_checkpoint
from pictures import table
from rollout import Request, Sampling, VllmEngine
from toy.model import CHECKPOINT


@dataclass
class BenchArgs:
    """Time the sampling of groups."""

    model: str = str(CHECKPOINT)
    groups: int = 8
    rollouts: int = 8
    """G."""
    completion_tokens: int = 32
    frames: int = 8
    side: int = 64
    """Pixels of a frame's side, a multiple of 32."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    sequences: int = 256
    """Decoded at a time."""
    repeats: int = 3
    json: Path | None = None
    """Also write the numbers here."""


def random_prompt(processor, seed: int, frames: int, side: int) -> Prompt:
    pixels = torch.randint(0, 256, (frames, 3, side, side), generator=torch.Generator().manual_seed(seed))
    view = View(pixels.to(torch.uint8), "identity", 8.0, frames, tuple(range(frames)))
    question = Question(str(seed), 1, "What moves?", "video", "multiple choice", ("A. this", "B. that"), "A")
    return build_prompt(processor, question, view)


def measure(args: BenchArgs, folder: str, device: torch.device) -> dict:
    """Seconds and tokens a second of each way."""
    processor = load_processor(folder)
    prompts = [random_prompt(processor, seed, args.frames, args.side) for seed in range(args.groups)]
    engine = VllmEngine(
        folder,
        dtype=args.dtype,
        banned_ids=banned_ids(processor),
        max_tokens=args.frames * args.side**2 // 2048 + 512 + args.completion_tokens,
        max_sequences=args.sequences,
        frame_shape=(args.frames, args.side, args.side),
        sleep_level=0,
        bar=False,
    )
    group = Sampling(args.rollouts, 1.0, args.completion_tokens)
    one = replace(group, n=1)
    ways = {
        "a group, named": [Request(prompt, group, i, clip=str(i)) for i, prompt in enumerate(prompts)],
        "a group, hashed": [Request(prompt, group, i) for i, prompt in enumerate(prompts)],
        "a rollout, hashed": [
            Request(prompt, one, i * args.rollouts + k)
            for i, prompt in enumerate(prompts)
            for k in range(args.rollouts)
        ],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens = dict.fromkeys(ways, 0)
    for repeat in range(args.repeats + 1):
        for name, requests in ways.items():
            engine.drop_caches()
            outputs = []
            taken = seconds_of(lambda requests=requests, out=outputs: out.extend(engine.generate(requests)), device)
            if repeat:
                seconds[name].append(taken)
                tokens[name] = sum(len(rollout.ids) for out in outputs for rollout in out.rollouts)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        {"request for": name, "seconds": medians[name], "tokens_per_s": tokens[name] / medians[name]} for name in ways
    ]
    rate = {row["request for"]: row["tokens_per_s"] for row in rows}
    return {"ways": rows, "ratio": rate["a group, named"] / rate["a rollout, hashed"]}


def main(argv: list[str] | None = None) -> None:
    args = tyro.cli(BenchArgs, args=argv)
    transformers.logging.set_verbosity_error()
    try:
        folder = resolve_checkpoint(args.model)
    except ValueError as error:
        sys.exit(f"error: {error}")
    result = measure(args, folder, parallel.start())
    shown = [
        {n: f"{value:.3f}" if isinstance(value, float) else value for n, value in row.items()} for row in result["ways"]
    ]
    print(table(shown, list(shown[0])), f"\nratio of the first to the last: {result['ratio']:.2f}", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))
    parallel.leave()


if __name__ == "__main__":
    main()
