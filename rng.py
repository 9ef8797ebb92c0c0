"""The random states of this process, taken and put back: python, numpy, torch, and torch on each GPU.

Level 0: imports no file of ours. No draw of a run depends on them (each is seeded by what it is for); they are kept so
that a library which does draw from them goes on where it was.
"""

from __future__ import annotations

import random

import numpy as np
import torch


def take() -> dict:
    """Of containers, numbers and tensors alone: `torch.load(..., weights_only=True)` reads it back."""
    _, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def put_back(state: dict) -> None:
    """What `take` returned. States of GPUs that this process does not see are left out."""
    keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available():
        for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(cuda, device)
