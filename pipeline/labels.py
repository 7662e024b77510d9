"""What is known about videos before they are opened: labels, originals, and the groups that a split must not cut.

Facts come from label files (DFDC's ``metadata.json``, Celeb-DF's list of test videos, a CSV) and from the folder
layouts of FaceForensics++ and Celeb-DF, whose names say who was swapped with whom.
"""

from __future__ import annotations

import csv
import json
import os
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.errors import InputError
from pipeline.nearest import did_you_mean_path
from pipeline.types import FAKE, REAL

_LABELS = {"REAL": REAL, "FAKE": FAKE, "0": REAL, "1": FAKE, "": None}
_LABEL_NAMES = {REAL: "REAL", FAKE: "FAKE"}


class LabelError(InputError):
    """Labels that can't be believed; says which file, which entry, and what to do."""


class Where(NamedTuple):
    """Where a label file says something, for messages."""

    file: str
    entry: str

    def error(self, what: str, remedy: str) -> LabelError:
        return LabelError(f"labels in {self.file!r}, {self.entry}: {what}; {remedy}")


@dataclass(frozen=True, slots=True)
class Fact:
    """What one source says about one video."""

    label: int | None
    """0 REAL, 1 FAKE, None unknown."""
    original: str | None = None
    """``video_id`` of the video it was made from, present or not."""
    ties: tuple[str, ...] = ()
    """Names of people and groups, each with the namespace it belongs to; videos that share one share a group."""
    where: Where | None = None
    """None for what a folder layout says."""


Entries = Iterator[tuple[str, Fact]]


def gather_facts(
    root: str, video_ids: Iterable[str], labels: str | None = None, metadata_files: Iterable[str] = ()
) -> dict[str, Fact]:
    """All facts below ``root`` by ``video_id``, those about videos that aren't there included.

    With ``labels`` that file alone gives labels, and the folder layout only originals and ties; without it
    ``metadata_files`` (DFDC) and the layout give all. Where both name an original, the file's counts.

    Raises:
        LabelError: a file is malformed, an entry leaves ``root``, or two sources contradict each other.
    """
    facts: dict[str, Fact] = {}
    for file in metadata_files if labels is None else [labels]:
        for video_id, fact in read_labels(file, root):
            known = facts.get(video_id)
            facts[video_id] = fact if known is None else _merge(video_id, known, fact)
    for video_id, guess in read_layouts(root, video_ids):
        known = facts.get(video_id, Fact(None))
        _check_agreement(video_id, known, guess.label, "the name of its folder")
        label = guess.label if known.label is None and labels is None else known.label
        facts[video_id] = Fact(label, known.original or guess.original, known.ties + guess.ties, known.where)
    return facts


def group_videos(video_ids: Iterable[str], facts: Mapping[str, Fact]) -> dict[str, str]:
    """``group_id`` by ``video_id``: the connected components of "made from" and "shares a tie".

    A video that has facts but isn't among ``video_ids`` still connects those that are. A group is named after the
    smallest of its ``video_ids``.
    """
    nodes: dict[str, int] = {}
    edges: list[tuple[int, int]] = []
    ordered = sorted(set(video_ids))
    for video_id in dict.fromkeys((*ordered, *facts)):
        node = nodes.setdefault(_video_key(video_id), len(nodes))
        fact = facts.get(video_id, Fact(None))
        keys = fact.ties if fact.original is None else (*fact.ties, _video_key(fact.original))
        edges.extend((node, nodes.setdefault(key, len(nodes))) for key in keys)
    start, stop = np.array(edges, np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), np.bool_), (start, stop)), shape=(len(nodes), len(nodes)))
    _, components = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    return {video_id: names.setdefault(int(components[nodes[_video_key(video_id)]]), video_id) for video_id in ordered}


def _video_key(video_id: str) -> str:
    return f"video:{video_id}"


def _merge(video_id: str, known: Fact, new: Fact) -> Fact:
    """One fact out of two entries about the same video."""
    elsewhere = f"{known.where.entry} of {known.where.file!r}" if known.where else ""
    _check_agreement(video_id, new, known.label, elsewhere)
    if new.where and known.original and new.original and known.original != new.original:
        raise new.where.error(
            f"says {video_id!r} was made from {new.original!r}, but {elsewhere} says from {known.original!r}",
            "keep one",
        )
    labelled = new if known.label is None else known
    return Fact(labelled.label, known.original or new.original, known.ties + new.ties, labelled.where)


def _check_agreement(video_id: str, fact: Fact, other: int | None, elsewhere: str) -> None:
    if fact.where is not None and fact.label is not None and other is not None and fact.label != other:
        raise fact.where.error(
            f"says {_LABEL_NAMES[fact.label]} of {video_id!r}, but {elsewhere} says {_LABEL_NAMES[other]}",
            "correct the one that is wrong (0 is REAL and 1 is FAKE, except in Celeb-DF's own list)",
        )


# Label files


def read_labels(file: str, root: str) -> Entries:
    """The entries of one label file, by its ending: .json (DFDC), .csv, .txt (Celeb-DF's list of test videos).

    Names in DFDC's and Celeb-DF's files count from the file's folder where that is below ``root``, else from ``root``;
    names in a CSV count from ``root``.

    Raises:
        LabelError: the file is missing, of another kind or malformed, or an entry leaves ``root``.
    """
    reader = _READERS.get(Path(file).suffix.lower())
    if reader is None:
        raise LabelError(
            f"labels in {file!r}: files of this kind can't be read; give DFDC's metadata.json, Celeb-DF's "
            "List_of_testing_videos.txt, or a .csv with the columns path,label[,original][,group]"
        )
    try:
        yield from reader(_LabelFile(file, root))
    except OSError as error:
        raise LabelError(
            f"labels in {file!r}: can't be read ({error.strerror}); check the path{did_you_mean_path(file)}"
        ) from error
    except UnicodeDecodeError as error:
        raise LabelError(f"labels in {file!r}: is not UTF-8 text ({error}); save it as UTF-8") from error


class _LabelFile:
    """A label file, and how names in it become ``video_id`` below the input root."""

    def __init__(self, file: str, root: str) -> None:
        self.file = file
        self.root = root
        self._spellings = (
            (_absolute, f"{_absolute(root).rstrip('/')}/"),
            (os.path.realpath, f"{os.path.realpath(root).rstrip('/')}/"),
        )
        self.folder = posixpath.dirname(self._below_root(file) or "")

    def where(self, entry: str) -> Where:
        return Where(self.file, entry)

    def fact(
        self, where: Where, base: str, name: str, label: object, *, original: object = None, ties: tuple[str, ...] = ()
    ) -> tuple[str, Fact]:
        """One entry; ``name`` and ``original`` count from ``base``, which is below the root."""
        video_id = self._video_id(where, base, name)
        source_id = None if original in (None, "") else self._video_id(where, base, original)
        return video_id, Fact(_parse_label(where, label), None if source_id == video_id else source_id, ties, where)

    def _video_id(self, where: Where, base: str, name: object) -> str:
        if not isinstance(name, str) or "\0" in name or not is_utf8(name):
            raise where.error(f"{name!r} is no path", "write the path of a video below the input folder")
        absolute = posixpath.isabs(name)
        video_id = self._below_root(name) if absolute else posixpath.normpath(posixpath.join(base, name))
        if video_id is None or video_id.split("/", 1)[0] == "..":
            raise where.error(
                f"{name!r} leaves the input folder {self.root!r}", "use paths below it, or index its parent"
            )
        if video_id == ".":
            raise where.error(f"{name!r} names no file", "write the path of a video below the input folder")
        return video_id

    def _below_root(self, path: str) -> str | None:
        """``path`` counted from the root, as written or with links resolved; None where it isn't below it."""
        for spell, root in self._spellings:
            spelled = spell(path)
            if spelled.startswith(root):
                return spelled.removeprefix(root)
        return None


def _parse_label(where: Where, value: object) -> int | None:
    text = "" if value is None else value.strip().upper() if isinstance(value, str) else repr(value)
    if text not in _LABELS:
        raise where.error(f"label {value!r} is unknown", "write REAL or 0, FAKE or 1, or leave it empty")
    return _LABELS[text]


def _read_dfdc(labels: _LabelFile) -> Entries:
    """``{"aaq.mp4": {"label": "FAKE", "original": "xyz.mp4"}, ...}``, ``original`` only on fakes."""
    text = Path(labels.file).read_text("utf-8-sig")
    try:
        content = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except (json.JSONDecodeError, _DuplicateKeyError, RecursionError) as error:
        raise LabelError(f"labels in {labels.file!r}: is not valid JSON ({error}); correct the file") from error
    if not isinstance(content, dict):
        raise LabelError(
            f"labels in {labels.file!r}: holds a {type(content).__name__}, not an object of file names; use DFDC's "
            "metadata.json, or name another file of labels"
        )
    for name, value in content.items():
        where = labels.where(f"entry {name!r}")
        if not isinstance(value, dict) or "label" not in value:
            raise where.error("has no label", 'write {"label": "REAL"} or {"label": "FAKE", "original": "other.mp4"}')
        yield labels.fact(where, labels.folder, name, value["label"], original=value.get("original"))


class _DuplicateKeyError(ValueError):
    pass


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    content: dict[str, object] = {}
    for key, value in pairs:
        if key in content:
            raise _DuplicateKeyError(f"entry {key!r} occurs twice")
        content[key] = value
    return content


def _read_celeb_df_list(labels: _LabelFile) -> Entries:
    """Lines such as ``1 YouTube-real/00170.mp4``; in this file, against our convention, 1 is REAL and 0 is FAKE."""
    meaning = {"1": REAL, "0": FAKE}
    with Path(labels.file).open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            where = labels.where(f"line {number}")
            match line.strip().split(maxsplit=1):
                case [("0" | "1") as digit, name]:
                    yield labels.fact(where, labels.folder, name, meaning[digit])
                case [_, *_]:
                    raise where.error(
                        f"{line.strip()!r} isn't a label and a path", "write 1 (REAL) or 0 (FAKE), a space, a path"
                    )


def _read_csv(labels: _LabelFile) -> Entries:
    """``path,label[,original][,group]``; other columns are ignored."""
    with Path(labels.file).open(encoding="utf-8-sig", newline="") as lines:
        rows = csv.reader(lines, strict=True)
        try:
            header = [column.strip().lower() for column in next(rows, [])]
            if not {"path", "label"} <= set(header) or len(set(header)) < len(header):
                raise labels.where("line 1").error(
                    f"the columns are {header}", "begin with the line path,label[,original][,group], each column once"
                )
            for row in filter(None, rows):
                where = labels.where(f"line {rows.line_num}")
                if len(row) != len(header):
                    raise where.error(f"has {len(row)} fields for {len(header)} columns", "correct or quote them")
                cells = dict(zip(header, row, strict=True))
                ties = (f"group:{cells['group']}",) if cells.get("group") else ()
                yield labels.fact(where, "", cells["path"], cells["label"], original=cells.get("original"), ties=ties)
        except csv.Error as error:
            raise labels.where(f"line {rows.line_num}").error(f"is not valid CSV ({error})", "correct it") from error


_READERS: dict[str, Callable[[_LabelFile], Entries]] = {
    ".json": _read_dfdc,
    ".csv": _read_csv,
    ".txt": _read_celeb_df_list,
}


def is_utf8(name: str) -> bool:
    """False for a file name whose bytes aren't UTF-8, which no table can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _absolute(path: str) -> str:
    return os.path.normpath(Path(path).absolute())


# Folder layouts

# https://github.com/ondyari/FaceForensics/tree/master/dataset: <target>_<source>, and for DeepFakeDetection
# <target actor>_<source actor>__<sequence>__<experiment>. A method's masks lie beside its compressions.
_FFPP_PATH = re.compile(
    r"(?P<dataset>.*/)(?P<kind>original|manipulated)_sequences/(?:.*/)?(?P<compression>[^/]+)/videos/(?P<name>[^/]+)\.\w+",
    re.DOTALL,
)
_FFPP_NAME = re.compile(r"(?P<target>\d{3})(?:_(?P<source>\d{3}))?(?P<scene>)")
_DFD_NAME = re.compile(r"(?P<target>\d+)(?:_(?P<source>\d+))?__(?P<scene>.+?)(?:__[A-Z0-9]{8})?")

# https://github.com/yuezunli/celeb-deepfakeforensics
_CELEB_DF_PATH = re.compile(
    r"(?P<dataset>.*/)(?P<folder>Celeb-real|Celeb-synthesis|YouTube-real)/(?P<name>[^/]+)", re.DOTALL
)
_CELEB_DF_NAME = re.compile(r"(?P<target>id\d+)(?:_(?P<source>id\d+))?_(?P<clip>\d+\.\w+)")


def read_layouts(root: str, video_ids: Iterable[str]) -> Entries:
    """What the folder layouts of FaceForensics++ and Celeb-DF say about the videos they hold.

    The folders above ``root`` count too, so that a part of a data set is recognised like the whole.
    """
    prefix = f"{_absolute(root).rstrip('/')}/"
    known = set(video_ids)
    ffpp: dict[str, re.Match[str]] = {}
    for video_id in sorted(known):
        path = prefix + video_id
        if match := _FFPP_PATH.fullmatch(path):
            ffpp[video_id] = match
        elif match := _CELEB_DF_PATH.fullmatch(path):
            yield video_id, _celeb_df_fact(match, prefix)
    yield from _ffpp_facts(ffpp)


def _celeb_df_fact(path: re.Match[str], prefix: str) -> Fact:
    label = FAKE if path["folder"] == "Celeb-synthesis" else REAL
    name = _CELEB_DF_NAME.fullmatch(path["name"])
    if name is None:
        return Fact(label)
    original = None
    if name["source"] is not None:
        wanted = f"{path['dataset']}Celeb-real/{name['target']}_{name['clip']}"
        original = wanted.removeprefix(prefix) if wanted.startswith(prefix) else None
    return Fact(label, original, _people("celeb-df", name))


def _ffpp_facts(paths: Mapping[str, re.Match[str]]) -> Entries:
    originals: dict[tuple[str, ...], str] = {}
    names = {
        video_id: _FFPP_NAME.fullmatch(p["name"]) or _DFD_NAME.fullmatch(p["name"]) for video_id, p in paths.items()
    }
    for video_id, path in paths.items():
        name = names[video_id]
        if path["kind"] == "original" and name is not None:
            sequence = (path["dataset"], name["target"], name["scene"])
            originals.setdefault((*sequence, path["compression"]), video_id)
            originals.setdefault(sequence, video_id)
    for video_id, path in paths.items():
        name = names[video_id]
        fake = path["kind"] == "manipulated"
        label = None if path["compression"] == "masks" else FAKE if fake else REAL
        if name is None:
            yield video_id, Fact(label)
            continue
        sequence = (path["dataset"], name["target"], name["scene"])
        original = originals.get((*sequence, path["compression"]), originals.get(sequence)) if fake else None
        yield video_id, Fact(label, original, _people("dfd" if name["scene"] else "ffpp", name))


def _people(namespace: str, name: re.Match[str]) -> tuple[str, ...]:
    return tuple(f"{namespace}:{person}" for person in (name["target"], name["source"]) if person is not None)
