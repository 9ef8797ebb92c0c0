"""Accuracy and pair accuracy of answered rows. Pure functions; imports no file of ours.

A row is a dict or a record with `correct` (bool) and, for paired benchmarks, `pair_id`, `side` ("a" | "b") and
`subtask`. All accuracies are percent floats at full precision; rounding is the report's business.

A *pair* is one question on two counterfactual videos (paper Sec. 4, P-Acc): it counts only when both sides are right,
so a policy that gives both the same answer scores zero wherever the gold answers differ. That is every *dynamic*
subtask; in a *static* one (its name starts with "static") the two answers agree and a shortcut scores full marks. Hence
`paired_report` puts the dynamic rows alone at its top level and reports the static ones beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def _field(row: Any, name: str) -> Any:
    return row.get(name) if isinstance(row, Mapping) else getattr(row, name, None)
