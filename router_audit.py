"""A person against the router: a sheet of sampled questions with filmstrips, and the agreement once it is filled.

The sheet does not show the router's label, so the person judges blind and one sheet scores any number of routers.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import review
from data.clips import Clips
from data.filter import fingerprint
from episode import TASK_TYPES, Question
from pictures import table
from router_rules import gold_text

COLUMNS = ("number", "key", "id", "source", "problem", "options", "answer", "human", "note")
NO_LABEL = "no label"
SOURCE_TYPES = ("Temporal", "Spatial", "Spatiotemporal", "Static")  # the column order of the paper's Table 8


def sheet_key(question: Question) -> str:
    """Names a question in a sheet: its id and content. A spreadsheet may rewrite an id (007), not this."""
    return "q" + hashlib.sha256(json.dumps([question.id, fingerprint(question)]).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------------------------
# Table 8


def counts(questions: Sequence[Question]) -> dict[str, Counter]:
    """Source -> task type (or NO_LABEL) -> video questions."""
    found: dict[str, Counter] = defaultdict(Counter)
    for question in questions:
        if question.data_type == "video":
            found[question.data_source or "-"][question.task_type or NO_LABEL] += 1
    return dict(sorted(found.items()))


def count_table(questions: Sequence[Question]) -> str:
    """Video questions per source and task type with their share of the source: the paper's Table 8. Rows without a
    label have a column where there are any."""
    per_source = counts(questions)
    total = sum(per_source.values(), Counter())
    columns = (*SOURCE_TYPES, *([NO_LABEL] if total[NO_LABEL] else ()))
    lines = [("".join(c if c.isprintable() else "?" for c in name)[:60], n) for name, n in per_source.items()]
    rows = [
        {"source": name}
        | {kind: f"{n[kind]:,} ({100 * n[kind] / max(n.total(), 1):.1f}%)" for kind in columns}
        | {"total": f"{n.total():,}"}
        for name, n in [*lines, ("Total", total)]
    ]
    return table(rows, ("source", *columns, "total"))


# ---------------------------------------------------------------------------------------------------------------------
# The sheet


def sample(questions: Sequence[Question], size: int, seed: int) -> list[Question]:
    """`size` video questions drawn in proportion to each (source, task type), and at least one of each if they fit; in
    file order. The same for the same rows and seed."""
    strata: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        if question.data_type == "video":
            strata[question.data_source, question.task_type or NO_LABEL].append(question)
    total = sum(map(len, strata.values()))
    size = min(size, total)
    least = int(len(strata) <= size)
    shares = {name: max(least, size * len(members) // total) for name, members in strata.items()} if total else {}
    # What rounding left over goes to those furthest below their share, what the minimum took comes from the largest.
    while (rest := size - sum(shares.values())) != 0:
        owed = {name: size * len(strata[name]) / total - share for name, share in shares.items()}
        if rest > 0:
            shares[max((n for n in shares if shares[n] < len(strata[n])), key=lambda n: (owed[n], n))] += 1
        else:
            shares[min((n for n in shares if shares[n] > least), key=lambda n: (owed[n], n))] -= 1
    drawn = []
    for name in sorted(strata):
        drawn += random.Random(f"{seed}/{name}").sample(strata[name], shares[name])
    return sorted(drawn, key=lambda question: question.row)


def write_sheet(questions: Sequence[Question], folder: Path, clips: Clips) -> int:
    """`folder`/sheet.csv to fill, `folder`/index.html to look at, and a filmstrip per question; returns how many clips
    could not be read (the sheet's `note` says why). Raises ValueError where a sheet is already there."""
    review.new_folder(folder)
    pending = [clips.submit(question) for question in questions]
    rows, unread = [], 0
    for number, (question, future) in enumerate(zip(questions, pending, strict=True), start=1):
        fault = review.write_strip(folder / "strips" / f"{number:03d}.png", future)
        unread += bool(fault)
        rows.append(
            {
                "number": number,
                "key": sheet_key(question),
                "id": question.id,
                "source": question.data_source,
                "problem": question.problem,
                "options": " ".join(question.options),
                "answer": gold_text(question, letter=True),
                "human": "",
                "note": f"clip cannot be read: {fault}" if fault else "",
            }
        )
    review.write(folder, COLUMNS, rows, _page(rows))
    return unread


def _page(rows: Sequence[Mapping[str, object]]) -> str:
    introduction = (
        "<p>Write one of Spatial, Temporal, Spatiotemporal, Static into the column "
        "<b>human</b> of sheet.csv; leave it empty where you cannot tell. Would the correct answer be another one "
        "(1) in the mirror, left and right swapped; (2) played from the last frame to the first? Only 1: Spatial. "
        "Only 2: Temporal. Both: Spatiotemporal. Neither: Static.</p>"
    )
    sections = []
    for row in rows:
        text = {name: html.escape(str(value)) for name, value in row.items()}
        strip = f"<p>{text['note']}</p>" if row["note"] else f'<img src="strips/{row["number"]:03d}.png" loading=lazy>'
        sections.append(
            f"<h3>{text['number']}. {text['problem']}</h3>{strip}<p>{text['options']}<br>"
            f"<b>{text['answer']}</b> ({text['source']}, id {text['id']})</p>"
        )
    return review.page("Task Router audit", introduction, sections)


# ---------------------------------------------------------------------------------------------------------------------
# The score


def read_sheet(file: Path) -> dict[str, str]:
    """Key -> the person's task type, of the filled rows. Raises ValueError, one line that names the row."""
    words = {task_type.lower(): task_type for task_type in TASK_TYPES} | {"": None}
    human = {}
    for number, key, (word,) in review.read(file, ["human"], words, f"one of {', '.join(TASK_TYPES)}, or empty"):
        if not key:
            raise ValueError(f"{file}: row {number}: the column key is empty; take the sheet that audit wrote")
        if word:
            human[key] = word
    if not human:
        raise ValueError(f"{file}: no row is filled; write a task type into the column human of each")
    return human


def agreement(pairs: Sequence[tuple[str, str | None]]) -> str:
    """(human, router) labels -> agreement and the confusion matrix, with counts, as text."""
    agreed = sum(human == router for human, router in pairs)
    labelled = sum(router is not None for _, router in pairs)
    columns = (*TASK_TYPES, NO_LABEL)
    matrix = Counter((human, router or NO_LABEL) for human, router in pairs)
    rows = [{"human \\ router": human} | {column: matrix[human, column] for column in columns} for human in TASK_TYPES]
    lines = [f"agreement: {agreed} of {len(pairs)} ({100 * agreed / len(pairs):.1f}%)"]
    if labelled < len(pairs):
        share = f" ({100 * agreed / labelled:.1f}%)" if labelled else ""
        lines.append(f"without the {len(pairs) - labelled} rows that have no label: {agreed} of {labelled}{share}")
    return "\n".join([*lines, "", table(rows, list(rows[0]))])


def score(human: Mapping[str, str], questions: Sequence[Question]) -> str:
    """The report on a filled sheet. Raises ValueError where none of its questions is among the rows."""
    rows = {sheet_key(question): question for question in questions}
    pairs = [(rows[key], label) for key, label in human.items() if key in rows]
    if not pairs:
        raise ValueError("no row of the sheet is in the rows file: score the rows that the sheet was drawn from")
    parts = [agreement([(label, question.task_type) for question, label in pairs])]
    different = [(question, label) for question, label in pairs if question.task_type != label]
    parts += [
        f"{q.id!r}: human {label}, router {q.task_type or NO_LABEL}: {q.problem[:100]!r}" for q, label in different
    ]
    if missing := len(human) - len(pairs):
        parts.append(f"{missing} filled rows of the sheet are not in the rows file")
    return "\n".join(parts)
