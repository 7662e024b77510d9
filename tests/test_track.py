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
from pipeline.track import (
    Chain,
    Linker,
    Tracks,
    associate,
    build_tracks,
    decided_segments,
    interpolate,
    pairwise_iou,
    segment_edges,
    segments_of,
)
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


@pytest.mark.parametrize(
    ("min_frames", "expected"),
    [(1, [(0, 12), (12, 24), (24, 31)]), (7, [(0, 12), (12, 24), (24, 31)]), (8, [(0, 12), (12, 21), (21, 31)])],
    ids=["any rest", "a rest that is long enough", "a rest that is too short is shared with the last full one"],
)
def test_a_long_track_is_cut_into_segments_of_one_face(min_frames: int, expected: list[tuple[int, int]]) -> None:
    tracks = every_10th([seen(face(0), face(300))] * 4, segment_frames=12, min_frames=min_frames).tracks
    assert [(t.face_id, t.segment, t.frame_start, t.frame_stop) for t in tracks] == [
        (face_id, segment, *frames) for face_id in (0, 1) for segment, frames in enumerate(expected)
    ]


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 400), st.integers(1, 100), st.integers(1, 100))
def test_edges_lead_from_the_first_frame_to_the_last_in_no_more_steps_than_needed(
    num_frames: int, max_frames: int, min_frames: int
) -> None:
    edges = segment_edges(num_frames, max_frames, min_frames)
    lengths = np.diff(edges)
    assert (edges[0], edges[-1]) == (0, num_frames)
    assert ((lengths > 0) & (lengths <= max_frames)).all()
    assert len(lengths) == -(-num_frames // max_frames)
    assert (lengths[:-2] == max_frames).all(), "at most the last two share what is left"
    if num_frames >= min_frames and max_frames >= 2 * min_frames - 1:
        assert (lengths >= min_frames).all(), "each is a clip"
    elif num_frames >= max_frames >= min_frames:
        assert lengths.min() >= max_frames // 2, "or half of a full one, where that is no clip"


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """A face seen again and again, at any distance."""
    steps = draw(st.lists(st.integers(1, 20), max_size=15))
    frames = np.cumsum([draw(st.integers(0, 50)), *steps]).tolist()
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corners = rng.uniform(-50, 500, (len(frames), 2))
    boxes = np.concatenate([corners, corners + rng.uniform(10, 300, (len(frames), 2))], 1).astype(np.float32)
    landmarks = rng.uniform(0, 500, (len(frames), 5, 2)).astype(np.float32)
    return Chain(frames, list(boxes), list(landmarks), rng.random(len(frames)).tolist())


def up_to(chain: Chain, num_seen: int) -> Chain:
    """As far as it was known when the face had been seen so many times."""
    seen_so_far = slice(0, num_seen)
    frames, boxes = chain.frames[seen_so_far], chain.boxes[seen_so_far]
    return Chain(frames, boxes, chain.landmarks[seen_so_far], chain.scores[seen_so_far])


def assert_same(a: Sequence[Track], b: Sequence[Track]) -> None:
    """To the bit."""
    assert [(t.face_id, t.segment, t.frame_start) for t in a] == [(t.face_id, t.segment, t.frame_start) for t in b]
    for one, other in zip(a, b, strict=True):
        for name in ("boxes_xyxy", "landmarks", "scores", "observed"):
            mine, its = getattr(one, name), getattr(other, name)
            assert mine.dtype == its.dtype
            np.testing.assert_array_equal(mine, its)


@settings(deadline=None, max_examples=100)
@given(chains(), st.integers(1, 40), st.integers(1, 40))
def test_segments_tile_the_track(chain: Chain, segment_frames: int, min_frames: int) -> None:
    sizes = SETTINGS.model_copy(update={"segment_frames": segment_frames, "min_frames": min_frames})
    pieces = segments_of(chain, 3, sizes)
    (whole,) = segments_of(chain, 3, SETTINGS)
    assert [(piece.face_id, piece.segment) for piece in pieces] == [(3, i) for i in range(len(pieces))]
    assert (pieces[0].frame_start, pieces[-1].frame_stop) == (chain.frames[0], chain.frames[-1] + 1)
    assert all(a.frame_stop == b.frame_start for a, b in pairwise(pieces))
    for name in ("boxes_xyxy", "landmarks", "scores", "observed"):
        np.testing.assert_array_equal(np.concatenate([getattr(p, name) for p in pieces]), getattr(whole, name))
    assert (whole.frame_start + np.flatnonzero(whole.observed)).tolist() == chain.frames
    np.testing.assert_array_equal(whole.boxes_xyxy[whole.observed], chain.boxes)


@settings(deadline=None, max_examples=150)
@given(chains(), st.integers(1, 40), st.integers(1, 40))
def test_what_is_decided_stays_whatever_is_seen_later(chain: Chain, segment_frames: int, min_frames: int) -> None:
    sizes = SETTINGS.model_copy(update={"segment_frames": segment_frames, "min_frames": min_frames})
    decided: list[Track] = []
    for num_seen in range(1, len(chain.frames) + 1):
        known = up_to(chain, num_seen)
        decided += decided_segments(known, 0, sizes, len(decided))
        assert_same(decided, decided_segments(known, 0, sizes, 0))
        undecided = known.num_frames - sum(map(len, decided))
        assert undecided < segment_frames + min_frames, "not before it must be, but then at once"
    whole = segments_of(chain, 0, sizes)
    assert_same(decided, whole[: len(decided)])


@settings(deadline=None, max_examples=60)
@given(chains(), st.integers(0, 30))
def test_a_box_lies_where_it_will_lie_in_the_track_and_stays_there_after_the_last(chain: Chain, later: int) -> None:
    (whole,) = segments_of(chain, 0, SETTINGS)
    boxes_xyxy = [chain.box_at(index) for index in range(whole.frame_start, whole.frame_stop)]
    np.testing.assert_array_equal(boxes_xyxy, whole.boxes_xyxy)
    np.testing.assert_array_equal(chain.box_at(chain.frames[-1] + later), chain.boxes[-1])


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 8))
def test_a_linker_knows_at_any_time_what_all_frames_so_far_amount_to(
    seed: int, num_faces: int, num_frames: int
) -> None:
    rng = np.random.default_rng(seed)
    sizes = SETTINGS.model_copy(update={"min_frames": 15, "segment_frames": 25, "max_faces": 2})
    places = rng.uniform(0, 500, (num_faces, 2))
    frames, cuts = [], {}
    linker = Linker(sizes)
    for number in range(num_frames):
        here = places[rng.random(num_faces) < 0.8] + rng.normal(0, 10, 2)
        frames.append(seen(*(face(x, y) for x, y in here), scores=rng.random(len(here)).tolist()))
        if rng.random() < 0.2:
            cuts[10 * number] = half_changed()
        linker.add(10 * number, frames[-1], cuts.get(10 * number))
        told, expected = linker.tracks(), build_tracks(range(0, 10 * len(frames), 10), frames, sizes, cuts)
        assert_same(told.tracks, expected.tracks)
        assert (told.num_too_short, told.num_over_max_faces) == (expected.num_too_short, expected.num_over_max_faces)
        assert told.chains == linker.faces()[:2]
        assert [chain.frames for chain in told.chains] == [chain.frames for chain in expected.chains]


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
    assert_same(one.tracks, other.tracks)


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
