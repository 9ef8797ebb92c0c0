"""Accuracy and pair accuracy of answered rows, with chance and intervals. Pure functions; imports no file of ours.

A row is a dict or a record with `correct` (bool) and, for paired benchmarks, `pair_id`, `side` ("a" | "b") and
`subtask`. All accuracies are percent floats at full precision; rounding is the report's business. `report` scores a
benchmark of the paper; its rows also have `id`, `options` ("A. left", ...; none for yes/no), `answer` (canonical, None
where none could be read: wrong) and `facts`. A question without an answer is a row that is wrong, never a missing row.

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
    """Subtask -> `acc`, `pair_acc` (percent), `n` (rows), `pairs`; in the order the rows bring the subtasks.

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
TIMEBLIND_INSTANCES = 600
"""Two questions on two videos each (TimeBlind); I-Acc of fewer is of a part of the benchmark."""
FACETS = {
    "dybench": ("subtask",),
    "timeblind": ("type",),
    "tempcompass": ("task", "dim"),
    "videomme": ("duration", "domain", "sub_category", "task_type"),
    "mvbench": ("task",),
}
"""Benchmark -> what its results are broken down by; all of TempCompass' formats share a row."""

Unit = tuple[int, int, float]
"""What is drawn together by the bootstrap: things right, things there, and how many a random guess gets right."""


def report(
    name: str, rows: Sequence[Any], *, seed: int = 0, resamples: int = RESAMPLES, whole: bool = False
) -> dict[str, Any]:
    """All numbers of a benchmark: {"n": rows, "metrics": {metric: M}, "groups": {facet: {group: {metric: M}}}} with
    M = {"value", "low", "high", "chance": percent, "n": things counted}.

    `low`..`high` is the bootstrap 95 % interval, resampled by what was drawn independently: pairs (DyBench), instances
    (TimeBlind), else items. `chance` is a uniform guess on each row by itself; None where there are no options.
    Metrics: `acc` everywhere; DyBench `pair_acc` and `same_answer` over the dynamic sub-tasks, with `static_acc`,
    `static_pair_acc` and `agreement` beside them where it has static ones; TimeBlind `i_acc`, `q_acc`, `v_acc`.
    "tempcompass" scores rows of several formats together (micro average, VLMEvalKit's overall).

    Raises ValueError where there are no rows, for an unknown name, as `pair_accuracy` does, and with `whole` where
    TimeBlind's rows are not its 600 instances.
    """
    family = "tempcompass" if name.startswith("tempcompass") else name
    if family not in FACETS:
        raise ValueError(f"benchmark {name!r} must be one of {', '.join(FACETS)}")
    scores = {"dybench": _dybench, "timeblind": _timeblind}.get(family, _items)
    if whole and family == "timeblind" and (found := len(instances(rows))) != TIMEBLIND_INSTANCES:
        raise ValueError(f"{found} instances; TimeBlind has {TIMEBLIND_INSTANCES}: give all of its questions")

    def numbers(part: Sequence[Any]) -> dict[str, dict[str, Any]]:
        found = {metric: units for metric, units in scores(part).items() if units}
        return {metric: _number(units, seed, resamples) for metric, units in found.items()}

    groups: dict[str, dict[str, Any]] = {}
    for facet in FACETS[family]:
        parts = _split(rows, lambda row, facet=facet: _fact(row, facet))
        if len(parts) > 1 or "" not in parts:
            groups[facet] = {group: numbers(part) for group, part in parts.items()}
    return {"n": len(_some(rows)), "metrics": numbers(rows), "groups": groups}


def _items(rows: Sequence[Any]) -> dict[str, list[Unit]]:
    return {"acc": [(_correct(row), 1, chance(row)) for row in _some(rows)]}


def _dybench(rows: Sequence[Any]) -> dict[str, list[Unit]]:
    """Of the dynamic rows, the static ones beside them under names of their own; static rows alone: plain names."""
    by_subtask(rows)  # its checks
    kinds = _split(rows, lambda row: is_static(_field(row, "subtask")))
    if list(kinds) == [True]:
        return _pair_units(rows) | {"agreement": _same(rows)}
    found = _pair_units(kinds[False]) | {"same_answer": _same(kinds[False])}
    if True in kinds:
        found |= {f"static_{metric}": units for metric, units in _pair_units(kinds[True]).items()}
        found["agreement"] = _same(kinds[True])
    return found


def _pair_units(rows: Sequence[Any]) -> dict[str, list[Unit]]:
    pairs = _split(rows, lambda row: _field(row, "pair_id")).values()
    both = [(len(pair) == 2 and all(map(_correct, pair)), 1, _all_by_chance(pair, 2)) for pair in pairs]
    return {"acc": [_together(pair) for pair in pairs], "pair_acc": both}


def _together(rows: Sequence[Any]) -> Unit:
    return sum(map(_correct, rows)), len(rows), sum(map(chance, rows))


def _all_by_chance(rows: Sequence[Any], needed: int) -> float:
    """Probability that independent guesses are all right; zero where a row is missing."""
    return math.prod(map(chance, rows)) if len(rows) == needed else 0.0


def instances(rows: Sequence[Any]) -> dict[int, dict[int, Any]]:
    """TimeBlind's instance -> role (0..3: Q0V0, Q0V1, Q1V0, Q1V1) -> row, by the row index that `id` is.

    Raises ValueError for another id, or one given twice.
    """
    found: dict[int, dict[int, Any]] = {}
    for row in _some(rows):
        name = str(_field(row, "id"))
        if not re.fullmatch(r"[0-9]{1,9}", name):
            raise ValueError(f"a TimeBlind id is a row index, got {name!r}")
        instance, role = divmod(int(name), 4)
        if role in found.setdefault(instance, {}):
            raise ValueError(f"TimeBlind row {name} is given twice")
        found[instance][role] = row
    return found


def _timeblind(rows: Sequence[Any]) -> dict[str, list[Unit]]:
    """Acc, I-Acc (all four right), Q-Acc (a question right on both videos), V-Acc (both questions right on a video).

    Acc counts the rows; what misses a row of its block is wrong, and stays in the denominators.
    """
    blocks = instances(rows).values()

    def strict(*groups: tuple[int, ...]) -> list[Unit]:
        units = []
        for block in blocks:
            parts = [[block[role] for role in group if role in block] for group in groups]
            size = len(groups[0])
            right = sum(len(part) == size and all(map(_correct, part)) for part in parts)
            units.append((right, len(groups), sum(_all_by_chance(part, size) for part in parts)))
        return units

    return {
        "acc": [_together(list(block.values())) for block in blocks],
        "i_acc": strict((0, 1, 2, 3)),
        "q_acc": strict((0, 1), (2, 3)),
        "v_acc": strict((0, 2), (1, 3)),
    }


def chance(row: Any) -> float:
    """Probability that a uniform guess is right: one of the options, or yes | no; NaN for an open question."""
    options = _field(row, "options")
    if options:
        return 1 / len(options)
    return 0.5 if _field(row, "gold") in ("yes", "no") else math.nan


# ---------------------------------------------------------------------------------------------------------------------
# What a shortcut does (Fig. 1)


def same_answer_rate(rows: Sequence[Any]) -> float:
    """Percent of pairs whose two answers are one, by the options' content, whatever their order on the two sides.

    On dynamic pairs this is the failure of Fig. 1, left: one answer for a video and its counterfactual. On static ones
    (or static questions asked of a flipped or reversed video) it is the agreement that is wanted. A pair with an answer
    that could not be read, or with one side, has none in common and stays in the denominator.

    Raises ValueError as `pair_accuracy` does.
    """
    units = _same(rows)
    return 100.0 * sum(hits for hits, _, _ in units) / len(units)


def _same(rows: Sequence[Any]) -> list[Unit]:
    _pairs(rows)
    units = []
    for pair in _split(rows, lambda row: _field(row, "pair_id")).values():
        said = [content(row) for row in pair]
        units.append((len(said) == 2 and said[0] == said[1] is not None, 1, _same_by_chance(pair)))
    return units


def _same_by_chance(pair: Sequence[Any]) -> float:
    """Probability that two uniform guesses have the same content."""
    if len(pair) < 2:
        return 0.0
    sides = [[_content(option) for option in _field(row, "options") or ("yes", "no")] for row in pair]
    return len(set(sides[0]) & set(sides[1])) / (len(sides[0]) * len(sides[1]))


def content(row: Any) -> str | None:
    """What the row's answer says: the text of its option, or the answer itself; None where it has none."""
    answer = _field(row, "answer")
    if answer is None:
        return None
    return _content(
        next((o for o in _field(row, "options") or () if re.match(rf"\(?{re.escape(answer)}\b", o)), answer)
    )


def _content(option: str) -> str:
    return " ".join(re.sub(r"^\(?[A-Z]\)?[.):]\s*(?=\S)", "", option).casefold().split())


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
    kinds = Counter((int(hits), count) for hits, count, _ in _some(units))
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
    return {
        "acc": accuracy(rows),
        "pair_acc": pair_accuracy(rows),
        "n": len(rows),
        "pairs": len({_field(row, "pair_id") for row in rows}),
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
