"""What the benchmarks of the update have in common: a random policy, made-up groups, and the naive update.

The naive update is the fair opponent: one padded batch with a row for each rollout, the shipped model with causal SDPA
(padding stands on the right, where no real token sees it, so no mask is needed), logits on real completion rows alone,
the vision tower once per clip or once per rollout, and the same loss, precision and checkpointing.

Axes: B rollouts of all groups, G rollouts of one, P prompt, T padded tokens, C completion tokens.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from transformers import Qwen3VLForConditionalGeneration

from advantage import clipped_objective, group_advantages
from bench.shapes import CLIP_CELL, Shape, build_config
from data.prompts import build_prompt
from episode import Group, Question, Rollout, View
from logprobs import BAN_BIAS
from metrics import Accumulator
from model import EncodedPrompt, Policy, banned_ids
from toy.model import build_processor, build_tokenizer
from update import Pack, backward, make_packs

TEXT_TOKENS = 256  # the byte tokens: no special token among them
CLIP_EPS = 0.2


def join_alone() -> None:
    """The update asks for the number of ranks: this process is the only one."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


# -- model and data ----------------------------------------------------------------------------------------------------


def build_policy(
    shape: Shape, *, dtype: torch.dtype, device: torch.device, checkpointing: bool, seed: int = 0
) -> tuple[Policy, Qwen3VLForConditionalGeneration, object]:
    """Random weights -> the policy, the shipped model over the same parameters for the naive way, and a processor."""
    processor = build_processor(build_tokenizer())
    config = build_config(shape, processor.tokenizer)
    config._attn_implementation = "sdpa"
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    torch.manual_seed(seed)
    try:
        with device:
            hf = Qwen3VLForConditionalGeneration(config)
            for weight in hf.parameters():
                if weight.dim() >= 2:
                    nn.init.normal_(weight, std=0.7 / weight[0].numel() ** 0.5)
    finally:
        torch.set_default_dtype(default)
    hf.train()
    if checkpointing:
        hf.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    naive = copy.deepcopy(hf, memo={id(parameter): parameter for parameter in hf.parameters()})
    policy = Policy(hf, banned_ids(processor), temperature=1.0)
    for module in policy.frozen_modules():
        module.requires_grad_(False)
    return policy, naive, processor


@dataclass(frozen=True)
class Clip:
    """Size of the one clip of each prompt: 32 x 32 pixels of two frames make a vision token."""

    frames: int
    height: int
    width: int

    @property
    def tokens(self) -> int:
        return self.frames // 2 * (self.height // CLIP_CELL) * (self.width // CLIP_CELL)


def clip_for(prompt_tokens: int, frames: int = 0, height: int = 128, width: int = 128) -> Clip:
    """A clip of that many frames; 0: as many as make half of the prompt vision tokens."""
    cells = (height // CLIP_CELL) * (width // CLIP_CELL)
    return Clip(frames or 2 * max(1, prompt_tokens // 2 // cells), height, width)


def make_members(
    policy: Policy,
    processor,
    *,
    prompt_tokens: int,
    lengths: Sequence[Sequence[int]],
    clip: Clip,
    seed: int = 0,
) -> list[tuple[Group, EncodedPrompt]]:
    """A group for each of `lengths`: a prompt of exactly that many tokens with one clip, random completions.

    Raises ValueError where the clip leaves the prompt no room.
    """
    generator, dice = torch.Generator().manual_seed(seed), random.Random(seed)
    members = []
    for index, group_lengths in enumerate(lengths):
        question = Question(f"q{index}", index + 1, "What moves?", "video", "multiple choice", (), "A")
        pixels = torch.randint(
            0, 256, (clip.frames, 3, clip.height, clip.width), generator=generator, dtype=torch.uint8
        )
        view = View(pixels, "identity", 8.0, clip.frames, tuple(range(clip.frames)))
        prompt = build_prompt(processor, question, view, system_prompt="", answer_request="")
        encoded = lengthen(policy.encode(processor, prompt), prompt_tokens, dice)
        rollouts = [
            Rollout(tuple(dice.randrange(TEXT_TOKENS) for _ in range(n)), torch.zeros(n), "", "stop")
            for n in group_lengths
        ]
        group = Group(question, 0, prompt, encoded.ids, rollouts)
        group.advantages = group_advantages(torch.rand(len(rollouts), generator=generator))
        members.append((group, encoded))
    return members


def lengthen(encoded: EncodedPrompt, prompt_tokens: int, dice: random.Random) -> EncodedPrompt:
    """Random text behind the prompt, up to that many tokens."""
    missing = prompt_tokens - len(encoded.ids)
    if missing < 0:
        raise ValueError(
            f"--prompt-tokens {prompt_tokens} must hold the clip, its timestamps and the question, "
            f"{len(encoded.ids)} tokens: raise it, or lower --frames, --height or --width"
        )
    behind = int(encoded.positions.max()) + 1
    text = torch.arange(behind, behind + missing).expand(3, missing)
    ids = (*encoded.ids, *(dice.randrange(TEXT_TOKENS) for _ in range(missing)))
    return EncodedPrompt(ids, torch.cat([encoded.positions, text], dim=1), encoded.vision)


# -- the two updates ---------------------------------------------------------------------------------------------------


def packs_of(members: Sequence[tuple[Group, EncodedPrompt]], tokens_per_pack: int, device: torch.device) -> list[Pack]:
    """Packs of one mini-batch on one rank."""
    return make_packs(members, questions=len(members), tokens_per_pack=tokens_per_pack, device=device)


def packed_update(policy: Policy, packs: Sequence[Pack]) -> torch.Tensor:
    """Gradients into the parameters; returns the log-probs (C,)."""
    policy.zero_grad()
    _, logps = backward(policy, packs, clip_eps=CLIP_EPS, kl_coef=0.0, numbers=Accumulator())
    return torch.cat(logps)


@dataclass(frozen=True)
class NaiveBatch:
    """All rollouts in one padded batch."""

    ids: torch.Tensor
    """int64 (B, T)."""
    positions: torch.Tensor
    """int64 (3, B, T): MRoPE."""
    rows: tuple[torch.Tensor, torch.Tensor]
    """(C,) and (C,): row and column that predict each completion token, in the order of the packs."""
    targets: torch.Tensor
    """int64 (C,)."""
    pixels: torch.Tensor
    """(patches of all clips, dim)."""
    grids: torch.Tensor
    """int64 (clips, 3)."""
    rollouts: tuple[int, ...]
    """Rollouts of each clip's group."""
    advantages: torch.Tensor
    """float32 (C,)."""
    weights: torch.Tensor
    """float32 (C,)."""


def naive_batch(
    hf: Qwen3VLForConditionalGeneration, members: Sequence[tuple[Group, EncodedPrompt]], packs: Sequence[Pack]
) -> NaiveBatch:
    """The rollouts of the packs, padded; positions by the shipped model's own rule."""
    device = hf.device
    rows = [[*group.prompt_ids, *rollout.ids] for group, _ in members for rollout in group.rollouts]
    starts = [len(group.prompt_ids) for group, _ in members for _ in group.rollouts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [hf.config.pad_token_id] * (width - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    grids = torch.cat([encoded.vision["video_grid_thw"] for _, encoded in members])
    counts = torch.tensor([len(group.rollouts) for group, _ in members])
    positions, _ = hf.model.get_rope_index(
        ids,
        mm_token_type_ids=2 * (ids == hf.config.video_token_id).int(),
        video_grid_thw=grids.repeat_interleave(counts, dim=0),
        attention_mask=real,
    )
    places = [(b, t) for b, row in enumerate(rows) for t in range(starts[b], len(row))]
    row_C, column_C = torch.tensor(places).T
    return NaiveBatch(
        ids=ids.to(device),
        positions=positions.to(device),
        rows=(row_C.to(device), column_C.to(device) - 1),
        targets=ids[row_C, column_C].to(device),
        pixels=torch.cat([encoded.vision["pixel_values_videos"] for _, encoded in members]).to(device),
        grids=grids.to(device),
        rollouts=tuple(counts.tolist()),
        advantages=torch.cat([pack.advantages for pack in packs]),
        weights=torch.cat([pack.weights for pack in packs]),
    )


def naive_update(
    hf: Qwen3VLForConditionalGeneration, banned: Sequence[int], batch: NaiveBatch, *, tower_per_rollout: bool
) -> torch.Tensor:
    """Gradients into the parameters; returns the log-probs (C,)."""
    hf.zero_grad()
    logps_C = naive_logps(hf, banned, batch, tower_per_rollout=tower_per_rollout)
    objective_C = clipped_objective(logps_C, logps_C.detach(), batch.advantages, CLIP_EPS)
    (-(batch.weights * objective_C).sum()).backward()
    return logps_C.detach()


def naive_logps(
    hf: Qwen3VLForConditionalGeneration, banned: Sequence[int], batch: NaiveBatch, *, tower_per_rollout: bool
) -> torch.Tensor:
    """(C,), float32."""
    features, deepstack = clip_features(hf, batch, tower_per_rollout)
    video = batch.ids == hf.config.video_token_id
    embeddings = hf.get_input_embeddings()(batch.ids)
    hidden = hf.model.language_model(
        inputs_embeds=embeddings.masked_scatter(video[..., None], features.to(embeddings.dtype)),
        position_ids=batch.positions,
        visual_pos_masks=video,
        deepstack_visual_embeds=deepstack,
        use_cache=False,
    ).last_hidden_state
    logits = hf.lm_head(hidden[batch.rows]).float()
    logits[:, list(banned)] += BAN_BIAS
    return logits.gather(-1, batch.targets[:, None])[:, 0] - logits.logsumexp(-1)


def clip_features(
    hf: Qwen3VLForConditionalGeneration, batch: NaiveBatch, per_rollout: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Merged and DeepStack features of the clip of each row: computed for each row, or for each clip and copied."""
    counts = batch.rollouts
    patches = batch.grids.prod(-1).tolist()
    pixels, grids = batch.pixels, batch.grids
    if per_rollout:
        pixels = repeat_parts(pixels, patches, counts)
        grids = grids.repeat_interleave(torch.tensor(counts, device=grids.device), dim=0)
    seen = hf.model.get_video_features(pixels, grids)
    features, deepstack = torch.cat(seen.pooler_output), seen.deepstack_features
    if not per_rollout:
        tokens = [n // hf.model.visual.spatial_merge_size**2 for n in patches]
        features, *deepstack = (repeat_parts(part, tokens, counts) for part in (features, *deepstack))
    return features, deepstack


def repeat_parts(values: torch.Tensor, sizes: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """Part i of the rows, `counts[i]` times in a row."""
    return torch.cat([part for part, n in zip(values.split(list(sizes)), counts, strict=True) for _ in range(n)])
