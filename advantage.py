"""The paper, part 2: advantages with the joint standard deviation (Sec. 3, App. F) and the objective (Eq. 6).

Torch only: no model, no process group, no config. Functions are pure and keep the axes of their inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def group_advantages(rewards: torch.Tensor, eps: float = 1e-4) -> torch.Tensor:
    """GRPO: (r - mean) / (std + eps) over the last axis. (..., G) -> (..., G).

    Unbiased std and eps 1e-4 as in the paper's recipe donor. A constant group gives zeros; so does G = 1.
    """
    centred = _centre(rewards)
    return (centred / (_std(centred) + eps)).float()


def crpo_advantages(
    original: torch.Tensor, counterfactual: torch.Tensor, eps: float = 1e-4
) -> tuple[torch.Tensor, torch.Tensor]:
    """CRPO: centre each branch by its own mean, divide both by ONE std over the 2G centred values (Sec. 3, App. F.2).

    Two (..., G) -> two (..., G). A branch without variance gets zeros but still counts in the pool, so the live
    branch grows by sqrt((2G - 1) / (G - 1)) against GRPO (1.464 at G = 8): as published, w_aug = 0 included.
    """
    if original.shape != counterfactual.shape:
        raise ValueError(
            f"both branches must hold the same groups; got {tuple(original.shape)} and {tuple(counterfactual.shape)}"
        )
    centred, cf_centred = _centre(original), _centre(counterfactual)
    joint_std = _std(torch.cat([centred, cf_centred], dim=-1))
    return (centred / (joint_std + eps)).float(), (cf_centred / (joint_std + eps)).float()


def pooled_advantages(groups: Sequence[torch.Tensor], eps: float = 1e-4) -> list[torch.Tensor]:
    """Centre each group by its own mean, divide all by ONE std over every centred value (the larger pool that App. F
    argues for). Groups (G,) may differ in G; unbiased std. `crpo_advantages` is this over two groups."""
    centred = [_centre(group) for group in groups]
    std = _std(torch.cat(centred))
    return [(values / (std + eps)).float() for values in centred]


def clipped_objective(
    logps: torch.Tensor, old_logps: torch.Tensor, advantages: torch.Tensor, clip_eps: float = 0.2
) -> torch.Tensor:
    """The min(...) of Eq. 6 per token, to be MAXIMISED. All three broadcast to the shape of `logps`.

    rho = exp(logps - old_logps) is the token-level importance ratio.
    """
    ratio = torch.exp(logps - old_logps)
    clipped = torch.clamp(ratio, 1.0 - clip_eps, 1.0 + clip_eps)
    return torch.minimum(ratio * advantages, clipped * advantages)


def k3_kl(logps: torch.Tensor, ref_logps: torch.Tensor) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = ref - policy; never negative."""
    delta = ref_logps - logps
    return torch.exp(delta) - delta - 1.0


def token_weights(lengths: list[int], questions: int, rollouts: int) -> torch.Tensor:
    """Eq. 6's aggregation as one weight per token: 1/(questions * rollouts * length). -> (sum of lengths,).

    Mean over the tokens of a completion, mean over G, sum of the branches, mean over questions. `questions` is the
    mini-batch's count over ALL ranks, known before the first backward, so splitting a batch over packs or ranks
    cannot change the gradient. An empty completion contributes nothing.
    """
    return torch.cat([torch.full((n,), 1.0 / (questions * rollouts * max(n, 1))) for n in lengths])


def _centre(rewards: torch.Tensor) -> torch.Tensor:
    rewards = rewards.double()  # a constant float32 group must centre to exact zeros, not to rounding over eps
    return rewards - rewards.mean(dim=-1, keepdim=True)


def _std(centred: torch.Tensor) -> torch.Tensor:
    if centred.shape[-1] <= 1:
        return torch.zeros_like(centred)  # the unbiased std of one value, and of none, is NaN
    return centred.std(dim=-1, keepdim=True)
