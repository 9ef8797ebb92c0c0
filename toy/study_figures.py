"""The study's pictures. A method has one colour in all; whiskers are 95 % intervals over seeds, dots are seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import EngFormatter, MaxNLocator

from pictures import COLOURS
from toy.study_cells import CONDITIONS, FEW, Part
from toy.study_results import Results, Series

COLOUR = {
    "base": "#8C8C8C", "grpo": COLOURS[0], "grpo_g16": COLOURS[5], "grpo_data2": COLOURS[3], "t_grpo": COLOURS[4],
    "arrow_rl": COLOURS[2], "crpo": COLOURS[1], "augment": COLOURS[6],
}  # fmt: skip
"""Of a method; a variant of CRPO or GRPO has its method's."""
SMOOTH = 5  # rounds of the running mean
Panel = tuple[str, str, tuple[str, ...]]
"""(Title, unit, metrics: each method has one of them)."""


def colour(name: str) -> str:
    start = name.partition("_")[0]
    return COLOUR.get(name) or COLOUR.get(start if start in ("base", "grpo") else "crpo")


def bars(results: Results, part: Part, metrics: Mapping[str, str], path: Path, *, chance: float) -> None:
    """Groups of bars, percent: one group a metric (-> its words), one bar a condition. A line stands at `chance`."""
    names = part.conditions
    figure, (axes,) = _figure(2.2 + 1.5 * len(metrics), 4.0)
    width = 0.84 / len(names)
    for i, name in enumerate(names):
        for place, metric in enumerate(metrics):
            series = results.series(name, metric, part.seeds)
            if series.values:
                x = place + (i - (len(names) - 1) / 2) * width
                axes.bar(x, series.mean, 0.92 * width, color=colour(name), alpha=0.75)
                _spread(axes, x, series, "black")
    axes.axhline(chance, color="0.3", ls=(0, (2, 2)), lw=1)
    axes.annotate("chance", (1, chance), xycoords=("axes fraction", "data"), fontsize=8, va="bottom", ha="right")
    axes.set_xticks(range(len(metrics)), metrics.values(), fontsize=9)
    axes.set_ylim(0, 104)
    axes.set_ylabel("pair accuracy, %")
    _dress(axes)
    _legend(figure, results, names, part.seeds)
    _save(figure, path)


def rows(results: Results, part: Part, metrics: Mapping[str, str], path: Path, *, reference: str) -> None:
    """One line a condition, one panel a metric (-> its words); the reference's mean as a vertical line."""
    names = part.conditions
    figure, panels = _figure(2.6 + 3.1 * len(metrics), 1.3 + 0.34 * len(names), 1, len(metrics))
    for axes, (metric, words) in zip(panels, metrics.items(), strict=True):
        held = results.series(reference, metric, part.seeds)
        if held.values:
            axes.axvline(held.mean, color=colour(reference), lw=1, alpha=0.6)
        for place, name in enumerate(names):
            series = results.series(name, metric, part.seeds)
            if series.values:
                axes.plot(series.mean, place, "o", color=colour(name), ms=6)
                _spread(axes, place, series, colour(name), sideways=True)
        labels = [_label(results, name, part.seeds) for name in names] if axes is panels[0] else []
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel(words, fontsize=9)
        _dress(axes)
    _save(figure, path)


def over_rollouts(results: Results, names: Sequence[str], panels: Sequence[Panel], path: Path) -> None:
    """A metric a panel over the rollouts generated; strong: mean over seeds, pale: each seed."""
    down, across = math.ceil(len(panels) / 4), min(4, len(panels))
    figure, grid = _figure(3.9 * across, 3.1 * down + 0.5, down, across)
    for axes, (title, unit, metrics) in zip(grid, panels, strict=False):
        for name in names:
            for metric in metrics:
                curves = results.rounds(name, metric)
                for xs, ys in curves.values():
                    axes.plot(xs, _smooth(ys), color=colour(name), lw=0.6, alpha=0.35)
                if curves:
                    xs = next(iter(curves.values()))[0]
                    mean = [statistics.fmean(at) for at in zip(*(ys for _, ys in curves.values()), strict=False)]
                    axes.plot(xs[: len(mean)], _smooth(mean), color=colour(name), lw=2)
        axes.set_title(title, fontsize=10, loc="left", weight="bold")
        axes.set_ylabel(unit, fontsize=9)
        axes.set_xlabel("rollouts generated", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
        _dress(axes)
    _legend(figure, results, names)
    words = f"strong: mean over seeds; pale: each seed; running means over {SMOOTH} rounds (evaluations: as they are)"
    figure.supxlabel(words, fontsize=8, color="0.4")
    _save(figure, path)


def along(
    results: Results, panels: Mapping[str, Mapping[str, Mapping[float, str]]], metrics: Mapping[str, str], path: Path
) -> None:
    """Percent over a setting (-> method -> {value: condition}), one panel each; the first metric solid, the second
    dashed."""
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    figure, grid = _figure(1.0 + 4.2 * len(panels), 3.9, 1, len(panels))
    curves = [(name, metric) for metric in metrics for name in names]
    drawn = dict(zip(metrics, ({"ls": "-", "marker": "o"}, {"ls": (0, (4, 2)), "marker": "s"}), strict=False))
    for axes, (setting, lines) in zip(grid, panels.items(), strict=True):
        ticks = sorted({x for points in lines.values() for x in points})
        for at, (name, metric) in enumerate(curves):
            beside = 0.012 * (at - (len(curves) - 1) / 2) * (ticks[-1] - ticks[0])  # or whiskers would hide each other
            found = {x: results.series(condition, metric, FEW) for x, condition in lines[name].items()}
            found = {x + beside: series for x, series in found.items() if series.values}
            means = [series.mean for series in found.values()]
            axes.plot(list(found), means, color=colour(name), lw=2, **drawn[metric])
            for x, series in found.items():
                _spread(axes, x, series, colour(name))
            for x, condition in lines[name].items():
                if metric == next(iter(metrics)) and (lost := _lost(results, condition, FEW)):
                    axes.annotate(lost, (x + beside, 2), rotation=90, fontsize=7, color=colour(name), ha="center")
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel(setting)
        axes.set_ylim(0, 104)
        _dress(axes)
    keys = [Line2D([], [], color=colour(name), lw=2, **drawn[metric]) for name, metric in curves]
    if len(metrics) > 1:
        grid[0].set_ylabel("%")
        words = [f"{CONDITIONS[name].label}: {metrics[metric]}" for name, metric in curves]
    else:
        grid[0].set_ylabel(f"{next(iter(metrics.values()))}, %")
        words = [CONDITIONS[name].label for name in names]
    figure.legend(keys, words, loc="outside upper center", ncols=2, frameon=False, fontsize=9, handlelength=3)
    _save(figure, path)


# -- parts -------------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float, down: int = 1, across: int = 1) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(down, across, squeeze=False).ravel()


def _spread(axes: Axes, place: float, series: Series, ink: str, *, sideways: bool = False) -> None:
    """Interval and seeds of one number."""
    values = list(series.values.values())
    at = [place] * len(values)
    if len(values) > 1:
        low, high = series.interval
        (axes.hlines if sideways else axes.vlines)(place, max(0.0, low), min(100.0, high), color=ink, lw=1.3)
    axes.plot(*((values, at) if sideways else (at, values)), ".", color=ink, ms=3, alpha=0.6)


def _dress(axes: Axes) -> None:
    axes.grid(color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _lost(results: Results, name: str, seeds: Sequence[int] | None) -> str:
    """Failed cells in words; empty where none has."""
    failed = results.series(name, "acc", seeds).failed
    return f"{len(failed)} FAILED" if failed else ""


def _label(results: Results, name: str, seeds: Sequence[int] | None) -> str:
    lost = _lost(results, name, seeds)
    return f"{CONDITIONS[name].label} ({lost})" if lost else CONDITIONS[name].label


def _legend(figure: Figure, results: Results, names: Sequence[str], seeds: Sequence[int] | None = None) -> None:
    keys = [Patch(color=colour(name)) for name in names]
    labels = [_label(results, name, seeds) for name in names]
    figure.legend(keys, labels, loc="outside upper center", ncols=min(4, len(names)), frameon=False, fontsize=9)


def _smooth(values: Sequence[float]) -> list[float]:
    if len(values) < 2 * SMOOTH:  # evaluations
        return list(values)
    half = SMOOTH // 2
    return [statistics.fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")
