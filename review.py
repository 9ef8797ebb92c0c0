"""A sheet that a person fills: sheet.csv, a page with filmstrips beside it, and the verdicts read back.

A row of a sheet has the column `key`, which names what was judged: a spreadsheet may rewrite an id (007), not this. The
router's audit (`router_audit`) and DyBench's review (`eval.dybench_sheet`) each have columns and a page of their own.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from matplotlib.image import imsave

from data.video import ClipError
from episode import View
from pictures import filmstrip

T = TypeVar("T")


def new_folder(folder: Path) -> None:
    """Make `folder` and its strips/. ValueError where a sheet is already there."""
    sheet = folder / "sheet.csv"
    if sheet.exists():  # perhaps with a day's work of a person in it
        raise ValueError(f"{sheet} exists; choose another folder, or move it away")
    (folder / "strips").mkdir(parents=True, exist_ok=True)


def write_strip(file: Path, clip: Future[View]) -> str:
    """Draw the frames of a clip into a PNG file; returns why the clip cannot be read, or nothing."""
    try:
        imsave(file, filmstrip(clip.result().frames))
    except ClipError as error:
        return str(error)
    return ""


def page(title: str, introduction: str, sections: Sequence[str]) -> str:
    """The HTML page: all but `title` is HTML already."""
    head = (
        f"<!doctype html><meta charset=utf-8><title>{title}</title>",
        "<style>body{font:16px sans-serif;max-width:1600px;margin:2em auto}section{margin:2.5em 0}"
        "img{max-width:100%;display:block}small{color:#555}</style>",
        f"<h1>{title}</h1>{introduction}",
    )
    return "\n".join([*head, *(f"<section>{section}</section>" for section in sections)])


def write(folder: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]], html: str) -> None:
    """`folder`/sheet.csv to fill (a column that a row lacks stays empty) and `folder`/index.html to look at."""
    (folder / "index.html").write_text(html, encoding="utf-8", errors="replace")
    # The mark at the start lets spreadsheets read it as UTF-8.
    with open(folder / "sheet.csv", "w", encoding="utf-8-sig", errors="replace", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: object) -> object:
    """Text that a spreadsheet would take for a formula is marked as text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def read(
    file: Path, columns: Sequence[str], words: Mapping[str, T], allowed: str
) -> Iterator[tuple[int, str, tuple[T, ...]]]:
    """(row, key, what the person wrote into each of `columns`) of a sheet, from row 1; a key may be empty.

    `words`: each word in lower case, "" for an empty cell -> its meaning; `allowed` names them. Raises ValueError, one
    line that names the row, for another word, a key that stands there twice, or a column that is missing.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        delimiter = ";" if head.count(";") > head.count(",") else ","  # spreadsheets of half of Europe write the former
        rows = list(csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file}: cannot be read as UTF-8 CSV: {error}") from error
    seen = set()
    for number, row in enumerate(rows, start=1):
        where = f"{file}: row {number}"
        if any(row.get(name) is None for name in ("key", *columns)):
            raise ValueError(f"{where}: needs the columns key, {', '.join(columns)} of the sheet that was written")
        if row["key"] and row["key"] in seen:
            raise ValueError(f"{where}: {row['key']} stands there twice")
        seen.add(row["key"])
        for name in columns:
            if row[name].strip().lower() not in words:
                raise ValueError(f"{where}: {name} must be {allowed}, got {row[name][:40]!r}")
        yield number, row["key"], tuple(words[row[name].strip().lower()] for name in columns)
