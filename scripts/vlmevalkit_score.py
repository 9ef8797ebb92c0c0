"""Score a prediction file of `python -m eval.interop` with VLMEvalKit, in its own environment; nothing is downloaded.

    python scripts/vlmevalkit_score.py MVBench_MP4 crpo_MVBench_MP4.xlsx

Exact matching, no judge (TempCompass_Captioning needs one: use VLMEvalKit's run.py --mode eval). The toolkit takes an
earlier score file beside the predictions for this one's: such files are an error here. Its rating is printed.
"""

from __future__ import annotations

import sys
from pathlib import Path

CLASSES = {
    "Video-MME": "VideoMME",
    "MVBench": "MVBench",
    "MVBench_MP4": "MVBench_MP4",
    "TempCompass_MCQ": "TempCompass_MCQ",
    "TempCompass_YorN": "TempCompass_YorN",
}


def main(arguments: list[str]) -> int:
    if len(arguments) != 2 or arguments[0] not in CLASSES:
        print(f"usage: vlmevalkit_score.py {'|'.join(CLASSES)} FILE", file=sys.stderr)
        return 2
    file = Path(arguments[1])
    stale = sorted(str(other) for other in file.parent.glob(f"{file.stem}_*") if other != file)
    if not file.is_file() or stale:
        reason = f"remove its earlier scores first: {', '.join(stale)}" if stale else "no such file"
        print(f"error: {file}: {reason}", file=sys.stderr)
        return 2
    import vlmeval.dataset  # not a dependency of this project

    print(getattr(vlmeval.dataset, CLASSES[arguments[0]]).evaluate(str(file), model="exact_matching"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
