"""The Task Router: parse, votes, a real HTTP endpoint that misbehaves, resume, keywords, audit sheet, local vLLM.

pytest tests/test_router.py
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

import router
import router_audit
import router_rules
from chat_client import ChatClient, ChatError, Unanswered
from data.dataset import load_questions
from data.video import ClipError
from episode import TASK_TYPES, View
from toy import world

# The six worked examples of App. C: source, question, options, answer, decision.
EXAMPLES = (
    (
        "STAR",
        "What did the person do with the clothes?",
        ("Lied on.", "Took.", "Put down.", "Washed."),
        "C",
        "Temporal",
    ),
    (
        "PerceptionTest",
        "If the person tried to turn on the electric device and it was not working, what was the reason for that?",
        (
            "The electric device did not work most likely because it was already unplugged at the beginning of the "
            "video.",
            "The electric device did not work because the person unplugged the device during the video.",
            "The device worked when the person tried to turn it on.",
        ),
        "A",
        "Temporal",
    ),
    (
        "STAR",
        "What did the person do while they were touching the refrigerator?",
        ("Closed the refrigerator.", "Opened the refrigerator.", "Threw the refrigerator.", "Took the refrigerator."),
        "A",
        "Temporal",
    ),
    (
        "PerceptionTest",
        "In which hand does the person conceal a small object or a drawn sign?",
        ("right.", "I don't know.", "left."),
        "A",
        "Spatial",
    ),
    (
        "PerceptionTest",
        "The person uses multiple similar objects to play an occlusion game. Where is the hidden object at the "
        "beginning of the game from the person's point of view?",
        ("Under the first object from the left.", "Under the second object from the left.")
        + ("Under the third object from the left.",),
        "B",
        "Spatiotemporal",
    ),
    (
        "PerceptionTest",
        "Where is the person?",
        ("Indoors in the kitchen.", "Indoors in the living room or bedroom.", "Indoors in the bathroom."),
        "B",
        "Static",
    ),
)
TRUTH = {problem: decision for _, problem, _, _, decision in EXAMPLES}


def row(source: str, problem: str, options: tuple[str, ...], answer: str, **more) -> dict:
    lettered = [f"{letter}. {option}" for letter, option in zip("ABCD", options, strict=False)]
    return {
        "problem": problem,
        "data_type": "video",
        "problem_type": "multiple choice",
        "options": lettered,
        "solution": f"<answer>{answer}</answer>",
        "path": "clips/a.mp4",
        "data_source": source,
    } | more


def plain_row(number: int, **more) -> dict:
    return row("S", f"Question number {number}?", ("yes", "no"), "A", problem_id=number, **more)


def write(path, rows) -> str:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return str(path)


def read(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def examples(tmp_path) -> str:
    rows = [row(*example[:4], problem_id=f"example {i}") for i, example in enumerate(EXAMPLES, start=1)]
    return write(tmp_path / "rows.jsonl", rows)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


# ---------------------------------------------------------------------------------------------------------------------
# parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Temporal", "Temporal"),
        ("Mirror: no. Rewind: yes.\n\nTemporal\n  \n", "Temporal"),
        ("why\nSPATIOTEMPORAL", "Spatiotemporal"),
        ("why\n**Static**", "Static"),
        ("why\n**Static.**", "Static"),
        ("why\n`spatial`.", "Spatial"),
        ('why\r\n"Temporal".\r\n', "Temporal"),
        ("<think>Static, no,\nSpatial</think>\nTemporal", "Temporal"),
        ("the template opened the thought</think>\n\nStatic", "Static"),
        ("<think>a</think> <think>b</think>\nStatic", "Static"),
        ("<think>so it is\nTemporal", None),
        ("<think>a</think>\n<think>no end\nTemporal", None),
        ("<think>only this\nStatic</think>", None),
        ("Answer: Temporal", None),
        ("Temporal\nThat is my answer.", None),
        ("Temporal or Spatial", None),
        ("Temporal, Spatial", None),
        ("Temporal Static", None),
        ("Temporal..", None),
        ("Temporal!", None),
        ("Temporally", None),
        ("Spatio-temporal", None),
        ("\\boxed{Temporal}", None),
        ("None", None),
        ("\u017fpatial", None),  # a long s, which folds to "s"
        ("", None),
        ("\n \n", None),
        ("**", None),
        (".", None),
    ],
)
def test_parse(text, expected):
    assert router.parse(text) == expected


@given(st.text())
def test_parse_raises_on_nothing(text):
    assert router.parse(text) in (*TASK_TYPES, None)


@given(st.text(), st.sampled_from(TASK_TYPES), st.sampled_from(["{}", "**{}**", "{}.", "*{}.*", "`{}`"]), st.booleans())
def test_parse_reads_the_last_line_whatever_stands_before(before, word, frame, upper):
    last = frame.format(word.upper() if upper else word)
    expected = None if "<think>" in before.rpartition("</think>")[2] else word
    assert router.parse(f"{before}\n{last}\n") == expected
    assert router.parse(f"<think>{before.replace('<', '')}</think>{last}") == word
    assert router.parse(f"{before}\nx {last}") is None


@given(st.lists(st.sampled_from(["<think>", "</think>", "Static", "\n", "*", ".", " "]), max_size=12).map("".join))
def test_parse_never_takes_a_word_from_the_thought(text):
    if router.parse(text):
        assert "think>" not in text.rpartition("</think>")[2]


def test_parse_is_quick_on_long_text():
    start = time.monotonic()
    for text in ("*" * 500_000, "<think>" * 100_000, "Temporal " * 100_000, "*." * 300_000 + "x"):
        assert router.parse(text) is None
    assert time.monotonic() - start < 2


# ---------------------------------------------------------------------------------------------------------------------
# Prompt and votes


def test_the_prompt_holds_question_options_and_gold_and_no_null_option(examples):
    questions, _ = router._load(examples)
    prompt = router.build_prompt(questions[3])
    assert questions[3].problem in prompt and "\nA. right.\nB. I don't know.\nC. left.\n" in prompt
    assert "Correct answer: A. right.\n" in prompt and "None of the above" not in prompt
    assert all(word in prompt for word in TASK_TYPES) and prompt.endswith("nothing else on that line.")
    assert router.parse(prompt) is None


@pytest.mark.parametrize(
    ("votes", "expected"),
    [
        (["Static"], "Static"),
        ([None], None),
        (["Static", "Static", "Spatial"], "Static"),
        (["Static", "Spatial"], None),
        (["Static", "Spatial", None], None),
        (["Static", None, None], None),
        (["Static", "Static", None], "Static"),
        (["Temporal", "Temporal", "Static", "Spatial", None], None),
        (["Temporal", "Temporal", "Temporal", "Spatial", None], "Temporal"),
    ],
)
def test_a_label_needs_more_than_half_of_the_votes(votes, expected):
    for _ in range(3):
        random.shuffle(votes)
        assert router.decide(votes) == expected


def test_an_unreadable_vote_is_drawn_once_more_from_another_seed(examples):
    questions, _ = router._load(examples)
    asked = []

    def ask(jobs):
        asked.append([(question.id, seed) for question, seed in jobs])
        good = len(asked) == 2
        return [router.Reply("Static" if good and q.id == "example 1" else "hm", finish="stop") for q, _ in jobs]

    first, second = router.judge(ask, questions[:2], votes=2, seed=3)
    assert first.label == "Static" and second.label is None and second.votes == (None, None)
    assert [len(jobs) for jobs in asked] == [4, 4] and len({job for jobs in asked for job in jobs}) == 8
    assert [reply["label"] for reply in first.replies] == [None, None, "Static", "Static"]


def test_a_reply_cut_off_at_its_length_is_unreadable(examples):
    questions, _ = router._load(examples)
    (verdict,) = router.judge(lambda jobs: [router.Reply("Static", finish="length")], questions[:1], 1, 0)
    assert verdict.label is None and len(verdict.replies) == 2


# ---------------------------------------------------------------------------------------------------------------------
# A real endpoint


class Endpoint:
    """An OpenAI-compatible server on loopback. `script(prompt, number of the request for this prompt)` returns what
    to do: a text to reply with, a dict as the body, an int status, (status, headers), or a callable on the handler."""

    def __init__(self, script):
        self.script, self.requests, self.times, self.lock = script, [], [], threading.Lock()
        self.busy = self.most_busy = 0
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                length = int(self.headers["Content-Length"])
                data = b""
                with contextlib.suppress(OSError):
                    data = self.rfile.read(length)
                if len(data) < length:
                    return  # a client that was closed meanwhile
                body = json.loads(data)
                with endpoint.lock:
                    endpoint.times.append(time.monotonic())
                    prompt = body["messages"][0]["content"]
                    count = 1 + sum(r["messages"][0]["content"] == prompt for r in endpoint.requests)
                    endpoint.requests.append(body | {"target": self.path, "key": self.headers.get("Authorization")})
                    endpoint.busy += 1
                    endpoint.most_busy = max(endpoint.busy, endpoint.most_busy)
                with contextlib.suppress(OSError):
                    endpoint.answer(self, endpoint.script(prompt, count))
                with endpoint.lock:
                    endpoint.busy -= 1

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def answer(self, handler, what) -> None:
        if callable(what):
            what(handler)
            handler.close_connection = True
            return
        status, headers = what if isinstance(what, tuple) else (what, {}) if isinstance(what, int) else (200, {})
        if isinstance(what, str):
            what = {"choices": [{"message": {"role": "assistant", "content": what}, "finish_reason": "stop"}]}
        data = json.dumps(what if isinstance(what, dict) else {"error": {"message": f"scripted\n{status}"}}).encode()
        handler.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def start(script) -> Endpoint:
            endpoint = Endpoint(script)
            stack.callback(endpoint.close)
            return endpoint

        yield start


def decision(prompt: str) -> str:
    """A well-behaved model: short reasoning, and the paper's category on the last line."""
    truth = next((TRUTH[problem] for problem in TRUTH if f"Question: {problem}\n" in prompt), "Static")
    return f"<think>Copy 1 ... copy 2 ...</think>\nBoth copies considered.\n\n**{truth}**"


def reset(handler) -> None:
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    handler.connection.close()


def cut(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")


def not_http(handler) -> None:
    handler.wfile.write(b"\x00\xff garbled\r\n\r\n")


def drip(handler) -> None:
    """A byte at a time: a socket's own timeout would never fire."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def drip_headers(handler) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 60:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.05)


def late(handler) -> None:
    time.sleep(1.5)


def flags(endpoint: Endpoint, rows, output, *more) -> list[str]:
    base = ["--rows", rows, "--output", output, "--engine", "openai", "--base-url", endpoint.url, "--model", "m"]
    return [str(flag) for flag in (*base, "--backoff", 0.01, "--deadline", 0.4, *more)]


def test_the_six_examples_through_an_endpoint_that_misbehaves(serve, tmp_path, examples, capsys):
    """Each fault once before the good reply: two statuses, a delay, garbled text, a reset, a body that is no JSON."""
    trouble = [[500], [(429, {"Retry-After": "0"})], [late], ["I cannot tell."], [reset], [{"choices": []}]]
    script = dict(zip(TRUTH, trouble, strict=True))

    def behave(prompt, count):
        faults = next(script[problem] for problem in script if f"Question: {problem}\n" in prompt)
        return faults[count - 1] if count <= len(faults) else decision(prompt)

    endpoint, output = serve(behave), tmp_path / "routed.jsonl"
    assert router.main(flags(endpoint, examples, output)) == 0
    assert [r["task_type"] for r in read(output)] == list(TRUTH.values())
    assert [{k: v for k, v in r.items() if k != "task_type"} for r in read(output)] == read(tmp_path / "rows.jsonl")
    assert len(endpoint.requests) == 12
    seeds = [r["seed"] for r in endpoint.requests if "conceal" in r["messages"][0]["content"]]
    assert len(set(seeds)) == 2  # an unreadable reply is drawn anew, a failed request is repeated as it was
    seeds = [r["seed"] for r in endpoint.requests if "clothes" in r["messages"][0]["content"]]
    assert len(set(seeds)) == 1
    kept = {line["id"]: line for line in read(tmp_path / "routed.jsonl.replies.jsonl")}
    assert kept["example 4"]["replies"][0]["text"] == "I cannot tell." and kept["example 4"]["votes"] == ["Spatial"]
    out = capsys.readouterr().out
    assert "6 labelled" in out and "3 (50.0%)" in out and "PerceptionTest  1 (25.0%)" in out


@pytest.mark.parametrize(
    "fault", [cut, not_http, drip, drip_headers, reset, late, {"a": 1}, {"choices": [3]}, 503, 408]
)
def test_a_passing_fault_costs_a_try(serve, fault):
    endpoint = serve(lambda _, count: fault if count == 1 else "Static")
    client = ChatClient(endpoint.url, "m", deadline_s=0.3, backoff_s=0.01)
    start = time.monotonic()
    assert client.ask("q", seed=1, temperature=0.5, max_tokens=9).text == "Static"
    assert time.monotonic() - start < 1.2 and len(endpoint.requests) == 2


def test_tries_are_bounded_and_the_last_reason_is_told(serve):
    endpoint = serve(lambda *_: 500)
    client = ChatClient(endpoint.url, "m", tries=3, backoff_s=0.01)
    with pytest.raises(Unanswered, match=r"no reply in 3 tries; the last: HTTP 500: scripted 500"):
        client.ask("q", seed=1, temperature=0.5, max_tokens=9)
    assert len(endpoint.requests) == 3


def test_waits_grow_and_a_server_may_ask_for_longer(serve):
    endpoint = serve(lambda _, count: [(429, {"Retry-After": "1"}), 500, 500, "Static"][count - 1])
    client = ChatClient(endpoint.url, "m", backoff_s=0.1)
    client.ask("q", seed=1, temperature=0.5, max_tokens=9)
    waits = [b - a for a, b in zip(endpoint.times, endpoint.times[1:], strict=False)]
    assert waits[0] >= 1 and 0.1 <= waits[1] < 0.9 and 0.2 <= waits[2] < 0.9


def test_reasoning_kept_apart_and_missing_content_are_read(serve):
    message = {"content": None, "reasoning_content": "hm"}
    endpoint = serve(lambda *_: {"choices": [{"message": message, "finish_reason": "length"}]})
    reply = ChatClient(endpoint.url, "m").ask("q", seed=1, temperature=0.5, max_tokens=9)
    assert (reply.text, reply.reasoning, reply.finish) == ("", "hm", "length")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x/v1",
        "host/v1",
        "http://",
        "http://h:99999/v1",
        "http://[/v1",
        "",
        "http://u:pw@h/v1",
        "http://h/v1?a=3",
        "http://h/v1#f",
    ],
)
def test_a_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="--base-url"):
        ChatClient(url, "m")


def test_requests_are_spaced_by_the_rate_and_bounded_side_by_side(serve, tmp_path):
    def slow(*_):
        time.sleep(0.15)
        return "Static"

    rows = write(tmp_path / "rows.jsonl", map(plain_row, range(6)))
    endpoint = serve(slow)
    assert router.main(flags(endpoint, rows, tmp_path / "a.jsonl", "--requests-per-minute", 600)) == 0
    gaps = [b - a for a, b in zip(sorted(endpoint.times), sorted(endpoint.times)[1:], strict=False)]
    assert sum(gaps) >= 0.48 and len(gaps) == 5  # 10 a second; a turn may arrive a little late, never early
    assert router.main(flags(endpoint, rows, tmp_path / "b.jsonl", "--concurrency", 3)) == 0
    assert endpoint.most_busy <= 3


def test_a_refused_key_stops_at_once_in_one_line_without_the_key(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ROUTER_KEY", "sk-secret")
    refusal = b'{"error": {"message": "bad key sk-secret"}}'

    def refuse(handler):
        handler.wfile.write(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n%s" % (len(refusal), refusal))

    rows = write(tmp_path / "rows.jsonl", map(plain_row, range(50)))
    endpoint = serve(lambda *_: refuse)
    assert router.main(flags(endpoint, rows, tmp_path / "a.jsonl", "--api-key-env", "ROUTER_KEY")) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "HTTP 401: bad key ***" in error and "sk-secret" not in error
    assert (
        endpoint.requests[0]["key"] == "Bearer sk-secret" and endpoint.requests[0]["target"] == "/v1/chat/completions"
    )
    assert len(endpoint.requests) < 30 and not (tmp_path / "a.jsonl").exists()


def test_a_prompt_refused_after_others_passed_is_that_row_s_own_fault(serve, tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", map(plain_row, range(4)))
    endpoint = serve(lambda prompt, _: 400 if "number 2?" in prompt else "Static")
    assert router.main(flags(endpoint, rows, tmp_path / "a.jsonl", "--concurrency", 1)) == 1
    out, error = capsys.readouterr()
    assert "rows.jsonl:3 id '2'" in error and "HTTP 400" in error and "1 not answered" in out
    assert [r.get("task_type") for r in read(tmp_path / "a.jsonl")] == ["Static", "Static", None, "Static"]


def test_a_dead_endpoint_ends_the_run(tmp_path, capsys, serve):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    rows = write(tmp_path / "rows.jsonl", map(plain_row, range(100)))
    base = ["--rows", rows, "--output", str(tmp_path / "a.jsonl"), "--engine", "openai", "--base-url", url]
    assert router.main([*base, "--model", "m", "--tries", "2", "--backoff", "0.01"]) == 2
    error = capsys.readouterr().err
    assert "20 rows in a row without an answer" in error and "ConnectionRefusedError" in error
    rows = write(tmp_path / "rows.jsonl", map(plain_row, range(2)))
    assert router.main([*base, "--model", "m", "--tries", "1"]) == 2
    assert "no row was answered" in capsys.readouterr().err and not (tmp_path / "a.jsonl").exists()


def test_a_proxy_is_asked_for_the_whole_address(serve, monkeypatch):
    endpoint = serve(lambda *_: "Static")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", endpoint.url.removesuffix("/v1"))
    client = ChatClient("http://router.invalid/v1/", "m")
    assert client.ask("q", seed=1, temperature=0.5, max_tokens=9).text == "Static"
    assert endpoint.requests[0]["target"] == "http://router.invalid/v1/chat/completions"


def test_closing_ends_what_is_under_way(serve):
    client = ChatClient(serve(lambda *_: late).url, "m", deadline_s=60)
    threading.Timer(0.2, client.close).start()
    start = time.monotonic()
    with pytest.raises(ChatError):
        client.ask("q", seed=1, temperature=0.5, max_tokens=9)
    assert time.monotonic() - start < 1


# ---------------------------------------------------------------------------------------------------------------------
# Resume


def test_a_stopped_run_goes_on_and_asks_for_nothing_twice(serve, tmp_path):
    rows, output = write(tmp_path / "rows.jsonl", map(plain_row, range(8))), tmp_path / "a.jsonl"
    answered = []

    def quota(*_):
        answered.append(1)
        return "Temporal" if len(answered) <= 5 else 403

    assert router.main(flags(serve(quota), rows, output, "--concurrency", 1)) == 2
    sidecar = tmp_path / "a.jsonl.replies.jsonl"
    assert len(read(sidecar)) == 5 and not output.exists()
    torn = sidecar.read_bytes()[:-40]  # a kill in the middle of a line
    sidecar.write_bytes(torn)
    endpoint = serve(lambda *_: "Temporal")
    assert router.main(flags(endpoint, rows, output)) == 0
    assert len(endpoint.requests) == 4 and {r["task_type"] for r in read(output)} == {"Temporal"}
    assert sidecar.read_bytes().startswith(torn + b"\n")  # what was there is there
    assert router.main(flags(endpoint, rows, output)) == 0 and len(endpoint.requests) == 4
    # Another model, other settings or another question is another reply.
    assert router.main(flags(endpoint, rows, output, "--votes", 3)) == 0 and len(endpoint.requests) == 4 + 24
    changed = [plain_row(0) | {"problem": "Another question?"}, *map(plain_row, range(1, 8))]
    assert router.main(flags(endpoint, write(tmp_path / "rows.jsonl", changed), output)) == 0
    assert len(endpoint.requests) == 4 + 24 + 1


def test_an_unreadable_row_is_not_asked_for_again(serve, tmp_path, capsys):
    rows, output = write(tmp_path / "rows.jsonl", [plain_row(1)]), tmp_path / "a.jsonl"
    endpoint = serve(lambda *_: "no idea")
    for _ in range(2):
        assert router.main(flags(endpoint, rows, output)) == 0
        assert "1 without one (1 unreadable" in capsys.readouterr().out
    assert len(endpoint.requests) == 2 and "task_type" not in read(output)[0]


@pytest.mark.parametrize(
    "junk", ["{", "[]", "3", "null", '{"key": "a"}', '{"key": [], "label": null, "votes": []}', "\xff"]
)
def test_damaged_lines_of_the_replies_are_passed_over(tmp_path, junk):
    path = tmp_path / "replies.jsonl"
    path.write_bytes(junk.encode("latin-1"))
    questions, _ = router._load(write(tmp_path / "rows.jsonl", [plain_row(1)]))
    with router.Replies(path, {}) as replies:
        assert replies.known(questions[0]) is None
        replies.add(router.Verdict(questions[0], "Static", ("Static",)))
    with router.Replies(path, {}) as replies:
        assert replies.known(questions[0]).label == "Static"
        with pytest.raises(ValueError, match="another router"), router.Replies(path, {}):
            pass


@pytest.mark.slow
def test_a_killed_run_goes_on(serve, tmp_path):
    def paced(*_):
        time.sleep(0.2)
        return "Spatial"

    rows, output = write(tmp_path / "rows.jsonl", map(plain_row, range(20))), tmp_path / "a.jsonl"
    endpoint, sidecar = serve(paced), tmp_path / "a.jsonl.replies.jsonl"
    command = [sys.executable, "router.py", *flags(endpoint, rows, output, "--concurrency", 2, "--deadline", 5)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (sidecar.exists() and sidecar.read_bytes().count(b"\n") >= 6):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # a request that was already sent arrives
    before, asked = sidecar.read_bytes().count(b"\n"), len(endpoint.requests)
    assert 6 <= before < 20
    assert router.main(flags(endpoint, rows, output, "--deadline", 5)) == 0
    assert len(endpoint.requests) - asked == 20 - before
    assert [r["task_type"] for r in read(output)] == ["Spatial"] * 20


# ---------------------------------------------------------------------------------------------------------------------
# Rows


def test_nothing_else_of_the_file_changes(serve, tmp_path, capsys):
    rows = [
        '{"problem_id": 1,   "odd":  "spacing", "data_type": "text", "problem": "1+1?", "problem_type": "numerical", '
        '"solution": "2"}',
        plain_row(2, task_type="Spatial"),
        plain_row(3, extra={"kept": [1, None, "\u00e9"]}),
        plain_row(4, path="../outside.mp4"),
        plain_row(3),  # the same id again: reported, and left as it is
        plain_row(6, data_type="image"),
        plain_row(7, task_type="Object Recognition"),
        "[1]",
    ]
    source, output = tmp_path / "rows.jsonl", tmp_path / "a.jsonl"
    write(source, rows)
    endpoint = serve(lambda *_: "Static")
    assert router.main(flags(endpoint, source, output)) == 0
    before, after = source.read_text().splitlines(), output.read_text().splitlines()
    assert len(endpoint.requests) == 1 and len(after) == 8
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, True, True, True, True]
    assert json.loads(after[2]) == rows[2] | {"task_type": "Static"}
    out = capsys.readouterr().out
    assert "rows.jsonl:4 path: leaves the data root" in out and "rows.jsonl:7 task_type: must be one of" in out
    endpoint = serve(lambda prompt, _: "Static" if "number 3" in prompt else "?")
    assert router.main(flags(endpoint, source, output, "--overwrite", "--seed", 1)) == 0
    types = [r.get("task_type") for r in map(json.loads, output.read_text().splitlines()[:-1])]
    assert types == [None, None, "Static", None, None, None, None]


def test_a_broken_line_is_reported_and_shifts_no_other(tmp_path, capsys):
    rows, output = write(tmp_path / "rows.jsonl", [plain_row(1), '{"torn', plain_row(3)]), tmp_path / "a.jsonl"
    assert router.main(["--rows", rows, "--output", str(output), "--engine", "rules"]) == 0
    out, lines = capsys.readouterr().out, output.read_text().splitlines()
    assert "rows.jsonl:2 row: is not valid JSON" in out
    assert '{"torn' in lines or "1 lines that are no JSON are not in the output" in out
    good = [json.loads(line) for line in lines if not line.endswith("torn")]
    assert good == [plain_row(1, task_type="Static"), plain_row(3, task_type="Static")]


def test_a_json_list_becomes_jsonl_and_its_rows_stay(tmp_path):
    rows = [plain_row(1), plain_row(2, note="\ud800 \u2028")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    arguments = ["--rows", str(tmp_path / "rows.json"), "--output", str(tmp_path / "a.jsonl"), "--engine", "rules"]
    assert router.main(arguments) == 0
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in text if line] == [r | {"task_type": "Static"} for r in rows]
    assert not load_questions(tmp_path / "a.jsonl", tmp_path, check_files=False)[1]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--engine", "vllm"], "needs --model"),
        (["--engine", "vllm", "--model", "./no/such"], "no such folder"),
        (["--engine", "openai", "--model", "m"], "needs --base-url"),
        (["--engine", "openai", "--model", "m", "--base-url", "nonsense"], "--base-url"),
        (["--engine", "openai", "--model", "m", "--base-url", "http://h/v1", "--api-key-env", "NO_SUCH"], "NO_SUCH"),
        (["--engine", "rules", "--votes", "3"], "--votes must be 1"),
        (["--engine", "rules", "--tries", "0"], "--tries must be at least 1"),
        (["--engine", "rules", "--deadline", "nan"], "above 0"),
        (["--engine", "rules", "--requests-per-minute", "0"], "above 0"),
        (["--engine", "rules", "--output", "{rows}"], "would overwrite"),
        (["--engine", "rules", "--rows", "/no/such"], "cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(tmp_path, capsys, more, words):
    rows = write(tmp_path / "rows.jsonl", [plain_row(1)])
    more = [flag.format(rows=rows) for flag in more]
    assert router.main(["--rows", rows, "--output", str(tmp_path / "a.jsonl"), *more]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "a.jsonl").exists()


# ---------------------------------------------------------------------------------------------------------------------
# Keywords


def rules(**fields) -> str:
    question = router_rules.Question("q", 1, data_type="video", problem_type="multiple choice", **fields)
    return router.parse(router_rules.explain(question))


def test_keywords_label_the_six_examples(tmp_path, examples, capsys):
    assert router.main(["--rows", examples, "--output", str(tmp_path / "a.jsonl"), "--engine", "rules"]) == 0
    assert [r["task_type"] for r in read(tmp_path / "a.jsonl")] == list(TRUTH.values())
    lines = read(tmp_path / "a.jsonl.replies.jsonl")
    assert "'put' in the answer" in lines[0]["replies"][0]["text"]


@pytest.mark.parametrize(
    ("problem", "options", "expected"),
    [
        ("How many times does she open the door?", ("A. 1", "B. 2"), "Static"),
        ("What did he do after he left the room?", ("A. Slept", "B. Sang"), "Temporal"),
        ("Where is the cup right now?", ("A. on the shelf", "B. in the sink"), "Static"),
        ("What colour is the car on the left?", ("A. red", "B. blue"), "Spatial"),
        ("Which way does the wheel turn?", ("A. clockwise", "B. counter-clockwise"), "Spatiotemporal"),
        ("Which way does the ball move?", ("A. up", "B. left"), "Temporal"),
        ("Which way does the ball move?", ("A. to the left", "B. up"), "Spatiotemporal"),
        ("On which side of the room is the sofa?", ("A. left side", "B. right side"), "Spatial"),
        ("What is next to the sofa?", ("A. a lamp", "B. a cat"), "Static"),
        ("Which of the following is true?", ("A. It rains", "B. It is sunny"), "Static"),
        ("When is the laptop held?", ("A. Throughout the entire video.", "B. At the end of the video."), "Static"),
        ("Why does the child cry?", ("A. He is hungry", "B. He is tired"), "Temporal"),
    ],
)
def test_keywords(problem, options, expected):
    assert rules(problem=problem, options=options, gold="A") == expected


def test_agreement_of_the_keywords_with_the_toy_world(tmp_path):
    """Measured 93.7 % on training rows, 86.7 % on evaluation rows. All that differs: `order` questions whose answer is
    the left or right edge, Temporal to the toy and Spatiotemporal to the words."""
    training = [world.training_example(index, 0, 0.97)[0] for index in range(400)]
    pairs = [world.evaluation_pair(i, name, 0) for name in world.EVAL_SUBTASKS for i in range(20)]
    evaluation = [item for pair in pairs for item, _ in pair]
    for rows, floor in ((training, 0.92), (evaluation, 0.85)):
        questions, bad = router._load(write(tmp_path / "rows.jsonl", rows))
        assert not bad
        labels = [router.parse(router_rules.explain(question)) for question in questions]
        agreed = sum(label == question.task_type for label, question in zip(labels, questions, strict=True))
        assert agreed / len(rows) >= floor, agreed / len(rows)
        for label, item in zip(labels, rows, strict=True):
            edge = item["options"]["ABCD".index(item["solution"][8])][3:]
            differs = item["question"] == "order" and edge in ("left", "right")
            assert label == ("Spatiotemporal" if differs else item["task_type"])


@given(st.text(), st.text(min_size=1))
def test_keywords_take_any_text(problem, answer):
    question = router_rules.Question("q", 1, problem, "video", "free-form", (), answer)
    assert router.parse(router_rules.explain(question)) in TASK_TYPES


def test_keywords_are_quick_on_long_text():
    start = time.monotonic()
    for text in ("left " * 20_000, "from " * 5_000, "right after " * 10_000, "-" * 100_000, "no change" * 10_000):
        rules(problem=text, options=("A. x", "B. y"), gold="A")
    assert time.monotonic() - start < 3


# ---------------------------------------------------------------------------------------------------------------------
# Audit


class Frames:
    """`data.clips.Clips` without its processes: any clip but those of `damaged` ids."""

    def __init__(self, damaged=()):
        self.damaged = damaged

    def submit(self, question) -> Future:
        future = Future()
        if question.id in self.damaged:
            future.set_exception(ClipError(f"{question.path}: not a video that the decoder can open"))
        else:
            frames = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
            future.set_result(View(frames, "identity", 4.0, 4, (0, 1, 2, 3)))
        return future


def audit_rows() -> list[dict]:
    kinds = ["Temporal"] * 70 + ["Static"] * 20 + ["Spatial"] * 2 + [None] * 8
    return [plain_row(i, task_type=kind, data_source="ab"[i % 2]) for i, kind in enumerate(kinds)]


def test_the_sample_is_seeded_proportional_and_leaves_no_stratum_out(tmp_path):
    questions, _ = router._load(write(tmp_path / "rows.jsonl", audit_rows()))
    drawn = router_audit.sample(questions, 40, seed=0)
    assert len(drawn) == 40 and drawn == router_audit.sample(questions, 40, seed=0) != router_audit.sample(
        questions, 40, 1
    )
    counts = router_audit.counts(drawn)
    assert counts["a"] == {"Temporal": 14, "Static": 4, "Spatial": 1, "no label": 1}
    assert {router_audit.sheet_key(q) for q in drawn} == {router_audit.sheet_key(q) for q in set(drawn)}
    for size in (1, 3, 7, 99, 100, 1000):
        assert len(set(router_audit.sample(questions, size, 0))) == min(size, 100)
    assert router_audit.sample([], 5, 0) == []


def test_a_sheet_is_written_filled_and_scored(tmp_path, capsys):
    rows = audit_rows()
    rows[0] |= {"problem": '=cmd("x")', "problem_id": "=1", "options": ["A. <b>yes", "B. no"]}
    path = write(tmp_path / "rows.jsonl", rows)
    questions, _ = router._load(path)
    drawn = router_audit.sample(questions, 100, 0)
    assert router_audit.write_sheet(drawn, tmp_path / "audit", Frames(damaged={"5"})) == 1
    sheet = tmp_path / "audit" / "sheet.csv"
    assert len(list((tmp_path / "audit" / "strips").glob("*.png"))) == 99
    page = (tmp_path / "audit" / "index.html").read_text()
    assert "&lt;b&gt;yes" in page and "<b>yes" not in page and "strips/001.png" in page
    text = sheet.read_text(encoding="utf-8-sig")
    lines = list(csv.DictReader(text.splitlines(keepends=True)))
    assert "Temporal" not in text and lines[0]["problem"] == '\'=cmd("x")' and lines[0]["id"] == "'=1"
    assert "cannot be read" in lines[5]["note"] and lines[1]["answer"] == "A. yes"
    with pytest.raises(ValueError, match="exists"):
        router_audit.write_sheet(drawn, tmp_path / "audit", Frames())
    # A person says Temporal to all but the Static ones, in their own spreadsheet's dialect, and skips ten.
    for number, line in enumerate(lines):
        line["human"] = "" if number >= 90 else " temporal" if number < 70 else "Static"
    lines[1]["human"] = "SPATIAL"
    with open(sheet, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, router_audit.COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows(lines)
    assert router.main(["score", "--rows", path, "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "agreement: 89 of 90 (98.9%)" in out and "'1': human Spatial, router Temporal" in out
    matrix = [line.split() for line in out.splitlines() if line.startswith(TASK_TYPES)]
    assert matrix == [["Spatial", "0", "1", "0", "0", "0"], ["Temporal", "0", "69", "0", "0", "0"],
                      ["Spatiotemporal", "0", "0", "0", "0", "0"], ["Static", "0", "0", "0", "20", "0"]]  # fmt: skip


def test_rows_without_a_label_count_against_the_router_and_apart():
    text = router_audit.agreement([("Static", "Static"), ("Static", None), ("Temporal", "Static")])
    assert "agreement: 1 of 3 (33.3%)" in text and "without the 1 rows that have no label: 1 of 2 (50.0%)" in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "needs the columns"),
        ("key,human\nq1,Tempral\n", "row 1: human must be one of"),
        ("key,human\nq1,Static\nq1,Static\n", "stands there twice"),
        ("key,human\nq1,\n", "no row is filled"),
        ("", "no row is filled"),
        ("key,human\nq1,Static\n", "no row of the sheet is in the rows file"),
        ("key,human\nq1\n", "needs the columns"),
        ("key,human\n,Static\n", "row 1: the column key is empty"),
    ],
)
def test_a_sheet_that_cannot_be_scored_is_refused(tmp_path, capsys, text, words):
    (tmp_path / "sheet.csv").write_text(text)
    path = write(tmp_path / "rows.jsonl", audit_rows())
    assert router.main(["score", "--rows", path, "--sheet", str(tmp_path / "sheet.csv")]) == 2
    assert words in capsys.readouterr().err


def test_the_table_has_the_shape_of_table_8(tmp_path, capsys):
    assert router.main(["table", "--rows", write(tmp_path / "rows.jsonl", audit_rows())]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "source Temporal Spatial Spatiotemporal Static no label total"
    assert lines[2] == "a 35 (70.0%) 1 (2.0%) 0 (0.0%) 10 (20.0%) 4 (8.0%) 50"
    assert lines[4] == "Total 70 (70.0%) 2 (2.0%) 0 (0.0%) 20 (20.0%) 8 (8.0%) 100"


@pytest.mark.slow
def test_the_audit_of_real_clips(tmp_path, capsys):
    world.write_world(tmp_path, train=12, pairs=0)
    (tmp_path / "clips" / "train_00003.mp4").write_bytes(b"\0\1\2\3" * 500)
    flags = ["--rows", str(tmp_path / "train.jsonl"), "--data-root", str(tmp_path), "--output", str(tmp_path / "audit")]
    assert router.main(["audit", *flags, "--size", "12", "--workers", "1"]) == 0
    assert "12 rows to fill" in (out := capsys.readouterr().out) and "1 clips could not be read" in out
    assert len(list((tmp_path / "audit" / "strips").glob("*.png"))) == 11
    assert router.main(["audit", *flags]) == 2


# ---------------------------------------------------------------------------------------------------------------------
# A local text model


@pytest.fixture(scope="module")
def text_model(tmp_path_factory) -> str:
    """A real Qwen3 with a tiny configuration and random weights: its replies are garbage."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from toy.model import CHAT_TEMPLATE, build_tokenizer

    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    config = Qwen3Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
    )
    folder = str(tmp_path_factory.mktemp("text_model"))
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_the_local_vllm_path(text_model, tmp_path, examples):
    long_row = plain_row(7) | {"problem": "word " * 5000}
    with open(examples, "a") as file:
        file.write(json.dumps(long_row) + "\n")
    command = [sys.executable, "router.py", "--rows", examples, "--output", str(tmp_path / "a.jsonl")]
    command += ["--engine", "vllm", "--model", text_model, "--max-tokens", "12", "--max-prompt-tokens", "7000"]
    command += ["--votes", "2", "--cpu-cache-mb", "128", "--gpu-memory", "0.2", "--temperature", "1"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "7 video rows: 0 labelled" in done.stdout and "7 without one (7 unreadable" in done.stdout
    assert [r.get("task_type") for r in read(tmp_path / "a.jsonl")] == [None] * 7
    lines = read(tmp_path / "a.jsonl.replies.jsonl")
    replies = [reply for line in lines[:6] for reply in line["replies"]]
    assert len(replies) == 6 * 2 * 2 and len({reply["text"] for reply in replies}) > 20  # every draw its own noise
    assert {reply["finish"] for reply in lines[6]["replies"]} == {"length"} and not lines[6]["replies"][0]["text"]
