"""The settings of scoring: the sections ``predict``, ``aggregate`` and ``evaluate`` of ``params.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from inference.aggregate import Method
from pipeline.device import Precision
from pipeline.settings import Section

Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class PredictSettings(Section):
    """What a model is shown of each track."""

    windows: int | None = Field(None, ge=1)
    """null: the whole track in one pass. n: n windows as long as the model's training clips, evenly spaced."""
    max_frames: int = Field(100, ge=8)
    """Of a longer track, the first so many frames are scored in that one pass."""
    centre_crop_up_to: float = Field(1.0, ge=1.0, le=4.0)
    """Frames stored up to so many times as large as a model's input are cut to it about their centre, pixel for pixel;
    larger ones are shrunk whole. 1: all are."""
    mirror: bool = True
    """Each pass is averaged with one of the mirror image."""
    precision: Precision = "auto"
    """Of the arithmetic; none is float32. auto: bf16 where the hardware is made for it, else float32."""


class AggregateSettings(Section):
    """How scores of windows become the score of a video."""

    windows: Method = "mean"
    """Windows -> track."""
    tracks: Method = "mean"
    """Tracks (faces and their segments) -> video."""
    models: Method = "mean"
    """Models -> ensemble."""
    weights: dict[str, Annotated[float, Field(gt=0.0)]] = Field(default_factory=dict)
    """Of models by name, in their mean; a model that isn't named weighs 1."""
    temperature: float = Field(1.0, gt=0.0)
    """The ensemble's log-odds are divided by it: above 1 scores go towards a half. Evaluation fits one."""
    fallback: Probability | Literal["prior"] = 0.5
    """Score of a video that no model has scored; prior: the share of FAKE among the tracks trained on."""
    clip: float = Field(0.001, ge=0.0, lt=0.5)
    """Scores are kept this far from 0 and 1."""

    def model_post_init(self, _context: object) -> None:
        if self.weights and self.models != "mean":
            raise ValueError(f"weights are for models: mean, not for {self.models}; leave them out or use the mean")


class EvaluateSettings(Section):
    """How sure the figures are said to be."""

    resamples: int = Field(1000, ge=0)
    """Of the groups of videos, with replacement, for intervals; 0: none."""
    confidence: float = Field(0.95, gt=0.0, lt=1.0)
    """Share of the resamples that an interval holds."""
    seed: int = Field(0, ge=0)
    bins: int = Field(10, ge=2, le=100)
    """Of equal width, for the reliability diagram and the expected calibration error."""


class Settings(Section):
    """What scoring reads of ``params.yaml``."""

    predict: PredictSettings = PredictSettings()
    aggregate: AggregateSettings = AggregateSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
