"""The annotation files of VideoChat-R1's tasks: one row of a release -> one row of ours, as `data/corpora.py` does it.

Charades-STA, ActivityNet Captions, NExT-GQA and GOT-10k in the form that VideoChat-R1 publishes them, VideoEval's
quality rows, and ActivityNet's sentences as the events of a caption. What may go into a gold answer, an interval
within the clip or a box within the frame, is said in `tasks.py`; the loader refuses the rest by row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora import Corpus, Refused, text_of, texts_of
from data.rows import RawRow

TRACKED = 8
"""Boxes of a GOT-10k row, at as many uniform frames (table row 39; VideoChat-R1's code shows seven of them)."""
_SIDED = re.compile(r"\b(?:left|right|(?:counter|anti)?-?clockwise)(?:wards?|most|-hand)?\b", re.IGNORECASE)


def _number(row: dict, name: str) -> float:
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(name, "must be a number", f"got {value!r}")
    return value


def _graded(kind: str, problem: str, solution: dict, path: str, **more) -> dict:
    row = {"problem": problem, "data_type": "video", "problem_type": kind, "solution": solution, "path": path}
    return row | more


def _sided(words: str) -> dict:
    """What has a left or a right in its words is not shown mirrored."""
    return {"task_type": "Temporal"} if _SIDED.search(words) else {}


def by_video(file: Path) -> Iterator[RawRow]:
    """Videos of {video: {"duration", "timestamps", "sentences"}}, numbered from 1; ValueError for another layout."""
    try:
        videos = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: is not valid JSON: {error}") from error
    if not isinstance(videos, dict):
        raise ValueError(f"{file}: must map videos to their duration, timestamps and sentences")
    for number, (video, value) in enumerate(videos.items(), start=1):
        if isinstance(value, dict):
            yield RawRow(number, value | {"video": video})
        else:
            yield RawRow(number, fault=f"of {video!r} must be an object")


def by_sentence(file: Path) -> Iterator[RawRow]:
    """The same, a row a sentence, numbered from 1 through the whole file."""
    number = 0
    for raw in by_video(file):
        video = raw.value or {}
        times, sentences = video.get("timestamps"), video.get("sentences")
        if raw.fault or not (isinstance(times, list) and isinstance(sentences, list) and len(times) == len(sentences)):
            number += 1
            name = video.get("video", "")
            yield RawRow(number, fault=raw.fault or f"of {name!r} must have as many timestamps as sentences")
            continue
        for index, (time, sentence) in enumerate(zip(times, sentences, strict=True)):
            number += 1
            name = f"{video['video']}/{index}"
            yield RawRow(number, video | {"id": name, "timestamp": time, "sentence": sentence})


def moment(row: dict, stem: str) -> dict:
    """Charades-STA, ActivityNet Captions: a sentence, lowered and without its final period, and its [start, end].

    (VideoChat-R1 trains on intervals that end after their clip, too: 15 of the 105 rows of Charades-STA at hand, by up
    to 1.3 s. Here they are refused, a reversed clip has no such time.)
    """
    sentence = text_of(row, "sentence").lower().removesuffix(".").strip()
    solution = {"intervals": [row.get("timestamp")], "duration": _number(row, "duration")}
    return _graded("temporal grounding", sentence, solution, f"{text_of(row, 'video')}.mp4", **_sided(sentence))


def events(row: dict, stem: str) -> dict:
    """ActivityNet Captions as a caption's events (ours; VideoChat-R1's caption rows are not released)."""
    solution = {"events": texts_of(row, "sentences")}
    return _graded("caption", "What happens in this video?", solution, f"{text_of(row, 'video')}.mp4")


def grounded_qa(row: dict, stem: str) -> dict:
    """NExT-GQA: {id, video, question, options "(A) ..", duration, glue [[s, e], ..], type, answer "(C)"}."""
    solution = {"letter": row.get("answer"), "intervals": row.get("glue"), "duration": _number(row, "duration")}
    more = {"options": texts_of(row, "options"), "original_question_type": str(row.get("type") or "")}
    return _graded("grounded qa", text_of(row, "question"), solution, text_of(row, "video"), **more)


def track(row: dict, stem: str) -> dict:
    """GOT-10k: {path, object, gt: 8 boxes [x0, y0, x1, y1] in 0..1}. `path` is a folder of frames there: the clip is
    looked for under its name with .mp4, which `python -m data.frames` writes."""
    boxes = row.get("gt")
    if not isinstance(boxes, list) or len(boxes) != TRACKED:
        raise Refused("gt", f"must be {TRACKED} boxes", f"got {len(boxes) if isinstance(boxes, list) else boxes!r}")
    name = text_of(row, "object")
    return _graded("tracking", name, {"boxes": boxes}, f"{text_of(row, 'path')}.mp4", **_sided(name))


def quality(row: dict, stem: str) -> dict:
    """VideoEval's quality rows: {video, instruction, answer}. Mirrored or reversed, a clip is as good as before."""
    solution = {"label": text_of(row, "answer")}
    return _graded("quality", text_of(row, "instruction"), solution, text_of(row, "video"), task_type="Static")


_RELEASE = "OpenGVLab/VideoChat-R1"

NEIGHBOURS = {
    "charades_sta": Corpus("Charades-STA", moment, _RELEASE, "", ("id",), by_sentence),
    "activitynet": Corpus("ActivityNet Captions", moment, _RELEASE, "", ("id",), by_sentence),
    "activitynet_captions": Corpus("ActivityNet Captions", events, _RELEASE, "", ("video",), by_video),
    "nextgqa": Corpus("NExT-GQA", grounded_qa, _RELEASE, "", ("id",)),
    "got10k": Corpus("GOT-10k", track, _RELEASE, "", ("path",)),
    "videoeval_quality": Corpus("VideoEval", quality, _RELEASE, ""),
}
"""Name -> corpus, as `data.corpora.CORPORA`; --download fetches none, the files lie in VideoChat-R1's repository."""
