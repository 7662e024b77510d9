"""How long the report of a large store takes, and its page to open: ``python -m benchmarks.report_speed``.

The store is made up: tables of so many videos and half as many tracks again, in partitions of 16 videos, and one real
array that all tracks point into. Lists a frame are 30 long where they often are 150, so files of tracks are a fifth of
their usual size. The baseline is reading the columns that the report needs, which nothing that looks at all tracks can
do without. The page is opened by Chromium, where there is one; figures are of its Navigation Timing.
"""

from __future__ import annotations

import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import click
import cv2
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.figures import Figure, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from pipeline.config import Settings
from pipeline.files import StoreFiles
from pipeline.report import TRACK_COLUMNS, VIDEO_COLUMNS
from pipeline.reporting.score_table import COLUMNS, METADATA_KEY
from pipeline.schema import TRACKS_SCHEMA, VIDEOS_SCHEMA, StoredTrack
from pipeline.store import FaceStore
from pipeline.types import Track, VideoOutcome, VideoRef
from pipeline.writer import PartitionWriter, create_or_resume

VIDEOS_PER_PARTITION = 16
TRACK_FRAMES = 30
NUM_CLIPS = 32
"""In the one real array."""
FOLDERS = tuple(f"part_{number:02d}" for number in range(40))
GOAL_RATIO, GOAL_LOAD_SECONDS, GOAL_MEGABYTES, GOAL_MEMORY_GB = 2.0, 1.0, 5.0, 1.0
BROWSER_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


class Run(NamedTuple):
    """One call of the command."""

    seconds: float
    processor_seconds: float
    peak_gigabytes: float
    page_bytes: int


def write_clips(files: StoreFiles, settings: Settings, rng: np.random.Generator) -> str:
    """An array of clips as smooth as pictures are; returns its name."""
    writer = PartitionWriter(files, "part-00000", settings.crop.size, settings.store)
    side = settings.crop.size
    for _ in range(NUM_CLIPS):
        small = rng.integers(0, 256, (TRACK_FRAMES, 8, 8, 3), np.uint8)
        writer.append(np.stack([np.asarray(cv2.resize(frame, (side, side)), np.uint8) for frame in small]))
    length = NUM_CLIPS * TRACK_FRAMES
    nowhere = np.zeros((length, 4), np.float32)
    track = Track(
        0, 0, 0, nowhere, np.zeros((length, 5, 2), np.float32), np.ones(length, np.float32), np.ones(length, np.bool_)
    )
    stored = StoredTrack(
        "all.mp4", 0, writer.array_name, 0, track, nowhere, np.arange(length) / 30, 30.0, None, None, "all.mp4",
        1920, 1080, 0.0, "",
    )  # fmt: skip
    writer.commit([VideoOutcome(VideoRef("all.mp4", "all.mp4", 1, 1, group_id="all.mp4"), "ok")], [stored])
    return writer.array_name


def make_tables(number: int, num_videos: int, array: str, rng: np.random.Generator) -> tuple[pa.Table, pa.Table]:
    """Videos of one partition and their tracks; every third video has two faces, one in fifty ended in an error."""
    numbers = [number * VIDEOS_PER_PARTITION + i for i in range(num_videos)]
    ids = [f"{FOLDERS[i % len(FOLDERS)]}/{i:07d}.mp4" for i in numbers]
    failed = [i % 50 == 7 for i in numbers]
    plain = {
        "video_id": ids, "path": [f"/videos/{name}" for name in ids], "size_bytes": [2_400_000] * num_videos,
        "label": [i % 2 for i in numbers], "group_id": ids,
        "status": ["decode_error" if bad else "ok" for bad in failed],
        "error_type": ["VideoDecodeError" if bad else None for bad in failed],
        "message": [f"{n}: frame {len(n)} is broken" if bad else None for n, bad in zip(ids, failed, strict=True)],
        "num_frames_decoded": [300] * num_videos, "num_frames_failed": [0] * num_videos,
        **{name: rng.gamma(2, 1, num_videos) for name in ("decode_seconds", "detect_seconds", "write_seconds")},
    }  # fmt: skip
    videos = pa.table(
        [pa.array(plain.get(field.name, [None] * num_videos), field.type) for field in VIDEOS_SCHEMA], VIDEOS_SCHEMA
    )
    of_track = [(i, face) for i, bad in zip(numbers, failed, strict=True) for face in range(1 + (i % 2)) if not bad]
    return videos, _tracks(of_track, dict(zip(numbers, ids, strict=True)), array, rng)


def _tracks(of_track: list[tuple[int, int]], ids: dict[int, str], array: str, rng: np.random.Generator) -> pa.Table:
    num_tracks = len(of_track)
    starts = [(i + face) % NUM_CLIPS * TRACK_FRAMES for i, face in of_track]
    plain: dict[str, object] = {
        "video_id": [ids[i] for i, _ in of_track], "track_id": [face for _, face in of_track],
        "array": [array] * num_tracks, "row_start": starts, "row_stop": [start + TRACK_FRAMES for start in starts],
        "frame_start": [0] * num_tracks, "frame_stop": [TRACK_FRAMES] * num_tracks, "frame_step": [1] * num_tracks,
        "fps": [30.0] * num_tracks, "label": [i % 2 for i, _ in of_track], "group_id": [ids[i] for i, _ in of_track],
        "width": [1920] * num_tracks, "height": [1080] * num_tracks, "face_id": [face for _, face in of_track],
        "segment": [0] * num_tracks, "checksum": ["0" * 64] * num_tracks,
        "mean_score": rng.beta(50, 1, num_tracks), "observed_fraction": rng.uniform(0.08, 0.12, num_tracks),
        "mean_face_size": rng.gamma(6, 30, num_tracks), "sharpness": rng.gamma(2, 30, num_tracks),
        "face_label": [0 if i % 2 == 0 else None for i, _ in of_track],
    }  # fmt: skip
    numbers = rng.normal(500, 200, (num_tracks, TRACK_FRAMES, 10)).astype(np.float32)
    nested: dict[str, object] = {
        "boxes_xyxy": numbers[..., :4].tolist(), "crop_xyxy": numbers[..., 4:8].tolist(),
        "landmarks": numbers.reshape(num_tracks, TRACK_FRAMES, 5, 2).tolist(),
        "scores": numbers[..., 0].tolist(), "observed": (numbers[..., 0] > 500).tolist(),
        "timestamps_seconds": numbers[..., 1].tolist(),
    }  # fmt: skip
    return pa.table(
        [pa.array((plain | nested).get(field.name, [None] * num_tracks), field.type) for field in TRACKS_SCHEMA],
        TRACKS_SCHEMA,
    )


def make_store(url: str, num_videos: int) -> int:
    """Returns how many tracks it has."""
    settings, rng, num_tracks = Settings(), np.random.default_rng(0), 0
    files = create_or_resume(url, settings)
    array = write_clips(files, settings, rng)
    for number in range(-(-num_videos // VIDEOS_PER_PARTITION)):
        left = min(VIDEOS_PER_PARTITION, num_videos - number * VIDEOS_PER_PARTITION)
        videos, tracks = make_tables(number, left, array, rng)
        for name, table in (("tracks", tracks), ("videos", videos)):
            pq.write_table(table, Path(url, name, f"part-{number + 1:05d}.parquet"))
        num_tracks += tracks.num_rows
    return num_tracks


def make_scores(path: str, store: FaceStore) -> int:
    """Two models, one window a track; returns the number of rows."""
    tracks = store.read_table("tracks", ["video_id", "track_id", "label"])
    rng, parts = np.random.default_rng(1), []
    for model in ("mc3_18", "r2plus1d_18"):
        length = tracks.num_rows
        chance = 1 / (1 + np.exp(-rng.normal(np.where(tracks["label"].to_numpy() == 1, 1.5, -1.5), 1.5)))
        constant = {"window": 0, "frame_start": 0, "num_frames": TRACK_FRAMES, "frame_step": 1}
        columns = {"video_id": tracks["video_id"], "track_id": tracks["track_id"], "model": [model] * length}
        columns |= {name: [value] * length for name, value in constant.items()}
        parts.append(pa.table(columns | {"probability": chance, "error": pa.nulls(length, pa.string())}).cast(COLUMNS))
    about = {"format_version": 1, "store_fingerprint": store.fingerprint, "part": "all", "models": []}
    rows = pa.concat_tables(parts).replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
    pq.write_table(rows, path)
    return int(rows.num_rows)


def run_report(url: str, out: str, *options: str) -> Run:
    """The command in a process of its own, with the most memory that it held."""
    started, before = perf_counter(), _children_seconds()
    peak = 0
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "pipeline.report", url, out, *options], stdout=subprocess.DEVNULL
    ) as ran:
        process = psutil.Process(ran.pid)
        while ran.poll() is None:
            try:
                peak = max(peak, process.memory_info().rss)
            except psutil.NoSuchProcess:
                break
            try:
                ran.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    if ran.returncode:
        raise click.ClickException(f"pipeline.report ended with exit code {ran.returncode}")
    seconds, processor_seconds = perf_counter() - started, _children_seconds() - before
    return Run(seconds, processor_seconds, peak / 1e9, Path(out).stat().st_size)


def _children_seconds() -> float:
    """Of the processor, of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def browser() -> str | None:
    """Where Chromium is, if it and Playwright are there."""
    if find_spec("playwright") is None:
        return None
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def load_seconds(page_file: str, executable: str, repeats: int) -> Iterator[tuple[float, float]]:
    """Until the page can be read, and until it is loaded whole; from the start of the navigation."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, args=list(BROWSER_ARGUMENTS))
        for _ in range(repeats):
            page = chromium.new_page(viewport={"width": 1280, "height": 900})
            page.goto(Path(page_file).resolve().as_uri(), wait_until="load")
            timing = page.evaluate(
                "() => { const t = performance.getEntriesByType('navigation')[0];"
                " return [t.domContentLoadedEventEnd, t.loadEventEnd]; }"
            )
            page.close()
            yield timing[0] / 1000, timing[1] / 1000
        chromium.close()


def measure(num_videos: int, repeats: int) -> list[Figure]:
    found = []
    with tempfile.TemporaryDirectory() as folder:
        url, out, scores = (str(Path(folder, name)) for name in ("store", "out.html", "scores.parquet"))
        num_tracks = make_store(url, num_videos)
        store = FaceStore.open(url)
        num_scores = make_scores(scores, store)
        print(f"{num_videos:,} videos, {num_tracks:,} tracks, {len(store.partition_names):,} partitions", flush=True)
        started = perf_counter()
        for table, columns in (("videos", VIDEO_COLUMNS), ("tracks", TRACK_COLUMNS)):
            store.read_table(table, columns)
        reading = perf_counter() - started
        print(f"reading the tables alone: {reading:.1f} s", flush=True)
        for name, options in (("", ()), (f" with {num_scores:,} scored windows", ("--scores", scores))):
            run = run_report(url, out, *options)
            what = f"report of {num_videos:,} videos{name}"
            found += [
                Figure(f"{what}: whole command", f"{run.seconds:.1f} s"),
                Figure(f"{what}: processor time", f"{run.processor_seconds:.1f} s"),
                at_most(f"{what}: over reading the tables alone", run.seconds / reading, GOAL_RATIO, "{:.2f} x"),
                at_most(f"{what}: peak memory", run.peak_gigabytes, GOAL_MEMORY_GB, "{:.2f} GB"),
                at_most(f"{what}: page", run.page_bytes / 1e6, GOAL_MEGABYTES, "{:.2f} MB"),
            ]
        executable = browser()
        if executable is None:
            print("the page was not opened: Playwright or Chromium is missing")
            return found
        ready, loaded = zip(*load_seconds(out, executable, repeats), strict=True)
        found += [
            Figure("that page in Chromium: ready to be read", f"{statistics.median(ready):.2f} s"),
            at_most("that page in Chromium: loaded", statistics.median(loaded), GOAL_LOAD_SECONDS, "{:.2f} s"),
        ]
    return found


@click.command()
@click.option("--videos", "num_videos", default=100_000, show_default=True, type=click.IntRange(min=100))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Of opening the page.")
@json_option
def main(num_videos: int, repeats: int, json_file: Path | None) -> None:
    """Prints seconds, bytes and memory of the report of a made-up store, and how long its page takes to open."""
    print(describe_machine())
    report_figures(measure(num_videos, repeats), json_file)


if __name__ == "__main__":
    main()
