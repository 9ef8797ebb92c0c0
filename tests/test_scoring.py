"""Pair scoring against a slow reference, the paper's own counts, and every way a row can be wrong."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest

from eval.scoring import (
    accuracy,
    accuracy_by_dynamic_fraction,
    by_subtask,
    counterfactual_report,
    interval,
    pair_accuracy,
    paired_report,
    part_of,
    report,
    unit_metrics,
)


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
    assert pair_accuracy(rows) == 50.0
    scores = by_subtask(rows)["direction"]
    assert (scores["acc"], scores["n"], scores["pairs"]) == (75.0, 4, 2)  # the side that is not there is a wrong one
    metrics = report("dybench", rows)["metrics"]
    assert (metrics["acc"]["value"], metrics["acc"]["n"], metrics["pair_acc"]["value"]) == (75.0, 4, 50.0)


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


# -- the paper's Table 5 (its printed percentages fix the counts) ------------------------------------------------------

SUBTASKS = {"reversible": (600, 3), "moving": (500, 4), "event": (407, 2)}  # pairs, options
# Acc, P-Acc of each sub-task and of all as printed; pairs with both sides right.
TABLE_5 = {
    "GPT-5.1": ((80.7, 66.0, 31.2, 9.6, 78.5, 57.0, 63.7, 44.9), (396, 48, 232)),
    "Gemini-3.1-Pro": ((96.1, 92.3, 57.7, 36.8, 91.9, 84.3, 82.2, 71.7), (554, 184, 343)),
    "4B base": ((78.9, 64.3, 40.1, 18.0, 75.4, 51.1, 65.1, 45.4), (386, 90, 208)),
    "4B GRPO": ((82.0, 67.3, 39.0, 19.0, 77.9, 56.0, 66.6, 48.2), (404, 95, 228)),
    "4B T-GRPO": ((82.0, 68.3, 44.7, 21.8, 78.3, 57.0, 68.6, 49.8), (410, 109, 232)),
    "4B ArrowRL": ((80.8, 47.5, 40.1, 17.2, 78.5, 57.0, 66.7, 47.5), (398, 86, 232)),
    "4B CRPO": ((86.8, 77.7, 41.8, 21.0, 81.1, 62.7, 70.3, 54.8), (466, 105, 255)),
    "8B base": ((83.3, 70.8, 40.8, 18.2, 79.5, 59.7, 68.2, 50.4), (425, 91, 243)),
    "8B GRPO": ((84.0, 71.8, 41.4, 17.6, 82.4, 66.3, 69.4, 52.4), (431, 88, 270)),
    "8B T-GRPO": ((85.5, 74.3, 43.5, 20.0, 83.3, 67.6, 70.9, 54.5), (446, 100, 275)),
    "8B ArrowRL": ((84.2, 71.2, 42.0, 19.4, 82.1, 64.6, 69.6, 52.2), (427, 97, 263)),
    "8B CRPO": ((89.8, 81.5, 41.7, 19.8, 85.0, 70.5, 72.5, 58.1), (489, 99, 287)),
}
MISPRINTS = {("4B ArrowRL", "reversible pair_acc"): (47.5, 66.3), ("8B T-GRPO", "all acc"): (70.9, 71.0)}


def table_5_rows(right, both):
    """Rows with `right` sides and `both` pairs right in each sub-task."""
    rows = []
    for (subtask, (pairs, ways)), sides, whole in zip(SUBTASKS.items(), right, both, strict=True):
        options = [f"{letter}. {letter}" for letter in "ABCD"[:ways]]
        singles = sides - 2 * whole
        assert 0 <= singles <= pairs - whole
        for p in range(pairs):
            for side, correct in (("a", p < whole + singles), ("b", p < whole)):
                rows.append(row(f"{subtask}{p}", side, correct, subtask) | {"options": options, "answer": None})
    return rows


def counts_printed_as(percent, total):
    return [k for k in range(total + 1) if f"{100 * k / total:.1f}" == f"{percent:.1f}"]


def side_counts(printed):
    """Right sides of 1200, 1000, 814 that print as the sub-tasks' Acc; where several do, the one whose sum prints as
    the overall Acc, else as near to it as can be."""
    choices = [counts_printed_as(acc, 2 * n) for acc, (n, _) in zip(printed[0:6:2], SUBTASKS.values(), strict=True)]
    assert all(choices)
    return min(itertools.product(*choices), key=lambda right: abs(100 * sum(right) / 3014 - printed[6]))


def test_table_5_is_reproduced_but_for_its_misprints():
    found = {}
    for model, (printed, both) in TABLE_5.items():
        scores = report("dybench", table_5_rows(side_counts(printed), both), resamples=10)
        cells = {**scores["groups"]["subtask"], "all": scores["metrics"]}
        assert (scores["metrics"]["acc"]["n"], scores["metrics"]["pair_acc"]["n"]) == (3014, 1507)
        values = [
            (f"{name} {metric}", cells[name][metric]["value"]) for name in cells for metric in ("acc", "pair_acc")
        ]
        for (cell, value), paper in zip(values, printed, strict=True):
            if round(value, 1) != paper:
                found[model, cell] = (paper, round(value, 1))
    assert found == MISPRINTS
    # The first is impossible whatever the counts: both right at least where the two sides' errors do not overlap.
    assert 47.5 < 2 * 80.8 - 100


def test_chance_row_of_table_5():
    metrics = report("dybench", table_5_rows((0, 0, 0), (0, 0, 0)), resamples=10)
    cells = [*metrics["groups"]["subtask"].values(), metrics["metrics"]]
    chance = [round(cell[metric]["chance"], 1) for cell in cells for metric in ("acc", "pair_acc")]
    assert chance == [33.3, 11.1, 25.0, 6.2, 50.0, 25.0, 35.1, 13.2]  # printed 13.3, from the rounded 11.1, 6.3, 25.0
    assert metrics["metrics"]["pair_acc"]["chance"] == pytest.approx(13.249, abs=5e-4)


# -- intervals, shortcuts ----------------------------------------------------------------------------------------------


def asked(pair, side, gold, answer, subtask="event", options=("A. left", "B. right", "C. up"), **more):
    """A row as eval.run and eval.score make it."""
    return {
        "id": f"{pair}/{side}", "pair_id": pair, "side": side, "subtask": subtask, "options": list(options),
        "gold": gold, "answer": answer, "correct": answer == gold, "facts": {}, **more,
    }  # fmt: skip


@pytest.mark.slow
def test_a_constant_policy_scores_no_pair_and_a_random_one_the_chance_row():
    rng, constant, guessing = random.Random(1), [], []
    for p in range(10_000):
        # Options stand in another order on each side: the same content is another letter.
        sides = [rng.sample(("left", "right", "up"), 3) for _ in "ab"]
        golds = rng.sample(("left", "right"), 2)
        for side, order, gold in zip("ab", sides, golds, strict=True):
            options = [f"{letter}. {text}" for letter, text in zip("ABC", order, strict=True)]
            letter = "ABC"[order.index(gold)]
            if p < 1000:
                constant.append(asked(p, side, letter, "ABC"[order.index("left")], options=options))
            guessing.append(asked(p, side, letter, rng.choice("ABC"), options=options))
    scores = report("dybench", constant)["metrics"]
    assert (scores["pair_acc"]["value"], scores["same_answer"]["value"]) == (0.0, 100.0)
    # Right on one side of every pair: nothing varies, as pairs are drawn, not sides.
    assert [scores["acc"][key] for key in ("value", "low", "high")] == [50.0, 50.0, 50.0]
    scores = report("dybench", guessing)["metrics"]
    for metric, expected in (("acc", 100 / 3), ("pair_acc", 100 / 9), ("same_answer", 100 / 3)):
        assert scores[metric]["chance"] == pytest.approx(expected)
        assert scores[metric]["low"] < expected < scores[metric]["high"]


def test_the_interval_is_the_bootstraps():
    """Against drawing pair by pair; and it covers."""
    rng = np.random.default_rng(0)
    units = [(int(hits), 2, 0.0) for hits in rng.integers(0, 3, 60)]
    hits = np.array([unit[0] for unit in units])
    drawn = 100 * hits[rng.integers(0, 60, (20_000, 60))].sum(1) / 120
    assert interval(units, resamples=20_000) == pytest.approx(np.percentile(drawn, (2.5, 97.5)), abs=0.9)
    assert interval(units, resamples=99) == interval(units, resamples=99) != interval(units, resamples=99, seed=1)
    covered = 0
    for trial in range(200):
        sample = [(int(right), 1, 0.0) for right in np.random.default_rng(trial).random(100) < 0.3]
        low, high = interval(sample, resamples=500)
        covered += low <= 30 <= high
    assert covered >= 180  # of 200, nominal 190


def test_same_answer_goes_by_content_and_unread_answers_have_none_in_common():
    rows = [
        asked("p", "a", "A", "A"),
        asked("p", "b", "B", "B", options=("A. right", "B. left.", "C. up")),
        asked("q", "a", "A", "A"),
        asked("q", "b", "B", "A", options=("A. right", "B. left", "C. up")),
        asked("r", "a", "A", None),
        asked("r", "b", "B", None),
        asked("s", "a", "A", "A"),
    ]
    rows[1]["options"][1] = "B. LEFT"
    yes_no = [asked("p", side, "yes", "yes", options=()) for side in "ab"]
    assert unit_metrics("pairs")["same_answer"](yes_no) == (True, 1, 0.5)
    static = [asked("t", side, "A", "C", "static_colour") for side in "ab"]
    metrics = report("dybench", rows + static)["metrics"]  # p alone; r gave no answer, s has one side
    assert (metrics["same_answer"]["value"], metrics["agreement"]["value"]) == (25.0, 100.0)
    assert (metrics["pair_acc"]["n"], metrics["static_pair_acc"]["n"], metrics["static_acc"]["value"]) == (4, 1, 0.0)
    assert set(report("dybench", static)["metrics"]) == {"acc", "pair_acc", "agreement"}


def test_answers_that_stay_on_a_transformed_clip():
    """By hand: of four static questions two keep their answer, of three others one does."""
    said = {"s": ("A", "A"), "t": ("B", "C"), "u": (None, None), "v": ("C", "C"), "x": ("A", "A"), "y": ("A", "B")}
    as_it_is = [
        asked(name, "a", "A", before, "static" if name < "w" else "event") for name, (before, _) in said.items()
    ]
    flipped = [row | {"answer": said[row["pair_id"]][1], "reply": "another"} for row in as_it_is]
    last, lost = asked("z", "a", "A", "A"), asked("z", "a", "A", None, error="no clip")
    found = counterfactual_report("dybench", [last, *as_it_is[::-1]], [*flipped, lost])
    stays, same = found["metrics"]["agreement"], found["metrics"]["same_answer"]
    assert (stays["value"], stays["n"], same["value"], same["n"], found["n"]) == (50.0, 4, 100 / 3, 3, 7)
    assert [stays["chance"], same["chance"]] == pytest.approx([100 / 3, 100 / 3])
    assert set(found["groups"]["subtask"]) == {"static", "event"} and "acc" not in found["metrics"]
    plain = [{"id": str(i), "correct": False, "answer": "yes", "options": [], "gold": "no"} for i in range(2)]
    assert set(counterfactual_report("tempcompass_yes_no", plain, plain)["metrics"]) == {"same_answer"}
    with pytest.raises(ValueError, match="question 's/a' was asked on the transformed clip alone"):
        counterfactual_report("dybench", as_it_is[1:], flipped)
    with pytest.raises(ValueError, match="gold of question 's/a' is another one"):
        counterfactual_report("dybench", as_it_is, [flipped[0] | {"gold": "B"}])


def test_accuracy_by_dynamic_fraction():
    rows = [asked(i, "a", "A", "A" if i < 3 else "B", "count") for i in range(4)]
    rows += [asked(f"m{i}", "a", "A", "A", "direction") for i in range(2)] + [asked("u", "a", "A", "A", "unrouted")]
    types = {f"{i}/a": "Static" for i in range(3)} | {"3/a": "Temporal", "m0/a": "Spatial", "m1/a": None}
    assert accuracy_by_dynamic_fraction(rows, types) == [
        {"subtask": "count", "dynamic": 25.0, "acc": 75.0, "n": 4, "routed": 4},
        {"subtask": "direction", "dynamic": 100.0, "acc": 100.0, "n": 2, "routed": 1},
        {"subtask": "unrouted", "dynamic": None, "acc": 100.0, "n": 1, "routed": 0},
    ]


# -- TimeBlind and the others ------------------------------------------------------------------------------------------


def block(instance, correct):
    return [{"id": str(4 * instance + role), "correct": right, "gold": "yes"} for role, right in enumerate(correct)]


def official(cells):
    """TimeBlind's own arithmetic on one block of answers (1 yes, 0 no, -1 unread): I, Q, V, Acc as counts."""
    q0v0, q0v1, q1v0, q1v1 = cells
    question = (q0v0 == 1 and q0v1 == 0) + (q1v1 == 1 and q1v0 == 0)
    video = (q0v0 == 1 and q1v0 == 0) + (q1v1 == 1 and q0v1 == 0)
    return question == video == 2, question, video, (q0v0 == 1) + (q0v1 == 0) + (q1v0 == 0) + (q1v1 == 1)


def test_timeblind_is_its_own_scorers_arithmetic():
    rows, totals = [], np.zeros(4)
    blocks = list(itertools.product((1, 0, -1), repeat=4))
    for instance, cells in enumerate(blocks):
        rows += block(instance, [said == right for said, right in zip(cells, (1, 0, 0, 1), strict=True)])
        totals += official(cells)
    random.Random(0).shuffle(rows)
    metrics = report("timeblind", rows)["metrics"]
    expected = 100 * totals / (len(blocks) * np.array([1, 2, 2, 4]))
    assert [metrics[name]["value"] for name in ("i_acc", "q_acc", "v_acc", "acc")] == pytest.approx(list(expected))
    assert [metrics[name]["chance"] for name in ("i_acc", "q_acc", "v_acc", "acc")] == [6.25, 25, 25, 50]
    assert [metrics[name]["n"] for name in ("i_acc", "q_acc", "v_acc", "acc")] == [81, 162, 162, 324]


def values(rows):
    return {name: metric["value"] for name, metric in report("timeblind", rows)["metrics"].items()}


@pytest.mark.parametrize("lost", ["row", "missing", "error"])
def test_a_timeblind_block_that_lacks_anything_is_four_invalid_cells(lost):
    rows = block(0, (True,) * 4) + block(1, (True,) * 4)
    if lost == "row":
        del rows[5]
    else:
        rows[5] |= {"correct": False, lost: "no such file" if lost == "error" else True}
    metrics = report("timeblind", rows)["metrics"]
    assert values(rows) == {"acc": 50.0, "i_acc": 50.0, "q_acc": 50.0, "v_acc": 50.0}
    assert [metric["n"] for metric in metrics.values()] == [8, 2, 4, 4]
    guessed = 25.0 if lost == "row" else 50.0  # a guess answers what this model was not asked
    assert metrics["acc"]["chance"] == guessed


def test_a_wrong_cell_spoils_its_question_and_its_video_and_no_other():
    """Rows Q0V0, Q0V1, Q1V0, Q1V1: one question right on both videos is no video with both questions right."""
    assert values(block(0, (True, True, False, False))) == {"acc": 50.0, "i_acc": 0.0, "q_acc": 50.0, "v_acc": 0.0}
    assert values(block(0, (True, False, True, False))) == {"acc": 50.0, "i_acc": 0.0, "q_acc": 0.0, "v_acc": 50.0}
    assert values(block(0, (True, False, False, True))) == {"acc": 50.0, "i_acc": 0.0, "q_acc": 0.0, "v_acc": 0.0}


def test_a_timeblind_row_is_given_once_by_its_index():
    rows = block(0, (True,) * 4)
    with pytest.raises(ValueError, match="TimeBlind row 3 is given twice"):
        report("timeblind", [*rows, rows[3]])
    with pytest.raises(ValueError, match="row index, got 'x/a'"):
        report("timeblind", [{"id": "x/a", "correct": True}])


def test_part_of_names_too_few_rows_and_torn_units():
    rows = [row for instance in range(3) for row in block(instance, (True,) * 4)]
    assert part_of("timeblind", rows, 12) == ""
    assert part_of("timeblind", rows[:-4], 12) == "8 questions; the whole benchmark has 12"
    assert "is not known" in part_of("charades_sta", rows, None)
    moved = [*rows[:-1], {"id": "99", "correct": True}]
    assert part_of("timeblind", moved, 12) == "2 units are not of 4 questions, the first: '2'"
    assert part_of("mvbench", [{"correct": True}], 1) == ""


def test_groups_and_micro_averages():
    def one(correct, task, dim):
        return {"correct": correct, "options": ["A. x", "B. y"], "facts": {"task": task, "dim": dim}}

    rows = [one(True, "yes_no", "speed"), one(False, "yes_no", "order"), one(False, "captioning", "speed")]
    scores = report("tempcompass", rows)
    assert scores["metrics"]["acc"]["value"] == pytest.approx(100 / 3)
    assert {name: m["acc"]["value"] for name, m in scores["groups"]["task"].items()} == {"yes_no": 50, "captioning": 0}
    assert {name: m["acc"]["n"] for name, m in scores["groups"]["dim"].items()} == {"speed": 2, "order": 1}
    assert report("tempcompass_yes_no", rows[:2])["metrics"]["acc"]["value"] == 50
    assert report("mvbench", [{"correct": True}])["metrics"]["acc"]["chance"] is None  # nothing known of the options


def test_nothing_to_score_is_an_error():
    for name in ("dybench", "timeblind", "tempcompass", "videomme", "mvbench"):
        with pytest.raises(ValueError, match="no rows to score"):
            report(name, [])
    with pytest.raises(ValueError, match="benchmark 'mmlu' must be one of dybench"):
        report("mmlu", [row("p", "a", True)])
