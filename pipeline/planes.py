"""The usual kind of video, decoded by PyAV to the planes it is stored as: half the bytes of BGR, and no conversion.

Usual: 8 bits, 4:2:0, progressive, upright. PyAV has the same FFmpeg inside as OpenCV, and what is cut out of the planes
is converted by the same scaler, so frames, times and pixels are those of ``cv2.VideoCapture`` with one thread, to the
bit; ``tests/test_planes.py`` compares them over codecs, containers and damage. Only where FFmpeg conceals damage within
a frame may other old content show through: what its buffers happen to hold. Whatever is unusual is left to OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.container import Flags, InputContainer
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from pipeline.device import DecodeDevice
from pipeline.picture import BgrPicture, Picture, Window
from pipeline.types import UInt8Array

PIXEL_FORMAT = "yuv420p"
GPU_PIXEL_FORMAT = "nv12"
"""The same numbers, with both colours in turns, as a GPU's decoder gives them."""

MAX_THREADS = 16
"""As many as FFmpeg takes by itself: each decodes a frame of its own, and has it in memory."""


@dataclass(frozen=True)
class Colours:
    """What the numbers of the planes mean, in FFmpeg's enumerations."""

    space: int
    range: int


@dataclass(frozen=True)
class Yuv420Picture:
    """Brightness of each pixel, colour of each four."""

    y: UInt8Array
    """uint8 (H, W), H and W even."""
    u: UInt8Array
    """uint8 (H / 2, W / 2)."""
    v: UInt8Array
    """uint8 (H / 2, W / 2)."""
    colours: Colours
    converter: VideoReformatter
    """Of the reader: it remembers how the last picture of a size was converted."""
    whole: av.VideoFrame | None = None
    """The decoder's frame, whose memory the planes are in, if they are all of it."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        height, width = self.y.shape
        return width, height

    @property
    def num_bytes(self) -> int:
        """That a copy takes."""
        return self.y.nbytes + self.u.nbytes + self.v.nbytes

    def window(self, window_xyxy: Window) -> Yuv420Picture:
        """See :meth:`pipeline.picture.Picture.window`."""
        left, top, right, bottom = window_xyxy
        rows, columns = slice(top // 2, bottom // 2), slice(left // 2, right // 2)
        brightness = self.y[top:bottom, left:right]
        return Yuv420Picture(brightness, self.u[rows, columns], self.v[rows, columns], self.colours, self.converter)

    def copied(self, memory: UInt8Array) -> Yuv420Picture:
        """See :meth:`pipeline.picture.Picture.copied`."""
        u_start, v_start = self.y.size, self.y.size + self.u.size
        y = memory[:u_start].reshape(self.y.shape)
        u = memory[u_start:v_start].reshape(self.u.shape)
        v = memory[v_start:].reshape(self.v.shape)
        y[:], u[:], v[:] = self.y, self.u, self.v
        return Yuv420Picture(y, u, v, self.colours, self.converter)

    def bgr(self) -> UInt8Array:
        """See :meth:`pipeline.picture.Picture.bgr`."""
        width, height = self.size
        if not self.y.size:
            return np.empty((height, width, 3), np.uint8)
        return _converted(self.converter, self.whole or self._frame(), width, height)

    def _frame(self) -> av.VideoFrame:
        """A copy of what it shows, for the converter."""
        frame = av.VideoFrame(*self.size, PIXEL_FORMAT)
        for plane, own in zip(frame.planes, (self.y, self.u, self.v), strict=True):
            _rows(plane)[:, : own.shape[1]] = own
        frame.colorspace, frame.color_range = self.colours.space, self.colours.range
        return frame


def _converted(converter: VideoReformatter, frame: av.VideoFrame, width: int, height: int) -> UInt8Array:
    """BGR of this size, as OpenCV converts: uint8 (height, width, 3), contiguous."""
    bgr = converter.reformat(frame, width, height, "bgr24", interpolation=Interpolation.BICUBIC, threads=1)
    return np.ascontiguousarray(_rows(bgr.planes[0])[:, : 3 * width]).reshape(height, width, 3)


def _rows(plane: VideoPlane) -> UInt8Array:
    """A plane as it lies in memory, with what fills its rows up: uint8 (height, line_size). No copy."""
    # It has Python's buffer interface, of which its annotations say nothing.
    return np.frombuffer(cast("memoryview[int]", plane), np.uint8).reshape(-1, plane.line_size)


def open_container(path: str, device: DecodeDevice = "cpu") -> InputContainer:
    """PyAV's view of a file. Damaged tags must not matter: PyAV raises on text that isn't UTF-8 unless told not to.

    Args:
        path: A local file.
        device: What decodes it; what ``cuda`` can't is for the processor.

    Raises:
        av.FFmpegError: It can't be opened, or there is no such device.
    """
    hwaccel = None if device == "cpu" else HWAccel(device, allow_software_fallback=True)
    return av.open(str(Path(path).absolute()), metadata_errors="ignore", hwaccel=hwaccel)


class NoFrameError(Exception):
    """PyAV can't begin to decode a file."""


class _DamagedError(Exception):
    """Not all packets became frames."""


class PlaneCapture:
    """Grabs and retrieves the frames of a file as ``cv2.VideoCapture`` does.

    Args:
        path: A local file.
        num_threads: Of the decoder.
        device: That decodes.

    Raises:
        NoFrameError: PyAV finds no video in it, or its first frame is damaged, or there is no such device.
    """

    def __init__(self, path: str, num_threads: int = 1, device: DecodeDevice = "cpu") -> None:
        self._path = path
        self._num_threads = min(num_threads, MAX_THREADS)
        self._is_simple = num_threads == 1 and device == "cpu"
        try:
            self._open(device)
        except av.FFmpegError as error:
            raise NoFrameError(str(error)) from error
        self._frames = self._all_frames()
        self._frame = next(self._frames, None) if self._container.streams.video else None
        if self._frame is None:
            self.release()
            raise NoFrameError("no frame at the beginning")
        self._is_next = True
        self._converter = VideoReformatter()
        self._size = self._frame.width, self._frame.height
        stream = self._container.streams.video[0]
        self._start_time = stream.start_time
        self._tick_seconds = None if stream.time_base is None else float(stream.time_base)

    @property
    def is_interlaced(self) -> bool:
        """Whether the newest frame, at first the first one, is flagged as such."""
        return bool(self._frame and self._frame.interlaced_frame)

    @property
    def is_on_gpu(self) -> bool:
        """Whether a GPU decodes it, of what there was so far."""
        is_asked = self._container.streams.video[0].codec_context.is_hwaccel
        return is_asked and self._frame is not None and self._frame.format.name == GPU_PIXEL_FORMAT

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of how it is coded."""
        return self._container.streams.video[0].codec_context.codec.canonical_name

    def is_usual(self, size: tuple[int, int]) -> bool:
        """Whether it is of the usual kind, judged by the first frame.

        Args:
            size: width and height of what OpenCV gives.
        """
        frame, streams = self._frame, self._container.streams.video
        return (
            frame is not None
            and len(streams) == 1
            and streams[0].start_time is not None
            # Full range from a GPU: which of FFmpeg's two formats for it the processor would give isn't known.
            and (frame.format.name == PIXEL_FORMAT or (self.is_on_gpu and frame.color_range != ColorRange.JPEG))
            and not frame.interlaced_frame
            and frame.rotation == 0
            and self._size == size
            and all(side % 2 == 0 for side in size)
        )

    def grab(self) -> bool:
        """Decode the next frame. False: a packet was refused, or there are no more."""
        if self._is_next:
            self._is_next = False
        else:
            self._frame = None  # Its memory is free for the next one.
            self._frame = next(self._frames, None)
        return self._frame is not None

    @property
    def position_seconds(self) -> float:
        """Presentation time of the newest frame, from the stream's start; 0 if it has none."""
        frame = self._frame
        time = None if frame is None else frame.dts if frame.pts is None else frame.pts
        if time is None or self._start_time is None or self._tick_seconds is None:
            return 0.0
        # By way of milliseconds, which OpenCV gives: it is about the last bit.
        return (time - self._start_time) * self._tick_seconds * 1000 / 1000

    def retrieve(self) -> Picture | None:
        """The newest frame; None if it can't be converted."""
        frame = self._frame
        if frame is None:
            return None
        if (frame.width, frame.height) != self._size or not (frame.format.name == PIXEL_FORMAT or self.is_on_gpu):
            # The other converter may be at work, in the thread that cuts out of the last frame.
            return BgrPicture(_converted(VideoReformatter(), frame, *self._size))
        colours = Colours(frame.colorspace, frame.color_range)
        if frame.format.name == GPU_PIXEL_FORMAT:
            # The scaler converts this format by another way, with other rounding: so never as it is.
            y, uv = (_rows(plane)[:, : self._size[0]] for plane in frame.planes)
            return Yuv420Picture(y, uv[:, ::2], uv[:, 1::2], colours, self._converter)
        y, u, v = (_rows(plane)[:, : plane.width] for plane in frame.planes)
        return Yuv420Picture(y, u, v, colours, self._converter, frame)

    def release(self) -> None:
        """Close the file."""
        self._frame = None
        self._container.close()

    def _open(self, device: DecodeDevice = "cpu") -> None:
        self._container = open_container(self._path, device)
        # As OpenCV has it: a frame without a time of its own has that of its packet.
        self._container.flags &= ~cast("int", Flags.gen_pts.value)

    def _all_frames(self) -> Iterator[av.VideoFrame | None]:
        """None for each packet that the decoder refuses.

        With several threads, what is refused and what isn't given because of it depends on their number, and at the end
        PyAV gives nothing behind it; a GPU has ways of its own. So from there on one thread decodes, after it has
        decoded all before once more.
        """
        num_given = 0
        try:
            for frame in self._decoded(self._num_threads):
                if frame is None and not self._is_simple:
                    raise _DamagedError
                num_given += 1
                yield frame
        except _DamagedError:
            self._container.close()
            self._open()
            self._is_simple = True
            yield from islice(self._decoded(num_threads=1), num_given, None)

    def _decoded(self, num_threads: int) -> Iterator[av.VideoFrame | None]:
        """None for each packet that the decoder refuses.

        Raises:
            _DamagedError: at the end, where there were more packets than frames, with many threads or a GPU.
        """
        stream = self._container.streams.video[0]
        if stream.codec_context is None:  # Its annotation doesn't know of codecs without a decoder.
            return
        stream.codec_context.thread_type = "AUTO"  # As in OpenCV; PyAV's own is for videos coded in slices.
        stream.codec_context.thread_count = num_threads
        packets = self._container.demux(stream)
        num_owed = 0
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                packet = None  # The rest of the file can't be read.
            is_end = packet is None or not packet.size
            num_owed += not is_end
            try:
                frames = stream.codec_context.decode(packet)
            except av.FFmpegError:
                yield None
            else:
                num_owed -= len(frames)
                while frames:
                    yield frames.pop(0)
            if is_end:
                break
        if num_owed > 0 and not self._is_simple:
            raise _DamagedError
