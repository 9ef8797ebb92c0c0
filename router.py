"""The offline Task Router (paper Sec. 3 and App. C): which transform would change a video question's answer?

    python router.py --rows rows.jsonl --output routed.jsonl --engine vllm --model DeepSeek-R1-Distill-Qwen-32B
    python router.py --rows rows.jsonl --output routed.jsonl --engine openai --base-url https://host/v1 --model NAME
    python router.py --rows rows.jsonl --output routed.jsonl --engine rules
    python router.py audit --rows routed.jsonl --data-root videos/ --output audit/    # a sheet for a person to fill
    python router.py score --rows routed.jsonl --sheet audit/sheet.csv                # agreement, confusion
    python router.py table --rows routed.jsonl                                        # the counts of Table 8

A text model imagines two altered copies of the clip and says of each whether the answer would change. A wrong label
inverts the reward, so none is guessed: a reply that cannot be read is asked for once more, and then the row stays
without `task_type` and trains single-branch. Every reply is kept beside the output, and a run that was stopped goes on.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

import actions
import router_audit
import router_rules
from chat_client import ChatClient, ChatError, Refused, Reply
from data.clips import Clips, ClipSettings
from data.dataset import BadRow, load_questions, report_bad_rows
from data.rows import RawRow, read_rows
from episode import TASK_TYPES, Question

CHUNK = 256  # rows a local engine gets at once; what is lost if it is stopped
MAX_FAILURES = 20  # rows in a row that the endpoint did not answer, before the run gives up
ATTEMPTS = 2  # replies to one vote: a first one, and one more if it cannot be read

# ---------------------------------------------------------------------------------------------------------------------
# Prompt and parse

_CRITERIA = """\
Below are a question about a video and its correct answer. You cannot see the video: imagine it from the words. Then
imagine two altered copies of it, and decide for each copy whether the same question would get another correct answer.

Copy 1, in a mirror. Left and right have changed places in every frame; nothing else is different.
- Another answer: it depends on left and right (hands, sides, positions, directions), on turning clockwise or
  counter-clockwise, or on how things lie or move along the horizontal.
- The same answer: it depends on what a mirror keeps. That is up and down, high and low, height; colour, identity,
  size and number; and what is done, as long as the side does not matter.

Copy 2, in rewind. The last frame is shown first and the first one last, so time runs backwards.
- Another answer: it depends on an action that looks like a different one when undone (opening looks like closing,
  picking up like putting down, entering like leaving); on what is first or last, before or after, at the beginning or
  at the end; or on what caused an event or what came of it.
- The same answer: it depends on a count; on identity, colour, material, shape or size; on a state or a place that
  holds throughout; or on a motion or a speed that looks alike in both directions.

The category follows from the two decisions:
- only copy 1 gets another answer: Spatial
- only copy 2 gets another answer: Temporal
- both copies get another answer: Spatiotemporal
- neither does: Static
"""
_REQUEST = """\
Think briefly about copy 1 and then about copy 2. After that, write the category as the last line of your reply:
exactly one word out of Spatial, Temporal, Spatiotemporal, Static, and nothing else on that line."""


def build_prompt(question: Question) -> str:
    """What the router reads: text only, and the row's own options (no null option)."""
    lines = [_CRITERIA, f"Question: {question.problem}"]
    if question.options:
        lines += ["Options:", *question.options]
    return "\n".join([*lines, f"Correct answer: {router_rules.gold_text(question, letter=True)}", "", _REQUEST])


_WORDS = {task_type.lower(): task_type for task_type in TASK_TYPES}
_MARKUP = "*_`\"'"


def parse(text: str) -> str | None:
    """The task type that stands alone on the last line; None if anything else does, or no end of the thinking.

    Case, emphasis (**Static**, `Static`), quotes and one final full stop do not matter. Raises on no text.
    """
    _, _, reply = text.rpartition("</think>")
    if "<think>" in reply:
        return None
    lines = [line for line in reply.split("\n") if line.strip()]
    if not lines:
        return None
    word = lines[-1].strip().strip(_MARKUP).strip()
    return _WORDS.get(word.removesuffix(".").strip().strip(_MARKUP).strip().lower())


# ---------------------------------------------------------------------------------------------------------------------
# Votes

Ask = Callable[[Sequence[tuple[Question, int]]], list[Reply]]
"""(question, seed) pairs -> a reply to each, in order; may raise ChatError."""


@dataclass(frozen=True)
class Verdict:
    """What the router made of one row."""

    question: Question
    label: str | None
    votes: tuple[str | None, ...]
    """One task type per sample; None where neither reply could be read."""
    replies: tuple[dict, ...] = ()
    """Every reply as it came: vote, seed, text, reasoning, finish, label."""


def decide(votes: Sequence[str | None]) -> str | None:
    """The task type of more than half of all votes, those without one included; None where there is no such."""
    label, count = Counter(votes).most_common(1)[0]
    return label if 2 * count > len(votes) else None


def judge(ask: Ask, questions: Sequence[Question], votes: int, seed: int) -> list[Verdict]:
    """A verdict for each question, of `votes` samples; an unreadable sample is drawn once more from another seed."""
    found: dict[tuple[str, int], str | None] = {}
    kept: dict[str, list[dict]] = {question.id: [] for question in questions}
    open_votes = [(question, vote) for question in questions for vote in range(votes)]
    for attempt in range(ATTEMPTS):
        jobs = [(question, _seed(seed, question.id, vote, attempt)) for question, vote in open_votes]
        for (question, vote), (_, drawn), reply in zip(open_votes, jobs, ask(jobs), strict=True):
            # The last line of a reply that was cut off is its last line by chance.
            label = parse(reply.text) if reply.finish != "length" else None
            found[question.id, vote] = label
            facts = {"text": reply.text, "reasoning": reply.reasoning, "finish": reply.finish, "label": label}
            kept[question.id].append({"vote": vote, "seed": drawn} | facts)
        open_votes = [(question, vote) for question, vote in open_votes if found[question.id, vote] is None]
        if not open_votes:
            break
    verdicts = []
    for question in questions:
        cast = tuple(found[question.id, vote] for vote in range(votes))
        verdicts.append(Verdict(question, decide(cast), cast, tuple(kept[question.id])))
    return verdicts


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4]) >> 1


class Replies:
    """Every verdict with its raw replies, one JSON object a line, appended as they come; the run's memory.

    A line is taken again for the same id, prompt, model and settings. A line torn by a kill is as if it were not there.
    """

    def __init__(self, path: Path, settings: dict):
        self.path, self._settings = path, settings
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise ValueError(
                f"{path}: another router is writing to it; wait for it, or choose other --replies"
            ) from error
        self._lines = self._read()

    def __enter__(self) -> Replies:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _read(self) -> dict[str, dict]:
        self._file.seek(0)
        lines, line = {}, b"\n"
        for line in self._file:
            try:
                facts = json.loads(line)
                is_known = facts["label"] is None or facts["label"] in TASK_TYPES
                if is_known and isinstance(facts["votes"], list) and isinstance(facts["key"], str):
                    lines[facts["key"]] = facts
            except (ValueError, LookupError, TypeError, RecursionError):
                continue
        if not line.endswith(b"\n"):  # torn: what is appended starts a line of its own
            self._file.write(b"\n")
        return lines

    def _key(self, question: Question) -> str:
        facts = json.dumps([question.id, build_prompt(question), self._settings], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:20]

    def known(self, question: Question) -> Verdict | None:
        """What an earlier run found, or None."""
        facts = self._lines.get(self._key(question))
        return Verdict(question, facts["label"], tuple(facts["votes"])) if facts else None

    def add(self, verdict: Verdict) -> None:
        """Append one verdict; it is on its way to the disk when this returns."""
        question = verdict.question
        facts = {"id": question.id, "row": question.row, "key": self._key(question), "label": verdict.label}
        facts |= {"votes": verdict.votes, "replies": verdict.replies}
        self._file.write(json.dumps(facts).encode() + b"\n")
        self._file.flush()


# ---------------------------------------------------------------------------------------------------------------------
# Engines


@dataclass
class LabelArgs:
    """Write the rows with a task type on each video row. Other actions: router.py audit | score | table --help."""

    rows: Path
    """JSON or JSONL file of rows."""
    output: Path
    """JSONL file to write: every row, in order, with `task_type` where the router found one."""
    engine: Literal["vllm", "openai", "rules"]
    """A local text model through vLLM, a chat endpoint, or keywords (no model)."""
    model: str = ""
    """Folder or name of a text model (vllm); the endpoint's name for one (openai)."""
    base_url: str = ""
    """Of the OpenAI-compatible endpoint, up to and with /v1."""
    api_key_env: str = ""
    """Environment variable that holds the endpoint's key."""
    votes: int = 1
    """Samples per row; the label is what more than half of them say."""
    temperature: float = 0.6
    """DeepSeek-R1's recommendation."""
    max_tokens: int = 4096
    """Of a reply, its reasoning included; one that reaches it cannot be read."""
    seed: int = 0
    overwrite: bool = False
    """Route rows that have a task type, too; theirs is dropped where the router finds none."""
    replies: Path | None = None
    """Where all raw replies are kept; default: beside the output, its name with .replies.jsonl."""
    concurrency: int = 8
    """Rows asked side by side (openai)."""
    requests_per_minute: float | None = None
    """At most so many requests, retries included (openai)."""
    deadline: float = 300.0
    """Seconds that one request may take (openai)."""
    tries: int = 6
    """Requests for one reply at the most: after 429, 5xx, a timeout or a cut connection (openai)."""
    backoff: float = 1.0
    """Seconds before the second try, doubled before each further one (openai)."""
    max_prompt_tokens: int = 4096
    """Longer prompts get no label (vllm)."""
    dtype: str = "auto"
    """Of the model (vllm)."""
    tensor_parallel: int = 1
    """GPUs that hold the model together (vllm)."""
    gpu_memory: float = 0.9
    """Share of each GPU's memory (vllm)."""
    cpu_cache_mb: int = 1024
    """Cache of keys and values where there is no GPU (vllm)."""

    @property
    def settings(self) -> dict:
        """What a reply depends on, beside its prompt."""
        if self.engine == "rules":
            return {"engine": "rules", "version": _rules_version()}
        names = ("engine", "model", "votes", "temperature", "max_tokens", "seed")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Raise ValueError, one line, for settings that cannot be meant."""
        if self.engine != "rules" and not self.model:
            raise ValueError(f"--engine {self.engine} needs --model")
        if self.engine == "openai" and not self.base_url:
            raise ValueError("--engine openai needs --base-url, such as https://host/v1")
        if self.engine == "rules" and self.votes != 1:
            raise ValueError("--engine rules says the same every time: --votes must be 1")
        if self.engine == "vllm" and self.model.startswith(("/", ".", "~")) and not Path(self.model).is_dir():
            raise ValueError(f"--model {self.model}: no such folder")  # vLLM would need half a minute to say so
        for name in ("votes", "max_tokens", "concurrency", "tries", "max_prompt_tokens", "tensor_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")
        limit = 1.0 if self.requests_per_minute is None else self.requests_per_minute
        # Written so that NaN fails, too.
        if not (self.deadline > 0 and limit > 0 and self.temperature >= 0 and self.backoff >= 0):
            raise ValueError("--deadline, --requests-per-minute must be above 0; --temperature, --backoff at least 0")
        if self.output.resolve() in (self.rows.resolve(), self.replies_file.resolve()):
            raise ValueError(f"--output {self.output} would overwrite what is read; choose another file")

    @property
    def replies_file(self) -> Path:
        """Where the raw replies are kept."""
        return self.replies or self.output.with_name(f"{self.output.name}.replies.jsonl")


def _rules_version() -> str:
    """Of the keywords: an edit of them asks again."""
    return hashlib.sha256(Path(router_rules.__file__).read_bytes()).hexdigest()[:12]


def _rules(args: LabelArgs) -> Ask:
    return lambda jobs: [Reply(router_rules.explain(question)) for question, _ in jobs]


def _vllm(args: LabelArgs) -> Ask:
    from rollout import TextEngine  # only here: the other engines need neither vLLM nor transformers

    try:
        engine = TextEngine(
            args.model,
            dtype=args.dtype,
            max_tokens=args.max_prompt_tokens + args.max_tokens,
            tensor_parallel=args.tensor_parallel,
            gpu_memory=args.gpu_memory,
            cpu_cache_mb=args.cpu_cache_mb,
            seed=args.seed,
        )
    except ImportError as error:
        raise ValueError(f"--engine vllm needs vLLM: {error}") from error
    how = {"temperature": args.temperature, "max_tokens": args.max_tokens}

    def ask(jobs: Sequence[tuple[Question, int]]) -> list[Reply]:
        prompts, seeds = [build_prompt(question) for question, _ in jobs], [seed for _, seed in jobs]
        return [Reply(text, finish=finish) for text, finish in engine.chat(prompts, seeds, **how)]

    return ask


Outcome = tuple[Sequence[Question], list[Verdict] | ChatError]


def _ask_locally(args: LabelArgs, questions: Sequence[Question]) -> Iterator[Outcome]:
    ask = {"rules": _rules, "vllm": _vllm}[args.engine](args)
    for start in range(0, len(questions), CHUNK):
        chunk = questions[start : start + CHUNK]
        yield chunk, judge(ask, chunk, args.votes, args.seed)


def _ask_endpoint(args: LabelArgs, questions: Sequence[Question]) -> Iterator[Outcome]:
    """One row at a time in each thread, as they finish. Closing the generator ends what is under way."""
    client = ChatClient.of(args)

    def ask(jobs: Sequence[tuple[Question, int]]) -> list[Reply]:
        how = {"temperature": args.temperature, "max_tokens": args.max_tokens}
        return [client.ask(build_prompt(question), seed=seed, **how) for question, seed in jobs]

    pool = ThreadPoolExecutor(args.concurrency, "router")
    try:
        rows = {pool.submit(judge, ask, [question], args.votes, args.seed): question for question in questions}
        for row in as_completed(list(rows)):
            error = row.exception()
            if error is not None and not isinstance(error, ChatError):
                raise error
            yield [rows.pop(row)], row.result() if error is None else error
    finally:
        client.close()
        pool.shutdown(cancel_futures=True)


def ask_all(args: LabelArgs, questions: Sequence[Question], replies: Replies) -> tuple[dict[str, Verdict], list[str]]:
    """(verdict by question id, a line for each row that the endpoint did not answer).

    Raises ValueError where going on makes no sense: refused before anything was answered, or MAX_FAILURES in a row.
    """
    verdicts = {question.id: known for question in questions if (known := replies.known(question))}
    missing = [question for question in questions if question.id not in verdicts]
    if not missing:
        return verdicts, []
    failures, streak = [], 0
    outcomes = (_ask_endpoint if args.engine == "openai" else _ask_locally)(args, missing)
    bar = tqdm(total=len(questions), initial=len(verdicts), unit="row", leave=False, disable=None)
    try:
        for asked, outcome in outcomes:
            bar.update(len(asked))
            if not isinstance(outcome, ChatError):
                streak = 0
                for verdict in outcome:
                    replies.add(verdict)
                    verdicts[verdict.question.id] = replace(verdict, replies=())  # they are on the disk now
                continue
            streak += 1
            failures.append(f"{args.rows}:{asked[0].row} id {asked[0].id!r}: {outcome}")
            # A refused key or model is refused for every row; a refused prompt, once others passed, is this row's own.
            if isinstance(outcome, Refused) and (outcome.status in (401, 403, 404) or not verdicts):
                raise ValueError(failures[-1])
            if streak >= MAX_FAILURES:
                raise ValueError(
                    f"{streak} rows in a row without an answer; start again to go on. The last: {failures[-1]}"
                )
    finally:
        bar.close()
        outcomes.close()
    if not verdicts:
        raise ValueError(f"no row was answered. The last: {failures[-1]}")
    return verdicts, failures


# ---------------------------------------------------------------------------------------------------------------------
# Actions


def _load(
    rows: Path, *, task_types: bool = True, data_root: Path | str = "/rows"
) -> tuple[list[Question], list[BadRow]]:
    """Usable rows with their own options. Opens no clip: the root is only a name under which `path` must stay."""
    questions, bad = load_questions(rows, data_root, null_option="off", check_files=False, task_types=task_types)
    if not questions:
        raise ValueError(f"{rows}: no row is usable: {bad[0]}")
    return questions, bad


def label(args: LabelArgs) -> int:
    """Route the video rows and write all rows; returns the exit code: 1 where an endpoint left rows unanswered."""
    args.check()
    questions, bad = _load(args.rows, task_types=not args.overwrite)
    videos = [question for question in questions if question.data_type == "video"]
    todo = [question for question in videos if question.task_type is None]
    verdicts, failures = {}, []
    if todo:
        with Replies(args.replies_file, args.settings) as replies:
            verdicts, failures = ask_all(args, todo, replies)
    left_out = _write_rows(args, {q.row: verdicts[q.id].label for q in todo if q.id in verdicts})
    labelled = sum(verdict.label is not None for verdict in verdicts.values())
    unread = sum(set(verdict.votes) == {None} for verdict in verdicts.values())
    print(
        f"{args.output}: {len(videos)} video rows: {labelled} labelled, {len(videos) - len(todo)} had a task type, "
        f"{len(verdicts) - labelled} without one ({unread} unreadable, {len(verdicts) - labelled - unread} without a "
        f"majority), {len(failures)} not answered; {len(questions) - len(videos)} image and text rows as they were"
    )
    for line in report_bad_rows(bad):
        print(f"  {line}")
    if left_out:
        print(f"  {left_out} lines that are no JSON are not in the output")
    print(router_audit.count_table([_labelled(question, verdicts) for question in questions]))
    for line in failures[:MAX_FAILURES]:
        print(f"not answered: {line}", file=sys.stderr)
    if failures:
        print(f"error: {len(failures)} rows were not answered; start again to ask for them", file=sys.stderr)
    return 1 if failures else 0


def _labelled(question: Question, verdicts: dict[str, Verdict]) -> Question:
    verdict = verdicts.get(question.id)
    return replace(question, task_type=verdict.label) if verdict else question


def _write_rows(args: LabelArgs, labels: dict[int, str | None]) -> int:
    """Every row of the input, those in `labels` (by row number) with their task type or none; what is not touched
    keeps its very text. Returns the number of lines left out: they are not JSON, and their text was not kept."""
    args.output.parent.mkdir(parents=True, exist_ok=True)
    scratch, left_out = Path(f"{args.output}.{os.getpid()}"), 0
    try:
        with open(scratch, "w", encoding="utf-8") as file:
            for raw in read_rows(args.rows):
                if raw.fault and not raw.text:
                    left_out += 1
                    continue
                if raw.number in labels:
                    row = {name: value for name, value in raw.value.items() if name != "task_type"}
                    if labels[raw.number] is not None:
                        row["task_type"] = labels[raw.number]
                    raw = RawRow(raw.number, row)
                file.write(raw.line + "\n")
        os.replace(scratch, args.output)
    finally:
        scratch.unlink(missing_ok=True)
    return left_out


@dataclass
class AuditArgs:
    """Draw a sample, stratified by source and task type, and write a sheet with filmstrips for a person to fill."""

    rows: Path
    """Routed rows (rows without a task type are sampled, too)."""
    data_root: Path
    """Folder that the rows' `path` is relative to."""
    output: Path
    """Folder to write: sheet.csv (fill the column `human`), index.html, strips/."""
    size: int = 200
    seed: int = 0
    frames: int = 16
    """Frames in a filmstrip."""
    workers: int = 4
    """Clips decoded side by side."""
    deadline: float = 60.0
    """Seconds that decoding one clip may take."""


def audit(args: AuditArgs) -> int:
    """Write the sheet."""
    if args.size < 1 or args.frames < 2 or args.workers < 1 or not args.deadline > 0:
        raise ValueError("--size and --workers must be at least 1, --frames at least 2, --deadline above 0")
    if not args.data_root.is_dir():
        raise ValueError(f"{args.data_root}: the data root must be a folder; give the one that `path` is relative to")
    questions, bad = _load(args.rows, data_root=args.data_root)
    drawn = router_audit.sample(questions, args.size, args.seed)
    if not drawn:
        raise ValueError(f"{args.rows}: holds no usable video row")
    # The width of a filmstrip's frame is all that is needed.
    settings = ClipSettings(frames=args.frames, max_frame_pixels=256 * 256)
    with Clips(settings, workers=args.workers, deadline=args.deadline) as clips:
        unread = router_audit.write_sheet(drawn, args.output, clips)
    print(f"{args.output / 'sheet.csv'}: {len(drawn)} rows to fill beside {args.output / 'index.html'}", end="")
    print(f"; {unread} clips could not be read, see the column note" if unread else "")
    for line in report_bad_rows(bad):
        print(f"  {line}")
    return 0


@dataclass
class ScoreArgs:
    """Agreement and confusion between a filled sheet and routed rows; any router's rows of the same questions."""

    rows: Path
    """Routed rows."""
    sheet: Path
    """sheet.csv, its column `human` filled."""


def score(args: ScoreArgs) -> int:
    """Print the report."""
    human = router_audit.read_sheet(args.sheet)
    print(router_audit.score(human, _load(args.rows)[0]))
    return 0


@dataclass
class TableArgs:
    """Counts per source and task type, as the paper's Table 8."""

    rows: Path
    """Routed rows."""


def count(args: TableArgs) -> int:
    """Print the table."""
    questions, bad = _load(args.rows)
    print(router_audit.count_table(questions))
    for line in report_bad_rows(bad):
        print(f"  {line}")
    return 0


ACTIONS: actions.Actions = {
    "label": (LabelArgs, label),
    "audit": (AuditArgs, audit),
    "score": (ScoreArgs, score),
    "table": (TableArgs, count),
}


def main(argv: list[str] | None = None) -> int:
    """0 done, 1 rows unanswered, 2 a mistake in one line."""
    return actions.run(ACTIONS, argv, "router.py")


if __name__ == "__main__":
    sys.exit(main())
