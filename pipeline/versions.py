"""Versions of this code and of libraries, to be written down beside results."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


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
