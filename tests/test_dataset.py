"""Clips from a store: the right frames, read once, whoever reads them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pipeline.errors import InputError
from pipeline.store import FaceStore
from tests.stores import Video, change_table, make_video, write_store
from training.dataset import (
    ClipDataset,
    Sample,
    Window,
    contents_digest,
    even_windows,
    frame_indices,
    labelled,
    read_tracks,
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FaceStore:
    """Four tracks: a fake's of 19 and 5 frames, its original's of 8, and one of an unlabelled video."""
    return write_store(
        tmp_path_factory.mktemp("stores") / "store",
        [
            [make_video("b/fake.mp4", [19, 5], label=1, source_id="a/real.mp4"), make_video("c/unknown.mp4", [3])],
            [make_video("a/real.mp4", [8], label=0)],
        ],
    )


def dataset(store: FaceStore, clip_frames: int, frame_step: int = 1) -> ClipDataset:
    return ClipDataset(store, read_tracks(store), clip_frames, frame_step)


@given(st.integers(1, 60), st.floats(0, 1, exclude_max=True), st.integers(1, 20), st.integers(1, 4))
def test_a_clip_lies_in_its_track(length: int, position: float, clip_frames: int, frame_step: int) -> None:
    indices = frame_indices(length, position, clip_frames, frame_step)
    assert len(indices) == clip_frames
    assert indices.min() >= 0
    assert indices.max() < length
    if (clip_frames - 1) * frame_step < length:
        assert (np.diff(indices) == frame_step).all()
    else:
        assert indices.tolist() == [i * frame_step % length for i in range(clip_frames)]


def test_every_window_of_a_track_can_be_drawn_the_first_and_the_last_too() -> None:
    starts = {int(frame_indices(10, position, 4, 2)[0]) for position in np.linspace(0, 1, 100, endpoint=False)}
    assert starts == {0, 1, 2, 3}


def test_tracks_come_with_what_is_alike_side_by_side(store: FaceStore) -> None:
    tracks = read_tracks(store)
    assert list(zip(tracks["video_id"].to_pylist(), tracks["track_id"].to_pylist(), strict=True)) == [
        ("b/fake.mp4", 0), ("b/fake.mp4", 1), ("a/real.mp4", 0), ("c/unknown.mp4", 0)
    ]  # fmt: skip


@pytest.mark.parametrize(("row", "position", "step"), [(0, 0.0, 1), (0, 0.99, 2), (0, 0.5, 3), (2, 0.3, 1)])
def test_a_clip_is_what_the_store_holds(store: FaceStore, row: int, position: float, step: int) -> None:
    clips = dataset(store, 5, step)
    sample = clips[Window(row, position)]
    track = read_tracks(store).to_pylist()[row]
    whole = store.frames(track)
    expected = whole[frame_indices(len(whole), position, 5, step)]
    np.testing.assert_array_equal(sample.frames.numpy(), expected)
    assert (int(sample.label), int(sample.row)) == (track["label"], row)


def test_a_short_track_is_looped_and_counted(store: FaceStore) -> None:
    clips = dataset(store, 7)
    frames = clips[Window(1, 0.7)].frames
    np.testing.assert_array_equal(frames[:5], frames[[0, 1, 2, 3, 4]])
    np.testing.assert_array_equal(frames[5:], frames[:2])
    assert clips.is_looped.tolist() == [False, True, False, True]


def test_an_unknown_label_is_minus_one(store: FaceStore) -> None:
    assert int(dataset(store, 2)[Window(3, 0.0)].label) == -1


def test_a_clip_may_be_labelled_by_its_face(tmp_path: Path) -> None:
    """Of a fake that shows two people one is as filmed, and of a third it isn't known."""
    fake = make_video("fake.mp4", [5, 6, 7], label=1, face_labels=[0, 1, None])
    store = write_store(tmp_path / "store", [[fake]])
    clips = ClipDataset(store, read_tracks(store), 4, label_column="face_label")
    assert clips.labels.tolist() == [0, 1, -1]
    assert [int(clips[Window(row, 0.0)].label) for row in range(3)] == [0, 1, -1]


def test_each_clip_is_one_read_of_its_own_frames(store: FaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    real = FaceStore.frames

    def frames(self: FaceStore, track: Any, start: int = 0, stop: int | None = None, step: int = 1) -> Any:
        read.append((start, stop or 0))
        return real(self, track, start, stop, step)

    monkeypatch.setattr(FaceStore, "frames", frames)
    clips = dataset(store, 4, 2)
    for window in (Window(0, 0.5), Window(2, 0.0), Window(1, 0.9)):
        clips[window]
    assert read == [(6, 13), (0, 7), (0, 5)]


def test_loading_processes_give_the_same_clips_in_the_same_order(store: FaceStore) -> None:
    """Spawned ones, which open the store themselves."""
    clips = dataset(store, 4)
    batches = [[Window(0, 0.1), Window(2, 0.9)], [Window(1, 0.2)], [Window(0, 0.8), Window(0, 0.3)]]
    context = multiprocessing.get_context("spawn")
    here = list(DataLoader[Sample](clips, batch_sampler=batches))
    there = list(DataLoader[Sample](clips, batch_sampler=batches, num_workers=2, multiprocessing_context=context))
    for ours, theirs in zip(here, there, strict=True):
        assert all(bool((a == b).all()) for a, b in zip(ours, theirs, strict=True))
    assert here[0].frames.shape == (2, 4, 16, 16, 3)


def test_a_store_behind_a_url_is_read_alike() -> None:
    url = "memory://clips-of-a-dataset"
    clips = dataset(write_store(url, [[make_video("a.mp4", [9], label=0)]]), 4)
    assert clips[Window(0, 0.0)].frames.shape == (4, 16, 16, 3)


def test_windows_to_validate_are_even() -> None:
    assert even_windows(2, 2) == [Window(0, 0.25), Window(0, 0.75), Window(1, 0.25), Window(1, 0.75)]


@pytest.mark.parametrize(
    ("videos", "complaint"),
    [
        ([make_video("a.mp4")], "holds no tracks"),
        ([make_video("a.mp4", [5])], "1 tracks there are none with a label"),
        ([make_video("a.mp4", [5], label=0), make_video("b.mp4", [5])], "2 tracks there are only REAL ones"),
        ([make_video("a.mp4", [5, 6], label=1)], "2 tracks there are only FAKE ones"),
    ],
)
def test_a_store_that_cannot_train_anything_is_told_why(tmp_path: Path, videos: list[Video], complaint: str) -> None:
    store = write_store(tmp_path / "store", [videos])
    with pytest.raises(InputError, match=complaint):
        labelled(read_tracks(store), store.url)


def test_unlabelled_tracks_are_left_out(store: FaceStore) -> None:
    assert labelled(read_tracks(store), store.url)["label"].to_pylist() == [1, 1, 0]


def test_the_digest_is_of_clips_labels_and_groups_and_not_of_places(tmp_path: Path) -> None:
    def digest(*partitions: list[Video]) -> str:
        return contents_digest(read_tracks(write_store(tmp_path / str(len(list(tmp_path.iterdir()))), partitions)))

    a, b = make_video("a.mp4", [5], label=0), make_video("b.mp4", [5], label=1)
    assert digest([a, b]) == digest([b], [a])
    others = [
        digest([a]),
        digest([a, make_video("b.mp4", [5], label=0)]),
        digest([a, make_video("b.mp4", [5], label=1, group_id="a.mp4")]),
        digest([a, make_video("b.mp4", [5], label=1, seed=1)]),
        digest([a, make_video("b.mp4", [5], label=1, pair_ids=["a.mp4#0"])]),
        digest([a, make_video("b.mp4", [5], label=1, face_labels=[0])]),
    ]
    assert len({digest([a, b]), *others}) == 7


def test_the_digest_of_a_store_without_pairs_is_what_checkpoints_of_the_first_stores_hold(tmp_path: Path) -> None:
    videos = [make_video("a.mp4", [5], label=0), make_video("b.mp4", [5], label=1, source_id="a.mp4")]
    store = write_store(tmp_path / "store", [videos])
    assert contents_digest(read_tracks(store)) == "acfe25490ff9a4a4"
    change_table(store.url, "tracks", "part-00000", lambda table: table.drop_columns(["pair_id", "face_label"]))
    assert contents_digest(read_tracks(FaceStore.open(store.url))) == "acfe25490ff9a4a4"
