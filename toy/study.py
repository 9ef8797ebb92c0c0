"""The paper's claims on the toy world, with seeds and intervals.

    python -m toy.study all --list          # cells and expected seconds
    python -m toy.study all                 # about 4 hours on two cores; start it again to go on
    python -m toy.study report              # docs/toy_study.md and its pictures, from the results alone

A cell is one training run (`toy/study_cells.py`); its result is one JSON file in --out, and a cell that has one is
done. Workers run side by side, each a process with one thread and one engine that serves all of its cells.
A cell that fails leaves a file with the error, counts as failed in the report, and is run again with --retry-failed.
Exit code: 0, 1 where a cell has failed, 2 with one line for a mistake.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.parts import hold, write_whole
from pictures import table
from toy.study_cells import CONDITIONS, PARTS, RUN, Cell, cells_of

REPORT = "report"


@dataclass
class Args:
    """Run a part of the study, or write its report."""

    name: Annotated[Literal[(*PARTS, "all", REPORT)], tyro.conf.Positional]
    """A part of the paper; all; or report."""
    out: Path = Path("runs/study")
    """Folder of the results, one JSON a cell; a cell that has one is not run again."""
    workers: int = 2
    """Cells run side by side, one core each."""
    minutes: float = 0.0
    """No cell begins after so many; those under way are finished. 0 = any."""
    list: bool = False
    """Print the cells and their expected seconds, and run nothing."""
    retry_failed: bool = False
    """Run the cells again that have failed."""
    docs: Path = Path("docs")
    """Folder of the report."""


def main(argv: Sequence[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv, description=__doc__)
    if args.workers < 1 or args.minutes < 0:
        print("error: --workers must be at least 1 and --minutes not negative", file=sys.stderr)
        return 2
    try:
        if args.name == REPORT:
            from toy.study_report import write_report  # its pictures are no part of a run

            print(write_report(args.out, args.docs))
            return 0
        cells = cells_of(list(PARTS) if args.name == "all" else [args.name])
        states = {cell: state(args.out / cell.file) for cell in cells}
        print(plan(states, args.workers), flush=True)
        if args.list:
            return 0
        lock = hold(args.out)
        clear(args.out)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    run = ("missing", "failed") if args.retry_failed else ("missing",)
    with lock:
        Queue([cell for cell in cells if states[cell] in run], args).run()
    return int(any(state(args.out / cell.file) == "failed" for cell in cells))


def clear(out: Path) -> None:
    """Remove what a killed study left behind: folders of its runs and half-written worlds."""
    for stale in (*out.glob(f"{RUN}*"), *(out / "worlds").glob("*.*")):
        shutil.rmtree(stale)


def state(file: Path) -> str:
    """missing | failed | done. ValueError for a file that is no result."""
    if not file.exists():
        return "missing"
    try:
        result = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no result ({error}); remove it to run its cell again") from error
    if not isinstance(result, dict) or not {"report", "error"} & set(result):
        raise ValueError(f"{file} is no result: it has no report and no error; remove it to run its cell again")
    return "failed" if "error" in result else "done"


def plan(states: Mapping[Cell, str], workers: int) -> str:
    """Cells x expected seconds of each condition, and the sum of what is left; `states` as `state` tells them."""
    known: dict[str, list[Cell]] = {}
    for cell in states:
        known.setdefault(cell.name, []).append(cell)
    rows = [
        {
            "condition": name,
            "label": CONDITIONS[name].label,
            "cells": len(group),
            "done": sum(states[cell] == "done" for cell in group),
            "core-s each": round(group[0].seconds),
            "core-s": round(sum(cell.seconds for cell in group)),
        }
        for name, group in known.items()
    ]
    left = sum(cell.seconds for cell in states if states[cell] != "done")
    total = f"{len(states)} cells, {sum(cell.seconds for cell in states):.0f} core-seconds; {left:.0f} left"
    return f"{table(rows, list(rows[0]))}\n{total}: {clock(left / workers)} on {workers} cores"


def clock(seconds: float) -> str:
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


# -- running -----------------------------------------------------------------------------------------------------------


class Queue:
    """Cells to run, in the plan's order, taken by threads that hold a worker process each."""

    def __init__(self, cells: Sequence[Cell], args: Args):
        self._cells, self._args = list(cells), args
        self._total, self._began = len(self._cells), time.monotonic()
        self._lock, self._stop, self._dropped = threading.Lock(), False, False
        self._workers: list[Worker] = []
        self._under_way: list[Cell] = []
        self._expected = self._spent = 0.0
        """Core-seconds of the cells that are done: as expected, and in truth."""

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, args=(i,), daemon=True) for i in range(self._args.workers)]
        for thread in threads:
            thread.start()
        try:
            self._wait(threads)
        except KeyboardInterrupt:
            self._stop = True
            print("the cells under way are finished first; Ctrl-C once more drops them", flush=True)
            try:
                self._wait(threads)
            except KeyboardInterrupt:
                self._dropped = True
                for worker in self._workers:
                    worker.kill()
                self._wait(threads)
        if left := len(self._cells) + len(self._under_way):
            print(f"stopped; {left} cells left: start again to go on")

    def _wait(self, threads: Sequence[threading.Thread]) -> None:
        for thread in threads:
            thread.join()

    def _take(self) -> Cell | None:
        with self._lock:
            late = self._args.minutes and time.monotonic() - self._began > 60 * self._args.minutes
            if late or self._stop or not self._cells:
                return None
            self._under_way.append(self._cells.pop(0))
            return self._under_way[-1]

    def _work(self, number: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a worker inherits it: Ctrl-C is for the main thread
        worker = None
        while cell := self._take():
            if not worker:
                worker = Worker(self._args.out, number)
                self._workers.append(worker)
            began = time.monotonic()
            said = worker.run(cell)
            if self._dropped:
                return
            if said is not None:  # the process is gone; the next cell gets another
                worker = None
                failure = {"name": cell.name, "seed": cell.seed, "id": cell.id, "error": said}
                write_whole(self._args.out / cell.file, json.dumps(failure))
            self._tell(cell, said, time.monotonic() - began)
        if worker:
            worker.close()

    def _tell(self, cell: Cell, said: str | None, seconds: float) -> None:
        with self._lock:
            self._under_way.remove(cell)
            self._expected, self._spent = self._expected + cell.seconds, self._spent + seconds
            to_do = [*self._cells, *self._under_way]
            left = sum(cell.seconds for cell in to_do) * self._spent / self._expected / self._args.workers
            done = f"[{self._total - len(to_do)}/{self._total}]"
        if said is None:
            report = json.loads((self._args.out / cell.file).read_text())["report"]
            said = f"pair acc {report['pair_acc']:.1f}, static acc {report['static']['acc']:.1f}"
        else:
            said = f"FAILED: {said}"
        print(f"{done} {cell.name} seed {cell.seed}: {said}; {seconds:.0f} s, {clock(left)} left", flush=True)


class Worker:
    """A process of `toy/study_worker.py`; its words go to OUT/logs."""

    def __init__(self, out: Path, number: int):
        from toy.study_worker import serve  # transformers: not for --list

        self.log = out / "logs" / f"worker_{number}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.touch()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TORCH_CPP_LOG_LEVEL="ERROR")
        self._process = context.Process(target=serve, args=(theirs, out.resolve(), self.log.resolve()), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, cell: Cell) -> str | None:
        """None, or the last line of what the process said before it ended."""
        before = self.log.stat().st_size
        try:
            self._connection.send(cell)
            self._connection.recv()
            return None
        except (EOFError, OSError):
            self._process.join()
            with open(self.log, errors="replace") as file:
                file.seek(before)
                words = file.read().strip().splitlines()
            return f"{words[-1] if words else 'no word'} (exit code {self._process.exitcode})"

    def close(self) -> None:
        self._connection.send(None)
        self._process.join()

    def kill(self) -> None:
        self._process.kill()


if __name__ == "__main__":
    sys.exit(main())
