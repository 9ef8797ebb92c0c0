"""pytest tests/test_study.py -- the toy study: cells, resume and failure, intervals, verdicts, report."""

import dataclasses
import json
import math
import random
import threading
import time
from pathlib import Path

import failing_cell
import pytest
import torch

from data.parts import hold
from toy import study, study_claims, study_figures, study_rows, study_worker
from toy.study_cells import CONDITIONS, FEW, PARTS, SAMPLES, SEEDS, SHORTCUTS, Cell, Condition, Rows, World, cells_of
from toy.study_claims import HOLDS, NOT, UNTESTED, UNTOLD, Claim, at_most, more, same
from toy.study_report import report, write_report
from toy.study_results import T_95, Series, read, value

CELLS = cells_of(list(PARTS))
SUBTASKS = ("reversible_dynamics", "moving_direction_4", "moving_direction_8", "event_sequence")


def made_up(cell: Cell, pair_acc: float, **others) -> dict:
    """A result whose numbers follow from one."""
    part = {"acc": 50 + pair_acc / 2, "pair_acc": pair_acc, "n": 100, "pairs": 50}
    steps = range(41)
    rise = [0.1 + 0.001 * step + 0.001 * pair_acc for step in steps]
    names = (
        "reward/correct", "reward/crr_orig", "reward/crr_aug", "reward/behave", "reward/temporal", "reward/reverse",
        "group/zero_advantage", "group/zero_advantage_original", "group/zero_advantage_counterfactual",
        "advantage/auxiliary_shift", "advantage/size", "rollout/unreadable_counterfactual",
    )  # fmt: skip
    evaluated = [pair_acc * step / 40 if step % 10 == 0 else None for step in steps]
    curves = {"step": list(steps), "data/rollouts_seen": [192 * step for step in steps]}
    curves |= {name: [None, *rise[1:]] for name in names} | {"eval/pair_acc": evaluated, "eval/static/acc": evaluated}
    side = {"right": 0.5, "unreadable": 0.1, "agreement": 0.6}
    result = {
        "name": cell.name, "seed": cell.seed, "id": cell.id, "settings": cell.settings, "rollouts": 7680,
        "report": part | {"static": part | {"acc": 90.0}, "subtasks": {name: part for name in (*SUBTASKS, "static")}},
        "curves": curves, "seconds": 100, "cpu_seconds": 90,
        "shortcuts": {name: part | {"pair_acc": 3.0} for name in ("single_frame", "shuffled", "text_only")},
        "samples": {"a": side, "b": side},
    }  # fmt: skip
    return result | others


def write(folder: Path, cell: Cell, result: dict) -> None:
    folder.mkdir(exist_ok=True)
    (folder / cell.file).write_text(json.dumps(result))


@pytest.fixture
def whole(tmp_path):
    """Results of every cell, CRPO's 20 points above the others'."""
    rng = random.Random(0)
    for cell in CELLS:
        write(tmp_path / "out", cell, made_up(cell, 30 + 20 * (cell.name == "crpo") + rng.uniform(-1, 1)))
    return tmp_path / "out"


# -- cells -------------------------------------------------------------------------------------------------------------


def test_a_cell_is_its_settings_and_its_seed():
    plain = Cell("crpo", 11, CONDITIONS["crpo"])
    assert plain.id == Cell("other name", 11, dataclasses.replace(CONDITIONS["crpo"], label="other words")).id
    others = [
        Cell("crpo", 12, CONDITIONS["crpo"]),
        Cell("crpo", 11, dataclasses.replace(CONDITIONS["crpo"], world=World(difficulty=0.1))),
        Cell("crpo", 11, dataclasses.replace(CONDITIONS["crpo"], rows=Rows(swap=True))),
        Cell("crpo", 11, dataclasses.replace(CONDITIONS["crpo"], measures=())),
        Cell("crpo", 11, Condition("", (*CONDITIONS["crpo"].flags, "--w-aug", "0.4"))),
    ]
    assert len({cell.id for cell in (plain, *others)}) == len(others) + 1
    assert plain.settings["run"]["max_steps"] == 40 and plain.settings["run"]["lr"] == 4e-4
    assert "run_dir" not in plain.settings["run"] and "temperature" not in plain.settings["run"], "the paper's"


def test_the_plan_runs_each_cell_once_within_four_hours_on_two_cores():
    assert len({cell.id for cell in CELLS}) == len(CELLS) == len({(cell.name, cell.seed) for cell in CELLS})
    assert {cell.name for cell in CELLS} == set(CONDITIONS)
    assert sum(cell.seconds for cell in CELLS) < 28_800
    assert {cell.seed for cell in CELLS if cell.name == "t_grpo"} == set(SEEDS)
    assert {cell.seed for cell in CELLS if cell.name == "no_flip"} == set(FEW)
    assert [cell.seed for cell in CELLS if cell.name == "base"] == [SEEDS[0]]


def test_the_budgets_are_what_the_parts_say():
    def run(name):
        return Cell(name, 11, CONDITIONS[name]).run

    questions = {name: run(name)["max_steps"] * run(name)["questions"] for name in PARTS["table1"].conditions}
    assert questions.pop("base") == 24 and questions.pop("grpo_data2") == 1920
    assert set(questions.values()) == {960}
    assert run("grpo_g16")["rollouts"] == 16 and run("grpo_data2")["repeat_data"] == 2


def test_rows_are_varied_as_the_condition_says():
    from toy.world import training_example

    rows = [training_example(index, 0, 0.97)[0] for index in range(400)]
    right = [row["task_type"] for row in rows]
    types = lambda how: [row["task_type"] for row in study_rows.varied(rows, how, seed=1)]  # noqa: E731
    assert types(Rows()) == right
    assert sum(a != b for a, b in zip(types(Rows(wrong_types=0.2)), right, strict=True)) == 80
    assert types(Rows(wrong_types=0.2)) == types(Rows(wrong_types=0.2))
    changed = [pair for pair in zip(right, types(Rows(confusions=True)), strict=True) if pair[0] != pair[1]]
    assert sorted(changed) == sorted(
        [("Spatiotemporal", "Temporal")] * 16 + [("Static", "Temporal")] * 6 + [("Static", "Spatial")] * 2
    )
    assert "Static" not in types(Rows(static=False))
    swapped = study_rows.varied(rows, Rows(swap=True), seed=1)
    assert {row["question"] for row in swapped if "transforms" in row} == {"order"}
    assert all("transforms" not in row for row in rows)


def test_a_world_of_too_few_rows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(study_rows, "PAIRS", 1)
    cell = Cell("few", 101, Condition("", ("--method", "crpo", "--max-steps", "1", "--questions", "3"), World(clips=2)))
    with pytest.raises(ValueError, match="few needs 3 training rows, its world gives 2: ask for more clips"):
        study_rows.prepare_files(cell, tmp_path)


# -- running -----------------------------------------------------------------------------------------------------------


class Stub:
    """A worker that fails one cell."""

    ran: list = []

    def __init__(self, out, number):
        self.out = out

    def run(self, cell):
        self.ran.append(cell.file)
        if cell.seed == FEW[1] and cell.name == "segment_swap":
            return "ValueError: no luck (exit code 1)"
        write(self.out, cell, made_up(cell, 40.0))

    def close(self): ...


def test_a_study_goes_on_where_it_stopped_and_says_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "Worker", Stub)
    monkeypatch.setattr(Stub, "ran", [])
    out = tmp_path / "out"
    flags = ["segment_swap", "--out", str(out), "--workers", "1"]
    cells = cells_of(["segment_swap"])
    write(out, cells[0], made_up(cells[0], 40.0))
    assert study.main(flags) == 1
    assert Stub.ran == [cell.file for cell in cells[1:]]
    said = capsys.readouterr().out
    assert "segment_swap seed 12: FAILED: ValueError: no luck" in said and "left" in said
    assert json.loads((out / cells[4].file).read_text())["error"].startswith("ValueError: no luck")
    assert study.main(flags) == 1 and len(Stub.ran) == 5, "what is done or failed is not run again"
    monkeypatch.setattr(Stub, "run", lambda self, cell: write(self.out, cell, made_up(cell, 40.0)))
    assert study.main([*flags, "--retry-failed"]) == 0


def test_a_second_interrupt_drops_what_runs_and_calls_nothing_failed(tmp_path, monkeypatch, capsys):
    killed, waits = threading.Event(), iter((True, True))

    class Hangs(Stub):
        def run(self, cell):
            killed.wait()
            return "no word (exit code -9)"

        def kill(self):
            killed.set()

    def wait(queue, threads):
        if next(waits, False):
            time.sleep(0.1)  # the cells begin
            raise KeyboardInterrupt
        real(queue, threads)

    real = study.Queue._wait
    monkeypatch.setattr(study.Queue, "_wait", wait)
    monkeypatch.setattr(study, "Worker", Hangs)
    assert study.main(["table4", "--out", str(tmp_path)]) == 0
    assert "7 cells left" in capsys.readouterr().out and not list(tmp_path.glob("*.json"))


def test_a_folder_that_cannot_be_gone_on_with_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "Worker", Stub)
    first = cells_of(["table4"])[0]
    for broken in ("{", "null", "[]", "{}"):
        (tmp_path / first.file).write_text(broken)
        assert study.main(["table4", "--out", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "is no result" in said and "remove it" in said
    (tmp_path / first.file).unlink()
    with hold(tmp_path):
        assert study.main(["table4", "--out", str(tmp_path)]) == 2
    assert "another process writes its results there" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert study.main(["table4", "--out", str(tmp_path / "file")]) == 2
    (tmp_path / "run_x").mkdir()
    (tmp_path / "worlds" / "abc.123").mkdir(parents=True)
    assert study.main(["table4", "--out", str(tmp_path), "--minutes", "1e-9"]) == 0
    assert not (tmp_path / "run_x").exists() and not list((tmp_path / "worlds").iterdir())


@pytest.mark.slow
def test_a_process_that_dies_leaves_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(study_worker, "serve", failing_cell.serve)
    worker = study.Worker(tmp_path, 0)
    assert worker.run(Cell("crpo", 11, CONDITIONS["crpo"])) == "ValueError: no luck with crpo (exit code 1)"
    assert "Traceback" in worker.log.read_text()


def test_a_list_runs_nothing_and_minutes_stop_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "Worker", Stub)
    monkeypatch.setattr(Stub, "ran", [])
    assert study.main(["table4", "--out", str(tmp_path), "--list"]) == 0
    assert not Stub.ran and "core-seconds" in capsys.readouterr().out
    assert study.main(["table4", "--out", str(tmp_path), "--minutes", "1e-9"]) == 0
    assert not Stub.ran and "7 cells left" in capsys.readouterr().out


@pytest.mark.slow
def test_tiny_cells_on_one_engine_give_the_same_numbers_again(tmp_path, monkeypatch, one_rank, one_thread):
    monkeypatch.setattr(study_rows, "PAIRS", 1)
    tiny = ("--engine", "hf", "--questions", "2", "--rollouts", "2", "--max-steps", "1", "--lr", "1e-2",
            "--warmup-steps", "0", "--phase-timeout", "0")  # fmt: skip
    first = Condition("", ("--method", "crpo", *tiny), World(clips=2), measures=(SHORTCUTS, SAMPLES))
    other = Condition("", ("--method", "grpo", *tiny), World(clips=2, events=(3,)), Rows(swap=True))
    live, results = None, []
    for cell in (Cell("crpo", 101, first), Cell("grpo", 102, other), Cell("crpo", 101, first)):
        live = study_worker.run(cell, tmp_path, torch.device("cpu"), live)
        results.append(json.loads((tmp_path / cell.file).read_text()))
    live.clips.close()
    for result in results:
        assert result.pop("seconds") >= 0 and result.pop("cpu_seconds") >= 0
    assert results[0] == results[2] != results[1]
    assert results[0]["report"]["pairs"] == 4 and set(results[0]["shortcuts"]) == {
        "single_frame",
        "shuffled",
        "text_only",
    }
    assert 0 <= results[0]["samples"]["b"]["agreement"] <= 1 and results[0]["rollouts"] == 8
    assert results[1]["curves"]["step"] == [0, 1] and "shortcuts" not in results[1]
    assert value(results[0], "mean:reward/correct") <= 1
    assert {path.name for path in tmp_path.iterdir()} >= {"worlds", "decoded"}
    assert not list(tmp_path.glob("run_*")), "no run folder stays"


# -- numbers -----------------------------------------------------------------------------------------------------------


def density(t: float, n: int) -> float:
    """Student's t with n degrees of freedom."""
    norm = math.gamma((n + 1) / 2) / (math.sqrt(n * math.pi) * math.gamma(n / 2))
    return norm * (1 + t * t / n) ** (-(n + 1) / 2)


@pytest.mark.parametrize("n", range(1, len(T_95) + 1))
def test_the_quantiles_hold_95_percent_between_them(n):
    steps = 20_000
    step = 2 * T_95[n - 1] / steps
    inside = sum(density(-T_95[n - 1] + (i + 0.5) * step, n) for i in range(steps)) * step
    assert inside == pytest.approx(0.95, abs=5e-5)


def test_an_interval_by_hand():
    series = Series({1: 10.0, 2: 12.0, 3: 17.0}, (1, 2, 3))
    assert series.mean == 13 and series.half == pytest.approx(4.302653 * math.sqrt(13) / math.sqrt(3), abs=1e-9)
    paired = series - Series({1: 9.0, 2: 11.0}, (1, 2, 3, 4), {3: ("x seed 3",), 4: ("x seed 4",)})
    assert paired.values == {1: 1.0, 2: 1.0} and paired.half == 0 and paired.failed == ("x seed 3",)


def of(*values):
    return Series(dict(enumerate(values)), tuple(range(len(values))))


def test_verdicts_follow_their_rules():
    assert [more(of(*v)) for v in ((1, 2, 1.5), (-1, -2, -1.5), (1, -2, 3))] == [HOLDS, NOT, UNTOLD]
    assert [same(5)(of(*v)) for v in ((1, 2, 1.5), (9, 10, 9.5), (1, 2, 12), (-4, 4, 0))] == [
        HOLDS,
        NOT,
        UNTOLD,
        UNTOLD,
    ]
    assert [at_most(1)(of(*v)) for v in ((0.1, 0.2), (8, 8.1), (0, 2))] == [HOLDS, NOT, UNTOLD]
    claim = Claim("x", "y", "", lambda results: of(3.0), more)
    assert claim.judge(None) == study_claims.Outcome(UNTOLD, "1 of 1 seeds")
    assert Claim("x", "y", "", why="no such thing").judge(None).verdict == UNTESTED
    assert of(-2.0, 3.0).at_least(0.0).values == {0: 0.0, 1: 3.0}
    broken = dataclasses.replace(of(3.0, 3.1), lost={2: ("crpo seed 2",)})
    assert Claim("x", "y", "", lambda results: broken, more).judge(None).verdict == UNTOLD


def test_a_spread_and_a_lowest_name_every_failed_cell(whole):
    lost = Cell("lambda_0.1", 12, CONDITIONS["lambda_0.1"])
    write(whole, lost, {"name": lost.name, "seed": 12, "id": lost.id, "error": "gone"})
    results, names = read(whole), ("no_crr", "lambda_0.1", "crpo", "lambda_0.5")
    means = {name: results.series(name, "pair_acc", FEW).mean for name in names}
    spread, least = study_claims.widest(names, "pair_acc")(results), study_claims.lowest(names, "pair_acc")(results)
    assert spread.mean == pytest.approx(max(means.values()) - min(means.values()), abs=0.6) and set(FEW) >= set(
        spread.values
    )
    assert least.mean == min(means.values())
    assert spread.failed == least.failed == ("lambda_0.1 seed 12",)


def test_every_claim_can_be_judged_and_every_metric_read(whole):
    results = read(whole)
    claims = (*study_claims.MAIN, *study_claims.APPENDIX, *study_claims.BEYOND)
    for claim in claims:
        assert claim.judge(results).verdict in (HOLDS, NOT, UNTOLD, UNTESTED), claim
    places = {claim.place.split()[0] for claim in claims}
    assert {"5.2", "5.3", "A.4", "A.5", "C", "D.1", "D.2", "D.3", "E", "F.1", "F.2"} <= places
    judged = {(claim.place, claim.words): claim.judge(results).verdict for claim in claims}
    assert judged["5.2 (1)", "CRPO beats GRPO in pair accuracy"] == HOLDS
    assert judged["5.3", "Data x 2 gives GRPO nothing"] == HOLDS
    assert judged["5.2 (1)", "T-GRPO is the strongest other method: above GRPO"] == UNTOLD
    with pytest.raises(ValueError, match="no_such"):
        value(results.found["crpo", 11], "no_such/acc")


# -- report ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_report_shows_every_cell_and_what_failed(whole, tmp_path):
    lost, missing = Cell("crpo", 12, CONDITIONS["crpo"]), Cell("t_grpo", 15, CONDITIONS["t_grpo"])
    write(whole, lost, {"name": "crpo", "seed": 12, "id": lost.id, "error": "ClipError: gone (exit code 1)"})
    (whole / missing.file).unlink()
    (whole / "stray.json").write_text(json.dumps({"id": "of another version"}))
    said = write_report(whole, tmp_path / "docs")
    text = (tmp_path / "docs" / "toy_study.md").read_text()
    assert "cannot be told here" in said
    assert f"{len(CELLS) - 2} of {len(CELLS)} cells done, 1 failed" in text and "1 files of other settings" in text
    assert "FAILED: crpo seed 12: ClipError: gone" in text and "| FAILED (crpo seed 12; 4 of 5" in text
    assert "(4 of 5)" in text, "a missing seed is said"
    assert study_figures._label(read(whole), "crpo", FEW) == "CRPO (1 FAILED)", "in the pictures, too"
    assert study_figures._label(read(whole), "grpo", FEW) == "GRPO"
    for part in PARTS.values():
        assert f"## {part.title}\n" in text
    for name in PARTS:
        assert (tmp_path / "docs" / "study" / f"{name}.png").stat().st_size > 5_000
    assert (tmp_path / "docs" / "study" / "table1_curves.png").stat().st_size > 5_000
    assert write_report(whole, tmp_path / "again") and (tmp_path / "again" / "toy_study.md").read_text() == text


def test_the_report_in_the_repository_is_that_of_its_results():
    docs = Path(__file__).parents[1] / "docs"
    assert (docs / "toy_study.md").read_text() == report(read(docs / "study" / "cells"))


def test_a_folder_without_results_is_one_line(tmp_path, capsys):
    assert study.main(["report", "--out", str(tmp_path)]) == 2
    (tmp_path / "x.json").write_text("{")
    assert study.main(["report", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "holds no result" in said[0] and "x.json is no result" in said[1]
