"""Gold answers of a row whose answer is right in part: checked, and brought to canonical form.

Each function takes the gold object as the row has it, and the row's options where it needs them; it returns the object
with the parts that are graded, or raises ValueError(reason, detail), which the loader reports with file and row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from sys import float_info

import graphs
from transforms import COUNTERFACTUALS

Check = Callable[[dict, Sequence[str]], dict]
"""(gold as the row has it, options) -> gold in canonical form."""


def _numbers(value: object, size: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == size
        and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) <= float_info.max for v in value)
    )


def check_intervals(gold: dict, options: Sequence[str] = ()) -> dict:
    """`intervals`, seconds within `duration` of the clip asked about."""
    if not _numbers([gold.get("duration")], 1) or gold["duration"] <= 0:
        raise ValueError("duration must be a number of seconds above 0", gold.get("duration"))
    intervals = gold.get("intervals")
    if not isinstance(intervals, list) or not intervals or not all(_numbers(pair, 2) for pair in intervals):
        raise ValueError("intervals must be a list of [start, end] in seconds", intervals)
    for start, end in intervals:
        if not 0 <= start < end <= gold["duration"]:
            raise ValueError(
                "an interval must hold 0 <= start < end <= duration", f"{start}, {end}; {gold['duration']}"
            )
    return {"intervals": [list(map(float, pair)) for pair in intervals], "duration": float(gold["duration"])}


def check_boxes(gold: dict, options: Sequence[str]) -> dict:
    """`boxes` at equally spaced frames, first and last included; the first `given` of them are not scored, because the
    prompt holds them (table row 39: 0, as published, or 1)."""
    boxes, given = gold.get("boxes"), gold.get("given", 0)
    if not isinstance(boxes, list) or len(boxes) < 2 or not all(_numbers(box, 4) for box in boxes):
        raise ValueError("boxes must be two or more lists [x0, y0, x1, y1]", boxes)
    if given not in (0, 1):
        raise ValueError("given must be 0 or 1", given)
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError("a box must hold 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1", [x0, y0, x1, y1])
    return {"boxes": [list(map(float, box)) for box in boxes], "given": int(given)}


def check_letter(gold: dict, options: Sequence[str]) -> dict:
    """`letter` of one of the options."""
    letter = str(gold.get("letter")).strip(" ().").upper()
    offered = [re.sub(r"^\(?([A-Z])\b.*", r"\1", option, flags=re.DOTALL) for option in options]
    if letter not in offered:
        raise ValueError("letter must be one of the options", gold.get("letter"))
    return {"letter": letter}


def check_words(name: str) -> Check:
    """The part `name`, text in lower case."""

    def check(gold: dict, options: Sequence[str]) -> dict:
        if not isinstance(gold.get(name), str) or not gold[name].strip():
            raise ValueError(f"{name} must be text", gold.get(name))
        return {name: gold[name].strip().lower()}

    return check


def check_events(gold: dict, options: Sequence[str]) -> dict:
    """`events`, texts, each once."""
    events = gold.get("events")
    if not isinstance(events, list) or not events or not all(isinstance(e, str) and e.strip() for e in events):
        raise ValueError("events must be a list of texts, at least one", events)
    return {"events": list(dict.fromkeys(event.strip() for event in events))}


def check_order(gold: dict, options: Sequence[str]) -> dict:
    """`order`, numbers of distinct candidates among 1..`candidates`."""
    count, numbers = gold.get("candidates"), gold.get("order")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError("candidates must be a whole number, 1 or more", count)
    if not isinstance(numbers, list) or not numbers or len(set(map(str, numbers))) < len(numbers):
        raise ValueError("order must be a list of distinct candidates", numbers)
    if any(not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= count for n in numbers):
        raise ValueError("order must hold numbers of candidates", f"{numbers}, 1 to {count}")
    return {"order": numbers, "candidates": count}


def check_number(gold: dict, options: Sequence[str]) -> dict:
    """`number`, finite."""
    if not _numbers([gold.get("number")], 1):
        raise ValueError("number must be one", gold.get("number"))
    return {"number": float(gold["number"])}


def check_box(gold: dict, options: Sequence[str]) -> dict:
    """`box` in 0..1 of the picture."""
    box = gold.get("box")
    if not _numbers(box, 4) or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError("box must be [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1", box)
    return {"box": list(map(float, box))}


def _graph(gold: dict) -> dict:
    """`graph`, a list of {name: [[x, y], ...]} in 0..1 with an object in each, and how `angles` are measured."""
    graph = graphs.read(json.dumps(gold["graph"]))
    if not graph or not all(any(moment.values()) for moment in graph):
        raise ValueError("graph must be a list of {name: [[x, y], ...]}, an object in each", gold["graph"])
    if any(not 0 <= side <= 1 for moment in graph for points in moment.values() for point in points for side in point):
        raise ValueError("graph must lie in 0..1 of the picture", gold["graph"])
    if gold.get("angles") not in ("absolute", "relative"):
        raise ValueError("angles must be absolute or relative", gold.get("angles"))
    return {"graph": graph, "angles": gold["angles"]}


def check_relation(check: Check) -> Check:
    """Gold of Video-STR: the answer, `graph` and `angles` where the scene has one, and what is right `under` the
    transforms that the row knows of."""

    def whole(gold: dict, options: Sequence[str]) -> dict:
        parts = check(gold, options) | (_graph(gold) if "graph" in gold else {})
        under = gold.get("under", {})
        if not isinstance(under, dict) or not all(
            name in COUNTERFACTUALS and isinstance(known, dict) for name, known in under.items()
        ):
            raise ValueError(f"under must hold an answer for some of {', '.join(COUNTERFACTUALS)}", under)
        known = {name: check(gold | known, options) for name, known in under.items()}
        return parts | ({"under": known} if known else {})

    return whole
