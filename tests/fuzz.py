"""Seeded mutations of data that is right: of JSON values by their structure, of texts and files by their characters."""

from __future__ import annotations

import json
import math
import random

JUNK = (
    None, True, False, 0, -1, 1, 2**63, -(10**40), 0.5, math.nan, math.inf, -math.inf, "", " ", "A", "\0", "\ud800",
    "../../etc/passwd", "/etc/passwd", "a" * 5000, "<script>x</script>", "<|video_pad|>", "\\boxed{", "}{", "{}", "[]",
    "9^{9^{9^9}}", "\u202e\u0301\ufdfa", "-", "A. ", "=1+1", "%s%n", "$(reboot)", [], {}, [[]], [None], {"": None},
    ["A"], {"a": 1}, [1, "2", 3.0], 10**400,
)  # fmt: skip
PIECES = (
    "", " ", "\n", "\r\n", "\0", "\x1b[31m", "\ufeff", "\ud800", "\u200b", "\u202e", "\u0130", "{", "}", "[", "]", '"',
    "\\", "\\boxed{", "\\boxed{}", "\\text{", "<think>", "</think>", "<answer>", "</answer>", "$", "**", "(", ")", ",",
    ".", ":", "-", "+", "/", "%", "e9", "^{", "\\frac{1}{2}", "nan", "null", "true", "None", "A", "B", "(C)", "or",
    "not", "yes", "no", "the answer is ", "Spatial", "<|im_end|>", "9" * 50, "[" * 3000, "(" * 50, "{" * 50, "\t",
)  # fmt: skip


def value(rng: random.Random, right: object, depth: int = 0) -> object:
    """A copy of a JSON value with a change somewhere in it."""
    if isinstance(right, dict | list) and right and rng.random() < 0.85:
        changed = dict(right) if isinstance(right, dict) else list(right)
        key = rng.choice(list(changed) if isinstance(changed, dict) else range(len(changed)))
        what = rng.random()
        if what < 0.1:
            del changed[key]
        elif what < 0.2:
            changed[key] = right[rng.choice(list(right) if isinstance(right, dict) else range(len(right)))]
        elif what < 0.25 and isinstance(changed, list):
            changed *= rng.choice((2, 40))
        else:
            changed[key] = value(rng, changed[key], depth + 1)
        return changed
    if isinstance(right, str) and rng.random() < 0.5:
        return text(rng, right)
    return rng.choice(JUNK)


def text(rng: random.Random, right: str, changes: int = 2) -> str:
    """A text with a few pieces put in, cut out, repeated or moved."""
    for _ in range(rng.randint(1, changes)):
        a, b = sorted(rng.randint(0, len(right)) for _ in range(2))
        right = rng.choice((
            right[:a] + rng.choice(PIECES) + right[a:],
            right[:a] + rng.choice(PIECES) + right[b:],
            right[:a] + right[b:],
            right[:b] + right[a:b] + right[b:],
            right[b:] + right[:b],
        ))  # fmt: skip
    return right


def data(rng: random.Random, right: bytes) -> bytes:
    """A file's bytes with a few of them changed, put in or cut off."""
    for _ in range(rng.randint(1, 3)):
        a = rng.randint(0, len(right))
        right = rng.choice((
            right[:a],
            right[:a] + rng.randbytes(rng.randint(1, 4)) + right[a:],
            right[:a] + rng.randbytes(1) + right[a + 1 :],
            right[:a] + rng.choice(PIECES).encode("utf-8", "surrogatepass") + right[a:],
        ))  # fmt: skip
    return right


def spoilt(rng: random.Random, rows: list | dict, *, lines: bool) -> bytes:
    """A file of rows, JSONL or a list, one or two of them changed, or of an object; now and then its bytes, too."""
    if isinstance(rows, list):
        rows = list(rows)
        for _ in range(rng.randint(1, 2)):
            at = rng.randrange(len(rows))
            rows[at] = value(rng, rows[at])
    else:
        rows, lines = value(rng, rows), False
    file = ("".join(json.dumps(row) + "\n" for row in rows) if lines else json.dumps(rows)).encode()
    return data(rng, file) if rng.random() < 0.2 else file
