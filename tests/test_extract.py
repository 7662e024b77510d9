"""The main command: what it does on good days, on bad ones, and when it is killed halfway."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import av
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from pipeline.catalog import build_index, write_index
from pipeline.cluster import remote_cluster
from pipeline.extract import main
from pipeline.files import StoreFiles, write_file
from pipeline.runs import only_run
from pipeline.store import FaceStore
from pipeline.upkeep import find_orphans, verify_store
from tests.disks import small_disk
from tests.faces import Face, face_video
from tests.stores import set_value

# The command sets its own, for its process.
pytestmark = pytest.mark.usefixtures("same_signal_handlers")
ROOT = Path(__file__).resolve().parents[1]
DEADLINE_SECONDS = 90
PARAMS = "crop: {size: 64}\n"
SLOW_PARAMS = "crop: {size: 64}\ndetect: {every_n_frames: 2}\nextract: {videos_per_partition: 1}\n"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stdout: str
    stderr: str


def extract(*arguments: object) -> Ended:
    """Run the command in this process. An exception that would be a traceback fails the test."""
    arguments = arguments if "--workers" in arguments else (*arguments, "--workers", "0")
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    return Ended(result.exit_code, result.stdout, result.stderr)


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command as a process, with a process group of its own as under a shell."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.extract", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> Ended:
    """Wait for it; one that hangs is killed, with all that it started, and fails the test."""
    try:
        stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return Ended(process.returncode, stdout, stderr)


def wait_for_first_commit(store: Path, process: subprocess.Popen[str]) -> None:
    """Until the store has a committed partition."""
    deadline = monotonic() + DEADLINE_SECONDS
    between_looks = threading.Event()
    while not (store / "videos").is_dir() or not any(path.name[0] != "." for path in (store / "videos").iterdir()):
        assert process.poll() is None, f"ended before it committed anything: {finish(process)}"
        assert monotonic() < deadline, "nothing was committed"
        between_looks.wait(0.005)


def statuses(store: Path) -> dict[str, str]:
    """By video; each must have one row only."""
    rows = FaceStore.open(str(store)).read_table("videos", ["video_id", "status"]).to_pylist()
    assert max(Counter(row["video_id"] for row in rows).values(), default=0) <= 1
    return {row["video_id"]: row["status"] for row in rows}


def digest(store: Path) -> str:
    return FaceStore.open(str(store)).digest()


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of every file."""
    found = ((path, path.stat()) for path in folder.rglob("*"))
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found}


def assert_whole(store: Path) -> None:
    opened = FaceStore.open(str(store))
    assert list(verify_store(opened)) == []
    assert find_orphans(opened) == []


@pytest.fixture(scope="module")
def params(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(PARAMS)
    return path


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A face, two faces, none, one too briefly, and a file that is no video."""
    folder = tmp_path_factory.mktemp("videos")
    face_video(folder / "one.mp4")
    slow = (0.2, 0.1)
    face_video(folder / "two.mp4", 64, [Face(speed=slow), Face("obama_1", start=(120, 20), speed=slow)], width=240)
    face_video(folder / "none.mp4", 40, [])
    face_video(folder / "brief.mp4", 64, shown=lambda index: index < 15)
    (folder / "text.mp4").write_text("not a video")
    return folder


EXPECTED = {
    "one.mp4": "ok",
    "two.mp4": "ok",
    "none.mp4": "no_face",
    "brief.mp4": "too_short",
    "text.mp4": "decode_error",
}


@pytest.fixture(scope="module")
def finished(videos: Path, params: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """A store that an undisturbed run made; not to be changed."""
    store = tmp_path_factory.mktemp("finished") / "store"
    return store, extract(videos, store, "--params", params)


@pytest.fixture
def copy(finished: tuple[Path, Ended], tmp_path: Path) -> Path:
    """The finished store, to do things to."""
    return Path(shutil.copytree(finished[0], tmp_path / "copy"))


def test_every_video_has_its_row_and_the_table_says_so(finished: tuple[Path, Ended], videos: Path) -> None:
    store, ended = finished
    assert ended.exit_code == 0
    assert statuses(store) == EXPECTED
    assert_whole(store)
    table = {line.split()[0]: line.split()[1:3] for line in ended.stdout.splitlines()}
    assert table["ok"] == ["2", "3"]
    assert table["decode_error"] == ["1", "0"]
    assert table["total"] == ["5", "3"]
    assert f"decode_error: text.mp4: {videos / 'text.mp4'} can't be opened" in ended.stderr


def test_the_same_command_again_does_nothing(copy: Path, videos: Path, params: Path) -> None:
    before = contents(copy)
    ended = extract(videos, copy, "--params", params)
    assert ended.exit_code == 0
    assert contents(copy) == before
    assert "0 videos in" in ended.stdout
    assert "5 were done" in ended.stdout


def test_other_settings_are_refused_with_the_difference(copy: Path, videos: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("crop: {size: 48}\n")
    before = contents(copy)
    ended = extract(videos, copy, "--params", other)
    assert ended.exit_code == 2
    assert "crop.size: store 64, now 48" in ended.stderr
    assert contents(copy) == before


def test_a_video_that_has_changed_since_is_not_taken_for_done(copy: Path, videos: Path, params: Path) -> None:
    table = copy / "videos" / "part-00000.parquet"
    rows = pq.read_table(table)
    pq.write_table(set_value(rows, "size_bytes", 0, 17), table)
    name = rows["video_id"][0].as_py()
    ended = extract(videos, copy, "--params", params)
    assert ended.exit_code == 2
    assert f"1 videos are no longer those that {copy} was made of (such as {name!r}: 17 bytes then" in ended.stderr


def test_what_other_code_has_extracted_is_told(copy: Path, videos: Path, params: Path) -> None:
    assert "other code" not in extract(videos, copy, "--params", params).stderr
    manifest = json.loads((copy / "store.json").read_text())
    manifest["versions"]["code"] = "0123456789abcdef"
    (copy / "store.json").write_text(json.dumps(manifest))
    ended = extract(videos, copy, "--params", params)
    assert ended.exit_code == 0
    assert re.search(r"note: \d+ videos were extracted by other code than this; they stay as they are", ended.stderr)


def test_a_limited_run_and_then_the_rest_equal_one_run(
    finished: tuple[Path, Ended], videos: Path, params: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    assert extract(videos, store, "--params", params, "--limit", 2).exit_code == 0
    assert len(statuses(store)) == 2
    assert extract(videos, store, "--params", params).exit_code == 0
    assert statuses(store) == EXPECTED
    assert digest(store) == digest(finished[0])


def test_a_dry_run_writes_nothing(videos: Path, params: Path, tmp_path: Path) -> None:
    ended = extract(videos, tmp_path / "store", "--params", params, "--dry-run")
    assert ended.exit_code == 0
    assert "would extract 5 videos, 0 are done" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_over_a_store_counts_what_is_done_and_changes_nothing(copy: Path, videos: Path, params: Path) -> None:
    (copy / "tracks" / "part-09999.parquet").write_bytes(b"an orphan")
    before = contents(copy)
    ended = extract(videos, copy, "--params", params, "--dry-run", "--retry-failed")
    assert "would extract 1 videos, 4 are done" in ended.stdout
    assert contents(copy) == before


def test_retry_failed_does_only_the_failures_again(videos: Path, params: Path, tmp_path: Path) -> None:
    inputs = Path(shutil.copytree(videos, tmp_path / "inputs"))
    store = tmp_path / "store"
    extract(inputs, store, "--params", params)
    arrays = contents(store / "arrays")
    face_video(inputs / "text.mp4")

    assert "0 videos in" in extract(inputs, store, "--params", params).stdout, "failures wait to be asked for"
    ended = extract(inputs, store, "--params", params, "--retry-failed")
    assert ended.exit_code == 0
    assert "1 videos in" in ended.stdout
    assert statuses(store) == EXPECTED | {"text.mp4": "ok"}
    assert arrays.items() <= contents(store / "arrays").items()
    assert_whole(store)
    extract(inputs, tmp_path / "fresh", "--params", params)
    assert digest(store) == digest(tmp_path / "fresh")


@pytest.mark.parametrize(("allowed", "exit_code"), [(0, 3), (1, 0)])
def test_more_failures_than_allowed_is_an_exit_code(
    copy: Path, videos: Path, params: Path, allowed: int, exit_code: int
) -> None:
    ended = extract(videos, copy, "--params", params, "--max-failures", allowed)
    assert ended.exit_code == exit_code
    assert ("1 failures, more than the 0 allowed" in ended.stderr) == (exit_code == 3)


@pytest.mark.parametrize("videos_per_partition", [1, 2])
def test_the_digest_doesnt_depend_on_partitions(
    finished: tuple[Path, Ended], videos: Path, tmp_path: Path, videos_per_partition: int
) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(f"{PARAMS}extract: {{videos_per_partition: {videos_per_partition}}}\n")
    extract(videos, tmp_path / "store", "--params", params)
    assert len(FaceStore.open(str(tmp_path / "store")).partition_names) == -(-5 // videos_per_partition)
    assert digest(tmp_path / "store") == digest(finished[0])


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_digest_doesnt_depend_on_workers(
    finished: tuple[Path, Ended], videos: Path, params: Path, tmp_path: Path, workers: int
) -> None:
    assert extract(videos, tmp_path / "store", "--params", params, "--workers", workers).exit_code == 0
    assert statuses(tmp_path / "store") == EXPECTED
    assert digest(tmp_path / "store") == digest(finished[0])


# --- stopped halfway ---


@dataclass(frozen=True)
class LongRun:
    """Enough work to stop in the middle of, and what comes of it undisturbed."""

    videos: Path
    params: Path
    digest: str


NUM_LONG = 6


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> LongRun:
    folder = tmp_path_factory.mktemp("long")
    params = folder / "params.yaml"
    params.write_text(SLOW_PARAMS)
    inputs = folder / "inputs"
    inputs.mkdir()
    for number in range(NUM_LONG):
        face_video(inputs / f"{number}.mp4", 60 + number)
    store = folder / "undisturbed"
    assert extract(inputs, store, "--params", params).exit_code == 0
    return LongRun(inputs, params, digest(store))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.cluster)])
def test_a_killed_run_is_taken_up_where_it_was(long_run: LongRun, tmp_path: Path, workers: int) -> None:
    store = tmp_path / "store"
    arguments = (long_run.videos, store, "--params", long_run.params)
    process = start(*arguments, "--workers", workers)
    wait_for_first_commit(store, process)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    finish(process)
    _, alive = psutil.wait_procs([child for child in children if is_running(child)], timeout=DEADLINE_SECONDS)
    assert [child for child in alive if is_running(child)] == [], "no worker outlives its client"
    committed = statuses(store)
    assert 1 <= len(committed) < NUM_LONG, "it was killed in the middle"

    ended = extract(*arguments)
    assert ended.exit_code == 0
    assert f"{len(committed)} were done" in ended.stdout
    assert len(statuses(store)) == NUM_LONG
    assert digest(store) == long_run.digest
    assert_whole(store)


def is_running(process: psutil.Process) -> bool:
    """Neither gone nor waiting for a parent to ask how it ended."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "number", "whole_group"),
    [
        (0, signal.SIGINT, False),
        (0, signal.SIGTERM, False),
        pytest.param(2, signal.SIGINT, True, marks=pytest.mark.cluster),
        pytest.param(2, signal.SIGTERM, False, marks=pytest.mark.cluster),
    ],
)
def test_an_interrupted_run_says_so_and_goes_on_later(
    long_run: LongRun, tmp_path: Path, workers: int, number: signal.Signals, whole_group: bool
) -> None:
    store = tmp_path / "store"
    arguments = (long_run.videos, store, "--params", long_run.params)
    process = start(*arguments, "--workers", workers)
    wait_for_first_commit(store, process)
    if whole_group:
        os.killpg(process.pid, number)  # What a terminal does at Ctrl-C.
    else:
        process.send_signal(number)
    ended = finish(process)

    assert ended.exit_code == 130
    assert re.search(r"interrupted; [1-5] videos are committed", ended.stderr)
    assert "Traceback" not in ended.stderr
    assert 1 <= len(statuses(store)) < NUM_LONG
    assert extract(*arguments).exit_code == 0
    assert digest(store) == long_run.digest
    assert_whole(store)


# --- places that can't be a store ---


def test_a_file_in_place_of_the_store_is_bad_usage(videos: Path, params: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    ended = extract(videos, taken, "--params", params)
    assert ended.exit_code == 2
    assert "is a file" in ended.stderr
    assert taken.read_text() == "mine"


def test_a_folder_of_somebody_else_is_left_alone(videos: Path, params: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    ended = extract(videos, tmp_path, "--params", params)
    assert ended.exit_code == 2
    assert "is not empty and has no store.json" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_place_that_cant_be_written_is_an_error_in_words(videos: Path, params: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ended = extract(videos, tmp_path / "file" / "store", "--params", params)
    assert ended.exit_code in {1, 2}
    assert str(tmp_path / "file") in ended.stderr


def test_a_full_disk_keeps_what_is_committed_and_the_run_goes_on_elsewhere(long_run: LongRun, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1500k") as disk:
        store = disk / "store"
        ended = extract(long_run.videos, store, "--params", long_run.params)
        assert ended.exit_code == 1
        assert f"can't write to {store}" in ended.stderr
        assert "what was written before is safe" in ended.stderr
        committed = statuses(store)
        assert 1 <= len(committed) < NUM_LONG
        assert set(committed.values()) == {"ok"}, "no video is blamed for the disk"
        assert list(verify_store(FaceStore.open(str(store)))) == []
        moved = Path(shutil.copytree(store, tmp_path / "larger"))

    assert extract(long_run.videos, moved, "--params", long_run.params).exit_code == 0
    assert digest(moved) == long_run.digest
    assert_whole(moved)


# --- inputs of every kind ---


def test_a_folder_without_videos_is_bad_usage(params: Path, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    ended = extract(tmp_path / "inputs", tmp_path / "store", "--params", params)
    assert ended.exit_code == 2
    assert "inputs" in ended.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("detect: {every_n_frame: 5}", "unknown key 'detect.every_n_frame'"),
        ("crop: {size: big}", "'crop.size' is 'big'"),
        ("crop: [", "not valid YAML"),
        ("- 1", "got list"),
    ],
)
def test_bad_settings_are_named_before_anything_is_made(videos: Path, tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    ended = extract(videos, tmp_path / "store", "--params", tmp_path / "params.yaml")
    assert ended.exit_code == 2
    assert named in ended.stderr
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("text", ["path,label\none.mp4,PERHAPS\n", "{broken", "colour\nred\n"])
def test_bad_labels_are_named_before_anything_is_made(videos: Path, params: Path, tmp_path: Path, text: str) -> None:
    labels = tmp_path / ("labels.json" if text[0] == "{" else "labels.csv")
    labels.write_text(text)
    ended = extract(videos, tmp_path / "store", "--params", params, "--labels", labels)
    assert ended.exit_code == 2
    assert labels.name in ended.stderr
    assert not (tmp_path / "store").exists()


def test_labels_arrive_in_both_tables(videos: Path, params: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label,original\none.mp4,FAKE,two.mp4\ntwo.mp4,REAL,\n")
    ended = extract(videos, tmp_path / "store", "--params", params, "--labels", labels)
    assert ended.exit_code == 0
    store = FaceStore.open(str(tmp_path / "store"))
    of_video = {row["video_id"]: row for row in store.videos.to_pylist()}
    assert {name: row["label"] for name, row in of_video.items()} == {
        "one.mp4": 1, "two.mp4": 0, "none.mp4": None, "brief.mp4": None, "text.mp4": None,
    }  # fmt: skip
    assert of_video["one.mp4"]["source_id"] == "two.mp4"
    assert of_video["one.mp4"]["group_id"] == of_video["two.mp4"]["group_id"] != of_video["none.mp4"]["group_id"]
    for row in store.tracks.to_pylist():
        known = ("label", "source_id", "group_id")
        assert {name: row[name] for name in known} == {name: of_video[row["video_id"]][name] for name in known}


def test_labels_that_have_changed_are_refused_or_written(
    copy: Path, videos: Path, params: Path, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label,original,group\none.mp4,FAKE,two.mp4,Ada\ntwo.mp4,REAL,,Ada\nnone.mp4,REAL,,Bob\n")
    arguments = (videos, copy, "--params", params, "--labels", labels)
    before = contents(copy)
    ended = extract(*arguments)
    assert ended.exit_code == 2
    assert "3 videos have another label, original or group now" in ended.stderr
    assert contents(copy) == before

    assert extract(*arguments, "--relabel").exit_code == 0
    fresh = tmp_path / "fresh"
    extract(videos, fresh, "--params", params, "--labels", labels)
    assert digest(copy) == digest(fresh)
    assert not list(verify_store(FaceStore.open(str(copy))))
    again = extract(*arguments)
    assert again.exit_code == 0
    assert "other labels" not in again.stderr


def test_a_kill_amid_new_labels_leaves_them_to_be_written(
    copy: Path, videos: Path, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label\none.mp4,FAKE\ntwo.mp4,REAL\n")
    arguments = (videos, copy, "--params", params, "--labels", labels, "--relabel")
    written: list[str] = []

    def write(files: StoreFiles, name: str, data: bytes) -> None:
        written.append(name)
        if name.startswith("videos/"):
            raise KeyboardInterrupt
        write_file(files, name, data)

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.relabel.write_file", write)
        assert extract(*arguments).exit_code == 130
    assert [name.split("/")[0] for name in written] == ["tracks", "videos"]
    assert extract(*arguments).exit_code == 0
    of_video = {row["video_id"]: row["label"] for row in FaceStore.open(str(copy)).videos.to_pylist()}
    assert (of_video["one.mp4"], of_video["two.mp4"]) == (1, 0)


def test_videos_of_the_store_that_are_not_in_the_input_are_told(copy: Path, videos: Path, params: Path) -> None:
    ended = extract(videos / "one.mp4", copy, "--params", params)
    assert ended.exit_code == 0
    assert "note: 4 videos of the store are not among these; they stay in it" in ended.stderr


def test_odd_names_and_damaged_files_each_get_their_row(
    videos: Path, params: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    good = (videos / "one.mp4").read_bytes()
    names = ["Zoë 中文 😀.mp4", "two words.mp4", "line\nbreak.mp4", "-leading.mp4", "50% {x} [y].mp4"]
    for name in names:
        (inputs / name).write_bytes(good)
    (inputs / "folder.mp4").mkdir()
    (inputs / "folder.mp4" / "inside.mp4").write_bytes(good)
    (inputs / "empty.mp4").touch()
    (inputs / "text.mp4").write_text("not a video")
    write_audio(inputs / "sound.mp4")
    # In a Matroska file what precedes the cut stays readable; an MP4 has its index at the end.
    whole = face_video(tmp_path / "whole.mkv").read_bytes()
    for number, at in enumerate(rng.integers(1, len(whole), 4)):
        (inputs / f"cut{number}.mkv").write_bytes(whole[:at])
    for number, at in enumerate(rng.integers(1, len(good), 3)):
        (inputs / f"cut{number}.mp4").write_bytes(good[:at])

    ended = finish(start(inputs, tmp_path / "store", "--params", params, "--workers", 0))
    assert ended.exit_code == 0
    assert "Traceback" not in ended.stderr
    assert not any(line.startswith("break.mp4") for line in (ended.stdout + ended.stderr).splitlines())
    found = statuses(tmp_path / "store")
    assert {found.pop(name) for name in [*names, "folder.mp4/inside.mp4"]} == {"ok"}
    assert {found.pop(name) for name in ("empty.mp4", "text.mp4", "sound.mp4")} == {"decode_error"}
    assert {found.pop(f"cut{number}.mp4") for number in range(3)} == {"decode_error"}
    assert sorted(found) == [f"cut{number}.mkv" for number in range(4)]
    assert set(found.values()) <= {"ok", "too_short", "decode_error"}
    assert_whole(tmp_path / "store")


def write_audio(path: Path) -> None:
    """A quarter of a second of silence and no picture."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_an_error_in_the_code_is_one_row_and_shows_no_traceback(
    videos: Path, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("injected")

    monkeypatch.setattr("pipeline.track.Linker.tracks", broken)
    ended = extract(videos / "one.mp4", tmp_path / "store", "--params", params)
    assert ended.exit_code == 0
    assert "failed: one.mp4: injected" in ended.stderr
    assert statuses(tmp_path / "store") == {"one.mp4": "failed"}


def test_a_scheduler_that_isnt_there_is_exit_code_1_in_words(
    videos: Path, params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = partial(remote_cluster, timeout_seconds=0.5)
    monkeypatch.setattr("pipeline.machines.remote_cluster", impatient)
    command = [str(videos), str(tmp_path / "store"), "--params", str(params), "--scheduler", "tcp://127.0.0.1:9"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "no dask scheduler answers at tcp://127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "store").exists(), "no empty store is left behind"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--workers", 2, "--scheduler", "tcp://127.0.0.1:9"), "--workers"),
        (("--workers", 2, "--scheduler", "tcp://127.0.0.1:9", "--cluster", "slurm"), "exclude each other"),
        (("--workers", 2, "--cluster-options", "x.yaml"), "name its kind"),
        (("--workers", 2, "--tls-ca-file", "ca.pem"), "go together"),
        (("--workers", 2, "--tls-ca-file", "a", "--tls-cert", "b", "--tls-key", "c"), "are for a --scheduler"),
        (("--workers", 2, "--cluster", "slum"), "'slum' is not one of"),
        (("--workers", 2, "--video-timeout", -1), "--video-timeout"),
        (("--workers", 2, "--max-attempts", 0), "--max-attempts"),
    ],
)
def test_flags_that_dont_go_together_are_bad_usage(
    videos: Path, tmp_path: Path, flags: tuple[object, ...], named: str
) -> None:
    ended = extract(videos, tmp_path / "store", *flags)
    assert ended.exit_code == 2
    assert named in ended.stderr
    assert not (tmp_path / "store").exists()


def test_an_open_scheduler_is_warned_about(videos: Path, params: Path, tmp_path: Path) -> None:
    command = [str(videos), str(tmp_path / "s"), "--params", str(params), "--scheduler", "tcp://10.0.0.5:8786"]
    result = CliRunner().invoke(main, [*command, "--dry-run"])
    assert result.exit_code == 0
    assert "warning: the dask scheduler at tcp://10.0.0.5:8786 is open: anyone" in result.stderr
    assert "by the workers of tcp://10.0.0.5:8786" in result.stdout


def test_an_index_is_extracted_like_its_folder_and_has_no_video_twice(
    finished: tuple[Path, Ended], videos: Path, params: Path, tmp_path: Path
) -> None:
    refs, _ = build_index(str(videos))
    index = tmp_path / "videos.parquet"
    write_index(str(index), refs)
    assert extract(index, tmp_path / "store", "--params", params).exit_code == 0
    assert digest(tmp_path / "store") == digest(finished[0])
    write_index(str(index), [*refs, refs[0]])
    ended = extract(index, tmp_path / "other", "--params", params)
    assert ended.exit_code == 2
    assert f"the video_id {refs[0].video_id!r} twice" in ended.stderr
    assert not (tmp_path / "other").exists()


def test_failures_are_retried_only_where_they_were_asked_for(
    copy: Path, videos: Path, params: Path, tmp_path: Path
) -> None:
    before = statuses(copy)
    assert extract(videos / "one.mp4", copy, "--params", params, "--retry-failed").exit_code == 0
    assert statuses(copy) == before, "text.mp4 wasn't asked for, and keeps its row"


def test_what_a_killed_run_left_is_cleared_away_by_the_next(copy: Path, videos: Path, params: Path) -> None:
    before = digest(copy)
    array = copy / "arrays" / "part-00007-0123abcd.zarr"
    array.mkdir()
    (copy / "runs" / "part-00007.json").write_text(json.dumps({"array": array.name}))
    (copy / "tracks" / "part-00007.parquet").write_bytes(b"half")
    assert extract(videos, copy, "--params", params).exit_code == 0
    assert not array.exists()
    assert digest(copy) == before
    assert_whole(copy)


def test_a_store_that_somebody_writes_to_is_refused_and_left_alone(
    copy: Path, videos: Path, params: Path, tmp_path: Path
) -> None:
    inputs = Path(shutil.copytree(videos, tmp_path / "inputs"))
    face_video(inputs / "new.mp4")
    with only_run(StoreFiles(str(copy))):
        before = contents(copy)
        ended = extract(inputs, copy, "--params", params)
        assert ended.exit_code == 1
        assert re.search(r"another run writes to .* \(process \d+ on ", ended.stderr)
        assert contents(copy) == before
        assert extract(videos, copy, "--params", params).exit_code == 0, "with nothing to do there is nothing to refuse"
    assert extract(inputs, copy, "--params", params).exit_code == 0
    assert statuses(copy)["new.mp4"] == "ok"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_a_decoder_that_is_not_here_is_refused_before_anything_is_made(
    videos: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    ended = extract(videos, tmp_path / "store", "--decode-device", "cuda", *more)
    assert ended.exit_code == 2
    assert "no decoder of an NVIDIA GPU here" in ended.stderr
    assert not (tmp_path / "store").exists()


def test_a_dry_run_reads_the_options_of_a_cluster(videos: Path, tmp_path: Path) -> None:
    options = tmp_path / "slurm.yaml"
    command = [videos, tmp_path / "store", "--cluster", "slurm", "--cluster-options", options, "--dry-run"]
    options.write_text("cluster: {queu: normal}\nscale: 4\n", encoding="utf-8")
    ended = CliRunner().invoke(main, [*map(str, command)])
    assert ended.exit_code == 2
    assert "did you mean 'queue'?" in ended.output

    options.write_text("cluster: {queue: normal, cores: 1, memory: 2GB}\nscale: 4\n", encoding="utf-8")
    ended = CliRunner().invoke(main, [*map(str, command)])
    assert ended.exit_code == 0, ended.output
    assert "by workers on slurm" in ended.output
    assert not (tmp_path / "store").exists()
