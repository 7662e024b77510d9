"""What was asked for and what is known, whatever videos are called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from random import Random
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
    "'); DROP TABLE videos; --",
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
    assert list(ledger.without_row()) == []
    ledger.clear()
    assert ledger.ask(refs("a")) == []
    ledger.learn([row("b")])
    assert ledger.known(["b"]) == {"b": Known("ok", 5, 1, "o.mp4", "g")}
    assert list(ledger.without_row()) == [(*refs("a"), None)]


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
    assert list(ledger.without_row()) == []


def test_odd_names_are_names(ledger: Ledger) -> None:
    check_names(ledger, ODD_NAMES)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), unique=True, max_size=8))
def test_any_names_are_names(names: list[str]) -> None:
    with Ledger() as ledger:
        check_names(ledger, names)


# What is to be done


def fake(video_id: str, original: str) -> VideoRef:
    return VideoRef(video_id, f"/videos/{video_id}", 2**40, 2**62, label=1, source_id=original, group_id=original)


def test_what_has_no_row_comes_back_whole_by_original_and_the_original_first(ledger: Ledger) -> None:
    late, early, alone = fake("z", "m"), fake("a", "m"), fake("y", "b")
    (m,) = refs("m")
    ledger.ask([alone, late])
    ledger.ask([m, early])
    assert list(ledger.without_row()) == [(alone, None), (m, None), (early, m), (late, m)]
    assert ledger.num_families() == 2


def test_what_was_made_from_a_fake_is_a_family_of_its_own(ledger: Ledger) -> None:
    (original,) = refs("o")
    one, other = fake("a", "o"), fake("b", "a")
    ledger.ask([other, one, original])
    assert list(ledger.without_row()) == [(other, one), (original, None), (one, original)]
    assert ledger.num_families() == 2


def test_an_original_that_is_done_or_only_mentioned_is_known_and_not_to_be_done(ledger: Ledger) -> None:
    done, mentioned, other = refs("done", "mentioned", "other")
    fakes = [fake("a", "done"), fake("b", "mentioned"), fake("c", "unheard of")]
    ledger.ask([*fakes, done])
    ledger.mention([mentioned, other])
    ledger.learn([row("done")])
    assert list(ledger.without_row()) == [(fakes[0], done), (fakes[1], mentioned), (fakes[2], None)]
    assert ledger.num_families() == 3
    assert ledger.asked(["a", "mentioned", "other"]) == {"a"}
    ledger.learn([row("other")])
    assert ledger.num_known_unasked() == 1, "who is only mentioned isn't asked for"


def test_who_was_asked_for_is_not_forgotten_when_mentioned(ledger: Ledger) -> None:
    ledger.ask(refs("a"))
    ledger.mention([fake("a", "o")])
    assert list(ledger.without_row()) == [(*refs("a"), None)]


def test_some_rows_are_as_good_as_none(ledger: Ledger) -> None:
    a, b, c = refs("a", "b", "c")
    fakes = [fake("fake of a", "a"), fake("fake of b", "b")]
    ledger.ask([a, b, c, *fakes])
    ledger.learn([row("a", status="failed"), row("fake of a"), row("b"), row("fake of b", status="decode_error")])
    assert list(ledger.without_row()) == [(c, None)]
    assert list(ledger.without_row(["failed"])) == [(a, None), (c, None)]
    assert list(ledger.without_row(["failed", "decode_error"])) == [(a, None), (fakes[1], b), (c, None)]
    assert list(ledger.without_row(["'); --"])) == [(c, None)]
    assert [ledger.num_families(statuses) for statuses in ((), ["failed"], ["failed", "decode_error"])] == [1, 2, 3]


def test_what_is_noted_later_is_in_its_place(ledger: Ledger) -> None:
    """The order is made when it is first needed."""
    ledger.ask(refs("b", "d"))
    assert [ref.video_id for ref, _ in ledger.without_row()] == ["b", "d"]
    ledger.ask([fake("x", "c"), *refs("a")])
    assert [ref.video_id for ref, _ in ledger.without_row()] == ["a", "b", "x", "d"]


def test_nothing_asked_for_is_nothing_to_do(ledger: Ledger) -> None:
    ledger.mention(refs("a"))
    ledger.learn([row("b")])
    assert list(ledger.without_row()) == []
    assert ledger.num_families() == 0


any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.dictionaries(any_text, st.none() | any_text, max_size=10), st.randoms())
def test_any_names_are_names_of_families(source_of: dict[str, str | None], random: Random) -> None:
    asked = [replace(*refs(video_id), source_id=source_id) for video_id, source_id in source_of.items()]
    random.shuffle(asked)
    with Ledger() as ledger:
        ledger.ask(asked)
        found = list(ledger.without_row())
        assert ledger.num_families() == len(
            {ref.source_id if ref.source_id is not None else ref.video_id for ref in asked}
        )
    by_id = {ref.video_id: ref for ref in asked}
    assert {ref.video_id: original for ref, original in found} == {
        ref.video_id: by_id.get(str(ref.source_id)) if ref.source_id is not None else None for ref in asked
    }
    families = [ref.video_id if ref.source_id is None else ref.source_id for ref, _ in found]
    assert [name for name, _ in groupby(families)] == sorted(set(families)), "one after the other"
    for name in families:
        members = [ref for (ref, _), family in zip(found, families, strict=True) if family == name]
        assert [ref.source_id is None for ref in members[1:]] == [False] * (len(members) - 1), "the original first"


@pytest.mark.parametrize("change", [{"label": 0}, {"label": None}, {"source_id": None}, {"group_id": "other"}])
def test_labels_that_changed_are_noticed(change: dict[str, Any]) -> None:
    ref = VideoRef("a", "/a", 9, 9, label=1, source_id="o.mp4", group_id="g")
    same: dict[str, Any] = {"label": 1, "source_id": "o.mp4", "group_id": "g"}
    assert Known("ok", 5, **same).has_labels_of(ref)
    assert not Known("ok", 5, **(same | change)).has_labels_of(ref)
