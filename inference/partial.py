"""What an interrupted scoring has done so far: files of scores in a folder beside the file that is to come.

OUT.partial/part-00000.parquet ...   each a file of scores that explains itself; removed once OUT is there
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from inference.scores import SCORES_SCHEMA, Scores, ScoresInfo, read_scores, write_scores
from pipeline.errors import InputError
from pipeline.files import StoreFiles

WindowKey = tuple[str, int, str, int]
"""video_id, track_id, model, window: what a row is of."""


def window_keys(rows: pa.Table) -> list[WindowKey]:
    """What each row is of."""
    columns = (rows[name].to_pylist() for name in ("video_id", "track_id", "model", "window"))
    return list(zip(*columns, strict=True))


class PartialScores:
    """The rows so far, of this call and of those before it.

    Rows of an interrupted call, and of the file that is there, are kept where they are what they would be now: of the
    same clips, checkpoint, settings and code, and wanted. Those that failed are tried again.

    Args:
        path: of the file that is to come.
        info: what is scored.
        wanted: the windows to be scored.

    Attributes:
        done: the windows that need not be scored any more.
        num_dropped: rows found that are of something else, or of what isn't wanted.
    """

    def __init__(self, path: str | Path, info: ScoresInfo, wanted: set[WindowKey]) -> None:
        self._path, self._info = Path(path), info
        self._folder = Path(f"{path}.partial")
        self._folder.mkdir(parents=True, exist_ok=True)
        parts = sorted(self._folder.glob("part-*.parquet"))
        self._num_parts = 1 + max((int(part.stem.removeprefix("part-")) for part in parts), default=-1)
        self.done: set[WindowKey] = set()
        self.num_dropped = 0
        self._rows = [self._kept(found, wanted) for found in _readable([self._path, *parts])]

    def _kept(self, found: Scores, wanted: set[WindowKey]) -> pa.Table:
        names = self._info.names_scored_alike(found.info)
        alike = found.rows.filter(pc.is_in(found.rows["model"], pa.array(names, pa.string())))
        good = alike.filter(pc.is_valid(alike["probability"]))
        # A kill may have come when the file was there and its parts not yet gone.
        keys = window_keys(good)
        kept = good.filter(np.array([key in wanted and key not in self.done for key in keys], bool))
        self.done.update(wanted.intersection(keys))
        not_wanted = sum(key not in wanted for key in keys)
        self.num_dropped += found.rows.num_rows - alike.num_rows + not_wanted
        return kept

    def add(self, rows: pa.Table) -> None:
        """Keep rows, durably.

        Raises:
            WriteError: the disk is full, or gone.
        """
        write_scores(self._folder / f"part-{self._num_parts:05d}.parquet", [rows], self._info)
        self._num_parts += 1
        self._rows.append(rows)

    def finish(self) -> Scores:
        """Write the file, then remove the folder.

        Raises:
            WriteError: the disk is full, or gone.
        """
        write_scores(self._path, self._rows, self._info)
        StoreFiles(str(self._folder)).remove("")
        return Scores(pa.concat_tables([SCORES_SCHEMA.empty_table(), *self._rows]), self._info)


def _readable(paths: list[Path]) -> list[Scores]:
    """Those that are scores: another file that is there already is replaced in the end, a damaged part done again."""
    found = []
    for path in paths:
        try:
            found.append(read_scores(path))
        except InputError:
            continue
    return found
