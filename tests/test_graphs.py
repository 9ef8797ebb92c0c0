"""pytest tests/test_graphs.py -- Video-STR's reward: by hand, and against a slow reading on 1,000 random graphs."""

import cmath
import json
import math
import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphs import DIAGONAL, edge_score, graph_score, match, mean_relative_accuracy, node_score, read

CAR, DOG, MAN = (0.2, 0.5), (0.6, 0.5), (0.6, 0.8)
SCENE = {"car": [CAR], "dog": [DOG], "man": [MAN]}
POINTS = st.tuples(st.floats(0, 1), st.floats(0, 1))
MOMENTS = st.dictionaries(st.sampled_from(["car", "dog", "man"]), st.lists(POINTS, max_size=3), max_size=3)


def slow_pairs(said, gold):
    """The nearest pair left, again and again."""
    said, gold, pairs = dict(enumerate(said)), dict(enumerate(gold)), []
    while said and gold:
        _, i, j = min((abs(complex(*a) - complex(*b)), i, j) for i, a in said.items() for j, b in gold.items())
        pairs.append((said.pop(i), gold.pop(j), j))
    return pairs


def slow_moment(said, gold, relative):
    """(R_n + R_e) / 2 on complex numbers: an edge is a difference, an angle the phase of a quotient."""
    count = sum(len(gold[name]) for name in gold)
    if count == 0:
        return 1.0 if not sum(len(said[name]) for name in said) else 0.0
    nodes, ends = 0.0, []
    for name in sorted(gold):
        pairs = slow_pairs(said.get(name, []), gold[name])
        near = [1 - abs(complex(*a) - complex(*b)) / 2**0.5 for a, b, _ in pairs]
        if gold[name]:
            nodes += len(gold[name]) / count * sum(near) / max(len(gold[name]), len(said.get(name, [])))
        for j, place in enumerate(gold[name]):
            found = [complex(*a) for a, _, at in pairs if at == j]
            ends.append((complex(*place), found[0] if found else None))
    if count < 2:
        return nodes
    reference, scores = None, []
    for i in range(count):
        for j in range(i + 1, count):
            if ends[i][1] is None or ends[j][1] is None:
                scores.append(0.0)
                continue
            true, guess = ends[j][0] - ends[i][0], ends[j][1] - ends[i][1]
            if abs(true) < 1e-9 or abs(guess) < 1e-9:
                turn = 1.0 if abs(true) < 1e-9 and abs(guess) < 1e-9 else 0.0
            else:
                quotient = (guess / abs(guess)) / (true / abs(true))
                reference = quotient if reference is None else reference
                turn = (1 + math.cos(cmath.phase(quotient / reference if relative else quotient))) / 2
            far = abs(abs(guess) - abs(true)) / (abs(true) if abs(true) > 0.05 else 0.05)
            scores.append(0.5 * max(0.0, 1 - far) + 0.5 * turn)
    return 0.5 * nodes + 0.5 * sum(scores) / len(scores)


def draw_moment(rng, most=3):
    points = lambda: [(rng.random(), rng.random()) for _ in range(rng.randint(0, most))]  # noqa: E731
    return {name: points() for name in ("car", "dog", "man") if rng.random() < 0.8}


def moved(rng, moment):
    """A near miss: points shifted, some left out, some twice."""
    shift = lambda p: (p[0] + rng.gauss(0, 0.1), p[1] + rng.gauss(0, 0.1))  # noqa: E731
    return {
        name: [shift(p) for p in points for _ in range(rng.choice((0, 1, 1, 1, 2)))] for name, points in moment.items()
    }


@pytest.mark.parametrize("relative", [False, True])
def test_against_the_slow_reading(relative):
    rng = random.Random(0)
    for _ in range(1000):
        gold = [draw_moment(rng) for _ in range(rng.randint(1, 4))]
        said = [moved(rng, moment) if rng.random() < 0.7 else draw_moment(rng) for moment in gold]
        said = said[: rng.randint(0, 5)]
        slow = sum(slow_moment(s, g, relative) for s, g in zip(said, gold, strict=False)) / len(gold)
        assert graph_score(said, gold, relative=relative) == pytest.approx(slow, abs=1e-9)


def test_nodes_by_hand():
    assert node_score(SCENE, SCENE) == 1
    assert node_score({"car": [CAR], "dog": [DOG]}, SCENE) == pytest.approx(2 / 3)  # one of three is missing
    assert node_score({}, SCENE) == 0
    far = {"car": [(1.0, 1.0)]}
    assert node_score(far, {"car": [(0.0, 0.0)]}) == 0  # a diagonal away
    assert node_score({"car": [CAR, CAR]}, {"car": [CAR]}) == 0.5  # naming it twice
    # Two cars swapped are no error: the nearest are matched.
    assert node_score({"car": [DOG, CAR]}, {"car": [CAR, DOG]}) == 1
    off = 0.1 / DIAGONAL
    assert node_score({"car": [(0.3, 0.5)], "dog": [DOG]}, {"car": [CAR], "dog": [DOG]}) == pytest.approx(1 - off / 2)
    # One dog weighs a third of one dog and two cars.
    assert node_score({"dog": [DOG]}, {"dog": [DOG], "car": [CAR, MAN]}) == pytest.approx(1 / 3)


def test_an_empty_moment():
    assert node_score({}, {}) == node_score({"car": []}, {"car": []}) == 1
    assert node_score({"car": [CAR]}, {"car": []}) == 0
    assert graph_score([{}], [{}]) == 1


def test_edges_by_hand():
    assert edge_score({"car": [CAR]}, {"car": [CAR]}) is None
    pair = {"car": [CAR], "dog": [DOG]}
    assert edge_score(pair, pair) == 1
    assert edge_score({"car": [DOG], "dog": [CAR]}, pair) == pytest.approx(0.5)  # length right, direction opposite
    assert edge_score({"car": [CAR], "dog": [(0.2, 0.9)]}, pair) == pytest.approx(0.75)  # a right angle off
    assert edge_score({"car": [CAR], "dog": [(0.4, 0.5)]}, pair) == pytest.approx(0.75)  # half as long
    assert edge_score({"car": [CAR], "dog": [CAR]}, pair) == 0  # no length, no direction
    assert edge_score({"car": [CAR]}, pair) == 0
    together = {"car": [CAR], "dog": [CAR]}
    assert edge_score(together, together) == 1
    # Gold edges below NEAR are judged as if of that length: half of 0.05 off costs half of the distance's part.
    close = {"car": [CAR], "dog": [(0.21, 0.5)]}
    assert edge_score({"car": [CAR], "dog": [(0.235, 0.5)]}, close) == pytest.approx(0.75)
    # Of three edges one is whole, two have lost an end.
    assert edge_score({"car": [CAR], "dog": [DOG]}, SCENE) == pytest.approx(1 / 3)


def test_a_turned_picture():
    turned = {name: [(0.5 - (y - 0.5), 0.5 + (x - 0.5))] for name, [(x, y)] in SCENE.items()}
    assert edge_score(turned, SCENE) == pytest.approx(0.75)
    assert edge_score(turned, SCENE, relative=True) == pytest.approx(1)
    mirrored = {name: [(1 - x, y)] for name, [(x, y)] in SCENE.items()}
    assert edge_score(mirrored, SCENE, relative=True) < 0.9


def test_moments():
    assert graph_score([SCENE, SCENE], [SCENE, SCENE]) == 1
    assert graph_score([SCENE], [SCENE, SCENE]) == 0.5  # a missing one
    assert graph_score([SCENE, SCENE, SCENE], [SCENE, SCENE]) == 1
    assert graph_score([], [SCENE]) == graph_score(None, [SCENE]) == 0
    assert graph_score([{"car": [CAR]}], [{"car": [CAR]}]) == 1  # one object: nodes alone


@settings(deadline=None)
@given(st.lists(MOMENTS, min_size=1, max_size=3), st.lists(MOMENTS, max_size=3), st.booleans())
def test_scores_lie_between_0_and_1(gold, said, relative):
    assert -1e-9 <= graph_score(said, gold, relative=relative) <= 1 + 1e-9
    assert graph_score(gold, gold, relative=relative) == pytest.approx(1)


@settings(deadline=None)
@given(MOMENTS, MOMENTS)
def test_mirroring_both_changes_nothing(said, gold):
    flip = lambda moment: {name: [(1 - x, y) for x, y in points] for name, points in moment.items()}  # noqa: E731
    if len({d for pairs in match(said, gold).values() for *_, d in pairs}) < sum(map(len, match(said, gold).values())):
        return  # equally near objects may pair up otherwise once 1 - x has rounded
    assert node_score(flip(said), flip(gold)) == pytest.approx(node_score(said, gold))


@settings(deadline=None)
@given(POINTS, POINTS, st.floats(0, 1), st.floats(0, 1))
def test_nearer_is_never_worse(place, said, one, other):
    near, far = sorted((one, other))
    at = lambda share: {"car": [tuple(p + share * (s - p) for p, s in zip(place, said, strict=True))]}  # noqa: E731
    assert node_score(at(near), {"car": [place]}) >= node_score(at(far), {"car": [place]}) - 1e-12


@pytest.mark.parametrize(
    ("text", "graph"),
    [
        ('[{"car": [[0.1, 0.2]]}]', [{"car": [(0.1, 0.2)]}]),
        ('[{"car": []}, {}]', [{"car": []}, {}]),
        ("[]", []),
        ('{"car": [[0.1, 0.2]]}', None),
        ('[{"car": [0.1, 0.2]}]', None),
        ('[{"car": [[0.1, 0.2, 0.3]]}]', None),
        ('[{"car": [[0.1, "left"]]}]', None),
        ('[{"car": [[0.1, true]]}]', None),
        ('[{"car": [[0.1, NaN]]}]', None),
        ('[{"car": [[1e999, 0]]}]', None),
        ("[" * 100_000, None),
        ("9" * 10_000, None),
        ("", None),
    ],
)
def test_reading(text, graph):
    assert read(text) == graph


@settings(deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    )
)
def test_whatever_is_read_is_scored(value):
    graph = read(json.dumps(value))
    assert graph is None or 0 <= graph_score(graph, [SCENE]) <= 1


@pytest.mark.parametrize(
    ("answer", "gold", "accuracy"),
    [
        (100, 100, 1.0),
        (95, 100, 0.9),  # off by exactly 5 %: not below 1 - .95
        (95.1, 100.0, 1.0),
        (0.19, 0.2, 0.9),
        (149, 100, 0.1),
        (150, 100, 0.0),
        (-100, 100, 0.0),
        (-95.5, -100, 1.0),
        (0, 0.0, 1.0),
        (0.1, 0, 0.0),
        (1e300, 1e-300, 0.0),
    ],
)
def test_numbers_by_hand(answer, gold, accuracy):
    assert mean_relative_accuracy(answer, gold) == accuracy


def test_numbers_against_the_slow_reading():
    rng = random.Random(0)
    for _ in range(1000):
        gold = Decimal(rng.randint(1, 2000)) / 10
        answer = (gold * Decimal(rng.randint(0, 300)) / 100).quantize(Decimal("0.001"))
        passed, threshold = 0, Decimal("0.5")
        while threshold < 1:
            passed += abs(answer - gold) / abs(gold) < 1 - threshold
            threshold += Decimal("0.05")
        assert mean_relative_accuracy(float(answer), float(gold)) == passed / 10
