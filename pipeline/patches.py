"""What is remembered of a video's frames until it is known what is to be cut out of them, so that it is decoded once.

The square of a segment depends on all its boxes, some of them still to come. So of every frame the surroundings of the
faces are kept, as wide as memory allows. Where a head moves further than that, its squares aren't covered, and those
frames have to be decoded again: this is about speed alone.
"""

from __future__ import annotations

import bisect
import itertools
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arena import Arena
from pipeline.config import Settings, TrackSettings
from pipeline.crop import crop_squares, window_of
from pipeline.frame import Frame
from pipeline.picture import Picture, Window, on_grain
from pipeline.track import Chain, Linker
from pipeline.types import Float32Array, UInt8Array

WIDEST = 2.2
"""Side of what is kept over the longer side of the box, if there is room. Squares of talking people were 1.2 to 1.6 of
them wide."""
ROOM = 0.75
"""Share of the arena for that: the rest is for frames that wait, and for what lies between the pieces."""
LEAST_MARGIN_PIXELS = 80
"""More than that on each side of a small face, if there is room."""
BGR_BYTES = 3
"""A pixel."""
AHEAD_FRAMES = 30
"""For so long a face is expected to go on as it moved last."""


@dataclass(frozen=True)
class Patch:
    """Part of a frame."""

    picture: Picture
    left: int
    """On a grain of the frame, as ``top`` is."""
    top: int
    timestamp_seconds: float
    """Of the frame."""

    def covers(self, window_xyxy: Sequence[int]) -> bool:
        """Whether a window of the frame lies in it."""
        left, top, right, bottom = window_xyxy
        width, height = self.picture.size
        return self.left <= left and self.top <= top and right <= self.left + width and bottom <= self.top + height

    def bgr_of(self, window_xyxy: Window) -> UInt8Array:
        """A window of the frame that it covers, see :meth:`Picture.window`: uint8 (h, w, 3), BGR, not to be written
        to."""
        left, top, right, bottom = window_xyxy
        inside = left - self.left, top - self.top, right - self.left, bottom - self.top
        return self.picture.window(inside).bgr()


@dataclass(frozen=True)
class _Kept:
    """A copy in the arena."""

    memory: UInt8Array
    """Of the arena's."""
    picture: Picture
    """In that memory."""


@dataclass(frozen=True)
class _Reach:
    """Where a face may be found in a segment that isn't decided."""

    square_xyxy: Float32Array | None
    """float32 (4,): what would be cut out of all frames whose boxes may share a segment with the next one, if it ended
    there; None where squares follow the boxes."""
    ahead: Float32Array
    """float32 (2,): by how much it will have moved on, if it keeps moving as it did last."""


class Patches:
    """Of one video, by face and frame.

    Frames in which faces unknown so far may begin wait until they have been searched, if there is room; in the others
    only the known ones can go on. Where room ends, the oldest frame that waits is left to the known faces, and if none
    waits the oldest patch is forgotten.

    Args:
        width: of the video, pixels.
        height: of the video, pixels.
        settings: of the extraction.
        arena: where everything is kept; it must be used for nothing else, and be empty.
    """

    def __init__(self, width: int, height: int, settings: Settings, arena: Arena) -> None:
        self._frame_size = (width, height)
        self._settings = settings
        self._arena = arena
        self._waiting: deque[tuple[Frame, _Kept]] = deque()
        """Copies of frames."""
        self._first_unsearched = 0
        """No face that isn't followed yet can begin before this frame."""
        self._followed: list[tuple[Chain, _Reach]] = []
        self._patches: OrderedDict[tuple[Chain, int], tuple[Patch, _Kept]] = OrderedDict()
        """By face and frame, the oldest first."""
        self._bytes_per_pixel: float | None = None
        """Of this video's pictures; None until one was seen."""

    def watch(self, frame: Frame) -> None:
        """See a frame; they come in order."""
        if self._bytes_per_pixel is None:
            width, height = self._frame_size
            self._bytes_per_pixel = frame.picture.num_bytes / (width * height)
            # As many pixels, whatever form they come in.
            self._arena.limit(round(self._arena.capacity_bytes * self._bytes_per_pixel / BGR_BYTES))
        is_unsearched = frame.index >= self._first_unsearched
        if is_unsearched and (copy := self._copied(frame.picture, may_frames_go=True)) is not None:
            self._waiting.append((Frame(frame.index, frame.timestamp_seconds, copy.picture), copy))
        else:
            for chain, window in self._windows(frame.index):
                self._keep(chain, frame, window, self._copied(frame.picture.window(window), may_frames_go=True))

    def searched(self, last_index: int, linker: Linker) -> None:
        """Faces are known up to a frame, the newest one there is."""
        detect, track = self._settings.detect, self._settings.track
        first_waiting = self._waiting[0][0].index if self._waiting else last_index + 1
        ended = itertools.takewhile(
            lambda chain: chain.frames[-1] >= first_waiting - track.max_gap_frames, reversed(linker.ended)
        )
        # What was seen once or twice and is gone was hardly a face.
        self._follow(chain for chain in [*linker.followed, *ended] if _is_likely(chain, last_index, track))
        while self._waiting:
            self._leave_to_known_faces()
        self._first_unsearched = last_index + detect.every_n_frames
        self._follow(chain for chain in linker.followed if _is_likely(chain, last_index, track))

    def _follow(self, chains: Iterable[Chain]) -> None:
        """Keep the surroundings of these from now on, or, of a crowd, of those that will most likely be chosen."""
        track = self._settings.track
        best = sorted(chains, key=lambda chain: -chain.mean_score)[: track.max_faces]
        self._followed = [(chain, _reach_of(chain, self._settings)) for chain in best]

    def get(self, chain: Chain, frame_index: int, square_xyxy: Float32Array) -> Patch | None:
        """What covers a face's square in a frame, if that was kept."""
        patch, _ = self._patches.get((chain, frame_index), (None, None))
        if patch is None or not patch.covers(window_of(square_xyxy, *self._frame_size)):
            return None
        return patch

    def forget(self, chain: Chain, frame_start: int, frame_stop: int) -> None:
        """A face isn't needed any more in these frames, half-open."""
        for index in range(frame_start, frame_stop):
            if (kept := self._patches.pop((chain, index), None)) is not None:
                self._arena.give_back(kept[1].memory)

    def forget_all_but(self, chains: Iterable[Chain]) -> None:
        """Nothing but these faces is needed any more."""
        kept = set(chains)
        for chain, index in [key for key in self._patches if key[0] not in kept]:
            self.forget(chain, index, index + 1)

    def forget_all(self) -> None:
        """Nothing is needed any more; the arena is empty again."""
        self._patches.clear()
        self._waiting.clear()
        self._arena.limit(self._arena.capacity_bytes)

    def _copied(self, picture: Picture, may_frames_go: bool) -> _Kept | None:
        """A copy in the arena, for which older things have to go: frames that wait, if they may, and then patches."""
        while (copy := self._copied_beside_all(picture)) is None:
            if may_frames_go and self._waiting:
                self._leave_to_known_faces()
            elif self._patches:
                _, (_, oldest) = self._patches.popitem(last=False)
                self._arena.give_back(oldest.memory)
            else:
                return None
        return copy

    def _copied_beside_all(self, picture: Picture) -> _Kept | None:
        """A copy in the arena, if there is room as it is."""
        memory = self._arena.take(picture.num_bytes)
        return None if memory is None else _Kept(memory, picture.copied(memory))

    def _leave_to_known_faces(self) -> None:
        """The frame that has waited for longest."""
        windows = self._windows(self._waiting[0][0].index)
        frame, whole = self._waiting.popleft()
        left_over = []
        for chain, window in windows:
            picture = frame.picture.window(window)
            if (copy := self._copied_beside_all(picture)) is not None:
                self._keep(chain, frame, window, copy)
            else:  # It may go where the frame is, by way of other memory.
                left_over.append((chain, window, picture.copied(np.empty(picture.num_bytes, np.uint8))))
        self._arena.give_back(whole.memory)
        for chain, window, picture in left_over:
            self._keep(chain, frame, window, self._copied(picture, may_frames_go=False))

    def _keep(self, chain: Chain, frame: Frame, window: Window, copy: _Kept | None) -> None:
        if copy is not None:
            left, top, _, _ = window
            self._patches[chain, frame.index] = Patch(copy.picture, left, top, frame.timestamp_seconds), copy

    def _windows(self, frame_index: int) -> list[tuple[Chain, Window]]:
        """What to keep of a frame."""
        shown = [(chain, reach) for chain, reach in self._followed if chain.frames[0] <= frame_index]
        boxes_xyxy = [chain.box_at(frame_index) for chain, _ in shown]
        sides = [float((box[2:] - box[:2]).max()) for box in boxes_xyxy]
        margin = self._margin(sides)
        windows = []
        for (chain, reach), box_xyxy, side in zip(shown, boxes_xyxy, sides, strict=True):
            # The later in a segment, the less is still to come.
            row = (frame_index - chain.frames[0]) % self._settings.track.segment_frames
            share = 1.5 - row / self._settings.track.segment_frames
            least_side = side + 2 * min(share * margin, max(LEAST_MARGIN_PIXELS, side * (WIDEST - 1) / 2))
            square = reach.square_xyxy
            if square is None:
                square = crop_squares(box_xyxy[None], self._settings.crop)[0]
            window = self._window(square, reach.ahead, least_side)
            if window[0] < window[2] and window[1] < window[3]:
                windows.append((chain, window))
        return windows

    def _margin(self, sides: Sequence[float]) -> float:
        """Pixels on each side of every face that there is room for, if segments are cut as soon as they can be."""
        detect, track = self._settings.detect, self._settings.track
        num_frames = track.segment_frames + track.min_frames + detect.every_n_frames * detect.whole_frame_every
        num_pixels = ROOM * self._arena.num_bytes / ((self._bytes_per_pixel or BGR_BYTES) * num_frames)
        # The sum of (side + 2 margin)^2 is that.
        total, squares = sum(sides), sum(side**2 for side in sides)
        root = total**2 - len(sides) * (squares - num_pixels)
        return max(0.0, (root**0.5 - total) / (2 * len(sides))) if sides and root > 0 else 0.0

    def _window(self, square: Float32Array, ahead: Float32Array, least_side: float) -> Window:
        """A square, xyxy, and what is around it, more where it moves to."""
        margin = max(0.0, (least_side - float(square[2] - square[0])) / 2)
        low = np.floor(square[:2] - margin + np.minimum(ahead, 0)).astype(int)
        high = np.ceil(square[2:] + margin + np.maximum(ahead, 0)).astype(int)
        (left, top), (right, bottom) = np.maximum(low, 0).tolist(), np.minimum(high, self._frame_size).tolist()
        return on_grain((left, top, right, bottom), self._frame_size)


def _is_likely(chain: Chain, last_index: int, settings: TrackSettings) -> bool:
    return chain.frames[-1] == last_index or chain.num_frames >= settings.min_frames


def _reach_of(chain: Chain, settings: Settings) -> _Reach:
    square = None
    if settings.crop.mode == "union":
        oldest = chain.frames[-1] - settings.track.segment_frames - settings.track.min_frames
        boxes_xyxy = np.array(chain.boxes[bisect.bisect_left(chain.frames, oldest) :])
        square = crop_squares(boxes_xyxy, settings.crop)[0]
    recent = chain.frames[-3:]
    velocity = np.zeros(2, np.float32)
    if len(recent) > 1:
        moved = (chain.boxes[-1] - chain.boxes[-len(recent)]).reshape(2, 2).mean(0)
        velocity = moved / (recent[-1] - recent[0])
    return _Reach(square, velocity * AHEAD_FRAMES)
