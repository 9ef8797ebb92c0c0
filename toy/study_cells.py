"""What the study runs: conditions, the parts of the paper that need them, and the identity and cost of a cell.

A *condition* is one row of a table: flags of train.py, a world and what is done to its rows. A *cell* is a condition at
a seed: one run. The seed draws the training clips and rows, their order, the transforms and every rollout. All runs
begin at the shipped warm start, and all are asked the same evaluation pairs (EVAL_SEED), as a benchmark is. A
condition that several parts need runs once; no two conditions have the same settings.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, field

import config
from toy.world import STUDY_SUBTASKS

VERSION = 1
"""Raised by whoever changes what a cell with the same settings gives, by its code or by a default that the toy preset
leaves alone: older results are then no longer its own."""
SEEDS = (11, 12, 13, 14, 15)
FEW = SEEDS[:3]
EVAL_SEED, PAIRS = 7, 50  # evaluation pairs of each of STUDY_SUBTASKS
ROUNDS, QUESTIONS = 40, 24  # one epoch, as in the paper: each training row is visited once
G = 8
SHORTCUTS, SAMPLES = "shortcuts", "samples"
BASELINES = ("grpo", "t_grpo", "arrow_rl")


@dataclass(frozen=True)
class World:
    """Settings of `toy.world.write_world`; the evaluation pairs share difficulty and events with the training clips."""

    bias: float = 0.97
    difficulty: float = 0.3
    events: tuple[int, ...] = (2,)
    clips: int = ROUNDS * QUESTIONS
    """Training clips; rows that `Rows` leaves out are made up for by more of them."""


@dataclass(frozen=True)
class Rows:
    """What is done to the rows of a training world (`study_rows.varied`)."""

    wrong_types: float = 0.0
    """Share of rows whose task type is another one, drawn uniformly."""
    confusions: bool = False
    """The router's errors of App. C in their measured shares."""
    static: bool = True
    """Static questions stay in."""
    swap: bool = False
    """Questions of event order may be looked at with the halves of the clip swapped, too."""


@dataclass(frozen=True)
class Condition:
    label: str
    flags: tuple[str, ...] = ()
    world: World = World()
    rows: Rows = Rows()
    measures: tuple[str, ...] = ()
    """What is asked after training beside the greedy evaluation: SHORTCUTS (Table 4), SAMPLES (App. E)."""
    trained: bool = True
    """False: the start itself, one cell for all seeds."""


def crpo(label: str, *flags: str, **others) -> Condition:
    return Condition(f"CRPO, {label}", ("--method", "crpo", *flags), **others)


def grpo(label: str, *flags: str, **others) -> Condition:
    return Condition(f"GRPO{label}", ("--method", "grpo", *flags), **others)


_CURVE = ("--eval-every", str(ROUNDS // 4))
_ALL = (SHORTCUTS, SAMPLES)
_LONG, _FULL = World(events=(3, 4)), World(clips=ROUNDS * QUESTIONS * 3 // 2)
_NONE = ("--method", "grpo", "--lr", "0", "--max-steps", "1")  # every weight stays as it is
CONDITIONS: dict[str, Condition] = {
    "base": Condition("Start (no RL)", _NONE, measures=_ALL, trained=False),
    "grpo": grpo("", *_CURVE, measures=_ALL),
    "grpo_g16": grpo(" (G x 2)", "--rollouts", str(2 * G), *_CURVE),
    "grpo_data2": grpo(" (data x 2)", "--repeat-data", "2", "--max-steps", str(2 * ROUNDS), *_CURVE),
    "t_grpo": Condition("T-GRPO", ("--method", "t_grpo", *_CURVE)),
    "arrow_rl": Condition("ArrowRL", ("--method", "arrow_rl", *_CURVE)),
    "crpo": Condition("CRPO", ("--method", "crpo", *_CURVE), measures=_ALL),
    "no_flip": crpo("w/o spatial flip", "--no-flip"),
    "no_reverse": crpo("w/o temporal reversal", "--no-reverse"),
    "no_crr": crpo("w/o R_CRR", "--no-crr"),
    "no_behave": crpo("w/o R_behave", "--no-behave"),
    "no_counterfactual": crpo("w/o counterfactual branch", "--w-aug", "0"),
    "no_null": crpo("w/o null option", "--null-option", "off"),
    "lambda_0.1": crpo("lambda 0.1", "--lambda-d", "0.1", "--lambda-s", "0.1"),
    "lambda_0.5": crpo("lambda 0.5", "--lambda-d", "0.5", "--lambda-s", "0.5"),
    "w_aug_0.3": crpo("w_aug 0.3", "--w-aug", "0.3"),
    "w_aug_0.7": crpo("w_aug 0.7", "--w-aug", "0.7"),
    **{f"grpo_bias_{b}": grpo(f", bias {b}", world=World(bias=b)) for b in (0.8, 0.9, 1.0)},
    **{f"crpo_bias_{b}": crpo(f"bias {b}", world=World(bias=b)) for b in (0.8, 0.9, 1.0)},
    "router_6": crpo("6 % wrong task types", rows=Rows(wrong_types=0.06)),
    "router_20": crpo("20 % wrong task types", rows=Rows(wrong_types=0.20)),
    "router_c": crpo("App. C's confusions", rows=Rows(confusions=True)),
    "literal_eq4": crpo("Eq. 4 to the letter", "--invalid-counts-as-change"),
    "std_branch": crpo("std of each branch", "--std-scope", "branch"),
    "std_batch": crpo("std of the round", "--std-scope", "batch"),
    "no_static": crpo("no static questions", world=_FULL, rows=Rows(static=False), measures=(SAMPLES,)),
    "augment": Condition("GRPO, plain augmentation", ("--method", "augment")),
    "segment_swap": crpo("and segment swap", rows=Rows(swap=True)),
    "base_long": Condition("Start (no RL), 3 and 4 events", _NONE, world=_LONG, trained=False),
    "grpo_long": grpo(", 3 and 4 events", world=_LONG),
    "crpo_long": crpo("3 and 4 events", world=_LONG),
    "swap_long": crpo("3 and 4 events, and segment swap", world=_LONG, rows=Rows(swap=True)),
}
"""Name -> row of a table."""


@dataclass(frozen=True)
class Part:
    title: str
    conditions: tuple[str, ...]
    budget: str
    """What its rows have in common, and what not."""
    seeds: tuple[int, ...] = FEW


_EQUAL = f"Equal questions ({ROUNDS * QUESTIONS})"
_DOUBLE = f"{_EQUAL}; CRPO samples twice the rollouts of GRPO."
PARTS: dict[str, Part] = {
    "table1": Part(
        "Table 1 and Table 5: methods, by sub-task",
        ("base", "grpo", "grpo_g16", "grpo_data2", "t_grpo", "arrow_rl", "crpo"),
        f"{_EQUAL} for all but data x 2 (each twice); equal rollouts for CRPO, T-GRPO, GRPO (G x 2) and (data x 2).",
        SEEDS,
    ),
    "table2": Part(
        "Table 2: controls and components",
        ("base", "grpo", "grpo_g16", "grpo_data2", "crpo", "no_flip", "no_reverse", "no_crr", "no_behave",
         "no_counterfactual", "no_null"),
        f"{_EQUAL} but for data x 2. A question that loses its transform trains single-branch, with fewer rollouts.",
    ),
    "sweeps": Part(
        "Figure 9: lambda and w_aug",
        ("no_crr", "lambda_0.1", "crpo", "lambda_0.5", "no_counterfactual", "w_aug_0.3", "w_aug_0.7"),
        f"{_EQUAL} and rollouts. Lambda 0 is w/o R_CRR, w_aug 0 is w/o counterfactual branch.",
    ),
    "table4": Part("Table 4: shortcut isolation", ("base", "grpo", "crpo"), _DOUBLE),
    "dynamics": Part(
        "Figures 5 and 7: training dynamics",
        (*BASELINES, "crpo"),
        f"{_EQUAL}; CRPO and T-GRPO sample twice the rollouts of GRPO, ArrowRL nine eighths.",
        SEEDS,
    ),
    "bias": Part(
        "Training bias: how often the colour gives the answer away",
        ("grpo_bias_0.8", "grpo_bias_0.9", "grpo", "grpo_bias_1.0", "crpo_bias_0.8", "crpo_bias_0.9", "crpo",
         "crpo_bias_1.0"),
        _DOUBLE,
    ),
    "router_noise": Part("Wrong task types", ("crpo", "router_6", "router_20", "router_c"), f"{_EQUAL} and rollouts."),
    "literal_eq4": Part("Eq. 4 to the letter: unreadable text pays", ("crpo", "literal_eq4"), f"{_EQUAL}, rollouts."),
    "std_scope": Part("What shares a standard deviation", ("std_branch", "crpo", "std_batch"), f"{_EQUAL}, rollouts."),
    "no_static": Part("Invariance without static questions", ("crpo", "no_static"), f"{_EQUAL} and rollouts."),
    "augment": Part("App. E: plain augmentation", ("grpo", "augment", "crpo"), f"{_DOUBLE} So does augmentation."),
    "segment_swap": Part("Segment swap as a training transform", ("crpo", "segment_swap"), f"{_EQUAL} and rollouts."),
    "long_events": Part(
        "Clips of three and four events", ("base_long", "grpo_long", "crpo_long", "swap_long"), _DOUBLE
    ),
}  # fmt: skip
"""Argument of `python -m toy.study` -> what it runs."""

RUN = "run_"
"""Beginning of the names of run folders, which last as long as their cells."""
NOT_THE_RESULT = {"run_dir", "train_file", "eval_file", "data_root", "cache_dir", "resume", "export", "decode_workers"}


_USUAL = (
    "--preset", "toy", "--max-steps", str(ROUNDS), "--questions", str(QUESTIONS), "--eval-every", "0", "--resume",
    "never", "--samples-every", "0", "--save-every", "0", "--save-minutes", "0", "--no-export",
)  # fmt: skip


@functools.cache
def _resolved(flags: tuple[str, ...]) -> dict:
    return dataclasses.asdict(config.parse(list(flags)))


@dataclass(frozen=True)
class Cell:
    name: str
    """Of its condition."""
    seed: int
    condition: Condition = field(compare=False)

    @property
    def flags(self) -> tuple[str, ...]:
        """Of train.py, files and folders left out; the condition's own win over the usual ones."""
        return *_USUAL, *self.condition.flags, "--seed", str(self.seed)

    @functools.cached_property
    def run(self) -> dict:
        """Every setting of train.py."""
        return _resolved((*_USUAL, *self.condition.flags)) | {"seed": self.seed}

    @functools.cached_property
    def settings(self) -> dict:
        """All that its numbers depend on, JSON-able; of train.py's settings those that are not the paper's, so that one
        which is added later makes no other cell."""
        usual = dataclasses.asdict(config.Config())
        own = {k: v for k, v in self.run.items() if k not in NOT_THE_RESULT and v != usual[k]} | {"seed": self.seed}
        return json.loads(
            json.dumps(
                {
                    "version": VERSION,
                    "run": own,
                    "world": dataclasses.asdict(self.condition.world),
                    "rows": dataclasses.asdict(self.condition.rows),
                    "evaluation": {"seed": EVAL_SEED, "pairs": PAIRS, "subtasks": list(STUDY_SUBTASKS)},
                    "measures": list(self.condition.measures),
                }
            )
        )

    @functools.cached_property
    def id(self) -> str:
        """12 hex digits of its settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def file(self) -> str:
        return f"{self.name}_{self.seed}_{self.id}.json"

    @property
    def seconds(self) -> float:
        """Expected of one core: measured per rollout sampled and trained, question asked, and run (dev/LOG.md)."""
        run = self.run
        trained = sampled = run["rollouts"]
        sampled += {"grpo": 0, "arrow_rl": 1}.get(run["method"], run["rollouts"])
        trained += run["rollouts"] * (run["method"] == "augment" or (run["method"] == "crpo" and run["w_aug"] > 0))
        rounds = run["max_steps"] * (0.15 + run["questions"] * (0.0045 * sampled + 0.0075 * trained))
        asked = rounds_asked(run) + 3 * (SHORTCUTS in self.condition.measures)
        asked += 3 * (SAMPLES in self.condition.measures)
        return 6 + rounds + asked * 0.018 * 2 * PAIRS * len(STUDY_SUBTASKS)


def rounds_asked(run: dict) -> int:
    """Evaluations of a run after its start, whose one evaluation all runs share."""
    return -(-run["max_steps"] // run["eval_every"]) if run["eval_every"] else 1


def cells_of(parts: list[str]) -> list[Cell]:
    """The cells that these parts need, each once, in the order of the parts."""
    found: dict[str, Cell] = {}
    for part in (PARTS[name] for name in parts):
        for name in part.conditions:
            for seed in part.seeds if CONDITIONS[name].trained else part.seeds[:1]:
                cell = Cell(name, seed, CONDITIONS[name])
                found.setdefault(cell.id, cell)
    return list(found.values())
