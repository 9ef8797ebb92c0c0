"""How fast clips are read: worker processes against plain decord, the disk cache against decoding, waiting in a run.

    python -m bench.decode --json decode.json
    python -m bench.decode --run-dir runs/toy          # and the share of its rounds spent waiting for data

Plain decord samples the same frames by one call in this process, on as many threads as there are workers, and
resizes them to the same size. Times are medians over repetitions that take turns, so that a busy machine slows all
alike.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import torch
import tyro

from data import video
from data.clips import Clips, ClipSettings
from episode import Question
from metrics import read_metrics
from pictures import table

MADE = ((640, 360, 8), (640, 360, 30), (854, 480, 16), (1280, 720, 8), (1280, 720, 24))
"""Width, height, seconds of the clips made here: H.264, 30 a second, key frames as x264 sets them."""
REAL = ("flipping_a_pancake.mkv", "videor1_example.mp4")


@dataclass
class BenchArgs:
    """Time the reading of clips."""

    json: Path | None = None
    """Also write the numbers here."""
    repeats: int = 5
    """Times that each way reads every clip."""
    workers: int = 1
    """Decoding processes, and threads of plain decord."""
    clips: Path = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
    """Folder of real clips to add to those made here, where it is there."""
    run_dir: Path | None = None
    """A run of train.py: which share of its rounds did it wait for data?"""


def write_clip(path: Path, width: int, height: int, seconds: int, fps: int = 30) -> Path:
    """A textured picture that drifts behind a moving square."""
    noise = np.random.default_rng(0).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    ground = noise.repeat(4, 0).repeat(4, 1)[: height // 2 * 2, : width // 2 * 2]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.height, stream.width, stream.pix_fmt = *ground.shape[:2], "yuv420p"
        for i in range(seconds * fps):
            frame = np.roll(ground, (i, 2 * i), (0, 1))
            frame[height // 4 : height // 2, (5 * i) % (width // 2) :][:, : width // 4] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def plain_decord(path: str, settings: ClipSettings) -> torch.Tensor:
    """What everybody writes: one call for all frames, then the resize."""
    reader = video.decord.VideoReader(path, num_threads=1)
    indices = video.frame_indices(len(reader), settings.frames)
    frames = torch.from_numpy(reader.get_batch(list(indices)).asnumpy())
    budget = max(
        min(settings.max_frame_pixels, settings.max_pixels / len(indices) * 2), 1.05 * settings.min_frame_pixels
    )
    size = video.frame_size(*frames.shape[1:3], min_pixels=settings.min_frame_pixels, max_pixels=budget)
    return video.resize(frames, *size)


def measure(paths: list[Path], args: BenchArgs) -> list[dict]:
    """One row a clip and one for all: seconds of each way, and the two ratios."""
    settings = ClipSettings()
    torch.set_num_threads(1)  # as in a worker
    questions = [Question(path.name, 1, "", "video", "", (), "", path=str(path)) for path in paths]
    seconds: dict[str, dict[str, list[float]]] = {"plain": {}, "workers": {}, "cache": {}}
    with (
        tempfile.TemporaryDirectory() as folder,
        ThreadPoolExecutor(args.workers) as threads,
        Clips(settings, workers=args.workers, deadline=600) as clips,
        Clips(settings, workers=args.workers, deadline=600, cache=(folder, 1 << 40)) as cached,
    ):
        ways = {
            "plain": lambda question: threads.submit(plain_decord, question.path, settings),
            "workers": clips.submit,
            "cache": cached.submit,
        }
        for way in ways.values():  # workers started, cache filled, files in memory
            for future in [way(question) for question in questions * 2]:
                future.result()
        for _ in range(args.repeats):
            for question in questions:
                for name, way in ways.items():
                    begin = time.perf_counter()
                    for future in [way(question) for _ in range(args.workers)]:
                        future.result()
                    taken = (time.perf_counter() - begin) / args.workers
                    seconds[name].setdefault(question.id, []).append(taken)
    medians = {name: {clip: statistics.median(times) for clip, times in row.items()} for name, row in seconds.items()}
    rows = [{"clip": path.name} | {name: medians[name][path.name] for name in medians} for path in paths]
    rows.append({"clip": "all"} | {name: sum(medians[name].values()) for name in medians})
    for row in rows:
        row["isolation_ratio"] = row["plain"] / row["workers"]
        row["cache_ratio"] = row["workers"] / row["cache"]
    return rows


def waiting_share(run_dir: Path) -> float:
    """time/draw over time/round less time/eval of a run; the first round, which waits for the workers' start, left out.

    Raises ValueError, one line, for a run of fewer than three rounds.
    """
    rounds = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["step"] > 1]
    if len(rounds) < 2:
        raise ValueError(f"{run_dir}: needs a run of at least three rounds, found {len(rounds) + 1}")
    trained = sum(row["time/round"] - row.get("time/eval", 0.0) for row in rounds)
    return sum(row["time/draw"] for row in rounds) / trained


def main(argv: list[str] | None = None) -> None:
    args = tyro.cli(BenchArgs, args=argv)
    try:
        share = None if args.run_dir is None else waiting_share(args.run_dir)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    with tempfile.TemporaryDirectory() as folder:
        made = [write_clip(Path(folder) / f"{width}x{height}_{s}s.mp4", width, height, s) for width, height, s in MADE]
        rows = measure(made + [path for name in REAL if (path := args.clips / name).is_file()], args)
    shown = [
        {name: f"{value:.3f}" if isinstance(value, float) else value for name, value in row.items()} for row in rows
    ]
    print(table(shown, list(rows[0])))
    result = {"workers": args.workers, "repeats": args.repeats, "clips": rows}
    result |= {name: rows[-1][name] for name in ("isolation_ratio", "cache_ratio")}
    if share is not None:
        result["waiting_share"] = share
        print(f"waiting for data: {100 * share:.1f} % of the time of a round")
    if args.json is not None:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
