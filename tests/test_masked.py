"""pytest tests/test_masked.py -- samples of Masked Video Prediction: drawn, written, read back, refused."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from data import masked
from data.dataset import load_questions
from data.looks import looks as looks_of
from data.looks import thumbnail, tower, without_duplicates
from data.puzzles import MakeArgs, puzzles
from data.video import frames_every, read_frames, sample_clip
from episode import View
from tasks import counterfactual_golds
from toy import world
from transforms import HORIZONTAL_FLIP, TEMPORAL_REVERSE
from verifiers import verify

ARGS = MakeArgs(Path("in"), Path("out"))


def turn(*degrees):
    """Looks that lie on a circle."""
    return torch.tensor([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])


def test_near_duplicates_are_left_out_on_the_way_forward():
    """cos 25.8 degrees is .9: each frame is held against the last one kept, not against its neighbour."""
    assert without_duplicates(turn(0, 20, 25, 26, 50, 52, 0), 0.9) == [0, 3, 5, 6]
    assert without_duplicates(turn(0, 0, 0), 0.9) == [0]


def test_samples_are_what_they_say():
    rng = random.Random(0)
    for seed in range(200):
        looks = torch.nn.functional.normalize(torch.randn(40, 64, generator=torch.Generator().manual_seed(seed)), dim=1)
        (puzzle,) = puzzles(looks, ARGS, rng)
        before, candidates, after = puzzle.places[:4], puzzle.places[4:12], puzzle.places[12:]
        hidden = tuple(candidates[number - 1] for number in puzzle.order)
        run = (*before, *hidden, *after)
        kept = without_duplicates(looks, 0.9)
        start = kept.index(run[0])
        assert run == tuple(kept[start : start + 12])  # one window without near-duplicates
        others = [place for place in candidates if place not in hidden]
        assert len(others) == 4 == len(set(others)) and not set(others) & set(run)
        near = kept[max(start + 4 - 8, 0) : start + 8 + 8]
        assert set(others) <= set(near)
        assert max(float(looks[a] @ looks[b]) for a in candidates for b in candidates if a != b) <= 0.9


def test_windows_of_one_clip_differ():
    rng = random.Random(0)
    looks = torch.nn.functional.normalize(torch.randn(60, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    found = puzzles(looks, MakeArgs(Path("in"), Path("out"), per_clip=5), rng)
    assert len({puzzle.places[0] for puzzle in found}) == 5
    shuffled = {puzzle.order for puzzle in found}
    assert len(shuffled) > 1


@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        (turn(*range(0, 330, 30)), "is too short to mask"),
        (turn(*range(0, 360, 30)), "has no window with enough distinct distractors nearby"),
        (turn(*[30 * (i % 3) for i in range(60)]), "has no window with enough distinct distractors nearby"),
    ],
)
def test_clips_without_a_sample(looks, reason):
    """Eleven frames; twelve, and none left for distractors; sixty, of which every third is the same again."""
    with pytest.raises(masked.Refused) as refusal:
        puzzles(looks, ARGS, random.Random(0))
    assert refusal.value.args[1] == reason


def test_thumbnails():
    grey, white = torch.full((3, 64, 96), 90, dtype=torch.uint8), torch.full((3, 64, 96), 255, dtype=torch.uint8)
    assert thumbnail(grey) @ thumbnail(white) == pytest.approx(1)  # nothing in either
    ramp = torch.linspace(0, 255, 96).to(torch.uint8).expand(3, 64, 96)
    assert thumbnail(ramp) @ thumbnail(ramp.flip(-1)) == pytest.approx(-1, abs=1e-3)
    assert thumbnail(ramp) @ thumbnail(ramp // 2) == pytest.approx(1, abs=1e-3)  # half as bright
    assert abs(thumbnail(ramp) @ thumbnail(grey)) < 0.01


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A clip of 40 distinct pictures at 4 a second, one too short, one that is none."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    frames = cells.repeat(16, 1).repeat(16, 2)
    world.write_clip(folder / "sub" / "long.mp4", frames)
    world.write_clip(folder / "short.mp4", frames[:8])
    (folder / "text.mp4").write_text("no video")
    return folder


def run(videos, output, *flags):
    return masked.main(["make", "--videos", str(videos), "--output", str(output), "--seconds", "0.25", *flags])


@pytest.fixture(scope="module")
def made(videos, tmp_path_factory):
    output = tmp_path_factory.mktemp("made")
    assert run(videos, output, "--per-clip", "2") == 0
    return output


def test_the_command(videos, made, capsys):
    questions, bad = load_questions(made / "rows.jsonl", made)
    assert not bad and len(questions) == 2 and {q.problem_type for q in questions} == {"order"}
    refused = (made / "refused.txt").read_text().splitlines()
    assert len(refused) == 2 and "is too short to mask (8 distinct frames, 12 are needed)" in refused[0]
    assert "cannot be read" in refused[1] and "text.mp4" in refused[1]
    assert (made / "sheet" / "index.html").exists() and (made / "sheet" / "0002.png").exists()
    assert masked.main(["check", "--videos", str(videos), "--output", str(made)]) == 0
    assert "2 of 2 samples are sound" in capsys.readouterr().out


def test_targets_can_be_recovered_from_the_file(videos, made):
    """By eye, so to say: each candidate of the written clip is the source frame it is said to be, in gold order too."""
    source = torch.stack(list(read_frames(videos / "sub" / "long.mp4", range(40), max_pixels=64 * 64))).float()
    for question in load_questions(made / "rows.jsonl", made)[0]:
        shown = sample_clip(question.path, frames=32, max_pixels=16 * 64 * 64, min_frame_pixels=32 * 32).frames
        shown = shown[::2].float()
        places = [int((source - picture).abs().mean((1, 2, 3)).argmin()) for picture in shown]
        gold = json.loads(question.gold)["order"]
        run = places[:4] + [places[3 + number] for number in gold] + places[12:]
        assert run == list(range(run[0], run[0] + 12))
        assert len(set(places)) == 16
        text = f"<think>So.</think><answer>{', '.join(map(str, gold))}</answer>"
        assert verify(text, question).score == 1 and verify(text, question).terms["exact"] == 1


def test_the_reversed_clip_is_the_sample_of_the_reversed_video(videos, made):
    """The map of the gold order, on pixels: turned around, the same words hold, and the mapped numbers are right."""
    source = torch.stack(list(read_frames(videos / "sub" / "long.mp4", range(40), max_pixels=64 * 64))).float()
    for question in load_questions(made / "rows.jsonl", made)[0]:
        golds = counterfactual_golds(question)
        assert set(golds) == {HORIZONTAL_FLIP, TEMPORAL_REVERSE} and golds[HORIZONTAL_FLIP] == question.gold
        view: View = sample_clip(question.path, frames=32, max_pixels=16 * 64 * 64, min_frame_pixels=32 * 32)
        shown = view.frames.flip(0)[::2].float()
        places = [int((source - picture).abs().mean((1, 2, 3)).argmin()) for picture in shown]
        gold = json.loads(golds[TEMPORAL_REVERSE])["order"]
        run = places[:4] + [places[3 + number] for number in gold] + places[12:]
        assert run == list(range(run[0], run[0] - 12, -1))


def test_a_stopped_run_goes_on(videos, made, tmp_path):
    """With the first clip done and a torn line behind it, the files are those of an unbroken run."""
    lines = (made / "progress.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "progress.jsonl").write_text(lines[0] + lines[1][:10])
    assert run(videos, tmp_path, "--per-clip", "2") == 0
    for name in ("rows.jsonl", "progress.jsonl", "refused.txt"):
        assert (tmp_path / name).read_text() == (made / name).read_text()
    for row in map(json.loads, (made / "rows.jsonl").read_text().splitlines()):
        assert (tmp_path / row["path"]).read_bytes() == (made / row["path"]).read_bytes()


def test_other_settings_do_not_mix(videos, made, capsys):
    assert run(videos, made, "--per-clip", "2", "--kappa", "0.8") == 2
    assert "kappa was 0.9, is 0.8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--window", "11"), "--window 11 must exceed --hidden 4"),
        (("--hidden", "1", "--window", "3"), "--hidden 1"),
        (("--distractors", "0"), "--distractors 0"),
        (("--seconds", "0"), "--seconds 0"),
    ],
)
def test_settings_that_leave_no_sample(videos, tmp_path, capsys, flags, words):
    assert run(videos, tmp_path, *flags) == 2
    assert words in capsys.readouterr().err


def test_check_finds_what_is_wrong(videos, made, tmp_path, capsys):
    rows = [json.loads(line) for line in (made / "rows.jsonl").read_text().splitlines()]
    (tmp_path / "settings.json").write_text((made / "settings.json").read_text())
    (tmp_path / "clips").symlink_to(made / "clips")
    swapped = rows[0]["solution"] | {"order": rows[0]["solution"]["order"][::-1]}
    other = [*rows[1]["frames"][:4], *rows[0]["frames"][4:]]
    spoilt = [
        rows[0] | {"solution": swapped},
        rows[0] | {"frames": other},
        rows[0] | {"path": rows[1]["path"]},
        rows[1],
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in spoilt))
    assert masked.main(["check", "--videos", str(videos), "--output", str(tmp_path)]) == 2
    said = capsys.readouterr().out
    assert "must ascend" in said and "grey levels off its source frame" in said and "1 of 4 samples are sound" in said


def test_frames_at_a_fixed_rate(videos):
    assert frames_every(videos / "sub" / "long.mp4", 1.0) == tuple(range(0, 40, 4))
    assert frames_every(videos / "sub" / "long.mp4", 0.1) == tuple(range(40))  # each once
    assert frames_every(videos / "sub" / "long.mp4", 100) == (0,)


@pytest.mark.slow
def test_looks_of_a_vision_tower(videos, tiny_folder):
    look = tower(tiny_folder)
    vectors = looks_of(videos / "short.mp4", range(4), look)
    assert vectors.norm(dim=1) == pytest.approx(torch.ones(4)) and len(without_duplicates(vectors, 0.9999)) == 4


@pytest.mark.slow
def test_real_clips(shared_folder, tmp_path, capsys):
    """One of six holds enough; the damaged and the short ones are named."""
    videos = shared_folder / "data" / "videos"
    assert run(videos, tmp_path, "--kappa", "0.95", "--per-clip", "3") == 0
    assert masked.main(["check", "--videos", str(videos), "--output", str(tmp_path)]) == 0
    assert "samples are sound" in capsys.readouterr().out
    refused = (tmp_path / "refused.txt").read_text()
    assert "corrupted.mp4" in refused and "damaged" in refused and "video_0.mov" in refused
