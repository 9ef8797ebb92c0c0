"""Pair scoring against a slow reference, the paper's own counts, and every way a row can be wrong."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

from eval.scoring import accuracy, by_subtask, pair_accuracy, paired_report


def row(pair, side, correct, subtask="direction"):
    return {"pair_id": pair, "side": side, "correct": correct, "subtask": subtask}


def slow_pair_accuracy(rows):
    pairs = sorted({r["pair_id"] for r in rows})
    right = 0
    for pair in pairs:
        a = [r["correct"] for r in rows if r["pair_id"] == pair and r["side"] == "a"]
        b = [r["correct"] for r in rows if r["pair_id"] == pair and r["side"] == "b"]
        right += a == [True] and b == [True]
    return 100 * right / len(pairs)


def test_pair_accuracy_equals_the_slow_count():
    rng = random.Random(0)
    for _ in range(50):
        rows = [
            row(f"p{p}", side, rng.random() < 0.7)
            for p in range(rng.randint(1, 12))
            for side in "ab"
            if rng.random() < 0.9
        ]
        if rows:
            rng.shuffle(rows)
            assert pair_accuracy(rows) == pytest.approx(slow_pair_accuracy(rows), abs=1e-12)


def test_a_shortcut_scores_half_and_zero():
    rows = [row(p, side, side == "a") for p in range(10) for side in "ab"]  # one answer for both videos
    assert (accuracy(rows), pair_accuracy(rows)) == (50.0, 0.0)


def test_a_pair_without_its_other_side_is_wrong():
    rows = [row("p", "a", True), row("q", "a", True), row("q", "b", True)]
    assert (accuracy(rows), pair_accuracy(rows)) == (100.0, 50.0)


def test_the_papers_counts_give_the_papers_percentages():
    """Table 5, CRPO on 4B: 466/600, 105/500 and 255/407 pairs; overall is over pairs (54.8), not a mean of subtasks."""
    rows = []
    for subtask, right, pairs in (("reversible", 466, 600), ("moving", 105, 500), ("event", 255, 407)):
        for p in range(pairs):
            rows += [row(f"{subtask}{p}", "a", True, subtask), row(f"{subtask}{p}", "b", p < right, subtask)]
    report = paired_report(rows)
    assert (report["n"], report["pairs"]) == (3014, 1507)
    assert round(report["pair_acc"], 1) == 54.8
    assert [round(s["pair_acc"], 1) for s in report["subtasks"].values()] == [77.7, 21.0, 62.7]


def test_the_top_level_is_dynamic_only_and_static_stands_beside():
    rows = [
        row("d", "a", True),
        row("d", "b", False),
        row("s", "a", True, "static_colour"),
        row("s", "b", True, "static_colour"),
    ]
    report = paired_report(rows)
    assert (report["acc"], report["pair_acc"], report["n"], report["pairs"]) == (50.0, 0.0, 2, 1)
    assert report["dynamic"] == {k: report[k] for k in ("acc", "pair_acc", "n", "pairs")}
    assert report["static"] == {"acc": 100.0, "pair_acc": 100.0, "n": 2, "pairs": 1}
    assert list(report["subtasks"]) == ["direction", "static_colour"]


def test_a_report_without_static_rows_says_so():
    report = paired_report([row("d", "a", True), row("d", "b", True)])
    assert report["static"] == {"acc": None, "pair_acc": None, "n": 0, "pairs": 0}


def test_records_score_as_dicts_do():
    rows = [row("p", "a", True), row("p", "b", True), row("q", "a", False), row("q", "b", True)]
    assert paired_report([SimpleNamespace(**r) for r in rows]) == paired_report(rows)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "no rows"),
        ([row("p", "a", True), row("p", "a", False)], "'p': side a is given twice"),
        ([row("p", "c", True)], "'p': side must be a or b, got 'c'"),
        ([row(None, "a", True)], "no pair_id"),
        ([row("p", "a", "false")], "must be true or false, got 'false'"),
        ([row("p", "a", None)], "must be true or false, got None"),
        ([row("p", "a", True), row("p", "b", True, "event")], "'p': its sides name two subtasks"),
        ([row("p", "a", True, None)], "'p': a row has no subtask"),
        ([row("p", "a", True, "x"), row("p", "a", True, "y")], "'p': side a is given twice"),
    ],
)
def test_a_wrong_row_is_named(rows, says):
    with pytest.raises(ValueError, match=says):
        by_subtask(rows)


def test_accuracy_refuses_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        accuracy([])
