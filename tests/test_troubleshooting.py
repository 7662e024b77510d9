"""The page of messages doesn't rot: what it quotes is said by the code, what it recommends exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from pipeline.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
VARIABLE = "\0"
"""Stands for what a message doesn't say in the code."""


def literal(node: ast.expr) -> str:
    """The text of a string or an f-string."""
    if isinstance(node, ast.JoinedStr):
        return "".join(literal(part) for part in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[ds]", VARIABLE, node.value)
    return VARIABLE


def said() -> str:
    """All strings of the code, one a line."""
    found = []
    for package in ("pipeline", "training", "inference"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr | ast.Constant):
                    found.append(literal(node).replace("\n", " "))
    return "\n".join(found)


SAID = said()


def quoted() -> Iterator[tuple[str, str]]:
    """Each message in the first column of a table, and whose it is, empty for our own."""
    for row in re.findall(r"^\| (.*?) \| .* \| .* \|$", PAGE, re.MULTILINE):
        match = re.fullmatch(r"`(.+)`(?: \*\(from (.+)\)\*)?", row)
        if match:
            yield match[1], match[2] or ""
        else:
            assert row == "message", f"{row!r} is neither a message nor a heading"


OURS = [message for message, origin in quoted() if not origin]


def is_in_one(pieces: Sequence[str]) -> bool:
    """Whether one string of the code has all of them in their order, with something that differs in between."""
    return re.search(rf"[^\n]*{VARIABLE}[^\n]*".join(map(re.escape, pieces)), SAID) is not None


def is_said(message: str) -> bool:
    """Whether a message is one string of the code, or two of them, one put into the other."""
    pieces = message.strip(".").split("...")
    halves = [(pieces[:cut], pieces[cut:]) for cut in range(1, len(pieces))]
    return is_in_one(pieces) or any(
        all(len("".join(half)) > 11 and is_in_one(half) for half in both) for both in halves
    )


def test_the_page_has_many_messages_and_few_of_others() -> None:
    messages = [message for message, _ in quoted()]
    assert len(messages) == len(set(messages)) > 70
    assert len(messages) - len(OURS) < 12
    assert all(max(map(len, message.split("..."))) >= 8 for message in messages)


@pytest.mark.parametrize("message", OURS)
def test_every_message_is_one_that_the_code_has(message: str) -> None:
    assert is_said(message), f"{message!r} is said nowhere: was it reworded?"


@pytest.mark.parametrize(
    "message", ["the moon is full of ... cheese", "... is empty (1 bytes)", "the loss is ... folder"]
)
def test_a_message_that_the_code_does_not_have_is_noticed(message: str) -> None:
    assert not is_said(message)


def test_every_setting_that_is_named_exists() -> None:
    settings: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    named = re.findall(r"`([a-z]+)\.([a-z_]+)(?:: [^`]+)?`", PAGE)
    of_settings = {(section, key) for section, key in named if section in settings}
    assert len(of_settings) > 25
    assert [f"{section}.{key}" for section, key in sorted(of_settings) if key not in settings[section]] == []


def test_every_option_that_is_named_exists() -> None:
    there = {"--help"}
    for entry in COMMANDS.values():
        command = entry.load()
        for of in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            there |= {name for parameter in of.params for name in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert len(named) > 15
    assert named <= there
