"""Shared-prefix layout: each group's prompt once, its G completions behind it, several groups in one row.

Index arithmetic only: no model, no loss. T packed tokens, P prompt, L completion, C = sum of all completion lengths.

Example: one group with prompt [7 8 9] and completions [1 2] and [3]:

    ids        7  8  9  1  2  3
    position   0  1  2  3  4  3      each completion starts again behind the prompt
    prefix     0  0  0  0  0  0      the group a token belongs to
    segment   -1 -1 -1  0  0  1      -1 in the prompt, else which completion
    target              1  2  3      the tokens whose log-probs are wanted, and
    logit row           2  3  2      the row that predicts each: the prompt's last row predicts every first token
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class PackedRow:
    """One row for the model."""

    ids: torch.Tensor
    """int64 (T,)."""
    positions: torch.Tensor
    """int64 (3, T): MRoPE temporal, height, width."""
    prefixes: torch.Tensor
    """int64 (T,): index of the group a token belongs to."""
    segments: torch.Tensor
    """int64 (T,): -1 in a prompt, else the index of the completion, counted over the row."""
    logit_rows: torch.Tensor
    """int64 (C,): row that predicts each completion token."""
    targets: torch.Tensor
    """int64 (C,): the completion tokens, in order of group, rollout, token."""
    lengths: tuple[int, ...]
    """Tokens per completion, in the same order; sums to C."""


def pack(
    prompts: Sequence[Sequence[int]], positions: Sequence[torch.Tensor], completions: Sequence[Sequence[Sequence[int]]]
) -> PackedRow:
    """Lay out groups: `prompts[g]` (P,) ids, `positions[g]` (3, P), `completions[g][i]` (L,) ids, ragged."""
    ids, places, prefixes, segments, logit_rows, lengths = [], [], [], [], [], []
    segment = 0
    for group, (prompt, position_3P, group_completions) in enumerate(zip(prompts, positions, completions, strict=True)):
        if position_3P.shape != (3, len(prompt)):
            raise ValueError(f"positions must be (3, {len(prompt)}) for that prompt; got {tuple(position_3P.shape)}")
        last_prompt_row = len(ids) + len(prompt) - 1
        behind = int(position_3P.max()) + 1  # video positions end above the token count or below it: take the maximum
        ids += prompt
        places.append(position_3P)
        prefixes += [group] * len(prompt)
        segments += [-1] * len(prompt)
        for completion in group_completions:
            n, first_row = len(completion), len(ids)
            ids += completion
            places.append((behind + torch.arange(n)).expand(3, n))
            prefixes += [group] * n
            segments += [segment] * n
            logit_rows += [last_prompt_row, *range(first_row, first_row + n - 1)][:n]
            lengths.append(n)
            segment += 1
    ids_T, segments_T = torch.tensor(ids), torch.tensor(segments)
    return PackedRow(
        ids=ids_T,
        positions=torch.cat(places, dim=1),
        prefixes=torch.tensor(prefixes),
        segments=segments_T,
        logit_rows=torch.tensor(logit_rows, dtype=torch.int64),
        targets=ids_T[segments_T >= 0],
        lengths=tuple(lengths),
    )


def attention_mask(row: PackedRow) -> torch.Tensor:
    """bool (1, 1, T, T), True = may attend: causal, same group, and the key in the prompt or in the own completion."""
    t = torch.arange(row.ids.numel(), device=row.segments.device)
    causal = t[:, None] >= t[None, :]
    same_group = row.prefixes[:, None] == row.prefixes[None, :]
    visible = (row.segments[None, :] == -1) | (row.segments[:, None] == row.segments[None, :])
    return (causal & same_group & visible)[None, None]


def split_by_completion(values: torch.Tensor, row: PackedRow) -> list[torch.Tensor]:
    """(C,) -> one tensor per completion, in order of group and rollout."""
    return list(torch.split(values, list(row.lengths)))
