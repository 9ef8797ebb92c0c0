"""Pictures: what is placed where, odd text without a warning, curves with gaps; looked at by eye while written."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import pictures
from episode import TASK_TYPES
from metrics import describe
from pictures import Sweep, branch_sheet, curves, dynamics, filmstrip, sensitivity, table


@pytest.fixture(autouse=True)
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def clip(frames=8, size=(64, 64)):
    """(F, 3, H, W), frame f of one grey level 10 f."""
    return torch.arange(frames, dtype=torch.uint8).mul(10).reshape(-1, 1, 1, 1).expand(-1, 3, *size)


@pytest.mark.parametrize(("size", "tile"), [((64, 64), (192, 192)), ((32, 128), (32, 128)), ((480, 640), (144, 192))])
def test_a_strip_holds_every_frame_in_order(size, tile):
    strip = filmstrip(clip(10, size), columns=4)
    high, wide = tile
    assert strip.dtype == np.uint8 and strip.shape == (3 * (high + 4) - 4, 4 * (wide + 4) - 4, 3)
    for frame in range(10):
        top, left = frame // 4 * (high + 4), frame % 4 * (wide + 4)
        assert (strip[top : top + high, left : left + wide] == 10 * frame).all()
    assert (strip[2 * (high + 4) :, 2 * (wide + 4) :] == 255).all()  # the two places left over


def test_a_small_frame_is_enlarged_without_blur_and_the_right_way_up():
    frame = torch.randint(0, 256, (1, 3, 32, 64), dtype=torch.uint8)
    strip = filmstrip(frame)
    assert (strip[::3, ::3] == frame[0].permute(1, 2, 0).numpy()).all() and strip.shape == (96, 192, 3)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 8, 8, 3).byte(), torch.zeros(2, 3, 8, 8), torch.zeros(0, 3, 8, 8).byte()]
)
def test_other_shapes_are_refused(wrong):
    with pytest.raises(ValueError, match=r"frames must be uint8 \(F, 3, H, W\)"):
        filmstrip(wrong)


def test_a_sheet_shows_both_strips_and_the_text():
    frames = clip()
    sheet = branch_sheet(frames, frames.flip(0), ["Gold: A"], transform="temporal_reverse")
    alone = branch_sheet(frames, None, ["Gold: A"])
    assert sheet.shape[1:] == alone.shape[1:] == (8 * 196 - 4, 3) and sheet.shape[0] > alone.shape[0] + 192
    upper, lower = filmstrip(frames), filmstrip(frames.flip(0))
    tops = [top for top in range(len(sheet) - 191) if (sheet[top : top + 192, :192] == upper[:, :192]).all()]
    assert len(tops) == 1 and any(
        (sheet[top : top + 192] == lower).all() for top in range(tops[0] + 192, len(sheet) - 191)
    )
    assert (sheet[-30:] < 100).any()  # ink below
    other = branch_sheet(frames, frames.flip(0), ["Gold: B"], transform="temporal_reverse")
    assert (other != sheet).any()


def test_a_caption_is_wrapped_kept_blank_where_blank_and_cut_when_endless():
    height = {
        name: branch_sheet(clip(), None, lines).shape[0]
        for name, lines in {
            "one": ["a"],
            "blank": ["a", "", "b"],
            "three": ["a\nb\nc"],
            "long": ["word " * 80],
            "endless": ["x"] * 5000,
        }.items()
    }
    line = pictures.LINE_HEIGHT
    assert height["blank"] == height["three"] == height["one"] + 2 * line
    assert height["long"] > height["one"]
    assert height["endless"] == height["one"] + (pictures.MAX_TEXT_LINES - 1) * line


def test_model_text_is_drawn_letter_by_letter():
    """As a formula $x^2$ would be narrower and `$\\frac$` an error; an escape code or a missing glyph would warn."""
    odd = "$\\frac$ $x^2$ \x1b[31m \x00 \u4f60\u597d \U0001f600 \u202e \ud800 \\boxed{B}"
    text = pictures._text_picture([odd], 1200)
    assert (text < 128).any()
    plain = pictures._text_picture(["$x^2$|"], 400)
    ink = np.flatnonzero((plain < 128).any(axis=(0, 2)))
    assert ink.max() - ink.min() > 5 * 9  # five letters and a bar, 9.2 pixels each


def rows_of(n, per_round, **extra):
    return [{"step": s, "data/rollouts_seen": s * per_round, "reward/correct": s / n} | extra for s in range(1, n + 1)]


def test_curves_of_runs_with_gaps_are_drawn(tmp_path):
    crpo = rows_of(60, 16, **{"reward/crr_orig": 0.1, "reward/crr_aug": 0.1, "policy/engine_gap_mean": 0.0})
    crpo[10] |= {"eval/pair_acc": 40.0, "eval/moving/pair_acc": 30.0, "eval/dynamic/pair_acc": 40.0}
    crpo[11]["reward/correct"] = math.nan
    curves({"CRPO": crpo, "_GRPO $\\frac$": rows_of(5, 8), "empty": []}, tmp_path / "new" / "curves.png")
    picture = imread(tmp_path / "new" / "curves.png")[..., :3]
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(picture * 255 - colour).max(-1) < 2).any()
    titles = [title for title, _, _ in pictures._panels({"CRPO": crpo})]
    assert "Pair accuracy, moving" in titles and titles.count("Pair accuracy, dynamic") == 1


def test_one_row_makes_a_picture_with_a_dot(tmp_path):
    curves({"one": [{"step": 0, "eval/pair_acc": 50.0}]}, tmp_path / "one.png", x="step")
    picture = imread(tmp_path / "one.png")[..., :3]
    blue = np.abs(picture * 255 - (0x00, 0x72, 0xB2)).max(-1) < 2
    assert blue[len(blue) // 3 :].any()  # in the panel, not in the legend alone


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(ValueError, match="no curve to draw.*GRPO"):
        curves({"GRPO": [{"step": 1, "policy/lr": 1.0}]}, tmp_path / "none.png")


def test_points_use_the_chosen_axis_and_leave_out_what_is_missing():
    rows = [{"step": 1, "a": 2.0}, {"step": 2}, {"step": 3, "a": math.nan}, {"a": 1.0}, {"step": 5, "a": 4.0}]
    assert pictures._points(rows, "step", "a") == ([1, 5], [2.0, 4.0])


def test_the_running_mean_is_the_mean_of_its_neighbours():
    assert pictures._running_mean([1.0, 2.0, 6.0, 0.0], 3) == [1.5, 3.0, pytest.approx(8 / 3), 3.0]


def test_a_table_is_aligned():
    rows = [{"run": "base", "pair acc": 5.04, "n": 480}, {"run": "CRPO\x1b", "pair acc": 83.0, "static": math.nan}]
    assert table(rows, ["run", "pair acc", "static", "n"]).split("\n") == [
        "run    pair acc  static    n",
        "-----  --------  ------  ---",
        "base        5.0       -  480",
        "CRPO       83.0       -    -",
    ]


def test_every_panel_of_the_dynamics_names_metrics_that_exist():
    panels = [panel for row in pictures.DYNAMICS.values() for panel in row]
    for panel in panels:
        assert 1 <= len(panel.names) <= len(pictures._LINE_STYLES)
        for name in panel.names:
            describe(name)
    assert {name.split("/")[-1] for panel in panels for name in panel.names if "/null_" in name} == set(TASK_TYPES)


@pytest.mark.slow
def test_dynamics_draws_what_there_is_and_says_what_there_is_not(tmp_path):
    rows = rows_of(30, 16, **{"policy/clip_fraction": 0.0, "policy/ratio_max": 30.0, "policy/ratio_min": 0.01})
    rows[3] |= {"policy/ratio_max": math.nan}
    dynamics({"crpo: $\\frac$": rows, "_grpo": rows_of(1, 8)}, tmp_path / "new" / "d.png")
    picture = imread(tmp_path / "new" / "d.png")[..., :3] * 255
    assert all((np.abs(picture - rgb).max(-1) < 2).any() for rgb in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)))


def test_dynamics_refuses_what_it_cannot_show(tmp_path):
    with pytest.raises(ValueError, match="no curve to draw.*crpo"):
        dynamics({"crpo": [{"step": 1, "policy/lr": 1.0}]}, tmp_path / "none.png")
    with pytest.raises(ValueError, match="8 runs"):
        dynamics({str(run): rows_of(3, 8) for run in range(8)}, tmp_path / "many.png")


def test_an_axis_shows_its_lines_and_its_span():
    assert pictures._limits([[0.2, 0.3]], 0.0, 1.0, log=False) == pytest.approx((-0.04, 1.04))
    assert pictures._limits([[0.0], [3.0]], 0.0, 1.0, log=False) == pytest.approx((-0.12, 3.12))
    assert pictures._limits([[0.0, 0.0]], 0.0, 0.0, log=False) == pytest.approx((-0.04, 0.04))
    assert pictures._limits([[0.0, 11.0]], 0.9, 1.0, log=True) == pytest.approx((0.9 / 1.1, 12.1))


def test_figure_9_shows_means_and_spreads(tmp_path):
    sweep = Sweep("x", "title", {0.0: [50.0, 54.0], 0.3: [60.0]}, {})
    sensitivity([sweep, Sweep("y", "empty", {}, {})], tmp_path / "nine.png", sensitive="pairs", general="static")
    picture = imread(tmp_path / "nine.png")[..., :3] * 255
    orange, navy = ((np.abs(picture - colour).max(-1) < 2).any() for colour in ((0xE8, 0x71, 0x0A), (0x1F, 0x3A, 0x6E)))
    assert orange and not navy
    with pytest.raises(ValueError, match="no point"):
        sensitivity([Sweep("x", "t", {}, {})], tmp_path / "none.png", sensitive="a", general="b")
