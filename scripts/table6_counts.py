"""Our rows beside the paper's Tables 6 and 8.

    python scripts/table6_counts.py video_r1.jsonl tvbench.jsonl sti_bench.jsonl mmr_v.jsonl dapo_math.jsonl

Counts usable rows: of files from data.sources, after the router (Table 8's types) and the filter (the paper's numbers
are after both), or of Video-R1's own file.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from data.corpora import CORPORA  # noqa: E402
from data.dataset import load_questions, report_bad_rows  # noqa: E402
from episode import Question  # noqa: E402
from pictures import table  # noqa: E402

TABLE_6 = {"text": 6_400, "image": 27_500, "video": 21_200}
"""Table 6: "approx. size" of each modality, in samples."""
TYPES = ("Temporal", "Spatial", "Spatiotemporal", "Static")
TABLE_8 = {
    "Video-R1": (14_359, 173, 310, 2_936),
    "TVBench": (979, 2, 238, 161),
    "STI-Bench": (81, 313, 319, 817),
    "MMR-VBench": (163, 3, 1, 310),
    "Total": (15_582, 491, 868, 4_224),
}
"""Table 8: video samples of each source and task type, in the order of TYPES; 21,165 in all."""
_NAMES = {corpus.title.casefold(): corpus.title for corpus in CORPORA.values()}
# Folders of Video-R1's release, which are the `data_source` of its own file.
_VIDEO_R1 = ("llava-video-178k", "next-qa", "perceptiontest", "clevrer", "star")
_VIDEO_R1 += ("chart", "general", "knowledge", "math", "ocr", "spatial")


@dataclass
class Args:
    """Count rows per modality, source and task type, beside the paper's Tables 6 and 8."""

    files: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Files of rows."""


def source_of(question: Question) -> str:
    """The paper's name of a question's corpus; its own `data_source` where it is none of the seven."""
    name = question.data_source
    first = name.casefold().removeprefix("./").split("/")[0]
    return _NAMES.get(first) or ("Video-R1" if first in _VIDEO_R1 else name or "(no data_source)")


def _line(name: dict, ours: int, paper: int | None) -> dict:
    return name | {"ours": ours, "paper": paper, "difference": None if paper is None else ours - paper}


def table_6(questions: list[Question]) -> str:
    """Each modality beside Table 6, its sources below it."""
    counts = Counter((question.data_type, source_of(question)) for question in questions)
    lines = []
    for modality, size in TABLE_6.items():
        sources = {source: n for (kind, source), n in sorted(counts.items()) if kind == modality}
        lines.append(_line({"modality": modality, "source": "all"}, sum(sources.values()), size))
        for source, n in sources.items():
            paper = sum(TABLE_8[source]) if modality == "video" and source in TABLE_8 else None
            lines.append(_line({"modality": "", "source": source}, n, paper))
    return table(lines, ["modality", "source", "ours", "paper", "difference"])


def table_8(questions: list[Question]) -> str:
    """Each source x task type of the video questions beside Table 8; unlabelled ones and other sources at the end."""
    videos = [question for question in questions if question.data_type == "video"]
    counts = Counter((source_of(question), question.task_type or "no label") for question in videos)
    counts.update(("Total", question.task_type or "no label") for question in videos)
    others = sorted({source for source, _ in counts} - set(TABLE_8))
    lines = []
    for source in (*[name for name in TABLE_8 if name != "Total"], *others, "Total"):
        for i, kind in enumerate((*TYPES, "no label", "all")):
            ours = counts[source, kind] if kind != "all" else sum(n for (s, _), n in counts.items() if s == source)
            numbers = TABLE_8.get(source)
            paper = None if numbers is None or kind == "no label" else sum(numbers) if kind == "all" else numbers[i]
            if ours or paper is not None:
                lines.append(_line({"source": source, "task type": kind}, ours, paper))
    return table(lines, ["source", "task type", "ours", "paper", "difference"])


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv)
    questions, bad = [], []
    try:
        if not args.files:
            raise ValueError("give at least one file of rows")
        for file in args.files:
            usable, unusable = load_questions(file, file, check_files=False)  # clips are not looked at
            questions, bad = questions + usable, bad + unusable
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"Table 6 (paper: approximate sizes, video sources from Table 8)\n{table_6(questions)}\n")
    print(f"Table 8 (video, by task type)\n{table_8(questions)}")
    if bad:
        print("\nNot counted, because unusable:", *report_bad_rows(bad), sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
