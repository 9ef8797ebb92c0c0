"""pytest tests/test_order.py -- MVP's reward: by hand, and against a slow reading on 1,000 random answers."""

import json
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from order import ordering, read, selection
from tasks import TASKS

GOLD = (3, 1, 4, 2)
ANSWERS = st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple)


def score(answer, gold):
    """As training pays it."""
    gold = json.dumps({"order": list(gold), "candidates": 12})
    return TASKS["order"].score(json.dumps({"order": list(answer)}), gold)


def slow_score(answer, gold):
    """(S + O) / 2 with the subsequence by the textbook's table, in fractions."""
    length = [[0] * (len(gold) + 1) for _ in range(len(answer) + 1)]
    for i, said in enumerate(answer):
        for j, right in enumerate(gold):
            same = length[i][j] + 1 if said == right else 0
            length[i + 1][j + 1] = max(same, length[i][j + 1], length[i + 1][j])
    found = sum(1 for right in gold if right in answer)
    return Fraction(found + length[-1][-1], 2 * max(len(answer), len(gold)))


@pytest.mark.parametrize(
    ("answer", "chosen", "ordered"),
    [
        ((3, 1, 4, 2), 1.0, 1.0),
        ((2, 4, 1, 3), 1.0, 0.25),  # backwards: one of four stays in order
        ((1, 3, 4, 2), 1.0, 0.75),
        ((3, 1), 0.5, 0.5),  # half of them
        ((3, 1, 4, 5), 0.75, 0.75),
        ((5, 6, 7, 8), 0.0, 0.0),
        ((1, 2, 3, 4, 5, 6, 7, 8), 0.5, 0.25),  # all of them: 1, 2 or 1, 4 or 3, 4 in order
        ((3, 3, 3, 3), 0.25, 0.25),  # a repeated number counts once
        ((3, 1, 4, 2, 2), 0.8, 0.8),
        ((3, 1, 4, 99), 0.75, 0.75),  # no such candidate
    ],
)
def test_by_hand(answer, chosen, ordered):
    assert selection(answer, GOLD) == chosen
    assert ordering(answer, GOLD) == ordered
    assert score(answer, GOLD) == (chosen + ordered) / 2


def test_against_the_slow_reading():
    rng = random.Random(0)
    for _ in range(1000):
        size = rng.randint(1, 6)
        gold = tuple(rng.sample(range(1, 11), size))
        answer = tuple(rng.randint(0, 12) for _ in range(rng.randint(1, 12)))
        if rng.random() < 0.5:  # near the gold one
            answer = (
                tuple(rng.choice(gold) for _ in range(size)) if rng.random() < 0.5 else gold[: rng.randint(1, size)]
            )
        assert score(answer, gold) == pytest.approx(float(slow_score(answer, gold)), abs=1e-12)


@settings(deadline=None)
@given(ANSWERS)
def test_full_marks_for_the_gold_answer_alone(answer):
    assert 0 <= score(answer, GOLD) <= 1
    assert (score(answer, GOLD) == 1) == (answer == GOLD) == (ordering(answer, GOLD) == 1)


@settings(deadline=None)
@given(ANSWERS, st.integers(0, 7))
def test_a_right_number_in_its_place_never_costs(answer, at):
    """Monotone: replacing one number by the gold one of that place keeps S, O and the score at least where they are,
    unless the number replaced was itself needed elsewhere."""
    at %= min(len(answer), len(GOLD))
    if answer[at] in GOLD:
        return
    better = (*answer[:at], GOLD[at], *answer[at + 1 :])
    assert selection(better, GOLD) >= selection(answer, GOLD)
    assert ordering(better, GOLD) >= ordering(answer, GOLD)


@settings(deadline=None)
@given(ANSWERS)
def test_padding_never_pays(answer):
    if len(answer) >= len(GOLD):
        assert score((*answer, 99), GOLD) <= score(answer, GOLD)
        assert selection((*answer, answer[0]), GOLD) <= selection(answer, GOLD)
        assert score(answer * 2, GOLD) <= score(answer, GOLD)


@settings(deadline=None)
@given(st.permutations(range(1, 9)), ANSWERS)
def test_names_of_candidates_do_not_matter(names, answer):
    """Renaming candidates in answer and gold alike, and turning both around, changes nothing."""
    name = dict(enumerate(names, start=1)) | {0: 0, 9: 9}
    renamed, gold = tuple(name[i] for i in answer), tuple(name[i] for i in GOLD)
    assert score(renamed, gold) == score(answer, GOLD)
    assert score(renamed[::-1], gold[::-1]) == score(answer, GOLD)


def test_listing_every_candidate_pays_less_than_a_guess():
    rng = random.Random(1)
    guesses = [score(rng.sample(range(1, 9), 4), GOLD) for _ in range(2000)]
    assert score(range(1, 9), GOLD) < sum(guesses) / len(guesses)


def test_unreadable_is_nothing():
    gold = json.dumps({"order": list(GOLD), "candidates": 8})
    assert TASKS["order"].terms(None, gold) == {"selection": 0, "ordering": 0, "exact": 0}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("3,1,4,2", (3, 1, 4, 2)),
        ("[3, 1, 4, 2].", (3, 1, 4, 2)),
        (" 3 -> 1 -> 4 ", (3, 1, 4)),
        ("3 1 4", (3, 1, 4)),
        ("7", (7,)),
        ("3, then 1", None),
        ("", None),
        ("three, one", None),
        ("3,,1", None),
        ("3.5, 1", None),
        ("-3, 1", None),
        ("3 then\n1", (3, 1)),
        ("9" * 5000, None),
        ("3" + " " * 100_000 + "x", None),  # at once
    ],
)
def test_reading(text, numbers):
    assert read(text) == numbers


@settings(deadline=None)
@given(st.text())
def test_reading_raises_on_no_text(text):
    numbers = read(text)
    assert numbers is None or read(str(list(numbers))) == numbers
