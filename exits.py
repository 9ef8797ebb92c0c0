"""What the exit code of a run means, and the exception that ends a run with one.

Level 0: imports no file of ours. torchrun turns every code but 0 into 1; its report names the rank's own.
"""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `train.py`. After 1 and 74 to 76 a run may be started again as it is; 2, 77 and 78 need a look."""

    DONE = 0
    """The run reached its last round."""
    FAULT = 1
    """A bug or a fault of the machine; the traceback stands above."""
    MISTAKE = 2
    """Flags, files, or a run folder that cannot be used, in one line."""
    DISK = 74
    """The checkpoint at the end or on SIGTERM, or the export, could not be written; the newest one is whole."""
    STOPPED = 75
    """SIGTERM: saved."""
    HUNG = 76
    """A phase outlasted --phase-timeout; the stacks of every rank stand above."""
    NOT_FINITE = 77
    """--max-skips optimizer steps in a row were skipped, their loss or gradient not finite."""
    GAP = 78
    """The trainer-engine gap stood above --gap-limit for 3 rounds in a row."""


class Halt(Exception):
    """The end of a run before its last round, for a reason with a code of its own. Raised on every rank alike."""

    def __init__(self, code: Exit, reason: str):
        super().__init__(reason)
        self.code = code
