"""Names and shapes in the published weights: ``MODEL.txt``, written by ``write_keys.py``, which knows no model."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def published_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Shape by key; ``()`` of a scalar."""
    lines = (FOLDER / f"{model}.txt").read_text(encoding="utf-8").splitlines()
    return {key: tuple(map(int, sizes)) for key, *sizes in map(str.split, lines)}
