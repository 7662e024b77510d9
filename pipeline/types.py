"""The vocabulary of the pipeline: small frozen records that every stage speaks, numpy only.

Conventions everywhere: boxes are ``xyxy`` in pixels of the source video with ``x1 < x2`` and ``y1 < y2``, pictures are
uint8 RGB ``(H, W, 3)`` unless their name says ``bgr``.
Ranges are half-open, times are seconds, sizes are bytes, labels are 0 REAL, 1 FAKE, None unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
UInt8Array = NDArray[np.uint8]
BoolArray = NDArray[np.bool_]

Status = Literal["ok", "no_face", "too_short", "decode_error", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "no_face", "too_short", "decode_error", "failed")

REAL, FAKE = 0, 1

TracksFrom = Literal["own", "original"]


@dataclass(frozen=True)
class VideoRef:
    """One input video: where it is and what is known about it before it is opened."""

    video_id: str
    """Path below the input root, POSIX, with its ending; unique in an index."""
    path: str
    """Where to open it, as the user gave it."""
    size_bytes: int
    modified_ns: int
    """Modification time in ns since the epoch: with path and size it pins the input without hashing it."""
    label: int | None = None
    """0 REAL, 1 FAKE, None unknown."""
    source_id: str | None = None
    """``video_id`` of the original a fake was made from; None for originals and unknown."""
    group_id: str = ""
    """Videos that share people share this; a train/validation split never cuts a group."""


Source = VideoRef | str
"""What a video was made from: a video, or the reason why it can't be compared with that."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container's header promises. None of it is trusted for indexing frames."""

    num_frames_from_header: int | None
    """None where the container doesn't say."""
    fps_from_header: float
    """Average frames per second; 0.0 where the container doesn't say."""
    width: int
    """Pixels, after rotation metadata was applied."""
    height: int
    """Pixels, after rotation metadata was applied."""


@dataclass(frozen=True)
class Detections:
    """The faces of one frame; empty arrays where there is none."""

    boxes_xyxy: Float32Array
    """float32 ``(N, 4)``, source pixels, ``x1 < x2`` and ``y1 < y2``; may reach a little beyond the frame."""
    scores: Float32Array
    """float32 ``(N,)`` in [0, 1], probability of a face, descending."""
    landmarks: Float32Array
    """float32 ``(N, 5, 2)``, xy of the eyes (left in the picture first), the nose, the corners of the mouth."""

    def __post_init__(self) -> None:
        n = len(self.boxes_xyxy)
        for name, shape in (("boxes_xyxy", (n, 4)), ("scores", (n,)), ("landmarks", (n, 5, 2))):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != np.float32:
                raise ValueError(f"Detections.{name} must be float32 {shape}, got {array.dtype} {array.shape}")

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @classmethod
    def empty(cls) -> Detections:
        return cls(np.zeros((0, 4), np.float32), np.zeros((0,), np.float32), np.zeros((0, 5, 2), np.float32))


@dataclass(frozen=True)
class Track:
    """One face over a run of consecutive frames ``[frame_start, frame_stop)``; T is their number."""

    face_id: int
    """Which face of the video, 0 the most certain; segments of one long track share it."""
    segment: int
    """Which piece of that face's track, in order of time."""
    frame_start: int
    boxes_xyxy: Float32Array
    """float32 ``(T, 4)``, source pixels."""
    landmarks: Float32Array
    """float32 ``(T, 5, 2)``, source pixels."""
    scores: Float32Array
    """float32 ``(T,)``; of the detection where observed, linear in between."""
    observed: BoolArray
    """bool ``(T,)``; False where box and landmarks were interpolated."""

    def __len__(self) -> int:
        return len(self.boxes_xyxy)

    @property
    def frame_stop(self) -> int:
        return self.frame_start + len(self)

    def __getitem__(self, rows: slice) -> Track:
        """The same face over some of its frames; ``rows`` counts from this track's start, step 1."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"a Track is cut into runs of consecutive frames; got step {step}")
        part = slice(start, stop)
        return Track(
            self.face_id, self.segment, self.frame_start + start,
            self.boxes_xyxy[part], self.landmarks[part], self.scores[part], self.observed[part],
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Track(face {self.face_id}, segment {self.segment}, frames [{self.frame_start}, {self.frame_stop}))"


@dataclass(frozen=True)
class VideoOutcome:
    """What became of one video: its row in the store's ``videos`` table."""

    ref: VideoRef
    status: Status
    error_type: str | None = None
    message: str | None = None
    """For a person to read: what went wrong, or what is worth knowing although it went well."""
    num_frames_from_header: int | None = None
    num_frames_decoded: int = 0
    num_frames_failed: int = 0
    """Frames known to be missing: they failed to decode or to convert."""
    width: int | None = None
    height: int | None = None
    fps_from_header: float | None = None
    num_tracks: int = 0
    """Rows in the ``tracks`` table."""
    num_tracks_too_short: int = 0
    num_tracks_over_max_faces: int = 0
    detect_scale: float | None = None
    """Detection size over source size of the rung that gave the result."""
    thresholds: tuple[float, float, float] | None = None
    """P-, R- and O-net thresholds of the rung that gave the result."""
    decode_seconds: float = 0.0
    detect_seconds: float = 0.0
    write_seconds: float = 0.0
    """Cropping, compressing and writing; of a fake with its original's tracks comparing, too."""
    tracks_from: TracksFrom | None = None
    """Whether faces were searched for in the video itself, or its tracks are those of the original that it was made
    from; None where neither came about."""
    pairing_note: str | None = None
    """For a person: why a video that names its original has tracks of its own."""


@dataclass(frozen=True)
class Work:
    """Videos to be worked on and committed as one."""

    videos: tuple[VideoRef, ...]
    sources: Mapping[str, Source] = field(default_factory=dict)
    """By the ``source_id`` of these videos: what they were made from, whether or not it is one of them."""


@dataclass(frozen=True)
class Partition:
    """One unit of work, of commit and of retry."""

    number: int
    videos: tuple[VideoRef, ...] = field(repr=False)
    sources: Mapping[str, Source] = field(default_factory=dict, repr=False)
    """As of :class:`Work`."""

    @property
    def name(self) -> str:
        return f"part-{self.number:05d}"
