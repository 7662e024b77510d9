"""Finding faces in a video: the ladder, bounded batches, memory that runs out, and results that repeat to the bit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DetectSettings
from pipeline.detect import FaceDetector, Rung, SearchedFrame, Thresholds, retry_ladder
from pipeline.frame import Frame, swap_red_and_blue
from pipeline.picture import BgrPicture
from pipeline.types import Detections, Float32Array, UInt8Array
from tests.faces import stretched_portrait

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LOW, HIGH = (0.1, 0.2, 0.3), (0.7, 0.8, 0.9)
WHOLE = Rung(1.0, HIGH)
EVERYWHERE = DetectSettings(whole_frame_every=1)
"""Each frame is searched everywhere, for tests of other things."""


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector(EVERYWHERE, "cpu")


def frame(index: int, rgb: UInt8Array) -> Frame:
    return Frame(index, index / 30, BgrPicture(swap_red_and_blue(rgb)))


def grey_frames(*sizes: tuple[int, int]) -> list[Frame]:
    """One frame a (width, height); its brightness is its index."""
    return [frame(i, np.full((height, width, 3), i, np.uint8)) for i, (width, height) in enumerate(sizes)]


def box_of_the_whole(rgb: UInt8Array) -> Detections:
    """A stand-in for a face: the whole frame, with the frame's brightness as score."""
    height, width = rgb.shape[:2]
    boxes = np.array([[0, 0, width, height]], np.float32)
    landmarks = np.tile(np.array([width, height], np.float32), (1, 5, 1))
    return Detections(boxes, np.array([rgb[0, 0, 0] / 256], np.float32), landmarks)


class Search:
    """Stands in for ``detect_batch`` and remembers what it was called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, detector: FaceDetector) -> None:
        self.batches: list[list[tuple[int, int]]] = []
        """(width, height) of each frame of each attempt."""
        self.near: list[list[Float32Array] | None] = []
        """Where each attempt was to look."""
        self.thresholds: list[Thresholds] = []
        self.max_frames = self.max_pixels = 10**9
        """More than that in one batch doesn't fit."""
        self.error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory")
        monkeypatch.setattr(detector, "detect_batch", self)

    def __call__(
        self, frames: list[UInt8Array], thresholds: Thresholds, near_xyxy: list[Float32Array] | None
    ) -> list[Detections]:
        sizes = [(rgb.shape[1], rgb.shape[0]) for rgb in frames]
        self.batches.append(sizes)
        self.near.append(near_xyxy)
        self.thresholds.append(thresholds)
        if len(frames) > self.max_frames or sum(width * height for width, height in sizes) > self.max_pixels:
            raise self.error
        return [box_of_the_whole(rgb) for rgb in frames]

    @property
    def batch_sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def search_video(detector: FaceDetector, frames: Iterable[Frame], rung: Rung = WHOLE) -> list[SearchedFrame]:
    """All that is found, as it comes."""
    return list(itertools.chain.from_iterable(detector.search(frames, rung)))


def detections_in(found: list[SearchedFrame]) -> list[Detections]:
    return [one.detections for one in found]


def scores(found: list[SearchedFrame]) -> list[float]:
    return [round(float(score) * 256) for one in found for score in one.detections.scores]


def test_the_ladder_goes_from_plain_to_larger_to_larger_with_low_thresholds() -> None:
    settings_ = DetectSettings(long_side_pixels=960, thresholds=HIGH, retry_scale=2.0, retry_thresholds=LOW)
    assert retry_ladder(settings_, 1920, 1080) == [
        Rung(0.5, HIGH),
        Rung(1.0, HIGH),
        Rung(1.0, LOW, keep_one=True),
    ]
    assert retry_ladder(settings_, 1080, 1920) == retry_ladder(settings_, 1920, 1080)


def test_the_first_rung_never_enlarges() -> None:
    assert [rung.scale for rung in retry_ladder(DetectSettings(long_side_pixels=960), 320, 240)] == [1.0, 2.0, 2.0]


def test_rungs_can_be_left_out() -> None:
    assert retry_ladder(DetectSettings(retry_thresholds=None, retry_scale=1), 320, 240) == [Rung(1.0, HIGH)]
    assert retry_ladder(DetectSettings(retry_thresholds=LOW, retry_scale=1), 320, 240) == [
        Rung(1.0, HIGH),
        Rung(1.0, LOW, keep_one=True),
    ]


def test_a_frame_with_a_face_and_one_without(detector: FaceDetector) -> None:
    frames = [frame(3, stretched_portrait("hopper", 200, 200)), frame(13, np.zeros((200, 200, 3), np.uint8))]
    found = search_video(detector, frames)
    assert [one.frame_index for one in found] == [3, 13]
    assert [len(detections) for detections in detections_in(found)] == [1, 0]
    for detections in detections_in(found):
        arrays = (detections.boxes_xyxy, detections.scores, detections.landmarks)
        assert all(type(array) is np.ndarray and array.dtype == np.float32 for array in arrays)
    left, top, right, bottom = found[0].detections.boxes_xyxy[0]
    assert (40 < left < 90, 110 < right < 160) == (True, True)
    assert (20 < top < 80, 110 < bottom < 180) == (True, True)
    assert {one.scale for one in found} == {1.0}
    assert all(one.seconds > 0 for one in found)


def test_no_frames_give_nothing(detector: FaceDetector) -> None:
    assert search_video(detector, [], Rung(0.5, HIGH)) == []


def test_a_rung_that_keeps_one_keeps_the_best(detector: FaceDetector) -> None:
    two = np.concatenate([stretched_portrait("hopper", 160, 160), stretched_portrait("biden", 160, 160)], axis=1)
    both = search_video(detector, [frame(0, two)], WHOLE)[0].detections
    best = search_video(detector, [frame(0, two)], Rung(1.0, HIGH, keep_one=True))[0].detections
    assert len(both) == 2
    assert both.scores[0] >= both.scores[1]
    assert len(best) == 1
    np.testing.assert_array_equal(best.boxes_xyxy, both.boxes_xyxy[:1])
    np.testing.assert_array_equal(best.landmarks, both.landmarks[:1])


def test_the_thresholds_of_the_rung_are_used(monkeypatch: pytest.MonkeyPatch, detector: FaceDetector) -> None:
    search = Search(monkeypatch, detector)
    search_video(detector, grey_frames((40, 40)), Rung(1.0, LOW))
    assert search.thresholds == [LOW]


@pytest.mark.parametrize("scale", [0.5, 0.75, 2.0])
def test_boxes_are_in_source_pixels_whatever_the_scale(detector: FaceDetector, scale: float) -> None:
    picture = [frame(0, stretched_portrait("hopper", 437, 473))]
    plain, scaled = (search_video(detector, picture, Rung(s, HIGH))[0].detections for s in (1.0, scale))
    assert len(plain) == len(scaled) == 1
    np.testing.assert_allclose(scaled.boxes_xyxy, plain.boxes_xyxy, rtol=0, atol=20)
    np.testing.assert_allclose(scaled.landmarks, plain.landmarks, rtol=0, atol=20)


side = st.integers(1, 90)


@settings(deadline=None, max_examples=60)
@given(side, side, st.floats(0.1, 3.0))
def test_the_whole_frame_stays_the_whole_frame_whatever_is_rounded(
    detector: FaceDetector, width: int, height: int, scale: float
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        search = Search(monkeypatch, detector)
        found = search_video(detector, grey_frames((width, height)), Rung(scale, HIGH))[0].detections
    assert search.batches == [[(max(1, round(width * scale)), max(1, round(height * scale)))]]
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, width, height]], rtol=1e-5)
    np.testing.assert_allclose(found.landmarks, np.tile([width, height], (1, 5, 1)), rtol=1e-5)


def test_a_batch_holds_at_most_so_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = FaceDetector(EVERYWHERE.model_copy(update={"batch_megapixels": 0.01}), "cpu")
    search = Search(monkeypatch, detector)
    found = search_video(detector, grey_frames(*[(50, 40)] * 12))
    assert search.batch_sizes == [5, 5, 2]
    assert scores(found) == list(range(12))
    search.batches.clear()
    search_video(detector, grey_frames(*[(100, 80)] * 12), Rung(0.5, HIGH))
    assert search.batch_sizes == [5, 5, 2], "the pixels that count are those searched"


def test_a_frame_above_the_limit_is_searched_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = FaceDetector(EVERYWHERE.model_copy(update={"batch_megapixels": 0.001}), "cpu")
    search = Search(monkeypatch, detector)
    search_video(detector, grey_frames(*[(50, 40)] * 3))
    assert search.batch_sizes == [1, 1, 1]


@pytest.mark.parametrize(("every", "batch_pixels", "ahead"), [(1, 256, 1), (1, 1024, 4), (3, 256, 3), (3, 256 * 7, 7)])
def test_what_was_found_comes_before_another_frame_is_taken(
    monkeypatch: pytest.MonkeyPatch, every: int, batch_pixels: int, ahead: int
) -> None:
    """So that memory holds no more than a batch, and whoever watches knows the faces up to the newest frame."""
    detector = FaceDetector(DetectSettings(batch_megapixels=batch_pixels / 1e6, whole_frame_every=every), "cpu")
    Search(monkeypatch, detector)
    num_frames, taken = 50, 0

    def frames() -> Iterator[Frame]:
        nonlocal taken
        for one in grey_frames(*[(16, 16)] * num_frames):
            taken += 1
            yield one

    done: list[int] = []
    for searched in detector.search(frames(), WHOLE):
        done += [one.frame_index for one in searched]
        assert done == list(range(taken)), "all that were taken, in order"
        assert 1 <= len(searched) <= ahead
    assert done == list(range(num_frames))


def test_frames_between_are_searched_near_the_faces_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = FaceDetector(DetectSettings(batch_megapixels=0.01), "cpu")
    search = Search(monkeypatch, detector)
    found = search_video(detector, grey_frames(*[(50, 40)] * 9))
    assert scores(found) == list(range(9))
    assert [one.frame_index for one in found] == list(range(9))
    near = [boxes for boxes in search.near if boxes is not None]
    # In batches of up to five frames, those between counted: 0 to 3, 4 to 6, 7 and 8.
    assert [size for size, boxes in zip(search.batch_sizes, search.near, strict=True) if boxes is None] == [2, 1, 1]
    assert [len(boxes) for boxes in near] == [2, 2, 1]
    for boxes_xyxy in itertools.chain(*near):
        np.testing.assert_array_equal(boxes_xyxy, [[0, 0, 50, 40]] * 2)


@pytest.mark.parametrize(
    ("num_frames", "every", "expected"),
    [(1, 3, [0]), (2, 3, [0, 1]), (4, 3, [0, 3]), (5, 3, [0, 3, 4]), (7, 3, [0, 3, 6]), (4, 1, [0, 1, 2, 3])],
)
def test_every_nth_frame_and_the_last_are_searched_everywhere(
    monkeypatch: pytest.MonkeyPatch, num_frames: int, every: int, expected: list[int]
) -> None:
    detector = FaceDetector(DetectSettings(whole_frame_every=every), "cpu")
    searched: dict[int, bool] = {}

    def search(
        batch: list[UInt8Array], _thresholds: Thresholds, near_xyxy: list[Float32Array] | None
    ) -> list[Detections]:
        searched.update({int(rgb[0, 0, 0]): near_xyxy is None for rgb in batch})
        return [box_of_the_whole(rgb) for rgb in batch]

    monkeypatch.setattr(detector, "detect_batch", search)
    search_video(detector, grey_frames(*[(50, 40)] * num_frames))
    assert [index for index, everywhere in sorted(searched.items()) if everywhere] == expected
    assert sorted(searched) == list(range(num_frames))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_face_is_followed_back_to_where_it_came_and_on_to_where_it_went(scale: float) -> None:
    """It is there in frames 1 to 4 of 7; frames 0, 3 and 6 are searched everywhere."""
    detector = FaceDetector(DetectSettings(), "cpu")
    without = np.full((300, 400, 3), 90, np.uint8)
    frames = []
    for i in range(7):
        picture = without.copy()
        if 1 <= i <= 4:
            picture[40:240, 20 + 15 * i : 220 + 15 * i] = stretched_portrait("biden", 200, 200)
        frames.append(frame(10 * i, picture))
    found = detections_in(search_video(detector, frames, Rung(scale, HIGH)))
    assert [len(detections) for detections in found] == [0, 1, 1, 1, 1, 0, 0]
    lefts = np.array([detections.boxes_xyxy[0, 0] for detections in found[1:5]])
    np.testing.assert_allclose(lefts - lefts[0], [0, 15, 30, 45], rtol=0, atol=8)


def test_when_memory_runs_out_the_batch_is_halved_until_it_fits(
    monkeypatch: pytest.MonkeyPatch, detector: FaceDetector
) -> None:
    search = Search(monkeypatch, detector)
    search.max_frames = 2
    found = search_video(detector, grey_frames(*[(50, 40)] * 7))
    assert search.batch_sizes == [7, 3, 1, 2, 4, 2, 2]
    assert [one.frame_index for one in found] == list(range(7))
    assert scores(found) == list(range(7))
    assert {one.scale for one in found} == {1.0}


def test_a_frame_that_does_not_fit_alone_is_searched_at_half_its_size(
    monkeypatch: pytest.MonkeyPatch, detector: FaceDetector
) -> None:
    search = Search(monkeypatch, detector)
    search.max_pixels = 100 * 80
    found = search_video(detector, grey_frames((400, 320), (400, 320)), Rung(0.75, HIGH))
    assert search.batches == [
        [(300, 240), (300, 240)],
        [(300, 240)], [(150, 120)], [(75, 60)],
        [(300, 240)], [(150, 120)], [(75, 60)],
    ]  # fmt: skip
    assert [one.scale for one in found] == [0.75 / 4] * 2, "the scale that was used is recorded"
    assert scores(found) == [0, 1]
    for detections in detections_in(found):
        np.testing.assert_allclose(detections.boxes_xyxy, [[0, 0, 400, 320]], rtol=1e-5)


def test_when_nothing_fits_the_error_goes_up_and_the_detector_lives_on() -> None:
    detector = FaceDetector(DetectSettings(), "cpu")
    with pytest.MonkeyPatch.context() as monkeypatch:
        search = Search(monkeypatch, detector)
        search.max_pixels = 0
        with pytest.raises(torch.OutOfMemoryError):
            search_video(detector, grey_frames((300, 128)))
        assert search.batches == [[(300, 128)], [(150, 64)], [(75, 32)]]
    found = search_video(detector, [frame(0, stretched_portrait("biden", 200, 200))])
    assert [len(one.detections) for one in found] == [1]


def test_another_error_is_no_reason_to_try_again(monkeypatch: pytest.MonkeyPatch, detector: FaceDetector) -> None:
    search = Search(monkeypatch, detector)
    search.max_frames, search.error = 0, RuntimeError("expected scalar type Float but found Half")
    with pytest.raises(RuntimeError, match="expected scalar type"):
        search_video(detector, grey_frames(*[(50, 40)] * 4))
    assert search.batch_sizes == [4]


def test_the_message_of_the_cpu_allocator_means_out_of_memory(
    monkeypatch: pytest.MonkeyPatch, detector: FaceDetector
) -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8, device="cpu")
    search = Search(monkeypatch, detector)
    search.max_frames, search.error = 2, raised.value
    assert scores(search_video(detector, grey_frames(*[(50, 40)] * 4))) == [0, 1, 2, 3]
    assert search.batch_sizes == [4, 2, 2]


def test_what_ran_out_of_memory_is_told(
    monkeypatch: pytest.MonkeyPatch, detector: FaceDetector, caplog: pytest.LogCaptureFixture
) -> None:
    Search(monkeypatch, detector).max_frames = 1
    search_video(detector, grey_frames((50, 40), (50, 40)))
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on 2 frames of (40, 50, 3); trying less"
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
def test_cuda_finds_what_the_cpu_finds() -> None:
    two = np.concatenate([stretched_portrait("hopper", 240, 200), stretched_portrait("obama_1", 240, 200)], axis=1)
    frames = [frame(0, two), frame(10, np.zeros_like(two)), frame(20, two[:, ::-1].copy())]
    on_cpu, on_cuda = (
        detections_in(search_video(FaceDetector(DetectSettings(), device), frames)) for device in ("cpu", "cuda")
    )
    assert [len(detections) for detections in on_cuda] == [2, 0, 2]
    for a, b in zip(on_cpu, on_cuda, strict=True):
        np.testing.assert_allclose(b.boxes_xyxy, a.boxes_xyxy, rtol=0, atol=1)
        np.testing.assert_allclose(b.landmarks, a.landmarks, rtol=0, atol=1)
        np.testing.assert_allclose(b.scores, a.scores, rtol=0, atol=0.01)
