"""Training curves of the toy tasks, a panel a task: seeds thin, their mean thick.

python scripts/plot_neighbours.py runs --out docs/neighbours_toy.png
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from metrics import read_metrics  # noqa: E402
from pictures import COLOURS  # noqa: E402
from toy.neighbours import TOY_TASKS  # noqa: E402

METHODS = {"grpo": COLOURS[0], "crpo": COLOURS[1]}


@dataclass
class Args:
    """Draw the training curves of `toy.neighbours` as one PNG."""

    runs: Annotated[Path, tyro.conf.Positional]
    """Folder of finished runs with the names that toy.neighbours gives them, toy_NAME_METHOD_SEED."""
    out: Path = Path("neighbours_toy.png")
    """The PNG."""


def read_curves(runs: Path) -> dict[tuple[str, str], list[list[float]]]:
    """(task, method) -> each seed's mean score by round; ValueError where there is no run, or one of other length."""
    curves = defaultdict(list)
    for summary in sorted(runs.glob("toy_*_*_*/summary.json")):  # the last thing that a run writes
        _, name, method, _ = summary.parent.name.split("_")
        history = read_metrics(summary.parent / "run" / "metrics.jsonl")
        curves[name, method].append([row["reward/correct"] for row in history if "reward/correct" in row])
        if len(curves[name, method][-1]) != len(curves[name, method][0]):
            raise ValueError(
                f"{summary.parent}: has another number of rounds than the seeds before it; draw them apart"
            )
    if not curves:
        raise ValueError(f"{runs} holds no finished run toy_NAME_METHOD_SEED of toy.neighbours")
    return curves


def draw(curves: Mapping[tuple[str, str], list[list[float]]], path: Path) -> None:
    """One panel for each task of TOY_TASKS that has a curve."""
    tasks = [task for task in TOY_TASKS if any(name == task for name, _ in curves)]
    figure = Figure(figsize=(3.3 * len(tasks), 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(tasks), sharey=True, squeeze=False)[0]
    for axes, task in zip(panels, tasks, strict=True):
        for method, colour in METHODS.items():
            seeds = curves.get((task, method), [])
            for seed in seeds:
                axes.plot(range(1, len(seed) + 1), seed, color=colour, lw=0.8, alpha=0.6)
            if seeds:
                label = f"{method.upper()}, " + (f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed")
                axes.plot(range(1, len(seeds[0]) + 1), np.mean(seeds, axis=0), color=colour, lw=2.4, label=label)
        axes.set(title=task, xlabel="round", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(color="0.9", lw=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("mean score of rollouts, 0 to 1")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(args: Args) -> None:
    draw(read_curves(args.runs), args.out)
    print(args.out)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
