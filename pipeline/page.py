"""The report as one HTML page that needs nothing beside it. Nobody else knows jinja2."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipeline.cli import printable

TEMPLATE = "report.html.jinja"


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
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["score"] = lambda value: "unknown" if value is None else f"{value:.2f}"
    environment.filters["plural"] = lambda count, noun: f"{count:,} {noun}{'s' * (count != 1)}"
    return environment.get_template(TEMPLATE).render(sections)


def _harmless(value: Any) -> Any:
    """Escaping makes markup harmless; what turns the direction of writing around, or is no character, it leaves."""
    return printable(value) if type(value) is str else value
