"""One annotation row -> one counterfactual pair: what is asked, which frames, both clips on disk, what was measured.

The annotation rows are those of `python -m eval.dybench`. A row is planned before a frame is read, and all chance
(option order, distractor, segments, transform) is drawn from the seed and the pair's id.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from data import planes as clips
from data.corpora import Refused
from data.paths import Outside, confined
from data.planes import Frames, SourceError
from data.video import ClipError, sample_clip
from eval import dybench_words as words
from verifiers import lettered

SUBJECTS = ("human", "animal", "plant", "object")
PROBE_PIXELS = 128 * 128
"""Of a frame when a built clip is read as evaluation reads it: that it can be, not what it shows, is asked."""
TRANSFORMS = ("flip", "reverse", "flip_reverse")


@dataclass(kw_only=True)
class Limits:
    """What a pair may be made of."""

    seed: int = 0
    """Of option order, distractors, segments and transforms; each pair draws from its own."""
    max_seconds: float = 30.0
    """A longer clip or segment is refused (App. A.2)."""
    min_frames: int = 8
    """A shorter clip or segment is refused."""
    min_gap: float = 0.5
    """Seconds between two segments that are not adjacent."""
    longest_side: int = 960
    """Pixels; larger frames are shrunk."""


# ---------------------------------------------------------------------------------------------------------------------
# An annotation row -> what to make


@dataclass(frozen=True)
class Plan:
    """One pair before any frame is read."""

    id: str
    row: dict
    source: Path
    problem: str
    options: tuple[str, ...]
    """Without letters, in the order of both sides."""
    answers: tuple[str, str]
    """Of side a and side b."""
    spans: tuple[tuple[float | None, float | None], ...]
    """Seconds of the source that are read."""
    transform: str
    """reverse | flip | flip_reverse | reorder (two segments) | splice (two shots)."""
    subject: str
    features: Path | None = None
    """Of a spliced clip's frames, where they are given."""


def _text(row: dict, name: str, default: str | None = None) -> str:
    value = row.get(name, default)
    if not isinstance(value, str) or not value.strip():
        raise Refused(name, "missing, empty or not text", f"got {value!r}")
    return " ".join(value.split()).rstrip(".")


def as_json(row: dict) -> str:
    """The row as one line of JSON; Refused where a text in it cannot be written to a file."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise Refused("row", "holds half a character (a lone surrogate)", repr(error.object[error.start])) from error
    return line + "\n"


def _choice(row: dict, name: str, allowed: Sequence[str], default: str | None = None) -> str:
    if (value := _text(row, name, default)) not in allowed:
        raise Refused(name, f"must be one of {', '.join(allowed)}", f"got {value!r}")
    return value


def _span(row: dict, limits: Limits, field: str = "start") -> tuple[float | None, float | None]:
    start, end = row.get("start"), row.get("end")
    for value in (start, end):
        if value is not None and not (type(value) in (int, float) and 0 <= value < 1e9):  # NaN fails, too
            raise Refused(field, "start and end must be seconds, 0 or more", f"got {value!r}")
    if end is not None and not (start or 0) < end:
        raise Refused(field, "start must lie before end", f"got {start} and {end}")
    if end is not None and end - (start or 0) > limits.max_seconds + 1e-6:
        raise Refused(field, f"longer than {limits.max_seconds:g} s", f"{end - (start or 0):.2f} s")
    return start, end


def _reversible(row: dict, limits: Limits, rng: random.Random) -> dict:
    subject, thing, action = _choice(row, "subject", SUBJECTS[:3], "human"), "", None
    if "action" in row:
        action = _text(row, "action").lower()
        thing = _text(row, "object").lower() if action in words.TAKES_OBJECT else ""
        others = words.reversed_actions(action, subject)
        if not others:
            raise Refused("action", "is not in the vocabulary of its subject; give forward and reversed", action)
        answers = [words.with_object(text, thing) for text in (action, rng.choice(others))]
    else:
        forward = _text(row, "forward")
        other = row.get("reversed") or words.reversed_text(forward, subject)
        if not other:
            raise Refused("reversed", "missing, and the vocabulary cannot tell it", repr(forward))
        answers = [forward, _text({"reversed": other}, "reversed")]
    try:
        distractor = row.get("distractor") or words.draw_distractor(
            answers, action, thing or "the object", subject, rng
        )
    except ValueError as error:
        raise Refused("distractor", "missing, and the vocabulary has none", error) from error
    options = [*answers, _text({"distractor": distractor}, "distractor")]
    return {"answers": answers, "options": options, "transform": "reverse", "subject": subject}


def _moving(row: dict, limits: Limits, rng: random.Random) -> dict:
    direction = words.parse_direction(_text(row, "direction"))
    if direction is None:
        raise Refused("direction", f"must be one of {', '.join(words.DIRECTIONS)}", f"got {row['direction']!r}")
    seen = {
        name: words.transformed_direction(direction, flip="flip" in name, reverse="reverse" in name)
        for name in TRANSFORMS
    }
    # The paper flips, "optionally also" reverses; a mirror does not turn up or depth, mirror and rewind not left.
    able = [name for name in ("flip", "flip_reverse") if seen[name] != direction]
    transform = _choice(row, "transform", TRANSFORMS) if "transform" in row else rng.choice(able)
    if seen[transform] == direction:
        raise Refused("transform", "would leave the answer as it is", f"{direction!r} under {transform}")
    answers = [direction, seen[transform]]
    return {
        "answers": answers,
        "options": words.direction_options(*answers),
        "transform": transform,
        "subject": _choice(row, "subject", SUBJECTS, "object"),
        "problem": words.QUESTIONS["moving_direction"].format(object=_text(row, "object")),
    }


def _event(row: dict, limits: Limits, rng: random.Random) -> dict:
    made = {"subject": _choice(row, "subject", SUBJECTS, "human")}
    if "segments" in row:
        chosen = _two_segments(row, limits, rng)
        events = [_text(segment, "event") for segment in chosen]
        made |= {"transform": "reorder", "spans": [_span(segment, limits) for segment in chosen]}
    else:
        events = row.get("events")
        if not isinstance(events, list) or len(events) != 2:
            raise Refused("events", "must be two texts, in the order of the clip; or give segments", f"got {events!r}")
        events = [_text({"events": event}, "events") for event in events]
        # Two shots, each as long as a segment may be.
        made |= {"transform": "splice", "spans": [_span(row, replace(limits, max_seconds=2 * limits.max_seconds))]}
    if events[0].casefold() == events[1].casefold():
        raise Refused("events", "both events have one name, so that the order has no answer", repr(events[0]))
    answers = [words.event_order(*events), words.event_order(*events[::-1])]
    return made | {"answers": answers, "options": answers}


def _two_segments(row: dict, limits: Limits, rng: random.Random) -> tuple[dict, dict]:
    """Two annotated segments that are not adjacent, in their order in the clip."""
    segments = row["segments"]
    if not isinstance(segments, list) or len(segments) < 2 or not all(isinstance(one, dict) for one in segments):
        raise Refused("segments", "must be a list of two or more objects with start, end, event")
    for segment in segments:
        if segment.get("start") is None or segment.get("end") is None:
            raise Refused("segments", "each needs start and end", str(segment))
        _text(segment, "event")
        _span(segment, replace(limits, max_seconds=float("inf")), "segments")
    segments = sorted(segments, key=lambda one: one["start"])
    faults, able = Counter(), []
    for i, one in enumerate(segments):
        for other in segments[i + 1 :]:
            fault = _why_not(one, other, limits)
            faults[fault] += 1
            if not fault:
                able.append((one, other))
    if not able:
        raise Refused("segments", faults.most_common(1)[0][0], f"{len(segments)} segments")
    return rng.choice(able)


def _why_not(one: dict, other: dict, limits: Limits) -> str:
    if other["start"] < one["end"]:
        return "the segments overlap"
    if other["start"] - one["end"] < limits.min_gap:
        return "the segments are adjacent"
    if max(one["end"] - one["start"], other["end"] - other["start"]) > limits.max_seconds + 1e-6:
        return f"a segment is longer than {limits.max_seconds:g} s"
    if one["event"].casefold() == other["event"].casefold():
        return "both segments have one name"
    return ""


_SUBTASKS: dict[str, Callable[[dict, Limits, random.Random], dict]] = {
    "reversible_dynamics": _reversible,
    "moving_direction": _moving,
    "event_sequence": _event,
}


def plan(row: object, number: int, videos: Path, limits: Limits) -> Plan:
    """What row `number` asks for; clips lie in the folder `videos`. Raises Refused."""
    if not isinstance(row, dict):
        raise Refused("row", "must be a JSON object", f"got {type(row).__name__}")
    as_json(row)  # its texts seed the draws and name files before they are written
    subtask = _choice(row, "subtask", words.SUBTASKS)
    pair = _text(row, "id") if "id" in row else f"{subtask}/{number:05d}"
    rng = random.Random(f"{limits.seed}/{pair}")
    made = {"spans": [_span(row, limits)], "problem": words.QUESTIONS[subtask]} | _SUBTASKS[subtask](row, limits, rng)
    options = list(made["options"])
    if len({option.casefold() for option in options}) < len(options):
        raise Refused("options", "must differ from each other", str(options))
    rng.shuffle(options)
    return Plan(
        id=pair,
        row=row,
        source=_inside(videos, _text(row, "path"), "path"),
        features=_inside(videos, _text(row, "features"), "features") if "features" in row else None,
        problem=_text(row, "question", made["problem"]),
        options=tuple(options),
        answers=tuple(made["answers"]),
        spans=tuple(made["spans"]),
        transform=made["transform"],
        subject=made["subject"],
    )


def _inside(root: Path, relative: str, field: str) -> Path:
    try:
        path = confined(root, relative)
    except Outside as error:
        raise Refused(field, str(error), repr(relative)) from error
    if not os.path.exists(path):
        raise Refused(field, "no such file under the videos folder", repr(relative))
    return Path(path)


# ---------------------------------------------------------------------------------------------------------------------
# The two clips


def sides(plan: Plan, limits: Limits) -> tuple[list[Frames], Frames, Frames]:
    """The parts of the source, and side a and side b as they are made of them. Raises Refused, SourceError."""
    longest = limits.max_seconds * (2 if plan.transform == "splice" else 1)
    parts = clips.read_spans(plan.source, plan.spans, longest_side=limits.longest_side, max_seconds=longest)
    if plan.transform == "splice":
        at = _splice(plan, parts[0])
        parts = [parts[0].cut(0, at), parts[0].cut(at, len(parts[0]))]
    for part in parts:
        if len(part) < limits.min_frames:
            raise SourceError("the clip or segment is too short", f"{len(part)} frames of {limits.min_frames}")
    if plan.transform in ("reorder", "splice"):
        return parts, clips.concatenate(parts), clips.concatenate(parts[::-1])
    return parts, parts[0], transformed(plan, parts[0], 0)


def transformed(plan: Plan, clip: Frames, at: int) -> Frames:
    """Side a turned into side b, or back: `at` is the frame with which the second part begins."""
    if plan.transform in ("reorder", "splice"):
        return clips.concatenate([clip.cut(at, len(clip)), clip.cut(0, at)])
    clip = clips.flip(clip) if "flip" in plan.transform else clip
    return clips.reverse(clip) if "reverse" in plan.transform else clip


def _splice(plan: Plan, clip: Frames) -> int:
    """The frame that begins the second shot of a clip with exactly one splice (App. A.2, sub-task 3)."""
    features = clips.appearance(clip) if plan.features is None else _features(plan.features, len(clip))
    found = clips.find_splices(features)
    if len(found) != 1:
        reason = "the clip has several splices" if found else "the clip has no splice"
        raise SourceError(reason, f"before frames {found}" if found else f"{len(clip)} frames")
    return found[0]


def _features(file: Path, frames: int) -> np.ndarray:
    try:
        features = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise Refused("features", "cannot be read as .npy", error) from error
    if features.ndim != 2 or len(features) != frames or not np.isfinite(features).all():
        raise Refused("features", "must be finite, a row for each frame", f"{features.shape} for {frames} frames")
    return features


def make(plan: Plan, number: int, output: Path, limits: Limits) -> tuple[list[dict], dict]:
    """Encode both sides below `output`/clips; (their rows, what was measured on the files).

    Raises Refused, SourceError.
    """
    parts, *wanted = sides(plan, limits)
    paths = [f"clips/{plan.row['subtask']}_{number:05d}_{side}.mp4" for side in "ab"]
    rows, read, encoded = [], [], []
    for side, path, clip, answer in zip("ab", paths, wanted, plan.answers, strict=True):
        clips.encode(output / path, clip)
        try:
            sample_clip(output / path, max_frame_pixels=PROBE_PIXELS)
        except ClipError as error:
            for made in paths:
                (output / made).unlink(missing_ok=True)
            fault = str(error).removeprefix(f"{output / path}: ")  # a file that is gone
            raise SourceError("the evaluation's decoder refuses the clip made of it", fault) from error
        read += clips.read_spans(output / path, longest_side=limits.longest_side)
        encoded.append(clips.settings(output / path))
        rows.append(_row(plan, side, answer, path) | {"seconds": round(float(len(clip) / clip.rate), 3)})
    if encoded[0] != encoded[1]:
        raise RuntimeError(f"{plan.id}: the sides were not encoded alike: {encoded}")
    quality = [clips.psnr(have, want) for have, want in zip(read, wanted, strict=True)]
    undone = clips.psnr(read[0], transformed(plan, read[1], len(parts[-1])))
    return rows, {
        "pair_id": plan.id,
        "source": plan.row["path"],
        "transform": plan.transform,
        "part_frames": [len(part) for part in parts],
        "psnr_a": round(float(quality[0].min()), 2),
        "psnr_b": round(float(quality[1].min()), 2),
        "psnr_undone": round(float(undone.min()), 2),
        "psnr_sides": round(float(clips.psnr(*read).mean()), 2),
        "encoded": {name: value for name, value in encoded[0].items() if name != "keys"} | {"gop": clips.GOP},
    }


def _row(plan: Plan, side: str, answer: str, path: str) -> dict:
    return {
        "problem_id": f"{plan.id}/{side}",
        "problem": plan.problem,
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": lettered(plan.options),
        "solution": f"<answer>{ascii_uppercase[plan.options.index(answer)]}</answer>",
        "path": path,
        "data_source": str(plan.row.get("data_source") or "own"),
        "pair_id": plan.id,
        "side": side,
        "subtask": plan.row["subtask"],
        "subject": plan.subject,
    }
