"""``submission.csv``: a probability of FAKE for every video, in the rows that are asked for."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.errors import InputError
from pipeline.nearest import did_you_mean_path

COLUMNS = ("filename", "label")


@dataclass(frozen=True)
class Submission:
    """The rows, and what was odd about them."""

    rows: list[tuple[str, float]]
    """filename, probability of FAKE."""
    unknown: list[str]
    """Names asked for that no video has; they have the fallback."""
    not_asked_for: list[str]
    """Videos that were scored and have no row."""


def read_sample_submission(path: str | Path) -> list[str]:
    """The names in the column ``filename``, in order.

    Raises:
        InputError: the file can't be read, lacks a column, or names a video twice or not at all.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            names = [row.get("filename") for row in rows]
            columns = rows.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"the sample submission {path} can't be read ({reason}); give a CSV file{did_you_mean_path(str(path))}"
        ) from error
    if missing := [name for name in COLUMNS if name not in columns]:
        raise InputError(
            f"the sample submission {path} lacks the column {' and '.join(missing)}; its first line must name "
            f"{','.join(COLUMNS)}, but names {','.join(columns) or 'nothing'}"
        )
    seen: set[str] = set()
    for number, name in enumerate(names, start=2):
        if not name or name in seen:
            wrong = f"{name!r} twice" if name else "no video"
            raise InputError(f"the sample submission {path} names {wrong} in row {number}; each video needs one row")
        seen.add(name)
    return [name for name in names if name]


def make_submission(
    probabilities: Mapping[str, float], fallback: float, names: Sequence[str] | None = None
) -> Submission:
    """The rows of a submission.

    Args:
        probabilities: by video_id, of FAKE.
        fallback: for a name that no video has.
        names: of the rows, in order: video_ids, or file names without a folder that only one video has. None: all
            video_ids, sorted.
    """
    if names is None:
        return Submission(sorted(probabilities.items()), [], [])
    by_file_name: dict[str, list[str]] = {}
    for video_id in probabilities:
        by_file_name.setdefault(PurePosixPath(video_id).name, []).append(video_id)
    rows, unknown, used = [], [], set()
    for name in names:
        alike = [name] if name in probabilities else by_file_name.get(name, [])
        if len(alike) == 1:
            rows.append((name, probabilities[alike[0]]))
            used.add(alike[0])
        else:
            rows.append((name, fallback))
            unknown.append(name)
    return Submission(rows, unknown, sorted(set(probabilities) - used))


def to_csv(rows: Sequence[tuple[str, float]]) -> bytes:
    """The file's content."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((name, repr(float(probability))) for name, probability in rows)
    return text.getvalue().encode()
