"""Temporal clue-driven reasoning (VideoChat-R1's inference): ground first, then answer from the clip around the clue.

Asked twice: as grounded QA about the whole clip (`tasks.py`), then in the benchmark's own words about the part from the
first to the last second that the reply points at. How much is kept around it is not published: --clue-margin (ours). A
reply that points at nothing, or beyond the clip, leaves the whole clip to the second question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from eval.answer import Answered
from eval.benchmarks import Item
from eval.scoring import GROUNDED
from tags import read_clips
from tasks import user_turn

Ask = Callable[[dict[int, Item]], dict[int, Answered[Item]]]
"""Place -> item, to place -> what was said to it."""


@dataclass(frozen=True)
class Reasoned:
    """What came of one question."""

    answered: Answered[Item]
    """The second reply; to a benchmark that scores the clue as well with the clue before it."""
    clue: list[list[float]]
    """[[start, end], ...] in seconds of the clip asked about; empty where there was none."""


def grounding(item: Item) -> Item:
    """The first question. ValueError for one without options: grounded QA has letters."""
    if not item.question.options:
        raise ValueError(f"--clue-driven asks for the letter of an option; question {item.id!r} has none")
    question = replace(item.question, problem_type="grounded qa")  # the paper's system prompt would ask for a box
    return replace(item, question=question, prompt=user_turn(question))


def around(item: Item, clue: Sequence[Sequence[float]], margin: float) -> Item:
    """The second question: about `margin` seconds more on either side than the clue, within the clip."""
    question = item.question
    if question.problem_type == "grounded qa":  # its own words would ask for the clue again
        item = replace(item, prompt=user_turn(replace(question, problem_type="qa")))
    if not clue:
        return item
    offset = question.start or 0.0
    start = max(offset, offset + min(start for start, _ in clue) - margin)
    end = offset + max(end for _, end in clue) + margin
    if question.end is not None:
        end = min(end, question.end)
    return replace(item, question=replace(question, start=start, end=end)) if start < end else item


def reason(first: Sequence[Answered[Item]], items: Sequence[Item], ask: Ask, margin: float) -> Iterator[Reasoned]:
    """The second half, of `items` whose first question was answered by `first`."""
    said = [answered.rollouts[0].text if answered.rollouts else "" for answered in first]
    clues = [read_clips(text) or [] for text in said]
    second = ask({at: around(items[at], clues[at], margin) for at, one in enumerate(first) if not one.error})
    beyond = [at for at, one in second.items() if one.error and clues[at]]
    second |= ask({at: around(items[at], (), margin) for at in beyond})
    for at, item in enumerate(items):
        answered = replace(second.get(at, first[at]), question=item)
        if answered.rollouts and item.question.data_source in GROUNDED:
            # First, where it is read: a clue of the second reply's own would count from the start of the cut clip.
            glue = ", ".join(f"({start:f}, {end:f})" for start, end in clues[at])  # not repr's 1e-05
            rollout = replace(answered.rollouts[0], text=f"<glue>[{glue}]</glue>\n{answered.rollouts[0].text}")
            answered = replace(answered, rollouts=[rollout])
        yield Reasoned(answered, clues[at])
