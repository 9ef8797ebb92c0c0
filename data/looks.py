"""What frames look like: vectors whose cosine says how alike two of them are, and near-duplicates left out by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from data.video import CELL, read_frames

LOOK = 64 * CELL * CELL
"""Pixels of a frame as it is compared with others."""
Look = Callable[[torch.Tensor], torch.Tensor]
"""uint8 (3, H, W) -> float32 (D,) of length 1."""


def thumbnail(frame: torch.Tensor) -> torch.Tensor:
    """uint8 (3, H, W) -> float32 (1025,) of length 1: mean-centred grey 32 x 32, and a grey level so that two frames of
    one colour are alike."""
    grey = (frame.float() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0)
    small = interpolate(grey[None, None], (32, 32), mode="bilinear", antialias=True).flatten()
    vector = torch.cat((small - small.mean(), torch.ones(1)))
    return vector / vector.norm()


def tower(checkpoint: str) -> Look:
    """uint8 (3, H, W) -> float32 (D,) of length 1: the mean of a checkpoint's vision tokens."""
    from transformers import Qwen3VLForConditionalGeneration

    from model import load_processor

    images = load_processor(checkpoint).image_processor
    visual = Qwen3VLForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    ).model.visual.eval()

    @torch.no_grad()
    def look(frame: torch.Tensor) -> torch.Tensor:
        inputs = images(frame.permute(1, 2, 0).numpy(), return_tensors="pt")
        pooled = visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output.mean(0)
        return pooled / pooled.norm()

    return look


def looks(path: Path, indices: Sequence[int], look: Look) -> torch.Tensor:
    """(F, D) of unit length: what frames `indices` (ascending) of a clip look like."""
    return torch.stack([look(frame) for frame in read_frames(path, indices, max_pixels=LOOK)])


def without_duplicates(looks: torch.Tensor, kappa: float) -> list[int]:
    """Places of the frames kept: each looks other than the last one kept."""
    kept = [0]
    for place in range(1, len(looks)):
        if float(looks[place] @ looks[kept[-1]]) <= kappa:
            kept.append(place)
    return kept
