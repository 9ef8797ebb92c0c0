"""docs/toy_study.md and its pictures, from the results of the study alone: nothing here is written by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from toy import study_figures as figures
from toy.study_cells import (
    CONDITIONS,
    EVAL_SEED,
    FEW,
    PAIRS,
    PARTS,
    QUESTIONS,
    ROUNDS,
    SEEDS,
    Part,
    World,
    cells_of,
)
from toy.study_claims import (
    APPENDIX,
    BEYOND,
    CHANCE,
    HOLDS,
    MAIN,
    MARGIN,
    NOT,
    PAIR_CHANCE,
    SECOND,
    THIRD,
    UNREADABLE,
    UNTESTED,
    UNTOLD,
    Claim,
)
from toy.study_results import Results, Series, read

SUBTASKS = {
    "reversible_dynamics": "reversible dynamics",
    "moving_direction_4": "moving direction, 4 ways",
    "moving_direction_8": "moving direction, 8 ways",
    "event_sequence": "event sequence",
}
SUMS = {"acc": "acc", "pair_acc": "pair acc", "static/acc": "static acc", "static/pair_acc": "static pair acc"}
BY_SUBTASK = {
    f"{subtask}/{kind}": f"{words}, {short}"
    for subtask, words in SUBTASKS.items()
    for kind, short in (("acc", "acc"), ("pair_acc", "pair"))
}
SHOWN = {"": "full video", "single_frame/": "single frame", "shuffled/": "shuffled frames", "text_only/": "text only"}
COLUMNS: dict[str, Mapping[str, str]] = {
    "table1": SUMS | BY_SUBTASK,
    "table4": {
        f"{setting}{kind}": f"{words}, {kind.replace('_', ' ')}"
        for setting, words in SHOWN.items() for kind in ("acc", "pair_acc")
    },
    "dynamics": {
        "first:reward/correct": "correct, first fifth", "last:reward/correct": "correct, last fifth",
        "mean:group/zero_advantage": "zero advantage", "shift": "shift of the advantage",
    },
    "literal_eq4": SUMS | {UNREADABLE: "unreadable on counterfactuals, last fifth"},
    "std_scope": SUMS | {"shift": "shift of the advantage"},
    "no_static": SUMS | {
        f"{side}/{name}": f"{name}, {words}" for name in ("right", "agreement")
        for side, words in (("a", "clips as drawn"), ("b", "transformed"))
    },
    "segment_swap": SUMS | {"event_sequence/pair_acc": "event sequence, pair"},
    "long_events": SUMS | {"event_sequence/pair_acc": "event sequence, pair"},
}  # fmt: skip
"""Part -> metric -> heading; parts that are not here have SUMS."""
PAIR_CURVE = ("Pair accuracy, dynamic", "%", ("eval/pair_acc",))
STATIC_CURVE = ("Accuracy, static", "%", ("eval/static/acc",))
PANELS = (
    ("Fig. 5a: correctness reward, original", "mean reward", ("reward/correct",)),
    ("Fig. 5b: groups without advantage", "fraction of groups", ("group/zero_advantage",)),
    ("Fig. 5c: auxiliary reward", "mean reward", ("reward/temporal", "reward/reverse", "reward/crr_orig")),
    PAIR_CURVE,
    ("Fig. 7: R_behave", "mean reward", ("reward/behave",)),
    ("Fig. 7: R_CRR, original branch", "mean reward", ("reward/crr_orig",)),
    ("Fig. 7: R_CRR, counterfactual branch", "mean reward", ("reward/crr_aug",)),
    STATIC_CURVE,
)
CURVES = {"table1": (PAIR_CURVE, ("Accuracy, dynamic", "%", ("eval/acc",)), STATIC_CURVE)}
"""Part whose runs differ in rollouts -> panels of its second picture."""
SWEPT = {
    "lambda (w_aug 0.5)": {"crpo": {0.0: "no_crr", 0.1: "lambda_0.1", 0.3: "crpo", 0.5: "lambda_0.5"}},
    "w_aug (lambda 0.3)": {"crpo": {0.0: "no_counterfactual", 0.3: "w_aug_0.3", 0.5: "crpo", 0.7: "w_aug_0.7"}},
}
ASKED = {
    "literal_eq4": {UNREADABLE: "unreadable on counterfactuals, share"},
    "std_scope": {"shift": "shift of the advantage, share"},
    "no_static": {"b/agreement": "samples that agree, transformed, share"},
    "segment_swap": {"event_sequence/pair_acc": "pair accuracy, event sequence, %"},
    "long_events": {"event_sequence/pair_acc": "pair accuracy, event sequence, %"},
}
"""Part -> what its claims are about, beside the two metrics of every part's picture."""
BIASES = {
    "how often colour gives the answer away in training": {
        name: {0.8: f"{name}_bias_0.8", 0.9: f"{name}_bias_0.9", 0.97: name, 1.0: f"{name}_bias_1.0"}
        for name in ("grpo", "crpo")
    }
}


def write_report(results_folder: Path, docs: Path) -> str:
    """Write `docs`/toy_study.md and `docs`/study/*.png; returns what was judged, in one line. ValueError where there is
    no result."""
    results = read(results_folder)
    draw(results, docs / "study")
    (docs / "toy_study.md").write_text(report(results))
    return f"{docs / 'toy_study.md'}: " + ", ".join(f"{verdict} {n}" for verdict, n in _judged(results).items())


def report(results: Results) -> str:
    """Text of docs/toy_study.md."""
    text = [_head(results, _judged(results))]
    text += [_claims("Claims of Sec. 5", MAIN, results), _claims("Claims of the appendices", APPENDIX, results)]
    text += [_claims("Beyond the paper", BEYOND, results)]
    text += [_part(name, part, results) for name, part in PARTS.items()]
    return "\n\n".join(text) + "\n"


def _judged(results: Results) -> Counter:
    return Counter(claim.judge(results).verdict for claim in (*MAIN, *APPENDIX))


def _has_picture(part: Part, results: Results) -> bool:
    return any(results.series(condition, "acc", part.seeds).values for condition in part.conditions)


def _head(results: Results, judged: Counter) -> str:
    cells = cells_of(list(PARTS))
    failed = [cell for cell in cells if "error" in results.found.get((cell.name, cell.seed), {})]
    done = [cell for cell in cells if (cell.name, cell.seed) in results.found and cell not in failed]
    spent = sum(results.found[cell.name, cell.seed]["cpu_seconds"] for cell in done)
    claims = (*MAIN, *APPENDIX)
    late = sum(claim.late > 0 for claim in claims)
    lines = [
        "# The paper's claims on the toy world",
        "Written by `python -m toy.study report` from the results of `python -m toy.study all`. The toy world is built "
        "so that a shortcut pays: what holds here shows a mechanism, not its size on real videos.",
        f"**{judged[HOLDS]} claims hold, {judged[NOT]} do not, {judged[UNTOLD]} cannot be told with these seeds, "
        f"{judged[UNTESTED]} cannot be tested here.**",
        f"- {len(done)} of {len(cells)} cells done, {len(failed)} failed; {spent / 3600:.1f} core-hours.",
        *(f"- FAILED: {cell.name} seed {cell.seed}: {results.found[cell.name, cell.seed]['error']}" for cell in failed),
        *([f"- {len(results.strays)} files of other settings were not read."] if results.strays else []),
        f"- A run: the toy preset, {ROUNDS} rounds of {QUESTIONS} questions, every row visited once, from the one "
        f"shipped start. Seeds {', '.join(map(str, SEEDS))} for the methods of Table 1 (its part, Figures 5 and 7, and "
        f"claims about these methods alone), {', '.join(map(str, FEW))} elsewhere; a seed draws the training clips, "
        "their order and every rollout. None was used while the study was built. The intervals are over seeds of the "
        "training, not over starts or evaluation pairs: both are the same for all.",
        "- Budgets: claims compare runs of equal questions (data x 2 visits each twice), not always of equal rollouts: "
        f"{_rollouts(results)}; the parts below name the others'. ArrowRL follows its own paper: App. B.3 prints its "
        "condition inverted.",
        f"- World: difficulty {World().difficulty:g}, bias {World().bias:g}; {PAIRS} pairs a sub-task, the same for "
        f"all runs (seed {EVAL_SEED}), answered greedily. Chance: {CHANCE:g} % of questions, {PAIR_CHANCE:g} % of "
        "pairs.",
        "- Numbers are means over seeds +- half of Student's 95 % interval; comparisons are paired by seed. Accuracies "
        "are over the four dynamic sub-tasks unless a column says otherwise. The start is one model: no interval.",
        "- Rules, fixed before the first reported run. *More* (no margin named): the interval of the difference lies "
        f"above 0 (below: does not hold). *Same* or *at most*: it lies within the margin, {MARGIN:g} points of "
        "accuracy unless named (does not hold: *same*, 0 is outside the interval and the mean beyond the margin; *at "
        "most*, the whole interval lies above the margin). Where an interval decides neither way, it cannot be told "
        "with these seeds. The last column is the number that is judged: points of accuracy, or a share or mean reward "
        "with three decimals.",
        "- Read with care: of so many intervals at 95 % some miss; an interval of no width is equal counts at "
        f"each seed, not certainty; a margin of {MARGIN:g} is wide beside a chance of {PAIR_CHANCE:g}; *highest minus "
        "lowest* picks its two runs after the fact, which lifts it above 0; some numbers stand under two claims.",
        f"- {late} of the {len(claims)} claims are marked *late*: added, or asking for more than before, since a "
        f"second reading of the paper ({SECOND} cells had run), a third ({THIRD}) or after the last cell.",
        "- The toy preset was chosen in development on CRPO and GRPO curves of seed 0, difficulty and rounds on one "
        "CRPO run of seed 101; all methods share them, and nothing was chosen on the study's seeds.",
        "- Shift of the advantage: by how much the auxiliary reward (CRR, or the bonus of T-GRPO or ArrowRL) moves "
        "advantages, mean absolute difference over their mean size; 0 where it cancels (App. F).",
        "- In the pictures dots are seeds and whiskers the intervals, cut at 0 and 100 %; a vertical line is CRPO's "
        "mean, the start's where CRPO is not shown.",
    ]
    return "\n\n".join(lines[:3]) + "\n\n" + "\n".join(lines[3:])


def _claims(title: str, claims: Sequence[Claim], results: Results) -> str:
    rows = []
    for claim in claims:
        outcome = claim.judge(results)
        shown = f"**{outcome.verdict}**" if outcome.verdict in (HOLDS, NOT) else outcome.verdict
        words = f"{claim.words} *(late: {claim.late} cells)*" if claim.late else claim.words
        rows.append((claim.place, words, claim.paper, shown, outcome.number))
    return f"## {title}\n\n" + _table(("where", "claim", "paper", "here", "difference or number [95 %]"), rows)


def _part(name: str, part: Part, results: Results) -> str:
    columns = COLUMNS.get(name, SUMS)
    rows = [
        (CONDITIONS[condition].label, *(_cell(results.series(condition, metric, part.seeds), condition, metric)
                                        for metric in columns), _budget(results, condition))
        for condition in part.conditions
    ]  # fmt: skip
    lines = [f"## {part.title}", part.budget, _table(("run", *columns.values(), "rollouts"), rows)]
    if _has_picture(part, results):
        lines.append(f"![{part.title}](study/{name}.png)")
        if name in CURVES:
            lines.append(f"![{part.title}, over rollouts](study/{name}_curves.png)")
    return "\n\n".join(lines)


def _cell(series: Series, condition: str, metric: str) -> str:
    """Mean and half interval; what is missing or failed is said."""
    if series.failed:
        kept = f"; {len(series.values)} of {len(series.wanted)}: {series.mean:.1f}" if series.values else ""
        return f"FAILED ({', '.join(series.failed)}{kept})"
    if not series.values:
        return "-"
    digits = 1 if metric.rpartition("/")[2] in ("acc", "pair_acc") else 3
    text = f"{series.mean:.{digits}f}"
    if len(series.values) > 1 and CONDITIONS[condition].trained:
        text += f" +- {series.half:.{digits}f}"
    return (
        text if len(series.values) == len(series.wanted) else f"{text} ({len(series.values)} of {len(series.wanted)})"
    )


def _budget(results: Results, condition: str) -> str:
    """Rollouts that a run generated for training."""
    if not CONDITIONS[condition].trained:
        return "0"
    counts = {r["rollouts"] for (name, _), r in results.found.items() if name == condition and "error" not in r}
    return "-" if not counts else f"{min(counts):,}" if len(counts) == 1 else f"{min(counts):,} to {max(counts):,}"


def _rollouts(results: Results) -> str:
    """Rollouts of the methods of Table 1."""
    return ", ".join(f"{CONDITIONS[name].label} {_budget(results, name)}" for name in _trained(PARTS["table1"]))


def _trained(part: Part) -> list[str]:
    return [condition for condition in part.conditions if CONDITIONS[condition].trained]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def draw(results: Results, folder: Path) -> None:
    """A picture of each part of which a result is there."""
    pair = {f"{subtask}/pair_acc": words.replace(", ", "\n") for subtask, words in SUBTASKS.items()}
    two = {"pair_acc": "pair accuracy, dynamic, %", "static/acc": "accuracy, static, %"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        path, curves = folder / f"{name}.png", folder / f"{name}_curves.png"
        path.unlink(missing_ok=True)
        curves.unlink(missing_ok=True)
        if not _has_picture(part, results):
            continue
        if name in CURVES:
            figures.over_rollouts(results, _trained(part), CURVES[name], curves)
        if name == "table1":
            figures.bars(results, part, {"pair_acc": "all dynamic"} | pair, path, chance=PAIR_CHANCE)
        elif name == "table4":
            shown = {f"{setting}pair_acc": words for setting, words in SHOWN.items()}
            figures.bars(results, part, shown, path, chance=PAIR_CHANCE)
        elif name == "dynamics":
            figures.over_rollouts(results, part.conditions, PANELS, path)
        elif name == "sweeps":
            figures.along(
                results, SWEPT, {"pair_acc": "pair accuracy, dynamic", "static/acc": "accuracy, static"}, path
            )
        elif name == "bias":
            figures.along(results, BIASES, {"pair_acc": "pair accuracy, dynamic"}, path)
        else:
            reference = "crpo" if "crpo" in part.conditions else part.conditions[0]
            figures.rows(results, part, two | ASKED.get(name, {}), path, reference=reference)
