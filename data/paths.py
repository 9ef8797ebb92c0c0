"""A path that a data file names, kept below its root: what is checked is what is opened."""

from __future__ import annotations

import os


def resolve(root: str | os.PathLike, relative: str) -> str:
    """Absolute path of `relative` below `root`, symbolic links and ".." resolved; it need not exist.

    Raises ValueError with a reason of a few words where it is absolute, leads out of the root, or is no file name.
    """
    top = os.path.realpath(root)
    if os.path.isabs(relative):
        raise ValueError("must be relative to the data root")
    try:
        path = os.path.realpath(os.path.join(top, relative))
    except ValueError as error:  # a null byte or a lone surrogate
        raise ValueError("is no file name") from error
    if os.path.commonpath((top, path)) != top:
        raise ValueError("leaves the data root")
    return path
