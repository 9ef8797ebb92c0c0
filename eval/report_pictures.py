"""The report's tables as pictures: one row a model, dots with intervals, chance as a line. PNG files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from eval.report_tables import Column, Table
from pictures import drawable

MAX_COLUMNS = 4  # panels side by side


def scores(table: Table, colours: Mapping[str, str], path: str | os.PathLike) -> None:
    """A table as a grid of panels, one a column, written to `path`; `colours`: label -> colour, in the order of
    the rows.

    A dot is the score, the bar its 95 % interval, the dashed line chance, each percent.
    """
    shown = [label for label in colours if any(label in column.cells for column in table.columns)]
    wide = min(MAX_COLUMNS, len(table.columns))
    high = -(-len(table.columns) // wide)
    size = (3.3 * wide + 1.2, (0.34 * len(shown) + 0.85) * high + 0.5)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(high, wide, squeeze=False, sharey=True).ravel()
    for axes, column in zip(panels, table.columns, strict=False):
        _draw(axes, column, {label: colours[label] for label in shown})
    for axes in panels[len(table.columns) :]:
        axes.set_axis_off()
    figure.suptitle(drawable(table.title), fontsize=11, weight="bold", x=0.01, ha="left", parse_math=False)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def fractions(table: Table, colours: Mapping[str, str], path: str | os.PathLike) -> None:
    """Fig. 1, right: accuracy of each sub-task against its share of dynamic questions, percent, written to `path`."""
    figure = Figure(figsize=(6.4, 4.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    shown = [label for label in colours if label in table.points]
    for at, label in enumerate(shown):
        points = [point for point in table.points[label] if point["routed"]]
        x, y = ([point[name] for point in points] for name in ("dynamic", "acc"))
        axes.plot(x, y, "o", color=colours[label], ms=6, alpha=0.8)
        for point in points if at == 0 else ():
            words = drawable(point["subtask"].replace("_", " "))
            place = dict(xytext=(4, 5), textcoords="offset points", fontsize=7, color="0.35", parse_math=False)
            axes.annotate(words, (point["dynamic"], point["acc"]), **place)
    axes.set(xlim=(-3, 103), ylim=(-3, 103), xlabel="dynamic questions (%)", ylabel="accuracy (%)")
    axes.grid(color="0.9", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    keys = [Line2D([], [], color=colours[label], marker="o", ls="") for label in shown]
    legend = figure.legend(keys, list(map(drawable, shown)), loc="outside lower center", ncols=4, fontsize=9)
    for words in legend.get_texts():
        words.set_parse_math(False)
    figure.suptitle(drawable(table.title), fontsize=11, weight="bold", x=0.01, ha="left", parse_math=False)
    figure.savefig(path, format="png")


def _draw(axes: Axes, column: Column, colours: Mapping[str, str]) -> None:
    for row, (label, colour) in enumerate(colours.items()):
        if label in column.cells:
            score = column.cells[label].score
            axes.hlines(row, score.low, score.high, color=colour, lw=3, alpha=0.4)
            axes.plot(score.value, row, "o", color=colour, ms=5.5)
            place = dict(xytext=(0, 6), textcoords="offset points", ha="center", fontsize=8)
            axes.annotate(f"{score.value:.1f}", (score.value, row), **place)
    if column.chance is not None:
        axes.axvline(column.chance, color="0.5", ls=(0, (4, 3)), lw=1)
    axes.set_xlim(-3, 103)
    axes.set_ylim(len(colours) - 0.5, -0.75)
    axes.set_yticks(range(len(colours)), list(map(drawable, colours)), fontsize=9, parse_math=False)
    axes.set_title(drawable(f"{column.group}: {column.metric}"), fontsize=9.5, loc="left", parse_math=False)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="y", labelsize=9, length=0)
    axes.grid(axis="x", color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
