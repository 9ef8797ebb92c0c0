"""`python -m eval.score --benchmark NAME --questions FILE --predictions FILE.jsonl`: score answers made elsewhere.

    python -m eval.score --benchmark timeblind --questions data.jsonl --predictions mine.jsonl --output scored.jsonl

A prediction is {"id": ..., "prediction": the model's text} ("reply" in place of the latter, as eval.run writes it); ids
are those of `eval/layouts.py`. Every question counts: one without a prediction, or whose prediction cannot be read,
is wrong, and how many were is printed. A row that is no prediction, an id twice and an id that no question has are
errors: the file is then not what it is taken for. So are questions that cannot be used.

OUTPUT has one row a question, in the benchmark's order: id, correct, answer (null where none was read), gold, missing.
--result writes all metrics with intervals and chance (`eval.scoring.report`) as JSON. Exit code 0, or 2 with one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from data.dataset import BadRow, report_bad_rows
from data.parts import write_whole
from data.rows import read_rows
from eval.benchmarks import NAMES, judge, load, read_answer, rejected, remarks
from eval.layouts import LAYOUTS, Item
from eval.scoring import part_of, report
from pictures import table


@dataclass
class ScoreArgs:
    """Score a file of predictions for one benchmark."""

    benchmark: Literal[NAMES]
    """Which one."""
    questions: Path
    """Its questions as released: a file, or the folder of its files."""
    predictions: Path
    """JSON or JSONL, rows of id and prediction."""
    output: Path | None = None
    """One row a question: id, correct, answer, gold, missing (JSONL)."""
    result: Path | None = None
    """All metrics, by group, with intervals and chance (JSON)."""
    whole: bool = False
    """Refuse questions that are not the whole benchmark (TimeBlind's 600 instances, Video-MME's 2,700 questions, ...)
    or have incomplete pairs or blocks; without it, that is said beside the numbers."""
    seed: int = 0
    """Of the bootstrap."""


def read_predictions(file: Path, items: Sequence[Item]) -> dict[str, str | None]:
    """Id -> text; None where the prediction is null.

    Raises ValueError, one line that names the row, for a row that is no prediction, an id given twice, or one that no
    question has.
    """
    known, found, rows = {item.id for item in items}, {}, {}
    for row in read_rows(file):
        where = f"{file}:{row.number}"
        if row.fault or not isinstance(row.value, dict):
            raise ValueError(f"{where} {row.fault or 'must be an object'}; a row is {{'id': ..., 'prediction': ...}}")
        field = "prediction" if "prediction" in row.value else "reply"
        name, text = row.value.get("id"), row.value.get(field)
        if isinstance(name, bool) or not isinstance(name, str | int) or field not in row.value:
            raise ValueError(f"{where} must have id and prediction; it has {', '.join(row.value) or 'no field'}")
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where} {field} must be the model's text or null, got {type(text).__name__}")
        name = str(name)
        if name not in known:
            raise ValueError(f"{where} id {name!r} is none of the questions' ({items[0].id!r}, ...)")
        if name in rows:
            raise ValueError(f"{where} id {name!r} has a prediction already, in row {rows[name]}; keep one of them")
        found[name], rows[name] = text, row.number
    return found


def answered(name: str, item: Item, prediction: str | None) -> dict[str, Any]:
    """A scored row, as `eval.scoring.report` takes it."""
    question = item.question
    answer = None if prediction is None else read_answer(name, item, prediction)
    return {
        "id": item.id, "answer": answer, "gold": question.gold, **judge(name, item, answer),
        "options": list(question.options), "pair_id": question.pair_id, "side": question.side,
        "subtask": question.subtask, "facts": item.facts, "missing": prediction is None,
    }  # fmt: skip


def score(args: ScoreArgs) -> str:
    """Write the files asked for; returns what to print. Raises ValueError or OSError, one line each."""
    items, bad = load(args.benchmark, args.questions)
    if bad:
        raise ValueError(_unusable(args.questions, bad))
    said = remarks(args.benchmark, items)
    if args.benchmark == "dybench" and (left_out := rejected(args.questions)):
        said.append(f"{len(set(left_out.values()))} pairs that a reviewer rejected are left out")
    predictions = read_predictions(args.predictions, items)
    rows = [answered(args.benchmark, item, predictions.get(item.id)) for item in items]
    if args.whole and (why := part_of(args.benchmark, rows, LAYOUTS[args.benchmark].size)):
        raise ValueError(f"{args.questions}: {why}; leave --whole away to score a part")
    result = {"benchmark": args.benchmark, "seed": args.seed, "remarks": said}
    result |= report(args.benchmark, rows, seed=args.seed)
    missing = sum(row["missing"] for row in rows)
    unreadable = sum(row["answer"] is None for row in rows) - missing
    result |= {"missing": missing, "unreadable": unreadable}
    if args.output:
        kept = ("id", "correct", "answer", "gold", "missing")
        write_whole(args.output, "".join(json.dumps({name: row[name] for name in kept}) + "\n" for row in rows))
    if args.result:
        write_whole(args.result, json.dumps(result, indent=2) + "\n")
    counts = f"{len(rows)} questions; wrong because missing: {missing}, because unreadable: {unreadable}"
    return "\n".join([*(f"note: {remark}" for remark in said), counts, score_table(result)])


def score_table(result: Mapping[str, Any]) -> str:
    """The metrics of `eval.scoring.report`, over all and by group, as a table for the console."""
    parts = [("all", result["metrics"])]
    parts += [(f"{facet}: {name}", m) for facet, groups in result["groups"].items() for name, m in groups.items()]
    lines = [
        {"": _printable(name), "metric": metric, "n": m["n"], "value": m["value"]}
        | {"95 % interval": f"{m['low']:.1f} .. {m['high']:.1f}", "chance": m["chance"]}
        for name, metrics in parts
        for metric, m in metrics.items()
    ]
    return table(lines, list(lines[0]))


def _unusable(file: Path, bad: Sequence[BadRow]) -> str:
    lines = "; ".join(_printable(line) for line in report_bad_rows(bad, limit=3))
    return f"{file}: {len(bad)} questions are unusable, and may not drop out of the score: {lines}"


def _printable(text: str) -> str:
    """Questions are foreign text: nothing of it may steer the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(ScoreArgs, args=argv)
    try:
        print(score(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
