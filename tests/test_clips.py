"""Clips in worker processes and on disk: nothing that a file does stalls or ends the reader.

pytest tests/test_clips.py
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import ROOT, launch
from PIL import Image
from test_data import grey_frames, write_clip

import data.clips
from bench import decode
from data.cache import FrameCache
from data.clips import Clips, ClipSettings
from data.image import read_image
from data.video import VERSION, ClipError, sample_clip
from episode import Question, View
from metrics import read_metrics

SETTINGS = ClipSettings(frames=8, max_pixels=16 * 1024, min_frame_pixels=4 * 1024, max_frame_pixels=4 * 1024)


def question(path: Path | None, kind: str = "video", **bounds) -> Question:
    return Question("q", 1, "?", kind, "math", (), "1", path=None if path is None else str(path), **bounds)


def write_endless(path: Path, side: int = 4096) -> Path:
    """A sound file of under 1 MB whose last frame is minutes of decoding away: an hour of unchanged 4096 x 4096."""
    options = {"preset": "ultrafast", "x264-params": "keyint=infinite:bframes=0:ref=1:scenecut=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options=options)
        stream.height, stream.width, stream.pix_fmt = side, side, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((side * 3 // 2, side), 128, np.uint8), format="yuv420p")
        packets = [packet for _ in range(17) for packet in stream.encode(frame)] + stream.encode()
        step, base = packets[1].dts - packets[0].dts, packets[0].time_base
        first, *cycle = [bytes(packet) for packet in packets]  # frame numbers repeat after 16
        for i, content in enumerate([first] + 1500 * cycle):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, i == 0
            packet.pts, packet.dts, packet.duration = i * step, i * step, step
            container.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """An mp4 without a picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    for i in range(4):
        write_clip(folder / f"good{i}.mp4", grey_frames(20 + 10 * i))
    Image.fromarray(grey_frames(3)[2]).save(folder / "good.png")
    write_endless(folder / "endless.mp4")
    return folder


# -- the cache ---------------------------------------------------------------------------------------------------------


def make_view(seed: int = 0, frames: int = 4) -> View:
    pixels = torch.randint(0, 256, (frames, 3, 32, 64), generator=torch.Generator().manual_seed(seed))
    return View(pixels.to(torch.uint8), "identity", 29.97, 100, tuple(range(frames)))


def same(a: View, b: View) -> bool:
    return torch.equal(a.frames, b.frames) and replace(a, frames=None) == replace(b, frames=None)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_an_entry_comes_back_as_it_went(tmp_path):
    cache = FrameCache(str(tmp_path / "new"), 1 << 20)
    key = {"path": "/a \udcff.mp4", "size": 3, "start": 0.1, "end": None}
    assert cache.get(key) is None
    cache.put(key, make_view())
    assert same(FrameCache(str(tmp_path / "new"), 1 << 20).get(json.loads(json.dumps(key))), make_view())
    for other in ({"size": 4}, {"start": None}, {"frames": 8}):
        assert cache.get(key | other) is None


def damage(content: bytes, how: str) -> bytes:
    line, _, frames = content.partition(b"\n")
    return {
        "a bit": content[:-1] + bytes([content[-1] ^ 1]),
        "cut": content[: len(content) // 2],
        "longer": content + b"0",
        "empty": b"",
        "no line": frames,
        "not json": b"{\n" + frames,
        "a list": b"[]\n" + frames,
        "another shape": line.replace(b"[4, 3, 32, 64]", b"[-4, 3, -32, 64]") + b"\n" + frames,
        "huge shape": line.replace(b"[4, 3, 32, 64]", b"[4, 3, 32, 1e300]") + b"\n" + frames,
        "text for a shape": line.replace(b"[4, 3, 32, 64]", b'"abc"') + b"\n" + frames,
        "another field": line.replace(b'"fps"', b'"fpt"') + b"\n" + frames,
        "another key": line.replace(b'"a"', b'"b"') + b"\n" + frames,
        "pickle": pickle.dumps(make_view()),
    }[how]


@pytest.mark.parametrize(
    "how",
    ["a bit", "cut", "longer", "empty", "no line", "not json", "a list", "another shape", "huge shape",
     "text for a shape", "another field", "another key", "pickle"],
)  # fmt: skip
def test_a_damaged_entry_is_none_and_goes(tmp_path, how):
    cache, key = FrameCache(str(tmp_path), 1 << 20), {"path": "a"}
    cache.put(key, make_view())
    [entry] = entries(tmp_path)
    assert damage(entry.read_bytes(), how) != entry.read_bytes()
    entry.write_bytes(damage(entry.read_bytes(), how))
    assert cache.get(key) is None and not entries(tmp_path)
    cache.put(key, make_view())
    assert same(cache.get(key), make_view())


def test_the_cap_holds_and_the_longest_unread_goes_first(tmp_path):
    size = make_view().frames.nbytes
    cache = FrameCache(str(tmp_path), 10 * size)
    now = time.time_ns()
    for i in range(8):
        cache.put({"i": i}, make_view(i))
        os.utime(cache._path({"i": i}), ns=(now, now - (100 - i) * 10**9))
    assert same(cache.get({"i": 0}), make_view(0)), "reading makes it the newest"
    for i in range(8, 40):
        cache.put({"i": i}, make_view(i))
        assert sum(path.stat().st_size for path in entries(tmp_path)) <= 10 * size
        assert cache.get({"i": 0}) is not None and cache.get({"i": i}) is not None
    assert cache.get({"i": 1}) is None
    cache.put({"huge": 1}, make_view(frames=40))
    assert cache.get({"huge": 1}) is None, "an entry that would push out all others is not kept"


def test_many_at_once_share_a_folder(tmp_path):
    """Writers, readers and evictions of eight caches on one folder: whole entries or none, and the cap."""
    size = make_view().frames.nbytes

    def work(seed: int) -> int:
        cache, hits = FrameCache(str(tmp_path), 30 * size), 0
        for i in np.random.default_rng(seed).integers(0, 60, 150).tolist():
            found = cache.get({"i": i})
            assert found is None or same(found, make_view(i))
            hits += found is not None
            if found is None:
                cache.put({"i": i}, make_view(i))
        return hits

    with ThreadPoolExecutor(8) as threads:
        assert min(threads.map(work, range(8))) > 0
    assert sum(path.stat().st_size for path in entries(tmp_path)) <= 31 * size
    assert not list(tmp_path.glob("*.part"))


def test_a_part_of_a_killed_process_goes_after_an_hour(tmp_path):
    old, new = tmp_path / "x.frames.host.1.part", tmp_path / "x.frames.host.2.part"
    for path in (old, new):
        path.write_bytes(b"part")
    os.utime(old, (time.time() - 4000,) * 2)
    FrameCache(str(tmp_path), 1 << 20).put({}, make_view())
    assert not old.exists() and new.exists()


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    cache, before = FrameCache(str(tmp_path), 1 << 20), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError):
            cache.put({}, make_view())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not entries(tmp_path)


# -- the workers -------------------------------------------------------------------------------------------------------


def pids(clips: Clips) -> list[int]:
    return [worker._child.pid for worker in clips._started]


def gone(pid: int, seconds: float = 5.0) -> bool:
    """No process, not even a zombie, once the init of this machine had time to collect it."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z" and os.getppid() != pid:
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_worker_gives_what_the_decoder_gives(folder):
    with Clips(SETTINGS, workers=2, deadline=60) as clips:
        asked = [question(folder / f"good{i}.mp4") for i in range(4)]
        asked += [question(folder / "good3.mp4", start=1.0, end=3.0), question(folder / "good.png", "image")]
        budget = dict(frames=8, max_pixels=16 * 1024, min_frame_pixels=4 * 1024, max_frame_pixels=4 * 1024)
        views = [future.result() for future in [clips.submit(q) for q in asked]]
        for q, view in zip(asked[:5], views, strict=False):
            assert same(view, sample_clip(q.path, start=q.start, end=q.end, **budget))
        assert same(views[5], read_image(asked[5].path, max_pixels=4 * 1024))
        assert same(clips.view(asked[0]), views[0])
        assert clips.submit(question(None, "text")).result() is None and clips.view(question(None, "text")) is None
        started = pids(clips)
        assert len(started) == 2
        with pytest.raises(ClipError, match=r"none\.mp4: no such file"):
            clips.view(question(folder / "none.mp4"))
        assert pids(clips) == started, "a bad file does not cost a worker"
    assert all(gone(pid) for pid in started)
    with pytest.raises(ChildProcessError):
        os.waitpid(started[0], os.WNOHANG)


@pytest.mark.slow
def test_a_clip_that_never_ends_is_killed_and_a_crash_is_its_own(folder):
    with Clips(SETTINGS, workers=1, deadline=60) as clips:
        assert clips.view(question(folder / "good0.mp4")) is not None
        clips.deadline = 1.5
        [first] = pids(clips)
        endless, after = [clips.submit(question(folder / name)) for name in ("endless.mp4", "good1.mp4")]
        begin = time.monotonic()
        with pytest.raises(ClipError, match=r"endless\.mp4: not decoded within 1\.5 s"):
            endless.result()
        assert 1.4 < time.monotonic() - begin < 4 and gone(first)
        assert after.result() is not None
        clips.deadline = 60
        [second] = pids(clips)
        endless, after = [clips.submit(question(folder / name)) for name in ("endless.mp4", "good2.mp4")]
        time.sleep(0.5)
        os.kill(second, signal.SIGSEGV)
        with pytest.raises(ClipError, match=r"endless\.mp4: its decoder crashed"):
            endless.result()
        assert after.result() is not None and gone(second)
        [third] = pids(clips)
        os.kill(third, signal.SIGKILL)  # between two clips: no fault of the next one
        while not gone(third):
            time.sleep(0.01)
        assert clips.view(question(folder / "good2.mp4")) is not None


@pytest.mark.slow
def test_workers_die_with_a_killed_parent_even_busy(folder):
    code = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from test_clips import *
clips = Clips(SETTINGS, workers=1, deadline=500)
clips.view(question({str(folder / "good0.mp4")!r}))
clips.submit(question({str(folder / "endless.mp4")!r}))
clips.submit(question({str(folder / "good0.mp4")!r}))
time.sleep(0.5)
print(*pids(clips), flush=True)
time.sleep(100)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert workers and all(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.kill()
    parent.wait()
    assert all(gone(pid) for pid in workers)


@pytest.mark.slow
def test_a_worker_imports_nothing_of_the_run():
    code = "import sys, data.clips; print({'vllm', 'transformers', 'train', 'data.dataset'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.slow
def test_prefetched_clips_are_bounded_used_and_forgotten(folder, monkeypatch):
    monkeypatch.setattr(data.clips, "PREFETCH_BYTES", 3 * SETTINGS.view_bytes)
    good = [question(folder / f"good{i}.mp4") for i in range(4)]
    with Clips(SETTINGS, workers=1, deadline=60) as clips:
        clips.prefetch([question(None, "text"), good[0], good[0], *good])
        assert len(clips._ahead) == 3
        ahead = list(clips._ahead.values())
        assert clips.submit(good[0]) is ahead[0] and clips.submit(good[3]) not in ahead
        ahead[0].result()
        clips.deadline = 600
        clips.submit(question(folder / "endless.mp4"))
        clips.prefetch(good[2:])
        assert list(clips._ahead.values())[0] is ahead[2], "still wanted, not begun anew"
        last = clips._ahead[data.clips._name(good[3])]
        clips.prefetch([])
        assert not clips._ahead and last.cancelled()
        assert clips.view(good[1]) is not None, "not behind what hangs"
        waiting = clips.submit(good[0])
    with pytest.raises((CancelledError, ClipError)):
        waiting.result(timeout=20)


def test_a_view_takes_no_more_than_the_bound_says():
    for settings in (ClipSettings(), SETTINGS, ClipSettings(max_pixels=1024), ClipSettings(frames=2)):
        for frames in range(2, settings.frames + 1, 2):
            floor = int(1.05 * settings.min_frame_pixels)
            pixels = max(min(settings.max_frame_pixels, settings.max_pixels / frames * 2), floor)
            assert 3 * int(pixels) * frames <= settings.view_bytes


@pytest.mark.slow
def test_workers_use_the_cache(folder, tmp_path, capfd):
    source, facts = tmp_path / "clip.mp4", None
    source.write_bytes((folder / "good1.mp4").read_bytes())
    facts = source.stat()
    with Clips(SETTINGS, workers=1, deadline=60, cache=(str(tmp_path / "cache"), 1 << 30)) as clips:
        view = clips.view(question(source))
        [entry] = entries(tmp_path / "cache")
        source.write_bytes(bytes(facts.st_size))
        os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert same(clips.view(question(source)), view), "same file, size and time: not decoded again"
        os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
        with pytest.raises(ClipError):  # of another time: another file
            clips.view(question(source))
        os.utime(source, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert f'"version": "{VERSION}"' in entry.read_bytes().split(b"\n")[0].decode()
        for q in (question(source, start=1.0), question(source, end=2.0)):
            with pytest.raises(ClipError):
                clips.view(q)
        entry.write_bytes(entry.read_bytes()[:-9])
        with pytest.raises(ClipError, match="can open"):
            clips.view(question(source))
        source.write_bytes((folder / "good1.mp4").read_bytes())
        assert same(clips.view(question(source)), view) and len(entries(tmp_path / "cache")) == 1
        assert same(clips.view(question(source)), view)
    (tmp_path / "file").touch()
    with Clips(SETTINGS, workers=1, deadline=60, cache=(str(tmp_path / "file"), 1 << 30)) as clips:
        for _ in range(3):
            assert same(clips.view(question(source)), view)
        assert same(clips.view(question(folder / "good1.mp4")), view)
    assert capfd.readouterr().err.count("warning: --cache-dir: ") == 1


# -- the benchmark -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_benchmark_measures_each_way_and_the_waiting_of_a_run(tmp_path):
    path = decode.write_clip(tmp_path / "a.mp4", 128, 96, 2)
    one, both = decode.measure([path], decode.BenchArgs(repeats=1))
    assert (one["clip"], both["clip"]) == ("a.mp4", "all")
    assert one["isolation_ratio"] == one["plain"] / one["workers"] and one["cache_ratio"] > 1
    rows = [{"step": i, "time/draw": 1.0, "time/round": 11.0 + i, "time/eval": 1.0 + i} for i in range(4)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert decode.waiting_share(tmp_path) == pytest.approx(0.1)


# -- a run -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_over_bad_files_ends_names_them_and_trains_on_the_rest(tmp_path):
    from toy.world import write_world

    write_world(tmp_path, train=18, pairs=1)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    clips = [tmp_path / row["path"] for row in rows]
    write_endless(clips[0])
    clips[1].write_bytes(clips[1].read_bytes()[: clips[1].stat().st_size // 2])
    clips[2].write_bytes(b"")
    write_sound(clips[3])
    clips[4].write_text("ffconcat version 1.0\nfile " + clips[8].name)
    Image.fromarray(grey_frames(1)[0]).save(clips[5], format="png")
    clips[6].unlink()
    os.mkfifo(clips[6])
    launch(
        "train.py", "--preset", "toy", "--train-file", tmp_path / "train.jsonl", "--data-root", tmp_path,
        "--run-dir", tmp_path / "run", "--max-steps", 3, "--questions", 10, "--rollouts", 4, "--decode-timeout", 6,
        "--cache-dir", tmp_path / "cache", "--no-export", "--dtype", "float32", "--engine", "hf",
    )  # fmt: skip
    found = [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["step"] > 0]
    assert len(found) == 3 and all(row["data/questions"] == 10 for row in found)
    assert any(row["policy/grad_norm"] > 0 for row in found)
    assert max(row["policy/engine_gap_max"] for row in found) <= 1e-5, "both ranks hold the same plan"
    assert found[-1]["data/quarantined"] == 6  # a pipe is no row to begin with
    reasons = ["not decoded within 6 s", "can open", "can open", "can open", "text, not a video", "", "no such file"]
    listed = (tmp_path / "run" / "bad_rows.txt").read_text().splitlines()
    assert len(listed) == 7
    for path, reason in zip(clips, reasons, strict=False):
        [line] = [line for line in listed if path.name in line]
        assert reason in line
        print(line)
