"""Files of a store: whole or not at all, durable once there, and the same on a disk as elsewhere."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from pipeline.files import StoreFiles


@pytest.fixture(params=["disk", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreFiles]:
    if request.param == "disk":
        yield StoreFiles(str(tmp_path))
    else:
        yield StoreFiles(f"memory://{uuid4().hex}/store")
        fsspec.filesystem("memory").store.clear()


def test_what_is_written_is_read(files: StoreFiles) -> None:
    files.make_folder("a")
    files.write("a/file", b"one")
    files.write("a/file", b"another")
    assert files.read("a/file") == b"another"
    assert files.names("a") == ["file"]
    assert files.exists("a/file")
    assert files.is_folder("a")
    assert not files.is_folder("a/file")


def test_what_is_not_there_is_no_name_and_no_file(files: StoreFiles) -> None:
    assert files.names("nowhere") == []
    assert files.num_files("nowhere") == 0
    assert not files.exists("nowhere")
    assert not files.is_folder("nowhere")
    with pytest.raises(FileNotFoundError):
        files.read("nowhere")
    files.remove("nowhere")


def test_names_are_those_directly_inside_sorted(files: StoreFiles) -> None:
    files.make_folder("top/below")
    for name in ("top/c", "top/b", "top/below/x"):
        files.write(name, b"12345")
    assert files.names("top") == ["b", "below", "c"]
    assert files.num_files("top") == 3
    assert files.size_bytes("top") == 15
    assert files.size_bytes("top/c") == 5


def test_another_process_is_noticed(files: StoreFiles) -> None:
    """Listings are cached by some file systems; a store is written by many processes."""
    files.make_folder("a")
    assert files.names("a") == []
    StoreFiles(files.url).write("a/new", b"")
    assert files.names("a") == ["new"]
    assert files.exists("a/new")


def test_a_folder_is_removed_with_all_in_it_and_nothing_beside_it(files: StoreFiles) -> None:
    files.make_folder("array/c/0")
    files.write("array/c/0/0", b"pixels")
    files.write("array-2", b"beside")
    files.remove("array")
    assert not files.exists("array")
    assert files.names() == ["array-2"]


class Racing:
    """``os.rmdir``, with somebody who writes into each folder just before it goes."""

    def __init__(self, num_writes: int) -> None:
        self._remove = os.rmdir
        self._num_writes = num_writes
        self.num_refused = 0

    def __call__(self, path: str, *, dir_fd: int | None = None) -> None:
        if self.num_refused < self._num_writes:
            folder = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
            os.close(os.open(f"late-{self.num_refused}", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
            os.close(folder)
        try:
            self._remove(path, dir_fd=dir_fd)
        except OSError:
            self.num_refused += 1
            raise


def test_a_folder_that_is_still_written_to_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that outlives its client writes on while what it wrote is removed."""
    files = StoreFiles(str(tmp_path))
    files.make_folder("array/c/0")
    files.write("array/c/0/0", b"pixels")
    racing = Racing(num_writes=3)
    monkeypatch.setattr(os, "rmdir", racing)
    files.remove("array")
    assert racing.num_refused == 3
    assert files.names() == []


def test_who_writes_without_end_is_an_error_and_no_endless_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StoreFiles(str(tmp_path))
    files.make_folder("array")
    monkeypatch.setattr(os, "rmdir", Racing(num_writes=10**9))
    with pytest.raises(OSError, match="not empty"):
        files.remove("array")


def test_what_another_one_removes_meanwhile_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = StoreFiles(str(tmp_path))
    files.make_folder("array/c")
    for name in ("0", "1", "2"):
        files.write(f"array/c/{name}", b"pixels")
    unlink = os.unlink
    taken: list[str] = []

    def raced(path: str, *, dir_fd: int | None = None) -> None:
        unlink(path, dir_fd=dir_fd)
        if not taken:
            taken.append(path)
            raise FileNotFoundError(errno.ENOENT, "injected", path)

    monkeypatch.setattr(os, "unlink", raced)
    files.remove("array")
    assert len(taken) == 1
    assert files.names() == []


def test_wildcards_on_a_disk_are_only_names(tmp_path: Path) -> None:
    files = StoreFiles(str(tmp_path))
    files.write("a", b"")
    files.write("*", b"")
    files.remove("*")
    assert files.names() == ["a"]


def test_a_slash_at_the_end_is_no_other_place(tmp_path: Path) -> None:
    assert StoreFiles(f"{tmp_path}/").url == StoreFiles(str(tmp_path)).url
    assert StoreFiles("/").url == "/"


def fail(attempts: list[Any]) -> Any:
    def full(*args: Any, **_: Any) -> None:
        attempts.append(args)
        raise OSError(errno.ENOSPC, "No space left on device")

    return full


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "replace")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    files = StoreFiles(str(tmp_path))
    files.write("file", b"old")
    attempts: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail(attempts))
        for name in ("file", "new"):
            with pytest.raises(OSError, match="No space left"):
                files.write(name, b"half")
    assert len(attempts) == 2
    assert files.names() == ["file"]
    assert files.read("file") == b"old"


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = StoreFiles(str(tmp_path))
    files.write("file", b"old")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write("file", b"half")
    assert files.names() == ["file"]
    assert files.read("file") == b"old"


# Create


def test_a_file_is_created_once(files: StoreFiles) -> None:
    files.make_folder("a")
    assert files.create("a/file", b"first")
    assert not files.create("a/file", b"second")
    assert files.read("a/file") == b"first"
    assert files.names("a") == ["file"]
    files.remove("a/file")
    assert files.create("a/file", b"third")
    assert files.read("a/file") == b"third"


def test_a_written_file_is_there_for_create_too(files: StoreFiles) -> None:
    files.make_folder("a")
    files.write("a/file", b"")
    assert not files.create("a/file", b"new")
    files.write("a/file", b"replaced")
    assert files.read("a/file") == b"replaced"


def test_of_many_who_create_a_file_at_the_same_time_one_succeeds(tmp_path: Path) -> None:
    files = StoreFiles(str(tmp_path))
    at_once = threading.Barrier(8)

    def create(data: bytes) -> bytes | None:
        at_once.wait(60)
        return data if StoreFiles(files.url).create("file", data) else None

    with ThreadPoolExecutor(8) as threads:
        (winner,) = [data for data in threads.map(create, [bytes([n]) for n in range(8)]) if data is not None]
    assert files.read("file") == winner
    assert files.names() == ["file"]


def test_a_put_that_meets_itself_has_succeeded() -> None:
    """Its answer was lost, and it was sent again: the file holds what it would have written."""
    files = StoreFiles(f"memory://{uuid4().hex}/store")
    files.write("file", b"mine")
    assert files.create("file", b"mine")
    assert not files.create("file", b"theirs")
    files.remove("file")


def test_a_put_that_fails_with_nothing_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    files = StoreFiles(f"memory://{uuid4().hex}/store")
    attempts: list[Any] = []
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", fail(attempts))
    with pytest.raises(OSError, match="No space left"):
        files.create("file", b"data")
    assert len(attempts) == 1
    assert not files.exists("file")


@pytest.mark.parametrize(("owner", "step"), [(os, "fsync"), (Path, "hardlink_to")])
def test_a_create_that_fails_leaves_nothing_and_an_old_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, step: str
) -> None:
    files = StoreFiles(str(tmp_path))
    files.write("file", b"old")
    attempts: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fail(attempts))
        for name in ("file", "new"):
            with pytest.raises(OSError, match="No space left"):
                files.create(name, b"half")
    assert len(attempts) == 2
    assert files.names() == ["file"]
    assert files.read("file") == b"old"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_there_are_no_hard_links_a_file_is_created_once_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    attempts: list[Path] = []

    def no_links(target: Path, _source: Path) -> None:
        attempts.append(target)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    files = StoreFiles(str(tmp_path))
    assert files.create("file", b"first")
    assert not files.create("file", b"second")
    assert attempts == [tmp_path / "file"] * 2
    assert files.read("file") == b"first"
    assert files.names() == ["file"]


def test_nothing_is_created_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    files = StoreFiles(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        files.create("nowhere/file", b"data")
    assert files.names() == []


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths in the order in which they were made durable."""
    paths: list[str] = []
    real = os.fsync

    def spy(descriptor: int) -> None:
        paths.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return paths


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc to tell names of open files by")


@needs_proc
def test_a_file_is_durable_before_its_name_is(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.replace

    def replace(source: Path, target: Path) -> Path:
        synced.append(f"replace {target.name}")
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    StoreFiles(str(tmp_path)).write("file", b"data")
    assert len(synced) == 3
    assert Path(synced[0]).name.startswith(".file.")
    assert synced[1:] == ["replace file", str(tmp_path)]


@needs_proc
def test_a_created_file_is_durable_before_its_name_is(
    tmp_path: Path, synced: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.hardlink_to

    def link(target: Path, source: Path) -> None:
        synced.append(f"link {target.name}")
        real(target, source)

    monkeypatch.setattr(Path, "hardlink_to", link)
    assert StoreFiles(str(tmp_path)).create("file", b"data")
    assert len(synced) == 3
    assert Path(synced[0]).name.startswith(".file.")
    assert synced[1:] == ["link file", str(tmp_path)]


@needs_proc
def test_sync_makes_all_below_durable_and_the_name_of_the_folder(tmp_path: Path, synced: list[str]) -> None:
    (tmp_path / "arrays/a.zarr/c/0").mkdir(parents=True)
    (tmp_path / "arrays/other").write_bytes(b"not asked for")
    (tmp_path / "arrays/a.zarr/zarr.json").write_bytes(b"{}")
    (tmp_path / "arrays/a.zarr/c/0/0").write_bytes(b"pixels")
    StoreFiles(str(tmp_path)).sync("arrays/a.zarr")
    expected = ["arrays", "arrays/a.zarr", "arrays/a.zarr/c", "arrays/a.zarr/c/0", "arrays/a.zarr/c/0/0"]
    assert sorted(synced) == [str(tmp_path / name) for name in [*expected, "arrays/a.zarr/zarr.json"]]


def test_syncing_what_was_never_written_is_no_error(files: StoreFiles) -> None:
    files.make_folder("arrays")
    files.sync("arrays/nothing.zarr")


def test_a_name_with_a_star_is_no_pattern() -> None:
    files = StoreFiles("memory://stars/store")
    for name in ("a*", "ab"):
        files.write(f"arrays/{name}", b"")
    files.remove("arrays/a*")
    assert files.names("arrays") == ["ab"]
    files.remove("arrays")
