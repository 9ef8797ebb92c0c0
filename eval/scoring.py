"""Accuracy and pair accuracy of answered rows, with chance and intervals. Pure functions.

A row is a dict or a record with `correct` (bool) and, for paired benchmarks, `pair_id`, `side` ("a" | "b") and
`subtask`. All accuracies are percent floats at full precision; rounding is the report's business. `report` scores a
benchmark of the paper; its rows also have `id`, `options` ("A. left", ...; none for yes/no), `answer` (canonical, None
where none could be read: wrong), `facts`, and without any answer `missing` (true) or `error` (why). A question without
an answer is a row that is wrong, never a missing row.

A *pair* is one question on two counterfactual videos (paper Sec. 4, P-Acc): it counts only when both sides are right,
so a policy that gives both the same answer scores zero wherever the gold answers differ. That is every *dynamic*
subtask; in a *static* one (its name starts with "static") the two answers agree and a shortcut scores full marks. Hence
`paired_report` puts the dynamic rows alone at its top level and reports the static ones beside them.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from verifiers import option_of, option_text

SIDES = ("a", "b")


def accuracy(rows: Sequence[Any]) -> float:
    """Percent of rows that are right. ValueError where there are no rows or `correct` is not a boolean."""
    return 100.0 * sum(_correct(row) for row in _some(rows)) / len(rows)


def pair_accuracy(rows: Sequence[Any]) -> float:
    """Percent of pairs with both sides right; a pair with a missing side counts as wrong.

    Raises ValueError, naming the pair, for a side given twice, a side other than a | b, or a row without a pair; and
    where there are no rows.
    """
    pairs = _pairs(rows)
    return 100.0 * sum(sides == {"a": True, "b": True} for sides in pairs.values()) / len(pairs)


def by_subtask(rows: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Subtask -> `acc`, `pair_acc` (percent), `n` (sides), `pairs`; in the order the rows bring the subtasks.

    A pair has two sides: one that is not there counts as wrong, for both.

    Raises ValueError as `pair_accuracy` does, and where the sides of one pair name different subtasks.
    """
    _pairs(rows)  # a side given twice, under two subtasks, would pass unseen once the rows are split
    split: dict[str, list[Any]] = {}
    home: dict[str, str] = {}
    for row in rows:
        name, pair = _field(row, "subtask"), _field(row, "pair_id")
        if not name:
            raise ValueError(f"pair {pair!r}: a row has no subtask")
        if home.setdefault(pair, name) != name:
            raise ValueError(f"pair {pair!r}: its sides name two subtasks, {home[pair]!r} and {name!r}")
        split.setdefault(name, []).append(row)
    return {name: _scores(part) for name, part in split.items()}


def paired_report(rows: Sequence[Any]) -> dict[str, Any]:
    """What `summary.json` holds for a paired benchmark.

    `acc`, `pair_acc`, `n`, `pairs` at the top level are over the DYNAMIC subtasks only (a shortcut scores zero there);
    `dynamic` repeats them under its own name, `static` holds the same four over the static subtasks, `subtasks` each
    subtask's (`by_subtask`). Aggregates are over rows and pairs (micro), not means of subtasks. A side without rows has
    acc and pair_acc None, n and pairs 0. Raises ValueError as `by_subtask` does.
    """
    subtasks = by_subtask(rows)
    parts: dict[bool, list[Any]] = {True: [], False: []}
    for row in rows:
        parts[is_static(_field(row, "subtask"))].append(row)
    dynamic, static = (_scores(part) if part else _NOTHING for part in (parts[False], parts[True]))
    return {**dynamic, "dynamic": dict(dynamic), "static": dict(static), "subtasks": subtasks}


def is_static(subtask: str) -> bool:
    """True where both sides of a pair share their answer: subtasks whose name starts with "static"."""
    return subtask.startswith("static")


# ---------------------------------------------------------------------------------------------------------------------
# The benchmarks

RESAMPLES = 2000
FACETS = {
    "dybench": ("subtask",),
    "timeblind": ("type",),
    "tempcompass": ("task", "dim"),
    "videomme": ("duration", "domain", "sub_category", "task_type"),
    "mvbench": ("task",),
}
"""Benchmark -> what its results are broken down by; all of TempCompass' formats share a row."""
UNIT_SIZE = {"dybench": 2, "pairs": 2, "timeblind": 4}
"""Rows of one whole unit: a pair (`pairs` are rows of one's own), a TimeBlind instance of two questions on two videos
(roles 0..3: Q0V0, Q0V1, Q1V0, Q1V1); everywhere else a unit is one row."""

GROUNDED = ("charades_sta", "activitynet", "nextgqa", "got10k")
"""Benchmarks whose answers are right in part (VideoChat-R1's): a row has `scores`, term -> 0..1."""
FACETS |= {name: () for name in GROUNDED} | {"nextgqa": ("type",)}

Unit = tuple[float, int, float]
"""What is drawn together by the bootstrap: things right, things there, and how many a random guess gets right."""


def report(name: str, rows: Sequence[Any], *, seed: int = 0, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All numbers of a benchmark: {"n": rows, "metrics": {metric: M}, "groups": {facet: {group: {metric: M}}}} with
    M = {"value", "low", "high", "chance": percent, "n": things counted}.

    `low`..`high` is the bootstrap 95 % interval, resampled by what was drawn independently: pairs (DyBench), instances
    (TimeBlind), else items. `chance` is a uniform guess on each row by itself; None where there are no options.
    Metrics: those of `unit_metrics`, DyBench's over the dynamic sub-tasks and with `same_answer`; `static_acc`,
    `static_pair_acc` and `agreement` beside them where it has static ones. A unit belongs to its first row's group.
    "tempcompass" scores rows of several formats together (micro average, VLMEvalKit's overall).

    Raises ValueError where there are no rows, for an unknown name, and as `pair_accuracy` and `units` do.
    """
    family = _family(name)
    if family == "dybench":
        by_subtask(rows)  # its checks
    scores = _dybench if family == "dybench" else lambda part: _each(part, unit_metrics(family))
    found = list(units(family, rows).values())
    return {"n": len(rows), **_numbers(found, scores, FACETS[family], seed, resamples)}


def counterfactual_report(
    name: str, rows: Sequence[Any], transformed: Sequence[Any], *, seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """`report` of a benchmark asked on flipped or reversed clips (`transformed`), against `rows` of the clips as they
    are; a unit is a question.

    A gold answer of the clip as it is says nothing of a transformed one, so what is scored is whether the answer stays:
    `agreement` of the static sub-tasks' questions, where it should, and `same_answer` of the others, the failure of
    Fig. 1, left, wherever the transform changes the truth. Raises ValueError as `report` and `both_answers` do.
    """
    found = list(both_answers(rows, transformed).values())
    return {"n": len(transformed), **_numbers(found, _stays, FACETS[_family(name)], seed, resamples)}


def both_answers(rows: Iterable[Any], transformed: Sequence[Any]) -> dict[str, list[Any]]:
    """Question id -> its row on the clip as it is, and the one on the transformed clip; in the order of `transformed`.

    Raises ValueError, one line, for a question that `rows` have not, or another one under its id.
    """
    as_it_is = {_field(row, "id"): row for row in rows}
    found = {}
    for row in _some(transformed):
        own = _field(row, "id")
        if own not in as_it_is:
            raise ValueError(f"question {own!r} was asked on the transformed clip alone; ask it on the clip as it is")
        for name in ("problem", "options", "gold"):
            if _field(row, name) != _field(as_it_is[own], name):
                raise ValueError(f"{name} of question {own!r} is another one on the transformed clip")
        found[own] = [as_it_is[own], row]
    return found


def _family(name: str) -> str:
    family = "tempcompass" if name.startswith("tempcompass") else name
    if family not in FACETS:
        raise ValueError(f"benchmark {name!r} must be one of {', '.join(FACETS)}")
    return family


def _numbers(
    found: Sequence[Sequence[Any]], scores: Callable, facets: Sequence[str], seed: int, resamples: int
) -> dict[str, Any]:
    """Metrics and groups of `report`; `scores`: units -> metric -> what each unit counts."""

    def numbers(part: Sequence[Sequence[Any]]) -> dict[str, dict[str, Any]]:
        return {metric: _number(of, seed, resamples) for metric, of in scores(part).items()}

    groups: dict[str, dict[str, Any]] = {}
    for facet in facets:
        parts = _split(found, lambda unit, facet=facet: _fact(unit[0], facet))
        if len(parts) > 1 or "" not in parts:
            groups[facet] = {group: numbers(part) for group, part in parts.items()}
    return {"metrics": numbers(found), "groups": groups}


def part_of(name: str, rows: Sequence[Any], size: int | None) -> str:
    """Why the rows are not the whole of a benchmark of `size` rows: too few or too many, or incomplete units; "" where
    they are. None: nobody can tell."""
    if size is None:
        return "how many questions the whole benchmark has is not known here"
    if len(rows) != size:
        return f"{len(rows)} questions; the whole benchmark has {size}"
    wanted = UNIT_SIZE.get(name, 1)
    torn = [key for key, unit in units(name, rows).items() if len(unit) != wanted]
    return f"{len(torn)} units are not of {wanted} questions, the first: {torn[0]!r}" if torn else ""


def units(name: str, rows: Sequence[Any]) -> dict[Any, list[Any]]:
    """Unit -> its rows, in the order given; for benchmarks without pairs or blocks every row is a unit of its own.

    Raises ValueError where there are no rows, and as `unit_of` does; a TimeBlind row must be given once.
    """
    if name not in UNIT_SIZE:
        return {at: [row] for at, row in enumerate(_some(rows))}
    found = _split(_some(rows), lambda row: unit_of(name, row))
    if name == "timeblind":
        for block in found.values():
            again = [number for number, count in Counter(int(_field(row, "id")) for row in block).items() if count > 1]
            if again:
                raise ValueError(f"TimeBlind row {again[0]} is given twice")
    return found


def unit_of(name: str, row: Any) -> str:
    """What a row is counted with: its pair, its TimeBlind instance (id // 4), or itself.

    Raises ValueError where a TimeBlind id is no row index.
    """
    own, pair = str(_field(row, "id")), _field(row, "pair_id")
    if name != "timeblind":
        return pair if name in UNIT_SIZE and pair is not None else own
    if not re.fullmatch(r"[0-9]{1,9}", own):
        raise ValueError(f"a TimeBlind id is a row index, got {own[:80]!r}")
    return str(int(own) // 4)


def unit_metrics(name: str) -> Mapping[str, Callable[[Sequence[Any]], Unit]]:
    """Metric -> what it counts in one unit's rows: `acc` everywhere, `pair_acc` and `same_answer` of pairs, TimeBlind's
    `i_acc` (all four right), `q_acc` (a question right on both videos), `v_acc` (both questions right on a video).

    What a unit lacks is wrong and stays in the denominators: a pair of one side has two answers. All four cells of a
    TimeBlind block that lacks a row or an answer are invalid, as in its own scorer. A row lacks its answer where
    `missing` is true or `error` says why it was not asked; what a guess scores does not depend on that.

    Of GROUNDED: `miou` and `r@T`, mean IoU and the share of rows with at least T (Charades-STA, ActivityNet); `overlap`
    and `success@0.5`, mean IoU over a track's boxes (GOT-10k); NExT-GQA's `acc`, `miou`, `iou@T`, `miop`, `iop@T` (the
    share of what is pointed at that is right) and `acc_gqa`, answered right and iop@0.5.
    """
    return _METRICS.get(name, {"acc": lambda rows: _right(rows, 1)})


def _right(rows: Sequence[Any], size: int) -> Unit:
    return sum(map(_correct, rows)), max(size, len(rows)), sum(map(chance, rows))


def _all_right(rows: Sequence[Any], size: int) -> Unit:
    right, whole = [_correct(row) for row in rows], len(rows) == size
    return whole and all(right), 1, math.prod(map(chance, rows)) if whole else 0.0


def same_answer(rows: Sequence[Any]) -> Unit:
    """One readable answer on both sides, by the options' content, whatever their order there.

    On dynamic pairs this is the failure of Fig. 1, left: one answer for a video and its counterfactual. On static ones,
    and static questions asked of a flipped or reversed video (`both_answers`), it is the agreement that is wanted.
    """
    said = [content(row) for row in rows]
    if len(rows) < 2:
        return 0, 1, 0.0
    sides = [[_content(option) for option in _field(row, "options") or ("yes", "no")] for row in rows]
    alike = len(set(sides[0]) & set(sides[1])) / (len(sides[0]) * len(sides[1]))
    return said[0] == said[1] is not None, 1, alike


def _cells(rows: Sequence[Any], groups: Sequence[Sequence[int]]) -> Unit:
    """Of a TimeBlind block: groups of roles that are right throughout."""
    cells = {int(_field(row, "id")) % 4: row for row in rows}
    right = {role: _correct(row) for role, row in cells.items()}
    if len(cells) < UNIT_SIZE["timeblind"]:
        return 0, len(groups), 0.0
    valid = not any(_field(row, "missing") or _field(row, "error") for row in rows)
    hits = sum(all(right[role] for role in group) for group in groups) if valid else 0
    return hits, len(groups), sum(math.prod(chance(cells[role]) for role in group) for group in groups)


def _term(name: str, least: float | None = None) -> Callable[[Sequence[Any]], Unit]:
    """Of one row: a term's value, or whether it is at least `least`; 0 where the row has no answer."""

    def count(rows: Sequence[Any]) -> Unit:
        [row] = rows
        value = (_field(row, "scores") or {}).get(name, 0.0)
        return value if least is None else float(value >= least), 1, math.nan

    return count


def _grounded_right(rows: Sequence[Any]) -> Unit:
    return float(_correct(rows[0]) and _term("iop", 0.5)(rows)[0] == 1), 1, math.nan


def _recalls(term: str, mean: str, prefix: str, *least: float) -> dict[str, Callable[[Sequence[Any]], Unit]]:
    return {mean: _term(term)} | {f"{prefix}@{value}": _term(term, value) for value in least}


_PAIR = {
    "acc": lambda pair: _right(pair, 2),
    "pair_acc": lambda pair: _all_right(pair, 2),
    "same_answer": same_answer,
}
_MOMENT = _recalls("iou", "miou", "r", 0.3, 0.5, 0.7)
_METRICS: dict[str, Mapping[str, Callable[[Sequence[Any]], Unit]]] = {
    "charades_sta": _MOMENT,
    "activitynet": _MOMENT,
    "got10k": _recalls("iou", "overlap", "success", 0.5),
    "nextgqa": {"acc": lambda rows: _right(rows, 1), "acc_gqa": _grounded_right}
    | _recalls("iop", "miop", "iop", 0.3, 0.5)
    | _recalls("iou", "miou", "iou", 0.3, 0.5),
    "dybench": _PAIR,
    "pairs": _PAIR,
    "timeblind": {
        "acc": lambda block: _cells(block, ((0,), (1,), (2,), (3,))),
        "i_acc": lambda block: _cells(block, ((0, 1, 2, 3),)),
        "q_acc": lambda block: _cells(block, ((0, 1), (2, 3))),
        "v_acc": lambda block: _cells(block, ((0, 2), (1, 3))),
    },
}


def _each(found: Sequence[Sequence[Any]], metrics: Mapping[str, Callable]) -> dict[str, list[Unit]]:
    return {metric: [count(unit) for unit in found] for metric, count in metrics.items()}


def _dybench(pairs: Sequence[Sequence[Any]]) -> dict[str, list[Unit]]:
    """Of the dynamic pairs, the static ones beside them under names of their own; static pairs alone: plain names."""
    kinds = _split(pairs, lambda pair: is_static(_field(pair[0], "subtask")))
    found = {static: _each(of, unit_metrics("dybench")) for static, of in kinds.items()}
    static = found.get(True, {})
    if static:
        static["agreement"] = static.pop("same_answer")
    if False not in found:
        return static
    return found[False] | {name if name == "agreement" else f"static_{name}": of for name, of in static.items()}


def _stays(questions: Sequence[Sequence[Any]]) -> dict[str, list[Unit]]:
    """Of questions with both answers."""
    kinds = _split(questions, lambda both: is_static(_field(both[0], "subtask") or ""))
    return {"agreement" if static else "same_answer": list(map(same_answer, of)) for static, of in kinds.items()}


def chance(row: Any) -> float:
    """Probability that a uniform guess is right: one of the options, or yes | no; NaN for an open question."""
    options = _field(row, "options")
    if options:
        return 1 / len(options)
    return 0.5 if _field(row, "gold") in ("yes", "no") else math.nan


# ---------------------------------------------------------------------------------------------------------------------
# What a shortcut does (Fig. 1)


def content(row: Any) -> str | None:
    """What the row's answer says: the text of its option, or the answer itself; None where it has none."""
    answer = _field(row, "answer")
    return None if answer is None else _content(option_of(answer, _field(row, "options") or ()) or answer)


def _content(option: str) -> str:
    return " ".join(option_text(option).casefold().split())


def accuracy_by_dynamic_fraction(
    rows: Sequence[Any], task_types: Mapping[str, str | None], key: str | Callable[[Any], str] = "subtask"
) -> list[dict[str, Any]]:
    """Fig. 1, right: one {"subtask", "dynamic" (percent), "acc" (percent), "n", "routed"} a sub-task, static first.

    `task_types`: row id -> the router's type, None or absent where it has none; `dynamic` is the share of Spatial,
    Temporal and Spatiotemporal among the `routed`, None without any. `key`: a fact of the row, or a function of it.
    """
    found = []
    for name, part in _split(_some(rows), key if callable(key) else lambda row: _fact(row, key)).items():
        types = [task_types.get(_field(row, "id")) for row in part]
        routed = [kind for kind in types if kind is not None]
        dynamic = 100.0 * sum(kind != "Static" for kind in routed) / len(routed) if routed else None
        found.append(
            {"subtask": name, "dynamic": dynamic, "acc": accuracy(part), "n": len(part), "routed": len(routed)}
        )
    return sorted(found, key=lambda point: (point["dynamic"] is None, point["dynamic"], point["subtask"]))


# ---------------------------------------------------------------------------------------------------------------------
# Intervals


def interval(units: Sequence[Unit], *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Bootstrap 95 % interval of percent right, units drawn with replacement (percentiles 2.5 and 97.5).

    Units that are alike are counted instead of drawn one by one: a multinomial draw, the same distribution.
    """
    kinds = Counter((float(hits), count) for hits, count, _ in _some(units))
    hits, counts = np.array(list(kinds), dtype=float).T
    # The last share takes what rounding leaves of 1.
    drawn = np.random.default_rng(seed).multinomial(len(units), np.array([*kinds.values()]) / len(units), resamples)
    low, high = np.percentile(100 * (drawn @ hits) / (drawn @ counts), (2.5, 97.5))
    return float(low), float(high)


def _number(units: Sequence[Unit], seed: int, resamples: int) -> dict[str, Any]:
    hits, n, guessed = (sum(column) for column in zip(*units, strict=True))
    low, high = interval(units, seed=seed, resamples=resamples)
    chance = None if math.isnan(guessed) else 100.0 * guessed / n
    return {"value": 100.0 * hits / n, "low": low, "high": high, "n": n, "chance": chance}


# ---------------------------------------------------------------------------------------------------------------------
# Rows


_NOTHING = {"acc": None, "pair_acc": None, "n": 0, "pairs": 0}


def _scores(rows: Sequence[Any]) -> dict[str, float]:
    pairs = _pairs(rows)
    n = len(SIDES) * len(pairs)
    return {
        "acc": 100.0 * sum(map(_correct, rows)) / n,
        "pair_acc": pair_accuracy(rows),
        "n": n,
        "pairs": len(pairs),
    }


def _pairs(rows: Iterable[Any]) -> dict[Any, dict[str, bool]]:
    """Pair -> {side: right}."""
    pairs: dict[Any, dict[str, bool]] = {}
    for row in _some(rows):
        pair, side = _field(row, "pair_id"), _field(row, "side")
        if pair is None:
            raise ValueError("a row has no pair_id; pair accuracy needs one on every row")
        if side not in SIDES:
            raise ValueError(f"pair {pair!r}: side must be a or b, got {side!r}")
        sides = pairs.setdefault(pair, {})
        if side in sides:
            raise ValueError(f"pair {pair!r}: side {side} is given twice")
        sides[side] = _correct(row)
    return pairs


def _some(rows: Sequence[Any]) -> Sequence[Any]:
    if len(rows) == 0:
        raise ValueError("no rows to score")
    return rows


def _correct(row: Any) -> bool:
    value = _field(row, "correct")
    if value not in (True, False):  # the text "false" is true to Python
        raise ValueError(f"correct must be true or false, got {value!r} (pair {_field(row, 'pair_id')!r})")
    return bool(value)


def _split(rows: Sequence[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """Rows by key, keys in the order the rows bring them."""
    parts: dict[Any, list[Any]] = {}
    for row in rows:
        parts.setdefault(key(row), []).append(row)
    return parts


def _fact(row: Any, name: str) -> str:
    facts = _field(row, "facts") or {}
    return facts.get(name) or _field(row, name) or ""


def _field(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
