"""What whoever opens the report should know first; pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reporting.scores_view import ScoresView
from pipeline.reporting.store_view import StoreView

Kind = Literal["good", "note", "bad"]


@dataclass(frozen=True)
class Notice:
    """One thing to know."""

    kind: Kind
    text: str
    section: str
    """``id`` of the section of the page that says more; empty: none does."""


def notices(
    store: StoreView, videos: pa.Table, scores: ScoresView | None, num_damaged: int, num_shown: int
) -> tuple[Notice, ...]:
    """What went wrong, worst first; one good word where nothing did.

    Args:
        store: what became of videos.
        videos: with ``num_frames_failed``, ``num_tracks_too_short`` and ``num_tracks_over_max_faces``.
        scores: where they were asked for.
        num_damaged: clips that couldn't be read.
        num_shown: clips that were to be shown.
    """
    total, found = store.videos.total, []
    if not total:
        return (Notice("bad", "There is no video in this store.", ""),)
    if store.num_failed:
        found.append(Notice("bad", f"{_of(store.num_failed, total)} ended in an error.", "failures"))
    if num_damaged:
        found.append(
            Notice("bad", f"Of {num_shown:,} clips looked at for this page, {num_damaged:,} can't be read.", "damaged")
        )
    if not store.tracks.total:
        found.append(Notice("bad", "There is no track in this store.", "outcomes"))
    damaged_videos = int(pc.sum(pc.greater(videos["num_frames_failed"], 0)).as_py() or 0)
    if damaged_videos:
        frames = int(pc.sum(videos["num_frames_failed"]).as_py())
        found.append(
            Notice(
                "note",
                f"{_of(damaged_videos, total)} lack frames that failed to decode, {frames:,} in all.",
                "failures",
            )
        )
    for status, said in (("no_face", "no face was found"), ("too_short", "faces were found for too short a time only")):
        if number := store.num_with(status):
            found.append(Notice("note", f"In {_of(number, total)} {said}.", "outcomes"))
    for column, said in (
        ("num_tracks_over_max_faces", "show more faces than track.max_faces, which were left out"),
        ("num_tracks_too_short", "show faces for less than track.min_frames, which were left out"),
    ):
        # Of those without a track it is said above.
        left_out = videos.filter(pc.equal(videos["status"], "ok"))[column]
        if number := int(pc.sum(pc.greater(left_out, 0)).as_py() or 0):
            found.append(
                Notice("note", f"{_of(number, total)} {said}: {pc.sum(left_out).as_py():,} in all.", "outcomes")
            )
    if store.videos.counts[-1]:
        found.append(Notice("note", f"{_of(store.videos.counts[-1], total)} have no label.", "outcomes"))
    if scores is not None and scores.num_errors:
        found.append(Notice("bad", f"{_of(scores.num_errors, scores.num_windows, 'window')} have no score.", "scores"))
    # sorted() keeps the order of those that are alike.
    return tuple(sorted(found, key=lambda notice: notice.kind != "bad")) or (
        Notice("good", "Every video has a track of each face that was found, and no frame failed to decode.", ""),
    )


def _of(number: int, total: int, noun: str = "video") -> str:
    share = number / total
    said = f"{100 * share:.1f} %" if share >= 0.001 else "less than 0.1 %"
    return f"{number:,} of {total:,} {noun}{'s' * (total != 1)} ({said})"
