"""The kinds of question that Video-STR asks about a scene (arXiv 2510.10976), each by a template that can fail.

Published are the kinds: counting, direction, distance, order of appearance, size, displacement, motion, localisation.
Wording and margins are ours. Things are named by their category, so only what is the one of its kind in a clip is asked
about, and near ties are not asked. A question keeps how a scene answers it: put to the mirrored or the reversed
annotations, it says what is right there.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

from data.scenes import Box, Scene, Track

CLEAR = 0.1
"""Share of the picture by which two centres must differ to be told apart."""
DOMINANT = 1.5
"""How many times one direction, distance or size must exceed the other to be the answer."""


def moments_of(scene: Scene, count: int) -> list[int]:
    """Frames in the middle of `count` equal parts; symmetric, so that a reversed clip has the same ones."""
    first = [(2 * k + 1) * scene.frames // (2 * count) for k in range(count // 2)]
    return first + [scene.frames - 1 - frame for frame in reversed(first)]


def centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def the_only(scene: Scene, name: str) -> Track:
    (track,) = (track for track in scene.tracks if track.name == name)
    return track


def single_names(scene: Scene) -> list[str]:
    """Names of objects that are the one of their kind, in alphabetical order."""
    counts = Counter(track.name for track in scene.tracks)
    return sorted(name for name, count in counts.items() if count == 1 and name not in scene.unsure)


def names_of(scene: Scene) -> list[str]:
    return sorted({track.name for track in scene.tracks} - scene.unsure)


# ---------------------------------------------------------------------------------------------------------------------
# Kinds of question


@dataclass(frozen=True)
class Asked:
    """A question and how a scene answers it."""

    text: str
    names: tuple[str, ...]
    answer: Callable[[Scene], object | None]
    """The right answer, of a choice its words; None where it is not clear."""
    part: str
    """letter | number | box | intervals: the part of the gold that holds it."""
    choices: tuple[str, ...] = ()
    """Of a choice: what may be right."""


def counting(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    names = names_of(scene)
    if not scene.complete or not names:
        return None
    name = rng.choice(names)
    text = f'How many different objects of the kind "{name}" appear in the video?'
    return Asked(text, (name,), lambda s: float(sum(track.name == name for track in s.tracks)), "number")


def direction(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    names = single_names(scene)
    if len(names) < 2:
        return None
    (one, other), at = rng.sample(names, 2), rng.choice(frames)

    def answer(s: Scene) -> str | None:
        boxes = [s.box(the_only(s, name), at) for name in (one, other)]
        return _heading(*boxes, ("left", "right", "above", "below")) if all(boxes) else None

    text = f"{_when(scene, at)} where in the picture is the {one}, seen from the {other}?"
    return Asked(text, (one, other), answer, "letter", ("left", "right", "above", "below"))


def _heading(box: Box, origin: Box, words: tuple[str, str, str, str]) -> str | None:
    """left, right, up or down from `origin` to `box`, in these words; None where no direction dominates."""
    (x, y), (x0, y0) = centre(box), centre(origin)
    along, down = x - x0, y - y0
    if max(abs(along), abs(down)) < CLEAR or max(abs(along), abs(down)) < DOMINANT * min(abs(along), abs(down)):
        return None
    return words[int(along > 0)] if abs(along) > abs(down) else words[2 + int(down > 0)]


def distance(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    """In metres where the annotations have them; else which of several is nearest in the picture."""
    names, at = single_names(scene), rng.choice(frames)
    if len(names) < 2:
        return None
    pair = rng.sample(names, 2)
    if all(scene.place(the_only(scene, name), at) for name in pair):
        text = f"{_when(scene, at)} how far apart are the centres of the {pair[0]} and the {pair[1]}, in metres?"

        def metres(s: Scene) -> float | None:
            places = [s.place(the_only(s, name), at) for name in pair]
            return round(math.dist(*places), 2) if all(places) else None

        return Asked(text, tuple(pair), metres, "number")
    if len(names) < 3:
        return None
    anchor, *others = rng.sample(names, min(4, len(names)))

    def nearest(s: Scene) -> str | None:
        boxes = {name: s.box(the_only(s, name), at) for name in (anchor, *others)}
        if not all(boxes.values()):
            return None
        far = sorted((math.dist(centre(boxes[name]), centre(boxes[anchor])), name) for name in others)
        return far[0][1] if far[1][0] > max(DOMINANT * far[0][0], far[0][0] + CLEAR / 2) else None

    text = f"{_when(scene, at)} which of these is nearest to the {anchor} in the picture, from centre to centre?"
    return Asked(text, (anchor, *others), nearest, "letter", tuple(others))


def appearance(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    names = single_names(scene)
    if scene.occluded or len(names) < 2:
        return None
    asked = rng.sample(names, min(3, len(names)))

    def answer(s: Scene) -> str | None:
        first = sorted((s.runs(the_only(s, name))[0][0], name) for name in asked)
        apart = min(later[0] - earlier[0] for earlier, later in zip(first, first[1:], strict=False))
        return ", ".join(name for _, name in first) if apart >= max(s.gap, s.frames / 16) else None

    text = f"In which order do these first appear: {', '.join(sorted(asked))}?"
    return Asked(text, tuple(asked), answer, "letter", tuple(", ".join(some) for some in permutations(sorted(asked))))


def size(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    """In centimetres where the annotations know; else which of several takes up most of the picture."""
    names, at = single_names(scene), rng.choice(frames)
    if names and the_only(scene, name := rng.choice(names)).size:
        text = f"How long is the {name} along its longest side (length, width or height), in centimetres?"
        return Asked(text, (name,), lambda s: float(round(100 * max(the_only(s, name).size))), "number")
    if len(names) < 2:
        return None
    asked = rng.sample(names, min(4, len(names)))

    def largest(s: Scene) -> str | None:
        boxes = [(s.box(the_only(s, name), at), name) for name in asked]
        if not all(box for box, _ in boxes):
            return None
        areas = sorted(((x1 - x0) * (y1 - y0), name) for (x0, y0, x1, y1), name in boxes)
        return areas[-1][1] if areas[-1][0] > DOMINANT * areas[-2][0] else None

    text = f"{_when(scene, at)} which of these takes up most of the picture?"
    return Asked(text, tuple(asked), largest, "letter", tuple(asked))


def displacement(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    names = single_names(scene)
    if not names:
        return None
    name, (start, end) = rng.choice(names), sorted(rng.sample(frames, 2))

    def answer(s: Scene) -> float | None:
        boxes = [s.box(the_only(s, name), at) for at in (start, end)]
        moved = abs(centre(boxes[1])[0] - centre(boxes[0])[0]) if all(boxes) else 0.0
        return round(100 * moved, 1) if moved >= CLEAR else None

    text = f"By how many percent of the picture's width does the {name} move sideways {_between(scene, start, end)}?"
    return Asked(text, (name,), answer, "number")


def motion(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    names = single_names(scene)
    if not names:
        return None
    name, (start, end) = rng.choice(names), sorted(rng.sample(frames, 2))

    def answer(s: Scene) -> str | None:
        boxes = [s.box(the_only(s, name), at) for at in (end, start)]
        return _heading(*boxes, ("left", "right", "up", "down")) if all(boxes) else None

    text = f"In which direction does the {name} move through the picture {_between(scene, start, end)}?"
    return Asked(text, (name,), answer, "letter", ("left", "right", "up", "down"))


def localisation(scene: Scene, frames: list[int], rng: random.Random) -> Asked | None:
    """Where at a moment, or from when to when."""
    names = single_names(scene)
    if scene.occluded or not names:
        return None
    name, at = rng.choice(names), rng.choice(frames)

    def box(s: Scene) -> list[float] | None:
        found = s.box(the_only(s, name), at)
        x0, y0, x1, y1 = sides = [round(side, 3) for side in found or (0, 0, 0, 0)]
        return sides if x0 < x1 and y0 < y1 else None  # thinner than three decimals tell: no box

    def period(s: Scene) -> list | None:
        runs = s.runs(the_only(s, name))
        first, last = runs[0]
        clear = len(runs) == 1 and s.frames / 8 <= last + 1 - first <= 7 * s.frames / 8
        end = min(round((last + 1) / s.fps, 3), s.duration)  # rounding up must not lead past the clip
        return [[round(first / s.fps, 3), end]] if clear else None

    if rng.random() < 0.5:
        return Asked(f"{_when(scene, at)} where in the picture is the {name}?", (name,), box, "box")
    return Asked(f"From when to when is the {name} in the picture?", (name,), period, "intervals")


def _when(scene: Scene, frame: int) -> str:
    return f"At {frame / scene.fps:.1f} s,"


def _between(scene: Scene, start: int, end: int) -> str:
    return f"from {start / scene.fps:.1f} s to {end / scene.fps:.1f} s"


KINDS: dict[str, Callable[[Scene, list[int], random.Random], Asked | None]] = {
    "counting": counting,
    "direction": direction,
    "distance": distance,
    "appearance order": appearance,
    "size": size,
    "displacement": displacement,
    "motion": motion,
    "localisation": localisation,
}
