"""What breaks in a night, broken on purpose: after each fault the run goes on, and ends as an undisturbed one does.

    pytest tests/faults                       # the short form: one run through five faults
    make test-faults                          # every fault by name, and ten kills
    python tests/faults/soak.py --help        # 200 kills, vLLM, a thousand rounds

With FAULTS=1 each test leaves its line for docs/reliability.md in FAULTS_TABLE, if that names a file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import driver
import pytest
from driver import SECRET, Run, descendants, differences, kill_at_random, last_saved, rows_of
from ports import free_port

from exits import Exit

pytestmark = pytest.mark.slow
every = pytest.mark.skipif(not os.environ.get("FAULTS"), reason="of make test-faults")
KILLS = int(os.environ.get("KILLS", "10"))
ROUNDS = 4
HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Flags of a run over questions without clips: it starts in a second."""
    return (*driver.world(tmp_path_factory.mktemp("world") / "w", clips=False), "--max-steps", ROUNDS)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Flags of a run over eight clips."""
    return (*driver.world(tmp_path_factory.mktemp("world") / "w"), "--max-steps", ROUNDS)


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory):
    """Folder of an undisturbed run on two ranks."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    run = Run(run_dir, *text, ranks=2)
    assert run.wait() == [0, 0], run.said()[-3000:]
    return run_dir


@pytest.fixture(scope="module")
def one(text, tmp_path_factory):
    """Folder of an undisturbed run on one rank."""
    run_dir = tmp_path_factory.mktemp("runs") / "one"
    run = Run(run_dir, *text)
    assert run.wait() == [0], run.said()[-3000:]
    return run_dir


@pytest.fixture
def note(request):
    """Writes a line for docs/reliability.md: fault, what was seen, what was lost."""

    def write(fault: str, seen: str, lost: str) -> None:
        if table := os.environ.get("FAULTS_TABLE"):
            with open(table, "a") as file:
                file.write(json.dumps({"fault": fault, "seen": seen, "lost": lost, "test": request.node.name}) + "\n")

    return write


def flip_a_bit(run_dir: Path) -> str:
    """In the middle of the largest file of the newest checkpoint; returns the checkpoint's name."""
    folder = run_dir / "checkpoints" / f"step_{last_saved(run_dir):06d}"
    file = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    return folder.name


def goes_on(run_dir: Path, flags: tuple, ranks: int, whole: Path) -> str:
    """Start again, to the end: the same as `whole`. Returns what was said."""
    run = Run(run_dir, *flags, ranks=ranks)
    assert run.wait() == [0] * ranks, run.said()[-3000:]
    assert not differences(whole, run_dir)
    return run.said()


# -- the short form ----------------------------------------------------------------------------------------------------


def test_a_run_through_a_kill_a_kill_in_a_save_sigterm_and_a_flipped_bit(text, whole, tmp_path):
    """Two ranks, save every round. After all of it every metric equals the undisturbed run's to the bit."""
    run_dir = tmp_path / "run"

    def start(**fault) -> Run:
        fired = tmp_path / f"fired {fault['kind']}"
        return Run(run_dir, *text, ranks=2, fault={"fired": str(fired)} | fault)

    codes = start(kind="kill", round=2, at="update", rank=1).wait()
    assert codes[1] == -signal.SIGKILL and last_saved(run_dir) == 1

    run = start(kind="kill_in_save", round=2, at="_complete")
    assert run.wait()[0] == -signal.SIGKILL and last_saved(run_dir) == 1, "a half-written one counts for nothing"
    assert "after round 1" in run.said()

    run = start(kind="terminate", round=3, at="generate", rank=1)
    assert run.wait() == [Exit.STOPPED] * 2 and last_saved(run_dir) == 2
    assert "start again to go on" in run.said()

    name = flip_a_bit(run_dir)
    said = goes_on(run_dir, text, 2, whole)
    assert f"{name} is damaged" in said and "after round 1" in said
    assert (run_dir / "checkpoints" / f"{name}.damaged").is_dir()


def test_no_secret_of_the_environment_is_written(whole):
    """HF_TOKEN was set all along."""
    files = [path for path in whole.rglob("*") if path.is_file()] + [whole.with_name("whole.log")]
    assert len(files) > 8 and not [path for path in files if SECRET.encode() in path.read_bytes()]


# -- every fault by name -----------------------------------------------------------------------------------------------

PHASES = ("draw", "generate", "score", "pack", "old_ref", "update", "sync", "log", "save")
SAVING = ("save_shards", "_write_own", "_complete", "_drop")


@every
@pytest.mark.parametrize("at", PHASES)
def test_kill_9_of_one_rank_in_a_phase(at, text, whole, tmp_path, note):
    rank = PHASES.index(at) % 2
    run = Run(tmp_path / "run", *text, ranks=2, fault={"kind": "kill", "round": 3, "at": at, "rank": rank})
    assert run.wait()[rank] == -signal.SIGKILL
    saved = last_saved(tmp_path / "run")
    assert saved == 2
    goes_on(tmp_path / "run", text, 2, whole)
    note(f"kill -9 of one rank of two as it enters `{at}`", "resumed, equal to the bit", "the round under way")


@every
@pytest.mark.parametrize("at", SAVING)
def test_kill_9_during_a_save(at, text, whole, tmp_path, note):
    run = Run(tmp_path / "run", *text, ranks=2, fault={"kind": "kill_in_save", "round": 3, "at": at})
    assert run.wait()[0] == -signal.SIGKILL
    assert last_saved(tmp_path / "run") == (3 if at == "_drop" else 2)
    goes_on(tmp_path / "run", text, 2, whole)
    note(f"kill -9 during a save, before `{at.strip('_')}`", "resumed from a whole checkpoint, equal to the bit",
         "nothing" if at == "_drop" else "the round being saved")  # fmt: skip


@every
def test_kills_at_random_times(text, whole, tmp_path, note):
    """One rank or all of them, at any time of a start: every restart resumes, and no round before the last save is
    done again."""
    seen = kill_at_random(tmp_path / "run", text, whole, KILLS)
    assert seen["kills"] == KILLS and seen["resumed"] and seen["runs compared"]
    note(f"{KILLS} times kill -9 of one rank or of both at a random time",
         f"{seen['resumed']} restarts resumed, {seen['runs compared']} runs brought to their end equal to the bit",
         "never more than the round under way")  # fmt: skip


@every
@pytest.mark.parametrize("at", ["generate", "update"])
def test_sigterm(at, text, whole, tmp_path, note):
    flags = (*text, "--save-every", 0)
    run = Run(tmp_path / "run", *flags, ranks=2, fault={"kind": "terminate", "round": 2, "at": at})
    assert run.wait() == [Exit.STOPPED] * 2, run.said()[-3000:]
    assert last_saved(tmp_path / "run") == (1 if at == "generate" else 2), "saved because it was asked to stop"
    goes_on(tmp_path / "run", text, 2, whole)
    lost = "the round's samples: it is drawn again" if at == "generate" else "nothing"
    note(f"SIGTERM to one rank in `{at}`", f"both saved and left with {int(Exit.STOPPED)}; resumed", lost)


@every
@pytest.mark.parametrize("how", ["a flipped bit", "a torn shard", "a missing shard", "a torn marker", "no state"])
def test_a_damaged_checkpoint(how, text, one, tmp_path, note):
    run_dir = tmp_path / "run"
    shutil.copytree(one, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / f"step_{ROUNDS:06d}")
    assert Run(run_dir, *text).wait() == [0]  # two whole ones: rounds 3 and 4
    newest = run_dir / "checkpoints" / f"step_{ROUNDS:06d}"
    shard = next(newest.glob("*.distcp"))
    if how == "a flipped bit":
        flip_a_bit(run_dir)
    elif how == "a missing shard":
        shard.unlink()
    elif how == "no state":
        (newest / "state.json").unlink()
    else:
        file = shard if how == "a torn shard" else newest / "COMPLETE"
        os.truncate(file, file.stat().st_size // 2)
    said = goes_on(run_dir, text, 1, one)
    assert "is damaged" in said and f"after round {ROUNDS - 1}" in said and "Traceback" not in said
    note(f"{how} in the newest checkpoint", "named and set aside, the one before taken", "one round")


@every
@pytest.mark.parametrize("act, says", [("hang", "not decoded within"), ("crash", "its decoder crashed")])
def test_a_decoder_that_fails(act, says, clips, tmp_path, note):
    """The clip is quarantined, another question takes its place, and the worker is replaced."""
    folder = Path(clips[3])
    paths = [json.loads(line)["path"] for line in (folder / "train.jsonl").read_text().splitlines()]
    fault = {"kind": "decoder", "at": f"{act}={os.path.basename(paths[0])}"}
    run = Run(tmp_path / "run", *clips, "--decode-timeout", 5, fault=fault)
    assert run.wait() == [0], run.said()[-3000:]
    assert says in (tmp_path / "run" / "bad_rows.txt").read_text()
    assert rows_of(tmp_path / "run")[ROUNDS]["data/quarantined"] == 1
    does = {"hang": "hangs", "crash": "crashes its worker"}[act]
    note(f"a decoder that {does}", "clip quarantined and named, worker replaced, the run went on", "one question")


@every
def test_a_reward_that_raises(text, one, tmp_path, note):
    run = Run(tmp_path / "run", *text, fault={"kind": "reward_raises"})
    assert run.wait() == [Exit.FAULT] and "ZeroDivisionError: this reward has a bug" in run.said()
    goes_on(tmp_path / "run", text, 1, one)
    note("a reward that raises", "traceback, exit code 1; resumed once mended", "the round under way")


@every
def test_a_reward_that_is_nan(text, tmp_path, note):
    run = Run(tmp_path / "run", *text, fault={"kind": "reward_nan"})
    (code,) = run.wait()
    assert code not in (0, None) and "nan" in run.said().lower() and "question" in run.said()
    note("a reward that is NaN", "stopped, the question named", "the round under way")


@every
def test_math_verify_that_hangs(text, tmp_path, note):
    """Math questions whose judge never answers: counted as wrong, and the run goes on."""
    folder = Path(text[3])
    rows = [json.loads(line) for line in (folder / "text.jsonl").read_text().splitlines()]
    math = [row | {"problem_type": "math", "options": [], "solution": "\\boxed{\\frac{1}{2}}"} for row in rows]
    (tmp_path / "math.jsonl").write_text("".join(json.dumps(row) + "\n" for row in math))
    flags = ("--train-file", tmp_path / "math.jsonl", *text[2:-1], 2)
    run = Run(tmp_path / "run", *flags, fault={"kind": "judge_hangs"})
    assert run.wait() == [0], run.said()[-3000:]
    timeouts = sum(row.get("rollout/math_timeouts", 0) for row in rows_of(tmp_path / "run").values())
    assert timeouts >= 1
    note("math-verify that hangs", "its process killed at the deadline, the answer counts as wrong and is counted",
         "nothing")  # fmt: skip


@every
def test_nan_in_one_ranks_loss(text, tmp_path, note):
    run = Run(tmp_path / "run", *text, ranks=2, fault={"kind": "loss_nan", "round": 2, "rank": 1})
    assert run.wait() == [0, 0], run.said()[-3000:]
    rows = rows_of(tmp_path / "run")
    assert [rows[step]["guard/skipped"] for step in range(1, ROUNDS + 1)] == [0, 1, 0, 0]
    note("NaN in one rank's loss", "both ranks skipped that optimizer step and counted it", "one optimizer step")


@every
def test_a_hang_in_a_phase(text, whole, tmp_path, note):
    fault = {"kind": "hang", "round": 2, "at": "score", "rank": 1}
    run = Run(tmp_path / "run", *text, "--phase-timeout", 0.5, ranks=2, fault=fault)
    assert run.wait() == [Exit.HUNG] * 2, run.said()[-3000:]
    assert "rank 1: round 2, score has lasted over" in run.said() and run.said().count("its stacks") == 2
    goes_on(tmp_path / "run", text, 2, whole)
    note("a rank that hangs in a phase", f"stacks of both ranks, exit code {int(Exit.HUNG)}; resumed",
         "the round under way")  # fmt: skip


@every
def test_a_disk_that_fills_up(text, one, tmp_path, note):
    """No file grows any more: checkpoints fail, the last good one stays, and the end says so."""
    run_dir = tmp_path / "run"
    run = Run(run_dir, *text, fault={"kind": "disk", "round": 2, "at": "save"})
    assert run.wait() == [Exit.DISK], run.said()[-3000:]
    assert last_saved(run_dir) == 1 and "no checkpoint of round 2" in run.said()
    assert not list((run_dir / "checkpoints").glob("*.writing"))
    rows = rows_of(run_dir)
    assert rows[ROUNDS]["guard/failed_saves"] == ROUNDS - 2
    run = Run(run_dir, *text)
    assert run.wait() == [0], run.said()[-3000:]
    assert not differences(one, run_dir)
    note("a disk that is full from round 2 on", f"went on to the end without checkpoints, exit code {int(Exit.DISK)}; "
         "the last good one whole; resumed with room", "the rounds since that checkpoint")  # fmt: skip


@every
def test_a_disk_that_is_full_at_the_export(text, one, tmp_path, note):
    run_dir, flags = tmp_path / "run", (*text, "--export")
    run = Run(run_dir, *flags, fault={"kind": "disk", "round": 1, "at": "finish"})
    assert run.wait() == [Exit.DISK], run.said()[-3000:]
    assert last_saved(run_dir) == ROUNDS and "export could not be written" in run.said()
    assert not (run_dir / "export").exists()
    goes_on(run_dir, flags, 1, one)
    assert (run_dir / "export" / "model.safetensors").is_file()
    note("a disk that is full at the export", f"exit code {int(Exit.DISK)}, every round saved; exported with room",
         "nothing")  # fmt: skip


@every
def test_a_tmpfs_that_is_full(text, one, tmp_path, note):
    """The same on a file system of 64 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        run_dir = disk / "run"
        run = Run(run_dir, *text, "--save-every", 1)
        while last_saved(run_dir) < 1 and any(rank.is_alive() for rank in run.ranks):
            time.sleep(0.01)
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(b"\0" * max(0, free - (1 << 16)))
        assert run.wait() == [Exit.DISK], run.said()[-3000:]
        assert last_saved(run_dir) >= 1
        (disk / "ballast").unlink()
        goes_on(run_dir, text, 1, one)
    finally:
        subprocess.run(["umount", disk], check=True)
    note("a full file system (tmpfs)", f"exit code {int(Exit.DISK)}, the last good checkpoint whole; resumed with room",
         "the rounds since that checkpoint")  # fmt: skip


@every
def test_an_engine_that_keeps_its_weights_is_found_by_checksum(text, tmp_path, note):
    run = Run(tmp_path / "run", *text, fault={"kind": "engine_keeps_weights"})
    assert run.wait() == [Exit.FAULT] and "engine tensors differ from the trainer's" in run.said()
    note("an engine that ignores a sync", "found by the checksums after it, exit code 1", "nothing was trained on it")


@every
def test_an_engine_that_keeps_its_weights_is_found_by_the_gap(text, tmp_path, note):
    flags = (*text[:-1], 8, "--checksum-every", 0, "--gap-limit", 1e-4, "--lr", 1e-3)
    run = Run(tmp_path / "run", *flags, fault={"kind": "engine_keeps_weights"})
    assert run.wait() == [Exit.GAP], run.said()[-3000:]
    note("an engine that ignores every sync, checksums off", f"gap alarm, exit code {int(Exit.GAP)}", "three rounds")


@every
def test_a_vllm_engine_whose_cache_reset_is_skipped(text, tmp_path, note):
    """Weights are new, cached keys and values are of the old ones: checksums agree, and the gap tells. Every round asks
    all eight questions, longer than the cache's blocks of 32 tokens, so that their prompts are found in it; with the
    reset the same run does not alarm."""
    rows = [json.loads(line) for line in (Path(text[3]) / "text.jsonl").read_text().splitlines()]
    longer = [row | {"problem": row["problem"] + " Look at it again, and think." * 12} for row in rows]
    (tmp_path / "longer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in longer))
    flags = ("--train-file", tmp_path / "longer.jsonl", *text[2:-1], 8, "--engine", "vllm", "--questions", 8,
             "--engine-cpu-cache-mb", 64, "--lr", 3e-3, "--gap-limit", 1e-3)  # fmt: skip
    run = Run(tmp_path / "sound", *flags)
    assert run.wait() == [0], run.said()[-3000:]
    run = Run(tmp_path / "run", *flags, fault={"kind": "caches_stay"})
    assert run.wait() == [Exit.GAP], run.said()[-3000:]
    note("a vLLM engine whose cache reset is skipped", f"gap alarm, exit code {int(Exit.GAP)}", "three rounds")


@every
def test_a_run_folder_in_use(text, one, tmp_path, note):
    shutil.copytree(one, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    first = Run(tmp_path / "run", *text, fault={"kind": "hang", "at": "draw"})
    while not (tmp_path / "run.fired").exists():
        assert all(rank.is_alive() for rank in first.ranks), first.said()[-3000:]
        time.sleep(0.05)
    second = Run(tmp_path / "run", *text)
    assert second.wait() == [Exit.MISTAKE] and "is in use by process" in second.said()
    first.kill()
    first.wait()
    goes_on(tmp_path / "run", text, 1, one)
    note("a run folder in use by another run", f"refused in one line, exit code {int(Exit.MISTAKE)}", "nothing")


def pull_the_plug(node: subprocess.Popen) -> None:
    for pid in (node.pid, *descendants(node.pid)):
        os.kill(pid, signal.SIGKILL)
    node.wait()


@every
def test_two_nodes_of_which_one_dies_and_comes_back(text, whole, tmp_path, note):
    """Two torchrun agents on loopback, one rank each, restarts allowed. One dies with its rank, and is started anew."""
    run_dir, port = tmp_path / "run", free_port()
    nodes = [driver.node(number, run_dir, *text, port=port) for number in range(2)]
    try:
        while not last_saved(run_dir):
            assert all(process.poll() is None for process in nodes), Path(f"{run_dir}.node0.log").read_text()[-3000:]
            time.sleep(0.02)
        pull_the_plug(nodes[1])
        nodes[1] = driver.node(1, run_dir, *text, port=port)
        codes = [process.wait(timeout=900) for process in nodes]
    finally:
        for process in nodes:
            if process.poll() is None:
                pull_the_plug(process)
    assert codes == [0, 0], "".join(Path(f"{run_dir}.node{i}.log").read_text()[-2000:] for i in range(2))
    assert not differences(whole, run_dir)
    note("two nodes (loopback), one dies and comes back", "torchrun restarted both, resumed, equal to the bit",
         "the round under way")  # fmt: skip
