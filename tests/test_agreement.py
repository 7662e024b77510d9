"""Does a fake show what its original shows? Shifted, cropped and foreign ones don't; compressed and relit ones do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.agreement import MAX_DISPLACEMENT, Agreement, correlation, displacement_pixels, slope
from pipeline.compare import Cells, Original, cell_pixels, cells_of
from pipeline.decode import VideoReader
from pipeline.types import Float32Array, UInt8Array
from tests.videos import write_video

WIDTH, HEIGHT, NUM_FRAMES = 240, 136, 32
FACE = np.array([80, 40, 128, 96], np.float32)
FACE_PIXELS = 48.0

Clip = list[UInt8Array]


def texture(seed: int, blur: float = 4.0, contrast: float = 40.0) -> UInt8Array:
    """uint8 BGR, larger than a frame: smooth random content."""
    noise = np.random.default_rng(seed).normal(size=(HEIGHT + 100, WIDTH + 100, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), blur)
    return np.asarray(np.clip(128 + contrast * smooth / smooth.std(), 0, 255), np.uint8)


def looked_at(scene: UInt8Array, corner: Callable[[int], tuple[float, float]], num_frames: int = NUM_FRAMES) -> Clip:
    """A scene as a camera shows it whose corner moves, xy."""
    shifts = [np.array([[1, 0, -x], [0, 1, -y]], np.float64) for x, y in map(corner, range(num_frames))]
    return [np.asarray(cv2.warpAffine(scene, shift, (WIDTH, HEIGHT)), np.uint8) for shift in shifts]


def hand_held(num_frames: int = NUM_FRAMES, seed: int = 0) -> Clip:
    """A scene that moves by a pixel or so a frame, to and fro."""
    return looked_at(texture(seed), lambda n: (20 + 5 * np.sin(n / 3), 20 + 5 * np.cos(n / 4)), num_frames)


def still(num_frames: int = NUM_FRAMES) -> Clip:
    return looked_at(texture(0), lambda _: (20, 20), num_frames)


def wall(num_frames: int = NUM_FRAMES) -> Clip:
    """A plain wall, and the noise of a sensor."""
    noise = np.random.default_rng(0).normal(size=(num_frames, HEIGHT, WIDTH, 3))
    return list(np.clip(128 + 2 * noise, 0, 255).astype(np.uint8))


def recoded(clip: Clip, crf: int, folder: Path) -> Clip:
    """Through x264."""
    path = write_video(folder / "clip.mp4", (bgr[..., ::-1] for bgr in clip), options={"crf": str(crf)})
    with VideoReader(str(path)) as reader:
        return [frame.bgr for frame in reader.frames()]


def objections(original: Clip, fake: Clip, faces: Sequence[Float32Array] = (FACE,)) -> tuple[str | None, str | None]:
    """In time, and in space at the last of the frames that both have."""
    face_pixels = min((float(face[2] - face[0]) for face in faces), default=FACE_PIXELS)
    side = cell_pixels(WIDTH, HEIGHT, face_pixels)
    pairs = [(cells_of(a, side), cells_of(b, side)) for a, b in zip(original, fake, strict=False)]
    agreement = Agreement(face_pixels)
    for (before, _), (middle, of_fake), (after, _) in zip(pairs, pairs[1:], pairs[2:], strict=False):
        agreement.add(of_fake, middle, slope(before, after))
    boxes = np.array(faces, np.float32).reshape(-1, 4)
    last, of_fake = pairs[-1]
    return agreement.objection_in_time(), agreement.objection_in_space(of_fake, Original(last, boxes))


def scaled(clip: Clip, share: float) -> Clip:
    """Cropped to this share of the sides around the middle, and scaled to the size it had."""
    shape = round(HEIGHT * share), round(WIDTH * share)
    y, x = (HEIGHT - shape[0]) // 2, (WIDTH - shape[1]) // 2
    return [np.asarray(cv2.resize(f[y : y + shape[0], x : x + shape[1]], (WIDTH, HEIGHT)), np.uint8) for f in clip]


# What agrees


@pytest.mark.parametrize("scene", [hand_held, still, wall])
@pytest.mark.parametrize("crf", [18, 28, 40])
def test_a_fake_that_was_only_encoded_anew_agrees(scene: Callable[[], Clip], crf: int, tmp_path: Path) -> None:
    original = recoded(scene(), 18, tmp_path)
    assert objections(original, recoded(original, crf, tmp_path)) == (None, None)


@pytest.mark.parametrize("scene", [hand_held, still])
@pytest.mark.parametrize(("contrast", "brightness"), [(1.0, 12), (0.85, 0), (1.1, -20)])
def test_a_fake_in_another_light_agrees(scene: Callable[[], Clip], contrast: float, brightness: int) -> None:
    original = scene()
    relit = [np.clip(frame * contrast + brightness, 0, 255).astype(np.uint8) for frame in original]
    assert objections(original, relit) == (None, None)


def test_whatever_is_done_to_a_face_a_fake_agrees() -> None:
    original = hand_held()
    fake = [frame.copy() for frame in original]
    for number, frame in enumerate(fake):
        frame[34:102, 74:134] = texture(number)[:68, :60]
    assert objections(original, fake) == (None, None)


@pytest.mark.parametrize("scene", [hand_held, still, wall])
def test_the_very_same_video_agrees(scene: Callable[[], Clip]) -> None:
    original = scene()
    assert objections(original, original) == (None, None)


def test_of_a_still_a_shift_cant_be_seen() -> None:
    original = still(NUM_FRAMES + 3)
    assert objections(original, original[3:]) == (None, None)


def test_a_face_that_fills_the_frame_leaves_time_to_judge_by() -> None:
    original = hand_held(NUM_FRAMES + 1)
    filling = np.array([20, 10, 220, 126], np.float32)
    cropped = scaled(original, 0.9)
    assert objections(original, cropped, [filling]) == (None, None), "there is no background to compare"
    shifted = objections(original, original[1:], [filling])
    assert shifted == ("it is shifted in time against its original", None)


# What doesn't


@pytest.mark.parametrize("shift", [1, 2, 5, -1])
@pytest.mark.parametrize("crf", [None, 32])
def test_a_shift_in_time_is_seen_where_something_moves(shift: int, crf: int | None, tmp_path: Path) -> None:
    whole = hand_held(NUM_FRAMES + abs(shift))
    original, fake = (whole[-shift:], whole) if shift < 0 else (whole, whole[shift:])
    in_time, _ = objections(original, recoded(fake, crf, tmp_path) if crf else fake)
    assert in_time == "it is shifted in time against its original"


def test_a_frame_missing_early_is_a_shift_of_all_that_follow() -> None:
    original = hand_held(2 * NUM_FRAMES)
    fake = original[:10] + original[11:]
    assert objections(original[NUM_FRAMES:], fake[NUM_FRAMES:])[0] is not None


def test_each_stretch_of_frames_is_judged_by_itself() -> None:
    original = [cells_of(frame, 4.0) for frame in hand_held()]
    agreement = Agreement(FACE_PIXELS)
    for (before, middle), (_, after) in pairwise(pairwise(original)):
        agreement.add(after, middle, slope(before, after))
    assert agreement.objection_in_time() is not None
    assert agreement.objection_in_time() is None


@pytest.mark.parametrize("share", [0.95, 0.9, 0.8, 0.5])
def test_a_crop_is_seen(share: float) -> None:
    original = still()
    assert objections(original, scaled(original, share))[1] is not None


@pytest.mark.parametrize("pixels", [(6, 0), (0, -5), (4, 4)])
def test_a_fake_that_lies_elsewhere_is_seen_and_by_how_much(pixels: tuple[int, int]) -> None:
    scene = texture(0, blur=8)
    original = looked_at(scene, lambda _: (20, 20))
    fake = looked_at(scene, lambda _: (20 + pixels[0], 20 + pixels[1]))
    side = cell_pixels(WIDTH, HEIGHT, FACE_PIXELS)
    a, b = cells_of(original[0], side), cells_of(fake[0], side)
    moved = displacement_pixels(a, b, np.ones(a.bgr.shape[:2], bool), 0.0)
    assert moved == pytest.approx(float(np.hypot(*pixels)), rel=0.2)
    assert objections(original, fake)[1] is not None


@pytest.mark.parametrize("change", [cv2.ROTATE_180, 0, 1, -1], ids=["turned", "flipped", "mirrored", "both"])
def test_a_mirrored_fake_is_seen(change: int) -> None:
    original = still()
    turn = cv2.rotate if change == cv2.ROTATE_180 else cv2.flip
    fake = [np.asarray(turn(frame, change), np.uint8) for frame in original]
    assert objections(original, fake)[1] == "outside the faces it shows something else than its original"


def test_another_video_is_seen() -> None:
    assert objections(hand_held(), hand_held(seed=1))[1] is not None
    assert objections(still(), wall())[1] is not None
    assert objections(wall(), still())[1] is not None


def test_less_than_a_cell_of_a_crop_is_let_pass() -> None:
    original = looked_at(texture(0, blur=8), lambda _: (20, 20))
    fake = looked_at(texture(0, blur=8), lambda _: (20 + FACE_PIXELS * MAX_DISPLACEMENT / 2, 20))
    assert objections(original, fake) == (None, None)


# Nothing is too odd

grey_levels = st.integers(0, 255)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    grey_levels,
    grey_levels,
    st.integers(0, 3),
    st.lists(st.just(FACE), max_size=2),
)
@settings(deadline=None, max_examples=150)
def test_pictures_of_any_size_and_without_content_are_judged(
    width: int, height: int, before: int, after: int, noise: int, faces: list[Float32Array]
) -> None:
    rng = np.random.default_rng([width, height, noise])

    def cells(grey: int) -> Cells:
        noisy = grey + rng.integers(-noise, noise + 1, (height, width, 3))
        return cells_of(np.clip(noisy, 0, 255).astype(np.uint8), 2.0)

    agreement = Agreement(10.0)
    a, b, c, fake = cells(before), cells(before), cells(before), cells(after)
    agreement.add(fake, b, slope(a, c))
    agreement.objection_in_time()
    agreement.objection_in_space(fake, Original(b, np.array(faces, np.float32).reshape(-1, 4)))


@pytest.mark.parametrize(("width", "height"), [(400, 1), (1, 400), (200, 2), (2, 200)])
def test_strips_are_judged(width: int, height: int) -> None:
    strips = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    before, after = (cells_of(strip, 1.0) for strip in strips)
    found = Agreement(16.0).objection_in_space(after, Original(before, np.zeros((0, 4), np.float32)))
    assert found == "outside the faces it shows something else than its original"
    assert Agreement(16.0).objection_in_space(before, Original(before, np.zeros((0, 4), np.float32))) is None


def test_flat_pictures_correlate_whatever_their_colour() -> None:
    flat = [Cells(np.full((9, 9, 3), value, np.float32), 4) for value in (3.0, 200.0)]
    everywhere = np.ones((9, 9), bool)
    assert correlation(flat[0], flat[1], everywhere) == 1.0
    assert displacement_pixels(flat[0], flat[1], everywhere, 1.5) == pytest.approx(0)
