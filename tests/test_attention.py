"""pytest tests/test_attention.py -- who sees whom, against slow loops; outputs and gradients in float64; tiles."""

import types

import pytest
import torch
from distributed import dense_mask
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from attention import BLOCK, block_mask, layout, shared_prefix_attention, visible
from packing import pack

GROUPS = {
    "one group": [([1, 2, 3], [[4, 5], [6]])],
    "an empty completion": [([1, 2, 3], [[4, 5], [], [6]]), ([7], [[8, 9, 1], [2]])],
    "prompts of one token": [([1], [[2]]), ([3], [[4]]), ([5, 6], [[], [7], [8, 8]])],
    "no completion at all": [([1, 2], [[], []])],
}
SPANS = [(5, 2, 9), (128, 128), (40, 9, 0, 1), (200, 70, 70), (256, 130, 126), (1, 300)]
every_kind = pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS.keys())
pytestmark = pytest.mark.usefixtures("one_thread")


def row_of(groups):
    prompts, completions = [p for p, _ in groups], [c for _, c in groups]
    return pack(prompts, [torch.arange(len(p)).expand(3, -1) for p in prompts], completions)


def row_of_spans(*spans):
    return row_of([([0] * prompt, [[0] * n for n in lengths]) for prompt, *lengths in spans])


def owner(groups):
    """(group, completion or None, place) of every packed token, by counting."""
    out = []
    for g, (prompt, completions) in enumerate(groups):
        out += [(g, None, place) for place in range(len(prompt))]
        for c, completion in enumerate(completions):
            out += [(g, c, len(prompt) + place) for place in range(len(completion))]
    return out


def seen_by(groups):
    """For each packed token the indices of those it may attend to, by a slow loop."""
    tokens = owner(groups)
    return [
        [
            k
            for k, (group_k, completion_k, place_k) in enumerate(tokens)
            if group_q == group_k and place_k <= place_q and completion_k in (None, completion_q)
        ]
        for group_q, completion_q, place_q in tokens
    ]


@every_kind
def test_the_mask_equals_a_slow_loop(groups):
    mask = dense_mask(row_of(groups))[0, 0]
    assert [row.nonzero()[:, 0].tolist() for row in mask] == seen_by(groups)


def heads(tokens, dtype=torch.float32, query_heads=4, kv_heads=2, width=8):
    """query, key, value with gradients and the output's gradient, each (1, heads, T, width)."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(1, n, tokens, width) for n in (query_heads, kv_heads, kv_heads, query_heads)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in tensors[:3]] + tensors[3:]


def slow_attention(query, key, value, seen, scaling):
    """(1, T, H, width), one softmax per head and query."""
    out = []
    for q, keys in enumerate(seen):
        for head in range(query.shape[1]):
            kv = head * key.shape[1] // query.shape[1]
            scores = scaling * key[0, kv, keys] @ query[0, head, q]
            out.append(scores.softmax(0) @ value[0, kv, keys])
    return torch.stack(out).view(1, len(seen), query.shape[1], -1)


@every_kind
def test_outputs_and_gradients_equal_a_slow_loop_in_float64(groups):
    row = row_of(groups)
    query, key, value, gradient = heads(len(row.ids))
    got, _ = shared_prefix_attention(
        torch.nn.Module(), query, key, value, None, shared_prefix=layout(row), scaling=0.3, dropout=0.0
    )
    doubles = [tensor.detach().double().requires_grad_() for tensor in (query, key, value)]
    expected = slow_attention(*doubles, seen_by(groups), 0.3)
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)
    gradient = gradient.transpose(1, 2)
    got_gradients = torch.autograd.grad(got, (query, key, value), gradient)
    for a, b in zip(got_gradients, torch.autograd.grad(expected, doubles, gradient.double()), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("spans", [SPANS[:1], SPANS[1:2], SPANS[2:4], SPANS[4:], SPANS], ids=str)
def test_tiles_are_those_of_the_library(spans):
    """The stripes' block mask against torch's, which goes through a T x T mask."""
    row = row_of_spans(*spans)
    tokens = len(row.ids)
    mask_mod = visible(row.prefixes, row.segments)
    expected = create_block_mask(mask_mod, None, None, tokens, tokens, device="cpu", BLOCK_SIZE=BLOCK)
    got = block_mask(row)
    assert got.seq_lengths == expected.seq_lengths and got.BLOCK_SIZE == expected.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, indices = (
            [getattr(b, f"{kind}_{part}") for b in (got, expected)] for part in ("num_blocks", "indices")
        )
        assert torch.equal(*counts), kind
        for n, mine, theirs in zip(counts[0].flatten(), *(i.flatten(0, -2) for i in indices), strict=True):
            assert mine[:n].tolist() == theirs[:n].tolist(), kind


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_under_the_block_mask_equals_the_cpu_path():
    """Its forward, not compiled; compiled, with gradients: tests/test_gpu.py."""
    row = row_of_spans(*SPANS[2:5])
    query, key, value = (tensor.detach() for tensor in heads(len(row.ids), width=16)[:3])
    flex = flex_attention(query, key, value, block_mask=block_mask(row), scale=0.25, enable_gqa=True)
    mine, _ = shared_prefix_attention(
        torch.nn.Module(), query, key, value, None, shared_prefix=layout(row), scaling=0.25, dropout=0.0
    )
    torch.testing.assert_close(flex.transpose(1, 2), mine, rtol=1e-5, atol=1e-6)


def test_without_a_layout_it_is_the_librarys_own():
    query, key, value, _ = heads(12)
    module = types.SimpleNamespace(num_key_value_groups=2, is_causal=True)
    got, _ = shared_prefix_attention(module, query, key, value, None, scaling=0.3, dropout=0.0)
    causal = [list(range(q + 1)) for q in range(12)]
    torch.testing.assert_close(got, slow_attention(query, key, value, causal, 0.3), rtol=1e-5, atol=1e-6)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation within it returned."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_t_by_t_tensor_exists_forward_or_backward():
    row = row_of_spans(*[(300, *[60] * 8)] * 4)
    tokens = len(row.ids)
    query, key, value, gradient = heads(tokens, width=4)
    with LargestTensor() as dense:
        dense_mask(row)
    assert dense.numel >= tokens**2, "the control: the dense mask is one"
    with LargestTensor() as largest:
        block_mask(row)
        out, _ = shared_prefix_attention(
            torch.nn.Module(), query, key, value, None, shared_prefix=layout(row), scaling=0.5, dropout=0.0
        )
        out.backward(gradient.transpose(1, 2))
    assert largest.numel < tokens**2 / 16
