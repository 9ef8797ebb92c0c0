"""Decoded frames on disk: decode a clip once, read its bytes ever after.

One file an entry: a line of JSON, then the frames' bytes. Nothing is unpickled. Any number of processes may share the
folder: an entry appears whole, by a rename, and whoever opened one keeps reading it while another deletes it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
import time
import zlib
from dataclasses import replace

import numpy as np
import torch

from episode import View

SUFFIX = ".frames"
STALE_S = 3600.0  # a part that was never renamed is of a process that was killed
SLACK = 16  # a process looks at the whole folder after 1/16 of this 16th written: 16 of them stay below the cap


class FrameCache:
    """A folder of at most `max_bytes` of entries; the ones that were not read for longest go first.

    `key`: a flat JSON object that holds all that the frames depend on.
    """

    def __init__(self, folder: str, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self._written = math.inf  # bytes since the last look at the folder: the first entry brings a look

    def get(self, key: dict) -> View | None:
        """The entry as it was put; None where there is none, or it is damaged (then it is deleted). Never raises for
        what a file holds, nor for a folder that cannot be read."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                view = _read(file, key)
        except OSError:
            return None
        try:
            if view is None:
                os.unlink(path)
            else:
                os.utime(path)  # its age for `_evict`; access times are off on most mounts
        except OSError:
            pass  # another process deleted it, or the folder is read-only
        return view

    def put(self, key: dict, view: View) -> None:
        """Add an entry. OSError where the disk is full or the folder cannot be written; no part of it stays."""
        frames = np.ascontiguousarray(view.frames.numpy())
        facts = vars(replace(view, frames=None)) | {"shape": frames.shape, "crc": zlib.crc32(frames), "key": key}
        header = json.dumps(facts).encode() + b"\n"
        size = len(header) + frames.nbytes
        if size > self.max_bytes // 2:
            return
        os.makedirs(self.folder, exist_ok=True)
        path = self._path(key)
        part = f"{path}.{os.uname().nodename}.{threading.get_native_id()}.part"
        try:
            with open(part, "wb") as file:
                file.write(header)
                file.write(frames)
            os.replace(part, path)
        except OSError:
            if os.path.exists(part):
                os.unlink(part)
            raise
        self._written += size
        if self._written >= self.max_bytes / SLACK**2:
            self._evict()

    def _path(self, key: dict) -> str:
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return os.path.join(self.folder, name + SUFFIX)

    def _evict(self) -> None:
        """Delete the oldest entries where the folder holds more than 15/16 of the cap, down to 14/16."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                try:
                    facts = entry.stat()
                except FileNotFoundError:
                    continue  # another process is at it
                if entry.name.endswith(SUFFIX):
                    found.append((facts.st_mtime, facts.st_size, entry.path))
                elif entry.name.endswith(".part") and time.time() - facts.st_mtime > STALE_S:
                    _delete(entry.path)
        total, self._written = sum(size for _, size, _ in found), 0
        if total <= self.max_bytes * (SLACK - 1) / SLACK:
            return
        for _, size, path in sorted(found):
            if total <= self.max_bytes * (SLACK - 2) / SLACK:
                break
            _delete(path)
            total -= size


def _delete(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _read(file, key: dict) -> View | None:
    """The entry in an open file; None where it is not whole, or is another's."""
    try:
        facts = json.loads(file.readline(1 << 20))
        shape = tuple(facts.pop("shape"))
        crc, indices = facts.pop("crc"), tuple(facts.pop("frame_indices"))
        size = math.prod(shape)
        if facts.pop("key") != key or size != os.fstat(file.fileno()).st_size - file.tell():
            return None
        frames = np.empty(shape, dtype=np.uint8)
        if file.readinto(frames) != size or zlib.crc32(frames) != crc:
            return None
        return View(**facts | {"frames": torch.from_numpy(frames), "frame_indices": indices})
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError):  # whatever a damaged line may hold
        return None
