"""What a run will need and take before a GPU is rented: memory of each, FLOPs and seconds of each phase, what fits.

    python -m bench.plan --model Qwen3-VL-8B --gpus 32 --gpu H20

Parameters are counted on the meta device. The defaults are Table 7's: 128 questions a round, each two groups of G = 8,
and 8 updates. Times are a model, FLOPs over a share of the chip's peak (`--mfu`) and bytes over a share of its
bandwidth (`--bandwidth-share`), good to perhaps a third; what bench.update measured on such a chip is the better
`--mfu`.

How memory is counted, as `parallel.shard` lays it out: float32 master weights, gradients and two AdamW moments sharded
over all GPUs; the reference sharded in float32; the frozen tower whole in bfloat16; the root unit (embedding, head,
mergers) and two layers gathered in bfloat16, with their gradients in bfloat16 and, for the reduction, in float32.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

import logprobs
from bench.shapes import SHAPES, Counts, Shape, build_config, count, grids_of, naive_work, update_flops
from flops import PEAK_TFLOPS, Work, group_work
from pictures import table
from toy.model import build_tokenizer


@dataclass(frozen=True)
class Gpu:
    """Data sheet of a chip."""

    memory_gb: float
    """1e9 bytes."""
    bandwidth_tb_s: float


GPUS = {  # NVIDIA's data sheets, SXM; their FLOP/s stand in flops.PEAK_TFLOPS
    "A100": Gpu(80, 2.04),
    "H20": Gpu(96, 4.0),
    "H100": Gpu(80, 3.35),
    "H200": Gpu(141, 4.8),
    "B200": Gpu(180, 7.7),
}
MFU = {"A100": 0.45, "H20": 0.5, "H100": 0.42, "H200": 0.42, "B200": 0.4}
"""Share of the peak that a packed update is taken to reach; a chip with little arithmetic for its bandwidth reaches
more."""
LIVE_LAYERS = 2  # FSDP gathers the next layer while one computes
LOGIT_COPIES = 3  # of a chunk at the worst moment: float32 logits and weights, bfloat16 slopes
OVERHEAD_GB = 6.0  # CUDA context, NCCL buffers, allocator


@dataclass
class PlanArgs:
    """Plan memory and time of a run."""

    model: Literal["Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen3-VL-8B"] = "Qwen3-VL-8B"
    gpus: int = 32
    gpu: Literal["A100", "H20", "H100", "H200", "B200"] = "H20"
    questions: int = 128
    """Questions of a round over all GPUs; each trains --branches groups."""
    updates: int = 8
    """Optimizer steps of a round: with one the old log-probs are the policy's own, and need no pass."""
    branches: int = 2
    """Groups of a question."""
    rollouts: int = 8
    """G."""
    prompt_tokens: int = 1400
    """P, the clip's tokens included."""
    vision_tokens: int = 1024
    """Of a prompt."""
    frames: int = 32
    completion_tokens: int = 300
    """Mean length of a completion."""
    max_completion_tokens: int = 2048
    """The longest, which decoding waits for and a pack must hold."""
    tokens_per_pack: int = 16384
    """Packed tokens of one forward pass."""
    kl_coef: float = 0.01
    """0 = no reference model."""
    engine_memory: float = 0.45
    """Share of a GPU that the awake engine may hold; asleep it gives that back."""
    mfu: float = 0.0
    """Share of the peak the update reaches; 0 = a guess for that chip."""
    bandwidth_share: float = 0.6
    """Share of the memory bandwidth that decoding and sync reach."""
    json: Path | None = None
    """Also write the numbers here."""


def check(args: PlanArgs) -> None:
    """ValueError in one line for sizes that make no plan."""
    for name in ("gpus", "questions", "updates", "branches", "rollouts", "prompt_tokens", "completion_tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be at least 1: raise it")
    if args.vision_tokens >= args.prompt_tokens:
        raise ValueError(
            f"--vision-tokens {args.vision_tokens} must be less than --prompt-tokens {args.prompt_tokens}, "
            "which counts them: lower the one or raise the other"
        )
    if args.completion_tokens > args.max_completion_tokens:
        raise ValueError(
            f"--completion-tokens {args.completion_tokens} must not exceed --max-completion-tokens "
            f"{args.max_completion_tokens}: lower the one or raise the other"
        )


def works_of(args: PlanArgs) -> tuple[Work, Work]:
    """One group: packed, and naive with the tower run once in each pass."""
    lengths, grids = [args.completion_tokens] * args.rollouts, grids_of(args.vision_tokens, args.frames)
    packed = group_work(args.prompt_tokens, lengths, grids)
    return packed, naive_work(args.prompt_tokens, lengths, grids)


# -- memory ------------------------------------------------------------------------------------------------------------


def memory_gb(args: PlanArgs, shape: Shape, counts: Counts, *, checkpointing: bool) -> dict[str, float]:
    """GB of one GPU in the update, the engine asleep."""
    layer = counts.layers / shape.layers
    root = counts.trained - counts.layers
    shards = counts.trained / args.gpus
    tokens = max(args.tokens_per_pack, args.prompt_tokens + args.rollouts * args.completion_tokens)
    if checkpointing:  # each layer's input, bfloat16, and the layer that is being recomputed
        activations = tokens * (2 * shape.hidden * shape.layers + layer_activations(shape))
    else:
        activations = tokens * layer_activations(shape) * shape.layers
    parts = {
        "master weights": 4 * shards,
        "gradients": 4 * shards,
        "AdamW": 8 * shards,
        "reference": 4 * shards if args.kl_coef > 0 else 0,
        "frozen tower": 2 * counts.frozen * (2 if args.kl_coef > 0 else 1),
        "gathered weights and gradients": (2 + 2 + 4) * (root + LIVE_LAYERS * layer),
        "activations": activations,
        "logits": 4 * LOGIT_COPIES * logprobs.CHUNK * shape.vocab,
    }
    gb = {name: size / 1e9 for name, size in parts.items()} | {"overhead": OVERHEAD_GB}
    return gb | {"total": sum(gb.values())}


def layer_activations(shape: Shape) -> int:
    """Bytes a token that a decoder layer in bfloat16 keeps for its backward pass: each norm's input in float32 and
    rounded; the products' inputs; queries, keys, values and output of the attention; four tensors of the gated MLP."""
    attention = (shape.heads + shape.kv_heads) * shape.head_dim
    return 16 * shape.hidden + (6 + 4) * attention + 8 * shape.intermediate


def generation_gb(args: PlanArgs, shape: Shape, counts: Counts) -> dict[str, float]:
    """GB of one GPU while its engine is awake; `cache` is what the engine's share leaves for keys and values."""
    trainer = 16 * counts.trained / args.gpus + 2 * counts.frozen * (2 if args.kl_coef > 0 else 1)
    if args.kl_coef > 0:
        trainer += 4 * counts.trained / args.gpus
    engine = args.engine_memory * GPUS[args.gpu].memory_gb
    weights = 2 * counts.total / 1e9
    return {
        "trainer": trainer / 1e9,
        "engine": engine,
        "engine weights": weights,
        "cache": engine - weights,
        "cache wanted": cache_bytes(args, shape) * sequences(args) / 1e9,
        "total": trainer / 1e9 + engine + OVERHEAD_GB,
    }


def cache_bytes(args: PlanArgs, shape: Shape) -> float:
    """Keys and values of one sequence, its share of the group's common prompt included."""
    tokens = args.prompt_tokens / args.rollouts + args.completion_tokens
    return 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim * tokens


def sequences(args: PlanArgs) -> int:
    """That one GPU generates in a round."""
    return math.ceil(args.questions * args.branches / args.gpus) * args.rollouts


# -- time --------------------------------------------------------------------------------------------------------------


def phases(args: PlanArgs, shape: Shape, counts: Counts, *, checkpointing: bool) -> list[dict]:
    """FLOPs (of all GPUs) and seconds of each phase of a round, packed, and the naive FLOPs beside them."""
    gpu = GPUS[args.gpu]
    rate = args.gpus * PEAK_TFLOPS[args.gpu] * 1e12 * (args.mfu or MFU[args.gpu])
    groups = args.questions * args.branches
    packed, naive = works_of(args)
    cost = counts.cost

    def trained_pass(work: Work, tower: bool) -> int:
        return groups * (cost.trained(work) + (cost.tower(work) if tower else 0))

    def row(phase: str, flops: float, naive_flops: float, seconds: float | None = None) -> dict:
        return {"phase": phase, "flops": flops, "naive_flops": naive_flops, "seconds": seconds or flops / rate}

    prompt = group_work(args.prompt_tokens, [], grids_of(args.vision_tokens, args.frames))
    # An engine, unlike the trainer, takes every row through the whole last layer.
    prompt, sampled = (replace(work, last_rows=work.rows) for work in (prompt, packed))
    prefill = groups * (cost.layers(prompt) + cost.tower(prompt))
    decode = groups * (cost.layers(sampled) - cost.layers(prompt) + cost.head_row * sampled.head_rows)
    rows = [row("generate: prompts", prefill, prefill)]  # any engine shares a prompt among the n of a request
    rows.append(row("generate: decode", decode, decode, decode_seconds(args, shape, counts)))
    tower = groups * cost.tower(packed)  # once for a clip and round; a naive pass runs its own
    rows.append(row("vision tower", tower, 0))
    if args.updates > 1:
        rows.append(row("old log-probs", trained_pass(packed, False), trained_pass(naive, True)))
    if args.kl_coef > 0:
        rows.append(row("reference log-probs", trained_pass(packed, False), trained_pass(naive, True)))
    packed_update, naive_update = (
        groups * update_flops(shape, cost, w, checkpointing=checkpointing, head_again=w is packed)
        for w in (packed, naive)
    )
    rows.append(row("update", packed_update - tower, naive_update))
    sync = 2 * 2 * counts.trained / (gpu.bandwidth_tb_s * 1e12 * args.bandwidth_share)  # bfloat16, read and written
    rows.append({"phase": "sync", "flops": 0, "naive_flops": 0, "seconds": sync})
    return rows


def decode_seconds(args: PlanArgs, shape: Shape, counts: Counts) -> float:
    """Each token of the longest completion reads the weights once, and each sequence its keys and values for as long as
    it lives; one engine a GPU, all its sequences at a time."""
    bandwidth = GPUS[args.gpu].bandwidth_tb_s * 1e12 * args.bandwidth_share
    weights = 2 * (counts.layers + shape.vocab * shape.hidden) * args.max_completion_tokens
    token = 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim
    read = sequences(args) * args.completion_tokens * (args.prompt_tokens + args.completion_tokens / 2) * token
    return (weights + read) / bandwidth


# -- report ------------------------------------------------------------------------------------------------------------


def plan(args: PlanArgs) -> dict:
    """Everything, as written to --json. ValueError for sizes that make no plan."""
    check(args)
    shape = SHAPES[args.model.removeprefix("Qwen3-VL-")]
    counts = count(build_config(shape, build_tokenizer()))
    holds = GPUS[args.gpu].memory_gb
    choices = {}
    for checkpointing in (True, False):
        memory = memory_gb(args, shape, counts, checkpointing=checkpointing)
        rows = phases(args, shape, counts, checkpointing=checkpointing)
        choices["with checkpointing" if checkpointing else "without checkpointing"] = {
            "memory_gb": memory,
            "fits": memory["total"] <= holds,
            "phases": rows,
            "seconds": sum(row["seconds"] for row in rows),
            "naive_over_packed_flops": sum(row["naive_flops"] for row in rows[2:])
            / sum(row["flops"] for row in rows[2:]),
        }
    generation = generation_gb(args, shape, counts)
    return {
        "parameters": {"total": counts.total, "trained": counts.trained, "frozen": counts.frozen},
        "choices": choices,
        "generation_gb": generation,
        "generation_fits": generation["total"] <= holds and generation["cache"] >= generation["cache wanted"],
        "packs_per_gpu": math.ceil(
            args.questions * args.branches / args.gpus * works_of(args)[0].rows / args.tokens_per_pack
        ),
        "arguments": {name: value for name, value in vars(args).items() if name != "json"},
    }


def show(result: dict, args: PlanArgs) -> None:
    parameters, holds = result["parameters"], GPUS[args.gpu].memory_gb
    print(
        f"{args.model} on {args.gpus} x {args.gpu} ({holds:.0f} GB): {parameters['total'] / 1e9:.3f} B parameters, "
        f"{parameters['trained'] / 1e9:.3f} B trained, {parameters['frozen'] / 1e9:.3f} B frozen\n"
    )
    choices = result["choices"]
    names = list(next(iter(choices.values()))["memory_gb"])
    print("GB of a GPU in the update")
    print(
        table(
            [{"part": n} | {c: choice["memory_gb"][n] for c, choice in choices.items()} for n in names],
            ["part", *choices],
        )
    )
    for name, choice in choices.items():
        rows = [
            {
                "phase": row["phase"],
                "PFLOP": row["flops"] / 1e15,
                "naive PFLOP": row["naive_flops"] / 1e15,
                "seconds": row["seconds"],
            }
            for row in choice["phases"]
        ]
        rows.append({"phase": "round"} | {key: sum(row[key] for row in rows) for key in list(rows[0])[1:]})
        print(f"\nA round {name}: {'fits' if choice['fits'] else 'DOES NOT FIT'}; trainer FLOPs naive over packed "
              f"{choice['naive_over_packed_flops']:.2f}")  # fmt: skip
        print(table(rows, list(rows[0])))
    generation, verdict = result["generation_gb"], "fits" if result["generation_fits"] else "DOES NOT FIT"
    print(
        f"\nEngine awake: {generation['total']:.1f} GB; it leaves {generation['cache']:.1f} GB for keys and values, a "
        f"round at once wants {generation['cache wanted']:.1f}: {verdict}"
    )


def main(argv: list[str] | None = None) -> None:
    args = tyro.cli(PlanArgs, args=argv)
    try:
        result = plan(args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    show(result, args)
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
