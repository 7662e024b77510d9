"""One track of a store as an object of its own: its row, its frames, and what a notebook shows of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline.types import UInt8Array

if TYPE_CHECKING:
    from pipeline.store import FaceStore


class StoreTrack(Mapping[str, Any]):
    """A row of the ``tracks`` table, by column: numbers and texts as Python has them, lists a frame as numpy arrays.

    So ``track["boxes_xyxy"]`` is float32 (T, 4) and ``track["observed"]`` bool (T,). It is what
    :meth:`pipeline.store.FaceStore.frames` takes for a track. Two are equal if they are the same row of one store.
    """

    def __init__(self, store: FaceStore, row: pa.Table) -> None:
        """A track of ``store``; ``row`` is the one row of its table."""
        self.store = store
        self._values = {name: _value(row[name]) for name in row.column_names}

    def __getitem__(self, column: str) -> Any:
        return self._values[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, StoreTrack) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return (
            f"StoreTrack({self['video_id']!r}, track {self['track_id']}, {self.num_frames} frames "
            f"[{self['frame_start']}, {self['frame_stop']}))"
        )

    def _repr_html_(self) -> str:
        """Facts and a film strip, for a notebook."""
        # Here, not above: readers need no pictures.
        from pipeline.store_html import track_html  # noqa: PLC0415

        return track_html(self)

    @property
    def num_frames(self) -> int:
        """T, the stored frames."""
        return int(self["row_stop"]) - int(self["row_start"])

    @property
    def _identity(self) -> tuple[str, str, int]:
        return self.store.url, self["array"], self["row_start"]

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> UInt8Array:
        """A window of its frames, uint8 (T, H, W, 3), RGB; as :meth:`pipeline.store.FaceStore.frames`."""
        return self.store.frames(self, start, stop, step)


def _value(column: pa.ChunkedArray) -> Any:
    """The value of a column with one row."""
    (value,) = column.to_pylist()
    if not pa.types.is_list(column.type) or value is None:
        return value
    numbers = column.type.value_type
    shape = [len(value)]
    while pa.types.is_fixed_size_list(numbers):
        shape.append(numbers.list_size)
        numbers = numbers.value_type
    return np.array(value, numbers.to_pandas_dtype()).reshape(shape)
