"""How fast the packed update is: prompt and clip once per group, against a padded batch with a row for each rollout.

    python -m bench.update --prompt-tokens 512 --rollouts 8 --completion-tokens 64 --json update.json
    python -m bench.update --ragged 32 128 --groups 2      # completions of 32 to 128 tokens, two groups in a pack
    python -m bench.update --size 8B --prompt-tokens 2350 --completion-tokens 300 --dtype bfloat16 --checkpointing \
        --frames 32 --height 256 --width 512               # on a GPU

Forward and backward of Eq. 6 through `update.backward`; bench/workload.py says what the naive update is. Times are
medians over repetitions that take turns, so that a busy machine slows all alike. `max_logp_diff` and `max_grad_diff`
(largest relative difference of a parameter's gradient, L2) show that both compute the same.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import tyro
from transformers import Qwen3VLForConditionalGeneration

from bench.shapes import SHAPES, Counts, Shape, build_config, count, update_flops
from bench.timing import seconds_of
from bench.workload import (
    Clip,
    NaiveBatch,
    build_policy,
    clip_for,
    join_alone,
    make_members,
    naive_batch,
    naive_update,
    packed_update,
    packs_of,
)
from episode import Group
from flops import Work
from model import EncodedPrompt, Policy, packed_tokens
from pictures import table
from update import Pack


@dataclass
class BenchArgs:
    """Time the packed update against the naive one."""

    prompt_tokens: int = 512
    """P, the clip's tokens included."""
    rollouts: int = 8
    """G."""
    completion_tokens: int = 64
    """L."""
    ragged: tuple[int, int] | None = None
    """Shortest and longest completion, drawn evenly; instead of --completion-tokens."""
    groups: int = 1
    """Groups of the update, all in one pack unless --tokens-per-pack is smaller."""
    tokens_per_pack: int = 0
    """As in train.py; 0 = one pack."""
    size: Literal["tiny", "20M", "2B", "4B", "8B"] = "20M"
    """Sizes in bench/shapes.py, random weights; the flags below override one dimension each."""
    layers: int | None = None
    hidden: int | None = None
    intermediate: int | None = None
    vocab: int | None = None
    frames: int = 0
    """Frames of the clip; 0 = as many as make half of the prompt vision tokens."""
    height: int = 128
    """Pixels of a frame, a multiple of 32."""
    width: int = 128
    """Pixels of a frame, a multiple of 32."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations."""
    checkpointing: bool = False
    """Recompute layers in the backward pass, on both sides."""
    device: str = "auto"
    """auto = the GPU where there is one."""
    packed_only: bool = False
    """Without the naive update, whose memory may be too much: no ratio, no exactness."""
    repeats: int = 5
    """Times that each way runs, after one that does not count."""
    seed: int = 0
    json: Path | None = None
    """Also write the numbers here."""


def shape_of(args: BenchArgs) -> Shape:
    """The size, with what the flags override."""
    overrides = {name: getattr(args, name) for name in ("layers", "hidden", "intermediate", "vocab")}
    return replace(SHAPES[args.size], **{name: value for name, value in overrides.items() if value is not None})


def device_of(name: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def machine(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def draw_lengths(args: BenchArgs) -> list[list[int]]:
    """Completion lengths of each group."""
    shortest, longest = args.ragged or (args.completion_tokens, args.completion_tokens)
    dice = random.Random(args.seed)
    return [[dice.randint(shortest, longest) for _ in range(args.rollouts)] for _ in range(args.groups)]


def relative_difference(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest over parameters of |got - expected| / |expected|, L2; NaN where the two hold other parameters."""
    if got.keys() != expected.keys():
        return float("nan")
    differences = [
        ((got[name].float() - value.float()).norm() / value.float().norm()).item() for name, value in expected.items()
    ]
    return max(differences)


@dataclass(frozen=True)
class Prepared:
    """One mini-batch, ready for either way."""

    policy: Policy
    hf: Qwen3VLForConditionalGeneration
    """The shipped model over the policy's parameters."""
    members: list[tuple[Group, EncodedPrompt]]
    tokens_per_pack: int
    batch: NaiveBatch
    lengths: list[list[int]]
    """Completion lengths of each group."""
    clip: Clip
    counts: Counts

    def packs(self) -> list[Pack]:
        """Made anew for each run: what an earlier pass has left in them, such as the tower's states, is not reused."""
        return packs_of(self.members, self.tokens_per_pack, self.hf.device)

    def run(self, way: str) -> torch.Tensor:
        """Gradients into the parameters; returns the log-probs (C,)."""
        if way == "packed":
            return packed_update(self.policy, self.packs())
        tower_per_rollout = way == "naive, tower per rollout"
        return naive_update(self.hf, self.policy.banned_ids, self.batch, tower_per_rollout=tower_per_rollout)

    def see(self) -> None:
        """The frozen tower alone, once per clip: what `packed` and `naive` both spend on it."""
        for pack in self.packs():
            self.policy.tower_states(pack.inputs.clips)


WAYS = ("packed", "naive", "naive, tower per rollout")


def prepare(args: BenchArgs, device: torch.device) -> Prepared:
    """ValueError where the prompt cannot hold its clip."""
    join_alone()
    shape = shape_of(args)
    policy, hf, processor = build_policy(
        shape, dtype=getattr(torch, args.dtype), device=device, checkpointing=args.checkpointing, seed=args.seed
    )
    clip = clip_for(args.prompt_tokens, args.frames, args.height, args.width)
    lengths = draw_lengths(args)
    members = make_members(
        policy, processor, prompt_tokens=args.prompt_tokens, lengths=lengths, clip=clip, seed=args.seed
    )
    tokens_per_pack = args.tokens_per_pack or sum(packed_tokens(group) for group, _ in members)
    batch = naive_batch(hf, members, packs_of(members, tokens_per_pack, device))
    counts = count(build_config(shape, processor.tokenizer))
    return Prepared(policy, hf, members, tokens_per_pack, batch, lengths, clip, counts)


def measure(args: BenchArgs) -> dict:
    """Seconds of each way, ratios, exactness, tokens and FLOPs."""
    device = device_of(args.device)
    ready = prepare(args, device)

    def gradients() -> dict[str, torch.Tensor]:
        return {name: p.grad.clone() for name, p in ready.hf.named_parameters() if p.grad is not None}

    ways, exactness = (WAYS[:1] if args.packed_only else WAYS), {}
    packed_logps, packed_gradients = ready.run("packed"), gradients()
    if not args.packed_only:
        naive_logps, naive_gradients = ready.run("naive"), gradients()
        exactness = {
            "max_logp_diff": (packed_logps - naive_logps).abs().max().item(),
            "max_grad_diff": relative_difference(packed_gradients, naive_gradients),
        }
        del naive_gradients
    del packed_gradients
    side = 8192 if device.type == "cuda" else 1024
    square = torch.randn(side, side, device=device, dtype=getattr(torch, args.dtype))
    work = {way: partial(ready.run, way) for way in ways} | {"tower": ready.see, "matmul": lambda: square @ square}
    for way in ways[2:]:
        work[way]()  # warm, as the others are by now
    wall, cpu = ({name: [] for name in work} for _ in range(2))
    for _ in range(args.repeats):
        for name, call in work.items():
            begin = time.process_time()
            wall[name].append(seconds_of(call, device))
            cpu[name].append(time.process_time() - begin)
    seconds, cpu_seconds = ({n: statistics.median(t) for n, t in times.items()} for times in (wall, cpu))
    rate = 2 * side**3 / seconds.pop("matmul")
    return exactness | ratios(seconds) | {"cpu_time": ratios(cpu_seconds)} | sizes(args, ready, seconds["packed"], rate)


def ratios(seconds: dict[str, float]) -> dict:
    """Of each way over the packed one."""
    packed, tower = seconds["packed"], seconds["tower"]
    found = {"seconds": {name: seconds[name] for name in (*WAYS, "tower") if name in seconds}}
    if "naive" in seconds:
        found["ratio"] = seconds["naive"] / packed
        found["ratio_without_tower"] = (seconds["naive"] - tower) / (packed - tower)
        found["ratio_tower_per_rollout"] = seconds["naive, tower per rollout"] / packed
    return found


def sizes(args: BenchArgs, ready: Prepared, seconds: float, rate: float) -> dict:
    """Tokens of the update, as if nothing were shared (logical) and as computed (physical), and its FLOPs. Over what a
    large product of matrices reached between the runs they are the MFU, without what is computed twice."""
    work = sum((pack.work for pack in ready.packs()), Work())
    cost = ready.counts.cost
    flops = cost.tower(work) + 3 * cost.trained(work)
    computed = update_flops(shape_of(args), cost, work, checkpointing=args.checkpointing)
    logical, physical = work.unshared_rows, work.rows
    return {
        "token_ratio": ready.batch.ids.numel() / physical,
        "logical_tokens": logical,
        "physical_tokens": physical,
        "logical_tokens_per_s": logical / seconds,
        "physical_tokens_per_s": physical / seconds,
        "flops": flops,
        "matmul_flops_per_s": rate,
        "mfu": flops / seconds / rate,
        "mfu_recomputed_too": computed / seconds / rate,
        "parameters": ready.counts.total,
        "packs": len(ready.packs()),
        "lengths": ready.lengths,
        "machine": machine(device_of(args.device)),
        "arguments": {name: value for name, value in vars(args).items() if name != "json"},
    }


def main(argv: list[str] | None = None) -> None:
    args = tyro.cli(BenchArgs, args=argv)
    try:
        result = measure(args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    rows = [
        {"way": name, "seconds": f"{seconds:.3f}", "over packed": f"{seconds / result['seconds']['packed']:.2f}"}
        for name, seconds in result["seconds"].items()
    ]
    print(table(rows, list(rows[0])))
    if not args.packed_only:
        cpu = result["cpu_time"]
        print(f"with the tower left out of both, naive {result['ratio_without_tower']:.2f} times the packed")
        print(f"in CPU time {cpu['ratio']:.2f}, without the tower {cpu['ratio_without_tower']:.2f}")
    shown = ("token_ratio", "max_logp_diff", "max_grad_diff", "logical_tokens_per_s", "physical_tokens_per_s", "mfu")
    print(", ".join(f"{name} {result[name]:.3g}" for name in shown if name in result))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
