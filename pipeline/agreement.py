"""Whether a fake shows what its original shows, outside the faces: at the same time and in the same place.

The evidence is gathered frame by frame while both are read, so that no video is opened for it. Pure functions of
pictures (see ``compare.py``).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.compare import Cells, Original
from pipeline.types import BoolArray, Float32Array

MAX_SHIFT_FRAMES = 0.5
MIN_SHIFT_EXPLAINED = 0.05
"""Of the squared difference that a shift must explain. At a CRF of 40 x264 lags behind by half a frame in places, which
explains 0.04 at most; a whole frame explains more than 0.05 where things move, down to a CRF of 32."""
MAX_DISPLACEMENT = 1 / 16
"""Of the smallest face's side: a cell, in videos that aren't large beside their faces."""
MIN_EXPLAINED = 0.3
"""Of the squared difference that a displacement must explain, or there is none: compression shifts nothing."""
BLURS_CELLS = (0.0, 1.5)
"""A displacement is found at both sizes of detail, a chance resemblance of noise seldom at both."""
MIN_CORRELATION = 0.95
"""Re-encoded clips, down to a CRF of 40 with x264, are above 0.98, those cropped to nine tenths mostly below 0.9."""
MAX_UNLIKE_DIFFERENCE = 6.0
"""Grey levels: before a plain wall, noise is all there is to correlate."""


class Agreement:
    """Evidence for and against it, of one fake.

    Args:
        face_pixels: side of the smallest face, source pixels.
    """

    def __init__(self, face_pixels: float) -> None:
        self._max_displacement = face_pixels * MAX_DISPLACEMENT
        self._along = self._motion = self._different = 0.0

    def add(self, fake: Cells, original: Cells, slope: Float32Array) -> None:
        """One frame of the fake, and the same of the original.

        What moves in the original says how the fake would differ if it were late or early: least squares for the shift
        in frames. Faces are left in: in many videos nothing else moves, and what was done to one adds nothing that goes
        with its motion.

        Args:
            slope: see :func:`slope`.
        """
        different, along = (fake.bgr - original.bgr).reshape(-1), slope.reshape(-1)
        self._along += float(different @ along)
        self._motion += float(along @ along)
        self._different += float(different @ different)

    def objection_in_time(self) -> str | None:
        """What the frames added since the last call say against it."""
        along, motion, different = self._along, self._motion, self._different
        self._along = self._motion = self._different = 0.0
        is_shifted = abs(along) > MAX_SHIFT_FRAMES * motion and along**2 > MIN_SHIFT_EXPLAINED * motion * different
        return "it is shifted in time against its original" if is_shifted else None

    def objection_in_space(self, fake: Cells, original: Original) -> str | None:
        """What one frame says against it."""
        if not original.has_background:
            return None
        cells, background = original.cells, original.background
        if correlation(fake, cells, background) < MIN_CORRELATION and (
            float(np.abs(fake.bgr - cells.bgr)[background].mean()) > MAX_UNLIKE_DIFFERENCE
        ):
            return "outside the faces it shows something else than its original"
        moved_pixels = min(displacement_pixels(cells, fake, background, blur) for blur in BLURS_CELLS)
        if moved_pixels > self._max_displacement:
            return f"it is cropped, scaled or moved against its original, by some {moved_pixels:.0f} pixels"
        return None


def slope(before: Cells, after: Cells) -> Float32Array:
    """How a frame changes in time, grey levels a frame, float32 (h, w, 3), from its neighbours: so it doesn't share the
    noise of the frame itself."""
    return np.asarray((after.bgr - before.bgr) / 2, np.float32)


def correlation(a: Cells, b: Cells, where: BoolArray) -> float:
    """Pearson's, of the cells in some places: not moved by a change of light. Two flat pictures are alike (1)."""
    x, y = (cells.bgr[where] - cells.bgr[where].mean(axis=0) for cells in (a, b))
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / norm) if norm > 0 else 1.0


def displacement_pixels(original: Cells, fake: Cells, where: BoolArray, blur_cells: float) -> float:
    """How far the content of a picture was moved, at nine tenths of some places at most; source pixels.

    Least squares for an affine motion and a change of brightness and contrast, linear in the motion: Lucas and Kanade,
    "An iterative image registration technique", 1981.

    Args:
        original: the picture as it was.
        fake: the picture as it is.
        where: bool (h, w), the cells to look at.
        blur_cells: standard deviation of the blur that goes before; 0: none.

    Returns:
        0.0 where a motion doesn't explain the difference.
    """
    before, after = (_grey(cells, blur_cells) for cells in (original, fake))
    if min(before.shape) < 2:  # A strip of single cells has no gradient across.
        return 0.0
    mean = (before + after) / 2
    gradient_y, gradient_x = np.gradient(mean, axis=0), np.gradient(mean, axis=1)
    y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in before.shape), indexing="ij")
    gradient_x, gradient_y, x, y = (grid[where] for grid in (gradient_x, gradient_y, x, y))
    light = np.stack([before[where], np.ones_like(x)])
    motion = [gradient_x, gradient_y, x * gradient_x, y * gradient_x, x * gradient_y, y * gradient_y]
    different = after[where] - before[where]
    _, unmoved = _least_squares(light, different)
    found, moved = _least_squares(np.stack([*motion, *light]), different)
    if unmoved <= 0 or moved > (1 - MIN_EXPLAINED) * unmoved:
        return 0.0
    shift_x = (found[0] + found[2] * x + found[3] * y) * original.side_pixels
    shift_y = (found[1] + found[4] * x + found[5] * y) * original.side_pixels
    return float(np.quantile(np.hypot(shift_x, shift_y), 0.9))


def _grey(cells: Cells, blur_cells: float) -> NDArray[np.float64]:
    grey = cv2.transform(cells.bgr, np.full((1, 3), 1 / 3)).astype(np.float64)
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), blur_cells) if blur_cells else grey)


def _least_squares(rows: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Coefficients of the rows, (k, n), that give the values, (n,), and the sum of squares that is left."""
    # By the normal equations: a tenth of the time, and rows that depend on each other are no error here, either.
    found, *_ = np.linalg.lstsq(rows @ rows.T, rows @ values)
    return np.asarray(found, np.float64), float(np.square(values - found @ rows).sum())
