"""Looking after a store: verify says exactly what is wrong, gc takes only what nobody needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.files import StoreFiles
from pipeline.runs import Run, attempts_left, begin_attempt, only_run
from pipeline.store import FaceStore, _commands
from pipeline.upkeep import (
    describe_store,
    drop_partition,
    find_orphans,
    forget_videos,
    remove_orphans,
    settle_attempts,
    verify_store,
)
from pipeline.writer import PartitionWriter
from tests.stores import (
    SETTINGS,
    SHARD,
    SIZE,
    append,
    change_table,
    make_video,
    set_value,
    shard_files,
    small_store,
    write_partition,
    write_store,
)


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    """part-00000: a/x.mp4 with tracks of 19 and 5 frames, a/none.mp4 without; part-00001: b/y.mp4 with one of 8."""
    return small_store(tmp_path / "store")


def problems(store: FaceStore) -> list[str]:
    return list(verify_store(FaceStore.open(store.url)))


def kill_an_attempt(store: FaceStore, name: str = "part-00002") -> list[str]:
    """Leave what an attempt leaves that is killed just before its commit."""
    writer = PartitionWriter(store.files, name, SIZE, SETTINGS.store)
    append(writer, [make_video("late.mp4", [SHARD + 1])])
    store.files.write(f"tracks/{name}.parquet", b"half")
    store.files.write(f"videos/.{name}.parquet.0123abcd.tmp", b"ha")
    return [f"arrays/{writer.array_name}", f"tracks/{name}.parquet", f"videos/.{name}.parquet.0123abcd.tmp"]


def begin_an_attempt(store: FaceStore, run: Run, name: str = "part-00002") -> list[str]:
    """Leave what an attempt has made just before its commit, and its own file."""
    writer = PartitionWriter(store.files, name, SIZE, SETTINGS.store)
    begin_attempt(store.files, run, name, writer.array_name)
    append(writer, [make_video("late.mp4", [SHARD + 1])])
    store.files.write(f"tracks/{name}.parquet", b"half")
    return [f"arrays/{writer.array_name}", f"runs/{name}.json", f"tracks/{name}.parquet"]


def begin_writing(store: FaceStore) -> list[str]:
    """Leave halves of files."""
    names = [
        "runs/.run-00001.json.0123abcd.tmp",
        "tracks/.part-00003.parquet.0123abcd.tmp",
        "videos/.part-00003.parquet.0123abcd.tmp",
    ]
    for name in names:
        store.files.make_folder(name.split("/", maxsplit=1)[0])
        store.files.write(name, b"ha")
    return names


def contents(store: FaceStore) -> dict[str, bytes]:
    """All files of a store on disk; not those of its runs, which are renewed."""
    root = Path(store.url)
    found = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("runs/")}


# verify


def test_a_whole_store_has_no_problems(store: FaceStore) -> None:
    assert problems(store) == []


@pytest.mark.parametrize(
    ("table", "column", "row", "value", "expected"),
    [
        ("tracks", "checksum", 1, "0" * 64, ["a/x.mp4 track 1: frames don't match their checksum"]),
        ("tracks", "row_start", 1, 18, [
            "a/x.mp4 track 1: shares rows of {array} with another track",
            "a/x.mp4 track 1: 6 rows for frames [{start}, {stop})",
            *(f"a/x.mp4 track 1: 5 {column} for 6 rows"
              for column in ("boxes_xyxy", "landmarks", "crop_xyxy", "scores", "observed", "timestamps_seconds")),
            "a/x.mp4 track 1: frames don't match their checksum",
        ]),
        ("tracks", "frame_step", 1, 2, ["a/x.mp4 track 1: 5 rows for frames [{start}, {stop})"]),
        ("tracks", "scores", 1, [0.5] * 4, ["a/x.mp4 track 1: 4 scores for 5 rows"]),
        ("tracks", "observed", 1, [], ["a/x.mp4 track 1: 0 observed for 5 rows"]),
        ("tracks", "video_id", 1, "a/none.mp4", ["a/x.mp4 should have 2 tracks", "a/none.mp4 should have 0 tracks"]),
        ("tracks", "video_id", 1, "who.mp4", [
            "a/x.mp4 should have 2 tracks", "tracks of who.mp4, which has no row here",
        ]),
        ("videos", "num_tracks", 0, 3, ["a/x.mp4 should have 3 tracks"]),
        ("videos", "num_tracks", 1, 1, ["a/none.mp4 should have 1 tracks"]),
        ("videos", "status", 1, "fine", ["a/none.mp4 has the unknown status 'fine'"]),
        ("videos", "video_id", 1, "a/x.mp4", ["a/x.mp4 has a row in part-00000 already"]),
    ],
)  # fmt: skip
def test_a_wrong_row_is_named_and_only_that(
    store: FaceStore, table: str, column: str, row: int, value: Any, expected: list[str]
) -> None:
    track = store.tracks.to_pylist()[1]
    change_table(store.url, table, "part-00000", lambda t: set_value(t, column, row, value))
    places = {"array": track["array"], "start": track["frame_start"], "stop": track["frame_stop"]}
    assert problems(store) == [f"part-00000: {line.format(**places)}" for line in expected]


def test_a_video_in_two_partitions_is_named(store: FaceStore) -> None:
    write_partition(store.files, "part-00002", [make_video("b/y.mp4", [3])])
    assert problems(store) == ["part-00002: b/y.mp4 has a row in part-00001 already"]


def test_a_pixel_that_changed_is_named(store: FaceStore) -> None:
    """The codec may decode it without a word; the checksum of the frames doesn't match then."""
    uncompressed = SETTINGS.model_copy(update={"store": SETTINGS.store.model_copy(update={"codec": "none"})})
    url = f"{store.url}-none"
    other = write_store(url, [[make_video("a.mp4", [3, 3])]], uncompressed)
    (shard,) = shard_files(url)
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    assert problems(other) == ["part-00000: a.mp4 track 0: frames don't match their checksum"]


def test_an_array_that_is_gone_is_named_for_each_of_its_tracks(store: FaceStore) -> None:
    array = store.tracks["array"][0].as_py()
    store.files.remove(f"arrays/{array}")
    first, second = problems(store)
    assert first.startswith(f"part-00000: a/x.mp4 track 0: {store.url}/arrays/{array}: rows [0, 19) can't be read")
    assert second.startswith(f"part-00000: a/x.mp4 track 1: {store.url}/arrays/{array}: rows [19, 24) can't be read")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1")])
@pytest.mark.parametrize("table", ["tracks", "videos"])
def test_a_table_that_cannot_be_read_is_named_and_the_rest_checked(
    store: FaceStore, table: str, damage: Callable[[Path], object]
) -> None:
    opened = FaceStore.open(store.url)
    assert len(opened.partition_names) == 2
    damage(Path(store.url, table, "part-00000.parquet"))
    change_table(store.url, "videos", "part-00001", lambda t: set_value(t, "num_tracks", 0, 7))
    first, second = verify_store(opened)
    assert first.startswith(f"{store.url}/{table}/part-00000.parquet is missing or damaged")
    assert second == "part-00001: b/y.mp4 should have 7 tracks"


# gc


def test_orphans_are_what_killed_attempts_left_and_nothing_else(store: FaceStore) -> None:
    digest = store.digest()
    assert find_orphans(store) == []
    left = kill_an_attempt(store)
    assert find_orphans(store) == left
    assert remove_orphans(store) == left
    assert find_orphans(store) == []
    after = FaceStore.open(store.url)
    assert after.digest() == digest
    assert problems(after) == []


def test_the_array_of_an_earlier_attempt_at_a_committed_partition_is_an_orphan(store: FaceStore) -> None:
    writer = PartitionWriter(store.files, "part-00001", SIZE, SETTINGS.store)
    append(writer, [make_video("b/y.mp4", [SHARD])])
    assert remove_orphans(store) == [f"arrays/{writer.array_name}"]
    assert problems(store) == []


def test_attempts_of_a_killed_run_are_orphans_until_they_are_settled(store: FaceStore) -> None:
    digest = store.digest()
    with only_run(store.files) as run:
        left = [*begin_an_attempt(store, run), *begin_an_attempt(store, run, "part-00003")]
        assert find_orphans(store) == []
    assert find_orphans(store) == sorted(left)
    with only_run(store.files):
        settle_attempts(store.files)
    after = FaceStore.open(store.url)
    assert find_orphans(after) == problems(after) == attempts_left(store.files) == []
    assert after.digest() == digest
    assert len(store.files.names("arrays")) == 2


def test_halves_of_files_are_orphans_once_nobody_may_be_writing_them(store: FaceStore) -> None:
    with only_run(store.files):
        left = begin_writing(store)
        assert find_orphans(store) == []
    assert find_orphans(store) == left
    with only_run(store.files):
        settle_attempts(store.files)
    assert find_orphans(store) == []


def test_an_attempt_that_begins_while_orphans_are_listed_is_none(
    store: FaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with only_run(store.files) as run:

        def listed_then_begun(files: StoreFiles) -> list[str]:
            left = attempts_left(files)
            if not left:
                begin_an_attempt(store, run)
            return left

        monkeypatch.setattr("pipeline.upkeep.attempts_left", listed_then_begun)
        assert find_orphans(store) == []
        assert attempts_left(store.files) != []


def test_a_partition_that_is_committed_while_orphans_are_listed_is_none(
    store: FaceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed_then_committed(files: StoreFiles) -> list[str]:
        left = attempts_left(files)
        write_partition(files, "part-00002", [make_video("late.mp4", [3])])
        return left

    with only_run(store.files):
        monkeypatch.setattr("pipeline.upkeep.attempts_left", listed_then_committed)
        assert find_orphans(store) == []


def test_all_arrays_of_a_number_that_was_used_twice_are_removed(store: FaceStore) -> None:
    with only_run(store.files) as run:
        left = {*begin_an_attempt(store, run), *kill_an_attempt(store)}
    assert set(find_orphans(store)) == left
    with only_run(store.files):
        # The table is replaced by that of an empty partition.
        assert remove_orphans(store) == sorted(left - {"tracks/part-00002.parquet"})
    assert find_orphans(store) == problems(store) == []


def test_files_of_a_foreign_hand_stay(store: FaceStore) -> None:
    names = ["tracks/notes.txt", "runs/run-notes.txt"]
    store.files.make_folder("runs")
    for name in names:
        store.files.write(name, b"mine")
    with only_run(store.files):
        assert remove_orphans(store) == []
    assert [store.files.read(name) for name in names] == [b"mine", b"mine"]


def test_a_partition_that_is_dropped_leaves_nothing_behind_and_the_others_alone(store: FaceStore) -> None:
    beside = {name: data for name, data in contents(store).items() if "part-00000" not in name}
    removed = drop_partition(store, "part-00000")
    assert removed[:2] == ["videos/part-00000.parquet", "tracks/part-00000.parquet"]
    assert contents(store) == beside
    assert find_orphans(FaceStore.open(store.url)) == problems(store) == []


# forget


def test_forgotten_videos_lose_their_rows_and_others_keep_theirs(store: FaceStore) -> None:
    write_partition(
        store.files,
        "part-00002",
        [make_video("bad.mp4", status="decode_error"), make_video("worse.mp4", status="failed"), make_video("c.mp4")],
    )
    assert forget_videos(FaceStore.open(store.url), ("decode_error", "failed"), set) == ["bad.mp4", "worse.mp4"]
    after = FaceStore.open(store.url)
    assert after.videos["video_id"].to_pylist() == ["a/x.mp4", "a/none.mp4", "b/y.mp4", "c.mp4"]
    assert after.videos.schema == store.videos.schema
    assert after.tracks.equals(store.tracks)
    assert problems(after) == []


def test_a_partition_with_nothing_to_forget_is_not_touched(store: FaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(type(store.files), "write", lambda _files, name, _data: written.append(name))
    assert forget_videos(store, ("failed",), set) == []
    assert forget_videos(store, (), set) == []
    assert written == []


def test_only_videos_that_are_asked_for_are_forgotten(store: FaceStore) -> None:
    failures = [make_video(f"bad{number}.mp4", status="failed") for number in range(3)]
    write_partition(store.files, "part-00002", [*failures, make_video("c.mp4")])
    questions: list[list[str]] = []

    def asked(video_ids: list[str]) -> set[str]:
        questions.append(video_ids)
        return {"bad1.mp4", "b/y.mp4", "c.mp4"}.intersection(video_ids)

    assert forget_videos(FaceStore.open(store.url), ("failed",), asked) == ["bad1.mp4"]
    assert questions == [["bad0.mp4", "bad1.mp4", "bad2.mp4"]]
    after = FaceStore.open(store.url)
    kept = ["a/x.mp4", "a/none.mp4", "b/y.mp4", "bad0.mp4", "bad2.mp4", "c.mp4"]
    assert after.videos["video_id"].to_pylist() == kept
    assert problems(after) == []


def test_a_partition_whose_failures_nobody_asks_for_is_not_touched(store: FaceStore) -> None:
    write_partition(store.files, "part-00002", [make_video("bad.mp4", status="failed")])
    before = contents(store)
    assert forget_videos(FaceStore.open(store.url), ("failed",), lambda _video_ids: []) == []
    assert contents(store) == before


# info


def test_the_description_counts_what_is_there(store: FaceStore) -> None:
    lines = list(describe_store(store))
    assert store.url in lines[0]
    assert store.fingerprint in lines[0]
    assert lines[1].split() == ["partitions", "2"]
    assert lines[2].split(maxsplit=1) == ["videos", "3 (1 no_face, 2 ok)"]
    assert lines[3].split(maxsplit=1) == ["labels", "1 FAKE, 1 REAL, 1 unlabelled"]
    assert lines[4].split(maxsplit=1) == ["tracks", "3, 32 frames of 16x16"]
    described = {line.split(maxsplit=1)[0]: line.split(maxsplit=1)[1] for line in lines}
    assert described["store"] == "codec zstd, differences True, chunk_frames 2, shard_frames 8"
    assert described["extract"] == "save_masks False"


def test_an_empty_store_can_be_described(tmp_path: Path) -> None:
    lines = list(describe_store(write_store(tmp_path / "empty", [])))
    assert lines[2].split(maxsplit=1) == ["videos", "0 (none)"]


# Commands


def command(*arguments: str) -> Result:
    return CliRunner().invoke(_commands(), arguments)


def test_info_prints_the_description(store: FaceStore) -> None:
    ran = command("info", store.url)
    assert (ran.exit_code, ran.output.splitlines()) == (0, list(describe_store(store)))


def test_verify_ends_with_0_when_all_is_well(store: FaceStore) -> None:
    ran = command("verify", store.url)
    assert (ran.exit_code, ran.output) == (0, "2 partitions checked, 0 problems\n")


def test_verify_ends_with_1_and_names_what_is_wrong(store: FaceStore) -> None:
    change_table(store.url, "tracks", "part-00001", lambda t: set_value(t, "checksum", 0, "0"))
    ran = command("verify", store.url)
    assert (ran.exit_code, ran.output.splitlines()) == (
        1,
        ["part-00001: b/y.mp4 track 0: frames don't match their checksum", "2 partitions checked, 1 problems"],
    )


def damage_shard(store: FaceStore, name: str) -> None:
    array = next(row["array"] for row in store.tracks.to_pylist() if row["array"].startswith(name))
    (shard, *_) = [path for path in shard_files(store.url) if array in path.parts]
    shard.write_bytes(shard.read_bytes()[:-1])


def damage_tracks(store: FaceStore, name: str) -> None:
    store.files.write(f"tracks/{name}.parquet", b"PAR1")


def damage_videos(store: FaceStore, name: str) -> None:
    store.files.write(f"videos/{name}.parquet", b"")


def lose_tracks(store: FaceStore, name: str) -> None:
    store.files.remove(f"tracks/{name}.parquet")


def damage_checksum(store: FaceStore, name: str) -> None:
    change_table(store.url, "tracks", name, lambda table: set_value(table, "checksum", 0, "0" * 64))


DAMAGES = [damage_shard, damage_tracks, damage_videos, lose_tracks, damage_checksum]


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_drops_what_is_broken_and_nothing_else(
    store: FaceStore, tmp_path: Path, damage: Callable[[FaceStore, str], None]
) -> None:
    damage(store, "part-00000")
    found = problems(store)
    assert found != []
    ran = command("verify", store.url, "--repair")
    assert (ran.exit_code, ran.output.splitlines()) == (
        0,
        [
            *found,
            f"2 partitions checked, {len(found)} problems",
            "1 partitions dropped; the extraction that made them does them again",
        ],
    )
    after = FaceStore.open(store.url)
    assert after.digest() == write_store(tmp_path / "rest", [[make_video("b/y.mp4", [8], label=0)]]).digest()
    assert problems(after) == find_orphans(after) == []
    assert command("verify", store.url).exit_code == 0


def test_repair_of_a_store_with_nothing_whole_leaves_an_empty_one(store: FaceStore) -> None:
    damage_shard(store, "part-00000")
    damage_videos(store, "part-00001")
    ran = command("verify", store.url, "--repair")
    assert ran.exit_code == 0
    assert ran.output.splitlines()[-1].startswith("2 partitions dropped")
    assert list(contents(store)) == ["store.json"]
    assert problems(store) == []


def test_repair_of_a_whole_store_leaves_it_as_it_is(store: FaceStore) -> None:
    before = contents(store)
    ran = command("verify", store.url, "--repair")
    assert (ran.exit_code, ran.output) == (0, "2 partitions checked, 0 problems\n")
    assert contents(store) == before
    assert store.files.names("runs") == ["run-00001.json"]
    with only_run(store.files):
        pass


def test_repair_is_refused_while_a_run_is_alive(store: FaceStore) -> None:
    damage_checksum(store, "part-00000")
    before = contents(store)
    with only_run(store.files):
        ran = command("verify", store.url, "--repair")
        # Before anything is checked: it might be somebody's new work by the time it is dropped.
        assert (ran.exit_code, ran.output.startswith(f"Error: another run writes to {store.url}")) == (1, True)
        assert contents(store) == before


def test_gc_is_refused_while_a_run_is_alive(store: FaceStore) -> None:
    kill_an_attempt(store)
    with only_run(store.files) as run:
        begin_an_attempt(store, run, "part-00003")
        before = contents(store)
        ran = command("gc", store.url)
        assert ran.exit_code == 1
        assert f"Error: another run writes to {store.url}" in ran.output
        assert contents(store) == before
        assert attempts_left(store.files) == ["part-00003"]


def test_what_a_run_is_writing_is_not_listed_by_gc(store: FaceStore) -> None:
    array, table, _temporary = kill_an_attempt(store)
    with only_run(store.files) as run:
        begin_an_attempt(store, run, "part-00003")
        begin_writing(store)
        dry = command("gc", store.url, "--dry-run")
        assert (dry.exit_code, dry.output.splitlines()) == (0, [array, table, "2 orphans found"])


def test_gc_removes_what_a_killed_run_was_writing(store: FaceStore) -> None:
    before = contents(store)
    with only_run(store.files) as run:
        array, attempt, table = begin_an_attempt(store, run, "part-00002")
    dry = command("gc", store.url, "--dry-run")
    assert dry.output.splitlines() == [array, attempt, table, "3 orphans found"]
    wet = command("gc", store.url)
    # The table is replaced by that of an empty partition.
    assert (wet.exit_code, wet.output.splitlines()) == (0, [array, attempt, "2 orphans removed"])
    after = FaceStore.open(store.url)
    assert find_orphans(after) == problems(after) == []
    tables = {f"{folder}/part-00002.parquet" for folder in ("tracks", "videos")}
    assert {name: data for name, data in contents(store).items() if name not in tables} == before


def test_gc_lists_then_removes(store: FaceStore) -> None:
    left = kill_an_attempt(store)
    dry = command("gc", store.url, "--dry-run")
    assert (dry.exit_code, dry.output.splitlines()) == (0, [*left, "3 orphans found"])
    assert find_orphans(store) == left
    wet = command("gc", store.url)
    assert (wet.exit_code, wet.output.splitlines()) == (0, [*left, "3 orphans removed"])
    assert find_orphans(store) == []


@pytest.mark.parametrize("name", ["info", "verify", "gc"])
def test_what_is_no_store_ends_with_2_and_one_line(tmp_path: Path, name: str) -> None:
    ran = command(name, str(tmp_path))
    assert ran.exit_code == 2
    assert ran.output == f"Error: {tmp_path} is no face-clip store: it has no store.json; check the path\n"
    assert "Traceback" in command(name, str(tmp_path), "--debug").output


def test_names_from_videos_cannot_forge_lines_or_colours(store: FaceStore) -> None:
    evil = "x\n2 partitions checked, 0 problems\x1b[2K.mp4"
    write_partition(store.files, "part-00002", [make_video(evil, [2])])
    change_table(store.url, "tracks", "part-00002", lambda t: set_value(t, "checksum", 0, "0"))
    store.files.write("arrays/evil\x1b[31m", b"")
    verified, listed = command("verify", store.url), command("gc", store.url, "--dry-run")
    assert verified.output.splitlines() == [
        r"part-00002: x\n2 partitions checked, 0 problems\x1b[2K.mp4 track 0: frames don't match their checksum",
        "3 partitions checked, 1 problems",
    ]
    assert listed.output.splitlines() == [r"arrays/evil\x1b[31m", "1 orphans found"]


def test_settings_from_a_foreign_hand_cannot_either(store: FaceStore) -> None:
    manifest = json.loads(store.files.read("store.json"))
    manifest["settings"]["store"]["codec"] = "z\x1b[31m"
    store.files.write("store.json", json.dumps(manifest).encode())
    assert "\x1b" not in command("info", store.url).output
