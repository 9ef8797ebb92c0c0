"""The live engine against the trainer's policy: gap, sync, checksums, what a forgotten cache reset does.

pytest tests/test_engine.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from rollout import engine_ranks

pytestmark = pytest.mark.slow
FP32 = 1e-5  # trainer and engine add up in another order
VISIBLE = 1e-2  # what a stale cache of perturbed weights costs at the least


def untied(folder: str, out: str) -> str:
    """The tiny model with a head of its own, as Qwen3-VL-8B has."""
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    from toy.model import build_config, build_model, build_tokenizer, save

    config = build_config(build_tokenizer())
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    save(build_model(config), AutoProcessor.from_pretrained(folder), out)
    loaded = Qwen3VLForConditionalGeneration.from_pretrained(out)
    assert loaded.lm_head.weight is not loaded.model.language_model.embed_tokens.weight
    return out


@pytest.fixture(scope="module")
def facts(tiny_folder, tmp_path_factory):
    """Of an untied model; the toy's is tied, and every run of tests/test_train.py holds it to the same gap."""
    tiny_folder = untied(tiny_folder, str(tmp_path_factory.mktemp("untied")))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "engine_probe.py"), tiny_folder]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_log_probs_agree_before_any_sync(facts):
    assert facts["gap_start"] <= FP32 and facts["checksums_start"]


def test_a_sync_carries_perturbed_merger_and_llm_into_the_engine(facts):
    assert facts["gap_stale"] > VISIBLE and not facts["checksums_stale"]
    assert facts["gap_synced"] <= FP32 and facts["checksums_synced"]


def test_a_sync_need_not_bring_the_frozen_tower_again(facts):
    assert facts["gap_without_tower"] <= FP32 and facts["checksums_without_tower"]


def test_a_named_clip_is_sampled_as_a_hashed_one(facts):
    """All other samples go by names, also across syncs, after which a name must not bring back its old features."""
    assert facts["same_hashed"]


def test_images_and_text_agree_as_clips_do(facts):
    """Also an image that the checkpoint's own processor would have shrunk, and before and after the sync."""
    assert facts["gap_start_images"] <= FP32 and facts["gap_start_text"] <= FP32
    assert facts["gap_stale_images"] > VISIBLE
    assert facts["gap_synced_images"] <= FP32 and facts["gap_synced_text"] <= FP32


def test_a_forgotten_prefix_cache_reset_shows_in_the_gap(facts):
    assert facts["gap_without_prefix_reset"] > VISIBLE and facts["gap_after_prefix_reset"] <= FP32


def test_a_forgotten_encoder_cache_reset_shows_in_the_gap(facts):
    assert facts["gap_without_encoder_reset"] > VISIBLE


def test_sampling_is_seeded_per_prompt_and_never_draws_a_placeholder(facts):
    assert facts["distinct"] == 8 and facts["reproducible"]
    assert not facts["same_noise"] and not facts["banned_sampled"]


def test_a_prompt_that_a_full_step_would_cut_is_sampled(facts):
    """64 seeded prompts of more tokens than a step takes (4096): vLLM on a CPU cannot take back a cut one's sample."""
    tokens, answered = facts["crowd"]
    assert tokens > 2 * 4096 and answered == 64


def test_building_an_engine_leaves_the_random_streams_alone(facts):
    assert facts["rng_kept"]


def test_the_transformers_engine_answers_the_same(facts):
    assert (
        facts["hf_same_greedy"]
        and facts["hf_same_greedy_synced"]
        and facts["hf_gap"] <= FP32
        and facts["hf_distinct"] == 8
    )


@pytest.mark.parametrize(
    "gpu, ranks_per_node, expected",
    [
        ("NVIDIA H20", 8, 1), ("NVIDIA H100 80GB HBM3", 8, 8), ("NVIDIA H100 PCIe", 8, 1), ("NVIDIA H200", 4, 4),
        ("NVIDIA H200", 6, 2), ("NVIDIA H200", 1, 1), ("NVIDIA H200 NVL", 8, 1), ("NVIDIA GH200 480GB", 8, 1),
        ("Tesla T4", 8, 1), ("", 8, 1),
    ],
)  # fmt: skip
def test_ranks_of_an_engine_go_by_the_gpu_and_divide_the_node(gpu, ranks_per_node, expected):
    assert engine_ranks(gpu, ranks_per_node) == expected
