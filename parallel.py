"""torchrun set-up, FSDP2 in one function, the gather for weight sync, and the few collectives the loop needs.

Who does what over ranks stands here and in the banners of `train.py`.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from exits import Exit

T = TypeVar("T")


def start(timeout_minutes: float = 30.0) -> torch.device:
    """Join torchrun's process group (or make one of a single rank) and pick this rank's device.

    Must come before the engine is built: vLLM adopts an existing default group, but refuses to have one made after it.
    """
    for name, value in dict(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1").items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "0" if os.environ["WORLD_SIZE"] == "1" else "29500")
    if torch.cuda.is_available():
        if int(os.environ["LOCAL_WORLD_SIZE"]) > torch.cuda.device_count():
            sys.exit(
                f"error: {os.environ['LOCAL_WORLD_SIZE']} ranks on a node with {torch.cuda.device_count()} GPUs; "
                "each rank needs one: lower --nproc_per_node"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"  # gloo beside nccl carries the small Python objects without touching the GPU
    else:
        device, backend = torch.device("cpu"), "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes))
    return device


def die_at_once(kind, error, trace) -> None:
    """The sys.excepthook of a rank: gone at once, without the engine's teardown, or torchrun waits in vain."""
    try:
        traceback.print_exception(kind, error, trace)
        sys.stderr.flush()
    finally:  # stderr may lie on a full disk
        os._exit(Exit.FAULT)


def leave(code: int = Exit.DONE) -> None:
    """End of a run that ends on every rank alike, once all are here; `code`: its exit code."""
    dist.barrier()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(code)  # vLLM's teardown destroys the process group under the caller's feet; everything is written


def is_main() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def print_main(*args) -> None:
    """The only printer of a distributed run. A log that cannot be written (a full disk) is no reason to stop."""
    if is_main():
        with contextlib.suppress(OSError):
            print(*args, flush=True)


def gather_objects(value: object) -> list:
    """Small picklable Python values of every rank, in rank order. All ranks take part."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def together(action: Callable[[], T]) -> list[T]:
    """What `action()` returned on every rank, in rank order. All ranks take part.

    Where it raises OSError or ValueError on one rank, every rank raises the same with that rank's words: none waits for
    one that has gone another way.
    """
    result = fault = None
    try:
        result = action()
    except (OSError, ValueError) as error:
        fault = OSError if isinstance(error, OSError) else ValueError, str(error)
    parts = gather_objects((result, fault))
    for _, failed in parts:
        if failed:
            kind, words = failed
            raise kind(words)
    return [part for part, _ in parts]


def exchange_objects(parts: Sequence[object]) -> list:
    """`parts[r]` goes to rank r alone -> what each rank sent here, in rank order. All ranks take part.

    For what is too large to gather everywhere: whole clips. Travels through host memory.
    """
    sent = [torch.frombuffer(bytearray(pickle.dumps(part)), dtype=torch.uint8) for part in parts]
    sizes = gather_objects([len(part) for part in sent])
    incoming = [row[dist.get_rank()] for row in sizes]
    received = torch.empty(sum(incoming), dtype=torch.uint8)
    dist.all_to_all_single(received, torch.cat(sent), incoming, [len(part) for part in sent])
    return [pickle.loads(part.numpy()) for part in received.split(incoming)]


# -- FSDP2 -------------------------------------------------------------------------------------------------------------


def shard(
    policy: nn.Module,
    layers: list[nn.Module],
    replicated: list[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    *,
    shard_ranks: int = 0,
) -> DeviceMesh:
    """Wrap `policy` for FSDP2 over all ranks, in place.

    policy: the root unit. It keeps what is used outside the layers (embeddings, head, norms, mergers), so that tied
        embeddings stay one parameter and a rank whose pack has no video still runs the same collectives.
    layers: one unit each, resharded after use.
    replicated: frozen modules, kept whole on every rank in the compute type: never gathered, never reduced.
    dtype: compute type; the sharded master weights and the gradient reductions are float32.
    shard_ranks: HSDP: weights are sharded over so many consecutive ranks (those of a node) and replicated over the
        others, so that only gradients cross between them. 0, or all ranks: sharded over all.
    """
    ranks = dist.get_world_size()
    if shard_ranks in (0, ranks):
        mesh = init_device_mesh(device.type, (ranks,), mesh_dim_names=("shard",))
    else:
        shape = ranks // shard_ranks, shard_ranks
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
    precision = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    ignored = {parameter for module in replicated for parameter in module.parameters()}
    for module in replicated:
        module.to(device=device, dtype=dtype)
    for layer in layers:  # one layer at a time: float32 masters of the whole model never stand on one device
        layer.to(device=device, dtype=torch.float32)
        fully_shard(layer, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    for parameter in policy.parameters():
        if parameter not in ignored and not isinstance(parameter, DTensor):
            parameter.data = parameter.data.to(device=device, dtype=torch.float32)
    for buffer in policy.buffers():
        buffer.data = buffer.data.to(device)
    fully_shard(policy, mesh=mesh, mp_policy=precision, ignored_params=ignored)
    return mesh


def gather_parameters(
    policy: nn.Module, dtype: torch.dtype, *, frozen: bool = True
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every parameter whole and in the compute type; without `frozen` those that train. All ranks must exhaust it.

    One FSDP unit is whole at a time, and gone before the next: what the taker keeps of a tensor it must copy before it
    asks for another.
    """
    if dist.get_world_size() == 1:  # each shard is the whole parameter: gathering would only copy it
        for name, parameter in policy.named_parameters():
            if frozen or parameter.requires_grad:
                whole = parameter.to_local() if isinstance(parameter, DTensor) else parameter
                yield name, whole.detach().to(dtype)
        return
    units = [(name, module) for name, module in policy.named_modules() if isinstance(module, FSDPModule)]
    done: set[str] = set()
    for prefix, unit in sorted(units, key=lambda item: -item[0].count(".")):  # leaves first, the root last
        unit.reshard()  # after a no-grad forward the root is still whole, and unsharding would keep that stale copy
        unit.unshard()
        for name, parameter in unit.named_parameters():
            full_name = f"{prefix}.{name}" if prefix else name
            if full_name in done or isinstance(parameter, DTensor):
                continue  # a DTensor here belongs to a unit that is still sharded
            done.add(full_name)
            if frozen or parameter.requires_grad:
                yield full_name, parameter.detach().to(dtype)
        unit.reshard()


def undo_fsdp_mean(loss: torch.Tensor) -> torch.Tensor:
    """FSDP averages gradients over ranks, Eq. 6's denominator already counts all ranks: cancelled here alone."""
    return loss * dist.get_world_size()
