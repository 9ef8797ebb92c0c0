r"""A completion's tags and what stands in them, in the formats of VideoChat-R1 and of the tasks that follow it.

Level 0: imports no file of ours. Every function here is linear in the length of the text and raises on no text
whatever: what cannot be read is None, or an empty list where the published reader takes nothing for an answer.
"""

from __future__ import annotations

import re
from math import isfinite

_NUMBER = r"[0-9]+(?:\.[0-9]*)?"
_PERIOD = re.compile(rf"(?<![0-9])({_NUMBER}) (?:to|and) ({_NUMBER})", re.IGNORECASE)
# Possessive (*+): white space that two patterns may share would be tried in every split, in quadratic time.
_PAIR = rf"\(\s*+{_NUMBER}\s*+,\s*+{_NUMBER}\s*+\)"
_CLIPS = re.compile(rf"\[\s*+(?:{_PAIR}(?:\s*+,\s*+{_PAIR})*+\s*+,?\s*+)?\]")
_SIDE = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_BOX = rf"\[\s*+{_SIDE}\s*+(?:,\s*+{_SIDE}\s*+){{3}},?\s*+\]"
_TRACK = re.compile(rf"\[\s*+{_BOX}(?:\s*+,\s*+{_BOX})*+\s*+,?\s*+\]")
_STOCK = re.compile(r"(?:The best answer is|The correct answer is|The answer is|The answer|The best option is|"
                    r"The correct option is|Best answer:|Best option:)")  # fmt: skip
LONGEST = 10_000  # characters of an answer; numbers of more digits are none


def blocks(text: str, tag: str) -> list[str]:
    """What stands in each <tag>...</tag>, in order."""
    found, end = [], 0
    while (start := text.find(f"<{tag}>", end)) >= 0 and (end := text.find(f"</{tag}>", start)) >= 0:
        found.append(text[start + len(tag) + 2 : end])
    return found


def tagged(text: str, *tags: str) -> bool:
    """Whether the text is these blocks, white space between them and nothing around: VideoChat-R1's pattern
    <a>.*?</a>\\s*<b>.*?</b>, matched in full, in linear time."""
    text, at = text.strip(), len(tags[0]) + 2
    if not (text.startswith(f"<{tags[0]}>") and text.endswith(f"</{tags[-1]}>")):
        return False
    for before, after in zip(tags, tags[1:], strict=False):
        seam = re.compile(rf"</{before}>\s*<{after}>").search(text, at)
        if seam is None:
            return False
        at = seam.end()
    return at <= len(text) - len(tags[-1]) - 3


def answer(text: str) -> str:
    """What stands in the first answer block; empty without one."""
    return next(iter(blocks(text, "answer")), "")


def thought_graph(text: str) -> str:
    """The last graph block within the first think block; empty without one."""
    thought = next(iter(blocks(text, "think")), "")
    return (blocks(thought, "graph") or [""])[-1]


def read_period(text: str) -> list[list[float]]:
    """The last "12.5 to 17.8" (or "and") in the last answer block; none where it runs backwards (table row 40)."""
    said = (blocks(text, "answer") or [""])[-1][:LONGEST]
    periods = _PERIOD.findall(said)
    start, end = map(float, periods[-1]) if periods else (1.0, 0.0)
    return [[start, end]] if start <= end else []


def read_clips(text: str) -> list[list[float]] | None:
    """[(s, e), ...] in the glue block, may be empty; None where it is no such list or one runs backwards."""
    said = next(iter(blocks(text, "glue")), "").strip()
    if len(said) > LONGEST or not _CLIPS.fullmatch(said):
        return None
    numbers = list(map(float, re.findall(_NUMBER, said)))
    pairs = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return pairs if all(start <= end for start, end in pairs) else None


def read_boxes(text: str) -> list[list[float]] | None:
    """The boxes in the answer block; None where it is no list of boxes."""
    said = answer(text).strip()
    if len(said) > LONGEST or not _TRACK.fullmatch(said):
        return None
    numbers = list(map(float, re.findall(_SIDE, said)))
    return [numbers[i : i + 4] for i in range(0, len(numbers), 4)]


def read_letter(text: str) -> str | None:
    """The first of A to G in the answer block, stock phrases ("The answer is") set aside."""
    found = re.search("[A-G]", _STOCK.sub("", answer(text)))
    return found and found[0]


def read_number(text: str) -> float | None:
    """The number that the answer block is, a percent sign set aside."""
    said = answer(text).strip().removesuffix("%").strip()
    return float(said) if len(said) < 400 and re.fullmatch(_SIDE, said) and isfinite(float(said)) else None


def read_box(text: str) -> list[float] | None:
    """The [x0, y0, x1, y1] that the answer block is."""
    said = answer(text).strip()
    return list(map(float, re.findall(_SIDE, said))) if len(said) < 400 and re.fullmatch(_BOX, said) else None
