"""Versions of this code and of libraries, to be written down beside results."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """The version of each distribution, by name."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            # opencv-python-headless serves as well; this code may run from a checkout.
            versions[name] = "not installed under this name"
    return versions


@cache
def code_digest(*packages: str) -> str:
    """Sixteen hex digits that change with any source file of these packages of this project, as ``pipeline``."""
    digest = hashlib.sha256()
    for path in sorted(path for package in packages for path in (_ROOT / package).rglob("*.py")):
        digest.update(
            f"{path.relative_to(_ROOT).as_posix()}:{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return digest.hexdigest()[:16]
