"""No file may act: weights and checkpoints are data, names stay in their folder, secrets stay secret (SECURITY.md).

pytest tests/test_security.py
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.api import CheckpointException

from chat_client import ChatClient
from checkpoint import _Reader
from data.paths import Outside, confined
from eval.settings import BenchmarkArgs, check_benchmarks
from model import resolve_checkpoint

# -- what no file of the project calls ---------------------------------------------------------------------------------

BANNED = (
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "torch.hub.load",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.load", "marshal.loads", "shelve.open", "dill.load",
    "dill.loads", "joblib.load", "yaml.load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle",
    "ssl._create_unverified_context", "tarfile.open", "shutil.unpack_archive",
)  # fmt: skip
REQUIRED = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "numpy.load": {"allow_pickle": False},
    "LLM": {"trust_remote_code": False, "load_format": "safetensors"},
    "AutoProcessor.from_pretrained": {"trust_remote_code": False},
    "AutoTokenizer.from_pretrained": {"trust_remote_code": False},
    "AutoConfig.from_pretrained": {"trust_remote_code": False},
    "Qwen3VLForConditionalGeneration.from_pretrained": {"use_safetensors": True},
}
FORBIDDEN_VALUES = {"shell": True, "trust_remote_code": True, "verify": False, "allow_pickle": True}
ALLOWED = {
    ("parallel.py", "pickle.loads"),  # clips between the ranks of one job, as torch's own gather of objects does
}


def faults_of(source: str) -> list[str]:
    """What a module calls that it may not, as "call: why"."""
    found = []
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        if name in BANNED:
            found.append(f"{name}: banned")
        for word, value in REQUIRED.get(name, {}).items():
            if given.get(word) != value:
                found.append(f"{name}: needs {word}={value}")
        for word, value in FORBIDDEN_VALUES.items():
            if given.get(word) is value:
                found.append(f"{name}: {word}={value}")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "pickle.load(file)", "torch.load(path)", "torch.load(path, weights_only=False)", "np.load(path)",
        "subprocess.run(line, shell=True)", "os.system(line)", "LLM(model=folder)", "yaml.load(file)",
        "AutoProcessor.from_pretrained(folder)", "Anything.from_pretrained(folder, trust_remote_code=True)",
        "Qwen3VLForConditionalGeneration.from_pretrained(folder)", "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_search_finds_each_banned_call(line):
    assert faults_of(line)


def test_no_file_of_the_project_makes_a_banned_call():
    paths = [p for p in ROOT.rglob("*.py") if p.relative_to(ROOT).parts[0] not in ("tests", ".venv", "runs")]
    assert len(paths) > 60
    found = {(path.relative_to(ROOT).as_posix(), fault) for path in paths for fault in faults_of(path.read_text())}
    found = {(path, fault) for path, fault in found if (path, fault.split(":")[0]) not in ALLOWED}
    assert not found


# -- checkpoints -------------------------------------------------------------------------------------------------------


class Evil:
    """Runs on unpickling."""

    def __init__(self, proof: Path):
        self.proof = proof

    def __reduce__(self):
        return os.mkdir, (str(self.proof),)


@pytest.fixture
def saved(tmp_path):
    """Folder of a sharded checkpoint of one tensor."""
    dcp.save({"weights": torch.arange(6.0)}, checkpoint_id=tmp_path / "step", no_dist=True)
    return tmp_path / "step"


def load(folder: Path) -> torch.Tensor:
    state = {"weights": torch.zeros(6)}
    dcp.load(state, storage_reader=_Reader(folder), no_dist=True)
    return state["weights"]


def test_a_checkpoint_reads_back_what_was_saved(saved):
    assert torch.equal(load(saved), torch.arange(6.0))


def test_an_index_that_would_act_is_refused(saved, tmp_path):
    (saved / ".metadata").write_bytes(pickle.dumps(Evil(tmp_path / "owned")))
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.mkdir"):
        _Reader(saved).read_metadata()
    with pytest.raises(CheckpointException):
        load(saved)
    assert not (tmp_path / "owned").exists()


def test_a_shard_that_would_act_is_refused(saved, tmp_path):
    (shard,) = saved.glob("*.distcp")
    evil = io.BytesIO()
    torch.save(Evil(tmp_path / "owned"), evil)
    index = pickle.loads((saved / ".metadata").read_bytes())
    for place in index.storage_data.values():
        place.offset, place.length = 0, len(evil.getvalue())
    shard.write_bytes(evil.getvalue())
    (saved / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CheckpointException, match="Weights only load failed"):
        load(saved)
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_with_other_things_than_tensors_is_refused(tmp_path):
    """torch would unpickle them."""
    dcp.save({"weights": torch.zeros(6), "more": {"lr": 1.0}}, checkpoint_id=tmp_path / "step", no_dist=True)
    with pytest.raises(ValueError, match="other things than tensors"):
        _Reader(tmp_path / "step").read_metadata()


def test_a_model_in_another_format_than_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds no \*\.safetensors"):
        resolve_checkpoint(str(tmp_path))


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a file, a folder, and links: within, to a file outside, to a folder outside, to itself."""
    top = tmp_path_factory.mktemp("confined")
    root, outside = top / "root", top / "root-other"
    (root / "sub").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret").write_text("x")
    (root / "clip").write_text("x")
    (root / "in").symlink_to("sub")
    (root / "out").symlink_to(outside / "secret")
    (root / "outdir").symlink_to(outside)
    (root / "loop").symlink_to("loop")
    return root


PARTS = st.sampled_from(["..", ".", "", "sub", "in", "out", "outdir", "loop", "clip", "secret", "root-other", "root"])


@given(parts=st.lists(PARTS | st.text(max_size=4), max_size=6))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_name_leads_out_of_the_root(root, parts):
    name = "/".join(parts)
    try:
        path = confined(root, name)
    except Outside:
        return
    assert os.path.realpath(path) == path and path.startswith(f"{root}/")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("/etc/passwd", "relative"), ("../root-other/secret", "leaves"), ("out", "leaves"), ("outdir/secret", "leaves"),
        ("sub/../../root-other", "leaves"), ("a\0b", "no file name"), ("\ud800", "no file name"),
        ("loop/../out", "itself"), ("loop/../\0", "no file name"),
        ("sub/..", "the data root itself"), ("", "the data root itself"),
    ],
)  # fmt: skip
def test_a_name_that_leads_out_is_refused(root, name, says):
    with pytest.raises(Outside, match=says):
        confined(root, name)


def test_a_name_within_is_resolved(root):
    assert confined(root, "in/../clip") == str(root / "clip") and confined(root, "in") == str(root / "sub")


# -- secrets -----------------------------------------------------------------------------------------------------------


def endpoint_args(folder: Path, body: dict) -> BenchmarkArgs:
    return BenchmarkArgs(
        engine="openai",
        model="m",
        base_url="https://host/v1",
        benchmarks=("dybench",),
        data_root=str(folder),
        output=str(folder),
        body=json.dumps(body),
    )


@pytest.mark.parametrize("name", ["api_key", "Authorization", "access_token", "client_secret"])
def test_a_secret_in_the_body_is_refused_before_anything_is_written(name, tmp_path):
    with pytest.raises(ValueError, match="--api-key-env") as caught:
        check_benchmarks(endpoint_args(tmp_path, {name: "sk-1"}), 1, 1)
    assert "sk-1" not in str(caught.value)
    with pytest.raises(ValueError, match="--api-key-env"):
        check_benchmarks(endpoint_args(tmp_path, {"extra": [{"headers": {name: "sk-1"}}]}), 1, 1)


@pytest.mark.parametrize("url", ["https://me:sk-1@host/v1", "me:sk-1@host/v1", "https://host/v1?key=sk-1"])
def test_a_secret_in_the_address_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="--base-url must be a plain") as caught:
        ChatClient(url, "m")
    assert "sk-1" not in str(caught.value)


def test_fields_that_only_sound_like_secrets_pass(tmp_path):
    check_benchmarks(endpoint_args(tmp_path, {"max_completion_tokens": 9}), 1, 1)
