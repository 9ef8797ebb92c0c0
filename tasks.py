r"""Problem types whose answers are right in part: how each is asked, read and graded, one row of TASKS a type.

VideoChat-R1's (arXiv 2504.06958): temporal grounding, tracking, grounded QA, QA, quality, caption. Formats and rewards
are the published ones, the words of the prompts ours; where its code and we differ, the line says so. Masked Video
Prediction's (2601.03781): order. Video-STR's (2510.10976): relation choice, number, box, interval. Of these two the
task and the kinds of reward are published, formulas and prompts are our reconstruction (`order.py`, `graphs.py`).

A gold answer is an object of named parts, {"intervals": [[24.3, 30.4]], "duration": 30.96}; so is an answer, without
what only the gold needs. Both travel as JSON text in canonical form (`Question.gold`, `Facts.answer`). An answer may
lack parts it should have; what they would earn is 0. Where the parts' names have a map, `transforms.mapped_gold` knows
what is right on the counterfactual clip, and CRPO pays for that in the place of "changed" (ours, not published).

Every reader here is linear in the length of the text and raises on no text whatever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite

import order
from graphs import graph_score, mean_relative_accuracy
from graphs import read as read_graph
from grounding import box_iou, interval_iou, mean_overlap
from transforms import COUNTERFACTUALS, TASK_TRANSFORMS, mapped_gold


@dataclass(frozen=True)
class Task:
    """A type of question. `gold` and `answer` are objects of named parts."""

    prompt: str
    """The user turn. [PROBLEM], [OPTIONS], [START] (the first gold box) and [BOXES] (how many) are the row's."""
    check: Callable[[dict, Sequence[str]], dict]
    """(gold as the row has it, options) -> gold in canonical form. ValueError(reason, detail) where it is none."""
    read: Callable[[str, dict], dict]
    """(completion, gold) -> answer; empty where nothing can be read."""
    grade: Callable[[dict, dict], dict[str, float]]
    """(answer, gold) -> published terms by name, each 0..1: the same names whatever the answer."""
    well_formed: Callable[[str, dict], bool]
    """(completion, gold) -> R_format."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Term -> what it pays: 1 where it is not named, 0 for one that is only logged."""

    def terms(self, answer: str | None, gold: str) -> dict[str, float]:
        """Every term by name, 0..1."""
        return self.grade({} if answer is None else json.loads(answer), json.loads(gold))

    def worth(self, gold: str) -> float:
        """The published sum at its highest, without the format reward: what a score of 1 pays."""
        return sum(self.weights.get(name, 1.0) for name in self.terms(None, gold))

    def score(self, answer: str | None, gold: str) -> float:
        """0..1: the published sum over `worth`."""
        paid = sum(self.weights.get(name, 1.0) * value for name, value in self.terms(answer, gold).items())
        return paid / self.worth(gold)

    def similarity(self, gold: str, answer: str, other: str) -> float:
        """The score of one answer held against another, or against a gold: what `rewards.py` takes. Parts that `other`
        has not, such as a duration, are the question's `gold`'s."""
        return self.score(answer, canonical(json.loads(gold) | json.loads(other)))


def user_turn(question) -> str:
    """The text that a question of one of TASKS is asked with."""
    text = TASKS[question.problem_type].prompt
    if "[START]" in text:  # of this view: a mirrored clip starts with a mirrored box
        boxes = json.loads(question.gold)["boxes"]
        text = text.replace("[START]", str([round(side, 3) for side in boxes[0]])).replace("[BOXES]", str(len(boxes)))
    return text.replace("[OPTIONS]", "\n".join(question.options)).replace("[PROBLEM]", question.problem)


def canonical(parts: dict) -> str:
    """An answer or a gold answer as text."""
    return json.dumps(parts, ensure_ascii=False)


def counterfactual_golds(question, allowed: Sequence[str] = COUNTERFACTUALS) -> dict[str, str]:
    """Transform -> gold answer under it, of those `allowed` under which it is known what is right.

    A row's task type, where it has one, names the transforms that its words survive, and says by "Static" that letters
    and words stay; without one all transforms are tried.
    """
    parts, static = json.loads(question.gold), question.task_type == "Static"
    names = TASK_TRANSFORMS.get(question.task_type, COUNTERFACTUALS)
    mapped = {name: mapped_gold(parts, name, static=static) for name in names if name in allowed}
    return {name: canonical(gold) for name, gold in mapped.items() if gold is not None}


# ---------------------------------------------------------------------------------------------------------------------
# Tags


def blocks(text: str, tag: str) -> list[str]:
    """What stands in each <tag>...</tag>, in order."""
    found, end = [], 0
    while (start := text.find(f"<{tag}>", end)) >= 0 and (end := text.find(f"</{tag}>", start)) >= 0:
        found.append(text[start + len(tag) + 2 : end])
    return found


def tagged(text: str, *tags: str) -> bool:
    """Whether the text is these blocks, white space between them and nothing around: VideoChat-R1's pattern
    <a>.*?</a>\\s*<b>.*?</b>, matched in full, in linear time."""
    text, at = text.strip(), len(tags[0]) + 2
    if not (text.startswith(f"<{tags[0]}>") and text.endswith(f"</{tags[-1]}>")):
        return False
    for before, after in zip(tags, tags[1:], strict=False):
        seam = re.compile(rf"</{before}>\s*<{after}>").search(text, at)
        if seam is None:
            return False
        at = seam.end()
    return at <= len(text) - len(tags[-1]) - 3


def _answer(text: str) -> str:
    return next(iter(blocks(text, "answer")), "")


# ---------------------------------------------------------------------------------------------------------------------
# Gold answers


def _numbers(value: object, size: int) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == size
        and all(isinstance(v, int | float) and not isinstance(v, bool) and isfinite(v) for v in value)
    )


def _intervals(gold: dict) -> dict:
    """`intervals`, seconds within `duration` of the clip asked about."""
    if not _numbers([gold.get("duration")], 1) or gold["duration"] <= 0:
        raise ValueError("duration must be a number of seconds above 0", gold.get("duration"))
    intervals = gold.get("intervals")
    if not isinstance(intervals, list) or not intervals or not all(_numbers(pair, 2) for pair in intervals):
        raise ValueError("intervals must be a list of [start, end] in seconds", intervals)
    for start, end in intervals:
        if not 0 <= start < end <= gold["duration"]:
            raise ValueError(
                "an interval must hold 0 <= start < end <= duration", f"{start}, {end}; {gold['duration']}"
            )
    return {"intervals": [list(map(float, pair)) for pair in intervals], "duration": float(gold["duration"])}


def _boxes(gold: dict, options: Sequence[str]) -> dict:
    """`boxes` at equally spaced frames, first and last included; the first `given` of them are not scored, because the
    prompt holds them (table row 39: 0, as published, or 1)."""
    boxes, given = gold.get("boxes"), gold.get("given", 0)
    if not isinstance(boxes, list) or len(boxes) < 2 or not all(_numbers(box, 4) for box in boxes):
        raise ValueError("boxes must be two or more lists [x0, y0, x1, y1]", boxes)
    if given not in (0, 1):
        raise ValueError("given must be 0 or 1", given)
    for x0, y0, x1, y1 in boxes:
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError("a box must hold 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1", [x0, y0, x1, y1])
    return {"boxes": [list(map(float, box)) for box in boxes], "given": int(given)}


def _letter(gold: dict, options: Sequence[str]) -> dict:
    letter = str(gold.get("letter")).strip(" ().").upper()
    offered = [re.sub(r"^\(?([A-Z])\b.*", r"\1", option, flags=re.DOTALL) for option in options]
    if letter not in offered:
        raise ValueError("letter must be one of the options", gold.get("letter"))
    return {"letter": letter}


def _words(name: str) -> Callable[[dict, Sequence[str]], dict]:
    def check(gold: dict, options: Sequence[str]) -> dict:
        if not isinstance(gold.get(name), str) or not gold[name].strip():
            raise ValueError(f"{name} must be text", gold.get(name))
        return {name: gold[name].strip().lower()}

    return check


def _events(gold: dict, options: Sequence[str]) -> dict:
    events = gold.get("events")
    if not isinstance(events, list) or not events or not all(isinstance(e, str) and e.strip() for e in events):
        raise ValueError("events must be a list of texts, at least one", events)
    return {"events": list(dict.fromkeys(event.strip() for event in events))}


def _hidden(gold: dict, options: Sequence[str]) -> dict:
    """`order`, numbers of distinct candidates among 1..`candidates`."""
    count, numbers = gold.get("candidates"), gold.get("order")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError("candidates must be a whole number, 1 or more", count)
    if not isinstance(numbers, list) or not numbers or len(set(map(str, numbers))) < len(numbers):
        raise ValueError("order must be a list of distinct candidates", numbers)
    if any(not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= count for n in numbers):
        raise ValueError("order must hold numbers of candidates", f"{numbers}, 1 to {count}")
    return {"order": numbers, "candidates": count}


def _number(gold: dict, options: Sequence[str]) -> dict:
    if not _numbers([gold.get("number")], 1):
        raise ValueError("number must be one", gold.get("number"))
    return {"number": float(gold["number"])}


def _box(gold: dict, options: Sequence[str]) -> dict:
    box = gold.get("box")
    if not _numbers(box, 4) or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError("box must be [x0, y0, x1, y1] with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1", box)
    return {"box": list(map(float, box))}


def _graph(gold: dict) -> dict:
    """`graph`, a list of {name: [[x, y], ...]} in 0..1 with an object in each, and how `angles` are measured."""
    graph = read_graph(json.dumps(gold["graph"]))
    if not graph or not all(any(moment.values()) for moment in graph):
        raise ValueError("graph must be a list of {name: [[x, y], ...]}, an object in each", gold["graph"])
    if any(not 0 <= side <= 1 for moment in graph for points in moment.values() for point in points for side in point):
        raise ValueError("graph must lie in 0..1 of the picture", gold["graph"])
    if gold.get("angles") not in ("absolute", "relative"):
        raise ValueError("angles must be absolute or relative", gold.get("angles"))
    return {"graph": graph, "angles": gold["angles"]}


def _relation(check: Callable[[dict, Sequence[str]], dict]) -> Callable[[dict, Sequence[str]], dict]:
    """Gold of Video-STR: the answer, `graph` and `angles` where the scene has one, and what is right `under` the
    transforms that the row knows of."""

    def whole(gold: dict, options: Sequence[str]) -> dict:
        parts = check(gold, options) | (_graph(gold) if "graph" in gold else {})
        under = gold.get("under", {})
        if not isinstance(under, dict) or not all(
            name in COUNTERFACTUALS and isinstance(known, dict) for name, known in under.items()
        ):
            raise ValueError(f"under must hold an answer for some of {', '.join(COUNTERFACTUALS)}", under)
        known = {name: check(gold | known, options) for name, known in under.items()}
        return parts | ({"under": known} if known else {})

    return whole


# ---------------------------------------------------------------------------------------------------------------------
# Answers

_NUMBER = r"[0-9]+(?:\.[0-9]*)?"
_PERIOD = re.compile(rf"(?<![0-9])({_NUMBER}) (?:to|and) ({_NUMBER})", re.IGNORECASE)
_PAIR = rf"\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)"
_CLIPS = re.compile(rf"\[\s*(?:{_PAIR}(?:\s*,\s*{_PAIR})*\s*,?\s*)?\]")
_SIDE = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?"
_BOX = rf"\[\s*{_SIDE}\s*(?:,\s*{_SIDE}\s*){{3}},?\s*\]"
_TRACK = re.compile(rf"\[\s*{_BOX}(?:\s*,\s*{_BOX})*\s*,?\s*\]")
_STOCK = re.compile(r"(?:The best answer is|The correct answer is|The answer is|The answer|The best option is|"
                    r"The correct option is|Best answer:|Best option:)")  # fmt: skip
_LONGEST = 10_000  # characters of an answer; numbers of more digits are none


def read_period(text: str) -> list[list[float]]:
    """The last "12.5 to 17.8" (or "and") in the last answer block; none where it runs backwards (table row 40)."""
    said = (blocks(text, "answer") or [""])[-1][:_LONGEST]
    periods = _PERIOD.findall(said)
    start, end = map(float, periods[-1]) if periods else (1.0, 0.0)
    return [[start, end]] if start <= end else []


def read_clips(text: str) -> list[list[float]] | None:
    """[(s, e), ...] in the glue block, may be empty; None where it is no such list or one runs backwards."""
    said = next(iter(blocks(text, "glue")), "").strip()
    if len(said) > _LONGEST or not _CLIPS.fullmatch(said):
        return None
    numbers = list(map(float, re.findall(_NUMBER, said)))
    pairs = [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]
    return pairs if all(start <= end for start, end in pairs) else None


def read_boxes(text: str) -> list[list[float]] | None:
    """The boxes in the answer block; None where it is no list of boxes."""
    said = _answer(text).strip()
    if len(said) > _LONGEST or not _TRACK.fullmatch(said):
        return None
    numbers = list(map(float, re.findall(_SIDE, said)))
    return [numbers[i : i + 4] for i in range(0, len(numbers), 4)]


def read_letter(text: str) -> str | None:
    """The first of A to G in the answer block, stock phrases ("The answer is") set aside."""
    found = re.search("[A-G]", _STOCK.sub("", _answer(text)))
    return found and found[0]


def read_number(text: str) -> float | None:
    """The number that the answer block is, a percent sign set aside."""
    said = _answer(text).strip().removesuffix("%").strip()
    return float(said) if len(said) < 400 and re.fullmatch(_SIDE, said) and isfinite(float(said)) else None


def read_box(text: str) -> list[float] | None:
    """The [x0, y0, x1, y1] that the answer block is."""
    said = _answer(text).strip()
    return list(map(float, re.findall(_SIDE, said))) if len(said) < 400 and re.fullmatch(_BOX, said) else None


def thought_graph(text: str) -> list[dict] | None:
    """The last graph block within the first think block."""
    thought = next(iter(blocks(text, "think")), "")
    return read_graph((blocks(thought, "graph") or [""])[-1])


def _parts(**parts: object) -> dict:
    """Those that could be read."""
    return {name: value for name, value in parts.items() if value is not None}


# ---------------------------------------------------------------------------------------------------------------------
# The table


def _same(name: str, term: str = "answer") -> Callable[[dict, dict], dict[str, float]]:
    return lambda answer, gold: {term: float(answer.get(name) == gold[name])}


def _iou(answer: dict, gold: dict) -> dict[str, float]:
    return {"iou": interval_iou(answer["intervals"], gold["intervals"]) if "intervals" in answer else 0.0}


def _overlap(answer: dict, gold: dict) -> dict[str, float]:
    boxes = answer.get("boxes", ())
    if len(boxes) != len(gold["boxes"]):  # as published: a list of another length earns nothing
        return {"iou": 0.0}
    return {"iou": mean_overlap(boxes[gold["given"] :], gold["boxes"][gold["given"] :])}


def _recall(answer: dict, gold: dict) -> dict[str, float]:
    told = set(answer.get("events", ()))
    if not gold["events"]:  # a caption that tells nothing, held against by ArrowRL
        return {"event_recall": float(not told)}
    return {"event_recall": sum(event in told for event in gold["events"]) / len(gold["events"])}


def _hidden_run(answer: dict, gold: dict) -> dict[str, float]:
    said, right = answer.get("order", []), gold["order"]
    return {
        "selection": order.selection(said, right),
        "ordering": order.ordering(said, right),
        "exact": float(said == right),
    }


def _answer_and_graph(name: str, alike: Callable[[object, object], float]) -> Callable[[dict, dict], dict[str, float]]:
    """R_answer, and R_graph where gold has one: a sample without skips the term."""

    def grade(answer: dict, gold: dict) -> dict[str, float]:
        terms = {"answer": alike(answer[name], gold[name]) if name in answer else 0.0}
        if "graph" in gold:
            relative = gold.get("angles") == "relative"
            terms["graph"] = graph_score(answer.get("graph"), gold["graph"], relative=relative)
        return terms

    return grade


_THINK = (
    "First write down, between <think> and </think>, what you see; give the times it happens at between <timestep> and "
    "</timestep>, as <timestep>start to end</timestep>. "
)
_IMAGINE = (
    "First think between <think> and </think>, and there lay out the objects that the question names: between <graph> "
    "and </graph>, a JSON list with an entry for each of its moments, as "
    '[{"name": [[x, y], ...], ...}, ...] with the centres of the objects in fractions of width and height. '
)
_CHOICE = "Then give the letter of the right option between <answer> and </answer>"


def _think_answer(text: str, gold: dict) -> bool:
    return tagged(text, "think", "answer")


TASKS: dict[str, Task] = {
    "temporal grounding": Task(
        'When in the video does this happen: "[PROBLEM]"? Find its exact start and end.\n'
        + _THINK
        + 'Then give both in seconds, with two decimals, as "start to end" between <answer> and </answer>, for '
        "example <answer>12.54 to 17.83</answer>.",
        check=lambda gold, options: _intervals(gold),
        read=lambda text, gold: _parts(intervals=read_period(text) or None),
        grade=_iou,
        well_formed=_think_answer,
    ),
    "tracking": Task(
        'Follow the "[PROBLEM]" through the video, from its box [START] at the beginning. Take [BOXES] '
        "equally spaced moments of the video, its first and its last among them.\n"
        + _THINK
        + "Then list the object's box at each of these moments, as [x0, y0, x1, y1] in fractions of width and height, "
        "between <answer> and </answer>, for example <answer>[[0.1, 0.5, 0.3, 0.55], [0.12, 0.5, 0.33, 0.56], "
        "...]</answer>.",
        check=_boxes,
        read=lambda text, gold: _parts(boxes=read_boxes(text)),
        grade=_overlap,
        well_formed=lambda text, gold: _think_answer(text, gold) and len(read_boxes(text) or ()) == len(gold["boxes"]),
    ),
    "grounded qa": Task(
        "[PROBLEM]\nOptions:\n[OPTIONS]\n"
        + _THINK
        + _CHOICE
        + ", and the parts of the video that show it, in seconds, as [(start, end), ...] between <glue> and </glue>, "
        "for example <answer>A</answer><glue>[(5.2, 10.4), (12.0, 13.5)]</glue>.",
        check=lambda gold, options: _letter(gold, options) | _intervals(gold),
        read=lambda text, gold: _parts(letter=read_letter(text), intervals=read_clips(text)),
        grade=lambda answer, gold: _same("letter")(answer, gold) | _iou(answer, gold),
        well_formed=lambda text, gold: tagged(text, "think", "answer", "glue") and read_clips(text) is not None,
    ),
    "qa": Task(
        "[PROBLEM]\nOptions:\n[OPTIONS]\n" + _THINK + _CHOICE + ", for example <answer>A</answer>.",
        check=_letter,
        read=lambda text, gold: _parts(letter=read_letter(text)),
        grade=_same("letter"),
        well_formed=_think_answer,
    ),
    "quality": Task(
        "[PROBLEM]\nFirst reason between <think> and </think>, then give your verdict between <answer> and </answer>.",
        check=_words("label"),
        read=lambda text, gold: _parts(label=_answer(text).strip().lower()[:_LONGEST] or None),
        grade=_same("label"),
        well_formed=_think_answer,
    ),
    "caption": Task(
        "[PROBLEM]\n" + _THINK + "Then describe all that happens, in order, between <answer> and </answer>.",
        check=_events,
        read=lambda text, gold: _parts(caption=_answer(text).strip()[:_LONGEST] or None),
        grade=_recall,
        well_formed=_think_answer,
    ),
    "order": Task(
        "[PROBLEM]\nFirst reason between <think> and </think>, then give the numbers between <answer> and </answer>, "
        "for example <answer>3,1,4</answer>.",
        check=_hidden,
        read=lambda text, gold: _parts(order=order.read(_answer(text)[:_LONGEST])),
        grade=_hidden_run,
        well_formed=_think_answer,
        weights={"selection": 0.5, "ordering": 0.5, "exact": 0.0},
    ),
    "relation choice": Task(
        "[PROBLEM]\nOptions:\n[OPTIONS]\n" + _IMAGINE + _CHOICE + ", for example <answer>A</answer>.",
        check=_relation(_letter),
        read=lambda text, gold: _parts(letter=read_letter(text), graph=thought_graph(text)),
        grade=_answer_and_graph("letter", lambda said, right: float(said == right)),
        well_formed=_think_answer,
    ),
    "relation number": Task(
        "[PROBLEM]\n" + _IMAGINE + "Then give the number between <answer> and </answer>, for example "
        "<answer>2.5</answer>.",
        check=_relation(_number),
        read=lambda text, gold: _parts(number=read_number(text), graph=thought_graph(text)),
        grade=_answer_and_graph("number", mean_relative_accuracy),
        well_formed=_think_answer,
    ),
    "relation box": Task(
        "[PROBLEM]\n" + _IMAGINE + "Then give the box as [x0, y0, x1, y1] in fractions of width and height between "
        "<answer> and </answer>, for example <answer>[0.1, 0.5, 0.3, 0.55]</answer>.",
        check=_relation(_box),
        read=lambda text, gold: _parts(box=read_box(text), graph=thought_graph(text)),
        grade=_answer_and_graph("box", box_iou),
        well_formed=_think_answer,
    ),
    "relation interval": Task(
        "[PROBLEM]\n" + _IMAGINE + 'Then give start and end in seconds, as "start to end" between <answer> and '
        "</answer>, for example <answer>2.5 to 7.8</answer>.",
        check=_relation(lambda gold, options: _intervals(gold)),
        read=lambda text, gold: _parts(intervals=read_period(text) or None, graph=thought_graph(text)),
        grade=_answer_and_graph("intervals", interval_iou),
        well_formed=_think_answer,
    ),
}
"""Problem type -> its row; `verifiers.VERIFIERS` has the types whose answer is right or wrong."""
