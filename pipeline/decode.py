"""Decoding: one forward pass over a video as frames with true indices, in memory that its length doesn't change.

OpenCV leaves four things for its caller to find out, and they shape this module; each has a test:

- The header's frame count is a promise. A pass ends where grabbing ends, and nothing ever seeks.
- ``grab()`` also returns False in the middle of a video, once for each packet that the decoder refuses; so only a long
  run of failures is the end.
- Frames that fail to decode are skipped in silence. Their timestamps are missing, though, which ``FrameClock`` notices.
- ``retrieve()`` returns True and garbage for interlaced frames (opencv-python 4.13 to 5.0, with FFmpeg 8), because the
  result of the conversion goes unchecked; so an interlaced video is refused when it is opened. Only its first frame is
  looked at: one that turns interlaced later repeats the last picture before that.

Videos of the usual kind are then read by PyAV instead, which doesn't convert whole frames (``planes.py``) and gives the
same.

What can't be known: where a frame refers to a lost one, FFmpeg conceals the damage by showing older content.
A picture whose size changes within the stream is rescaled by OpenCV to the first frame's size; rotation metadata is
applied.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import av
import cv2
import numpy as np

from pipeline.clock import FrameClock
from pipeline.device import DecodeDevice
from pipeline.frame import Frame
from pipeline.picture import BgrPicture, Picture
from pipeline.planes import NoFrameError, PlaneCapture, open_container
from pipeline.types import UInt8Array, VideoInfo

MAX_FAILED_GRABS = 300
"""Refused packets in a row after which a video counts as ended: 10 s at 30 fps; at the true end they cost 12 ms."""

MAX_FRAME_PIXELS = 2**26
"""Twice 8K. A damaged header may promise a hundred times that, and decoders believe it: 12 bytes a pixel."""

HEADER_MARGIN = 4
"""How many frames a header may promise too many before ``sampled`` pays for a second pass to get the last frame."""

OPENCV_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
"""The variable with which users of OpenCV set FFmpeg's options."""

NOT_IN_OPENCV = frozenset({"av1"})
"""Codecs that the OpenCV on PyPI opens and can't decode, by FFmpeg's names."""

REMEDY = "try to play it, and re-encode it (ffmpeg -i IN -c:v libx264 OUT.mp4) or leave it out"

T = TypeVar("T")


class VideoDecodeError(Exception):
    """A file that can't be opened as a video, or that yields no frame; the message says why and what to do."""


class Capture(Protocol):
    """What decodes a file, forward only."""

    def grab(self) -> bool:
        """Decode the next frame. False: a packet was refused, or there are no more."""

    @property
    def position_seconds(self) -> float:
        """Presentation time of the newest frame, as the container has it; 0 where there is none."""

    def retrieve(self) -> Picture | None:
        """The newest frame; None if it can't be converted."""

    def release(self) -> None:
        """Close the file."""


class _OpenCvCapture:
    """Every kind of video that OpenCV can read, converted to BGR."""

    def __init__(self, capture: Any) -> None:
        self._capture = capture

    def grab(self) -> bool:
        return bool(self._capture.grab())

    @property
    def position_seconds(self) -> float:
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def retrieve(self) -> Picture | None:
        converted, picture = self._capture.retrieve()
        return BgrPicture(to_bgr(picture)) if converted else None

    def release(self) -> None:
        self._capture.release()


class VideoReader:
    """One forward pass over one video file; a context manager.

    Args:
        path: A local file; never taken for a URL, a protocol or a pattern of file names.
        num_threads: Of the decoder; None: one for each core.
        max_frames: The pass ends before the frame of this index, as if the video did; None: at its end.
        device: That decodes what it can; for ``cuda`` the rest is told in ``device_remark``.

    Raises:
        VideoDecodeError: there is no such file, it is not a video, or OpenCV can't decode it.
    """

    def __init__(
        self,
        path: str,
        num_threads: int | None = None,
        max_frames: int | None = None,
        device: DecodeDevice = "cpu",
    ) -> None:
        self.path = path
        self.max_frames = max_frames
        self.device_remark: str | None = None
        """Why the device that was asked for doesn't decode it."""
        self.num_frames_decoded = 0
        """Frames that the decoder gave so far, wanted or not."""
        self.last_index = -1
        """Index of the newest frame that decoded; -1 before the first, the last frame of all after the pass."""
        self.seconds = 0.0
        """Time spent decoding and converting so far."""
        _check_file(path)
        self._num_threads = num_threads
        self._device = device
        self._failed_frames: list[int] = []
        self._started = False
        capture = self._timed(partial(_open, path, num_threads))
        self.info = _info(capture)
        self._fourcc = _fourcc(capture)
        self._capture = self._timed(partial(self._choose, capture))
        self._clock = FrameClock(self.info.fps_from_header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file and the decoder back."""
        self._capture.release()

    def _choose(self, opened: Any) -> Capture:
        """What will read the file: the ``cv2.VideoCapture``, or what spares its conversion."""
        width, height = self.info.width, self.info.height
        if width * height > MAX_FRAME_PIXELS:
            opened.release()
            raise VideoDecodeError(
                f"{self.path} has frames of {width} x {height} pixels, more than {MAX_FRAME_PIXELS:,}: "
                "its header is damaged, or it is larger than anything that faces are looked for in; scale it down first"
            )
        try:
            # Decoding one frame costs 1 % of decoding ten seconds of 1080p.
            planes = self._planes()
        except NoFrameError:
            return _OpenCvCapture(opened)  # OpenCV decides about damaged files.
        if planes.is_interlaced:
            opened.release()
            planes.release()
            raise VideoDecodeError(
                f"{self.path} is interlaced: OpenCV can't convert it to RGB; "
                "deinterlace it first (ffmpeg -i IN -vf yadif -c:v libx264 OUT.mp4)"
            )
        # Options that somebody set for OpenCV's FFmpeg are for OpenCV to follow.
        is_allowed = OPENCV_OPTIONS not in os.environ
        if (is_allowed or planes.codec_name in NOT_IN_OPENCV) and planes.is_usual((width, height)):
            opened.release()
            if self._device != "cpu" and not planes.is_on_gpu:
                self.device_remark = self.device_remark or f"the GPU can't decode {planes.codec_name} of this kind"
            return planes
        if self._device != "cpu":
            self.device_remark = "OpenCV decodes it, for it is of an unusual kind or there are options for OpenCV"
        planes.release()
        return _OpenCvCapture(opened)

    def _planes(self) -> PlaneCapture:
        num_threads = self._num_threads or len(os.sched_getaffinity(0))
        if self._device != "cpu":
            try:
                return PlaneCapture(self.path, num_threads, self._device)
            except NoFrameError as error:
                self.device_remark = f"the GPU can't decode it ({error})"
        return PlaneCapture(self.path, num_threads)

    @property
    def failed_frames(self) -> tuple[int, ...]:
        """Indices known to be missing so far, ascending: the frame failed to decode or, where wanted, to convert.

        Frames lost before the first or after the last that decodes, or where the frame rate varies, leave no trace.
        """
        return tuple(self._failed_frames)

    @property
    def is_constant_rate(self) -> bool:
        """Whether all timestamps so far kept to the header's frame rate, so that a missing frame is noticed."""
        return self._clock.is_constant_rate

    def frames(self, wanted: Callable[[int], bool] | None = None) -> Generator[Frame, None, None]:
        """The frames whose index is wanted, in order; None means all. The others are decoded but not converted.

        A frame's array is the caller's own. Indices in ``failed_frames`` are skipped, never filled in.

        Raises:
            RuntimeError: a second pass was asked for; open the file again.
            VideoDecodeError: while iterating, where the file ends without a frame that can be used.
        """
        if self._started:
            raise RuntimeError(f"{self.path} was read already, and a VideoReader makes one pass; open another one")
        self._started = True
        return self._frames(wanted)

    def sampled(self, every: int) -> Generator[Frame, None, None]:
        """The frames whose index is a multiple of ``every``, and the last frame of the pass.

        Which frame is the last is known only when the decoder has dropped it. So the frames around the end that the
        header promises are converted in advance; where the promise was wrong by more than ``HEADER_MARGIN`` frames
        (a truncated file, a wrong header), the file is decoded a second time.
        """
        if every < 1:
            raise ValueError(f"every={every}: no frame would be sampled; use 1 for all frames, 10 for every tenth")
        promised = self.info.num_frames_from_header
        near_end = math.inf if promised is None else promised - 1 - HEADER_MARGIN
        if self.max_frames is not None:
            near_end = min(near_end, self.max_frames - 1)
        newest = None
        for frame in self.frames(lambda index: index % every == 0 or index >= near_end):
            newest = frame
            if frame.index % every == 0:
                yield frame
        last = self.last_index
        if last % every == 0 or last in self._failed_frames:
            return
        if newest is not None and newest.index == last:
            yield newest
        else:
            yield from self._again(last)

    def _again(self, index: int) -> Iterator[Frame]:
        with VideoReader(self.path, self._num_threads, self.max_frames, self._device) as reader:
            frame = next(reader.frames(lambda i: i == index), None)
            self.seconds += reader.seconds
        if frame is not None:
            yield frame

    def _frames(self, wanted: Callable[[int], bool] | None) -> Generator[Frame, None, None]:
        num_wanted = num_converted = 0
        end = math.inf if self.max_frames is None else self.max_frames
        while self.last_index + 1 < end and self._grab():
            index, seconds = self._clock.tick(self._capture.position_seconds)
            self._failed_frames.extend(range(self.last_index + 1, int(min(index, end))))
            if index >= end:
                break
            self.last_index = index
            self.num_frames_decoded += 1
            if wanted is not None and not wanted(index):
                continue
            num_wanted += 1
            picture = self._timed(self._capture.retrieve)
            if picture is None:
                self._failed_frames.append(index)
                continue
            num_converted += 1
            yield Frame(index, seconds, picture)
        if self.num_frames_decoded == 0:
            raise VideoDecodeError(
                f"{self.path} opens as a video ({self._fourcc}) but not one frame decodes: it is damaged or "
                f"OpenCV lacks the codec; {REMEDY}"
            )
        if num_wanted and not num_converted:
            raise VideoDecodeError(
                f"{self.path}: {self.num_frames_decoded} frames decode but OpenCV can't convert any to RGB; {REMEDY}"
            )

    def _grab(self) -> bool:
        return any(self._timed(self._capture.grab) for _ in range(MAX_FAILED_GRABS))

    def _timed(self, call: Callable[[], T]) -> T:
        start = perf_counter()
        try:
            return call()
        finally:
            self.seconds += perf_counter() - start


def num_frames_expected(info: VideoInfo, max_frames: int | None) -> int | None:
    """How many frames a pass of at most ``max_frames`` gives, if the header is right; None where it doesn't say."""
    promised = info.num_frames_from_header
    return promised if promised is None or max_frames is None else min(promised, max_frames)


def to_bgr(picture: UInt8Array) -> UInt8Array:
    """uint8 ``(H, W)``, ``(H, W, 1)``, BGR ``(H, W, 3)`` or BGRA ``(H, W, 4)`` -> contiguous BGR ``(H, W, 3)``."""
    channels = picture.shape[2] if picture.ndim == 3 else 1
    if channels == 3:
        return np.ascontiguousarray(picture)
    conversion = {1: cv2.COLOR_GRAY2BGR, 4: cv2.COLOR_BGRA2BGR}[channels]
    return np.ascontiguousarray(cv2.cvtColor(picture, conversion))


def _check_file(path: str) -> None:
    try:
        status = Path(path).stat()
        if stat.S_ISDIR(status.st_mode):
            raise VideoDecodeError(f"{path} is a folder, not a video; name the files in it")
        if not stat.S_ISREG(status.st_mode):
            raise VideoDecodeError(f"{path} is a device or a pipe, which can't be read twice; copy it into a file")
        with Path(path).open("rb"):
            pass
    except FileNotFoundError as error:
        raise VideoDecodeError(f"{path} does not exist, so there is nothing to decode; check the path") from error
    except PermissionError as error:
        raise VideoDecodeError(f"{path} may not be read by this user; change its permissions") from error
    except (OSError, ValueError) as error:
        raise VideoDecodeError(f"{path!r} can't be read ({error}); check the path and the disk") from error
    if status.st_size == 0:
        raise VideoDecodeError(f"{path} is empty (0 bytes), so there is nothing to decode; copy it again")


def _open(path: str, num_threads: int | None) -> Any:
    """An opened ``cv2.VideoCapture``, with FFmpeg's and OpenCV's chatter about damage left out.

    OPENCV_FFMPEG_LOGLEVEL is read when a process opens its first video; a user's own choice stays.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    options = [] if num_threads is None else [cv2.CAP_PROP_N_THREADS, num_threads]
    with _silent_cv2():
        # FFmpeg takes "concat:a|b.mp4" for a protocol, but nothing that starts with a slash.
        capture = cv2.VideoCapture(str(Path(path).absolute()), cv2.CAP_FFMPEG, options)
    if not capture.isOpened():
        raise VideoDecodeError(f"{path} can't be opened as a video: {_why_unreadable(path)}; {REMEDY}")
    return capture


@contextmanager
def _silent_cv2() -> Iterator[None]:
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _why_unreadable(path: str) -> str:
    """OpenCV gives no reason; PyAV looks into the container for it."""
    try:
        with open_container(path) as container:
            kinds = sorted({stream.type for stream in container.streams})
            if "video" not in kinds:
                return f"it has no video stream, only {' and '.join(kinds) or 'an empty container'}"
            return "it has a video stream, but OpenCV has no decoder for its codec or can't set it up"
    except av.FFmpegError as error:
        return f"it is no video, or its header is damaged or cut off ({error.strerror})"


def _info(capture: Any) -> VideoInfo:
    count, fps = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
    return VideoInfo(
        # Streams without a duration give large negative numbers here.
        num_frames_from_header=int(count) if 0 < count < 2**31 else None,
        fps_from_header=fps if 0 < fps < math.inf else 0.0,
        width=int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
        height=int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
    )


def _fourcc(capture: Any) -> str:
    code = int(capture.get(cv2.CAP_PROP_FOURCC))
    return code.to_bytes(8, "little", signed=True)[:4].decode("ascii", "replace").strip("\0") or "codec unknown"
