"""TRL's GRPO trainer and this one, step by step on the same model, prompt, completions and rewards.

    python -m bench.peer_trl --json peer_trl.json

TRL gets an environment of its own under --scratch (`uv venv`, TRL_REQUIREMENTS; needs a package index the first time)
and runs in a process that waits while ours computes, step about. Both start from the same float32 checkpoint, freeze
the vision tower, take AdamW steps on Eq. 6 with a KL term against the start model, and use no checkpointing. From the
second step on the KL term is not zero, so losses that agree over several steps mean that log-probs, gradients and
optimizer steps do. `update`: forward and backward; `step`: the reference pass, preparing the batch and the optimizer
too (our frozen tower runs in the reference pass, TRL's in each). Nothing is generated: TRL takes the completions
through its `rollout_func`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import tyro
from PIL import Image

import update
from advantage import group_advantages
from bench.shapes import SHAPES
from bench.workload import CLIP_EPS, TEXT_TOKENS, build_policy, join_alone, packs_of
from data.prompts import build_prompt
from episode import Group, Question, Rollout, View
from metrics import Accumulator
from model import EncodedPrompt, Policy, packed_tokens
from pictures import table

TRL_REQUIREMENTS = ("trl==1.16.0", "torch==2.11.0", "torchvision==0.26.0", "transformers==5.9.0", "pillow")
WORKER = Path(__file__).with_name("trl_worker.py")
# With the usual 1e-8 a gradient of rounding size makes a step of a whole learning rate, in either direction.
ADAM_EPSILON = 1e-3
WORDS = ("left", "right", "up", "down", "small", "big")


@dataclass
class PeerArgs:
    """Time TRL's update and ours, and compare their losses."""

    scratch: Path = Path("runs/peer_trl")
    """Folder of TRL's environment, kept for the next call."""
    kinds: tuple[Literal["image", "text"], ...] = ("image", "text")
    """Prompts to run, one after the other."""
    size: Literal["tiny", "20M"] = "20M"
    """Sizes in bench/shapes.py, random weights."""
    image_side: int = 640
    """Pixels, a multiple of 32: 400 tokens at 640."""
    text_words: int = 150
    """Words of the question of an image prompt; a text prompt has as many more as the image has tokens."""
    rollouts: int = 8
    """G."""
    completion_tokens: int = 64
    """L."""
    steps: int = 6
    """Optimizer steps; the first is not timed."""
    lr: float = 1e-4
    kl_coef: float = 0.04
    seed: int = 0
    json: Path | None = None
    """Also write the numbers here."""


# -- TRL's side --------------------------------------------------------------------------------------------------------


def trl_python(scratch: Path) -> Path:
    """The Python of TRL's environment, made where it is not there. SystemExit in one line where it cannot be had."""
    folder = scratch.resolve() / "trl"
    python, ready = folder / "bin" / "python", folder / "ready"
    if ready.is_file() and ready.read_text() == "\n".join(TRL_REQUIREMENTS):
        return python
    for command in (
        ["uv", "venv", "--clear", "--python", sys.executable, str(folder)],
        ["uv", "pip", "install", "--python", str(python), *TRL_REQUIREMENTS],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            sys.exit("error: uv is not on the PATH; it makes TRL's environment (pip install uv)")
        if done.returncode:
            sys.exit(f"error: {' '.join(command[:3])} failed: {done.stderr.strip().splitlines()[-1]}")
    ready.write_text("\n".join(TRL_REQUIREMENTS))
    return python


class Worker:
    """TRL's process."""

    def __init__(self, python: Path, job: dict, folder: Path):
        file = folder / "job.json"
        file.write_text(json.dumps(job))
        self.errors = folder / "trl.log"
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRL_EXPERIMENTAL_SILENCE": "1"}
        self.process = subprocess.Popen(
            [str(python), str(WORKER), str(file)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors.open("w"),
            text=True,
        )

    def read(self) -> dict:
        """The next line behind the mark. SystemExit in one line where TRL ended before."""
        for line in self.process.stdout:
            if line.startswith("@@"):
                return json.loads(line[2:])
        said = self.errors.read_text().strip().splitlines()
        sys.exit(f"error: TRL's trainer ended: {said[-1] if said else 'without a word'}")

    def step(self) -> dict:
        print("go", file=self.process.stdin, flush=True)
        return self.read()


@contextmanager
def running(python: Path, job: dict, folder: Path) -> Iterator[Worker]:
    worker = Worker(python, job, folder)
    try:
        worker.read()
        yield worker
    finally:
        worker.process.kill()
        worker.process.wait()


# -- our side ----------------------------------------------------------------------------------------------------------


@dataclass
class Ours:
    """Our trainer on the one group, in a process of one rank."""

    policy: Policy
    reference: Policy
    member: tuple[Group, EncodedPrompt]
    optimizer: torch.optim.Optimizer
    kl_coef: float

    def step(self) -> dict:
        """One optimizer step -> what trl_worker tells of its own."""
        begin = time.perf_counter()
        packs = packs_of([self.member], packed_tokens(self.member[0]), torch.device("cpu"))
        ref_logps = update.logps(self.reference, packs)
        packs = [replace(pack, ref_logps=logps) for pack, logps in zip(packs, ref_logps, strict=True)]
        self.policy.zero_grad()
        numbers = Accumulator()
        prepared, cpu = time.perf_counter(), time.process_time()
        update.backward(self.policy, packs, clip_eps=CLIP_EPS, kl_coef=self.kl_coef, numbers=numbers)
        ended, cpu = time.perf_counter(), time.process_time() - cpu
        norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        numbers.add("policy/loss", 0.0)  # counts the mini-batch
        values = numbers.reduce()
        return {
            "loss": values["policy/loss"],
            "grad_norm": norm.item(),
            "kl": values["policy/kl"],
            "prepare_seconds": prepared - begin,
            "update_seconds": ended - prepared,
            "update_cpu_seconds": cpu,
            "step_seconds": time.perf_counter() - begin,
        }


def make_job(args: PeerArgs, kind: str, folder: Path) -> tuple[Ours, dict]:
    """Our side, and what TRL's side is told; the checkpoint both start from is written to `folder`."""
    build = dict(dtype=torch.float32, device=torch.device("cpu"), checkpointing=False, seed=args.seed)
    built, hf, processor = build_policy(SHAPES[args.size], **build)
    reference, _, _ = build_policy(SHAPES[args.size], **build)
    processor.image_processor.size["longest_edge"] = args.image_side**2  # TRL would shrink it: its prompt is the same
    hf.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    generator = torch.Generator().manual_seed(args.seed)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, high, shape, generator=generator)

    view, image, words = None, None, args.text_words
    if kind == "image":
        pixels = draw(256, 1, 3, args.image_side, args.image_side).to(torch.uint8)
        view, image = View(pixels, "identity", 0.0, 1, (0,)), str(folder / "image.png")
        Image.fromarray(pixels[0].permute(1, 2, 0).numpy()).save(image)
    else:
        words += (args.image_side // 32) ** 2
    text = " ".join(WORDS[i] for i in draw(len(WORDS), words))
    completions = draw(TEXT_TOKENS, args.rollouts, args.completion_tokens).tolist()
    rewards = torch.rand(args.rollouts, generator=generator)

    question = Question("q", 1, text, kind, "multiple choice", (), "A")
    prompt = build_prompt(processor, question, view, system_prompt="", answer_request="")
    # No token is banned: TRL has no such rule.
    policy, reference = Policy(built.hf, (), 1.0), Policy(reference.hf, (), 1.0)
    encoded = policy.encode(processor, prompt)
    rollouts = [Rollout(tuple(ids), torch.zeros(len(ids)), "", "stop") for ids in completions]
    group = Group(question, 0, prompt, encoded.ids, rollouts, advantages=group_advantages(rewards))
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0, eps=ADAM_EPSILON)
    job = {
        "model": str(folder / "model"),
        "folder": str(folder),
        "text": text,
        "image": image,
        "prompt_ids": list(encoded.ids),
        "completions": completions,
        "rewards": rewards.tolist(),
        "steps": args.steps,
        "lr": args.lr,
        "kl_coef": args.kl_coef,
        "clip_eps": CLIP_EPS,
        "adam_epsilon": ADAM_EPSILON,
        "threads": torch.get_num_threads(),
    }
    return Ours(policy, reference, (group, encoded), optimizer, args.kl_coef), job


# -- both --------------------------------------------------------------------------------------------------------------


def compare(args: PeerArgs, kind: str, python: Path) -> dict:
    """Losses of every step of both, medians of the timed ones, ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, job = make_job(args, kind, folder)
        steps: dict[str, list[dict]] = {"trl": [], "ours": []}
        with running(python, job, folder) as worker:
            for _ in range(args.steps):
                steps["trl"].append(worker.step())
                steps["ours"].append(ours.step())
    medians = {
        side: {
            name.removesuffix("_seconds"): statistics.median(row[name] for row in rows[1:])
            for name in rows[0]
            if name.endswith("_seconds")
        }
        for side, rows in steps.items()
    }
    pairs = list(zip(steps["trl"], steps["ours"], strict=True))
    return {
        "prompt_tokens": len(job["prompt_ids"]),
        "ratio": medians["trl"]["update"] / medians["ours"]["update"],
        "ratio_cpu_time": medians["trl"]["update_cpu"] / medians["ours"]["update_cpu"],
        "ratio_step": medians["trl"]["step"] / medians["ours"]["step"],
        "max_loss_diff": max(abs(a["loss"] - b["loss"]) for a, b in pairs),
        "max_grad_norm_diff": max(abs(a["grad_norm"] - b["grad_norm"]) / b["grad_norm"] for a, b in pairs),
        "seconds": medians,
        "steps": steps,
    }


def main(argv: list[str] | None = None) -> None:
    args = tyro.cli(PeerArgs, args=argv)
    join_alone()
    python = trl_python(args.scratch)
    result = {kind: compare(args, kind, python) for kind in args.kinds}
    for kind, numbers in result.items():
        print(f"\n{kind} prompt of {numbers['prompt_tokens']} tokens, {args.rollouts} x {args.completion_tokens}")
        rows = [{"side": side} | {n: f"{s:.3f}" for n, s in row.items()} for side, row in numbers["seconds"].items()]
        print(table(rows, list(rows[0])))
        losses = [
            {"step": i, "loss, TRL": f"{a['loss']:.7f}", "loss, ours": f"{b['loss']:.7f}",
             "norm, TRL": f"{a['grad_norm']:.5f}", "norm, ours": f"{b['grad_norm']:.5f}"}
            for i, (a, b) in enumerate(zip(numbers["steps"]["trl"], numbers["steps"]["ours"], strict=True))
        ]  # fmt: skip
        print(table(losses, list(losses[0])))
        print(", ".join(f"{n} {v:.3g}" for n, v in numbers.items() if n.startswith(("ratio", "max"))))
    if args.json is not None:
        args.json.write_text(json.dumps(result | {"arguments": vars(args) | {"scratch": "", "json": ""}}, indent=2))


if __name__ == "__main__":
    main()
