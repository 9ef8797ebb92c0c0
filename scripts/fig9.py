"""The paper's Figure 9 from runs of scripts/fig9_lambda.sh and scripts/fig9_w_aug.sh.

    python scripts/fig9.py runs/toy --out fig9.png

Settings are read from each run's config.json, numbers from its summary.json; names of folders mean nothing. Runs that
differ in more than lambda, w_aug and the seed are never put into one curve.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import tyro

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from config import FREE_ON_RESUME, PRESETS, Config  # noqa: E402
from pictures import Sweep, sensitivity  # noqa: E402

LAMBDAS, W_AUGS = (0.0, 0.1, 0.3, 0.5), (0.0, 0.3, 0.5, 0.7)  # App. D.3
LAMBDA, W_AUG = 0.3, 0.5  # what the other sweep holds fixed
VARIED = {"lambda_d", "lambda_s", "w_aug", "seed"} | FREE_ON_RESUME - {"max_steps", "model"}


@dataclass
class Args:
    """Draw Figure 9: pair accuracy and static accuracy over lambda (w_aug 0.5) and over w_aug (lambda 0.3)."""

    runs_dir: Annotated[Path, tyro.conf.Positional]
    """Folder whose subfolders are runs."""
    out: Path = Path("fig9.png")
    """The PNG."""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    name: str
    settings: dict
    pair_acc: float
    """Greedy pair accuracy over dynamic questions at the end, percent."""
    static_acc: float | None
    """Accuracy over static questions, percent; None where the evaluation has none."""

    @property
    def others(self) -> str:
        """The settings that one curve must share."""
        return json.dumps({k: v for k, v in self.settings.items() if k not in VARIED}, sort_keys=True)

    @property
    def unusual(self) -> list[str]:
        """Settings of `others` that are not their preset's."""
        usual = asdict(Config()) | PRESETS.get(self.settings.get("preset"), {})
        places = {"preset", "model", "train_file", "eval_file"}
        return [k for k, v in self.settings.items() if k not in VARIED | places and v != usual.get(k)]


def read_json(file: Path) -> dict:
    try:
        value = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} does not hold an object")
    return value


def read_runs(folder: Path) -> tuple[list[Run], list[str]]:
    """(finished CRPO runs with one lambda, why each other run below `folder` is left out)."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    runs, left_out = [], []
    for file in sorted(folder.glob("*/config.json")):
        name, settings = file.parent.name, read_json(file)
        if settings.get("method") != "crpo":
            continue
        if settings.get("lambda_d") != settings.get("lambda_s"):
            left_out.append(f"{name} (lambda_d and lambda_s differ)")
            continue
        if not (file.parent / "summary.json").is_file():
            left_out.append(f"{name} (not finished)")
            continue
        after = read_json(file.parent / "summary.json").get("after") or {}
        if after.get("pair_acc") is None:
            left_out.append(f"{name} (no evaluation)")
            continue
        runs.append(Run(name, settings, after["pair_acc"], (after.get("static") or {}).get("acc")))
    return runs, left_out


def one_family(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """The runs alike in all other settings that cover most points, of equal ones the most usual; the rest named."""
    families = defaultdict(list)
    for run in runs:
        families[run.others].append(run)

    def rank(family: list[Run]) -> tuple[int, int, int]:
        points = {(run.settings["lambda_d"], run.settings["w_aug"]) for run in family if on_axis(run)}
        return len(points), -len(family[0].unusual), len(family)

    ranked = sorted(families.values(), key=rank, reverse=True)
    if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
        first, second = ranked[0][0], ranked[1][0]
        raise ValueError(f"{first.name} and {second.name} differ in {differences(first, second)}: keep one kind there")
    chosen, rest = ranked[0], [run for family in ranked[1:] for run in family]
    return chosen, [f"{run.name} (other {differences(run, chosen[0])})" for run in rest]


def differences(first: Run, second: Run) -> str:
    """Names of the settings in which two runs of different families differ."""
    names = dict.fromkeys([*first.settings, *second.settings])
    return ", ".join(k for k in names if k not in VARIED and first.settings.get(k) != second.settings.get(k))


def on_axis(run: Run) -> bool:
    return run.settings["lambda_d"] == LAMBDA or run.settings["w_aug"] == W_AUG


def sweep(runs: list[Run], varied: str, fixed: str, at: float, setting: str, title: str) -> Sweep:
    """The runs whose `fixed` setting stands `at` that value, over `varied`."""
    sensitive, general = defaultdict(list), defaultdict(list)
    for run in runs:
        if run.settings[fixed] == at:
            sensitive[run.settings[varied]].append(run.pair_acc)
            if run.static_acc is not None:
                general[run.settings[varied]].append(run.static_acc)
    return Sweep(setting, title, sensitive, general)


def main(args: Args) -> None:
    runs, left_out = read_runs(args.runs_dir)
    if not runs:
        why = f"; left out: {', '.join(left_out)}" if left_out else ""
        raise ValueError(f"{args.runs_dir} holds no finished CRPO run with an evaluation{why}")
    runs, others = one_family(runs)
    left = sweep(runs, "lambda_d", "w_aug", W_AUG, r"$\lambda = \lambda_d = \lambda_s$", r"CRR weight, $w_{aug}=0.5$")
    right = sweep(runs, "w_aug", "lambda_d", LAMBDA, r"$w_{aug}$", r"Counterfactual weight, $\lambda=0.3$")
    if left_out or others:
        print("left out:", ", ".join(left_out + others))
    missing = [f"lambda {x:g}" for x in LAMBDAS if x not in left.sensitive]
    missing += [f"w_aug {x:g}" for x in W_AUGS if x not in right.sensitive]
    if missing:
        print("missing:", ", ".join(missing))
    names = {
        "sensitive": "pair accuracy, dynamic questions",
        "general": "accuracy, static questions (in VideoMME's place)",
    }
    sensitivity([left, right], args.out, **names)
    print(args.out)


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
