"""An original and its fakes: the same tracks, a label a face, and no fake that depends on what else is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest

import pipeline.family
from pipeline import compare
from pipeline.agreement import Agreement
from pipeline.config import DetectSettings, ExtractSettings, PairSettings
from pipeline.crop import crop_square, sharpness
from pipeline.cutter import Cutter
from pipeline.decode import VideoDecodeError, VideoReader
from pipeline.files import StoreFiles
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL, UInt8Array
from pipeline.writer import PartitionWriter, StoreWriteError
from tests.faces import Face, face_frames
from tests.families import (
    LEFT,
    NUM_FRAMES,
    SETTINGS,
    WIDTH,
    Done,
    fake_frames,
    family,
    lossless_each,
    make_family,
    process,
    ref,
    video,
)
from tests.videos import drop_packets


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """original.mp4, left.mp4, right.mp4, copy.mp4."""
    return make_family(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    return process(tmp_path_factory.mktemp("done") / "store", [original, *fakes], sources=sources)


@pytest.fixture(scope="module")
def by_themselves(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The same videos, but nothing is known of what they were made from."""
    original, fakes, _ = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    return process(tmp_path_factory.mktemp("alone") / "store", [original, *fakes], sources={})


# Fakes that agree


def test_fakes_have_the_tracks_of_their_original(done: Done) -> None:
    assert done.paired == {"left.mp4", "right.mp4", "copy.mp4"}
    assert set(done.notes.values()) == {None}
    of_original = done.tracks["original.mp4"]
    assert [row["pair_id"] for row in of_original] == ["original.mp4#0.0", "original.mp4#1.0"]
    same = (
        "frame_start", "frame_stop", "boxes_xyxy", "landmarks", "scores", "observed", "crop_xyxy", "face_id", "segment",
        "pair_id", "timestamps_seconds",
    )  # fmt: skip
    for name in done.paired:
        assert done.videos[name]["detect_seconds"] == 0.0
        assert done.videos[name]["num_tracks"] == 2
        for row, other in zip(done.tracks[name], of_original, strict=True):
            assert {key: row[key] for key in same} == {key: other[key] for key in same}


def test_clips_of_a_fake_are_its_own_pixels(folder: Path, done: Done) -> None:
    with VideoReader(str(folder / "left.mp4")) as reader:
        frames = [frame.bgr for frame in reader.frames()]
    for row in done.tracks["left.mp4"]:
        squares = np.array(row["crop_xyxy"], np.float32)
        for index, stored in enumerate(done.store.frames(row)):
            shown = frames[row["frame_start"] + index]
            np.testing.assert_array_equal(stored[..., ::-1], crop_square(shown, squares[index], 32))


def test_of_a_fake_that_face_is_labelled_fake_that_was_changed(done: Done) -> None:
    labels = {
        name: {"left" if row["boxes_xyxy"][0][0] < WIDTH / 2 else "right": row["face_label"] for row in rows}
        for name, rows in done.tracks.items()
    }
    assert labels == {
        "original.mp4": {"left": REAL, "right": REAL},
        "left.mp4": {"left": FAKE, "right": REAL},
        "right.mp4": {"left": REAL, "right": FAKE},
        "copy.mp4": {"left": REAL, "right": REAL},
    }


def test_a_score_is_the_median_of_those_of_its_frames(done: Done) -> None:
    for name, rows in done.tracks.items():
        for row in rows:
            if name == "original.mp4":
                assert (row["change_score"], row["change_scores"]) == (None, None)
            else:
                assert row["change_score"] == np.float32(np.median(np.array(row["change_scores"], np.float32)))


def test_the_label_of_a_face_follows_that_of_its_video(folder: Path, tmp_path: Path) -> None:
    original, _, sources = family(folder)
    videos = [ref(folder / "left.mp4", "original.mp4", label, f"{label}.mp4") for label in (FAKE, REAL)]
    videos.append(replace(ref(folder / "left.mp4", "original.mp4", name="None.mp4"), label=None))
    done = process(tmp_path / "store", [original, *videos], sources=sources)
    assert done.paired == {"0.mp4", "1.mp4", "None.mp4"}
    by_label = {name: {row["face_label"] for row in rows} for name, rows in done.tracks.items()}
    assert by_label == {"original.mp4": {REAL}, "1.mp4": {REAL, FAKE}, "0.mp4": {REAL}, "None.mp4": {None}}
    scores = {tuple(row["change_score"] for row in done.tracks[name]) for name in done.paired}
    assert len(scores) == 1, "labels don't enter the comparison"


def test_a_fake_that_is_the_very_file_of_its_original_is_the_same_to_the_last_bit(folder: Path, tmp_path: Path) -> None:
    original, _, sources = family(folder)
    twin = ref(folder / "original.mp4", "original.mp4", name="twin.mp4")
    done = process(tmp_path / "store", [original, twin], sources=sources)
    assert done.paired == {"twin.mp4"}
    for row, other in zip(done.tracks["twin.mp4"], done.tracks["original.mp4"], strict=True):
        assert (row["change_score"], row["face_label"], row["checksum"]) == (0.0, REAL, other["checksum"])


# What a fake doesn't depend on


def test_a_fake_is_the_same_whether_its_original_is_beside_it_or_elsewhere(
    folder: Path, tmp_path: Path, done: Done
) -> None:
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    apart = process(tmp_path / "apart", [fakes[2], fakes[0]], [original], [fakes[1]], sources=sources)
    assert apart.store.digest() == done.store.digest()
    turned = process(tmp_path / "turned", [*reversed(fakes), original], sources=sources)
    assert turned.store.digest() == done.store.digest()


@pytest.mark.parametrize("most", [1, 2])
def test_nor_on_how_many_are_read_together(
    folder: Path, tmp_path: Path, done: Done, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(pipeline.family, "MAX_TOGETHER", most)
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    assert process(tmp_path / "store", [original, *fakes], sources=sources).store.digest() == done.store.digest()


def test_more_fakes_than_are_read_together_are_all_paired(folder: Path, tmp_path: Path) -> None:
    original, _, sources = family(folder)
    names = [f"{number}.mp4" for number in range(pipeline.family.MAX_TOGETHER + 1)]
    fakes = [ref(folder / "left.mp4", "original.mp4", name=name) for name in names]
    done = process(tmp_path / "store", [original, *fakes], sources=sources)
    assert done.paired == set(names)
    assert len({row["checksum"] for name in names for row in done.tracks[name]}) == 2


def test_nor_on_the_number_of_threads(folder: Path, tmp_path: Path, done: Done) -> None:
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    two = process(tmp_path / "store", [original, *fakes], sources=sources, num_threads=2)
    assert two.store.digest() == done.store.digest()


def test_an_original_is_the_same_with_and_without_fakes(done: Done, by_themselves: Done) -> None:
    assert done.contents("original.mp4") == by_themselves.contents("original.mp4")


def test_two_families_in_one_partition_dont_meet(folder: Path, tmp_path: Path, done: Done) -> None:
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    second = ref(folder / "copy.mp4", name="second.mp4")
    of_second = ref(folder / "right.mp4", "second.mp4", name="of second.mp4")
    together = [fakes[0], second, fakes[1], original, of_second, fakes[2]]
    both = process(tmp_path / "store", together, sources=sources | {"second.mp4": second})
    for name in done.videos:
        assert both.contents(name) == done.contents(name)
    assert both.tracks["of second.mp4"][0]["pair_id"] == "second.mp4#0.0"


# Fakes that don't agree are done like any other video


def zoomed(frames: Iterable[UInt8Array]) -> Iterator[UInt8Array]:
    for rgb in frames:
        yield np.asarray(cv2.resize(rgb[8:-8, 16:-16], (WIDTH, 120)), np.uint8)


def cut_off(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


UNLIKE: dict[str, tuple[Callable[[Path], object], str]] = {
    "smaller.mp4": (
        lambda path: video(path, (cv2.resize(rgb, (200, 100)) for rgb in fake_frames())),
        "frames of 200 x 100 pixels, its original of 240 x 120",
    ),
    "shorter.mp4": (lambda path: video(path, fake_frames(NUM_FRAMES - 6)), "it has 6 frames less than its original"),
    "longer.mp4": (lambda path: video(path, fake_frames(NUM_FRAMES + 6)), "it has 6 frames more than its original"),
    "late.mp4": (lambda path: video(path, list(fake_frames(NUM_FRAMES + 1))[1:]), "it is shifted in time"),
    "zoomed.mp4": (lambda path: video(path, zoomed(fake_frames())), "about frame 0"),
    "another.mp4": (
        lambda path: video(path, face_frames(NUM_FRAMES, [Face("biden", start=(60, 30), speed=(0, 0.2))], WIDTH)),
        "it shows something else than its original",
    ),
    "cut.mkv": (
        lambda path: cut_off(lossless_each(path.with_name("whole.mkv"), fake_frames()), path, 0.5),
        "frames less than its original",
    ),
    "empty.mp4": (lambda path: path.touch(), "it can't be compared with its original (VideoDecodeError)"),
    "text.mp4": (lambda path: path.write_text("no video"), "it can't be compared with its original (VideoDecodeError)"),
    "gone.mp4": (lambda _: None, "it can't be compared with its original (VideoDecodeError)"),
}


@pytest.fixture(scope="module")
def unlike(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Done, Done]:
    """All of these beside a fake that agrees; and each by itself."""
    here = tmp_path_factory.mktemp("unlike")
    for name, (make, _) in UNLIKE.items():
        make(here / name)
    original, fakes, sources = family(folder, "left.mp4")
    videos = [original, *(ref(here / name, "original.mp4") for name in UNLIKE), *fakes]
    return process(here / "family", videos, sources=sources), process(here / "alone", videos, sources={})


@pytest.mark.parametrize("name", UNLIKE)
def test_a_fake_that_shows_something_else_is_as_if_it_had_no_original(unlike: tuple[Done, Done], name: str) -> None:
    together, alone = unlike
    note = together.notes[name]
    assert note is not None
    assert UNLIKE[name][1] in note
    assert alone.notes[name] is None
    assert together.contents(name) == alone.contents(name)
    if together.videos[name]["status"] == "ok":
        assert {row["face_label"] for row in together.tracks[name]} == {None}
        assert {row["pair_id"] for row in together.tracks[name]} == {None}


def test_and_costs_those_beside_it_nothing(unlike: tuple[Done, Done], done: Done) -> None:
    together, _ = unlike
    assert together.paired == {"left.mp4"}
    for name in ("original.mp4", "left.mp4"):
        assert together.contents(name) == done.contents(name)


def test_without_reuse_all_videos_are_done_by_themselves(folder: Path, tmp_path: Path, by_themselves: Done) -> None:
    original, fakes, sources = family(folder, "left.mp4", "copy.mp4")
    off = SETTINGS.model_copy(update={"pair": PairSettings(reuse_tracks=False)})
    done = process(tmp_path / "store", [original, *fakes], sources=sources, settings=off)
    assert done.notes == {
        "original.mp4": None, "left.mp4": "pair.reuse_tracks is off", "copy.mp4": "pair.reuse_tracks is off",
    }  # fmt: skip
    for name in done.videos:
        assert done.contents(name) == by_themselves.contents(name)


# More frames, less frames, lost frames


def test_a_few_frames_more_or_less_are_no_objection(folder: Path, tmp_path: Path) -> None:
    original, _, sources = family(folder)
    more = ref(video(tmp_path / "more.mp4", fake_frames(NUM_FRAMES + 5)), "original.mp4")
    less = ref(video(tmp_path / "less.mp4", fake_frames(NUM_FRAMES - 5)), "original.mp4")
    done = process(tmp_path / "store", [original, more, less], sources=sources)
    assert done.paired == {"more.mp4", "less.mp4"}
    stops = {name: {row["frame_stop"] for row in rows} for name, rows in done.tracks.items()}
    assert stops == {"original.mp4": {40}, "more.mp4": {40}, "less.mp4": {35}}
    assert {name: row["num_frames_decoded"] for name, row in done.videos.items()} == {
        "original.mp4": 40, "more.mp4": 45, "less.mp4": 35,
    }  # fmt: skip
    for row, whole in zip(done.tracks["less.mp4"], done.tracks["original.mp4"], strict=True):
        assert row["crop_xyxy"] == whole["crop_xyxy"][:35]
        assert row["pair_id"] == whole["pair_id"]


def test_of_a_limited_number_of_frames_all_of_a_family_end_there(folder: Path, tmp_path: Path) -> None:
    original, fakes, sources = family(folder, "left.mp4")
    longer = ref(video(tmp_path / "longer.mp4", fake_frames(NUM_FRAMES + 30)), "original.mp4")
    limited = SETTINGS.model_copy(update={"detect": DetectSettings(max_frames=34)})
    done = process(tmp_path / "store", [original, *fakes, longer], sources=sources, settings=limited)
    # Thirty frames more are no objection either: nobody looks at them.
    assert done.paired == {"left.mp4", "longer.mp4"}
    for name, row in done.videos.items():
        assert (row["num_frames_decoded"], row["message"]) == (34, None)
        assert [(track["frame_start"], track["frame_stop"]) for track in done.tracks[name]] == [(0, 34)] * 2
        assert np.flatnonzero(done.tracks[name][0]["observed"]).tolist() == [0, 10, 20, 30, 33]


@pytest.mark.parametrize("who", ["fake", "original"])
def test_frames_lost_in_either_video_are_a_gap_and_what_is_left_stays_aligned(tmp_path: Path, who: str) -> None:
    whole = {
        "original": lossless_each(tmp_path / "whole original.mkv", fake_frames(72)),
        "fake": lossless_each(tmp_path / "whole fake.mkv", fake_frames(72, [LEFT])),
    }
    whole[who] = drop_packets(whole[who], tmp_path / f"{who}.mkv", [5, 37, 38])
    original = ref(whole["original"])
    fake = ref(whole["fake"], original.video_id)
    done = process(tmp_path / "store", [original, fake], sources={original.video_id: original})
    assert done.paired == {fake.video_id}
    pieces = {
        name: [(row["face_id"], row["segment"], row["frame_start"], row["frame_stop"]) for row in rows]
        for name, rows in done.tracks.items()
    }
    in_pieces = [(0, 0, 6, 37), (0, 1, 39, 72), (1, 0, 6, 37), (1, 1, 39, 72)]
    assert pieces[fake.video_id] == in_pieces
    assert pieces[original.video_id] == (in_pieces if who == "original" else [(0, 0, 0, 72), (1, 0, 0, 72)])
    for row in done.tracks[fake.video_id]:
        partner = next(other for other in done.tracks[original.video_id] if other["pair_id"] == row["pair_id"]
                       and other["frame_start"] <= row["frame_start"] < other["frame_stop"])  # fmt: skip
        offset = row["frame_start"] - partner["frame_start"]
        assert partner["crop_xyxy"][offset : offset + len(row["crop_xyxy"])] == row["crop_xyxy"]
        was_changed = row["boxes_xyxy"][0][0] < WIDTH / 2
        assert row["face_label"] == (FAKE if was_changed else REAL)
    assert done.videos[fake.video_id]["num_tracks_too_short"] == 2, "five frames before the first gap, of each face"
    assert done.videos[fake.video_id]["num_frames_failed"] == (3 if who == "fake" else 0)


def test_a_fake_with_too_little_left_where_its_original_shows_faces_is_searched(tmp_path: Path) -> None:
    original = ref(lossless_each(tmp_path / "original.mkv", fake_frames()))
    whole = lossless_each(tmp_path / "whole.mkv", fake_frames(changed=[LEFT]))
    fake = ref(drop_packets(whole, tmp_path / "fake.mkv", range(10, 40, 12)), "original.mkv")
    done = process(tmp_path / "store", [original, fake], sources={"original.mkv": original})
    assert done.paired == set()
    assert "too many of its frames failed to decode" in str(done.notes["fake.mkv"])
    assert done.videos["fake.mkv"]["status"] == "too_short"


def test_a_fake_with_damaged_packets_costs_no_more_than_itself(folder: Path, tmp_path: Path, done: Done) -> None:
    data = bytearray(lossless_each(tmp_path / "whole.mkv", fake_frames(changed=[LEFT])).read_bytes())
    rng = np.random.default_rng(0)
    for at in rng.integers(len(data) // 4, len(data) * 3 // 4, 40):
        data[at] ^= 0xFF
    (tmp_path / "damaged.mkv").write_bytes(data)
    original, fakes, sources = family(folder, "right.mp4")
    damaged = ref(tmp_path / "damaged.mkv", "original.mp4")
    beside = process(tmp_path / "store", [original, damaged, *fakes], sources=sources)
    assert beside.videos["damaged.mkv"]["status"] in {"ok", "too_short"}
    for name in ("original.mp4", "right.mp4"):
        assert beside.contents(name) == done.contents(name)


# What is wrong with an original


def brief(path: Path) -> object:
    return video(path, fake_frames(shown=lambda index: index < 15))


@pytest.mark.parametrize(
    ("make", "status", "note"),
    [
        (lambda _: None, "decode_error", "its original can't be searched (VideoDecodeError)"),
        (lambda path: path.write_text("text"), "decode_error", "its original can't be searched (VideoDecodeError)"),
        (lambda path: video(path, face_frames(NUM_FRAMES, (), WIDTH)), "no_face", "no face was found in its original"),
        (brief, "too_short", "no face was found in its original"),
    ],
    ids=["gone", "text", "no face", "too short"],
)
@pytest.mark.parametrize("is_beside", [True, False], ids=["beside", "elsewhere"])
def test_fakes_of_an_original_that_is_of_no_use_are_done_by_themselves(
    folder: Path, tmp_path: Path, make: Callable[[Path], object], status: str, note: str, is_beside: bool
) -> None:
    make(tmp_path / "bad.mp4")
    original = ref(tmp_path / "bad.mp4")
    fake = ref(folder / "left.mp4", "bad.mp4")
    videos = [original, fake] if is_beside else [fake]
    done = process(tmp_path / "store", videos, sources={"bad.mp4": original})
    assert done.notes["left.mp4"] == note
    assert (done.videos["left.mp4"]["status"], done.videos["left.mp4"]["num_tracks"]) == ("ok", 2)
    assert ("bad.mp4" in done.videos) == is_beside
    if is_beside:
        assert done.videos["bad.mp4"]["status"] == status
        assert done.notes["bad.mp4"] is None


class Unreliable:
    """In place of VideoReader where a family is read: the original fails on its second pass."""

    def __init__(self, bad_path: str, at_frame: int | None, error: Exception) -> None:
        self.bad_path = bad_path
        self.at_frame = at_frame
        self.error = error

    def __call__(self, path: str, num_threads: int | None, *how: Any) -> VideoReader:
        if path != self.bad_path:
            return VideoReader(path, num_threads, *how)
        if self.at_frame is None:
            raise self.error
        return FailingReader(path, num_threads, self.at_frame, self.error)


class FailingReader(VideoReader):
    """A reader whose frames end with an error."""

    def __init__(self, path: str, num_threads: int | None, at_frame: int, error: Exception) -> None:
        super().__init__(path, num_threads)
        self._at_frame = at_frame
        self._error = error

    def frames(self, wanted: Callable[[int], bool] | None = None) -> Generator[Any, None, None]:
        for frame in super().frames(wanted):
            if frame.index == self._at_frame:
                raise self._error
            yield frame


@pytest.mark.parametrize("at_frame", [None, 0, 35])
@pytest.mark.parametrize("is_beside", [True, False], ids=["beside", "elsewhere"])
def test_an_original_that_cant_be_read_again_costs_its_fakes_the_pairing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_themselves: Done, at_frame: int | None,
    is_beside: bool,
) -> None:  # fmt: skip
    original, fakes, sources = family(folder, "left.mp4", "copy.mp4")
    bad = Unreliable(original.path, at_frame, VideoDecodeError("gone meanwhile"))
    monkeypatch.setattr(pipeline.family, "VideoReader", bad)
    done = process(tmp_path / "store", [original, *fakes] if is_beside else fakes, sources=sources)
    for name in ("left.mp4", "copy.mp4"):
        assert done.notes[name] == "its original can't be read again (VideoDecodeError)"
        assert done.contents(name) == by_themselves.contents(name)
    if is_beside:
        row = done.videos["original.mp4"]
        assert (row["status"], row["message"], row["num_tracks"]) == ("decode_error", "gone meanwhile", 0)


def test_a_fake_that_left_before_its_original_failed_keeps_its_own_reason(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, fakes, sources = family(folder, "left.mp4")
    unlike = ref(video(tmp_path / "zoomed.mp4", zoomed(fake_frames())), "original.mp4")
    monkeypatch.setattr(pipeline.family, "VideoReader", Unreliable(original.path, 35, RuntimeError("injected")))
    done = process(tmp_path / "store", [original, *fakes, unlike], sources=sources)
    assert done.notes["left.mp4"] == "its original can't be read again (RuntimeError)"
    assert "about frame 0" in str(done.notes["zoomed.mp4"])


# Errors amid the work


class OnceFor:
    """Does what a function does, but raises once, while a certain video is worked on."""

    def __init__(self, owner: Any, name: str, video_id: str, told: Sequence[str | None]) -> None:
        self._function = getattr(owner, name)
        self._video_id = video_id
        self._told = told
        self.was_raised = False

    def as_function(self) -> Callable[..., Any]:
        def function(*args: Any, **kwargs: Any) -> Any:
            if self._told[-1] == self._video_id and not self.was_raised:
                self.was_raised = True
                raise RuntimeError("injected")
            return self._function(*args, **kwargs)

        return function


STAGES: list[tuple[Any, str]] = [
    (pipeline.family, "VideoReader"),
    (compare, "cells_of"),
    (compare.Original, "noise"),
    (compare.Original, "change_score"),
    (Agreement, "add"),
    (Agreement, "objection_in_time"),
    (Agreement, "objection_in_space"),
    (pipeline.cutter, "crop_square"),
    (pipeline.cutter, "track_score"),
    (pipeline.cutter, "sharpness"),
    (Cutter, "take"),
    (Cutter, "finish"),
]


@pytest.mark.parametrize(("owner", "name"), STAGES, ids=[name for _, name in STAGES])
def test_an_error_costs_one_fake_its_pairing_and_no_other_anything(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    done: Done,
    by_themselves: Done,
    owner: Any,
    name: str,
) -> None:
    told: list[str | None] = [None]
    faulty = OnceFor(owner, name, "left.mp4", told)
    monkeypatch.setattr(owner, name, faulty.as_function())
    original, fakes, sources = family(folder, "left.mp4", "right.mp4")
    hurt = process(tmp_path / "store", [original, *fakes], sources=sources, told=told.append)
    assert faulty.was_raised
    assert hurt.notes["left.mp4"] == "it can't be compared with its original (RuntimeError)"
    assert hurt.contents("left.mp4") == by_themselves.contents("left.mp4")
    for other in ("original.mp4", "right.mp4"):
        assert hurt.contents(other) == done.contents(other)


@pytest.mark.parametrize("name", ["cells_of", "Original"])
def test_an_error_in_comparing_costs_no_original_its_row(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_themselves: Done, name: str
) -> None:
    told: list[str | None] = [None]
    faulty = OnceFor(compare, name, "original.mp4", told)
    monkeypatch.setattr(compare, name, faulty.as_function())
    original, fakes, sources = family(folder, "left.mp4", "right.mp4")
    hurt = process(tmp_path / "store", [original, *fakes], sources=sources, told=told.append)
    assert faulty.was_raised
    for other in ("left.mp4", "right.mp4"):
        assert hurt.notes[other] == "its original can't be compared with (RuntimeError)"
        assert hurt.contents(other) == by_themselves.contents(other)
    assert hurt.contents("original.mp4") == by_themselves.contents("original.mp4")


@pytest.mark.parametrize("bad_append", [1, 2, 3])
def test_a_store_that_takes_no_frames_ends_the_partition_and_blames_no_video(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_append: int
) -> None:
    append = PartitionWriter.append
    calls: list[int] = []

    def full(*args: Any) -> int:
        calls.append(1)
        if len(calls) == bad_append:
            raise StoreWriteError("can't write: disk full")
        return append(*args)

    monkeypatch.setattr(PartitionWriter, "append", full)
    original, fakes, sources = family(folder, "left.mp4", "right.mp4")
    with pytest.raises(StoreWriteError, match="disk full"):
        process(tmp_path / "store", [original, *fakes], sources=sources)
    assert len(calls) == bad_append
    store = FaceStore.open(str(tmp_path / "store"))
    assert (store.partition_names, store.files.names("arrays")) == ([], [])


def test_no_reader_is_closed_while_a_thread_decodes_with_it(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever ends the work: it would crash the process, and the video be blamed for it."""
    has_closed = threading.Event()
    at_work: set[VideoReader] = set()
    closed_at_work: list[str] = []
    grab, close = VideoReader._grab, VideoReader.close

    def slow_grab(self: VideoReader) -> bool:
        at_work.add(self)
        if self.num_frames_decoded == 4 and threading.current_thread() is not threading.main_thread():
            has_closed.wait(0.5)
        grabbed = grab(self)
        at_work.discard(self)
        return grabbed

    def watched_close(self: VideoReader) -> None:
        if self in at_work:
            closed_at_work.append(self.path)
            has_closed.set()
        close(self)

    def take(self: Cutter, frame: Any, difference: Any = None) -> None:
        if difference is not None and frame.index == 3:
            raise StoreWriteError("can't write: disk full")

    monkeypatch.setattr(VideoReader, "_grab", slow_grab)
    monkeypatch.setattr(VideoReader, "close", watched_close)
    monkeypatch.setattr(Cutter, "take", take)
    original, fakes, sources = family(folder, "left.mp4")
    with pytest.raises(StoreWriteError):
        process(tmp_path / "store", [original, *fakes], sources=sources, num_threads=2)
    assert closed_at_work == []
    assert not at_work


# Who is blamed


@pytest.mark.parametrize(("num_threads", "is_beside"), [(1, True), (2, True), (2, False)])
def test_the_video_told_last_is_the_one_whose_file_is_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_threads: int, is_beside: bool
) -> None:
    """A hang or a crash in a decoder is the fault of that video, so it must have been named before."""
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    zoom = ref(video(tmp_path / "zoomed.mp4", zoomed(fake_frames())), "original.mp4")
    late = ref(video(tmp_path / "late.mp4", list(fake_frames(NUM_FRAMES + 1))[1:]), "original.mp4")
    long = ref(video(tmp_path / "longer.mp4", fake_frames(NUM_FRAMES + 6)), "original.mp4")
    lone = ref(folder / "copy.mp4", name="lone.mp4")
    videos = [zoom, *fakes, late, long, *([original, lone] if is_beside else [])]
    # A file may be two videos here.
    paths = {video.video_id: video.path for video in [original, *videos]}
    told: list[str | None] = [None]
    blamed_wrongly: set[tuple[str, str | None, str]] = set()
    num_grabs: dict[str, int] = {}
    grab, opened = VideoReader._grab, VideoReader.__init__

    def blame(path: str, what: str) -> None:
        if paths.get(str(told[-1])) != path:
            blamed_wrongly.add((path, told[-1], what))

    def watched_grab(self: VideoReader) -> bool:
        blame(self.path, "before")
        grabbed = grab(self)
        blame(self.path, "after")
        num_grabs[self.path] = num_grabs.get(self.path, 0) + 1
        return grabbed

    def watched_open(self: VideoReader, path: str, *how: Any) -> None:
        blame(path, "open")
        opened(self, path, *how)
        blame(path, "opened")

    monkeypatch.setattr(VideoReader, "_grab", watched_grab)
    monkeypatch.setattr(VideoReader, "__init__", watched_open)
    monkeypatch.setattr(pipeline.family, "FRAMES_IN_STEP", 7)
    monkeypatch.setattr(pipeline.family, "MAX_TOGETHER", 4)
    done = process(tmp_path / "store", videos, sources=sources, num_threads=num_threads, told=told.append)
    assert blamed_wrongly == set()
    assert done.paired == {"left.mp4", "right.mp4", "copy.mp4"}
    assert told[-1] is None
    assert num_grabs[str(folder / "left.mp4")] == NUM_FRAMES + 1, "a fake that agrees is read once"


# Masks

WITH_MASKS = SETTINGS.model_copy(update={"extract": ExtractSettings(save_masks=True)})


@pytest.fixture(scope="module")
def masked(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    original, fakes, sources = family(folder, "left.mp4", "right.mp4", "copy.mp4")
    here = tmp_path_factory.mktemp("masked")
    unlike = ref(video(here / "zoomed.mp4", zoomed(fake_frames())), "original.mp4")
    return process(here / "store", [original, *fakes, unlike], sources=sources, settings=WITH_MASKS)


def test_a_mask_lights_up_in_the_face_that_was_changed(masked: Done) -> None:
    for name, side in (("left.mp4", "left"), ("right.mp4", "right"), ("copy.mp4", None)):
        for row in masked.tracks[name]:
            frames, masks = masked.store.frames(row), masked.store.masks(row)
            assert masks.dtype == np.uint8
            assert masks.shape == frames.shape[:3]
            is_changed = ("left" if row["boxes_xyxy"][0][0] < WIDTH / 2 else "right") == side
            squares, boxes = (np.array(row[key]) for key in ("crop_xyxy", "boxes_xyxy"))
            scale = 32 / (squares[0, 2] - squares[0, 0])
            x1, y1, x2, y2 = np.round((boxes[0] - np.tile(squares[0, :2], 2)) * scale).astype(int)
            inside = np.zeros((32, 32), bool)
            inside[max(y1, 0) : y2, max(x1, 0) : x2] = True
            if is_changed:
                assert masks[0][inside].mean() > 10
                assert masks[0][~inside].mean() < 1.5
            else:
                assert masks.mean() < 1.5


def test_masks_of_what_was_not_compared_are_zeros(masked: Done) -> None:
    assert masked.paired == {"left.mp4", "right.mp4", "copy.mp4"}
    for name in ("original.mp4", "zoomed.mp4"):
        for row in masked.tracks[name]:
            assert not masked.store.masks(row).any()


def test_masks_change_nothing_else(masked: Done, done: Done) -> None:
    for name in done.videos:
        assert masked.contents(name) == done.contents(name)


def test_masks_come_in_windows_as_frames_do(masked: Done) -> None:
    row = masked.tracks["left.mp4"][0]
    np.testing.assert_array_equal(masked.store.masks(row, 3, 21, 4), masked.store.masks(row)[3:21:4])
    by_number = [masked.store.masks(number) for number in range(masked.store.tracks.num_rows)]
    number = pc.index(masked.store.tracks["checksum"], row["checksum"]).as_py()
    np.testing.assert_array_equal(by_number[number], masked.store.masks(row))
    with pytest.raises(IndexError, match="window"):
        masked.store.masks(row, 0, NUM_FRAMES + 1)


def test_a_store_made_without_masks_says_how_to_get_them(done: Done) -> None:
    assert not done.store.has_masks
    with pytest.raises(LookupError, match="save_masks: true"):
        done.store.masks(0)


def test_masks_dont_depend_on_threads_nor_on_where_the_original_is(folder: Path, tmp_path: Path, masked: Done) -> None:
    _, fakes, sources = family(folder, "left.mp4")
    other = process(tmp_path / "store", fakes, sources=sources, settings=WITH_MASKS, num_threads=2)
    for row, same in zip(other.tracks["left.mp4"], masked.tracks["left.mp4"], strict=True):
        np.testing.assert_array_equal(other.store.masks(row), masked.store.masks(same))


def test_a_fake_that_was_cut_halfway_and_comes_to_nothing_leaves_no_array(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its original is elsewhere, so that no other track of the partition names the array."""
    sharp = sharpness
    calls: list[int] = []

    def second_fails(*args: Any) -> float:
        calls.append(1)
        if len(calls) % 2 == 0:
            raise RuntimeError("injected")
        return sharp(*args)

    monkeypatch.setattr(pipeline.cutter, "sharpness", second_fails)
    _, fakes, sources = family(folder, "left.mp4")
    done = process(tmp_path / "store", fakes, sources=sources, settings=WITH_MASKS)
    assert done.videos["left.mp4"]["status"] == "failed"
    assert StoreFiles(done.store.url).names("arrays") == []
