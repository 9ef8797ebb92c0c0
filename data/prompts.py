"""Chat text and processor inputs: the one place that turns a question and a view into what the model reads.

Trainer and engine are both fed from here, so their token ids and pixels are identical (facts: docs of `rollout.py`).
"""

from __future__ import annotations

import numpy as np
import torch

from episode import Prompt, Question, View
from tasks import TASKS, user_turn

# Paper App. B.1, "Training System Prompt", verbatim.
SYSTEM_PROMPT = (
    "You are a helpful assistant. FIRST, think through the reasoning process as an internal monologue, and THEN "
    "provide the final answer. The reasoning process MUST be enclosed within <think> </think> tags, and the final "
    "answer MUST be wrapped in \\boxed{}."
)
ANSWER_REQUEST = "Put your final answer in \\boxed{}."
# Qwen3-VL's own processor would enlarge an image below 64 cells; the recipe lets it have 4.
IMAGE_OPTIONS = {"do_resize": False}


def question_text(question: Question, answer_request: str = ANSWER_REQUEST) -> str:
    """The user turn's text: problem, one option per line, and the request for a boxed answer (empty to leave out).

    A type of `tasks.TASKS` has words of its own in the place of the paper's.
    """
    if answer_request == ANSWER_REQUEST and question.problem_type in TASKS:
        return user_turn(question)
    lines = [question.problem]
    if question.options:
        lines += ["Options:", *question.options]
    if answer_request:
        lines.append(answer_request)
    return "\n".join(lines)


def build_prompt(
    processor,
    question: Question,
    view: View | None,
    *,
    system_prompt: str = SYSTEM_PROMPT,
    answer_request: str = ANSWER_REQUEST,
) -> Prompt:
    """Render the chat template with clip or image before the text (as the donor recipe does) and the reply opened."""
    content = [{"type": "text", "text": question_text(question, answer_request)}]
    if system_prompt == SYSTEM_PROMPT and question.problem_type in TASKS:
        system_prompt = ""  # it asks for a box
    if view is not None:
        content.insert(0, {"type": "image" if view.still else "video"})
    messages = [{"role": "user", "content": content}]
    if system_prompt:
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    return Prompt(processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False), view)


def video_metadata(view: View) -> dict:
    """Metadata both processors need to write the timestamps; without it they guess 24 fps or refuse."""
    return {
        "fps": view.fps,
        "duration": view.source_frames / view.fps,
        "total_num_frames": view.source_frames,
        "frames_indices": list(view.frame_indices),
        "video_backend": "opencv",
    }


def frames_thwc(view: View) -> np.ndarray:
    """uint8 (F, H, W, 3): the layout both processors take; bytes, so that neither side rounds a float."""
    return np.ascontiguousarray(view.frames.permute(0, 2, 3, 1).numpy())


def processor_inputs(processor, prompt: Prompt) -> dict:
    """Token ids and patches of one prompt for the trainer: `input_ids` (1, P), `mm_token_type_ids` (1, P) and what
    `vision_inputs` picks out of them.

    Raises ValueError if the processor would resize the frames: then its pixel budget and `--*-pixels` disagree and
    the counterfactual would no longer be a pure transform of the same pixels.
    """
    view, vision = prompt.view, {}
    if view is not None and view.still:
        vision = dict(images=[frames_thwc(view)[0]], **IMAGE_OPTIONS)
    elif view is not None:
        vision = dict(
            videos=[frames_thwc(view)],
            video_metadata=[video_metadata(view)],
            do_sample_frames=False,
        )
    inputs = dict(processor(text=[prompt.text], **vision, return_tensors="pt", return_mm_token_type_ids=True))
    if view is None:
        return inputs
    kind = "image" if view.still else "video"
    height, width = view.frames.shape[-2:]
    patch = processor.video_processor.patch_size
    grid = inputs[f"{kind}_grid_thw"][0].tolist()
    if grid[1:] != [height // patch, width // patch]:
        raise ValueError(
            f"the processor resized {width}x{height} frames to {grid[2] * patch}x{grid[1] * patch}: its `size` must "
            f"hold the frames as sampled; raise `longest_edge` in the model's {kind} processor or lower --max-pixels"
        )
    return inputs


def vision_inputs(inputs: dict) -> dict[str, torch.Tensor]:
    """What of `processor_inputs` is vision, under the names that Qwen3-VL's forward takes: `pixel_values_videos`
    (patches, dim) and `video_grid_thw` (1, 3) of a clip, `pixel_values` and `image_grid_thw` of an image, or none.
    """
    names = ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw")
    return {name: inputs[name] for name in names if name in inputs}
