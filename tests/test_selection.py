"""Which videos are held out: none that was trained on, and all that validated, whatever the groups and the rule."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.selection import extraction_mismatches, held_out_videos
from pipeline.errors import InputError
from tests.test_checkpoint import INFO
from training.checkpoint import CheckpointInfo
from training.split import group_of, split_tracks

SCHEMA = pa.schema([("video_id", pa.string()), ("label", pa.int8()), ("group_id", pa.string())])
Video = tuple[str, int | None, str | None, bool]
"""video_id, label, group_id, whether it has a track."""


def info(**settings: Any) -> CheckpointInfo:
    split = {"validation_fraction": 0.4, "validation_folders": [], "split_seed": 0} | settings
    return CheckpointInfo(**{**vars(INFO), "train_settings": split})


def table(videos: list[Video]) -> pa.Table:
    rows = [dict(zip(SCHEMA.names, video[:3], strict=True)) for video in videos]
    return pa.Table.from_pylist(rows, SCHEMA)


videos_strategy = st.lists(
    st.tuples(
        st.builds("{}/{}.mp4".format, st.sampled_from("ab"), st.integers(0, 30)),
        st.sampled_from([0, 1, None]),
        st.sampled_from([None, "g1", "g2", "g3", "g4", "g5"]),
        st.booleans(),
    ),
    min_size=4,
    max_size=40,
    unique_by=lambda video: video[0],
)


@given(videos_strategy, st.floats(0.05, 0.95), st.integers(0, 5), st.sampled_from([[], ["a"], ["b/"]]))
def test_held_out_is_what_validated_and_nothing_that_was_trained_on(
    videos: list[Video], fraction: float, seed: int, folders: list[str]
) -> None:
    tracks = table([video for video in videos if video[3]])
    try:
        trained, validated = split_tracks(tracks.filter(pc.is_valid(tracks["label"])), fraction, folders, seed)
    except InputError:
        return  # No model can have been trained on these.
    checkpoint = info(validation_fraction=fraction, validation_folders=folders, split_seed=seed)
    held_out = held_out_videos(table(videos), tracks, checkpoint)
    assert {*validated["video_id"].to_pylist()} <= held_out
    groups = dict(zip((video[0] for video in videos), group_of(table(videos)), strict=True))
    assert {groups[video] for video in held_out}.isdisjoint(group_of(trained))


def test_a_video_without_a_face_is_held_out_with_its_group() -> None:
    videos: list[Video] = [
        ("a/1.mp4", 0, "g1", True), ("a/2.mp4", 1, "g1", False), ("b/3.mp4", 1, "g2", True),
        ("a/4.mp4", 1, "g3", False), ("b/5.mp4", 0, "g4", False), ("a/6.mp4", 1, "g2", False),
    ]  # fmt: skip
    tracks = table([video for video in videos if video[3]])
    # The last is in the folder, but belongs to somebody who was trained on.
    assert held_out_videos(table(videos), tracks, info(validation_folders=["a"])) == {"a/1.mp4", "a/2.mp4", "a/4.mp4"}


@pytest.mark.parametrize(
    ("theirs", "ours", "expected"),
    [
        ({"mode": "union", "size": 224, "margin": 0.1}, {"mode": "union", "size": 224, "margin": 0.1}, []),
        (
            {"mode": "follow", "size": 224, "margin": 0.1, "follow_scale": 1.2, "follow_percentile": 90.0},
            {"mode": "follow", "size": 224, "margin": 0.3, "follow_scale": 1.3, "follow_percentile": 90.0},
            ["crop.follow_scale: trained on 1.2, store 1.3"],
        ),
        (
            {"mode": "follow", "size": 224, "margin": 0.1},
            {"mode": "union", "size": 256, "margin": 0.3},
            ['crop.mode: trained on "follow", store "union"', "crop.size: trained on 224, store 256"],
        ),
    ],
)
def test_only_what_matters_for_its_mode_is_compared(
    theirs: dict[str, Any], ours: dict[str, Any], expected: list[str]
) -> None:
    trained_on = CheckpointInfo(**{**vars(INFO), "store": {"settings": {"crop": theirs}}})
    assert extraction_mismatches({"crop": ours}, trained_on) == expected
