"""Cutting faces out: squares that hold the face, shapes that stay round, black only where there is no picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CropSettings
from pipeline.crop import crop_square, crop_squares, follow_squares, sharpness, union_squares
from pipeline.types import Float32Array, UInt8Array

WIDTH, HEIGHT = 200, 120


@st.composite
def moving_boxes(draw: st.DrawFn) -> Float32Array:
    """A face that wanders, also over the edges of a frame, float32 (T, 4)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    length = draw(st.integers(1, 12))
    centres = rng.uniform(-50, 300, 2) + rng.normal(0, draw(st.floats(0, 40)), (length, 2)).cumsum(axis=0)
    half = rng.uniform(2, 80, (length, 2))
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def square(left: float, top: float, side: float) -> Float32Array:
    return np.array([left, top, left + side, top + side], np.float32)


def white() -> UInt8Array:
    return np.full((HEIGHT, WIDTH, 3), 255, np.uint8)


def textured(seed: int = 0) -> UInt8Array:
    return np.random.default_rng(seed).integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)


def ramp() -> UInt8Array:
    """Red is the column, green is twice the row, in pixels, so that a cut shows where it was taken."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x, 2 * y, np.zeros_like(x)], axis=-1).astype(np.uint8)


@settings(deadline=None, max_examples=80)
@given(moving_boxes(), st.floats(0, 1))
def test_the_union_square_is_static_and_holds_every_box_with_its_margin(boxes: Float32Array, margin: float) -> None:
    squares = union_squares(boxes, margin)
    assert squares.shape == boxes.shape
    assert squares.dtype == np.float32
    assert (squares == squares[0]).all()
    left, top, right, bottom = (float(v) for v in squares[0])
    assert right - left == bottom - top
    assert all(v.is_integer() for v in (left, top, right, bottom))
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    around = (high - low).max() * margin
    # Whole pixels move the square by at most half a pixel.
    assert (squares[0, :2] <= low - around + 0.501).all()
    assert (squares[0, 2:] >= high + around - 0.501).all()
    assert right - left <= (high - low).max() * (1 + 2 * margin) + 1.001, "no larger than needed"


@settings(deadline=None, max_examples=80)
@given(moving_boxes(), st.floats(-0.49, 0))
def test_below_a_margin_of_0_the_same_middle_is_cut_closer(boxes: Float32Array, margin: float) -> None:
    whole, closer = union_squares(boxes, 0.0)[0], union_squares(boxes, margin)[0]
    longest = float((boxes[:, 2:].max(axis=0) - boxes[:, :2].min(axis=0)).max())
    side = float(closer[2] - closer[0])
    assert longest * (1 + 2 * margin) <= side + 1e-3
    assert side <= longest * (1 + 2 * margin) + 1.001
    np.testing.assert_allclose(closer[:2] + closer[2:], whole[:2] + whole[2:], atol=2.001)


@pytest.mark.parametrize("box", [(40, 20, 168, 110), (50, 12, 146, 100), (-24, 30, 72, 122)])
def test_the_middle_224_of_256_pixels_are_a_margin_of_minus_a_sixteenth(box: tuple[int, int, int, int]) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    smooth = 128 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)
    picture = np.stack([smooth, 255 - smooth, smooth / 2], axis=-1).astype(np.uint8)
    boxes = np.array([box], np.float32)
    resized = crop_square(picture, union_squares(boxes, 0.0)[0], 256)
    directly = crop_square(picture, union_squares(boxes, (224 / 256 - 1) / 2)[0], 224)
    difference = np.abs(resized[16:240, 16:240].astype(int) - directly)
    assert difference.mean() < 0.1
    assert difference.max() <= 4
    elsewhere = np.abs(resized[16:240, 18:242].astype(int) - directly)
    assert elsewhere.mean() > 20 * difference.mean()


@settings(deadline=None, max_examples=80)
@given(moving_boxes(), st.floats(0.5, 2), st.floats(0, 100), st.integers(16, 300))
def test_the_follow_square_keeps_its_size_and_its_centre_on_the_face(
    boxes: Float32Array, scale: float, percentile: float, size: int
) -> None:
    squares = follow_squares(boxes, scale, percentile, size)
    assert squares.shape == boxes.shape
    assert squares.dtype == np.float32
    sides = squares[:, 2:] - squares[:, :2]
    np.testing.assert_allclose(sides, sides[0, 0], atol=1e-3)
    longer_sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    wanted = max(1.0, float(np.percentile(longer_sides, percentile)) * scale)
    shrinks = wanted >= size
    assert sides[0, 0] == pytest.approx(np.ceil(wanted) if shrinks else wanted, rel=1e-4)
    off_centre = np.abs((squares[:, :2] + squares[:, 2:]) / 2 - (boxes[:, :2] + boxes[:, 2:]) / 2).max()
    assert off_centre <= (0.501 if shrinks else 1e-3)
    if shrinks:
        np.testing.assert_array_equal(squares, np.round(squares))


def test_the_mode_chooses_the_square() -> None:
    boxes = np.array([[10, 10, 50, 50], [30, 10, 70, 50]], np.float32)
    union = crop_squares(boxes, CropSettings(mode="union", margin=0.1, size=224))
    np.testing.assert_array_equal(union, [[4, -6, 76, 66]] * 2)
    follow = crop_squares(boxes, CropSettings(mode="follow", follow_scale=1.5, follow_percentile=50, size=224))
    np.testing.assert_array_equal(follow, [[0, 0, 60, 60], [20, 0, 80, 60]])


@pytest.mark.parametrize("size", [32, 100, 224])
@pytest.mark.parametrize(
    ("left", "top", "side"),
    [(50, 10, 100), (50.3, 9.6, 99.5), (40, -20, 150), (60, 0, 80)],
    ids=["inside", "fraction", "beyond", "tight"],
)
def test_a_disc_stays_round(left: float, top: float, side: float, size: int) -> None:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = np.where(np.hypot(x - 100, y - 50) <= 30, 255, 0).astype(np.uint8)
    picture = crop_square(np.repeat(disc[..., None], 3, axis=2), square(left, top, side), size)[..., 0] / 255
    places, scale = np.arange(size), size / side
    spreads = []
    for axis, start, centre in ((0, left, 100.5), (1, top, 50.5)):
        profile = picture.sum(axis=axis)
        mean = np.average(places, weights=profile)
        assert mean == pytest.approx((centre - start) * scale - 0.5, abs=0.3)
        spreads.append(np.sqrt(np.average((places - mean) ** 2, weights=profile)))
    assert spreads[0] == pytest.approx(spreads[1], rel=0.005)
    # The spread of a disc along an axis is half its radius.
    assert spreads[0] == pytest.approx(15 * scale, rel=0.02)


def test_a_square_of_the_stored_size_is_copied() -> None:
    rgb = textured()
    np.testing.assert_array_equal(crop_square(rgb, square(30, 20, 64), 64), rgb[20:84, 30:94])


@settings(deadline=None, max_examples=80)
@given(st.integers(-90, WIDTH + 20), st.integers(-90, HEIGHT + 20), st.integers(16, 160))
def test_the_picture_is_real_inside_the_frame_and_black_only_beyond_it(left: int, top: int, side: int) -> None:
    rgb = textured()
    y, x = np.mgrid[top : top + side, left : left + side]
    is_inside = (x >= 0) & (x < WIDTH) & (y >= 0) & (y < HEIGHT)
    expected = np.where(is_inside[..., None], rgb[y.clip(0, HEIGHT - 1), x.clip(0, WIDTH - 1)], 0)
    np.testing.assert_array_equal(crop_square(rgb, square(left, top, side), side), expected)


@pytest.mark.parametrize(("side", "size"), [(120, 40), (40, 120)])
def test_the_black_edge_keeps_its_place_when_scaled(side: int, size: int) -> None:
    """A third of the square lies left of the frame and above it."""
    picture = crop_square(white(), square(-side / 4, -side / 4, side), size)[..., 0]
    edge = size // 4
    blur = 0 if side > size else 4
    assert (picture[: edge - blur] == 0).all()
    assert (picture[:, : edge - blur] == 0).all()
    assert (picture[edge + blur :, edge + blur :] == 255).all()


@pytest.mark.parametrize("size", [16, 48, 64])
@pytest.mark.parametrize(
    ("left", "top"),
    [(WIDTH + 10, 10), (-60, 10), (10, HEIGHT + 10), (10, -60), (WIDTH, 0), (-48, 0), (0, -48), (WIDTH + 9.5, 10.5)],
)
def test_a_square_outside_the_frame_is_black(left: float, top: float, size: int) -> None:
    picture = crop_square(white(), square(left, top, 48), size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    assert not picture.any()


def test_shrinking_averages_areas() -> None:
    rgb = textured()
    expected = rgb[10:106, 50:146].reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(crop_square(rgb, square(50, 10, 96), 32), expected, atol=0.51)


def test_enlarging_is_cubic() -> None:
    """Cubic interpolation is sharp enough to overshoot beside an edge; linear never leaves the range."""
    rgb = np.full((HEIGHT, WIDTH, 3), 60, np.uint8)
    rgb[:, 100:] = 180
    for left in (80, 80.4):
        picture = crop_square(rgb, square(left, 20, 40), 160)
        assert 40 < picture.min() < 60
        assert 180 < picture.max() < 200


@settings(deadline=None, max_examples=60)
@given(st.floats(5, 80), st.floats(5, 40), st.floats(20, 70), st.integers(72, 200), st.booleans())
def test_every_pixel_comes_from_where_it_should(left: float, top: float, side: float, size: int, whole: bool) -> None:
    """On a smooth picture the paths for whole pixels and for fractions agree with theory, and so with each other."""
    if whole:
        left, top, side = round(left), round(top), round(side)
    picture = crop_square(ramp(), square(left, top, side), size).astype(float)
    centres = (np.arange(size) + 0.5) * side / size - 0.5
    # Where cubic weights reach beyond a whole-pixel cut, its border pixels are repeated.
    inner = slice(int(2 * size / side) + 1, -int(2 * size / side) - 1)
    np.testing.assert_allclose(picture[inner, inner, 0], np.tile(left + centres, (size, 1))[inner, inner], atol=1.1)
    np.testing.assert_allclose(
        picture[inner, inner, 1], 2 * np.tile(top + centres, (size, 1)).T[inner, inner], atol=1.6
    )
    assert not picture[..., 2].any()


@pytest.mark.parametrize("length", [1, 5, 30])
def test_a_blurred_clip_is_less_sharp(length: int) -> None:
    sharp = np.stack([textured(i)[:64, :64] for i in range(length)])
    slightly, strongly = (
        np.stack([cv2.GaussianBlur(picture, (0, 0), sigma).astype(np.uint8) for picture in sharp]) for sigma in (1, 3)
    )
    flat = np.full_like(sharp, 90)
    assert sharpness(sharp) > sharpness(slightly) > sharpness(strongly) > sharpness(flat) == 0


def test_sharpness_looks_at_the_whole_clip() -> None:
    clip = np.full((80, 64, 64, 3), 90, np.uint8)
    nothing = sharpness(clip)
    clip[-1] = textured()[:64, :64]
    assert sharpness(clip) > nothing
    assert sharpness(clip, num_samples=1) == nothing


@pytest.mark.parametrize("side", [33, 40, 48, 63, 64, 65, 80, 96, 100, 119])
def test_a_square_that_shrinks_is_as_if_averaged_by_area(side: int) -> None:
    picture = np.asarray(cv2.GaussianBlur(textured(), (0, 0), 1.5), np.uint8)
    whole = picture[1 : 1 + side, 3 : 3 + side]
    expected = cv2.resize(whole, (32, 32), interpolation=cv2.INTER_AREA)
    found = crop_square(picture, square(3, 1, side), 32)
    assert np.abs(found.astype(int) - expected).mean() < 0.6
    if side % 32 == 0:
        np.testing.assert_array_equal(found, expected)
