"""pytest tests/test_score.py -- a round's plan, and its completions turned into rewards, advantages and metrics.

One process: the gloo group has one rank, and where a test needs two it plays both and passes the exchange along.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import score as scoring
from episode import Group, Prompt, Question, Rollout
from methods import METHODS, MethodSettings, Paid, pay_scripted
from metrics import Accumulator, describe
from plan import Planner
from score import Scorer, score
from transforms import FRAME_SHUFFLE, HORIZONTAL_FLIP, IDENTITY, TEMPORAL_REVERSE
from verifiers import Facts

EPS = 1e-4
PAPER, FOUR = MethodSettings(), MethodSettings(rollouts=4, shuffled_rollouts=4)


pytestmark = pytest.mark.usefixtures("one_rank")


def question(name="q", task_type="Temporal", data_type="video", null_letter=None):
    options = ("A. left", "B. right", "C. up", "D. None of the above")
    return Question(
        name, 1, "?", data_type, "multiple choice", options, "A", task_type=task_type, null_letter=null_letter
    )


def read(text: str, question: Question) -> Facts:
    """The verifier of these tests: a letter is an answer, "-" none, "!" behind either a malformed text."""
    answer = None if text[0] == "-" else text[0]
    return Facts(answer, not text.endswith("!"), float(answer == question.gold))


def planner(method="crpo", settings=PAPER, seed=0, mini_batch_questions=2):
    return Planner(METHODS[method], settings, mini_batch_questions, seed)


def sampled(plan, answers, *, tokens=4) -> dict[int, Group]:
    """The plan's groups as an engine would fill them: `answers` by (question id, branch), one token of text each."""
    groups = {}
    for i, item in enumerate(plan):
        texts = answers[item.question.id, item.branch].split()
        assert len(texts) == item.rollouts
        rollouts = [Rollout((i, k) + (1,) * (tokens - 2), torch.zeros(tokens), t, "stop") for k, t in enumerate(texts)]
        groups[i] = Group(item.question, item.branch, Prompt("?", None), (1, 2, 3), rollouts, item.trained)
    return groups


def round_of(method, questions, answers, settings=FOUR, scope="joint", row=None):
    """-> the round's groups by (question id, branch), and its metrics."""
    plan = planner(method, settings).plan([(0, asked) for asked in questions])
    groups, numbers = sampled(plan, answers), Accumulator()
    scorer = Scorer(row or METHODS[method], settings, read, scope)
    score(scorer, plan, groups, range(len(plan)), numbers)
    return {(group.question.id, group.branch): group for group in groups.values()}, numbers.reduce()


# -- the plan --------------------------------------------------------------------------------------------------------


def test_the_plan_carries_each_look_into_planned():
    """Rollouts, greedy, trained and transform of the second view; the original branch is always G sampled, trained."""
    settings = MethodSettings(rollouts=6, shuffled_rollouts=3, arrow_greedy=True, w_aug=0.0)
    expected = {
        "grpo": [],
        "crpo": [(TEMPORAL_REVERSE, False, 6, False)],
        "augment": [(TEMPORAL_REVERSE, True, 6, False)],
        "t_grpo": [(FRAME_SHUFFLE, False, 3, False)],
        "arrow_rl": [(TEMPORAL_REVERSE, False, 1, True)],
    }
    assert expected.keys() == METHODS.keys()
    for method, second in expected.items():
        plan = planner(method, settings).plan([(0, question())])
        looks = [(item.transform, item.trained, item.rollouts, item.greedy) for item in plan]
        assert looks == [(IDENTITY, True, 6, False), *second]
        assert [item.branch for item in plan] == list(range(len(plan)))


def test_a_plan_is_ordered_by_mini_batch_then_branch_then_question():
    kinds = [("Temporal", "video"), ("Temporal", "image"), (None, "video"), ("Spatial", "video")]
    asked = [question(str(i), *kind) for i, kind in enumerate(kinds)]
    plan = planner().plan([(0, q) for q in asked])
    assert [(item.mini_batch, item.branch, item.question.id) for item in plan] == [
        (0, 0, "0"), (0, 0, "1"), (0, 1, "0"), (1, 0, "2"), (1, 0, "3"), (1, 1, "3"),
    ]  # fmt: skip
    assert [item.transform for item in plan if item.branch] == [TEMPORAL_REVERSE, HORIZONTAL_FLIP]


def test_a_plan_is_reproducible_and_each_visit_and_branch_has_seeds_of_its_own():
    asked = [question(str(i), "Static") for i in range(8)]
    visits = [(epoch, q) for epoch in (0, 1) for q in asked]
    plan = planner().plan(visits)
    assert plan == planner().plan(visits) != planner(seed=1).plan(visits)
    assert len({item.seed for item in plan}) == len(plan) == 32
    assert {item.transform for item in plan if item.branch} == {HORIZONTAL_FLIP, TEMPORAL_REVERSE}
    for epoch, q in visits:  # what else is in the round changes neither view nor seed
        here = [replace(item, mini_batch=0) for item in plan if (item.epoch, item.question.id) == (epoch, q.id)]
        assert planner().plan([(epoch, q)]) == here


# -- one round -------------------------------------------------------------------------------------------------------


def test_a_round_of_crpo_fills_every_group():
    """A dynamic question (p = 2/4, q = 3/4), and an image, which is GRPO. Arithmetic of Eq. 1-5 as in test_rewards."""
    answers = {("v", 0): "A A! B C", ("v", 1): "B C A B!", ("i", 0): "A B - A"}
    groups, values = round_of("crpo", [question("v"), question("i", None, "image")], answers)
    first, second, image = groups["v", 0], groups["v", 1], groups["i", 0]
    assert first.rewards.tolist() == pytest.approx([2.225, 1.225, 1, 1])
    assert second.rewards.tolist() == pytest.approx([1.075, 1.075, 0.5, 0.575])
    assert image.rewards.tolist() == [2, 1, 1, 2]
    # means 1.3625 and .80625; squares .743906 + .018906 + 2 * .131406 + 2 * .072227 + .093789 + .053477 = 1.317344;
    # .8625 -.1375 -.3625 -.3625 and .26875 .26875 -.30625 -.23125 over sqrt(1.317344 / 7) + .0001 = .433911
    assert first.advantages.tolist() == pytest.approx([1.987735, -0.316885, -0.835425, -0.835425], abs=2e-6)
    assert second.advantages.tolist() == pytest.approx([0.619367, 0.619367, -0.705790, -0.532943], abs=2e-6)
    assert image.advantages.tolist() == pytest.approx([0.865875, -0.865875, -0.865875, 0.865875])  # .5 / .577450
    assert first.answers == ["A", "A", "B", "C"] and image.answers == ["A", "B", None, "A"]
    assert (first.terms.keys(), second.terms.keys()) == (
        {"correct", "crr_orig", "format"}, {"behave", "crr_aug", "cf_format"},
    )  # fmt: skip
    # over both original branches 2 + 2 of 8 are right; CRR is the video's alone, lambda p q = .3 * .5 * .75
    assert values["reward/correct"] == 0.5 and values["reward/behave"] == 0.75
    assert values["reward/crr_orig"] == pytest.approx(0.1125) == values["reward/crr_aug"]
    assert values["reward/original"] == pytest.approx((5.45 + 6) / 8)
    assert values["reward/counterfactual"] == pytest.approx(3.225 / 4)
    assert values["relation/dynamic_changed"] == 0.75 and "relation/static_kept" not in values
    assert values["rollout/unreadable"] == 1 / 8 and values["rollout/unreadable_counterfactual"] == 0
    assert values["data/single_branch"] == 1
    assert values["rollout/completion_tokens"] == values["rollout/completion_tokens_max"] == 4


def test_advantage_size_is_over_trained_groups_and_zero_advantage_by_branch():
    """Original constant, counterfactual live: half of the groups are at zero."""
    _, values = round_of("crpo", [question()], {("q", 0): "A A A A", ("q", 1): "B B A A"})
    assert values["group/zero_advantage"] == 0.5
    assert values["group/zero_advantage_original"] == 1 and values["group/zero_advantage_counterfactual"] == 0
    assert values["group/all_correct"] == 1 and values["group/all_wrong"] == 0
    # .5 (1 + .3) = .65 apart, so .325 of deviation: std sqrt(4 * .105625 / 7) = .245677; .325 / .245777 = 1.322337
    assert values["advantage/size"] == pytest.approx(1.322337 / 2, abs=1e-6)


def test_a_branch_without_gradient_has_no_part_in_the_size_of_advantages():
    """Table 2, w_aug = 0: sampled for R_CRR alone, so "over trained rollouts" is over the original branch."""
    settings = MethodSettings(rollouts=4, w_aug=0.0)
    groups, values = round_of("crpo", [question()], {("q", 0): "A A B B", ("q", 1): "B B B A"}, settings)
    assert not groups["q", 1].trained
    assert values["advantage/size"] == pytest.approx(groups["q", 0].advantages.abs().mean().item())


LIVE = {("q", 0): "A A B B", ("q", 1): "B B B A"}


def test_the_auxiliary_shift_is_zero_for_t_grpo_with_equal_formats():
    """App. F.1, up to eps. The bonus of .3 is paid: p = 2/4 against 1/4."""
    _, values = round_of("t_grpo", [question()], LIVE, FOUR)
    assert values["reward/temporal"] == pytest.approx(0.15)
    # .5 / (.577350 + eps) against .65 / (.750555 + eps): .865875 and .865910
    assert values["advantage/without_auxiliary"] == pytest.approx(0.865875, abs=1e-6)
    assert values["advantage/size"] == pytest.approx(0.865910, abs=1e-6)
    assert values["advantage/auxiliary_shift"] == pytest.approx(3.5e-5, abs=1e-6)
    malformed = LIVE | {("q", 0): "A A! B B"}
    _, values = round_of("t_grpo", [question()], malformed, FOUR)
    assert values["advantage/auxiliary_shift"] > 0.01


def test_the_auxiliary_shift_is_zero_for_crpo_where_p_equals_q_and_positive_elsewhere():
    """App. F.2. q = 3/4 against p = 2/4, then q = 2/4."""
    _, values = round_of("crpo", [question()], LIVE)
    assert values["advantage/auxiliary_shift"] > 0.01
    _, values = round_of("crpo", [question()], LIVE | {("q", 1): "B B A A"})
    assert 0 < values["advantage/auxiliary_shift"] < 1e-4
    _, values = round_of("grpo", [question()], LIVE)
    assert values["advantage/auxiliary_shift"] == 0


@pytest.mark.parametrize(("scope", "equal"), [("branch", True), ("joint", True), ("batch", False)])
def test_std_scope_reaches_the_rounds_advantages(scope, equal):
    """Two questions of GRPO, one with a larger spread: their advantages are alike unless the round has one std."""
    asked = [question("a", None), question("b", None)]
    groups, _ = round_of("grpo", asked, {("a", 0): "A A B B", ("b", 0): "A A B! B!"}, scope=scope)
    one, two = groups["a", 0].advantages, groups["b", 0].advantages
    assert torch.allclose(one, two, atol=1e-3) == equal


@pytest.mark.parametrize(
    ("method", "second", "logged"), [("t_grpo", "A B B B", "shuffled"), ("arrow_rl", "B", "reverse")]
)
def test_a_branch_for_rewards_only_has_no_advantage_and_counts_in_no_group_metric(method, second, logged):
    groups, values = round_of(
        method, [question()], {("q", 0): "A A B B", ("q", 1): second}, MethodSettings(rollouts=4, shuffled_rollouts=4)
    )
    reference = groups["q", 1]
    assert reference.rewards is reference.advantages is None and not reference.trained
    assert reference.answers == second.split()
    assert values[f"reward/{logged}_correct"] == second.count("A") / len(second.split())
    assert values["reward/correct"] == 0.5 and values["group/zero_advantage"] == 0
    assert "reward/counterfactual" not in values and "group/zero_advantage_counterfactual" not in values
    assert "data/single_branch" not in values


def test_null_option_rates_are_per_task_type_and_side():
    asked = [
        question("t", "Temporal", null_letter="D"),
        question("s", "Static", null_letter="D"),
        question("u", None, null_letter="D"),
        question("n", "Spatial"),  # no null option appended: D is an answer like another
    ]
    answers = {
        ("t", 0): "A D B A", ("t", 1): "D D D B",
        ("s", 0): "A A A A", ("s", 1): "A A D -",
        ("u", 0): "D D A A",
        ("n", 0): "D D D D", ("n", 1): "D D D D",
    }  # fmt: skip
    _, values = round_of("crpo", asked, answers)
    assert {name: value for name, value in values.items() if name.startswith("rollout/null_")} == {
        "rollout/null_original/Temporal": 0.25,
        "rollout/null_counterfactual/Temporal": 0.75,
        "rollout/null_original/Static": 0.0,
        "rollout/null_counterfactual/Static": 0.25,
        "rollout/null_original/unrouted": 0.5,
    }
    assert values["relation/static_kept"] == 0.5


@pytest.mark.parametrize("method", METHODS)
def test_every_metric_of_a_round_is_described(method):
    """All kinds of question, null options, and the rule of --scripted-reward beside the method's own."""
    kinds = [*[(task, "video") for task in ("Spatial", "Temporal", "Spatiotemporal", "Static", None)], (None, "text")]
    asked = [question(str(i), *kind, null_letter="D") for i, kind in enumerate(kinds)]
    settings = MethodSettings(rollouts=4, shuffled_rollouts=4, length_bonus=0.2)
    second = "A" if method == "arrow_rl" else "A D - B!"
    answers = {(q.id, branch): (second if branch else "A B! - D") for q in asked for branch in (0, 1)}
    for row in (METHODS[method], replace(METHODS[method], pay=pay_scripted)):
        _, values = round_of(method, asked, answers, settings, row=row)
        assert len(values) > 10
        for name, value in values.items():
            assert describe(name) and value == value


def test_verify_is_told_the_text_and_the_question():
    seen = []

    def watch(text, asked):
        seen.append((text, asked.id))
        return read(text, asked)

    plan = planner("grpo", MethodSettings(rollouts=2)).plan([(0, question("x"))])
    scorer = Scorer(METHODS["grpo"], MethodSettings(), watch, "joint")
    score(scorer, plan, sampled(plan, {("x", 0): "A B!"}), range(1), Accumulator())
    assert seen == [("A", "x"), ("B!", "x")]


# -- two ranks -------------------------------------------------------------------------------------------------------


def as_two_ranks(monkeypatch, scorer, plan, shares):
    """Score one share of the groups after the other, each rank receiving what both would send."""
    sent = []
    monkeypatch.setattr(scoring, "gather_objects", lambda mine: sent.append(mine) or [mine])
    for share in shares:  # what each sends
        scoring.exchange(plan, {i: scoring.outcome(group, scorer.verify) for i, group in share.items()}, share)
    parts, sent[:] = list(sent), []
    monkeypatch.setattr(scoring, "gather_objects", lambda mine: parts)
    for share in shares:
        score(scorer, plan, share, range(0), Accumulator())


@pytest.mark.parametrize("scope", ["branch", "joint", "batch"])
def test_branches_on_two_ranks_are_scored_as_on_one(monkeypatch, scope):
    answers = {("a", 0): "A A! B C", ("a", 1): "B C A B!", ("b", 0): "A B B B", ("b", 1): "A A B -"}
    asked, settings = [question("a"), question("b", "Static")], MethodSettings(rollouts=4)
    plan = planner("crpo", settings).plan([(0, q) for q in asked])
    scorer = Scorer(METHODS["crpo"], settings, read, scope)
    whole, split = sampled(plan, answers), sampled(plan, answers)
    score(scorer, plan, whole, range(len(plan)), Accumulator())
    shares = [{i: split[i] for i in (0, 3)}, {i: split[i] for i in (1, 2)}]  # no question's branches together
    as_two_ranks(monkeypatch, scorer, plan, shares)
    for i, group in split.items():
        assert torch.equal(group.rewards, whole[i].rewards) and torch.equal(group.advantages, whole[i].advantages)
        assert group.answers == whole[i].answers


def test_ranks_of_one_engine_that_sampled_differently_stop_the_run(monkeypatch):
    plan = planner("grpo", MethodSettings(rollouts=2)).plan([(0, question("x"))])
    scorer = Scorer(METHODS["grpo"], MethodSettings(), read, "joint")
    one, two = sampled(plan, {("x", 0): "A B"}), sampled(plan, {("x", 0): "A B"})
    as_two_ranks(monkeypatch, scorer, plan, [one, two])  # alike: fine
    two[0].rollouts[1] = replace(two[0].rollouts[1], ids=(9, 9))
    with pytest.raises(RuntimeError, match="question x: ranks that share an engine sampled different") as error:
        as_two_ranks(monkeypatch, scorer, plan, [one, two])
    assert "\n" not in str(error.value)


def test_only_owned_groups_are_counted(monkeypatch):
    """Two ranks of one engine: both hold both groups, each verifies and counts its own."""
    plan = planner("grpo", MethodSettings(rollouts=2)).plan([(0, question("x", None)), (0, question("y", None))])
    groups = sampled(plan, {("x", 0): "A A", ("y", 0): "A B"})
    numbers = Accumulator()
    neighbour = {0: scoring.outcome(groups[0], read)}, {}
    monkeypatch.setattr(scoring, "gather_objects", lambda value: [value, neighbour])
    score(Scorer(METHODS["grpo"], MethodSettings(), read, "joint"), plan, groups, range(1, 2), numbers)
    assert groups[0].rewards is not None  # this engine's, so filled
    values = numbers.reduce()
    assert values["reward/correct"] == 0.5 and values["data/single_branch"] == 1


# -- rewards that are no numbers, and rewards that are missing ---------------------------------------------------------


def paying(rewards: list[float], missing: list[bool] | None = None):
    """GRPO with these rewards instead of its own."""

    def pay(question, branches, settings):
        return [Paid(torch.tensor(rewards), {}, None if missing is None else torch.tensor(missing)) for _ in branches]

    return replace(METHODS["grpo"], pay=pay)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_names_its_question(value):
    with pytest.raises(ValueError, match=f"question q7 .row 1., branch 0: reward of rollout 2 is {value}"):
        round_of("grpo", [question("q7")], {("q7", 0): "A A A A"}, row=paying([1.0, 0.0, value, 0.0]))


def test_a_missing_reward_is_in_no_mean_and_no_deviation():
    row = paying([1.0, 0.0, 5.0, 1.0], [False, False, True, False])
    groups, numbers = round_of("grpo", [question()], {("q", 0): "A A A A"}, row=row)
    three = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    expected = (three - three.mean()) / (three.std() + EPS)
    found = groups["q", 0].advantages
    assert found[2] == 0 and torch.allclose(found[[0, 1, 3]].double(), expected, atol=1e-7)
    assert numbers["guard/missing_rewards"] == 1


def test_a_joint_deviation_leaves_missing_rewards_out_of_its_pool():
    def pay(question, branches, settings):
        return [
            Paid(torch.tensor([1.0, 0.0, 9.0, 1.0]), {}, torch.tensor([False, False, True, False])),
            Paid(torch.tensor([0.5, 0.0, 0.0, 0.5]), {}),
        ]

    answers = {("q", 0): "A A A A", ("q", 1): "A A A A"}
    groups, _ = round_of("crpo", [question()], answers, row=replace(METHODS["crpo"], pay=pay))
    first, second = torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([0.5, 0.0, 0.0, 0.5]).double()
    centred = torch.cat([first - first.mean(), second - second.mean()])
    expected = centred / (centred.std() + EPS)
    assert torch.allclose(groups["q", 0].advantages[[0, 1, 3]].double(), expected[:3], atol=1e-6)
    assert torch.allclose(groups["q", 1].advantages.double(), expected[3:], atol=1e-6)
    nobody = paying([1.0] * 4, [True] * 4)
    groups, _ = round_of("grpo", [question()], {("q", 0): "A A A A"}, row=nobody)
    assert not groups["q", 0].advantages.any()
