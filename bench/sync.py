"""How long weights take from the trainer into the engine, against a plain copy of the same bytes.

    python -m bench.sync --json sync.json
    torchrun --nproc_per_node 8 -m bench.sync --model Qwen3-VL-8B --dtype bfloat16

`copy` copies the trained tensors, whole and in the compute type, into others that are there already; `fresh copy` into
new memory. `gather` only collects them from the FSDP shards; `sync` is what a round pays, `first sync` brings the
frozen tower too. Medians over repetitions that take turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import transformers
import tyro

import parallel
from bench.timing import seconds_of
from model import load_policy, resolve_checkpoint, trainer_names
from parallel import is_main, print_main
from pictures import table
from rollout import VllmEngine
from toy.model import build_config, build_model, build_processor, build_tokenizer, save


@dataclass
class BenchArgs:
    """Time the weight sync."""

    model: str = ""
    """A checkpoint; empty = random weights of the next two sizes."""
    hidden: int = 1024
    """A multiple of 128."""
    layers: int = 8
    dtype: Literal["float32", "bfloat16"] = "float32"
    repeats: int = 5
    json: Path | None = None
    """Also write the numbers here."""


def random_checkpoint(folder: str, hidden: int, layers: int) -> str:
    """The toy's Qwen3-VL with a language model of that size."""
    tokenizer = build_tokenizer()
    config = build_config(tokenizer)
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 3 * hidden, layers
    text.num_attention_heads, text.num_key_value_heads = hidden // text.head_dim, hidden // text.head_dim // 4
    config.vision_config.out_hidden_size = hidden
    save(build_model(config), build_processor(tokenizer), folder)
    return folder


def measure(args: BenchArgs, folder: str, device: torch.device) -> dict:
    """Seconds of each way and their ratios to the copy."""
    dtype = getattr(torch, args.dtype)
    policy = load_policy(folder)
    engine = VllmEngine(
        folder,
        dtype=args.dtype,
        banned_ids=policy.banned_ids,
        max_tokens=512,
        max_sequences=8,
        frame_shape=(4, 64, 64),
        cpu_cache_mb=64,
        sleep_level=0,
    )
    parallel.shard(policy, policy.layers(), policy.frozen_modules(), device, dtype)

    def parameters(frozen: bool):
        return trainer_names(parallel.gather_parameters(policy, dtype, frozen=frozen))

    whole = [tensor.clone() for _, tensor in parameters(frozen=False)]
    others = [torch.empty_like(tensor) for tensor in whole]
    ways = {
        "copy": lambda: [there.copy_(tensor) for there, tensor in zip(others, whole, strict=True)],
        "fresh copy": lambda: [tensor.clone() for tensor in whole],
        "gather": lambda: [None for _ in parameters(frozen=False)],
        "sync": lambda: engine.sync(parameters(frozen=False)),
        "first sync": lambda: engine.sync(parameters(frozen=True)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(args.repeats + 1):
        for name, way in ways.items():
            dist.barrier()
            taken = seconds_of(way, device)
            if repeat:
                seconds[name].append(taken)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    size = sum(tensor.numel() * tensor.element_size() for tensor in whole)
    rows = [{"way": n, "seconds": s, "over_copy": s / medians["copy"]} for n, s in medians.items()]
    return {"gigabytes": size / 1e9, "tensors": len(whole), "ranks": dist.get_world_size(), "ways": rows}


def main(argv: list[str] | None = None) -> None:
    args = tyro.cli(BenchArgs, args=argv)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        folder = resolve_checkpoint(args.model) if args.model else ""
    except ValueError as error:
        sys.exit(f"error: {error}")
    device = parallel.start()
    with tempfile.TemporaryDirectory() as scratch:  # each rank its own
        result = measure(args, folder or random_checkpoint(scratch, args.hidden, args.layers), device)
    shown = [
        {"way": r["way"], "seconds": f"{r['seconds']:.4f}", "over copy": f"{r['over_copy']:.2f}"}
        for r in result["ways"]
    ]
    print_main(f"{result['gigabytes']:.3f} GB in {result['tensors']} tensors\n" + table(shown, list(shown[0])))
    if args.json is not None and is_main():
        args.json.write_text(json.dumps(result, indent=2))
    parallel.leave()


if __name__ == "__main__":
    main()
