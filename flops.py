"""What a pass over packed groups computes, in FLOPs (a multiply-add is two), and the peak of the GPU it runs on.

Only matrix products and attention count, as in every published MFU; what is recomputed in a backward pass does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from torch import nn

PEAK_TFLOPS = {
    "A100": 312, "A800": 312, "H100": 989, "H100 PCIe": 756, "H800": 989, "H200": 989, "H20": 148, "GH200": 989,
    "B200": 2250, "L20": 119.5, "L40": 181, "L40S": 362, "A10": 125, "4090": 165,
}  # fmt: skip
"""Dense bfloat16 with float32 sums, by the words in the device's name: NVIDIA's data sheets, without sparsity."""


@dataclass(frozen=True)
class Work:
    """What one forward pass computes; adds up over groups."""

    rows: int = 0
    """Tokens through the layers, a prompt once."""
    unshared_rows: int = 0
    """The same if every completion had a prompt of its own: what other trainers count."""
    pairs: int = 0
    """(query, key) pairs that may attend."""
    last_rows: int = 0
    """Tokens through the last layer's MLP: those that the head reads (model.py)."""
    head_rows: int = 0
    """Rows whose logits exist."""
    patches: int = 0
    """Of all clips and images."""
    patch_pairs: int = 0
    """(query, key) pairs of the vision tower, whose attention stays within a temporal patch."""

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def group_work(prompt: int, lengths: Sequence[int], grids: Iterable[Sequence[int]]) -> Work:
    """One group: tokens of the prompt and of each completion; `grids`: (temporal, height, width) of each clip."""
    sizes = [(t, height * width) for t, height, width in grids]
    head_rows = sum(lengths) - max(0, sum(length > 0 for length in lengths) - 1)  # they share their first row
    return Work(
        rows=prompt + sum(lengths),
        unshared_rows=prompt * len(lengths) + sum(lengths),
        pairs=_causal(prompt) + sum(length * prompt + _causal(length) for length in lengths),
        last_rows=head_rows,
        head_rows=head_rows,
        patches=sum(t * patches for t, patches in sizes),
        patch_pairs=sum(t * patches * patches for t, patches in sizes),
    )


def _causal(length: int) -> int:
    return length * (length + 1) // 2


@dataclass(frozen=True)
class Cost:
    """FLOPs of a model's forward pass for each unit of Work."""

    row: int
    """All layers but the last one's MLP."""
    last_row: int
    """The last layer's MLP."""
    pair: int
    head_row: int
    merged_patch: int
    """Mergers, which train."""
    patch: int
    """Frozen tower."""
    patch_pair: int

    @classmethod
    def of(cls, policy) -> Cost:
        """Of a `model.Policy`, whole or sharded."""
        text, vision, visual = policy.hf.config.text_config, policy.hf.config.vision_config, policy.hf.model.visual
        last_mlp = _matrices([policy.layers()[-1].mlp])
        return cls(
            row=2 * (_matrices(policy.layers()) - last_mlp),
            pair=4 * text.num_attention_heads * text.head_dim * text.num_hidden_layers,
            head_row=2 * policy.hf.lm_head.weight.numel(),
            last_row=2 * last_mlp,
            merged_patch=2 * _matrices([visual.merger, visual.deepstack_merger_list]) // vision.spatial_merge_size**2,
            patch=2 * _matrices([visual.patch_embed, *visual.blocks]),
            patch_pair=4 * vision.hidden_size * vision.depth,
        )

    def layers(self, work: Work) -> int:
        """The language model's layers, forward."""
        return self.row * work.rows + self.last_row * work.last_rows + self.pair * work.pairs

    def trained(self, work: Work) -> int:
        """Mergers, layers and head, forward; a backward pass costs twice this."""
        return self.layers(work) + self.head_row * work.head_rows + self.merged_patch * work.patches

    def tower(self, work: Work) -> int:
        """The frozen vision encoder, forward."""
        return self.patch * work.patches + self.patch_pair * work.patch_pairs


def _matrices(modules: Iterable[nn.Module]) -> int:
    weights = (m.weight for module in modules for m in module.modules() if isinstance(m, nn.Linear | nn.Conv3d))
    return sum(weight.numel() for weight in weights)


def gpu_kind(device_name: str) -> str | None:
    """A GPU's key in PEAK_TFLOPS by the name that CUDA gives it ("NVIDIA H100 80GB HBM3"); None for one not there."""
    words = device_name.replace("-", " ").split()
    known = [name for name in PEAK_TFLOPS if set(name.split()) <= set(words)]
    return max(known, key=len, default=None)


def peak_flops(device_name: str) -> float | None:
    """FLOP/s of a GPU by the name that CUDA gives it; None for one not in the table."""
    kind = gpu_kind(device_name)
    return PEAK_TFLOPS[kind] * 1e12 if kind else None
