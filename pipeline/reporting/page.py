"""The report as one HTML page that needs nothing beside it. Nobody else knows jinja2."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.cli import printable

TEMPLATE = "report.html.jinja"
LABEL_CLASSES = {"REAL": "real", "FAKE": "fake"}
"""Classes of style rules by the name of a label."""
STATUS_CLASSES = frozenset({"ok", "no_face", "too_short", "failed"})
"""Statuses with a style rule of their own; all others look like errors."""


def render(**sections: Any) -> str:
    """The page.

    Args:
        sections: what the template calls by these names. Texts in them are escaped, whatever they contain.
    """
    environment = Environment(
        loader=PackageLoader("pipeline", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_harmless,
    )
    environment.filters |= {
        "number": lambda value: f"{value:,}",
        "fixed": _fixed,
        "percent": lambda share: f"{100 * share:.1f} %",
        "plural": lambda count, noun: f"{count:,} {noun}{'s' * (count != 1)}",
        "status_class": lambda status: status if status in STATUS_CLASSES else "error",
        "label_class": lambda name: LABEL_CLASSES.get(name, "none"),
    }
    return environment.get_template(TEMPLATE).render(sections)


def _fixed(value: float | None, digits: int = 2) -> str:
    return "unknown" if value is None else f"{value:,.{digits}f}"


def _harmless(value: Any) -> Any:
    """Escaping makes markup harmless; what turns the direction of writing around, or is no character, it leaves."""
    # Pictures are millions of characters, all of them printable, which str can tell a hundred times as fast.
    return printable(value) if type(value) is str and not value.isprintable() else value
