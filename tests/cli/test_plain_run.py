"""The short way to `edge-gateway run` means what the whole command line means, or leaves it to that."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.cli.app import collect
from edge_gateway.cli.lean import plain_run

RUN = typer.main.get_command(collect("run"))
WORDS = st.sampled_from(
    [
        "--config",
        "-c",
        "--capture",
        "--json",
        "--help",
        "--version",
        "run",
        "check",
        "a.yaml",
        "-",
        "--",
        "",
        "-x",
        "b c",
    ]
) | st.text(max_size=6)


def by_typer(arguments: list[str]) -> dict[str, object]:
    """What the whole command line makes of a call."""
    context = RUN.make_context("edge-gateway", list(arguments))
    command = RUN.get_command(context, "run")  # type: ignore[attr-defined]  # a group has it
    return dict(command.make_context("run", list(arguments[1:])).params)


@given(st.lists(WORDS, max_size=6).map(lambda rest: ["run", *rest]) | st.lists(WORDS, max_size=6))
def test_it_says_what_the_command_line_says(arguments: list[str]) -> None:
    """Whatever the words are: what is taken for a plain call has the same parameters there."""
    plain = plain_run(arguments)
    if plain is not None:
        assert by_typer(arguments) == {"config": plain.config, "capture": plain.capture, "json": plain.json}


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (["--config", "a.yaml"], (Path("a.yaml"), None, False)),
        (["-c", "a.yaml", "--json"], (Path("a.yaml"), None, True)),
        (["--json", "--capture", "c", "--config", "/a b.yaml"], (Path("/a b.yaml"), Path("c"), True)),
    ],
)
def test_what_stands_in_a_services_file_is_plain(rest: list[str], expected: tuple[object, ...]) -> None:
    """The usual calls take the short way, in whatever order their options stand."""
    assert plain_run(["run", *rest]) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["check", "--config", "a"], ["run"], ["run", "--json"], ["run", "--config"], ["run", "a.yaml"]),
        *(["run", "--config", "a", "--config", "b"], ["run", "--config=a"], ["run", "--config", "--json"]),
        *(["run", "--config", "a", "--help"], ["--version", "run", "--config", "a"]),
    ],
)
def test_all_else_is_for_the_command_line(arguments: list[str]) -> None:
    """Which knows what to say to it."""
    assert plain_run(arguments) is None
