"""Does training learn anything that holds for people it has never seen? With and without CutMix, on both grades.

``python -m benchmarks.learning``. The embedded sample shows four people. Each is held out in turn: the videos of that
person validate, those of the others train, but for the fakes that wear the held-out face, which do neither. Every
number is of the last epoch; nothing is selected on the person held out. The balanced prior, always saying a half,
scores 0.693.

To fit into an hour on two cores, each model gets one warm start for each person held out and each grade: from random
weights, without that person, and without CutMix, which needs more steps than there is time for. From there each seed
trains one more epoch with CutMix and one without. So both spread and difference are those of the last part, and smaller
than those of whole trainings.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any, NamedTuple

import click
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import torchvision
import yaml

from benchmarks.machine import describe_machine
from training.checkpoint import read_info
from training.config import CutMixSettings, TrainSettings
from training.train import fit

GRADES = ("easy", "hard")
MODELS = ("mc3_18", "r2plus1d_18")
CUTMIX = {"none": 0.0, "cuboid": 0.5}
"""Name of the arm: probability of a batch to be mixed."""
CROP_PIXELS = 112
WARM = TrainSettings(
    input_size=64, clip_frames=8, batch_size=6, max_learning_rate=3e-4, label_smoothing=0.1, precision="none",
    ema_decay=0.9, validation_windows=3, validate_every_epochs=1000,
)  # fmt: skip
FINE = WARM.model_copy(update={"max_learning_rate": 3e-5})


class Result(NamedTuple):
    """Of one training, on the person held out."""

    log_loss: float
    """Balanced."""
    auc: float


def make_store(folder: Path, grade: str) -> tuple[Path, list[dict[str, str]]]:
    """The sample of one grade, extracted; and its labels, with the person and the donor of each video."""
    sample, store, params = folder / f"sample-{grade}", folder / f"store-{grade}", folder / "params.yaml"
    params.write_text(yaml.safe_dump({"crop": {"size": CROP_PIXELS}}))
    extract = ["pipeline.extract", str(sample / "train"), str(store), "--params", str(params)]
    for command in (
        ["pipeline.sample", str(sample), "--grade", grade],
        [*extract, "--labels", str(sample / "labels.csv")],
    ):
        subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)  # noqa: S603
    with (sample / "labels.csv").open(newline="") as file:
        return store, list(csv.DictReader(file))


def make_fold(store: Path, labels: list[dict[str, str]], person: str, fold: Path) -> None:
    """A copy of the store in which only the held-out person's videos lie in the folder ``held_out``.

    Fakes of others that wear that person's face lose their label, and with it their part in training.
    """
    shutil.copytree(store, fold, copy_function=os.link)
    held_out = {row["path"] for row in labels if row["group"] == person}
    unlabelled = {row["path"] for row in labels if row["donor"] == person}
    for path in (fold / "tracks").glob("*.parquet"):
        tracks = pq.read_table(path)
        video_ids = tracks["video_id"].to_pylist()
        new_ids = [f"{'held_out' if video_id in held_out else 'seen'}/{video_id}" for video_id in video_ids]
        keeps = pa.array([video_id not in unlabelled for video_id in video_ids])
        for name, column in (
            ("video_id", pa.array(new_ids)),
            ("group_id", pa.array(new_ids)),
            ("label", pc.if_else(keeps, tracks["label"], None).cast(pa.int8())),
        ):
            tracks = tracks.set_column(tracks.column_names.index(name), name, column)
        path.unlink()
        pq.write_table(tracks, path)


def plain_weights(name: str, path: Path) -> str:
    """Random weights as torchvision draws them, in a file."""
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(name, weights=None, num_classes=2).state_dict(), path)
    return str(path)


def cutmix_settings(arm: str) -> CutMixSettings:
    """Of one arm."""
    return CutMixSettings(probability=CUTMIX[arm])


def train(store: Path, run_dir: Path, name: str, settings: TrainSettings, **changes: Any) -> Result:
    """One run of the real thing, quietly."""
    changed = settings.model_copy(update={"validation_folders": ("held_out",), **changes})
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        fit(str(store), str(run_dir), name, changed, device="cpu", save_minutes=1e9)
    metrics = read_info(run_dir / "last.safetensors").metrics
    return Result(metrics["balanced_log_loss"], metrics["auc"])


def summary(results: dict[tuple[str, str, str, str, int], Result]) -> Iterator[str]:
    """For each model, arm and grade: the mean over people, its mean and spread over seeds."""
    yield f"{'model':<14}{'CutMix':<9}{'grade':<7}{'log loss':>9}{'spread':>8}{'AUC':>7}   by person held out"
    for key in sorted({key[:3] for key in results}):
        own = {(person, seed): result for (*k, person, seed), result in results.items() if tuple(k) == key}
        people, seeds = sorted({person for person, _ in own}), sorted({seed for _, seed in own})
        losses = [mean(own[person, seed].log_loss for person in people) for seed in seeds]
        spread = f"{stdev(losses):>8.3f}" if len(losses) > 1 else f"{'-':>8}"
        auc = mean(result.auc for result in own.values())
        each = ", ".join(f"{person} {mean(own[person, seed].log_loss for seed in seeds):.2f}" for person in people)
        yield f"{key[0]:<14}{key[1]:<9}{key[2]:<7}{mean(losses):>9.3f}{spread}{auc:>7.3f}   {each}"


@click.command(help="Log loss on people never seen in training, against the balanced prior of 0.693.")
@click.option("--models", "names", type=click.Choice(MODELS), multiple=True, default=MODELS, show_default=True)
@click.option("--people", multiple=True, help="Whom to hold out, in turn. Default: everybody.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--warm-epochs", default=(22, 3), show_default=True, type=(int, int), help="On easy and on hard.")
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(min=1), help="Of each seed.")
@click.option("--plain-start", is_flag=True, help="Warm starts without filters that see nothing but change.")
def main(
    names: tuple[str, ...],
    people: tuple[str, ...],
    seeds: int,
    warm_epochs: tuple[int, int],
    epochs: int,
    plain_start: bool,
) -> None:
    print(describe_machine())
    started = perf_counter()
    results: dict[tuple[str, str, str, str, int], Result] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = {grade: make_store(folder, grade) for grade in GRADES}
        everybody = sorted({row["group"] for row in made["easy"][1]})
        folds = {(grade, person): folder / f"{grade}-{person}" for grade in GRADES for person in people or everybody}
        for (grade, person), fold in folds.items():
            make_fold(*made[grade], person, fold)
        print(f"samples and stores: {perf_counter() - started:.0f} s", flush=True)
        for name, person, grade in itertools.product(names, people or everybody, GRADES):
            fold, warm = folds[grade, person], folder / "warm"
            start = plain_weights(name, folder / "plain.pt") if plain_start else None
            num_epochs = warm_epochs[GRADES.index(grade)]
            warmed = train(fold, warm, name, WARM, epochs=num_epochs, cutmix=cutmix_settings("none"), weights=start)
            line = f"{name}, {grade}, {person} held out: {warmed.log_loss:.3f}, AUC {warmed.auc:.3f}"
            for arm, seed in itertools.product(CUTMIX, range(seeds)):
                result = train(
                    fold, folder / "run", name, FINE, epochs=epochs, cutmix=cutmix_settings(arm), seed=seed,
                    weights=str(warm / "last.safetensors"),
                )  # fmt: skip
                shutil.rmtree(folder / "run")
                results[name, arm, grade, person, seed] = result
                line += f"{'' if seed else f'; CutMix {arm}'} {result.log_loss:.3f}"
            shutil.rmtree(warm)
            print(f"{perf_counter() - started:5.0f} s  {line}", flush=True)
    print(f"\n{len(results)} trainings in {(perf_counter() - started) / 60:.0f} min; balanced prior 0.693")
    for line in summary(results):
        print(line)


if __name__ == "__main__":
    main()
