"""How fast clips for training are read: random windows from a store, and from what people use instead of one.

``python -m benchmarks.loader [VIDEOS]``. The frames are face crops made by the pipeline itself, the same in every
format but for what JPEG and H.264 lose. One process, files in the page cache, as read_window has it. Times are compared
with those of per-frame JPEG files, the usual way, and of face clips as MP4. Of these there are two ways: with all files
kept open, which a data set of some thousand clips doesn't allow, and with the file opened for each window. All ways
take turns, some windows each, so that what else the machine does meets all of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import click
import cv2
import numpy as np

from benchmarks.figures import Figure, at_least, at_most, json_option, report_figures
from benchmarks.machine import describe_machine
from benchmarks.read_window import MEDIA, face_clips, random_windows, write_clips
from pipeline.config import CropSettings, Settings, StoreSettings
from pipeline.encode import Mp4Writer
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from training.dataset import ClipDataset, Window, read_tracks

Read = Callable[[int, int], UInt8Array]
"""From a clip's number and a first frame to (T, H, W, 3), RGB."""


Prepare = Callable[[list[UInt8Array], Path, int], Read]
"""From clips, an empty folder to write them to, and the frames of a window."""


@dataclass(frozen=True)
class Figures:
    """What one way of keeping the same clips costs."""

    milliseconds: float
    """Median time of a window."""
    times_smaller: float
    """Than raw frames."""
    is_lossless: bool


def read_store(settings: StoreSettings) -> Prepare:
    """Through the data set that training reads with."""

    def write(clips: list[UInt8Array], folder: Path, length: int) -> Read:
        write_clips(str(folder), clips, Settings(crop=CropSettings(size=clips[0].shape[1]), store=settings))
        store = FaceStore.open(str(folder))
        dataset = ClipDataset(store, read_tracks(store), length)

        def read(clip: int, start: int) -> UInt8Array:
            position = (start + 0.5) / (len(clips[clip]) - length + 1)
            frames: UInt8Array = dataset[Window(clip, position)].frames.numpy()
            return frames

        return read

    return write


def read_pictures(ending: str, options: list[int]) -> Prepare:
    """One file a frame."""

    def write(clips: list[UInt8Array], folder: Path, length: int) -> Read:
        for clip, frames in enumerate(clips):
            for t, frame in enumerate(frames):
                cv2.imwrite(str(folder / f"{clip}_{t:05d}{ending}"), frame[..., ::-1], options)

        def read(clip: int, start: int) -> UInt8Array:
            frames = [cv2.imread(str(folder / f"{clip}_{t:05d}{ending}")) for t in range(start, start + length)]
            return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames])

        return read

    return write


def read_videos(num_open: int) -> Prepare:
    """One H.264 file a clip, with a seek to the window; so many stay open."""

    def write(clips: list[UInt8Array], folder: Path, length: int) -> Read:
        for clip, frames in enumerate(clips):
            height, width = frames.shape[1:3]
            with Mp4Writer(folder / f"{clip}.mp4", width, height) as writer:
                for frame in frames:
                    writer.write(frame)

        @lru_cache(num_open)
        def opened(clip: int) -> cv2.VideoCapture:
            return cv2.VideoCapture(str(folder / f"{clip}.mp4"))

        def read(clip: int, start: int) -> UInt8Array:
            video = opened(clip)
            video.set(cv2.CAP_PROP_POS_FRAMES, start)
            frames = [video.read()[1] for _ in range(length)]
            return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames])

        return read

    return write


def read_memmap(clips: list[UInt8Array], folder: Path, length: int) -> Read:
    """All frames in one file, as they are."""
    whole = np.concatenate(clips)
    first_rows = np.cumsum([0, *map(len, clips)])
    raw = np.memmap(folder / "raw", np.uint8, "w+", shape=whole.shape)
    raw[:] = whole
    raw.flush()
    return lambda clip, start: np.array(raw[first_rows[clip] + start : first_rows[clip] + start + length])


JPEG, STORE, MP4, MP4_OPEN = "JPEG-95 files", "store", "MP4 clips, opened each time", "MP4 clips, kept open"
WAYS: Mapping[str, Prepare] = {
    JPEG: read_pictures(".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
    STORE: read_store(StoreSettings()),
    "store, codec: lz4": read_store(StoreSettings(codec="lz4")),
    "PNG files, level 1": read_pictures(".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "PNG files, level 6": read_pictures(".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]),
    MP4: read_videos(0),
    MP4_OPEN: read_videos(256),
    "memmap, raw": read_memmap,
}
_WINDOWS_A_TURN = 20
LOSSY = (JPEG, MP4, MP4_OPEN)


def measure(clips: list[UInt8Array], num_windows: int, length: int, scratch: Path) -> dict[str, Figures]:
    """The figures of each way, by its name in :data:`WAYS`.

    Args:
        clips: uint8 (T, S, S, 3) each, RGB.
        num_windows: that are read, each way.
        length: frames of a window; shorter clips are left out.
        scratch: an empty folder.

    Raises:
        ClickException: a way gave other frames than were written.
    """
    clips = [frames for frames in clips if len(frames) >= length]
    windows = random_windows(clips, num_windows, length)
    reads = {}
    for number, (name, prepare) in enumerate(WAYS.items()):
        folder = scratch / str(number)
        folder.mkdir()
        reads[name] = prepare(clips, folder, length)
        for clip, start in windows[:3]:
            difference = np.abs(reads[name](clip, start).astype(int) - clips[clip][start : start + length])
            if difference.mean() > (8 if name in LOSSY else 0):
                raise click.ClickException(f"{name} gave other frames than were written")
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for begin in range(0, num_windows, _WINDOWS_A_TURN):
        for name, read in reads.items():
            for clip, start in windows[begin : begin + _WINDOWS_A_TURN]:
                began = perf_counter()
                read(clip, start)
                seconds[name].append(perf_counter() - began)
    raw_bytes = sum(frames.nbytes for frames in clips)
    return {
        name: Figures(
            1000 * float(np.median(seconds[name])),
            raw_bytes / sum(path.stat().st_size for path in (scratch / str(number)).rglob("*") if path.is_file()),
            name not in LOSSY,
        )
        for number, name in enumerate(WAYS)
    }


@click.command(help="Random windows a second, from a store and from what is used instead of one.")
@click.argument("videos", default=str(MEDIA), type=click.Path(exists=True))
@click.option("--frames", "num_frames", default=1500, show_default=True, help="Least number of frames altogether.")
@click.option("--windows", "num_windows", default=200, show_default=True, help="Windows read, each way.")
@click.option("--length", default=16, show_default=True, help="Frames of a window.")
@click.option("--size", default=224, show_default=True, help="Side of a frame, pixels.")
@json_option
def main(videos: str, num_frames: int, num_windows: int, length: int, size: int, json_file: Path | None) -> None:
    print(describe_machine())
    with tempfile.TemporaryDirectory() as scratch:
        clips = face_clips(videos, num_frames, size, f"{scratch}/source")
        frames = f"{sum(map(len, clips))} frames in {len(clips)} clips"
        print(f"\n{num_windows} windows of {length}x{size}x{size}, {frames}; medians")
        found = measure(clips, num_windows, length, Path(scratch))
    print(f"{'':<28}{'ms/window':>10}{'x JPEG':>9}{'x MP4':>9}{'x MP4 open':>12}{'smaller than raw':>18}")
    for name, of in found.items():
        times = [found[other].milliseconds / of.milliseconds for other in (JPEG, MP4, MP4_OPEN)]
        columns = f"{of.milliseconds:>10.2f}{times[0]:>8.2f}x{times[1]:>8.2f}x{times[2]:>11.2f}x"
        print(f"{name:<28}{columns}{of.times_smaller:>17.2f}x{'' if of.is_lossless else '  lossy'}")
    report_figures(judged(found), json_file)


def judged(found: Mapping[str, Figures]) -> list[Figure]:
    """The store beside what it is to be at least as good as."""
    store, window = found[STORE], "a random window of a store"
    smallest_png = max(of.times_smaller for name, of in found.items() if name.startswith("PNG"))
    return [
        at_most(f"{window} over one of JPEG-95 files", store.milliseconds / found[JPEG].milliseconds, 1.0, "{:.2f} x"),
        at_least(f"one of MP4 clips over {window}", found[MP4].milliseconds / store.milliseconds, 15.0, "{:.1f} x"),
        at_least("raw frames over a store, bytes", store.times_smaller, 2.3, "{:.2f} x"),
        at_least("smallest PNG files over a store, bytes", store.times_smaller / smallest_png, 1.0, "{:.2f} x"),
    ]


if __name__ == "__main__":
    main()
