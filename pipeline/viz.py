"""Clips and tracks as figures, for any notebook::

    from pipeline import viz
    from pipeline.store import FaceStore
    viz.film_strip(FaceStore.open("data/store").frames(0))

Functions take arrays and know nothing of files or stores. They return matplotlib figures that show themselves when
they are the last expression of a cell; ``figure.savefig("clip.png")`` keeps one. Frames are uint8 (T, H, W, 3), RGB.
"""

from __future__ import annotations

from pipeline.figures.clips import film_strip, side_by_side
from pipeline.figures.cutmix import cutmix_examples
from pipeline.figures.scores import scores_on_clip
from pipeline.figures.tracks import MotionUnit, boxes_on_frame, boxes_on_frames, track_over_time
from pipeline.figures.video import InlineVideo, video_html

__all__ = [
    "InlineVideo",
    "MotionUnit",
    "boxes_on_frame",
    "boxes_on_frames",
    "cutmix_examples",
    "film_strip",
    "scores_on_clip",
    "side_by_side",
    "track_over_time",
    "video_html",
]
