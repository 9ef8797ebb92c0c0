"""The toy policy: a real Qwen3-VL with a tiny configuration, its tokenizer and its processor.

The classes are the shipped ones; only sizes and vocabulary differ. 1.8 M parameters: it learns on two CPU cores.
`build_tiny_model` draws fresh weights; `toy/warm_start_checkpoint/` holds the ones that `toy.warm_start` trained.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from data.dataset import NULL_OPTION
from data.prompts import ANSWER_REQUEST, SYSTEM_PROMPT
from toy import world

TOY_SYSTEM_PROMPT = "Think, then answer in \\boxed{}."
TOY_ANSWER_REQUEST = ""
CHECKPOINT = Path(__file__).parent / "warm_start_checkpoint"

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# Qwen2's own rule for cutting text before the merges; the loader of a saved Qwen tokenizer expects it.
PRETOKENIZE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen3-VL's turn layout, less tools; `content` is text or a list of parts.
CHAT_TEMPLATE = (
    "{%- for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCABULARY_LIMIT = 1024  # a multiple of 64; merges stop earlier, once every word of the corpus is one token
PATCH, MERGE, TEMPORAL_PATCH = 16, 2, 2
MIN_PIXELS = 32 * 32
# Over all frames: 32 frames of 128 cells of 32 x 32. No larger than needed: an engine profiles videos of this size.
MAX_VIDEO_PIXELS = 32 * 128 * 32 * 32


def thought(first: str, second: str) -> str:
    """What the warm start teaches to think: what is seen early and what is seen late."""
    return f"{first} then {second}"


def corpus() -> list[str]:
    """Text whose words become single tokens: the toy's questions and answers, the chat frame and the paper's prompt."""
    answers = [*sorted({answer for pool in world.ANSWERS.values() for answer in pool}), NULL_OPTION]
    lines = [*world.QUESTIONS.values(), "What happens?", "Options:", TOY_SYSTEM_PROMPT, SYSTEM_PROMPT, ANSWER_REQUEST]
    lines += ["system\n", "user\n", "assistant\n", "<0.2 seconds>", "<think>\n", "\n</think>\n", "\\boxed"]
    lines += ["small then big"]
    lines += [f"{letter}. {answer}\n" for answer in answers for letter in world.LETTERS]
    return lines + [f"{answer} then {answer}" for answer in answers]


def build_tokenizer() -> Qwen2TokenizerFast:
    """Byte-level BPE: one token for a toy word, bytes for what it has never seen (so that any text round trips)."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY_LIMIT, initial_alphabet=alphabet, show_progress=False)
    # Twice: a merge must be seen at least twice.
    core.train_from_iterator(corpus() * 2, trainer)
    learned = json.loads(core.to_str())["model"]
    # Into the Qwen class, with Qwen's special tokens at the end of the vocabulary.
    tokenizer = Qwen2TokenizerFast(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def build_processor(tokenizer: Qwen2TokenizerFast) -> Qwen3VLProcessor:
    """Both sub-processors share mean and std: the engine normalises video with the image processor's."""
    patches = dict(patch_size=PATCH, temporal_patch_size=TEMPORAL_PATCH, merge_size=MERGE)
    common = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, **patches)
    image = Qwen2VLImageProcessor(**common, size={"shortest_edge": MIN_PIXELS, "longest_edge": 64 * MIN_PIXELS})
    video = Qwen3VLVideoProcessor(**common, size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_VIDEO_PIXELS})
    return Qwen3VLProcessor(
        image_processor=image, tokenizer=tokenizer, video_processor=video, chat_template=CHAT_TEMPLATE
    )


def build_config(tokenizer: Qwen2TokenizerFast) -> Qwen3VLConfig:
    """Two KV heads, and every width a multiple of 32: tensor parallel 2 works."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen3VLConfig(
        text_config=dict(
            vocab_size=-(-len(tokenizer) // 64) * 64,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=8192,
            rope_theta=1e4,
            rope_scaling=dict(rope_type="default", rope_theta=1e4, mrope_section=[8, 4, 4], mrope_interleaved=True),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=ids["<|im_end|>"],
            pad_token_id=ids["<|endoftext|>"],
        ),
        vision_config=dict(
            depth=3,
            hidden_size=96,
            intermediate_size=192,
            num_heads=4,
            out_hidden_size=128,
            patch_size=PATCH,
            spatial_merge_size=MERGE,
            temporal_patch_size=TEMPORAL_PATCH,
            num_position_embeddings=16,
            deepstack_visual_indexes=[0, 1],
        ),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    config.eos_token_id, config.pad_token_id = ids["<|im_end|>"], ids["<|endoftext|>"]
    return config


def build_model(config: Qwen3VLConfig, seed: int = 0) -> Qwen3VLForConditionalGeneration:
    """Fresh float32 weights. Std 0.7 / sqrt(fan in): with the usual 0.02 so small a model learned nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config).float()
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                std = 0.08 if "embed_tokens" in name else 0.7 / weight[0].numel() ** 0.5
                torch.nn.init.normal_(weight, std=std)
    model.generation_config = GenerationConfig(
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    return model


def save(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, out_dir: Path | str) -> None:
    """A folder that transformers and vLLM load by its path; weights in bfloat16."""
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    dtype = model.dtype
    model.to(torch.bfloat16).save_pretrained(out_dir)
    model.to(dtype)
    processor.save_pretrained(out_dir)


def build_tiny_model(out_dir: Path | str, seed: int = 0) -> None:
    """Write an untrained toy policy with tokenizer and processor to `out_dir`."""
    tokenizer = build_tokenizer()
    save(build_model(build_config(tokenizer), seed), build_processor(tokenizer), out_dir)
