"""Masked Video Prediction from any folder of clips: which of these pictures were hidden, and in what order?

    python -m data.masked make --videos clips/ --output masked/           # rows.jsonl, clips/, sheet/index.html
    python -m data.masked check --videos clips/ --output masked/          # every sample again, from its files

Published (arXiv 2601.03781): 1 frame a second; near-duplicates by CLIP's cosine left out on the way forward; a
continuous run hidden; hard distractors from its temporal neighbourhood; candidates shuffled; numbers and wording not.
Ours: 12 frames, 4 of them hidden in the middle, 4 distractors, cosine .9 of grey thumbnails (or of a vision tower,
--features), the neighbourhood two runs to either side, no two candidates alike.

Deterministic in seed and clip. A run that was stopped goes on; clips of which no sample can be made are in refused.txt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from matplotlib.image import imsave

import actions
from data.corpora import Refused
from data.dataset import BadRow, report_bad_rows
from data.looks import Look, thumbnail, tower
from data.parts import append, keep_settings, whole_rows, write_whole
from data.puzzles import CheckArgs, MakeArgs, fault, law, samples, shown
from data.video import ClipError
from pictures import sheet
from review import page

ENDINGS = (".mp4", ".mkv", ".mov", ".webm", ".avi")


def clips_below(folder: Path, but: Path) -> list[str]:
    """Names of the clips below a folder, those below `but` (its own samples) left out, in order. ValueError where there
    are none."""
    found = (p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and but.resolve() not in p.resolve().parents)
    names = sorted(p.relative_to(folder).as_posix() for p in found)
    if not names:
        raise ValueError(f"{folder}: holds no clip ({', '.join(ENDINGS)}); give --videos a folder of them")
    return names


def look_of(args: MakeArgs) -> Look:
    return tower(args.features) if args.features else thumbnail


def make(args: MakeArgs) -> int:
    """Samples of every clip; goes on after the clips that progress.jsonl holds."""
    law(args)
    names, progress, look = clips_below(args.videos, args.output), args.output / "progress.jsonl", look_of(args)
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(args).items()}
    keep_settings(args.output / "settings.json", settings, free=("output", "sheet"), hint="give another --output")
    done = {row["id"]: row for row in whole_rows(progress, "clip")} if progress.exists() else {}
    write_whole(progress, "".join(json.dumps(row) + "\n" for row in done.values()))  # without a torn last line
    with progress.open("a") as part:
        for name in names:
            if name not in done:
                try:
                    done[name] = {"id": name, "rows": samples(name, args, look), "refused": None}
                except Refused as refusal:
                    done[name] = {"id": name, "rows": [], "refused": refusal.args}
                append(part, [done[name]])
    rows = [row for name in names for row in done[name]["rows"]]
    bad = [
        BadRow(str(args.videos / name), number, *done[name]["refused"])
        for number, name in enumerate(names, start=1)
        if done[name]["refused"]
    ]
    write_whole(args.output / "refused.txt", "".join(f"{row}\n" for row in bad))
    print(f"{len(rows)} samples of {len(names) - len(bad)} of {len(names)} clips -> {args.output / 'rows.jsonl'}")
    for line in report_bad_rows(bad):
        print(f"  {line}")
    if not rows:
        raise ValueError(f"{args.videos}: no sample could be made; the reasons are in {args.output / 'refused.txt'}")
    write_whole(args.output / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    draw(rows[: args.sheet], args)
    return 0


def check(args: CheckArgs) -> int:
    """Every row of rows.jsonl, read back."""
    try:
        settings = json.loads((args.output / "settings.json").read_text())
        rows = [json.loads(line) for line in (args.output / "rows.jsonl").read_text().splitlines()]
    except ValueError as error:
        raise ValueError(f"{args.output}: holds no samples ({error}); make them first") from error
    made = MakeArgs(**settings | {"videos": args.videos, "output": args.output})
    look, wrong = look_of(made), 0
    for row in rows:
        try:
            reason = fault(row, made, look)
        except ClipError as error:
            reason = str(error)
        if reason:
            wrong += 1
            print(f"  {row['problem_id']}: {reason}")
    print(f"{len(rows) - wrong} of {len(rows)} samples are sound")
    return 2 if wrong else 0


def draw(rows: Sequence[dict], args: MakeArgs) -> None:
    """sheet/index.html and a picture a sample: the window in order, and the candidates as shown."""
    before = (args.window - args.hidden) // 2
    folder = args.output / "sheet"
    folder.mkdir(exist_ok=True)
    sections = []
    for number, row in enumerate(rows, start=1):
        pictures = shown(row, args)[::2]
        gold = row["solution"]["order"]
        strips = [
            ("before", pictures[:before]),
            ("hidden: candidates " + ", ".join(map(str, gold)), pictures[[before + i - 1 for i in gold]]),
            ("after", pictures[-before:]),
            ("candidates 1, 2, ... as shown", pictures[before:-before]),
        ]
        imsave(folder / f"{number:04d}.png", sheet(strips, [row["problem_id"], row["problem"]]))
        sections.append(f'<img src="{number:04d}.png" loading=lazy alt="sample {number}">')
    (folder / "index.html").write_text(page("Masked Video Prediction", "", sections))


ACTIONS: actions.Actions = {"make": (MakeArgs, make), "check": (CheckArgs, check)}


def main(argv: list[str] | None = None) -> int:
    """0 done, 2 a mistake or an unsound sample."""
    return actions.run(ACTIONS, argv, "data.masked")


if __name__ == "__main__":
    sys.exit(main())
