"""Real clips beside fakes of them: one face, the same frames of the video, the same squares.

Beside such a fake nothing tells a real clip but what the forgery changed: not the person, not the scene, not the light.
Pure functions on arrays, and the units of an epoch made of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.types import FAKE, REAL, BoolArray
from training.dataset import Int64Array, Window
from training.sampling import Unit, one_of_each

Float64Array = NDArray[np.float64]


def pairs_per_face(labels: Int64Array, faces: Int64Array) -> Int64Array:
    """How many pairs of a real and a fake track an epoch has of each face: as many as tracks of its rarer class.

    An original and its fakes make one. More come about where a face was left as it was in one fake and changed in
    others, of labels by face.

    Args:
        labels: int (N,) of tracks: 0, 1, or -1 for those that don't take part.
        faces: int (N,): number of the track's face, shared by those that may be paired; -1 none.

    Returns:
        int64 (F,), by number.
    """
    num_faces = int(faces.max(initial=-1)) + 1
    counts = [np.bincount(faces[(labels == label) & (faces >= 0)], minlength=num_faces) for label in (REAL, FAKE)]
    return np.minimum(*counts)


def draw_pairs(labels: Int64Array, faces: Int64Array, rng: np.random.Generator) -> Int64Array:
    """Pairs of one face each: all of its rarer class once, and as many of the other, none of them twice.

    Args:
        labels: as :func:`pairs_per_face`.
        faces: likewise.
        rng: where chance comes from.

    Returns:
        int64 (P, 2), rows of ``labels``, REAL first; in order of faces.
    """
    wanted = pairs_per_face(labels, faces)
    sides = []
    for label in (REAL, FAKE):
        rows = rng.permutation(np.flatnonzero((labels == label) & (faces >= 0)))
        rows = rows[np.argsort(faces[rows], kind="stable")]
        own_faces = faces[rows]
        # How many of the same face come before: the first so many of either side are as good as drawn.
        number = np.arange(len(rows)) - np.searchsorted(own_faces, own_faces)
        sides.append(rows[number < wanted[own_faces]])
    return np.stack(sides, axis=1)


def shared_positions(starts: Int64Array, stops: Int64Array, span: int, chance: Float64Array) -> Float64Array:
    """Where in their tracks the two clips of each pair begin, so that both show the same frames of the video.

    Args:
        starts: int (P, 2): index in the video of each track's first frame.
        stops: int (P, 2): one past its last.
        span: frames from a clip's first to its last.
        chance: float64 (P,) in [0, 1): which of the windows that lie in both tracks; 0 the first.

    Returns:
        float64 (P, 2) in [0, 1), for :class:`training.dataset.Window`. Two tracks that share fewer frames than a clip
        spans get the same position, each in its own frames, which are the same only where the tracks cover the same.
    """
    first_shared = starts.max(axis=1)
    num_shared = stops.min(axis=1) - first_shared - span + 1
    begins = first_shared + np.floor(chance * num_shared).astype(np.int64)
    # Half a frame further than where it begins, out of reach of rounding.
    positions: Float64Array = (begins[:, None] - starts + 0.5) / np.maximum(stops - starts - span + 1, 1)
    return np.where(num_shared[:, None] > 0, positions, chance[:, None])


@dataclass(frozen=True, eq=False)
class PairedClips:
    """Units of a real and a fake clip, in this order: of one face and the same frames, as far as tracks have a partner.

    Those that have none are put together by :func:`training.sampling.one_of_each`, each with a window of its own.
    Where only one class is left over, these take no part.
    """

    labels: Int64Array
    """int64 (N,) of tracks: 0, 1, or -1 for those that don't take part."""
    faces: Int64Array
    """int64 (N,): number of the track's face, shared by those that may be paired; -1 none."""
    starts: Int64Array
    """int64 (N,): index in the video of each track's first frame."""
    stops: Int64Array
    """int64 (N,): one past its last."""
    span: int
    """Frames from a clip's first to its last."""

    clips_per_unit: ClassVar[int] = 2

    @classmethod
    def of_tracks(cls, tracks: pa.Table, labels: Int64Array, span: int) -> PairedClips:
        """The units of a table with the columns ``pair_id, frame_start, row_start, row_stop``."""
        # Every frame of a track is stored, so rows of the array and frames of the video go together.
        starts = tracks["frame_start"].to_numpy().astype(np.int64)
        lengths = tracks["row_stop"].to_numpy() - tracks["row_start"].to_numpy()
        numbers = tracks["pair_id"].combine_chunks().dictionary_encode().indices
        return cls(labels, numbers.fill_null(-1).to_numpy().astype(np.int64), starts, starts + lengths, span)

    @cached_property
    def num_pairs(self) -> int:
        """Pairs of one face an epoch."""
        return int(pairs_per_face(self.labels, self.faces).sum())

    @cached_property
    def _alone(self) -> Int64Array:
        """int64 (M,): the tracks without a partner."""
        wanted = np.append(pairs_per_face(self.labels, self.faces), 0)  # The last is for -1, none.
        is_alone: BoolArray = (self.labels >= 0) & (wanted[self.faces] == 0)
        return np.flatnonzero(is_alone)

    @cached_property
    def num_strangers(self) -> int:
        """Units an epoch whose two clips are of different faces."""
        return min(int((self.labels[self._alone] == label).sum()) for label in (REAL, FAKE))

    @property
    def num_left_out(self) -> int:
        """Tracks that no epoch has, since they have neither a partner nor a stranger of the other class."""
        return 0 if self.num_strangers else len(self._alone)

    @property
    def num_units(self) -> int:
        """Pairs and strangers."""
        return self.num_pairs + self.num_strangers

    def describe(self) -> str:
        """How many of what."""
        text = f"an epoch has {self.num_pairs:,} pairs of one face"
        if self.num_strangers:
            text += f" and {self.num_strangers:,} of two"
        if self.num_left_out:
            text += f"; {self.num_left_out:,} tracks without a partner, all of one class, are left out"
        return text

    def draw(self, rng: np.random.Generator) -> list[Unit]:
        """Two windows each."""
        pairs = draw_pairs(self.labels, self.faces, rng)
        positions = shared_positions(self.starts[pairs], self.stops[pairs], self.span, rng.random(len(pairs)))
        if self.num_strangers:
            labels = self.labels[self._alone]
            rarer, other = self._alone[one_of_each(labels, rng)]
            strangers = np.stack([rarer, other] if self.labels[rarer[0]] == REAL else [other, rarer], axis=1)
            pairs = np.concatenate([pairs, strangers])
            positions = np.concatenate([positions, rng.random(strangers.shape)])
        order = rng.permutation(len(pairs))
        return [
            tuple(Window(row, at) for row, at in zip(*unit, strict=True))
            for unit in zip(pairs[order].tolist(), positions[order].tolist(), strict=True)
        ]
