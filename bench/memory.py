"""Peak memory of one update, packed against naive, at the vocabulary of the released models.

    python -m bench.memory --prompt-tokens 512 --completion-tokens 128 --json memory.json

Each way runs in a process of its own. `update_bytes` is the peak above what stood before (weights and inputs):
gradients, activations, logits. On a CPU it is the highest resident size that Linux saw, on a GPU what torch allocated.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from bench.update import WAYS, BenchArgs, device_of, machine, prepare
from pictures import table


@dataclass
class MemoryArgs(BenchArgs):
    """Measure the peak memory of the packed and the naive update."""

    completion_tokens: int = 128
    """L."""
    vocab: int | None = 151_936
    way: Literal["all", "packed", "naive", "naive, tower per rollout"] = "all"
    """Internal: the one that this process runs."""


def resident(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (highest since the last reset) of this process."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) * 1024


def peak_of(args: MemoryArgs) -> dict[str, int]:
    """Bytes before and at the peak of one update."""
    device = device_of(args.device)
    ready = prepare(args, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        ready.run(args.way)
        peak = torch.cuda.max_memory_allocated(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: man 5 proc
        before = resident("VmRSS")
        ready.run(args.way)
        peak = resident("VmHWM")
    return {"before_bytes": before, "peak_bytes": peak, "update_bytes": peak - before}


def measure(argv: list[str], args: MemoryArgs) -> dict:
    """Each way in a child process, and the packed share of the naive peak."""
    peaks = {}
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "peak.json"
            command = [sys.executable, "-m", "bench.memory", *argv, "--way", way, "--json", str(file)]
            if subprocess.run(command, cwd=Path(__file__).resolve().parent.parent).returncode:
                sys.exit(f"error: the {way} update did not end; its message stands above")
            peaks[way] = json.loads(file.read_text())
    return {
        "share": peaks["packed"]["update_bytes"] / peaks["naive"]["update_bytes"],
        "share_of_peak": peaks["packed"]["peak_bytes"] / peaks["naive"]["peak_bytes"],
        "peaks": peaks,
        "machine": machine(device_of(args.device)),
        "arguments": {name: value for name, value in vars(args).items() if name not in ("json", "way")},
    }


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    args = tyro.cli(MemoryArgs, args=argv)
    try:
        result = measure(argv, args) if args.way == "all" else peak_of(args)
    except ValueError as error:
        sys.exit(f"error: {error}")
    if args.way == "all":
        rows = [
            {"way": way} | {name.removesuffix("_bytes") + " GB": f"{n / 1e9:.2f}" for name, n in peak.items()}
            for way, peak in result["peaks"].items()
        ]
        print(table(rows, list(rows[0])))
        print(f"packed: {result['share']:.0%} of the naive update's memory, {result['share_of_peak']:.0%} with weights")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
