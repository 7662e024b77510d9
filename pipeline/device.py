"""Which device networks run on, and what it is good at.

torch and PyAV are imported when they are asked something: that takes seconds, which a command that only names devices
needn't wait.
"""

from __future__ import annotations

import os
from typing import Literal

from pipeline.errors import InputError

Device = Literal["auto", "cpu", "cuda"]
DecodeDevice = Literal["cpu", "cuda"]
Precision = Literal["auto", "none", "bf16", "fp16"]


def choose_device(device: Device) -> str:
    """``auto`` -> cuda where there is one, else cpu.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    import torch  # noqa: PLC0415

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda, but torch finds no CUDA device here; use --device cpu or auto")
    return device


def check_decode_device(device: DecodeDevice) -> None:
    """See whether videos can be decoded there.

    Raises:
        InputError: cuda was asked for, and FFmpeg finds no decoder of an NVIDIA GPU.
    """
    if device == "cpu":
        return
    import av  # noqa: PLC0415
    from av.codec.hwaccel import HWAccel  # noqa: PLC0415

    try:
        HWAccel(device).create(av.Codec("h264", "r"))
    except (av.FFmpegError, NotImplementedError) as error:
        raise InputError(
            f"--decode-device cuda, but FFmpeg finds no decoder of an NVIDIA GPU here ({error}); "
            "use --decode-device cpu"
        ) from error


def is_made_for_bf16(device: str) -> bool:
    """Whether a device multiplies bfloat16 faster than float32.

    Of CPUs those with AMX do. Where there is only AVX-512's bfloat16 it is slower: ``benchmarks/train_step.py``.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    import torch  # noqa: PLC0415

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Older releases of torch don't say.
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("amx_bf16", False)


def mixed_precision(precision: Precision, device: str) -> Literal["no", "bf16", "fp16"]:
    """What accelerate calls it: ``auto`` is bf16 where the hardware multiplies it faster than float32.

    Args:
        precision: as in the settings.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: float16 on a CPU.
    """
    if precision == "fp16" and device == "cpu":
        raise InputError("precision fp16 needs a GPU; use auto, bf16 or none")
    if precision == "auto":
        return "bf16" if is_made_for_bf16(device) else "no"
    return "no" if precision == "none" else precision


def visible_gpus() -> tuple[str, ...]:
    """CUDA devices of this machine that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch  # noqa: PLC0415

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(named.split(",")) if named else tuple(map(str, range(torch.cuda.device_count())))
