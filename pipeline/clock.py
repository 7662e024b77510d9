"""Frame indices from presentation times: a hole in them shows how many frames failed to decode. Pure."""

from __future__ import annotations

MAX_GAP_SECONDS = 10.0
"""A longer hole in the timestamps is taken for a jump of the clock, not for frames that failed."""

MAX_FPS = 240.0
"""Faster than the slow motion of phones means a time base in place of a frame rate; screen recorders write 1000."""

GRID_TOLERANCE = 0.25
"""In frame intervals. Containers that round to a millisecond are off by at most 0.12 of one at 240 fps."""


class FrameClock:
    """Frame indices and times from presentation times.

    While a stream keeps to the constant frame rate of its header, frame n is the one shown at ``n / fps`` after the
    first, so that a hole in the times shows how many frames failed to decode.
    The first time off that grid marks the rate as variable (or the header's rate as wrong), and from then on frames
    are simply counted, because a longer wait means nothing there. So does a first step that is not one interval: for
    field rates, twice the frame rate, every step would be a hole.

    Frames left out on purpose from a stream that otherwise keeps to its header's rate (duplicates dropped before
    encoding) can't be told from frames that failed.
    """

    def __init__(self, fps: float) -> None:
        self.fps = fps if 0 < fps <= MAX_FPS else 0.0
        self.is_constant_rate = self.fps > 0
        self.index = -1
        """Of the newest frame; -1 before the first."""
        self.seconds = 0.0
        """Time of the newest frame since the first; never decreases."""
        self._start_seconds = 0.0

    def tick(self, position_seconds: float) -> tuple[int, float]:
        """Index and time since the first frame, of the next frame that decoded.

        Args:
            position_seconds: Its presentation time as the container has it; one that does not increase (OpenCV says 0
                where there is none) is replaced by the previous frame's plus one interval.
        """
        if self.index < 0:
            self.index, self._start_seconds = 0, position_seconds
            return 0, 0.0
        elapsed = position_seconds - self._start_seconds
        step = self._step_on_grid(elapsed) if self.is_constant_rate else None
        self.is_constant_rate = step is not None
        self.index += step or 1
        if elapsed > self.seconds:
            self.seconds = elapsed
        elif self.fps:
            self.seconds += 1 / self.fps
        return self.index, self.seconds

    def _step_on_grid(self, elapsed_seconds: float) -> int | None:
        position = elapsed_seconds * self.fps
        step = round(position) - self.index
        longest = 1 if self.index == 0 else MAX_GAP_SECONDS * self.fps
        on_grid = abs(position - round(position)) <= GRID_TOLERANCE
        return step if on_grid and 1 <= step <= longest else None
