"""The rows of a JSON list or of JSONL as they stand in the file, one at a time and bounded in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAX_LINE_MIB = 16
"""A longer line of JSONL is no row; it is passed over without being held."""
MAX_LIST_MIB = 512
"""A JSON list is read whole; a longer one must come as JSONL."""


@dataclass(frozen=True)
class RawRow:
    """One row, parsed but not checked."""

    number: int
    """1-based row (JSON list) or line (JSONL)."""
    value: object = None
    fault: str = ""
    """Why the line is no JSON; `value` is None then."""
    text: str = ""
    """The line of JSONL; empty for a row of a list."""

    @property
    def line(self) -> str:
        """The row as one line of JSONL: the very text where it was one, else the same value."""
        if self.text:
            return self.text
        text = json.dumps(self.value, ensure_ascii=False)
        return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text)  # which no file can hold as text


def read_rows(file: str | Path) -> Iterator[RawRow]:
    """Rows of a JSON list or of JSONL (UTF-8, one object a line), in order; blank lines are none.

    A broken or an over-long line is a row with a `fault`. Raises ValueError, one line, where the file cannot be read, a
    list is not valid JSON, or no line at all is JSON (known at the end only).
    """
    try:
        with open(file, "rb") as stream:
            start = stream.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
            stream.seek(0)
            yield from _list(file, stream) if start.startswith(b"[") else _lines(file, stream)
    except OSError as error:
        raise ValueError(f"{file}: cannot be read: {error.strerror}; give a JSON or JSONL file of rows") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 text; give a JSON or JSONL file of rows") from error


def _list(file: str | Path, stream: BinaryIO) -> Iterator[RawRow]:
    data = stream.read((MAX_LIST_MIB << 20) + 1)
    if len(data) > MAX_LIST_MIB << 20:
        raise ValueError(f"{file}: a JSON list of more than {MAX_LIST_MIB} MiB; give JSONL, one object a line")
    text = data.decode("utf-8-sig")
    del data
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more digits than Python converts
        raise ValueError(f"{file}: is not valid JSON: {error}") from error
    for number, value in enumerate(values, start=1):
        yield RawRow(number, value)


def _lines(file: str | Path, stream: BinaryIO) -> Iterator[RawRow]:
    limit, number, rows, faults = MAX_LINE_MIB << 20, 0, 0, 0
    while line := stream.readline(limit + 1):
        number += 1
        if len(line) > limit and not line.endswith(b"\n"):
            while (rest := stream.readline(limit)) and not rest.endswith(b"\n"):
                pass
            row = RawRow(number, fault=f"is longer than {MAX_LINE_MIB} MiB")
        else:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            try:
                row = RawRow(number, json.loads(text), text=text)
            except (ValueError, RecursionError):
                row = RawRow(number, fault="is not valid JSON")
        rows, faults = rows + 1, faults + bool(row.fault)
        yield row
    if rows and faults == rows:
        raise ValueError(f"{file}: is neither a JSON list of rows nor JSONL (one JSON object a line)")
