"""What changes while a model is fitted, and what of it is saved so that a run can go on exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

Row = dict[str, float]


@dataclass
class Progress:
    """How far a run is."""

    epoch: int = 0
    """Epochs done."""
    batch: int = 0
    """Batches done of the one after them."""
    step: int = 0
    """Batches done since the beginning."""
    loss_sum: float = 0.0
    """Over the clips of this epoch."""
    num_clips: int = 0
    """Of this epoch, over all processes."""
    seconds: float = 0.0
    """Spent on this epoch's batches."""
    waiting_seconds: float = 0.0
    """Of these, for clips to arrive."""

    def add(self, loss: float, num_clips: int, seconds: float, waiting_seconds: float) -> None:
        """Count one more batch."""
        self.batch += 1
        self.step += 1
        self.loss_sum += loss * num_clips
        self.num_clips += num_clips
        self.seconds += seconds
        self.waiting_seconds += waiting_seconds

    def row(self) -> Row:
        """The figures of the epoch so far."""
        return {
            "train_loss": self.loss_sum / self.num_clips,
            "clips_per_second": self.num_clips / self.seconds,
            "waiting_share": self.waiting_seconds / self.seconds,
        }

    def describe(self) -> str:
        """The same for a progress bar."""
        row = self.row()
        return (
            f"loss {row['train_loss']:.3f}, {row['clips_per_second']:.1f} clips/s, "
            f"{row['waiting_share']:.0%} waiting for data"
        )

    def next_epoch(self) -> Progress:
        return Progress(epoch=self.epoch + 1, step=self.step)


@dataclass
class TrainState:
    """A model being fitted, and all that belongs to it."""

    model: nn.Module
    """Not wrapped for several processes."""
    optimizer: Optimizer
    schedule: LRScheduler
    average: AveragedModel | None
    """Moving average of the weights."""
    scaler: GradScaler | None
    """Of losses, in float16."""
    progress: Progress = field(default_factory=Progress)
    history: list[Row] = field(default_factory=list)
    """A row for each epoch that was validated."""

    @property
    def scored_model(self) -> nn.Module:
        """The one that is validated and kept."""
        return self.model if self.average is None else self.average.module

    @property
    def best(self) -> Row | None:
        """The first of the epochs with the least balanced log loss."""
        return min(self.history, key=lambda row: row["balanced_log_loss"], default=None)

    def to_dict(self) -> dict[str, Any]:
        """For ``torch.save``; nothing in it needs pickle to be read."""
        stateful: dict[str, Any] = {
            "model": self.model, "optimizer": self.optimizer, "schedule": self.schedule,
            "average": self.average, "scaler": self.scaler,
        }  # fmt: skip
        states = {name: part.state_dict() for name, part in stateful.items() if part is not None}
        return states | {"progress": asdict(self.progress), "history": self.history}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go back to what :meth:`to_dict` gave."""
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        if self.average is not None:
            self.average.load_state_dict(saved["average"])
        if self.scaler is not None:
            self.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])
        self.history = saved["history"]


def convolution_format(model: nn.Module) -> torch.memory_format:
    """The memory layout in which its convolutions are fastest: channels last, in as many dimensions as they have."""
    is_3d = any(parameter.dim() == 5 for parameter in model.parameters())
    return torch.channels_last_3d if is_3d else torch.channels_last
