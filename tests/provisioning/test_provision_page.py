"""The page on provisioning: its commands and errors are those there are."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from edge_gateway.cli import provision
from edge_gateway.provisioning.leaf_table import read_table

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/provision.md").read_text()
COMMANDS = re.findall(r"^\$ edge-gateway provision (.+)$", PAGE, re.MULTILINE)
SOURCES = "".join(path.read_text() for path in (ROOT / "edge_gateway/provisioning").glob("*.py"))


def test_every_subcommand_is_shown() -> None:
    """An installer finds each of them on the page."""
    names = {command.name for command in provision.app.registered_commands}
    assert {line.split()[0] for line in COMMANDS} == names


@pytest.mark.parametrize("line", [*COMMANDS, *re.findall(r"\| `(--method .+?)`", PAGE)])
def test_every_option_exists(line: str) -> None:
    """Each option that is shown is one of its command's."""
    words = shlex.split(line)
    name = "dps" if line.startswith("--") else words[0]
    group = typer.main.get_group(provision.app)
    known = {option for parameter in group.commands[name].params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_the_table_can_be_read() -> None:
    """The example is a table that would be taken."""
    (example,) = re.findall(r"^```text\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)
    (leaf,) = read_table(example.encode(), where="page")
    assert leaf.device == "boiler-room"


@pytest.mark.parametrize(
    "error", re.findall(r"^\| (?!The error|---)([a-z].+?) \|", PAGE.partition("## When")[2], re.MULTILINE)
)
def test_every_error_is_one(error: str) -> None:
    """What the page explains is what the program says."""
    for part in error.split("..."):
        assert part.strip() in SOURCES
