"""``params.yaml`` -> typed, frozen settings. An unknown or bad key is an error that names it and what is allowed.

Only what changes results lives here. Paths are arguments; facts about machines (workers, scheduler, device) are flags.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
# YAML's only sequence is a list.
Thresholds = Annotated[tuple[Probability, Probability, Probability], Field(strict=False)]
OTHER_STAGES = frozenset({"data", "sample", "train", "predict", "evaluate"})
"""Sections of the same file that belong to other stages; they are read there and ignored here."""


class ConfigError(ValueError):
    """The settings can't be used; the message names the key, its value and what is allowed."""


class _Section(BaseModel):
    # Strict: YAML reads `yes` as true, which would otherwise pass for the number 1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class DetectSettings(_Section):
    """How faces are found in sampled frames (MTCNN)."""

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


class TrackSettings(_Section):
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
    """Longer tracks are cut into equal segments of at most this many frames."""
    cut_similarity: float = Field(0.5, ge=-1.0, le=1.0)
    """Successive sampled frames less alike than this (correlation, 1 = same) are two scenes."""
    cut_face_similarity: float = Field(0.33, ge=-1.0, le=1.0)
    """A track ends at a cut where the surroundings of its face, too, are less alike than this."""


class CropSettings(_Section):
    """How a track becomes a clip."""

    mode: Literal["union", "follow"] = "union"
    """union: one static square a segment, around all its boxes. follow: a square of fixed size that moves along."""
    size: int = Field(256, ge=16, le=2048)
    """Side of the stored frames, pixels."""
    margin: float = Field(0.1, ge=0.0, le=4.0)
    """union: added on each side, as a share of the union box's longer side."""
    follow_scale: float = Field(1.2, gt=0.0, le=8.0)
    """follow: side of the square over the percentile of the box sides."""
    follow_percentile: float = Field(90.0, ge=0.0, le=100.0)


class StoreSettings(_Section):
    """How clips lie on disk. Lossless whatever the codec."""

    codec: Literal["none", "lz4", "zstd"] = "zstd"
    chunk_frames: int = Field(8, ge=1)
    """Frames compressed together: the least that a read fetches."""
    shard_frames: int = Field(128, ge=1)
    """Frames in one file or object; a multiple of chunk_frames."""

    def model_post_init(self, _context: Any) -> None:
        if self.shard_frames % self.chunk_frames:
            raise ValueError(
                f"shard_frames must be a multiple of chunk_frames; got {self.shard_frames} and {self.chunk_frames}"
            )


class ExtractSettings(_Section):
    """How work is cut up. Changes neither pixels nor boxes, so it is not part of the fingerprint."""

    videos_per_partition: int = Field(16, ge=1)


class Settings(_Section):
    """Everything of ``params.yaml`` that the extraction reads."""

    detect: DetectSettings = DetectSettings()
    track: TrackSettings = TrackSettings()
    crop: CropSettings = CropSettings()
    store: StoreSettings = StoreSettings()
    extract: ExtractSettings = ExtractSettings()

    def results_settings(self) -> dict[str, Any]:
        """What decides a store's contents, as JSON types; two stores that agree in it were made alike."""
        return self.model_dump(mode="json", exclude={"extract"})

    def fingerprint(self) -> str:
        """Sixteen hex digits of SHA-256 over :meth:`results_settings`."""
        canonical = json.dumps(self.results_settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _allowed_keys(location: tuple[int | str, ...]) -> str:
    """The keys beside a bad one, or the sections if the section itself is unknown."""
    section = getattr(Settings(), str(location[0]), None) if len(location) > 1 else None
    if isinstance(section, BaseModel):
        return ", ".join(type(section).model_fields)
    return ", ".join([*Settings.model_fields, *sorted(OTHER_STAGES)])


def parse_settings(document: Any, source: str) -> Settings:
    """Settings from parsed YAML; missing sections and keys get their defaults.

    Raises:
        ConfigError: an unknown key, a value of a wrong type or out of range; all of them are named.
    """
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: expected sections such as 'detect:', got {type(document).__name__}")
    own = {key: value for key, value in document.items() if key not in OTHER_STAGES}
    own = {key: {} if value is None and key in Settings.model_fields else value for key, value in own.items()}
    try:
        return Settings.model_validate(own)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(map(str, problem["loc"])) or "settings"
            if problem["type"] == "extra_forbidden":
                lines.append(f"unknown key '{key}'; allowed here: {_allowed_keys(problem['loc'])}")
            else:
                lines.append(f"'{key}' is {problem['input']!r}: {problem['msg']}")
        raise ConfigError(f"{source}: " + "; ".join(lines)) from None


def load_settings(path: str | Path) -> Settings:
    """Settings from a YAML file.

    Raises:
        ConfigError: as :func:`parse_settings`, or the file can't be read or isn't YAML.
    """
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"settings can't be read from {path}: {reason}; give another file with --params") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse_settings(document, str(path))
