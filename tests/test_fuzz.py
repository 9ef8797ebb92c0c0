"""Whatever stands in a file of rows, an annotation file or a model's reply: no crash, and no credit that is not earned.

    pytest tests/test_fuzz.py
    FUZZ=10000 pytest tests/test_fuzz.py     # as `make test-faults` does

Each kind (rows, annotation files, texts) is fuzzed that many times from fixed seeds, through the real loaders and
verifiers. A mutation is known by its number: FUZZ_ONLY=NUMBER runs that one alone.
"""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fuzz
import pytest
from test_benchmarks import mvbench, own, release, timeblind, videomme
from test_sources import THINKLITE, TVBENCH, VIRL, dapo_row, mmr_row, sti_row, video_r1_row

import router
from data.corpora import CORPORA
from data.dataset import load_questions
from data.filter import read_ratings
from data.parts import whole_rows
from data.sources import Args, convert
from eval import dybench
from eval.benchmarks import Item, load, read_answer
from eval.dybench_pairs import Limits
from eval.replies import read_choice, read_yes_no
from eval.report_runs import read_answers
from eval.score import read_predictions
from metrics import read_metrics
from verifiers import VERIFIERS, verify

COUNT = int(os.environ.get("FUZZ", "240"))
ONLY = os.environ.get("FUZZ_ONLY")


def numbers(share: int = 1) -> list[int]:
    """The numbers of the mutations of one of `share` tests of a kind."""
    return [int(ONLY)] if ONLY else list(range(-(-COUNT // share)))


# -- rows --------------------------------------------------------------------------------------------------------------

VIDEO = {
    "problem_id": 1, "problem": "Which way?", "data_type": "video", "problem_type": "multiple choice",
    "options": ["A. left", "B. right"], "solution": "<answer>B</answer>", "path": "clip.mp4", "task_type": "Spatial",
    "start": 0.5, "end": 2, "data_source": "made",
}  # fmt: skip
ROWS = [
    VIDEO,
    VIDEO | {"problem_id": 2, "data_type": "text", "problem_type": "numerical", "solution": "1,250.50", "options": []},
    VIDEO | {"problem_id": 3, "data_type": "text", "problem_type": "math", "solution": "\\boxed{\\frac{1}{2}}"},
    VIDEO | {"problem_id": 4, "data_type": "text", "problem_type": "free-form", "solution": "a Cat"},
    VIDEO | {"problem_id": 5, "path": "sub/../clip.mp4", "pair_id": "p", "side": "a", "subtask": "event"},
]


def files_of_rows(tmp_path: Path, rows: list | dict, share: int = 1):
    """(number, path) of each fuzzed file of these rows."""
    for number in numbers(share):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(fuzz.spoilt(random.Random(f"rows {number}"), rows, lines=number % 2 == 0))
        yield number, path


def refuses_or(work: Callable, number: int) -> object:
    """What `work` returns; None where it refuses with one readable line. Any other error is the finding."""
    try:
        return work()
    except ValueError as error:
        assert type(error) is ValueError and str(error).strip(), f"number {number}: {error!r}"
        return None


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "root/clip.mp4").touch()
    (tmp_path / "root/out.mp4").symlink_to("/etc/passwd")
    return tmp_path / "root"


def test_training_rows(tmp_path, root):
    accepted = 0
    for number, path in files_of_rows(tmp_path, ROWS):
        loaded = refuses_or(lambda path=path: load_questions(path, root, null_option="all"), number)
        for question in loaded[0] if loaded else ():
            accepted += 1
            assert question.path is None or os.path.realpath(question.path).startswith(f"{root}/"), number
            assert question.null_letter is None or question.gold != question.null_letter, number
            assert question.gold and "<|" not in question.problem, number
            assert "\n".join((question.id, question.problem, *question.options)).encode(), number
            if question.problem_type != "math":  # the judge is asked elsewhere
                right = verify(f"<think>x</think>\\boxed{{{question.gold}}}", question)
                wrong = [letter for letter in "ABCDEFGH"[: len(question.options)] if letter != question.gold]
                assert verify(f"<think>x</think>{question.gold}", question).score == 0, number
                if question.problem_type == "multiple choice":
                    assert right.score == 1, number
                    assert not any(verify(f"\\boxed{{{letter}}}", question).score for letter in wrong), number
        for row in loaded[1] if loaded else ():
            assert str(row).strip().encode() and row.row >= 1, number
    assert accepted > len(numbers()), "most rows of a file are as they were"


CORPUS_ROWS = {
    "video_r1": [video_r1_row()] * 2,
    "tvbench": [TVBENCH] * 2,
    "sti_bench": [sti_row()] * 2,
    "mmr_v": [mmr_row()] * 2,
    "dapo_math": [dapo_row("What is 1+1?", "2", f"id{i}") for i in range(2)],
    "virl": [VIRL],
    "thinklite_vl_hard": [THINKLITE],
}


@pytest.mark.parametrize("name", CORPORA)
def test_rows_of_the_corpora(name, tmp_path):
    for number, path in files_of_rows(tmp_path, CORPUS_ROWS[name], share=len(CORPORA)):
        args = Args(name=name, input=(path,), output=tmp_path / "out.jsonl", row_ids=True)
        refuses_or(lambda args=args: convert(args), number)


BENCHMARK_ROWS = {
    "dybench": [own("p", "a"), own("p", "b", "B")],
    "dybench release": [release(pair_id=0), release(pair_id=0, answer="close")],
    "timeblind": timeblind(2),
    "tempcompass_multi_choice": [
        {"video_id": "7", "dim": "action", "question": "What?\nA. run\nB. sit", "answer": "B. sit"}
    ],
    "tempcompass_captioning": [
        {"video_id": "7", "dim": "action", "answer": "B",
         "question": "Write.\nInformation A: {'subject': 'a man', 'action': 'runs'}\n"
                     "Information B: {'subject': 'a man', 'action': 'sits'}"}
    ],
    "videomme": [videomme(1), videomme(2)],
    "mvbench": [mvbench(), mvbench(start=1.5, end=3)],
    "mvbench tree": {"meta": {"Action Count": [mvbench()] * 2}, "root": {"Action Count": "./video/count/"}},
    "tempcompass_yes_no tree": {"7": {"action": [{"question": "Does it run?", "answer": "yes"}] * 2}},
}  # fmt: skip


@pytest.mark.parametrize("layout", BENCHMARK_ROWS)
def test_rows_of_benchmarks(layout, tmp_path, root):
    name = layout.split()[0]
    for number, path in files_of_rows(tmp_path, BENCHMARK_ROWS[layout], share=len(BENCHMARK_ROWS)):
        if name == "mvbench":  # a list in a file named after its task
            path = path.rename(tmp_path / "action_count.json")
        loaded = refuses_or(lambda path=path: load(name, path, root), number)
        for item in loaded[0] if loaded else ():
            path = item.question.path
            assert path is None or os.path.realpath(path).startswith(f"{root}/"), number
            assert read_answer(name, item, "") is None, number


def reads_predictions(path: Path) -> object:
    options = ("A. a", "B. b")
    question = SimpleNamespace(options=options, gold="A")
    return read_predictions(path, [Item(name, question, "", {}) for name in ("a", "b")])


TABLES = {
    "pass rates": ([{"id": "a", "pass_rate": 0.5, "fingerprint": "x"}, {"id": 2, "pass_rate": None, "error": "late"}],
                   read_ratings),
    "predictions": ([{"id": "a", "prediction": "A"}, {"id": "b", "reply": None}], reads_predictions),
    "answers": ([{"id": "a", "correct": True, "answer": "A", "gold": "A", "options": ["A. x"], "reply": "A"}],
                read_answers),
    "parts": ([{"id": "a", "x": 1}, {"id": "b"}], lambda path: whole_rows(path, "row")),
    "metrics": ([{"step": 1, "policy/loss": 0.5}, {"step": 2, "policy/loss": None}], read_metrics),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_ours(name, tmp_path):
    rows, read = TABLES[name]
    for number, path in files_of_rows(tmp_path, rows, share=len(TABLES)):
        refuses_or(lambda path=path: read(path), number)


# -- annotation files --------------------------------------------------------------------------------------------------

TRAJECTORY = [
    {"objects": [{"object_id": 0, "location": [0.5 * i, 0.1, 0], "inside_camera_view": True}]} for i in range(6)
]
ANNOTATIONS = {
    "breakfast": ("P03_cam01_P03_cereals.txt", "1-30 SIL\n31-150 take_bowl\n151-300 pour_milk\n"),
    "50salads": ("01-1-activityAnnotation.txt", "10 20 cut_tomato_core\n21 30 add_oil_core\n"),
    "vidhalluc": ("tsh.json", {"0": {"video": "v", "Question": "Order?\nA. runs\nB. sits", "Correct Answer": "BA"}}),
    "tempcompass": ("multi-choice.json", {"7": {"order": [{"question": "?", "answer": "A. runs, then sits"}]}}),
    "something_something": ("train.json", [{"id": "7", "label": "Opening a door"}]),
    "mhbench": ("classification.json", [{"id": 1, "video_id": "v", "answer": "A",
                                         "options": {"A": "opening a door", "B": "closing a door", "C": "sitting"}}]),
    "got10k": ("groundtruth.txt", "".join(f"{10 * i},20,30,40\n" for i in range(40))),
    "clevrer": ("clevrer.json", [{"video": "v.mp4", "question": "What direction is the red sphere moving in?",
                                  "answer": "Up and to the left."}]),
    "clevrer's own": ("annotation.json", {"object_property": [{"object_id": 0, "color": "red", "material": "metal",
                                                               "shape": "cube"}],
                                          "motion_trajectory": TRAJECTORY, "video_filename": "v.mp4"}),
    "got10k as a list": ("list.json", [{"path": "v.mp4", "object": "dog",
                                        "gt": [[0.1 * i, 0.1, 0.1 * i + 0.1, 0.2] for i in range(8)]}]),
}  # fmt: skip


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotation_files(name, tmp_path, capsys):
    """Read, and planned as pairs: what is planned has two answers, both among its options, and a clip in its folder."""
    file, right = ANNOTATIONS[name]
    source = name.split("'")[0].split()[0]
    (tmp_path / "timestamps-01-1.txt").write_text("".join(f"{i} x\n" for i in range(60)))
    (tmp_path / "meta_info.ini").write_text("object_class: dog\nresolution: (400, 300)\n")
    made = 0
    for number in numbers(len(ANNOTATIONS)):
        rng = random.Random(f"annotations {number}")
        if isinstance(right, str):
            spoilt = fuzz.text(rng, right).encode("utf-8", "surrogatepass")
        else:
            spoilt = json.dumps(fuzz.value(rng, right)).encode()
        if number == 0 and not ONLY:
            spoilt = (right if isinstance(right, str) else json.dumps(right)).encode()
        if rng.random() < 0.2:
            spoilt = fuzz.data(rng, spoilt)
        (tmp_path / file).write_bytes(spoilt)
        output = tmp_path / "rows.jsonl"
        output.unlink(missing_ok=True)
        args = dybench.ReadArgs(source, (tmp_path / file,), output)
        if refuses_or(lambda args=args: dybench.read(args), number) is None:
            continue
        for row in map(json.loads, output.read_text().splitlines()):
            made += 1
            check_plan(row, tmp_path, number)
    assert made, "the unchanged file gives a row"


def check_plan(row: dict, folder: Path, number: int) -> None:
    try:
        plan = dybench.plan(row, 1, folder, Limits())
    except dybench.Refused:  # above all: the clip is not there
        plan = None
    assert plan is None or str(plan.source).startswith(f"{os.path.realpath(folder)}/"), number
    assert plan is None or (len(set(plan.answers)) == 2 and set(plan.answers) <= set(plan.options)), number


ANNOTATION_ROWS = [
    {"subtask": "reversible_dynamics", "path": "clip.mp4", "action": "opening", "object": "the door"},
    {"subtask": "moving_direction", "path": "clip.mp4", "object": "the car", "direction": "up left", "start": 1},
    {"subtask": "event_sequence", "path": "clip.mp4", "events": ["a dive", "a swim"]},
    {"subtask": "event_sequence", "path": "clip.mp4", "segments": [
        {"start": 0, "end": 2, "event": "one"}, {"start": 3, "end": 5, "event": "two"}]},
]  # fmt: skip


def test_annotation_rows(root):
    planned = 0
    for number in numbers():
        rng = random.Random(f"annotation rows {number}")
        row = fuzz.value(rng, rng.choice(ANNOTATION_ROWS)) if number else ANNOTATION_ROWS[0]
        try:
            plan = dybench.plan(row, 1, root, Limits())
        except dybench.Refused:
            continue
        planned += 1
        assert str(plan.source).startswith(f"{root}/") and len(set(plan.answers)) == 2, number
        assert set(plan.answers) <= set(plan.options) and len(set(plan.options)) == len(plan.options), number
    assert planned


# -- what models write -------------------------------------------------------------------------------------------------

# Each gold answer holds a sign that no piece of `fuzz` and no wrong answer holds: a text without it earns nothing.
GOLDS = {
    "multiple choice": ("D", "dz", "C"),
    "numerical": ("777", "7", "123"),
    "regression": ("777", "7", "123"),
    "free-form": ("a quetzal", "q", "a cat"),
    "ocr": ("quetzal", "q", "CAT"),
    "math": ("7x", "7", "3x"),
}
OPTIONS = ("A. up", "B. left", "C. far", "D. zigzag")
ANSWERED = (
    "<think>It moves. Now I know.</think>\n\\boxed{{{}}}",
    "<think>Why {}?</think>\\boxed{{{}}}",
    "The answer is ({}).",
    "\\boxed{{B}} or \\boxed{{\\text{{{}}}}}",
    "{}",
    "<answer>{}</answer>",
)


def folded(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


@pytest.mark.parametrize("problem_type", VERIFIERS)
def test_texts_of_models(problem_type):
    gold, sign, wrong = GOLDS[problem_type]
    question = SimpleNamespace(problem_type=problem_type, options=OPTIONS, gold=gold)
    credits = checked = 0
    for number in numbers(len(VERIFIERS)):
        rng = random.Random(f"texts {number}")
        said = rng.choice((gold, wrong))
        text = fuzz.text(rng, rng.choice(ANSWERED).replace("{}", said).replace("{{", "{").replace("}}", "}"), 3)
        facts = verify(text, question, strict_match=number % 5 == 0, lenient_format=number % 3 == 0)
        assert facts.score in (0.0, 1.0) and (facts.answer is None or facts.answer), number
        credits += facts.score
        if "\\boxed" not in text or not any(letter in folded(text) for letter in sign):
            checked += 1
            assert facts.score == 0, f"number {number}: {text!r} earns credit"
    assert credits and checked or ONLY


def test_replies_to_benchmarks_and_to_the_router():
    read = checked = 0
    for number in numbers(2):
        rng = random.Random(f"replies {number}")
        said = rng.choice(("D", "D. zigzag", "zigzag", "C", "far", "yes", "no"))
        text = fuzz.text(rng, rng.choice(ANSWERED).replace("{}", said).replace("{{", "{").replace("}}", "}"), 3)
        choice, said_yes = read_choice(text, OPTIONS), read_yes_no(text)
        assert choice in (None, *"ABCD") and said_yes in (None, "yes", "no"), number
        read += choice == "D"
        if not any(letter in folded(text) for letter in "dz"):
            checked += 1
            assert choice != "D", f"number {number}: {text!r}"
        if "yes" not in folded(text):
            assert said_yes != "yes", f"number {number}: {text!r}"
        label = router.parse(fuzz.text(rng, "<think>Copy 1 ...</think>\n**Static**", 3))
        assert label in (None, "Static", "Spatial"), number  # `fuzz` writes the second
    assert read and checked or ONLY
