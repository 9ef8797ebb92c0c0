"""Sharded checkpoints with exact resume (DCP), and the Hugging Face export.

run_dir/checkpoints/step_000040/ holds the shards of every rank, state.json (all loop state that is no tensor) and,
last, the marker COMPLETE. A folder without the marker does not exist as far as resume is concerned.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from huggingface_hub import save_torch_state_dict
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from checkpoint_reader import Planner, Reader

MARKER = "COMPLETE"
# The frozen tower never changes: it comes from --model again.
OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)


def save(run_dir: str, step: int, policy: nn.Module, optimizer: torch.optim.Optimizer, state: dict, keep: int) -> str:
    """Write one checkpoint and drop all but the newest `keep`. All ranks take part. Returns its folder.

    Written beside its place and renamed when complete, so a crash while saving leaves the older ones untouched.
    """
    root = os.path.join(run_dir, "checkpoints")
    final = os.path.join(root, f"step_{step:06d}")
    scratch = final + ".writing"
    main = dist.get_rank() == 0
    if main:
        shutil.rmtree(scratch, ignore_errors=True)
        os.makedirs(scratch)
    dist.barrier()
    model_state, optimizer_state = get_state_dict(policy, optimizer, options=OPTIONS)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=scratch)
    if main:
        with open(os.path.join(scratch, "state.json"), "w") as file:
            json.dump(state, file)
        with open(os.path.join(scratch, MARKER), "w") as file:
            file.write(f"{step}\n")
        shutil.rmtree(final, ignore_errors=True)
        os.rename(scratch, final)
        for old in complete(run_dir)[:-keep]:
            shutil.rmtree(old)
    dist.barrier()
    return final


def complete(run_dir: str) -> list[str]:
    """Folders of complete checkpoints, oldest first."""
    root = os.path.join(run_dir, "checkpoints")
    if not os.path.isdir(root):
        return []
    folders = [os.path.join(root, name) for name in sorted(os.listdir(root)) if name.startswith("step_")]
    return [folder for folder in folders if os.path.isfile(os.path.join(folder, MARKER))]


def load(folder: str, policy: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    """Restore policy and optimizer in place, on any number of ranks; returns the loop state. All ranks take part."""
    model_state, optimizer_state = get_state_dict(policy, optimizer, options=OPTIONS)
    tensors = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(tensors, storage_reader=Reader(folder), planner=Planner())
    set_state_dict(
        policy,
        optimizer,
        model_state_dict=tensors["model"],
        optim_state_dict=tensors["optimizer"],
        options=OPTIONS,
    )
    with open(os.path.join(folder, "state.json")) as file:
        return json.load(file)


def export(folder: str, config, processor, generation_config, parameters: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Write a Hugging Face folder that transformers and vLLM load as it is. All ranks take part; rank 0 writes.

    `parameters`: (Hugging Face name, whole tensor), in the type to be stored; tied weights once.
    """
    main = dist.get_rank() == 0
    tensors = {}
    for name, tensor in parameters:  # every rank exhausts the gather
        if main:
            tensors[name] = tensor.cpu()
    if main:
        os.makedirs(folder, exist_ok=True)
        config = copy.deepcopy(config)
        for part in (config, config.text_config, config.vision_config):
            part.dtype = next(iter(tensors.values())).dtype  # what a loader with dtype="auto" rounds to
        config.save_pretrained(folder)
        processor.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        save_torch_state_dict(tensors, folder)
    dist.barrier()
