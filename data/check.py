"""`python -m data.check rows.jsonl --data-root D [--decode] [--tokens MODEL] [--against F]`: which rows are wrong.

Run it before a night of training. Unusable rows (an answer that is not among the options, no file, ...) and duplicates
are always looked for; --decode reads every clip and image (and holds the `duration` of a gold answer against its clip),
--tokens also counts every prompt, --against compares the media files with those of an evaluation set.
Exit code 0 where every row is fine, 1 where one is not, 2 with one line where a file or a flag is not as it must be.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from config import Config
from data.clips import Clips, ClipSettings
from data.dataset import BadRow, load_questions, report_bad_rows
from data.prompts import build_prompt, processor_inputs
from data.video import ClipError
from episode import Question, View
from tasks import TASKS
from verifiers import split_option

SLACK = 1.0
"""Seconds by which an annotated duration may miss the clip's: a reversed clip's intervals are off by as much."""


@dataclass
class CheckArgs:
    """Report what is wrong with the rows of a training or evaluation file."""

    rows: Annotated[Path, tyro.conf.Positional]
    """JSON or JSONL file of rows."""
    data_root: Path
    """Folder that the rows' `path` is relative to, and may not leave."""
    decode: bool = False
    """Also read every clip and image as training would: finds damaged files, takes a while."""
    tokens: str = ""
    """Folder of a checkpoint: also count every prompt's tokens with its processor (reads every file, as --decode)."""
    against: Path | None = None
    """Rows of an evaluation set: report rows whose clip or image is one of its files, by content."""
    against_root: Path | None = None
    """Folder that its `path` is relative to; default: the folder of the file."""
    frames: int = Config.frames
    """Frames to sample of each clip."""
    max_pixels: int = Config.max_pixels
    """Pixel budget of a clip."""
    min_frame_pixels: int = Config.min_frame_pixels
    """Lower pixel budget of a frame."""
    max_frame_pixels: int = Config.max_frame_pixels
    """Upper pixel budget of a frame, and of an image."""
    null_option: Literal["video", "all", "off"] = Config.null_option
    """Which multiple-choice questions get "None of the above" in training."""
    max_prompt_tokens: int = Config.max_prompt_tokens
    """Longest prompt, with --tokens."""
    workers: int = 8
    """Files read side by side."""
    decode_timeout: float = Config.decode_timeout
    """Seconds a clip may take to decode before it counts as damaged."""
    limit: int = 20
    """Faulty rows to list; all of them are counted."""


def check_files(questions: Sequence[Question], args: CheckArgs, processor=None) -> Iterator[BadRow]:
    """Rows whose file cannot be read or is no clip of the gold answer's duration and, with a processor, those whose
    prompt is too long."""
    settings = ClipSettings(args.frames, args.max_pixels, args.min_frame_pixels, args.max_frame_pixels)
    with Clips(settings, workers=args.workers, deadline=args.decode_timeout) as clips:
        for at in range(0, len(questions), 4 * args.workers):  # a few at a time: decoded clips take megabytes
            some = questions[at : at + 4 * args.workers]
            for question, pending in zip(some, [clips.submit(question) for question in some], strict=True):
                try:
                    view = pending.result()
                except ClipError as error:
                    yield _bad(args, question, "path", f"{question.data_type} cannot be decoded", str(error))
                    continue
                stated = duration(question)
                if stated is not None and abs(stated - (lasts := view.source_frames / view.fps)) > SLACK:
                    yield _bad(args, question, "solution", "duration is not the clip's", f"{stated:g} s, {lasts:g} s")
                tokens = prompt_tokens(processor, question, view) if processor else 0
                if tokens > args.max_prompt_tokens:
                    reason = f"prompt is longer than --max-prompt-tokens {args.max_prompt_tokens}"
                    yield _bad(args, question, "row", reason, f"{tokens} tokens")


def duration(question: Question) -> float | None:
    """Seconds of the clip, as a gold answer with intervals states them; None of any other."""
    if question.data_type != "video" or question.problem_type not in TASKS:
        return None
    return json.loads(question.gold).get("duration")


def prompt_tokens(processor, question: Question, view: View | None) -> int:
    """Length of the prompt that training gives, vision tokens included."""
    prompt = build_prompt(processor, question, view)
    return processor_inputs(processor, prompt)["input_ids"].shape[1]


def duplicates(questions: Sequence[Question], args: CheckArgs) -> Iterator[BadRow]:
    """Rows that ask an earlier row's question about the same clip."""
    asked: dict[tuple, int] = {}
    for question in questions:
        options = tuple(sorted(split_option(option)[1].casefold() for option in question.options))
        words = " ".join(question.problem.casefold().split())
        key = (words, options, question.path, question.start, question.end)
        first = asked.setdefault(key, question.row)
        if first != question.row:
            yield _bad(args, question, "row", "same question and path as another row", f"row {first}")


def overlap(questions: Sequence[Question], args: CheckArgs) -> Iterator[BadRow]:
    """Rows whose clip or image is also a file of the evaluation set, byte for byte, under whatever name."""
    root = args.against_root or args.against.absolute().parent
    others, bad = load_questions(args.against, root, null_option="off", task_types=False)
    yield from bad  # a row that cannot be compared
    mine, theirs = _by_size(questions), _by_size(others)
    common = sorted(mine.keys() & theirs.keys())  # only files of one size can be equal: the others are not read
    paths = sorted({path for size in common for path in (*mine[size], *theirs[size])})
    with ThreadPoolExecutor(args.workers) as pool:
        digests = dict(zip(paths, pool.map(_sha256, paths), strict=True))
    rows = {digests[path]: row for size in common for path, row in theirs[size].items()}
    for question in questions:
        row = rows.get(digests.get(question.path, ""))
        if row is not None:
            yield _bad(args, question, "path", "is a file of the evaluation set", f"{args.against}:{row}")


def _by_size(questions: Sequence[Question]) -> dict[int, dict[str, int]]:
    """Size in bytes -> path -> the first row that has it."""
    sizes: dict[int, dict[str, int]] = {}
    for question in questions:
        if question.path is not None:
            sizes.setdefault(os.path.getsize(question.path), {}).setdefault(question.path, question.row)
    return sizes


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bad(args: CheckArgs, question: Question, field: str, reason: str, detail: str) -> BadRow:
    return BadRow(str(args.rows), question.row, field, reason, detail)


def load_processor(folder: str):
    """The checkpoint's processor, from the folder alone; ValueError, one line, where it has none."""
    from transformers import AutoProcessor  # slow to import, and only --tokens needs it

    if not os.path.isdir(folder):
        raise ValueError(f"--tokens {folder}: no such folder; give the folder of a Qwen3-VL checkpoint")
    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"--tokens {folder}: holds no processor that loads: {reason}") from error


def counts(questions: Sequence[Question]) -> list[str]:
    """One line a property: how many usable rows have each of its values."""
    lines = []
    for name in ("data_source", "data_type", "problem_type", "task_type"):
        values = Counter(getattr(question, name) or "none" for question in questions)
        lines.append(f"{name}: " + ", ".join(f"{value} {count}" for value, count in values.most_common()))
    return lines


def check(args: CheckArgs) -> bool:
    """Print the report; True where every row is fine. Raises ValueError or OSError, one line each."""
    for name in ("frames", "workers", "limit"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    if not args.decode_timeout > 0:
        raise ValueError(f"--decode-timeout must be positive, got {args.decode_timeout}")
    if args.against_root and not args.against:
        raise ValueError("--against-root has no meaning without --against")
    processor = load_processor(args.tokens) if args.tokens else None
    questions, bad = load_questions(args.rows, args.data_root, null_option=args.null_option)
    total = len(questions) + len(bad)
    bad += duplicates(questions, args)
    if args.decode or processor:
        bad += check_files(questions, args, processor)
    if args.against:
        bad += overlap(questions, args)
    own = {row.row for row in bad if row.file == str(args.rows)}
    sound = [question for question in questions if question.row not in own]
    lines = [f"{args.rows}: {len(sound)} of {total} rows are fine"]
    lines += [f"  {line}" for line in counts(sound) if sound]
    lines += [f"  {line}" for line in report_bad_rows(sorted(bad, key=lambda row: (row.file, row.row)), args.limit)]
    # Rows are foreign text: nothing of it may steer the terminal.
    print("\n".join("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines))
    return not bad


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(CheckArgs, args=argv)
    try:
        return 0 if check(args) else 1
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
