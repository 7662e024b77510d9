"""A fake against its original, frame by frame: are they the same picture outside the faces, and which face was changed?

Pictures are compared as means over square cells, some sixteen to a face: compression changes single pixels a lot and
means over many of them little, what was done to a face changes both. How much compression changes a cell is measured
where nothing else was done, outside the faces of the same frame. Pure functions of pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import BoolArray, Float32Array, UInt8Array

CELLS_PER_FACE = 16
"""Along the side of the smallest face of a video, if neither its pixels nor MAX_CELLS are too few."""
MAX_CELLS = 2**14
"""Of a frame: 170 x 96."""
SAMPLED_CELL_PIXELS = 8
"""Cells from this side on are means of four pixels in each of four places, smaller ones of all their pixels: averaging
all of a 1080p frame takes ten times as long and says little more."""

FACE_MARGIN = 0.5
"""Of a face's sides, on each side: fakes reach a little beyond the box, so what is nearer is no background."""
MIN_BACKGROUND_CELLS = 64
"""With fewer, nothing can be said of the background."""
MAX_NOISE_CELLS = 1024
"""Of the background; more say no more."""
MIN_NOISE = 1.0
"""Grey levels: rounding alone makes half of one."""
NOISE_BINS = 6
NOISE_QUANTILE = 0.75
MAX_RECOLOURED = 1.0
"""What a change of all colours explains of the background's difference, over the rest and a grey level for rounding: of
re-encoded clips, down to a CRF of 46, up to 0.85; from 2.7 for grey and for brighter ones. As root mean squares."""
SCORE_QUANTILE = 0.9
"""A tenth of the face changed is a changed face: a mouth alone."""

PIXEL_STEP = 8
PIXEL_NOISE_QUANTILE = 0.95
MASK_BLUR_PIXELS = 5


@dataclass(frozen=True)
class Cells:
    """A frame as means over square cells."""

    bgr: Float32Array
    """float32 ``(h, w, 3)``, BGR in [0, 255]."""
    side_pixels: int
    """Of a cell, source pixels."""

    def inside(self, box_xyxy: Float32Array, margin: float = 0.0) -> tuple[slice, slice]:
        """Rows and columns of the cells that a box meets.

        Args:
            box_xyxy: float32 (4,), source pixels.
            margin: by which it is widened on each side, as a share of that side.
        """
        x1, y1, x2, y2 = (float(v) for v in box_xyxy)
        height, width = self.bgr.shape[:2]
        return (
            _span(y1, y2, margin, self.side_pixels, height),
            _span(x1, x2, margin, self.side_pixels, width),
        )

    def outside(self, boxes_xyxy: Float32Array) -> BoolArray:
        """Which cells are far from all of these boxes, float32 (N, 4), source pixels: bool (h, w)."""
        mask = np.ones(self.bgr.shape[:2], bool)
        for box in boxes_xyxy:
            mask[self.inside(box, FACE_MARGIN)] = False
        return mask


def _span(low: float, high: float, margin: float, side_pixels: int, num_cells: int) -> slice:
    extra = margin * (high - low)
    start = int(np.floor((low - extra) / side_pixels))
    stop = int(np.ceil((high + extra) / side_pixels))
    return slice(min(max(start, 0), num_cells), min(max(stop, 0), num_cells))


def cell_pixels(width: int, height: int, face_pixels: float) -> float:
    """Side of the cells for a video of this size whose smallest face has that side, pixels."""
    return max(face_pixels / CELLS_PER_FACE, 1.0, float(np.sqrt(width * height / MAX_CELLS)))


def cells_of(bgr: UInt8Array, side_pixels: float) -> Cells:
    """The cells of a frame, uint8 (H, W, 3) BGR, of about that side; what is left over at its right and bottom, less
    than a cell, is in none."""
    side = round(side_pixels) if side_pixels < SAMPLED_CELL_PIXELS else 4 * round(side_pixels / 4)
    height, width = (max(1, size // side) for size in bgr.shape[:2])
    means = bgr[: height * side, : width * side]
    if side % 4 == 0:
        # Of each quarter the four pixels in its middle; where a cell has sixteen, that is all of them.
        means = cv2.resize(means, (2 * width, 2 * height), interpolation=cv2.INTER_LINEAR)
    means = cv2.resize(means, (width, height), interpolation=cv2.INTER_AREA)
    return Cells(np.asarray(means, np.float32), side)


class Original:
    """A frame of an original, ready for fakes to be compared with it.

    Args:
        cells: of the frame.
        boxes_xyxy: float32 (N, 4), all of its faces, source pixels.
    """

    def __init__(self, cells: Cells, boxes_xyxy: Float32Array) -> None:
        self.cells = cells
        self.boxes_xyxy = boxes_xyxy
        self.background = cells.outside(boxes_xyxy)
        self.has_background = bool(np.count_nonzero(self.background) >= MIN_BACKGROUND_CELLS)
        self._active = activity(cells)
        places = np.flatnonzero(self.background)
        places = places[:: -(-len(places) // MAX_NOISE_CELLS) or 1]
        places = places[: len(places) // NOISE_BINS * NOISE_BINS]
        active = self._active.reshape(-1)
        self._places = places[np.argsort(active[places], kind="stable")].reshape(NOISE_BINS, -1)
        """Cells of the background, (NOISE_BINS, n), by how active they are."""
        self._colours = self._background_of(cells)
        basis, _ = np.linalg.qr(np.column_stack([self._colours, np.ones(len(self._colours), np.float32)]))
        self._recolourings = np.ascontiguousarray(basis.T)
        """Orthonormal, (4, NOISE_BINS * n): what all affine changes of colour are made of."""
        self._activities = active[self._places].mean(axis=1) if self.has_background else np.zeros(NOISE_BINS)

    def noise(self, fake: Cells) -> Noise | None:
        """What compression did to a fake of this frame; None where that can't be told: there is too little background,
        or all colours were changed."""
        if not self.has_background:
            return None
        different = self._background_of(fake) - self._colours
        if self._is_recoloured(different):
            return None
        levels = _quantile(_largest_channel(np.abs(different)).reshape(NOISE_BINS, -1), NOISE_QUANTILE)
        return Noise(self._activities, np.maximum.accumulate(np.maximum(levels, MIN_NOISE)))

    def _background_of(self, cells: Cells) -> Float32Array:
        """Float32 (NOISE_BINS * n, 3), by how active it is."""
        return cells.bgr.reshape(-1, 3).take(self._places.reshape(-1), axis=0)

    def _is_recoloured(self, different: Float32Array) -> bool:
        explained = self._recolourings @ different
        explained_square = float(np.vdot(explained, explained)) / different.size
        rest_square = max(float(np.vdot(different, different)) / different.size - explained_square, 0.0)
        return math.sqrt(explained_square) > MAX_RECOLOURED * (math.sqrt(rest_square) + 1)

    def change_score(self, fake: Cells, noise: Noise | None, box_xyxy: Float32Array) -> float:
        """How far a face, float32 (4,), was changed, in units of what compression does to such cells.

        Up to about 1 is compression. NaN where it can't be told.
        """
        face = self.cells.inside(box_xyxy)
        different = fake.bgr[face] - self.cells.bgr[face]
        if noise is None or not different.size:
            return float("nan")
        ratios = different / noise.expected(self._active[face])[..., None]
        # Signed: what compression does to neighbours cancels out, what was done to a face doesn't.
        smooth = np.abs(cv2.blur(ratios, (3, 3))).reshape(*ratios.shape)
        return float(_quantile(_largest_channel(smooth).reshape(-1), SCORE_QUANTILE))


@dataclass(frozen=True)
class Noise:
    """The difference that compression alone makes in a cell, by its activity; learnt from the background of a frame."""

    activities: NDArray[np.float64]
    """float64 (NOISE_BINS,), ascending; grey levels, see :func:`activity`."""
    levels: NDArray[np.float64]
    """float64 (NOISE_BINS,), ascending; grey levels."""

    def expected(self, active: Float32Array) -> Float32Array:
        """Of cells with such activity, grey levels: float32, as many."""
        # Beyond the most active background: in proportion.
        beyond = np.maximum(active / max(float(self.activities[-1]), 1.0), 1.0)
        return np.asarray(np.interp(active, self.activities, self.levels) * beyond, np.float32)


def _quantile(values: Float32Array, share: float) -> Float32Array:
    """Along the last axis the value that so many are below; ten times as fast as numpy's, which lies between two."""
    rank = int(share * (values.shape[-1] - 1) + 0.5)
    return np.asarray(np.partition(values, rank, axis=-1)[..., rank])


def _largest_channel(values: Float32Array) -> Float32Array:
    """Float32 (..., 3) -> (...), a tenth of the time of numpy's maximum along so short an axis."""
    return np.asarray(np.maximum(np.maximum(values[..., 0], values[..., 1]), values[..., 2]))


def activity(cells: Cells) -> Float32Array:
    """How much a picture varies around each cell, grey levels, float32 (h, w): compression smears what varies."""
    kernel = np.ones((3, 3), np.uint8)
    return _largest_channel(cv2.dilate(cells.bgr, kernel) - cv2.erode(cells.bgr, kernel))


def track_score(scores: Float32Array) -> float | None:
    """Of a whole track, from the scores of its frames, float32 (T,): their median; None where it can't be told."""
    known = scores[np.isfinite(scores)]
    # As it is stored, so that what follows from it can be checked.
    return float(np.float32(np.median(known))) if 2 * len(known) > len(scores) else None


def pixel_sample(bgr: UInt8Array) -> UInt8Array:
    """Every eighth pixel of every eighth row of a frame, uint8 (H, W, 3)."""
    return np.ascontiguousarray(bgr[::PIXEL_STEP, ::PIXEL_STEP])


def pixel_noise(original: UInt8Array, fake: UInt8Array, boxes_xyxy: Float32Array) -> float:
    """How far pixels differ where nothing but compression made a difference, all but a twentieth of them; grey levels.

    Args:
        original: its :func:`pixel_sample`.
        fake: of the same size.
        boxes_xyxy: float32 (N, 4), all faces of the frame, source pixels.
    """
    different = cv2.absdiff(original, fake).max(axis=2)
    background = Cells(np.asarray(original, np.float32), PIXEL_STEP).outside(boxes_xyxy)
    return float(np.quantile(different[background], PIXEL_NOISE_QUANTILE)) if background.any() else 0.0


def change_mask(original: UInt8Array, fake: UInt8Array, noise: float) -> UInt8Array:
    """How far a face differs beyond noise, pixel by pixel: uint8 (S, S), grey levels, the largest of the channels.

    Args:
        original: uint8 (S, S, 3).
        fake: likewise, channels in the same order.
        noise: grey levels.
    """
    # Signed and a little blurred, as for the score: the speckle that compression leaves along edges cancels out.
    different = cv2.blur(fake.astype(np.float32) - original, (MASK_BLUR_PIXELS, MASK_BLUR_PIXELS))
    return np.asarray(np.clip(_largest_channel(np.abs(different)) - noise, 0, 255), np.uint8)
