"""The DyBench builder: words, readers, pairs that decode to what they should be, the review, the statistics.

pytest tests/test_dybench.py
"""

from __future__ import annotations

import csv
import json
import random
from fractions import Fraction

import av
import decord
import numpy as np
import pytest
from PIL import Image

from data import planes as data_planes
from data.corpora import Refused
from data.dataset import load_questions
from data.parts import file_sha256
from data.planes import Frames
from data.video import sample_clip
from episode import Question
from eval import dybench, dybench_sheet, dybench_sources, dybench_words
from eval.answer import check_pairs
from eval.benchmarks import load
from eval.dybench_pairs import Limits, plan
from eval.dybench_stats import statistics_of

# ---------------------------------------------------------------------------------------------------------------------
# Words


@pytest.mark.parametrize("subject", dybench_words.ACTIONS)
def test_the_vocabulary_is_the_papers(subject):
    pairs = dybench_words.ACTIONS[subject]
    assert len(pairs) == {"human": 29, "animal": 12, "plant": 2}[subject]  # App. A.2: 26 + 3 (four ways down), 12, 2
    assert all(one != other for one, other in pairs)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Picking a pen up", "putting a pen down"),
        ("picking up the cup", "putting down the cup"),
        ("Opening a door.", "closing a door"),
        ("turning the lamp on", "turning the lamp off"),
        ("putting on a hat", "taking off a hat"),
        ("closing the eyes", "opening the eyes"),
        ("Pushing a box from left to right", None),  # the mirror image of pulling is not what rewind shows
        ("Pretending to open a door", None),
        ("Lifting a cup, then letting it drop", None),
        ("standing up", None),  # from sitting, lying, kneeling or squatting
        ("Poking a stack of cups", None),
        ("turning the lamp onto its side", None),  # neither "on" nor a longer verb is an action of the vocabulary
        ("reopening the door", None),
        ("picking the cup from the upholstery", None),
    ],
)
def test_an_action_described_is_reversed_or_left_alone(text, expected):
    assert dybench_words.reversed_text(text) == expected


def test_reversing_twice_is_nothing():
    for one, other in dybench_words.ACTIONS["human"][:20]:
        assert dybench_words.reversed_text(f"{one} the thing") == f"{other} the thing"
        assert dybench_words.reversed_text(f"{other} the thing") == f"{one} the thing"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("left", "left"),
        ("Up and to the left.", "up and to the left"),
        ("lower-right", "down and to the right"),
        ("moving from left to right", "right"),
        ("from right to left", "left"),
        ("gliding towards the camera", "towards the camera"),
        ("away from the camera", "away from the camera"),
        ("The object is stationary.", None),
        ("parallel to the screen", None),
        ("moving the cup left", "left"),
        ("the cup moves right, down the slope", "down and to the right"),
        ("top left", "up and to the left"),
        ("moving leftwards and upward", "up and to the left"),
        ("upright", None),
        ("up and down, to the left", None),
        ("from left to right and down", None),
        ("from the right", None),
        ("away to the left", None),
        ("towards the top", None),
    ],
)
def test_directions_are_read(text, expected):
    assert dybench_words.parse_direction(text) == expected


@pytest.mark.parametrize("name", dybench_words.DIRECTIONS)
def test_mirror_and_rewind_are_involutions_and_commute(name):
    flip, rewind, both = (
        lambda n, f=f, r=r: dybench_words.transformed_direction(n, flip=f, reverse=r)
        for f, r in ((True, False), (False, True), (True, True))
    )
    assert flip(flip(name)) == rewind(rewind(name)) == name
    assert both(name) == flip(rewind(name)) == rewind(flip(name))
    assert set(dybench_words.direction_options(name, both(name))) >= {name, both(name)}


# ---------------------------------------------------------------------------------------------------------------------
# Planning


@pytest.fixture
def videos(tmp_path):
    """A folder with an empty file: planning reads no frame."""
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "x.mp4").touch()
    return folder


def planned(videos, **row):
    return plan({"path": "x.mp4"} | row, 1, videos, Limits())


def test_reversible_options_are_forward_reversed_and_a_distractor_of_another_verb(videos):
    made = planned(videos, subtask="reversible_dynamics", action="opening", object="the door")
    assert made.answers == ("opening the door", "closing the door") and len(made.options) == 3
    (distractor,) = set(made.options) - set(made.answers)
    assert distractor.split()[0] not in ("opening", "closing") and distractor.endswith("the door")
    assert made.problem == "Which of the following best describes the action in the video?"


@pytest.mark.parametrize(
    "direction, transforms, options",
    [("left", {"flip"}, 4), ("up", {"flip_reverse"}, 4), ("upper right", {"flip", "flip_reverse"}, 8)],
)
def test_a_direction_gets_a_transform_that_changes_it(videos, direction, transforms, options):
    made = [
        planned(videos, subtask="moving_direction", object="the car", direction=direction, id=str(i)) for i in range(30)
    ]
    assert {one.transform for one in made} == transforms
    assert all(one.answers[0] != one.answers[1] and len(one.options) == options for one in made)
    assert made[0].problem == "In what direction is the car moving?"


def test_option_order_is_drawn_per_pair_and_both_answers_come_first_equally_often(videos):
    row = {"subtask": "event_sequence", "events": ["a dive", "a swim"]}
    firsts = [planned(videos, id=str(i), **row).options[0] for i in range(400)]
    assert 150 < firsts.count("a dive, then a swim") < 250


def moving(**row):
    return {"subtask": "moving_direction", "path": "one.mp4", "object": "the car", "direction": "left"} | row


def segments(*spans):
    return [{"start": start, "end": end, "event": f"event {i}"} for i, (start, end) in enumerate(spans)]


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"subtask": "colour"}, "must be one of"),
        (moving(path="x.mp4", id="\ud800"), "lone surrogate"),
        (moving(path="x.mp4", data_source="\udc80"), "lone surrogate"),
        ({"subtask": "event_sequence", "events": ["one", "two \udfff"]}, "lone surrogate"),
        (moving(path="x.mp4", direction="sideways"), "must be one of left"),
        (moving(path="x.mp4", transform="flip_reverse"), "leave the answer"),
        (moving(path="x.mp4", object=""), "missing, empty"),
        (moving(path="no.mp4"), "no such file"),
        (moving(path="../x.mp4"), "leaves the data root"),
        (moving(path="x.mp4", start=5, end=2), "before end"),
        (moving(path="x.mp4", start=float("nan")), "must be seconds"),
        (moving(path="x.mp4", start=0, end=31), "longer than 30 s"),
        ({"subtask": "reversible_dynamics", "action": "frowning"}, "not in the vocabulary"),
        ({"subtask": "reversible_dynamics", "forward": "a bud opens"}, "the vocabulary cannot tell"),
        ({"subtask": "reversible_dynamics", "forward": "a", "reversed": "b", "distractor": "A"}, "must differ"),
        ({"subtask": "event_sequence", "events": ["one"]}, "must be two texts"),
        ({"subtask": "event_sequence", "events": ["One", "one"]}, "one name"),
        ({"subtask": "event_sequence", "segments": segments((0, 4), (4.2, 8))}, "adjacent"),
        ({"subtask": "event_sequence", "segments": segments((0, 4), (3, 8))}, "overlap"),
        ({"subtask": "event_sequence", "segments": segments((0, 40), (50, 60))}, "longer than 30 s"),
        ({"subtask": "event_sequence", "segments": segments((0, 4))}, "two or more"),
        ({"subtask": "event_sequence", "segments": [{"start": 0, "event": "x"}] * 2}, "needs start and end"),
    ],
)  # fmt: skip
def test_a_row_that_makes_no_pair_is_refused_with_the_reason(videos, row, reason):
    with pytest.raises(Refused) as caught:
        planned(videos, **row)
    assert reason in f"{caught.value.args[1]} {caught.value.args[2]}"


def test_two_segments_are_drawn_from_those_that_are_not_adjacent(videos):
    row = {"subtask": "event_sequence", "segments": segments((0, 4), (4, 8), (8, 50), (50, 55))}
    drawn = {planned(videos, id=str(i), **row).spans for i in range(60)}
    assert drawn == {((0, 4), (50, 55)), ((4, 8), (50, 55))}  # (0, 4) and (8, 50) are apart, but 42 s are too long


# ---------------------------------------------------------------------------------------------------------------------
# Clips


def noise_shots(*lengths: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 (F, 3 size / 2, size): smooth shots, each another picture that drifts by one pixel a frame."""
    rng, shots = np.random.default_rng(seed), []
    for length in lengths:
        blocks = np.kron(rng.integers(40, 200, (size * 3 // 16, size // 8)), np.ones((8, 8))).astype(np.uint8)
        shots += [np.roll(blocks, t, axis=1) for t in range(length)]
    return np.stack(shots)


def grey(planes: np.ndarray) -> np.ndarray:
    """What another reader of yuv420p (FFmpeg's scaler) takes for the luma of one frame."""
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv420p").to_ndarray(format="gray")


def test_flip_and_reversal_act_on_each_plane():
    planes = np.random.default_rng(0).integers(0, 255, (3, 24, 16), dtype=np.uint8)
    clip = Frames(planes, Fraction(10))
    flipped = data_planes.flip(clip)
    assert (grey(flipped.planes[0]) == grey(planes[0])[:, ::-1]).all()
    u = planes[0][16:20].reshape(8, 8)
    assert (flipped.planes[0][16:20].reshape(8, 8) == u[:, ::-1]).all()
    assert (data_planes.flip(flipped).planes == planes).all()
    assert (data_planes.reverse(clip).planes[0] == planes[2]).all()


def test_psnr_is_the_textbooks():
    one = Frames(np.zeros((2, 24, 16), np.uint8), Fraction(1))
    other = Frames(one.planes + np.array([0, 5], np.uint8)[:, None, None], Fraction(1))
    assert data_planes.psnr(one, other) == pytest.approx([99.0, 20 * np.log10(255 / 5)])


@pytest.mark.parametrize("lengths, expected", [((30,), []), ((20, 25), [20]), ((12, 12, 12), [12, 24])])
def test_splices_are_found_where_shots_meet(lengths, expected):
    clip = Frames(noise_shots(*lengths), Fraction(10))
    assert data_planes.find_splices(data_planes.appearance(clip)) == expected


@pytest.mark.slow
def test_splices_of_real_clips(shared_folder):
    """Those that a person sees; shots of one place from two sides, falling pins and a tossed pancake among them."""
    seen = {"videor1_example.mp4": [67, 167, 226, 287, 320, 426], "flipping_a_pancake.mkv": []}
    for name, expected in seen.items():
        (clip,) = data_planes.read_spans(shared_folder / "data/videos" / name, longest_side=160)
        assert data_planes.find_splices(data_planes.appearance(clip)) == expected


def test_two_encodings_agree_byte_for_byte_and_hold_nothing_but_video(tmp_path):
    clip = Frames(noise_shots(14), Fraction(30000, 1001))
    for name in "ab":
        data_planes.encode(tmp_path / f"{name}.mp4", clip)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    facts = data_planes.settings(tmp_path / "a.mp4")
    assert (facts["frames"], facts["streams"], facts["keys"], facts["pixels"]) == (14, 1, [0, 12], "yuv420p")
    assert facts["rate"] == "30000/1001"
    # A third party: the evaluation's own decoder counts the same frames at the same rate.
    view = sample_clip(tmp_path / "a.mp4", frames=14)
    assert view.source_frames == 14 and view.fps == pytest.approx(30000 / 1001)


# ---------------------------------------------------------------------------------------------------------------------
# Readers of public annotations


def test_breakfast(tmp_path):
    file = tmp_path / "P03_stereo01_P03_cereals.txt"
    text = "1-30 SIL  \n31-150 take_bowl  \n151-428 pour_cereals  \n429-575 pour_milk\n"
    row = dybench_sources.breakfast(text, file)
    assert row["path"] == "P03/stereo/P03_cereals_ch1.avi"
    assert row["segments"][0] == {"start": 2.0, "end": 10.0, "event": "take bowl"} and len(row["segments"]) == 3
    with pytest.raises(Refused, match="must be lines"):
        dybench_sources.breakfast("1 30 SIL", file)


def test_50salads_reads_the_recordings_clock(tmp_path):
    file = tmp_path / "01-1-activityAnnotation.txt"
    with pytest.raises(Refused, match="clock"):
        dybench_sources.salads("", file)
    (tmp_path / "timestamps-01-1.txt").write_text("".join(f"{1000 + 3 * i} x\n" for i in range(300)))
    text = (
        "1000 1090 cut_and_mix_ingredients\n1090 1180 cut_tomato_core\n1180 1210 cut_tomato_post\n1300 1600 mix_core\n"
    )
    row = dybench_sources.salads(text, file)
    assert row["path"] == "rgb-01-1.avi"
    assert row["segments"] == [
        {"start": 1.0, "end": 2.0, "event": "cut tomato"},
        {"start": pytest.approx(100 / 30, abs=1e-3), "end": pytest.approx(200 / 30, abs=1e-3), "event": "mix"},
    ]


def test_a_row_whose_text_no_file_can_hold_is_refused_and_the_others_are_read(tmp_path):
    rows = [{"id": i, "label": f"Opening a {thing}"} for i, thing in ((1, "d\ud800"), (2, "door"))]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    flags = ["--input", str(tmp_path / "train.json"), "--output", str(tmp_path / "rows.jsonl")]
    assert dybench.main(["read", "something_something", *flags]) == 0
    assert [json.loads(line)["path"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == ["2.webm"]
    assert "train.json:1 row: holds half a character" in (tmp_path / "rows.jsonl.refused.txt").read_text()


def test_something_something_and_mhbench():
    row = {"id": 42, "label": "picking a pen up", "template": "Picking [something] up", "placeholders": ["a pen"]}
    made = dybench_sources.something_something(row, None)
    assert made["path"] == "42.webm" and made["reversed"] == "putting a pen down"
    options = {"A": "Closing a door.", "B": "Opening a door.", "C": "Painting a door."}
    made = dybench_sources.mhbench({"video_id": "v1", "options": options, "answer": "B"}, None)
    found = [made[name] for name in ("forward", "reversed", "distractor")]
    assert found == ["opening a door", "closing a door", "painting a door"]
    with pytest.raises(Refused, match="do not hold the reverse"):
        dybench_sources.mhbench({"video_id": "v1", "options": options | {"A": "Knocking"}, "answer": "B"}, None)


def test_vidhalluc_orders_the_events_by_the_answer():
    question = "Below are two actions in the video:\nAction A. Swim across the pool.\nAction B. Dive into the water.\n"
    made = dybench_sources.vidhalluc(("0", {"video": "v", "Question": question, "Correct Answer": "BA"}), None)
    assert made["events"] == ["dive into the water", "swim across the pool"] and made["path"] == "v.mp4"
    with pytest.raises(Refused, match="must name actions"):
        dybench_sources.vidhalluc(("0", {"video": "v", "Question": question, "Correct Answer": "A"}), None)


@pytest.mark.parametrize(
    "end, expected",
    [((0.9, 0.5), "right"), ((0.5, 0.1), "up"), ((0.2, 0.8), "down and to the left"), ((0.52, 0.5), None)],
)
def test_a_track_has_the_nearest_of_eight_directions(end, expected):
    points = [(0.5 + (end[0] - 0.5) * t / 9, 0.5 + (end[1] - 0.5) * t / 9) for t in range(10)]
    if expected is None:
        with pytest.raises(Refused, match="moves less"):
            dybench_sources.track_direction(points)
    else:
        assert dybench_sources.track_direction(points) == expected
        with pytest.raises(Refused, match="turns back|less than"):
            dybench_sources.track_direction(points + points[::-1][:8])


def test_got10k_and_clevrer_as_released(tmp_path):
    file = tmp_path / "GOT-10k_Val_000001" / "groundtruth.txt"
    file.parent.mkdir()
    file.with_name("meta_info.ini").write_text("[METAINFO]\nobject_class: sloth\nresolution: (1000, 500)\n")
    made = dybench_sources.got10k("".join(f"{700 - 50 * i},200.0,100,50\n" for i in range(12)), file)
    assert (made["path"], made["object"], made["direction"]) == ("GOT-10k_Val_000001", "the sloth", "left")
    things = [{"object_id": i, "color": "red", "material": "metal", "shape": "cube"} for i in range(2)]
    seen = {"inside_camera_view": True}
    track = [
        {"objects": [seen | {"object_id": i, "location": [0.656 * t * i, 0.754 * t * i, 0.2]} for i in range(2)]}
        for t in range(6)
    ]
    row = {"object_property": things, "motion_trajectory": track, "video_filename": "video_00001.mp4"}
    assert dybench_sources.clevrer(row, None) == {
        "subtask": "moving_direction", "path": "video_00001.mp4", "object": "the red metal cube", "direction": "right"
    }  # fmt: skip


@pytest.mark.parametrize(
    "source, file, least",
    [
        ("got10k", "got10k.json", 3),
        ("tempcompass", "tempcompass_multi-choice.json", 5),
        ("clevrer", "video_r1_format_mvbench.json", 2),
    ],
)
def test_samples_of_the_releases_are_read(shared_folder, tmp_path, source, file, least):
    path, output = shared_folder / "data/annotations" / file, tmp_path / "rows.jsonl"
    assert dybench.main(["read", source, "--input", str(path), "--output", str(output), "--prefix", "there"]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    refused = (tmp_path / "rows.jsonl.refused.txt").read_text().splitlines()
    assert len(rows) >= least and len(rows) + len(refused) == len(json.loads(path.read_text()))
    assert all(row["path"].startswith("there/") and row["subtask"] in dybench_words.SUBTASKS for row in rows)


# ---------------------------------------------------------------------------------------------------------------------
# The command


def write_shots(path, planes, rate=10):
    """A lossless clip of planes in yuv420p."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"qp": "0", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = planes.shape[2], planes.shape[1] * 2 // 3, "yuv420p"
        for frame in planes:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="yuv420p")))
        container.mux(stream.encode())


DOOR = {"subtask": "reversible_dynamics", "path": "one.mp4", "action": "opening", "object": "the door"}
ROWS = [
    DOOR | {"start": 1, "end": 2.5},
    moving(direction="right", data_source="GOT-10k"),
    moving(direction="up", data_source="GOT-10k"),
    {"subtask": "event_sequence", "path": "two.mp4", "segments": segments((0, 1), (2.5, 4))},
    {"subtask": "event_sequence", "path": "two.mp4", "events": ["one", "other"]},
    {"subtask": "event_sequence", "path": "one.mp4", "events": ["one", "other"]},
    {"subtask": "event_sequence", "path": "two.mp4", "segments": segments((0, 1), (3, 9))},
    moving(start=0, end=0.5),
    moving(path="text.mp4"),
    moving(path="sizes.h264"),
    moving(object="the car \ud800"),
    moving(path="thin.mp4"),
    moving(start=0.31, end=0.35),
    moving(path="pictures"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Videos and the annotations of ROWS."""
    folder = tmp_path_factory.mktemp("dybench")
    (folder / "videos").mkdir()
    write_shots(folder / "videos/one.mp4", noise_shots(40))
    write_shots(folder / "videos/two.mp4", noise_shots(18, 22))
    (folder / "videos/text.mp4").write_text("ffconcat version 1.0\nfile one.mp4\n")
    write_shots(folder / "videos/thin.mp4", noise_shots(12, size=16)[:, :6])
    for size in (64, 96):  # streams of raw H.264 stand one behind the other without more ado
        write_shots(folder / "videos/part.h264", noise_shots(12, size=size))
        with open(folder / "videos/sizes.h264", "ab") as file:
            file.write((folder / "videos/part.h264").read_bytes())
    (folder / "videos/pictures").mkdir()
    for i in range(12):
        Image.new("RGB", (40, 30 + 2 * (i == 11))).save(folder / f"videos/pictures/{i:02d}.png")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return folder


def run_build(world, name, **flags):
    flags = {"annotations": world / "rows.jsonl", "videos": world / "videos", "output": world / name} | flags
    return dybench.main(["build", *(text for flag, value in flags.items() for text in (f"--{flag}", str(value)))])


@pytest.fixture(scope="module")
def built(world):
    assert run_build(world, "built") == 0
    return world / "built"


def decoded(path) -> np.ndarray:
    """uint8 (F, H, W, 3), by the decoder that evaluation uses."""
    return decord.VideoReader(str(path))[:].asnumpy()


def decibels(one, other) -> float:
    return 20 * np.log10(255 / np.sqrt(np.square(one.astype(float) - other).mean((1, 2, 3)).max()))


def test_build_makes_the_pairs_and_names_every_other_row(built):
    refused = (built / "refused.txt").read_text().splitlines()
    reasons = ["no splice", "past the end", "too short", "is a playlist", "change size; encode", "lone surrogate"]
    reasons += ["decoder refuses the clip made of it", "a segment holds no frame", "40x30, then 40x32"]
    for number, line, reason in zip(range(6, 15), refused, reasons, strict=True):
        assert f"rows.jsonl:{number} " in line and reason in line
    assert not list((built / "clips").glob("*_00012_?.mp4"))  # whose size the decoder of evaluation does not read
    questions, bad = load_questions(built / "pairs.jsonl", built, null_option="off")
    assert not bad and len(questions) == 10
    check_pairs("pairs.jsonl", questions)
    for a, b in zip(questions[::2], questions[1::2], strict=True):
        assert (a.problem, a.options) == (b.problem, b.options) and a.gold != b.gold
        assert (a.id, b.id) == (f"{a.pair_id}/a", f"{a.pair_id}/b")


def test_the_files_are_the_source_reversed_flipped_and_reordered(built, world):
    one, two = decoded(world / "videos/one.mp4"), decoded(world / "videos/two.mp4")
    expected = {
        "reversible_dynamics_00001": (one[10:25], one[10:25][::-1]),
        "moving_direction_00002": (one, one[:, :, ::-1]),
        "moving_direction_00003": (one, one[::-1, :, ::-1]),
        "event_sequence_00004": (
            np.concatenate([two[:10], two[25:40]]),
            np.concatenate([two[25:40], two[:10]]),
        ),
        "event_sequence_00005": (two, np.concatenate([two[18:], two[:18]])),
    }
    for name, clips in expected.items():
        for side, clip in zip("ab", clips, strict=True):
            found = decoded(built / f"clips/{name}_{side}.mp4")
            assert found.shape == clip.shape
            assert decibels(found, clip) > 33, f"{name}_{side}"  # RGB of this decoder, worst frame
            # The test can fail: one frame later is another picture.
            assert decibels(found[:-1], clip[1:]) < 25


def test_both_sides_are_encoded_alike_and_what_was_measured_says_so(built):
    for facts in map(json.loads, (built / "manifest.jsonl").read_text().splitlines()):
        assert min(facts["psnr_a"], facts["psnr_b"]) > 40 and facts["psnr_undone"] > 38
        assert facts["psnr_sides"] < 25
    for path in sorted((built / "clips").glob("*_a.mp4")):
        other = path.with_name(path.name.replace("_a", "_b"))
        assert data_planes.settings(path) == data_planes.settings(other)
        options = [file.read_bytes().split(b"options: ")[1].split(b"\0")[0] for file in (path, other)]
        assert options[0] == options[1] and b"threads=1 " in options[0] and b"rc=cqp" in options[0]


def test_two_builds_agree_byte_for_byte(built, world):
    assert run_build(world, "again", workers=2) == 0
    for path in sorted(built.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (world / "again" / path.relative_to(built)).read_bytes(), path.name


def test_mistakes_end_in_one_line(built, world, capsys, tmp_path):
    assert run_build(world, "built") == 2
    assert "is not empty" in capsys.readouterr().err
    assert run_build(world, "none", videos=tmp_path / "no") == 2
    assert "must be a folder" in capsys.readouterr().err
    (tmp_path / "rows.jsonl").write_text(json.dumps({"subtask": "moving_direction"}) + "\n")
    assert run_build(world, "none", annotations=tmp_path / "rows.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "no pair could be made" in error and error.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# Review and statistics


def fill(sheet, verdicts):
    """Write (yes, yes, no)-like verdicts into the rows of a sheet, in order."""
    with open(sheet, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, words in zip(rows, verdicts, strict=True):
        row |= dict(zip(("static_content", "temporal_minimality", "unambiguous_answer"), words, strict=True))
    with open(sheet, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")  # as a spreadsheet here writes it
        writer.writeheader()
        writer.writerows(rows)
    return rows


@pytest.mark.slow
def test_review_from_the_sheet_to_the_accepted_rows(built, tmp_path, capsys):
    where = ["--rows", str(built / "pairs.jsonl"), "--data-root", str(built)]
    review, output = tmp_path / "review", tmp_path / "accepted.jsonl"
    assert dybench.main(["sheet", *where, "--output", str(review), "--workers", "1"]) == 0
    apply = ["apply", *where, "--sheet", str(review / "sheet.csv"), "--output", str(output)]
    assert dybench.main(apply) == 2 and "no pair is accepted" in capsys.readouterr().err
    yes = ("yes", "Yes", "y")
    rows = fill(review / "sheet.csv", [yes, ("yes", "no", "yes"), ("yes", "", "yes"), yes, ("no", "no", "")])
    assert len(list((review / "strips").glob("*.png"))) == 10 and rows[0]["answer_a"].endswith("opening the door")
    assert "dB" in rows[0]["measured_static_content"] and "fps" in rows[0]["measured_temporal_minimality"]
    assert (review / "index.html").read_text().count("<img") == 10
    assert dybench.main(apply) == 0
    kept = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["pair_id"] for row in kept[::2]] == ["reversible_dynamics/00001", "event_sequence/00004"]
    assert all(row["accepted"] is True for row in kept)
    refused = (tmp_path / "accepted.jsonl.rejected.txt").read_text()
    assert "moving_direction/00002: rejected temporal_minimality" in refused and "00003: open" in refused
    questions, _ = load_questions(output, built, null_option="off")
    check_pairs("accepted.jsonl", questions)
    assert dybench.main([*apply, "--keep-open"]) == 0
    assert len(output.read_text().splitlines()) == 6
    (review / "sheet.csv").write_text((review / "sheet.csv").read_text().replace("Yes", "perhaps", 1))
    assert dybench.main(apply) == 2 and "row 1: temporal_minimality must be yes, no" in capsys.readouterr().err


def test_rejected_pairs_are_kept_marked_and_not_scored(built, tmp_path, capsys):
    questions, _ = load_questions(built / "pairs.jsonl", built, null_option="off")
    pairs = list(dybench_sheet.pairs_of(questions).values())
    verdicts = ["yes,yes,yes", "yes,no,yes", "yes,,yes", "yes,yes,yes", "no,yes,yes"]
    keys = [dybench_sheet.pair_key(pair, [file_sha256(q.path) for q in pair]) for pair in pairs]
    lines = [f"{key},{verdict}" for key, verdict in zip(keys, verdicts, strict=True)]
    sheet, output = tmp_path / "sheet.csv", tmp_path / "judged.jsonl"
    sheet.write_text("\n".join(["key,static_content,temporal_minimality,unambiguous_answer", *lines]) + "\n")
    apply = ["apply", "--rows", str(built / "pairs.jsonl"), "--data-root", str(built), "--sheet", str(sheet)]
    assert dybench.main([*apply, "--output", str(output), "--keep-rejected"]) == 0
    assert "2 of 5 pairs" in capsys.readouterr().out
    marks = [json.loads(line)["accepted"] for line in output.read_text().splitlines()]
    assert marks == [True, True, False, False, True, True, False, False]
    items, bad = load("dybench", output, built)
    assert not bad and {item.question.pair_id for item in items} == {pairs[0][0].pair_id, pairs[3][0].pair_id}
    assert dybench.main(["stats", "--rows", str(output), "--output", str(tmp_path / "stats.json")]) == 0
    assert json.loads((tmp_path / "stats.json").read_text())["subtasks"]["overall"]["pairs"] == 2
    # All rows, judged again from that file: a mark that the sheet no longer gives goes.
    again = [*apply, "--output", str(tmp_path / "all.jsonl"), "--keep-rejected", "--keep-open"]
    again[2] = str(output)
    sheet.write_text(sheet.read_text().replace("yes,no,yes", "yes,,yes"))
    assert dybench.main(again) == 0
    marks = [json.loads(line).get("accepted") for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert marks[::2] == [True, None, True, False]
    sheet.write_text(sheet.read_text().replace("yes,yes,yes", "no,,"))
    assert dybench.main([*apply, "--output", str(output), "--keep-rejected"]) == 2
    assert "no pair is accepted" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, reason",
    [
        ("key,static_content\np1,yes\n", "row 1: needs the columns key, static_content, temporal_minimality"),
        ("p1,yes,yes,yes\np1,no,,\n", "row 2: p1 stands there twice"),
        ("p1,yes,yes,perhaps\n", "row 1: unambiguous_answer must be yes, no or empty, got 'perhaps'"),
        (",no,,\n,yes,yes,yes\np1,Y,no,\n", None),
    ],
)
def test_a_sheet_is_read_or_refused_in_one_line(tmp_path, text, reason):
    head = "" if text.startswith("key") else "key,static_content,temporal_minimality,unambiguous_answer\n"
    (tmp_path / "sheet.csv").write_text(head + text)
    if reason is None:  # rows without a key are those of clips that nobody could see
        assert [*dybench_sheet.read_sheet(tmp_path / "sheet.csv")["p1"].values()] == [True, False, None]
    else:
        with pytest.raises(ValueError, match=reason):
            dybench_sheet.read_sheet(tmp_path / "sheet.csv")


def test_a_sheet_of_other_clips_is_not_applied(built, tmp_path, capsys):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("key,static_content,temporal_minimality,unambiguous_answer\np000000000000,yes,yes,yes\n")
    where = ["--rows", str(built / "pairs.jsonl"), "--data-root", str(built), "--sheet", str(sheet)]
    assert dybench.main(["apply", *where, "--output", str(tmp_path / "out.jsonl")]) == 2
    assert "judges no pair" in capsys.readouterr().err


def test_statistics_and_chance(built, tmp_path, capsys):
    files = ["--rows", built / "pairs.jsonl", "--output", tmp_path / "stats.json", "--picture", tmp_path / "fig3.png"]
    assert dybench.main(["stats", *map(str, files)]) == 0
    found = json.loads((tmp_path / "stats.json").read_text())
    parts = found["subtasks"]
    assert {name: part["pairs"] for name, part in parts.items()} == {
        "reversible_dynamics": 1, "moving_direction": 2, "event_sequence": 2, "overall": 5
    }  # fmt: skip
    assert parts["overall"]["chance_acc"] == pytest.approx(100 * (1 / 3 + 2 / 4 + 2 / 2) / 5)
    assert parts["overall"]["chance_pair_acc"] == pytest.approx(100 * (1 / 9 + 2 / 16 + 2 / 4) / 5)
    assert parts["reversible_dynamics"]["median_seconds"] == 1.5
    assert found["data_source"] == {"own": 3, "GOT-10k": 2}
    assert found["seconds"] == {"0-5": 10, "5-10": 0, "10-15": 0, "15-20": 0, "20-25": 0, "25-30": 0, "30+": 0}
    with Image.open(tmp_path / "fig3.png") as picture:
        assert picture.size > (1000, 600) and len(picture.getcolors(1 << 24)) > 4
    assert "10 / 10, short, dynamic, yes" in capsys.readouterr().out


def test_lengths_are_counted_in_half_open_bins_and_rows_without_one_in_none():
    seconds = (0, 4.99, 5, 29.9, 30, 400, None, "3")
    rows = [{"side": "ab"[i % 2], "seconds": second, "data_source": f"s{i}"} for i, second in enumerate(seconds)]
    questions = [Question(str(i), i, "?", "video", "multiple choice", ("A. x", "B. y"), "A", subtask="own")
                 for i in range(8)]  # fmt: skip
    found = statistics_of(rows, questions)
    assert list(found["seconds"].values()) == [2, 1, 0, 0, 0, 1, 2]
    assert found["subtasks"]["own"]["below_30_s"] == pytest.approx(100 * 4 / 6)


@pytest.mark.slow
def test_pairs_of_real_clips(shared_folder, tmp_path):
    """The sample clips: a reversal, a flip, two segments in both orders, one detected splice; both sides decoded."""
    pancake, example = "flipping_a_pancake.mkv", "videor1_example.mp4"
    rows = [
        {"subtask": "reversible_dynamics", "path": pancake, "forward": "a", "reversed": "b", "distractor": "c"},
        moving(path=pancake),
        {"subtask": "event_sequence", "path": example, "segments": segments((0, 1.5), (10.5, 12))},
        {"subtask": "event_sequence", "path": example, "events": ["one", "two"], "start": 2, "end": 5},
        {"subtask": "event_sequence", "path": example, "events": ["one", "two"]},
        {"subtask": "event_sequence", "path": pancake, "events": ["one", "two"]},
        moving(path="corrupted.mp4"),
        moving(path="video_0.mov"),
    ]
    rows[:2] = [row | {"start": 1, "end": 3} for row in rows[:2]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "videos").symlink_to(shared_folder / "data/videos")
    assert run_build(tmp_path, "built") == 0
    refused = (tmp_path / "built/refused.txt").read_text()
    for reason in ("several splices", "no splice", "cannot be decoded", "too short"):
        assert reason in refused
    facts = [json.loads(line) for line in (tmp_path / "built/manifest.jsonl").read_text().splitlines()]
    assert [one["transform"] for one in facts] == ["reverse", "flip", "reorder", "splice"]
    source = decoded(shared_folder / "data/videos" / pancake)[30:90]
    for name, clip in (("reversible_dynamics_00001", source[::-1]), ("moving_direction_00002", source[:, :, ::-1])):
        assert decibels(decoded(tmp_path / f"built/clips/{name}_b.mp4"), clip) > 38
    for one in facts:
        assert min(one["psnr_a"], one["psnr_b"], one["psnr_undone"]) > 44


def test_the_rotation_tag_is_obeyed(shared_folder):
    clips = [
        data_planes.read_spans(shared_folder / "data/videos" / name)[0] for name in ("video_0.mov", "video_90.mov")
    ]
    upright = decord.VideoReader(str(shared_folder / "data/videos/video_90.mov"))[0].asnumpy()
    assert clips[1].size == upright.shape[:2] != clips[0].size
    luma = clips[1].planes[0][: clips[1].size[0]].ravel()
    assert np.corrcoef(luma, upright.mean(-1).ravel())[0, 1] > 0.99


def test_a_folder_of_pictures_is_a_clip(tmp_path):
    folder = tmp_path / "GOT-10k_Val_000001"
    folder.mkdir()
    rng = random.Random(0)
    shades = [rng.randrange(256) for _ in range(12)]
    for i, shade in enumerate(shades):
        Image.new("RGB", (40, 30), (shade,) * 3).save(folder / f"{i + 1:08d}.jpg")
    (clip,) = data_planes.read_spans(folder, [(0.2, 1.0)])
    assert clip.rate == 10 and clip.size == (30, 40) and len(clip) == 8
    found = (clip.planes[:, :30].mean((1, 2)) - 16) * 255 / 219
    assert found == pytest.approx(shades[2:10], abs=2)
