"""What DyBench's questions say: App. A.2's action vocabulary, directions, question templates, options. Pure.

The question of Reversible Dynamics and of Moving Direction is the paper's; that of Event Sequence is ours (the paper
only describes it). All text is lower case, as an option is written: "opening the door", "up and to the left".
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

QUESTIONS = {
    "reversible_dynamics": "Which of the following best describes the action in the video?",
    "moving_direction": "In what direction is {object} moving?",
    "event_sequence": "In what order do the two events happen in the video?",
}
SUBTASKS = tuple(QUESTIONS)

# ---------------------------------------------------------------------------------------------------------------------
# Actions (App. A.2, sub-task 1)

_WITH_OBJECT = """opening/closing, picking up/putting down, lifting/throwing, hanging/taking down, raising/lowering,
folding/unfolding, pushing/pulling, plugging in/unplugging, zipping/unzipping, rolling/unrolling, tying/untying,
fastening/unfastening, turning on/turning off, getting in/getting out of, putting on/taking off, inserting/removing,
stacking/unstacking, inflating/deflating, tightening/loosening, assembling/disassembling"""
_ALONE = """sitting down/standing up, lying down/standing up, kneeling down/standing up, squatting down/standing up,
leaning forward/leaning back, bowing/straightening up, drawing the curtain open/drawing the curtain closed,
walking forward/walking backward, opening the eyes/closing the eyes"""
_ANIMAL = """standing up/lying down, jumping up/landing, jumping into the water/leaping out of the water,
spreading the wings/folding the wings, putting the ears up/flattening the ears, arching the back/relaxing the back,
retracting into the shell/extending out of the shell, stretching the neck out/retracting the neck,
opening the mouth/closing the mouth, extending the tongue/retracting the tongue,
raising the trunk/lowering the trunk, raising the head/lowering the head"""
_PLANT = "blooming/closing up, unfolding a leaf/folding a leaf"


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(tuple(pair.strip().split("/")) for pair in text.replace("\n", " ").split(","))


ACTIONS = {
    "human": _pairs(_WITH_OBJECT) + _pairs(_ALONE),
    "animal": _pairs(_ANIMAL),
    "plant": _pairs(_PLANT),
}
"""Subject -> (action, the same played backwards)."""
TAKES_OBJECT = frozenset(phrase for pair in _pairs(_WITH_OBJECT) for phrase in pair)
_TWO_WAY = re.compile(
    r"\b(left|right|upwards?|downwards?|towards?|upside|until|then|without|pretend\w*|fail\w*|trying|almost|"
    r"not|nothing|but|from|so|and)\b"
)


def reversed_actions(action: str, subject: str) -> tuple[str, ...]:
    """What the vocabulary says of an action played backwards; empty where it has none, several for "standing up"."""
    found = [other for one, other in ACTIONS[subject] if one == action]
    return tuple(dict.fromkeys(found + [one for one, other in ACTIONS[subject] if other == action]))


def reversed_text(text: str, subject: str = "human") -> str | None:
    """A described action played backwards: "picking a pen up" -> "putting a pen down"; None where that is unsafe.

    The text must begin with one action of the vocabulary (a particle may stand behind its object) and must not name a
    direction, an attempt or a second action, which a change of the verb alone would leave wrong.
    """
    text = text.strip().rstrip(".").lower()
    found = {}
    for action in sorted({phrase for pair in ACTIONS[subject] for phrase in pair}, key=len, reverse=True):
        verb, _, particle = action.partition(" ")
        if not (text + " ").startswith(verb + " "):
            continue
        rest = text[len(verb) :].strip()
        match = re.search(rf"(?<!\S){re.escape(particle)}(?!\S)", rest) if particle else None
        if particle and match is None:
            continue
        others = reversed_actions(action, subject)
        if len(others) != 1:
            return None
        other_verb, _, other_particle = others[0].partition(" ")
        before, after = (rest[: match.start()], rest[match.end() :]) if match else ("", rest)
        found[action] = " ".join(f"{other_verb} {before} {other_particle} {after}".split())
        break  # the longest phrase is the one that is meant
    if not found or _TWO_WAY.search(text.removeprefix(next(iter(found)))):
        return None
    return next(iter(found.values()))


def draw_distractor(answers: Sequence[str], action: str | None, thing: str, subject: str, rng: random.Random) -> str:
    """A third action of the vocabulary that shares no verb with either answer; with the object, if they have one."""
    verbs = {answer.split()[0] for answer in answers}
    takes = action in TAKES_OBJECT if action else bool(thing)
    phrases = [phrase for pair in ACTIONS[subject] for phrase in pair if (phrase in TAKES_OBJECT) == takes]
    # Plants have two pairs: what neither answer says may still begin with the verb of one.
    pool = [p for p in phrases if p.split()[0] not in verbs] or [p for p in phrases if p not in answers]
    if not pool:
        raise ValueError(f"the vocabulary has no distractor for {answers[0]!r}; give one")
    return with_object(rng.choice(sorted(set(pool))), thing)


def with_object(action: str, thing: str) -> str:
    """ "opening", "the door" -> "opening the door"; an action that takes no object stays alone."""
    return f"{action} {thing}".strip() if action in TAKES_OBJECT else action


# ---------------------------------------------------------------------------------------------------------------------
# Directions (App. A.2, sub-task 2). (right, up, away from the camera), each -1, 0 or 1.

STANDARD = {"left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0)}
DIAGONALS = {
    "up and to the left": (-1, 1, 0),
    "up and to the right": (1, 1, 0),
    "down and to the left": (-1, -1, 0),
    "down and to the right": (1, -1, 0),
}
DEPTH = {"towards the camera": (0, 0, -1), "away from the camera": (0, 0, 1)}
DIRECTIONS = STANDARD | DIAGONALS | DEPTH
_NAMES = {vector: name for name, vector in DIRECTIONS.items()}
_COMPONENTS = {
    word + ending: component
    for word, component in {
        "left": (0, -1), "right": (0, 1), "up": (1, 1), "upper": (1, 1), "top": (1, 1), "down": (1, -1),
        "lower": (1, -1), "bottom": (1, -1),
    }.items()
    for ending in ("", "ward", "wards")
}  # fmt: skip
"""Word of a direction -> axis and sign."""


def parse_direction(text: str) -> str | None:
    """The canonical name of a direction: "Up and to the left.", "upper-left", "moving from left to right"; or None.

    Whole words count: a cup is not "up". What says two things of one axis, or only where a thing comes from, is None.
    """
    words = re.sub(r"[^a-z]+", " ", text.lower()).split()
    named = [_COMPONENTS[word] for word in words if word in _COMPONENTS]
    if depth := {"toward", "towards", "away"} & set(words):
        return None if named else "away from the camera" if "away" in depth else "towards the camera"
    if {"left", "right"} <= set(words):  # "left to right"
        return _NAMES[(named[-1][1], 0, 0)] if len(named) == 2 and words.count("to") == 1 else None
    if "from" in words:  # where it comes from is not where it goes
        return None
    signs = dict(named)
    return _NAMES.get((signs.get(0, 0), signs.get(1, 0), 0)) if len(signs) == len(set(named)) else None


def transformed_direction(name: str, *, flip: bool, reverse: bool) -> str:
    """Where an object seems to move in the mirror (`flip`), in rewind (`reverse`) or both."""
    right, up, away = DIRECTIONS[name]
    sign = -1 if reverse else 1
    return _NAMES[sign * right * (-1 if flip else 1), sign * up, sign * away]


def direction_options(*names: str) -> list[str]:
    """The four standard directions, with the four diagonals where an answer is one; or depth beside left and right."""
    if any(name in DEPTH for name in names):
        return [*DEPTH, "left", "right"]
    return [*STANDARD, *(DIAGONALS if any(name in DIAGONALS for name in names) else ())]


# ---------------------------------------------------------------------------------------------------------------------
# Events


def event_order(first: str, second: str) -> str:
    """An answer of Event Sequence."""
    return f"{first}, then {second}"
