"""The folder of a run: held by one run at a time, and what a run in it goes on from."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from typing import TextIO

import checkpoint
import config as settings
from checkpoint import Saved
from config import Config
from parallel import is_main, print_main, together

_held: dict[str, TextIO] = {}
"""Folder -> its open lock, for as long as this process lives: the kernel lets go of it however that ends."""


def prepare(config: Config) -> None:
    """Make run_dir and hold it; refuse one in use, one of other settings, or with --resume never any used one.

    Raises ValueError or OSError, one line, on every rank. All ranks take part.
    """
    together(lambda: is_main() and _prepare(config))


def _prepare(config: Config) -> None:
    has = {name: os.path.exists(os.path.join(config.run_dir, name)) for name in ("config.json", "metrics.jsonl")}
    os.makedirs(config.run_dir, exist_ok=True)
    _hold(config.run_dir)
    if os.path.realpath(config.resume).startswith(os.path.realpath(config.run_dir) + os.sep):
        raise ValueError(
            f"--resume {config.resume} lies in --run-dir {config.run_dir}: give a new --run-dir to branch off from it; "
            "auto goes on from the newest"
        )
    if config.resume == "never" and has["metrics.jsonl"]:
        raise ValueError(
            f"--run-dir {config.run_dir} holds a run; give a new folder, or --resume auto to go on with it"
        )
    if all(has.values()):
        with open(os.path.join(config.run_dir, "config.json")) as file:
            settings.check_same_run(config, json.load(file), f"--run-dir {config.run_dir}")


def _hold(folder: str) -> None:
    name = os.path.realpath(folder)
    if name in _held:  # an earlier run of this process
        return
    file = open(os.path.join(name, "lock"), "a+")  # stays open
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise ValueError(f"--run-dir {folder} is in use by {holder}: give another folder, or end that run") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _held[name] = file


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
    if not os.path.isfile(os.path.join(config.resume, checkpoint.MARKER)):
        raise ValueError(
            f"--resume {config.resume}: must be auto, never, or a checkpoint (RUN_DIR/checkpoints/step_NNNNNN with a "
            f"file {checkpoint.MARKER})"
        )
    if damage := checkpoint.find_damage(config.resume):
        raise ValueError(f"--resume {config.resume}: the checkpoint is damaged ({damage}); give another")
    return checkpoint.read(config.resume)
