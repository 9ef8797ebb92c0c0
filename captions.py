"""Which events a caption tells: the judge behind the caption reward.

VideoChat-R1 lets a language model turn gold text and caption into events and pays the recalled fraction; its code is
not released, and by its own account the choice of the judge hardly matters. A judge here takes a caption and the gold
events and returns those that the caption tells; `verifiers.verify` takes any. `told_by_words` needs no model and is
ours (table row 41): sentence-level token recall.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

from chat_client import ChatClient

Judge = Callable[[str, Sequence[str]], list[str]]
"""(caption, gold events) -> those that it tells, in the order of the gold."""
RECALL = 0.6  # of an event's words, in one sentence of the caption
_IDLE = frozenset("a an the of to in on at and or is are was were be been being it its then with as by for from he she "
                  "they them his her their this that there".split())  # fmt: skip


def told_by_words(caption: str, events: Sequence[str]) -> list[str]:
    """Events of whose words one sentence of the caption has at least RECALL; endings and idle words set aside."""
    sentences = [words(sentence) for sentence in re.split(r"[.!?;\n]", caption)]
    return [event for event in events if any(_recall(words(event), sentence) >= RECALL for sentence in sentences)]


def words(text: str) -> frozenset[str]:
    """Lower-case words without their endings (-s, -es, -ed, -ing) and without idle ones."""
    found = re.findall(r"[^\W_]+", text.casefold())
    return frozenset(re.sub(r"(?<=\w{3})(?:ing|ed|es|s|e)$", "", word) for word in found if word not in _IDLE)


def _recall(event: frozenset[str], sentence: frozenset[str]) -> float:
    return len(event & sentence) / len(event) if event else 0.0


INSTRUCTION = (
    "Below are numbered events and a description of a video. Write the numbers of the events that the description "
    "tells, in whatever words, separated by commas, and nothing else; write 0 if it tells none.\n\nEvents:\n{events}\n"
    "\nDescription:\n{caption}"
)


def asked_of(ask: Callable[[str], str]) -> Judge:
    """A judge that asks a language model: `ask` sends a text and returns the reply. Numbers out of range are none."""

    def told(caption: str, events: Sequence[str]) -> list[str]:
        numbered = "\n".join(f"{number}. {event}" for number, event in enumerate(events, start=1))
        reply = ask(INSTRUCTION.format(events=numbered, caption=caption))
        named = {int(number) for number in re.findall(r"[0-9]{1,4}", reply)}
        return [event for number, event in enumerate(events, start=1) if number in named]

    return told


def judge_of(flag: str) -> Judge:
    """--caption-judge: empty is `told_by_words`, MODEL@URL asks an OpenAI-compatible endpoint (key, if it wants one, in
    the environment's CAPTION_JUDGE_KEY). ValueError, one line, where it is neither."""
    if not flag:
        return told_by_words
    model, _, url = flag.rpartition("@")
    if not model:
        raise ValueError(f"--caption-judge must be MODEL@URL, such as gpt-4o@https://host/v1; got {flag!r}")
    client = ChatClient(url, model, api_key=os.environ.get("CAPTION_JUDGE_KEY", ""))
    return asked_of(lambda text: client.ask(text, seed=0, temperature=0.0, max_tokens=64).text)
