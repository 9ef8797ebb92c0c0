"""`python -m toy.neighbours NAME`: a task of a neighbour system on the toy world, learned by the tiny model in minutes.

    python -m toy.neighbours grounding --seed 0
    python -m toy.neighbours tracking --method crpo --run-dir runs/tracking
    python -m toy.neighbours masked; python -m toy.neighbours relations

Three steps: a short supervised lesson from the shipped warm start teaches the answer's format with answers that are
often wrong (a format never seen earns nothing to learn from); `train.py --preset toy` does the rest; greedy answers to
unseen rows are scored before and after. Writes RUN/start (the lesson's checkpoint), RUN/world, RUN/run (the run's
folder, with curves.png) and RUN/summary.json.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import tyro
from transformers import Qwen3VLForConditionalGeneration

from data import relations as stv
from data.dataset import load_questions
from data.tracks import Scene, Track
from data.video import frame_indices
from episode import Question
from metrics import read_metrics
from model import load_processor
from tasks import TASKS, canonical
from toy import world
from toy.model import CHECKPOINT, save
from toy.warm_start import Example, Inputs, generate, imitate, read_clip, visual_features
from verifiers import verify

LESSON_SPLIT, TRAIN_SPLIT, EVAL_SPLIT = 20, 21, 22  # seed streams apart from the toy world's own
DURATION = world.FRAMES / world.FPS
FLASH = 3  # frames that an edge flashes for
WINDOW, HIDDEN, PLACES = 4, 2, 6  # pictures with those hidden, of so many places of a moving object
TRACKED = 4  # boxes of a toy track: the tiny model would spell eight for a minute a round


@dataclass(frozen=True)
class Drawn:
    """One example."""

    fields: dict
    """`problem`, `problem_type`, `solution`: what the row has beside its path."""
    frames: np.ndarray
    """uint8 (F, H, W, 3)."""
    lesson: str
    """The completion that the lesson imitates: well-formed, and often wrong."""


def grounding(rng: np.random.Generator) -> Drawn:
    """When one of two edges flashes: in the first or the second half, with two possible starts in each."""
    scene = world.draw_scene("order", rng)
    asked = int(rng.integers(2))
    start = scene.starts[asked]
    said = start if rng.random() < 0.4 else int(rng.choice([0, 1, 4, 5]))
    edge = (scene.answer, scene.last)[asked]
    intervals = [[start / world.FPS, (start + FLASH) / world.FPS]]
    fields = {"problem": f"{edge} edge flashes", "problem_type": "temporal grounding"}
    fields["solution"] = {"intervals": intervals, "duration": DURATION}
    answer = f"{said / world.FPS:.2f} to {(said + FLASH) / world.FPS:.2f}"
    return Drawn(fields, world.render(scene), tagged(f"{scene.answer} then {scene.last}", answer))


def tracking(rng: np.random.Generator) -> Drawn:
    """The box of a moving object at TRACKED moments; the lesson's track lies beside it."""
    scene = world.draw_scene("direction", rng)
    looks = [world.look(scene, t) for t in frame_indices(world.FRAMES, TRACKED)]
    boxes = np.clip([sides(seen) for seen in looks], 0.0, 1.0)
    beside = np.clip(boxes + np.tile(rng.uniform(-0.2, 0.2, 2), 2), 0.0, 0.9)
    fields = {"problem": scene.shape, "problem_type": "tracking", "solution": {"boxes": boxes.round(3).tolist()}}
    answer = ",".join("[" + ",".join(f".{round(10 * side)}" for side in box) + "]" for box in beside)
    thought = f"{world.REVERSED[scene.answer]} then {scene.answer}"
    return Drawn(fields, world.render(scene), tagged(thought, f"[{answer}]"))


def masked(rng: np.random.Generator) -> Drawn:
    """A moving object at a run of places, the middle ones hidden among distractors from before and after the run;
    every picture twice, as `data.masked` lays it out."""
    scene = world.draw_scene("direction", rng)
    start, before = int(rng.integers(PLACES - WINDOW + 1)), (WINDOW - HIDDEN) // 2
    run = list(range(start, start + WINDOW))
    hidden = run[before : before + HIDDEN]
    candidates = [place for place in range(PLACES) if place in hidden or place not in run]
    rng.shuffle(candidates)
    shown = [*run[:before], *candidates, *run[-before:]]
    times = [place * (world.FRAMES - 1) / (PLACES - 1) for place in shown for _ in range(2)]
    order = [candidates.index(place) + 1 for place in hidden]
    said = order if rng.random() < 0.4 else rng.permutation(len(candidates))[:HIDDEN] + 1
    fields = {"problem": "Which are missing?", "problem_type": "order"}
    fields["solution"] = {"order": order, "candidates": len(candidates)}
    thought = f"{world.REVERSED[scene.answer]} then {scene.answer}"
    return Drawn(fields, world.render(scene, times), tagged(thought, ",".join(map(str, said))))


def relations(rng: np.random.Generator) -> Drawn:
    """Where one of two objects in parallel lanes is, and the graph of both; the lesson's places lie beside the true
    ones."""
    headings, lanes = (("left", "right"), ("up", "down"))[rng.integers(2)], rng.permutation([16.0, 48.0])
    colours, pair = rng.choice(list(world.COLOURS), 2, replace=False), []
    for lane, colour in zip(lanes + rng.uniform(-4, 4, 2), colours, strict=True):
        centre = (world.SIZE / 2, lane) if "left" in headings else (lane, world.SIZE / 2)
        moving = {"answer": str(rng.choice(headings)), "colour": str(colour), "centre": centre, "grey": 0.5}
        pair.append(replace(world.draw_scene("direction", rng), **moving))
    tracks = [
        Track(one.colour, {t: tuple(np.clip(sides(world.look(one, t)), 0, 1).tolist()) for t in range(world.FRAMES)})
        for one in pair
    ]
    scene, settings = Scene("", "", world.FRAMES, world.FPS, tuple(tracks)), stv.Args("plain", *3 * [Path()], moments=2)
    chance = random.Random(int(rng.integers(2**31)))
    row = stv.question("localisation", scene, stv.moments_of(scene, 2), settings, chance)
    while row is None:  # it asks from when to when in half of the draws, and here all is in sight all the time
        row = stv.question("localisation", scene, stv.moments_of(scene, 2), settings, chance)
    first, second = (world.render(scene) for scene in pair)
    frames = np.where((second != second[0, 0, 0]).any(-1, keepdims=True), second, first)
    beside = rng.uniform(-0.15, 0.15, 2)
    graph = [
        {name: [np.clip(np.array(points[0]) + beside, 0, 1).round(1).tolist()] for name, points in moment.items()}
        for moment in row["solution"]["graph"]
    ]
    box = np.clip(np.array(row["solution"]["box"]) + np.tile(beside, 2), 0, 1).round(1).tolist()
    spelled = [json.dumps(value, separators=(",", ":")) for value in (graph, box)]
    fields = {name: row[name] for name in ("problem", "problem_type", "solution")}
    return Drawn(fields, frames, tagged(f"<graph>{spelled[0]}</graph>", spelled[1]))


def sides(seen: world.Look) -> np.ndarray:
    """The box around an object in 0..1 of the frame; it may leave the frame."""
    x0, y0, x1, y1 = seen.x - seen.radius, seen.y - seen.radius, seen.x + seen.radius, seen.y + seen.radius
    return np.array([x0, y0, x1, y1]) / world.SIZE


def tagged(thought: str, answer: str) -> str:
    """A completion in the format of VideoChat-R1 and Video-STR."""
    return f"<think>\n{thought}\n</think>\n<answer>{answer}</answer>"


@dataclass(frozen=True)
class ToyTask:
    """What is learned, and how long that takes."""

    draw: Callable[[np.random.Generator], Drawn]
    tokens: int
    """Of the longest completion."""
    lesson_steps: int
    steps: int
    """Rounds of RL."""
    flags: tuple[str, ...] = ()
    """Further ones of train.py."""
    frames: int = world.FRAMES
    """Of a clip."""


TOY_TASKS = {
    "grounding": ToyTask(grounding, tokens=48, lesson_steps=60, steps=30),
    "tracking": ToyTask(tracking, tokens=112, lesson_steps=100, steps=40, flags=("--questions", "12")),
    "masked": ToyTask(
        masked, tokens=32, lesson_steps=100, steps=40, flags=("--frames", "12", "--max-pixels", "24576"), frames=12
    ),
    "relations": ToyTask(relations, tokens=144, lesson_steps=100, steps=40, flags=("--questions", "12")),
}


@dataclass
class Args:
    """Learn one task of a neighbour system on the toy world."""

    name: Annotated[Literal[tuple(TOY_TASKS)], tyro.conf.Positional]
    """The task."""
    method: Literal["grpo", "crpo"] = "grpo"
    """crpo pays the counterfactual branch for the answer that is right there, which is known."""
    run_dir: Path | None = None
    """Replaced if it exists; runs/toy_NAME_METHOD_SEED unless given."""
    seed: int = 0
    rows: int = 400
    """Training rows."""
    unseen: int = 96
    """Evaluation rows."""
    steps: int | None = None
    """Rounds of RL; the task's unless given."""
    engine: Literal["vllm", "hf"] = "vllm"
    """Of train.py."""


def write_rows(folder: Path, draw: Callable, count: int, split: int, seed: int) -> Path:
    """`count` rows of a split as rows.jsonl with clips, under `folder`."""
    (folder / "clips").mkdir(parents=True)
    lines = []
    for index in range(count):
        drawn = draw(np.random.default_rng([seed, split, index]))
        path = f"clips/{index:04d}.mp4"
        world.write_clip(folder / path, drawn.frames)
        row = {"problem_id": f"{split}/{index}", "data_type": "video", "path": path, "data_source": "toy"}
        lines.append(json.dumps(row | drawn.fields) + "\n")
    rows = folder / "rows.jsonl"
    rows.write_text("".join(lines))
    return rows


def lesson(model, inputs: Inputs, task: ToyTask, seed: int, batch: int = 32, lr: float = 1e-3) -> None:
    """Supervised updates of the language model on fresh, uncompressed examples."""
    optimizer = torch.optim.AdamW(model.model.language_model.parameters(), lr=lr, weight_decay=0.01)
    for step in range(task.lesson_steps):
        drawn = [task.draw(np.random.default_rng([seed, LESSON_SPLIT, step, i])) for i in range(batch)]
        patches = torch.stack([inputs.patches(torch.from_numpy(d.frames).permute(0, 3, 1, 2)) for d in drawn])
        examples = [
            Example(inputs.prompt_ids(asked(d.fields)), inputs.encode(d.lesson + "<|im_end|>"), p)
            for d, p in zip(drawn, patches, strict=True)
        ]
        with torch.no_grad():
            features = visual_features(model, inputs, patches)
        loss = imitate(model, inputs, examples, features, optimizer)
        if (step + 1) % 20 == 0:
            print(f"lesson step {step + 1} loss {loss:.3f}", flush=True)


def asked(fields: dict) -> Question:
    """A drawn example as the prompt builder takes it."""
    kind = fields["problem_type"]
    gold = canonical(TASKS[kind].check(fields["solution"], ()))
    return Question("", 0, fields["problem"], "video", kind, (), gold)


def mean_score(folder: Path | str, rows: Path, task: ToyTask) -> float:
    """Mean score, 0..1, of a checkpoint's greedy answers to a file of rows."""
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False
    ).float()
    inputs = Inputs(load_processor(folder), task.frames)
    questions, bad = load_questions(rows, rows.parent)
    if bad:
        raise ValueError(f"{rows}: its rows must all be usable, the first that is not: {bad[0]}")
    examples = [
        Example(inputs.prompt_ids(q), [], inputs.patches(read_clip(Path(q.path), task.frames))) for q in questions
    ]
    texts = generate(model, inputs, examples, max_tokens=task.tokens)
    return float(np.mean([verify(text, question).score for text, question in zip(texts, questions, strict=True)]))


def main(args: Args) -> None:
    task = TOY_TASKS[args.name]
    run_dir = args.run_dir or Path(f"runs/toy_{args.name}_{args.method}_{args.seed}")
    shutil.rmtree(run_dir, ignore_errors=True)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    train = write_rows(run_dir / "world" / "train", task.draw, args.rows, TRAIN_SPLIT, args.seed)
    unseen = write_rows(run_dir / "world" / "unseen", task.draw, args.unseen, EVAL_SPLIT, args.seed)
    processor = load_processor(CHECKPOINT)
    model = Qwen3VLForConditionalGeneration.from_pretrained(
        CHECKPOINT, use_safetensors=True, trust_remote_code=False
    ).float()
    lesson(model, Inputs(processor, task.frames), task, args.seed)
    save(model, processor, run_dir / "start")
    before = mean_score(run_dir / "start", unseen, task)
    command = [
        sys.executable, "train.py", "--preset", "toy", "--model", run_dir / "start", "--train-file", train,
        "--data-root", train.parent, "--run-dir", run_dir / "run", "--method", args.method, "--engine", args.engine,
        "--max-completion-tokens", task.tokens, "--max-steps", args.steps or task.steps, "--seed", args.seed,
        *task.flags,
    ]  # fmt: skip
    code = subprocess.run([str(word) for word in command], env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if code:
        sys.exit(code)
    after = mean_score(run_dir / "run" / "export", unseen, task)
    history = read_metrics(run_dir / "run" / "metrics.jsonl")
    paid = [row["reward/correct"] for row in history if "reward/correct" in row]
    first, last = (float(np.mean(some)) for some in (paid[:5], paid[-5:]))
    summary = {"before": before, "after": after, "first_rounds": first, "last_rounds": last}
    (run_dir / "summary.json").write_text(json.dumps(summary, indent=2))
    print(
        f"{args.name}, {args.method}, seed {args.seed}: mean score, greedy, on unseen rows {before:.3f} -> {after:.3f};"
    )
    print(f"of sampled answers in the first and the last five rounds {first:.3f} -> {last:.3f}; curves: {run_dir}/run")


if __name__ == "__main__":
    main(tyro.cli(Args, description=Args.__doc__))
