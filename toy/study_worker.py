"""One process of the study: runs cells through train.py, one after another, on one engine and one set of decoders.

A cell that fails ends the process; the traceback stands in its log, and `toy/study.py` starts another.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import transformers

import config as settings
import parallel
import train
from data.parts import write_whole
from data.reader import Reader
from episode import Question
from eval.answer import answer, in_chunks
from eval.scoring import is_static, paired_report
from eval.shown import SHORTCUTS as SHOWN
from eval.shown import show
from metrics import read_metrics
from model import load_processor
from rollout import Request, Sampling
from toy.study_cells import RUN, SAMPLES, SHORTCUTS, Cell
from toy.study_rows import prepare_files
from transforms import IDENTITY
from verifiers import verify

KEPT = ("data/rollouts_seen", "reward/", "group/", "relation/", "advantage/", "rollout/unreadable", "rollout/null_",
        "policy/entropy", "policy/kl", "policy/engine_gap", "guard/skipped", "eval/")  # fmt: skip
"""Beginnings of the names of metrics.jsonl that a result keeps, round by round."""


def serve(connection: Connection, folder: Path, log: Path) -> None:
    """Run each cell that arrives until None does; its result is a file in `folder` when "done" goes back."""
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(words, 1)
    os.dup2(words, 2)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    device, live = parallel.start(timeout_minutes=60), None
    try:
        for cell in iter(connection.recv, None):
            print(f"== {cell.file}", flush=True)
            live = run(cell, folder, device, live)
            connection.send("done")
    finally:
        if sys.exc_info()[0]:  # threads of the engine and the decoders would keep a process that only raises
            parallel.die_at_once(*sys.exc_info())
    if live:
        live.clips.close()
    os._exit(0)  # vLLM's teardown would wait for what is gone


def run(cell: Cell, folder: Path, device: torch.device, live: train.Live | None) -> train.Live:
    """Train and ask; writes `folder`/`cell.file`. `live`: what the cell before left."""
    began, spent = time.monotonic(), time.process_time()
    files = prepare_files(cell, folder / "worlds")
    with tempfile.TemporaryDirectory(dir=folder, prefix=RUN) as run_dir:
        flags = [*cell.flags, *files, "--run-dir", run_dir, "--cache-dir", str(folder / "decoded")]
        config = settings.parse([*flags, "--decode-workers", "1"])
        inputs = train.prepare(config, 1)
        live = train.train(config, inputs, device, live)
        rounds = read_metrics(Path(run_dir, "metrics.jsonl"))
        summary = json.loads(Path(run_dir, "summary.json").read_text())
    result = {"name": cell.name, "seed": cell.seed, "id": cell.id, "settings": cell.settings}
    result |= {"report": summary["after"], "rollouts": summary["rollouts_seen"], "curves": columns(rounds)}
    reader = Reader(load_processor(inputs.folder), config, live.clips)
    live.engine.wake("weights")
    live.engine.wake("kv_cache")
    for name, measure in ((SHORTCUTS, shortcuts), (SAMPLES, sampled)):
        if name in cell.condition.measures:
            result[name] = measure(live, inputs.eval_questions, reader, config)
    live.engine.sleep()
    result |= {"seconds": round(time.monotonic() - began), "cpu_seconds": round(time.process_time() - spent)}
    write_whole(folder / cell.file, json.dumps(result))
    return live


# -- what is asked after training --------------------------------------------------------------------------------------


def columns(rounds: Sequence[dict]) -> dict[str, list[float | None]]:
    """Metric -> its value at each row of metrics.jsonl (None: it has none), to six digits."""
    names = sorted({name for row in rounds for name in row if name.startswith(KEPT)})
    kept = {"step": [row["step"] for row in rounds]}
    for name in names:
        values = [row.get(name, math.nan) for row in rounds]
        kept[name] = [None if math.isnan(value) else float(f"{value:.6g}") for value in values]
    return kept


Measure = Callable[[train.Live, Sequence[Question], Reader, settings.Config], dict]


def shortcuts(live: train.Live, questions: Sequence[Question], reader: Reader, config: settings.Config) -> dict:
    """Setting of App. A.4 -> report of the greedy answers under it. What is shown is the same for every cell."""

    def asked(setting: str) -> dict:
        def prompt(question: Question):
            return reader.prompt(question, show(setting, reader.clips.view(question), question, 0).view)

        return paired_report(
            answer(live.engine, questions, prompt, max_tokens=config.max_completion_tokens, tensor_parallel=1)
        )

    return {setting: asked(setting) for setting in SHOWN if setting != IDENTITY}


def sampled(live: train.Live, questions: Sequence[Question], reader: Reader, config: settings.Config) -> dict:
    """Side of the dynamic pairs -> what G samples at the training temperature do: share right and unreadable, and
    agreement, the chance that two of them give the same readable answer. Side a is a clip as drawn, b its transform."""
    how = Sampling(config.rollouts, config.temperature, config.max_completion_tokens)
    dynamic = [(at, question) for at, question in enumerate(questions) if not is_static(question.subtask)]
    found: dict[str, list[tuple[float, float, float]]] = {"a": [], "b": []}
    chunks = in_chunks(
        live.engine,
        dynamic,
        lambda one: reader.prompt(one[1], reader.clips.view(one[1])),
        lambda one, prompt: Request(prompt, how, seed=one[0]),
        title="sample",
    )
    for done in (done for chunk in chunks for done in chunk):
        question, n = done.question[1], how.n
        said = Counter(verify(rollout.text, question).answer for rollout in done.rollouts)
        unreadable = said.pop(None, 0)
        alike = sum(count * (count - 1) for count in said.values()) / (n * (n - 1))
        found[question.side].append((said[question.gold] / n, unreadable / n, alike))
    names = ("right", "unreadable", "agreement")
    return {side: dict(zip(names, np.mean(values, axis=0).tolist(), strict=True)) for side, values in found.items()}
