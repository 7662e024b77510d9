"""Fakes and their originals by the main command: however they come, the store is the one of all at once."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pipeline.catalog import Videos, build_index, write_index
from pipeline.extract import main
from pipeline.job import pending, take_stock
from pipeline.ledger import Ledger
from pipeline.store import FaceStore
from pipeline.types import REAL
from tests.faces import Face, face_video
from tests.families import make_family
from tests.test_extract import Ended, assert_whole, digest, extract, statuses

pytestmark = pytest.mark.usefixtures("same_signal_handlers")

LABELS = """path,label,original
a-fake.mp4,FAKE,z.mp4
b-other.mp4,FAKE,z.mp4
c-lost.mp4,FAKE,gone.mp4
d-remade.mp4,FAKE,a-fake.mp4
y-fake.mp4,FAKE,z.mp4
z.mp4,REAL,
"""
"""Of three fakes of z.mp4 two come before it by name, and one shows something else."""
MANY = 2
"""In a partition: the family is more than that."""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families") / "videos"
    folder.mkdir()
    made = make_family(tmp_path_factory.mktemp("made"))
    for name, source in (
        *(("z", "original"), ("a-fake", "left"), ("y-fake", "right")),
        *(("c-lost", "left"), ("d-remade", "copy")),
    ):
        shutil.copy(made / f"{source}.mp4", folder / f"{name}.mp4")
    face_video(folder / "b-other.mp4", 40)
    face_video(folder / "m-alone.mp4", 40, [Face("obama_2")])
    (folder.parent / "labels.csv").write_text(LABELS)
    return folder


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(f"crop: {{size: 48}}\nextract: {{videos_per_partition: {MANY}}}\n")
    return path


def run(videos: Path, store: Path, params: Path, *flags: object, labels: Path | None = None) -> Ended:
    labels = labels or videos.parent / "labels.csv"
    ended = extract(videos, store, "--params", params, "--labels", labels, *flags)
    assert ended.exit_code == 0, ended.stderr
    return ended


@pytest.fixture(scope="module")
def at_once(videos: Path, params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of an undisturbed run, a family in one partition; not to be changed."""
    large = tmp_path_factory.mktemp("params") / "params.yaml"
    large.write_text("crop: {size: 48}\n")
    store = tmp_path_factory.mktemp("at-once") / "store"
    run(videos, store, large)
    return store


def rows(store: Path) -> dict[str, dict[str, Any]]:
    return {row["video_id"]: row for row in FaceStore.open(str(store)).videos.to_pylist()}


def tracks_from(store: Path) -> dict[str, str]:
    return {video_id: row["tracks_from"] for video_id, row in rows(store).items()}


PAIRED = {"a-fake.mp4": "original", "y-fake.mp4": "original"}
EXPECTED = PAIRED | dict.fromkeys(("b-other.mp4", "c-lost.mp4", "d-remade.mp4", "m-alone.mp4", "z.mp4"), "own")


def test_fakes_have_the_tracks_of_their_original_or_a_note_why_not(at_once: Path) -> None:
    assert set(statuses(at_once).values()) == {"ok"}
    assert tracks_from(at_once) == EXPECTED
    assert {name: row["pairing_note"] for name, row in rows(at_once).items()} == {
        "b-other.mp4": "it has frames of 160 x 120 pixels, its original of 240 x 120",
        "c-lost.mp4": "its original is not among the videos",
        "d-remade.mp4": "its original was itself made from another video",
        **dict.fromkeys([*PAIRED, "m-alone.mp4", "z.mp4"]),
    }
    tracks = FaceStore.open(str(at_once)).tracks.to_pylist()
    of_original = [row for row in tracks if row["video_id"] == "z.mp4"]
    assert [row["face_label"] for row in of_original] == [0, 0]
    for name in PAIRED:
        of_fake = [row for row in tracks if row["video_id"] == name]
        for column in ("pair_id", "crop_xyxy", "boxes_xyxy", "frame_start", "frame_stop"):
            assert [row[column] for row in of_fake] == [row[column] for row in of_original]
        assert sorted(row["face_label"] for row in of_fake) == [0, 1], "one of its two faces was changed"
    assert_whole(at_once)


def test_a_fake_is_cut_along_an_original_that_comes_later(
    at_once: Path, videos: Path, params: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    for limit in (1, 2):
        run(videos, store, params, "--limit", limit)
        assert tracks_from(store) == {name: EXPECTED[name] for name in sorted(EXPECTED)[:limit]}
    run(videos, store, params)
    assert digest(store) == digest(at_once)
    assert_whole(store)


def test_fakes_that_come_later_are_cut_along_an_original_that_is_done(
    at_once: Path, videos: Path, params: Path, tmp_path: Path
) -> None:
    inputs, store = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(videos, inputs)
    for name in PAIRED:
        (inputs / name).unlink()
    labels = videos.parent / "labels.csv"
    run(inputs, store, params, labels=labels)
    assert PAIRED.keys().isdisjoint(statuses(store))
    before = {path.name for path in (store / "arrays").iterdir()}
    for name in PAIRED:
        shutil.copy(videos / name, inputs)
    # A group is named after the first of its videos, which is now another.
    assert "2 videos in" in run(inputs, store, params, "--relabel", labels=labels).stdout
    assert tracks_from(store).items() >= PAIRED.items()
    assert before < {path.name for path in (store / "arrays").iterdir()}, "what was done is left as it is"
    assert digest(store) == digest(at_once)
    assert_whole(store)


def test_a_fake_that_was_mended_is_cut_along_its_original_when_it_is_done_again(
    at_once: Path, videos: Path, params: Path, tmp_path: Path
) -> None:
    inputs, store = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(videos, inputs)
    (inputs / "a-fake.mp4").write_text("not a video")
    labels = videos.parent / "labels.csv"
    run(inputs, store, params, labels=labels)
    assert statuses(store)["a-fake.mp4"] == "decode_error"
    assert tracks_from(store)["y-fake.mp4"] == "original"
    shutil.copy(videos / "a-fake.mp4", inputs)
    assert "0 videos in" in run(inputs, store, params, labels=labels).stdout
    assert "1 videos in" in run(inputs, store, params, "--retry-failed", labels=labels).stdout
    assert digest(store) == digest(at_once)
    assert_whole(store)


def test_fakes_of_an_original_that_cant_be_read_are_done_by_themselves(
    videos: Path, params: Path, tmp_path: Path
) -> None:
    inputs, store = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(videos, inputs)
    (inputs / "z.mp4").write_text("not a video")
    labels = videos.parent / "labels.csv"
    run(inputs, store, params, labels=labels)
    assert statuses(store) == dict.fromkeys(EXPECTED, "ok") | {"z.mp4": "decode_error"}
    notes = {name: row["pairing_note"] for name, row in rows(store).items()}
    assert {notes[name] for name in PAIRED} == {"its original can't be searched (VideoDecodeError)"}
    assert_whole(store)


@pytest.mark.parametrize(
    "workers", [0, *(pytest.param(number, marks=[pytest.mark.cluster, pytest.mark.slow]) for number in (1, 2))]
)
def test_the_digest_depends_neither_on_workers_nor_on_the_order_of_the_index(
    at_once: Path, videos: Path, params: Path, tmp_path: Path, workers: int
) -> None:
    refs, _ = build_index(str(videos), str(videos.parent / "labels.csv"))
    random.Random(workers).shuffle(refs)
    index = tmp_path / "index.parquet"
    write_index(str(index), refs)
    assert extract(index, tmp_path / "store", "--params", params, "--workers", workers).exit_code == 0
    assert digest(tmp_path / "store") == digest(at_once)
    assert_whole(tmp_path / "store")


@pytest.mark.parametrize(("videos_per_partition", "num_workers"), [(16, 4), (1, 7)])
def test_there_are_workers_for_all_families_and_for_what_is_cut_off_them(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, videos_per_partition: int, num_workers: int
) -> None:
    """Of z.mp4 and its three fakes, of the two that name another, and of m-alone.mp4."""
    monkeypatch.setattr("pipeline.machines.threads_per_worker", lambda _num_workers: 100)
    params = tmp_path / "params.yaml"
    params.write_text(f"extract: {{videos_per_partition: {videos_per_partition}}}\n")
    command = [videos, tmp_path / "store", "--labels", videos.parent / "labels.csv", "--params", params]
    ended = CliRunner().invoke(main, [*map(str, command), "--device", "cpu", "--dry-run"])
    assert ended.exit_code == 0
    assert f"by {num_workers} worker processes" in ended.stdout


@pytest.mark.parametrize(("limit", "num_families"), [(1, 1), (3, 2), (None, 4)])
def test_stock_is_taken_of_families(videos: Path, limit: int | None, num_families: int) -> None:
    with Ledger() as ledger:
        todo = take_stock(ledger, Videos(str(videos), str(videos.parent / "labels.csv"), limit), None, False)
        found = list(pending(ledger, retry_failed=False))
    assert todo.num_families == num_families == len({one.family for one in found})
    assert todo.num_pending == len(found) == (limit or len(EXPECTED))
    sources = {one.ref.video_id: one.source for one in found}
    (original,) = (ref for ref in build_index(str(videos), str(videos.parent / "labels.csv"))[0] if ref.label == REAL)
    assert sources["a-fake.mp4"] == original, "also where a limit leaves it out"
