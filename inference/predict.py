"""``python -m inference.predict STORE CHECKPOINT... --out scores.parquet --submission submission.csv``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from inference.aggregate import clip
from inference.checkpoints import Member, find_checkpoints, open_members
from inference.config import AggregateSettings, PredictSettings, Settings
from inference.partial import PartialScores, WindowKey
from inference.scores import Part, ScoredModel, Scores, ScoresInfo, check_weights, read_scores
from inference.scoring import Scorer
from inference.selection import extraction_mismatches, held_out_videos, trained_on
from inference.submission import Submission, make_submission, read_sample_submission, to_csv
from inference.windows import ScoringWindow, TrackClips, open_loader, plan_batches, plan_windows
from pipeline.cli import (
    EXIT_INTERRUPTED,
    FILE,
    FOLDER,
    ask_for_interrupts,
    debug_option,
    device_option,
    listed,
    loader_workers_option,
    machine_option,
    params_option,
    plain_errors,
    printable,
)
from pipeline.device import Device, choose_device, mixed_precision
from pipeline.errors import InputError
from pipeline.files import StoreFiles, write_file
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.versions import code_digest
from training.checkpoint import load_checkpoint
from training.dataset import COLUMNS, contents_digest, sort_tracks

SECONDS_A_PART = 30.0
"""Scoring is saved as often; a kill loses no more."""
BATCH_MEGAPIXELS = {"cpu": 16.0, "cuda": 64.0}
MAX_LISTED_FAILURES = 10


def choose_videos(store: FaceStore, tracks: pa.Table, members: Sequence[Member], part: Part) -> list[str]:
    """The videos to be scored, sorted.

    Raises:
        InputError: the store has no video, or none that all checkpoints held out.
    """
    videos = store.read_table("videos", ["video_id", "group_id"])
    if not videos.num_rows:
        raise InputError(f"{store.url} holds no videos; extract some into it first")
    if part == "all":
        return sorted(videos["video_id"].to_pylist())
    held_out = {member.name: held_out_videos(videos, tracks, member.info) for member in members}
    common = set.intersection(*held_out.values())
    if not common:
        counts = ", ".join(f"{name} {len(found)}" for name, found in held_out.items())
        raise InputError(
            f"no video of {store.url} was held out from the training of all checkpoints (of each: {counts}); "
            "train them with the same split, or score them one by one"
        )
    return sorted(common)


def describe(
    store: FaceStore,
    store_contents: str,
    members: Sequence[Member],
    part: Part,
    settings: PredictSettings,
    arithmetic: str,
    videos_without_tracks: Sequence[str],
    allow_mismatch: bool,
) -> ScoresInfo:
    """What is to be scored, with what.

    Raises:
        InputError: a checkpoint was trained on clips that were cut out otherwise, and that isn't allowed.
    """
    models = []
    for member in members:
        mismatches = extraction_mismatches(store.manifest["settings"], member.info)
        if mismatches and not allow_mismatch:
            raise InputError(
                f"{member.path} was trained on clips that were cut out otherwise than those of {store.url} "
                f"({'; '.join(mismatches)}); extract with the same settings, or override with --allow-mismatch"
            )
        models.append(
            ScoredModel(
                name=member.name,
                path=str(member.path),
                sha256=member.sha256,
                architecture=member.info.spec.name,
                epoch=member.info.epoch,
                train_prior=member.info.train_prior,
                mismatches=tuple(mismatches),
            )
        )
    return ScoresInfo(
        store_fingerprint=store.fingerprint,
        store_contents=store_contents,
        part=part,
        models=tuple(models),
        settings=settings.model_dump(mode="json") | {"precision": arithmetic},
        code=code_digest("pipeline", "training", "inference"),
        videos_without_tracks=tuple(videos_without_tracks),
    )


def predict(
    store_url: str,
    members: Sequence[Member],
    out: str | Path,
    settings: PredictSettings,
    part: Part = "all",
    allow_mismatch: bool = False,
    device: Device = "auto",
    loader_workers: int = 0,
    batch_megapixels: float | None = None,
    seconds_a_part: float = SECONDS_A_PART,
    should_stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Score the tracks of a store with every checkpoint and write ``out``; None if stopped before, to be resumed.

    Raises:
        InputError: something that was given can't be used.
        WriteError: the disk is full, or gone.
    """
    chosen_device = choose_device(device)
    arithmetic = mixed_precision(settings.precision, chosen_device)
    if batch_megapixels is None:
        batch_megapixels = BATCH_MEGAPIXELS[chosen_device]
    store = FaceStore.open(store_url)
    all_tracks = sort_tracks(store.read_table("tracks", COLUMNS))
    video_ids = choose_videos(store, all_tracks, members, part)
    tracks = all_tracks.filter(pc.is_in(all_tracks["video_id"], pa.array(video_ids)))
    without = sorted(set(video_ids) - set(tracks["video_id"].to_pylist()))
    info = describe(store, contents_digest(all_tracks), members, part, settings, arithmetic, without, allow_mismatch)
    for line in _notes(info, members, all_tracks, len(video_ids), tracks.num_rows):
        click.echo(line)

    # What is wanted, and what of it is there already.
    lengths = (tracks["row_stop"].to_numpy() - tracks["row_start"].to_numpy()).tolist()
    ids = list(zip(tracks["video_id"].to_pylist(), tracks["track_id"].to_pylist(), strict=True))

    def key(member: Member, window: ScoringWindow) -> WindowKey:
        return (*ids[window.row], member.name, window.number)

    planned = {member.name: plan_windows(lengths, member.info.spec, settings) for member in members}
    so_far = PartialScores(out, info, {key(member, window) for member in members for window in planned[member.name]})
    if so_far.done:
        click.echo(f"{len(so_far.done):,} windows were scored before")
    if so_far.num_dropped:
        click.echo(
            f"{so_far.num_dropped:,} scores of other clips, checkpoints, settings or code, or unasked for, are dropped"
        )

    started = perf_counter()
    num_windows = sum(map(len, planned.values()))
    with tqdm(
        total=num_windows, initial=len(so_far.done), unit="window", dynamic_ncols=True, desc="scoring"
    ) as bar:  # fmt: skip
        for member in members:
            todo = [window for window in planned[member.name] if key(member, window) not in so_far.done]
            if not todo:
                continue
            bar.set_postfix_str(member.name)
            model, _ = load_checkpoint(member.path)
            spec = member.info.spec
            scorer = Scorer(member.name, model.to(chosen_device), spec, chosen_device, arithmetic, settings.mirror)
            side = max(spec.input_size, int(store.manifest["settings"]["crop"]["size"]))
            loader = open_loader(
                TrackClips(store, tracks, spec.frame_step),
                plan_batches(todo, side, batch_megapixels),
                loader_workers,
                pin_memory=chosen_device == "cuda",
            )
            unsaved: list[pa.Table] = []
            saved_at = perf_counter()
            for batch in loader:
                rows = scorer.score_batch(batch, tracks)
                unsaved.append(rows)
                bar.update(rows.num_rows)
                stops = should_stop()
                if stops or perf_counter() - saved_at >= seconds_a_part:
                    so_far.add(pa.concat_tables(unsaved))
                    unsaved, saved_at = [], perf_counter()
                if stops:
                    return None
            if unsaved:
                so_far.add(pa.concat_tables(unsaved))
    scores = so_far.finish()
    failed = scores.rows.filter(pc.is_valid(scores.rows["error"]))
    click.echo(f"{scores.rows.num_rows:,} windows scored, {failed.num_rows:,} failed; {perf_counter() - started:.0f} s")
    for row in failed.slice(0, MAX_LISTED_FAILURES).to_pylist():
        click.echo(printable(f"failed: {row['video_id']}, track {row['track_id']}: {row['error']}"), err=True)
    click.echo(f"wrote {out}")
    return scores


def _notes(
    info: ScoresInfo, members: Sequence[Member], all_tracks: pa.Table, num_videos: int, num_tracks: int
) -> list[str]:
    """What to know before the figures come."""
    lines = []
    for member, model in zip(members, info.models, strict=True):
        spec = member.info.spec
        shown = f"up to {info.settings['max_frames']}"
        if info.settings["windows"]:
            shown = f"{info.settings['windows']} x {spec.clip_frames}"
        lines.append(
            f"{model.name}: {spec.name} after epoch {model.epoch}, {shown} frames of {spec.input_size} px"
            f"{' and their mirror images' if info.settings['mirror'] else ''}"
        )
        lines += [f"note: {model.name}: mismatch overridden: {mismatch}" for mismatch in model.mismatches]
        trained = trained_on(all_tracks, info.store_fingerprint, member.info)
        if info.part == "all" and trained:
            lines.append(f"note: {model.name} {trained} clips of this store; --held-out scores only the others")
        if info.part == "held-out" and trained != "was trained on":
            lines.append(
                f"note: {model.name} was trained on other clips than these, or on this store before it changed; where "
                "groups have other names since, some that it was trained on may pass for held out"
            )
    which = "held out from training" if info.part == "held-out" else "all of the store"
    lines.append(f"{num_tracks:,} tracks of {num_videos:,} videos, {which}")
    return lines


def check_outputs(out: str, submission: str | None, sample_submission: str | None) -> None:
    """See that results can be written, and that nothing but earlier results is written over.

    Raises:
        InputError: they would overwrite something else, or are not on a disk.
    """
    given = [path for path in (out, submission, sample_submission) if path is not None]
    if len({Path(path).absolute() for path in given}) < len(given):
        raise InputError("--out, --submission and --sample-submission must be different files")
    for path in (out, submission):
        if path is not None and "://" in path:
            raise InputError(f"{path} is a URL; scores and submissions are written to a disk")
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
    if Path(out).exists():
        try:
            read_scores(out)
        except InputError as error:
            raise InputError(f"--out would replace something that isn't a file of scores: {error}") from error


def submit(
    scores: Scores, settings: AggregateSettings, path: str | Path, sample_submission: str | Path | None = None
) -> Submission:
    """Aggregate scores and write a submission.

    Raises:
        InputError: the sample submission can't be used, or a weight names no model.
        WriteError: the disk is full, or gone.
    """
    found = scores.combine(settings)
    probabilities = clip(found.probability, settings.clip)
    names = read_sample_submission(sample_submission) if sample_submission is not None else None
    by_video = dict(zip(scores.video_ids, probabilities.tolist(), strict=True))
    fallback = float(clip(np.array(scores.fallback(settings)), settings.clip))
    submission = make_submission(by_video, fallback, names)
    write_file(StoreFiles(str(Path(path).parent)), Path(path).name, to_csv(submission.rows))

    without = [video for video, is_fallback in zip(scores.video_ids, found.is_fallback, strict=True) if is_fallback]
    if without:
        click.echo(f"no score, so {fallback:g}: {len(without)} of {len(by_video)} videos ({listed(without)})")
    partly = int((np.isnan(found.by_model).any(axis=1) & ~found.is_fallback).sum())
    if partly:
        click.echo(f"{partly} videos lack the score of some model and have the ensemble of the others")
    if submission.unknown:
        unknown = submission.unknown
        click.echo(f"not in the store, so {fallback:g}: {len(unknown)} rows asked for ({listed(unknown)})")
    if submission.not_asked_for:
        others = submission.not_asked_for
        click.echo(f"{len(others)} scored videos have no row, since none was asked for ({listed(others)})")
    click.echo(f"wrote {path}: {len(submission.rows)} rows")
    return submission


@click.command()
@click.argument("store", type=FOLDER)
@click.argument("checkpoints", type=FILE, metavar="CHECKPOINT...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(dir_okay=False), help="Scores of every window, parquet.")
@click.option("--submission", type=click.Path(dir_okay=False), help="One score a video, CSV.")
@click.option(
    "--sample-submission", type=FILE, metavar="FILE", help="Whose rows the submission has. Default: all videos."
)
@click.option("--held-out", is_flag=True, help="Only the videos that no CHECKPOINT was trained on.")
@click.option("--run", "runs", multiple=True, metavar="NAME", help="Of a folder of runs, only these; repeatable.")
@click.option("--allow-mismatch", is_flag=True, help="Score clips that were cut out otherwise than in training.")
@params_option
@device_option
@loader_workers_option
@machine_option(
    "--batch-megapixels",
    type=click.FloatRange(min=0, min_open=True),
    envvar="FACECLIPS_BATCH_MEGAPIXELS",
    help="Frames scored at once: bounds memory. Default: 16, on a GPU 64.",
)
@debug_option
def main(
    store: str,
    checkpoints: tuple[str, ...],
    out: str,
    submission: str | None,
    sample_submission: str | None,
    held_out: bool,
    runs: tuple[str, ...],
    allow_mismatch: bool,
    params: str | None,
    device: Device,
    loader_workers: int | None,
    batch_megapixels: float | None,
    debug: bool,
) -> None:
    """Score the face clips of the store STORE with one or more checkpoints, alone and as an ensemble.

    CHECKPOINT is a file, the folder of a training run (its best.safetensors is taken), or a folder of such folders.
    Size, length and normalisation come from each checkpoint. The same command again does what is left: scores are kept
    while the store's tracks, the checkpoint, the settings and the code are the same.

    \b
    Example:   python -m inference.predict data/store runs/mc3_18 runs/r2plus1d_18 --held-out \\
                   --out results/scores.parquet --submission results/submission.csv
    Exit code: 0 done, 1 the run failed (disk full), 2 bad usage, 130 interrupted (resumable).
    """
    with plain_errors(debug):
        settings = load_settings(params, Settings)
        if sample_submission is not None:
            if submission is None:
                raise click.UsageError("--sample-submission is for --submission; name that file, too")
            read_sample_submission(sample_submission)
        members = open_members(find_checkpoints(checkpoints, runs))
        check_weights(settings.aggregate, [member.name for member in members])
        check_outputs(out, submission, sample_submission)
        should_stop = ask_for_interrupts()
        if loader_workers is None:
            loader_workers = 4 if choose_device(device) == "cuda" else 0
        scores = predict(
            store, members, out, settings.predict, "held-out" if held_out else "all", allow_mismatch, device,
            loader_workers, batch_megapixels, should_stop=should_stop,
        )  # fmt: skip
        if scores is None:
            click.echo("interrupted; the same command goes on from here", err=True)
            raise SystemExit(EXIT_INTERRUPTED)
        if submission is not None:
            submit(scores, settings.aggregate, submission, sample_submission)


if __name__ == "__main__":
    main()
