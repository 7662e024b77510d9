"""What all figures of :mod:`pipeline.viz` share: how they look and show themselves, and what arrays must be like."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

from pipeline.cli import printable
from pipeline.types import UInt8Array

Float64Array = NDArray[np.float64]
Int64Array = NDArray[np.int64]

WIDTH_INCHES = 10.0
DPI = 100
SMALL, MEDIUM = 8.0, 9.5
"""Sizes of letters, points."""
_MAX_TITLE = 80
INK, FAINT = "0.25", "0.8"

# All tell apart for any kind of colour blindness: REAL and FAKE as in the pictures of an evaluation, the others from
# Okabe and Ito, https://jfly.uni-koeln.de/color/.
REAL_COLOUR, FAKE_COLOUR, UNKNOWN_COLOUR = "#3b75af", "#d1662a", "0.4"
OBSERVED_COLOUR, INTERPOLATED_COLOUR = "#009e73", "#e69f00"
LINE_COLOURS = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#0072b2", "#000000")
INTERPOLATED_DASHES = (0, (3, 1.5))


class NotebookFigure(Figure):
    """A figure that a notebook shows when it is the last expression of a cell, whether or not it knows matplotlib.

    It is in no window and no list of open figures, so nothing has to be closed.
    """

    def __init__(
        self, height_inches: float, width_inches: float = WIDTH_INCHES, layout: Literal["constrained"] | None = None
    ) -> None:
        super().__init__(figsize=(width_inches, height_inches), dpi=DPI, layout=layout, facecolor="white")

    def place(self, left: float, top: float, width: float, height: float, beside: Axes | None = None) -> Axes:
        """New axes at an exact place, so that pictures keep their shape and lie right above what is drawn below them.

        Args:
            left: inches from the figure's left edge.
            top: inches from its top edge.
            width: inches.
            height: inches.
            beside: axes that share the x axis.
        """
        figure_width, figure_height = self.get_size_inches()
        bottom = figure_height - top - height
        place = (left / figure_width, bottom / figure_height, width / figure_width, height / figure_height)
        return self.add_axes(place, sharex=beside)

    def draw(self, renderer: Any) -> None:
        with warnings.catch_warnings():
            # A name in a script that the font lacks is drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            super().draw(renderer)

    def to_png(self) -> bytes:
        """The figure as a PNG; the same figure gives the same bytes."""
        buffer = io.BytesIO()
        # Matplotlib would put its version in.
        self.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.to_png()


@dataclass(frozen=True)
class Timeline:
    """Where the T frames of a clip lie on an axis, and which of them stand for it in a strip of pictures."""

    starts: Float64Array
    """float64 (T,): when each frame is first shown, ascending."""
    stop: float
    """When the last one has been shown."""
    unit: Literal["s", "frames"]

    @classmethod
    def of(cls, num_frames: int, timestamps_seconds: ArrayLike | None = None) -> Timeline:
        """By presentation times, or without them by number of frame.

        Raises:
            ValueError: the times aren't as many as the frames, or don't ascend.
        """
        if timestamps_seconds is None:
            return cls(np.arange(num_frames, dtype=np.float64), float(num_frames), "frames")
        starts = checked("timestamps_seconds", timestamps_seconds, (num_frames,)).astype(np.float64)
        steps = np.diff(starts)
        if not np.isfinite(starts).all() or (steps < 0).any():
            raise ValueError("timestamps_seconds must be finite and ascend: give those of the frames, in their order")
        usual = float(np.median(steps)) if len(steps) else 0.0
        return cls(starts, float(starts[-1]) + (usual or 1.0), "s")

    @property
    def label(self) -> str:
        return "seconds" if self.unit == "s" else "frame"

    def text(self, row: int) -> str:
        """When a frame is shown, for a person."""
        return f"{self.starts[row]:.2f} s" if self.unit == "s" else f"{row}"

    def slices(self, num_shown: int) -> tuple[Float64Array, Int64Array]:
        """The clip in equally long parts, and the frame in the middle of each.

        Args:
            num_shown: N, at least 1; of a clip with fewer frames as many as it has.

        Returns:
            float64 (N + 1,), edges; int64 (N,), frames.
        """
        if num_shown < 1:
            raise ValueError(f"num_shown={num_shown}: at least one frame is to be shown")
        edges = np.linspace(self.starts[0], self.stop, min(num_shown, len(self.starts)) + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        return edges, (np.searchsorted(self.starts, middles, "right") - 1).astype(np.int64)


def checked(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An array of that shape; None stands for any length.

    Raises:
        ValueError: it has another one.
    """
    array = np.asarray(values)
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name} must have the shape ({wanted}{',' * (len(shape) == 1)}), not {array.shape}")
    return array


def checked_frames(name: str, frames: ArrayLike) -> UInt8Array:
    """A clip as all figures take it: uint8 (T, H, W, 3), RGB, T at least 1.

    Raises:
        ValueError: it is something else.
    """
    array = np.asarray(frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"{name} must be uint8 (T, H, W, 3), RGB, with at least one frame, not {array.dtype} {array.shape}; "
            "FaceStore.frames gives such clips, one frame is frame[None], and a tensor (3, T, H, W) "
            "tensor.permute(1, 2, 3, 0)"
        )
    return array


def plain_axes(axes: Axes) -> None:
    """A chart with two thin lines for a frame and small, few ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(linewidth=0.6, color=INK)
    axes.tick_params(labelsize=SMALL, length=2.5, width=0.6, color=INK, labelcolor=INK)
    axes.xaxis.label.set(fontsize=SMALL, color=INK)
    axes.yaxis.label.set(fontsize=SMALL, color=INK)
    axes.margins(x=0)


def no_axes(axes: Axes) -> None:
    """Only what is drawn in it."""
    axes.spines[:].set_visible(False)
    axes.tick_params(left=False, bottom=False, labelleft=False, labelbottom=False)


def set_title(axes: Axes, title: str | None) -> None:
    """What is shown, at the left above it; from outside, so a ``$`` is no formula and control characters are shown."""
    if title:
        plain_text(axes.set_title(shortened(title, _MAX_TITLE), loc="left", fontsize=MEDIUM, color=INK))


def shortened(name: str, most: int) -> str:
    """The end of a name from outside, where it is too long to be shown whole."""
    name = printable(name)
    return name if len(name) <= most else "..." + name[-most:]


def plain_text(text: Text) -> Text:
    """A text without formulas in it."""
    text.set_parse_math(False)
    return text


def legend_above(axes: Axes, lines: Sequence[Line2D] | None = None) -> None:
    """The names of what is drawn, or of these lines, in one row at the right above it."""
    found = axes.get_legend_handles_labels()[0] if lines is None else list(lines)
    if not found:
        return
    # Named afterwards, since matplotlib leaves out names that begin with an underscore.
    legend = axes.legend(
        found, ["name"] * len(found), loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, frameon=False,
        fontsize=SMALL, labelcolor=INK, columnspacing=1.4, handletextpad=0.6, ncols=6,
    )  # fmt: skip
    for text, line in zip(legend.get_texts(), found, strict=True):
        text.set_text(str(line.get_label()))
        plain_text(text)


def halo(width: float = 2.2, colour: str = "black") -> list[AbstractPathEffect]:
    """Makes a line or a text stand out from any picture below it."""
    return [withStroke(linewidth=width, foreground=colour, alpha=0.65)]
