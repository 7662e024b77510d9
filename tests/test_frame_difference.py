"""Frames as differences: nothing is lost, and a chunk says by itself what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.frame_difference import NAME, FrameDifference, from_differences, to_differences
from pipeline.types import UInt8Array

frames_strategy = arrays(
    np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 3)) | st.just((4, 5, 6, 3))
)


def stored_as(frames: UInt8Array, chunk_frames: int) -> UInt8Array:
    stored = frames.copy()
    to_differences(stored, chunk_frames)
    return stored


@given(frames_strategy, st.integers(1, 5))
def test_what_is_stored_gives_back_the_frames(frames: UInt8Array, chunk_frames: int) -> None:
    stored = stored_as(frames, chunk_frames)
    for first in range(0, len(frames), chunk_frames):
        chunk = stored[np.newaxis, first : first + chunk_frames].copy()
        from_differences(chunk)
        np.testing.assert_array_equal(chunk[0], frames[first : first + chunk_frames])


def test_several_chunks_are_undone_at_once(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (12, 37, 5, 3), np.uint8)
    chunks = stored_as(frames, 4).reshape(3, 4, 37, 5, 3)
    from_differences(chunks)
    np.testing.assert_array_equal(chunks.reshape(frames.shape), frames)


def test_it_is_what_the_format_says(rng: np.random.Generator) -> None:
    frames = rng.integers(0, 256, (3, 4, 2, 3), np.uint8)
    stored, wide = stored_as(frames, 3), frames.astype(int)
    np.testing.assert_array_equal(stored[0, 0], frames[0, 0])
    np.testing.assert_array_equal(stored[0, 1:], (wide[0, 1:] - wide[0, :-1]) % 256)
    np.testing.assert_array_equal(stored[1:], (wide[1:] - wide[:-1]) % 256)


def test_a_still_picture_of_one_colour_is_all_zeros_but_its_first_row() -> None:
    stored = stored_as(np.full((5, 8, 8, 3), 200, np.uint8), 5)
    assert (stored[0, 0] == 200).all()
    assert not stored[0, 1:].any()
    assert not stored[1:].any()


@pytest.mark.parametrize("shards", [None, (6, 8, 8, 3)])
def test_zarr_writes_and_reads_with_it(
    tmp_path: Path, rng: np.random.Generator, shards: tuple[int, ...] | None
) -> None:
    frames = rng.integers(0, 256, (10, 8, 8, 3), np.uint8)
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=frames.shape, chunks=(3, 8, 8, 3), shards=shards, dtype="uint8",
        filters=[FrameDifference()], fill_value=0,
    )  # fmt: skip
    array[:] = frames
    opened = zarr.open_array(tmp_path / "a.zarr", mode="r")
    np.testing.assert_array_equal(np.asarray(opened[2:9]), frames[2:9])
    assert NAME in (tmp_path / "a.zarr/zarr.json").read_text()
