"""pytest tests/test_methods.py -- the rows of METHODS, and what each method reduces to."""

import random

import pytest
import torch

import rewards
from advantage import group_advantages
from episode import TASK_TYPES, Question
from methods import METHODS, RewardSettings, counterfactual_view, score_crpo, score_grpo, score_scripted
from transforms import COUNTERFACTUALS, HORIZONTAL_FLIP, TEMPORAL_REVERSE
from verifiers import Facts


def question(task_type="Temporal", data_type="video", gold="A"):
    return Question("q", 1, "Which?", data_type, "multiple choice", ("A. left", "B. right"), gold, task_type=task_type)


def facts(answers, well_formed=None):
    bits = well_formed or [True] * len(answers)
    return [Facts(answer, bit, float(answer == "A")) for answer, bit in zip(answers, bits, strict=True)]


ORIGINAL = facts(["A", "A", None, "B", "A", "B", "B", "A"], [True, False, False, True, True, True, True, True])
COUNTERFACTUAL = facts(["B", "A", None, "B", "B", "B", "C", "A"], [True, True, False, True, True, False, True, True])


@pytest.mark.parametrize("task_type", [*TASK_TYPES, None])
def test_crpo_on_one_branch_is_grpo_to_the_bit(task_type):
    settings = RewardSettings(lambda_d=0.0, lambda_s=0.0)
    for chosen in (settings, RewardSettings()):
        crpo = score_crpo(question(task_type), [ORIGINAL], chosen)
        grpo = score_grpo(question(task_type), [ORIGINAL], chosen)
        assert torch.equal(crpo.rewards[0], grpo.rewards[0])
        assert torch.equal(crpo.advantages[0], grpo.advantages[0])
        assert len(crpo.rewards) == len(crpo.advantages) == len(crpo.terms) == 1


def test_crpo_with_lambda_zero_pays_the_original_branch_as_grpo_does_to_the_bit():
    settings = RewardSettings(lambda_d=0.0, lambda_s=0.0)
    crpo = score_crpo(question(), [ORIGINAL, COUNTERFACTUAL], settings)
    assert torch.equal(crpo.rewards[0], score_grpo(question(), [ORIGINAL], settings).rewards[0])


def test_grpo_is_the_formula_of_app_b3():
    scored = score_grpo(question(), [ORIGINAL], RewardSettings(advantage_eps=0.01))
    expected = torch.tensor([2.0, 1, 0, 1, 2, 1, 1, 2])
    assert torch.equal(scored.rewards[0], expected)
    assert torch.equal(scored.advantages[0], group_advantages(expected, 0.01))
    assert scored.terms[0]["correct"].tolist() == [1, 1, 0, 0, 1, 0, 0, 1]
    assert scored.terms[0]["format"].tolist() == [1, 0, 0, 1, 1, 1, 1, 1]


def test_a_zero_bonus_makes_t_grpo_grpo_to_the_bit():
    answers, bits = [f.answer for f in ORIGINAL], [f.well_formed for f in ORIGINAL]
    shuffled = [f.answer for f in COUNTERFACTUAL]
    bonus_free = rewards.t_grpo_rewards(answers, shuffled, "A", well_formed=bits, bonus=0.0)
    grpo = score_grpo(question(), [ORIGINAL], RewardSettings())
    assert torch.equal(bonus_free, grpo.rewards[0])
    assert torch.equal(group_advantages(bonus_free), grpo.advantages[0])


def test_a_single_malformed_counterfactual_rollout_gets_minus_3_62():
    cf = facts(["B"] * 8, [True] * 7 + [False])
    scored = score_crpo(question(), [facts(["A"] * 8), cf], RewardSettings())
    assert scored.advantages[0].tolist() == [0.0] * 8
    assert scored.advantages[1][-1].item() == pytest.approx(-3.62, abs=5e-3)


@pytest.mark.parametrize("task_type", TASK_TYPES)
@pytest.mark.parametrize(
    "changed",
    [
        {"lambda_d": 0.9},
        {"lambda_s": 0.9},
        {"w_aug": 0.9},
        {"use_crr": False},
        {"use_behave": False},
        {"invalid_counts_as_change": True},
    ],
)
def test_every_coefficient_reaches_equations_1_to_5(task_type, changed):
    scored = score_crpo(question(task_type), [ORIGINAL, COUNTERFACTUAL], RewardSettings(**changed))
    expected = rewards.crpo_rewards(
        [f.answer for f in ORIGINAL],
        [f.answer for f in COUNTERFACTUAL],
        "A",
        dynamic=task_type != "Static",
        well_formed=[f.well_formed for f in ORIGINAL],
        cf_well_formed=[f.well_formed for f in COUNTERFACTUAL],
        **changed,
    )
    assert torch.equal(scored.rewards[0], expected.original)
    assert torch.equal(scored.rewards[1], expected.counterfactual)
    for terms in scored.terms:
        for name, values in terms.items():
            assert torch.equal(values, getattr(expected, name))
    assert {name for terms in scored.terms for name in terms} == {
        "correct", "crr_orig", "format", "behave", "crr_aug", "cf_format",
    }  # fmt: skip


def test_advantage_eps_reaches_the_normaliser():
    small, large = (
        score_crpo(question(), [ORIGINAL, COUNTERFACTUAL], RewardSettings(advantage_eps=eps)) for eps in (1e-4, 1.0)
    )
    assert (large.advantages[0].abs() <= small.advantages[0].abs()).all()
    assert large.advantages[0].abs().max() < 0.6 * small.advantages[0].abs().max()


def test_scripted_payments_use_the_methods_normaliser():
    one, two = torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([0.2, 0.0, 0.1, 0.1])
    assert torch.equal(score_scripted([one], RewardSettings()).advantages[0], group_advantages(one))
    pair = score_scripted([one, two], RewardSettings()).advantages
    assert pair[1].abs().max() < group_advantages(two).abs().max()  # one std for both


@pytest.mark.parametrize("data_type", ["image", "text"])
def test_only_videos_have_a_counterfactual(data_type):
    assert counterfactual_view(question("Static", data_type), random.Random(0), COUNTERFACTUALS) is None


def test_an_unrouted_question_has_one_branch():
    assert counterfactual_view(question(None), random.Random(0), COUNTERFACTUALS) is None


def test_the_task_type_chooses_the_view():
    rng = random.Random(0)
    assert counterfactual_view(question("Spatial"), rng, COUNTERFACTUALS) == HORIZONTAL_FLIP
    assert counterfactual_view(question("Temporal"), rng, COUNTERFACTUALS) == TEMPORAL_REVERSE
    drawn = {counterfactual_view(question("Static"), rng, COUNTERFACTUALS) for _ in range(50)}
    assert drawn == set(COUNTERFACTUALS)
    assert counterfactual_view(question("Spatial"), rng, (TEMPORAL_REVERSE,)) is None


def test_rows():
    assert METHODS["crpo"].score is score_crpo and METHODS["crpo"].second_view is counterfactual_view
    assert METHODS["grpo"].score is score_grpo
    assert METHODS["grpo"].second_view(question(), random.Random(0), COUNTERFACTUALS) is None
    assert METHODS["crpo"].train_second(RewardSettings())
    assert not METHODS["crpo"].train_second(RewardSettings(w_aug=0.0))
