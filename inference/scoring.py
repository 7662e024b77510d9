"""One model over many windows: logits of clips and of their mirror images, rows of the table of scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from inference.scores import SCORES_SCHEMA
from inference.windows import ClipBatch, ScoringWindow
from training.models import ModelSpec

_DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Scorer:
    """A model, ready to score."""

    name: str
    model: nn.Module
    """In evaluation mode, on its device."""
    spec: ModelSpec
    device: str
    """``cpu`` or ``cuda``."""
    mixed_precision: str
    """no, bf16 or fp16."""
    mirror: bool

    def logits(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of clips and, where that is asked for, of their mirror images.

        Args:
            frames: uint8 (B, T, H, W, 3), RGB, on any device.

        Returns:
            float32 (B, 2) each, on the CPU; the second None without mirror images.
        """
        clips = self.spec.prepare(frames.to(self.device, non_blocking=True))
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode(), self._autocast():
            plain = self.model(clips).float().cpu()
            mirrored = self.model(clips.flip(-1)).float().cpu() if self.mirror else None
        return plain, mirrored

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device, _DTYPES[self.mixed_precision], enabled=self.mixed_precision != "no")

    def score(self, frames: Tensor) -> Iterator[tuple[Tensor, Tensor | None] | str]:
        """The logits (2,) of each clip, or why there are none. A batch too large for the GPU is halved."""
        try:
            plain, mirrored = self.logits(frames)
            fits = True
        except torch.OutOfMemoryError:
            fits = False
        # Not above, where the error still holds all that the batch had allocated.
        if not fits and len(frames) == 1:
            yield f"{self.name} needs more GPU memory for a clip of {frames.shape[1]} frames than there is"
            return
        if not fits:
            for half in frames.chunk(2):
                yield from self.score(half)
            return
        for i in range(len(frames)):
            of_clip = [plain[i]] if mirrored is None else [plain[i], mirrored[i]]
            if all(torch.isfinite(logits).all() for logits in of_clip):
                yield plain[i], None if mirrored is None else mirrored[i]
            else:
                yield f"the logits of {self.name} aren't finite; try predict.precision none"

    def score_batch(self, batch: ClipBatch, tracks: pa.Table) -> pa.Table:
        """Rows of all windows of a batch, also of those that failed.

        Args:
            batch: of windows of ``tracks``.
            tracks: with the columns ``video_id, track_id``.
        """
        results: list[tuple[ScoringWindow, tuple[Tensor, Tensor | None] | str]] = [*batch.failed]
        if batch.windows:
            results += zip(batch.windows, self.score(batch.frames), strict=True)
        rows = [self._row(window, result) for window, result in results]
        of_tracks = tracks.take([window.row for window, _ in results])
        columns = {name: of_tracks[name] for name in ("video_id", "track_id")}
        columns |= {name: [row[name] for row in rows] for name in SCORES_SCHEMA.names if name not in columns}
        return pa.table(columns, SCORES_SCHEMA)

    def _row(self, window: ScoringWindow, result: tuple[Tensor, Tensor | None] | str) -> dict[str, object]:
        row: dict[str, object] = dict.fromkeys(SCORES_SCHEMA.names)
        row |= {
            "model": self.name,
            "window": window.number,
            "frame_start": int(window.indices(self.spec.frame_step)[0]),
            "num_frames": window.num_frames,
            "frame_step": self.spec.frame_step,
        }
        if isinstance(result, str):
            return row | {"error": result}
        plain, mirrored = result
        shown = [plain] if mirrored is None else [plain, mirrored]
        row |= {"logits": plain.tolist(), "probability": fake_probability(shown)}
        return row if mirrored is None else row | {"mirror_logits": mirrored.tolist()}


def fake_probability(logits: Sequence[Tensor]) -> float:
    """Mean over logits (2,) each of their softmax's second value, in float64."""
    return float(np.mean([torch.softmax(one.double(), 0)[1].item() for one in logits]))
