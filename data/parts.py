"""A file of rows that ranks write together and that survives a stop: appended in parts, merged by rank 0.

Each rank appends finished rows to `FILE.part-RANK`; rank 0 merges the parts into FILE at the end, and at the next start
if a run was stopped, on any number of ranks. Beside the rows stands what they were made with: a run goes on with its
own settings alone.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import IO, TypeVar

from parallel import gather_objects, is_main

T = TypeVar("T")


def first_rank(work: Callable[[], T]) -> T:
    """What `work()` returns on rank 0, or the ValueError or OSError that it raises there, on every rank; all take
    part."""
    outcome = None
    if is_main():
        try:
            outcome = work()
        except (ValueError, OSError) as error:
            outcome = error
    outcome = gather_objects(outcome)[0]
    if isinstance(outcome, ValueError | OSError):
        raise outcome
    return outcome


def hold(folder: Path) -> IO[bytes]:
    """Keep every other process out of a run's folder until the file that is returned is closed, or this process ends.

    Raises ValueError, one line, where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / "lock", "wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise ValueError(
            f"{folder}: another process writes its results there; wait for its end, or give another folder"
        ) from error
    return lock


def keep_settings(path: Path, settings: dict, *, free: Collection[str] = (), hint: str) -> None:
    """Write the settings to `path`; where they stand there already, all but the `free` ones must be equal.

    Raises ValueError, one line that names each difference and ends in `hint`.
    """
    if path.exists():
        try:
            before = dict(json.loads(path.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: holds no settings ({error}): {hint}") from error
        changed = [name for name in settings if name not in free and before.get(name) != settings[name]]
        if changed:
            lines = "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in changed)
            raise ValueError(f"{path} holds other settings ({lines}): {hint}")
    write_whole(path, json.dumps(settings, indent=2))


def file_sha256(path: str | Path) -> str:
    """Digest of a file's content: a run goes on with the same questions, wherever the file lies."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file so that nobody ever reads half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(f"{path}.{os.getpid()}")
    scratch.write_text(text)
    scratch.replace(path)


def append(part: IO[str], rows: Iterable[dict]) -> None:
    """Rows at the end of an open part; they are on the disk when this returns."""
    part.writelines(json.dumps(row) + "\n" for row in rows)
    part.flush()
    os.fsync(part.fileno())


def merge(output: str | Path, ids: Sequence[str] = (), *, kind: str = "row") -> list[dict]:
    """Join the parts into the output, in the order of `ids` where given; returns its rows. Rank 0 alone.

    Of rows with one id the last one counts, those of parts after those of the output. `kind`: what a row is, for the
    ValueError of `whole_rows`.
    """
    parts = sorted(glob.glob(f"{glob.escape(str(output))}.part-*"))
    files = [str(output), *parts] if os.path.exists(output) else parts
    rows = {row["id"]: row for file in files for row in whole_rows(file, kind)}
    order = {name: at for at, name in enumerate(ids)}
    merged = sorted(rows.values(), key=lambda row: order.get(row["id"], -1))
    if parts:
        write_whole(Path(output), "".join(json.dumps(row) + "\n" for row in merged))
        for part in parts:
            os.unlink(part)
    return merged


def whole_rows(path: str | Path, kind: str) -> list[dict]:
    """Rows of an output or a part; its last line may be torn (a kill, a full disk) and is then left out.

    Raises ValueError with the line number where another line is none of ours.
    """
    rows = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            valid = isinstance(row, dict) and isinstance(row.get("id"), str) and number < len(lines)
        except ValueError:
            valid = False
        if valid:
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path}:{number} is not a {kind}")
    return rows
