"""Questions about where things are, from annotated clips: Video-STR's STV data, made by template (arXiv 2510.10976).

    python -m data.relations kitti --input label_02/ --data-root clips/ --output kitti.jsonl
    #                        tao | kitti | scannet | plain (`data/tracks.py`); refused rows: OUTPUT.refused.txt

Published: sources (TAO, KITTI, ScanNet), kinds of question (counting, direction, distance, order of appearance, size,
displacement, motion, localisation), kinds of answer (letter, number, IoU). Templates, margins and the graph's moments
are ours (`data/spatial.py`).

Each row holds a graph of the objects at --moments evenly spaced moments, and what would be right of the mirrored and of
the reversed clip: the same question put to the mirrored and to the reversed annotations, so that CRPO pays those
branches for exact answers (our extension). A question that has no clear answer there simply has none.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Annotated, Literal

import tyro

from data.corpora import Refused
from data.dataset import BadRow, load_questions, report_bad_rows
from data.scenes import Scene
from data.spatial import KINDS, centre, moments_of, names_of
from data.tracks import READERS
from data.video import inspect_clip
from pictures import table
from transforms import HORIZONTAL_FLIP, TEMPORAL_REVERSE, visit_rng

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
    """How the graph's reward measures angles: in the picture, or from its first edge (rotation costs edges nothing)."""
    limit: int = 20
    """Refused rows to print; all of them are counted and written."""


TYPES = {
    "letter": "relation choice",
    "number": "relation number",
    "box": "relation box",
    "intervals": "relation interval",
}


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
