"""Helpers of test_model and test_update: made-up groups, the plain forward they are compared with, and gloo ranks.

The plain forward is the ordinary Hugging Face call, one row per rollout: it shares neither packing nor mask nor
positions with the code under test.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from ports import free_port
from torch.nn.attention.flex_attention import create_mask
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRMSNorm

from attention import visible
from data.prompts import build_prompt, processor_inputs, vision_inputs
from episode import Group, Question, Rollout, View
from model import EncodedPrompt, Policy
from packing import PackedRow

TEXT_TOKENS = 256  # the byte tokens: no special token among them


def random_view(seed: int, frames: int = 4, size: tuple[int, int] = (64, 64)) -> View:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (frames, 3, *size), generator=generator, dtype=torch.uint8)
    return View(pixels, "identity", 8.0, frames, tuple(range(frames)))


def random_image(seed: int, size: tuple[int, int] = (64, 64)) -> View:
    return View(random_view(seed, frames=1, size=size).frames, "identity", 0.0, 1, (0,))


def make_group(
    processor,
    policy: Policy,
    seed: int,
    lengths: list[int],
    *,
    view: View | None,
    branch: int = 0,
    advantages: list[float] | None = None,
) -> tuple[Group, EncodedPrompt]:
    """A group of random completions of these lengths; text only where there is no view."""
    data_type = "text" if view is None else "image" if view.still else "video"
    question = Question(f"q{seed}", 1, f"What moves {seed}?", data_type, "multiple choice", (), "A")
    prompt = build_prompt(processor, question, view, system_prompt="Think.")
    encoded = policy.encode(processor, prompt)
    generator = torch.Generator().manual_seed(1000 + seed)
    rollouts = [
        Rollout(tuple(torch.randint(0, TEXT_TOKENS, (n,), generator=generator).tolist()), torch.zeros(n), "", "stop")
        for n in lengths
    ]
    group = Group(question, branch, prompt, encoded.ids, rollouts)
    group.advantages = torch.tensor(advantages) if advantages else torch.zeros(len(lengths))
    return group, encoded


def plain_logps(hf, processor, group: Group, i: int, *, banned: tuple[int, ...], temperature: float) -> torch.Tensor:
    """Log-probs (L,) of rollout i by the ordinary forward on a row of its own."""
    inputs = processor_inputs(processor, group.prompt)
    completion = torch.tensor([group.rollouts[i].ids], dtype=torch.int64)
    ids = torch.cat([inputs["input_ids"], completion], dim=1)
    types = torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(completion)], dim=1)
    vision = vision_inputs(inputs)
    logits = hf(
        input_ids=ids, attention_mask=torch.ones_like(ids), mm_token_type_ids=types, use_cache=False, **vision
    ).logits[0]
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    bias = torch.zeros(logits.shape[-1], dtype=logits.dtype)
    bias[list(banned)] = -100.0
    logps = torch.log_softmax((logits + bias) / temperature, dim=-1)
    first = inputs["input_ids"].shape[1]
    return torch.stack([logps[first + t - 1, token] for t, token in enumerate(group.rollouts[i].ids)])


def dense_mask(row: PackedRow) -> torch.Tensor:
    """bool (1, 1, T, T), True = may attend."""
    tokens = len(row.ids)
    return create_mask(visible(row.prefixes, row.segments), None, None, tokens, tokens, device=str(row.ids.device))


@contextlib.contextmanager
def true_float64():
    """Within it a float64 model keeps float64: the library's norms go through float32."""

    def forward(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    with mock.patch.object(Qwen3VLTextRMSNorm, "forward", forward):
        yield


def relative_difference(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Largest over parameters of |got - expected| / |expected|, in the L2 norm; the names must agree."""
    assert got.keys() == expected.keys()
    return max(
        ((got[name].double() - value.double()).norm() / value.double().norm()).item()
        for name, value in expected.items()
    )


# -- gloo ranks --------------------------------------------------------------------------------------------------------


def run_ranks(function: Callable, ranks: int, *arguments, timeout_s: float = 60.0) -> list:
    """Run function(*arguments) on `ranks` processes under torchrun's variables -> what each returned, in order.

    Fails with the traceback of the first rank that raised, or when a rank has not ended in time (a hang).
    """
    context = multiprocessing.get_context("forkserver")  # imports once, forks in milliseconds, and inherits no threads
    context.set_forkserver_preload(["distributed", "update", "parallel"])
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")])
    with mock.patch.dict(os.environ, PYTHONPATH=path, CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1"):
        multiprocessing.forkserver.ensure_running()
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        job = pickle.dumps((function, arguments))  # bytes: tensors then travel as copies, not as shared memory
        processes = [context.Process(target=_rank, args=(job, rank, ranks, port, folder)) for rank in range(ranks)]
        for process in processes:
            process.start()
        end = time.monotonic() + timeout_s
        while any(process.is_alive() for process in processes) and time.monotonic() < end and not _failures(folder):
            time.sleep(0.05)
        hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
            process.join()
        failures = _failures(folder)
        assert not failures, "\n".join(failures)
        assert not hanging, f"hang: ranks {hanging} have not ended after {timeout_s:.0f} s"
        return [torch.load(f"{folder}/{rank}.pt") for rank in range(ranks)]


def _failures(folder: str) -> list[str]:
    return [f"{path.stem}: {path.read_text()}" for path in sorted(Path(folder).glob("*.failure"))]


def _rank(job: bytes, rank: int, ranks: int, port: int, folder: str) -> None:
    os.environ.update(
        CUDA_VISIBLE_DEVICES="",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        function, arguments = pickle.loads(job)
        torch.save(function(*arguments), f"{folder}/{rank}.pt")
    except BaseException:
        Path(f"{folder}/rank {rank}.failure").write_text(traceback.format_exc())
    os._exit(0)  # no waiting for the other rank's process group
