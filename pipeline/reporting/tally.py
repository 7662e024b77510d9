"""Counting the rows of a store's tables by what they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.types import FAKE, REAL, STATUSES

LABELS: tuple[int | None, ...] = (REAL, FAKE, None)
"""In the order in which they are shown."""
LABEL_NAMES: dict[int | None, str] = {REAL: "REAL", FAKE: "FAKE", None: "no label"}
FACE_LABEL_NAMES: dict[int | None, str] = {REAL: "as it was filmed", FAKE: "changed", None: "unknown"}

_NUMBER = re.compile(r"\b\d+(?:\.\d+)?\b")
MOST_GROUPS = 20
MOST_EXAMPLES = 3


@dataclass(frozen=True)
class CountRow:
    """A row of a table of counts."""

    name: str
    counts: tuple[int, ...]
    """One a column."""

    @property
    def total(self) -> int:
        return sum(self.counts)


def statuses_of(videos: pa.Table) -> list[str]:
    """All that are known, and others that are there."""
    found = {str(status) for status in pc.unique(videos["status"]).to_pylist()}
    return [*STATUSES, *sorted(found - set(STATUSES))]


def without_numbers(text: str) -> str:
    """A text that is the same for all videos of which it is said, whatever the numbers in it."""
    return _NUMBER.sub("N", text)


def count_by(table: pa.Table, columns: Sequence[str], weights: str | None = None) -> dict[tuple[Any, ...], int]:
    """How many rows there are of each combination of values, null being one; or the sum of a column over them."""
    aggregation: Any = ([], "count_all") if weights is None else (weights, "sum")
    found = table.group_by(list(columns), use_threads=False).aggregate([aggregation])
    result = found["count_all" if weights is None else f"{weights}_sum"].to_pylist()
    return dict(zip(zip(*(found[name].to_pylist() for name in columns), strict=True), result, strict=True))


@dataclass(frozen=True)
class Group:
    """Videos of which the same is said."""

    text: str
    num_videos: int
    examples: tuple[str, ...]
    """The first ``video_id`` of them."""


@dataclass(frozen=True)
class Groups:
    """What is said of videos, the most frequent first."""

    shown: tuple[Group, ...]
    num_groups: int
    """With those that aren't shown."""
    num_videos: int
    """Likewise."""

    @property
    def num_groups_left_out(self) -> int:
        return self.num_groups - len(self.shown)

    @property
    def num_videos_left_out(self) -> int:
        return self.num_videos - sum(group.num_videos for group in self.shown)


def grouped(said: Iterable[tuple[str, str]], most: int = MOST_GROUPS) -> Groups:
    """Videos by what is said of them.

    Args:
        said: a text and a ``video_id`` each.
        most: groups that are kept.
    """
    video_ids: dict[str, list[str]] = {}
    for text, video_id in said:
        video_ids.setdefault(text, []).append(video_id)
    frequent = sorted(video_ids.items(), key=lambda item: (-len(item[1]), item[0]))
    shown = tuple(Group(text, len(ids), tuple(sorted(ids)[:MOST_EXAMPLES])) for text, ids in frequent[:most])
    return Groups(shown, len(video_ids), sum(map(len, video_ids.values())))
