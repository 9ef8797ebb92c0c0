"""pytest tests/test_model.py -- packed log-probs and gradients equal the ordinary forward, one row per rollout.

In float32 on the CPU: log-probs to 5e-6, gradients to 1e-5 relative, over every trainable parameter.
"""

import pytest
import torch
from distributed import dense_mask, make_group, plain_logps, random_image, random_view, relative_difference
from transformers import Qwen3VLForConditionalGeneration

import logprobs
import model as model_module
from model import (
    BANNED_TOKENS,
    Policy,
    load_policy,
    load_processor,
    pack_groups,
    packed_tokens,
    resolve_checkpoint,
    trainer_names,
)
from packing import split_by_completion

LOGP_TOLERANCE = 5e-6
GRAD_TOLERANCE = 1e-5
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def processor(tiny_folder):
    return load_processor(tiny_folder)


def float_policy(folder, **options):
    return load_policy(folder, **options).float()


@pytest.fixture
def policy(tiny_folder):
    return float_policy(tiny_folder)


def cases(processor, policy, name):
    """Groups of one row, by what makes them awkward."""
    clip, other = random_view(1), random_view(2, frames=6, size=(64, 96))
    image, wide = random_image(3), random_image(4, size=(32, 96))
    return {
        "equal lengths": lambda: [make_group(processor, policy, 1, [5, 5, 5], view=clip)],
        "ragged": lambda: [make_group(processor, policy, 2, [1, 9, 4], view=clip)],
        "an empty completion": lambda: [make_group(processor, policy, 3, [3, 0, 2], view=clip)],
        "two clips in one row": lambda: [
            make_group(processor, policy, 4, [4, 1], view=clip),
            make_group(processor, policy, 5, [2, 7, 3], view=other),
        ],
        "text alone": lambda: [make_group(processor, policy, 6, [4, 2], view=None)],
        "text between clips": lambda: [
            make_group(processor, policy, 7, [3, 2], view=other),
            make_group(processor, policy, 8, [5], view=None),
            make_group(processor, policy, 9, [2, 6], view=clip),
        ],
        "an image": lambda: [make_group(processor, policy, 10, [4, 2, 7], view=wide)],
        "two images in one row": lambda: [
            make_group(processor, policy, 11, [3, 5], view=wide),
            make_group(processor, policy, 12, [6, 2], view=image),
        ],
        "image, text, clip, image, clip": lambda: [  # the model takes the images' patches apart from the clips'
            make_group(processor, policy, 13, [2, 5], view=image),
            make_group(processor, policy, 14, [3], view=None),
            make_group(processor, policy, 15, [4, 1], view=other),
            make_group(processor, policy, 16, [6, 2], view=wide),
            make_group(processor, policy, 17, [3, 3], view=clip),
        ],
    }[name]()


CASES = ["equal lengths", "ragged", "an empty completion", "two clips in one row", "text alone", "text between clips"]
CASES += ["an image", "two images in one row", "image, text, clip, image, clip"]


def packed_forward(policy, members):
    inputs = pack_groups([group for group, _ in members], [encoded for _, encoded in members], CPU)
    return *policy(inputs), inputs


def plain_forward(policy, processor, members):
    """(C,) in the order of the pack, from ordinary forwards."""
    return torch.cat(
        [
            plain_logps(policy.hf, processor, group, i, banned=policy.banned_ids, temperature=policy.temperature)
            for group, _ in members
            for i, rollout in enumerate(group.rollouts)
            if rollout.ids
        ]
    )


def gradients(policy, loss):
    policy.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


def weights(n):
    return torch.linspace(-1.0, 1.3, n)  # both signs, no two alike


@pytest.mark.parametrize("name", CASES)
def test_packed_equals_one_row_per_rollout(policy, processor, name, record_property):
    members = cases(processor, policy, name)
    packed, _, inputs = packed_forward(policy, members)
    plain = plain_forward(policy, processor, members)
    assert packed.dtype == torch.float32 and len(packed) == sum(inputs.row.lengths)
    gap = (packed - plain).abs().max().item()
    got, expected = (gradients(policy, (weights(len(v)) * v).sum()) for v in (packed, plain))
    if name == "text alone":  # the packed forward gives the mergers zeros, the plain one nothing: see test_update
        merger = set(got) - set(expected)
        assert merger and all("merger" in n and not got[n].any() for n in merger)
        got = {n: v for n, v in got.items() if n not in merger}
    else:
        assert {n for n, p in policy.named_parameters() if p.requires_grad} == expected.keys()
    difference = relative_difference(got, expected)
    print(f"{name}: log-probs {gap:.1e}, gradients {difference:.1e}")
    record_property("max_logp_diff", gap)
    record_property("max_grad_diff", difference)
    assert gap <= LOGP_TOLERANCE
    assert difference <= GRAD_TOLERANCE


def test_a_deepstack_tap_behind_the_last_layer(tiny_folder, processor):
    """Two layers, two taps: the second adds to prompt rows that nobody reads, and its merger learns nothing."""
    hf = Qwen3VLForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    hf.model.language_model.layers = hf.model.language_model.layers[:2]
    assert len(hf.model.visual.deepstack_merger_list) == 2
    policy = Policy(hf, (), 1.0)
    for module in policy.frozen_modules():
        module.requires_grad_(False)
    members = cases(processor, policy, "two clips in one row")
    packed, plain = packed_forward(policy, members)[0], plain_forward(policy, processor, members)
    assert (packed - plain).abs().max() <= LOGP_TOLERANCE
    got, expected = (gradients(policy, (weights(len(v)) * v).sum()) for v in (packed, plain))
    unread = {n for n in expected if "deepstack_merger_list.1" in n}
    assert unread and not any(g[n].any() for g in (got, expected) for n in unread)
    got, expected = ({n: v for n, v in g.items() if v.any()} for g in (got, expected))
    assert relative_difference(got, expected) <= GRAD_TOLERANCE


def test_with_plain_causal_attention_completions_leak(policy, processor, monkeypatch):
    """The control of the test above: with the row as one long prompt the comparison must fail, and by far."""
    members = cases(processor, policy, "two clips in one row")
    plain = plain_forward(policy, processor, members)
    monkeypatch.setattr(model_module, "layout", lambda row: ((len(row.ids),),))
    assert (packed_forward(policy, members)[0] - plain).abs().max() > 1e-2


def test_editing_one_completion_leaves_the_others_log_probs(policy, processor):
    members = cases(processor, policy, "two clips in one row")
    before, _, inputs = packed_forward(policy, members)
    rollout = members[0][0].rollouts[0]
    object.__setattr__(rollout, "ids", tuple((i + 17) % 256 for i in rollout.ids))
    after = packed_forward(policy, members)[0]
    parts = zip(split_by_completion(before, inputs.row), split_by_completion(after, inputs.row), strict=True)
    for index, (old, new) in enumerate(parts):
        assert torch.allclose(old, new, rtol=0, atol=LOGP_TOLERANCE) == (index != 0)


@pytest.mark.parametrize("temperature", [0.5, 1.7])
def test_temperature_and_token_ban_shape_the_distribution(tiny_folder, processor, temperature):
    """With both, packed equals plain; and each of them matters (a log-prob without it is another number)."""
    policy = float_policy(tiny_folder, temperature=temperature)
    tokenizer = processor.tokenizer
    assert sorted(policy.banned_ids) == sorted(tokenizer.convert_tokens_to_ids(list(BANNED_TOKENS)))
    members = cases(processor, policy, "ragged")
    with torch.no_grad():
        packed, _, inputs = packed_forward(policy, members)
        assert (packed - plain_forward(policy, processor, members)).abs().max() <= LOGP_TOLERANCE / min(temperature, 1)
        group = members[0][0]
        arguments = (policy.hf, processor, group, 1)
        hot = plain_logps(*arguments, banned=policy.banned_ids, temperature=1.0)
        free = plain_logps(*arguments, banned=(), temperature=temperature)
        mine = split_by_completion(packed, inputs.row)[1]
        assert (mine - hot).abs().max() > 1e-2
        assert (mine - free).abs().max() > 1e-4


def test_a_banned_token_has_no_probability(policy, processor):
    members = cases(processor, policy, "ragged")
    rollout = members[0][0].rollouts[1]
    pad = processor.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    object.__setattr__(rollout, "ids", (*rollout.ids[:-1], pad))
    with torch.no_grad():
        packed, _, inputs = packed_forward(policy, members)
    assert split_by_completion(packed, inputs.row)[1][-1] < -80


def test_entropy_is_the_policys_and_carries_no_gradient(policy, processor):
    members = cases(processor, policy, "equal lengths")
    _, entropies, inputs = packed_forward(policy, members)
    assert not entropies.requires_grad and entropies.shape == inputs.row.targets.shape
    hidden = policy.hf.model(
        input_ids=inputs.row.ids[None],
        attention_mask=dense_mask(inputs.row),
        position_ids=inputs.row.positions[:, None],
        **members[0][1].vision,
    ).last_hidden_state[0]
    logits = policy.hf.lm_head(hidden)[inputs.row.logit_rows][inputs.row.target_rows].detach()
    logits[:, list(policy.banned_ids)] -= 100
    torch.testing.assert_close(
        entropies, torch.distributions.Categorical(logits=logits).entropy(), rtol=1e-4, atol=1e-4
    )


def test_chunks_of_logits_change_nothing(policy, processor, monkeypatch):
    members = cases(processor, policy, "text between clips")
    whole, whole_entropies, _ = packed_forward(policy, members)
    expected = gradients(policy, (weights(len(whole)) * whole).sum())
    monkeypatch.setattr(logprobs, "CHUNK", 3)
    chunked, entropies, _ = packed_forward(policy, members)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=LOGP_TOLERANCE)
    torch.testing.assert_close(entropies, whole_entropies, rtol=0, atol=1e-5)
    assert relative_difference(gradients(policy, (weights(len(chunked)) * chunked).sum()), expected) <= GRAD_TOLERANCE


def test_the_row_that_predicts_first_tokens_goes_through_the_head_once(policy, processor, monkeypatch):
    members = cases(processor, policy, "text between clips")  # completions of 3 and 2, of 5, of 2 and 6 tokens
    rows, logits = [], logprobs._logits
    monkeypatch.setattr(logprobs, "_logits", lambda hidden, *rest: rows.append(len(hidden)) or logits(hidden, *rest))
    with torch.no_grad():
        logps, _, _ = packed_forward(policy, members)
    assert len(logps) == 18 and rows == [18 - 2]


def test_an_ordinary_call_is_the_librarys(tiny_folder, policy):
    """Also under a padding mask: other code may use the model inside the policy as it is."""
    library = Qwen3VLForConditionalGeneration.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = torch.arange(14).view(2, 7)
    for mask in (torch.ones_like(ids), torch.ones_like(ids).triu(-4).flip(1)):
        with torch.no_grad():
            got, expected = (hf(input_ids=ids, attention_mask=mask).logits for hf in (policy.hf, library))
        assert torch.equal(got[mask.bool()], expected[mask.bool()])


@torch.no_grad()
def test_bfloat16_is_as_exact_as_one_row_per_rollout(policy, processor, tiny_folder):
    """Over 1212 tokens of four clips; of a single clip either may be a tenth better by chance."""
    rounded = load_policy(tiny_folder).to(torch.bfloat16)
    errors = []
    for seed in range(4):
        view = random_view(seed, frames=6, size=(64, 96))
        members = [make_group(processor, policy, seed, [40, 31, 57, 22, 48, 9, 60, 36], view=view)]
        exact = plain_forward(policy, processor, members)
        both = packed_forward(rounded, members)[0], plain_forward(rounded, processor, members)
        errors.append(torch.stack([(logps - exact).abs() for logps in both]))
    packed_error, plain_error = torch.cat(errors, dim=1).mean(dim=1).tolist()
    print(f"mean error of bfloat16 log-probs: packed {packed_error:.2e}, one row per rollout {plain_error:.2e}")
    assert packed_error <= 1.15 * plain_error


@pytest.mark.parametrize("name", ["two clips in one row", "image, text, clip, image, clip", "text alone"])
def test_gradient_checkpointing_changes_nothing(tiny_folder, policy, processor, name):
    members = cases(processor, policy, name)
    plain = packed_forward(policy, members)[0]
    expected = gradients(policy, (weights(len(plain)) * plain).sum())
    saving = float_policy(tiny_folder, gradient_checkpointing=True).train()
    assert saving.hf.model.language_model.is_gradient_checkpointing
    calls = []
    saving.layers()[0].input_layernorm.register_forward_pre_hook(lambda *_: calls.append(1))
    saved = packed_forward(saving, members)[0]
    got = gradients(saving, (weights(len(saved)) * saved).sum())
    assert len(calls) == 2, "the layer must run again in the backward pass"
    assert torch.equal(saved, plain)
    still = {n for n in expected if not expected[n].any()}  # the mergers of text alone
    assert all("merger" in n and not got[n].any() for n in still) and bool(still) == (name == "text alone")
    difference = relative_difference(*({n: v for n, v in g.items() if n not in still} for g in (got, expected)))
    assert difference <= 1e-7


def test_the_vision_tower_is_frozen_and_mergers_and_llm_train(policy):
    trainable = {name for name, parameter in trainer_names(policy.named_parameters()) if parameter.requires_grad}
    frozen = {name for name, parameter in trainer_names(policy.named_parameters()) if not parameter.requires_grad}
    linear = [f"{layer}.{kind}" for layer in ("linear_fc1", "linear_fc2", "norm") for kind in ("weight", "bias")]
    heads = ["merger", "deepstack_merger_list.0", "deepstack_merger_list.1"]
    layer = [
        *[f"self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj", "o_proj", "q_norm", "k_norm")],
        *[f"mlp.{part}" for part in ("gate_proj", "up_proj", "down_proj")],
        "input_layernorm",
        "post_attention_layernorm",
    ]
    language = "model.language_model"
    assert trainable == {
        *[f"model.visual.{head}.{name}" for head in heads for name in linear],
        *[f"{language}.layers.{n}.{name}.weight" for n in range(4) for name in layer],
        f"{language}.embed_tokens.weight",
        f"{language}.norm.weight",
    }
    block = [
        *[f"{name}.{kind}" for name in ("norm1", "norm2", "attn.qkv", "attn.proj") for kind in ("weight", "bias")],
        *[f"mlp.{name}.{kind}" for name in ("linear_fc1", "linear_fc2") for kind in ("weight", "bias")],
    ]
    assert frozen == {
        *[f"model.visual.blocks.{n}.{name}" for n in range(3) for name in block],
        "model.visual.patch_embed.proj.weight",
        "model.visual.patch_embed.proj.bias",
        "model.visual.pos_embed.weight",
    }
    merger = {id(parameter) for parameter in policy.merger_parameters()}
    assert merger == {id(p) for name, p in policy.named_parameters() if "merger" in name}


def test_the_tower_sees_a_clip_once_for_all_passes_of_a_round(policy, tiny_folder, processor):
    """Old, reference and policy passes over one pack; each has mergers of its own, and the policy's learn."""
    name = "image, text, clip, image, clip"
    reference = float_policy(tiny_folder).requires_grad_(False)
    for merger in [reference.hf.model.visual.merger, *reference.hf.model.visual.deepstack_merger_list]:
        merger.linear_fc2.weight.mul_(1.5)
    calls = []
    for one in (policy, reference):
        one.hf.model.visual.patch_embed.register_forward_pre_hook(lambda *_: calls.append(1))
    members = cases(processor, policy, name)
    with torch.no_grad():
        of_reference, _, inputs = packed_forward(reference, members)
        old, _ = policy(inputs)
    new, _ = policy(inputs)
    assert calls == [1] and not inputs.clips.states.requires_grad and inputs.clips.patches is None
    assert (plain_forward(reference, processor, members) - of_reference).abs().max() <= LOGP_TOLERANCE
    plain = plain_forward(policy, processor, members)
    for got in (old, new):
        assert (plain - got).abs().max() <= LOGP_TOLERANCE
    assert (of_reference - old).abs().max() > 1e-2, "the reference must have used its own mergers"
    got, expected = (gradients(policy, (weights(len(v)) * v).sum()) for v in (new, plain))
    assert relative_difference(got, expected) <= GRAD_TOLERANCE


def test_a_placeholder_in_a_completion_is_text(policy, processor):
    """It is banned; should one come all the same, it takes no clip's features."""
    members = cases(processor, policy, "ragged")
    rollout = members[0][0].rollouts[1]
    logps, _, inputs = packed_forward(policy, members)
    before = split_by_completion(logps, inputs.row)
    pad = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    object.__setattr__(rollout, "ids", (*rollout.ids[:-1], pad))
    after, _, inputs = packed_forward(policy, members)
    for i, (old, new) in enumerate(zip(before, split_by_completion(after, inputs.row), strict=True)):
        n = len(old) - (i == 1)
        torch.testing.assert_close(old[:n], new[:n], rtol=0, atol=LOGP_TOLERANCE)


def test_packed_tokens_counts_the_prompt_once(policy, processor):
    members = cases(processor, policy, "two clips in one row")
    inputs = pack_groups([group for group, _ in members], [encoded for _, encoded in members], CPU)
    assert sum(packed_tokens(group) for group, _ in members) == len(inputs.row.ids)


def test_encode_gives_what_the_processor_gives(policy, processor):
    group, encoded = make_group(processor, policy, 1, [2], view=random_view(1, frames=6))
    video_pad = processor.tokenizer.convert_tokens_to_ids("<|video_pad|>")
    assert encoded.positions.shape == (3, len(encoded.ids))
    assert encoded.ids.count(video_pad) == 3 * 2 * 2 and encoded.vision["video_grid_thw"].tolist() == [[3, 4, 4]]
    assert len(encoded.vision["pixel_values_videos"]) == 3 * 4 * 4 and len(encoded.vision) == 2


def test_encode_of_an_image_gives_what_the_processor_gives(policy, processor):
    group, encoded = make_group(processor, policy, 1, [2], view=random_image(1, size=(64, 96)))
    image_pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert encoded.ids.count(image_pad) == 2 * 3 and encoded.vision["image_grid_thw"].tolist() == [[1, 4, 6]]
    assert len(encoded.vision["pixel_values"]) == 4 * 6 and len(encoded.vision) == 2
    first = encoded.ids.index(image_pad)
    columns = encoded.positions[:, first : first + 6] - first
    assert columns.tolist() == [[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]], "one time, two rows, three columns"
    assert encoded.positions[0, first + 6] == first + 3, "text goes on behind the largest of the three"


@pytest.mark.parametrize("size", [(32, 128), (64, 64), (256, 288)])
def test_the_processor_takes_an_image_as_it_is(policy, processor, size):
    """Whatever its own budget: 64 cells at most here, at least 64 in Qwen3-VL's."""
    processor.image_processor.size["shortest_edge"], before = 65536, processor.image_processor.size["shortest_edge"]
    try:
        view = random_image(1, size=size)
        _, encoded = make_group(processor, policy, 1, [2], view=view)
    finally:
        processor.image_processor.size["shortest_edge"] = before
    rows, columns = size[0] // 16, size[1] // 16
    assert encoded.vision["image_grid_thw"].tolist() == [[1, rows, columns]]
    patches = encoded.vision["pixel_values"].reshape(rows // 2, columns // 2, 2, 2, 3, 2, 16, 16)
    pixels = patches[..., 0, :, :].permute(4, 0, 2, 5, 1, 3, 6).reshape(3, *size)
    assert torch.equal(((pixels * 0.5 + 0.5) * 255).round().to(torch.uint8), view.frames[0])


def test_resolve_checkpoint_takes_a_folder(tiny_folder):
    assert resolve_checkpoint(tiny_folder) == tiny_folder


def one_line_error(name):
    with pytest.raises(ValueError) as error:
        resolve_checkpoint(name)
    line = str(error.value)
    assert "\n" not in line and line.startswith(f"--model {name}")
    return line


def test_resolve_checkpoint_names_what_it_knows():
    assert "Qwen3-VL-8B" in one_line_error("Qwen9-VL")


def test_resolve_checkpoint_refuses_a_folder_without_config(tmp_path):
    assert "config.json" in one_line_error(str(tmp_path))


def test_resolve_checkpoint_without_network_or_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert "Qwen/Qwen3-VL-8B-Instruct" in one_line_error("Qwen3-VL-8B")


def test_resolve_checkpoint_tells_a_mistyped_path_from_a_hub_name(tmp_path):
    one_line_error(str(tmp_path / "missing"))


def test_resolve_checkpoint_refuses_what_the_hub_cannot_hold():
    one_line_error("./missing")
