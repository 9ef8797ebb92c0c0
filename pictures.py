"""Pictures a person looks at: filmstrips of both branches, the paper's curves and Figure 9, a table for the console.

Pictures are uint8 (H, W, 3) arrays, or a PNG for curves. Text in them comes from models and data files and is drawn
letter by letter: `$` starts no formula, and what the font cannot draw becomes a mark. Axes: F frames, C = 3 colours.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter
from torch.nn import functional

from episode import TASK_TYPES

TILE_WIDTH = 192  # pixels of one frame in a strip: eight stand side by side on a screen
GAP = 4
DPI = 100
FONT_SIZE = 11  # points
LINE_HEIGHT = 20  # pixels of a text line at this size
MAX_TEXT_LINES = 400  # a runaway completion may not grow the picture beyond what Agg can draw (65 536 pixels)

# Okabe and Ito, "Color Universal Design": apart for colour-blind readers too. Yellow left out: too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def filmstrip(frames: torch.Tensor, columns: int = 8) -> np.ndarray:
    """Frames (F, 3, H, W) uint8 as a grid, in order left to right and down; uint8 (H, W, 3).

    A small frame is enlarged by a whole factor (its pixels stay visible as they are), a large one is shrunk.
    Raises ValueError for any other shape or type.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[0] == 0 or frames.dtype != torch.uint8:
        raise ValueError(f"frames must be uint8 (F, 3, H, W), got {frames.dtype} {tuple(frames.shape)}")
    frames = _fit(frames.cpu())
    count, _, height, width = frames.shape
    columns = min(columns, count)
    strip = np.full(
        (math.ceil(count / columns) * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for index, frame in enumerate(frames):
        top, left = index // columns * (height + GAP), index % columns * (width + GAP)
        strip[top : top + height, left : left + width] = frame.permute(1, 2, 0).numpy()
    return strip


def branch_sheet(
    original: torch.Tensor,
    counterfactual: torch.Tensor | None,
    caption_lines: Sequence[str],
    *,
    transform: str = "",
    columns: int = 8,
) -> np.ndarray:
    """Both branches' frames, each (F, 3, H, W) uint8, one strip above the other, and text below; uint8 (H, W, 3).

    `transform` names the view in the lower strip. `caption_lines` (question, options, gold, answers, reward terms) are
    wrapped to the width and kept in order; beyond MAX_TEXT_LINES they are cut, which the last line says.
    """
    named = [("original", original)]
    if counterfactual is not None:
        named.append((f"counterfactual: {transform}" if transform else "counterfactual", counterfactual))
    return sheet(named, caption_lines, columns=columns)


def sheet(named: Sequence[tuple[str, torch.Tensor]], caption_lines: Sequence[str], *, columns: int = 8) -> np.ndarray:
    """Strips of frames, each (F, 3, H, W) uint8 under its label, and text below as `branch_sheet` has it; (H, W, 3)."""
    strips = [(label, filmstrip(frames, columns)) for label, frames in named]
    width = max(columns * (TILE_WIDTH + GAP) - GAP, *(strip.shape[1] for _, strip in strips))
    parts = []
    for label, strip in strips:
        parts += [_text_picture([label], width, weight="bold"), strip]
    parts.append(_text_picture(caption_lines, width))
    return np.concatenate([_pad(part, width) for part in parts])


def curves(
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    path: str | os.PathLike,
    *,
    x: str = "data/rollouts_seen",
) -> None:
    """The paper's training curves (Fig. 5 and 7) and the evaluations of several runs, as one PNG at `path`.

    `runs`: label -> rows of metrics.jsonl (`metrics.read_metrics`). `x`: "step", or "data/rollouts_seen", on which runs
    with another number of rollouts a question compare fairly. A row without a value, or without x, is left out of that
    panel, a panel without any value out of the picture. From 50 points on, the line is a running mean over a
    twenty-fifth of the points and the values themselves stand pale behind it. ValueError where nothing can be drawn.
    """
    panels = [
        panel for panel in _panels(runs) if any(_points(r, x, name)[0] for r in runs.values() for name in panel[1])
    ]
    if not panels:
        raise ValueError(f"no curve to draw: no row of {', '.join(runs) or 'no run'} holds {x!r} and a known metric")
    columns = min(4, len(panels))
    rows_of_panels = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(3.6 * columns, 2.75 * rows_of_panels + 0.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows_of_panels, columns, squeeze=False).ravel()
    for axes, (title, names, unit) in zip(grid, panels, strict=False):
        _draw_panel(axes, runs, x, title, names, unit)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles = [Line2D([], [], color=colour, lw=2.5) for _, colour in _coloured(runs)]
    legend = figure.legend(handles, [drawable(label) for label in runs], loc="outside upper center", ncols=6)
    _take_literally(legend.get_texts())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


@dataclass(frozen=True)
class Panel:
    """One panel of `dynamics`."""

    title: str
    names: Mapping[str, str]
    """Metric (metrics.METRICS) -> its word in the panel's key. Up to four: one line style each."""
    unit: str
    """Of the y axis."""
    span: tuple[float, float] | None = None
    """What the y axis shows at the least; None = what there is."""
    log: bool = False


_SHARE = (0.0, 1.0)
_SMALL_SHARE = (0.0, 0.1)

DYNAMICS: dict[str, tuple[Panel, ...]] = {
    "Figures 5 and 8: what is learnt": (
        Panel("(a) Correctness reward, original", {"reward/correct": ""}, "mean reward", _SHARE),
        Panel("(b) Zero-advantage groups", {"group/zero_advantage": ""}, "fraction of groups", _SHARE),
        Panel(
            "(c) Auxiliary reward",
            {
                "reward/crr_orig": "CRPO: CRR",
                "reward/temporal": "T-GRPO: temporal",
                "reward/reverse": "ArrowRL: reverse",
            },
            "mean reward",
            (0.0, 0.1),
        ),
        Panel("Pair accuracy, dynamic", {"eval/pair_acc": ""}, "%", (0.0, 100.0)),
    ),
    "Figure 7: CRPO's reward components, before w_aug": (
        Panel("Correct (original)", {"reward/correct": ""}, "mean reward", _SHARE),
        Panel("CRR (original)", {"reward/crr_orig": ""}, "mean reward", (0.0, 0.1)),
        Panel("Behave (counterfactual)", {"reward/behave": ""}, "mean reward", _SHARE),
        Panel("CRR (counterfactual)", {"reward/crr_aug": ""}, "mean reward", (0.0, 0.1)),
    ),
    "Appendix F: does the auxiliary reward reach the advantage?": (
        Panel(
            "Size of the advantage",
            {"advantage/size": "as trained", "advantage/without_auxiliary": "auxiliary unpaid"},
            "mean |advantage|",
            _SHARE,
        ),
        Panel(
            "Shift by the auxiliary (0: it cancels)", {"advantage/auxiliary_shift": ""}, "mean |shift|", _SMALL_SHARE
        ),
        Panel("Zero advantage, original", {"group/zero_advantage_original": ""}, "fraction of groups", _SHARE),
        Panel(
            "Zero advantage, counterfactual", {"group/zero_advantage_counterfactual": ""}, "fraction of groups", _SHARE
        ),
    ),
    "Does the policy hold?": (
        Panel("Entropy", {"policy/entropy": ""}, "nats a token", (0.0, 0.0)),
        Panel("KL to the start model", {"policy/kl": ""}, "nats a token", (0.0, 0.01)),
        Panel("Clipped tokens", {"policy/clip_fraction": ""}, "fraction of tokens", (0.0, 0.01)),
        Panel(
            "Probability ratio, extremes",
            {"policy/ratio_max": "largest", "policy/ratio_min": "smallest"},
            "policy / old",
            (0.8, 1.25),
            log=True,
        ),
    ),
    "Does the update hold?": (
        Panel("Gradient norm, before clipping", {"policy/grad_norm": ""}, "L2 norm", (0.0, 0.0)),
        Panel(
            "Gap of engine and trainer",
            {"policy/engine_gap_mean": "mean", "policy/engine_gap_max": "largest"},
            "nats a token",
            log=True,
        ),
        Panel(
            "Length of a completion",
            {"rollout/completion_tokens": "mean", "rollout/completion_tokens_max": "longest"},
            "tokens",
            (0.0, 0.0),
        ),
        Panel("Truncated at the length limit", {"rollout/truncated": ""}, "fraction of rollouts", _SMALL_SHARE),
    ),
    "Do the answers hold?": (
        Panel(
            "Well-formed completions",
            {"reward/format": "original", "reward/cf_format": "counterfactual"},
            "fraction of rollouts",
            (0.9, 1.0),
        ),
        Panel(
            "Unreadable answers",
            {"rollout/unreadable": "original", "rollout/unreadable_counterfactual": "counterfactual"},
            "fraction of rollouts",
            _SMALL_SHARE,
        ),
        Panel(
            "Null option, original (never right)",
            {f"rollout/null_original/{task_type}": task_type for task_type in TASK_TYPES},
            "fraction of rollouts",
            _SMALL_SHARE,
        ),
        Panel(
            "Null option, counterfactual",
            {f"rollout/null_counterfactual/{task_type}": task_type for task_type in TASK_TYPES},
            "fraction of rollouts",
            _SMALL_SHARE,
        ),
    ),
}
"""Rows of panels of `dynamics`."""


def dynamics(
    runs: Mapping[str, Sequence[Mapping[str, float]]], path: str | os.PathLike, *, x: str = "data/rollouts_seen"
) -> None:
    """Diagnostics of several runs (paper Fig. 5, 7 and 8, App. F, and where RL breaks), as one PNG at `path`.

    `runs` and `x` as for `curves`. From 20 points on, the strong line is a running mean over a tenth of the points
    (shorter windows at the ends) and the values themselves stand pale behind it. A panel of which no run has a value
    says so. ValueError where nothing can be drawn, or more runs are given than colours can be told apart.
    """
    if len(runs) > len(COLOURS):
        raise ValueError(f"{len(runs)} runs, but no more than {len(COLOURS)} colours can be told apart: give fewer")
    panels = [panel for row in DYNAMICS.values() for panel in row]
    if not any(_points(rows, x, name)[0] for rows in runs.values() for panel in panels for name in panel.names):
        raise ValueError(f"no curve to draw: no row of {', '.join(runs) or 'no run'} holds {x!r} and a known metric")
    columns = max(map(len, DYNAMICS.values()))
    figure = Figure(figsize=(4.1 * columns, 2.95 * len(DYNAMICS) + 0.9), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(DYNAMICS), columns, squeeze=False)
    for places, (heading, row) in zip(grid, DYNAMICS.items(), strict=True):
        for axes, panel in zip(places, row, strict=True):
            _draw_dynamics(axes, runs, x, panel)
        _head(places[0], heading)
    handles = [Line2D([], [], color=colour, lw=3) for _, colour in _coloured(runs)]
    labels = [drawable(label) for label in runs]
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=11, frameon=False)
    _take_literally(legend.get_texts())
    figure.supxlabel("strong: running mean over a tenth of a run's rounds; pale: each round", fontsize=9, color="0.4")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


@dataclass(frozen=True)
class Sweep:
    """One panel of `sensitivity`: value of a setting -> one number a run, percent."""

    setting: str
    """Under the x axis."""
    title: str
    sensitive: Mapping[float, Sequence[float]]
    """Solid orange: the metric that should move."""
    general: Mapping[float, Sequence[float]]
    """Dashed navy: the metric that should stay; may be empty."""


def sensitivity(sweeps: Sequence[Sweep], path: str | os.PathLike, *, sensitive: str, general: str) -> None:
    """The paper's Figure 9 as one PNG at `path`: a panel a sweep, `sensitive` and `general` name the two curves.

    A point is the mean over its runs; where there are several, a bar goes from the lowest to the highest and their
    number stands at the point. ValueError where no sweep has a point.
    """
    if not any(sweep.sensitive for sweep in sweeps):
        raise ValueError("no point to draw")
    figure = Figure(figsize=(4.6 * len(sweeps), 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    styles = {sensitive: ("#E8710A", "-", "o"), general: ("#1F3A6E", (0, (4, 2)), "s")}
    panels = figure.subplots(1, len(sweeps), squeeze=False, sharey=True).ravel()
    for axes, sweep in zip(panels, sweeps, strict=True):
        for points, (colour, style, marker) in zip((sweep.sensitive, sweep.general), styles.values(), strict=True):
            _draw_sweep(axes, points, colour, style, marker)
        ticks = sorted({*sweep.sensitive, *sweep.general})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel(sweep.setting, fontsize=10)
        axes.set_title(sweep.title, fontsize=11, loc="left", weight="bold")
        axes.margins(x=0.12, y=0.15)
        axes.grid(color="0.9", lw=0.7)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("%", fontsize=10)
    drawn = [
        name for name, part in ((sensitive, "sensitive"), (general, "general")) if any(getattr(s, part) for s in sweeps)
    ]
    handles = [Line2D([], [], color=c, ls=ls, marker=m, lw=2) for c, ls, m in (styles[name] for name in drawn)]
    figure.legend(handles, drawn, loc="outside upper center", ncols=2, frameon=False, handlelength=3)
    if any(len(runs) > 1 for sweep in sweeps for runs in sweep.sensitive.values()):
        figure.supxlabel("points: mean of n runs; bars: lowest to highest", fontsize=8, color="0.4")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned plain text under a header of column names; floats with one decimal, a missing value as "-"."""
    cells = [[str(name) for name in columns]] + [[_cell(row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [not any(isinstance(row.get(name), str) for row in rows) for name in columns]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


_LINE_STYLES = ("-", (0, (2, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (1, 1)))


def _panels(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> list[tuple[str, dict[str, str], str]]:
    """(title, {metric: its name within the panel}, unit of y) of each panel, in the paper's order."""
    panels = [
        ("Correctness reward", {"reward/correct": ""}, "mean reward"),
        ("Zero-advantage groups", {"group/zero_advantage": ""}, "fraction"),
        ("CRR", {"reward/crr_orig": "original", "reward/crr_aug": "counterfactual"}, "mean reward"),
        ("Behave", {"reward/behave": ""}, "mean reward"),
        ("Format", {"reward/format": "original", "reward/cf_format": "counterfactual"}, "fraction"),
        ("Gap of engine and trainer", {"policy/engine_gap_mean": "mean", "policy/engine_gap_max": "max"}, "nats"),
        ("Pair accuracy, dynamic", {"eval/pair_acc": ""}, "%"),
    ]
    names = {name: None for rows in runs.values() for row in rows for name in row}
    for name in names:
        parts = name.split("/")
        if len(parts) == 3 and parts[0] == "eval" and parts[2] == "pair_acc" and parts[1] != "dynamic":
            panels.append((f"Pair accuracy, {parts[1]}", {name: ""}, "%"))
    return panels


def _draw_panel(
    axes: Axes,
    runs: Mapping[str, Sequence[Mapping[str, float]]],
    x: str,
    title: str,
    names: Mapping[str, str],
    unit: str,
) -> None:
    evaluation, furthest = unit == "%", 1.0
    for index, (label, colour) in enumerate(_coloured(runs)):
        size = max(1.2, 2.8 - 0.6 * index)  # a later run is drawn thinner: runs that coincide all stay visible
        for name, style in zip(names, _LINE_STYLES, strict=False):
            xs, ys = _points(runs[label], x, name)
            window = len(ys) // 25 if len(ys) >= 50 else 1
            if window > 1:
                axes.plot(xs, ys, color=colour, alpha=0.2, lw=0.7)
                ys = _running_mean(ys, window)
            marker = "o" if evaluation or len(ys) == 1 else None  # a line through one point is invisible
            pale = 0.45 if len(names) > 1 and style == "-" else 1.0  # the dashes of an equal curve show on it
            axes.plot(xs, ys, color=colour, ls=style, lw=size, alpha=pale, marker=marker, ms=2 + 2 * size)
            furthest = max(furthest, *xs) if xs else furthest
    if unit == "nats" and any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):  # a toy's gap may be 0
        axes.set_yscale("log", nonpositive="mask")
    elif evaluation:
        axes.set_ylim(-4, 104)
    elif unit == "fraction":
        axes.set_ylim(-0.04, 1.04)
    if any(names.values()):
        keys = [
            Line2D([], [], color="0.3", ls=style, alpha=0.6 if style == "-" else 1)
            for _, style in zip(names, _LINE_STYLES, strict=False)
        ]
        axes.legend(keys, list(names.values()), fontsize=7.5, frameon=False, handlelength=2.4)
    _dress(axes, x, title, unit, furthest)


def _draw_dynamics(axes: Axes, runs: Mapping[str, Sequence[Mapping[str, float]]], x: str, panel: Panel) -> None:
    furthest = max([1.0, *(max(_points(rows, x, x)[0], default=0.0) for rows in runs.values())])
    styles = dict(zip(panel.names, _LINE_STYLES, strict=False))
    present = set()
    for index, (label, colour) in enumerate(_coloured(runs)):
        for name, style in styles.items():
            xs, ys = _points(runs[label], x, name)
            if not xs:
                continue
            present.add(name)
            window = len(ys) // 10 if len(ys) >= 20 else 1
            if window > 1:
                axes.plot(xs, ys, color=colour, alpha=0.3, lw=0.7)
                ys = _running_mean(ys, window)
            marker = "o" if panel.unit == "%" or len(ys) == 1 else None  # a line through one point is invisible
            # A later run is drawn thinner: runs that coincide all stay visible.
            axes.plot(xs, ys, color=colour, ls=style, lw=max(1.1, 2.4 - 0.3 * index), marker=marker, ms=4)
    if not present:
        said = "no data: these runs log none of\n" + "\n".join(panel.names)
        axes.text(0.5, 0.5, said, ha="center", va="center", fontsize=8, color="0.5", transform=axes.transAxes)
        axes.set_yticks([])
    elif panel.log and any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        axes.set_yscale("log", nonpositive="mask")
    if present and panel.span:
        axes.set_ylim(*_limits([line.get_ydata() for line in axes.lines], *panel.span, log=panel.log))
        if panel.log and np.divide(*axes.get_ylim()) > 0.1:  # within a decade: no powers of ten to write at the ticks
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    if len(panel.names) > 1 and present:
        words = {
            word: style
            for (name, word), style in zip(panel.names.items(), styles.values(), strict=True)
            if name in present
        }
        keys = [Line2D([], [], color="0.3", ls=style) for style in words.values()]
        axes.legend(keys, list(words), fontsize=7.5, handlelength=3, framealpha=0.75, edgecolor="none")
    _dress(axes, x, panel.title, panel.unit, furthest)


def _head(axes: Axes, heading: str) -> None:
    """A heading over a row of panels. The layout keeps its height free, but may not widen the first panel for it."""
    place = dict(xy=(0, 1), xytext=(0, 26), xycoords="axes fraction", textcoords="offset points", fontsize=12.5)
    axes.annotate(heading, **place, color="0.35", weight="bold", annotation_clip=False).set_in_layout(False)
    axes.annotate("X", **place, alpha=0.0)


def _limits(lines: Sequence[Any], low: float, high: float, *, log: bool) -> tuple[float, float]:
    """Limits of a y axis that shows its lines and the span from low to high, with some air."""
    values = np.concatenate([np.asarray(line, dtype=float) for line in lines])
    values = values[values > 0] if log else values
    low, high = min([low, *values]), max([high, *values])
    if log:
        return low / 1.1, high * 1.1
    air = 0.04 * (high - low or 1.0)
    return low - air, high + air


def _draw_sweep(axes: Axes, points: Mapping[float, Sequence[float]], colour: str, style: Any, marker: str) -> None:
    xs = sorted(points)
    means = [float(np.mean(points[value])) for value in xs]
    axes.plot(xs, means, color=colour, ls=style, marker=marker, lw=2, ms=6)
    for value in xs:
        if len(points[value]) > 1:
            highest = max(points[value])
            axes.vlines(value, min(points[value]), highest, color=colour, lw=1.2, alpha=0.7)
            place = dict(xytext=(0, 7), textcoords="offset points", ha="center")  # clear of the marker, if it is there
            axes.annotate(f"n={len(points[value])}", (value, highest), **place, fontsize=7.5, color=colour)


def _dress(axes: Axes, x: str, title: str, unit: str, furthest: float) -> None:
    """Axes, names and grid, the same in every panel of curves."""
    axes.set_xlim(-0.02 * furthest, 1.03 * furthest)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel({"step": "round", "data/rollouts_seen": "rollouts generated"}.get(x, x), fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.set_title(drawable(title), fontsize=10.5, loc="left", weight="bold")
    _take_literally([axes.title, axes.xaxis.label])
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", lw=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def _coloured(runs: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(label, COLOURS[index % len(COLOURS)]) for index, label in enumerate(runs)]


def _points(rows: Sequence[Mapping[str, float]], x: str, name: str) -> tuple[list[float], list[float]]:
    pairs = [(row[x], row[name]) for row in rows if row.get(x) is not None and row.get(name) is not None]
    pairs = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def _running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the values within half a window on either side; shorter at the ends, so no point is made up."""
    half = window // 2
    return [float(np.mean(values[max(0, i - half) : i + half + 1])) for i in range(len(values))]


def _take_literally(texts: Sequence[Any]) -> None:
    for text in texts:
        text.set_parse_math(False)


def _fit(frames: torch.Tensor) -> torch.Tensor:
    """Frames near TILE_WIDTH wide: whole factors up, averages down."""
    height, width = frames.shape[2:]
    factor = TILE_WIDTH // width
    if factor >= 2:
        return frames.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    if width <= TILE_WIDTH:
        return frames
    size = (max(1, round(height * TILE_WIDTH / width)), TILE_WIDTH)
    return functional.interpolate(frames.float(), size=size, mode="area").round().to(torch.uint8)


def _text_picture(lines: Sequence[str], width: int, weight: str = "normal") -> np.ndarray:
    """Lines of text, wrapped, black on white: uint8 (H, width, 3)."""
    # This font ships with matplotlib, and every glyph of it is 0.602 em wide.
    font = font_manager.FontProperties(family="DejaVu Sans Mono", size=FONT_SIZE, weight=weight)
    letters = int((width - 4 * GAP) / (0.603 * FONT_SIZE * DPI / 72))
    wrapped = [part for line in lines for part in _wrap(line, max(letters, 20))]
    if len(wrapped) > MAX_TEXT_LINES:
        wrapped = [*wrapped[: MAX_TEXT_LINES - 1], f"... {len(wrapped) - MAX_TEXT_LINES + 1} more lines"]
    height = LINE_HEIGHT * len(wrapped) + 2 * GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for index, line in enumerate(wrapped):
        top = 1 - (GAP + LINE_HEIGHT * (index + 0.5)) / height
        figure.text(2 * GAP / width, top, line, va="center_baseline", fontproperties=font, parse_math=False)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:height, :width, :3].copy()


def _wrap(text: str, letters: int) -> list[str]:
    drawn = [drawable(line) for line in text.expandtabs(4).splitlines() or [""]]
    return [part for line in drawn for part in textwrap.wrap(line, letters, subsequent_indent="    ") or [""]]


def drawable(text: str) -> str:
    """The text with every character replaced that the fonts lack (matplotlib would warn and draw a box)."""
    return "".join(c if ord(c) in _GLYPHS and c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _font_glyphs() -> frozenset[int]:
    """What all four fonts can draw: the sheet's and the curves', each normal and bold."""
    fonts = [
        font_manager.FontProperties(family=name, weight=weight)
        for name in ("DejaVu Sans Mono", "DejaVu Sans")
        for weight in ("normal", "bold")
    ]
    maps = [font_manager.get_font(font_manager.findfont(font)).get_charmap() for font in fonts]
    return frozenset.intersection(*map(frozenset, maps))


_GLYPHS = _font_glyphs()


def _pad(picture: np.ndarray, width: int) -> np.ndarray:
    missing = max(0, width - picture.shape[1])
    return np.pad(picture, ((0, GAP), (0, missing), (0, 0)), constant_values=255)


def _cell(value: Any) -> str:
    if value is None or value != value:  # NaN differs from itself
        return "-"
    if isinstance(value, float):
        return f"{value:.1f}"
    return "".join(c if c.isprintable() else " " for c in str(value))
