"""Log-probs and entropies of chosen tokens: the logits of CHUNK rows exist at a time, forward and backward.

Autograd would keep several copies of them for its way back. Here one chunk is computed again there, and turned into its
own gradient in place: d logp / d logits = one-hot - softmax.

R rows, D hidden units, V vocabulary, C tokens; a row may predict several of them (packing.PackedRow.target_rows).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

CHUNK = 256  # rows: 256 x 152k float32 = 0.16 GB, and enough of them to keep a GPU's matrix units busy
STRIPE = 16_384  # tokens of the vocabulary whose gradient of a chunk exists at a time
BAN_BIAS = -100.0


def completion_logps(
    hidden_RD: torch.Tensor,
    weight_VD: torch.Tensor,
    rows_C: torch.Tensor,
    targets_C: torch.Tensor,
    *,
    banned: Sequence[int] = (),
    temperature: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the softmax of (hidden @ weight.T + BAN_BIAS on `banned`) / temperature -> log-probs of `targets_C` in rows
    `rows_C`, and the entropies of those rows in nats, without gradient; both (C,), float32 or wider."""
    return _CompletionLogps.apply(hidden_RD, weight_VD, rows_C, targets_C, list(banned), temperature)


class _CompletionLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_RD, weight_VD, rows_C, targets_C, banned, temperature):
        wide = torch.promote_types(hidden_RD.dtype, torch.float32)
        logps_C, entropies_C = hidden_RD.new_empty(2, len(rows_C), dtype=wide)
        top_R, log_sum_R = hidden_RD.new_empty(2, len(hidden_RD), dtype=wide)
        for rows, at in _chunks(len(hidden_RD), rows_C):
            logits = _logits(hidden_RD[rows], weight_VD, banned, temperature)
            top_R[rows] = logits.amax(-1)
            weights = logits.sub_(top_R[rows, None]).exp()
            sums = weights.sum(-1)
            log_sum_R[rows] = sums.log()
            mean_logits = torch.bmm(weights[:, None], logits[:, :, None])[:, 0, 0] / sums
            own = rows_C[at]
            logps_C[at] = logits[own - rows.start, targets_C[at]] - log_sum_R[own]
            entropies_C[at] = log_sum_R[own] - mean_logits[own - rows.start]
        ctx.save_for_backward(hidden_RD, weight_VD, rows_C, targets_C, top_R, log_sum_R)
        ctx.banned, ctx.temperature = banned, temperature
        ctx.mark_non_differentiable(entropies_C)
        return logps_C, entropies_C

    @staticmethod
    def backward(ctx, gradient_C, _):
        hidden_RD, weight_VD, rows_C, targets_C, top_R, log_sum_R = ctx.saved_tensors
        hidden_gradient = torch.empty_like(hidden_RD) if ctx.needs_input_grad[0] else None
        weight_gradient = None
        if ctx.needs_input_grad[1]:  # float32: summed in bfloat16 it would be rounded once a chunk
            wide = torch.promote_types(weight_VD.dtype, torch.float32)
            weight_gradient = torch.zeros_like(weight_VD, dtype=wide)
        for rows, at in _chunks(len(hidden_RD), rows_C):
            own, part_C = rows_C[at] - rows.start, gradient_C[at]
            logits = _logits(hidden_RD[rows], weight_VD, ctx.banned, ctx.temperature)
            probabilities = logits.sub_(top_R[rows, None]).sub_(log_sum_R[rows, None]).exp_()
            sums = probabilities.new_zeros(len(probabilities)).index_add_(0, own, part_C)
            slopes = probabilities.mul_(-sums[:, None]).index_put_((own, targets_C[at]), part_C, accumulate=True)
            slopes = slopes.div_(ctx.temperature).to(weight_VD.dtype)
            if hidden_gradient is not None:
                hidden_gradient[rows] = slopes @ weight_VD
            if weight_gradient is not None and weight_gradient.dtype == weight_VD.dtype:
                weight_gradient.addmm_(slopes.T, hidden_RD[rows])
            elif weight_gradient is not None:
                for total, part in zip(weight_gradient.split(STRIPE), slopes.T.split(STRIPE), strict=True):
                    total += part @ hidden_RD[rows]
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight_VD.dtype)
        return hidden_gradient, weight_gradient, None, None, None, None


def _chunks(count: int, rows_C: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """(rows of a chunk, indices of its tokens)."""
    sorted_C, order_C = rows_C.sort()
    starts = range(0, count, CHUNK)
    bounds = torch.tensor([*starts, count], device=rows_C.device)
    sizes = torch.searchsorted(sorted_C, bounds).diff().tolist()
    yield from zip((slice(i, min(i + CHUNK, count)) for i in starts), order_C.split(sizes), strict=True)


def _logits(hidden: torch.Tensor, weight_VD: torch.Tensor, banned: list[int], temperature: float) -> torch.Tensor:
    logits = hidden @ weight_VD.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits[:, banned] += BAN_BIAS
    return logits.div_(temperature)
