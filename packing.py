"""Shared-prefix layout: each group's prompt once, its G completions behind it, several groups in one row.

Index arithmetic only: no model, no loss. T packed tokens, P prompt, L completion, C = sum of all completion lengths,
R rows whose logits are wanted.

Example: one group with prompt [7 8 9] and completions [1 2] and [3]:

    ids        7  8  9  1  2  3
    position   0  1  2  3  4  3      each completion starts again behind the prompt
    prefix     0  0  0  0  0  0      the group a token belongs to
    segment   -1 -1 -1  0  0  1      -1 in the prompt, else which completion
    logit row        2  3            rows that predict a token, each once: the prompt's last predicts every first one
    target              1  2  3      the tokens whose log-probs are wanted, and
    target row          0  1  0      which of the logit rows predicts each
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
    """int64 (R,), ascending: the rows that predict a completion token."""
    targets: torch.Tensor
    """int64 (C,): the completion tokens, in order of group, rollout, token."""
    target_rows: torch.Tensor
    """int64 (C,): index in `logit_rows` of the row that predicts each."""
    spans: tuple[tuple[int, ...], ...]
    """Per group: tokens of its prompt, then of each completion; all of them sum to T."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens per completion, in order of group and rollout; sums to C."""
        return tuple(length for _, *lengths in self.spans for length in lengths)


def pack(
    prompts: Sequence[Sequence[int]], positions: Sequence[torch.Tensor], completions: Sequence[Sequence[Sequence[int]]]
) -> PackedRow:
    """Lay out groups: `prompts[g]` (P,) ids, `positions[g]` (3, P), `completions[g][i]` (L,) ids, ragged."""
    ids, places, prefixes, segments, predictors = [], [], [], [], []
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
            predictors += [last_prompt_row, *range(first_row, first_row + n - 1)][:n]
            segment += 1
    ids_T, segments_T = torch.tensor(ids), torch.tensor(segments)
    logit_rows, target_rows = torch.tensor(predictors, dtype=torch.int64).unique(return_inverse=True)
    return PackedRow(
        ids=ids_T,
        positions=torch.cat(places, dim=1),
        prefixes=torch.tensor(prefixes),
        segments=segments_T,
        logit_rows=logit_rows,
        targets=ids_T[segments_T >= 0],
        target_rows=target_rows,
        spans=tuple((len(prompt), *map(len, each)) for prompt, each in zip(prompts, completions, strict=True)),
    )


def split_by_completion(values: torch.Tensor, row: PackedRow) -> list[torch.Tensor]:
    """(C,) -> one tensor per completion, in order of group and rollout."""
    return list(torch.split(values, list(row.lengths)))
