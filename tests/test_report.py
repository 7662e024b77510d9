"""The page about a store: its figures are right, its pictures show what they say, and nothing in it can do harm."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from pipeline.pictures import AMPLIFICATION, FRAME_PIXELS, Picture, amplified_difference, shrink, strip
from pipeline.report import TRACK_COLUMNS, VIDEO_COLUMNS, main, make_report
from pipeline.reporting.clip_reader import ClipReader
from pipeline.reporting.pairs import find_pairs, spread
from pipeline.reporting.pairs_view import PairView, frames_shown, pair_view, pairing_notes, pairs_views
from pipeline.reporting.score_chart import HEIGHT, LEFT, MAX_POINTS, TOP, WIDTH, score_chart
from pipeline.reporting.store_view import failures, remarks, store_view
from pipeline.reporting.tally import grouped
from pipeline.schema import ADDED_COLUMNS
from pipeline.store import FaceStore
from pipeline.types import UInt8Array
from tests.reports import (
    HOSTILE,
    MIN_CHANGE,
    Page,
    alone,
    broken,
    fake,
    original,
    page_of,
    pixels,
    score_rows,
    with_outcome,
    write_scores,
)
from tests.stores import SIZE, change_table, make_video, shard_files, small_store, write_store


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    """Two originals with two faces each, three fakes of theirs with their tracks, two without, and two failures."""
    a, b = original("a.mp4", faces=2), original("b.mp4", faces=2)
    videos = [
        a,
        fake("a1.mp4", a, [9.0, 0.75]),
        fake("a2.mp4", a, [0.5, 1.1]),
        alone("a3.mp4", "a.mp4", "it is shifted in time against its original, about frame 32"),
        alone("a4.mp4", "a.mp4", "it is shifted in time against its original, about frame 0"),
        b,
    ]
    others = [
        fake("b1.mp4", b, [3.0, None]),
        broken("x.mp4", "/videos/x.mp4 is empty"),
        broken("y.mp4", "/videos/y.mp4 is empty"),
        broken("z.mp4", "killed by signal 9", "failed"),
    ]
    return write_store(tmp_path / "store", [videos, others])


def columns(picture: Picture, number: int) -> UInt8Array:
    """One frame of a strip."""
    side = picture.height
    return pixels(picture.uri)[:, number * side : (number + 1) * side]


def read(store: FaceStore) -> tuple[FaceStore, pa.Table, pa.Table]:
    """A store, and as much of its tables as a report reads."""
    return store, store.read_table("videos", VIDEO_COLUMNS), store.read_table("tracks", TRACK_COLUMNS)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# What it says


def test_counts_of_the_store(store: FaceStore) -> None:
    view = store_view(*read(store))
    assert view.columns == ("REAL", "FAKE", "no label")
    assert {row.name: row.counts for row in view.outcomes} == {
        "ok": (2, 5, 0), "no_face": (0, 0, 0), "too_short": (0, 0, 0), "decode_error": (0, 0, 2), "failed": (0, 0, 1),
    }  # fmt: skip
    assert (view.videos.counts, view.videos.total) == ((2, 5, 3), 10)
    assert view.tracks.counts == (4, 8, 0)
    assert view.frames.counts == (4 * 12, 6 * 12 + 2 * 5, 0)
    assert (view.fingerprint, view.frame_size, view.num_partitions) == (store.fingerprint, SIZE, 2)


def test_counts_of_pairs_and_of_faces(store: FaceStore) -> None:
    pairs, unchanged = pairs_views(ClipReader(store), *read(store)[1:], num_shown=12)
    assert (pairs.num_fakes, pairs.num_with_original_named, pairs.num_with_its_tracks) == (5, 5, 3)
    assert (pairs.num_pairs, pairs.num_alone, len(pairs.sample)) == (6, 0, 6)
    assert {row.name: row.counts for row in pairs.face_labels} == {
        "REAL": (4, 0, 0), "FAKE": (3, 2, 3), "no label": (0, 0, 0),
    }  # fmt: skip
    assert pairs.min_change == MIN_CHANGE
    assert [(pair.fake_id, pair.face_id, pair.face_label) for pair in pairs.sample] == [
        ("a1.mp4", 0, "changed"), ("b1.mp4", 0, "changed"), ("a2.mp4", 1, "as it was filmed"),
        ("a1.mp4", 1, "as it was filmed"), ("a2.mp4", 0, "as it was filmed"), ("b1.mp4", 1, "unknown"),
    ]  # fmt: skip
    assert {pair.original_id for pair in pairs.sample} == {"a.mp4", "b.mp4"}

    assert (unchanged.num_tracks, unchanged.num_tracks_of_fakes, unchanged.num_pairs) == (3, 8, 3)
    assert [(pair.fake_id, pair.face_id) for pair in unchanged.sample] == [
        ("a2.mp4", 1), ("a1.mp4", 1), ("a2.mp4", 0),
    ]  # fmt: skip
    # Neither a1 and b1, where something was changed, nor a3 and a4, of which nothing is known.
    (only,) = unchanged.fakes
    assert (unchanged.num_fakes, only.video_id, only.original_id, only.num_tracks) == (1, "a2.mp4", "a.mp4", 2)
    assert only.max_change_score == pytest.approx(1.1)


def test_notes_are_grouped_whatever_their_numbers(store: FaceStore) -> None:
    (group,) = pairing_notes(store.videos).shown
    assert group.text == "it is shifted in time against its original, about frame N"
    assert (group.num_videos, group.examples) == (2, ("a3.mp4", "a4.mp4"))


def test_remarks_are_of_videos_without_an_error(store: FaceStore, tmp_path: Path) -> None:
    assert remarks(store.videos).num_videos == 0
    noted = with_outcome(make_video("a.mp4", [5]), message="/videos/a.mp4: 12 frames failed")
    videos = write_store(tmp_path / "other", [[noted, make_video("b.mp4"), make_video("c.mp4")]]).videos
    assert [(group.text, group.num_videos) for group in remarks(videos).shown] == [
        ("no_face: nobody there", 2), ("ok: VIDEO: N frames failed", 1),
    ]  # fmt: skip


def test_failures_are_grouped_whatever_the_name_of_their_video(store: FaceStore) -> None:
    found = failures(store.videos)
    assert [(group.text, group.num_videos) for group in found.shown] == [
        ("decode_error, SomeError: VIDEO is empty", 2),
        ("failed, SomeError: killed by signal 9", 1),
    ]
    assert found.num_videos == 3


def test_the_page_says_what_was_counted(store: FaceStore) -> None:
    plain = page_of(store).plain
    for expected in (
        store.url,
        store.fingerprint,
        "3 of 10 videos (30.0 %) ended in an error.",
        "Of 5 fakes, 5 name their original and 3 have its tracks.",
        f"is {MIN_CHANGE} or more;",
        "FAKE 3 2 3 8",
        "6 of 6 pairs, chosen",
        "3 of 8 tracks of fakes show a face as it was filmed",
        "1 fake: their label is wrong",
        "3 videos ended in an error.",
        "2 decode_error, SomeError: VIDEO is empty x.mp4, y.mp4",
        f"dashed: {MIN_CHANGE}, changed from there",
    ):
        assert expected in plain


def test_groups_are_bounded_and_counted() -> None:
    found = grouped([*((f"once {i}", f"{i}.mp4") for i in range(30)), *(("often", f"x{i}.mp4") for i in range(5))], 20)
    assert (found.shown[0].text, found.shown[0].num_videos) == ("often", 5)
    assert found.shown[0].examples == ("x0.mp4", "x1.mp4", "x2.mp4")
    assert (len(found.shown), found.num_groups_left_out, found.num_videos_left_out) == (20, 11, 11)


def test_long_lists_are_bounded_and_counted(tmp_path: Path) -> None:
    first = original("o.mp4", 2)
    fakes = [fake(f"{i:03}.mp4", first, [i / 100], 2) for i in range(60)]
    page = page_of(
        write_store(tmp_path, [[first, *fakes, *(broken(f"b{i}.mp4", f"odd {i}x") for i in range(25))]]), num_pairs=4
    )
    assert "60 fakes: their label is wrong" in page.plain
    assert "Not shown: 10 more." in page.plain
    assert "Not shown: 5 more such groups, of 5 videos." in page.plain
    shown = page.section("pairs", "unchanged")
    assert len(shown.all("article")) == 4 + 4
    assert len(shown.all("img")) == 3 * 8
    assert len(page.section("sheet").all("img")) == 48
    assert len(page.section("extremes").all("article")) <= 3 * 6


def test_a_store_without_pairs_says_so(tmp_path: Path) -> None:
    page = page_of(small_store(tmp_path))
    assert "There are no pairs in this store." in page.plain
    assert "0 of 2 tracks of fakes show a face as it was filmed" in page.plain
    assert "Fakes in which no face was changed There are none." in page.plain
    shown = page.section("pairs", "unchanged")
    assert shown.all("img") == shown.all("svg") == []


def test_a_store_from_before_there_were_pairs_says_so(tmp_path: Path) -> None:
    store = small_store(tmp_path)
    for name in store.partition_names:
        for table in ("videos", "tracks"):
            change_table(tmp_path, table, name, lambda t: t.drop_columns(sorted(ADDED_COLUMNS & set(t.column_names))))
    manifest = (tmp_path / "store.json").read_text()
    (tmp_path / "store.json").write_text(re.sub(r'"pair": \{.*?\},', "", manifest, flags=re.DOTALL))
    plain = page_of(store).plain
    assert "There are no pairs in this store." in plain
    assert "which this store's settings don't name" in plain


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    page = page_of(write_store(tmp_path, []))
    assert "There is no video in this store." in page.plain
    assert "There are no tracks to show." in page.plain
    assert page.all("img") == page.all("svg") == []
    assert "There are no pairs in this store." in page.plain
    assert "No video ended in an error." in page.plain


def test_a_fake_without_its_original_is_counted_and_not_shown(tmp_path: Path) -> None:
    page = page_of(write_store(tmp_path, [[fake("f.mp4", original("gone.mp4"), [0.9, 5.0])]]))
    assert "2 tracks cut along those of an original can't be shown beside it" in page.plain
    assert "There are no pairs in this store." in page.plain
    assert "1 of 2 tracks of fakes show a face as it was filmed" in page.plain
    assert page.section("pairs", "unchanged").all("img") == []


# What it is made of


def hostile_store(url: Path) -> FaceStore:
    """Names, labels, notes and messages that would do harm if they weren't taken for text."""
    first = original(f"o/{HOSTILE}", faces=2)
    videos = [
        first,
        fake(f"f/{HOSTILE}", first, [5.0, 0.9]),
        fake(f"u/{HOSTILE}", first, [0.9]),
        alone(f"n/{HOSTILE}", first.outcome.ref.video_id, f"note {HOSTILE}"),
        with_outcome(make_video(f"r/{HOSTILE}", [5, 6]), message=f"remark {HOSTILE}"),
        broken(f"b/{HOSTILE}", f"message {HOSTILE} \x1b[31m \u202egnp.exe\n\x00"),
    ]
    store = write_store(url, [videos])
    manifest = json.loads((url / "store.json").read_text())
    manifest["settings"][HOSTILE] = {HOSTILE: HOSTILE}
    manifest["versions"][HOSTILE] = HOSTILE
    (url / "store.json").write_text(json.dumps(manifest))
    return FaceStore.open(store.url)


def test_what_comes_from_outside_is_text_and_nothing_else(tmp_path: Path) -> None:
    store = hostile_store(tmp_path / "<b>store&")
    said = {f"{name}/{HOSTILE}": 0.4 for name in "ofun"} | {f"r/{HOSTILE}": None}
    rows = score_rows(store, said, [HOSTILE, "b"]) + score_rows(store, {f"r/{HOSTILE}": 0.9}, ["b"], 2)
    for row in rows:
        row["error"] = row["error"] and f"error {HOSTILE}"
    models = [{"name": HOSTILE, "architecture": HOSTILE, "epoch": HOSTILE, "mismatches": [HOSTILE]}]
    scores = write_scores(tmp_path / "<i>scores&.parquet", store, rows, models=models, part=HOSTILE)
    page = page_of(store, scores=scores)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "i", "iframe", "object", "link", "base"})
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert len(page.all("style")) == 1
    rules = page.text[page.text.index("<style>") : page.text.index("</style>")]
    assert "alert" not in rules
    for _, attributes in page.tags:
        for name in ("id", "class", "style", "name", "href", "for"):
            assert "alert" not in (attributes.get(name) or "")
    for name in "ofunrb":
        assert f"{name}/{HOSTILE}" in page.plain
    in_words = HOSTILE.replace("(1)", "(N)").replace("(2)", "(N)").replace("7 * 7", "N * N")
    assert f"note {in_words}" in page.plain
    assert f"remark {in_words}" in page.plain
    assert f"message {HOSTILE} \\x1b[31m \\u202egnp.exe\\n\\x00" in page.plain
    assert f"error {HOSTILE}" in page.section("scores").plain
    assert page.section("settings").plain.count(HOSTILE) == 3 + 2
    assert all(HOSTILE in (image["alt"] or "") for image in page.all("img") if "Absolute" not in (image["alt"] or ""))


def test_nothing_is_loaded_from_anywhere(store: FaceStore) -> None:
    page = page_of(store)
    assert "://" not in page.text
    assert "url(" not in page.text
    assert "@import" not in page.text
    for _, attributes in page.tags:
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        assert (attributes.get("href") or "#").startswith("#")
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_it_can_be_used_without_seeing_it_and_on_a_phone(store: FaceStore) -> None:
    page = page_of(store)
    assert page.text.startswith("<!DOCTYPE html>\n<html lang=")
    assert all(heading.get("scope") in {"col", "row"} for heading in page.all("th"))
    assert all(image["alt"] for image in page.all("img"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))
    assert len(page.all("table")) == len(page.all("caption"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {link["href"] for link in page.all("a")}
    assert targets <= {f"#{name}" for name in ids}
    assert {f"#{section['id']}" for section in page.all("section")} <= targets
    assert len(page.all("input")) == page.text.count("<label><input") > 0
    assert len(page.all("fieldset")) == len(page.all("legend")) > 0
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in page.text


def test_the_same_store_has_the_same_page(store: FaceStore) -> None:
    assert make_report(FaceStore.open(store.url), 3) == make_report(FaceStore.open(store.url), 3)


# Pictures


def test_clips_of_unlike_length_are_shown_at_the_same_frames_of_the_video(tmp_path: Path) -> None:
    """The original has frames 100 to 119, each some levels brighter than the one before; the fake 105 to 114 of them,
    with a corner changed from frame 110 on."""
    before = np.stack([np.full((SIZE, SIZE, 3), 10 * i, np.uint8) for i in range(20)])
    after = before[5:15].copy()
    after[5:, : SIZE // 2, : SIZE // 2] += 30
    first = original("o.mp4", 20, before)
    store = write_store(tmp_path, [[fake("f.mp4", first, [5.0], 10, after, frame_start=105)], [first]])
    pair = pair_view(ClipReader(store), *(store.tracks.to_pylist()[row] for row in (0, 1)))

    assert pair.shown == (105, 107, 109, 110, 112, 114)
    assert (pair.fake_frames, pair.original_frames) == (range(105, 115), range(100, 120))
    for number, frame in enumerate(pair.shown):
        level = 10 * (frame - 100)
        changed = frame >= 110
        assert pair.original is not None
        assert pair.fake is not None
        assert pair.difference is not None
        assert columns(pair.original, number).mean() == pytest.approx(level, abs=3)
        assert columns(pair.fake, number)[SIZE // 2 :].mean() == pytest.approx(level, abs=3)
        difference = columns(pair.difference, number)
        # Away from the edges between them, around which a JPEG rings.
        assert difference[2:6, 2:6].mean() == pytest.approx(30 * AMPLIFICATION * changed, abs=6)
        assert difference[10:14, 10:14].mean() == pytest.approx(0, abs=6)
    page = page_of(store)
    assert "frames 105 to 114, of the original 100 to 119" in page.plain
    pictures = (pair.original, pair.fake, pair.difference)
    assert [image["src"] for image in page.section("pairs").all("img")] == [
        picture.uri for picture in pictures if picture
    ]


def test_frames_shown_are_spread_over_what_both_have() -> None:
    assert frames_shown(range(100), range(50, 200)) == (50, 60, 70, 79, 89, 99)
    assert frames_shown(range(3), range(2, 9)) == (2,)
    assert frames_shown(range(0, 10, 2), range(0, 10, 3)) == (0, 6)


def test_frames_become_small_and_small_ones_stay(rng: np.random.Generator) -> None:
    assert shrink(np.zeros((3, 256, 256, 3), np.uint8)).shape == (3, FRAME_PIXELS, FRAME_PIXELS, 3)
    small = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    np.testing.assert_array_equal(shrink(small), small)


def test_a_difference_is_absolute_amplified_and_bounded() -> None:
    a, b = np.full((1, 192, 192, 3), 100, np.uint8), np.full((1, 192, 192, 3), 100, np.uint8)
    a[..., 0], b[..., 0] = 90, 100
    a[..., 1], b[..., 1] = 255, 0
    different = amplified_difference(a, b)
    assert different.shape == (1, FRAME_PIXELS, FRAME_PIXELS, 3)
    assert np.unique(different[..., 0]).tolist() == [10 * AMPLIFICATION]
    assert np.unique(different[..., 1]).tolist() == [255]
    assert np.unique(different[..., 2]).tolist() == [0]
    np.testing.assert_array_equal(different, amplified_difference(b, a))
    with pytest.raises(ValueError, match="of one shape"):
        amplified_difference(a, b[:, :96, :96])


def test_a_strip_is_its_frames_from_left_to_right_in_their_colours() -> None:
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[0, ..., 0] = 200
    frames[1, ..., 2] = 200
    picture = strip(frames)
    assert (picture.width, picture.height) == (64, 32)
    for number, channel in ((0, 0), (1, 2)):
        expected = np.eye(3)[channel] * 200
        np.testing.assert_allclose(columns(picture, number)[8:24, 8:24].mean(axis=(0, 1)), expected, atol=8)


# Scores over time


def test_a_chart_leaves_gaps_where_nothing_is_known() -> None:
    scores = np.array([1.0, 1.0, np.nan, 10.0, np.nan, 1e6], np.float32)
    chart = score_chart(scores, range(50, 56), 1.0, (50, 55))
    assert len(chart.lines) == 3
    points = [[tuple(map(float, point.split(","))) for point in line.split()] for line in chart.lines]
    assert points[0][0] == (LEFT, chart.ticks[1].y)
    assert [len(line) for line in points] == [2, 2, 2]
    assert points[1][0] == points[1][1]
    assert points[2][0] == (chart.right, TOP)
    assert chart.threshold is not None
    assert chart.threshold.y == chart.ticks[1].y
    assert (chart.first_frame, chart.last_frame, chart.marks) == (50, 55, (LEFT, chart.right))
    assert "from 1.00 to 1000000.00, median 5.50" in chart.description


@pytest.mark.parametrize("scores", [[0.0], [math.nan], [math.nan, 0.0], [1.0] * 3])
def test_a_chart_stays_in_its_drawing(scores: list[float]) -> None:
    chart = score_chart(np.array(scores, np.float32), range(7, 7 + len(scores)), math.inf, (7,))
    assert chart.threshold is None
    assert "counts as changed" not in chart.description
    for x, y in re.findall(r"([^ ,]+),([^ ]+)", " ".join(chart.lines)):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= HEIGHT


def test_a_long_track_has_a_chart_of_bounded_size_that_keeps_its_peaks() -> None:
    scores = np.full(10_001, 1.0, np.float32)
    scores[7_003] = 100.0
    chart = score_chart(scores, range(10_001), 1.2, ())
    (line,) = chart.lines
    assert len(line.split()) <= MAX_POINTS
    assert [float(point.split(",")[1]) for point in line.split()].count(TOP) == 1


# Which pairs


def test_a_fake_is_beside_the_piece_of_its_original_that_it_shares_most_frames_with(tmp_path: Path) -> None:
    """Where frames failed to decode, a track is in pieces that share a pair_id."""
    first = original("o.mp4", 4, faces=3)
    starts = [100, 110, 200]
    pieces = tuple(
        (replace(stored, pair_id="o.mp4#0.0", track=replace(stored.track, frame_start=start)), frames)
        for (stored, frames), start in zip(first.clips, starts, strict=True)
    )
    first = replace(first, clips=pieces)
    fakes = [fake("f.mp4", first, [1.0], 9, frame_start=103), fake("g.mp4", first, [1.0], 9, frame_start=300)]
    tracks = write_store(tmp_path, [[*fakes, first]]).tracks
    pairs = find_pairs(tracks)
    # The third of all rows is the first piece.
    assert (pairs.fakes.tolist(), pairs.originals.tolist()) == ([0], [2 + 1])


def table(scores: Sequence[float | None], groups: Sequence[str]) -> pa.Table:
    return pa.table(
        {
            "video_id": [f"{i:03}" for i in range(len(scores))],
            "track_id": [0] * len(scores),
            "group_id": list(groups),
            "change_score": pa.array(scores, pa.float32()),
        }
    )


def test_a_sample_is_bounded_and_spread_over_groups_and_scores(rng: np.random.Generator) -> None:
    scores = rng.permutation(1000) / 10
    groups = [f"g{i % 5}" if i % 100 else "rare" for i in range(1000)]
    tracks = table(scores.tolist(), groups)
    chosen = spread(tracks, 12)
    assert len(set(chosen)) == 12
    found = [scores[row] for row in chosen]
    assert found == sorted(found, reverse=True)
    assert found[0] == max(scores)
    assert np.histogram(found, bins=12, range=(0, 100))[0].tolist() == [1] * 12
    assert max(np.unique([groups[row] for row in chosen], return_counts=True)[1]) <= 3

    order = rng.permutation(1000)
    shuffled = tracks.take(pa.array(order))
    assert [int(order[row]) for row in spread(shuffled, 12)] == chosen


def test_a_sample_of_few_is_all_of_them_and_what_is_unknown_comes_last() -> None:
    tracks = table([1.0, None, 3.0], "aab")
    assert spread(tracks, 12) == [2, 0, 1]
    assert spread(tracks, 1) == [2]
    assert spread(tracks, 0) == spread(table([], []), 12) == []


def test_no_more_frames_are_read_than_are_shown(store: FaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []
    frames = FaceStore.frames

    def counted(self: FaceStore, *arguments: int) -> UInt8Array:
        found = frames(self, *arguments)
        lengths.append(len(found))
        return found

    monkeypatch.setattr(FaceStore, "frames", counted)
    samples = [view.sample for view in pairs_views(ClipReader(store), *read(store)[1:], num_shown=2)]
    shown: list[PairView] = [pair for sample in samples for pair in sample]
    assert len(shown) == 4
    assert sum(lengths) == sum(2 * len(pair.shown) for pair in shown) == 4 * 2 * 6


# The command


def test_the_command_writes_a_page(store: FaceStore, tmp_path: Path) -> None:
    out = tmp_path / "new folder" / "out.html"
    command = [sys.executable, "-m", "pipeline.report", store.url, str(out), "--pairs", "2"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1])
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"wrote {str(out)!r}\n"
    assert out.read_text(encoding="utf-8") == make_report(FaceStore.open(store.url), 2)
    assert list(out.parent.iterdir()) == [out]


def test_what_was_there_stays_if_the_page_cannot_be_made(store: FaceStore, tmp_path: Path) -> None:
    out = tmp_path / "out" / "page.html"
    out.parent.mkdir()
    out.write_text("the one before")
    table = Path(store.url, "tracks", f"{store.partition_names[0]}.parquet")
    table.write_bytes(table.read_bytes()[:20])
    ran = run(store.url, out)
    assert ran.exit_code == 2
    assert "pipeline.store verify" in ran.output
    assert out.read_text() == "the one before"
    assert list(out.parent.iterdir()) == [out]


def test_a_clip_that_cannot_be_read_has_a_place_that_says_so(store: FaceStore, tmp_path: Path) -> None:
    """Frames of the first partition are damaged, those of b1.mp4 in the second one are whole."""
    for shard in shard_files(store.url):
        if "part-00000" in str(shard):
            shard.write_bytes(shard.read_bytes()[:20])
    out = tmp_path / "page.html"
    assert run(store.url, out).exit_code == 0
    page = Page(out.read_text(encoding="utf-8"))
    assert "Of 12 clips looked at for this page, 10 can't be read." in page.plain
    assert "a1.mp4, track 0:" in page.section("overview").plain
    assert "pipeline.store verify" in page.section("overview").plain
    assert [image["alt"] for image in page.section("sheet").all("img")] == [
        f"Face {face} of b1.mp4, frame 106" for face in (0, 1)
    ]
    # Of the pairs of b1 the fake can be read, but neither its original nor their difference.
    assert len(page.section("pairs").all("img")) == 2
    assert page.section("pairs").plain.count("can't be read") == 3 * 6 - 2


def test_what_was_there_stays_if_the_page_cannot_be_written(
    store: FaceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out" / "page.html"
    out.parent.mkdir()
    out.write_text("the one before")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.files.os.fsync", full)
    ran = run(store.url, out)
    assert ran.exit_code == 1
    assert "No space left on device" in ran.output
    assert out.read_text() == "the one before"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("out", ["page.txt", "folder.html", "store.json"])
def test_out_must_be_a_page(store: FaceStore, tmp_path: Path, out: str) -> None:
    (tmp_path / "folder.html").mkdir()
    ran = run(store.url, tmp_path / out)
    assert ran.exit_code == 2
    assert "must be a file that ends in .html" in ran.output


def test_without_a_store_nothing_is_written(tmp_path: Path) -> None:
    ran = run(tmp_path / "nothing", tmp_path / "new" / "out.html")
    assert ran.exit_code == 2
    assert "Traceback" not in ran.output
    assert list(tmp_path.iterdir()) == []
