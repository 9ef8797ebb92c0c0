"""pytest tests/test_eval_score.py -- `python -m eval.score` and `python -m eval.interop` as a user starts them."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from conftest import ROOT
from test_benchmarks import lines, mvbench, own, put, timeblind, videomme

from eval import interop, score


@pytest.fixture
def run(tmp_path, capsys):
    """(benchmark, questions, predictions, flags) -> (exit code, {id: output row}, printed, error)."""

    def go(name, questions, predictions, *flags):
        file = tmp_path / ("action_count.json" if name == "mvbench" else "questions.jsonl")
        put(file, json.dumps(questions) if name == "mvbench" else lines(questions))
        put(tmp_path / "predictions.jsonl", predictions if isinstance(predictions, str) else lines(predictions))
        output = tmp_path / "out.jsonl"
        output.unlink(missing_ok=True)
        command = ["--benchmark", name, "--questions", str(file), "--predictions", str(tmp_path / "predictions.jsonl")]
        code = score.main([*command, "--output", str(output), *flags])
        text = output.read_text().splitlines() if output.exists() else []
        printed = capsys.readouterr()
        return code, {row["id"]: row for row in map(json.loads, text)}, printed.out, printed.err

    return go


def said(**predictions):
    return [{"id": name, "prediction": text} for name, text in predictions.items()]


def test_every_question_counts(run, tmp_path):
    questions = [videomme(i, answer="B") for i in range(4)]
    predictions = said(**{"000-1": "<think>A man</think> (B)", "001-1": "C", "002-1": "(A) or (B)"})
    code, rows, out, _ = run("videomme", questions, predictions, "--result", str(tmp_path / "result.json"))
    assert code == 0 and [row["correct"] for row in rows.values()] == [True, False, False, False]
    assert list(rows) == ["000-1", "001-1", "002-1", "003-1"]
    assert rows["003-1"] == {"id": "003-1", "correct": False, "answer": None, "gold": "B", "missing": True}
    assert "4 questions; wrong because missing: 1, because unreadable: 1" in out
    assert "note: 4 questions; the whole benchmark has 2700" in out
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["n"], result["missing"], result["unreadable"]) == (4, 1, 1)
    acc = result["metrics"]["acc"]
    assert (acc["value"], acc["n"], acc["chance"]) == (25.0, 4, 25.0) and acc["low"] <= 25 <= acc["high"]
    assert set(result["groups"]) == {"duration", "domain", "sub_category", "task_type"}


def test_an_empty_or_null_prediction_is_wrong_everywhere(run):
    cases = {
        "videomme": ([videomme(1)], "001-1"),
        "timeblind": (timeblind(1), "1"),
        "mvbench": ([mvbench()], "action_count/0"),
        "dybench": ([own("p", "a"), own("p", "b", "B")], "p/a"),
    }
    for name, (questions, first) in cases.items():
        for text in (None, "", "()", "Failed to obtain answer via API."):
            code, rows, _, _ = run(name, questions, said(**{first: text}))
            assert code == 0 and not any(row["correct"] for row in rows.values()), (name, text)
        code, rows, _, _ = run(name, questions, "")  # a file without a row: nobody answered
        assert code == 0 and len(rows) == len(questions) and not any(row["correct"] for row in rows.values())


def test_pairs_with_options_in_another_order(run):
    questions = [own("p", "a", "A"), own("p", "b", "A", options=["A. close", "B. open"])]
    code, rows, out, _ = run("dybench", questions, said(**{"p/a": "open", "p/b": "close"}))
    assert code == 0 and all(row["correct"] for row in rows.values()) and "pair_acc" in out
    assert "shortcut" not in out  # one letter, but two answers


def test_a_pair_with_one_side_is_a_wrong_pair(run, tmp_path):
    questions = [own("p", "a"), own("p", "b", "B"), own("q", "a")]
    predictions = said(**{"p/a": "A", "p/b": "B", "q/a": "A"})
    code, _, out, _ = run("dybench", questions, predictions, "--result", str(tmp_path / "r.json"))
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert code == 0 and (metrics["acc"]["value"], metrics["acc"]["n"], metrics["pair_acc"]["value"]) == (75.0, 4, 50.0)
    assert "1 incomplete pairs count as wrong: 'q'" in out


def test_pairs_that_a_reviewer_rejected_are_no_part_of_it(run):
    questions = [own("p", "a"), own("p", "b", "B"), own("q", "a", accepted=False), own("q", "b", "B", accepted=False)]
    code, rows, out, _ = run("dybench", questions, said(**{"p/a": "A", "p/b": "B"}))
    assert code == 0 and list(rows) == ["p/a", "p/b"] and "note: 1 pairs that a reviewer rejected are left out" in out
    code, _, _, error = run("dybench", questions[2:], [])
    assert code == 2 and "holds no question" in error


def test_timeblind(run, tmp_path):
    right = [
        {"id": i, "reply": text} for i, text in enumerate(["Yes.", "No", "no", "YES", "A", "(B)", "B.", "It falls"])
    ]
    code, rows, _, _ = run("timeblind", timeblind(2), right, "--result", str(tmp_path / "r.json"))
    assert code == 0 and all(row["correct"] for row in rows.values())  # ids as numbers, replies as eval.run writes them
    del right[5]
    run("timeblind", timeblind(2), right, "--result", str(tmp_path / "r.json"))
    metrics = json.loads((tmp_path / "r.json").read_text())["metrics"]
    assert [metrics[name]["value"] for name in ("acc", "i_acc", "q_acc", "v_acc")] == [50.0] * 4
    code, _, _, error = run("timeblind", timeblind(2), right, "--whole")
    assert code == 2 and "8 questions; the whole benchmark has 2400; leave --whole away" in error


def test_whole_is_a_matter_of_size_and_groups_not_of_remarks(run, monkeypatch):
    questions = timeblind(2)
    questions[0]["answer"] = {"Yes": "No", "No": "Yes"}.get(questions[0]["answer"], "B")
    monkeypatch.setitem(score.LAYOUTS, "timeblind", replace(score.LAYOUTS["timeblind"], size=8))
    code, rows, out, _ = run("timeblind", questions, [], "--whole")
    assert code == 0 and len(rows) == 8 and "note: 1 rows' `answer` differs from the official pattern" in out
    questions = [own("p", "a"), own("p", "b", "B"), own("q", "a"), own("r", "b")]
    monkeypatch.setitem(score.LAYOUTS, "dybench", replace(score.LAYOUTS["dybench"], size=4))
    code, rows, _, error = run("dybench", questions, [], "--whole")
    assert code == 2 and not rows and "2 units are not of 2 questions, the first: 'q'; leave --whole away" in error


@pytest.mark.parametrize(
    ("predictions", "says"),
    [
        (said(**{"001-1": "A"}) * 2, "2 id '001-1' has a prediction already, in row 1"),
        (said(**{"9": "A"}), "1 id '9' is none of the questions' ('001-1', ...)"),
        ([{"id": "001-1"}], "must have id and prediction; it has id"),
        ([{"prediction": "A"}], "must have id and prediction; it has prediction"),
        ([{"id": True, "prediction": "A"}], "must have id and prediction"),
        ([{"id": "001-1", "prediction": ["A"]}], "prediction must be the model's text or null, got list"),
        ("no json\n", "1 is not valid JSON; a row is"),
        ('{"id": "001-1", "prediction": "A"}\n{"id": "0', "2 is not valid JSON"),
        (["A"], "1 must be an object"),
    ],
)
def test_a_bad_predictions_file_is_one_line_and_no_output(predictions, says, run):
    code, rows, out, error = run("videomme", [videomme(1)], predictions)
    assert (code, rows, out) == (2, {}, "")
    assert error.startswith("error: ") and error.count("\n") == 1 and says in error


def test_bad_questions_may_not_drop_out(run):
    code, rows, _, error = run("videomme", [videomme(1), videomme(2, answer="Q")], said(**{"001-1": "C"}))
    assert code == 2 and not rows and "1 questions are unusable, and may not drop out of the score" in error
    code, _, _, error = run("videomme", [], [])
    assert code == 2 and "holds no question" in error and error.count("\n") == 1


def test_text_of_the_questions_does_not_steer_the_terminal(run):
    code, _, out, _ = run("videomme", [videomme(1, domain="\x1b[2J")], said(**{"001-1": "C"}))
    assert code == 0 and "\x1b" not in out


@pytest.mark.slow
def test_as_a_module(tmp_path):
    put(tmp_path / "q.jsonl", lines([videomme(1)]))
    put(tmp_path / "p.jsonl", lines(said(**{"001-1": "C"})))
    command = [sys.executable, "-m", "eval.score", "--benchmark", "videomme", "--questions", tmp_path / "q.jsonl"]
    command += ["--predictions", tmp_path / "p.jsonl", "--output", tmp_path / "o.jsonl"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "100.0" in done.stdout, done.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["correct"] is True
    done = subprocess.run([*command, "--benchmark", "mmlu"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr


# -- files of other toolkits -------------------------------------------------------------------------------------------


def check_mvbench(prediction, answer):
    """VLMEvalKit's rule (vlmeval/dataset/utils/mvbench.py, check_ans_with_model without a model), retold."""
    said, right = prediction.lower().split(" ")[0], answer.lower().split(" ")[0]
    return said.replace(".", "") in right or right in said


def convert(tmp_path, dataset, ending, *pairs):
    """Prediction file of (questions, predictions) pairs; its rows as text, read by another reader."""
    questions, predictions = [], []
    for i, (name, rows, replies) in enumerate(pairs):
        questions.append(str(put(tmp_path / f"{i}" / name, json.dumps(rows))))
        predictions.append(str(put(tmp_path / f"{i}.jsonl", lines(said(**replies)))))
    output = tmp_path / f"crpo_{dataset}{ending}"
    flags = ["--dataset", dataset, "--questions", *questions, "--predictions", *predictions, "--output", str(output)]
    assert interop.main(flags) == 0
    if ending == ".tsv":
        return list(csv.DictReader(output.open(newline=""), delimiter="\t"))
    if ending == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        head, *rows = openpyxl.load_workbook(output).active.iter_rows(values_only=True)
        return [dict(zip(head, row, strict=True)) for row in rows]
    return json.loads(output.read_text())


@pytest.mark.parametrize("ending", [".tsv", ".xlsx", ".json"])
def test_vlmevalkit_video_mme(ending, tmp_path):
    questions = [videomme(0, question='=SUM("a\tb")'), videomme(1), videomme(2)]
    replies = {"000-1": "<think>A man</think>\\boxed{C}", "001-1": "A or B"}
    rows = convert(tmp_path, "Video-MME", ending, ("q.json", questions, replies))
    assert list(rows[0]) == ["index", "video", "video_path", "duration", "domain", "candidates", "sub_category",
                             "task_type", "subtitle_path", "question", "answer", "prediction"]  # fmt: skip
    assert [row["prediction"] for row in rows] == ["C", "Z", "Z"] and [str(row["index"]) for row in rows] == list("012")
    assert rows[0]["question"] == '=SUM("a\tb")'
    assert eval(rows[0]["candidates"]) == questions[0]["options"]  # as the toolkit does


def test_vlmevalkit_mvbench_unread_answers_are_wrong_there(tmp_path):
    questions = [mvbench()] * 4
    replies = {"action_count/0": "The answer is B.", "action_count/1": "(", "action_count/2": "A"}
    rows = convert(tmp_path, "MVBench", ".json", ("action_count.json", questions, replies))
    assert [row["prediction"] for row in rows] == ["B", "Z", "A", "Z"]
    assert (rows[0]["task_type"], rows[0]["prefix"], rows[0]["answer"]) == (
        "Action Count", "video/perception/videos/", "a cat")  # fmt: skip
    verdicts = [check_mvbench(row["prediction"], "(B) a cat") for row in rows]
    assert verdicts == [True, False, False, False]
    assert check_mvbench("(", "(B) a cat") and check_mvbench("", "(B) a cat")  # what "Z" is for


def test_vlmevalkit_tempcompass(tmp_path):
    choice = {"7": {"action": [{"question": "What?\nA. run\nB. sit", "answer": "B. sit"}]}}
    matching = {"7": {"order": [{"question": "Which?\nOption 1: He runs.\nOption 2: He sits.",
                                 "answer": "Option 2: He sits."}]}}  # fmt: skip
    parts = [("multi-choice.json", choice, {"7/action/0": "(B)"}), ("m.json", matching, {"7/order/0": "He sits."})]
    rows = convert(tmp_path, "TempCompass_MCQ", ".tsv", *parts)
    assert [(row["index"], row["task_type"], row["prediction"]) for row in rows] == [
        ("0", "multi-choice", "B"), ("1", "caption_matching", "2")]  # fmt: skip
    assert rows[1]["question"] == "Which?" and eval(rows[1]["candidates"]) == [
        "Option 1: He runs.",
        "Option 2: He sits.",
    ]
    info = "Choose.\nInformation A: {'s': 'run'}\nInformation B: {'s': 'sit'}\nGenerated Caption:"
    caption = {"7": {"action": [{"question": info, "answer": "B. sit"}]}}
    yes_no = {"7": {"speed": [{"question": "Fast?", "answer": "yes"}] * 2}}
    parts += [("c.json", caption, {"7/action/0": "<think>so</think>A man sits."}),
              ("y.json", yes_no, {"7/speed/0": "Yes, he is.", "7/speed/1": "There is no man"})]  # fmt: skip
    rows = convert(tmp_path, "TempCompass", ".json", *parts)
    assert [(row["SUB_DATASET"], row["original_index"], row["prediction"]) for row in rows] == [
        ("TempCompass_MCQ", 0, "B"), ("TempCompass_MCQ", 1, "2"), ("TempCompass_Captioning", 0, "A man sits."),
        ("TempCompass_YorN", 0, "yes"), ("TempCompass_YorN", 1, "Z"),
    ]  # fmt: skip


def test_timeblinds_own_predictions_file(tmp_path):
    replies = {"0": "Yes.", "1": "no", "2": "Yes or no"}
    rows = convert(tmp_path, "TimeBlind", ".json", ("data.jsonl", timeblind(1), replies))
    assert [row["model_output"] for row in rows] == ["Yes", "No", "", ""]
    assert rows[1]["video_path"] == "videos/vid_00000_1.mp4" and rows[0]["question"].endswith(
        "Please output Yes or No."
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--dataset", "TempCompass_MCQ"], "give as many --questions and --predictions, in this order; got 1 and 1"),
        (["--dataset", "TimeBlind"], "give all rows of data.jsonl"),
        (["--output", "x.pkl"], "must end in .xlsx, .tsv or .json"),
    ],
)
def test_interop_says_what_is_wrong(flags, says, tmp_path, capsys):
    timeblind_rows = flags[-1] == "TimeBlind"
    questions = put(tmp_path / "q.jsonl", lines(timeblind(1)[:3] if timeblind_rows else [videomme(1)]))
    base = [
        "--dataset",
        "Video-MME",
        "--questions",
        str(questions),
        "--predictions",
        str(put(tmp_path / "p.jsonl", "")),
    ]
    assert interop.main([*base, "--output", str(tmp_path / "o.tsv"), *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_model_entry_for_vlmevalkit_is_greedy_on_32_frames(tmp_path):
    environment = {"PATH": os.environ["PATH"], "WORK": str(tmp_path), "CONFIG_ONLY": "1"}
    subprocess.run([ROOT / "scripts/vlmevalkit.sh", tmp_path], env=environment, check=True)
    entry = json.loads((tmp_path / f"{tmp_path.name}.json").read_text())
    (model,) = entry["model"].values()
    assert (model["class"], model["model_path"]) == ("Qwen3VLChat", os.path.realpath(tmp_path))
    assert (model["temperature"], model["presence_penalty"], model["post_process"]) == (0.0, 0.0, True)
    assert {data["nframe"] for data in entry["data"].values()} == {32}
    assert not any("fps" in data for data in entry["data"].values())  # the two exclude each other


def test_lmms_eval_gets_the_checkpoint(tmp_path):
    python = put(tmp_path / "python", '#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), "FRAMES": "16"}
    done = subprocess.run(
        [ROOT / "scripts/lmms_eval.sh", tmp_path, "--limit", "8"], env=environment, capture_output=True, text=True
    )
    flags = done.stdout.splitlines()
    assert f"pretrained={os.path.realpath(tmp_path)},max_num_frames=16" in flags and flags[-2:] == ["--limit", "8"]
    assert "temperature=0,do_sample=False" in flags


def test_scoring_with_vlmevalkit_refuses_earlier_scores(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("vlmevalkit_score", ROOT / "scripts/vlmevalkit_score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    file = put(tmp_path / "m_MVBench.xlsx", "")
    put(tmp_path / "m_MVBench_score.xlsx", "")
    assert module.main(["MVBench", str(file)]) == 2 and "remove its earlier scores" in capsys.readouterr().err
    assert module.main(["MVBench", str(tmp_path / "none.xlsx")]) == 2 and "no such file" in capsys.readouterr().err
    assert module.main([]) == 2 and "usage" in capsys.readouterr().err
