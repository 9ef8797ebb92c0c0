"""Shared by all tests: path to the modules, markers, the tiny model's folder, the folder beside the checkout.

`pytest` runs everything; `pytest -m "not slow and not gpu"` the part to run after each edit.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av  # noqa: F401 -- before vLLM loads a second libvpx: whichever comes second cannot encode
import pytest

ROOT = Path(__file__).resolve().parent.parent
for folder in (ROOT, ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: more than 3 seconds (several processes, an engine, training)")
    config.addinivalue_line("markers", "gpu: needs an NVIDIA GPU")


def pytest_collection_modifyitems(items):
    if any(item.get_closest_marker("gpu") for item in items):
        import torch  # only here: collecting the pure tests stays quick

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    """A real Qwen3-VL with a tiny configuration and random weights, as a checkpoint folder."""
    from toy.model import build_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_model(folder)
    return str(folder)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Sample clips that lie beside the checkout; tests that want them skip where they do not."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("no ../shared folder")
    return folder


def launch(
    script: str, *flags: object, ranks: int = 2, expect: int = 0, timeout_s: float = 500
) -> subprocess.CompletedProcess:
    """A script of the project over `ranks` processes, as a user starts it; fails where its exit code differs."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() < ranks:
        pytest.skip(f"{ranks} ranks need {ranks} GPUs")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    command = [*(torchrun if ranks > 1 else [sys.executable]), script, *map(str, flags)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == expect, done.stdout[-2000:] + done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def one_rank():
    """This process as a group of one, for code that asks who it is."""
    import torch.distributed as dist

    if dist.is_initialized():
        yield
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        yield
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def one_thread():
    """Matrices of the tiny model are too small to share: two threads on busy cores mostly wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
