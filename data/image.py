"""A still image's pixels: read, turned upright, made RGB, resized. The only file that opens image files.

Sizes follow the donor recipe, as those of clips do, so the model's own processor has nothing left to resize.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from data.video import CELL, ClipError, frame_size, resize
from episode import View

MIN_PIXELS = 4 * CELL * CELL
"""Lower pixel budget of an image (the donor recipe's); the upper one is a frame's."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""What is opened, by content. Not among them: EPS, for which Pillow would start Ghostscript on the file."""


def read_image(path: str | Path, *, max_pixels: int = 768 * CELL * CELL) -> View:
    """An image file as a View of one frame: uint8 (1, 3, H, W), H and W multiples of 32, aspect kept, the area within
    4 cells of 32 x 32 pixels and `max_pixels` (donor recipe: [4, 768] cells; `data.video.frame_size`).

    Upright by its EXIF tag; transparency over white; of an animation, the first picture. A damaged, missing or empty
    file, or one of more pixels than Pillow opens, raises ClipError; there is never a substitute.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise ClipError(f"{path}: no such file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()  # before the EXIF tag is read: a PNG may hold it behind its pixels
            pixels = _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise ClipError(f"{path}: not an image of a kind that is opened ({', '.join(FORMATS)})") from error
    except (OSError, SyntaxError, ValueError, NotImplementedError, Image.DecompressionBombError) as error:
        raise ClipError(f"{path}: damaged or too large an image: {error}") from error
    try:
        height, width = frame_size(*pixels.shape[:2], min_pixels=MIN_PIXELS, max_pixels=max_pixels)
    except ValueError as error:
        raise ClipError(f"{path}: {error}") from error
    return View(resize(torch.from_numpy(pixels)[None], height, width), "identity", 0.0, 1, (0,))


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8 (H, W, 3) of an image of any mode."""
    if image.has_transparency_data:
        image = image.convert("RGBA")  # over white: a diagram's black lines would vanish on convert's black
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # convert would clip 65535 levels at 255
    return np.array(image.convert("RGB"))
