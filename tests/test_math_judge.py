"""pytest tests/test_math_judge.py -- what is equal, and that nothing a model writes can stop or break the judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

import math_judge
from math_judge import MAX_CHARS, Judgement, MathJudge

ENDLESS = "9^{9^{9^{9}}}"  # sympy computes it in one call into C


@pytest.fixture(scope="module")
def judge():
    judge = MathJudge(deadline=10.0)  # ample: busy cores may not decide what is equal
    yield judge
    judge.close()


def gone(pid: int) -> bool:
    """Not running, and no zombie of ours."""
    return not Path(f"/proc/{pid}").exists()


def ended_within(seconds: float, pid: int) -> bool:
    """Like `gone`, for a process that somebody else reaps."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if gone(pid) or Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


# ---------------------------------------------------------------------------------------------------------------------
# What is equal


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("1/2", "0.5"),
        ("0.5", "\\frac{1}{2}"),
        ("\\frac12", "1/2"),
        ("1\\frac12", "1.5"),
        ("1/3", "0.333333"),  # six decimals
        ("\\sqrt{8}", "2\\sqrt2"),
        ("2^{10}", "1024"),
        ("10^8", "100,000,000"),
        ("5", "5.00"),
        ("$5$", "5"),
        ("5", "$5$"),
        ("5", "\\boxed{5}"),
        ("2\\pi", "2\u03c0"),
        ("-3", "\u22123"),
        ("(x+1)^2", "x^2+2x+1"),
        ("X", "x"),  # case means nothing
        ("\\{1,2\\}", "\\{2,1\\}"),
        ("1,2", "2,1"),  # a list is a set
        ("(1,2)", "(1, 2)"),
        ("[0,1)", "\\left[0,1\\right)"),
        ("\\mathbb{R}", "(-\\infty,\\infty)"),
        ("\\pm 2", "2,-2"),
        ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{bmatrix}1&2\\end{bmatrix}"),
        ("5", "5 \\text{ cm}"),  # units are dropped, whichever they are
        ("5 kg", "5 m"),
        ("5", "\\$5"),
        ("60^\\circ", "60"),
        ("50\\%", "50"),  # a percentage is the number and the fraction
        ("50%", "0.5"),
        ("0.5", "50%"),
        ("5", "x=5"),
        ("5", "x = 2+3 = 5"),
    ],
)
def test_equal(judge, gold, prediction):
    assert judge.compare(gold, prediction) == Judgement(equal=True, readable=True)


@pytest.mark.parametrize(
    ("gold", "prediction"),
    [
        ("1/3", "0.333"),
        ("\\pi", "3.14159"),
        ("7", "8"),
        ("(1,2)", "(2,1)"),
        ("(3,4,5)", "(5,4,3)"),
        ("[0,1)", "[0,1]"),
        ("6", "5 or 6"),  # hedging
        ("6", "5, 6"),
        ("6", "I think it is 6"),  # words are products of letters, no number is dug out of them
        ("x=5", "y=5"),
        ("1000", "1e3"),  # not read as a power of ten
    ],
)
def test_readable_but_not_equal(judge, gold, prediction):
    assert judge.compare(gold, prediction) == Judgement(equal=False, readable=True)


@pytest.mark.parametrize("prediction", ["", " ", "\x00", "\ud800", "{5", "\\frac{1}{", "\\\\\\", "$$", "\u0665", "?!"])
def test_unreadable(judge, prediction):
    assert judge.compare("5", prediction) == Judgement(equal=False, readable=False)
    assert not judge.compare(prediction, "5").equal


@pytest.mark.parametrize(("gold", "prediction"), [("1<x<2", "(1,2)"), ("x\\le 3", "(-\\infty,3]")])
def test_the_gold_answer_comes_first(judge, gold, prediction):
    assert judge.compare(gold, prediction).equal
    assert not judge.compare(prediction, gold).equal


def test_an_answer_of_any_length_is_not_asked_about():
    judge = MathJudge()
    for pair in (("5", "5" * 100_000), ("5" * (MAX_CHARS + 1), "5")):
        assert judge.compare(*pair) == Judgement(False, False)
    assert judge._child is None and judge.timeouts == 0


def test_the_longest_question_fits_into_a_pipe(judge):
    assert not judge.compare("\U0001f600" * MAX_CHARS, "\U0001f600" * MAX_CHARS).equal  # 12 bytes each on the way


PIECES = ["\\frac", "\\sqrt", "{", "}", "(", ")", "[", "]", "^", "_", "\\", "$", "&", "=", "<", ",", ";", "|", "%", "!"]
PIECES += ["1", "0", "x", "\\boxed{", "\\text{", "\\begin{pmatrix}", "\\{", "\\infty", "\\cup", "\\pm", "\n", "\x00"]


@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(categories=None), max_size=30) | st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_is_judged_and_the_next_answer_rightly(judge, text):
    equal, readable = judge.compare("5", text)
    assert readable or not equal
    assert not judge.compare(text, "").readable
    assert judge.compare("1/2", "0.5").equal


# ---------------------------------------------------------------------------------------------------------------------
# The child


def test_a_hanging_answer_is_killed_at_the_deadline_and_the_next_one_judged():
    judge = MathJudge(deadline=10.0)
    assert judge.compare("1/2", "0.5").equal
    pid, judge.deadline = judge._child.pid, 0.3
    began = time.monotonic()
    assert judge.compare("7", ENDLESS) == Judgement(False, False)
    assert 0.3 <= time.monotonic() - began < 5
    assert judge.timeouts == 1 and gone(pid)
    judge.deadline = 10.0
    assert judge.compare("7", ENDLESS) == Judgement(False, False) and judge.timeouts == 1  # remembered
    assert judge.compare("1/2", "0.50").equal  # from a new child
    assert judge.timeouts == 1 and judge._child.pid != pid
    judge.close()


@pytest.mark.slow
def test_a_child_that_dies_costs_its_own_answer_at_most():
    judge = MathJudge(deadline=30.0)
    assert judge.compare("1/2", "0.5").equal
    pid = judge._child.pid
    threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    assert judge.compare("7", ENDLESS) == Judgement(False, False)  # as out of memory
    assert time.monotonic() - began < 5 and judge.timeouts == 1 and gone(pid)
    assert judge.compare("1/2", "0.50").equal
    os.kill(judge._child.pid, signal.SIGKILL)  # between two answers
    assert ended_within(5, judge._child.pid)
    assert judge.compare("1/2", "0.500").equal and judge.timeouts == 1
    judge.close()


def test_the_child_is_lean_bounded_and_one(judge):
    judge.compare("1/2", "0.5")
    proc, pid = Path(f"/proc/{judge._child.pid}"), judge._child.pid
    assert not any(heavy in (proc / "maps").read_text() for heavy in ("torch", "vllm", "numpy"))
    limits = [line for line in (proc / "limits").read_text().splitlines() if line.startswith("Max address space")]
    assert limits[0].split()[3] == str(math_judge.MEMORY_BYTES)
    for _ in range(20):
        judge.compare("1/2", "0.5")
    assert judge._child.pid == pid and judge.timeouts == 0


def test_it_ends_with_its_owner_and_starts_again_after_close(judge):
    mine = MathJudge()
    assert mine.compare("1", "1").equal
    pid = mine._child.pid
    mine.close()
    assert gone(pid)
    mine.close()  # nothing to do
    assert mine.compare("1", "1").equal
    pid = mine._child.pid
    del mine  # collected
    assert gone(pid)


def test_an_interrupted_question_does_not_answer_the_next(monkeypatch):
    def interrupted(pipe, seconds):
        raise KeyboardInterrupt

    judge = MathJudge(deadline=10.0)
    assert judge.compare("1/2", "0.5").equal
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(math_judge, "_read_line", interrupted)
        judge.compare("1/2", "0.50")
    assert not judge.compare("1/2", "0.6").equal
    judge.close()


def test_threads_take_turns(judge):
    answers = {}

    def ask(i):
        answers[i] = judge.compare(str(i), str(i - i % 2)).equal

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {i: i % 2 == 0 for i in range(8)}


def test_a_child_that_cannot_start_is_an_error(tmp_path, monkeypatch, capfd):
    broken = tmp_path / "broken.py"
    broken.write_text("raise ImportError('no math-verify')")
    monkeypatch.setattr(math_judge, "__file__", str(broken))
    with pytest.raises(RuntimeError, match="requirements-common.txt"):
        MathJudge().compare("1", "2")
    assert "no math-verify" in capfd.readouterr().err


def test_a_child_that_grew_is_replaced(tmp_path, monkeypatch):
    eager = tmp_path / "eager.py"
    eager.write_text(Path(math_judge.__file__).read_text().replace("512 << 20", "1"))
    monkeypatch.setattr(math_judge, "__file__", str(eager))
    judge = MathJudge(deadline=10.0)
    assert judge.compare("1/2", "0.5").equal
    assert judge._child.poll() is not None and judge.timeouts == 0
    judge.close()


@pytest.mark.slow
def test_a_large_parent_does_not_make_a_large_child():
    ballast = b"x" * (math_judge.RETIRE_BYTES + (64 << 20))  # like a rank with an engine in it
    judge = MathJudge(deadline=10.0)
    assert judge.compare("1/2", "0.5").equal
    assert judge._child.poll() is None and len(ballast)
    judge.close()


@pytest.mark.slow
@pytest.mark.parametrize("busy", [False, True])
def test_no_child_outlives_a_killed_parent(busy):
    code = (
        "import math_judge; j = math_judge.MathJudge(1.0); j.compare('1/2', '0.5'); print(j._child.pid, flush=True); "
    )
    code += f"j.deadline = 1.0; j.compare('7', '{ENDLESS}')" if busy else "input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(parent.stdout.readline())
    if busy:
        time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    assert ended_within(5, pid)


@pytest.mark.slow
def test_a_fork_asks_a_child_of_its_own(judge):
    assert judge.compare("1/2", "0.5").equal
    pid = os.fork()
    if pid == 0:
        right = judge.compare("1/2", "0.5").equal and not judge.compare("1/2", "0.6").equal
        judge.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert judge.compare("1/2", "0.5").equal and judge.timeouts == 0
