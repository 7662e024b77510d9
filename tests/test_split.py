"""The split between training and validation: groups stay whole, whatever the fraction, the folders and the data."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from training.split import group_of, hash_fraction, split_tracks, validates_by_fraction

Track = tuple[str, int, str]
"""video_id, label, group_id."""


def table(tracks: list[Track]) -> pa.Table:
    columns = [list(column) for column in zip(*tracks, strict=True)] or [[], [], []]
    schema = pa.schema([("video_id", pa.string()), ("label", pa.int8()), ("group_id", pa.string())])
    return pa.table(dict(zip(schema.names, columns, strict=True)), schema=schema)


def numbered(num_groups: int, folder: str = "part_0") -> list[Track]:
    """Of each group an original and its fake."""
    return [(f"{folder}/{i}_{label}.mp4", label, f"{folder}:{i}") for i in range(num_groups) for label in (0, 1)]


tracks_strategy = st.lists(
    st.tuples(
        st.builds("{}/{}.mp4".format, st.sampled_from("ab"), st.integers(0, 30)),
        st.integers(0, 1),
        st.sampled_from(["", "g1", "g2", "g3", "g4", "g5"]),
    ),
    min_size=1,
    max_size=40,
    unique_by=lambda track: track[0],
)


@given(tracks_strategy, st.floats(0.05, 0.95), st.integers(0, 5), st.sampled_from([(), ("a",), ("b/",)]))
def test_no_group_is_on_both_sides_and_no_track_is_lost(
    tracks: list[Track], fraction: float, seed: int, folders: tuple[str, ...]
) -> None:
    try:
        training, validation = split_tracks(table(tracks), fraction, folders, seed)
    except InputError:
        return  # A side without a class; what is said then has its own test.
    assert set(group_of(training)).isdisjoint(group_of(validation))
    assert training.num_rows + validation.num_rows == len(tracks)


def test_about_the_fraction_of_the_groups_validates() -> None:
    _, validation = split_tracks(table(numbered(1000)), 0.2)
    assert 160 < len(set(group_of(validation))) < 240


def test_new_videos_move_no_old_group() -> None:
    before = dict(zip(group_of(table(numbered(50))), validates_by_fraction(table(numbered(50)), 0.3, 0), strict=True))
    grown = table(numbered(50) + numbered(50, "part_1"))
    after = dict(zip(group_of(grown), validates_by_fraction(grown, 0.3, 0), strict=True))
    assert before.items() <= after.items()


def test_another_seed_is_another_choice() -> None:
    tracks = table(numbered(50))
    assert (validates_by_fraction(tracks, 0.3, 0) != validates_by_fraction(tracks, 0.3, 1)).any()


def test_the_choice_is_the_same_everywhere_and_always() -> None:
    assert hash_fraction("b/y.mp4", 0) == 0.31996371223119036


def test_videos_without_a_group_are_groups_of_their_own() -> None:
    tracks = [(f"{i}.mp4", i % 2, "") for i in range(60)]
    training, validation = split_tracks(table(tracks), 0.5)
    assert training.num_rows > 10
    assert validation.num_rows > 10


def test_folders_validate_with_all_that_share_a_group_with_them() -> None:
    tracks = [*numbered(3), *numbered(3, "part_45"), ("part_0/elsewhere.mp4", 1, "part_45:0")]
    _, validation = split_tracks(table(tracks), 0.2, ["part_45"])
    assert set(validation["video_id"].to_pylist()) == {
        *(video for video, _, _ in numbered(3, "part_45")), "part_0/elsewhere.mp4"
    }  # fmt: skip


def test_a_folder_is_no_prefix_of_another() -> None:
    tracks = [*numbered(2, "part_4"), *numbered(2, "part_45")]
    _, validation = split_tracks(table(tracks), 0.2, ["part_4"])
    assert {video.split("/")[0] for video in validation["video_id"].to_pylist()} == {"part_4"}


def test_a_folder_that_holds_nothing_is_named() -> None:
    with pytest.raises(InputError, match=r"no labelled track lies in 'part_9'.*'part_0/0_0\.mp4'"):
        split_tracks(table(numbered(3)), 0.2, ["part_9"])


def test_too_few_groups_are_told_with_a_seed_that_would_do() -> None:
    tracks = table(numbered(2))
    seed = next(seed for seed in range(20) if len(set(validates_by_fraction(tracks, 0.5, seed).tolist())) == 1)
    with pytest.raises(InputError, match=r"in 2 groups, which are never cut.*train\.split_seed \(the seed \d+ would"):
        split_tracks(tracks, 0.5, seed=seed)


def test_one_group_can_never_be_split() -> None:
    with pytest.raises(InputError, match=r"no (REAL|FAKE) to (train|validate) on.*in 1 groups") as caught:
        split_tracks(table(numbered(1)), 0.5)
    assert "would do" not in str(caught.value)
