"""pytest tests/test_tasks.py -- answers that are right in part: read, graded, mapped by the transforms, paid."""

import json
import random
import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import rewards
from captions import asked_of, judge_of, told_by_words
from data.dataset import load_questions
from data.prompts import SYSTEM_PROMPT, build_prompt, question_text
from episode import Group, Prompt, Question, Rollout
from grounding import interval_iou
from methods import METHODS, MethodSettings, Outcome, likeness
from metrics import Accumulator
from plan import Planner
from score import Scorer, score
from tags import tagged
from tasks import TASKS, canonical, counterfactual_golds, user_turn
from transforms import COUNTERFACTUALS, FRAME_SHUFFLE, HORIZONTAL_FLIP, TEMPORAL_REVERSE, mapped_gold, visit_rng
from verifiers import verify

BOXES = [[round(0.1 * i, 1), 0.2, round(0.1 * i + 0.2, 1), 0.5] for i in range(8)]
GOLDS = {
    "temporal grounding": {"intervals": [[2.0, 6.0]], "duration": 10.0},
    "tracking": {"boxes": BOXES, "given": 0},
    "grounded qa": {"letter": "B", "intervals": [[1.0, 3.0], [6.0, 7.0]], "duration": 8.0},
    "qa": {"letter": "B"},
    "quality": {"label": "good"},
    "caption": {"events": ["a man opens the red door", "the dog runs away"]},
    "order": {"order": [3, 1], "candidates": 4},
}
GRAPH = [{"car": [[0.1, 0.5]], "dog": [[0.7, 0.4], [0.9, 0.9]]}, {"dog": [[0.6, 0.4]]}]
SCENE = {"graph": GRAPH, "angles": "absolute"}
GOLDS |= {
    "relation choice": {"letter": "B", **SCENE, "under": {HORIZONTAL_FLIP: {"letter": "A"}}},
    "relation number": {"number": 2.5, **SCENE, "under": {name: {"number": 2.5} for name in COUNTERFACTUALS}},
    "relation box": {"box": [0.1, 0.2, 0.4, 0.6], **SCENE},
    "relation interval": {"intervals": [[2.0, 6.0]], "duration": 10.0, **SCENE},
}
OPTIONS = ("A. left", "B. right", "C. up")


def question(kind="temporal grounding", gold=None, task_type=None):
    options = OPTIONS if "letter" in GOLDS.get(kind, ()) else ()
    gold = canonical(GOLDS[kind] if gold is None else gold)
    return Question("q", 1, "it happens", "video", kind, options, gold, task_type=task_type)


def said(answer, glue=None, thought="hm"):
    return f"<think>{thought}</think>\n<answer>{answer}</answer>" + ("" if glue is None else f"<glue>{glue}</glue>")


PERFECT = {
    "temporal grounding": said("2.00 to 6.00"),
    "tracking": said(BOXES),
    "grounded qa": said("B", "[(1.0, 3.0), (6.0, 7.0)]"),
    "qa": said("B"),
    "quality": said(" Good "),
    "caption": said("A man is opening a red door. Then the dog ran, running away."),
    "order": said("3, 1"),
}
THOUGHT = f"I see <graph>{json.dumps(GRAPH)}</graph>"
PERFECT |= {
    "relation choice": said("B", thought=THOUGHT),
    "relation number": said("2.50", thought=THOUGHT),
    "relation box": said([0.1, 0.2, 0.4, 0.6], thought=THOUGHT),
    "relation interval": said("2.0 to 6.0", thought=THOUGHT),
}


@pytest.mark.parametrize("kind", TASKS)
def test_a_perfect_answer_scores_1_and_silence_0(kind):
    facts = verify(PERFECT[kind], question(kind))
    assert facts.well_formed and facts.score == 1 and set(facts.terms.values()) == {1.0}
    for text in ("", "no tags", "<answer>", "<think></think><answer></answer>"):
        silent = verify(text, question(kind))
        assert (silent.answer, silent.score) == (None, 0.0) and silent.terms.keys() == facts.terms.keys()
    assert TASKS[kind].score(facts.answer, question(kind).gold) == 1


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        (said("4.0 to 6.0"), [4, 6], 0.5),
        (said("from 4 and 6 seconds"), [4, 6], 0.5),
        (said("1 to 2, no, 2.0 to 6.0"), [2, 6], 1),  # the last of the block
        (said("9 to 9") + "<answer>2 TO 6</answer>", [2, 6], 1),  # the last block
        (said("2.0  to 6.0"), None, 0),  # single spaces, as published
        (said("6.0 to 2.0"), None, 0),  # backwards (row 40)
        (said("3.0 to 3.0"), [3, 3], 0),
        (said("7 to 9"), [7, 9], 0),
        ("<think>2 to 6</think>", None, 0),
        (said("0 to " + "9" * 400), [0, float("inf")], 0),
    ],
)
def test_a_period_by_hand(text, answer, score):
    facts = verify(text, question())
    assert (facts.answer and json.loads(facts.answer)["intervals"]) == (answer and [answer])
    assert facts.score == pytest.approx(score)


@pytest.mark.parametrize(
    ("letter", "glue", "terms", "well_formed"),
    [
        ("B", "[(1, 3), (6, 7)]", (1, 1), True),
        ("B", "[(1, 3), (2, 3.0), (6, 7),]", (1, 1), True),  # overlapping ones are merged
        ("C", "[(1, 3), (6, 7)]", (0, 1), True),
        ("B", "[]", (1, 0), True),
        ("B", "[(3, 1)]", (1, 0), False),  # backwards
        ("B", "[[1, 3]]", (1, 0), False),  # lists, not pairs
        ("B", None, (1, 0), False),
        ("The answer is B", "[(6, 7)]", (1, 1 / 3), True),
        ("(B) right", "[(6, 7)]", (1, 1 / 3), True),
        ("right", "[(6, 7)]", (0, 1 / 3), True),  # no letter, as published
    ],
)
def test_grounded_qa_by_hand(letter, glue, terms, well_formed):
    facts = verify(said(letter, glue), question("grounded qa"))
    assert (facts.terms["answer"], facts.terms["iou"]) == pytest.approx(terms)
    assert facts.score == pytest.approx(sum(terms) / 2) and facts.well_formed == well_formed
    assert TASKS["grounded qa"].worth(question("grounded qa").gold) == 2


@pytest.mark.parametrize(
    ("answer", "thought", "answered", "seen"),
    [
        ("B", THOUGHT, 1, 1),
        ("A", THOUGHT, 0, 1),
        ("B", "nothing", 1, 0),
        ("B", f"<graph>{json.dumps(GRAPH[:1])}</graph>", 1, 0.5),  # a moment is missing
        ("B", f"<graph>[]</graph>, or <graph>{json.dumps(GRAPH)}</graph>", 1, 1),  # the last word counts
        ("B", "<graph>[{'car': 1}]</graph>", 1, 0),
    ],
)
def test_a_graph_is_paid_beside_the_answer(answer, thought, answered, seen):
    facts = verify(said(answer, thought=thought), question("relation choice"))
    assert facts.terms == {"answer": answered, "graph": seen} and facts.score == (answered + seen) / 2
    assert facts.well_formed and TASKS["relation choice"].worth(question("relation choice").gold) == 2
    late = f"<think>hm</think> <answer>{answer} {THOUGHT}</answer>"
    assert verify(late, question("relation choice")).terms["graph"] == 0  # a graph outside the thought is none


@pytest.mark.parametrize(
    ("text", "score"),
    [("3,1", 1), ("1,3", 0.75), ("3", 0.5), ("3,1,2,4", 0.5), ("3,3", 0.5), ("2,4", 0), ("none", 0), ("9,9,9", 0)],
)
def test_an_order_by_hand(text, score):
    assert verify(said(text), question("order")).score == score


@pytest.mark.parametrize(
    ("kind", "text", "score"),
    [
        ("relation number", "2.5", 1),
        ("relation number", "250%", 0.5),
        ("relation number", "2.4 %", 1),  # off by 4 %
        ("relation number", "2.3", 0.95),  # by 8 %
        ("relation number", "about 2.5", 0.5),
        ("relation number", "9" * 399, 0.5),
        ("relation box", "[0.1, 0.2, 0.4, 0.4]", 0.75),
        ("relation box", "[0.4, 0.6, 0.1, 0.2]", 0.5),  # no area
        ("relation box", "0.1, 0.2, 0.4, 0.6", 0.5),
        ("relation interval", "4.0 to 6.0", 0.75),
        ("relation interval", "6.0 to 4.0", 0.5),
    ],
)
def test_relations_by_hand(kind, text, score):
    assert verify(said(text, thought=THOUGHT), question(kind)).score == pytest.approx(score)


def test_a_track_by_hand():
    half = [[x0, y0, (x0 + x1) / 2, y1] for x0, y0, x1, y1 in BOXES]
    assert verify(said(half), question("tracking")).score == pytest.approx(0.5)
    assert verify(said(str(BOXES).replace("],", "],\n")), question("tracking")).score == 1
    for wrong in (BOXES[:7], [*BOXES, BOXES[0]], [tuple(box) for box in BOXES], BOXES[0]):
        facts = verify(said(wrong), question("tracking"))
        assert facts.score == 0 and not facts.well_formed
    # Row 39: the box that stands in the prompt earns something, unless it is left out.
    lost = [BOXES[0]] + [[0.9, 0.9, 1.0, 1.0]] * 7
    assert verify(said(lost), question("tracking")).score == pytest.approx(1 / 8)
    assert verify(said(lost), question("tracking", {"boxes": BOXES, "given": 1})).score == 0


# -- formats, against VideoChat-R1's own patterns ---------------------------------------------------------------------

PATTERNS = {
    ("think", "answer"): r"<think>.*?</think>\s*<answer>.*?</answer>",
    ("think", "answer", "glue"): r"<think>.*?</think>\s*<answer>.*?</answer>\s*<glue>.*?</glue>",
}
PIECES = ["<think>", "</think>", "<answer>", "</answer>", "<glue>", "</glue>", " ", "\n", "x"]


def test_tagged_is_the_published_pattern_on_1000_random_texts():
    rng, agreed = random.Random(0), set()
    for i in range(1000):
        text = "".join(rng.choices(PIECES, k=rng.randint(0, 12)))
        if i % 2:
            whole = ["<think>", "</think>", "<answer>", "</answer>", "<glue>", "</glue>"][: rng.choice([4, 6])]
            whole.insert(rng.randint(0, len(whole)), rng.choice(PIECES))
            text = "".join(whole)
        for tags, pattern in PATTERNS.items():
            published = re.fullmatch(pattern, text.strip(), re.DOTALL) is not None
            assert tagged(text, *tags) == published, text
            agreed.add((tags, published))
    assert len(agreed) == 4


# -- never raises, never above 1, linear ------------------------------------------------------------------------------

WORDS = [
    *PIECES,
    "[",
    "]",
    "(",
    ")",
    ",",
    "1",
    "2.5",
    "-3",
    "1e999",
    "nan",
    ".5",
    " to ",
    " and ",
    "B",
    "good",
    "\u0661",
]
TEXT = st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=60).map("".join))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(TASKS)), TEXT, st.booleans())
def test_no_text_raises_and_no_score_leaves_0_to_1(kind, text, wrap):
    facts = verify(said(text, text) if wrap else text, question(kind))
    assert 0 <= facts.score <= 1 and all(0 <= value <= 1 for value in facts.terms.values())
    if facts.answer is not None:
        assert canonical(json.loads(facts.answer)) == facts.answer


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 20_000, "9" * 100_000, "(1, " * 30_000, "[" * 100_000, "</think> " * 20_000,
        "[(1, 2)" + 9_900 * " " + "x", "[[1, 2, 3, 4]" + 9_900 * " " + "x", "[1, 2, 3, 4" + 300 * " " + "x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", TASKS)
def test_long_texts_are_read_at_once(kind, text):
    for wrapped in (text, said(text, text)):  # the clock of the whole file is the judge: quadratic takes minutes
        assert verify(wrapped, question(kind)).score in (0, 1)


# -- what is right on the counterfactual clip -------------------------------------------------------------------------


def test_mapped_gold_by_hand():
    moment, track = GOLDS["temporal grounding"], GOLDS["tracking"]
    assert mapped_gold(moment, TEMPORAL_REVERSE) == {"intervals": [[4.0, 8.0]], "duration": 10.0}
    assert mapped_gold(moment, HORIZONTAL_FLIP) == moment
    assert mapped_gold(track, TEMPORAL_REVERSE) == {"boxes": BOXES[::-1], "given": 0}
    flipped = mapped_gold(track, HORIZONTAL_FLIP)["boxes"]
    assert flipped[1] == pytest.approx([0.7, 0.2, 0.9, 0.5]) and len(flipped) == 8
    graph = {"graph": [{"dog": [[0.1, 0.2]]}, {}]}
    assert mapped_gold(graph, HORIZONTAL_FLIP) == {"graph": [{"dog": [[0.9, 0.2]]}, {}]}
    assert mapped_gold(graph, TEMPORAL_REVERSE) == {"graph": [{}, {"dog": [[0.1, 0.2]]}]}
    hidden = GOLDS["order"]  # the pictures of the clip come from the other end: 1, 3 are then 4, 2
    assert mapped_gold(hidden, TEMPORAL_REVERSE) == {"order": [4, 2], "candidates": 4}
    assert mapped_gold(hidden, HORIZONTAL_FLIP) == hidden
    asked = GOLDS["relation choice"]
    assert mapped_gold(asked, HORIZONTAL_FLIP)["letter"] == "A" and mapped_gold(asked, TEMPORAL_REVERSE) is None
    assert mapped_gold(asked, HORIZONTAL_FLIP)["graph"][1] == {"dog": [[0.4, 0.4]]}
    assert mapped_gold({"letter": "A"}, HORIZONTAL_FLIP) is None
    assert mapped_gold({"letter": "A"}, HORIZONTAL_FLIP, static=True) == {"letter": "A"}
    assert mapped_gold(moment, FRAME_SHUFFLE) is None and mapped_gold(moment, "identity") == moment


@pytest.mark.parametrize("transform", COUNTERFACTUALS)
@pytest.mark.parametrize("kind", ["temporal grounding", "tracking", "order"])
def test_a_transform_twice_is_none_and_keeps_every_score(kind, transform):
    gold = GOLDS[kind]
    back = mapped_gold(mapped_gold(gold, transform), transform)
    assert TASKS[kind].score(canonical(back), canonical(gold)) == pytest.approx(1)
    near = {
        "temporal grounding": {"intervals": [[1.0, 5.0]], "duration": 10.0},
        "tracking": {"boxes": BOXES[::-1], "given": 0},
        "order": {"order": [3, 2], "candidates": 4},
    }[kind]
    before = TASKS[kind].score(canonical(near), canonical(gold))
    moved = [canonical(mapped_gold(parts, transform)) for parts in (near, gold)]
    assert 0 < before < 1 and TASKS[kind].score(*moved) == pytest.approx(before)


def test_a_mirrored_frame_count_is_a_mirrored_interval():
    """By brute force: mark the frames of an interval, reverse them, read the interval off again."""
    fps, frames = 4, 40
    for first in range(frames):
        for last in range(first + 1, frames + 1):
            marks = [first <= i < last for i in range(frames)][::-1]
            seen = [marks.index(True) / fps, (frames - marks[::-1].index(True)) / fps]
            gold = {"intervals": [[first / fps, last / fps]], "duration": frames / fps}
            assert mapped_gold(gold, TEMPORAL_REVERSE)["intervals"] == [seen]


@pytest.mark.parametrize(
    ("kind", "task_type", "names"),
    [
        ("temporal grounding", None, COUNTERFACTUALS),
        ("temporal grounding", "Temporal", (TEMPORAL_REVERSE,)),
        ("tracking", "Spatial", (HORIZONTAL_FLIP,)),
        ("grounded qa", None, ()),  # where the letter goes is not known
        ("grounded qa", "Temporal", ()),
        ("grounded qa", "Static", COUNTERFACTUALS),  # it stays, and the clips move
        ("quality", "Static", COUNTERFACTUALS),
        ("caption", None, ()),
    ],
)
def test_the_transforms_of_a_question_are_those_with_a_map(kind, task_type, names):
    assert tuple(counterfactual_golds(question(kind, task_type=task_type))) == names
    look = METHODS["crpo"].second(question(kind, task_type=task_type), visit_rng(0, 0, "q"), MethodSettings())
    assert (look.transform in names and look.gold) if names else look is None
    only = counterfactual_golds(question(kind, task_type=task_type), (TEMPORAL_REVERSE,))
    assert set(only) == {TEMPORAL_REVERSE} & set(names)


def test_the_second_look_is_asked_and_graded_with_its_own_gold():
    asked = question("tracking", task_type="Temporal")
    (_, second), settings = Planner(METHODS["crpo"], MethodSettings(), 1, 0).plan([(0, asked)]), MethodSettings()
    assert json.loads(second.question.gold)["boxes"] == BOXES[::-1] and second.question.id == asked.id
    assert str(BOXES[0]) in user_turn(asked) and str(BOXES[-1]) in user_turn(second.question)
    for method in ("grpo", "t_grpo", "arrow_rl", "augment"):  # which know of no other right answer
        plan = Planner(METHODS[method], settings, 1, 0).plan([(0, asked)])
        assert {item.question.gold for item in plan} == {asked.gold}


# -- rewards ----------------------------------------------------------------------------------------------------------


def outcome(asked, texts):
    return Outcome([verify(text, asked) for text in texts], [400] * len(texts), [0.5] * len(texts), asked.gold)


ORIGINAL = [said("B", "[(1, 3), (6, 7)]"), said("A", "[(1, 3)]"), said("B", "[]"), "junk"]
SECOND = [said("B", "[(5, 7), (1, 2)]"), said("B", "[(1, 3), (6, 7)]"), said("C", "[(5, 7), (1, 2)]"), "junk"]


def test_crpo_pays_the_mapped_gold_by_hand():
    asked = question("grounded qa", task_type="Static")
    mirrored = replace(asked, gold=counterfactual_golds(asked)[TEMPORAL_REVERSE])
    branches = [outcome(asked, ORIGINAL), outcome(mirrored, SECOND)]
    paid = METHODS["crpo"].pay(asked, branches, MethodSettings())
    correct, form = torch.tensor([1, (0 + 2 / 3) / 2, 0.5, 0]), torch.tensor([1.0, 1, 1, 0])
    behave = torch.tensor([1, (1 + interval_iou([(1, 3), (6, 7)], [(5, 7), (1, 2)])) / 2, 0.5, 0])
    p, q = correct.mean(), behave.mean()
    torch.testing.assert_close(paid[0].rewards, 2 * correct * (1 + 0.3 * q) + form)
    torch.testing.assert_close(paid[1].rewards, 0.5 * (2 * behave * (1 + 0.3 * p) + form))
    torch.testing.assert_close(paid[0].terms["grounded_qa/iou"], torch.tensor([1, 2 / 3, 0, 0]))
    torch.testing.assert_close(paid[0].terms["grounded_qa/answer"], torch.tensor([1.0, 0, 1, 0]))
    (grpo,) = METHODS["grpo"].pay(asked, branches[:1], MethodSettings())
    published = torch.tensor([1 + 1 + 1, 1 + 0 + 2 / 3, 1 + 1 + 0, 0])  # format + letter + IoU
    torch.testing.assert_close(grpo.rewards, published)


def test_which_lambda_is_that_of_whether_the_gold_moves():
    asked, how = question(), MethodSettings(lambda_d=0.5, lambda_s=0.0)
    texts = [said("2 to 6"), said("4 to 8")]
    for transform, crr in ((TEMPORAL_REVERSE, 0.5), (HORIZONTAL_FLIP, 0.0)):
        second = replace(asked, gold=counterfactual_golds(asked)[transform])
        paid = METHODS["crpo"].pay(asked, [outcome(asked, texts), outcome(second, texts)], how)
        assert paid[0].terms["crr_orig"][0].item() == pytest.approx(crr * paid[1].terms["behave"].mean().item())


def slow_graded(scores, cf_scores, form, cf_form, lam, w, worth):
    original, counterfactual = [], []
    for i in range(len(scores)):
        crr = sum(scores[i] * lam * b for b in cf_scores) / len(cf_scores)
        original.append(worth * (scores[i] + crr) + form[i])
    for j in range(len(cf_scores)):
        crr = sum(cf_scores[j] * lam * c for c in scores) / len(scores)
        counterfactual.append(w * (worth * (cf_scores[j] + crr) + cf_form[j]))
    return original, counterfactual


def test_graded_rewards_equal_the_slow_loop_on_1000_random_groups():
    rng = random.Random(2)
    for _ in range(1000):
        g, worth, lam, w = (
            rng.randint(1, 8),
            rng.choice([1.0, 2.0]),
            rng.choice([0.0, 0.3]),
            rng.choice([0.0, 0.5, 1.0]),
        )
        table = {(f"{side}{i}", side): rng.random() for side in "ab" for i in range(g)}
        answers, cf_answers = ([rng.choice([None, f"{side}{i}"]) for i in range(g)] for side in "ab")
        form, cf_form = ([rng.random() < 0.5 for _ in range(g)] for _ in "ab")
        found = rewards.crpo_rewards(
            answers, cf_answers, "a", dynamic=True, well_formed=form, cf_well_formed=cf_form, lambda_d=lam, w_aug=w,
            cf_gold="b", similarity=lambda answer, gold, table=table: table[answer, gold], worth=worth,
        )  # fmt: skip
        scores = [0.0 if answer is None else table[answer, "a"] for answer in answers]
        cf_scores = [0.0 if answer is None else table[answer, "b"] for answer in cf_answers]
        original, counterfactual = slow_graded(scores, cf_scores, form, cf_form, lam, w, worth)
        assert found.original.tolist() == pytest.approx(original, abs=1e-5)
        assert found.counterfactual.tolist() == pytest.approx(counterfactual, abs=1e-5)


def test_the_other_methods_on_graded_answers_by_hand():
    gold, how = GOLDS["temporal grounding"], likeness(question())
    answers = [canonical({"intervals": [pair]}) for pair in ([2, 6], [4, 6], [2, 2.3])] + [None]
    gold = canonical(gold)  # scores 1, 0.5, 0.075, 0
    bonus = rewards.temporal_bonus(answers, [answers[2]] * 4, gold, **how)
    assert bonus.tolist() == pytest.approx([0.3, 0.3, 0, 0])  # Video-R1: more than 0.1
    assert rewards.temporal_bonus(answers, [answers[0]] * 4, gold, **how).sum() == 0
    length = rewards.length_bonus(answers, [400, 400, 400, 400], gold, **how)
    assert length.tolist() == pytest.approx([0.2, 0.2, 0, 0])
    mirrored = canonical({"intervals": [[4, 8]]})  # 2 of 6 seconds like gold: the arrow of time is felt
    found = rewards.reverse_bonus(answers, mirrored, gold, **how)
    assert found.tolist() == pytest.approx([0.25 * (1 - 2 / 6), 0.25 * (1 - 0.5), 0.25, 0.25])
    assert rewards.reverse_bonus(answers, answers[0], gold, **how).sum() == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", TASKS)
def test_every_method_pays_every_type(kind, method):
    """Also where the reversed clip's answer is empty, partial, or says that nothing happens."""
    asked, worth = question(kind, task_type="Static"), TASKS[kind].worth(question(kind).gold)
    first = outcome(asked, [PERFECT[kind], said("x"), said("", "[]"), ""])
    for text in (PERFECT[kind], said("B"), said("nothing at all"), said("B", thought="<graph>[]</graph>"), ""):
        second = outcome(asked, [text] * (1 if method == "arrow_rl" else 4))
        for branches in ([first], [first, second])[: 1 if method == "grpo" else 2]:
            paid = METHODS[method].pay(asked, branches, MethodSettings())
            best, *rest = paid[0].rewards.tolist()
            assert best >= worth + 1 and max(rest) < best
            assert paid[0].terms["correct"][0] == 1 and paid[0].terms[f"{kind.replace(' ', '_')}/{TERM[kind]}"][0] == 1


def test_a_track_of_the_given_box_alone_is_compared_too():
    """ArrowRL holds rollouts against the reversed clip's answer, whatever that is."""
    asked = question("tracking", {"boxes": BOXES, "given": 1})
    first, second = outcome(asked, [said(BOXES), said(BOXES[:1])]), outcome(asked, [said(BOXES[:1])])
    (paid, _) = METHODS["arrow_rl"].pay(asked, [first, second], MethodSettings())
    assert paid.rewards.tolist() == pytest.approx([1 + 1 + 0.25, 0])  # one box is not well-formed, and says the same


TERM = dict.fromkeys(TASKS, "answer") | dict.fromkeys(("temporal grounding", "tracking"), "iou")
TERM |= {"caption": "event_recall", "order": "exact"}


@pytest.mark.usefixtures("one_rank")
def test_a_round_of_several_types_is_scored_as_each_alone():
    letters = Question("mc", 1, "?", "video", "multiple choice", OPTIONS, "A", task_type="Temporal")
    types = {"temporal grounding": "Temporal", "tracking": None, "grounded qa": "Static", "caption": None}
    asked = [letters, *(replace(question(kind, task_type=routed), id=kind) for kind, routed in types.items())]

    def round_of(questions):
        numbers = Accumulator()
        plan = Planner(METHODS["crpo"], MethodSettings(rollouts=2), 8, 0).plan([(0, q) for q in questions])
        groups = {}
        for i, item in enumerate(plan):
            right = PERFECT.get(item.question.id, "<think>.</think>\\boxed{A}")
            rollouts = [Rollout((i, k), torch.zeros(2), text, "stop") for k, text in enumerate((right, "junk"))]
            groups[i] = Group(item.question, item.branch, Prompt("?", None), (1,), rollouts, item.trained)
        score(Scorer(METHODS["crpo"], MethodSettings(), verify, "joint"), plan, groups, range(len(plan)), numbers)
        return {(group.question.id, group.branch): group for group in groups.values()}, numbers.reduce()

    together, metrics = round_of(asked)
    assert set(together) == {(q.id, branch) for q in asked for branch in (0, 1)} - {("caption", 1)}
    for one in asked:
        for key, group in round_of([one])[0].items():
            torch.testing.assert_close(group.advantages, together[key].advantages)
    assert metrics["reward/correct"] == pytest.approx(0.5) and metrics["reward/grounded_qa/iou"] == pytest.approx(0.5)
    assert 0 <= metrics["relation/moved"] < 0.5 and metrics["data/single_branch"] == 1


# -- rows and prompts -------------------------------------------------------------------------------------------------


def row(kind, **changes):
    asked = {"problem_id": kind, "problem": "it happens", "data_type": "video", "problem_type": kind, "path": "a.mp4"}
    return asked | {"options": list(OPTIONS) if "letter" in GOLDS[kind] else [], "solution": GOLDS[kind]} | changes


def load(tmp_path, *rows):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return load_questions(file, tmp_path, check_files=False)


def test_rows_of_every_type_load_as_objects_and_as_text(tmp_path):
    rows = [row(kind) for kind in TASKS] + [
        row(kind, problem_id=f"{kind}/text", solution=json.dumps(GOLDS[kind])) for kind in TASKS
    ]
    questions, bad = load(tmp_path, *rows)
    assert not bad and [json.loads(q.gold) for q in questions] == [*GOLDS.values()] * 2
    assert all(q.null_letter is None for q in questions)


@pytest.mark.parametrize(
    ("kind", "solution", "reason"),
    [
        ("temporal grounding", {"intervals": [[2, 11]], "duration": 10}, "0 <= start < end <= duration (2, 11; 10)"),
        ("temporal grounding", {"intervals": [[6, 2]], "duration": 10}, "0 <= start < end <= duration"),
        ("temporal grounding", {"intervals": [[2, 2]], "duration": 10}, "0 <= start < end <= duration"),
        ("temporal grounding", {"intervals": [[-1, 2]], "duration": 10}, "0 <= start < end <= duration"),
        ("temporal grounding", {"intervals": [], "duration": 10}, "intervals must be a list"),
        ("temporal grounding", {"intervals": [[1, float("nan")]], "duration": 10}, "intervals must be a list"),
        ("temporal grounding", {"intervals": [[1, 2]]}, "duration must be a number"),
        ("temporal grounding", {"intervals": [[1, 2]], "duration": 10**400}, "duration must be a number"),
        ("temporal grounding", "12 to 13", "is not valid JSON"),
        ("temporal grounding", [1, 2], "must be an object"),
        ("tracking", {"boxes": [[0, 0, 1, 1.01]] * 8}, "a box must hold 0 <= x0 < x1 <= 1"),
        ("tracking", {"boxes": [[0.5, 0, 0.5, 1]] * 8}, "a box must hold"),
        ("tracking", {"boxes": [[0, 0, 1]] * 8}, "boxes must be two or more"),
        ("tracking", {"boxes": BOXES, "given": 2}, "given must be 0 or 1"),
        ("grounded qa", GOLDS["grounded qa"] | {"letter": "(D)"}, "letter must be one of the options"),
        ("quality", {"label": " "}, "label must be text"),
        ("caption", {"events": []}, "events must be a list of texts"),
        ("order", {"order": [1, 1], "candidates": 4}, "order must be a list of distinct candidates"),
        ("order", {"order": [1, 5], "candidates": 4}, "order must hold numbers of candidates"),
        ("order", {"order": [1, 2]}, "candidates must be a whole number"),
        ("relation number", {"number": "two"}, "number must be one"),
        ("relation box", {"box": [0, 0, 1.2, 1]}, "box must be [x0, y0, x1, y1]"),
        ("relation box", GOLDS["relation box"] | {"graph": [{}]}, "graph must be a list"),
        ("relation box", GOLDS["relation box"] | {"graph": [{"a": [[2, 0]]}]}, "graph must lie in 0..1"),
        ("relation box", GOLDS["relation box"] | {"angles": "none"}, "angles must be absolute or relative"),
        ("relation choice", {"letter": "A", "under": {"frame_shuffle": {}}}, "under must hold an answer"),
        ("relation choice", {"letter": "A", "under": {"horizontal_flip": {"letter": "Z"}}}, "letter must be one of"),
    ],
)
def test_a_bad_row_is_refused_by_row_with_the_reason(tmp_path, kind, solution, reason):
    questions, bad = load(tmp_path, row("qa"), row(kind, solution=solution))
    assert len(questions) == 1 and [(b.row, b.field) for b in bad] == [(2, "solution")] and reason in str(bad[0])


def test_prompts_ask_for_the_format_and_hold_no_gold(tmp_path):
    class Processor:
        def apply_chat_template(self, messages, **_):
            return "\n".join(
                f"{m['role']}: {part['text']}" for m in messages for part in m["content"] if "text" in part
            )

    for kind in TASKS:
        text = build_prompt(Processor(), question(kind), None).text
        assert "system" not in text and "\\boxed" not in text and "[PROBLEM]" not in text and "it happens" in text
        assert "<think>" in text and "<answer>" in text and ("<glue>" in text) == (kind == "grounded qa")
        assert question_text(question(kind), "").startswith("it happens")  # one's own words: the problem alone
    assert (
        "2.0" not in user_turn(question())
        and "system" in build_prompt(Processor(), question(), None, system_prompt="x").text
    )
    plain = Question("q", 1, "?", "text", "free-form", (), "x")
    assert SYSTEM_PROMPT in build_prompt(Processor(), plain, None).text


# -- captions ---------------------------------------------------------------------------------------------------------


def test_words_tell_events():
    events = GOLDS["caption"]["events"]
    assert told_by_words("A man opens a door.", events) == events[:1]  # 3 of "man open red door"
    assert told_by_words("A man. A red door.", events) == []  # within one sentence
    assert told_by_words("", events) == [] and told_by_words("dogs running away", events) == events[1:]
    assert verify(said("The dog runs away."), question("caption")).score == 0.5


def test_any_judge_may_be_given():
    heard = []
    judge = asked_of(lambda text: heard.append(text) or "2, 7")
    facts = verify(said("whatever"), question("caption"), caption_judge=judge)
    assert facts.score == 0.5 and json.loads(facts.answer) == {"events": GOLDS["caption"]["events"][1:]}
    assert "2. the dog runs away" in heard[0] and "whatever" in heard[0]
    assert judge_of("") is told_by_words and callable(judge_of("m@https://host/v1"))
    for wrong in ("https://host/v1", "m@host"):
        with pytest.raises(ValueError, match="must"):
            judge_of(wrong)
