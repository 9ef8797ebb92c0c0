"""Text, image and video questions in one batch: gradients in step whatever each rank holds, and the real train.py.

pytest tests/test_mixed.py
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import launch
from distributed import make_group, random_image, random_view, relative_difference, run_ranks
from PIL import Image

import parallel
import update
from config import parse
from data.dataset import QuestionCursor, load_questions
from data.video import sample_clip
from methods import METHODS
from metrics import Accumulator, read_metrics
from model import load_policy, load_processor
from plan import Planner

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

# What a rank may hold in a mini-batch; the packs are of one group each, and their numbers differ on purpose.
KINDS = {"text": ["text"], "image": ["image", "image"], "video": ["video"], "all": ["text", "image", "video"]}
CPU = torch.device("cpu")
LOOKS = {"text": None, "image": random_image(1, size=(32, 96)), "video": random_view(2)}


def packs_of(processor, policy, kind: str, seed: int) -> list[update.Pack]:
    members = [
        make_group(processor, policy, seed + i, [3, 6], view=LOOKS[name], advantages=[0.9, -0.6])
        for i, name in enumerate(KINDS[kind])
    ]
    return [pack for m in members for pack in update.make_packs([m], questions=4, tokens_per_pack=10**6, device=CPU)]


def whole_gradients(policy) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    return {name: (g.full_tensor() if hasattr(g, "full_tensor") else g).clone() for name, g in found.items()}


def step(policy, reference, packs) -> dict[str, torch.Tensor]:
    """A mini-batch as train.py runs it: old and reference log-probs, then the backward over all packs."""
    old, ref = update.logps(policy, packs), update.logps(reference, packs)
    if hasattr(reference, "reshard"):
        reference.reshard()
    packs = [replace(p, old_logps=o, ref_logps=r + 0.1) for p, o, r in zip(packs, old, ref, strict=True)]
    update.backward(policy, packs, clip_eps=0.2, kl_coef=0.5, numbers=Accumulator())
    gradients = whole_gradients(policy)
    policy.zero_grad()
    return gradients


def every_deal(folder: str, dtype: str, gradient_checkpointing: bool) -> dict[tuple[str, str], float]:
    """On each of two ranks, for every pair of kinds: the relative difference of the sharded gradient from that of one
    process that holds the packs of both."""
    device = parallel.start(timeout_minutes=1)
    processor, options = load_processor(folder), dict(gradient_checkpointing=gradient_checkpointing)
    policy, reference = load_policy(folder, **options).train(), load_policy(folder).requires_grad_(False)
    whole = load_policy(folder).float().train()
    for model in (policy, reference):
        parallel.shard(model, model.layers(), model.frozen_modules(), device, getattr(torch, dtype))
    differences = {}
    for pair in itertools.product(KINDS, repeat=2):
        shares = [packs_of(processor, whole, kind, 10 * rank) for rank, kind in enumerate(pair)]
        mine = shares[torch.distributed.get_rank()]
        count = max(parallel.gather_objects(len(mine)))
        got = step(policy, reference, [*mine, *[update.idle_pack(device)] * (count - len(mine))])
        with mock.patch.object(update, "undo_fsdp_mean", lambda loss: loss):
            expected = step(whole, whole, [pack for share in shares for pack in share])
        assert got.keys() == expected.keys(), pair
        unused = {name for name in expected if not expected[name].any()}
        assert all("merger" in name and not got[name].any() for name in unused), pair
        assert bool(unused) == (pair == ("text", "text"))
        seen = ({name: g for name, g in gradients.items() if name not in unused} for gradients in (got, expected))
        differences[pair] = relative_difference(*seen)
    return differences


@pytest.mark.parametrize(
    "dtype, gradient_checkpointing, tolerance",
    [("float32", False, 1e-5), ("float32", True, 1e-5), ("bfloat16", True, 0.1)],
)
def test_any_deal_of_kinds_gives_the_gradient_of_one_process(tiny_folder, dtype, gradient_checkpointing, tolerance):
    """No hang and no lost or doubled share, in each of the 16 deals; bf16 rounds, so there only the first is asked."""
    ranks = run_ranks(every_deal, 2, tiny_folder, dtype, gradient_checkpointing, timeout_s=240)
    for differences in ranks:
        worst = max(differences, key=differences.get)
        print(f"{dtype}, checkpointing {gradient_checkpointing}: worst deal {worst}, {differences[worst]:.1e}")
        assert len(differences) == len(KINDS) ** 2
        assert all(difference <= tolerance for difference in differences.values()), differences


# -- a run -------------------------------------------------------------------------------------------------------------

ROUNDS, QUESTIONS, UPDATES, SEED = 5, 4, 2, 0


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """A folder with rows.jsonl of four text, five image (one of them damaged) and four video questions."""
    from toy.world import write_world

    folder = tmp_path_factory.mktemp("mixed")
    write_world(folder, train=4, pairs=1)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    choice = {"problem_type": "multiple choice", "options": ["A. left", "B. right"], "solution": "<answer>A</answer>"}
    texts = [
        {**choice, "problem": "What happens?"},
        {"problem_type": "math", "problem": "1/2 + 1/4", "solution": "\\boxed{\\frac{3}{4}}"},
        {"problem_type": "math", "problem": "x + 1 = 3", "solution": "<answer>x = 2</answer>"},
        {"problem_type": "numerical", "problem": "2 + 2", "solution": "<answer>4</answer>"},
    ]
    rows += [{**text, "data_type": "text", "problem_id": f"text {i}"} for i, text in enumerate(texts)]
    for i, (height, width) in enumerate([(64, 64), (50, 70), (200, 60), (640, 480), (64, 64)]):
        frame = sample_clip(folder / rows[i % 4]["path"]).frames[0].permute(1, 2, 0).numpy()
        Image.fromarray(frame).resize((width, height)).save(folder / f"image{i}.png")
        rows.append(
            {**choice, "problem": "What happens?", "data_type": "image", "path": f"image{i}.png",
             "problem_id": f"image {i}", "task_type": "Spatial"}
        )  # fmt: skip
    damaged = folder / "image4.png"
    damaged.write_bytes(damaged.read_bytes()[:200])
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def expected_rounds(rows: Path) -> list[list]:
    """The plan of each round, as every rank of the run makes it: the next question takes the damaged image's place."""
    questions, bad = load_questions(rows / "rows.jsonl", rows)
    assert not bad and len(questions) == 13
    from train import settings_of_method

    config = parse(["--preset", "toy", "--rollouts", "4"])
    planner = Planner(METHODS["crpo"], settings_of_method(config), QUESTIONS // UPDATES, SEED)
    cursor = QuestionCursor(questions, SEED)
    plans = []
    for _ in range(ROUNDS):
        visits = cursor.take(QUESTIONS)
        if any(question.id == "image 4" for _, question in visits):
            cursor.quarantine("image 4")
        visits = [visit if visit[1].id != "image 4" else cursor.take(1)[0] for visit in visits]
        plans.append(planner.plan(visits))
    return plans


def test_a_mixed_run(rows, tmp_path):
    plans = expected_rounds(rows)
    batches = {
        frozenset(item.question.data_type for item in plan if item.mini_batch == m)
        for plan in plans
        for m in range(UPDATES)
    }
    assert any(len(kinds) > 1 for kinds in batches) and any("video" in kinds for kinds in batches)
    asked = {item.question.problem_type for plan in plans for item in plan if item.question.data_type == "text"}
    assert "math" in asked

    run_dir = tmp_path / "mixed"
    launch(
        "train.py", "--preset", "toy", "--train-file", rows / "rows.jsonl", "--data-root", rows, "--run-dir", run_dir,
        "--max-steps", ROUNDS, "--questions", QUESTIONS, "--updates", UPDATES, "--rollouts", 4, "--seed", SEED,
        "--dtype", "float32", "--gradient-checkpointing", "--checksum-every", 1, "--samples-every", 1,
        "--tokens-per-pack", 256, "--no-export",
    )  # fmt: skip
    found = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["step"] > 0]
    assert len(found) == ROUNDS
    for row, plan in zip(found, plans, strict=True):
        single = {item.question.id for item in plan if item.question.data_type != "video"}
        assert row.get("data/single_branch", 0) == len(single)
        assert math.isfinite(row["policy/loss"]) and math.isfinite(row["policy/grad_norm"])
        assert row["policy/engine_gap_max"] <= 1e-5
    assert any(row["policy/grad_norm"] > 0 for row in found)
    assert found[-1]["data/quarantined"] == 1 and "image4.png" in (run_dir / "bad_rows.txt").read_text()
    print("gaps", [f"{row['policy/engine_gap_max']:.1e}" for row in found])
