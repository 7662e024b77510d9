"""Detections become tracks: one a person, whole, in order, and nothing left out without being counted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.config import TrackSettings
from pipeline.scenes import SceneCut
from pipeline.track import Tracks, associate, build_tracks, cut_into_segments, interpolate, pairwise_iou
from pipeline.types import Detections, Float32Array, Track, UInt8Array

Box = tuple[float, float, float, float]
SETTINGS = TrackSettings(min_iou=0.2, max_gap_frames=20, min_frames=1, max_faces=5, segment_frames=10_000)


def seen(*boxes: Box, scores: Sequence[float] | None = None) -> Detections:
    """The faces of one frame; their landmarks are their corner, five times."""
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    confidence = np.full(len(boxes), 0.9, np.float32) if scores is None else np.array(scores, np.float32)
    return Detections(xyxy, confidence, np.repeat(xyxy[:, None, :2], 5, axis=1))


def face(x: float, y: float = 0.0, side: float = 100.0) -> Box:
    return (x, y, x + side, y + side)


def lefts(track: Track) -> list[float]:
    """Left edges of the boxes that were detected, not made up."""
    return [float(x) for x in track.boxes_xyxy[track.observed, 0]]


def frames_of(tracks: Tracks) -> list[tuple[int, int]]:
    return sorted((track.frame_start, track.frame_stop) for track in tracks.tracks)


def every_10th(detections: Sequence[Detections], **changes: float) -> Tracks:
    return build_tracks(range(0, 10 * len(detections), 10), detections, SETTINGS.model_copy(update=changes))


def test_one_face_is_one_track_from_its_first_to_its_last_detection() -> None:
    (track,) = every_10th([seen(), seen(face(0)), seen(face(10)), seen(face(20)), seen()]).tracks
    assert (track.face_id, track.segment, track.frame_start, track.frame_stop) == (0, 0, 10, 31)
    assert np.flatnonzero(track.observed).tolist() == [0, 10, 20]
    np.testing.assert_allclose(track.boxes_xyxy[:, 0], np.arange(21), atol=1e-5)
    np.testing.assert_allclose(track.landmarks[:, :, 0], np.arange(21)[:, None] * np.ones(5), atol=1e-5)


def test_scores_are_linear_in_between() -> None:
    (track,) = every_10th([seen(face(0), scores=[0.8]), seen(face(0), scores=[1.0])]).tracks
    np.testing.assert_allclose(track.scores, np.linspace(0.8, 1.0, 11), atol=1e-6)


def test_two_people_side_by_side_stay_two_though_their_boxes_overlap() -> None:
    tracks = every_10th([seen(face(0), face(70)), seen(face(5), face(75)), seen(face(10), face(80))]).tracks
    assert sorted(lefts(track) for track in tracks) == [[0, 5, 10], [70, 75, 80]]


def test_two_people_who_move_along_are_not_swapped_by_the_best_single_match() -> None:
    """The right one's old box overlaps the left one's new box most (0.82); both together fit best the other way."""
    old, new = (face(0), face(40)), (face(30), face(75))
    iou = pairwise_iou(*(np.array(boxes, np.float32) for boxes in (old, new)))
    assert iou[1, 0] == iou.max()
    assert iou.argmax(axis=1).tolist() == [0, 0]
    tracks = every_10th([seen(*old), seen(*new)]).tracks
    assert sorted(lefts(track) for track in tracks) == [[0, 30], [40, 75]]


def test_one_detection_belongs_to_one_track_only() -> None:
    tracks = every_10th([seen(face(0), face(30)), seen(face(15)), seen(face(0), face(30))], max_gap_frames=20).tracks
    assert sum(int(track.observed.sum()) for track in tracks) == 5
    assert sorted(len(lefts(track)) for track in tracks) == [2, 3]


def test_a_pair_below_the_least_overlap_cannot_push_a_good_pair_aside() -> None:
    a = np.array([face(0), face(150)], np.float32)
    b = np.array([face(60), face(0)], np.float32)
    assert sorted(associate(a, b, 0.3)) == [(0, 1)]
    assert associate(a[:1], b[:1], 0.3) == []
    assert associate(a[:1], b[:1], 0.2) == [(0, 0)]


@pytest.mark.parametrize(("num_missed", "expected"), [(1, [(0, 51)]), (2, [(0, 21), (50, 61)])])
def test_a_missed_face_is_bridged_up_to_the_longest_gap(num_missed: int, expected: list[tuple[int, int]]) -> None:
    before, after = [seen(face(0))] * 3, [seen(face(20))] * 2
    tracks = every_10th([*before, *[seen()] * num_missed, *after], max_gap_frames=20)
    assert frames_of(tracks) == expected


def test_a_bridged_gap_is_interpolated_and_not_called_observed() -> None:
    (track,) = every_10th([seen(face(0)), seen(), seen(face(40))]).tracks
    assert np.flatnonzero(track.observed).tolist() == [0, 20]
    np.testing.assert_allclose(track.boxes_xyxy[10], face(20), atol=1e-5)


def test_a_face_elsewhere_is_another_face() -> None:
    assert len(every_10th([seen(face(0)), seen(face(300))]).tracks) == 2


def test_too_short_tracks_are_dropped_and_counted() -> None:
    stays, goes = face(0), face(300)
    tracks = every_10th([seen(stays, goes), seen(stays, goes), seen(stays), seen(stays)], min_frames=12)
    assert frames_of(tracks) == [(0, 31)]
    assert (tracks.num_too_short, tracks.num_over_max_faces) == (1, 0)
    assert every_10th([seen(stays)] * 2, min_frames=11).num_too_short == 0


def test_the_most_certain_faces_are_kept_the_others_counted() -> None:
    frames = [seen(face(0), face(200), face(400), scores=[0.7, 0.99, 0.8])] * 4
    frames[2] = seen(face(0), face(200), face(400), scores=[1.0, 0.99, 0.8])
    tracks = every_10th(frames, max_faces=2)
    assert [(track.face_id, lefts(track)[0]) for track in tracks.tracks] == [(0, 200), (1, 400)]
    assert (tracks.num_too_short, tracks.num_over_max_faces) == (0, 1)


def test_no_frames_and_no_faces_give_no_tracks() -> None:
    nothing = Tracks([], 0, 0)
    assert build_tracks([], [], SETTINGS) == nothing
    assert every_10th([seen()] * 5) == nothing


def test_frames_without_detections_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        build_tracks([0, 10], [seen()], SETTINGS)


def test_a_long_track_is_cut_into_segments_of_one_face() -> None:
    tracks = every_10th([seen(face(0), face(300))] * 4, segment_frames=12).tracks
    assert [(t.face_id, t.segment, t.frame_start, t.frame_stop) for t in tracks] == [
        (face_id, *segment) for face_id in (0, 1) for segment in [(0, 0, 10), (1, 10, 20), (2, 20, 31)]
    ]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.integers(1, 200), st.integers(0, 50))
def test_segments_tile_the_track_equally(length: int, max_frames: int, start: int) -> None:
    frames = [start, start + length - 1] if length > 1 else [start]
    boxes = [seen(face(i)) for i in range(len(frames))]
    (whole,) = build_tracks(frames, boxes, SETTINGS.model_copy(update={"max_gap_frames": 1000})).tracks
    pieces = cut_into_segments(whole, max_frames)
    assert [piece.segment for piece in pieces] == list(range(len(pieces)))
    assert pieces[0].frame_start == whole.frame_start
    assert pieces[-1].frame_stop == whole.frame_stop
    assert all(a.frame_stop == b.frame_start for a, b in pairwise(pieces))
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) <= max_frames
    assert max(lengths) - min(lengths) <= 1
    assert len(pieces) == -(-length // max_frames), "no more pieces than needed"
    for name in ("boxes_xyxy", "landmarks", "scores", "observed"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(whole, name))


@st.composite
def known_values(draw: st.DrawFn) -> tuple[list[int], Float32Array]:
    frames = draw(st.lists(st.integers(0, 60), min_size=1, max_size=8, unique=True).map(sorted))
    numbers = st.floats(-1e5, 1e5, width=32)
    return frames, draw(arrays(np.float32, (len(frames), 4), elements=numbers))


@settings(deadline=None, max_examples=100)
@given(known_values())
def test_interpolation_hits_what_is_known_and_stays_between_its_neighbours(
    known: tuple[list[int], Float32Array],
) -> None:
    frames, values = known
    dense = interpolate(frames, values)
    assert dense.shape == (frames[-1] - frames[0] + 1, 4)
    assert dense.dtype == np.float32
    np.testing.assert_array_equal(dense[np.array(frames) - frames[0]], values)
    for i, (first, last) in enumerate(pairwise(frames)):
        between = dense[first - frames[0] : last - frames[0] + 1]
        assert (between >= np.minimum(values[i], values[i + 1])).all()
        assert (between <= np.maximum(values[i], values[i + 1])).all()
        exact = np.linspace(values[i].astype(np.float64), values[i + 1].astype(np.float64), last - first + 1)
        np.testing.assert_allclose(between, exact, rtol=1e-6, atol=1e-2)


def scene(seed: int) -> UInt8Array:
    """A thumbnail of its own layout."""
    blocks = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return blocks.repeat(4, axis=0).repeat(4, axis=1)


def half_changed() -> SceneCut:
    """A 640x640 video whose right half shows something else from here on."""
    before, after = scene(1), scene(2)
    after[:, :32] = before[:, :32]
    return SceneCut(before, after, frame_size=(640, 640), min_face_similarity=0.33)


def test_a_cut_ends_a_track_though_the_next_face_is_in_the_same_place() -> None:
    cut = SceneCut(scene(1), scene(2), frame_size=(640, 640), min_face_similarity=0.33)
    detections = [seen(face(300, 300))] * 4
    tracks = build_tracks([0, 10, 20, 30], detections, SETTINGS, {20: cut})
    assert frames_of(tracks) == [(0, 11), (20, 31)]
    assert {track.face_id for track in tracks.tracks} == {0, 1}


def test_a_cut_elsewhere_in_the_picture_does_not_end_a_track() -> None:
    detections = [seen(face(80, 300), face(460, 300))] * 4
    tracks = build_tracks([0, 10, 20, 30], detections, SETTINGS, {20: half_changed()})
    assert [(lefts(t)[0], t.frame_start, t.frame_stop) for t in sorted(tracks.tracks, key=lefts)] == [
        (80, 0, 31),
        (460, 0, 11),
        (460, 20, 31),
    ]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 6))
def test_the_order_of_detections_within_a_frame_does_not_matter(seed: int, num_faces: int, num_frames: int) -> None:
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 200, (num_faces, 2))
    frames, shuffled = [], []
    for _ in range(num_frames):
        here = np.flatnonzero(rng.random(num_faces) < 0.8)
        corners = places[here] + rng.normal(0, 15, (len(here), 2))
        boxes = np.concatenate([corners, corners + rng.uniform(60, 120, (len(here), 2))], 1).astype(np.float32)
        found = Detections(
            boxes, rng.random(len(here)).astype(np.float32), rng.random((len(here), 5, 2)).astype(np.float32)
        )
        order = rng.permutation(len(here))
        frames.append(found)
        shuffled.append(Detections(found.boxes_xyxy[order], found.scores[order], found.landmarks[order]))
    one, other = every_10th(frames, max_faces=3), every_10th(shuffled, max_faces=3)
    assert (one.num_too_short, one.num_over_max_faces) == (other.num_too_short, other.num_over_max_faces)
    for a, b in zip(one.tracks, other.tracks, strict=True):
        assert (a.face_id, a.segment, a.frame_start) == (b.face_id, b.segment, b.frame_start)
        for name in ("boxes_xyxy", "landmarks", "scores", "observed"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def slow_iou(a: Sequence[float], b: Sequence[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area_a, area_b = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return width * height / (area_a + area_b - width * height)


boxes = st.tuples(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 80), st.integers(1, 80)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)


@settings(deadline=None, max_examples=60)
@given(st.lists(boxes, max_size=5), st.lists(boxes, max_size=5))
def test_iou_of_all_pairs_is_what_a_slow_loop_gives(a: list[Box], b: list[Box]) -> None:
    actual = pairwise_iou(*(np.array(side, np.float32).reshape(-1, 4) for side in (a, b)))
    assert actual.dtype == np.float32
    expected = np.array([[slow_iou(x, y) for y in b] for x in a]).reshape(len(a), len(b))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)
