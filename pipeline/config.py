"""The settings of the extraction, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from pipeline.settings import Section

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
# YAML's only sequence is a list.
Thresholds = Annotated[tuple[Probability, Probability, Probability], Field(strict=False)]


class DetectSettings(Section):
    """How faces are found in sampled frames (MTCNN)."""

    max_frames: int | None = Field(None, ge=1)
    """Only the first n frames of a video are looked at, as if it ended there; the rest isn't decoded. null: all."""
    every_n_frames: int = Field(10, ge=1)
    """Every n-th frame is searched, and the last one; boxes in between are interpolated."""
    whole_frame_every: int = Field(3, ge=1)
    """Of the frames that are searched, every n-th is searched everywhere; the others only around the faces of those
    before and after. Together no more than ``track.min_frames``: then every face that stays that long is met."""
    long_side_pixels: int = Field(960, ge=32)
    """Frames are shrunk to this for detection, never enlarged on the first rung of the ladder."""
    min_face_pixels: int = Field(20, ge=12)
    """Smallest face searched for, in pixels of the shrunk frame."""
    thresholds: Thresholds = (0.7, 0.8, 0.9)
    """Least score to pass the P-, R- and O-net."""
    pyramid_factor: float = Field(0.709, gt=0.1, lt=0.95)
    """Ratio of one level of the image pyramid to the level before."""
    retry_scale: float = Field(2.0, ge=1.0, le=4.0)
    """No face: the search is repeated at this many times the size. 1 skips that."""
    retry_thresholds: Thresholds | None = (0.5, 0.5, 0.5)
    """Still no face: at the larger size with these thresholds, keeping one face. null skips that."""
    batch_megapixels: float = Field(2.0, gt=0.0)
    """Shrunk frames taken at once hold at most this many pixels, or are one that is searched everywhere and those up
    to the next such frame: bounds memory."""


class TrackSettings(Section):
    """How detections become tracks."""

    min_iou: Probability = 0.2
    """Least overlap of two successive detections of one face."""
    max_gap_frames: int = Field(20, ge=1)
    """Two detections of a face this far apart are still joined; between them it was missed."""
    min_frames: int = Field(30, ge=1)
    """Shorter tracks are dropped and counted."""
    max_faces: int = Field(5, ge=1)
    """At most this many faces of a video are kept, those with the highest mean score."""
    segment_frames: int = Field(150, ge=1)
    """Longer tracks are cut into segments of this many frames; a rest below ``min_frames`` is shared with the last of
    them. So it is known before a track ends."""
    cut_similarity: float = Field(0.5, ge=-1.0, le=1.0)
    """Successive sampled frames less alike than this (correlation, 1 = same) are two scenes."""
    cut_face_similarity: float = Field(0.33, ge=-1.0, le=1.0)
    """A track ends at a cut where the surroundings of its face, too, are less alike than this."""


class CropSettings(Section):
    """How a track becomes a clip."""

    mode: Literal["union", "follow"] = "union"
    """union: one static square a segment, around all its boxes. follow: a square of fixed size that moves along."""
    size: int = Field(256, ge=16, le=2048)
    """Side of the stored frames, pixels."""
    margin: float = Field(0.1, gt=-0.5, le=4.0)
    """union: added on each side, as a share of the union box's longer side; below 0 as much is cut off."""
    follow_scale: float = Field(1.2, gt=0.0, le=8.0)
    """follow: side of the square over the percentile of the box sides."""
    follow_percentile: float = Field(90.0, ge=0.0, le=100.0)


class StoreSettings(Section):
    """How clips lie on disk. Lossless whatever the codec."""

    codec: Literal["none", "lz4", "zstd"] = "zstd"
    """lz4 is read in two thirds of the time, takes a third more room and is slower to write."""
    differences: bool = True
    """Whether frames are stored as differences from the one before, which takes a quarter to a half less room."""
    chunk_frames: int = Field(5, ge=1)
    """Frames compressed together: the least that a read fetches. 16 in a row are in four chunks wherever they begin."""
    shard_frames: int = Field(160, ge=1)
    """Frames in one file or object; a multiple of chunk_frames."""

    def model_post_init(self, _context: Any) -> None:
        if self.shard_frames % self.chunk_frames:
            raise ValueError(
                f"shard_frames must be a multiple of chunk_frames; got {self.shard_frames} and {self.chunk_frames}"
            )


class PairSettings(Section):
    """How fakes are compared with the originals they were made from."""

    reuse_tracks: bool = True
    """A fake that agrees with its original outside the faces takes its tracks, and is compared with it. Otherwise every
    video is searched by itself."""
    max_frame_difference: int = Field(5, ge=0)
    """Frames that a fake may have more or less than its original."""
    min_change: float = Field(1.15, gt=0.0)
    """Least ``change_score`` of a face that counts as changed."""


class ExtractSettings(Section):
    """How work is cut up, which changes no result and is not part of the fingerprint; and what is kept besides."""

    videos_per_partition: int = Field(16, ge=1)
    """At most so many videos are worked on and committed as one."""
    megabytes_per_partition: int = Field(256, ge=1)
    """And at most so many megabytes of them, or one video: about ten minutes of 1080p."""
    save_masks: bool = False
    """Beside the frames of fakes, where and how much they differ from their originals; part of the fingerprint."""


class Settings(Section):
    """Everything of ``params.yaml`` that the extraction reads."""

    track: TrackSettings = TrackSettings()
    # After the tracks, since it is checked against them: a check sees the sections above its own.
    detect: DetectSettings = DetectSettings()
    crop: CropSettings = CropSettings()
    pair: PairSettings = PairSettings()
    store: StoreSettings = StoreSettings()
    extract: ExtractSettings = ExtractSettings()

    @field_validator("detect")
    @classmethod
    def _allow_for_tracks(cls, detect: DetectSettings, info: ValidationInfo) -> DetectSettings:
        track = info.data.get("track")  # Missing where it has a mistake of its own.
        if track is not None and detect.max_frames is not None and detect.max_frames < track.min_frames:
            raise ValueError(
                f"no track can be long enough, since max_frames, {detect.max_frames}, is below track.min_frames, "
                f"{track.min_frames}; look at more frames, or keep shorter tracks"
            )
        return detect

    def results_settings(self) -> dict[str, Any]:
        """What decides a store's contents, as JSON types; two stores that agree in it were made alike."""
        return self.model_dump(mode="json", exclude={"extract": {"videos_per_partition", "megabytes_per_partition"}})

    def fingerprint(self) -> str:
        """Sixteen hex digits of SHA-256 over :meth:`results_settings`."""
        canonical = json.dumps(self.results_settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
