"""pytest tests/test_grounding.py -- IoU of intervals and boxes: by hand, against a slow count, as properties."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from grounding import box_iou, interval_iop, interval_iou, mean_overlap, merged, shared_seconds

INF, NAN = float("inf"), float("nan")


# -- an independent implementation: count cells of a grid, on whose lines all ends lie --------------------------------


def slow_seconds(intervals, ticks=40):
    return {t for t in range(ticks) for start, end in intervals if start <= t and t + 1 <= end}


def slow_interval_iou(predicted, gold):
    a, b = slow_seconds(predicted), slow_seconds(gold)
    return len(a & b) / len(a | b) if a | b else 1.0


def slow_interval_iop(predicted, gold):
    a, b = slow_seconds(predicted), slow_seconds(gold)
    return len(a & b) / len(a) if a else 0.0


def slow_cells(box, cells=12):
    x0, y0, x1, y1 = box
    return {(x, y) for x in range(cells) for y in range(cells) if x0 <= x < x1 and y0 <= y < y1}


def slow_box_iou(a, b):
    a, b = slow_cells(a), slow_cells(b)
    return len(a & b) / len(a | b) if a | b else 0.0


def test_intervals_equal_the_slow_count_on_1000_random_cases():
    rng = random.Random(0)
    for _ in range(1000):  # empty, reversed, touching, nested and overlapping ones among them
        some = [[(rng.randint(0, 40), rng.randint(0, 40)) for _ in range(rng.randint(0, 5))] for _ in range(2)]
        assert interval_iou(*some) == pytest.approx(slow_interval_iou(*some), abs=1e-12)
        assert interval_iop(*some) == pytest.approx(slow_interval_iop(*some), abs=1e-12)


def test_boxes_equal_the_slow_count_on_1000_random_cases():
    rng = random.Random(1)
    for _ in range(1000):
        tracks = [[tuple(rng.randint(0, 12) for _ in range(4)) for _ in range(rng.choice([1, 8]))]]
        tracks.append([tuple(rng.randint(0, 12) for _ in range(4)) for _ in tracks[0]])
        each = [slow_box_iou(a, b) for a, b in zip(*tracks, strict=True)]
        assert [box_iou(a, b) for a, b in zip(*tracks, strict=True)] == pytest.approx(each, abs=1e-12)
        assert mean_overlap(*tracks) == pytest.approx(sum(each) / len(each), abs=1e-12)


# -- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicted", "gold", "iou", "iop"),
    [
        ([(2, 4)], [(2, 4)], 1, 1),
        ([(0, 2)], [(1, 3)], 1 / 3, 1 / 2),
        ([(0, 2)], [(2, 3)], 0, 0),  # they touch
        ([(0, 2)], [(5, 9)], 0, 0),
        ([(0, 10)], [(4, 6)], 0.2, 0.2),
        ([(4, 6)], [(0, 10)], 0.2, 1),
        ([(3, 1)], [(1, 3)], 0, 0),  # reversed
        ([(2, 2)], [(1, 3)], 0, 0),  # no length
        ([], [(1, 3)], 0, 0),
        ([], [], 1, 0),  # published: both empty agree
        ([(2, 2)], [(3, 3)], 1, 0),
        ([(0, 3), (2, 4), (22, 25)], [(1, 5), (2, 2), (2, 4)], 3 / 8, 3 / 7),  # the example in VideoChat-R1's code
        ([(0, 2), (2, 4)], [(0, 4)], 1, 1),
        ([(0, INF)], [(0, 4)], 0, 0),
        ([(NAN, 2)], [(0, 4)], 0, 0),
    ],
)
def test_intervals_by_hand(predicted, gold, iou, iop):
    assert interval_iou(predicted, gold) == pytest.approx(iou) and interval_iop(predicted, gold) == pytest.approx(iop)


def test_merged_by_hand():
    assert merged([(3, 4), (0, 2), (1, 3), (9, 8), (5, 6), (5.5, 5.7)]) == [(0, 4), (5, 6)]
    assert shared_seconds([(0, 4), (5, 6)], [(1, 2), (3.5, 5.5)]) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("predicted", "gold", "iou"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1),
        ((0, 0, 0.5, 1), (0, 0, 1, 1), 0.5),
        ((0, 0, 0.5, 0.5), (0.25, 0.25, 0.75, 0.75), 1 / 7),
        ((0, 0, 0.5, 0.5), (0.5, 0, 1, 1), 0),  # they share an edge
        ((0.5, 0.5, 0.5, 0.9), (0.5, 0.5, 0.5, 0.9), 0),  # no area: 0, as published
        ((0.9, 0.9, 0.1, 0.1), (0.1, 0.1, 0.9, 0.9), 0),  # reversed in both; the released code gives it an area
        ((0.9, 0, 0.1, 1), (0.1, 0, 0.9, 1), 0),  # reversed in one
        ((-1, -1, 2, 2), (0, 0, 1, 1), 1 / 9),  # out of the frame
        ((NAN, 0, 1, 1), (0, 0, 1, 1), 0),
        ((0, 0, INF, 1), (0, 0, 1, 1), 0),
        ((0, 0, 1e200, 1e200), (0, 0, 1, 1), 0),
    ],
)
def test_boxes_by_hand(predicted, gold, iou):
    assert box_iou(predicted, gold) == pytest.approx(iou)


def test_a_track_of_another_length_is_no_track():
    with pytest.raises(ValueError):
        mean_overlap([(0, 0, 1, 1)] * 7, [(0, 0, 1, 1)] * 8)


# -- properties -------------------------------------------------------------------------------------------------------

ANY = st.one_of(st.floats(), st.floats(0, 100), st.integers(-5, 5))
INTERVALS = st.lists(st.tuples(ANY, ANY), max_size=6)
BOXES = st.tuples(ANY, ANY, ANY, ANY)
SOLID = st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.6, 1), st.floats(0.6, 1))


@settings(deadline=None)
@given(INTERVALS, INTERVALS)
@example([(0.0, 1.2e308)], [(0.0, 1.0)])
def test_intervals_stay_within_0_and_1_and_iou_is_symmetric(a, b):
    assert 0 <= interval_iou(a, b) <= 1 and 0 <= interval_iop(a, b) <= 1
    assert interval_iou(a, b) == interval_iou(b, a)
    assert interval_iou(a, a) == 1


@settings(deadline=None)
@given(BOXES, BOXES)
def test_boxes_stay_within_0_and_1_and_iou_is_symmetric(a, b):
    assert 0 <= box_iou(a, b) <= 1 and box_iou(a, b) == box_iou(b, a)


@settings(deadline=None)
@given(SOLID, st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_box_moved_further_away_overlaps_less(box, near, far):
    near, far = sorted((near, far))
    x0, y0, x1, y1 = box
    assert box_iou(box, box) == 1
    moved = [(x0 + by, y0, x1 + by, y1) for by in (near, far)]
    assert box_iou(moved[0], box) >= box_iou(moved[1], box) - 1e-12


@settings(deadline=None)
@given(st.floats(0, 50), st.floats(0.1, 50), st.floats(0, 60), st.floats(0, 60))
def test_an_interval_moved_further_away_overlaps_less(start, length, near, far):
    near, far = sorted((near, far))
    gold = [(start, start + length)]
    moved = [[(start + by, start + length + by)] for by in (near, far)]
    assert interval_iou(moved[0], gold) >= interval_iou(moved[1], gold) - 1e-9
