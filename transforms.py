"""Views of a clip: pure functions on its sampled frames, and the choice of one by task type (paper Sec. 3, Fig. 2).

Level 0: imports no file of ours. Every function takes frames (F, C, H, W) of any dtype, returns a new tensor of the
same shape and dtype, and leaves its input alone. They run after sampling and resizing (table row 16): reversing the
sampled frames equals sampling the reversed file, and all pixels of both branches are the same bytes. Frame indices and
timestamps are *not* part of a transform: they stay ascending, or the order could be read off the stamps.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence

import torch

IDENTITY = "identity"
HORIZONTAL_FLIP = "horizontal_flip"
TEMPORAL_REVERSE = "temporal_reverse"
FRAME_SHUFFLE = "frame_shuffle"
SEGMENT_SWAP = "segment_swap"

COUNTERFACTUALS = (HORIZONTAL_FLIP, TEMPORAL_REVERSE)
NAMEABLE = (*COUNTERFACTUALS, SEGMENT_SWAP)
"""What a row may ask for by name: which clips a swap of halves changes the answer of, no task type says."""

# Task type -> transforms it may be shown under; two entries are a fair coin, never both at once (paper Sec. 3).
TASK_TRANSFORMS: dict[str, tuple[str, ...]] = {
    "Spatial": (HORIZONTAL_FLIP,),
    "Temporal": (TEMPORAL_REVERSE,),
    "Spatiotemporal": COUNTERFACTUALS,
    "Static": COUNTERFACTUALS,
}


def identity(frames: torch.Tensor) -> torch.Tensor:
    """The original branch: a copy, so that no two views share memory."""
    return frames.clone()


def horizontal_flip(frames: torch.Tensor) -> torch.Tensor:
    """Mirror left-right: the last axis. (F, C, H, W) -> (F, C, H, W)."""
    return frames.flip(-1)


def temporal_reverse(frames: torch.Tensor) -> torch.Tensor:
    """Play backwards: the first axis. (F, C, H, W) -> (F, C, H, W)."""
    return frames.flip(0)


def frame_shuffle(frames: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """One random order of the frames (T-GRPO's second view, App. B.3). (F, C, H, W) -> (F, C, H, W).

    The order is drawn uniformly from all of them, the ascending one included, as in Video-R1.
    """
    order = list(range(len(frames)))
    rng.shuffle(order)
    return frames[order]


def segment_swap(frames: torch.Tensor, cut: int | None = None) -> torch.Tensor:
    """Show frames from `cut` on first, then those before it; default cut: the middle. (F, C, H, W) -> (F, C, H, W).

    Raises ValueError where `cut` leaves one side empty.
    """
    cut = len(frames) // 2 if cut is None else cut
    if not 0 < cut < len(frames):
        raise ValueError(
            f"segment_swap needs 0 < cut < {len(frames)} frames, got cut {cut}; take a cut inside the clip"
        )
    return torch.cat((frames[cut:], frames[:cut]))


# All take (frames, rng), so that a caller can apply a name without knowing which of them draw.
TRANSFORMS: dict[str, Callable[[torch.Tensor, random.Random], torch.Tensor]] = {
    IDENTITY: lambda frames, rng: identity(frames),
    HORIZONTAL_FLIP: lambda frames, rng: horizontal_flip(frames),
    TEMPORAL_REVERSE: lambda frames, rng: temporal_reverse(frames),
    FRAME_SHUFFLE: frame_shuffle,
    SEGMENT_SWAP: lambda frames, rng: segment_swap(frames),
}


def choose(
    task_type: str | None,
    rng: random.Random,
    *,
    allowed: tuple[str, ...] = COUNTERFACTUALS,
    named: tuple[str, ...] = (),
) -> str | None:
    """Name of the counterfactual transform of one prompt visit, shared by its G rollouts (table row 15).

    `allowed` serves the ablations "w/o flip" and "w/o reversal" (table row 33): Spatiotemporal and Static then use what
    remains, and a question that needs the removed transform gets None. None means: train single-branch.
    `named`: those that the question's row names, in place of its task type's (our extension: App. H).
    Raises ValueError on a task type or transform that does not exist.
    """
    if unknown := [name for name in allowed if name not in COUNTERFACTUALS]:
        raise ValueError(f"allowed transforms must be among {COUNTERFACTUALS}, got {unknown}")
    if task_type is None:
        return None
    if task_type not in TASK_TRANSFORMS:
        raise ValueError(f"task_type must be one of {tuple(TASK_TRANSFORMS)} or None, got {task_type!r}")
    candidates = [name for name in named or TASK_TRANSFORMS[task_type] if name in (*allowed, SEGMENT_SWAP)]
    return rng.choice(candidates) if candidates else None


def visit_rng(seed: int, epoch: int, question_id: str) -> random.Random:
    """Random numbers of one visit to one question: the same in every process, on every rank, and after a resume.

    Python's own `hash()` of a string differs from process to process, hence the digest.
    """
    # surrogatepass: an id read from JSON may hold a lone surrogate, which UTF-8 refuses.
    key = f"{seed}/{epoch}/{question_id}".encode("utf-8", "surrogatepass")
    return random.Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))


def mirrored_box(box: Sequence[float]) -> list[float]:
    """[x0, y0, x1, y1] in 0..1 of the frame, as the flipped frame shows it."""
    x0, y0, x1, y1 = box
    return [1 - x1, y0, 1 - x0, y1]


_MAPPED = ("intervals", "duration", "boxes", "given", "graph", "angles", "order", "candidates")


def mapped_gold(gold: dict, transform: str, *, static: bool = False) -> dict | None:
    """The right answer once the clip is looked at under `transform`, None where no map is known. Our extension.

    Its parts by name: `intervals` [[s, e], ...] in seconds are mirrored in time by reversal, which needs `duration`;
    `boxes` [[x0, y0, x1, y1], ...], one a frame, and `graph` [{object: [[x, y], ...]}, ...], all in 0..1 of the frame,
    are mirrored left-right by a flip and come in the opposite order by reversal. So does an `order` [...] of pictures
    that the clip itself shows, whose numbers, 1 to `candidates`, then count from the other end. `duration`, `given` and
    `angles` stay. Parts that the row itself knows `under` a transform, {transform: parts}, are those. Whatever else
    there is (a letter, words) stays where the question is `static`, and has no map otherwise.

    What is asked for is taken to be the same: "opens the door" is one event backwards, too, although it then closes. A
    question whose words do not survive a transform says so by its task type.
    """
    if transform not in COUNTERFACTUALS:
        return gold if transform == IDENTITY else None
    flip, mapped = transform == HORIZONTAL_FLIP, {}
    known = gold.get("under", {}).get(transform, {})
    for name, value in gold.items():
        if name in known:
            value = known[name]
        elif name == "under":
            continue
        elif name == "intervals" and not flip:
            value = [[gold["duration"] - end, gold["duration"] - start] for start, end in reversed(value)]
        elif name == "boxes" and flip:
            value = [mirrored_box(box) for box in value]
        elif name == "graph" and flip:
            value = [{what: [[1 - x, y] for x, y in points] for what, points in frame.items()} for frame in value]
        elif name == "order" and not flip:
            value = [gold["candidates"] + 1 - number for number in reversed(value)]
        elif name in ("boxes", "graph") and not flip:
            value = value[::-1]
        elif name not in _MAPPED and not static:
            return None
        mapped[name] = value
    return mapped
