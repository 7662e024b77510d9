"""Tracks as figures: boxes and landmarks on frames of the video, and how a face changes over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from pipeline.figures.figure import (
    INK,
    INTERPOLATED_COLOUR,
    INTERPOLATED_DASHES,
    OBSERVED_COLOUR,
    SMALL,
    WIDTH_INCHES,
    Float64Array,
    NotebookFigure,
    Timeline,
    checked,
    checked_frames,
    halo,
    legend_above,
    no_axes,
    plain_axes,
    set_title,
)
from pipeline.types import BoolArray, UInt8Array

MotionUnit = Literal["faces", "pixels"]

_MOST_INCHES, _MOST_INCHES_OF_MANY = 4.2, 3.0
"""Height of a frame at most: tall ones are not to fill the screen."""
_TITLE, _LEGEND, _GAP = 0.26, 0.3, 0.06
"""Inches."""


def boxes_on_frame(
    frame: UInt8Array,
    boxes_xyxy: ArrayLike,
    landmarks: ArrayLike | None = None,
    observed: ArrayLike | None = None,
    title: str | None = None,
) -> NotebookFigure:
    """All faces of one frame.

    Args:
        frame: uint8 (H, W, 3), RGB.
        boxes_xyxy: float (K, 4), pixels of the frame.
        landmarks: float (K, 5, 2), xy, pixels of the frame.
        observed: bool (K,): detected in this frame, or interpolated; all detected by default.
        title: above the frame.

    Raises:
        ValueError: an array has another shape or type.
    """
    (picture,) = checked_frames("frame[None]", np.asarray(frame)[None])
    boxes = checked("boxes_xyxy", boxes_xyxy, (None, 4)).astype(float)
    points, seen = _of_boxes(len(boxes), landmarks, observed)
    shape = picture.shape[1] / picture.shape[0]
    height = min(_MOST_INCHES, (WIDTH_INCHES - 2 * _GAP) / shape)
    top = _TITLE if title else _GAP
    figure = NotebookFigure(top + height + _LEGEND, height * shape + 2 * _GAP)
    axes = figure.place(_GAP, top, height * shape, height)
    _show(axes, picture, title)
    for box, of_face, is_seen in zip(boxes, points, seen, strict=True):
        _draw_face(axes, box, of_face, bool(is_seen))
    _name_kinds(figure, seen)
    return figure


def boxes_on_frames(
    frames: UInt8Array,
    boxes_xyxy: ArrayLike,
    landmarks: ArrayLike | None = None,
    observed: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    num_columns: int = 4,
) -> NotebookFigure:
    """One face in some frames of its video.

    Args:
        frames: uint8 (N, H, W, 3), RGB.
        boxes_xyxy: float (N, 4), pixels of the frames, one a frame.
        landmarks: float (N, 5, 2), xy, pixels of the frames.
        observed: bool (N,): detected in this frame, or interpolated; all detected by default.
        titles: N of them, such as ``frame 30``.
        num_columns: frames in a row at most.

    Raises:
        ValueError: an array has another shape or type.
    """
    frames = checked_frames("frames", frames)
    num_frames, height, width, _ = frames.shape
    boxes = checked("boxes_xyxy", boxes_xyxy, (num_frames, 4)).astype(float)
    points, seen = _of_boxes(num_frames, landmarks, observed)
    names = [None] * num_frames if titles is None else checked("titles", list(titles), (num_frames,)).tolist()
    columns = max(1, min(num_columns, num_frames))
    rows = -(-num_frames // columns)
    top = _TITLE if titles is not None else _GAP
    each_height = min(_MOST_INCHES_OF_MANY, ((WIDTH_INCHES - _GAP) / columns - _GAP) * height / width)
    each_width = each_height * width / height
    figure = NotebookFigure(rows * (top + each_height) + _LEGEND, columns * (each_width + _GAP) + _GAP)
    for number, (frame, box, of_face, is_seen, name) in enumerate(zip(frames, boxes, points, seen, names, strict=True)):
        row, column = divmod(number, columns)
        at = _GAP + column * (each_width + _GAP), top + row * (top + each_height)
        axes = figure.place(*at, each_width, each_height)
        _show(axes, frame, name)
        _draw_face(axes, box, of_face, bool(is_seen))
    _name_kinds(figure, seen)
    return figure


def track_over_time(
    timestamps_seconds: ArrayLike,
    boxes_xyxy: ArrayLike,
    scores: ArrayLike,
    observed: ArrayLike,
    motion_unit: MotionUnit = "faces",
    title: str | None = None,
) -> NotebookFigure:
    """A face's size, how sure the detector was of it, and how fast it moved.

    Args:
        timestamps_seconds: float (T,), ascending.
        boxes_xyxy: float (T, 4), source pixels.
        scores: float (T,) in [0, 1], probability of a face.
        observed: bool (T,): detected in this frame, or interpolated.
        motion_unit: speed of the box's centre in sizes of the face a second, or in pixels a frame.
        title: above all.

    Raises:
        ValueError: an array has another shape.
    """
    boxes = checked("boxes_xyxy", boxes_xyxy, (None, 4)).astype(np.float64)
    if not len(boxes):
        raise ValueError("boxes_xyxy has no frames; a track has one at least")
    timeline = Timeline.of(len(boxes), timestamps_seconds)
    seen: BoolArray = checked("observed", observed, (len(boxes),)).astype(bool)
    certainty = checked("scores", scores, (len(boxes),)).astype(np.float64)
    sizes = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    figure = NotebookFigure(4.2, layout="constrained")
    size_axes, score_axes, motion_axes = figure.subplots(3, 1, sharex=True)
    for axes, values in ((size_axes, sizes), (score_axes, certainty)):
        plain_axes(axes)
        axes.plot(
            timeline.starts, values, color=INTERPOLATED_COLOUR, linewidth=1.2, linestyle=INTERPOLATED_DASHES,
            label=f"interpolated ({(~seen).sum()})",
        )  # fmt: skip
        axes.plot(
            timeline.starts[seen], values[seen], "o", color=OBSERVED_COLOUR, markersize=4, clip_on=False, zorder=3,
            label=f"observed ({seen.sum()})",
        )  # fmt: skip
    size_axes.set_ylabel("face size, px")
    _room_around(size_axes, sizes)
    score_axes.set_ylabel("detection score")
    score_axes.set_ylim(min(0.9, np.nanmin(certainty) - 0.02), 1.01)
    plain_axes(motion_axes)
    motion_axes.stairs(motion(timeline, boxes, sizes, motion_unit), timeline.starts, color=INK, baseline=None)
    motion_axes.set_ylim(bottom=0)
    motion_axes.set_ylabel("motion, faces/s" if motion_unit == "faces" else "motion, px/frame")
    motion_axes.set_xlabel(timeline.label)
    set_title(size_axes, title)
    legend_above(size_axes)
    figure.align_ylabels()
    return figure


def motion(timeline: Timeline, boxes_xyxy: Float64Array, sizes: Float64Array, unit: MotionUnit) -> Float64Array:
    """Speed of the box's centre from each frame to the next.

    Returns:
        float64 (T - 1,); NaN where two frames have the same time.
    """
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    steps: Float64Array = np.hypot(*np.diff(centres, axis=0).T)
    if unit == "pixels":
        return steps
    seconds = np.diff(timeline.starts)
    between = (sizes[1:] + sizes[:-1]) / 2
    speed: Float64Array = np.divide(steps, seconds * between, out=np.full(len(steps), np.nan), where=seconds > 0)
    return speed


def _of_boxes(
    num_boxes: int, landmarks: ArrayLike | None, observed: ArrayLike | None
) -> tuple[NDArray[np.float64], BoolArray]:
    """Landmarks, none of them by default, and whether boxes are observed."""
    points = np.zeros((num_boxes, 0, 2))
    if landmarks is not None:
        points = checked("landmarks", landmarks, (num_boxes, 5, 2)).astype(np.float64)
    seen = np.ones(num_boxes, bool)
    if observed is not None:
        seen = checked("observed", observed, (num_boxes,)).astype(bool)
    return points, seen


def _show(axes: Axes, frame: UInt8Array, title: str | None) -> None:
    no_axes(axes)
    axes.imshow(frame, extent=(0, frame.shape[1], frame.shape[0], 0), aspect="auto")
    # Boxes may reach beyond the frame; the picture stays as large as it is.
    axes.set(xlim=(0, frame.shape[1]), ylim=(frame.shape[0], 0))
    set_title(axes, title)


def _draw_face(axes: Axes, box_xyxy: Float64Array, points: Float64Array, is_observed: bool) -> None:
    x1, y1, x2, y2 = box_xyxy
    colour = OBSERVED_COLOUR if is_observed else INTERPOLATED_COLOUR
    outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.8)
    outline.set_linestyle("-" if is_observed else INTERPOLATED_DASHES)
    outline.set_path_effects(halo(3.2))
    axes.add_patch(outline)
    axes.plot(
        points[:, 0], points[:, 1], "o" if is_observed else "D", color=colour, markersize=4 if is_observed else 3.4,
        markeredgecolor="white", markeredgewidth=0.7,
    )  # fmt: skip


def _name_kinds(figure: NotebookFigure, observed: BoolArray) -> None:
    """A legend of the kinds of boxes there are."""
    kinds = (
        (True, "observed", OBSERVED_COLOUR, "-", "o"),
        (False, "interpolated", INTERPOLATED_COLOUR, INTERPOLATED_DASHES, "D"),
    )
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=1.8, marker=mark, markersize=4, label=name)  # type: ignore[arg-type]
        for kind, name, colour, dashes, mark in kinds
        if (observed == kind).any()
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower right",
            ncols=2,
            frameon=False,
            fontsize=SMALL,
            labelcolor=INK,
            handlelength=3.2,
        )


def _room_around(axes: Axes, values: Float64Array) -> None:
    """A scale on which a face that stays as large as it is looks like that: of 20 % of its size at least."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = max(0.15 * (high - low), 0.1 * high - (high - low) / 2, 1.0)
    axes.set_ylim(max(0.0, low - room), high + room)
