r"""Model text -> facts: the answer in canonical form (or none), well-formed or not, and the score (paper App. B.1).

A question is anything with `problem_type`, `options` and `gold`. The same
`canonical_answer` reads the gold answer of a data row, so that two spellings of one answer are equal by construction.
In mathematics they are not (1/2, 0.5): there `verify` asks math-verify, and gives an equal answer the gold's spelling.

The answer is the content of the last complete \boxed{}; without a box there is none (never the whole text: table row 3
says what a model would earn with that). Format and accuracy are separate: a malformed text is still scored (row 8).

Answers that are right in part (an interval, boxes), in formats of their own, are read and graded by `tasks.py`.

Every function here is linear in the length of the text and raises on no text whatever; a judgement of math-verify ends
at a deadline (`math_judge.py`).
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from string import ascii_uppercase

from captions import Judge, told_by_words
from math_judge import MathJudge
from tasks import TASKS, canonical

# Longer answers are no answers. The bound also keeps Unicode normalisation cheap: it is quadratic in the length of a
# run of combining marks.
MAX_ANSWER_CHARS = 10_000

# The process's one judge of mathematics. Its child starts with the first math answer not spelled as the gold one.
JUDGE = MathJudge()


@dataclass(frozen=True)
class Facts:
    """What the rewards need to know about one completion."""

    answer: str | None
    """Canonical: an option letter, a number, or normalised text (in mathematics the gold answer's, where they are
    equal); of a type in `tasks.TASKS` JSON text of its parts. None where no answer could be read."""
    well_formed: bool
    """One non-empty think block, then one box (table row 7)."""
    score: float
    """1.0 if `answer` equals the gold answer, else 0.0; what is right in part lies between. Not gated by the format.
    Where the published reward is a sum of terms (letter + IoU), this is the sum over its highest value."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """The published terms by name, each 0..1, of a type in `tasks.TASKS`."""

    @property
    def right(self) -> bool:
        """What is counted where only right and wrong count (pass rates, paired evaluation): half of a graded score."""
        return self.score >= 0.5


# ---------------------------------------------------------------------------------------------------------------------
# Boxes and format

_BRACES = re.compile(r"\\boxed\s*\{|\\[{}]|[{}]")  # an escaped brace is text


def _boxes(text: str) -> list[tuple[int, int, int]]:
    r"""(start, start of content, end of content) of every complete \boxed{...}, in order of their closing brace."""
    found, open_braces = [], []
    for token in _BRACES.finditer(text):
        if token[0].startswith("\\boxed"):
            open_braces.append((token.start(), token.end()))
        elif token[0] == "{":
            open_braces.append(None)
        elif token[0] == "}" and open_braces:
            box = open_braces.pop()
            if box is not None:
                found.append((*box, token.start()))
    return found


def last_box(text: str) -> str | None:
    r"""Content of the last complete \boxed{...}, braces balanced; None without one. Of nested boxes, the inner one."""
    boxes = _boxes(text)
    if not boxes:
        return None
    _, begin, end = max(boxes)
    return text[begin:end]


def well_formed(text: str, *, lenient: bool = False) -> bool:
    r"""Strict format: one non-empty <think>...</think>, white space, one non-empty \boxed{...}, and nothing else.

    `lenient` allows prose between the two and after the box, as the donor recipe's pattern does (table row 7).
    """
    text = text.strip()
    if not text.startswith("<think>") or any(text.count(tag) != 1 for tag in ("<think>", "</think>", "\\boxed")):
        return False
    thought, _, rest = text.removeprefix("<think>").partition("</think>")
    boxes = _boxes(rest)  # a box that opens inside the thought leaves none here
    if not thought.strip() or not boxes:
        return False
    start, begin, end = boxes[0]
    if not rest[begin:end].strip():
        return False
    return lenient or not (rest[:start].strip() or rest[end + 1 :].strip())


# ---------------------------------------------------------------------------------------------------------------------
# Canonical answers

_FONTS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf)\s*\{([^{}]*)\}")
_WRAPPERS = re.compile(r"\$\$?([^$]*)\$\$?|\\\((.*)\\\)|\*\*([^*]*)\*\*")


def _clean(text: str) -> str:
    r"""NFKC, white space collapsed, and the wrappers people put around an answer removed (\text{B}, $5$, **B**)."""
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    for _ in range(4):  # nobody nests them deeper
        text = _FONTS.sub(r"\1", text).strip()
        if wrapped := _WRAPPERS.fullmatch(text):
            text = wrapped[wrapped.lastindex].strip()
    return " ".join(text.split())


def _text(text: str, options: Sequence[str] = (), strict_match: bool = False) -> str | None:
    """Free text: NFKC, trimmed, case-folded, white space collapsed. None if nothing is left."""
    # Folding can undo a composition (e.g. of a capital with a dot), hence the second normalisation.
    return unicodedata.normalize("NFKC", _clean(text).casefold()) or None


_FLATTENED = {"<super>": "^{%s}", "<sub>": "_{%s}", "<fraction>": "\\frac{%s}"}


def _math(text: str, options: Sequence[str] = (), strict_match: bool = False) -> str | None:
    r"""LaTeX: NFKC, trimmed, unwrapped, without the sentence's full stop; case kept (\Delta is no command \delta).

    NFKC would flatten 5\u00b2 to 52 and 5\u00bd to 51/2, so these are spelled in LaTeX first. None if nothing is left.
    """
    spelled = []
    for kind, run in groupby(text, lambda char: unicodedata.decomposition(char).partition(" ")[0]):
        run = "".join(run)
        if kind in _FLATTENED:
            run = _FLATTENED[kind] % unicodedata.normalize("NFKC", run).replace("\u2044", "}{")
        spelled.append(run)
    return _clean(_clean("".join(spelled)).removesuffix(".")) or None


_NUMBER = re.compile(r"([+-]?)([0-9]+|[0-9]{1,3}(?:,[0-9]{3})+|(?=\.[0-9]))(\.[0-9]*)?(?:[eE]([+-]?[0-9]{1,3}))?")


def _number(text: str, options: Sequence[str] = (), strict_match: bool = False) -> str | None:
    """Exact decimal: "1,250.50" -> "1250.5", "-0" -> "0", "3e2" -> "300". A percent sign is a unit and is dropped.

    None for anything else (units in words, fractions, a comma that does not separate thousands).
    """
    if any(unicodedata.decomposition(char).startswith(("<super>", "<sub>")) for char in text):
        return None  # NFKC would read 5\u00b2 as 52
    text = _clean(text).replace("\u2212", "-").removesuffix("%").removesuffix("\\").strip()
    if not _NUMBER.fullmatch(text):
        return None
    plain = format(Decimal(text.replace(",", "")), "f")  # the constructor is exact, whatever the context's precision
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    sign = "-" if plain.startswith("-") else ""
    digits = plain.lstrip("-").lstrip("0")
    if not digits:
        return "0"
    return sign + ("0" + digits if digits.startswith(".") else digits)


_OPTION = re.compile(r"\s*(\(([A-Z])\)|([A-Z])(?:\s*[.):]|\s*$))\s*(.*?)\s*", re.DOTALL)
_LONE_LETTER = re.compile(r"(?:[(\[{]\s*([A-Za-z])\s*[)\]}]|([A-Za-z]))\s*[.,):;/-]?")
_STRICT_LETTER = re.compile(r"[(\[{]([A-Za-z])[)\]}]|([A-Za-z])[)/:;-]?")
_LETTER_AND_TEXT = re.compile(
    r"(?:[(\[]\s*([A-Za-z])\s*[)\]]\s*[.:,-]?|([A-Za-z])\s*[.):-]|([A-Z])(?=\s))(\s*)(.+)", re.DOTALL
)
_CAPITAL_ALONE = re.compile(r"(?<!\w)[A-Z](?!\w)")


def split_option(option: str) -> tuple[str, str] | None:
    """("A", "left") of "A. left", "(A) left", "A) left", "A: left" or "A"; None where no letter leads."""
    match = _OPTION.fullmatch(option)
    return None if match is None else (match[2] or match[3], match[4])


def option_text(option: str) -> str:
    """ "left" of "A. left"; all of it where no letter leads, or no text follows."""
    pair = split_option(option)
    return pair[1] if pair and pair[1] else option.strip()


def option_of(letter: str, options: Sequence[str]) -> str | None:
    """The option that a letter names, as it is written; None where there is none."""
    return next((option for option in options if (pair := split_option(option)) and pair[0] == letter), None)


def lettered(texts: Sequence[str]) -> tuple[str, ...]:
    """ "left" -> "A. left", in the order given."""
    return tuple(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, texts, strict=False))


def _option_text(text: str) -> str:
    """What two spellings of one option share: case, white space, quotes and closing punctuation set aside."""
    return (_text(text) or "").strip("\"'`\u2018\u2019\u201c\u201d ").rstrip(".,;:!? ")


def _letter(text: str, options: Sequence[str], strict_match: bool = False) -> str | None:
    """The letter of the option that `text` names, None if it names none or more than one.

    Read in this order: a lone letter ("B", "(b)", "B."); the full text of exactly one option ("left"; so "A dog" is the
    option that says so, not option A); letter and text ("B. left", "(B) left"). The last may be reworded, but if it
    also names another option it is no answer.
    """
    labelled = dict(pair for pair in map(split_option, options) if pair is not None)
    text = " ".join(unicodedata.normalize("NFKC", text).split()) if strict_match else _clean(text)
    alone = (_STRICT_LETTER if strict_match else _LONE_LETTER).fullmatch(text)
    letter = (alone[1] or alone[2]).upper() if alone else None
    if letter in labelled:
        return letter
    if strict_match:
        return None

    said = _option_text(text)
    same = [letter for letter, option in labelled.items() if said and said == _option_text(option)]
    if same:
        return same[0] if len(same) == 1 else None

    both = _LETTER_AND_TEXT.fullmatch(text)
    if both is None:
        return None
    letter = (both[1] or both[2] or both[3]).upper()
    if letter not in labelled:
        return None
    rest = _option_text(both[5])
    if rest == _option_text(labelled[letter]):
        return letter
    # Reworded. Without a mark and a space after the letter ("A dog", "a.m.") it is no label; and naming a second option
    # ("A. or B.", "A. right" where B is "right") is hedging.
    marked = both[3] is None and (both[4] or both[1])
    others = {other for other in labelled if other != letter}
    hedged = others & set(_CAPITAL_ALONE.findall(both[5])) or rest in {_option_text(labelled[o]) for o in others}
    return letter if marked and not hedged else None


# One verifier per problem type: (text, options, strict_match) -> canonical answer or None. Of "math" this is the
# spelling alone; what it is equal to, `verify` asks.
VERIFIERS: dict[str, Callable[[str, Sequence[str], bool], str | None]] = {
    "multiple choice": _letter,
    "numerical": _number,
    "regression": _number,
    "math": _math,
    "free-form": _text,
    "ocr": _text,
}


def canonical_answer(text: str, options: Sequence[str], problem_type: str, *, strict_match: bool = False) -> str | None:
    """One answer in canonical form; None where it cannot be read or is not offered (table rows 1, 2, 5).

    multiple choice -> option letter; numerical, regression -> exact decimal; math -> normalised LaTeX; free-form, OCR
    -> normalised text. Equality of canonical answers is equality of strings, numbers included ("5" and "5.00" are both
    "5"); for math only once `verify` has put the gold's spelling in place of an equal answer's.

    `strict_match` reproduces the donor recipe's comparison of option letters: a lone letter, bracketed or followed by
    one of ) / : ; - counts, whereas "A." and "A. left" do not (row 2). Such an answer is None here, so the literal
    reading of Eq. 4 is had with `invalid_counts_as_change`.

    Raises ValueError for a problem type that has no verifier.
    """
    verifier = VERIFIERS.get(problem_type.casefold())
    if verifier is None:
        raise ValueError(f"problem_type must be one of {tuple(VERIFIERS)}, got {problem_type!r}")
    return verifier(text, options, strict_match) if len(text) <= MAX_ANSWER_CHARS else None


def _judged(answer: str, gold: str) -> str | None:
    """`gold` if the math answer equals it, `answer` if it only can be read, else None (table rows 13, 42).

    math-verify is as tolerant in case, so answers that differ in case alone need no question.
    """
    if answer.casefold() == gold.casefold():
        return gold
    equal, readable = JUDGE.compare(gold, answer)
    return gold if equal else answer if readable else None


def verify(
    text: str,
    question,
    *,
    strict_match: bool = False,
    lenient_format: bool = False,
    caption_judge: Judge = told_by_words,
) -> Facts:
    """Facts about one completion of `question` (anything with `problem_type`, `options`, `gold`).

    `caption_judge` says which of the gold events a caption tells; that list is its answer.

    Never raises on `text`, whatever it is; raises ValueError for a problem type that has no verifier, RuntimeError
    where math-verify is needed and does not start.
    """
    if (kind := question.problem_type.casefold()) in TASKS:
        return _graded(text, question, kind, caption_judge)
    box = last_box(text)
    answer = None
    if box is not None:
        answer = canonical_answer(box, question.options, question.problem_type, strict_match=strict_match)
    if answer is not None and kind == "math":
        answer = _judged(answer, question.gold)
    score = float(answer is not None and answer == question.gold)
    return Facts(answer, well_formed(text, lenient=lenient_format), score)


def _graded(text: str, question, kind: str, caption_judge: Judge) -> Facts:
    task = TASKS[kind]
    gold = json.loads(question.gold)
    parts = task.read(text, gold)
    if "caption" in parts:
        parts = {"events": caption_judge(parts["caption"], gold["events"])}
    answer = canonical(parts) if parts else None
    terms = task.terms(answer, question.gold)
    return Facts(answer, task.well_formed(text, gold), task.total(terms), terms)
