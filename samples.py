"""What a person reads of a round: one question with both branches, every answer and every reward term."""

from __future__ import annotations

import json
import math
import os

import torch

from episode import Group, View
from metrics import MetricLog
from parallel import gather_objects
from pictures import branch_sheet
from plan import Planned

TAIL_BYTES = 16 << 20  # longer than any line


def collect(plan: list[Planned], groups: dict[int, Group], at: int) -> tuple[list[int], dict]:
    """All groups of the question that group `at` of the plan belongs to -> (their indices, one JSON-able record).

    All ranks take part: the branches may lie on two.
    """
    question = plan[at].question
    indices = [i for i, item in enumerate(plan) if (item.epoch, item.question.id) == (plan[at].epoch, question.id)]
    parts = gather_objects({i: _branch(plan[i], groups[i]) for i in indices if i in groups})
    merged = {i: record for part in parts for i, record in part.items()}
    return indices, {
        "id": question.id,
        "problem": question.problem,
        "options": question.options,
        "gold": question.gold,
        "task_type": question.task_type,
        "branches": [merged[i] for i in indices],
    }


def truncate_after(run_dir: str, step: int) -> None:
    """Drop the lines of rounds after `step`: a resumed run writes them anew."""
    path = os.path.join(run_dir, "samples.jsonl")
    if os.path.exists(path):
        with open(path, "rb") as file:
            kept = [line for line in file if line.endswith(b"\n") and _round(line) <= step]
        with open(f"{path}.part", "wb") as file:
            file.writelines(kept)
        os.replace(f"{path}.part", path)  # a crash or a full disk leaves the old file or the new one


def _round(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf  # a damaged disk's line is dropped


def write(run_dir: str, step: int, record: dict, views: list[View], log: MetricLog) -> None:
    """One line of samples.jsonl, and in TensorBoard the text and a filmstrip of each branch."""
    with log.going_on(), open(os.path.join(run_dir, "samples.jsonl"), "ab+") as file:
        file.seek(max(0, file.tell() - TAIL_BYTES))
        tail = file.read()
        file.truncate(file.tell() - len(tail) + tail.rfind(b"\n") + 1)  # what a full disk left of a line
        file.write(json.dumps({"step": step, **record}).encode() + b"\n")
    lines = [record["problem"], *record["options"], f"gold {record['gold']}, task type {record['task_type']}"]
    for branch in record["branches"]:
        lines.append(f"-- {branch['transform']}")
        for rollout in branch["rollouts"]:
            numbers = "  ".join(f"{name} {value:+.2f}" for name, value in rollout["rewards"].items())
            lines.append(f"{rollout['answer']}  {numbers}  {rollout['text']!r}")
    log.text("samples", "\n".join(lines), step)
    if views:
        second = views[1] if len(views) > 1 else None
        sheet = branch_sheet(
            views[0].frames, second and second.frames, lines, transform=second.transform if second else ""
        )
        log.image("samples", torch.as_tensor(sheet), step)


def _branch(item: Planned, group: Group) -> dict:
    named = {"reward": group.rewards, "advantage": group.advantages, **group.terms}
    paid = {name: values for name, values in named.items() if values is not None}
    return {
        "branch": item.branch,
        "transform": item.transform,
        "rollouts": [
            {
                "answer": group.answers[g],
                "text": rollout.text,
                "rewards": {name: round(values[g].item(), 4) for name, values in paid.items()},
            }
            for g, rollout in enumerate(group.rollouts)
        ],
    }
