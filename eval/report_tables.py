"""The paper's Tables 1, 4 and 5 of several runs: values, bootstrap intervals, differences against the first run.

Pure functions of answers that are already judged right or wrong. Accuracies are percent. Intervals are 95 % percentile
intervals of a bootstrap over units (pairs, instances, questions). All runs are resampled together, so that the interval
of a difference is that of the paired difference: two runs answer the same questions, and most of the noise is shared.
Axes: U units, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eval.report_runs import FULL_VIDEO, Answer, Part, Run, common_units
from eval.scoring import (
    GROUNDED,
    Unit,
    accuracy_by_dynamic_fraction,
    both_answers,
    interval,
    is_static,
    same_answer,
    unit_metrics,
)
from transforms import COUNTERFACTUALS, HORIZONTAL_FLIP, TASK_TRANSFORMS, TEMPORAL_REVERSE

SHORTCUTS = {
    FULL_VIDEO: "Full Video",
    "single_frame": "Single Frame",
    "shuffled": "Shuffled Frames",
    "text_only": "Text Only",
}
"""Table 4's columns (paper App. A.4)."""
TRANSFORMED = {HORIZONTAL_FLIP: "flipped", TEMPORAL_REVERSE: "reversed"}
TITLES = {
    "dybench": "DyBench",
    "pairs": "Own pairs",
    "timeblind": "TimeBlind",
    "tempcompass": "TempCompass",
    "tempcompass_multi_choice": "TempCompass multi-choice",
    "tempcompass_yes_no": "TempCompass yes/no",
    "tempcompass_caption_matching": "TempCompass caption matching",
    "tempcompass_captioning": "TempCompass captioning",
    "videomme": "VideoMME",
    "mvbench": "MVBench",
    "charades_sta": "Charades-STA",
    "activitynet": "ActivityNet",
    "nextgqa": "NExT-GQA",
    "got10k": "GOT-10k",
}
STRICT = {"dybench": "pair_acc", "pairs": "pair_acc", "timeblind": "i_acc"}
"""Metric that is the share of units with every answer right (paper Sec. 4)."""
HEADINGS = {
    "acc": "Acc",
    "pair_acc": "P-Acc",
    "same_answer": "Same answer",
    "i_acc": "I-Acc",
    "q_acc": "Q-Acc",
    "v_acc": "V-Acc",
    "acc_gqa": "Acc@GQA",
    "miou": "mIoU",
    "miop": "mIoP",
    "overlap": "Overlap",
}
"""Metric of `eval.scoring.unit_metrics` -> how the tables call it; "r@0.5" is R@0.5."""
SUBTASK_FACT = {"mvbench": "task", **{name: "dim" for name in TITLES if name.startswith("tempcompass_")}}
"""Benchmark of Fig. 1, right -> the fact of its items that names its sub-tasks."""
PAIRED = ("dybench", "pairs")
"""Benchmarks in sub-tasks, some of them perhaps static, which Tables 4 and 5 take apart."""
TEMPCOMPASS = ("tempcompass_multi_choice", "tempcompass_yes_no", "tempcompass_caption_matching")
"""One column of Table 1, micro-averaged; captioning needs a judge and stays apart."""
MAX_GROUPS = 40
"""A fact with more values than this names items, not groups."""

Units = Mapping[str, Mapping[str, Sequence[Answer]]]
"""Label -> unit -> answers; the same units under each label."""


@dataclass(frozen=True)
class Interval:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One run's number in one column, percent."""

    score: Interval
    difference: Interval | None
    """Against the first run, paired; None in its own row, and where it has no such number."""


@dataclass(frozen=True)
class Column:
    """Acc or a strict accuracy of some units."""

    group: str
    """Heading over the column: benchmark, sub-task or setting."""
    metric: str
    n: int
    """Answers for Acc, units for a strict accuracy."""
    chance: float | None
    """Of uniform, independent guesses among the options; None where there is nothing to guess from."""
    cells: Mapping[str, Cell]
    """Label -> cell; a run without these answers is not in it."""
    falls: bool = False
    """Less is better."""


@dataclass(frozen=True)
class Table:
    name: str
    """Of its picture's file."""
    title: str
    note: str
    columns: Sequence[Column]
    caption: str = "dots are scores, bars 95 % intervals, dashed lines chance"
    """Of its picture."""
    points: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Label -> `eval.scoring.accuracy_by_dynamic_fraction`; of Fig. 1, right, alone."""


@dataclass(frozen=True)
class Bootstrap:
    resamples: int = 2000
    seed: int = 0

    def weights(self, count: int) -> np.ndarray:
        """(B, U) times each unit is drawn; the same for the same U, whatever is measured."""
        return (
            np.random.default_rng(self.seed)
            .multinomial(count, np.full(count, 1 / count), size=self.resamples)
            .astype(float)
        )


Metrics = Mapping[str, Callable[[Sequence[Answer]], Unit]]
"""Metric -> what it finds in the answers of one unit."""
Columns = Callable[..., list[Column]]
"""(heading, units, metrics) -> columns against the first run."""


def all_tables(
    runs: Sequence[Run], bootstrap: Bootstrap, routed: Mapping[str, Mapping[str, str | None]] | None = None
) -> tuple[list[Table], list[Table], list[str]]:
    """(the paper's tables, breakdowns by every fact the items carry, what to say aloud) of evaluation runs.

    `routed`: benchmark -> question id -> the router's type. ValueError where two runs of a benchmark share no question
    (`report_runs.common_units`), and as `fraction_table` does.
    """
    parts = sorted({part for run in runs for part in run.answers})
    shared: dict[Part, Units] = {}
    notices = [notice for run in runs for notice in run.notices]
    for part in parts:
        shared[part], said = common_units(runs, part)
        notices += said

    def columns(group: str, units: Units, metrics: Metrics) -> list[Column]:
        return columns_of(group, units, metrics, runs[0].label, bootstrap)

    paper = [main_table(shared, columns)]
    shortcuts = [name for name, setting in parts if setting not in (FULL_VIDEO, *COUNTERFACTUALS)]
    for benchmark in dict.fromkeys(shortcuts):
        paper.append(shortcut_table(benchmark, shared, columns))
    paper += [subtask_table(name, shared[name, FULL_VIDEO], columns) for name in PAIRED if (name, FULL_VIDEO) in shared]
    paper += [relation_table(shared, columns, routed or {}), grounding_table(shared, columns)]
    paper += [fraction_table(name, shared, columns, types) for name, types in (routed or {}).items()]
    breakdowns = [tempcompass_table(shared, columns)]
    breakdowns += [table for part in parts if part[1] == FULL_VIDEO for table in fact_tables(part[0], shared, columns)]
    paper, breakdowns = ([table for table in of if table.columns] for of in (paper, breakdowns))
    return paper, breakdowns, list(dict.fromkeys(notices))


def metrics_of(benchmark: str, *names: str) -> Metrics:
    """Heading -> metric of `eval.scoring.unit_metrics`: those named, else Acc and a paired benchmark's strict one; of a
    benchmark whose answers are right in part all."""
    found = unit_metrics(benchmark)
    if benchmark in GROUNDED:
        names = tuple(found)
    names = names or ("acc", *([STRICT[benchmark]] if benchmark in STRICT else []))
    return {HEADINGS.get(name, name.capitalize()): found[name] for name in names}


# -- tables ------------------------------------------------------------------------------------------------------------


def main_table(shared: Mapping[Part, Units], columns: Columns) -> Table:
    """Table 1: every benchmark, full video."""
    found, note = [], "Full video. Pairs: dynamic sub-tasks."
    for name in (*PAIRED, "timeblind", "tempcompass", "videomme", "mvbench"):
        units = shared.get((name, FULL_VIDEO), {})
        if name in PAIRED:
            units = dynamic(units)
        if name == "tempcompass":
            units, kinds = tempcompass(shared)
            if kinds:
                note += f" TempCompass: all items of {', '.join(kinds)}."
        found += columns(TITLES[name], units, metrics_of(name))
    return Table("table1", "Table 1: benchmarks", note, found)


def subtask_table(benchmark: str, units: Units, columns: Columns) -> Table:
    """Table 5: pairs by sub-task; `Overall` is over the dynamic ones, static ones follow it."""
    rows, metrics = first_rows(units), metrics_of(benchmark)
    order = ("reversible_dynamics", "moving_direction", "event_sequence")
    names = sorted(
        {row.subtask or "none" for row in rows}, key=lambda name: (*(name != known for known in order), name)
    )

    def of(name: str) -> list[Column]:
        part = only(units, lambda row: (row.subtask or "none") == name)
        return columns(subtask_title(name), part, metrics)

    found = [column for name in names if not is_static(name) for column in of(name)]
    found += columns("Overall", dynamic(units), metrics)
    found += [column for name in names if is_static(name) for column in of(name)]
    note = "Overall is over the dynamic sub-tasks. A pair counts for P-Acc when both sides are right."
    return Table(f"table5_{benchmark}", f"Table 5: {TITLES[benchmark]} by sub-task", note, found)


def relation_table(
    shared: Mapping[Part, Units], columns: Columns, routed: Mapping[str, Mapping[str, str | None]]
) -> Table:
    """How the answers of a unit hang together: Fig. 1, left, and TimeBlind's Q-Acc and V-Acc.

    Of a clip and its flip or reversal: a question is static by its sub-task or to the router, and dynamic where the
    router's type says that the transform changes its answer; of the others nothing is known.
    """
    found = []
    for name in PAIRED:
        units = shared.get((name, FULL_VIDEO), {})
        same = columns(f"{TITLES[name]}, dynamic", dynamic(units), metrics_of(name, "same_answer"))
        found += [replace(column, falls=True) for column in same]
        static = only(units, lambda row: is_static(row.subtask or ""))
        found += columns(f"{TITLES[name]}, static", static, {"Agreement": same_answer})
    for (name, setting), units in shared.items():
        if setting in COUNTERFACTUALS and (name, FULL_VIDEO) in shared:
            types, both = routed.get(name, {}), on_both(shared[name, FULL_VIDEO], units)
            stays = only(both, lambda row, of=types: is_static(row.subtask or "") or of.get(row.id) == "Static")
            turns = {kind for kind, names in TASK_TRANSFORMS.items() if setting in names and kind != "Static"}
            changes = only(both, lambda row, of=types, turns=turns: of.get(row.id) in turns)
            title = f"{TITLES.get(name, name)}, {{}}, {TRANSFORMED[setting]}"
            found += columns(title.format("static"), stays, {"Agreement": same_answer})
            same = columns(title.format("dynamic"), changes, {HEADINGS["same_answer"]: same_answer})
            found += [replace(column, falls=True) for column in same]
    blind = shared.get(("timeblind", FULL_VIDEO), {})
    found += columns(TITLES["timeblind"], blind, metrics_of("timeblind", "q_acc", "v_acc"))
    note = (
        "Same answer: one answer for both sides of a pair, or for a clip and its flip or reversal, although the truth "
        "differs (Fig. 1, left; less is better). Agreement: the same where the truth agrees (more is better)."
    )
    return Table("relations", "Same answers, questions and videos", note, found)


def grounding_table(shared: Mapping[Part, Units], columns: Columns) -> Table:
    """The benchmarks whose answers are right in part (VideoChat-R1's), full video."""
    found = [
        column
        for name in GROUNDED
        for column in columns(TITLES[name], shared.get((name, FULL_VIDEO), {}), metrics_of(name))
    ]
    note = "R@T: at least this IoU with the right interval. Acc@GQA: answered right and pointed right (IoP of 0.5)."
    return Table("grounding", "Where and when: grounding and tracking", note, found)


def fraction_table(
    benchmark: str, shared: Mapping[Part, Units], columns: Columns, types: Mapping[str, str | None]
) -> Table:
    """Fig. 1, right: accuracy of each sub-task, by the fraction of its questions that the router calls dynamic.

    ValueError where no run answered the benchmark, it is none of SUBTASK_FACT, or none of its questions is in `types`.
    """
    if benchmark not in SUBTASK_FACT or (benchmark, FULL_VIDEO) not in shared:
        raise ValueError(f"--routed {benchmark}: must be one that a run answered, of {', '.join(SUBTASK_FACT)}")
    units, fact = shared[benchmark, FULL_VIDEO], SUBTASK_FACT[benchmark]
    points = {
        label: accuracy_by_dynamic_fraction([row for rows in of.values() for row in rows], types, fact)
        for label, of in units.items()
    }
    found = []
    for point in next(iter(points.values())):
        if point["routed"]:
            part = only(units, lambda row, name=point["subtask"]: row.facts.get(fact, row.subtask or "") == name)
            words = f"{point['subtask'].replace('_', ' ')}: {point['dynamic']:.0f} % dynamic of {point['routed']:,}"
            found += columns(words, part, metrics_of(benchmark))
    if not found:
        ids = [row.id for row in first_rows(units)]
        raise ValueError(f"--routed {benchmark}: labels none of the questions that were answered ({ids[0]!r}, ...)")
    title = f"Fig. 1, right: {TITLES[benchmark]} by fraction of dynamic questions"
    note = "Dynamic: Spatial, Temporal or Spatiotemporal to the router. Questions that it left out count in Acc."
    caption = "each dot a sub-task of a model"
    return Table(f"fig1_{benchmark}", title, note, found, caption, points)


def shortcut_table(benchmark: str, shared: Mapping[Part, Units], columns: Columns) -> Table:
    """Table 4: one benchmark under inputs that destroy the order of time."""
    settings = [name for part, name in shared if part == benchmark and name not in COUNTERFACTUALS]
    settings.sort(key=lambda name: (list(SHORTCUTS).index(name) if name in SHORTCUTS else len(SHORTCUTS), name))
    found = []
    for name in settings:
        units = shared[benchmark, name]
        units = dynamic(units) if benchmark in PAIRED else units
        found += columns(SHORTCUTS.get(name, name.replace("_", " ")), units, metrics_of(benchmark))
    title = TITLES.get(benchmark, benchmark)
    return Table(
        f"table4_{benchmark}",
        f"Table 4: {title} under shortcuts",
        "Inputs that destroy temporal information: a benchmark that needs it leaves every model near chance.",
        found,
    )


def tempcompass_table(shared: Mapping[Part, Units], columns: Columns) -> Table:
    """TempCompass by sub-task, each over the questions its own runs share."""
    found = []
    for name in (*TEMPCOMPASS, "tempcompass_captioning"):
        kind = TITLES[name].removeprefix("TempCompass ")
        found += columns(kind, shared.get((name, FULL_VIDEO), {}), metrics_of(name))
    return Table("tempcompass_task", "TempCompass by sub-task", "", found)


def fact_tables(benchmark: str, shared: Mapping[Part, Units], columns: Columns) -> list[Table]:
    """A table for each fact of the items that groups them: Video-MME's duration, MVBench's task, ..."""
    units = shared[benchmark, FULL_VIDEO]
    rows, tables = first_rows(units), []
    for fact in dict.fromkeys(key for row in rows for key in row.facts):
        values = sorted({row.facts.get(fact, "none") for row in rows})
        if (
            fact in ("instance", "role", *(("subtask",) if benchmark in PAIRED else ()))
            or (benchmark, fact) == ("tempcompass", "task")  # `tempcompass_table` has it
            or not 1 < len(values) <= MAX_GROUPS
        ):
            continue
        found = []
        for value in values:
            part = only(units, lambda row, fact=fact, value=value: row.facts.get(fact, "none") == value)
            found += columns(value.replace("_", " "), part, metrics_of(benchmark))
        tables.append(
            Table(f"{benchmark}_{fact}", f"{TITLES.get(benchmark, benchmark)} by {fact.replace('_', ' ')}", "", found)
        )
    return tables


# -- numbers -----------------------------------------------------------------------------------------------------------


def columns_of(group: str, units: Units, metrics: Metrics, reference: str, bootstrap: Bootstrap) -> list[Column]:
    """One column a metric; nothing where there are no units."""
    names = list(next(iter(units.values()), {}))
    if not names:
        return []
    weights = bootstrap.weights(len(names))
    columns = []
    for metric, find in metrics.items():
        found = {label: [find(of[name]) for name in names] for label, of in units.items()}
        first = next(iter(found.values()))
        n, guessed = (sum(unit[at] for unit in first) for at in (1, 2))
        cells = cells_of(found, weights, reference, bootstrap)
        columns.append(Column(group, metric, n, None if math.isnan(guessed) else 100 * guessed / n, cells))
    return columns


def cells_of(
    found: Mapping[str, Sequence[Unit]], weights: np.ndarray, reference: str, bootstrap: Bootstrap
) -> dict[str, Cell]:
    """Label -> cell. `weights` (B, U): how often each unit is drawn, under all labels alike."""
    hits = {label: np.array([unit[0] for unit in units], dtype=float) for label, units in found.items()}
    counts = np.array([unit[1] for unit in next(iter(found.values()))], dtype=float)
    drawn = weights @ counts
    cells = {}
    for label, units in found.items():
        low, high = interval(units, seed=bootstrap.seed, resamples=bootstrap.resamples)  # those of result.json
        difference = None
        if label != reference and reference in found:
            more = hits[label] - hits[reference]
            ends = np.percentile(100 * (weights @ more) / drawn, (2.5, 97.5))
            difference = Interval(float(100 * more.sum() / counts.sum()), *map(float, ends))
        cells[label] = Cell(Interval(float(100 * hits[label].sum() / counts.sum()), low, high), difference)
    return cells


def first_rows(units: Units) -> list[Answer]:
    """Every question of the units, once."""
    return [row for rows in next(iter(units.values()), {}).values() for row in rows]


def only(units: Units, keep: Callable[[Answer], bool]) -> Units:
    """Units whose first answer is kept: a unit belongs to one group."""
    return {label: {name: rows for name, rows in found.items() if keep(rows[0])} for label, found in units.items()}


def on_both(units: Units, transformed: Units) -> Units:
    """Label -> question -> its answers on the clip as it is and on the transformed one, of what was asked on both."""
    found = {}
    for label in [label for label in units if label in transformed]:
        answers, others = ({row.id: row for rows in of[label].values() for row in rows} for of in (units, transformed))
        found[label] = both_answers(answers.values(), [row for own, row in others.items() if own in answers])
    return found


def dynamic(units: Units) -> Units:
    """Without the static sub-tasks: there a shortcut scores full marks (`eval.scoring`)."""
    return only(units, lambda row: not is_static(row.subtask or ""))


def tempcompass(shared: Mapping[Part, Units]) -> tuple[Units, list[str]]:
    """The sub-tasks that every run with any of them answered, under names that do not clash; and which these are."""
    parts = {name: shared[name, FULL_VIDEO] for name in TEMPCOMPASS if (name, FULL_VIDEO) in shared}
    labels = list(dict.fromkeys(label for units in parts.values() for label in units))
    common = {name: units for name, units in parts.items() if len(units) == len(labels)}
    if not common:
        return {}, []
    joined = {
        label: {f"{name}/{unit}": rows for name, units in common.items() for unit, rows in units[label].items()}
        for label in labels
    }
    return joined, [TITLES[name].removeprefix("TempCompass ") for name in common]


def subtask_title(name: str) -> str:
    return name.replace("_", " ").title()
