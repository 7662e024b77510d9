"""Does it help to train on what became of each face, and on pairs? ``python -m benchmarks.face_label``.

The sample with two people in a video shows two teams of two. Each is held out in turn: its videos validate, those of
the other train, but for the fakes that wear a held-out face, which do neither. Of each fake one face is changed, the
other is not. The arms are what a model is trained on:

    label         the label of the video, which calls both faces of a fake FAKE: the baseline
    face_label    whether this face was changed
    cutmix        the same, on pairs of a real clip and a fake of the same frames, with boxes pasted between the two
    paired        the same, on pairs without that; only with ``--arms paired``

All start from random weights and are shown the same number of clips, so that an arm isn't better for its longer epochs.
Every number is of the last epoch, on people never seen; nothing is selected on them. Always saying a half scores a
balanced log loss of 0.693.

What is validated are videos, by their labels. As in training, a video's score is the mean over its faces: of a fake
with one changed face of two a perfect judge of faces says no more than a half. So the same scores are shown with a
video's score the maximum over its faces (``aggregate.tracks: max``), and by face, against ``face_label``.
"""

from __future__ import annotations

import io
import itertools
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter
from typing import Any, NamedTuple

import click
import numpy as np
import torch

from benchmarks.learning import make_fold
from benchmarks.machine import describe_machine
from benchmarks.pair_labels import extract, make_sample
from pipeline.cluster import threads_per_worker
from pipeline.store import FaceStore
from training.checkpoint import load_checkpoint
from training.config import CutMixSettings, TrainSettings
from training.dataset import Int64Array
from training.loading import open_clips
from training.metrics import Float64Array, score
from training.train import fit, spec_of
from training.validation import fake_probabilities

CROP_PIXELS = 112
SCORED_WINDOWS = 3
"""Of each track."""
NO_CUTMIX = CutMixSettings(probability=0.0)
ARMS: Mapping[str, Mapping[str, Any]] = {
    "label": {"cutmix": NO_CUTMIX},
    "face_label": {"label_column": "face_label", "cutmix": NO_CUTMIX},
    "paired": {"label_column": "face_label", "sampler": "paired", "cutmix": NO_CUTMIX},
    "cutmix": {
        "label_column": "face_label",
        "sampler": "paired",
        "cutmix": CutMixSettings(probability=0.5, donor="pair"),
    },
}
SETTINGS = TrainSettings(
    input_size=64, clip_frames=8, batch_size=6, max_learning_rate=3e-4, label_smoothing=0.1, precision="none",
    ema_decay=0.9, validation_windows=1, validate_every_epochs=1000, validation_folders=("held_out",),
)  # fmt: skip


class Result(NamedTuple):
    """Of one training, on the people held out."""

    by_mean: dict[str, float]
    """Of videos, as :func:`training.metrics.score`: mean over faces."""
    by_max: dict[str, float]
    """Likewise: maximum over faces."""
    by_face: dict[str, float]
    """Of faces, against ``face_label``."""


class Job(NamedTuple):
    """One training."""

    fold: Path
    team: str
    """Who is held out."""
    model: str
    arm: str
    num_clips: int
    seed: int


def score_run(store: FaceStore, checkpoint: Path, settings: TrainSettings) -> Result:
    """The videos and faces that were held out, by a model that was trained."""
    model, info = load_checkpoint(checkpoint)
    _, validation, _ = open_clips(store, info.spec, settings)
    probabilities: dict[int, list[float]] = {}
    with torch.inference_mode():
        for sample in validation.loader:
            scores = fake_probabilities(model, info.spec.prepare(sample.frames), mirror=False)
            for row, probability in zip(sample.row.tolist(), scores.tolist(), strict=True):
                probabilities.setdefault(row, []).append(probability)
    faces = np.array([mean(probabilities[row]) for row in range(validation.tracks.num_rows)])
    tracks = validation.tracks
    videos: dict[str, list[int]] = {}
    for row, video_id in enumerate(tracks["video_id"].to_pylist()):
        videos.setdefault(video_id, []).append(row)
    labels: Int64Array = tracks["label"].to_numpy().astype(np.int64)[[rows[0] for rows in videos.values()]]
    means: Float64Array = np.array([faces[rows].mean() for rows in videos.values()])
    maxima: Float64Array = np.array([faces[rows].max() for rows in videos.values()])
    face_labels: Int64Array = tracks["face_label"].fill_null(-1).to_numpy().astype(np.int64)
    is_known = face_labels >= 0
    return Result(score(labels, means), score(labels, maxima), score(face_labels[is_known], faces[is_known]))


def train(job: Job) -> tuple[Job, Result, str]:
    """One run of the real thing, quietly, on one core; and what it was shown."""
    torch.set_num_threads(1)
    store = FaceStore.open(str(job.fold))
    settings = SETTINGS.model_copy(update={**ARMS[job.arm], "seed": job.seed})
    training, _, batches = open_clips(store, spec_of(job.model, settings), settings)
    clips_per_epoch = sum(batches.batch_sizes)
    settings = settings.model_copy(update={"epochs": max(1, round(job.num_clips / clips_per_epoch))})
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder, "run")
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            fit(str(job.fold), str(run_dir), job.model, settings, device="cpu", save_minutes=1e9)
        scored = settings.model_copy(update={"validation_windows": SCORED_WINDOWS})
        result = score_run(store, run_dir / "last.safetensors", scored)
    return job, result, f"{training.describe(job.arm)}; {settings.epochs} epochs of {clips_per_epoch} clips"


def summary(results: Mapping[tuple[str, str, int], Result]) -> Iterator[str]:
    """For each arm the means over teams and seeds, and the spread over seeds of the mean over teams."""
    names = f"{'log loss':>10}{'balanced':>10}{'spread':>8}{'AUC':>7}"
    yield f"{'':<12}{'videos by mean of faces':>35}{'videos by the maximum':>37}{'faces':>16}"
    yield f"{'trained on':<12}{names}  {names}  {'balanced':>9}{'AUC':>7}   by team held out (mean, maximum)"
    teams, seeds = sorted({key[1] for key in results}), sorted({key[2] for key in results})
    for arm in dict.fromkeys(key[0] for key in results):
        own = [result for key, result in results.items() if key[0] == arm]
        columns = []
        for kind in ("by_mean", "by_max"):
            scores = [getattr(result, kind) for result in own]
            losses = [
                mean(getattr(results[arm, team, seed], kind)["balanced_log_loss"] for team in teams) for seed in seeds
            ]
            spread = f"{stdev(losses):>8.3f}" if len(seeds) > 1 else f"{'-':>8}"
            log_loss, balanced, auc = (mean(s[key] for s in scores) for key in ("log_loss", "balanced_log_loss", "auc"))
            columns.append(f"{log_loss:>10.3f}{balanced:>10.3f}{spread}{auc:>7.3f}")
        faces = [mean(result.by_face[key] for result in own) for key in ("balanced_log_loss", "auc")]
        of_teams = "; ".join(
            f"{team} "
            + ", ".join(
                f"{mean(getattr(results[arm, team, seed], kind)['balanced_log_loss'] for seed in seeds):.2f}"
                for kind in ("by_mean", "by_max")
            )
            for team in teams
        )
        yield f"{arm:<12}{columns[0]}  {columns[1]}  {faces[0]:>9.3f}{faces[1]:>7.3f}   {of_teams}"


@click.command(help="Training on labels of faces and on pairs, against training on labels of videos.")
@click.option("--model", "name", default="mc3_18", show_default=True)
@click.option(
    "--arms", type=click.Choice(list(ARMS)), multiple=True, default=("label", "face_label", "cutmix"), show_default=True
)
@click.option("--grade", type=click.Choice(("easy", "hard")), default="easy", show_default=True)
@click.option("--real", default=16, show_default=True, help="Originals.")
@click.option("--fake", default=32, show_default=True, help="Fakes of them.")
@click.option("--clips", "num_clips", default=500, show_default=True, help="That each training is shown, about.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1))
@click.option("--processes", default=threads_per_worker(1), show_default="one a core")
def main(
    name: str, arms: tuple[str, ...], grade: str, real: int, fake: int, num_clips: int, seeds: int, processes: int
) -> None:
    print(describe_machine())
    started = perf_counter()
    results: dict[tuple[str, str, int], Result] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sample, store = folder / "sample", folder / "store"
        labels = list(make_sample(sample, grade, ["--real", str(real), "--fake", str(fake)]).values())
        extract(sample / "train", sample / "labels.csv", store, CROP_PIXELS)
        teams = sorted({row["group"] for row in labels})
        folds = {team: folder / f"fold-{number}" for number, team in enumerate(teams)}
        for team, fold in folds.items():
            # Its donors are people, of whom the team is made.
            wearing = [row | {"donor": team if row["donor"] in team.split("+") else row["donor"]} for row in labels]
            make_fold(store, wearing, team, fold)
        print(f"{name}, {grade}; sample and store: {perf_counter() - started:.0f} s", flush=True)
        jobs = [
            Job(fold, team, name, arm, num_clips, seed)
            for seed, (team, fold), arm in itertools.product(range(seeds), folds.items(), arms)
        ]
        # One core each: threads of one training would wait for each other.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(train, job) for job in jobs]):
                job, result, about = future.result()
                results[job.arm, job.team, job.seed] = result
                values = ", ".join(f"{part['balanced_log_loss']:.3f} ({part['auc']:.3f})" for part in result)
                print(
                    f"{perf_counter() - started:5.0f} s  {job.team} held out, seed {job.seed}: {values}\n    {about}",
                    flush=True,
                )
    minutes = (perf_counter() - started) / 60
    print(f"\n{len(results)} trainings in {minutes:.0f} min; balanced prior 0.693; spread: over seeds")
    ordered = {(arm, *key): results[arm, *key] for arm in arms for key in sorted({key[1:] for key in results})}
    print("\n".join(summary(ordered)))


if __name__ == "__main__":
    main()
