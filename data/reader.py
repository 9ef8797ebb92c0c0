"""A question as the policy reads it: its clip decoded, its text rendered, its length bounded.

Training, evaluation and pass rates read through the same few lines, so that a rate is of the prompt that is trained.
"""

from __future__ import annotations

import os

from data.clips import Clips, ClipSettings
from data.prompts import ANSWER_REQUEST, SYSTEM_PROMPT, build_prompt, processor_inputs
from data.video import ClipError
from episode import Prompt, Question, View


def open_clips(settings) -> Clips:
    """The processes that decode clips by `settings`: a `config.Config`, or other settings with its names."""
    return Clips(
        ClipSettings(settings.frames, settings.max_pixels, settings.min_frame_pixels, settings.max_frame_pixels),
        workers=settings.decode_workers,
        deadline=settings.decode_timeout,
        cache=(os.path.abspath(settings.cache_dir), int(settings.cache_gb * 1e9)) if settings.cache_dir else None,
    )


class Reader:
    """Questions -> prompts. `settings`: a `config.Config`, or other settings with its names."""

    def __init__(self, processor, settings, clips: Clips):
        self._processor = processor
        self.clips = clips
        self._max_tokens = settings.max_prompt_tokens
        self._words = {
            "system_prompt": SYSTEM_PROMPT if settings.system_prompt == "paper" else settings.system_prompt,
            "answer_request": ANSWER_REQUEST if settings.answer_request == "paper" else settings.answer_request,
        }

    def render(self, question: Question, view: View | None) -> Prompt:
        """The prompt about one view of a question's clip, of whatever length."""
        return build_prompt(self._processor, question, view, **self._words)

    def prompt(self, question: Question, view: View | None) -> Prompt:
        """The same, refused with ClipError where it is too long."""
        prompt = self.render(question, view)
        self.check_length(processor_inputs(self._processor, prompt)["input_ids"].shape[1])
        return prompt

    def check_length(self, tokens: int) -> None:
        """ClipError for a prompt of more than --max-prompt-tokens: cut short, it would lose part of its clip."""
        if tokens > self._max_tokens:
            raise ClipError(f"its prompt has {tokens} tokens, --max-prompt-tokens is {self._max_tokens}")
