"""Accumulation over ranks, the log on disk and in TensorBoard, and what happens when the disk fails."""

from __future__ import annotations

import io
import json
import math
import random
import sys
from datetime import timedelta

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from torch import distributed as dist
from torch import multiprocessing as mp

import metrics
import samples
from metrics import METRICS, Accumulator, MetricLog, describe, progress_line, read_metrics


def board(run_dir):
    events = EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
    return events.Reload()


# ---- names


def test_every_name_has_one_line_and_patterns_match_one_part_only():
    assert all(meaning and "\n" not in meaning for meaning in METRICS.values())
    assert describe("eval/moving_direction/pair_acc") == METRICS["eval/*/pair_acc"]
    for wrong in ("policy/los", "eval/a/b/acc", "eval//acc", "eval/*/acc", "eval/x/f1", "xeval/a/acc"):
        with pytest.raises(KeyError, match="unknown metric"):
            describe(wrong)


def test_an_unknown_name_cannot_be_emitted(tmp_path):
    numbers = Accumulator()
    for emit in (numbers.add, numbers.max, numbers.total):
        with pytest.raises(KeyError, match="reward/corect"):
            emit("reward/corect", 1.0)
    with pytest.raises(KeyError, match="reward/corect"):
        MetricLog(tmp_path, append=False).write(1, {"reward/corect": 1.0})


# ---- accumulation


def test_a_mean_weighs_every_element_once():
    rng = random.Random(1)
    numbers, seen = Accumulator(), []
    for _ in range(20):
        part = [rng.random() for _ in range(rng.randint(0, 7))]
        numbers.add("reward/correct", torch.tensor(part, dtype=torch.float64).reshape(1, -1))
        seen += part
    numbers.add("reward/correct", 0.25)
    numbers.add("reward/correct", 6.0, count=3)
    want = (sum(seen) + 0.25 + 6.0) / (len(seen) + 4)
    assert numbers.reduce() == {"reward/correct": pytest.approx(want, rel=1e-12)}


def test_reduce_knows_bools_totals_and_maxima_and_then_forgets():
    numbers = Accumulator()
    numbers.add("group/zero_advantage", torch.tensor([True, False, True, True]))
    numbers.add("reward/behave", torch.tensor([]))  # no counterfactual this round: absent, not 0 and not a crash
    numbers.total("data/questions", 3)
    numbers.total("data/questions", 4)
    numbers.max("policy/ratio_max", torch.tensor([1.5, 3.0]))
    numbers.max("policy/ratio_max", torch.tensor([]))
    numbers.max("policy/ratio_max", 2.0)
    assert numbers.reduce() == {"data/questions": 7.0, "group/zero_advantage": 0.75, "policy/ratio_max": 3.0}
    assert numbers.reduce() == {}


def test_a_maximum_does_not_hide_nan():
    for first, second in ((math.nan, 1.0), (1.0, math.nan)):
        numbers = Accumulator()
        numbers.max("policy/ratio_max", first)
        numbers.max("policy/ratio_max", second)
        assert math.isnan(numbers.reduce()["policy/ratio_max"])


def test_one_name_has_one_meaning():
    numbers = Accumulator()
    numbers.add("policy/ratio_max", 1.0)
    with pytest.raises(ValueError, match="used as a mean and as a max"):
        numbers.max("policy/ratio_max", 2.0)


WAIT = timedelta(seconds=60)


def reduce_on_a_rank(_, rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=WAIT)
    numbers = Accumulator()
    numbers.add("reward/correct", torch.tensor([1.0, 0.0, 0.0]) if rank else torch.tensor([1.0]))
    numbers.max("policy/ratio_max", 5.0 - rank)
    numbers.total("data/questions", 1 + rank)
    if rank:
        numbers.add("relation/static_kept", 0.5)
    reduced = numbers.reduce()
    (folder / f"{rank}.json").write_text(json.dumps(list(reduced.items())))
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_other_counts_and_names_agree(tmp_path):
    other = mp.spawn(reduce_on_a_rank, (1, tmp_path), nprocs=1, join=False)
    reduce_on_a_rank(0, 0, tmp_path)
    other.join()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first == [
        ["data/questions", 3.0],
        ["policy/ratio_max", 5.0],
        ["relation/static_kept", 0.5],
        ["reward/correct", 0.5],  # 2 of 4 rollouts; a mean of the ranks' means would be 2/3
    ]


# ---- the log


def test_what_is_written_is_read_back_here_and_in_tensorboard(tmp_path):
    log = MetricLog(tmp_path, append=False)
    log.write(1, {"policy/loss": 0.5, "eval/direction/acc": 40})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "policy/loss": 0.5, "eval/direction/acc": 40.0}]
    picture = torch.zeros(4, 6, 3, dtype=torch.uint8)
    log.image("samples/0", picture, 1)
    log.close()
    events = board(tmp_path)
    assert [(e.step, e.value) for e in events.Scalars("policy/loss")] == [(1, 0.5)]
    assert [(e.width, e.height) for e in events.Images("samples/0")] == [(6, 4)]


def test_a_picture_of_another_shape_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\), got float32 \(3, 4, 6\)"):
        MetricLog(tmp_path, append=False).image("samples/0", torch.zeros(3, 4, 6), 1)


def test_nan_becomes_null_and_is_named_on_stderr(tmp_path, capsys):
    MetricLog(tmp_path, append=False).write(3, {"policy/loss": math.nan, "policy/kl": math.inf, "policy/lr": 1e-6})

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 3, "policy/loss": None, "policy/kl": None, "policy/lr": 1e-6}
    error = capsys.readouterr().err
    assert "step 3" in error and "policy/loss=nan" in error and "policy/kl=inf" in error and "policy/lr" not in error
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["policy/loss"])


def test_resume_drops_the_steps_that_will_come_again(tmp_path):
    log = MetricLog(tmp_path, append=False)
    for step in (1, 2, 3):
        log.write(step, {"policy/loss": float(step)})
    log.close()
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 4, "policy/lo')  # the crash came in the middle of a line
    log = MetricLog(tmp_path, append=True)
    log.truncate_after(2)
    log.write(3, {"policy/loss": 30.0})
    log.close()
    assert [(r["step"], r["policy/loss"]) for r in read_metrics(log.path)] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [(e.step, e.value) for e in board(tmp_path).Scalars("policy/loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_append_cuts_a_torn_line_and_refuses_a_second_object_for_a_step(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "policy/loss": 1.0}\n{"step": 2, "pol')
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1]
    log = MetricLog(tmp_path, append=True)
    with pytest.raises(ValueError, match="already holds step 1"):
        log.write(1, {"policy/loss": 2.0})
    log.write(2, {"policy/loss": 2.0})
    assert [row["step"] for row in read_metrics(log.path)] == [1, 2]


def test_a_fresh_run_empties_the_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    MetricLog(tmp_path, append=False).write(1, {"policy/loss": 2.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "policy/loss": 2.0}]


@pytest.mark.parametrize(
    "broken", ['{"step": 1\n{"step": 2}\n', '[]\n{"step": 2}\n', '{"policy/loss": 1}\n{"step": 2}\n']
)
def test_a_broken_line_that_is_not_the_last_is_named(tmp_path, broken):
    (tmp_path / "metrics.jsonl").write_text(broken)
    with pytest.raises(ValueError, match="line 1 is not a JSON object"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_a_log_with_a_damaged_line_is_set_aside_and_the_run_goes_on(tmp_path, capsys):
    damaged = b'{"step": 1}\n\0\0\0\n{"step": 2}\n'
    for name in ("metrics.jsonl", "samples.jsonl"):
        (tmp_path / name).write_bytes(damaged)
    log = MetricLog(tmp_path, append=True)
    log.truncate_after(2)
    samples.truncate_after(str(tmp_path), 2)
    log.write(3, {"policy/loss": 1.0})
    assert [row["step"] for row in read_metrics(log.path)] == [3]
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged and "line 2" in capsys.readouterr().err
    assert [json.loads(line)["step"] for line in open(tmp_path / "samples.jsonl")] == [1, 2]


def test_a_stderr_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    MetricLog(tmp_path, append=False).write(1, {"policy/loss": math.nan})
    assert math.isnan(read_metrics(tmp_path / "metrics.jsonl")[0]["policy/loss"])


def test_a_disk_that_cannot_be_written_warns_once_and_goes_on(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    log = MetricLog(tmp_path / "file" / "run", append=False)
    for step in (1, 2):
        log.write(step, {"policy/loss": 1.0})
        log.text("samples/0", "text", step)
    log.close()
    assert capsys.readouterr().err.count("\n") == 1 and log.errors > 2


def test_what_a_full_disk_left_of_a_sample_is_cut_off_before_the_next(tmp_path, capsys):
    log, path = MetricLog(tmp_path, append=False), tmp_path / "samples.jsonl"
    record = {"problem": "?", "options": [], "gold": "A", "task_type": None, "branches": []}
    samples.write(str(tmp_path), 1, record, [], log)
    with open(path, "a") as file:
        file.write('{"step": 2, "pro')
    samples.write(str(tmp_path), 3, record, [], log)
    samples.write(str(tmp_path), 5, record, [], log)
    samples.truncate_after(str(tmp_path), 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
    path.unlink()
    path.mkdir()  # cannot be written, whoever tries
    samples.write(str(tmp_path), 6, record, [], log)
    assert log.errors == 1 and "training goes on" in capsys.readouterr().err


def test_a_disk_that_recovers_leaves_a_readable_file(tmp_path, capsys, monkeypatch):
    log = MetricLog(tmp_path, append=False)
    log.write(1, {"policy/loss": 1.0})
    real = open

    def half_a_line(path, mode):
        file = real(path, mode)
        file.write(b'{"step": 2, "po')
        file.close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(metrics, "open", half_a_line, raising=False)
    log.write(2, {"policy/loss": 2.0})
    monkeypatch.setattr(metrics, "open", real)
    log.write(3, {"policy/loss": 3.0})
    assert [row["step"] for row in read_metrics(log.path)] == [1, 3]
    assert "No space left on device" in capsys.readouterr().err


def test_a_failing_tensorboard_leaves_the_file_whole(tmp_path, capsys, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(metrics.SummaryWriter, "add_scalar", fail)
    log = MetricLog(tmp_path, append=False)
    for step in (1, 2, 3):
        log.write(step, {"policy/loss": 1.0})
    log.close()
    assert len(read_metrics(log.path)) == 3
    assert capsys.readouterr().err.count("Input/output error") == 1
    assert len(list(tmp_path.glob("events*"))) == 1  # given up, not opened anew every step


def test_model_text_is_shown_and_not_obeyed(tmp_path):
    wild = "<script>alert(1)</script> </pre> ![x](http://h/p.png)\n\n# big\n[l](http://h) **b** `c` \x1b[31m\x00 end"
    log = MetricLog(tmp_path, append=False)
    log.text("samples/0", wild, 1)
    log.close()
    (event,) = board(tmp_path).Tensors("samples/0/text_summary")
    stored = event.tensor_proto.string_val[0]
    assert not {0x1B, 0x00} & set(stored)
    shown = markdown_to_safe_html(stored)  # what TensorBoard's own page does with it
    for tag in ("<script", "<img", "<a ", "<h1", "<strong"):
        assert tag not in shown
    assert shown.count("</pre>") == 1 and "&lt;script&gt;" in shown and "**b**" in shown and "end" in shown


# ---- the console line


def test_the_progress_line_keeps_its_columns_when_values_are_missing():
    full = progress_line(
        7,
        200,
        {
            "reward/correct": 0.611,
            "reward/format": 0.98,
            "reward/behave": 0.4,
            "reward/crr_orig": 0.0812,
            "group/zero_advantage": 0.25,
            "policy/engine_gap_mean": 0.00213,
            "policy/grad_norm": 1.234,
            "time/round": 31.24,
        },
    )
    for shown in ("step   7/200", "correct 0.61", "crr 0.081", "zero-adv 0.25", "gap 0.0021", "grad  1.23", "31.2 s"):
        assert shown in full
    empty = progress_line(123, 200, {})
    assert len(empty) == len(full) < 140 and "\n" not in empty and "correct    -" in empty
    assert progress_line(1, 2, {"eval/pair_acc": 83.33}).endswith("pair acc 83.3 %")
