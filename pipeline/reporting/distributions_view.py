"""How the videos and tracks of a store are distributed: a section of the report, from its tables alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reporting.histogram import (
    Bins,
    Captions,
    Float64Array,
    Histogram,
    even_bins,
    histogram,
    share_bins,
    whole_bins,
)


def distributions(videos: pa.Table, tracks: pa.Table) -> tuple[Histogram, ...]:
    """Histograms of faces a video, and of the length, size, observed fraction and score of tracks.

    Args:
        videos: with ``video_id`` and ``label``.
        tracks: with ``video_id``, ``face_id``, ``label``, ``row_start``, ``row_stop``, ``mean_face_size``,
            ``observed_fraction`` and ``mean_score``.
    """
    faces = faces_per_video(videos, tracks)
    of_tracks = _floats(tracks["label"])
    lengths = _floats(pc.subtract(tracks["row_stop"], tracks["row_start"]))
    sizes, observed, scores = (
        _floats(tracks[name]) for name in ("mean_face_size", "observed_fraction", "mean_score")
    )  # fmt: skip
    return (
        histogram(faces, _floats(videos["label"]), whole_bins(faces), Captions("Faces a video", "faces", "videos")),
        _of_tracks(lengths, of_tracks, whole_bins(lengths), "Length of a track", "frames"),
        _of_tracks(
            sizes,
            of_tracks,
            even_bins(sizes, lowest=0.0, least_span=20.0),
            "Size of a face",
            "pixels of the video, mean",
        ),
        _of_tracks(observed, of_tracks, share_bins(), "Observed share", "share of frames with a detection"),
        _of_tracks(
            scores,
            of_tracks,
            even_bins(scores, highest=1.0, least_span=0.1),
            "Detection score",
            "probability of a face, mean",
        ),
    )


def faces_per_video(videos: pa.Table, tracks: pa.Table) -> Float64Array:
    """Of each video, float64 (V,): segments of one long track are one face."""
    by_video = tracks.group_by("video_id", use_threads=False).aggregate([("face_id", "count_distinct")])
    places = pc.index_in(videos["video_id"], by_video["video_id"].combine_chunks())
    found = by_video["face_id_count_distinct"].combine_chunks().take(places.combine_chunks())
    return np.asarray(pc.fill_null(found, 0).to_numpy(zero_copy_only=False), np.float64)


def _of_tracks(values: Float64Array, labels: Float64Array, bins: Bins, title: str, unit: str) -> Histogram:
    known = np.isfinite(values)
    return histogram(values[known], labels[known], bins, Captions(title, unit, "tracks"))


def _floats(column: pa.ChunkedArray) -> Float64Array:
    """With NaN for null."""
    return np.asarray(column.to_numpy(), np.float64)
