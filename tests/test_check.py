"""pytest tests/test_check.py -- `python -m data.check`, and the reader of row files under it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from test_data import grey_frames, write_clip

from data import check
from data.rows import read_rows

ROW = {
    "problem_id": 1,
    "problem": "Which way?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. left", "B. right"],
    "solution": "<answer>B</answer>",
    "path": "a.mp4",
    "data_source": "ours",
    "task_type": "Spatial",
}
TEXT = ROW | {"data_type": "text", "path": None, "task_type": None}
SMALL = ["--frames", "4", "--max-pixels", "16384", "--min-frame-pixels", "4096", "--max-frame-pixels", "4096"]


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_clip(folder / "a.mp4", grey_frames(8))
    write_clip(folder / "$(touch owned); `b` & c.mp4", grey_frames(12))
    return folder


@pytest.fixture
def run(root, capsys):
    """run(rows, *flags) -> (exit code, stdout, stderr); ids are 1, 2, ... where a row has no other."""

    def call(rows, *flags):
        file = root.parent / "rows.jsonl"
        lines = [r if isinstance(r, str) else json.dumps({"problem_id": i} | r) for i, r in enumerate(rows, start=1)]
        file.write_text("\n".join(lines), encoding="utf-8")
        code = check.main([str(file), "--data-root", str(root), "--workers", "2", *flags])
        return code, *capsys.readouterr()

    return call


@pytest.mark.slow
def test_a_gold_answer_of_another_duration_than_the_clips(run):
    asked = ROW | {"problem_type": "temporal grounding", "options": [], "task_type": None}
    golds = [{"intervals": [[0, 0.5]], "duration": seconds} for seconds in (1.5, 30.0)]  # 0.8 s
    rows = [asked | {"solution": gold, "problem": f"event {i}", "problem_id": i} for i, gold in enumerate(golds)]
    code, out, _ = run(rows, "--decode", *SMALL)
    assert code == 1 and "1 of 2 rows are fine" in out
    assert ":2 solution: duration is not the clip's (30 s, 0.8 s)" in out


@pytest.mark.slow
def test_sound_rows(run, root):
    image = {"data_type": "image", "path": "a.png", "problem_id": 3}
    Image.fromarray(np.full((64, 64, 3), 9, np.uint8)).save(root / "a.png")
    shell = {"path": "$(touch owned); `b` & c.mp4", "problem_id": 4, "data_source": "\x1b[2Jtheirs"}
    code, out, _ = run([ROW, TEXT | {"problem_id": 2}, ROW | image, ROW | shell], "--decode")
    assert code == 0
    assert out.splitlines()[1:] == [
        "  data_source: ours 3, \N{REPLACEMENT CHARACTER}[2Jtheirs 1",
        "  data_type: video 2, text 1, image 1",
        "  problem_type: multiple choice 4",
        "  task_type: Spatial 3, none 1",
    ]
    assert not list(root.parent.rglob("owned"))


def test_unusable_rows_are_named_and_exit_1(run, root):
    (root.parent / "out.mp4").write_bytes(b"")
    (root / "link.mp4").symlink_to(root.parent / "out.mp4")
    changes = [{"path": "none.mp4"}, {"path": "../out.mp4"}, {"path": "/etc/passwd"}, {"path": "link.mp4"}]
    changes += [{"solution": "<answer>C</answer>"}, {"options": "A"}, {"problem": 3.5, "path": ["a.mp4"]}]
    rows = [ROW] + [ROW | change | {"problem_id": i} for i, change in enumerate(changes, start=2)]
    code, out, err = run([*rows, "{broken", "3"])
    assert code == 1 and not err
    assert "rows.jsonl: 1 of 10 rows are fine" in out and "2 rows, path: leaves the data root" in out
    for number, says in (
        (2, "path: no such file"),
        (3, "path: leaves the data root"),
        (4, "path: must be relative"),
        (5, "path: leaves the data root"),
        (6, "solution: gold answer is not among the options"),
        (7, "options: must be a list"),
        (8, "path: must be text"),
        (9, "row: is not valid JSON"),
        (10, "row: must be a JSON object"),
    ):
        assert f"rows.jsonl:{number} {says}" in out


@pytest.mark.slow
def test_damaged_files_are_found_by_decoding(run, root):
    (root / "empty.mp4").write_bytes(b"")
    (root / "cut.mp4").write_bytes((root / "a.mp4").read_bytes()[:700])
    (root / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nx")
    rows = [ROW, ROW | {"path": "empty.mp4", "problem_id": 2}, ROW | {"path": "cut.mp4", "problem_id": 3}]
    rows.append(ROW | {"data_type": "image", "path": "bad.png", "problem_id": 4})
    assert run(rows)[0] == 0
    code, out, _ = run(rows, "--decode")
    assert code == 1 and "1 of 4 rows are fine" in out and "2 rows, path: video cannot be decoded" in out
    assert "rows.jsonl:4 path: image cannot be decoded" in out


def test_duplicates(run, root):
    other = {"problem": " which  WAY? ", "options": ["A. Right", "B. left"], "problem_id": 2}
    rows = [ROW, ROW | other, ROW | {"problem": "Where?"}, ROW | {"start": 0.1, "problem_id": 4}]
    rows += [ROW | {"options": ["A. up", "B. right"], "problem_id": 5}, TEXT | {"problem_id": 6}, TEXT]
    code, out, _ = run(rows)
    assert code == 1 and "4 of 7 rows are fine" in out
    assert "2 rows, problem_id: is that of an earlier row" in out
    assert "1 rows, row: same question and path as another row" in out
    assert "rows.jsonl:2 row: same question and path as another row (row 1)" in out
    assert "rows.jsonl:3 problem_id: is that of an earlier row ('1' of row 1)" in out


def test_overlap_with_an_evaluation_set_is_by_content(run, root):
    benchmark = root.parent / "bench"
    benchmark.mkdir()
    shutil.copy(root / "a.mp4", benchmark / "another name.mp4")
    same_size = bytearray((root / "a.mp4").read_bytes())
    same_size[-1] ^= 1
    (root / "same_size.mp4").write_bytes(same_size)
    (benchmark / "eval.json").write_text(json.dumps([ROW | {"path": "another name.mp4", "task_type": "Motion"}]))
    rows = [ROW, ROW | {"path": "same_size.mp4", "problem_id": 2}, TEXT | {"problem_id": 3}]
    code, out, _ = run(rows, "--against", str(benchmark / "eval.json"))
    assert code == 1 and "2 of 3 rows are fine" in out
    assert f"rows.jsonl:1 path: is a file of the evaluation set ({benchmark}/eval.json:1)" in out
    code, out, _ = run(rows[1:], "--against", str(benchmark / "eval.json"), "--against-root", str(benchmark))
    assert code == 0
    code, out, _ = run(rows[1:], "--against", str(benchmark / "eval.json"), "--against-root", str(root))
    assert code == 1 and f"{benchmark}/eval.json:1 path: no such file" in out


@pytest.mark.slow
def test_prompts_that_are_too_long(run, tiny_folder):
    rows = [ROW, TEXT | {"problem": "word " * 300, "problem_id": 2}]
    code, out, _ = run(rows, "--tokens", tiny_folder, *SMALL)
    assert code == 0
    code, out, _ = run(rows, "--tokens", tiny_folder, *SMALL, "--max-prompt-tokens", "1000")
    assert code == 1 and "1 of 2 rows are fine" in out
    assert "rows.jsonl:2 row: prompt is longer than --max-prompt-tokens 1000" in out


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--data-root", "none"], "the data root must be a folder"),
        (["--tokens", "none"], "--tokens none: no such folder"),
        (["--tokens", "."], "holds no processor"),
        (["--against", "none.json"], "none.json: cannot be read"),
        (["--against-root", "."], "no meaning without --against"),
        (["--frames", "0"], "--frames must be at least 1"),
        (["--decode-timeout", "0"], "--decode-timeout must be positive"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(run, root, monkeypatch, flags, says):
    monkeypatch.chdir(root)
    code, _, err = run([ROW], *flags)
    assert code == 2 and err.startswith("error: ") and says in err and err.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"", b"[{", b"hello\nworld", b"\xff\xfe\x00", b"\x00" * 100])
def test_a_file_that_is_no_json_exits_2(tmp_path, capsys, content):
    file = tmp_path / "rows.json"
    if content is not None:
        file.write_bytes(content)
    assert check.main([str(file), "--data-root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {file}: ")


@pytest.mark.slow
def test_a_line_of_a_gigabyte_is_one_bad_row(tmp_path):
    file = tmp_path / "rows.jsonl"
    with open(file, "wb") as out:
        out.write(b'{"problem_id": 1}\n{"problem": "')
        out.seek(1 << 30, 1)  # a hole: zero bytes that take no disk
        out.write(b'"}\n\n{"problem_id": 3}')
    first, long, last = read_rows(file)
    assert (first.number, first.line, first.value) == (1, '{"problem_id": 1}', {"problem_id": 1})
    assert (long.number, long.value, long.fault) == (2, None, "is longer than 16 MiB")
    assert (last.number, last.value) == (4, {"problem_id": 3})
