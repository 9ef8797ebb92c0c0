"""A person's verdict on each pair: a sheet with both sides' filmstrips, and the rows that pass (App. A.2).

Every pair is checked for (i) static content that agrees, (ii) no other temporal cue that differs, (iii) answers that
are right beyond doubt on both sides. Beside each check stands what was measured; the person writes yes or no. A pair is
accepted with three times yes, rejected with one no, and open until then.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import review
from data.clips import Clips
from data.parts import file_sha256
from episode import Question
from verifiers import option_of

CHECKS = {
    "static_content": "Both clips show the same scene and objects.",
    "temporal_minimality": "They differ in what the question asks about, and in no other way over time.",
    "unambiguous_answer": "Each clip's answer is right beyond doubt, and the other options are wrong.",
}
COLUMNS = ("number", "key", "pair_id", "subtask", "source", "problem", "options", "answer_a", "answer_b")
COLUMNS += tuple(name for check in CHECKS for name in (f"measured_{check}", check)) + ("note",)

Pair = tuple[Question, Question]
"""Sides a and b."""


def pairs_of(questions: Sequence[Question]) -> dict[str, Pair]:
    """Pair id -> its sides, in the order of the rows, which `eval.answer.check_pairs` has found complete."""
    sides = {(question.pair_id, question.side): question for question in questions}
    return {pair: (sides[pair, "a"], sides[pair, "b"]) for pair in dict.fromkeys(q.pair_id for q in questions)}


def pair_key(pair: Pair, digests: Sequence[str]) -> str:
    """Names a pair in a sheet by all that a person judged: words, answers and the bytes of both clips."""
    facts = [[q.pair_id, q.problem, q.options, q.gold] for q in pair]
    return "p" + hashlib.sha256(json.dumps([facts, list(digests)]).encode()).hexdigest()[:12]


def write_sheet(
    pairs: Mapping[str, Pair], measured: Mapping[str, Mapping[str, str]], folder: Path, clips: Clips
) -> int:
    """`folder`/sheet.csv to fill, `folder`/index.html to look at, two filmstrips a pair.

    `measured`: pair id -> check -> what was measured. Returns how many clips could not be read (column `note`). Raises
    ValueError where a sheet is already there.
    """
    review.new_folder(folder)
    pending = [[clips.submit(question) for question in pair] for pair in pairs.values()]
    rows, unread = [], 0
    for number, ((pair_id, pair), futures) in enumerate(zip(pairs.items(), pending, strict=True), start=1):
        notes = []
        for question, future in zip(pair, futures, strict=True):
            fault = review.write_strip(folder / "strips" / f"{number:04d}_{question.side}.png", future)
            notes += [f"{question.side}: {fault}"] if fault else []
        unread += len(notes)
        row = {"number": number, "key": "", "pair_id": pair_id, "subtask": pair[0].subtask, "note": "; ".join(notes)}
        if not notes:
            row["key"] = pair_key(pair, [file_sha256(question.path) for question in pair])
        row |= {"source": pair[0].data_source, "problem": pair[0].problem, "options": " ".join(pair[0].options)}
        row |= {f"answer_{question.side}": option_of(question.gold, question.options) for question in pair}
        row |= {f"measured_{check}": measured.get(pair_id, {}).get(check, "") for check in CHECKS}
        rows.append(row)
    review.write(folder, COLUMNS, rows, _page(rows))
    return unread


def _page(rows: Sequence[Mapping[str, object]]) -> str:
    checks = "".join(f"<li><b>{name}</b>: {html.escape(text)}</li>" for name, text in CHECKS.items())
    introduction = f"<p>Write yes or no into these columns of sheet.csv:</p><ul>{checks}</ul>"
    sections = []
    for row in rows:
        text = {name: html.escape(str(value)) for name, value in row.items()}
        strips = "".join(
            f"<p>{side}: <b>{text[f'answer_{side}']}</b></p>"
            f'<img src="strips/{row["number"]:04d}_{side}.png" loading=lazy alt="clip {side} of {text["pair_id"]}">'
            for side in "ab"
        )
        facts = "; ".join(text[f"measured_{check}"] for check in CHECKS if text[f"measured_{check}"])
        sections.append(
            f"<h3>{text['number']}. {text['problem']}</h3><p>{text['options']}</p>{strips}"
            f"<p><small>{text['pair_id']} ({text['source']}) {facts} {text['note']}</small></p>"
        )
    return review.page("DyBench review", introduction, sections)


def read_sheet(file: Path) -> dict[str, dict[str, bool | None]]:
    """Key -> check -> yes, no or None (not filled). ValueError, one line that names the row, for anything else."""
    words = {"yes": True, "y": True, "no": False, "n": False, "": None}
    rows = review.read(file, list(CHECKS), words, "yes, no or empty")
    # A pair without a key could not be seen.
    return {key: dict(zip(CHECKS, verdict, strict=True)) for _, key, verdict in rows if key}


def fate(verdict: Mapping[str, bool | None] | None) -> str:
    """accepted, rejected, open (not filled in), or not in the sheet."""
    if verdict is None:
        return "not in the sheet"
    if False in verdict.values():
        return "rejected"
    return "open" if None in verdict.values() else "accepted"


def failed_checks(verdicts: Sequence[Mapping[str, bool | None]]) -> Counter:
    """Check -> pairs that fail it."""
    return Counter(check for verdict in verdicts for check, value in verdict.items() if value is False)
