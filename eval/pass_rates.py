"""Pass rates of a file of rows: `rollouts` sampled completions a row, by the prompt and settings of training.

    torchrun --nproc_per_node 8 -m eval.run --model DIR --rows rows.jsonl --data-root videos --output pass_rates.jsonl

Every rank's engine takes its share of the rows, and a run that was stopped goes on (`data/parts.py`). What the rates
were made with stands in `OUTPUT.settings.json`. A row's seed comes from (seed, id) alone, so ranks, chunks and stops do
not change what is sampled, but for near ties of a 16-bit engine, whose last digit depends on what else it decodes.
`python -m data.filter` reads the rates.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from data import parts
from data.dataset import BadRow, load_questions, report_bad_rows
from data.filter import fingerprint
from data.reader import Reader, open_clips
from episode import Prompt, Question
from eval.answer import Answered, in_chunks, share
from eval.settings import FREE_ON_RESUME, PassRateArgs
from model import banned_ids, load_processor
from parallel import is_main, print_main
from pictures import table
from rollout import EngineSettings, Request, Sampling, build_engine
from transforms import visit_rng
from verifiers import verify


@dataclass(frozen=True)
class Job:
    """What a run has to do."""

    questions: list[Question]
    bad: list[BadRow]
    done: set[str]
    """Ids of those that have a rate."""


def prepare(args: PassRateArgs, folder: str) -> Job:
    """Read the rows and what an earlier run left; all ranks take part. ValueError, one line, for what is unusable."""
    root = args.data_root or os.path.dirname(os.path.abspath(args.rows))
    # Files are not looked for here: a missing clip gets its reason in the output, as a damaged one does.
    questions, bad = load_questions(args.rows, root, null_option=args.null_option, check_files=False)
    return Job(questions, bad, open_output(args, folder))


def run(args: PassRateArgs, folder: str, job: Job, device: torch.device) -> int:
    """Sample what is left, write and report all rates; returns the exit code. All ranks take part."""
    print_main("\n".join([f"{len(job.questions)} rows, {len(job.done)} done", *report_bad_rows(job.bad)]))
    left = [question for question in job.questions if question.id not in job.done]
    if left:
        sample(args, folder, left, device)
    dist.barrier()
    if is_main():
        print(report(merge(args.output, job.questions), job.bad))
    return 0


def open_output(args: PassRateArgs, folder: str) -> set[str]:
    """Ids of the rows that are done. Merges what a stopped run left; all ranks take part.

    Raises ValueError where the output was made with other settings, or is no output of this program.
    """
    settings = {name: value for name, value in dataclasses.asdict(args).items() if name not in FREE_ON_RESUME}
    settings |= {"model": os.path.realpath(folder), "rows_sha256": parts.file_sha256(args.rows)}
    sidecar = Path(f"{args.output}.settings.json")

    def opened() -> set[str]:
        if os.path.exists(args.output) and not sidecar.exists():
            raise ValueError(f"--output {args.output} exists and has no {sidecar.name} beside it: give a new file")
        # Rows are told by their content: the file may have moved.
        parts.keep_settings(sidecar, settings, free={"rows"}, hint=f"give a new file to --output {args.output}")
        return {row["id"] for row in merge(args.output)}

    return parts.first_rank(opened)


def merge(output: str, questions: Sequence[Question] = ()) -> list[dict]:
    """All rates of an output, in the order of `questions` where given. Rank 0 alone."""
    return parts.merge(output, [question.id for question in questions], kind="pass rate")


# -- sampling ----------------------------------------------------------------------------------------------------------


def sample(args: PassRateArgs, folder: str, questions: Sequence[Question], device: torch.device) -> None:
    """Ask every question and append what came to this rank's part. All ranks take part."""
    processor = load_processor(folder)
    sampling = Sampling(args.rollouts, args.temperature, args.max_completion_tokens)

    def request(question: Question, prompt: Prompt) -> Request:
        return Request(prompt, sampling, visit_rng(args.seed, 0, f"{question.id}/pass rate").getrandbits(31))

    engine = build_engine(EngineSettings.of(args, sleep_level=0), folder, banned_ids(processor), device, bar=False)
    mine = share(questions, args.tensor_parallel)
    reader = Reader(processor, args, open_clips(args))
    chunks = in_chunks(
        engine,
        mine,
        lambda question: reader.prompt(question, reader.clips.submit(question).result()),
        request,
        title="pass rates",
        chunk=args.chunk,
        ahead=reader.clips.prefetch,
    )
    writes = dist.get_rank() % args.tensor_parallel == 0  # the ranks of one engine hold the same answers
    with open(f"{args.output}.part-{dist.get_rank():04d}" if writes else os.devnull, "w") as part:
        for chunk in chunks:
            parts.append(part, map(pass_rate, chunk))


def pass_rate(answered: Answered) -> dict:
    """One row of the output: null where the question could not be asked, with the reason in `error`.

    Of answers that may be right in part, `terms` has the mean of the score and of each term.
    """
    question, rollouts = answered.question, answered.rollouts
    row = {"id": question.id, "row": question.row, "data_source": question.data_source}
    row |= {"fingerprint": fingerprint(question), "rollouts": len(rollouts)}
    names = ("passes", "pass_rate", "mean_tokens", "unreadable", "truncated")
    if answered.error:
        return row | dict.fromkeys(names) | {"error": answered.error}
    facts = [verify(rollout.text, question) for rollout in rollouts]
    passes = sum(fact.right for fact in facts)
    terms = {name: sum(fact.terms[name] for fact in facts) / len(facts) for name in facts[0].terms}
    terms |= {"score": sum(fact.score for fact in facts) / len(facts)} if terms else {}
    tokens = sum(len(rollout.ids) for rollout in rollouts) / len(rollouts)
    unreadable = sum(fact.answer is None for fact in facts)
    truncated = sum(rollout.finish == "length" for rollout in rollouts)
    values = (passes, passes / len(rollouts), tokens, unreadable, truncated)
    return row | dict(zip(names, values, strict=True)) | ({"terms": terms} if terms else {}) | {"error": ""}


def report(rows: Sequence[dict], bad: Sequence[BadRow]) -> str:
    """Per source: rows, how many all right and all wrong, the mean pass rate in percent; and the means of `terms`."""
    lines, means = [], []
    sources = sorted({row["data_source"] for row in rows})
    for name, of in [(source, {source}) for source in sources] + [("all", set(sources))]:
        asked = [row for row in rows if row["data_source"] in of and not row["error"]]
        rates = [row["pass_rate"] for row in asked]
        lines.append(
            {
                "source": repr(name)[1:-1] or "-",
                "rows": sum(row["data_source"] in of for row in rows),
                "pass rate": 100 * sum(rates) / len(rates) if rates else None,
                "all right": rates.count(1.0),
                "all wrong": rates.count(0.0),
                "not asked": sum(bool(row["error"]) for row in rows if row["data_source"] in of),
                "mean tokens": sum(row["mean_tokens"] for row in asked) / len(asked) if asked else None,
            }
        )
        for term in dict.fromkeys(term for row in asked for term in row.get("terms", ())):
            found = [row["terms"][term] for row in asked if term in row.get("terms", ())]
            means.append(
                {"source": lines[-1]["source"], "term": term, "rows": len(found), "mean": 100 * sum(found) / len(found)}
            )
    remarks = [f"row {row['row']} was not asked: {row['error']}" for row in rows if row["error"]][:20]
    if bad:
        remarks.append(f"{len(bad)} rows are unusable and have no pass rate")
    tables = [table(part, list(part[0])) for part in (lines, means) if part]
    return "\n".join([*tables, *remarks])
