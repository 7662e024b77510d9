"""Frames in, :class:`Detections` out: MTCNN on cpu or cuda, batched, with the retry ladder.

The only module that knows facenet-pytorch: it takes the three trained networks from it.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from time import perf_counter
from typing import TypeVar

import cv2
import numpy as np
import torch
from facenet_pytorch import MTCNN

from pipeline.cascade import Faces, Networks, detect_faces
from pipeline.config import DetectSettings
from pipeline.device import Device, choose_device
from pipeline.frame import Frame, swap_red_and_blue
from pipeline.types import Detections, Float32Array, UInt8Array

logger = logging.getLogger(__name__)

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


def _is_out_of_memory(error: RuntimeError | MemoryError) -> bool:
    """CUDA has a type of its own for it; the CPU allocator only a message."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "can't allocate memory" in str(error)


def _scaled(picture: UInt8Array, scale: float) -> UInt8Array:
    """The frame at another size, no side below one pixel."""
    height, width = picture.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return picture
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, size, interpolation=interpolation), np.uint8)


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

    def detect_batch(
        self,
        frames: list[UInt8Array],
        thresholds: Thresholds | None = None,
        near_xyxy: list[Float32Array] | None = None,
    ) -> list[Detections]:
        """Faces of equally large frames, searched at their own size.

        Args:
            frames: uint8 (H, W, 3) RGB each.
            thresholds: of the three networks; the settings' by default.
            near_xyxy: for each frame, float32 (K, 4), its pixels: only faces about there are searched for. None:
                everywhere.

        Raises:
            torch.OutOfMemoryError: or a RuntimeError of the CPU's allocator.
        """
        near = None
        if near_xyxy is not None:
            of_frame = np.repeat(np.arange(len(frames)), [len(boxes) for boxes in near_xyxy])
            near = (
                torch.from_numpy(of_frame).to(self.device),
                torch.from_numpy(np.concatenate(near_xyxy)).to(self.device),
            )
        faces = detect_faces(
            torch.from_numpy(np.stack(frames)).to(self.device),
            self._networks,
            thresholds or self.settings.thresholds,
            self.settings.min_face_pixels,
            self.settings.pyramid_factor,
            near,
        )
        return _split_by_image(faces, len(frames))

    def detect_video(self, frames: Iterable[Frame], rung: Rung) -> VideoDetections:
        """Faces of the given frames of one video, in pixels of the video.

        Every n-th of the frames is searched everywhere (``whole_frame_every``), and the last one. Those in between are
        searched around the faces found before and after them: a face that stays for n frames is in one that was
        searched whole.

        Memory: the shrunk frames of two batches a thread, and of four more. Out of memory: the batch is halved, down to
        one frame; a frame that doesn't fit alone is searched at half its size, and again, before the error goes up.
        """

        def search_whole(batch: list[_Span]) -> _SearchedWhole:
            return _SearchedWhole(batch, self._search([span.whole for span in batch], rung))

        def search_between(found_and_left: tuple[list[_Found], list[_Shrunk]]) -> list[_Found]:
            found, left = found_and_left
            return found + (self._search(left, rung) if left else [])

        searched = self._in_order(search_whole, self._batches(frames, rung.scale))
        found = list(itertools.chain.from_iterable(self._in_order(search_between, _left_between(searched))))
        found.sort(key=lambda one: one.frame_index)
        return VideoDetections(
            [one.frame_index for one in found],
            [one.detections for one in found],
            min((one.scale for one in found), default=rung.scale),
            sum(one.seconds for one in found),
        )

    def _in_order(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return _map_in_order(self._threads, function, items, self.num_threads + 1)

    def _batches(self, frames: Iterable[Frame], scale: float) -> Iterator[list[_Span]]:
        batch: list[_Span] = []
        pixels = 0
        for span in _spans((_shrunk(frame, scale) for frame in frames), self.settings.whole_frame_every):
            if batch and pixels + span.num_pixels > self.settings.batch_megapixels * 1e6:
                yield batch
                batch, pixels = [], 0
            batch.append(span)
            pixels += span.num_pixels
        if batch:
            yield batch

    def _search(self, batch: list[_Shrunk], rung: Rung) -> list[_Found]:
        started = perf_counter()
        try:
            near_xyxy = [shrunk.near_xyxy for shrunk in batch if shrunk.near_xyxy is not None]
            detections = self.detect_batch([shrunk.rgb for shrunk in batch], rung.thresholds, near_xyxy or None)
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
    near_xyxy: Float32Array | None = None
    """Where to search, in its own pixels; None: everywhere."""

    @property
    def ratio(self) -> Float32Array:
        """Source size over own size, as it really is after rounding: float32 (2,), x and y."""
        height, width = self.rgb.shape[:2]
        return np.array([self.source_width / width, self.source_height / height], np.float32)

    def near(self, boxes_xyxy: Float32Array) -> _Shrunk:
        """The same, to be searched around boxes in source pixels."""
        return replace(self, near_xyxy=np.asarray(boxes_xyxy / np.tile(self.ratio, 2), np.float32))

    @property
    def can_be_halved(self) -> bool:
        return bool(min(self.rgb.shape[:2]) >= 64)

    def halved(self) -> _Shrunk:
        half = replace(self, scale=self.scale / 2, rgb=_scaled(self.rgb, 0.5))
        return half if self.near_xyxy is None else half.near(self.near_xyxy * np.tile(self.ratio, 2))


def _shrunk(frame: Frame, scale: float) -> _Shrunk:
    height, width = frame.bgr.shape[:2]
    return _Shrunk(frame.index, width, height, scale, swap_red_and_blue(_scaled(frame.bgr, scale)))


@dataclass(frozen=True)
class _Span:
    """A frame to be searched everywhere, and those up to the next such frame."""

    whole: _Shrunk
    between: list[_Shrunk]

    @property
    def num_pixels(self) -> int:
        return sum(frame.rgb.shape[0] * frame.rgb.shape[1] for frame in (self.whole, *self.between))


def _spans(frames: Iterable[_Shrunk], every: int) -> Iterator[_Span]:
    """All the frames; the last one is a span of its own."""
    span: list[_Shrunk] = []
    for frame in frames:
        if len(span) == every:
            yield _Span(span[0], span[1:])
            span = []
        span.append(frame)
    if span:
        *others, last = span
        if others:
            yield _Span(others[0], others[1:])
        yield _Span(last, [])


@dataclass(frozen=True)
class _Found:
    frame_index: int
    detections: Detections
    scale: float
    seconds: float


@dataclass(frozen=True)
class _SearchedWhole:
    """Spans, and what is in the first frame of each."""

    spans: list[_Span]
    found: list[_Found]


def _left_between(searched: Iterable[_SearchedWhole]) -> Iterator[tuple[list[_Found], list[_Shrunk]]]:
    """What was found, and the frames that can now be searched near it: those between two frames searched whole."""
    waiting: list[_Shrunk] = []
    before = Detections.empty()
    for batch in searched:
        left: list[_Shrunk] = []
        for span, found in zip(batch.spans, batch.found, strict=True):
            near = np.concatenate([before.boxes_xyxy, found.detections.boxes_xyxy])
            left += [frame.near(near) for frame in waiting]
            waiting, before = span.between, found.detections
        yield batch.found, left


def _in_source_pixels(found: Detections, shrunk: _Shrunk, keep_one: bool) -> Detections:
    """Undo the shrinking, by the sizes it really had after rounding."""
    kept = slice(0, 1 if keep_one else None)
    return Detections(
        found.boxes_xyxy[kept] * np.tile(shrunk.ratio, 2), found.scores[kept], found.landmarks[kept] * shrunk.ratio
    )


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
