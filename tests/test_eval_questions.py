"""pytest tests/test_eval_questions.py -- a benchmark's questions through the router into Fig. 1, right."""

from __future__ import annotations

import pytest
from test_benchmarks import lines, mvbench, own, put, timeblind, videomme

import router
from data.dataset import load_questions
from eval import questions, report, score
from eval.benchmarks import load, read_answer

YES_NO = {"7": {"speed": [{"question": "Does he slow down?", "answer": "no"}]}}
CHOICE = {"7": {"speed": [{"question": "How fast?\nA. slowly\nB. fast", "answer": "B. fast"}]}}
TASKS = {
    "Moving Direction": [mvbench("left", question=f"Which way does car {i} move?", candidates=["left", "right"])
                         for i in range(3)],
    "Object Existence": [mvbench("a cat", question="What is on the sofa?")] * 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "file", "value"),
    [
        ("timeblind", "data.jsonl", lines(timeblind(2))),
        ("videomme", "videomme.jsonl", lines([videomme(0), videomme(1)])),
        ("dybench", "pairs.jsonl", lines([own("p", "a"), own("p", "b", "B")])),
        ("tempcompass_yes_no", "yes_no.json", YES_NO),
        ("tempcompass_multi_choice", "multi.json", CHOICE),
        ("mvbench", "action_sequence.json", [mvbench(start=1.5, end=3)]),
    ],
)
def test_the_router_reads_the_very_questions(tmp_path, name, file, value):
    put(tmp_path / "release" / file, value)
    given = ["--benchmark", name, "--questions", tmp_path / "release" / file, "--data-root", tmp_path / "release"]
    assert questions.main([*map(str, given), "--output", str(tmp_path / "rows.jsonl")]) == 0
    items, _ = load(name, tmp_path / "release" / file, tmp_path / "release")
    read, bad = load_questions(tmp_path / "rows.jsonl", tmp_path / "release", null_option="off", check_files=False)
    assert not bad and [question.id for question in read] == [item.id for item in items]
    for question, item in zip(read, items, strict=True):
        for field in ("problem", "options", "gold", "path", "start", "end", "data_source", "problem_type"):
            assert getattr(question, field) == getattr(item.question, field), field


def test_from_the_release_to_figure_1(tmp_path, capsys):
    root, rows, routed = tmp_path / "MVBench", tmp_path / "rows.jsonl", tmp_path / "routed.jsonl"
    file = put(root / "test.json", {"meta": TASKS, "root": dict.fromkeys(TASKS, "video/x")})
    given = ["--benchmark", "mvbench", "--questions", file, "--data-root", root, "--output", rows]
    assert questions.main(list(map(str, given))) == 0 and "5 questions" in capsys.readouterr().out
    assert router.main(["--rows", str(rows), "--output", str(routed), "--engine", "rules"]) == 0
    items, _ = load("mvbench", file)
    said = {item.id: "A" if item.id == "moving_direction/0" else "B" for item in items}
    answered = [
        score.answered("mvbench", item, said[item.id]) | {"problem": item.question.problem, "reply": said[item.id]}
        for item in items
    ]
    assert read_answer("mvbench", items[0], "A") == items[0].question.gold
    put(tmp_path / "run" / "mvbench" / "predictions.jsonl", lines(answered))
    flags = ["--output", tmp_path / "report", "--routed", f"mvbench={routed}", "--resamples", 100]
    assert report.main(list(map(str, [tmp_path / "run", *flags]))) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "object existence: 0 % dynamic of 2" in page and "moving direction: 100 % dynamic of 3" in page
    assert (tmp_path / "report" / "fig1_mvbench.png").stat().st_size > 5000


def test_mistakes_are_one_line(tmp_path, capsys):
    put(tmp_path / "action_count.json", [mvbench(), mvbench(answer="an owl")])
    given = ["--benchmark", "mvbench", "--data-root", tmp_path, "--output", tmp_path / "rows.jsonl", "--questions"]
    for file, says in (("action_count.json", "1 questions are unusable"), ("no.json", "no such file")):
        assert questions.main(list(map(str, [*given, tmp_path / file]))) == 2
        err = capsys.readouterr().err
        assert says in err and err.count("\n") == 1 and not (tmp_path / "rows.jsonl").exists()
