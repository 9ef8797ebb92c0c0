"""A Task Router of keywords: no model, no network, the same label every time (`python router.py --engine rules`).

It reads the criteria of the paper's two tests (App. C) off words: what is asked, and what the gold answer says. It is
coarse; its agreement with a person's labels is scored on the same audit sheet as any other router's.
"""

from __future__ import annotations

import re

from episode import Question
from verifiers import option_of, option_text

# (answer changes in the mirror, answer changes backwards) -> category; the paper's decision table.
CATEGORIES = {
    (True, False): "Spatial",
    (False, True): "Temporal",
    (True, True): "Spatiotemporal",
    (False, False): "Static",
}


def _any(*words: str) -> re.Pattern[str]:
    """One of the words or patterns, as whole words, in any case."""
    return re.compile(rf"\b(?:{'|'.join(words)})\b", re.IGNORECASE)


# -- mirrored ----------------------------------------------------------------------------------------------------------

# "right after", "left the room", "how many are left": the words that mean neither hand.
_NO_SIDE = _any(
    r"right (?:after|before|away|now|when|as|next|then|answer|choice|option|order|thing|angles?|here|there)",
    r"(?:all|just|is that|am i|be|was) right",
    r"(?:has|have|had|he|she|they|who|person|man|woman|boy|girl|it|and|then) left(?! (?:hand|arm|leg|foot|and right))",
    r"left (?:over|out|alone|behind|for|him|her|them|it)",
    r"(?:is|are|was|were|be) left(?! of)",
    r"copyright|rights",
)
_SIDE = _any(
    r"(?:up|down|top|bottom|upper|lower|centre|center|mid|middle|front|back)?[- ]?"
    r"(?:left|right)(?:wards?|most|ies|y)?(?:-hand(?:ed)?)?"
)
_HORIZONTAL = _any(
    r"(?:anti|counter)?-?clockwise",
    r"horizontal(?:ly)?",
    r"side ?ways",
    r"(?:north|south)?-?(?:east|west)(?:ern|wards?)?",
)

# -- backwards ---------------------------------------------------------------------------------------------------------

_COUNT = _any(r"how many", r"how often", r"number of", r"count(?:s|ed|ing)?", r"how much")
_ATTRIBUTE = _any(
    r"colou?rs?",
    r"shapes?",
    r"materials?",
    r"sizes?",
    r"(?:what|which) (?:kind|type|brand|breed|sort|species) of",
    r"how (?:tall|big|large|long|wide|heavy|old|far)",
    r"who is|whose|what is (?:the|his|her|their) (?:name|job|occupation|gender)",
)
_ORDER = _any(
    r"first(?! ?-?person)(?! name)(?! aid)",
    r"last(?! name)",
    r"second(?= (?:event|action|step|thing|time|letter|object|person))",
    r"before(?:hand)?",
    r"(?<!look )after(?:wards?)?(?! all)",
    r"then|next(?! to)|previous(?:ly)?|prior to|earlier|later|until",
    r"initial(?:ly)?|final(?:ly)?|eventual(?:ly)?|subsequent(?:ly)?",
    r"(?:at|in|from|by|near|towards?) the (?:very )?(?:beginning|start|end|outset)",
    r"(?:beginning|start|end|ending) of the (?:video|clip|film|movie|game|scene|process|sequence|recording)",
    r"(?:begin|start|end|finish)(?:s|ed)? with",
    r"(?:when|while) the (?:video|clip|game) (?:begins|starts|ends)",
    r"(?<!in )order(?! to)|(?<!the )(?<!video )sequence|sequence of|chronolog\w+|timeline",
)
# What lasts from the first frame to the last is there in either direction.
_LASTING = _any(
    r"throughout|always|remain(?:s|ed|ing)?|stay(?:s|ed|ing)?|stationary|motionless|unchanged",
    r"(?:no|any) (?:visible |apparent )?(?:\w+ )?changes?",
    r"the (?:entire|whole) (?:video|clip|time)",
)
_FROM_TO = re.compile(r"\bfrom\b.+\bto\b", re.IGNORECASE | re.DOTALL)
_CAUSE = _any(
    r"why",
    r"because",
    r"(?:cause|reason|result|consequence|outcome|effect|purpose|goal|aim)[sd]?",
    r"(?:leads?|led|leading) to",
    r"in order to|so that",
    r"what (?:will|would|might|could)|going to happen|happens? if|predict\w*",
)
# Actions that undo themselves when played backwards. Stems take the usual endings; irregular forms are listed.
_PAIRS = """
open|close|shut|enter|exit|arrive|depart|approach|come|came|coming|appear|disappear|vanish|emerge
lift|raise|lower|drop|rise|rose|rising|fall|fell|fallen|ascend|descend|climb|sink|sank|sunk
grow|grew|grown|shrink|shrank|shrunk|expand|contract|increase|decrease|inflate|deflate|swell|widen|narrow
take|took|taken|taking|grab|fetch|place|insert|remove|add|attach|detach|connect|disconnect|plug|unplug
pour|fill|empty|spill|load|unload|pack|unpack|lock|unlock|tie|untie|fold|unfold|wrap|unwrap|button|unbutton
cover|uncover|assemble|disassemble|build|built|destroy|break|broke|broken|tear|tore|torn|cut|cutting|slice|peel
melt|freeze|froze|frozen|ignite|extinguish|explode|collapse|burst|crash|collide|shatter|bloom|wilt
throw|threw|thrown|toss|catch|caught|push|pull|kick|hit|release|give|gave|given|receive|hand over|hands over
accelerate|decelerate|brighten|darken|fade|merge|split|separate|become|became|transform|evolve
eat|ate|eaten|drink|drank|swallow|lie down|lies down|lay down|lied on|lie on
put|puts|putting|pick up|picks up|picked up|picking up|set down|sets down
stand up|stands up|stood up|sit down|sits down|sat down|get up|gets up|got up|wake up|wakes up|woke up
turn on|turns on|turned on|turn off|turns off|turned off|switch on|switch off|switches on|switches off
speed up|speeds up|slow down|slows down|zoom in|zooms in|zoom out|zooms out|zooming in|zooming out
turn into|turns into|turned into|change into|changes into|move away|moves away|moved away
""".split("\n")
_ACTION = _any(
    *(
        f"{verb}(?:s|es|d|ed|ing)?" if not verb.endswith("e") else f"{verb[:-1]}(?:e|es|ed|ing)"
        for line in _PAIRS
        for verb in line.split("|")
        if verb
    ),
    r"dropp(?:ed|ing)|grabb(?:ed|ing)|plugg(?:ed|ing)|unplugg(?:ed|ing)|shutting|hitting|wrapp(?:ed|ing)"
    r"|unwrapp(?:ed|ing)|splitting|carried (?:in|out|away)|empt(?:ies|ied)|unt(?:ied|ying)|tying",
)
_MOTION = _any(
    r"mov(?:e|es|ed|ing|ement)|motions?|travel(?:s|l?ed|l?ing)?|head(?:s|ed|ing)|(?:go|goes|going|went)",
    r"turn(?:s|ed|ing)?|rotat(?:e|es|ed|ing|ion)|spin(?:s|ning)?|spun|drift(?:s|ed|ing)?|fl(?:y|ies|ew|ying)",
    r"walk(?:s|ed|ing)?|run(?:s|ning)?|ran|roll(?:s|ed|ing)?|slid(?:e|es|ing)|driv(?:e|es|ing)|drove|swim(?:s|ming)?",
    r"step(?:s|ped|ping)?|pan(?:s|ned|ning)?|tilt(?:s|ed|ing)?|shift(?:s|ed|ing)?",
    r"which (?:way|direction)|what direction",
)
_HEADING = _any(
    r"up(?:wards?)?|down(?:wards?)?|forwards?|backwards?|towards?|away|in(?:wards)|out(?:wards)|closer|farther|further",
    r"north(?:wards?)?|south(?:wards?)?",
)


def explain(question: Question) -> str:
    """Both verdicts with the word each rests on, then the category alone on the last line, as a model would reply."""
    asked, gold = question.problem, gold_text(question)
    mirror, backwards = _mirror(asked, gold), _backwards(asked, gold)
    lines = [
        f"Mirrored: {'yes, ' + mirror if mirror else 'no word of left and right'}.",
        f"Backwards: {'yes, ' + backwards if backwards else 'no word of an order or of an action with a direction'}.",
        CATEGORIES[bool(mirror), bool(backwards)],
    ]
    return "\n".join(lines)


def gold_text(question: Question, *, letter: bool = False) -> str:
    """The gold answer in words: its option's text in multiple choice, with its `letter` or without."""
    option = option_of(question.gold, question.options) if question.problem_type == "multiple choice" else None
    if option is None:
        return question.gold
    return option if letter else option_text(option)


def _mirror(asked: str, gold: str) -> str:
    """The word for which the answer changes in the mirror; empty if there is none. "Up" stays up whatever else is
    offered, so options count only where they are the answer."""
    for where, text in (("question", asked), ("answer", gold)):
        text = _NO_SIDE.sub(" ", text) if where == "question" or len(text.split()) > 2 else text
        if found := _SIDE.search(text) or _HORIZONTAL.search(text):
            return f"{found[0].strip().lower()!r} in the {where}"
    return ""


def _backwards(asked: str, gold: str) -> str:
    """The word for which the answer changes backwards; empty if there is none."""
    if _LASTING.search(gold):
        return ""
    if found := _ORDER.search(asked):
        return f"order: {found[0].lower()!r} in the question"
    if _COUNT.search(asked) or _ATTRIBUTE.search(asked):
        return ""
    if found := _CAUSE.search(asked):
        return f"cause: {found[0].lower()!r} in the question"
    sided = bool(_SIDE.search(gold) or _HORIZONTAL.search(gold) or _HEADING.search(gold))
    if sided and (found := _MOTION.search(asked) or _MOTION.search(gold)):
        return f"motion: {found[0].lower()!r} with a direction as the answer"
    for where, text in (("answer", gold), ("question", asked)):
        if found := _ACTION.search(text):
            return f"action: {found[0].lower()!r} in the {where}"
    if found := _ORDER.search(gold) or _FROM_TO.search(gold):
        return f"order: {found[0][:40].lower()!r} in the answer"
    return ""
