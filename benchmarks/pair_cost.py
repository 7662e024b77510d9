"""What a fake costs beside its original, against merely reading it: ``python -m benchmarks.pair_cost FOLDER``.

For each original in FOLDER fakes are made that differ from it in one face, encoded anew so that their files are about
as large as the original's. Then, on workers that are up and have their networks loaded, three extractions by turns, so
that drift hits all of them:

    originals   these alone
    families    with their fakes, which take the originals' tracks and are compared with them
    each        all of them by themselves (``pair.reuse_tracks: false``)

A fake's cost is what families, or each, take longer than the originals, over the number of fakes. Baseline:
``cv2.VideoCapture.read`` over every frame of the fakes, one file after the other, with the threads that OpenCV chooses;
beside it the same with one thread, over the number of cores, which is what decoding costs where all cores have a file.
Seconds on the clock are shown, and seconds of processors, of all processes together, which other work on the machine
hardly changes. Last, the peak memory of a process that extracts one family, against one that extracts the original.
"""

from __future__ import annotations

import os
import resource
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import click
import cv2
import numpy as np
import psutil

from benchmarks.decoding import read_all
from benchmarks.extraction import extract, warm_up
from benchmarks.figures import Figure, json_option, report_figures
from benchmarks.machine import describe_machine
from pipeline.catalog import build_index
from pipeline.cluster import local_cluster, threads_per_worker
from pipeline.config import PairSettings, Settings
from pipeline.decode import VideoReader
from pipeline.detect import shared_detector
from pipeline.encode import Mp4Writer
from pipeline.process import prepare_process, process_partition
from pipeline.runs import only_run
from pipeline.search import find_faces
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL, Float32Array, Partition, UInt8Array, VideoRef, Work
from pipeline.writer import create_or_resume

ENLARGED = 1.08
"""A changed face is its own, larger by this, smoothed, and blended in: a weak forgery."""
BLUR_SHARE = 0.02
"""Standard deviation of that blur, over the face's side."""
ONE_THREAD = "read, 1 thread a core"
EACH = Settings(pair=PairSettings(reuse_tracks=False))


class Seconds(NamedTuple):
    """What something took."""

    clock: float
    processors: float
    """Of this process and all below it."""


Family = tuple[VideoRef, tuple[VideoRef, ...]]
"""An original, and its fakes."""


def change_face(rgb: UInt8Array, box_xyxy: Float32Array, tint: int) -> None:
    """Put another face where one is, in place: uint8 (H, W, 3), RGB.

    Args:
        rgb: the frame.
        box_xyxy: float32 (4,), the face.
        tint: grey levels that its red gains and its blue loses.
    """
    height, width = rgb.shape[:2]
    x1, y1, x2, y2 = (round(float(v)) for v in box_xyxy)
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if x2 - x1 < 8 or y2 - y1 < 8:
        return
    face = rgb[y1:y2, x1:x2].astype(np.float32)
    size, centre = (x2 - x1, y2 - y1), ((x2 - x1) / 2, (y2 - y1) / 2)
    larger = cv2.warpAffine(face, cv2.getRotationMatrix2D(centre, 0, ENLARGED), size, borderMode=cv2.BORDER_REPLICATE)
    larger = cv2.GaussianBlur(larger, (0, 0), BLUR_SHARE * min(size)) + np.array([tint, 0, -tint], np.float32)
    mask = np.zeros(size[::-1], np.float32)
    cv2.ellipse(mask, (size[0] // 2, size[1] // 2), (int(0.4 * size[0]), int(0.42 * size[1])), 0, 0, 360, 1.0, -1)
    mask = cv2.GaussianBlur(mask, (0, 0), 0.05 * min(size))[..., None]
    rgb[y1:y2, x1:x2] = np.clip(face + mask * (larger - face), 0, 255).astype(np.uint8)


def make_fakes(original: VideoRef, crfs: Sequence[int], folder: str) -> list[str]:
    """One at each level of compression, the changed face by turns; their paths."""
    prepare_process()
    settings = Settings()
    tracks = find_faces(original.path, shared_detector(settings.detect, "cpu", 1), settings).tracks.tracks
    if not tracks:
        raise click.UsageError(f"no face is found in {original.path}, so none can be changed; leave it out")
    faces = sorted({track.face_id for track in tracks})
    paths = [Path(folder, f"{Path(original.video_id).stem}-crf{crf}.mp4") for crf in crfs]
    with VideoReader(original.path, 1) as reader, ExitStack() as stack:
        size, fps = (reader.info.width, reader.info.height), round(reader.info.fps_from_header)
        writers = [
            stack.enter_context(Mp4Writer(path, *size, fps=fps, crf=crf)) for path, crf in zip(paths, crfs, strict=True)
        ]
        for frame in reader.frames():
            for number, writer in enumerate(writers):
                rgb = frame.rgb.copy()
                for track in tracks:
                    if track.face_id == faces[number % len(faces)] and 0 <= frame.index - track.frame_start < len(
                        track
                    ):
                        change_face(rgb, track.boxes_xyxy[frame.index - track.frame_start], 4 + 3 * number)
                writer.write(rgb)
    return [str(path) for path in paths]


def make_families(originals: Sequence[VideoRef], crfs: Sequence[int], folder: str) -> list[Family]:
    """All fakes of all originals, the largest family first, as in any run."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        made = list(pool.map(partial(make_fakes, crfs=crfs, folder=folder), originals))
    families = []
    for original, paths in zip(originals, made, strict=True):
        known = replace(original, path=str(Path(original.path).absolute()), label=REAL)
        fakes = [replace(build_index(path)[0][0], label=FAKE, source_id=original.video_id) for path in paths]
        families.append((known, tuple(fakes)))
    return sorted(families, key=lambda family: -sum(ref.size_bytes for ref in (family[0], *family[1])))


def as_work(family: Family) -> Work:
    """To be done as one."""
    original, fakes = family
    return Work((original, *fakes), {original.video_id: original})


def processor_seconds() -> float:
    """So far, by this process and all that it has started."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (own, *own.children(recursive=True)))


def measured(work: Callable[[], object]) -> Seconds:
    """Do it."""
    started, processors = perf_counter(), processor_seconds()
    work()
    clock = perf_counter() - started
    return Seconds(clock, processor_seconds() - processors)


def describe_pairs(store: FaceStore) -> Iterator[str]:
    """What became of the fakes of families, for the ratio to be one of something that works."""
    fakes = [row for row in store.videos.to_pylist() if row["source_id"] is not None]
    same = Counter(row["tracks_from"] for row in fakes)
    yield f"fakes with tracks of their original: {same['original']} of {len(fakes)}"
    yield from (f"    {row['video_id']}: {row['pairing_note']}" for row in fakes if row["pairing_note"])
    scores: dict[int, list[float]] = defaultdict(list)
    for row in store.tracks.to_pylist():
        if row["change_score"] is not None:
            scores[row["face_label"]].append(row["change_score"])
    for label, own in sorted(scores.items()):
        yield f"    tracks with face_label {label}: {len(own)}, scores from {min(own):.2f} to {max(own):.2f}"


def peak_bytes(work: Work, num_threads: int) -> int:
    """Peak memory of this process after extracting these, or with the networks alone where there are none."""
    settings = Settings()
    prepare_process()
    shared_detector(settings.detect, "cpu", num_threads)
    if work.videos:
        with tempfile.TemporaryDirectory() as folder, only_run(create_or_resume(folder, settings)) as run:
            process_partition(Partition(0, work.videos, work.sources), run, settings, "cpu", num_threads)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def print_memory(family: Family, num_threads: int) -> Figure:
    """One process a measurement: a peak never goes down again. The family's is returned."""
    works = {"networks": Work(()), "original": Work(family[:1]), "family": as_work(family)}
    print(f"\npeak memory of a process, {family[0].video_id} with {len(family[1])} fakes")
    for name, work in works.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(peak_bytes, work, num_threads).result()
        print(f"{name:<22}{peak / 1e6:>8.0f} MB")
    return Figure(f"peak memory of a worker on an original with {len(family[1])} fakes", f"{peak / 1e9:.2f} GB")


@click.command()
@click.argument("folder")
@click.option("--workers", default=threads_per_worker(1), show_default="one a core")
@click.option("--repeats", default=3, show_default=True)
@click.option("--crf", "crfs", type=int, multiple=True, default=(23, 26, 28, 30, 32), show_default=True, help="Fakes.")
@json_option
def main(folder: str, workers: int, repeats: int, crfs: tuple[int, ...], json_file: Path | None) -> None:
    """Prints seconds, and the cost of a fake over reading it, medians over the repeats."""
    print(describe_machine())
    num_threads = threads_per_worker(workers)
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        originals, _ = build_index(folder)
        families = make_families(originals, crfs, scratch)
        fakes = [ref for family in families for ref in family[1]]
        sizes = ", ".join(
            f"crf {crf} {statistics.mean(f[1][i].size_bytes for f in families) / 1e6:.2f}" for i, crf in enumerate(crfs)
        )
        whole = statistics.mean(ref.size_bytes for ref in originals) / 1e6
        print(f"{len(originals)} originals of {whole:.2f} MB, {len(fakes)} fakes (MB: {sizes})", flush=True)
        everything = [ref for family in families for ref in (family[0], *family[1])]
        tasks = {
            "originals": ([Work((family[0],)) for family in families], Settings()),
            "families": ([as_work(family) for family in families], Settings()),
            "each": ([Work((ref,)) for ref in everything], EACH),
        }
        seconds: dict[str, list[Seconds]] = defaultdict(list)
        digests: dict[str, str] = {}
        engine = stack.enter_context(local_cluster(workers))
        for repeat in range(repeats + 1):
            warm_up(engine, workers, num_threads, scratch)
            # The first time is not counted: it fills the file cache, and shows that fakes are what they should be.
            for name, (works, settings) in (tasks if repeat else {"families": tasks["families"]}).items():
                with tempfile.TemporaryDirectory() as target:
                    taken = measured(partial(extract, engine, num_threads, works, settings, target))
                    store = FaceStore.open(target)
                    if digests.setdefault(name, store.digest()) != store.digest():
                        raise SystemExit("two runs gave different stores")
                    if repeat:
                        seconds[name].append(taken)
                    else:
                        print("\n".join(describe_pairs(store)), flush=True)
            if repeat:
                seconds["read"].append(measured(partial(read_all, fakes)))
                one = measured(partial(read_all, fakes, 1))
                seconds[ONE_THREAD].append(Seconds(one.clock / len(os.sched_getaffinity(0)), one.processors))
                latest = (
                    f"{name} {values[-1].clock:.1f} ({values[-1].processors:.1f})" for name, values in seconds.items()
                )
                print(f"repeat {repeat}, s (of processors): {', '.join(latest)}", flush=True)
        print(f"\n{workers} workers, median of {repeats} (least, most); read: all fakes")
        for title, of in (("seconds on the clock", 0), ("seconds of processors", 1)):
            values = {name: [one[of] for one in those] for name, those in seconds.items()}
            print("\n".join(cost_rows(title, values, len(fakes))))
        peak = print_memory(families[0], num_threads)
        report_figures(
            [*cost_figures({name: [one.clock for one in own] for name, own in seconds.items()}), peak], json_file
        )


def cost_rows(title: str, seconds: dict[str, list[float]], num_fakes: int) -> Iterator[str]:
    """What each took, and the cost of a fake."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    yield f"\n{title}"
    for name, values in seconds.items():
        yield f"{name:<24}{median[name]:>8.2f} s ({min(values):.2f}, {max(values):.2f})"
    yield f"{'cost of a fake':<24}{'s':>8}{'x read':>10}{'x one thread':>15}   x read, by repeat"
    for name in ("families", "each"):
        pairs = zip(seconds[name], seconds["originals"], seconds["read"], strict=True)
        by_repeat = ", ".join(f"{(whole - alone) / read:.2f}" for whole, alone, read in pairs)
        cost = median[name] - median["originals"]
        ratios = f"{cost / median['read']:>9.2f}x{cost / median[ONE_THREAD]:>14.2f}x"
        yield f"{name:<24}{cost / num_fakes:>8.3f}{ratios}   {by_repeat}"


def cost_figures(clock: dict[str, list[float]]) -> Iterator[Figure]:
    """The cost of a fake over reading it, on the clock."""
    median = {name: statistics.median(values) for name, values in clock.items()}
    for name, how in (("families", "beside its original"), ("each", "searched by itself")):
        yield Figure(f"a fake {how}, over reading it", f"{(median[name] - median['originals']) / median['read']:.2f} x")


if __name__ == "__main__":
    main()
