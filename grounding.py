"""Overlap of intervals in time and of boxes in a frame, as VideoChat-R1 pays for it. Level 0: imports no file of ours.

An interval is (start, end) in seconds, a box (x0, y0, x1, y1) in 0..1 of the frame's width and height. Every function
is in 0..1 and raises on no numbers whatever: what is reversed, empty, not finite or beyond FAR covers nothing. (In the
released code a reversed box has a negative area, and its IoU can exceed 1.)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

Interval = Sequence[float]
Box = Sequence[float]
FAR = 1e9
"""Seconds: no time in a clip. Sums of such would overflow, and an interval would not equal itself."""


def merged(intervals: Sequence[Interval]) -> list[tuple[float, float]]:
    """The same stretches of time as disjoint intervals in order; overlapping and touching ones are one."""
    joined: list[tuple[float, float]] = []
    for start, end in sorted((s, e) for s, e in intervals if -FAR <= s < e <= FAR):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(joined[-1][1], end)
        else:
            joined.append((start, end))
    return joined


def seconds(intervals: Sequence[Interval]) -> float:
    """Length of `merged` intervals."""
    return sum(end - start for start, end in intervals)


def shared_seconds(a: Sequence[Interval], b: Sequence[Interval]) -> float:
    """Length of what two lists of `merged` intervals have in common."""
    shared, i, j = 0.0, 0, 0
    while i < len(a) and j < len(b):
        shared += max(0.0, min(a[i][1], b[j][1]) - max(a[i][0], b[j][0]))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return shared


def interval_iou(predicted: Sequence[Interval], gold: Sequence[Interval]) -> float:
    """Intersection over union of two sets of intervals, each merged first; 1 where both are empty.

    VideoChat-R1's reward of temporal grounding (one interval each) and of grounded QA's clips.
    """
    predicted, gold = merged(predicted), merged(gold)
    shared = shared_seconds(predicted, gold)
    union = seconds(predicted) + seconds(gold) - shared
    return min(1.0, shared / union) if union > 0 else 1.0


def interval_iop(predicted: Sequence[Interval], gold: Sequence[Interval]) -> float:
    """Intersection over the prediction: how much of what was pointed at is right; 0 for an empty one.

    NExT-GQA's measure, of merged intervals on both sides as in the reward. Its own scorer takes one predicted interval
    and the best of the gold ones, so that it is stricter where gold has several.
    """
    predicted, gold = merged(predicted), merged(gold)
    length = seconds(predicted)
    return min(1.0, shared_seconds(predicted, gold) / length) if length > 0 else 0.0


def box_iou(predicted: Box, gold: Box) -> float:
    """Intersection over union of two boxes; 0 where the union has no area. Boxes may leave the frame."""

    def area(x0: float, y0: float, x1: float, y1: float) -> float:
        return max(0.0, x1 - x0) * max(0.0, y1 - y0)

    if not all(map(isfinite, (*predicted, *gold))):
        return 0.0
    sides = zip((max, max, min, min), predicted, gold, strict=True)
    shared = min(area(*(side(a, b) for side, a, b in sides)), area(*predicted), area(*gold))
    union = area(*predicted) + area(*gold) - shared
    return min(1.0, shared / union) if 0 < union < float("inf") else 0.0


def mean_overlap(predicted: Sequence[Box], gold: Sequence[Box]) -> float:
    """Mean IoU of boxes frame by frame, 1 without any: VideoChat-R1's reward of tracking, GOT-10k's average overlap.

    Raises ValueError where the numbers of boxes differ.
    """
    each = [box_iou(a, b) for a, b in zip(predicted, gold, strict=True)]
    return sum(each) / len(each) if each else 1.0
