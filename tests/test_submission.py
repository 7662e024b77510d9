"""Submissions: exactly the rows that are asked for, a number in each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.submission import make_submission, read_sample_submission, to_csv
from pipeline.errors import InputError

PROBABILITIES = {"b/x.mp4": 0.25, "a.mp4": 0.999, "c/y.mp4": 0.001, "d/y.mp4": 0.5}


def test_without_a_sample_all_videos_by_name() -> None:
    submission = make_submission(PROBABILITIES, 0.5)
    assert to_csv(submission.rows) == b"filename,label\na.mp4,0.999\nb/x.mp4,0.25\nc/y.mp4,0.001\nd/y.mp4,0.5\n"
    assert not submission.unknown
    assert not submission.not_asked_for


def test_a_sample_gives_rows_and_order() -> None:
    submission = make_submission(PROBABILITIES, 0.7, ["d/y.mp4", "nobody.mp4", "x.mp4", "y.mp4", "b/a.mp4"])
    golden = b"filename,label\nd/y.mp4,0.5\nnobody.mp4,0.7\nx.mp4,0.25\ny.mp4,0.7\nb/a.mp4,0.7\n"
    assert to_csv(submission.rows) == golden
    assert submission.unknown == ["nobody.mp4", "y.mp4", "b/a.mp4"]  # Two videos are called y.mp4.
    assert submission.not_asked_for == ["a.mp4", "c/y.mp4"]


def test_names_with_commas_and_quotes_come_back(tmp_path: Path) -> None:
    names = ['a, "b".mp4', "c\nd.mp4"]
    (tmp_path / "s.csv").write_bytes(to_csv([(name, 0.5) for name in names]))
    assert read_sample_submission(tmp_path / "s.csv") == names


@given(st.lists(st.sampled_from([*PROBABILITIES, "x.mp4", "y.mp4", "z.mp4"]), unique=True))
def test_every_name_has_one_row_in_its_place(names: list[str]) -> None:
    submission = make_submission(PROBABILITIES, 0.5, names)
    assert [name for name, _ in submission.rows] == names
    assert all(0 <= probability <= 1 for _, probability in submission.rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("filename,score\na.mp4,0.5\n", r"lacks the column label; .* names filename,score"),
        ("video,probability\na.mp4,0.5\n", "lacks the column filename and label"),
        ("", "names nothing"),
        ("filename,label\na.mp4,0.5\na.mp4,0.5\n", r"names 'a\.mp4' twice in row 3"),
        ("filename,label\n,0.5\n", "names no video in row 2"),
    ],
)
def test_a_sample_that_can_not_be_used_is_told(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "sample.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        read_sample_submission(tmp_path / "sample.csv")


def test_a_sample_that_is_no_text_or_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("sample.csv", "nowhere.csv"):
        with pytest.raises(InputError, match="can't be read"):
            read_sample_submission(tmp_path / name)


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_bytes(b"\xef\xbb\xbffilename,label\r\na.mp4,0.5\r\n")
    assert read_sample_submission(tmp_path / "sample.csv") == ["a.mp4"]
