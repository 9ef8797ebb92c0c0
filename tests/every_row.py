"""Three rounds of each method and each ablation, one process and one engine: torchrun every_row.py WORLD OUT."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import config as settings  # noqa: E402
import parallel  # noqa: E402
import train  # noqa: E402

# name -> flags; the names are what tests/test_every_row.py asks about
ROWS = {
    "crpo": (),
    "grpo": ("--method", "grpo"),
    "t_grpo": ("--method", "t_grpo", "--shuffled-share", "1.0"),
    "t_grpo_video_r1": ("--method", "t_grpo", "--temporal-threshold", "0.8", "--shuffled-share", "0.5",
                        "--length-bonus", "0.2"),
    "arrow_rl": ("--method", "arrow_rl"),
    "arrow_rl_printed": ("--method", "arrow_rl", "--arrow-as-printed", "--arrow-greedy"),
    "augment": ("--method", "augment"),
    "no_flip": ("--no-flip",),
    "no_reverse": ("--no-reverse",),
    "no_crr": ("--no-crr",),
    "no_behave": ("--no-behave",),
    "no_counterfactual": ("--w-aug", "0"),
    "no_counterfactual_branch_std": ("--w-aug", "0", "--std-scope", "branch"),
    "no_null": ("--null-option", "off"),
    "g_x_2": ("--method", "grpo", "--rollouts", "8"),
    "data_x_2": ("--method", "grpo", "--repeat-data", "2"),
    "lambda_0.5": ("--lambda-d", "0.5", "--lambda-s", "0.5"),
    "w_aug_0.7": ("--w-aug", "0.7"),
    "std_branch": ("--std-scope", "branch"),
    "std_batch": ("--std-scope", "batch"),
    "literal_eq4": ("--invalid-counts-as-change",),
    "truncated": ("--max-completion-tokens", "14"),
    "mask_truncated": ("--mask-truncated", "--max-completion-tokens", "14"),
    "no_kl": ("--kl-coef", "0"),
    "two_updates": ("--updates", "2"),
}  # fmt: skip


def main(world: str, out: str) -> None:
    local_ranks = int(os.environ["LOCAL_WORLD_SIZE"])  # read before the engine: vLLM overwrites it
    device, live = parallel.start(), None
    loaded, load_policy = [], train.load_policy
    train.load_policy = lambda *args, **kwargs: loaded.append(1) or load_policy(*args, **kwargs)
    train.curves = lambda *_: None  # a second each, and drawn by other tests
    for name, flags in ROWS.items():
        config = settings.parse(
            ["--preset", "toy", "--train-file", f"{world}/train.jsonl", "--data-root", world, "--run-dir",
             f"{out}/{name}", "--max-steps", "3", "--save-every", "0", "--no-export", "--questions", "4",
             "--rollouts", "4", "--checksum-every", "0", "--samples-every", "1", *flags]
        )  # fmt: skip
        live = train.train(config, train.prepare(config, local_ranks), device, live)
        (Path(out) / name / "models_loaded").write_text(str(len(loaded)))
        loaded.clear()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
