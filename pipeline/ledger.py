"""What was asked for and what is done, for any number of videos: kept on disk, so that memory doesn't grow with it."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.types import VideoRef


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
            CREATE TABLE asked (video_id TEXT PRIMARY KEY) WITHOUT ROWID;
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
        self._database.executescript("DELETE FROM asked; DELETE FROM known;")

    def ask(self, refs: Sequence[VideoRef]) -> list[str]:
        """Note videos as asked for.

        Returns:
            Those that had been already.
        """
        counts = Counter(ref.video_id for ref in refs)
        again = self._among("asked", list(counts)) + [video_id for video_id, count in counts.items() if count > 1]
        self._database.executemany("INSERT OR IGNORE INTO asked VALUES (?)", [(ref.video_id,) for ref in refs])
        return again

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
        return set(self._among("asked", video_ids))

    def num_known_unasked(self) -> int:
        """Videos in the store that weren't asked for."""
        query = "SELECT count(*) FROM known WHERE video_id NOT IN (SELECT video_id FROM asked)"
        return int(self._database.execute(query).fetchone()[0])

    def _among(self, table: str, video_ids: Sequence[str]) -> list[str]:
        query = f"SELECT video_id FROM {table} WHERE video_id IN (SELECT value FROM json_each(?))"  # noqa: S608
        return [row[0] for row in self._database.execute(query, [json.dumps(video_ids)])]
