"""pytest tests/test_checkpoint.py -- what a checkpoint holds, which are kept and taken, what is refused; AdamW."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import gc
import json
import os
import random
import resource
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._dtensor_spec import DTensorSpec

import checkpoint
import parallel
import run_folder
from config import Config, parse

pytestmark = pytest.mark.usefixtures("one_rank")


def made(seed: int = 0, steps: int = 2) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    policy = torch.nn.Linear(96, 96)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    train_on(policy, optimizer, steps)
    return policy, optimizer


def train_on(policy, optimizer, steps: int) -> None:
    for step in range(steps):
        policy(torch.full((1, 96), float(step))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def save(run_dir: Path, step: int, *, state: dict | None = None, keep: int = 2, score=None, score_of="acc", **how):
    policy, optimizer = made(**how)
    ranked = dict(keep=keep, score=score, score_of=score_of)
    checkpoint.save(str(run_dir), step, policy, optimizer, {"step": step} | (state or {}), **ranked)
    return policy, optimizer


def steps_in(run_dir: Path) -> list[int]:
    return [int(folder.rpartition("_")[2]) for folder in checkpoint.complete(str(run_dir))]


@pytest.mark.parametrize("steps", [2, 0], ids=["after two steps", "before the first"])
def test_what_goes_on_is_what_was_saved_to_the_bit(tmp_path, steps):
    policy, optimizer = save(tmp_path, 7, steps=steps)
    drawn = [random.random(), np.random.rand(), torch.rand(3)]
    train_on(policy, optimizer, 3)
    other, its_optimizer = made(seed=1, steps=0)
    found = checkpoint.newest(str(tmp_path))
    assert found.state["step"] == 7
    checkpoint.load(found, other, its_optimizer)
    again = [random.random(), np.random.rand(), torch.rand(3)]
    assert again[:2] == drawn[:2] and torch.equal(again[2], drawn[2])
    train_on(other, its_optimizer, 3)
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), other.parameters(), strict=True))


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [tear, flip, Path.unlink])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "state.json", "rng_0.pt", "COMPLETE"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, capsys, name, harm):
    for step in (1, 2):
        save(tmp_path, step)
    harm(tmp_path / "checkpoints" / "step_000002" / name)
    assert checkpoint.newest(str(tmp_path)).state["step"] == 1
    said = capsys.readouterr().out
    if name == "COMPLETE" and harm is Path.unlink:  # as if it had never been finished
        assert not said
    else:
        assert said.count("\n") == 1 and "step_000002 is damaged" in said
        assert name in said or name == "COMPLETE"  # a wrong digest there shows as another file's fault
        assert (tmp_path / "checkpoints" / "step_000002.damaged").is_dir()
    save(tmp_path, 2)
    assert steps_in(tmp_path) == [1, 2]


def test_without_any_whole_checkpoint_a_run_does_not_begin_anew_in_silence(tmp_path):
    save(tmp_path, 1)
    tear(tmp_path / "checkpoints" / "step_000001" / "__0_0.distcp")
    with pytest.raises(ValueError, match="every checkpoint is damaged"):
        checkpoint.newest(str(tmp_path))


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, score in enumerate([10.0, 60.0, None, 60.0, float("nan"), 20.0, None, None], 1):
        save(tmp_path, step, keep=2, score=score, steps=0)
    assert steps_in(tmp_path) == [4, 7, 8], "of two equals the newer"
    save(tmp_path, 9, keep=2, score=61.0, steps=0)
    save(tmp_path, 10, keep=2, steps=0)
    assert steps_in(tmp_path) == [9, 10]
    save(tmp_path, 11, keep=1, score=0.5, score_of="reward", steps=0)
    save(tmp_path, 12, keep=1, score=0.4, score_of="reward", steps=0)
    assert steps_in(tmp_path) == [11, 12], "61 was of another metric"


def test_an_old_checkpoint_that_cannot_be_removed_costs_nothing(tmp_path, capsys, monkeypatch):
    """Rank 0 removes alone: had it raised, the others would have waited for it."""
    save(tmp_path, 1, keep=1, steps=0)

    def busy(path, ignore_errors=False):
        if not ignore_errors:
            raise OSError(16, "Device or resource busy", path)

    monkeypatch.setattr(shutil, "rmtree", busy)
    save(tmp_path, 2, keep=1, steps=0)
    assert "resource busy" in capsys.readouterr().out and steps_in(tmp_path) == [2]
    monkeypatch.undo()
    save(tmp_path, 3, keep=1, steps=0)
    assert os.listdir(tmp_path / "checkpoints") == ["step_000003"]


def test_what_a_crash_left_is_gone_after_the_next_save(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "step_000001", folder / "step_000002.writing")
    shutil.copytree(folder / "step_000001", folder / "step_000003", ignore=lambda *_: ["COMPLETE"])
    assert checkpoint.newest(str(tmp_path)).state["step"] == 1
    save(tmp_path, 4)
    assert sorted(os.listdir(folder)) == ["step_000001", "step_000004"]


@pytest.mark.parametrize("room", [64, 4096, 40_000], ids=["nothing", "the small files", "a part of the tensors"])
def test_a_full_disk_costs_the_checkpoint_being_written_and_no_other(tmp_path, room):
    save(tmp_path, 1)
    policy, optimizer = made(seed=3)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))  # a larger file fails as on a full disk
    try:
        with pytest.raises(OSError):
            checkpoint.save(str(tmp_path), 2, policy, optimizer, {"step": 2}, keep=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path / "checkpoints") == ["step_000001"]
    assert checkpoint.newest(str(tmp_path)).state["step"] == 1
    checkpoint.save(str(tmp_path), 2, policy, optimizer, {"step": 2}, keep=1)
    assert steps_in(tmp_path) == [2]


def test_an_export_is_whole_or_not_there(tmp_path):
    """A full disk is an OSError (safetensors has an error of its own), and an older export stays."""
    config = SimpleNamespace(text_config=SimpleNamespace(), vision_config=SimpleNamespace())
    for part in (config, processor := SimpleNamespace(), generation := SimpleNamespace()):
        part.save_pretrained = lambda folder: None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for value, room in ((1.0, limits[0]), (2.0, 4096)):
        parameters = [("weight", torch.full((96, 96), value))]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        try:
            with pytest.raises(OSError) if room == 4096 else contextlib.nullcontext():
                checkpoint.export(str(tmp_path / "export"), config, processor, generation, parameters)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (
            os.listdir(tmp_path) == ["export"]
            and load_file(tmp_path / "export" / "model.safetensors")["weight"].max() == 1
        )


# -- what a run may go on from -----------------------------------------------------------------------------------------


def saved_run(run_dir: Path, **changes) -> Config:
    """A run of these settings with one checkpoint, of the model "aaaa"."""
    config = parse(["--run-dir", str(run_dir)])
    config = dataclasses.replace(config, **changes)
    save(run_dir, 5, steps=0, state={"settings": dataclasses.asdict(config), "model": "aaaa"})
    return config


def test_a_run_goes_on_with_other_settings_of_the_machine(tmp_path, capsys):
    config = saved_run(tmp_path)
    other = dataclasses.replace(config, max_steps=99, save_minutes=1.0, tensor_parallel=2, model="elsewhere")
    assert run_folder.start_of(other, "aaaa").state["step"] == 5
    assert "step_000005 after round 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "model", "words"),
    [
        ({"method": "grpo"}, "aaaa", "--method was crpo, is grpo"),
        ({"lr": 1.0}, "aaaa", r"--lr was 1e-06, is 1.0.*what may change: .*max-steps"),
        ({}, "bbbb", "of another model: .* bbbb.* aaaa"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_in_one_line(tmp_path, changes, model, words):
    config = dataclasses.replace(saved_run(tmp_path), **changes)
    with pytest.raises(ValueError, match=words) as caught:
        run_folder.start_of(config, model)
    assert "\n" not in str(caught.value)


def test_a_linear_schedule_ends_where_it_was_said_to_end(tmp_path):
    config = saved_run(tmp_path, lr_schedule="linear", max_steps=10)
    with pytest.raises(ValueError, match="--max-steps was 10, is 11"):
        run_folder.start_of(dataclasses.replace(config, max_steps=11), "aaaa")


def test_an_older_version_is_refused(tmp_path, monkeypatch):
    now = checkpoint.FORMAT
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    config = saved_run(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"format 1, this version reads format {now}"):
        run_folder.start_of(config, "aaaa")


def test_a_run_may_branch_off_from_a_given_checkpoint(tmp_path):
    config = saved_run(tmp_path / "old")
    given = str(tmp_path / "old" / "checkpoints" / "step_000005")
    branch = dataclasses.replace(config, run_dir=str(tmp_path / "new"), resume=given)
    assert run_folder.start_of(branch, "aaaa").folder == given
    save(tmp_path / "new", 6, steps=0, state={"settings": dataclasses.asdict(branch), "model": "aaaa"})
    assert run_folder.start_of(branch, "aaaa").state["step"] == 6, "started again, it goes on from its own"
    with pytest.raises(ValueError, match="lies in --run-dir"):
        run_folder.prepare(dataclasses.replace(config, resume=given))
    flip(Path(given) / "__0_0.distcp")
    shutil.rmtree(tmp_path / "new" / "checkpoints")
    with pytest.raises(ValueError, match="damaged"):
        run_folder.start_of(branch, "aaaa")
    with pytest.raises(ValueError, match="must be auto, never, or a checkpoint"):
        run_folder.start_of(dataclasses.replace(branch, resume="newest"), "aaaa")


def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "LEASE_S", 0.0)
    config = parse(["--run-dir", str(tmp_path / "run")])
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / "lock", "w") as held:
        held.write("process 12 on node7\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="in use by process 12 on node7"):
            run_folder.prepare(config)
    run_folder.prepare(config)  # with its process the lock has gone
    assert f"process {os.getpid()}" in (tmp_path / "run" / "lock").read_text()


def test_the_lock_of_a_node_that_has_died_is_waited_for(tmp_path, capsys):
    """A network file system's server keeps it for a while."""
    held = open(tmp_path / "lock", "w")
    held.write("process 12 on node7\n")
    held.flush()
    fcntl.flock(held, fcntl.LOCK_EX)
    threading.Timer(0.2, held.close).start()
    run_folder.prepare(parse(["--run-dir", str(tmp_path)]))
    assert capsys.readouterr().out.count("held by process 12 on node7: waiting") == 1
    assert f"process {os.getpid()}" in (tmp_path / "lock").read_text()


def test_a_file_system_without_locks_is_used_aloud(tmp_path, capsys, monkeypatch):
    def unknown(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", unknown)
    run_folder.prepare(parse(["--run-dir", str(tmp_path)]))
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().out


def test_a_used_folder_is_refused_by_never_and_by_other_settings(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    config = parse(["--run-dir", str(tmp_path)])
    with pytest.raises(ValueError, match="holds a run"):
        run_folder.prepare(dataclasses.replace(config, resume="never"))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    run_folder.prepare(config)
    with pytest.raises(ValueError, match="--seed was 0, is 1"):
        run_folder.prepare(dataclasses.replace(config, seed=1))
    (tmp_path / "config.json").write_text("")
    with pytest.raises(ValueError, match="config.json: is not valid JSON"):
        run_folder.prepare(config)
    (tmp_path / "metrics.jsonl").unlink()
    save(tmp_path, 5, steps=0)  # without metrics it is a run, too: its later rounds would outlive the new one's
    with pytest.raises(ValueError, match="holds a run"):
        run_folder.prepare(dataclasses.replace(config, resume="never"))


def test_steps_over_shards_are_adamws_and_leave_nothing_behind():
    def made() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(4)))

    plain, sharded = made(), fully_shard(made(), mesh=init_device_mesh("cpu", (1,)))
    how = dict(lr=1e-2, weight_decay=0.1, fused=True)
    optimizers = torch.optim.AdamW(plain.parameters(), **how), parallel.ShardAdamW(sharded.parameters(), **how)
    kept = []
    for number in range(30):
        for model, optimizer in zip((plain, sharded), optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = 1e-2 / (1 + number)
            model(torch.linspace(-1, number, 16).view(2, 8)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        gc.collect()
        kept.append(sum(type(thing) is DTensorSpec for thing in gc.get_objects()))
    assert kept[-1] == kept[9]  # 8 more a step with torch's own
    for expected, parameter in zip(plain.parameters(), sharded.parameters(), strict=True):
        assert torch.equal(parameter.full_tensor(), expected)
        assert isinstance(optimizers[1].state[parameter]["exp_avg"], DTensor)
