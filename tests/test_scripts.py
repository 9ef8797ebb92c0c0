"""pytest tests/test_scripts.py -- each script is the row of the paper it names; pictures of Figure 9 and of runs."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from matplotlib.image import imread

import config
from config import TOY, VIDEO_R1, Config

SCRIPTS = ROOT / "scripts"

# script -> [(name of the run, what differs from Table 7)]: the paper's Tables 1 and 2, App. B.3, D.3, E, F.2
ROWS = {
    "table1_grpo": [("grpo", {"method": "grpo"})],
    "table1_t_grpo": [
        ("t_grpo", {"method": "t_grpo", "temporal_bonus": 0.3, "temporal_threshold": 1.0, "shuffled_share": 1.0})
    ],
    "table1_arrow_rl": [("arrow_rl", {"method": "arrow_rl", "arrow_alpha": 0.25})],
    "table1_crpo": [("crpo", {"method": "crpo", "lambda_d": 0.3, "lambda_s": 0.3, "w_aug": 0.5})],
    "table2_grpo_g16": [("grpo_g16", {"method": "grpo", "rollouts": 16})],
    "table2_grpo_data2": [("grpo_data2", {"method": "grpo", "repeat_data": 2})],
    "table2_no_flip": [("no_flip", {"flip": False})],
    "table2_no_reverse": [("no_reverse", {"reverse": False})],
    "table2_no_crr": [("no_crr", {"crr": False})],
    "table2_no_behave": [("no_behave", {"behave": False})],
    "table2_no_counterfactual": [("no_counterfactual", {"w_aug": 0.0})],
    "table2_no_null": [("no_null", {"null_option": "off"})],
    "fig9_lambda": [
        ("lambda_0.0", {"lambda_d": 0.0, "lambda_s": 0.0, "w_aug": 0.5}),
        ("lambda_0.1", {"lambda_d": 0.1, "lambda_s": 0.1, "w_aug": 0.5}),
        ("crpo", {"lambda_d": 0.3, "lambda_s": 0.3, "w_aug": 0.5}),
        ("lambda_0.5", {"lambda_d": 0.5, "lambda_s": 0.5, "w_aug": 0.5}),
    ],
    "fig9_w_aug": [
        ("no_counterfactual", {"w_aug": 0.0}),
        ("w_aug_0.3", {"w_aug": 0.3}),
        ("crpo", {"w_aug": 0.5}),
        ("w_aug_0.7", {"w_aug": 0.7}),
    ],
    "app_e_augment": [("augment", {"method": "augment"})],
    "app_f_std_scope": [
        ("std_branch", {"std_scope": "branch"}),
        ("crpo", {"std_scope": "joint"}),
        ("std_batch", {"std_scope": "batch"}),
    ],
    "beyond_t_grpo_video_r1": [
        ("t_grpo_video_r1", {
            "method": "t_grpo", "temporal_bonus": 0.3, "temporal_threshold": 0.8, "shuffled_share": 0.5,
            "length_bonus": 0.2,
        }),
    ],
}  # fmt: skip
HELPERS = {"common", "gpu_check", "vlmevalkit", "lmms_eval", "two_nodes"}


@pytest.fixture
def launch(tmp_path):
    """(script, flags, environment) -> (completed process, argument list of each `python` it would have started)."""
    calls, python = tmp_path / "calls", tmp_path / "python"
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"\n')
    python.chmod(0o755)

    def go(script, *flags, **environment):
        clean = {"PATH": os.environ["PATH"], "PYTHON": str(python), "CALLS": str(calls), "NPROC": "2"} | environment
        calls.write_text("")
        command = [str(SCRIPTS / f"{script}.sh"), *flags]
        done = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        return done, [line.split("\0")[:-1] for line in calls.read_text().split("\n")[:-1]]

    return go


def settings_of(call: list[str]) -> Config:
    """What train.py would read of a launch, checked on the paper's 32 ranks where it is the paper's."""
    chosen = config.parse(call[call.index(str(ROOT / "train.py")) + 1 :])
    config.check(chosen, *((2, 2) if chosen.preset == "toy" else (32, 8)))
    return chosen


def test_every_script_is_in_the_table_and_a_few_lines_long():
    found = {path.stem: path for path in SCRIPTS.glob("*.sh")}
    assert set(found) == set(ROWS) | HELPERS
    for name in ROWS:
        assert len(found[name].read_text().splitlines()) <= 7 and os.access(found[name], os.X_OK)


def test_shell_syntax():
    for path in (*SCRIPTS.glob("*.sh"), SCRIPTS / "slurm.sbatch"):
        subprocess.run(["bash", "-n", path], check=True)


@pytest.mark.parametrize("script", ROWS)
def test_a_script_starts_its_row_of_the_paper_and_nothing_else(script, launch):
    done, calls = launch(script, TRAIN_FILE="my rows.jsonl")
    assert done.returncode == 0, done.stderr
    assert [call[:5] for call in calls] == [
        ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    ] * len(ROWS[script])
    for call, (name, fields) in zip(calls, ROWS[script], strict=True):
        run_dir = f"runs/Qwen3-VL-4B/{name}_seed0"
        assert settings_of(call) == dataclasses.replace(
            Config(), model="Qwen3-VL-4B", train_file="my rows.jsonl", run_dir=run_dir, **fields
        )


@pytest.mark.parametrize("script", ["table1_t_grpo", "table2_no_flip", "fig9_w_aug", "beyond_t_grpo_video_r1"])
def test_on_the_toy_world_nothing_of_a_real_run_is_left(script, launch):
    """An exported MODEL or TRAIN_FILE must not turn a toy run into a real one."""
    real = {"MODEL": "Qwen3-VL-8B", "TRAIN_FILE": "rows", "EVAL_FILE": "pairs", "DATA_ROOT": "clips", "SEED": "3"}
    done, calls = launch(script, "--preset", "toy", "--max-steps", "3", **real)
    assert done.returncode == 0, done.stderr
    for call, (name, fields) in zip(calls, ROWS[script], strict=True):
        own = {"run_dir": f"runs/toy/{name}_seed3", "max_steps": 3, "seed": 3}
        assert settings_of(call) == dataclasses.replace(Config(), preset="toy", **(TOY | own | fields))


def test_video_r1s_own_settings_are_those_of_the_preset():
    ((_, fields),) = ROWS["beyond_t_grpo_video_r1"]
    assert fields == {"temporal_bonus": Config().temporal_bonus} | VIDEO_R1


def test_variables_reach_their_flags_and_a_later_flag_wins(launch):
    files = {"MODEL": "models/Qwen3-VL-8B", "TRAIN_FILE": "rows", "EVAL_FILE": "pairs", "DATA_ROOT": "clips"}
    (call,) = launch("table1_grpo", "--lr", "1e-5", "--seed", "9", **files, SEED="4")[1]
    chosen = settings_of(call)
    assert (chosen.model, chosen.train_file, chosen.eval_file, chosen.data_root) == tuple(files.values())
    assert (chosen.run_dir, chosen.seed, chosen.lr) == ("runs/Qwen3-VL-8B/grpo_seed4", 9, 1e-5)
    (call,) = launch("table1_grpo", TRAIN_FILE="rows", RUNS="/elsewhere")[1]
    assert settings_of(call).run_dir == "/elsewhere/grpo_seed0"
    (call,) = launch("fig9_lambda", TRAIN_FILE="rows", VALUES="0.2")[1]
    assert (settings_of(call).lambda_d, settings_of(call).lambda_s) == (0.2, 0.2)


def test_several_nodes_need_and_get_a_meeting_point(launch):
    done, calls = launch("table1_grpo", TRAIN_FILE="rows", NNODES="4", NPROC="8")
    assert done.returncode == 2 and done.stderr.startswith("error: NNODES=4 needs RDZV_ENDPOINT") and not calls
    (call,) = launch("table1_grpo", TRAIN_FILE="rows", NNODES="4", NPROC="8", RDZV_ENDPOINT="host:29500")[1]
    assert call[:12] == [
        "-m", "torch.distributed.run", "--nnodes", "4", "--rdzv-backend", "c10d", "--rdzv-endpoint", "host:29500",
        "--rdzv-id", "grpo_seed0", "--nproc_per_node", "8",
    ]  # fmt: skip


def test_two_nodes_meet_on_loopback(launch):
    done, calls = launch("two_nodes", "--preset", "toy", "--shard-ranks", "2")
    assert done.returncode == 0 and len(calls) == 2, done.stderr
    assert {call[call.index("--rdzv-conf") + 1] for call in calls} == {"is_host=true", "is_host=false"}
    for call in calls:
        assert call[:6] == ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "2"]
        assert settings_of(call).shard_ranks == 2
    (alone,) = launch("two_nodes", "--preset", "toy", NODE="1")[1]
    assert "is_host=false" in alone


@pytest.fixture
def slurm(tmp_path):
    """Environment of a job on two nodes, with stand-ins for srun (runs the command here), scontrol, and a training that
    ends well, or, with HANGS, when it is asked to."""
    commands = {
        "srun": 'while [[ "$1" == -* ]]; do shift; done\nexec "$@"\n',
        "scontrol": f'[ "$1" = requeue ] && echo "$@" >>{tmp_path}/requeued\necho node1\n',
        "python": f'printf "%s\\0" "$@" >{tmp_path}/call\n[ -z "${{HANGS:-}}" ] && exit 0\n'
        f'sleep 100 & [ "$HANGS" = early ] || echo "process $! on node1" >{tmp_path}/run/lock\nwait\nsleep 100\n',
    }
    for name, text in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run").mkdir()
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python"), "TRAIN_FILE": "rows",
        "RUN_DIR": str(tmp_path / "run"), "SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_GPUS_ON_NODE": "8",
    }  # fmt: skip


def test_slurm_starts_an_agent_a_node(slurm, tmp_path):
    script = [SCRIPTS / "slurm.sbatch", "--lr", "2e-6"]
    subprocess.run(["bash", *script], env=slurm | {"SHARD": "node", "MODEL": "Qwen3-VL-8B"}, check=True, timeout=20)
    call = (tmp_path / "call").read_text().split("\0")[:-1]
    assert call[:8] == [
        "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "8", "--max-restarts", "3"
    ]  # fmt: skip
    assert call[call.index("--rdzv-endpoint") + 1] == "node1:20007"
    chosen = settings_of(call)
    assert (chosen.model, chosen.train_file, chosen.shard_ranks, chosen.lr) == ("Qwen3-VL-8B", "rows", 8, 2e-6)


def test_slurm_asks_one_rank_to_save_and_queues_the_job_again(slurm, tmp_path):
    job = subprocess.Popen(["bash", SCRIPTS / "slurm.sbatch"], env=slurm | {"HANGS": "1"})
    lock = tmp_path / "run/lock"
    for _ in range(400):
        if lock.exists() and lock.read_text().endswith("\n"):
            break
        time.sleep(0.05)
    rank = int(lock.read_text().split()[1])
    job.terminate()
    assert job.wait(timeout=20) == 75
    assert not os.path.exists(f"/proc/{rank}") and (tmp_path / "requeued").read_text() == "requeue 7\n"


def test_slurm_queues_a_job_again_that_had_not_begun(slurm, tmp_path):
    job = subprocess.Popen(["bash", SCRIPTS / "slurm.sbatch"], env=slurm | {"HANGS": "early"})
    for _ in range(400):
        if (tmp_path / "call").exists():
            break
        time.sleep(0.05)
    job.terminate()
    assert job.wait(timeout=20) == 75 and (tmp_path / "requeued").read_text() == "requeue 7\n"


@pytest.mark.parametrize("script", ["table2_no_flip", "fig9_lambda"])
def test_without_rows_train_py_is_asked_once_and_alone(script, launch):
    """Alone, so that its one line is not buried under torchrun's report."""
    (call,) = launch(script)[1]
    assert call[0] == str(ROOT / "train.py") and "--train-file" not in call
    (call,) = launch(script, "--help")[1]
    assert call == [str(ROOT / "train.py"), "--help"]
    calls = launch(script, "--train-file", "rows")[1]
    assert all(call[:2] == ["-m", "torch.distributed.run"] and settings_of(call).train_file == "rows" for call in calls)


def test_a_failed_run_stops_a_sweep(launch, tmp_path):
    failing = tmp_path / "failing"
    failing.write_text('#!/usr/bin/env bash\nprintf "%s\\0" "$@" >>"$CALLS"; printf "\\n" >>"$CALLS"\nexit 7\n')
    failing.chmod(0o755)
    done, calls = launch("fig9_lambda", "--preset=toy", PYTHON=str(failing))
    assert done.returncode == 7 and len(calls) == 1


# -- the pictures ------------------------------------------------------------------------------------------------------


def python(monkeypatch, script, *arguments) -> int:
    """Run a script as `python scripts/NAME.py` would, in this process -> its exit code."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    try:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    except SystemExit as exit_:
        return exit_.code or 0
    return 0


def write_run(folder, rows=(), pair_acc=None, static_acc=None, **fields):
    folder.mkdir(parents=True)
    config.save(dataclasses.replace(Config(), **fields), str(folder))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if pair_acc is not None:
        after = {"pair_acc": pair_acc, "static": {"acc": static_acc}}
        (folder / "summary.json").write_text(json.dumps({"after": after}))


def sides(file):
    picture = imread(file)
    assert picture.std() > 0.02  # not blank
    return picture.shape[:2]


def lam(value, **more):
    return {"lambda_d": value, "lambda_s": value} | more


def test_figure_9_reads_settings_not_names_and_says_what_is_missing(tmp_path, monkeypatch, capsys):
    runs = tmp_path / "runs"
    write_run(runs / "x", pair_acc=54.0, static_acc=90.0)
    write_run(runs / "y", pair_acc=56.0, static_acc=92.0, seed=1)
    write_run(runs / "z", pair_acc=51.0, static_acc=89.0, **lam(0.0))
    write_run(runs / "w", pair_acc=48.0, static_acc=88.0, w_aug=0.0)
    write_run(runs / "going", **lam(0.5))
    write_run(runs / "uneven", pair_acc=1.0, static_acc=1.0, lambda_d=0.1)
    write_run(runs / "no_flip", pair_acc=1.0, static_acc=1.0, flip=False)
    write_run(runs / "grpo", pair_acc=1.0, static_acc=1.0, method="grpo")
    assert python(monkeypatch, "fig9.py", runs, "--out", tmp_path / "new" / "fig9.png") == 0
    left_out, missing, _ = capsys.readouterr().out.splitlines()
    assert left_out == "left out: going (not finished), uneven (lambda_d and lambda_s differ), no_flip (other flip)"
    assert missing == "missing: lambda 0.1, lambda 0.5, w_aug 0.3, w_aug 0.7"
    high, wide = sides(tmp_path / "new" / "fig9.png")
    assert 400 < high < 1000 and 1000 < wide < 2000


def test_figure_9_averages_seeds_and_keeps_the_sweeps_apart(monkeypatch, tmp_path):
    module = runpy.run_path(str(SCRIPTS / "fig9.py"))
    for seed, acc in enumerate((50.0, 60.0)):
        write_run(tmp_path / f"a{seed}", pair_acc=acc, static_acc=90.0, seed=seed)
    write_run(tmp_path / "b", pair_acc=40.0, w_aug=0.7)
    runs, left_out = module["read_runs"](tmp_path)
    left = module["sweep"](runs, "lambda_d", "w_aug", 0.5, "", "")
    right = module["sweep"](runs, "w_aug", "lambda_d", 0.3, "", "")
    assert not left_out and left.sensitive == {0.3: [50.0, 60.0]} and left.general == {0.3: [90.0, 90.0]}
    assert right.sensitive == {0.5: [50.0, 60.0], 0.7: [40.0]} and right.general == {0.5: [90.0, 90.0]}


def test_two_kinds_of_runs_are_not_mixed_into_figure_9(tmp_path, monkeypatch, capsys):
    write_run(tmp_path / "runs" / "a", pair_acc=54.0, model="Qwen3-VL-4B")
    write_run(tmp_path / "runs" / "b", pair_acc=58.0, model="Qwen3-VL-8B")
    assert python(monkeypatch, "fig9.py", tmp_path / "runs") == 2
    said = capsys.readouterr().err
    assert "a" in said and "b" in said and "differ in model" in said and said.count("\n") == 1


def rows(rounds, *names):
    return [{"step": s, "data/rollouts_seen": 16 * s} | {n: 0.5 + 0.1 * (s % 3) for n in names} for s in range(rounds)]


@pytest.mark.slow
def test_the_dynamics_of_runs_are_drawn(tmp_path, monkeypatch, capsys):
    common = ("reward/correct", "policy/entropy", "policy/ratio_max", "eval/pair_acc", "policy/engine_gap_mean")
    write_run(tmp_path / "a" / "run", rows(60, *common, "reward/crr_orig", "rollout/null_original/Static"))
    write_run(tmp_path / "b" / "run", rows(1, *common, "reward/temporal"), method="t_grpo")
    out = tmp_path / "new" / "dynamics.png"
    folders = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert python(monkeypatch, "plot_dynamics.py", *folders, "--out", out, "--x", "rounds") == 0
    high, wide = sides(out)
    assert 1500 < high < 2500 and 1400 < wide < 2000
    assert capsys.readouterr().out == f"{out}\n"


def test_seeds_of_toy_tasks_are_drawn_together(tmp_path, monkeypatch, capsys):
    for name, rounds in (("tracking_grpo_0", 3), ("tracking_grpo_1", 3), ("masked_crpo_0", 2), ("masked_grpo_0", 2)):
        write_run(tmp_path / f"toy_{name}" / "run", rows(rounds, "reward/correct"))
        if name != "masked_grpo_0":  # that one is going on
            (tmp_path / f"toy_{name}" / "summary.json").write_text("{}")
    curves = runpy.run_path(str(SCRIPTS / "plot_neighbours.py"))["read_curves"](tmp_path)
    assert curves == {("tracking", "grpo"): [[0.5, 0.6, 0.7]] * 2, ("masked", "crpo"): [[0.5, 0.6]]}
    out = tmp_path / "new" / "toy.png"
    assert python(monkeypatch, "plot_neighbours.py", tmp_path, "--out", out) == 0
    high, wide = sides(out)
    assert 300 < high < 500 and 600 < wide < 900
    write_run(tmp_path / "toy_masked_crpo_1" / "run", rows(3, "reward/correct"))
    (tmp_path / "toy_masked_crpo_1" / "summary.json").write_text("{}")
    capsys.readouterr()
    assert python(monkeypatch, "plot_neighbours.py", tmp_path) == 2
    assert "toy_masked_crpo_1: has another number of rounds" in capsys.readouterr().err


def test_runs_are_named_by_the_shortest_ends_that_tell_them_apart(tmp_path):
    names_of = runpy.run_path(str(SCRIPTS / "plot_dynamics.py"))["names_of"]
    assert names_of([tmp_path / "a" / "run", tmp_path / "b" / "run"]) == ["a/run", "b/run"]
    assert names_of([tmp_path / "crpo", tmp_path / "grpo"]) == ["crpo", "grpo"]
    with pytest.raises(ValueError, match="given twice"):
        names_of([tmp_path, tmp_path])


def broken_config(run):
    (run / "config.json").write_text("[]")


def empty_metrics(run):
    (run / "metrics.jsonl").write_text("")


def torn_metrics(run):
    (run / "metrics.jsonl").write_text('{"step"\n{"step": 1}\n')


def no_known_metric(run):
    (run / "metrics.jsonl").write_text('{"step": 1, "policy/lr": 1.0}\n')


@pytest.mark.parametrize(
    ("script", "damage", "says"),
    [
        ("plot_dynamics.py", None, "is no run"),
        ("plot_dynamics.py", broken_config, "config.json"),
        ("plot_dynamics.py", empty_metrics, "is empty"),
        ("plot_dynamics.py", torn_metrics, "line 1"),
        ("plot_dynamics.py", no_known_metric, "no curve to draw"),
        ("plot_neighbours.py", None, "holds no finished run"),
        ("fig9.py", None, "is no folder"),
        ("fig9.py", empty_metrics, "no finished CRPO run"),
        ("fig9.py", broken_config, "does not hold an object"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(script, damage, says, tmp_path, monkeypatch, capsys):
    run = tmp_path / "runs" / "run"
    if damage:
        write_run(run, rows(3, "reward/correct"))
        damage(run)
    out = tmp_path / "out.png"
    assert python(monkeypatch, script, run.parent if script == "fig9.py" else run, "--out", out) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and says in said and not out.exists()


@pytest.mark.parametrize("script", ["fig9.py", "plot_dynamics.py", "plot_neighbours.py"])
def test_help_and_mistyped_flags(script, monkeypatch, capsys):
    assert python(monkeypatch, script, "--help") == 0
    assert "--out" in capsys.readouterr().out
    assert python(monkeypatch, script, "--no-such-flag") == 2
