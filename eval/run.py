"""Greedy answers to evaluation questions through the training run's own engine, and their paired report.

No null option and no sampling: what the benchmark asks is what the model reads (paper App. B.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import torch.distributed as dist
from tqdm import tqdm

from data.video import ClipError
from episode import Prompt, Question
from eval.scoring import SIDES, paired_report
from parallel import gather_objects, is_main
from pictures import table
from rollout import Engine, Request, Sampling
from verifiers import verify

CHUNK = 64  # prompts decoded and sent at a time: bounds memory, and moves the progress bar


def answer(
    engine: Engine,
    questions: Sequence[Question],
    build: Callable[[Question], Prompt],
    *,
    max_tokens: int,
    tensor_parallel: int,
) -> list[dict]:
    """Greedy answers as rows (id, pair_id, side, subtask, correct, answer, prediction), in the order of `questions`.

    Questions are dealt to the engines; all ranks take part and all get every row. `build` decodes and renders one.
    """
    engines = dist.get_world_size() // tensor_parallel
    mine = list(range(len(questions)))[dist.get_rank() // tensor_parallel :: engines]
    sampling = Sampling(n=1, temperature=0.0, max_tokens=max_tokens)
    rows: dict[int, dict] = {}
    with tqdm(total=len(mine), desc="evaluate", leave=False, disable=None if is_main() else True) as bar:
        for at in range(0, len(mine), CHUNK):
            chunk = mine[at : at + CHUNK]
            prompts = {}
            for i in chunk:
                try:
                    prompts[i] = build(questions[i])
                except ClipError as error:  # a clip that cannot be seen is a question that is not answered
                    print(f"evaluation row {questions[i].row}: {error}", flush=True)
                    rows[i] = _row(questions[i], "")
            outputs = engine.generate([Request(prompt, sampling, seed=0) for prompt in prompts.values()])
            for i, output in zip(prompts, outputs, strict=True):
                rows[i] = _row(questions[i], output.rollouts[0].text)
            bar.update(len(chunk))
    merged = {i: row for part in gather_objects(rows) for i, row in part.items()}
    return [merged[i] for i in range(len(questions))]


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
    sides = Counter(question.pair_id for question in questions)
    if lonely := [pair for pair, count in sides.items() if count != len(SIDES)]:
        raise ValueError(f"{file}: a pair has two sides; {lonely[0]!r} has {sides[lonely[0]]}")


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
        "correct": facts.score > 0,
        "answer": facts.answer,
        "prediction": text,
    }
