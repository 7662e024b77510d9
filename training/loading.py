"""From a store to batches: labelled tracks, split by group, balanced or paired to train on, all of them to validate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from torch.utils.data import DataLoader

from pipeline.errors import InputError
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL
from training.config import Sampler, TrainSettings
from training.dataset import (
    ClipDataset,
    Sample,
    even_windows,
    labelled,
    leave_interrupts_to_the_parent,
    read_tracks,
)
from training.models import ModelSpec
from training.pairing import PairedClips
from training.sampling import BalancedClips, Batches
from training.split import group_of, split_tracks


@dataclass(frozen=True)
class Clips:
    """One side of the split."""

    tracks: pa.Table
    """All of that side; those whose class is unknown aren't shown."""
    dataset: ClipDataset
    loader: DataLoader[Sample]
    sampling: str = ""
    """What is worth saying about the units of an epoch."""

    def describe(self, purpose: str) -> str:
        """One line: how many of what."""
        labels, column = self.dataset.labels, self.dataset.label_column
        is_known = labels >= 0
        shown = self.tracks.filter(is_known)
        videos, groups = len(set(shown["video_id"].to_pylist())), len(set(group_of(shown)))
        line = (
            f"{purpose}: {shown.num_rows:,} tracks ({(labels == REAL).sum():,} REAL, {(labels == FAKE).sum():,} FAKE"
            f"{'' if column == 'label' else f' by {column}'}) "
            f"of {videos:,} videos in {groups:,} group{'s' if groups > 1 else ''}"
        )
        if left_out := len(labels) - shown.num_rows:
            line += f"; {left_out:,} more have no {column} and are left out"
        if looped := int(self.dataset.is_looped[is_known].sum()):
            line += f"; {looped:,} are shorter than {self.dataset.span} frames and are looped"
        return "; ".join([line, self.sampling] if self.sampling else [line])


def units_of(clips: ClipDataset, tracks: pa.Table, sampler: Sampler) -> tuple[BalancedClips | PairedClips, str]:
    """What an epoch of these tracks is made of, and what is worth saying about it.

    Raises:
        InputError: a class is missing, or pairs are.
    """
    numbers = [int((clips.labels == label).sum()) for label in (REAL, FAKE)]
    if 0 in numbers:
        # Of label, the split has seen to it.
        raise InputError(
            f"train.label_column: face_label: of the {len(clips.labels):,} tracks to train on {numbers[REAL]:,} are "
            f"known to be as filmed and {numbers[FAKE]:,} to be changed, and training needs both; this is known where "
            "fakes are compared with their originals: extract again with pair.reuse_tracks and labels that name "
            "originals, or use train.label_column: label"
        )
    if sampler == "balanced":
        return BalancedClips(clips.labels), ""
    units = PairedClips.of_tracks(tracks, clips.labels, clips.span)
    if not units.num_pairs:
        raise InputError(
            f"train.sampler: paired: of the {numbers[REAL]:,} real clips to train on none has a fake of it; extract "
            "again with pair.reuse_tracks and labels that name originals, or use train.sampler: balanced"
        )
    return units, units.describe()


def open_clips(
    store: FaceStore,
    spec: ModelSpec,
    settings: TrainSettings,
    rank: int = 0,
    world_size: int = 1,
    loader_workers: int = 0,
    pin_memory: bool = False,
) -> tuple[Clips, Clips, Batches]:
    """What trains, what validates, and the batches of the former, of which an epoch has to be chosen.

    Args:
        store: face clips with labels.
        spec: length and step of a clip.
        settings: the split, the class to train on, the sampler, the size of a batch, the seed.
        rank: of this process among ``world_size`` that share each batch.
        world_size: number of processes.
        loader_workers: processes that read ahead; 0: this one reads.
        pin_memory: whether batches go to a GPU.

    Raises:
        InputError: the store's tracks don't allow for training and validation on both classes, or there are no pairs.
    """
    sides = split_tracks(
        labelled(read_tracks(store), store.url),
        settings.validation_fraction,
        settings.validation_folders,
        settings.split_seed,
    )
    training = ClipDataset(store, sides[0], spec.clip_frames, spec.frame_step, settings.label_column)
    # By the label of the video whatever is trained on: what is scored in the end are videos.
    validation = ClipDataset(store, sides[1], spec.clip_frames, spec.frame_step)
    units, about_units = units_of(training, sides[0], settings.sampler)
    batches = Batches(units, settings.batch_size, settings.seed, rank, world_size)
    if min(batches.unit_counts) < world_size:
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
        Clips(sides[0], training, open_loader(training, batch_sampler=batches), about_units),
        Clips(
            sides[1],
            validation,
            open_loader(validation, batch_sampler=[windows[i : i + size] for i in range(0, len(windows), size)]),
        ),
        batches,
    )
