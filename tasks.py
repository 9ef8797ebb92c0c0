r"""Problem types whose answers are right in part: how each is asked, read (`tags.py`) and graded,
one row of TASKS a type; `golds.py` checks the gold answers of rows.

VideoChat-R1's (arXiv 2504.06958): temporal grounding, tracking, grounded QA, QA, quality, caption. Formats and rewards
are the published ones, the words of the prompts ours; where its code and we differ, the line says so. Masked Video
Prediction's (2601.03781): order. Video-STR's (2510.10976): relation choice, number, box, interval. Of these two the
task and the kinds of reward are published, formulas and prompts are our reconstruction (`order.py`, `graphs.py`).

A gold answer is an object of named parts, {"intervals": [[24.3, 30.4]], "duration": 30.96}; so is an answer, without
what only the gold needs. Both travel as JSON text in canonical form (`Question.gold`, `Facts.answer`). An answer may
lack parts it should have; what they would earn is 0. Where the parts' names have a map, `transforms.mapped_gold` knows
what is right on the counterfactual clip, and CRPO pays for that in the place of "changed" (ours, not published).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import golds
import graphs
import order
import tags
from grounding import box_iou, interval_iou, mean_overlap
from transforms import COUNTERFACTUALS, TASK_TRANSFORMS, mapped_gold


@dataclass(frozen=True)
class Task:
    """A type of question. `gold` and `answer` are objects of named parts."""

    prompt: str
    """The user turn. [PROBLEM], [OPTIONS], [START] (the first gold box) and [BOXES] (how many) are the row's."""
    check: golds.Check
    """ValueError(reason, detail) where a row's gold is none."""
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

    def total(self, terms: Mapping[str, float]) -> float:
        """The score of an answer of these `terms`, 0..1: the published sum over its highest value."""
        paid = sum(self.weights.get(name, 1.0) * value for name, value in terms.items())
        return paid / sum(self.weights.get(name, 1.0) for name in terms)

    def score(self, answer: str | None, gold: str) -> float:
        """0..1, `total` of the answer's terms."""
        return self.total(self.terms(answer, gold))

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
# What is read and how it is graded


def _parts(**parts: object) -> dict:
    """Those that could be read."""
    return {name: value for name, value in parts.items() if value is not None}


def _graph_and(**readers: Callable[[str], object]) -> Callable[[str, dict], dict]:
    """The part so named, and the graph in the thought."""

    def read(text: str, gold: dict) -> dict:
        said = {name: reader(text) for name, reader in readers.items()}
        return _parts(**said, graph=graphs.read(tags.thought_graph(text)))

    return read


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
            terms["graph"] = graphs.graph_score(answer.get("graph"), gold["graph"], relative=relative)
        return terms

    return grade


# ---------------------------------------------------------------------------------------------------------------------
# The table

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
    return tags.tagged(text, "think", "answer")


TASKS: dict[str, Task] = {
    "temporal grounding": Task(
        'When in the video does this happen: "[PROBLEM]"? Find its exact start and end.\n'
        + _THINK
        + 'Then give both in seconds, with two decimals, as "start to end" between <answer> and </answer>, for '
        "example <answer>12.54 to 17.83</answer>.",
        check=golds.check_intervals,
        read=lambda text, gold: _parts(intervals=tags.read_period(text) or None),
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
        check=golds.check_boxes,
        read=lambda text, gold: _parts(boxes=tags.read_boxes(text)),
        grade=_overlap,
        well_formed=lambda text, gold: (
            _think_answer(text, gold) and len(tags.read_boxes(text) or ()) == len(gold["boxes"])
        ),
    ),
    "grounded qa": Task(
        "[PROBLEM]\nOptions:\n[OPTIONS]\n"
        + _THINK
        + _CHOICE
        + ", and the parts of the video that show it, in seconds, as [(start, end), ...] between <glue> and </glue>, "
        "for example <answer>A</answer><glue>[(5.2, 10.4), (12.0, 13.5)]</glue>.",
        check=lambda gold, options: golds.check_letter(gold, options) | golds.check_intervals(gold),
        read=lambda text, gold: _parts(letter=tags.read_letter(text), intervals=tags.read_clips(text)),
        grade=lambda answer, gold: _same("letter")(answer, gold) | _iou(answer, gold),
        well_formed=lambda text, gold: (
            tags.tagged(text, "think", "answer", "glue") and tags.read_clips(text) is not None
        ),
    ),
    "qa": Task(
        "[PROBLEM]\nOptions:\n[OPTIONS]\n" + _THINK + _CHOICE + ", for example <answer>A</answer>.",
        check=golds.check_letter,
        read=lambda text, gold: _parts(letter=tags.read_letter(text)),
        grade=_same("letter"),
        well_formed=_think_answer,
    ),
    "quality": Task(
        "[PROBLEM]\nFirst reason between <think> and </think>, then give your verdict between <answer> and </answer>.",
        check=golds.check_words("label"),
        read=lambda text, gold: _parts(label=tags.answer(text).strip().lower()[: tags.LONGEST] or None),
        grade=_same("label"),
        well_formed=_think_answer,
    ),
    "caption": Task(
        "[PROBLEM]\n" + _THINK + "Then describe all that happens, in order, between <answer> and </answer>.",
        check=golds.check_events,
        read=lambda text, gold: _parts(caption=tags.answer(text).strip()[: tags.LONGEST] or None),
        grade=_recall,
        well_formed=_think_answer,
    ),
    "order": Task(
        "[PROBLEM]\nFirst reason between <think> and </think>, then give the numbers between <answer> and </answer>, "
        "for example <answer>3,1,4</answer>.",
        check=golds.check_order,
        read=lambda text, gold: _parts(order=order.read(tags.answer(text)[: tags.LONGEST])),
        grade=_hidden_run,
        well_formed=_think_answer,
        weights={"selection": 0.5, "ordering": 0.5, "exact": 0.0},
    ),
    "relation choice": Task(
        "[PROBLEM]\nOptions:\n[OPTIONS]\n" + _IMAGINE + _CHOICE + ", for example <answer>A</answer>.",
        check=golds.check_relation(golds.check_letter),
        read=_graph_and(letter=tags.read_letter),
        grade=_answer_and_graph("letter", lambda said, right: float(said == right)),
        well_formed=_think_answer,
    ),
    "relation number": Task(
        "[PROBLEM]\n" + _IMAGINE + "Then give the number between <answer> and </answer>, for example "
        "<answer>2.5</answer>.",
        check=golds.check_relation(golds.check_number),
        read=_graph_and(number=tags.read_number),
        grade=_answer_and_graph("number", graphs.mean_relative_accuracy),
        well_formed=_think_answer,
    ),
    "relation box": Task(
        "[PROBLEM]\n" + _IMAGINE + "Then give the box as [x0, y0, x1, y1] in fractions of width and height between "
        "<answer> and </answer>, for example <answer>[0.1, 0.5, 0.3, 0.55]</answer>.",
        check=golds.check_relation(golds.check_box),
        read=_graph_and(box=tags.read_box),
        grade=_answer_and_graph("box", box_iou),
        well_formed=_think_answer,
    ),
    "relation interval": Task(
        "[PROBLEM]\n" + _IMAGINE + 'Then give start and end in seconds, as "start to end" between <answer> and '
        "</answer>, for example <answer>2.5 to 7.8</answer>.",
        check=golds.check_relation(golds.check_intervals),
        read=_graph_and(intervals=lambda text: tags.read_period(text) or None),
        grade=_answer_and_graph("intervals", interval_iou),
        well_formed=_think_answer,
    ),
}
"""Problem type -> its row; `verifiers.VERIFIERS` has the types whose answer is right or wrong."""
