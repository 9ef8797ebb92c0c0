"""What only a GPU can show: bfloat16 packing, FlexAttention, FSDP and engine sleep on the device (small models).

pytest -m gpu tests/test_gpu.py. `scripts/gpu_check.sh` runs the same checks, and more of them, at real size.
"""

from __future__ import annotations

import json
import time

import pytest
import torch
from distributed import plain_logps

from model import load_policy, load_processor, pack_groups
from scripts import gpu_check

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def test_packed_bfloat16_log_probs_are_as_exact_as_unpacked_ones(tiny_folder):
    policy, processor = load_policy(tiny_folder), load_processor(tiny_folder)
    members = gpu_check.small_members(policy, processor)
    exact_policy = load_policy(tiny_folder).float()  # on the CPU, by the ordinary forward
    exact = torch.cat([
        plain_logps(exact_policy.hf, processor, group, i, banned=policy.banned_ids, temperature=1.0)
        for group, _ in members
        for i in range(len(group.rollouts))
    ])  # fmt: skip
    policy.to(DEVICE)
    packed, _ = policy(pack_groups([group for group, _ in members], [encoded for _, encoded in members], DEVICE))
    rows = []
    for group, encoded in members:
        for rollout in group.rollouts:
            alone = type(group)(group.question, 0, group.prompt, group.prompt_ids, [rollout])
            rows.append(policy(pack_groups([alone], [encoded], DEVICE))[0])
    packed_error, plain_error = ((logps.cpu() - exact).abs() for logps in (packed, torch.cat(rows)))
    print(f"packed max {packed_error.max():.1e} mean {packed_error.mean():.1e}, "
          f"unpacked max {plain_error.max():.1e} mean {plain_error.mean():.1e}")  # fmt: skip
    assert packed_error.mean() <= 1.5 * plain_error.mean() + 1e-4
    assert packed_error.max() <= 2 * plain_error.max() + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flex_attention_equals_the_dense_mask(dtype):
    row = gpu_check.ragged_row(2, 200, 4, 50, device=DEVICE.type)
    tensors = gpu_check.heads_of(row.ids.numel(), dtype, DEVICE.type, heads=8, kv_heads=2)
    expected = gpu_check.forward_backward(gpu_check.dense_attention(row), tensors)
    got = gpu_check.forward_backward(gpu_check.flex_attention_of(row), tensors)
    differences = gpu_check.largest_differences(got, expected)
    print(differences)
    tolerance = {torch.float32: 5e-3, torch.bfloat16: 3e-2}[dtype]
    for (name, difference), tensor in zip(differences.items(), expected, strict=True):
        assert difference <= tolerance * tensor.abs().max().item(), name


@pytest.mark.slow
@pytest.mark.parametrize("part", ["fsdp", "sleep1", "sleep2", "sleep1_fp32"])
def test_part_of_the_gpu_check(part, tmp_path):
    options = gpu_check.Options(only=(part,), out=str(tmp_path))
    machine = gpu_check.supervise("versions", options, time.monotonic())["figures"]
    if reason := gpu_check.why_not(part, options, machine):
        pytest.skip(reason)
    result = gpu_check.supervise(part, options, time.monotonic())
    assert result["result"] == "ok", json.dumps(result, indent=2)
