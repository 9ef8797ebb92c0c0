"""One row per RL method: its second view of a question, how its rollouts are paid, how its rewards are pooled.

Adding a method = one row in METHODS and one pure reward function. The math comes from `rewards.py` and `advantage.py`;
this file only applies it to the branches of one question. K branches (0 original, 1 second view), G rollouts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

import rewards
import transforms
from advantage import crpo_advantages, group_advantages, pooled_advantages
from episode import Question
from tasks import TASKS, counterfactual_golds
from verifiers import Facts


@dataclass(frozen=True)
class MethodSettings:
    """What the rows below may depend on (see config.py for each)."""

    rollouts: int = 8
    transforms: tuple[str, ...] = transforms.COUNTERFACTUALS
    """Counterfactual transforms that may be drawn."""
    lambda_d: float = 0.3
    lambda_s: float = 0.3
    w_aug: float = 0.5
    use_crr: bool = True
    use_behave: bool = True
    invalid_counts_as_change: bool = False
    temporal_bonus: float = 0.3
    temporal_threshold: float = 1.0
    shuffled_rollouts: int = 8
    length_bonus: float = 0.0
    arrow_alpha: float = 0.25
    arrow_as_printed: bool = False
    arrow_greedy: bool = False

    def without_auxiliary(self) -> MethodSettings:
        """The same method without the term that App. F says cancels: what its advantages are held against."""
        return replace(self, use_crr=False, temporal_bonus=0.0, length_bonus=0.0, arrow_alpha=0.0)


@dataclass(frozen=True)
class Look:
    """How a method looks at a question once more (or, for the original branch, first)."""

    transform: str
    """Name in transforms.TRANSFORMS."""
    rollouts: int
    trained: bool
    """Whether this branch gives policy gradient."""
    greedy: bool = False
    gold: str | None = None
    """The right answer on this look where it is another known one; None: the question's own."""


@dataclass(frozen=True)
class Outcome:
    """What is known of one branch's rollouts once they are verified."""

    facts: list[Facts]
    lengths: list[int]
    """Completion tokens, the end token included."""
    even_share: list[float]
    """Share of even token ids, what --scripted-reward pays for."""
    gold: str | None = None
    """What these rollouts were held against: the look's gold, else the question's."""

    @property
    def answers(self) -> list[str | None]:
        return [fact.answer for fact in self.facts]

    @property
    def well_formed(self) -> list[bool]:
        return [fact.well_formed for fact in self.facts]


@dataclass(frozen=True)
class Paid:
    """One branch's rewards, and each term by its paper name (before w_aug), all (G,)."""

    rewards: torch.Tensor | None
    """None for a branch that only shapes the other's rewards: it joins no pool."""
    terms: dict[str, torch.Tensor]
    missing: torch.Tensor | None = None
    """bool (G,): rollouts that could not be paid (a judge that is down, not an answer that is wrong). Their reward
    is written as 0; they join no mean and no deviation of their group, their advantage is 0. None: there is none."""


@dataclass(frozen=True)
class Method:
    second: Callable[[Question, random.Random, MethodSettings], Look | None]
    """None: this question has one branch."""
    pay: Callable[[Question, Sequence[Outcome], MethodSettings], list[Paid]]
    """Outcomes of the branches, one or two -> their rewards."""
    joint: bool = False
    """Whether `--std-scope joint` pools a question's branches (CRPO, Sec. 3)."""


# -- second views ------------------------------------------------------------------------------------------------------


def no_second(question: Question, rng: random.Random, settings: MethodSettings) -> None:
    """GRPO."""


def counterfactual(question: Question, rng: random.Random, settings: MethodSettings) -> Look | None:
    """CRPO: the router's task type chooses (Sec. 3); text, images and unrouted videos train single-branch.

    With w_aug = 0 ("w/o Counterfactual Branch") it is still sampled, for R_CRR, but gives no gradient. A type of
    `tasks.TASKS` needs no router: it takes the transforms under which its right answer is known.
    """
    if question.data_type != "video":
        return None
    trained = settings.w_aug != 0
    if question.problem_type in TASKS:
        golds = counterfactual_golds(question, settings.transforms)
        transform = rng.choice(list(golds)) if golds else None
        return transform and Look(transform, settings.rollouts, trained, gold=golds[transform])
    transform = transforms.choose(question.task_type, rng, allowed=settings.transforms, named=question.transforms)
    return transform and Look(transform, settings.rollouts, trained)


def augmented(question: Question, rng: random.Random, settings: MethodSettings) -> Look | None:
    """Standard augmentation (App. E): CRPO's views, always trained, with the original label."""
    look = counterfactual(question, rng, replace(settings, w_aug=1.0))
    return look and replace(look, gold=None)


def shuffled(question: Question, rng: random.Random, settings: MethodSettings) -> Look | None:
    """T-GRPO: every video once more with its frames in random order."""
    if question.data_type != "video":
        return None
    return Look(transforms.FRAME_SHUFFLE, settings.shuffled_rollouts, trained=False)


def reverse_reference(question: Question, rng: random.Random, settings: MethodSettings) -> Look | None:
    """ArrowRL: one reference response on every video played backwards."""
    if question.data_type != "video":
        return None
    return Look(transforms.TEMPORAL_REVERSE, 1, trained=False, greedy=settings.arrow_greedy)


# -- rewards -----------------------------------------------------------------------------------------------------------


def pay_shared(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """What all methods pay on the original branch: correctness and format (App. B.3)."""
    original = branches[0]
    how = likeness(question) | worth(question)
    paid = rewards.grpo_rewards(original.answers, question.gold, well_formed=original.well_formed, **how)
    return [Paid(paid, shared_terms(question, original))]


def pay_grpo(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """Correctness and format, and the length bonus where the settings have one (0 in the paper's comparison)."""
    (paid,) = pay_shared(question, branches, settings)
    if not settings.length_bonus:
        return [paid]
    length = length_term(question, branches[0], settings)
    return [Paid(paid.rewards + length, paid.terms | {"length": length})]


def length_term(question: Question, branch: Outcome, settings: MethodSettings) -> torch.Tensor:
    """Video-R1's length bonus; Video-STR has one, too."""
    return rewards.length_bonus(
        branch.answers, branch.lengths, question.gold, bonus=settings.length_bonus, **likeness(question)
    )


def likeness(question: Question) -> dict:
    """How answers to this question are compared, for `rewards.py`: nothing to say where they are equal or not."""
    task = TASKS.get(question.problem_type)
    return {"similarity": partial(task.similarity, question.gold)} if task else {}


def worth(question: Question) -> dict:
    """What a full score pays, for `rewards.py`."""
    task = TASKS.get(question.problem_type)
    return {"worth": task.worth(question.gold)} if task else {}


def shared_terms(question: Question, branch: Outcome) -> dict[str, torch.Tensor]:
    """The two terms that all methods pay, and the published terms that make up the first, if it has any."""
    return {
        "correct": rewards.correctness(branch.answers, question.gold, **likeness(question)),
        "format": torch.tensor(branch.well_formed, dtype=torch.float32),
    } | named_terms(question, branch)


def named_terms(question: Question, branch: Outcome) -> dict[str, torch.Tensor]:
    """Of a type in `tasks.TASKS`: "grounded_qa/iou" and the like, each (G,)."""
    kind = question.problem_type.replace(" ", "_")
    names = branch.facts[0].terms
    return {f"{kind}/{name}": torch.tensor([fact.terms[name] for fact in branch.facts]) for name in names}


def pay_crpo(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """Eq. 1-5 over both branches; a question with one branch is plain GRPO."""
    if len(branches) == 1:
        return pay_shared(question, branches, settings)
    original, second = branches
    exact = question.problem_type in TASKS  # then what is right on the second look is known
    r = rewards.crpo_rewards(
        original.answers,
        second.answers,
        question.gold,
        dynamic=second.gold != question.gold if exact else question.dynamic,
        well_formed=original.well_formed,
        cf_well_formed=second.well_formed,
        lambda_d=settings.lambda_d,
        lambda_s=settings.lambda_s,
        w_aug=settings.w_aug,
        use_crr=settings.use_crr,
        use_behave=settings.use_behave,
        invalid_counts_as_change=settings.invalid_counts_as_change,
        cf_gold=second.gold if exact else None,
        **likeness(question),
        **worth(question),
    )
    named = named_terms(question, original)
    return [
        Paid(r.original, {"correct": r.correct, "crr_orig": r.crr_orig, "format": r.format} | named),
        Paid(r.counterfactual, {"behave": r.behave, "crr_aug": r.crr_aug, "cf_format": r.cf_format}),
    ]


def pay_augmented(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """Both views with the ORIGINAL label: wrong by construction on dynamic questions, which is App. E's point."""
    paid = pay_shared(question, branches, settings)
    for second in branches[1:]:
        (other,) = pay_shared(question, [second], settings)
        paid.append(Paid(other.rewards, {"aug_correct": other.terms["correct"], "cf_format": other.terms["format"]}))
    return paid


def pay_t_grpo(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """GRPO, the temporal bonus where the shuffled group does no better, and Video-R1's length bonus."""
    original, gold = branches[0], question.gold
    alike = likeness(question)
    length = length_term(question, original, settings)
    terms = shared_terms(question, original) | {"length": length}
    if len(branches) == 1:
        (paid,) = pay_shared(question, branches, settings)
        return [Paid(paid.rewards + length, terms)]
    mixed = branches[1].answers
    how = dict(bonus=settings.temporal_bonus, threshold=settings.temporal_threshold, **alike)
    base = dict(well_formed=original.well_formed, **worth(question))
    paid = rewards.t_grpo_rewards(original.answers, mixed, gold, **how, **base)
    terms["temporal"] = rewards.temporal_bonus(original.answers, mixed, gold, **how)
    return [Paid(paid + length, terms), Paid(None, {"shuffled_correct": rewards.correctness(mixed, gold, **alike)})]


def pay_arrow_rl(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """GRPO, and the reverse bonus against the reversed clip's one answer."""
    if len(branches) == 1:
        return pay_shared(question, branches, settings)
    original, gold = branches[0], question.gold
    (reference,) = branches[1].answers
    alike = likeness(question)
    how = dict(alpha=settings.arrow_alpha, as_printed=settings.arrow_as_printed, **alike)
    base = dict(well_formed=original.well_formed, **worth(question))
    paid = rewards.arrow_rl_rewards(original.answers, reference, gold, **how, **base)
    reverse = rewards.reverse_bonus(original.answers, reference, gold, **how)
    return [
        Paid(paid, shared_terms(question, original) | {"reverse": reverse}),
        Paid(None, {"reverse_correct": rewards.correctness([reference], gold, **alike)}),
    ]


def pay_scripted(question: Question, branches: Sequence[Outcome], settings: MethodSettings) -> list[Paid]:
    """A fixed rule on the sampled ids, whatever the answer: proves a pipeline whose model earns nothing yet."""
    return [Paid(torch.tensor(branch.even_share), {}) for branch in branches]


METHODS: dict[str, Method] = {
    "crpo": Method(counterfactual, pay_crpo, joint=True),
    "grpo": Method(no_second, pay_grpo),
    "t_grpo": Method(shuffled, pay_t_grpo),
    "arrow_rl": Method(reverse_reference, pay_arrow_rl),
    "augment": Method(augmented, pay_augmented),
}


# -- advantages --------------------------------------------------------------------------------------------------------


def advantages(
    questions: Sequence[Sequence[torch.Tensor | None]], *, joint: bool, scope: str, eps: float = 1e-4
) -> list[list[torch.Tensor | None]]:
    """Rewards (G,) of every branch of every question of the round -> advantages in the same places, None for None.

    Every group is centred by its own mean; `scope` says what shares one standard deviation: "branch" each group,
    "joint" the two branches of a question where the method's row says so (Sec. 3), "batch" the whole round (App. F).
    A counterfactual branch that w_aug = 0 silences counts with its zeros in either pool, as published.
    """
    if scope not in ("branch", "joint", "batch"):
        raise ValueError(f"scope must be branch, joint or batch; got {scope!r}")
    if scope == "batch":
        flat = [group for branches in questions for group in branches if group is not None]
        pooled = iter(pooled_advantages(flat, eps))
        return [[None if group is None else next(pooled) for group in branches] for branches in questions]
    result: list[list[torch.Tensor | None]] = []
    for branches in questions:
        if scope == "joint" and joint and len(branches) == 2:
            alike = len(branches[0]) == len(branches[1])
            result.append(list(crpo_advantages(*branches, eps)) if alike else pooled_advantages(branches, eps))
        else:
            result.append([None if group is None else group_advantages(group, eps) for group in branches])
    return result


def paid_advantages(questions: Sequence[Sequence[Paid]], *, joint: bool, scope: str) -> list[list[torch.Tensor | None]]:
    """`advantages` over the rollouts that could be paid; 0 for the others."""

    def kept(paid: Paid) -> torch.Tensor | slice:
        return slice(None) if paid.missing is None else ~paid.missing

    def whole(paid: Paid, values: torch.Tensor | None) -> torch.Tensor | None:
        if values is None:
            return None
        advantages_G = torch.zeros(len(paid.rewards))
        advantages_G[kept(paid)] = values
        return advantages_G

    rewards = [[None if b.rewards is None else b.rewards[kept(b)] for b in branches] for branches in questions]
    found = advantages(rewards, joint=joint, scope=scope)
    return [[whole(*both) for both in zip(*pair, strict=True)] for pair in zip(questions, found, strict=True)]
