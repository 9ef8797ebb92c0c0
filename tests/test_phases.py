"""pytest tests/test_phases.py -- ranks at the door of a phase, SIGTERM, deadlines, and the guards of a round."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from distributed import run_ranks
from ports import free_port

import guards
import parallel
import run_folder
from config import parse
from exits import Exit, Halt
from phases import Phases


def doors(folder: str) -> dict:
    """On each of two ranks: what happens at the doors of phases."""
    parallel.start(timeout_minutes=1)
    rank = torch.distributed.get_rank()
    heard = []
    before = signal.getsignal(signal.SIGTERM)
    with Phases(0) as phases:
        phases.begin_round(1, lambda: heard.append(phases.step))
        with phases("draw"):
            pass
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        with phases("sync"):  # the weights have changed: the round goes on
            pass
        heard.append("after sync")
        phases.begin_round(2, lambda: heard.append(phases.step))
        phases.enter("draw")
        said = ""
        try:
            phases.enter("generate" if rank else "score")
        except RuntimeError as error:
            said = str(error)
    assert signal.getsignal(signal.SIGTERM) == before
    numbers = [torch.tensor(1.0), torch.tensor(float("nan") if rank else 2.0), torch.tensor(float("inf"))]
    together = []
    for action in (lambda: rank, lambda: open("/no/such/file") if rank else 0):
        try:
            together.append(parallel.together(action))
        except OSError as error:
            together.append(str(error))
    try:
        run_folder.prepare(parse(["--run-dir", f"{folder}/node{rank}"]))
        together.append("one folder")
    except ValueError as error:
        together.append(str(error))
    return {
        "heard": heard,
        "said": said,
        "finite": [guards.all_finite(*numbers[:n]) for n in (1, 2)] + [guards.all_finite(numbers[2])],
        "seconds": list(phases.seconds),
        "together": together,
    }


@pytest.mark.slow
def test_all_ranks_hear_and_do_the_same(tmp_path):
    results = run_ranks(doors, 2, str(tmp_path))
    for result in results:
        assert result["heard"] == ["after sync", 2]
        assert result["said"] == (
            "all ranks must enter each phase together: rank 0 at round 2, score, rank 1 at round 2, generate"
        )
        assert result["finite"] == [True, False, False], "one rank's NaN is every rank's"
        assert result["together"][0] == [0, 1] and "/no/such/file" in result["together"][1]
        assert (
            "must be one folder for all ranks" in result["together"][2] and "rank 1 by nobody" in result["together"][2]
        )


HANGS = """
import sys, time
sys.path.insert(0, {root!r})
import phases, parallel
phases.Watchdog.POLL_S = 0.1
parallel.start(timeout_minutes=2)
if parallel.torch.distributed.get_rank() == 0:  # rank 1 is gone, and its connections, before this one looks again
    nap = time.sleep
    time.sleep = lambda seconds: nap(30 * seconds)
with phases.Phases(1.5) as run:
    run.begin_round(4, lambda: None)
    with run("draw"):
        pass
    with run("generate"):
        if parallel.torch.distributed.get_rank() == 1:
            def stuck_here():
                time.sleep(60)
            stuck_here()
    run.enter("score")
"""


@pytest.mark.slow
def test_a_phase_that_hangs_ends_every_rank_with_its_stacks_and_a_code_of_its_own():
    port = str(free_port())
    here = os.environ | dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    here |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", HANGS.format(root=str(ROOT))],
            env=here | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=100)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [Exit.HUNG, Exit.HUNG], said
    assert "rank 1: round 4, generate has lasted over 1.5 s (--phase-timeout)" in said[1] and "stuck_here" in said[1]
    assert "rank 0: round 4, score" in said[0] and "in gather_objects" in said[0]


# -- guards ------------------------------------------------------------------------------------------------------------


def test_skipped_steps_end_a_run_only_in_a_row():
    state = dict(guards.FRESH)
    for finite in (False, False, True, False, False):
        guards.note_update(state, finite, 3, "round 7")
    with pytest.raises(Halt, match="round 7: loss or gradient not finite, 3 optimizer steps in a row") as caught:
        guards.note_update(state, False, 3, "round 7")
    assert caught.value.code == Exit.NOT_FINITE


@pytest.mark.parametrize("bad", [0.2, float("nan")])
def test_a_gap_ends_a_run_only_in_a_row(bad):
    def note(gap: float, limit: float = 0.1) -> None:
        guards.note_gap(state, {"policy/engine_gap_mean": gap, "policy/engine_gap_max": 2 * gap}, limit, "round 9")

    state = dict(guards.FRESH)
    for gap in (bad, bad, 0.1, bad, bad):
        note(gap)
    with pytest.raises(Halt, match="round 9: trainer and engine .* --gap-limit 0.1") as caught:
        note(bad)
    assert caught.value.code == Exit.GAP
    state = dict(guards.FRESH)
    guards.note_gap(state, {}, 0.1, "a round without a token")
    assert state == guards.FRESH
    for _ in range(9):
        note(bad, limit=0)  # never
    assert str(state["gap_mean_max"]) == str(bad) and str(state["gap_max"]) == str(2 * bad)
