"""Reading rows straight from shards: the same as zarr reads, and left to zarr where the array is of another kind."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from pipeline import shards
from pipeline.config import StoreSettings
from pipeline.files import StoreFiles
from pipeline.frame_difference import FrameDifference
from pipeline.shards import Layout, open_rows, parse_layout
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from tests.stores import SETTINGS, make_video, shard_files, small_store, write_store

SHAPE = (23, 18, 4, 3)
CHUNK, SHARD = 3, 9
LZ4_OF_THE_FIRST_STORES = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=1)


@pytest.fixture
def frames(rng: np.random.Generator) -> UInt8Array:
    """Some that compress, with a chunk of zeros."""
    made = rng.integers(0, 8, SHAPE, np.uint8)
    made[6:9] = 0
    return made


def write_array(folder: Path, frames: UInt8Array, **how: Any) -> StoreFiles:
    """Through zarr alone, with none of our writer."""
    usual = {"chunks": (CHUNK, *SHAPE[1:]), "shards": (SHARD, *SHAPE[1:]), "filters": None, "fill_value": 0}
    array = zarr.create_array(folder / "a.zarr", shape=frames.shape, dtype="uint8", **(usual | how))
    array[:] = frames
    return StoreFiles(str(folder))


def layout_of(files: StoreFiles) -> Layout | None:
    return parse_layout(json.loads(files.read("a.zarr/zarr.json")))


@pytest.mark.parametrize("filters", [None, [FrameDifference()]])
@pytest.mark.parametrize(
    "compressors",
    [
        None,
        Crc32cCodec(),
        ZstdCodec(level=1, checksum=True),
        (ZstdCodec(level=1), Crc32cCodec()),
        LZ4_OF_THE_FIRST_STORES,
        (BloscCodec(cname="lz4hc", clevel=1, shuffle="noshuffle", typesize=1), Crc32cCodec()),
    ],
)
def test_every_layout_that_a_store_has_or_had_is_read_as_zarr_reads_it(
    tmp_path: Path, frames: UInt8Array, filters: Any, compressors: Any
) -> None:
    files = write_array(tmp_path, frames, filters=filters, compressors=compressors)
    assert layout_of(files) is not None
    rows = open_rows(files, "a.zarr", may_lack_shards=False)
    assert (rows.num_rows, rows.shard_rows) == (SHAPE[0], SHARD)
    for start in range(SHAPE[0]):
        for stop in range(start + 1, SHAPE[0] + 1):
            np.testing.assert_array_equal(rows.read(start, stop), frames[start:stop])


def test_what_is_beyond_the_end_is_left_out(tmp_path: Path, frames: UInt8Array) -> None:
    rows = open_rows(write_array(tmp_path, frames), "a.zarr", may_lack_shards=False)
    np.testing.assert_array_equal(rows.read(20, 40), frames[20:])
    assert rows.read(30, 40).shape == (0, *SHAPE[1:])


@pytest.mark.parametrize(
    "how",
    [
        {"shards": None},
        {"compressors": GzipCodec()},
        {"fill_value": 1},
        {"chunk_key_encoding": {"name": "default", "separator": "."}},
        {"chunks": (CHUNK, 9, 4, 3)},
    ],
)
def test_any_other_layout_is_left_to_zarr(tmp_path: Path, frames: UInt8Array, how: dict[str, Any]) -> None:
    files = write_array(tmp_path, frames, **how)
    assert layout_of(files) is None
    rows = open_rows(files, "a.zarr", may_lack_shards=False)
    np.testing.assert_array_equal(rows.read(5, 14), frames[5:14])


@pytest.mark.parametrize("metadata", [None, [], {}, {"codecs": 3}, {"codecs": ["bytes"], "chunk_grid": {}}])
def test_what_is_no_description_of_an_array_is_no_layout(metadata: Any) -> None:
    assert parse_layout(metadata) is None


def test_a_missing_shard_is_zeros_only_where_it_may_be(tmp_path: Path, frames: UInt8Array) -> None:
    files = write_array(tmp_path, frames)
    files.remove("a.zarr/c/1/0/0/0")
    zeros = open_rows(files, "a.zarr", may_lack_shards=True).read(8, 19)
    np.testing.assert_array_equal(zeros[[0, -1]], frames[[8, 18]])
    assert not zeros[1:-1].any()
    with pytest.raises(FileNotFoundError):
        open_rows(files, "a.zarr", may_lack_shards=False).read(8, 19)


# Damage


def cut(shard: Path, keep: int) -> None:
    shard.write_bytes(shard.read_bytes()[:keep])


def flip(shard: Path, byte: int) -> None:
    damaged = bytearray(shard.read_bytes())
    damaged[byte] ^= 1
    shard.write_bytes(damaged)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda shard: flip(shard, 100), "match their checksum"),
        (lambda shard: flip(shard, -1), "index of shard 0 is damaged"),
        (lambda shard: flip(shard, -20), "index of shard 0 is damaged"),
        (lambda shard: cut(shard, 3), "index of shard 0 is damaged"),
    ],
)
def test_damage_is_named(tmp_path: Path, codec: Any, damage: Callable[[Path], None], message: str) -> None:
    made_with = SETTINGS.model_copy(update={"store": StoreSettings(codec=codec, chunk_frames=2, shard_frames=8)})
    store = write_store(tmp_path / "store", [[make_video("a.mp4", [8])]], made_with)
    damage(shard_files(store.url)[0])
    with pytest.raises(ValueError, match=message) as caught:
        store.frames(0)
    assert "c/0/0/0/0" in str(caught.value) or "shard 0" in str(caught.value)


def test_a_shard_that_was_cut_after_its_index_was_read_is_noticed(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", [[make_video("a.mp4", [8])]])
    store.frames(0, 0, 1)
    cut(shard_files(store.url)[0], 0)
    with pytest.raises(ValueError, match="aren't there"):
        store.frames(0)


def test_a_chunk_of_another_size_is_no_chunk(tmp_path: Path, frames: UInt8Array) -> None:
    """What blosc decodes to less would leave pixels of nowhere in the rest."""
    files = write_array(tmp_path, frames, compressors=LZ4_OF_THE_FIRST_STORES)
    metadata = json.loads(files.read("a.zarr/zarr.json"))
    metadata["shape"][1:] = (36, 4, 3)
    for grid in (metadata["chunk_grid"]["configuration"], metadata["codecs"][0]["configuration"]):
        grid["chunk_shape"][1:] = (36, 4, 3)
    files.write("a.zarr/zarr.json", json.dumps(metadata).encode())
    with pytest.raises(ValueError, match="aren't a chunk of 1296 bytes"):
        open_rows(files, "a.zarr", may_lack_shards=False).read(0, 3)


# Threads and processes


@pytest.fixture
def busy_helper(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """A helper that never gets round to what it is asked."""
    cancelled: list[bool] = []

    class Future:
        def cancel(self) -> bool:
            cancelled.append(True)
            return True

    class Helper:
        def submit(self, *_args: object) -> Future:
            return Future()

    monkeypatch.setattr(shards, "_helper", Helper)
    return cancelled


def test_a_helper_without_a_core_is_not_waited_for(tmp_path: Path, busy_helper: list[bool]) -> None:
    video = make_video("a.mp4", [19])
    store = write_store(tmp_path / "store", [[video]])
    np.testing.assert_array_equal(store.frames(0), video.clips[0][1])
    assert busy_helper == [True]


def test_with_a_helper_and_without_the_frames_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small_store(tmp_path / "store")
    shards._helper.cache_clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
    with_helper = store.frames(0)
    assert shards._helper() is not None
    shards._helper.cache_clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    np.testing.assert_array_equal(store.frames(0), with_helper)
    assert shards._helper() is None
    shards._helper.cache_clear()


def read_in_child(store: FaceStore, answers: Any) -> None:
    answers.put((store.frames(0).sum(), shards._helper() is None))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_process_reads_by_itself(tmp_path: Path, method: str) -> None:
    """Also one that is forked when its parent has read: the parent's thread isn't there."""
    store = small_store(tmp_path / "store")
    total = store.frames(0).sum()
    context: Any = multiprocessing.get_context(method)
    answers = context.Queue()
    child = context.Process(target=read_in_child, args=(store, answers))
    child.start()
    assert answers.get(timeout=60) == (total, True)
    child.join()
    assert child.exitcode == 0


def test_no_file_stays_open(tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for row in range(3):
        store.frames(row)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
