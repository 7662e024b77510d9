"""The page on the store's format is true: its code runs, and its tables are those of the schema."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.schema import CIRCUMSTANCE_COLUMNS, PLACEMENT_COLUMNS, TRACKS_SCHEMA, VIDEOS_SCHEMA
from pipeline.types import STATUSES
from tests.stores import SETTINGS, make_video, small_store, write_partition

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "store-format.md").read_text(encoding="utf-8")


def code_blocks() -> tuple[str, str]:
    """What reads a store, and what makes the codec of differences known before."""
    reading, codec = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return str(reading), str(codec)


# A stand-in for a place where this package isn't: neither its modules nor what it tells zarr of itself.
WITHOUT_THIS_PACKAGE = """
import sys; sys.modules['pipeline'] = None
import importlib.metadata as metadata
found = metadata.entry_points()
points = [point for group in found.groups for point in found.select(group=group)]
metadata.entry_points = lambda: metadata.EntryPoints(p for p in points if not p.value.startswith('pipeline.'))
"""


def run_without_this_package(code: str, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", WITHOUT_THIS_PACKAGE + code, *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return PAGE.split(f"{title}", 1)[1].split("\n#", 1)[0]


def type_name(data_type: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(data_type):
        return f"{type_name(data_type.value_type)}[{data_type.list_size}]"
    if pa.types.is_list(data_type):
        return f"list<{type_name(data_type.value_type)}>"
    return {"float": "float32", "double": "float64"}.get(str(data_type), str(data_type))


@pytest.mark.parametrize("differences", [False, True])
def test_ten_lines_read_a_store_without_this_package(tmp_path: Path, differences: bool) -> None:
    layout = SETTINGS.store.model_copy(update={"differences": differences})
    made_with = SETTINGS.model_copy(update={"store": layout})
    store = small_store(tmp_path / "data" / "store", made_with)
    write_partition(store.files, "part-00002", [make_video("c.mp4", [4])], made_with)
    # The first partition loses its commit, and keeps its tracks and its array.
    store.files.remove("videos/part-00000.parquet")
    reading, codec = code_blocks()
    code = "\n".join(
        [
            codec if differences else "",
            reading,
            "import numpy",
            "numpy.save(sys.argv[1], frames)",
            "print(len(tracks))",
        ]
    )
    ran = run_without_this_package(code, tmp_path, str(tmp_path / "frames.npy"))
    assert ran.returncode == 0, ran.stderr

    expected_row = type(store).open(store.url).tracks.to_pylist()[0]
    shape = (expected_row["row_stop"] - expected_row["row_start"], 16, 16, 3)
    assert ran.stdout == f"b/y.mp4 {expected_row['label']} {shape}\n2\n"

    frames, expected = np.load(tmp_path / "frames.npy"), type(store).open(store.url).frames(0)
    assert frames.dtype == expected.dtype
    np.testing.assert_array_equal(frames, expected)


def test_differences_are_not_taken_for_frames_where_the_codec_is_unknown(tmp_path: Path) -> None:
    small_store(tmp_path / "data" / "store")
    ran = run_without_this_package(code_blocks()[0], tmp_path)
    assert ran.returncode == 1
    assert "faceclips.frame_difference" in ran.stderr.splitlines()[-1]


def test_they_are_ten_lines() -> None:
    for block, most in zip(code_blocks(), (10, 13), strict=True):
        lines = block.splitlines()
        assert len(lines) <= most
        assert all(";" not in line and len(line) <= 120 for line in lines)


@pytest.mark.parametrize(("table", "schema"), [("tracks", TRACKS_SCHEMA), ("videos", VIDEOS_SCHEMA)])
def test_every_column_is_described_in_order_with_its_type(table: str, schema: pa.Schema) -> None:
    described = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|[^|]*\| [^|]+ \|$", section(f"### `{table}`"), re.MULTILINE)
    assert described == [(field.name, type_name(field.type)) for field in schema]


def test_every_status_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", PAGE.split("| `status` | the video |")[1], re.MULTILINE)
    assert described == list(STATUSES)


def test_what_the_digest_leaves_out_is_said() -> None:
    (left_out,) = re.findall(r"^- Left out are (.*)$", section("## Digest"), re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", left_out)) - {"videos", "tracks"}
    assert named == PLACEMENT_COLUMNS | CIRCUMSTANCE_COLUMNS
