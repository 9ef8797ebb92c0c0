"""pytest tests/test_advantage.py -- the normalisers by hand and against plain Python, Eq. 6's terms one by one.

The slow versions are float64 on the same rewards; advantages are float32 and at most sqrt(n - 1) of a pool of n (32 for
a thousand values), so 1e-6 of them and 1e-6 beside.
"""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage import (
    clipped_objective,
    crpo_advantages,
    group_advantages,
    k3_kl,
    pooled_advantages,
    token_weights,
)
from rewards import crpo_rewards, t_grpo_rewards


def slow_pooled(groups, eps=1e-4):
    """Sec. 3 and App. F.2: each value less its own group's mean, over ONE unbiased std of all of them, plus eps."""
    centred = []
    for group in groups:
        mean = math.fsum(group) / len(group)
        centred.append([value - mean for value in group])
    pool = [value for group in centred for value in group]
    std = math.sqrt(math.fsum(value * value for value in pool) / (len(pool) - 1)) if len(pool) > 1 else 0.0
    return [[value / (std + eps) for value in group] for group in centred]


def near(got, expected):
    assert got.dtype == torch.float32
    return got.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def fair_rewards(**options):
    """8 rollouts a branch, all well-formed, 4 of 8 correct, 6 of 8 behaving."""
    answers, cf_answers = ["A"] * 4 + ["B"] * 4, ["B"] * 6 + ["A"] * 2
    bits = [True] * 8
    return crpo_rewards(answers, cf_answers, "A", dynamic=True, well_formed=bits, cf_well_formed=bits, **options)


@pytest.mark.parametrize(
    ("options", "original", "counterfactual"),
    [
        ({"lambda_d": 0.3, "w_aug": 0.5}, (1.268, -1.268), (0.298, -0.893)),
        ({"lambda_d": 0.0, "w_aug": 0.5}, (1.256, -1.256), (0.314, -0.942)),
        ({"lambda_d": 0.3, "w_aug": 0.0}, (1.369, -1.369), (0.0, 0.0)),
    ],
)
def test_numbers_of_the_papers_setting(options, original, counterfactual):
    r = fair_rewards(**options)
    a, a_cf = crpo_advantages(r.original, r.counterfactual)
    torch.testing.assert_close(a, torch.tensor([original[0]] * 4 + [original[1]] * 4), rtol=0, atol=5e-4)
    torch.testing.assert_close(a_cf, torch.tensor([counterfactual[0]] * 6 + [counterfactual[1]] * 2), rtol=0, atol=5e-4)


def test_numbers_of_plain_grpo_with_and_without_the_t_grpo_bonus():
    """A bonus on every correct rollout scales the group and cancels, up to eps."""
    answers, bits = ["A"] * 4 + ["B"] * 4, [True] * 8
    for bonus in (0.0, 0.3):
        rewards = t_grpo_rewards(answers, ["B"] * 8, "A", well_formed=bits, bonus=bonus)
        expected = torch.tensor([0.935] * 4 + [-0.935] * 4)
        torch.testing.assert_close(group_advantages(rewards), expected, rtol=0, atol=5e-4)


def test_a_single_malformed_counterfactual_rollout():
    """All answers alike, one format bit missing: -3.62, the largest a group of 8 can give."""
    bits, cf_bits = [True] * 8, [True] * 7 + [False]
    r = crpo_rewards(["A"] * 8, ["B"] * 8, "A", dynamic=True, well_formed=bits, cf_well_formed=cf_bits)
    a, a_cf = crpo_advantages(r.original, r.counterfactual)
    assert a.tolist() == [0.0] * 8
    assert a_cf[-1].item() == pytest.approx(-3.62, abs=5e-3)


# Three groups of the same round. One: mean 1, deviations 1 -1 0 0. Two: mean .5, deviations .5 -.5 .5 -.5.
# Three: mean 2, deviations 1 -1 (a group of two).
ONE, TWO, THREE = [2.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0], [3.0, 1.0]


def test_the_normalisers_by_hand():
    """Unbiased std, eps 0.1 so that its place shows."""
    # GRPO: std = sqrt((1 + 1) / 3) = .816497; 1 / .916497 = 1.091112
    assert near(group_advantages(torch.tensor(ONE), 0.1), [1.091112, -1.091112, 0, 0])
    # CRPO: std = sqrt((2 + 4 * .25) / 7) = .654654; 1 / .754654 = 1.325111, .5 / .754654 = .662555
    one, two = crpo_advantages(torch.tensor(ONE), torch.tensor(TWO), 0.1)
    assert near(one, [1.325111, -1.325111, 0, 0])
    assert near(two, [0.662555, -0.662555, 0.662555, -0.662555])
    # pool of three: std = sqrt((2 + 1 + 2) / 9) = .745356; 1 / .845356 = 1.182933, half of it .591467
    pooled = pooled_advantages([torch.tensor(group) for group in (ONE, TWO, THREE)], 0.1)
    assert near(pooled[0], [1.182933, -1.182933, 0, 0])
    assert near(pooled[1], [0.591467, -0.591467, 0.591467, -0.591467])
    assert near(pooled[2], [1.182933, -1.182933])


def random_rewards(rng, G):
    """Rewards as they occur, degenerate groups among them."""
    values = rng.choice([[0.0, 1.0, 2.0], [1.0, 2.225, 1.225], [0.5, 1.075, 0.575, 0.0], [2.3]])
    return torch.tensor([rng.choice(values) for _ in range(G)])


def test_every_normaliser_equals_the_slow_loop_on_1000_random_groups():
    rng = random.Random(0)
    for _ in range(1000):
        G, eps = rng.randint(1, 16), rng.choice([1e-4, 1e-2])
        one, two = random_rewards(rng, G), random_rewards(rng, G)
        assert near(group_advantages(one, eps), *slow_pooled([one.tolist()], eps))
        for got, expected in zip(
            crpo_advantages(one, two, eps), slow_pooled([one.tolist(), two.tolist()], eps), strict=True
        ):
            assert near(got, expected)


def test_one_std_over_a_round_equals_the_slow_loop_on_1000_random_groups():
    """200 rounds of five groups of unequal size."""
    rng = random.Random(1)
    for _ in range(200):
        groups = [random_rewards(rng, rng.choice([1, 4, 8, 16])) for _ in range(5)]
        for got, expected in zip(
            pooled_advantages(groups), slow_pooled([group.tolist() for group in groups]), strict=True
        ):
            assert near(got, expected)


def test_a_pool_of_one_group_is_grpo_and_of_two_is_crpo_to_the_bit():
    one, two = random_rewards(random.Random(2), 8), random_rewards(random.Random(3), 8)
    assert torch.equal(pooled_advantages([one])[0], group_advantages(one))
    for got, expected in zip(pooled_advantages([one, two]), crpo_advantages(one, two), strict=True):
        assert torch.equal(got, expected)


def branch(groups):
    """The three normalisers in one form: groups -> advantages in the same places."""
    return [group_advantages(group) for group in groups]


def joint(groups, eps=1e-4):
    return [*crpo_advantages(*groups, eps)]


NORMALISERS = pytest.mark.parametrize("normalise", [branch, joint, pooled_advantages])
PAIRS = st.integers(2, 8).flatmap(
    lambda n: st.tuples(*[st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.3, 1.225, 2.0, 2.3]), min_size=n, max_size=n)] * 2)
)


@NORMALISERS
@given(pair=PAIRS, rng=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_permuting_the_rollouts_of_a_branch_permutes_its_advantages_alone(normalise, pair, rng):
    groups = [torch.tensor(values) for values in pair]
    order = list(range(len(pair[0])))
    rng.shuffle(order)
    before, after = normalise(groups), normalise([groups[0][order], groups[1]])
    torch.testing.assert_close(after[0], before[0][order], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after[1], before[1], rtol=1e-6, atol=1e-6)


@NORMALISERS
@given(pair=PAIRS, constant=st.integers(-5, 5))
@settings(max_examples=50, deadline=None)
def test_adding_a_constant_to_a_group_changes_nothing(normalise, pair, constant):
    """In float64, where the sum itself rounds by 1e-15."""
    groups = [torch.tensor(values, dtype=torch.float64) for values in pair]
    for before, after in zip(normalise(groups), normalise([groups[0], groups[1] + constant]), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-6)


@NORMALISERS
@given(value=st.floats(-3, 3, width=32), live=st.lists(st.sampled_from([0.0, 1.0, 2.3]), min_size=8, max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_degenerate_group_yields_exact_zeros_whatever_stands_beside_it(normalise, value, live):
    for groups in ([[value] * 8, live], [[value] * 8, [1.3] * 8]):
        assert normalise([torch.tensor(group) for group in groups])[0].tolist() == [0.0] * 8


@NORMALISERS
@given(pair=PAIRS)
@settings(max_examples=50, deadline=None)
def test_rewards_are_not_modified(normalise, pair):
    groups = [torch.tensor(values, dtype=torch.float64) for values in pair]  # float64: no conversion copies them
    normalise(groups)
    assert [group.tolist() for group in groups] == [list(values) for values in pair]


@given(pair=PAIRS, power=st.integers(-6, 6))
@settings(max_examples=50, deadline=None)
def test_scaling_every_reward_is_scaling_eps_the_other_way_to_the_bit(pair, power):
    """A(k r, k eps) = A(r, eps); a power of two rounds nothing. With eps alone kept, the scale does not cancel."""
    k, groups = 2.0**power, [torch.tensor(values) for values in pair]
    for normalise in (lambda g, eps: [group_advantages(x, eps) for x in g], joint, pooled_advantages):
        scaled = normalise([k * group for group in groups], k * 1e-2)
        for got, expected in zip(scaled, normalise(groups, 1e-2), strict=True):
            assert torch.equal(got, expected)


def test_scaling_one_group_leaves_it_alone_per_branch_and_shrinks_the_other_in_a_pool():
    """TWO gets .5 / .654654 = .76376; with ONE times 10 the std is sqrt((200 + 1) / 7) = 5.3586, and it gets .09331."""
    one, two = torch.tensor(ONE), torch.tensor(TWO)
    torch.testing.assert_close(group_advantages(10 * one, 1e-9), group_advantages(one, 1e-9))
    for normalise in (joint, pooled_advantages):
        assert normalise([one, two], 1e-9)[1][0].item() == pytest.approx(0.76376, abs=1e-5)
        assert normalise([10 * one, two], 1e-9)[1][0].item() == pytest.approx(0.09331, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 1.3, 2.3, 0.1, 1 / 3, 2.225])
@pytest.mark.parametrize("G", [1, 2, 3, 7, 8, 16])
def test_a_constant_group_gives_exact_zeros(value, G):
    """1.3 has no exact float32: rounding in the mean over an eps of 1e-4 would leave a signal where there is none."""
    group = torch.full((G,), value)
    assert torch.equal(group_advantages(group), torch.zeros(G))
    a, a_cf = crpo_advantages(group, 0.5 * group)
    assert torch.equal(a, torch.zeros(G)) and torch.equal(a_cf, torch.zeros(G))


def test_one_rollout_gives_zeros_and_no_nan():
    assert group_advantages(torch.tensor([[2.0], [1.3]])).tolist() == [[0.0], [0.0]]
    assert [a.tolist() for a in crpo_advantages(torch.tensor([2.0]), torch.tensor([0.5]))] == [[0.0], [0.0]]


def test_a_branch_without_variance_inflates_the_other_as_published():
    """The dead branch's zeros stay in the pool: sqrt((2G - 1) / (G - 1)) = sqrt(15 / 7) at G = 8."""
    live, dead = torch.tensor([1.0, 0.0] * 4), torch.full((8,), 1.3)
    for one, two in ((live, dead), (dead, live)):
        pair = crpo_advantages(one, two, eps=1e-12)
        alone = [group_advantages(one, eps=1e-12), group_advantages(two, eps=1e-12)]
        for joint, single in zip(pair, alone, strict=True):
            torch.testing.assert_close(joint, math.sqrt(15 / 7) * single)


def test_w_aug_cancels_where_the_original_branch_is_constant():
    a_cf = []
    for w_aug in (0.1, 0.5, 1.0):
        branch = w_aug * torch.tensor([1.0, 1, 0, 1, 0, 0, 0, 1])
        a_cf.append(crpo_advantages(torch.ones(8), branch, eps=1e-12)[1])
    torch.testing.assert_close(a_cf[0], a_cf[1])
    torch.testing.assert_close(a_cf[1], a_cf[2])


def test_leading_axes_are_independent_questions():
    torch.manual_seed(0)
    one, two = torch.rand(3, 2, 8), torch.rand(3, 2, 8)
    a, a_cf = crpo_advantages(one, two)
    g = group_advantages(one)
    assert a.shape == a_cf.shape == g.shape == (3, 2, 8)
    for n in range(3):
        for k in range(2):
            single = crpo_advantages(one[n, k], two[n, k])
            torch.testing.assert_close(a[n, k], single[0])
            torch.testing.assert_close(a_cf[n, k], single[1])
            torch.testing.assert_close(g[n, k], group_advantages(one[n, k]))


def test_branches_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match="same groups"):
        crpo_advantages(torch.ones(8), torch.ones(4))


RATIOS = [0.25, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0]


@pytest.mark.parametrize("advantage", [1.5, -1.5, 0.0])
@pytest.mark.parametrize("ratio", RATIOS)
def test_clipped_objective_is_the_min_of_equation_6(ratio, advantage):
    logps = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    value = clipped_objective(logps, logps.detach() - math.log(ratio), torch.tensor([advantage]).double(), 0.2)
    value.sum().backward()
    assert value.item() == pytest.approx(min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage))
    cut = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    assert logps.grad.item() == (0.0 if cut else pytest.approx(ratio * advantage))


def test_at_ratio_one_the_gradient_is_the_advantage():
    """One update a round: old = policy detached, so the objective is the plain policy gradient."""
    logps = torch.tensor([-0.3, -2.0], requires_grad=True)
    clipped_objective(logps, logps.detach(), torch.tensor([0.7, -1.1])).sum().backward()
    torch.testing.assert_close(logps.grad, torch.tensor([0.7, -1.1]))


def test_k3_is_zero_at_equality_and_positive_elsewhere():
    x = torch.linspace(-4, 0, 41, dtype=torch.float64)
    assert torch.equal(k3_kl(x, x), torch.zeros_like(x))
    assert (k3_kl(x[:, None], x[None, :]) >= 0).all()
    assert k3_kl(torch.tensor([-1.0]), torch.tensor([-3.0])).item() == pytest.approx(math.exp(-2) + 2 - 1)
    assert k3_kl(torch.tensor([-3.0]), torch.tensor([-1.0])).item() == pytest.approx(math.exp(2) - 2 - 1)


def test_k3_has_the_expectation_of_the_kl_divergence_from_policy_to_reference():
    policy = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    reference = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    expected = (policy * (policy / reference).log()).sum()
    torch.testing.assert_close((policy * k3_kl(policy.log(), reference.log())).sum(), expected)


def test_token_weights_are_means_over_tokens_rollouts_and_questions():
    weights = token_weights([2, 0, 1, 4], questions=3, rollouts=4)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, torch.tensor([1 / 24] * 2 + [1 / 12] + [1 / 48] * 4))


def test_token_weights_of_a_full_mini_batch_sum_to_the_number_of_branches():
    """Two branches of each of 5 questions: the branches are summed (Eq. 6), not averaged."""
    lengths = [3, 1, 9, 2]
    total = sum(token_weights(lengths, 5, len(lengths)).sum() for _ in range(5 * 2))
    torch.testing.assert_close(total, torch.tensor(2.0))
