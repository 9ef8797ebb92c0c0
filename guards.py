"""What must hold for a run to go on: finite loss and gradient, a small trainer-engine gap. The same on every rank.

The counts live in the loop's state, so that they outlast a resume.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from exits import Exit, Halt

GAP_ROUNDS = 3
FRESH = {"skips_in_a_row": 0, "gaps_in_a_row": 0, "gap_mean_max": 0.0, "gap_max": 0.0}
"""The part of the loop's state that this file keeps."""


def all_finite(*values: torch.Tensor) -> bool:
    """Whether each value is finite on every rank; one collective on their device. All ranks take part."""
    finite = torch.stack([value.detach().isfinite().all() for value in values]).all().float()
    dist.all_reduce(finite, dist.ReduceOp.MIN)
    return bool(finite.item())


def note_update(state: dict, finite: bool, max_skips: int, where: str) -> None:
    """Count optimizer steps skipped in a row; at `max_skips` of them raise Halt. `where`: the update in words."""
    state["skips_in_a_row"] = 0 if finite else state["skips_in_a_row"] + 1
    if state["skips_in_a_row"] >= max_skips:
        raise Halt(
            Exit.NOT_FINITE,
            f"{where}: loss or gradient not finite, {state['skips_in_a_row']} optimizer steps in a row skipped "
            "(--max-skips); lower --lr, or look at samples.jsonl",
        )


def note_gap(state: dict, values: dict[str, float], limit: float, where: str) -> None:
    """Keep the largest trainer-engine gap of the run; where its mean stays above `limit` nats (0 = none) for GAP_ROUNDS
    in a row, raise Halt. NaN is larger than any; a round without a single token has none. `where`: the round in words.
    """
    if "policy/engine_gap_mean" not in values:
        return
    for kept, name in (("gap_mean_max", "policy/engine_gap_mean"), ("gap_max", "policy/engine_gap_max")):
        if not values[name] <= state[kept]:
            state[kept] = values[name]
    gap = values["policy/engine_gap_mean"]
    state["gaps_in_a_row"] = state["gaps_in_a_row"] + 1 if limit and not gap <= limit else 0
    if state["gaps_in_a_row"] >= GAP_ROUNDS:
        raise Halt(
            Exit.GAP,
            f"{where}: trainer and engine have differed by more than --gap-limit {limit} nats a token for "
            f"{GAP_ROUNDS} rounds, now by {gap:.4f}: the engine does not hold the trainer's weights, or "
            "reads other prompts; --checksum-every 1 compares every tensor",
        )
