"""pytest tests/test_logprobs.py -- chunked log-probs, entropies and their gradients against torch's own in float64."""

import pytest
import torch
from torch.distributions import Categorical

import logprobs

R, D, V, C = 11, 6, 23, 17


def case(dtype, seed=0):
    """Hidden rows, head, and C tokens out of order; row 0 predicts none, some predict several."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(R, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, D, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    rows = torch.randint(1, R, (C,), generator=generator)
    return hidden, weight, rows, torch.randint(0, V, (C,), generator=generator)


def reference(hidden, weight, rows, targets, banned, temperature):
    bias = torch.zeros(V, dtype=torch.float64).index_fill_(0, torch.tensor(banned, dtype=torch.int64), -100.0)
    spread = Categorical(logits=((hidden.double() @ weight.double().T + bias) / temperature)[rows])
    return spread.log_prob(targets), spread.entropy()


@pytest.mark.parametrize("chunk", [1, 4, 256])
@pytest.mark.parametrize("banned, temperature", [((), 1.0), ((3, 7), 0.6)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_values_and_gradients_are_torchs(monkeypatch, chunk, banned, temperature, dtype, tolerance):
    monkeypatch.setattr(logprobs, "CHUNK", chunk)
    hidden, weight, rows, targets = case(dtype)
    got, entropies = logprobs.completion_logps(hidden, weight, rows, targets, banned=banned, temperature=temperature)
    expected, spread = reference(hidden, weight, rows, targets, banned, temperature)
    assert got.dtype == dtype and not entropies.requires_grad
    for ours, theirs in ((got, expected), (entropies, spread)):
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)
    slopes = torch.linspace(-2, 3, C, dtype=torch.float64)
    ours = torch.autograd.grad((slopes.to(dtype) * got).sum(), (hidden, weight))
    theirs = torch.autograd.grad((slopes * expected).sum(), (hidden, weight))
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm()
    assert not ours[0][0].any(), "a row that predicts nothing has no gradient"


def test_a_frozen_head_still_lets_the_gradient_through():
    hidden, weight, rows, targets = case(torch.float64)
    weight.requires_grad_(False)
    assert torch.autograd.gradcheck(lambda h: logprobs.completion_logps(h, weight, rows, targets)[0], (hidden,))


def test_bfloat16_logits_are_summed_in_float32():
    """The product is rounded to bfloat16, as the engine's is; nothing after it."""
    hidden, weight, rows, targets = case(torch.bfloat16)
    with torch.no_grad():
        got, _ = logprobs.completion_logps(hidden, weight, rows, targets)
        expected = torch.log_softmax((hidden @ weight.T).float(), dim=-1)[rows, targets]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_many_chunks_leave_the_bfloat16_gradient_of_the_head_as_exact_as_one_product(monkeypatch):
    monkeypatch.setattr(logprobs, "CHUNK", 16)
    monkeypatch.setattr(logprobs, "STRIPE", 10)
    generator, rows = torch.Generator().manual_seed(0), torch.arange(640)
    draws = torch.randn(len(rows) + V, D, generator=generator, dtype=torch.float64).to(torch.bfloat16)
    hidden, weight = 0.5 + draws[: len(rows)], draws[len(rows) :]  # rows alike: what a trained model's head sums up
    targets = torch.randint(0, V, (len(rows),), generator=generator)

    def gradient(logps_of, dtype):
        head = weight.to(dtype).requires_grad_()
        return torch.autograd.grad(logps_of(hidden.to(dtype), head).sum(), head)[0].double()

    def plain(hidden, head):
        logits = hidden @ head.T
        return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)[rows, targets]

    exact = gradient(plain, torch.float64)
    chunked = gradient(lambda h, head: logprobs.completion_logps(h, head, rows, targets)[0], torch.bfloat16)
    assert (chunked - exact).norm() <= 1.2 * (gradient(plain, torch.bfloat16) - exact).norm()


def test_without_any_token_there_is_nothing():
    hidden, weight, _, _ = case(torch.float32)
    none = torch.zeros(0, dtype=torch.int64)
    got, entropies = logprobs.completion_logps(hidden[:0], weight, none, none)
    assert got.shape == entropies.shape == (0,)
    got.sum().backward()
    assert not weight.grad.any()
