"""Runs of train.py that can be killed, and the comparison of two of them.

A run's ranks are forked from a server that has imported what train.py imports, so that a restart costs a second or two;
`node` starts one as a user does.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import multiprocessing.forkserver
import os
import random
import re
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path
from unittest import mock

from inject import ROOT, install
from ports import free_port

HERE = Path(__file__).resolve().parent
TIMES = ("time/", "memory/", "speed/", "rollout/tokens_per_s")
"""Beginnings of the names of metrics that two equal runs do not share."""
SECRET = "hf_thisKeyMustNotBeWrittenAnywhere"
SMALL = (
    "--preset", "toy", "--engine", "hf", "--dtype", "float32", "--questions", "4", "--rollouts", "2",
    "--max-completion-tokens", "12", "--frames", "2", "--lr", "1e-4", "--no-export", "--checksum-every", "1",
    "--save-every", "1", "--samples-every", "0", "--eval-every", "0", "--scripted-reward",
)  # fmt: skip
"""Flags of the smallest run that has every phase but the evaluation."""


def world(folder: Path, *, clips: bool = True) -> tuple[str, ...]:
    """Flags for a world of eight training rows in `folder`; without `clips` they are text, and no decoder starts."""
    from toy.world import write_world

    if not folder.exists():
        write_world(folder, train=8, pairs=1)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    text = "".join(json.dumps(row | {"data_type": "text", "path": None}) + "\n" for row in rows)
    (folder / "text.jsonl").write_text(text)
    return "--train-file", str(folder / ("train.jsonl" if clips else "text.jsonl")), "--data-root", str(folder)


class Run:
    """One start of train.py on `ranks` processes; its words go to RUN_DIR.log."""

    GRACE_S = 30.0  # between the end of the first rank and the killing of the others: torchrun's

    def __init__(self, run_dir: Path, *flags: object, ranks: int = 1, fault: dict | None = None):
        self.log = run_dir.with_name(run_dir.name + ".log")
        self.log.touch()
        self._from = self.log.stat().st_size
        environment = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": free_port(), "FAULT": ""}
        if fault:
            environment["FAULT"] = json.dumps({"fired": str(run_dir.with_name(run_dir.name + ".fired"))} | fault)
        arguments = [*SMALL, "--run-dir", str(run_dir), *map(str, flags)]
        context = _server()
        self.ranks = []
        for rank in range(ranks):
            own = {name: str(value) for name, value in (environment | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            self.ranks.append(context.Process(target=_rank, args=(own, arguments, str(self.log)), daemon=True))
            self.ranks[-1].start()

    def wait(self, timeout_s: float = 1200.0) -> list[int]:
        """Exit codes; -9 of a rank that was killed, also by us some time after another one's bad end, as torchrun does.
        Fails where none ends."""
        until, failed = time.monotonic() + timeout_s, False
        while any(rank.is_alive() for rank in self.ranks):
            if not failed and any(rank.exitcode for rank in self.ranks):
                failed, until = True, time.monotonic() + self.GRACE_S
            if time.monotonic() > until:
                self.kill()
                assert failed, f"no rank has ended after {timeout_s:.0f} s: {self.said()[-3000:]}"
            time.sleep(0.02)
        return [rank.exitcode for rank in self.ranks]

    def kill(self, which: slice = slice(None)) -> None:
        """kill -9."""
        for rank in self.ranks[which]:
            rank.kill()

    def said(self) -> str:
        """What all ranks of this start wrote to stdout and stderr."""
        with open(self.log, errors="replace") as file:
            file.seek(self._from)
            return file.read()


def _server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["driver", "train", "rollout"])
    path = os.pathsep.join([str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")])
    quiet = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_TOKEN": SECRET}
    with mock.patch.dict(os.environ, PYTHONPATH=path, TORCH_CPP_LOG_LEVEL="ERROR", **quiet):
        multiprocessing.forkserver.ensure_running()
    return context


def _rank(environment: dict[str, str], arguments: list[str], log: str) -> None:
    os.environ.update(environment, MASTER_ADDR="127.0.0.1")
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(words, 1)
    os.dup2(words, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    sys.argv = ["train.py", *arguments]
    code = 0
    try:
        if environment["FAULT"]:
            install(environment["FAULT"])
        import train

        train.main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # what the interpreter would do with it
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def kill_at_random(run_dir: Path, flags: tuple, whole: Path, kills: int, *, ranks: int = 2, seed: int = 0) -> dict:
    """Start a run and kill -9 one of its ranks or all at a random time, again and again; each time that it gets to its
    end, its metrics must be those of `whole`, and it begins anew.

    Fails where a restart does not go on from the newest checkpoint, or a checkpoint is lost. Returns what was seen.
    """
    rng = random.Random(seed)
    began = time.monotonic()
    timed = Run(run_dir.with_name("timed"), *flags, ranks=ranks)
    assert timed.wait() == [0] * ranks, timed.said()[-3000:]
    length = time.monotonic() - began
    seen = {"kills": 0, "all ranks": 0, "in a save": 0, "resumed": 0, "runs compared": 0, "seconds of a run": length}
    while seen["kills"] < kills or last_saved(run_dir) < last_saved(whole):
        before, began, killed = last_saved(run_dir), time.monotonic(), False
        run = Run(run_dir, *flags, ranks=ranks)
        if seen["kills"] < kills:
            victims = rng.choice([slice(0, 1), slice(ranks - 1, ranks), slice(None)])
            until = time.monotonic() + rng.uniform(0.0, length)
            while time.monotonic() < until and any(rank.is_alive() for rank in run.ranks):
                time.sleep(0.01)
            if killed := any(rank.is_alive() for rank in run.ranks):
                seen["kills"] += 1
                seen["all ranks"] += victims == slice(None)
                seen["in a save"] += any(run_dir.glob("checkpoints/*.writing"))
                run.kill(victims)
        codes, said = run.wait(), run.said()
        steps = [int(step) for step in re.findall(r"^step +(\d+)/", said, re.MULTILINE)]
        assert last_saved(run_dir) >= before and steps == list(range(before + 1, before + 1 + len(steps))), said[-3000:]
        assert before == 0 or not steps or f"after round {before}" in said, said[-3000:]
        assert "is damaged" not in said and codes != [1] * ranks, said[-3000:]
        seen["resumed"] += "resumed from" in said
        if codes == [0] * ranks:
            assert not differences(whole, run_dir)
            seen["runs compared"] += 1
            if not before and not killed:
                length = time.monotonic() - began  # a machine is not as busy at all times
            if seen["kills"] < kills:
                shutil.rmtree(run_dir)
    assert not differences(whole, run_dir)
    return seen


def node(number: int, run_dir: Path, *flags: object, port: int) -> subprocess.Popen:
    """One torchrun agent of scripts/two_nodes.sh with a rank of its own; its words go to RUN_DIR.nodeNUMBER.log."""
    environment = {"NODE": str(number), "PORT": str(port), "PYTHON": sys.executable, "HF_HUB_OFFLINE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [ROOT / "scripts" / "two_nodes.sh", *SMALL, "--run-dir", run_dir, *map(str, flags)]
    with open(f"{run_dir}.node{number}.log", "a") as words:
        return subprocess.Popen(command, env=os.environ | environment, stdout=words, stderr=words)


def descendants(pid: int) -> list[int]:
    """Pids of a process' children, their children, ...: torchrun gives each rank a session of its own."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        children = [int(child) for child in file.read().split()]
    return [*children, *(below for child in children for below in descendants(child))]


# -- what is compared --------------------------------------------------------------------------------------------------


def rows_of(run_dir: Path) -> dict[int, dict]:
    """Round -> its metrics, times left out; each round once, none missing."""
    from metrics import read_metrics

    rows = read_metrics(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(len(rows))), "a round is missing, or is there twice"
    return {
        int(row["step"]): {name: value for name, value in row.items() if not name.startswith(TIMES)} for row in rows
    }


def differences(one: Path, other: Path) -> list[str]:
    """Where two runs' metrics are not equal to the bit, as "round name: value, value"."""
    a, b = rows_of(one), rows_of(other)
    found = [f"rounds: {len(a)}, {len(b)}"] if a.keys() != b.keys() else []
    for step in a.keys() & b.keys():
        for name in sorted(a[step].keys() | b[step].keys()):
            values = a[step].get(name), b[step].get(name)
            both_nan = all(isinstance(value, float) and math.isnan(value) for value in values)
            if values[0] != values[1] and not both_nan:
                found.append(f"round {step} {name}: {values[0]}, {values[1]}")
    return found


def last_saved(run_dir: Path) -> int:
    """The round of the newest complete checkpoint, 0 if there is none."""
    import checkpoint

    folders = checkpoint.complete(str(run_dir))
    return int(folders[-1].rsplit("_", 1)[1]) if folders else 0


def rounds_done(run_dir: Path) -> int:
    """Whole lines of metrics.jsonl, the one before the first round left out."""
    file = run_dir / "metrics.jsonl"
    return max(0, file.read_bytes().count(b"\n") - 1) if file.exists() else 0
