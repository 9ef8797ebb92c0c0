"""Where the time of a whole round goes, phase by phase, from a run's own log.

    python -m bench.step --preset toy --questions 8 --json step.json       # a short run of train.py with these flags
    python -m bench.step --run-dir runs/mine                               # a run that is there already

The first round, which builds kernels and starts workers, is left out; so are evaluations. Medians over rounds.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from metrics import PHASES, read_metrics
from pictures import table


@dataclass
class BenchArgs:
    """Take a round apart; any further flag goes to train.py."""

    run_dir: Path | None = None
    """A finished run; else one is made."""
    rounds: int = 4
    """Of a run made here."""
    ranks: int = 1
    json: Path | None = None
    """Also write the numbers here."""


def run_train(folder: str, args: BenchArgs, flags: list[str]) -> Path:
    """A short run, which evaluates and saves at its end alone. ValueError where it fails."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={args.ranks}"]
    run_dir = Path(folder) / "run"
    command = [sys.executable, *(torchrun if args.ranks > 1 else []), "train.py", *flags, "--run-dir", str(run_dir)]
    command += ["--max-steps", str(args.rounds), "--eval-every", "0", "--no-export"]
    if code := subprocess.run(command, cwd=Path(__file__).resolve().parents[1]).returncode:
        raise ValueError(f"train.py ended with code {code}; its message stands above")
    return run_dir


def phases_of(run_dir: Path) -> dict:
    """Median seconds and share of each phase, and the medians of speed/*. ValueError for fewer than two rounds."""
    rounds = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["step"] > 1]
    if not rounds:
        raise ValueError(f"{run_dir}: needs a run of at least two rounds, has fewer: raise --rounds")

    def median(name: str) -> float:
        return statistics.median(row.get(name, 0.0) for row in rounds)

    names = [phase for phase in PHASES if phase not in ("eval", "round")]
    total = statistics.median(row["time/round"] - row.get("time/eval", 0.0) for row in rounds)
    seconds = {phase: median(f"time/{phase}") for phase in names}
    seconds["other"] = total - sum(seconds.values())
    return {
        "rounds": len(rounds),
        "phases": [{"phase": p, "seconds": s, "share": s / total} for p, s in [*seconds.items(), ("round", total)]],
        "speed": {name: median(name) for name in sorted(rounds[0]) if name.startswith("speed/")},
    }


def main(argv: list[str] | None = None) -> None:
    args, flags = tyro.cli(BenchArgs, args=argv, return_unknown_args=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            result = phases_of(args.run_dir or run_train(folder, args, flags))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    rows = [{"phase": r["phase"], "s": f"{r['seconds']:.3f}", "%": f"{100 * r['share']:.1f}"} for r in result["phases"]]
    print(table(rows, list(rows[0])))
    print("\n".join(f"{name} {value:.4g}" for name, value in result["speed"].items()))
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
