"""The paper, part 1: Eq. 1-5, and the rewards of the methods CRPO is compared with (App. B.3).

Canonical answers in, rewards out. An answer is a canonical string (`verifiers.py`), or None where none could be read:
such an answer is wrong, agrees with nothing, and (unless `invalid_counts_as_change`) has not "changed" either.

G rollouts per branch. Every function is pure; every reward is a float32 tensor of shape (G,). Because Eq. 2 is gated on
o_i = o*, its comparisons o_j^T against o_i are comparisons against o*: two bits per rollout carry all of Eq. 1-5.

Answers that may be right in part (an interval, boxes) bring a `similarity` in [0, 1] in the place of I[o = o*], and
`worth`, what a full score pays: the weight of the published terms that the similarity is the mean of (VideoChat-R1 pays
grounded QA letter + IoU: similarity (letter + IoU) / 2, worth 2). With the defaults all is as the papers write it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Answers = Sequence[str | None]
Bits = Sequence[bool]
Similarity = Callable[[str, str], float]
"""(answer, gold answer) -> 0..1; 1 where they are equal."""
PASSES = 0.1  # Video-R1's code: a rollout of more accuracy than this is one that its bonuses take for correct
FELT = 0.75  # ArrowRL's gamma: a reversed answer more like gold than this says that the arrow of time is not felt


def same(answer: str, gold: str) -> float:
    """I[o = o*]."""
    return float(answer == gold)


@dataclass(frozen=True)
class CrpoRewards:
    """Both branches' rewards and the paper's terms, each (G,); the terms stand before w_aug."""

    original: torch.Tensor
    """Eq. 1."""
    counterfactual: torch.Tensor
    """Eq. 3."""
    correct: torch.Tensor
    """R_correct, the indicator in Eq. 1."""
    crr_orig: torch.Tensor
    """R_CRR^orig, Eq. 2."""
    format: torch.Tensor
    """R_format of the original branch."""
    behave: torch.Tensor
    """R_behave, Eq. 4 (logged also when `use_behave` leaves it out of the sum)."""
    crr_aug: torch.Tensor
    """R_CRR^aug, Eq. 5."""
    cf_format: torch.Tensor
    """R_format of the counterfactual branch."""


def crpo_rewards(
    answers: Answers,
    cf_answers: Answers,
    gold: str,
    *,
    dynamic: bool,
    well_formed: Bits,
    cf_well_formed: Bits,
    lambda_d: float = 0.3,
    lambda_s: float = 0.3,
    w_aug: float = 0.5,
    use_crr: bool = True,
    use_behave: bool = True,
    invalid_counts_as_change: bool = False,
    cf_gold: str | None = None,
    similarity: Similarity = same,
    worth: float = 1.0,
) -> CrpoRewards:
    """Eq. 1-5 for one question: `answers` of the original branch, `cf_answers` of the counterfactual one.

    `use_behave=False` drops the additive term of Eq. 3 and keeps it as the gate of Eq. 5 (Table 2, "w/o R_behave");
    `invalid_counts_as_change=True` is Eq. 4 to the letter, where unreadable text differs from o* and is paid.

    `cf_gold` is our extension: where the transform moves the right answer by a known map, R_behave is the similarity to
    the answer that is right on the counterfactual clip, in the place of "changed"; Eq. 3 and 5 stand as they are.
    """
    lam = (lambda_d if dynamic else lambda_s) if use_crr else 0.0
    correct = correctness(answers, gold, similarity)  # I[o_i = o*]
    if cf_gold is not None:
        behave = correctness(cf_answers, cf_gold, similarity)
    else:  # Eq. 4
        behave = torch.tensor([float(_behaves(a, gold, dynamic, invalid_counts_as_change)) for a in cf_answers])
    form, cf_form = _bits(well_formed), _bits(cf_well_formed)
    _same_group("answers", correct, "well_formed", form)
    _same_group("cf_answers", behave, "cf_well_formed", cf_form)
    crr_orig = correct * lam * behave.mean()  # Eq. 2
    crr_aug = behave * lam * correct.mean()  # Eq. 5
    return CrpoRewards(
        original=worth * (correct + crr_orig) + form,  # Eq. 1
        counterfactual=w_aug * (worth * (float(use_behave) * behave + crr_aug) + cf_form),  # Eq. 3
        correct=correct,
        crr_orig=crr_orig,
        format=form,
        behave=behave,
        crr_aug=crr_aug,
        cf_format=cf_form,
    )


def grpo_rewards(
    answers: Answers, gold: str, *, well_formed: Bits, similarity: Similarity = same, worth: float = 1.0
) -> torch.Tensor:
    """GRPO (App. B.3): R_correct + R_format; of a graded answer the published sum of its terms + R_format."""
    correct, form = correctness(answers, gold, similarity), _bits(well_formed)
    _same_group("answers", correct, "well_formed", form)
    return worth * correct + form


def t_grpo_rewards(
    answers: Answers,
    shuffled_answers: Answers,
    gold: str,
    *,
    well_formed: Bits,
    bonus: float = 0.3,
    threshold: float = 1.0,
    similarity: Similarity = same,
    worth: float = 1.0,
) -> torch.Tensor:
    """T-GRPO (App. B.3): GRPO plus `temporal_bonus`. The shuffled group is not trained on."""
    how = dict(bonus=bonus, threshold=threshold, similarity=similarity)
    extra = temporal_bonus(answers, shuffled_answers, gold, **how)
    return grpo_rewards(answers, gold, well_formed=well_formed, similarity=similarity, worth=worth) + extra


def temporal_bonus(
    answers: Answers,
    shuffled_answers: Answers,
    gold: str,
    *,
    bonus: float = 0.3,
    threshold: float = 1.0,
    similarity: Similarity = same,
) -> torch.Tensor:
    """T-GRPO's temporal reward: `bonus` on each correct rollout when p >= threshold * p_shuffled.

    The paper's fair run uses ratio 1.0; Video-R1's code 0.8.
    """
    correct, shuffled = (correctness(group, gold, similarity) for group in (answers, shuffled_answers))
    # Counts, cross-multiplied: float32 means would lose exact ties.
    earns = correct.sum().item() * len(shuffled) >= threshold * shuffled.sum().item() * len(correct)
    return bonus * float(earns) * (correct > PASSES)


def length_bonus(
    answers: Answers,
    lengths: Sequence[int],
    gold: str,
    *,
    bonus: float = 0.2,
    shortest: int = 320,
    longest: int = 512,
    similarity: Similarity = same,
) -> torch.Tensor:
    """Video-R1's length reward: `bonus` on each correct rollout of `shortest` to `longest` tokens (end token counted),
    where more than one rollout is correct. `lengths` (G,) in tokens. Off in the paper's comparison."""
    passes = (correctness(answers, gold, similarity) > PASSES).float()
    inside = torch.tensor([float(shortest <= length <= longest) for length in lengths])
    _same_group("answers", passes, "lengths", inside)
    return bonus * float(passes.sum() > 1) * passes * inside


def arrow_rl_rewards(
    answers: Answers,
    reverse_answer: str | None,
    gold: str,
    *,
    well_formed: Bits,
    alpha: float = 0.25,
    as_printed: bool = False,
    similarity: Similarity = same,
    worth: float = 1.0,
) -> torch.Tensor:
    """ArrowRL: fidelity plus `reverse_bonus`, and the format reward that all methods share."""
    extra = reverse_bonus(answers, reverse_answer, gold, alpha=alpha, as_printed=as_printed, similarity=similarity)
    return grpo_rewards(answers, gold, well_formed=well_formed, similarity=similarity, worth=worth) + extra


def reverse_bonus(
    answers: Answers,
    reverse_answer: str | None,
    gold: str,
    *,
    alpha: float = 0.25,
    as_printed: bool = False,
    similarity: Similarity = same,
) -> torch.Tensor:
    """ArrowRL's reverse reward: alpha_i * (1 - similarity(o_i, reverse answer)).

    alpha is active when the reversed clip's answer differs from gold (the question feels the arrow of time). App. B.3
    prints this condition inverted; `as_printed=True` follows the print. An unreadable reverse answer is no evidence:
    alpha 0. An unreadable rollout does differ from it, and earns alpha: the letter of the formula.
    """
    if reverse_answer is None or (similarity(reverse_answer, gold) > FELT) != as_printed:
        return torch.zeros(len(answers))
    return alpha * (1 - correctness(answers, reverse_answer, similarity))


def correctness(answers: Answers, gold: str, similarity: Similarity = same) -> torch.Tensor:
    """R_correct: I[o_i = o*], or the similarity to o*; an unreadable answer is wrong."""
    return torch.tensor([0.0 if a is None else similarity(a, gold) for a in answers])


def _behaves(answer: str | None, gold: str, dynamic: bool, invalid_counts_as_change: bool) -> bool:
    if answer is None:
        return dynamic and invalid_counts_as_change
    return (answer != gold) if dynamic else (answer == gold)


def _bits(flags: Bits) -> torch.Tensor:
    return torch.tensor([float(flag) for flag in flags])


def _same_group(name_a: str, a: torch.Tensor, name_b: str, b: torch.Tensor) -> None:
    if a.shape != b.shape or a.numel() == 0:
        raise ValueError(f"{name_a} and {name_b} must be one non-empty group; got {a.numel()} and {b.numel()} rollouts")
