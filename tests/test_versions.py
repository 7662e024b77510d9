"""Versions beside results: of libraries by name, of this code by what is in its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.versions import code_digest, installed_versions


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for package in ("one", "two"):
        (tmp_path / package / "deep").mkdir(parents=True)
        (tmp_path / package / "deep" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr("pipeline.versions._ROOT", tmp_path)
    code_digest.cache_clear()
    return tmp_path


def digest(*packages: str) -> str:
    code_digest.cache_clear()
    return code_digest(*packages)


def test_the_digest_of_the_code_changes_with_every_source_file_and_nothing_else(root: Path) -> None:
    before = digest("one")
    (root / "one" / "deep" / "a.pyc").write_text("compiled")
    (root / "two" / "deep" / "a.py").write_text("a = 2\n")
    assert digest("one") == before
    assert digest("one", "two") != before
    (root / "one" / "b.py").write_text("")
    with_b = digest("one")
    (root / "one" / "b.py").rename(root / "one" / "c.py")
    assert len({before, with_b, digest("one")}) == 3


def test_a_library_that_is_not_there_is_told() -> None:
    found = installed_versions(["numpy", "no-such-library"])
    assert found["no-such-library"] == "not installed under this name"
    assert found["numpy"][0].isdigit()
