"""What was asked for and what is done, for any number of videos: kept on disk, so that memory doesn't grow with it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Self

from pipeline.types import VideoRef

_REF_COLUMNS = [field.name for field in fields(VideoRef)]
_WITHOUT_ROW = """
    LEFT JOIN known ON known.video_id = video.video_id AND known.status NOT IN (SELECT value FROM json_each(?))
    WHERE video.is_asked AND known.video_id IS NULL
    """


@dataclass(frozen=True)
class Known:
    """What a store says of a video."""

    status: str
    size_bytes: int
    label: int | None
    source_id: str | None
    group_id: str

    def has_labels_of(self, ref: VideoRef) -> bool:
        """Whether its label, original and group are still those."""
        return (self.label, self.source_id, self.group_id) == (ref.label, ref.source_id, ref.group_id)


class Ledger:
    """A temporary database, gone when it is closed; a context manager."""

    def __init__(self) -> None:
        # No name: a file of SQLite's own in the temporary folder, of which a few MB are kept in memory.
        self._database = sqlite3.connect("")
        self._database.executescript(
            """
            PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
            CREATE TABLE videos (
                video_id TEXT PRIMARY KEY, path, size_bytes, modified_ns, label, source_id, group_id, is_asked
            ) WITHOUT ROWID;
            CREATE TABLE known (
                video_id TEXT PRIMARY KEY, status, size_bytes, label, source_id, group_id
            ) WITHOUT ROWID;
            """
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._database.close()

    def clear(self) -> None:
        """Forget everything."""
        self._database.executescript("DROP INDEX IF EXISTS family; DELETE FROM videos; DELETE FROM known;")

    def ask(self, refs: Sequence[VideoRef]) -> list[str]:
        """Note videos as asked for.

        Returns:
            Those that had been already.
        """
        counts = Counter(ref.video_id for ref in refs)
        again = self._among_videos(list(counts)) + [video_id for video_id, count in counts.items() if count > 1]
        self._note(refs, is_asked=True)
        return again

    def mention(self, refs: Sequence[VideoRef]) -> None:
        """Note videos that aren't asked for, since others may have been made from them."""
        self._note(refs, is_asked=False)

    def _note(self, refs: Sequence[VideoRef], is_asked: bool) -> None:
        rows = ((*astuple(ref), is_asked) for ref in refs)
        self._database.executemany("INSERT OR IGNORE INTO videos VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def learn(self, rows: Iterable[dict[str, object]]) -> None:
        """Note rows of a store's ``videos`` table, with at least the columns of :class:`Known`."""
        self._database.executemany(
            "INSERT OR REPLACE INTO known VALUES (:video_id, :status, :size_bytes, :label, :source_id, :group_id)", rows
        )

    def known(self, video_ids: Sequence[str]) -> dict[str, Known]:
        """What the store says of these videos; those without a row are left out."""
        query = "SELECT * FROM known WHERE video_id IN (SELECT value FROM json_each(?))"
        return {row[0]: Known(*row[1:]) for row in self._database.execute(query, [json.dumps(video_ids)])}

    def asked(self, video_ids: Sequence[str]) -> set[str]:
        """Those of these videos that were asked for."""
        return set(self._among_videos(video_ids, "AND is_asked"))

    def num_known_unasked(self) -> int:
        """Videos in the store that weren't asked for."""
        query = "SELECT count(*) FROM known WHERE video_id NOT IN (SELECT video_id FROM videos WHERE is_asked)"
        return int(self._database.execute(query).fetchone()[0])

    def without_row(self, not_counted: Collection[str] = ()) -> Iterator[tuple[VideoRef, VideoRef | None]]:
        """The videos asked for that have no row in the store, each with the original that it names, if that was noted.

        By original, and the original itself first.

        Args:
            not_counted: statuses of rows that are as good as none.
        """
        self._sort()
        columns = ", ".join(f"{table}.{column}" for table in ("video", "original") for column in _REF_COLUMNS)
        query = f"""
            SELECT {columns} FROM videos AS video
            LEFT JOIN videos AS original ON original.video_id = video.source_id
            {_WITHOUT_ROW}
            ORDER BY coalesce(video.source_id, video.video_id), video.source_id IS NOT NULL, video.video_id
            """  # noqa: S608  names of our own
        for row in self._database.execute(query, [json.dumps(list(not_counted))]):
            ref, original = row[: len(_REF_COLUMNS)], row[len(_REF_COLUMNS) :]
            yield VideoRef(*ref), None if original[0] is None else VideoRef(*original)

    def num_families(self, not_counted: Collection[str] = ()) -> int:
        """How many originals the videos of :meth:`without_row` are, or name."""
        self._sort()
        query = f"SELECT count(DISTINCT coalesce(video.source_id, video.video_id)) FROM videos AS video {_WITHOUT_ROW}"  # noqa: S608
        return int(self._database.execute(query, [json.dumps(list(not_counted))]).fetchone()[0])

    def _sort(self) -> None:
        # Not before all are noted: sorting them at once is faster than keeping them sorted.
        self._database.execute("CREATE INDEX IF NOT EXISTS family ON videos (coalesce(source_id, video_id))")

    def _among_videos(self, video_ids: Sequence[str], condition: str = "") -> list[str]:
        query = f"SELECT video_id FROM videos WHERE video_id IN (SELECT value FROM json_each(?)) {condition}"  # noqa: S608
        return [row[0] for row in self._database.execute(query, [json.dumps(video_ids)])]
