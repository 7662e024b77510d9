"""Scene cuts: another picture is one, a camera that moves or a light that changes is not."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.frame import Frame
from pipeline.picture import BgrPicture
from pipeline.scenes import THUMBNAIL_PIXELS, CutFinder, SceneCut, similarity, thumbnail
from pipeline.types import UInt8Array

SHAPE = (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, 3)
seeds = st.integers(0, 2**32 - 1)


def scenery(seed: int, width: int = 400, height: int = 120) -> UInt8Array:
    """A landscape of large soft blobs."""
    blobs = np.random.default_rng(seed).integers(0, 200, (4, 10, 3), np.uint8)
    return np.asarray(cv2.resize(blobs, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def frames(*pictures: UInt8Array) -> list[Frame]:
    """Every 10th frame of a video."""
    return [Frame(10 * i, i / 3, BgrPicture(picture)) for i, picture in enumerate(pictures)]


def cuts(*pictures: UInt8Array) -> dict[int, SceneCut]:
    finder = CutFinder(min_similarity=0.5, min_face_similarity=0.33)
    for _ in finder.watch(frames(*pictures)):
        pass
    return finder.cuts


def noise(seed: int) -> UInt8Array:
    return np.random.default_rng(seed).integers(0, 256, SHAPE, np.uint8)


@settings(deadline=None, max_examples=40)
@given(seeds, seeds)
def test_similarity_is_symmetric_and_within_bounds(a: int, b: int) -> None:
    one, other = noise(a), noise(b)
    assert similarity(one, other) == similarity(other, one)
    assert -1 - 1e-9 <= similarity(one, other) <= 1 + 1e-9
    assert similarity(one, one) == pytest.approx(1)
    assert similarity(one, 255 - one) == pytest.approx(-1)


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 3), st.integers(0, 60))
def test_similarity_is_not_moved_by_light_and_contrast(seed: int, contrast: int, light: int) -> None:
    dark = noise(seed) // 4
    assert similarity(dark, dark * np.uint8(contrast) + np.uint8(light)) == pytest.approx(1)


def test_flat_pictures_are_alike_but_not_like_one_with_a_layout() -> None:
    black, grey = np.zeros(SHAPE, np.uint8), np.full(SHAPE, 77, np.uint8)
    assert similarity(black, grey) == 1
    assert similarity(black, noise(0)) == 0


def test_a_thumbnail_keeps_the_layout_of_any_frame() -> None:
    rgb = np.zeros((270, 480, 3), np.uint8)
    rgb[:, 240:] = (200, 100, 50)
    small = thumbnail(rgb)
    assert small.shape == SHAPE
    assert (small[:, :31] == 0).all()
    assert (small[:, 33:] == (200, 100, 50)).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 999))
def test_two_scenes_after_another_are_cut_where_they_meet(seed: int) -> None:
    one, other = scenery(seed), scenery(seed + 1000)
    found = cuts(one, one, other, other, one)
    assert list(found) == [20, 40]
    np.testing.assert_array_equal(found[20].before, thumbnail(one))
    np.testing.assert_array_equal(found[20].after, thumbnail(other))
    assert found[20].frame_size == (400, 120)
    assert found[20].min_face_similarity == 0.33


def test_a_camera_that_moves_and_a_light_that_comes_on_are_no_cut() -> None:
    wide = scenery(5, width=800)
    panned = [wide[:, 12 * i : 12 * i + 400] for i in range(12)]
    brightened = [cv2.convertScaleAbs(panned[-1], alpha=1 + i / 30, beta=3 * i).astype(np.uint8) for i in range(12)]
    assert cuts(*panned, *brightened) == {}


def test_a_small_thing_that_moves_before_a_plain_wall_is_no_cut() -> None:
    walls = [np.full((240, 320, 3), 180, np.uint8) for _ in range(2)]
    walls[0][100:128, 100:128] = walls[1][100:128, 140:168] = 60
    assert similarity(*(thumbnail(wall) for wall in walls)) < 0.5
    assert cuts(*walls) == {}


def test_the_first_frame_is_no_cut() -> None:
    assert cuts(scenery(1)) == {}
    assert cuts() == {}


def test_frames_pass_through_one_by_one_and_unchanged() -> None:
    given_frames = frames(scenery(1), scenery(2), scenery(3))
    copies = [frame.bgr.copy() for frame in given_frames]
    taken: list[int] = []

    def source() -> Iterator[Frame]:
        for frame in given_frames:
            taken.append(frame.index)
            yield frame

    watched = CutFinder(0.5, 0.33).watch(source())
    first = next(watched)
    assert first is given_frames[0]
    assert taken == [0], "no frame is read ahead"
    assert list(watched) == given_frames[1:]
    for frame, copy in zip(given_frames, copies, strict=True):
        np.testing.assert_array_equal(frame.bgr, copy)


@pytest.mark.parametrize(
    ("box", "ends"),
    [
        ((60, 60, 160, 160), False),
        ((460, 60, 560, 160), True),
        ((-80, -60, 20, 40), False),
        ((620, 620, 700, 700), True),
        ((700, 700, 800, 800), True),
        ((100, 300, 102, 302), False),
        ((314, 300, 316, 302), False),
    ],
    ids=[
        "in the half that stays",
        "in the other",
        "over the edge",
        "over the other edge",
        "outside",
        "tiny",
        "tiny, centred",
    ],
)
def test_a_cut_is_judged_around_the_face(box: tuple[int, int, int, int], ends: bool) -> None:
    before, after = noise(1), noise(2)
    after[:, :32] = before[:, :32]
    cut = SceneCut(before, after, frame_size=(640, 640), min_face_similarity=0.33)
    assert cut.ends(np.array(box, np.float32)) is ends


def test_the_surroundings_scale_with_each_side_of_the_frame() -> None:
    before, after = noise(1), noise(2)
    after[:32] = before[:32]
    cut = SceneCut(before, after, frame_size=(1920, 480), min_face_similarity=0.33)
    assert not cut.ends(np.array([900, 40, 1000, 140], np.float32))
    assert cut.ends(np.array([900, 340, 1000, 440], np.float32))
