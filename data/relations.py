"""Questions about where things are, from annotated clips: Video-STR's STV data, made by template (arXiv 2510.10976).

    python -m data.relations kitti --input label_02/ --data-root clips/ --output kitti.jsonl
    #                        tao | kitti | scannet | plain (`data/tracks.py`); refused rows: OUTPUT.refused.txt

Published: sources (TAO, KITTI, ScanNet), kinds of question (counting, direction, distance, order of appearance, size,
displacement, motion, localisation), kinds of answer (letter, number, IoU). Templates, margins and the graph's moments
are ours. Things are named by their category, so only what is the one of its kind in a clip is asked about, and near
ties are not asked.

Each row holds a graph of the objects at --moments evenly spaced moments, and what would be right of the mirrored and of
the reversed clip: the same question put to the mirrored and to the reversed annotations, so that CRPO pays those
branches for exact answers (our extension). A question that has no clear answer there simply has none.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Literal

import tyro

from data.corpora import Refused
from data.dataset import BadRow, load_questions, report_bad_rows
from data.tracks import READERS, Box, Scene, Track
from data.video import inspect_clip
from pictures import table
from transforms import HORIZONTAL_FLIP, TEMPORAL_REVERSE, visit_rng

CLEAR = 0.1
"""Share of the picture by which two centres must differ to be told apart."""
DOMINANT = 1.5
"""How many times one direction, distance or size must exceed the other to be the answer."""
NAMED = 4
"""Most names in a graph."""
TRIES = 8
"""Draws of objects and moments before a kind of question is given up for a scene."""


@dataclass
class Args:
    """Make questions about objects in space and time from annotated clips."""

    name: Annotated[Literal[tuple(READERS)], tyro.conf.Positional]
    """Format of the annotations."""
    input: Path
    """Annotation file, or folder of them."""
    data_root: Path
    """Folder that the clips lie below: the data root of training."""
    output: Path
    """The rows; refused ones go to OUTPUT.refused.txt."""
    prefix: str = ""
    """Folder of these clips below the data root."""
    seed: int = 0
    per_scene: int = 8
    """Most questions about one clip."""
    moments: int = 4
    """Frames of the graph, evenly spaced; even."""
    angles: Literal["absolute", "relative"] = "absolute"
    """How the graph's reward measures angles: in the picture, or from its first edge (rotation costs nothing)."""
    limit: int = 20
    """Refused rows to print; all of them are counted and written."""


# ---------------------------------------------------------------------------------------------------------------------
# A scene at its moments


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


def graph_of(scene: Scene, frames: list[int], names: list[str]) -> list[dict]:
    """The centres of what is in sight at each frame: `graphs.py`'s layout."""
    graph = []
    for frame in frames:
        moment: dict[str, list] = {}
        for track in scene.tracks:
            if track.name in names and (box := scene.box(track, frame)):
                moment.setdefault(track.name, []).append([round(side, 3) for side in centre(box)])
        graph.append({name: sorted(points) for name, points in moment.items()})
    return graph


def graph_names(scene: Scene, frames: list[int], asked: tuple[str, ...]) -> list[str]:
    """What is asked about, and of the rest what is in sight most often, NAMED in all."""
    seen = Counter(name for moment in graph_of(scene, frames, names_of(scene)) for name in moment)
    others = sorted((name for name in seen if name not in asked), key=lambda name: (-seen[name], name))
    return [*asked, *others][: max(NAMED, len(asked))]


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
        return found and [round(side, 3) for side in found]

    def period(s: Scene) -> list | None:
        runs = s.runs(the_only(s, name))
        first, last = runs[0]
        clear = len(runs) == 1 and s.frames / 8 <= last + 1 - first <= 7 * s.frames / 8
        return [[round(first / s.fps, 3), round((last + 1) / s.fps, 3)]] if clear else None

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
TYPES = {
    "letter": "relation choice",
    "number": "relation number",
    "box": "relation box",
    "intervals": "relation interval",
}


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def rows_of(scene: Scene, args: Args) -> list[dict]:
    """Up to `per_scene` questions about a clip, its kinds in turn. Refused where it gives none."""
    frames, rng = moments_of(scene, args.moments), visit_rng(args.seed, 0, scene.path)
    if len(set(frames)) < len(frames):
        raise Refused("clip", "is too short for its moments", f"{scene.frames} frames, {args.moments} moments")
    if not all(graph_of(scene, frames, names_of(scene))):
        raise Refused("clip", "has a moment without an object to ask about", scene.name)
    kinds = list(KINDS)
    rng.shuffle(kinds)
    rows: dict[str, dict] = {}
    for _ in range(-(-args.per_scene // len(kinds))):
        for kind in kinds:
            found = (question(kind, scene, frames, args, rng) for _ in range(TRIES))
            row = next((row for row in found if row and row["problem"] not in rows), None)
            if row and len(rows) < args.per_scene:
                rows[row["problem"]] = row | {"problem_id": f"{args.name}/{scene.name}/{len(rows)}"}
    if not rows:
        raise Refused("clip", "gives no clear question", scene.name)
    return list(rows.values())


def question(kind: str, scene: Scene, frames: list[int], args: Args, rng: random.Random) -> dict | None:
    """One row, without its id; None where the draw has no clear answer or no full graph."""
    asked = KINDS[kind](scene, frames, rng)
    right = asked and asked.answer(scene)
    if right is None:
        return None
    names = graph_names(scene, frames, asked.names)
    graph = graph_of(scene, frames, names)
    if not all(graph):
        return None
    elsewhere = {HORIZONTAL_FLIP: asked.answer(scene.flipped()), TEMPORAL_REVERSE: asked.answer(scene.backwards())}
    elsewhere = {name: answer for name, answer in elsewhere.items() if answer is not None}
    value, options = lambda answer: answer, []
    if asked.part == "letter":
        words = list(dict.fromkeys([right, *elsewhere.values(), *rng.sample(asked.choices, len(asked.choices))]))[:4]
        rng.shuffle(words)
        value = lambda answer: ascii_uppercase[words.index(answer)]  # noqa: E731
        options = [f"{letter}. {word}" for letter, word in zip(ascii_uppercase, words, strict=False)]
    solution = {asked.part: value(right), "graph": graph, "angles": args.angles}
    solution |= {"duration": scene.duration} if asked.part == "intervals" else {}
    solution["under"] = {name: {asked.part: value(answer)} for name, answer in elsewhere.items()}
    stamps = ", ".join(f"{frame / scene.fps:.1f}" for frame in frames)
    return {
        "problem": f"{asked.text}\nMoments of the graph: {stamps} s. Objects: {', '.join(names)}.",
        "data_type": "video",
        "problem_type": TYPES[asked.part],
        "options": options,
        "solution": solution,
        "path": scene.path,
        "data_source": READERS[args.name][1],
        "subtask": kind,
    }


def convert(args: Args) -> tuple[list[dict], list[BadRow]]:
    """Rows of every scene, and what was refused. ValueError, one line, for a mistake of the user."""
    if args.moments < 2 or args.moments % 2:
        raise ValueError(f"--moments must be even and 2 or more, got {args.moments}")
    if not args.data_root.is_dir():
        raise ValueError(f"{args.data_root}: --data-root must be a folder that is there")
    read, _, pattern = READERS[args.name]
    one = args.input.is_file() or (args.name == "scannet" and args.input.name.startswith("scene"))
    paths = [args.input] if one else sorted(args.input.glob(pattern))
    if not paths:
        raise ValueError(f"{args.input}: holds no {pattern}; give the annotations of {args.name}")
    rows, bad, look = [], [], lambda path: inspect_clip(args.data_root / path)
    for path in paths:
        for scene in read(path, look, args.prefix, bad):
            try:
                rows += rows_of(scene, args)
            except Refused as refusal:
                bad.append(BadRow(str(path), 1, *refusal.args))
    return rows, bad


def write(args: Args, rows: list[dict], bad: list[BadRow]) -> None:
    """The rows, whole or not at all, as training's loader takes them; the refused ones beside them."""
    part = args.output.with_name(args.output.name + ".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    _, faults = load_questions(part, args.data_root) if rows else ([], [])
    if faults:
        raise RuntimeError(f"a row that was made cannot be used: {faults[0]}")
    os.replace(part, args.output)
    args.output.with_name(args.output.name + ".refused.txt").write_text("".join(f"{row}\n" for row in bad))


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv)
    try:
        rows, bad = convert(args)
        write(args, rows, bad)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())[:600]}", file=sys.stderr)
        return 2
    print(f"{args.name}: {len(rows)} questions -> {args.output}")
    counts = Counter((row["subtask"], row["problem_type"]) for row in rows)
    print(
        table([{"kind": a, "answer": b, "rows": n} for (a, b), n in sorted(counts.items())], ["kind", "answer", "rows"])
    )
    for line in report_bad_rows(bad, args.limit):
        print(f"  {line}")
    if not rows:
        print(f"error: no question was made; reasons are in {args.output}.refused.txt", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
