"""pytest tests/test_neighbours.py -- VideoChat-R1: its files as rows and benchmarks, its inference, the toy tasks."""

import json
import random
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from test_eval_run import args_of, read, run
from test_eval_run import one_rank as alone  # noqa: F401 -- a fixture
from test_sources import run as convert

from data import frames, sources
from data.dataset import load_questions
from data.neighbours import NEIGHBOURS
from data.video import ClipError, sample_clip
from episode import Question, Rollout, View
from eval import clues, predictions, score
from eval.benchmarks import load, read_answer
from eval.layouts import Item
from eval.report_runs import read_runs
from eval.report_tables import Bootstrap, all_tables, metrics_of
from eval.scoring import report
from eval.settings import check_benchmarks
from rollout import Generated
from tasks import TASKS
from toy import neighbours, world
from transforms import TEMPORAL_REVERSE, mapped_gold
from verifiers import verify

ANNOTATIONS = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "annotations"
real_rows = pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="the real rows lie beside the repository")
VIDEOS = {
    "AAA": {"duration": 10.0, "timestamps": [[1, 4], [2.5, 9]], "sentences": ["Person sits down.", "He turns left."]},
    "BBB": {"duration": 8.0, "timestamps": [[0, 8.5]], "sentences": ["the dog barks"]},
    "CCC": {"duration": 8.0, "timestamps": [[0, 8]], "sentences": []},
    "DDD": 3,
    "EEE": {"duration": 8.0, "timestamps": [[5, 2], [1, 2]], "sentences": ["a cat naps", ""]},
}
QA = {
    "id": "7_1", "video": "1/7.mp4", "question": "why did he jump", "options": ["(A) fun", "(B) fear"], "duration": 20,
    "glue": [[2, 4.0], [6, 10]], "type": "CW", "answer": "(B)",
}  # fmt: skip
VIEW = View(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "identity", 2.0, 40, (0, 39))
TRACK = {"path": "GOT-10k/val/one", "object": "kite", "gt": [[0.1, 0.1, 0.2 + i / 20, 0.4] for i in range(8)]}


# -- training rows ----------------------------------------------------------------------------------------------------


def test_sentences_become_rows_and_bad_ones_are_refused_by_row(tmp_path):
    code, rows, refused = convert(tmp_path, "charades_sta", VIDEOS, file="train.json")
    assert code == 0 and [row["problem_id"] for row in rows] == ["charades_sta/AAA/0", "charades_sta/AAA/1"]
    assert [row["problem"] for row in rows] == ["person sits down", "he turns left"]
    assert [row.get("task_type") for row in rows] == [None, "Temporal"]  # mirrored, nobody turns left
    sided = NEIGHBOURS["got10k"].convert(TRACK | {"object": "left glove"}, "")
    assert sided["task_type"] == "Temporal" and "task_type" not in NEIGHBOURS["got10k"].convert(TRACK, "")
    assert rows[1]["solution"] == {"intervals": [[2.5, 9]], "duration": 10.0} and rows[1]["path"] == "AAA.mp4"
    for line, (number, reason) in zip(
        refused,
        [(3, "end <= duration (0, 8.5; 8.0)"), (4, "as many timestamps"), (5, "must be an object"), (6, "start < end"),
         (7, "sentence: missing")],
        strict=True,
    ):  # fmt: skip
        assert f"train.json:{number} " in line and reason in line
    questions, bad = load_questions(tmp_path / "out.jsonl", tmp_path, check_files=False)
    assert len(questions) == 2 and not bad and {q.problem_type for q in questions} == {"temporal grounding"}


@pytest.mark.parametrize(
    ("name", "rows", "kept", "reasons"),
    [
        ("activitynet", VIDEOS, 2, ["end <= duration", "as many", "object", "start < end", "missing"]),
        ("activitynet_captions", VIDEOS, 2, ["events must be a list", "object", "events must be"]),
        ("nextgqa", [QA, QA | {"id": "x", "answer": "(C)"}, QA | {"id": "y", "glue": [[6, 30]]}], 1,
         ["letter must be one of the options", "end <= duration"]),
        ("got10k", [TRACK, TRACK | {"path": "b", "gt": TRACK["gt"][:7]}, TRACK | {"path": "c", "gt": [[0, 0, 2, 1]] * 8}
         ], 1, ["must be 8 boxes", "a box must hold"]),
        ("videoeval_quality", [{"video": "a.mp4", "instruction": "Good or bad?", "answer": "Good"}, {"video": "a.mp4"}],
         1, ["missing"]),
    ],
)  # fmt: skip
def test_rows_of_each_release(tmp_path, name, rows, kept, reasons):
    code, out, refused = convert(tmp_path, name, rows, file="rows.json")
    assert code == 0 and len(out) == kept and len(refused) == len(reasons)
    assert all(reason in line for reason, line in zip(reasons, refused, strict=True))
    (question, *_), bad = load_questions(tmp_path / "out.jsonl", tmp_path, check_files=False)
    assert not bad and question.problem_type in TASKS and question.data_source == NEIGHBOURS[name].title


def test_flags_and_files_that_are_none(tmp_path, capsys):
    code, rows, _ = convert(tmp_path, "got10k", [TRACK], "--no-score-first-box", file="rows.json")
    assert code == 0 and rows[0]["solution"]["given"] == 1 and rows[0]["path"] == "GOT-10k/val/one.mp4"
    code, _, refused = convert(tmp_path, "got10k", [TRACK], "--media-root", tmp_path, file="rows.json")
    assert code == 2 and "path: no such file" in refused[0]
    for rows, words in ((b"[]", "must map videos"), (b"{", "is not valid JSON")):
        assert convert(tmp_path, "charades_sta", rows, file="rows.json")[0] == 2 and words in capsys.readouterr().err
    assert sources.main(["nextgqa", "--input", str(tmp_path), "--output", str(tmp_path / "o"), "--download"]) == 2
    assert "get its annotation files from" in capsys.readouterr().err


@real_rows
@pytest.mark.parametrize(("name", "rows", "kept"), [("charades_sta", 105, 90), ("nextgqa", 60, 60), ("got10k", 30, 30)])
def test_real_rows_load(tmp_path, name, rows, kept):
    args = sources.Args(name, (ANNOTATIONS / f"{name}.json",), tmp_path / "out.jsonl")
    written, bad, _ = sources.convert(args)
    assert (written, len(bad)) == (kept, rows - kept)
    assert {row.reason for row in bad} <= {"an interval must hold 0 <= start < end <= duration"}  # 15 of Charades-STA
    questions, _ = load_questions(tmp_path / "out.jsonl", tmp_path, check_files=False)
    for question in questions:
        gold = json.loads(question.gold)
        perfect = {
            "charades_sta": lambda g: "<answer>{} to {}</answer>".format(*g["intervals"][0]),
            "nextgqa": lambda g: f"<answer>{g['letter']}</answer><glue>{list(map(tuple, g['intervals']))}</glue>",
            "got10k": lambda g: f"<answer>{g['boxes']}</answer>",
        }[name](gold)
        assert verify(perfect, question).score == 1


def test_folders_of_frames_become_clips(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for folder, count, size in (("a", 6, (65, 48)), ("b", 1, (64, 48))):
        (tmp_path / "in" / folder).mkdir(parents=True)
        for i in range(count):
            picture = np.full((*size[::-1], 3), 40 * i, np.uint8) + rng.integers(0, 8, (*size[::-1], 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "in" / folder / f"{i:08d}.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "in" / "b" / "00000009.png")
    command = ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    assert frames.main(command) == 1 and "b/00000009.png: is 8x8, the first 64x48" in capsys.readouterr().err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["a.mp4"]
    with av.open(str(tmp_path / "out" / "a.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(shown) == 6 and shown[0].shape == (48, 64, 3)
    assert all(abs(frame.mean() - 40 * i - 3.5) < 2 for i, frame in enumerate(shown))
    assert sample_clip(tmp_path / "out" / "a.mp4", frames=6, max_pixels=1 << 20, min_frame_pixels=1024,
                       max_frame_pixels=1 << 20).source_frames == 6  # fmt: skip
    assert frames.main(["--input", str(tmp_path / "out"), "--output", str(tmp_path / "o")]) == 2


# -- benchmarks -------------------------------------------------------------------------------------------------------


def put(folder: Path, name: str, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder / name


def scored(tmp_path, name, content, replies: dict):
    questions = put(tmp_path, "q.json", content)
    lines = [json.dumps({"id": key, "prediction": text}) for key, text in replies.items()]
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    result = tmp_path / "r.json"
    score.score(score.ScoreArgs(name, questions, tmp_path / "p.jsonl", result=result))
    return {metric: m["value"] for metric, m in json.loads(result.read_text())["metrics"].items()}


def test_moments_are_scored_by_hand(tmp_path):
    videos = {"A": {"duration": 10, "timestamps": [[0, 5], [2, 4], [1, 12]], "sentences": ["x.", "y", "z"]}}
    replies = {"A/0": "<answer>0 to 4</answer>", "A/1": "<answer>2 to 9</answer>", "A/2": "<answer>1.0 to 12</answer>"}
    found = scored(tmp_path, "charades_sta", videos, replies)  # IoU 0.8, 2/7, 1 (past the end: as published)
    recalls = dict.fromkeys(("r@0.3", "r@0.5", "r@0.7"), 200 / 3)
    assert found == pytest.approx({"miou": 100 * (0.8 + 2 / 7 + 1) / 3} | recalls)


def test_grounded_qa_is_scored_by_hand(tmp_path):
    rows = [QA | {"id": str(i)} for i in range(4)]
    replies = {
        "0": "<answer>B</answer><glue>[(2, 4), (6, 10)]</glue>",  # all right
        "1": "<answer>B</answer><glue>[(0, 20)]</glue>",  # IoU = IoP = 0.3
        "2": "<answer>A</answer><glue>[(6, 7)]</glue>",  # IoU 1/6, IoP 1
    }
    found = scored(tmp_path, "nextgqa", rows, replies)
    assert found == pytest.approx({
        "acc": 50, "acc_gqa": 25, "miop": 100 * 2.3 / 4, "iop@0.3": 75, "iop@0.5": 50, "miou": 100 * (1.3 + 1 / 6) / 4,
        "iou@0.3": 50, "iou@0.5": 25,
    })  # fmt: skip


def test_tracks_are_scored_by_hand(tmp_path):
    rows = [TRACK, TRACK | {"path": "x"}]
    found = scored(tmp_path, "got10k", rows, {"GOT-10k/val/one": f"<answer>{TRACK['gt']}</answer>"})
    assert found == pytest.approx({"overlap": 50, "success@0.5": 50})


def test_reports_show_every_metric_and_intervals_hold_fractions():
    rng = random.Random(0)
    rows = [{"id": str(i), "correct": True, "scores": {"iou": rng.random()}} for i in range(200)]
    number = report("charades_sta", rows)["metrics"]["miou"]
    mean = 100 * sum(row["scores"]["iou"] for row in rows) / 200
    assert number["value"] == pytest.approx(mean) and mean - 6 < number["low"] < mean < number["high"] < mean + 6
    assert number["chance"] is None
    assert list(metrics_of("charades_sta")) == ["mIoU", "R@0.3", "R@0.5", "R@0.7"]
    assert list(metrics_of("nextgqa"))[:3] == ["Acc", "Acc@GQA", "mIoP"]


@pytest.mark.usefixtures("alone")
def test_a_run_of_moments_is_answered_resumed_and_reported(tmp_path, monkeypatch):
    put(tmp_path / "Charades-STA", "charades_sta.json", {"AAA": VIDEOS["AAA"]})
    monkeypatch.setattr(predictions.Prompts, "_view", lambda self, question: VIEW)
    flags = ["--model", "m", "--data-root", tmp_path, "--benchmarks", "charades_sta", "--output", tmp_path / "run"]
    for _ in range(2):  # the second time there is nothing left to ask
        assert run(args_of(*flags), Clued("<answer>0.0 to 5.0</answer>", always=True)) == 0
    rows = read(tmp_path / "run" / "charades_sta" / "predictions.jsonl")
    assert [row["scores"]["iou"] for row in rows] == pytest.approx([3 / 5, 2.5 / 9])
    paper, _, _ = all_tables(read_runs([str(tmp_path / "run")]), Bootstrap(resamples=50))
    (table,) = [table for table in paper if table.name == "grounding"]
    values = {column.metric: column.cells["run"].score.value for column in table.columns}
    assert values == pytest.approx({"mIoU": 50 * (3 / 5 + 2.5 / 9), "R@0.3": 50, "R@0.5": 50, "R@0.7": 0})


@real_rows
@pytest.mark.parametrize(("name", "size"), [("charades_sta", 105), ("nextgqa", 60), ("got10k", 30)])
def test_real_benchmark_rows_are_all_asked(name, size):
    items, bad = load(name, ANNOTATIONS / f"{name}.json")
    assert (len(items), bad) == (size, []) and all("<answer>" in item.prompt for item in items)
    assert read_answer(name, items[0], "junk") is None


# -- clue-driven inference --------------------------------------------------------------------------------------------


class Clued:
    """Gives a clue first; then an answer, and unasked a clue of the clip cut out, better than its first."""

    def __init__(self, first, always=False):
        self.first, self.always, self.asked = first, always, []

    def generate(self, requests):
        self.asked += [(request.prompt.text, request.prompt.view.source_frames) for request in requests]
        texts = [
            self.first if self.always or "<glue>" in text else "<answer>B</answer><glue>[(2, 10)]</glue>"
            for text, _ in self.asked[-len(requests) :]
        ]
        return [Generated((), [Rollout((), torch.empty(0), text, "stop")]) for text in texts]


@pytest.mark.parametrize(
    ("first", "shown", "clue", "iou"),
    [
        ("<think>.</think><answer>A</answer><glue>[(2, 4), (6, 7)]</glue>", (0.5, 8.5), [[2, 4], [6, 7]], 0.5),
        ("<glue>[(0.00001, 4)]</glue>", (0, 5.5), [[1e-5, 4]], 2 / 7.99999),
        ("no clue", (None, None), [], 0),
        ("<glue>[(90, 99)]</glue>", (None, None), [[90, 99]], 0),  # beyond the clip: asked about the whole
    ],
)
@pytest.mark.usefixtures("alone")
def test_the_second_question_is_about_the_clip_around_the_clue(tmp_path, monkeypatch, first, shown, clue, iou):
    put(tmp_path / "NExT-GQA", "nextgqa.json", [QA])
    seen = []

    def view(self, question):
        if (question.start or 0) > 20:
            raise ClipError("starts after its end")
        seen.append((question.start, question.end))
        return VIEW

    monkeypatch.setattr(predictions.Prompts, "_view", view)
    flags = ["--model", "m", "--data-root", tmp_path, "--benchmarks", "nextgqa", "--output", tmp_path / "run"]
    args, engine = args_of(*flags, "--clue-driven", "--clue-margin", "1.5"), Clued(first)
    assert run(args, engine) == 0
    (row,) = read(tmp_path / "run" / "nextgqa" / "predictions.jsonl")
    assert seen[0] == (None, None) and seen[-1] == shown and row["clue"] == clue and row["correct"]
    assert "<glue>" not in engine.asked[-1][0] and row["scores"]["iou"] == pytest.approx(iou)
    assert json.loads((tmp_path / "run" / "nextgqa" / "result.json").read_text())["settings"]["clue_driven"] is True


def test_clue_driven_needs_options_and_the_whole_clip(tmp_path):
    flags = ["--model", "m", "--output", "o", "--data-root", "d", "--clue-driven"]
    for more in (["--benchmarks", "charades_sta"], ["--benchmarks", "mvbench", "--shown", "shuffled"]):
        with pytest.raises(ValueError, match="--clue-driven"):
            check_benchmarks(args_of(*flags, *more), 1, 1)
    (item,), _ = load("charades_sta", put(tmp_path, "q.json", {"A": VIDEOS["BBB"]}))
    with pytest.raises(ValueError, match="has none"):
        clues.grounding(item)


def test_the_clue_is_asked_in_its_own_format():
    """The paper's system prompt, which asks for a box, goes by the type of the question."""
    asked = Question("q", 1, "Why?", "video", "multiple choice", ("A. fun", "B. fear"), "A")
    first = clues.grounding(Item("q", asked, "Why? Answer with the letter."))
    assert first.question.problem_type == "grounded qa" and "<glue>" in first.prompt and "B. fear" in first.prompt


# -- toy tasks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", neighbours.TOY_TASKS)
def test_toy_rows_load_their_gold_is_what_is_drawn_and_the_lesson_is_well_formed(tmp_path, name):
    draw = neighbours.TOY_TASKS[name].draw
    questions, bad = load_questions(neighbours.write_rows(tmp_path / "w", draw, 12, 21, 0), tmp_path / "w")
    assert len(questions) == 12 and not bad
    scores = []
    for index in range(60):
        drawn = draw(np.random.default_rng([0, 21, index]))
        facts = verify(drawn.lesson, neighbours.asked(drawn.fields))
        assert facts.well_formed and facts.answer is not None
        scores.append(facts.score)
    assert 0.1 < np.mean(scores) < 0.9  # something is left to learn, and something to start from


def test_toy_gold_by_pixels():
    for index in range(40):
        rng = np.random.default_rng([1, index])
        drawn = neighbours.grounding(rng)
        edge, (interval,) = drawn.fields["problem"].split()[0], drawn.fields["solution"]["intervals"]
        band = {"top": np.s_[:, :4], "bottom": np.s_[:, -4:], "left": np.s_[:, :, :4], "right": np.s_[:, :, -4:]}[edge]
        bright = np.flatnonzero(np.median(drawn.frames[band], axis=(1, 2, 3)) > 230) / world.FPS
        assert interval == [bright[0], bright[-1] + 1 / world.FPS]
        assert f"\n{edge} {interval[0]:.2f}\n</think>" in drawn.lesson  # it thinks right, whatever it answers
        drawn = neighbours.tracking(np.random.default_rng([2, index]))
        for t, box in zip((0, 2, 5, 7), drawn.fields["solution"]["boxes"], strict=True):
            grey = np.median(drawn.frames[t].reshape(-1, 3), axis=0)
            rows, columns = np.nonzero(np.abs(drawn.frames[t].astype(int) - grey).max(-1) > 40)
            found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / world.SIZE
            assert np.abs(found - box).max() < 0.06


def seen_at(frame, colour):
    """Centre (x, y) of what has a colour, or of what is not grey without one, in 0..1."""
    frame = frame.astype(int)
    off = frame - np.median(frame.reshape(-1, 3), axis=0) if colour is None else frame - 255 * np.array(colour)
    rows, columns = np.nonzero((np.abs(off).max(-1) > 40) if colour is None else np.abs(off).max(-1) < 4)
    return np.array([columns.min() + columns.max() + 1, rows.min() + rows.max() + 1]) / 2 / world.SIZE


def test_hidden_toy_pictures_by_pixels():
    """Before, the hidden ones in gold order, after: equal steps; backwards too, by the mapped gold."""
    for index in range(40):
        drawn = neighbours.masked(np.random.default_rng([3, index]))
        gold = TASKS["order"].check(drawn.fields["solution"], ())
        assert "\n{},{}\n</think>".format(*gold["order"]) in drawn.lesson
        for frames_, right in ((drawn.frames, gold), (drawn.frames[::-1], mapped_gold(gold, TEMPORAL_REVERSE))):
            assert (frames_[::2] == frames_[1::2]).all()
            run_ = [frames_[0], *(frames_[2 * number] for number in right["order"]), frames_[-1]]
            steps = np.diff([seen_at(frame, None) for frame in run_], axis=0)
            assert np.abs(steps).max() > 0.1 and np.ptp(steps, axis=0).max() < 0.04


def test_toy_scenes_by_pixels():
    for index in range(20):
        drawn = neighbours.relations(np.random.default_rng([4, index]))
        for at, moment in zip((2, 5), drawn.fields["solution"]["graph"], strict=True):
            assert len(moment) == 2
            for name, [point] in moment.items():  # a box is cut at the border, a triangle fills its lower part
                assert np.abs(seen_at(drawn.frames[at], world.COLOURS[name]) - point).max() < 0.06
