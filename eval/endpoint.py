"""A model behind an OpenAI-compatible endpoint with the face of an engine: `generate`. Frames travel as JPEG images.

A request that the endpoint did not answer, however often it was asked, has an error: it is not a wrong answer. A key or
a model that is refused, and many failures in a row, end the run at once: the next ones would fare no better.
"""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from chat_client import ChatClient, ChatError, Refused
from episode import Prompt, Rollout
from rollout import Generated, Request, pictures_of

JPEG_QUALITY = 95
MAX_FAILURES = 20  # requests in a row without a reply, before the run gives up


class GaveUp(Exception):
    """Asking on makes no sense; one line that says why."""


class Endpoint:
    """Asks one request after another; safe to call from threads, which is how it is made fast
    (`eval.answer.as_they_come`)."""

    def __init__(self, client: ChatClient, *, system_prompt: str):
        """`system_prompt`: empty = no system turn."""
        self.client, self.system_prompt = client, system_prompt
        self._lock = threading.Lock()
        self._replies = self._streak = 0

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """Results in the order of `requests`, one completion each, whose text is the user's words. Raises GaveUp."""
        return [self._ask(request) for request in requests]

    def _ask(self, request: Request) -> Generated:
        how = dict(seed=request.seed, temperature=request.sampling.temperature, max_tokens=request.sampling.max_tokens)
        try:
            reply = self.client.ask(content_parts(request.prompt), system=self.system_prompt, **how)
        except ChatError as error:
            self._note_failure(error)
            return Generated((), [], str(error))
        with self._lock:
            self._replies, self._streak = self._replies + 1, 0
        return Generated((), [Rollout((), torch.empty(0), reply.text, reply.finish)])

    def _note_failure(self, error: ChatError) -> None:
        with self._lock:
            self._streak += 1
            # A refused key or model is refused for every request; a refused prompt, once others passed, is its own.
            if isinstance(error, Refused) and (error.status in (401, 403, 404) or not self._replies):
                raise GaveUp(str(error)) from error
            if self._streak >= MAX_FAILURES:
                raise GaveUp(
                    f"{self._streak} requests in a row without a reply; start again to go on. The last: {error}"
                ) from error

    def close(self) -> None:
        """End every request under way."""
        self.client.close()


def content_parts(prompt: Prompt) -> list[dict]:
    """The user's turn as the chat API's content: each frame as an image, in the order of showing, then the words."""
    pictures = [{"type": "image_url", "image_url": {"url": _jpeg(frame)}} for frame in pictures_of(prompt.view)]
    return [*pictures, {"type": "text", "text": prompt.text}]


def _jpeg(frame: np.ndarray) -> str:
    """uint8 (H, W, 3) as a data URL."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "jpeg", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
