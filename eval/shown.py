"""What of a clip a model is shown: all of it, what is left without its dynamics, or its counterfactual.

The second is shortcut isolation (paper App. A.4, Table 4); the third asks whether an answer to a flipped or reversed
clip stays or changes as it should (Fig. 1, left). Pure functions on a View. A question's draw comes from (seed, pair id
or id, side, question, setting) alone: the same on every rank and after a stop, and its own for each side of a pair,
since the paper does not say that the sides share it. TimeBlind asks two questions about each video: each gets its own,
too. What was shown is returned with the view, and stands in the predictions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

import torch

from episode import Question, View
from transforms import HORIZONTAL_FLIP, TEMPORAL_REVERSE, frame_shuffle, horizontal_flip, temporal_reverse, visit_rng

Setting = Literal["identity", "single_frame", "shuffled", "text_only", "horizontal_flip", "temporal_reverse"]


@dataclass(frozen=True)
class Shown:
    """What the model gets to see of a clip."""

    view: View | None
    """None: nothing but the text."""
    frames: tuple[int, ...] = ()
    """Source frame of each frame shown, in the order of showing."""


def identity(view: View, rng: random.Random) -> Shown:
    """The clip as it is ("Full Video")."""
    return Shown(view, view.frame_indices)


def single_frame(view: View, rng: random.Random) -> Shown:
    """One of the sampled frames, drawn uniformly: (F, 3, H, W) -> (2, 3, H, W), the same frame twice.

    It stays a video, so that its pixels and the words around them are those of the full clip; as an image the model
    could be given more pixels of it. The model reads frames in pairs, hence twice. It is stamped as a file of this one
    frame would be (`data.video.sample_clip`): its true time would tell which of two events came first.
    """
    at = rng.randrange(len(view.frames))
    if view.still:
        return identity(view, rng)
    frames = view.frames[[at, at]]
    shown = replace(view, frames=frames, transform="single_frame", source_frames=1, frame_indices=(0, 0))
    return Shown(shown, (view.frame_indices[at],))


def shuffled(view: View, rng: random.Random) -> Shown:
    """All sampled frames in a random order, each order equally likely: (F, 3, H, W) -> (F, 3, H, W).

    The timestamps stay ascending: permuted ones would tell the order.
    """
    order = frame_shuffle(torch.arange(len(view.frames)), rng).tolist()
    shown = replace(view, frames=view.frames[order], transform="frame_shuffle")
    return Shown(shown, tuple(view.frame_indices[i] for i in order))


def text_only(view: View, rng: random.Random) -> Shown:
    """Question and options without any visual input."""
    return Shown(None)


def flipped(view: View, rng: random.Random) -> Shown:
    """The clip in the mirror: (F, 3, H, W) -> (F, 3, H, W)."""
    return Shown(replace(view, frames=horizontal_flip(view.frames), transform=HORIZONTAL_FLIP), view.frame_indices)


def backwards(view: View, rng: random.Random) -> Shown:
    """The clip from its end to its start, stamped as the reversed file would be: (F, 3, H, W) -> (F, 3, H, W)."""
    shown = replace(view, frames=temporal_reverse(view.frames), transform=TEMPORAL_REVERSE)
    return Shown(shown, view.frame_indices[::-1])


SHORTCUTS = {"identity": identity, "single_frame": single_frame, "shuffled": shuffled, "text_only": text_only}
SETTINGS = SHORTCUTS | {HORIZONTAL_FLIP: flipped, TEMPORAL_REVERSE: backwards}


def show(setting: Setting, view: View | None, question: Question, seed: int) -> Shown:
    """What of a question's view is shown under a setting; nothing where the question has none (text, or not decoded
    since `text_only` does not need it)."""
    name = question.id if question.pair_id is None else question.pair_id
    rng = visit_rng(seed, 0, f"{name}/{question.side}/{question.problem}/{setting}")
    return Shown(None) if view is None else SETTINGS[setting](view, rng)
