"""pytest tests/test_flops.py -- FLOPs against torch's own counter, work against a loop, peaks by device name."""

from __future__ import annotations

import pytest
import torch
from distributed import make_group, random_view
from torch.utils.flop_counter import FlopCounterMode

import update
from flops import Cost, Work, group_work, peak_flops
from model import load_policy, load_processor

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_matrix_products_of_a_pack_are_those_that_torch_counts(tiny_folder):
    """Attention apart: torch counts a square mask whole, pairs count what may attend."""
    policy, processor = load_policy(tiny_folder), load_processor(tiny_folder)
    members = [make_group(processor, policy, seed, [5, 9, 3], view=random_view(seed)) for seed in (1, 2)]
    (pack,) = update.make_packs(members, questions=2, tokens_per_pack=10**6, device=torch.device("cpu"))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        policy(pack.inputs)
    counted = counter.get_flop_counts()["Global"]
    products = sum(flops for op, flops in counted.items() if "attention" not in str(op) and "bmm" not in str(op))
    cost, work = Cost.of(policy), pack.work
    expected = cost.row * work.rows + cost.last_row * work.last_rows + cost.head_row * work.head_rows
    expected += (cost.merged_patch + cost.patch) * work.patches
    assert products == pytest.approx(expected, rel=0.01)
    assert work.rows == len(pack.inputs.row.ids) and work.head_rows == len(pack.inputs.row.logit_rows)


def test_pairs_are_those_of_a_loop_over_queries_and_keys():
    prompt, lengths, grids = 7, [3, 0, 5], [(2, 4, 6)]
    tokens = [(-1, t) for t in range(prompt)] + [(i, t) for i, n in enumerate(lengths) for t in range(n)]
    pairs = sum(
        (key[0] == -1 or key[0] == query[0]) and tokens.index(key) <= tokens.index(query)
        for query in tokens
        for key in tokens
    )
    work = group_work(prompt, lengths, grids)
    assert (work.rows, work.unshared_rows, work.pairs, work.head_rows) == (15, 29, pairs, 7)
    assert (work.patches, work.patch_pairs) == (48, 2 * 24 * 24)
    assert work + work == Work(*(2 * value for value in vars(work).values()))


def test_qwen3_vl_8b_has_the_published_matrices_and_the_known_cost_of_a_group():
    """36 layers of 41.9 M and 151 M, head 0.622 B: a group of 1,400 + 8 x 300 is 58.5 TFLOP, unshared 198.7."""
    attention, mlp = 41_943_040, 150_994_944
    cost = Cost(2 * (36 * attention + 35 * mlp), 2 * mlp, 4 * 32 * 128 * 36, 2 * 151_936 * 4096, 0, 0, 0)
    shared = cost.trained(group_work(1400, [300] * 8, []))
    unshared = 8 * cost.trained(group_work(1400, [300], []))
    assert shared / 1e12 == pytest.approx(58.5, rel=0.02) and unshared / 1e12 == pytest.approx(198.7, rel=0.02)


@pytest.mark.parametrize(
    "name, tflops",
    [
        ("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H20", 148), ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA GeForce RTX 4090", 165), ("Tesla T4", None),
    ],
)  # fmt: skip
def test_a_device_name_finds_its_peak_or_none(name, tflops):
    assert peak_flops(name) == (tflops and tflops * 1e12)
