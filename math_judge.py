r"""Are two mathematical answers equal? The library `math-verify` says so (paper App. B.1), in a child process (row 42).

Level 0: imports no file of ours. What a model writes can keep sympy busy for ever (9^{9^{9^{9}}}) in C code that no
signal handler interrupts, and math-verify's own timeouts need the main thread. So one child per process imports
math-verify (and no torch), answers one question at a time, and is killed at a deadline; the next question starts
another. It is this file, run as a script by the same interpreter: nothing of the parent is imported, forked or executed
again.

    judge = MathJudge()
    judge.compare("\\frac{1}{2}", "0.5")  # Judgement(equal=True, readable=True)
"""

from __future__ import annotations

import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import NamedTuple

DEADLINE_S = 5.0  # wall time of one judgement, math-verify's own default; 1 to 50 ms is usual
START_DEADLINE_S = 120.0  # importing sympy takes 0.5 to 2 s here, far longer from a cold network disk
MAX_CHARS = 1_000  # of either answer; a question then fits into a pipe's buffer, and the write never blocks
MEMO = 10_000  # judgements remembered
MEMORY_BYTES = 2 << 30  # address space of the child
RETIRE_BYTES = 512 << 20  # a child that has grown to more (80 MiB is usual) is replaced before it fails for lack of it


class Judgement(NamedTuple):
    """What math-verify says about a prediction."""

    equal: bool
    """Equal to the gold answer. The order counts: gold "x=5" accepts 5 and gold "1<x<2" accepts (1,2), but gold "(1,2)"
    does not accept 1<x<2."""
    readable: bool
    """Parsed as mathematics; words are, as products of letters."""


class MathJudge:
    """Judgements by math-verify, each in bounded time. Safe in threads and after a fork.

    The child starts with the first question and ends with this object, or with the process.

    `deadline`: seconds for one judgement, after which it counts as neither equal nor readable.
    """

    def __init__(self, deadline: float = DEADLINE_S):
        self.deadline = deadline
        self.timeouts = 0
        """Judgements that ended with their child: killed at the deadline, or dead by itself (memory, a crash)."""
        self._known: dict[tuple[str, str], Judgement] = {}
        self._lock = threading.Lock()
        self._child: subprocess.Popen | None = None
        self._owner = 0  # pid of the process that started it: a fork must not share its pipes
        self._stop = None

    def compare(self, gold: str, prediction: str) -> Judgement:
        """Whether `prediction` equals `gold`, and whether it can be read. Both as LaTeX or plain text, without a box.

        Never raises on a text; one of more than MAX_CHARS is neither, unasked. RuntimeError if no child can be started.
        """
        if max(len(gold), len(prediction)) > MAX_CHARS:
            return Judgement(False, False)
        with self._lock:
            # A group repeats itself, and a text that hangs the judge must not take G deadlines.
            if (gold, prediction) not in self._known:
                if len(self._known) >= MEMO:
                    self._known.clear()
                self._known[gold, prediction] = self._ask(gold, prediction)
            return self._known[gold, prediction]

    def _ask(self, gold: str, prediction: str) -> Judgement:
        child = self._running_child()
        reply = None
        try:
            child.stdin.write(json.dumps([gold, prediction, self.deadline]).encode() + b"\n")
            reply = _read_line(child.stdout, self.deadline)
        except BrokenPipeError:
            pass  # died after the look at it
        finally:
            if reply is None:  # on Ctrl-C too: a late reply must not answer the next question
                self._stop()
        if reply is None:
            self.timeouts += 1
            return Judgement(False, False)
        equal, readable, retires = json.loads(reply)
        if retires:
            self._stop()
        return Judgement(equal, readable)

    def close(self) -> None:
        """End the child, if there is one. The next question starts another."""
        with self._lock:
            if self._stop is not None:
                self._stop()

    def _running_child(self) -> subprocess.Popen:
        if self._child is not None and self._owner == os.getpid() and self._stop.alive and self._child.poll() is None:
            return self._child
        if self._stop is not None:
            self._stop()
        # -P: the folder of this file stays off the path, or our config.py, packing.py, ... would hide a library's.
        child = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
        )
        self._child, self._owner = child, os.getpid()
        self._stop = weakref.finalize(self, _end, child, self._owner)
        if _read_line(child.stdout, START_DEADLINE_S) is None:
            self._stop()
            raise RuntimeError(
                f"math-verify's process ended, or said nothing for {START_DEADLINE_S:.0f} s; its words stand above. "
                "Is requirements-common.txt installed?"
            )
        return child


def _end(child: subprocess.Popen, owner: int) -> None:
    if os.getpid() == owner:
        child.kill()
        child.wait()  # no zombie
    child.stdin.close()
    child.stdout.close()


def _read_line(pipe, seconds: float) -> bytes | None:
    """The child's next line; None if it does not come in time or the child is gone."""
    until, line = time.monotonic() + seconds, b""
    poller = select.poll()  # select.select() refuses the high file numbers of a process with an engine in it
    poller.register(pipe, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poller.poll(max(0.0, until - time.monotonic()) * 1e3):
            return None
        part = os.read(pipe.fileno(), 4096)
        if not part:
            return None
        line += part
    return line


# ---------------------------------------------------------------------------------------------------------------------
# The child. A line in, [gold, prediction, deadline]; a line out, [equal, readable, this was my last].


def _serve() -> None:
    """Answer until standard input ends, that is until the parent has gone."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the replies
    from math_verify import LatexExtractionConfig, parse, verify

    logging.disable(logging.CRITICAL)  # the warning that its own timeouts are off
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    # In the box, so that the whole text is read and no number is dug out of a sentence ("5 or 6" is not 6).
    config = [LatexExtractionConfig(boxed_match_priority=0)]

    def read(text: str) -> list:
        return parse(f"\\boxed{{{text}}}", config, fallback_mode="no_fallback", parsing_timeout=None)

    print("ready", file=replies, flush=True)
    for line in sys.stdin.buffer:
        gold, prediction, deadline = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, 2 * deadline)  # the kernel ends a busy child whose parent cannot any more
        said = read(prediction)
        equal = bool(said) and verify(read(gold), said, timeout_seconds=None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        with open("/proc/self/statm") as sizes:  # ru_maxrss would not do: it begins at the parent's
            retires = int(sizes.read().split()[0]) * resource.getpagesize() > RETIRE_BYTES
        print(json.dumps([equal, bool(said), retires]), file=replies, flush=True)


if __name__ == "__main__":
    _serve()
