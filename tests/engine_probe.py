"""Facts about one live engine beside one policy, printed as JSON; run in a process of its own by test_engine.py.

python tests/engine_probe.py MODEL_FOLDER [only-load]
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace

import torch

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import parallel
from data.prompts import build_prompt
from episode import Group, Question, View
from model import BANNED_TOKENS, load_policy, load_processor, pack_groups
from rollout import HfEngine, Request, Sampling, VllmEngine, checksum
from toy.model import TOY_SYSTEM_PROMPT

IMAGES, TEXT = slice(2, 4), slice(4, 5)


def view(seed: int) -> View:
    frames = torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return View(frames, "identity", 4.0, 8, tuple(range(8)))


def image(seed: int, height: int, width: int) -> View:
    pixels = torch.randint(0, 256, (1, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return View(pixels.to(torch.uint8), "identity", 0.0, 1, (0,))


def main(folder: str, only_load: str = "") -> None:
    device = parallel.start()
    torch.manual_seed(5)
    before_engine = torch.get_rng_state()
    policy, processor = load_policy(folder), load_processor(folder)
    policy.float().to(device)
    engine = VllmEngine(
        folder,
        dtype="float32",
        banned_ids=policy.banned_ids,
        max_tokens=640,
        max_sequences=64,
        frame_shape=(8, 64, 64),
        image_shape=(256, 256),
    )
    facts = {"rng_kept": torch.equal(torch.get_rng_state(), before_engine)}
    options = ("A. left", "B. right", "C. up", "D. down")
    question = Question("q", 1, "Which way does it move?", "video", "multiple choice", options, "A")
    # Two clips; one image of more cells than the toy's own image processor lets pass, and a thin one; and no vision.
    looks = [view(0), view(1), image(2, 288, 256), image(3, 32, 96), None]
    prompts = [build_prompt(processor, question, look, system_prompt=TOY_SYSTEM_PROMPT) for look in looks]
    sampling = Sampling(n=8, temperature=1.0, max_tokens=24)

    def sample(source=engine, how=sampling):
        return source.generate(
            [Request(prompt, how, seed, clip=f"clip {seed}") for seed, prompt in enumerate(prompts, start=11)]
        )

    def gap(outputs, at: slice = slice(0, 2)) -> float:
        """Largest over some of the prompts, the clips if not said otherwise."""
        worst = 0.0
        for prompt, out in zip(prompts[at], outputs[at], strict=True):
            encoded = policy.encode(processor, prompt)
            assert encoded.ids == out.prompt_ids, "engine and trainer must read the same prompt"
            group = Group(question, 0, prompt, out.prompt_ids, out.rollouts)
            with torch.no_grad():
                logps, _ = policy(pack_groups([group], [encoded], device))
            engine_logps = torch.cat([rollout.engine_logps for rollout in out.rollouts])
            worst = max(worst, (logps.cpu() - engine_logps).abs().max().item())
        return worst

    def named():
        return [(name.removeprefix("hf."), p.detach().clone()) for name, p in policy.named_parameters()]

    frozen = {name.removeprefix("hf.") for name, p in policy.named_parameters() if not p.requires_grad}

    def perturb(*parts: str) -> None:
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if any(part in name for part in parts):
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))

    def checksums_equal() -> bool:
        copies = engine.checksums()
        return all(checksum(tensor) == copies.get(name) for name, tensor in named())

    def same_greedy() -> bool:
        greedy = Sampling(n=1, temperature=0.0, max_tokens=24)
        ours, theirs = sample(how=greedy), sample(other, greedy)
        return [out.rollouts[0].ids for out in ours] == [out.rollouts[0].ids for out in theirs]

    first = sample()
    facts["gap_start"] = gap(first)
    facts["gap_start_images"], facts["gap_start_text"] = gap(first, IMAGES), gap(first, TEXT)
    facts["distinct"] = len({rollout.ids for rollout in first[0].rollouts})
    crowded = [replace(question, problem=f"{i} {30 * 'Which way? '}") for i in range(64)]
    crowded = [build_prompt(processor, one, None, system_prompt=TOY_SYSTEM_PROMPT) for one in crowded]
    crowd = engine.generate([Request(prompt, Sampling(1, 1.0, 4), seed) for seed, prompt in enumerate(crowded)])
    facts["crowd"] = [sum(len(out.prompt_ids) for out in crowd), sum(bool(out.rollouts[0].ids) for out in crowd)]
    facts["same_noise"] = first[0].rollouts[0].ids == first[1].rollouts[0].ids
    facts["reproducible"] = [r.ids for o in first for r in o.rollouts] == [r.ids for o in sample() for r in o.rollouts]
    other = HfEngine(folder, dtype="float32", banned_ids=policy.banned_ids, device=device)
    facts["hf_same_greedy"] = same_greedy()
    if only_load:
        print(json.dumps(facts), flush=True)
        os._exit(0)
    banned = set(map(processor.tokenizer.convert_tokens_to_ids, BANNED_TOKENS))
    facts["banned_sampled"] = any(banned & set(r.ids) for o in first for r in o.rollouts)
    facts["checksums_start"] = checksums_equal()

    perturb("merger", "language_model.layers")
    stale = sample()
    facts["gap_stale"], facts["gap_stale_images"] = gap(stale), gap(stale, IMAGES)
    facts["checksums_stale"] = checksums_equal()
    engine.sync(named())
    synced = sample()
    facts["gap_synced"] = gap(synced)
    facts["gap_synced_images"], facts["gap_synced_text"] = gap(synced, IMAGES), gap(synced, TEXT)
    facts["checksums_synced"] = checksums_equal()
    hashed = engine.generate([Request(prompt, sampling, seed) for seed, prompt in enumerate(prompts, start=11)])
    facts["same_hashed"] = [r.ids for o in synced for r in o.rollouts] == [r.ids for o in hashed for r in o.rollouts]

    perturb("merger", "language_model.layers")
    engine.sync([(name, tensor) for name, tensor in named() if name not in frozen])
    facts["gap_without_tower"], facts["checksums_without_tower"] = gap(sample()), checksums_equal()

    whole, inner = engine.drop_caches, engine.llm
    engine.drop_caches = lambda: [reset() for reset in (inner.llm_engine.reset_encoder_cache, inner.reset_mm_cache)]
    perturb("merger", "language_model.layers")
    engine.sync(named())
    facts["gap_without_prefix_reset"] = gap(sample())
    engine.drop_caches = whole
    engine.sync(named())
    facts["gap_after_prefix_reset"] = gap(sample())

    other.sync(named())
    facts["hf_same_greedy_synced"] = same_greedy()
    hf_outputs = sample(other)
    facts["hf_gap"] = gap(hf_outputs, slice(None))
    facts["hf_distinct"] = len({rollout.ids for rollout in hf_outputs[0].rollouts})

    engine.drop_caches = lambda: [reset() for reset in (inner.reset_prefix_cache, inner.reset_mm_cache)]
    perturb("merger", "language_model.layers")
    engine.sync(named())
    facts["gap_without_encoder_reset"] = gap(sample())
    print(json.dumps(facts), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
