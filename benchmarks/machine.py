"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from pipeline.writer import library_versions


def describe_machine() -> str:
    """Processor, cores, accelerator and versions, one line each."""
    cpuinfo = Path("/proc/cpuinfo")
    models = [
        line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
    ]
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    model = models[0] if models else platform.processor()
    return (
        f"processor: {model}, {len(os.sched_getaffinity(0))} cores; GPU: {gpu}\n"
        f"{platform.system()} {platform.release()}, Python {platform.python_version()}; {versions}"
    )
