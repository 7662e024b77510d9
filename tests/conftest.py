"""Shared fixtures: where the real videos are, and a random state that can't leak from one test into the next."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

MEDIA = Path(__file__).resolve().parents[1] / ".." / "shared" / "media"


@pytest.fixture(scope="session")
def media() -> Path:
    """The folder of real videos beside the project; a test that asks for it skips where it is missing."""
    if not MEDIA.is_dir():
        pytest.skip(f"no real videos here: {MEDIA} is missing")
    return MEDIA.resolve()


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """A shell has what it starts in the background ignore SIGINT, and tests that interrupt commands would fail."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """torch's results depend on its number of threads, in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def same_signal_handlers() -> Iterator[None]:
    """What handles SIGINT and SIGTERM may be changed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """accelerate remembers the first device and precision of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
