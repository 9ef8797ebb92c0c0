"""What a run of benchmarks has to do: the questions, every setting as resolved, and what an earlier run has done.

The run's folder is read and held from here on; `eval/predictions.py` says what lies in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from chat_client import ChatClient
from data import parts
from data.dataset import BadRow, load_questions
from data.prompts import ANSWER_REQUEST, SYSTEM_PROMPT, question_text
from eval.answer import check_pairs
from eval.benchmarks import load, rejected, remarks
from eval.layouts import Item
from eval.settings import FREE_IN_A_RUN, GROUPS, BenchmarkArgs
from eval.shown import Setting
from parallel import print_main
from transforms import IDENTITY

FOLDERS = {
    "dybench": ("DyBench", "json"),
    "timeblind": ("TimeBlind", "data.jsonl"),
    "tempcompass_multi_choice": ("TempCompass", "multi-choice"),
    "tempcompass_yes_no": ("TempCompass", "yes_no"),
    "tempcompass_caption_matching": ("TempCompass", "caption_matching"),
    "tempcompass_captioning": ("TempCompass", "captioning"),
    "videomme": ("Video-MME", "videomme"),
    "mvbench": ("MVBench", "test.json", "json"),
    "charades_sta": ("Charades-STA", "charades_sta.json"),
    "activitynet": ("ActivityNet", "activitynet.json"),
    "nextgqa": ("NExT-GQA", "nextgqa.json"),
    "got10k": ("GOT-10k", "got10k.json"),
}
"""Benchmark -> its folder under --data-root, named as the release, and its questions in there: the first that is. Of
MVBench, the release's branch `video` before its branch `main`."""
PAIRS = "pairs"


@dataclass(frozen=True)
class Benchmark:
    """A file of questions to answer."""

    name: str
    file: Path
    items: list[Item]
    bad: list[BadRow] = field(default_factory=list)
    """Rows that are no questions: there must be none."""
    rejected: int = 0
    """Pairs that a reviewer rejected; they are none of the items."""

    @property
    def remarks(self) -> list[str]:
        """What a reader of its numbers must know."""
        said = remarks(self.name, self.items) if self.name != PAIRS else []
        if self.rejected:
            said.append(f"{self.rejected} pairs that a reviewer rejected are left out")
        return said


@dataclass(frozen=True)
class Task:
    """One question under one setting."""

    benchmark: str
    setting: Setting
    item: Item

    @property
    def place(self) -> str:
        """Its folder within the run."""
        return place(self.benchmark, self.setting)


def place(benchmark: str, setting: Setting) -> str:
    return benchmark if setting == IDENTITY else f"{benchmark}.{setting}"


@dataclass(frozen=True)
class Job:
    """What a run has to do."""

    benchmarks: list[Benchmark]
    settings: dict
    done: dict[str, set[str]]
    """Place -> ids of the questions answered there."""
    held: IO[bytes] | None = None
    """Rank 0's hold on the run's folder, for as long as there is this job."""


def prepare(args: BenchmarkArgs, folder: str) -> Job:
    """Read the questions and what an earlier run left; all ranks take part. ValueError, one line, for what cannot be
    used: a benchmark with holes is another benchmark."""
    benchmarks = [_load(args, name) for benchmark in args.benchmarks for name in GROUPS.get(benchmark, (benchmark,))]
    if args.pairs:
        benchmarks.append(load_pairs(args))
    for benchmark in benchmarks:
        if benchmark.bad:
            raise ValueError(
                f"{benchmark.name}: {len(benchmark.bad)} rows are no questions, and may not drop out of the score; the "
                f"first: {benchmark.bad[0]}: mend them, or take them out of the file"
            )
        if benchmark.rejected:
            print_main(f"{benchmark.name}: {benchmark.rejected} pairs that a reviewer rejected are left out")
        if not args.accept_missing and set(args.shown) != {"text_only"}:
            _frame_folders(benchmark)
    if args.engine == "openai":
        ChatClient.of(args, json.loads(args.body))  # its faults now, not after an hour of decoding
    settings = resolved(args, folder)

    run, held = Path(args.output), None

    def opened() -> dict[str, set[str]]:
        nonlocal held
        held = parts.hold(run)
        parts.keep_settings(run / "settings.json", settings, free=FREE_IN_A_RUN, hint="give a new --output")
        return {
            place(benchmark.name, setting): {row["id"] for row in rows_of(args, benchmark, setting) if not row["error"]}
            for benchmark in benchmarks
            for setting in args.shown
        }

    done = parts.first_rank(opened)
    return Job(benchmarks, settings, done, held)


def _load(args: BenchmarkArgs, name: str) -> Benchmark:
    folder, *files = FOLDERS[name]
    root = Path(args.data_root, folder)
    given = dict(question.split("=", 1) for question in args.files)
    released = next((root / file for file in files if (root / file).exists()), root / files[-1])
    questions = Path(given.get(name, released))
    items, bad = load(name, questions, root if root.is_dir() else Path(args.data_root))
    left_out = rejected(questions) if name == "dybench" else {}
    return Benchmark(name, questions, items, bad, len(set(left_out.values())))


def _frame_folders(benchmark: Benchmark) -> None:
    """ValueError where clips are folders of frames: not after hours of answering the others."""
    folders = [item for item in benchmark.items if item.question.path and os.path.isdir(item.question.path)]
    if folders:
        raise ValueError(
            f"{benchmark.name}: {len(folders)} clips must be files, but are folders of frames, the first: "
            f"{folders[0].question.path}"
            + ("; get the release's branch `video` (MVBench/test.json, mp4)" if benchmark.name == "mvbench" else "")
            + ", or --accept-missing counts them as wrong"
        )


def load_pairs(args: BenchmarkArgs) -> Benchmark:
    """Rows of one's own, asked in the words of training, without a null option."""
    questions, bad = load_questions(args.pairs, data_root(args), null_option="off", check_files=False, task_types=False)
    left_out = rejected(Path(args.pairs))
    questions = [question for question in questions if question.row not in left_out]
    bad = [row for row in bad if row.row not in left_out]
    if not questions and not bad:
        raise ValueError(f"{args.pairs}: holds no pair that no reviewer rejected; {len(left_out)} rows are rejected")
    check_pairs(args.pairs, questions)
    request = ANSWER_REQUEST if args.answer_request == "paper" else args.answer_request
    items = [Item(q.id, q, question_text(q, request), {"subtask": q.subtask}) for q in questions]
    return Benchmark(PAIRS, Path(args.pairs), items, bad, len(set(left_out.values())))


def data_root(args: BenchmarkArgs) -> str:
    return os.path.realpath(args.data_root or os.path.dirname(os.path.abspath(args.pairs)))


def resolved(args: BenchmarkArgs, folder: str) -> dict:
    """Every setting with its value, for the run's settings.json and each result."""
    settings = dataclasses.asdict(args)
    if args.engine != "openai" and os.path.isdir(folder):
        folder = os.path.realpath(folder)
    return settings | {
        "model": folder,
        "label": args.label or Path(args.output).resolve().name,
        "data_root": data_root(args),
        "system_prompt": SYSTEM_PROMPT if args.system_prompt == "paper" else args.system_prompt,
        "answer_request": ANSWER_REQUEST if args.answer_request == "paper" else args.answer_request,
        "temperature": 0.0,
    }


def rows_of(args: BenchmarkArgs, benchmark: Benchmark, setting: Setting) -> list[dict]:
    """Rows written so far, in the order of the questions. Rank 0 alone.

    ValueError where one is of another question than the benchmark has under its id.
    """
    file = Path(args.output, place(benchmark.name, setting), "predictions.jsonl")
    items = {item.id: item for item in benchmark.items}
    rows = parts.merge(file, list(items), kind="prediction")
    for row in rows:
        item = items.get(row["id"])
        if item is None or any(row.get(name) != value for name, value in asked(item).items()):
            raise ValueError(
                f"{file}: id {row['id']!r} is not the question that {benchmark.file} has under it: the questions "
                "have changed, give a new --output"
            )
    return rows


def asked(item: Item) -> dict:
    """What tells a question from another one."""
    question = item.question
    names = ("problem", "gold", "start", "end", "pair_id", "side", "subtask")
    return {name: getattr(question, name) for name in names} | {"options": list(question.options), "facts": item.facts}
