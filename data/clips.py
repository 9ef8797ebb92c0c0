"""Clips and images read in processes of their own, side by side, ahead of time, each in bounded time.

A damaged video can keep the decoder busy for ever, holding Python's lock, or crash it. So each clip is decoded by a
worker that the process can kill: this file, run as a module by the same interpreter. A worker imports the decoder and
torch, nothing of the run; it answers one request at a time and dies with its parent.

    with Clips(ClipSettings(), workers=4, deadline=60) as clips:
        pending = [clips.submit(question) for question in questions]
        views = [future.result() for future in pending]  # ClipError where a file cannot be used
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import math
import os
import queue
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from data.cache import FrameCache
from data.image import read_image
from data.video import VERSION, ClipError, sample_clip
from episode import Question, View

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
START_DEADLINE_S = 120.0  # importing torch takes 2 to 5 s here, far longer from a cold network disk
PREFETCH_BYTES = 2 << 30  # clips decoded ahead of the round that asks for them, on each rank
MEMORY_BYTES = 6 << 30  # what a worker may allocate beyond its imports: a file that wants more ends its worker
RETIRE_BYTES = 2 << 30  # a worker that has grown to more (0.5 GiB is usual) is replaced
PIPE_BYTES = 1 << 20


@dataclass(frozen=True)
class ClipSettings:
    """How clips and images are sampled: `data.video.sample_clip`, `data.image.read_image`."""

    frames: int = 32
    max_pixels: int = 2048 * 32 * 32
    min_frame_pixels: int = 16 * 32 * 32
    max_frame_pixels: int = 768 * 32 * 32

    @property
    def view_bytes(self) -> int:
        """The most that a view can take."""
        clip = max(2 * self.max_pixels, math.ceil(1.05 * self.min_frame_pixels) * self.frames)
        return 3 * max(clip, self.max_frame_pixels)


class Clips:
    """Views of questions, decoded by `workers` processes.

    `deadline`: seconds a clip may take once a worker has it; then the worker is killed, and the clip is a ClipError. A
        worker that crashes is one, too; both are replaced.
    `cache`: (folder, bytes) of a FrameCache for clips, or None.
    """

    def __init__(self, settings: ClipSettings, *, workers: int, deadline: float, cache: tuple[str, int] | None = None):
        self.settings, self.deadline = settings, deadline
        self._cache = cache
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()  # the last one used first: no more start than needed
        self._started: list[_Worker] = []
        self._threads = ThreadPoolExecutor(workers, "clips")
        self._ahead: dict[tuple, Future] = {}
        self._warned = threading.Event()
        self.close = weakref.finalize(self, _shut_down, self._threads, self._started)
        """End every worker at once; what is pending becomes a ClipError or is cancelled."""

    def __enter__(self) -> Clips:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def submit(self, question: Question) -> Future:
        """Start to read a question's clip or image, unless it was prefetched. The future's `result()` is a View, None
        for text, or raises ClipError; it comes in bounded time: deadline x clips / workers, if every one hangs."""
        future = self._ahead.pop(_name(question), None)
        return self._start(question) if future is None else future

    def view(self, question: Question) -> View | None:
        """Read one now, not behind what is prefetched (it may take a worker more). ClipError where it cannot be."""
        future = self._ahead.get(_name(question))
        if future is not None and future.done():
            return future.result()
        return self._read(question) if question.path is not None else None

    def prefetch(self, questions: Sequence[Question]) -> None:
        """Read what these will ask for, as many as PREFETCH_BYTES hold; forget what was prefetched for others."""
        keep = {_name(question): question for question in questions if question.path is not None}
        names = list(keep)[: PREFETCH_BYTES // self.settings.view_bytes]
        before, self._ahead = self._ahead, {}
        for name in names:
            self._ahead[name] = before.pop(name, None) or self._start(keep[name])
        for future in before.values():
            future.cancel()

    def _start(self, question: Question) -> Future:
        if question.path is None:
            future = Future()
            future.set_result(None)
            return future
        return self._threads.submit(self._read, question)

    def _read(self, question: Question) -> View:
        try:
            worker = self._idle.get_nowait()
        except queue.Empty:
            worker = _Worker(self._cache)
            self._started.append(worker)
        request = {
            "type": question.data_type,
            "path": os.path.abspath(question.path),
            "start": question.start,
            "end": question.end,
            **asdict(self.settings),
        }
        try:
            view, warning = worker.ask(request, self.deadline)
        except BrokenPipeError:  # it died idle, and this file has no part in that
            return self._read(question)
        finally:
            if worker.alive:
                self._idle.put(worker)
            else:
                self._started.remove(worker)
        if warning and not self._warned.is_set():
            self._warned.set()
            print(f"warning: --cache-dir: {warning}; going on without adding to it", file=sys.stderr, flush=True)
        return view


def _name(question: Question) -> tuple:
    return question.data_type, question.path, question.start, question.end


def _shut_down(threads: ThreadPoolExecutor, workers: list[_Worker]) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for worker in list(workers):
        worker.end()


class _Worker:
    """One child process; starts at the first request."""

    def __init__(self, cache: tuple[str, int] | None):
        # -P would hide our packages, and the working directory is the first place that -m looks at.
        self._child = subprocess.Popen(
            [sys.executable, "-m", "data.clips", json.dumps([os.getpid(), cache])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C in a terminal is for the parent
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._ready = False
        self.alive = True

    def ask(self, request: dict, deadline: float) -> tuple[View, str | None]:
        """The view, and what is wrong with the cache. ClipError where there is none, BrokenPipeError from a child that
        was dead before it was asked; after either it may have ended."""
        path, reply, until = request["path"], None, math.inf
        try:
            if not self._ready:
                self._ready = self._read_line(time.monotonic() + START_DEADLINE_S) is not None
            if not self._ready:
                raise RuntimeError(
                    f"a decoding process ended, or said nothing for {START_DEADLINE_S:.0f} s; its words stand above"
                )
            until = time.monotonic() + deadline
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            reply = self._read_reply(until)
        finally:
            if reply is None or reply[0]["retires"]:  # on Ctrl-C too: a late reply must not answer the next request
                late = time.monotonic() >= until
                self.end()
                self._child.stdin.close()  # here, not in `end`: another thread may be reading then
                self._child.stdout.close()
        if reply is None:
            reason = f"not decoded within {deadline:g} s" if late else "its decoder crashed"
            raise ClipError(f"{path}: {reason}")
        facts, frames = reply
        if facts["error"] is not None:
            raise ClipError(facts["error"])
        view = View(frames, "identity", facts["fps"], facts["source_frames"], tuple(facts["frame_indices"]))
        return view, facts["warning"]

    def end(self) -> None:
        self.alive = False
        self._child.kill()
        try:
            self._child.wait(5)  # no zombie
        except subprocess.TimeoutExpired:
            pass  # deep in a dead network disk, where no signal arrives: subprocess collects it some day

    def _read_reply(self, until: float) -> tuple[dict, torch.Tensor | None] | None:
        line = self._read_line(until)
        if line is None:
            return None
        facts = json.loads(line)
        if facts["error"] is not None:
            return facts, None
        frames = np.empty(facts["shape"], dtype=np.uint8)
        rest = memoryview(frames).cast("B")
        while rest:
            if not self._wait(until):
                return None
            count = os.readv(self._child.stdout.fileno(), [rest])
            if count == 0:
                return None
            rest = rest[count:]
        return facts, torch.from_numpy(frames)

    def _read_line(self, until: float) -> bytes | None:
        """The child's next line; None if it does not come in time or the child is gone."""
        line = b""
        while not line.endswith(b"\n"):
            part = os.read(self._child.stdout.fileno(), 1) if self._wait(until) else b""  # frames may follow the line
            if not part:
                return None
            line += part
        return line

    def _wait(self, until: float) -> bool:
        poller = select.poll()  # select.select() refuses the high file numbers of a process with an engine in it
        poller.register(self._child.stdout, select.POLLIN)
        return bool(poller.poll(max(0.0, until - time.monotonic()) * 1e3))


# ---------------------------------------------------------------------------------------------------------------------
# The child. A line in, the request; a line of JSON out, and the frames' bytes.


def _serve(parent: int, cache: FrameCache | None) -> None:
    """Answer until standard input ends, that is until the parent has gone."""
    # With the parent at once, from whatever the decoder hangs in. (Its thread that started us, in truth: those of a
    # pool end with the pool.)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        return
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not come between the replies
    fcntl.fcntl(replies, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    torch.set_num_threads(1)
    with open("/proc/self/statm") as sizes:
        data = int(sizes.read().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (data + MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    replies.write(b"ready\n")
    for line in sys.stdin.buffer:
        error = view = warning = None
        try:
            view, warning = _view(json.loads(line), cache)
        except ClipError as fault:
            error = str(fault)
        if warning:
            cache.max_bytes = 0  # nothing fits any more; what is there can still be read
        with open("/proc/self/statm") as sizes:  # ru_maxrss would not do: it begins at the parent's
            retires = int(sizes.read().split()[1]) * resource.getpagesize() > RETIRE_BYTES
        facts = {"error": error, "warning": warning, "retires": retires}
        if view is not None:
            facts |= vars(replace(view, frames=None)) | {"shape": view.frames.shape}
        replies.write(json.dumps(facts).encode() + b"\n")
        if view is not None:
            rest = memoryview(view.frames.numpy()).cast("B")
            while rest:
                rest = rest[replies.write(rest) :]


def _view(request: dict, cache: FrameCache | None) -> tuple[View, str | None]:
    """What a request asks for, and what is wrong with the cache. ClipError where it cannot be had."""
    kind, path = request.pop("type"), request.pop("path")
    if kind == "image":
        return read_image(path, max_pixels=request["max_frame_pixels"]), None
    if cache is None or not os.path.isfile(path):
        return sample_clip(path, **request), None
    facts = os.stat(path)
    key = {"path": os.path.realpath(path), "size": facts.st_size, "mtime_ns": facts.st_mtime_ns, "version": VERSION}
    key |= request
    view, warning = cache.get(key), None
    if view is None:
        view = sample_clip(path, **request)
        try:
            cache.put(key, view)
        except OSError as error:
            warning = f"{cache.folder}: {error.strerror}"
    return view, warning


if __name__ == "__main__":
    parent_pid, cache_place = json.loads(sys.argv[1])
    _serve(parent_pid, FrameCache(*cache_place) if cache_place else None)
