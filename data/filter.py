"""`python -m data.filter --rows F --pass-rates P --output K`: drop the rows that teach nothing (paper App. B.1).

A row that the start model answers always right, or always wrong, over its rollouts gives a group without an advantage.
`python -m eval.run --rows F --output P` makes the pass rates; any file of rows with `id` and `pass_rate` will do. Kept
rows are written as they stood, in order; a manifest names every dropped row and the reason.
Exit code 0, or 2 with one line where a file or a flag is not as it must be; then nothing is written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import tyro

from data.dataset import load_questions
from data.rows import RawRow, read_rows
from episode import Question
from pictures import table

LISTED = 20
"""Rows named in an error; all are counted."""


@dataclass
class FilterArgs:
    """Keep the rows whose pass rate lies between two bounds."""

    rows: Path
    """JSON or JSONL file of rows."""
    pass_rates: Path
    """Their pass rates, from `python -m eval.run`: JSON or JSONL with id and pass_rate."""
    output: Path
    """Kept rows, JSONL."""
    data_root: Path | None = None
    """The one that the rates were made with: rows that were unusable there (no file, a link out of it) have no rate and
    are dropped as such. Without it, files are not looked for."""
    manifest: Path | None = None
    """Dropped rows with the reason, JSONL; default: the output's name and .dropped.jsonl."""
    min: float = 0.0
    """Keep rows with a pass rate above this (-1 keeps those that are all wrong)."""
    max: float = 1.0
    """Keep rows with a pass rate below this (2 keeps those that are all right)."""
    keep_unrated: bool = False
    """Keep rows that have no pass rate; without it they are an error."""


@dataclass(frozen=True)
class Rating:
    """A row's pass rate, or why it has none."""

    pass_rate: float | None
    error: str = ""
    fingerprint: str = ""
    """Of the question that was rated; empty where the file does not say."""


def fingerprint(question: Question) -> str:
    """Twelve hex digits of what is asked and what is right: tells that a pass rate belongs to another question.

    Neither the clip's folder nor the null option counts, so that they may differ from run to run.
    """
    options = question.options[:-1] if question.null_letter else question.options
    facts = (question.problem, question.data_type, question.problem_type, options, question.gold)
    facts += (question.start, question.end)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def read_ratings(file: Path) -> dict[str, Rating]:
    """Ratings by id. Raises ValueError, one line that names the row, where one is not as it must be."""
    ratings: dict[str, Rating] = {}
    for row in read_rows(file):
        where = f"{file}:{row.number}"
        if row.fault or not isinstance(row.value, dict):
            raise ValueError(f"{where} {row.fault or 'must be a JSON object'}")
        name = row.value.get("id")
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise ValueError(f"{where} id: must be text or a whole number, got {str(name)[:80]!r}")
        if str(name) in ratings:
            raise ValueError(f"{where} id: {str(name)[:80]!r} is rated twice")
        ratings[str(name)] = _rating(where, row.value)
    return ratings


def _rating(where: str, row: dict) -> Rating:
    rate, error, mark = row.get("pass_rate"), row.get("error") or "", row.get("fingerprint") or ""
    if not isinstance(error, str) or not isinstance(mark, str):
        raise ValueError(f"{where} error, fingerprint: must be text")
    is_number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if rate is None and error:
        return Rating(None, error, mark)
    if not is_number or not 0 <= rate <= 1:  # NaN fails every comparison
        raise ValueError(f"{where} pass_rate: must be a number from 0 to 1, got {str(rate)[:80]!r}")
    return Rating(float(rate), "", mark)


def verdict(rating: Rating | None, low: float, high: float, keep_unrated: bool) -> str:
    """Why a row is dropped; empty where it is kept."""
    if rating is None:
        return "" if keep_unrated else "has no pass rate"
    if rating.pass_rate is None:
        return "could not be asked"
    if rating.pass_rate <= low:
        return "all wrong" if rating.pass_rate == 0 else f"pass rate not above {low:g}"
    if rating.pass_rate >= high:
        return "all right" if rating.pass_rate == 1 else f"pass rate not below {high:g}"
    return ""


def match(args: FilterArgs, ratings: Mapping[str, Rating]) -> tuple[dict[int, Question], dict[int, str]]:
    """Questions by row number, and the unusable rows' reasons by row number.

    Raises ValueError where a rating is of another question, or, without --keep-unrated, where rows have none.
    """
    # No file is opened; without a root, `path` must stay below a name.
    questions, bad = load_questions(args.rows, args.data_root or "/rows", check_files=False)
    for question in questions:
        rating = ratings.get(question.id)
        if rating and rating.fingerprint and rating.fingerprint != fingerprint(question):
            raise ValueError(
                f"{args.rows}:{question.row} id {question.id!r}: {args.pass_rates} rates another question under this "
                "id; rate these rows again"
            )
    unrated = [question for question in questions if question.id not in ratings]
    if unrated and not args.keep_unrated:
        for question in unrated[:LISTED]:
            print(f"{args.rows}:{question.row} id {question.id!r}: has no pass rate", file=sys.stderr)
        raise ValueError(
            f"{len(unrated)} of {len(questions)} rows have no pass rate in {args.pass_rates}: finish `python -m "
            "eval.run` (it goes on where it was) or give --keep-unrated"
        )
    return {question.row: question for question in questions}, {row.row: f"{row.field}: {row.reason}" for row in bad}


def filter_rows(args: FilterArgs) -> str:
    """Write the kept rows and the manifest; returns the report. Raises ValueError or OSError, one line each."""
    manifest = args.manifest or Path(f"{args.output}.dropped.jsonl")
    if not args.min < args.max:
        raise ValueError(f"--min {args.min:g} must be below --max {args.max:g}")
    if math.isnan(args.min) or math.isnan(args.max):
        raise ValueError("--min and --max must be numbers")
    files = [os.path.realpath(path) for path in (args.rows, args.pass_rates, args.output, manifest)]
    if len(set(files)) < len(files):
        raise ValueError("--rows, --pass-rates, --output and --manifest must be four files")
    ratings = read_ratings(args.pass_rates)
    questions, unusable = match(args, ratings)
    counts: dict[str, Counter] = {}
    with _replacing(args.output) as kept, _replacing(manifest) as dropped:
        for row in read_rows(args.rows):
            question = questions.get(row.number)
            rating = ratings.get(question.id) if question else None
            reason = verdict(rating, args.min, args.max, args.keep_unrated) if question else "unusable row"
            count = counts.setdefault(question.data_source if question else _source(row), Counter())
            count.update(["rows", reason or "kept"])
            if not reason:
                kept.write(row.line + "\n")
                continue
            facts = {"row": row.number, "id": question.id if question else None, "reason": reason}
            facts["detail"] = unusable.get(row.number) or (rating.error if rating else "")
            facts["pass_rate"] = rating.pass_rate if rating else None
            dropped.write(json.dumps(facts) + "\n")
    strangers = len(ratings.keys() - {question.id for question in questions.values()})
    return _report(counts, args.output, manifest, strangers)


def _source(row: RawRow) -> str:
    return str(row.value.get("data_source") or "")[:80] if isinstance(row.value, dict) else ""


def _report(counts: Mapping[str, Counter], output: Path, manifest: Path, strangers: int) -> str:
    """Counts per source and in all, and where the rows are."""
    total = sum(counts.values(), Counter())
    reasons = [reason for reason, _ in total.most_common() if reason not in ("rows", "kept")]
    lines = {repr(source)[1:-1] or "-": count for source, count in sorted(counts.items())} | {"all": total}
    rows = [{"source": name} | {key: count[key] for key in ("rows", "kept", *reasons)} for name, count in lines.items()]
    text = table(rows, list(rows[0]))
    if strangers:
        text += f"\n{strangers} pass rates belong to no usable row"
    return f"{text}\n{output}: {total['kept']} rows; {manifest}: {total['rows'] - total['kept']} dropped, with reasons"


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes its name only once it is whole."""
    scratch = f"{path}.{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(scratch, "w", encoding="utf-8") as file:
            yield file
        os.replace(scratch, path)
    finally:
        if os.path.exists(scratch):
            os.unlink(scratch)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(FilterArgs, args=argv)
    try:
        print(filter_rows(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
