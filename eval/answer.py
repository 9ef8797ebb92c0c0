"""Completions of questions through an engine, data parallel; greedy answers of an evaluation and their paired report.

An evaluation has no null option and no sampling: what the benchmark asks is what the model reads (paper App. B.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch.distributed as dist
from tqdm import tqdm

from data.video import ClipError
from episode import Prompt, Question, Rollout
from eval.scoring import SIDES, paired_report
from parallel import gather_objects, is_main
from pictures import table
from rollout import Engine, Request, Sampling
from verifiers import verify

CHUNK = 64  # prompts decoded and sent at a time: bounds memory, and moves the progress bar


T = TypeVar("T")


@dataclass(frozen=True)
class Answered(Generic[T]):
    """A question (or whatever stands for one) and what the engine said to it."""

    question: T
    rollouts: list[Rollout] = field(default_factory=list)
    """Empty where the question could not be asked."""
    error: str = ""
    """Why it could not be asked."""


def share(questions: Sequence[T], tensor_parallel: int) -> Sequence[T]:
    """The questions of this rank's engine: they are dealt to the engines in turn."""
    return questions[dist.get_rank() // tensor_parallel :: dist.get_world_size() // tensor_parallel]


def in_chunks(
    engine: Engine,
    questions: Sequence[T],
    build: Callable[[T], Prompt],
    request: Callable[[T, Prompt], Request],
    *,
    title: str,
    chunk: int = CHUNK,
    ahead: Callable[[Sequence[T]], None] = lambda _: None,
) -> Iterator[list[Answered[T]]]:
    """This engine's questions answered, `chunk` at a time and in order, under a progress bar.

    `build` decodes and renders one; a ClipError from it makes the question one that cannot be asked. `ahead` is told
    which questions come next, so that their clips can be read meanwhile: behind each other while a chunk is built, and
    the next chunk's while the engine generates. Ranks that share an engine take part with the same questions.
    """
    with _bar(title, len(questions)) as bar:
        for at in range(0, len(questions), chunk):
            asked, refused = {}, {}
            for i, question in enumerate(questions[at : at + chunk], start=at):
                ahead(questions[i : i + chunk])  # told again: it may hold fewer clips than a chunk has
                try:
                    asked[i] = request(question, build(question))
                except ClipError as error:
                    refused[i] = Answered(question, error=str(error))
            ahead(questions[at + chunk : at + 2 * chunk])
            outputs = engine.generate(list(asked.values())) if asked else []
            answered = {
                i: Answered(questions[i], out.rollouts, out.error) for i, out in zip(asked, outputs, strict=True)
            } | refused
            yield [answered[i] for i in sorted(answered)]
            bar.update(len(answered))


def as_they_come(
    engine: Engine,
    questions: Sequence[T],
    build: Callable[[T], Prompt],
    request: Callable[[T, Prompt], Request],
    *,
    title: str,
    at_once: int,
    ahead: Callable[[Sequence[T]], None] = lambda _: None,
) -> Iterator[list[Answered[T]]]:
    """The same for an engine whose `generate` waits for each request (an endpoint) and may be called from threads:
    `at_once` requests under way, each answer yielded once it is there, in whatever order."""
    pool, asked = ThreadPoolExecutor(at_once, "ask"), {}
    try:
        with _bar(title, len(questions)) as bar:
            for at, question in enumerate(questions):
                ahead(questions[at : at + at_once])
                try:
                    asked[pool.submit(engine.generate, [request(question, build(question))])] = question
                    answered = _answered(asked) if len(asked) >= at_once else []
                except ClipError as error:
                    answered = [Answered(question, error=str(error))]
                yield answered
                bar.update(len(answered))
            while asked:
                answered = _answered(asked)
                yield answered
                bar.update(len(answered))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answered(asked: dict[Future, T]) -> list[Answered[T]]:
    """Those of the requests under way that are answered, at least one; they are taken out."""
    done, _ = wait(asked, return_when=FIRST_COMPLETED)
    return [Answered(asked.pop(one), out.rollouts, out.error) for one in done for out in one.result()]


def _bar(title: str, total: int) -> tqdm:
    return tqdm(total=total, desc=title, leave=False, disable=None if is_main() else True)


def answer(
    engine: Engine,
    questions: Sequence[Question],
    build: Callable[[Question], Prompt],
    *,
    max_tokens: int,
    tensor_parallel: int,
) -> list[dict]:
    """Greedy answers as rows (id, pair_id, side, subtask, correct, answer, prediction), in the order of `questions`.

    All ranks take part and all get every row. A clip that cannot be seen is a question that is not answered.
    """
    sampling = Sampling(n=1, temperature=0.0, max_tokens=max_tokens)
    rows: dict[str, dict] = {}
    mine = share(questions, tensor_parallel)
    for chunk in in_chunks(engine, mine, build, lambda _, prompt: Request(prompt, sampling, seed=0), title="evaluate"):
        for done in chunk:
            if done.error:
                print(f"evaluation row {done.question.row}: {done.error}", flush=True)
            text = done.rollouts[0].text if done.rollouts else ""
            rows[done.question.id] = _row(done.question, text)
    merged = {name: row for part in gather_objects(rows) for name, row in part.items()}
    return [merged[question.id] for question in questions]


def evaluate(*args, **kwargs) -> dict:
    """`answer`, scored: accuracy and pair accuracy, over dynamic and static subtasks and per subtask, in percent."""
    return paired_report(answer(*args, **kwargs))


def check_pairs(file: str, questions: Sequence[Question]) -> None:
    """Every question must be a side of a complete pair; ValueError with one line that names file and row."""
    for question in questions:
        if not (question.pair_id and question.side in SIDES and question.subtask) or "/" in question.subtask:
            raise ValueError(
                f"{file}:{question.row} a paired evaluation row needs pair_id, side (a or b) and subtask (no slash); "
                f"got {question.pair_id!r}, {question.side!r}, {question.subtask!r}"
            )
    pairs: dict[str, list[Question]] = {}
    for question in questions:
        pairs.setdefault(question.pair_id, []).append(question)
    for pair, members in pairs.items():
        if sorted(question.side for question in members) != sorted(SIDES):
            found = ", ".join(f"{question.side} in row {question.row}" for question in members)
            raise ValueError(f"{file}: pair {pair!r} must have one side a and one side b; it has {found}")
        if len({question.subtask for question in members}) > 1:
            found = ", ".join(f"{question.subtask!r} in row {question.row}" for question in members)
            raise ValueError(f"{file}: both sides of pair {pair!r} must name one subtask; it has {found}")


def report_metrics(report: dict | None) -> dict[str, float]:
    """The report under the names of metrics.METRICS; nothing without a report."""
    if report is None:
        return {}
    parts = {"eval": report, "eval/static": report["static"]}
    parts |= {f"eval/{name}": part for name, part in report["subtasks"].items()}
    return {f"{prefix}/{key}": part[key] for prefix, part in parts.items() for key in ("acc", "pair_acc") if part["n"]}


def one_line(report: dict | None) -> str:
    if report is None:
        return "no --eval-file"
    parts = {"dynamic": report, "static": report["static"]}
    return "  ".join(
        f"{name} acc {part['acc']:.1f} pair acc {part['pair_acc']:.1f}" for name, part in parts.items() if part["n"]
    )


def before_after(reports: dict[str, dict]) -> str:
    """Reports side by side: accuracy and pair accuracy over the dynamic subtasks, pair accuracy of each subtask."""
    rows = [
        {"": label, "acc": report["acc"], "pair acc": report["pair_acc"]}
        | {name: part["pair_acc"] for name, part in report["subtasks"].items()}
        for label, report in reports.items()
    ]
    return table(rows, list(rows[0]))


def _row(question: Question, text: str) -> dict:
    facts = verify(text, question)
    return {
        "id": question.id,
        "pair_id": question.pair_id,
        "side": question.side,
        "subtask": question.subtask,
        "correct": facts.right,
        "answer": facts.answer,
        "prediction": text,
    }
