"""Labels that change after the extraction: what follows from them follows, and what no longer holds goes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.config import PairSettings
from pipeline.relabel import NOTE, relabel
from pipeline.schema import ADDED_COLUMNS
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL, VideoRef
from pipeline.upkeep import verify_store
from tests.families import Done, family, make_family, process
from tests.stores import SETTINGS, Video, change_table, make_video, write_store

PAIR_IDS = ["o#0.0", "o#1.0"]
SCORES = (3.5, 0.75)
"""Of a fake's faces; from min_change on a face counts as changed."""
assert SCORES[1] < SETTINGS.pair.min_change < SCORES[0]


def compared(video: Video, scores: tuple[float, ...] = SCORES) -> Video:
    """A fake whose tracks were compared with those of its original."""
    clips = [
        (replace(stored, change_score=score, change_scores=stored.track.scores * 0 + score), frames)
        for (stored, frames), score in zip(video.clips, scores, strict=True)
    ]
    for stored, _ in clips:
        assert stored.change_scores is not None
        stored.change_scores[0] = math.nan
    return replace(video, outcome=replace(video.outcome, tracks_from="original"), clips=tuple(clips))


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    """An original and a fake of it, two faces each, in two partitions; and a video by itself."""
    original = make_video("o", [4, 6], label=REAL, pair_ids=PAIR_IDS, face_labels=[REAL, REAL])
    fake = make_video("f", [4, 6], label=FAKE, source_id="o", pair_ids=PAIR_IDS, face_labels=[FAKE, REAL])
    alone = make_video("alone", [3], label=FAKE)
    return write_store(tmp_path / "store", [[original], [compared(fake), alone]])


def relabelled(store: FaceStore, name: str, **labels: Any) -> FaceStore:
    """The store with other labels of one video."""
    known = ("video_id", "path", "size_bytes", "label", "source_id", "group_id")
    row = next(row for row in store.videos.select(known).to_pylist() if row["video_id"] == name)
    relabel(FaceStore.open(store.url), [VideoRef(**(row | labels), modified_ns=0)])
    after = FaceStore.open(store.url)
    assert list(verify_store(after)) == []
    return after


def tracks(store: FaceStore, name: str, *columns: str) -> list[Any]:
    rows = [row for row in store.tracks.to_pylist() if row["video_id"] == name]
    return [tuple(row[column] for column in columns) if len(columns) > 1 else row[columns[0]] for row in rows]


@pytest.mark.parametrize(
    ("label", "expected"), [(FAKE, [FAKE, REAL]), (REAL, [REAL, REAL]), (None, [None, None])]
)  # fmt: skip
def test_the_label_of_a_face_follows_that_of_its_video(
    store: FaceStore, label: int | None, expected: list[int | None]
) -> None:
    after = relabelled(store, "f", label=label)
    assert tracks(after, "f", "label", "face_label") == [(label, face) for face in expected]
    assert tracks(after, "f", "pair_id", "change_score") == list(zip(PAIR_IDS, SCORES, strict=True))
    assert relabelled(after, "f", label=FAKE).digest() == store.digest(), "and back"


def test_a_video_that_was_compared_with_nothing_has_no_face_label_unless_it_is_real(store: FaceStore) -> None:
    assert tracks(relabelled(store, "alone", label=FAKE), "alone", "face_label") == [None]
    assert tracks(relabelled(store, "alone", label=REAL), "alone", "face_label") == [REAL]
    assert tracks(relabelled(store, "alone", label=None), "alone", "face_label") == [None]


@pytest.mark.parametrize("source", ["another", None])
def test_with_another_original_nothing_of_the_comparison_is_left(store: FaceStore, source: str | None) -> None:
    after = relabelled(store, "f", source_id=source)
    columns = ("source_id", "pair_id", "change_score", "change_scores", "face_label")
    assert tracks(after, "f", *columns) == [(source, None, None, None, None)] * 2
    row = next(row for row in after.videos.to_pylist() if row["video_id"] == "f")
    assert row["pairing_note"] == (NOTE if source else None)
    assert row["tracks_from"] == "original", "that is where its boxes are from"
    assert tracks(after, "f", "checksum", "boxes_xyxy") == tracks(store, "f", "checksum", "boxes_xyxy")


def test_a_comparison_that_is_gone_does_not_come_back(store: FaceStore) -> None:
    after = relabelled(relabelled(store, "f", source_id="another"), "f", source_id="o")
    assert tracks(after, "f", "source_id", "pair_id", "change_score") == [("o", None, None)] * 2
    assert NOTE in after.videos["pairing_note"].to_pylist()


def test_another_group_leaves_everything_else(store: FaceStore) -> None:
    after = relabelled(store, "f", group_id="people")
    assert tracks(after, "f", "group_id", "pair_id", "face_label") == [
        ("people", PAIR_IDS[0], FAKE),
        ("people", PAIR_IDS[1], REAL),
    ]
    assert after.videos["pairing_note"].to_pylist() == store.videos["pairing_note"].to_pylist()


def test_other_videos_keep_their_rows_to_the_last_bit(store: FaceStore) -> None:
    before = {table: getattr(store, table).to_pylist() for table in ("videos", "tracks")}
    file = Path(store.url) / "tracks" / "part-00000.parquet"
    of_other_partition = file.read_bytes()
    after = relabelled(store, "f", label=None, source_id=None, group_id="g")
    for table, rows in before.items():
        found = getattr(after, table).to_pylist()
        assert [row for row in found if row["video_id"] != "f"] == [row for row in rows if row["video_id"] != "f"]
    assert file.read_bytes() == of_other_partition


def test_frames_that_could_not_be_judged_stay_so(store: FaceStore) -> None:
    after = relabelled(store, "f", label=None)
    for scores, expected in zip(tracks(after, "f", "change_scores"), SCORES, strict=True):
        assert math.isnan(scores[0])
        assert set(scores[1:]) == {expected}


def test_the_threshold_is_that_of_the_store(tmp_path: Path) -> None:
    strict = SETTINGS.model_copy(update={"pair": PairSettings(min_change=5.0)})
    fake = make_video("f", [4, 6], label=None, source_id="o", pair_ids=PAIR_IDS)
    store = write_store(tmp_path / "store", [[compared(fake)]], strict)
    assert tracks(relabelled(store, "f", label=FAKE), "f", "face_label") == [REAL, REAL]


def test_a_store_from_before_there_were_pairs_can_be_relabelled(store: FaceStore) -> None:
    def older(table: pa.Table) -> pa.Table:
        return table.drop_columns([name for name in table.column_names if name in ADDED_COLUMNS])

    for table in ("tracks", "videos"):
        for name in store.partition_names:
            change_table(store.url, table, name, older)
    after = relabelled(FaceStore.open(store.url), "f", label=REAL)
    assert tracks(after, "f", "label", "face_label", "pair_id") == [(REAL, REAL, None)] * 2
    assert tracks(after, "alone", "face_label") == [None]


def test_what_comes_out_is_what_an_extraction_with_these_labels_gives(tmp_path: Path) -> None:
    original, fakes, sources = family(make_family(tmp_path), "left.mp4", "right.mp4", "copy.mp4")
    done = process(tmp_path / "store", [original, *fakes], sources=sources)
    before = done.store.digest()
    new = [replace(original, label=None), *(replace(fake, label=label, group_id="g") for fake, label in zip(
        fakes, (REAL, None, FAKE), strict=True))]  # fmt: skip
    relabel(done.store, new)
    after = Done(FaceStore.open(done.store.url))
    fresh = process(tmp_path / "fresh", new, sources={"original.mp4": new[0]})
    assert fresh.paired == {"left.mp4", "right.mp4", "copy.mp4"}
    assert after.store.digest() == fresh.store.digest() != before
    relabel(after.store, [original, *fakes])
    assert FaceStore.open(done.store.url).digest() == before
