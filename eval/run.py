"""Pass rates of a file of rows: `rollouts` sampled completions a row, by the prompt and settings of training.

    torchrun --nproc_per_node 8 -m eval.run --model DIR --rows rows.jsonl --data-root videos --output pass_rates.jsonl

Every rank's engine takes its share of the rows. Finished rows are appended to `OUTPUT.part-RANK` after each chunk;
rank 0 merges the parts at the end, and at the next start if a run was stopped, on any number of ranks. What the rates
were made with stands in `OUTPUT.settings.json`. A row's seed comes from (seed, id) alone, so ranks, chunks and stops do
not change what is sampled, but for near ties of a 16-bit engine, whose last digit depends on what else it decodes.
`python -m data.filter` reads the rates.
"""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import transformers

import config
import parallel
from config import Config
from data.dataset import BadRow, load_questions, report_bad_rows
from data.filter import fingerprint
from data.reader import Reader, open_clips
from episode import Prompt, Question
from eval.answer import CHUNK, Answered, in_chunks, share
from model import banned_ids, load_processor, resolve_checkpoint
from parallel import gather_objects, is_main, print_main
from pictures import table
from rollout import EngineSettings, Request, Sampling, build_engine
from transforms import visit_rng
from verifiers import verify


@dataclass
class RunArgs:
    """Sample completions of rows and count how many are right: pass rates for `python -m data.filter`."""

    preset: config.Preset = "paper"
    """paper = Table 7; toy = the embedded world's sizes and prompt. Other flags override each."""
    model: str = ""
    """Folder of a Qwen3-VL checkpoint, or Qwen3-VL-2B / 4B / 8B (the hub's instruct checkpoint)."""
    rows: str = ""
    """JSON or JSONL file of rows."""
    data_root: str = ""
    """Folder that `path` of each row is relative to, and may not leave; empty = the folder of the file."""
    output: str = ""
    """JSONL of pass rates. Where it exists, its rows are done and the run goes on with the others."""
    rollouts: int = 8
    """Completions a row."""
    temperature: float = Config.temperature
    """Of sampling; training's."""
    seed: int = 0
    """With a row's id, the seed of its completions."""
    chunk: int = CHUNK
    """Rows an engine takes at a time: a stopped run loses at most one chunk a rank."""

    frames: int = Config.frames
    """Uniform frames per clip."""
    max_pixels: int = Config.max_pixels
    """Pixel budget of a clip."""
    min_frame_pixels: int = Config.min_frame_pixels
    """Lower pixel budget of a frame."""
    max_frame_pixels: int = Config.max_frame_pixels
    """Upper pixel budget of a frame, and of an image."""
    decode_workers: int = Config.decode_workers
    """Processes of each rank that decode the next chunk's clips while the engine works."""
    decode_timeout: float = Config.decode_timeout
    """Seconds a clip may take to decode; then its row gets no pass rate, and the reason."""
    cache_dir: str = Config.cache_dir
    """Folder for decoded frames, training's for instance; empty = decode anew."""
    cache_gb: float = Config.cache_gb
    """Most that --cache-dir may hold."""
    null_option: Literal["video", "all", "off"] = Config.null_option
    """Which multiple-choice questions get "None of the above", as in training."""
    system_prompt: str = Config.system_prompt
    """paper = App. B.1's text; anything else is used as it is (empty = no system turn)."""
    answer_request: str = Config.answer_request
    """Last line of the user turn; paper = the donor recipe's request for a boxed answer."""

    max_prompt_tokens: int = Config.max_prompt_tokens
    """Longest prompt; a row with a longer one gets no pass rate, and the reason."""
    max_completion_tokens: int = Config.max_completion_tokens
    """Longest completion."""
    engine: Literal["vllm", "hf"] = Config.engine
    """hf = plain transformers generation, for machines that vLLM does not support."""
    dtype: Literal["bfloat16", "float32"] = Config.dtype
    """Compute type of the engine."""
    tensor_parallel: int = Config.tensor_parallel
    """Ranks that share one engine; must divide the ranks of a node."""
    engine_memory: float = 0.9
    """Fraction of GPU memory the engine may hold; no trainer stands beside it."""
    engine_cpu_cache_mb: int = Config.engine_cpu_cache_mb
    """Size of the engine's KV cache on a machine without a GPU, in MiB."""
    engine_sequences: int = Config.engine_sequences
    """Sequences the engine decodes at a time."""
    engine_eager: bool = Config.engine_eager
    """Skip CUDA graphs (always skipped on a CPU)."""


FREE_ON_RESUME = {
    "preset", "data_root", "output", "chunk", "tensor_parallel", "engine_memory", "engine_cpu_cache_mb",
    "engine_sequences", "engine_eager", "decode_workers", "decode_timeout", "cache_dir", "cache_gb",
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    args = config.parse(argv, RunArgs)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # read before the engine: vLLM overwrites it
    device = parallel.start(timeout_minutes=24 * 60)  # ranks meet at the end alone, and one may have the longer clips
    try:
        check(args, local_ranks)
        folder = resolve_checkpoint(args.model)
        root = args.data_root or os.path.dirname(os.path.abspath(args.rows))
        # Files are not looked for here: a missing clip gets its reason in the output, as a damaged one does.
        questions, bad = load_questions(args.rows, root, null_option=args.null_option, check_files=False)
        done = open_output(args, folder)
    except (ValueError, OSError) as error:
        if is_main():
            print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.excepthook = parallel.die_at_once
    print_main("\n".join([f"{len(questions)} rows, {len(done)} done", *report_bad_rows(bad)]))
    left = [question for question in questions if question.id not in done]
    if left:
        sample(args, folder, left, device)
    dist.barrier()
    if is_main():
        print(report(merge(args.output, questions), bad))
    parallel.leave()


def check(args: RunArgs, ranks_per_node: int) -> None:
    """Laws of the settings; ValueError with one line."""
    for name in ("model", "rows", "output"):
        if not getattr(args, name):
            raise ValueError(f"--{name} is missing; see python -m eval.run --help")
    for name in ("rollouts", "chunk", "decode_workers", "tensor_parallel", "max_completion_tokens", "engine_sequences"):
        if getattr(args, name) < 1:
            raise ValueError(f"{config.flag(name, getattr(args, name))} must be at least 1")
    if args.model == "toy":
        raise ValueError("--model is missing: the toy's is toy/warm_start_checkpoint")
    if ranks_per_node % args.tensor_parallel:
        raise ValueError(f"--tensor-parallel {args.tensor_parallel} must divide a node's {ranks_per_node} ranks")
    for name in ("decode_timeout", "cache_gb"):
        if not getattr(args, name) > 0:
            raise ValueError(f"{config.flag(name, getattr(args, name))} must be positive")
    if args.temperature < 0 or (args.temperature == 0 and args.rollouts > 1):
        raise ValueError(f"--temperature must be positive, or 0 with --rollouts 1; got {args.temperature}")
    if args.frames < 2 or args.frames % 2:
        raise ValueError(f"--frames must be even, two make one token row; got {args.frames}")
    if not config.CELL <= args.min_frame_pixels <= args.max_frame_pixels:
        raise ValueError(
            f"--min-frame-pixels {args.min_frame_pixels} must be at least {config.CELL} and at most "
            f"--max-frame-pixels {args.max_frame_pixels}"
        )


# -- output: appended in parts, merged by rank 0 -----------------------------------------------------------------------


def open_output(args: RunArgs, folder: str) -> set[str]:
    """Ids of the rows that are done. Merges what a stopped run left; all ranks take part.

    Raises ValueError where the output was made with other settings, or is no output of this program.
    """
    settings = {name: value for name, value in dataclasses.asdict(args).items() if name not in FREE_ON_RESUME}
    settings |= {"model": os.path.realpath(folder), "rows_sha256": file_sha256(args.rows)}
    sidecar = Path(f"{args.output}.settings.json")
    if sidecar.exists():
        try:
            before = dict(json.loads(sidecar.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{sidecar}: is not the settings file of --output {args.output}: {error}") from error
        # Rows are told by their content: the file may have moved.
        changed = [name for name in settings if name != "rows" and before.get(name) != settings[name]]
        if changed:
            lines = "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in changed)
            raise ValueError(f"--output {args.output} holds pass rates of other settings ({lines}): give a new file")
    elif os.path.exists(args.output):
        raise ValueError(f"--output {args.output} exists and has no {sidecar.name} beside it: give a new file")
    dist.barrier()  # nobody may write before everybody has looked
    done: set[str] = set()
    if is_main():
        sidecar.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(f"{sidecar}.{os.getpid()}")
        scratch.write_text(json.dumps(settings, indent=2))
        scratch.replace(sidecar)
        done = {row["id"] for row in merge(args.output)}
    return gather_objects(done)[0]


def file_sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def merge(output: str, questions: Sequence[Question] = ()) -> list[dict]:
    """Join the parts into the output, in the order of `questions` where given; returns its rows. Rank 0 alone."""
    parts = sorted(glob.glob(f"{glob.escape(output)}.part-*"))
    files = [output, *parts] if os.path.exists(output) else parts
    rows = {row["id"]: row for file in files for row in whole_rows(file)}
    order = {question.id: at for at, question in enumerate(questions)}
    merged = sorted(rows.values(), key=lambda row: order.get(row["id"], -1))
    if parts:
        scratch = f"{output}.{os.getpid()}"
        with open(scratch, "w") as file:
            file.writelines(json.dumps(row) + "\n" for row in merged)
        os.replace(scratch, output)
        for part in parts:
            os.unlink(part)
    return merged


def whole_rows(path: str) -> list[dict]:
    """Rows of an output or a part; its last line may be torn (a kill, a full disk) and is then left out.

    Raises ValueError with the line number where another line is none of ours.
    """
    rows = []
    lines = Path(path).read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            valid = isinstance(row, dict) and isinstance(row.get("id"), str) and number < len(lines)
        except ValueError:
            valid = False
        if valid:
            rows.append(row)
        elif number < len(lines):
            raise ValueError(f"{path}:{number} is not a pass rate")
    return rows


# -- sampling ----------------------------------------------------------------------------------------------------------


def sample(args: RunArgs, folder: str, questions: Sequence[Question], device: torch.device) -> None:
    """Ask every question and append what came to this rank's part. All ranks take part."""
    processor = load_processor(folder)
    sampling = Sampling(args.rollouts, args.temperature, args.max_completion_tokens)

    def request(question: Question, prompt: Prompt) -> Request:
        return Request(prompt, sampling, visit_rng(args.seed, 0, f"{question.id}/pass rate").getrandbits(31))

    engine = build_engine(EngineSettings.of(args, sleep_level=0), folder, banned_ids(processor), device)
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
            part.writelines(json.dumps(pass_rate(answered)) + "\n" for answered in chunk)
            part.flush()
            os.fsync(part.fileno())


def pass_rate(answered: Answered) -> dict:
    """One row of the output: null where the question could not be asked, with the reason in `error`."""
    question, rollouts = answered.question, answered.rollouts
    row = {"id": question.id, "row": question.row, "data_source": question.data_source}
    row |= {"fingerprint": fingerprint(question), "rollouts": len(rollouts)}
    names = ("passes", "pass_rate", "mean_tokens", "unreadable", "truncated")
    if answered.error:
        return row | dict.fromkeys(names) | {"error": answered.error}
    facts = [verify(rollout.text, question) for rollout in rollouts]
    passes = sum(fact.score > 0 for fact in facts)
    tokens = sum(len(rollout.ids) for rollout in rollouts) / len(rollouts)
    unreadable = sum(fact.answer is None for fact in facts)
    truncated = sum(rollout.finish == "length" for rollout in rollouts)
    values = (passes, passes / len(rollouts), tokens, unreadable, truncated)
    return row | dict(zip(names, values, strict=True)) | {"error": ""}


def report(rows: Sequence[dict], bad: Sequence[BadRow]) -> str:
    """Per source: rows, how many were all right and all wrong, the mean pass rate in percent."""
    lines = []
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
    remarks = [f"row {row['row']} was not asked: {row['error']}" for row in rows if row["error"]][:20]
    if bad:
        remarks.append(f"{len(bad)} rows are unusable and have no pass rate")
    return "\n".join([table(lines, list(lines[0])), *remarks])


if __name__ == "__main__":
    main()
