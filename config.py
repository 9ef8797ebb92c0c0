"""Every setting of a run: one flat dataclass, the field docs are the `--help`, the defaults are the paper's Table 7.

Only `train.py`, `eval/` and scripts read this object; functions elsewhere receive the values they need.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Literal, TypeVar

import tyro

CELL = 32 * 32  # pixels of one merged vision token; Table 7 counts its budgets in these


Preset = Literal["paper", "toy", "video-r1"]
T = TypeVar("T")


@dataclass
class Config:
    """CRPO: Counterfactual Relational Policy Optimization for Video LLMs (paper: arXiv 2605.21988)."""

    # -- what runs ---------------------------------------------------------------------------------------------------
    preset: Preset = "paper"
    """paper = Table 7; toy = the embedded world, small enough for two CPU cores; video-r1 = Table 7 with T-GRPO as its
    authors' code has it (threshold 0.8, G/2 shuffled rollouts, length bonus). Other flags override each."""
    method: str = "crpo"
    """Row of methods.py: crpo, grpo, t_grpo, arrow_rl, or augment (App. E's control: the second view keeps the
    original label)."""
    model: str = "Qwen3-VL-4B"
    """Folder of a Qwen3-VL checkpoint, or Qwen3-VL-2B / 4B / 8B (the hub's instruct checkpoint)."""
    train_file: str = ""
    """Rows to train on: JSON or JSONL in Video-R1's format, optionally with task_type, start, end."""
    eval_file: str = ""
    """Paired rows (pair_id, side, subtask) to evaluate before, during and after; empty = no evaluation."""
    data_root: str = ""
    """Folder that `path` of each row is relative to, and may not leave; empty = the folder of the file."""
    run_dir: str = "runs/run"
    """Everything a run writes."""
    seed: int = 0
    """Seeds the order of questions, the coin of each transform and every rollout."""
    max_steps: int = 0
    """Rounds to run (a round = one generation); 0 = one epoch, in which --repeat-data counts."""
    save_every: int = 20
    """Rounds between checkpoints; 0 = only by --save-minutes, on SIGTERM and at the end."""
    save_minutes: float = 30.0
    """Minutes after which a round's end saves a checkpoint anyway; 0 = only by --save-every."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept."""
    keep_best: str = "eval/pair_acc"
    """Metric whose highest value marks the best checkpoint, kept beside the newest; only rounds that have it when they
    are saved count. Empty = none."""
    resume: str = "auto"
    """auto = go on from the newest whole checkpoint of run_dir if there is one; never = refuse a used run_dir; or a
    checkpoint (RUN_DIR/checkpoints/step_NNNNNN) of another run, to begin from while run_dir has none of its own."""
    eval_every: int = 20
    """Rounds between evaluations; 0 = only before and after."""
    samples_every: int = 5
    """Rounds between filmstrips in TensorBoard and rows in samples.jsonl; 0 = none."""
    toy_bias: float = 0.97
    """Toy preset: how often the colour of a training clip gives the dynamic answer away."""
    export: bool = True
    """Write a Hugging Face folder at the end (run_dir/export)."""

    # -- data --------------------------------------------------------------------------------------------------------
    frames: int = 32
    """Uniform frames per clip (inclusive linspace); Table 7."""
    max_pixels: int = 2048 * CELL
    """Pixel budget of a clip; Table 7. Two frames share one row of vision tokens, so 32 frames may hold twice this."""
    min_frame_pixels: int = 16 * CELL
    """Lower pixel budget of a frame; Table 7."""
    max_frame_pixels: int = 768 * CELL
    """Upper pixel budget of a frame, and of an image; Table 7."""
    null_option: Literal["video", "all", "off"] = "video"
    """Which multiple-choice questions get "None of the above" in training (Sec. 3); the same for every method."""
    flip: bool = True
    """Horizontal flip may be drawn (Table 2, "w/o Spatial Flip" = --no-flip)."""
    reverse: bool = True
    """Temporal reversal may be drawn (Table 2, "w/o Temporal Reversal" = --no-reverse)."""
    repeat_data: int = 1
    """Visits of each row per epoch (Table 2, "Data x 2" = 2), each with a transform and rollouts of its own."""
    decode_workers: int = 4
    """Processes of each rank that decode clips and images, ahead of the round that reads them."""
    decode_timeout: float = 60.0
    """Seconds a clip may take to decode; then its process is killed, and the clip is quarantined."""
    cache_dir: str = ""
    """Folder for decoded frames (on a fast disk, shared by ranks and runs); empty = decode anew each time."""
    cache_gb: float = 100.0
    """Most that --cache-dir may hold; what was not read for longest goes first."""
    system_prompt: str = "paper"
    """paper = App. B.1's text; anything else is used as it is (empty = no system turn)."""
    answer_request: str = "paper"
    """Last line of the user turn; paper = the donor recipe's request for a boxed answer."""

    # -- rollout -----------------------------------------------------------------------------------------------------
    questions: int = 128
    """N, questions of a round over all ranks (Table 7: 4 per device x 32 x 8 steps / G)."""
    rollouts: int = 8
    """G, rollouts per group; Table 7."""
    updates: int = 8
    """Optimizer steps a round; its questions are split into this many mini-batches. Table 7, "generation steps"."""
    temperature: float = 1.0
    """Sampling temperature; the trainer divides its logits by it too."""
    max_prompt_tokens: int = 8192
    """Longest prompt, video tokens included; a longer one is quarantined, never cut. Table 7."""
    max_completion_tokens: int = 2048
    """Longest completion; Table 7."""
    engine: Literal["vllm", "hf"] = "vllm"
    """hf = plain transformers generation, for machines that vLLM does not support."""
    tensor_parallel: int = 1
    """Ranks that share one engine (paper: 8); must divide the ranks of a node. 0 = by the GPU: rollout.ENGINE_RANKS."""
    engine_memory: float = 0.45
    """Fraction of GPU memory the engine may hold while awake; Table 7."""
    engine_cpu_cache_mb: int = 256
    """Size of the engine's KV cache on a machine without a GPU, in MiB."""
    engine_sequences: int = 256
    """Sequences the engine decodes at a time."""
    engine_eager: bool = False
    """Skip CUDA graphs (always skipped on a CPU)."""
    sleep_level: Literal[0, 1, 2] = 1
    """What the engine gives back while the trainer holds the GPU: 0 nothing, 1 weights to host memory, 2 drops them."""

    # -- reward and advantage ----------------------------------------------------------------------------------------
    lambda_d: float = 0.3
    """lambda_d of Eq. 2 and 5, dynamic questions."""
    lambda_s: float = 0.3
    """lambda_s of Eq. 2 and 5, static questions."""
    w_aug: float = 0.5
    """w_aug of Eq. 3; 0 also takes the counterfactual branch out of the loss (Table 2)."""
    crr: bool = True
    """R_CRR (Table 2, "w/o R_CRR" = --no-crr)."""
    behave: bool = True
    """R_behave as an additive term (Table 2, "w/o R_behave" = --no-behave)."""
    invalid_counts_as_change: bool = False
    """Eq. 4 to the letter: an unreadable counterfactual answer has "changed"."""
    temporal_bonus: float = 0.3
    """t_grpo: bonus on each correct rollout while the shuffled clip does no better (App. B.3)."""
    temporal_threshold: float = 1.0
    """t_grpo: bonus where p >= threshold * p_shuffled; 1.0 in the paper's comparison, 0.8 in Video-R1's code."""
    shuffled_share: float = 1.0
    """t_grpo: rollouts on the shuffled clip over G; 1 in the paper's comparison, 0.5 in Video-R1's code."""
    length_bonus: float = 0.0
    """t_grpo, grpo: bonus on correct rollouts of 320 to 512 tokens; 0.2 in Video-R1's code, absent in the comparison.
    Video-STR has a length reward, too."""
    arrow_alpha: float = 0.25
    """arrow_rl: weight of the reverse reward (App. B.3)."""
    arrow_as_printed: bool = False
    """arrow_rl: alpha active where the reversed answer EQUALS gold, as App. B.3 prints it; the original is opposite."""
    arrow_greedy: bool = False
    """arrow_rl: decode the reference on the reversed clip greedily (unstated; default: one sample)."""
    strict_match: bool = False
    """Upstream's answer match, where "A." and "A. text" are not "A"."""
    lenient_format: bool = False
    """Allow prose between and after the think block and the box (upstream's pattern)."""
    caption_judge: str = ""
    """Who tells which events a caption recalls: MODEL@URL of an OpenAI-compatible endpoint; empty = its words do."""
    std_scope: Literal["branch", "joint", "batch"] = "joint"
    """What shares one standard deviation: each group, a CRPO question's two branches (Sec. 3), or the whole round."""

    # -- update ------------------------------------------------------------------------------------------------------
    lr: float = 1e-6
    """AdamW learning rate; Table 7."""
    lr_schedule: Literal["constant", "linear"] = "constant"
    """After warm-up: constant (Table 7), or linear to zero at the end of the run."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up (Table 7 names a warm-up, its donor recipe has none)."""
    weight_decay: float = 0.01
    """AdamW; Table 7 (betas .9, .999)."""
    max_grad_norm: float = 1.0
    """Table 7."""
    clip_eps: float = 0.2
    """epsilon of Eq. 6."""
    importance_cap: float = 0.0
    """Correct for the engine's other arithmetic: weigh each token's clipped objective by exp(old - engine log-prob), at
    most this; 0 = no weight, Eq. 6 to the letter (TRL's and verl's usual cap is 2)."""
    mask_truncated: bool = False
    """Leave rollouts that ran into the length limit out of the loss (they still count in their group's mean)."""
    kl_coef: float = 0.01
    """beta, k3 KL against the frozen start model; 0 loads no reference. Table 7."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Compute type of trainer and engine; master weights, reductions and optimizer are float32 in either case."""
    gradient_checkpointing: bool = True
    """Recompute layers in the backward pass; Table 7."""
    tokens_per_pack: int = 16384
    """Packed tokens a forward pass may hold; a longer group is split, its prompt repeated (one completion always fits).
    Fewer passes gather fewer weights, longer ones keep more activations."""
    shard_ranks: int = 0
    """Ranks over which weights are sharded (HSDP: those of a node), replicated across the others; 0 = all (FSDP)."""
    checksum_every: int = 50
    """Rounds between comparisons of every engine tensor with the trainer's (always after the first sync); 0 = never."""
    gap_limit: float = 0.05
    """Trainer-engine gap in nats (policy/engine_gap_mean); a run that stands above it for 3 rounds in a row ends. 0 =
    none does."""
    max_skips: int = 5
    """Optimizer steps in a row, skipped because loss or gradient is not finite, before the run ends."""
    phase_timeout: float = 30.0
    """Minutes that a phase (the start, draw, generate, ..., save) may take; then every rank writes its stacks and the
    run ends. 0 = any."""
    scripted_reward: bool = False
    """Pay completions by a fixed rule on their text (share of even token ids) instead of their answer: a random model
    earns nothing real, and this shows that gradients, sync and export work on your machine. Not training."""


TOY = dict(
    model="toy",
    run_dir="runs/toy",
    frames=8,
    max_pixels=16 * CELL,
    min_frame_pixels=4 * CELL,
    max_frame_pixels=4 * CELL,
    decode_workers=1,
    system_prompt="Think, then answer in \\boxed{}.",
    answer_request="",
    questions=24,
    updates=1,
    eval_every=10,
    save_every=20,
    max_prompt_tokens=512,
    max_completion_tokens=32,
    lr=4e-4,
    warmup_steps=10,
    lr_schedule="linear",
    gradient_checkpointing=False,
    checksum_every=10,
    tokens_per_pack=512,
    engine_sequences=128,
)
VIDEO_R1 = dict(method="t_grpo", temporal_threshold=0.8, shuffled_share=0.5, length_bonus=0.2)
PRESETS = {"paper": {}, "toy": TOY, "video-r1": VIDEO_R1}


def parse(args: list[str] | None = None, kind: type[T] = Config) -> T:
    """Command line -> Config: the preset's values, every other flag over them. Exits with one line on a mistake.

    `kind`: the settings of another command, with `preset` and whichever of Config's fields it needs.
    """
    preset, _ = tyro.cli(_Preset, args=args, return_unknown_args=True, add_help=False)
    names = {field.name for field in dataclasses.fields(kind)}
    values = {name: value for name, value in PRESETS[preset.preset].items() if name in names}
    return tyro.cli(kind, args=args, default=kind(preset=preset.preset, **values))


@dataclass
class _Preset:
    preset: Preset = "paper"


METHOD_FLAGS = {
    **dict.fromkeys(("lambda_d", "lambda_s", "w_aug", "crr", "behave", "invalid_counts_as_change"), ("crpo",)),
    **dict.fromkeys(("flip", "reverse"), ("crpo", "augment")),
    **dict.fromkeys(("temporal_bonus", "temporal_threshold", "shuffled_share"), ("t_grpo",)),
    **dict.fromkeys(("length_bonus",), ("t_grpo", "grpo")),
    **dict.fromkeys(("arrow_alpha", "arrow_as_printed", "arrow_greedy"), ("arrow_rl",)),
}
"""Field -> methods it has a meaning with."""


def flag(name: str, value: object) -> str:
    """A setting as typed on the command line."""
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{dashed}" if value else f"--no-{dashed}"
    return f"--{dashed} {value}"


def check(config: Config, ranks: int, ranks_per_node: int) -> None:
    """Laws between settings; ValueError with one line that says what must hold, both values, and what to change."""
    laws = [
        (config.rollouts >= 2, f"--rollouts must be at least 2 for a baseline; got {config.rollouts}"),
        (
            config.tensor_parallel >= 1 and ranks_per_node % config.tensor_parallel == 0,
            f"--tensor-parallel {config.tensor_parallel} must be at least 1 and divide a node's {ranks_per_node} ranks",
        ),
        (
            config.updates >= 1 and config.questions % config.updates == 0,
            f"--questions {config.questions} must be a multiple of --updates {config.updates}",
        ),
        (
            config.questions >= ranks,
            f"--questions {config.questions} a round must be at least the {ranks} ranks: each needs one to train on",
        ),
        (config.temperature > 0, f"--temperature must be positive; got {config.temperature}"),
        (
            config.frames >= 2 and config.frames % 2 == 0,
            f"--frames must be even, two make one token row; got {config.frames}",
        ),
        (config.flip or config.reverse, "--no-flip and --no-reverse together leave no counterfactual: drop one"),
        (
            config.shuffled_share * config.rollouts >= 1,
            f"--shuffled-share {config.shuffled_share} of --rollouts {config.rollouts} must be at least one rollout",
        ),
        (config.max_grad_norm > 0, f"--max-grad-norm must be positive (inf = no clipping); got {config.max_grad_norm}"),
        (config.seed >= 0, f"--seed must not be negative; got {config.seed}"),
        *(
            (0 <= getattr(config, name) < float("inf"), f"{flag(name, getattr(config, name))}: must be 0 or more")
            for name in (
                "lambda_d",
                "lambda_s",
                "w_aug",
                "temporal_bonus",
                "temporal_threshold",
                "length_bonus",
                "arrow_alpha",
                "weight_decay",
                "eval_every",
                "samples_every",
                "checksum_every",
            )
        ),
        *(
            (getattr(config, name) >= 1, f"{flag(name, getattr(config, name))}: must be at least 1")
            for name in ("engine_sequences", "engine_cpu_cache_mb", "max_prompt_tokens", "tokens_per_pack")
        ),
        (config.max_pixels >= CELL, f"--max-pixels {config.max_pixels} must be at least one cell, {CELL}"),
        (
            CELL <= config.min_frame_pixels <= config.max_frame_pixels,
            f"--min-frame-pixels {config.min_frame_pixels} must be at least {CELL} and at most --max-frame-pixels "
            f"{config.max_frame_pixels}",
        ),
        (config.decode_workers >= 1, f"--decode-workers must be at least 1; got {config.decode_workers}"),
        (config.decode_timeout > 0, f"--decode-timeout must be positive; got {config.decode_timeout}"),
        (config.cache_gb > 0, f"--cache-gb must be positive; got {config.cache_gb}"),
        (config.repeat_data >= 1, f"--repeat-data must be at least 1; got {config.repeat_data}"),
        (config.kl_coef >= 0, f"--kl-coef must not be negative; got {config.kl_coef}"),
        (config.warmup_steps >= 0, f"--warmup-steps must not be negative; got {config.warmup_steps}"),
        (config.max_steps >= 0, f"--max-steps must not be negative; got {config.max_steps}"),
        (config.save_every >= 0, f"--save-every must not be negative; got {config.save_every}"),
        (config.keep_checkpoints >= 1, f"--keep-checkpoints must be at least 1; got {config.keep_checkpoints}"),
        *(
            (0 <= getattr(config, name) < float("inf"), f"{flag(name, getattr(config, name))}: must be 0 or more")
            for name in ("save_minutes", "gap_limit", "phase_timeout")
        ),
        (config.max_skips >= 1, f"--max-skips must be at least 1; got {config.max_skips}"),
        (
            config.shard_ranks >= 0 and ranks % (config.shard_ranks or ranks) == 0,
            f"--shard-ranks {config.shard_ranks} must be 0 (all) or divide the {ranks} ranks",
        ),
        (config.max_completion_tokens >= 1, "--max-completion-tokens must be at least 1"),
        (config.lr >= 0, f"--lr must not be negative; got {config.lr}"),
        (
            config.importance_cap == 0 or 1 <= config.importance_cap < float("inf"),
            f"--importance-cap must be 0 (off) or at least 1, the weight of a token that trainer and engine agree on; "
            f"got {config.importance_cap}",
        ),
        (0 < config.clip_eps < 1, f"--clip-eps must lie between 0 and 1; got {config.clip_eps}"),
        (0 < config.engine_memory < 1, f"--engine-memory is a fraction of the GPU; got {config.engine_memory}"),
        (0 <= config.toy_bias <= 1, f"--toy-bias is a probability; got {config.toy_bias}"),
    ]
    for holds, line in laws:
        if not holds:
            raise ValueError(line)
    check_meaning(config)


def check_meaning(config: Config) -> None:
    """Flags that say nothing beside another one; ValueError with one line that names both."""
    usual = vars(Config())
    preset = PRESETS[config.preset]
    for name, methods in METHOD_FLAGS.items():
        value = getattr(config, name)
        if config.method not in methods and value != usual[name]:
            source = flag(name, value)
            if preset.get(name) == value:
                source = f"--preset {config.preset} sets {source}, which"
            raise ValueError(
                f"{source} has no meaning with --method {config.method}: it belongs to {' and '.join(methods)}; "
                "drop one of the two"
            )
    for silencer, holds, names in (
        ("--no-crr", not config.crr, ("lambda_d", "lambda_s")),
        ("--w-aug 0", config.w_aug == 0, ("behave", "crr")),
        ("--temporal-bonus 0", config.temporal_bonus == 0, ("temporal_threshold", "shuffled_share")),
        ("--arrow-alpha 0", config.arrow_alpha == 0, ("arrow_as_printed", "arrow_greedy")),
        ("--scripted-reward", config.scripted_reward, (*METHOD_FLAGS, "strict_match", "lenient_format")),
        ("--engine hf", config.engine == "hf", ("tensor_parallel", "sleep_level", "engine_memory", "engine_eager")),
        (f"--preset {config.preset}", config.preset != "toy", ("toy_bias",)),
    ):
        for name in names:
            value = getattr(config, name)
            if holds and name not in ("flip", "reverse") and value != (usual | preset)[name]:
                raise ValueError(f"{flag(name, value)} has no meaning with {silencer}: drop one of the two")


FREE_ON_RESUME = {
    "max_steps", "save_every", "save_minutes", "keep_checkpoints", "keep_best", "resume", "eval_every", "samples_every",
    "export", "run_dir", "checksum_every", "engine_memory", "engine_cpu_cache_mb", "engine_sequences", "engine_eager",
    "sleep_level", "tokens_per_pack", "gradient_checkpointing", "data_root", "tensor_parallel", "decode_workers",
    "decode_timeout", "cache_dir", "cache_gb", "shard_ranks", "gap_limit", "max_skips", "phase_timeout",
    "model",
}  # fmt: skip
"""Settings that no result of a run depends on. (`model` by its name: a fingerprint tells whether it is another.)"""


def check_same_run(config: Config, before: dict, where: str) -> None:
    """A run may go on only with its own settings; ValueError with one line that names each one that differs, and those
    that might. `before`: the settings it began with; `where`: what holds them."""
    now = dataclasses.asdict(config)
    linear = config.lr_schedule == "linear"  # the schedule ends with the last round
    free = FREE_ON_RESUME - ({"max_steps"} if linear else set())
    changed = [name for name in now if name not in free and before.get(name) != now[name]]
    if changed:
        lines = "; ".join(f"--{name.replace('_', '-')} was {before.get(name)}, is {now[name]}" for name in changed)
        may = ", ".join(sorted(name.replace("_", "-") for name in free))
        raise ValueError(
            f"{where} holds a run of other settings ({lines}): give a new --run-dir (what may change: {may})"
        )


def save(config: Config, run_dir: str) -> None:
    """Write the resolved settings to run_dir/config.json."""
    path = os.path.join(run_dir, "config.json")
    with open(f"{path}.part", "w") as file:
        json.dump(dataclasses.asdict(config), file, indent=2)
        file.flush()
        os.fsync(file.fileno())  # or a power cut leaves an empty one, and the run could not go on
    os.replace(f"{path}.part", path)  # a full disk leaves the old one


def read(run_dir: str) -> dict:
    """What `save` wrote. ValueError, one line, where it is no such thing."""
    path = os.path.join(run_dir, "config.json")
    try:
        with open(path) as file:
            values = json.load(file)
    except ValueError as error:
        raise ValueError(f"{path}: is not valid JSON ({error}): mend it, or remove it to go on without it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold an object of settings, has a {type(values).__name__}")
    return values
