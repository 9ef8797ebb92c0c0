"""The real train.py, as a user starts it: two ranks, real engines, real clips, stop and resume, tensor parallel.

pytest tests/test_train.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, launch

import train
from config import parse
from data.dataset import QuestionCursor
from methods import METHODS
from metrics import METRICS, describe, read_metrics
from plan import Planner

pytestmark = pytest.mark.slow
TASKS = ["Temporal", "Spatial", "Static"]


def run_train(*flags: object, ranks: int = 2, **how) -> subprocess.CompletedProcess:
    return launch("train.py", *flags, ranks=ranks, **how)


def rows_of(run_dir: Path) -> dict[int, dict]:
    rows = read_metrics(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(len(rows))), "one object a step, none missing or repeated"
    return {int(row["step"]): row for row in rows}


def same_but_time(a: dict, b: dict) -> None:
    skip = ("time/", "memory/", "speed/", "rollout/tokens_per_s")
    names = [name for name in a if not name.startswith(skip)]
    assert {name: a[name] for name in names} == {name: b[name] for name in names}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from toy.world import write_world

    folder = tmp_path_factory.mktemp("world")
    write_world(folder, train=40, pairs=3)
    return folder


@pytest.fixture(scope="module")
def toy_flags(world):
    return ("--preset", "toy", "--train-file", world / "train.jsonl", "--eval-file", world / "eval.jsonl",
            "--data-root", world, "--questions", 8, "--rollouts", 4)  # fmt: skip


@pytest.fixture(scope="module")
def toy_run(toy_flags, tmp_path_factory):
    """Four rounds of CRPO from the shipped warm start, two ranks, fp32, saved after two and after four."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run_train(*toy_flags, "--run-dir", run_dir, "--max-steps", 4, "--save-every", 2, "--dtype", "float32", "--lr", 1e-4,
              "--updates", 2, "--samples-every", 2, "--checksum-every", 1, "--importance-cap", 2)  # fmt: skip
    return run_dir


def test_one_epoch_of_repeated_data_visits_each_row_twice_and_samples_anew(tmp_path):
    """Table 2, "Data x 2": the second visit is a question of its own, with its own place in the order and seed."""
    row = {"data_type": "text", "problem": "Two?", "problem_type": "multiple choice", "options": ["A. 2", "B. 3"]}
    rows = [row | {"problem_id": i, "solution": "<answer>A</answer>"} for i in range(5)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    flags = ["--method", "grpo", "--train-file", str(tmp_path / "rows.json"), "--repeat-data", "2"]
    config = parse(flags)
    questions, evaluation, bad = train.load_data(config)
    assert len(questions) == 10 and not evaluation and not bad
    visits = QuestionCursor(questions, config.seed).take(10)
    assert sorted(question.row for _, question in visits) == sorted([*range(1, 6)] * 2)
    assert {epoch for epoch, _ in visits} == {0}
    planner = Planner(METHODS["grpo"], train.settings_of_method(config), 10, config.seed)
    plan = planner.plan(visits)
    assert len({item.seed for item in plan}) == len({item.clip for item in plan}) == 10


def test_a_run_leaves_what_a_person_looks_for(toy_run):
    rows = rows_of(toy_run)
    assert len(rows) == 5
    for name in {name for row in rows.values() for name in row} - {"step"}:
        describe(name)  # KeyError: not in the table of metric names
    unused = {name for name in METRICS if "*" not in name} - {name for row in rows.values() for name in row}
    others = {f"reward/{term}" for term in ("temporal", "length", "shuffled_correct", "reverse", "reverse_correct",
                                            "aug_correct")}  # fmt: skip
    assert unused <= others | {"data/single_branch", "speed/mfu", "relation/moved"}, unused
    for row in list(rows.values())[1:]:
        assert row["speed/logical_tokens_per_s"] > row["speed/physical_tokens_per_s"] > 0
        assert row["speed/logical_tokens_per_s"] > row["speed/tokens_per_s"] > 0 and row["speed/imbalance"] >= 1
    summary = json.loads((toy_run / "summary.json").read_text())
    for side in ("before", "after"):
        assert 0 <= summary[side]["pair_acc"] <= summary[side]["acc"] <= 100
        assert set(summary[side]["subtasks"]) == {"reversible_dynamics", "moving_direction", "event_sequence", "static"}
    assert summary["steps"] == 4 and summary["seed"] == 0 and summary["wall_s"] > 0
    config = json.loads((toy_run / "config.json").read_text())
    assert config["method"] == "crpo" and config["lambda_d"] == 0.3
    samples = [json.loads(line) for line in (toy_run / "samples.jsonl").read_text().splitlines()]
    assert [len(sample["branches"]) for sample in samples] == [2, 2, 2]
    assert {"reward", "advantage", "behave", "crr_aug", "cf_format"} == set(
        samples[0]["branches"][1]["rollouts"][0]["rewards"]
    )
    assert (toy_run / "curves.png").stat().st_size > 10_000
    assert list(toy_run.glob("events.*"))


def test_gap_holds_after_every_sync(toy_run):
    rows = rows_of(toy_run)
    assert all(rows[step]["policy/engine_gap_max"] <= 1e-5 for step in range(1, 5))
    assert json.loads((toy_run / "summary.json").read_text())["engine_gap_max"] <= 1e-5
    assert all(rows[step]["policy/grad_norm"] > 0 for step in range(1, 5))
    assert all(rows[step]["policy/importance_mean"] == pytest.approx(1, abs=1e-5) for step in range(1, 5))


def test_two_rounds_and_a_resume_equal_four(toy_run, toy_flags, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(toy_run, part)
    shutil.rmtree(part / "checkpoints" / "step_000004")
    (part / "checkpoints" / "step_000003").mkdir()  # no marker: was being written when the machine died
    done = run_train(*toy_flags, "--run-dir", part, "--max-steps", 4, "--save-every", 2, "--dtype", "float32",
                     "--lr", 1e-4, "--updates", 2, "--samples-every", 2, "--checksum-every", 1,
                     "--importance-cap", 2)  # fmt: skip
    assert "after round 2" in done.stdout
    whole, resumed = rows_of(toy_run), rows_of(part)
    for step in (3, 4):
        same_but_time(whole[step], resumed[step])


def test_a_run_does_not_go_on_with_other_settings(toy_run, toy_flags):
    done = run_train(*toy_flags, "--run-dir", toy_run, "--max-steps", 9, "--lr", 2e-4, expect=2, ranks=1)
    assert "--lr was 0.0001, is 0.0002" in done.stderr and "--max-steps was 4, is 9" in done.stderr


def test_the_export_answers_the_same_in_transformers_and_in_vllm(toy_run):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "engine_probe.py"), str(toy_run / "export"), "only-load"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.strip().splitlines()[-1])
    assert facts["gap_start"] <= 1e-5 and facts["hf_same_greedy"]


def test_bf16_gap_and_tensor_parallel_two(toy_flags, tmp_path):
    run_dir = tmp_path / "tp2"
    run_train(*toy_flags, "--run-dir", run_dir, "--max-steps", 2, "--tensor-parallel", 2, "--checksum-every", 1)
    rows = rows_of(run_dir)  # ranks that sampled different tokens, or a tensor that differs, would have stopped the run
    assert all(rows[step]["policy/engine_gap_mean"] <= 2e-3 for step in (1, 2))


def test_tensor_parallel_two_by_data_parallel_two(toy_flags, tmp_path):
    """Four ranks, two engines. Ranks of an engine that sampled different tokens would have stopped the run, and so
    would a tensor that differs after the sync; and four ranks sample and train what one does."""
    flags = (*toy_flags, "--eval-file", "", "--dtype", "float32", "--questions", 4, "--checksum-every", 1, "--lr", 1e-4,
             "--no-export", "--samples-every", 1, "--engine-cpu-cache-mb", 64)  # fmt: skip
    flags = (*flags, "--max-steps", 1)
    run_train(*flags, "--run-dir", tmp_path / "four", "--tensor-parallel", 2, ranks=4, timeout_s=900)
    run_train(*flags, "--run-dir", tmp_path / "one", "--tensor-parallel", 0, ranks=1)
    assert json.loads((tmp_path / "one" / "config.json").read_text())["tensor_parallel"] == 1  # by the device
    four, one = rows_of(tmp_path / "four"), rows_of(tmp_path / "one")
    assert json.loads((tmp_path / "four" / "summary.json").read_text())["engine_gap_max"] <= 1e-5  # after the step, too
    texts = [
        [rollout["text"] for branch in sample["branches"] for rollout in branch["rollouts"]]
        for run in ("four", "one")
        for sample in [json.loads((tmp_path / run / "samples.jsonl").read_text().splitlines()[0])]
    ]
    assert texts[0] == texts[1]
    for name in ("policy/grad_norm", "policy/entropy", "rollout/completion_tokens"):
        assert four[1][name] == pytest.approx(one[1][name], rel=1e-4), name


def test_real_clips_train_with_a_scripted_reward(tiny_folder, shared_folder, tmp_path):
    from safetensors.torch import load_file

    videos = shared_folder / "data" / "videos"
    rows = [
        {"problem_id": i, "problem": "What happens?", "data_type": "video", "problem_type": "multiple choice",
         "options": ["A. one", "B. two"], "solution": "<answer>A</answer>", "path": path.name, "task_type": kind}
        for i, (path, kind) in enumerate(zip(sorted(videos.iterdir()), TASKS * 2, strict=True))
    ]  # fmt: skip
    rows += [
        {**rows[0], "problem_id": "outside", "path": "../README.md"},
        {**rows[0], "problem_id": "x", "solution": "Z"},
    ]
    train_file = tmp_path / "rows.jsonl"
    train_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_dir = tmp_path / "real"
    done = run_train(
        "--model", tiny_folder, "--train-file", train_file, "--data-root", videos, "--run-dir", run_dir,
        "--questions", 4, "--updates", 1, "--rollouts", 4, "--max-completion-tokens", 24, "--max-steps", 2,
        "--lr", 1e-3, "--scripted-reward", "--dtype", "float32", "--max-prompt-tokens", 4096, "--engine-sequences", 16,
        "--checksum-every", 1, "--max-pixels", 256 * 1024,
    )  # fmt: skip
    assert f"{train_file}:7 path" in done.stdout and f"{train_file}:8 solution" in done.stdout
    assert "corrupted.mp4" in (run_dir / "bad_rows.txt").read_text()
    rows = rows_of(run_dir)
    assert all(rows[step]["policy/grad_norm"] > 0 and rows[step]["policy/engine_gap_max"] <= 2e-5 for step in (1, 2))
    assert rows[2]["data/quarantined"] == 1 and rows[1]["rollout/prompt_tokens"] > 100
    start, end = load_file(f"{tiny_folder}/model.safetensors"), load_file(run_dir / "export" / "model.safetensors")
    moved = {name for name in start if not torch.equal(start[name].float(), end[name].float())}
    assert any("merger" in name for name in moved) and any("language_model" in name for name in moved)
    assert not any("visual.blocks" in name or "patch_embed" in name for name in moved), "the vision encoder is frozen"


def test_one_process_and_the_transformers_engine(toy_flags, tmp_path):
    run_dir = tmp_path / "hf"
    run_train(*toy_flags, "--run-dir", run_dir, "--engine", "hf", "--method", "grpo", "--max-steps", 1, "--no-export",
              "--gradient-checkpointing", "--eval-file", "", ranks=1)  # fmt: skip
    assert rows_of(run_dir)[1]["policy/engine_gap_mean"] <= 2e-3


def test_ranks_that_read_other_rows_are_told_before_the_start(world, tmp_path, one_rank, monkeypatch):
    def beside_another(action):
        model, rows = action()
        return [(model, rows), (model, ["0123456789abcdef", rows[1]])]

    monkeypatch.setattr(train, "together", beside_another)
    flags = ["--preset", "toy", "--train-file", str(world / "train.jsonl"), "--data-root", str(world)]
    with pytest.raises(ValueError, match="all ranks must read the same model and rows: rank 0 .* rank 1 has .*0123"):
        train.prepare(parse([*flags, "--run-dir", str(tmp_path / "run")]), 1)


@pytest.mark.parametrize("flags, words", [((), "--train-file is missing"), (("--no-such-flag",), "no-such-flag")])
def test_a_users_mistake_is_one_readable_line(flags, words, tmp_path):
    done = run_train(*flags, "--run-dir", tmp_path / "run", ranks=1, expect=2)
    assert words in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        (("--train-file", "nowhere.jsonl"), "nowhere.jsonl"),
        (("--train-file", "README.md"), "README.md"),
        (("--preset", "toy", "--model", "Qwen3-VL-8B"), "Qwen/Qwen3-VL-8B-Instruct"),
        (("--preset", "toy", "--model", "/no/such/folder"), "/no/such/folder"),
        (("--preset", "toy", "--questions", "9", "--updates", "2"), "--questions 9"),
        (("--preset", "toy", "--method", "ppo"), "--method ppo"),
    ],
)
def test_mistakes_found_before_the_start(flags, words, tmp_path, one_rank):
    with pytest.raises((ValueError, OSError), match=words) as caught:
        train.prepare(parse([*flags, "--run-dir", str(tmp_path / "run")]), 1)
    assert "\n" not in str(caught.value)
