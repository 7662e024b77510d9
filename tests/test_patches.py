"""What is kept of frames: the pixels that are needed later, for as long as there is room, and never other pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arena import Arena
from pipeline.config import CropSettings, DetectSettings, Settings, TrackSettings
from pipeline.crop import crop_square, crop_squares, window_of
from pipeline.frame import Frame
from pipeline.patches import Patch, Patches
from pipeline.picture import BgrPicture, on_grain
from pipeline.track import Chain, Linker
from pipeline.types import Detections, Float32Array

WIDTH, HEIGHT = 320, 180
FRAME_BYTES = 3 * WIDTH * HEIGHT
PAGE = 4096
SETTINGS = Settings(
    detect=DetectSettings(every_n_frames=5),
    track=TrackSettings(min_frames=10, segment_frames=40, max_faces=3),
    crop=CropSettings(mode="follow", size=32),
)

BoxAt = Callable[[int], tuple[float, float, float, float] | None]
"""Where a face is in a frame, xyxy; None where it isn't."""


def moving(start: float = 10.0, speed: float = 0.0, side: float = 40.0, frames: range = range(10**6)) -> BoxAt:
    """A face that goes to the right."""

    def box_at(index: int) -> tuple[float, float, float, float] | None:
        left = start + speed * index
        return (left, 60.0, left + side, 60.0 + side) if index in frames else None

    return box_at


def frame(index: int) -> Frame:
    bgr = np.random.default_rng(index).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    return Frame(index, index / 25, BgrPicture(bgr))


def seen(boxes: Iterable[tuple[float, float, float, float] | None]) -> Detections:
    xyxy = np.array([box for box in boxes if box is not None], np.float32).reshape(-1, 4)
    return Detections(xyxy, np.full(len(xyxy), 0.9, np.float32), np.zeros((len(xyxy), 5, 2), np.float32))


class Watched:
    """A video that is being searched, and what is kept of it."""

    def __init__(self, num_bytes: int, *faces: BoxAt, search_every: int = 30, settings: Settings = SETTINGS) -> None:
        self.arena = Arena(num_bytes)
        self.patches = Patches(WIDTH, HEIGHT, settings, self.arena)
        self.linker = Linker(settings.track)
        self.num_watched = 0
        self._every = settings.detect.every_n_frames
        self._faces = faces
        self._search_every = search_every
        self._settings = settings

    def watch(self, num_frames: int) -> None:
        """So many more frames; what was seen in them is known in batches."""
        for index in range(self.num_watched, self.num_watched + num_frames):
            self.patches.watch(frame(index))
            if index % self._every == 0:
                self.linker.add(index, seen(face(index) for face in self._faces))
            if index % self._search_every == 0:
                self.patches.searched(index, self.linker)
        self.num_watched += num_frames

    @property
    def chains(self) -> list[Chain]:
        return self.linker.ended + self.linker.followed

    def square(self, box_xyxy: tuple[float, float, float, float]) -> Float32Array:
        squares_xyxy = crop_squares(np.array([box_xyxy], np.float32), self._settings.crop)
        return np.asarray(squares_xyxy[0])

    def kept(self, chain: Chain) -> list[int]:
        """The frames since it began of which at least the middle of the face was kept; their pixels are checked."""
        found = []
        for index in range(chain.frames[0], self.num_watched):
            middle = chain.box_at(index).reshape(2, 2).mean(axis=0).round()
            patch = self.patches.get(chain, index, np.concatenate([middle - 2, middle + 2]))
            if patch is not None:
                width, height = patch.picture.size
                there = frame(index).bgr[patch.top : patch.top + height, patch.left : patch.left + width]
                np.testing.assert_array_equal(patch.picture.bgr(), there)
                assert patch.timestamp_seconds == index / 25
                found.append(index)
        return found

    def covered(self, chain: Chain, face: BoxAt) -> list[int]:
        """The frames of which the whole square was kept."""
        boxes = [(index, face(index)) for index in range(self.num_watched)]
        return [i for i, box in boxes if box is not None and self.patches.get(chain, i, self.square(box)) is not None]


ROOMY = 200 * FRAME_BYTES


@pytest.mark.parametrize("speed", [0.0, 2.0, -2.0])
def test_a_face_that_moves_steadily_is_covered_before_it_was_found_again(speed: float) -> None:
    face = moving(150, speed)
    video = Watched(ROOMY, face)
    video.watch(35)
    (chain,) = video.chains
    assert chain.frames[-1] == 30
    assert video.covered(chain, face) == list(range(35))
    assert video.kept(chain) == list(range(35))


def test_a_face_that_turns_around_is_not_covered_for_ever() -> None:
    def turning(index: int) -> tuple[float, float, float, float]:
        left = 10 + 2.0 * index if index <= 30 else 70 + 40.0 * (index - 30)
        return (left, 60, left + 40, 100)

    video = Watched(ROOMY, turning)
    video.watch(35)
    (chain,) = video.chains
    covered = video.covered(chain, turning)
    assert covered[:31] == list(range(31))
    assert 34 not in covered


def test_frames_that_wait_are_kept_for_faces_that_turn_out_to_have_begun_in_them() -> None:
    known, new = moving(10), moving(200, frames=range(15, 1000))
    video = Watched(ROOMY, known, new)
    video.watch(30)
    first, second = video.chains
    assert video.kept(first) == list(range(5)), "the frames from 5 on wait"
    assert video.kept(second) == []
    video.watch(1)
    first, second = video.chains
    assert video.covered(first, known) == list(range(31))
    assert video.covered(second, new) == list(range(15, 31)), "not those from before it began"


def test_what_was_seen_once_and_is_gone_is_not_kept() -> None:
    video = Watched(ROOMY, moving(10), moving(200, frames=range(5, 6)))
    video.watch(31)
    stayed, gone = sorted(video.chains, key=lambda chain: -len(chain.frames))
    assert video.kept(stayed) == list(range(31))
    assert video.kept(gone) == []


def test_of_a_crowd_only_so_many_faces_are_kept_as_a_video_may_have() -> None:
    video = Watched(ROOMY, *(moving(5 + 60 * place) for place in range(5)))
    video.watch(31)
    assert sorted(len(video.kept(chain)) for chain in video.chains) == [0, 0, 31, 31, 31]


@pytest.mark.parametrize("num_frames", [0.3, 1.5, 4, 9])
def test_where_room_ends_the_oldest_go_first(num_frames: float) -> None:
    face = moving(100, 0.5)
    video = Watched(int(num_frames * FRAME_BYTES), face)
    video.watch(91)
    (chain,) = video.chains
    kept = video.kept(chain)
    assert 0 < len(kept) < 91
    assert kept == list(range(91 - len(kept), 91))


@pytest.mark.parametrize("num_bytes", [0, PAGE, FRAME_BYTES - 1], ids=["no", "a page of", "nearly a frame of"])
def test_a_frame_larger_than_the_arena_breaks_nothing(num_bytes: int) -> None:
    video = Watched(num_bytes, moving(100, 0.5))
    video.watch(70)
    (chain,) = video.chains
    video.kept(chain)
    video.patches.forget_all()
    assert video.arena.num_free_bytes == num_bytes


def test_what_is_forgotten_makes_room() -> None:
    video = Watched(ROOMY, moving(10), moving(200))
    video.watch(61)
    one, other = video.chains
    used = video.arena.num_bytes - video.arena.num_free_bytes
    video.patches.forget(one, 0, 30)
    assert video.kept(one) == list(range(30, 61))
    assert video.kept(other) == list(range(61))
    video.patches.forget(one, 0, 30)
    video.patches.forget_all_but([other])
    assert video.kept(one) == []
    assert video.kept(other) == list(range(61))
    assert 0 < video.arena.num_bytes - video.arena.num_free_bytes < used
    video.patches.forget_all_but([])
    assert video.arena.num_free_bytes == video.arena.num_bytes


def test_nothing_is_left_of_a_video_that_ends_while_frames_wait() -> None:
    video = Watched(ROOMY, moving(10))
    video.watch(50)
    assert video.arena.num_free_bytes < video.arena.num_bytes
    video.patches.forget_all()
    assert video.arena.num_free_bytes == video.arena.num_bytes
    assert video.arena.take(video.arena.num_bytes // PAGE * PAGE) is not None, "in one piece"


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(1, 12), st.sampled_from(["union", "follow"]))
def test_whatever_is_kept_of_any_video_is_right_and_given_back(
    seed: int, num_quarters: int, num_batches: int, mode: str
) -> None:
    """Faces that come, go, jump and leave the frame; squares of segments that are forgotten now and then."""
    rng = np.random.default_rng(seed)
    faces = []
    for _ in range(rng.integers(0, 4)):
        start, frames = rng.integers(0, 40), rng.integers(1, 80)
        shown = range(int(start), int(start + frames))
        faces.append(moving(rng.uniform(-40, WIDTH), rng.normal(0, 3), rng.uniform(10, 200), shown))
    crop = SETTINGS.crop.model_copy(update={"mode": mode})
    sizes = SETTINGS.model_copy(update={"crop": crop})
    search_every = 5 * int(rng.integers(1, 8))
    video = Watched(num_quarters * FRAME_BYTES // 4, *faces, search_every=search_every, settings=sizes)
    for _ in range(num_batches):
        video.watch(int(rng.integers(1, 12)))
        for chain in video.chains:
            kept = video.kept(chain)
            if kept and rng.random() < 0.3:
                middle = int(rng.choice(kept))
                video.patches.forget(chain, 0, middle)
                assert all(index >= middle for index in video.kept(chain))
    video.patches.forget_all()
    assert video.arena.num_free_bytes == video.arena.num_bytes


def test_an_error_while_room_is_made_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    video = Watched(ROOMY, moving(100))
    video.watch(25)

    def injected(*_: object) -> Float32Array:
        raise RuntimeError("injected")

    monkeypatch.setattr("pipeline.patches.crop_squares", injected)
    with pytest.raises(RuntimeError, match="injected"):
        video.watch(30)
    video.patches.forget_all()
    assert video.arena.num_free_bytes == video.arena.num_bytes


def test_however_many_frames_wait_room_is_made_for_all_faces() -> None:
    """The patches of three large faces take more than the frames that wait for them."""
    crowd = [moving(10 + 90 * place, side=80) for place in range(3)]
    video = Watched(400 * FRAME_BYTES, *crowd, search_every=10**6)
    video.watch(1)
    blank = frame(0)
    for index in range(1, 450):
        video.patches.watch(replace(blank, index=index))
    assert video.arena.num_free_bytes < video.arena.num_bytes


@st.composite
def squares(draw: st.DrawFn) -> Float32Array:
    """On whole pixels or between them, inside, across an edge or beyond."""
    left, top = draw(st.integers(-60, WIDTH + 20)), draw(st.integers(-60, HEIGHT + 20))
    side = draw(st.integers(1, 150))
    parts = draw(st.sampled_from([(0.0, 0.0, 0.0), (0.5, 0.25, 0.0), None]))
    x, y, more = parts or (draw(st.floats(0, 1, width=32)) for _ in range(3))
    return np.array([left + x, top + y, left + x + side + more, top + y + side + more], np.float32)


FRAME = frame(0).bgr


@settings(deadline=None, max_examples=300)
@given(squares(), st.integers(16, 200), st.tuples(*[st.integers(0, 9)] * 4))
def test_a_square_out_of_a_patch_is_the_same_as_out_of_the_frame(
    square: Float32Array, size: int, around: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = window = on_grain(window_of(square, WIDTH, HEIGHT), (WIDTH, HEIGHT))
    patch_left, patch_top = max(left - around[0], 0), max(top - around[1], 0)
    pixels = FRAME[patch_top : min(bottom + around[2], HEIGHT), patch_left : min(right + around[3], WIDTH)].copy()
    patch = Patch(BgrPicture(pixels), patch_left, patch_top, 0.0)
    assert patch.covers(window)
    cut = crop_square(patch.bgr_of(window), square, size, (left, top))
    np.testing.assert_array_equal(cut, crop_square(FRAME, square, size))


@settings(deadline=None, max_examples=150)
@given(squares(), st.integers(16, 200))
def test_a_square_depends_on_nothing_but_its_window(square: Float32Array, size: int) -> None:
    left, top, right, bottom = window_of(square, WIDTH, HEIGHT)
    other = 255 - FRAME
    other[top:bottom, left:right] = FRAME[top:bottom, left:right]
    np.testing.assert_array_equal(crop_square(other, square, size), crop_square(FRAME, square, size))


def test_a_patch_covers_what_lies_in_it_and_not_a_pixel_more() -> None:
    patch = Patch(BgrPicture(FRAME[20:50, 30:90].copy()), 30, 20, 0.0)
    assert patch.covers((30, 20, 90, 50))
    for side in range(4):
        window = [30, 20, 90, 50]
        window[side] += -1 if side < 2 else 1
        assert not patch.covers(window)


def test_a_patch_that_lacks_a_column_of_the_window_is_not_used() -> None:
    video = Watched(ROOMY, moving(100))
    video.watch(6)
    (chain,) = video.chains
    patch = video.patches.get(chain, 0, np.array([100, 60, 140, 100], np.float32))
    assert patch is not None
    edge = float(patch.left)
    assert video.patches.get(chain, 0, np.array([edge, 60, edge + 40, 100], np.float32)) is patch
    assert video.patches.get(chain, 0, np.array([edge - 1, 60, edge + 39, 100], np.float32)) is None
    between = np.array([edge + 0.5, 60.5, edge + 40.5, 100.5], np.float32)
    assert video.patches.get(chain, 0, between) is None, "cubic interpolation looks further"


def test_a_square_that_shows_nothing_of_the_frame_is_black_whatever_was_kept() -> None:
    outside = np.array([-50, -50, -10, -10], np.float32)
    assert window_of(outside, WIDTH, HEIGHT) == (0, 0, 0, 0)
    patch = Patch(BgrPicture(FRAME[:30, :40].copy()), 0, 0, 0.0)
    assert patch.covers((0, 0, 0, 0))
    assert not crop_square(patch.bgr_of((0, 0, 0, 0)), outside, 32).any()
