"""Frames in, :class:`Detections` out: MTCNN on cpu or cuda, batched, with the retry ladder.

The only module that knows facenet-pytorch: it takes the three trained networks from it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from time import perf_counter
from typing import Literal, TypeVar

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

from pipeline.cascade import Faces, Networks, detect_faces
from pipeline.config import DetectSettings
from pipeline.types import Detections, Frame, UInt8Array

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
Thresholds = tuple[float, float, float]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Rung:
    """One step of the retry ladder."""

    scale: float
    """Detection size over source size."""
    thresholds: Thresholds
    keep_one: bool = False
    """Keep only the best face of a frame: low thresholds let other things through."""


@dataclass(frozen=True)
class VideoDetections:
    """Faces of the searched frames of one video, in order of time."""

    frame_indices: list[int]
    detections: list[Detections]
    """One for each of ``frame_indices``; empty where no face was found."""
    scale: float
    """The smallest scale used: below the rung's own if memory ran out."""
    seconds: float
    """Time spent searching, summed over threads."""


def retry_ladder(settings: DetectSettings, width: int, height: int) -> list[Rung]:
    """The rungs for a video of this size in pixels: plain, larger, larger with low thresholds that keep one face."""
    scale = min(1.0, settings.long_side_pixels / max(width, height))
    rungs = [Rung(scale, settings.thresholds)]
    if settings.retry_scale > 1:
        rungs.append(Rung(scale * settings.retry_scale, settings.thresholds))
    if settings.retry_thresholds is not None:
        rungs.append(Rung(scale * settings.retry_scale, settings.retry_thresholds, keep_one=True))
    return rungs


def choose_device(device: Device) -> str:
    """``auto`` -> cuda where there is one, else cpu.

    Raises:
        ValueError: cuda was asked for and there is none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda, but torch finds no CUDA device here; use --device cpu or auto")
    return device


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """CUDA has a type of its own for it; the CPU allocator only a message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _scaled(rgb: UInt8Array, scale: float) -> UInt8Array:
    """The frame at another size, no side below one pixel."""
    height, width = rgb.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return rgb
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(rgb, size, interpolation=interpolation), np.uint8)


class FaceDetector:
    """MTCNN with its settings on one device. Make one a process; it may be used for any number of videos.

    Batches are searched in ``num_threads`` Python threads. What is in a batch never depends on their number, so neither
    do the results, to the last bit, provided that torch itself uses one thread (``torch.set_num_threads(1)``): with
    more, its matrix products round differently.
    """

    def __init__(self, settings: DetectSettings, device: Device = "auto", num_threads: int = 1) -> None:
        self.settings = settings
        self.device = torch.device(choose_device(device))
        mtcnn = MTCNN(device=self.device).eval().to(memory_format=torch.channels_last)
        self._networks = Networks(mtcnn.pnet, mtcnn.rnet, mtcnn.onet)
        self._threads = ThreadPoolExecutor(num_threads, thread_name_prefix="detect")
        self.num_threads = num_threads

    def detect_batch(self, frames: list[UInt8Array], thresholds: Thresholds | None = None) -> list[Detections]:
        """Faces of equally large frames, searched at their own size.

        Args:
            frames: uint8 (H, W, 3) RGB each.
            thresholds: of the three networks; the settings' by default.

        Raises:
            torch.OutOfMemoryError: or a RuntimeError of the CPU's allocator.
        """
        faces = detect_faces(
            torch.from_numpy(np.stack(frames)).to(self.device),
            self._networks,
            thresholds or self.settings.thresholds,
            self.settings.min_face_pixels,
            self.settings.pyramid_factor,
        )
        return _split_by_image(faces, len(frames))

    def detect_video(self, frames: Iterable[Frame], rung: Rung) -> VideoDetections:
        """Faces of the given frames of one video, in pixels of the video.

        Memory: the shrunk frames of a batch a thread, and of two more. Out of memory: the batch is halved, down to one
        frame; a frame that doesn't fit alone is searched at half its size, and again, before the error goes up.
        """
        results = _map_in_order(
            self._threads,
            lambda batch: self._search(batch, rung),
            self._batches(frames, rung.scale),
            self.num_threads + 1,
        )
        found = [one for batch in results for one in batch]
        return VideoDetections(
            [one.frame_index for one in found],
            [one.detections for one in found],
            min((one.scale for one in found), default=rung.scale),
            sum(one.seconds for one in found),
        )

    def _batches(self, frames: Iterable[Frame], scale: float) -> Iterator[list[_Shrunk]]:
        batch: list[_Shrunk] = []
        pixels = 0
        for frame in frames:
            height, width = frame.rgb.shape[:2]
            shrunk = _Shrunk(frame.index, width, height, scale, _scaled(frame.rgb, scale))
            frame_pixels = shrunk.rgb.shape[0] * shrunk.rgb.shape[1]
            full = pixels + frame_pixels > self.settings.batch_megapixels * 1e6
            if batch and (full or shrunk.rgb.shape != batch[0].rgb.shape):
                yield batch
                batch, pixels = [], 0
            batch.append(shrunk)
            pixels += frame_pixels
        if batch:
            yield batch

    def _search(self, batch: list[_Shrunk], rung: Rung) -> list[_Found]:
        started = perf_counter()
        try:
            detections = self.detect_batch([shrunk.rgb for shrunk in batch], rung.thresholds)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error) or (len(batch) == 1 and not batch[0].can_be_halved):
                raise
            logger.warning("out of memory on %d frames of %s; trying less", len(batch), batch[0].rgb.shape)
        else:
            seconds = (perf_counter() - started) / len(batch)
            return [
                _Found(shrunk.frame_index, _in_source_pixels(found, shrunk, rung.keep_one), shrunk.scale, seconds)
                for shrunk, found in zip(batch, detections, strict=True)
            ]
        # Not inside `except`: the error's traceback would hold the tensors that are to be freed.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return self._search([batch[0].halved()], rung)
        middle = len(batch) // 2
        return self._search(batch[:middle], rung) + self._search(batch[middle:], rung)


@dataclass(frozen=True)
class _Shrunk:
    """A frame at detection size, and what leads back to the source."""

    frame_index: int
    source_width: int
    source_height: int
    scale: float
    rgb: UInt8Array

    @property
    def can_be_halved(self) -> bool:
        return bool(min(self.rgb.shape[:2]) >= 64)

    def halved(self) -> _Shrunk:
        return replace(self, scale=self.scale / 2, rgb=_scaled(self.rgb, 0.5))


@dataclass(frozen=True)
class _Found:
    frame_index: int
    detections: Detections
    scale: float
    seconds: float


def _in_source_pixels(found: Detections, shrunk: _Shrunk, keep_one: bool) -> Detections:
    """Undo the shrinking, by the sizes it really had after rounding."""
    height, width = shrunk.rgb.shape[:2]
    ratio = np.array([shrunk.source_width / width, shrunk.source_height / height], np.float32)
    kept = slice(0, 1 if keep_one else None)
    return Detections(
        found.boxes_xyxy[kept] * np.tile(ratio, 2), found.scores[kept], found.landmarks[kept] * ratio
    )  # fmt: skip


def _split_by_image(faces: Faces, num_images: int) -> list[Detections]:
    image_indices = faces.image_indices.cpu().numpy()
    boxes, scores, landmarks = (t.cpu().numpy() for t in (faces.boxes_xyxy, faces.scores, faces.landmarks))
    rows = (image_indices == i for i in range(num_images))
    return [Detections(boxes[of_image], scores[of_image], landmarks[of_image]) for of_image in rows]


def _map_in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], max_in_flight: int
) -> Iterator[R]:
    """``pool.map`` that takes from ``items`` only as results are taken from it, so that memory stays bounded."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) >= max_in_flight:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


@lru_cache(maxsize=1)
def shared_detector(settings: DetectSettings, device: Device, num_threads: int) -> FaceDetector:
    """This process's detector: the networks are loaded once, not once a partition."""
    return FaceDetector(settings, device, num_threads)
