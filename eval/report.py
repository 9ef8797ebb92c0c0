"""`python -m eval.report [LABEL=]RUN [RUN ...] --output DIR`: runs beside each other in one page that works offline.

    python -m eval.report runs/eval/base runs/eval/crpo runs/train/crpo --output report/

RUN is a folder of eval.run (answers) or of train.py (curves), in any mixture; differences are against the first
evaluation. DIR/report.html holds everything: the paper's Tables 1, 4 and 5 with intervals, training curves, the
settings (those that differ are said first), and a gallery of pairs with their frames; with --routed also Fig. 1, right.
The pictures also lie beside it as PNG. A training run and the evaluation of its checkpoint share one label and one
colour.
Exit code 0, or 2 with one line where a folder or a flag is not as it must be.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from config import Config
from eval.report_gallery import gallery, strips
from eval.report_page import Page, render
from eval.report_pictures import fractions, scores
from eval.report_runs import Run, evaluations, read_routed, read_runs, settings_of, trainings
from eval.report_tables import Bootstrap, Table, all_tables
from pictures import COLOURS, curves, dynamics


@dataclass
class ReportArgs:
    """One page and PNGs of evaluation and training runs."""

    runs: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Run folders, each as FOLDER or LABEL=FOLDER; the first evaluation is what the others are compared with."""
    output: Path
    """Folder for report.html and the PNGs; files of these names are replaced."""
    routed: tuple[str, ...] = ()
    """NAME=FILE: the questions of mvbench or a tempcompass_* as rows that router.py has labelled (id or problem_id, and
    task_type); shows accuracy per sub-task against the fraction of dynamic questions (Fig. 1, right), and which
    answers to flipped or reversed clips should have stayed (left)."""
    title: str = "Evaluation report"
    """Heading of the page."""
    gallery: int = 24
    """Pairs to show of each paired benchmark, spread over sub-tasks and outcomes; 0 = no gallery."""
    data_root: Path | None = None
    """Folder that the clips' paths are relative to; default: what each run's settings.json says."""
    frames: int = 8
    """Uniform frames of a filmstrip, even."""
    resamples: int = 2000
    """Of the bootstrap."""
    seed: int = 0
    """Of the bootstrap and of the choice of gallery pairs: the same seed, the same page."""
    decode_workers: int = 2
    """Processes that decode the gallery's clips."""
    decode_timeout: float = Config.decode_timeout
    """Seconds a clip may take to decode; the gallery then says so in its place."""


def write_report(args: ReportArgs) -> list[str]:
    """Write the page and the pictures; returns what has to be said about them, which the page says, too.

    Raises ValueError or OSError, one line each.
    """
    check(args)
    runs = read_runs(args.runs)
    tested, trained = evaluations(runs), trainings(runs)
    colours = colour(trained, runs)
    routed = dict(map(read_routed, args.routed))
    if routed and not tested:
        raise ValueError(f"--routed needs a run of eval.run: {', '.join(args.runs)} have no answers")
    bootstrap = Bootstrap(args.resamples, args.seed)
    tables, breakdowns, notices = all_tables(tested, bootstrap, routed) if tested else ([], [], [])
    settings, differing = settings_of(tested)
    notices = differing + notices
    args.output.mkdir(parents=True, exist_ok=True)
    pictures = draw_tables(tables, colours, args.output)
    drawn, said = draw_curves(trained, args.output)
    notices += said
    if not tables and not drawn:
        raise ValueError(f"nothing to show: {'; '.join(notices)}")
    pairs, totals = gallery(tested, args.gallery, args.seed) if args.gallery else ([], {})
    frames = strips(
        pairs, tested, args.data_root, frames=args.frames, workers=args.decode_workers, deadline=args.decode_timeout
    )
    faults = sum(bool(strip.fault) for sides in frames for strip in sides)
    if faults:
        notices.append(f"{faults} of {sum(map(len, frames))} clips of the gallery could not be shown; each says why")
    page = Page(
        title=args.title,
        subtitle=f"{len(tested)} evaluated, {len(trained)} trained: " + ", ".join(str(run.folder) for run in runs),
        colours=colours,
        tables=tables,
        breakdowns=breakdowns,
        pictures=pictures,
        curves=drawn,
        pairs=list(zip(pairs, frames, strict=True)),
        pair_totals=totals,
        settings=settings,
        notices=notices,
        frames=args.frames,
        footer=f"Bootstrap: {args.resamples:,} resamples over pairs, instances or questions, seed {args.seed}.",
    )
    (args.output / "report.html").write_text(render(page), encoding="utf-8")
    return notices


def check(args: ReportArgs) -> None:
    """Laws of the flags; ValueError with one line."""
    for name, least in (("gallery", 0), ("resamples", 100), ("decode_workers", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {getattr(args, name)}")
    if args.frames < 2 or args.frames % 2:
        raise ValueError(f"--frames must be even and at least 2, got {args.frames}")
    if not args.decode_timeout > 0:
        raise ValueError(f"--decode-timeout must be positive, got {args.decode_timeout}")
    if args.data_root is not None and not args.data_root.is_dir():
        raise ValueError(f"--data-root {args.data_root}: no such folder")


def colour(trained: Sequence[Run], runs: Sequence[Run]) -> dict[str, str]:
    """Label -> colour, in the order of `runs`; ValueError where there are more labels than colours.

    Curves are coloured by their place (`pictures.curves`), so the trained ones have the first colours.
    """
    labels = dict.fromkeys(run.label for run in (*trained, *runs))
    if len(labels) > len(COLOURS):
        raise ValueError(
            f"{len(labels)} models, but no more than {len(COLOURS)} colours can be told apart: name fewer runs"
        )
    colours = dict(zip(labels, COLOURS, strict=False))
    return {run.label: colours[run.label] for run in runs}


def draw_tables(tables: Sequence[Table], colours: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """table1.png and so on: table's name -> file."""
    files = {table.name: folder / f"{table.name}.png" for table in tables}
    for table in tables:
        (fractions if table.points else scores)(table, colours, files[table.name])
    return files


def draw_curves(runs: Sequence[Run], folder: Path) -> tuple[dict[str, Path], list[str]]:
    """curves.png and dynamics.png of training runs (caption -> file), and what could not be drawn."""
    rows = {run.label: [_numbers(row) for row in run.metrics] for run in runs}
    if not rows:
        return {}, []
    x = "data/rollouts_seen" if all(any("data/rollouts_seen" in row for row in of) for of in rows.values()) else "step"
    drawn, said = {}, []
    for draw, name, caption in (
        (curves, "curves", "Rewards and evaluations over training"),
        (dynamics, "dynamics", "Diagnostics of training: what is learnt, and whether it holds"),
    ):
        try:
            draw(rows, folder / f"{name}.png", x=x)
            drawn[caption] = folder / f"{name}.png"
        except ValueError as error:  # the tables are worth having without it
            said.append(f"{name}.png: {error}")
    return drawn, said


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, float | int)}


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(ReportArgs, args=argv)
    try:
        notices = write_report(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in (*(f"note: {notice}" for notice in notices), f"page: {args.output / 'report.html'}"):
        # Labels and ids are foreign text: nothing of it may steer the terminal.
        print("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line))
    return 0


if __name__ == "__main__":
    sys.exit(main())
