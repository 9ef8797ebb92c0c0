"""Shared by all tests: path to the modules, markers, the tiny model's folder, the folder beside the checkout.

`pytest` runs everything; `pytest -m "not slow and not gpu"` the part to run after each edit.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
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


def launch(*argv: object, ranks: int = 2, expect: int = 0, timeout_s: float = 500) -> subprocess.CompletedProcess:
    """A script of the project (or -m and a module) over `ranks` processes, in the environment that torchrun gives them;
    fails where its exit code differs. test_every_row.py goes through torchrun itself."""
    import torch

    if torch.cuda.is_available():
        if torch.cuda.device_count() < ranks:
            pytest.skip(f"{ranks} ranks need {ranks} GPUs")
    zygote = _zygote()
    with tempfile.NamedTemporaryFile() as log:
        print(
            json.dumps({"argv": list(map(str, argv)), "ranks": ranks, "log": log.name}), file=zygote.stdin, flush=True
        )
        ready, _, _ = select.select([zygote.stdout], [], [], timeout_s)
        if not ready:
            _end(zygote)
        output = Path(log.name).read_text(errors="replace")
        assert ready, f"no end after {timeout_s:.0f} s\n{output[-6000:]}"
        codes = json.loads(zygote.stdout.readline().removeprefix("@@"))
    code = next((code for code in codes if code), 0)
    assert code == expect, f"exit codes {codes}\n{output[-6000:]}"
    return subprocess.CompletedProcess(list(argv), code, stdout=output, stderr=output)


@functools.cache
def _zygote() -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "zygote.py")]
    zygote = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    atexit.register(_end, zygote)
    return zygote


def _end(zygote: subprocess.Popen) -> None:
    """With every rank it has forked."""
    _zygote.cache_clear()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(zygote.pid, signal.SIGKILL)
    zygote.wait()


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
