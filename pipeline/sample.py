"""The embedded sample: a small data set shaped like DFDC, made on the spot from public-domain portraits.

OUT/train/*.mp4 and metadata.json     real videos, and fakes that name their original
OUT/labels.csv                        the same, with the people in each video as its group: no split cuts people;
                                      of fakes also which face was changed, whose face a swap put on, and what else
                                      sets them apart from their original
OUT/test/*.mp4                        more of both from other takes, unlabelled
OUT/sample_submission.csv             the rows that a submission for the test folder has
OUT/sample.json                       the settings it was made with

The same settings give the same videos on the same machine.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import click
import cv2
import numpy as np
from tqdm import tqdm

from pipeline.cli import debug_option, plain_errors
from pipeline.encode import Mp4Writer
from pipeline.face_swap import GRADES, FaceLayer, Flicker, Grade, GradeName, paste, self_blended_face, swapped_face
from pipeline.sample_plan import FACES, FPS, ORIGINAL_CRF, Clip, SampleSettings, Take, plan
from pipeline.talking_head import Portrait, Scene, View
from pipeline.types import Float32Array, UInt8Array

ASSETS = Path(__file__).parent / "assets"
MAX_WORKERS = 8
LABEL_COLUMNS = ("path", "label", "original", "group", "donor", "face", "crf", "edit")
CROP_SHARE = 0.9
"""Of each side of the frame, in a cropped fake."""
MAX_CROP_MARGIN = 0.25
"""Of what is cut off, the part on the side that is cut less: the crop is never in the middle."""


def portrait_landmarks(rgb: UInt8Array) -> Float32Array:
    """The five landmarks of the one face in a portrait, uint8 RGB: float32 ``(5, 2)``, xy in pixels.

    Rounded to a tenth of a pixel: torch's last bits depend on the number of threads, the sample must not.
    """
    # Here, not above: the processes that render import this module too, and need no torch.
    from pipeline.config import DetectSettings  # noqa: PLC0415
    from pipeline.detect import shared_detector  # noqa: PLC0415

    found = shared_detector(DetectSettings(), "cpu", 1).detect_batch([rgb])[0]
    if not len(found):
        raise ValueError("MTCNN finds no face in a portrait of the sample; the files in pipeline/assets are damaged")
    return np.asarray(found.landmarks[0].round(1), np.float32)


def load_portraits(folder: Path = ASSETS) -> list[Portrait]:
    """All portraits ``PERSON.jpg`` or ``PERSON_N.jpg`` with their ``.matte.png``, in order of name."""
    portraits = []
    for path in sorted(folder.glob("*.jpg")):
        rgb = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        matte = np.asarray(cv2.imread(str(path.with_suffix(".matte.png")), cv2.IMREAD_GRAYSCALE), np.float32)
        person = path.stem.split("_")[0]
        portraits.append(
            Portrait(person, np.asarray(rgb, np.float32), matte / np.float32(255), portrait_landmarks(rgb))
        )
    return portraits


def off_centre_window(width: int, height: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns that a cropped fake shows, near one corner of the frame."""
    margin = rng.uniform(0, MAX_CROP_MARGIN, 2)
    share_x, share_y = np.where(rng.random(2) < 0.5, margin, 1 - margin)
    window_width, window_height = round(CROP_SHARE * width), round(CROP_SHARE * height)
    left, top = round(share_x * (width - window_width)), round(share_y * (height - window_height))
    return slice(top, top + window_height), slice(left, left + window_width)


@dataclass(frozen=True)
class ClipMaker:
    """How one clip's frames come out of its scene's views."""

    clip: Clip
    originals_rgb: tuple[Float32Array, ...]
    """The scene's portraits, from left to right."""
    layer: FaceLayer | None
    """None in an original."""
    flicker: Flicker
    window: tuple[slice, slice]
    """Rows and columns that are shown, at the whole frame's size."""

    @classmethod
    def of(cls, clip: Clip, scene: Scene, grade: Grade, num_frames: int, rng: np.random.Generator) -> ClipMaker:
        """The same ``rng`` state makes the same clip."""
        target = scene.portraits[clip.seat]
        layer = None
        if clip.kind == "swap":
            layer = swapped_face(target, clip.donor, grade, rng)
        elif clip.kind == "self_blend":
            layer = self_blended_face(target, grade, rng)
        flicker = Flicker.of(grade.flicker, num_frames, rng)
        whole = slice(0, scene.height), slice(0, scene.width)
        window = off_centre_window(scene.width, scene.height, rng) if clip.edit == "cropped" else whole
        return cls(clip, tuple(portrait.rgb for portrait in scene.portraits), layer, flicker, window)

    @property
    def first_view(self) -> int:
        """What the clip's frame 0 shows."""
        return 1 if self.clip.edit == "shifted" else 0

    def frame(self, view: View, t: int) -> UInt8Array:
        """The clip's frame ``t``, uint8 ``(H, W, 3)``."""
        portraits_rgb = list(self.originals_rgb)
        if self.layer is not None:
            portraits_rgb[self.clip.seat] = paste(portraits_rgb[self.clip.seat], self.layer, self.flicker, t)
        rgb = view.render(portraits_rgb)
        shown = rgb[self.window]
        height, width = rgb.shape[:2]
        return rgb if shown.shape == rgb.shape else np.asarray(cv2.resize(shown, (width, height)), np.uint8)


def take_frames(take: Take, grade: Grade, num_frames: int) -> Iterator[tuple[Clip, UInt8Array]]:
    """The frames of all of a take's clips as the scene goes on, those of one clip in order."""
    scene_rng, *clip_rngs = (np.random.default_rng([*take.seed, stream]) for stream in range(1 + len(take.clips)))
    scene = Scene.staged(take.portraits, *take.size, scene_rng)
    makers = [
        ClipMaker.of(clip, scene, grade, num_frames, rng) for clip, rng in zip(take.clips, clip_rngs, strict=True)
    ]
    num_views = num_frames + max(maker.first_view for maker in makers)
    for number, view in enumerate(scene.views(scene_rng, num_views, FPS)):
        for maker in makers:
            t = number - maker.first_view
            if 0 <= t < num_frames:
                yield maker.clip, maker.frame(view, t)


def render_take(take: Take, root: Path, grade: Grade, num_frames: int) -> int:
    """Write the take's videos below ``root`` and return how many."""
    cv2.setNumThreads(1)
    with ExitStack() as stack:
        writers = {
            clip.name: stack.enter_context(Mp4Writer(root / take.folder / clip.name, *take.size, fps=FPS, crf=clip.crf))
            for clip in take.clips
        }
        for clip, rgb in take_frames(take, grade, num_frames):
            writers[clip.name].write(rgb)
    return len(take.clips)


def render_all(takes: list[Take], root: Path, grade: Grade, num_frames: int) -> None:
    """Write all videos, a bounded number of processes at work, with a bar on stderr."""
    workers = min(os.cpu_count() or 1, MAX_WORKERS, len(takes))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
    try:
        with tqdm(total=sum(len(take.clips) for take in takes), desc="sample", unit="video") as bar:
            futures = [pool.submit(render_take, take, root, grade, num_frames) for take in takes]
            for future in as_completed(futures):
                bar.update(future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def write_tables(takes: list[Take], root: Path, settings: SampleSettings) -> None:
    """``metadata.json`` as DFDC has it, ``labels.csv``, ``sample_submission.csv``, and last ``sample.json``."""
    metadata = {}
    labels = []
    for take in takes:
        if take.folder == "train":
            original = take.clips[0].name
            for clip in take.clips:
                is_fake = clip.kind != "real"
                metadata[clip.name] = {"label": "FAKE" if is_fake else "REAL", "split": "train"}
                if is_fake:
                    metadata[clip.name]["original"] = original
                labels.append(
                    {
                        "path": clip.name,
                        "label": metadata[clip.name]["label"],
                        "original": original if is_fake else "",
                        "group": take.group,
                        "donor": clip.donor.person if clip.kind == "swap" else "",
                        "face": FACES[len(take.portraits)][clip.seat] if is_fake else "",
                        "crf": str(clip.crf),
                        "edit": clip.edit,
                    }
                )
    (root / "train" / "metadata.json").write_text(json.dumps(metadata, indent=1, sort_keys=True) + "\n")
    with (root / "labels.csv").open("w", newline="") as file:
        rows_by_name = csv.DictWriter(file, LABEL_COLUMNS, lineterminator="\n")
        rows_by_name.writeheader()
        rows_by_name.writerows(sorted(labels, key=lambda row: row["path"]))
    with (root / "sample_submission.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["filename", "label"])
        rows.writerows([clip.name, 0.5] for clip in sorted_clips(takes, "test"))
    (root / "sample.json").write_text(json.dumps(settings.as_json(), indent=1) + "\n")


def sorted_clips(takes: list[Take], folder: str) -> list[Clip]:
    """All clips of one folder by name, which is in no order that gives the answer."""
    return sorted((clip for take in takes if take.folder == folder for clip in take.clips), key=lambda clip: clip.name)


def is_finished(out: Path, settings: SampleSettings) -> bool:
    """Whether ``out`` holds exactly this sample; False where there is nothing yet.

    Raises:
        click.UsageError: there is something else, which is left as it is.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    remedy = "nothing was written; choose another folder or remove this one"
    marker = out / "sample.json"
    if not marker.is_file():
        raise click.UsageError(f"{out} exists and is no sample of this program; {remedy}")
    try:
        found = json.loads(marker.read_text())
    except ValueError:
        found = "unreadable settings"
    if found != settings.as_json():
        raise click.UsageError(f"{out} is a sample with {found}, not with {settings.as_json()}; {remedy}")
    if not (out / "labels.csv").is_file():
        raise click.UsageError(f"{out} is a sample of an earlier version, without labels.csv; {remedy}")
    present = {folder: sum(1 for _ in (out / folder).glob("*.mp4")) for folder in settings.num_videos}
    if present != settings.num_videos:
        raise click.UsageError(f"{out} has {present} videos where the sample has {settings.num_videos}; {remedy}")
    return True


def make_sample(out: Path, settings: SampleSettings) -> None:
    """Make the sample beside ``out`` and move it there when whole, so that a half-made one is never taken for it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        root = Path(scratch) / out.name
        for folder in ("train", "test"):
            (root / folder).mkdir(parents=True)
        takes = plan(settings, load_portraits())
        render_all(takes, root, GRADES[settings.grade], settings.num_frames)
        write_tables(takes, root, settings)
        if out.exists():
            out.rmdir()
        root.rename(out)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, resolve_path=True, file_okay=False))
@click.option(
    "--grade",
    type=click.Choice(get_args(GradeName)),
    default="easy",
    show_default=True,
    help="How well the fakes are made: seams and flicker as in 2018, or feathered, matched and steady.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other videos.")
@click.option("--real", type=click.IntRange(min=1), default=24, show_default=True, help="Real videos to train on.")
@click.option("--fake", type=click.IntRange(min=0), default=48, show_default=True, help="Fake videos to train on.")
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=3.0, show_default=True, help="Length of a video.")
@click.option(
    "--people",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="Talking heads in a video. Of two, a fake changes the face of one, by turns.",
)
@click.option(
    "--crf",
    type=click.IntRange(0, 51),
    multiple=True,
    default=(ORIGINAL_CRF,),
    show_default=True,
    help="Quality of the fakes in x264's terms, 0 without loss, 51 the worst. Given several times, the fakes of an "
    f"original are encoded at these by turns. Originals are always at {ORIGINAL_CRF}.",
)
@click.option(
    "--misaligned",
    is_flag=True,
    help="Two more fakes of each original, made as the others but one of them shows everything a frame earlier, "
    "the other only nine tenths of the frame, enlarged.",
)
@debug_option
def main(
    *, out: Path, grade: GradeName, seed: int, real: int, fake: int, seconds: float, people: int,
    crf: tuple[int, ...], misaligned: bool, debug: bool,
) -> None:  # fmt: skip
    """Make a small data set of real and fake talking heads in the folder OUT, with labels. The same command again
    does nothing.

    \b
    Example:   python -m pipeline.sample data/hard-sample --grade hard --real 6 --fake 12
    Exit code: 0 done, 1 the run failed, 2 bad usage, 130 interrupted.
    """
    settings = SampleSettings(grade, seed, real, fake, seconds, people, crf, misaligned)
    with plain_errors(debug):
        if is_finished(out, settings):
            click.echo(f"{out} already holds this sample; nothing to do")
            return
        make_sample(out, settings)
    num_videos = settings.num_videos
    click.echo(
        f"{out}: {real} real and {num_videos['train'] - real} fake ({grade}) videos in train/, "
        f"{num_videos['test']} in test/"
    )


if __name__ == "__main__":
    main()
