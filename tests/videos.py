"""Tiny synthetic videos for the whole test suite, made with PyAV.

The frames of ``moving_square`` carry their own number in large black and white blocks, which survive lossy coding, so
that a test can prove that frame n of a decoder is frame n of the video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from pipeline.types import UInt8Array

CODE_ROWS, CODE_COLUMNS = 2, 6
CODE_BITS = CODE_ROWS * CODE_COLUMNS
"""Indices below ``2 ** CODE_BITS`` can be told apart."""


def moving_square(num_frames: int, width: int = 96, height: int = 64) -> Iterator[UInt8Array]:
    """Frames with their index in the upper half and a coloured square that moves below it.

    Yields:
        uint8 RGB ``(height, width, 3)``; the square is pure red, the rest of the lower half dark green.
    """
    half, side = height // 2, height // 4
    for index in range(num_frames):
        rgb = np.full((height, width, 3), (20, 60, 20), np.uint8)
        rgb[:half] = _index_code(index, width, half)[:, :, None]
        left = (3 * index) % max(1, width - side)
        rgb[half + side // 2 : half + side // 2 + side, left : left + side] = (255, 0, 0)
        yield rgb


def read_index_code(rgb: UInt8Array) -> int:
    """The index that ``moving_square`` wrote into an upright frame, whatever size it has now.

    Raises:
        ValueError: a block is neither black nor white, so that any number read would be a guess.
    """
    height, width = rgb.shape[0] // 2, rgb.shape[1]
    index = 0
    for bit in range(CODE_BITS):
        row, column = divmod(bit, CODE_COLUMNS)
        y = slice(int((row + 0.25) * height / CODE_ROWS), int((row + 0.75) * height / CODE_ROWS) + 1)
        x = slice(int((column + 0.25) * width / CODE_COLUMNS), int((column + 0.75) * width / CODE_COLUMNS) + 1)
        brightness = float(rgb[y, x].mean())
        if 80 < brightness < 175:
            raise ValueError(f"block {bit} of the index code has brightness {brightness:.0f}: the frame is damaged")
        index |= int(brightness > 127) << bit
    return index


def write_video(
    path: str | Path,
    frames: Iterable[UInt8Array],
    fps: float = 30,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    timestamps_seconds: Sequence[float] | None = None,
    rotation: int = 0,
    options: Mapping[str, str] | None = None,
) -> Path:
    """Encode uint8 RGB frames ``(H, W, 3)`` of one size; the container follows from the path's ending.

    Args:
        path: Where to write; overwritten.
        frames: At least one.
        fps: Frames per second; the nominal rate where ``timestamps_seconds`` is given.
        codec: PyAV's name of an encoder.
        pix_fmt: ``yuv420p`` needs even sizes for most encoders, ``yuv444p`` takes odd ones.
        timestamps_seconds: One presentation time per frame for variable frame rate, to a millisecond.
        rotation: Degrees counterclockwise by which a player turns the picture, in the metadata only: 0, 90, 180, 270.
        options: Of the encoder, such as ``{"bf": "0"}``.

    Returns:
        ``path``.
    """
    rate = Fraction(fps).limit_denominator(1001)
    time_base = 1 / rate if timestamps_seconds is None else Fraction(1, 1000)
    with av.open(str(path), "w") as container:
        stream: VideoStream | None = None
        for number, rgb in enumerate(frames):
            if stream is None:
                stream = cast("VideoStream", container.add_stream(codec, rate=rate, options=dict(options or {})))
                stream.width, stream.height, stream.pix_fmt = rgb.shape[1], rgb.shape[0], pix_fmt
                stream.codec_context.time_base = time_base
                if rotation:
                    stream.set_display_rotation(rotation)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            frame.time_base = time_base
            frame.pts = number if timestamps_seconds is None else round(timestamps_seconds[number] * 1000)
            container.mux(stream.encode(frame))
        if stream is None:
            raise ValueError(f"no frames to write to {path}; a video needs at least one")
        container.mux(stream.encode(None))
    return Path(path)


def drop_packets(source: str | Path, target: str | Path, dropped: Iterable[int]) -> Path:
    """Copy a video without some packets (numbered in coding order) but with the others' timestamps unchanged."""
    unwanted = frozenset(dropped)
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        number = 0
        for packet in reader.demux(stream):
            if packet.size == 0:
                continue
            if number not in unwanted:
                packet.stream = copy
                writer.mux(packet)
            number += 1
    return Path(target)


def _index_code(index: int, width: int, height: int) -> UInt8Array:
    if not 0 <= index < 2**CODE_BITS:
        raise ValueError(f"index {index} does not fit into {CODE_BITS} bits")
    bits = np.array([(index >> bit) & 1 for bit in range(CODE_BITS)], np.uint8).reshape(CODE_ROWS, CODE_COLUMNS)
    rows, columns = np.arange(height) * CODE_ROWS // height, np.arange(width) * CODE_COLUMNS // width
    code: UInt8Array = bits[rows[:, None], columns[None, :]] * np.uint8(255)
    return code


def overwrite_packets(source: Path, target: Path, damaged: Iterable[int]) -> Path:
    """A copy in which some packets' bytes are 0xff; the container stays whole."""
    unwanted, data = frozenset(damaged), bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        for number, packet in enumerate(packets):
            if number in unwanted:
                assert packet.pos is not None
                data[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    target.write_bytes(data)
    return target
