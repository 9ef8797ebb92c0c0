"""Greedy answers to the questions of benchmarks, under every setting of --shown, and their scores.

    RUN/settings.json                              every setting as resolved
    RUN/lock                                       held by the one evaluation that writes here
    RUN/<benchmark>[.<setting>]/predictions.jsonl  a question a line: it, the reply, the answer read in it
    RUN/<benchmark>[.<setting>]/result.json        the settings and the numbers of `eval.scoring.report`, of a flipped
                                                   or reversed clip those of `eval.scoring.counterfactual_report`
    RUN/tempcompass[.<setting>]/...                both once more, of its three sub-tasks together

What is asked and how a reply is read is the benchmark's (`eval/benchmarks.py`); rows of one's own are asked and read as
in training. A reply that cannot be read is wrong. A question that could not be asked (no such clip, an endpoint that
does not answer) is neither: it is listed, asked again at the next start, and its benchmark has no result until then,
unless --accept-missing counts it as wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from chat_client import ChatClient
from data import parts
from data.prompts import SYSTEM_PROMPT
from data.reader import Reader, open_clips
from episode import Prompt, Question, View
from eval.answer import Answered, as_they_come, in_chunks, share
from eval.benchmarks import judge, read_answer
from eval.clues import grounding, reason
from eval.endpoint import Endpoint, GaveUp
from eval.jobs import PAIRS, Benchmark, Job, Task, asked, data_root, place, rows_of
from eval.layouts import Item
from eval.scoring import counterfactual_report, report
from eval.settings import GROUPS, BenchmarkArgs
from eval.shown import Setting, show
from model import banned_ids, load_processor
from parallel import print_main
from pictures import table
from rollout import ChatEngine, Engine, EngineSettings, Request, Sampling, build_engine
from transforms import COUNTERFACTUALS, IDENTITY
from verifiers import verify

LISTED = 20  # questions without an answer that are printed; all are in predictions.jsonl


# -- asking ------------------------------------------------------------------------------------------------------------


def run(args: BenchmarkArgs, folder: str, job: Job, device: torch.device) -> int:
    """Answer what is left, write and report every result; returns the exit code. All ranks take part."""
    left = [
        [Task(benchmark.name, s, item) for s in args.shown if item.id not in job.done[place(benchmark.name, s)]]
        for benchmark in job.benchmarks
        for item in benchmark.items
    ]
    left = [tasks for tasks in left if tasks]  # by question: the settings of one share its decoded clip
    count, done = sum(map(len, left)), sum(map(len, job.done.values()))
    print_main(f"{count + done} questions, {done} done")
    if left:
        try:
            ask(args, folder, [task for tasks in share(left, args.tensor_parallel) for task in tasks], device)
        except GaveUp as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    dist.barrier()
    return parts.first_rank(lambda: finish(args, job))


def ask(args: BenchmarkArgs, folder: str, tasks: Sequence[Task], device: torch.device) -> None:
    """Answer this rank's questions and append them to its parts. All ranks take part."""
    engine, processor = build(args, folder, device)
    prompts = Prompts(args, processor)
    if args.clue_driven:
        items = {(task.place, task.item.id): task.item for task in tasks}
        tasks = [replace(task, item=grounding(task.item)) for task in tasks]
    sampling = Sampling(n=1, temperature=0.0, max_tokens=args.max_completion_tokens)
    how = dict(title="evaluate", ahead=prompts.ahead)
    send = (prompts.prompt, lambda _, prompt: Request(prompt, sampling, seed=0))
    common = (engine, tasks, *send)
    by_item = isinstance(engine, Endpoint)
    chunks = (
        as_they_come(*common, at_once=args.concurrency, **how)
        if by_item
        else in_chunks(*common, chunk=args.chunk, **how)
    )
    with closing(engine) if by_item else nullcontext(), prompts.clips:
        for chunk in chunks:
            if args.clue_driven and chunk:
                chunk = _from_clues(args, chunk, items, engine, send, prompts)
            if dist.get_rank() % args.tensor_parallel == 0:  # the ranks of one engine hold the same answers
                _append(args, chunk, prompts)


def _from_clues(
    args: BenchmarkArgs, chunk: list[Answered[Task]], items: dict, engine: Engine, send: tuple, prompts: Prompts
) -> list[Answered[Task]]:
    """A chunk of first answers -> the second ones; the ranks of one engine take part."""
    tasks = [answered.question for answered in chunk]
    own = [items[task.place, task.item.id] for task in tasks]

    def ask(some: dict[int, Item]) -> dict[int, Answered[Item]]:
        again = [replace(tasks[at], item=item) for at, item in some.items()]
        said = [one for part in in_chunks(engine, again, *send, title="from the clue") for one in part]
        return {at: replace(one, question=one.question.item) for at, one in zip(some, said, strict=True)}

    found = list(reason([replace(one, question=one.question.item) for one in chunk], own, ask, args.clue_margin))
    for task, one in zip(tasks, found, strict=True):
        prompts.clues[task.place, task.item.id] = one.clue
    return [
        replace(one.answered, question=replace(task, item=item))
        for one, task, item in zip(found, tasks, own, strict=True)
    ]


def build(args: BenchmarkArgs, folder: str, device: torch.device) -> tuple[Engine | ChatEngine | Endpoint, object]:
    """The engine, and the processor that renders its prompts; None where the other side renders them."""
    system_prompt = SYSTEM_PROMPT if args.system_prompt == "paper" else args.system_prompt
    if args.engine == "openai":
        return Endpoint(ChatClient.of(args, json.loads(args.body)), system_prompt=system_prompt), None
    settings = EngineSettings.of(args, sleep_level=0)
    if args.engine == "vllm-generic":
        return ChatEngine(settings, folder, system_prompt=system_prompt), None
    processor = load_processor(folder)
    return build_engine(settings, folder, banned_ids(processor), device, bar=False), processor


class Prompts:
    """Tasks -> prompts, and what of each clip was shown."""

    def __init__(self, args: BenchmarkArgs, processor):
        """`processor`: of a Qwen3-VL, or None: the engine has a chat template of its own."""
        # An item's prompt is the whole user turn: the reader adds nothing to it.
        self.clips = open_clips(args)
        self._reader = Reader(processor, replace(args, answer_request=""), self.clips)
        self._renders = processor is not None
        self._seed = args.seed
        self._last: tuple[tuple, View | None] = ((), None)
        self.frames: dict[tuple[str, str], tuple[int, ...]] = {}
        """(place, id) -> frames shown, of what was asked and not yet written."""
        self.clues: dict[tuple[str, str], list[list[float]]] = {}
        """The same of --clue-driven: what the first reply pointed at."""

    def ahead(self, tasks: Sequence[Task]) -> None:
        """Read the clips that these will ask for, but for the one at hand."""
        questions = [task.item.question for task in tasks if task.setting != "text_only"]
        self.clips.prefetch([question for question in questions if _clip(question) != self._last[0]])

    def prompt(self, task: Task) -> Prompt:
        """ClipError where the clip cannot be seen or the prompt is too long."""
        question = task.item.question
        view = None if task.setting == "text_only" else self._view(question)
        shown = show(task.setting, view, question, self._seed)
        prompt = Prompt(task.item.prompt, shown.view)
        if self._renders:
            prompt = self._reader.prompt(replace(question, problem=task.item.prompt, options=()), shown.view)
        self.frames[task.place, task.item.id] = shown.frames
        return prompt

    def _view(self, question: Question) -> View | None:
        """Decoded once for settings and questions that follow each other."""
        if self._last[0] != _clip(question):
            self._last = (_clip(question), self.clips.submit(question).result())
        return self._last[1]


def _clip(question: Question) -> tuple:
    return question.data_type, question.path, question.start, question.end


def _append(args: BenchmarkArgs, chunk: Sequence[Answered[Task]], prompts: Prompts) -> None:
    rows: dict[str, list[dict]] = {}
    for answered in chunk:
        task = answered.question
        key = task.place, task.item.id
        row = prediction(answered, prompts.frames.pop(key, ()), data_root(args))
        if args.clue_driven:
            row["clue"] = prompts.clues.pop(key)
        rows.setdefault(task.place, []).append(row)
    for name, some in rows.items():
        Path(args.output, name).mkdir(parents=True, exist_ok=True)
        with open(Path(args.output, name, f"predictions.jsonl.part-{dist.get_rank():04d}"), "a") as part:
            parts.append(part, some)


def prediction(answered: Answered[Task], frames: Sequence[int], data_root: str) -> dict:
    """One row of predictions.jsonl."""
    task = answered.question
    item, question = task.item, task.item.question
    reply = answered.rollouts[0] if answered.rollouts else None
    text = reply.text if reply else ""
    if task.benchmark == PAIRS:
        facts = verify(text, question)
        answer, judged = facts.answer, {"correct": facts.right}
    else:
        answer = read_answer(task.benchmark, item, text)
        judged = judge(task.benchmark, item, answer)
    path = question.path and os.path.relpath(question.path, data_root)
    return {"id": item.id, "benchmark": task.benchmark, **asked(item), "path": path} | {
        "reply": text,
        "answer": answer,
        **judged,
        "finish": reply.finish if reply else "",
        "error": answered.error,
        "frames": list(frames),
    }


# -- results -----------------------------------------------------------------------------------------------------------


Answers = dict[tuple[str, Setting], list[dict]]
"""(Benchmark, what was shown) -> rows of predictions.jsonl."""


def finish(args: BenchmarkArgs, job: Job) -> int:
    """Write each result and print them; returns the exit code, 1 where a question has no answer. Rank 0 alone."""
    lines, missing = [], []
    answered: Answers = {}
    # The clip as it is first: its counterfactuals are compared with it.
    for setting in sorted(args.shown, key=lambda setting: setting != IDENTITY):
        for benchmark in job.benchmarks:
            rows = answered[benchmark.name, setting] = rows_of(args, benchmark, setting)
            missing += [f"{place(benchmark.name, setting)} {row['id']}: {row['error']}" for row in rows if row["error"]]
            files = [str(benchmark.file.resolve())]
            lines += _result(args, job, benchmark.name, setting, answered, files, benchmark.remarks)
        for group in set(args.benchmarks) & set(GROUPS):
            members = [benchmark for benchmark in job.benchmarks if benchmark.name in GROUPS[group]]
            lines += _joined(args, job, group, setting, members, answered)
    if lines:
        print(table(lines, list(lines[0])))
    for line in missing[:LISTED]:
        print(f"not answered: {line}", file=sys.stderr)
    if missing and args.accept_missing:
        print(f"{len(missing)} questions were not answered and count as wrong", file=sys.stderr)
    elif missing:
        print(
            f"error: {len(missing)} questions were not answered; start again to ask them, or --accept-missing to count "
            "them as wrong",
            file=sys.stderr,
        )
    return 1 if missing and not args.accept_missing else 0


def _result(
    args: BenchmarkArgs, job: Job, name: str, setting: Setting, answered: Answers, files: list[str], said: list[str]
) -> list[dict]:
    """Write a benchmark's result, or remove it where a question has no answer; returns its lines on the screen."""
    rows, of = answered[name, setting], "dybench" if name == PAIRS else name
    against = answered[name, IDENTITY] if setting in COUNTERFACTUALS else []
    file, failed = Path(args.output, place(name, setting), "result.json"), sum(bool(r["error"]) for r in rows + against)
    if failed and not args.accept_missing:
        file.unlink(missing_ok=True)
        return []
    result = {
        "benchmark": name,
        "shown": setting,
        "settings": job.settings | {"questions_file": ", ".join(files)},
        "unanswered": failed,
        "remarks": said,
        **(counterfactual_report(of, against, rows) if against else report(of, rows)),
    }
    parts.write_whole(file, json.dumps(result, indent=2))
    return list(_lines(result))


def _joined(
    args: BenchmarkArgs, job: Job, group: str, setting: Setting, members: list[Benchmark], answered: Answers
) -> list[dict]:
    """The same of a benchmark of several question files: over all of their rows, which get ids of their own."""
    rows = [row | {"id": f"{part.name}/{row['id']}"} for part in members for row in answered[part.name, setting]]
    answered[group, setting] = rows
    # A run folder's result lies beside the answers that it is of: eval.report asks for them.
    file = Path(args.output, place(group, setting), "predictions.jsonl")
    parts.write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))
    said = [f"{part.name}: {remark}" for part in members for remark in part.remarks]
    files = [str(part.file.resolve()) for part in members]
    return _result(args, job, group, setting, answered, files, said)


def _lines(result: dict) -> Iterator[dict]:
    """Rows of the table on the screen: one a metric, in percent."""
    for name, metric in result["metrics"].items():
        yield {
            "benchmark": result["benchmark"],
            "shown": result["shown"],
            "metric": name,
            **{key: metric[key] for key in ("value", "low", "high", "chance", "n")},
            "unanswered": result["unanswered"],
        }
