"""Every number of a run: the table of names, (sum, count) pairs and one reduction a step, JSONL and TensorBoard.

`METRICS` is the documentation of `metrics.jsonl`: a name that is not in it cannot be emitted. A mean is kept as
(sum, count) until the one reduction of the step, so that ranks with unequal numbers of rollouts or tokens weigh right.

Axes: H, W, 3 picture height, width, colour.
"""

from __future__ import annotations

import contextlib
import html
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import distributed as dist
from torch.utils.tensorboard import SummaryWriter

PHASES = ("draw", "generate", "score", "pack", "old_ref", "update", "sync", "log", "eval", "round")

METRICS: dict[str, str] = {
    # Means over the rollouts of a round (paper Fig. 5a, 5c and Fig. 7). Terms stand before w_aug.
    "reward/correct": "R_correct of Eq. 1: fraction of original-branch rollouts whose answer is gold; or mean score",
    "reward/format": "R_format of the original branch: fraction of well-formed rollouts",
    "reward/behave": "R_behave, Eq. 4: fraction of counterfactual rollouts that left (dynamic) or kept (static) gold",
    "reward/cf_format": "R_format of the counterfactual branch: fraction of well-formed rollouts",
    "reward/crr_orig": "R_CRR^orig, Eq. 2: mean of I[correct] * lambda * mean(behave); 0..lambda",
    "reward/crr_aug": "R_CRR^aug, Eq. 5: mean of behave * lambda * mean(correct); 0..lambda; equals crr_orig up to G",
    "reward/original": "whole reward of the original branch, Eq. 1 (or the method's own)",
    "reward/counterfactual": "whole reward of the counterfactual branch, Eq. 3, w_aug applied",
    "reward/temporal": "T-GRPO's temporal bonus on the original branch; 0..bonus",
    "reward/length": "Video-R1's length bonus on the original branch; 0..bonus",
    "reward/shuffled_correct": "p of T-GRPO's shuffled group: fraction of its rollouts whose answer is gold",
    "reward/reverse": "ArrowRL's reverse bonus on the original branch; 0..alpha",
    "reward/reverse_correct": "fraction of ArrowRL's references on the reversed clip whose answer is gold",
    "reward/aug_correct": "standard augmentation: fraction of second-view rollouts that repeat the original label",
    "reward/*/*": "a published term of a graded type (reward/grounded_qa/iou) on the original branch; 0..1",
    "advantage/size": "mean |advantage| over trained rollouts",
    "advantage/without_auxiliary": "the same had CRR (or the temporal, length, reverse bonus) not been paid (App. F)",
    "advantage/auxiliary_shift": "mean |advantage - advantage without that term|: 0 where it cancels (App. F)",
    # Fractions of groups, or of questions (paper Fig. 5b).
    "group/zero_advantage": "fraction of trained groups whose G advantages are all zero",
    "group/zero_advantage_original": "the same over original-branch groups",
    "group/zero_advantage_counterfactual": "the same over counterfactual-branch groups",
    "group/all_correct": "fraction of original-branch groups with all G rollouts correct",
    "group/all_wrong": "fraction of original-branch groups with no rollout correct",
    "relation/dynamic_changed": "fraction of counterfactual rollouts of dynamic questions whose answer is not gold",
    "relation/static_kept": "fraction of counterfactual rollouts of static questions whose answer is gold",
    "relation/moved": "mean score of counterfactual rollouts against the gold that the transform moved; graded types",
    # Of the round's optimizer steps.
    "policy/loss": "minimised loss: -objective + beta * KL; Eq. 6's mean over tokens, G and questions",
    "policy/objective": "clipped objective of Eq. 6, before the sign is turned",
    "policy/kl": "k3 estimate of KL(policy || reference), nats a token",
    "policy/ratio_max": "largest probability ratio policy / old over all trained tokens",
    "policy/ratio_min": "smallest probability ratio policy / old over all trained tokens",
    "policy/clip_fraction": "fraction of trained tokens whose ratio lies outside 1 +- epsilon",
    "policy/importance_mean": "mean weight exp(old - engine log-prob) of trained tokens, truncated at --importance-cap",
    "policy/importance_truncated": "fraction of trained tokens whose weight was truncated",
    "policy/entropy": "mean entropy of the policy's next-token distribution, nats",
    "policy/grad_norm": "L2 norm of the gradient before clipping, mean over the round's updates",
    "policy/lr": "learning rate, mean over the round's updates",
    "policy/engine_gap_mean": "mean |trainer log-prob - engine log-prob| over sampled tokens, nats",
    "policy/engine_gap_max": "the largest of them over all ranks, nats",
    "policy/logp_mean": "mean log-probability of the sampled tokens under the policy, nats",
    "rollout/completion_tokens": "mean length of a completion, tokens",
    "rollout/completion_tokens_max": "longest completion of the round, tokens",
    "rollout/prompt_tokens": "mean length of a prompt with its video, tokens",
    "rollout/truncated": "fraction of rollouts that ran into the length limit",
    "rollout/unreadable": "fraction of original-branch rollouts without a readable answer",
    "rollout/unreadable_counterfactual": "fraction of counterfactual-branch rollouts without a readable answer",
    "rollout/math_timeouts": "math answers whose judge was killed at its deadline, all ranks (each counts as wrong)",
    "rollout/null_original/*": "fraction of original rollouts of a task type that chose the null option (never right)",
    "rollout/null_counterfactual/*": "fraction of counterfactual rollouts of a task type that chose the null option",
    "rollout/tokens_per_s": "completion tokens a second of the generate phase, mean over ranks",
    "speed/logical_tokens_per_s": "tokens a second and rank in old_ref and update, a prompt with each completion",
    "speed/physical_tokens_per_s": "tokens a second and rank in the same phases as computed: a prompt once a pack",
    "speed/tokens_per_s": "logical tokens over the seconds of the whole round without evaluation, a rank",
    "speed/mfu": "FLOPs of old_ref and update (flops.py), recomputation left out, over seconds x GPU peak",
    "speed/imbalance": "packed tokens of the fullest rank over the mean of ranks, mean over the round's updates",
    "data/questions": "questions of the round over all ranks",
    "data/rollouts_seen": "rollouts generated since the run began, both branches, all ranks: the axis of fair curves",
    "data/epoch": "passes over the training file, fractional",
    "data/quarantined": "questions left out so far: their clip could not be decoded or their prompt is too long",
    "data/single_branch": "questions of the round trained without a counterfactual (text, image, unrouted)",
    "guard/skipped": "optimizer steps of the round that were skipped: loss or gradient not finite",
    "guard/missing_rewards": "rollouts of the round that could not be paid (methods.Paid.missing): in no mean or std",
    "guard/failed_saves": "checkpoints of the run so far that could not be written",
    "guard/write_errors": "writes of metrics, samples and lists that failed since the run was last started",
    **{f"time/{phase}": f"wall-clock seconds of the phase `{phase}`" for phase in PHASES},
    "memory/peak_gb": "peak accelerator memory of the round, 1e9 bytes, largest rank",
    # Present only on the rows of an evaluation.
    "eval/acc": "accuracy over dynamic subtasks, percent",
    "eval/pair_acc": "pairs with both sides right over dynamic subtasks, percent (a shortcut scores 0)",
    "eval/*/acc": "accuracy of one subtask (`static`: all static ones), percent",
    "eval/*/pair_acc": "pairs with both sides right of one subtask (`static`: all static ones), percent",
}
"""Metric name -> meaning and unit. A `*` stands for one part of a name, without a slash."""

_PATTERNS = {re.compile(re.escape(name).replace(r"\*", "[^/]+")): name for name in METRICS if "*" in name}

Entry = tuple[str, float | torch.Tensor, float]
"""(mean | total | max | min, value, count)."""


def describe(name: str) -> str:
    """The meaning of a metric; KeyError with a readable line for a name that METRICS does not know."""
    if name in METRICS and "*" not in name:
        return METRICS[name]
    for pattern, entry in _PATTERNS.items():
        if "*" not in name and pattern.fullmatch(name):
            return METRICS[entry]
    raise KeyError(f"unknown metric {name!r}: give it a line in metrics.METRICS first")


class Accumulator:
    """Numbers of one step, on one rank; `reduce` joins the ranks and empties it.

    A name is a mean, a total, a maximum or a minimum, throughout: using it two ways raises ValueError. Sums of tensors
    stay on their device until `reduce`, so adding does not stall it.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Entry] = {}

    def add(self, name: str, value: float | torch.Tensor, count: float | None = None) -> None:
        """A part of a mean. A tensor adds its sum and its number of elements; a number itself and 1.

        With `count`, `value` (or the tensor's sum) is a sum over that many. KeyError for an unknown name.
        """
        if isinstance(value, torch.Tensor):
            count = value.numel() if count is None else count
            value = value.detach().sum(dtype=torch.float64)
        self._keep(name, "mean", value, 1 if count is None else count)

    def total(self, name: str, value: float) -> None:
        """A part of a sum over calls and ranks (questions of the round, mismatches)."""
        self._keep(name, "total", value, 1)

    def max(self, name: str, value: float | torch.Tensor) -> None:
        """A candidate for a maximum over calls and ranks; an empty tensor is none. NaN wins: it must be seen."""
        if isinstance(value, torch.Tensor):
            if value.numel() == 0:
                return
            value = value.detach().double().max()  # torch's max keeps NaN
        self._keep(name, "max", value, 1)

    def min(self, name: str, value: torch.Tensor) -> None:
        """A candidate for a minimum, as `max`."""
        if value.numel():
            self._keep(name, "min", value.detach().double().min(), 1)

    def reduce(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """Name -> value over all ranks of `group`, sorted by name; the same on each rank. Empties the accumulator.

        One collective, which every rank must enter; ranks may know different names (a rank without a static question
        has no relation/static_kept). A name whose count is 0 everywhere is absent.
        """
        mine = {name: (how, float(value), float(count)) for name, (how, value, count) in self._kept.items()}
        self._kept = {}
        ranks: list[dict[str, Entry]] = [mine]
        if dist.is_available() and dist.is_initialized():
            ranks = [{}] * dist.get_world_size(group)
            dist.all_gather_object(ranks, mine, group=group)
        joined: dict[str, Entry] = {}
        for rank in ranks:  # rank order: the float sums come out the same each time
            for name, entry in rank.items():
                joined[name] = _join(name, joined.get(name), entry)
        return {
            name: value / count if how == "mean" else value
            for name, (how, value, count) in sorted(joined.items())
            if count != 0
        }

    def _keep(self, name: str, how: str, value: float | torch.Tensor, count: float) -> None:
        describe(name)
        self._kept[name] = _join(name, self._kept.get(name), (how, value, count))


def _join(name: str, kept: Entry | None, new: Entry) -> Entry:
    """Two (how, value, count) entries of one name as one."""
    if kept is None:
        return new
    (how, value, count), (new_how, new_value, new_count) = kept, new
    if how != new_how:
        raise ValueError(f"metric {name!r} is used as a {how} and as a {new_how}")
    if how in ("max", "min"):
        further = new_value > value if how == "max" else new_value < value
        return how, new_value if further or new_value != new_value else value, count
    return how, value + new_value, count + new_count


class MetricLog:
    """metrics.jsonl (one object a step) and TensorBoard, under one set of names. For one rank only.

    A full or failing disk must not end a night's training: an OSError warns once on stderr and training goes on. A line
    that reached the disk in part is cut off before the next one is written, so the file stays readable.
    """

    def __init__(self, run_dir: str | os.PathLike, append: bool) -> None:
        """Writes into `run_dir`; without `append` an earlier metrics.jsonl there is emptied."""
        self.path = Path(run_dir) / "metrics.jsonl"
        self._board: SummaryWriter | None = None
        self._board_broken = False
        self._purge_step: int | None = None if append else 0  # 0 hides what an earlier run left in the directory
        self.errors = 0
        """Writes that failed."""
        self._whole = sys.maxsize if append else 0  # bytes of the file that are whole lines; unread, none is cut off
        self._last_step: int | None = None
        with self.going_on():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if not append:
                self.path.write_bytes(b"")
            else:
                lines = self._lines()
                self._whole = sum(len(line) for line, _ in lines)
                self._last_step = lines[-1][1]["step"] if lines else None

    def _lines(self) -> list[tuple[bytes, dict]]:
        """The file's whole lines, if there is one. A damaged file is kept as metrics.jsonl.damaged, aloud."""
        if not self.path.exists():
            return []
        try:
            return _whole_lines(self.path)
        except ValueError as error:  # no reason for a run not to go on
            print(f"warning: {error}: kept as {self.path.name}.damaged, the log begins anew", file=sys.stderr)
            self.path.replace(f"{self.path}.damaged")
            self.path.write_bytes(b"")
            return []

    def truncate_after(self, step: int) -> None:
        """On resume from `step`: drops the later lines, which will be written again, here and from TensorBoard."""
        with self.going_on():
            lines = self._lines()
            kept = [(line, row) for line, row in lines if row["step"] <= step]
            part = self.path.with_suffix(".part")
            part.write_bytes(b"".join(line for line, _ in kept))
            part.replace(self.path)  # a crash in between leaves the old file or the new one
            self._whole = sum(len(line) for line, _ in kept)
            self._last_step = kept[-1][1]["step"] if kept else None
        self.close()
        self._purge_step = step + 1

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """One step's line: {"step": step, name: value, ...}. KeyError for an unknown name.

        JSON has no NaN or infinity: such a value stands as null, and stderr names it. Raises ValueError where the step
        does not follow the last one (one object a step; on resume call `truncate_after`).
        """
        for name in values:
            describe(name)
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(f"{self.path} already holds step {self._last_step}; cannot write step {step}")
        odd = [f"{name}={value}" for name, value in values.items() if not math.isfinite(value)]
        if odd:
            with contextlib.suppress(OSError):  # stderr may lie on a full disk
                print(f"step {step}: not finite, null in metrics.jsonl: {', '.join(odd)}", file=sys.stderr)
        row = {"step": step} | {name: float(v) if math.isfinite(v) else None for name, v in values.items()}
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        with self.going_on(), open(self.path, "ab") as file:
            self._whole = min(self._whole, file.tell())
            file.truncate(self._whole)
            file.write(line)
            file.flush()
            self._whole += len(line)
        self._last_step = step

        def scalars(board: SummaryWriter) -> None:
            for name, value in values.items():
                board.add_scalar(name, float(value), step)
            board.flush()

        self._to_board(scalars)

    def text(self, tag: str, text: str, step: int) -> None:
        """Text in TensorBoard, shown as it is: what a model wrote may not act as markdown, HTML or a control code."""
        shown = f"<pre>{html.escape(_printable(text))}</pre>"
        self._to_board(lambda board: board.add_text(tag, shown, step))

    def image(self, tag: str, picture: torch.Tensor, step: int) -> None:
        """A picture in TensorBoard: uint8 (H, W, 3), tensor or array. ValueError for any other."""
        shape, kind = tuple(picture.shape), str(picture.dtype).removeprefix("torch.")
        if len(shape) != 3 or shape[2] != 3 or kind != "uint8":
            raise ValueError(f"{tag}: a picture is uint8 (H, W, 3), got {kind} {shape}")
        self._to_board(lambda board: board.add_image(tag, picture, step, dataformats="HWC"))

    def close(self) -> None:
        """Flushes and closes TensorBoard; a later call opens it anew."""
        board, self._board = self._board, None
        if board:
            with self.going_on():
                board.close()

    def _to_board(self, write: Callable[[SummaryWriter], None]) -> None:
        """Opens TensorBoard on first use; gives it up once it has failed (its writer thread is dead by then)."""
        if self._board_broken:
            return
        self._board_broken = True
        with self.going_on():
            if self._board is None:
                self._board = SummaryWriter(str(self.path.parent), purge_step=self._purge_step)
            write(self._board)
            self._board_broken = False
        if self._board_broken:
            self._board = None

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Within it an OSError is counted, the first one printed, and training goes on."""
        try:
            yield
        except OSError as error:
            self.errors += 1
            if self.errors == 1:
                with contextlib.suppress(OSError):  # stderr may lie on the same disk
                    print(f"warning: metrics are being lost, training goes on: {error}", file=sys.stderr)


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """The rows of a metrics.jsonl, oldest first; null comes back as NaN, a torn last line (a crash) is left out.

    Raises ValueError with the line number where another line is not a JSON object with a step.
    """
    return [{name: math.nan if v is None else v for name, v in row.items()} for _, row in _whole_lines(Path(path))]


def _whole_lines(path: Path) -> list[tuple[bytes, dict]]:
    """(raw line with its newline, parsed row) of each whole line; the last one may be torn and is then left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    whole = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            valid = isinstance(row, dict) and isinstance(row.get("step"), int) and line.endswith(b"\n")
        except ValueError:
            valid = False
        if valid:
            whole.append((line, row))
        elif number < len(lines):
            raise ValueError(f"{path}: line {number} is not a JSON object with a step")
    return whole


def progress_line(step: int, max_steps: int, values: Mapping[str, float]) -> str:
    """The one console line of a round, in columns that stay in place; "-" where a value is missing."""
    shown = [
        ("correct", "reward/correct", "{:.2f}", 4),
        ("format", "reward/format", "{:.2f}", 4),
        ("behave", "reward/behave", "{:.2f}", 4),
        ("crr", "reward/crr_orig", "{:.3f}", 5),
        ("zero-adv", "group/zero_advantage", "{:.2f}", 4),
        ("gap", "policy/engine_gap_mean", "{:.4f}", 6),
        ("grad", "policy/grad_norm", "{:.2f}", 5),
        ("tok/s", "speed/tokens_per_s", "{:.0f}", 5),
        ("mfu", "speed/mfu", "{:.2f}", 4),
    ]
    parts = [f"step {step:>{len(str(max_steps))}}/{max_steps}"]
    for label, name, form, width in shown:
        parts.append(f"{label} {_or_dash(values, name, form):>{width}}")
    parts.append(f"{_or_dash(values, 'time/round', '{:.1f}'):>6} s")
    if "eval/pair_acc" in values:
        parts.append(f"pair acc {_or_dash(values, 'eval/pair_acc', '{:.1f}')} %")
    return "  ".join(parts)


def _or_dash(values: Mapping[str, float], name: str, form: str) -> str:
    value = values.get(name)
    return "-" if value is None else form.format(value)


def _printable(text: str) -> str:
    """Line breaks and tabs kept, every other character that does not print replaced by a visible mark."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
