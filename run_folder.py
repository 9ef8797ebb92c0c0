"""The folder of a run: held by one run at a time, and what a run in it goes on from."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from typing import TextIO

import checkpoint
import config as settings
from checkpoint import Saved
from config import Config
from parallel import is_main, print_main, together

LEASE_S = 120.0
"""So long a network file system may keep the lock of a node that has died (NFS: 90 s)."""
POLL_S = 0.5
_held: dict[str, TextIO] = {}
"""Folder -> its open lock, for as long as this process lives: the kernel lets go of it however that ends."""


def prepare(config: Config) -> None:
    """Make run_dir and hold it; refuse one in use, one of other settings, or with --resume never any used one.

    Raises ValueError or OSError, one line, on every rank. All ranks take part.
    """
    together(lambda: is_main() and _prepare(config))
    holders = together(lambda: _holder(config.run_dir))
    strangers = [rank for rank, holder in enumerate(holders) if holder != holders[0]]
    if strangers:  # each node would save its own part of a checkpoint, and none could be read back
        raise ValueError(
            f"--run-dir {config.run_dir} must be one folder for all ranks: rank 0 reads there that it is held by "
            f"{holders[0]}, rank {strangers[0]} by {holders[strangers[0]] or 'nobody'}; give one that every node sees"
        )


def _prepare(config: Config) -> None:
    has = {name: os.path.exists(os.path.join(config.run_dir, name)) for name in ("config.json", "metrics.jsonl")}
    os.makedirs(config.run_dir, exist_ok=True)
    _hold(config.run_dir)
    if os.path.realpath(config.resume).startswith(os.path.realpath(config.run_dir) + os.sep):
        raise ValueError(
            f"--resume {config.resume} lies in --run-dir {config.run_dir}: give a new --run-dir to branch off from it; "
            "auto goes on from the newest"
        )
    if config.resume == "never" and (has["metrics.jsonl"] or checkpoint.complete(config.run_dir)):
        raise ValueError(
            f"--run-dir {config.run_dir} holds a run; give a new folder, or --resume auto to go on with it"
        )
    if all(has.values()):
        settings.check_same_run(config, settings.read(config.run_dir), f"--run-dir {config.run_dir}")


def _hold(folder: str) -> None:
    name = os.path.realpath(folder)
    if name in _held:  # an earlier run of this process
        return
    file = open(os.path.join(name, "lock"), "a+")  # stays open
    until, told = time.monotonic() + LEASE_S, False
    while not _locked(file):
        holder = _holder(name) or "another process"
        here = holder.endswith(f" on {socket.gethostname()}")  # this machine's kernel knows who lives
        if here or time.monotonic() > until:
            file.close()
            raise ValueError(f"--run-dir {folder} is in use by {holder}: give another folder, or end that run")
        if not told:
            print_main(f"--run-dir {folder} is held by {holder}: waiting {LEASE_S:.0f} s, that node may have died")
            told = True
        time.sleep(POLL_S)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    os.fsync(file.fileno())  # for the other nodes to read
    _held[name] = file


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        print_main(f"warning: {file.name} cannot be locked ({error.strerror}): no other run may use this folder")
    return True


def _holder(folder: str) -> str:
    """Who holds it, as its lock says; "" where there is none."""
    try:
        with open(os.path.join(folder, "lock")) as file:
            return file.read().strip()
    except FileNotFoundError:
        return ""


def start_of(config: Config, model: str) -> Saved | None:
    """The checkpoint that a run begins from: the newest whole one of its folder; else that of --resume FOLDER; else
    None.

    model: `model.fingerprint` of --model. Raises ValueError, one line, where the checkpoint is of another model, of
    other settings (the method is one) or of an older version. All ranks take part.
    """
    saved = checkpoint.newest(config.run_dir) if config.resume != "never" else None
    if saved is None and config.resume not in ("auto", "never"):
        saved = _given(config)
    if saved is None:
        return None
    settings.check_same_run(config, saved.state["settings"], f"checkpoint {saved.folder}")
    if saved.state["model"] != model:
        raise ValueError(
            f"checkpoint {saved.folder} is of another model: --model {config.model} has fingerprint {model}, the run "
            f"began with {saved.state['model']}; give that model, or a new --run-dir"
        )
    print_main(f"resumed from {saved.folder} after round {saved.state['step']}")
    return saved


def _given(config: Config) -> Saved:
    """--resume FOLDER."""
    (found, *_) = together(lambda: os.path.isfile(os.path.join(config.resume, checkpoint.MARKER)))
    if not found:
        raise ValueError(
            f"--resume {config.resume}: must be auto, never, or a checkpoint (RUN_DIR/checkpoints/step_NNNNNN with a "
            f"file {checkpoint.MARKER})"
        )
    if damage := checkpoint.find_damage(config.resume):
        raise ValueError(f"--resume {config.resume}: the checkpoint is damaged ({damage}); give another")
    (saved, *_) = together(lambda: is_main() and checkpoint.read(config.resume))
    return saved
