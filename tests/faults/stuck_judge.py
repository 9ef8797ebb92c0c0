"""A child of math_judge.py that gets ready and then never answers."""

import sys

print("ready", flush=True)
for _ in sys.stdin.buffer:
    while True:
        pass
