"""Pictures of an evaluation: arrays -> PNG bytes. The same arrays give the same bytes; nothing global is touched."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from inference.aggregate import Float64Array
from inference.calibration import Reliability
from inference.metrics import Curve
from pipeline.cli import printable
from training.dataset import Int64Array

_DPI = 120
_REAL_COLOUR, _FAKE_COLOUR = "#3b75af", "#d1662a"
_MAX_NAME = 40


def plot_roc(curves: Sequence[tuple[str, Curve, float]], num_videos: int) -> bytes:
    """ROC curves, each with its name and area; the last one is drawn strongest."""
    figure, axes = _square("ROC", "false positive rate: REAL called FAKE", "true positive rate: FAKE called FAKE")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1)
    _draw_curves(axes, curves, "AUC", num_videos, "default")
    return _png(figure)


def plot_precision_recall(curves: Sequence[tuple[str, Curve, float]], share_fake: float, num_videos: int) -> bytes:
    """Precision-recall curves, each with its name and average precision; the last one is drawn strongest."""
    figure, axes = _square("Precision and recall", "recall: share of FAKE found", "precision: share FAKE of the found")
    axes.axhline(share_fake, color="0.7", linestyle=":", linewidth=1)
    _draw_curves(axes, curves, "AP", num_videos, "steps-post")
    return _png(figure)


def plot_reliability(table: Reliability) -> bytes:
    """Above what share of each bin of scores is FAKE, below how many videos are in it."""
    figure = Figure(figsize=(5.6, 6.4), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.7", linestyle=":", linewidth=1, label="scores mean what they say")
    some = table.num_videos > 0
    upper.plot(
        table.mean_probability[some], table.share_fake[some], "o-", color=_FAKE_COLOUR, label="ensemble, by bin"
    )  # fmt: skip
    upper.set(
        title=f"Reliability: ECE {table.expected_calibration_error:.3f}, {table.num_videos.sum():,} videos",
        ylabel="share of FAKE", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02),
    )  # fmt: skip
    upper.legend(loc="upper left")
    lower.bar(table.edges[:-1], table.num_videos, np.diff(table.edges), align="edge", color="0.6", edgecolor="white")
    lower.set(xlabel="probability of FAKE", ylabel="videos")
    return _png(figure)


def plot_histogram(edges: Float64Array, real: Int64Array, fake: Int64Array) -> bytes:
    """How many videos of each class have which scores."""
    figure = Figure(figsize=(6.4, 4.4), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for name, counts, colour in (("REAL", real, _REAL_COLOUR), ("FAKE", fake, _FAKE_COLOUR)):
        axes.stairs(counts, edges, fill=True, color=colour, alpha=0.45)
        axes.stairs(counts, edges, color=colour, linewidth=1.5, label=f"{name} ({counts.sum():,})")
    axes.set(title="Scores of the ensemble", xlabel="probability of FAKE", ylabel="videos", xlim=(0, 1))
    axes.legend(loc="upper center")
    return _png(figure)


def _square(title: str, xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.6, 5.6), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure, axes


def _draw_curves(
    axes: Axes,
    curves: Sequence[tuple[str, Curve, float]],
    measure: str,
    num_videos: int,
    drawstyle: Literal["default", "steps-post"],
) -> None:
    axes.set_title(f"{axes.get_title()}, {num_videos:,} videos")
    if not any(len(curve.x) for _, curve, _ in curves):
        said = "not defined: all videos are of one class"
        axes.text(0.5, 0.5, said, ha="center", va="center", backgroundcolor="white")
        return
    for number, (name, curve, area) in enumerate(curves):
        is_last = number == len(curves) - 1
        # A label that begins with an underscore would be left out of the legend; the figure is in front.
        axes.plot(
            curve.x, curve.y, drawstyle=drawstyle, color="black" if is_last else f"C{number % 10}",
            linewidth=2 if is_last else 1.2, label=f"{measure} {area:.3f}  {_short(name)}",
        )  # fmt: skip
    legend = axes.legend(
        loc="lower center" if measure == "AP" else "lower right", fontsize="medium" if len(curves) <= 8 else "x-small"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # A $ in a name is no formula.


def _short(name: str) -> str:
    """A name from outside that fits into a picture."""
    name = printable(name)
    return name if len(name) <= _MAX_NAME else "..." + name[-_MAX_NAME:]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # Matplotlib would put its version in.
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
