"""Frames in, :class:`Detections` out: MTCNN on cpu or cuda, batched, with the retry ladder.

The only module that knows facenet-pytorch: it takes the three trained networks from it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from time import perf_counter

import cv2
import numpy as np
import torch

from pipeline.cascade import Faces, Networks, detect_faces
from pipeline.config import DetectSettings
from pipeline.device import DecodeDevice, Device, choose_device
from pipeline.frame import Frame, swap_red_and_blue
from pipeline.lean_import import import_lean
from pipeline.padding import pad_first_channels
from pipeline.types import Detections, Float32Array, UInt8Array

logger = logging.getLogger(__name__)

MTCNN = import_lean("facenet_pytorch").MTCNN

Thresholds = tuple[float, float, float]


@dataclass(frozen=True)
class Rung:
    """One step of the retry ladder."""

    scale: float
    """Detection size over source size."""
    thresholds: Thresholds
    keep_one: bool = False
    """Keep only the best face of a frame: low thresholds let other things through."""


@dataclass(frozen=True)
class SearchedFrame:
    """What was found in one frame."""

    frame_index: int
    detections: Detections
    """In pixels of the video; empty where no face was found."""
    scale: float
    """The one it was searched at: below the rung's own if memory ran out."""
    seconds: float
    """Time spent on it."""


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

    What is searched together never depends on the number of threads, so neither do the results, to the last bit,
    provided that torch itself uses one thread (``torch.set_num_threads(1)``): with more, its matrix products round
    differently.
    """

    def __init__(
        self,
        settings: DetectSettings,
        device: Device = "auto",
        num_threads: int = 1,
        decode_device: DecodeDevice = "cpu",
    ) -> None:
        self.settings = settings
        self.device = torch.device(choose_device(device))
        mtcnn = MTCNN().eval()
        for network in (mtcnn.pnet, mtcnn.rnet):
            pad_first_channels(network)
        mtcnn.to(self.device, memory_format=torch.channels_last)
        self._networks = Networks(mtcnn.pnet, mtcnn.rnet, mtcnn.onet)
        self.num_threads = num_threads
        """That a video may be decoded with."""
        self.decode_device = decode_device
        """That decodes it."""

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

    def search(self, frames: Iterable[Frame], rung: Rung) -> Iterator[list[SearchedFrame]]:
        """Faces of the given frames of one video.

        Every n-th of the frames is searched everywhere (``whole_frame_every``), and the last one. Those in between are
        searched around the faces found before and after them: a face that stays for n frames is in one that was
        searched whole.

        Memory: the shrunk frames of a batch. Out of memory: the batch is halved, down to one frame; a frame that
        doesn't fit alone is searched at half its size, and again, before the error goes up.

        Yields:
            As soon as a batch is full, and before another frame is asked for: all its frames, in order of time. The
            last of them has been searched everywhere.
        """
        spans: list[list[_Shrunk]] = []
        between: list[_Shrunk] = []
        before: SearchedFrame | None = None
        for number, frame in enumerate(frames):
            started = perf_counter()
            shrunk = _shrunk(frame, rung.scale)
            between.append(replace(shrunk, seconds=perf_counter() - started))
            if number % self.settings.whole_frame_every == 0:
                spans.append(between)
                between = []
                if self._is_full(spans):
                    searched = self._search_spans(spans, before, rung)
                    yield searched
                    spans, before = [], searched[-1]
        if between:
            spans.append(between)
        if spans:
            yield self._search_spans(spans, before, rung)

    def _is_full(self, spans: Sequence[Sequence[_Shrunk]]) -> bool:
        """Whether a batch has no room for the frames up to the next one that is searched everywhere."""
        num_frames = sum(map(len, spans)) + self.settings.whole_frame_every
        return num_frames * spans[-1][-1].num_pixels > self.settings.batch_megapixels * 1e6

    def _search_spans(
        self, spans: Sequence[Sequence[_Shrunk]], before: SearchedFrame | None, rung: Rung
    ) -> list[SearchedFrame]:
        """The last frame of each span everywhere, the others around the faces found in it and in the one before."""
        wholes = self._search([span[-1] for span in spans], rung)
        near: list[_Shrunk] = []
        for span, last, found in zip(spans, [before, *wholes], wholes, strict=False):
            known = [one.detections.boxes_xyxy for one in (last, found) if one is not None]
            near += [frame.near(np.concatenate(known)) for frame in span[:-1]]
        found_near = self._search(near, rung) if near else []
        return sorted(wholes + found_near, key=lambda one: one.frame_index)

    def _search(self, batch: list[_Shrunk], rung: Rung) -> list[SearchedFrame]:
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
                SearchedFrame(
                    shrunk.frame_index, _in_source_pixels(faces, shrunk, rung), shrunk.scale, shrunk.seconds + seconds
                )
                for shrunk, faces in zip(batch, detections, strict=True)
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
    seconds: float = 0.0
    """Spent on shrinking it."""

    @property
    def num_pixels(self) -> int:
        height, width = self.rgb.shape[:2]
        return int(height * width)

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


def _in_source_pixels(found: Detections, shrunk: _Shrunk, rung: Rung) -> Detections:
    """Undo the shrinking, by the sizes it really had after rounding."""
    kept = slice(0, 1 if rung.keep_one else None)
    return Detections(
        found.boxes_xyxy[kept] * np.tile(shrunk.ratio, 2), found.scores[kept], found.landmarks[kept] * shrunk.ratio
    )


def _split_by_image(faces: Faces, num_images: int) -> list[Detections]:
    image_indices = faces.image_indices.cpu().numpy()
    boxes, scores, landmarks = (t.cpu().numpy() for t in (faces.boxes_xyxy, faces.scores, faces.landmarks))
    rows = (image_indices == i for i in range(num_images))
    return [Detections(boxes[of_image], scores[of_image], landmarks[of_image]) for of_image in rows]


@lru_cache(maxsize=1)
def shared_detector(
    settings: DetectSettings, device: Device, num_threads: int, decode_device: DecodeDevice = "cpu"
) -> FaceDetector:
    """This process's detector: the networks are loaded once, not once a partition."""
    return FaceDetector(settings, device, num_threads, decode_device)
