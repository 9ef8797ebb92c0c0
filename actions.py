"""A program of several actions, each with flags of its own: `python router.py audit --rows ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import tyro

Actions = Mapping[str, tuple[type, Callable[..., int]]]
"""Name -> dataclass of its flags, and what takes one and returns an exit code."""


def run(actions: Actions, argv: Sequence[str] | None, program: str) -> int:
    """The action that the first word names, the first one without a name. Its exit code; 2 and one line for a mistake
    (ValueError, OSError)."""
    argv = sys.argv[1:] if argv is None else argv
    name, rest = (argv[0], argv[1:]) if argv and argv[0] in actions else (next(iter(actions)), argv)
    settings, action = actions[name]
    args = tyro.cli(settings, args=rest, prog=f"{program} {name}")
    try:
        return action(args)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        return 2
