"""pytest tests/test_data.py -- clips, rows, and the order of visits."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from qwen_vl_utils import vision_process
from qwen_vl_utils.vision_process import smart_resize
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize as torchvision_resize

from data import video
from data.dataset import BadRow, QuestionCursor, is_null_option, load_questions, report_bad_rows, with_null_option
from data.image import read_image
from data.video import ClipError, frame_indices, frame_size, resize, sample_clip
from transforms import temporal_reverse

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real inputs lie beside the repository")


# ---------------------------------------------------------------------------------------------------------------------
# Clips


def write_clip(path: Path, frames: np.ndarray, fps: int = 10) -> Path:
    """Encode (T, H, W, 3) bytes without loss beyond the colour conversion, which is the same for every order."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey_frames(total: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Frame i is grey level 4 * i, so that a decoded frame tells its index."""
    levels = (4 * np.arange(total)).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (total, height, width, 3)).copy()


def indices_seen(view) -> list[int]:
    """Source indices read off the pixels of a `grey_frames` clip."""
    return [round(level / 4) for level in view.frames.float().mean(dim=(1, 2, 3)).tolist()]


@pytest.mark.parametrize("frames", [2, 8, 31, 32, 64])
def test_indices_are_symmetric_complete_and_near_linspace(frames):
    for total in range(2, 1201):
        indices = frame_indices(total, frames)
        assert len(indices) == min(frames, total) // 2 * 2
        assert indices[0] == 0 and indices[-1] == total - 1
        assert all(a < b for a, b in pairwise(indices))
        assert [total - 1 - i for i in reversed(indices)] == list(indices)
        assert np.abs(np.array(indices) - np.linspace(0, total - 1, len(indices))).max() < 0.5


def test_indices_of_tiny_clips():
    assert frame_indices(1, 32) == (0, 0)
    assert frame_indices(2, 32) == (0, 1)
    assert frame_indices(3, 32) == (0, 2)


def test_frame_size_is_the_reference_rule():
    compared = 0
    for max_pixels in (128 * 1024, 768 * 1024, 17_203, 2048 * 1024 / 30 * 2):
        for height in range(8, 2200, 61):
            for width in range(8, 3900, 97):
                if max(height, width) > 200 * min(height, width):
                    continue
                expected = smart_resize(height, width, 32, min_pixels=16 * 1024, max_pixels=max_pixels)
                size = frame_size(height, width, min_pixels=16 * 1024, max_pixels=max_pixels)
                if 0 in expected:  # the reference loses the shorter side of a thin frame
                    assert min(size) == 32 and size[0] * size[1] <= max_pixels
                else:
                    assert size == expected, (height, width, max_pixels)
                    compared += 1
    assert compared > 5000


def test_frame_size_refuses_a_ribbon():
    with pytest.raises(ValueError, match="2010x10 exceed an aspect ratio of 200"):
        frame_size(10, 2010, min_pixels=16 * 1024, max_pixels=128 * 1024)


@pytest.mark.parametrize("size", [(96, 160), (32, 64), (64, 96)])
def test_resize_is_antialiased_bicubic(size):
    frames = torch.randint(0, 256, (3, 64, 96, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = torchvision_resize(frames.permute(0, 3, 1, 2), list(size), InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize(frames, *size), expected)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 32, 45, 60])
def test_sampled_frames_are_the_ones_named(tmp_path, total):
    view = sample_clip(write_clip(tmp_path / "clip.mp4", grey_frames(total)), frames=16)
    assert view.frame_indices == frame_indices(total, 16)
    assert indices_seen(view) == list(view.frame_indices)
    assert (view.source_frames, view.fps, view.transform) == (total, 10.0, "identity")
    assert view.frames.dtype == torch.uint8 and view.frames.shape == (len(view.frame_indices), 3, 128, 128)


@pytest.mark.parametrize("total", [3, 33, 50])
def test_reversing_sampled_frames_equals_sampling_the_reversed_file(tmp_path, total):
    pixels = np.random.default_rng(total).integers(0, 256, (total, 64, 96, 3), dtype=np.uint8)
    forward = sample_clip(write_clip(tmp_path / "forward.mp4", pixels))
    backward = sample_clip(write_clip(tmp_path / "backward.mp4", pixels[::-1]))
    assert torch.equal(temporal_reverse(forward.frames), backward.frames)
    assert not torch.equal(forward.frames, backward.frames)
    assert forward.frame_indices == backward.frame_indices


@pytest.mark.parametrize(
    ("start", "end", "first", "count"),
    [
        (None, None, 0, 60),
        (0.0, 6.0, 0, 60),
        (1.0, 2.0, 10, 10),
        (0.3, 0.7, 3, 4),  # 0.3 * 10 and 0.7 * 10 are no whole floats
        (0.25, 0.55, 2, 4),  # the frame on display at 0.25 s, and the one at 0.5 s
        (5.95, None, 59, 1),
        (2.0, None, 20, 40),
        (None, 1.5, 0, 15),
        (4.0, 99.0, 40, 20),  # clamped
        (1.0, 1.01, 10, 1),
        (0.0, 1.1, 0, 11),  # 1.1 * 10 is a little over 11
    ],
)
def test_bounds_make_a_clip_of_its_own(tmp_path, start, end, first, count):
    path = write_clip(tmp_path / "clip.mp4", grey_frames(60))
    view = sample_clip(path, frames=8, start=start, end=end)
    assert view.source_frames == count
    assert view.frame_indices == frame_indices(count, 8)
    assert indices_seen(view) == [first + i for i in view.frame_indices]


def test_a_bound_written_in_decimals_does_not_miss_its_frame(tmp_path):
    view = sample_clip(write_clip(tmp_path / "clip.mp4", grey_frames(40), fps=100), frames=2, start=0.29, end=0.33)
    assert 0.29 * 100 < 29  # the float lies below the frame it names
    assert indices_seen(view) == [29, 32]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (2.0, 1.0, "0 <= start < end"),
        (1.0, 1.0, "0 <= start < end"),
        (-1.0, 1.0, "0 <= start < end"),
        (float("nan"), None, "0 <= start < end"),
        (6.0, None, "starts at 6 s, but the file ends at 6 s"),
        (7.0, 8.0, "starts at 7 s, but the file ends at 6 s"),
    ],
)
def test_bounds_that_make_no_clip(tmp_path, start, end, message):
    path = write_clip(tmp_path / "clip.mp4", grey_frames(60))
    with pytest.raises(ClipError, match=message):
        sample_clip(path, start=start, end=end)


@pytest.fixture(scope="module")
def large_clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("large") / "clip.mp4", np.zeros((32, 720, 1280, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("arguments", "cells"),
    [
        ({}, 128),  # 2048 cells over 16 groups
        ({"frames": 8}, 512),
        ({"frames": 4}, 768),  # the cap of a frame
        ({"max_pixels": 1024 * 1024}, 64),
        ({"max_pixels": 1024}, 16),  # never below the floor
    ],
)
def test_pixel_budget(large_clip, arguments, cells):
    frames = sample_clip(large_clip, **arguments).frames
    height, width = frames.shape[-2:]
    assert height % 32 == width % 32 == 0
    assert cells / 2 < height * width / 1024 <= cells


def test_odd_or_too_few_frames(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", grey_frames(10))
    assert len(sample_clip(path, frames=5).frames) == 4
    with pytest.raises(ValueError, match="at least 2 .* got frames=1"):
        sample_clip(path, frames=1)


def test_files_that_are_no_clip(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    whole = write_clip(tmp_path / "whole.mp4", grey_frames(30)).read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    for name, reason in (("none", "no such file"), ("empty", "can open"), ("text", "text"), ("half", "can open")):
        with pytest.raises(ClipError, match=reason) as caught:
            sample_clip(tmp_path / f"{name}.mp4")
        assert f"{name}.mp4" in str(caught.value) and "\n" not in str(caught.value)


@needs_shared
@pytest.mark.parametrize(
    ("name", "shape", "fps", "source_frames"),
    [
        ("flipping_a_pancake.mkv", (32, 3, 256, 416), 30.0, 310),
        ("videor1_example.mp4", (32, 3, 256, 480), 22.29, 491),
        ("video_0.mov", (2, 3, 320, 576), 30.0, 3),
        ("video_90.mov", (2, 3, 576, 320), 30.0, 3),  # the rotation tag is honoured
        ("unordered.mov", (4, 3, 128, 128), 32.0, 4),
    ],
)
def test_real_clips(name, shape, fps, source_frames):
    view = sample_clip(SHARED / "videos" / name)
    assert view.frames.shape == shape
    assert (view.fps, view.source_frames) == (pytest.approx(fps, abs=0.01), source_frames)
    assert view.frame_indices == frame_indices(source_frames, 32)


@needs_shared
@pytest.mark.parametrize("name", ["video_0.mov", "video_90.mov"])
def test_rotation_is_what_the_display_matrix_says(name):
    with av.open(str(SHARED / "videos" / name)) as container:
        frame = next(container.decode(video=0))
        upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))  # both counter-clockwise
    assert (frame.rotation % 360 != 0) == (name == "video_90.mov")
    view = sample_clip(SHARED / "videos" / name)
    expected = resize(torch.from_numpy(upright.copy())[None], *view.frames.shape[-2:])[0]
    difference = (view.frames[0].int() - expected.int()).abs().float().mean()
    assert difference < 2, "two conversions to RGB differ by little"
    assert (view.frames[0].flip(-1, -2).int() - expected.int()).abs().float().mean() > 10 * difference


@needs_shared
def test_damaged_clip_is_refused_and_its_sound_part_is_not():
    path = SHARED / "videos" / "corrupted.mp4"
    with pytest.raises(ClipError, match=r"corrupted\.mp4: damaged at frame 31$"):
        sample_clip(path, start=2.0, end=3.2, frames=2)
    view = sample_clip(path, end=1.0, frames=4)
    assert view.frame_indices == frame_indices(10, 4)


# What containers do. Frame i shows i in black and white bars, so that no codec blurs it.


def bars(i: int) -> np.ndarray:
    frame = np.full((128, 256, 3), 128, np.uint8)
    for bit in range(8):
        frame[32:96, bit * 32 : bit * 32 + 32] = 255 * (i >> bit & 1)
    frame[:32] = np.random.default_rng(i).integers(60, 200, (32, 256, 3))
    return frame


def bars_seen(view) -> list[int]:
    return [sum(1 << bit for bit in range(8) if f[0, 48:80, bit * 32 + 8 : bit * 32 + 24].float().mean() > 128)
            for f in resize(view.frames.permute(0, 2, 3, 1), 128, 256)]  # fmt: skip


def write_bars(path: Path, total: int = 120, codec: str = "libx264", times=None, **options) -> Path:
    """`total` frames at 25 a second, a key frame at least every 25; `times`: of each frame, in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"g": "25"} | options)
        stream.height, stream.width, stream.pix_fmt = 128, 256, "yuv420p"
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(total):
            frame = av.VideoFrame.from_ndarray(bars(i), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[i]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_packets(source: Path, target: Path, shift_s: float = 0.0, first: int = 0) -> Path:
    """As `ffmpeg -c copy` does: packets from the `first` on, earlier by `shift_s` (what lies before 0 gets hidden)."""
    keep = {"avoid_negative_ts": "disabled"}
    with av.open(str(source)) as read, av.open(str(target), "w", options=keep) as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in [p for p in read.demux(video=0) if p.dts is not None][first:]:
            packet.pts -= round(shift_s / packet.time_base)
            packet.dts -= round(shift_s / packet.time_base)
            packet.stream = stream
            written.mux(packet)
    return target


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "libx264"), ("a.flv", "libx264"), ("a.avi", "mpeg4"),
     ("a.mpg", "mpeg2video"), ("a.mpg", "mpeg1video"), ("a.webm", "libvpx"), ("a.wmv", "wmv2"), ("a.avi", "mjpeg")],
)  # fmt: skip
@pytest.mark.parametrize("frames", [32, 16, 4])
def test_every_container_gives_the_frames_named(tmp_path, name, codec, frames):
    """AVI and MPEG-PS have no usable times: a seek there would land whole seconds away."""
    options = {"cpu-used": "8"} if codec == "libvpx" else {}
    if codec == "mjpeg":
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 128, 256, "yuvj420p"
            for i in range(120):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(bars(i), format="rgb24")))
    else:
        path = write_bars(tmp_path / name, codec=codec, **options)
    view = sample_clip(path, frames=frames)
    assert (view.source_frames, view.frame_indices) == (120, frame_indices(120, frames))
    assert bars_seen(view) == list(view.frame_indices)


@pytest.mark.parametrize("frames", [32, 4])
def test_frames_that_an_edit_list_hides_do_not_count(tmp_path, frames):
    """The decoder counts 120, shows 110, and would fill up with ten copies of the last."""
    path = copy_packets(write_bars(tmp_path / "whole.mp4"), tmp_path / "cut.mp4", shift_s=0.4)
    view = sample_clip(path, frames=frames)
    assert (view.source_frames, view.frame_indices) == (110, frame_indices(110, frames))
    assert bars_seen(view) == [10 + i for i in view.frame_indices]
    inside = sample_clip(path, frames=frames, start=2.0, end=4.0)
    assert bars_seen(inside) == [60 + i for i in inside.frame_indices]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mp4", "a.mov"])
def test_a_truncated_file_is_refused(tmp_path, name):
    """FFmpeg plays what is left of a Matroska file or an AVI, and nothing says that the rest is missing."""
    whole = write_bars(tmp_path / name).read_bytes()
    sample_clip(tmp_path / name, frames=8)
    for share in (0.5, 0.98):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ClipError, match="truncated|can open|damaged"):
            sample_clip(tmp_path / name, frames=8)


def test_a_live_stream_announces_no_size(tmp_path):
    """Every byte of a Matroska size of ones: unknown."""
    whole = write_bars(tmp_path / "a.mkv").read_bytes()
    at = whole.index(b"\x18\x53\x80\x67") + 4
    length = 9 - whole[at].bit_length()
    unknown = bytes([(1 << (9 - length)) - 1]) + b"\xff" * (length - 1)
    (tmp_path / "live.mkv").write_bytes(whole[:at] + unknown + whole[at + length : int(0.5 * len(whole))])
    assert 40 < sample_clip(tmp_path / "live.mkv", frames=8).source_frames < 80


def test_a_width_that_the_decoder_garbles_is_refused(tmp_path):
    for width in (16, 48, 72):
        path = write_clip(tmp_path / f"{width}.mp4", np.zeros((4, 64, width, 3), dtype=np.uint8))
        with pytest.raises(ClipError, match="cannot read frames|damaged"):
            sample_clip(path, frames=4)


def test_no_program_is_started_for_an_image(tmp_path, monkeypatch):
    """Pillow hands EPS, under whatever name, to Ghostscript."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n")
    with pytest.raises(ClipError, match="not an image"):
        read_image(tmp_path / "a.jpg")
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_bounds_of_a_variable_rate_are_the_frames_own_times(tmp_path, name):
    """Two seconds at 10 a second, then two at 50."""
    times = np.concatenate([np.arange(20) * 100, 2000 + np.arange(100) * 20])
    path = write_bars(tmp_path / name, times=times)
    whole = sample_clip(path, frames=8)
    assert bars_seen(whole) == list(frame_indices(120, 8)), "frames are counted, as the reference counts them"
    assert whole.fps == pytest.approx(119 / 3.98)
    for start, end, first, count, fps in ((0.5, 1.5, 5, 10, 10), (2.0, 3.0, 20, 50, 50), (3.5, None, 95, 25, 50)):
        view = sample_clip(path, frames=8, start=start, end=end)
        assert view.source_frames == count and view.fps == pytest.approx(fps, rel=1e-3)
        assert bars_seen(view) == [first + i for i in view.frame_indices]
    with pytest.raises(ClipError, match="starts at 5 s, but the file ends at 4"):
        sample_clip(path, start=5.0)


def test_what_the_decoder_would_misread_is_refused(tmp_path):
    write_bars(tmp_path / "whole.mp4", total=30)
    for name, text in (
        ("concat", "ffconcat version 1.0\nfile whole.mp4\n"),
        ("list", "#EXTM3U\nhttp://localhost/a.ts"),
    ):
        (tmp_path / f"{name}.mp4").write_text(text)
        with pytest.raises(ClipError, match=rf"{name}\.mp4: text, not a video"):
            sample_clip(tmp_path / f"{name}.mp4")
    with pytest.raises(ClipError, match="transport stream"):
        sample_clip(write_bars(tmp_path / "a.ts"))
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ClipError, match="no such file"):
        sample_clip(tmp_path / "pipe.mp4")


# Against the reference


def reference(monkeypatch, path: str, frames: int, total: int, **budget) -> tuple[list[int], tuple[int, ...]]:
    """Indices and (F, 3, H, W) by qwen-vl-utils with its decord reader and the donor's budgets."""
    monkeypatch.setattr(vision_process, "get_video_reader_backend", lambda: "decord")
    ask = {"video": path, "nframes": min(frames, total) // 2 * 2, "min_pixels": 16 * 1024, **budget}
    video, facts = vision_process.fetch_video(ask, image_patch_size=16, return_video_metadata=True)
    return facts["frames_indices"], tuple(video.shape)


@needs_shared
@pytest.mark.parametrize(
    "name", ["flipping_a_pancake.mkv", "videor1_example.mp4", "video_0.mov", "video_90.mov", "unordered.mov"]
)
@pytest.mark.parametrize("frames", [8, 32])
def test_real_clips_as_the_reference_reads_them(monkeypatch, name, frames):
    path = str(SHARED / "videos" / name)
    view = sample_clip(path, frames=frames)
    indices, shape = reference(monkeypatch, path, frames, view.source_frames, total_pixels=2048 * 1024)
    assert list(view.frame_indices) == indices and view.frames.shape == shape


class FakeReader:
    """decord.VideoReader of a clip that is nothing but its length, size and rate."""

    def __init__(self, total: int, height: int, width: int, fps: float):
        self.total, self.size, self.rate = total, (height, width, 3), fps

    def __len__(self) -> int:
        return self.total

    def get_avg_fps(self) -> float:
        return self.rate

    def get_key_indices(self) -> list[int]:
        return list(range(0, self.total, 7))

    def get_frame_timestamp(self, indices) -> np.ndarray:
        return np.array([[i / self.rate, (i + 1) / self.rate] for i in indices], dtype=np.float32)

    def get_batch(self, indices) -> FakeReader:
        assert all(0 <= i < self.total for i in indices)
        self.batch = np.zeros((len(indices), *self.size), dtype=np.uint8)
        return self

    def asnumpy(self) -> np.ndarray:
        return self.batch

    def skip_frames(self, count: int) -> None:
        assert count > 0

    def next(self) -> FakeReader:
        self.batch = np.zeros(self.size, dtype=np.uint8)
        return self


def test_indices_and_sizes_are_the_references_over_200_settings(monkeypatch):
    """Lengths from 2, sizes from 16 to 2160, rates from 1 to 120. Deviations: see `frame_size`, one cell is kept where
    the reference loses a side, and `frame_indices`, a clip of one frame (the reference raises)."""
    rng = np.random.default_rng(0)
    monkeypatch.setattr(video, "resize", lambda frames, *size: torch.empty(len(frames), 3, *size))
    small = lambda video, size, **_: torch.empty(*video.shape[:2], *size)  # noqa: E731
    monkeypatch.setattr(vision_process.transforms.functional, "resize", small)
    for _ in range(200):
        total, fps = int(rng.choice([rng.integers(2, 40), rng.integers(2, 5000)])), float(rng.uniform(1, 120))
        height, width = rng.integers(16, rng.choice([200, 700, 2160], p=[0.3, 0.6, 0.1]), 2).tolist()
        frames = int(rng.choice([4, 8, 16, 32]))
        monkeypatch.setattr("decord.VideoReader", lambda *_, made=(total, height, width, fps), **__: FakeReader(*made))
        monkeypatch.setattr(video, "_open", lambda path, made=(total, height, width, fps): FakeReader(*made))
        view = sample_clip("fake", frames=frames)
        indices, shape = reference(monkeypatch, "fake", frames, total, total_pixels=2048 * 1024)
        assert list(view.frame_indices) == indices, (total, frames)
        assert view.frames.shape == shape and view.fps == pytest.approx(fps), (height, width, len(indices))


# ---------------------------------------------------------------------------------------------------------------------
# Images


def gradient(width: int = 96, height: int = 64) -> Image.Image:
    """Red grows to the right, green downwards: which way up it is can be read off its pixels."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 60)], axis=-1).astype(np.uint8))


def test_an_image_of_whole_cells_is_read_pixel_for_pixel(tmp_path):
    gradient().save(tmp_path / "a.png")
    view = read_image(tmp_path / "a.png")
    assert view.still and view.frames.dtype == torch.uint8 and view.frames.shape == (1, 3, 64, 96)
    assert (view.transform, view.fps, view.source_frames, view.frame_indices) == ("identity", 0.0, 1, (0,))
    assert torch.equal(view.frames[0].permute(1, 2, 0), torch.from_numpy(np.array(gradient())))


def test_a_clip_of_one_frame_is_no_image(tmp_path):
    assert not sample_clip(write_clip(tmp_path / "clip.mp4", grey_frames(1))).still


@pytest.mark.parametrize("size", [(8, 8), (40, 30), (64, 64), (500, 300), (1200, 90), (10, 1500), (2000, 1600)])
@pytest.mark.parametrize("cells", [4, 20, 768])
def test_images_keep_to_the_recipes_budget(tmp_path, size, cells):
    gradient(*size).save(tmp_path / "a.png")
    view = read_image(tmp_path / "a.png", max_pixels=cells * 1024)
    height, width = view.frames.shape[-2:]
    expected = smart_resize(size[1], size[0], 32, min_pixels=4 * 1024, max_pixels=cells * 1024)
    if 0 in expected:  # the reference loses the shorter side of a thin image
        assert min(height, width) == 32
    else:
        assert (height, width) == expected
    assert height % 32 == width % 32 == 0 and height * width <= max(cells, 6) * 1024  # 2 x 3 is the least above 4
    frames = torch.from_numpy(np.array(gradient(*size)))[None]
    assert torch.equal(view.frames, resize(frames, height, width)), "the same resampling as a clip's"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["png", "jpg"])
def test_exif_rotation_is_honoured(tmp_path, orientation, form):
    """What a camera stores sideways, with the tag that says so, must read as the upright picture."""
    stored_as = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
                 7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    stored = gradient()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose[stored_as[orientation]])
    exif = Image.Exif()
    exif[0x112] = orientation
    stored.save(tmp_path / f"a.{form}", exif=exif, **({"quality": 100, "subsampling": 0} if form == "jpg" else {}))
    view = read_image(tmp_path / f"a.{form}")
    upright = torch.from_numpy(np.array(gradient())).permute(2, 0, 1)
    assert view.frames.shape == (1, 3, 64, 96)
    assert (view.frames[0].int() - upright.int()).abs().max() <= (6 if form == "jpg" else 0)


def test_every_mode_becomes_rgb(tmp_path):
    colour, grey = gradient(), ImageOps.grayscale(gradient())
    half = colour.copy()
    half.putalpha(Image.fromarray(np.repeat(np.array([[0] * 48 + [255] * 48], dtype=np.uint8), 64, axis=0)))
    on_white = np.array(colour)
    on_white[:, :48] = 255
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    palette = colour.quantize(64)
    two_colours = Image.new("P", (96, 64), 1)
    two_colours.putpalette([0, 0, 0, 9, 99, 199])
    two_colours.paste(0, (0, 0, 48, 64))
    clear = np.full((64, 96, 3), 255)
    clear[:, 48:] = (9, 99, 199)
    grey_rgb = np.repeat(np.array(grey)[..., None], 3, axis=-1)
    bits = np.array(grey) > 100
    for name, image, options, expected in (
        ("RGBA", half, {}, on_white),
        ("LA", half.convert("LA"), {}, np.where(np.arange(96)[None, :, None] < 48, 255, grey_rgb)),
        ("L", grey, {}, grey_rgb),
        ("I;16", deep, {}, grey_rgb),
        ("P", palette, {}, np.array(palette.convert("RGB"))),
        ("P", two_colours, {"transparency": 0}, clear),
        ("1", Image.fromarray(bits), {}, np.repeat(bits[..., None] * 255, 3, axis=-1)),
    ):
        image.save(tmp_path / "a.png", **options)
        with Image.open(tmp_path / "a.png") as stored:
            assert stored.mode == name
        got = read_image(tmp_path / "a.png").frames[0].permute(1, 2, 0).numpy()
        assert np.array_equal(got, expected), name
    colour.convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    seen = read_image(tmp_path / "a.jpg").frames[0].permute(1, 2, 0).numpy()
    assert np.abs(seen.astype(int) - np.array(colour)).max() <= 10


def test_a_damaged_image_is_one_readable_line(tmp_path):
    gradient(300, 200).save(tmp_path / "whole.png")
    gradient(300, 200).save(tmp_path / "whole.jpg")
    gradient(3000, 10).save(tmp_path / "ribbon.png")
    png, jpg = ((tmp_path / name).read_bytes() for name in ("whole.png", "whole.jpg"))
    wrong = bytearray(png)
    wrong[60] ^= 255
    for name, content, words in (
        ("cut.png", png[: len(png) // 2], "damaged"),
        ("cut.jpg", jpg[: len(jpg) // 2], "damaged"),
        ("flipped.png", bytes(wrong), "damaged"),
        ("empty.png", b"", "not an image"),
        ("text.jpg", b"no image", "not an image"),
        ("ribbon.png", None, "aspect ratio of 200"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match=words) as error:
            read_image(tmp_path / name)
        assert str(error.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(error.value)
    with pytest.raises(ClipError, match="no such file"):
        read_image(tmp_path / "none.png")


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    gradient(300, 200).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 29_000)  # beyond twice that Pillow refuses
    with pytest.raises(ClipError, match="too large"):
        read_image(tmp_path / "a.png")


# ---------------------------------------------------------------------------------------------------------------------
# Rows


@pytest.fixture
def root(tmp_path):
    """A data root with one file that stands for a clip, and a file outside of it."""
    folder = tmp_path / "root"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "clip.mp4").touch()
    (folder / "sub" / "picture.png").touch()
    (tmp_path / "outside.mp4").touch()
    (folder / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    return folder


ROW = {
    "problem_id": 7,
    "problem": "Which way?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. left", "B. right"],
    "solution": "<answer>B</answer>",
    "path": "./sub/clip.mp4",
    "data_source": "test",
}


IMAGE_ROW = ROW | {"data_type": "image", "path": "./sub/picture.png"}


def load(root, *rows, **keywords):
    file = root.parent / "rows.json"
    file.write_text(json.dumps(list(rows)))
    return load_questions(file, root, **keywords)


def test_a_good_image_row(root):
    """Video-R1's format; a task type does not make it two-branched (methods.py), bounds may be given as null."""
    [question], bad = load(root, IMAGE_ROW | {"task_type": "Spatial", "start": None, "end": None})
    assert not bad and question.data_type == "image" and question.path == str(root / "sub" / "picture.png")
    assert (question.start, question.end) == (None, None)
    assert question.options == ("A. left", "B. right") and question.null_letter is None, "the null option is for clips"
    [question], _ = load(root, IMAGE_ROW, null_option="all")
    assert question.null_letter == "C"


def test_text_has_no_use_for_path_and_bounds(root):
    [question], bad = load(root, ROW | {"data_type": "text", "path": "", "start": 3, "end": 1})
    assert not bad and (question.path, question.start, question.end) == (None, None, None)


def test_a_good_row(root):
    [question], bad = load(root, ROW | {"task_type": "Spatial", "start": 1, "end": 2.5, "transforms": ["segment_swap"]})
    assert question.transforms == ("segment_swap",)
    assert not bad
    assert (question.id, question.row, question.problem, question.gold) == ("7", 1, "Which way?", "B")
    assert question.options == ("A. left", "B. right", "C. None of the above") and question.null_letter == "C"
    assert question.path == str(root / "sub" / "clip.mp4")
    assert (question.task_type, question.start, question.end, question.data_source) == ("Spatial", 1.0, 2.5, "test")
    assert question.dynamic


@pytest.mark.parametrize(
    ("change", "gold"),
    [
        ({"solution": "B"}, "B"),
        ({"solution": "right"}, "B"),
        ({"solution": "(B) right"}, "B"),
        ({"solution": "\\boxed{B}"}, "B"),
        ({"solution": "<think>A</think><answer> b </answer>"}, "B"),
        ({"problem_type": "numerical", "options": [], "solution": "<answer>3.50</answer>"}, "3.5"),
        ({"problem_type": "numerical", "options": None, "solution": 4}, "4"),
        ({"problem_type": "regression", "options": [], "solution": 0.7}, "0.7"),
        ({"problem_type": "free-form", "options": [], "solution": "<answer>A  Dog</answer>"}, "a dog"),
        ({"problem_type": "OCR", "options": [], "solution": "STOP"}, "stop"),
        ({"problem_type": "math", "options": [], "solution": "$x$", "data_type": "text", "path": None}, "x"),
    ],
)
def test_gold_answers(root, change, gold):
    [question], bad = load(root, ROW | change)
    assert (question.gold, bad) == (gold, [])


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"problem": None}, "problem", "missing"),
        ({"problem": "  "}, "problem", "missing"),
        ({"problem": ["a"]}, "problem", "must be text"),
        ({"solution": None}, "solution", "missing"),
        ({"solution": "<answer></answer>"}, "solution", "not among the options"),
        ({"solution": "<answer>C</answer>"}, "solution", "not among the options"),
        ({"solution": "up"}, "solution", "not among the options"),
        ({"solution": True}, "solution", "must be text"),
        ({"problem_type": "numerical", "options": [], "solution": "many"}, "solution", "cannot be read as numerical"),
        ({"options": []}, "options", "at least two"),
        ({"options": ["A. left"]}, "options", "at least two"),
        ({"options": "A. left"}, "options", "list of texts"),
        ({"options": ["A. left", 2]}, "options", "list of texts"),
        ({"options": ["left", "right"]}, "options", "start with its letter"),
        ({"options": ["A. left", "C. right"]}, "options", "run A, B, C"),
        ({"options": ["B. left", "A. right"]}, "options", "run A, B, C"),
        ({"options": [f"{chr(65 + i)}. {i}" for i in range(26)]}, "options", "no letter is left"),
        ({"data_type": "audio"}, "data_type", "must be one of"),
        ({"data_type": None}, "data_type", "missing"),
        ({"data_type": "image", "path": None}, "path", "missing"),
        ({"data_type": "image", "path": "../outside.mp4"}, "path", "leaves the data root"),
        ({"data_type": "image", "path": "none.jpg"}, "path", "no such file"),
        ({"data_type": "image", "start": 0}, "start", "no bounds in time"),
        ({"data_type": "image", "end": 2.5}, "end", "no bounds in time"),
        ({"problem_type": "grounding"}, "problem_type", "must be one of"),
        ({"path": None}, "path", "missing"),
        ({"path": "./sub/none.mp4"}, "path", "no such file"),
        ({"path": "./sub"}, "path", "no such file"),
        ({"path": "../outside.mp4"}, "path", "leaves the data root"),
        ({"path": "sub/../../outside.mp4"}, "path", "leaves the data root"),
        ({"path": "../root-other/clip.mp4"}, "path", "leaves the data root"),
        ({"path": "link.mp4"}, "path", "leaves the data root"),
        ({"path": "/etc/passwd"}, "path", "relative to the data root"),
        ({"path": "a\x00b"}, "path", "no file name"),
        ({"path": "\ud800"}, "path", "half a character"),
        ({"path": "\udc80.mp4"}, "path", "half a character"),
        ({"problem": "Which \ud800?"}, "problem", "half a character"),
        ({"options": ["A. left\udfff", "B. right"]}, "options", "half a character"),
        ({"path": "x" * 5000}, "path", "no such file"),
        ({"start": -1}, "start", "number of seconds"),
        ({"start": "1"}, "start", "number of seconds"),
        ({"end": float("nan")}, "end", "number of seconds"),
        ({"end": True}, "end", "number of seconds"),
        ({"start": 3, "end": 3}, "start", "before end"),
        ({"end": 0}, "start", "before end"),
        ({"task_type": "temporal"}, "task_type", "must be one of"),
        ({"task_type": 3}, "task_type", "must be one of"),
        ({"transforms": "segment_swap"}, "transforms", "must be a list of"),
        ({"transforms": ["frame_shuffle"]}, "transforms", "must be a list of"),
        ({"side": "c"}, "side", "must be one of"),
    ],
)
def test_bad_rows_name_field_and_reason(root, change, field, reason):
    questions, [bad] = load(root, ROW, ROW | change)
    assert len(questions) == 1
    assert (bad.row, bad.field) == (2, field)
    assert reason in bad.reason
    assert str(bad).startswith(f"{root.parent / 'rows.json'}:2 {field}: ") and "\n" not in str(bad)
    assert str(bad).encode(), "it can be printed"


@pytest.mark.parametrize("row", [None, 3, "text", [], True])
def test_a_row_that_is_no_object(root, row):
    _, [bad] = load(root, row)
    assert (bad.row, bad.field, bad.reason) == (1, "row", "must be a JSON object")


def test_jsonl_goes_on_after_a_broken_line(root):
    file = root.parent / "rows.jsonl"
    lines = [
        json.dumps(ROW),
        "",
        '{"problem": ',
        json.dumps(ROW | {"problem_id": 8, "problem": "a\u2028b"}, ensure_ascii=False),
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    questions, [bad] = load_questions(file, root)
    assert [question.row for question in questions] == [1, 4]
    assert (bad.row, bad.field, bad.reason) == (3, "row", "is not valid JSON")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "holds no rows"),
        (b"[]", "holds no rows"),
        (b"[{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"hello\nworld", "neither a JSON list"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"[" + b"1" * 5000 + b"]", "not valid JSON"),
    ],
)
def test_a_file_that_cannot_be_read(root, content, message):
    file = root.parent / "broken.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_questions(file, root)
    assert "broken.json" in str(caught.value) and "\n" not in str(caught.value)


def test_wrong_arguments(root):
    with pytest.raises(ValueError, match="null_option must be one of video, all, off"):
        load(root, ROW, null_option="no")
    with pytest.raises(ValueError, match="data root must be a folder"):
        load_questions(root.parent / "rows.json", root / "nowhere")


@pytest.mark.parametrize(
    ("text", "equivalent"),
    [
        ("None of", False),
        ("None of the thr\u00e9e", False),
        ("None of the above", True),
        ("none of the above.", True),
        ("None of these", True),
        ("None of the above options", True),
        ("None of the options", True),
        ("None of the other options", True),
        ("None of the options above", True),
        ("Neither of the above", True),
        ("None of the above is correct", True),
        ("None of these descriptions", True),
        ("None", False),
        ("I don't know", False),
        ("None of the people", False),
        ("All of the above", False),
        ("Not sure", False),
    ],
)
def test_null_equivalents(text, equivalent):
    assert is_null_option(text) is equivalent


@pytest.mark.parametrize(
    ("options", "appended", "letter"),
    [
        (["A. left", "B. right"], "C. None of the above", "C"),
        (["(A) left", "(B) right"], "(C) None of the above", "C"),
        (["A) left", "B) right"], "C) None of the above", "C"),
        (["A: left", "B: right"], "C: None of the above", "C"),
        (["A.left", "B.BBB"], "C.None of the above", "C"),
        (["A", "B"], "C. None of the above", "C"),
        (["A. left", "B. None of the above."], "B. None of the above.", None),
        (["A. none of these", "B. right"], "B. right", None),
        (["A. I don't know", "B. right"], "C. None of the above", "C"),
    ],
)
def test_null_option_comes_last_in_the_same_style(options, appended, letter):
    extended, null_letter = with_null_option(options)
    assert (extended[-1], null_letter) == (appended, letter)
    assert list(extended[: len(options)]) == options


@pytest.mark.parametrize(
    ("mode", "video", "text", "number"),
    [("video", "C", None, None), ("all", "C", "C", None), ("off", None, None, None)],
)
def test_null_option_modes(root, mode, video, text, number):
    rows = [ROW, ROW | {"data_type": "text"}, ROW | {"problem_type": "numerical", "options": [], "solution": 3}]
    questions, _ = load(root, *(row | {"problem_id": i} for i, row in enumerate(rows)), null_option=mode)
    assert [question.null_letter for question in questions] == [video, text, number]
    assert [len(question.options) for question in questions] == [2 + bool(video), 2 + bool(text), 0]


def test_null_option_is_never_the_gold_answer_by_letter(root):
    _, [bad] = load(root, ROW | {"solution": "C"})  # C would be the appended option
    assert bad.field == "solution"


def test_ids_are_unique_and_stable(root):
    no_id = {key: value for key, value in ROW.items() if key != "problem_id"}
    questions, bad = load(root, ROW, ROW, no_id, ROW | {"problem_id": "7"}, ROW | {"problem_id": "x"})
    assert [question.id for question in questions] == ["7", "3", "x"]
    assert [(row.row, row.field, row.detail) for row in bad] == [
        (2, "problem_id", "'7' of row 1"),
        (4, "problem_id", "'7' of row 1"),
    ]


def test_text_rows_need_no_path(root):
    [question], bad = load(root, ROW | {"data_type": "text", "path": None, "options": ["A. 1", "B. 2"]})
    assert question.path is None and not bad


def test_router_and_evaluation_keywords(root):
    foreign = ROW | {"path": "none.mp4", "task_type": "Object Recognition"}
    assert not load(root, foreign)[0]
    [question], bad = load(root, foreign, check_files=False, task_types=False)
    assert question.task_type is None and not bad


def test_paired_rows(root):
    [question], _ = load(root, ROW | {"pair_id": 3, "side": "b", "subtask": "Moving Direction"})
    assert (question.pair_id, question.side, question.subtask) == ("3", "b", "Moving Direction")


def test_report_counts_all_and_lists_some():
    bad = [BadRow("f.json", i, "path", "no such file", f"{i}.mp4") for i in range(1, 4)]
    bad.append(BadRow("f.json", 9, "row", "must be a JSON object"))
    assert report_bad_rows(bad, limit=2) == [
        "3 rows, path: no such file",
        "1 rows, row: must be a JSON object",
        "f.json:1 path: no such file (1.mp4)",
        "f.json:2 path: no such file (2.mp4)",
        "... and 2 more rows",
    ]
    assert report_bad_rows([]) == []


@needs_shared
@pytest.mark.parametrize("name", ["motionbench", "mvbench", "videomme", "vsibench"])
def test_real_rows(name):
    file = SHARED / "annotations" / f"video_r1_format_{name}.json"
    rows = json.loads(file.read_text())
    questions, bad = load_questions(file, SHARED, null_option="off", check_files=False, task_types=False)
    assert not bad and len(questions) == len(rows) == 60
    for question, row in zip(questions, rows, strict=True):
        assert row["solution"] == f"<answer>{question.gold}</answer>" or question.problem_type == "regression"
        assert list(question.options) == (row["options"] or [])
    # None of the clips is here: every row says so, with its number.
    questions, bad = load_questions(file, SHARED, task_types=False)
    assert not questions and [row.row for row in bad] == list(range(1, 61))
    assert {(row.field, row.reason) for row in bad} == {("path", "no such file under the data root")}


# ---------------------------------------------------------------------------------------------------------------------
# The order of visits


@pytest.fixture
def questions(root):
    return load(root, *[ROW | {"problem_id": f"q{i}"} for i in range(10)])[0]


def visits(cursor, n):
    return [(epoch, question.id) for epoch, question in cursor.take(n)]


def test_each_epoch_visits_every_question_once_in_a_new_order(questions):
    taken = visits(QuestionCursor(questions, seed=0), 30)
    epochs = [[id for epoch, id in taken if epoch == e] for e in range(3)]
    assert all(sorted(epoch) == sorted(question.id for question in questions) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [epoch for epoch, _ in taken] == sorted(epoch for epoch, _ in taken)


def test_order_depends_on_the_seed_only(questions):
    assert visits(QuestionCursor(questions, 1), 25) == visits(QuestionCursor(questions, 1), 25)
    assert visits(QuestionCursor(questions, 1), 25) != visits(QuestionCursor(questions, 2), 25)


@pytest.mark.parametrize("done", [0, 3, 10, 17, 20])
def test_resume_is_exact(questions, done):
    whole = QuestionCursor(questions, 4)
    whole.quarantine("q2", "damaged")
    expected = visits(whole, 40)
    first = QuestionCursor(questions, 4)
    first.quarantine("q2", "damaged")
    head = visits(first, done)
    resumed = QuestionCursor(questions, 4)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert resumed.quarantined == {"q2": "damaged"}
    assert head + visits(resumed, 40 - done) == expected


@pytest.mark.parametrize("done", [0, 3, 10, 17])
def test_a_peek_sees_what_comes_and_changes_nothing(questions, done):
    plain, peeking = QuestionCursor(questions, 4), QuestionCursor(questions, 4)
    for cursor in (plain, peeking):
        cursor.quarantine("q2", "damaged")
        cursor.take(done)
    state = peeking.state_dict()
    seen = [peeking.peek(n) for n in (1, 5, 25)]
    assert peeking.state_dict() == state
    assert seen == [QuestionCursor.peek(plain, n) for n in (1, 5, 25)] and seen[2][:5] == seen[1]
    assert peeking.take(25) == plain.take(25) == seen[2]


def test_state_does_not_follow_the_cursor(questions):
    cursor = QuestionCursor(questions, 0)
    state = cursor.state_dict()
    cursor.quarantine("q1")
    cursor.take(3)
    assert (state["quarantined"], state["position"]) == ({}, 0)


def test_quarantine_leaves_the_order_of_the_others(questions):
    expected = [visit for visit in visits(QuestionCursor(questions, 0), 30) if visit[1] != "q5"]
    cursor = QuestionCursor(questions, 0)
    cursor.quarantine("q5", "damaged")
    assert len(cursor) == 9
    assert visits(cursor, 27) == expected


def test_nothing_left_to_draw(questions):
    cursor = QuestionCursor(questions, 0)
    for question in questions:
        cursor.quarantine(question.id, "clip.mp4: damaged at frame 3")
    with pytest.raises(ValueError, match="all 10 questions are quarantined.*damaged at frame 3"):
        cursor.take(1)
    with pytest.raises(ValueError, match="no question to draw"):
        QuestionCursor([], 0)
    with pytest.raises(ValueError, match="'nobody'"):
        cursor.quarantine("nobody")


def test_resume_refuses_another_seed_or_file(questions):
    state = QuestionCursor(questions, 0).state_dict()
    with pytest.raises(ValueError, match="seed was 0 and is now 1"):
        QuestionCursor(questions, 1).load_state_dict(state)
    with pytest.raises(ValueError, match="training file of the run"):
        QuestionCursor([replace(questions[0], id="other"), *questions[1:]], 0).load_state_dict(state)
    with pytest.raises(ValueError, match="training file of the run"):
        QuestionCursor([replace(questions[0], gold="C"), *questions[1:]], 0).load_state_dict(state)
    moved = [replace(question, path=f"/elsewhere/{os.path.basename(question.path)}") for question in questions]
    QuestionCursor(moved, 0).load_state_dict(state)
