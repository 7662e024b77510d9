"""Shared fixtures: where the real videos are, and a random state that can't leak from one test into the next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

MEDIA = Path(__file__).resolve().parents[1] / ".." / "shared" / "media"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos beside the project; a test that asks for it skips where it is missing."""
    if not MEDIA.is_dir():
        pytest.skip(f"no real videos here: {MEDIA} is missing")
    return MEDIA.resolve()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
