"""pytest tests/test_rewards.py -- Eq. 1-5 and App. B.3: by hand, and against a slow reading of the paper.

The slow reading is plain Python in float64; rewards are float32 below 4, so they may differ by a few 2**-22: 1e-6.
"""

import copy
import random
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import (
    arrow_rl_rewards,
    crpo_rewards,
    grpo_rewards,
    length_bonus,
    reverse_bonus,
    t_grpo_rewards,
    temporal_bonus,
)

GOLD = "A"
FLOAT32 = 1e-6
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


def slow_grpo(o, f):
    """App. B.3: R_correct + R_format."""
    return [(1.0 if equal(a, GOLD) else 0.0) + (1.0 if bit else 0.0) for a, bit in zip(o, f, strict=True)]


def slow_temporal(o, o_shuffled, alpha, threshold):
    """App. B.3: alpha * I[p >= threshold * p~] to each correct ordered rollout, in exact fractions."""
    p = Fraction(sum(equal(a, GOLD) for a in o), len(o))
    p_shuffled = Fraction(sum(equal(a, GOLD) for a in o_shuffled), len(o_shuffled))
    return [alpha if equal(a, GOLD) and p >= Fraction(str(threshold)) * p_shuffled else 0.0 for a in o]


def slow_length(o, lengths, bonus):
    """Video-R1: correct rollouts of 320 to 512 tokens, where more than one rollout is correct."""
    several = sum(equal(a, GOLD) for a in o) > 1
    return [bonus if several and equal(a, GOLD) and 320 <= n <= 512 else 0.0 for a, n in zip(o, lengths, strict=True)]


def slow_reverse(o, o_reverse, alpha, as_printed):
    """alpha_i * (1 - I[o_i = o~]); alpha_i = alpha where o~ != o* (ArrowRL), or where o~ = o* (as App. B.3 prints)."""
    if o_reverse is None:
        return [0.0] * len(o)
    active = equal(o_reverse, GOLD) if as_printed else not equal(o_reverse, GOLD)
    return [alpha * (1.0 - (1.0 if equal(a, o_reverse) else 0.0)) if active else 0.0 for a in o]


def random_group(rng, G):
    """Answers of a policy that is right with a probability of its own, so that all-right and all-wrong groups occur."""
    right = rng.choice([0.0, 0.2, 0.5, 0.8, 1.0])
    return [GOLD if rng.random() < right else rng.choice(["B", "B", "C", None]) for _ in range(G)]


def random_bits(rng, G):
    ok = rng.choice([1.0, 0.7])
    return [rng.random() < ok for _ in range(G)]


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


def test_equations_1_to_5_equal_the_slow_loop_on_1000_random_groups():
    rng = random.Random(0)
    for _ in range(1000):
        G = rng.randint(1, 9)
        o, o_T, f, f_T = random_group(rng, G), random_group(rng, G), random_bits(rng, G), random_bits(rng, G)
        options = {
            name: rng.random() < 0.5 for name in ("dynamic", "use_crr", "use_behave", "invalid_counts_as_change")
        }
        options |= {name: rng.choice([0.0, 0.1, 0.3, 0.5, 1.0]) for name in ("lambda_d", "lambda_s", "w_aug")}
        got = crpo_rewards(o, o_T, GOLD, well_formed=f, cf_well_formed=f_T, **options)
        expected = slow_rewards(o, o_T, f, f_T, **options)
        for name in TERMS:
            value = getattr(got, name)
            assert value.dtype == torch.float32 and value.shape == (G,)
            assert value.tolist() == pytest.approx(expected[name], abs=FLOAT32), (name, o, o_T, options)


def test_each_baseline_equals_the_slow_loop_on_1000_random_groups():
    rng = random.Random(1)
    for _ in range(1000):
        G = rng.randint(1, 9)
        o, f, shuffled = random_group(rng, G), random_bits(rng, G), random_group(rng, rng.randint(1, 9))
        bonus, alpha, as_printed = rng.choice([0.1, 0.3, 1.0]), rng.choice([0.25, 0.6]), rng.random() < 0.5
        reverse, lengths = rng.choice(["A", "B", "C", None]), [rng.choice([1, 319, 320, 400, 512, 513]) for _ in o]
        base = slow_grpo(o, f)
        pairs = {
            "grpo": (grpo_rewards(o, GOLD, well_formed=f), base),
            "t_grpo": (
                t_grpo_rewards(o, shuffled, GOLD, well_formed=f, bonus=bonus),
                [r + extra for r, extra in zip(base, slow_temporal(o, shuffled, bonus, 1.0), strict=True)],
            ),
            "length": (length_bonus(o, lengths, GOLD, bonus=bonus), slow_length(o, lengths, bonus)),
            "arrow_rl": (
                arrow_rl_rewards(o, reverse, GOLD, well_formed=f, alpha=alpha, as_printed=as_printed),
                [r + extra for r, extra in zip(base, slow_reverse(o, reverse, alpha, as_printed), strict=True)],
            ),
        }
        for name, (got, expected) in pairs.items():
            assert got.dtype == torch.float32 and got.shape == (G,)
            assert got.tolist() == pytest.approx(expected, abs=FLOAT32), (name, o, shuffled, reverse)


@pytest.mark.parametrize(("threshold", "shuffled"), [(1.0, 8), (0.8, 8), (0.8, 4)])
def test_the_ratio_of_t_grpo_is_compared_as_exact_fractions_at_8_rollouts(threshold, shuffled):
    """Every pair of counts, the paper's comparison and Video-R1's: no tie is lost to rounding."""
    for k in range(1, 9):
        for m in range(shuffled + 1):
            o, mixed = ["A"] * k + ["B"] * (8 - k), ["A"] * m + ["B"] * (shuffled - m)
            got = temporal_bonus(o, mixed, GOLD, threshold=threshold).tolist()
            assert got == pytest.approx(slow_temporal(o, mixed, 0.3, threshold), abs=FLOAT32), (k, m)


@given(questions())
@settings(max_examples=50, deadline=None)
def test_inputs_stay_as_they_were(case):
    answers, cf_answers, well_formed, cf_well_formed, options = case
    before, lengths = copy.deepcopy(case), [400] * len(answers)
    crpo_rewards(answers, cf_answers, GOLD, well_formed=well_formed, cf_well_formed=cf_well_formed, **options)
    grpo_rewards(answers, GOLD, well_formed=well_formed)
    t_grpo_rewards(answers, cf_answers, GOLD, well_formed=well_formed)
    arrow_rl_rewards(answers, cf_answers[0], GOLD, well_formed=well_formed)
    length_bonus(answers, lengths, GOLD)
    assert case == before and lengths == [400] * len(answers)


@given(questions(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_permuting_rollouts_permutes_every_reward(case, rng):
    """Within a branch, and the other branch does not notice."""
    o, o_T, f, f_T, options = case
    order = list(range(len(o)))
    rng.shuffle(order)

    def turned(values):
        return [values[i] for i in order]

    r = crpo_rewards(o, o_T, GOLD, well_formed=f, cf_well_formed=f_T, **options)
    first = crpo_rewards(turned(o), o_T, GOLD, well_formed=turned(f), cf_well_formed=f_T, **options)
    second = crpo_rewards(o, turned(o_T), GOLD, well_formed=f, cf_well_formed=turned(f_T), **options)
    assert torch.equal(first.original, r.original[order]) and torch.equal(first.counterfactual, r.counterfactual)
    assert torch.equal(second.counterfactual, r.counterfactual[order]) and torch.equal(second.original, r.original)
    for function, other in ((t_grpo_rewards, o_T), (arrow_rl_rewards, o_T[0])):
        one = function(o, other, GOLD, well_formed=f)
        assert torch.equal(function(turned(o), other, GOLD, well_formed=turned(f)), one[order])


def crpo(answers, cf_answers, dynamic, **options):
    bits = [True] * len(answers), [True] * len(cf_answers)
    return crpo_rewards(
        answers, cf_answers, GOLD, dynamic=dynamic, well_formed=bits[0], cf_well_formed=bits[1], **options
    )


# o = A A B C and o^T = B C A B against o* = A, format bits 1 0 1 1 and 1 1 1 0; lambda_d 0.3, lambda_s 0.2, w_aug 0.5.
# p = 2/4; on a dynamic question 3 of 4 counterfactual answers behave (are not A), on a static one 1 of 4 does (is A).
BY_HAND = [
    (True, "correct", [1, 1, 0, 0]),  # I[o_i = o*]
    (True, "crr_orig", [0.225, 0.225, 0, 0]),  # Eq. 2: 0.3 / 4 * 3 answers that differ from A, where o_i = o*
    (True, "original", [2.225, 1.225, 1, 1]),  # Eq. 1: 1 + .225 + 1, 1 + .225 + 0, 0 + 0 + 1, 0 + 0 + 1
    (True, "behave", [1, 1, 0, 1]),  # Eq. 4: B, C, B differ from A
    (True, "crr_aug", [0.15, 0.15, 0, 0.15]),  # Eq. 5: 0.3 / 4 * 2 correct originals, where behave
    (
        True,
        "counterfactual",
        [1.075, 1.075, 0.5, 0.575],
    ),  # Eq. 3: .5 (1 + .15 + 1), same, .5 (0 + 0 + 1), .5 (1.15 + 0)
    (False, "correct", [1, 1, 0, 0]),
    (False, "crr_orig", [0.05, 0.05, 0, 0]),  # Eq. 2: 0.2 / 4 * 1 answer equal to A
    (False, "original", [2.05, 1.05, 1, 1]),  # Eq. 1: 1 + .05 + 1, 1 + .05 + 0, 1, 1
    (False, "behave", [0, 0, 1, 0]),  # Eq. 4: the third is A
    (False, "crr_aug", [0, 0, 0.1, 0]),  # Eq. 5: 0.2 / 4 * 2, where behave
    (False, "counterfactual", [0.5, 0.5, 1.05, 0]),  # Eq. 3: .5 (0 + 0 + 1), same, .5 (1 + .1 + 1), .5 (0 + 0 + 0)
]


@pytest.mark.parametrize(("dynamic", "name", "expected"), BY_HAND)
def test_equations_1_to_5_by_hand(dynamic, name, expected):
    r = crpo_rewards(
        ["A", "A", "B", "C"],
        ["B", "C", "A", "B"],
        GOLD,
        dynamic=dynamic,
        well_formed=[True, False, True, True],
        cf_well_formed=[True, True, True, False],
        lambda_d=0.3,
        lambda_s=0.2,
        w_aug=0.5,
    )
    assert getattr(r, name).tolist() == pytest.approx(expected, abs=FLOAT32)


def test_the_defaults_are_those_of_table_7():
    """lambda_d = lambda_s = 0.3, w_aug = 0.5: o = A B, o^T = B B gives .5 (1 + .3 / 2 + 1), o^T = A A the same."""
    for dynamic, cf in ((True, ["B", "B"]), (False, ["A", "A"])):
        r = crpo(["A", "B"], cf, dynamic)
        assert r.crr_orig.tolist() == pytest.approx([0.3, 0.0])
        assert r.counterfactual.tolist() == pytest.approx([1.075, 1.075])


def test_each_kind_of_question_reads_its_own_lambda():
    dynamic = crpo(["A", "B"], ["B", "B"], dynamic=True, lambda_d=0.2, lambda_s=0.7)
    static = crpo(["A", "B"], ["A", "A"], dynamic=False, lambda_d=0.2, lambda_s=0.7)
    torch.testing.assert_close(dynamic.crr_orig, torch.tensor([0.2, 0.0]))
    torch.testing.assert_close(static.crr_orig, torch.tensor([0.7, 0.0]))


def test_w_aug_scales_the_reward_and_not_the_logged_terms():
    """behave = 1 0 1 0, p = 3/4: 0.1 (1 + .3 * .75 + 1) = .2225, 0.1 * 1 = .1; Fig. 7 shows terms before w_aug."""
    r = crpo(["A", "A", "A", "B"], ["B", "A", "B", "A"], dynamic=True, w_aug=0.1)
    assert r.counterfactual.tolist() == pytest.approx([0.2225, 0.1, 0.2225, 0.1], abs=FLOAT32)
    assert r.crr_aug.tolist() == pytest.approx([0.225, 0.0, 0.225, 0.0], abs=FLOAT32)


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_two_crr_means_of_a_group_are_equal_and_their_expectation_is_lambda_p_q(dynamic):
    """App. D.1, for independent branches: E[mean CRR] = lambda p q. 4,000 groups of 8, seeded.

    p-hat q-hat of a group has E[p-hat^2] E[q-hat^2] - p^2 q^2 as its variance; five standard errors may be missed once
    in two million seeds. Equality within a group is to the bit at lambda 1/4, where every product is exact.
    """
    lambda_, p, q, G, groups = 0.25, 0.6, 0.35, 8, 4000
    generator = torch.Generator().manual_seed(0)
    correct = (torch.rand(groups, G, generator=generator) < p).tolist()
    behave = (torch.rand(groups, G, generator=generator) < q).tolist()
    total = 0.0
    for c, b in zip(correct, behave, strict=True):
        r = crpo(
            ["A" if bit else "B" for bit in c],
            ["A" if bit != dynamic else "B" for bit in b],
            dynamic,
            lambda_d=lambda_,
            lambda_s=lambda_,
        )
        assert torch.equal(r.crr_orig.mean(), r.crr_aug.mean())
        total += r.crr_aug.mean().item()
    second_p, second_q = p * p + p * (1 - p) / G, q * q + q * (1 - q) / G
    standard_error = lambda_ * ((second_p * second_q - p * p * q * q) / groups) ** 0.5
    assert standard_error < 0.001  # lambda p q is 0.0525: the test can tell it from 0.05
    assert total / groups == pytest.approx(lambda_ * p * q, abs=5 * standard_error)


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


def test_the_length_bonus_of_video_r1_by_hand():
    """0.2 to correct rollouts of 320..512 tokens, both ends in; none where only one rollout is correct."""
    several = length_bonus(["A", "A", "A", "A", "B", None], [319, 320, 512, 513, 400, 400], GOLD)
    assert several.tolist() == pytest.approx([0, 0.2, 0.2, 0, 0, 0])
    assert length_bonus(["A", "B", "B"], [400, 400, 400], GOLD).tolist() == [0, 0, 0]
    assert length_bonus(["A", "A"], [400, 10], GOLD, bonus=0.5).tolist() == [0.5, 0]


def test_the_bonuses_are_what_the_whole_rewards_add():
    """T-GRPO 0.3 on each correct one, ArrowRL 0.25 on each that differs from B; nothing for format."""
    o = ["A", "B", None, "A"]
    assert temporal_bonus(o, ["B"], GOLD).tolist() == pytest.approx([0.3, 0, 0, 0.3])
    assert reverse_bonus(o, "B", GOLD).tolist() == [0.25, 0, 0.25, 0.25]


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
        lambda: length_bonus(["A", "A"], [400], GOLD),
        lambda: crpo_rewards(["A"], ["A"], GOLD, dynamic=True, well_formed=[True, True], cf_well_formed=[True]),
        lambda: crpo_rewards(["A"], ["A"], GOLD, dynamic=True, well_formed=[True], cf_well_formed=[]),
        lambda: crpo_rewards([], [], GOLD, dynamic=True, well_formed=[], cf_well_formed=[]),
    ],
)
def test_unequal_or_empty_groups_are_refused_in_one_line(call):
    with pytest.raises(ValueError, match="one non-empty group") as error:
        call()
    assert "\n" not in str(error.value)
