"""A port for the ranks of a test."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A TCP port that nobody listens on, below those that the kernel hands to connections (32768 and up): one of these
    may be taken by another test before the ranks have met."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as free:
            if free.connect_ex(("127.0.0.1", port)):
                return port
