"""Run folders as the report reads them: answers of evaluation runs, metrics of training runs, both checked.

    RUN/settings.json, RUN/<benchmark>[.<setting>]/predictions.jsonl and result.json    written by eval.run
    RUN/config.json, RUN/metrics.jsonl                                                   written by train.py

What cannot be read is a ValueError of one line with file and line number; nothing is left out in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from data.rows import read_rows
from episode import TASK_TYPES
from eval.scoring import UNIT_SIZE, unit_of
from metrics import read_metrics

Part = tuple[str, str]
"""(benchmark, what was shown): what one folder of predictions answers."""

FULL_VIDEO = "identity"
COMPARED = (
    "engine", "dtype", "temperature", "seed", "frames", "max_pixels", "min_frame_pixels", "max_frame_pixels",
    "system_prompt", "answer_request", "max_prompt_tokens", "max_completion_tokens", "body", "clue_driven",
    "clue_margin",
)  # fmt: skip
"""Settings of eval.run that answers depend on, besides the model and where it is served."""


@dataclass(frozen=True)
class Answer:
    """One line of predictions.jsonl."""

    id: str
    problem: str
    options: tuple[str, ...]
    gold: str
    path: str | None
    """Relative to the run's data root."""
    start: float | None
    end: float | None
    pair_id: str | None
    side: str | None
    subtask: str | None
    facts: Mapping[str, str]
    """What accuracy is broken down by."""
    reply: str
    """As the model wrote it."""
    answer: str | None
    """Canonical; None where the scorer could read none."""
    correct: bool
    scores: Mapping[str, float]
    """Term -> 0..1, of a benchmark whose answers are right in part."""
    finish: str
    error: str
    """Why the question was not asked; empty where it was."""


_NUMBER = float | int | None
_FIELDS: dict[str, tuple[type | UnionType, Any]] = {
    "id": (str, None), "problem": (str, None), "options": (list | None, None), "correct": (bool, None),
    "reply": (str | None, None), "answer": (str | None, None),
    "gold": (str, ""), "path": (str | None, None), "start": (_NUMBER, None), "end": (_NUMBER, None),
    "pair_id": (str | None, None), "side": (str | None, None), "subtask": (str | None, None), "facts": (dict, {}),
    "scores": (dict, {}),
    "finish": (str, ""), "error": (str, ""),
}  # fmt: skip
_REQUIRED = ("id", "problem", "options", "correct", "reply", "answer")


@dataclass(frozen=True)
class Run:
    """One folder named on the command line; evaluation, training or both."""

    label: str
    folder: Path
    data_root: Path | None = None
    """Folder of the clips; None where settings.json names none."""
    model: str = ""
    """Folder of the checkpoint evaluated."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Those of COMPARED that settings.json holds."""
    answers: Mapping[Part, Sequence[Answer]] = field(default_factory=dict)
    notices: Sequence[str] = ()
    """What a reader of its numbers has to know."""
    metrics: Sequence[Mapping[str, float]] | None = None
    """Rows of metrics.jsonl; None where it is no training run."""


def read_runs(arguments: Sequence[str]) -> list[Run]:
    """The runs of `[LABEL=]FOLDER` arguments, in order.

    An evaluation whose model lies inside a training run's folder belongs to that run: both go under the evaluation's
    label. ValueError, one line, for a folder that is neither kind of run, and where two runs of a kind share a label.
    """
    if not arguments:
        raise ValueError("name at least one RUN: a folder of eval.run or train.py")
    runs = [read_run(argument) for argument in arguments]
    named = {_folder(argument)[0] for argument in arguments}
    runs = [run if run.label in named else _with_the_label_of_its_evaluation(run, runs) for run in runs]
    for kind in (evaluations, trainings):
        folders: dict[str, Path] = {}
        for run in kind(runs):
            if folders.setdefault(run.label, run.folder) != run.folder:
                raise ValueError(
                    f"{folders[run.label]} and {run.folder} are both called {run.label!r}: name one NEW={run.folder}"
                )
    return runs


def evaluations(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.answers]


def trainings(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.metrics is not None]


def read_run(argument: str) -> Run:
    """One run; ValueError, one line, where the folder is none, or a file in it is not as it must be."""
    label, folder = _folder(argument)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a run folder of eval.run or train.py")
    answers, notices = {}, []
    for part_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        predictions, result = part_folder / "predictions.jsonl", part_folder / "result.json"
        if any(part_folder.glob("predictions.jsonl.part-*")):
            notices.append(f"{part_folder}: answers of a stopped run are not merged and not shown; start it again")
        if not predictions.exists() and not result.exists():
            continue
        if not predictions.exists():
            raise ValueError(
                f"{part_folder}: holds result.json but no predictions.jsonl; answer it again with eval.run"
            )
        benchmark, _, setting = part_folder.name.partition(".")
        found = answers[benchmark, setting or FULL_VIDEO] = read_answers(predictions)
        notices += _remarks(part_folder, found, _object(result) if result.exists() else None)
    evaluated, trained = (folder / "settings.json").exists(), (folder / "metrics.jsonl").exists()
    if not answers and not trained:
        if evaluated:
            raise ValueError(f"{folder}: an evaluation run without predictions; run eval.run to its end first")
        raise ValueError(
            f"{folder}: neither an evaluation run (BENCHMARK/predictions.jsonl) nor a training run (metrics.jsonl)"
        )
    settings = _object(folder / "settings.json") if evaluated else {}
    root = settings.get("data_root")
    return Run(
        label=label or str(settings.get("label") or folder.resolve().name),
        folder=folder,
        data_root=Path(root) if isinstance(root, str) and root else None,
        model=str(settings.get("model") or ""),
        settings={name: str(settings[name]) for name in COMPARED if name in settings},
        answers=answers,
        notices=notices,
        metrics=read_metrics(folder / "metrics.jsonl") if trained else None,
    )


def read_routed(argument: str) -> tuple[str, dict[str, str | None]]:
    """(benchmark, question id -> the router's type or None) of `NAME=FILE`; ValueError, one line, where it is none."""
    name, equals, file = argument.partition("=")
    if not equals:
        raise ValueError(f"--routed {argument}: must be NAME=FILE, such as mvbench=routed.jsonl")
    types: dict[str, str | None] = {}
    for row in read_rows(Path(file)):
        place, value = f"{file}:{row.number}", row.value
        if row.fault or not isinstance(value, dict):
            raise ValueError(f"{place} {row.fault or 'must be an object'}; give rows that router.py has written")
        own, kind = value.get("id", value.get("problem_id")), value.get("task_type")
        if not isinstance(own, str | int) or str(own) in types:
            raise ValueError(f"{place} must have an id or problem_id of its own, got {str(own)[:80]!r}")
        if kind is not None and kind not in TASK_TYPES:
            raise ValueError(f"{place} task_type must be one of {', '.join(TASK_TYPES)}, got {str(kind)[:80]!r}")
        types[str(own)] = kind
    return name, types


def settings_of(runs: Sequence[Run]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Setting -> label -> value ("not recorded" where settings.json has none), and a line for each that differs."""
    found = {
        name: {run.label: run.settings.get(name, "not recorded") for run in runs}
        for name in COMPARED
        if any(name in run.settings for run in runs)
    }
    said = []
    for name, values in found.items():
        if len(set(values.values())) > 1:
            told = ", ".join(f"{label} {value[:80] or '(empty)'}" for label, value in values.items())
            said.append(f"{name} differs ({told}): what lies between these runs is not the models alone")
    return found, said


def read_answers(file: Path) -> list[Answer]:
    """The lines of a predictions.jsonl; ValueError with the line number where one is not as it must be, or none is."""
    answers: dict[str, Answer] = {}
    for row in read_rows(file):
        place = f"{file}:{row.number}"
        if row.fault or not isinstance(row.value, dict):
            raise ValueError(f"{place} {row.fault or 'is not a JSON object'}; a stopped run must be finished first")
        answer = _answer(place, row.value)
        if answer.id in answers:
            raise ValueError(f"{place} id {answer.id!r} is given twice; keep one of the lines")
        answers[answer.id] = answer
    if not answers:
        raise ValueError(f"{file}: holds no prediction; answer the benchmark again with eval.run")
    return list(answers.values())


def _remarks(part: Path, answers: Sequence[Answer], result: Mapping[str, Any] | None) -> list[str]:
    said = []
    unanswered = sum(bool(answer.error) for answer in answers)
    if unanswered:
        said.append(f"{part}: {unanswered:,} of {len(answers):,} questions were not answered, and count as wrong")
    if result is None:
        return [*said, f"{part}: no result.json, its evaluation did not come to its end"]
    if isinstance(result.get("n"), int) and result["n"] != len(answers):
        said.append(f"{part}: result.json is of {result['n']:,} items, predictions.jsonl of {len(answers):,}")
    remarks = result.get("remarks") or []
    return said + [f"{part}: {remark}" for remark in remarks if isinstance(remark, str)]


def units(benchmark: str, answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """Unit -> its answers, in the order of the file."""
    found: dict[str, list[Answer]] = {}
    for answer in answers:
        found.setdefault(unit_of(benchmark, answer), []).append(answer)
    return found


def common_units(runs: Sequence[Run], part: Part) -> tuple[dict[str, dict[str, list[Answer]]], list[str]]:
    """Units that every run with this part answered alike: label -> unit -> answers, and what to say about the others.

    ValueError where the runs share no unit, or were asked different questions under one id.
    """
    benchmark, setting = part
    name = benchmark if setting == FULL_VIDEO else f"{benchmark}.{setting}"
    by_run = {run.label: units(benchmark, run.answers[part]) for run in runs if part in run.answers}
    if not by_run:
        return {}, []
    first, *others = by_run
    for other in others:
        _same_questions(name, (first, by_run[first]), (other, by_run[other]))
    ids = [{unit: {answer.id for answer in rows} for unit, rows in found.items()} for found in by_run.values()]
    shared = {unit for unit, members in ids[0].items() if all(other.get(unit) == members for other in ids[1:])}
    counts = {label: sum(map(len, found.values())) for label, found in by_run.items()}
    said = ", ".join(f"{label} {count:,}" for label, count in counts.items())
    if not shared:
        raise ValueError(f"{name}: the runs have no question in common ({said}); compare runs of one question file")
    order = [unit for unit in ids[0] if unit in shared]  # the file's: the bootstrap of result.json depends on it
    common = {
        label: {unit: sorted(found[unit], key=lambda row: row.id) for unit in order} for label, found in by_run.items()
    }
    kept = sum(map(len, common[first].values()))
    notices = []
    if any(count != kept for count in counts.values()):
        notices.append(f"{name}: compared on the {kept:,} items that all runs answered; answered were {said}")
    size = UNIT_SIZE.get(benchmark, 1)
    torn = sum(len(rows) != size for rows in common[first].values())
    if torn:
        notices.append(f"{name}: {torn:,} of {len(shared):,} units are not of {size} answers: what they lack is wrong")
    return common, notices


def _same_questions(name: str, one: tuple[str, dict], other: tuple[str, dict]) -> None:
    asked = [{row.id: row for rows in found.values() for row in rows} for _, found in (one, other)]
    for row_id in asked[0].keys() & asked[1].keys():
        for what in ("problem", "options", "gold"):
            values = [getattr(rows[row_id], what) for rows in asked]
            if values[0] != values[1]:
                raise ValueError(
                    f"{name}: {one[0]} and {other[0]} were asked different questions under id {row_id!r}: {what} is "
                    f"{str(values[0])[:80]!r} and {str(values[1])[:80]!r}; compare runs of one question file"
                )


def _folder(argument: str) -> tuple[str, Path]:
    """(label, folder) of `[LABEL=]FOLDER`; a folder with = in its name is a folder."""
    label, equals, folder = argument.partition("=")
    return (label, Path(folder)) if equals and not Path(argument).exists() else ("", Path(argument))


def _with_the_label_of_its_evaluation(run: Run, runs: Sequence[Run]) -> Run:
    if run.metrics is not None and not run.answers:
        for other in runs:
            if other.model and Path(other.model).resolve().is_relative_to(run.folder.resolve()):
                return Run(other.label, run.folder, metrics=run.metrics)
    return run


def _answer(place: str, row: Mapping[str, Any]) -> Answer:
    values = {}
    for name, (kind, default) in _FIELDS.items():
        if name in _REQUIRED and name not in row:
            raise ValueError(f"{place} has no {name!r}: is it a line of eval.run's predictions.jsonl?")
        value = row.get(name, default)
        if not isinstance(value, kind):
            wanted = getattr(kind, "__name__", str(kind))
            raise ValueError(f"{place} {name!r} must be of type {wanted}, got {str(value)[:80]!r}")
        values[name] = value
    values["options"] = tuple(map(str, values["options"] or ()))
    values["facts"] = {str(key): str(value) for key, value in values["facts"].items() if value is not None}
    values["reply"] = values["reply"] or ""
    return Answer(**values)


def _object(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: must hold a JSON object, got a {type(value).__name__}")
    return value
