"""`python -m eval.interop --dataset NAME --questions FILES --predictions FILES --output FILE`: for other scorers.

    python -m eval.interop --dataset Video-MME --questions videomme/ --predictions RUN/videomme/predictions.jsonl \
        --output crpo_Video-MME.xlsx
    python scripts/vlmevalkit_score.py Video-MME crpo_Video-MME.xlsx      # in VLMEvalKit's own environment

Writes VLMEvalKit's prediction file (.xlsx, .tsv or .json: the columns of its TSV and `prediction`), or TimeBlind's
predictions.json. TempCompass_MCQ takes two files each, multi-choice and caption matching, TempCompass all four in the
order of PARTS.

`prediction` is the bare letter (a caption's own label: A, 2), or yes | no, that our reader finds in the reply: the
toolkit's own readers take the first capital letter of a thought, or refuse a box. What cannot be read becomes "Z",
which its rules count as wrong everywhere; an empty cell or a failure message would be right in MVBench. Captions are
left as the model wrote them, without thoughts: there a judge reads. Exit code 0, or 2 with one line.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from eval.benchmarks import load, read_answer
from eval.layouts import MVBENCH_BOUNDED, MVBENCH_FOLDERS, Item
from eval.replies import answer_text
from eval.score import read_predictions
from verifiers import last_box, split_option

UNREADABLE = "Z"
PARTS = {
    "Video-MME": ("videomme",),
    "MVBench": ("mvbench",),
    "MVBench_MP4": ("mvbench",),
    "TempCompass_MCQ": ("tempcompass_multi_choice", "tempcompass_caption_matching"),
    "TempCompass_Captioning": ("tempcompass_captioning",),
    "TempCompass_YorN": ("tempcompass_yes_no",),
    "TempCompass": (
        "tempcompass_multi_choice", "tempcompass_caption_matching", "tempcompass_captioning", "tempcompass_yes_no",
    ),
    "TimeBlind": ("timeblind",),
}  # fmt: skip
"""Other tool's name -> our benchmarks in it, in its order of rows."""
_CONCATENATED = {
    "tempcompass_multi_choice": "TempCompass_MCQ",
    "tempcompass_caption_matching": "TempCompass_MCQ",
    "tempcompass_captioning": "TempCompass_Captioning",
    "tempcompass_yes_no": "TempCompass_YorN",
}


@dataclass
class InteropArgs:
    """Write the prediction file of another scorer."""

    dataset: Literal[tuple(PARTS)]
    """VLMEvalKit's name of the benchmark, or TimeBlind."""
    questions: tuple[Path, ...]
    """Its questions, as for eval.score; TempCompass: one file (or folder) for each of its formats."""
    predictions: tuple[Path, ...]
    """Answers to each, as for eval.score: JSONL with id and prediction, or eval.run's."""
    output: Path
    """.xlsx (needs openpyxl), .tsv or .json; its name should be MODEL_DATASET."""


def bare(name: str, item: Item, reply: str | None) -> str:
    """What stands in `prediction`: a letter or label, yes | no, a caption; "Z" for what cannot be read."""
    if name == "tempcompass_captioning":
        text = answer_text(reply or "") or ""
        return (last_box(text) or text).strip() or UNREADABLE
    answer = None if reply is None else read_answer(name, item, reply)
    if answer is not None and item.layout.get("label") == "Option":
        return str("ABCDEFGHI".index(answer) + 1)
    return answer or UNREADABLE


def columns(name: str, item: Item) -> dict[str, Any]:
    """The columns of VLMEvalKit's TSV for one question, `index` and `prediction` left out. Lists as Python writes them:
    the toolkit evaluates them back.
    """
    question, facts, layout = item.question, item.facts, item.layout
    texts = [split_option(option)[1] for option in question.options]
    if name == "videomme":
        video = layout["video"]
        return {
            "video": video, "video_path": f"./video/{video}.mp4", "duration": facts["duration"],
            "domain": facts["domain"], "candidates": str(list(question.options)),
            "sub_category": facts["sub_category"], "task_type": facts["task_type"],
            "subtitle_path": f"./subtitle/{video}.srt", "question": question.problem, "answer": question.gold,
        }  # fmt: skip
    if name == "mvbench":
        task = facts["task"]
        title = task.replace("_", " ").title().replace("Fine Grained", "Fine-grained")
        row = {"task_type": title, "prefix": layout["folder"] or f"video/{MVBENCH_FOLDERS[task]}/"}
        if not layout["folder"]:  # the json/ release, not the one of ready cut clips
            frames = task == "episodic_reasoning"
            row |= {"data_type": "frame" if frames else "video", "bound": frames or task in MVBENCH_BOUNDED}
            row |= {"start": question.start, "end": question.end}
        answer = texts["ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(question.gold)]
        row |= {"video": layout["video"], "question": question.problem, "answer": answer}
        return row | {"candidates": str(texts)}
    stem, *lines = layout["question"].split("\n")
    row = {"task_type": name.removeprefix("tempcompass_").replace("multi_choice", "multi-choice")}
    row |= {"prefix": "./videos", "suffix": ".mp4", "video": layout["video"], "question": stem}
    row |= {"answer": layout["answer"], "dim": facts["dim"]}
    if name == "tempcompass_captioning":
        kept = {"mc_question": layout.get("mc_question", ""), "mc_answer": layout.get("mc_answer", "")}
        return row | kept | {"question": layout["question"]}
    return row | ({"candidates": str(lines)} if lines else {})


def vlmevalkit_rows(
    dataset: str, parts: Sequence[tuple[str, Sequence[Item], dict[str, str | None]]]
) -> list[dict[str, Any]]:
    """Rows of a prediction file, `index` from 0; `parts`: (our benchmark, its items, replies by id) in PARTS' order."""
    rows: list[dict[str, Any]] = []
    counts: dict[str, int] = {}
    for name, items, replies in parts:
        for item in items:
            row = {"index": len(rows), **columns(name, item), "prediction": bare(name, item, replies.get(item.id))}
            if dataset == "TempCompass":
                home = _CONCATENATED[name]
                row |= {"SUB_DATASET": home, "original_index": counts.get(home, 0)}
                counts[home] = counts.get(home, 0) + 1
            rows.append(row)
    return rows


def timeblind_rows(items: Sequence[Item], replies: dict[str, str | None]) -> list[dict[str, Any]]:
    """TimeBlind's predictions.json, read by place in blocks of four. ValueError, one line, where a row is missing."""
    places = [int(item.id) for item in items]
    if places != list(range(len(items))) or len(items) % 4:
        raise ValueError(
            "TimeBlind's scorer goes by place: give all rows of data.jsonl, 0, 1, 2, ..., in blocks of four"
        )
    return [
        {"index": int(item.id), "video_path": item.layout["video"], "question": item.prompt}
        | {"model_output": bare("timeblind", item, replies.get(item.id)).capitalize().replace(UNREADABLE, "")}
        for item in items
    ]


def write(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As the ending of `file` says. Raises ValueError, one line, for another, or where openpyxl is missing."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(list(rows), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    elif file.suffix == ".tsv":
        text = io.StringIO()
        writer = csv.DictWriter(text, names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        file.write_text(text.getvalue(), encoding="utf-8")
    elif file.suffix == ".xlsx":
        try:
            from openpyxl import Workbook
        except ImportError as error:
            raise ValueError(f"{file}: .xlsx needs the package openpyxl (pip install openpyxl); or .tsv") from error
        book = Workbook(write_only=True)
        sheet = book.create_sheet()
        sheet.append(names)
        for row in rows:
            cells = [row.get(name) for name in names]
            # Control characters have no place in XML; text with "=" in front would become a formula.
            sheet.append([_cell(sheet, cell) for cell in cells])
        book.save(file)
    else:
        raise ValueError(f"{file}: must end in .xlsx, .tsv or .json")


def _cell(sheet: Any, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    from openpyxl.cell import WriteOnlyCell

    cell = WriteOnlyCell(sheet, "".join(c for c in value if c >= " " or c in "\t\n"))
    cell.data_type = "s"
    return cell


def convert(args: InteropArgs) -> int:
    """Write the file; returns its number of rows. Raises ValueError or OSError, one line each."""
    names = PARTS[args.dataset]
    if not len(names) == len(args.questions) == len(args.predictions):
        raise ValueError(
            f"{args.dataset} is {', '.join(names)}: give as many --questions and --predictions, in this order; "
            f"got {len(args.questions)} and {len(args.predictions)}"
        )
    parts = []
    for name, questions, predictions in zip(names, args.questions, args.predictions, strict=True):
        items, bad = load(name, questions)
        if bad:
            raise ValueError(f"{len(bad)} questions are unusable, the first: {bad[0]}")
        parts.append((name, items, read_predictions(predictions, items)))
    if args.dataset == "TimeBlind":
        rows = timeblind_rows(*parts[0][1:])
    else:
        rows = vlmevalkit_rows(args.dataset, parts)
    write(args.output, rows)
    return len(rows)


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(InteropArgs, args=argv)
    try:
        print(f"{args.output}: {convert(args)} rows")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
