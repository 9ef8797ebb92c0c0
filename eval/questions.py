"""`python -m eval.questions --benchmark NAME --questions FILE --data-root DIR --output rows.jsonl`: for the router.

    python -m eval.questions --benchmark mvbench --questions MVBench/test.json --data-root MVBench/ --output rows.jsonl
    python router.py --rows rows.jsonl --output routed.jsonl --engine rules
    python -m eval.report RUN --output report/ --routed mvbench=routed.jsonl        # Fig. 1, right

Writes a benchmark's questions in the row format of training files under the ids of `eval/layouts.py`, which
`eval.run` answers them by. Clips need not be there: the router reads text. Exit code 0, or 2 with one line.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from data.parts import write_whole
from eval.benchmarks import NAMES, load
from eval.layouts import Item


@dataclass
class QuestionArgs:
    """Write a benchmark's questions as rows that router.py labels."""

    benchmark: Literal[NAMES]
    """Which one."""
    questions: Path
    """Its questions as released: a file, or the folder of its files."""
    data_root: Path
    """Folder of the release: `path` of each row is relative to it, for router.py audit."""
    output: Path
    """One row a question, in the benchmark's order (JSONL)."""


def as_row(item: Item, root: Path) -> dict:
    """The question as `data.dataset.load_questions` reads it back."""
    question = item.question
    row = {
        "problem_id": item.id, "problem": question.problem, "data_type": question.data_type,
        "problem_type": question.problem_type, "options": list(question.options),
        "solution": f"<answer>{question.gold}</answer>", "data_source": question.data_source,
        "path": question.path and os.path.relpath(question.path, os.path.realpath(root)),
        "start": question.start, "end": question.end,
    }  # fmt: skip
    return {name: value for name, value in row.items() if value not in (None, [])}


def write(args: QuestionArgs) -> int:
    """Write the rows; returns how many. Raises ValueError or OSError, one line each."""
    items, bad = load(args.benchmark, args.questions, args.data_root)
    if bad:
        raise ValueError(f"{len(bad)} questions are unusable, and a share without them is another one: {bad[0]}")
    write_whole(args.output, "".join(json.dumps(as_row(item, args.data_root)) + "\n" for item in items))
    return len(items)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(QuestionArgs, args=argv)
    try:
        print(f"{args.output}: {write(args)} questions")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
