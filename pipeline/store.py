"""Reading a face-clip store, format version 1 (``docs/store-format.md``), and ``python -m pipeline.store``."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.ahead import map_ahead
from pipeline.files import StoreFiles
from pipeline.nearest import did_you_mean
from pipeline.schema import (
    ADDED_COLUMNS,
    CIRCUMSTANCE_COLUMNS,
    PLACEMENT_COLUMNS,
    TRACKS_SCHEMA,
    VIDEOS_SCHEMA,
    frames_name,
    masks_name,
)
from pipeline.shards import Rows, open_rows
from pipeline.store_track import StoreTrack
from pipeline.types import UInt8Array
from pipeline.writer import StoreFormatError, read_manifest

__all__ = ["FaceStore", "StoreFormatError"]

_MAX_OPEN_ARRAYS = 256
_NUM_REQUESTS = 16
"""At a time: an object store takes a tenth of a second to answer, however many ask."""


class FaceStore:
    """A face-clip store, opened for reading. Cheap to open, and to send to other processes: they open it themselves.

    Attributes:
        url: where it is.
        manifest: ``store.json``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files = StoreFiles(url)
        self.manifest = read_manifest(self.files)
        self._arrays: OrderedDict[str, Rows] = OrderedDict()

    @classmethod
    def open(cls, url: str) -> FaceStore:
        """Open a store on a local path or an fsspec URL.

        Raises:
            StoreFormatError: there is no store, or one of another format version.
        """
        return cls(str(url))

    def __reduce__(self) -> tuple[type[FaceStore], tuple[str]]:
        return FaceStore, (self.url,)

    def __repr__(self) -> str:
        return f"FaceStore({self.url!r}, fingerprint {self.fingerprint})"

    def _repr_html_(self) -> str:
        """What it holds and some of its faces, for a notebook."""
        # Here, not above: readers need no pictures.
        from pipeline.store_html import store_html  # noqa: PLC0415

        return store_html(self)

    @property
    def fingerprint(self) -> str:
        """Of the settings it was made with."""
        return str(self.manifest["fingerprint"])

    @property
    def min_change(self) -> float:
        """Least ``change_score`` of a face that counts as changed."""
        return float(self.manifest["settings"].get("pair", {}).get("min_change", float("inf")))

    @property
    def has_masks(self) -> bool:
        """Whether it says where fakes differ from their originals, see :meth:`masks`."""
        return bool(self.manifest["settings"].get("extract", {}).get("save_masks", False))

    @cached_property
    def partition_names(self) -> list[str]:
        """The committed partitions, as of the first look."""
        names = [name for name in self.files.names("videos") if name.endswith(".parquet") and not name.startswith(".")]
        return sorted((name.removesuffix(".parquet") for name in names), key=lambda name: (len(name), name))

    def read_partition(self, table: str, partition_name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The ``videos`` or ``tracks`` table of one partition.

        Raises:
            StoreFormatError: the file is missing, damaged, or lacks a column.
        """
        name = f"{table}/{partition_name}.parquet"
        schema = VIDEOS_SCHEMA if table == "videos" else TRACKS_SCHEMA
        wanted = list(columns) if columns is not None else schema.names
        try:
            # Not pq.read_table: its threads may let go of the bytes when the interpreter is ending, and abort it.
            with pq.ParquetFile(pa.BufferReader(self.files.read(name))) as file:
                later = ADDED_COLUMNS.difference(file.schema_arrow.names)
                # Of 16 videos: waking a thread for each column takes longer than reading it.
                found = file.read([column for column in wanted if column not in later], use_threads=False)
                for column in later.intersection(wanted):
                    found = found.append_column(schema.field(column), pa.nulls(len(found), schema.field(column).type))
                return found.select(wanted)
        except (OSError, pa.ArrowException, KeyError) as error:
            raise StoreFormatError(
                f"{self.url}/{name} is missing or damaged ({type(error).__name__}: {error}); "
                f"'python -m pipeline.store verify' lists all that is"
            ) from error

    def read_partitions(self, table: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The ``videos`` or ``tracks`` tables of all committed partitions, one by one, in order of their names.

        Raises:
            StoreFormatError: while iterating, as :meth:`read_partition`.
        """
        read = partial(self.read_partition, table, columns=columns)
        names = self.partition_names
        return map(read, names) if self.files.is_local else map_ahead(read, names, _NUM_REQUESTS)

    def read_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The ``videos`` or ``tracks`` table of all committed partitions, with all or some columns."""
        schema = VIDEOS_SCHEMA if table == "videos" else TRACKS_SCHEMA
        wanted = pa.schema([schema.field(name) for name in (columns if columns is not None else schema.names)])
        return pa.concat_tables([wanted.empty_table(), *self.read_partitions(table, wanted.names)])

    @cached_property
    def videos(self) -> pa.Table:
        """One row a video, whatever became of it."""
        return self.read_table("videos")

    @cached_property
    def tracks(self) -> pa.Table:
        """One row a track, with its boxes and landmarks a frame: some 14 KB a track of 150 frames. Where that is too
        much, :meth:`read_table` takes a list of columns."""
        return self.read_table("tracks")

    def track(self, which: int | tuple[str, int]) -> StoreTrack:
        """One track: its row as a mapping, its frames, and in a notebook a look at it. Of the table only the row's
        partition is read whole.

        Args:
            which: a row number of :attr:`tracks`, or ``(video_id, track_id)``.

        Raises:
            LookupError: there is no such track.
            TypeError: a name alone doesn't say which track of a video is meant.
            StoreFormatError: a table is missing or damaged.
        """
        if isinstance(which, str):
            raise TypeError(f"a video may have several tracks: ({which!r}, 0) is its first one")
        if isinstance(which, tuple):
            array, row_start = self._find(*which)
        else:
            array, row_start, _ = self._placement(int(which))
        partition = self.read_partition("tracks", array.rsplit("-", 1)[0])
        is_it = pc.and_(pc.equal(partition["array"], array), pc.equal(partition["row_start"], row_start))
        return StoreTrack(self, partition.filter(is_it))

    def _find(self, video_id: str, track_id: int) -> tuple[str, int]:
        keys = self._keys
        is_it = pc.and_(pc.equal(keys["video_id"], str(video_id)), pc.equal(keys["track_id"], int(track_id)))
        found = keys.filter(is_it).to_pylist()
        if not found:
            num_tracks = keys.filter(pc.equal(keys["video_id"], str(video_id))).num_rows
            if num_tracks:
                why = f"; it has {num_tracks}, counted from 0"
            else:
                video_ids = self.read_table("videos", ["video_id"])["video_id"].to_pylist()
                is_there = video_id in video_ids
                why = "; its row in videos says why" if is_there else did_you_mean(str(video_id), video_ids)
            raise LookupError(f"{self.url} has no track {track_id} of video {video_id!r}{why}")
        return str(found[0]["array"]), int(found[0]["row_start"])

    def frames(
        self, track: int | Mapping[str, Any], start: int = 0, stop: int | None = None, step: int = 1
    ) -> UInt8Array:
        """A window of a track's frames.

        Args:
            track: a row number of :attr:`tracks`, or a row as a mapping with ``array, row_start, row_stop``.
            start: first frame of the window, counted from the start of the track.
            stop: one past the last; the track's end by default.
            step: every step-th frame.

        Returns:
            uint8 (T, H, W, 3), RGB.

        Raises:
            IndexError: the window reaches beyond the track.
            StoreFormatError: the array is missing or damaged.
        """
        name, row_start, row_stop = self._placement(track)
        return self._rows(track, name, row_start, row_stop, start, stop, step)

    def masks(
        self, track: int | Mapping[str, Any], start: int = 0, stop: int | None = None, step: int = 1
    ) -> UInt8Array:
        """Where a window of a fake's frames differs from the original, beyond what compression does.

        Args:
            as :meth:`frames`.

        Returns:
            uint8 (T, H, W), grey levels, the largest of the channels. Zeros where the track wasn't compared with an
            original (its ``change_score`` is null).

        Raises:
            LookupError: the store was made without them.
            IndexError, StoreFormatError: as :meth:`frames`.
        """
        if not self.has_masks:
            raise LookupError(f"{self.url} has no masks: extract into another store with extract.save_masks: true")
        name, row_start, row_stop = self._placement(track)
        return self._rows(track, masks_name(name), row_start, row_stop, start, stop, step)

    def _placement(self, track: int | Mapping[str, Any]) -> tuple[str, int, int]:
        if isinstance(track, Mapping):
            return str(track["array"]), int(track["row_start"]), int(track["row_stop"])
        names, starts, stops = self._placements
        if not 0 <= track < len(names):
            raise IndexError(f"there is no track {track}: the store has {len(names)}, counted from 0")
        return names[track].as_py(), int(starts[track]), int(stops[track])

    def _rows(
        self,
        track: int | Mapping[str, Any],
        name: str,
        row_start: int,
        row_stop: int,
        start: int,
        stop: int | None,
        step: int,
    ) -> UInt8Array:
        length = row_stop - row_start
        stop = length if stop is None else stop
        if not 0 <= start < stop <= length or step < 1:
            raise IndexError(f"window [{start}, {stop}) step {step} doesn't lie in a track of {length} frames")
        try:
            # A contiguous read: chunks hold several frames, so a stride would fetch the same bytes.
            frames = self._array(name).read(row_start + start, row_start + stop)
            if len(frames) != stop - start:
                raise ValueError("the array ends before")
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise StoreFormatError(
                f"{self.url}/arrays/{name}: rows [{row_start}, {row_stop}) can't be read, {self._describe(track)} "
                f"({type(error).__name__}: {error}); 'python -m pipeline.store verify' lists all that is damaged, and "
                "with --repair drops it, so that the next extraction does it again"
            ) from error
        return frames[::step]

    def _describe(self, track: int | Mapping[str, Any]) -> str:
        columns = ["video_id", "track_id", "array"]
        row = track if isinstance(track, Mapping) else self.read_table("tracks", columns).slice(track, 1).to_pylist()[0]
        partition = str(row["array"]).rsplit("-", 1)[0]
        return f"track {row.get('track_id')} of video {row.get('video_id')!r} in {partition}"

    @cached_property
    def _keys(self) -> pa.Table:
        return self.read_table("tracks", ["video_id", "track_id", "array", "row_start"])

    @cached_property
    def _placements(self) -> tuple[pa.ChunkedArray, Any, Any]:
        table = self.read_table("tracks", ["array", "row_start", "row_stop"])
        return table["array"], table["row_start"].to_numpy(), table["row_stop"].to_numpy()

    def _array(self, name: str) -> Rows:
        """An open array; opening costs a few reads, so the latest used ones stay open."""
        if name in self._arrays:
            self._arrays.move_to_end(name)
            return self._arrays[name]
        # Of masks, shards of zeros only aren't there. Of frames all are written, so a missing one is a lost one.
        is_masks = frames_name(name) != name
        array = open_rows(self.files, f"arrays/{name}", may_lack_shards=is_masks)
        expected = -(-array.num_rows // array.shard_rows)
        found = self.files.num_files(f"arrays/{name}/c")
        if found != expected and not is_masks:
            raise FileNotFoundError(f"{found} of its {expected} shards are there")
        self._arrays[name] = array
        if len(self._arrays) > _MAX_OPEN_ARRAYS:
            self._arrays.popitem(last=False)
        return array

    def digest(self) -> str:
        """SHA-256 over the contents, hex: over each video's outcome and each track's metadata and frame checksum.

        It doesn't depend on partitioning, order of work, number of workers, restarts, or where the input lay. Frames
        enter through their stored checksums; that these are true is for ``verify`` to say.
        """
        of_video: dict[str, hashlib._Hash] = {}
        parts = zip(self.read_partitions("videos"), self.read_partitions("tracks"), strict=True)
        for all_of_videos, all_of_tracks in parts:
            videos = all_of_videos.drop_columns(list(CIRCUMSTANCE_COLUMNS))
            tracks = all_of_tracks.drop_columns(list(PLACEMENT_COLUMNS))
            for row, content in zip(videos["video_id"].to_pylist(), _row_contents(videos), strict=True):
                of_video[row] = hashlib.sha256(content)
            order = pc.sort_indices(tracks, [("video_id", "ascending"), ("track_id", "ascending")])
            tracks = tracks.take(order)
            for row, content in zip(tracks["video_id"].to_pylist(), _row_contents(tracks), strict=True):
                of_video[row].update(content)
        whole = hashlib.sha256()
        for video_id in sorted(of_video):
            whole.update(of_video[video_id].digest())
        return whole.hexdigest()


def _row_contents(table: pa.Table) -> Iterator[bytes]:
    """Each row as bytes: plain columns as JSON, list columns as their numbers in memory."""
    plain = [name for name in table.column_names if not pa.types.is_list(table.schema.field(name).type)]
    lists = [_numbers(table[name].combine_chunks()) for name in sorted(set(table.column_names) - set(plain))]
    for i, row in enumerate(table.select(sorted(plain)).to_pylist()):
        yield b"".join(
            [json.dumps(row).encode(), *(values[offsets[i] : offsets[i + 1]].tobytes() for offsets, values in lists)]
        )


def _numbers(column: pa.ListArray) -> tuple[Any, Any]:
    """Offsets (rows + 1) and values (elements, numbers an element) of a list column."""
    offsets = column.offsets.to_numpy()
    values, width = column.values, 1
    while pa.types.is_fixed_size_list(values.type):
        width *= values.type.list_size
        values = values.flatten()
    return offsets, values.to_numpy(zero_copy_only=False).reshape(-1, width)


def _commands() -> Any:
    """``python -m pipeline.store info|verify|gc STORE``. Here, not above: readers need neither click nor upkeep."""
    import click  # noqa: PLC0415

    from pipeline.cli import FOLDER, debug_option, plain_errors, printable  # noqa: PLC0415
    from pipeline.runs import only_run  # noqa: PLC0415
    from pipeline.upkeep import (  # noqa: PLC0415
        describe_store,
        drop_partition,
        find_orphans,
        find_problems,
        remove_orphans,
    )

    def example(command: str) -> str:
        return f"\n\n\b\nExample:   python -m pipeline.store {command}"

    group = click.Group(help="Look after a face-clip store." + example("info data/store"))

    @group.command(help="What a store holds." + example("info data/store"))
    @click.argument("store", type=FOLDER)
    @debug_option
    def info(store: str, debug: bool) -> None:
        with plain_errors(debug):
            for line in describe_store(FaceStore.open(store)):
                click.echo(printable(line))

    @group.command(
        help="Check every row, range and checksum against the arrays. Exit code 1 if anything is wrong."
        + example("verify data/store")
    )
    @click.argument("store", type=FOLDER)
    @click.option("--repair", is_flag=True, help="Drop broken partitions, so that the next extraction does them again.")
    @debug_option
    def verify(store: str, repair: bool, debug: bool) -> None:
        with plain_errors(debug):
            opened = FaceStore.open(store)
            # Alone from the start: what was found broken must not be somebody's new work when it is dropped.
            with only_run(opened.files) if repair else nullcontext():
                num_problems = 0
                broken: dict[str, None] = {}
                for partition_name, problem in find_problems(opened):
                    num_problems += 1
                    broken[partition_name] = None
                    click.echo(printable(problem))
                click.echo(f"{len(opened.partition_names)} partitions checked, {num_problems} problems")
                for partition_name in broken if repair else ():
                    drop_partition(opened, partition_name)
            if repair and broken:
                click.echo(f"{len(broken)} partitions dropped; the extraction that made them does them again")
        if num_problems and not repair:
            raise SystemExit(1)

    @group.command(
        help="Remove what killed attempts left behind. Refused while an extraction writes to the store."
        + example("gc data/store --dry-run")
    )
    @click.argument("store", type=FOLDER)
    @click.option("--dry-run", is_flag=True, help="Only list it.")
    @debug_option
    def gc(store: str, dry_run: bool, debug: bool) -> None:
        with plain_errors(debug):
            opened = FaceStore.open(store)
            if dry_run:
                orphans = find_orphans(opened)
            else:
                with only_run(opened.files):
                    orphans = remove_orphans(FaceStore.open(store))
            for name in orphans:
                click.echo(printable(name))
            click.echo(f"{len(orphans)} orphans {'found' if dry_run else 'removed'}")

    return group


if __name__ == "__main__":
    _commands()()
