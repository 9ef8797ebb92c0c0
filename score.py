"""Completions -> facts -> rewards -> advantages, for a whole round at once. Phase C of `train.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from episode import Group, Question
from methods import Method, MethodSettings, Outcome, Paid, paid_advantages
from metrics import Accumulator
from parallel import gather_objects
from plan import Planned
from tasks import TASKS
from verifiers import JUDGE, Facts


@dataclass(frozen=True)
class Scorer:
    """What turns a round's answers into advantages; the same on every rank."""

    method: Method
    settings: MethodSettings
    verify: Callable[[str, Question], Facts]
    std_scope: str

    def advantages(self, paid: Sequence[Sequence[Paid]]) -> list[list[torch.Tensor | None]]:
        return paid_advantages(paid, joint=self.method.joint, scope=self.std_scope)


def score(scorer: Scorer, plan: list[Planned], groups: dict[int, Group], owned: range, numbers: Accumulator) -> None:
    """Fill rewards, advantages and terms of this engine's `groups`; add the metrics of the `owned` ones. ValueError for
    a reward that is no number.

    The branches of a question may lie on two ranks, hence the exchange: a few bytes a rollout, never a clip. All ranks
    take part.
    """
    timeouts = JUDGE.timeouts
    known = exchange(plan, {i: outcome(groups[i], scorer.verify) for i in owned}, groups)
    numbers.total("rollout/math_timeouts", JUDGE.timeouts - timeouts)
    visits: dict[tuple[int, str], list[int]] = {}
    for i, item in enumerate(plan):  # the plan is ordered by branch within a question
        visits.setdefault((item.epoch, item.question.id), []).append(i)
    indices = list(visits.values())

    def pay(settings: MethodSettings) -> list[list[Paid]]:
        return [scorer.method.pay(plan[at[0]].question, [known[i] for i in at], settings) for at in indices]

    paid, plain = pay(scorer.settings), pay(scorer.settings.without_auxiliary())
    for at, branches in zip(indices, paid, strict=True):
        for i, branch in zip(at, branches, strict=True):
            check_rewards(plan[i], branch)
    each = zip(indices, paid, scorer.advantages(paid), scorer.advantages(plain), strict=True)
    for at, branches, found, bare in each:
        for i, branch, advantage, bare_advantage in zip(at, branches, found, bare, strict=True):
            if i in groups:
                groups[i].rewards, groups[i].advantages, groups[i].terms = branch.rewards, advantage, branch.terms
                groups[i].answers = known[i].answers
            if i in owned:
                _add(numbers, groups[i])
                numbers.total("guard/missing_rewards", 0 if branch.missing is None else branch.missing.sum().item())
                if plan[i].trained:
                    numbers.add("advantage/size", advantage.abs())
                    numbers.add("advantage/without_auxiliary", bare_advantage.abs())
                    numbers.add("advantage/auxiliary_shift", (advantage - bare_advantage).abs())
        if len(at) == 1 and at[0] in owned:
            numbers.total("data/single_branch", 1)


def check_rewards(item: Planned, paid: Paid) -> None:
    """ValueError that names the question where a reward is not finite: it would spread over its whole group."""
    for name, values in {"reward": paid.rewards, **paid.terms}.items():
        if values is not None and not values.isfinite().all():
            question, bad = item.question, values.isfinite().logical_not().nonzero()[0].item()
            raise ValueError(
                f"question {question.id} (row {question.row}), branch {item.branch}: {name} of rollout {bad} is "
                f"{values[bad].item()}; every reward is a finite number, what cannot be paid belongs in Paid.missing"
            )


def outcome(group: Group, verify: Callable[[str, Question], Facts]) -> Outcome:
    """What is known of a sampled group before any reward."""
    ids = [rollout.ids for rollout in group.rollouts]
    return Outcome(
        [verify(rollout.text, group.question) for rollout in group.rollouts],
        [len(tokens) for tokens in ids],
        [sum(token % 2 == 0 for token in tokens) / max(len(tokens), 1) for tokens in ids],
        group.question.gold,
    )


def exchange(plan: list[Planned], mine: dict[int, Outcome], groups: dict[int, Group]) -> dict[int, Outcome]:
    """Every rank's outcomes by index in the plan. RuntimeError where ranks that share an engine sampled differently."""
    # hash() of integers is the same in every process
    samples = {i: hash(tuple(rollout.ids for rollout in group.rollouts)) for i, group in groups.items()}
    known: dict[int, Outcome] = {}
    first: dict[int, int] = {}
    for outcomes, sampled in gather_objects((mine, samples)):
        known |= outcomes
        for i, fingerprint in sampled.items():
            if first.setdefault(i, fingerprint) != fingerprint:
                raise RuntimeError(
                    f"question {plan[i].question.id}: ranks that share an engine sampled different completions; "
                    "tensor-parallel ranks must send the same requests in the same order"
                )
    return known


def _add(numbers: Accumulator, group: Group) -> None:
    """The metrics of one scored group."""
    side = "counterfactual" if group.branch else "original"
    question, answers = group.question, group.answers
    for name, values in group.terms.items():
        numbers.add(f"reward/{name}", values)
    if group.rewards is not None:
        numbers.add(f"reward/{side}", group.rewards)
    if group.trained:
        zero = float(group.advantages.abs().max() == 0)
        numbers.add("group/zero_advantage", zero)
        numbers.add(f"group/zero_advantage_{side}", zero)
    if "correct" in group.terms:
        numbers.add("group/all_correct", float(group.terms["correct"].min() == 1))
        numbers.add("group/all_wrong", float(group.terms["correct"].max() == 0))
    if "behave" in group.terms:
        relation = "dynamic_changed" if question.dynamic else "static_kept"
        numbers.add(f"relation/{'moved' if question.problem_type in TASKS else relation}", group.terms["behave"])
    unreadable = torch.tensor([float(answer is None) for answer in answers])
    numbers.add("rollout/unreadable_counterfactual" if group.branch else "rollout/unreadable", unreadable)
    if question.null_letter is not None:
        null = torch.tensor([float(answer == question.null_letter) for answer in answers])
        numbers.add(f"rollout/null_{side}/{question.task_type or 'unrouted'}", null)
    lengths = torch.tensor([float(len(rollout.ids)) for rollout in group.rollouts])
    numbers.add("rollout/prompt_tokens", len(group.prompt_ids))
    numbers.add("rollout/completion_tokens", lengths)
    numbers.max("rollout/completion_tokens_max", lengths)
    numbers.add("rollout/truncated", torch.tensor([float(r.finish == "length") for r in group.rollouts]))
