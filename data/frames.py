"""`python -m data.frames --input FOLDER --output FOLDER`: folders of frames (GOT-10k) -> one clip each.

    python -m data.frames --input GOT-10k/val --output GOT-10k/val        # GOT-10k_Val_000001/*.jpg -> ..._000001.mp4

Frames are taken in the order of their names, at --fps, nearly lossless; an odd last row or column is cut off (H.264
has none). A clip that is there already stays. Exit code 0; 1 where a folder's frames cannot be used, each named; 2 with
one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import tyro
from PIL import Image, UnidentifiedImageError

from data.planes import SAME_BYTES, pictures_in

ENCODER = {"crf": "12", "preset": "veryfast", **SAME_BYTES}


@dataclass
class FramesArgs:
    """Make a clip of each folder of frames."""

    input: Path
    """Folder of folders of .jpg or .png frames."""
    output: Path
    """Where FOLDER.mp4 is written."""
    fps: int = 10
    """Frames a second; GOT-10k's."""


def write_clip(frames: Sequence[Path], target: Path, fps: int) -> None:
    """Write a clip of pictures of one size; it appears whole or not at all. ValueError, one line, names a picture that
    cannot be read or is of another size."""
    part = target.with_name(target.name + ".part")
    try:
        with av.open(str(part), "w", format="mp4") as container:
            stream = None
            for frame in frames:
                try:
                    with Image.open(frame) as picture:
                        pixels = np.asarray(picture.convert("RGB"))
                except (OSError, UnidentifiedImageError) as error:
                    raise ValueError(f"{frame}: is no picture that can be read") from error
                height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
                if stream is None:
                    stream = container.add_stream("libx264", rate=fps, options=ENCODER)
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                if (stream.width, stream.height) != (width, height):
                    raise ValueError(f"{frame}: is {width}x{height}, the first {stream.width}x{stream.height}")
                cut = np.ascontiguousarray(pixels[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))
            container.mux(stream.encode())
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def convert(args: FramesArgs) -> tuple[int, list[str]]:
    """(clips written, what is wrong with the folders that gave none). ValueError where there is no folder of frames."""
    if not args.input.is_dir() or args.fps < 1:
        raise ValueError(f"--input {args.input} must be a folder of folders, and --fps {args.fps} at least 1")
    found = {folder: pictures_in(folder) for folder in sorted(args.input.iterdir()) if folder.is_dir()}
    found = {folder: frames for folder, frames in found.items() if frames}
    if not found:
        raise ValueError(f"{args.input}: holds no folder of .jpg or .png frames")
    args.output.mkdir(parents=True, exist_ok=True)
    written, faults = 0, []
    for folder, frames in found.items():
        target = args.output / f"{folder.name}.mp4"
        if target.exists():
            continue
        try:
            write_clip(frames, target, args.fps)
            written += 1
        except ValueError as error:
            faults.append(str(error))
    return written, faults


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(FramesArgs, args=argv)
    try:
        written, faults = convert(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{written} clips written to {args.output}")
    for fault in faults:
        print(f"  {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
