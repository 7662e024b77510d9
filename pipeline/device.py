"""Which device networks run on."""

from __future__ import annotations

from typing import Literal

import torch

from pipeline.errors import InputError

Device = Literal["auto", "cpu", "cuda"]


def choose_device(device: Device) -> str:
    """``auto`` -> cuda where there is one, else cpu.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but torch finds no CUDA device here; use --device cpu or auto")
    return device
