"""The index of the input: which videos there are, what is known about each, and its table on disk.

What ``VIDEOS`` may be in every command is decided here: a folder, one video file, a glob, or the table itself.
"""

from __future__ import annotations

import glob
import os
import stat
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from heapq import heappop, heappush
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.labels import LabelError, gather_facts, group_videos, is_utf8
from pipeline.nearest import did_you_mean_path
from pipeline.types import FAKE, REAL, VideoRef

T = TypeVar("T")

VIDEO_ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
"""In lower case; the case of a file's ending doesn't matter."""

METADATA_NAME = "metadata.json"
"""DFDC's labels of the videos beside it."""

INDEX_ENDING = ".parquet"

BATCH_ROWS = 4096
"""Rows of an index that are in memory at once."""
_REMEDY = "build it again with `python -m pipeline.index`"

INDEX_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("modified_ns", pa.int64(), nullable=False),
        pa.field("label", pa.int8()),
        pa.field("source_id", pa.string()),
        pa.field("group_id", pa.string(), nullable=False),
    ]
)


class NoVideosError(InputError):
    """``VIDEOS`` names nothing that could be indexed."""


class IndexFormatError(InputError):
    """A file that should be an index isn't one, or holds rows that can't be trusted."""


@dataclass
class Found:
    """What a search came upon."""

    root: str
    """The folder that every ``video_id`` counts from, as the user gave it; empty for the working directory."""
    videos: list[VideoRef] = field(default_factory=list)
    """Sorted by ``video_id``; nothing known about labels, each a group of its own."""
    metadata_files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was met and left out, for people, sorted."""


@dataclass(frozen=True)
class IndexReport:
    """What an index holds, and what didn't fit together."""

    num_real: int
    num_fake: int
    num_groups: int
    num_videos_in_largest_group: int
    unlabelled: tuple[str, ...]
    """``video_id`` of the videos without a label, like the following sorted."""
    labels_without_video: tuple[str, ...] = ()
    missing_originals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_videos(self) -> int:
        return self.num_real + self.num_fake + len(self.unlabelled)

    def lines(self) -> Iterator[str]:
        """For people: one fact a line, names quoted so that they can't break a line or drive the terminal."""
        yield f"videos: {self.num_videos} (REAL {self.num_real}, FAKE {self.num_fake}, no label {len(self.unlabelled)})"
        yield f"groups: {self.num_groups} (largest: {self.num_videos_in_largest_group} videos)"
        for title, names in (
            ("videos without a label", self.unlabelled),
            ("labels without a video", self.labels_without_video),
            ("originals that aren't here", self.missing_originals),
        ):
            if names:
                yield f"{title}: {len(names)} ({_some(map(repr, names[:3]), len(names))})"
        yield from (f"note: {note}" for note in self.notes[:20])
        if len(self.notes) > 20:
            yield f"note: and {len(self.notes) - 20} more of this kind"


def build_index(videos: str, labels: str | None = None) -> tuple[list[VideoRef], IndexReport]:
    """The videos that ``videos`` stands for, labelled and grouped, sorted by ``video_id``.

    Args:
        videos: a folder (searched through), a video file, a glob, or an index, whose labels are kept as they are.
        labels: a file that ``pipeline.labels.read_labels`` reads; by default every DFDC ``metadata.json`` found, and
            the folder layouts of FaceForensics++ and Celeb-DF.

    Raises:
        NoVideosError: there is nothing at ``videos``, or no video.
        LabelError: the labels are malformed or contradict each other, or an index was given labels.
        IndexFormatError: ``videos`` looks like an index and isn't.
    """
    if _is_index(videos):
        _refuse_labels(videos, labels)
        indexed = read_index(videos)
        if not indexed:
            raise _without_rows(videos)
        return indexed, _report(indexed)

    found = find_videos(videos)
    facts = gather_facts(found.root, [video.video_id for video in found.videos], labels, found.metadata_files)
    groups = group_videos([video.video_id for video in found.videos], facts)
    known = []
    for video in found.videos:
        fact = facts.pop(video.video_id, None)
        label, source_id = (fact.label, fact.original) if fact else (None, None)
        known.append(replace(video, label=label, source_id=source_id, group_id=groups[video.video_id]))
    return known, replace(_report(known), labels_without_video=tuple(sorted(facts)), notes=tuple(found.notes))


class Videos:
    """The videos that a command was asked to work on, as often as needed, some at a time.

    Those of an index are read from its file each time, so that there may be any number of them.
    """

    def __init__(self, videos: str, labels: str | None = None, limit: int | None = None) -> None:
        """Raises what :func:`build_index` raises."""
        self.name = videos
        self.limit = limit
        self._refs: list[VideoRef] | None = None
        self.lines: list[str] = []
        """What was found, for people."""
        if _is_index(videos):
            _refuse_labels(videos, labels)
            if next(self.batches(), None) is None:
                raise _without_rows(videos)
        else:
            self._refs, report = build_index(videos, labels)
            self.lines = list(report.lines())

    def batches(self) -> Iterator[list[VideoRef]]:
        """All videos in the order of the index, or the first ``limit`` of them."""
        left = self.limit
        for batch in self._all():
            taken = list(batch[:left])
            if taken:
                yield taken
            if left is not None:
                left -= len(taken)
                if left <= 0:
                    return

    def beyond_limit(self) -> Iterator[list[VideoRef]]:
        """The videos that ``limit`` leaves out."""
        if self.limit is None:
            return
        skip = self.limit
        for batch in self._all():
            if skip < len(batch):
                yield list(batch[skip:])
            skip = max(0, skip - len(batch))

    def _all(self) -> Iterator[Sequence[VideoRef]]:
        return iter_index(self.name, BATCH_ROWS) if self._refs is None else batched(self._refs, BATCH_ROWS)


def batched(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Slices of at most so many items."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _is_index(videos: str) -> bool:
    return videos.lower().endswith(INDEX_ENDING) and Path(videos).is_file()


def _refuse_labels(index: str, labels: str | None) -> None:
    if labels is not None:
        raise LabelError(f"{index!r} is an index with labels of its own, so {labels!r} can't be used; leave it out")


def _without_rows(index: str) -> NoVideosError:
    return NoVideosError(f"{index!r} is an index without rows, so there is nothing to do; build it again")


def _report(videos: Sequence[VideoRef]) -> IndexReport:
    ids = {video.video_id for video in videos}
    labels = Counter(video.label for video in videos)
    groups = Counter(video.group_id for video in videos)
    return IndexReport(
        num_real=labels[REAL],
        num_fake=labels[FAKE],
        num_groups=len(groups),
        num_videos_in_largest_group=max(groups.values()),
        unlabelled=tuple(video.video_id for video in videos if video.label is None),
        missing_originals=tuple(sorted({video.source_id for video in videos if video.source_id is not None} - ids)),
    )


def _some(names: Iterable[str], total: int) -> str:
    shown = list(names)
    return ", ".join(shown) + (", ..." if total > len(shown) else "")


# Finding


def find_videos(videos: str) -> Found:
    """The video files that a folder, a file or a glob stands for, whether or not they can be decoded.

    Links are followed. A glob may hold ``**``, takes names that begin with a dot like any other, and is searched
    through where it matches a folder.

    Raises:
        NoVideosError: nothing there, or no video.
    """
    if not is_utf8(videos):
        raise NoVideosError(f"{videos!r} isn't UTF-8, so no index could hold the paths below it; rename it")
    if videos and Path(videos).is_dir():
        found = _search(videos, ())
    elif videos and Path(videos).is_file():
        found = _single_file(videos)
    elif glob.has_magic(videos):
        found = _glob(videos)
    else:
        remedy = "mount the bucket, or copy the videos to a disk" if "://" in videos else "check the path"
        raise NoVideosError(
            f"VIDEOS {videos!r} is neither a file nor a folder on this machine; {remedy}{did_you_mean_path(videos)}"
        )
    if not found.videos:
        if Path(videos, "store.json").is_file():
            raise NoVideosError(
                f"{videos!r} is a face-clip store, not a folder of videos; VIDEOS comes first, then STORE"
            )
        notes = f" Left out: {_some(found.notes[:3], len(found.notes))}." if found.notes else ""
        raise NoVideosError(
            f"no videos in {videos!r}: nothing there is a file that ends in {', '.join(VIDEO_ENDINGS)}.{notes} "
            f"Give a folder, a file, a quoted glob, or an index ({INDEX_ENDING})."
        )
    return found


def _single_file(path: str) -> Found:
    root, name = os.path.split(path)
    if not _is_video_name(name):
        return Found(root)
    metadata = os.path.join(root, METADATA_NAME)
    return Found(root, [_ref(root, name, Path(path).stat())], [metadata] if Path(metadata).is_file() else [])


def _glob(pattern: str) -> Found:
    first_wildcard = next(position for position, character in enumerate(pattern) if character in "*?[")
    root = os.path.dirname(pattern[:first_wildcard])  # noqa: PTH120  keeps the path as it was given
    parts = tuple(part for part in pattern[len(root) :].split("/") if part not in {"", "."})
    if ".." in parts:
        raise NoVideosError(f"{pattern!r} has '..' after a wildcard, which isn't followed; write it without")
    return _search(root, parts)


def _search(root: str, pattern: tuple[str, ...]) -> Found:
    """Everything below ``root`` that matches ``pattern`` or lies in a folder that does.

    A folder is searched once, however many links lead there: by its own path where that is below ``root``, since
    links wait until all real folders are done. So links can't loop, and no video comes in under two names through them.
    """
    found = Found(root)
    searched: set[tuple[int, int]] = set()
    pending = [(False, "")]  # (reached through a link, path below the root)
    while pending:
        _, folder = heappop(pending)
        path = os.path.join(root, folder) or "."
        try:
            status = Path(path).stat()
            if (status.st_dev, status.st_ino) in searched:
                found.notes.append(f"link {folder!r} is passed over: its folder is searched under another name")
                continue
            searched.add((status.st_dev, status.st_ino))
            with os.scandir(path) as entries:
                for entry in entries:
                    _visit(entry, f"{folder}/{entry.name}" if folder else entry.name, pattern, found, pending)
        except OSError as error:
            found.notes.append(f"folder {folder or root!r} can't be read ({error.strerror})")
    for names in (found.metadata_files, found.notes):
        names.sort()
    found.videos.sort(key=lambda video: video.video_id)
    return found


def _visit(
    entry: os.DirEntry[str], video_id: str, pattern: tuple[str, ...], found: Found, pending: list[tuple[bool, str]]
) -> None:
    try:
        is_folder = entry.is_dir()
        is_video = _is_video_name(entry.name)
        if not is_utf8(entry.name):
            if is_folder or is_video:
                found.notes.append(
                    f"{video_id!r} is left out: its name isn't UTF-8, which no table can hold; rename it"
                )
        elif is_folder:
            if is_video:
                found.notes.append(f"{video_id!r} is a folder; it is searched through, but is no video")
            if _may_hold_matches(video_id.split("/"), pattern):
                heappush(pending, (entry.is_symlink(), video_id))
        elif entry.name == METADATA_NAME:
            found.metadata_files.append(os.path.join(found.root, video_id))
        elif is_video and _matches(video_id.split("/"), pattern):
            status = entry.stat()
            if stat.S_ISREG(status.st_mode):
                found.videos.append(_ref(found.root, video_id, status))
            else:
                found.notes.append(f"{video_id!r} is left out: it is a pipe, socket or device")
        elif entry.is_symlink():
            entry.stat()  # it may have led to a folder of videos
    except OSError as error:
        found.notes.append(f"{video_id!r} is left out: it can't be reached ({error.strerror})")


def _ref(root: str, video_id: str, status: os.stat_result) -> VideoRef:
    path = os.path.join(root, video_id)
    return VideoRef(video_id, path, status.st_size, status.st_mtime_ns, group_id=video_id)


def _is_video_name(name: str) -> bool:
    return name.lower().endswith(VIDEO_ENDINGS)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path, or a folder it lies in, matches a glob; ``**`` stands for any number of folders."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_hold_matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether something below this folder could match; keeps a search from walking the whole disk."""
    for part, wanted in zip(parts, pattern, strict=False):
        if wanted == "**":
            return True
        if not fnmatchcase(part, wanted):
            return False
    return True


# The table


def write_index(path: str, videos: Sequence[VideoRef]) -> None:
    """Writes the index, whole or not at all; missing folders are made.

    Raises:
        OSError: ``path`` is a folder, or can't be written.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"OUT {path!r} is a folder, so no index can be written there; name a file in it")
    columns = {name: [getattr(video, name) for video in videos] for name in INDEX_SCHEMA.names}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        pq.write_table(pa.table(columns, INDEX_SCHEMA), temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def iter_index(path: str, batch_rows: int = BATCH_ROWS) -> Iterator[list[VideoRef]]:
    """The rows of an index in the order of the file, some at a time; columns it doesn't know are ignored.

    That no ``video_id`` comes twice is for the caller to see to.

    Raises:
        FileNotFoundError: there is no such file.
        IndexFormatError: it isn't parquet, a column is missing or of another type, or a row is invalid.
    """
    try:
        with pq.ParquetFile(path) as file:
            columns = [name for name in INDEX_SCHEMA.names if name in file.schema_arrow.names]
            _check_rows(path, file.schema_arrow.empty_table())  # Also where there are no rows.
            for batch in file.iter_batches(batch_rows, columns=columns):
                yield _check_rows(path, pa.Table.from_batches([batch]))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise IndexFormatError(f"{path!r} is no index of videos: {error}; {_REMEDY}") from error


def read_index(path: str) -> list[VideoRef]:
    """All rows of an index, each ``video_id`` once.

    Raises:
        FileNotFoundError, IndexFormatError: as :func:`iter_index`.
    """
    refs = [ref for batch in iter_index(path) for ref in batch]
    seen: set[str] = set()
    for ref in refs:
        if ref.video_id in seen:
            raise duplicate_in_index(path, ref.video_id)
        seen.add(ref.video_id)
    return refs


def duplicate_in_index(path: str, video_id: str) -> IndexFormatError:
    """The error of an index that has a video twice."""
    return IndexFormatError(f"{path!r} has the video_id {video_id!r} twice, so results would be mixed up; {_REMEDY}")


def _check_rows(path: str, stored: pa.Table) -> list[VideoRef]:
    try:
        table = pa.table([_column(stored, wanted) for wanted in INDEX_SCHEMA], INDEX_SCHEMA)
        table.validate(full=True)
    except (pa.ArrowException, IndexFormatError) as error:
        raise IndexFormatError(f"{path!r} is no index of videos: {error}; {_REMEDY}") from error
    rows = table.to_pylist()
    for row in rows:
        video_id = row["video_id"]
        if "\0" in video_id or any(part in {"", ".", ".."} for part in video_id.split("/")):
            raise IndexFormatError(
                f"{path!r} has the video_id {video_id!r}, which isn't a path below a folder; {_REMEDY}"
            )
        if row["label"] not in (REAL, FAKE, None):
            raise IndexFormatError(
                f"{path!r} labels {video_id!r} {row['label']}; only 0, 1 and null are known; {_REMEDY}"
            )
    return [VideoRef(**row) for row in rows]


def _column(table: pa.Table, wanted: pa.Field) -> pa.ChunkedArray:
    """A column in the type it should have; types that other libraries make of it are taken where nothing is lost."""
    if table.column_names.count(wanted.name) != 1:
        raise IndexFormatError(f"the column {wanted.name!r} is missing or there twice")
    column = table.column(wanted.name)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if not (pa.types.is_null(column.type) or (is_text if pa.types.is_string(wanted.type) else is_number)):
        raise IndexFormatError(f"the column {wanted.name!r} is {column.type}, not {wanted.type}")
    if column.null_count and not wanted.nullable:
        raise IndexFormatError(f"the column {wanted.name!r} has {column.null_count} nulls")
    return column.cast(wanted.type)
