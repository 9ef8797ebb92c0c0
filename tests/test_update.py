"""pytest tests/test_update.py -- the gradient of Eq. 6: against a slow loop, over ranks, over packs, in step.

The slow loop is float64 throughout (norms included), one ordinary forward per rollout; the library runs in float32,
whose rounding through four layers and back leaves some 2e-6 of a parameter's gradient: hence 1e-5. Two float32 runs
that differ only in the order of their sums agree to 1e-6 over the whole gradient, and to 5e-6 in each parameter's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from distributed import make_group, plain_logps, random_view, relative_difference, run_ranks, true_float64

import parallel
import update
from episode import Group
from metrics import Accumulator
from model import EncodedPrompt, load_policy, load_processor, trainer_names
from packing import split_by_completion

CLIP_EPS, BETA = 0.2, 0.7
SLOW_TOLERANCE = 1e-5
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Member:
    """A group on its way into a pack, with made-up old and reference log-probs, one tensor per rollout."""

    group: Group
    encoded: EncodedPrompt
    old: list[torch.Tensor]
    ref: list[torch.Tensor]


@dataclass
class Batch:
    """A mini-batch of three questions, and what the slow loop says about it."""

    questions: list[list[Member]]
    loss: float
    objective: float
    kl: float
    ratio_max: float
    clip_fraction: float
    gradients: dict[str, torch.Tensor]


def slow_loop(
    hf, processor, questions: list[list[Member]], banned, importance_cap: float | None = None
) -> tuple[float, float, list, list, int]:
    """Eq. 6 with the KL penalty, word by word; adds the gradient of the loss to `hf`'s parameters. With a cap each term
    of Eq. 6 weighs by truncated old / engine probability."""
    loss, objective, ratios, kls, cut = 0.0, 0.0, [], [], 0
    for branches in questions:  # mean over questions
        for member in branches:  # sum of the branches
            G = len(member.group.rollouts)
            for i, rollout in enumerate(member.group.rollouts):  # mean over G
                if not rollout.ids:
                    continue
                logps = plain_logps(hf, processor, member.group, i, banned=banned, temperature=1.0)
                A = member.group.advantages[i].item()
                surrogate, penalty = 0.0, 0.0
                for t in range(len(rollout.ids)):  # mean over the tokens of the completion
                    rho = torch.exp(logps[t] - member.old[i][t].double())
                    weight = 1.0
                    if importance_cap is not None:
                        engine = math.exp(member.old[i][t].item() - rollout.engine_logps[t].item())
                        weight = importance_cap if engine > importance_cap else engine
                    ratios.append(rho.item())
                    if A > 0 and rho.item() > 1 + CLIP_EPS:
                        surrogate += weight * (1 + CLIP_EPS) * A  # a constant: no gradient
                        cut += 1
                    elif A < 0 and rho.item() < 1 - CLIP_EPS:
                        surrogate += weight * (1 - CLIP_EPS) * A
                        cut += 1
                    else:
                        surrogate += weight * rho * A
                    d = member.ref[i][t].double() - logps[t]
                    kls.append((torch.exp(d) - d - 1).item())
                    penalty += torch.exp(d) - d - 1
                share = 1 / (len(questions) * G * len(rollout.ids))
                part = share * (BETA * penalty - surrogate)
                part.backward()
                loss += part.item()
                objective += share * BETA * penalty.item() - part.item()
    return loss, objective, ratios, kls, cut


@pytest.fixture(scope="module")
def batch(tiny_folder):
    """Two video questions with both branches and a text one; lengths and groups unequal, advantages of both signs."""
    processor, policy = load_processor(tiny_folder), load_policy(tiny_folder)
    banned = policy.banned_ids
    short, long = random_view(1), random_view(2, frames=6)

    def branch(seed, lengths, advantages, view, second):
        if second:
            view = type(view)(view.frames.flip(0), "temporal_reverse", view.fps, view.source_frames, view.frame_indices)
        group, encoded = make_group(
            processor, policy, seed, lengths, view=view, branch=int(second), advantages=advantages
        )
        return Member(group, encoded, [], [])

    questions = [
        [branch(1, [3, 9, 1], [1.2, -0.7, -0.5], short, False), branch(1, [5, 2, 6], [0.3, 0.4, -0.7], short, True)],
        [branch(2, [2, 12, 4], [-1.1, 0.2, 0.9], long, False), branch(2, [1, 0, 8], [0.8, 0.1, -0.9], long, True)],
        [branch(3, [4, 7], [0.7, -0.7], None, False)],
    ]
    hf = policy.hf.double()
    generator = torch.Generator().manual_seed(5)
    with true_float64():
        for member in (member for branches in questions for member in branches):
            for i, rollout in enumerate(member.group.rollouts):
                logps = torch.zeros(0, dtype=torch.float64)
                if rollout.ids:
                    with torch.no_grad():
                        logps = plain_logps(hf, processor, member.group, i, banned=banned, temperature=1.0)
                noise = torch.randn(2, len(rollout.ids), generator=generator, dtype=torch.float64)
                member.old.append((logps + 0.3 * noise[0]).float())  # the clip is active, on both sides
                member.ref.append((logps + 0.5 * noise[1]).float())
        loss, objective, ratios, kls, cut = slow_loop(hf, processor, questions, banned)
    tokens = len(ratios)
    outside = sum(abs(ratio - 1) > CLIP_EPS for ratio in ratios)
    assert 0 < cut < outside < tokens, "both the cut and the uncut side of the clip must be in play"
    gradients = {name: p.grad for name, p in hf.named_parameters() if p.grad is not None}
    return Batch(questions, loss, objective, sum(kls) / tokens, max(ratios), outside / tokens, gradients)


def packs_of(members: list[Member], *, questions: int, tokens_per_pack: int) -> list[update.Pack]:
    """Packs with the made-up log-probs: the token ids of a completion tell whose they are."""
    packs = update.make_packs(
        [(member.group, member.encoded) for member in members],
        questions=questions, tokens_per_pack=tokens_per_pack, device=CPU,
    )  # fmt: skip
    return [with_made_up(pack, members) for pack in packs]


def with_made_up(pack: update.Pack, members: list[Member]) -> update.Pack:
    made_up = {
        rollout.ids: (old, ref)
        for member in members
        for rollout, old, ref in zip(member.group.rollouts, member.old, member.ref, strict=True)
    }
    ids = [tuple(part.tolist()) for part in split_by_completion(pack.inputs.row.targets, pack.inputs.row)]
    if pack.idle:
        return replace(pack, old_logps=torch.zeros(1), ref_logps=torch.zeros(1))
    old, ref = (torch.cat([made_up[tokens][k] for tokens in ids]) for k in (0, 1))
    return replace(pack, old_logps=old, ref_logps=ref)


def run_backward(policy, packs, **more) -> dict:
    """Gradients by Hugging Face name, and the metrics with the mini-batch counted once."""
    numbers = Accumulator()
    update.backward(policy, packs, clip_eps=CLIP_EPS, kl_coef=BETA, numbers=numbers, **more)
    if parallel.is_main():
        numbers.add("policy/loss", 0.0)
        numbers.add("policy/objective", 0.0)
    gradients = {}
    for name, parameter in trainer_names(policy.named_parameters()):
        if parameter.grad is not None:
            whole = parameter.grad.full_tensor() if hasattr(parameter.grad, "full_tensor") else parameter.grad
            gradients[name] = whole.clone()
    return {"gradients": gradients, "metrics": numbers.reduce(), "packs": len(packs)}


def sharded_gradient(folder: str, members: list[Member], sampled_by: list[int], tokens_per_pack: int) -> dict:
    """On each rank: the mini-batch of three questions through FSDP, as train.py does it; `sampled_by`: each group's
    rank."""
    device = parallel.start(timeout_minutes=1)
    policy = load_policy(folder).train()
    parallel.shard(policy, policy.layers(), policy.frozen_modules(), device, torch.float32)
    here = torch.distributed.get_rank()
    held = {i: (m.group, m.encoded) for i, m in enumerate(members) if sampled_by[i] == here}
    (packs,) = update.pack_mini_batches(
        held,
        [range(len(members))],
        questions=3,
        tokens_per_pack=tokens_per_pack,
        device=device,
        numbers=Accumulator(),
    )
    rows = [pack.inputs.row for pack in packs if not pack.idle]
    completions = [tuple(ids.tolist()) for row in rows for ids in split_by_completion(row.targets, row)]
    own = [i for i, m in enumerate(members) if {r.ids for r in m.group.rollouts if r.ids} & set(completions)]
    result = run_backward(policy, [with_made_up(pack, members) for pack in packs])
    return result | {"own_packs": len(rows), "tokens": sum(len(row.ids) for row in rows), "own": own}


@pytest.fixture
def local(tiny_folder, monkeypatch):
    """The same without a process group: one process, whole parameters."""
    monkeypatch.setattr(update, "undo_fsdp_mean", lambda loss: loss)
    policy = load_policy(tiny_folder).float().train()

    def run(members, questions=3, tokens_per_pack=10**6):
        policy.zero_grad()
        return run_backward(policy, packs_of(members, questions=questions, tokens_per_pack=tokens_per_pack))

    run.policy = policy
    return run


def flat(questions):
    return [member for branches in questions for member in branches]


def assert_same(got: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> str:
    """Equal up to the order of float32 sums; returns the two differences in words."""
    each = relative_difference(got, expected)
    whole = relative_difference(*({"all": torch.cat([g[n].flatten() for n in expected])} for g in (got, expected)))
    assert each <= 5e-6
    assert whole <= 1e-6
    return f"each parameter {each:.1e}, whole gradient {whole:.1e}"


def check_against_slow_loop(result, batch, label):
    difference = relative_difference(result["gradients"], batch.gradients)
    loss = abs(result["metrics"]["policy/loss"] - batch.loss) / abs(batch.loss)
    print(f"{label}: gradient {difference:.1e}, loss {loss:.1e}")
    assert difference <= SLOW_TOLERANCE
    assert loss <= 1e-5
    return difference


def test_one_process_equals_the_slow_loop(batch, local):
    result = local(flat(batch.questions))
    assert result["packs"] == 1
    check_against_slow_loop(result, batch, "one process")
    metrics = result["metrics"]
    assert metrics["policy/objective"] == pytest.approx(batch.objective, rel=1e-5, abs=5e-7)  # its signs nearly cancel
    assert metrics["policy/kl"] == pytest.approx(batch.kl, rel=1e-4)
    assert metrics["policy/ratio_max"] == pytest.approx(batch.ratio_max, rel=1e-4)
    assert metrics["policy/clip_fraction"] == pytest.approx(batch.clip_fraction)


def test_truncated_importance_weights_equal_the_slow_loop(batch, local, tiny_folder):
    """Engine log-probs some 0.4 nats off, so that a third of the weights is cut at 1.2."""
    generator, cap, weights, questions = torch.Generator().manual_seed(9), 1.2, [], []
    for branches in batch.questions:
        questions.append([])
        for member in branches:
            off = [0.4 * torch.randn(old.shape, generator=generator) for old in member.old]
            rollouts = [
                replace(rollout, engine_logps=(old - noise))
                for rollout, old, noise in zip(member.group.rollouts, member.old, off, strict=True)
            ]
            weights += [torch.exp(old - r.engine_logps) for old, r in zip(member.old, rollouts, strict=True)]
            questions[-1].append(replace(member, group=replace(member.group, rollouts=rollouts)))
    hf = load_policy(tiny_folder).hf.double()
    with true_float64():
        loss, *_ = slow_loop(hf, load_processor(tiny_folder), questions, local.policy.banned_ids, cap)
    expected = {name: p.grad for name, p in hf.named_parameters() if p.grad is not None}
    packs = packs_of(flat(questions), questions=3, tokens_per_pack=150)
    result = run_backward(local.policy, packs, importance_cap=cap)
    assert relative_difference(result["gradients"], expected) <= SLOW_TOLERANCE
    assert relative_difference(result["gradients"], batch.gradients) > 0.01, "the weights must matter"
    assert result["metrics"]["policy/loss"] == pytest.approx(loss, rel=1e-5)
    weights_C = torch.cat(weights)
    assert result["metrics"]["policy/importance_mean"] == pytest.approx(
        weights_C.clamp(max=cap).mean().item(), rel=1e-5
    )
    truncated = result["metrics"]["policy/importance_truncated"]
    assert truncated == pytest.approx((weights_C > cap).float().mean().item()) and 0.2 < truncated < 0.5


@pytest.mark.parametrize("tokens_per_pack", [1, 150, 220])
def test_other_packs_same_gradient(batch, local, tokens_per_pack):
    """At 1 every completion stands alone with its prompt, and still weighs by the G of its group."""
    whole = local(flat(batch.questions))
    split = local(flat(batch.questions), tokens_per_pack=tokens_per_pack)
    assert split["packs"] == {1: 14, 150: 3, 220: 2}[tokens_per_pack]
    assert_same(split["gradients"], whole["gradients"])
    assert split["metrics"]["policy/loss"] == pytest.approx(whole["metrics"]["policy/loss"], rel=2e-6)
    assert split["metrics"]["policy/clip_fraction"] == pytest.approx(whole["metrics"]["policy/clip_fraction"])


def test_a_truncated_rollout_can_be_left_out_and_still_counts_in_g(batch):
    group, encoded = batch.questions[0][0].group, batch.questions[0][0].encoded
    rollouts = [replace(rollout, finish="length" if i == 0 else "stop") for i, rollout in enumerate(group.rollouts)]
    group = replace(group, rollouts=rollouts)
    how = dict(questions=3, tokens_per_pack=10**6, device=CPU)
    (kept,), (masked,) = (update.make_packs([(group, encoded)], **how, mask_truncated=on) for on in (False, True))
    first = len(rollouts[0].ids)
    assert first > 0 and not masked.weights[:first].any() and kept.weights[:first].all()
    assert torch.equal(masked.weights[first:], kept.weights[first:])


def test_another_order_of_groups_same_gradient(batch, local):
    whole, turned = local(flat(batch.questions)), local(flat(batch.questions)[::-1])
    assert_same(turned["gradients"], whole["gradients"])


def test_the_denominator_is_the_mini_batchs_and_not_the_packs(batch, local):
    three, six = local(flat(batch.questions)), local(flat(batch.questions), questions=6)
    halved = {name: 0.5 * value for name, value in three["gradients"].items()}
    assert_same(six["gradients"], halved)


def test_without_old_log_probs_the_ratio_is_one_and_the_gradient_the_policy_gradient(batch, local):
    packs = packs_of(flat(batch.questions), questions=3, tokens_per_pack=10**6)
    packs = [replace(pack, old_logps=None, ref_logps=None) for pack in packs]
    result = run_backward(local.policy, packs)
    got = result["gradients"]
    assert result["metrics"]["policy/ratio_max"] == 1.0
    assert result["metrics"]["policy/clip_fraction"] == 0.0
    assert "policy/kl" not in result["metrics"]
    local.policy.zero_grad()
    logps, _ = local.policy(packs[0].inputs)
    (-packs[0].weights * packs[0].advantages * logps).sum().backward()
    expected = {name: p.grad for name, p in trainer_names(local.policy.named_parameters()) if p.grad is not None}
    assert_same(got, expected)


def test_idle_packs_change_neither_gradient_nor_numbers(batch, local):
    members = flat(batch.questions)
    packs = packs_of(members, questions=3, tokens_per_pack=220)
    expected = run_backward(local.policy, packs)
    local.policy.zero_grad()
    got = run_backward(local.policy, [*packs, *[with_made_up(update.idle_pack(CPU), members)] * 3])
    assert relative_difference(got["gradients"], expected["gradients"]) <= 1e-7
    assert got["metrics"] == pytest.approx(expected["metrics"])


def test_a_pack_without_a_token_to_train_runs_and_leaves_no_gradient(batch, local):
    """Every completion empty, or every one cut off and masked."""
    member = batch.questions[0][0]
    empty = [replace(rollout, ids=(), engine_logps=torch.zeros(0)) for rollout in member.group.rollouts]
    cut = [replace(rollout, finish="length") for rollout in member.group.rollouts]
    for rollouts in (empty, cut):
        group = replace(member.group, rollouts=rollouts)
        packs = update.make_packs(
            [(group, member.encoded)], questions=3, tokens_per_pack=10**6, device=CPU, mask_truncated=True
        )
        result = run_backward(local.policy, packs)
        assert all(not gradient.any() for gradient in result["gradients"].values())
        assert result["metrics"]["policy/loss"] == 0
        local.policy.zero_grad()


def test_engine_gap_counts_trained_tokens_only(batch, local):
    packs = packs_of(batch.questions[2], questions=3, tokens_per_pack=10**6)
    numbers = Accumulator()
    mine = [pack.engine_logps + torch.linspace(-0.5, 0.25, len(pack.weights)) for pack in packs]
    update.engine_gap(packs, mine, numbers)
    idle = update.idle_pack(CPU)
    update.engine_gap([idle], [torch.full_like(idle.weights, 9.0)], numbers)
    values = numbers.reduce()
    assert values["policy/engine_gap_max"] == pytest.approx(0.5)
    assert values["policy/engine_gap_mean"] == pytest.approx(torch.linspace(-0.5, 0.25, 11).abs().mean().item())


def test_logps_carry_no_gradient_and_equal_backwards(batch, local):
    packs = packs_of(flat(batch.questions), questions=3, tokens_per_pack=150)
    without = update.logps(local.policy, packs)
    numbers = Accumulator()
    _, within = update.backward(local.policy, packs, clip_eps=CLIP_EPS, kl_coef=BETA, numbers=numbers)
    for a, b in zip(without, within, strict=True):
        assert not a.requires_grad and not b.requires_grad
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


# -- over ranks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_rank(batch, tiny_folder):
    members = flat(batch.questions)
    return run_ranks(sharded_gradient, 1, tiny_folder, members, [0] * len(members), 10**6)[0]


@pytest.mark.slow
def test_one_rank_equals_the_slow_loop(batch, one_rank):
    check_against_slow_loop(one_rank, batch, "one rank")


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampled_by, tokens_per_pack",
    [
        ([0, 1, 0, 1, 0], 10**6),  # dealt in turn, as the plan does: branches of a question on two ranks
        ([0, 0, 1, 1, 1], 10**6),  # one question against two
        ([0, 0, 0, 0, 0], 150),  # all sampled by one rank: half of it travels; several packs
        ([1, 1, 1, 1, 0], 1),  # rank 0 sampled the text alone; every completion is a pack of its own
    ],
)
def test_two_ranks_equal_the_slow_loop_whoever_sampled_what(batch, one_rank, tiny_folder, sampled_by, tokens_per_pack):
    """Neither a mean over ranks nor one over tokens would agree; and no rank hangs with fewer packs than the other."""
    members = flat(batch.questions)
    results = run_ranks(sharded_gradient, 2, tiny_folder, members, sampled_by, tokens_per_pack)
    assert results[0]["packs"] == results[1]["packs"] >= max(result["own_packs"] for result in results)
    if tokens_per_pack == 10**6:
        assert sorted(results[0]["own"] + results[1]["own"]) >= list(range(len(members)))
    if not any(sampled_by):
        assert results[1]["own"], "rank 1 trains on what rank 0 sampled"
    assert max(r["tokens"] for r in results) <= 0.75 * sum(r["tokens"] for r in results)
    for rank, result in enumerate(results):
        check_against_slow_loop(result, batch, f"rank {rank} of 2")
        print(f"rank {rank} of 2 against one rank:", assert_same(result["gradients"], one_rank["gradients"]))
        for name in ("loss", "objective", "kl", "entropy", "logp_mean", "clip_fraction", "ratio_max"):
            value, expected = (r["metrics"][f"policy/{name}"] for r in (result, one_rank))
            assert value == pytest.approx(expected, rel=1e-6, abs=5e-7), name  # the objective's signs nearly cancel


@pytest.mark.slow
def test_a_hang_would_fail():
    """The control of the test above: a rank that waits for what its neighbour never sends is reported."""
    with pytest.raises(AssertionError, match="hang: ranks \\[0\\]"):
        run_ranks(lonely_wait, 2, timeout_s=8.0)


def lonely_wait() -> None:
    parallel.start(timeout_minutes=1)
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        torch.distributed.distributed_c10d._get_default_store().get("a key that nobody sets")


@pytest.mark.parametrize(
    "update_, warmup, schedule, share",
    [
        (1, 0, "constant", 1.0),
        (10, 0, "constant", 1.0),
        (1, 4, "constant", 0.25),
        (4, 4, "linear", 1.0),
        (1, 0, "linear", 1.0),
        (10, 0, "linear", 0.1),
        (5, 4, "linear", 1.0),
        (10, 4, "linear", 1 / 6),
    ],
)
def test_learning_rate_of_ten_updates(update_, warmup, schedule, share):
    assert update.lr_factor(update_, 10, warmup, schedule) == pytest.approx(share)
