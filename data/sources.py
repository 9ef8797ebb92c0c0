"""`python -m data.sources NAME --input FILE_OR_FOLDER --output rows.jsonl`: a public corpus -> training rows.

    python -m data.sources tvbench --input TVBench/json --prefix TVBench/video --media-root data --output tvbench.jsonl

The paper's seven corpora (`data/corpora.py`) and those of its neighbours (`data/neighbours.py`), as .json, .jsonl or
.parquet. Every input row becomes an output row, or a line of OUTPUT.refused.txt with file, row, field and reason; the
output passes `data.dataset.load_questions` as it is. Rows of several corpora may be put into one file: ids begin with
the corpus' name, `path` with --prefix.

Nothing in the files is executed or unpickled, and nothing is fetched without --download. Video-R1's own file needs no
conversion to be trained on; this keeps the donor recipe's part of it. Exit code 0, or 2 with one line.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from data.corpora import CORPORA, Corpus, Refused, inside
from data.dataset import BadRow, load_questions, report_bad_rows
from data.neighbours import NEIGHBOURS
from data.parquet import read_parquet
from data.paths import Outside, confined
from data.rows import RawRow

SOURCES = CORPORA | NEIGHBOURS


@dataclass
class Args:
    """Convert a public corpus into training rows (JSONL, Video-R1's row format)."""

    name: Annotated[Literal[tuple(SOURCES)], tyro.conf.Positional]
    """The corpus."""
    input: tuple[Path, ...]
    """Annotation files, or folders of them (.json, .jsonl, .parquet)."""
    output: Path
    """The rows; refused rows go to OUTPUT.refused.txt."""
    media_root: Path | None = None
    """The data root of training. With it, rows whose file is not there are refused; images that the annotations hold
    are written below it."""
    prefix: str = ""
    """Folder of this corpus' files below the data root; put before each `path`."""
    keep: Path | None = None
    """Keep these rows only: a text file of ids, one a line, or a JSON list of ids or of rows."""
    row_ids: bool = False
    """Name rows by their place (NAME/ROW) even where the release has ids."""
    images: bool = False
    """Video-R1: keep its image rows too (the paper's images are others)."""
    score_first_box: bool = True
    """GOT-10k: score the first box, as published, although the prompt holds it."""
    download: bool = False
    """First fetch the annotation files from Hugging Face into the folder --input (videos are yours to fetch)."""
    limit: int = 20
    """Refused rows to print; all of them are counted and written."""


# ---------------------------------------------------------------------------------------------------------------------
# Inputs


def input_files(paths: tuple[Path, ...]) -> list[Path]:
    """The files among `paths` and in its folders, in order of their names; hidden ones left out."""
    found = []
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder; --download fetches the annotations into a folder")
        candidates = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [
            file
            for file in candidates
            if file.suffix in (".json", ".jsonl", ".parquet")
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
        ]
    if not found:
        raise ValueError(f"{', '.join(map(str, paths))}: holds no .json, .jsonl or .parquet file")
    return found


def keep_list(path: Path, corpus: Corpus) -> set[str]:
    """The ids of a --keep file: one a line, or a JSON list of ids or of the corpus' rows."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        items = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is neither text, an id a line, nor a JSON list: {error}") from error
    ids = {corpus.id_of(item) if isinstance(item, dict) else str(item).strip() for item in items} - {""}
    if None in ids:
        raise ValueError(f"{path}: holds a row without {'.'.join(corpus.own_id) or 'an id; give ids, as NAME/ROW'}")
    return ids


# ---------------------------------------------------------------------------------------------------------------------
# Images that the annotations hold

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"BM": ".bmp", b"RIFF": ".webp"}


def write_image(data: bytes, root: Path, folder: str) -> str:
    """Put an image below root/folder; its path relative to root. The name is a hash of the bytes, so one image is one
    file, and no other is overwritten. Refused for what is no image, and where a link leads out of the root.
    """
    ending = next((end for signature, end in _SIGNATURES.items() if data.startswith(signature)), None)
    if ending is None:
        raise Refused("image", "is no PNG, JPEG, GIF, BMP or WebP", f"begins {data[:8]!r}")
    relative = f"{folder}/{hashlib.sha256(data).hexdigest()[:32]}{ending}"
    try:
        target = confined(root, relative)
    except Outside as error:
        raise Refused("image", str(error), relative) from error
    if os.path.exists(target):
        if Path(target).read_bytes() != data:
            raise Refused("image", "another file of this name is there", relative)
        return relative
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=os.path.dirname(target), suffix=".part", delete=False) as part:
        part.write(data)
    os.chmod(part.name, 0o644)
    os.replace(part.name, target)
    return relative


# ---------------------------------------------------------------------------------------------------------------------
# Converting


class _Converter:
    """One run's settings, and the ids seen so far."""

    def __init__(self, args: Args, several_files: bool):
        self.args, self.corpus = args, SOURCES[args.name]
        self.by_file = several_files or args.name == "tvbench"  # whose tasks are files
        self.keep = None if args.keep is None else keep_list(args.keep, self.corpus)
        self.kept: set[str] = set()
        self._seen: dict[str, tuple[str, int]] = {}

    def line(self, raw: RawRow, file: Path) -> bytes:
        """The output line of one input row. Raises Refused."""
        row, number = raw.value, raw.number
        if raw.fault:
            raise Refused("row", raw.fault)
        if not isinstance(row, dict):
            raise Refused("row", "must be an object", f"got {type(row).__name__}")
        own = None if self.args.row_ids else self.corpus.id_of(row)
        place = f"{file.stem}/{number}" if self.by_file else str(number)
        name = f"{self.args.name}/{place if own is None else own}"
        if self.keep is not None:
            if not (found := self.keep & {name, own}):
                raise Refused("id", "is not in the --keep list", repr(name))
            self.kept |= found
        ours = self.corpus.convert(row, file.stem)
        if ours.get("data_type") == "image" and self.args.name == "video_r1" and not self.args.images:
            raise Refused("data_type", "image rows are left out; --images keeps them")
        if ours["problem_type"] == "tracking" and not self.args.score_first_box:
            ours["solution"]["given"] = 1
        self._once(name, ours, f"{file.name}:{number}")
        if isinstance(ours.get("path"), bytes):
            if self.args.media_root is None:
                raise ValueError(f"{file}: the rows hold their images; --media-root says where to write them")
            ours["path"] = write_image(ours["path"], self.args.media_root, inside(self.args.prefix, self.args.name))
        elif isinstance(ours.get("path"), str):
            ours["path"] = inside(self.args.prefix, ours["path"])
        ours = {"problem_id": name} | ours | {"data_source": self.corpus.title}
        try:
            return json.dumps(ours, ensure_ascii=False).encode() + b"\n"
        except UnicodeEncodeError as error:
            raise Refused("row", "holds half a character (a lone surrogate)") from error
        except TypeError as error:
            raise Refused("row", "holds a value that JSON has no word for", error) from error

    def _once(self, name: str, ours: dict, place: str) -> None:
        media = ours.get("path")
        content = hash((repr(ours | {"path": ""}), media if isinstance(media, str | bytes) else repr(media)))
        first, same = self._seen.setdefault(name, (place, content))
        if first == place:
            return
        if same == content:
            raise Refused("id", "repeats an earlier row", f"{name!r}, first {first}")
        raise Refused("id", "is that of an earlier, different row; --row-ids keeps both", f"{name!r}, first {first}")


def convert(args: Args) -> tuple[int, list[BadRow], set[str]]:
    """Write the output; (rows written, refused rows in input order, ids of --keep that no row has).

    Raises ValueError, one line, for a mistake of the user. The output appears complete or not at all.
    """
    files = input_files(args.input)
    if any(args.output.resolve() == file.resolve() for file in files):
        raise ValueError(f"{args.output}: is an input file; give --output another name")
    if os.path.isabs(args.prefix) or ".." in Path(args.prefix).parts:
        raise ValueError(f"--prefix must be a folder below the data root, got {args.prefix!r}")
    if args.media_root is not None and not args.media_root.is_dir():
        raise ValueError(f"{args.media_root}: --media-root must be a folder that is there")
    if len({file.stem for file in files}) < len(files):
        raise ValueError("two input files have one name, and ids are made of it; convert them one by one")
    converter = _Converter(args, len(files) > 1)
    bad, origins = [], []
    part = args.output.with_name(args.output.name + ".part")
    try:
        with part.open("wb") as lines:
            for file in files:
                for raw in read_parquet(file) if file.suffix == ".parquet" else converter.corpus.rows(file):
                    try:
                        lines.write(converter.line(raw, file))
                        origins.append((file, raw.number))
                    except Refused as refusal:
                        bad.append(BadRow(str(file), raw.number, *refusal.args))
        rejected = _rejected(part, args.media_root) if origins else {}
        bad += [
            BadRow(str(origins[line - 1][0]), origins[line - 1][1], row.field, row.reason, row.detail)
            for line, row in rejected.items()
        ]
        order = {str(file): i for i, file in enumerate(files)}
        bad.sort(key=lambda row: (order[row.file], row.row))
        _write_refused(args.output.with_name(args.output.name + ".refused.txt"), bad)
        if written := len(origins) - len(rejected):
            _drop_lines(part, set(rejected))
            os.replace(part, args.output)
    finally:
        part.unlink(missing_ok=True)
    return written, bad, (converter.keep or set()) - converter.kept


def _rejected(rows: Path, media_root: Path | None) -> dict[int, BadRow]:
    """Line -> what training's own loader says against it."""
    # Without a media root, paths are read below a name that holds no links of this machine.
    root, check = (rows, False) if media_root is None else (media_root, True)
    return {row.row: row for row in load_questions(rows, root, check_files=check)[1]}


def _drop_lines(path: Path, lines: set[int]) -> None:
    if not lines:
        return
    kept = path.with_name(path.name + ".kept")
    with path.open("rb") as source, kept.open("wb") as target:
        target.writelines(line for number, line in enumerate(source, start=1) if number not in lines)
    os.replace(kept, path)


def _write_refused(path: Path, bad: list[BadRow]) -> None:
    path.unlink(missing_ok=True)
    if bad:
        with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(" ".join(str(row).splitlines()) + "\n" for row in bad)


def download(corpus: Corpus, folder: Path) -> None:
    """Fetch the annotation files of a corpus from Hugging Face into a folder. ValueError without a network."""
    if not corpus.annotations:
        raise ValueError(
            f"{corpus.title} is not on Hugging Face; get its annotation files from {corpus.repo} on GitHub"
        )
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        snapshot_download(corpus.repo, repo_type="dataset", allow_patterns=corpus.annotations, local_dir=folder)
    except (OSError, HfHubHTTPError, httpx.HTTPError) as error:
        raise ValueError(
            f"cannot fetch {corpus.annotations} of https://huggingface.co/datasets/{corpus.repo} "
            f"({str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__}); "
            "fetch it on a machine with a network and give it as --input"
        ) from error


def main(argv: list[str] | None = None) -> int:
    args = tyro.cli(Args, args=argv)
    try:
        if args.download:
            if len(args.input) != 1 or args.input[0].is_file():
                raise ValueError("--download needs one folder as --input")
            download(SOURCES[args.name], args.input[0])
        written, bad, missing = convert(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.name}: {written} of {written + len(bad)} rows -> {args.output}")
    for line in report_bad_rows(bad, args.limit):
        print(f"  {line}")
    if missing:
        print(f"  {len(missing)} ids of {args.keep} are of no row, such as {min(missing)!r}")
    if not written:
        reasons = f"reasons are in {args.output}.refused.txt" if bad else "the input holds none"
        print(f"error: no row was converted; {reasons}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
