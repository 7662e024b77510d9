"""A batch of clips before and after CutMix, as a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from pipeline.figures.figure import (
    FAKE_COLOUR,
    REAL_COLOUR,
    SMALL,
    UNKNOWN_COLOUR,
    WIDTH_INCHES,
    Float64Array,
    Int64Array,
    NotebookFigure,
    Timeline,
    checked,
    checked_frames,
    halo,
    plain_text,
)
from pipeline.figures.strip import (
    EDGE,
    TITLE,
    draw_strip,
    strip_inches,
    tile,
)
from pipeline.types import FAKE, REAL, UInt8Array

_LABELS = {REAL: (", REAL", REAL_COLOUR), FAKE: (", FAKE", FAKE_COLOUR)}
_NO_LABEL = ("", UNKNOWN_COLOUR)
_GUTTER = 0.3
"""Inches between before and after."""


def cutmix_examples(
    clips: UInt8Array,
    mixed: UInt8Array,
    lambdas: ArrayLike,
    labels: Sequence[int | None] | None = None,
    donors: Sequence[int] | None = None,
    starts: ArrayLike | None = None,
    stops: ArrayLike | None = None,
    num_shown: int = 6,
) -> NotebookFigure:
    """A batch before and after CutMix, a row a clip.

    Args:
        clips: uint8 (B, T, H, W, 3), RGB: the batch as it was.
        mixed: likewise: what became of it.
        lambdas: float (B,), in [0, 1]: the share that each clip keeps of itself.
        labels: 0 REAL, 1 FAKE or None, B of them.
        donors: which clip of the batch gave each its box, B of them.
        starts: int (B, 3): first frame, row and column of each box; outlined where it is given.
        stops: int (B, 3): one past the last.
        num_shown: pictures of a clip at most.

    Raises:
        ValueError: an array has another shape or type.
    """
    clips, mixed = np.asarray(clips), np.asarray(mixed)
    if clips.ndim != 5 or 0 in clips.shape or clips.shape != mixed.shape:
        raise ValueError(
            f"clips and mixed must both be uint8 (B, T, H, W, 3), not {clips.shape} and {mixed.shape}; "
            "a tensor (B, 3, T, H, W) is tensor.permute(0, 2, 3, 4, 1)"
        )
    num_clips = len(clips)
    shares = checked("lambdas", lambdas, (num_clips,)).astype(float)
    of_box = None
    if starts is not None and stops is not None:
        of_box = np.stack([checked(n, v, (num_clips, 3)) for n, v in (("starts", starts), ("stops", stops))], axis=1)
    classes: Sequence[int | None] = [None] * num_clips if labels is None else labels
    checked("labels", [str(label) for label in classes], (num_clips,))
    givers = None if donors is None else checked("donors", donors, (num_clips,)).astype(int)
    timeline = Timeline.of(clips.shape[1])
    edges, shown = timeline.slices(num_shown)
    width = (WIDTH_INCHES - 2 * EDGE - _GUTTER) / 2
    height = strip_inches(clips[0], len(shown), width)
    figure = NotebookFigure((TITLE + height) * num_clips + EDGE)
    for number in range(num_clips):
        top = (TITLE + height) * number + TITLE
        before, after = (figure.place(EDGE + i * (width + _GUTTER), top, width, height) for i in range(2))
        own = _class_of(classes[number])
        giver = None if givers is None else givers[number]
        of_giver = own if giver is None else _class_of(classes[giver])
        for axes, batch in ((before, clips), (after, mixed)):
            draw_strip(axes, checked_frames("clips and mixed", batch[number])[shown], edges)
        plain_text(before.set_title(f"clip {number}{own[0]}", loc="left", fontsize=SMALL, color=own[1]))
        share, text = shares[number], "as it was"
        if giver is None:
            text = f"λ = {share:.2f}"
        elif giver != number:
            text = f"λ = {share:.2f} of itself, {1 - share:.2f} of clip {giver}{of_giver[0]}"
        plain_text(after.set_title(text, loc="left", fontsize=SMALL, color=of_giver[1]))
        if of_box is not None and giver != number:
            _outline(after, of_box[number], shown, edges, clips.shape[2:4], of_giver[1])
    return figure


def _class_of(label: int | None) -> tuple[str, str]:
    """How a clip of that label is called, behind its number, and its colour."""
    return _LABELS.get(label, _NO_LABEL) if label is not None else _NO_LABEL


def _outline(
    axes: Axes, box: Int64Array, shown: Int64Array, edges: Float64Array, size: tuple[int, ...], colour: str
) -> None:
    """The box that was pasted, int (2, 3) of first and last frame, row and column, in the frames that show it."""
    (frame_start, top, left), (frame_stop, bottom, right) = box / np.array([1, *size])
    for number, frame in enumerate(shown):
        if frame_start <= frame < frame_stop and right > left and bottom > top:
            x, x_stop = tile(edges, number)
            width = x_stop - x
            outline = Rectangle(
                (x + left * width, 1 - bottom), (right - left) * width, bottom - top, fill=False, edgecolor=colour,
                linewidth=1.3, path_effects=halo(2.4, "white"),
            )  # fmt: skip
            axes.add_patch(outline)
