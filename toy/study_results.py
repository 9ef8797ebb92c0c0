"""Results of the study's cells, as numbers by seed with a mean and an interval.

The interval is Student's t over seeds, 95 %: mean +- t(n - 1) s / sqrt(n). A comparison of two conditions is paired:
the differences seed by seed, so what two runs of a seed share (clips, order) cancels.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from toy.study_cells import CONDITIONS, FEW, PARTS, Cell, cells_of

# Two-sided 95 % quantiles of Student's t, for 1, 2, ... degrees of freedom.
T_95 = (12.70620, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157)


@dataclass(frozen=True)
class Series:
    """One number a seed."""

    values: dict[int, float]
    wanted: tuple[int, ...]
    """Seeds that there should be."""
    lost: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Seed -> cells behind it that failed: no mean leaves them out in silence."""
    of_start: bool = False
    """The start's number, one model, stands at each seed."""

    @property
    def failed(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell for cells in self.lost.values() for cell in cells))

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values.values())

    @property
    def half(self) -> float:
        """Half the width of the interval; infinite for one seed."""
        n = len(self.values)
        return T_95[n - 2] * statistics.stdev(self.values.values()) / math.sqrt(n) if n > 1 else math.inf

    @property
    def interval(self) -> tuple[float, float]:
        return self.mean - self.half, self.mean + self.half

    def _with(self, other: Series | float, do: Callable[[float, float], float]) -> Series:
        if not isinstance(other, Series):
            return replace(self, values={seed: do(value, other) for seed, value in self.values.items()})
        values = {seed: do(self.values[seed], other.values[seed]) for seed in self.values if seed in other.values}
        wanted = tuple(seed for seed in self.wanted if seed in other.wanted)
        lost = {seed: self.lost.get(seed, ()) + other.lost.get(seed, ()) for seed in wanted}
        return Series(values, wanted, lost, self.of_start and other.of_start)

    def __sub__(self, other: Series | float) -> Series:
        return self._with(other, lambda a, b: a - b)

    def __mul__(self, factor: float) -> Series:
        return self._with(factor, lambda a, b: a * b)

    def at_least(self, floor: float) -> Series:
        return self._with(floor, max)


@dataclass(frozen=True)
class Results:
    """What is known of every cell of the study."""

    found: dict[tuple[str, int], dict]
    """(Condition, seed) -> its JSON, of failed cells with `error`."""
    strays: tuple[str, ...] = ()
    """Files of other settings than the study's: not read."""

    def seeds(self, name: str) -> tuple[int, ...]:
        """Those that the study wants of a condition."""
        parts = [part for part in PARTS.values() if name in part.conditions]
        return max((part.seeds for part in parts), key=len, default=FEW)

    def series(self, name: str, metric: str, seeds: Sequence[int] | None = None) -> Series:
        """A metric of a condition at its seeds; the start is the same at each. ValueError for an unknown metric."""
        wanted = tuple(seeds or self.seeds(name))
        at = {seed: (name, seed if CONDITIONS[name].trained else self.seeds(name)[0]) for seed in wanted}
        known = {seed: self.found[key] for seed, key in at.items() if key in self.found}
        lost = {seed: (f"{name} seed {at[seed][1]}",) for seed, result in known.items() if "error" in result}
        values = {seed: value(result, metric) for seed, result in known.items() if seed not in lost}
        return Series(values, wanted, lost, of_start=not CONDITIONS[name].trained)

    def rounds(self, name: str, metric: str) -> dict[int, tuple[list[float], list[float]]]:
        """Seed -> (rollouts generated, value) where metrics.jsonl has the metric."""
        curves = {}
        for seed in self.seeds(name):
            columns = self.found.get((name, seed), {}).get("curves", {})
            pairs = zip(columns.get("data/rollouts_seen", []), columns.get(metric, []), strict=False)
            points = [(x, y) for x, y in pairs if x is not None and y is not None]
            if points:
                curves[seed] = tuple(map(list, zip(*points, strict=True)))
        return curves


def read(folder: Path) -> Results:
    """Results of a folder. ValueError, one line, where it holds none or a file that is no result."""
    cells: dict[str, Cell] = {cell.id: cell for cell in cells_of(list(PARTS))}
    found, strays = {}, []
    for file in sorted(folder.glob("*.json")):
        try:
            result = json.loads(file.read_text())
            cell = cells.get(result["id"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is no result of a cell: {error!r}") from error
        if cell is None:
            strays.append(file.name)
            continue
        found[cell.name, cell.seed] = result
    if not found:
        raise ValueError(f"{folder} holds no result of the study: run `python -m toy.study all --out {folder}` first")
    return Results(found, tuple(strays))


# -- metrics of one result ---------------------------------------------------------------------------------------------


def _mean_of(values: list[float], parts: int, which: int) -> float:
    """Mean of one of so many equal parts of the rounds; -1 is the last."""
    size = max(1, len(values) // parts)
    start = len(values) - size if which < 0 else which * size
    return statistics.fmean(values[start : start + size])


OVER_ROUNDS: dict[str, Callable[[list[float]], float]] = {
    "mean": statistics.fmean,
    "first": lambda values: _mean_of(values, 5, 0),
    "last": lambda values: _mean_of(values, 5, -1),
    "rise": lambda values: _mean_of(values, 3, -1) - _mean_of(values, 3, 0),
    "later": lambda values: _mean_of(values, 5, -1) - _mean_of(values, 5, 1),
}
"""`first:` and `last:` are the mean over a fifth of the rounds, `rise:` the last third's mean minus the first's,
`later:` the last fifth's minus the second's."""


def value(result: dict, metric: str) -> float:
    """A number of one result.

    "pair_acc", "acc", "static/acc", "event_sequence/pair_acc": of the final evaluation, percent; "moving_direction/..."
    is over its four and eight ways. "text_only/pair_acc" and the like: under a shortcut. "a/right", "b/agreement": of
    samples on a side, in 0..1. "mean:reward/correct": over rounds. "shift": the mean of `advantage/auxiliary_shift`
    over rounds, over that of `advantage/size`. "crr_apart": the largest distance of the two CRR curves.
    """
    over, _, name = metric.rpartition(":")
    if over:
        return OVER_ROUNDS[over]([y for y in result["curves"][name] if y is not None])
    if metric == "shift":
        return value(result, "mean:advantage/auxiliary_shift") / value(result, "mean:advantage/size")
    if metric == "crr_apart":
        both = zip(result["curves"]["reward/crr_orig"], result["curves"]["reward/crr_aug"], strict=True)
        return max(abs(a - b) for a, b in both if a is not None and b is not None)
    group, _, name = metric.rpartition("/")
    report = result["report"]
    if not group:
        return report[name]
    if group in ("a", "b"):
        return result["samples"][group][name]
    if group in result.get("shortcuts", {}):
        return result["shortcuts"][group][name]
    if group == "static":
        return report["static"][name]
    parts = [part[name] for subtask, part in report["subtasks"].items() if subtask.startswith(group)]
    if not parts:
        raise ValueError(f"no result has {metric!r}")
    return statistics.fmean(parts)
