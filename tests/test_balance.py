"""pytest tests/test_balance.py -- deals of groups to ranks and packs: nothing lost, near the best, Table 7's shape."""

from __future__ import annotations

import itertools
import random

import pytest

from balance import deal, imbalance, load, longest_first


def table7_round(seed: int, mix: tuple[float, float, float], questions: int = 128) -> list[tuple[int, list[int]]]:
    """Groups of a round of Table 7 (4 questions a rank on 32 ranks, G = 8): completions of 300 tokens in the mean,
    one in a hundred at the limit of 2,048. `mix`: video (two branches), image, text."""
    rng, groups = random.Random(seed), []
    for _ in range(questions):
        kind = rng.choices(("video", "image", "text"), mix)[0]
        prompt = rng.randint(*{"video": (1100, 1500), "image": (300, 900), "text": (100, 300)}[kind])
        for _ in range(2 if kind == "video" else 1):
            lengths = [
                2048 if rng.random() < 0.01 else min(2048, int(rng.lognormvariate(5.53, 0.58))) for _ in range(8)
            ]
            groups.append((prompt, lengths))
    return groups


def in_turn(groups: list[tuple[int, list[int]]], ranks: int) -> list[int]:
    return [sum(prompt + sum(lengths) for prompt, lengths in groups[rank::ranks]) for rank in range(ranks)]


def dealt(groups, ranks=32, tokens_per_pack=16384):
    return deal(groups, [[i % ranks] for i in range(len(groups))], ranks=ranks, tokens_per_pack=tokens_per_pack)


@pytest.mark.parametrize("mix", [(1.0, 0.0, 0.0), (0.5, 0.2, 0.3)], ids=["video", "mixed"])
def test_a_round_of_table_7_on_32_ranks_is_balanced_within_five_percent(mix):
    before, after = [], []
    for seed in range(10):
        groups = table7_round(seed, mix)
        before.append(imbalance(in_turn(groups, 32)))
        after.append(imbalance([sum(load(pack) for pack in rank) for rank in dealt(groups)]))
    print(f"max over mean: in turn {min(before):.3f} to {max(before):.3f}, dealt {min(after):.3f} to {max(after):.3f}")
    assert min(before) > 1.08, "the shape must need balancing"
    assert max(after) <= 1.05


@pytest.mark.parametrize("mix, gain", [((1.0, 0.0, 0.0), 1.15), ((0.5, 0.2, 0.3), 1.3)], ids=["video", "mixed"])
def test_a_mini_batch_of_table_7_has_fewer_groups_than_ranks_and_gains_by_splitting(mix, gain):
    """16 questions an update: a whole group a rank at the most. The fullest rank, not the ratio, is the time."""
    whole, split = 0, 0
    for seed in range(10):
        groups = table7_round(seed, mix, questions=16)
        whole += max(prompt + sum(lengths) for prompt, lengths in groups)
        split += max(sum(load(pack) for pack in rank) for rank in dealt(groups))
    print(f"fullest rank: whole groups {whole / 10:.0f} tokens, split {split / 10:.0f}, {whole / split:.2f} times")
    assert whole / split >= gain


@pytest.mark.parametrize("ranks, tokens_per_pack", [(1, 10**6), (1, 700), (3, 10**6), (8, 900), (32, 1)])
def test_every_completion_is_dealt_once_within_the_budget_and_all_ranks_have_as_many_packs(ranks, tokens_per_pack):
    rng = random.Random(ranks)
    groups = [(rng.randint(1, 400), [rng.randint(0, 200) for _ in range(rng.choice((2, 8)))]) for _ in range(13)]
    deals = dealt(groups, ranks, tokens_per_pack)
    pieces = [piece for rank in deals for pack in rank for piece in pack]
    seen = sorted((piece.group, k) for piece in pieces for k in piece.rollouts)
    assert seen == [(i, k) for i, (_, lengths) in enumerate(groups) for k in range(len(lengths))]
    for piece in pieces:
        prompt, lengths = groups[piece.group]
        assert piece.tokens == prompt + sum(lengths[k] for k in piece.rollouts)
    assert len(deals) == ranks and len({len(rank) for rank in deals}) == 1
    for pack in (pack for rank in deals for pack in rank):
        assert load(pack) <= tokens_per_pack or len(pack) == len(pack[0].rollouts) == 1
    assert deals == dealt(groups, ranks, tokens_per_pack), "every rank must come to the same deal"


def test_longest_first_is_within_four_thirds_of_the_best_of_all_deals():
    """Graham's bound, against every assignment of eight sizes to three bins."""
    rng = random.Random(0)
    for _ in range(5):
        sizes = [rng.randint(1, 50) for _ in range(8)]
        best = min(
            max(sum(size for size, at in zip(sizes, places, strict=True) if at == rank) for rank in range(3))
            for places in itertools.product(range(3), repeat=8)
        )
        assert best <= max(sum(sizes[i] for i in share) for share in longest_first(sizes, 3)) <= best * 4 / 3
    assert longest_first([5, 9, 1, 5], 2) == [[1, 2], [0, 3]]


def test_what_balances_alike_stays_where_it_was_sampled():
    groups = [(100, [10, 10])] * 6
    for ranks, holders in ((6, [[5 - i] for i in range(6)]), (3, [[i % 3] for i in range(6)])):
        deals = deal(groups, holders, ranks=ranks, tokens_per_pack=10**6)
        homes = [holders[piece.group] for rank in deals for pack in rank for piece in pack]
        here = [rank for rank, packs in enumerate(deals) for pack in packs for _ in pack]
        stayed = sum(rank in home for rank, home in zip(here, homes, strict=True))
        assert stayed >= (6 if ranks == 6 else 3)


def test_bad_lengths_are_dealt_all_the_same():
    assert [len(rank) for rank in deal([], [], ranks=2, tokens_per_pack=8)] == [1, 1]
    (rank,) = deal([(5, [0, 0]), (3, [])], [[0], [0]], ranks=1, tokens_per_pack=1)
    assert sorted(piece.group for pack in rank for piece in pack) == [0, 0, 1]
