"""Figures for notebooks: what is in them, that they show themselves, and what is said about arrays that don't fit."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image

from pipeline import viz
from pipeline.figures.figure import FAKE_COLOUR, INTERPOLATED_COLOUR, OBSERVED_COLOUR, NotebookFigure, Timeline
from pipeline.types import UInt8Array
from tests.videos import moving_square, read_index_code

ROOT = Path(__file__).resolve().parents[1]
T, H, W = 24, 12, 16
SECONDS = np.arange(T) / 25


def clip(num_frames: int = T, seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, H, W, 3), np.uint8)


def boxes(num_frames: int = T) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """A face of 4 x 4 pixels that moves by 0.4 pixels a frame: 2.5 faces a second at 25 frames a second."""
    left = 0.4 * np.arange(num_frames)
    return np.stack([left, np.full(num_frames, 2.0), left + 4, np.full(num_frames, 6.0)], axis=1)


def pictures(axes: Axes) -> list[UInt8Array]:
    return [np.asarray(image.get_array()) for image in axes.get_images()]


def size_of(png: bytes) -> tuple[int, int]:
    return Image.open(io.BytesIO(png)).size


def legend_of(axes: Axes) -> list[str]:
    legend = axes.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


FIGURES: dict[str, Callable[[], NotebookFigure]] = {
    "film_strip": lambda: viz.film_strip(clip(), SECONDS, title="a", observed=np.arange(T) % 10 == 0),
    "side_by_side": lambda: viz.side_by_side(clip(), clip(seed=1), change_scores=np.linspace(0.1, 30, T), min_change=1),
    "side_by_side without scores": lambda: viz.side_by_side(clip(), clip(seed=1), timestamps_seconds=SECONDS),
    "cutmix_examples": lambda: viz.cutmix_examples(np.stack([clip()] * 2), np.stack([clip(seed=1)] * 2), [0.5, 1]),
    "scores_on_clip": lambda: viz.scores_on_clip(clip(), SECONDS, [(0, 8), (8, 24)], [0.1, np.nan], ["a", "b"]),
    "boxes_on_frame": lambda: viz.boxes_on_frame(clip()[0], boxes(2), observed=[True, False], title="a"),
    "boxes_on_frames": lambda: viz.boxes_on_frames(clip(5), boxes(5), np.ones((5, 5, 2)), np.arange(5) == 0),
    "track_over_time": lambda: viz.track_over_time(SECONDS, boxes(), np.ones(T), np.arange(T) % 10 == 0),
    "one frame": lambda: viz.film_strip(clip(1), [3.5]),
    "a track of one frame": lambda: viz.track_over_time([0], boxes(1), [0.9], [True]),
    "unknown scores": lambda: viz.side_by_side(clip(), clip(), change_scores=np.full(T, np.nan)),
    "no windows": lambda: viz.scores_on_clip(clip(), None, np.zeros((0, 2)), []),
    "no models": lambda: viz.scores_on_clip(clip(), None, np.zeros((0, 2)), [], []),
    "no faces": lambda: viz.boxes_on_frame(clip()[0], np.zeros((0, 4))),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_shows_itself_as_a_picture_of_a_page_s_width(name: str) -> None:
    figure = FIGURES[name]()
    png = figure._repr_png_()
    assert png == figure.to_png()
    width, height = size_of(png)
    assert 100 < width <= 1000
    assert 50 < height < 1200
    assert np.unique(np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))).size > 10


def test_figures_need_no_display_and_leave_nothing_open() -> None:
    code = (
        "import sys, numpy as np\n"
        "from pipeline import viz\n"
        "png = viz.film_strip(np.zeros((3, 8, 8, 3), np.uint8)).to_png()\n"
        "assert png.startswith(b'\\x89PNG')\n"
        "loaded = {'matplotlib.pyplot', 'torch', 'dask'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "MPLBACKEND")}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True)


def test_a_strip_shows_the_frame_in_the_middle_of_each_part() -> None:
    frames = clip()
    (axes,) = viz.film_strip(frames, SECONDS, num_shown=4).axes
    np.testing.assert_array_equal(pictures(axes), frames[[3, 9, 15, 21]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.12 s", "0.36 s", "0.60 s", "0.84 s"]


def test_a_short_clip_is_shown_whole_and_without_times_by_number() -> None:
    (axes,) = viz.film_strip(clip(3), num_shown=8).axes
    np.testing.assert_array_equal(pictures(axes), clip(3))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2"]


def test_pictures_keep_their_shape() -> None:
    figure = viz.side_by_side(clip(), clip(), num_shown=4, change_scores=np.ones(T))
    for axes in figure.axes[:3]:
        for image in axes.get_images():
            left, right, bottom, top = image.get_extent()
            corners = axes.transData.transform([(left, bottom), (right, top)])
            width, height = corners[1] - corners[0]
            assert width / height == pytest.approx(W / H, rel=1e-3)


def test_observed_frames_are_told_from_interpolated_ones() -> None:
    (axes,) = viz.film_strip(clip(), SECONDS, observed=np.arange(T) % 10 == 0).axes
    assert legend_of(axes) == ["interpolated (21)", "observed (3)"]
    (line,) = axes.get_lines()
    assert np.asarray(line.get_xdata()).tolist() == pytest.approx([0, 0.4, 0.8])


def test_the_difference_is_amplified_and_cut_off() -> None:
    real, fake = np.full((1, 8, 8, 3), 100, np.uint8), np.full((1, 8, 8, 3), 90, np.uint8)
    fake[0, :, :4] = 200
    figure = viz.side_by_side(real, fake, amplification=4)
    (difference,) = pictures(figure.axes[2])
    assert difference[0, 0].tolist() == [255] * 3
    assert difference[0, 7].tolist() == [40] * 3
    assert figure.axes[2].get_ylabel() == "4 x difference"


@pytest.mark.parametrize(
    "figure",
    [
        viz.side_by_side(clip(), clip(), timestamps_seconds=SECONDS, change_scores=np.ones(T)),
        viz.scores_on_clip(clip(), SECONDS, [(0, T)], [0.7]),
    ],
)
def test_a_curve_lies_below_its_frames(figure: NotebookFigure) -> None:
    strip, chart = figure.axes[0], figure.axes[-1]
    assert strip.get_xlim() == chart.get_xlim()
    assert chart.get_xlim() == pytest.approx((0, 0.96))
    assert (strip.get_position().x0, strip.get_position().x1) == (chart.get_position().x0, chart.get_position().x1)


def test_cutmix_outlines_the_box_in_the_frames_that_have_it() -> None:
    clips = np.stack([clip(8), clip(8, seed=1)])
    mixed = clips.copy()
    mixed[0, 2:6, 3:9, 4:12] = clips[1, 2:6, 3:9, 4:12]
    starts, stops = [(2, 3, 4), (0, 0, 0)], [(6, 9, 12), (8, H, W)]
    figure = viz.cutmix_examples(clips, mixed, [0.875, 1], [0, 1], [1, 1], starts, stops, num_shown=8)
    before, after, _, untouched = figure.axes
    np.testing.assert_array_equal(pictures(before), clips[0])
    np.testing.assert_array_equal(pictures(after), mixed[0])
    outlines = [patch for patch in after.patches if isinstance(patch, Rectangle)]
    assert len(outlines) == 4
    assert {to_hex(outline.get_edgecolor()) for outline in outlines} == {FAKE_COLOUR}
    assert outlines[0].get_y() == 1 - 9 / H
    assert outlines[0].get_height() == pytest.approx(6 / H)
    assert not untouched.patches
    assert before.get_title("left") == "clip 0, REAL"
    assert after.get_title("left") == "λ = 0.88 of itself, 0.12 of clip 1, FAKE"
    assert untouched.get_title("left") == "as it was"


def test_scores_span_their_windows() -> None:
    figure = viz.scores_on_clip(clip(), SECONDS, [(0, 8), (16, 24)], [0.2, 0.9], ["m", "m"])
    chart = figure.axes[1]
    spans = [line.get_segments()[0] for line in chart.collections]  # type: ignore[attr-defined]
    np.testing.assert_allclose(spans, [[(0, 0.2), (0.32, 0.2)], [(0.64, 0.9), (0.96, 0.9)]])
    assert legend_of(chart) == ["m"]
    assert {"0.20", "0.90"} <= {text.get_text() for text in chart.texts}


def test_every_model_is_in_the_legend_whatever_its_name() -> None:
    figure = viz.scores_on_clip(clip(), SECONDS, [(0, 8), (0, 8)], [0.2, 0.9], ["_mine", "other"])
    assert legend_of(figure.axes[1]) == ["_mine", "other"]


def test_a_face_that_is_its_original_to_the_bit_has_a_curve() -> None:
    figure = viz.side_by_side(clip(), clip(), change_scores=np.zeros(T))
    (curve,) = figure.axes[3].lines
    assert (np.asarray(curve.get_ydata()) == 0.1).all()
    assert figure.axes[3].get_ylim()[0] < 0.1


def test_boxes_differ_in_colour_and_in_line_style() -> None:
    figure = viz.boxes_on_frames(clip(2), boxes(2), np.ones((2, 5, 2)), [True, False], ["a", "b"])
    observed, interpolated = (axes.patches[0] for axes in figure.axes)
    assert (to_hex(observed.get_edgecolor()), observed.get_linestyle()) == (OBSERVED_COLOUR, "-")
    assert to_hex(interpolated.get_edgecolor()) == INTERPOLATED_COLOUR
    assert interpolated.get_linestyle() != "-"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["observed", "interpolated"]
    assert [axes.get_title("left") for axes in figure.axes] == ["a", "b"]


def test_a_box_lies_on_its_pixels() -> None:
    frame = np.zeros((H, W, 3), np.uint8)
    figure = viz.boxes_on_frame(frame, [(4, 3, 8, 9)])
    (axes,) = figure.axes
    (image,) = axes.get_images()
    assert isinstance(image, AxesImage)
    assert tuple(image.get_extent()) == (0, W, H, 0)
    assert axes.patches[0].get_bbox().extents.tolist() == [4, 3, 8, 9]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("unit", "speed"), [("faces", 2.5), ("pixels", 0.4)])
def test_motion_is_in_faces_a_second_or_pixels_a_frame(unit: viz.MotionUnit, speed: float) -> None:
    figure = viz.track_over_time(SECONDS, boxes(), np.ones(T), np.ones(T, bool), unit)
    steps = figure.axes[2].patches[0].get_data()  # type: ignore[attr-defined]
    np.testing.assert_allclose(steps.values, speed)
    np.testing.assert_allclose(steps.edges, SECONDS)


def test_two_frames_at_one_time_have_no_speed() -> None:
    figure = viz.track_over_time([0, 0, 0.04], boxes(3), np.ones(3), np.ones(3, bool))
    values = figure.axes[2].patches[0].get_data().values  # type: ignore[attr-defined]
    assert np.isnan(values[0])
    assert values[1] == pytest.approx(2.5)


def test_a_video_is_in_the_page_and_nowhere_else() -> None:
    frames = np.stack(list(moving_square(12, 98, 66)))[:, 1:, 1:]
    video = viz.video_html(frames, fps=24.99)
    html = video._repr_html_()
    assert html.startswith("<video controls loop muted")
    assert "http" not in html
    encoded = re.findall(r'src="data:video/mp4;base64,([^"]+)"', html)
    with av.open(io.BytesIO(base64.b64decode(encoded[0])), "r") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert float(stream.average_rate or 0) == 25
        shown = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    assert shown[0].shape == (66, 98, 3)
    assert [read_index_code(rgb) for rgb in shown] == list(range(12))
    assert len(repr(video)) < 200


@pytest.mark.parametrize("fps", [0, -1, np.nan])
def test_a_video_without_a_rate_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="is no frame rate"):
        viz.video_html(clip(2), fps)


def test_names_from_outside_are_no_formulas_and_no_warnings() -> None:
    figure = viz.film_strip(clip(2), title="a $\\frac$ \x1b[2J 顔.mp4")
    assert figure.axes[0].get_title("left") == "a $\\frac$ \\x1b[2J 顔.mp4"
    figure.to_png()
    viz.scores_on_clip(clip(2), None, [(0, 2)], [0.5], ["$\\frac$"]).to_png()


def test_long_names_are_shown_by_their_end() -> None:
    figure = viz.scores_on_clip(clip(2), None, [(0, 2)], [0.5], ["m" * 50 + "1"], title="t" * 200 + ".mp4")
    assert figure.axes[0].get_title("left") == "..." + "t" * 76 + ".mp4"
    assert legend_of(figure.axes[1]) == ["..." + "m" * 31 + "1"]


@given(
    steps=st.lists(st.floats(0.01, 5), min_size=0, max_size=40),
    num_shown=st.integers(1, 50),
)
def test_a_strip_is_in_order_whatever_the_times(steps: list[float], num_shown: int) -> None:
    starts = np.cumsum([0.0, *steps])
    edges, shown = Timeline.of(len(starts), starts).slices(num_shown)
    assert len(shown) == len(edges) - 1 == min(num_shown, len(starts))
    assert (np.diff(shown) >= 0).all()
    middles = (edges[:-1] + edges[1:]) / 2
    assert (starts[shown] <= middles).all()


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (
            lambda: viz.film_strip(clip().astype(np.float32)),
            r"uint8 \(T, H, W, 3\), RGB.*not float32 \(24, 12, 16, 3\)",
        ),
        (lambda: viz.film_strip(clip()[0]), r"one frame is frame\[None\]"),
        (lambda: viz.film_strip(clip()[:0]), r"at least one frame"),
        (lambda: viz.film_strip(clip().transpose(3, 0, 1, 2)), r"tensor.permute\(1, 2, 3, 0\)"),
        (lambda: viz.film_strip(clip(), SECONDS[:5]), r"timestamps_seconds must have the shape \(24,\), not \(5,\)"),
        (lambda: viz.film_strip(clip(), SECONDS[::-1]), "must be finite and ascend"),
        (lambda: viz.film_strip(clip(), num_shown=0), "num_shown=0"),
        (lambda: viz.film_strip(clip(), observed=[True]), r"observed must have the shape \(24,\)"),
        (lambda: viz.side_by_side(clip(), clip(5)), "real and fake must have one shape"),
        (lambda: viz.side_by_side(clip(), clip(), change_scores=[1]), "change_scores must have the shape"),
        (lambda: viz.cutmix_examples(clip(), clip(), [1]), r"both be uint8 \(B, T, H, W, 3\)"),
        (lambda: viz.cutmix_examples(clip()[None], clip()[None], [1, 1]), r"lambdas must have the shape \(1,\)"),
        (lambda: viz.scores_on_clip(clip(), None, [(0, 25)], [0.5]), r"the clip's 24 frames, not \[\[0, 25\]\]"),
        (lambda: viz.scores_on_clip(clip(), None, [(0, 2)], [0.5, 1]), r"probabilities must have the shape \(1,\)"),
        (lambda: viz.boxes_on_frame(clip()[0], [1, 2, 3, 4]), r"boxes_xyxy must have the shape \(any, 4\)"),
        (lambda: viz.boxes_on_frames(clip(2), boxes(3)), r"boxes_xyxy must have the shape \(2, 4\)"),
        (lambda: viz.boxes_on_frames(clip(2), boxes(2), np.ones((2, 5))), r"landmarks must have the shape \(2, 5, 2\)"),
        (lambda: viz.track_over_time([], np.zeros((0, 4)), [], []), "has no frames"),
    ],
)
def test_arrays_that_do_not_fit_are_told(draw: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw()
