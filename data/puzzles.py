"""A sample of Masked Video Prediction: drawn from a clip, written as a clip of its own, and checked from its files.

A sample's clip shows pictures before a hidden run, the candidates (the hidden frames and distractors, shuffled) where
the run was, pictures after it. Every picture fills one second and one row of vision tokens (two equal frames), so that
it has a time stamp of its own. With as many pictures before as after, the whole clip played backwards is again a
sample, of the reversed video: candidate i becomes candidate C + 1 - i and the gold order turns around.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from data.corpora import Refused
from data.looks import Look, looks, without_duplicates
from data.planes import Frames, encode
from data.video import CELL, ClipError, frames_every, read_frames, sample_clip
from transforms import visit_rng

FAITHFUL, SAME = 8.0, 3.0
"""Grey levels, mean over a picture: the most that encoding may move it, and its two frames may differ."""


@dataclass
class CheckArgs:
    """Check every sample from its files."""

    videos: Path
    """Folder of clips, searched with its subfolders."""
    output: Path
    """Folder of the samples: rows.jsonl, clips/, refused.txt, sheet/."""


@dataclass
class MakeArgs(CheckArgs):
    """Turn a folder of clips into samples of Masked Video Prediction (symbols: the paper's)."""

    seed: int = 0
    seconds: float = 1.0
    """Between two frames that are looked at (paper: 1)."""
    window: int = 12
    """N, frames without near-duplicates that a sample is made of."""
    hidden: int = 4
    """m, length of the hidden run; N - m must be even."""
    distractors: int = 4
    """l, wrong candidates."""
    kappa: float = 0.9
    """Two frames of a larger cosine are near-duplicates."""
    features: str = ""
    """Folder of a Qwen3-VL checkpoint whose vision tower compares frames; empty = grey thumbnails, without a model."""
    per_clip: int = 1
    """Most samples of one clip, each of another window."""
    max_pixels: int = 128 * CELL * CELL
    """Pixels of a picture: what 16 pictures may have under training's default budget."""
    sheet: int = 8
    """Samples to draw for a person."""


def law(args: MakeArgs) -> None:
    """ValueError, one line, where the numbers leave no sample."""
    if not (args.hidden >= 2 and args.window > args.hidden and (args.window - args.hidden) % 2 == 0):
        raise ValueError(
            f"--window {args.window} must exceed --hidden {args.hidden} (2 or more) by an even number, to have as many "
            "pictures before as after"
        )
    if not (args.distractors >= 1 and args.per_clip >= 1 and args.seconds > 0 and -1 < args.kappa <= 1):
        raise ValueError(
            f"--distractors {args.distractors} and --per-clip {args.per_clip} must be 1 or more, --seconds "
            f"{args.seconds:g} positive, --kappa {args.kappa:g} above -1 and at most 1"
        )


@dataclass(frozen=True)
class Puzzle:
    """Pictures in the order shown, and the answer."""

    places: tuple[int, ...]
    """Before, candidates, after: places among the frames looked at."""
    order: tuple[int, ...]
    """Numbers of the hidden candidates, from 1, in the order of the video."""


def puzzles(looks: torch.Tensor, args: MakeArgs, rng: random.Random) -> list[Puzzle]:
    """Up to `per_clip` samples from (F, D) looks, their windows drawn without repeats. Refused where there is none."""
    kept = without_duplicates(looks, args.kappa)
    if len(kept) < args.window:
        raise Refused("clip", "is too short to mask", f"{len(kept)} distinct frames, {args.window} are needed")
    cosine = (looks[kept] @ looks[kept].T).numpy()
    before, found = (args.window - args.hidden) // 2, []
    starts = list(range(len(kept) - args.window + 1))
    rng.shuffle(starts)
    for start in starts:
        first, last = start + before, start + before + args.hidden  # of the hidden run
        near = range(max(first - 2 * args.hidden, 0), min(last + 2 * args.hidden, len(kept)))
        pool = [place for place in near if not start <= place < start + args.window]
        rng.shuffle(pool)
        chosen: list[int] = []
        for place in [*range(first, last), *pool]:
            if len(chosen) < args.hidden + args.distractors and (cosine[place, chosen] <= args.kappa).all():
                chosen.append(place)
        hidden = chosen[: args.hidden]
        if hidden != list(range(first, last)) or len(chosen) < args.hidden + args.distractors:
            continue  # a hidden frame that recurs has no place in an order; too few neighbours
        rng.shuffle(chosen)
        shown = [*range(start, first), *chosen, *range(last, start + args.window)]
        found.append(Puzzle(tuple(kept[place] for place in shown), tuple(chosen.index(p) + 1 for p in hidden)))
        if len(found) == args.per_clip:
            break
    if not found:
        raise Refused("clip", "has no window with enough distinct distractors nearby", f"of {len(starts)} windows")
    return found


def problem(before: int, candidates: int, hidden: int) -> str:
    """The question. It holds of the clip played backwards too: the parts before and after are equally long."""
    first, last = before + 1, before + candidates
    return (
        f"The clip shows {2 * before + candidates} pictures of a video, one a second. Pictures 1 to {before} come "
        f"before a hidden part of the video, pictures {last + 1} to {last + before} come after it. Between them stand "
        f"{candidates} candidates in random order: candidate 1 is picture {first}, candidate {candidates} is picture "
        f"{last}. Exactly {hidden} of them are the hidden frames. Give their numbers in the order in which they "
        "happened, separated by commas."
    )


def samples(name: str, args: MakeArgs, look: Look) -> list[dict]:
    """Rows of one clip, by its name below --videos; their clips are written. Refused with the reason."""
    path = args.videos / name
    try:
        indices = frames_every(path, args.seconds)
        found = puzzles(looks(path, indices, look), args, visit_rng(args.seed, 0, name))
        rows = []
        for number, puzzle in enumerate(found):
            frames = [indices[place] for place in puzzle.places]
            row = {
                "problem_id": f"masked/{name}/{number}",
                "problem": problem((args.window - args.hidden) // 2, args.hidden + args.distractors, args.hidden),
                "data_type": "video",
                "problem_type": "order",
                "solution": {"order": puzzle.order, "candidates": args.hidden + args.distractors},
                "path": f"clips/{name}_{number}.mp4",
                "data_source": "MVP",
                "source": name,
                "frames": frames,
            }
            write_clip(args.output / row["path"], pictures_of(path, frames, args.max_pixels))
            rows.append(row)
    except ClipError as error:
        raise Refused("clip", "cannot be read", str(error)) from error
    for row in rows:
        if wrong := fault(row, args, look):
            raise Refused("clip", "fails its own check once written", wrong)
    return rows


def pictures_of(path: Path, frames: Sequence[int], max_pixels: int) -> torch.Tensor:
    """uint8 (F, 3, H, W): frames of a clip in the order given, which need not be the clip's."""
    ascending = sorted(set(frames))
    found = dict(zip(ascending, read_frames(path, ascending, max_pixels=max_pixels), strict=True))
    return torch.stack([found[frame] for frame in frames])


def write_clip(path: Path, pictures: torch.Tensor) -> None:
    """H.264 of uint8 (F, 3, H, W): every picture twice, at two frames a second; appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    planes = []
    for picture in pictures:
        frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), format="rgb24")
        planes += 2 * [frame.reformat(format="yuv420p").to_ndarray()]
    part = path.with_name(path.name + ".part")
    encode(part, Frames(np.stack(planes), Fraction(2)))
    os.replace(part, path)


def shown(row: dict, args: MakeArgs) -> torch.Tensor:
    """uint8 (2P, 3, H, W): a sample's clip as training reads it, two frames of each of its P pictures."""
    count = len(row["frames"])
    return sample_clip(
        args.output / row["path"], frames=2 * count, max_pixels=count * args.max_pixels, min_frame_pixels=CELL * CELL
    ).frames


def fault(row: dict, args: MakeArgs, look: Look) -> str:
    """What is wrong with a sample, read back from its row, its clip and the source; empty for a sound one.

    Every picture must be the source frame that the row names and no other of the sample's, the gold candidates the run
    between before and after in order, the distractors outside the window, and no two candidates near-duplicates.
    """
    count, before = len(row["frames"]), (args.window - args.hidden) // 2
    source = pictures_of(args.videos / row["source"], row["frames"], args.max_pixels).float()
    clip = shown(row, args).float()
    if clip.shape != (2 * count, *source.shape[1:]):
        return f"frames are {tuple(clip.shape)}, must be {(2 * count, *source.shape[1:])}"
    if (twice := (clip[::2] - clip[1::2]).abs().mean((1, 2, 3)).max()) > SAME:
        return f"the two frames of a picture differ by {twice:.1f} grey levels"
    error = torch.stack([(one - source).abs().mean((1, 2, 3)) for one in clip[::2]])  # (shown, source)
    if error.diagonal().max() > FAITHFUL:
        return f"a picture is {error.diagonal().max():.1f} grey levels off its source frame"
    if (error.argmin(1) != torch.arange(count)).any():
        return "a picture looks more like another frame of the sample"
    candidates = row["frames"][before:-before]
    hidden = [candidates[number - 1] for number in row["solution"]["order"]]
    others = [frame for frame in candidates if frame not in hidden]
    if sorted(set(run := [*row["frames"][:before], *hidden, *row["frames"][-before:]])) != run:
        return f"before, hidden run and after must ascend, got frames {run}"
    if len(others) != args.distractors or any(run[0] <= frame <= run[-1] for frame in others):
        return f"{args.distractors} distractors must lie outside frames {run[0]} to {run[-1]}, got {others}"
    alike = looks(args.videos / row["source"], sorted(candidates), look)
    if (cosine := (alike @ alike.T).fill_diagonal_(-1).max()) > args.kappa:
        return f"two candidates have a cosine of {cosine:.3f}, more than {args.kappa:g}"
    return ""
