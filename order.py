"""Masked Video Prediction's reward: which candidates are the hidden frames, and in which order (arXiv 2601.03781).

Level 0: imports no file of ours. Candidates are numbered from 1. An answer is a tuple of such numbers, in the order in
which the model puts the frames; the gold one holds m distinct numbers.

Published: the task, and that the reward is "fine-grained" over two skills, selection and ordering. The formula is not:
ours is a reconstruction, (S + O) / 2 of the two below (`tasks.TASKS`, "order"). It is monotone in both skills, and
neither listing every candidate nor saying an answer twice pays. Picking m of m + l candidates at random earns
m / (m + l) of the selection, so exact matches are logged on their own.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

# Separators that models use: comma, semicolon, arrow, "then", or a blank. Six digits: int() of thousands raises.
_NUMBERS = re.compile(r"\[? ?([0-9]{1,6}(?: ?(?:,|;|->|>|\\to|\\rightarrow|\u2192|then| ) ?[0-9]{1,6})*) ?\]?\.?")
_NUMBER = re.compile(r"[0-9]+")


def read(text: str) -> tuple[int, ...] | None:
    """(3, 1, 4) of "3, 1, 4", "[3, 1, 4]" or "3 -> 1 -> 4"; None where it says anything else. Never raises."""
    found = _NUMBERS.fullmatch(" ".join(text.split()))
    return tuple(int(number) for number in _NUMBER.findall(found[1])) if found else None


def selection(answer: Sequence[int], gold: Sequence[int]) -> float:
    """S = |set of the answer n gold| / max(|answer|, m), in [0, 1]: a repeated or impossible number only lengthens."""
    return len(set(answer) & set(gold)) / max(len(answer), len(gold))


def ordering(answer: Sequence[int], gold: Sequence[int]) -> float:
    """O = longest common subsequence / max(|answer|, m), in [0, 1]; O = 1 exactly where the answer is the gold one."""
    place = {number: at for at, number in enumerate(gold)}
    # Gold numbers are distinct, so that a common subsequence is a strictly rising run of their places.
    ends: list[int] = []
    for at in (place[number] for number in answer if number in place):
        where = bisect_left(ends, at)
        ends[where : where + 1] = [at]
    return len(ends) / max(len(answer), len(gold))
