"""`python -m data.check --train-file F --data-root D [--decode]`: which rows can be used, and why the others cannot.

Run it before a night of training. Exit code 0 if at least one row is usable, 1 if none is or the file cannot be read.
"""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from data.dataset import BadRow, load_questions, report_bad_rows
from data.image import read_image
from data.video import ClipError, sample_clip
from episode import Question


@dataclass
class CheckArgs:
    """Report the rows of a training or evaluation file that cannot be used."""

    train_file: Path
    """JSON or JSONL file of rows."""
    data_root: Path
    """Folder that the rows' `path` is relative to."""
    decode: bool = False
    """Also read every clip and image as training would: finds damaged files, takes a while."""
    frames: int = 32
    """Frames to sample of each clip with --decode."""
    workers: int = 8
    """Clips decoded side by side with --decode."""
    limit: int = 20
    """Bad rows to list; all of them are counted."""


def check_clips(file: str, questions: list[Question], frames: int, workers: int) -> tuple[list[Question], list[BadRow]]:
    """Read every question's clip or image; (questions whose file is sound, bad rows for the others), in file order."""

    def fault(question: Question) -> BadRow | None:
        if question.path is None:
            return None
        try:
            if question.data_type == "image":
                read_image(question.path)
            else:
                sample_clip(question.path, frames=frames, start=question.start, end=question.end)
        except ClipError as error:
            return BadRow(file, question.row, "path", f"{question.data_type} cannot be decoded", str(error))
        return None

    with ThreadPoolExecutor(workers) as pool:
        faults = list(pool.map(fault, questions))
    sound = [question for question, bad in zip(questions, faults, strict=True) if bad is None]
    return sound, [bad for bad in faults if bad is not None]


def check(args: CheckArgs) -> int:
    """Print the report; returns the number of usable rows. Raises ValueError where the file cannot be read."""
    questions, bad = load_questions(args.train_file, args.data_root)
    if args.decode:
        questions, damaged = check_clips(str(args.train_file), questions, args.frames, args.workers)
        bad = sorted(bad + damaged, key=lambda row: row.row)
    print(f"{args.train_file}: {len(questions)} of {len(questions) + len(bad)} rows are usable")
    for name, values in (
        ("data_type", [question.data_type for question in questions]),
        ("problem_type", [question.problem_type for question in questions]),
        ("task_type", [question.task_type or "none" for question in questions]),
    ):
        if values:
            print(f"  {name}: " + ", ".join(f"{value} {count}" for value, count in Counter(values).most_common()))
    for line in report_bad_rows(bad, args.limit):
        print(f"  {line}")
    return len(questions)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(CheckArgs, args=argv)
    try:
        usable = check(args)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not usable:
        print("error: no row is usable; the reasons are listed above", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
