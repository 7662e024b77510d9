"""The array of masks beside an array of frames: written, read, checked and cleared away with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

from pipeline.config import ExtractSettings
from pipeline.files import StoreFiles
from pipeline.runs import attempts_left, begin_attempt, only_run, settle
from pipeline.schema import frames_name, masks_name
from pipeline.store import FaceStore, StoreFormatError
from pipeline.types import UInt8Array
from pipeline.upkeep import drop_partition, find_orphans, find_problems, remove_orphans, settle_attempts, verify_store
from pipeline.writer import PartitionWriter, create_or_resume
from tests.stores import CHUNK, SETTINGS, SHARD, SIZE, Video, make_video

WITH_MASKS = SETTINGS.model_copy(update={"extract": ExtractSettings(save_masks=True)})
LENGTHS = (SHARD + 3, 5)
NUM_ROWS = sum(LENGTHS)


def some_masks(length: int) -> UInt8Array:
    return np.random.default_rng(length).integers(1, 256, (length, SIZE, SIZE), np.uint8)


def write(files: StoreFiles, name: str, video: Video, masks: Sequence[UInt8Array | None]) -> PartitionWriter:
    """The clips of one video, each with its masks; committed."""
    writer = PartitionWriter(files, name, SIZE, SETTINGS.store, has_masks=True)
    stored = [
        replace(track, array=writer.array_name, row_start=writer.append(frames, of_clip))
        for (track, frames), of_clip in zip(video.clips, masks, strict=True)
    ]
    writer.commit([video.outcome], stored)
    return writer


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    """part-00000 with masks in its second track, part-00001 without any."""
    files = create_or_resume(str(tmp_path / "store"), WITH_MASKS)
    write(files, "part-00000", make_video("fake.mp4", LENGTHS), [None, some_masks(LENGTHS[1])])
    write(files, "part-00001", make_video("real.mp4", [SHARD]), [None])
    return FaceStore.open(files.url)


def problems(store: FaceStore) -> list[str]:
    return list(verify_store(FaceStore.open(store.url)))


def arrays(store: FaceStore) -> list[str]:
    return store.files.names("arrays")


def masks_folder(store: FaceStore, partition: int = 0) -> Path:
    return next(Path(store.url).glob(f"arrays/part-{partition:05d}-*.masks.zarr"))


def test_names_belong_together() -> None:
    assert masks_name("part-00007-3f2a9c1e.zarr") == "part-00007-3f2a9c1e.masks.zarr"
    for name in ("part-00007-3f2a9c1e.zarr", "part-00007-3f2a9c1e.masks.zarr"):
        assert frames_name(name) == "part-00007-3f2a9c1e.zarr"


def test_masks_come_back_row_by_row_and_zeros_where_there_were_none(store: FaceStore) -> None:
    np.testing.assert_array_equal(store.masks(0), np.zeros((LENGTHS[0], SIZE, SIZE), np.uint8))
    np.testing.assert_array_equal(store.masks(1), some_masks(LENGTHS[1]))
    np.testing.assert_array_equal(store.masks(1, 1, 4, 2), some_masks(LENGTHS[1])[1:4:2])
    assert not store.masks(2).any()
    assert problems(store) == []
    assert find_orphans(store) == []


def test_they_lie_as_the_format_says(store: FaceStore) -> None:
    folder = masks_folder(store)
    array = zarr.open_array(folder, mode="r")
    assert array.dtype == np.uint8
    assert (array.shape, array.chunks) == ((NUM_ROWS, SIZE, SIZE), (CHUNK, SIZE, SIZE))
    assert array.shards == (SHARD, SIZE, SIZE)
    assert array.metadata.to_dict()["dimension_names"] == ("frame", "y", "x")
    assert folder.with_name(frames_name(folder.name)).is_dir()
    assert not list(masks_folder(store, 1).glob("c/**/0")), "shards of zeros aren't written"


def test_a_window_beyond_its_track_shows_no_neighbour(store: FaceStore) -> None:
    with pytest.raises(IndexError, match="window"):
        store.masks(0, 0, LENGTHS[0] + 1)
    with pytest.raises(IndexError, match="no track 3"):
        store.masks(3)


def test_without_masks_asking_for_them_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    files = create_or_resume(str(tmp_path / "store"), SETTINGS)
    with pytest.raises(LookupError, match=r"save_masks: true"):
        FaceStore.open(files.url).masks(0)


def test_a_damaged_shard_of_masks_is_found_and_named(store: FaceStore) -> None:
    shard = max(path for path in masks_folder(store).glob("c/**/*") if path.is_file())
    shard.write_bytes(shard.read_bytes()[:-30])
    found = problems(store)
    assert [line.partition(": /")[0] for line in found] == [f"part-00000: fake.mp4 track {i}" for i in (0, 1)]
    assert all("masks.zarr" in line for line in found), "both tracks have rows in it"
    with pytest.raises(StoreFormatError, match=r"masks\.zarr.*track 1 of video 'fake.mp4'"):
        FaceStore.open(store.url).masks(1)
    assert FaceStore.open(store.url).frames(1).shape == (LENGTHS[1], SIZE, SIZE, 3), "the frames are whole"


def test_lost_masks_are_found(store: FaceStore) -> None:
    store.files.remove(f"arrays/{masks_folder(store, 1).name}")
    assert {name for name, _ in find_problems(FaceStore.open(store.url))} == {"part-00001"}


def test_masks_that_end_too_early_are_found(store: FaceStore) -> None:
    zarr.open_array(masks_folder(store), mode="r+").resize((NUM_ROWS - 1, SIZE, SIZE))
    (found,) = problems(store)
    assert "fake.mp4 track 1" in found
    assert "the array ends before" in found


def test_a_partition_is_dropped_with_its_masks(store: FaceStore) -> None:
    removed = drop_partition(store, "part-00000")
    assert sum(name.startswith("arrays/") for name in removed) == 2
    assert {name.rsplit("-", 1)[0] for name in arrays(store)} == {"part-00001"}
    after = FaceStore.open(store.url)
    assert find_orphans(after) == []
    assert problems(after) == []


def half_written(files: StoreFiles, name: str = "part-00002") -> PartitionWriter:
    """An attempt with a shard of either array on disk."""
    writer = PartitionWriter(files, name, SIZE, SETTINGS.store, has_masks=True)
    (_, frames), = make_video("late.mp4", [SHARD + 1]).clips  # fmt: skip
    writer.append(frames, some_masks(SHARD + 1))
    return writer


def test_an_attempt_that_ends_without_a_commit_takes_its_masks_away(store: FaceStore) -> None:
    before = arrays(store)
    writer = half_written(store.files)
    assert len(arrays(store)) == len(before) + 2
    writer.discard()
    assert arrays(store) == before


def test_masks_of_a_killed_attempt_are_orphans_and_removed_while_those_of_others_stay(store: FaceStore) -> None:
    before = arrays(store)
    writer = half_written(store.files)
    expected = [f"arrays/{writer.array_name}", f"arrays/{masks_name(writer.array_name)}"]
    assert sorted(find_orphans(store)) == sorted(expected)
    assert sorted(remove_orphans(store)) == sorted(expected)
    assert arrays(store) == before
    assert problems(store) == []


def test_masks_without_their_frames_are_orphans(store: FaceStore) -> None:
    writer = half_written(store.files)
    store.files.remove(f"arrays/{writer.array_name}")
    assert remove_orphans(store) == [f"arrays/{masks_name(writer.array_name)}"]


def test_what_a_run_is_writing_is_no_orphan(store: FaceStore) -> None:
    with only_run(store.files) as run:
        writer = PartitionWriter(store.files, "part-00002", SIZE, SETTINGS.store, has_masks=True)
        begin_attempt(store.files, run, "part-00002", writer.array_name)
        (_, frames), = make_video("late.mp4", [SHARD + 1]).clips  # fmt: skip
        writer.append(frames, some_masks(SHARD + 1))
        assert find_orphans(store) == []


@pytest.mark.parametrize("by_name", [True, False])
def test_settling_an_attempt_removes_both_arrays(store: FaceStore, by_name: bool) -> None:
    before = arrays(store)
    with only_run(store.files) as run:
        writer = half_written(store.files)
        begin_attempt(store.files, run, "part-00002", writer.array_name)
    if by_name:
        assert settle(store.files, "part-00002") is False
    else:
        settle_attempts(store.files)
    assert arrays(store) == before
    assert attempts_left(store.files) == []


def test_settling_a_committed_attempt_leaves_its_masks(store: FaceStore) -> None:
    with only_run(store.files) as run:
        writer = write(store.files, "part-00002", make_video("late.mp4", [4]), [some_masks(4)])
        begin_attempt(store.files, run, "part-00002", writer.array_name)
    assert settle(store.files, "part-00002") is True
    np.testing.assert_array_equal(FaceStore.open(store.url).masks(3), some_masks(4))


def test_a_partition_without_tracks_has_no_arrays_whatever_was_appended(store: FaceStore) -> None:
    before = arrays(store)
    writer = half_written(store.files)
    writer.commit([make_video("late.mp4").outcome], [])
    assert arrays(store) == before
    assert find_orphans(FaceStore.open(store.url)) == []
    assert problems(store) == []
