"""DyBench from your own clips (paper Sec. 4, App. A.2): pairs of videos on which a shortcut scores nothing.

    python -m eval.dybench read breakfast --input annotations/ --output rows.jsonl      # of eight public sources
    python -m eval.dybench build --annotations rows.jsonl --videos clips/ --output dybench/
    python -m eval.dybench sheet --rows dybench/pairs.jsonl --data-root dybench/ --output review/    # a person fills it
    python -m eval.dybench apply --rows dybench/pairs.jsonl --data-root dybench/ --sheet review/sheet.csv \
        --output dybench/accepted.jsonl
    python -m eval.dybench stats --rows dybench/accepted.jsonl --picture fig3.png       # Fig. 3, Table 3

An annotation row (JSON or JSONL) has `subtask`, `path` and what the sub-task needs; times are seconds:

    {"subtask": "reversible_dynamics", "path": "door.mp4", "action": "opening", "object": "the door"}
    {"subtask": "reversible_dynamics", "path": "bud.mp4", "forward": "a bud opens", "reversed": "a bud closes",
     "distractor": "a bud falls"}
    {"subtask": "moving_direction", "path": "car.mp4", "object": "the car", "direction": "left", "start": 2, "end": 8}
    {"subtask": "event_sequence", "path": "hob.avi", "segments": [{"start": 0, "end": 9, "event": "pour milk"}, ...]}
    {"subtask": "event_sequence", "path": "spliced.mp4", "events": ["a man swims", "a man dives"]}

Also `id`, `data_source`, `subject` (human | animal | plant | object), `question`, `start` and `end` where a whole clip
is meant; `transform` (flip | reverse | flip_reverse) of a direction; `features` (.npy below --videos, a row a frame,
such as DINO's) of a spliced clip. A row of which no pair can be made is refused with file, row and reason.

pairs.jsonl holds both sides of each pair as evaluation rows (`eval.run`, `train.py --eval-file`) that share question
and options in one order. Side a is the clip as it was, side b its counterfactual. `apply` keeps the accepted pairs and
marks them `accepted`. With --keep-rejected the others follow, marked false: `eval.run`, `eval.score` and `stats` leave
those out (`train.py --eval-file` does not know the mark; give it accepted pairs alone).
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm import tqdm

import actions
from data.clips import Clips, ClipSettings
from data.corpora import Refused
from data.dataset import BadRow, load_questions, report_bad_rows
from data.parts import file_sha256
from data.planes import SourceError
from data.rows import read_rows
from eval import dybench_sheet as sheets
from eval.answer import check_pairs
from eval.benchmarks import rejected
from eval.dybench_pairs import Limits, Plan, as_json, make, plan
from eval.dybench_sources import SOURCES, converted
from eval.dybench_stats import draw, statistics_of
from pictures import table


@dataclass(kw_only=True)
class BuildArgs(Limits):
    """Make pairs of clips and their evaluation rows. Other actions: read | sheet | apply | stats, each with --help."""

    annotations: Path
    """JSON or JSONL file of annotation rows."""
    videos: Path
    """Folder that the rows' `path` is relative to, and may not leave."""
    output: Path
    """New folder: pairs.jsonl, clips/, manifest.jsonl (what was measured), refused.txt. The data root of its rows."""
    workers: int = 1
    """Pairs made side by side; each may hold a minute of frames."""


# ---------------------------------------------------------------------------------------------------------------------
# Building


def build(args: BuildArgs) -> int:
    """Make every pair that can be made; returns the exit code."""
    if not args.videos.is_dir():
        raise ValueError(f"{args.videos}: --videos must be a folder that is there")
    if args.output.exists() and any(args.output.iterdir()):
        raise ValueError(f"{args.output} is not empty; choose another folder, a review may belong to this one")
    if args.min_frames < 2 or args.workers < 1 or args.longest_side < 16 or not args.max_seconds > 0:
        raise ValueError(
            "--min-frames must be at least 2, --workers 1, --longest-side 16, and --max-seconds above 0; got "
            f"{args.min_frames}, {args.workers}, {args.longest_side}, {args.max_seconds:g}"
        )
    (args.output / "clips").mkdir(parents=True, exist_ok=True)
    bad, count = [], Counter()
    with ThreadPoolExecutor(args.workers) as pool, open(args.output / "pairs.jsonl", "w", encoding="utf-8") as rows:
        with open(args.output / "manifest.jsonl", "w", encoding="utf-8") as manifest:
            for made in tqdm(_made(args, pool), unit="pair", leave=False, disable=None):
                if isinstance(made, BadRow):
                    bad.append(made)
                    continue
                rows.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in made[0])
                manifest.write(json.dumps(made[1]) + "\n")
                count[made[0][0]["subtask"]] += 1
    (args.output / "refused.txt").write_text(_lines(bad), encoding="utf-8", errors="replace")
    print(f"{args.output / 'pairs.jsonl'}: {count.total()} pairs; {len(bad)} rows refused")
    for line in [f"{n} {subtask}" for subtask, n in count.items()] + report_bad_rows(bad):
        print(f"  {line}")
    if not count:
        raise ValueError(f"{args.annotations}: no pair could be made; reasons are in {args.output / 'refused.txt'}")
    return 0


def _made(args: BuildArgs, pool: ThreadPoolExecutor) -> Iterator[tuple[list[dict], dict] | BadRow]:
    """Each annotation row's pair, or why it has none; in order, a few ahead."""
    seen: set[str] = set()

    def one(number: int, made: Plan) -> tuple[list[dict], dict] | BadRow:
        try:
            return make(made, number, args.output, args)
        except Refused as refusal:
            return BadRow(str(args.annotations), number, *refusal.args)
        except SourceError as error:
            return BadRow(str(args.annotations), number, "path", error.args[0], f"{made.row['path']}: {error.args[1]}")

    pending = []
    for raw in read_rows(args.annotations):
        try:
            if raw.fault:
                raise Refused("row", raw.fault)
            made = plan(raw.value, raw.number, args.videos, args)
            if made.id in seen:
                raise Refused("id", "is that of an earlier row", made.id)
            seen.add(made.id)
            pending.append(pool.submit(one, raw.number, made))
        except Refused as refusal:
            pending.append(BadRow(str(args.annotations), raw.number, *refusal.args))
        if len(pending) > 2 * args.workers:
            yield _result(pending.pop(0))
    yield from map(_result, pending)


def _lines(bad: Sequence[BadRow]) -> str:
    return "".join(" ".join(str(row).splitlines()) + "\n" for row in bad)


def _result(made):
    return made if isinstance(made, BadRow) else made.result()


# ---------------------------------------------------------------------------------------------------------------------
# Public annotations


@dataclass
class ReadArgs:
    """Convert a public source's annotations into annotation rows (eval/dybench_sources.py says what is read)."""

    source: Annotated[Literal[tuple(SOURCES)], tyro.conf.Positional]
    input: tuple[Path, ...]
    """Annotation files, or folders that are searched for them."""
    output: Path
    """Annotation rows, JSONL; refused rows go to OUTPUT.refused.txt."""
    prefix: str = ""
    """Folder of the source's clips below --videos of `build`; put before each `path`."""


def read(args: ReadArgs) -> int:
    """Write the annotation rows; returns the exit code."""
    source = SOURCES[args.source]
    files = [file for path in args.input for file in (sorted(path.rglob(source.pattern)) if path.is_dir() else [path])]
    if not files:
        raise ValueError(f"{', '.join(map(str, args.input))}: holds no file {source.pattern}")
    lines, bad = [], []
    for file in files:
        for number, raw in source.read(file):
            try:
                row = converted(source, raw, file)
                row["path"] = str(Path(args.prefix, row["path"]))
                name = f"{args.source}/{file.parent.name if file.name == 'groundtruth.txt' else file.stem}/{number}"
                lines.append(as_json({"id": name} | row | {"data_source": source.title}))
            except Refused as refusal:
                bad.append(BadRow(str(file), number, *refusal.args))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text("".join(lines), encoding="utf-8")
    refused = args.output.with_name(args.output.name + ".refused.txt")
    refused.write_text(_lines(bad), encoding="utf-8", errors="replace")
    print(f"{args.output}: {len(lines)} annotation rows; {len(bad)} refused, see {refused.name}")
    for line in report_bad_rows(bad):
        print(f"  {line}")
    if not lines:
        raise ValueError(f"no row of {source.title} could be used; reasons are in {refused}")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Review


@dataclass
class SheetArgs:
    """Write a sheet and filmstrips for a person who accepts or rejects each pair."""

    rows: Path
    """pairs.jsonl, or any file of paired rows."""
    data_root: Path
    """Folder that the rows' `path` is relative to."""
    output: Path
    """Folder to write: sheet.csv (fill the three checks with yes or no), index.html, strips/."""
    frames: int = 16
    """Frames in a filmstrip."""
    workers: int = 2
    """Clips decoded side by side."""
    deadline: float = 60.0
    """Seconds that decoding one clip may take."""


def _pairs(rows: Path, data_root: Path) -> tuple[dict[str, sheets.Pair], list[BadRow]]:
    questions, bad = load_questions(rows, data_root, null_option="off")
    if bad:  # half a pair would be judged as none
        raise ValueError(f"{len(bad)} rows cannot be used; mend the file or give the right --data-root: {bad[0]}")
    check_pairs(str(rows), questions)
    return sheets.pairs_of(questions), bad


def _measured(manifest: Path) -> dict[str, dict[str, str]]:
    """Pair id -> check -> what the builder measured; nothing where there is no manifest."""
    if not manifest.is_file():
        return {}
    found = {}
    for facts in (raw.value for raw in read_rows(manifest)):
        encoded = facts["encoded"]
        found[facts["pair_id"]] = {
            "static_content": f"b without its {facts['transform']} is a: {facts['psnr_undone']} dB in the worst frame",
            "temporal_minimality": f"both {encoded['frames']} frames, {encoded['rate']} fps, one encoder setting",
            "unambiguous_answer": f"a and b differ by {facts['psnr_sides']} dB (above 30: hardly)",
        }
    return found


def sheet(args: SheetArgs) -> int:
    """Write the sheet; returns the exit code."""
    if args.frames < 2 or args.workers < 1 or not args.deadline > 0:
        raise ValueError("--frames must be at least 2, --workers at least 1, --deadline above 0")
    pairs, _ = _pairs(args.rows, args.data_root)
    measured = _measured(args.rows.with_name("manifest.jsonl"))
    settings = ClipSettings(frames=args.frames, max_frame_pixels=256 * 256)
    with Clips(settings, workers=args.workers, deadline=args.deadline) as clips:
        unread = sheets.write_sheet(pairs, measured, args.output, clips)
    print(f"{args.output / 'sheet.csv'}: {len(pairs)} pairs to judge beside {args.output / 'index.html'}", end="")
    print(f"; {unread} clips could not be read, see the column note" if unread else "")
    return 0


@dataclass
class ApplyArgs:
    """Keep the pairs that a person accepted: all three checks yes."""

    rows: Path
    """The rows that the sheet was written for."""
    data_root: Path
    """Folder that the rows' `path` is relative to: a clip that has changed since is not accepted."""
    sheet: Path
    """sheet.csv, filled."""
    output: Path
    """Rows of the accepted pairs, each with `accepted` true, JSONL; the other pairs go to OUTPUT.rejected.txt."""
    keep_open: bool = False
    """Also keep pairs that nobody has judged, without the mark."""
    keep_rejected: bool = False
    """Also keep the rejected pairs, with `accepted` false: scoring leaves them out."""


def apply(args: ApplyArgs) -> int:
    """Write the rows that pass; returns the exit code."""
    if args.output.resolve() == args.rows.resolve():
        raise ValueError(f"--output {args.output} would overwrite what is read; choose another file")
    verdicts = sheets.read_sheet(args.sheet)
    pairs, _ = _pairs(args.rows, args.data_root)
    keys = {pair: sheets.pair_key(both, [file_sha256(q.path) for q in both]) for pair, both in pairs.items()}
    fates = {pair: sheets.fate(verdicts.get(key)) for pair, key in keys.items()}
    if set(fates.values()) == {"not in the sheet"}:
        raise ValueError(f"{args.sheet}: judges no pair of {args.rows}; give the rows and clips of the sheet")
    mark = {"accepted": {"accepted": True}, "rejected": {"accepted": False}}
    wanted = {"accepted"} | ({"rejected"} if args.keep_rejected else set())
    wanted |= {"open", "not in the sheet"} if args.keep_open else set()
    kept = [
        {name: value for name, value in raw.value.items() if name != "accepted"} | mark.get(fates[pair], {})
        for raw in read_rows(args.rows)
        if fates[pair := raw.value["pair_id"]] in wanted
    ]
    usable = sum(row.get("accepted", True) for row in kept) // 2
    lines = [
        " ".join([f"{pair}: {fate}", *(name for name, yes in verdicts.get(keys[pair], {}).items() if yes is False)])
        for pair, fate in fates.items()
        if fate != "accepted"
    ]
    args.output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    args.output.with_name(args.output.name + ".rejected.txt").write_text("".join(f"{line}\n" for line in lines))
    print(f"{args.output}: {usable} of {len(pairs)} pairs")
    failed = sheets.failed_checks([verdicts[key] for key in keys.values() if key in verdicts])
    for name, n in [*Counter(fates.values()).items(), *((f"fail {check}", n) for check, n in failed.items())]:
        print(f"  {n} {name}")
    if not usable:
        raise ValueError(f"{args.sheet}: no pair is accepted; a pair needs yes in {', '.join(sheets.CHECKS)}")
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Statistics


@dataclass
class StatsArgs:
    """Counts, lengths and chance of a file of pairs, as in the paper's Fig. 3 and Table 3."""

    rows: Path
    """pairs.jsonl, or accepted.jsonl; rejected pairs in it are left out."""
    output: Path | None = None
    """Also write them as JSON."""
    picture: Path | None = None
    """Also draw them (PNG)."""


def stats(args: StatsArgs) -> int:
    """Print the tables; returns the exit code."""
    # No clip is opened: the root is only a name under which `path` must stay.
    questions, bad = load_questions(args.rows, "/rows", null_option="off", check_files=False)
    if bad:
        raise ValueError(f"{len(bad)} rows cannot be used: {bad[0]}")
    check_pairs(str(args.rows), questions)
    left_out = rejected(args.rows)
    both = zip(read_rows(args.rows), questions, strict=True)
    used = [(raw.value, question) for raw, question in both if raw.number not in left_out]
    if not used:
        raise ValueError(f"{args.rows}: every pair is marked as rejected")
    found = statistics_of(*zip(*used, strict=True))
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.picture:
        draw(found, args.picture)
    rows = [{"": name} | facts for name, facts in found["subtasks"].items()]
    print(table(rows, list(dict.fromkeys(column for row in rows for column in row))))
    for name in ("data_source", "subject"):
        total = sum(found[name].values())
        rows = [{name: key, "pairs": n, "%": 100 * n / total} for key, n in found[name].items()]
        print("\n" + table(rows, (name, "pairs", "%")))
    everything = found["subtasks"]["overall"]
    print("\nTable 3: #videos / #QAs, length, domain, adversarial")
    length = "short" if everything.get("below_30_s", 0) > 50 else "-"
    print(f"{everything['videos']:,} / {everything['questions']:,}, {length}, dynamic, yes")
    return 0


ACTIONS: actions.Actions = {
    "build": (BuildArgs, build),
    "read": (ReadArgs, read),
    "sheet": (SheetArgs, sheet),
    "apply": (ApplyArgs, apply),
    "stats": (StatsArgs, stats),
}


def main(argv: list[str] | None = None) -> int:
    """0 done, 2 a mistake in one line."""
    return actions.run(ACTIONS, argv, "eval.dybench")


if __name__ == "__main__":
    sys.exit(main())
