"""pytest tests/test_bench_evaluate.py -- throughput is measured on the same answers; at a tiny size."""

import json
from unittest import mock

import torch
from test_eval_run import write_pairs

import bench.evaluate as bench
from eval import answer
from rollout import Generated, Rollout


class Engine:
    """Says what it is asked; counts what it is given."""

    def __init__(self):
        self.sizes, self.dropped = [], 0

    def generate(self, requests):
        self.sizes.append(len(requests))
        return [Generated((), [Rollout((), torch.empty(0), request.prompt.text, "stop")]) for request in requests]

    def drop_caches(self):
        self.dropped += 1


def test_every_way_asks_every_question_and_gets_the_same_replies(tmp_path, capsys):
    engine, file = Engine(), tmp_path / "numbers.json"
    flags = ["--model", tmp_path, "--pairs", write_pairs(tmp_path, 2), "--chunk", 5, "--json", file, "--repeats", 3]
    with (
        mock.patch.object(bench, "build", lambda *_: (engine, None)),
        mock.patch.object(bench, "resolve_checkpoint", str),
        mock.patch.object(bench.parallel, "start", lambda: None),
        mock.patch.object(bench.parallel, "leave", lambda: None),
        mock.patch.object(answer, "is_main", lambda: True),
    ):
        bench.main([str(flag) for flag in flags])
    found = json.loads(file.read_text())
    assert [way["way"] for way in found["ways"]] == ["one by one", "chunks", "eval.run"]
    assert {way["questions"] for way in found["ways"]} == {12} and found["same_replies"] == 1
    assert engine.sizes == [1, 1] + 3 * ([1] * 12 + 2 * [5, 5, 2]) and engine.dropped == 9
    for way in found["ways"]:
        assert way["questions_per_second"] == 12 / way["seconds"] and way["waited_for_clips"] <= way["seconds"]
    assert found["ratio"] == found["ways"][0]["seconds"] / found["ways"][2]["seconds"]
    assert "questions_per_second" in capsys.readouterr().out
