"""pytest tests/test_packing.py -- the shared-prefix layout: indices, and what is refused."""

import re

import pytest
import torch

import packing
from packing import pack, split_by_completion


def positions(n, start=0):
    return torch.arange(start, start + n).expand(3, n)


def two_groups():
    """Prompts of 3 and 2; ragged completions with empty ones; the second prompt's positions jump, as a video's do."""
    video = torch.tensor([[0, 4], [0, 7], [0, 5]])
    return pack([[7, 8, 9], [5, 6]], [positions(3), video], [[[1, 2], [], [3]], [[4, 4, 4], [2], []]])


def test_the_example_of_the_docstring():
    row = pack([[7, 8, 9]], [positions(3)], [[[1, 2], [3]]])
    lines = {}
    for name, rest in re.findall(
        r"^ {4}(ids|position|prefix|segment|logit row|target row|target) +(.*)$", packing.__doc__, re.M
    ):
        lines[name] = [int(number) for number in re.split(" {4,}", rest)[0].split()]  # the remark stands further right
    assert row.ids.tolist() == lines["ids"]
    assert row.positions.tolist() == [lines["position"]] * 3
    assert row.prefixes.tolist() == lines["prefix"]
    assert row.segments.tolist() == lines["segment"]
    assert row.targets.tolist() == lines["target"]
    assert row.logit_rows.tolist() == lines["logit row"]
    assert row.target_rows.tolist() == lines["target row"]
    assert row.spans == ((3, 2, 1),)
    assert row.lengths == (2, 1)


def test_ragged_and_empty_completions_in_two_groups():
    row = two_groups()
    assert row.ids.tolist() == [7, 8, 9, 1, 2, 3, 5, 6, 4, 4, 4, 2]
    assert row.prefixes.tolist() == [0] * 6 + [1] * 6
    assert row.segments.tolist() == [-1, -1, -1, 0, 0, 2, -1, -1, 3, 3, 3, 4]
    assert row.targets.tolist() == [1, 2, 3, 4, 4, 4, 2]
    assert row.logit_rows.tolist() == [2, 3, 7, 8, 9]
    assert row.target_rows.tolist() == [0, 1, 0, 2, 3, 4, 2]
    assert row.spans == ((3, 2, 0, 1), (2, 3, 1, 0))
    assert row.lengths == (2, 0, 1, 3, 1, 0)


def test_positions_start_again_behind_each_prompt():
    """Behind the largest of the three MRoPE axes (7 in the second group), the same on all axes."""
    row = two_groups()
    assert row.positions.shape == (3, 12)
    assert row.positions[:, 3:6].tolist() == [[3, 4, 3]] * 3
    assert row.positions[:, 6:8].tolist() == [[0, 4], [0, 7], [0, 5]]
    assert row.positions[:, 8:].tolist() == [[8, 9, 10, 8]] * 3


def test_each_logit_row_is_the_token_before_its_target():
    row = two_groups()
    targets = (row.segments >= 0).nonzero()[:, 0]
    for logit_row, target in zip(row.logit_rows[row.target_rows].tolist(), targets.tolist(), strict=True):
        assert row.segments[logit_row] in (-1, row.segments[target])
        assert row.prefixes[logit_row] == row.prefixes[target]
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
