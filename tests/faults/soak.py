"""What takes too long for a test: hundreds of kills, kills with vLLM, and a thousand rounds under a magnifying glass.

    python tests/faults/soak.py kills --number 200                    # transformers engine, about an hour on two cores
    python tests/faults/soak.py kills --number 20 --engine vllm       # about half an hour
    python tests/faults/soak.py rounds --number 1000                  # memory, files, processes of a long run

Each appends its line to --results (runs/faults.jsonl), of which tests/faults/table.py makes docs/reliability.md. Exit
code 1 where something was lost or leaks.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import driver
import numpy as np
import psutil
from driver import Run, kill_at_random

VLLM = ("--engine", "vllm", "--engine-cpu-cache-mb", "64", "--engine-sequences", "16")
POLL_S = 2.0
SLOPE_MIB = 8.0
"""Growth over 1,000 rounds that counts as a leak."""


def kills(args: argparse.Namespace, folder: Path) -> dict:
    """Kill a run of four rounds at random times, and compare each that gets to its end with an undisturbed one."""
    flags = (*driver.world(folder / "world"), "--max-steps", 4, *(VLLM if args.engine == "vllm" else ()))
    whole = Run(folder / "whole", *flags, ranks=args.ranks)
    assert whole.wait() == [0] * args.ranks, whole.said()[-3000:]
    seen = kill_at_random(folder / "run", flags, folder / "whole", args.number, ranks=args.ranks, seed=args.seed)
    print(json.dumps(seen))
    return {
        "fault": f"{args.number} times kill -9 at a random time, {args.engine} engine, {args.ranks} ranks, clips",
        "seen": f"{seen['resumed']} restarts resumed; {seen['all ranks']} kills took all ranks, {seen['in a save']} "
        f"came in a save; {seen['runs compared']} runs brought to their end, equal to the bit; every checkpoint read",
        "lost": "never more than the round under way",
    }


def rounds(args: argparse.Namespace, folder: Path) -> dict:
    """A run of many short rounds, looked at every two seconds: memory, open files, processes, shared memory."""
    flags = driver.world(folder / "world")
    flags = (*flags, "--max-steps", args.number, "--save-every", 50, "--samples-every", 20, "--eval-every", 0)
    flags = (*flags, *(VLLM if args.engine == "vllm" else ()))
    shared = set(os.listdir("/dev/shm"))
    run = Run(folder / "run", *flags, ranks=args.ranks)
    seen: dict[int, list[tuple[int, float, int]]] = defaultdict(list)
    names: dict[int, str] = {}
    began = time.monotonic()
    while any(rank.is_alive() for rank in run.ranks):
        step = driver.rounds_done(folder / "run")
        for number, rank in enumerate(run.ranks):
            for process in _family(rank.pid):
                try:
                    seen[process.pid].append((step, process.memory_info().rss / 2**20, process.num_fds()))
                    names.setdefault(process.pid, _name(process, rank.pid, number))
                except psutil.NoSuchProcess:  # ended between two looks
                    pass
        time.sleep(POLL_S)
    took = time.monotonic() - began
    assert run.wait() == [0] * args.ranks, run.said()[-3000:]
    left = [pid for pid in seen if psutil.pid_exists(pid)]
    new = sorted(set(os.listdir("/dev/shm")) - shared)
    processes = [_summary(names[pid], looks) for pid, looks in seen.items() if len(looks) >= 20]
    words = (
        f"{args.number} rounds, {args.engine} engine, {args.ranks} ranks, {took / 60:.0f} minutes. Processes "
        f"seen: {len(seen)}; left at the end: {len(left)}. New in /dev/shm: {', '.join(new) or 'nothing'}. Slopes are "
        "of the rounds' second half."
    )
    print(words, *processes, sep="\n")
    sound = not left and not new and all(row["slope"] < SLOPE_MIB and row["files"] <= 0 for row in processes)
    return {"soak": f"A soak of {args.number:,} rounds ({args.engine})", "words": words, "processes": processes,
            "failed": not sound}  # fmt: skip


def _family(pid: int) -> list[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _name(process: psutil.Process, rank_pid: int, number: int) -> str:
    words = " ".join(process.cmdline())
    kind = "math judge" if "math_judge" in words else "decoding worker" if "data.clips" in words else "child"
    return f"rank {number}" if process.pid == rank_pid else f"{kind} of rank {number}"


def _summary(name: str, looks: list[tuple[int, float, int]]) -> dict:
    """Memory now, its slope over the second half of the rounds, and how many more files were open at the end of it."""
    steps, memory, files = map(np.array, zip(*looks, strict=True))
    half = steps >= steps.max() / 2
    slope = 0.0
    if np.ptp(steps[half]) > 0:
        slope = float(np.polyfit(steps[half], memory[half], 1)[0] * 1000)
    quarter = max(1, half.sum() // 2)
    growth = int(np.median(files[half][-quarter:]) - np.median(files[half][:quarter]))
    return {"process": name, "mib": round(float(memory[-1])), "slope": slope, "files": growth}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kills", "rounds"))
    parser.add_argument("--number", type=int, required=True, help="of kills, or of rounds")
    parser.add_argument("--engine", choices=("hf", "vllm"), default="hf")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=driver.ROOT / "runs" / "faults.jsonl")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="crpo_soak_") as folder:
        found = {"kills": kills, "rounds": rounds}[args.what](args, Path(folder))
    args.results.parent.mkdir(parents=True, exist_ok=True)
    with open(args.results, "a") as file:
        file.write(json.dumps(found) + "\n")
    return int(found.get("failed", False))


if __name__ == "__main__":
    sys.exit(main())
