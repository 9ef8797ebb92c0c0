"""A Python that has imported everything once, and forks the ranks of a script: a start in milliseconds, not 15 seconds.

Started by conftest.launch, one for a pytest worker. Reads a job a line, {"argv": [...], "ranks": n, "log": file}, and
answers with the exit code of each rank. As under torchrun, one rank's failure ends the others.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
import traceback

from ports import free_port

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def preload() -> None:
    sys.path.insert(0, ROOT)
    import av  # noqa: F401 -- before vLLM's libraries: see conftest.py
    import torch

    torch.set_num_threads(1)
    from rollout import prepare_vllm

    prepare_vllm(in_process=True)
    import vllm.model_executor.models.qwen3_vl
    import vllm.v1.engine.llm_engine
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_worker  # noqa: F401
    from vllm import LLM, SamplingParams  # noqa: F401

    import train  # noqa: F401


def become(job: dict, rank: int, port: int) -> None:
    """The forked child is that rank: it runs the script as `python argv` would, and never returns."""
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["ranks"], "LOCAL_WORLD_SIZE": job["ranks"]}
    if job["ranks"] > 1:
        os.environ.update({name: str(value) for name, value in names.items()})
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.chdir(ROOT)
    module = job["argv"][0] == "-m"
    sys.argv = job["argv"][module:]
    code = 0
    try:
        (runpy.run_module if module else runpy.run_path)(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()  # what the interpreter would do; a rank's own sys.excepthook exits with 1 too
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(job: dict) -> list[int]:
    """Exit code of each rank; negative: the signal that ended it."""
    port = free_port()
    running, codes = {}, [0] * job["ranks"]
    for rank in range(job["ranks"]):
        pid = os.fork()
        if pid == 0:
            become(job, rank, port)
        running[pid] = rank
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            codes[running.pop(pid)] = os.waitstatus_to_exitcode(status)
            if any(codes):
                for other in running:
                    os.kill(other, signal.SIGKILL)
        else:
            time.sleep(0.02)
    return codes


if __name__ == "__main__":
    preload()
    for line in sys.stdin:
        print("@@" + json.dumps(run(json.loads(line))), flush=True)
