"""pytest tests/test_sources.py -- the seven corpora: rows of each release's schema in, rows that train out."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data import rows as row_files
from data import sources
from data.corpora import CORPORA, is_math
from data.dataset import load_questions

ROOT = Path(__file__).resolve().parent.parent
ANNOTATIONS = ROOT.parent / "shared" / "data" / "annotations"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{}\n\nRemember to put your answer on its "
    'own line after "Answer:".'
)


def video_r1_row(**fields) -> dict:
    return {
        "problem_id": 2,
        "problem": "What appears on the screen?",
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": ["A. a cat", "B. a dog"],
        "solution": "<answer>B</answer>",
        "path": "./LLaVA-Video-178K/30_60_s/ytb_x y;$(touch z).mp4",
        "data_source": "LLaVA-Video-178K/30_60_s_youtube_v0_1",
    } | fields


def dapo_row(problem: str, gold: str, index: str, **fields) -> dict:
    return {
        "data_source": "math_dapo",
        "prompt": [{"role": "user", "content": DAPO.format(problem)}],
        "ability": "MATH",
        "reward_model": {"ground_truth": gold, "style": "rule-lighteval/MATH_v2"},
        "extra_info": {"index": index},
    } | fields


def sti_row(**fields) -> dict:
    return {
        "Video": "scene_1.mp4",
        "time_start": 1.0,
        "time_end": 5.5,
        "Task": "Speed & Acceleration",
        "Question": "How fast is the car?",
        "Candidates": {"A": "1 m/s", "B": "2 m/s", "C": None},
        "Answer": "B",
    } | fields


def mmr_row(**fields) -> dict:
    return {
        "video": "a.mp4",
        "videoType": "Film",
        "question": "What does the rose stand for?",
        "options": ["(A) Love.", "(B) War.", ""],
        "correctAnswer": "(B) War.",
        "abilityType_L2": "Implicit Symbol",
        "question_idx": 1,
    } | fields


TVBENCH = {"video": "v.mp4", "question": "Which first?", "candidates": ["run", "jump"], "answer": "jump"}
VIRL = {"question": "<image>How long is AB?", "answer": "\\boxed{12}", "image": ["images/a.png"], "qid": "geo-1"}
THINKLITE = {"id": 7, "problem": "<image>Area?", "answer": "3.5", "image": "images/a.png"}

# name -> [(row of the release, what must come out: fields of ours, or the field and part of the reason of a refusal)]
CASES = {
    "video_r1": [
        (video_r1_row(), {"problem_id": "video_r1/2", "solution": "<answer>B</answer>", "data_source": "Video-R1"}),
        (video_r1_row(problem_id=3, problem_type="numerical", options=[], solution="<answer>4</answer>"), {}),
        (video_r1_row(problem_id=4, problem_type="free-form"), ("problem_type", "are kept")),
        (video_r1_row(problem_id=5, data_type="image"), ("data_type", "--images")),
        (video_r1_row(problem_id=6, solution="B"), ("solution", "no answer tag")),
        (video_r1_row(problem_id=7, path="../secret.mp4"), ("path", '".."')),
        (video_r1_row(problem_id=8, path="/etc/passwd"), ("path", "relative to the data root")),
        (video_r1_row(problem_id=9, solution="<answer>E</answer>"), ("solution", "not among the options")),
        (video_r1_row(), ("id", "repeats")),
        (video_r1_row(problem="What else?"), ("id", "different row")),
        (video_r1_row(problem_id=10, problem="half \ud800"), ("row", "surrogate")),
    ],
    "tvbench": [
        (
            TVBENCH | {"start": 1.5, "end": 4},
            {
                "problem_id": "tvbench/action_sequence/1",
                "options": ["A. run", "B. jump"],
                "solution": "<answer>B</answer>",
                "path": "action_sequence/v.mp4",
                "start": 1.5,
                "end": 4,
            },
        ),
        (TVBENCH | {"end": 4}, ("start", "missing")),
        (TVBENCH | {"start": 4, "end": 1}, ("start", "before end")),
        (TVBENCH | {"start": 1, "end": 4, "answer": "fly"}, ("answer", "none of the candidates")),
        (TVBENCH | {"candidates": "run"}, ("candidates", "list of texts")),
        (TVBENCH | {"start": 1, "end": 4, "candidates": ["jump", "run", "jump"]}, ("candidates", "twice")),
    ],
    "sti_bench": [
        (
            sti_row(),
            {
                "problem": "From 1.0 s to 5.5 s. How fast is the car?",
                "options": ["(A) 1 m/s", "(B) 2 m/s"],
                "solution": "<answer>B</answer>",
                "start": None,
            },
        ),
        (sti_row(Candidates='{"B": "right", "A": "left"}'), {"options": ["(A) left", "(B) right"]}),
        (sti_row(Candidates=["left", "right"]), ("Candidates", "must map")),
        (sti_row(Candidates="{"), ("Candidates", "not valid JSON")),
        (sti_row(time_start=None), ("time_start", "number of seconds")),
        (sti_row(time_start=6.0), ("time_start", "before time_end")),
        (sti_row(time_start=float("nan")), ("time_start", "before time_end")),
        (sti_row(Answer="E"), ("solution", "not among the options")),
    ],
    "mmr_v": [
        (mmr_row(), {"options": ["A. Love.", "B. War."], "solution": "<answer>B</answer>", "path": "a.mp4"}),
        (mmr_row(correctAnswer="War"), ("correctAnswer", "must start")),
        (mmr_row(options=["(A) Love.", "war"]), ("options", "must start")),
        (mmr_row(question=None), ("question", "missing")),
        ("text", ("row", "must be an object")),
    ],
    "dapo_math": [
        (dapo_row("What is $1+1$?", "2", "u-1"), {"problem": "What is $1+1$?", "problem_id": "dapo_math/u-1"}),
        (dapo_row("What is $1+1$?", "2", "u-1"), ("id", "repeats")),
        ({"prompt": "What is $2+2$?", "solution": "4"}, {"problem_type": "math", "data_type": "text", "path": None}),
        (dapo_row("x", "", "u-2"), ("ground_truth", "missing")),
        (dapo_row("x", "1", "u-3", prompt=[{"content": "x"}]), ("prompt", "instructions")),
        (dapo_row("x", "1", "u-4", prompt=None), ("prompt", "must be")),
    ],
    "virl": [
        (
            VIRL,
            {"problem": "How long is AB?", "problem_type": "math", "path": "images/a.png", "problem_id": "virl/geo-1"},
        ),
        (VIRL | {"qid": "2", "answer": "\\boxed{Cartoonish}"}, {"problem_type": "free-form"}),
        (VIRL | {"qid": "3", "image": ["a.png", "b.png"]}, ("image", "exactly one")),
        (VIRL | {"qid": "4", "answer": "12"}, ("answer", "no \\boxed")),
    ],
    "thinklite_vl_hard": [
        (THINKLITE, {"problem": "Area?", "problem_type": "math", "solution": "<answer>3.5</answer>"}),
        (THINKLITE | {"ground_truth": "B", "problem_type": "exact_match"}, {"problem_type": "free-form"}),
        (THINKLITE | {"problem_type": "essay"}, ("problem_type", "math or exact_match")),
        (THINKLITE | {"image": None}, ("image", "path or an image's bytes")),
    ],
}


def run(tmp_path: Path, name: str, rows: object, *flags: object, file: str = "action_sequence.jsonl"):
    """(exit code, output rows, lines of refused rows)."""
    source, output = tmp_path / file, tmp_path / "out.jsonl"
    if not isinstance(rows, bytes):
        text = json.dumps(rows) if file.endswith(".json") else "\n".join(map(json.dumps, rows))
        rows = text.encode()
    source.write_bytes(rows)
    code = sources.main([name, "--input", str(source), "--output", str(output), *map(str, flags)])
    refused = tmp_path / "out.jsonl.refused.txt"
    written = [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []
    return code, written, refused.read_text().splitlines() if refused.exists() else []


@pytest.mark.parametrize("ending", ["jsonl", "json"])
@pytest.mark.parametrize("name", CASES)
def test_rows_of_the_release_come_out_or_are_refused_by_name(tmp_path, name, ending):
    cases = CASES[name]
    code, rows, refused = run(tmp_path, name, [row for row, _ in cases], file=f"action_sequence.{ending}")
    assert code == 0 and len(rows) + len(refused) == len(cases)
    good = [wanted for _, wanted in cases if isinstance(wanted, dict)]
    assert len(rows) == len(good)
    for row, wanted in zip(rows, good, strict=True):
        assert {key: row.get(key) for key in wanted} == wanted
        assert row["data_source"] == CORPORA[name].title
    bad = [(place, *wanted) for place, (_, wanted) in enumerate(cases, start=1) if isinstance(wanted, tuple)]
    for line, (place, field, reason) in zip(refused, bad, strict=True):
        assert f"action_sequence.{ending}:{place} {field}: " in line and reason in line

    questions, unusable = load_questions(tmp_path / "out.jsonl", tmp_path, check_files=False)
    assert not unusable and [question.id for question in questions] == [row["problem_id"] for row in rows]


def test_the_table_covers_the_seven_corpora():
    assert set(CASES) == set(CORPORA) and len(CORPORA) == 7


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="the real rows lie beside the repository")
@pytest.mark.parametrize("file", sorted(ANNOTATIONS.glob("video_r1_format_*.json")), ids=lambda path: path.stem)
def test_every_real_row_in_video_r1_s_format_loads_or_is_refused(tmp_path, file):
    total = len(json.loads(file.read_text()))
    questions, unusable = load_questions(file, tmp_path, check_files=False, task_types=False)
    assert len(questions) + len(unusable) == total and len(questions) > 0.9 * total
    assert all(row.field and row.reason for row in unusable)

    output = tmp_path / "out.jsonl"
    written, bad, _ = sources.convert(sources.Args("video_r1", (file,), output))
    assert written + len(bad) == total
    kept = [question for question in questions if question.problem_type in ("multiple choice", "numerical")]
    task_types = [row for row in bad if row.field == "task_type"]  # Video-MME's own use of the name
    assert written == len(kept) - len(task_types)


def test_video_r1_s_own_file_loads_with_no_conversion(tmp_path):
    (tmp_path / "Video-R1-260k.json").write_text(json.dumps([row for row, _ in CASES["video_r1"][:2]]))
    questions, unusable = load_questions(tmp_path / "Video-R1-260k.json", tmp_path, check_files=False)
    assert len(questions) == 2 and not unusable and questions[0].gold == "B"


def test_flags(tmp_path):
    rows = [video_r1_row(), video_r1_row(problem="What else?"), video_r1_row(problem_id=5, data_type="image")]
    _, out, _ = run(tmp_path, "video_r1", rows, "--images", "--row-ids", "--prefix", "Video-R1")
    assert [row["problem_id"] for row in out] == ["video_r1/1", "video_r1/2", "video_r1/3"]
    assert out[0]["path"].startswith("Video-R1/LLaVA-Video-178K/")

    for text in ("5\n99\n", '["video_r1/5", 99]', json.dumps([{"problem_id": 5}, {"problem_id": 99}])):
        (tmp_path / "keep").write_text(text)
        _, out, refused = run(tmp_path, "video_r1", rows, "--images", "--keep", tmp_path / "keep")
        assert [row["problem_id"] for row in out] == ["video_r1/5"] and len(refused) == 2


def test_with_a_media_root_the_files_must_be_there(tmp_path):
    folder = tmp_path / "media" / "action_sequence"
    folder.mkdir(parents=True)
    (folder / "there;rm -rf $HOME.mp4").touch()
    (tmp_path / "outside.mp4").touch()
    (folder / "link.mp4").symlink_to(tmp_path / "outside.mp4")
    names = ["there;rm -rf $HOME.mp4", "gone.mp4", "link.mp4"]
    rows = [TVBENCH | {"video": name, "start": 0, "end": 2} for name in names]
    code, out, refused = run(tmp_path, "tvbench", rows, "--media-root", tmp_path / "media")
    assert code == 0 and [row["path"] for row in out] == ["action_sequence/there;rm -rf $HOME.mp4"]
    assert "no such file" in refused[0] and "leaves the data root" in refused[1]


def test_embedded_images_become_files(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    rows = [THINKLITE | {"image": PNG}, THINKLITE | {"image": PNG, "problem": "Perimeter?"}]
    rows += [THINKLITE | {"image": b"cos\nsystem\n"}]
    write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    data = (tmp_path / "train.parquet").read_bytes()
    code, out, refused = run(tmp_path, "thinklite_vl_hard", data, "--media-root", tmp_path, file="train.parquet")
    assert code == 0 and len(out) == 2 and "is no PNG" in refused[0]
    assert out[0]["path"] == out[1]["path"] and (tmp_path / out[0]["path"]).read_bytes() == PNG
    code, _, _ = run(tmp_path, "thinklite_vl_hard", data, file="train.parquet")
    assert code == 2  # nowhere to put them


def test_an_image_is_written_once_and_never_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    path = sources.write_image(PNG, root, "a")
    assert sources.write_image(PNG, root, "a") == path and (root / path).read_bytes() == PNG
    (root / path).write_bytes(b"other")
    with pytest.raises(sources.Refused, match="another file"):
        sources.write_image(PNG, root, "a")
    (root / "b").symlink_to(tmp_path)
    with pytest.raises(sources.Refused, match="leaves the data root"):
        sources.write_image(PNG, root, "b")
    assert sorted(os.listdir(tmp_path)) == ["root"]


def test_an_old_pyarrow_would_unpickle_and_is_refused(tmp_path, monkeypatch, capsys):
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr(pa, "__version__", "14.0.1")
    code, _, _ = run(tmp_path, "mmr_v", b"PAR1", file="test.parquet")
    assert code == 2 and "pyarrow 14.0.1 is unsafe" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "clipped"), [("action_sequence", 1), ("action_localization", 1), ("scene", 0)])
def test_two_tasks_of_tvbench_are_about_a_part_of_the_video(tmp_path, task, clipped):
    code, rows, _ = run(tmp_path, "tvbench", [TVBENCH | {"start": 1.5, "end": 4}], file=f"{task}.json")
    assert code == 0 and ("start" in rows[0]) == bool(clipped)


def test_without_pyarrow_a_parquet_file_names_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, _ = run(tmp_path, "mmr_v", b"PAR1", file="test.parquet")
    assert code == 2 and "pip install 'pyarrow>=15'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[{}", "not valid JSON"),
        (b"[" + b"1" * 5000 + b"]", "not valid JSON"),
        (b"[" * 200_000, "not valid JSON"),
        (b'[{"a": "\xff"}]', "not UTF-8"),
        (b"\x80\x04\x95cposix\nsystem\n", "not UTF-8"),  # a pickle
        (b"", "no row was converted"),
        (b'{\n"data": []\n}', "neither a JSON list of rows nor JSONL"),
    ],
)
def test_files_that_are_no_rows(tmp_path, capsys, content, words):
    code, out, _ = run(tmp_path, "video_r1", content, file="rows.json")
    err = capsys.readouterr().err.strip()
    assert code == 2 and not out and words in err and err.count("\n") == 0
    assert not list(tmp_path.glob("*.part*"))


def test_lines_that_are_no_rows_are_refused_one_by_one(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MAX_LINE_MIB", 1)
    good = json.dumps(video_r1_row()).encode()
    content = b'\xef\xbb\xbf{"a": "' + b"x" * (3 << 20) + b'"}\nnot json\n\n"text"\n[]\n' + good + b"\r\n"
    code, out, refused = run(tmp_path, "video_r1", content, file="rows.jsonl")
    assert code == 0 and len(out) == 1
    assert [line.split()[0].rsplit(":")[-1] for line in refused] == ["1", "2", "4", "5"]
    assert all(" row: " in line for line in refused) and "1 MiB" in refused[0]


def test_folders_and_user_mistakes(tmp_path, capsys):
    folder = tmp_path / "json"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "x.json").write_text("[]")
    for task in ("action_count", "object_count"):
        (folder / f"{task}.json").write_text(json.dumps([TVBENCH]))
    base = ["tvbench", "--output", str(tmp_path / "out.jsonl"), "--input"]
    assert sources.main([*base, str(folder)]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["problem_id"] for row in rows] == ["tvbench/action_count/1", "tvbench/object_count/1"]
    capsys.readouterr()
    for flags, words in (
        ([str(tmp_path / "gone")], "no such file"),
        ([str(folder), "--prefix", "../x"], "--prefix"),
        ([str(folder), "--media-root", str(tmp_path / "gone")], "--media-root"),
        ([str(folder), "--keep", str(tmp_path / "gone")], "gone"),
        ([str(tmp_path / "out.jsonl")], "is an input file"),
        ([str(tmp_path / "new"), "--download"], "cannot fetch json/*.json of https://huggingface.co/datasets/FunAGI"),
    ):
        assert sources.main([*base, *flags]) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("answer", "math"),
    [("12 cm", True), ("\\frac{1}{2}", True), ("$x$", True), ("30^\\circ", True), ("A", False), ("Cartoonish", False)],
)
def test_is_math_is_math_verify_s_view(answer, math):
    assert is_math(answer) is math


@pytest.mark.slow
def test_the_command(tmp_path):
    (tmp_path / "mmr.jsonl").write_text(json.dumps(mmr_row()) + "\nbroken\n")
    command = [sys.executable, "-m", "data.sources", "mmr_v", "--input", str(tmp_path / "mmr.jsonl"), "--output"]
    runs = [
        subprocess.Popen([*command, str(tmp_path / name)], cwd=ROOT, stdout=-1, stderr=-1, text=True)
        for name in ("rows.jsonl", "no/rows.jsonl")
    ]
    (out, _), (_, err) = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 2]
    assert "1 of 2 rows" in out and "mmr.jsonl:2 row: is not valid JSON" in out
    assert err.startswith("error: ") and err.count("\n") == 1


def test_table6_counts(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import table6_counts

    assert [sum(numbers) for numbers in table6_counts.TABLE_8.values()] == [17_778, 1_380, 1_530, 477, 21_165]
    *sources_, total = table6_counts.TABLE_8.values()
    assert tuple(map(sum, zip(*sources_, strict=True))) == total

    rows = [video_r1_row(task_type="Temporal", problem_id=1), video_r1_row(problem_id=2)]  # its own data_source
    rows += [video_r1_row(problem_id=3, data_source="TVBench", task_type="Static")]
    rows += [
        {"problem": "1+1", "data_type": "text", "problem_type": "math", "solution": "2", "data_source": "DAPO-Math"}
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, {}])))
    assert table6_counts.main([str(tmp_path / "rows.jsonl")]) == 0
    out = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in (
        ["text", "all", "1", "6400", "-6399"],
        ["video", "all", "3", "21200", "-21197"],
        ["Video-R1", "2", "17778", "-17776"],
        ["Video-R1", "Temporal", "1", "14359", "-14358"],
        ["Video-R1", "no", "label", "1", "-", "-"],
        ["TVBench", "Static", "1", "161", "-160"],
        ["Total", "all", "3", "21165", "-21162"],
    ):
        assert line in out
    assert ["1", "rows,", "problem:", "missing", "or", "empty"] in out
    assert table6_counts.main([str(tmp_path / "gone")]) == 2
