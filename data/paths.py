"""File names that come out of data files: confined to one folder, links and ".." resolved."""

from __future__ import annotations

import os


class Outside(ValueError):
    """A name that is no name of a file below its folder; says why in few words."""


def confined(root: str | os.PathLike, name: str) -> str:
    """Absolute path of `name` below `root`, with symbolic links and ".." resolved: what is checked is what is opened.

    The file need not exist. Raises Outside for an absolute name, for one that leads out of the folder (by "..", by a
    link in it or above it), and for one that no file can have.
    """
    if os.path.isabs(name):
        raise Outside("must be relative to the data root")
    top = os.path.realpath(root)
    try:
        path = os.path.realpath(os.path.join(top, name))
        resolved = os.path.realpath(path)
    except ValueError as error:  # a null byte or a lone surrogate; behind a link to itself only the second look sees it
        raise Outside("is no file name") from error
    if resolved != path:  # at a link to itself realpath resolves nothing that follows
        raise Outside("goes through a link to itself")
    if os.path.commonpath((top, path)) != top:
        raise Outside("leaves the data root")
    if path == top:
        raise Outside("names the data root itself")
    return path
