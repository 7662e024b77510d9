"""What codec, differences, chunk and shard cost: random windows read from stores, as ratios to a memmap of raw frames.

``python -m benchmarks.read_window [VIDEOS]``. The frames are face crops made by the pipeline itself. Files are in the
page cache, as they are for a data set that is trained on from a local disk and fits into memory; from a slower disk,
what is smaller gains.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal, get_args

import click
import numpy as np

from benchmarks.machine import describe_machine
from pipeline.catalog import build_index
from pipeline.config import CropSettings, Settings, StoreSettings
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.schema import StoredTrack
from pipeline.store import FaceStore
from pipeline.types import Float32Array, Partition, Track, UInt8Array, VideoOutcome, VideoRef
from pipeline.writer import PartitionWriter, create_or_resume

Codec = Literal["none", "lz4", "zstd"]
CHUNK_FRAMES = (1, 4, 5, 8, 16)
SHARD_FRAMES = (80, 160)
WINDOW_FRAMES = 16
MEDIA = Path(__file__).resolve().parents[2] / "shared" / "media" / "clips"

Window = tuple[int, int]
"""Which clip, and the window's first frame in it."""


@dataclass(frozen=True)
class Figures:
    """What one way of storing the same frames costs."""

    layout: StoreSettings | None
    """None: the memmap."""
    window_milliseconds: float
    """Median."""
    write_mb_per_second: float
    """Of raw frames, with fsync and commit."""
    times_smaller: float
    """Than raw frames."""

    def line(self, baseline_milliseconds: float) -> str:
        """For the table of :func:`main`."""
        of = self.layout
        name = (
            f"{of.codec:<6}{'differences' if of.differences else '':<12}{of.chunk_frames:>5}{of.shard_frames:>6}"
            if of
            else f"{'memmap':<29}"
        )
        times = self.window_milliseconds / baseline_milliseconds
        columns = f"{self.window_milliseconds:>11.2f}{times:>9.1f}x{self.write_mb_per_second:>12.0f}"
        return f"{name}{columns}{self.times_smaller:>8.2f}x"


def face_clips(videos: str, num_frames: int, size: int, folder: str) -> list[UInt8Array]:
    """Clips (T, size, size, 3) of at least so many frames, or all there are; the smallest videos come first."""
    settings = Settings(crop=CropSettings(size=size), store=StoreSettings(codec="none"))
    refs, _ = build_index(videos)
    clips: list[UInt8Array] = []
    with only_run(create_or_resume(folder, settings)) as run:
        for number, ref in enumerate(sorted(refs, key=lambda ref: ref.size_bytes)):
            if sum(map(len, clips)) >= num_frames:
                break
            process_partition(Partition(number, (ref,)), run, settings, "cpu", os.cpu_count() or 1)
            store = FaceStore.open(folder)
            clips += [store.frames(row) for row in range(len(clips), store.tracks.num_rows)]
    return clips


def write_clips(url: str, clips: list[UInt8Array], settings: Settings) -> None:
    """Write and commit the clips as tracks of one video; what isn't pixels is made up."""
    writer = PartitionWriter(create_or_resume(url, settings), "part-00000", settings.crop.size, settings.store)
    ref = VideoRef("video.mp4", "video.mp4", 0, 0)
    stored = []
    for track_id, frames in enumerate(clips):
        length = len(frames)
        boxes: Float32Array = np.tile(np.array([0, 0, 1, 1], np.float32), (length, 1))
        ones = np.ones(length, np.float32)
        track = Track(track_id, 0, 0, boxes, np.zeros((length, 5, 2), np.float32), ones, ones > 0)
        row_start = writer.append(frames)
        stored.append(
            StoredTrack(
                video_id=ref.video_id, track_id=track_id, array=writer.array_name, row_start=row_start, track=track,
                crop_xyxy=boxes, timestamps_seconds=np.zeros(length), fps=30.0, label=None, source_id=None,
                group_id="", width=1, height=1, sharpness=0.0, checksum="",
            )
        )  # fmt: skip
    writer.commit([VideoOutcome(ref, "ok", num_tracks=len(clips))], stored)


def median_milliseconds(read: Callable[[Window], UInt8Array], windows: list[Window]) -> float:
    """Median time of reading a window, after one that opens what stays open."""
    read(windows[0])
    times = []
    for window in windows:
        started = perf_counter()
        read(window)
        times.append(perf_counter() - started)
    return 1000 * float(np.median(times))


def random_windows(clips: list[UInt8Array], num_windows: int, length: int) -> list[Window]:
    """The same ones for the same clips."""
    rng = np.random.default_rng(0)
    chosen = [int(clip) for clip in rng.integers(0, len(clips), num_windows)]
    return [(clip, int(rng.integers(0, len(clips[clip]) - length + 1))) for clip in chosen]


def measure_memmap(clips: list[UInt8Array], windows: list[Window], folder: Path) -> Figures:
    """All frames in one file, as they are."""
    whole = np.concatenate(clips)
    first_rows = np.cumsum([0, *map(len, clips)])
    started = perf_counter()
    raw = np.memmap(folder / "raw", np.uint8, "w+", shape=whole.shape)
    raw[:] = whole
    raw.flush()
    mb_per_second = whole.nbytes / 1e6 / (perf_counter() - started)

    def read(window: Window) -> UInt8Array:
        row = int(first_rows[window[0]]) + window[1]
        return np.array(raw[row : row + WINDOW_FRAMES])

    return Figures(None, median_milliseconds(read, windows), mb_per_second, 1.0)


def measure_store(clips: list[UInt8Array], windows: list[Window], folder: Path, layout: StoreSettings) -> Figures:
    """A store that is written, read and removed."""
    raw_bytes = sum(frames.nbytes for frames in clips)
    with tempfile.TemporaryDirectory(dir=folder) as url:
        started = perf_counter()
        write_clips(url, clips, Settings(crop=CropSettings(size=clips[0].shape[1]), store=layout))
        mb_per_second = raw_bytes / 1e6 / (perf_counter() - started)
        store = FaceStore.open(url)

        def read(window: Window) -> UInt8Array:
            return store.frames(window[0], window[1], window[1] + WINDOW_FRAMES)

        for clip, start in windows[:3]:
            if not np.array_equal(read((clip, start)), clips[clip][start : start + WINDOW_FRAMES]):
                raise click.ClickException(f"{layout} gave other frames than were written")
        times_smaller = raw_bytes / store.files.size_bytes("arrays")
        return Figures(layout, median_milliseconds(read, windows), mb_per_second, times_smaller)


def measure(clips: list[UInt8Array], num_windows: int, folder: Path) -> Iterator[Figures]:
    """The memmap, then stores of every layout."""
    windows = random_windows(clips, num_windows, WINDOW_FRAMES)
    yield measure_memmap(clips, windows, folder)
    for codec, differences, chunk, shard in itertools.product(
        get_args(Codec), (False, True), CHUNK_FRAMES, SHARD_FRAMES
    ):
        layout = StoreSettings(codec=codec, differences=differences, chunk_frames=chunk, shard_frames=shard)
        # Without a compressor, differences are as large as frames.
        if codec != "none" or not differences:
            yield measure_store(clips, windows, folder, layout)


@click.command(help="Random windows of face crops, from stores of every codec, chunk and shard.")
@click.argument("videos", default=str(MEDIA), type=click.Path(exists=True))
@click.option("--frames", "num_frames", default=768, show_default=True, help="Least number of frames in each store.")
@click.option("--windows", "num_windows", default=100, show_default=True, help="Windows read from each store.")
@click.option("--size", "sizes", default=(224, 256), show_default=True, multiple=True, help="Side of a frame, pixels.")
def main(videos: str, num_frames: int, num_windows: int, sizes: tuple[int, ...]) -> None:
    print(describe_machine())
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            clips = face_clips(videos, num_frames, size, f"{folder}/clips")
            frames = f"{sum(map(len, clips))} frames in {len(clips)} clips"
            print(f"\n{num_windows} windows of {WINDOW_FRAMES}x{size}x{size}, {frames}")
            columns = f"{'ms/window':>11}{'x memmap':>10}{'write MB/s':>12}{'smaller':>9}"
            print(f"{'codec':<18}{'chunk':>5}{'shard':>6}{columns}")
            baseline = 0.0
            for figures in measure(clips, num_windows, Path(folder)):
                baseline = baseline or figures.window_milliseconds
                print(figures.line(baseline), flush=True)


if __name__ == "__main__":
    main()
