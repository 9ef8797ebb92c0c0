"""The engine that samples: colocated vLLM, one per group of tensor-parallel ranks; and a plain transformers engine.
Other models, for evaluation (`ChatEngine`) and the Task Router (`TextEngine`), stand at the end.

Both have the same face: `generate`, `sync`, `checksums`, `sleep`, `wake`. What the trainer must know:

- a prompt is sent as text with ONE placeholder; the engine expands it, and returns the ids it used. Ids expanded
  before sending would be expanded twice without an error;
- frames travel as uint8 with their metadata, an image as uint8, never resampled or resized by the engine;
- log-probs are of the distribution sampled from (temperature and token ban applied);
- after every weight sync the prefix, encoder and processor caches are dropped: each holds results of the old weights,
  and a stale one shows in nothing but the trainer-engine gap.

Build an engine after `parallel.start()` and keep it alive to the end of the process: vLLM's teardown destroys the
trainer's process group.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from tqdm import tqdm

import rng
from config import CELL
from data.prompts import IMAGE_OPTIONS, frames_thwc, processor_inputs, video_metadata
from episode import Prompt, Rollout, View
from flops import gpu_kind
from logprobs import BAN_BIAS
from model import load_processor

NamedTensors = Iterable[tuple[str, torch.Tensor]]
Checksum = tuple[int, int]


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn; temperature 0 is greedy."""

    n: int
    """Completions per prompt (G)."""
    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Request:
    """One prompt and how to complete it."""

    prompt: Prompt
    sampling: Sampling
    seed: int
    """Of this request alone: without one, prompts share their noise and tensor-parallel ranks can diverge."""
    clip: str = ""
    """Tells its pixels from all others that the engine sees between two syncs, so that vLLM need not hash them: each
    transform of a clip has its own. Empty: it hashes."""


@dataclass(frozen=True)
class Generated:
    """One prompt's completions."""

    prompt_ids: tuple[int, ...]
    """(P,) expanded, as the engine saw them."""
    rollouts: list[Rollout]
    """n of them; none where there is an error."""
    error: str = ""
    """Why there is no completion; engines that a trainer samples from raise instead."""


class Engine(Protocol):
    forgets: bool
    """Whether sleeping drops the weights, so that each sync must bring every parameter."""

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """Results in the order of `requests`."""

    def sync(self, parameters: NamedTensors) -> None:
        """Take over parameters (Hugging Face names, whole tensors, all those of a layer or none) and drop all caches.
        All ranks take part."""

    def checksums(self) -> dict[str, Checksum]:
        """Checksum of the engine's own copy of every parameter, by Hugging Face name. All ranks take part."""

    def sleep(self) -> None:
        """Give the GPU to the trainer."""

    def wake(self, what: str) -> None:
        """Take back "weights" (before a sync) or "kv_cache" (before generating)."""


ENGINE_RANKS = {"H100": 8, "H800": 8, "H200": 8}
"""Ranks that share an engine, by GPU (flops.PEAK_TFLOPS); 1 where none is named. With some 32 sequences a GPU decoding
waits for the weights: where arithmetic is plentiful and NVLink joins the node, eight GPUs that read an eighth each are
faster; an H20 has little arithmetic for its bandwidth and gains nothing. From a model of bandwidths, not a sweep."""


def engine_ranks(device_name: str, ranks_per_node: int) -> int:
    """ENGINE_RANKS of the GPU of that name, or what divides both them and the ranks of a node; 1 on a CPU ("")."""
    return math.gcd(ENGINE_RANKS.get(gpu_kind(device_name), 1), ranks_per_node)


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is built for; each field is the setting of that name (config.py)."""

    engine: str
    dtype: str
    frames: int
    max_pixels: int
    min_frame_pixels: int
    max_frame_pixels: int
    max_prompt_tokens: int
    max_completion_tokens: int
    tensor_parallel: int
    engine_memory: float
    engine_cpu_cache_mb: int
    engine_sequences: int
    engine_eager: bool
    sleep_level: int
    seed: int

    @classmethod
    def of(cls, settings: object, **others) -> EngineSettings:
        """The fields of any settings that have them; `others` are those it lacks."""
        names = {field.name for field in fields(cls)} - others.keys()
        return cls(**{name: getattr(settings, name) for name in names}, **others)


def build_engine(
    settings: EngineSettings, folder: str, banned_ids: Sequence[int], device: torch.device, *, bar: bool = True
) -> Engine:
    """The engine of a checkpoint folder, with room for the largest clip and image. All ranks take part."""
    if settings.engine == "hf":
        return HfEngine(folder, dtype=settings.dtype, banned_ids=banned_ids, device=device)
    per_frame = max(
        min(settings.max_frame_pixels, 2 * settings.max_pixels // settings.frames), settings.min_frame_pixels
    )
    side = int(per_frame**0.5) // 32 * 32
    rows = int((settings.max_frame_pixels // CELL) ** 0.5)
    return VllmEngine(
        folder,
        dtype=settings.dtype,
        banned_ids=banned_ids,
        max_tokens=settings.max_prompt_tokens + settings.max_completion_tokens,
        max_sequences=settings.engine_sequences,
        frame_shape=(settings.frames, side, side),
        image_shape=(32 * rows, 32 * (settings.max_frame_pixels // CELL // rows)),
        tensor_parallel=settings.tensor_parallel,
        gpu_memory=settings.engine_memory,
        cpu_cache_mb=settings.engine_cpu_cache_mb,
        eager=settings.engine_eager,
        sleep_level=settings.sleep_level,
        seed=settings.seed,
        bar=bar,
    )


def checksum(tensor: torch.Tensor) -> Checksum:
    """Two exact integers of a tensor's bits: they tell a stale or a rounded tensor, not one whose rows changed places
    (the gap shows that). They add over shards, so a split tensor compares with the whole one."""
    first = second = 0
    for part in tensor.detach().flatten().split(1 << 24):  # int64 copies of a whole embedding would take gigabytes
        bits = part.view({2: torch.int16, 4: torch.int32}[part.element_size()]).to(torch.int64)
        first, second = first + int(bits.sum()), second + int((bits * bits).sum())
    return _wrap(first), _wrap(second)


def _wrap(value: int) -> int:
    """To int64, where sums over parts or shards wrap alike."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


# -- vLLM --------------------------------------------------------------------------------------------------------------


class VllmEngine:
    """vLLM in this process, on this rank's device, tensor-parallel over `tensor_parallel` consecutive ranks."""

    def __init__(
        self,
        folder: str,
        *,
        dtype: str,
        banned_ids: Sequence[int],
        max_tokens: int,
        max_sequences: int,
        frame_shape: tuple[int, int, int],
        image_shape: tuple[int, int] | None = None,
        tensor_parallel: int = 1,
        gpu_memory: float = 0.45,
        cpu_cache_mb: int = 256,
        eager: bool = False,
        sleep_level: int = 1,
        seed: int = 0,
        bar: bool = True,
    ):
        """`max_tokens`: prompt and completion together; `frame_shape`: (frames, height, width) of the largest clip;
        `image_shape`: (height, width) of the largest image, None for an engine that takes none; `bar`: show the
        progress of each `generate` on a terminal."""
        frames, height, width = frame_shape
        image = {"count": 1, "height": image_shape[0], "width": image_shape[1]} if image_shape else 0
        self.sleep_level = sleep_level if torch.cuda.is_available() else 0
        self.forgets = self.sleep_level == 2
        self.llm = _colocated_llm(
            folder,
            limits={"image": image, "video": {"count": 1, "num_frames": frames, "height": height, "width": width}},
            dtype=dtype,
            max_tokens=max_tokens,
            max_sequences=max_sequences,
            tensor_parallel=tensor_parallel,
            gpu_memory=gpu_memory,
            cpu_cache_mb=cpu_cache_mb,
            eager=eager,
            seed=seed,
            logprobs_mode="processed_logprobs",
            enable_sleep_mode=self.sleep_level > 0,
        )
        self.bias = {int(i): BAN_BIAS for i in banned_ids}
        self.tensor_parallel = tensor_parallel
        self.tokenizer = self.llm.get_tokenizer()
        # Off a terminal vLLM divides by the bar's zero seconds.
        shown = bar and dist.get_rank() == 0 and sys.stderr.isatty()
        self.bar = functools.partial(tqdm, leave=False) if shown else False

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        from vllm import SamplingParams

        inputs, params = [], []
        for request in requests:
            sampling = request.sampling
            inputs.append({"prompt": request.prompt.text, **_vision(request.prompt.view, request.clip)})
            params.append(
                SamplingParams(
                    n=sampling.n,
                    temperature=sampling.temperature,
                    max_tokens=sampling.max_tokens,
                    logprobs=0,  # of the sampled token only
                    seed=request.seed,
                    logit_bias=self.bias,
                    detokenize=False,  # decoded below, once
                )
            )
        outputs = self.llm.generate(inputs, params, use_tqdm=self.bar)
        return [
            Generated(tuple(out.prompt_token_ids), [self._rollout(completion) for completion in out.outputs])
            for out in outputs
        ]

    def _rollout(self, completion) -> Rollout:
        ids = tuple(completion.token_ids)
        logps = [entry[token].logprob for entry, token in zip(completion.logprobs, ids, strict=True)]
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return Rollout(ids, torch.tensor(logps, dtype=torch.float32), text, completion.finish_reason)

    def sync(self, parameters: NamedTensors) -> None:
        self.llm.collective_rpc(_load_weights, args=(iter(parameters),))
        self.drop_caches()

    def drop_caches(self) -> None:
        """Prefix cache (keys and values), encoder cache (merged vision features), processor cache (pixels)."""
        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_encoder_cache()
        self.llm.reset_mm_cache()

    def checksums(self) -> dict[str, Checksum]:
        (mine,) = self.llm.collective_rpc(_worker_checksums)
        if self.tensor_parallel == 1:
            return {name: (a, b) for name, (a, b, _) in mine.items()}
        everyone: list = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
        first = dist.get_rank() // self.tensor_parallel * self.tensor_parallel
        peers = everyone[first : first + self.tensor_parallel]
        total = {}
        for name, (a, b, is_split) in mine.items():
            if is_split:
                a, b = (sum(peer[name][i] for peer in peers) for i in (0, 1))
            total[name] = (_wrap(a), _wrap(b))
        return total

    def sleep(self) -> None:
        if self.sleep_level:
            self.llm.sleep(level=self.sleep_level)

    def wake(self, what: str) -> None:
        if self.sleep_level:
            self.llm.wake_up(tags=[what])
            if self.sleep_level == 2 and what == "weights":
                self.llm.collective_rpc(_zero_plain_buffers)


def prepare_vllm(in_process: bool) -> None:
    """vLLM's environment, to be called before its import. `in_process`: the engine lives in this process, where its
    fault is an exception."""
    if in_process:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if not torch.cuda.is_available():
        # Each start would compile a sampler that requests with a seed never use: 15 s, mostly of other processes.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA aloud on every rank


def _colocated_llm(
    folder: str,
    *,
    limits: dict,
    dtype: str,
    max_tokens: int,
    max_sequences: int,
    tensor_parallel: int,
    gpu_memory: float,
    cpu_cache_mb: int,
    eager: bool,
    seed: int,
    **more,
):
    """vLLM in this process, of this torchrun job's ranks. `limits`: the most of each medium in a prompt."""
    prepare_vllm(in_process=True)  # external_launcher demands it
    from vllm import LLM  # after the environment; and a machine without vLLM can still run --engine hf

    with _keep_rng(), _plain_weights(), _own_shared_memory(tensor_parallel > 1 and not torch.cuda.is_available()):
        return LLM(
            model=folder,
            dtype=dtype,
            load_format="safetensors",
            trust_remote_code=False,
            seed=seed,
            distributed_executor_backend="external_launcher",
            tensor_parallel_size=tensor_parallel,
            max_model_len=max_tokens,
            max_num_seqs=max_sequences,
            limit_mm_per_prompt=limits,
            enable_prefix_caching=True,
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **_by_device(gpu_memory, cpu_cache_mb, eager),
            **more,
        )


def _by_device(gpu_memory: float, cpu_cache_mb: int, eager: bool = False) -> dict:
    """Options of an engine that differ between a GPU and a CPU."""
    if torch.cuda.is_available():
        return {"gpu_memory_utilization": gpu_memory, "enforce_eager": eager}
    return {
        "kv_cache_memory_bytes": cpu_cache_mb << 20,
        "enforce_eager": True,
        "block_size": 32,
        # A cut prompt's sample is taken back by rewinding its seeded generator, which vLLM can do on a GPU alone.
        "enable_chunked_prefill": False,
    }


def _vision(view: View | None, clip: str) -> dict:
    """The part of a vLLM prompt that is not text."""
    if view is None:
        return {}
    if view.still:
        kind, data, options = "image", frames_thwc(view)[0], {"mm_processor_kwargs": IMAGE_OPTIONS}
    else:
        kind, options = "video", {}
        data = (frames_thwc(view), video_metadata(view) | {"do_sample_frames": False})
    names = {"multi_modal_uuids": {kind: [clip]}} if clip else {}
    return {"multi_modal_data": {kind: [data]}, **options, **names}


def _load_weights(worker, parameters: Iterator[tuple[str, torch.Tensor]]) -> None:
    """In place, each tensor as it comes: fused layers and tensor-parallel slices are vLLM's own loaders' work."""
    worker.model_runner.get_model().load_weights(parameters)


@contextlib.contextmanager
def _plain_weights():
    """vLLM's CPU build packs each Linear's weight into a copy that no load reaches. Without oneDNN it keeps the plain
    one, as on a GPU, and multiplies it as the trainer does."""
    from vllm import _custom_ops

    had, _custom_ops._supports_onednn = _custom_ops._supports_onednn, False
    try:
        yield
    finally:
        _custom_ops._supports_onednn = had


@torch.inference_mode()
def _zero_plain_buffers(worker) -> None:
    """Level 2 drops the "weights" pool; what in it is neither parameter nor buffer stays garbage after a wake.

    These are the DeepStack inputs, which forward always adds, and (vLLM's newer runner) rope positions and input
    embeddings, whose padding a CUDA graph reads.
    """
    buffers = list(getattr(worker.model_runner.get_model(), "deepstack_input_embeds", None) or ())
    state = getattr(worker.model_runner, "model_state", None)
    for owner, name in (("rope_state", "positions"), ("encoder_runner", "inputs_embeds")):
        buffers.append(getattr(getattr(state, owner, None), name, None))
    for buffer in buffers:
        if isinstance(buffer, torch.Tensor):
            buffer.zero_()


def _worker_checksums(worker) -> dict[str, tuple[int, int, bool]]:
    """Hugging Face name -> (checksum, checksum, split over tensor-parallel ranks) of this worker's own weights."""
    from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    result: dict[str, tuple[int, int, bool]] = {}
    for module_name, module in worker.model_runner.get_model().named_modules():
        split = isinstance(module, (ColumnParallelLinear, RowParallelLinear, VocabParallelEmbedding))
        for name, parameter in module.named_parameters(recurse=False):
            tensor = parameter
            if isinstance(module, VocabParallelEmbedding):
                if isinstance(module, ParallelLMHead) and worker.model_config.hf_config.tie_word_embeddings:
                    continue  # the embedding's
                shard = module.shard_indices
                tensor = tensor[: shard.org_vocab_end_index - shard.org_vocab_start_index]  # without vLLM's padding
            is_split = split and not (name == "bias" and isinstance(module, RowParallelLinear))
            for part, piece in _hf_parts(module_name, module, tensor):
                result[f"{part}.{name}"] = (*checksum(piece), is_split)
    return result


def _hf_parts(name: str, module, tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """vLLM module name and local tensor -> (Hugging Face module name, its rows), fused layers taken apart."""
    if name.startswith("language_model.lm_head"):
        name = name.removeprefix("language_model.")
    elif name.startswith("language_model.model."):
        name = "model.language_model." + name.removeprefix("language_model.model.")
    else:
        name = f"model.{name}"
    if name.endswith(".qkv_proj"):
        heads, kv_heads, size = module.num_heads, module.num_kv_heads, module.head_size
        parts, sizes = ("q_proj", "k_proj", "v_proj"), (heads * size, kv_heads * size, kv_heads * size)
    elif name.endswith(".gate_up_proj"):
        parts, sizes = ("gate_proj", "up_proj"), (tensor.shape[0] // 2, tensor.shape[0] // 2)
    else:
        yield name, tensor
        return
    parent = name.rpartition(".")[0]
    for part, piece in zip(parts, tensor.split(sizes), strict=True):
        yield f"{parent}.{part}", piece


@contextlib.contextmanager
def _own_shared_memory(used: bool):
    """vLLM's CPU ranks of one engine meet in files whose names are the same in every job and outlive it: a dead job's
    would stop the next. Removed before, and once joined (the mapping stays)."""

    def remove() -> None:
        dist.barrier()
        if dist.get_rank() == 0:
            for path in glob.glob("/dev/shm/-tp:*cpushm_*"):
                os.unlink(path)
        dist.barrier()

    if used:
        remove()
    yield
    if used:
        remove()


@contextlib.contextmanager
def _keep_rng():
    """Building an engine reseeds python, numpy and torch; the trainer's streams must not notice."""
    state = rng.take()
    try:
        yield
    finally:
        rng.put_back(state)


# -- transformers ------------------------------------------------------------------------------------------------------


class HfEngine:
    """Plain transformers generation, prompt by prompt, from a copy of the model: slow, and needs nothing but torch."""

    forgets = False

    def __init__(self, folder: str, *, dtype: str, banned_ids: Sequence[int], device: torch.device):
        from transformers import Qwen3VLForConditionalGeneration

        self.model = Qwen3VLForConditionalGeneration.from_pretrained(
            folder, dtype=getattr(torch, dtype), use_safetensors=True
        ).to(device)
        self.model.eval()
        self.processor = load_processor(folder)
        self.banned = [int(i) for i in banned_ids]

    @torch.no_grad()
    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        device = self.model.device
        end = set(_as_list(self.model.generation_config.eos_token_id))
        results = []
        for request in requests:
            sampling = request.sampling
            inputs = {k: v.to(device) for k, v in processor_inputs(self.processor, request.prompt).items()}
            prompt_ids = tuple(inputs["input_ids"][0].tolist())
            how = dict(do_sample=False)
            if sampling.temperature > 0:
                how = dict(do_sample=True, temperature=sampling.temperature, top_k=0, top_p=1.0)
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                torch.manual_seed(request.seed)
                out = self.model.generate(
                    **inputs,
                    **how,
                    num_return_sequences=sampling.n,
                    max_new_tokens=sampling.max_tokens,
                    suppress_tokens=self.banned,
                    output_scores=True,
                    return_dict_in_generate=True,
                )
            tokens_GL = out.sequences[:, len(prompt_ids) :]
            logps_GLV = torch.log_softmax(torch.stack(out.scores, dim=1).float(), dim=-1)
            logps_GL = logps_GLV.gather(-1, tokens_GL[..., None])[..., 0].cpu()
            rollouts = []
            for tokens, logps in zip(tokens_GL.tolist(), logps_GL, strict=True):
                length = next((i + 1 for i, token in enumerate(tokens) if token in end), len(tokens))
                text = self.processor.tokenizer.decode(tokens[:length], skip_special_tokens=True)
                finish = "stop" if tokens[length - 1] in end else "length"
                rollouts.append(Rollout(tuple(tokens[:length]), logps[:length].clone(), text, finish))
            results.append(Generated(prompt_ids, rollouts))
        return results

    @torch.no_grad()
    def sync(self, parameters: NamedTensors) -> None:
        own = dict(self.model.named_parameters())
        for name, tensor in parameters:
            own[name].copy_(tensor)

    def checksums(self) -> dict[str, Checksum]:
        return {name: checksum(parameter) for name, parameter in self.model.named_parameters()}

    def sleep(self) -> None:
        """Its weights stay: there is no cache to free between calls."""

    def wake(self, what: str) -> None:
        """Never asleep."""


def _as_list(value) -> list[int]:
    return value if isinstance(value, list) else [value]


# -- other models ------------------------------------------------------------------------------------------------------


class ChatEngine:
    """vLLM with any multimodal model it runs, by that model's own chat template, frames as images. For evaluation: it
    can only `generate`, and its rollouts carry no ids and no log-probs.
    """

    def __init__(self, settings: EngineSettings, folder: str, *, system_prompt: str):
        """`system_prompt`: empty = no system turn. All ranks take part."""
        self.llm = _colocated_llm(
            folder,
            limits={"image": settings.frames},
            dtype=settings.dtype,
            max_tokens=settings.max_prompt_tokens + settings.max_completion_tokens,
            max_sequences=settings.engine_sequences,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory=settings.engine_memory,
            cpu_cache_mb=settings.engine_cpu_cache_mb,
            eager=settings.engine_eager,
            seed=settings.seed,
        )
        self.system_prompt = system_prompt

    def generate(self, requests: Sequence[Request]) -> list[Generated]:
        """Results in the order of `requests`, whose text is the user's words. What the model cannot take (a prompt
        longer than it reads) has an `error`."""
        from vllm import SamplingParams

        params = [SamplingParams(n=r.sampling.n, temperature=r.sampling.temperature, max_tokens=r.sampling.max_tokens,
                                 seed=r.seed) for r in requests]  # fmt: skip
        try:
            outputs = self.llm.chat([self._turns(request.prompt) for request in requests], params, use_tqdm=False)
        except ValueError as error:  # one that is too long refuses all of them
            if len(requests) > 1:
                return [result for request in requests for result in self.generate([request])]
            return [Generated((), [], " ".join(str(error).split())[:300])]
        return [
            Generated(
                tuple(out.prompt_token_ids),
                [Rollout((), torch.empty(0), reply.text, reply.finish_reason) for reply in out.outputs],
            )
            for out in outputs
        ]

    def _turns(self, prompt: Prompt) -> list[dict]:
        content = [{"type": "image_pil", "image_pil": Image.fromarray(frame)} for frame in pictures_of(prompt.view)]
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": [*content, {"type": "text", "text": prompt.text}]}]


def pictures_of(view: View | None) -> list[np.ndarray]:
    """A view as images, uint8 (H, W, 3) each, as shown; a clip of one frame, which holds it twice, is one image."""
    if view is None:
        return []
    frames = frames_thwc(view)
    return list(frames[:1] if len(set(view.frame_indices)) == 1 else frames)


# -- text only ---------------------------------------------------------------------------------------------------------


class TextEngine:
    """vLLM with a chat model that reads text alone, for the Task Router; no torchrun, and no weights to sync."""

    def __init__(
        self,
        model: str,
        *,
        dtype: str,
        max_tokens: int,
        tensor_parallel: int = 1,
        gpu_memory: float = 0.9,
        cpu_cache_mb: int = 1024,
        seed: int = 0,
    ):
        """`max_tokens`: prompt and reply together."""
        prepare_vllm(in_process=tensor_parallel == 1)
        from vllm import LLM

        self.llm = LLM(
            model=model,
            dtype=dtype,
            load_format="safetensors",
            trust_remote_code=False,
            seed=seed,
            tensor_parallel_size=tensor_parallel,
            max_model_len=max_tokens,
            enable_prefix_caching=True,  # every prompt starts with the same criteria
            disable_log_stats=True,
            use_tqdm_on_load=False,
            **_by_device(gpu_memory, cpu_cache_mb),
        )
        self.tokenizer = self.llm.get_tokenizer()
        self.max_tokens = max_tokens

    def chat(
        self, prompts: Sequence[str], seeds: Sequence[int], *, temperature: float, max_tokens: int
    ) -> list[tuple[str, str]]:
        """(reply, why it ended) to each prompt as a user's turn: "stop", or "length" where it was cut off or the
        prompt leaves no room for a reply."""
        from vllm import SamplingParams

        results, inputs, params, places = [("", "length")] * len(prompts), [], [], []
        for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
            turn = [{"role": "user", "content": prompt}]
            text = self.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
            ids = self.tokenizer.encode(text, add_special_tokens=False)  # the template has written them
            if len(ids) + max_tokens <= self.max_tokens:
                inputs.append({"prompt_token_ids": ids})
                params.append(SamplingParams(temperature=temperature, max_tokens=max_tokens, seed=seed))
                places.append(place)
        if inputs:
            for place, output in zip(places, self.llm.generate(inputs, params, use_tqdm=False), strict=True):
                results[place] = (output.outputs[0].text, output.outputs[0].finish_reason)
        return results
