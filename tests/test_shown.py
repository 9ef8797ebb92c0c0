"""pytest tests/test_shown.py -- what is shown of a clip: drawn evenly, alike everywhere, and stamped in order."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch

from data.prompts import video_metadata
from data.video import frame_indices
from episode import Question, View
from eval.shown import SHORTCUTS, Shown, show
from transforms import COUNTERFACTUALS

SIDE_A = Question(
    "p/a", 1, "Which way?", "video", "multiple choice", ("A. left", "B. right"), "A", pair_id="p", side="a"
)
SIDE_B = replace(SIDE_A, id="p/b", side="b")


def clip(frames: int = 8, total: int = 57) -> View:
    """Frame i is all i, so that pixels tell which frame they are."""
    pixels = torch.arange(frames, dtype=torch.uint8)[:, None, None, None].expand(frames, 3, 32, 64).clone()
    return View(pixels, "identity", 25.0, total, frame_indices(total, frames))


def frames_of(view: View) -> list[int]:
    return view.frames[:, 0, 0, 0].tolist()


def test_identity_is_the_clip():
    view = clip()
    assert show("identity", view, SIDE_A, 0) == Shown(view, view.frame_indices)


def test_single_frame_is_a_file_of_that_frame():
    view, seen = clip(), Counter()
    for seed in range(400):
        shown = show("single_frame", view, SIDE_A, seed)
        at = view.frame_indices.index(shown.frames[0])
        assert frames_of(shown.view) == [at, at] and len(shown.frames) == 1
        seen[at] += 1
        # Nothing that the processor writes tells from when the frame is: the stamps are those of a clip of one frame.
        alone = View(view.frames[[at, at]], "identity", view.fps, 1, frame_indices(1, 8))
        assert video_metadata(shown.view) == video_metadata(alone)
    assert set(seen) == set(range(8)) and min(seen.values()) > 25  # 50 each in the mean


def test_shuffled_shows_every_frame_once_under_ascending_stamps():
    view = clip()
    shown = show("shuffled", view, SIDE_A, 0)
    order = frames_of(shown.view)
    assert sorted(order) == list(range(8)) and order != list(range(8))
    assert shown.frames == tuple(view.frame_indices[i] for i in order)
    assert video_metadata(shown.view) == video_metadata(view)
    assert frames_of(view) == list(range(8))


def test_every_order_is_equally_likely():
    view = clip(frames=4)
    orders = Counter(tuple(frames_of(show("shuffled", view, SIDE_A, seed).view)) for seed in range(2400))
    assert set(orders) == set(itertools.permutations(range(4)))
    expected = 2400 / 24
    chi_squared = sum((count - expected) ** 2 / expected for count in orders.values())
    assert chi_squared < 50  # 23 degrees of freedom: 49.7 is the 0.1 % quantile


def test_counterfactuals_are_the_clip_in_the_mirror_and_in_rewind():
    view = clip()
    view.frames[..., :32] += 100  # left and right differ
    flipped, backwards = (show(name, view, SIDE_A, 0) for name in COUNTERFACTUALS)
    assert torch.equal(flipped.view.frames, view.frames.flip(3)) and flipped.frames == view.frame_indices
    assert torch.equal(backwards.view.frames, view.frames.flip(0)) and backwards.frames == view.frame_indices[::-1]
    for name, shown in zip(COUNTERFACTUALS, (flipped, backwards), strict=True):
        assert shown.view.transform == name
        assert video_metadata(shown.view) == video_metadata(view)  # the stamps ascend all the same


def test_text_only_and_text_questions_show_nothing():
    assert show("text_only", clip(), SIDE_A, 0) == Shown(None)
    for shortcut in SHORTCUTS:
        assert show(shortcut, None, SIDE_A, 0) == Shown(None)


@pytest.mark.parametrize("shortcut", ["single_frame", "shuffled"])
def test_draws_depend_on_seed_pair_side_question_and_setting_alone(shortcut):
    view = clip()
    draws = {(q.side, seed): show(shortcut, view, q, seed).frames for q in (SIDE_A, SIDE_B) for seed in range(20)}
    random.seed(1)
    again = show(shortcut, view, replace(SIDE_A, id="another", row=7), 3)
    assert again.frames == draws["a", 3]
    assert [draws["a", seed] for seed in range(20)] != [draws["b", seed] for seed in range(20)]
    other = replace(SIDE_A, problem="How fast?")
    assert [draws["a", seed] for seed in range(20)] != [show(shortcut, view, other, s).frames for s in range(20)]
    assert len(set(draws.values())) > 4
    unpaired = replace(SIDE_A, pair_id=None, side=None)
    assert {show(shortcut, view, replace(unpaired, id=str(i)), 0).frames for i in range(20)} != {draws["a", 0]}


def test_another_process_draws_the_same():
    """Values of another process: Python's own hash would change them from one to the next."""
    drawn = {shortcut: show(shortcut, clip(), SIDE_B, 5).frames for shortcut in ("single_frame", "shuffled")}
    assert drawn == {"single_frame": (8,), "shuffled": (16, 24, 48, 40, 32, 0, 8, 56)}


def test_a_still_image_stays_what_it_is():
    still = View(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "identity", 0.0, 1, (0,))
    for shortcut in ("identity", "single_frame", "shuffled"):
        shown = show(shortcut, still, SIDE_A, 0)
        assert shown.view.still and shown.frames == (0,) and torch.equal(shown.view.frames, still.frames)
