"""Finding videos, the table of what was found, and the command that makes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import (
    INDEX_SCHEMA,
    VIDEO_ENDINGS,
    IndexFormatError,
    IndexReport,
    NoVideosError,
    Videos,
    build_index,
    find_videos,
    read_index,
    write_index,
)
from pipeline.index import main
from pipeline.labels import LabelError
from pipeline.types import FAKE, REAL, VideoRef


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def ids(videos: Path | str) -> list[str]:
    return [video.video_id for video in find_videos(str(videos)).videos]


# Finding


def test_a_folder_is_searched_through_for_all_endings_in_any_case(tmp_path: Path) -> None:
    names = [f"{number}/x{ending}" for number, ending in enumerate(VIDEO_ENDINGS)]
    root = tree(tmp_path, *names, "deep/er/LOUD.MP4", "a.txt", "mp4", "x.mp4.part", "metadata.json")
    assert ids(root) == sorted([*names, "deep/er/LOUD.MP4"])


def test_a_row_says_where_how_large_and_how_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "in/sub/empty.mp4")
    (tmp_path / "in/a.mp4").write_bytes(b"12345")
    os.utime(tmp_path / "in/a.mp4", ns=(7, 1_700_000_000_123_456_789))
    monkeypatch.chdir(tmp_path)
    a, empty = find_videos("./in/").videos
    assert a == VideoRef("a.mp4", "./in/a.mp4", 5, 1_700_000_000_123_456_789, group_id="a.mp4")
    assert (empty.video_id, empty.path, empty.size_bytes) == ("sub/empty.mp4", "./in/sub/empty.mp4", 0)


def test_a_single_file_counts_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "sub/a[1].mp4", "sub/a1.mp4")
    monkeypatch.chdir(tmp_path / "sub")
    assert [(v.video_id, v.path) for v in find_videos("a[1].mp4").videos] == [("a[1].mp4", "a[1].mp4")]
    assert [(v.video_id, v.path) for v in find_videos("../sub/a1.mp4").videos] == [("a1.mp4", "../sub/a1.mp4")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["a.mp4", "b.mp4"]),
        ("?.m*", ["a.mp4", "b.mp4", "c.mov"]),
        ("[!a].mp4", ["b.mp4"]),
        ("**/*.mp4", ["a.mp4", "b.mp4", "one/a.mp4", "one/two/a.mp4", "other/a.mp4"]),
        ("**", ["a.mp4", "b.mp4", "c.mov", "one/a.mp4", "one/two/a.mp4", "other/a.mp4"]),
        ("*/a.mp4", ["one/a.mp4", "other/a.mp4"]),
        ("o*/**/a.mp4", ["one/a.mp4", "one/two/a.mp4", "other/a.mp4"]),
        ("on[e]", ["one/a.mp4", "one/two/a.mp4"]),
        ("**/two/./*", ["one/two/a.mp4"]),
    ],
)
def test_a_glob_counts_from_the_folder_before_the_first_wildcard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]
) -> None:
    tree(tmp_path, "a.mp4", "b.mp4", "c.mov", "one/a.mp4", "one/two/a.mp4", "other/a.mp4")
    assert ids(f"{tmp_path}/{pattern}") == expected
    monkeypatch.chdir(tmp_path)
    assert [video.path for video in find_videos(pattern).videos] == expected


def test_a_glob_reads_only_folders_that_may_hold_matches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "one/videos/a.mp4", "one/masks/a.mp4", "two/videos/deep/er/a.mp4")
    read: list[str] = []
    scandir = os.scandir

    def recorded(path: str) -> Any:
        read.append(os.path.relpath(path, tmp_path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", recorded)
    assert ids(f"{tmp_path}/one/v*/*.mp4") == ["videos/a.mp4"]
    assert read == ["one", "one/videos"]


def test_names_may_hold_spaces_newlines_and_any_script(tmp_path: Path) -> None:
    names = sorted(
        [" space .mp4", "new\nline.mp4", "видео/脸.mp4", "back\\slash.mp4", "'\".mp4", "e\u0301.mp4", "é.mp4"]
    )
    index, _ = build_index(str(tree(tmp_path, *names)))
    write_index(str(tmp_path / "index.parquet"), index)
    assert [video.video_id for video in read_index(str(tmp_path / "index.parquet"))] == names


def test_a_folder_named_like_a_video_is_searched_and_noted(tmp_path: Path) -> None:
    found = find_videos(str(tree(tmp_path, "x.mp4/real.mp4")))
    assert [video.video_id for video in found.videos] == ["x.mp4/real.mp4"]
    assert found.notes == ["'x.mp4' is a folder; it is searched through, but is no video"]


def test_links_are_followed_out_of_the_root_but_not_in_circles(tmp_path: Path) -> None:
    root = tree(tmp_path, "in/z/a.mp4", "outside/b.mp4", "c.mp4") / "in"
    (root / "z/loop").symlink_to(root)
    (root / "another").symlink_to(root / "z")
    (root / "elsewhere").symlink_to(tmp_path / "outside")
    (root / "linked.mp4").symlink_to(tmp_path / "c.mp4")
    found = find_videos(str(root))
    assert [video.video_id for video in found.videos] == ["elsewhere/b.mp4", "linked.mp4", "z/a.mp4"]
    assert [note.split(" is ")[0] for note in found.notes] == ["link 'another'", "link 'z/loop'"]
    assert ids(f"{root}/**/*.mp4") == ["elsewhere/b.mp4", "linked.mp4", "z/a.mp4"]


def test_what_cannot_be_a_video_becomes_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, "a.mp4", "locked/b.mp4", "text.txt")
    (root / "gone.mp4").symlink_to(root / "nowhere")
    (root / "gone_folder").symlink_to(root / "nowhere")
    (root / "self.mp4").symlink_to(root / "self.mp4")
    os.mkfifo(root / "pipe.mp4")
    (root / os.fsdecode(b"caf\xe9.mp4")).touch()
    (root / os.fsdecode(b"caf\xe9")).mkdir()
    (root / os.fsdecode(b"caf\xe9.txt")).touch()
    scandir = os.scandir

    def guarded(path: str) -> Any:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find_videos(str(root))
    assert [video.video_id for video in found.videos] == ["a.mp4"]
    assert found.notes == [
        r"'caf\udce9' is left out: its name isn't UTF-8, which no table can hold; rename it",
        r"'caf\udce9.mp4' is left out: its name isn't UTF-8, which no table can hold; rename it",
        "'gone.mp4' is left out: it can't be reached (No such file or directory)",
        "'gone_folder' is left out: it can't be reached (No such file or directory)",
        "'pipe.mp4' is left out: it is a pipe, socket or device",
        "'self.mp4' is left out: it can't be reached (Too many levels of symbolic links)",
        "folder 'locked' can't be read (Permission denied)",
    ]


@pytest.mark.parametrize(
    ("videos", "said"),
    [
        ("empty", r"no videos in '.*empty': nothing there is a file that ends in \.mp4, .*\.mpeg\. Give a folder"),
        ("text.txt", "no videos in"),
        ("*.avi", "no videos in"),
        ("no_folder/*.avi", "folder '.*no_folder' can't be read"),
        ("*/../a.mp4", "'..' after a wildcard"),
        ("absent", "'.*absent' is neither a file nor a folder on this machine; check the path"),
        ("absent.parquet", "is neither a file nor a folder"),
        (os.fsdecode(b"caf\xe9"), "isn't UTF-8"),
    ],
)
def test_no_videos_says_where_it_looked_and_what_to_do(tmp_path: Path, videos: str, said: str) -> None:
    tree(tmp_path, "text.txt", "a.mp4", "empty/text.txt")
    with pytest.raises(NoVideosError, match=said):
        find_videos(f"{tmp_path}/{videos}")


@pytest.mark.parametrize("videos", ["", "s3://bucket/videos"])
def test_what_is_no_local_path_is_refused(videos: str) -> None:
    with pytest.raises(NoVideosError, match="mount the bucket" if videos else "check the path"):
        find_videos(videos)


# The report


def test_the_report_counts_and_names_what_does_not_fit(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.mp4", "b.mp4", "c.mp4", "odd\n\x1b[31m.mp4")
    labels = {
        "a.mp4": {"label": "FAKE", "original": "gone.mp4"},
        "b.mp4": {"label": "FAKE", "original": "gone.mp4"},
        "c.mp4": {"label": "REAL"},
        **{f"lost{number}.mp4": {"label": "REAL"} for number in range(5)},
    }
    (root / "metadata.json").write_text(json.dumps(labels))
    (root / "gone_too.mp4").symlink_to("nowhere")
    index, report = build_index(str(root))
    assert list(report.lines()) == [
        "videos: 4 (REAL 1, FAKE 2, no label 1)",
        "groups: 3 (largest: 2 videos)",
        r"videos without a label: 1 ('odd\n\x1b[31m.mp4')",
        "labels without a video: 5 ('lost0.mp4', 'lost1.mp4', 'lost2.mp4', ...)",
        "originals that aren't here: 1 ('gone.mp4')",
        "note: 'gone_too.mp4' is left out: it can't be reached (No such file or directory)",
    ]
    assert report.num_videos == len(index) == 4


def test_many_notes_are_cut_short() -> None:
    report = IndexReport(1, 0, 1, 1, unlabelled=(), notes=tuple(map(str, range(25))))
    assert list(report.lines())[-2:] == ["note: 19", "note: and 5 more of this kind"]


# The table

a_ref = st.builds(
    VideoRef,
    video_id=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/.\0"), min_size=1), min_size=1
    ).map("/".join),
    path=st.text(st.characters(exclude_categories=["Cs"])),
    size_bytes=st.integers(0, 2**63 - 1),
    modified_ns=st.integers(-(2**63), 2**63 - 1),
    label=st.sampled_from([REAL, FAKE, None]),
    source_id=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    group_id=st.text(st.characters(exclude_categories=["Cs"])),
)


@given(videos=st.lists(a_ref, unique_by=lambda video: video.video_id, max_size=5))
def test_an_index_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, videos: list[VideoRef]
) -> None:
    path = str(tmp_path_factory.mktemp("index") / "videos.parquet")
    write_index(path, videos)
    assert read_index(path) == videos
    assert pq.read_schema(path).remove_metadata().equals(INDEX_SCHEMA)


A_ROW: dict[str, Any] = {
    "video_id": "a.mp4",
    "path": "in/a.mp4",
    "size_bytes": 5,
    "modified_ns": 6,
    "label": FAKE,
    "source_id": "b.mp4",
    "group_id": "a.mp4",
}


def table_of(path: Path, *rows: dict[str, Any], schema: pa.Schema = None) -> str:
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path)
    return str(path)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{k: v for k, v in A_ROW.items() if k != "group_id"}], "the column 'group_id' is missing"),
        ([A_ROW | {"size_bytes": "5"}], "the column 'size_bytes' is string, not int64"),
        ([A_ROW | {"path": 5}], "the column 'path' is int64, not string"),
        ([A_ROW | {"path": None}, A_ROW], "the column 'path' has 1 nulls"),
        ([A_ROW | {"label": 0.5}], "truncated"),
        ([A_ROW | {"label": 300}], "is no index of videos"),
        ([A_ROW | {"label": 2}], "labels 'a.mp4' 2; only 0, 1 and null"),
        ([A_ROW, A_ROW], "'a.mp4' twice"),
        ([A_ROW | {"video_id": "/etc/a.mp4"}], "'/etc/a.mp4', which isn't a path below"),
        ([A_ROW | {"video_id": "x/../../a.mp4"}], "which isn't a path below"),
        ([A_ROW | {"video_id": ""}], "which isn't a path below"),
    ],
)
def test_an_index_that_cannot_be_trusted_is_refused(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    path = table_of(tmp_path / "videos.parquet", *rows)
    with pytest.raises(IndexFormatError, match=said) as caught:
        read_index(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 400, -1])
def test_a_file_that_is_no_whole_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "videos.parquet"
    table_of(path, A_ROW)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IndexFormatError, match="is no index of videos"):
        read_index(str(path))


def test_an_index_edited_with_another_library_is_still_one(tmp_path: Path) -> None:
    edited = pa.schema(
        [("video_id", pa.large_string()), ("label", pa.float64()), ("source_id", pa.null()), ("mine", pa.int8())]
    )
    schema = pa.unify_schemas([edited, pa.schema([field for field in INDEX_SCHEMA if field.name not in edited.names])])
    path = table_of(tmp_path / "run=3.parquet", A_ROW | {"source_id": None, "label": 1.0, "mine": 1}, schema=schema)
    assert read_index(path) == [VideoRef("a.mp4", "in/a.mp4", 5, 6, FAKE, None, "a.mp4")]


def test_a_failed_write_leaves_the_old_index_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, videos = tmp_path / "videos.parquet", [VideoRef(**A_ROW)]
    write_index(str(path), videos)

    def full(table: pa.Table, where: Path) -> None:
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write_index(str(path), [replace(videos[0], label=REAL)])
    assert read_index(str(path)) == videos
    assert list(tmp_path.iterdir()) == [path]


def test_the_table_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder, so no index can be written"):
        write_index(str(tmp_path), [])
    with pytest.raises(FileNotFoundError, match=r"absent\.parquet"):
        read_index(str(tmp_path / "absent.parquet"))


def test_an_index_as_input_keeps_its_labels(tmp_path: Path) -> None:
    path = table_of(tmp_path / "videos.parquet", A_ROW, schema=INDEX_SCHEMA)
    index, report = build_index(path)
    assert index == [VideoRef(**A_ROW)]
    assert (report.num_fake, report.num_groups, report.missing_originals) == (1, 1, ("b.mp4",))
    with pytest.raises(LabelError, match=r"labels of its own, so 'labels\.csv' can't be used"):
        build_index(path, "labels.csv")
    table_of(tmp_path / "videos.parquet", schema=INDEX_SCHEMA)
    with pytest.raises(NoVideosError, match="without rows"):
        build_index(path)


# The command


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_writes_the_index_and_reports(tmp_path: Path) -> None:
    root = tree(tmp_path, "in/Celeb-real/id0_0000.mp4", "in/Celeb-synthesis/id0_id1_0000.mp4") / "in"
    out = tmp_path / "new" / "folders" / "videos.parquet"
    arguments = [sys.executable, "-m", "pipeline.index", str(root), str(out)]
    ran = subprocess.run(arguments, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert ran.stdout.splitlines() == [
        "videos: 2 (REAL 1, FAKE 1, no label 0)",
        "groups: 1 (largest: 2 videos)",
        f"wrote {str(out)!r}",
    ]
    assert [video.label for video in read_index(str(out))] == [REAL, FAKE]


def test_the_command_indexes_an_index_onto_itself(tmp_path: Path) -> None:
    path = table_of(tmp_path / "videos.parquet", A_ROW, schema=INDEX_SCHEMA)
    assert invoke(path, path).exit_code == 0
    assert read_index(path) == [VideoRef(**A_ROW)]


def bad_usage(root: Path) -> Iterator[tuple[list[object], str]]:
    yield [root, root], "must be a file that ends in .parquet"
    yield [root, root / "folder.parquet"], "must be a file that ends in .parquet"
    yield [root, root / "a.mp4" / "out.parquet"], "a.mp4"
    yield [root / "absent", root / "out.parquet"], "is neither a file nor a folder"
    yield [root / "bad.parquet", root / "out.parquet"], "is no index of videos"
    yield [root, root / "out.parquet", "--labels", root / "bad.csv"], "line 2: label 'x' is unknown"


def test_bad_usage_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    tree(tmp_path, "a.mp4", "folder.parquet/x", "bad.parquet")
    (tmp_path / "bad.csv").write_text("path,label\na.mp4,x\n")
    for arguments, said in bad_usage(tmp_path):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert said in result.stderr
        assert "Traceback" not in result.stderr
        assert not result.stdout
        assert not (tmp_path / "out.parquet").exists()


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    result = invoke(tmp_path / "absent", tmp_path / "out.parquet", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_an_interrupt_is_exit_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    tree(tmp_path, "a.mp4")
    monkeypatch.setattr(os, "scandir", interrupted)
    assert invoke(tmp_path, tmp_path / "out.parquet").exit_code == 130


# In batches


@pytest.mark.parametrize(
    ("limit", "expected", "expected_beyond"),
    [
        (None, [3, 3, 1], []),
        (1, [1], [2, 3, 1]),
        (3, [3], [3, 1]),
        (4, [3, 1], [2, 1]),
        (6, [3, 3], [1]),
        (7, [3, 3, 1], []),
        (100, [3, 3, 1], []),
    ],
)
def test_videos_come_in_batches_as_often_as_they_are_asked_for_and_so_do_those_that_a_limit_leaves_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    expected: list[int],
    expected_beyond: list[int],
) -> None:
    monkeypatch.setattr("pipeline.catalog.BATCH_ROWS", 3)
    for number in range(7):
        (tmp_path / f"{number}.mp4").touch()
    refs, _ = build_index(str(tmp_path))
    write_index(str(tmp_path / "index.parquet"), refs)
    for where in (tmp_path, tmp_path / "index.parquet"):
        videos = Videos(str(where), None, limit)
        for _ in range(2):
            batches, beyond = list(videos.batches()), list(videos.beyond_limit())
            assert [ref for batch in batches for ref in batch] == refs[:limit]
            assert [ref for batch in (*batches, *beyond) for ref in batch] == refs
            assert [len(batch) for batch in batches] == expected
            assert [len(batch) for batch in beyond] == expected_beyond


def test_an_index_without_rows_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    write_index(str(tmp_path / "index.parquet"), [])
    with pytest.raises(NoVideosError, match="without rows"):
        Videos(str(tmp_path / "index.parquet"))
    with pytest.raises(LabelError, match="labels of its own"):
        Videos(str(tmp_path / "index.parquet"), "labels.csv")
