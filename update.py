"""Eq. 6 over packed groups: packs, old and reference log-probs, loss and backward.

C = completion tokens of a pack, in the order of packing.PackedRow.targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from advantage import clipped_objective, k3_kl, token_weights
from episode import Group
from metrics import Accumulator
from model import EncodedPrompt, PackedInputs, pack_groups, packed_tokens
from parallel import gather_objects, undo_fsdp_mean


@dataclass(frozen=True)
class Pack:
    """What one forward and backward of the update needs."""

    inputs: PackedInputs
    advantages: torch.Tensor
    """float32 (C,)."""
    weights: torch.Tensor
    """float32 (C,): Eq. 6's aggregation (advantage.token_weights); 0 where a token is not trained on."""
    engine_logps: torch.Tensor
    """float32 (C,)."""
    old_logps: torch.Tensor | None = None
    """float32 (C,), or None where the policy is still the one that sampled: the ratio is then exactly 1."""
    ref_logps: torch.Tensor | None = None
    """float32 (C,), or None without a KL term."""
    idle: bool = False
    """Only keeps ranks in step: no weight, no metric."""


def make_packs(
    groups: Sequence[tuple[Group, EncodedPrompt]],
    *,
    questions: int,
    tokens_per_pack: int,
    device: torch.device,
    mask_truncated: bool = False,
) -> list[Pack]:
    """Fill packs in order up to `tokens_per_pack` (one group at least). `questions`: of the mini-batch, all ranks.

    `mask_truncated`: a rollout that ran into the length limit gets no weight; G stays the denominator.
    """
    packs, taken, tokens = [], [], 0
    for group, encoded in groups:
        size = packed_tokens(group)
        if taken and tokens + size > tokens_per_pack:
            packs.append(_pack(taken, questions, device, mask_truncated))
            taken, tokens = [], 0
        taken.append((group, encoded))
        tokens += size
    return packs + ([_pack(taken, questions, device, mask_truncated)] if taken else [])


def _pack(
    taken: Sequence[tuple[Group, EncodedPrompt]], questions: int, device: torch.device, mask_truncated: bool = False
) -> Pack:
    advantages, weights, engine_logps = [], [], []
    for group, _ in taken:
        lengths = [len(rollout.ids) for rollout in group.rollouts]
        counts = [float(not (mask_truncated and rollout.finish == "length")) for rollout in group.rollouts]
        kept = torch.repeat_interleave(torch.tensor(counts), torch.tensor(lengths))
        weights.append(kept * token_weights(lengths, questions, len(lengths)))
        advantages.append(torch.repeat_interleave(group.advantages, torch.tensor(lengths)))
        engine_logps += [rollout.engine_logps for rollout in group.rollouts]
    inputs = pack_groups([group for group, _ in taken], [encoded for _, encoded in taken], device)
    return Pack(
        inputs, torch.cat(advantages).to(device), torch.cat(weights).to(device), torch.cat(engine_logps).to(device)
    )


def pack_mini_batches(
    mini_batches: Sequence[Sequence[tuple[Group, EncodedPrompt]]],
    *,
    spare: tuple[Group, EncodedPrompt],
    questions: int,
    tokens_per_pack: int,
    device: torch.device,
    mask_truncated: bool = False,
) -> list[list[Pack]]:
    """This rank's groups of each mini-batch -> packs, as many on every rank.

    `spare` (any sampled group) stands in, without weight, where this rank has fewer. `questions`: of one mini-batch,
    over all ranks. All ranks take part.
    """
    packed = [
        make_packs(
            groups, questions=questions, tokens_per_pack=tokens_per_pack, device=device, mask_truncated=mask_truncated
        )
        for groups in mini_batches
    ]
    counts = zip(*gather_objects([len(packs) for packs in packed]), strict=True)
    idle = next((packs[0] for packs in packed if packs), None)
    if idle is None:
        group, encoded = spare
        unpaid = replace(group, advantages=torch.zeros(len(group.rollouts)))  # it may be one that is never trained
        idle = _pack([(unpaid, encoded)], questions, device)
    return [keep_in_step(packs, idle, max(count)) for packs, count in zip(packed, counts, strict=True)]


def keep_in_step(packs: Sequence[Pack], spare: Pack, count: int) -> list[Pack]:
    """Fill up to `count` packs with weightless copies of `spare`: all ranks run the same number of collectives."""
    idle = replace(spare, weights=torch.zeros_like(spare.weights), idle=True)
    return [*packs, *[idle] * (count - len(packs))]


def lr_factor(update: int, updates: int, warmup: int, schedule: str) -> float:
    """Share of the peak learning rate at optimizer step `update` (from 1) of `updates`."""
    if update <= warmup:
        return update / warmup
    return 1.0 if schedule == "constant" else (updates - update + 1) / (updates - warmup)


@torch.no_grad()
def logps(model: nn.Module, packs: Sequence[Pack]) -> list[torch.Tensor]:
    """Log-probs (C,) of each pack under `model`, without gradient. All ranks take part, with as many packs each."""
    return [model(pack.inputs)[0] for pack in packs]


def backward(
    policy: nn.Module, packs: Sequence[Pack], *, clip_eps: float, kl_coef: float, numbers: Accumulator
) -> list[torch.Tensor]:
    """Accumulate the gradient of -(Eq. 6 - beta * KL) over the packs; returns the policy's log-probs (C,) of each.

    All ranks take part with the same number of packs. Adds the mini-batch's metrics to `numbers`.
    """
    policy_logps = []
    for pack in packs:
        logps_C, entropies_C = policy(pack.inputs)
        old_C = logps_C.detach() if pack.old_logps is None else pack.old_logps
        objective_C = clipped_objective(logps_C, old_C, pack.advantages, clip_eps)
        kl_C = k3_kl(logps_C, pack.ref_logps) if pack.ref_logps is not None else torch.zeros_like(logps_C)
        loss = (pack.weights * (kl_coef * kl_C - objective_C)).sum()
        undo_fsdp_mean(loss).backward()

        policy_logps.append(logps_C.detach())
        counts = pack.weights > 0
        ratio_C = torch.exp(logps_C.detach() - old_C)[counts]
        numbers.add("policy/loss", loss, 0)  # sums over packs and ranks; the caller counts the mini-batch once
        numbers.add("policy/objective", pack.weights * objective_C, 0)
        numbers.add("policy/entropy", entropies_C[counts])
        numbers.add("policy/logp_mean", logps_C[counts])
        numbers.add("policy/clip_fraction", ((ratio_C - 1).abs() > clip_eps).float())
        numbers.max("policy/ratio_max", ratio_C)
        numbers.min("policy/ratio_min", ratio_C)
        if pack.ref_logps is not None:
            numbers.add("policy/kl", kl_C[counts])
    return policy_logps


def engine_gap(packs: Sequence[Pack], policy_logps: Sequence[torch.Tensor], numbers: Accumulator) -> None:
    """|trainer - engine| log-prob per token, of the policy as it was when the engine sampled."""
    for pack, logps_C in zip(packs, policy_logps, strict=True):
        if not pack.idle:
            gap = (logps_C - pack.engine_logps).abs()
            numbers.add("policy/engine_gap_mean", gap)
            numbers.max("policy/engine_gap_max", gap)
