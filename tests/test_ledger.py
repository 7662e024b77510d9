"""What was asked for and what is known, whatever videos are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ledger import Known, Ledger
from pipeline.types import VideoRef

ODD_NAMES = [
    "it's.mp4",
    'say "x".mp4',
    "two\nlines.mp4",
    "tab\t.mp4",
    "back\\slash.mp4",
    "'); DROP TABLE asked; --",
    "%_?*[a].mp4",
    "ünï/視頻/🙂.mp4",
    "u\u0308.mp4",
    "\u2028.mp4",
    " .mp4 ",
    "",
    "7",
    "7.0",
    "null",
    "[1]",
    "x" * 100_000,
]


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with Ledger() as made:
        yield made


def refs(*video_ids: str) -> list[VideoRef]:
    return [VideoRef(video_id, f"/videos/{video_id}", size_bytes=1, modified_ns=1) for video_id in video_ids]


def row(video_id: str, **changes: Any) -> dict[str, Any]:
    known = {"status": "ok", "size_bytes": 5, "label": 1, "source_id": "o.mp4", "group_id": "g"}
    return {"video_id": video_id, **known, **changes}


def test_what_was_asked_for_is_remembered(ledger: Ledger) -> None:
    assert ledger.asked(["a", "b"]) == set()
    assert ledger.ask(refs("a", "b")) == []
    assert ledger.ask(refs("c")) == []
    assert ledger.asked(["a", "x", "c"]) == {"a", "c"}
    assert ledger.asked([]) == set()


def test_who_is_asked_for_again_is_told(ledger: Ledger) -> None:
    ledger.ask(refs("a", "b"))
    assert sorted(ledger.ask(refs("b", "c", "a"))) == ["a", "b"]
    assert ledger.asked(["a", "b", "c"]) == {"a", "b", "c"}


def test_who_is_asked_for_twice_at_once_is_told_too(ledger: Ledger) -> None:
    assert sorted(ledger.ask(refs("a", "b", "a", "c", "b", "a"))) == ["a", "b"]
    assert ledger.asked(["a", "b", "c"]) == {"a", "b", "c"}


def test_what_a_store_says_is_known_as_it_was_said(ledger: Ledger) -> None:
    ledger.learn([row("a"), row("b", status="failed", size_bytes=2**62, label=None, source_id=None, path="/more")])
    ledger.learn(iter([row("c", label=0)]))
    assert ledger.known(["a", "b", "x"]) == {
        "a": Known("ok", 5, 1, "o.mp4", "g"),
        "b": Known("failed", 2**62, None, None, "g"),
    }
    assert ledger.known(["c"]) == {"c": Known("ok", 5, 0, "o.mp4", "g")}
    assert ledger.known([]) == {}


def test_the_last_row_of_a_video_counts(ledger: Ledger) -> None:
    ledger.learn([row("a", status="failed")])
    ledger.learn([row("a")])
    assert ledger.known(["a"])["a"].status == "ok"
    assert ledger.num_known_unasked() == 1


def test_videos_of_the_store_that_nobody_asked_for_are_counted(ledger: Ledger) -> None:
    assert ledger.num_known_unasked() == 0
    ledger.learn(map(row, "abc"))
    ledger.ask(refs("b", "x"))
    assert ledger.num_known_unasked() == 2


def test_cleared_it_knows_nothing_and_learns_anew(ledger: Ledger) -> None:
    ledger.ask(refs("a"))
    ledger.learn([row("b")])
    ledger.clear()
    assert (ledger.asked(["a"]), ledger.known(["b"]), ledger.num_known_unasked()) == (set(), {}, 0)
    assert ledger.ask(refs("a")) == []
    ledger.learn([row("b")])
    assert ledger.known(["b"]) == {"b": Known("ok", 5, 1, "o.mp4", "g")}


def test_two_know_nothing_of_each_other(ledger: Ledger) -> None:
    with Ledger() as other:
        other.ask(refs("a"))
        assert ledger.ask(refs("a")) == []


def check_names(ledger: Ledger, names: Sequence[str]) -> None:
    """All of them are told apart, and come back as they were."""
    half = names[::2]
    assert ledger.ask(refs(*half)) == []
    assert ledger.asked(names) == set(half)
    assert sorted(ledger.ask(refs(*names))) == sorted(half)
    ledger.learn(row(name, group_id=name) for name in names)
    assert {name: known.group_id for name, known in ledger.known(names).items()} == {name: name for name in names}
    assert ledger.num_known_unasked() == 0


def test_odd_names_are_names(ledger: Ledger) -> None:
    check_names(ledger, ODD_NAMES)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), unique=True, max_size=8))
def test_any_names_are_names(names: list[str]) -> None:
    with Ledger() as ledger:
        check_names(ledger, names)


@pytest.mark.parametrize("change", [{"label": 0}, {"label": None}, {"source_id": None}, {"group_id": "other"}])
def test_labels_that_changed_are_noticed(change: dict[str, Any]) -> None:
    ref = VideoRef("a", "/a", 9, 9, label=1, source_id="o.mp4", group_id="g")
    same: dict[str, Any] = {"label": 1, "source_id": "o.mp4", "group_id": "g"}
    assert Known("ok", 5, **same).has_labels_of(ref)
    assert not Known("ok", 5, **(same | change)).has_labels_of(ref)
