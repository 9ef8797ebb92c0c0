"""Annotations of eight public sources of DyBench (App. A.2) -> annotation rows of `eval.dybench`.

A source is a way to read its files and a pure function per row, which raises Refused where no pair can come of it. The
table SOURCES at the end names them. None of the releases could be opened here. "Verified" means: seen in public code
that reads the files, or in a sample file of the release.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.corpora import Refused
from eval.dybench_words import parse_direction, reversed_text

BREAKFAST_FPS, SALADS_FPS = 15, 30
MIN_TRAVEL, MIN_STRAIGHTNESS = 0.15, 0.7
"""Of a track: net way as a share of the frame's side, and net way over the length of the path."""
# CLEVR's camera: "right" and "behind" on the ground plane. That CLEVRER keeps it is not verified.
_RIGHT, _BEHIND = (0.656, 0.754), (-0.754, 0.656)


def _field(row: Any, name: str, kind: type = str) -> Any:
    value = row.get(name) if isinstance(row, dict) else None
    if isinstance(value, int) and kind is str:
        value = str(value)
    if not isinstance(value, kind) or not value:
        raise Refused(name, f"must be a {kind.__name__} that is not empty", f"got {str(value)[:40]!r}")
    return value


def _whole(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        yield 1, file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: is not UTF-8 text") from error


def _json(file: Path) -> Iterator[tuple[int, Any]]:
    """Rows of a JSON list, (key, value) of an object; an annotation of one clip is a row itself."""
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(data, dict | list):
        raise ValueError(f"{file}: must hold a JSON list or object, got {type(data).__name__}")
    rows = [data] if "motion_trajectory" in data else data.items() if isinstance(data, dict) else data
    yield from enumerate(rows, start=1)


def converted(source: Source, row: Any, file: Path) -> dict:
    """An annotation row of ours. Raises Refused for one that is of no use, or not laid out as its source's are."""
    try:
        return source.convert(row, file)
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise Refused("row", f"is not laid out as {source.title}'s are", f"{type(error).__name__}: {error}") from error


# ---------------------------------------------------------------------------------------------------------------------
# Event sequence


def breakfast(text: str, file: Path) -> dict:
    """P03_cam01_P03_cereals.txt: lines "31-150 take_bowl", frames from 1 at 15 per second, both ends included; SIL is
    silence. Verified: lines, names, the place of the videos (P03/cam01/P03_cereals.avi, stereo/..._ch1.avi)."""
    person, camera, _, topic = (file.stem.split("_", 3) + [""] * 3)[:4]
    if not topic:
        raise Refused("row", "the file's name must be PERSON_CAMERA_PERSON_TOPIC.txt", file.name)
    stereo = camera.startswith("stereo")
    segments = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+)-(\d+)\s+(\S+)\s*", line)
        if line.strip() and not match:
            raise Refused("row", 'must be lines such as "31-150 take_bowl"', repr(line))
        if match and match[3] != "SIL":
            segments.append(_segment((int(match[1]) - 1) / BREAKFAST_FPS, int(match[2]) / BREAKFAST_FPS, match[3]))
    path = f"{person}/{'stereo' if stereo else camera}/{person}_{topic}{'_ch1' if stereo else ''}.avi"
    return {"subtask": "event_sequence", "path": path, "segments": segments}


def salads(text: str, file: Path) -> dict:
    """50Salads, 01-1-activityAnnotation.txt: lines "START END label" in the clock of the recording; timestamps-01-1.txt
    (beside it, or in ../timestamps) begins each line with a frame's clock. Labels ending in _core are used: those in
    _prep and _post lead to and from an action, the others are its phases. Verified: files, lines, label endings,
    rgb-01-1.avi at 30 frames a second."""
    name = file.name.removesuffix("-activityAnnotation.txt")
    clocks = [folder / f"timestamps-{name}.txt" for folder in (file.parent, file.parent.parent / "timestamps")]
    clock = next((path for path in clocks if path.is_file()), None)
    if clock is None:
        raise Refused("row", "needs the recording's clock", f"no {clocks[0].name} beside it or in ../timestamps")
    try:
        frames = {int(line.split()[0]): i for i, line in enumerate(clock.read_text().splitlines()) if line.strip()}
        lines = [line.split() for line in text.splitlines() if line.strip()]
        spans = [
            (frames[int(start)], frames.get(int(end) + 1, frames.get(int(end))), label) for start, end, label in lines
        ]
    except (ValueError, KeyError) as error:
        raise Refused("row", "a line or its clock cannot be read", error) from error
    segments = [
        _segment(start / SALADS_FPS, end / SALADS_FPS, label.removesuffix("_core"))
        for start, end, label in sorted(spans, key=lambda span: span[0])
        if label.endswith("_core") and end is not None
    ]
    return {"subtask": "event_sequence", "path": f"rgb-{name}.avi", "segments": segments}


def _segment(start: float, end: float, label: str) -> dict:
    return {"start": round(start, 4), "end": round(end, 4), "event": label.replace("_", " ")}


def vidhalluc(row: tuple[str, Any], file: Path) -> dict:
    """tsh.json (temporal sequence hallucination): {index: {video, Question, Correct Answer}}; the answer is AB, BA or a
    single letter. Verified: fields, VIDEO.mp4, the answers. Not verified: that the question names its actions after
    "A" and "B", as it is read here."""
    facts = row[1]
    actions = re.search(
        r"\bA[.:)]\s*(.+?)\s*[\n;,.]*\s*(?:\baction\s+)?\bB[.:)]\s*(.+?)\s*(?:\n|$)",
        _field(facts, "Question"),
        re.S | re.I,
    )
    order = _field(facts, "Correct Answer").strip().upper()
    if not actions or order not in ("AB", "BA"):
        raise Refused("Question", "must name actions A and B, the answer their order", f"answer {order!r}")
    events = [text.strip().rstrip(".").lower() for text in actions.groups()]
    video = f"{_field(facts, 'video')}.mp4"
    return {"subtask": "event_sequence", "path": video, "events": events if order == "AB" else events[::-1]}


def tempcompass(row: tuple[str, Any], file: Path) -> dict:
    """multi-choice.json: {video: {dim: [{question, answer}]}}; of dim "order" the first answer that names two events in
    turn. Verified on a sample of the release. Most clips hold one shot: those the builder refuses."""
    video, dims = row
    for entry in dims.get("order", ()) if isinstance(dims, dict) else ():
        answer = re.sub(r"^[A-Z]\.\s*", "", str(entry.get("answer", ""))).strip().rstrip(".").lower()
        events = re.split(r",? (?:and )?then |,? followed by ", answer)
        if len(events) == 2:
            return {"subtask": "event_sequence", "path": f"{video}.mp4", "events": events}
    raise Refused("order", "no answer names two events in turn", video)


# ---------------------------------------------------------------------------------------------------------------------
# Reversible dynamics


def something_something(row: Any, file: Path) -> dict:
    """Something-Something-v2, train.json or validation.json: rows of id, label (and template, placeholders); ID.webm.
    Verified. A label is taken where it begins with an action of the vocabulary and names no direction."""
    label = _field(row, "label").lower()
    other = reversed_text(label)
    if other is None:
        raise Refused("label", "holds no action of the vocabulary that a change of verb reverses", repr(label))
    return {
        "subtask": "reversible_dynamics",
        "path": f"{_field(row, 'id')}.webm",
        "forward": label,
        "reversed": other,
    }


def mhbench(row: Any, file: Path) -> dict:
    """MHBench, classification.json: rows of id, video_id, motion_id, question, options {letter: text}, answer (a
    letter); videos/VIDEO_ID.mp4. Verified. The reversed action must be one of the options; the third is the distractor.
    Not verified: how the options are worded."""
    options = {key: str(text).strip().rstrip(".").lower() for key, text in _field(row, "options", dict).items()}
    forward = options.get(_field(row, "answer"))
    other = reversed_text(forward) if forward else None
    if other not in options.values():
        raise Refused("options", "do not hold the reverse of the answer by the vocabulary", f"answer {forward!r}")
    rest = [text for text in options.values() if text not in (forward, other)]
    made = {"subtask": "reversible_dynamics", "path": f"{_field(row, 'video_id')}.mp4"}
    return made | {"forward": forward, "reversed": other} | ({"distractor": rest[0]} if rest else {})


# ---------------------------------------------------------------------------------------------------------------------
# Moving direction


def track_direction(points: Sequence[tuple[float, float]]) -> str:
    """The direction of a straight track of (x, y), y downwards, as shares of the frame: one of the four or a diagonal,
    whichever is nearest. Refused where it is short, bent or turns back."""
    points = [points[round(i * (len(points) - 1) / 7)] for i in range(8)] if len(points) > 8 else points  # jitter
    if len(points) < 2:
        raise Refused("track", "has less than two points")
    (x0, y0), (x1, y1) = points[0], points[-1]
    length = sum(math.dist(a, b) for a, b in zip(points, points[1:], strict=False))
    net = math.hypot(x1 - x0, y1 - y0)
    if net < MIN_TRAVEL:
        raise Refused("track", f"moves less than {MIN_TRAVEL:g} of the frame", f"{net:.2f}")
    if net < MIN_STRAIGHTNESS * length:
        raise Refused("track", "is bent or turns back", f"{net:.2f} of {length:.2f}")
    octant = round(math.atan2(y0 - y1, x1 - x0) / (math.pi / 4)) % 8
    words = ("right", "up right", "up", "up left", "left", "down left", "down", "down right")
    return parse_direction(words[octant])


def got10k(row: Any, file: Path) -> dict:
    """GOT-10k, groundtruth.txt: lines "x,y,w,h" in pixels, one a frame, with meta_info.ini (object_class, resolution)
    beside it; the clip is the folder of pictures, 10 a second. Verified. Or the JSON list of VideoChat-R1: path,
    object, gt (boxes x1, y1, x2, y2 as shares of the frame); verified on a sample."""
    if isinstance(row, dict):
        boxes = [box for box in _field(row, "gt", list) if len(box) == 4]
        points = [((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in boxes]
        return _moving(_field(row, "path"), _field(row, "object"), track_direction(points))
    facts = dict(re.findall(r"^(\w+):\s*(.*)$", _beside(file, "meta_info.ini"), re.M))
    size = re.findall(r"\d+", facts.get("resolution", ""))
    if len(size) != 2 or not facts.get("object_class"):
        raise Refused("row", "meta_info.ini must state object_class and resolution", str(facts)[:80])
    try:
        boxes = [tuple(map(float, line.split(","))) for line in row.splitlines() if line.strip()]
        points = [((x + w / 2) / int(size[0]), (y + h / 2) / int(size[1])) for x, y, w, h in boxes]
    except ValueError as error:
        raise Refused("row", 'must be lines "x,y,w,h"', error) from error
    return _moving(file.parent.name, facts["object_class"], track_direction(points))


def _beside(file: Path, name: str) -> str:
    path = file.with_name(name)
    if not path.is_file():
        raise Refused("row", f"needs {name} beside it")
    return path.read_text(encoding="utf-8")


def clevrer(row: Any, file: Path) -> dict:
    """Motion-direction questions on CLEVRER as MVBench asks them: rows of video (or path), question ("What direction is
    the red sphere moving ..."), answer ("Up and to the left."); verified on a sample. Or CLEVRER's own annotation of a
    clip: object_property, motion_trajectory (location in metres), video_filename, verified; which way its ground plane
    lies in the picture is not."""
    if isinstance(row, dict) and "motion_trajectory" in row:
        return _clevrer_track(row)
    thing = re.search(r"direction is the (.+?) moving", _field(row, "question"))
    direction = parse_direction(_field(row, "answer"))
    if not thing or direction is None:
        raise Refused("question", "must ask for the direction of an object that moves", f"answer {row['answer']!r}")
    return _moving(row.get("path") or _field(row, "video"), thing[1], direction)


def _clevrer_track(row: dict) -> dict:
    """The one object that moves straight across the view."""
    found, reasons = [], []
    for thing in _field(row, "object_property", list):
        places = [
            (entry["location"][0], entry["location"][1])
            for frame in row["motion_trajectory"]
            for entry in frame["objects"]
            if entry["object_id"] == thing["object_id"] and entry["inside_camera_view"]
        ]
        # The view is about eight metres wide, and depth is foreshortened to half.
        seen = [((x * _RIGHT[0] + y * _RIGHT[1]) / 8, -(x * _BEHIND[0] + y * _BEHIND[1]) / 16) for x, y in places]
        try:
            found.append((f"{thing['color']} {thing['material']} {thing['shape']}", track_direction(seen)))
        except Refused as refusal:
            reasons.append(refusal.args[1])
    if len(found) != 1:
        raise Refused("motion_trajectory", "must hold one object that moves straight", f"{len(found)} do")
    return _moving(_field(row, "video_filename"), *found[0])


def _moving(path: str, thing: str, direction: str) -> dict:
    name = re.sub(r"^\./", "", path)
    return {"subtask": "moving_direction", "path": name, "object": f"the {thing}", "direction": direction}


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A public source: its name in `data_source`, which files of a folder hold annotations, and how they are read."""

    title: str
    pattern: str
    read: Callable[[Path], Iterator[tuple[int, Any]]]
    convert: Callable[[Any, Path], dict]


def _got10k_rows(file: Path) -> Iterator[tuple[int, Any]]:
    return _json(file) if file.suffix == ".json" else _whole(file)


SOURCES = {
    "breakfast": Source("Breakfast", "*_*_*_*.txt", _whole, breakfast),
    "50salads": Source("50Salads", "*-activityAnnotation.txt", _whole, salads),
    "vidhalluc": Source("VidHalluc", "tsh.json", _json, vidhalluc),
    "tempcompass": Source("TempCompass", "*multi-choice.json", _json, tempcompass),
    "something_something": Source("Something-Something-v2", "*.json", _json, something_something),
    "mhbench": Source("MHBench", "classification.json", _json, mhbench),
    "got10k": Source("GOT-10k", "groundtruth.txt", _got10k_rows, got10k),
    "clevrer": Source("CLEVRER", "*.json", _json, clevrer),
}
