"""pytest tests/test_benchmarks.py -- public layouts -> items, prompts to the letter, replies nobody should believe."""

from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from episode import View
from eval.benchmarks import NAMES, load, read_answer, rejected, remarks
from eval.layouts import MVBENCH_FOLDERS
from eval.replies import caption_options, read_caption, read_caption_matching, read_choice, read_yes_no
from eval.shown import show

OPTIONS = ("A. from left to right", "B. from right to left", "C. the man is a dog", "D. None of the above")


# -- replies ----------------------------------------------------------------------------------------------------------

CHOICES = [
    # How models answer.
    ("B", "B"),
    ("b", "B"),
    ("(B)", "B"),
    ("B.", "B"),
    ("B)", "B"),
    ("**B**", "B"),
    ("B. from right to left", "B"),
    ("(B) from right to left", "B"),
    ("from right to left", "B"),
    ("From right to left.", "B"),
    ("Answer: B", "B"),
    ("The answer is B.", "B"),
    ("The correct answer is (B) from right to left.", "B"),
    ("Best option: (B)", "B"),
    ("Best option:(B) from right to left", "B"),
    ("The best option is B because the man walks off.", "B"),
    ("The answer is: from right to left.", "B"),
    ("Looking at the clip, I would choose B.", "B"),
    ("I am sure it is option (B).", "B"),
    ("B. from right to left\nThe man enters at the right and leaves at the left.", "B"),
    ("The man enters at the right.\n\nB", "B"),
    ("<think>A man. First B, then A?</think>B", "B"),
    ("A man is thinking about A.</think>\n\\boxed{B}", "B"),
    ("<think>A</think> \\boxed{\\text{B}}", "B"),
    ("\\boxed{A} no, \\boxed{B. from right to left}", "B"),
    ("<think>so A</think><answer>B</answer>", "B"),
    ("A is wrong, so the answer is B.", "B"),
    ("Option A is wrong; I choose (B).", "B"),
    *(
        (said, "B")
        for said in (
            "Option B",
            "Option B.",
            "**Option B**",
            "OPTION B",
            "Option B is correct.",
            "Choice B is correct.",
            "B is correct",
            "B is the answer.",
            "B is the correct answer.",
            "B is the best option because he turns.",
            "It's B",
            "It\u2019s B.",
            "I think B",
            "My choice: B",
            "Letter B",
            "THE ANSWER IS B",
            "The answer is Option B.",
            "**Answer**: B",
            "\\boxed{Option B}",
            "<ANSWER>B</ANSWER>",
            "<answer>Option B</answer>",
            '{"answer": "B"}',
            '```json\n{"answer": "from right to left", "reason": "A man turns"}\n```',
            "B<|im_end|>",
            "B</s>",
            "Option A is wrong. Option B is correct.",
        )
    ),
    *((said, "A") for said in ("**Option A**", "A is correct", "I think A.", "It's A", '{"answer": "A"}')),
    # What must not be read, or not like that.
    *(
        (said, None)
        for said in (
            "option b",
            "it's b",
            "I think b",
            "b is correct",
            "My choice: A man",
            "I think A man walks",
            "It's A man",
            "Is it B?",
            "Is B correct?",
            "B is correct?",
            "It's B or C",
            "I think B, or maybe C",
            "Option A or Option B",
            "Option A. Option B.",
            "A and B is correct",
            "It's B and C",
            "B is correct, A is correct",
            "Maybe B",
            "I doubt B is correct",
            "I don't think B is correct",
            "I'm not sure B is correct",
            "It's no longer B",
            "If B is correct then he falls",
            "Neither option A nor option B is correct",
            "Option B is wrong.",
            "B is right of the box",
            "I think B moves left",
            "the option I choose is unclear",
            '{"answer": "A or B"}',
            '{"answer": null}',
            "Option B: from left to right",
            "(B) from left to right",
        )
    ),
    ("", None),
    (" \n", None),
    ("()", None),
    ("(", None),
    (")", None),
    (".", None),
    ("nan", None),
    ("None", None),
    ("Failed to obtain answer via API.", None),
    ("E", None),
    ("\\boxed{E}", None),
    ("\\boxed{}", None),
    ("\\boxed{B", None),
    ("<think>The answer is B.", None),
    ("<think>It is B</think>", None),
    ("A man walks by.", None),
    ("A man in a Boat passes a Dog", None),
    ("I cannot tell.", None),
    ("A or B", None),
    ("The answer is A or B.", None),
    ("The answer is B or A.", None),
    ("Both (A) and (B) fit.", None),
    ("The answer is not B.", None),
    ("It is not (B).", None),
    ("I would say A. No, the answer is A. Wait: the answer is B.", None),
    ("A. from left to right\nB. from right to left", None),
    ("A. from right to left", None),  # the letter says one thing, the text another
    ("vitamin B", None),
]


@pytest.mark.parametrize(("reply", "expected"), CHOICES)
def test_choice(reply, expected):
    assert read_choice(reply, OPTIONS) == expected


def test_the_article_is_no_option_and_content_is():
    options = ("A. A cat", "B. a dog", "C. a cat and a dog")
    assert [read_choice(text, options) for text in ("A dog", "a cat", "A cat and a dog.", "A")] == ["B", "A", "C", "A"]


YES_NO = [
    ("yes", "yes"),
    ("No.", "no"),
    ("YES", "yes"),
    ("**No**", "no"),
    ("\\boxed{yes}", "yes"),
    ("<think>no</think>\\boxed{Yes}", "yes"),
    ("<think>Yes? No?</think>No, he is not.", "no"),
    ("Yes, the man is dunking; no doubt about it", "yes"),
    ("No the man is standing still.", "no"),
    ("The answer is yes.", "yes"),
    ("Answer: No", "no"),
    ("Please answer yes or no: yes", "yes"),
    ("Watching closely, I would say no.", "no"),
    ("He never lands.\nNo", "no"),
    ("I first thought yes, then he landed.\nNo", "no"),
    ('{"answer": "yes"}', "yes"),
    ("<ANSWER>No</ANSWER>", "no"),
    ("Yes<|im_end|>", "yes"),
    ("Yes, but actually no.", None),
    ("Yes.\nBut actually no.", None),
    ("Yes.\nNo.", None),
    ("The answer is no longer yes", None),
    ("It would be wrong to say yes.", None),
    ("There is no man.", None),
    ("No one knows", None),
    ("Not sure", None),
    ("Nobody", None),
    ("yesterday", None),
    ("Yes and no.", None),
    ("yes or no", None),
    ("Yes/No", None),
    ("I can't say yes.", None),
    ("Maybe.", None),
    ("", None),
    ("<think>yes", None),
    ("\\boxed{maybe yes}", None),
    ("Now he dunks.", None),
]


@pytest.mark.parametrize(("reply", "expected"), YES_NO)
def test_yes_no(reply, expected):
    assert read_yes_no(reply) == expected


@pytest.mark.parametrize(
    ("label", "reply", "expected"),
    [
        ("Caption", "Caption B", "B"),
        ("Caption", "Caption B: It falls.", "B"),
        ("Caption", "B.", "B"),
        ("Caption", "(B)", "B"),
        ("Caption", "B)", "B"),
        ("Caption", "It falls.", "B"),
        ("Sentence", "Sentence A", "A"),
        ("Sentence", "The answer is Sentence B.", "B"),
        ("Sentence", "\\boxed{Sentence B}", "B"),
        ("Option", "Option 2", "B"),
        ("Option", "2", "B"),
        ("Option", "2.", "B"),
        ("Option", "(2)", "B"),
        ("Option", "Option 2: It falls.", "B"),
        ("Option", "The best answer is option 2.", "B"),
        ("Option", "<think>1</think>\\boxed{2}", "B"),
        ("Option", "B", None),  # not offered
        ("Option", "3", None),
        ("Option", "2 birds", None),
        ("Caption", "Caption C", None),
        ("Caption", "Caption A or Caption B", None),
        ("Caption", "A bird", None),
    ],
)
def test_caption_matching(label, reply, expected):
    assert read_caption_matching(reply, label, ("A. It rises.", "B. It falls.")) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("A man dunks a basketball.", "B"),
        ("<think>dribbling a basketball</think>A man is dunking a basketball in the park.", "B"),
        ("B", "B"),
        ("B. dunking a basketball", "B"),
        ("A man plays with a basketball.", None),
        ("The video does not show a man dunking a basketball.", None),
        ("He isn't dunking a basketball", None),
        ("Nobody sees him dunk, and there is no dunking a basketball", None),
        ("He is not dribbling a basketball but dunking a basketball.", "B"),
        ("Instead of dribbling a basketball, he is dunking a basketball.", "B"),
        ("A man is dribbling a basketball, then dunking a basketball.", None),
        ("", None),
    ],
)
def test_caption_without_a_judge(reply, expected):
    assert (
        read_caption(reply, ("A. dribbling a basketball", "B. dunking a basketball", "C. passing a ball")) == expected
    )


def test_caption_options_are_what_differs():
    question = "Choose.\nInformation A: {'subject': 'man', 'direction': 'left'}\n"
    question += "Information B: {'subject': 'man', 'direction': 'right'}\nGenerated Caption:"
    assert caption_options(question) == ["A. left", "B. right"]
    with pytest.raises(ValueError, match="no two different lines"):
        caption_options("Information A: {'subject': 'man'}")


@given(st.text(alphabet="AB() .\n\\boxed{}<think>/answr isnoye:1", max_size=80))
def test_no_text_raises_and_every_answer_is_offered(text):
    assert read_choice(text, OPTIONS) in (*"ABCD", None)
    assert read_yes_no(text) in ("yes", "no", None)
    assert read_caption_matching(text, "Option", OPTIONS[:2]) in ("A", "B", None)


def test_a_runaway_reply_is_read_in_time():
    for text in ("<think>" * 20_000, "\\boxed{" * 20_000, "yes or " * 20_000, "(A) " * 3000, "answer is " * 2000):
        assert read_choice(text, OPTIONS) in (None, "A") and read_yes_no(text) is None


# -- layouts ----------------------------------------------------------------------------------------------------------


def put(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def timeblind(blocks):
    kinds = ("yes_no", "multiple_choice")
    return [
        {"index": 4 * b + r, "video_path": f"TimeBlind/videos/vid_{b:05d}_{r % 2}.mp4", "type": kinds[b % 2],
         "question": "Does it fall?" if b % 2 == 0 else "What happens? A. It falls B. It rises",
         "answer": ("Yes", "No", "No", "Yes")[r] if b % 2 == 0 else "ABBA"[r]}
        for b in range(blocks) for r in range(4)
    ]  # fmt: skip


def test_timeblind(tmp_path):
    file = put(tmp_path / "data.jsonl", lines(timeblind(2)))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/vid_00000_1.mp4").touch()
    items, bad = load("timeblind", file, tmp_path)
    assert not bad and [item.id for item in items] == [str(i) for i in range(8)]
    assert [item.question.gold for item in items] == ["yes", "no", "no", "yes", "A", "B", "B", "A"]
    assert items[1].question.path == str(tmp_path / "videos/vid_00000_1.mp4")
    assert items[0].prompt == "Does it fall? Please output Yes or No."
    assert items[4].prompt == "What happens? A. It falls B. It rises Please output A or B."
    assert items[4].question.options == ("A. It falls", "B. It rises")
    assert items[5].facts == {"type": "multiple_choice", "instance": "1", "role": "1"}
    assert read_answer("timeblind", items[4], "It rises.") == "B"
    assert read_answer("timeblind", items[4], "There is a bird in it") is None  # its own scorer reads the article
    assert load("timeblind", tmp_path)[0][0].question.path is None
    assert remarks("timeblind", items) == ["8 questions; the whole benchmark has 2400"]


def test_each_question_on_each_timeblind_video_is_shown_by_its_own_draw(tmp_path):
    rows = [row | {"question": f"Q{row['index'] % 4 // 2}?"} for row in timeblind(1)]
    items, _ = load("timeblind", put(tmp_path / "data.jsonl", lines(rows)))
    assert [item.question.side for item in items] == ["a", "b", "a", "b"]
    view = View(torch.zeros(16, 3, 32, 32, dtype=torch.uint8), "identity", 8.0, 16, tuple(range(16)))
    assert len({show("shuffled", view, item.question, 0).frames for item in items}) == 4


def test_timeblinds_pattern_decides_not_the_answer_column(tmp_path):
    rows = timeblind(1)
    rows[1]["answer"] = "Yes"
    items, _ = load("timeblind", put(tmp_path / "data.jsonl", lines(rows[:3])))
    assert items[1].question.gold == "no"
    assert remarks("timeblind", items)[1:] == [
        "1 incomplete blocks of four count as wrong: '0'",
        "1 rows' `answer` differs from the official pattern, which decides: '1'",
    ]


def test_the_whole_timeblind_has_no_remark(tmp_path):
    items, bad = load("timeblind", put(tmp_path / "data.jsonl", lines(timeblind(600))))
    assert (len(items), bad, remarks("timeblind", items)) == (2400, [], [])


TREE = {"7": {"action": [{"question": "What?\nA. run\nB. sit", "answer": "B. sit"}] * 2, "speed": [
    {"question": "Fast?\nA. fast\nB. slow", "answer": "A. fast"}]}}  # fmt: skip


def test_tempcompass_tree_list_and_parquet_agree(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"video_id": v, "dim": d, **row} for v, dims in TREE.items() for d, of in dims.items() for row in of]
    files = [put(tmp_path / "tree.json", TREE), put(tmp_path / "list.json", rows), tmp_path / "multi-choice/t.parquet"]
    files[2].parent.mkdir()
    parquet.write_table(pa.Table.from_pylist(rows), files[2])
    loaded = [load("tempcompass_multi_choice", file, tmp_path)[0] for file in (*files, files[2].parent)]
    assert [item.id for item in loaded[0]] == ["7/action/0", "7/action/1", "7/speed/0"]
    assert loaded[0] == loaded[1] == loaded[2] == loaded[3]
    assert loaded[0][0].prompt == "What?\nA. run\nB. sit\nPlease directly give the best option:"
    assert loaded[0][2].facts == {"dim": "speed", "task": "multi_choice"}
    assert loaded[0][0].question.path == str(tmp_path / "videos/7.mp4")


def test_tempcompass_as_released(shared_folder):
    folder = shared_folder / "data/annotations"
    expected = {"multi-choice": 400, "yes_no": 613, "caption_matching": 333, "captioning": 444}
    labels = Counter()
    for file, count in expected.items():
        name = f"tempcompass_{file.replace('-', '_')}"
        items, bad = load(name, folder / f"tempcompass_{file}.json")
        assert (len(items), bad) == (count, [])
        for item in items:
            gold, options = item.question.gold, item.question.options
            labels[item.layout.get("label")] += 1
            captioning = name == "tempcompass_captioning"
            right = f"In it one sees {options[ord(gold) - 65][3:]}." if captioning else item.layout["answer"]
            assert read_answer(name, item, right) == gold, (item.id, right)
            for option in () if captioning else options:
                assert (read_answer(name, item, option[3:]) == gold) == (option[0] == gold)
            if captioning:
                assert read_answer(name, item, f"It does not show {options[ord(gold) - 65][3:]}") is None
        said = remarks(name, items)
        assert ("no judge: read by words only" in said) == (name == "tempcompass_captioning")
    assert labels == {None: 1457, "Caption": 111, "Option": 111, "Sentence": 111}
    items, _ = load("tempcompass_yes_no", folder / "tempcompass_yes_no.json")
    assert items[0].prompt.endswith("\nPlease answer yes or no:")


def videomme(i, **more):
    return {
        "video_id": f"{i:03d}", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "url": "u",
        "videoID": f"vid{i}", "question_id": f"{i:03d}-1", "task_type": "Counting Problem", "question": "How many?",
        "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."], "answer": "C",
    } | more  # fmt: skip


def test_videomme(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "videomme/test-00000-of-00001.parquet"
    file.parent.mkdir()
    parquet.write_table(
        pa.Table.from_pylist([videomme(1), videomme(2, answer="E"), videomme(1, question="Again?")]), file
    )
    items, bad = load("videomme", file.parent, tmp_path)
    assert [item.id for item in items] == ["001-1"]
    assert [(row.row, row.field) for row in bad] == [(2, "answer"), (3, "id")]
    assert items[0].prompt == (
        "These are the frames of a video. Select the best answer to the following multiple-choice question based on "
        "the video. Respond with only the letter (A, B, C, or D) of the correct option.\nQuestion: How many?\nA. One.\n"
        "B. Two.\nC. Three.\nD. Four.\nAnswer: "
    )
    assert items[0].facts == {
        "duration": "short", "domain": "Knowledge", "sub_category": "Law", "task_type": "Counting Problem"
    }  # fmt: skip
    assert items[0].question.path == str(tmp_path / "data/vid1.mp4")
    # The toolkit's own rule takes the first capital A-D and calls this wrong.
    assert read_answer("videomme", items[0], "<think>A man counts to B</think>\\boxed{C}") == "C"


def test_videomme_as_others_keep_it(shared_folder):
    items, bad = load("videomme", shared_folder / "data/annotations/video_r1_format_videomme.json")
    assert (len(items), bad) == (60, []) and {item.facts["duration"] for item in items} <= {"short", "medium", "long"}


def mvbench(answer="a cat", **more):
    return {"video": "x.mp4", "question": "What?", "candidates": ["a dog", "a cat"], "answer": answer} | more


def test_mvbench_folder_of_20_tasks(tmp_path):
    for task in MVBENCH_FOLDERS:
        put(tmp_path / f"json/{task}.json", [mvbench(start=1.5, end=3)] * 2)
    items, bad = load("mvbench", tmp_path / "json", tmp_path)
    assert not bad and len(items) == 40
    assert [item.facts["task"] for item in items[::2]] == list(MVBENCH_FOLDERS)  # the release's order
    by_id = {item.id: item for item in items}
    assert by_id["action_sequence/1"].question.start == 1.5 and by_id["object_shuffle/0"].question.start is None
    tvqa = by_id["episodic_reasoning/0"].question
    assert tvqa.path == str(tmp_path / "video/tvqa/frames_fps3_hq/x.mp4")
    assert items[0].prompt.endswith(
        "Question: What?\nOptions:\n(A) a dog\n(B) a cat\nOnly give the best option.\nBest option:("
    )
    for reply, expected in (("(b)", "B"), ("B) a cat", "B"), ("a cat", "B"), ("(", None), (")", None), ("A cat", "B")):
        assert read_answer("mvbench", items[0], reply) == expected


def test_mvbench_one_task_and_the_cut_clips(tmp_path):
    items, _ = load("mvbench", put(tmp_path / "object_existence.json", [mvbench()]))
    assert [item.id for item in items] == ["object_existence/0"]
    tree = {"meta": {"Fine-grained Pose": [mvbench()], "Action Sequence": [mvbench()]},
            "root": {"Fine-grained Pose": "./video/pose/", "Action Sequence": "video/seq"}}  # fmt: skip
    items, bad = load("mvbench", put(tmp_path / "test.json", tree), tmp_path)
    assert not bad and [item.id for item in items] == ["fine_grained_pose/0", "action_sequence/0"]
    assert items[0].question.path == str(tmp_path / "video/pose/x.mp4") and items[1].question.start is None


def release(**more):
    return {"video": "1.mp4", "question": "Which?", "candidates": ["open", "close", "turn"], "answer": "open"} | more


def test_dybench_release_in_mvbenchs_style(tmp_path):
    rows = [release(pair_id=0), release(pair_id=0, answer="close", candidates=["close", "turn", "open"])]
    put(tmp_path / "json/reversible_dynamics.json", rows)
    put(tmp_path / "json/event_sequence.json", [row | {"candidates": ["open", "close"]} for row in rows])
    items, bad = load("dybench", tmp_path / "json", tmp_path)
    assert not bad and [item.id for item in items] == [
        "event_sequence/0/a", "event_sequence/0/b", "reversible_dynamics/0/a", "reversible_dynamics/0/b"]  # fmt: skip
    b = items[3].question
    assert (b.gold, b.options, b.subtask) == ("A", ("A. close", "B. turn", "C. open"), "reversible_dynamics")
    items, _ = load("dybench", tmp_path / "json/event_sequence.json")
    assert [item.id for item in items] == ["0/a", "0/b"]
    assert remarks("dybench", items) == ["2 questions; the whole benchmark has 3014"]


def test_dybench_release_of_another_layout_is_refused_by_name(tmp_path):
    items, bad = load("dybench", put(tmp_path / "moving_direction.json", [release(couple=3)]))
    assert not items and "none of pair_id, pair, " in str(bad[0])
    assert "the row has video, question, candidates, answer, couple" in str(bad[0])
    rows = [release(pair_id=0)] * 3
    _, bad = load("dybench", put(tmp_path / "moving_direction.json", rows))
    assert [str(row).rpartition(": ")[2] for row in bad] == [
        "must be a or b, once each (got 'a third row' for pair '0')"
    ]


def own(pair, side, gold="A", **more):
    return {
        "problem_id": f"{pair}-{side}", "problem": "Which?", "data_type": "video", "problem_type": "multiple choice",
        "options": ["A. open", "B. close"], "solution": f"<answer>{gold}</answer>", "path": f"{pair}{side}.mp4",
        "pair_id": pair, "side": side, "subtask": "event",
    } | more  # fmt: skip


def test_dybench_pairs_of_our_own_format(tmp_path):
    rows = [own("p", "a"), own("p", "b", "B"), own("q", "a"), own("r", "a"), own("r", "b"), own("s", "a", pair_id=None)]
    items, bad = load("dybench", put(tmp_path / "pairs.jsonl", lines(rows)), tmp_path)
    assert [item.id for item in items] == ["p/a", "p/b", "q/a", "r/a", "r/b"] and bad[0].row == 6
    assert items[0].question.path == str(tmp_path / "pa.mp4")
    assert items[0].prompt == "Which?\nOptions:\nA. open\nB. close\nPlease directly give the letter of the best option."
    assert remarks("dybench", items)[1:] == [
        "1 incomplete pairs count as wrong: 'q'",
        "1 pairs have one right answer for both sides, a shortcut's too: 'r'",
    ]
    swapped = own("r", "b", options=["A. close", "B. open"])  # another letter is no other answer, nor the reverse
    items, _ = load("dybench", put(tmp_path / "pairs.jsonl", lines([own("r", "a"), swapped])))
    assert len(remarks("dybench", items)) == 1


def test_a_pair_is_rejected_whole(tmp_path):
    rows = [own("p", "a"), own("p", "b", "B"), own("q", "a", accepted=False), own("q", "b", "B", accepted=True)]
    file = put(tmp_path / "pairs.jsonl", lines(rows))
    assert rejected(file) == {3: "q", 4: "q"}
    assert [item.id for item in load("dybench", file)[0]] == ["p/a", "p/b"]


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_file_is_an_error(name, tmp_path):
    by_video = name in ("charades_sta", "activitynet")
    file = put(tmp_path / ("action_count.json" if name == "mvbench" else "questions.json"), "{}" if by_video else "[]")
    with pytest.raises(ValueError, match="holds no question"):
        load(name, file)
    with pytest.raises(ValueError, match="no such file or folder"):
        load(name, tmp_path / "elsewhere.json")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="the folder holds none of"):
        load(name, tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "row", "says"),
    [
        ("timeblind", {"index": 0, "question": "x?", "type": "open"}, "type: must be yes_no or multiple_choice"),
        ("timeblind", {"index": "x", "question": "x?", "type": "yes_no"}, "index: must be a whole number"),
        ("timeblind", {"index": 1.5, "question": "x?", "type": "yes_no"}, "index: must be a whole number"),
        ("timeblind", {"index": float("inf"), "question": "x?", "type": "yes_no"}, "index: must be a whole number"),
        ("timeblind", {"index": 0, "type": "yes_no"}, "question: missing or empty"),
        (
            "tempcompass_yes_no",
            {"video_id": "1", "dim": "d", "question": "x?", "answer": "maybe"},
            "answer: must be yes",
        ),
        ("tempcompass_yes_no", {"dim": "d", "question": "x?", "answer": "yes"}, "video_id: missing"),
        (
            "tempcompass_caption_matching",
            {"video_id": "1", "dim": "d", "question": "x?\nA: 1", "answer": "B"},
            "question",
        ),
        ("tempcompass_captioning", {"video_id": "1", "dim": "d", "question": "x?", "answer": "A. x"}, "no information"),
        ("videomme", videomme(1, options=None), "options: must be a list of texts"),
        ("videomme", videomme(1, options=["A. x"]), "options: must be 2 to 26"),
        ("videomme", videomme(1, question=[]), "question: must be text"),
        ("videomme", videomme(1, question_id=None), "question_id: missing"),
        ("videomme", [], "row: must be an object"),
    ],
)
def test_a_bad_row_is_named(name, row, says, tmp_path):
    items, bad = load(name, put(tmp_path / "q.json", [row]))
    assert not items and str(bad[0]).startswith(f"{tmp_path}/q.json:1 ") and says in str(bad[0])


def test_files_of_another_layout(tmp_path):
    with pytest.raises(ValueError, match="must hold its rows by dimension"):
        load("tempcompass_yes_no", put(tmp_path / "x.json", {"1": [{}]}))
    with pytest.raises(ValueError, match="'x' is none of MVBench's tasks"):
        load("mvbench", put(tmp_path / "x.json", [mvbench()]))
    with pytest.raises(ValueError, match="must hold `meta`"):
        load("mvbench", put(tmp_path / "action_count.json", {"a": 1}))
    with pytest.raises(ValueError, match="is not valid JSON"):
        load("mvbench", put(tmp_path / "action_count.json", "[1,"))
    with pytest.raises(ValueError, match="must be one of dybench, timeblind"):
        load("mmlu", tmp_path / "x.json")


@pytest.mark.parametrize(
    ("video", "says"), [("../secret.mp4", "leaves the data root"), ("/etc/passwd", "must be relative to the data root")]
)
def test_a_clip_may_not_leave_the_data_root(video, says, tmp_path):
    root = tmp_path / "root"
    file = put(root / "pairs.json", [release(pair_id=1, video=video)])
    items, bad = load("dybench", file, root)
    assert not items and "the data root" in str(bad[0])
    file = put(root / "mvbench/action_count.json", [mvbench(video="../" * 5 + "x.mp4")])
    items, bad = load("mvbench", file, root)
    assert not items and "the data root" in str(bad[0])
