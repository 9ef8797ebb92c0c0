r"""The seven public corpora of the paper's training set (Tables 6 and 8): one row of a release -> one row of ours.

A function per corpus, pure; the table CORPORA at the end names them. Each raises Refused at the first thing that keeps
a row out. What is kept and how a gold answer is read follows the recipe donor's loaders (VideoAuto-R1). Its released
filtered lists hold whole rows with the columns of the releases, except where a docstring says otherwise, so they go
through the same functions. No release could be opened here: "verified" means seen in public code that reads it.

A row may hold an image's bytes as its "path": `data.sources` puts them into a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import ascii_uppercase

from data.rows import RawRow, read_rows
from verifiers import last_box, split_option

CLIPPED_TASKS = ("action_sequence", "action_localization")
"""TVBench's tasks whose question is about start..end of the video."""
MAX_MATH_CHARS = 1_000


class Refused(Exception):
    """Why a row is not taken: field (of the release), reason, detail. Becomes a data.dataset.BadRow."""

    def __init__(self, field: str, reason: str, detail: object = ""):
        super().__init__(field, reason, str(detail)[:200])


def text_of(row: dict, name: str) -> str:
    """A field of a release's row as text; Refused where it is missing, empty or neither text nor a number."""
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        raise Refused(name, "missing or empty")
    if not isinstance(value, str):
        raise Refused(name, "must be text", f"got {type(value).__name__}")
    return value.strip()


def texts_of(row: dict, name: str) -> list[str]:
    """A field that is a list of texts; Refused where it is none."""
    values = row.get(name)
    if not isinstance(values, list) or not all(isinstance(value, str | int | float) for value in values):
        raise Refused(name, "must be a list of texts", f"got {type(values).__name__}")
    return [str(value) for value in values]


def _video_choice(problem: str, options: list[str], gold: str, path: str, kind: object) -> dict:
    """A multiple choice question about a video; `kind` is the release's own category, which nothing reads."""
    return {
        "problem": problem,
        "data_type": "video",
        "problem_type": "multiple choice",
        "original_question_type": kind if isinstance(kind, str) else "",
        "options": options,
        "solution": f"<answer>{gold}</answer>",
        "path": path,
    }


def is_math(answer: str) -> bool:
    """The donor's rule for answers of unstated type: math where math-verify's `parse`, as it comes, finds anything.

    It looks for a number that stands free, or for $...$: "12 cm" and "$x$" are math, "A", "(1,2)" and "x+y" are not.
    """
    from math_verify import parse

    return len(answer) <= MAX_MATH_CHARS and bool(parse(answer))


def _open_question(row: dict, question: str, gold: str, **media) -> dict:
    """Judged as math, or as text where the answer is none. A `problem_type` that the row states decides."""
    stated = row.get("problem_type")
    if stated not in (None, "math", "exact_match"):
        raise Refused("problem_type", "must be math or exact_match", f"got {stated!r}")
    math = stated == "math" if stated else is_math(gold)
    return {
        "problem": text_of(row, question).replace("<image>", "").strip(),
        "data_type": "image" if media else "text",
        "problem_type": "math" if math else "free-form",
        "solution": f"<answer>{gold}</answer>",
    } | media


def _image(value: object) -> str | bytes:
    """A path, or bytes, bare or as the {"bytes", "path"} of Hugging Face's Image; bytes win where both are given."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not value or not isinstance(value, str | bytes):
        raise Refused("image", "must be a path or an image's bytes", f"got {type(value).__name__}")
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Video


def video_r1(row: dict, stem: str) -> dict:
    """Video-R1/Video-R1-data, Video-R1-260k.json: a JSON list in what is our own row format; its paths are relative to
    the release's folder. Kept, as the donor does: "multiple choice" and "numerical" rows with an answer tag.

    The donor's list is the same with fewer rows. Its `data_source` (a folder such as CLEVRER) becomes
    `original_source`. Not verified: that no `problem_id` occurs twice.
    """
    kind = text_of(row, "problem_type").casefold()
    if kind not in ("multiple choice", "numerical"):
        raise Refused("problem_type", 'only "multiple choice" and "numerical" are kept', f"got {kind!r}")
    if "<answer>" not in text_of(row, "solution"):
        raise Refused("solution", "holds no answer tag")
    fields = ("problem", "data_type", "options", "solution", "path", "task_type", "start", "end")
    kept = {name: row[name] for name in fields if row.get(name) is not None}
    return kept | {"problem_type": kind, "original_source": str(row.get("data_source") or "")}


def tvbench(row: dict, stem: str) -> dict:
    """FunAGI/TVBench, json/TASK.json: video, question, candidates, answer and, for two tasks, start and end (seconds).

    The task is the file's name, and the folder of its videos; letters are generated; the gold letter is that of the
    candidate equal to the answer. Verified: names of tasks, columns.
    """
    candidates, answer = texts_of(row, "candidates"), text_of(row, "answer")
    if len(candidates) > len(ascii_uppercase):
        raise Refused("candidates", "are more than the letters", len(candidates))
    if answer not in (stripped := [candidate.strip() for candidate in candidates]):
        raise Refused("answer", "is none of the candidates", f"got {answer!r}")
    options = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, stripped, strict=False)]
    if stripped.count(answer) > 1:
        raise Refused("candidates", "hold the answer twice: one of two right letters would be wrong", f"{answer!r}")
    gold = ascii_uppercase[stripped.index(answer)]
    question = _video_choice(text_of(row, "question"), options, gold, f"{stem}/{text_of(row, 'video')}", stem)
    if stem in CLIPPED_TASKS:
        for bound in ("start", "end"):
            if row.get(bound) is None:
                raise Refused(bound, "missing; the question is about this part of the video")
            question[bound] = row[bound]
    return question


def sti_bench(row: dict, stem: str) -> dict:
    """MINT-SJTU/STI-Bench, qa.parquet: Video, Question, Candidates, Answer, time_start, time_end, Task.

    "From 1.0 s to 5.0 s." stands before the question; the whole video is shown, as by the donor; options read
    "(A) ...". Candidates are letter -> text: an object, or JSON text of one. Verified: these columns but Task, both
    forms. Not verified: whether `ID` is unique, so rows are named by their place.
    """
    candidates = row.get("Candidates")
    if isinstance(candidates, str):
        try:
            candidates = json.loads(candidates)
        except (ValueError, RecursionError) as error:
            raise Refused("Candidates", "is not valid JSON") from error
    if not isinstance(candidates, dict):
        raise Refused("Candidates", "must map letters to texts", f"got {type(candidates).__name__}")
    times = [row.get(name) for name in ("time_start", "time_end")]
    for name, value in zip(("time_start", "time_end"), times, strict=True):
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise Refused(name, "must be a number of seconds", f"got {value!r}")
    if not 0 <= times[0] < times[1] < float("inf"):
        raise Refused("time_start", "must lie before time_end, neither negative", f"got {times[0]} and {times[1]}")
    problem = f"From {times[0]} s to {times[1]} s. {text_of(row, 'Question')}"
    options = [f"({letter}) {text}" for letter, text in sorted(candidates.items()) if text is not None]
    return _video_choice(problem, options, text_of(row, "Answer"), text_of(row, "Video"), row.get("Task"))


_BRACKETED = re.compile(r"\(([A-Z])\)")


def mmr_v(row: dict, stem: str) -> dict:
    """JokerJan/MMR-VBench, data/test-*.parquet: video, question, options ("(A) ..."), correctAnswer ("(A) ...").

    Empty options are padding and dropped; the rest read "A. ..."; the gold letter is correctAnswer's. Verified: these
    columns. Not verified: whether `question_idx` is unique, so rows are named by their place.
    """
    pairs = [(option, split_option(option)) for option in texts_of(row, "options") if option.strip()]
    for option, pair in pairs:
        if pair is None:
            raise Refused("options", 'each must start with its letter, as "(A) left"', f"got {option!r}")
    gold = _BRACKETED.match(text_of(row, "correctAnswer"))
    if gold is None:
        raise Refused("correctAnswer", 'must start with its letter, as "(A)"', f"got {row['correctAnswer']!r}")
    options = [f"{letter}. {text}" for _, (letter, text) in pairs]
    return _video_choice(text_of(row, "question"), options, gold[1], text_of(row, "video"), row.get("abilityType_L2"))


# ---------------------------------------------------------------------------------------------------------------------
# Text and images

_DAPO_FIRST = "Solve the following math problem step by step."
_DAPO_LAST = 'Remember to put your answer on its own line after "Answer:".'


def dapo_math(row: dict, stem: str) -> dict:
    """BytedTsinghua-SIA/DAPO-Math-17k, data/*.parquet: prompt[0].content, reward_model.ground_truth, extra_info.index.

    Its first paragraph and last line ask for "Answer: ..." and are taken off: ours is asked for in a box. Each problem
    stands there about a hundred times; the repeats are refused, by `index`. The donor's list (and the "processed"
    release) has the bare `prompt` and its `solution`. Verified: the wording, both forms.
    """
    prompt = row.get("prompt")
    if isinstance(prompt, str):
        return _open_question(row | {"problem_type": "math"}, "prompt", text_of(row, "solution"))
    messages = prompt if isinstance(prompt, list) and len(prompt) == 1 else [None]
    if not isinstance(messages[0], dict):
        raise Refused("prompt", "must be text or a list of one message")
    first, _, problem = text_of(messages[0], "content").partition("\n\n")
    if not first.startswith(_DAPO_FIRST) or not problem.endswith(_DAPO_LAST):
        raise Refused("prompt", "lacks the instructions of the release", f"begins {first[:60]!r}")
    reward = row.get("reward_model")
    gold = text_of(reward if isinstance(reward, dict) else {}, "ground_truth")
    return _open_question({"prompt": problem.removesuffix(_DAPO_LAST), "problem_type": "math"}, "prompt", gold)


def virl(row: dict, stem: str) -> dict:
    r"""TIGER-Lab/ViRL39K, 39Krelease.parquet: question (with "<image>"), answer (\boxed{...}), image (list), qid.

    Rows of one image only; the gold answer is what the box holds. Verified: columns. Not verified: the file's name;
    that images are paths into the release's images.zip.
    """
    images = row.get("image")
    if not isinstance(images, list) or len(images) != 1:
        raise Refused("image", "rows of exactly one image are kept", f"got {images!r}"[:60])
    gold = last_box(text_of(row, "answer"))
    if gold is None:
        raise Refused("answer", "holds no \\boxed{}")
    return _open_question({"question": row.get("question")}, "question", gold.strip(), path=_image(images[0]))


def thinklite_vl_hard(row: dict, stem: str) -> dict:
    """russwang/ThinkLite-VL-hard-11k, a parquet file: id, problem, answer, image (bytes).

    The donor's list has an image path, `ground_truth` and `problem_type` (math, exact_match) instead. Verified: both
    sets of columns. Not verified: whether rows of the release have a `ground_truth` beside `answer` (it would be used),
    nor that `id` is unique, so rows are named by their place.
    """
    gold = text_of(row, "ground_truth" if row.get("ground_truth") is not None else "answer")
    return _open_question(row, "problem", gold, path=_image(row.get("image")))


# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Corpus:
    """Where a corpus comes from, and how its rows become ours."""

    title: str
    """`data_source` of its rows: the name in the paper's tables."""
    convert: Callable[[dict, str], dict]
    """(row of the release, name of its file without the ending) -> our row without id and source."""
    repo: str
    """Dataset on Hugging Face."""
    annotations: str
    """The release's annotation files, as a pattern of its paths."""
    own_id: tuple[str, ...] = ()
    """Where a row holds the release's id; empty: rows are named by file and place."""
    rows: Callable[[Path], Iterator[RawRow]] = read_rows
    """Opens an annotation file that is no parquet; rows of JSON or JSONL unless it is laid out otherwise."""

    def id_of(self, row: dict) -> str | None:
        """The release's own id of a row, None without one."""
        value = row if self.own_id else None
        for name in self.own_id:
            value = value.get(name) if isinstance(value, dict) else None
        return str(value) if isinstance(value, str | int) and str(value).strip() else None


CORPORA = {
    "video_r1": Corpus("Video-R1", video_r1, "Video-R1/Video-R1-data", "Video-R1-260k.json", ("problem_id",)),
    "tvbench": Corpus("TVBench", tvbench, "FunAGI/TVBench", "json/*.json"),
    "sti_bench": Corpus("STI-Bench", sti_bench, "MINT-SJTU/STI-Bench", "qa.parquet"),
    "mmr_v": Corpus("MMR-VBench", mmr_v, "JokerJan/MMR-VBench", "data/*.parquet"),
    "dapo_math": Corpus(
        "DAPO-Math", dapo_math, "BytedTsinghua-SIA/DAPO-Math-17k", "data/*.parquet", ("extra_info", "index")
    ),
    "virl": Corpus("ViRL", virl, "TIGER-Lab/ViRL39K", "39Krelease.parquet", ("qid",)),
    "thinklite_vl_hard": Corpus("ThinkLite-VL-Hard", thinklite_vl_hard, "russwang/ThinkLite-VL-hard-11k", "*.parquet"),
}


def inside(prefix: str, path: str) -> str:
    """`path` below `prefix`; Refused if empty or climbing. An absolute one stays absolute: the loader refuses it."""
    if not path.strip():
        raise Refused("path", "missing or empty")
    joined = PurePosixPath(prefix, path)
    if ".." in joined.parts:
        raise Refused("path", 'must not hold ".."', f"got {path!r}")
    return str(joined)
