"""The folder of one training run: what it is a run of, how far it came, and what it left.

RUN_DIR/
  config.yaml          what it is a run of
  resume.pt            all that --resume needs; tensors and numbers only
  best.safetensors     the checkpoint of the best epoch so far
  last.safetensors     the checkpoint of the last epoch
  metrics.json         of the best and of the last epoch
  history.csv          a row for each epoch that was validated
  steps.csv            a row a batch
  tensorboard/         the same as curves
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from pipeline.errors import InputError, WriteError
from pipeline.files import StoreFiles, write_file
from pipeline.settings import differences
from training.checkpoint import CheckpointInfo, save_checkpoint
from training.state import TrainState

_VERSIONS, _CODE = "versions", "code"
"""Of ``config.yaml``: what may change before a run goes on."""
_LEFT_BY_A_RUN = (
    "resume.pt", "best.safetensors", "last.safetensors", "metrics.json", "history.csv", "steps.csv", "tensorboard",
)  # fmt: skip
"""Besides ``config.yaml``, which is replaced last: until then the folder is known for the run that it was, and without
what it went on from that begins anew, too."""


def read_state(path: str | Path) -> dict[str, Any] | None:
    """What a run had saved last, on the CPU; None where it has saved nothing yet.

    Raises:
        InputError: the file is damaged.
    """
    files = StoreFiles(str(path))
    if not files.exists("resume.pt"):
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(files.read("resume.pt")), map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError) as error:
        raise InputError(f"{path}/resume.pt is damaged ({error}); start the run anew in another folder") from error
    return state


def make_or_check_run(path: str | Path, config: Mapping[str, Any], resume: bool, replace: bool = False) -> list[str]:
    """Make the folder of a new run, or see that the run that is there may go on.

    Args:
        path: RUN_DIR.
        config: what it is a run of, as JSON types.
        resume: whether to go on with a run that is there.
        replace: whether to remove a run that is there if it is one of something else, other code included.

    Returns:
        Where the run that was removed differs; empty if none was.

    Raises:
        InputError: another run or something else is there, or a run that isn't to be resumed.
        WriteError: the disk is full, or gone.
    """
    files = StoreFiles(str(path))
    # A kill amid a write leaves the temporary of that file.
    leftovers = [name for name in files.names() if name.startswith(".") and name.endswith(".tmp")]
    is_run = files.exists("config.yaml")
    different = _differences(files, config, (_VERSIONS,)) if is_run and replace else []
    if is_run and not different:
        _check_run(files, config, resume)
    elif not is_run and set(files.names()) - set(leftovers):
        raise InputError(f"{path} is not empty and holds no run; choose another folder")
    else:
        for name in _LEFT_BY_A_RUN if different else ():
            files.remove(name)
        files.make_folder("")
        write_file(files, "config.yaml", yaml.safe_dump(dict(config), sort_keys=False).encode())
    for name in leftovers:
        files.remove(name)
    return different


def _differences(files: StoreFiles, config: Mapping[str, Any], not_compared: Collection[str]) -> list[str]:
    found = yaml.safe_load(files.read("config.yaml"))
    theirs, ours = ({key: value for key, value in c.items() if key not in not_compared} for c in (found, config))
    return differences(theirs, json.loads(json.dumps(ours)), ("run", "now"))


def _check_run(files: StoreFiles, config: Mapping[str, Any], resume: bool) -> None:
    if not resume:
        raise InputError(f"{files.url} holds a run already; --resume goes on with it, or choose another folder")
    if different := _differences(files, config, (_VERSIONS, _CODE)):
        raise InputError(
            f"{files.url} is another run ({'; '.join(different)}); resume it with what it was started with, "
            "or choose another folder"
        )


class RunLog:
    """What a run writes into its folder. One process does.

    Args:
        path: RUN_DIR, made.
        step: batches done. What was logged of later ones, and then lost with their weights, is forgotten.
    """

    def __init__(self, path: str | Path, step: int) -> None:
        self.files = StoreFiles(str(path))
        self._path = Path(path)
        self._keep_steps_before(step)
        self._curves = SummaryWriter(str(self._path / "tensorboard"), purge_step=step)

    def _keep_steps_before(self, step: int) -> None:
        rows: list[list[str]] = []
        if self.files.exists("steps.csv"):
            # A kill may have cut the last line short.
            lines = self.files.read("steps.csv").decode().splitlines(keepends=True)
            rows = [*csv.reader(line for line in lines if line.endswith("\n"))]
        kept = [row for row in rows[1:] if int(row[0]) < step]
        text = "".join(f"{','.join(row)}\n" for row in [["step", "epoch", "loss", "learning_rate"], *kept])
        write_file(self.files, "steps.csv", text.encode())

    def log_batch(self, step: int, epoch: int, loss: float, learning_rate: float) -> None:
        """One row of ``steps.csv``.

        Raises:
            WriteError: the disk is full, or gone.
        """
        try:
            with (self._path / "steps.csv").open("a", encoding="utf-8") as rows:
                rows.write(f"{step},{epoch},{loss!r},{learning_rate!r}\n")
        except OSError as error:
            raise WriteError(f"can't write {self._path}/steps.csv: {error}") from error
        self._draw({"train/loss": loss, "train/learning_rate": learning_rate}, step)

    def save_state(self, state: TrainState) -> None:
        """Replace what ``--resume`` goes on from."""
        buffer = io.BytesIO()
        torch.save(state.to_dict(), buffer)
        write_file(self.files, "resume.pt", buffer.getvalue())

    def save_epoch(self, state: TrainState, info: CheckpointInfo) -> None:
        """The checkpoints, tables and curves after an epoch, and the state last."""
        row = state.history[-1]
        weights = state.scored_model.state_dict()
        save_checkpoint(self.files, "last.safetensors", weights, info)
        if state.best is row:
            save_checkpoint(self.files, "best.safetensors", weights, info)
        text = io.StringIO()
        rows = csv.DictWriter(text, row.keys(), lineterminator="\n")
        rows.writeheader()
        rows.writerows(state.history)
        write_file(self.files, "history.csv", text.getvalue().encode())
        metrics = {"best": state.best, "last": row}
        write_file(self.files, "metrics.json", (json.dumps(metrics, indent=1) + "\n").encode())
        self._draw({f"epoch/{name}": value for name, value in row.items()}, state.progress.step)
        self.save_state(state)

    def _draw(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._curves.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what the curves still hold back."""
        self._curves.close()
