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
    "rewards": 0, "advantage": 0, "transforms": 0, "math_judge": 0, "episode": 0, "config": 0, "chat_client": 0,
    "data.rows": 0, "data.paths": 0, "balance": 0, "flops": 0, "verifiers": 1, "review": 2, "methods": 2,
    "router_rules": 2, "exits": 0, "rng": 0, "packing": 0, "attention": 1, "parallel": 1, "metrics": 1, "pictures": 1,
    "checkpoint": 2, "guards": 1, "phases": 2, "run_folder": 3, "eval.scoring": 1,
    "data.video": 1, "data.cache": 1, "data.prompts": 1, "data.image": 2, "data.dataset": 2, "data.corpora": 2,
    "data.clips": 3, "data.filter": 3, "data.sources": 3, "data.check": 4, "router_audit": 4, "router": 5,
    "model": 2, "rollout": 3, "update": 3, "data.reader": 4, "plan": 5, "score": 6, "samples": 6,
    "data.parquet": 1, "eval.replies": 2, "eval.benchmarks": 3, "eval.answer": 4, "eval.score": 4, "eval.interop": 5,
    "eval.shortcuts": 1, "eval.parts": 2, "eval.endpoint": 4, "eval.settings": 5, "eval.pass_rates": 6,
    "eval.predictions": 6, "eval.run": 7, "eval.dybench_words": 0, "eval.dybench_clips": 0, "eval.dybench_sources": 3,
    "eval.dybench_pairs": 3, "eval.dybench_sheet": 4, "eval.dybench": 5, "eval.report_runs": 2, "eval.report_tables": 3,
    "eval.report_pictures": 4, "eval.report_gallery": 4, "eval.report_page": 5, "eval.report": 6,
    "toy.world": 1, "toy.model": 3, "toy.warm_start": 4, "train": 7, "toy.demo": 7,
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
    from config import Config
    from data import check, filter, sources
    from eval import dybench, interop, report, score, settings

    commands = (Config, check.CheckArgs, filter.FilterArgs, sources.Args, score.ScoreArgs, interop.InteropArgs)
    commands += (settings.PassRateArgs, settings.BenchmarkArgs, report.ReportArgs)
    commands += tuple(args for args, _ in (router.ACTIONS | dybench.ACTIONS).values())
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
            assert LEVELS[other] < LEVELS[name] or (name, other) == ("data.dataset", "verifiers"), (
                f"{name} imports {other}"
            )


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
