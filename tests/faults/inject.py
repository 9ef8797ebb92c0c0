"""One fault in a process of train.py. The product knows nothing of it: its functions are replaced before `main` runs.

    FAULT='{"kind": "kill", "round": 2, "at": "update", "rank": 1, "fired": "/tmp/fired"}' python inject.py FLAGS

`fired` is a file that is made when the fault strikes; once it is there, a restarted run is left in peace (except by
faults of a `lasting` kind, which have no moment).
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
for folder in (HERE.parent, ROOT):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@dataclass(frozen=True)
class Fault:
    """What strikes, where and when."""

    kind: str
    fired: str
    round: int = 1
    at: str = ""
    """A phase, a function of checkpoint.py, or a file, as the kind has it."""
    rank: int = 0

    def strikes(self, step: int) -> bool:
        """True once, on its rank, in its round or a later one."""
        if step < self.round or int(os.environ.get("RANK", "0")) != self.rank or os.path.exists(self.fired):
            return False
        Path(self.fired).touch()
        return True


def at_the_door(fault: Fault, act: Callable[[], None]) -> None:
    """`act` when the phase `fault.at` has been entered."""
    import phases

    enter = phases.Phases.enter

    def entering(self, name: str) -> None:
        enter(self, name)
        if name == fault.at and fault.strikes(self.step):
            act()

    phases.Phases.enter = entering


def kill(fault: Fault) -> None:
    """kill -9 of a rank as it enters a phase."""
    at_the_door(fault, lambda: os.kill(os.getpid(), signal.SIGKILL))


def terminate(fault: Fault) -> None:
    """SIGTERM to one rank as it enters a phase."""
    at_the_door(fault, lambda: os.kill(os.getpid(), signal.SIGTERM))


def hang(fault: Fault) -> None:
    """A rank stops in a phase, for ever."""
    at_the_door(fault, lambda: time.sleep(1e6))


def disk(fault: Fault) -> None:
    """From a phase on no file grows beyond 64 KiB."""
    at_the_door(fault, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY)))


def kill_in_save(fault: Fault) -> None:
    """kill -9 right before the function `at` of checkpoint.py, in the first save from `round` on."""
    import checkpoint

    owner = checkpoint.dcp if fault.at == "save_shards" else checkpoint
    name = "save" if fault.at == "save_shards" else fault.at
    wrapped, save = getattr(owner, name), checkpoint.save
    steps = []

    def saving(run_dir: str, step: int, *arguments, **options):
        steps.append(step)
        return save(run_dir, step, *arguments, **options)

    def dying(*arguments, **options):
        if fault.strikes(steps[-1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return wrapped(*arguments, **options)

    checkpoint.save = saving
    setattr(owner, name, dying)


def _pay(fault: Fault, spoil: Callable) -> None:
    """`spoil` what is paid, once."""
    import train  # --scripted-reward pays by a function of its own, which train.py knows by name

    plain = train.pay_scripted

    def pay(*arguments, **options):
        paid = plain(*arguments, **options)
        return spoil(paid) if fault.strikes(fault.round) else paid

    train.pay_scripted = pay


def reward_raises(fault: Fault) -> None:
    """A reward function with a bug."""

    def spoil(paid):
        raise ZeroDivisionError("this reward has a bug")

    _pay(fault, spoil)


def reward_nan(fault: Fault) -> None:
    """A reward that is no number."""

    def spoil(paid):
        paid[0].rewards[0] = float("nan")
        return paid

    _pay(fault, spoil)


def loss_nan(fault: Fault) -> None:
    """A loss that is no number, on one rank."""
    import update

    plain, backward, step = update.clipped_objective, update.backward, [0]

    def counted(*arguments, **options):
        step[0] += 1
        return backward(*arguments, **options)

    def objective(*arguments, **options):
        value = plain(*arguments, **options)
        return value * float("nan") if fault.strikes(step[0]) else value

    update.backward, update.clipped_objective = counted, objective


def judge_hangs(fault: Fault) -> None:
    """math-verify that says nothing, and a model that always answers 1/3. Lasting."""
    import math_judge
    import train
    import verifiers

    train.verify = lambda text, question, **how: verifiers.verify("\\boxed{1/3}", question, **how)
    math_judge.__file__ = str(HERE / "stuck_judge.py")
    verifiers.JUDGE.deadline = 0.2


def decoder(fault: Fault) -> None:
    """A decoder that hangs on, or crashes at, the clips named in `at` ("hang=NAME,crash=NAME"). Lasting."""
    import data.clips

    start = subprocess.Popen

    def popen(command: list[str], *arguments, **options):
        if command[1:3] == ["-m", "data.clips"]:
            command = [command[0], str(HERE / "decoder.py"), fault.at, *command[3:]]
        return start(command, *arguments, **options)

    data.clips.subprocess = type("subprocess", (), vars(subprocess) | {"Popen": staticmethod(popen)})


def engine_keeps_weights(fault: Fault) -> None:
    """A transformers engine that ignores each sync but the first. Lasting."""
    import rollout

    sync, seen = rollout.HfEngine.sync, []

    def ignoring(self, parameters):
        seen.append(1)
        if len(seen) == 1:
            return sync(self, parameters)
        for _ in parameters:  # a collective
            pass
        return None

    rollout.HfEngine.sync = ignoring


def caches_stay(fault: Fault) -> None:
    """A vLLM engine whose caches outlast a sync. Lasting."""
    import rollout

    rollout.VllmEngine.drop_caches = lambda self: None


KINDS = {
    function.__name__: function
    for function in (
        kill, terminate, hang, disk, kill_in_save, reward_raises, reward_nan, loss_nan, judge_hangs, decoder,
        engine_keeps_weights, caches_stay,
    )
}  # fmt: skip


def install(text: str) -> None:
    """Put the fault that `text` (JSON) describes into this process."""
    fault = Fault(**json.loads(text))
    KINDS[fault.kind](fault)


if __name__ == "__main__":
    if os.environ.get("FAULT"):
        install(os.environ["FAULT"])
    import train

    train.main()
