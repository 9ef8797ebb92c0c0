"""`make demo`: CRPO against GRPO from the same start, on the embedded world, in one table and one picture.

GRPO runs twice: with G = 8 it sees as many questions as CRPO, with G = 16 it samples as many rollouts.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

import torch
import tyro

from eval.answer import before_after
from metrics import read_metrics
from pictures import curves

# label -> (folder under the demo's, its key in summary.json, flags)
RUNS = {
    "GRPO G=8": ("grpo", "grpo", ["--method", "grpo"]),
    "GRPO G=16": ("grpo_g16", "grpo_g16", ["--method", "grpo", "--rollouts", "16"]),
    "CRPO G=8+8": ("", "", ["--method", "crpo"]),
}


@dataclass
class Args:
    """Train CRPO and GRPO on the toy world and compare them."""

    run_dir: str = "runs/demo"
    """Replaced if it exists."""
    steps: int = 50
    """Rounds of each run."""
    seed: int = 0
    ranks: int = min(2, torch.cuda.device_count()) or 2
    """Processes of each run; each needs a GPU of its own where there are any."""


def main(args: Args) -> None:
    shutil.rmtree(args.run_dir, ignore_errors=True)
    folders = {label: os.path.join(args.run_dir, folder) for label, (folder, _, _) in RUNS.items()}
    for label, (_, _, flags) in RUNS.items():
        print(f"\n== {label}: {args.steps} rounds ==", flush=True)
        train(folders[label], [*flags, "--max-steps", str(args.steps), "--seed", str(args.seed)], args.ranks)
    summaries = {}
    for label, folder in folders.items():
        with open(os.path.join(folder, "summary.json")) as file:
            summaries[label] = json.load(file)
    crpo = summaries["CRPO G=8+8"]
    merged = crpo | {key: summaries[label] for label, (_, key, _) in RUNS.items() if key}
    with open(os.path.join(args.run_dir, "summary.json"), "w") as file:
        json.dump(merged, file, indent=2)
    picture = os.path.join(args.run_dir, "curves.png")
    curves({label: read_metrics(os.path.join(folder, "metrics.jsonl")) for label, folder in folders.items()}, picture)
    print("\nPair accuracy in percent, greedy, on unseen unbiased pairs (a shortcut scores 0 on the dynamic ones):\n")
    print(before_after({"base": crpo["before"]} | {label: summary["after"] for label, summary in summaries.items()}))
    print(f"\ncurves: {picture}   filmstrips: tensorboard --logdir {args.run_dir}")


def train(run_dir: str, flags: list[str], ranks: int) -> None:
    """One training run in processes of its own; this program ends with its exit code if it fails."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(ranks),
        "train.py",
    ]
    command += ["--preset", "toy", "--run-dir", run_dir, "--resume", "never", *flags]
    quiet = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
    code = subprocess.run(command, env=os.environ | quiet).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main(tyro.cli(Args, description=Args.__doc__))
