"""pytest tests/test_transforms.py -- views of a clip and the choice among them."""

import random
from collections import Counter

import pytest
import torch

import transforms
from transforms import COUNTERFACTUALS, TRANSFORMS, choose, frame_shuffle, segment_swap, visit_rng


def clip(frames: int = 6) -> torch.Tensor:
    """Every byte distinct from its neighbours: frame f, row h, column w all readable from a value."""
    return torch.arange(frames * 3 * 4 * 5).remainder(251).to(torch.uint8).view(frames, 3, 4, 5)


def test_flip_mirrors_columns_only():
    frames = clip()
    flipped = transforms.horizontal_flip(frames)
    for column in range(5):
        assert torch.equal(flipped[..., column], frames[..., 4 - column])


def test_reverse_turns_the_frame_axis_only():
    frames = clip()
    backwards = transforms.temporal_reverse(frames)
    for i in range(6):
        assert torch.equal(backwards[i], frames[5 - i])


@pytest.mark.parametrize("name", COUNTERFACTUALS)
def test_counterfactuals_are_involutions_and_change_something(name):
    frames, rng = clip(), random.Random(0)
    once = TRANSFORMS[name](frames, rng)
    assert not torch.equal(once, frames)
    assert torch.equal(TRANSFORMS[name](once, rng), frames)


def test_flip_and_reverse_commute():
    frames = clip()
    assert torch.equal(
        transforms.horizontal_flip(transforms.temporal_reverse(frames)),
        transforms.temporal_reverse(transforms.horizontal_flip(frames)),
    )


@pytest.mark.parametrize("name", TRANSFORMS)
def test_input_is_left_alone_and_memory_is_not_shared(name):
    frames = clip()
    before = frames.clone()
    view = TRANSFORMS[name](frames, random.Random(3))
    assert view.shape == frames.shape and view.dtype == frames.dtype
    view.zero_()
    assert torch.equal(frames, before)


def test_shuffle_is_a_seeded_permutation_of_whole_frames():
    frames = clip(16)
    shuffled = frame_shuffle(frames, random.Random(5))
    assert torch.equal(shuffled, frame_shuffle(frames, random.Random(5)))
    assert not torch.equal(shuffled, frame_shuffle(frames, random.Random(6)))
    assert sorted(f.numpy().tobytes() for f in shuffled) == sorted(f.numpy().tobytes() for f in frames)


@pytest.mark.parametrize(
    ("cut", "order"), [(None, [3, 4, 5, 0, 1, 2]), (1, [1, 2, 3, 4, 5, 0]), (5, [5, 0, 1, 2, 3, 4])]
)
def test_segment_swap(cut, order):
    assert torch.equal(segment_swap(clip(), cut), clip()[order])


@pytest.mark.parametrize("cut", [0, 6, -1])
def test_segment_swap_refuses_an_empty_side(cut):
    with pytest.raises(ValueError, match="0 < cut < 6"):
        segment_swap(clip(), cut)


@pytest.mark.parametrize(
    ("task_type", "allowed", "names"),
    [
        ("Spatial", COUNTERFACTUALS, {"horizontal_flip"}),
        ("Temporal", COUNTERFACTUALS, {"temporal_reverse"}),
        ("Spatiotemporal", COUNTERFACTUALS, set(COUNTERFACTUALS)),
        ("Static", COUNTERFACTUALS, set(COUNTERFACTUALS)),
        (None, COUNTERFACTUALS, {None}),
        # w/o flip
        ("Spatial", ("temporal_reverse",), {None}),
        ("Temporal", ("temporal_reverse",), {"temporal_reverse"}),
        ("Spatiotemporal", ("temporal_reverse",), {"temporal_reverse"}),
        ("Static", ("temporal_reverse",), {"temporal_reverse"}),
        # w/o reversal
        ("Spatial", ("horizontal_flip",), {"horizontal_flip"}),
        ("Temporal", ("horizontal_flip",), {None}),
        ("Static", ("horizontal_flip",), {"horizontal_flip"}),
        ("Static", (), {None}),
    ],
)
def test_choice_by_task_type(task_type, allowed, names):
    rng = random.Random(0)
    assert {choose(task_type, rng, allowed=allowed) for _ in range(50)} == names


@pytest.mark.parametrize("task_type", ["Spatiotemporal", "Static"])
def test_the_coin_is_fair(task_type):
    counts = Counter(choose(task_type, visit_rng(0, 0, str(i))) for i in range(4000))
    assert abs(counts["horizontal_flip"] - 2000) < 200  # six standard deviations


def test_choice_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match="'spatial'"):
        choose("spatial", random.Random(0))
    with pytest.raises(ValueError, match="frame_shuffle"):
        choose("Static", random.Random(0), allowed=("frame_shuffle",))


def test_visit_rng_separates_seed_epoch_and_question():
    draws = {visit_rng(*key).random() for key in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (0, 0, "\ud800")]}
    assert len(draws) == 5


def test_visit_rng_is_the_same_in_every_process():
    assert visit_rng(7, 2, "question 12").random() == 0.6436970020267258  # written down once


def test_a_row_may_name_its_transforms():
    rng, named = random.Random(0), ("temporal_reverse", "segment_swap")
    assert {choose("Temporal", rng, named=named) for _ in range(50)} == set(named)
    assert choose("Temporal", rng, named=named, allowed=("horizontal_flip",)) == "segment_swap"
    assert choose(None, rng, named=named) is None, "without a task type nobody knows whether the answer changes"
