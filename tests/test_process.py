"""One video, one partition: what becomes of it, whatever happens. In-process, with the real detector."""

from __future__ import annotations

import ctypes
import errno
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

import pipeline.cutter
from pipeline.config import CropSettings, DetectSettings, Settings, TrackSettings
from pipeline.crop import crop_square
from pipeline.detect import FaceDetector
from pipeline.device import DecodeDevice
from pipeline.files import StoreFiles
from pipeline.process import prepare_process, process_partition
from pipeline.runs import only_run
from pipeline.store import FaceStore
from pipeline.track import Linker
from pipeline.types import Partition, VideoOutcome, VideoRef
from pipeline.upkeep import verify_store
from pipeline.video import process_video
from pipeline.writer import PartitionWriter, StoreWriteError, create_or_resume
from tests.faces import Face, face_frames, face_video
from tests.videos import drop_packets

SETTINGS = Settings(crop=CropSettings(size=64))
RIGHT = Face("obama_1", start=(120, 20))


def ref(path: Path, **known: Any) -> VideoRef:
    return VideoRef(path.name, str(path), size_bytes=1, modified_ns=1, **known)


@dataclass
class Extracted:
    """A store and what its partition said."""

    store: FaceStore
    outcomes: list[VideoOutcome]

    @property
    def statuses(self) -> dict[str, str]:
        """As committed, not as told."""
        rows = self.store.read_table("videos", ["video_id", "status"]).to_pylist()
        return {row["video_id"]: row["status"] for row in rows}

    @property
    def ranges(self) -> list[tuple[int, int, int, int]]:
        """Face, segment, first frame, one past the last."""
        rows = self.store.tracks.to_pylist()
        return [(row["face_id"], row["segment"], row["frame_start"], row["frame_stop"]) for row in rows]


@pytest.fixture
def extract(tmp_path: Path) -> Callable[..., Extracted]:
    """Extract videos as one partition into a store of their own."""

    def run(*paths: Path, settings: Settings = SETTINGS, decode_device: DecodeDevice = "cpu") -> Extracted:
        store = str(tmp_path / "store")
        partition = Partition(0, tuple(map(ref, paths)))
        with only_run(create_or_resume(store, settings)) as work_for:
            outcomes = process_partition(partition, work_for, settings, "cpu", 1, decode_device=decode_device)
        return Extracted(FaceStore.open(store), outcomes)

    return run


@dataclass
class Faulty:
    """Does what ``function`` does, but the given calls (counted from 1) raise ``error`` instead."""

    function: Callable[..., Any]
    bad_calls: Sequence[int]
    error: Exception = field(default_factory=lambda: RuntimeError("injected"))
    num_calls: int = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.num_calls += 1
        if self.num_calls in self.bad_calls:
            raise self.error
        return self.function(*args, **kwargs)

    def as_method(self) -> Callable[..., Any]:
        """A plain function, which a class binds to its instances."""

        def method(*args: Any, **kwargs: Any) -> Any:
            return self(*args, **kwargs)

        return method


def test_a_moving_face_is_one_track_of_the_whole_video(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    face = Face()
    done = extract(face_video(tmp_path / "one.mp4", 64, [face]))

    assert done.statuses == {"one.mp4": "ok"}
    assert done.ranges == [(0, 0, 0, 64)]
    row = done.store.tracks.to_pylist()[0]
    assert (row["width"], row["height"], row["fps"]) == (160, 120, 30.0)
    np.testing.assert_allclose(row["timestamps_seconds"], np.arange(64) / 30, atol=1e-3)
    assert np.flatnonzero(row["observed"]).tolist() == [0, 10, 20, 30, 40, 50, 60, 63]
    boxes = np.array(row["boxes_xyxy"])
    corners = np.array([face.corner(index) for index in range(64)])
    on_the_portrait = (boxes[:, :2] + boxes[:, 2:]) / 2 - corners
    assert np.abs(on_the_portrait - on_the_portrait.mean(axis=0)).max() < 3, "the box moves with the face"
    assert (boxes[:, :2] > corners).all()
    assert (boxes[:, 2:] < corners + face.side).all()


def test_each_stored_frame_is_that_frame_of_the_video(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    store = extract(face_video(tmp_path / "one.mp4", 64)).store
    row = store.tracks.to_pylist()[0]
    squares = np.array(row["crop_xyxy"], np.float32)
    drawn = list(face_frames(64))
    for index, stored in enumerate(store.frames(0)):
        around = range(max(0, index - 2), min(64, index + 3))
        shown = {i: crop_square(drawn[i], squares[index], 64).astype(int) for i in around}
        difference = {i: float(np.abs(picture - stored).mean()) for i, picture in shown.items()}
        assert min(difference, key=lambda i: difference[i]) == index
        assert difference[index] < 6, "lossy coding, not another place"


def test_two_people_are_two_faces_and_their_crops_dont_meet(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    slow = (0.2, 0.1)
    faces = [Face(speed=slow), Face(RIGHT.portrait, start=RIGHT.start, speed=slow)]
    done = extract(face_video(tmp_path / "two.mp4", 64, faces, width=240))

    assert sorted(done.ranges) == [(0, 0, 0, 64), (1, 0, 0, 64)]
    assert done.outcomes[0].num_tracks == 2
    first, second = sorted(row["crop_xyxy"][0] for row in done.store.tracks.to_pylist())
    assert first[2] < second[0]
    rows = sorted((row["row_start"], row["row_stop"]) for row in done.store.tracks.to_pylist())
    assert rows == [(0, 64), (64, 128)]


def test_only_so_many_frames_are_looked_at_and_the_rest_is_no_remark(
    tmp_path: Path, extract: Callable[..., Extracted]
) -> None:
    video = face_video(tmp_path / "one.mp4", 64)
    done = extract(video, settings=SETTINGS.model_copy(update={"detect": DetectSettings(max_frames=36)}))

    assert done.ranges == [(0, 0, 0, 36)]
    row = done.store.tracks.to_pylist()[0]
    assert np.flatnonzero(row["observed"]).tolist() == [0, 10, 20, 30, 35], "the last of them is searched"
    outcome = done.outcomes[0]
    assert (outcome.num_frames_from_header, outcome.num_frames_decoded, outcome.message) == (64, 36, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_video_that_no_gpu_decoded_says_so_and_has_its_faces(
    tmp_path: Path, extract: Callable[..., Extracted]
) -> None:
    done = extract(face_video(tmp_path / "one.mp4", 64), decode_device="cuda")
    assert done.ranges == [(0, 0, 0, 64)]
    assert (done.outcomes[0].message or "").startswith("decoded without a GPU: the GPU can't decode it (")


def test_frames_that_fail_among_the_first_ones_are_told(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    whole = face_video(tmp_path / "whole.mkv", 84, [Face(speed=(0.3, 0.2))])
    lost = drop_packets(whole, tmp_path / "lost.mkv", [44, 45, 70])
    done = extract(lost, settings=SETTINGS.model_copy(update={"detect": DetectSettings(max_frames=60)}))

    outcome = done.outcomes[0]
    assert (outcome.num_frames_decoded, outcome.num_frames_failed) == (58, 2)
    assert outcome.message == "decoded 58 of the first 60 frames; 2 frames failed to decode, first 44, 45"
    assert done.ranges == [(0, 0, 0, 44)]


def test_a_video_without_a_face_is_no_face_after_the_whole_ladder(
    tmp_path: Path, extract: Callable[..., Extracted], monkeypatch: pytest.MonkeyPatch
) -> None:
    search = Faulty(FaceDetector.search, bad_calls=())
    monkeypatch.setattr(FaceDetector, "search", search.as_method())
    done = extract(face_video(tmp_path / "empty.mp4", 64, []))

    assert done.statuses == {"empty.mp4": "no_face"}
    assert search.num_calls == 3
    assert done.outcomes[0].num_frames_decoded == 64
    assert done.store.files.names("arrays") == []


def test_a_face_seen_too_briefly_is_too_short_not_no_face(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    done = extract(face_video(tmp_path / "brief.mp4", 64, shown=lambda index: index < 15))

    assert done.statuses == {"brief.mp4": "too_short"}
    assert (done.outcomes[0].num_tracks, done.outcomes[0].num_tracks_too_short) == (0, 1)


def test_a_file_that_is_no_video_is_decode_error_with_its_reason(
    tmp_path: Path, extract: Callable[..., Extracted]
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    row = extract(text).store.videos.to_pylist()[0]

    assert (row["status"], row["error_type"]) == ("decode_error", "VideoDecodeError")
    assert str(text) in row["message"]
    assert (row["num_tracks"], row["num_frames_decoded"], row["detect_scale"]) == (0, 0, None)


@pytest.mark.parametrize(("start", "stop"), [(45, 50), (45, 46)])
def test_lost_frames_split_the_track_and_are_never_made_up(
    tmp_path: Path, extract: Callable[..., Extracted], start: int, stop: int
) -> None:
    whole = face_video(tmp_path / "whole.mkv", 100, [Face(speed=(0.3, 0.1))])
    done = extract(drop_packets(whole, tmp_path / "hole.mkv", range(start, stop)))

    assert done.ranges == [(0, 0, 0, start), (0, 1, stop, 100)]
    assert done.outcomes[0].num_frames_failed == stop - start
    assert f"{stop - start} frames failed to decode, first {start}" in str(done.outcomes[0].message)
    for row in done.store.tracks.to_pylist():
        assert row["row_stop"] - row["row_start"] == row["frame_stop"] - row["frame_start"]
        expected = np.arange(row["frame_start"], row["frame_stop"]) / 30
        np.testing.assert_allclose(row["timestamps_seconds"], expected, atol=1e-3)
    after = done.store.frames(1, 0, 1)[0].astype(int)
    square = np.array(done.store.tracks.to_pylist()[1]["crop_xyxy"][0], np.float32)
    drawn = list(face_frames(100, [Face(speed=(0.3, 0.1))]))
    assert np.abs(crop_square(drawn[stop], square, 64).astype(int) - after).mean() < 6


def test_a_rest_beside_a_gap_that_is_no_clip_is_counted(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    whole = face_video(tmp_path / "whole.mkv", 64)
    done = extract(drop_packets(whole, tmp_path / "hole.mkv", [15]))

    assert done.ranges == [(0, 0, 16, 64)]
    assert (done.outcomes[0].status, done.outcomes[0].num_tracks_too_short) == ("ok", 1)


def test_a_long_track_is_cut_into_segments_that_tile_it(tmp_path: Path, extract: Callable[..., Extracted]) -> None:
    short_segments = Settings(crop=CropSettings(size=64), track=TrackSettings(segment_frames=40))
    done = extract(face_video(tmp_path / "long.mp4", 100, [Face(speed=(0.3, 0.1))]), settings=short_segments)

    assert done.ranges == [(0, 0, 0, 40), (0, 1, 40, 70), (0, 2, 70, 100)]
    assert [row["track_id"] for row in done.store.tracks.to_pylist()] == [0, 1, 2]
    assert list(verify_store(done.store)) == []


def test_a_face_too_small_at_first_is_found_larger_and_the_scale_is_recorded(
    tmp_path: Path, extract: Callable[..., Extracted]
) -> None:
    still = (0.0, 0.0)
    paths = [face_video(tmp_path / f"{side}.mp4", 64, [Face(side=side, speed=still)]) for side in (26, 80)]
    small, large = extract(*paths).outcomes

    assert (small.status, small.detect_scale, small.thresholds) == ("ok", 2.0, SETTINGS.detect.thresholds)
    assert (large.status, large.detect_scale) == ("ok", 1.0)


FRAMES_OF_ONE = 64
"""Each of the three videos below costs so many crops, and two searches: of its whole frames and of those between."""


@pytest.mark.parametrize(
    ("owner", "name", "bad_call"),
    [
        (FaceDetector, "detect_batch", 3),
        (Linker, "tracks", 2),
        (pipeline.cutter, "crop_square", FRAMES_OF_ONE + 7),
        (pipeline.cutter, "sharpness", 2),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unexpected_error_costs_its_video_and_no_other(
    tmp_path: Path,
    extract: Callable[..., Extracted],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    bad_call: int,
) -> None:
    faulty = Faulty(getattr(owner, name), [bad_call])
    monkeypatch.setattr(owner, name, faulty.as_method())
    done = extract(*(face_video(tmp_path / f"{letter}.mp4") for letter in "abc"))

    assert done.statuses == {"a.mp4": "ok", "b.mp4": "failed", "c.mp4": "ok"}
    assert (done.outcomes[1].error_type, done.outcomes[1].message) == ("RuntimeError", "injected")
    assert {row["video_id"] for row in done.store.tracks.to_pylist()} == {"a.mp4", "c.mp4"}
    assert list(verify_store(done.store)) == []
    calls_of_one = {"crop_square": FRAMES_OF_ONE, "detect_batch": 2}.get(name, 1)
    assert faulty.num_calls == bad_call + calls_of_one, "the failed video isn't tried again"


def test_a_store_that_cant_take_frames_stops_the_partition_and_blames_no_video(
    tmp_path: Path, extract: Callable[..., Extracted], monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = Faulty(PartitionWriter.append, [1], StoreWriteError("can't write: disk full"))
    monkeypatch.setattr(PartitionWriter, "append", faulty.as_method())
    with pytest.raises(StoreWriteError, match="disk full"):
        extract(*(face_video(tmp_path / f"{letter}.mp4") for letter in "ab"))

    assert faulty.num_calls == 1
    store = FaceStore.open(str(tmp_path / "store"))
    assert store.partition_names == []


@pytest.mark.parametrize("folder", ["tracks", "videos"])
def test_a_commit_that_fails_leaves_no_rows_and_no_frames(
    tmp_path: Path, extract: Callable[..., Extracted], monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    create = StoreFiles.create
    attempts: list[str] = []

    def full(files: StoreFiles, name: str, data: bytes) -> bool:
        attempts.append(name)
        if name.startswith(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(files, name, data)

    monkeypatch.setattr(StoreFiles, "create", full)
    with pytest.raises(StoreWriteError, match="No space left"):
        extract(face_video(tmp_path / "one.mp4"))

    assert attempts[-1] == f"{folder}/part-00000.parquet"
    store = FaceStore.open(str(tmp_path / "store"))
    assert store.partition_names == []
    assert store.videos.num_rows == store.tracks.num_rows == 0
    assert store.files.names("arrays") == []


def test_an_interrupt_right_after_the_commit_takes_nothing_away(
    tmp_path: Path, extract: Callable[..., Extracted], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = StoreFiles.create

    def create_then_interrupt(files: StoreFiles, name: str, data: bytes) -> bool:
        created = create(files, name, data)
        if name.startswith("videos"):
            raise KeyboardInterrupt
        return created

    monkeypatch.setattr(StoreFiles, "create", create_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(face_video(tmp_path / "one.mp4"))

    store = FaceStore.open(str(tmp_path / "store"))
    assert store.partition_names == ["part-00000"]
    assert list(verify_store(store)) == []


def test_a_committed_partition_is_left_alone(
    tmp_path: Path, extract: Callable[..., Extracted], monkeypatch: pytest.MonkeyPatch
) -> None:
    video = face_video(tmp_path / "one.mp4")
    first = extract(video)
    processed = Faulty(process_video, [1])
    monkeypatch.setattr("pipeline.process.process_video", processed)
    again = extract(video)

    assert again.outcomes == []
    assert processed.num_calls == 0
    assert again.store.digest() == first.store.digest()
    assert len(again.store.files.names("arrays")) == 1


def test_what_is_known_of_a_video_reaches_both_tables(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    video = ref(face_video(tmp_path / "one.mp4"), label=1, source_id="original.mp4", group_id="g7")
    with only_run(create_or_resume(store, SETTINGS)) as run:
        process_partition(Partition(3, (video,)), run, SETTINGS, "cpu", 1)

    opened = FaceStore.open(store)
    assert opened.partition_names == ["part-00003"]
    for table in (opened.videos, opened.tracks):
        row = table.to_pylist()[0]
        assert (row["label"], row["source_id"], row["group_id"]) == (1, "original.mp4", "g7")


def test_preparing_a_process_twice_is_harmless_and_leaves_one_thread_a_library() -> None:
    prepare_process()
    prepare_process()
    assert torch.get_num_threads() == 1
    blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
    assert blas
    assert set(blas) == {1}
    assert np.ones((64 << 20,), np.uint8).sum() == 64 << 20


def test_preparing_a_process_touches_malloc_only_where_it_is_glibcs(monkeypatch: pytest.MonkeyPatch) -> None:
    load = ctypes.CDLL

    def no_libc(name: str | None, *args: Any, **kwargs: Any) -> ctypes.CDLL:
        assert name is not None, "this C library has no mallopt"
        return load(name, *args, **kwargs)

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(ctypes, "CDLL", no_libc)
    prepare_process()
