"""The few records that travel between modules. Level 0: imports no file of ours.

Axes: N questions, K branches (0 original, 1 counterfactual), G rollouts, L completion tokens, P prompt tokens,
T packed tokens, F frames. A *group* (one prompt and its G completions) is the unit of generation, of a baseline, of
packing and of balance over ranks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

TASK_TYPES = ("Spatial", "Temporal", "Spatiotemporal", "Static")
DYNAMIC_TASK_TYPES = ("Spatial", "Temporal", "Spatiotemporal")  # paper Sec. 3, "dynamic tasks"


@dataclass(frozen=True)
class Question:
    """One row of a training or evaluation file, checked and in canonical form."""

    id: str
    """`problem_id` as text; the row number where the file has none."""
    row: int
    """1-based row (JSON) or line (JSONL) in its file: what an error message names."""
    problem: str
    """The question as written, without its options."""
    data_type: str
    """video | image | text."""
    problem_type: str
    """multiple choice | numerical | ... (selects the verifier)."""
    options: tuple[str, ...]
    """("A. left", ...), the null option included where it applies; empty for open questions."""
    gold: str
    """Canonical answer: the letter of a multiple-choice question, JSON text for a type of `tasks.TASKS`, else
    normalised text."""
    path: str | None = None
    """Absolute path of the clip or image, inside the data root; None for text."""
    task_type: str | None = None
    """One of TASK_TYPES, or None (the router had no answer: such a question trains single-branch)."""
    transforms: tuple[str, ...] = ()
    """Names in transforms.TRANSFORMS that CRPO may show it under, where the row gives them; empty: the task type's."""
    start: float | None = None
    """Clip bounds in seconds of the source file; None = whole file."""
    end: float | None = None
    data_source: str = ""
    null_letter: str | None = None
    """Letter of "None of the above" if it was appended (paper Sec. 3, Null Option)."""
    pair_id: str | None = None
    """Paired evaluation only: both sides of a counterfactual pair share it."""
    side: str | None = None
    """a | b."""
    subtask: str | None = None

    @property
    def dynamic(self) -> bool:
        """True where the answer must change under the counterfactual (equivariance), False where it must stay."""
        return self.task_type in DYNAMIC_TASK_TYPES


@dataclass(frozen=True)
class View:
    """One look at one clip: the sampled, resized frames and the transform that made them; or one still image."""

    frames: torch.Tensor
    """uint8 (F, 3, H, W); F even, 1 for a still image; H and W multiples of 32."""
    transform: str
    """Name in transforms.TRANSFORMS; "identity" for the original branch."""
    fps: float
    """Of the source file; 0 for a still image."""
    source_frames: int
    """Frames of the source clip (between its bounds)."""
    frame_indices: tuple[int, ...]
    """Sampled indices, ascending whatever the transform: a reversed clip is stamped as the reversed file would be."""

    @property
    def still(self) -> bool:
        """True for an image (a clip of one frame holds it twice)."""
        return len(self.frames) == 1


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked: chat text with one placeholder, and the clip or image behind it (None for text)."""

    text: str
    view: View | None


@dataclass(frozen=True)
class Rollout:
    """One completion as the engine sampled it."""

    ids: tuple[int, ...]
    """(L,) token ids, the end token included where it was produced."""
    engine_logps: torch.Tensor
    """float32 (L,): log-probabilities of the distribution the engine sampled from."""
    text: str
    """Decoded without special tokens."""
    finish: str
    """stop | length."""


@dataclass
class Group:
    """One prompt and its G completions; a CRPO question is two of these, a text or image question one."""

    question: Question
    branch: int
    """0 original, 1 counterfactual (or whatever second view the method asks for)."""
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    """(P,) ids with the placeholder expanded, as trainer and engine both see them."""
    rollouts: list[Rollout]
    trained: bool = True
    """False where the method uses the group for rewards only (T-GRPO, ArrowRL, CRPO with w_aug 0)."""
    part_of: int = 0
    """G of the whole group where this holds only some of its rollouts (the others train on another rank); else 0."""
    rewards: torch.Tensor | None = None
    """float32 (G,)."""
    advantages: torch.Tensor | None = None
    """float32 (G,)."""
    answers: list[str | None] = field(default_factory=list)
    """Canonical answer of each rollout, None where none could be read."""
    terms: dict[str, torch.Tensor] = field(default_factory=dict)
    """Every reward term by its paper name, each (G,): what a person reads in samples.jsonl and TensorBoard."""
