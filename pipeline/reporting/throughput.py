"""Where the seconds of an extraction went: a section of the report, from the table of videos alone."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

STAGES = {"decode": "decode_seconds", "detect": "detect_seconds", "write": "write_seconds"}
"""Columns by stage, in the order of the work."""


@dataclass(frozen=True)
class StageRow:
    """What one stage of the work took."""

    name: str
    seconds: float
    share: float
    """Of all stages."""
    videos_per_second: float | None
    """Of a worker; None: it took no time."""
    frames_per_second: float | None


@dataclass(frozen=True)
class Throughput:
    """What workers spent on a store."""

    stages: tuple[StageRow, ...]
    total: StageRow
    num_videos: int
    num_frames: int
    """Decoded."""
    megabytes: float
    """Of the videos."""


def throughput(videos: pa.Table) -> Throughput:
    """Seconds by stage.

    Args:
        videos: with ``num_frames_decoded``, ``size_bytes`` and the columns of :data:`STAGES`.
    """
    num_frames = int(pc.sum(videos["num_frames_decoded"]).as_py() or 0)
    seconds = {name: float(pc.sum(videos[column]).as_py() or 0.0) for name, column in STAGES.items()}
    total = sum(seconds.values())

    def row(name: str, own: float) -> StageRow:
        if not own:
            return StageRow(name, 0.0, 0.0, None, None)
        return StageRow(name, own, own / total, videos.num_rows / own, num_frames / own)

    return Throughput(
        stages=tuple(row(name, own) for name, own in seconds.items()),
        total=row("all", total),
        num_videos=videos.num_rows,
        num_frames=num_frames,
        megabytes=(pc.sum(videos["size_bytes"]).as_py() or 0) / 1e6,
    )
