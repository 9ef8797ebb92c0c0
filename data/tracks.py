"""Annotated objects of a clip, from TAO, KITTI, ScanNet or a plain file, in one record.

Each reader goes through the annotations as published and yields scenes; a label or a clip that cannot be used becomes a
BadRow with file, row and reason. Clips are files made of the release's frames, all of them in order, named after the
sequence: `python -m data.frames --input image_02/ --output clips/ --fps 10` for KITTI, 30 for TAO and ScanNet.

What a label cannot tell is kept: a category with a refused label, or one that the annotators did not label throughout
(TAO), is `unsure` and never asked about; a scene with unlabelled regions (KITTI's DontCare) is not `complete`, nothing
is counted there; a ScanNet label says where an object is, not whether a wall stands in front of it (`occluded`).
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from data.corpora import Refused, inside
from data.dataset import BadRow
from data.rows import read_rows
from data.scenes import Box, Place, Scene, Track, box_of
from data.video import ClipError, ClipFacts

Look = Callable[[str], ClipFacts]
"""Path below the data root -> facts of the clip. ClipError where it is missing or damaged."""

KITTI_NAMES = {
    "Car": "car", "Van": "van", "Truck": "truck", "Pedestrian": "pedestrian", "Person_sitting": "sitting person",
    "Person": "sitting person", "Cyclist": "cyclist", "Tram": "tram", "Misc": "other vehicle", "DontCare": "",
}  # fmt: skip
NO_OBJECTS = frozenset(("wall", "floor", "ceiling", "object", "unknown", "remove"))
"""ScanNet labels of what is no one thing."""
TAO_GAP = 1.5
"""Seconds between two labels of one track in TAO, which labels one frame a second."""


def _frame(frame: object, facts: ClipFacts) -> int:
    if not isinstance(frame, int) or isinstance(frame, bool) or frame < 0:
        raise Refused("frame", "must be a whole number, 0 or more", f"got {frame!r}")
    if frame >= facts.frames:
        raise Refused("frame", "lies past the end of the clip", f"{frame} of {facts.frames}")
    return frame


class _Sequence:
    """The labels of one clip as they come in."""

    def __init__(self):
        self.names: dict[object, str] = {}
        self.boxes: dict[object, dict[int, Box]] = defaultdict(dict)
        self.places: dict[object, dict[int, Place]] = defaultdict(dict)
        self.sizes: dict[object, Place] = {}
        self.unsure: set[str] = set()

    def tracks(self) -> tuple[Track, ...]:
        return tuple(
            Track(name, dict(sorted(self.boxes[i].items())), dict(sorted(self.places[i].items())), self.sizes.get(i))
            for i, name in self.names.items()
            if self.boxes[i]
        )


# ---------------------------------------------------------------------------------------------------------------------
# Readers: (file or folder, look, prefix of the clips' paths, where refused rows go) -> scenes


def tao(path: Path, look: Look, prefix: str, bad: list[BadRow]) -> Iterator[Scene]:
    """TAO's annotations/*.json: `videos`, `images` (frame_index), `tracks`, `annotations` (bbox [x, y, w, h], pixels),
    `categories`. The clip of a video is its `name` and .mp4."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        videos = {video["id"]: video for video in data["videos"]}
        images = {image["id"]: image for image in data["images"]}
        words = {category["id"]: category["name"].replace("_", " ") for category in data["categories"]}
        kinds = {track["id"]: words[track["category_id"]] for track in data["tracks"]}
        labels = list(enumerate(data["annotations"], start=1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: is no TAO annotation file ({type(error).__name__}: {error})") from error
    by_video = defaultdict(list)
    for number, label in labels:
        try:
            by_video[images[label["image_id"]]["video_id"]].append((number, label))
        except (KeyError, TypeError) as error:
            bad.append(BadRow(str(path), number, "image_id", "is that of no image", str(error)))
    for number, (video_id, video) in enumerate(videos.items(), start=1):
        try:
            clip = inside(prefix, f"{video['name']}.mp4")
            facts = look(clip)
        except (Refused, ClipError, KeyError) as error:
            bad.append(BadRow(str(path), number, "videos", "its clip cannot be used", str(error)[:200]))
            continue
        sequence = _Sequence()
        sequence.unsure |= {words[i] for i in video.get("not_exhaustive_category_ids", ()) if i in words}
        for row, label in by_video[video_id]:
            name = kinds.get(label.get("track_id"))
            try:
                if name is None:
                    raise Refused("track_id", "is that of no track", f"got {label.get('track_id')!r}")
                image = images[label["image_id"]]
                x, y, width, height = label["bbox"]
                frame = _frame(image["frame_index"], facts)
                box = box_of(x, y, x + width, y + height, image["width"], image["height"])
            except Refused as refusal:
                bad.append(BadRow(str(path), row, *refusal.args))
                sequence.unsure |= {name} - {None}
                continue
            except (KeyError, TypeError, ValueError) as error:
                bad.append(
                    BadRow(str(path), row, "annotations", "lacks a field or has one of another kind", str(error))
                )
                sequence.unsure |= {name} - {None}
                continue
            sequence.names[label["track_id"]] = name
            sequence.boxes[label["track_id"]][frame] = box
        gap = max(1, round(TAO_GAP * facts.fps))
        unsure = frozenset(sequence.unsure)
        yield Scene(video["name"], clip, facts.frames, facts.fps, sequence.tracks(), gap, unsure)


def kitti(path: Path, look: Look, prefix: str, bad: list[BadRow]) -> Iterator[Scene]:
    """A file of KITTI's training/label_02: frame, track, type, truncated, occluded, alpha, box in pixels; in metres
    height, width, length, x, y, z (bottom centre, from the camera); rotation. The clip of 0000.txt is 0000.mp4."""
    try:
        clip = inside(prefix, f"{path.stem}.mp4")
        facts = look(clip)
        rows = list(csv.reader(path.read_text().splitlines(), delimiter=" "))
    except (Refused, ClipError, OSError, UnicodeDecodeError) as error:
        bad.append(BadRow(str(path), 1, "row", "its clip cannot be used", str(error)[:200]))
        return
    sequence, complete = _Sequence(), True
    for number, row in enumerate(rows, start=1):
        name = KITTI_NAMES.get(row[2] if len(row) > 2 else "")
        try:
            if len(row) not in (17, 18) or name is None:
                raise Refused("row", "must be 17 columns of KITTI tracking", f"got {len(row)}: {' '.join(row)[:60]}")
            if not name:
                complete = False
                continue
            numbers = [float(value) for value in row[5:17]]
            if not all(map(math.isfinite, numbers)):
                raise Refused("row", "holds what is no number", " ".join(row)[:60])
            frame, track = _frame(int(row[0]), facts), int(row[1])
            box = box_of(*numbers[1:5], facts.width, facts.height)
        except (Refused, ValueError) as error:
            reason = error.args if isinstance(error, Refused) else ("row", "holds what is no number", str(error))
            bad.append(BadRow(str(path), number, *reason))
            sequence.unsure |= {name} - {None, ""}
            continue
        height, width, length, x, y, z = numbers[5:11]
        sequence.names[track], sequence.boxes[track][frame] = name, box
        sequence.places[track][frame] = (x, y - height / 2, z)
        sequence.sizes[track] = (length, width, height)
    unsure = frozenset(sequence.unsure | {KITTI_NAMES["Misc"]})
    yield Scene(path.stem, clip, facts.frames, facts.fps, sequence.tracks(), 1, unsure, complete)


def scannet(path: Path, look: Look, prefix: str, bad: list[BadRow]) -> Iterator[Scene]:
    """A folder scans/SCENE of ScanNet: SCENE.txt, SCENE.aggregation.json, SCENE_vh_clean_2.0.010000.segs.json,
    SCENE_vh_clean_2.ply, and the exported pose/FRAME.txt (camera to world). The clip is SCENE.mp4.

    An object's box in the picture is around the corners of its axis-aligned box; it is labelled where its centre falls
    into the picture, whatever stands in front of it.
    """
    name = path.name
    try:
        clip = inside(prefix, f"{name}.mp4")
        facts = look(clip)
        about = dict(line.split(" = ", 1) for line in (path / f"{name}.txt").read_text().splitlines() if " = " in line)
        camera = [float(about[key]) for key in ("fx_color", "fy_color", "mx_color", "my_color")]
        picture = [float(about[key]) for key in ("colorWidth", "colorHeight")]
        align = np.array(about.get("axisAlignment", "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1").split(), float).reshape(4, 4)
        groups = json.loads((path / f"{name}.aggregation.json").read_text())["segGroups"]
        segments = np.array(json.loads((path / f"{name}_vh_clean_2.0.010000.segs.json").read_text())["segIndices"])
        vertices = ply_vertices(path / f"{name}_vh_clean_2.ply")
        poses = {int(file.stem): np.loadtxt(file) for file in sorted((path / "pose").glob("*.txt"))}
        labels = [(str(group["label"]), list(group["segments"])) for group in groups]
        if len(segments) != len(vertices):
            raise ValueError(f"{len(segments)} segment numbers for {len(vertices)} vertices")
        if any(pose.shape != (4, 4) for pose in poses.values()) or not poses:
            raise ValueError("pose/ must hold a 4 x 4 matrix a frame")
    except (Refused, ClipError, OSError, ValueError, KeyError, TypeError) as error:
        bad.append(BadRow(str(path), 1, "scene", "cannot be used", f"{type(error).__name__}: {error}"[:200]))
        return
    frames = sorted(f for f, pose in poses.items() if np.isfinite(pose).all() and f < facts.frames)
    if past := [f for f in poses if f >= facts.frames]:
        bad.append(BadRow(str(path), 1, "pose", "lies past the end of the clip", f"{len(past)} of {len(poses)}"))
    to_camera = np.linalg.inv(np.stack([poses[f] for f in frames])) if frames else np.zeros((0, 4, 4))
    sequence = _Sequence()
    for number, (label, members) in enumerate(labels, start=1):
        if label in NO_OBJECTS:
            continue
        points = vertices[np.isin(segments, members)]
        if not len(points):
            bad.append(BadRow(str(path), number, "segGroups", "holds no vertex", label))
            sequence.unsure.add(label)
            continue
        points = points @ align[:3, :3].T + align[:3, 3]
        low, high = points.min(0), points.max(0)
        sides = np.stack(np.meshgrid(*np.stack([low, high]).T, indexing="ij"), -1).reshape(-1, 3)
        corners = np.concatenate([sides, ((low + high) / 2)[None]])  # the centre last
        world = (corners - align[:3, 3]) @ align[:3, :3]  # the alignment is a rotation: its inverse, row by row
        seen = np.einsum("fij,cj->fci", to_camera[:, :3, :3], world) + to_camera[:, None, :3, 3]
        sequence.names[number], sequence.sizes[number] = label, tuple(map(float, high - low))
        for frame, at in zip(frames, seen, strict=True):
            if (at[:, 2] < 0.1).any():  # a corner behind the camera has no place in the picture
                continue
            u, v = camera[0] * at[:, 0] / at[:, 2] + camera[2], camera[1] * at[:, 1] / at[:, 2] + camera[3]
            if 0 <= u[-1] < picture[0] and 0 <= v[-1] < picture[1]:
                sequence.boxes[number][frame] = box_of(u[:8].min(), v[:8].min(), u[:8].max(), v[:8].max(), *picture)
                sequence.places[number][frame] = tuple(map(float, world[-1]))
    step = max([b - a for a, b in zip(frames, frames[1:], strict=False)], default=1)
    tracks, unsure = sequence.tracks(), frozenset(sequence.unsure)
    yield Scene(name, clip, facts.frames, facts.fps, tracks, step, unsure, occluded=True)


def ply_vertices(file: Path) -> np.ndarray:
    """float64 (V, 3): x, y, z of the vertices of a binary little-endian PLY whose first element they are, as in every
    mesh of ScanNet's release. ValueError for another."""
    kinds = {"float": "<f4", "float32": "<f4", "double": "<f8", "uchar": "u1", "uint8": "u1", "int": "<i4",
             "uint": "<u4", "ushort": "<u2", "short": "<i2"}  # fmt: skip
    head, end, body = file.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii", "replace").splitlines()
    if not end or lines[:2] != ["ply", "format binary_little_endian 1.0"]:
        raise ValueError(f"{file.name} must be a binary little-endian PLY")
    elements = [i for i, line in enumerate(lines) if line.startswith("element ")] + [len(lines)]
    words = lines[elements[0]].split()
    fields = [line.split() for line in lines[elements[0] : elements[1]] if line.startswith("property ")]
    if words[1] != "vertex" or any(len(words) != 3 or words[1] not in kinds for words in fields):
        raise ValueError(f"{file.name} must begin with an element vertex of plain numbers")
    kind = np.dtype([(name, kinds[number]) for _, number, name in fields])
    vertices = np.frombuffer(body, kind, count=int(words[2]))
    return np.stack([vertices[axis] for axis in "xyz"], 1).astype(np.float64)


def plain(path: Path, look: Look, prefix: str, bad: list[BadRow]) -> Iterator[Scene]:
    """Rows of JSON or JSONL, one a clip, with `path` and `tracks` [{"name", "boxes": {FRAME: [x0, y0, x1, y1] in 0..1},
    optionally "places": {FRAME: [x, y, z]} and "size" in metres}]: the toy world's, or your own."""
    for raw in read_rows(path):
        try:
            if raw.fault or not isinstance(raw.value, dict):
                raise Refused("row", raw.fault or "must be a JSON object")
            clip = inside(prefix, str(raw.value.get("path") or ""))
            facts = look(clip)
            tracks = tuple(_plain_track(track, facts) for track in raw.value["tracks"])
        except Refused as refusal:
            bad.append(BadRow(str(path), raw.number, *refusal.args))
        except (ClipError, KeyError, TypeError, ValueError, AttributeError) as error:
            kind = "path" if isinstance(error, ClipError) else "tracks"
            bad.append(BadRow(str(path), raw.number, kind, "cannot be used", str(error)[:200]))
        else:
            yield Scene(clip.removesuffix(Path(clip).suffix), clip, facts.frames, facts.fps, tracks)


def _plain_track(track: dict, facts: ClipFacts) -> Track:
    boxes = {_frame(int(f), facts): box_of(*box, 1.0, 1.0) for f, box in track["boxes"].items()}
    places = {_frame(int(f), facts): tuple(map(float, place)) for f, place in track.get("places", {}).items()}
    size = tuple(map(float, track["size"])) if track.get("size") else None
    if not boxes or any(len(metres) != 3 for metres in (*places.values(), size or (0, 0, 0))):
        raise Refused("tracks", "a track needs boxes, and three numbers a place and size", track.get("name"))
    return Track(str(track["name"]), dict(sorted(boxes.items())), dict(sorted(places.items())), size)


Reader = Callable[[Path, Look, str, list[BadRow]], Iterable[Scene]]
READERS: dict[str, tuple[Reader, str, str]] = {
    "tao": (tao, "TAO", "*.json"),
    "kitti": (kitti, "KITTI", "*.txt"),
    "scannet": (scannet, "ScanNet", "scene*"),
    "plain": (plain, "plain", "*.jsonl"),
}
"""Name -> reader, `data_source` of its rows, and which entries of an input folder it reads."""
