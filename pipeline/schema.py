"""The tables of a store, format version 1: their columns, and rows from what the pipeline knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.types import FAKE, REAL, Float32Array, Track, VideoOutcome

FORMAT = "face-clip-store"
FORMAT_VERSION = 1

_MASKS_ENDING = ".masks.zarr"

_BOX = pa.list_(pa.float32(), 4)
_LANDMARKS = pa.list_(pa.list_(pa.float32(), 2), 5)

TRACKS_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("track_id", pa.int32()),
        ("array", pa.string()),
        ("row_start", pa.int64()),
        ("row_stop", pa.int64()),
        ("frame_start", pa.int64()),
        ("frame_stop", pa.int64()),
        ("frame_step", pa.int32()),
        ("fps", pa.float64()),
        ("label", pa.int8()),
        ("source_id", pa.string()),
        ("group_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes_xyxy", pa.list_(_BOX)),
        ("landmarks", pa.list_(_LANDMARKS)),
        ("crop_xyxy", pa.list_(_BOX)),
        ("scores", pa.list_(pa.float32())),
        ("observed", pa.list_(pa.bool_())),
        ("mean_score", pa.float32()),
        ("observed_fraction", pa.float32()),
        ("mean_face_size", pa.float32()),
        ("sharpness", pa.float32()),
        ("checksum", pa.string()),
        ("face_id", pa.int32()),
        ("segment", pa.int32()),
        ("timestamps_seconds", pa.list_(pa.float64())),
        ("pair_id", pa.string()),
        ("face_label", pa.int8()),
        ("change_score", pa.float32()),
        ("change_scores", pa.list_(pa.float32())),
    ]
)
"""One row a track: one face over consecutive frames."""

PER_FRAME_COLUMNS = tuple(field.name for field in TRACKS_SCHEMA if pa.types.is_list(field.type))
"""Lists, as long as the track where they aren't null."""

VIDEOS_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("path", pa.string()),
        ("size_bytes", pa.int64()),
        ("label", pa.int8()),
        ("source_id", pa.string()),
        ("group_id", pa.string()),
        ("status", pa.string()),
        ("error_type", pa.string()),
        ("message", pa.string()),
        ("num_frames_from_header", pa.int64()),
        ("num_frames_decoded", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("fps_from_header", pa.float64()),
        ("num_tracks", pa.int32()),
        ("detect_scale", pa.float64()),
        ("thresholds", pa.list_(pa.float64())),
        ("decode_seconds", pa.float64()),
        ("detect_seconds", pa.float64()),
        ("write_seconds", pa.float64()),
        ("num_frames_failed", pa.int64()),
        ("num_tracks_too_short", pa.int32()),
        ("num_tracks_over_max_faces", pa.int32()),
        ("tracks_from", pa.string()),
        ("pairing_note", pa.string()),
    ]
)
"""One row a video, whatever became of it."""

ADDED_COLUMNS = frozenset({"pair_id", "face_label", "change_score", "change_scores", "tracks_from", "pairing_note"})
"""Not in the first stores of this version, where they are read as null."""
PLACEMENT_COLUMNS = frozenset({"array", "row_start", "row_stop"})
"""Where a track lies: differs with partitioning, and says nothing of what the track is."""
CIRCUMSTANCE_COLUMNS = frozenset(
    {"path", "message", "pairing_note", "decode_seconds", "detect_seconds", "write_seconds"}
)
"""How and where a video was worked on: differs from run to run."""


def masks_name(array_name: str) -> str:
    """Name of the array that lies beside an array of frames and holds their masks, row by row."""
    return f"{array_name.removesuffix('.zarr')}{_MASKS_ENDING}"


def frames_name(array_name: str) -> str:
    """Name of the array of frames that an array belongs to: its own, or that of the frames it is beside."""
    is_masks = array_name.endswith(_MASKS_ENDING)
    return f"{array_name.removesuffix(_MASKS_ENDING)}.zarr" if is_masks else array_name


@dataclass(frozen=True)
class StoredTrack:
    """A track whose frames are in an array: its row in the ``tracks`` table. T is its number of frames."""

    video_id: str
    track_id: int
    array: str
    row_start: int
    track: Track
    crop_xyxy: Float32Array
    """float32 (T, 4), source pixels; beyond the frame where the picture was padded."""
    timestamps_seconds: NDArray[np.float64]
    """float64 (T,)."""
    fps: float
    label: int | None
    source_id: str | None
    group_id: str
    width: int
    height: int
    sharpness: float
    """Mean variance of the Laplacian of the stored grey frames; low is blurred."""
    checksum: str
    """SHA-256 of the frames' bytes, hex."""
    pair_id: str | None = None
    """Shared by the same face of an original and of its fakes, over the same frames and squares."""
    face_label: int | None = None
    """0 the face is as it was filmed, 1 it was changed, None unknown."""
    change_score: float | None = None
    """How far the face differs from that of the original, in units of what compression does; None: not compared."""
    change_scores: Float32Array | None = None
    """float32 (T,), the same frame by frame."""


def face_label(label: int | None, change_score: float | None, min_change: float) -> int | None:
    """Whether one face of a video is as it was filmed (0) or was changed (1); None unknown.

    Args:
        label: of the video.
        change_score: of the face; None: it was compared with nothing.
        min_change: from which a face counts as changed.
    """
    if label == FAKE and change_score is not None:
        return FAKE if change_score >= min_change else REAL
    return REAL if label == REAL else None


def _lists(rows: Sequence[NDArray[np.generic] | None], list_type: pa.DataType) -> pa.Array:
    """A list column from one array (T, ...) a row, or null, without a Python object a number."""
    is_null = pa.array([row is None for row in rows], pa.bool_())
    present = [np.asarray(row) for row in rows if row is not None]
    offsets = pa.array(np.cumsum([0, *(0 if row is None else len(row) for row in rows)]), pa.int32())
    value_type = list_type.value_type
    shape: list[int] = []
    while pa.types.is_fixed_size_list(value_type):
        shape.append(value_type.list_size)
        value_type = value_type.value_type
    flat = np.concatenate([row.reshape(-1) for row in present]) if present else np.zeros(0)
    values = pa.array(flat, value_type)
    for size in reversed(shape):
        values = pa.FixedSizeListArray.from_arrays(values, size)
    return pa.ListArray.from_arrays(offsets, values, mask=is_null)


def tracks_table(stored: Sequence[StoredTrack]) -> pa.Table:
    """The ``tracks`` table of these tracks, in their order."""
    tracks = [s.track for s in stored]
    sides = [np.sqrt((t.boxes_xyxy[:, 2:] - t.boxes_xyxy[:, :2]).prod(axis=1)) for t in tracks]
    columns: dict[str, object] = {
        name: [getattr(s, name) for s in stored]
        for name in (
            "video_id", "track_id", "array", "row_start", "fps", "label", "source_id", "group_id", "width", "height",
            "sharpness", "checksum", "pair_id", "face_label", "change_score",
        )
    }  # fmt: skip
    columns |= {
        "row_stop": [s.row_start + len(s.track) for s in stored],
        "frame_start": [t.frame_start for t in tracks],
        "frame_stop": [t.frame_stop for t in tracks],
        "frame_step": [1] * len(stored),
        "mean_score": [float(t.scores.mean()) for t in tracks],
        "observed_fraction": [float(t.observed.mean()) for t in tracks],
        "mean_face_size": [float(side.mean()) for side in sides],
        "face_id": [t.face_id for t in tracks],
        "segment": [t.segment for t in tracks],
    }
    per_frame = {
        "boxes_xyxy": [t.boxes_xyxy for t in tracks],
        "landmarks": [t.landmarks for t in tracks],
        "scores": [t.scores for t in tracks],
        "observed": [t.observed for t in tracks],
        "crop_xyxy": [s.crop_xyxy for s in stored],
        "timestamps_seconds": [s.timestamps_seconds for s in stored],
        "change_scores": [s.change_scores for s in stored],
    }
    arrays = [
        _lists(per_frame[field.name], field.type)  # type: ignore[arg-type]
        if field.name in per_frame
        else pa.array(columns[field.name], field.type)
        for field in TRACKS_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=TRACKS_SCHEMA)


def videos_table(outcomes: Sequence[VideoOutcome]) -> pa.Table:
    """The ``videos`` table of these outcomes, in their order."""
    of_ref = {"video_id", "path", "size_bytes", "label", "source_id", "group_id"}
    return pa.Table.from_pydict(
        {name: [getattr(o.ref if name in of_ref else o, name) for o in outcomes] for name in VIDEOS_SCHEMA.names},
        schema=VIDEOS_SCHEMA,
    )
