"""Clips of T frames from a face-clip store, local or remote, for training, validation and scoring.

Chance stays outside: a :class:`Window` says which track and where in it, so the same windows give the same clips
whatever the number of loading processes. The store is opened by the process that reads, and a window is read once.
"""

from __future__ import annotations

import hashlib
import json
import signal
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.errors import InputError
from pipeline.store import FaceStore
from pipeline.types import BoolArray, UInt8Array

Int64Array = NDArray[np.int64]

LabelColumn = Literal["label", "face_label"]
"""The column that says which class a track is of: its video's label, or whether this face of the video was changed."""

COLUMNS = (
    *("video_id", "track_id", "array", "row_start", "row_stop", "frame_start"),
    *("label", "source_id", "group_id", "checksum", "pair_id", "face_label"),
)

_PLACES = ("array", "row_start", "row_stop", "frame_start")
_ADDED = ("pair_id", "face_label")
"""Columns that the first stores lack. Where they are null the digest leaves them out, so that it is the one that
checkpoints of these stores hold."""

_ORDER = ("group_id", "source_id", "video_id", "track_id")


class Window(NamedTuple):
    """Where a clip begins."""

    row: int
    """Of the table of tracks."""
    position: float
    """In [0, 1): 0 is the track's first possible window, just below 1 its last."""


class Sample(NamedTuple):
    """One clip, or a batch of B of them: then every field has a first axis of that length."""

    frames: Tensor
    """uint8 (T, H, W, 3), RGB."""
    label: Tensor
    """int64 (): 0 REAL, 1 FAKE, -1 unknown."""
    row: Tensor
    """int64 (), of the table of tracks."""


def read_tracks(store: FaceStore) -> pa.Table:
    """All tracks of a store with the columns :data:`COLUMNS`, what is alike side by side.

    The order, by group, original, video and track, doesn't depend on how the store was written.

    Raises:
        InputError: there is none.
    """
    tracks = sort_tracks(store.read_table("tracks", COLUMNS))
    if not tracks.num_rows:
        raise InputError(f"{store.url} holds no tracks; extract videos with faces into it first")
    return tracks


def sort_tracks(tracks: pa.Table) -> pa.Table:
    """By group, original, video and track."""
    return tracks.sort_by([(key, "ascending") for key in _ORDER])


def labelled(tracks: pa.Table, url: str) -> pa.Table:
    """The tracks whose label is known.

    Raises:
        InputError: none is, or all are of one class.
    """
    known = tracks.filter(pc.is_valid(tracks["label"]))
    classes = set(known["label"].to_pylist())
    if len(classes) < 2:
        found = "only REAL ones" if classes == {0} else "only FAKE ones" if classes else "none with a label"
        raise InputError(
            f"{url}: of its {tracks.num_rows} tracks there are {found}, and training needs both classes; "
            "extract again with --labels, or from a folder that has labels"
        )
    return known


def contents_digest(tracks: pa.Table) -> str:
    """Sixteen hex digits that change with any clip, label, pair or group, but not with where in the store or in its
    video a clip lies."""
    rows = tracks.drop_columns(list(_PLACES)).to_pylist()
    contents = ({key: value for key, value in row.items() if value is not None or key not in _ADDED} for row in rows)
    lines = (json.dumps(content, sort_keys=True).encode() for content in contents)
    return hashlib.sha256(b"\n".join(lines)).hexdigest()[:16]


def frame_indices(
    length: int, position: float, clip_frames: int, frame_step: int
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which frames of a track make the clip, int64 (clip_frames,). A track that is too short is looped."""
    span = (clip_frames - 1) * frame_step + 1
    offsets = np.arange(clip_frames) * frame_step
    if length < span:
        return offsets % length
    return int(position * (length - span + 1)) + offsets


def read_clip(store: FaceStore, array: str, row_start: int, length: int, indices: Int64Array) -> Tensor:
    """Frames of a track, in one read.

    Args:
        store: where they are.
        array: name of the array that holds the track.
        row_start: where in it the track begins.
        length: frames of the track.
        indices: int64 (T,), of frames from the track's start; in any order.

    Returns:
        uint8 (T, H, W, 3), RGB.

    Raises:
        StoreFormatError: the array is missing or damaged.
    """
    first, last = int(indices.min()), int(indices.max())
    track = {"array": array, "row_start": row_start, "row_stop": row_start + length}
    frames: UInt8Array = store.frames(track, first, last + 1)
    # One after the other, as most are, they need not be copied.
    is_as_read = len(frames) == len(indices) and bool((np.diff(indices) == 1).all())
    return torch.from_numpy(frames if is_as_read else frames[indices - first])


def even_windows(num_tracks: int, windows_per_track: int) -> list[Window]:
    """The same number of windows of every track, evenly spaced over it, track by track."""
    positions = (np.arange(windows_per_track) + 0.5) / windows_per_track
    return [Window(row, float(position)) for row in range(num_tracks) for position in positions]


def leave_interrupts_to_the_parent(_worker: int) -> None:
    """For loading processes: Ctrl-C reaches them, too, and one that dies of it ends the parent before it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class ClipDataset(Dataset[Sample]):
    """Clips by :class:`Window`.

    Args:
        store: where the frames are; it is sent to loading processes by its URL and opened there.
        tracks: table with the columns ``array, row_start, row_stop`` and the one of the labels.
        clip_frames: T, frames of a clip.
        frame_step: every n-th frame of the track.
        label_column: where labels are.

    Attributes:
        labels: int64 (N,), of the tracks; -1 unknown.
    """

    def __init__(
        self,
        store: FaceStore,
        tracks: pa.Table,
        clip_frames: int,
        frame_step: int = 1,
        label_column: LabelColumn = "label",
    ) -> None:
        self.store = store
        self.clip_frames = clip_frames
        self.frame_step = frame_step
        self.label_column = label_column
        self.labels: Int64Array = tracks[label_column].fill_null(-1).to_numpy().astype(np.int64)
        self._arrays = tracks["array"].combine_chunks()
        self._row_starts = tracks["row_start"].to_numpy()
        self._lengths = tracks["row_stop"].to_numpy() - self._row_starts

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def span(self) -> int:
        """Frames of a track from a clip's first to its last."""
        return (self.clip_frames - 1) * self.frame_step + 1

    @property
    def is_looped(self) -> BoolArray:
        """bool (N,): which tracks are too short for a clip, so that their frames are repeated from the start."""
        short: BoolArray = self._lengths < self.span
        return short

    def __getitem__(self, window: Window) -> Sample:
        row, position = window
        length, row_start = int(self._lengths[row]), int(self._row_starts[row])
        indices = frame_indices(length, position, self.clip_frames, self.frame_step)
        frames = read_clip(self.store, self._arrays[row].as_py(), row_start, length, indices)
        return Sample(frames, torch.tensor(self.labels[row]), torch.tensor(row))
