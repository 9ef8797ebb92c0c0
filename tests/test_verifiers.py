"""pytest tests/test_verifiers.py -- model text to answer, format and score."""

import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import verifiers
from math_judge import Judgement, MathJudge
from verifiers import VERIFIERS, canonical_answer, last_box, split_option, verify, well_formed

OPTIONS = ("A. left", "B. right", "C. A dog", "D. U.S.", "E. None of the above")


def question(problem_type="multiple choice", options=OPTIONS, gold="B"):
    return SimpleNamespace(problem_type=problem_type, options=options, gold=gold)


@pytest.mark.parametrize(
    ("text", "answer", "strict"),
    [
        ("B", "B", "B"),
        ("b", "B", "B"),
        (" B ", "B", "B"),
        ("(B)", "B", "B"),
        ("[b]", "B", "B"),
        ("B)", "B", "B"),
        ("B:", "B", "B"),
        ("B;", "B", "B"),
        ("B/", "B", "B"),
        ("B-", "B", "B"),
        ("\uff22", "B", "B"),  # full width
        ("B.", "B", None),
        ("(B).", "B", None),
        ("B. right", "B", None),
        ("B.right", "B", None),
        ("B right", "B", None),
        ("(B) right", "B", None),
        ("(B) Right.", "B", None),
        ("b) right", "B", None),
        ("\\text{B}", "B", None),
        ("\\textbf{\\text{B}}", "B", None),
        ("B. \\text{right}", "B", None),
        ("$B$", "B", None),
        ("**B**", "B", None),
        ("right", "B", None),
        ("  RIGHT.  ", "B", None),
        ('"right"', "B", None),
        ("None of  the Above", "E", None),
        ("E. None of the above", "E", None),
        ("A dog", "C", None),  # not option A
        ("A. A dog", None, None),  # label and text contradict
        ("C. A dog", "C", None),
        ("C. dog", "C", None),  # reworded
        ("B. to the right side", "B", None),
        ("U.S.", "D", None),
        ("A. right", None, None),
        ("A. or B.", None, None),
        ("A or B", None, None),
        ("A, B", None, None),
        ("(A) (B)", None, None),
        ("\\text{A} or \\text{B}", None, None),
        ("A cat", None, None),  # an article, no label
        ("a.m.", None, None),
        ("H", None, None),  # out of range
        ("H. right", None, None),
        ("(H)", None, None),
        ("AB", None, None),
        ("", None, None),
        (".", None, None),
        ("\x00", None, None),
        ("\u0391", None, None),  # Greek alpha is no A
    ],
)
def test_multiple_choice(text, answer, strict):
    assert canonical_answer(text, OPTIONS, "multiple choice") == answer
    assert canonical_answer(text, OPTIONS, "multiple choice", strict_match=True) == strict


@pytest.mark.parametrize(
    ("options", "text", "answer"),
    [
        (("A. B", "B. A"), "A", "A"),  # a lone letter is a label first
        (("A. x", "B. y"), "y", "B"),  # and a text where it is no label
        (("A. same", "B. Same."), "same", None),  # names two options
        (("A. 1", "B. 10"), "10", "B"),
        (("A. 1", "B. 10"), "B. 1", None),
        (("(A) yes", "(B) no"), "No", "B"),
        (("A) yes", "B) no"), "(A) yes", "A"),
        (("A", "B"), "B", "B"),  # letters only
        ((), "A", None),
    ],
)
def test_multiple_choice_of_other_options(options, text, answer):
    assert canonical_answer(text, options, "multiple choice") == answer


@pytest.mark.parametrize(
    ("option", "pair"),
    [
        ("A. left", ("A", "left")),
        ("(B) left ", ("B", "left")),
        ("C) left", ("C", "left")),
        ("D: left", ("D", "left")),
        ("E.left", ("E", "left")),
        ("F", ("F", "")),
        ("G.", ("G", "")),
        ("A. two\nlines", ("A", "two\nlines")),
        ("A dog", None),
        ("left", None),
        ("a. left", None),
        ("", None),
    ],
)
def test_split_option(option, pair):
    assert split_option(option) == pair


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("5", "5"),
        ("5.00", "5"),
        ("05", "5"),
        ("+5", "5"),
        ("5.", "5"),
        (".5", "0.5"),
        ("0.50", "0.5"),
        ("-0", "0"),
        ("-0.0", "0"),
        ("-3.10", "-3.1"),
        ("\u22123", "-3"),
        ("1,250.50", "1250.5"),
        ("1250.5", "1250.5"),
        ("100", "100"),
        ("3e2", "300"),
        ("1e-3", "0.001"),
        ("50%", "50"),
        ("50\\%", "50"),
        ("$5$", "5"),
        ("\uff15", "5"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),  # no float in between
        ("12345678901234567890123456789012345678901", "12345678901234567890123456789012345678901"),
        ("1,2", None),
        ("1,2,3", None),
        ("5\u00b2", None),
        ("1/2", None),
        ("five", None),
        ("5 cm", None),
        ("nan", None),
        ("inf", None),
        ("1e999999999", None),
        ("\u0663", None),
        (".", None),
        ("-", None),
        ("", None),
    ],
)
def test_numerical(text, number):
    assert canonical_answer(text, (), "numerical") == number


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
def test_numbers_are_equal_as_strings_exactly_where_they_are_equal(value):
    plain = format(value, "f")
    canonical = canonical_answer(plain, (), "numerical")
    assert canonical == canonical_answer(plain + "000", (), "numerical") == canonical_answer(canonical, (), "numerical")
    assert type(value)(canonical) == value


@pytest.mark.parametrize("problem_type", ["free-form", "OCR"])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("  The   Cat\n", "the cat"),
        ("STRASSE", "strasse"),
        ("\ufb01ne", "fine"),  # NFKC takes the ligature apart
        ("\\text{Cat}", "cat"),
        ("$x+1$", "x+1"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
        (" ", None),
        ("\\text{}", None),
        ("x" * 20_000, None),
    ],
)
def test_open_answers(problem_type, text, answer):
    assert canonical_answer(text, (), problem_type) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("  The   Cat\n", "The Cat"),
        ("\\Delta", "\\Delta"),
        ("\\text{Cat}", "Cat"),
        ("$x+1$", "x+1"),
        ("$5$.", "5"),
        ("5.", "5"),
        ("\uff15", "5"),
        ("5\u00b2", "5^{2}"),  # NFKC alone would make 52 of it
        ("2\u00b9\u2070", "2^{10}"),
        ("x\u2081", "x_{1}"),
        ("5\u00bd", "5\\frac{1}{2}"),  # and 51/2 of this
        (" ", None),
        (".", None),
        ("\\text{}", None),
        ("x" * 20_000, None),
    ],
)
def test_math_is_spelled(text, answer):
    assert canonical_answer(text, (), "math") == answer


class Script:
    """A judge with known judgements: no child process."""

    def __init__(self, equal, readable):
        self.judgement, self.asked = Judgement(equal, readable), []

    def compare(self, gold, prediction):
        self.asked.append((gold, prediction))
        return self.judgement


@pytest.mark.parametrize(
    ("equal", "readable", "answer", "score"),
    [(True, True, "\\frac{1}{2}", 1.0), (False, True, "0.5", 0.0), (False, False, None, 0.0)],
)
def test_an_equal_math_answer_is_the_gold_one_and_an_unreadable_one_is_none(
    equal, readable, answer, score, monkeypatch
):
    judge = Script(equal, readable)
    monkeypatch.setattr(verifiers, "JUDGE", judge)
    facts = verify("<think>a</think>\\boxed{0.5}", question("math", (), "\\frac{1}{2}"))
    assert (facts.answer, facts.score, facts.well_formed) == (answer, score, True)
    assert judge.asked == [("\\frac{1}{2}", "0.5")]  # gold first


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{Yes}", "yes"),  # up to case, the gold's spelling
        ("\\boxed{$yes$.}", "yes"),
        ("yes", None),  # no box
        ("\\boxed{}", None),
        ("\\boxed{" + "9" * 20_000 + "}", None),
    ],
)
def test_math_answers_that_need_no_judge(text, answer, monkeypatch):
    monkeypatch.setattr(verifiers, "JUDGE", None)
    assert verify(text, question("math", (), "yes")).answer == answer


def test_other_types_never_ask_the_judge(monkeypatch):
    monkeypatch.setattr(verifiers, "JUDGE", None)
    for problem_type in set(VERIFIERS) - {"math"}:
        assert verify("\\boxed{0.5}", question(problem_type, OPTIONS, "1/2")).score == 0.0


@pytest.mark.parametrize(
    ("gold", "box", "answer"),
    [
        ("\\frac{1}{2}", "0.50", "\\frac{1}{2}"),
        ("25", "5\u00b2", "25"),
        ("\\Delta", "\\delta", "\\Delta"),
        ("(x+1)^2", "$x^2+2x+1$", "(x+1)^2"),
        ("6", "5 or 6", "5 or 6"),
        ("6", "\\frac{6}", None),
    ],
)
def test_math_through_math_verify(gold, box, answer):
    assert verify("\\boxed{" + box + "}", question("math", (), gold)).answer == answer


def test_a_hanging_math_answer_is_unreadable(monkeypatch):
    judge = MathJudge(deadline=0.3)
    monkeypatch.setattr(verifiers, "JUDGE", judge)
    facts = verify("\\boxed{9^{9^{9^{9}}}}", question("math", (), "7"))
    assert (facts.answer, facts.score, judge.timeouts) == (None, 0.0, 1)


def test_unknown_problem_type_is_named():
    with pytest.raises(ValueError, match="'grounding'"):
        canonical_answer("B", OPTIONS, "grounding")


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{B}", "B"),
        ("\\boxed {B}", "B"),
        ("\\boxed{A} then \\boxed{B}", "B"),
        ("\\boxed{A} then \\boxed{B", "A"),  # cut off by the length limit
        ("\\boxed{\\text{B}}", "\\text{B}"),
        ("\\boxed{\\frac{1}{x^{2}}}", "\\frac{1}{x^{2}}"),
        ("\\boxed{\\boxed{B}}", "B"),
        ("an open { brace before \\boxed{B}", "B"),
        ("a closing } before \\boxed{B}", "B"),
        ("\\boxed{\\{1}", "\\{1"),
        ("\\boxed{}", ""),
        ("boxed{B}", None),
        ("\\boxed{B", None),
        ("\\boxed B", None),
        ("B", None),
        ("<answer>B</answer>", None),
        ("", None),
    ],
)
def test_last_box(text, box):
    assert last_box(text) == box


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("<think>it moves</think>\\boxed{B}", True, True),
        ("  \n<think>it\nmoves</think>\n\n\\boxed{B}\n", True, True),
        ("<think>a</think> \\boxed{\\text{B}}", True, True),
        ("<think>a</think> So the answer is \\boxed{B}", False, True),
        ("<think>a</think> \\boxed{B}.", False, True),
        ("<think>a</think> \\boxed{B} because", False, True),
        ("Well. <think>a</think> \\boxed{B}", False, False),
        ("<think></think>\\boxed{B}", False, False),
        ("<think> \n </think>\\boxed{B}", False, False),
        ("<think>a</think>", False, False),
        ("<think>a</think>B", False, False),
        ("<think>a</think>\\boxed{}", False, False),
        ("<think>a</think>\\boxed{B", False, False),
        ("<think>a</think>\\boxed{A}\\boxed{B}", False, False),
        ("<think>\\boxed{A}</think>\\boxed{B}", False, False),
        ("<think>\\boxed{B}</think>", False, False),
        ("<think>\\boxed{a</think>b}", False, False),
        ("<think>a</think><think>b</think>\\boxed{B}", False, False),
        ("<think><think>a</think>\\boxed{B}", False, False),
        ("<think>a</think></think>\\boxed{B}", False, False),
        ("</think>a<think>\\boxed{B}", False, False),
        ("<THINK>a</THINK>\\boxed{B}", False, False),
        ("\\boxed{B}<think>a</think>", False, False),
        ("<think>a\\boxed{B}", False, False),
        ("\\boxed{B}", False, False),
        ("", False, False),
    ],
)
def test_format(text, strict, lenient):
    assert well_formed(text) is strict
    assert well_formed(text, lenient=True) is lenient
    assert verify(text, question()).well_formed is strict
    assert verify(text, question(), lenient_format=True).well_formed is lenient


def test_format_does_not_gate_the_score_nor_the_score_the_format():
    malformed = verify("I say \\boxed{B}", question())
    assert (malformed.answer, malformed.well_formed, malformed.score) == ("B", False, 1.0)
    wrong = verify("<think>a</think>\\boxed{A}", question())
    assert (wrong.answer, wrong.well_formed, wrong.score) == ("A", True, 0.0)


def test_whole_text_is_never_the_answer():
    facts = verify("B", question())
    assert (facts.answer, facts.score) == (None, 0.0)


def test_strict_match_turns_a_dotted_letter_wrong():
    text = "<think>a</think>\\boxed{B.}"
    assert verify(text, question()).score == 1.0
    assert verify(text, question(), strict_match=True).score == 0.0


def test_no_answer_never_equals_no_gold():
    assert verify("\\boxed{}", question("free-form", (), None)).score == 0.0


PIECES = st.sampled_from(
    ["\\boxed{", "}", "{", "\\", "<think>", "</think>", "B", "(", ")", ".", "$", "**", "\\text{", "\x00"]
)
ANY_TEXT = st.text(alphabet=st.characters(categories=None)) | st.lists(PIECES | st.characters(categories=None)).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT, problem_type=st.sampled_from(sorted(VERIFIERS)), strict=st.booleans())
def test_any_text_gives_facts(text, problem_type, strict):
    for form in (text, "\\boxed{" + text + "}"):
        facts = verify(form, question(problem_type), strict_match=strict, lenient_format=strict)
        assert facts.answer is None or (isinstance(facts.answer, str) and facts.answer)
        assert facts.score in (0.0, 1.0)
        if problem_type == "multiple choice":
            assert facts.answer in (None, *"ABCDE")


@pytest.mark.parametrize(
    "unit",
    ["{", "}", "\\boxed{", "\\boxed", "\\boxed ", "\\boxed{}", "\\", "<think>", "$", "*", "\\text{", " ",
     "1,", "0", "\ud800", "A. ", "(A) ", "\u0315\u0316"],
)  # fmt: skip
def test_long_text_takes_linear_time(unit):
    for problem_type in VERIFIERS:
        for text in (unit * 100_000, "\\boxed{" + unit * (9_000 // len(unit)) + "}"):
            began = time.perf_counter()
            verify(text, question(problem_type))
            assert time.perf_counter() - began < 2.0  # quadratic work on 100,000 units would take minutes
