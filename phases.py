"""The phases of a round: entered by all ranks together, timed, within a deadline, and where a wish to stop is heard.

A rank that went another way would leave the others in a collective for ever, or worse, in another one than theirs; at
the door of each phase they compare where they are. A phase that outlasts its deadline is a hang: every rank writes its
stacks, and the run ends with a code of its own. SIGTERM on any one rank is heard by all at the next door.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator

import torch.distributed as dist

from exits import Exit
from metrics import Accumulator
from parallel import gather_objects

BEFORE_UPDATE = ("draw", "generate", "score", "pack", "old_ref", "update")
"""Phases at whose door the weights are still those of the round before."""


class Phases:
    """The phases of a run, on this rank. A context: at its end the deadline and the handler of SIGTERM are gone.

    `deadline`: seconds that a phase may take, 0 = any.
    """

    def __init__(self, deadline: float):
        self._watchdog = Watchdog(deadline)
        self._sigterm = signal.getsignal(signal.SIGTERM)
        self._stop_asked = False
        self.step = 0
        self.seconds: dict[str, float] = {}
        """Of each phase of the round so far."""

    def __enter__(self) -> Phases:
        self._watchdog.expect("the start")
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self._sigterm)
        self._watchdog.close()

    def begin_round(self, step: int, stop: Callable[[], None]) -> None:
        """From the first round on SIGTERM is heard, not obeyed: where one rank was asked to stop and the round has
        changed no weight yet, `stop` is called on all."""
        self.step, self._stop = step, stop
        self.seconds, self._start = {}, time.perf_counter()
        signal.signal(signal.SIGTERM, self._hear)  # each round: libraries like to have one of their own

    def _hear(self, *_) -> None:
        self._stop_asked = True

    def enter(self, name: str) -> None:
        """The door of phase `name`. RuntimeError on every rank where one enters another. All ranks take part."""
        self._watchdog.expect(f"round {self.step}, {name}")
        places = gather_objects((self.step, name, self._stop_asked))
        if len({place[:2] for place in places}) > 1:
            words = ", ".join(f"rank {rank} at round {step}, {at}" for rank, (step, at, _) in enumerate(places))
            raise RuntimeError(f"all ranks must enter each phase together: {words}")
        if name in BEFORE_UPDATE and any(asked for *_, asked in places):
            self._stop()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """`enter`, and the seconds that what stands in the context takes."""
        self.enter(name)
        begin = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin

    def elapsed(self) -> float:
        """Seconds since the round began."""
        return time.perf_counter() - self._start

    def add_to(self, numbers: Accumulator) -> None:
        for phase, seconds in self.seconds.items():
            numbers.add(f"time/{phase}", seconds)
        numbers.add("time/round", self.elapsed())


class Watchdog:
    """Ends this process where what it was told to expect has not come in time, and every other rank with it.

    A thread. The ranks hear of each other's deadlines through the job's key-value store, so that each writes its stacks
    to stderr before torchrun ends it. If a library holds Python's lock in its hang, the thread cannot run; then
    faulthandler's own timer, which needs no lock, does the same for this rank a little later (exit code 1).

    `deadline`: seconds, 0 = any.
    """

    POLL_S = 1.0
    GRACE_S = 10.0  # for the other ranks' stacks

    def __init__(self, deadline: float):
        self._deadline = deadline
        self._what, self._until = "the start", math.inf
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if deadline:
            store = dist.distributed_c10d._get_default_store().clone()  # a connection of its own: calls on one queue up
            self._store = dist.PrefixStore("watchdog", store)
            self._thread.start()

    def expect(self, what: str) -> None:
        """`what` begins, and has the whole deadline."""
        if self._deadline:
            self._what, self._until = what, time.monotonic() + self._deadline
            faulthandler.dump_traceback_later(
                self._deadline + 3 * self.POLL_S + self.GRACE_S, exit=True, file=sys.__stderr__
            )

    def close(self) -> None:
        """Where the deadline has passed this does not return: the thread ends the process with its own exit code, and
        not the error of a collective whose other ranks are gone already."""
        self._closed.set()
        if self._deadline:
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._closed.wait(self.POLL_S):
            late = time.monotonic() > self._until
            if late or self._called():
                self._give_up(late)

    def _called(self) -> bool:
        """Whether another rank's deadline has passed."""
        try:
            return self._store.check(["late"])
        except dist.DistError:  # the store went with its process; torchrun ends this one
            return False

    def _give_up(self, late: bool) -> None:
        try:
            words = f"has lasted over {self._deadline:g} s (--phase-timeout)" if late else "ends with another rank"
            print(f"rank {dist.get_rank()}: {self._what} {words}; its stacks:", file=sys.__stderr__, flush=True)
            faulthandler.dump_traceback(file=sys.__stderr__)
            self._store.set("late", "")
            until = time.monotonic() + self.GRACE_S
            written = self._store.add("written", 1)
            while written < dist.get_world_size() and time.monotonic() < until:
                time.sleep(0.1)
                written = self._store.add("written", 0)
        finally:
            os._exit(Exit.HUNG)
