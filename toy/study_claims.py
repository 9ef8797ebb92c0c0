"""Every claim of Sec. 5.2, 5.3, App. A.4, A.5, C, D, E and F, and the rule that says whether it holds on the toy world.

The rules were fixed before any reported seed was run. Each looks at a paired difference over seeds and its interval:

- *more*: holds where the interval lies above 0, does not hold where it lies below, cannot be told otherwise;
- *same*: holds where the interval lies within the margin, does not hold where it leaves out 0 and the mean lies outside
  the margin, cannot be told otherwise;
- *at most*: holds where the interval lies below the margin, does not hold where it lies above, cannot be told
  otherwise.

The margin is MARGIN points of accuracy, unless the claim names another. With a failed cell or fewer than two seeds it
cannot be told. No rule knows of the others: of a hundred intervals at 95 % some miss by chance.

A claim whose `late` is SECOND or THIRD was added, or asks for more than before, since a second or third reading of the
paper, when so many of the 116 cells had run, or after all (LAST); it is judged by the same rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from toy.study_cells import BASELINES, CONDITIONS
from toy.study_results import Results, Series

MARGIN = 5.0
CHANCE, PAIR_CHANCE = 25.0, 6.25  # four options on each side
SECOND, THIRD, LAST = 39, 91, 116
HOLDS, NOT, UNTOLD, UNTESTED = "holds", "does not hold", "cannot be told here", "cannot be tested here"


@dataclass(frozen=True)
class Outcome:
    verdict: str
    number: str


Rule = Callable[[Series], str]
Measure = Callable[[Results], Series]


@dataclass(frozen=True)
class Claim:
    place: str
    words: str
    paper: str
    """The paper's number; empty where it names none."""
    measure: Measure | None = None
    """None: cannot be tested."""
    rule: Rule | None = None
    why: str = ""
    """It cannot be tested."""
    late: int = 0
    """Cells that had run when it was added."""

    def judge(self, results: Results) -> Outcome:
        if self.measure is None:
            return Outcome(UNTESTED, self.why)
        series = self.measure(results)
        if series.failed:
            return Outcome(UNTOLD, f"failed: {', '.join(series.failed)}; {numbers(series)}")
        if len(series.values) < 2:
            return Outcome(UNTOLD, numbers(series))
        return Outcome(self.rule(series), numbers(series))


def numbers(series: Series) -> str:
    """Mean, interval and seeds."""
    seeds = f"{len(series.values)} of {len(series.wanted)} seeds"
    if len(series.values) < 2:
        return seeds
    low, high = series.interval
    digits = 3 if 0 < max(abs(low), abs(high)) < 1 else 1  # a share, or points
    if len(series.values) == len(series.wanted):
        seeds = f"{len(series.values)} seeds"
    if series.of_start:
        return f"{series.mean:+.1f}, one model"
    if series.half == 0:
        return f"{series.mean:+.1f} at each of {seeds}"
    return f"{series.mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], {seeds}"


# -- rules -------------------------------------------------------------------------------------------------------------


def more(series: Series) -> str:
    low, high = series.interval
    return HOLDS if low > 0 else NOT if high < 0 else UNTOLD


def same(margin: float = MARGIN) -> Rule:
    def rule(series: Series) -> str:
        low, high = series.interval
        if -margin <= low and high <= margin:
            return HOLDS
        return NOT if (low > 0 or high < 0) and abs(series.mean) > margin else UNTOLD

    return rule


def at_most(margin: float) -> Rule:
    def rule(series: Series) -> str:
        low, high = series.interval
        return HOLDS if high <= margin else NOT if low > margin else UNTOLD

    return rule


# -- measures ----------------------------------------------------------------------------------------------------------


def of(name: str, metric: str) -> Measure:
    return lambda results: results.series(name, metric)


def gap(first: str, second: str, metric: str = "pair_acc") -> Measure:
    """First minus second, seed by seed."""
    return lambda results: results.series(first, metric) - results.series(second, metric)


def minus(first: Measure, second: Measure, times: float = 1.0) -> Measure:
    return lambda results: first(results) - second(results) * times


def ranked(names: tuple[str, ...], metric: str, results: Results) -> list[Series]:
    """The conditions by their means, lowest first, each with the failed cells of all; no values where one has none."""
    every = [results.series(name, metric, results.seeds("no_crr")) for name in names]
    lost = {seed: sum((series.lost.get(seed, ()) for series in every), ()) for seed in every[0].wanted}
    every = [replace(series, lost=lost) for series in every]
    if not all(series.values for series in every):
        return [replace(every[0], values={})]
    return sorted(every, key=lambda series: series.mean)


def widest(names: tuple[str, ...], metric: str) -> Measure:
    """The condition of the highest mean minus that of the lowest: chance alone lifts it above 0."""

    def measure(results: Results) -> Series:
        order = ranked(names, metric, results)
        return order[-1] - order[0]

    return measure


def lowest(names: tuple[str, ...], metric: str) -> Measure:
    """The condition of the lowest mean."""
    return lambda results: ranked(names, metric, results)[0]


LABEL = {name: condition.label for name, condition in CONDITIONS.items()}
OTHER_ABLATIONS = ("no_flip", "no_reverse", "no_crr", "no_behave", "no_counterfactual")
LAMBDAS, WEIGHTS = ("lambda_0.1", "crpo", "lambda_0.5"), ("w_aug_0.3", "crpo", "w_aug_0.7")
DYNAMIC = {"reversible_dynamics": "reversible dynamics", "event_sequence": "event sequence"}
RL_PAPER = {"grpo": "+6.6 / +5.7", "t_grpo": "+5.0 / +3.6", "arrow_rl": "+7.3 / +5.9"}  # P-Acc on 4B / 8B
RL_ACC_PAPER = {"grpo": "+3.7 / +3.1", "t_grpo": "+1.7 / +1.6", "arrow_rl": "+3.6 / +2.9"}
SIZE = "one model size here"

MAIN = (
    *(Claim("5.2 (1)", f"CRPO beats {LABEL[b]} in pair accuracy", RL_PAPER[b], gap("crpo", b), more)
      for b in BASELINES),
    *(Claim("5.2 (1)", f"CRPO beats {LABEL[b]} in accuracy", RL_ACC_PAPER[b], gap("crpo", b, "acc"), more)
      for b in BASELINES),
    *(Claim("5.2 (1)", f"T-GRPO is the strongest other method: above {LABEL[b]}", paper, gap("t_grpo", b), more)
      for b, paper in (("grpo", "+1.6 / +2.1"), ("arrow_rl", "+2.3 / +2.3"))),
    Claim("5.2 (1)", "CRPO's gain over T-GRPO is larger in pair accuracy than in accuracy", "+5.0 against +1.7",
          minus(gap("crpo", "t_grpo"), gap("crpo", "t_grpo", "acc")), more),
    Claim("5.2 (1)", "CRPO is above the start in pair accuracy", "+9.4 / +7.7", gap("crpo", "base"), more),
    Claim("5.2 (1)", "CRPO leads on TimeBlind and TempCompass, too",
          "I-Acc +2.7 over T-GRPO, +5.2 / +8.2 over the start", why="one paired benchmark here", late=SECOND),
    Claim("5.2 (2)", "General questions are not sacrificed: static accuracy lost since the start, margin 5",
          "-0.8 / -0.7 (VideoMME)", gap("base", "crpo", "static/acc"), at_most(MARGIN)),
    Claim("5.2 (2)", "CRPO beats GRPO on general questions (static accuracy)", "+0.9 / +1.1 (VideoMME)",
          gap("crpo", "grpo", "static/acc"), more),
    *(Claim("5.2 (2)", f"CRPO stays with {LABEL[b]} on general questions: static accuracy behind it, margin 5", paper,
            gap(b, "crpo", "static/acc"), at_most(MARGIN), late=SECOND)
      for b, paper in (("t_grpo", "+1.7 / -0.2 (MVBench)"), ("arrow_rl", "+1.3 / 0.0 (MVBench)"))),
    *(Claim("5.2 (2)", f"CRPO leads {LABEL[b]} on general questions (static accuracy)", paper,
            gap("crpo", b, "static/acc"), more, late=THIRD)
      for b, paper in (("t_grpo", "+0.6, +0.2 (8B)"), ("arrow_rl", "+0.5, 0.0 (8B)"))),
    Claim("5.2 (2)", "Static questions, with their correctness and invariance rewards, keep static accuracy: CRPO "
          "above CRPO without them", "", gap("crpo", "no_static", "static/acc"), more),
    Claim("5.2 (3)", "CRPO scales to a larger backbone", "+7.7 on 8B", why=SIZE),
    Claim("5.3", "GRPO (G x 2) does not reach CRPO", "+4.6", gap("crpo", "grpo_g16"), more),
    Claim("5.3", "GRPO (data x 2) does not reach CRPO", "+6.4", gap("crpo", "grpo_data2"), more),
    Claim("5.3", "Data x 2 gives GRPO nothing", "+0.2", gap("grpo_data2", "grpo"), same()),
    Claim("5.3", "G x 2 raises GRPO's pair accuracy (Table 2)", "+2.0", gap("grpo_g16", "grpo"), more),
    Claim("5.3", "G x 2 closes part of the gap on general questions (static accuracy over GRPO)", "+1.5 (MVBench)",
          gap("grpo_g16", "grpo", "static/acc"), more, late=SECOND),
    Claim("5.3", "G x 2 exceeds CRPO on general questions (static accuracy)", "+1.6 (MVBench)",
          gap("grpo_g16", "crpo", "static/acc"), more, late=SECOND),
    Claim("5.3 (i)", "Spatial flip contributes", "+1.6", gap("crpo", "no_flip"), more),
    Claim("5.3 (i)", "Temporal reversal contributes", "+4.1", gap("crpo", "no_reverse"), more),
    Claim("5.3 (i)", "Reversal matters more than the flip", "+2.5", gap("no_flip", "no_reverse"), more),
    Claim("5.3 (ii)", "R_CRR contributes", "+3.6", gap("crpo", "no_crr"), more),
    Claim("5.3 (ii)", "R_behave contributes", "+2.1", gap("crpo", "no_behave"), more),
    Claim("5.3 (ii)", "R_CRR matters more than R_behave", "+1.5", gap("no_behave", "no_crr"), more),
    Claim("5.3 (iii)", "The counterfactual branch's gradient contributes", "+6.0",
          gap("crpo", "no_counterfactual"), more),
    Claim("5.3 (iii)", "Without it CRPO is where T-GRPO is", "-1.0", gap("no_counterfactual", "t_grpo"), same()),
    Claim("5.3 (iv)", "The null option contributes (Table 2)", "+4.7", gap("crpo", "no_null"), more),
    Claim("5.3 (iv)", "Without the null option pair accuracy is still above the start", "50.1 against 45.4",
          gap("no_null", "base"), more, late=THIRD),
    Claim("5.3 (iv)", "Without the null option general questions suffer (static accuracy)", "+4.9 (MVBench)",
          gap("crpo", "no_null", "static/acc"), more),
    Claim("5.3 (iv)", "Without the null option they suffer most of all ablations: the lowest other one minus it",
          "+3.8 (MVBench)", minus(lowest(OTHER_ABLATIONS, "static/acc"), of("no_null", "static/acc")), more,
          late=SECOND),
    Claim("5.3 (iv)", "Without the null option counterfactual rollouts are pushed toward arbitrary wrong choices", "",
          why="no run kept which options they chose", late=SECOND),
    *(Claim("5.3 (a)", f"CRPO's correctness reward rises more slowly than {LABEL[b]}'s: first fifth", "",
            gap(b, "crpo", "first:reward/correct"), more) for b in BASELINES),
    *(Claim("5.3 (a)", f"{LABEL[b]}'s correctness reward is at its level after a fifth: last fifth minus the second, "
            "margin 0.05", "0.70 after 20 %", of(b, "later:reward/correct"), same(0.05), late=SECOND)
      for b in BASELINES),
    *(Claim("5.3 (a)", f"CRPO's correctness reward ends at {LABEL[b]}'s level: last fifth, margin 0.05",
            "about 0.71, theirs 0.70", gap("crpo", b, "last:reward/correct"), same(0.05)) for b in BASELINES),
    *(Claim("5.3 (b)", f"Fewer groups without advantage than {LABEL[b]}", "",
            gap(b, "crpo", "mean:group/zero_advantage"), more) for b in BASELINES),
    Claim("5.3 (b)", "CRPO has fewer even where the original branch is fully correct", "",
          why="no run kept single groups; how: tests/test_score.py", late=THIRD),
    Claim("5.3 (c)", "T-GRPO's bonus stays flat: last third against first, margin 0.03", "",
          of("t_grpo", "rise:reward/temporal"), same(0.03)),
    Claim("5.3 (c)", "ArrowRL's bonus stays flat, margin 0.03", "", of("arrow_rl", "rise:reward/reverse"), same(0.03)),
    *(Claim("5.3 (c)", f"{LABEL[b]}'s bonus stays low: below CRPO's R_CRR in the last fifth", "",
            minus(of("crpo", "last:reward/crr_orig"), of(b, f"last:reward/{metric}")), more, late=SECOND)
      for b, metric in (("t_grpo", "temporal"), ("arrow_rl", "reverse"))),
    Claim("5.3 (c)", "CRPO's R_CRR grows", "0.09 to 0.17", of("crpo", "rise:reward/crr_orig"), more),
)  # fmt: skip

_SHORT = {"single_frame": "a single frame", "shuffled": "shuffled frames", "text_only": "text alone"}
_SHORT_PAPER = {
    ("base", "single_frame"): "7.2", ("base", "shuffled"): "10.2", ("base", "text_only"): "0.4",
    ("crpo", "single_frame"): "7.4", ("crpo", "shuffled"): "13.2", ("crpo", "text_only"): "1.1",
}  # fmt: skip


def collapses(name: str, setting: str, paper: str) -> Claim:
    return Claim("A.4", f"{LABEL[name]}: pair accuracy at or below chance on {_SHORT[setting]} (minus {PAIR_CHANCE:g}, "
                 f"margin {MARGIN:g})", paper, above_chance(name, setting), at_most(MARGIN))  # fmt: skip


def above_chance(name: str, setting: str, kind: str = "pair_acc", chance: float = PAIR_CHANCE) -> Measure:
    return lambda results: results.series(name, f"{setting}/{kind}") - chance


def half_minus(name: str, setting: str) -> Measure:
    """Half of what a run reaches on the full video, minus what it reaches under a shortcut."""
    return lambda results: results.series(name, "pair_acc") * 0.5 - results.series(name, f"{setting}/pair_acc")


def gains(subtask: str, name: str, kind: str = "pair_acc") -> Measure:
    return gap(name, "base", f"{subtask}/{kind}")


def twice(subtask: str) -> Measure:
    """CRPO's gain minus twice GRPO's, a loss of GRPO counted as no gain."""
    return lambda results: gains(subtask, "crpo")(results) - gains(subtask, "grpo")(results).at_least(0.0) * 2.0


APPENDIX = (
    *(collapses(name, setting, f"{_SHORT_PAPER[name, setting]} (chance 13.3)")
      for name in ("base", "crpo") for setting in _SHORT),
    *(Claim("A.4", f"CRPO is below chance on {_SHORT[setting]} ({PAIR_CHANCE:g} minus it)", f"{paper} below 13.3",
            lambda r, s=setting: above_chance("crpo", s)(r) * -1.0, more, late=SECOND)
      for setting, paper in (("single_frame", "7.4"), ("text_only", "1.1"))),
    *(Claim("A.4", f"{who} loses most of its pair accuracy on {words} (half of its own minus it)",
            f"{full} to {_SHORT_PAPER[name, setting]}", half_minus(name, setting), more, late=late)
      for name, who, full, late in (("crpo", "CRPO", "58.1", 0), ("base", "The start", "50.4", THIRD))
      for setting, words in _SHORT.items()),
    *(Claim("A.4", f"CRPO's accuracy is near chance on {words}, neither above nor below (minus {CHANCE:g}, margin "
            f"{MARGIN:g})", f"{paper} (chance 35.1)",
            above_chance("crpo", setting, "acc", CHANCE), same(), late=SECOND)
      for (setting, words), paper in zip(_SHORT.items(), ("37.9", "44.3", "36.8"), strict=True)),
    Claim("A.4", "GPT-5.1 and Gemini-3.1-Pro collapse as well", "to at most 5.1 and 7.7", why="closed models",
          late=SECOND),
    Claim("A.4", "On text alone pair accuracy is not exactly zero: options differ between the sides (it cannot be "
          "less)", "1.1", of("crpo", "text_only/pair_acc"), more),
    *(Claim("A.5 (i)", f"CRPO gains more on {words} than on moving direction", "+13.4, +11.6 against +3.0 (4B)",
            minus(gains(subtask, "crpo"), gains("moving_direction", "crpo")), more)
      for subtask, words in DYNAMIC.items()),
    *(Claim("A.5 (i)", f"Over the start CRPO gains on {words}", paper, gains(subtask, "crpo"), more, late=SECOND)
      for (subtask, words), paper in zip(DYNAMIC.items(), ("+13.4 / +10.7", "+11.6 / +10.8"), strict=True)),
    *(Claim("A.5 (i)", f"Over the start CRPO gains on {words}, accuracy", paper, gains(subtask, "crpo", "acc"), more,
            late=THIRD)
      for (subtask, words), paper in zip(DYNAMIC.items(), ("+7.9 / +6.5", "+5.7 / +5.5"), strict=True)),
    *(Claim("A.5 (i)", f"CRPO gains more than twice what GRPO gains on {words} (a loss of GRPO's counts as 0)", paper,
            twice(subtask), more, late=THIRD)
      for (subtask, words), paper in zip(DYNAMIC.items(), ("13.4 against 3.0", "11.6 against 4.9"), strict=True)),
    *(Claim("A.5 (ii)", f"Moving direction stays harder than {words} for CRPO", paper,
            minus(of("crpo", f"{subtask}/pair_acc"), of("crpo", "moving_direction/pair_acc")), more)
      for (subtask, words), paper in zip(DYNAMIC.items(), ("77.7 against 21.0", "62.7 against 21.0"), strict=True)),
    Claim("A.5 (ii)", "Moving direction is hard for all open models, and Gemini keeps a lead there",
          "36.8 against 21.0", why="other models", late=THIRD),
    Claim("A.5 (iii)", "Pair accuracy over its chance is a larger ratio than accuracy over its (CRPO, reversible "
          "dynamics; the ratios' difference)", "7.3 against 2.7",
          lambda r: r.series("crpo", "reversible_dynamics/pair_acc") * (1 / PAIR_CHANCE)
          - r.series("crpo", "reversible_dynamics/acc") * (1 / CHANCE), more),
    Claim("C", "A text-only reasoning model routes 94 % rightly", "188 of 200", why="no language model here"),
    Claim("C", "Two thirds of its errors keep a right transform", "8 of 12", why="a count in the paper's audit",
          late=SECOND),
    Claim("C", "Temporal questions dominate the corpus", "73.6 %", why="the toy's mix is ours", late=THIRD),
    Claim("C", "The router's measured confusions do no harm: points lost, margin 5", "", gap("crpo", "router_c"),
          at_most(MARGIN)),
    Claim("C", "Task types wrong in 6 % of rows, drawn uniformly, do no harm: points lost, margin 5", "",
          gap("crpo", "router_6"), at_most(MARGIN)),
    Claim("D.1", "The two CRR curves coincide, by construction: largest distance in any round, margin 0.001", "equal",
          of("crpo", "crr_apart"), at_most(1e-3)),
    Claim("D.2", "The dynamics are the same on a larger backbone", "", why=SIZE),
    Claim("D.3 (i)", "Lambda 0 loses pair accuracy (the runs of 5.3 (ii))", "+3.6", gap("crpo", "no_crr"), more),
    Claim("D.3 (i)", "R_CRR is the main source of the gain: what its loss costs minus half the gain over the start",
          "3.6 of 9.4", minus(gap("crpo", "no_crr"), gap("crpo", "base"), 0.5), more, late=THIRD),
    Claim("D.3 (ii)", "w_aug 0 loses more than lambda 0", "+2.4", gap("no_crr", "no_counterfactual"), more),
    Claim("D.3 (iii)", "General questions do not move along lambda (static accuracy, highest minus lowest)",
          "0.7 over both", widest(("no_crr", *LAMBDAS), "static/acc"), same()),
    Claim("D.3 (iii)", "General questions do not move along w_aug (the same)", "0.7 over both",
          widest(("no_counterfactual", *WEIGHTS), "static/acc"), same()),
    Claim("D.3 (iv)", "Lambda's precise value matters little (highest minus lowest, without 0)", "2.8",
          widest(LAMBDAS, "pair_acc"), same()),
    Claim("D.3 (iv)", "w_aug's precise value matters little (the same)", "2.8", widest(WEIGHTS, "pair_acc"), same()),
    Claim("E", "Plain augmentation with the original label loses against GRPO", "", gap("grpo", "augment"), more),
    Claim("E", "Plain augmentation loses against GRPO (G x 2), of equal rollouts", "", gap("grpo_g16", "augment"), more,
          late=THIRD),
    Claim("E", "Plain augmentation teaches insensitivity to dynamics: pair accuracy below the start's", "",
          gap("base", "augment"), more),
    Claim("E", "CRPO is not augmentation: it beats it", "", gap("crpo", "augment"), more),
    *(Claim("E (first)", "CRPO does not randomise on transformed clips: two samples agree there no less often than "
            f"{words}, margin 0.05 (it would show on both sides, which no policy can tell apart; an unreadable sample "
            "agrees with none)", "",
            gap(other, "crpo", "b/agreement"), at_most(0.05), late=THIRD)
      for other, words in (("base", "the start's"), ("grpo", "GRPO's"))),
    *(Claim("E (first)", f"CRPO's samples are right there more often than {words}", "", gap("crpo", other, "b/right"),
            more, late=THIRD)
      for other, words in (("base", "the start's"), ("grpo", "GRPO's"))),
    Claim("E", "No signal of single samples expresses the relation, and no counterfactual label is needed", "",
          why="of the method's making: tests/test_rewards.py", late=LAST),
    Claim("E (second)", "R_CRR is paid only where the original answer is right", "",
          why="a definition: tests/test_rewards.py", late=SECOND),
    Claim("E (third)", "Static questions anchor the policy: without them samples agree less (on the transformed side)",
          "", gap("crpo", "no_static", "b/agreement"), more),
    Claim("E (third)", "Without static questions samples are less often right (on the transformed side)", "",
          gap("crpo", "no_static", "b/right"), more),
    Claim("E", "The joint deviation lets R_CRR through: it shifts advantages by more than each branch's own does", "",
          gap("crpo", "std_branch", "shift"), more),
    Claim("F.1", "T-GRPO's bonus cancels: it shifts advantages by at most 1 %", "0", of("t_grpo", "shift"),
          at_most(0.01)),
    Claim("F.1", "ArrowRL's bonus cancels: it shifts advantages by at most 1 %", "0", of("arrow_rl", "shift"),
          at_most(0.01)),
    Claim("F.1", "T-GRPO trains as GRPO does (pair accuracy)", "+1.6 / +2.1", gap("t_grpo", "grpo"), same()),
    Claim("F.1", "ArrowRL trains as GRPO does (pair accuracy)", "-0.7 / -0.2", gap("arrow_rl", "grpo"), same()),
    Claim("F.2", "R_CRR does not cancel: it shifts CRPO's advantages by more than 1 % (its share minus 0.01)", "",
          lambda r: r.series("crpo", "shift") - 0.01, more),
    *(Claim("F.2", f"R_CRR shifts CRPO's advantages by more than {LABEL[b]}'s bonus shifts its own", "",
            gap("crpo", b, "shift"), more, late=LAST) for b in ("t_grpo", "arrow_rl")),
    Claim("F.2", "R_behave varies within its group: fewer counterfactual than original groups without advantage "
          "(format breaks ties in both)", "",
          lambda r: r.series("crpo", "mean:group/zero_advantage_original")
          - r.series("crpo", "mean:group/zero_advantage_counterfactual"), more),
    Claim("F.2", "R_behave is the primary signal: without it less than without R_CRR (5.3 (ii) says the opposite)",
          "-1.5", gap("no_crr", "no_behave"), more, late=SECOND),
)  # fmt: skip

UNREADABLE = "last:rollout/unreadable_counterfactual"
BEYOND = (
    *(collapses("grpo", setting, "") for setting in _SHORT),
    Claim("Eq. 4", "Unreadable text is paid: R_CRR is higher in the first fifth", "",
          gap("literal_eq4", "crpo", "first:reward/crr_orig"), more, late=THIRD),
    Claim("Eq. 4", "Paid for unreadable text, the policy learns to write it (counterfactual, last fifth)", "",
          gap("literal_eq4", "crpo", UNREADABLE), more),
    Claim("Eq. 4", "Paid for unreadable text, the policy loses pair accuracy", "", gap("crpo", "literal_eq4"), more),
    Claim("router", "20 % wrong task types do harm", "", gap("crpo", "router_20"), more),
    Claim("std", "One deviation for the round beats the joint one", "", gap("std_batch", "crpo"), more),
    Claim("std", "The joint one beats each branch's own", "", gap("crpo", "std_branch"), more),
    *(Claim("bias", f"CRPO beats GRPO at a training bias of {bias}", "", gap(f"crpo{end}", f"grpo{end}"), more)
      for bias, end in ((0.8, "_bias_0.8"), (0.9, "_bias_0.9"), (0.97, ""), (1.0, "_bias_1.0"))),
    Claim("bias", "CRPO beats GRPO by more at a training bias of 1.0 than of 0.8", "",
          minus(gap("crpo_bias_1.0", "grpo_bias_1.0"), gap("crpo_bias_0.8", "grpo_bias_0.8")), more),
    Claim("App. H", "Segment swap as one more transform helps event sequence (with two events it shows what "
          "reversal shows)", "", gap("segment_swap", "crpo", "event_sequence/pair_acc"), more),
    Claim("events", "CRPO beats GRPO on the order of three and four events", "",
          gap("crpo_long", "grpo_long", "event_sequence/pair_acc"), more),
    Claim("events", "Segment swap helps the order of three and four events", "",
          gap("swap_long", "crpo_long", "event_sequence/pair_acc"), more),
)  # fmt: skip
"""Not of the paper: our questions, judged by the same rules."""
