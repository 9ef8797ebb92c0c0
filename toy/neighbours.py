"""`python -m toy.neighbours NAME`: a task of a neighbour system on the toy world, learned by the tiny model in minutes.

    python -m toy.neighbours grounding --seed 0
    python -m toy.neighbours tracking --method crpo --run-dir runs/tracking
    python -m toy.neighbours masked; python -m toy.neighbours counting; python -m toy.neighbours relations

Three steps: a short supervised lesson from the shipped warm start teaches the answer's format and a habit, one usual
answer given in most cases whatever is seen (what language priors do to a real model); `train.py --preset toy` does the
rest; answers to unseen rows, sampled as in training and greedy, are scored before and after. Writes RUN/start (the
lesson's checkpoint), RUN/world, RUN/run (the run's folder, with curves.png) and RUN/summary.json. Seeds may share a
lesson, as they share the warm start: `--start RUN/start`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
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
from data.scenes import Scene, Track
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
STARTS = (0, 2, 5)  # first frames of a flash that the tower tells apart, two frames a token
WINDOW, HIDDEN, PLACES = 4, 2, 5  # pictures with those hidden, of so many places of a moving object
TRACKED = 4  # boxes of a toy track: the tiny model would spell eight for a minute a round
TRUE = 0.4  # of the lesson's answers are right, the others are the usual one
USUAL_ORDER, USUAL_COUNT = "1,2", 3
USUAL_POINTS, USUAL_BOX = ((0.3, 0.3), (0.7, 0.7)), (0.3, 0.3, 0.7, 0.7)


@dataclass(frozen=True)
class Drawn:
    """One example."""

    fields: dict
    """`problem`, `problem_type`, `solution`: what the row has beside its path."""
    frames: np.ndarray
    """uint8 (F, H, W, 3)."""
    lesson: str
    """The completion that the lesson imitates: well-formed, and right in TRUE of the cases."""


def grounding(rng: np.random.Generator) -> Drawn:
    """When an edge flashes, once in a clip: of two flashes the tiny model does not learn in minutes to find the one
    that is asked for. The lesson thinks of the right start, and answers the first as a habit."""
    scene = world.draw_scene("order", rng)
    start = rng.choice(STARTS)
    said = start if rng.random() < TRUE else STARTS[0]
    scene = replace(scene, starts=(int(start), world.FRAMES))  # the second flash never comes
    fields = {"problem": f"{scene.answer} edge flashes", "problem_type": "temporal grounding", "task_type": "Temporal"}
    fields["solution"] = {"intervals": [[start / world.FPS, (start + FLASH) / world.FPS]], "duration": DURATION}
    answer = f"{said / world.FPS:.2f} to {(said + FLASH) / world.FPS:.2f}"
    return Drawn(fields, world.render(scene), tagged(f"{scene.answer} {start / world.FPS:.2f}", answer))


def tracking(rng: np.random.Generator) -> Drawn:
    """The box of a moving object at TRACKED moments; by habit it stays where it was first."""
    scene = world.draw_scene("direction", rng)
    looks = [world.look(scene, t) for t in frame_indices(world.FRAMES, TRACKED)]
    boxes = np.clip([sides(seen) for seen in looks], 0.0, 1.0)
    said = np.clip(boxes if rng.random() < TRUE else boxes[[0] * TRACKED], 0.0, 0.9)
    fields = {"problem": scene.shape, "problem_type": "tracking", "solution": {"boxes": boxes.round(3).tolist()}}
    answer = ",".join("[" + ",".join(f".{round(10 * side)}" for side in box) + "]" for box in said)
    thought = f"{world.REVERSED[scene.answer]} then {scene.answer}"
    return Drawn(fields, world.render(scene), tagged(thought, f"[{answer}]"))


def masked(rng: np.random.Generator) -> Drawn:
    """An object that moves sideways at a run of places, the middle ones hidden among distractors from before and after
    the run; every picture twice, as `data.masked` lays it out. The lesson thinks each picture's place, 0 to 9, and then
    the right order; by habit it answers USUAL_ORDER."""
    scene = world.draw_scene("direction", rng)
    scene = replace(scene, answer=str(rng.choice(["left", "right"])), centre=(world.SIZE / 2, rng.uniform(12, 52)))
    start, before = int(rng.integers(PLACES - WINDOW + 1)), (WINDOW - HIDDEN) // 2
    run = list(range(start, start + WINDOW))
    hidden = run[before : before + HIDDEN]
    candidates = [place for place in range(PLACES) if place in hidden or place not in run]
    rng.shuffle(candidates)
    times = [place * world.FRAMES / (PLACES - 1) - 0.5 for place in (*run[:before], *candidates, *run[-before:])]
    order = [candidates.index(place) + 1 for place in hidden]
    told = ",".join(map(str, order))
    fields = {"problem": "Which are missing?", "problem_type": "order"}
    fields["solution"] = {"order": order, "candidates": len(candidates)}
    places = " ".join(f"{10 * world.look(scene, t).x / world.SIZE:.0f}" for t in times)
    said = told if rng.random() < TRUE else USUAL_ORDER
    frames = world.render(scene, [t for t in times for _ in range(2)])
    return Drawn(fields, frames, tagged(f"{places}\n{told}", said))


def relations(rng: np.random.Generator) -> Drawn:
    """Where one of two objects in parallel lanes is, and the graph of both; by habit they are at USUAL_POINTS, and the
    one asked for in USUAL_BOX. Each colour has its lane: which of eight is in which the tiny model does not learn in
    minutes."""
    headings, pair = (("left", "right"), ("up", "down"))[rng.integers(2)], []
    for lane, colour in zip(np.array([16.0, 48.0]) + rng.uniform(-4, 4, 2), ("red", "blue"), strict=True):
        centre = (world.SIZE / 2, lane) if "left" in headings else (lane, world.SIZE / 2)
        moving = {"answer": str(rng.choice(headings)), "colour": colour, "centre": centre, "grey": 0.5}
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
    graph, box = row["solution"]["graph"], row["solution"]["box"]
    if rng.random() >= TRUE:
        graph = [{name: [point] for name, point in zip(moment, USUAL_POINTS, strict=True)} for moment in graph]
        box = USUAL_BOX
    graph = [{name: np.round(points, 1).tolist() for name, points in moment.items()} for moment in graph]
    box = np.round(box, 1).tolist()
    spelled = [json.dumps(value, separators=(",", ":")) for value in (graph, box)]
    fields = {name: row[name] for name in ("problem_type", "solution")}
    fields["problem"] = row["problem"].partition("\n")[0]  # the graph's moments and names, ever the same, cost time
    return Drawn(fields, frames, tagged(f"<graph>{spelled[0]}</graph>", spelled[1]))


def counting(rng: np.random.Generator) -> Drawn:
    """How many dots there are, scored by mean relative accuracy as Video-STR's numbers. The lesson thinks of the right
    number."""
    scene = world.draw_scene("count", rng)
    right = 1 + world.COUNTS.index(scene.answer)
    said = right if rng.random() < TRUE else USUAL_COUNT
    fields = {"problem": world.QUESTIONS["count"], "problem_type": "relation number", "solution": {"number": right}}
    return Drawn(fields, world.render(scene), tagged(scene.answer, str(said)))


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
    steps: int = 12
    """Rounds of RL."""
    questions: int = 16
    """Of a round."""
    flags: tuple[str, ...] = ()
    """Further ones of train.py."""
    frames: int = world.FRAMES
    """Of a clip."""


# The preset is for fifty rounds of one update, ten of them warm-up.
HASTE = ("--updates", "2", "--warmup-steps", "4", "--kl-coef", "0")
TOY_TASKS = {
    "grounding": ToyTask(grounding, tokens=48, lesson_steps=80),
    "tracking": ToyTask(tracking, tokens=112, lesson_steps=120, steps=16, questions=12),
    "masked": ToyTask(
        masked,
        tokens=32,
        lesson_steps=150,
        flags=("--frames", "10", "--max-pixels", "20480", "--lr", "1.5e-4"),
        frames=10,
    ),
    "counting": ToyTask(counting, tokens=48, lesson_steps=80),
    "relations": ToyTask(relations, tokens=144, lesson_steps=120, questions=12),
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
    start: Path | None = None
    """RUN/start of an earlier run of this task; a lesson of its own unless given."""
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


def lesson(model, inputs: Inputs, task: ToyTask, seed: int, batch: int = 32, lr: float = 1.5e-3) -> None:
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


def teach(task: ToyTask, seed: int, out: Path) -> Path:
    """Give the shipped warm start a task's lesson; returns the folder of the checkpoint, `out`."""
    processor = load_processor(CHECKPOINT)
    model = load_float32(CHECKPOINT)
    lesson(model, Inputs(processor, task.frames), task, seed)
    save(model, processor, out)
    return out


def load_float32(folder: Path | str) -> Qwen3VLForConditionalGeneration:
    return Qwen3VLForConditionalGeneration.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False
    ).float()


def asked(fields: dict) -> Question:
    """A drawn example as the prompt builder takes it."""
    kind = fields["problem_type"]
    gold = canonical(TASKS[kind].check(fields["solution"], ()))
    return Question("", 0, fields["problem"], "video", kind, (), gold)


def mean_scores(folder: Path | str, rows: Path, task: ToyTask, name: str) -> dict[str, float]:
    """Mean scores, 0..1, of a checkpoint's answers to a file of rows: "sampled NAME" (temperature 1), "greedy NAME"."""
    model = load_float32(folder)
    inputs = Inputs(load_processor(folder), task.frames)
    questions, bad = load_questions(rows, rows.parent)
    if bad:
        raise ValueError(f"{rows}: its rows must all be usable, the first that is not: {bad[0]}")
    examples = [
        Example(inputs.prompt_ids(q), [], inputs.patches(read_clip(Path(q.path), task.frames))) for q in questions
    ]
    torch.manual_seed(0)  # of the samples, the same before and after
    scores = {}
    for how, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        texts = generate(model, inputs, examples, temperature=temperature, max_tokens=task.tokens)
        facts = [verify(text, question) for text, question in zip(texts, questions, strict=True)]
        scores[f"{how} {name}"] = float(np.mean([fact.score for fact in facts]))
    return scores


def main(args: Args) -> None:
    task = TOY_TASKS[args.name]
    began = time.time()
    run_dir = args.run_dir or Path(f"runs/toy_{args.name}_{args.method}_{args.seed}")
    if args.start and args.start.resolve().is_relative_to(run_dir.resolve()):
        sys.exit(f"--start must lie outside the run's folder, which is replaced; got {args.start} in {run_dir}")
    shutil.rmtree(run_dir, ignore_errors=True)
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    train = write_rows(run_dir / "world" / "train", task.draw, args.rows, TRAIN_SPLIT, args.seed)
    unseen = write_rows(run_dir / "world" / "unseen", task.draw, args.unseen, EVAL_SPLIT, args.seed)
    start = args.start or teach(task, args.seed, run_dir / "start")
    scores = mean_scores(start, unseen, task, "before")
    print({name: round(score, 3) for name, score in scores.items()}, flush=True)
    command = [
        sys.executable, "train.py", "--preset", "toy", "--model", start, "--train-file", train,
        "--data-root", train.parent, "--run-dir", run_dir / "run", "--method", args.method, "--engine", args.engine,
        "--max-completion-tokens", task.tokens, "--max-steps", args.steps or task.steps, "--seed", args.seed,
        "--questions", task.questions, *HASTE, *task.flags,
    ]  # fmt: skip
    code = subprocess.run([str(word) for word in command], env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode
    if code:
        sys.exit(code)
    scores |= mean_scores(run_dir / "run" / "export", unseen, task, "after")
    history = read_metrics(run_dir / "run" / "metrics.jsonl")
    paid = [row["reward/correct"] for row in history if "reward/correct" in row]
    scores |= {"first five rounds": float(np.mean(paid[:5])), "last five rounds": float(np.mean(paid[-5:]))}
    spent = {"seconds": time.time() - began, "CPU seconds": sum(os.times()[:4])}
    (run_dir / "summary.json").write_text(json.dumps(scores | spent, indent=2))
    print(f"{args.name}, {args.method}, seed {args.seed}: mean score, 0 to 1; curves in {run_dir}/run")
    for how, before, after in (
        ("unseen rows, sampled", "sampled before", "sampled after"),
        ("unseen rows, greedy", "greedy before", "greedy after"),
        ("training, first and last five rounds", "first five rounds", "last five rounds"),
    ):
        print(f"  {how}: {scores[before]:.3f} -> {scores[after]:.3f}")
    print(f"  {spent['seconds']:.0f} s, {spent['CPU seconds']:.0f} s of CPU")


if __name__ == "__main__":
    main(tyro.cli(Args, description=Args.__doc__))
