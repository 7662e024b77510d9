"""Labels and groups: one small tree for each format, the ways to get a file wrong, and what a grouping promises."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.catalog import build_index
from pipeline.labels import Fact, LabelError, gather_facts, group_videos
from pipeline.types import FAKE, REAL


def tree(root: Path, *names: str) -> str:
    """Makes empty files; nothing here opens a video."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return str(root)


def rows(videos: str, labels: Path | None = None) -> dict[str, tuple[int | None, str | None, str]]:
    """``video_id -> (label, source_id, group_id)``."""
    index, _ = build_index(videos, None if labels is None else str(labels))
    return {video.video_id: (video.label, video.source_id, video.group_id) for video in index}


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


# Formats


def test_dfdc_metadata_in_every_folder_names_the_videos_beside_it(tmp_path: Path) -> None:
    root = tree(tmp_path, "part_0/a.mp4", "part_0/b.mp4", "part_0/c.mp4", "part_1/a.mp4", "part_1/b.mp4")
    fake_of_b = {"label": "FAKE", "split": "train", "original": "b.mp4"}
    real = {"label": "REAL", "split": "train"}
    write_json(tmp_path / "part_0/metadata.json", {"a.mp4": fake_of_b, "b.mp4": real, "c.mp4": fake_of_b})
    write_json(tmp_path / "part_1/metadata.json", {"a.mp4": {"label": "REAL", "original": None}, "b.mp4": real})
    assert rows(root) == {
        "part_0/a.mp4": (FAKE, "part_0/b.mp4", "part_0/a.mp4"),
        "part_0/b.mp4": (REAL, None, "part_0/a.mp4"),
        "part_0/c.mp4": (FAKE, "part_0/b.mp4", "part_0/a.mp4"),
        "part_1/a.mp4": (REAL, None, "part_1/a.mp4"),
        "part_1/b.mp4": (REAL, None, "part_1/b.mp4"),
    }


def test_fakes_of_a_missing_original_stay_together(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    fake = {"label": "FAKE", "original": "gone.mp4"}
    write_json(tmp_path / "metadata.json", {"a.mp4": fake, "b.mp4": fake, "c.mp4": {"label": "REAL"}})
    assert rows(root) == {
        "a.mp4": (FAKE, "gone.mp4", "a.mp4"),
        "b.mp4": (FAKE, "gone.mp4", "a.mp4"),
        "c.mp4": (REAL, None, "c.mp4"),
    }
    assert build_index(root)[1].missing_originals == ("gone.mp4",)


def test_metadata_in_a_linked_folder_names_the_videos_beside_it(tmp_path: Path) -> None:
    tree(tmp_path, "disk/part_0/a.mp4", "in/b.mp4")
    write_json(tmp_path / "disk/part_0/metadata.json", {"a.mp4": {"label": "FAKE", "original": "c.mp4"}})
    (tmp_path / "in/link").symlink_to(tmp_path / "disk")
    assert rows(str(tmp_path / "in")) == {
        "b.mp4": (None, None, "b.mp4"),
        "link/part_0/a.mp4": (FAKE, "link/part_0/c.mp4", "link/part_0/a.mp4"),
    }


def test_a_missing_video_that_has_a_label_still_connects(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.mp4", "z.mp4")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label,original\nz.mp4,FAKE,gone.mp4\ngone.mp4,FAKE,a.mp4\na.mp4,REAL,\n")
    assert {group for _, _, group in rows(root, labels).values()} == {"a.mp4"}
    assert build_index(root, str(labels))[1].labels_without_video == ("gone.mp4",)


FFPP_FAKES = "manipulated_sequences/Deepfakes"
FFPP_REALS = "original_sequences/youtube"


def test_faceforensics_joins_both_identities_over_methods_and_compressions(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        f"{FFPP_REALS}/c23/videos/033.mp4",
        f"{FFPP_REALS}/c40/videos/033.mp4",
        f"{FFPP_REALS}/c23/videos/097.mp4",
        f"{FFPP_REALS}/c23/videos/500.mp4",
        f"{FFPP_FAKES}/c23/videos/033_097.mp4",
        f"{FFPP_FAKES}/c40/videos/033_097.mp4",
        f"{FFPP_FAKES}/raw/videos/097_033.mp4",
        f"{FFPP_FAKES}/c23/videos/701_702.mp4",
        f"{FFPP_FAKES}/masks/videos/033_097.mp4",
    )
    group = f"{FFPP_FAKES}/c23/videos/033_097.mp4"
    assert rows(root) == {
        f"{FFPP_REALS}/c23/videos/033.mp4": (REAL, None, group),
        f"{FFPP_REALS}/c40/videos/033.mp4": (REAL, None, group),
        f"{FFPP_REALS}/c23/videos/097.mp4": (REAL, None, group),
        f"{FFPP_REALS}/c23/videos/500.mp4": (REAL, None, f"{FFPP_REALS}/c23/videos/500.mp4"),
        f"{FFPP_FAKES}/c23/videos/033_097.mp4": (FAKE, f"{FFPP_REALS}/c23/videos/033.mp4", group),
        f"{FFPP_FAKES}/c40/videos/033_097.mp4": (FAKE, f"{FFPP_REALS}/c40/videos/033.mp4", group),
        f"{FFPP_FAKES}/raw/videos/097_033.mp4": (FAKE, f"{FFPP_REALS}/c23/videos/097.mp4", group),
        f"{FFPP_FAKES}/c23/videos/701_702.mp4": (FAKE, None, f"{FFPP_FAKES}/c23/videos/701_702.mp4"),
        f"{FFPP_FAKES}/masks/videos/033_097.mp4": (None, f"{FFPP_REALS}/c23/videos/033.mp4", group),
    }


def test_deepfakedetection_joins_both_actors(tmp_path: Path) -> None:
    reals, fakes = "original_sequences/actors/c23/videos", "manipulated_sequences/DeepFakeDetection/c23/videos"
    root = tree(
        tmp_path,
        f"{reals}/01__outside_talking_still_laughing.mp4",
        f"{reals}/02__hugging_happy.mp4",
        f"{reals}/03__hugging_happy.mp4",
        f"{fakes}/01_02__outside_talking_still_laughing__YVGY8LOK.mp4",
        f"{fakes}/02_01__podium_speech_happy__0ABCDEF9.mp4",
        "original_sequences/youtube/c23/videos/001.mp4",
    )
    group = f"{fakes}/01_02__outside_talking_still_laughing__YVGY8LOK.mp4"
    original = f"{reals}/01__outside_talking_still_laughing.mp4"
    assert rows(root) == {
        original: (REAL, None, group),
        f"{reals}/02__hugging_happy.mp4": (REAL, None, group),
        f"{reals}/03__hugging_happy.mp4": (REAL, None, f"{reals}/03__hugging_happy.mp4"),
        f"{fakes}/01_02__outside_talking_still_laughing__YVGY8LOK.mp4": (FAKE, original, group),
        f"{fakes}/02_01__podium_speech_happy__0ABCDEF9.mp4": (FAKE, None, group),
        "original_sequences/youtube/c23/videos/001.mp4": (REAL, None, "original_sequences/youtube/c23/videos/001.mp4"),
    }


def test_other_names_in_a_known_layout_are_labelled_by_their_folder(tmp_path: Path) -> None:
    fake, real = f"{FFPP_FAKES}/c23/videos/mine.mp4", "YouTube-real/mine.mp4"
    assert rows(tree(tmp_path, fake, real)) == {real: (REAL, None, real), fake: (FAKE, None, fake)}


def test_part_of_a_layout_is_recognised_like_the_whole(tmp_path: Path) -> None:
    tree(tmp_path, f"{FFPP_REALS}/c23/videos/033.mp4", f"{FFPP_FAKES}/c23/videos/033_097.mp4")
    assert rows(f"{tmp_path}/{FFPP_FAKES}/*/videos/*.mp4") == {
        "c23/videos/033_097.mp4": (FAKE, None, "c23/videos/033_097.mp4")
    }
    tree(tmp_path, "Celeb-synthesis/id0_id16_0000.mp4")
    assert rows(str(tmp_path / "Celeb-synthesis")) == {"id0_id16_0000.mp4": (FAKE, None, "id0_id16_0000.mp4")}


CELEB_DF = (
    "Celeb-real/id0_0000.mp4",
    "Celeb-real/id16_0003.mp4",
    "Celeb-real/id7_0003.mp4",
    "Celeb-synthesis/id0_id16_0000.mp4",
    "YouTube-real/00170.mp4",
)


def test_celeb_df_layout_labels_all_videos_and_joins_people(tmp_path: Path) -> None:
    assert rows(tree(tmp_path, *CELEB_DF)) == {
        "Celeb-real/id0_0000.mp4": (REAL, None, "Celeb-real/id0_0000.mp4"),
        "Celeb-real/id16_0003.mp4": (REAL, None, "Celeb-real/id0_0000.mp4"),
        "Celeb-real/id7_0003.mp4": (REAL, None, "Celeb-real/id7_0003.mp4"),
        "Celeb-synthesis/id0_id16_0000.mp4": (FAKE, "Celeb-real/id0_0000.mp4", "Celeb-real/id0_0000.mp4"),
        "YouTube-real/00170.mp4": (REAL, None, "YouTube-real/00170.mp4"),
    }


def test_celeb_df_list_alone_gives_labels_and_the_layout_still_joins_people(tmp_path: Path) -> None:
    root = tree(tmp_path, *CELEB_DF)
    labels = tmp_path / "List_of_testing_videos.txt"
    labels.write_text("1 YouTube-real/00170.mp4\n0 Celeb-synthesis/id0_id16_0000.mp4\n\n")
    assert rows(root, labels) == {
        "Celeb-real/id0_0000.mp4": (None, None, "Celeb-real/id0_0000.mp4"),
        "Celeb-real/id16_0003.mp4": (None, None, "Celeb-real/id0_0000.mp4"),
        "Celeb-real/id7_0003.mp4": (None, None, "Celeb-real/id7_0003.mp4"),
        "Celeb-synthesis/id0_id16_0000.mp4": (FAKE, "Celeb-real/id0_0000.mp4", "Celeb-real/id0_0000.mp4"),
        "YouTube-real/00170.mp4": (REAL, None, "YouTube-real/00170.mp4"),
    }


def test_csv_with_all_columns(tmp_path: Path) -> None:
    root = tree(tmp_path / "in", "a.mp4", "b.mp4", "sub/a.mp4", "sub/new\nline, and comma.mp4", "e.mp4")
    labels = tmp_path / "elsewhere.csv"
    labels.write_text(
        "﻿Path,label,group,note,original\n"
        "./b.mp4, real ,x,,b.mp4\n"
        f"{root}/a.mp4,1,,kept out,b.mp4\n"
        '"sub/new\nline, and comma.mp4",Fake,,,\n'
        "sub/../sub/a.mp4,,x,,\n"
        "\n"
        "e.mp4,0,,,\n",
        encoding="utf-8",
    )
    assert rows(root, labels) == {
        "a.mp4": (FAKE, "b.mp4", "a.mp4"),
        "b.mp4": (REAL, None, "a.mp4"),
        "e.mp4": (REAL, None, "e.mp4"),
        "sub/a.mp4": (None, None, "a.mp4"),
        "sub/new\nline, and comma.mp4": (FAKE, None, "sub/new\nline, and comma.mp4"),
    }


def test_csv_paths_may_be_absolute_through_a_link_to_the_root(tmp_path: Path) -> None:
    tree(tmp_path / "in", "a.mp4")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    labels = tmp_path / "labels.csv"
    labels.write_text(f"path,label\n{tmp_path}/in/a.mp4,FAKE\n")
    assert rows(str(tmp_path / "link"), labels) == {"a.mp4": (FAKE, None, "a.mp4")}


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.json", '{"a.mp4": ', "not valid JSON"),
        ("m.json", "[" * 100_000, "not valid JSON"),
        ("m.json", '["a.mp4"]', "holds a list"),
        ("m.json", '{"a.mp4": "FAKE"}', "entry 'a.mp4': has no label"),
        ("m.json", '{"a.mp4": {"split": "train"}}', "entry 'a.mp4': has no label"),
        ("m.json", '{"a.mp4": {"label": {"is": "FAKE"}}}', "entry 'a.mp4': label {'is': 'FAKE'} is unknown"),
        ("m.json", '{"a.mp4": {"label": true}}', "entry 'a.mp4': label True is unknown"),
        ("m.json", '{"a.mp4": {"label": "MAYBE"}}', "entry 'a.mp4': label 'MAYBE' is unknown"),
        ("m.json", '{"a.mp4": {"label": "REAL"}, "a.mp4": {"label": "FAKE"}}', "entry 'a.mp4' occurs twice"),
        (
            "m.json",
            '{"a.mp4": {"label": "REAL"}, "./a.mp4": {"label": "FAKE"}}',
            "says FAKE of 'a.mp4', but entry 'a.mp4'",
        ),
        ("m.json", '{"../b.mp4": {"label": "REAL"}}', r"entry '../b.mp4': '../b.mp4' leaves the input folder"),
        ("m.json", '{"/etc/b.mp4": {"label": "REAL"}}', "leaves the input folder"),
        (
            "m.json",
            '{"a.mp4": {"label": "FAKE", "original": "x/../../b.mp4"}}',
            "entry 'a.mp4': 'x/../../b.mp4' leaves",
        ),
        ("m.json", '{"a.mp4": {"label": "FAKE", "original": ["b.mp4"]}}', r"\['b.mp4'\] is no path"),
        ("m.json", '{"a.mp4": {"label": "FAKE", "original": "\\ud800.mp4"}}', "is no path"),
        ("m.json", '{"/\\u0000": {"label": "FAKE"}}', "is no path"),
        ("m.json", '{"": {"label": "REAL"}}', "names no file"),
        ("m.csv", "", r"line 1: the columns are \[\]"),
        ("m.csv", "file,label\na.mp4,REAL\n", "line 1: the columns are"),
        ("m.csv", "path,label,Label\na.mp4,REAL,FAKE\n", "line 1: the columns are"),
        ("m.csv", "path,label\na.mp4\n", "line 2: has 1 fields for 2 columns"),
        ("m.csv", "path,label\na.mp4,REAL,x\n", "line 2: has 3 fields for 2 columns"),
        ("m.csv", 'path,label\n"a.mp4,REAL\n', "is not valid CSV"),
        ("m.csv", "path,label\na.mp4,0.5\n", "line 2: label '0.5' is unknown"),
        ("m.csv", "path,label\na.mp4,REAL\na.mp4,\na.mp4,1\n", "line 4: says FAKE of 'a.mp4', but line 2 of"),
        ("m.csv", "path,label,original\na.mp4,1,b.mp4\na.mp4,1,c.mp4\n", "line 3: says 'a.mp4' was made from 'c.mp4'"),
        ("m.csv", "path,label\n/elsewhere/a.mp4,1\n", "line 2: '/elsewhere/a.mp4' leaves the input folder"),
        ("m.txt", "1 a.mp4\nREAL a.mp4\n", "line 2: 'REAL a.mp4' isn't a label and a path"),
        ("m.txt", "1\n", "line 1: '1' isn't a label and a path"),
        ("m.txt", "0 ../a.mp4\n", "line 1: '../a.mp4' leaves"),
        ("m.xlsx", "", "files of this kind can't be read"),
    ],
)
def test_a_bad_label_file_is_refused_with_its_entry(tmp_path: Path, name: str, content: str, said: str) -> None:
    root = tree(tmp_path, "a.mp4")
    (tmp_path / name).write_text(content)
    with pytest.raises(LabelError, match=said) as caught:
        rows(root, tmp_path / name)
    assert repr(str(tmp_path / name)) in str(caught.value)


def test_labels_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.mp4")
    with pytest.raises(LabelError, match="No such file"):
        rows(root, tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(LabelError, match="Is a directory"):
        rows(root, tmp_path / "folder.csv")
    (tmp_path / "latin.csv").write_bytes("path,label\nñ.mp4,REAL\n".encode("latin-1"))
    with pytest.raises(LabelError, match="not UTF-8"):
        rows(root, tmp_path / "latin.csv")


def test_a_file_that_inverts_the_labels_of_a_known_layout_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, *CELEB_DF)
    (tmp_path / "labels.csv").write_text("path,label\nYouTube-real/00170.mp4,1\n")
    with pytest.raises(LabelError, match=r"line 2: says FAKE of 'YouTube-real/00170.mp4', but the name of its folder"):
        rows(root, tmp_path / "labels.csv")


def test_metadata_files_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, "part/a.mp4")
    write_json(tmp_path / "metadata.json", {"part/a.mp4": {"label": "REAL"}})
    write_json(tmp_path / "part/metadata.json", {"a.mp4": {"label": "FAKE"}})
    with pytest.raises(LabelError, match=r"entry 'a.mp4': says FAKE of 'part/a.mp4', but entry 'part/a.mp4' of"):
        rows(root)


# Groups

NAMES = [f"{letter}.mp4" for letter in "abcdefghijkl"]
PEOPLE = ["person:1", "person:2"]
facts_of_names = st.dictionaries(
    st.sampled_from(NAMES),
    st.builds(
        Fact,
        label=st.sampled_from([REAL, FAKE, None]),
        original=st.none() | st.sampled_from(NAMES),
        ties=st.lists(st.sampled_from(PEOPLE), max_size=2).map(tuple),
    ),
)


def connected(names: Sequence[str], facts: dict[str, Fact], first: str) -> set[str]:
    """Everything reachable from ``first``, by walking; the slow and obvious way."""
    keys = {name: {f"video:{name}", *facts.get(name, Fact(None)).ties} for name in {*names, *facts}}
    for name, fact in facts.items():
        keys[name] |= {f"video:{fact.original}"} if fact.original else set()
    reached = keys.get(first, {f"video:{first}"})
    while grown := {key for mine in keys.values() if mine & reached for key in mine} - reached:
        reached = reached | grown
    return {name for name in names if f"video:{name}" in reached}


@given(names=st.sets(st.sampled_from(NAMES)), facts=facts_of_names)
def test_groups_are_the_smallest_equivalence_that_holds_all_links(names: set[str], facts: dict[str, Fact]) -> None:
    groups = group_videos(names, facts)
    assert groups.keys() == names
    for name in names:
        together = {other for other in names if groups[other] == groups[name]}
        assert together == connected(sorted(names), facts, name)
        assert groups[name] == min(together)


@given(names=st.permutations(NAMES), facts=facts_of_names, data=st.data())
def test_groups_do_not_depend_on_the_order_of_anything(
    names: list[str], facts: dict[str, Fact], data: st.DataObject
) -> None:
    shuffled = dict(data.draw(st.permutations(list(facts.items()))))
    assert group_videos(names, shuffled) == group_videos(NAMES, facts)


def test_a_group_named_like_a_video_is_not_that_video(tmp_path: Path) -> None:
    root = tree(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text("path,label,group\nb.mp4,0,a.mp4\n")
    assert rows(root, tmp_path / "labels.csv")["b.mp4"] == (REAL, None, "b.mp4")


def test_nothing_known_leaves_every_video_on_its_own() -> None:
    assert gather_facts("anywhere", ["a.mp4", "b/a.mp4"]) == {}
    assert group_videos(["b/a.mp4", "a.mp4"], {}) == {"a.mp4": "a.mp4", "b/a.mp4": "b/a.mp4"}
