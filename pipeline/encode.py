"""RGB frames into an H.264 file, the same bytes for the same frames."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.video.stream import VideoStream

from pipeline.types import UInt8Array


class Mp4Writer:
    """Writes frames of one size to one MP4: libx264, yuv420p, one thread, so that equal frames give equal files.

    The file is complete once the ``with`` block ends without an error.
    """

    def __init__(self, path: Path, width: int, height: int, fps: int = 30, crf: int = 23) -> None:
        """Open ``path`` for writing; ``width`` and ``height`` in pixels must be even, as yuv420p halves both."""
        if width % 2 or height % 2:
            raise ValueError(f"yuv420p needs an even width and height, got {width}x{height}; crop or pad one pixel")
        self._container = av.open(str(path), "w", format="mp4")
        # mbtree off: with AVX-512 the x264 in PyAV 18.1 seems to read memory there that nobody set: of 14 encodings of
        # the same 15 frames no two were equal. Without mbtree 120 of 120 were, and so were all without AVX-512.
        options = {"crf": str(crf), "preset": "veryfast", "threads": "1", "mbtree": "0"}
        stream = self._container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        self._stream: VideoStream = stream

    def write(self, rgb: UInt8Array) -> None:
        """Append one frame, uint8 ``(height, width, 3)``, RGB."""
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error_type is None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
