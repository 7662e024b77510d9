"""From a store to batches: labelled tracks, split by group, balanced to train on and evenly taken to validate on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from torch.utils.data import DataLoader

from pipeline.errors import InputError
from pipeline.store import FaceStore
from training.config import TrainSettings
from training.dataset import (
    ClipDataset,
    Sample,
    even_windows,
    labelled,
    leave_interrupts_to_the_parent,
    read_tracks,
)
from training.models import ModelSpec
from training.sampling import BalancedBatches
from training.split import group_of, split_tracks


@dataclass(frozen=True)
class Clips:
    """One side of the split."""

    tracks: pa.Table
    dataset: ClipDataset
    loader: DataLoader[Sample]

    def describe(self, purpose: str) -> str:
        """One line: how many of what."""
        labels = self.dataset.labels
        videos, groups = len(set(self.tracks["video_id"].to_pylist())), len(set(group_of(self.tracks)))
        line = (
            f"{purpose}: {len(labels):,} tracks ({(labels == 0).sum():,} REAL, {(labels == 1).sum():,} FAKE) "
            f"of {videos:,} videos in {groups:,} group{'s' if groups > 1 else ''}"
        )
        if looped := self.dataset.num_looped:
            line += f"; {looped:,} are shorter than {self.dataset.span} frames and are looped"
        return line


def open_clips(
    store: FaceStore,
    spec: ModelSpec,
    settings: TrainSettings,
    rank: int = 0,
    world_size: int = 1,
    loader_workers: int = 0,
    pin_memory: bool = False,
) -> tuple[Clips, Clips, BalancedBatches]:
    """What trains, what validates, and the batches of the former, of which an epoch has to be chosen.

    Args:
        store: face clips with labels.
        spec: length and step of a clip.
        settings: the split, the size of a batch, the seed.
        rank: of this process among ``world_size`` that share each batch.
        world_size: number of processes.
        loader_workers: processes that read ahead; 0: this one reads.
        pin_memory: whether batches go to a GPU.

    Raises:
        InputError: the store's tracks don't allow for training and validation on both classes.
    """
    sides = split_tracks(
        labelled(read_tracks(store), store.url),
        settings.validation_fraction,
        settings.validation_folders,
        settings.split_seed,
    )
    training, validation = (ClipDataset(store, side, spec.clip_frames, spec.frame_step) for side in sides)
    batches = BalancedBatches(training.labels, settings.batch_size, settings.seed, rank, world_size)
    if min(batches.batch_sizes) < world_size:
        raise InputError(
            f"an epoch's {sum(batches.batch_sizes)} clips in batches of {settings.batch_size} leave some of the "
            f"{world_size} processes without a clip; use fewer processes or another train.batch_size"
        )
    windows = even_windows(len(validation), settings.validation_windows)[rank::world_size]
    size = max(1, settings.batch_size // world_size)
    open_loader = partial(
        DataLoader[Sample],
        num_workers=loader_workers,
        persistent_workers=loader_workers > 0,
        # A forked copy lacks the threads that read a store, and would wait for them for ever.
        multiprocessing_context="spawn" if loader_workers else None,
        worker_init_fn=leave_interrupts_to_the_parent,
        pin_memory=pin_memory,
    )
    return (
        Clips(sides[0], training, open_loader(training, batch_sampler=batches)),
        Clips(
            sides[1],
            validation,
            open_loader(validation, batch_sampler=[windows[i : i + size] for i in range(0, len(windows), size)]),
        ),
        batches,
    )
