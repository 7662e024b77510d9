"""How fast clips for training are read: random windows from a store, and from what people use instead of one.

``python -m benchmarks.loader [VIDEOS]``. The frames are face crops made by the pipeline itself, the same in every
format but for what JPEG and H.264 lose. One process, files in the page cache, as read_window has it; each way may keep
open what it likes. Windows per second, as ratios to per-frame JPEG files, the usual way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import click
import cv2
import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.read_window import MEDIA, face_clips, write_clips
from pipeline.config import CropSettings, Settings
from pipeline.encode import Mp4Writer
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from training.dataset import ClipDataset, Window, read_tracks

Read = Callable[[int, int], UInt8Array]
"""From a clip's number and a first frame to (T, H, W, 3), RGB."""


def read_store(clips: list[UInt8Array], folder: Path, length: int) -> Read:
    """Through the data set that training reads with."""
    size = clips[0].shape[1]
    write_clips(str(folder), clips, Settings(crop=CropSettings(size=size)))
    store = FaceStore.open(str(folder))
    dataset = ClipDataset(store, read_tracks(store), length)

    def read(clip: int, start: int) -> UInt8Array:
        position = (start + 0.5) / (len(clips[clip]) - length + 1)
        frames: UInt8Array = dataset[Window(clip, position)].frames.numpy()
        return frames

    return read


def read_pictures(ending: str, options: list[int]) -> Callable[[list[UInt8Array], Path, int], Read]:
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


def read_videos(clips: list[UInt8Array], folder: Path, length: int) -> Read:
    """One H.264 file a clip, kept open, with a seek to the window."""
    for clip, frames in enumerate(clips):
        height, width = frames.shape[1:3]
        with Mp4Writer(folder / f"{clip}.mp4", width, height) as writer:
            for frame in frames:
                writer.write(frame)

    @lru_cache(256)
    def opened(clip: int) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(folder / f"{clip}.mp4"))

    def read(clip: int, start: int) -> UInt8Array:
        video = opened(clip)
        video.set(cv2.CAP_PROP_POS_FRAMES, start)
        frames = [video.read()[1] for _ in range(length)]
        return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames])

    return read


def read_memmap(clips: list[UInt8Array], folder: Path, length: int) -> Read:
    """All frames in one file, as they are."""
    whole = np.concatenate(clips)
    first_rows = np.cumsum([0, *map(len, clips)])
    raw = np.memmap(folder / "raw", np.uint8, "w+", shape=whole.shape)
    raw[:] = whole
    raw.flush()
    return lambda clip, start: np.array(raw[first_rows[clip] + start : first_rows[clip] + start + length])


WAYS: dict[str, Callable[[list[UInt8Array], Path, int], Read]] = {
    "JPEG-95 files": read_pictures(".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95]),
    "store (zstd)": read_store,
    "PNG files": read_pictures(".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    "MP4 clips": read_videos,
    "memmap, raw": read_memmap,
}
EXACT = ("store (zstd)", "PNG files", "memmap, raw")


@click.command(help="Random windows a second, from a store and from what is used instead of one.")
@click.argument("videos", default=str(MEDIA), type=click.Path(exists=True))
@click.option("--frames", "num_frames", default=1500, show_default=True, help="Least number of frames altogether.")
@click.option("--windows", "num_windows", default=100, show_default=True, help="Windows read, each way.")
@click.option("--length", default=16, show_default=True, help="Frames of a window.")
@click.option("--size", default=224, show_default=True, help="Side of a frame, pixels.")
def main(videos: str, num_frames: int, num_windows: int, length: int, size: int) -> None:
    print(describe_machine())
    with tempfile.TemporaryDirectory() as scratch:
        clips = face_clips(videos, num_frames, size, f"{scratch}/source")
        clips = [frames for frames in clips if len(frames) >= length]
        rng = np.random.default_rng(0)
        chosen = [int(clip) for clip in rng.integers(0, len(clips), num_windows)]
        windows = [(clip, int(rng.integers(0, len(clips[clip]) - length + 1))) for clip in chosen]
        raw_bytes = sum(frames.nbytes for frames in clips)
        print(f"\n{num_windows} windows of {length}x{size}x{size}, {sum(map(len, clips))} frames in {len(clips)} clips")
        print(f"{'':<16}{'windows/s':>10}{'x JPEG':>9}{'smaller than raw':>18}")
        baseline = 0.0
        for number, (name, prepare) in enumerate(WAYS.items()):
            folder = Path(scratch, str(number))
            folder.mkdir()
            read = prepare(clips, folder, length)
            for clip, start in windows[:3]:
                difference = np.abs(read(clip, start).astype(int) - clips[clip][start : start + length])
                if difference.mean() > (0 if name in EXACT else 8):
                    raise click.ClickException(f"{name} gave other frames than were written")
            seconds = []
            for clip, start in windows:
                began = perf_counter()
                read(clip, start)
                seconds.append(perf_counter() - began)
            rate = 1 / float(np.median(seconds))
            baseline = baseline or rate
            ratio = raw_bytes / sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            print(f"{name:<16}{rate:>10.1f}{rate / baseline:>8.2f}x{ratio:>17.2f}x", flush=True)


if __name__ == "__main__":
    main()
