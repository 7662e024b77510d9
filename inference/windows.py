"""What a model is shown of each track: which frames, in what batches, read from the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from inference.config import PredictSettings
from pipeline.store import FaceStore, StoreFormatError
from training.dataset import Int64Array, frame_indices, leave_interrupts_to_the_parent, read_clip
from training.models import ModelSpec

LEAST_FRAMES = 8
"""Every model takes as few; a shorter track is looped."""


class CentreCrop(NamedTuple):
    """Frames that are stored little larger than a model's input are cut to it."""

    side: int
    """Of the input, pixels."""
    largest: int
    """Side of the largest frames that are cut; others stay as they are."""

    def cut(self, frames: Tensor) -> Tensor:
        """The middle of frames (T, S, S, 3); where the rest is odd, one more row and column goes at the end."""
        stored = frames.shape[1]
        if not self.side < stored <= self.largest:
            return frames
        start = (stored - self.side) // 2
        return frames[:, start : start + self.side, start : start + self.side]


class ScoringWindow(NamedTuple):
    """A clip to be scored."""

    row: int
    """Of the table of tracks."""
    number: int
    """0, 1, ... within the track."""
    length: int
    """Frames of the track."""
    position: float
    """In [0, 1): 0 is the track's first possible window, just below 1 its last."""
    num_frames: int
    """T, of the clip."""
    centre_crop: CentreCrop | None = None
    """Of its frames."""

    def indices(self, frame_step: int) -> Int64Array:
        """Which frames of the track, int64 (T,)."""
        return frame_indices(self.length, self.position, self.num_frames, frame_step)


def plan_windows(lengths: Sequence[int], spec: ModelSpec, settings: PredictSettings) -> list[ScoringWindow]:
    """The windows of tracks of these lengths, track by track.

    Either one window a track: every ``frame_step``-th frame from its start on, up to ``max_frames``. Or ``windows`` of
    them, as long as the model's training clips and evenly spaced; fewer where the track has no more different ones.
    """
    found = []
    side = spec.input_size
    crop = CentreCrop(side, int(settings.centre_crop_up_to * side + 1e-9)) if settings.centre_crop_up_to > 1 else None
    for row, length in enumerate(lengths):
        if settings.windows is None:
            num_frames = max(LEAST_FRAMES, min(settings.max_frames, -(-length // spec.frame_step)))
            found.append(ScoringWindow(row, 0, length, 0.0, num_frames, crop))
            continue
        num_places = max(1, length - (spec.clip_frames - 1) * spec.frame_step)
        number = min(settings.windows, num_places)
        positions = [(i + 0.5) / number for i in range(number)]
        found += [ScoringWindow(row, i, length, p, spec.clip_frames, crop) for i, p in enumerate(positions)]
    return found


def plan_batches(
    windows: Iterable[ScoringWindow], side_pixels: int, batch_megapixels: float
) -> list[list[ScoringWindow]]:
    """Windows of equal length together, so that no frame is made up to fill a batch.

    Args:
        windows: in any order.
        side_pixels: of the frames as stored or as the model takes them, whichever are larger.
        batch_megapixels: of all frames of a batch, at most, if that allows for one clip.
    """
    batches = []
    in_order = sorted(windows, key=lambda w: (w.num_frames, w.row, w.number))
    for num_frames, group in groupby(in_order, lambda w: w.num_frames):
        alike = [*group]
        size = max(1, int(batch_megapixels * 1e6 / (num_frames * side_pixels**2)))
        batches += [alike[i : i + size] for i in range(0, len(alike), size)]
    return batches


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Clips of one length, and those that couldn't be read."""

    windows: list[ScoringWindow]
    """B of them, that could."""
    frames: Tensor
    """uint8 (B, T, H, W, 3), RGB; (0,) if B is 0."""
    failed: list[tuple[ScoringWindow, str]]
    """With the reason."""

    def pin_memory(self) -> ClipBatch:
        """What a loader calls before a batch goes to a GPU."""
        return ClipBatch(self.windows, self.frames.pin_memory(), self.failed)


Read = tuple[ScoringWindow, Tensor | str]
"""A window with its frames, or with the reason why there are none."""


class TrackClips(Dataset[Read]):
    """Clips by :class:`ScoringWindow`.

    Args:
        store: where the frames are; it is sent to loading processes by its URL and opened there.
        tracks: table with the columns ``array, row_start``.
        frame_step: every n-th frame of a track.
    """

    def __init__(self, store: FaceStore, tracks: pa.Table, frame_step: int) -> None:
        self._store, self._frame_step = store, frame_step
        self._arrays = tracks["array"].combine_chunks()
        self._row_starts = tracks["row_start"].to_numpy()

    def __getitem__(self, window: ScoringWindow) -> Read:
        array, row_start = self._arrays[window.row].as_py(), int(self._row_starts[window.row])
        try:
            clip = read_clip(self._store, array, row_start, window.length, window.indices(self._frame_step))
        except StoreFormatError as error:
            return window, str(error)
        return window, clip if window.centre_crop is None else window.centre_crop.cut(clip)


def collate(read: list[Read]) -> ClipBatch:
    """One batch of what could be read."""
    frames = [clip for _, clip in read if isinstance(clip, Tensor)]
    return ClipBatch(
        [window for window, clip in read if isinstance(clip, Tensor)],
        torch.stack(frames) if frames else torch.empty(0, dtype=torch.uint8),
        [(window, clip) for window, clip in read if isinstance(clip, str)],
    )


def open_loader(
    clips: TrackClips, batches: list[list[ScoringWindow]], loader_workers: int, pin_memory: bool
) -> DataLoader[Read]:
    """Batches of :class:`ClipBatch`, in order.

    Args:
        clips: to read from.
        batches: of :func:`plan_batches`.
        loader_workers: processes that read ahead; 0: this one reads.
        pin_memory: whether batches go to a GPU.
    """
    return DataLoader(
        clips,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=loader_workers,
        # A forked copy lacks the threads that read a store, and would wait for them for ever.
        multiprocessing_context="spawn" if loader_workers else None,
        worker_init_fn=leave_interrupts_to_the_parent,
        pin_memory=pin_memory,
    )
