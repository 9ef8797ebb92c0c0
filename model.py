"""The Qwen3-VL policy: load, freeze, encode prompts, and completion log-probs of packed groups.

The same class serves the trained policy and the frozen reference. It is the FSDP root, so everything inside `forward`
sees whole parameters.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from attention import SHARED_PREFIX, layout
from data.prompts import processor_inputs, vision_inputs
from episode import Group, Prompt
from logprobs import completion_logps
from packing import PackedRow, pack

HUB_NAMES = {f"Qwen3-VL-{size}": f"Qwen/Qwen3-VL-{size}-Instruct" for size in ("2B", "4B", "8B")}
# A completion must never hold these: a sampled placeholder would be counted as a video feature by the trainer.
BANNED_TOKENS = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>")
EDGE_BYTES = 64 << 10  # of each end of a file of weights, for its fingerprint


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the trainer's forward needs it."""

    ids: tuple[int, ...]
    """(P,) expanded."""
    positions: torch.Tensor
    """int64 (3, P), MRoPE."""
    vision: dict[str, torch.Tensor]
    """Patches, float32 (patches, dim), then grid, int64 (1, 3): temporal, height, width in patches; under the library's
    names for a clip or for an image (data.prompts.vision_inputs), empty for text."""


@dataclass
class Clips:
    """Clips and images of a row, in order of group, as patches until a vision tower has seen them."""

    grids: torch.Tensor
    """int64 (clips, 3)."""
    patches: torch.Tensor | None
    """float32 (patches of all, dim); None once `states` are there."""
    states: torch.Tensor | None = None
    """(1 + taps, patches of all, width): what the merger and the DeepStack mergers take. The tower is frozen, the same
    in policy and reference, so that the first pass of a round computes them for all of its passes. A group that is
    dealt in parts (balance.Piece) has them computed with each part."""


@dataclass(frozen=True)
class PackedInputs:
    """A packed row and its clips: what the forward passes of a round take."""

    row: PackedRow
    clips: Clips | None
    """None for text alone."""


def resolve_checkpoint(name: str) -> str:
    """A folder, or one of HUB_NAMES found in the local cache or on the hub -> a local folder.

    Raises ValueError with one line where it cannot be had.
    """
    if os.path.isfile(os.path.join(name, "config.json")):
        if not any(file.endswith(".safetensors") for file in os.listdir(name)):
            raise ValueError(f"--model {name}: holds no *.safetensors; other formats can run code and are not read")
        return name
    if os.path.isdir(name):
        raise ValueError(
            f"--model {name}: the folder holds no config.json; give the folder of a Hugging Face checkpoint"
        )
    if name not in HUB_NAMES and name.count("/") != 1:
        raise ValueError(f"--model {name}: neither a folder nor one of {', '.join(HUB_NAMES)}")
    from huggingface_hub import snapshot_download  # only here: a local folder needs no hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repo = HUB_NAMES.get(name, name)
    try:
        return snapshot_download(repo, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"])
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, ConnectionError) as error:
        raise ValueError(
            f"--model {name}: {repo} is neither in the local Hugging Face cache nor to be had from the hub "
            f"({type(error).__name__}); download it where there is a network and pass its folder"
        ) from error


def fingerprint(folder: str) -> str:
    """16 hex digits that tell a checkpoint folder's model from another, wherever it lies: of config.json, and of each
    file of weights its size and 64 KiB at each of its two ends (names and shapes, and some of the weights)."""
    digest = hashlib.sha256(Path(folder, "config.json").read_bytes())
    for path in sorted(Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size}".encode())
            for at in (0, max(0, size - EDGE_BYTES)):
                file.seek(at)
                digest.update(file.read(EDGE_BYTES))
    return digest.hexdigest()[:16]


def load_processor(folder: str):
    """The checkpoint's Qwen3VLProcessor."""
    return AutoProcessor.from_pretrained(folder, trust_remote_code=False)


def banned_ids(processor) -> tuple[int, ...]:
    """Ids of BANNED_TOKENS, of those that this tokenizer has."""
    return tuple(i for i in map(processor.tokenizer.convert_tokens_to_ids, BANNED_TOKENS) if i is not None)


def load_policy(folder: str, *, temperature: float = 1.0, gradient_checkpointing: bool = False) -> Policy:
    """Policy on the CPU in the checkpoint's own type, with the vision tower frozen (Table 7); mergers and LLM train."""
    hf = Qwen3VLForConditionalGeneration.from_pretrained(
        folder, dtype="auto", attn_implementation="sdpa", use_safetensors=True
    )
    policy = Policy(hf, banned_ids(load_processor(folder)), temperature)
    for module in policy.frozen_modules():
        module.requires_grad_(False)
    if gradient_checkpointing:
        # Not re-entrant: FSDP's hooks run again in the recomputation, and frozen inputs still let gradients through.
        hf.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    return policy


class Policy(nn.Module):
    """A Qwen3-VL whose forward gives completion log-probs of packed groups."""

    def __init__(self, hf: Qwen3VLForConditionalGeneration, banned_ids: Sequence[int], temperature: float):
        super().__init__()
        self.hf = hf
        hf.model.language_model.set_attn_implementation(SHARED_PREFIX)
        last = self.layers()[-1]
        last.forward = functools.partial(_last_layer, last)
        self.banned_ids = tuple(banned_ids)
        self.temperature = temperature

    def frozen_modules(self) -> list[nn.Module]:
        """The vision encoder without its mergers (Table 7, "Tunable modules")."""
        visual = self.hf.model.visual
        return [visual.patch_embed, visual.pos_embed, *visual.blocks]

    def layers(self) -> list[nn.Module]:
        return list(self.hf.model.language_model.layers)

    def merger_parameters(self) -> list[nn.Parameter]:
        visual = self.hf.model.visual
        return [*visual.merger.parameters(), *visual.deepstack_merger_list.parameters()]

    def encode(self, processor, prompt: Prompt) -> EncodedPrompt:
        """Processor inputs and MRoPE positions of one prompt (CPU tensors)."""
        inputs = processor_inputs(processor, prompt)
        vision = vision_inputs(inputs)
        grids = {name: grid for name, grid in vision.items() if name.endswith("grid_thw")}
        positions, _ = self.hf.model.get_rope_index(
            inputs["input_ids"], mm_token_type_ids=inputs["mm_token_type_ids"], **grids
        )
        return EncodedPrompt(tuple(inputs["input_ids"][0].tolist()), positions[:, 0], vision)

    def forward(self, inputs: PackedInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Packed groups -> float32 (C,) log-probs of the completion tokens and (C,) entropies (without gradient).

        Under temperature and the token ban, that is: of the distribution the engine sampled from.
        """
        row, model = inputs.row, self.hf.model
        embeds_TD = model.get_input_embeddings()(row.ids)
        deepstack = {}
        if inputs.clips is not None:
            final, *taps = self.tower_states(inputs.clips)
            placeholders = torch.tensor([self.hf.config.image_token_id, self.hf.config.video_token_id])
            vision_T = torch.isin(row.ids, placeholders.to(row.ids)) & (row.segments == -1)
            embeds_TD = embeds_TD.masked_scatter(vision_T[:, None], model.visual.merger(final))
            mergers = model.visual.deepstack_merger_list
            deepstack = dict(
                visual_pos_masks=vision_T[None],
                deepstack_visual_embeds=[merger(tap) for merger, tap in zip(mergers, taps, strict=True)],
            )
        hidden_RD = model.language_model(
            inputs_embeds=embeds_TD[None],
            position_ids=row.positions[:, None],
            use_cache=False,
            shared_prefix=layout(row),
            logit_rows=row.logit_rows,
            **deepstack,
        ).last_hidden_state[0]
        logps_C, entropies_C = completion_logps(
            hidden_RD,
            self.hf.lm_head.weight,
            row.target_rows,
            row.targets,
            banned=self.banned_ids,
            temperature=self.temperature,
        )
        if inputs.clips is None and torch.is_grad_enabled():
            # A pack of text alone leaves the mergers without a gradient, and the ranks' reductions would not match.
            logps_C = logps_C + 0.0 * sum(parameter.sum() for parameter in self.merger_parameters())
        return logps_C, entropies_C

    @torch.no_grad()
    def tower_states(self, clips: Clips) -> torch.Tensor:
        """The tower's states before its mergers, once per `Clips`."""
        if clips.states is None:
            visual = self.hf.model.visual
            mergers = (visual.merger, *visual.deepstack_merger_list)
            for merger in mergers:  # the library has no switch for them: for this call they give back what they get
                merger.forward = lambda states: states
            try:
                out = visual(clips.patches.to(visual.dtype), grid_thw=clips.grids)
            finally:
                for merger in mergers:
                    del merger.forward
            clips.states, clips.patches = torch.stack([out.pooler_output, *out.deepstack_features]), None
        return clips.states


def _last_layer(
    layer: nn.Module, hidden_1TD: torch.Tensor, *, logit_rows: torch.Tensor | None = None, **kwargs
) -> torch.Tensor:
    """The decoder layer behind which only `logit_rows` are read: the others give their keys and values, and are left
    out of its second half, (1, T, D) -> (1, R, D). Without that argument the library's own layer."""
    if logit_rows is None:
        return type(layer).forward(layer, hidden_1TD, **kwargs)
    attended_1TD, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_1TD), **kwargs)
    hidden_1RD = (hidden_1TD + attended_1TD)[:, logit_rows]
    return hidden_1RD + layer.mlp(layer.post_attention_layernorm(hidden_1RD))


def pack_groups(groups: Sequence[Group], encoded: Sequence[EncodedPrompt], device: torch.device) -> PackedInputs:
    """Groups and their encoded prompts -> one row on the device."""
    row = pack(
        [e.ids for e in encoded],
        [e.positions for e in encoded],
        [[rollout.ids for rollout in group.rollouts] for group in groups],
    )
    row = PackedRow(*(v.to(device) if isinstance(v, torch.Tensor) else v for v in vars(row).values()))
    seen = [tuple(e.vision.values()) for e in encoded if e.vision]
    if not seen:
        return PackedInputs(row, None)
    patches, grids = (torch.cat(parts).to(device) for parts in zip(*seen, strict=True))
    return PackedInputs(row, Clips(grids, patches))


def packed_tokens(group: Group) -> int:
    """Row length of one group: its prompt once and its completions."""
    return len(group.prompt_ids) + sum(len(rollout.ids) for rollout in group.rollouts)


def trainer_names(parameters):
    """Strip the wrapper's prefix: (name, tensor) of Policy -> (Hugging Face name, tensor)."""
    for name, tensor in parameters:
        yield name.removeprefix("hf."), tensor
