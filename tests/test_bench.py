"""pytest tests/test_bench.py -- each benchmark of the update at a tiny size: its JSON, and that its numbers are right.

Independent references: torch's own count of FLOPs, the published parameter counts, the plain forward on a row of its
own for each rollout.
"""

import json
import shutil
from dataclasses import replace
from unittest import mock

import pytest
import torch
from distributed import plain_logps
from torch.utils.flop_counter import FlopCounterMode
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

from bench import memory, peer_trl, plan, shapes, workload
from bench import update as bench
from toy.model import build_tokenizer

CPU = torch.device("cpu")
TINY = ["--size", "tiny", "--prompt-tokens", "96", "--rollouts", "3", "--completion-tokens", "5", "--repeats", "1"]
pytestmark = pytest.mark.usefixtures("one_rank", "one_thread")


def run(module, tmp_path, *flags):
    file = tmp_path / "out.json"
    module.main([*map(str, flags), "--json", str(file)])
    return json.loads(file.read_text())


def prepared(**flags):
    common = dict(size="tiny", prompt_tokens=96, rollouts=3, ragged=(2, 9), groups=2)
    return bench.prepare(bench.BenchArgs(**common | flags), CPU)


# -- update ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--ragged", "1", "9", "--groups", "2", "--checkpointing"]])
def test_update_writes_ratios_and_exactness(tmp_path, flags, capsys):
    got = run(bench, tmp_path, *TINY, *flags)
    for numbers in (got, got["cpu_time"]):
        seconds = numbers["seconds"]
        assert numbers["ratio"] == seconds["naive"] / seconds["packed"] > 0
        assert numbers["ratio_tower_per_rollout"] == seconds["naive, tower per rollout"] / seconds["packed"]
    assert 0 < got["max_logp_diff"] <= 5e-6 and 0 < got["max_grad_diff"] <= 1e-5
    lengths = got["lengths"]
    assert got["physical_tokens"] == sum(96 + sum(group) for group in lengths)
    assert got["logical_tokens"] == sum(96 + length for group in lengths for length in group)
    rows, longest = sum(map(len, lengths)), max(max(group) for group in lengths)
    assert got["token_ratio"] == rows * (96 + longest) / got["physical_tokens"]
    assert got["logical_tokens_per_s"] == got["logical_tokens"] / got["seconds"]["packed"]
    assert got["mfu"] == pytest.approx(got["flops"] / got["seconds"]["packed"] / got["matmul_flops_per_s"])
    assert "naive, tower per rollout" in capsys.readouterr().out


@pytest.mark.parametrize("tower_per_rollout", [False, True])
def test_the_naive_batch_gives_the_plain_log_probs(tower_per_rollout):
    """The prompt is made without filler here: the plain forward reads it from the processor."""
    shape = shapes.SHAPES["tiny"]
    policy, hf, processor = workload.build_policy(shape, dtype=torch.float32, device=CPU, checkpointing=False)
    clip = workload.clip_for(64)
    with mock.patch.object(workload, "lengthen", lambda encoded, tokens, dice: encoded):
        members = workload.make_members(policy, processor, prompt_tokens=0, lengths=[[4, 1, 7], [2, 5]], clip=clip)
    packs = workload.packs_of(members, 10_000, CPU)
    batch = workload.naive_batch(hf, members, packs)
    banned = policy.banned_ids
    with torch.no_grad():
        got = workload.naive_logps(hf, banned, batch, tower_per_rollout=tower_per_rollout)
        plain = [
            plain_logps(hf, processor, group, i, banned=banned, temperature=1.0)
            for group, _ in members
            for i in range(len(group.rollouts))
        ]
    torch.testing.assert_close(got, torch.cat(plain), rtol=0, atol=5e-6)


def test_the_naive_model_shares_the_policys_parameters_but_not_its_modules():
    policy, hf, _ = workload.build_policy(shapes.SHAPES["tiny"], dtype=torch.float32, device=CPU, checkpointing=False)
    mine = dict(policy.hf.named_parameters())
    assert all(mine[name] is parameter for name, parameter in hf.named_parameters()) and hf is not policy.hf
    assert hf.model.language_model.config is not policy.hf.model.language_model.config
    assert not any(p.requires_grad for module in policy.frozen_modules() for p in module.parameters())


def test_a_prompt_is_as_long_as_asked_and_a_clip_too_large_for_it_is_refused(capsys):
    ready = prepared(prompt_tokens=201)
    assert [len(encoded.ids) for _, encoded in ready.members] == [201, 201]
    assert all(encoded.positions.shape == (3, 201) for _, encoded in ready.members)
    with pytest.raises(SystemExit) as error:
        bench.main([*TINY, "--frames", "32"])
    assert "--prompt-tokens 96 must hold" in str(error.value) and "\n" not in str(error.value)


# -- FLOPs and parameters ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size, parameters", [("2B", 2127532032), ("4B", 4437815808), ("8B", 8767123696)])
def test_published_parameter_counts(size, parameters):
    assert shapes.count(shapes.build_config(shapes.SHAPES[size], build_tokenizer())).total == parameters


def test_meta_counts_are_those_of_the_allocated_model():
    ready = prepared()
    policy = ready.policy
    assert ready.counts.total == sum(p.numel() for p in policy.parameters())
    assert ready.counts.trained == sum(p.numel() for p in policy.parameters() if p.requires_grad)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_flops_of_the_naive_update_are_what_torch_counts(checkpointing):
    """Without attention, which torch counts as if it were not causal."""
    ready = prepared(ragged=None, completion_tokens=32, groups=1, checkpointing=checkpointing)
    counter = FlopCounterMode(display=False)
    with counter:
        ready.run("naive")
    by_kind = {str(op).split(".")[-1]: n for op, n in counter.get_flop_counts()["Global"].items()}
    products = sum(n for op, n in by_kind.items() if "attention" not in op)
    shape, cost = shapes.SHAPES["tiny"], ready.counts.cost
    work = shapes.naive_work(96, ready.lengths[0], shapes.grids_of(ready.clip.tokens, ready.clip.frames))
    assert work.patches == sum(pack.work.patches for pack in ready.packs())
    no_attention = replace(work, pairs=0, patch_pairs=0)
    expected = shapes.update_flops(shape, cost, no_attention, checkpointing=checkpointing, head_again=False)
    assert products == pytest.approx(expected, rel=1e-3)


def test_a_naive_batch_counts_padded_rows_and_the_tower_for_each():
    naive = shapes.naive_work(7, [3, 1, 6], [(2, 4, 6)], tower_per_rollout=True)
    assert (naive.pairs, naive.rows, naive.head_rows) == (3 * 13 * 14 // 2, 3 * 13, 10)
    assert (naive.patches, naive.patch_pairs) == (3 * 48, 3 * 2 * 24 * 24)


# -- plan --------------------------------------------------------------------------------------------------------------


def test_plan_of_the_papers_run(tmp_path, capsys):
    got = run(plan, tmp_path, "--model", "Qwen3-VL-8B", "--gpus", 32, "--gpu", "H20")
    assert got["parameters"]["total"] == 8767123696
    saving, whole = got["choices"]["with checkpointing"], got["choices"]["without checkpointing"]
    assert saving["fits"] and not whole["fits"] and got["generation_fits"]
    for choice in (saving, whole):
        parts = choice["memory_gb"]
        assert parts["total"] == pytest.approx(sum(n for name, n in parts.items() if name != "total"))
        assert parts["AdamW"] == pytest.approx(8 * got["parameters"]["trained"] / 32 / 1e9)
        assert choice["seconds"] == pytest.approx(sum(row["seconds"] for row in choice["phases"]))
    # By hand, A9 of the plan: (6.946 B + attention) on 3,800 and 13,600 rows, a pass over a group, head on 2,400.
    [old] = [row for row in saving["phases"] if row["phase"] == "old log-probs"]
    unread = 2 * 3 * 4096 * 12288 * 1399  # the last layer's MLP on the prompt, but for its last row
    assert old["flops"] / 256 == pytest.approx(58.5e12 + 0.33e12 - unread, rel=0.005)
    assert "fits" in capsys.readouterr().out


def test_a_layer_keeps_for_its_backward_pass_what_the_plan_counts():
    """Two layers less one, by torch's own hooks on what autograd saves."""
    shape, tokens, kept = shapes.SHAPES["20M"], 24, []
    for layers in (1, 2):
        config = shapes.build_config(replace(shape, layers=layers), build_tokenizer()).text_config
        config._attn_implementation = "sdpa"
        model = Qwen3VLTextModel(config).to(torch.bfloat16)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        saved: dict[int, torch.UntypedStorage] = {}

        def keep(tensor, saved=saved, weights=weights):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            embeds = torch.randn(1, tokens, shape.hidden, dtype=torch.bfloat16, requires_grad=True)
            out = model(inputs_embeds=embeds, position_ids=torch.arange(tokens).expand(3, 1, tokens), use_cache=False)
        kept.append(sum(storage.nbytes() for storage in saved.values()))
        del out
    assert (kept[1] - kept[0]) / tokens == pytest.approx(plan.layer_activations(shape), rel=0.02)


def test_plan_drops_the_passes_that_a_run_does_not_need():
    base = plan.plan(plan.PlanArgs())
    lean = plan.plan(plan.PlanArgs(updates=1, kl_coef=0.0))
    named = [{row["phase"] for row in p["choices"]["with checkpointing"]["phases"]} for p in (base, lean)]
    assert named[0] - named[1] == {"old log-probs", "reference log-probs"}
    assert lean["choices"]["with checkpointing"]["memory_gb"]["reference"] == 0


@pytest.mark.parametrize("flags", [["--vision-tokens", "1400"], ["--gpus", "0"], ["--completion-tokens", "4096"]])
def test_plan_refuses_in_one_line(flags):
    with pytest.raises(SystemExit) as error:
        plan.main(flags)
    assert str(error.value).startswith(f"error: {flags[0]} {flags[1]} must") and "\n" not in str(error.value)


# -- memory and TRL ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_memory_of_each_way_in_its_own_process(tmp_path):
    got = run(memory, tmp_path, *TINY, "--vocab", 65536, "--completion-tokens", 64)
    peaks = got["peaks"]
    assert set(peaks) == set(bench.WAYS)
    logits, gradient = 3 * 64 * 65536 * 4, 65536 * 128 * 4
    for way, peak in peaks.items():
        least = gradient + (0 if way == "packed" else logits)
        assert peak["update_bytes"] == peak["peak_bytes"] - peak["before_bytes"] >= least
    assert got["share"] == peaks["packed"]["update_bytes"] / peaks["naive"]["update_bytes"]


@pytest.mark.slow
def test_trls_trainer_and_ours_agree(tmp_path):
    """Only where TRL's environment stands (`python -m bench.peer_trl` makes it): a test installs nothing."""
    scratch = peer_trl.PeerArgs().scratch
    if not (scratch / "trl" / "ready").is_file():
        pytest.skip("no environment of TRL's: python -m bench.peer_trl makes it")
    small = ["--image-side", 128, "--text-words", 20, "--rollouts", 4, "--completion-tokens", 8, "--steps", 3]
    got = run(peer_trl, tmp_path, "--size", "tiny", *small)
    for kind in ("image", "text"):
        numbers = got[kind]
        assert numbers["max_loss_diff"] < 2e-6 and numbers["max_grad_norm_diff"] < 1e-5
        assert numbers["steps"]["ours"][2]["kl"] > 1e-3, "without a KL the losses say nothing"
        seconds = numbers["seconds"]
        assert numbers["ratio"] == seconds["trl"]["update"] / seconds["ours"]["update"]


def test_peer_trl_without_uv_or_index_says_so_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="uv is not on the PATH"):
        peer_trl.trl_python(tmp_path / "a")
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho first >&2; echo no index here >&2; exit 2\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{shutil.os.defpath}")
    with pytest.raises(SystemExit, match="error: uv venv --clear failed: no index here"):
        peer_trl.trl_python(tmp_path / "a")
