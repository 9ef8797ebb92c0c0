"""pytest tests/test_relations.py -- annotations of TAO, KITTI, ScanNet -> scenes -> questions with graph answers."""

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from data import relations, tracks
from data.dataset import load_questions
from data.relations import KINDS, Args, moments_of, question, rows_of
from data.tracks import Scene, Track
from data.video import ClipError, ClipFacts
from graphs import graph_score
from tasks import TASKS, canonical, counterfactual_golds
from toy import world
from transforms import COUNTERFACTUALS, HORIZONTAL_FLIP
from verifiers import verify

ARGS = Args("plain", Path("in"), Path("root"), Path("out"), per_scene=16)


def look(path):
    """Every clip has 100 frames of 200 x 100 at 10 a second, but for one that is missing."""
    if "missing" in path:
        raise ClipError(f"{path}: no such file")
    return ClipFacts(100, 10.0, 100, 200)


def draw_scene(rng, frames=80):
    """Objects that come, move in straight lines and go."""
    found = []
    for name in ("car", "dog", "man", "tree", "bird", "bird"):
        start, end = sorted(rng.sample(range(frames + 1), 2)) if rng.random() < 0.4 else (0, frames)
        if end - start < 2:
            continue
        (x, y), (dx, dy) = ([rng.uniform(a, b) for _ in range(2)] for a, b in ((0.4, 0.6), (-0.3, 0.3)))
        w, h = rng.uniform(0.02, 0.09), rng.uniform(0.02, 0.09)
        boxes = {}
        for frame in range(start, end):
            cx, cy = x + dx * frame / frames, y + dy * frame / frames
            boxes[frame] = (cx - w, cy - h, cx + w, cy + h)
        size = (1.0, 0.5, 0.25) if rng.random() < 0.3 else None
        places = {frame: (10 * cx, 0.0, frame / 10) for frame in boxes} if size else {}
        found.append(Track(name, boxes, places, size))
    return Scene("s", "s.mp4", frames, 8.0, tuple(found))


def scenes(count):
    """Those of random scenes that give questions."""
    rng, made = random.Random(0), 0
    while made < count:
        scene = draw_scene(rng)
        if all(relations.graph_of(scene, moments_of(scene, 4), relations.names_of(scene))):
            made += 1
            yield scene


def test_a_mirrored_or_reversed_scene_answers_as_the_mapped_gold_says():
    """The map of a gold answer is that of the annotations: every kind, graph included, both transforms."""
    rng, seen = random.Random(1), set()
    for scene in scenes(30):
        for kind in KINDS:
            for _ in range(4):
                state = rng.getstate()
                frames = moments_of(scene, 4)
                row = question(kind, scene, frames, ARGS, rng)
                if row is None:
                    continue
                after = rng.getstate()
                rng.setstate(state)
                asked = KINDS[kind](scene, frames, rng)  # the same draw
                rng.setstate(after)
                gold = TASKS[row["problem_type"]].check(row["solution"], row["options"])
                fields = {"problem_type": row["problem_type"], "task_type": None, "gold": canonical(gold)}
                mapped = counterfactual_golds(type("Row", (), fields))
                for name, other in zip(COUNTERFACTUALS, (scene.flipped(), scene.backwards()), strict=True):
                    right = asked.answer(other)
                    assert (name in mapped) == (right is not None)
                    if right is None:
                        continue
                    parts = json.loads(mapped[name])
                    said = parts[asked.part]
                    if asked.part == "letter":
                        said = {option[0]: option[3:] for option in row["options"]}[said]
                        assert said == right
                    else:
                        assert np.allclose(said, right)
                    names = [str(word) for word in row["problem"].split("Objects: ")[1].rstrip(".").split(", ")]
                    graph = relations.graph_of(other, frames, names)
                    assert graph_score(parts["graph"], graph) > 0.995  # places are rounded to thousandths
                    seen.add((kind, name))
    assert seen == {(kind, name) for kind in KINDS for name in COUNTERFACTUALS}


def test_some_answers_move_and_others_stay():
    moved = {kind: set() for kind in KINDS}
    for scene in scenes(40):
        for row in rows_of(scene, ARGS):
            (part,) = set(row["solution"]) & {"letter", "number", "box", "intervals"}
            for known in row["solution"]["under"].values():
                moved[row["subtask"]].add(known[part] != row["solution"][part])
    assert moved["counting"] == {False}
    assert all(True in moved[kind] for kind in ("direction", "appearance order", "motion", "localisation"))


def test_rows_load_and_perfect_answers_earn_full_marks(tmp_path):
    rows = [
        row | {"problem_id": f"{i}/{row['problem_id']}"} for i, s in enumerate(scenes(10)) for row in rows_of(s, ARGS)
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    questions, bad = load_questions(file, tmp_path, check_files=False)
    assert not bad and len(questions) == len(rows) > 60
    assert {q.problem_type for q in questions} == set(relations.TYPES.values())
    for asked in questions:
        gold = json.loads(asked.gold)
        said = gold.get("letter") or gold.get("box") or gold.get("number")
        if "intervals" in gold:
            said = "{} to {}".format(*gold["intervals"][0])
        text = f"<think>It is so. <graph>{json.dumps(gold['graph'])}</graph></think>\n<answer>{said}</answer>"
        facts = verify(text, asked)
        assert facts.well_formed and facts.score == pytest.approx(1), (text, asked)
        assert set(facts.terms) == {"answer", "graph"}
        without = verify(f"<think>It is so.</think><answer>{said}</answer>", asked)
        assert without.terms["graph"] == 0 and without.score == pytest.approx(0.5)


def test_a_row_without_a_graph_skips_the_term():
    gold = canonical(TASKS["relation number"].check({"number": 4}, ()))
    assert TASKS["relation number"].terms(canonical({"number": 4.1}), gold) == {"answer": 1.0}
    assert TASKS["relation number"].worth(gold) == 1


@pytest.mark.parametrize("frames", [8, 31, 80])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_moments_are_symmetric(frames, count):
    found = moments_of(Scene("s", "s.mp4", frames, 8.0, ()), count)
    assert len(found) == count and found == sorted(found)
    assert [frames - 1 - frame for frame in reversed(found)] == found


def test_near_ties_are_not_asked():
    rng = random.Random(0)
    boxes = [{f: (x, 0.4, x + 0.1, 0.5) for f in range(80)} for x in (0.40, 0.45)]
    scene = Scene("s", "s.mp4", 80, 8.0, (Track("car", boxes[0]), Track("dog", boxes[1])))
    for kind in ("direction", "size", "motion", "displacement", "appearance order"):
        assert all(question(kind, scene, moments_of(scene, 4), ARGS, rng) is None for _ in range(20)), kind


def test_rounding_leads_neither_past_the_clip_nor_to_an_empty_box():
    """491 frames at 22.29 a second end at 22.02782 s, in three decimals 22.028; a hair has one side."""
    for name, box in (("cat", (0.1, 0.1, 0.3, 0.3)), ("hair", (0.1001, 0.1, 0.1004, 0.3))):
        scene = Scene("s", "s.mp4", 491, 22.29, (Track(name, dict.fromkeys(range(300, 491), box)),))
        made = [KINDS["localisation"](scene, [50, 320, 400], random.Random(seed)) for seed in range(20)]
        answers = {asked.part: asked.answer(scene) for asked in made if asked.part == "intervals"}
        answers["box"] = next(a.answer(scene) for a in made if a.part == "box" and "14.4 s" in a.text)
        assert answers == {"intervals": [[13.459, scene.duration]], "box": list(box) if name == "cat" else None}
        TASKS["relation interval"].check({"intervals": answers["intervals"], "duration": scene.duration}, ())


def test_what_is_unsure_is_not_asked_about():
    for scene in scenes(10):
        scene = dataclasses.replace(scene, unsure=frozenset(("car", "dog")), complete=False)
        try:
            rows = rows_of(scene, ARGS)
        except tracks.Refused:
            continue
        assert all("car" not in row["problem"] and "dog" not in row["problem"] for row in rows)
        assert "counting" not in {row["subtask"] for row in rows}


# ---------------------------------------------------------------------------------------------------------------------
# Readers


TAO = {
    "videos": [
        {"id": 1, "name": "val/A/v1", "width": 200, "height": 100, "not_exhaustive_category_ids": [3]},
        {"id": 2, "name": "val/A/missing", "width": 200, "height": 100},
    ],
    "images": [
        {"id": 10, "video_id": 1, "frame_index": 0, "width": 200, "height": 100},
        {"id": 11, "video_id": 1, "frame_index": 10, "width": 200, "height": 100},
        {"id": 12, "video_id": 1, "frame_index": 100, "width": 200, "height": 100},
    ],
    "categories": [{"id": 1, "name": "toy_car"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cup"}],
    "tracks": [
        {"id": 7, "category_id": 1, "video_id": 1},
        {"id": 8, "category_id": 2, "video_id": 1},
        {"id": 9, "category_id": 3, "video_id": 1},
    ],
    "annotations": [
        {"image_id": 10, "track_id": 7, "bbox": [20, 10, 40, 20]},
        {"image_id": 11, "track_id": 7, "bbox": [40, 10, 40, 20]},
        {"image_id": 10, "track_id": 9, "bbox": [-10, 90, 40, 20]},
        {"image_id": 10, "track_id": 8, "bbox": [300, 10, 40, 20]},
        {"image_id": 12, "track_id": 7, "bbox": [40, 10, 40, 20]},
        {"image_id": 10, "track_id": 8, "bbox": [20, 10, 0, 20]},
        {"image_id": 10, "track_id": 8, "bbox": [20, 10]},
        {"image_id": 99, "track_id": 8, "bbox": [20, 10, 5, 5]},
        {"image_id": 10, "track_id": 99, "bbox": [20, 10, 5, 5]},
    ],
}


def test_tao(tmp_path):
    file, bad = tmp_path / "tao.json", []
    file.write_text(json.dumps(TAO))
    (scene,) = tracks.tao(file, look, "tao", bad)
    car, cup = scene.tracks
    assert (scene.path, scene.frames, scene.gap) == ("tao/val/A/v1.mp4", 100, 15)
    assert (car.name, car.boxes) == ("toy car", {0: (0.1, 0.1, 0.3, 0.3), 10: (0.2, 0.1, 0.4, 0.3)})
    assert cup.boxes == {0: (0, 0.9, 0.15, 1)}  # cut at the border
    assert scene.box(car, 5) == pytest.approx((0.15, 0.1, 0.35, 0.3)) and scene.box(car, 11) is None
    assert scene.unsure == {"cup", "dog", "toy car"}
    reasons = sorted((row.row, row.field, row.reason) for row in bad)
    assert reasons == [
        (2, "videos", "its clip cannot be used"),
        (4, "box", "lies off the frame"),
        (5, "frame", "lies past the end of the clip"),
        (6, "box", "must have x0 < x1 and y0 < y1"),
        (7, "annotations", "lacks a field or has one of another kind"),
        (8, "image_id", "is that of no image"),
        (9, "track_id", "is that of no track"),
    ]
    file.write_text("{}")
    with pytest.raises(ValueError, match="no TAO annotation file"):
        list(tracks.tao(file, look, "", bad))


def test_kitti(tmp_path):
    file, bad = tmp_path / "0003.txt", []
    label = "{} {} {} 0 0 -1.5 {} 1.5 1.6 4.0 {} -1.57"
    lines = [
        label.format(0, 1, "Car", "20 10 60 30", "2.0 1.5 10.0"),
        label.format(1, 1, "Car", "22 10 62 30", "2.5 1.5 10.0"),
        label.format(0, 2, "Pedestrian", "100 10 120 50", "5.0 1.5 14.0"),
        "0 -1 DontCare -1 -1 -10 5 5 9 9 -1 -1 -1 -1000 -1000 -1000 -10",
        label.format(100, 1, "Car", "22 10 62 30", "2.5 1.5 10.0"),
        label.format(2, 3, "Van", "300 10 362 30", "2.5 1.5 10.0"),
        label.format(2, 3, "Van", "x 10 362 30", "2.5 1.5 10.0"),
        label.format(2, 3, "Van", "nan 10 362 30", "2.5 1.5 10.0"),
        "0 1 Spaceship",
    ]
    file.write_text("\n".join(lines))
    (scene,) = tracks.kitti(file, look, "", bad)
    car, man = scene.tracks
    assert (scene.path, scene.complete, scene.gap) == ("0003.mp4", False, 1)
    assert (car.name, man.name, car.size) == ("car", "pedestrian", (4.0, 1.6, 1.5))
    assert car.boxes == {0: (0.1, 0.1, 0.3, 0.3), 1: (0.11, 0.1, 0.31, 0.3)}
    assert car.places[0] == (2.0, 0.75, 10.0)  # the middle, not the bottom
    assert {"car", "van"} <= scene.unsure and "pedestrian" not in scene.unsure
    assert [row.row for row in bad] == [5, 6, 7, 8, 9]
    assert list(tracks.kitti(tmp_path / "missing.txt", look, "", bad)) == []
    rng = random.Random(0)
    file.write_text("\n".join(label.format(f, t, k, b, p) for f in range(100) for t, k, b, p in (
        (1, "Car", "20 10 60 30", "2.0 1.5 10.0"), (2, "Pedestrian", "100 10 120 50", "5.0 1.5 14.0"),
    )))  # fmt: skip
    (scene,) = tracks.kitti(file, look, "", [])
    row = question("distance", scene, moments_of(scene, 4), ARGS, rng)
    assert row["solution"]["number"] == 5.0  # 3 m aside, 4 m on
    assert row["solution"]["under"][HORIZONTAL_FLIP] == {"number": 5.0}
    assert question("size", scene, moments_of(scene, 4), ARGS, rng)["solution"]["number"] in (400.0, 400)


def write_scannet(folder, name="scene0000_00"):
    """A room with a chair 1 m wide at (0, 0, 4) and a table 2 m beside it, seen along +z."""
    scene = folder / name
    (scene / "pose").mkdir(parents=True)
    settings = {"axisAlignment": "0 1 0 0 -1 0 0 0 0 0 1 0 0 0 0 1", "fx_color": 100, "fy_color": 100}
    settings |= {"mx_color": 100, "my_color": 50, "colorWidth": 200, "colorHeight": 100}
    (scene / f"{name}.txt").write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    cube = np.stack(np.meshgrid([-0.5, 0.5], [-0.25, 0.25], [3.75, 4.25], indexing="ij"), -1).reshape(-1, 3)
    vertices = np.concatenate([cube, cube + [2, 0, 0]])
    kind = np.dtype([(axis, "<f4") for axis in "xyz"] + [(colour, "u1") for colour in ("r", "g", "b", "a")])
    packed = np.zeros(len(vertices), kind)
    for axis, values in zip("xyz", vertices.T, strict=True):
        packed[axis] = values
    head = "ply\nformat binary_little_endian 1.0\ncomment made by hand\nelement vertex 16\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz")
    head += "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue", "alpha"))
    head += "element face 0\nproperty list uchar int vertex_indices\nend_header\n"
    (scene / f"{name}_vh_clean_2.ply").write_bytes(head.encode() + packed.tobytes())
    (scene / f"{name}_vh_clean_2.0.010000.segs.json").write_text(
        json.dumps({"segIndices": [5] * 8 + [6] * 4 + [7] * 4})
    )
    groups = [("chair", [5]), ("table", [6, 7]), ("wall", [5]), ("ghost", [8])]
    groups = [{"id": i, "objectId": i, "label": label, "segments": s} for i, (label, s) in enumerate(groups)]
    (scene / f"{name}.aggregation.json").write_text(json.dumps({"segGroups": groups}))
    for frame in range(99):
        pose = np.eye(4)
        pose[0, 3] = frame / 100
        np.savetxt(scene / "pose" / f"{frame}.txt", pose if frame != 50 else np.full((4, 4), -np.inf))
    return scene


def test_scannet(tmp_path):
    folder, bad = write_scannet(tmp_path), []
    (scene,) = tracks.scannet(folder, look, "rooms", bad)
    chair, table = scene.tracks
    assert (scene.path, scene.occluded, scene.gap) == ("rooms/scene0000_00.mp4", True, 2)
    assert (chair.name, table.name) == ("chair", "table") and scene.unsure == {"ghost"}
    assert sorted(chair.size) == pytest.approx([0.5, 0.5, 1.0])
    # Nearest face at z = 3.75: 0.5 / 3.75 of the focal length to either side of the middle.
    assert chair.boxes[0] == pytest.approx((0.5 - 0.5 / 7.5, 0.5 - 0.25 / 3.75, 0.5 + 0.5 / 7.5, 0.5 + 0.25 / 3.75))
    assert chair.places[0] == pytest.approx((0, 0, 4)) and table.places[0] == pytest.approx((2, 0, 4))
    assert 50 not in chair.boxes and len(chair.boxes) == 98
    row = question("distance", scene, moments_of(scene, 4), ARGS, random.Random(0))
    assert row["solution"]["number"] == 2.0
    assert "localisation" not in {row["subtask"] for row in rows_of(scene, ARGS)}
    assert [(row.row, row.reason) for row in bad] == [(4, "holds no vertex")]
    (folder / "scene0000_00_vh_clean_2.ply").write_bytes(b"ply\nformat ascii 1.0\nend_header\n")
    assert list(tracks.scannet(folder, look, "", bad)) == []
    assert "binary little-endian" in bad[-1].detail


def test_the_command(tmp_path, capsys):
    """From real clips and plain rows to a file that loads; bad rows are named."""
    frames = np.full((world.FRAMES, world.SIZE, world.SIZE, 3), 128, np.uint8)
    world.write_clip(tmp_path / "a.mp4", frames)
    boxes = [{str(f): [x + s * f, 0.4, x + s * f + 0.1, 0.5] for f in range(8)} for x, s in ((0.1, 0.05), (0.7, 0.0))]
    objects = [{"name": name, "boxes": box} for name, box in zip(("car", "dog"), boxes, strict=True)]
    rows = [
        {"path": "a.mp4", "tracks": objects},
        {"path": "none.mp4", "tracks": objects},
        {"path": "a.mp4", "tracks": [{"name": "car", "boxes": {"8": [0, 0, 1, 1]}}]},
        {"path": "a.mp4", "tracks": [{"name": "car", "boxes": {"0": [1.2, 0, 1.4, 1]}}]},
        {"path": "a.mp4", "tracks": [{"name": "car", "boxes": {"0": "here"}}]},
        {"path": "../a.mp4", "tracks": objects},
        3,
    ]
    (tmp_path / "scenes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--data-root", str(tmp_path), "--output", str(tmp_path / "rows.jsonl")]
    assert relations.main(["plain", "--input", str(tmp_path / "scenes.jsonl"), *flags]) == 0
    questions, bad = load_questions(tmp_path / "rows.jsonl", tmp_path)
    assert questions and not bad and {q.subtask for q in questions} >= {"counting", "direction", "motion"}
    refused = (tmp_path / "rows.jsonl.refused.txt").read_text().splitlines()
    assert [int(line.split(":")[1].split()[0]) for line in refused] == [2, 3, 4, 5, 6, 7]
    assert f"{len(questions)} questions" in capsys.readouterr().out
    assert relations.main(["tao", "--input", str(ROOT / "tests"), *flags]) == 2
    assert "holds no *.json" in capsys.readouterr().err
