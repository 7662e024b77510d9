"""Epochs: balanced, spread over all there is, the same for the same seed, and shared by any number of processes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.dataset import Window, frame_indices
from training.pairing import PairedClips, draw_pairs, pairs_per_face, shared_positions
from training.sampling import BalancedClips, Batches, balanced_rows, chance_of

label_lists = st.tuples(st.integers(1, 12), st.integers(1, 40)).flatmap(
    lambda counts: st.permutations([0] * counts[0] + [1] * counts[1])
)


def epoch_of(batches: Batches, epoch: int, first_batch: int = 0) -> list[list[Window]]:
    batches.start(epoch, first_batch)
    return list(batches)


@given(label_lists, st.integers(0, 100))
def test_an_epoch_has_the_rarer_class_once_and_as_many_of_the_other(labels: list[int], seed: int) -> None:
    array = np.array(labels)
    counts = Counter(balanced_rows(array, np.random.default_rng(seed)).tolist())
    rarer = min((0, 1), key=lambda label: (array == label).sum())
    assert sum(counts.values()) == 2 * (array == rarer).sum()
    assert set(counts.values()) == {1}
    assert {row for row in counts if array[row] == rarer} == set(np.flatnonzero(array == rarer).tolist())


def test_the_other_class_is_drawn_evenly_over_its_neighbourhoods() -> None:
    """Ten originals and sixty fakes in order: each ten neighbours give one or two."""
    labels = np.repeat([0, 1], [10, 60])
    for seed in range(20):
        fakes = np.array([row for row in balanced_rows(labels, np.random.default_rng(seed)) if labels[row] == 1]) - 10
        assert set(np.bincount(fakes // 12, minlength=5).tolist()) <= {1, 2, 3}


def test_over_the_epochs_every_fake_has_its_turn() -> None:
    labels = np.repeat([0, 1], [4, 20])
    batches = Batches(BalancedClips(labels), 8, seed=0)
    seen = {window.row for epoch in range(60) for batch in epoch_of(batches, epoch) for window in batch}
    assert seen == set(range(24))


@given(label_lists, st.integers(1, 17), st.integers(0, 3), st.integers(1, 4), st.data())
def test_processes_share_each_batch_and_any_batch_can_be_the_first(
    labels: list[int], batch_size: int, epoch: int, world_size: int, data: st.DataObject
) -> None:
    array = np.array(labels)
    whole = epoch_of(Batches(BalancedClips(array), batch_size, 7), epoch)
    first = data.draw(st.integers(0, len(whole)))
    shares = [
        epoch_of(Batches(BalancedClips(array), batch_size, 7, rank, world_size), epoch, first)
        for rank in range(world_size)
    ]
    for number, batch in enumerate(whole[first:]):
        assert sorted(window for share in shares for window in share[number]) == sorted(batch)


@given(label_lists, st.integers(1, 17))
def test_batches_are_nearly_equal_and_none_is_larger_than_asked(labels: list[int], batch_size: int) -> None:
    batches = Batches(BalancedClips(np.array(labels)), batch_size, 0)
    sizes = [len(batch) for batch in epoch_of(batches, 0)]
    assert sizes == batches.batch_sizes
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


def test_each_epoch_and_each_seed_is_another_one_and_always_the_same() -> None:
    labels = np.repeat([0, 1], 6)
    epochs = [epoch_of(Batches(BalancedClips(labels), 4, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])
    assert epochs[1] == epoch_of(Batches(BalancedClips(labels), 4, 0), 1)


@pytest.mark.parametrize(
    ("accumulate", "ends"), [(1, [True] * 5), (2, [False, True, False, True, True]), (9, [False] * 4 + [True])]
)
def test_steps_of_several_batches_end_with_the_epoch(accumulate: int, ends: list[bool]) -> None:
    batches = Batches(BalancedClips(np.repeat([0, 1], 11)), 5, 0)
    assert batches.batch_sizes == [5, 5, 4, 4, 4]
    steps = [batches.step_of(batch, accumulate) for batch in range(5)]
    assert [end for end, _ in steps] == ends
    assert sum(clips for end, clips in steps if end) == 22


def test_a_balanced_epoch_is_what_it_always_was() -> None:
    """Windows as the first version drew them: what was trained then can be trained again."""
    labels = np.array([0, 1, 1, 0, 1, 1, 1, 0, 1, 1])
    assert epoch_of(Batches(BalancedClips(labels), 4, 7), 3) == [
        [(1, 0.836712463714607), (7, 0.13998527215124845), (3, 0.10814095346316577)],
        [(6, 0.3197951777299791), (2, 0.3502139960045182), (0, 0.13906824845308619)],
    ]
    assert epoch_of(Batches(BalancedClips(labels), 4, 7, rank=1, world_size=2), 3, 1) == [[(2, 0.3502139960045182)]]


@given(label_lists, st.integers(0, 5), st.data())
def test_rows_of_unknown_class_take_no_part(labels: list[int], epoch: int, data: st.DataObject) -> None:
    unknown = data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    array = np.where(unknown, -1, labels)
    if min((array == 0).sum(), (array == 1).sum()):
        known = np.flatnonzero(array >= 0)
        batches, without = (Batches(BalancedClips(labels), 4, 3) for labels in (array, array[known]))
        renumbered = [[Window(int(known[row]), at) for row, at in batch] for batch in epoch_of(without, epoch)]
        assert epoch_of(batches, epoch) == renumbered


# Pairs

Track = tuple[int, int, int, int]
"""Face, label, first frame in the video, length; -1 where there is no face, no label."""
tracks_lists = st.lists(
    st.tuples(st.integers(-1, 4), st.integers(-1, 1), st.integers(0, 30), st.integers(1, 40)), min_size=1, max_size=40
)
with_pairs = settings(deadline=None, derandomize=True)


def paired(tracks: list[Track], span: int = 8) -> PairedClips:
    faces, labels, starts, lengths = np.array(tracks).T
    return PairedClips(labels, faces, starts, starts + lengths, span)


def units_of(units: PairedClips, seed: int = 0) -> list[tuple[Window, Window]]:
    drawn = units.draw(np.random.default_rng(seed))
    return [(real, fake) for real, fake in drawn]


def video_frames(units: PairedClips, window: Window, clip_frames: int, frame_step: int) -> list[int]:
    start, stop = int(units.starts[window.row]), int(units.stops[window.row])
    return (start + frame_indices(stop - start, window.position, clip_frames, frame_step)).tolist()


@with_pairs
@given(tracks_lists, st.integers(0, 100))
def test_every_track_of_a_face_s_rarer_class_is_in_one_pair_and_no_track_in_two(tracks: list[Track], seed: int) -> None:
    units = paired(tracks)
    drawn = units_of(units, seed)
    assert len(drawn) == units.num_units
    assert all((units.labels[real.row], units.labels[fake.row]) == (0, 1) for real, fake in drawn)
    rows = [window.row for unit in drawn for window in unit]
    assert len(rows) == len(set(rows))

    pairs = [unit for unit in drawn if units.faces[unit[0].row] == units.faces[unit[1].row] >= 0]
    assert len(pairs) == units.num_pairs
    for face in range(5):
        of_face = [np.flatnonzero((units.faces == face) & (units.labels == label)).tolist() for label in (0, 1)]
        used = [[unit[side].row for unit in pairs if units.faces[unit[side].row] == face] for side in (0, 1)]
        rarer = min((0, 1), key=lambda label, of_face=of_face: len(of_face[label]))  # type: ignore[misc]
        assert sorted(used[rarer]) == of_face[rarer]
        assert len(used[1 - rarer]) == len(of_face[rarer])


@with_pairs
@given(tracks_lists, st.integers(0, 100))
def test_tracks_without_a_partner_are_put_together_or_counted(tracks: list[Track], seed: int) -> None:
    units = paired(tracks)
    labels_of = {face: set(units.labels[units.faces == face].tolist()) - {-1} for face in range(5)}
    alone = [
        row for row, (face, label, _, _) in enumerate(tracks)
        if label >= 0 and (face < 0 or labels_of[face] != {0, 1})
    ]  # fmt: skip
    drawn = units_of(units, seed)
    strangers = {window.row for unit in drawn for window in unit if window.row in alone}
    counts = [sum(tracks[row][1] == label for row in alone) for label in (0, 1)]
    assert len(strangers) == 2 * min(counts)
    assert sum(units.faces[real.row] != units.faces[fake.row] or real.row in alone for real, fake in drawn) == min(
        counts
    )
    assert units.num_left_out == (0 if min(counts) else len(alone))


@with_pairs
@given(tracks_lists, st.integers(1, 12), st.integers(1, 3), st.integers(0, 100))
def test_both_clips_of_a_pair_are_of_the_same_frames_of_the_video(
    tracks: list[Track], clip_frames: int, frame_step: int, seed: int
) -> None:
    units = paired(tracks, (clip_frames - 1) * frame_step + 1)
    for unit in units_of(units, seed):
        real, fake = unit
        assert all(0 <= window.position < 1 for window in unit)
        if units.faces[real.row] != units.faces[fake.row] or units.faces[real.row] < 0:
            continue
        rows = [real.row, fake.row]
        num_shared = units.stops[rows].min() - units.starts[rows].max()
        same_track = len(set(units.starts[rows])) == len(set(units.stops[rows])) == 1
        ours, theirs = (video_frames(units, window, clip_frames, frame_step) for window in unit)
        if num_shared >= units.span or same_track:
            assert ours == theirs
        else:
            assert real.position == fake.position


def test_every_window_that_two_tracks_share_can_be_drawn() -> None:
    chance = np.linspace(0, 1, 200, endpoint=False)
    starts, stops = np.repeat([[100, 103]], 200, axis=0), np.repeat([[130, 115]], 200, axis=0)
    positions = shared_positions(starts, stops, 8, chance)
    begins = [
        [int(start + frame_indices(stop - start, at, 8, 1)[0]) for at in side]
        for start, stop, side in ((100, 130, positions[:, 0]), (103, 115, positions[:, 1]))
    ]
    assert begins[0] == begins[1]
    assert Counter(begins[0]) == dict.fromkeys(range(103, 108), 40)


@pytest.mark.parametrize("length", [49, 98, 103, 150])
def test_no_window_is_lost_to_rounding(length: int) -> None:
    """49 times one 49th is less than 1 in floating point."""
    begins = np.arange(length - 7)
    starts, stops = np.stack([0 * begins, begins], axis=1), np.stack([0 * begins + length, begins + 8], axis=1)
    positions = shared_positions(starts, stops, 8, np.zeros(len(begins)))
    assert [int(frame_indices(length, at, 8, 1)[0]) for at in positions[:, 0]] == begins.tolist()
    assert [int(frame_indices(8, at, 8, 1)[0]) for at in positions[:, 1]] == [0] * len(begins)


@with_pairs
@given(tracks_lists, st.integers(2, 17), st.integers(0, 3), st.integers(1, 4), st.data())
def test_neither_batches_nor_processes_cut_a_pair(
    tracks: list[Track], batch_size: int, epoch: int, world_size: int, data: st.DataObject
) -> None:
    units = paired(tracks)
    if not units.num_units:
        return
    batches = Batches(units, batch_size, 7)
    whole = epoch_of(batches, epoch)
    assert [len(batch) for batch in whole] == batches.batch_sizes
    assert max(batches.batch_sizes) <= batch_size
    assert max(batches.unit_counts) - min(batches.unit_counts) <= 1
    drawn = units.draw(np.random.default_rng(chance_of(7, "epoch", epoch)))
    assert [window for batch in whole for window in batch] == [window for unit in drawn for window in unit]

    first = data.draw(st.integers(0, len(whole)))
    shares = [epoch_of(Batches(units, batch_size, 7, rank, world_size), epoch, first) for rank in range(world_size)]
    for number, batch in enumerate(whole[first:]):
        of_processes = [share[number][i : i + 2] for share in shares for i in range(0, len(share[number]), 2)]
        assert sorted(of_processes) == sorted(batch[i : i + 2] for i in range(0, len(batch), 2))


@pytest.mark.parametrize(("batch_size", "sizes"), [(2, [2] * 5), (3, [2] * 5), (4, [4, 4, 2]), (5, [4, 4, 2])])
def test_an_odd_batch_size_leaves_one_clip_unused(batch_size: int, sizes: list[int]) -> None:
    units = paired([(face, label, 0, 20) for face in range(5) for label in (0, 1)])
    assert Batches(units, batch_size, 0).batch_sizes == sizes


def test_an_original_meets_all_of_its_fakes_over_the_epochs() -> None:
    units = paired([(0, 0, 0, 20), *[(0, 1, 0, 20)] * 4, (1, 0, 0, 20), (1, 1, 0, 20)])
    met = Counter(fake.row for seed in range(200) for real, fake in units_of(units, seed) if real.row == 0)
    assert set(met) == {1, 2, 3, 4}
    assert min(met.values()) > 30


def test_what_there_is_of_pairs_is_told() -> None:
    tracks = [(0, 0, 0, 20), (0, 1, 0, 20), (1, 0, 0, 20), (1, 1, 0, 20), (2, 0, 0, 20), (-1, 0, 0, 20)]
    assert paired([*tracks, (-1, 1, 0, 20)]).describe() == "an epoch has 2 pairs of one face and 1 of two"
    assert paired(tracks).describe() == (
        "an epoch has 2 pairs of one face; 2 tracks without a partner, all of one class, are left out"
    )
    assert paired(tracks[:4]).describe() == "an epoch has 2 pairs of one face"


def test_nothing_to_pair_is_no_pair() -> None:
    units = paired([(-1, 0, 0, 20), (-1, 1, 0, 20)])
    assert (units.num_pairs, units.num_strangers) == (0, 1)
    assert pairs_per_face(units.labels, units.faces).tolist() == []
    assert draw_pairs(units.labels, units.faces, np.random.default_rng(0)).shape == (0, 2)


def test_pairs_are_read_off_the_table_of_tracks() -> None:
    rows: list[dict[str, Any]] = [
        {"pair_id": pair_id, "frame_start": start, "row_start": 1000 * i, "row_stop": 1000 * i + length}
        for i, (pair_id, start, length) in enumerate([("b", 5, 20), (None, 0, 9), ("a", 7, 30), ("b", 8, 11)])
    ]
    units = PairedClips.of_tracks(pa.Table.from_pylist(rows), np.array([0, 1, 0, 1]), 8)
    assert units.faces.tolist() == [0, -1, 1, 0]
    assert (units.starts.tolist(), units.stops.tolist()) == ([5, 0, 7, 8], [25, 9, 37, 19])
    without = [row | {"pair_id": None} for row in rows]
    table = pa.Table.from_pylist(without).set_column(0, "pair_id", pa.nulls(4, pa.string()))
    assert PairedClips.of_tracks(table, np.array([0, 1, 0, 1]), 8).faces.tolist() == [-1] * 4


def test_each_epoch_of_pairs_is_another_one_and_always_the_same() -> None:
    units = paired([(face, label, face, 20) for face in range(6) for label in (0, 1, 1)])
    epochs = [epoch_of(Batches(units, 4, seed), epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(epochs) for b in epochs[:i])
    assert epochs[1] == epoch_of(Batches(replace(units), 4, 0), 1)
