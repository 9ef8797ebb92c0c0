"""A clip's frames: sampled, resized, checked. The only file that imports the decoder.

Sizes follow the donor recipe (qwen-vl-utils' rule with Qwen3-VL's 32-pixel cells), so the model's own processor has
nothing left to resize and a counterfactual is a pure transform of the same pixels.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import decord
import numpy as np
import torch
import torch.nn.functional as F

from episode import View

CELL = 32
"""Pixels per side of one language-model token: 16-pixel patches, merged 2 x 2."""
MAX_ASPECT = 200
"""Longer side over shorter side; the model's processor refuses more."""

RAW_BYTES = 256 << 20
"""Decoded frames held before they are resized: 32 of 4K would be 800 MB."""
VERSION = hashlib.sha256(
    Path(__file__).read_bytes() + f"{decord.__version__} {torch.__version__}".encode()
).hexdigest()[:16]
"""Of all that turns a file into pixels: frames in a cache are of this version or of none."""
_TEXT = bytes({7, 8, 9, 10, 12, 13, 27} | set(range(0x20, 0x100)) - {0x7F})  # as the command `file` tells text

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
    if not os.path.isfile(path):  # a pipe or a device may block for ever
        raise ClipError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError as error:
        raise ClipError(f"{path}: cannot be read: {error.strerror}") from error
    if head and not head[:64].translate(None, _TEXT):
        # FFmpeg takes playlists (ffconcat, m3u8, sdp) for videos and opens what they name: other files, addresses.
        raise ClipError(f"{path}: text, not a video")
    if any(head[at : at + 1] == head[at + step : at + step + 1] == b"G" for at, step in ((0, 188), (4, 192))):
        raise ClipError(f"{path}: the decoder loses frames of an MPEG transport stream; remux it (ffmpeg -c copy)")
    declared = _declared_size(head)
    if declared > os.path.getsize(path):  # FFmpeg plays it to where it ends, and the question may be about the rest
        raise ClipError(f"{path}: truncated: its header announces {declared} bytes, it has {os.path.getsize(path)}")
    try:
        # One thread: clips are decoded side by side, and more threads per clip only contend.
        return decord.VideoReader(path, num_threads=1)
    except (decord.DECORDError, RuntimeError) as error:
        raise ClipError(f"{path}: not a video that the decoder can open") from error


def _declared_size(head: bytes) -> int:
    """Bytes that a Matroska, WebM or AVI file says it has; 0 for other kinds and for streams of unknown length. (In
    MP4 the decoder finds the damage itself.)"""
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head[:4] != b"\x1a\x45\xdf\xa3":
        return 0
    at = head.find(b"\x18\x53\x80\x67") + 4  # the segment: all that follows the header
    if at < 4 or at >= len(head) or head[at] == 0:
        return 0
    length = 9 - head[at].bit_length()  # EBML: the leading zeros of a size tell its bytes
    size = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    return at + length + size if size != (1 << 7 * length) - 1 else 0


@dataclass(frozen=True)
class _Source:
    """A file's frames as a viewer would count them: 0 is the first one shown."""

    path: str
    hidden: int
    """Frames that the decoder counts but never delivers: an edit list (a cut by `ffmpeg -ss ... -c copy`) hides those
    before time 0, and those before the first key frame cannot be decoded."""
    total: int
    """Frames left. The decoder's own count, of the packets that are there: headers may claim more."""
    keys: tuple[int, ...]
    """Key frames, in the decoder's count."""
    seconds: np.ndarray | None
    """(total,) time of each frame from the first one on; None where the stream does not tell."""
    rate: float
    """Average frames per second by the header."""

    @property
    def steady(self) -> bool:
        """No frame is further than one frame from where a constant rate would have it."""
        return self.seconds is None or bool(
            np.abs(self.seconds - np.arange(self.total) / self.rate).max() < 1 / self.rate
        )

    def fps(self, first: int, last: int) -> float:
        """Frames per second over [first, last): of a variable rate the mean there."""
        if self.steady or last - first < 2:
            return self.rate
        return float((last - 1 - first) / (self.seconds[last - 1] - self.seconds[first]))

    def clip_range(self, start: float | None, end: float | None) -> tuple[int, int]:
        """[first, last) of the frames on display in [start, end) seconds: what cutting the file there would keep."""
        start_s, end_s = 0.0 if start is None else start, math.inf if end is None else end
        if not 0 <= start_s < end_s:
            raise ClipError(
                f"{self.path}: clip bounds must hold 0 <= start < end, got start {start} and end {end} seconds"
            )
        duration = self.total / self.rate if self.steady else float(self.seconds[-1]) + 1 / self.rate
        if start_s >= duration:
            raise ClipError(f"{self.path}: the clip starts at {start_s:g} s, but the file ends at {duration:g} s")
        if self.steady:
            # A bound written as 0.1 s may miss frame 3 of 30 a second by a rounding error: a thousandth of a frame is
            # none.
            first = math.floor(start_s * self.rate + 1e-3)
            last = self.total if end_s >= duration else math.ceil(end_s * self.rate - 1e-3)
        else:  # times are float32, and some containers round them to a millisecond
            first = int(np.searchsorted(self.seconds, start_s + 1e-3, side="right")) - 1
            last = int(np.searchsorted(self.seconds, end_s - 1e-3, side="left"))
        first = min(max(first, 0), self.total - 1)
        return first, min(max(last, first + 1), self.total)

    def in_order(self, indices: Sequence[int]) -> bool:
        """True: read frames one after another, without seeking.

        A seek goes astray where the stream has no usable times (AVI, MPEG-PS: by whole groups of pictures) and lands
        some frames late behind an open group (x265's default), so it is taken only where it saves a tenth.
        """
        if self.seconds is None or (len(self.keys) > 1 and self.hidden >= self.keys[1]):
            return True
        furthest: dict[int, int] = {}
        for index in indices:
            at = index + self.hidden
            group = self.keys[max(bisect.bisect_right(self.keys, at) - 1, 0)]
            furthest[group] = max(furthest.get(group, 0), at + 1 - group)
        return indices[-1] + 1 <= 1.1 * sum(furthest.values())

    def position(self, index: int) -> int:
        """Where the decoder, allowed to seek, delivers frame `index`: what is hidden shifts the first group alone."""
        at = index + self.hidden
        return index if len(self.keys) < 2 or at < self.keys[1] else at


def _inspect(path: str, reader: decord.VideoReader) -> _Source:
    count, rate = len(reader), float(reader.get_avg_fps())
    if count == 0 or not (math.isfinite(rate) and rate > 0):
        raise ClipError(f"{path}: holds {count} frames at {rate:g} frames per second")
    seconds = reader.get_frame_timestamp(range(count))[:, 0].astype(np.float64)
    keys = tuple(reader.get_key_indices()) or (0,)
    ascending = bool(np.isfinite(seconds).all() and (np.diff(seconds) > 0).all() and abs(seconds[0]) < 1e9)
    hidden = max(int((seconds < -0.5 / rate).sum()) if ascending else 0, keys[0])
    if hidden >= count:
        raise ClipError(f"{path}: holds no frame that can be shown")
    return _Source(path, hidden, count - hidden, keys, seconds[hidden:] - seconds[hidden] if ascending else None, rate)


def _frames(source: _Source, reader: decord.VideoReader, indices: Sequence[int]) -> Iterator[torch.Tensor]:
    """uint8 (H, W, 3) of frames `indices`, ascending; decoded as they are asked for."""
    in_order, done = source.in_order(indices), 0
    try:
        if in_order:
            at = 0
            for index in indices:
                if index >= at:  # a clip of one frame asks for it twice
                    frame = _walk(source, reader, at, index)
                    at = index + 1
                yield frame
                done += 1
        else:
            for i in range(0, len(indices), 8):
                batch = reader.get_batch([source.position(index) for index in indices[i : i + 8]]).asnumpy()
                for frame in torch.from_numpy(batch):
                    yield frame
                    done += 1
    except decord.DECORDError:
        # The decoder's thread reads ahead: damage behind the last frame asked for fails a call, or does not, by
        # chance. One frame per fresh reader tells sound frames from damaged ones; a reader that failed once is spent.
        for index in indices[done:]:
            yield _decode_one(source, index, in_order)


def _walk(source: _Source, reader: decord.VideoReader, at: int, index: int) -> torch.Tensor:
    """uint8 (H, W, 3) of frame `index`, the decoder being in front of frame `at`; never seeks."""
    stops = source.keys[bisect.bisect_right(source.keys, at) : bisect.bisect_right(source.keys, index)]
    if source.seconds is None:  # there skip_frames loses frames near the end
        stops = range(at + 1, index + 1)
    try:
        for stop in stops:  # skip_frames would seek to a key frame on its way, a frame that is read is only read
            if stop - 1 > at:
                reader.skip_frames(stop - 1 - at)
            reader.next()
            at = stop
        if index > at:
            reader.skip_frames(index - at)
        return torch.from_numpy(reader.next().asnumpy())
    except StopIteration as error:
        raise ClipError(f"{source.path}: ends before frame {index}") from error


def _decode_one(source: _Source, index: int, in_order: bool) -> torch.Tensor:
    """uint8 (H, W, 3): one frame, by a reader of its own."""
    for _ in range(3):  # a sound frame right before the damage loses the race now and then
        try:
            reader = _open(source.path)
            if in_order:
                return _walk(source, reader, 0, index)
            return torch.from_numpy(reader.get_batch([source.position(index)]).asnumpy())[0]
        except decord.DECORDError as error:
            failure = error
    raise ClipError(f"{source.path}: damaged at frame {index}") from failure


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
    source = _inspect(path, reader)
    first, last = source.clip_range(start, end)
    indices = frame_indices(last - first, frames)
    per_frame = max(min(max_frame_pixels, max_pixels / len(indices) * 2), int(1.05 * min_frame_pixels))
    raw, resized = [], []
    for frame in _frames(source, reader, [first + i for i in indices]):
        if frame.shape[2] != 3:  # decord pads the rows of some widths up to 72
            raise ClipError(f"{path}: the decoder cannot read frames of {frame.shape[1]}x{frame.shape[0]}")
        raw.append(frame)
        if len(raw) + len(resized) < len(indices) and len(raw) * frame.nbytes < RAW_BYTES:
            continue  # decoder and resize by turns, frame by frame, would cost a tenth more
        try:
            size = frame_size(*frame.shape[:2], min_pixels=min_frame_pixels, max_pixels=per_frame)
        except ValueError as error:
            raise ClipError(f"{path}: {error}") from error
        resized += [resize(one[None], *size) for one in raw]
        raw.clear()
    return View(torch.cat(resized), "identity", source.fps(first, last), last - first, indices)


@dataclass(frozen=True)
class ClipFacts:
    """What annotations of a clip are held against."""

    frames: int
    fps: float
    height: int
    width: int


def inspect_clip(path: str | Path) -> ClipFacts:
    """A clip's frames, rate and size; decodes its first frame alone. ClipError as `sample_clip`."""
    path = os.fspath(path)
    reader = _open(path)
    source = _inspect(path, reader)
    height, width = next(_frames(source, reader, [0])).shape[:2]
    return ClipFacts(source.total, source.rate, height, width)


def frames_every(path: str | Path, seconds: float) -> tuple[int, ...]:
    """Indices of the frames on display at 0, `seconds`, 2 `seconds`, ...; ascending, each once. ClipError as above."""
    source = _inspect(os.fspath(path), _open(os.fspath(path)))
    duration = source.total / source.rate if source.steady else float(source.seconds[-1]) + 1 / source.rate
    times = [number * seconds for number in range(math.ceil(duration / seconds - 1e-6))]
    return tuple(dict.fromkeys(source.clip_range(time, None)[0] for time in times))


def read_frames(
    path: str | Path, indices: Sequence[int], *, min_pixels: int = 4 * CELL * CELL, max_pixels: int
) -> Iterator[torch.Tensor]:
    """Frames `indices` (ascending) one by one, uint8 (3, H, W), each resized as a still of that budget would be.
    ClipError as above."""
    path = os.fspath(path)
    reader = _open(path)
    for frame in _frames(_inspect(path, reader), reader, indices):
        try:
            size = frame_size(*frame.shape[:2], min_pixels=min_pixels, max_pixels=max_pixels)
        except ValueError as error:
            raise ClipError(f"{path}: {error}") from error
        yield resize(frame[None], *size)[0]
