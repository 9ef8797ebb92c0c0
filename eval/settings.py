"""The command lines of `python -m eval.run` and the laws of their settings: benchmarks, and pass rates of rows.

Both ask a checkpoint about clips, so most flags are common to them; what the paper leaves unsaid of its evaluation
(App. B.2 says: VLMEvalKit, 32 uniform frames, greedy) is a flag here, its default stands in its help, and what a run
used stands in its settings file and in every result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import config
from config import CELL, Config
from eval.answer import CHUNK
from eval.shown import Setting
from transforms import COUNTERFACTUALS, IDENTITY


@dataclass
class AskArgs:
    """What asking a model about clips takes, whatever is asked."""

    preset: config.Preset = "paper"
    """paper = the defaults below; toy = the embedded world's sizes and prompt. Other flags override each."""
    model: str = ""
    """Folder of a Qwen3-VL checkpoint, or Qwen3-VL-2B / 4B / 8B (the hub's instruct checkpoint)."""
    data_root: str = ""
    """Folder that `path` of each row is relative to, and may not leave; empty = the folder of the file."""
    output: str = ""
    """What is written."""
    seed: int = 0
    """Of all that is drawn."""
    chunk: int = CHUNK
    """Questions an engine takes at a time: a stopped run loses at most one chunk a rank."""

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
    """Seconds a clip may take to decode; then its question is not asked, and the reason is written."""
    cache_dir: str = Config.cache_dir
    """Folder for decoded frames, training's for instance; empty = decode anew."""
    cache_gb: float = Config.cache_gb
    """Most that --cache-dir may hold."""
    system_prompt: str = Config.system_prompt
    """paper = App. B.1's text; anything else is used as it is (empty = no system turn)."""
    answer_request: str = Config.answer_request
    """Last line of the user turn; paper = the donor recipe's request for a boxed answer."""

    max_prompt_tokens: int = Config.max_prompt_tokens
    """Longest prompt; a question with a longer one is not asked, and the reason is written."""
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


FREE_ON_RESUME = frozenset((
    "preset", "data_root", "output", "chunk", "tensor_parallel", "engine_memory", "engine_cpu_cache_mb",
    "engine_sequences", "engine_eager", "decode_workers", "decode_timeout", "cache_dir", "cache_gb",
))  # fmt: skip
"""Settings that may differ from those of the run that is gone on with: no answer depends on them."""


@dataclass
class PassRateArgs(AskArgs):
    """Sample completions of rows and count how many are right: pass rates for `python -m data.filter`."""

    rows: str = ""
    """JSON or JSONL file of rows."""
    output: str = ""
    """JSONL of pass rates. Where it exists, its rows are done and the run goes on with the others."""
    rollouts: int = 8
    """Completions a row."""
    temperature: float = Config.temperature
    """Of sampling; training's."""
    null_option: Literal["video", "all", "off"] = Config.null_option
    """Which multiple-choice questions get "None of the above", as in training."""


GROUPS = {
    "tempcompass": ("tempcompass_multi_choice", "tempcompass_yes_no", "tempcompass_caption_matching"),
}
"""A benchmark of several question files -> those that `--benchmarks` means by its name."""


@dataclass
class BenchmarkArgs(AskArgs):
    """Answer benchmarks greedily and score them. (With --rows FILE: pass rates of rows; --rows FILE --help.)"""

    benchmarks: tuple[
        Literal[
            "dybench", "timeblind", "tempcompass", "videomme", "mvbench", "tempcompass_multi_choice",
            "tempcompass_yes_no", "tempcompass_caption_matching", "tempcompass_captioning", "charades_sta",
            "activitynet", "nextgqa", "got10k",
        ], ...,
    ] = ()  # fmt: skip
    """Which; tempcompass = its three sub-tasks that need no judge, the fourth is captioning, by its own name."""
    files: tuple[str, ...] = ()
    """NAME=FILE: question files of benchmarks that do not lie where their release puts them under --data-root."""
    pairs: str = ""
    """Rows of your own with pair_id, side and subtask (JSON or JSONL), as a benchmark named "pairs": asked and read as
    by train.py --eval-file, so give --system-prompt and pixel budgets of that run."""
    data_root: str = ""
    """Folder that holds the releases (see --files); of --pairs, the folder of the file if empty."""
    output: str = ""
    """Folder of the run. Where it exists, what it answers is done and the run goes on with the rest."""
    label: str = ""
    """The model's name in reports; empty = the name of the output folder."""
    shown: tuple[Setting, ...] = (IDENTITY,)
    """What of a clip: identity = all; single_frame, shuffled, text_only = what a shortcut needs (App. A.4, Table 4);
    horizontal_flip, temporal_reverse = its counterfactual, to compare the answers with identity's (Fig. 1, left)."""
    clue_driven: bool = False
    """VideoChat-R1's inference: ask for the clue in the clip first, then the question about the part around it."""
    clue_margin: float = 1.0
    """Seconds kept on either side of the clue (not published)."""
    accept_missing: bool = False
    """Score a benchmark although some of its questions could not be asked: each counts as wrong. Rows that are no
    questions are an error all the same."""

    model: str = ""
    """A Qwen3-VL checkpoint (folder, or Qwen3-VL-2B / 4B / 8B), any open model (vllm-generic), an endpoint's name."""
    engine: Literal["vllm", "hf", "vllm-generic", "openai"] = Config.engine
    """vllm-generic = any multimodal model that vLLM runs, openai = an endpoint: both get the frames as images."""
    max_pixels: int = 16 * 768 * CELL
    """Pixel budget of a clip: VLMEvalKit's (qwen-vl-utils' 768 tokens a frame pair). Training's is 2097152."""
    min_frame_pixels: int = 128 * CELL
    """Lower pixel budget of a frame: VLMEvalKit's (qwen-vl-utils). Training's is 16384."""
    system_prompt: str = ""
    """Empty = none, as VLMEvalKit gives Qwen3-VL; paper = App. B.1's, of training; anything else is used as it is."""
    answer_request: str = Config.answer_request
    """Last line of the user turn of --pairs; paper = training's. The benchmarks' own prompts stay as they are."""
    max_prompt_tokens: int = 16384
    """Longest prompt; a question with a longer one is not asked, and is listed."""

    base_url: str = ""
    """Of the OpenAI-compatible endpoint, up to and with /v1."""
    api_key_env: str = ""
    """Environment variable that holds the endpoint's key."""
    body: str = "{}"
    """JSON: further fields of each request to the endpoint; null leaves one out ({"temperature": null})."""
    concurrency: int = 8
    """Requests to the endpoint under way at a time."""
    requests_per_minute: float | None = None
    """At most so many, retries included."""
    deadline: float = 300.0
    """Seconds that one request may take."""
    tries: int = 6
    """Requests for one reply at the most: after 429, 5xx, a timeout or a cut connection."""
    backoff: float = 1.0
    """Seconds before the second try, doubled before each further one."""


FREE_IN_A_RUN = FREE_ON_RESUME | frozenset((
    "benchmarks", "files", "pairs", "label", "shown", "accept_missing", "api_key_env", "concurrency",
    "requests_per_minute", "deadline", "tries", "backoff",
))  # fmt: skip
"""The same of a benchmark run, to which further benchmarks and settings of --shown may be added."""


_SECRET = re.compile(r"api.?key|access.?token|auth|secret|password|credential", re.IGNORECASE)


def check_pass_rates(args: PassRateArgs, ranks_per_node: int) -> None:
    """Laws of the settings; ValueError with one line."""
    _present(args, "model", "rows", "output")
    _at_least_one(args, "rollouts")
    if args.temperature < 0 or (args.temperature == 0 and args.rollouts > 1):
        raise ValueError(f"--temperature must be positive, or 0 with --rollouts 1; got {args.temperature}")
    _check(args, ranks_per_node)


def check_benchmarks(args: BenchmarkArgs, ranks: int, ranks_per_node: int) -> None:
    """Laws of the settings; ValueError with one line."""
    if not args.benchmarks and not args.pairs:
        raise ValueError("--benchmarks is missing (or --pairs FILE; or --rows FILE for pass rates); see --help")
    _present(args, "model", "output", *(("data_root",) if args.benchmarks else ()))
    _at_least_one(args, "concurrency", "tries")
    if not args.shown or len(set(args.shown)) < len(args.shown):
        raise ValueError(f"--shown must name each setting once, at least one; got {' '.join(args.shown)!r}")
    if IDENTITY not in args.shown and (alone := set(args.shown) & set(COUNTERFACTUALS)):
        raise ValueError(f"--shown {min(alone)} is compared with the clip as it is: name {IDENTITY}, too")
    names = {name for benchmark in args.benchmarks for name in GROUPS.get(benchmark, (benchmark,))}
    for given in args.files:
        name, _, file = given.partition("=")
        if not file or name not in names:
            raise ValueError(f"--files {given} must be NAME=FILE, NAME one of {', '.join(sorted(names)) or 'none'}")
    if args.clue_driven and (args.shown != (IDENTITY,) or args.pairs):
        raise ValueError("--clue-driven looks at parts of the clip: drop --shown and --pairs")
    if args.clue_driven and (open_ones := names & {"charades_sta", "activitynet", "got10k", "tempcompass_yes_no"}):
        raise ValueError(f"--clue-driven needs options to choose from; {', '.join(sorted(open_ones))} has none")
    if not 0 <= args.clue_margin < float("inf"):
        raise ValueError(f"--clue-margin must be 0 or more seconds; got {args.clue_margin}")
    if args.engine == "openai":
        _check_endpoint(args, ranks)
    _check(args, ranks_per_node)


def _names(value: object) -> Iterator[str]:
    """Of the fields of a JSON value, however deep."""
    if isinstance(value, dict):
        yield from value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _names(part)


def _check_endpoint(args: BenchmarkArgs, ranks: int) -> None:
    if not args.base_url:
        raise ValueError("--engine openai needs --base-url, such as https://host/v1")
    if ranks > 1:
        raise ValueError(f"--engine openai asks from one process, this is one of {ranks}: start it without torchrun")
    try:
        body = json.loads(args.body)
    except ValueError as error:
        raise ValueError(f"--body must be a JSON object: {error}") from error
    if not isinstance(body, dict):
        raise ValueError(f"--body must be a JSON object, got {args.body}")
    if secret := next((name for name in _names(body) if _SECRET.search(name)), None):
        raise ValueError(f"--body holds {secret!r}, and is written to settings.json: give the key by --api-key-env")
    limit = 1.0 if args.requests_per_minute is None else args.requests_per_minute
    # Written so that NaN fails, too.
    if not (args.deadline > 0 and limit > 0 and args.backoff >= 0):
        raise ValueError("--deadline and --requests-per-minute must be above 0, --backoff at least 0")


def _check(args: AskArgs, ranks_per_node: int) -> None:
    _at_least_one(args, "chunk", "decode_workers", "tensor_parallel", "max_completion_tokens", "engine_sequences")
    if args.model == "toy":
        raise ValueError("--model is missing: the toy's is toy/warm_start_checkpoint")
    if ranks_per_node % args.tensor_parallel:
        raise ValueError(f"--tensor-parallel {args.tensor_parallel} must divide a node's {ranks_per_node} ranks")
    for name in ("decode_timeout", "cache_gb"):
        if not getattr(args, name) > 0:
            raise ValueError(f"{config.flag(name, getattr(args, name))} must be positive")
    if args.frames < 2 or args.frames % 2:
        raise ValueError(f"--frames must be even, two make one token row; got {args.frames}")
    if not CELL <= args.min_frame_pixels <= args.max_frame_pixels:
        raise ValueError(
            f"--min-frame-pixels {args.min_frame_pixels} must be at least {CELL} and at most --max-frame-pixels "
            f"{args.max_frame_pixels}"
        )


def _present(args: AskArgs, *names: str) -> None:
    for name in names:
        if not getattr(args, name):
            raise ValueError(f"--{name.replace('_', '-')} is missing; see python -m eval.run --help")


def _at_least_one(args: AskArgs, *names: str) -> None:
    for name in names:
        if getattr(args, name) < 1:
            raise ValueError(f"{config.flag(name, getattr(args, name))} must be at least 1")
