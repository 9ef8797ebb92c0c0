"""pytest tests/test_rewards.py -- Eq. 1-5 against a slow reading of the paper, and the baselines' rewards by hand."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import arrow_rl_rewards, crpo_rewards, grpo_rewards, t_grpo_rewards

GOLD = "A"
ANSWERS = st.sampled_from(["A", "B", "C", None])
TERMS = ("original", "counterfactual", "correct", "crr_orig", "format", "behave", "crr_aug", "cf_format")


def equal(a, b):
    """An unreadable answer equals nothing, not even another one."""
    return a is not None and b is not None and a == b


def differs(a, b, literal):
    """I[a != b] where a is the counterfactual answer: an unreadable one differs only if taken to the letter."""
    if a is None:
        return literal
    return a != b


def slow_rewards(
    o, o_T, f, f_T, *, dynamic, lambda_d, lambda_s, w_aug, use_crr=True, use_behave=True, invalid_counts_as_change=False
):
    """Eq. 1-5 as printed: every sum written out, o_j^T compared with o_i and not with gold in Eq. 2."""
    G, literal = len(o), invalid_counts_as_change
    lambda_ = (lambda_d if dynamic else lambda_s) if use_crr else 0.0
    out = {name: [] for name in TERMS}
    for i in range(G):
        correct = 1.0 if equal(o[i], GOLD) else 0.0
        total = 0.0
        for j in range(G):
            total += 1.0 if (differs(o_T[j], o[i], literal) if dynamic else equal(o_T[j], o[i])) else 0.0
        crr_orig = correct * lambda_ / G * total  # Eq. 2
        out["correct"].append(correct)
        out["crr_orig"].append(crr_orig)
        out["format"].append(1.0 if f[i] else 0.0)
        out["original"].append(correct + crr_orig + out["format"][i])  # Eq. 1
    for j in range(G):
        behave = 1.0 if (differs(o_T[j], GOLD, literal) if dynamic else equal(o_T[j], GOLD)) else 0.0  # Eq. 4
        total = 0.0
        for k in range(G):
            total += 1.0 if equal(o[k], GOLD) else 0.0
        crr_aug = behave * lambda_ / G * total  # Eq. 5
        out["behave"].append(behave)
        out["crr_aug"].append(crr_aug)
        out["cf_format"].append(1.0 if f_T[j] else 0.0)
        added = behave if use_behave else 0.0
        out["counterfactual"].append(w_aug * (added + crr_aug + out["cf_format"][j]))  # Eq. 3
    return out


@st.composite
def questions(draw):
    G = draw(st.integers(1, 9))
    group = st.lists(ANSWERS, min_size=G, max_size=G)
    bits = st.lists(st.booleans(), min_size=G, max_size=G)
    weight = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 1.0])
    options = {
        "dynamic": st.booleans(),
        "lambda_d": weight,
        "lambda_s": weight,
        "w_aug": weight,
        "use_crr": st.booleans(),
        "use_behave": st.booleans(),
        "invalid_counts_as_change": st.booleans(),
    }
    return draw(group), draw(group), draw(bits), draw(bits), draw(st.fixed_dictionaries(options))


@given(questions())
@settings(max_examples=300, deadline=None)
def test_equations_1_to_5_equal_the_slow_loop(case):
    answers, cf_answers, well_formed, cf_well_formed, options = case
    got = crpo_rewards(answers, cf_answers, GOLD, well_formed=well_formed, cf_well_formed=cf_well_formed, **options)
    expected = slow_rewards(answers, cf_answers, well_formed, cf_well_formed, **options)
    for name in TERMS:
        value = getattr(got, name)
        assert value.dtype == torch.float32 and value.shape == (len(answers),)
        assert value.tolist() == pytest.approx(expected[name], abs=1e-6), name


@given(questions())
@settings(max_examples=50, deadline=None)
def test_inputs_stay_as_they_were(case):
    answers, cf_answers, well_formed, cf_well_formed, options = case
    before = copy.deepcopy(case)
    crpo_rewards(answers, cf_answers, GOLD, well_formed=well_formed, cf_well_formed=cf_well_formed, **options)
    grpo_rewards(answers, GOLD, well_formed=well_formed)
    t_grpo_rewards(answers, cf_answers, GOLD, well_formed=well_formed)
    arrow_rl_rewards(answers, cf_answers[0], GOLD, well_formed=well_formed)
    assert case == before


def crpo(answers, cf_answers, dynamic, **options):
    bits = [True] * len(answers), [True] * len(cf_answers)
    return crpo_rewards(
        answers, cf_answers, GOLD, dynamic=dynamic, well_formed=bits[0], cf_well_formed=bits[1], **options
    )


def test_papers_defaults_on_a_dynamic_question():
    """p = 2/4, q = 3/4, lambda 0.3, w_aug 0.5: R_orig = c (1 + .3 * .75) + 1, R_aug = .5 (b (1 + .3 * .5) + 1)."""
    r = crpo(["A", "A", "B", "C"], ["B", "A", "C", "B"], dynamic=True)
    torch.testing.assert_close(r.original, torch.tensor([2.225, 2.225, 1.0, 1.0]))
    torch.testing.assert_close(r.counterfactual, torch.tensor([1.075, 0.5, 1.075, 1.075]))


def test_papers_defaults_on_a_static_question():
    """The same answers, but now the one that stayed is paid: q = 1/4."""
    r = crpo(["A", "A", "B", "C"], ["B", "A", "C", "B"], dynamic=False)
    torch.testing.assert_close(r.original, torch.tensor([2.075, 2.075, 1.0, 1.0]))
    torch.testing.assert_close(r.counterfactual, torch.tensor([0.5, 1.075, 0.5, 0.5]))


def test_each_kind_of_question_reads_its_own_lambda():
    dynamic = crpo(["A", "B"], ["B", "B"], dynamic=True, lambda_d=0.2, lambda_s=0.7)
    static = crpo(["A", "B"], ["A", "A"], dynamic=False, lambda_d=0.2, lambda_s=0.7)
    torch.testing.assert_close(dynamic.crr_orig, torch.tensor([0.2, 0.0]))
    torch.testing.assert_close(static.crr_orig, torch.tensor([0.7, 0.0]))


def test_terms_stand_before_w_aug_and_crr_batch_means_coincide():
    """App. D.1: both CRR streams have the mean lambda * p * q; only the reward is scaled by w_aug."""
    r = crpo(["A", "A", "A", "B"], ["B", "A", "B", "A"], dynamic=True, w_aug=0.1)
    torch.testing.assert_close(r.crr_orig.mean(), torch.tensor(0.3 * 0.75 * 0.5))
    torch.testing.assert_close(r.crr_aug.mean(), r.crr_orig.mean())
    torch.testing.assert_close(r.counterfactual, 0.1 * (r.behave + r.crr_aug + r.cf_format))


@pytest.mark.parametrize("dynamic", [True, False])
def test_an_unreadable_answer_neither_changed_nor_stayed(dynamic):
    r = crpo([None, None], [None, None], dynamic=dynamic)
    assert r.correct.tolist() == [0.0, 0.0]
    assert r.behave.tolist() == [0.0, 0.0]


def test_the_letter_of_equation_4_pays_an_unreadable_answer_on_dynamic_questions_only():
    assert crpo(["A"], [None], dynamic=True, invalid_counts_as_change=True).behave.tolist() == [1.0]
    assert crpo(["A"], [None], dynamic=False, invalid_counts_as_change=True).behave.tolist() == [0.0]


def test_ablation_without_behave_keeps_the_gate_of_equation_5():
    """Table 2, "w/o R_behave": the additive term goes, Eq. 5 and Eq. 2 stay."""
    r = crpo(["A", "A"], ["B", "A"], dynamic=True, use_behave=False)
    torch.testing.assert_close(r.counterfactual, torch.tensor([0.5 * (0.3 + 1), 0.5]))
    torch.testing.assert_close(r.original, torch.tensor([2.15, 2.15]))
    assert r.behave.tolist() == [1.0, 0.0]


def test_ablation_without_crr_is_lambda_zero():
    without, zero = crpo(["A", "B"], ["B", "A"], True, use_crr=False), crpo(["A", "B"], ["B", "A"], True, lambda_d=0.0)
    for name in TERMS:
        assert torch.equal(getattr(without, name), getattr(zero, name))


def test_grpo_by_hand():
    r = grpo_rewards(["A", "B", None, "A"], GOLD, well_formed=[True, True, False, False])
    assert r.dtype == torch.float32 and r.tolist() == [2.0, 1.0, 0.0, 1.0]


def test_t_grpo_pays_correct_rollouts_where_order_helps_or_ties():
    """App. B.3: p >= p_shuffled; a tie is paid, and so is a question that nobody solves shuffled."""
    answers, bits = ["A", "A", "B", "B"], [True] * 4
    paid, unpaid = torch.tensor([2.3, 2.3, 1.0, 1.0]), torch.tensor([2.0, 2.0, 1.0, 1.0])
    torch.testing.assert_close(t_grpo_rewards(answers, ["A", "B", "B", "B"], GOLD, well_formed=bits), paid)
    torch.testing.assert_close(t_grpo_rewards(answers, ["A", "A", "B", "B"], GOLD, well_formed=bits), paid)
    torch.testing.assert_close(t_grpo_rewards(answers, ["A", "A", "A", "B"], GOLD, well_formed=bits), unpaid)
    torch.testing.assert_close(t_grpo_rewards(answers, [None] * 4, GOLD, well_formed=bits), paid)


def test_t_grpo_takes_another_number_of_shuffled_rollouts_and_video_r1s_ratio():
    """Video-R1: 4 shuffled beside 8 ordered, threshold 0.8: 6/8 against 4/4 is 0.75 < 0.8; 7/8 is paid."""
    bits = [True] * 8
    six, seven = ["A"] * 6 + ["B"] * 2, ["A"] * 7 + ["B"]
    assert t_grpo_rewards(six, ["A"] * 4, GOLD, well_formed=bits, threshold=0.8)[0] == 2.0
    assert t_grpo_rewards(seven, ["A"] * 4, GOLD, well_formed=bits, threshold=0.8)[0] == pytest.approx(2.3)
    assert t_grpo_rewards(seven, ["A"] * 4, GOLD, well_formed=bits)[0] == 2.0


def test_t_grpo_with_a_zero_bonus_is_grpo():
    answers, bits = ["A", "B", None, "A"], [True, False, True, True]
    assert torch.equal(
        t_grpo_rewards(answers, ["B"] * 4, GOLD, well_formed=bits, bonus=0.0),
        grpo_rewards(answers, GOLD, well_formed=bits),
    )


def test_arrow_rl_where_the_reversed_clip_answers_otherwise():
    """The original rule: correct 1 + .25, wrong and not mirroring .25, mirroring 0; plus format."""
    r = arrow_rl_rewards(["A", "C", "B", None], "B", GOLD, well_formed=[True] * 4)
    torch.testing.assert_close(r, torch.tensor([2.25, 1.25, 1.0, 1.25]))


def test_arrow_rl_where_the_reversed_clip_answers_the_same():
    r = arrow_rl_rewards(["A", "C", "B"], "A", GOLD, well_formed=[True] * 3)
    assert r.tolist() == [2.0, 1.0, 1.0]


def test_arrow_rl_as_app_b3_prints_it():
    """Inverted: active only where the reversed clip's answer IS gold, so the correct ones mirror it and get nothing."""
    same = arrow_rl_rewards(["A", "C"], "A", GOLD, well_formed=[True] * 2, as_printed=True)
    other = arrow_rl_rewards(["A", "C"], "B", GOLD, well_formed=[True] * 2, as_printed=True)
    torch.testing.assert_close(same, torch.tensor([2.0, 1.25]))
    assert other.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("as_printed", [True, False])
def test_arrow_rl_an_unreadable_reverse_answer_is_no_evidence(as_printed):
    r = arrow_rl_rewards(["A", "C", None], None, GOLD, well_formed=[True] * 3, as_printed=as_printed)
    assert r.tolist() == [2.0, 1.0, 1.0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: grpo_rewards(["A", "B"], GOLD, well_formed=[True]),
        lambda: grpo_rewards([], GOLD, well_formed=[]),
        lambda: t_grpo_rewards(["A"], ["A"], GOLD, well_formed=[True, True]),
        lambda: arrow_rl_rewards(["A"], "B", GOLD, well_formed=[True, True]),
        lambda: crpo_rewards(["A"], ["A"], GOLD, dynamic=True, well_formed=[True, True], cf_well_formed=[True]),
        lambda: crpo_rewards(["A"], ["A"], GOLD, dynamic=True, well_formed=[True], cf_well_formed=[]),
        lambda: crpo_rewards([], [], GOLD, dynamic=True, well_formed=[], cf_well_formed=[]),
    ],
)
def test_unequal_or_empty_groups_are_refused_in_one_line(call):
    with pytest.raises(ValueError, match="one non-empty group") as error:
        call()
    assert "\n" not in str(error.value)
