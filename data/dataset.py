"""Rows of a training or evaluation file -> Questions, and the order in which training visits them.

The row format is Video-R1's (`problem_id`, `problem`, `data_type`, `problem_type`, `options`, `solution`, `path`,
`data_source`) plus optional `task_type`, `transforms` (names, in place of the task type's), `start`, `end` (seconds)
and, for paired evaluation, `pair_id`, `side`, `subtask`. A row that cannot be used is returned as a BadRow that names
file, row, field and reason; nothing is skipped in silence and nothing is substituted.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase

from data.paths import Outside, confined
from data.rows import RawRow, read_rows
from episode import TASK_TYPES, Question
from tasks import TASKS, canonical
from transforms import NAMEABLE
from verifiers import VERIFIERS, canonical_answer, last_box, split_option

PROBLEM_TYPES = (*VERIFIERS, *TASKS)
DATA_TYPES = ("video", "image", "text")
NULL_OPTION = "None of the above"
NULL_OPTION_MODES = ("video", "all", "off")


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    file: str
    row: int
    """1-based row (JSON list) or line (JSONL)."""
    field: str
    """The field at fault; "row" where it is the row as a whole."""
    reason: str
    """Same words for the same kind of fault, so that reasons can be counted; `detail` holds what differs."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.row} {self.field}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


class _Fault(Exception):
    """Field, reason and detail of the first thing wrong with a row; becomes a BadRow."""

    def __init__(self, field: str, reason: str, detail: object = ""):
        super().__init__(field, reason, str(detail)[:200].encode(errors="backslashreplace").decode())


# ---------------------------------------------------------------------------------------------------------------------
# Checking a row

# Inside a prompt each of these would ask for a clip of its own.
_PLACEHOLDERS = re.compile(r"<\|(image_pad|video_pad|vision_start|vision_end|vision_pad|im_start|im_end|endoftext)\|>")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_NULL_WORDS = frozenset(
    ("the", "these", "those", "them", "above", "following", "given", "listed", "provided", "other", "others", "option")
    + ("options", "choice", "choices", "answer", "answers", "description", "descriptions", "is", "are", "correct")
)


def is_null_option(text: str) -> bool:
    """True where an option's text says "none of the above" in whatever words (table row 10).

    "None" alone and "I don't know" say something else and do not count.
    """
    words = re.findall(r"\w+", text.casefold())
    return words[:2] in (["none", "of"], ["neither", "of"]) and len(words) > 2 and _NULL_WORDS.issuperset(words[2:])


def with_null_option(options: Sequence[str]) -> tuple[tuple[str, ...], str | None]:
    """(options with "None of the above" appended, its letter): last place, next letter, the style of the last option
    (table row 9). (options, None) if one of them says so already. Raises ValueError after Z.
    """
    pairs = [split_option(option) for option in options]
    if any(is_null_option(text) for _, text in pairs):
        return tuple(options), None
    if len(options) == len(ascii_uppercase):
        raise ValueError(f"{len(options)} options leave no letter for {NULL_OPTION!r}")
    last, (last_letter, last_text) = options[-1].strip(), pairs[-1]
    letter = ascii_uppercase[len(options)]
    label = last.removesuffix(last_text) if last_text else f"{last_letter}. "
    return (*options, label.replace(last_letter, letter, 1) + NULL_OPTION), letter


def _text_field(row: dict, name: str, *, required: bool) -> str | None:
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)  # ids and numerical answers are often bare numbers
    if value is None or (isinstance(value, str) and not value.strip()):
        if required:
            raise _Fault(name, "missing or empty")
        return None
    if not isinstance(value, str):
        raise _Fault(name, "must be text", f"got {type(value).__name__}")
    return _whole_text(name, value).strip()


def _whole_text(name: str, value: str) -> str:
    if _HALF_CHARACTER.search(value):  # no tokenizer takes it, and no file
        raise _Fault(name, "holds half a character (a lone surrogate)", f"got {value!r}")
    return value


def _choice(row: dict, name: str, allowed: Sequence[str], *, required: bool) -> str | None:
    value = _text_field(row, name, required=required)
    if value is not None and value not in allowed:
        raise _Fault(name, f"must be one of {', '.join(allowed)}", f"got {value!r}")
    return value


def _options(row: dict) -> tuple[str, ...]:
    options = row.get("options")
    if options is None:
        return ()
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise _Fault("options", "must be a list of texts")
    for i, option in enumerate(_whole_text("options", option) for option in options):
        expected = ascii_uppercase[i : i + 1]
        pair = split_option(option)
        if pair is None:
            raise _Fault("options", 'each option must start with its letter, as "A. left"', f"got {option!r}")
        if pair[0] != expected:
            raise _Fault("options", "letters must run A, B, C, ...", f"option {i + 1} is {option!r}")
    return tuple(option.strip() for option in options)


def _parts(row: dict, problem_type: str, options: tuple[str, ...]) -> str:
    """The gold answer of a type in `tasks.TASKS`: an object, or JSON text of one."""
    solution = row.get("solution")
    if isinstance(solution, str):
        try:
            solution = json.loads(solution)
        except (ValueError, RecursionError) as error:
            raise _Fault("solution", "is not valid JSON", error) from error
    if not isinstance(solution, dict):
        raise _Fault("solution", "must be an object of the answer's parts", f"got {type(solution).__name__}")
    try:
        return canonical(TASKS[problem_type].check(solution, options))
    except ValueError as error:
        raise _Fault("solution", *error.args) from error


def _gold(row: dict, problem_type: str, options: tuple[str, ...]) -> str:
    if problem_type in TASKS:
        return _parts(row, problem_type, options)
    solution = _text_field(row, "solution", required=True)
    tagged = _ANSWER_TAG.search(solution)
    boxed = last_box(solution)
    text = tagged[1] if tagged else solution if boxed is None else boxed
    gold = canonical_answer(text, options, problem_type)
    if gold is None:
        is_choice = problem_type == "multiple choice"
        reason = (
            "gold answer is not among the options" if is_choice else f"gold answer cannot be read as {problem_type}"
        )
        raise _Fault("solution", reason, f"got {text!r}")
    return gold


def _clip_path(row: dict, root: str, check_files: bool) -> str:
    relative = _text_field(row, "path", required=True)
    try:
        path = confined(root, relative)
    except Outside as error:
        raise _Fault("path", str(error), f"got {relative!r}") from error
    if check_files and not os.path.isfile(path):
        raise _Fault("path", "no such file under the data root", relative)
    return path


def _bounds(row: dict, data_type: str) -> tuple[float | None, float | None]:
    """Clip bounds in seconds. Text has no use for them; on an image they say that the row was meant otherwise."""
    if data_type == "text":
        return None, None
    bounds = []
    for name in ("start", "end"):
        value = row.get(name)
        if value is not None and data_type == "image":
            raise _Fault(name, "an image has no bounds in time", f"got {value!r}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
        if value is not None and not (is_number and value >= 0):  # NaN fails every comparison
            raise _Fault(name, "must be a number of seconds, 0 or more", f"got {value!r}")
        bounds.append(None if value is None else float(value))
    start, end = bounds
    if end is not None and (start or 0.0) >= end:
        raise _Fault("start", "must lie before end", f"got start {start} and end {end}")
    return start, end


def _transforms(row: dict) -> tuple[str, ...]:
    names = row.get("transforms") or []
    if not isinstance(names, list) or not all(name in NAMEABLE for name in names):
        raise _Fault("transforms", f"must be a list of {', '.join(NAMEABLE)}", f"got {names!r}")
    return tuple(names)


def _question(raw: RawRow, root: str, null_option: str, check_files: bool, task_types: bool) -> Question:
    """One checked row. Raises _Fault at the first thing wrong with it."""
    row, number = raw.value, raw.number
    if raw.fault:
        raise _Fault("row", raw.fault)
    if not isinstance(row, dict):
        raise _Fault("row", "must be a JSON object", f"got {type(row).__name__}")
    problem = _text_field(row, "problem", required=True)
    for field, text in (("problem", problem), ("options", str(row.get("options")))):
        if special := _PLACEHOLDERS.search(text):
            raise _Fault(field, "must not hold a token that stands for vision", f"got {special[0]}")
    data_type = _choice(row, "data_type", DATA_TYPES, required=True)
    problem_type = _text_field(row, "problem_type", required=True).casefold()
    if problem_type not in PROBLEM_TYPES:
        raise _Fault("problem_type", f"must be one of {', '.join(PROBLEM_TYPES)}", f"got {problem_type!r}")
    options, null_letter = _options(row), None
    if problem_type == "multiple choice" and len(options) < 2:
        raise _Fault("options", "multiple choice needs at least two", f"got {len(options)}")
    gold = _gold(row, problem_type, options)
    if problem_type == "multiple choice" and (null_option == "all" or null_option == data_type):
        try:
            options, null_letter = with_null_option(options)
        except ValueError as error:
            raise _Fault("options", "no letter is left for the null option", error) from error
    path = _clip_path(row, root, check_files) if data_type != "text" else None
    start, end = _bounds(row, data_type)
    return Question(
        id=_text_field(row, "problem_id", required=False) or str(number),
        row=number,
        problem=problem,
        data_type=data_type,
        problem_type=problem_type,
        options=options,
        gold=gold,
        path=path,
        task_type=_choice(row, "task_type", TASK_TYPES, required=False) if task_types else None,
        transforms=_transforms(row) if task_types else (),
        start=start,
        end=end,
        data_source=_text_field(row, "data_source", required=False) or "",
        null_letter=null_letter,
        pair_id=_text_field(row, "pair_id", required=False),
        side=_choice(row, "side", ("a", "b"), required=False),
        subtask=_text_field(row, "subtask", required=False),
    )


def load_questions(
    file: str | Path,
    data_root: str | Path,
    *,
    null_option: str = "video",
    check_files: bool = True,
    task_types: bool = True,
) -> tuple[list[Question], list[BadRow]]:
    """Questions of a JSON list or JSONL file in Video-R1's row format, in file order, and the rows that cannot be used.

    `null_option`: append "None of the above" to the multiple choice of "video" rows only (table row 11), of "all" rows,
    or "off" (evaluation, row 12). `check_files=False` leaves clips unseen (the router reads text only).
    `task_types=False` ignores the field (benchmark files use the name for categories of their own).

    Ids are unique, since draws are seeded by them: a row with the `problem_id` of an earlier one is not used.
    Raises ValueError, one line, where the file as a whole cannot be read or holds no row.
    """
    if null_option not in NULL_OPTION_MODES:
        raise ValueError(f"null_option must be one of {', '.join(NULL_OPTION_MODES)}, got {null_option!r}")
    root = os.path.realpath(data_root)
    if check_files and not os.path.isdir(root):
        raise ValueError(f"{data_root}: the data root must be a folder; give the one that `path` is relative to")
    questions, bad, rows = [], [], {}
    for raw in read_rows(file):
        try:
            question = _question(raw, root, null_option, check_files, task_types)
            if (first := rows.setdefault(question.id, raw.number)) != raw.number:
                raise _Fault("problem_id", "is that of an earlier row", f"{question.id!r} of row {first}")
        except _Fault as fault:
            bad.append(BadRow(str(file), raw.number, *fault.args))
            continue
        questions.append(question)
    if not questions and not bad:
        raise ValueError(f"{file}: holds no rows")
    return questions, bad


def report_bad_rows(bad: Sequence[BadRow], limit: int = 20) -> list[str]:
    """Readable lines: how many rows fail for each reason, most frequent first, then the first `limit` rows."""
    if not bad:
        return []
    counts = Counter((row.field, row.reason) for row in bad)
    lines = [f"{count} rows, {field}: {reason}" for (field, reason), count in counts.most_common()]
    lines += [str(row) for row in bad[:limit]]
    if len(bad) > limit:
        lines.append(f"... and {len(bad) - limit} more rows")
    return lines


# ---------------------------------------------------------------------------------------------------------------------
# The order of visits


def questions_fingerprint(questions: Sequence[Question]) -> str:
    """16 hex digits of all that rows say but for the folder of their clips, which may move."""
    digest = hashlib.sha256()
    for question in questions:
        bare = replace(question, path=question.path and os.path.basename(question.path))
        digest.update(f"{bare}\n".encode())
    return digest.hexdigest()[:16]


class NoQuestionLeft(ValueError):
    """Every question of the file turned out to be unusable."""


class QuestionCursor:
    """Endless pass over the questions, shuffled anew each epoch by (seed, epoch), with exact resume.

    The order depends on seed, epoch and the list alone, so every rank that builds one draws the same questions. A
    quarantined question (its clip turned out to be damaged) keeps its place in the order and is passed over, so that
    the others' order does not change.
    """

    def __init__(self, questions: Sequence[Question], seed: int):
        if not questions:
            raise ValueError("there is no question to draw; see the report of unusable rows")
        self.questions = tuple(questions)
        self.seed = seed
        self.epoch = 0
        self.position = 0
        """Places of this epoch's order already drawn or passed over."""
        self.quarantined: dict[str, str] = {}
        """Question id -> reason."""
        self._fingerprint = questions_fingerprint(self.questions)
        self._ids = frozenset(question.id for question in self.questions)
        self._order = self._shuffled(0)

    def __len__(self) -> int:
        """Questions in one epoch, the quarantined ones left out."""
        return len(self.questions) - len(self.quarantined)

    def _shuffled(self, epoch: int) -> list[int]:
        order = list(range(len(self.questions)))
        random.Random(f"order of {self.seed}/{epoch}").shuffle(order)  # text seeds do not depend on the process
        return order

    def quarantine(self, question_id: str, reason: str = "") -> None:
        """Never draw this question again. Raises ValueError for an id that is not in the list."""
        if question_id not in self._ids:
            raise ValueError(f"cannot quarantine {question_id!r}: no question has this id")
        self.quarantined[question_id] = reason

    def take(self, n: int) -> list[tuple[int, Question]]:
        """The next `n` visits as (epoch, question); runs on into the next epoch where one ends.

        Raises NoQuestionLeft if every question is quarantined.
        """
        if not len(self):
            raise NoQuestionLeft(
                f"all {len(self.questions)} questions are quarantined, the last for: "
                f"{list(self.quarantined.values())[-1] or 'no reason given'}; bad_rows.txt holds each reason"
            )
        taken = []
        while len(taken) < n:
            if self.position == len(self._order):
                self.epoch, self.position = self.epoch + 1, 0
                self._order = self._shuffled(self.epoch)
            question = self.questions[self._order[self.position]]
            self.position += 1
            if question.id not in self.quarantined:
                taken.append((self.epoch, question))
        return taken

    def peek(self, n: int) -> list[tuple[int, Question]]:
        """What `take(n)` would return, if nothing is quarantined before; takes nothing."""
        place = self.epoch, self.position, self._order
        visits = self.take(n)
        self.epoch, self.position, self._order = place
        return visits

    def state_dict(self) -> dict:
        """All that a resume needs, JSON-able."""
        return {
            "seed": self.seed,
            "questions": self._fingerprint,
            "epoch": self.epoch,
            "position": self.position,
            "quarantined": dict(self.quarantined),
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state_dict` was taken. Raises ValueError if seed or questions differ from those then."""
        for name, mine, change in (
            ("seed", self.seed, "resume with the --seed of the run"),
            ("questions", self._fingerprint, "resume with the training file of the run, unchanged"),
        ):
            if state[name] != mine:
                raise ValueError(f"cannot resume: {name} was {state[name]} and is now {mine}; {change}")
        self.epoch, self.position = state["epoch"], state["position"]
        self.quarantined = dict(state["quarantined"])
        self._order = self._shuffled(self.epoch)
