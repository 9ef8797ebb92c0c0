"""pytest tests/test_pass_rates.py -- what is asked and counted, kept after a stop, and the same on any ranks."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import ROOT, launch
from distributed import run_ranks

import config
import parallel
from data import filter as row_filter
from data import parts
from data.dataset import load_questions
from data.reader import Reader, open_clips
from data.video import ClipError
from episode import Prompt, Question, Rollout
from eval import pass_rates
from eval.answer import Answered
from eval.settings import PassRateArgs, check_pass_rates
from rollout import Generated

QUESTION = Question("q", 3, "Which way?", "text", "multiple choice", ("A. left", "B. right"), "B", data_source="ours")


def args_of(*flags):
    return config.parse([str(flag) for flag in flags], PassRateArgs)


def rollout(text, tokens=4, finish="stop"):
    return Rollout(tuple(range(tokens)), torch.zeros(tokens), text, finish)


def rows_of(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_row_of_the_output():
    rollouts = [rollout("\\boxed{B}"), rollout("B", 6, "length"), rollout("\\boxed{right}"), rollout("\\boxed{A}", 2)]
    row = pass_rates.pass_rate(Answered(QUESTION, rollouts))
    mark = row.pop("fingerprint")
    assert row == {
        "id": "q", "row": 3, "data_source": "ours", "passes": 2, "rollouts": 4, "pass_rate": 0.5, "mean_tokens": 4.0,
        "unreadable": 1, "truncated": 1, "error": "",
    }  # fmt: skip
    row = pass_rates.pass_rate(Answered(QUESTION, error="damaged"))
    assert (row["pass_rate"], row["passes"], row["error"], row["fingerprint"]) == (None, None, "damaged", mark)
    assert "damaged" in pass_rates.report([row], []) and "-" in pass_rates.report([row], [])


def test_answers_that_are_right_in_part_have_a_mean_and_terms():
    """Of hidden 2, 1: all right, the order wrong, unreadable, one of two."""
    asked = dataclasses.replace(QUESTION, problem_type="order", gold='{"order": [2, 1], "candidates": 4}', options=())
    texts = [f"<think>So.</think><answer>{said}</answer>" for said in ("2,1", "1,2", "both", "2,3")]
    row = pass_rates.pass_rate(Answered(asked, [rollout(text) for text in texts]))
    assert row["terms"] == {"selection": 0.625, "ordering": 0.5, "exact": 0.25, "score": 0.5625}
    assert (row["passes"], row["pass_rate"], row["unreadable"]) == (3, 0.75, 1)
    lines = pass_rates.report([row], []).splitlines()
    assert ["ours", "exact", "1", "25.0"] in [line.split() for line in lines]


def test_defaults_and_presets_are_trainings():
    ours = {field.name for field in dataclasses.fields(PassRateArgs)}
    for preset in ("paper", "toy"):
        training, asked = config.parse(["--preset", preset]), args_of("--preset", preset)
        shared = ours & set(vars(training)) - {"model", "engine_memory"}
        assert {name: getattr(asked, name) for name in shared} == {name: getattr(training, name) for name in shared}


# -- the output --------------------------------------------------------------------------------------------------------


def line(name):
    return json.dumps({"id": name, "row": 1}) + "\n"


def test_parts_are_merged_in_order_and_a_torn_last_line_is_left_out(tmp_path):
    output = tmp_path / "rates[1].jsonl"
    output.write_text(line("b") + line("c"))
    Path(f"{output}.part-0000").write_text(line("a") + line("c") + '{"id": "d"}')
    Path(f"{output}.part-0007").write_bytes(line("e").encode() + b'{"id": "\xc3')
    questions = [dataclasses.replace(QUESTION, id=name) for name in "abcde"]
    assert [row["id"] for row in pass_rates.merge(str(output), questions)] == ["a", "b", "c", "e"]
    assert [row["id"] for row in rows_of(output)] == ["a", "b", "c", "e"]
    assert list(tmp_path.iterdir()) == [output]
    output.write_text(line("a") + "{torn\n" + line("b"))
    with pytest.raises(ValueError, match=r"rates\[1\]\.jsonl:2 is not a pass rate"):
        pass_rates.merge(str(output))


@pytest.fixture
def one_rank(monkeypatch):
    monkeypatch.setattr(parts, "gather_objects", lambda value: [value])
    monkeypatch.setattr(parts, "is_main", lambda: True)


def test_a_run_goes_on_with_its_own_settings_alone(tmp_path, one_rank):
    rows, output = tmp_path / "rows.jsonl", tmp_path / "new" / "rates.jsonl"
    rows.write_text("{}\n")
    flags = ("--model", "m", "--rows", rows, "--output", output)
    assert pass_rates.open_output(args_of(*flags), "m") == set()
    settings = json.loads(Path(f"{output}.settings.json").read_text())
    assert settings["rollouts"] == 8 and settings["model"].endswith("/m") and len(settings["rows_sha256"]) == 64
    output.write_text(line("a"))
    assert pass_rates.open_output(args_of(*flags, "--chunk", 3, "--tensor-parallel", 2), "m") == {"a"}
    with pytest.raises(ValueError, match=r"rollouts was 8, is 4.*give a new file"):
        pass_rates.open_output(args_of(*flags, "--rollouts", 4), "m")
    with pytest.raises(ValueError, match="model was"):
        pass_rates.open_output(args_of(*flags), "other")
    rows.write_text("{} \n")
    with pytest.raises(ValueError, match="rows_sha256 was"):
        pass_rates.open_output(args_of(*flags), "m")
    Path(f"{output}.settings.json").unlink()
    with pytest.raises(ValueError, match="exists and has no rates.jsonl.settings.json beside it"):
        pass_rates.open_output(args_of(*flags), "m")
    assert rows_of(output) == [{"id": "a", "row": 1}]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "--model is missing"),
        (["--model", "m"], "--rows is missing"),
        (["--rollouts", "0"], "--rollouts 0 must be at least 1"),
        (["--chunk", "0"], "--chunk 0 must be at least 1"),
        (["--tensor-parallel", "3"], "must divide a node's 2 ranks"),
        (["--temperature", "0"], "--temperature must be positive"),
        (["--frames", "7"], "--frames must be even"),
        (["--decode-timeout", "0"], "--decode-timeout 0.0 must be positive"),
        (["--min-frame-pixels", "9", "--max-frame-pixels", "8"], "--min-frame-pixels 9"),
    ],
)
def test_mistakes_are_one_line(flags, says):
    given = flags if flags[:1] in ([], ["--model"]) else ["--model", "m", "--rows", "r", "--output", "o", *flags]
    with pytest.raises(ValueError, match=says) as caught:
        check_pass_rates(args_of(*given), 2)
    assert "\n" not in str(caught.value)


# -- what is asked -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_prompt_is_trainings(tmp_path, tiny_folder):
    from model import load_processor
    from toy.world import write_world

    write_world(tmp_path, train=3, pairs=1)
    processor, settings = load_processor(tiny_folder), config.parse(["--preset", "toy"])
    clips = open_clips(settings)
    trains, rates = Reader(processor, settings, clips), Reader(processor, args_of("--preset", "toy"), clips)
    questions, _ = load_questions(tmp_path / "train.jsonl", tmp_path, check_files=False)
    with clips:
        for question in questions:
            prompt = rates.prompt(question, clips.submit(question).result())
            expected = trains.render(question, clips.view(question))
            assert prompt.text == expected.text and torch.equal(prompt.view.frames, expected.view.frames)
            assert "None of the above" in prompt.text
    short = Reader(processor, args_of("--preset", "toy", "--max-prompt-tokens", 50), clips)
    with pytest.raises(ClipError, match=r"its prompt has \d+ tokens, --max-prompt-tokens is 50"):
        short.prompt(questions[0], expected.view)


# -- over ranks --------------------------------------------------------------------------------------------------------


class ScriptedEngine:
    """Answers by the request's seed alone, as an engine whose arithmetic does not depend on the batch."""

    def generate(self, requests):
        results = []
        for request in requests:
            rng = random.Random(request.seed)
            texts = [f"\\boxed{{{rng.choice('AB')}}}" for _ in range(request.sampling.n)]
            results.append(Generated((1,), [rollout(text) for text in texts]))
        return results


class ScriptedReader(Reader):
    def prompt(self, question, view):
        if question.id == "q5":
            raise ClipError("damaged")
        return Prompt(question.problem, None)


def sample_on_this_rank(output: str, count: int) -> list[dict]:
    device = parallel.start()
    args = args_of("--model", "m", "--rows", __file__, "--output", output, "--chunk", 4)
    questions = [dataclasses.replace(QUESTION, id=f"q{i}", row=i) for i in range(20)]
    done = pass_rates.open_output(args, "m")
    left = [question for question in questions if question.id not in done][:count]
    with (
        mock.patch.object(pass_rates, "build_engine", lambda *_, **__: ScriptedEngine()),
        mock.patch.object(pass_rates, "load_processor", lambda _: None),
        mock.patch.object(pass_rates, "banned_ids", lambda _: ()),
        mock.patch.object(pass_rates, "Reader", ScriptedReader),
    ):
        pass_rates.sample(args, "m", left, device)
    torch.distributed.barrier()
    return pass_rates.merge(output, questions) if parallel.is_main() else []


@pytest.mark.slow
def test_rates_do_not_depend_on_ranks_nor_on_a_stop(tmp_path):
    (one,) = run_ranks(sample_on_this_rank, 1, str(tmp_path / "one.jsonl"), 20)
    two = run_ranks(sample_on_this_rank, 2, str(tmp_path / "two.jsonl"), 20)[0]
    run_ranks(sample_on_this_rank, 2, str(tmp_path / "stopped.jsonl"), 9)
    (resumed,) = run_ranks(sample_on_this_rank, 1, str(tmp_path / "stopped.jsonl"), 20)
    assert one == two == resumed and [row["id"] for row in one] == [f"q{i}" for i in range(20)]
    assert len({row["passes"] for row in one}) > 3
    assert [row["id"] for row in one if row["error"]] == ["q5"]


# -- as a user runs it -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_ranks_a_kill_a_resume_on_one_rank_and_the_filter(tmp_path):
    from toy.world import write_world

    write_world(tmp_path, train=24, pairs=1)
    rows = tmp_path / "train.jsonl"
    damaged = json.loads(rows.read_text().splitlines()[4])["path"]
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:200])
    shared = [
        "--preset",
        "toy",
        "--model",
        "toy/warm_start_checkpoint",
        "--rows",
        rows,
        "--dtype",
        "float32",
        "--engine",
        "hf",
    ]
    whole, stopped = tmp_path / "whole.jsonl", tmp_path / "stopped.jsonl"
    done = launch("-m", "eval.run", *shared, "--output", whole, ranks=1)
    rates = rows_of(whole)
    assert len(rates) == 24 and "24 rows, 0 done" in done.stdout
    assert [row["row"] for row in rates] == list(range(1, 25))
    assert [row["row"] for row in rates if row["error"]] == [5] and damaged in rates[4]["error"]
    asked = [row for row in rates if not row["error"]]
    assert all(row["rollouts"] == 8 and row["pass_rate"] == row["passes"] / 8 for row in asked)
    assert len({row["passes"] for row in asked}) > 2

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "eval.run"]
    command += [*map(str, shared), "--output", str(stopped), "--chunk", "2"]
    job = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"})
    part, end = Path(f"{stopped}.part-0000"), time.monotonic() + 300
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    for process in family(job.pid):
        os.kill(process, signal.SIGKILL)
    job.wait()
    assert part.exists() and not stopped.exists()
    with part.open("a") as file:
        file.write('{"id": "train/000')
    done = launch("-m", "eval.run", *shared, "--output", stopped, ranks=1)
    assert "24 rows, " in done.stdout and "24 rows, 0 done" not in done.stdout
    assert rows_of(stopped) == rates
    assert not list(tmp_path.glob("*.part-*"))

    kept = tmp_path / "kept.jsonl"
    assert row_filter.main(["--rows", str(rows), "--pass-rates", str(stopped), "--output", str(kept)]) == 0
    lines = rows.read_text().splitlines(keepends=True)
    keeps = [row["pass_rate"] is not None and 0 < row["pass_rate"] < 1 for row in rates]
    assert kept.read_text() == "".join(text for text, keep in zip(lines, keeps, strict=True) if keep)
    assert 0 < sum(keeps) < 24
    dropped = {row["row"]: row["reason"] for row in rows_of(f"{kept}.dropped.jsonl")}
    assert len(dropped) == 24 - sum(keeps) and dropped[5] == "could not be asked"


def family(leader: int) -> list[int]:
    """Ids of a process and of all that it started, itself or through others, it first."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found = [leader]
    for process in found:
        found += children.get(process, [])
    return found
