"""A clip's frames: sampled, resized, checked. The only file that imports the decoder.

Sizes follow the donor recipe (qwen-vl-utils' rule with Qwen3-VL's 32-pixel cells), so the model's own processor has
nothing left to resize and a counterfactual is a pure transform of the same pixels.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import decord
import torch
import torch.nn.functional as F

from episode import View

CELL = 32
"""Pixels per side of one language-model token: 16-pixel patches, merged 2 x 2."""
MAX_ASPECT = 200
"""Longer side over shorter side; the model's processor refuses more."""

# FFmpeg's remarks on a damaged stream go to stderr line by line; what matters becomes a ClipError.
decord.logging.set_level(decord.logging.QUIET)


class ClipError(ValueError):
    """A clip or image that cannot be used; one line naming the file and what is wrong with it."""


def frame_indices(total: int, frames: int) -> tuple[int, ...]:
    """Indices of min(frames, total) frames, floored to even, evenly spread from first to last of `total` (>= 1).

    round(linspace(0, total - 1, n)) in integers. For even n it is symmetric (index i + index n-1-i = total - 1),
    because i * (total - 1) / (n - 1) with n - 1 odd never falls halfway between two integers; hence reversing the
    sampled frames equals sampling the reversed file. A clip of one frame yields it twice: the model reads frames in
    pairs.
    """
    n = min(frames, total) // 2 * 2
    if n < 2:
        return (0, 0)
    return tuple((2 * i * (total - 1) + (n - 1)) // (2 * (n - 1)) for i in range(n))


def frame_size(height: int, width: int, *, min_pixels: float, max_pixels: float, cell: int = CELL) -> tuple[int, int]:
    """(height, width) in pixels after resizing: multiples of `cell`, aspect kept as closely as that allows, and the
    area within min_pixels..max_pixels (qwen-vl-utils, `smart_resize`).

    Raises ValueError above an aspect ratio of 200.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"frames of {width}x{height} exceed an aspect ratio of {MAX_ASPECT}")
    new_height = max(cell, round(height / cell) * cell)
    new_width = max(cell, round(width / cell) * cell)
    if new_height * new_width > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        # Where the shorter side of a thin frame would vanish (the reference returns 0), it keeps one cell.
        new_height = max(cell, math.floor(height / shrink / cell) * cell)
        new_width = max(cell, math.floor(width / shrink / cell) * cell)
        longest = max(cell, int(max_pixels / cell) // cell * cell)
        if new_height == cell:
            new_width = min(new_width, longest)
        elif new_width == cell:
            new_height = min(new_height, longest)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / cell) * cell
        new_width = math.ceil(width * grow / cell) * cell
    return new_height, new_width


def resize(frames: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 (F, H, W, 3) -> uint8 (F, 3, height, width): bicubic with antialiasing, rounded and clamped to bytes."""
    out = torch.empty(len(frames), 3, height, width, dtype=torch.uint8)
    for i, frame in enumerate(frames):  # one at a time: 32 float frames of 1080p would take 800 MB
        resized = F.interpolate(
            frame.permute(2, 0, 1)[None].float(), (height, width), mode="bicubic", antialias=True, align_corners=False
        )
        out[i] = resized[0].clamp_(0, 255).round_().to(torch.uint8)
    return out


def _open(path: str) -> decord.VideoReader:
    if not os.path.isfile(path):
        raise ClipError(f"{path}: no such file")
    try:
        # One thread: clips are decoded side by side, and more threads per clip only contend.
        return decord.VideoReader(path, num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise ClipError(f"{path}: not a video that the decoder can open") from error


def _clip_range(path: str, total: int, fps: float, start: float | None, end: float | None) -> tuple[int, int]:
    """[first, last) of the source frames on display in [start, end) seconds: what cutting the file there would keep."""
    start_s, end_s = 0.0 if start is None else start, math.inf if end is None else end
    if not 0 <= start_s < end_s:
        raise ClipError(f"{path}: clip bounds must hold 0 <= start < end, got start {start} and end {end} seconds")
    if start_s * fps >= total:
        raise ClipError(f"{path}: the clip starts at {start_s:g} s, but the file ends at {total / fps:g} s")
    # A bound written as 0.1 s may miss frame 3 of 30 a second by a rounding error: a thousandth of a frame is none.
    first = min(math.floor(start_s * fps + 1e-3), total - 1)
    last = total if end_s * fps >= total else math.ceil(end_s * fps - 1e-3)
    return first, max(last, first + 1)


def _decode(path: str, reader: decord.VideoReader, indices: list[int]) -> torch.Tensor:
    """uint8 (len(indices), H, W, 3) of source frames `indices`."""
    try:
        frames = torch.from_numpy(reader.get_batch(indices).asnumpy())
    except decord.DECORDError:
        # The decoder's thread reads ahead: damage behind the last frame asked for fails the batch, or does not, by
        # chance. One frame per fresh reader tells sound frames from damaged ones; a reader that failed once is spent.
        frames = torch.stack([_decode_one(path, index) for index in indices])
    if len(frames) != len(indices):
        raise ClipError(f"{path}: asked the decoder for {len(indices)} frames, got {len(frames)}")
    return frames


def _decode_one(path: str, index: int) -> torch.Tensor:
    """uint8 (H, W, 3): one source frame, by a reader of its own."""
    for _ in range(3):  # a sound frame right before the damage loses the race now and then
        try:
            return torch.from_numpy(_open(path).get_batch([index]).asnumpy())[0]
        except decord.DECORDError as error:
            failure = error
    raise ClipError(f"{path}: damaged at frame {index}") from failure


def sample_clip(
    path: str | Path,
    *,
    frames: int = 32,
    max_pixels: int = 2048 * CELL * CELL,
    min_frame_pixels: int = 16 * CELL * CELL,
    max_frame_pixels: int = 768 * CELL * CELL,
    start: float | None = None,
    end: float | None = None,
) -> View:
    """Decode `frames` frames of a clip, uniformly, at the donor recipe's size (paper Table 7).

    `max_pixels` is the budget of the whole video counted in two-frame groups: a frame may have
    max_pixels / (F / 2) pixels, at most `max_frame_pixels`, and is not squeezed below 1.05 * `min_frame_pixels`.
    `start`, `end`: bounds in seconds; the clip between them is treated as a file of its own, so indices and timestamps
    count from its first frame. An `end` beyond the file is the end of the file.

    Returns a View with uint8 frames (F, 3, H, W), F = min(frames, frames in the clip) floored to even; a clip of one
    frame gives it twice.
    A damaged, missing or empty clip raises ClipError; there is never a substitute.
    """
    if frames < 2:
        raise ValueError(f"a clip needs at least 2 sampled frames (the model reads them in pairs), got frames={frames}")
    path = os.fspath(path)
    reader = _open(path)
    total, fps = len(reader), float(reader.get_avg_fps())
    if total == 0 or not (math.isfinite(fps) and fps > 0):
        raise ClipError(f"{path}: holds {total} frames at {fps:g} frames per second")
    first, last = _clip_range(path, total, fps, start, end)
    indices = frame_indices(last - first, frames)
    decoded = _decode(path, reader, [first + i for i in indices])
    per_frame = max(min(max_frame_pixels, max_pixels / len(indices) * 2), int(1.05 * min_frame_pixels))
    try:
        height, width = frame_size(*decoded.shape[1:3], min_pixels=min_frame_pixels, max_pixels=per_frame)
    except ValueError as error:
        raise ClipError(f"{path}: {error}") from error
    return View(resize(decoded, height, width), "identity", fps, last - first, indices)
