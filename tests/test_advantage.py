"""pytest tests/test_advantage.py -- the normalisers against numpy and the paper's numbers, Eq. 6's terms one by one."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advantage import clipped_objective, crpo_advantages, group_advantages, k3_kl, token_weights
from rewards import crpo_rewards, t_grpo_rewards

REWARDS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.3, 1.225, 2.0, 2.3]), min_size=2, max_size=8)


def slow_group(rewards, eps=1e-4):
    r = np.asarray(rewards, dtype=np.float64)
    centred = r - r.mean()
    std = 0.0 if len(r) == 1 else math.sqrt((centred**2).sum() / (len(r) - 1))
    return centred / (std + eps)


def slow_crpo(original, counterfactual, eps=1e-4):
    a, b = np.asarray(original, dtype=np.float64), np.asarray(counterfactual, dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    pool = np.concatenate([a, b])  # its mean is zero
    std = math.sqrt((pool**2).sum() / (len(pool) - 1))
    return a / (std + eps), b / (std + eps)


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


@given(REWARDS, st.sampled_from([1e-4, 1e-2, 0.0]))
@settings(max_examples=200, deadline=None)
def test_group_advantages_equal_numpy(rewards, eps):
    if len(set(rewards)) == 1:
        eps = 1e-4  # 0 / 0 has no answer
    got = group_advantages(torch.tensor(rewards, dtype=torch.float64), eps)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), slow_group(rewards, eps), rtol=1e-6, atol=1e-6)


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(*[st.lists(st.floats(-3, 3), min_size=n, max_size=n)] * 2)))
@settings(max_examples=200, deadline=None)
def test_crpo_advantages_equal_numpy(rewards):
    got = crpo_advantages(*(torch.tensor(r, dtype=torch.float64) for r in rewards))
    for value, expected in zip(got, slow_crpo(*rewards), strict=True):
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-5)


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


@given(st.permutations(range(8)), st.permutations(range(8)), st.lists(st.floats(0, 3), min_size=16, max_size=16))
@settings(max_examples=100, deadline=None)
def test_permuting_rollouts_permutes_advantages(order, cf_order, values):
    one, two = torch.tensor(values[:8]), torch.tensor(values[8:])
    a, a_cf = crpo_advantages(one, two)
    b, b_cf = crpo_advantages(one[list(order)], two[list(cf_order)])
    torch.testing.assert_close(b, a[list(order)], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(b_cf, a_cf[list(cf_order)], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        group_advantages(one[list(order)]), group_advantages(one)[list(order)], rtol=1e-5, atol=1e-6
    )


def test_each_branch_is_centred_by_its_own_mean():
    """A shift of one branch changes nothing; scale of one branch does: the std is one for both."""
    one, two = torch.tensor([2.0, 1.0, 1.0, 0.5]), torch.tensor([1.0, 0.0, 0.5, 0.5])
    a, a_cf = crpo_advantages(one, two)
    shifted = crpo_advantages(one + 5, two - 3)
    torch.testing.assert_close(shifted[0], a)
    torch.testing.assert_close(shifted[1], a_cf)
    scaled = crpo_advantages(10 * one, two)
    assert scaled[1].abs().max() < 0.5 * a_cf.abs().max()
    torch.testing.assert_close(a / a_cf, (one - one.mean()) / (two - two.mean()))


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
