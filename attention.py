"""Shared-prefix attention: a prompt is causal, each completion attends to its prompt and, causally, to itself.

Registered with transformers as SHARED_PREFIX. The language model hands its keyword arguments down to every layer's
attention, through gradient checkpointing too: `language_model(..., shared_prefix=layout(row))`. Without that argument
a call is the library's ordinary SDPA. No T x T mask exists on either kind of device. T packed tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from packing import PackedRow

SHARED_PREFIX = "shared_prefix"
BLOCK = 128  # FlexAttention's tile: whole tiles are skipped or computed without looking at the mask
Spans = tuple[tuple[int, ...], ...]


def layout(row: PackedRow) -> Spans | BlockMask:
    """What `shared_prefix_attention` needs of a row: FlexAttention's block mask on a GPU, else the row's spans."""
    return block_mask(row) if row.ids.is_cuda else row.spans


def visible(prefixes: torch.Tensor, segments: torch.Tensor) -> Callable:
    """FlexAttention's mask_mod of PackedRow's (T,) `prefixes` and `segments`: may q attend to k?"""

    def mask_mod(batch, head, q, k):
        own = (segments[k] == -1) | (segments[q] == segments[k])
        return (q >= k) & (prefixes[q] == prefixes[k]) & own

    return mask_mod


def block_mask(row: PackedRow) -> BlockMask:
    """The row's BlockMask, one stripe of BLOCK queries at a time: `create_block_mask` would hold T x T first."""
    tokens = row.ids.numel()
    blocks = -(-tokens // BLOCK)
    rest = (0, blocks * BLOCK - tokens)
    # A last tile that sticks out is of no group: it then counts as partly visible, and the kernel checks its bounds.
    mask_mod = visible(pad(row.prefixes, rest, value=-1), pad(row.segments, rest, value=-2))
    at = torch.arange(blocks * BLOCK, device=row.ids.device)
    stripes = [mask_mod(0, 0, q[:, None], at[None]) for q in at.split(BLOCK)]
    counts = torch.stack([stripe.view(BLOCK, blocks, BLOCK).sum((0, 2)) for stripe in stripes])
    full = counts == BLOCK * BLOCK
    tables = [_table(mask[None, None]) for mask in ((counts > 0) & ~full, full)]
    return BlockMask.from_kv_blocks(
        *tables[0], *tables[1], BLOCK_SIZE=BLOCK, mask_mod=mask_mod, seq_lengths=(tokens, tokens)
    )


def _table(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """bool (1, 1, Q, K) -> how many key tiles each query tile has (1, 1, Q), and their indices first (1, 1, Q, K)."""
    indices = tiles.int().argsort(dim=-1, descending=True, stable=True)
    return tiles.sum(-1, dtype=torch.int32), indices.int()


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    shared_prefix: Spans | BlockMask | None = None,
    scaling: float,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query (1, H, T, d), key and value (1, K, T, d), K dividing H -> (1, T, H, d).

    `shared_prefix`: `layout` of the row; None: an ordinary call.
    """
    if shared_prefix is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if isinstance(shared_prefix, BlockMask):
        out = compiled_flex_attention()(query, key, value, block_mask=shared_prefix, scale=scaling, enable_gqa=True)
    else:
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.float().repeat_interleave(repeats, dim=1) for x in (key, value))
        # In float32: parts rounded to bfloat16 before they are added would be less exact than one softmax.
        out = SpanAttention.apply(query.float(), key, value, shared_prefix, scaling).to(query.dtype)
    return out.transpose(1, 2).contiguous(), None


@functools.cache
def compiled_flex_attention() -> Callable:
    """FlexAttention's kernels, compiled at the first call; at the first other T once more, for any T."""
    return torch.compile(flex_attention)


def _parts(spans: Spans) -> Iterator[tuple[slice, slice, bool]]:
    """(queries, keys, causal): every prompt and completion with itself, then a group's completions with its prompt."""
    start = 0
    for prompt_tokens, *lengths in spans:
        prompt = slice(start, start + prompt_tokens)
        for length in (prompt_tokens, *lengths):
            if length:
                yield slice(start, start + length), slice(start, start + length), True
            start += length
        if start > prompt.stop:
            yield slice(prompt.stop, start), prompt, False


class SpanAttention(torch.autograd.Function):
    """FlashAttention on the CPU over `_parts`; query, key, value float32 (1, H, T, d).

    Parts of the keys add up by their log-sum-exp, and FlashAttention's backward of a part is right under the whole
    row's output and log-sum-exp (Ring Attention, arXiv 2310.01889): no mask, and no copy of the prompt per completion.
    """

    @staticmethod
    def forward(ctx, query, key, value, spans: Spans, scaling: float) -> torch.Tensor:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:3])
        for rows, keys, causal in _parts(spans):
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, rows], key[:, :, keys], value[:, :, keys], 0.0, causal, scale=scaling
            )
            if causal:  # the first part of these rows
                out[:, :, rows], lse[:, :, rows] = part, part_lse
                continue
            total = torch.logaddexp(lse[:, :, rows], part_lse)
            out[:, :, rows] *= torch.exp(lse[:, :, rows] - total)[..., None]
            out[:, :, rows] += torch.exp(part_lse - total)[..., None] * part
            lse[:, :, rows] = total
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.spans, ctx.scaling = spans, scaling
        return out

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        totals = [torch.empty_like(x) for x in (query, key, value)]
        for rows, keys, causal in _parts(ctx.spans):
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient[:, :, rows], query[:, :, rows], key[:, :, keys], value[:, :, keys],
                out[:, :, rows], lse[:, :, rows], 0.0, causal, scale=ctx.scaling,
            )  # fmt: skip
            for total, part, at in zip(totals, parts, (rows, keys, keys), strict=True):
                if causal:
                    total[:, :, at] = part
                else:
                    total[:, :, at] += part
        return *totals, None, None


AttentionInterface.register(SHARED_PREFIX, shared_prefix_attention)
AttentionMaskInterface.register(SHARED_PREFIX, sdpa_mask)
