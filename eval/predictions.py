"""Greedy answers to the questions of benchmarks, under every setting of --shown, and their scores.

    RUN/settings.json                               every setting as resolved
    RUN/lock                                        held by the one process that writes here
    RUN/<benchmark>[.<setting>]/predictions.jsonl  a question a line: it, the reply, the answer read in it
    RUN/<benchmark>[.<setting>]/result.json        the settings and the numbers of `eval.scoring.report`
    RUN/tempcompass[.<setting>]/...                both once more, of its three sub-tasks together

What is asked and how a reply is read is the benchmark's (`eval/benchmarks.py`); rows of one's own are asked and read as
in training. A reply that cannot be read is wrong. A question that could not be asked (no such clip, an endpoint that
does not answer) is neither: it is listed, asked again at the next start, and its benchmark has no result until then,
unless --accept-missing counts it as wrong.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import torch
import torch.distributed as dist

from chat_client import ChatClient
from data.dataset import BadRow, load_questions
from data.prompts import ANSWER_REQUEST, SYSTEM_PROMPT, question_text
from data.reader import Reader, open_clips
from episode import Prompt, Question, View
from eval import parts
from eval.answer import Answered, as_they_come, check_pairs, in_chunks, share
from eval.benchmarks import Item, load, read_answer, rejected, remarks
from eval.endpoint import Endpoint, GaveUp
from eval.scoring import counterfactual_report, report
from eval.settings import FREE_IN_A_RUN, GROUPS, BenchmarkArgs
from eval.shown import Setting, show
from model import banned_ids, load_processor
from parallel import print_main
from pictures import table
from rollout import ChatEngine, Engine, EngineSettings, Request, Sampling, build_engine
from transforms import COUNTERFACTUALS, IDENTITY
from verifiers import verify

LAYOUT = {
    "dybench": ("DyBench", "json"),
    "timeblind": ("TimeBlind", "data.jsonl"),
    "tempcompass_multi_choice": ("TempCompass", "multi-choice"),
    "tempcompass_yes_no": ("TempCompass", "yes_no"),
    "tempcompass_caption_matching": ("TempCompass", "caption_matching"),
    "tempcompass_captioning": ("TempCompass", "captioning"),
    "videomme": ("Video-MME", "videomme"),
    "mvbench": ("MVBench", "test.json", "json"),
}
"""Benchmark -> its folder under --data-root, named as the release, and its questions in there: the first that is. Of
MVBench, the release's branch `video` before its branch `main`."""
PAIRS = "pairs"
LISTED = 20  # questions without an answer that are printed; all are in predictions.jsonl


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


# -- what is to be done ------------------------------------------------------------------------------------------------


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
        _client(args)  # its faults now, not after an hour of decoding
    settings = resolved(args, folder)

    run, held = Path(args.output), None

    def opened() -> dict[str, set[str]]:
        nonlocal held
        held = parts.hold(run)
        parts.keep_settings(run / "settings.json", settings, free=FREE_IN_A_RUN, hint="give a new --output")
        return {
            place(benchmark.name, setting): {row["id"] for row in _rows(args, benchmark, setting) if not row["error"]}
            for benchmark in benchmarks
            for setting in args.shown
        }

    done = parts.first_rank(opened)
    return Job(benchmarks, settings, done, held)


def _load(args: BenchmarkArgs, name: str) -> Benchmark:
    folder, *files = LAYOUT[name]
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
    questions, bad = load_questions(
        args.pairs, _data_root(args), null_option="off", check_files=False, task_types=False
    )
    left_out = rejected(Path(args.pairs))
    questions = [question for question in questions if question.row not in left_out]
    bad = [row for row in bad if row.row not in left_out]
    if not questions and not bad:
        raise ValueError(f"{args.pairs}: holds no pair that no reviewer rejected; {len(left_out)} rows are rejected")
    check_pairs(args.pairs, questions)
    request = ANSWER_REQUEST if args.answer_request == "paper" else args.answer_request
    items = [Item(q.id, q, question_text(q, request), {"subtask": q.subtask}) for q in questions]
    return Benchmark(PAIRS, Path(args.pairs), items, bad, len(set(left_out.values())))


def _data_root(args: BenchmarkArgs) -> str:
    return os.path.realpath(args.data_root or os.path.dirname(os.path.abspath(args.pairs)))


def resolved(args: BenchmarkArgs, folder: str) -> dict:
    """Every setting with its value, for the run's settings.json and each result."""
    settings = dataclasses.asdict(args)
    if args.engine != "openai" and os.path.isdir(folder):
        folder = os.path.realpath(folder)
    return settings | {
        "model": folder,
        "label": args.label or Path(args.output).resolve().name,
        "data_root": _data_root(args),
        "system_prompt": SYSTEM_PROMPT if args.system_prompt == "paper" else args.system_prompt,
        "answer_request": ANSWER_REQUEST if args.answer_request == "paper" else args.answer_request,
        "temperature": 0.0,
    }


def _rows(args: BenchmarkArgs, benchmark: Benchmark, setting: Setting) -> list[dict]:
    """Rows written so far, in the order of the questions. Rank 0 alone.

    ValueError where one is of another question than the benchmark has under its id.
    """
    file = Path(args.output, place(benchmark.name, setting), "predictions.jsonl")
    items = {item.id: item for item in benchmark.items}
    rows = parts.merge(file, list(items), kind="prediction")
    for row in rows:
        item = items.get(row["id"])
        if item is None or any(row.get(name) != value for name, value in _asked(item).items()):
            raise ValueError(
                f"{file}: id {row['id']!r} is not the question that {benchmark.file} has under it: the questions "
                "have changed, give a new --output"
            )
    return rows


def _asked(item: Item) -> dict:
    """What tells a question from another one."""
    question = item.question
    names = ("problem", "gold", "start", "end", "pair_id", "side", "subtask")
    return {name: getattr(question, name) for name in names} | {"options": list(question.options), "facts": item.facts}


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
    sampling = Sampling(n=1, temperature=0.0, max_tokens=args.max_completion_tokens)
    how = dict(title="evaluate", ahead=prompts.ahead)
    common = (engine, tasks, prompts.prompt, lambda _, prompt: Request(prompt, sampling, seed=0))
    by_item = isinstance(engine, Endpoint)
    chunks = (
        as_they_come(*common, at_once=args.concurrency, **how)
        if by_item
        else in_chunks(*common, chunk=args.chunk, **how)
    )
    with closing(engine) if by_item else nullcontext(), prompts.clips:
        for chunk in chunks:
            if dist.get_rank() % args.tensor_parallel == 0:  # the ranks of one engine hold the same answers
                _append(args, chunk, prompts)


def build(args: BenchmarkArgs, folder: str, device: torch.device) -> tuple[Engine | ChatEngine | Endpoint, object]:
    """The engine, and the processor that renders its prompts; None where the other side renders them."""
    system_prompt = SYSTEM_PROMPT if args.system_prompt == "paper" else args.system_prompt
    if args.engine == "openai":
        return Endpoint(_client(args), system_prompt=system_prompt), None
    settings = EngineSettings.of(args, sleep_level=0)
    if args.engine == "vllm-generic":
        return ChatEngine(settings, folder, system_prompt=system_prompt), None
    processor = load_processor(folder)
    return build_engine(settings, folder, banned_ids(processor), device, bar=False), processor


def _client(args: BenchmarkArgs) -> ChatClient:
    """Raises ValueError, one line, for a URL that is none and a key that is not there."""
    key = os.environ.get(args.api_key_env, "").strip() if args.api_key_env else ""
    if args.api_key_env and not key:
        raise ValueError(f"--api-key-env: the environment has no {args.api_key_env}")
    return ChatClient(
        args.base_url,
        args.model,
        api_key=key,
        deadline_s=args.deadline,
        tries=args.tries,
        backoff_s=args.backoff,
        requests_per_minute=args.requests_per_minute,
        fields=json.loads(args.body),
    )


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
        frames = prompts.frames.pop((task.place, task.item.id), ())
        rows.setdefault(task.place, []).append(prediction(answered, frames, _data_root(args)))
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
        answer, correct = facts.answer, facts.score > 0
    else:
        answer = read_answer(task.benchmark, item, text)
        correct = answer is not None and answer == question.gold
    path = question.path and os.path.relpath(question.path, data_root)
    return {"id": item.id, "benchmark": task.benchmark, **_asked(item), "path": path} | {
        "reply": text,
        "answer": answer,
        "correct": correct,
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
            rows = answered[benchmark.name, setting] = _rows(args, benchmark, setting)
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
