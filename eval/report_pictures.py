"""The report's tables as pictures: one row a model, dots with intervals, chance as a line. PNG files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from eval.report_tables import Column, Table

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


def drawable(text: str) -> str:
    """The text with a mark for what the font lacks (matplotlib would warn)."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans:bold"))
    return "".join(c if ord(c) in font.get_charmap() and c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
