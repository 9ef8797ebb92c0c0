"""One row per RL method: what its second view is, whether that is trained on, how both are scored.

Adding a method = one row in METHODS and one pure scoring function. The math comes from `rewards.py` and `advantage.py`;
this file only applies it to the groups of one question.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

import transforms
from advantage import crpo_advantages, group_advantages
from episode import Question
from rewards import crpo_rewards, grpo_rewards
from verifiers import Facts


@dataclass(frozen=True)
class RewardSettings:
    """The coefficients of Eq. 1-5 and of the normaliser (see config.py for each)."""

    lambda_d: float = 0.3
    lambda_s: float = 0.3
    w_aug: float = 0.5
    use_crr: bool = True
    use_behave: bool = True
    invalid_counts_as_change: bool = False
    advantage_eps: float = 1e-4


@dataclass(frozen=True)
class Scored:
    """Rewards and advantages of one question, one entry per branch; `terms` holds each term by its paper name."""

    rewards: list[torch.Tensor]
    """K x (G,)."""
    advantages: list[torch.Tensor]
    """K x (G,)."""
    terms: list[dict[str, torch.Tensor]]
    """K x name -> (G,), before w_aug."""


@dataclass(frozen=True)
class Method:
    second_view: Callable[[Question, object, tuple[str, ...]], str | None]
    """(question, rng, allowed transforms) -> transform of the second view, or None: this question has one branch."""
    train_second: Callable[[RewardSettings], bool]
    """Whether the second branch gives policy gradient."""
    score: Callable[[Question, list[list[Facts]], RewardSettings], Scored]
    """Facts of each branch's rollouts -> rewards and advantages; one branch where there is no second view."""


def counterfactual_view(question: Question, rng, allowed: tuple[str, ...]) -> str | None:
    """CRPO: the router's task type chooses (Sec. 3); text, images and unrouted videos train single-branch."""
    if question.data_type != "video" or question.task_type is None:
        return None
    return transforms.choose(question.task_type, rng, allowed=allowed)


def score_grpo(question: Question, branches: list[list[Facts]], settings: RewardSettings) -> Scored:
    """GRPO on the original branch."""
    facts = branches[0]
    answers, well_formed = [f.answer for f in facts], [f.well_formed for f in facts]
    rewards = grpo_rewards(answers, question.gold, well_formed=well_formed)
    form = torch.tensor(well_formed, dtype=torch.float32)
    terms = {"correct": rewards - form, "format": form}
    return Scored([rewards], [group_advantages(rewards, settings.advantage_eps)], [terms])


def score_crpo(question: Question, branches: list[list[Facts]], settings: RewardSettings) -> Scored:
    """CRPO: Eq. 1-5 over both branches and the joint standard deviation; a question with one branch is plain GRPO."""
    if len(branches) == 1:
        return score_grpo(question, branches, settings)
    original, counterfactual = branches
    r = crpo_rewards(
        [f.answer for f in original],
        [f.answer for f in counterfactual],
        question.gold,
        dynamic=question.dynamic,
        well_formed=[f.well_formed for f in original],
        cf_well_formed=[f.well_formed for f in counterfactual],
        lambda_d=settings.lambda_d,
        lambda_s=settings.lambda_s,
        w_aug=settings.w_aug,
        use_crr=settings.use_crr,
        use_behave=settings.use_behave,
        invalid_counts_as_change=settings.invalid_counts_as_change,
    )
    return Scored(
        [r.original, r.counterfactual],
        list(crpo_advantages(r.original, r.counterfactual, settings.advantage_eps)),
        [
            {"correct": r.correct, "crr_orig": r.crr_orig, "format": r.format},
            {"behave": r.behave, "crr_aug": r.crr_aug, "cf_format": r.cf_format},
        ],
    )


def score_scripted(payments: list[torch.Tensor], settings: RewardSettings) -> Scored:
    """Any payments, K x (G,), normalised as the method would: proves a pipeline whose model earns nothing yet."""
    if len(payments) == 1:
        advantages = [group_advantages(payments[0], settings.advantage_eps)]
    else:
        advantages = list(crpo_advantages(*payments, settings.advantage_eps))
    return Scored(payments, advantages, [{} for _ in payments])


METHODS: dict[str, Method] = {
    "crpo": Method(counterfactual_view, train_second=lambda settings: settings.w_aug != 0, score=score_crpo),
    "grpo": Method(lambda question, rng, allowed: None, train_second=lambda settings: False, score=score_grpo),
}
