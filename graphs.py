"""Video-STR's reward: a graph of the objects at chosen moments, and numbers by their relative error (arXiv 2510.10976).

Level 0: imports no file of ours. A graph is a list with one entry a moment, each {name: [(x, y), ...]}: the centres of
the objects of that name, as shares of the picture's width and height (x to the right, y down).

Published: nodes are positions and edges carry distance and angle; the node part is weighted by the number of objects;
R_graph is averaged over the chosen frames; the representation is said to be invariant to rotation. Not published: every
formula, the coordinates, the spelling. Ours is a reconstruction: R_n after the released code of SpaceR (map reward:
greedy nearest matching by class, 1 - d / diagonal, over the larger count), R_e and the average of both our own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations

Point = tuple[float, float]
Moment = Mapping[str, Sequence[Point]]
DIAGONAL = math.sqrt(2)
NEAR = 0.05
"""Edges shorter than this are judged as if they had this length: an error of a pixel is no error of 100 %."""
STILL = 1e-9
"""A shorter edge has no direction."""
FAR = 1e6
"""A coordinate beyond this is no place in a picture."""


def read(text: str) -> list[dict[str, list[Point]]] | None:
    """A graph from its JSON; None where it is none. Never raises."""
    try:
        moments = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(moments, list) or not all(isinstance(moment, dict) for moment in moments):
        return None
    graph = [{name: _points(points) for name, points in moment.items()} for moment in moments]
    return None if any(points is None for moment in graph for points in moment.values()) else graph


def _points(value: object) -> list[Point] | None:
    if not isinstance(value, list):
        return None
    for point in value:
        if not isinstance(point, list) or len(point) != 2 or not all(_is_coordinate(number) for number in point):
            return None
    return [(float(x), float(y)) for x, y in value]


def _is_coordinate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FAR  # so NaN is none


def match(predicted: Moment, gold: Moment) -> dict[str, list[tuple[int, int, float]]]:
    """Name -> (index predicted, index gold, distance) of the pairs, the nearest taken first (SpaceR's greedy rule)."""
    pairs = {}
    for name, places in gold.items():
        near = sorted(
            (math.dist(one, other), i, j)
            for i, one in enumerate(predicted.get(name, ()))
            for j, other in enumerate(places)
        )
        pairs[name], used = [], (set(), set())
        for distance, i, j in near:
            if i not in used[0] and j not in used[1]:
                pairs[name].append((i, j, distance))
                used[0].add(i)
                used[1].add(j)
    return pairs


def node_score(predicted: Moment, gold: Moment) -> float:
    """R_n of one moment in [0, 1]: sum over gold names of max(0, 1 - d / diagonal) / max(objects predicted, gold), each
    name weighted by its gold objects.

    Names that gold lacks are not looked at, as in SpaceR: the prompt says which to give. Without a gold object, 1 where
    none is predicted either, else 0.
    """
    total = sum(map(len, gold.values()))
    if not total:
        return float(not any(predicted.values()))
    score = 0.0
    for name, pairs in match(predicted, gold).items():
        most = max(len(predicted.get(name, ())), len(gold[name]))
        score += len(gold[name]) * sum(max(0.0, 1 - d / DIAGONAL) for *_, d in pairs) / most if most else 0.0
    return score / total


def edge_score(predicted: Moment, gold: Moment, *, relative: bool = False) -> float | None:
    """R_e of one moment in [0, 1]: the mean over pairs of gold objects of half the agreement in distance,
    max(0, 1 - |d - d*| / max(d*, 0.05)), and half that in angle, (1 + cos(difference)) / 2. None below two objects.

    An unmatched object fails its edges. `relative` measures angles from the moment's first matched edge that has a
    direction on both sides, so that turning the whole prediction costs nothing; else from the picture's x axis.
    """
    ends: list[tuple[Point, Point | None]] = []  # (gold, predicted) of each object
    pairs = match(predicted, gold)
    for name in sorted(gold):
        found = {j: predicted[name][i] for i, j, _ in pairs[name]}
        ends += [(place, found.get(j)) for j, place in enumerate(gold[name])]
    if len(ends) < 2:
        return None
    scores, first = [], None
    for (here, said_here), (there, said_there) in combinations(ends, 2):
        if said_here is None or said_there is None:
            scores.append(0.0)
            continue
        length, said = math.dist(here, there), math.dist(said_here, said_there)
        if length < STILL or said < STILL:
            turned = float(length < STILL and said < STILL)
        else:
            angle = _direction(said_here, said_there) - _direction(here, there)
            first = angle if first is None else first
            turned = (1 + math.cos(angle - first * relative)) / 2
        scores.append((max(0.0, 1 - abs(said - length) / max(length, NEAR)) + turned) / 2)
    return sum(scores) / len(scores)


def _direction(start: Point, end: Point) -> float:
    return math.atan2(end[1] - start[1], end[0] - start[0])


def graph_score(predicted: Sequence[Moment] | None, gold: Sequence[Moment], *, relative: bool = False) -> float:
    """R_graph in [0, 1]: (R_n + R_e) / 2 of a moment, R_n alone below two objects, averaged over the gold moments.

    A missing moment counts 0, so does a graph that could not be read (None); moments beyond the last are not looked at.
    Without a gold moment (an answer held against another by ArrowRL), 1 where none is predicted either, else 0.
    """
    if not gold:
        return float(not predicted)
    scores = []
    for at, moment in enumerate(gold):
        if predicted is None or at >= len(predicted):
            scores.append(0.0)
            continue
        nodes, edges = node_score(predicted[at], moment), edge_score(predicted[at], moment, relative=relative)
        scores.append(nodes if edges is None else (nodes + edges) / 2)
    return sum(scores) / len(scores)


def mean_relative_accuracy(answer: float, gold: float) -> float:
    """MRA of two finite numbers (VSI-Bench; Video-R1 scores regression so): the share of t = .5, .55, ... .95 with
    |answer - gold| / |gold| < 1 - t. In exact decimals, as written: in floats 1 - .95 is more than .05. Gold 0: equal
    or not.
    """
    answer, gold = Fraction(repr(answer)), Fraction(repr(gold))
    if not gold:
        return float(answer == gold)
    return sum(abs(answer - gold) * 100 < abs(gold) * (100 - threshold) for threshold in range(50, 100, 5)) / 10
