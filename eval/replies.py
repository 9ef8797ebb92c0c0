r"""A model's reply -> the answer it gives, or None where it gives none or more than one. Pure functions.

Training's verifier wants a box and nothing else (`verifiers.verify`); a benchmark is also answered by models that were
never asked for one. So a reply is read in this order, and the first place that says anything decides:

1. thoughts are cut out (<think>...</think>; an unclosed one runs to the end): what is thought is not answered;
2. the last complete \boxed{...}; a box that was cut off is no answer;
3. the last <answer>...</answer>;
4. the whole text as one answer ("B", "(b)", "B. left", "left"; "No.");
5. what it states as its answer ("the answer is B", "Best option: (B)");
6. its first and its last line; 7. an option that it points at ("I choose B", "B is correct", "(B)"), a free-standing
   yes or no.

Two different answers at one place are none. A letter that stands in prose must be a capital (an option "a" is an
article); the words around it may be written in any case. Public toolkits are laxer, and pay for it: the first capital
A-D anywhere takes the article of "A man" (Video-MME's), a reply "(" is every option (MVBench's), text after a failed
judge call is a random one; others reject "(B)" or "\boxed{B}" (TempCompass'). `tests/test_benchmarks.py` holds these as
cases.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Sequence

from verifiers import MAX_ANSWER_CHARS, canonical_answer, last_box, split_option

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_TAGGED = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"<\|\w+\|>|</s>")  # special tokens of a chat template: no words of the model
_STATED = re.compile(
    r"\b(?:answer|prediction|(?:best|correct|right)\s+(?:option|choice|caption|sentence))\b"
    r"(?:\s+(?:is|would\s+be|should\s+be|must\s+be)\b)?[\"'*]*\s*[:=]?((?:(?!\b(?:answer|prediction)\b)[^\n])*)",
    re.IGNORECASE,
)
# A lone "A" or "I" is mostly a word: these two need a mark after them.
_MARK = r"(?=[\"'*`}]*\s*(?:$|[.):,;!\]}]))"
_MARKED = rf"(?:[(\[]([A-Za-z])[)\]]|([A-Z]){_MARK}|([B-HJ-Z])(?![\w']))"
_LABEL_WORD = r"(?i:option|choice|letter)"
_LABELLED = re.compile(rf"\A(\W*){_LABEL_WORD}\s+(?=[(\[]?[A-Z](?![\w']))")
_LEADING = re.compile(rf"[\s*\"'`]*(?:{_LABEL_WORD}\s+)?{_MARKED}(?!\W*(?:or|and|&|/|,)\W*[A-Z](?![\w']))")
_CORRECT = (  # "B is right of the box" is about a place
    r"(?i:is|must\s+be|would\s+be|should\s+be)\s+(?i:the\s+)?"
    r"(?i:(?:correct|right|best)(?:\s+(?:answer|option|choice|one))?|answer)"
    r"(?=[\s\"'*`)}]*(?:$|[.,;!]|(?i:because|since|as|here)\b))"
)
_POINTED = re.compile(
    rf"(?:\b(?i:option|choice|letter|choose|select|pick|go\s+with|is|it['\u2019]s|say)(?:\s*[:=]\s*|\s+)[\"'*]*{_MARKED}"
    rf"|\b(?i:think|guess|believe)\s+[\"'*]*([A-Z]){_MARK}"
    rf"|(?<![\w'])([A-Z])[\"'*)\]]*\s+{_CORRECT}"
    r"|[(\[]([A-Z])[)\]])"
)
_HEDGED = re.compile(
    r"(?<![\w'])[(\[]?[A-Z][)\]]?[\s,]*(?:\bor\b(?:\s+(?i:maybe|perhaps|possibly|option|choice|letter)\b)*|/)"
    r"\s*[(\[]?[A-Z](?![\w'])"
)
_DENIED = re.compile(
    r"(?:(?:\bnot|n['\u2019]t|\bnever|\bcannot|\bneither|\bno\s+longer|\bwrong\s+to|\bdoubt)\s+(?:[\w'\u2019]+\s+){0,2}"
    r"|\b(?:whether|if|unless|maybe|perhaps|possibly|nor)\s+(?:(?:it\s+is|it['\u2019]s|option|choice|letter)\s+)?"
    r"|\b[a-z]\W+(?:and|&)\s+)[\"'*(\[]*$",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"\W*(?i:is|are|was)(?i:n['\u2019]t|\s+(?:not|wrong|incorrect|false))\b|\s*(?:and|&)\s*[(\[]?[A-HJ-Z](?![\w'])"
    r"|[^.!;\n]{0,60}\?"
)


def read_choice(reply: str, options: Sequence[str]) -> str | None:
    """Letter of the one option ("A. left", ...) that the reply gives; None without one."""

    def whole(text: str) -> str | None:
        return canonical_answer(_LABELLED.sub(r"\1", text), options, "multiple choice")

    def stated(clause: str) -> str | None:
        clause = clause.strip(" \t\"'`{}")
        first_sentence = re.split(r"(?<=\w{2})[.;!]\s", clause, maxsplit=1)[0]
        value = clause.partition('"')[0]  # of {"answer": "left", "reason": ...}
        return whole(clause) or whole(first_sentence) or whole(value) or _letter(_LEADING.match(clause))

    def after(text: str, end: int) -> str | None:
        """What stands behind a letter: "(B) left" is no answer where left is A. Cut, so that the whole stays linear."""
        text = text[end : end + 200].partition("\n")[0].lstrip(" .:)]*\"'")
        return whole(text) if any(said in text.casefold() for said in texts) else None

    def pointed(text: str) -> list[str | None]:
        if _HEDGED.search(text):
            return []
        return [
            letter
            for match in _POINTED.finditer(text)
            if not _DENIED.search(text[max(0, match.start() - 40) : match.start(match.lastindex)])
            and not _REJECTED.match(text, match.end())
            for letter in (_letter(match), after(text, match.end()))
        ]

    pairs = [pair for pair in map(split_option, options) if pair]
    letters, texts = {letter for letter, _ in pairs}, [said.casefold() for _, said in pairs if said]
    answer = _read(reply, whole, stated, pointed)
    return answer if answer in letters else None


_YES_NO = re.compile(r"(yes|no)", re.IGNORECASE)
_BOTH = re.compile(r"\byes\b\W+(?:(?:and|or)\W+)?no\b|\bno\b\W+(?:or\W+)?yes\b", re.IGNORECASE)
# "no" also counts things ("no one", "no doubt"): it answers only where the sentence ends or starts anew after it.
_YES_NO_LEAD = re.compile(
    r"[\s*\"'`(:]*(yes|no)\b(?=[\s*\"'`)}]*(?:$|[.,;!\n\u2013\u2014-])|\s+(?:the|it|he|she|they|there|this|that|i|we)\b)",
    re.IGNORECASE,
)
_YES_NO_FREE = re.compile(r"(?<![\w'])(yes|no)(?=[*\"'`)]*(?:\s*$|[.,;!]))", re.IGNORECASE)


def read_yes_no(reply: str) -> str | None:
    """ "yes" or "no"; None where the reply says neither, or both."""

    def whole(text: str) -> str | None:
        lone = _YES_NO.fullmatch(text.strip(" \t\r\n.,;:!*\"'`()[]{}$"))
        return lone[1].lower() if lone else None

    def lead(text: str) -> str | None:
        match = None if _BOTH.match(text.lstrip(" *\"'`(")) else _YES_NO_LEAD.match(text)
        return match[1].lower() if match else None

    def line(text: str) -> str | None:
        """What it begins with; "" where it or what follows comes to the opposite ("Yes, but actually no.")."""
        first = lead(text)
        return first and (first if {first}.issuperset(free(said[said.rfind(text) :])) else "")

    def free(text: str) -> list[str]:
        text = _BOTH.sub(" ", text)
        free = [match for match in _YES_NO_FREE.finditer(text) if not _DENIED.search(text[: match.start()][-40:])]
        return [match[1].lower() for match in free]

    said = answer_text(reply) or ""
    return _read(reply, whole, lead, free, line=line) or None


def _read(
    reply: str,
    whole: Callable[[str], str | None],
    stated: Callable[[str], str | None],
    pointed: Callable[[str], Iterable[str | None]],
    *,
    line: Callable[[str], str | None] | None = None,
) -> str | None:
    """The seven places of the module's docstring, in order, with the given readers of a text, a clause and a line."""
    text = answer_text(reply)
    if text is None or len(text) > MAX_ANSWER_CHARS:
        return None
    if last_box(text) is not None:
        return whole(last_box(text))
    if tagged := _TAGGED.findall(text):
        return whole(tagged[-1])
    text = text.strip()
    lines = [part for part in text.split("\n") if part.strip()] or [""]
    places = (
        lambda: [whole(text)],
        lambda: [stated(match[1]) for match in _STATED.finditer(text)],
        lambda: map(line or whole, (lines[0], lines[-1])),
        lambda: pointed(text),
    )
    for place in places:
        if found := set(place()) - {None}:
            return found.pop() if len(found) == 1 else None
    return None


def answer_text(reply: str) -> str | None:
    r"""The reply without thoughts (the prompt may have opened them) and special tokens; None with a \boxed{ cut off."""
    text = _CONTROL.sub("", _THOUGHT.sub("\n", reply).rpartition("</think>")[2])
    return None if "\\boxed" in text and last_box(text) is None else text


def _letter(match: re.Match | None) -> str | None:
    return None if match is None else next(group for group in match.groups() if group).upper()


# ---------------------------------------------------------------------------------------------------------------------
# TempCompass' two formats of its own

_LABEL = r"(?:Caption|Option|Sentence)"


def read_caption_matching(reply: str, label: str, options: Sequence[str]) -> str | None:
    """Letter of the option that the reply gives, where the benchmark calls them "Caption A", "Sentence A" (`label`) or
    "Option 1". A letter where numbers were offered is no answer.
    """
    text = answer_text(reply) or ""
    box = last_box(text)
    text = text if box is None else box
    if label == "Option":
        if re.fullmatch(r"\W*[A-Za-z]\W*", text):
            return None
        text = re.sub(r"\A(\W*)([1-9])(?=\W|\Z)", lambda m: m[1] + chr(ord("@") + int(m[2])), text)
        text = re.sub(r"((?:answer|option)(?:\s+is)?\W*\s)([1-9])\b", _lettered, text, flags=re.IGNORECASE)
    # "Caption B: text" is then "B: text", which every reader knows.
    text = re.sub(rf"\b{_LABEL}\s+(?=[A-Z](?:\W|\Z))", "", text, flags=re.IGNORECASE)
    return read_choice(text, options)


def _lettered(match: re.Match) -> str:
    return match[1] + chr(ord("@") + int(match[2]))


_DENIAL = re.compile(
    r"(?:\b(?:not|cannot|never|neither|nor|no|none|nobody|nothing|without|instead\s+of|rather\s+than|fails?\s+to)\b|n['\u2019]t\b)"
    r"[^.,;:!?\n]*?(?=\bbut\b|\binstead\b(?!\s+of)|[.,;:!?\n]|\Z)",
    re.IGNORECASE,
)


def read_caption(reply: str, options: Sequence[str]) -> str | None:
    """Letter of the one piece of information that a caption conveys, without a judge.

    TempCompass asks a language model which option a caption fits. Here an option is conveyed where the caption holds
    its words as a phrase (endings set aside: "dunks", "dunking") or else all those of its words that no other option
    has; an option whose phrase lies within another's that is conveyed does not count. A judge's verdict ("B", "B. ...")
    may stand in the caption's place. What a caption denies ("does not show ...", up to the end of the clause) it does
    not convey.
    """
    if letter := read_choice(reply, options):
        return letter
    said = _stems(_DENIAL.sub(" not ", answer_text(reply) or ""))
    phrases = {letter: _stems(text) for letter, text in map(split_option, options)}
    conveyed = {letter for letter, words in phrases.items() if words and _within(words, said)}
    conveyed = {
        letter
        for letter in conveyed
        if not any(phrases[letter] != phrases[o] and _within(phrases[letter], phrases[o]) for o in conveyed)
    }
    if not conveyed:
        for letter, words in phrases.items():
            own = set(words).difference(*(phrases[other] for other in phrases if other != letter))
            if own and own <= set(said):
                conveyed.add(letter)
    return conveyed.pop() if len(conveyed) == 1 else None


def caption_options(question: str) -> list[str]:
    """("A. dunking a basketball", ...) of a captioning question's lines "Information A: {'subject': ..., ...}": the
    values that tell the options apart. Raises ValueError where no two options can be read.
    """
    found = [_literal(text) for text in re.findall(r"^Information [A-Z]: (\{.*\})\s*$", question, re.MULTILINE)]
    names = [name for name in found[0] if len({str(option.get(name)) for option in found}) > 1] if found else []
    if len(found) < 2 or not names:
        raise ValueError("holds no two different lines 'Information A: {...}'")
    texts = [" ".join(str(option.get(name, "")) for name in names) for option in found]
    return [f"{chr(ord('A') + i)}. {text}" for i, text in enumerate(texts)]


def _literal(text: str) -> dict:
    """The dict that a line spells in Python; nothing is executed. ValueError for any other line."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # the last two: deep nesting
        raise ValueError(f"{text[:60]!r} is no dictionary") from error
    if not isinstance(value, dict):
        raise ValueError(f"{text[:60]!r} is no dictionary")
    return value


def _stems(text: str) -> list[str]:
    """Lower-case words without articles and without -ing, -ed, -es, -s and a doubled last letter ("running": "run")."""
    stems = []
    for word in re.findall(r"[a-z0-9]+", text.casefold()):
        stem = re.sub(r"(?<=\w{3})(?:ing|ed|es|s|e)$", "", word)
        stems.append(re.sub(r"([b-df-hj-np-rt-z])\1$", r"\1", stem))
    return [stem for stem in stems if stem not in ("a", "an", "the", "is", "ar")]


def _within(words: Sequence[str], text: Sequence[str]) -> bool:
    """True where the words stand in the text in order, side by side."""
    return any(text[at : at + len(words)] == words for at in range(len(text) - len(words) + 1))
