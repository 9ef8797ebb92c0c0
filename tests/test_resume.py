"""A run stopped and gone on with is the run that was never stopped; on other numbers of ranks, up to rounding.

pytest tests/test_resume.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from distributed import relative_difference, run_ranks
from resumed import on_other_ranks, whole_and_in_two_parts

pytestmark = pytest.mark.slow
TIMED = ("time/", "memory/", "speed/", "rollout/tokens_per_s")
NUMBERS = ("policy/loss", "policy/objective", "policy/kl", "policy/grad_norm", "policy/entropy", "advantage/size")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from toy.world import write_world

    folder = tmp_path_factory.mktemp("resume")
    write_world(folder / "world", train=24, pairs=1)
    return str(folder / "run"), str(folder / "world")


@pytest.fixture(scope="module")
def two_ranks(place):
    """[rank] -> (a whole run of four rounds, two of its rounds gone on from its second checkpoint)."""
    return run_ranks(whole_and_in_two_parts, 2, *place, timeout_s=600)


def untimed(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith(TIMED)}


def test_two_rounds_and_two_more_are_four_to_the_bit(two_ranks):
    for whole, parts in two_ranks:
        assert [row["step"] for row in parts["rows"]] == [0, 1, 2, 3, 4]
        assert list(map(untimed, whole["rows"])) == list(map(untimed, parts["rows"]))
        assert whole["rows"][4]["policy/grad_norm"] > 0 and whole["rows"][4]["policy/kl"] > 0
        assert whole["samples"] == parts["samples"]
        assert all(torch.equal(whole["weights"][name], parts["weights"][name]) for name in whole["weights"])
        for seed, again in parts["tape"].items():  # the prompts, and every token and log-prob that the engine gave
            (prompt_ids, rollouts), (prompt_again, rollouts_again) = whole["tape"][seed], again
            assert prompt_ids == prompt_again
            for (ids, logps, *_), (ids_again, logps_again, *_) in zip(rollouts, rollouts_again, strict=True):
                assert ids == ids_again and torch.equal(logps, logps_again)


def assert_alike(got: dict, whole: dict, *, weights: float) -> None:
    for row, expected in zip(got["rows"], whole["rows"], strict=True):
        for name in NUMBERS if row["step"] else ():
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-5), (row["step"], name)
        assert row["data/rollouts_seen"] == expected["data/rollouts_seen"]
    ids = [[json.loads(line)["id"] for line in run["samples"].splitlines()] for run in (got, whole)]
    assert ids[0] == ids[1]
    assert relative_difference(got["weights"], whole["weights"]) <= weights


def test_one_rank_goes_on_with_what_two_began(two_ranks, place):
    whole = two_ranks[0][0]
    [[got]] = run_ranks(on_other_ranks, 1, *place, whole["tape"], "0", timeout_s=600)
    assert_alike(got, whole, weights=1e-4)
    saved = os.listdir(Path(f"{place[0]}_1_0", "checkpoints"))
    assert sorted(saved) == ["step_000003", "step_000004"], "by --save-minutes"


def test_four_ranks_go_on_with_what_two_began_sharded_over_all_and_two_by_two(two_ranks, place):
    """HSDP: weights sharded over two ranks, replicated over the other two."""
    whole = two_ranks[0][0]
    fsdp, hsdp = run_ranks(on_other_ranks, 4, *place, whole["tape"], "0", "2", timeout_s=600)[0]
    assert_alike(fsdp, whole, weights=1e-4)
    assert_alike(hsdp, whole, weights=1e-4)
    print("HSDP against FSDP, weights:", relative_difference(hsdp["weights"], fsdp["weights"]))
    for a, b in zip(fsdp["rows"], hsdp["rows"], strict=True):
        for name in NUMBERS if a["step"] else ():
            assert a[name] == pytest.approx(b[name], rel=1e-5, abs=1e-6), name
    assert relative_difference(hsdp["weights"], fsdp["weights"]) <= 1e-6
