"""Sharded checkpoints with exact resume (DCP), and the Hugging Face export.

run_dir/checkpoints/step_000040/ holds the tensors of every rank (.metadata, __0_0.distcp, ...), the random states of
each (rng_0.pt, ...), state.json (all loop state that is no tensor) and, last, the marker COMPLETE: size and digest of
every other file. A folder without the marker does not exist as far as resume is concerned; one that differs from its
marker is damaged, is set aside, and the one before is taken.

What is read back is data alone: tensors with `weights_only`, and DCP's index, a pickle, by a reader that knows no class
but DCP's own.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import pickle
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

import rng
from parallel import is_main, print_main, together

FORMAT = 3
"""Of what this file writes; it reads no other. 1 had no digests, 2 knew the questions by their ids alone."""
MARKER = "COMPLETE"
# The frozen tower never changes: it comes from --model again.
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


def save(
    run_dir: str,
    step: int,
    policy: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: dict,
    *,
    keep: int,
    score: float | None = None,
    score_of: str = "",
) -> None:
    """Write one checkpoint; then drop all but the newest `keep` and the one of the highest score. All ranks take part.

    state: JSON-able. score: how good the policy is by the metric `score_of`, None if unknown; scores of another metric
    do not count.

    Written beside its place, synced and renamed when complete, and nothing is dropped before: a crash or a full disk at
    any moment leaves the older ones as they were. Raises OSError on every rank where one could not write.
    """
    folder = os.path.join(run_dir, "checkpoints")
    final = os.path.join(folder, f"step_{step:06d}")
    scratch = f"{final}.writing"
    try:
        together(lambda: is_main() and _clear(run_dir, scratch))
        tensors = {"model": get_model_state_dict(policy, options=OPTIONS)}
        if optimizer.state:  # before its first step DCP would make up a state, one step old
            tensors["optimizer"] = get_optimizer_state_dict(policy, optimizer, options=OPTIONS)["state"]
        try:
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(scratch))
        except CheckpointException as error:  # no Exception, and the same on every rank
            rank, (cause, _) = next(iter(error.failures.items()))
            raise OSError(f"rank {rank}: {type(cause).__name__}: {cause}") from error
        written = together(lambda: _write_own(scratch))
        facts = state | {"format": FORMAT, "ranks": dist.get_world_size(), "optimizer": "optimizer" in tensors}
        known = score if score is not None and math.isfinite(score) else None
        together(lambda: is_main() and _complete(scratch, final, written, facts, {"score": known, "of": score_of}))
    except OSError:
        if is_main():
            shutil.rmtree(scratch, ignore_errors=True)  # room for the next
        raise
    if is_main():
        try:
            _drop(run_dir, keep, score_of)
        except OSError as error:  # the new one is whole, and the next save tries again
            print_main(f"warning: older checkpoints stay, they cannot be removed: {error}")
    dist.barrier()


def _clear(run_dir: str, scratch: str) -> None:
    """Remove what crashes left half written or half removed, and make `scratch`."""
    folder, whole = os.path.dirname(scratch), complete(run_dir)
    os.makedirs(folder, exist_ok=True)
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if path not in whole and not name.endswith(".damaged"):
            shutil.rmtree(path, ignore_errors=True)
    os.mkdir(scratch)


def _write_own(scratch: str) -> dict[str, list]:
    """This rank's random states -> name -> [bytes, digest] of every file that it has written."""
    rank = dist.get_rank()
    with open(os.path.join(scratch, f"rng_{rank}.pt"), "wb") as file:
        torch.save(rng.take(), file)
        _sync(file)
    own = [name for name in os.listdir(scratch) if name.startswith(f"__{rank}_") or name == f"rng_{rank}.pt"]
    return {name: _measure(os.path.join(scratch, name)) for name in own}


def _complete(scratch: str, final: str, written: list[dict], state: dict, place: dict) -> None:
    """state.json, then the marker (with `place`: score, and of which metric), then the folder's own name, each on disk
    before the next."""
    _write_text(os.path.join(scratch, "state.json"), json.dumps(state))
    files = {name: facts for part in written for name, facts in part.items()}
    files |= {name: _measure(os.path.join(scratch, name)) for name in (".metadata", "state.json")}
    _sync_folder(scratch)
    _write_text(os.path.join(scratch, MARKER), json.dumps({"files": files} | place))
    _sync_folder(scratch)
    shutil.rmtree(final, ignore_errors=True)
    os.rename(scratch, final)
    for above in (os.path.dirname(final), os.path.dirname(os.path.dirname(final))):
        _sync_folder(above)


def _drop(run_dir: str, keep: int, score_of: str) -> None:
    folders = complete(run_dir)
    scores = {folder: _score(folder, score_of) for folder in folders}
    known = [folder for folder in folders if scores[folder] is not None]
    kept = {*folders[-keep:], *sorted(known, key=scores.get)[-1:]}  # sorted is stable: of equals the newest
    for folder in folders:
        if folder not in kept:
            os.remove(os.path.join(folder, MARKER))  # first: half removed, it would count as damaged
            shutil.rmtree(folder)


def _score(folder: str, of: str) -> float | None:
    try:
        with open(os.path.join(folder, MARKER)) as file:
            marker = json.load(file)
        return marker["score"] if marker["of"] == of else None
    except (ValueError, KeyError):  # found damaged when it is loaded
        return None


def _write_text(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
        _sync(file)


def _sync(file) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: str) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _measure(path: str) -> list:
    """[bytes, digest] of a file."""
    with open(path, "rb") as file:
        return [os.path.getsize(path), hashlib.file_digest(file, "blake2b").hexdigest()]


# -- finding and loading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """A checkpoint found whole."""

    folder: str
    state: dict
    """What `save` was given, beside its own `format`, `ranks` and `optimizer`."""


def complete(run_dir: str) -> list[str]:
    """Folders of complete checkpoints, oldest first."""
    root = os.path.join(run_dir, "checkpoints")
    names = [name for name in os.listdir(root) if name.startswith("step_")] if os.path.isdir(root) else []
    folders = [os.path.join(root, name) for name in sorted(names) if name.removeprefix("step_").isdigit()]
    return [folder for folder in folders if os.path.isfile(os.path.join(folder, MARKER))]


def newest(run_dir: str) -> Saved | None:
    """The newest whole checkpoint of a run, None if it never saved one. All ranks take part.

    A damaged one is named, in a line, and set aside; ValueError where no other is left.
    """
    (folders, *_) = together(lambda: complete(run_dir))
    for folder in reversed(folders):
        if not (damage := find_damage(folder)):
            (saved, *_) = together(lambda folder=folder: is_main() and read(folder))
            return saved
        print_main(f"warning: checkpoint {folder} is damaged ({damage}): set aside, looking at the one before")
        together(lambda folder=folder: is_main() and _set_aside(folder))
    if folders:
        raise ValueError(f"{run_dir}: every checkpoint is damaged (see {folders[0]}.damaged): give a new --run-dir")
    return None


def _set_aside(folder: str) -> None:
    shutil.rmtree(f"{folder}.damaged", ignore_errors=True)
    os.rename(folder, f"{folder}.damaged")


def find_damage(folder: str) -> str:
    """What is wrong with a checkpoint's files, "" if nothing is: each has its size and its digest. All ranks take part,
    with a share of the files each."""
    (files, *_) = together(lambda: _files(folder))
    if files is None:
        return f"{MARKER} cannot be read"
    mine = sorted(files)[dist.get_rank() :: dist.get_world_size()]
    found = together(lambda: [fault for name in mine if (fault := _fault(os.path.join(folder, name), files[name]))])
    return "; ".join(fault for part in found for fault in part)


def _files(folder: str) -> dict[str, list] | None:
    """Name -> [bytes, digest] as the marker has it; None where it is damaged itself."""
    try:
        with open(os.path.join(folder, MARKER)) as file:
            marker = json.load(file)
    except (ValueError, FileNotFoundError):
        return None
    files = marker.get("files") if isinstance(marker, dict) else None
    return files if isinstance(files, dict) and {".metadata", "state.json"} <= files.keys() else None


def _fault(path: str, expected: list) -> str:
    name = os.path.basename(path)
    if not os.path.isfile(path):
        return f"{name} is missing"
    size = os.path.getsize(path)
    if size != expected[0]:
        return f"{name} has {size} bytes, was written with {expected[0]}"
    return "" if _measure(path) == expected else f"{name} has other bytes than were written"


def read(folder: str) -> Saved:
    """The state of a checkpoint. Raises ValueError where another version of this file wrote it."""
    with open(os.path.join(folder, "state.json")) as file:
        state = json.load(file)
    if (found := state.get("format", 1)) != FORMAT:
        raise ValueError(
            f"checkpoint {folder} has format {found}, this version reads format {FORMAT}: go on with the version that "
            "wrote it, or give a new --run-dir"
        )
    return Saved(folder, state)


def load(saved: Saved, policy: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Restore policy, optimizer and this rank's random states, on any number of ranks. All ranks take part.

    Ranks beyond those that saved keep the random states they have.
    """
    tensors = {"model": get_model_state_dict(policy, options=OPTIONS)}
    if saved.state["optimizer"]:
        whole = get_optimizer_state_dict(policy, optimizer, options=OPTIONS)
        tensors["optimizer"] = whole["state"]
    dcp.load(tensors, storage_reader=_Reader(saved.folder))
    set_model_state_dict(policy, tensors["model"], options=OPTIONS)
    if saved.state["optimizer"]:
        set_optimizer_state_dict(policy, optimizer, whole | {"state": tensors["optimizer"]}, options=OPTIONS)
    if dist.get_rank() < saved.state["ranks"]:
        path = os.path.join(saved.folder, f"rng_{dist.get_rank()}.pt")
        rng.put_back(torch.load(path, weights_only=True))


class _Reader(dcp.FileSystemReader):
    """DCP's reader, less what would run code: its own unpickles the index whatever stands in it."""

    def read_metadata(self, *args, **kwargs) -> Metadata:
        with open(os.path.join(self.path, ".metadata"), "rb") as file:
            metadata = _IndexUnpickler(file).load()
        others = [key for key, kind in metadata.state_dict_metadata.items() if isinstance(kind, BytesStorageMetadata)]
        if others:  # would be unpickled, too
            raise ValueError(f"{self.path}: holds other things than tensors, {others[:3]}; it is no checkpoint of ours")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        if (module, name) not in INDEX_CLASSES:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into the index of a checkpoint")
        return super().find_class(module, name)


_DCP = "torch.distributed.checkpoint.metadata"
INDEX_CLASSES = {
    *((_DCP, name) for name in ("ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta")),
    *((_DCP, name) for name in ("TensorProperties", "TensorStorageMetadata", "BytesStorageMetadata")),
    (_DCP, "_MEM_FORMAT_ENCODING"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("Size", "float32", "bfloat16", "float16", "float64", "int64")),
    ("pathlib", "PosixPath"),
}
"""What DCP's index of tensors is made of (torch 2.11)."""


# -- export ------------------------------------------------------------------------------------------------------------


def export(folder: str, config, processor, generation_config, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write a Hugging Face folder that transformers and vLLM load as it is. All ranks take part; rank 0 writes.

    `parameters`: (Hugging Face name, whole tensor), in the type to be stored; tied weights once. Written beside its
    place and renamed when whole; OSError on every rank where it could not be.
    """
    tensors = {}
    for name, tensor in parameters:  # every rank exhausts the gather
        if is_main():
            tensors[name] = tensor.to("cpu", copy=True)

    def write() -> None:
        scratch = f"{folder}.writing"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            os.makedirs(scratch)
            own = copy.deepcopy(config)
            for part in (own, own.text_config, own.vision_config):
                part.dtype = next(iter(tensors.values())).dtype  # what a loader with dtype="auto" rounds to
            own.save_pretrained(scratch)
            processor.save_pretrained(scratch)
            generation_config.save_pretrained(scratch)
            try:
                save_torch_state_dict(tensors, scratch)
            except SafetensorError as error:  # the disk's words, but no OSError
                raise OSError(str(error)) from error
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(scratch, folder)
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    together(lambda: is_main() and write())
