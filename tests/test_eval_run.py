"""pytest tests/test_eval_run.py -- benchmarks: asked, written, stopped, not to be asked; other engines."""

import base64
import contextlib
import dataclasses
import io
import itertools
import json
import os
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import launch
from distributed import run_ranks
from PIL import Image
from test_router import Endpoint as Server

import config
import parallel
from chat_client import ChatClient
from data import parts
from data.prompts import question_text
from data.video import ClipError, frame_indices
from episode import Prompt, Question, Rollout, View
from eval import answer, jobs, predictions
from eval.endpoint import Endpoint, content_parts
from eval.report_runs import read_runs
from eval.scoring import paired_report
from eval.settings import BenchmarkArgs, check_benchmarks
from eval.shown import SETTINGS, SHORTCUTS
from rollout import Generated, Request, Sampling, pictures_of
from transforms import COUNTERFACTUALS

SUBTASKS = ("moving_direction", "event_order", "static_colour")


def args_of(*flags):
    return config.parse([str(flag) for flag in flags], BenchmarkArgs)


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write_pairs(folder: Path, pairs: int = 5, **more) -> Path:
    """Text rows: asked without a clip, so that nothing has to be decoded."""
    rows = []
    for subtask, index, side in itertools.product(SUBTASKS, range(pairs), "ab"):
        options = ["A. left", "B. right"] if (index % 2 == 0) == (side == "a") else ["A. right", "B. left"]
        gold = "left" if side == "a" or subtask.startswith("static") else "right"
        rows.append({
            "problem_id": f"{subtask}/{index}/{side}", "pair_id": f"{subtask}/{index}", "side": side,
            "subtask": subtask, "problem": f"Which way, {subtask} {index}{side}?", "data_type": "text",
            "problem_type": "multiple choice", "options": options, "solution": gold, **more,
        })  # fmt: skip
    file = folder / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


class Scripted:
    """Says the same to the same words; `fails` of them have no reply. `stop_after` requests it breaks down."""

    def __init__(self, fails=(), stop_after=1 << 30):
        self.asked, self.fails, self.stop_after = [], set(fails), stop_after

    def generate(self, requests):
        if len(self.asked) + len(requests) > self.stop_after:
            raise RuntimeError("the machine is gone")
        self.asked += [request.prompt.text for request in requests]
        return [self._reply(request) for request in requests]

    def _reply(self, request):
        text = request.prompt.text
        if any(word in text for word in self.fails):
            return Generated((), [], "no reply")
        said = ("\\boxed{left}", "\\boxed{right}", "I think it is B", "\\boxed{left}")[sum(text.encode()) % 4]
        return Generated((), [Rollout((), torch.empty(0), said, "stop")])


@pytest.fixture
def one_rank(monkeypatch):
    monkeypatch.setattr(parts, "gather_objects", lambda value: [value])
    monkeypatch.setattr(predictions, "dist", SimpleNamespace(get_rank=lambda: 0, barrier=lambda: None))
    monkeypatch.setattr(predictions, "share", lambda tasks, tensor_parallel: tasks)


def run(args, engine) -> int:
    with mock.patch.object(predictions, "build", lambda *_: (engine, None)):
        return predictions.run(args, "m", jobs.prepare(args, "m"), torch.device("cpu"))


# -- a run folder ------------------------------------------------------------------------------------------------------


def test_a_run_folder(tmp_path, one_rank, capsys):
    rows, output, engine = write_pairs(tmp_path), tmp_path / "runs" / "mine", Scripted()
    assert run(args_of("--model", "m", "--pairs", rows, "--output", output, "--system-prompt", "paper"), engine) == 0
    settings = json.loads((output / "settings.json").read_text())
    assert (settings["label"], settings["data_root"]) == ("mine", str(tmp_path.resolve()))
    assert "<think>" in settings["system_prompt"] and settings["temperature"] == 0 and settings["frames"] == 32

    written = read(output / "pairs" / "predictions.jsonl")
    assert [row["id"] for row in written] == [row["problem_id"] for row in read(rows)]
    first = written[0]
    assert set(first) == {
        "id", "benchmark", "problem", "options", "gold", "path", "start", "end", "pair_id", "side", "subtask", "facts",
        "reply", "answer", "correct", "finish", "error", "frames",
    }  # fmt: skip
    assert (first["benchmark"], first["gold"], first["path"], first["frames"]) == ("pairs", "A", None, [])
    for row in written:  # training's verifier: no box is no answer, and wrong
        boxed = row["reply"].startswith("\\boxed")
        assert (row["answer"] is not None) == boxed
        assert row["correct"] == (boxed and row["reply"][7:-1] in row["options"]["AB".index(row["gold"])])
    assert 0 < sum(row["correct"] for row in written) < len(written)
    # As training asks: its words, without a null option.
    asked = read(rows)[0]
    question = Question("", 1, asked["problem"], "text", "multiple choice", tuple(asked["options"]), "A")
    assert engine.asked[0] == question_text(question) and "None of the above" not in engine.asked[0]

    result = json.loads((output / "pairs" / "result.json").read_text())
    expected = paired_report(written)
    metrics = {name: metric["value"] for name, metric in result["metrics"].items()}
    assert (metrics["acc"], metrics["pair_acc"]) == (expected["acc"], expected["pair_acc"])
    assert (metrics["static_acc"], metrics["static_pair_acc"]) == (
        expected["static"]["acc"], expected["static"]["pair_acc"],
    )  # fmt: skip
    assert (result["benchmark"], result["shown"], result["n"], result["unanswered"]) == ("pairs", "identity", 30, 0)
    assert result["settings"]["system_prompt"] == settings["system_prompt"]
    assert "pair_acc" in capsys.readouterr().out
    assert not list(output.rglob("*.part-*"))


def test_a_stopped_run_asks_for_the_rest_and_comes_to_the_same(tmp_path, one_rank):
    rows, whole, stopped = write_pairs(tmp_path), tmp_path / "whole", tmp_path / "stopped"
    flags = ["--model", "m", "--pairs", rows, "--shown", "identity", "text_only", "--chunk", 4]
    assert run(args_of(*flags, "--output", whole), Scripted()) == 0
    with pytest.raises(RuntimeError, match="gone"):
        run(args_of(*flags, "--output", stopped), Scripted(stop_after=13))
    part = stopped / "pairs" / "predictions.jsonl.part-0000"
    part.write_text(part.read_text() + '{"id": "moving_dir')  # torn by the kill
    engine = Scripted()
    assert run(args_of(*flags, "--output", stopped, "--chunk", 64), engine) == 0
    assert len(engine.asked) == 60 - 12
    for name in ("pairs", "pairs.text_only"):
        assert read(stopped / name / "predictions.jsonl") == read(whole / name / "predictions.jsonl")
        ours, theirs = (json.loads((run / name / "result.json").read_text()) for run in (stopped, whole))
        assert {**ours, "settings": 0} == {**theirs, "settings": 0}

    engine = Scripted()
    assert run(args_of(*flags, "--output", whole), engine) == 0 and not engine.asked
    assert run(args_of(*flags[:4], "--shown", "shuffled", "--output", whole), engine) == 0
    assert len(engine.asked) == 30  # a setting may be added; of what is there, nothing is asked again
    with pytest.raises(ValueError, match=r"settings.json holds other settings \(frames was 32, is 8\): give a new"):
        run(args_of(*flags, "--output", whole, "--frames", 8), engine)
    rows.write_text(rows.read_text().replace("event_order 3b?", "event_order 3b!"))
    with pytest.raises(ValueError, match=r"id 'event_order/3/b' is not the question .* give a new --output"):
        run(args_of(*flags, "--output", whole), engine)


def test_two_evaluations_may_not_write_one_folder(tmp_path, one_rank):
    args = args_of("--model", "m", "--pairs", write_pairs(tmp_path), "--output", tmp_path / "run")

    class Meanwhile(Scripted):
        def generate(self, requests):
            with pytest.raises(ValueError, match="run: another process writes its results there; wait for its end"):
                jobs.prepare(args, "m")
            return super().generate(requests)

    assert run(args, Meanwhile()) == 0
    assert run(args, Scripted()) == 0  # the hold went with the run


def test_answers_to_counterfactuals_are_compared_with_those_to_the_clips(tmp_path, one_rank, capsys):
    """The engine reads the first frame's left half: in the mirror other rows change their answer than in rewind."""
    rows, output = write_pairs(tmp_path, data_type="video", path="clip.mp4"), tmp_path / "run"
    flags = ["--model", "m", "--pairs", rows, "--output", output, "--frames", 4, "--engine", "vllm-generic"]
    flags += ["--shown", "horizontal_flip", "identity", "temporal_reverse"]

    class Looks:
        fails = ()

        def generate(self, requests):
            return [Generated((), [Rollout((), torch.empty(0), *self.read(r.prompt))], self.fault(r)) for r in requests]

        def fault(self, request):
            return "no reply" if any(word in request.prompt.text for word in self.fails) else ""

        def read(self, prompt):
            dark = prompt.view.frames[0, 0, 0, 0] < 10
            static = "static" in prompt.text
            return f"\\boxed{{{'left' if static or dark else 'right'}}}", "stop"

    view = clip_of(4)
    view.frames[..., 32:] += 100
    looks = Looks()
    looks.fails = ["static_colour 0b"]
    with mock.patch.object(predictions.Prompts, "_view", lambda *_: view):
        assert run(args_of(*flags), looks) == 1
        assert not list(output.glob("*/result.json"))
        assert run(args_of(*flags), Looks()) == 0
    for name in ("horizontal_flip", "temporal_reverse"):
        result = json.loads((output / f"pairs.{name}" / "result.json").read_text())
        metrics = {metric: (of["value"], of["n"]) for metric, of in result["metrics"].items()}
        assert metrics == {"agreement": (100.0, 10), "same_answer": (0.0, 20)} and result["shown"] == name
    written = read(output / "pairs.temporal_reverse" / "predictions.jsonl")
    assert {tuple(row["frames"]) for row in written} == {(3, 2, 1, 0)}
    with pytest.raises(ValueError, match="--shown temporal_reverse is compared with the clip as it is: name identity"):
        check_benchmarks(args_of(*flags[:-3], "temporal_reverse"), 1, 1)


def test_what_cannot_be_asked_is_listed_and_asked_again(tmp_path, one_rank, capsys):
    rows, output = write_pairs(tmp_path), tmp_path / "run"
    flags = ["--model", "m", "--pairs", rows, "--output", output]
    assert run(args_of(*flags), Scripted(fails=["event_order 2a", "static_colour 0b"])) == 1
    err = capsys.readouterr().err
    assert "not answered: pairs event_order/2/a: no reply" in err and "error: 2 questions were not answered" in err
    assert not (output / "pairs" / "result.json").exists()
    written = read(output / "pairs" / "predictions.jsonl")
    failed = {row["id"]: row for row in written if row["error"]}
    assert len(written) == 30 and set(failed) == {"event_order/2/a", "static_colour/0/b"}
    assert not any(row["correct"] or row["answer"] or row["reply"] for row in failed.values())

    engine = Scripted(fails=["event_order 2a"])
    assert run(args_of(*flags, "--accept-missing"), engine) == 0
    assert len(engine.asked) == 2
    result = json.loads((output / "pairs" / "result.json").read_text())
    assert (result["unanswered"], result["n"], result["settings"]["accept_missing"]) == (1, 30, True)
    assert "1 questions were not answered and count as wrong" in capsys.readouterr().err
    row = {row["id"]: row for row in read(output / "pairs" / "predictions.jsonl")}["event_order/2/a"]
    assert (row["correct"], row["error"]) == (False, "no reply")

    engine = Scripted()
    assert run(args_of(*flags), engine) == 0 and len(engine.asked) == 1
    assert json.loads((output / "pairs" / "result.json").read_text())["unanswered"] == 0


def test_the_releases_are_found_under_the_data_root(tmp_path, one_rank):
    rows = [
        {"index": i, "video_path": f"TimeBlind/videos/vid_0_{i % 2}.mp4", "question": "Is it?", "type": "yes_no"}
        for i in range(4)
    ]
    (tmp_path / "TimeBlind").mkdir()
    (tmp_path / "TimeBlind" / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = [{"video": "v.mp4", "question": "What?", "candidates": ["a cat", "a dog"], "answer": "a dog"}]
    (tmp_path / "state_change.json").write_text(json.dumps(task))
    flags = ["--model", "m", "--data-root", tmp_path, "--benchmarks", "timeblind", "mvbench"]
    with pytest.raises(ValueError, match="MVBench/json"):
        jobs.prepare(args_of(*flags, "--output", tmp_path / "run"), "m")
    flags += ["--files", f"mvbench={tmp_path / 'state_change.json'}", "--output", tmp_path / "run"]

    class Says:
        def generate(self, requests):
            texts = ["<think>A cat? no.</think>(B)" if "cat" in r.prompt.text else "Yes." for r in requests]
            return [Generated((), [Rollout((), torch.empty(0), text, "stop")]) for text in texts]

    with mock.patch.object(predictions.Prompts, "_view", lambda *_: clip_of(4)):
        assert run(args_of(*flags), Says()) == 0
    written = read(tmp_path / "run" / "timeblind" / "predictions.jsonl")
    assert [(row["answer"], row["correct"]) for row in written] == list(zip(["yes"] * 4, [1, 0, 0, 1], strict=True))
    assert written[0]["path"] == "TimeBlind/videos/vid_0_0.mp4" and written[0]["frames"] == [0, 1, 2, 3]
    (row,) = read(tmp_path / "run" / "mvbench" / "predictions.jsonl")
    assert (row["id"], row["answer"], row["correct"]) == ("state_change/0", "B", True)
    result = json.loads((tmp_path / "run" / "timeblind" / "result.json").read_text())
    assert result["metrics"]["i_acc"]["value"] == 0 and result["metrics"]["acc"]["value"] == 50
    assert any("4 questions" in remark for remark in result["remarks"])


def test_tempcompass_is_its_three_parts_and_all_of_them_together(tmp_path, one_rank, capsys):
    trees = {
        "multi-choice": {"question": "What?\nA. run\nB. sit", "answer": "B. sit"},
        "yes_no": {"question": "Does he run?", "answer": "no"},
        "caption_matching": {"question": "Which?\nCaption A: runs\nCaption B: sits", "answer": "Caption B: sits"},
    }
    for name, row in trees.items():
        (tmp_path / "TempCompass" / name).mkdir(parents=True)
        tree = {"7": {"action": [row] * (2 if name == "yes_no" else 1)}}
        (tmp_path / "TempCompass" / name / "all.json").write_text(json.dumps(tree))
    flags = ["--model", "m", "--data-root", tmp_path, "--output", tmp_path / "run", "--benchmarks", "tempcompass"]

    class Says:
        def generate(self, requests):
            return [Generated((), [Rollout((), torch.empty(0), "B", "stop")], self.fault(r)) for r in requests]

        def fault(self, request):
            return ""

    class Fails(Says):
        def fault(self, request):
            return "no reply" if "Which?" in request.prompt.text else ""

    with mock.patch.object(predictions.Prompts, "_view", lambda *_: clip_of(4)):
        assert run(args_of(*flags), Fails()) == 1
        assert not (tmp_path / "run/tempcompass/result.json").exists()
        assert run(args_of(*flags), Says()) == 0
    result = json.loads((tmp_path / "run/tempcompass/result.json").read_text())
    assert (result["n"], result["metrics"]["acc"]["value"]) == (4, 50)  # "B" is no answer to yes or no
    assert set(result["groups"]["task"]) == {"multi_choice", "yes_no", "caption_matching"}
    assert any(remark.startswith("tempcompass_yes_no: 2 questions") for remark in result["remarks"])
    assert "tempcompass " in capsys.readouterr().out
    (mine,) = read_runs([str(tmp_path / "run")])
    assert len(mine.answers["tempcompass", "identity"]) == 4


def test_mvbench_is_asked_by_its_cut_clips_where_they_are(tmp_path):
    row = {"video": "v", "question": "What?", "candidates": ["a cat", "a dog"], "answer": "a dog"}
    root = tmp_path / "MVBench"
    (root / "json").mkdir(parents=True)
    (root / "video/tvqa/frames_fps3_hq/v").mkdir(parents=True)
    (root / "json/episodic_reasoning.json").write_text(json.dumps([row]))
    flags = ["--model", "m", "--data-root", tmp_path, "--output", tmp_path / "run", "--benchmarks", "mvbench"]
    with mock.patch.object(parts, "gather_objects", lambda value: [value]):
        with pytest.raises(ValueError, match=r"1 clips must be files, .*frames_fps3_hq/v; get .* `video` .*test.json"):
            jobs.prepare(args_of(*flags), "m")
        assert jobs.prepare(args_of(*flags, "--accept-missing"), "m").benchmarks[0].file == root / "json"
        tree = {"meta": {"Episodic Reasoning": [row | {"video": "v.mp4"}]}, "root": {"Episodic Reasoning": "video/tv"}}
        (root / "test.json").write_text(json.dumps(tree))
        (mvbench,) = jobs.prepare(args_of(*flags, "--output", tmp_path / "other"), "m").benchmarks
    assert mvbench.file == root / "test.json" and mvbench.items[0].question.path == str(root / "video/tv/v.mp4")


def test_vlmevalkit_calls_an_exported_checkpoint_by_its_run(tmp_path):
    (tmp_path / "crpo/export").mkdir(parents=True)
    environment = {"PATH": os.environ["PATH"], "WORK": str(tmp_path), "CONFIG_ONLY": "1"}
    script = Path(__file__).parent.parent / "scripts/vlmevalkit.sh"
    for more, name in (({}, "crpo"), ({"NAME": "mine"}, "mine")):
        subprocess.run([script, tmp_path / "crpo/export"], env=environment | more, check=True)
        entry = json.loads((tmp_path / f"{name}.json").read_text())["model"]
        assert entry[name]["model_path"] == str((tmp_path / "crpo/export").resolve())


def test_a_benchmark_with_holes_is_refused_or_says_so(tmp_path, one_rank):
    rows, output = write_pairs(tmp_path), tmp_path / "run"
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines, lines[0].replace('"left"', '"up"')]))
    flags = ["--model", "m", "--pairs", rows, "--output", output]
    for more in ((), ("--accept-missing",)):  # what is no question cannot count as wrong, and may not drop out
        with pytest.raises(ValueError, match=r"pairs: 1 rows are no questions, .*; the first: .*pairs.jsonl:31 solut"):
            run(args_of(*flags, *more), Scripted())
    assert not output.exists()


@pytest.mark.parametrize("name", ["pairs", "dybench"])
def test_pairs_that_a_reviewer_rejected_are_left_out_and_said(tmp_path, one_rank, capsys, name):
    file, output = write_pairs(tmp_path), tmp_path / "run"
    rows = [row | {"accepted": row["pair_id"] != "event_order/1"} for row in read(file)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["--pairs", file] if name == "pairs" else ["--benchmarks", name, "--files", f"{name}={file}"]
    assert run(args_of("--model", "m", "--data-root", tmp_path, "--output", output, *asked), Scripted()) == 0
    said = "1 pairs that a reviewer rejected are left out"
    assert f"{name}: {said}" in capsys.readouterr().out
    result = json.loads((output / name / "result.json").read_text())
    assert result["n"] == 28 and said in result["remarks"]
    if name == "pairs":
        file.write_text("".join(json.dumps(row | {"accepted": False}) + "\n" for row in rows))
        with pytest.raises(ValueError, match="holds no pair that no reviewer rejected"):
            jobs.load_pairs(args_of("--pairs", file))


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--model", "m"], "--benchmarks is missing"),
        (["--pairs", "p"], "--model is missing"),
        (["--pairs", "p", "--model", "m"], "--output is missing"),
        (["--benchmarks", "mvbench", "--model", "m", "--output", "o"], "--data-root is missing"),
        (["--shown"], "--shown must name each setting once"),
        (["--shown", "shuffled", "shuffled"], "--shown must name each setting once"),
        (["--files", "videomme=x"], "--files videomme=x must be NAME=FILE, NAME one of dybench"),
        (["--files", "dybench"], "must be NAME=FILE"),
        (["--engine", "openai"], "needs --base-url"),
        (["--engine", "openai", "--base-url", "http://h/v1"], "this is one of 2: start it without torchrun"),
        (["--frames", "7"], "--frames must be even"),
        (["--tensor-parallel", "3"], "must divide a node's 2 ranks"),
        (["--model", "toy"], "the toy's is toy/warm_start_checkpoint"),
    ],
)
def test_mistakes_are_one_line(flags, says):
    whole = ["--model", "m", "--output", "o", "--data-root", "d", "--benchmarks", "dybench"]
    given = flags if flags[0] in ("--benchmarks", "--pairs") or flags == ["--model", "m"] else [*whole, *flags]
    with pytest.raises(ValueError, match=says) as caught:
        check_benchmarks(args_of(*given), 2, 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--body", "{"], "--body must be a JSON object"),
        (["--body", "[1]"], "--body must be a JSON object"),
        (["--deadline", "nan"], "--deadline and --requests-per-minute must be above 0"),
        (["--tries", "0"], "--tries 0 must be at least 1"),
    ],
)
def test_mistakes_about_the_endpoint(flags, says):
    whole = ["--model", "m", "--output", "o", "--pairs", "p", "--engine", "openai", "--base-url", "http://h/v1"]
    with pytest.raises(ValueError, match=says):
        check_benchmarks(args_of(*whole, *flags), 1, 1)


def test_the_toy_is_asked_with_trainings_settings():
    training, asked = config.parse(["--preset", "toy"]), args_of("--preset", "toy")
    shared = {field.name for field in dataclasses.fields(BenchmarkArgs)} & set(vars(training)) - {"engine_memory"}
    assert {name: getattr(asked, name) for name in shared} == {name: getattr(training, name) for name in shared}


# -- asking ------------------------------------------------------------------------------------------------------------


def request(_, prompt):
    return Request(prompt, Sampling(1, 0.0, 8), 0)


def test_clips_are_read_behind_generation():
    """The next chunk's are asked for before the engine is, and within a chunk the window moves on."""
    events = []

    class Engine:
        def generate(self, requests):
            events.append(("generate", len(requests)))
            return [Generated((), [Rollout((), torch.empty(0), "", "stop")]) for _ in requests]

    def build(i):
        events.append(("build", i))
        if i == 1:
            raise ClipError("damaged")
        return Prompt(str(i), None)

    def ahead(some):
        events.append(("ahead", list(some)))

    chunks = list(answer.in_chunks(Engine(), range(5), build, request, title="", chunk=3, ahead=ahead))
    assert [[done.question for done in chunk] for chunk in chunks] == [[0, 1, 2], [3, 4]]
    assert [done.error for chunk in chunks for done in chunk] == ["", "damaged", "", "", ""]
    assert events == [
        ("ahead", [0, 1, 2]), ("build", 0), ("ahead", [1, 2, 3]), ("build", 1), ("ahead", [2, 3, 4]), ("build", 2),
        ("ahead", [3, 4]), ("generate", 2),
        ("ahead", [3, 4]), ("build", 3), ("ahead", [4]), ("build", 4), ("ahead", []), ("generate", 2),
    ]  # fmt: skip


def test_an_endpoint_is_asked_in_parallel_and_answers_come_at_once():
    busy, most, gate, lock = 0, 0, threading.Event(), threading.Lock()

    class Slow:
        def generate(self, requests):
            nonlocal busy, most
            with lock:
                busy, most = busy + 1, max(most, busy + 1)
            if requests[0].prompt.text == "0":
                assert gate.wait(10)
            else:
                time.sleep(0.01)
            with lock:
                busy -= 1
            return [Generated((), [Rollout((), torch.empty(0), requests[0].prompt.text, "stop")])]

    def build(i):
        if i == 9:
            raise ClipError("damaged")
        return Prompt(str(i), None)

    seen = []
    for chunk in answer.as_they_come(Slow(), range(10), build, request, title="", at_once=3):
        seen += chunk
        if len(seen) == 8:
            gate.set()  # the first is slow, all others were not kept waiting for it
    assert [done.question for done in seen][-1] == 0 or seen[-2].question == 0
    assert sorted(done.question for done in seen) == list(range(10)) and most == 3
    assert {done.question: done.error for done in seen if done.error} == {9: "damaged"}
    assert all(done.rollouts[0].text == str(done.question) for done in seen if not done.error)


def test_one_decoding_serves_all_settings_of_a_question(tmp_path, one_rank):
    rows, reads = write_pairs(tmp_path, 1, data_type="video", path="clip.mp4"), []

    class Clips:
        def submit(self, question):
            reads.append(question.id)
            return SimpleNamespace(result=lambda: clip_of(4))

        def prefetch(self, questions):
            reads.append(len(questions))

    args = args_of("--model", "m", "--pairs", rows, "--output", tmp_path / "run", "--frames", 4)
    prompts = predictions.Prompts(args, None)
    prompts.clips.close()
    prompts.clips = Clips()
    items = jobs.load_pairs(args).items
    tasks = [jobs.Task("pairs", shortcut, items[0]) for shortcut in SHORTCUTS]
    seen = [prompts.prompt(task).view for task in tasks]
    assert reads == [items[0].id] and [view and len(view.frames) for view in seen] == [4, 2, 4, None]
    prompts.ahead(tasks)
    assert reads[-1] == 0  # not read once more for the settings that are left
    assert set(prompts.frames) == {(task.place, task.item.id) for task in tasks}


# -- other engines -----------------------------------------------------------------------------------------------------


def clip_of(frames: int) -> View:
    """Frame i is grey 20 i: JPEG keeps that."""
    pixels = torch.full((frames, 3, 32, 64), 0, dtype=torch.uint8)
    for i in range(frames):
        pixels[i] = 20 * i
    return View(pixels, "identity", 8.0, frames, frame_indices(frames, frames))


def test_pictures_of_a_view():
    view = clip_of(4)
    assert [frame[0, 0, 0] for frame in pictures_of(view)] == [0, 20, 40, 60] and pictures_of(None) == []
    alone = dataclasses.replace(view, frames=view.frames[[2, 2]], frame_indices=(0, 0), source_frames=1)
    (frame,) = pictures_of(alone)
    assert frame.shape == (32, 64, 3) and frame[0, 0, 0] == 40


def greys(content) -> list[int]:
    """What the endpoint sees: the grey of each image, to the nearest step."""
    found = []
    for part in content[:-1]:
        header, _, data = part["image_url"]["url"].partition(",")
        assert header == "data:image/jpeg;base64" and part["type"] == "image_url"
        frame = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert frame.shape == (32, 64, 3) and frame.std() < 2
        found.append(round(frame.mean() / 20))
    return found


@pytest.fixture
def serve(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with contextlib.ExitStack() as stack:

        def start(script) -> Server:
            server = Server(script)
            stack.callback(server.close)
            return server

        yield start


def ask_server(server, rows, output, *more) -> int:
    flags = ["--model", "m", "--pairs", rows, "--output", output, "--engine", "openai", "--base-url", server.url]
    args = args_of(*flags, "--frames", 4, "--backoff", 0.01, "--deadline", 2, "--tries", 2, *more)
    check_benchmarks(args, 1, 1)
    with mock.patch.object(predictions.Prompts, "_view", lambda *_: clip_of(4)):
        return predictions.run(args, "m", jobs.prepare(args, "m"), torch.device("cpu"))


def test_an_endpoint_gets_the_frames_as_images_under_every_setting(serve, tmp_path, one_rank):
    server = serve(lambda prompt, count: 500 if count == 1 and "event_order 1a" in prompt[-1]["text"] else "\\boxed{A}")
    rows, output = write_pairs(tmp_path, 2, data_type="video", path="clip.mp4"), tmp_path / "run"
    assert ask_server(server, rows, output, "--shown", *SHORTCUTS) == 0
    asked = {}
    for body in server.requests:
        (turn,) = body["messages"]
        assert turn["role"] == "user" and (body["temperature"], body["max_tokens"], body["model"]) == (0.0, 2048, "m")
        asked.setdefault(turn["content"][-1]["text"], []).append(greys(turn["content"]))
    assert len(server.requests) == 4 * 12 + 4 and len(asked) == 12
    for shortcut in SHORTCUTS:
        written = read(output / jobs.place("pairs", shortcut) / "predictions.jsonl")
        for row in written:
            words = "\n".join([row["problem"], "Options:", *row["options"], "Put your final answer in \\boxed{}."])
            assert row["frames"] in asked[words]  # frame i of the clip is grey i
            assert (row["answer"], row["correct"]) == ("A", row["gold"] == "A")
        sizes = {"identity": 4, "single_frame": 1, "shuffled": 4, "text_only": 0}
        assert {len(row["frames"]) for row in written} == {sizes[shortcut]}
        assert len({tuple(row["frames"]) for row in written}) > 2 or shortcut in ("identity", "text_only")


def test_an_endpoint_that_does_not_answer_is_no_wrong_answer(serve, tmp_path, one_rank, capsys):
    broken = threading.Event()

    def script(prompt, count):
        if "event_order 0a" in prompt[-1]["text"] and not broken.is_set():
            return 503
        if "event_order 1b" in prompt[-1]["text"] and not broken.is_set():
            time.sleep(0.1)  # others have passed by then: what is refused is this prompt
            return 400
        return "I would rather not say."

    server, rows, output = serve(script), write_pairs(tmp_path, 2), tmp_path / "run"
    assert ask_server(server, rows, output, "--concurrency", 2) == 1
    err = capsys.readouterr().err
    assert "event_order/0/a" in err and "no reply in 2 tries; the last: HTTP 503" in err and "HTTP 400" in err
    assert not (output / "pairs" / "result.json").exists()
    before = len(server.requests)
    broken.set()
    assert ask_server(server, rows, output) == 0 and len(server.requests) == before + 2
    result = json.loads((output / "pairs" / "result.json").read_text())
    assert result["n"] == 12 and result["metrics"]["acc"]["value"] == 0  # unreadable, and that is wrong
    assert result["settings"]["base_url"] == server.url


@pytest.mark.parametrize("status", [401, 404, 400])
def test_a_refused_key_or_model_ends_the_run_in_one_line(serve, tmp_path, one_rank, capsys, status):
    server = serve(lambda prompt, count: status)
    assert ask_server(server, write_pairs(tmp_path), tmp_path / "run", "--concurrency", 2) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith("error: 127.0.0.1") and f"HTTP {status}" in line
    assert len(server.requests) <= 4


def test_many_failures_in_a_row_end_the_run_and_keep_what_was_answered(serve, tmp_path, one_rank, capsys):
    server = serve(lambda prompt, count: "\\boxed{A}" if "moving" in prompt[-1]["text"] else 500)
    rows, output = write_pairs(tmp_path, 8), tmp_path / "run"
    assert ask_server(server, rows, output, "--concurrency", 1, "--tries", 1) == 2
    assert "20 requests in a row without a reply; start again to go on" in capsys.readouterr().err
    kept = parts.merge(output / "pairs" / "predictions.jsonl")
    assert sum(not row["error"] for row in kept) == 16


def test_a_missing_key_and_a_bad_url_are_told_before_anything_is_decoded(serve, tmp_path, one_rank):
    server, rows = serve(lambda prompt, count: "\\boxed{A}"), write_pairs(tmp_path)
    with pytest.raises(ValueError, match="--api-key-env: the environment has no NO_SUCH_KEY"):
        ask_server(server, rows, tmp_path / "run", "--api-key-env", "NO_SUCH_KEY")
    server.url = "ftp://host"
    with pytest.raises(ValueError, match="--base-url must look like"):
        ask_server(server, rows, tmp_path / "run")
    assert not server.requests


def test_system_turn_and_further_fields_of_a_request(serve):
    server = serve(lambda prompt, count: "fine")
    fields = {"temperature": None, "max_tokens": None, "max_completion_tokens": 5, "reasoning_effort": "none"}
    endpoint = Endpoint(ChatClient(server.url, "m", fields=fields), system_prompt="Be brief.")
    (out,) = endpoint.generate([Request(Prompt("Which?", None), Sampling(1, 0.0, 9), 3)])
    assert out.rollouts[0].text == "fine" and not out.error
    (body,) = server.requests
    assert {name: body[name] for name in body if name not in ("target", "key")} == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": content_parts(Prompt("Which?", None))},
        ],
        "seed": 3,
        "max_completion_tokens": 5,
        "reasoning_effort": "none",
    }


# -- over ranks, and with the real engine ------------------------------------------------------------------------------


def answer_on_this_rank(rows: str, output: str, stop_after: int) -> list[dict]:
    device = parallel.start()
    args = args_of("--model", "m", "--pairs", rows, "--output", output, "--chunk", 2)
    with mock.patch.object(predictions, "build", lambda *_: (Scripted(stop_after=stop_after), None)):
        job = jobs.prepare(args, "m")
        with contextlib.suppress(RuntimeError):
            predictions.run(args, "m", job, device)
    file = Path(output, "pairs", "predictions.jsonl")
    return read(file) if file.exists() else []


@pytest.mark.slow
def test_answers_do_not_depend_on_ranks_nor_on_a_stop(tmp_path):
    rows = str(write_pairs(tmp_path))
    (one,) = run_ranks(answer_on_this_rank, 1, rows, str(tmp_path / "one"), 100)
    two = run_ranks(answer_on_this_rank, 2, rows, str(tmp_path / "two"), 100)[0]
    run_ranks(answer_on_this_rank, 1, rows, str(tmp_path / "stopped"), 7)
    resumed = run_ranks(answer_on_this_rank, 2, rows, str(tmp_path / "stopped"), 100)[0]
    assert one == two == resumed and len(one) == 30


@pytest.mark.slow
def test_the_numbers_are_trainings_own_and_any_engine_answers(tmp_path):
    """eval.run against train.py's evaluation of the same checkpoint and pairs; and vLLM's generic path with images."""
    from toy.world import write_world

    write_world(tmp_path, train=8, pairs=4)
    toy = ["--preset", "toy", "--model", "toy/warm_start_checkpoint", "--dtype", "float32", "--data-root", tmp_path]
    pairs, run_dir, output = tmp_path / "eval.jsonl", tmp_path / "train", tmp_path / "run"
    small = ["--questions", 2, "--rollouts", 2, "--max-steps", 1, "--eval-every", 0, "--no-export"]
    small += ["--train-file", tmp_path / "train.jsonl", "--eval-file", pairs, "--run-dir", run_dir]
    launch("train.py", *toy, *small, ranks=1)
    before = json.loads((run_dir / "summary.json").read_text())["before"]
    launch("-m", "eval.run", *toy, "--pairs", pairs, "--output", output, "--shown", *SETTINGS, ranks=1)
    results = {s: json.loads((output / jobs.place("pairs", s) / "result.json").read_text()) for s in SETTINGS}
    found = {name: metric["value"] for name, metric in results["identity"]["metrics"].items()}
    assert (found["acc"], found["pair_acc"]) == (before["acc"], before["pair_acc"])
    assert (found["static_acc"], found["static_pair_acc"]) == (before["static"]["acc"], before["static"]["pair_acc"])
    for name, part in results["identity"]["groups"]["subtask"].items():
        assert part["pair_acc"]["value"] == before["subtasks"][name]["pair_acc"]
    assert {name: result["n"] for name, result in results.items()} == dict.fromkeys(SETTINGS, 32)
    for shortcut in SHORTCUTS.keys() - {"identity"}:  # a guess of so few pairs: three standard errors
        pair_acc = results[shortcut]["metrics"]["pair_acc"]
        by_chance = pair_acc["chance"] / 100
        margin = 300 * (by_chance * (1 - by_chance) / pair_acc["n"]) ** 0.5
        assert pair_acc["value"] <= pair_acc["chance"] + margin, shortcut
    for transform in COUNTERFACTUALS:
        before, after = (read(output / jobs.place("pairs", s) / "predictions.jsonl") for s in ("identity", transform))
        same = [one["answer"] and one["answer"] == two["answer"] for one, two in zip(before, after, strict=True)]
        static = [row["subtask"].startswith("static") for row in before]
        for metric, wanted in (("agreement", True), ("same_answer", False)):
            of = [bool(stays) for stays, is_static in zip(same, static, strict=True) if is_static == wanted]
            assert results[transform]["metrics"][metric]["value"] == pytest.approx(100 * np.mean(of))

    generic = ["--engine", "vllm-generic", "--pairs", pairs, "--output", tmp_path / "generic"]
    generic += ["--shown", "identity", "single_frame", "--max-prompt-tokens", 1024]
    launch("-m", "eval.run", *toy, *generic, ranks=1)
    for name in ("pairs", "pairs.single_frame"):
        written = read(tmp_path / "generic" / name / "predictions.jsonl")
        assert len(written) == 32 and all(row["reply"] and not row["error"] for row in written)
