"""Stores made of random pixels and boxes, and what damages them on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import CropSettings, Settings, StoreSettings
from pipeline.files import StoreFiles
from pipeline.schema import StoredTrack
from pipeline.store import FaceStore
from pipeline.types import Float32Array, Status, Track, UInt8Array, VideoOutcome, VideoRef
from pipeline.writer import PartitionWriter, create_or_resume, frames_checksum

SIZE = 16
CHUNK, SHARD = 2, 8
SETTINGS = Settings(
    crop=CropSettings(size=SIZE), store=StoreSettings(codec="zstd", chunk_frames=CHUNK, shard_frames=SHARD)
)


@dataclass(frozen=True)
class Video:
    """What the pipeline would know of one video: its outcome, and each track with its frames."""

    outcome: VideoOutcome
    clips: tuple[tuple[StoredTrack, UInt8Array], ...] = ()


def boxes(rng: np.random.Generator, length: int) -> Float32Array:
    corners = rng.uniform(-5, 90, (length, 2))
    return np.concatenate([corners, corners + rng.uniform(1, 60, (length, 2))], axis=1).astype(np.float32)


def make_clip(
    rng: np.random.Generator,
    ref: VideoRef,
    track_id: int,
    length: int,
    frames: UInt8Array | None = None,
    frame_start: int | None = None,
    pair_id: str | None = None,
    face_label: int | None = None,
) -> tuple[StoredTrack, UInt8Array]:
    """A track of random boxes and random pixels; where it lies is up to the writer."""
    if frames is None:
        frames = rng.integers(0, 256, (length, SIZE, SIZE, 3), np.uint8)
    start = int(rng.integers(0, 1000))
    if frame_start is not None:
        start = frame_start
    track = Track(
        face_id=track_id, segment=int(rng.integers(0, 3)), frame_start=start, boxes_xyxy=boxes(rng, length),
        landmarks=rng.normal(50, 20, (length, 5, 2)).astype(np.float32),
        scores=rng.random(length, np.float32), observed=rng.random(length) < 0.5,
    )  # fmt: skip
    stored = StoredTrack(
        video_id=ref.video_id, track_id=track_id, array="", row_start=-1, track=track, crop_xyxy=boxes(rng, length),
        timestamps_seconds=(start + np.arange(length)) / 29.97, fps=29.97, label=ref.label, source_id=ref.source_id,
        group_id=ref.group_id, width=1920, height=1080, sharpness=float(rng.random()), checksum=frames_checksum(frames),
        pair_id=pair_id, face_label=face_label,
    )  # fmt: skip
    return stored, frames


def make_video(
    video_id: str,
    lengths: Sequence[int] = (),
    seed: int = 0,
    label: int | None = None,
    source_id: str | None = None,
    status: Status | None = None,
    group_id: str | None = None,
    frames: UInt8Array | Sequence[UInt8Array] | None = None,
    frame_start: int | None = None,
    pair_ids: Sequence[str | None] = (),
    face_labels: Sequence[int | None] = (),
) -> Video:
    """A video with a track of each length; without any it ended as ``no_face``. Its frames are random if not given, or
    those of all tracks, or of each."""
    rng = np.random.default_rng([seed, *video_id.encode()])
    ref = VideoRef(
        video_id, f"/videos/{video_id}", 1234 + seed, 99, label, source_id, group_id or source_id or video_id
    )
    none = [None] * len(lengths)
    each_frames = [frames] * len(lengths) if frames is None or isinstance(frames, np.ndarray) else frames
    of_tracks = zip(lengths, each_frames, pair_ids or none, face_labels or none, strict=True)
    clips = tuple(
        make_clip(rng, ref, track_id, length, own_frames, frame_start, pair_id, face_label)
        for track_id, (length, own_frames, pair_id, face_label) in enumerate(of_tracks)
    )
    outcome = VideoOutcome(
        ref, status or ("ok" if lengths else "no_face"), message=None if lengths else "nobody there",
        num_frames_from_header=300, num_frames_decoded=299, num_frames_failed=1, width=1920, height=1080,
        fps_from_header=29.97, num_tracks=len(lengths), num_tracks_too_short=2, num_tracks_over_max_faces=1,
        detect_scale=0.5, thresholds=(0.7, 0.8, 0.9), decode_seconds=1.5, detect_seconds=2.5, write_seconds=0.25,
    )  # fmt: skip
    return Video(outcome, clips)


def append(writer: PartitionWriter, videos: Sequence[Video]) -> list[StoredTrack]:
    """Put the clips into the writer's array; the rows say where they went."""
    return [
        replace(stored, array=writer.array_name, row_start=writer.append(frames))
        for video in videos
        for stored, frames in video.clips
    ]


def write_partition(files: StoreFiles, name: str, videos: Sequence[Video], made_with: Settings = SETTINGS) -> None:
    writer = PartitionWriter(files, name, made_with.crop.size, made_with.store)
    stored = append(writer, videos)
    writer.commit([video.outcome for video in videos], stored)


def write_store(url: str | Path, partitions: Sequence[Sequence[Video]], made_with: Settings = SETTINGS) -> FaceStore:
    """A store with these videos, a partition each sequence of them."""
    files = create_or_resume(str(url), made_with)
    for number, videos in enumerate(partitions):
        write_partition(files, f"part-{number:05d}", videos, made_with)
    return FaceStore.open(str(url))


def shard_files(url: str | Path) -> list[Path]:
    """All shards of a store on disk, in order."""
    return sorted(path for path in Path(url).glob("arrays/*.zarr/c/**/*") if path.is_file())


def change_table(url: str | Path, table: str, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Replace a parquet file of a store by what ``change`` makes of it."""
    path = Path(url) / table / f"{name}.parquet"
    pq.write_table(change(pq.read_table(path)), path)


def set_value(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    field = table.schema.field(column)
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))


def small_store(url: str | Path, made_with: Settings = SETTINGS) -> FaceStore:
    """Two partitions: three videos with tracks of 19, 5 and 8 frames, one without any."""
    return write_store(
        url,
        [
            [make_video("a/x.mp4", [19, 5], label=1, source_id="b/y.mp4"), make_video("a/none.mp4")],
            [make_video("b/y.mp4", [8], label=0)],
        ],
        made_with,
    )
