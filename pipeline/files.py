"""Files of a store, a training run or results, on a local disk or behind any fsspec URL (``s3://``, ``gs://``, ``memory://``).

What it adds to fsspec: a file appears whole or not at all, and is durable once it is there.
"""

from __future__ import annotations

import errno
import glob
import os
import secrets
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from pipeline.errors import InputError, WriteError

_MAX_REMOVALS = 20
"""Of a folder that others still write to: each must lose a race that takes a fraction of a millisecond."""
_NO_HARD_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})


class StoreFiles:
    """The folder that a store or a run lives in. Names are relative to it, POSIX.

    Raises:
        InputError: a URL of a kind that isn't known, or that needs a package.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") or "/"
        try:
            self._fs, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise InputError(
                f"{url} needs a package that isn't here ({error}); "
                "pip install -e '.[s3]' or '.[gcs]' brings those for s3:// and gs://"
            ) from error
        except ValueError as error:
            raise InputError(
                f"{url} can't be opened ({error}); give a folder, or a URL such as s3://bucket/store"
            ) from error
        self.is_local = isinstance(self._fs, LocalFileSystem)

    def __repr__(self) -> str:
        return f"StoreFiles({self.url!r})"

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    def exists(self, name: str = "") -> bool:
        # A listing may have been cached before another process wrote.
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path(name)))

    def is_folder(self, name: str = "") -> bool:
        return bool(self._fs.isdir(self._path(name)))

    def make_folder(self, name: str) -> None:
        """Make a folder where folders exist; an object store has none."""
        self._fs.makedirs(self._path(name), exist_ok=True)

    def names(self, folder: str = "") -> list[str]:
        """What lies directly in a folder, sorted; empty where there is no such folder."""
        self._fs.invalidate_cache()
        try:
            found = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def num_files(self, folder: str) -> int:
        """How many files lie in a folder and all below it."""
        return len(self._fs.find(self._path(folder)))

    def size_bytes(self, name: str) -> int:
        """Bytes of a file, or of all files in a folder."""
        return int(self._fs.du(self._path(name)))

    def read(self, name: str) -> bytes:
        """Contents of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        return bytes(self._fs.cat_file(self._path(name)))

    def read_ranges(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes]:
        """Parts of files, each as name, first byte, one past the last. Less comes back where a file ends before.

        Raises:
            FileNotFoundError: a file isn't there.
        """
        if not self.is_local:
            paths = [self._path(name) for name, _, _ in ranges]
            starts, stops = [start for _, start, _ in ranges], [stop for _, _, stop in ranges]
            return [bytes(part) for part in self._fs.cat_ranges(paths, starts, stops, on_error="raise")]
        found = []
        for name, of_file in groupby(ranges, key=itemgetter(0)):
            with Path(self._path(name)).open("rb", buffering=0) as file:
                found += [os.pread(file.fileno(), stop - start, start) for _, start, stop in of_file]
        return found

    def read_tail(self, name: str, num_bytes: int) -> bytes:
        """The last bytes of a file, or all of it if it is shorter.

        Raises:
            FileNotFoundError: there is none.
        """
        if not self.is_local:
            return bytes(self._fs.cat_file(self._path(name), start=-num_bytes))
        with Path(self._path(name)).open("rb", buffering=0) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            return os.pread(file.fileno(), num_bytes, max(0, size_bytes - num_bytes))

    def write(self, name: str, data: bytes) -> None:
        """Create or replace a file in one step: a temporary name, fsync and rename on a disk, one PUT elsewhere."""
        if not self.is_local:
            self._fs.pipe_file(self._path(name), data)
            return
        _write_and_place(Path(self._path(name)), data, Path.replace)

    def create(self, name: str, data: bytes) -> bool:
        """Create a file in one step, unless there is one: of several who try, one succeeds.

        On a disk that is a hard link, on an object store a conditional PUT. Where a file system has no hard links
        (some that are mounted from buckets), two who try in the same instant may both believe that they succeeded.

        Returns:
            Whether the file is there now because of this call.
        """
        path = self._path(name)
        if self.is_local:
            try:
                _write_and_place(Path(path), data, _place_new)
            except FileExistsError:
                return False
            return True
        try:
            self._fs.pipe_file(path, data, mode="create")
        except OSError:
            # Not all of them say that it exists, and a PUT that is repeated since its answer got lost meets itself.
            if not self.exists(name):
                raise
            return self.read(name) == data
        return True

    def sync(self, folder: str) -> None:
        """Make all files below a folder durable. Object stores are, once they have answered."""
        if not self.is_local:
            return
        for parent, _, names in os.walk(self._path(folder)):
            for name in names:
                with Path(parent, name).open("rb") as file:
                    os.fsync(file.fileno())
            _sync_folder(Path(parent))
        # The folder itself is a name in this one.
        _sync_folder(Path(self._path(folder)).parent)

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all that is in it; one that isn't there is no error.

        Others may write into it meanwhile, or remove it, too. What is written after its folder was gone stays.
        """
        for tries_left in reversed(range(_MAX_REMOVALS)):
            try:
                # fsspec takes a * in a name for a pattern.
                self._fs.rm(self._path(name) if self.is_local else glob.escape(self._path(name)), recursive=True)
            except FileNotFoundError:
                if not self.exists(name):
                    return
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or not tries_left:
                    raise
            else:
                return

    def zarr_store(self, name: str, read_only: bool) -> Store:
        """A zarr store rooted at ``name``."""
        if self.is_local:
            return LocalStore(self._path(name), read_only=read_only)
        return FsspecStore.from_url(self._fs.unstrip_protocol(self._path(name)), read_only=read_only)


def write_file(folder: StoreFiles, name: str, data: bytes) -> None:
    """Create or replace a file whole; if that fails, the file that was there stays.

    Raises:
        WriteError: the disk is full, or gone.
    """
    try:
        folder.write(name, data)
    except OSError as error:
        raise WriteError(f"can't write {folder.url}/{name}: {error}; the one before is whole") from error


def _write_and_place(target: Path, data: bytes, place: Callable[[Path, Path], object]) -> None:
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        place(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _place_new(temporary: Path, target: Path) -> None:
    """A rename would replace what is there; a link doesn't."""
    try:
        target.hardlink_to(temporary)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, "it is there", str(target)) from None
        temporary.replace(target)


def _sync_folder(folder: Path) -> None:
    """A rename is durable once its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
