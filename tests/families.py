"""Families of tiny videos: an original with two faces, fakes of it with one of them changed; and stores of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.config import CropSettings, Settings
from pipeline.process import process_partition
from pipeline.runs import only_run
from pipeline.schema import CIRCUMSTANCE_COLUMNS, PLACEMENT_COLUMNS
from pipeline.store import FaceStore
from pipeline.types import FAKE, REAL, Partition, Source, UInt8Array, VideoRef
from pipeline.upkeep import find_orphans, verify_store
from pipeline.writer import create_or_resume
from tests.faces import Face, brightness, face_frames, portrait
from tests.videos import write_video

SETTINGS = Settings(crop=CropSettings(size=32))
NUM_FRAMES = 40
WIDTH = 240
LEFT, RIGHT = Face(speed=(0.3, 0.1)), Face("obama_1", start=(130, 20), speed=(0.3, 0.1))
FACES = (LEFT, RIGHT)
FACE_BOXES = {"hopper": (27, 19, 55, 51), "obama_1": (29, 9, 54, 45), "obama_2": (32, 16, 54, 44)}
"""Where the faces are in these portraits, 80 pixels wide."""

Row = dict[str, Any]


def with_face_of(face: Face, other: str) -> UInt8Array:
    """A portrait, uint8 RGB (80, 80, 3), whose face is another's."""
    x1, y1, x2, y2 = FACE_BOXES[face.portrait]
    a1, b1, a2, b2 = FACE_BOXES[other]
    new = cv2.resize(portrait(other, 80)[b1:b2, a1:a2], (x2 - x1, y2 - y1))
    share = np.zeros((y2 - y1, x2 - x1, 1), np.float32)
    cv2.ellipse(share, ((x2 - x1) // 2, (y2 - y1) // 2), ((x2 - x1) // 2 - 2, (y2 - y1) // 2 - 2), 0, 0, 360, 1, -1)
    changed = portrait(face.portrait, 80).copy()
    changed[y1:y2, x1:x2] = changed[y1:y2, x1:x2] * (1 - share) + new * share
    return changed


def fake_frames(num_frames: int = NUM_FRAMES, changed: Sequence[Face] = (), **scene: Any) -> Iterator[UInt8Array]:
    """The frames of the original, but some of its faces are somebody else's."""
    pictures = [(face, with_face_of(face, "obama_2")) for face in changed]
    for index, rgb in enumerate(face_frames(num_frames, FACES, WIDTH, **scene)):
        for face, picture in pictures:
            x, y = face.corner(index)
            rgb[y : y + 80, x : x + 80] = (picture * brightness(index)).astype(np.uint8)
        yield rgb


def video(path: Path, frames: Iterable[UInt8Array], crf: int = 26, **options: str) -> Path:
    return write_video(path, frames, options={"crf": str(crf)} | options)


def lossless_each(path: Path, frames: Iterable[UInt8Array]) -> Path:
    """Each frame on its own, so that one can be lost without the next."""
    return video(path, frames, crf=12, g="1")


def make_family(folder: Path) -> Path:
    """original.mp4, and of it left.mp4 and right.mp4 with that face changed, and copy.mp4 without a change."""
    video(folder / "original.mp4", fake_frames(), crf=18)
    video(folder / "left.mp4", fake_frames(changed=[LEFT]))
    video(folder / "right.mp4", fake_frames(changed=[RIGHT]), crf=32)
    video(folder / "copy.mp4", fake_frames(), crf=34)
    return folder


@dataclass
class Done:
    """A store, by video."""

    store: FaceStore

    @property
    def videos(self) -> dict[str, Row]:
        return {row["video_id"]: row for row in self.store.videos.to_pylist()}

    @property
    def tracks(self) -> dict[str, list[Row]]:
        rows = self.store.tracks.sort_by([("video_id", "ascending"), ("track_id", "ascending")]).to_pylist()
        return {name: [row for row in rows if row["video_id"] == name] for name in self.videos}

    @property
    def paired(self) -> set[str]:
        return {name for name, row in self.videos.items() if row["tracks_from"] == "original"}

    @property
    def notes(self) -> dict[str, str | None]:
        return {name: row["pairing_note"] for name, row in self.videos.items()}

    def contents(self, name: str) -> tuple[Row, list[Row]]:
        """What enters the digest of one video."""
        left_out = CIRCUMSTANCE_COLUMNS | PLACEMENT_COLUMNS
        row, *tracks = (
            {key: value for key, value in row.items() if key not in left_out}
            for row in (self.videos[name], *self.tracks[name])
        )
        return row, tracks


def ref(path: Path, source: str | None = None, label: int | None = None, name: str = "") -> VideoRef:
    label = (REAL if source is None else FAKE) if label is None else label
    return VideoRef(name or path.name, str(path), 1, 1, label, source, source or path.name)


def process(
    store: Path,
    *partitions: Sequence[VideoRef],
    sources: Mapping[str, Source],
    settings: Settings = SETTINGS,
    num_threads: int = 1,
    told: Callable[[str | None], None] = lambda _: None,
) -> Done:
    """Into a store of their own; it is whole afterwards."""
    with only_run(create_or_resume(str(store), settings)) as run:
        for number, videos in enumerate(partitions):
            partition = Partition(number, tuple(videos), sources)
            process_partition(partition, run, settings, "cpu", num_threads, told)
    done = Done(FaceStore.open(str(store)))
    assert list(verify_store(done.store)) == []
    assert find_orphans(done.store) == []
    return done


def family(folder: Path, *fakes: str) -> tuple[VideoRef, list[VideoRef], dict[str, Source]]:
    """Original, fakes by file name, and the sources that the plan would give."""
    original = ref(folder / "original.mp4")
    return original, [ref(folder / name, "original.mp4") for name in fakes], {"original.mp4": original}
