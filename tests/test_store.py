"""The face-clip store: what goes in comes out, a commit is all or nothing, and damage is never taken for pixels."""

from __future__ import annotations

import errno
import json
import logging
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import CropSettings, Settings, StoreSettings
from pipeline.files import StoreFiles
from pipeline.schema import (
    CIRCUMSTANCE_COLUMNS,
    PLACEMENT_COLUMNS,
    TRACKS_SCHEMA,
    VIDEOS_SCHEMA,
    StoredTrack,
    face_label,
)
from pipeline.store import FaceStore, StoreFormatError
from pipeline.types import UInt8Array, VideoOutcome, VideoRef
from pipeline.upkeep import find_orphans, remove_orphans, verify_store
from pipeline.writer import (
    PartitionWriter,
    StoreMismatchError,
    StoreWriteError,
    check_settings,
    create_or_resume,
    frames_checksum,
)
from tests.stores import (
    CHUNK,
    SETTINGS,
    SHARD,
    SIZE,
    Video,
    append,
    change_table,
    make_clip,
    make_video,
    set_value,
    shard_files,
    small_store,
    write_partition,
    write_store,
)

PROJECT = Path(__file__).resolve().parents[1]


# Round trip


def compared(video: Video) -> Video:
    """The same, as a fake that has been compared with its original."""
    clips = []
    for number, (stored, frames) in enumerate(video.clips):
        paired = replace(
            stored, pair_id=f"original.mp4#{number}.0", change_score=0.25 + number,
            face_label=face_label(stored.label, 0.25 + number, SETTINGS.pair.min_change),
            change_scores=np.random.default_rng(number).random(len(frames), np.float32),
        )  # fmt: skip
        clips.append((paired, frames))
    outcome = replace(video.outcome, tracks_from="original", pairing_note="for a person")
    return Video(outcome, tuple(clips))


lengths = st.lists(st.integers(1, 20), max_size=3)
video_strategy = st.builds(
    make_video,
    st.uuids().map(lambda uuid: f"{uuid}.mp4"),
    lengths,
    st.integers(0, 2**32),
    st.sampled_from([0, 1, None]),
    st.sampled_from([None, "ä ö/original.mp4"]),
)
videos_strategy = st.lists(
    video_strategy | video_strategy.map(compared),
    max_size=4,
    unique_by=lambda video: video.outcome.ref.video_id,
)
store_strategy = st.sampled_from(
    [
        StoreSettings(codec=codec, differences=differences, chunk_frames=chunk, shard_frames=shard)
        for codec in ("none", "lz4", "zstd")
        for differences in (False, True)
        for chunk, shard in ((1, 1), (2, 8), (3, 3), (4, 8))
    ]
)


def expected_track_row(stored: StoredTrack, array: str, row_start: int) -> dict[str, Any]:
    track, length = stored.track, len(stored.track)
    sides = np.sqrt(
        (track.boxes_xyxy[:, 2] - track.boxes_xyxy[:, 0]) * (track.boxes_xyxy[:, 3] - track.boxes_xyxy[:, 1])
    )
    return {
        "video_id": stored.video_id, "track_id": stored.track_id, "array": array, "row_start": row_start,
        "row_stop": row_start + length, "frame_start": track.frame_start, "frame_stop": track.frame_start + length,
        "frame_step": 1, "fps": stored.fps, "label": stored.label, "source_id": stored.source_id,
        "group_id": stored.group_id, "width": stored.width, "height": stored.height,
        "boxes_xyxy": track.boxes_xyxy.tolist(), "landmarks": track.landmarks.tolist(),
        "crop_xyxy": stored.crop_xyxy.tolist(), "scores": track.scores.tolist(), "observed": track.observed.tolist(),
        "mean_score": pytest.approx(float(track.scores.mean()), rel=1e-6),
        "observed_fraction": pytest.approx(sum(track.observed.tolist()) / length, rel=1e-6),
        "mean_face_size": pytest.approx(float(sides.mean()), rel=1e-5),
        "sharpness": pytest.approx(stored.sharpness, rel=1e-6), "checksum": stored.checksum, "face_id": track.face_id,
        "segment": track.segment, "timestamps_seconds": stored.timestamps_seconds.tolist(),
        "pair_id": stored.pair_id, "face_label": stored.face_label, "change_score": stored.change_score,
        "change_scores": None if stored.change_scores is None else stored.change_scores.tolist(),
    }  # fmt: skip


def expected_video_row(outcome: VideoOutcome) -> dict[str, Any]:
    in_ref = ("video_id", "path", "size_bytes", "label", "source_id", "group_id")
    row = {name: getattr(outcome.ref if name in in_ref else outcome, name) for name in VIDEOS_SCHEMA.names}
    return row | {"thresholds": list(outcome.thresholds) if outcome.thresholds else None}


@given(st.lists(videos_strategy, max_size=3), store_strategy)
@settings(deadline=None, max_examples=15)
def test_every_column_and_every_frame_comes_back(partitions: list[list[Video]], made_with: StoreSettings) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(f"{folder}/store", partitions, SETTINGS.model_copy(update={"store": made_with}))
        videos = [video for partition in partitions for video in partition]
        assert store.videos.schema == VIDEOS_SCHEMA
        assert store.tracks.schema == TRACKS_SCHEMA
        assert store.videos.to_pylist() == [expected_video_row(video.outcome) for video in videos]

        row_starts = [
            start
            for partition in partitions
            for start in list(accumulate([len(f) for v in partition for _, f in v.clips], initial=0))[:-1]
        ]
        rows = store.tracks.to_pylist()
        clips = [clip for video in videos for clip in video.clips]
        assert len(rows) == len(clips)
        for number, (row, (stored, frames), start) in enumerate(zip(rows, clips, row_starts, strict=True)):
            assert row == expected_track_row(stored, row["array"], start)
            assert store.frames(number).dtype == np.uint8
            np.testing.assert_array_equal(store.frames(number), frames)
        assert list(verify_store(store)) == []
        assert find_orphans(store) == []


@pytest.fixture(scope="module")
def long_track(tmp_path_factory: pytest.TempPathFactory) -> tuple[FaceStore, UInt8Array]:
    """A track of 37 frames that starts amid a shard, and its frames."""
    videos = [make_video("before.mp4", [5]), make_video("long.mp4", [37]), make_video("after.mp4", [6])]
    return write_store(tmp_path_factory.mktemp("windows") / "store", [videos]), videos[1].clips[0][1]


@given(st.data())
@settings(deadline=None, max_examples=40)
def test_a_window_is_a_slice_of_the_whole(long_track: tuple[FaceStore, UInt8Array], data: st.DataObject) -> None:
    store, whole = long_track
    start = data.draw(st.integers(0, 36), "start")
    stop = data.draw(st.none() | st.integers(start + 1, 37), "stop")
    step = data.draw(st.integers(1, 40), "step")
    by_number = store.frames(1, start, stop, step)
    by_row = store.frames(store.tracks.to_pylist()[1], start, stop, step)
    np.testing.assert_array_equal(by_number, whole[start:stop:step])
    np.testing.assert_array_equal(by_row, whole[start:stop:step])


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(-1, 5, 1), (0, 38, 1), (37, None, 1), (5, 5, 1), (6, 5, 1), (0, 5, 0), (0, 5, -1)]
)
def test_a_window_outside_its_track_never_shows_a_neighbour(
    long_track: tuple[FaceStore, UInt8Array], start: int, stop: int | None, step: int
) -> None:
    with pytest.raises(IndexError, match="37 frames"):
        long_track[0].frames(1, start, stop, step)


def test_there_is_no_track_beyond_the_last(long_track: tuple[FaceStore, UInt8Array]) -> None:
    with pytest.raises(IndexError):
        long_track[0].frames(3)


def test_a_store_goes_to_another_process_as_its_address(long_track: tuple[FaceStore, UInt8Array]) -> None:
    store, whole = long_track
    store.frames(1)
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    np.testing.assert_array_equal(pickle.loads(pickled).frames(1), whole)  # noqa: S301


def test_reading_needs_neither_torch_nor_the_rest_of_the_pipeline(long_track: tuple[FaceStore, UInt8Array]) -> None:
    code = (
        "import sys; from pipeline.store import FaceStore; FaceStore.open(sys.argv[1]).frames(0);"
        "print({'torch', 'cv2', 'click', 'dask', 'distributed', 'facenet_pytorch'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code, long_track[0].url]
    ran = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (ran.stdout.strip(), ran.returncode) == ("set()", 0), ran.stderr


# On disk


def test_arrays_lie_in_shards_and_chunks_as_set(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [[make_video("a.mp4", [9, 8])]])
    array = zarr.open_array(tmp_path / "store/arrays" / store.tracks["array"][0].as_py(), mode="r")
    assert (array.shape, array.chunks, array.shards) == (
        (17, SIZE, SIZE, 3),
        (CHUNK, SIZE, SIZE, 3),
        (SHARD, SIZE, SIZE, 3),
    )
    assert array.metadata.zarr_format == 3
    assert array.metadata.dimension_names == ("frame", "y", "x", "rgb")
    assert array.dtype == np.uint8
    assert [path.parts[-4:] for path in shard_files(store.url)] == [(str(n), "0", "0", "0") for n in range(3)]


@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_zarr_json_says_what_has_been_done_to_the_frames(tmp_path: Path, codec: Any, differences: bool) -> None:
    layout = StoreSettings(codec=codec, differences=differences, chunk_frames=CHUNK, shard_frames=SHARD)
    store = write_store(
        tmp_path / "store", [[make_video("a.mp4", [9, 8])]], SETTINGS.model_copy(update={"store": layout})
    )
    folder = tmp_path / "store/arrays" / store.tracks["array"][0].as_py()
    (sharding,) = json.loads((folder / "zarr.json").read_text())["codecs"]
    names = [inner["name"] for inner in sharding["configuration"]["codecs"]]
    compressed = {"none": [], "lz4": ["blosc", "crc32c"], "zstd": ["zstd", "crc32c"]}[codec]
    assert names == [*(["faceclips.frame_difference"] if differences else []), "bytes", *compressed]
    np.testing.assert_array_equal(np.asarray(zarr.open_array(folder, mode="r")[:9]), store.frames(0))


def test_each_shard_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, int]] = []
    real = zarr.Array.__setitem__

    def spy(array: zarr.Array[Any], where: slice, value: UInt8Array) -> None:
        written.append((where.start, where.stop))
        real(array, where, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", spy)
    write_store(tmp_path / "store", [[make_video("a.mp4", [3, 20, 1, 8, 5])]])
    assert written == [(0, 8), (8, 16), (16, 24), (24, 32), (32, 37)]


def test_black_frames_are_stored_and_a_lost_shard_is_not_taken_for_them(tmp_path: Path) -> None:
    ref = VideoRef("black.mp4", "/black.mp4", 1, 2)
    black = np.zeros((20, SIZE, SIZE, 3), np.uint8)
    clip = make_clip(np.random.default_rng(0), ref, 0, 20, black)
    store = write_store(tmp_path / "store", [[Video(VideoOutcome(ref, "ok", num_tracks=1), (clip,))]])
    np.testing.assert_array_equal(store.frames(0), black)
    assert len(shard_files(store.url)) == 3

    shard_files(store.url)[1].unlink()
    with pytest.raises(StoreFormatError, match="2 of its 3 shards"):
        FaceStore.open(store.url).frames(0, 8, 10)


def test_clips_of_another_size_or_type_are_refused(tmp_path: Path) -> None:
    writer = PartitionWriter(create_or_resume(str(tmp_path / "store"), SETTINGS), "part-00000", SIZE, SETTINGS.store)
    with pytest.raises(ValueError, match="uint8"):
        writer.append(np.zeros((3, SIZE, SIZE, 3), np.float32))
    with pytest.raises(ValueError, match=r"\(3, 8, 16, 3\)"):
        writer.append(np.zeros((3, 8, SIZE, 3), np.uint8))


# Damage


@pytest.mark.parametrize("keep", [0, 5, -1, -300])
def test_a_cut_off_shard_is_an_error_that_names_it(tmp_path: Path, keep: int) -> None:
    store = small_store(tmp_path / "store")
    shard = shard_files(store.url)[1]
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(StoreFormatError) as caught:
        store.frames(0)
    assert store.url in str(caught.value)
    assert store.tracks["array"][0].as_py() in str(caught.value)
    assert "pipeline.store verify" in str(caught.value)


@given(st.data(), st.sampled_from(["none", "lz4", "zstd"]))
@settings(deadline=None, max_examples=40)
def test_a_flipped_bit_changes_no_pixel_unnoticed(data: st.DataObject, codec: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        made_with = SETTINGS.model_copy(update={"store": StoreSettings(codec=codec, chunk_frames=2, shard_frames=8)})
        video = make_video("a.mp4", [8])
        store = write_store(f"{folder}/store", [[video]], made_with)
        (shard,) = shard_files(store.url)
        damaged = bytearray(shard.read_bytes())
        damaged[data.draw(st.integers(0, len(damaged) - 1), "byte")] ^= 1 << data.draw(st.integers(0, 7), "bit")
        shard.write_bytes(damaged)
        if list(verify_store(store)) == []:
            np.testing.assert_array_equal(store.frames(0), video.clips[0][1])


def test_a_flipped_bit_in_a_zstd_chunk_is_an_error_at_reading(tmp_path: Path) -> None:
    made_with = SETTINGS.model_copy(update={"store": StoreSettings(codec="zstd", chunk_frames=2, shard_frames=8)})
    store = write_store(tmp_path / "store", [[make_video("a.mp4", [8])]], made_with)
    (shard,) = shard_files(store.url)
    damaged = bytearray(shard.read_bytes())
    # Among the pixels of a chunk (which one depends on zarr's threads): noise, which zstd stores as it is.
    damaged[100] ^= 1
    shard.write_bytes(damaged)
    with pytest.raises(StoreFormatError, match="can't be read"):
        store.frames(0)


def test_an_array_that_is_shorter_than_its_rows_is_an_error(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    row = store.tracks.to_pylist()[1]
    metadata = tmp_path / "store/arrays" / row["array"] / "zarr.json"
    described = json.loads(metadata.read_text())
    described["shape"][0] -= 2
    metadata.write_text(json.dumps(described))
    with pytest.raises(StoreFormatError, match="the array ends before"):
        store.frames(row)


@pytest.mark.parametrize("table", ["videos", "tracks"])
def test_a_damaged_table_is_an_error_that_names_it(tmp_path: Path, table: str) -> None:
    small_store(tmp_path / "store")
    path = tmp_path / "store" / table / "part-00001.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreFormatError, match=f"{table}/part-00001.parquet is missing or damaged"):
        _ = getattr(FaceStore.open(str(tmp_path / "store")), table)


def test_a_table_without_a_column_is_an_error_that_names_both(tmp_path: Path) -> None:
    small_store(tmp_path / "store")
    change_table(tmp_path / "store", "tracks", "part-00000", lambda table: table.drop_columns(["crop_xyxy"]))
    with pytest.raises(StoreFormatError, match=r"part-00000\.parquet.*crop_xyxy"):
        _ = FaceStore.open(str(tmp_path / "store")).tracks


def test_what_a_later_release_adds_is_ignored(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    for table in ("videos", "tracks"):
        change_table(store.url, table, "part-00000", lambda rows: rows.append_column("mood", [["glad"] * len(rows)]))
    manifest = json.loads(store.files.read("store.json"))
    store.files.write("store.json", json.dumps(manifest | {"motto": "more"}).encode())
    store.files.make_folder("thumbnails")
    later = FaceStore.open(store.url)
    assert later.tracks.equals(store.tracks)
    assert later.digest() == store.digest()
    assert list(verify_store(later)) == find_orphans(later) == []


# Commit


def test_nothing_is_there_before_the_commit_and_everything_after(tmp_path: Path) -> None:
    files = create_or_resume(str(tmp_path / "store"), SETTINGS)
    videos = [make_video("a.mp4", [9, 3])]
    writer = PartitionWriter(files, "part-00000", SIZE, SETTINGS.store)
    stored = append(writer, videos)
    assert FaceStore.open(files.url).videos.num_rows == 0
    writer.commit([video.outcome for video in videos], stored)
    assert FaceStore.open(files.url).videos.num_rows == 1
    assert FaceStore.open(files.url).tracks.num_rows == 2


def test_a_tracks_file_without_its_videos_file_is_not_there(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    (tmp_path / "store/videos/part-00000.parquet").unlink()
    left = FaceStore.open(store.url)
    assert left.partition_names == ["part-00001"]
    assert set(left.tracks["video_id"].to_pylist()) == {"b/y.mp4"}
    assert list(verify_store(left)) == []


def test_a_partition_of_videos_without_faces_has_no_array(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [[make_video("a.mp4"), make_video("b.mp4")]])
    assert store.videos["status"].to_pylist() == ["no_face", "no_face"]
    assert store.tracks.num_rows == 0
    assert list((tmp_path / "store/arrays").iterdir()) == []


def test_a_thousand_partitions_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = create_or_resume(str(tmp_path / "store"), SETTINGS)
    for name in ("part-100000", "part-00002", "part-99999"):
        write_partition(files, name, [make_video(f"{name}.mp4")])
    assert FaceStore.open(files.url).partition_names == ["part-00002", "part-99999", "part-100000"]


@pytest.mark.parametrize("failing", ["tracks/", "videos/"])
def test_a_commit_that_fails_leaves_the_rest_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    store = small_store(tmp_path / "store")
    digest = store.digest()
    attempts: list[str] = []
    real = StoreFiles.create

    def full(files: StoreFiles, name: str, data: bytes) -> bool:
        attempts.append(name)
        if name.startswith(failing):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(files, name, data)

    monkeypatch.setattr(StoreFiles, "create", full)
    with pytest.raises(StoreWriteError, match="No space left on device") as caught:
        write_partition(store.files, "part-00002", [make_video("late.mp4", [9])])
    assert store.url in str(caught.value)
    both = ["tracks/part-00002.parquet", "videos/part-00002.parquet"]
    assert attempts == both[: 1 if failing == "tracks/" else 2]

    left = FaceStore.open(store.url)
    assert left.digest() == digest
    assert list(verify_store(left)) == []
    assert len(remove_orphans(left)) == len(attempts)
    assert find_orphans(left) == []
    assert FaceStore.open(store.url).digest() == digest


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no room"), RuntimeError("no room")])
def test_a_shard_that_cannot_be_written_is_trouble_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = small_store(tmp_path / "store")
    writer = PartitionWriter(store.files, "part-00002", SIZE, SETTINGS.store)
    attempts: list[slice] = []

    def full(_array: zarr.Array[Any], where: slice, _value: UInt8Array) -> None:
        attempts.append(where)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", full)
        with pytest.raises(StoreWriteError, match="no room") as caught:
            append(writer, [make_video("late.mp4", [SHARD])])
    assert caught.value.__cause__ is error
    assert len(attempts) == 1
    writer.discard()
    assert find_orphans(store) == []
    assert list(verify_store(FaceStore.open(store.url))) == []


def test_an_attempt_that_ends_without_a_commit_leaves_nothing(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    for lengths_ in ([], [3], [SHARD + 1]):
        writer = PartitionWriter(store.files, "part-00002", SIZE, SETTINGS.store)
        append(writer, [make_video("late.mp4", lengths_)])
        writer.discard()
        assert find_orphans(store) == []


# Digest


def test_a_damaged_shard_is_named_with_its_partition_and_track(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    for shard in shard_files(store.url):
        shard.write_bytes(b"")
    for track in (1, store.tracks.to_pylist()[1]):
        with pytest.raises(StoreFormatError, match=r"track 1 of video 'a/x.mp4' in part-00000") as caught:
            FaceStore.open(store.url).frames(track)
        assert store.url in str(caught.value)


@given(st.data())
@settings(deadline=None, max_examples=10)
def test_the_digest_says_nothing_of_how_the_work_was_cut_up(data: st.DataObject) -> None:
    videos = [make_video("a", [9, 2]), make_video("b"), make_video("c", [3], label=1), make_video("d", [1, 1, 1])]
    shuffled = data.draw(st.permutations(videos))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(videos)), max_size=3)))
    partitions = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(videos)], strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        assert write_store(f"{folder}/one", [videos]).digest() == write_store(f"{folder}/other", partitions).digest()


def other_value(value: Any, data_type: pa.DataType) -> Any:
    """Another value of the same type and, where it is a list, the same length."""
    if value is None and pa.types.is_list(data_type):
        return [other_value(None, data_type.value_type)]
    if value is None:
        return other_value(pa.scalar(0).cast(data_type).as_py(), data_type)
    if isinstance(value, list):
        return [other_value(value[0], data_type.value_type), *value[1:]]
    if isinstance(value, bool):
        return not value
    return value + ("x" if isinstance(value, str) else 1)


COLUMNS = [
    (table, column)
    for table, schema in (("tracks", TRACKS_SCHEMA), ("videos", VIDEOS_SCHEMA))
    for column in schema.names
    if column != "video_id"
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    store = small_store(tmp_path_factory.mktemp("digest") / "store")
    return Path(store.url), store.digest()


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_the_digest_changes_with_every_column_but_place_and_circumstance(
    pristine: tuple[Path, str], table: str, column: str, row: int
) -> None:
    path, digest = pristine
    file = path / table / "part-00000.parquet"
    before = file.read_bytes()

    def change(rows: pa.Table) -> pa.Table:
        return set_value(rows, column, row, other_value(rows[column][row].as_py(), rows.schema.field(column).type))

    change_table(path, table, "part-00000", change)
    unchanged = FaceStore.open(str(path)).digest() == digest
    file.write_bytes(before)
    assert unchanged == (column in PLACEMENT_COLUMNS | CIRCUMSTANCE_COLUMNS)


def test_the_digest_changes_with_the_name_of_a_video(tmp_path: Path) -> None:
    one, other = (
        write_store(tmp_path / "one", [[make_video("a")]]),
        write_store(tmp_path / "other", [[make_video("b")]]),
    )
    assert one.digest() != other.digest()


def test_the_digest_changes_with_a_single_pixel(tmp_path: Path) -> None:
    video = make_video("a.mp4", [5])
    stored, frames = video.clips[0]
    other = frames.copy()
    other[3, 7, 7, 1] ^= 1
    changed = replace(video, clips=((replace(stored, checksum=frames_checksum(other)), other),))
    assert write_store(tmp_path / "one", [[video]]).digest() != write_store(tmp_path / "other", [[changed]]).digest()


# Making one


def test_a_store_made_twice_is_the_same_store(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    manifest = store.manifest | {"versions": {"faceclips": "of the release that made it"}}
    before = json.dumps(manifest).encode()
    store.files.write("store.json", before)
    assert create_or_resume(store.url, SETTINGS).url == store.url
    assert (tmp_path / "store/store.json").read_bytes() == before
    assert FaceStore.open(store.url).videos.num_rows == 3


def test_the_manifest_says_what_made_it(tmp_path: Path) -> None:
    create_or_resume(str(tmp_path / "store"), SETTINGS)
    manifest = FaceStore.open(str(tmp_path / "store")).manifest
    assert (manifest["format"], manifest["format_version"]) == ("face-clip-store", 1)
    assert manifest["settings"] == SETTINGS.results_settings()
    assert manifest["fingerprint"] == SETTINGS.fingerprint()
    assert manifest["versions"]["numpy"] == np.__version__


@pytest.mark.parametrize("num_folders", range(4))
def test_a_kill_while_a_store_is_made_is_mended_by_the_next_run(tmp_path: Path, num_folders: int) -> None:
    create_or_resume(str(tmp_path / "store"), SETTINGS)
    for folder in ("arrays", "tracks", "videos")[num_folders:]:
        (tmp_path / "store" / folder).rmdir()
    store = write_store(tmp_path / "store", [[make_video("a.mp4", [3])]])
    assert store.tracks.num_rows == 1


def test_a_kill_amid_the_very_first_write_is_mended_by_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store/.store.json.0123abcd.tmp").write_bytes(b'{"form')
    store = write_store(tmp_path / "store", [[make_video("a.mp4", [3])]])
    assert remove_orphans(store) == [".store.json.0123abcd.tmp"]
    assert list(verify_store(FaceStore.open(store.url))) == []


def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    create_or_resume(str(tmp_path / "store"), SETTINGS)
    other = SETTINGS.model_copy(update={"crop": CropSettings(size=32, mode="follow")})
    with pytest.raises(StoreMismatchError) as caught:
        create_or_resume(str(tmp_path / "store"), other)
    assert 'crop.mode: store "union", now "follow"; crop.size: store 16, now 32' in str(caught.value)


def test_settings_that_change_no_result_are_not_compared(tmp_path: Path) -> None:
    create_or_resume(str(tmp_path / "store"), SETTINGS)
    other = Settings.model_validate(SETTINGS.model_dump() | {"extract": {"videos_per_partition": 3}})
    assert check_settings(str(tmp_path / "store"), other)


@pytest.mark.parametrize("found", [2, "1", None])
def test_another_format_version_is_refused_with_both_values(tmp_path: Path, found: object) -> None:
    small_store(tmp_path / "store")
    manifest = json.loads((tmp_path / "store/store.json").read_text())
    (tmp_path / "store/store.json").write_text(json.dumps(manifest | {"format_version": found}))
    for opening in (FaceStore.open, lambda url: create_or_resume(url, SETTINGS)):
        with pytest.raises(StoreFormatError, match=f"format version {found!r}, this code reads 1"):
            opening(str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[]", "doesn't describe a face-clip-store"),
        (b'{"format": "zoo"}', "doesn't describe a face-clip-store"),
    ],
)
def test_a_store_json_of_something_else_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "store.json").write_bytes(content)
    for opening in (FaceStore.open, lambda url: create_or_resume(url, SETTINGS)):
        with pytest.raises(StoreFormatError, match=message):
            opening(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["store.json"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreFormatError, match=r"not empty and has no store\.json"):
        create_or_resume(str(tmp_path), SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreFormatError, match="is a file"):
        create_or_resume(str(tmp_path / "store"), SETTINGS)
    with pytest.raises(StoreFormatError, match=r"has no store\.json"):
        FaceStore.open(str(tmp_path / "store"))


def test_a_place_where_nothing_can_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(OSError, match="file"):
        create_or_resume(str(tmp_path / "file/store"), SETTINGS)


def test_no_store_is_made_by_looking(tmp_path: Path) -> None:
    assert not check_settings(str(tmp_path / "store"), SETTINGS)
    with pytest.raises(StoreFormatError, match=r"has no store\.json"):
        FaceStore.open(str(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []


# Elsewhere


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server on this machine, with one bucket."""
    moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[s3]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir("bucket")
        yield "s3://bucket"
        for filesystem in s3fs.S3FileSystem._cache.values():
            if filesystem.asynchronous:
                # zarr's, in zarr's event loop; nobody else closes its session.
                zarr.core.sync.sync(filesystem._s3.close())
            elif filesystem._s3 is not None:
                s3fs.S3FileSystem.close_session(filesystem.loop, filesystem._s3)
        s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["path", "file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store may live."""
    if request.param == "s3":
        yield f"{request.getfixturevalue('s3_endpoint')}/{uuid4().hex}"
    elif request.param == "memory":
        yield f"memory://{uuid4().hex}"
        fsspec.filesystem("memory").store.clear()
    else:
        yield str(tmp_path) if request.param == "path" else tmp_path.as_uri()


def test_a_store_is_the_same_wherever_it_lives(root: str, pristine: tuple[Path, str]) -> None:
    url = f"{root}/a folder/store"
    store = small_store(url)
    assert store.digest() == pristine[1]
    here = FaceStore.open(str(pristine[0]))
    for number in range(3):
        np.testing.assert_array_equal(store.frames(number), here.frames(number))
    np.testing.assert_array_equal(store.frames(0, 7, 18, 3), here.frames(0)[7:18:3])
    assert list(verify_store(store)) == []
    with pytest.raises(StoreMismatchError):
        create_or_resume(url, Settings())

    writer = PartitionWriter(create_or_resume(url, SETTINGS), "part-00002", SIZE, SETTINGS.store)
    append(writer, [make_video("late.mp4", [SHARD + 1])])
    store.files.write("tracks/part-00002.parquet", b"of an attempt that was killed")
    left = FaceStore.open(url)
    assert left.digest() == pristine[1]
    assert remove_orphans(left) == [f"arrays/{writer.array_name}", "tracks/part-00002.parquet"]
    assert find_orphans(left) == []
    assert list(verify_store(FaceStore.open(url))) == []


def test_tables_are_asked_for_side_by_side_where_each_answer_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"memory://{uuid4().hex}"
    assert len(small_store(url).partition_names) == 2
    together = threading.Barrier(2, timeout=30)  # It breaks, an error, if they aren't.
    read = StoreFiles.read

    def waiting(files: StoreFiles, name: str) -> bytes:
        if name.startswith("videos/"):
            together.wait()
        return read(files, name)

    store = FaceStore.open(url)
    monkeypatch.setattr(StoreFiles, "read", waiting)
    assert store.videos["video_id"].to_pylist() == ["a/x.mp4", "a/none.mp4", "b/y.mp4"]
    fsspec.filesystem("memory").store.clear()


def test_a_lost_shard_is_noticed_wherever_it_was(root: str) -> None:
    store = small_store(f"{root}/store")
    store.files.remove(f"arrays/{store.tracks['array'][0].as_py()}/c/1/0/0/0")
    with pytest.raises(StoreFormatError, match="2 of its 3 shards"):
        store.frames(0, 0, 2)
    problems = list(verify_store(FaceStore.open(store.url)))
    assert [problem.split(": ")[1] for problem in problems] == ["a/x.mp4 track 0", "a/x.mp4 track 1"]


def test_no_store_where_there_is_none(root: str) -> None:
    with pytest.raises(StoreFormatError, match=r"has no store\.json"):
        FaceStore.open(f"{root}/nowhere")
    assert not check_settings(f"{root}/nowhere", SETTINGS)


def test_tables_are_read_without_threads_that_outlive_the_interpreter(tmp_path: Path) -> None:
    """pyarrow's dataset reader lets go of its bytes in threads: one that does so at the end aborts the process."""
    small_store(tmp_path / "store")
    code = (
        "import sys\n"
        "from pipeline.store import FaceStore\n"
        "print(FaceStore.open(sys.argv[1]).tracks.num_rows, 'pyarrow.dataset' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "3 False\n"
