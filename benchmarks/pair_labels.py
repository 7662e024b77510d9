"""Are faces labelled rightly? ``face_label`` against the truth of the sample: ``python -m benchmarks.pair_labels``.

The sample with two people in a video is made in both grades, its fakes at several levels of compression, and extracted.
The truth is its ``labels.csv``, which says whether the left or the right face was changed. The baseline is the label of
the video, which calls both faces of a fake changed and is wrong about one of two. Of the fakes that are shifted in time
or cropped the truth is that they can't be compared: they must have tracks of their own, and no label by face.

With ``--clips`` real clips are re-encoded at the same levels, unchanged, and given to the extraction as fakes of
themselves: a face of them that is called changed is an error, and so is a copy that doesn't get its original's tracks.

The last table says how many of all these faces other values of ``pair.min_change`` would call wrongly.
"""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import yaml

from benchmarks.machine import describe_machine
from pipeline.catalog import build_index
from pipeline.config import PairSettings
from pipeline.decode import VideoReader
from pipeline.encode import Mp4Writer
from pipeline.store import FaceStore
from pipeline.types import FAKE

GRADES = ("easy", "hard")
CROP_PIXELS = 64
"""Of the stored faces, which nobody looks at here; faces are compared in the frames."""
NOTES = {"shifted": ("shifted in time",), "cropped": ("cropped", "something else")}
"""By what was done to a fake: what the note may say that it should have."""
THRESHOLDS = (0.8, 0.9, 1.0, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0)

Row = dict[str, Any]
Truth = dict[str, dict[str, str]]
"""What is known of each video, by its path."""


@dataclass(frozen=True)
class Face:
    """One track of a fake that was compared with its original."""

    where: str
    """Grade, or ``clips``."""
    crf: int
    video_id: str
    was_changed: bool
    """The truth."""
    face_label: int | None
    score: float | None


@dataclass(frozen=True)
class Fake:
    """One video that names its original."""

    where: str
    crf: int
    edit: str
    """The truth."""
    video_id: str
    tracks_from: str | None
    note: str | None
    has_same_tracks: bool
    """Whether its tracks are its original's: as many, the same frames, the same squares."""


def extract(videos: Path, labels: Path, store: Path, crop_pixels: int) -> FaceStore:
    """The command, on all cores, into a new store."""
    params = store.with_suffix(".yaml")
    params.write_text(yaml.safe_dump({"crop": {"size": crop_pixels}}))
    command = ["pipeline.extract", str(videos), str(store), "--labels", str(labels), "--params", str(params)]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)  # noqa: S603 (our own command)
    return FaceStore.open(str(store))


def make_sample(folder: Path, grade: str, options: Sequence[str]) -> Truth:
    """With two people in a video, by its command; the rows of its ``labels.csv`` by path."""
    command = ["pipeline.sample", str(folder), "--people", "2", "--grade", grade, *options]
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)  # noqa: S603 (our own command)
    with (folder / "labels.csv").open(newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def side_of(track: Row) -> str:
    """Whether a face is left or right of the frame's middle."""
    boxes = np.array(track["boxes_xyxy"])
    return "left" if (boxes[:, 0] + boxes[:, 2]).mean() / 2 < track["width"] / 2 else "right"


def are_same(tracks: Sequence[Row], others: Sequence[Row]) -> bool:
    """Whether two videos have the same tracks: frames, boxes and squares, to the last bit."""
    of_track = ("pair_id", "frame_start", "frame_stop", "crop_xyxy", "boxes_xyxy")

    def contents(rows: Sequence[Row]) -> list[list[Any]]:
        return sorted([row[name] for name in of_track] for row in rows)

    return contents(tracks) == contents(others)


def judge(
    where: str, truth: Truth, videos: Iterable[Row], tracks: Iterable[Row]
) -> tuple[list[Fake], list[Face], Counter[object]]:
    """All fakes, those of their faces that were compared, and how many tracks of originals have which label.

    Args:
        where: grade, or ``clips``.
        truth: the rows of ``labels.csv`` by path.
        videos: the rows of the store.
        tracks: likewise.
    """
    tracks_of: dict[str, list[Row]] = defaultdict(list)
    for track in tracks:
        tracks_of[track["video_id"]].append(track)
    fakes, faces = [], []
    real_labels: Counter[object] = Counter()
    for video in videos:
        name = video["video_id"]
        about, own_tracks = truth[name], tracks_of[name]
        if video["source_id"] is None:
            real_labels.update(track["face_label"] for track in own_tracks)
            continue
        crf, edit = int(about["crf"]), about["edit"]
        is_same = are_same(own_tracks, tracks_of[video["source_id"]])
        fakes.append(Fake(where, crf, edit, name, video["tracks_from"], video["pairing_note"], is_same))
        if edit == "none":
            faces += [
                Face(where, crf, name, side_of(t) == about["face"], t["face_label"], t["change_score"])
                for t in own_tracks
            ]
    return fakes, faces, real_labels


def copy_video(crf: int, path: str, target: str) -> None:
    """The same pictures once more, encoded anew; a frame that failed to decode is the one before."""
    with VideoReader(path) as reader:
        info = reader.info
        fps = max(1, round(info.fps_from_header or 25))
        with Mp4Writer(Path(target), info.width, info.height, fps, crf) as writer:
            num_written = 0
            for frame in reader.frames():
                for _ in range(frame.index + 1 - num_written):
                    writer.write(frame.rgb)
                num_written = frame.index + 1


def make_copies(clips: str, crfs: Sequence[int], folder: Path) -> Truth:
    """Each clip, and copies of it at all levels of compression; the rows of a ``labels.csv`` by path, which is written
    beside the folder."""
    truth: Truth = {}
    folder.mkdir()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        waiting = []
        for ref in build_index(clips)[0]:
            original = ref.video_id.replace("/", "-")
            shutil.copyfile(ref.path, folder / original)
            truth[original] = {"label": "REAL", "original": "", "crf": "0", "edit": "none", "face": "none"}
            for crf in crfs:
                name = f"{original}-crf{crf}.mp4"
                waiting.append(pool.submit(copy_video, crf, ref.path, str(folder / name)))
                truth[name] = {"label": "FAKE", "original": original, "crf": str(crf), "edit": "none", "face": "none"}
        for future in waiting:
            future.result()
    write_labels(truth, folder.with_suffix(".csv"))
    return truth


def write_labels(truth: Truth, path: Path) -> None:
    """A CSV as the extraction reads it."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "original"])
        rows.writerows([name, about["label"], about["original"]] for name, about in truth.items())


def of_scores(scores: Sequence[float]) -> str:
    """Their range."""
    if not scores:
        return f"{'-':>28}"
    least, low, middle, high, most = np.quantile(scores, [0, 0.05, 0.5, 0.95, 1])
    return f"{least:>7.2f}{low:>6.2f}{middle:>6.2f}{high:>6.2f}{most:>7.2f}"


def label_rows(faces: Sequence[Face]) -> Iterator[str]:
    """For each grade and level of compression: labels of the changed and of the untouched faces, and their scores."""
    names = f"{'least':>9}{'5 %':>6}{'mid':>6}{'95 %':>6}{'most':>7}"
    yield f"{'':<7}{'crf':>4}  {'face':<10}{'right':>6}{'wrong':>6}{'null':>6}{names}"
    for where, crf in sorted({(face.where, face.crf) for face in faces}):
        for was_changed in (True, False):
            own = [f for f in faces if (f.where, f.crf, f.was_changed) == (where, crf, was_changed)]
            if not own:
                continue
            labels = Counter(face.face_label for face in own)
            counts = f"{labels[int(was_changed)]:>6}{labels[int(not was_changed)]:>6}{labels[None]:>6}"
            scores = [face.score for face in own if face.score is not None]
            kind = "changed" if was_changed else "untouched"
            yield f"{where:<7}{crf:>4}  {kind:<10}{counts}  {of_scores(scores)}"


def threshold_rows(faces: Sequence[Face]) -> Iterator[str]:
    """How many faces each threshold would call wrongly."""
    known = [face for face in faces if face.score is not None]
    kinds = sorted({(face.where, face.was_changed) for face in known})
    totals = {kind: sum((face.where, face.was_changed) == kind for face in known) for kind in kinds}
    titles = [f"{where} {'changed' if changed else 'untouched'} ({totals[where, changed]})" for where, changed in kinds]
    yield f"{'min_change':<12}" + "".join(f"{title:>24}" for title in titles)
    for threshold in THRESHOLDS:
        wrong = Counter(
            (face.where, face.was_changed)
            for face in known
            if face.score is not None and (face.score >= threshold) != face.was_changed
        )
        yield f"{threshold:<12g}" + "".join(f"{wrong[kind]:>24}" for kind in kinds)


def pairing_rows(fakes: Sequence[Fake]) -> Iterator[str]:
    """For each grade, edit and level of compression: how many have whose tracks."""
    names = f"{'original':>10}{'same':>6}{'own':>6}{'right note':>12}{'wrong':>7}"
    yield f"{'':<7}{'edit':<9}{'crf':>4}{'videos':>8}{names}"
    for where, edit, crf in sorted({(fake.where, fake.edit, fake.crf) for fake in fakes}):
        own = [fake for fake in fakes if (fake.where, fake.edit, fake.crf) == (where, edit, crf)]
        paired = [fake for fake in own if fake.tracks_from == "original"]
        noted = sum(any(text in (fake.note or "") for text in NOTES.get(edit, ())) for fake in own)
        wrong = sum(is_wrong(fake) for fake in own)
        same = sum(fake.has_same_tracks for fake in paired)
        counts = f"{len(paired):>10}{same:>6}{len(own) - len(paired):>6}{noted:>12}{wrong:>7}"
        yield f"{where:<7}{edit:<9}{crf:>4}{len(own):>8}{counts}"


def note_rows(fakes: Sequence[Fake]) -> Iterator[str]:
    """What the notes say, without numbers, and how often."""
    notes = Counter((fake.edit, re.sub(r"\d+", "N", fake.note)) for fake in fakes if fake.note is not None)
    for (edit, note), count in sorted(notes.items()):
        yield f"{edit:<9}{count:>5}  {note}"


def is_wrong(fake: Fake) -> bool:
    """Whether a fake isn't treated as it should be."""
    if fake.note == "no face was found in its original":
        return False
    if fake.edit == "none":
        return fake.tracks_from != "original" or not fake.has_same_tracks
    return fake.tracks_from == "original"


@click.command(help="Labels of faces against the truth of the sample, by grade and compression.")
@click.option("--crf", "crfs", type=click.IntRange(0, 51), multiple=True, default=(18, 26, 34), show_default=True)
@click.option("--real", default=12, show_default=True, help="Originals of each grade.")
@click.option("--fake", default=36, show_default=True, help="Aligned fakes of each grade; misaligned: two an original.")
@click.option("--seconds", default=3.0, show_default=True, help="Length of a video.")
@click.option("--seed", default=0, show_default=True, help="Another seed, other videos.")
@click.option("--clips", metavar="FOLDER", help="Real clips to re-encode, unchanged.")
@click.option("--verbose", is_flag=True, help="Name each video that is treated wrongly.")
def main(
    crfs: tuple[int, ...], real: int, fake: int, seconds: float, seed: int, clips: str | None, verbose: bool
) -> None:
    print(describe_machine())
    print(f"pair.min_change {PairSettings().min_change:g}; crf {', '.join(map(str, crfs))}", flush=True)
    fakes: list[Fake] = []
    faces: list[Face] = []
    with tempfile.TemporaryDirectory() as scratch:
        for where in (*GRADES, *(["clips"] if clips else [])):
            folder = Path(scratch, where)
            if clips and where == "clips":
                truth = make_copies(clips, crfs, folder)
                store = extract(folder, folder.with_suffix(".csv"), Path(scratch, "store-clips"), CROP_PIXELS)
            else:
                options = {"seed": seed, "real": real, "fake": fake, "seconds": seconds}
                flags = [text for name, value in options.items() for text in (f"--{name}", f"{value:g}")]
                levels = [text for crf in crfs for text in ("--crf", str(crf))]
                truth = make_sample(folder, where, [*flags, *levels, "--misaligned"])
                labels_file = folder / "labels.csv"
                store = extract(folder / "train", labels_file, Path(scratch, f"store-{where}"), CROP_PIXELS)
            videos, tracks = store.videos.to_pylist(), store.tracks.to_pylist()
            own_fakes, own_faces, real_labels = judge(where, truth, videos, tracks)
            fakes += own_fakes
            faces += own_faces
            statuses, labels = (
                ", ".join(f"{name} {count}" for name, count in counted.items())
                for counted in (Counter(video["status"] for video in videos), real_labels)
            )
            print(f"{where}: {statuses}; face_label of originals' tracks: {labels}", flush=True)
    print("\nlabels and scores of the faces of aligned fakes, one a track")
    print("\n".join(label_rows(faces)))
    print("\nwhose tracks fakes have; same: frames, boxes and squares are the original's; wrong: of all")
    print("\n".join(pairing_rows(fakes)))
    print("\nwhat the notes say")
    print("\n".join(note_rows(fakes)))
    print("\nfaces called wrongly if the least change were another")
    print("\n".join(threshold_rows(faces)))
    of_sample = [face for face in faces if face.where in GRADES]
    ours, baseline = (
        sum(label != face.was_changed for face, label in zip(of_sample, labels, strict=True)) / max(1, len(of_sample))
        for labels in ([face.face_label for face in of_sample], [FAKE] * len(of_sample))
    )
    print(f"\nthe sample's faces that are labelled wrongly: {ours:.1%}; by the labels of their videos: {baseline:.1%}")
    if verbose:
        for one in (fake for fake in fakes if is_wrong(fake)):
            print(f"{one.where} crf {one.crf} {one.edit} {one.video_id}: {one.tracks_from}, {one.note}")
        for face in (face for face in faces if face.face_label != int(face.was_changed)):
            print(f"{face.where} crf {face.crf} {face.video_id}: changed {face.was_changed}, score {face.score}")


if __name__ == "__main__":
    main()
