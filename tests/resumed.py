"""Rounds of the toy for test_resume.py, one rank of several: small, in process, on the transformers engine.

Clips are decoded in this process, and rollouts may be replayed: another number of ranks rounds its sums otherwise, and
one token that falls the other way would end the comparison.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import torch

import config as settings
import parallel
import train
from data.video import sample_clip
from episode import Rollout
from metrics import read_metrics
from model import trainer_names
from rollout import Generated, HfEngine

FLAGS = ("--preset", "toy", "--engine", "hf", "--dtype", "float32", "--questions", "4", "--rollouts", "3", "--updates",
         "2", "--max-completion-tokens", "10", "--scripted-reward", "--lr", "1e-3", "--max-steps", "4", "--save-every",
         "2", "--checksum-every", "0", "--samples-every", "1", "--no-export", "--save-minutes", "0")  # fmt: skip


class Clips:
    """data.clips.Clips without its processes."""

    def submit(self, question) -> Future:
        future = Future()
        future.set_result(self.view(question))
        return future

    def view(self, question):
        return sample_clip(question.path, frames=4, max_pixels=4 << 14, min_frame_pixels=4096, max_frame_pixels=4096)

    def prefetch(self, questions) -> None: ...

    def close(self) -> None: ...


class Recorder(HfEngine):
    """Keeps what it sampled, by the request's seed, in types that travel between processes."""

    tape: dict = {}

    def generate(self, requests):
        results = super().generate(requests)
        for request, result in zip(requests, results, strict=True):
            self.tape[request.seed] = result.prompt_ids, [tuple(vars(r).values()) for r in result.rollouts]
        return results


class Player:
    """An engine that samples what another one has."""

    forgets = False

    def __init__(self, tape: dict):
        self.tape = tape

    def generate(self, requests):
        found = [self.tape[request.seed] for request in requests]
        return [Generated(prompt_ids, [Rollout(*rollout) for rollout in rollouts]) for prompt_ids, rollouts in found]

    def sync(self, parameters) -> None:
        for _ in parameters:
            pass

    def sleep(self) -> None: ...

    def wake(self, what: str) -> None: ...


def run(run_dir: str, world: str, *flags: str, tape: dict | None = None) -> dict:
    """A run over all ranks, that goes on where run_dir says -> its rows, its weights, and (where no tape is replayed)
    what its engines sampled. All ranks take part."""
    config = settings.parse(
        [*FLAGS, "--train-file", f"{world}/train.jsonl", "--data-root", world, "--run-dir", run_dir, *flags]
    )
    policies, load_policy = [], train.load_policy

    def build_engine(engine_settings, folder, banned_ids, device):
        if tape is not None:
            return Player(tape)
        return Recorder(folder, dtype="float32", banned_ids=banned_ids, device=device)

    with (
        mock.patch.object(train, "load_policy", lambda *a, **k: policies.append(load_policy(*a, **k)) or policies[-1]),
        mock.patch.object(train, "build_engine", build_engine),
        mock.patch.object(train, "open_clips", lambda _: Clips()),
        mock.patch.object(train, "curves", lambda *_: None),
        mock.patch.object(Recorder, "tape", {}),
    ):
        train.train(config, train.prepare(config, 1), torch.device("cpu"))
        parts = parallel.gather_objects(Recorder.tape)
    whole = parallel.gather_parameters(policies[0], torch.float32, frozen=False)
    weights = {name: tensor.clone() for name, tensor in trainer_names(whole)}
    return {
        "rows": read_metrics(Path(run_dir) / "metrics.jsonl"),
        "weights": weights,
        "tape": {seed: result for part in parts for seed, result in part.items()},
        "samples": (Path(run_dir) / "samples.jsonl").read_text(),
    }


def branch_off(run_dir: str, name: str, after: int) -> str:
    """A copy of a run's folder as it was after a round. All ranks take part."""
    copy = f"{run_dir}_{name}"
    if parallel.is_main():
        shutil.copytree(run_dir, copy, ignore=shutil.ignore_patterns("lock"))
        for folder in Path(copy, "checkpoints").glob("step_*"):
            if int(folder.name.removeprefix("step_")) > after:
                shutil.rmtree(folder)
    torch.distributed.barrier()
    return copy


def whole_and_in_two_parts(run_dir: str, world: str) -> tuple[dict, dict]:
    parallel.start(timeout_minutes=10)
    whole = run(run_dir, world)
    torch.rand(7)  # what the first run left of the random states must not matter
    return whole, run(branch_off(run_dir, "parts", after=2), world)


def on_other_ranks(run_dir: str, world: str, tape: dict, *shard_ranks: str) -> list[dict]:
    """The last two rounds once more with what was sampled then, for each number of ranks that share the weights; saved
    by the clock, after every round."""
    parallel.start(timeout_minutes=10)
    here = torch.distributed.get_world_size()
    clock = ("--save-every", "0", "--save-minutes", "1e-6")
    return [
        run(branch_off(run_dir, f"{here}_{n}", after=2), world, "--shard-ranks", n, *clock, tape=tape)
        for n in shard_ranks
    ]
