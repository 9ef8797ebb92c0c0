"""The worlds of the study on disk, and what a condition does to their training rows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.parts import write_whole
from episode import TASK_TYPES
from toy import world
from toy.study_cells import EVAL_SEED, PAIRS, Cell, Rows
from transforms import SEGMENT_SWAP, TASK_TRANSFORMS

APP_C = {("Spatiotemporal", "Temporal"): 8, ("Static", "Temporal"): 3, ("Static", "Spatial"): 1}
"""(Right, router's) -> of 200 audited rows (App. C); the last is a question of counting."""


def prepare_files(cell: Cell, worlds: Path) -> list[str]:
    """Flags for the training rows and evaluation pairs of a cell, which are written where they are missing."""
    asked = cell.condition.world
    harder = {"difficulty": asked.difficulty, "events": asked.events}
    train_world = dict(seed=cell.seed, bias=asked.bias, train=asked.clips, pairs=0, **harder)
    eval_world = dict(seed=EVAL_SEED, train=0, pairs=PAIRS, subtasks=tuple(world.STUDY_SUBTASKS), **harder)
    folders = []
    worlds.mkdir(parents=True, exist_ok=True)
    for wanted in (train_world, eval_world):
        folders.append(worlds / _digest([wanted, Path(world.__file__).read_text()]))
        world.write_once(folders[-1], **wanted)
    count, how = world_rows(cell), cell.condition.rows
    file = folders[0] / f"train_{count}_{_digest(dataclasses.asdict(how))}.jsonl"
    rows = [json.loads(line) for line in (folders[0] / "train.jsonl").read_text().splitlines()]
    rows = varied(rows, how, cell.seed)[:count]
    if len(rows) < count:
        raise ValueError(f"{cell.name} needs {count} training rows, its world gives {len(rows)}: ask for more clips")
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
    return ["--train-file", str(file), "--eval-file", str(folders[1] / "eval.jsonl")]


def world_rows(cell: Cell) -> int:
    """Rows of one epoch: every run visits each once, or --repeat-data times."""
    run = cell.run
    return run["max_steps"] * run["questions"] // run["repeat_data"]


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def varied(rows: Sequence[dict], how: Rows, seed: int) -> list[dict]:
    """Training rows with some of their task types, transforms or kinds of question changed."""
    rng = np.random.default_rng([seed, 200])
    rows = [dict(row) for row in rows if how.static or row["task_type"] != "Static"]
    if how.swap:
        for row in rows:
            if row["question"] == "order":
                row["transforms"] = [*TASK_TRANSFORMS["Temporal"], SEGMENT_SWAP]
    if how.wrong_types:
        for at in rng.choice(len(rows), round(how.wrong_types * len(rows)), replace=False):
            rows[at]["task_type"] = str(rng.choice([kind for kind in TASK_TYPES if kind != rows[at]["task_type"]]))
    if how.confusions:
        right = [row["task_type"] for row in rows]
        for (true, said), of_200 in APP_C.items():
            counted = (true, said) == ("Static", "Spatial")
            pool = [i for i, row in enumerate(rows) if right[i] == true and counted == (row["question"] == "count")]
            for at in rng.choice(pool, round(of_200 * len(rows) / 200), replace=False):
                rows[at]["task_type"] = said
    return rows
