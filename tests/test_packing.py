"""pytest tests/test_packing.py -- the shared-prefix layout: indices, who sees whom, and what is refused."""

import re

import pytest
import torch

import packing
from packing import attention_mask, pack, split_by_completion


def positions(n, start=0):
    return torch.arange(start, start + n).expand(3, n)


def two_groups():
    """Prompts of 3 and 2; ragged completions with empty ones; the second prompt's positions jump, as a video's do."""
    video = torch.tensor([[0, 4], [0, 7], [0, 5]])
    return pack([[7, 8, 9], [5, 6]], [positions(3), video], [[[1, 2], [], [3]], [[4, 4, 4], [2], []]])


def test_the_example_of_the_docstring():
    row = pack([[7, 8, 9]], [positions(3)], [[[1, 2], [3]]])
    lines = {}
    for name, rest in re.findall(r"^ {4}(ids|position|prefix|segment|target|logit row) +(.*)$", packing.__doc__, re.M):
        lines[name] = [int(number) for number in re.split(" {4,}", rest)[0].split()]  # the remark stands further right
    assert row.ids.tolist() == lines["ids"]
    assert row.positions.tolist() == [lines["position"]] * 3
    assert row.prefixes.tolist() == lines["prefix"]
    assert row.segments.tolist() == lines["segment"]
    assert row.targets.tolist() == lines["target"]
    assert row.logit_rows.tolist() == lines["logit row"]
    assert row.lengths == (2, 1)


def test_ragged_and_empty_completions_in_two_groups():
    row = two_groups()
    assert row.ids.tolist() == [7, 8, 9, 1, 2, 3, 5, 6, 4, 4, 4, 2]
    assert row.prefixes.tolist() == [0] * 6 + [1] * 6
    assert row.segments.tolist() == [-1, -1, -1, 0, 0, 2, -1, -1, 3, 3, 3, 4]
    assert row.targets.tolist() == [1, 2, 3, 4, 4, 4, 2]
    assert row.logit_rows.tolist() == [2, 3, 2, 7, 8, 9, 7]
    assert row.lengths == (2, 0, 1, 3, 1, 0)


def test_positions_start_again_behind_each_prompt():
    """Behind the largest of the three MRoPE axes (7 in the second group), the same on all axes."""
    row = two_groups()
    assert row.positions.shape == (3, 12)
    assert row.positions[:, 3:6].tolist() == [[3, 4, 3]] * 3
    assert row.positions[:, 6:8].tolist() == [[0, 4], [0, 7], [0, 5]]
    assert row.positions[:, 8:].tolist() == [[8, 9, 10, 8]] * 3


def owner(groups):
    """(group, completion or None, place) of every packed token, by counting."""
    out = []
    for g, (prompt, completions) in enumerate(groups):
        out += [(g, None, place) for place in range(len(prompt))]
        for c, completion in enumerate(completions):
            out += [(g, c, len(prompt) + place) for place in range(len(completion))]
    return out


@pytest.mark.parametrize(
    "groups",
    [
        [([1, 2, 3], [[4, 5], [6]])],
        [([1, 2, 3], [[4, 5], [], [6]]), ([7], [[8, 9, 1], [2]])],
        [([1], [[2]]), ([3], [[4]]), ([5, 6], [[], [7], [8, 8]])],
    ],
)
def test_mask_equals_a_slow_loop(groups):
    prompts, completions = [p for p, _ in groups], [c for _, c in groups]
    mask = attention_mask(pack(prompts, [positions(len(p)) for p in prompts], completions))
    tokens = owner(groups)
    assert mask.dtype == torch.bool and mask.shape == (1, 1, len(tokens), len(tokens))
    for q, (group_q, completion_q, place_q) in enumerate(tokens):
        for k, (group_k, completion_k, place_k) in enumerate(tokens):
            sees = group_q == group_k and place_k <= place_q and completion_k in (None, completion_q)
            assert bool(mask[0, 0, q, k]) == sees, (tokens[q], tokens[k])


def test_two_groups_of_one_row_never_see_each_other():
    row = two_groups()
    mask = attention_mask(row)[0, 0]
    assert not mask[row.prefixes[:, None] != row.prefixes[None, :]].any()


def test_editing_one_completion_leaves_what_the_others_see():
    """Same length or longer: completion 0 keeps ids, positions and what its rows may attend to."""

    def seen(row, segment):
        mask = attention_mask(row)[0, 0]
        places = (row.segments == segment).nonzero()[:, 0]
        return [[(row.ids[k].item(), *row.positions[:, k].tolist()) for k in mask[q].nonzero()[:, 0]] for q in places]

    before = pack([[7, 8, 9]], [positions(3)], [[[1, 2], [3, 4], [5]]])
    after = pack([[7, 8, 9]], [positions(3)], [[[1, 2], [6, 6, 6, 6], [5]]])
    assert seen(before, 0) == seen(after, 0)
    assert seen(before, 2) == seen(after, 2)
    assert seen(before, 1) != seen(after, 1)


def test_each_logit_row_is_the_token_before_its_target():
    row = two_groups()
    mask = attention_mask(row)[0, 0]
    targets = (row.segments >= 0).nonzero()[:, 0]
    for logit_row, target in zip(row.logit_rows.tolist(), targets.tolist(), strict=True):
        assert mask[target, logit_row]
        assert row.positions[:, target].max() == row.positions[:, logit_row].max() + 1


def test_split_by_completion_gives_each_its_own_values():
    row = two_groups()
    parts = split_by_completion(row.targets, row)
    assert [part.tolist() for part in parts] == [[1, 2], [], [3], [4, 4, 4], [2], []]


def test_tuples_and_lists_are_alike():
    lists, tuples = pack([[7]], [positions(1)], [[[1, 2]]]), pack([(7,)], [positions(1)], [((1, 2),)])
    assert torch.equal(lists.ids, tuples.ids) and torch.equal(lists.positions, tuples.positions)


def test_inputs_stay_as_they_were():
    prompt, place, completions = [7, 8], positions(2).clone(), [[1], [2, 3]]
    pack([prompt], [place], [completions])
    assert prompt == [7, 8] and completions == [[1], [2, 3]] and torch.equal(place, positions(2))


@pytest.mark.parametrize("bad", [positions(2), positions(3)[:2], torch.zeros(3, dtype=torch.long)])
def test_positions_of_another_shape_are_refused(bad):
    with pytest.raises(ValueError, match=r"positions must be \(3, 3\)"):
        pack([[7, 8, 9]], [bad], [[[1]]])


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError):
        pack([[7], [8]], [positions(1)], [[[1]], [[2]]])
