"""A fake against its original, frame by frame: what counts as changed, and that nothing odd ever breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.compare import (
    MAX_CELLS,
    MIN_BACKGROUND_CELLS,
    MIN_NOISE,
    Cells,
    Noise,
    Original,
    activity,
    cell_pixels,
    cells_of,
    change_mask,
    pixel_noise,
    pixel_sample,
    track_score,
)
from pipeline.types import Float32Array, UInt8Array

WIDTH, HEIGHT = 320, 180
FACE = np.array([100, 50, 164, 114], np.float32)
OTHER_FACE = np.array([200, 60, 264, 124], np.float32)

numbers = st.floats(-1e6, 1e6, width=32)
boxes = st.builds(lambda *corners: np.array(corners, np.float32), numbers, numbers, numbers, numbers)
sides = st.integers(1, 70)


def picture(seed: int = 0, width: int = WIDTH, height: int = HEIGHT, blur: float = 3.0) -> UInt8Array:
    """uint8 BGR: smooth random content, of the same contrast everywhere."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return np.asarray(np.clip(128 + 40 * smooth / max(float(smooth.std()), 1e-9), 0, 255), np.uint8)


def recoded(bgr: UInt8Array, quality: int) -> UInt8Array:
    """What lossy coding makes of a picture."""
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1), np.uint8)


def with_changed(bgr: UInt8Array, box_xyxy: Float32Array, grey_levels: int = 30) -> UInt8Array:
    """The same with the middle of a face made brighter."""
    x1, y1, x2, y2 = (int(v) for v in box_xyxy)
    changed = bgr.astype(int)
    changed[y1 + 8 : y2 - 8, x1 + 8 : x2 - 8] += grey_levels
    return np.asarray(np.clip(changed, 0, 255), np.uint8)


def original(bgr: UInt8Array, *faces: Float32Array, side_pixels: float = 4.0) -> Original:
    return Original(cells_of(bgr, side_pixels), np.array(faces, np.float32).reshape(-1, 4))


def score(about: Original, fake: UInt8Array, box_xyxy: Float32Array) -> float:
    cells = cells_of(fake, about.cells.side_pixels)
    return about.change_score(cells, about.noise(cells), box_xyxy)


# Cells


@given(sides, sides, st.floats(1, 40), st.tuples(*[st.integers(0, 255)] * 3))
@settings(deadline=None)
def test_a_picture_of_one_colour_has_cells_of_that_colour(
    width: int, height: int, side: float, colour: tuple[int, int, int]
) -> None:
    cells = cells_of(np.full((height, width, 3), colour, np.uint8), side)
    assert cells.bgr.dtype == np.float32
    assert (cells.bgr == np.array(colour, np.float32)).all()
    assert cells.bgr.shape == (max(1, height // cells.side_pixels), max(1, width // cells.side_pixels), 3)
    assert abs(cells.side_pixels - side) <= (0.5 if side < 7.5 else 2), "whole pixels, and near to what was asked"


@pytest.mark.parametrize(
    ("width", "height", "side", "shape"),
    [
        (1, 1, 1.0, (1, 1)),
        (17, 9, 4.0, (2, 4)),
        (17, 9, 50.0, (1, 1)),
        (4000, 3, 3.0, (1, 1333)),
        (90, 60, 1.0, (60, 90)),
    ],
)
def test_cells_of_odd_sizes(width: int, height: int, side: float, shape: tuple[int, int]) -> None:
    assert cells_of(np.zeros((height, width, 3), np.uint8), side).bgr.shape[:2] == shape


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5, 6, 7, 8, 12, 20])
def test_each_cell_is_of_its_own_square(side: int) -> None:
    expected = np.random.default_rng(0).integers(0, 256, (5, 7, 3))
    blocks = expected.repeat(side, axis=0).repeat(side, axis=1).astype(np.uint8)
    rest = ((0, side - 1), (0, side // 2), (0, 0))
    np.testing.assert_array_equal(cells_of(np.pad(blocks, rest), float(side)).bgr, expected)


@pytest.mark.parametrize("side", [2, 3, 4, 5, 7])
def test_small_cells_are_means_of_all_their_pixels(side: int) -> None:
    bgr = np.random.default_rng(0).integers(0, 256, (5 * side, 7 * side, 3), np.uint8)
    expected = bgr.reshape(5, side, 7, side, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(cells_of(bgr, float(side)).bgr, expected, atol=1)


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0.1, 5_000))
def test_cells_are_some_sixteen_to_a_face_but_never_too_many_nor_below_a_pixel(
    width: int, height: int, face: float
) -> None:
    side = cell_pixels(width, height, face)
    assert side >= max(1.0, face / 16)
    assert width * height / side**2 <= MAX_CELLS * (1 + 1e-9)


def test_a_frame_of_8k_has_few_cells() -> None:
    bgr = np.full((4320, 7680, 3), 7, np.uint8)
    cells = cells_of(bgr, cell_pixels(7680, 4320, 100.0)).bgr
    assert cells.shape[0] * cells.shape[1] <= 1.1 * MAX_CELLS


@given(boxes, st.floats(0, 2))
def test_what_a_box_meets_lies_in_the_frame(box: Float32Array, margin: float) -> None:
    rows, columns = Cells(np.zeros((9, 16, 3), np.float32), 4).inside(box, margin)
    assert 0 <= rows.start <= 9
    assert 0 <= rows.stop <= 9
    assert 0 <= columns.start <= 16
    assert 0 <= columns.stop <= 16


def test_a_box_meets_the_cells_that_it_touches_and_no_others() -> None:
    cells = Cells(np.zeros((9, 16, 3), np.float32), 4)
    assert cells.inside(np.array([4, 8, 12, 16], np.float32)) == (slice(2, 4), slice(1, 3))
    assert cells.inside(np.array([3.9, 7.9, 12.1, 16.1], np.float32)) == (slice(1, 5), slice(0, 4))
    assert cells.inside(np.array([-50, -50, 1, 500], np.float32)) == (slice(0, 9), slice(0, 1))
    assert cells.inside(np.array([4, 8, 12, 16], np.float32), 0.5) == (slice(1, 5), slice(0, 4))
    for nowhere in ([-9, 0, -1, 5], [64, 0, 70, 5], [0, 40, 5, 50]):
        rows, columns = cells.inside(np.array(nowhere, np.float32))
        assert cells.bgr[rows, columns].size == 0


def test_outside_is_far_from_all_faces() -> None:
    cells = Cells(np.zeros((20, 40, 3), np.float32), 4)
    faces = np.array([[40, 20, 56, 36], [120, 20, 136, 36]], np.float32)
    far = cells.outside(faces)
    near = np.zeros((20, 40), bool)
    near[3:11, 8:16] = near[3:11, 28:36] = True
    np.testing.assert_array_equal(far, ~near)
    assert cells.outside(np.zeros((0, 4), np.float32)).all()


# Scores


@pytest.mark.parametrize("quality", [95, 70, 40])
def test_what_only_compression_changed_scores_about_one_and_a_changed_face_far_more(quality: int) -> None:
    frame = picture()
    about = original(frame, FACE, OTHER_FACE)
    fake = recoded(with_changed(frame, FACE), quality)
    assert score(about, recoded(frame, quality), FACE) < 1.1
    assert score(about, fake, OTHER_FACE) < 1.1
    assert score(about, fake, FACE) > 2.5


def test_the_very_same_picture_scores_nothing() -> None:
    frame = picture()
    assert score(original(frame, FACE), frame, FACE) == 0.0


def test_it_does_not_matter_which_face_is_named_first() -> None:
    frame = picture()
    fake = recoded(with_changed(frame, FACE), 60)
    one, other = original(frame, FACE, OTHER_FACE), original(frame, OTHER_FACE, FACE)
    for face in (FACE, OTHER_FACE):
        assert score(one, fake, face) == score(other, fake, face)


def test_a_changed_face_does_not_count_as_noise_of_another() -> None:
    """Were the changed one taken for background, compression would seem to do that much."""
    frame = picture()
    fake = with_changed(frame, FACE, 100)
    noise = original(frame, FACE, OTHER_FACE).noise(cells_of(fake, 4.0))
    assert noise is not None
    assert (noise.levels == MIN_NOISE).all()


def test_a_mouth_alone_is_a_changed_face() -> None:
    frame = picture()
    fake = frame.copy()
    fake[94:108, 118:146] = 255 - fake[94:108, 118:146]
    assert score(original(frame, FACE), recoded(fake, 70), FACE) > 2.0


def test_with_too_little_background_nothing_can_be_told() -> None:
    frame = picture(width=64, height=64)
    filling = np.array([2, 2, 62, 62], np.float32)
    about = original(frame, filling)
    assert not about.has_background
    assert about.noise(cells_of(frame, 4.0)) is None
    assert math.isnan(score(about, frame, filling))


@given(sides, sides, sides, sides, st.lists(boxes, max_size=3), boxes, st.integers(0, 9))
@settings(deadline=None, max_examples=300)
def test_no_frame_and_no_box_is_too_odd(
    width: int, height: int, face_side: int, cell: int, faces: list[Float32Array], box: Float32Array, seed: int
) -> None:
    before, after = picture(seed, width, height), picture(seed + 1, width, height)
    about = original(before, *faces, side_pixels=cell_pixels(width, height, face_side * cell / 8))
    cells = cells_of(after, about.cells.side_pixels)
    noise = about.noise(cells)
    assert about.has_background == (about.background.sum() >= MIN_BACKGROUND_CELLS)
    # Two frames of noise: what differs goes with what was there, as after a change of colours.
    assert noise is None or about.has_background
    assert (about.noise(about.cells) is not None) == about.has_background
    for tried in (box, *faces, np.array([0, 0, width, height], np.float32)):
        found = about.change_score(cells, noise, tried)
        meets = bool(about.cells.bgr[about.cells.inside(tried)].size)
        assert math.isfinite(found) if noise is not None and meets else math.isnan(found)
        assert not found < 0


def grey(bgr: UInt8Array) -> UInt8Array:
    return np.asarray(cv2.cvtColor(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR), np.uint8)


def lighter(bgr: UInt8Array) -> UInt8Array:
    return np.asarray(np.clip(1.1 * bgr + 8, 0, 255), np.uint8)


@pytest.mark.parametrize("quality", [95, 40])
@pytest.mark.parametrize("recoloured", [grey, lighter])
def test_where_all_colours_were_changed_nothing_is_told_of_a_face(
    recoloured: Callable[[UInt8Array], UInt8Array], quality: int
) -> None:
    frame = picture()
    for fake in (frame, with_changed(frame, FACE)):
        assert math.isnan(score(original(frame, FACE), recoded(recoloured(fake), quality), FACE))


def test_a_grey_level_of_light_more_or_less_hides_no_change() -> None:
    frame = picture()
    for brighter, darker in ((1, 0), (0, 1)):
        before, after = (
            cv2.subtract(cv2.add(bgr, (brighter,) * 4), (darker,) * 4) for bgr in (frame, with_changed(frame, FACE))
        )
        assert score(original(frame, FACE), np.asarray(before, np.uint8), FACE) <= 1.0
        assert score(original(frame, FACE), np.asarray(after, np.uint8), FACE) > 5.0


# Below a quality of 10 JPEG drops colours, and nothing is told.
@given(st.integers(0, 30), st.integers(10, 100))
@settings(deadline=None, max_examples=40)
def test_noise_grows_with_activity_and_is_at_least_a_grey_level(seed: int, quality: int) -> None:
    frame = picture(seed, 160, 90, blur=1 + seed % 5)
    noise = original(frame, np.array([50, 25, 82, 57], np.float32)).noise(cells_of(recoded(frame, quality), 4.0))
    assert noise is not None
    expected = noise.expected(np.linspace(0, 765, 500, dtype=np.float32))
    assert expected.dtype == np.float32
    assert (np.diff(expected) >= 0).all()
    assert expected[0] >= MIN_NOISE


def test_beyond_the_most_active_background_noise_grows_in_proportion() -> None:
    noise = Noise(np.array([2.0, 10.0, 20.0]), np.array([1.0, 1.5, 3.0]))
    assert noise.expected(np.array([0, 2, 6, 20, 40, 100], np.float32)).tolist() == [1, 1, 1.25, 3, 6, 15]


def test_before_a_plain_wall_an_active_face_is_given_more_noise() -> None:
    wall = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    noise = original(wall).noise(cells_of(wall, 4.0))
    assert noise is not None
    assert noise.expected(np.array([0, 1, 50], np.float32)).tolist() == [1, 1, 50]


def test_activity_is_how_much_the_neighbours_differ_in_the_worst_channel() -> None:
    bgr = np.full((5, 6, 3), 10, np.float32)
    bgr[2, 1, 2] = 35
    expected = np.zeros((5, 6), np.float32)
    expected[1:4, 0:3] = 25
    np.testing.assert_array_equal(activity(Cells(bgr, 4)), expected)


# Whole tracks

scores = st.lists(st.floats(0, 1e4, width=32) | st.just(math.nan), min_size=1, max_size=20)


@given(scores)
def test_a_track_scores_the_median_of_the_frames_that_tell(values: list[float]) -> None:
    known = [value for value in values if not math.isnan(value)]
    found = track_score(np.array(values, np.float32))
    if 2 * len(known) <= len(values):
        assert found is None
    else:
        assert found == np.float32(np.median(np.array(known, np.float32)))
        assert found == float(np.float32(found)), "what is stored is what was compared with the threshold"


# Masks


def test_noise_of_pixels_is_what_differs_outside_the_faces() -> None:
    before = picture()
    large = np.array([60, 30, 220, 150], np.float32)
    after = with_changed(np.clip(before.astype(int) + 3, 0, 255).astype(np.uint8), large, 90)
    samples = pixel_sample(before), pixel_sample(after)
    assert samples[0].shape == (23, 40, 3)
    assert pixel_noise(*samples, np.array([large])) == 3.0
    assert pixel_noise(*samples, np.zeros((0, 4), np.float32)) > 50
    everywhere = np.array([[-1, -1, WIDTH + 1, HEIGHT + 1]], np.float32)
    assert pixel_noise(*samples, everywhere) == 0.0


@given(sides, sides, st.lists(boxes, max_size=2))
@settings(deadline=None)
def test_noise_of_pixels_of_any_frame_is_a_number(width: int, height: int, faces: list[Float32Array]) -> None:
    samples = pixel_sample(picture(1, width, height)), pixel_sample(picture(2, width, height))
    assert 0 <= pixel_noise(*samples, np.array(faces, np.float32).reshape(-1, 4)) <= 255


def test_a_mask_shows_where_and_how_much_a_face_was_changed() -> None:
    before = np.full((64, 64, 3), 100, np.uint8)
    after = before.copy()
    after[20:40, 10:30] = (100, 60, 110)
    mask = change_mask(before, after, 4.0)
    assert mask.dtype == np.uint8
    assert mask.shape == (64, 64)
    assert (mask[24:36, 14:26] == 36).all(), "the largest of the channels, less the noise"
    outside = np.ones((64, 64), bool)
    outside[18:42, 8:32] = False
    assert not mask[outside].any()


def test_a_mask_of_compression_alone_is_nearly_empty_and_never_overflows() -> None:
    before = picture()
    after = recoded(before, 60)
    noise = pixel_noise(pixel_sample(before), pixel_sample(after), np.array([FACE]))
    assert np.count_nonzero(change_mask(before[50:114, 100:164], after[50:114, 100:164], noise)) < 0.02 * 64 * 64
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    for pair in ((black, white), (white, black)):
        assert (change_mask(*pair, 0.0) == 255).all()
        assert (change_mask(*pair, 300.0) == 0).all()
