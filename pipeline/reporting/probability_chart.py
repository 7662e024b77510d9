"""What each model said of the windows of a track, over time, as lines of a small drawing; pure functions.

The axis of time takes the whole width, so that the drawing lies in place under a film strip of the same width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.reporting.chart_scale import Tick
from pipeline.reporting.clip_reader import Row, video_frames

WIDTH, HEIGHT = 576, 132
TOP, BOTTOM = 16, 30
"""Left free above and below the lines, for what is written there: lines may be anywhere between."""
STYLES = 6
"""Kinds of lines; with more models they come again."""
MOST_WINDOWS = 200
"""Of a model that are drawn; of more, evenly taken ones."""


@dataclass(frozen=True)
class Window:
    """The frames that a model was shown at once, and what it said."""

    x_start: float
    x_stop: float
    y: float


@dataclass(frozen=True)
class Series:
    """One model."""

    name: str
    style: int
    windows: tuple[Window, ...]
    line: str
    """``x,y x,y ...`` through the middles of the windows."""


@dataclass(frozen=True)
class ProbabilityChart:
    """Where to draw what, in units of the drawing."""

    series: tuple[Series, ...]
    levels: tuple[Tick, ...]
    marks: tuple[float, ...]
    """x of the frames that are shown as pictures."""
    first_frame: int
    last_frame: int
    description: str
    """For those who don't see it."""
    width: int = WIDTH
    height: int = HEIGHT
    bottom: int = HEIGHT - BOTTOM


def probability_chart(
    track: Row, windows: Sequence[Row], styles: Mapping[str, int], marked: Sequence[int]
) -> ProbabilityChart:
    """A chart of the windows of a track.

    Args:
        track: with ``row_start``, ``row_stop`` and its frames.
        windows: of it, with ``model``, ``frame_start``, ``num_frames``, ``frame_step`` and ``probability``; those
            without a probability aren't drawn.
        styles: a number for each model.
        marked: frames of the video.
    """
    length = track["row_stop"] - track["row_start"]
    frames = video_frames(track)
    by_model: dict[str, list[Row]] = {}
    for window in sorted(windows, key=lambda w: (w["model"], w["frame_start"], w["window"])):
        if window["probability"] is not None:
            by_model.setdefault(window["model"], []).append(window)
    series, said = [], []
    for name, own in by_model.items():
        kept = [own[i] for i in np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_WINDOWS)).astype(int))]
        drawn = tuple(_window(window, length) for window in kept)
        line = " ".join(f"{round((window.x_start + window.x_stop) / 2, 1)},{window.y}" for window in drawn)
        series.append(Series(name, styles.get(name, 0) % STYLES, drawn, line))
        said.append(_said(name, [window["probability"] for window in own]))
    return ProbabilityChart(
        series=tuple(series),
        levels=tuple(Tick(_y(value), label) for value, label in ((1.0, "1 FAKE"), (0.5, "0.5"), (0.0, "0 REAL"))),
        marks=tuple(_x(frames.index(frame) + 0.5, length) for frame in marked if frame in frames),
        first_frame=frames[0],
        last_frame=frames[-1],
        description=f"Probability of FAKE over the frames {frames[0]} to {frames[-1]}: "
        + ("; ".join(said) or "no window is scored"),
    )


def _said(name: str, probabilities: Sequence[float]) -> str:
    if len(probabilities) == 1:
        return f"{name} {probabilities[0]:.2f} in one window"
    return f"{name} from {min(probabilities):.2f} to {max(probabilities):.2f} in {len(probabilities)} windows"


def _window(window: Row, length: int) -> Window:
    start = min(max(window["frame_start"], 0), length)
    # A track shorter than a window was looped.
    stop = min(start + max((window["num_frames"] - 1) * window["frame_step"] + 1, 1), length)
    return Window(_x(start, length), _x(stop, length), _y(window["probability"]))


def _x(row: float, length: int) -> float:
    return round(row / length * WIDTH, 1)


def _y(probability: float) -> float:
    return round(HEIGHT - BOTTOM - min(max(probability, 0.0), 1.0) * (HEIGHT - TOP - BOTTOM), 1)
