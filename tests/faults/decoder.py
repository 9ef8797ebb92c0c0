"""A decoding worker (data/clips.py) with a decoder that hangs on some clips and crashes at others.

python decoder.py hang=NAME,crash=NAME '[PARENT, CACHE]'
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from data import clips
from data.cache import FrameCache

acts = dict(reversed(part.split("=")) for part in sys.argv[1].split(","))
plain = clips.sample_clip


def sample_clip(path: str, **options):
    act = acts.get(os.path.basename(path))
    while act == "hang":
        pass
    if act == "crash":
        os.abort()
    return plain(path, **options)


clips.sample_clip = sample_clip
parent, cache = json.loads(sys.argv[2])
clips._serve(parent, FrameCache(*cache) if cache else None)
