"""What a notebook shows of a store and of a track; and tracks as objects."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline import store_html
from pipeline.schema import PER_FRAME_COLUMNS, TRACKS_SCHEMA
from pipeline.store import FaceStore
from tests.stores import make_video, small_store, write_store

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path: Path) -> FaceStore:
    return small_store(tmp_path / "store")


def test_a_track_is_its_row_with_arrays(store: FaceStore) -> None:
    row = store.tracks.to_pylist()[1]
    track = store.track(1)
    assert list(track) == TRACKS_SCHEMA.names
    assert {name: track[name] for name in track if name not in PER_FRAME_COLUMNS} == {
        name: value for name, value in row.items() if name not in PER_FRAME_COLUMNS
    }
    shapes = {"boxes_xyxy": (5, 4), "landmarks": (5, 5, 2), "crop_xyxy": (5, 4), "scores": (5,), "observed": (5,)}
    assert {name: track[name].shape for name in shapes} == shapes
    assert (track["boxes_xyxy"].dtype, track["observed"].dtype) == (np.float32, np.bool_)
    np.testing.assert_array_equal(track["landmarks"], np.array(row["landmarks"], np.float32))
    assert track["change_scores"] is None


def test_a_track_has_its_frames(store: FaceStore) -> None:
    track = store.track(0)
    assert track.num_frames == 19
    np.testing.assert_array_equal(track.frames(), store.frames(0))
    np.testing.assert_array_equal(track.frames(2, 11, 3), store.frames(0, 2, 11, 3))
    np.testing.assert_array_equal(store.frames(track, 1, 4), store.frames(0, 1, 4))


def test_a_track_is_found_by_number_and_by_name(store: FaceStore) -> None:
    number: Any = np.int64(2)
    assert store.track(number) == store.track(("b/y.mp4", 0)) != store.track(0)
    assert len({store.track(0), store.track(("a/x.mp4", 0)), store.track(1)}) == 2
    assert repr(store.track(2)).startswith("StoreTrack('b/y.mp4', track 0, 8 frames [")
    assert store.track(0) != dict(store.track(0))


def test_a_track_that_is_not_there_is_told(store: FaceStore) -> None:
    with pytest.raises(LookupError, match=r"has no track 7 of video 'a/x.mp4'; it has 2, counted from 0$"):
        store.track(("a/x.mp4", 7))
    with pytest.raises(LookupError, match=r"of video 'a/X.mp4'; did you mean 'a/x.mp4'\?$"):
        store.track(("a/X.mp4", 0))
    with pytest.raises(LookupError, match="its row in videos says why"):
        store.track(("a/none.mp4", 0))
    with pytest.raises(TypeError, match=r"\('a/x.mp4', 0\) is its first one"):
        store.track("a/x.mp4")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="there is no track 3: the store has 3"):
        store.track(3)


def test_a_track_is_read_without_libraries_for_pictures(store: FaceStore) -> None:
    code = (
        "import sys\n"
        "from pipeline.store import FaceStore\n"
        "track = FaceStore.open(sys.argv[1]).track(('a/x.mp4', 0))\n"
        "assert track.frames(0, 2).shape == (2, 16, 16, 3) and track['boxes_xyxy'].shape == (19, 4)\n"
        "loaded = {'cv2', 'matplotlib', 'torch', 'dask', 'click'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code, store.url], cwd=ROOT, check=True)


def test_a_store_says_what_it_holds(store: FaceStore) -> None:
    html = store._repr_html_()
    for said in (store.url, store.fingerprint, "1 no_face", "2 ok", "16 x 16 pixels", "crop.size 16"):
        assert said in html
    assert _cells(html, "REAL") == ["1", "1", "8"]
    assert _cells(html, "FAKE") == ["1", "2", "24"]
    assert _cells(html, "no label") == ["1", "0", "0"]
    assert _cells(html, "total") == ["3", "3", "32"]
    assert html.count('<img src="data:image/jpeg;base64,') == 3
    assert "http" not in html


def _cells(html: str, name: str) -> list[str]:
    row = html.split(f">{name}</th>", 1)[1].split("</tr>", 1)[0]
    return [cell.split(">", 1)[1] for cell in row.split("</td>")[:-1]]


def test_a_track_says_what_it_is_of(store: FaceStore) -> None:
    html = store.track(1)._repr_html_()
    for said in ("Track 1", "a/x.mp4", "FAKE", "made from", "b/y.mp4", "1920 x 1080"):
        assert said in html
    assert html.count('<img src="data:image/jpeg;base64,') == 5


def test_names_can_not_become_markup(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>\u202e'\"&.mp4"
    store = write_store(tmp_path / "a <b>", [[make_video(name, [3], label=1, source_id="<i>")]])
    assert "&lt;img src=x onerror=alert(1)&gt;\\u202e&#x27;&quot;&amp;.mp4" in store.track(0)._repr_html_()
    for html in (store._repr_html_(), store.track(0)._repr_html_()):
        for bad in ("<img src=x", "<i>", "\u202e", "a <b>"):
            assert bad not in html


def test_a_store_without_tracks_shows_no_face(tmp_path: Path) -> None:
    html = write_store(tmp_path / "s", [[make_video("a.mp4")]])._repr_html_()
    assert "1 no_face" in html
    assert "no face to show" in html
    assert "no videos" in write_store(tmp_path / "empty", [])._repr_html_()


def test_a_store_whose_frames_are_gone_still_says_what_it_holds(store: FaceStore) -> None:
    shutil.rmtree(Path(store.url) / "arrays")
    html = FaceStore.open(store.url)._repr_html_()
    assert _cells(html, "total") == ["3", "3", "32"]
    assert "Can't be shown:</b> StoreFormatError" in html
    assert "Can't be shown:</b> StoreFormatError" in store.track(0)._repr_html_()


def test_a_clip_that_is_lost_leaves_the_others(store: FaceStore) -> None:
    shutil.rmtree(Path(store.url) / "arrays" / store.tracks["array"].to_pylist()[0])
    html = FaceStore.open(store.url)._repr_html_()
    assert html.count("Can't be shown:</b> ") == 2
    assert html.count("data:image/jpeg") == 1


@pytest.mark.parametrize("content", [b"", b"PAR1 not quite"])
def test_a_store_whose_tables_are_damaged_says_so(store: FaceStore, content: bytes) -> None:
    (Path(store.url) / "tracks" / "part-00000.parquet").write_bytes(content)
    html = FaceStore.open(store.url)._repr_html_()
    assert store.url in html
    assert "tracks/part-00000.parquet is missing or damaged" in html


def test_a_store_whose_settings_are_strange_is_shown_all_the_same(store: FaceStore) -> None:
    store.manifest["settings"] = {"crop": None}
    assert "Can't be shown" in store._repr_html_()


def test_of_a_large_store_a_part_is_counted(store: FaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_html, "MOST_PARTITIONS", 1)
    html = store._repr_html_()
    assert "in the first 1 of 2 partitions" in html
    assert _cells(html, "total") == ["2", "2", "24"]
    assert (store.videos.num_rows, store.tracks.num_rows) == (3, 3)
    html = store._repr_html_()
    assert "partitions" not in html
    assert _cells(html, "total") == ["3", "3", "32"]


def test_lists_are_not_read_to_count(store: FaceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    read = FaceStore.read_partition

    def watched(self: FaceStore, table: str, name: str, columns: list[str] | None = None) -> pa.Table:
        asked.extend(columns or ["all"])
        return read(self, table, name, columns)

    monkeypatch.setattr(FaceStore, "read_partition", watched)
    store._repr_html_()
    assert asked
    assert not {*PER_FRAME_COLUMNS, "all"} & set(asked)
