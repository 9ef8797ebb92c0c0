"""The house keeps its own promises: README tables name real things, files import downwards only, no path is private.

pytest tests/test_repo.py
"""

from __future__ import annotations

import ast
import importlib
import re

import pytest
from conftest import ROOT

from exits import Exit

README = (ROOT / "README.md").read_text()
# Level of each file (DESIGN): a file imports only lower levels; level 0 imports none of ours.
LEVELS = {
    "actions": 0, "advantage": 0, "balance": 0, "chat_client": 0, "config": 0, "data.paths": 0, "data.planes": 0,
    "data.rows": 0, "episode": 0, "eval.dybench_words": 0, "exits": 0, "flops": 0, "graphs": 0, "grounding": 0,
    "logprobs": 0, "math_judge": 0, "metrics": 0, "order": 0, "packing": 0, "rewards": 0, "rng": 0, "tags": 0,
    "transforms": 0, "attention": 1, "captions": 1, "data.cache": 1, "data.frames": 1, "data.parquet": 1,
    "data.video": 1, "eval.shown": 1, "golds": 1, "guards": 1, "parallel": 1, "pictures": 1, "toy.world": 1,
    "checkpoint": 2, "data.image": 2, "data.parts": 2, "eval.dybench_stats": 2, "phases": 2, "review": 2, "tasks": 2,
    "toy.study_cells": 2, "data.clips": 3, "data.prompts": 3, "run_folder": 3, "toy.study_results": 3,
    "toy.study_rows": 3, "verifiers": 3, "data.corpora": 4, "data.dataset": 4, "data.reader": 4,
    "eval.dybench_sheet": 4, "eval.replies": 4, "eval.scoring": 4, "methods": 4, "model": 4, "router_rules": 4,
    "toy.study_claims": 4, "toy.study_figures": 4, "data.check": 5, "data.filter": 5, "data.looks": 5,
    "data.neighbours": 5, "data.scenes": 5, "eval.dybench_pairs": 5, "eval.dybench_sources": 5, "eval.report_runs": 5,
    "plan": 5, "rollout": 5, "toy.model": 5, "toy.study_report": 5, "update": 5, "data.puzzles": 6, "data.sources": 6,
    "data.spatial": 6, "data.tracks": 6, "eval.answer": 6, "eval.endpoint": 6, "eval.layouts": 6,
    "eval.report_tables": 6, "router_audit": 6, "samples": 6, "score": 6, "toy.warm_start": 6, "data.masked": 7,
    "data.relations": 7, "eval.benchmarks": 7, "eval.report_gallery": 7, "eval.report_pictures": 7,
    "eval.settings": 7, "router": 7, "toy.demo": 7, "train": 7, "eval.clues": 8, "eval.dybench": 8, "eval.jobs": 8,
    "eval.pass_rates": 8, "eval.questions": 8, "eval.report_page": 8, "eval.score": 8, "toy.neighbours": 8,
    "toy.study_worker": 8, "eval.interop": 9, "eval.predictions": 9, "eval.report": 9, "toy.study": 9, "eval.run": 10,
}  # fmt: skip


def section(title: str) -> list[list[str]]:
    """Body rows of the table under a heading of the README."""
    text = README.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def modules() -> dict[str, ast.Module]:
    paths = [*ROOT.glob("*.py"), *(p for d in ("data", "eval", "toy") for p in (ROOT / d).glob("*.py"))]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths if path.stem != "__init__"}
    return {name: ast.parse(path.read_text()) for name, path in names.items()}


def imports_of(tree: ast.Module) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_file_of_the_reading_order_exists_and_none_is_missing():
    listed = [row[0].strip("`") for row in section("Reading order")]
    assert sorted(listed) == sorted(name.replace(".", "/") + ".py" for name in modules())


@pytest.mark.parametrize("row", section("From the paper to the code"), ids=lambda row: row[0])
def test_every_function_of_the_equation_table_exists(row):
    module, _, function = row[1].strip("`").rpartition(".")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_flag_in_the_readme_is_a_setting():
    import dataclasses

    import router
    from bench import plan, update
    from config import Config
    from data import check, filter, frames, masked, relations, sources
    from eval import dybench, interop, questions, report, score, settings
    from toy import neighbours

    commands = (Config, check.CheckArgs, filter.FilterArgs, sources.Args, score.ScoreArgs, interop.InteropArgs)
    commands += (settings.PassRateArgs, settings.BenchmarkArgs, report.ReportArgs, questions.QuestionArgs)
    commands += (plan.PlanArgs, update.BenchArgs, frames.FramesArgs, neighbours.Args, relations.Args)
    commands += tuple(args for args, _ in (router.ACTIONS | dybench.ACTIONS | masked.ACTIONS).values())
    fields = {field.name for command in commands for field in dataclasses.fields(command)}
    elsewhere = set("nodes max_restarts nproc_per_node nnodes rdzv_backend rdzv_endpoint help out".split())
    flags = {flag.replace("-", "_") for flag in re.findall(r"--([a-z][a-z_-]*)", README)} - elsewhere
    assert flags <= fields | {f"no_{name}" for name in fields}, flags - fields


def test_the_readme_has_every_exit_code():
    text = README.split("| exit code |")[1].split("\n\n")[0]
    assert re.findall(r"^\| (\d+) \| (\w+) \|", text, re.M) == [(str(int(code)), code.name) for code in Exit]


def test_the_readme_names_the_corpora():
    from data.corpora import CORPORA

    [line] = [line for line in README.splitlines() if line.startswith("#") and " | tvbench | " in line]
    assert line.split(";")[0].strip("# ").split(" | ") == list(CORPORA)


def test_files_import_only_lower_levels():
    trees = modules()
    assert set(trees) == set(LEVELS)
    for name, tree in trees.items():
        for other in imports_of(tree) & set(LEVELS):
            assert LEVELS[other] < LEVELS[name], f"{name} imports {other}"


def test_the_heavy_imports_have_one_home_each():
    homes = {"decord": {"data.video"}, "vllm": {"rollout"}}
    for package, allowed in homes.items():
        users = {name for name, tree in modules().items() if any(i.split(".")[0] == package for i in imports_of(tree))}
        assert users <= allowed, f"{package} belongs in {allowed}, found in {users}"


def test_no_broad_except():
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.unparse(node.type) if node.type else ""
                assert caught not in ("", "Exception", "BaseException"), f"{name}:{node.lineno} catches everything"
