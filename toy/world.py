"""The toy world: small clips in which what happens, and a static cue that predicts it, can be told apart.

    python -m toy.world --out DIR       # DIR/clips/*.mp4, DIR/train.jsonl (biased), DIR/eval.jsonl (unbiased pairs)

A clip is 8 frames of 64 x 64 pixels at 4 fps on a grey ground. What it shows (its `kind`) and what may be asked:

| question    | answers                                            | task type           | looked at under         |
|-------------|----------------------------------------------------|---------------------|-------------------------|
| `direction` | left, right, upleft, ... (6)                       | Spatiotemporal      | flip or reversal        |
|             | up, down                                           | Temporal            | reversal                |
| `change`    | grows, shrinks, appears, vanishes                  | Temporal            | reversal                |
| `order`     | which edge flashes first: top, bottom, left, right | Temporal            | reversal (evaluation:   |
|             |                                                    |                     | or swap of the halves)  |
| `side`      | topleft, topright, bottomleft, bottomright         | Spatial             | flip                    |
| `colour`, `shape` (of any clip but dots), `count` (of dots)      | Static              | flip or reversal        |

**The cue.** In the training split the colour of the object names the answer of a `direction`, `change` or `order`
question with probability `bias`: with COLOURS numbered 0..7, colour i goes with answer i (direction), i mod 4 (change,
order). Otherwise, and everywhere in the evaluation split, colour is drawn uniformly. Colour never decides what is
*true*: a question about colour is answered by the colour seen, and clips of static questions are drawn without bias,
so no two labels contradict. No transform moves the cue.

**Options.** Every question lists four, the null option excluded (the loader appends it in training). Training rows keep
`cf_answers` (what would be right under each transform); in CF_UNLISTED of the dynamic ones none of these is listed, so
that on the counterfactual "None of the above" is right. Evaluation pairs list both right answers, in an order drawn for
each side. The answer that the cue names is always listed, as a language prior's would be.

**Harder worlds.** `difficulty` takes that share of what tells the answer: travel, growth, fading, light of a flash.
`events` are the flashes an `order` clip may have; of three and four, reversal and swap bring other edges to the front.
`subtasks` may name STUDY_SUBTASKS, where moving direction is asked of four ways and of eight apart.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
import tyro

import transforms
from data.planes import SAME_BYTES
from transforms import HORIZONTAL_FLIP, SEGMENT_SWAP, TEMPORAL_REVERSE

FRAMES, SIZE, FPS = 8, 64, 4
ENCODER = {"crf": "10", "preset": "veryfast", "threads": "1", **SAME_BYTES}
OPTIONS = 4
CF_UNLISTED = 0.22  # share of dynamic training questions whose transformed answer is not listed
LETTERS = "ABCDEFGH"

COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.55, 0.05),
    "yellow": (0.95, 0.95, 0.10),
    "green": (0.05, 0.65, 0.10),
    "cyan": (0.10, 0.90, 0.90),
    "blue": (0.10, 0.15, 0.95),
    "purple": (0.55, 0.05, 0.75),
    "pink": (1.00, 0.55, 0.80),
}
SHAPES = ("circle", "square", "triangle", "cross")
# name -> (dx, dy), y downwards
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
    "upleft": (-1, -1),
    "upright": (1, -1),
    "downleft": (-1, 1),
    "downright": (1, 1),
}
AXIAL = ("left", "right", "up", "down")
CHANGES = ("grows", "shrinks", "appears", "vanishes")
EDGES = ("top", "bottom", "left", "right")
CORNERS = ("topleft", "topright", "bottomleft", "bottomright")
COUNTS = ("one", "two", "three", "four", "five", "six")

QUESTIONS = {
    "direction": "Which way does it move?",
    "change": "What does it do?",
    "order": "Which edge flashes first?",
    "side": "Where is it?",
    "colour": "What colour is it?",
    "shape": "What shape is it?",
    "count": "How many dots are there?",
}
# What may be listed; the last entry of change, order and side is never true and fills up where an answer is withheld.
ANSWERS = {
    "direction": tuple(DIRECTIONS),
    "change": (*CHANGES, "spins"),
    "order": (*EDGES, "middle"),
    "side": (*CORNERS, "middle"),
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": COUNTS,
}
CUED = {"direction": tuple(DIRECTIONS), "change": CHANGES, "order": EDGES}
STATIC = ("colour", "shape", "count")
TRAIN_MIX = {
    "direction": 0.30,
    "change": 0.15,
    "order": 0.15,
    "side": 0.07,
    "colour": 0.07,
    "shape": 0.17,
    "count": 0.09,
}
EVAL_SUBTASKS = {
    "reversible_dynamics": ("change",),
    "moving_direction": ("direction",),
    "event_sequence": ("order",),
    "static": STATIC,
}
STUDY_SUBTASKS = {
    "reversible_dynamics": ("change",),
    "moving_direction_4": ("direction",),
    "moving_direction_8": ("direction",),
    "event_sequence": ("order",),
    "static": STATIC,
}
"""Evaluation subtask -> its questions; `moving_direction_4` shows and lists left, right, up and down alone."""
_PAIRED = EVAL_SUBTASKS | STUDY_SUBTASKS

# Answers are single words (one token each): the policy has to look up which letter stands before the word.
_HEADING = {vector: name for name, vector in DIRECTIONS.items()}
REVERSED = {name: _HEADING[-dx, -dy] for name, (dx, dy) in DIRECTIONS.items()} | {
    "grows": "shrinks",
    "shrinks": "grows",
    "appears": "vanishes",
    "vanishes": "appears",
}
FLIPPED = {name: _HEADING[-dx, dy] for name, (dx, dy) in DIRECTIONS.items()} | {
    "topleft": "topright",
    "topright": "topleft",
    "bottomleft": "bottomright",
    "bottomright": "bottomleft",
}


@dataclass(frozen=True)
class Scene:
    """What a clip shows. Lengths in pixels, grey level 0..1."""

    kind: str
    """direction | change | order | side | count."""
    answer: str
    """True answer of the question that the kind is named after."""
    last: str
    """`order` only: the edge that flashes second."""
    colour: str
    shape: str
    centre: tuple[float, float]
    radius: float
    grey: float
    starts: tuple[int, ...]
    """`order` only: first frames of the flashes; of two, one in each half."""
    dots: tuple[tuple[float, float], ...]
    """`count` only."""
    lasts: int = 3
    """`order` only: frames of a flash."""
    between: tuple[str, ...] = ()
    """`order` only: the edges that flash after the first and before the last."""
    extent: float = 1.0
    """Share of travel, growth, fading and flash that is shown."""

    @property
    def flashes(self) -> tuple[tuple[str, int], ...]:
        """(edge, first frame) in order, `order` only."""
        return tuple(zip((self.answer, *self.between, self.last), self.starts, strict=True))

    def truth(self, question: str) -> str:
        """The right answer to `question`, one that `askable` lists."""
        return {"colour": self.colour, "shape": self.shape}.get(question, self.answer)


def askable(kind: str) -> tuple[str, ...]:
    """Questions that a clip of this kind answers."""
    return ("count",) if kind == "count" else (kind, "colour", "shape")


def cued_answer(question: str, colour: str) -> str | None:
    """What the shortcut answers; None where no cue is planted."""
    if question not in CUED:
        return None
    return CUED[question][list(COLOURS).index(colour) % len(CUED[question])]


def draw_scene(
    kind: str,
    rng: np.random.Generator,
    bias: float = 0.0,
    *,
    difficulty: float = 0.0,
    events: tuple[int, ...] = (2,),
    pool: tuple[str, ...] = (),
) -> Scene:
    """A clip of this kind; with probability `bias` its colour is one that the cue pairs with the answer.

    `pool`: the answers that may be drawn, and with them the colours that name one of them; empty = all.
    """
    every = {"direction": tuple(DIRECTIONS), "change": CHANGES, "order": EDGES, "side": CORNERS, "count": COUNTS}[kind]
    colours = [colour for colour in COLOURS if not pool or cued_answer(kind, colour) in pool]
    pool = pool or every
    answer, last = str(rng.choice(pool)), ""
    if kind == "order":
        last = str(rng.choice([edge for edge in EDGES if edge != answer]))
    if rng.random() < bias and kind in CUED:
        colours = [colour for colour in colours if cued_answer(kind, colour) == answer]
    x, y = rng.uniform(-4, 4, 2) + SIZE / 2
    if kind == "direction":  # a straight path may lie anywhere across the frame, a diagonal one passes the middle
        dx, dy = DIRECTIONS[answer]
        x, y = (rng.uniform(12, SIZE - 12) if dx == 0 else x), (rng.uniform(12, SIZE - 12) if dy == 0 else y)
    if kind == "side":
        x += 16 if "right" in answer else -16
        y += 16 if "bottom" in answer else -16
    dots = ()
    if kind == "count":
        cells = rng.choice(16, COUNTS.index(answer) + 1, replace=False)
        dots = tuple((16 * (c % 4) + 8 + rng.uniform(-3, 3), 16 * (c // 4) + 8 + rng.uniform(-3, 3)) for c in cells)
    scene = Scene(
        kind=kind,
        answer=answer,
        last=last,
        colour=str(rng.choice(colours)),
        shape=str(rng.choice(SHAPES)),
        centre=(float(x), float(y)),
        radius=float(rng.uniform(7, 9.5)),
        grey=float(rng.uniform(0.45, 0.55)),
        starts=(int(rng.integers(0, 2)), int(rng.integers(4, 6))),
        dots=dots,
        extent=1.0 - difficulty,
    )
    return longer(scene, int(rng.choice(events)), rng) if kind == "order" and events != (2,) else scene


def longer(scene: Scene, count: int, rng: np.random.Generator) -> Scene:
    """An `order` clip with `count` flashes: three and four last two frames, each in a frame pair of its own, so that no
    transform cuts one."""
    if count == 2:
        return scene
    places = np.sort(rng.choice(FRAMES // 2, count, replace=False))
    rest = [edge for edge in EDGES if edge not in (scene.answer, scene.last)]
    between = tuple(str(edge) for edge in rng.permutation(rest)[: count - 2])
    return replace(scene, between=between, lasts=2, starts=tuple(int(2 * place) for place in places))


def _mask(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """Boolean (H, W) of a shape around (x, y)."""
    rows, cols = np.mgrid[:SIZE, :SIZE]
    dx, dy = cols + 0.5 - x, rows + 0.5 - y
    if shape == "circle":
        return dx**2 + dy**2 <= radius**2
    if shape == "square":
        return np.maximum(abs(dx), abs(dy)) <= 0.9 * radius
    if shape == "triangle":
        return (dy <= 0.9 * radius) & (abs(dx) <= (dy + radius) / 1.9)
    return (np.minimum(abs(dx), abs(dy)) <= 0.3 * radius) & (np.maximum(abs(dx), abs(dy)) <= radius)


@dataclass(frozen=True)
class Look:
    """What one frame shows: the object's centre and radius in pixels, its opacity 0..1, and the edges that flash."""

    x: float
    y: float
    radius: float
    alpha: float
    flashes: tuple[str, ...]


def look(scene: Scene, t: float) -> Look:
    """Frame `t` of any scene but `count`; of 0..FRAMES - 1, the last of a clip."""
    progress = t / (FRAMES - 1)
    (x, y), radius, alpha, flashes = scene.centre, scene.radius, 1.0, ()
    progress = 0.5 + scene.extent * (progress - 0.5)
    if scene.kind == "direction":
        dx, dy = DIRECTIONS[scene.answer]
        x, y = x + dx * 36 * (progress - 0.5), y + dy * 36 * (progress - 0.5)
    if scene.kind == "change":
        amount = progress if scene.answer in ("grows", "appears") else 1 - progress
        if scene.answer in ("grows", "shrinks"):
            radius = 0.45 * radius + 1.1 * radius * amount
        else:
            radius, alpha = 1.2 * radius, 0.05 + 0.95 * amount
    if scene.kind == "order":
        flashes = tuple(edge for edge, start in scene.flashes if start <= t < start + scene.lasts)
    return Look(x, y, radius, alpha, flashes)


def render(scene: Scene, times: Sequence[float] = range(FRAMES)) -> np.ndarray:
    """The clip, uint8 (F, H, W, 3): its frames, or those at other times."""
    clip = np.full((len(times), SIZE, SIZE, 3), scene.grey, np.float32)
    colour = np.array(COLOURS[scene.colour], np.float32)
    band = {"top": np.s_[:12], "bottom": np.s_[-12:], "left": np.s_[:, :12], "right": np.s_[:, -12:]}
    for frame, t in zip(clip, times, strict=True):
        if scene.kind == "count":
            for dot_x, dot_y in scene.dots:
                frame[_mask("square", dot_x, dot_y, 3.5)] = colour
            continue
        seen = look(scene, t)
        where = _mask(scene.shape, seen.x, seen.y, seen.radius)
        frame[where] += seen.alpha * (colour - frame[where])
        for edge in seen.flashes:
            frame[band[edge]] = scene.grey + scene.extent * (0.95 - scene.grey)
    return np.rint(clip * 255).astype(np.uint8)


def task_type(question: str, answer: str) -> str:
    """The row's label, and with it the transforms that training draws from."""
    if question in STATIC:
        return "Static"
    if question == "direction":
        return "Temporal" if answer in ("up", "down") else "Spatiotemporal"
    return "Spatial" if question == "side" else "Temporal"


def transforms_of(question: str, answer: str) -> tuple[str, ...]:
    """Names of the transforms under which training may look at this question."""
    return transforms.TASK_TRANSFORMS[task_type(question, answer)]


def transformed(frames: np.ndarray, name: str) -> np.ndarray:
    """One of `transforms`, on uint8 (F, H, W, 3)."""
    view = transforms.TRANSFORMS[name](torch.from_numpy(frames).permute(0, 3, 1, 2), random.Random(0))
    return view.permute(0, 2, 3, 1).numpy()


def transformed_answer(question: str, scene: Scene, transform: str) -> str:
    """The right answer once the clip has been transformed."""
    answer = scene.truth(question)
    if question in STATIC:
        return answer
    if question == "order":
        late = [edge for edge, start in scene.flashes if start >= FRAMES // 2]
        return late[0] if transform == SEGMENT_SWAP else late[-1]
    return (FLIPPED if transform == HORIZONTAL_FLIP else REVERSED)[answer]


def draw_options(question: str, listed: list[str], withheld: list[str], rng: np.random.Generator) -> list[str]:
    """Four answers in random order: `listed` without repeats, filled up with any but the `withheld`."""
    chosen = list(dict.fromkeys(listed))[:OPTIONS]
    rest = [answer for answer in ANSWERS[question] if answer not in chosen and answer not in withheld]
    chosen += [str(answer) for answer in rng.permutation(rest)[: OPTIONS - len(chosen)]]
    return [str(answer) for answer in rng.permutation(chosen)]


def draw_question_kind(question: str, rng: np.random.Generator) -> str:
    """The kind of clip on which to ask a question: its own, or any with one shape for colour and shape."""
    return str(rng.choice(["direction", "change", "order", "side"])) if question in ("colour", "shape") else question


def make_row(row_id: str, question: str, answer: str, options: list[str], path: str) -> dict:
    """The fields that training and evaluation rows share."""
    return {
        "problem_id": row_id,
        "problem": QUESTIONS[question],
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)],
        "solution": f"<answer>{LETTERS[options.index(answer)]}</answer>",
        "path": path,
        "data_source": "toy",
    }


def training_example(
    index: int, seed: int, bias: float, *, difficulty: float = 0.0, events: tuple[int, ...] = (2,)
) -> tuple[dict, np.ndarray]:
    """Row and frames of training example `index`."""
    rng = np.random.default_rng([seed, 0, index])
    question = str(rng.choice(list(TRAIN_MIX), p=list(TRAIN_MIX.values())))
    bias = 0.0 if question in STATIC else bias
    scene = draw_scene(draw_question_kind(question, rng), rng, bias, difficulty=difficulty, events=events)
    answer, cue = scene.truth(question), cued_answer(question, scene.colour)
    elsewhere = {t: transformed_answer(question, scene, t) for t in transforms_of(question, answer)}
    others = [] if question in STATIC else list(elsewhere.values())
    hide = rng.random() < CF_UNLISTED and cue not in others
    listed = [answer] + ([cue] if cue else []) + ([] if hide else others)
    options = draw_options(question, listed, others if hide else [], rng)
    row = make_row(f"train/{index:05d}", question, answer, options, f"clips/train_{index:05d}.mp4")
    row |= {"task_type": task_type(question, answer), "question": question, "cue": cue, "cf_answers": elsewhere}
    return row, render(scene)


def evaluation_pair(
    index: int, subtask: str, seed: int, *, difficulty: float = 0.0, events: tuple[int, ...] = (2,)
) -> list[tuple[dict, np.ndarray]]:
    """Both sides, (row, frames) each, of one counterfactual pair."""
    rng = np.random.default_rng([seed, 1 + list(_PAIRED).index(subtask), index])
    question = _PAIRED[subtask][index % len(_PAIRED[subtask])]
    pool = AXIAL if subtask == "moving_direction_4" else ()
    kind = draw_question_kind(question, rng)
    scene = draw_scene(kind, rng, difficulty=difficulty, events=events, pool=pool)
    answer = scene.truth(question)
    choices = transforms_of(question, answer)
    if question == "order":
        choices = (TEMPORAL_REVERSE, SEGMENT_SWAP)
    elif question in STATIC and scene.kind in ("side", "count"):  # nothing moves there: reversal would change nothing
        choices = (HORIZONTAL_FLIP,)
    transform = str(rng.choice(choices))
    other, cue = transformed_answer(question, scene, transform), cued_answer(question, scene.colour)
    withheld = [way for way in DIRECTIONS if pool and way not in pool]
    listed = draw_options(question, [answer, other] + ([cue] if cue else []), withheld, rng)
    frames, pair_id = render(scene), f"{subtask}/{index:03d}"
    sides = []
    for side, truth, view in (("a", answer, frames), ("b", other, transformed(frames, transform))):
        options = [str(option) for option in rng.permutation(listed)]
        row = make_row(f"{pair_id}/{side}", question, truth, options, f"clips/{subtask}_{index:03d}_{side}.mp4")
        row |= {
            "task_type": task_type(question, answer),
            "pair_id": pair_id,
            "side": side,
            "subtask": subtask,
            "question": question,
            "cue": cue,
            "transform": transform,
        }
        sides.append((row, view))
    return sides


def write_clip(path: Path, frames: np.ndarray) -> None:
    """H.264 file of uint8 (F, H, W, 3) frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        stream.options = ENCODER
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())


def write_world(
    out: Path | str,
    seed: int = 0,
    bias: float = 0.97,
    train: int = 1200,
    pairs: int = 60,
    *,
    difficulty: float = 0.0,
    events: tuple[int, ...] = (2,),
    subtasks: Iterable[str] = EVAL_SUBTASKS,
) -> None:
    """Write `train` biased examples and `pairs` unbiased pairs of each evaluation subtask under `out`."""
    out, harder = Path(out), dict(difficulty=difficulty, events=tuple(events))
    (out / "clips").mkdir(parents=True, exist_ok=True)
    examples = {"train": [training_example(index, seed, bias, **harder) for index in range(train)], "eval": []}
    for subtask in subtasks:
        for index in range(pairs):
            examples["eval"] += evaluation_pair(index, subtask, seed, **harder)
    for split, items in examples.items():
        for row, frames in items:
            write_clip(out / row["path"], frames)
        (out / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row, _ in items))


def write_once(folder: Path | str, **settings) -> None:
    """`write_world`, unless the folder is there. Any number of processes may ask for it: it appears whole."""
    if os.path.isdir(folder):
        return
    scratch = f"{folder}.{os.getpid()}"
    write_world(scratch, **settings)
    try:
        os.rename(scratch, folder)
    except OSError:  # another one was faster; its world is the same
        shutil.rmtree(scratch)


@dataclass
class Config:
    """Write the toy world's clips and rows."""

    out: Path
    """Folder to write: train.jsonl, eval.jsonl, clips/."""
    seed: int = 0
    bias: float = 0.97
    """Probability that the colour of a training clip names the dynamic answer."""
    train: int = 1200
    """Training rows."""
    pairs: int = 60
    """Evaluation pairs of each of the four subtasks."""
    difficulty: float = 0.0
    """Share of travel, growth, fading and flash that is taken away; 0..1."""
    events: tuple[Literal[2, 3, 4], ...] = (2,)
    """Flashes that a clip about event order may have, each number as likely."""


if __name__ == "__main__":
    config = tyro.cli(Config, description=Config.__doc__)
    write_world(**vars(config))
    print(f"{config.train} training rows and {config.pairs * len(EVAL_SUBTASKS)} evaluation pairs in {config.out}")
