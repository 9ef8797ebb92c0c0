"""pytest tests/test_methods.py -- the rows of METHODS: pay by hand, reductions, App. F, second views, --std-scope.

Where an auxiliary term cancels it does so "up to eps": an advantage d / (s + eps) becomes d / (s + eps / k) when the
group's deviations grow by k, a relative change below eps / s. Deviations here are at least 0.1: so EPS / 0.1, of 1.4.
"""

import math
import random
from dataclasses import fields, replace

import pytest
import torch
from test_advantage import slow_pooled
from test_rewards import (
    random_bits,
    random_group,
    slow_grpo,
    slow_length,
    slow_reverse,
    slow_rewards,
    slow_temporal,
)

import rewards
from advantage import group_advantages
from episode import TASK_TYPES, Question
from methods import METHODS, Look, MethodSettings, Outcome, advantages, pay_scripted
from transforms import COUNTERFACTUALS, FRAME_SHUFFLE, HORIZONTAL_FLIP, TEMPORAL_REVERSE, visit_rng
from verifiers import Facts

EPS = 1e-4
CANCELS = EPS / 0.1 * 1.4
INFLATION = math.sqrt(15 / 7)  # 1.4638
DEFAULT = MethodSettings()


def question(task_type="Temporal", data_type="video", gold="A"):
    return Question("q", 1, "Which?", data_type, "multiple choice", ("A. left", "B. right"), gold, task_type=task_type)


def outcome(answers, well_formed=None, lengths=None):
    """What is known of a branch; `answers` a list, or a string of letters with "-" for an unreadable one."""
    answers = [None if answer == "-" else answer for answer in answers]
    bits = well_formed or [True] * len(answers)
    facts = [Facts(answer, bit, float(answer == "A")) for answer, bit in zip(answers, bits, strict=True)]
    return Outcome(facts, lengths or [10] * len(answers), [0.5] * len(answers))


def pay(method, branches, settings=DEFAULT, task_type="Temporal"):
    return METHODS[method].pay(question(task_type), branches, settings)


def train(method, branches, settings=DEFAULT, task_type="Temporal", scope="joint", eps=EPS):
    """Outcomes -> advantages of each branch of one question."""
    paid = [branch.rewards for branch in pay(method, branches, settings, task_type)]
    return advantages([paid], joint=METHODS[method].joint, scope=scope, eps=eps)[0]


def shift(method, branches, settings=DEFAULT, task_type="Temporal", scope="joint"):
    """By how much the auxiliary term moves the advantages, at most."""
    found = train(method, branches, settings, task_type, scope)
    bare = train(method, branches, settings.without_auxiliary(), task_type, scope)
    return max((a - b).abs().max().item() for a, b in zip(found, bare, strict=True) if a is not None)


ORIGINAL = outcome("AA-BABBA", [True, False, False, True, True, True, True, True])
COUNTERFACTUAL = outcome("BA-BBBCA", [True, True, False, True, True, False, True, True])
NO_LAMBDA = MethodSettings(lambda_d=0.0, lambda_s=0.0)


# -- pay, by hand and against the slow loops -------------------------------------------------------------------------


def test_grpo_by_hand():
    (paid,) = pay("grpo", [ORIGINAL])
    assert paid.rewards.tolist() == [2, 1, 0, 1, 2, 1, 1, 2]
    assert paid.terms["correct"].tolist() == [1, 1, 0, 0, 1, 0, 0, 1]
    assert paid.terms["format"].tolist() == [1, 0, 0, 1, 1, 1, 1, 1]


def test_t_grpo_by_hand():
    """p = 2/4. Shuffled 2/4: each correct one earns .3. Shuffled 3/4: none."""
    original = outcome("AAB-", [True, False, True, False])
    first, second = pay("t_grpo", [original, outcome("AABB")])
    assert first.rewards.tolist() == pytest.approx([2.3, 1.3, 1, 0])
    assert first.terms["temporal"].tolist() == pytest.approx([0.3, 0.3, 0, 0])
    assert second.rewards is None and second.terms["shuffled_correct"].tolist() == [1, 1, 0, 0]
    first, _ = pay("t_grpo", [original, outcome("AAAB")])
    assert first.rewards.tolist() == [2, 1, 1, 0]


VIDEO_R1 = MethodSettings(temporal_threshold=0.8, shuffled_rollouts=4, length_bonus=0.2)


def test_t_grpo_as_video_r1_by_hand():
    """p = .75. Shuffled 3/4: .75 >= .8 * .75 = .6, so 1 + .3 + .2 (320..512 tokens) + 1. Shuffled 4/4: .75 < .8."""
    original = outcome("AAAAAABB", lengths=[320, 512, 319, 513, 10, 400, 400, 10])
    first, second = pay("t_grpo", [original, outcome("AAAB")], VIDEO_R1)
    assert first.rewards.tolist() == pytest.approx([2.5, 2.5, 2.3, 2.3, 2.3, 2.5, 1, 1])
    assert first.terms["length"].tolist() == pytest.approx([0.2, 0.2, 0, 0, 0, 0.2, 0, 0])
    assert second.rewards is None
    first, _ = pay("t_grpo", [original, outcome("AAAA")], VIDEO_R1)
    assert first.rewards.tolist() == pytest.approx([2.2, 2.2, 2, 2, 2, 2.2, 1, 1])
    (image,) = pay("t_grpo", [original], VIDEO_R1)  # no shuffled view: no temporal bonus, the length bonus stays
    assert image.rewards.tolist() == pytest.approx([2.2, 2.2, 2, 2, 2, 2.2, 1, 1])


@pytest.mark.parametrize(
    ("as_printed", "reverse", "expected", "correct"),
    [
        (False, "B", [2.25, 1.25, 1, 1.25], 0),  # B is not gold: .25 to each answer that is not B
        (False, "A", [2, 1, 1, 1], 1),  # gold: the question does not feel time's arrow
        (True, "B", [2, 1, 1, 1], 0),  # as printed: active only where the reversed answer is gold,
        (True, "A", [2, 1.25, 1.25, 1.25], 1),  # so the correct one mirrors it and the wrong ones are paid
        (False, "-", [2, 1, 1, 1], 0),  # unreadable: no evidence
    ],
)
def test_arrow_rl_by_hand(as_printed, reverse, expected, correct):
    settings = MethodSettings(arrow_as_printed=as_printed)
    first, second = pay("arrow_rl", [outcome("ACB-"), outcome(reverse)], settings)
    assert first.rewards.tolist() == pytest.approx(expected)
    assert first.terms["reverse"].tolist() == pytest.approx(
        [r - g for r, g in zip(expected, [2, 1, 1, 1], strict=True)]
    )
    assert second.rewards is None and second.terms["reverse_correct"].tolist() == [correct]


@pytest.mark.parametrize("task_type", ["Temporal", "Static"])
def test_standard_augmentation_pays_the_original_label_on_both_views(task_type):
    """App. E: also on a dynamic question, where the answer changed; each view is a sample of its own, without w_aug."""
    first, second = pay("augment", [ORIGINAL, COUNTERFACTUAL], task_type=task_type)
    assert first.rewards.tolist() == [2, 1, 0, 1, 2, 1, 1, 2]
    assert second.rewards.tolist() == [1, 2, 0, 1, 1, 0, 1, 2]  # right 0 1 0 0 0 0 0 1, format 1 1 0 1 1 0 1 1
    assert second.terms["aug_correct"].tolist() == [0, 1, 0, 0, 0, 0, 0, 1]
    found = train("augment", [ORIGINAL, COUNTERFACTUAL], task_type=task_type)
    assert torch.equal(found[0], train("grpo", [ORIGINAL])[0]) and torch.equal(
        found[1], group_advantages(second.rewards)
    )


def slow_paid(method, question, first, second, settings):
    """App. B.3 and Sec. 3 in float64; None for the branch that is not trained on."""
    o, f = first.answers, first.well_formed
    base = slow_grpo(o, f)
    length = slow_length(o, first.lengths, settings.length_bonus)
    if method == "grpo":
        return [[r + n for r, n in zip(base, length, strict=True)]]
    if method == "augment":
        return [base, slow_grpo(second.answers, second.well_formed)]
    if method == "t_grpo":
        temporal = slow_temporal(o, second.answers, settings.temporal_bonus, settings.temporal_threshold)
        return [[r + t + n for r, t, n in zip(base, temporal, length, strict=True)], None]
    if method == "arrow_rl":
        reverse = slow_reverse(o, second.answers[0], settings.arrow_alpha, settings.arrow_as_printed)
        return [[r + extra for r, extra in zip(base, reverse, strict=True)], None]
    named = ("lambda_d", "lambda_s", "w_aug", "use_crr", "use_behave", "invalid_counts_as_change")
    out = slow_rewards(
        o, second.answers, f, second.well_formed, dynamic=question.dynamic,
        **{name: getattr(settings, name) for name in named},
    )  # fmt: skip
    return [out["original"], out["counterfactual"]]


@pytest.mark.parametrize("scope", ["branch", "joint", "batch"])
def test_answers_to_advantages_equal_the_slow_loops_on_1000_random_groups(scope):
    """All the way: 100 rounds of five questions, about half of them with two paid branches, one method a round.

    Rewards are float32 here, float64 there: 1e-5 of an advantage.
    """
    rng, groups = random.Random(scope), 0
    while groups < 1000:
        method = rng.choice(list(METHODS))
        settings = MethodSettings(
            lambda_d=rng.choice([0, 0.3, 1]), lambda_s=rng.choice([0.1, 0.3]), w_aug=rng.choice([0.1, 0.5, 1]),
            use_crr=rng.random() < 0.7, use_behave=rng.random() < 0.7, invalid_counts_as_change=rng.random() < 0.5,
            temporal_bonus=rng.choice([0.3, 0.6]), length_bonus=rng.choice([0, 0.2]),
            arrow_alpha=rng.choice([0.25, 0.5]), arrow_as_printed=rng.random() < 0.5,
        )  # fmt: skip
        found, expected = [], []
        for _ in range(5):
            asked, G = question(rng.choice(TASK_TYPES)), rng.choice([4, 8])
            first, second = (
                outcome(random_group(rng, n), random_bits(rng, n), [rng.choice([10, 400]) for _ in range(n)])
                for n in (G, 1 if method == "arrow_rl" else G)
            )
            branches = [first] if method == "grpo" else [first, second]
            found.append([paid.rewards for paid in METHODS[method].pay(asked, branches, settings)])
            expected.append(slow_paid(method, asked, first, second, settings))
        got = advantages(found, joint=METHODS[method].joint, scope=scope, eps=EPS)
        paid = [group for branches in expected for group in branches if group is not None]
        if scope == "batch":
            slow = slow_pooled(paid, EPS)
        else:
            together = scope == "joint" and method == "crpo"
            pools = expected if together else [[group] for group in paid]
            slow = [values for pool in pools for values in slow_pooled(pool, EPS)]
        flat = [values for branches in got for values in branches if values is not None]
        assert len(flat) == len(slow)
        for values, reference in zip(flat, slow, strict=True):
            assert values.tolist() == pytest.approx(reference, abs=1e-5, rel=1e-5), (method, settings)
        groups += len(flat)


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
    paid = pay("crpo", [ORIGINAL, COUNTERFACTUAL], MethodSettings(**changed), task_type)
    expected = rewards.crpo_rewards(
        ORIGINAL.answers,
        COUNTERFACTUAL.answers,
        "A",
        dynamic=task_type != "Static",
        well_formed=ORIGINAL.well_formed,
        cf_well_formed=COUNTERFACTUAL.well_formed,
        **changed,
    )
    assert torch.equal(paid[0].rewards, expected.original)
    assert torch.equal(paid[1].rewards, expected.counterfactual)
    for name, values in (paid[0].terms | paid[1].terms).items():
        assert torch.equal(values, getattr(expected, name))
    assert set(paid[0].terms) == {"correct", "crr_orig", "format"}
    assert set(paid[1].terms) == {"behave", "crr_aug", "cf_format"}


def test_scripted_pay_is_the_share_of_even_tokens_whatever_the_answer():
    one, two = replace(ORIGINAL, even_share=[0.5] * 8), replace(COUNTERFACTUAL, even_share=[0.25] * 8)
    assert [paid.rewards.tolist() for paid in pay_scripted(question(), [one, two], DEFAULT)] == [[0.5] * 8, [0.25] * 8]


def test_paying_does_not_modify_outcomes():
    first, second = outcome("AB-", lengths=[1, 2, 3]), outcome("B")
    for method in METHODS:
        if method in ("crpo", "augment"):
            pay(method, [first, outcome("BBA")])
        else:
            pay(method, [first, second][: 1 if method == "grpo" else 2])
    assert first == outcome("AB-", lengths=[1, 2, 3]) and second == outcome("B")


# -- reductions, to the bit ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["branch", "joint", "batch"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_one_branch_is_grpo_to_the_bit(method, scope):
    """Text, images, unrouted questions; for CRPO whatever lambda is."""
    for settings in (DEFAULT, NO_LAMBDA):
        (paid,), (plain,) = pay(method, [ORIGINAL], settings), pay("grpo", [ORIGINAL])
        assert torch.equal(paid.rewards, plain.rewards)
        (found,) = train(method, [ORIGINAL], settings, scope=scope)
        assert torch.equal(found, train("grpo", [ORIGINAL])[0])


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_crpo_with_lambda_zero_pays_the_original_branch_as_grpo_does_to_the_bit(task_type):
    branches = [ORIGINAL, COUNTERFACTUAL]
    for settings in (NO_LAMBDA, MethodSettings(use_crr=False)):
        assert torch.equal(pay("crpo", branches, settings, task_type)[0].rewards, pay("grpo", [ORIGINAL])[0].rewards)
    found = train("crpo", branches, NO_LAMBDA, task_type, scope="branch")
    assert torch.equal(found[0], train("grpo", [ORIGINAL])[0])


def test_a_zero_bonus_makes_t_grpo_and_arrow_rl_grpo_to_the_bit():
    plain = train("grpo", [ORIGINAL])[0]
    assert torch.equal(train("t_grpo", [ORIGINAL, COUNTERFACTUAL], MethodSettings(temporal_bonus=0.0))[0], plain)
    assert torch.equal(train("arrow_rl", [ORIGINAL, outcome("B")], MethodSettings(arrow_alpha=0.0))[0], plain)


def test_without_the_auxiliary_term_every_baseline_is_grpo_and_crpo_is_lambda_zero():
    """What advantage/auxiliary_shift is measured against; `length_bonus` is taken out too."""
    original = replace(ORIGINAL, lengths=[400] * 8)
    for method, second in (("t_grpo", COUNTERFACTUAL), ("arrow_rl", outcome("B")), ("augment", COUNTERFACTUAL)):
        bare = pay(method, [original, second], VIDEO_R1.without_auxiliary())[0].rewards
        assert torch.equal(bare, pay("grpo", [original])[0].rewards)
    bare = pay("crpo", [original, COUNTERFACTUAL], DEFAULT.without_auxiliary())
    for one, two in zip(bare, pay("crpo", [original, COUNTERFACTUAL], NO_LAMBDA), strict=True):
        assert torch.equal(one.rewards, two.rewards)


# -- App. F: where an auxiliary term cancels, and where it does not -------------------------------------------------

EVEN, MIXED = [True] * 8, [True] * 4 + [False] + [True] * 3


def test_t_grpos_bonus_cancels_with_equal_format_bits_and_not_with_unequal_ones():
    """Eq. 7. Rewards 2.3 and 1 are 1.3 times as far apart; one format bit less, and they are no longer two values."""
    for answers in ("AAAABBBB", "A-BCBBBB", "AAAAAAAB"):
        assert 0 < shift("t_grpo", [outcome(answers, EVEN), outcome("BBBBBBBB")]) < CANCELS
        assert shift("t_grpo", [outcome(answers, MIXED), outcome("BBBBBBBB")]) > 0.03
    assert shift("t_grpo", [outcome("AAAABBBB", MIXED), outcome("AAAAABBB")]) == 0  # not earned at all


def test_the_length_bonus_of_video_r1_does_not_cancel():
    """It tells correct rollouts apart."""
    original = outcome("AAAABBBB", lengths=[400, 400, 10, 10] * 2)
    assert shift("t_grpo", [original, outcome("BBBB")], VIDEO_R1) > 0.05


def test_arrow_rls_bonus_cancels_where_all_wrong_rollouts_mirror_or_none_does_and_only_with_the_rest_equal():
    """App. F.1 says it is added to each correct rollout; ArrowRL pays every rollout that does not mirror.

    Reversed answer B. All wrong ones mirror it: 2.25 and 1, as T-GRPO. None does: 2.25 and 1.25, a constant, which
    centring takes out whatever the formats. Some do: three values. All wrong: GRPO learns nothing, ArrowRL not to
    mirror.
    """
    reverse = outcome("B")
    assert 0 < shift("arrow_rl", [outcome("AAAABBBB"), reverse]) < CANCELS
    assert shift("arrow_rl", [outcome("AAAABBBB", MIXED), reverse]) > 0.03
    assert shift("arrow_rl", [outcome("AAAACCC-", MIXED), reverse]) < 1e-6
    assert shift("arrow_rl", [outcome("AAAABBCC"), reverse]) > 0.05
    assert train("grpo", [outcome("BBBBCCC-")])[0].tolist() == [0.0] * 8
    # .25 for four of eight, deviations .125: std sqrt(8 * .015625 / 7) = .133631, so .125 / (.133631 + .0001) = .934715
    assert train("arrow_rl", [outcome("BBBBCCC-"), reverse])[0].tolist() == pytest.approx(
        [-0.934715] * 4 + [0.934715] * 4, abs=1e-5
    )


def test_arrow_rl_as_printed_cancels_too_with_equal_format_bits():
    """Reversed answer A: correct ones mirror it and get 2, every wrong one gets 1.25; the gap shrinks to .75."""
    settings = MethodSettings(arrow_as_printed=True)
    assert 0 < shift("arrow_rl", [outcome("AAAABBC-"), outcome("A")], settings) < CANCELS
    assert shift("arrow_rl", [outcome("AAAABBC-", MIXED), outcome("A")], settings) > 0.03


@pytest.mark.parametrize("w_aug", [0.3, 0.5, 1.0])
def test_crr_cancels_where_p_equals_q_and_formats_are_equal(w_aug):
    """App. F.2 says it does not. p = q = 5/8: both branches' deviations grow by 1 + .3 * 5/8."""
    settings, original = MethodSettings(w_aug=w_aug), outcome("AAAAABBB")
    assert 0 < shift("crpo", [original, outcome("BBBBBAAA")], settings) < CANCELS
    assert 0 < shift("crpo", [original, outcome("AAAAABBC")], settings, "Static") < CANCELS
    assert shift("crpo", [original, outcome("BAAAAAAA")], settings) > 0.01  # q = 1/8
    assert shift("crpo", [original, outcome("BBBBBAAA", MIXED)], settings) > 0.005  # p = q, one format bit less


@pytest.mark.parametrize(
    ("original", "second"), [("AAAAAAAA", "BBBAAAAA"), ("AAABBBBB", "BBBBBBBB"), ("BBBBBBBB", "BBAAAAAA")]
)
def test_crr_cancels_although_p_is_not_q_where_a_branch_is_constant(original, second):
    """The pool then holds one live branch and zeros: its scale is the std's, whatever p and q are."""
    assert shift("crpo", [outcome(original), outcome(second)]) < CANCELS


def test_per_branch_crr_cancels_at_every_p_and_q_with_equal_formats():
    """--std-scope branch: each branch by its own std, which the term scales too."""
    for second in ("BAAAAAAA", "BBBBAAAA", "BBBBBBBA"):
        assert 0 < shift("crpo", [outcome("AAAAABBB"), outcome(second)], scope="branch") < CANCELS


def test_crpos_advantages_by_hand_where_p_is_not_q():
    """p = 4/8, q = 6/8, w_aug .5. Original deviations +-.5 (1 + .3 * .75) = +-.6125; counterfactual rewards 0 or
    .5 (1 + .15) = .575 beside the format, so +.25 * .575 = .14375 and -.75 * .575 = -.43125. Joint std
    sqrt((8 * .375156 + 6 * .020664 + 2 * .185977) / 15) = .482853; over .482953: 1.268239, .297648, -.892944."""
    found = train("crpo", [outcome("AAAABBBB"), outcome("BBBBBBAA")])
    assert found[0].tolist() == pytest.approx([1.268239] * 4 + [-1.268239] * 4, abs=5e-6)
    assert found[1].tolist() == pytest.approx([0.297648] * 6 + [-0.892944] * 2, abs=5e-6)


def test_a_live_branch_grows_by_the_root_of_15_over_7_beside_a_constant_one():
    live, eps = outcome("AAABBBBB"), 1e-9
    alone = train("grpo", [live], eps=eps)[0]
    for constant in ("AAAAAAAA", "BBBBBBBB"):
        found = train("crpo", [live, outcome(constant)], eps=eps)
        torch.testing.assert_close(found[0], 1.4638501 * alone, rtol=1e-5, atol=1e-6)
        assert found[1].tolist() == [0.0] * 8


def test_without_the_counterfactual_branch_is_grpo_per_branch_and_inflated_grpo_jointly():
    """Table 2, w_aug = 0, equal formats. CRR only scales the original branch: 1 + .3 q."""
    original, second, settings = outcome("AAABBBBB"), outcome("BBBBBAAA"), MethodSettings(w_aug=0.0)
    alone = train("grpo", [original])[0]
    per_branch = train("crpo", [original, second], settings, scope="branch")
    torch.testing.assert_close(per_branch[0], alone, rtol=CANCELS, atol=0)
    jointly = train("crpo", [original, second], settings)
    torch.testing.assert_close(jointly[0], INFLATION * alone, rtol=CANCELS, atol=0)
    assert per_branch[1].tolist() == jointly[1].tolist() == [0.0] * 8


def test_w_aug_cancels_where_the_original_branch_is_constant_and_not_elsewhere():
    second = outcome("BBBBBAAA", MIXED)
    for original, limit in (("AAAAAAAA", True), ("AAABBBBB", False)):
        found = [train("crpo", [outcome(original), second], MethodSettings(w_aug=w))[1] for w in (0.1, 0.5, 1.0)]
        apart = max((found[0] - found[1]).abs().max(), (found[1] - found[2]).abs().max()).item()
        assert apart < 2 * EPS / 0.05 if limit else apart > 0.1


def test_a_single_malformed_counterfactual_rollout_gets_minus_3_62():
    """Rewards .65 and, for one, .15: deviations .0625 and -.4375; std sqrt((7 * .003906 + .191406) / 15) = .120761;
    -.4375 / .120861 = -3.61986."""
    found = train("crpo", [outcome("A" * 8), outcome("B" * 8, [True] * 7 + [False])])
    assert found[0].tolist() == [0.0] * 8
    assert found[1][-1].item() == pytest.approx(-3.61986, abs=1e-4)


# -- --std-scope -----------------------------------------------------------------------------------------------------

# Deviations +-1; +-.5; and (one rollout wide) none. As in test_advantage, eps .1.
ONE, TWO, WIDE = torch.tensor([2.0, 0.0, 1.0, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([5.0, 1.0])


def scoped(questions, scope, joint=True):
    found = advantages(questions, joint=joint, scope=scope, eps=0.1)
    return [[None if a is None else [round(x, 5) for x in a.tolist()] for a in branches] for branches in found]


def test_per_branch_each_group_has_its_own_std():
    """ONE: 1 / (sqrt(2 / 3) + .1) = 1.09111; TWO: .5 / (sqrt(1 / 3) + .1) = .73817."""
    for joint in (True, False):
        assert scoped([[ONE, TWO]], "branch", joint) == [[[1.09111, -1.09111, 0, 0], [0.73817, -0.73817] * 2]]


def test_joint_pools_the_branches_of_a_question_where_the_method_says_so():
    """sqrt((2 + 1) / 7) + .1 = .754654; a single-branch question keeps its own; without `joint` as per branch."""
    pair = [[1.32511, -1.32511, 0, 0], [0.66256, -0.66256] * 2]
    assert scoped([[ONE, TWO], [ONE]], "joint") == [pair, [[1.09111, -1.09111, 0, 0]]]
    assert scoped([[ONE, TWO]], "joint", joint=False) == scoped([[ONE, TWO]], "branch")
    assert [name for name, method in METHODS.items() if method.joint] == ["crpo"]


@pytest.mark.parametrize("joint", [True, False])
def test_batch_pools_questions_of_every_kind(joint):
    """A pair, a single branch, one beside an untrained branch: 12 + 2 values, sqrt((2 + 1 + 2 + 8) / 13) + .1 = 1.1."""
    found = scoped([[ONE, TWO], [ONE], [WIDE, None]], "batch", joint)
    one, two = [0.90909, -0.90909, 0, 0], [0.45455, -0.45455, 0.45455, -0.45455]
    assert found == [[one, two], [one], [[1.81818, -1.81818], None]]


@pytest.mark.parametrize("scope", ["branch", "joint", "batch"])
def test_a_round_of_constants_gives_zeros(scope):
    constant = torch.full((4,), 1.3)
    assert scoped([[constant, 2 * constant], [constant]], scope) == [[[0.0] * 4, [0.0] * 4], [[0.0] * 4]]


@pytest.mark.parametrize("scope", ["branch", "joint", "batch"])
def test_an_untrained_branch_passes_through_and_joins_no_pool(scope):
    """ArrowRL's one reference, T-GRPO's shuffled group: as if they were not there."""
    for method, second in (("arrow_rl", outcome("B")), ("t_grpo", outcome("AABB"))):
        found = train(method, [outcome("AABC"), second], scope=scope)
        assert found[1] is None
        assert torch.equal(found[0], group_advantages(pay(method, [outcome("AABC"), second])[0].rewards))


# -- second views ----------------------------------------------------------------------------------------------------


def second(method, task_type="Temporal", data_type="video", settings=DEFAULT, rng=None):
    return METHODS[method].second(question(task_type, data_type), rng or random.Random(0), settings)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data_type", ["image", "text"])
def test_only_videos_have_a_second_view(method, data_type):
    for task_type in (*TASK_TYPES, None):
        assert second(method, task_type, data_type) is None


@pytest.mark.parametrize("method", METHODS)
def test_an_unrouted_video_has_a_second_view_only_where_the_task_type_does_not_choose_it(method):
    assert (second(method, None) is not None) == (method in ("t_grpo", "arrow_rl"))


def test_grpo_has_no_second_view():
    assert [second("grpo", task_type) for task_type in TASK_TYPES] == [None] * 4


@pytest.mark.parametrize("method", ["crpo", "augment"])
def test_the_task_type_chooses_the_view_of_crpo_and_of_augmentation(method):
    rng, settings = random.Random(0), MethodSettings(rollouts=5)
    assert second(method, "Spatial", settings=settings) == Look(HORIZONTAL_FLIP, 5, trained=True)
    assert second(method, "Temporal", settings=settings) == Look(TEMPORAL_REVERSE, 5, trained=True)
    for task_type in ("Spatiotemporal", "Static"):
        looks = [second(method, task_type, settings=settings, rng=rng) for _ in range(200)]
        flips = sum(look.transform == HORIZONTAL_FLIP for look in looks)
        assert {look.transform for look in looks} == set(COUNTERFACTUALS)
        assert 65 <= flips <= 135  # a fair coin: five standard errors
    only = replace(settings, transforms=(TEMPORAL_REVERSE,))
    assert second(method, "Spatial", settings=only) is None
    assert {second(method, "Static", settings=only, rng=rng).transform for _ in range(20)} == {TEMPORAL_REVERSE}


def test_w_aug_zero_still_samples_crpos_counterfactual_and_trains_it_not():
    settings = MethodSettings(w_aug=0.0)
    assert second("crpo", settings=settings) == Look(TEMPORAL_REVERSE, 8, trained=False)
    assert second("augment", settings=settings).trained  # w_aug is no part of augmentation


@pytest.mark.parametrize("task_type", [*TASK_TYPES, None])
def test_t_grpo_and_arrow_rl_look_again_at_every_video_for_rewards_only(task_type):
    settings = MethodSettings(shuffled_rollouts=4, arrow_greedy=True)
    assert second("t_grpo", task_type) == Look(FRAME_SHUFFLE, 8, trained=False, greedy=False)
    assert second("t_grpo", task_type, settings=settings) == Look(FRAME_SHUFFLE, 4, trained=False, greedy=False)
    assert second("arrow_rl", task_type) == Look(TEMPORAL_REVERSE, 1, trained=False, greedy=False)
    assert second("arrow_rl", task_type, settings=settings) == Look(TEMPORAL_REVERSE, 1, trained=False, greedy=True)


def test_the_draw_of_a_visit_is_reproducible_and_its_own():
    """The same (seed, epoch, id) draws the same view in every process; another epoch or id draws anew."""

    def drawn(seed, epoch, name):
        return second("crpo", "Static", rng=visit_rng(seed, epoch, name)).transform

    visits = [(seed, epoch, name) for seed in (0, 1) for epoch in range(5) for name in ("a", "b")]
    first = [drawn(*visit) for visit in visits]
    assert first == [drawn(*visit) for visit in visits]
    assert (
        {drawn(0, epoch, "a") for epoch in range(20)}
        == {drawn(0, 0, str(i)) for i in range(20)}
        == set(COUNTERFACTUALS)
    )


def test_the_defaults_are_the_papers_and_every_field_is_known_to_the_command_line():
    """Table 7 and App. B.3; no second copy of a default may drift from config.py's."""
    from config import Config

    assert (DEFAULT.rollouts, DEFAULT.lambda_d, DEFAULT.lambda_s, DEFAULT.w_aug) == (8, 0.3, 0.3, 0.5)
    assert (DEFAULT.temporal_bonus, DEFAULT.temporal_threshold, DEFAULT.shuffled_rollouts) == (0.3, 1.0, 8)
    assert (DEFAULT.length_bonus, DEFAULT.arrow_alpha, DEFAULT.arrow_as_printed, DEFAULT.arrow_greedy) == (
        0.0, 0.25, False, False,
    )  # fmt: skip
    renamed = {"use_crr": "crr", "use_behave": "behave"}
    assert Config().shuffled_share == 1.0
    for field in fields(MethodSettings):
        if field.name not in ("transforms", "shuffled_rollouts"):
            assert getattr(DEFAULT, field.name) == getattr(Config(), renamed.get(field.name, field.name)), field.name
