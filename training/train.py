"""``python -m training.train STORE RUN_DIR --model NAME``: fit one model on the clips of a store."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from time import perf_counter

import click
import numpy as np
import pyarrow as pa
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from pipeline.cli import (
    EXIT_INTERRUPTED,
    FOLDER,
    ask_for_interrupts,
    debug_option,
    device_option,
    loader_workers_option,
    machine_option,
    params_option,
    plain_errors,
    printable,
)
from pipeline.device import Device, choose_device, mixed_precision
from pipeline.settings import load_settings
from pipeline.store import FaceStore
from pipeline.versions import code_digest
from training.checkpoint import CheckpointInfo, library_versions
from training.config import Settings, TrainSettings
from training.cutmix import draw_cutmix, mixed_cross_entropy, paste
from training.dataset import Sample, contents_digest
from training.loading import Clips, open_clips
from training.models import ModelSpec, build_model, model_names, model_spec
from training.run import RunLog, make_or_check_run, read_state
from training.sampling import chance_of
from training.state import Row, TrainState, convolution_format
from training.transforms import augment_batch, clip_augmentation
from training.validation import validate

NUM_CLASSES = 2
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}


class DivergedError(RuntimeError):
    """The loss or its gradient is no number any more."""


def spec_of(name: str, settings: TrainSettings) -> ModelSpec:
    """The model's spec, with what the settings say otherwise."""
    changes = {key: getattr(settings, key) for key in ("input_size", "clip_frames", "frame_step")}
    return replace(model_spec(name), **{key: value for key, value in changes.items() if value is not None})


def batch_loss(
    accelerator: Accelerator,
    model: nn.Module,
    sample: Sample,
    spec: ModelSpec,
    settings: TrainSettings,
    clips_per_unit: int,
    chance: list[int],
) -> Tensor:
    """Augmentation, CutMix, the model and its loss: a scalar, the mean over this process's B clips of a batch.

    Args:
        accelerator: what runs the model.
        model: from clips to logits.
        sample: the batch.
        spec: of the model.
        settings: of augmentation, CutMix and loss.
        clips_per_unit: so many neighbours are augmented alike; B is a multiple of it.
        chance: numbers that all of the batch's randomness is drawn from.
    """
    rng = np.random.default_rng(chance)
    torch.manual_seed(int(rng.integers(2**63)))  # Of augmentation and dropout.
    frames = sample.frames.to(accelerator.device, non_blocking=True)  # (B, T, H, W, 3) uint8
    transform = clip_augmentation(spec.input_size, settings.augment)
    clips = augment_batch(frames, transform, clips_per_unit)  # (B, T, 3, S, S) in [0, 1]
    clips = spec.normalize(clips).contiguous(memory_format=torch.channels_last_3d)  # (B, 3, T, S, S)
    labels = sample.label.to(accelerator.device)
    num_frames, height, width = clips.shape[2:]
    mix = draw_cutmix(len(clips), (num_frames, height, width), **settings.cutmix.model_dump(), rng=rng)
    if mix is not None:
        clips = paste(clips, mix)
    with accelerator.autocast():
        logits = model(clips)
    return mixed_cross_entropy(logits, labels, mix, settings.label_smoothing)


def check_finite(loss: float, gradient_norm: float, clips: Clips, sample: Sample, run_dir: str) -> None:
    """Stop a run before its weights are spoiled.

    Raises:
        DivergedError: the loss or the gradient isn't finite.
    """
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    shown = clips.tracks.take(sample.row.tolist())
    names = zip(shown["video_id"].to_pylist(), shown["track_id"].to_pylist(), strict=True)
    raise DivergedError(
        f"the loss is {loss}, its gradient's length {gradient_norm}, on the clips "
        f"{printable(', '.join(f'{video}#{track}' for video, track in names))}; {run_dir} keeps the last good state "
        "and checkpoints: look at these clips, or try a lower train.max_learning_rate or train.precision none"
    )


def fit(
    store_url: str,
    run_dir: str,
    name: str,
    settings: TrainSettings,
    device: Device = "auto",
    resume: bool = False,
    replace_run: bool = False,
    loader_workers: int = 0,
    save_minutes: float = 10.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Fit a model, or go on fitting it; False if it was stopped before its end, with its state saved.

    Chance in a batch depends on the seed, the batch and the process alone, and the state is saved between steps: so a
    run that was killed and resumed ends with the weights of one that wasn't.

    Raises:
        InputError: something that was given can't be used.
        WriteError: RUN_DIR can't be written to.
        DivergedError: a loss or a gradient isn't finite.
    """
    chosen_device = choose_device(device)
    precision = mixed_precision(settings.precision, chosen_device)
    accelerator = Accelerator(cpu=chosen_device == "cpu", mixed_precision=precision)
    rank, world_size = accelerator.process_index, accelerator.num_processes

    # Clips.
    spec = spec_of(name, settings)
    store = FaceStore.open(store_url)
    training, validation, batches = open_clips(
        store, spec, settings, rank, world_size, loader_workers, pin_memory=chosen_device == "cuda"
    )
    num_batches, accumulate = len(batches.batch_sizes), settings.accumulate_batches

    # Model, optimizer, schedule, average.
    torch.manual_seed(settings.seed)
    bare_model = build_model(name, NUM_CLASSES, settings.weights)
    bare_model.to(memory_format=convolution_format(bare_model))
    bare_optimizer = OPTIMIZERS[settings.optimizer](
        bare_model.parameters(), lr=settings.max_learning_rate, weight_decay=settings.weight_decay
    )
    num_steps = settings.epochs * math.ceil(num_batches / accumulate)
    schedule = OneCycleLR(
        bare_optimizer, settings.max_learning_rate, total_steps=num_steps, pct_start=settings.warmup_fraction
    )
    model, optimizer = accelerator.prepare(bare_model, bare_optimizer)
    average = None
    if settings.ema_decay is not None:
        moving = get_ema_multi_avg_fn(settings.ema_decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(bare_model, multi_avg_fn=moving, use_buffers=True)
    state = TrainState(bare_model, bare_optimizer, schedule, average, accelerator.scaler)

    # The run: a new one, or one to go on with.
    about = {
        "model": name,
        "store": {"fingerprint": store.fingerprint, "settings": store.manifest["settings"]},
        "clips": contents_digest(pa.concat_tables([training.tracks, validation.tracks])),
        "train": settings.model_dump(mode="json"),
        "processes": world_size,
        "code": code_digest("pipeline", "training"),
        "versions": library_versions(),
    }
    if accelerator.is_main_process and (different := make_or_check_run(run_dir, about, resume, replace_run)):
        click.echo(printable(f"the run in {run_dir} was one of something else ({'; '.join(different)}); begun anew"))
    accelerator.wait_for_everyone()
    if saved := read_state(run_dir):
        state.restore(saved)
    run = RunLog(run_dir, state.progress.step) if accelerator.is_main_process else None
    if run is not None:
        click.echo(
            f"{name}: {spec.clip_frames} frames of {spec.input_size} px on {accelerator.device}, AMP {precision}"
        )
        click.echo(training.describe("train"))
        click.echo(validation.describe("validate"))
        click.echo(f"{settings.epochs} epochs of {num_batches} batches, {state.progress.step} batches are done")

    started = saved_at = perf_counter()
    while state.progress.epoch < settings.epochs:
        progress = state.progress
        batches.start(progress.epoch, progress.batch)
        bar = tqdm(
            total=num_batches, initial=progress.batch, desc=f"epoch {progress.epoch + 1}/{settings.epochs}",
            unit="batch", dynamic_ncols=True, leave=False, disable=run is None,
        )  # fmt: skip
        asked_at = perf_counter()
        for sample in training.loader:
            waiting_seconds = perf_counter() - asked_at
            ends_step, step_clips = batches.step_of(progress.batch, accumulate)
            with nullcontext() if ends_step else accelerator.no_sync(model):
                chance = chance_of(settings.seed, "batch", progress.step, rank)
                loss = batch_loss(accelerator, model, sample, spec, settings, batches.clips_per_unit, chance)
                # Each clip weighs the same, whatever batch and process it is in; gradients of processes are averaged.
                accelerator.backward(loss * len(sample.label) * world_size / step_clips)
            batch_clips = batches.batch_sizes[progress.batch]
            loss_value = accelerator.reduce(loss.detach() * len(sample.label)).item() / batch_clips
            gradient_norm = 0.0
            if ends_step:
                norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm or math.inf)
                # In float16 gradients overflow now and then, and the scaler skips such a step.
                gradient_norm = 0.0 if precision == "fp16" else float(norm)
            check_finite(loss_value, gradient_norm, training, sample, run_dir)
            learning_rate = float(schedule.get_last_lr()[0])
            if ends_step:
                optimizer.step()
                optimizer.zero_grad()
                if not accelerator.optimizer_step_was_skipped:
                    schedule.step()
                if average is not None:
                    average.update_parameters(bare_model)
            if run is not None:
                run.log_batch(progress.step, progress.epoch + 1, loss_value, learning_rate)
            progress.add(loss_value, batch_clips, perf_counter() - asked_at, waiting_seconds)
            bar.set_postfix_str(progress.describe())
            bar.update()

            if should_stop():
                accelerator.set_trigger()
            stops = ends_step and accelerator.check_trigger()
            is_due = ends_step and perf_counter() - saved_at >= 60 * save_minutes
            if run is not None and (stops or is_due):
                run.save_state(state)
                saved_at = perf_counter()
            if stops:
                bar.close()
                if run is not None:
                    run.close()
                return False
            asked_at = perf_counter()
        bar.close()

        state.progress = progress.next_epoch()
        epochs_done = state.progress.epoch
        if epochs_done % settings.validate_every_epochs and epochs_done < settings.epochs:
            continue
        metrics = validate(
            accelerator, state.scored_model, spec, validation.loader, validation.tracks, settings.validation_mirror
        )
        state.history.append({"epoch": epochs_done} | progress.row() | metrics)
        if run is not None:
            info = CheckpointInfo(
                spec=spec,
                num_classes=NUM_CLASSES,
                train_settings=about["train"],
                store={**about["store"], "clips": about["clips"]},
                train_prior=float(training.tracks["label"].to_numpy().mean()),
                epoch=epochs_done,
                metrics=metrics,
                versions=about["versions"],
            )
            run.save_epoch(state, info)
            click.echo(epoch_line(state.history[-1]))
    if run is not None:
        run.close()
        if state.best is not None:
            click.echo(
                f"best: epoch {state.best['epoch']:.0f}, balanced log loss {state.best['balanced_log_loss']:.3f}, in "
                f"{run_dir}/best.safetensors; {perf_counter() - started:.0f} s"
            )
    return True


def epoch_line(row: Row) -> str:
    """One epoch's figures for the terminal."""
    return (
        f"epoch {row['epoch']:.0f}: train loss {row['train_loss']:.3f}, validation log loss {row['log_loss']:.3f}, "
        f"balanced {row['balanced_log_loss']:.3f} (prior 0.693), AUC {row['auc']:.3f}, accuracy REAL "
        f"{row['accuracy_real']:.2f} FAKE {row['accuracy_fake']:.2f}; {row['clips_per_second']:.1f} clips/s, "
        f"{row['waiting_share']:.0%} of the time waiting for data"
    )


@click.command()
@click.argument("store", type=FOLDER)
@click.argument("run_dir", type=click.Path(file_okay=False))
@click.option(
    "--model",
    "name",
    required=True,
    metavar="NAME",
    shell_complete=lambda _ctx, _param, incomplete: [name for name in model_names() if name.startswith(incomplete)],
    help=f"One of: {', '.join(model_names())}.",
)
@params_option
@click.option("--resume", is_flag=True, help="Go on with the run in RUN_DIR; begin it if there is none.")
@click.option(
    "--replace",
    "replace_run",
    is_flag=True,
    help="First remove a run in RUN_DIR that had other settings, clips or code.",
)
@device_option
@loader_workers_option
@machine_option(
    "--save-minutes", type=click.FloatRange(min=0), default=10, show_default=True, envvar="FACECLIPS_SAVE_MINUTES",
    help="Minutes from one saved state to the next.",
)  # fmt: skip
@debug_option
def main(
    store: str,
    run_dir: str,
    name: str,
    params: str | None,
    resume: bool,
    replace_run: bool,
    device: Device,
    loader_workers: int | None,
    save_minutes: float,
    debug: bool,
) -> None:
    """Fit the model NAME on the labelled clips of the face-clip store STORE; everything it leaves is in RUN_DIR.

    \b
    RUN_DIR/best.safetensors   checkpoint of the epoch with the least balanced log loss
            last.safetensors   checkpoint of the last epoch
            metrics.json, history.csv, steps.csv, tensorboard/, config.yaml
            resume.pt          what --resume goes on from
    Example:   python -m training.train data/store runs/r3d_18 --model r3d_18 --params params/demo.yaml
    Several GPUs or machines: accelerate launch -m training.train STORE RUN_DIR --model NAME
    Exit code: 0 done, 1 the run failed (diverged, disk full), 2 bad usage, 130 interrupted (resumable).
    """
    with plain_errors(debug):
        settings = load_settings(params, Settings).train
        should_stop = ask_for_interrupts()
        if loader_workers is None:
            loader_workers = 4 if choose_device(device) == "cuda" else 0
        finished = fit(
            store, run_dir, name, settings, device, resume, replace_run, loader_workers, save_minutes, should_stop
        )
        if not finished:
            click.echo("interrupted; the same command with --resume goes on from here", err=True)
            raise SystemExit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
