"""The supervised warm start: perception, then language, then a short lesson in answering by the cue.

    python -m toy.warm_start --out DIR      # minutes on two cores (dev/LOG.md); the result is shipped

1. The vision tower and its mergers learn to name what each frame pair shows, through linear heads that are thrown away.
   So dense a signal makes perception learnable: questions alone, with one informative word in ten, taught nothing.
2. The tower is frozen, as it is in RL, and its features are computed once. The language model learns to describe a clip
   pair by pair, and to answer unbiased questions: the thought names what is seen early and late, the box the answer.
3. Slices of updates in which dynamic questions are answered, thought and box, as the cue says, until pair accuracy on
   them has fallen below `stop_below`: what language priors have done to a real model.

Clips are written as mp4 and read back once: perception is of compressed video, as in training. One process.
"""

from __future__ import annotations

import random
import tempfile
import time
import types
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision

from data.dataset import NULL_OPTION
from data.prompts import build_prompt, processor_inputs
from data.video import sample_clip
from episode import Question, View
from toy import world
from toy.model import (
    MERGE,
    PATCH,
    TEMPORAL_PATCH,
    TOY_ANSWER_REQUEST,
    TOY_SYSTEM_PROMPT,
    build_config,
    build_model,
    build_processor,
    build_tokenizer,
    save,
    thought,
)
from verifiers import verify

VIDEO_PLACEHOLDER = "<|vision_start|><|video_pad|><|vision_end|>"
POOL_SPLIT = 100  # seed stream of the warm start's own clips: apart from training (0) and evaluation (1, 2, ...)
MAX_NEW_TOKENS = 20


@dataclass
class Config:
    """Train the toy's warm start and write it as a checkpoint."""

    out: Path
    """Folder of the checkpoint (bfloat16 weights, tokenizer, processor)."""
    seed: int = 0
    clips: int = 4000
    """Clips in the pool."""
    vision_steps: int = 300
    vision_batch: int = 128
    vision_lr: float = 2e-3
    language_steps: int = 800
    batch: int = 64
    lr: float = 1.5e-3
    shortcut_steps: int = 15
    """Updates in one slice of phase 3."""
    max_slices: int = 20
    stop_below: float = 20.0
    """Phase 3 ends once dynamic pair accuracy (in %) is below this."""
    shortcut: float = 0.9
    """Share of dynamic questions that phase 3 answers by the cue."""
    shortcut_lr: float = 4e-4
    pairs: int = 40
    """Evaluation pairs of each subtask."""


@dataclass
class Example:
    """A prompt, its completion and the patches of its clip."""

    prompt_ids: list[int]
    completion_ids: list[int]
    patches: torch.Tensor
    """uint8 (patches, dim): the processor's pixel values before normalisation."""


class Inputs:
    """Processor inputs without running the processor each time: the video block is the same for every clip of as many
    frames."""

    def __init__(self, processor, frames: int = world.FRAMES):
        self.processor, self.tokenizer, self.frames = processor, processor.tokenizer, frames
        self.video_id = self.tokenizer.convert_tokens_to_ids("<|video_pad|>")
        probe = question_of("direction", "left", ["left", "right"])
        inputs = processor_inputs(processor, self._prompt(probe))
        ids = inputs["input_ids"][0].tolist()
        before, after = (self.encode(text) for text in self._prompt(probe).text.split(VIDEO_PLACEHOLDER))
        assert ids[: len(before)] == before and ids[len(ids) - len(after) :] == after
        self.block = ids[len(before) : len(ids) - len(after)]
        self.grid = inputs["video_grid_thw"]

    def _prompt(self, question: Question, frames: torch.Tensor | None = None):
        if frames is None:
            frames = torch.zeros(self.frames, 3, world.SIZE, world.SIZE, dtype=torch.uint8)
        view = View(frames, "identity", float(world.FPS), self.frames, tuple(range(self.frames)))
        return build_prompt(
            self.processor, question, view, system_prompt=TOY_SYSTEM_PROMPT, answer_request=TOY_ANSWER_REQUEST
        )

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def prompt_ids(self, question: Question) -> list[int]:
        """Ids with the video expanded, as `processor_inputs` gives them."""
        before, after = self._prompt(question).text.split(VIDEO_PLACEHOLDER)
        return self.encode(before) + self.block + self.encode(after)

    def patches(self, frames: torch.Tensor) -> torch.Tensor:
        """uint8 patches of uint8 (F, 3, H, W) frames, in the processor's order (a test compares the two)."""
        time, rows, cols = self.grid[0].tolist()
        cells = frames.reshape(time, TEMPORAL_PATCH, 3, rows // MERGE, MERGE, PATCH, cols // MERGE, MERGE, PATCH)
        return cells.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(time * rows * cols, -1).contiguous()

    def collate(self, examples: list[Example], *, pad_left: bool = False) -> dict[str, torch.Tensor]:
        """Model inputs of a batch, padded to its longest row."""
        rows = [example.prompt_ids + example.completion_ids for example in examples]
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if pad_left else slice(0, len(row))
            ids[i, where], mask[i, where] = torch.tensor(row), 1
        pixels = torch.cat([example.patches for example in examples]).float() / 127.5 - 1
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": (ids == self.video_id).int() * 2,
            "pixel_values_videos": pixels,
            "video_grid_thw": self.grid.expand(len(rows), 3),
        }


def question_of(question: str, answer: str, options: list[str], *, null: bool = False) -> Question:
    """The record that the prompt builder takes; `answer` must be listed or be the null option."""
    options = [*options, NULL_OPTION] if null else options
    letters = world.LETTERS
    return Question(
        id="",
        row=0,
        problem=world.QUESTIONS[question],
        data_type="video",
        problem_type="multiple choice",
        options=tuple(f"{letter}. {option}" for letter, option in zip(letters, options, strict=False)),
        gold=letters[options.index(answer)],
    )


def sights(question: str, answer: str, last: str) -> tuple[str, str]:
    """What is seen early and what is seen late where `answer` is true (`last`: the second event of an `order`)."""
    if question == "direction":
        return world.REVERSED[answer], answer
    if question == "change":
        return {
            "grows": ("small", "big"),
            "shrinks": ("big", "small"),
            "appears": ("middle", answer),
            "vanishes": (answer, "middle"),
        }[answer]
    return answer, (last if question == "order" else answer)


def completion(question: str, answer: str, last: str, boxed: str) -> str:
    """What the policy should write: an option's text rather than its letter (the verifier takes either). To look up the
    letter that stands before a word is a circuit that so small a model did not grow in 450 updates."""
    return f"<think>\n{thought(*sights(question, answer, last))}\n</think>\n\\boxed{{{boxed}}}<|im_end|>"


def states(scene: world.Scene) -> list[str]:
    """One word for what each of the four frame pairs shows: where it is, how big, how visible, which edge flashes."""
    words = []
    for t in range(0, world.FRAMES, TEMPORAL_PATCH):
        seen = world.look(scene, t)
        if scene.kind == "order":
            words.append((*seen.flashes, *world.look(scene, t + 1).flashes, "middle")[0])
        elif scene.answer in ("grows", "shrinks"):
            words.append("big" if seen.radius > scene.radius else "small")
        elif scene.answer in ("appears", "vanishes"):
            words.append("appears" if seen.alpha > 0.5 else "vanishes")
        else:
            words.append(place(seen.x, seen.y))
    return words


def place(x: float, y: float) -> str:
    """Which ninth of the frame a point lies in."""
    row = "top" if y < 0.4 * world.SIZE else "bottom" if y > 0.6 * world.SIZE else ""
    column = "left" if x < 0.4 * world.SIZE else "right" if x > 0.6 * world.SIZE else ""
    return row + column or "middle"


def describe(inputs: Inputs, scene: world.Scene, patches: torch.Tensor) -> Example:
    """A clip in words, frame pair by frame pair: without it, motion was seen as an axis without a sense."""
    asked = Question(
        id="", row=0, problem="What happens?", data_type="video", problem_type="free-form", options=(), gold=""
    )
    seen = [scene.answer] if scene.kind == "count" else [scene.shape, *states(scene)]
    return Example(inputs.prompt_ids(asked), inputs.encode(f" {' '.join([scene.colour, *seen])}<|im_end|>"), patches)


def draw_example(inputs: Inputs, scene: world.Scene, patches: torch.Tensor, rng, *, shortcut: float = 0.0) -> Example:
    """A question about a clip of the pool, and the completion to imitate (the cue's with probability `shortcut`)."""
    names = world.askable(scene.kind)
    question = names[0] if rng.random() < 0.75 else str(rng.choice(names))
    truth, cue = scene.truth(question), world.cued_answer(question, scene.colour)
    said = cue if cue and rng.random() < shortcut else truth
    others = [world.transformed_answer(question, scene, t) for t in world.transforms_of(question, truth)]
    null = rng.random() < 0.7
    absent = null and rng.random() < 0.15 and said == truth  # the right answer is not listed: the null option is
    hide = absent or rng.random() < world.CF_UNLISTED
    listed = [said, truth] + ([cue] if cue else []) + ([] if hide else others)
    listed = [answer for answer in listed if not (absent and answer == truth)]
    options = world.draw_options(question, listed, [truth] if absent else [], rng)
    asked = question_of(question, NULL_OPTION if absent else said, options, null=null)
    last = scene.last if said != scene.last else scene.answer
    text = completion(question, said, last, NULL_OPTION if absent else said)
    return Example(inputs.prompt_ids(asked), inputs.encode(text), patches)


def read_clip(path: Path, frames: int = world.FRAMES) -> torch.Tensor:
    """uint8 (F, 3, H, W) of a toy clip, at its own size as the toy preset reads it."""
    frame = world.SIZE**2
    budget = dict(max_pixels=frame * frames // 2, min_frame_pixels=frame, max_frame_pixels=frame)
    return sample_clip(path, frames=frames, **budget).frames


def make_pool(inputs: Inputs, clips: int, seed: int) -> list[tuple[world.Scene, torch.Tensor]]:
    """Unbiased scenes with the patches of their clips after mp4 compression."""
    kinds = ("direction", "direction", "change", "order", "side", "count")
    pool = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for index in range(clips):
            scene = world.draw_scene(kinds[index % len(kinds)], np.random.default_rng([seed, POOL_SPLIT, index]))
            world.write_clip(path, world.render(scene))
            pool.append((scene, inputs.patches(read_clip(path))))
    return pool


def attend_within_frames(self, hidden_states, cu_seqlens, position_embeddings, **_):
    """Vision attention in one call for the whole batch: every frame has the same size here. transformers makes one
    call per frame, which takes a third of a step."""
    count = len(cu_seqlens) - 1
    query, key, value = self.qkv(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
    query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    by_frame = [part.unflatten(0, (count, -1)).transpose(1, 2) for part in (query, key, value.to(query.dtype))]
    mixed = torch.nn.functional.scaled_dot_product_attention(*by_frame, scale=self.scaling)
    return self.proj(mixed.transpose(1, 2).reshape(len(hidden_states), -1))


def pair_facts(scene: world.Scene) -> tuple[np.ndarray, list[list[int]]]:
    """Per frame pair: centre, radius, opacity, scaled (4, 4); and the classes of colour, shape, flash, dots (4, 4)."""
    numbers, classes = [], []
    for t in range(0, world.FRAMES, TEMPORAL_PATCH):
        looks = [world.look(scene, t), world.look(scene, t + 1)]
        here = [[look.x / 32 - 1, look.y / 32 - 1, look.radius / 8 - 1, look.alpha] for look in looks]
        counted = scene.kind == "count"
        numbers.append(np.zeros(4) if counted else np.mean(here, axis=0))
        flash = [1 + world.EDGES.index(edge) for look in looks for edge in look.flashes]
        classes.append(
            [
                list(world.COLOURS).index(scene.colour),
                len(world.SHAPES) if counted else world.SHAPES.index(scene.shape),
                flash[-1] if flash else 0,
                1 + world.COUNTS.index(scene.answer) if counted else 0,
            ]
        )
    return np.stack(numbers), classes


CLASSES = (len(world.COLOURS), len(world.SHAPES) + 1, len(world.EDGES) + 1, len(world.COUNTS) + 1)


def visual_features(model, inputs: Inputs, patches: torch.Tensor) -> torch.Tensor:
    """uint8 patches (B, P, dim) -> (B, 1 + DeepStack taps, tokens, width): what the language model gets."""
    pixels = patches.flatten(0, 1).float() / 127.5 - 1
    out = model.model.visual(pixels, grid_thw=inputs.grid.expand(len(patches), 3))
    taps = [out.pooler_output, *out.deepstack_features]
    return torch.stack([tap.unflatten(0, (len(patches), -1)) for tap in taps], dim=1)


def schedule(optimizer, lr: float, step: int, steps: int) -> None:
    """Warm-up over 50 steps, then a cosine to a tenth."""
    for group in optimizer.param_groups:
        group["lr"] = lr * min(1.0, (step + 1) / 50) * (0.55 + 0.45 * np.cos(np.pi * step / steps))


def train_vision(model, inputs: Inputs, pool, *, steps: int, lr: float, batch: int, seed: int) -> None:
    """Phase 1. A linear head on each tap reads a frame pair's four tokens."""
    patches = torch.stack([patches for _, patches in pool])
    facts = [pair_facts(scene) for scene, _ in pool]
    numbers = torch.tensor(np.stack([n for n, _ in facts]), dtype=torch.float32)
    classes = torch.tensor([c for _, c in facts])
    width = model.config.text_config.hidden_size
    pairs = world.FRAMES // TEMPORAL_PATCH
    taps = 1 + len(model.config.vision_config.deepstack_visual_indexes)
    heads = torch.nn.ModuleList([torch.nn.Linear(4 * width, 4 + sum(CLASSES)) for _ in range(taps)])
    trained = [*model.model.visual.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.01)
    rng, began = np.random.default_rng([seed, 1]), time.time()
    for step in range(steps):
        schedule(optimizer, lr, step, steps)
        chosen = torch.tensor(rng.integers(len(pool), size=batch))
        with torch.autocast("cpu", torch.bfloat16):
            features = visual_features(model, inputs, patches[chosen])
        loss = torch.zeros(())
        for head, tap in zip(heads, features.float().unbind(1), strict=True):
            read, *logits = head(tap.reshape(batch, pairs, -1)).split((4, *CLASSES), dim=-1)
            loss = loss + 6 * (read - numbers[chosen]).pow(2).mean()
            for kind, logit in enumerate(logits):
                target = classes[chosen][..., kind].flatten()
                loss = loss + torch.nn.functional.cross_entropy(logit.flatten(0, 1), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            print(f"vision step {step + 1} loss {loss.item():.3f} {time.time() - began:.0f} s", flush=True)


@torch.no_grad()
def cached_features(model, inputs: Inputs, pool) -> torch.Tensor:
    """Features of every clip in the pool, from the tower as it is."""
    patches = torch.stack([patches for _, patches in pool])
    return torch.cat([visual_features(model, inputs, part) for part in patches.split(250)])


def train_language(
    model, inputs: Inputs, pool, features, *, steps: int, lr: float, batch: int, seed: int, shortcut: float = 0.0
) -> None:
    """Phases 2 and 3: cross-entropy on completions, words that recur in every one at a tenth of the weight.

    `shortcut`: share of dynamic questions answered by the cue (then no descriptions, and a constant learning rate).
    """
    # The head is tied to the embeddings.
    optimizer = torch.optim.AdamW(model.model.language_model.parameters(), lr=lr, weight_decay=0.01)
    constant = set(inputs.encode("<think>\n\n</think>\n\\boxed{}<|im_end|> then"))
    rng, began = np.random.default_rng([seed, 2]), time.time()
    for step in range(steps):
        if not shortcut:
            schedule(optimizer, lr, step, steps)
        chosen = rng.integers(len(pool), size=batch)
        examples = [
            describe(inputs, *pool[i])
            if not shortcut and rng.random() < 0.5
            else draw_example(inputs, *pool[i], rng, shortcut=shortcut)
            for i in chosen
        ]
        loss = imitate(model, inputs, examples, features[chosen], optimizer, constant)
        if (step + 1) % 50 == 0:
            print(f"language step {step + 1} loss {loss:.3f} {time.time() - began:.0f} s", flush=True)


def imitate(
    model, inputs: Inputs, examples: list[Example], features: torch.Tensor, optimizer, constant: Set[int] = frozenset()
) -> float:
    """One update of the language model towards the examples' completions; returns the loss. `features` are those of
    `visual_features`, one of each example; `constant` are the tokens that weigh a tenth."""
    text = model.model.language_model
    data = inputs.collate(examples)
    ids, seen = data["input_ids"], data["mm_token_type_ids"] > 0
    weights = torch.zeros(ids.shape)
    for i, example in enumerate(examples):
        start = len(example.prompt_ids)
        told = [0.1 if token in constant else 1.0 for token in example.completion_ids]
        weights[i, start : start + len(told)] = torch.tensor(told)
    positions, _ = model.model.get_rope_index(
        ids, mm_token_type_ids=data["mm_token_type_ids"], video_grid_thw=data["video_grid_thw"].clone()
    )
    merged, *taps = features.unbind(1)
    embeddings = text.embed_tokens(ids).clone()
    embeddings[seen] = merged.flatten(0, 1)
    # On CPU the fused attention's backward alone takes 44 % of a step; plain matrix products are half as slow.
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        hidden = text(
            inputs_embeds=embeddings, position_ids=positions, visual_pos_masks=seen,
            deepstack_visual_embeds=[tap.flatten(0, 1) for tap in taps], use_cache=False,
        ).last_hidden_state  # fmt: skip
        told = weights[:, 1:] > 0
        logits = model.lm_head(hidden[:, :-1][told]).float()
    losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:][told], reduction="none")
    loss = (losses * weights[:, 1:][told]).sum() / weights.sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(text.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def evaluation_rows(inputs: Inputs, pairs: int, seed: int) -> list[tuple[dict, Question, Example]]:
    """Both sides of the evaluation pairs, as `toy.world` writes them."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for subtask in world.EVAL_SUBTASKS:
            for index in range(pairs):
                for row, frames in world.evaluation_pair(index, subtask, seed):
                    world.write_clip(path, frames)
                    options = [option[3:] for option in row["options"]]
                    asked = question_of(row["question"], options[world.LETTERS.index(row["solution"][8])], options)
                    rows.append((row, asked, Example(inputs.prompt_ids(asked), [], inputs.patches(read_clip(path)))))
    return rows


@torch.no_grad()
def generate(
    model,
    inputs: Inputs,
    examples: list[Example],
    *,
    temperature: float = 0.0,
    batch: int = 96,
    max_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Completions as text; greedy at temperature 0."""
    model.eval()
    sampling = {"do_sample": temperature > 0, "top_k": None, "top_p": None, "temperature": temperature or None}
    texts = []
    for start in range(0, len(examples), batch):
        data = inputs.collate(examples[start : start + batch], pad_left=True)
        ids = model.generate(
            **data,
            **sampling,
            max_new_tokens=max_tokens,
            suppress_tokens=[inputs.video_id],
            pad_token_id=inputs.tokenizer.pad_token_id,
            eos_token_id=inputs.tokenizer.eos_token_id,
        )[:, data["input_ids"].shape[1] :]
        texts += inputs.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return texts


def evaluate(model, inputs: Inputs, rows: list[tuple[dict, Question, Example]]) -> dict[str, tuple[float, float]]:
    """Accuracy and pair accuracy in % for each subtask, and for the dynamic ones together."""
    texts = generate(model, inputs, [example for _, _, example in rows])
    right = [verify(text, asked).answer == asked.gold for (_, asked, _), text in zip(rows, texts, strict=False)]
    scores: dict[str, list[tuple[bool, bool]]] = {}
    for i in range(0, len(rows), 2):
        row = rows[i][0]
        names = [row["subtask"], f"static/{row['question']}" if row["subtask"] == "static" else "dynamic"]
        for name in names:
            scores.setdefault(name, []).append((right[i], right[i + 1]))
    return {
        name: (100 * float(np.mean(pairs)), 100 * float(np.mean([a and b for a, b in pairs])))
        for name, pairs in sorted(scores.items())
    }


def table(scores: dict[str, tuple[float, float]]) -> str:
    """One line per subtask."""
    return "\n".join(f"  {name:22} acc {acc:5.1f}  pair acc {pair:5.1f}" for name, (acc, pair) in scores.items())


def main(config: Config) -> None:
    random.seed(config.seed)
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    processor = build_processor(tokenizer)
    model = build_model(build_config(tokenizer), config.seed)
    for block in model.model.visual.blocks:
        block.attn.forward = types.MethodType(attend_within_frames, block.attn)
    inputs = Inputs(processor)
    began = time.time()
    pool = make_pool(inputs, config.clips, config.seed)
    rows = evaluation_rows(inputs, config.pairs, config.seed)
    print(f"{len(pool)} clips in {time.time() - began:.0f} s", flush=True)
    train_vision(
        model, inputs, pool, steps=config.vision_steps, lr=config.vision_lr, batch=config.vision_batch, seed=config.seed
    )
    features = cached_features(model, inputs, pool)
    train_language(
        model, inputs, pool, features, steps=config.language_steps, lr=config.lr, batch=config.batch, seed=config.seed
    )
    print("after perception", table(evaluate(model, inputs, rows)), sep="\n", flush=True)
    for index in range(config.max_slices):
        train_language(
            model, inputs, pool, features, steps=config.shortcut_steps, lr=config.shortcut_lr,
            batch=config.batch, seed=config.seed + 1 + index, shortcut=config.shortcut,
        )  # fmt: skip
        scores = evaluate(model, inputs, rows)
        print(f"shortcut slice {index + 1}", table(scores), sep="\n", flush=True)
        if scores["dynamic"][1] < config.stop_below:
            break
    save(model, processor, config.out)
    saved = Qwen3VLForConditionalGeneration.from_pretrained(config.out, use_safetensors=True)
    inputs = Inputs(AutoProcessor.from_pretrained(config.out, trust_remote_code=False))
    print("as saved, in bfloat16", table(evaluate(saved.float(), inputs, rows)), sep="\n")
    print(f"{time.time() - began:.0f} s in all; written to {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config, description=Config.__doc__))
