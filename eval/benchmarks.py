"""The benchmarks of the paper's Tables 1 and 5: their questions, and how a reply is read.

    items, bad = load("timeblind", Path("TimeBlind/data.jsonl"), Path("TimeBlind"))
    read_answer("timeblind", items[0], "Yes.")  # -> "yes"

The releases' files are `eval/layouts.py`'s; here are DyBench pairs of our own format besides (ids PAIR/SIDE), and what
a reader of the numbers has to know of the questions.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.dataset import BadRow, load_questions
from data.rows import read_rows
from episode import Question
from eval.layouts import LAYOUTS, TIMEBLIND_PATTERN, Item, dybench_text, read_release
from eval.replies import read_caption, read_caption_matching, read_choice, read_yes_no
from eval.scoring import GROUNDED, content
from grounding import interval_iop
from tasks import TASKS
from verifiers import verify

NAMES = tuple(LAYOUTS)


def load(name: str, questions_file: str | Path, data_root: str | Path | None = None) -> tuple[list[Item], list[BadRow]]:
    """Items of a benchmark in its own order, and the rows that cannot be used.

    Without `data_root`, no item has a path: enough to score answers made elsewhere. Pairs that a reviewer rejected are
    neither (`rejected`). Raises ValueError, one line, for an unknown name, a file that cannot be read, is laid out in
    another way, or holds no row.
    """
    if name not in LAYOUTS:
        raise ValueError(f"benchmark {name!r} must be one of {', '.join(NAMES)}")
    path, root = Path(questions_file), None if data_root is None else Path(data_root)
    if name == "dybench" and path.is_file() and _is_own_format(path):
        items, bad = _own_rows(path, root)
    else:
        items, bad = read_release(name, path, root)
    if not items and not bad:
        raise ValueError(f"{path}: holds no question")
    return _once(path, items, bad)


def rejected(path: Path) -> dict[int, str]:
    """Row -> pair, of the pairs in a file of ours that a reviewer rejected (`accepted` false on either side): no part
    of the benchmark."""
    if not path.is_file() or path.suffix == ".parquet":
        return {}
    rows = {row.number: row.value for row in read_rows(path) if isinstance(row.value, dict)}
    pairs = {str(row.get("pair_id")) for row in rows.values() if row.get("accepted") is False}
    return {number: str(row.get("pair_id")) for number, row in rows.items() if str(row.get("pair_id")) in pairs}


def _is_own_format(path: Path) -> bool:
    first = next((raw.value for raw in read_rows(path) if isinstance(raw.value, dict)), {})
    return "problem" in first and "solution" in first


def _own_rows(path: Path, root: Path | None) -> tuple[list[Item], list[BadRow]]:
    """DyBench pairs in the row format of training files, as `eval.dybench` and the toy world write them."""
    questions, bad = load_questions(path, root or path.parent, null_option="off", check_files=False, task_types=False)
    left_out, items = rejected(path), []
    bad = [row for row in bad if row.row not in left_out]
    for question in questions:
        if question.row in left_out:
            continue
        if not (question.pair_id and question.side and question.subtask):
            bad.append(BadRow(str(path), question.row, "pair_id", "a pair's row needs pair_id, side and subtask"))
            continue
        question = replace(question, path=question.path if root else None)
        key = f"{question.pair_id}/{question.side}"
        items.append(Item(key, question, dybench_text(question)))
    return items, bad


def _once(path: Path, items: Sequence[Item], bad: list[BadRow]) -> tuple[list[Item], list[BadRow]]:
    """Drops, as bad rows, items whose id an earlier one has: a prediction could not tell which is meant."""
    first: dict[str, Item] = {}
    for item in items:
        if item.id in first:
            detail = f"{item.id!r} of row {first[item.id].question.row}"
            bad.append(BadRow(str(path), item.question.row, "id", "is that of an earlier row", detail))
        first.setdefault(item.id, item)
    return list(first.values()), bad


def read_answer(name: str, item: Item, reply: str) -> str | None:
    """Canonical answer that a reply gives: an option's letter, or yes | no; None where it cannot be read (wrong).

    Never raises on the text, whatever it is.
    """
    options = item.question.options
    if name in GROUNDED:
        return verify(reply, item.question).answer
    if name == "tempcompass_captioning":
        return read_caption(reply, options)
    if name == "tempcompass_caption_matching":
        return read_caption_matching(reply, item.layout["label"], options)
    return read_choice(reply, options) if options else read_yes_no(reply)


def judge(name: str, item: Item, answer: str | None) -> dict[str, Any]:
    """`correct`, and of GROUNDED the `scores` that its metrics are made of: the published terms, and `iop` where there
    are intervals. There `correct` is the right letter, or else an IoU of 0.5."""
    gold = item.question.gold
    if name not in GROUNDED:
        return {"correct": answer is not None and answer == gold}
    scores = TASKS[item.question.problem_type].terms(answer, gold)
    parts, right = ({} if text is None else json.loads(text) for text in (answer, gold))
    if "intervals" in right:
        scores["iop"] = interval_iop(parts.get("intervals", ()), right["intervals"])
    return {"correct": scores.get("answer", float(scores["iou"] >= 0.5)) == 1, "scores": scores}


def remarks(name: str, items: Sequence[Item]) -> list[str]:
    """What a reader of the numbers must know of the questions: not the whole benchmark, groups that are incomplete,
    pairs that measure nothing, captions that no judge reads. Empty for the whole of any other benchmark.
    """
    size, found = LAYOUTS[name].size, []
    if size is not None and len(items) != size:
        found.append(f"{len(items)} questions; the whole benchmark has {size}")
    if name == "tempcompass_captioning":
        found.append("no judge: read by words only")
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.question.pair_id is not None:
            groups[item.question.pair_id].append(item)
    whole, unit = (4, "blocks of four") if name == "timeblind" else (2, "pairs")
    if broken := [group for group, members in groups.items() if len(members) != whole]:
        found.append(f"{len(broken)} incomplete {unit} count as wrong: {_some(broken)}")
    if name == "dybench":
        alike = [
            pair
            for pair, members in groups.items()
            if len({_gold(item.question) for item in members}) < len(members)
            and not members[0].question.subtask.startswith("static")
        ]
        if alike:
            found.append(f"{len(alike)} pairs have one right answer for both sides, a shortcut's too: {_some(alike)}")
    if name == "timeblind":
        negative = {"no", "b"}
        other = [
            item.id for item in items
            if (answer := item.layout["answer"].strip().lower()[:3].rstrip(".):,")) in {"yes", "a"} | negative
            and (answer in negative) == TIMEBLIND_PATTERN[int(item.facts["role"])]
        ]  # fmt: skip
        if other:
            found.append(
                f"{len(other)} rows' `answer` differs from the official pattern, which decides: {_some(other)}"
            )
    return found


def _gold(question: Question) -> str | None:
    """The right answer without its letter: what two sides with options in another order share."""
    return content({"answer": question.gold, "options": question.options})


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:5])) + (", ..." if len(ids) > 5 else "")
