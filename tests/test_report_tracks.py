"""What the report samples and counts: folders, the contact sheet, tracks that stand out, seconds, notices."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.report import TRACK_COLUMNS, VIDEO_COLUMNS, make_report
from pipeline.reporting.clip_reader import ClipReader, middle_rows
from pipeline.reporting.distributions_view import distributions, faces_per_video
from pipeline.reporting.folders import folder_numbers, folders_of, largest_folders
from pipeline.reporting.notices import notices
from pipeline.reporting.store_view import folder_rows, store_view
from pipeline.reporting.throughput import throughput
from pipeline.reporting.track_sample import lowest_tracks, sample_strata
from pipeline.reporting.tracks_view import extremes_views, sheet_view
from pipeline.schema import PER_FRAME_COLUMNS
from pipeline.store import FaceStore
from pipeline.types import FAKE, STATUSES
from tests.reports import broken, fake, original, page_of
from tests.stores import Video, make_video, small_store, write_store


def names(*video_ids: str) -> pa.ChunkedArray:
    return pa.chunked_array([list(video_ids)], pa.string())


# Folders


def test_a_folder_is_the_whole_path_before_the_name() -> None:
    ids = names("a/c23/1.mp4", "a/c23/2.mp4", "a/c40/1.mp4", "top.mp4")
    folders = largest_folders(ids, 12)
    assert folders.columns == ("a/c23/", "./", "a/c40/")
    assert folder_numbers(ids, folders).tolist() == [0, 0, 2, 1]


def test_where_each_video_has_a_folder_its_beginning_counts() -> None:
    ids = names(*(f"{part}/{i}/video.mp4" for part in ("a", "b") for i in range(50 if part == "a" else 30)))
    folders = largest_folders(ids, 12)
    assert (folders.columns, folders.depth) == (("a/", "b/"), 1)
    assert np.bincount(folder_numbers(ids, folders)).tolist() == [50, 30]


def test_folders_beyond_the_largest_are_counted_together() -> None:
    ids = names(*(f"{i:02}/{j}.mp4" for i in range(20) for j in range(20 - i)))
    folders = largest_folders(ids, 5)
    assert folders.names == ("00/", "01/", "02/", "03/", "04/")
    assert folders.columns[-1] == "15 other folders"
    counts = np.bincount(folder_numbers(ids, folders))
    assert counts.tolist() == [20, 19, 18, 17, 16, sum(range(1, 16))]


@pytest.mark.parametrize("video_id", ["a.mp4", "a//b.mp4", "/a.mp4", "a\nb/c.mp4", "a/" * 200 + "b.mp4"])
def test_odd_paths_have_a_folder(video_id: str) -> None:
    folders = largest_folders(names(video_id), 3)
    assert folder_numbers(names(video_id), folders).tolist() == [0]
    assert folders_of(names(video_id), folders.depth).to_pylist() == list(folders.names)


def test_no_videos_have_no_folders() -> None:
    folders = largest_folders(names(), 3)
    assert folders.columns == ()
    assert folder_numbers(names(), folders).tolist() == []


def test_outcomes_are_counted_by_folder(tmp_path: Path) -> None:
    store = write_store(tmp_path, [[original("a/1.mp4"), broken("a/2.mp4", "?"), make_video("b/3.mp4")]])
    videos = store.read_table("videos", VIDEO_COLUMNS)
    first, second = folder_rows(videos, largest_folders(videos["video_id"], 9))
    assert (first.name, first.num_videos, first.labels) == ("a/", 2, (1, 0, 1))
    assert dict(zip(STATUSES, first.outcomes, strict=True)) == {
        "ok": 1, "no_face": 0, "too_short": 0, "decode_error": 1, "failed": 0,
    }  # fmt: skip
    assert (second.name, second.outcomes[1]) == ("b/", 1)


# The sheet


def table(video_ids: list[str], track_ids: list[int] | None = None) -> pa.Table:
    return pa.table({"video_id": video_ids, "track_id": track_ids or [0] * len(video_ids)})


def test_a_sample_has_as_many_of_each_stratum_as_there_are(rng: np.random.Generator) -> None:
    strata = np.array([0] * 1000 + [1] * 3 + [2] * 500)
    tracks = table([f"{i:04}" for i in range(len(strata))])
    chosen = sample_strata(tracks, strata, 23)
    assert len(set(chosen)) == 23
    assert Counter(strata[chosen].tolist()) == {0: 10, 1: 3, 2: 10}
    # From all over, not from the start.
    assert max(row for row in chosen if row < 1000) > 900

    order = rng.permutation(len(strata))
    shuffled = sample_strata(tracks.take(pa.array(order)), strata[order], 23)
    assert [int(order[row]) for row in shuffled] == chosen


def test_no_video_is_shown_twice_where_another_is_not_shown() -> None:
    video_ids = ["long"] * 50 + [f"short{i}" for i in range(5)]
    tracks = table(video_ids, [*range(50), *[0] * 5])
    strata = np.zeros(55, np.int64)
    assert sorted(video_ids[row] for row in sample_strata(tracks, strata, 6)) == [
        "long",
        *(f"short{i}" for i in range(5)),
    ]
    assert Counter(video_ids[row] for row in sample_strata(tracks, strata, 10))["long"] == 5
    assert len(sample_strata(tracks, strata, 100)) == 55
    assert sample_strata(tracks, strata, 0) == sample_strata(table([]), np.zeros(0, np.int64), 5) == []


def test_with_less_room_than_strata_the_largest_are_shown() -> None:
    strata = np.array([0, 1, 1, 2, 2, 2])
    chosen = sample_strata(table([str(i) for i in range(6)]), strata, 2)
    assert sorted(strata[chosen].tolist()) == [1, 2]


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    """Two folders, all labels, faces changed and not."""
    first = original("x/o.mp4", faces=2)
    videos = [first, fake("y/f.mp4", first, [9.0, 0.5]), make_video("y/u.mp4", [7])]
    return write_store(tmp_path / "store", [videos])


def tables(store: FaceStore) -> tuple[pa.Table, pa.Table]:
    return store.read_table("videos", VIDEO_COLUMNS), store.read_table("tracks", TRACK_COLUMNS)


def test_filters_are_of_what_is_shown(store: FaceStore) -> None:
    videos, tracks = tables(store)
    sheet = sheet_view(ClipReader(store), tracks, largest_folders(videos["video_id"], 9), most=48)
    assert sheet.num_tracks == len(sheet.cells) == 5
    assert [(facet.name, [(o.name, o.num_tracks) for o in facet.options]) for facet in sheet.facets[:3]] == [
        ("Label of the video", [("REAL", 2), ("FAKE", 2), ("no label", 1)]),
        ("Label of the face", [("as it was filmed", 3), ("changed", 1), ("unknown", 1)]),
        ("Folder", [("y/", 3), ("x/", 2)]),
    ]
    for cell in sheet.cells:
        label, face, folder = (sheet.facets[i].options[cell.choices[i]].name for i in range(3))
        assert (label, face, folder) == (cell.track.label, cell.track.face_label, cell.track.folder)


def test_a_filter_with_one_choice_is_none(tmp_path: Path) -> None:
    page = page_of(write_store(tmp_path, [[make_video("a.mp4", [5])]]))
    assert page.all("input") == page.all("fieldset") == page.all("form") == []
    assert "1 of 1 track:" in page.section("sheet").plain


def test_rules_and_classes_of_filters_match(store: FaceStore) -> None:
    page = page_of(store)
    radios = [radio["id"] for radio in page.all("input")]
    rules = set()
    for line in page.text.splitlines():
        if line.startswith("#sheet:has("):
            number = line.split(":checked")[0].removeprefix("#sheet:has(#")
            assert line == f"#sheet:has(#{number}:checked) .cell:not(.{number}) {{ display: none; }}"
            rules.add(number)
    assert rules == {radio for radio in radios if radio and not radio.endswith("-all")}
    classes = {name for cell in page.all("li") for name in (cell.get("class") or "").split() if name.startswith("f")}
    assert classes == rules
    checked = [radio["id"] for radio in page.all("input") if "checked" in radio]
    assert checked == [radio for radio in radios if radio and radio.endswith("-all")]


def test_nothing_that_grows_with_frames_is_read_of_all_tracks(
    store: FaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[str, ...]] = []
    read_table = FaceStore.read_table

    def noted(self: FaceStore, name: str, columns: Any = None) -> pa.Table:
        read.append(tuple(columns))
        return read_table(self, name, columns)

    monkeypatch.setattr(FaceStore, "read_table", noted)
    make_report(store)
    assert len(read) == 2
    assert not {column for columns in read for column in columns} & set(PER_FRAME_COLUMNS)


# Tracks that stand out


def with_score(video: Video, score: float) -> Video:
    clips = tuple(
        (replace(stored, track=replace(stored.track, scores=np.full(len(stored.track), score, np.float32))), frames)
        for stored, frames in video.clips
    )
    return replace(video, clips=clips)


def test_the_lowest_are_shown_once_with_all_fakes_that_share_their_track(tmp_path: Path) -> None:
    low = with_score(original("low.mp4"), 0.2)
    fakes = [with_score(fake(f"f{i}.mp4", low, [5.0]), 0.2) for i in range(3)]
    others = [with_score(make_video(f"v{i}.mp4", [5]), 0.5 + i / 100) for i in range(12)]
    store = write_store(tmp_path, [[*fakes, low], others])
    tracks = store.read_table("tracks", TRACK_COLUMNS)
    found = tracks["video_id"].take(pa.array(lowest_tracks(tracks, "mean_score", 3))).to_pylist()
    assert found == ["low.mp4", "v0.mp4", "v1.mp4"]

    folders = largest_folders(store.videos["video_id"], 9)
    scores, *_ = extremes_views(ClipReader(store), tracks, folders)
    assert [view.video_id for view in scores.tracks] == ["low.mp4", *(f"v{i}.mp4" for i in range(5))]
    assert scores.tracks[0].mean_score == pytest.approx(0.2)
    assert len(scores.tracks[0].film.shown) == 6


def test_where_half_are_as_low_as_the_lowest_none_is_shown(tmp_path: Path) -> None:
    videos = [with_score(make_video(f"{i:02}.mp4", [5]), 0.9) for i in range(12)]
    page = page_of(write_store(tmp_path, [videos]))
    assert "Lowest detection scores No track stands out" in page.section("extremes").plain


def test_frames_of_a_film_are_the_middles_of_equal_parts() -> None:
    assert middle_rows(60, 6) == (5, 15, 25, 35, 45, 55)
    assert middle_rows(3, 6) == (0, 1, 2)
    assert middle_rows(9, 1) == (4,)


# Counting


def test_faces_are_counted_not_their_pieces(tmp_path: Path) -> None:
    pieces = make_video("a.mp4", [5, 5, 5])
    pieces = replace(
        pieces,
        clips=tuple((replace(s, track=replace(s.track, face_id=min(s.track_id, 1))), f) for s, f in pieces.clips),
    )
    store = write_store(tmp_path, [[pieces, make_video("b.mp4"), make_video("c.mp4", [4])]])
    videos, tracks = tables(store)
    by_name = dict(zip(videos["video_id"].to_pylist(), faces_per_video(videos, tracks).tolist(), strict=True))
    assert by_name == {"a.mp4": 2, "b.mp4": 0, "c.mp4": 1}
    charts = distributions(videos, tracks)
    assert [chart.captions.counted for chart in charts] == ["videos", "tracks", "tracks", "tracks", "tracks"]
    assert "from 4 to 5" in charts[1].description


def test_seconds_are_shared_out_by_stage(tmp_path: Path) -> None:
    found = throughput(small_store(tmp_path).videos)
    assert [(row.name, row.seconds) for row in found.stages] == [("decode", 4.5), ("detect", 7.5), ("write", 0.75)]
    assert found.total.seconds == 12.75
    assert sum(row.share for row in found.stages) == pytest.approx(1)
    assert found.stages[0].videos_per_second == pytest.approx(3 / 4.5)
    assert found.total.frames_per_second == pytest.approx(3 * 299 / 12.75)


def test_a_stage_without_time_has_no_rate(tmp_path: Path) -> None:
    page = page_of(write_store(tmp_path, []))
    assert "decode 0.0 0.0 % none none" in page.section("throughput").plain


def test_what_went_wrong_comes_first(tmp_path: Path) -> None:
    videos = [original("o.mp4"), make_video("n.mp4"), broken("b.mp4", "?"), make_video("u.mp4", [5], label=FAKE)]
    store = write_store(tmp_path / "store", [videos])
    of_videos, of_tracks = tables(store)
    found = notices(store_view(store, of_videos, of_tracks), of_videos, None, 1, 9)
    assert [(notice.kind, notice.section) for notice in found] == [
        ("bad", "failures"), ("bad", "damaged"), ("note", "failures"), *[("note", "outcomes")] * 4,
    ]  # fmt: skip
    assert found[0].text == "1 of 4 videos (25.0 %) ended in an error."
    assert found[2].text == "4 of 4 videos (100.0 %) lack frames that failed to decode, 4 in all."

    fine = original("o.mp4")
    fine = replace(fine, outcome=replace(fine.outcome, num_frames_failed=0))
    store = write_store(tmp_path / "crowd", [[fine]])
    of_videos, of_tracks = tables(store)
    found = notices(store_view(store, of_videos, of_tracks), of_videos, None, 0, 9)
    assert [notice.text for notice in found] == [
        "1 of 1 video (100.0 %) show more faces than track.max_faces, which were left out: 1 in all.",
        "1 of 1 video (100.0 %) show faces for less than track.min_frames, which were left out: 2 in all.",
    ]

    fine = replace(fine, outcome=replace(fine.outcome, num_tracks_too_short=0, num_tracks_over_max_faces=0))
    store = write_store(tmp_path / "fine", [[fine]])
    of_videos, of_tracks = tables(store)
    (good,) = notices(store_view(store, of_videos, of_tracks), of_videos, None, 0, 9)
    assert good.kind == "good"
