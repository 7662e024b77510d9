"""A video is decoded once where memory allows, and comes out the same to the bit where it doesn't.

An arena without room for anything is what extraction was before: searched, then decoded again and cut. All others are
compared with that one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

import pipeline.cutter
import pipeline.patches
import pipeline.single_pass
from pipeline.arena import Arena
from pipeline.config import CropSettings, DetectSettings, Settings, TrackSettings
from pipeline.crop import crop_square
from pipeline.decode import VideoReader
from pipeline.detect import Rung, SearchedFrame
from pipeline.frame import Frame
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.single_pass import SinglePass
from pipeline.store import FaceStore
from pipeline.types import Detections, Partition, UInt8Array, VideoOutcome, VideoRef
from pipeline.upkeep import verify_store
from pipeline.writer import PartitionWriter, create_or_resume
from tests.faces import Face, face_video
from tests.videos import drop_packets, write_video

WIDTH, HEIGHT, NUM_FRAMES = 160, 120, 95
FRAME_BYTES = 3 * WIDTH * HEIGHT
ROOMY = 300 * FRAME_BYTES
SETTINGS = Settings(
    detect=DetectSettings(every_n_frames=5),
    track=TrackSettings(min_frames=10, segment_frames=30, max_gap_frames=10),
    crop=CropSettings(size=32),
)


def with_crop(mode: Literal["union", "follow"]) -> Settings:
    return SETTINGS.model_copy(update={"crop": CropSettings(size=32, mode=mode)})


@dataclass(frozen=True)
class Acted:
    """A face whose place is told to the tracker, whatever the picture shows."""

    start: tuple[float, float] = (50, 40)
    speed: tuple[float, float] = (0.25, 0.1)
    side: float = 30
    frames: range = range(10**6)
    score: float = 0.9
    doubtful_from: int = 10**6
    """From this frame on its score is next to nothing."""
    turns: bool = True
    """Around, at the frame's edges."""

    def score_at(self, index: int) -> float:
        return self.score if index < self.doubtful_from else 0.1

    def box_at(self, index: int) -> list[float]:
        place = np.array(self.start) + np.array(self.speed) * index
        if self.turns:
            room = np.array([WIDTH, HEIGHT]) - self.side
            place = room - np.abs(place % (2 * room) - room)
        return [*place.tolist(), *(place + self.side).tolist()]


@dataclass
class ActedDetector:
    """Finds what was agreed upon, in batches as the real one does."""

    faces: Sequence[Acted]
    faces_of_rungs: Sequence[Sequence[Acted]] = ()
    """Where searches find different things: of each one."""
    num_threads: int = 1
    decode_device: str = "cpu"
    batch: int = 6
    num_searches: int = 0

    def search(self, frames: Iterable[Frame], rung: Rung) -> Iterator[list[SearchedFrame]]:
        faces = self.faces_of_rungs[self.num_searches] if self.faces_of_rungs else self.faces
        self.num_searches += 1
        found: list[SearchedFrame] = []
        for frame in frames:
            found.append(SearchedFrame(frame.index, self._seen(faces, frame.index), rung.scale, 0.0))
            if len(found) == self.batch:
                yield found
                found = []
        if found:
            yield found

    def _seen(self, faces: Sequence[Acted], index: int) -> Detections:
        here = sorted((face for face in faces if index in face.frames), key=lambda face: -face.score_at(index))
        boxes = np.array([face.box_at(index) for face in here], np.float32).reshape(-1, 4)
        scores = np.array([face.score_at(index) for face in here], np.float32)
        return Detections(boxes, scores, np.repeat(boxes[:, None, :2], 5, axis=1))


def noise_video(path: Path, num_frames: int) -> Path:
    """Blobs that differ from frame to frame; each frame is coded on its own, and there are no scene cuts in it."""
    rng = np.random.default_rng(num_frames)
    layout = rng.integers(60, 180, (6, 8, 3))
    pictures = (
        np.clip(layout + rng.integers(-20, 20, layout.shape), 0, 255).astype(np.uint8) for _ in range(num_frames)
    )
    rgb: Iterator[UInt8Array] = (cv2.resize(one, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for one in pictures)
    return write_video(path, rgb, options={"g": "1", "crf": "12"})


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three segments and a rest that is too short for a clip."""
    return noise_video(tmp_path_factory.mktemp("noise") / "noise.mkv", NUM_FRAMES)


@dataclass
class Done:
    """A store, how it came about, and what the arena looked like meanwhile."""

    store: FaceStore
    outcomes: list[VideoOutcome]
    arena: Arena
    openings: list[str]
    free_at_begin: list[int]
    """Bytes of the arena that were free when a search began, of each one."""
    num_appended: int
    """Frames that were handed to the writer."""

    @property
    def digest(self) -> str:
        return self.store.digest()

    @property
    def ranges(self) -> list[tuple[int, int, int, int]]:
        """Face, segment, first frame, one past the last."""
        rows = self.store.tracks.to_pylist()
        return sorted((row["face_id"], row["segment"], row["frame_start"], row["frame_stop"]) for row in rows)


@dataclass
class Extract:
    """Extracts videos with so much memory for patches, each time into a store of its own."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    num_stores: int = field(default=0)

    def __call__(
        self,
        *paths: Path,
        num_bytes: int,
        detector: ActedDetector | None = None,
        settings: Settings = SETTINGS,
        num_threads: int = 1,
    ) -> Done:
        self.num_stores += 1
        store = str(self.folder / f"store_{self.num_stores}")
        arena, openings, free_at_begin, appended = Arena(num_bytes), list[str](), list[int](), list[int]()

        def shared_arena() -> Arena:
            free_at_begin.append(arena.num_free_bytes)
            return arena

        def opened(path: str, *how: Any) -> VideoReader:
            openings.append(path)
            return VideoReader(path, *how)

        append = PartitionWriter.append

        def counted(writer: PartitionWriter, frames: UInt8Array, masks: UInt8Array | None = None) -> int:
            appended.append(len(frames))
            return append(writer, frames, masks)

        with self.monkeypatch.context() as patch:
            patch.setattr("pipeline.single_pass.shared_arena", shared_arena)
            patch.setattr("pipeline.search.VideoReader", opened)
            patch.setattr("pipeline.video.VideoReader", opened)
            patch.setattr(PartitionWriter, "append", counted)
            if detector is not None:
                acted = replace(detector, num_threads=num_threads)
                patch.setattr("pipeline.process.shared_detector", lambda *_: acted)
            refs = tuple(VideoRef(path.name, str(path), size_bytes=1, modified_ns=1) for path in paths)
            with only_run(create_or_resume(store, settings)) as run:
                outcomes = process_partition(Partition(0, refs), run, settings, "cpu", num_threads)
        done = Done(FaceStore.open(store), outcomes, arena, openings, free_at_begin, sum(appended))
        assert arena.num_free_bytes == num_bytes, "nothing is left in the arena"
        return done


@pytest.fixture
def extract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Extract:
    return Extract(tmp_path, monkeypatch)


def test_a_talking_head_is_decoded_once(tmp_path: Path, extract: Extract) -> None:
    """With the real detector, and the arena there is."""
    video = face_video(tmp_path / "one.mp4", 100, [Face(speed=(0.3, 0.1))])
    settings = SETTINGS.model_copy(update={"detect": DetectSettings()})
    once = extract(video, num_bytes=pipeline.single_pass.ARENA_BYTES, settings=settings)
    twice = extract(video, num_bytes=0, settings=settings)

    assert once.openings == [str(video)]
    assert once.ranges == [(0, 0, 0, 30), (0, 1, 30, 60), (0, 2, 60, 90), (0, 3, 90, 100)]
    assert once.num_appended == 100
    assert len(twice.openings) == 2
    assert twice.digest == once.digest


STAYS = Acted()
CASTS: Mapping[str, Sequence[Acted]] = {
    "one that stays": [STAYS],
    "one that comes in the middle": [Acted(frames=range(43, 10**6))],
    "one that leaves": [Acted(frames=range(57))],
    "one that leaves for another to come": [Acted(frames=range(48)), Acted(start=(10, 60), frames=range(50, 10**6))],
    "one that moves fast": [Acted(speed=(2.5, 1.5), side=40)],
    "one that leaves the picture": [Acted(start=(100, 70), speed=(0.4, 0.3), side=40, turns=False)],
    "two": [STAYS, Acted(start=(100, 20), speed=(0.1, -0.1), score=0.8)],
    "nobody": [],
}


@pytest.mark.parametrize("mode", ["union", "follow"])
@pytest.mark.parametrize("cast", CASTS)
def test_however_little_is_kept_what_comes_out_is_the_same(
    noise: Path, extract: Extract, cast: str, mode: Literal["union", "follow"]
) -> None:
    settings, detector = with_crop(mode), ActedDetector(CASTS[cast])
    reference = extract(noise, num_bytes=0, detector=detector, settings=settings)
    decoded_again = []
    for num_bytes, num_threads in ((FRAME_BYTES // 4, 1), (6 * FRAME_BYTES, 2), (ROOMY, 1)):
        done = extract(noise, num_bytes=num_bytes, detector=detector, settings=settings, num_threads=num_threads)
        assert done.digest == reference.digest
        assert done.ranges == reference.ranges
        decoded_again.append(len(done.openings) > len(done.outcomes))
    if CASTS[cast]:
        assert reference.outcomes[0].status == "ok"
        assert len(reference.openings) == 2
        assert decoded_again[0], "hardly anything was kept"
        assert not decoded_again[-1], "all was kept"


def test_a_cast_has_all_its_segments(noise: Path, extract: Extract) -> None:
    """Lest the others agree upon nothing."""
    done = extract(noise, num_bytes=ROOMY, detector=ActedDetector(CASTS["two"]))
    of_one = [(0, 30), (30, 60), (60, 77), (77, 95)]
    assert done.ranges == [(face, i, *frames) for face in (0, 1) for i, frames in enumerate(of_one)]
    assert list(verify_store(done.store)) == []


@pytest.mark.parametrize("settings", [with_crop("union"), with_crop("follow")], ids=["union", "follow"])
@pytest.mark.parametrize("num_bytes", [0, ROOMY])
def test_of_a_limited_number_of_frames_the_rest_is_as_if_it_were_not_there(
    tmp_path: Path, noise: Path, extract: Extract, settings: Settings, num_bytes: int
) -> None:
    detector = ActedDetector(CASTS["two"])
    detect = settings.detect.model_copy(update={"max_frames": 73})
    limited = settings.model_copy(update={"detect": detect})
    done = extract(noise, num_bytes=num_bytes, detector=detector, settings=limited)
    assert done.ranges == [
        (face, i, *frames) for face in (0, 1) for i, frames in enumerate([(0, 30), (30, 60), (60, 73)])
    ]
    row = done.store.videos.to_pylist()[0]
    assert (row["num_frames_decoded"], row["num_frames_failed"], row["message"]) == (73, 0, None)

    with VideoReader(str(noise)) as reader:
        short = write_video(
            tmp_path / "short.mkv", (frame.rgb for frame in reader.frames(lambda index: index < 73)), codec="ffv1",
            pix_fmt="bgr0",
        )  # fmt: skip
    whole = extract(short, num_bytes=num_bytes, detector=ActedDetector(CASTS["two"]), settings=settings)
    for ours, theirs in zip(done.store.tracks.to_pylist(), whole.store.tracks.to_pylist(), strict=True):
        assert ours["checksum"] == theirs["checksum"]
        assert ours["boxes_xyxy"] == theirs["boxes_xyxy"]


def test_a_square_may_be_cut_closer_than_the_boxes_whatever_is_kept(noise: Path, extract: Extract) -> None:
    settings = SETTINGS.model_copy(update={"crop": CropSettings(size=32, margin=-0.3)})
    digests = {
        extract(noise, num_bytes=num_bytes, detector=ActedDetector(CASTS["two"]), settings=settings).digest
        for num_bytes in (0, 6 * FRAME_BYTES, ROOMY)
    }
    assert len(digests) == 1


@pytest.mark.parametrize("num_frames_kept", [0, 4, 40])
def test_each_stored_frame_is_cut_out_of_that_frame(noise: Path, extract: Extract, num_frames_kept: int) -> None:
    done = extract(noise, num_bytes=num_frames_kept * FRAME_BYTES, detector=ActedDetector(CASTS["two"]))
    with VideoReader(str(noise)) as reader:
        shown = [frame.rgb for frame in reader.frames()]
    for row in done.store.tracks.to_pylist():
        squares = np.array(row["crop_xyxy"], np.float32)
        frames = done.store.frames(row["track_id"])
        for stored, square, index in zip(frames, squares, range(row["frame_start"], row["frame_stop"]), strict=True):
            np.testing.assert_array_equal(stored, crop_square(shown[index], square, 32))


@pytest.mark.parametrize("seed", range(6))
def test_any_cast_in_any_damaged_video_comes_out_the_same(
    tmp_path: Path, noise: Path, extract: Extract, seed: int
) -> None:
    """Faces that come, go, jump and cross, batches and settings of all sizes, frames that are missing."""
    rng = np.random.default_rng(seed)
    holes = np.flatnonzero(rng.random(NUM_FRAMES - 1) < 0.02 * seed) + 1
    video = drop_packets(noise, tmp_path / "holes.mkv", holes.tolist())
    cast = [
        Acted(
            start=(rng.uniform(0, 100), rng.uniform(0, 100)),
            speed=(rng.normal(0, 1.2), rng.normal(0, 1.2)),
            side=rng.uniform(15, 60),
            frames=range(int(rng.integers(0, 60)), int(rng.integers(60, 140))),
            score=rng.uniform(0.5, 1),
            turns=bool(rng.random() < 0.7),
        )
        for _ in range(rng.integers(1, 5))
    ]
    track = TrackSettings(
        min_frames=int(rng.integers(1, 15)), segment_frames=int(rng.integers(5, 50)), max_gap_frames=10
    )
    settings = with_crop("union" if seed % 2 else "follow").model_copy(update={"track": track})
    detector = ActedDetector(cast, batch=int(rng.integers(1, 12)))
    reference = extract(video, num_bytes=0, detector=detector, settings=settings)
    assert reference.outcomes[0].status == "ok"
    for num_kept in (1.3, float(rng.uniform(2, 40)), 300):
        done = extract(video, num_bytes=int(num_kept * FRAME_BYTES), detector=detector, settings=settings)
        assert done.digest == reference.digest


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        (range(40, 45), [(0, 30), (30, 40), (45, 60), (60, 77), (77, 95)]),
        ([40], [(0, 30), (30, 40), (41, 60), (60, 77), (77, 95)]),
        ([35, 50], [(0, 30), (36, 50), (60, 77), (77, 95)]),
        (range(28, 63), [(0, 28), (63, 77), (77, 95)]),
    ],
    ids=["five", "one", "two that leave pieces too short", "a whole segment and more"],
)
def test_frames_that_fail_leave_the_same_gaps(
    tmp_path: Path,
    noise: Path,
    extract: Extract,
    lost: Iterable[int],
    expected: list[tuple[int, int]],
    num_threads: int,
) -> None:
    lost = list(lost)
    settings = SETTINGS.model_copy(update={"track": SETTINGS.track.model_copy(update={"max_gap_frames": 40})})
    video, detector = drop_packets(noise, tmp_path / "holes.mkv", lost), ActedDetector([STAYS])
    once, some, twice = (
        extract(video, num_bytes=num_bytes, detector=detector, settings=settings, num_threads=num_threads)
        for num_bytes in (ROOMY, 6 * FRAME_BYTES, 0)
    )
    assert [(start, stop) for *_, start, stop in once.ranges] == expected
    assert once.digest == some.digest == twice.digest
    assert len(once.openings) == 1, "a frame that failed isn't asked for again"
    assert len(some.openings) == len(twice.openings) == 2
    for done in (once, some, twice):
        assert (done.outcomes[0].num_frames_decoded, done.outcomes[0].num_frames_failed) == (
            NUM_FRAMES - len(lost),
            len(lost),
        )
        assert done.outcomes[0].num_tracks_too_short == once.outcomes[0].num_tracks_too_short


@dataclass
class Fails:
    """Does what ``function`` does until the given call (counted from 1), which raises; and after it."""

    function: Callable[..., Any]
    bad_call: int
    num_calls: int = 0

    def as_function(self) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += 1
            if self.num_calls == self.bad_call:
                raise RuntimeError("injected")
            return self.function(*args, **kwargs)

        return function


@pytest.mark.parametrize("num_frames_kept", [300, 6, 2.5])
@pytest.mark.parametrize(
    ("owner", "name", "bad_call"),
    [
        (pipeline.cutter, "crop_square", NUM_FRAMES + 70),
        (pipeline.cutter, "frames_checksum", 4 + 2),
        (ActedDetector, "_seen", 20 + 13),
        (SinglePass, "finish", 2),
        (SinglePass, "searched", 6),
    ],
    ids=["cutting", "storing", "searching", "at the end of the search", "amid the search"],
)
def test_an_error_amid_a_video_leaves_all_memory_to_the_next(
    noise: Path,
    extract: Extract,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    bad_call: int,
    num_frames_kept: float,
) -> None:
    copies = [noise.with_name(f"{letter}.mkv") for letter in "abc"]
    for copy in copies:
        copy.write_bytes(noise.read_bytes())
    num_bytes, detector = int(num_frames_kept * FRAME_BYTES), ActedDetector([STAYS])
    without = extract(copies[0], copies[2], num_bytes=num_bytes, detector=detector)
    fails = Fails(getattr(owner, name), bad_call)
    monkeypatch.setattr(owner, name, fails.as_function())
    done = extract(*copies, num_bytes=num_bytes, detector=detector, num_threads=2)

    assert [outcome.status for outcome in done.outcomes] == ["ok", "failed", "ok"]
    assert fails.num_calls > bad_call
    assert done.free_at_begin == [num_bytes] * 3
    rows = [row for row in done.store.tracks.to_pylist() if row["video_id"] != "b.mkv"]
    assert [row["checksum"] for row in rows] == [row["checksum"] for row in without.store.tracks.to_pylist()]
    assert len(rows) == done.store.tracks.num_rows
    assert list(verify_store(done.store)) == []


CROWD = SETTINGS.model_copy(update={"track": SETTINGS.track.model_copy(update={"max_faces": 1})})
SURE_AT_FIRST = Acted(start=(10, 20), score=0.99, doubtful_from=50)
SURE_ALL_ALONG = Acted(start=(100, 60), speed=(-0.2, 0.1), score=0.8)


@pytest.mark.parametrize("num_frames_kept", [300, 6])
def test_a_face_that_turns_out_to_be_one_too_many_is_not_in_the_result_though_it_was_cut(
    noise: Path, extract: Extract, num_frames_kept: int
) -> None:
    detector = ActedDetector([SURE_AT_FIRST, SURE_ALL_ALONG], batch=3)
    done = extract(noise, num_bytes=num_frames_kept * FRAME_BYTES, detector=detector, settings=CROWD)
    reference = extract(noise, num_bytes=0, detector=detector, settings=CROWD)
    alone = extract(noise, num_bytes=0, detector=ActedDetector([SURE_ALL_ALONG]), settings=CROWD)

    assert done.digest == reference.digest
    assert [row["checksum"] for row in done.store.tracks.to_pylist()] == [
        row["checksum"] for row in alone.store.tracks.to_pylist()
    ]
    assert (done.outcomes[0].num_tracks, done.outcomes[0].num_tracks_over_max_faces) == (4, 1)
    assert done.num_appended == NUM_FRAMES + (30 if num_frames_kept == 300 else 0)
    assert reference.num_appended == NUM_FRAMES
    assert list(verify_store(done.store)) == []


def test_pieces_of_a_face_that_is_one_too_many_are_not_counted_as_too_short(
    tmp_path: Path, noise: Path, extract: Extract
) -> None:
    video = drop_packets(noise, tmp_path / "holes.mkv", [7])
    late = replace(SURE_ALL_ALONG, frames=range(20, 10**6))
    detector = ActedDetector([SURE_AT_FIRST, late], batch=3)
    done, reference = (extract(video, num_bytes=n, detector=detector, settings=CROWD) for n in (ROOMY, 0))
    assert reference.outcomes[0].num_tracks_too_short == 0
    assert done.outcomes[0].num_tracks_too_short == 0
    assert done.digest == reference.digest


@pytest.mark.parametrize(
    "seen_at_first",
    [[], [Acted(frames=range(20, 27)), Acted(start=(10, 10), frames=range(89, 95))]],
    ids=["nothing", "faces too briefly"],
)
@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_search_that_finds_nothing_leaves_nothing_behind(
    noise: Path, extract: Extract, seen_at_first: Sequence[Acted], num_threads: int
) -> None:
    larger = ActedDetector([], faces_of_rungs=[seen_at_first, [STAYS]])
    done, some, reference = (
        extract(noise, num_bytes=num_bytes, detector=larger, num_threads=num_threads)
        for num_bytes in (ROOMY, 6 * FRAME_BYTES, 0)
    )
    at_once = extract(noise, num_bytes=ROOMY, detector=ActedDetector([STAYS]))

    assert done.digest == some.digest == reference.digest
    assert done.outcomes[0].detect_scale == 2.0
    assert done.ranges == at_once.ranges
    assert [row["checksum"] for row in done.store.tracks.to_pylist()] == [
        row["checksum"] for row in at_once.store.tracks.to_pylist()
    ]
    assert (len(done.openings), len(reference.openings)) == (2, 3)
    assert done.free_at_begin == [ROOMY] * 2
    assert some.free_at_begin == [6 * FRAME_BYTES] * 2
    assert done.num_appended == NUM_FRAMES


def test_a_video_in_which_nothing_is_found_at_last_leaves_nothing_behind(noise: Path, extract: Extract) -> None:
    brief = Acted(frames=range(20, 27))
    done = extract(noise, num_bytes=ROOMY, detector=ActedDetector([brief]))
    assert done.outcomes[0].status == "too_short"
    assert done.free_at_begin == [ROOMY] * 3
    assert done.num_appended == 0


def test_one_arena_serves_all_videos_of_a_process() -> None:
    assert pipeline.single_pass.shared_arena() is pipeline.single_pass.shared_arena()
    assert pipeline.single_pass.shared_arena().num_bytes == pipeline.single_pass.ARENA_BYTES
