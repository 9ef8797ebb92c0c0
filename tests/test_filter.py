"""pytest tests/test_filter.py -- rows and pass rates -> kept rows and a manifest."""

import json
from dataclasses import replace

import pytest

from data import filter as row_filter
from data.dataset import load_questions
from data.filter import Rating, fingerprint, read_ratings, verdict

ROW = {
    "problem_id": 1,
    "problem": "Which way?",
    "data_type": "video",
    "problem_type": "multiple choice",
    "options": ["A. left", "B. right"],
    "solution": "<answer>B</answer>",
    "path": "clips/$(touch owned); a.mp4",
    "data_source": "ours",
}


def write_lines(path, *values):
    path.write_text("".join(v if isinstance(v, str) else json.dumps(v) + "\n" for v in values), encoding="utf-8")
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def run(tmp_path, capsys):
    """run(rows, rates, *flags) -> (exit code, stdout, stderr); files are rows.jsonl, rates.jsonl, kept.jsonl."""

    def call(rows, rates, *flags):
        write_lines(tmp_path / "rows.jsonl", *rows)
        write_lines(tmp_path / "rates.jsonl", *rates)
        names = {name: str(tmp_path / f"{name}.jsonl") for name in ("rows", "rates", "kept")}
        argv = ["--rows", names["rows"], "--pass-rates", names["rates"], "--output", names["kept"], *flags]
        code = row_filter.main(argv)
        return code, *capsys.readouterr()

    return call


def row(i, **change):
    return ROW | {"problem_id": i} | change


def rate(i, passes, rollouts=8):
    return {"id": str(i), "pass_rate": passes / rollouts}


@pytest.mark.parametrize(
    ("rating", "low", "high", "keep", "reason"),
    [
        (Rating(0.0), 0, 1, False, "all wrong"),
        (Rating(1.0), 0, 1, False, "all right"),
        (Rating(0.125), 0, 1, False, ""),
        (Rating(0.875), 0, 1, False, ""),
        (Rating(0.25), 0.25, 0.75, False, "pass rate not above 0.25"),
        (Rating(0.75), 0.25, 0.75, False, "pass rate not below 0.75"),
        (Rating(0.0), -1, 1, False, ""),
        (Rating(1.0), 0, 2, False, ""),
        (Rating(None, "damaged"), 0, 1, True, "could not be asked"),
        (None, 0, 1, False, "has no pass rate"),
        (None, 0, 1, True, ""),
    ],
)
def test_bounds_are_exclusive(rating, low, high, keep, reason):
    assert verdict(rating, low, high, keep) == reason


def test_kept_rows_are_written_as_they_stood_and_in_order(run, tmp_path):
    odd = '{"problem_id": 3,  "problem": "1.10 or \\u00e9\u2028 ?", "data_type":"text", "problem_type": "free-form", '
    odd += '"solution": "x", "extra": [1.10, 1e400, {"a": null}]}\n'
    broken = '{"problem": \n'
    rows = [row(1), row(2), odd, "\n", broken, row(4), row(5, solution="<answer>Q</answer>"), row(6)]
    rates = [rate(6, 3), rate(4, 0), rate(3, 4), rate(2, 8), rate(1, 1), {"id": "9", "pass_rate": 0.5}]
    code, out, _ = run(rows, rates)
    assert code == 0
    assert (tmp_path / "kept.jsonl").read_text() == json.dumps(rows[0]) + "\n" + odd + json.dumps(rows[7]) + "\n"
    dropped = rows_of(tmp_path / "kept.jsonl.dropped.jsonl")
    assert [(d["row"], d["id"], d["reason"]) for d in dropped] == [
        (2, "2", "all right"),
        (5, None, "unusable row"),
        (6, "4", "all wrong"),
        (7, None, "unusable row"),
    ]
    assert dropped[1]["detail"] == "row: is not valid JSON"
    assert dropped[3]["detail"] == "solution: gold answer is not among the options"
    assert "1 pass rates belong to no usable row" in out
    assert not list(tmp_path.glob("kept.jsonl.[0-9]*")) and not (tmp_path / "owned").exists()


def test_counts_per_source(run):
    rows = [row(i, data_source=source) for i, source in enumerate(["b", "a", "b", "b"])]
    code, out, _ = run(rows, [rate(0, 8), rate(1, 4), rate(2, 0), rate(3, 4)])
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["source", "rows", "kept", "all", "right", "all", "wrong"]
    assert lines[2:5] == [["a", "1", "1", "0", "0"], ["b", "3", "1", "1", "1"], ["all", "4", "2", "1", "1"]]


def test_a_json_list_becomes_jsonl_of_the_same_values(tmp_path):
    rows = [row(1, problem="\u00e9 \U0001f3ac", n=1.5), row(2)]
    (tmp_path / "rows.json").write_text(json.dumps(rows, indent=1))
    write_lines(tmp_path / "rates.jsonl", rate(1, 4), rate(2, 0))
    argv = ["--rows", str(tmp_path / "rows.json"), "--pass-rates", str(tmp_path / "rates.jsonl")]
    assert row_filter.main([*argv, "--output", str(tmp_path / "new" / "kept.jsonl")]) == 0
    assert rows_of(tmp_path / "new" / "kept.jsonl") == rows[:1]


def test_unrated_rows_are_listed_by_row(run, tmp_path):
    code, _, err = run([row(1), row(2), row(3)], [rate(2, 4)])
    assert code == 2
    assert "rows.jsonl:1 id '1': has no pass rate" in err and "rows.jsonl:3 id '3': has no pass rate" in err
    assert err.splitlines()[-1].startswith("error: 2 of 3 rows have no pass rate")
    assert not (tmp_path / "kept.jsonl").exists()
    code, _, _ = run([row(1), row(2), row(3)], [rate(2, 0)], "--keep-unrated")
    assert code == 0 and [r["problem_id"] for r in rows_of(tmp_path / "kept.jsonl")] == [1, 3]


def test_repeated_and_missing_ids_are_matched_as_the_loader_names_them(run, tmp_path):
    nameless = {name: value for name, value in ROW.items() if name != "problem_id"}
    code, _, _ = run([row(7), row(7), nameless], [rate(7, 4), rate(3, 8)])
    dropped = {d["row"]: (d["id"], d["reason"]) for d in rows_of(tmp_path / "kept.jsonl.dropped.jsonl")}
    assert code == 0 and dropped == {2: (None, "unusable row"), 3: ("3", "all right")}


def test_a_link_out_of_the_root_is_no_row_without_a_rate(run, tmp_path):
    """The rates know it as unusable, for they look at the root; so must the filter, or it would wait for ever."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "out.mp4").symlink_to("/etc/hostname")
    rows, rates = [row(1), row(2, data_type="video", path="out.mp4")], [rate(1, 4)]
    assert run(rows, rates)[0] == 2
    assert run(rows, rates, "--data-root", str(tmp_path / "root"))[0] == 0
    [dropped] = rows_of(tmp_path / "kept.jsonl.dropped.jsonl")
    assert dropped["row"] == 2 and "leaves the data root" in dropped["detail"]


def test_a_rate_of_another_question_is_refused(run):
    code, _, err = run([row(1), row(2)], [rate(1, 4), rate(2, 4) | {"fingerprint": "0" * 12}])
    assert code == 2 and "rows.jsonl:2 id '2'" in err and "rates another question" in err


def test_the_fingerprint_knows_question_and_gold_not_the_null_option(tmp_path):
    file = write_lines(tmp_path / "rows.jsonl", ROW)
    prints = set()
    for null_option in ("video", "off"):
        [question], _ = load_questions(file, tmp_path, null_option=null_option, check_files=False)
        prints.add(fingerprint(question))
    assert len(prints) == 1
    changes = [{"gold": "A"}, {"problem": "?"}, {"start": 1.0}, {"end": 9.0}, {"options": ("A. right", "B. left")}]
    for change in changes:
        assert fingerprint(replace(question, **change)) not in prints, change


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (["no json\n", "at all\n"], "rates.jsonl:1 is not valid JSON"),
        ([rate(1, 4), "{broken\n"], "rates.jsonl:2 is not valid JSON"),
        ([rate(1, 4), "[1]\n"], "rates.jsonl:2 must be a JSON object"),
        ([{"id": None, "pass_rate": 0.5}], "rates.jsonl:1 id: must be text"),
        ([{"id": [1], "pass_rate": 0.5}], "rates.jsonl:1 id: must be text"),
        ([{"id": "1"}], "pass_rate: must be a number from 0 to 1, got 'None'"),
        ([{"id": "1", "pass_rate": True}], "pass_rate: must be a number"),
        ([{"id": "1", "pass_rate": "0.5"}], "pass_rate: must be a number"),
        ([{"id": "1", "pass_rate": 1.5}], "pass_rate: must be a number"),
        (['{"id": "1", "pass_rate": NaN}\n'], "pass_rate: must be a number"),
        ([{"id": "1", "pass_rate": None, "error": 3}], "must be text"),
        ([rate(1, 4), {"id": 1, "pass_rate": 0.5}], "rates.jsonl:2 id: '1' is rated twice"),
        ([rate(1, 4), '{"id": "' + "x" * (17 << 20) + '", "pass_rate": 0.5}\n'], "rates.jsonl:2 is longer than 16 MiB"),
    ],
)
def test_damaged_pass_rates_are_one_line(tmp_path, content, says):
    with pytest.raises(ValueError, match="rates.jsonl") as caught:
        read_ratings(write_lines(tmp_path / "rates.jsonl", *content))
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--min", "0.5", "--max", "0.5"], "must be below"),
        (["--min", "nan"], "must be below"),
        (["--output", "rows.jsonl"], "four files"),
        (["--manifest", "rates.jsonl"], "four files"),
        (["--rows", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--pass-rates", "none.jsonl"], "none.jsonl: cannot be read"),
        (["--output", "rows.jsonl/kept.jsonl"], "rows.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(run, tmp_path, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = run([row(1)], [rate(1, 4)], *flags)
    assert code == 2 and says in err and err.count("\n") == 1 and err.startswith("error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rates.jsonl", "rows.jsonl"]
    assert rows_of(tmp_path / "rows.jsonl") == [row(1)] and rows_of(tmp_path / "rates.jsonl") == [rate(1, 4)]
