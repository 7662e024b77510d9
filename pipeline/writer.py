"""Writing a store: make it, then partition by partition, each committed by one small file.

A partition has one writer, under an attempt name of its own, so there are no locks (``runs.py``). A killed attempt
leaves an array, and perhaps a ``tracks`` file, that no ``videos`` file speaks of; the next run removes it.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.buffer import default_buffer_prototype
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from pipeline import frame_difference
from pipeline.config import Settings, StoreSettings
from pipeline.errors import InputError, WriteError
from pipeline.files import StoreFiles
from pipeline.nearest import did_you_mean_path
from pipeline.schema import FORMAT, FORMAT_VERSION, StoredTrack, masks_name, tracks_table, videos_table
from pipeline.settings import differences
from pipeline.shards import CODEC_PIPELINE
from pipeline.types import UInt8Array, VideoOutcome
from pipeline.versions import code_digest, installed_versions

# With a checksum, a flipped bit is an error at reading; otherwise it would just be another picture. It is one of the
# compressed bytes, which takes no time; zstd's own, of the decompressed ones, takes a tenth of the reading.
_COMPRESSORS: dict[str, tuple[BloscCodec | ZstdCodec, Crc32cCodec] | None] = {
    "none": None,
    # High compression at its lowest level: a twelfth smaller than plain lz4, read as fast, but slower to write.
    "lz4": (BloscCodec(cname="lz4hc", clevel=1, shuffle="noshuffle", typesize=1), Crc32cCodec()),
    "zstd": (ZstdCodec(level=1, checksum=False), Crc32cCodec()),
}
_MAX_LOOKED_AT = 1000
"""Folders in which a store is looked for that was perhaps meant."""
_LIBRARIES = (
    "faceclips",
    "facenet-pytorch",
    "torch",
    "torchvision",
    "opencv-python",
    "numpy",
    "pyarrow",
    "zarr",
    "zarrs",
)


class StoreFormatError(InputError):
    """What lies there is no store of this format, or is damaged; the message names what is wrong and what to do."""


class StoreMismatchError(InputError):
    """The store was made with other settings; the message shows both values."""


class StoreWriteError(WriteError):
    """The store can't be written any more (disk full, read-only, gone): trouble of the run, not of a video."""


def library_versions() -> dict[str, str]:
    """Versions of this code and of the libraries that have a hand in pixels and boxes."""
    return installed_versions(_LIBRARIES) | {"code": code_digest("pipeline")}


def read_manifest(files: StoreFiles) -> dict[str, Any]:
    """``store.json`` of a store of a version that this code reads.

    Raises:
        StoreFormatError: there is none, it isn't JSON, or its format or version is another one.
    """
    try:
        manifest = json.loads(files.read("store.json"))
    except (FileNotFoundError, NotADirectoryError):
        raise StoreFormatError(
            f"{files.url} is no face-clip store: it has no store.json; check the path"
            f"{did_you_mean_path(files.url) or _a_store_in(files)}"
        ) from None
    except ValueError:
        raise StoreFormatError(f"{files.url}/store.json is not valid JSON; the store is damaged") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StoreFormatError(f"{files.url}/store.json doesn't describe a {FORMAT}; check the path")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise StoreFormatError(
            f"{files.url} has format version {manifest.get('format_version')!r}, this code reads {FORMAT_VERSION}; "
            "use the release that wrote it, or extract anew into another folder"
        )
    return manifest


def _a_store_in(files: StoreFiles) -> str:
    """For whoever names the folder that stores lie in."""
    # Who names the wrong folder needn't wait for all of it to be looked through.
    below = islice(Path(files.url).glob("*"), _MAX_LOOKED_AT) if files.is_local else ()
    found = next((path for path in below if (path / "store.json").is_file()), None)
    return f"; did you mean {str(found)!r}?" if found is not None else ""


def check_settings(url: str, settings: Settings) -> bool:
    """Whether there is a store at that place; one that is there must have been made with the same settings.

    Raises:
        StoreMismatchError: it was made with other settings.
        StoreFormatError: there is something else at that place.
    """
    files = StoreFiles(url)
    if not files.exists():
        return False
    if not files.is_folder():
        raise StoreFormatError(f"{url} is a file; a store is a folder, so give another path")
    if not files.exists("store.json"):
        # A kill amid the first write leaves that file's temporary.
        if any(not name.startswith(".store.json.") for name in files.names()):
            raise StoreFormatError(f"{url} is not empty and has no store.json; choose an empty or a new folder")
        return False
    found = differences(read_manifest(files).get("settings"), settings.results_settings(), ("store", "now"))
    if found:
        raise StoreMismatchError(
            f"{url} was made with other settings ({'; '.join(found)}); clips made in two ways don't mix: "
            "use the settings of the store, or another folder"
        )
    return True


def create_or_resume(url: str, settings: Settings) -> StoreFiles:
    """Make an empty store, or open one that was made with the same settings.

    Raises:
        StoreMismatchError, StoreFormatError: as :func:`check_settings`.
        OSError: it can't be written there.
    """
    files = StoreFiles(url)
    is_there = check_settings(url, settings)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "settings": settings.results_settings(),
        "fingerprint": settings.fingerprint(),
        "versions": library_versions(),
    }
    try:
        if not is_there:
            files.make_folder("")
            # First of all: folders without it would look like somebody else's.
            if not files.create("store.json", json.dumps(manifest, indent=2).encode() + b"\n"):
                check_settings(url, settings)  # Somebody else has just made it.
        # Also where store.json is there: its maker may have been killed right after it.
        for folder in ("arrays", "tracks", "videos"):
            files.make_folder(folder)
    except OSError as error:
        raise OSError(f"no store can be made at {url}: {error}; choose a place that can be written") from error
    return files


def frames_checksum(frames: UInt8Array) -> str:
    """SHA-256 of the frames' bytes in C order, hex."""
    return hashlib.sha256(np.ascontiguousarray(frames).data).hexdigest()


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


class PartitionTakenError(Exception):
    """The partition's number has been given up or committed by others meanwhile; its videos are somebody else's now."""


class _GrowingArray:
    """A zarr array that rows are appended to; they are collected until they fill a shard, so that each shard is
    compressed and written once."""

    def __init__(
        self, files: StoreFiles, name: str, row_shape: tuple[int, ...], dimension_names: list[str],
        settings: StoreSettings, keeps_zeros: bool,
    ) -> None:  # fmt: skip
        self._files = files
        self.name = name
        self._settings = settings
        self._row_shape = row_shape
        self._dimension_names = dimension_names
        self._keeps_zeros = keeps_zeros
        """Whether a shard of zeros only is a file, too."""
        self._array: zarr.Array[Any] | None = None
        self._rows_written = 0
        self._pending: UInt8Array = np.empty((settings.shard_frames, *row_shape), np.uint8)
        """Room for one shard; the system gives memory for it only as it fills."""
        self._rows_pending = 0

    @property
    def rows(self) -> int:
        return self._rows_written + self._rows_pending

    def append(self, rows: UInt8Array) -> None:
        shard_frames = self._settings.shard_frames
        while len(rows):
            taken = rows[: shard_frames - self._rows_pending]
            rows = rows[len(taken) :]
            self._pending[self._rows_pending : self._rows_pending + len(taken)] = taken
            self._rows_pending += len(taken)
            if self._rows_pending == shard_frames:
                self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if self._rows_pending:
            self._write(self._pending[: self._rows_pending])
            self._rows_pending = 0

    def _write(self, rows: UInt8Array) -> None:
        """Write rows, which are of no use afterwards."""
        stop = self._rows_written + len(rows)
        try:
            if self._array is None:
                self._array = self._create()
            self._array.resize((stop, *self._row_shape))
            array = self._for_zeros() if self._keeps_zeros and not rows.any() else self._array
            if self._settings.differences:
                frame_difference.to_differences(rows, self._settings.chunk_frames)
            array[self._rows_written : stop] = rows
        except (OSError, RuntimeError) as error:
            # zarrs reports a full disk as RuntimeError.
            raise StoreWriteError(f"can't write to {self._files.url}: {error}") from error
        self._rows_written = stop

    def finish(self) -> None:
        """Write what is pending, and describe what has been written.

        zarrs doesn't know our codec, so differences are written through an array that doesn't have it.

        Raises:
            StoreWriteError, OSError: the disk is full, or gone.
        """
        self.flush()
        if self._array is not None and self._settings.differences:
            # Not read from there, and the folder may be gone: others may have removed the array of an attempt that was
            # slow, which is for the commit to find out.
            description = self._array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
            metadata = json.loads(description)
            metadata["codecs"][0]["configuration"]["codecs"].insert(0, {"name": frame_difference.NAME})
            self._files.make_folder(f"arrays/{self.name}")
            self._files.write(f"arrays/{self.name}/zarr.json", json.dumps(metadata, indent=2).encode())

    def _create(self) -> zarr.Array[Any]:
        with zarr.config.set(CODEC_PIPELINE):
            return zarr.create_array(
                self._files.zarr_store(f"arrays/{self.name}", read_only=False),
                shape=(0, *self._row_shape),
                chunks=(self._settings.chunk_frames, *self._row_shape),
                shards=(self._settings.shard_frames, *self._row_shape),
                dtype="uint8",
                compressors=_COMPRESSORS[self._settings.codec],
                filters=None,
                fill_value=0,
                dimension_names=self._dimension_names,
            )

    def _for_zeros(self) -> zarr.Array[Any]:
        """The same array through zarr's own codecs: zarrs 0.2.3 drops a shard of fill value whatever it is told."""
        with zarr.config.set(
            {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline", "array.write_empty_chunks": True}
        ):
            return zarr.open_array(self._files.zarr_store(f"arrays/{self.name}", read_only=False), mode="r+")


class PartitionWriter:
    """Appends clips to one new array and commits them with their rows.

    A shard and the clip being appended is all that is in memory.

    Args:
        files: of the store.
        partition_name: such as ``part-00007``.
        size: S, side of the frames, pixels.
        settings: how arrays lie on disk.
        has_masks: whether an array of masks lies beside the frames.
    """

    def __init__(
        self, files: StoreFiles, partition_name: str, size: int, settings: StoreSettings, has_masks: bool = False
    ) -> None:
        self._files = files
        self._partition_name = partition_name
        self._frame_shape = (size, size, 3)
        self.array_name = f"{partition_name}-{secrets.token_hex(4)}.zarr"
        self._frames = _GrowingArray(
            files, self.array_name, self._frame_shape, ["frame", "y", "x", "rgb"], settings, keeps_zeros=True
        )
        # Zeros are what most masks are, and what an absent shard reads as.
        self._masks = (
            _GrowingArray(
                files, masks_name(self.array_name), (size, size), ["frame", "y", "x"], settings, keeps_zeros=False
            )
            if has_masks
            else None
        )
        self._commit_data: bytes | None = None
        """What the file holds whose presence is the commit."""

    @property
    def rows(self) -> int:
        """Frames appended so far."""
        return self._frames.rows

    def append(self, frames: UInt8Array, masks: UInt8Array | None = None) -> int:
        """Put a clip at the end of the array.

        Args:
            frames: uint8 (T, size, size, 3), RGB.
            masks: uint8 (T, size, size), where this store keeps them; zeros by default.

        Returns:
            The row its first frame has in the array.

        Raises:
            StoreWriteError: the disk is full, or gone.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape:
            raise ValueError(f"expected uint8 (T, {self._frame_shape}) frames, got {frames.dtype} {frames.shape}")
        row_start = self.rows
        self._frames.append(frames)
        if self._masks is not None:
            self._masks.append(np.zeros(frames.shape[:3], np.uint8) if masks is None else masks)
        return row_start

    def commit(self, outcomes: Sequence[VideoOutcome], tracks: Sequence[StoredTrack]) -> None:
        """Make the partition part of the store, or, if this fails, leave the store as it was.

        Raises:
            StoreWriteError: the disk is full, or gone.
            PartitionTakenError: others have given this attempt up.
        """
        self._commit_data = to_parquet(videos_table(outcomes))
        files = self._files
        try:
            for array in self._arrays if tracks else ():
                array.finish()
            if not tracks:  # Whatever was appended is of videos that failed later.
                self._remove_arrays()
            for name in self._array_names:
                files.sync(f"arrays/{name}")
            # Created, not replaced: whoever gives an attempt up creates them first. The second one is the commit.
            if not (
                files.create(f"tracks/{self._partition_name}.parquet", to_parquet(tracks_table(tracks)))
                and files.create(self._commit_name, self._commit_data)
            ):
                raise PartitionTakenError(f"{self._partition_name} of {files.url} has been taken by another attempt")
        except OSError as error:
            raise StoreWriteError(f"can't write to {files.url}: {error}") from error

    @property
    def _arrays(self) -> list[_GrowingArray]:
        return [self._frames] if self._masks is None else [self._frames, self._masks]

    @property
    def _array_names(self) -> list[str]:
        return [array.name for array in self._arrays]

    @property
    def _commit_name(self) -> str:
        return f"videos/{self._partition_name}.parquet"

    def is_committed(self) -> bool:
        """Whether what was written is part of the store; asked where :meth:`commit` came to no clear end."""
        if self._commit_data is None or not self._files.exists(self._commit_name):
            return False
        return self._files.read(self._commit_name) == self._commit_data

    def discard(self) -> None:
        """Remove what was written; for an attempt that ends without a commit. A ``tracks`` file alone means nothing.

        Nothing is removed once the commit is there: an interrupt may come right after it, an answer may get lost.
        """
        if not self.is_committed():
            self._remove_arrays()

    def _remove_arrays(self) -> None:
        for name in self._array_names:
            self._files.remove(f"arrays/{name}")
