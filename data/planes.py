"""Clips as the decoder's planes: decoding, flip, reversal, reordering, splices, one encoder. DyBench is made of them.

Frames stay in yuv420p from file to file: there is no detour over RGB, so a transform is exact and the encoder's loss is
all that separates a clip from its source. Both sides of a pair leave through one encoder with a constant quantiser:
rate control would spend bits on what comes later, and so tell forward from backward. A clip has no audio, no metadata,
no B-frames and a key frame every GOP frames whatever it shows.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

GOP = 12
ENCODER = {"preset": "medium", "qp": "16", "bf": "0", "sc_threshold": "0", "threads": "1", "profile": "main"}
SAME_BYTES = {"x264-params": "asm=avx2"}
"""For encoders without a constant quantiser: x264's macroblock tree reads memory nobody wrote where it has AVX-512, and
the same frames would now and then make other bytes."""
FOLDER_FPS = 10
"""Of a clip that is a folder of pictures: GOT-10k's annotation rate."""
PICTURES = (".jpg", ".jpeg", ".png")
SPLICE_DISTANCE, SPLICE_RATIO = 0.1, 4.0


class SourceError(ValueError):
    """A source clip that a pair cannot be made of: reason, and what differs from case to case."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)


@dataclass(frozen=True)
class Frames:
    """Part of a clip: uint8 (F, 3H/2, W), the planes of yuv420p one below the other; H and W even."""

    planes: np.ndarray
    rate: Fraction
    """Frames per second: the source's average."""
    colour: tuple[int, int, int, int] = (2, 2, 2, 0)
    """Primaries, transfer, matrix and range as the source has them; "unspecified" unless told."""

    def __len__(self) -> int:
        return len(self.planes)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.planes.shape[1] * 2 // 3, self.planes.shape[2]

    def cut(self, first: int, last: int) -> Frames:
        """Frames [first, last)."""
        return Frames(self.planes[first:last], self.rate, self.colour)


# ---------------------------------------------------------------------------------------------------------------------
# Transforms


def reverse(clip: Frames) -> Frames:
    """The last frame first."""
    return Frames(clip.planes[::-1], clip.rate, clip.colour)


def flip(clip: Frames) -> Frames:
    """Left and right change places, in each plane on its own."""
    return Frames(np.stack([_each_plane(frame, np.fliplr) for frame in clip.planes]), clip.rate, clip.colour)


def concatenate(parts: Sequence[Frames]) -> Frames:
    """One after another; they come from one file, so that size and rate agree."""
    return Frames(np.concatenate([part.planes for part in parts]), parts[0].rate, parts[0].colour)


def _each_plane(frame: np.ndarray, change) -> np.ndarray:
    """`change` on Y, U and V of one (3H/2, W) frame."""
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    y, chroma = change(frame[:height]), frame[height:].reshape(2, height // 2, width // 2)
    return np.concatenate([y, np.stack([change(plane) for plane in chroma]).reshape(-1, y.shape[1])])


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def read_spans(
    path: str | os.PathLike,
    spans: Sequence[tuple[float | None, float | None]] = ((None, None),),
    *,
    longest_side: int = 960,
    max_seconds: float = math.inf,
) -> list[Frames]:
    """The frames shown in each [start, end) of seconds, in the order of `spans`; (None, None) is the whole clip.

    Decoded from the start without seeking, so that a time names one frame. A frame whose longer side exceeds
    `longest_side` is shrunk. A folder of pictures is a clip of FOLDER_FPS. SourceError for a clip that is missing,
    damaged, of frames that change size, longer than `max_seconds` within a span, or at its end before a span is; and
    for a span between two frames.
    """
    bounds = [(start or 0.0, math.inf if end is None else end) for start, end in spans]
    found: list[list[np.ndarray]] = [[] for _ in spans]
    seen, rate, colour, first = 0.0, None, None, None
    path = Path(path)
    if not path.exists():
        raise SourceError("no such clip under the videos folder", path.name)
    try:
        for count, (frame, rate) in enumerate(_decode(path)):
            if frame.is_corrupt:
                raise SourceError("the clip is damaged", f"frame {count}")
            time = count / rate if frame.time is None else frame.time
            first = time if first is None else first
            time, seen = float(time - first), float(time - first + 1 / rate)
            colour = colour or _colour(frame)
            wanted = [i for i, (start, end) in enumerate(bounds) if start - 1e-3 <= time < end - 1e-3]
            if wanted:
                planes = _planes(frame, longest_side)
                for i in wanted:
                    found[i].append(planes)
                    if len(found[i]) > max_seconds * rate + 1:
                        raise SourceError(f"the clip or segment is longer than {max_seconds:g} s")
            if time >= max(end for _, end in bounds):
                break
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise SourceError("the clip cannot be decoded", str(error)) from error
    if rate is None:
        raise SourceError("the clip holds no frame")
    return _stacked(found, bounds, seen, rate, colour)


def _stacked(found, bounds, seen: float, rate: Fraction, colour) -> list[Frames]:
    """The planes of each span as one; SourceError where they are none, too few or of several sizes."""
    for (start, end), frames in zip(bounds, found, strict=True):
        # Annotations round to their own frame rate: up to a frame and a half is no contradiction.
        if end < math.inf and seen < end - 1.5 / rate or seen <= start:
            raise SourceError("a segment lies past the end of the clip", f"{start:g}..{end:g} s of {seen:.2f} s")
        if not frames:
            raise SourceError("a segment holds no frame", f"{start:g}..{end:g} s at {float(rate):g} fps")
    sizes = dict.fromkeys(f"{planes.shape[1]}x{planes.shape[0] * 2 // 3}" for frames in found for planes in frames)
    if len(sizes) > 1:
        raise SourceError("the frames change size; encode the clip at one size", ", then ".join(sizes))
    return [Frames(np.stack(frames), rate, colour) for frames in found]


def pictures_in(folder: Path) -> list[Path]:
    """The frames of a clip that is a folder of pictures, in the order of their names."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)


def _decode(path: Path):
    """(frame, frames per second) of a file or a folder of pictures, in the order of display."""
    if path.is_dir():
        pictures = pictures_in(path)
        if not pictures:
            raise SourceError("the folder holds no pictures", path.name)
        for number, picture in enumerate(pictures):
            with av.open(str(picture)) as container:
                frame = next(container.decode(video=0), None)
                if frame is None:
                    raise SourceError("a picture cannot be decoded", picture.name)
                frame.pts, frame.time_base = number, Fraction(1, FOLDER_FPS)
                yield frame, Fraction(FOLDER_FPS)
        return
    # What names other files or addresses (a playlist) is not a clip.
    with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
        if {"concat", "hls", "sdp"} & set(container.format.name.split(",")):
            raise SourceError("the clip is a playlist", container.format.name)
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        rate = stream.average_rate or stream.guessed_rate
        if not rate:
            raise SourceError("the clip states no frame rate")
        for frame in container.decode(stream):
            yield frame, Fraction(rate)


def _colour(frame: av.VideoFrame) -> tuple[int, int, int, int]:
    # Full range (phones, JPEG) becomes limited range on the way to yuv420p.
    return int(frame.color_primaries), int(frame.color_trc), int(frame.colorspace), 1


def _planes(frame: av.VideoFrame, longest: int) -> np.ndarray:
    """uint8 (3H/2, W) of a frame, upright, its sides even."""
    scale = min(1.0, longest / max(frame.width, frame.height))
    width, height = (max(2, int(side * scale) // 2 * 2) for side in (frame.width, frame.height))
    planes = frame.reformat(width, height, "yuv420p", dst_color_range="MPEG", interpolation="BICUBIC").to_ndarray()
    turns = round(frame.rotation / 90) % 4  # the container's display matrix, counter-clockwise
    return _each_plane(planes, lambda plane: np.rot90(plane, turns)) if turns else planes


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def encode(path: Path, clip: Frames) -> None:
    """An H.264 file (mp4, yuv420p, constant rate) of `clip`; the same bytes for the same frames, on one machine."""
    (height, width), (primaries, transfer, matrix, span) = clip.size, clip.colour
    with av.open(str(path), "w", format="mp4", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=clip.rate, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", GOP
        context = stream.codec_context
        context.thread_count, context.time_base = 1, 1 / clip.rate
        context.color_primaries, context.color_trc, context.colorspace = primaries, transfer, matrix
        context.color_range = span
        for number, planes in enumerate(clip.planes):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def settings(path: Path) -> dict:
    """What a clip was encoded with: stream header (SPS and PPS), size, rate, frames, key frames, other streams."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        return {
            "header": bytes(stream.codec_context.extradata).hex(),
            "size": f"{stream.width}x{stream.height}",
            "pixels": stream.codec_context.pix_fmt,
            "rate": str(stream.average_rate),
            "frames": len(packets),
            "keys": [number for number, packet in enumerate(packets) if packet.is_keyframe],
            "streams": len(container.streams),
        }


def psnr(one: Frames, other: Frames) -> np.ndarray:
    """(F,) decibels between two clips of one shape, over all planes of a frame; 99 where they agree to the bit."""
    if one.planes.shape != other.planes.shape:
        raise ValueError(f"clips of one shape are compared, got {one.planes.shape} and {other.planes.shape}")
    errors = [np.square(a.astype(np.float32) - b).mean() for a, b in zip(one.planes, other.planes, strict=True)]
    return np.array([99.0 if error == 0 else 10 * math.log10(255**2 / error) for error in errors])


# ---------------------------------------------------------------------------------------------------------------------
# Splices


def appearance(clip: Frames, cells: int = 12) -> np.ndarray:
    """(F, D) features of what each frame looks like: means over a grid of cells in each plane, weighted alike.

    They stand in for DINO's, which the paper caches; features of any network may be given to `find_splices` instead.
    """
    features = []
    for frame in clip.planes:
        height, width = clip.size
        chroma = frame[height:].reshape(2, height // 2, width // 2)
        grids = [_grid(plane, cells) for plane in (frame[:height], *chroma)]
        features.append(np.concatenate([grids[0] - 128, 2 * (grids[1] - 128), 2 * (grids[2] - 128)]))
    return np.stack(features)


def _grid(plane: np.ndarray, cells: int) -> np.ndarray:
    rows = np.linspace(0, plane.shape[0], min(cells, plane.shape[0]) + 1).astype(int)[:-1]
    columns = np.linspace(0, plane.shape[1], min(cells, plane.shape[1]) + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(plane.astype(np.float64), rows, 0), columns, 1)
    counts = np.outer(np.diff([*rows, plane.shape[0]]), np.diff([*columns, plane.shape[1]]))
    return (sums / counts).ravel()


def find_splices(features: np.ndarray, distance: float = SPLICE_DISTANCE, ratio: float = SPLICE_RATIO) -> list[int]:
    """Frames with which a new shot begins, from (F, D) features of the frames.

    A splice: the cosine distance of two neighbouring frames is at least `distance`, and `ratio` times the largest of
    the eight distances around it, so that fast motion or a flash, which changes frame after frame, is none. Two splices
    within four frames hide each other.
    """
    if features.ndim != 2 or len(features) < 2:
        return []
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-9)
    steps = 1 - (unit[1:] * unit[:-1]).sum(1)
    found = []
    for i, step in enumerate(steps):
        around = np.concatenate([steps[max(i - 4, 0) : i], steps[i + 1 : i + 5]])
        if step >= distance and step >= ratio * around.max(initial=0.0):
            found.append(i + 1)
    return found
