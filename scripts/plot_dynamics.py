"""Training dynamics of runs side by side: the paper's Figures 5, 7 and 8, App. F, and what shows RL break.

python scripts/plot_dynamics.py runs/toy/*_seed0 --out dynamics.png
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from metrics import read_metrics  # noqa: E402
from pictures import dynamics  # noqa: E402

AXES = {"rounds": "step", "rollouts": "data/rollouts_seen"}


@dataclass
class Args:
    """Draw the training dynamics of one to seven runs as one PNG."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, each with config.json and metrics.jsonl; a running one will do."""
    out: Path = Path("dynamics.png")
    """The PNG."""
    x: Literal["rounds", "rollouts"] = "rollouts"
    """x axis; on rollouts generated, runs with another number of rollouts a question compare fairly."""


def read_run(folder: Path) -> tuple[str, list[dict[str, float]]]:
    """(method, rows of metrics.jsonl) of a run's folder; ValueError or OSError with one line."""
    for name in ("config.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is no run: it holds no {name}")
    try:
        method = json.loads((folder / "config.json").read_text())["method"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'config.json'} does not hold a run's settings: {error!r}") from error
    rows = read_metrics(folder / "metrics.jsonl")
    if not rows:
        raise ValueError(f"{folder / 'metrics.jsonl'} is empty: the run has not finished a round yet")
    return method, rows


def names_of(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; ValueError where a folder is given twice."""
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ValueError("a run is given twice: " + ", ".join(map(str, folders)))
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def main(args: Args) -> None:
    if not args.runs:
        raise ValueError("no run is given: name one or more run folders")
    read = [read_run(folder) for folder in args.runs]
    names = names_of(list(args.runs))
    runs = {f"{method}: {name}": rows for (method, rows), name in zip(read, names, strict=True)}
    dynamics(runs, args.out, x=AXES[args.x])
    print(args.out)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
