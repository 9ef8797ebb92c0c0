"""What a file of pairs consists of: the numbers and the picture of the paper's Fig. 3, and chance."""

from __future__ import annotations

import os
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from episode import Question
from eval.dybench_words import SUBTASKS
from pictures import COLOURS, drawable

LENGTHS = (0, 5, 10, 15, 20, 25, 30)
"""Seconds: where each bin begins; the last one is open."""
MAX_BARS = 12  # sources in the picture; the others share a bar


def statistics_of(rows: Sequence[dict], questions: Sequence[Question]) -> dict[str, dict]:
    """Per sub-task and overall: pairs, videos, seconds (median, mean, longest, share below 30), options, chance; and
    counts of pairs by source and subject, of videos by length. `rows` and `questions` are the same rows as they stand
    and as they load."""
    parts: dict[str, list[int]] = {subtask: [] for subtask in SUBTASKS}
    for i, question in enumerate(questions):
        parts.setdefault(question.subtask, []).append(i)
    parts = {name: members for name, members in parts.items() if members} | {"overall": list(range(len(questions)))}
    found = {}
    for name, members in parts.items():
        shares = [1 / len(questions[i].options) for i in members]
        found[name] = {
            "pairs": len(members) // 2,
            "videos": len({questions[i].path for i in members}),
            "questions": len(members),
            "chance_acc": 100 * statistics.fmean(shares),
            "chance_pair_acc": 100 * statistics.fmean(share**2 for share in shares),
        }
        if seconds := _seconds([rows[i] for i in members]):
            found[name] |= {
                "median_seconds": statistics.median(seconds),
                "mean_seconds": statistics.fmean(seconds),
                "longest_seconds": max(seconds),
                "below_30_s": 100 * sum(second < 30 for second in seconds) / len(seconds),
            }
    pairs = [row for row in rows if row["side"] == "a"]
    counts = {name: dict(Counter(str(row.get(name) or "-") for row in pairs)) for name in ("data_source", "subject")}
    bins = Counter(bisect_right(LENGTHS, second) - 1 for second in _seconds(rows))
    return {"subtasks": found, **counts, "seconds": {_bin(at): bins[at] for at in range(len(LENGTHS))} if bins else {}}


def _seconds(rows: Sequence[dict]) -> list[float]:
    return [row["seconds"] for row in rows if isinstance(row.get("seconds"), int | float)]


def _bin(at: int) -> str:
    return f"{LENGTHS[at]}-{LENGTHS[at + 1]}" if at + 1 < len(LENGTHS) else f"{LENGTHS[at]}+"


def draw(found: Mapping[str, Any], path: str | os.PathLike) -> None:
    """Fig. 3 of `statistics_of`, as a PNG at `path`: pairs by sub-task, source and subject, videos by length."""
    figure = Figure(figsize=(9.6, 5.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    (subtasks, sources), (subjects, seconds) = figure.subplots(2, 2)
    overall = found["subtasks"]["overall"]
    parts = {name: part["pairs"] for name, part in found["subtasks"].items() if name != "overall"}
    _bars(subtasks, "Pairs by sub-task", {name.replace("_", " "): n for name, n in parts.items()}, COLOURS)
    _bars(sources, "Pairs by source", _most(found["data_source"]))
    _bars(subjects, "Pairs by subject", _most(found["subject"]))
    bins = found["seconds"]
    seconds.bar(range(len(bins)), list(bins.values()), color=COLOURS[0], width=0.9)
    seconds.set_xticks(range(len(bins)), list(bins), fontsize=9)
    seconds.set_xlabel("seconds", fontsize=9)
    _plain(seconds, "Videos by length" if bins else "Videos by length: the rows do not say", "y")
    title = f"{overall['pairs']:,} pairs, {overall['videos']:,} videos"
    figure.suptitle(title, fontsize=12, weight="bold", x=0.01, ha="left")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _most(counts: Mapping[str, int]) -> dict[str, int]:
    """The largest first; what is beyond MAX_BARS together."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = ranked[MAX_BARS:]
    return dict(ranked[:MAX_BARS]) | ({f"{len(rest)} others": sum(n for _, n in rest)} if rest else {})


def _bars(axes: Axes, title: str, counts: Mapping[str, int], colours: Sequence[str] = COLOURS[:1]) -> None:
    total, places = sum(counts.values()), range(len(counts))
    axes.barh(places, list(counts.values()), color=[colours[at % len(colours)] for at in places], height=0.7)
    axes.set_yticks(places, [drawable(name) for name in counts], fontsize=9, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35 * max(counts.values()))  # room for the words behind the longest bar
    for at, n in enumerate(counts.values()):
        words = f"{n:,} ({100 * n / total:.0f} %)"
        axes.annotate(words, (n, at), (4, 0), textcoords="offset points", va="center", fontsize=9)
    _plain(axes, title, "x")


def _plain(axes: Axes, title: str, counted: str) -> None:
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.tick_params(labelsize=9, length=0)
    (axes.xaxis if counted == "x" else axes.yaxis).set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis=counted, color="0.9", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
