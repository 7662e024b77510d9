"""Videos read as OpenCV's users read them: ``cv2.VideoCapture`` and nothing of ours."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import cv2
import numpy as np

from pipeline.types import UInt8Array, VideoRef

T = TypeVar("T")


def open_video(path: str, num_threads: int | None = None) -> Any:
    """A ``cv2.VideoCapture``; None: as many threads as OpenCV chooses, one a core."""
    return cv2.VideoCapture(path, cv2.CAP_FFMPEG, [] if num_threads is None else [cv2.CAP_PROP_N_THREADS, num_threads])


def read_all(videos: Iterable[VideoRef], num_threads: int | None = None) -> None:
    """Every frame of every file, decoded and converted, one after the other, nothing else."""
    for ref in videos:
        capture = open_video(ref.path, num_threads)
        while capture.read()[0]:
            pass
        capture.release()


def sampled_frames(path: str, every: int, num_threads: int | None = None) -> Iterator[tuple[int, UInt8Array]]:
    """Index and BGR picture (H, W, 3) of every n-th frame; the others are decoded and not converted."""
    capture = open_video(path, num_threads)
    index = 0
    while capture.grab():
        if index % every == 0:
            yield index, np.asarray(capture.retrieve()[1], np.uint8)
        index += 1
    capture.release()


def shrunk_rgb(bgr: UInt8Array, long_side_pixels: int) -> UInt8Array:
    """RGB, the longer side at most so long."""
    scale = long_side_pixels / max(bgr.shape[:2])
    small = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else bgr
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2RGB), np.uint8)


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """So many at once, and what is left."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
