"""The embedded sample: a small data set shaped like DFDC, made on the spot from public-domain portraits.

OUT/train/*.mp4 and metadata.json     real videos, and fakes that name their original
OUT/labels.csv                        the same, with the person in each video as its group: no split cuts people
OUT/test/*.mp4                        more of both from other takes, unlabelled
OUT/sample_submission.csv             the rows that a submission for the test folder has
OUT/sample.json                       the settings it was made with

The same settings give the same videos on the same machine.
"""

from __future__ import annotations

import csv
import json
import os
import string
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import click
import cv2
import numpy as np
from tqdm import tqdm

from pipeline.encode import Mp4Writer
from pipeline.face_swap import GRADES, FaceLayer, Flicker, Grade, GradeName, paste, self_blended_face, swapped_face
from pipeline.talking_head import Portrait, Scene
from pipeline.types import Float32Array, UInt8Array

ASSETS = Path(__file__).parent / "assets"
FPS = 30
FRAME_SIZES = ((480, 360), (640, 360), (360, 480))
FRAME_SIZE_SHARES = (0.6, 0.25, 0.15)
TEST_REAL, TEST_FAKE = 4, 6
MAX_WORKERS = 8

Kind = Literal["real", "swap", "self_blend"]


@dataclass(frozen=True)
class SampleSettings:
    """What decides the sample's content."""

    grade: GradeName
    seed: int
    real: int
    """Real videos in the train folder; the test folder has its own."""
    fake: int
    seconds: float

    @property
    def num_frames(self) -> int:
        return max(1, round(self.seconds * FPS))


@dataclass(frozen=True)
class Clip:
    """One video to write."""

    name: str
    kind: Kind
    donor: Portrait
    """Whose face a swap puts on."""


@dataclass(frozen=True)
class Take:
    """One scene, and the videos made of it: the original and its fakes, frame by frame the same but for the face."""

    folder: str
    seed: tuple[int, ...]
    portrait: Portrait
    size: tuple[int, int]
    """Width and height, pixels."""
    clips: tuple[Clip, ...]


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


def fake_kind(fake_number: int, num_real: int) -> Kind:
    """Swaps and self-blends by turns, over the originals and over the fakes of one original."""
    return "self_blend" if (fake_number % num_real + fake_number // num_real) % 2 else "swap"


def plan(settings: SampleSettings, portraits: list[Portrait]) -> list[Take]:
    """Every take of the sample, those of the train folder first; the real video is a train take's first clip."""
    rng = np.random.default_rng(settings.seed)
    people = [list(looks) for _, looks in groupby(portraits, key=lambda portrait: portrait.person)]
    letters, used = np.array(list(string.ascii_lowercase)), set[str]()

    def new_name() -> str:
        name = "".join(rng.choice(letters, 10)) + ".mp4"
        if name in used:
            return new_name()
        used.add(name)
        return name

    def take(folder: str, number: int, kinds: list[Kind]) -> Take:
        looks = people[number % len(people)]
        portrait = looks[number // len(people) % len(looks)]
        others = [other for other in portraits if other.person != portrait.person]
        clips = tuple(Clip(new_name(), kind, others[rng.integers(len(others))]) for kind in kinds)
        size = FRAME_SIZES[rng.choice(len(FRAME_SIZES), p=FRAME_SIZE_SHARES)]
        return Take(folder, (settings.seed, int(folder == "test"), number), portrait, size, clips)

    kinds_of: list[list[Kind]] = [["real"] for _ in range(settings.real)]
    for i in range(settings.fake):
        kinds_of[i % settings.real].append(fake_kind(i, settings.real))
    train = [take("train", number, kinds) for number, kinds in enumerate(kinds_of)]
    # One clip a take: no fake can be told by comparing it with its original. The names are random, so say nothing.
    test_kinds: list[Kind] = ["real" for _ in range(TEST_REAL)]
    test_kinds += [fake_kind(i, TEST_FAKE) for i in range(TEST_FAKE)]
    return train + [take("test", number, [kind]) for number, kind in enumerate(test_kinds)]


def _fake_layer(clip: Clip, target: Portrait, grade: Grade, rng: np.random.Generator) -> FaceLayer | None:
    if clip.kind == "swap":
        return swapped_face(target, clip.donor, grade, rng)
    if clip.kind == "self_blend":
        return self_blended_face(target, grade, rng)
    return None


def render_take(take: Take, root: Path, grade: Grade, num_frames: int) -> int:
    """Write the take's videos below ``root`` and return how many."""
    cv2.setNumThreads(1)
    scene_rng, *clip_rngs = (np.random.default_rng([*take.seed, stream]) for stream in range(1 + len(take.clips)))
    scene = Scene.staged(take.portrait, *take.size, scene_rng)
    original = scene.portrait.rgb
    layers = [_fake_layer(clip, scene.portrait, grade, rng) for clip, rng in zip(take.clips, clip_rngs, strict=True)]
    flickers = [Flicker.of(grade.flicker, num_frames, rng) for rng in clip_rngs]
    with ExitStack() as stack:
        writers = [
            stack.enter_context(Mp4Writer(root / take.folder / clip.name, *take.size, fps=FPS)) for clip in take.clips
        ]
        for t, view in enumerate(scene.views(scene_rng, num_frames, FPS)):
            for writer, layer, flicker in zip(writers, layers, flickers, strict=True):
                writer.write(view.render(original if layer is None else paste(original, layer, flicker, t)))
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
            original, *fakes = take.clips
            metadata[original.name] = {"label": "REAL", "split": "train"}
            labels.append([original.name, "REAL", "", take.portrait.person, ""])
            for fake in fakes:
                metadata[fake.name] = {"label": "FAKE", "split": "train", "original": original.name}
                donor = fake.donor.person if fake.kind == "swap" else ""
                labels.append([fake.name, "FAKE", original.name, take.portrait.person, donor])
    (root / "train" / "metadata.json").write_text(json.dumps(metadata, indent=1, sort_keys=True) + "\n")
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label", "original", "group", "donor"])
        rows.writerows(sorted(labels))
    with (root / "sample_submission.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["filename", "label"])
        rows.writerows([clip.name, 0.5] for clip in sorted_clips(takes, "test"))
    (root / "sample.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")


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
    if found != asdict(settings):
        raise click.UsageError(f"{out} is a sample with {found}, not with {asdict(settings)}; {remedy}")
    if not (out / "labels.csv").is_file():
        raise click.UsageError(f"{out} is a sample of an earlier version, without labels.csv; {remedy}")
    wanted = {"train": settings.real + settings.fake, "test": TEST_REAL + TEST_FAKE}
    present = {folder: sum(1 for _ in (out / folder).glob("*.mp4")) for folder in wanted}
    if present != wanted:
        raise click.UsageError(f"{out} has {present} videos where the sample has {wanted}; {remedy}")
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
@click.argument("out", type=click.Path(path_type=Path, resolve_path=True))
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
def main(*, out: Path, grade: GradeName, seed: int, real: int, fake: int, seconds: float) -> None:
    """Make a small data set of real and fake talking heads in the folder OUT."""
    settings = SampleSettings(grade, seed, real, fake, seconds)
    if is_finished(out, settings):
        click.echo(f"{out} already holds this sample; nothing to do")
        return
    make_sample(out, settings)
    click.echo(f"{out}: {real} real and {fake} fake ({grade}) videos in train/, {TEST_REAL + TEST_FAKE} in test/")


if __name__ == "__main__":
    main()
