"""The toy tasks' training curves, one panel a task: seeds thin, their mean thick.

python scripts/plot_neighbours.py runs/ docs/neighbours_toy.png    # runs/toy_NAME_METHOD_SEED of toy.neighbours
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from metrics import read_metrics  # noqa: E402
from pictures import COLOURS  # noqa: E402
from toy.neighbours import TOY_TASKS  # noqa: E402


def main(runs: Path, picture: Path) -> None:
    curves = defaultdict(list)  # (task, method) -> one list of mean scores a seed
    for summary in sorted(runs.glob("toy_*_*_*/summary.json")):  # written last: only runs that came to their end
        _, name, method, _ = summary.parent.name.split("_")
        history = read_metrics(summary.parent / "run" / "metrics.jsonl")
        curves[name, method].append([row["reward/correct"] for row in history if "reward/correct" in row])
    if not curves:
        sys.exit(f"{runs}: holds no finished run toy_NAME_METHOD_SEED of toy.neighbours")
    figure = Figure(figsize=(13, 3.4), dpi=110, layout="constrained")
    panels = figure.subplots(1, len(TOY_TASKS), sharey=True)
    for axes, task in zip(panels, TOY_TASKS, strict=True):
        for method, colour in zip(("grpo", "crpo"), COLOURS, strict=False):
            seeds = curves.get((task, method), [])
            for seed in seeds:
                axes.plot(range(1, len(seed) + 1), seed, color=colour, lw=0.8, alpha=0.5)
            if seeds:
                mean = np.mean(seeds, axis=0)
                label = f"{method.upper()}, " + (f"mean of {len(seeds)} seeds" if len(seeds) > 1 else "one seed")
                axes.plot(range(1, len(mean) + 1), mean, color=colour, lw=2.4, label=label)
        axes.set(title=task, xlabel="round", ylim=(0, 1.02))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(color="0.9", lw=0.7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    panels[0].set_ylabel("mean score of a round's rollouts (0 to 1)")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
