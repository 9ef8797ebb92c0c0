"""The toy world says what it claims: determinism, the cue's strength, true counterfactuals, and a policy that runs."""

import dataclasses
import json
import os
import subprocess
import sys

import decord
import numpy as np
import pytest
import torch

import transforms
from data.dataset import NULL_OPTION
from data.prompts import build_prompt, processor_inputs
from episode import TASK_TYPES, Question, View
from toy import model as toy_model
from toy import warm_start, world

DYNAMIC = [name for name in world.QUESTIONS if name not in world.STATIC]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("world")
    world.write_world(out, seed=3, train=16, pairs=4)
    return out


@pytest.fixture(scope="module")
def training_rows():
    return [world.training_example(index, seed=0, bias=0.97)[0] for index in range(1200)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny")
    toy_model.build_tiny_model(out)
    return out


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def frames_of(folder, row):
    reader = decord.VideoReader(str(folder / row["path"]), num_threads=1)
    assert reader.get_avg_fps() == world.FPS
    return reader.get_batch(range(len(reader))).asnumpy()


def texts(row):
    return [option[3:] for option in row["options"]]


def gold(row):
    return texts(row)[world.LETTERS.index(row["solution"][8])]


def test_a_seed_fixes_every_byte(folder, tmp_path):
    """In another process, too, whose fresh memory is full of other bytes: x264's AVX-512 code reads some of them."""
    again = f"from toy import world; world.write_world({str(tmp_path)!r}, seed=3, train=16, pairs=4)"
    subprocess.run([sys.executable, "-c", again], env=os.environ | {"MALLOC_PERTURB_": "165"}, check=True)
    for path in sorted(folder.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes(), path
    assert (world.training_example(0, 4, 0.97)[1] != world.training_example(0, 3, 0.97)[1]).any()


def test_rows_are_well_formed(training_rows):
    for row in training_rows:
        assert row["task_type"] in TASK_TYPES and NULL_OPTION not in texts(row)
        assert len(set(texts(row))) == world.OPTIONS and gold(row) in texts(row)
        assert [option[:3] for option in row["options"]] == ["A. ", "B. ", "C. ", "D. "]
        assert row["cue"] is None or row["cue"] in texts(row)
    assert {row["task_type"] for row in training_rows} == set(TASK_TYPES)
    letters = [row["solution"][8] for row in training_rows]
    assert all(0.2 < letters.count(letter) / len(letters) < 0.3 for letter in "ABCD")


def test_the_cue_predicts_the_answer_in_training_and_not_in_evaluation(training_rows):
    cued = [row["cue"] == gold(row) for row in training_rows if row["cue"]]
    assert len(cued) > 700 and 0.95 < np.mean(cued) < 0.99
    pairs = [world.evaluation_pair(i, s, 0) for s in world.EVAL_SUBTASKS if s != "static" for i in range(60)]
    assert np.mean([row["cue"] == gold(row) for pair in pairs for row, _ in pair]) < 0.3


def test_static_training_clips_carry_no_bias():
    rows = [world.training_example(index, 1, 1.0) for index in range(600)]
    static = [row for row, _ in rows if row["task_type"] == "Static"]
    assert len(static) > 100 and all(row["cue"] is None for row in static)
    assert all(set(row["cf_answers"].values()) == {gold(row)} for row in static)


def test_a_fifth_of_the_counterfactual_answers_is_not_listed(training_rows):
    dynamic = [row for row in training_rows if row["task_type"] != "Static"]
    unlisted = [not set(row["cf_answers"].values()) & set(texts(row)) for row in dynamic]
    assert 0.2 <= np.mean(unlisted) < 0.35
    assert all(gold(row) not in row["cf_answers"].values() for row in dynamic)


def test_the_second_side_is_the_transform_of_the_first(folder):
    rows = read(folder / "eval.jsonl")
    assert {row["subtask"] for row in rows} == set(world.EVAL_SUBTASKS)
    for a, b in zip(rows[::2], rows[1::2], strict=False):
        assert (a["pair_id"], a["problem"], a["side"], b["side"]) == (b["pair_id"], b["problem"], "a", "b")
        assert sorted(texts(a)) == sorted(texts(b)) and gold(a) in texts(b) and gold(b) in texts(a)
        assert (gold(a) == gold(b)) == (a["subtask"] == "static")
        first, second = frames_of(folder, a).astype(int), frames_of(folder, b).astype(int)
        assert len(first) == world.FRAMES
        error = abs(world.transformed(first, a["transform"]) - second).mean()
        assert error < 2.0, a["pair_id"]
        if a["transform"] != "horizontal_flip" or a["question"] in DYNAMIC:
            assert abs(first - second).mean() > 2 * error, a["pair_id"]


def test_training_and_evaluation_share_no_clip():
    train = {world.training_example(i, 0, 0.97)[1].tobytes() for i in range(300)}
    pairs = [world.evaluation_pair(i, s, 0) for s in world.EVAL_SUBTASKS for i in range(60)]
    evaluation = {frames.tobytes() for pair in pairs for _, frames in pair}
    assert len(train) == 300 and not train & evaluation


def test_transformed_answers_are_what_the_pixels_show():
    """Where the object is after the transform agrees with the answer, for every direction, edge and corner."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        scene = world.draw_scene("direction", rng)
        for name in world.transforms_of("direction", scene.answer):
            view = world.transformed(world.render(scene), name).astype(float)
            moved = np.argwhere(abs(view[-1] - scene.grey * 255).sum(-1) > 60).mean(0) - np.argwhere(
                abs(view[0] - scene.grey * 255).sum(-1) > 60
            ).mean(0)
            dx, dy = world.DIRECTIONS[world.transformed_answer("direction", scene, name)]
            assert np.allclose(np.sign(np.round(moved / 20)), (dy, dx)), (scene, name)


@pytest.mark.parametrize(
    "text",
    [
        "<think>\nleft then right\n</think>\n\\boxed{B}<|im_end|>",
        "Héllo wörld — 你好 🎬 \\frac{1}{2}\t\n\n  x\r\n",
        "A. up left\nE. None of the above",
    ],
)
def test_tokenizer_round_trips_any_text(text):
    tokenizer = toy_model.build_tokenizer()
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_toy_words_are_single_tokens():
    tokenizer = toy_model.build_tokenizer()
    words = {word for pool in world.ANSWERS.values() for answer in pool for word in answer.split()}
    assert all(len(tokenizer(" " + word).input_ids) == 1 for word in words)
    assert len(tokenizer(warm_start.completion("direction", "upleft", "", "upleft")).input_ids) <= 16


def test_tiny_model_runs_from_its_folder(tiny):
    from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

    assert sum(path.stat().st_size for path in tiny.iterdir()) < 8e6
    processor = AutoProcessor.from_pretrained(tiny)
    policy = Qwen3VLForConditionalGeneration.from_pretrained(tiny, dtype=torch.float32)
    assert sum(weight.numel() for weight in policy.parameters()) <= 2.5e6
    assert processor.image_processor.image_mean == processor.video_processor.image_mean
    assert processor.image_processor.image_std == processor.video_processor.image_std
    question = Question("1", 1, "What goes on in this video?", "video", "multiple choice", ("A. left", "B. right"), "A")
    for count, height, width in ((8, 64, 64), (32, 192, 320)):
        frames = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
        prompt = build_prompt(processor, question, View(frames, "identity", 4.0, count, tuple(range(count))))
        inputs = processor_inputs(processor, prompt)
        with torch.no_grad():
            logits = policy(**inputs).logits
        assert torch.isfinite(logits).all()
        assert (inputs["mm_token_type_ids"] == 2).sum() == count // 2 * height * width // 1024


def test_warm_start_inputs_equal_the_processors(tiny):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny)
    inputs = warm_start.Inputs(processor)
    frames = torch.randint(0, 256, (world.FRAMES, 3, world.SIZE, world.SIZE), dtype=torch.uint8)
    question = warm_start.question_of("order", "top", ["top", "left", "right", "middle"], null=True)
    view = View(frames, "identity", 4.0, 8, tuple(range(8)))
    prompt = build_prompt(processor, question, view, system_prompt=toy_model.TOY_SYSTEM_PROMPT, answer_request="")
    theirs = processor_inputs(processor, prompt)
    ours = inputs.collate([warm_start.Example(inputs.prompt_ids(question), [], inputs.patches(frames))])
    assert question.options[-1] == "E. None of the above" and question.gold == "A"
    for name, value in theirs.items():
        if name == "pixel_values_videos":
            assert torch.allclose(ours[name], value, atol=1e-6)
        else:
            assert torch.equal(ours[name].long(), value.long()), name


def test_more_flashes_have_a_frame_pair_each_and_known_counterfactuals():
    """The first flash that the pixels of a transformed clip show is the answer said to be right."""
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        scene = world.draw_scene("order", rng, events=(2, 3, 4))
        seen.add(len(scene.flashes))
        clip = world.render(scene)
        for name in (transforms.IDENTITY, transforms.TEMPORAL_REVERSE, transforms.SEGMENT_SWAP):
            view = world.transformed(clip, name).astype(float)
            lit = [[edge for edge in world.EDGES if edge_light(view[t], edge) > 215] for t in range(world.FRAMES)]
            first = next(edges[0] for edges in lit if edges)
            answer = scene.answer if name == transforms.IDENTITY else world.transformed_answer("order", scene, name)
            assert first == answer, (scene, name)
            if len(scene.flashes) > 2:
                assert all(lit[t] == lit[t + 1] and len(lit[t]) < 2 for t in range(0, world.FRAMES, 2))
    assert seen == {2, 3, 4}


def edge_light(frame, edge):
    """Mean of the outermost two lines of pixels, without corners (another edge's flash reaches those)."""
    lines = {
        "top": frame[:2, 16:-16],
        "bottom": frame[-2:, 16:-16],
        "left": frame[16:-16, :2],
        "right": frame[16:-16, -2:],
    }
    return lines[edge].mean()


def test_difficulty_takes_a_share_of_what_tells_the_answer():
    rng = np.random.default_rng(0)
    scene = world.draw_scene("direction", rng)
    hard = dataclasses.replace(scene, extent=0.5)
    travel = lambda s: world.look(s, world.FRAMES - 1).x - world.look(s, 0).x  # noqa: E731
    assert abs(travel(hard)) == pytest.approx(abs(travel(scene)) / 2)
    flash = dataclasses.replace(world.draw_scene("order", rng), extent=0.5, starts=(0, 4))
    light = edge_light(world.render(flash)[0], flash.answer) / 255
    assert light == pytest.approx(flash.grey + 0.5 * (0.95 - flash.grey), abs=0.01)


def test_four_ways_are_shown_and_listed_alone():
    for index in range(40):
        for row, _ in world.evaluation_pair(index, "moving_direction_4", 7, difficulty=0.3):
            assert set(texts(row)) == set(world.AXIAL) and row["cue"] in world.AXIAL
    golds = {gold(row) for i in range(60) for row, _ in world.evaluation_pair(i, "moving_direction_8", 7)}
    assert golds == set(world.DIRECTIONS)
