"""pytest tests/test_config.py -- presets, the laws between settings, the list of options and their help."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config
from config import PRESETS, TOY, Config, check, parse, save

OPTIONS = {
    "preset", "method", "model", "train_file", "eval_file", "data_root", "run_dir", "seed", "max_steps", "save_every",
    "keep_checkpoints", "resume", "save_minutes", "keep_best", "eval_every", "samples_every", "toy_bias", "export",
    "frames", "max_pixels", "min_frame_pixels", "max_frame_pixels", "null_option", "flip", "reverse", "system_prompt",
    "answer_request",
    "questions", "rollouts", "updates", "temperature", "max_prompt_tokens", "max_completion_tokens", "engine",
    "tensor_parallel", "engine_memory", "engine_cpu_cache_mb", "engine_sequences", "engine_eager", "sleep_level",
    "lambda_d", "lambda_s", "w_aug", "crr", "behave", "invalid_counts_as_change", "strict_match", "lenient_format",
    "temporal_bonus", "temporal_threshold", "shuffled_share", "length_bonus", "arrow_alpha", "arrow_as_printed",
    "arrow_greedy", "caption_judge", "std_scope", "mask_truncated", "repeat_data", "decode_workers",
    "decode_timeout", "cache_dir", "cache_gb",
    "lr", "lr_schedule", "warmup_steps", "weight_decay", "max_grad_norm", "clip_eps", "kl_coef", "dtype",
    "importance_cap", "gradient_checkpointing", "tokens_per_pack", "checksum_every", "scripted_reward",
    "shard_ranks", "gap_limit", "max_skips", "phase_timeout",
}  # fmt: skip


def test_the_list_of_options_is_frozen():
    """A new flag belongs here, into the README's table, and has to be worth it."""
    assert {field.name for field in dataclasses.fields(Config)} == OPTIONS
    assert len(OPTIONS) <= 80


def test_the_defaults_are_the_papers_table_7():
    c = parse([])
    assert c == Config() and c.preset == "paper"
    assert (c.frames, c.max_pixels, c.min_frame_pixels, c.max_frame_pixels) == (32, 2048 * 1024, 16 * 1024, 768 * 1024)
    assert (c.rollouts, c.questions, c.updates) == (8, 4 * 32 * 8 // 8, 8)
    assert (c.lambda_d, c.lambda_s, c.w_aug) == (0.3, 0.3, 0.5)
    assert (c.lr, c.weight_decay, c.max_grad_norm, c.kl_coef, c.clip_eps) == (1e-6, 0.01, 1.0, 0.01, 0.2)
    assert (c.max_prompt_tokens, c.max_completion_tokens, c.engine_memory) == (8192, 2048, 0.45)
    assert (c.temperature, c.warmup_steps) == (1.0, 0)


def test_a_preset_first_then_the_flags_wherever_they_stand():
    toy = parse(["--preset", "toy"])
    assert all(getattr(toy, name) == value for name, value in TOY.items())
    before, after = parse(["--lr", "0.5", "--preset", "toy"]), parse(["--preset", "toy", "--lr", "0.5"])
    assert before == after == dataclasses.replace(toy, lr=0.5)
    assert parse(["--preset=toy", "--frames", "4"]).frames == 4


def test_a_preset_names_existing_fields():
    for values in PRESETS.values():
        assert values.keys() <= OPTIONS


def test_flags_reach_their_fields():
    c = parse(["--no-flip", "--no-crr", "--no-behave", "--invalid-counts-as-change", "--sleep-level", "2"])
    assert (c.flip, c.crr, c.behave, c.invalid_counts_as_change, c.sleep_level) == (False, False, False, True, 2)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--no-such-flag", "1"], "no-such-flag"),
        (["--rollouts", "eight"], "rollouts"),
        (["--preset", "huge"], "preset"),
    ],
)
def test_a_mistyped_flag_exits_with_a_readable_message(flags, says, capfd):
    with pytest.raises(SystemExit) as exit_:
        parse(flags)
    assert exit_.value.code not in (0, None)
    said = "".join(capfd.readouterr())
    assert says in said and "Traceback" not in said


def valid(**changes):
    return dataclasses.replace(Config(), **changes)


@pytest.mark.parametrize("ranks", [1, 2, 8, 32])
def test_the_defaults_hold_on_any_usual_number_of_ranks(ranks):
    check(Config(), ranks, min(ranks, 8))
    check(valid(tensor_parallel=min(ranks, 8)), ranks, min(ranks, 8))


@pytest.mark.parametrize(
    ("changes", "ranks", "per_node", "names"),
    [
        ({"rollouts": 1}, 1, 1, "--rollouts"),
        ({"tensor_parallel": 3}, 8, 8, "--tensor-parallel 3"),
        ({"questions": 100}, 1, 1, "--updates 8"),
        ({"updates": 0}, 1, 1, "--updates 0"),
        ({"questions": 8}, 16, 8, "--questions 8"),
        ({"temperature": 0.0}, 1, 1, "--temperature"),
        ({"temperature": -1.0}, 1, 1, "--temperature"),
        ({"frames": 7}, 1, 1, "--frames"),
        ({"frames": 0}, 1, 1, "--frames"),
        ({"max_steps": -1}, 1, 1, "--max-steps"),
        ({"max_grad_norm": 0.0}, 1, 1, "--max-grad-norm"),
        ({"importance_cap": 0.5}, 1, 1, "--importance-cap"),
        ({"w_aug": -1.0}, 1, 1, "--w-aug -1.0"),
        ({"lambda_d": float("nan")}, 1, 1, "--lambda-d nan"),
        ({"eval_every": -1}, 1, 1, "--eval-every -1"),
        ({"engine_sequences": 0}, 1, 1, "--engine-sequences 0"),
        ({"max_pixels": 0}, 1, 1, "--max-pixels 0"),
        ({"method": "t_grpo", "shuffled_share": 0.1}, 1, 1, "--shuffled-share 0.1"),
    ],
)
def test_a_broken_law_is_one_line_with_the_flag_and_its_value(changes, ranks, per_node, names):
    with pytest.raises(ValueError) as error:
        check(valid(**changes), ranks, per_node)
    line = str(error.value)
    assert "\n" not in line and names in line


@pytest.mark.parametrize("changes", [{"tensor_parallel": 0}, {"tensor_parallel": -2}])
def test_a_tensor_parallel_below_one_is_refused_in_words(changes):
    with pytest.raises(ValueError, match="--tensor-parallel"):
        check(valid(**changes), 2, 2)


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({"method": "grpo", "lambda_d": 0.5}, "--lambda-d 0.5", "--method grpo"),
        ({"method": "grpo", "flip": False}, "--no-flip", "--method grpo"),
        ({"method": "t_grpo", "w_aug": 0.0}, "--w-aug 0.0", "--method t_grpo"),
        ({"temporal_threshold": 0.8}, "--temporal-threshold 0.8", "--method crpo"),
        ({"method": "arrow_rl", "length_bonus": 0.2}, "--length-bonus 0.2", "--method arrow_rl"),
        ({"method": "t_grpo", "arrow_greedy": True}, "--arrow-greedy", "--method t_grpo"),
        ({"method": "augment", "crr": False}, "--no-crr", "--method augment"),
        ({"crr": False, "lambda_s": 0.1}, "--no-crr", "--lambda-s 0.1"),
        ({"behave": False, "w_aug": 0.0}, "--no-behave", "--w-aug 0"),
        ({"flip": False, "reverse": False}, "--no-flip", "--no-reverse"),
        ({"scripted_reward": True, "strict_match": True}, "--scripted-reward", "--strict-match"),
        ({"scripted_reward": True, "lambda_d": 0.7}, "--scripted-reward", "--lambda-d 0.7"),
        ({"crr": False, "w_aug": 0.0}, "--no-crr", "--w-aug 0"),
        ({"engine": "hf", "tensor_parallel": 1, "sleep_level": 2}, "--engine hf", "--sleep-level 2"),
        ({"toy_bias": 0.5}, "--toy-bias 0.5", "--preset paper"),
        ({"method": "t_grpo", "temporal_bonus": 0.0, "temporal_threshold": 0.8}, "--temporal-bonus 0", "--temporal-th"),
        ({"method": "arrow_rl", "arrow_alpha": 0.0, "arrow_greedy": True}, "--arrow-alpha 0", "--arrow-greedy"),
        ({"preset": "video-r1", "method": "crpo", "length_bonus": 0.2}, "--preset video-r1", "--method crpo"),
    ],
)
def test_flags_that_make_no_sense_together_are_both_named_in_one_line(changes, first, second):
    with pytest.raises(ValueError) as error:
        check(valid(**changes), 1, 1)
    line = str(error.value)
    assert "\n" not in line and first in line and second in line


def test_a_preset_and_each_methods_own_flags_make_sense():
    check(parse(["--preset", "video-r1"]), 1, 1)
    for changes in (
        {"method": "t_grpo", "temporal_bonus": 0.0},
        {"method": "arrow_rl", "arrow_as_printed": True},
        {"method": "augment", "flip": False},
        {"lambda_d": 0.0, "lambda_s": 0.0, "w_aug": 0.7},
        {"w_aug": 0.0, "std_scope": "branch"},
    ):
        check(valid(**changes), 1, 1)


def test_save_writes_every_resolved_setting(tmp_path):
    chosen = parse(["--preset", "toy", "--seed", "7"])
    save(chosen, str(tmp_path))
    assert Config(**json.loads((tmp_path / "config.json").read_text())) == chosen


def test_every_field_has_a_docstring_in_the_source():
    """A string below each field, no other way: that is what tyro reads."""
    source = Path(config.__file__).read_text()
    for name in OPTIONS:
        assert re.search(rf'^    {name}: [^\n]+\n    """\S', source, re.M), f"{name} has no docstring below it"


def test_help_shows_every_field_with_its_doc():
    code = "import config; config.parse(['--help'])"
    root = Path(config.__file__).parent
    environment = {"COLUMNS": "300", "PATH": "", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    words = " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.stdout).split())
    source = Path(config.__file__).read_text()
    for name in OPTIONS:
        flag = "--" + name.replace("_", "-")
        assert re.search(rf"{flag}\b", words), f"{flag} is not in --help"
        doc = re.search(rf'^    {name}: [^\n]+\n    """(.*?)"""', source, re.M | re.S).group(1)
        assert " ".join(doc.split())[:30] in words, f"{flag} has no text in --help"
