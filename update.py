"""Eq. 6 over packed groups: packs, old and reference log-probs, loss and backward.

C = completion tokens of a pack, in the order of packing.PackedRow.targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import nn

import balance
from advantage import clipped_objective, k3_kl, token_weights
from episode import Group, Prompt, Question, Rollout
from flops import Work, group_work
from metrics import Accumulator
from model import EncodedPrompt, PackedInputs, pack_groups
from parallel import exchange_objects, gather_objects, undo_fsdp_mean


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
    work: Work = Work()
    """What one pass over it computes."""
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
    """Packs of up to `tokens_per_pack` (a prompt with one completion at least), of one rank's groups alone.

    `questions`: of the mini-batch, all ranks. `mask_truncated`: a rollout that ran into the length limit gets no
    weight; G stays the denominator.
    """
    sizes = [_size(group) for group, _ in groups]
    (packs,) = balance.deal(sizes, [(0,)] * len(sizes), ranks=1, tokens_per_pack=tokens_per_pack)
    return [
        _pack([_part(*groups[piece.group], piece) for piece in pack], questions, device, mask_truncated)
        for pack in packs
        if pack
    ]


def pack_mini_batches(
    groups: Mapping[int, tuple[Group, EncodedPrompt]],
    mini_batches: Sequence[Sequence[int]],
    *,
    questions: int,
    tokens_per_pack: int,
    device: torch.device,
    numbers: Accumulator,
    mask_truncated: bool = False,
) -> list[list[Pack]]:
    """The packs that this rank trains in each mini-batch, as many on every rank. All ranks take part.

    groups: those that this rank sampled, by their index in the plan; every rank of an engine holds the engine's.
    mini_batches: indices of the trained groups of each. They are dealt over all ranks by their tokens; what a rank does
        not hold is sent to it with the prompt's patches: 25 MB for 1,024 video tokens, packed and unpacked in 20 ms,
        where encoding the 6 MB of frames anew takes 95 ms and decoding them more.
    questions: of one mini-batch, over all ranks.
    """
    here, ranks = dist.get_rank(), dist.get_world_size()
    sizes: dict[int, tuple[int, list[int]]] = {}
    holders: dict[int, list[int]] = {}
    for rank, part in enumerate(gather_objects({i: _size(group) for i, (group, _) in groups.items()})):
        sizes |= part
        for i in part:
            holders.setdefault(i, []).append(rank)
    deals = [
        balance.deal(
            [sizes[i] for i in members],
            [holders[i] for i in members],
            ranks=ranks,
            tokens_per_pack=tokens_per_pack,
        )
        for members in mini_batches
    ]
    for deal in deals:
        loads = [sum(map(balance.load, rank)) for rank in deal]
        numbers.add("speed/imbalance", balance.imbalance(loads))
    outgoing: list[dict] = [{} for _ in range(ranks)]
    for members, deal in zip(mini_batches, deals, strict=True):
        for rank, packs in enumerate(deal):
            for piece in (piece for pack in packs for piece in pack):
                i = members[piece.group]
                if rank not in holders[i] and holders[i][rank % len(holders[i])] == here:
                    group, encoded = _part(*groups[i], piece)
                    bare = replace(group, prompt=replace(group.prompt, view=None))  # frames: the patches are enough
                    outgoing[rank][i, piece.rollouts] = bare, encoded
    received = {key: part for parts in exchange_objects(outgoing) for key, part in parts.items()}

    def taken(i: int, piece: balance.Piece) -> tuple[Group, EncodedPrompt]:
        return _part(*groups[i], piece) if i in groups else received[i, piece.rollouts]

    return [
        [
            _pack([taken(members[p.group], p) for p in pack], questions, device, mask_truncated)
            if pack
            else idle_pack(device)
            for pack in deal[here]
        ]
        for members, deal in zip(mini_batches, deals, strict=True)
    ]


def _size(group: Group) -> tuple[int, list[int]]:
    """Tokens of a group's prompt and of its completions."""
    return len(group.prompt_ids), [len(rollout.ids) for rollout in group.rollouts]


def _part(group: Group, encoded: EncodedPrompt, piece: balance.Piece) -> tuple[Group, EncodedPrompt]:
    """A group with some of its completions, which still weigh by the whole group's G."""
    if len(piece.rollouts) == len(group.rollouts):
        return group, encoded
    rollouts = [group.rollouts[k] for k in piece.rollouts]
    advantages = group.advantages[list(piece.rollouts)]
    return replace(group, rollouts=rollouts, advantages=advantages, part_of=len(group.rollouts)), encoded


def _pack(
    taken: Sequence[tuple[Group, EncodedPrompt]], questions: int, device: torch.device, mask_truncated: bool = False
) -> Pack:
    advantages, weights, engine_logps = [], [], []
    for group, _ in taken:
        lengths = [len(rollout.ids) for rollout in group.rollouts]
        counts = [float(not (mask_truncated and rollout.finish == "length")) for rollout in group.rollouts]
        kept = torch.repeat_interleave(torch.tensor(counts), torch.tensor(lengths))
        weights.append(kept * token_weights(lengths, questions, group.part_of or len(lengths)))
        advantages.append(torch.repeat_interleave(group.advantages, torch.tensor(lengths)))
        engine_logps += [rollout.engine_logps for rollout in group.rollouts]
    inputs = pack_groups([group for group, _ in taken], [encoded for _, encoded in taken], device)
    return Pack(
        inputs,
        torch.cat(advantages).to(device),
        torch.cat(weights).to(device),
        torch.cat(engine_logps).to(device),
        work=sum((_work(group, encoded) for group, encoded in taken), Work()),
    )


def _work(group: Group, encoded: EncodedPrompt) -> Work:
    grids = [grid for name, grids in encoded.vision.items() if name.endswith("grid_thw") for grid in grids.tolist()]
    return group_work(*_size(group), grids)


def idle_pack(device: torch.device) -> Pack:
    """One token of prompt and one of completion, without weight: what a rank runs while others have a pack more."""
    question, rollout = Question("", 0, "", "text", "", (), ""), Rollout((0,), torch.zeros(1), "", "stop")
    group = Group(question, 0, Prompt("", None), (0,), [rollout], advantages=torch.zeros(1))
    encoded = EncodedPrompt((0,), torch.zeros(3, 1, dtype=torch.int64), {})
    pack = _pack([(group, encoded)], 1, device)
    return replace(pack, weights=torch.zeros_like(pack.weights), work=Work(), idle=True)


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
    policy: nn.Module,
    packs: Sequence[Pack],
    *,
    clip_eps: float,
    kl_coef: float,
    numbers: Accumulator,
    importance_cap: float = 0.0,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Accumulate the gradient of -(Eq. 6 - beta * KL) over the packs; returns this rank's part of the loss, and the
    policy's log-probs (C,) of each pack.

    All ranks take part with the same number of packs. Adds the mini-batch's metrics to `numbers`.

    `importance_cap` > 0: each token's clipped objective, not its KL, weighs min(exp(old - engine log-prob), cap), since
    the engine sampled from a policy that rounds otherwise (Yao et al. 2025, truncated importance sampling).
    """
    policy_logps, losses = [], []
    for pack in packs:
        logps_C, entropies_C = policy(pack.inputs)
        old_C = logps_C.detach() if pack.old_logps is None else pack.old_logps
        objective_C = clipped_objective(logps_C, old_C, pack.advantages, clip_eps)
        if importance_cap:
            importance_C = torch.exp(old_C - pack.engine_logps)
            objective_C = importance_C.clamp(max=importance_cap) * objective_C
        kl_C = k3_kl(logps_C, pack.ref_logps) if pack.ref_logps is not None else torch.zeros_like(logps_C)
        loss = (pack.weights * (kl_coef * kl_C - objective_C)).sum()
        undo_fsdp_mean(loss).backward()

        losses.append(loss.detach())
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
        if importance_cap:
            numbers.add("policy/importance_mean", importance_C[counts].clamp(max=importance_cap))
            numbers.add("policy/importance_truncated", (importance_C[counts] > importance_cap).float())
        if pack.ref_logps is not None:
            numbers.add("policy/kl", kl_C[counts])
    return torch.stack(losses).sum(), policy_logps


def engine_gap(packs: Sequence[Pack], policy_logps: Sequence[torch.Tensor], numbers: Accumulator) -> None:
    """|trainer - engine| log-prob per token, of the policy as it was when the engine sampled."""
    for pack, logps_C in zip(packs, policy_logps, strict=True):
        if not pack.idle:
            gap = (logps_C - pack.engine_logps).abs()
            numbers.add("policy/engine_gap_mean", gap)
            numbers.max("policy/engine_gap_max", gap)
