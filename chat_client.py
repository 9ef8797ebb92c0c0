"""One question to an OpenAI-compatible chat endpoint: rate, deadline, retries. Standard library only.

Level 0: imports no file of ours. A request that the server could not serve (429, 5xx, a cut or garbled reply, a
deadline) is tried again with growing waits, a bounded number of times; any other refusal is final.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_REPLY_BYTES = 16 << 20  # no reasoning is that long; an endless body may not fill the memory
MAX_WAIT_S = 60.0  # of one pause between two tries, unless the server asks for more
MAX_ASKED_WAIT_S = 600.0  # what a Retry-After header can ask for at the most
_TRY_AGAIN = frozenset((408, 425, 429))


class ChatError(Exception):
    """The endpoint gave no reply; one line that says why."""


class Refused(ChatError):
    """A status that another try would not change; `status` holds it."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Unanswered(ChatError):
    """Every try failed."""


class _TryAgain(Exception):
    """This try failed in a way that may pass; `wait_s` is what the server asked for, if it did."""

    def __init__(self, reason: str, wait_s: float = 0.0):
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True)
class Reply:
    """What a model wrote."""

    text: str
    reasoning: str = ""
    """Where the server keeps it apart from the text."""
    finish: str = "stop"
    """"stop", or why the text ends early ("length")."""


class RateLimit:
    """At most `per_minute` turns a minute over all threads, evenly spaced; None = no limit."""

    def __init__(self, per_minute: float | None):
        self.gap_s = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self, closed: threading.Event) -> None:
        """Sleep until it is this caller's turn, or `closed`."""
        with self._lock:
            turn = max(time.monotonic(), self._next)
            self._next = turn + self.gap_s
        closed.wait(max(0.0, turn - time.monotonic()))


class ChatClient:
    """A chat endpoint; safe to share between threads."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "",
        deadline_s: float = 300.0,
        tries: int = 6,
        backoff_s: float = 1.0,
        requests_per_minute: float | None = None,
        fields: Mapping[str, object] | None = None,
    ):
        """`base_url`: up to and with "/v1". `backoff_s`: first pause, doubled at each further try. `fields`: of every
        request's body, over the usual ones; None leaves one out (some models refuse `temperature`).

        Raises ValueError, one line, for a URL that is none.
        """
        try:
            self.url = urlsplit(base_url.rstrip("/") + "/chat/completions")
            _ = self.url.port  # an attribute that raises
        except ValueError as error:
            raise ValueError(f"--base-url: {error}") from error
        if "@" in base_url or self.url.query or self.url.fragment:
            raise ValueError("--base-url must be a plain https://host/v1: no user, no query, no fragment")
        if self.url.scheme not in ("http", "https") or not self.url.hostname:
            raise ValueError(f"--base-url must look like https://host/v1, got {base_url!r}")
        if not api_key.isprintable() or not api_key.isascii():
            raise ValueError("the API key holds characters that no header can carry")
        self.model, self.deadline_s, self.tries, self.backoff_s = model, deadline_s, tries, backoff_s
        self._key = api_key
        self._fields = dict(fields or {})
        self._rate = RateLimit(requests_per_minute)
        self._closed = threading.Event()
        self._open: set[http.client.HTTPConnection] = set()

    def ask(
        self, prompt: str | Sequence[Mapping], *, seed: int, temperature: float, max_tokens: int, system: str = ""
    ) -> Reply:
        """The model's reply to one user turn: text, or the API's content parts (text and images).

        Raises Refused, or Unanswered once `tries` are used up.
        """
        turns = [{"role": "system", "content": system}] if system else []
        body = {
            "model": self.model,
            "messages": [*turns, {"role": "user", "content": prompt}],
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": seed,
        }
        body = {name: value for name, value in (body | self._fields).items() if value is not None}
        payload = json.dumps(body).encode()
        for attempt in range(1, self.tries + 1):
            self._rate.wait(self._closed)
            if self._closed.is_set():
                raise Unanswered(f"{self._host()}: not asked any more")
            try:
                return self._try(payload)
            except _TryAgain as failure:
                if attempt == self.tries:
                    raise Unanswered(f"{self._host()}: no reply in {self.tries} tries; the last: {failure}") from None
                pause = min(MAX_WAIT_S, self.backoff_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)
                self._closed.wait(max(pause, failure.wait_s))
        raise ValueError(f"tries must be at least 1, got {self.tries}")

    @classmethod
    def of(cls, args, fields: Mapping[str, object] | None = None) -> ChatClient:
        """The endpoint that a command's settings name; `args` has base_url, model, api_key_env, deadline, tries,
        backoff and requests_per_minute. ValueError, one line, for a URL that is none and a key that is not there."""
        key = os.environ.get(args.api_key_env, "").strip() if args.api_key_env else ""
        if args.api_key_env and not key:
            raise ValueError(f"--api-key-env: the environment has no {args.api_key_env}")
        return cls(
            args.base_url,
            args.model,
            api_key=key,
            deadline_s=args.deadline,
            tries=args.tries,
            backoff_s=args.backoff,
            requests_per_minute=args.requests_per_minute,
            fields=fields,
        )

    def close(self) -> None:
        """End every request under way, in whatever thread; they and later ones raise Unanswered."""
        self._closed.set()
        for connection in list(self._open):
            _cut(connection)

    def _host(self) -> str:
        return self.url.netloc

    def _try(self, payload: bytes) -> Reply:
        connection, target = self._connection()
        late = threading.Event()

        def cut_off() -> None:
            """A socket's own timeout starts anew with every byte; this one does not."""
            late.set()
            _cut(connection)

        timer = threading.Timer(self.deadline_s, cut_off)
        timer.daemon = True
        timer.start()
        self._open.add(connection)
        try:
            connection.request("POST", target, payload, self._headers())
            if self._closed.is_set():  # before there was a socket to cut
                raise _TryAgain("not asked any more")
            response = connection.getresponse()
            status, asked = response.status, response.getheader("Retry-After")
            data = response.read(MAX_REPLY_BYTES)
        except (OSError, http.client.HTTPException) as error:
            if late.is_set() or isinstance(error, TimeoutError):
                raise _TryAgain(f"no full reply within {self.deadline_s:g} s") from error
            raise _TryAgain(f"{type(error).__name__}: {self._one_line(str(error))}") from error
        finally:
            timer.cancel()
            self._open.discard(connection)
            connection.close()
        if late.is_set():  # a body without a length ends like this
            raise _TryAgain(f"no full reply within {self.deadline_s:g} s")
        if status in _TRY_AGAIN or status >= 500:
            raise _TryAgain(f"HTTP {status}: {self._explanation(data)}", _seconds(asked))
        if status != 200:
            raise Refused(status, f"{self._host()}: HTTP {status}: {self._explanation(data)}")
        return self._reply(data)

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        """(connection, request target), through the environment's proxy where there is one."""
        scheme, host, port = self.url.scheme, self.url.hostname, self.url.port
        kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(scheme)
        if not proxy:
            return kind(host, port, timeout=self.deadline_s), self.url.path
        via = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        connection = kind(via.hostname, via.port or 8080, timeout=self.deadline_s)
        if scheme == "http":
            return connection, f"http://{self._host()}{self.url.path}"
        connection.set_tunnel(host, port or 443)
        return connection, self.url.path

    def _headers(self) -> dict[str, str]:
        key = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return {"Content-Type": "application/json", "Accept": "application/json", **key}

    def _reply(self, data: bytes) -> Reply:
        try:
            choice = json.loads(data)["choices"][0]
            message, finish = choice["message"], choice.get("finish_reason") or "stop"
            reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
            reply = Reply(self._without_key(message.get("content") or ""), self._without_key(reasoning), finish)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _TryAgain(f"HTTP 200, but no chat completion: {self._explanation(data)}") from error
        if not all(isinstance(part, str) for part in (reply.text, reply.reasoning, reply.finish)):
            raise _TryAgain(f"HTTP 200, but no chat completion: {self._explanation(data)}")
        return reply

    def _explanation(self, data: bytes) -> str:
        """The server's words for an error, in one line."""
        text = data[:4000].decode("utf-8", "replace")
        with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
            error = json.loads(text)["error"]
            text = error["message"] if isinstance(error, dict) else str(error)
        return self._one_line(str(text)) or "no explanation"

    def _one_line(self, text: str) -> str:
        return " ".join("".join(c if c.isprintable() else " " for c in self._without_key(text)).split())[:300]

    def _without_key(self, text: str) -> str:
        """Some servers repeat it, and a reply is kept."""
        return text.replace(self._key, "***") if self._key and isinstance(text, str) else text


def _cut(connection: http.client.HTTPConnection) -> None:
    """End a connection that another thread is reading."""
    sock = connection.sock  # one look: the other thread may set it to None
    with contextlib.suppress(OSError):
        if sock is not None:
            sock.shutdown(socket.SHUT_RDWR)


def _seconds(header: str | None) -> float:
    """Retry-After as seconds; a date or anything else is no request."""
    return min(float(header), MAX_ASKED_WAIT_S) if header and header.isdecimal() and header.isascii() else 0.0
