"""Which frames a model is shown: whole tracks or even windows, in batches of one length and bounded size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.config import PredictSettings
from inference.windows import LEAST_FRAMES, ScoringWindow, TrackClips, open_loader, plan_batches, plan_windows
from tests.stores import shard_files, small_store
from training.dataset import COLUMNS, sort_tracks
from training.models import ModelSpec


def spec(clip_frames: int = 8, frame_step: int = 1) -> ModelSpec:
    return ModelSpec("tiny", 64, clip_frames, frame_step, (0, 0, 0), (1, 1, 1), {})


def indices(length: int, settings: PredictSettings, clip_frames: int = 8, frame_step: int = 1) -> list[list[int]]:
    windows = plan_windows([length], spec(clip_frames, frame_step), settings)
    return [window.indices(frame_step).tolist() for window in windows]


WHOLE = PredictSettings(max_frames=20)


@pytest.mark.parametrize(
    ("length", "frame_step", "expected"),
    [
        (15, 1, [*range(15)]),
        (20, 1, [*range(20)]),
        (50, 1, [*range(20)]),
        (50, 2, [*range(0, 40, 2)]),
        (31, 2, [*range(0, 31, 2)]),
        (5, 1, [0, 1, 2, 3, 4, 0, 1, 2]),  # No model takes fewer than 8.
        (1, 1, [0] * 8),
    ],
)
def test_a_track_is_shown_whole_up_to_a_limit(length: int, frame_step: int, expected: list[int]) -> None:
    assert indices(length, WHOLE, frame_step=frame_step) == [expected]


def test_windows_are_evenly_spaced() -> None:
    starts = [frames[0] for frames in indices(100, PredictSettings(windows=4))]
    assert starts == [11, 34, 58, 81]


@pytest.mark.parametrize(("length", "number"), [(8, 1), (9, 2), (10, 3), (5, 1), (1, 1)])
def test_no_window_is_shown_twice(length: int, number: int) -> None:
    found = indices(length, PredictSettings(windows=5))
    assert len(found) == number
    assert len({tuple(frames) for frames in found}) == number


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=20),
    st.one_of(st.none(), st.integers(1, 6)),
    st.integers(8, 40),
    st.integers(1, 5),
    st.floats(0.001, 50),
)
def test_every_window_is_in_one_batch_of_its_length(
    lengths: list[int], windows: int | None, clip_frames: int, frame_step: int, megapixels: float
) -> None:
    planned = plan_windows(lengths, spec(clip_frames, frame_step), PredictSettings(windows=windows))
    assert {window.row for window in planned} == set(range(len(lengths)))
    for window in planned:
        shown = window.indices(frame_step)
        assert len(shown) == window.num_frames >= LEAST_FRAMES
        assert 0 <= shown.min() <= shown.max() < lengths[window.row]
    batches = plan_batches(reversed(planned), 64, megapixels)
    assert sorted(window for batch in batches for window in batch) == sorted(planned)
    for batch in batches:
        assert len({window.num_frames for window in batch}) == 1
        assert len(batch) == 1 or sum(window.num_frames for window in batch) * 64**2 <= megapixels * 1e6


def test_clips_come_as_the_store_has_them_and_what_is_damaged_says_so(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    tracks = sort_tracks(store.read_table("tracks", COLUMNS))
    lengths = (tracks["row_stop"].to_numpy() - tracks["row_start"].to_numpy()).tolist()
    windows = plan_windows(lengths, spec(), PredictSettings(max_frames=8))
    loader = open_loader(TrackClips(store, tracks, 1), plan_batches(windows, 16, 1.0), 0, pin_memory=False)
    (batch,) = [*loader]
    assert batch.frames.shape == (3, 8, 16, 16, 3)
    for window, frames in zip(batch.windows, batch.frames, strict=True):
        track = tracks.slice(window.row, 1).to_pylist()[0]
        expected = np.concatenate([store.frames(track)] * 2)[:8]
        np.testing.assert_array_equal(frames.numpy(), expected)

    damaged = [path for path in shard_files(store.url) if "part-00001" in str(path)]
    for path in damaged:
        path.unlink()
    (batch,) = [*open_loader(TrackClips(type(store).open(store.url), tracks, 1), [windows], 0, pin_memory=False)]
    assert [window.row for window in batch.windows] == [
        i for i, row in enumerate(tracks["video_id"].to_pylist()) if row[0] == "a"
    ]
    ((window, reason),) = batch.failed
    assert tracks["video_id"][window.row].as_py() == "b/y.mp4"
    assert "can't be read" in reason


@pytest.mark.parametrize(
    ("up_to", "input_size", "shown"),
    [
        (1.0, 14, 16),
        (1.2, 14, 14),
        (1.1, 14, 16),
        (1.2, 16, 16),
        (1.2, 64, 16),
        (1.34, 12, 12),
        (1.2, 13, 16),
        (1.25, 13, 13),
    ],
)
def test_frames_little_larger_than_the_input_are_cut_to_it(
    tmp_path: Path, up_to: float, input_size: int, shown: int
) -> None:
    store = small_store(tmp_path / "store")
    tracks = sort_tracks(store.read_table("tracks", COLUMNS))
    settings = PredictSettings(max_frames=8, centre_crop_up_to=up_to)
    windows = plan_windows([19], ModelSpec("tiny", input_size, 8, 1, (0, 0, 0), (1, 1, 1), {}), settings)
    ((_, clip),) = [TrackClips(store, tracks, 1)[window] for window in windows]
    edge = (16 - shown) // 2
    stored = store.frames(tracks.slice(0, 1).to_pylist()[0], 0, 8)
    np.testing.assert_array_equal(clip, stored[:, edge : edge + shown, edge : edge + shown])


def test_a_batch_of_nothing_but_damage_is_a_batch(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    for path in shard_files(store.url):
        path.unlink()
    tracks = store.read_table("tracks", COLUMNS)
    window = ScoringWindow(0, 0, 19, 0.0, 8)
    (batch,) = [*open_loader(TrackClips(store, tracks, 1), [[window]], 0, pin_memory=False)]
    assert (len(batch.windows), len(batch.failed), batch.frames.numel()) == (0, 1, 0)
