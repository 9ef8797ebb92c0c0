"""Completions -> facts -> rewards -> advantages, for a whole round at once. Phase C of `train.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from episode import Group, Question
from methods import Scored
from metrics import Accumulator
from parallel import gather_objects
from plan import Planned
from verifiers import Facts


@dataclass(frozen=True)
class GroupFacts:
    """What the other ranks need to know about one group: a few bytes a rollout, never a clip."""

    facts: list[Facts]
    even_share: torch.Tensor
    """float32 (G,): share of even token ids, what --scripted-reward pays for."""
    fingerprint: int
    """Of all sampled token ids: ranks that share an engine must have sampled the same."""


def score(
    plan: list[Planned],
    groups: dict[int, Group],
    owned: range,
    *,
    verify: Callable[[str, Question], Facts],
    reward: Callable[[Question, list[GroupFacts]], Scored],
    numbers: Accumulator,
) -> None:
    """Fill rewards, advantages and terms of this engine's `groups`; add the metrics of the `owned` ones.

    The branches of a question may lie on two ranks, hence the exchange. All ranks take part.
    """
    mine = {
        i: GroupFacts(
            [verify(rollout.text, group.question) for rollout in group.rollouts],
            torch.tensor([sum(t % 2 == 0 for t in r.ids) / max(len(r.ids), 1) for r in group.rollouts]),
            hash(tuple(rollout.ids for rollout in group.rollouts)),  # integers hash alike in every process
        )
        for i, group in groups.items()
    }
    known: dict[int, GroupFacts] = {}
    for part in gather_objects(mine):
        for i, facts in part.items():
            if i in known and known[i].fingerprint != facts.fingerprint:
                raise RuntimeError(
                    f"question {plan[i].question.id}: ranks that share an engine sampled different completions; "
                    "tensor-parallel ranks must send the same requests in the same order"
                )
            known[i] = facts
    branches: dict[tuple[int, str], list[int]] = {}
    for i, item in enumerate(plan):  # the plan is ordered by branch within a question
        branches.setdefault((item.epoch, item.question.id), []).append(i)
    for indices in branches.values():
        scored = reward(plan[indices[0]].question, [known[i] for i in indices])
        for branch, i in enumerate(indices):
            if i in groups:
                groups[i].rewards, groups[i].advantages = scored.rewards[branch], scored.advantages[branch]
                groups[i].terms = scored.terms[branch]
                groups[i].answers = [facts.answer for facts in known[i].facts]
            if i in owned:
                _add(numbers, groups[i], known[i].facts)
        if len(indices) == 1 and indices[0] in owned:
            numbers.total("data/single_branch", 1)


def _add(numbers: Accumulator, group: Group, facts: list[Facts]) -> None:
    """The metrics of one scored group."""
    side = "counterfactual" if group.branch else "original"
    numbers.add(f"reward/{side}", group.rewards)
    for name, values in group.terms.items():
        numbers.add(f"reward/{name}", values)
    if group.trained:
        zero = float(group.advantages.abs().max() == 0)
        numbers.add("group/zero_advantage", zero)
        numbers.add(f"group/zero_advantage_{side}", zero)
    if "correct" in group.terms:
        numbers.add("group/all_correct", float(group.terms["correct"].min() == 1))
        numbers.add("group/all_wrong", float(group.terms["correct"].max() == 0))
    if "behave" in group.terms:
        numbers.add(
            "relation/dynamic_changed" if group.question.dynamic else "relation/static_kept", group.terms["behave"]
        )
    unreadable = torch.tensor([float(f.answer is None) for f in facts])
    numbers.add("rollout/unreadable_counterfactual" if group.branch else "rollout/unreadable", unreadable)
    numbers.add("rollout/prompt_tokens", len(group.prompt_ids))
    numbers.add("rollout/completion_tokens", torch.tensor([float(len(r.ids)) for r in group.rollouts]))
    numbers.add("rollout/truncated", torch.tensor([float(r.finish == "length") for r in group.rollouts]))
