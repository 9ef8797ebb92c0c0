"""The report: its numbers against a plain count, its page in a real browser, and what it says about bad input."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval import report, scoring
from eval.report_gallery import choose, jpeg, pairs_of
from eval.report_page import MAX_REPLY, at_chance
from eval.report_pictures import fractions
from eval.report_runs import COMPARED, read_routed, read_run, read_runs, settings_of
from eval.report_tables import Bootstrap, all_tables
from eval.settings import FREE_IN_A_RUN, BenchmarkArgs
from toy.world import write_world
from transforms import COUNTERFACTUALS

EVIL = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
SHORTCUTS = ("identity", "single_frame", "shuffled", "text_only")
# How often each model reads the video; otherwise it says what the cue names, or the first option.
SKILL = {"base": 0.45, "crpo": 0.8}


# -- fake runs on real clips -------------------------------------------------------------------------------------------


def reply(rng: random.Random, answer: str | None) -> str:
    """Raw text as a model writes it, some of it hostile, some of it endless."""
    if answer is None:
        return rng.choice(["", "I cannot tell.", EVIL])
    thought = rng.choice(
        ["It starts left.", EVIL, "word " * 1500, "\u202eright to left", "bad \ud800 half", "\x1b[31m"]
    )
    return f"<think>{thought}</think>\n\\boxed{{{answer}}}"


def answered(row: dict, benchmark: str, answer: str | None, rng: random.Random, **more) -> dict:
    gold = row["solution"].removeprefix("<answer>").removesuffix("</answer>")
    return {
        "id": row["problem_id"], "benchmark": benchmark, "problem": row["problem"], "options": row["options"],
        "gold": gold, "path": row["path"], "start": None, "end": None, "pair_id": row.get("pair_id"),
        "side": row.get("side"), "subtask": row.get("subtask"), "facts": {}, "reply": reply(rng, answer),
        "answer": answer, "correct": answer == gold, "finish": rng.choice(["stop", "stop", "length"]), "error": "",
        "frames": [0, 2, 4, 6],
    } | more  # fmt: skip


def choice(row: dict, skill: float, rng: random.Random) -> str | None:
    """A letter: the right one, the cued one, the first, or none."""
    gold = row["solution"][len("<answer>")]
    if rng.random() < skill:
        return gold
    cued = [option[0] for option in row["options"] if option[3:] == row.get("cue")]
    return rng.choice([*cued, "A", rng.choice("ABCD"), None])


def write_part(folder: Path, rows: list[dict]) -> None:
    folder.mkdir(parents=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    benchmark = folder.name.split(".")[0]
    (folder / "result.json").write_text(json.dumps({"remarks": [], **scoring.report(benchmark, rows)}))


def write_evaluation(folder: Path, world: Path, skill: float, label: str = "") -> Path:
    """An evaluation run folder over the toy world: every benchmark's layout, DyBench under all shortcuts."""
    rows = [json.loads(line) for line in (world / "eval.jsonl").read_text().splitlines()]
    rng = random.Random(label or folder.name)
    for shortcut in SHORTCUTS:
        able = skill if shortcut == "identity" else 0.15
        part = [answered(row, "dybench", choice(row, able, rng), rng) for row in rows]
        write_part(folder / ("dybench" if shortcut == "identity" else f"dybench.{shortcut}"), part)
    blind = []
    for instance, at in enumerate(range(0, len(rows) - 3, 4)):
        for role in range(4):
            gold = "yes" if role in (0, 3) else "no"
            said = gold if rng.random() < 0.3 + skill / 2 else rng.choice(["yes", None])
            row = rows[at + role % 2] | {
                "problem_id": str(4 * instance + role), "problem": f"Instance {instance}, question {role // 2}?",
                "options": [], "solution": gold,
            }  # fmt: skip
            facts = {"instance": str(instance), "role": f"Q{role // 2}V{role % 2}"}
            extra = {"pair_id": None, "side": None, "subtask": "yes_no", "facts": facts}
            blind.append(answered(row, "timeblind", said, rng, **extra))
    write_part(folder / "timeblind", blind)
    single = {"pair_id": None, "side": None, "subtask": None}
    for name, fact, values in (
        ("tempcompass_multi_choice", "dim", ("action", "direction", "speed", "order", "attribute_change")),
        ("tempcompass_caption_matching", "dim", ("action", "direction")),
        ("videomme", "duration", ("short", "medium", "long")),
        ("mvbench", "task", ("action_sequence", "moving_count", "scene_transition")),
    ):
        part = [
            answered(row, name, choice(row, skill, rng), rng, **single, facts={fact: values[at % len(values)]})
            for at, row in enumerate(rows)
        ]
        write_part(folder / name, part)
    settings = {"model": str(folder.parent / "train" / folder.name / "export"), "data_root": str(world)}
    (folder / "settings.json").write_text(json.dumps(settings | ({"label": label} if label else {})))
    return folder


def write_training(folder: Path, gain: float, rounds: int = 30) -> Path:
    """A training run folder with gaps: null, NaN and a value that comes only now and then."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    rng = random.Random(folder.name)
    lines = []
    for step in range(1, rounds + 1):
        row = {"step": step, "data/rollouts_seen": 256 * step, "reward/format": 1.0, "policy/kl": float("nan")}
        row["reward/correct"] = 0.4 + gain * step / rounds + rng.gauss(0, 0.02)
        row["group/zero_advantage"] = None if step % 7 == 0 else 0.5 - 0.2 * step / rounds
        if step % 10 == 0:
            row["eval/pair_acc"] = 30 + 100 * gain * step / rounds
        lines.append(json.dumps(row))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, train=0, pairs=6)
    return folder


@pytest.fixture(scope="session")
def runs(world, tmp_path_factory) -> list[Path]:
    """Two evaluations and a training run, to read only."""
    home = tmp_path_factory.mktemp("runs")
    tested = [write_evaluation(home / name, world, skill) for name, skill in SKILL.items()]
    return [*tested, write_training(home / "train" / "crpo", 0.3)]


@pytest.fixture
def copies(runs, tmp_path) -> list[Path]:
    """The same, to spoil."""
    return [Path(shutil.copytree(run, tmp_path / "runs" / run.name)) for run in runs[:2]]


def build(tmp_path: Path, *arguments: object, **flags) -> str:
    """The page that the arguments give."""
    report.write_report(report.ReportArgs(tuple(map(str, arguments)), tmp_path / "out", **{"resamples": 200} | flags))
    return (tmp_path / "out" / "report.html").read_text()


def tables(runs: list[Path], resamples: int = scoring.RESAMPLES) -> dict:
    """(table's name, heading, metric) -> column."""
    paper, breakdowns, _ = all_tables(read_runs(list(map(str, runs))), Bootstrap(resamples))
    return {(table.name, c.group, c.metric): c for table in paper + breakdowns for c in table.columns}


def rows_of(run: Path, part: str) -> list[dict]:
    return [json.loads(line) for line in (run / part / "predictions.jsonl").read_text().splitlines()]


def spoil(run: Path, part: str, change) -> None:
    """Rewrite a part's predictions with `change(rows) -> rows`."""
    rows = change(rows_of(run, part))
    (run / part / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory) -> Path:
    """The folder of a report over all runs."""
    folder = tmp_path_factory.mktemp("whole")
    build(folder, *runs)
    return folder / "out"


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_every_number_of_the_tables_is_that_of_result_json(runs):
    """With its interval and chance: nobody may find two intervals of one number."""
    found = tables(runs[:2])
    for run in runs[:2]:
        for name, part, metrics in (
            ("DyBench", "dybench", {"Acc": "acc", "P-Acc": "pair_acc"}),
            ("TimeBlind", "timeblind", {"Acc": "acc", "I-Acc": "i_acc"}),
            ("VideoMME", "videomme", {"Acc": "acc"}),
            ("MVBench", "mvbench", {"Acc": "acc"}),
        ):
            scored = json.loads((run / part / "result.json").read_text())["metrics"]
            for shown, metric in metrics.items():
                column, want = found["table1", name, shown], scored[metric]
                cell = column.cells[run.name].score
                assert (column.n, round(column.chance, 9)) == (want["n"], round(want["chance"], 9)), (name, shown)
                assert [cell.value, cell.low, cell.high] == pytest.approx([want["value"], want["low"], want["high"]])
        blind = json.loads((run / "timeblind" / "result.json").read_text())["metrics"]
        pairs = json.loads((run / "dybench" / "result.json").read_text())["metrics"]
        for heading, shown, want in (
            ("TimeBlind", "Q-Acc", blind["q_acc"]),
            ("TimeBlind", "V-Acc", blind["v_acc"]),
            ("DyBench, dynamic", "Same answer", pairs["same_answer"]),
            ("DyBench, static", "Agreement", pairs["agreement"]),
        ):
            assert found["relations", heading, shown].cells[run.name].score.value == pytest.approx(want["value"])


def test_tables_count_what_a_plain_loop_counts(runs):
    found = tables(runs[:2])
    for run in runs[:2]:
        rows = rows_of(run, "dybench.single_frame")
        pairs = {row["pair_id"]: [] for row in rows if row["subtask"] != "static"}
        for row in rows:
            pairs.get(row["pair_id"], []).append(row["correct"])
        both = 100 * sum(map(all, pairs.values())) / len(pairs)
        assert found["table4_dybench", "Single Frame", "P-Acc"].cells[run.name].score.value == pytest.approx(both)
        moving = [row["correct"] for row in rows_of(run, "dybench") if row["subtask"] == "moving_direction"]
        column = found["table5_dybench", "Moving Direction", "Acc"]
        assert column.cells[run.name].score.value == pytest.approx(100 * np.mean(moving)) and column.n == len(moving)
        two = [
            row["correct"]
            for name in ("multi_choice", "caption_matching")
            for row in rows_of(run, f"tempcompass_{name}")
        ]
        assert found["table1", "TempCompass", "Acc"].cells[run.name].score.value == pytest.approx(100 * np.mean(two))
        long = [row["correct"] for row in rows_of(run, "videomme") if row["facts"]["duration"] == "long"]
        assert found["videomme_duration", "long", "Acc"].cells[run.name].score.value == pytest.approx(
            100 * np.mean(long)
        )


def test_a_difference_is_paired(copies):
    """Its interval is that of a slow bootstrap that draws the same pairs for both runs."""
    spoil(copies[1], "dybench", lambda _: [row | {"correct": True} for row in rows_of(copies[0], "dybench")[:8]])
    spoil(copies[1], "dybench", lambda rows: rows + rows_of(copies[0], "dybench")[8:])
    column = tables(copies, resamples=4000)["table1", "DyBench", "Acc"]
    assert column.cells["base"].difference is None
    right = []
    for run in copies:
        pairs: dict[str, int] = {}
        for row in rows_of(run, "dybench"):
            if row["subtask"] != "static":
                pairs[row["pair_id"]] = pairs.get(row["pair_id"], 0) + row["correct"]
        right.append(np.array(list(pairs.values())))
    rng, count = np.random.default_rng(7), len(right[0])
    gap = (right[1] - right[0]) * 100 / (2 * count)
    same = [gap[rng.integers(count, size=count)].sum() for _ in range(4000)]
    others = [np.diff([of[rng.integers(count, size=count)].sum() for of in right])[0] * 50 / count for _ in range(4000)]
    (low, high), (far, _) = np.percentile(same, (2.5, 97.5)), np.percentile(others, (2.5, 97.5))
    got, step = column.cells["crpo"].difference, 100 / (2 * count)
    assert got.value == pytest.approx(gap.sum()) and got.value > 0
    assert [got.low, got.high] == pytest.approx([low, high], abs=1.01 * step) and far < got.low - 2 * step


def test_a_run_beside_its_copy_differs_by_nothing(copies, tmp_path):
    twin = shutil.copytree(copies[0], tmp_path / "twin")
    for column in tables([copies[0], twin], resamples=100).values():
        gap = column.cells["twin"].difference
        assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_timeblind_blocks_that_lack_an_answer_are_invalid_as_in_result_json(copies):
    """Right cells beside an unasked one count nowhere, in both; by guessing they could have been right."""
    spoil(copies[0], "timeblind", lambda rows: [row | {"correct": True} for row in rows])
    spoil(copies[0], "timeblind", lambda rows: [rows[0] | {"correct": False, "error": "no clip"}, *rows[1:]])
    rows = rows_of(copies[0], "timeblind")
    found, want = tables(copies[:1], 100), scoring.report("timeblind", rows)["metrics"]
    column = found["table1", "TimeBlind", "Acc"]
    assert column.cells["base"].score.value == want["acc"]["value"] == pytest.approx(100 * (len(rows) - 4) / len(rows))
    assert (column.n, column.chance) == (len(rows), 50.0)
    for heading, metric in (("Q-Acc", "q_acc"), ("V-Acc", "v_acc")):
        assert found["relations", "TimeBlind", heading].cells["base"].score.value == want[metric]["value"]


def test_tempcompass_is_broken_down_by_sub_task_once(copies):
    """Though its answers lie in a run twice, by sub-task and joined."""
    for run in copies:
        kinds = ("multi_choice", "caption_matching")
        rows = [
            r | {"facts": r["facts"] | {"task": kind}} for kind in kinds for r in rows_of(run, f"tempcompass_{kind}")
        ]
        write_part(run / "tempcompass", [row | {"id": f"{at}"} for at, row in enumerate(rows)])
    _, breakdowns, _ = all_tables(read_runs(list(map(str, copies))), Bootstrap(100))
    names = [table.name for table in breakdowns]
    assert len(names) == len(set(names)) and {"tempcompass_task", "tempcompass_dim"} <= set(names)
    by_task = next(table for table in breakdowns if table.name == "tempcompass_task")
    assert [column.group for column in by_task.columns] == ["multi-choice", "caption matching"]


def test_same_answers_have_a_chance_but_no_badge_for_being_below_it(runs):
    column = tables(runs[:1], 100)["relations", "DyBench, dynamic", "Same answer"]
    want = json.loads((runs[0] / "dybench" / "result.json").read_text())["metrics"]["same_answer"]["chance"]
    assert column.falls and column.chance == pytest.approx(want)
    assert not at_chance(column, column.cells["base"])


def test_answers_that_stay_under_flip_and_reversal(copies, tmp_path):
    """DyBench by its static sub-task, MVBench by the router's types: Static must stay, Spatial change in the mirror."""
    types: dict[str, str] = {}
    flip, reverse = COUNTERFACTUALS
    for part, setting in (("dybench", flip), ("mvbench", flip), ("mvbench", reverse)):
        for at, run in enumerate(copies):
            rows = rows_of(run, part)[: None if at else -2]  # the first run was asked two questions fewer
            types |= {r["id"]: ("Static", "Spatial", "Temporal", "Spatiotemporal")[i % 4] for i, r in enumerate(rows)}
            flipped = [r | {"answer": r["answer"] if i % 3 else None} for i, r in enumerate(rows)]
            write_part(run / f"{part}.{setting}", flipped)
    paper, _, said = all_tables(read_runs(list(map(str, copies))), Bootstrap(100), {"mvbench": types})
    assert not [column for table in paper if table.name == "table4_mvbench" for column in table.columns]
    relations = next(table for table in paper if table.name == "relations")
    found = {column.group: column for column in relations.columns}
    for part, heading, setting, kinds in (
        ("dybench", "DyBench, static, flipped", flip, None),
        ("mvbench", "MVBench, static, flipped", flip, ("Static",)),
        ("mvbench", "MVBench, dynamic, flipped", flip, ("Spatial", "Spatiotemporal")),
        ("mvbench", "MVBench, dynamic, reversed", reverse, ("Temporal", "Spatiotemporal")),
    ):
        for run in copies:
            before = {row["id"]: row["answer"] for row in rows_of(run, part)}
            rows = [
                row
                for row in rows_of(run, f"{part}.{setting}")[: -2 if run == copies[1] else None]
                if (types[row["id"]] in kinds if kinds else row["subtask"] == "static")
            ]
            stays = [row["answer"] is not None and row["answer"] == before[row["id"]] for row in rows]
            assert found[heading].cells[run.name].score.value == pytest.approx(100 * np.mean(stays)), heading
            assert found[heading].n == len(rows) > 2
    assert found["MVBench, dynamic, flipped"].falls and not found["MVBench, static, flipped"].falls
    assert "DyBench, dynamic, flipped" not in found  # no router has told what a mirror changes there
    assert any("mvbench.horizontal_flip: compared on the" in line for line in said)


def test_accuracy_against_the_routers_dynamic_fraction(runs, tmp_path, capsys):
    rows = rows_of(runs[0], "mvbench")
    types = {row["id"]: "Static" for row in rows if row["facts"]["task"] == "moving_count"}
    first, second, third = [row["id"] for row in rows if row["facts"]["task"] == "action_sequence"][:3]
    types |= {first: "Temporal", second: "Spatial", third: "Static", rows[2]["id"]: None}
    file = tmp_path / "routed.jsonl"
    file.write_text("".join(json.dumps({"problem_id": own, "task_type": kind}) + "\n" for own, kind in types.items()))
    name, read = read_routed(f"mvbench={file}")
    paper, _, _ = all_tables(read_runs(list(map(str, runs[:2]))), Bootstrap(100), {name: read})
    table = paper[-1]
    assert [column.group for column in table.columns] == [
        "moving count: 0 % dynamic of 16",
        "action sequence: 67 % dynamic of 3",  # scene_transition has no label
    ]
    for run in runs[:2]:
        right = [row["correct"] for row in rows_of(run, "mvbench") if row["facts"]["task"] == "action_sequence"]
        assert table.columns[1].cells[run.name].score.value == pytest.approx(100 * np.mean(right))
        assert table.points[run.name][1]["acc"] == pytest.approx(100 * np.mean(right))
    fractions(table, {"base": "#000000", "crpo": "#E69F00"}, tmp_path / "fig1.png")
    with Image.open(tmp_path / "fig1.png") as picture:
        picture.verify()
    for flag, said in (
        (str(file), "must be NAME=FILE"),
        (f"videomme={file}", "must be one that a run answered, of mvbench"),
        (f"tempcompass_yes_no={file}", "must be one that a run answered"),
    ):
        assert said in refusal(capsys, tmp_path, runs[0], "--routed", flag)
    assert "--routed needs a run of eval.run" in refusal(capsys, tmp_path, runs[2], "--routed", f"mvbench={file}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "x", "task_type": "Static"}', "labels none of the questions that were answered"),
        ('{"id": "x", "task_type": "static"}', "1 task_type must be one of Spatial, "),
        ('{"task_type": "Static"}', "1 must have an id or problem_id of its own"),
        ('{"id": 1}\n{"id": "1"}', "2 must have an id or problem_id of its own"),
        ('{"id": 1}\n{"id', "2 is not valid JSON"),
    ],
)
def test_routed_rows_that_are_none(runs, tmp_path, capsys, line, said):
    file = tmp_path / "routed.jsonl"
    file.write_text(line + "\n")
    assert said in refusal(capsys, tmp_path, runs[0], "--routed", f"mvbench={file}")


@pytest.mark.slow
def test_the_dynamic_fraction_stands_in_the_page(runs, tmp_path):
    file = tmp_path / "routed.jsonl"
    file.write_text(
        "".join(json.dumps({"id": r["id"], "task_type": "Spatial"}) + "\n" for r in rows_of(runs[0], "mvbench"))
    )
    page = build(tmp_path, *runs[:2], gallery=0, routed=(f"mvbench={file}",))
    assert "moving count: 100 % dynamic of 16" in page and "each dot a sub-task of a model (fig1_mvbench.png)" in page


# -- settings ----------------------------------------------------------------------------------------------------------


def set_settings(run: Path, **values) -> None:
    file = run / "settings.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_every_setting_that_answers_depend_on_is_compared():
    asked = {setting.name for setting in fields(BenchmarkArgs)} - FREE_IN_A_RUN - {"model", "base_url"}
    assert asked | {"temperature"} == set(COMPARED)


def test_settings_that_differ_are_said_with_both_values(copies):
    for run, frames, prompt in zip(copies, (32, 8), ("", EVIL), strict=True):
        set_settings(run, frames=frames, system_prompt=prompt, seed=0)
    found, said = settings_of(read_runs(list(map(str, copies))))
    assert found["seed"] == {"base": "0", "crpo": "0"} and "max_pixels" not in found
    assert len(said) == 2 and said[0].startswith("frames differs (base 32, crpo 8): ")
    assert said[1].startswith("system_prompt differs (base (empty), crpo <script>")
    set_settings(copies[1], frames=32, system_prompt="", max_pixels=7)
    assert [line[:50] for line in settings_of(read_runs(list(map(str, copies))))[1]] == [
        "max_pixels differs (base not recorded, crpo 7): wh"
    ]
    assert settings_of(read_runs([str(copies[1])]))[1] == []


@pytest.mark.slow
def test_settings_stand_in_the_page(copies, tmp_path):
    for run, prompt in zip(copies, ("", EVIL), strict=True):
        set_settings(run, frames=32, system_prompt=prompt)
    page = build(tmp_path, *copies, gallery=0)
    assert "<li>system_prompt differs (base (empty), crpo &lt;script&gt;" in page and EVIL not in page
    assert '<th scope="row">system_prompt (differs)</th><td><bdi>(empty)</bdi></td>' in page
    assert '<th scope="row">frames</th><td><bdi>32</bdi></td><td><bdi>32</bdi></td>' in page


# -- the page ----------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Tags and their attributes, as a browser would find them."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.mark.slow
def test_the_page_holds_everything_and_runs_nothing_of_the_models(whole):
    page = (whole / "report.html").read_text()
    tags = Tags(page)
    assert EVIL not in page and "&lt;script&gt;document.title" in page
    assert len(tags.of("script")) == 1 and not any(name.startswith("on") for _, found in tags.found for name in found)
    addresses = [found[name] for _, found in tags.found for name in ("src", "href") if name in found]
    assert addresses and all(address.startswith(("data:image/", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?:", page)
    assert "\ud800" not in page and "\x1b" not in page and "more characters in predictions.jsonl" in page
    assert max(map(len, re.findall(r'<pre class="reply">(.*?)</pre>', page, re.S))) < 6 * MAX_REPLY
    for name in ("table1", "table4_dybench", "table5_dybench", "relations", "curves", "dynamics"):
        with Image.open(whole / f"{name}.png") as picture:
            picture.verify()


@pytest.mark.slow
def test_pictures_of_the_page_have_words_and_ids_are_told_once(whole):
    tags = Tags((whole / "report.html").read_text())
    assert all("alt" in image for image in tags.of("img"))
    ids = [found["id"] for _, found in tags.found if "id" in found]
    assert len(ids) == len(set(ids)) and tags.of("html")[0]["lang"] == "en"
    assert all(re.search("[a-z]", strip["aria-label"]) for strip in tags.of("div") if strip.get("role") == "img")


@pytest.mark.slow
def test_a_model_has_one_colour_and_a_training_run_that_of_its_evaluation(runs, tmp_path):
    found = read_runs([str(runs[0]), f"Ours={runs[1]}", str(runs[2])])
    assert [run.label for run in found] == ["base", "Ours", "Ours"]  # its model lies in the training run's folder
    colours = report.colour([found[2]], found)
    assert list(colours) == ["base", "Ours"] and colours["Ours"] == report.COLOURS[0]  # the curves' first
    page = build(tmp_path, runs[0], f"Ours={runs[1]}", runs[2], gallery=2)
    assert set(re.findall(r'--model: var\(--c(\d)\)"><bdi>(\w+)', page)) == {("1", "base"), ("0", "Ours")}


def test_jpegs_are_small():
    noise = np.random.default_rng(0).integers(0, 256, (32 * 60, 96, 3), dtype=np.uint8)  # tall, and hard to compress
    assert len(jpeg(noise)) < 30_000


def test_the_gallery_is_the_same_twice_and_shows_every_outcome(runs):
    pairs = pairs_of(read_runs([str(run) for run in runs[:2]]), "dybench")
    chosen = choose(pairs, 12, seed=0)
    assert chosen == choose(pairs[::-1], 12, seed=0) and chosen != choose(pairs, 12, seed=1) and len(chosen) == 12
    assert {pair.subtask for pair in chosen} == {pair.subtask for pair in pairs}
    assert choose(pairs, 1000, seed=0) == sorted(pairs, key=lambda pair: (pair.subtask, pair.name))


def test_one_answer_on_both_sides_is_told_by_the_options_words(copies):
    def answer_left(rows):
        for row in rows[:2]:
            row |= {"options": [["A. left", "B. right"], ["A. right", "B. left"]][row["side"] == "b"]}
            row |= {"answer": "A" if row["side"] == "a" else "B", "gold": "A", "correct": row["side"] == "a"}
        return rows

    for run in copies:
        spoil(run, "dybench", answer_left)
    pair = pairs_of([read_run(str(copies[0]))], "dybench")[0]
    assert pair.same("base") and pair.outcome("base") == "one"


# -- bad input ---------------------------------------------------------------------------------------------------------


def refusal(capsys, tmp_path: Path, *arguments: object) -> str:
    """The one line of a refused report."""
    code = report.main(
        [*map(str, arguments), "--output", str(tmp_path / "out"), "--gallery", "0", "--resamples", "100"]
    )
    said = capsys.readouterr()
    assert code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1 and not said.out, said
    return said.err


def test_folders_that_are_no_runs(copies, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refusal(capsys, tmp_path, tmp_path / "nowhere")
    assert "neither an evaluation run" in refusal(capsys, tmp_path, copies[0], tmp_path / "empty")
    (tmp_path / "empty" / "settings.json").write_text("{}")
    assert "without predictions" in refusal(capsys, tmp_path, tmp_path / "empty")
    (copies[0] / "mvbench" / "predictions.jsonl").unlink()
    assert "result.json but no predictions.jsonl" in refusal(capsys, tmp_path, copies[0])
    twin = shutil.copytree(copies[1], tmp_path / "other" / "crpo")
    assert "are both called 'crpo'" in refusal(capsys, tmp_path, copies[1], twin)
    assert "at least one RUN" in refusal(capsys, tmp_path)


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        ("", "holds no prediction"),
        ("{}\n", "predictions.jsonl:1 has no 'id'"),
        ('{"id": "1"}\n[]\n', "predictions.jsonl:1 has no 'problem'"),
        ('{"id": "1", "probl', "predictions.jsonl:1 is not valid JSON"),
    ],
)
def test_predictions_that_are_none(copies, tmp_path, capsys, spoiled, said):
    (copies[0] / "dybench" / "predictions.jsonl").write_text(spoiled)
    assert said in refusal(capsys, tmp_path, copies[0])


def test_rows_of_wrong_types_and_double_ids(copies, tmp_path, capsys):
    file = copies[0] / "dybench" / "predictions.jsonl"
    first, *rest = file.read_text().splitlines(keepends=True)
    file.write_text(first.replace('"correct": ', '"correct": "no", "was": ') + "".join(rest))
    assert "predictions.jsonl:1 'correct' must be of type bool, got 'no'" in refusal(capsys, tmp_path, copies[0])
    file.write_text(first + first + "".join(rest))
    assert "predictions.jsonl:2 id 'reversible_dynamics/000/a' is given twice" in refusal(capsys, tmp_path, copies[0])
    file.write_text(first + '{"id": "torn')
    assert "predictions.jsonl:2 is not valid JSON" in refusal(capsys, tmp_path, copies[0])


@pytest.mark.slow
def test_other_questions_are_refused_and_others_counts_are_said(copies, tmp_path, capsys):
    spoil(copies[1], "dybench", lambda rows: rows[:-3])
    with pytest.raises(ValueError, match="name at least"):
        read_runs([])
    page = build(tmp_path, *copies, gallery=0)
    # 48 rows; three lost are one pair and a side, and the pair that is torn in one run counts in none
    assert "dybench: compared on the 44 items that all runs answered; answered were base 48, crpo 45" in page
    assert "result.json is of 48 items, predictions.jsonl of 45" in page
    spoil(copies[1], "dybench", lambda rows: [row | {"gold": "Z"} for row in rows])
    assert "different questions under id" in refusal(capsys, tmp_path, *copies)
    spoil(copies[1], "dybench", lambda rows: [row | {"id": f"x{row['id']}"} for row in rows])
    assert "no question in common (base 48, crpo 45)" in refusal(capsys, tmp_path, *copies)


@pytest.mark.slow
def test_a_pair_without_its_other_side_is_wrong_and_shown_so(copies, tmp_path):
    spoil(copies[0], "dybench", lambda rows: [row | {"correct": True} for row in rows[:3]])
    page = build(tmp_path, copies[0])
    assert "1 of 2 units are not of 2 answers" in page and "The other side of this pair was not answered." in page
    assert tables(copies[:1], 100)["table1", "DyBench", "P-Acc"].cells["base"].score.value == 50.0


@pytest.mark.slow
def test_only_static_pairs_or_one_benchmark_alone(copies, tmp_path):
    spoil(copies[0], "dybench", lambda rows: [row for row in rows if row["subtask"] == "static"])
    for part in copies[0].iterdir():
        if part.is_dir() and part.name != "dybench":
            shutil.rmtree(part)
    page = build(tmp_path, copies[0], gallery=2)
    assert "Table 5" in page and "Table 1" not in page and "Static" in page


@pytest.mark.slow
def test_clips_that_are_not_there(copies, tmp_path, world):
    settings = json.loads((copies[0] / "settings.json").read_text())
    page = build(tmp_path, copies[0], gallery=1, data_root=tmp_path)
    assert "4 of 4 clips of the gallery could not be shown" in page and page.count("No frames: ") == 4
    assert f"no such file under {os.path.realpath(tmp_path)}" in page
    (copies[0] / "settings.json").write_text(json.dumps(settings | {"data_root": None}))
    assert "settings.json names no data_root; give --data-root" in build(tmp_path, copies[0], gallery=1)
    (copies[0] / "settings.json").write_text(json.dumps(settings | {"data_root": str(world / "clips")}))
    spoil(copies[0], "dybench", lambda rows: [row | {"path": "../eval.jsonl"} for row in rows])
    spoil(copies[0], "timeblind", lambda rows: [row | {"path": None} for row in rows])
    page = build(tmp_path, copies[0], gallery=1)
    assert page.count("leaves the data root") == 2 and page.count("this question has no clip") == 2


@pytest.mark.slow
def test_training_runs_without_a_finite_number(tmp_path, capsys):
    run = tmp_path / "train"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "reward/correct": NaN, "reward/format": null}\n')
    assert "no curve to draw" in refusal(capsys, tmp_path, run)
    (run / "metrics.jsonl").write_text("")
    assert "no curve to draw" in refusal(capsys, tmp_path, run)
    (run / "metrics.jsonl").write_text('{"step": 1, "reward/correct": 0.5}\n')  # no count of rollouts: by step
    assert "Training curves" in build(tmp_path, run)


@pytest.mark.slow
def test_questions_not_answered_and_parts_not_merged_are_said(copies, tmp_path):
    spoil(copies[0], "mvbench", lambda rows: [row | {"error": "no such file", "correct": False} for row in rows])
    (copies[0] / "videomme" / "predictions.jsonl.part-0001").write_text("")
    (copies[0] / "timeblind" / "result.json").unlink()
    page = build(tmp_path, copies[0], gallery=0)
    assert "48 of 48 questions were not answered, and count as wrong" in page
    assert "answers of a stopped run are not merged" in page and "no result.json" in page


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gallery", "-1"], "--gallery must be at least 0, got -1"),
        (["--frames", "7"], "--frames must be even"),
        (["--resamples", "1"], "--resamples must be at least 100"),
        (["--decode-timeout", "nan"], "--decode-timeout must be positive"),
        (["--data-root", "/nowhere"], "no such folder"),
    ],
)
def test_flags(runs, tmp_path, capsys, flags, said):
    assert report.main([str(runs[0]), "--output", str(tmp_path), *flags]) == 2
    assert said in capsys.readouterr().err


def test_more_runs_than_colours(runs, tmp_path, capsys):
    names = [f"m{at}={runs[0]}" for at in range(8)]
    assert "no more than 7 colours" in refusal(capsys, tmp_path, *names)


# -- in a browser ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium of Debian's package, which is installed where root can."""
    webdriver = pytest.importorskip("selenium.webdriver")
    wanted = ("chromium", "chromedriver")
    if not all(map(shutil.which, wanted)) and shutil.which("apt-get") and os.geteuid() == 0:
        apt = "apt-get -q -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20"
        install = f"{apt} update && {apt} install -y --no-install-recommends chromium chromium-driver"
        with contextlib.suppress(subprocess.TimeoutExpired):  # a machine without a network
            subprocess.run(install, shell=True, capture_output=True, timeout=150)
    if not all(map(shutil.which, wanted)):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1400,1000"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def resize(browser, width: int) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    )


@pytest.mark.slow
def test_filters_in_a_browser(browser, whole):
    browser.get_log("performance")
    browser.get((whole / "report.html").as_uri())
    cards = browser.find_elements("css selector", ".pair")
    count = browser.find_element("id", "count")
    shown = lambda: [card for card in cards if card.is_displayed()]  # noqa: E731
    assert len(shown()) == len(cards) == 48 and count.text == "48 of 48 pairs"

    def click(group: str, value: str) -> None:
        browser.find_element("css selector", f'input[name="{group}"][value="{value}"] + span').click()

    at = [model.text for model in browser.find_elements("css selector", ".models li")].index("crpo")
    click("subtask", "moving_direction")
    moving = shown()
    assert moving and all("Moving Direction" in card.find_element("tag name", "h3").text for card in moving)
    click(f"m{at}", "one")
    both = shown()
    assert both and len(both) < len(moving)
    for card in both:  # the verdicts a person reads, not the attribute that was filtered by
        answers = [li for li in card.find_elements("css selector", ".answers li") if li.text.startswith("crpo")]
        assert sorted("✓ right" in li.text for li in answers) == [False, True]
    assert count.text == f"{len(both)} of 48 pairs"
    click("benchmark", "timeblind")
    assert not shown() and browser.find_element("css selector", ".nothing").is_displayed()
    browser.find_element("id", "show-all").click()
    assert len(shown()) == 48
    click(f"m{at}", "same")
    assert shown() and all("crpo same" not in card.text and "same answer" in card.text for card in shown())

    reply = next(card for card in shown()).find_element("css selector", "details")
    reply.find_element("tag name", "summary").click()
    assert reply.find_element("tag name", "pre").is_displayed()
    assert browser.title == "Evaluation report" and not browser.get_log("browser")  # no script of a model's, no error
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
    assert addresses and all(address.startswith(("file:", "data:")) for address in addresses)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_and_is_legible(browser, whole, width, scheme):
    """Nothing runs over the side, every frame is there, and text stands out by WCAG's 4.5 to 1."""
    resize(browser, width)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get((whole / "report.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    loaded = "return [...document.images].map(i => (i.loading = 'eager', i.decode().then(() => i.naturalWidth)))"
    assert all(browser.execute_async_script(f"Promise.all((() => {{{loaded}}})()).then(arguments[0])"))
    if width == 1400:  # both tables whole on a usual screen
        for table in browser.find_elements("css selector", "#results .scroll")[:2]:
            assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", table)
    contrasts = browser.execute_script(CONTRASTS)
    assert len(contrasts) > 100 and min(ratio for ratio, _ in contrasts) >= 4.5, min(contrasts)


CONTRASTS = """
const parse = (c) => c.match(/[\\d.]+/g).map(Number);
const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * r + .7152 * g + .0722 * b; };
const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
                        if (c.length < 4 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
const words = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
return [...document.querySelectorAll("body *")]
  .filter((e) => e.checkVisibility() && !e.closest(".strip, script") && words(e))
  .map((e) => {
    const [a, b] = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(ground(e))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), e.className + ": " + e.textContent.slice(0, 40)];
  });
"""
