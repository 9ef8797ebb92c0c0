"""Sizes of Qwen3-VL: the published ones, two small ones, and what each costs in parameters and FLOPs.

The numbers of 2B, 4B and 8B stand in `config.json` of Qwen/Qwen3-VL-{2B,4B,8B}-Instruct on the Hugging Face hub; their
weights add up to the published 2,127,532,032, 4,437,815,808 and 8,767,123,696 parameters (tests/test_bench.py).

Axes: G rollouts, P prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from flops import Cost, Work, group_work
from model import Policy
from toy.model import MERGE, PATCH, SPECIAL_TOKENS, TEMPORAL_PATCH


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Qwen3-VL; the first eight of its language model, the rest of its vision tower."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    """Whether the head shares the embedding's weight."""
    vision_hidden: int
    vision_intermediate: int
    vision_depth: int
    vision_heads: int
    deepstack: tuple[int, ...]
    vision_positions: int


SHAPES = {
    "tiny": Shape(128, 384, 4, 4, 2, 32, 4096, True, 96, 192, 3, 4, (0, 1), 16),
    "20M": Shape(512, 1536, 6, 8, 2, 64, 1024, True, 96, 192, 3, 4, (0, 1), 16),
    "2B": Shape(2048, 6144, 28, 16, 8, 128, 151936, True, 1024, 4096, 24, 16, (5, 11, 17), 2304),
    "4B": Shape(2560, 9728, 36, 32, 8, 128, 151936, True, 1024, 4096, 24, 16, (5, 11, 17), 2304),
    "8B": Shape(4096, 12288, 36, 32, 8, 128, 151936, False, 1152, 4304, 27, 16, (8, 16, 24), 2304),
}
CLIP_CELL = PATCH * MERGE  # pixels of one vision token's side


def build_config(shape: Shape, tokenizer) -> Qwen3VLConfig:
    """The configuration of that size, with this tokenizer's special tokens."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    published = shape.head_dim == 128
    theta = 5e6 if published else 1e4
    section = [24, 20, 20] if published else [shape.head_dim // 4, shape.head_dim // 8, shape.head_dim // 8]
    config = Qwen3VLConfig(
        text_config=dict(
            vocab_size=shape.vocab,
            hidden_size=shape.hidden,
            intermediate_size=shape.intermediate,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.kv_heads,
            head_dim=shape.head_dim,
            max_position_embeddings=262144 if published else 8192,
            rope_theta=theta,
            rope_scaling=dict(rope_type="default", rope_theta=theta, mrope_section=section, mrope_interleaved=True),
            tie_word_embeddings=shape.tied,
            bos_token_id=None,
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"],
        ),
        vision_config=dict(
            depth=shape.vision_depth,
            hidden_size=shape.vision_hidden,
            intermediate_size=shape.vision_intermediate,
            num_heads=shape.vision_heads,
            out_hidden_size=shape.hidden,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=TEMPORAL_PATCH,
            num_position_embeddings=shape.vision_positions,
            deepstack_visual_indexes=list(shape.deepstack),
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=shape.tied,
    )
    config.eos_token_id, config.pad_token_id = ids["<|im_end|>"], ids["<|endoftext|>"]
    return config


# -- parameters and FLOPs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Parameters, and what a pass costs."""

    total: int
    frozen: int
    """Vision encoder without its mergers."""
    layers: int
    """Of the language model."""
    cost: Cost

    @property
    def trained(self) -> int:
        return self.total - self.frozen


def count(config: Qwen3VLConfig) -> Counts:
    """Counts of a model that is never allocated (the meta device)."""
    with torch.device("meta"):
        policy = Policy(Qwen3VLForConditionalGeneration(config), (), 1.0)
    return Counts(
        total=parameters(policy),  # a tied head once
        frozen=sum(map(parameters, policy.frozen_modules())),
        layers=sum(map(parameters, policy.layers())),
        cost=Cost.of(policy),
    )


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def grids_of(vision_tokens: int, frames: int) -> list[tuple[int, int, int]]:
    """(temporal, height, width) in patches of a prompt's clip, to the area: what `flops.group_work` wants to know."""
    times = frames // TEMPORAL_PATCH
    return [(times, vision_tokens * MERGE * MERGE // times, 1)]


def naive_work(
    prompt: int, lengths: Sequence[int], grids: Sequence[Sequence[int]], *, tower_per_rollout: bool = False
) -> Work:
    """A padded row per rollout; logits on its real completion rows."""
    rollouts, width = len(lengths), prompt + max(lengths)
    alone = group_work(width, [], grids)
    copies = rollouts if tower_per_rollout else 1
    return Work(
        rows=alone.rows * rollouts,
        unshared_rows=alone.rows * rollouts,
        pairs=alone.pairs * rollouts,
        last_rows=alone.rows * rollouts,
        head_rows=sum(lengths),
        patches=alone.patches * copies,
        patch_pairs=alone.patch_pairs * copies,
    )


def update_flops(shape: Shape, cost: Cost, work: Work, *, checkpointing: bool, head_again: bool = True) -> int:
    """Forward and backward of the update, what is recomputed included: the head's logits (`logprobs.py`), and the
    layers where they are checkpointed."""
    again = cost.head_row * work.head_rows * head_again
    if checkpointing:  # torch stops recomputing a layer before its last product, whose result nobody needs
        last = 2 * shape.intermediate * shape.hidden * ((shape.layers - 1) * work.rows + work.last_rows)
        again += cost.layers(work) - last
    return cost.tower(work) + 3 * cost.trained(work) + again
