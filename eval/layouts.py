"""Public layouts of the benchmarks -> items: their files, rows and prompts.

| name | questions file | ids |
|---|---|---|
| dybench | the release's JSON files (or folder); rows of our own format are `eval/benchmarks.py`'s | PAIR/SIDE |
| timeblind | data.jsonl | row index |
| tempcompass_* | the repository's JSON, video -> dim -> list; or the release's parquet (or folder) | VIDEO/DIM/INDEX |
| videomme | the parquet file, or its folder; JSON rows with the same columns | question_id |
| charades_sta, activitynet | VideoChat-R1's JSON, video -> timestamps and sentences | VIDEO/INDEX |
| nextgqa, got10k | VideoChat-R1's JSON list | the row's id; its path |
| mvbench | json/TASK.json, the folder json/ of the 20, or test.json of the release's branch `video` | TASK/INDEX |

Where clips lie below the data root is tried in the order of the layouts known (`_clip`); none is opened here. A clip
that is not there is a question that `eval.run` cannot ask: neither right nor wrong, the benchmark has no result until
it is asked or --accept-missing counts it as wrong. MVBench's episodic_reasoning from json/ cannot be asked at all, its
"videos" are folders of frames; the branch `video` has it as mp4, and all other clips ready cut.

The prompts are the texts that VLMEvalKit and TimeBlind's repository send, as one user turn behind the video; DyBench's
is not public, and ours asks in the same style. TimeBlind's gold answers are its scorer's: in each block of four rows
yes/A, no/B, no/B, yes/A, whatever the column `answer` says.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from data.corpora import Refused
from data.dataset import BadRow
from data.neighbours import NEIGHBOURS
from data.parquet import read_parquet
from data.paths import Outside, confined
from data.rows import RawRow, read_rows
from episode import Question
from eval.replies import caption_options
from tasks import TASKS, canonical, user_turn
from verifiers import canonical_answer, lettered, split_option


@dataclass(frozen=True)
class Item:
    """One question of a benchmark."""

    id: str
    """Unique within the benchmark; the table above."""
    question: Question
    """`options` are ("A. ...", ...) whatever the release writes; empty for yes/no, whose `gold` is "yes" or "no"."""
    prompt: str
    """Text of the user turn, in the benchmark's own words."""
    facts: dict[str, str] = field(default_factory=dict)
    """What results are grouped by (duration, dim, task, ...); TimeBlind's instance and role."""
    layout: dict[str, str] = field(default_factory=dict)
    """What else the release says and other tools want: the clip's name, the options' label, ..."""


class _Refused(Exception):
    """Field, reason, detail of a row that cannot be used; becomes a BadRow."""

    def __init__(self, field: str, reason: str, detail: object = ""):
        super().__init__(field, reason, str(detail)[:200])


@dataclass(frozen=True)
class _Row:
    """A row of a release and where it stands."""

    value: dict
    number: int
    """1-based, in its file."""
    key: str = ""
    """What the layout says outside the row: MVBench's task, DyBench's sub-task, TempCompass' VIDEO/DIM."""
    index: int = 0
    """0-based, among the rows of the same key."""
    folder: str = ""
    """Of the clip (MVBench's branch `video`), or before the pair's name (DyBench), where the layout says so."""

    def text(self, *names: str) -> str:
        """The first of these fields that is there. _Refused where none is, or it is no text."""
        for name in names:
            value = self.value.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                value = str(value)
            if isinstance(value, str) and value.strip():
                return value.strip()
            if value not in (None, ""):
                raise _Refused(name, "must be text", f"got {type(value).__name__}")
        raise _Refused(names[0], "missing or empty", f"none of {', '.join(names)}; the row has {_names(self.value)}")

    def text_or(self, default: str, *names: str) -> str:
        """`text`, but `default` where the row has none of these fields."""
        return self.text(*names) if any(self.value.get(name) not in (None, "") for name in names) else default

    def whole(self, name: str, default: int) -> int:
        """A number of a row, from 0; `default` where the row has none."""
        value = self.value.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or not 0 <= value < 1e9:
            raise _Refused(name, "must be a whole number, 0 or more", f"got {value!r}")
        return int(value)

    def seconds(self, name: str) -> float:
        value = self.value.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
            raise _Refused(name, "must be a number of seconds, 0 or more", f"got {value!r}")
        return float(value)


def _names(row: dict) -> str:
    return ", ".join(map(str, row))


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _records(file: Path) -> Iterator[RawRow]:
    return read_parquet(file) if file.suffix == ".parquet" else read_rows(file)


def _document(file: Path) -> Any:
    """A JSON document; None where the file is none (JSONL, parquet)."""
    if file.suffix != ".json":
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":  # JSONL under the name of JSON
            return None
        raise ValueError(f"{file}: is not valid JSON: {error}") from error


def _files(path: Path, *patterns: str) -> list[Path]:
    """The file, or those of the folder; ValueError, one line, where there is none."""
    if not path.exists():
        raise ValueError(f"{path}: no such file or folder; give the benchmark's questions")
    found = sorted({file for pattern in patterns for file in path.glob(pattern)}) if path.is_dir() else [path]
    if not found:
        raise ValueError(f"{path}: the folder holds none of {', '.join(patterns)}")
    return found


def _plain(path: Path, *patterns: str) -> Iterator[tuple[Path, RawRow]]:
    """Rows of lists: JSON, JSONL, parquet."""
    for file in _files(path, *patterns):
        yield from ((file, raw) for raw in _records(file))


def _clip(root: Path | None, video: str, *patterns: str) -> str | None:
    """Absolute path of the first pattern ("videos/{}.mp4") that is there, else the first; None without a data root."""
    if root is None:
        return None
    if not video:
        raise _Refused("video", "missing or empty")
    candidates = [pattern.replace("{}", video) for pattern in patterns]
    try:
        paths = [confined(root, candidate) for candidate in candidates]
    except Outside as error:
        raise _Refused("video", str(error), repr(video)) from error
    return next((path for path in paths if os.path.exists(path)), paths[0])


# ---------------------------------------------------------------------------------------------------------------------
# Questions


def _options(texts: object, field: str) -> tuple[str, ...]:
    """("A. left", ...) of options with or without letters of their own."""
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str | int | float) for text in texts):
        raise _Refused(field, "must be a list of texts", f"got {type(texts).__name__}")
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise _Refused(field, "must be 2 to 26", f"got {len(texts)}")
    texts = [str(text).strip() for text in texts]
    pairs = [split_option(text) for text in texts]
    if all(pair and pair[0] == letter and pair[1] for pair, letter in zip(pairs, ascii_uppercase, strict=False)):
        texts = [text for _, text in pairs]
    return lettered(texts)


def _choice(row: _Row, name: str, problem: str, options: tuple[str, ...], gold: str, **more) -> Question:
    """A multiple choice question; `gold` may be a letter, an option's text, or both."""
    same = [option[0] for option in options if option[3:] == gold]  # also where two differ in case alone
    letter = same[0] if len(same) == 1 else canonical_answer(gold, options, "multiple choice")
    if letter is None:
        raise _Refused("answer", "is none of the options", f"got {gold!r}")
    return Question("", row.number, problem, "video", "multiple choice", options, letter, data_source=name, **more)


def _yes_no(row: _Row, name: str, problem: str, gold: str, **more) -> Question:
    if gold not in ("yes", "no"):
        raise _Refused("answer", "must be yes or no", f"got {gold!r}")
    return Question("", row.number, problem, "video", "free-form", (), gold, data_source=name, **more)


DYBENCH_REQUEST = "Please directly give the letter of the best option."
PAIR_FIELDS = ("pair_id", "pair", "pair_idx", "pair_index", "group_id")
"""Where the released DyBench rows may name their pair: its files are gated and its columns unknown to us."""


def dybench_text(question: Question) -> str:
    """What a DyBench question asks for."""
    return "\n".join([question.problem, "Options:", *question.options, DYBENCH_REQUEST])


def _dybench_files(path: Path) -> Iterator[tuple[Path, _Row | RawRow]]:
    for file in _files(path, "*.json", "*.jsonl"):
        index: Counter = Counter()
        for raw in _records(file):
            if raw.fault or not isinstance(raw.value, dict):
                yield file, raw
                continue
            # The files of the folder may count their pairs each from 0.
            row = _Row(raw.value, raw.number, file.stem, folder=f"{file.stem}/" if path.is_dir() else "")
            pair = next((str(raw.value[name]) for name in PAIR_FIELDS if raw.value.get(name) is not None), "")
            yield file, replace(row, index=index[pair])
            index[pair] += 1


def _dybench(row: _Row, root: Path | None) -> Item:
    """A row of the release, in MVBench's style: video, question, candidates, answer, and a pair's name (PAIR_FIELDS).
    Without `side`, a pair's first row is side a. Refused by name for anything else.
    """
    pair = row.folder + row.text(*PAIR_FIELDS)
    side = row.text_or("ab"[row.index : row.index + 1], "side").lower()
    if side not in ("a", "b"):
        raise _Refused("side", "must be a or b, once each", f"got {side or 'a third row'!r} for pair {pair!r}")
    field = next((name for name in ("candidates", "options", "choices") if name in row.value), "candidates")
    options = _options(row.value.get(field), field)
    video = row.text_or("", "video", "video_path", "path")
    subtask = row.text_or(row.key, "subtask")
    question = _choice(
        row, "dybench", row.text("question", "problem"), options, row.text("answer", "solution"),
        path=_clip(root, video, "{}", "videos/{}", "video/{}", f"{subtask}/{{}}", f"videos/{subtask}/{{}}"),
        pair_id=pair, side=side, subtask=subtask,
    )  # fmt: skip
    return Item(f"{pair}/{side}", question, dybench_text(question))


TIMEBLIND_PATTERN = (True, False, False, True)
"""Right answers of rows 4i..4i+3 = (Q0, V0), (Q0, V1), (Q1, V0), (Q1, V1); True is yes or A."""


def _timeblind(row: _Row, root: Path | None) -> Item:
    """index, video_path, question, type = yes_no | multiple_choice (whose options stand in the question)."""
    index = row.whole("index", row.number - 1)
    problem, kind = row.text("question"), row.text("type")
    positive, role = TIMEBLIND_PATTERN[index % 4], index % 4
    video = row.text_or("", "video_path").removeprefix("TimeBlind/")
    path = _clip(root, video, "{}", "TimeBlind/{}")
    more = {"path": path, "pair_id": str(index // 4), "side": "ab"[index % 2], "subtask": kind}
    if kind == "yes_no":
        question = _yes_no(row, "timeblind", problem, "yes" if positive else "no", **more)
        prompt = f"{problem} Please output Yes or No."
    elif kind == "multiple_choice":
        question = _choice(row, "timeblind", problem, _ab_options(problem), "A" if positive else "B", **more)
        prompt = f"{problem} Please output A or B."
    else:
        raise _Refused("type", "must be yes_no or multiple_choice", f"got {kind!r}")
    facts = {"type": kind, "instance": str(index // 4), "role": str(role)}
    layout = {"video": video, "answer": str(row.value.get("answer") or "")}
    return Item(str(index), question, prompt, facts, layout)


def _ab_options(problem: str) -> tuple[str, str]:
    """The two options inside a TimeBlind question, bare letters where they cannot be told from the text."""
    for a, b in (("A.", "B."), ("(A)", "(B)"), ("A)", "B)"), ("A:", "B:")):
        before, mark, rest = problem.rpartition(a)
        first, second_mark, second = rest.partition(b)
        if mark and second_mark and first.strip() and second.strip():
            return f"A. {first.strip(' ,;')}", f"B. {second.strip()}"
    return "A", "B"


_TEMPCOMPASS_REQUEST = {
    "tempcompass_multi_choice": "\nPlease directly give the best option:",
    "tempcompass_caption_matching": "\nPlease directly give the best option:",
    "tempcompass_yes_no": "\nPlease answer yes or no:",
    "tempcompass_captioning": "",
}


def _tempcompass_files(path: Path) -> Iterator[tuple[Path, _Row | RawRow]]:
    """The repository's tree (video -> dim -> list), or rows with video_id and dim."""
    for file in _files(path, "*.parquet", "*.json"):
        tree = _document(file)
        if isinstance(tree, dict) and "question" not in tree:
            number = 0
            for video, dims in tree.items():
                if not isinstance(dims, dict) or not all(isinstance(rows, list) for rows in dims.values()):
                    raise ValueError(f"{file}: {video!r} must hold its rows by dimension, as TempCompass' files do")
                for dim, rows in dims.items():
                    for index, value in enumerate(rows):
                        number += 1
                        row = _Row(value, number, f"{video}/{dim}", index)
                        yield file, row if isinstance(value, dict) else RawRow(number, value)
            continue
        index: Counter = Counter()
        for raw in _records(file):
            row = raw
            if isinstance(raw.value, dict):
                key = f"{raw.value.get('video_id') or ''}/{raw.value.get('dim') or ''}"
                row = _Row(raw.value, raw.number, key, index[key])
                index[key] += 1
            yield file, row


def _tempcompass(name: str, row: _Row, root: Path | None) -> Item:
    video, _, dim = row.key.partition("/")
    if not video or not dim:
        raise _Refused("video_id" if not video else "dim", "missing or empty", f"the row has {_names(row.value)}")
    text, answer = row.text("question"), row.text("answer")
    stem, *lines = [line.strip() for line in text.split("\n") if line.strip()]
    more = {"path": _clip(root, video, "videos/{}.mp4", "{}.mp4"), "subtask": dim}
    layout = {"video": video, "question": text, "answer": answer}
    if name == "tempcompass_yes_no":
        question = _yes_no(row, name, text, answer.lower(), **more)
    elif name == "tempcompass_multi_choice":
        question = _choice(row, name, stem, _options(lines, "question"), answer, **more)
    elif name == "tempcompass_caption_matching":
        options = [line.partition(": ")[2] for line in lines]
        if not all(options) or answer not in lines:
            raise _Refused("question", 'must hold lines as "Caption A: ...", one of them the answer', f"got {lines!r}")
        question = _choice(row, name, stem, _options(options, "question"), "ABCDEF"[lines.index(answer)], **more)
        layout["label"] = lines[0].split()[0]
    else:
        try:
            options = caption_options(text)
        except ValueError as error:
            raise _Refused("question", "holds no information to choose from", error) from error
        question = _choice(row, name, text, _options(options, "question"), answer.partition(".")[0], **more)
        layout |= {key: row.text(key) for key in ("mc_question", "mc_answer") if row.value.get(key)}
    facts = {"dim": dim, "task": name.removeprefix("tempcompass_")}
    return Item(f"{row.key}/{row.index}", question, text + _TEMPCOMPASS_REQUEST[name], facts, layout)


VIDEOMME_REQUEST = (
    "These are the frames of a video. Select the best answer to the following multiple-choice question based on the "
    "video. Respond with only the letter (A, B, C, or D) of the correct option.\n"
)


def _videomme(row: _Row, root: Path | None) -> Item:
    """Without subtitles, which is the default of VLMEvalKit and of the paper's table."""
    options = _options(row.value.get("options"), "options")
    video = row.text_or("", "videoID")
    path = _clip(root, video, "data/{}.mp4", "videos/{}.mp4", "video/{}.mp4", "{}.mp4")
    question = _choice(row, "videomme", row.text("question"), options, row.text("answer"), path=path)
    prompt = f"{VIDEOMME_REQUEST}Question: {question.problem}\n" + "\n".join(options) + "\nAnswer: "
    facts = {name: row.text_or("", name) for name in ("duration", "domain", "sub_category", "task_type")}
    question = replace(question, subtask=facts["task_type"] or None)
    return Item(row.text("question_id"), question, prompt, facts, {"video": video})


MVBENCH_REQUEST = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_v1_480", "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video", "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test", "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480", "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation", "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video", "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation", "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos", "fine_grained_pose": "nturgbd", "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa", "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}  # fmt: skip
"""The 20 tasks in the release's order -> where their clips lie below video/."""
MVBENCH_BOUNDED = ("action_sequence", "action_prediction", "object_interaction", "action_localization")
"""Tasks about start..end (seconds) of the file; episodic_reasoning too, of a folder of frames (3 a second)."""


def _mvbench_files(path: Path) -> Iterator[tuple[Path, _Row | RawRow]]:
    order = list(MVBENCH_FOLDERS)
    files = _files(path, "*.json")
    for file in sorted(files, key=lambda file: order.index(file.stem) if file.stem in order else len(order)):
        tree = _document(file)
        if isinstance(tree, dict):  # test.json of the branch `video`: clips are cut
            meta, folders = tree.get("meta"), tree.get("root")
            if not isinstance(meta, dict) or not isinstance(folders, dict):
                raise ValueError(f"{file}: must hold `meta` (task -> rows) and `root` (task -> folder)")
            groups = {task: (rows, str(folders.get(task) or "")) for task, rows in meta.items()}
        else:
            rows = [raw.value if not raw.fault else None for raw in read_rows(file)]
            groups = {file.stem: (rows, "")}
        number = 0
        for task, (rows, folder) in groups.items():
            if not isinstance(rows, list):
                raise ValueError(f"{file}: {task!r} must be a list of rows, got {type(rows).__name__}")
            task = task.lower().replace(" ", "_").replace("-", "_")
            if task not in MVBENCH_FOLDERS:
                raise ValueError(f"{file}: {task!r} is none of MVBench's tasks: {', '.join(MVBENCH_FOLDERS)}")
            for index, value in enumerate(rows):
                number += 1
                row = _Row(value, number, task, index, folder) if isinstance(value, dict) else RawRow(number, value)
                yield file, row


def _mvbench(row: _Row, root: Path | None) -> Item:
    task, video = row.key, row.text_or("", "video")
    options = _options(row.value.get("candidates"), "candidates")
    more: dict[str, Any] = {"subtask": task}
    if row.folder:
        more["path"] = _clip(root, video, f"{row.folder.strip('./')}/{{}}", "{}")
    else:
        place = f"{MVBENCH_FOLDERS[task]}/{{}}"
        more["path"] = _clip(root, video, f"video/{place}", place, f"video/{task}/{{}}", "{}")
        if task in MVBENCH_BOUNDED and (root is not None or "start" in row.value):
            more["start"], more["end"] = row.seconds("start"), row.seconds("end")
            if more["start"] >= more["end"]:
                raise _Refused("start", "must lie before end", f"got {more['start']} and {more['end']}")
    question = _choice(row, "mvbench", row.text("question"), options, row.text("answer"), **more)
    lines = [f"({option[0]}) {option[3:]}" for option in options]
    prompt = f"{MVBENCH_REQUEST}Question: {question.problem}\nOptions:\n" + "\n".join(lines)
    prompt += "\nOnly give the best option.\nBest option:("
    return Item(f"{task}/{row.index}", question, prompt, {"task": task}, {"video": video, "folder": row.folder})


def _grounded_files(name: str, path: Path) -> Iterator[tuple[Path, _Row | RawRow]]:
    for file in _files(path, "*.json"):
        yield from ((file, raw) for raw in NEIGHBOURS[name].rows(file))


def _grounded(name: str, row: _Row, root: Path | None) -> Item:
    """A row as training reads it, in training's words. An interval may end after its clip, as in Charades-STA's own
    test set: it is scored as it is published."""
    corpus = NEIGHBOURS[name]
    try:
        ours = corpus.convert(row.value, "")
        gold, kind = ours["solution"], ours["problem_type"]
        if isinstance(gold.get("intervals"), list):
            ends = [pair[1] for pair in gold["intervals"] if isinstance(pair, list) and len(pair) == 2]
            gold["duration"] = max([gold["duration"], *(end for end in ends if isinstance(end, int | float))])
        options = _options(ours["options"], "options") if ours.get("options") else ()
        gold = canonical(TASKS[kind].check(gold, options))
    except Refused as refusal:
        raise _Refused(*refusal.args) from refusal
    except ValueError as error:
        raise _Refused("solution", *error.args) from error
    path = _clip(root, ours["path"], "{}", "videos/{}", "video/{}")
    question = Question("", row.number, ours["problem"], "video", kind, options, gold, path, data_source=name)
    facts = {"type": ours["original_question_type"]} if ours.get("original_question_type") else {}
    own = corpus.id_of(row.value) or str(row.number)
    return Item(own, question, user_turn(question), facts, {"video": ours["path"]})


# ---------------------------------------------------------------------------------------------------------------------
# The table


@dataclass(frozen=True)
class Layout:
    """How a benchmark is laid out."""

    files: Callable[[Path], Iterator[tuple[Path, _Row | RawRow]]]
    item: Callable[[_Row, Path | None], Item]
    size: int | None
    """Questions of the whole benchmark; None where no source at hand says."""


def _grounded_of(name: str) -> Layout:
    return Layout(lambda path: _grounded_files(name, path), lambda row, root: _grounded(name, row, root), None)


def _tempcompass_of(name: str, size: int) -> Layout:
    return Layout(_tempcompass_files, lambda row, root: _tempcompass(name, row, root), size)


LAYOUTS = {
    "dybench": Layout(_dybench_files, _dybench, 3014),
    "timeblind": Layout(lambda path: _plain(path, "data.jsonl"), _timeblind, 2400),
    "tempcompass_multi_choice": _tempcompass_of("tempcompass_multi_choice", 1580),
    "tempcompass_yes_no": _tempcompass_of("tempcompass_yes_no", 2453),
    "tempcompass_caption_matching": _tempcompass_of("tempcompass_caption_matching", 1503),
    "tempcompass_captioning": _tempcompass_of("tempcompass_captioning", 2004),
    "videomme": Layout(lambda path: _plain(path, "*.parquet", "*.json", "*.jsonl"), _videomme, 2700),
    "mvbench": Layout(_mvbench_files, _mvbench, 4000),
    "charades_sta": _grounded_of("charades_sta"),
    "activitynet": _grounded_of("activitynet"),
    "nextgqa": _grounded_of("nextgqa"),
    "got10k": _grounded_of("got10k"),
}


def read_release(name: str, path: Path, root: Path | None) -> tuple[list[Item], list[BadRow]]:
    """Items of a benchmark's release in its own order, and the rows that cannot be used.

    Without `root`, no item has a path. Raises ValueError, one line, for a file that cannot be read, or is laid out in
    another way.
    """
    items, bad, layout = [], [], LAYOUTS[name]
    for file, row in layout.files(path):
        try:
            if isinstance(row, RawRow):
                if row.fault or not isinstance(row.value, dict):
                    raise _Refused("row", row.fault or "must be an object", type(row.value).__name__)
                row = _Row(row.value, row.number)
            item = layout.item(row, root)
            items.append(replace(item, question=replace(item.question, id=item.id)))
        except _Refused as refusal:
            bad.append(BadRow(str(file), row.number, *refusal.args))
    return items, bad
