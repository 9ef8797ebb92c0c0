"""docs/reliability.md out of what the fault tests and soak.py have written.

make test-faults                                       # lines of runs/faults.jsonl
python tests/faults/table.py runs/faults.jsonl > docs/reliability.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HEAD = """\
# What breaks, and what a run does about it

Written by `python tests/faults/table.py`, from what `make test-faults` and `tests/faults/soak.py` saw. "Equal to the
bit": every metric of every round equals that of a run that nothing disturbed, times and memory left out. The runs are
of the toy model with the transformers engine where no other is named, on CPUs, with a checkpoint each round; what a
kill costs is then the round under way. With `--save-every N` it is up to N rounds, which are done again alike.

| fault | what happened | lost |
|---|---|---|
"""


def table(lines: list[dict]) -> str:
    """The page; of lines about one fault the last one counts."""
    faults = {line["fault"]: line for line in lines if "fault" in line}
    page = HEAD + "".join(f"| {line['fault']} | {line['seen']} | {line['lost']} |\n" for line in faults.values())
    for line in lines:
        if "soak" in line:
            page += (
                f"\n## {line['soak']}\n\n{line['words']}\n\n| process | memory, MiB | slope, MiB per 1,000 rounds |\n"
            )
            page += "|---|---|---|\n"
            page += "".join(f"| {row['process']} | {row['mib']} | {row['slope']:+.1f} |\n" for row in line["processes"])
    return page


if __name__ == "__main__":
    rows = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    print(table(rows), end="")
