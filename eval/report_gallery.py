"""Pairs to look at: which ones, how each run fared on them, and their frames as small JPEGs.

A gallery pair is one question on two counterfactual videos: a DyBench pair, or one question of a TimeBlind instance.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from data.clips import Clips, ClipSettings
from data.paths import Outside, confined
from data.video import ClipError
from episode import Question, View
from eval.report_runs import FULL_VIDEO, Answer, Run
from eval.report_tables import STRICT
from eval.scoring import same_answer, unit_of

OUTCOMES = {"both": "both right", "one": "one right", "none": "none right"}
TILE = 192  # pixels: the longest side of a frame in the page
QUALITY = 70
AHEAD = 16  # pairs decoded before their frames are made small
SMALL_FRAME = 64 * 32 * 32  # pixels to decode: enough for a tile, and quick


@dataclass(frozen=True)
class Pair:
    benchmark: str
    name: str
    subtask: str
    sides: tuple[Answer, ...]
    """The questions, a and b; one where the other side is missing. Of any run: all were asked the same."""
    answers: Mapping[str, tuple[Answer, ...]]
    """Label -> its answers, in the order of `sides`."""

    def outcome(self, label: str) -> str:
        """A key of OUTCOMES; "" for a run that was not asked."""
        if label not in self.answers:
            return ""
        right = sum(answer.correct for answer in self.answers[label])
        return ("none", "one", "both")[right]

    def same(self, label: str) -> bool:
        """True where both sides got the same readable answer, by the option's words: its letter may differ."""
        return bool(same_answer(self.answers.get(label, ()))[0])


@dataclass(frozen=True)
class Strip:
    """Frames of one side, or why there are none."""

    frames: Sequence[tuple[str, float | None]] = ()
    """(JPEG as a data URI, seconds from the start of the file or None)."""
    fault: str = ""


def pairs_of(runs: Sequence[Run], benchmark: str) -> list[Pair]:
    """Every pair of a benchmark that any run answered; a side that only some answered is shown for those alone."""
    part = (benchmark, FULL_VIDEO)
    found: dict[str, dict[str, dict[str, Answer]]] = {}
    for run in runs:
        for answer in run.answers.get(part, ()):
            found.setdefault(pair_name(benchmark, answer), {}).setdefault(run.label, {})[answer.id] = answer
    pairs = []
    for name, by_run in found.items():
        rows = {answer.id: answer for answers in by_run.values() for answer in answers.values()}
        sides = tuple(rows[row_id] for row_id in sorted(rows, key=lambda row_id: (rows[row_id].side or "", row_id))[:2])
        answers = {
            label: tuple(answered[side.id] for side in sides if side.id in answered)
            for label, answered in by_run.items()
        }
        subtask = sides[0].subtask or sides[0].facts.get("type") or "all"
        pairs.append(Pair(benchmark, name, subtask, sides, {label: of for label, of in answers.items() if of}))
    return pairs


def pair_name(benchmark: str, answer: Answer) -> str:
    """Of TimeBlind, the question within its instance: rows 4 i and 4 i + 1 ask the first, the others the second."""
    unit = unit_of(benchmark, answer)
    if benchmark == "timeblind":
        return f"{unit} Q{int(answer.id) % 4 // 2}"
    return unit


def choose(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """`count` pairs, spread over sub-tasks and outcomes of all runs; the same for the same pairs, runs and seed.

    Every combination of sub-task and outcomes gives one pair before any gives a second, so that rare ones are seen:
    shares within the gallery estimate nothing.
    """

    def draw(pair: Pair) -> str:
        return hashlib.sha256(f"{seed}/{pair.benchmark}/{pair.name}".encode("utf-8", "replace")).hexdigest()

    taken: Counter = Counter()
    ranked = []
    for pair in sorted(pairs, key=draw):
        stratum = (pair.subtask, *((label, pair.outcome(label), pair.same(label)) for label in sorted(pair.answers)))
        ranked.append((taken[stratum], len(ranked), pair))
        taken[stratum] += 1
    chosen = [pair for _, _, pair in sorted(ranked, key=lambda item: item[:2])[:count]]
    return sorted(chosen, key=lambda pair: (pair.subtask, pair.name))


def gallery(runs: Sequence[Run], count: int, seed: int) -> tuple[list[Pair], dict[str, int]]:
    """Chosen pairs of each paired benchmark, and how many each has: {benchmark: pairs}."""
    chosen, totals = [], {}
    for benchmark in STRICT:
        pairs = pairs_of(runs, benchmark)
        if pairs:
            totals[benchmark] = len(pairs)
            chosen += choose(pairs, count, seed)
    return chosen, totals


def strips(
    pairs: Sequence[Pair], runs: Sequence[Run], data_root: Path | None, *, frames: int, workers: int, deadline: float
) -> list[tuple[Strip, ...]]:
    """The strips of each pair's sides: `frames` uniform frames each, decoded by `workers` processes.

    Clips are looked for under `data_root`, else under the first data root there is of the runs that answered the pair.
    """
    roots = {run.label: data_root or run.data_root for run in runs}
    settings = ClipSettings(frames=frames, max_frame_pixels=SMALL_FRAME)
    with Clips(settings, workers=workers, deadline=deadline) as clips:
        found: list[tuple[Strip, ...]] = []
        for at in range(0, len(pairs), AHEAD):  # a few at a time: decoded clips take megabytes
            some = pairs[at : at + AHEAD]
            pending = [[_submit(clips, side, _root(pair, roots)) for side in pair.sides] for pair in some]
            found += [tuple(map(_strip, sides)) for sides in pending]
        return found


def _root(pair: Pair, roots: Mapping[str, Path | None]) -> Path | None:
    named = [roots[label] for label in pair.answers if roots[label] is not None]
    return next((root for root in named if root.is_dir()), named[0] if named else None)


def _submit(clips: Clips, side: Answer, root: Path | None) -> Future | str:
    if side.path is None:
        return "this question has no clip"
    if root is None:
        return f"{side.path}: settings.json names no data_root; give --data-root"
    try:
        path = confined(root, side.path)
    except Outside as error:
        return f"{side.path}: {error}"
    if not os.path.isfile(path):
        return f"{side.path}: no such file under {os.path.realpath(root)}"
    question = Question(side.id, 0, "", "video", "", (), "", path=path, start=side.start, end=side.end)
    return clips.submit(question)


def _strip(pending: Future | str) -> Strip:
    if isinstance(pending, str):
        return Strip(fault=pending)
    try:
        view: View = pending.result()
    except ClipError as error:
        return Strip(fault=str(error))
    seconds = [index / view.fps if view.fps > 0 else None for index in view.frame_indices]
    return Strip([(jpeg(frame.permute(1, 2, 0).numpy()), at) for frame, at in zip(view.frames, seconds, strict=True)])


def jpeg(pixels) -> str:
    """uint8 (H, W, 3) as a data URI of a JPEG whose longest side is at most TILE."""
    image = Image.fromarray(pixels)
    image.thumbnail((TILE, TILE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
