"""Who trains what: groups dealt to ranks, and to the packs of each rank, by their tokens. Numbers in, indices out.

FSDP keeps ranks in step, so a mini-batch takes as long as its fullest rank. Longest first (LPT) is near the best once a
rank holds some eight groups. Where it holds one or two, a long group is split: its completions go to two ranks, each
with the prompt, wherever that makes the fullest rank lighter.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Piece:
    """A group's prompt with all or some of its completions."""

    group: int
    """Index of the group in the mini-batch."""
    rollouts: tuple[int, ...]
    """Indices of the completions in the group, ascending."""
    prompt: int
    """Tokens of the prompt."""
    lengths: tuple[int, ...]
    """Tokens of these completions."""

    @property
    def tokens(self) -> int:
        """Length of its part of a packed row."""
        return self.prompt + sum(self.lengths)

    def cut(self, count: int) -> list[Piece]:
        """Its `count` shortest completions, and the others."""
        order = sorted(range(len(self.lengths)), key=lambda k: self.lengths[k])
        return [
            Piece(self.group, tuple(self.rollouts[k] for k in part), self.prompt, tuple(self.lengths[k] for k in part))
            for part in (sorted(order[:count]), sorted(order[count:]))
        ]


def longest_first(sizes: Sequence[int], bins: int) -> list[list[int]]:
    """LPT: the longest first, each to the bin that holds least. -> the indices in each bin, ascending; bins from the
    fullest to the emptiest, so that the k-th packs of two ranks are alike."""
    loads = [(0, 0, at) for at in range(bins)]  # a count beside the sum: where lengths are 0, no bin stays empty
    members: list[list[int]] = [[] for _ in range(bins)]
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        load, count, at = heapq.heappop(loads)
        members[at].append(i)
        heapq.heappush(loads, (load + sizes[i], count + 1, at))
    return [sorted(members[at]) for load, count, at in sorted(loads, key=lambda bin: (-bin[0], -bin[1], bin[2]))]


def deal(
    groups: Sequence[tuple[int, Sequence[int]]],
    holders: Sequence[Collection[int]],
    *,
    ranks: int,
    tokens_per_pack: int,
) -> list[list[list[Piece]]]:
    """Groups of a mini-batch -> [rank][pack] -> pieces; as many packs on every rank, some perhaps empty.

    groups: (prompt tokens, completion tokens) of each.
    holders: ranks that have each group already: a share goes where most of it is.
    tokens_per_pack: only a prompt with a single completion may exceed it.
    """
    pieces = []
    for i, (prompt, lengths) in enumerate(groups):
        rest = Piece(i, tuple(range(len(lengths))), prompt, tuple(lengths))
        while rest.tokens > tokens_per_pack and len(rest.rollouts) > 1:
            ends = itertools.accumulate(sorted(rest.lengths), initial=prompt)
            fitting = sum(end <= tokens_per_pack for end in ends) - 1
            fits, rest = rest.cut(max(fitting, 1))
            pieces.append(fits)
        pieces.append(rest)
    shares = _where_they_are(_shares(pieces, ranks), holders)
    count = 1
    while True:
        packs = [_split(share, count) for share in shares]
        if all(len(pack) <= 1 or load(pack) <= tokens_per_pack for rank in packs for pack in rank):
            return packs
        count += 1


def load(pieces: Sequence[Piece]) -> int:
    return sum(piece.tokens for piece in pieces)


def imbalance(loads: Sequence[int]) -> float:
    """Largest over mean: 1 where all ranks hold the same."""
    return max(loads) * len(loads) / sum(loads)


def _split(pieces: Sequence[Piece], bins: int) -> list[list[Piece]]:
    return [[pieces[i] for i in at] for at in longest_first([piece.tokens for piece in pieces], bins)]


def _shares(pieces: list[Piece], ranks: int) -> list[list[Piece]]:
    """LPT over ranks; then pieces of the fullest are cut in two, as long as that makes the fullest lighter."""
    shares = _split(pieces, ranks)
    while lighter := next(_lighter(pieces, shares), None):
        pieces, shares = lighter
    return shares


def _lighter(pieces: list[Piece], shares: list[list[Piece]]) -> Iterator[tuple[list[Piece], list[list[Piece]]]]:
    """Every cut of a piece of the fullest share after which LPT leaves the fullest lighter: (pieces, shares)."""
    for piece in sorted(shares[0], key=lambda piece: -piece.tokens):
        others = [other for other in pieces if other is not piece]
        for count in range(1, len(piece.rollouts)):
            cut = others + piece.cut(count)
            dealt = _split(cut, len(shares))
            if load(dealt[0]) < load(shares[0]):
                yield cut, dealt


def _where_they_are(shares: list[list[Piece]], holders: Sequence[Collection[int]]) -> list[list[Piece]]:
    """The same shares, each on the rank that has most of its tokens already (greedily): less to send."""
    stays = sorted(
        (-load([piece for piece in share if rank in holders[piece.group]]), rank, at)
        for at, share in enumerate(shares)
        for rank in range(len(shares))
    )
    placed: dict[int, int] = {}
    for _, rank, at in stays:
        if rank not in placed and at not in placed.values():
            placed[rank] = at
    return [shares[placed[rank]] for rank in range(len(shares))]
