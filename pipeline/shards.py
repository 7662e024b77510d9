"""Rows of a zarr array, for many small reads: what a store's arrays look like is read straight from their shards.

zarr's own way takes almost two milliseconds a read, whatever it reads: about as long as decoding a window of 16 frames.
Arrays that look otherwise are read through zarr.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, Protocol

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc, zstd

from pipeline import frame_difference
from pipeline.files import StoreFiles
from pipeline.types import UInt8Array

# Rust codecs, several times faster than zarr's own on the same files.
CODEC_PIPELINE = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}

# Its threads cost more than they bring for chunks of a megabyte; where there is a core to spare, see _helper.
blosc.use_threads = False

_CHUNKS_AT_ONCE = 4
"""Differences of so many are undone at once: of more, the processor's cache would hold less."""
_CRC_BYTES = 4
_CRC_OF_WHOLE = 0x48674BC7
"""CRC-32C of any bytes that end with their own CRC-32C, little endian."""
_NO_CHUNK = 2**64 - 1
"""Offset and length of a chunk that isn't there, since it is of zeros only."""


class Rows(Protocol):
    """An array, open for reading."""

    num_rows: int
    shard_rows: int
    """Rows in a file."""

    def read(self, start: int, stop: int) -> UInt8Array:
        """Rows [start, stop), or those of them that there are, in an array of its own.

        Raises:
            OSError, RuntimeError, ValueError: a shard is missing or damaged.
        """


def open_rows(files: StoreFiles, folder: str, may_lack_shards: bool) -> Rows:
    """Open the array in a folder.

    Args:
        files: the store.
        folder: of the array.
        may_lack_shards: whether a shard that isn't there is one of zeros; otherwise it is an error.

    Raises:
        OSError, ValueError, KeyError: there is none, or its description is damaged.
    """
    layout = parse_layout(json.loads(files.read(f"{folder}/zarr.json")))
    if layout is None:
        return _ThroughZarr(files, folder)
    return _Sharded(files, folder, layout, may_lack_shards)


@dataclass(frozen=True)
class Layout:
    """How an array lies in its files, of those kinds that are read without zarr."""

    shape: tuple[int, ...]
    chunk_rows: int
    shard_rows: int
    has_differences: bool
    """Whether :mod:`pipeline.frame_difference` has been at it."""
    compressor: Literal["blosc", "zstd"] | None
    has_crc: bool
    """Whether each chunk ends with its CRC-32C."""


def parse_layout(metadata: Any) -> Layout | None:
    """What ``zarr.json`` says, or None if the array is of another kind."""
    try:
        (sharding,) = metadata["codecs"]
        shards, chunks = metadata["chunk_grid"]["configuration"]["chunk_shape"], sharding["configuration"]
        names = [codec["name"] for codec in chunks["codecs"]]
        shape, inner = tuple(metadata["shape"]), chunks["chunk_shape"]
        is_known = (
            (metadata["zarr_format"], metadata["node_type"], metadata["data_type"]) == (3, "array", "uint8")
            and metadata["fill_value"] == 0
            and metadata["chunk_grid"]["name"] == "regular"
            and metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
            and not metadata.get("storage_transformers")
            and sharding["name"] == "sharding_indexed"
            and chunks.get("index_location", "end") == "end"
            and [codec["name"] for codec in chunks["index_codecs"]] == ["bytes", "crc32c"]
            and chunks["index_codecs"][0]["configuration"] == {"endian": "little"}
            and tuple(shards[1:]) == tuple(inner[1:]) == shape[1:]
            and shards[0] % inner[0] == 0
        )
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    has_differences = names[:1] == [frame_difference.NAME]
    has_crc = names[-1:] == ["crc32c"]
    compressors = names[has_differences : len(names) - has_crc]
    if not is_known or compressors not in (["bytes"], ["bytes", "blosc"], ["bytes", "zstd"]):
        return None
    compressor: Any = compressors[1] if len(compressors) == 2 else None
    return Layout(shape, int(inner[0]), int(shards[0]), has_differences, compressor, has_crc)


class _Fetched(NamedTuple):
    """A chunk as it lies in a file."""

    data: bytes
    place: tuple[str, int, int]
    """Where it was: file, first byte, one past the last."""
    chunk: UInt8Array
    """Room for what it decodes to."""


class _Sharded:
    """An array of a known layout. Keeps the indices of its shards, some hundred bytes each, and no file open."""

    def __init__(self, files: StoreFiles, folder: str, layout: Layout, may_lack_shards: bool) -> None:
        self._files = files
        self._folder = folder
        self._layout = layout
        self._may_lack_shards = may_lack_shards
        self._indices: dict[int, list[list[int]]] = {}
        self.num_rows = layout.shape[0]
        self.shard_rows = layout.shard_rows

    def read(self, start: int, stop: int) -> UInt8Array:
        stop = min(stop, self.num_rows)
        if stop <= start:
            return np.empty((0, *self._layout.shape[1:]), np.uint8)
        size = self._layout.chunk_rows
        first, last = start // size, -(-stop // size)
        chunks = np.empty((last - first, size, *self._layout.shape[1:]), np.uint8)
        self._decode_all(self._fetch(chunks, first))
        if self._layout.has_differences:
            for begin in range(0, len(chunks), _CHUNKS_AT_ONCE):
                frame_difference.from_differences(chunks[begin : begin + _CHUNKS_AT_ONCE])
        return chunks.reshape(-1, *self._layout.shape[1:])[start - first * size : stop - first * size]

    def _fetch(self, chunks: UInt8Array, first: int) -> list[_Fetched]:
        """The bytes of as many chunks as there is room for, from a number on; those that aren't there are zeros."""
        placed = []
        for number, chunk in enumerate(chunks, first):
            place = self._place(number)
            if place is None:
                chunk.fill(0)
            else:
                placed.append((chunk, place))
        found = self._files.read_ranges([place for _, place in placed])
        return [_Fetched(data, place, chunk) for data, (chunk, place) in zip(found, placed, strict=True)]

    def _decode_all(self, fetched: list[_Fetched]) -> None:
        """Decode each into its place, half of them in the helper's thread, if there is one.

        Only that is shared: it is done without Python's lock. The many short calls that undo differences are not, and
        two threads would wait for each other more than they got done.
        """
        helper = _helper() if len(fetched) > 1 else None
        if helper is None:
            self._decode(fetched)
            return
        middle = (len(fetched) + 1) // 2
        other = helper.submit(self._decode, fetched[middle:])
        self._decode(fetched[:middle])
        # It may have had no core to begin on.
        if other.cancel():
            self._decode(fetched[middle:])
        else:
            other.result()

    def _place(self, number: int) -> tuple[str, int, int] | None:
        """Where a chunk lies: file, first byte, one past the last. None: it is of zeros."""
        shard, inner = divmod(number, self._layout.shard_rows // self._layout.chunk_rows)
        offset, length = self._index(shard)[inner]
        if offset == length == _NO_CHUNK:
            return None
        return self._shard_name(shard), offset, offset + length

    def _shard_name(self, shard: int) -> str:
        return "/".join([self._folder, "c", str(shard), *("0" for _ in self._layout.shape[1:])])

    def _index(self, shard: int) -> list[list[int]]:
        """Offset and length of each chunk of a shard."""
        if shard not in self._indices:
            num_chunks = self._layout.shard_rows // self._layout.chunk_rows
            num_bytes = 16 * num_chunks + _CRC_BYTES
            try:
                data = self._files.read_tail(self._shard_name(shard), num_bytes)
            except FileNotFoundError:
                if not self._may_lack_shards:
                    raise
                return [[_NO_CHUNK, _NO_CHUNK]] * num_chunks
            if len(data) != num_bytes or google_crc32c.value(data) != _CRC_OF_WHOLE:
                raise ValueError(f"the index of shard {shard} is damaged")
            self._indices[shard] = np.frombuffer(data, "<u8", 2 * num_chunks).reshape(-1, 2).tolist()
        return self._indices[shard]

    def _decode(self, fetched: list[_Fetched]) -> None:
        for of_chunk in fetched:
            self._decode_one(*of_chunk)

    def _decode_one(self, data: bytes, place: tuple[str, int, int], chunk: UInt8Array) -> None:
        name, start, stop = place
        where = f"bytes [{start}, {stop}) of {name.removeprefix(f'{self._folder}/')}"
        if len(data) != stop - start:
            raise ValueError(f"{where} aren't there")
        view = memoryview(data)
        if self._layout.has_crc:
            if google_crc32c.value(data) != _CRC_OF_WHOLE:
                raise ValueError(f"{where} don't match their checksum")
            view = view[:-_CRC_BYTES]
        if _decoded_bytes(view, self._layout.compressor) not in (chunk.nbytes, None):
            raise ValueError(f"{where} aren't a chunk of {chunk.nbytes} bytes")
        if self._layout.compressor == "zstd":
            zstd.decompress(view, chunk)
        elif self._layout.compressor == "blosc":
            blosc.decompress(view, chunk)
        else:
            chunk[...] = np.frombuffer(view, np.uint8).reshape(chunk.shape)


def _decoded_bytes(data: memoryview, compressor: str | None) -> int | None:
    """What the header of a chunk promises; None: its decoder looks itself."""
    if compressor == "blosc":
        # The decoder fills less than there is room for without a word.
        return int.from_bytes(data[4:8], "little")
    return len(data) if compressor is None else None


class _ThroughZarr:
    """An array of any other layout. A shard that isn't there reads as zeros."""

    def __init__(self, files: StoreFiles, folder: str) -> None:
        with zarr.config.set(CODEC_PIPELINE):
            self._array: zarr.Array[Any] = zarr.open_array(files.zarr_store(folder, read_only=True), mode="r")
        self.num_rows = self._array.shape[0]
        self.shard_rows = (self._array.shards or self._array.chunks)[0]

    def read(self, start: int, stop: int) -> UInt8Array:
        return np.asarray(self._array[start:stop])


@cache
def _helper() -> ThreadPoolExecutor | None:
    """A thread that decodes half of a window, where there is a core for it: a loading process has none to spare, since
    its siblings are on the others."""
    has_core = len(os.sched_getaffinity(0)) > 1 and multiprocessing.parent_process() is None
    return ThreadPoolExecutor(1, "faceclips-decode") if has_core else None


# A forked copy has no threads, and would wait for this one for ever.
os.register_at_fork(after_in_child=_helper.cache_clear)
