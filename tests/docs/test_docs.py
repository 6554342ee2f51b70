"""What the documents say holds: their examples run, their links lead somewhere, their tables are up to date."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import yaml

from edge_gateway.codec import parse_profile
from edge_gateway.config.explain import explain_settings
from edge_gateway.config.load import parse_config
from edge_gateway.config.model import GatewayConfig

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")])


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[1], match[2])
        for page, text in ((page, page.read_text()) for page in PAGES)
        for match in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        if match[1] in languages
    ]


def commands() -> list[tuple[str, Block]]:
    return [
        (line.removeprefix("$ "), block)
        for block in blocks("console")
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]


RUNNABLE = ("edge-gateway decode", "edge-gateway schema", "edge-gateway profiles")
"""Commands that need no gateway, port or hub; the others run in tests/system."""

OF_A_GATEWAY = "/etc/edge-gateway/"
"""Files that only a gateway has; `test_buffer_pages.py` makes one for its pages."""


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(line, id=str(block))
        for line, block in commands()
        if line.startswith(RUNNABLE) and OF_A_GATEWAY not in line
    ],
)
def test_commands_run(command: str, tmp_path: Path) -> None:
    """A command in a document does what commands do: it ends with 0, or with 1 for a frame it calls broken."""
    command = command.partition(" > ")[0]
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command.replace("edge-gateway", "edge_gateway", 1))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (1 if "--explain" in command else 0), done.stderr
    assert done.stdout


GROUPS = ("keys", "provision", "hub", "profiles", "buffer", "ledger", "quarantine")
"""Commands with commands of their own."""


@pytest.mark.parametrize("line", [pytest.param(line, id=str(block)) for line, block in commands()])
def test_commands_exist(line: str) -> None:
    """Every subcommand and option of `edge-gateway` that a document shows is one."""
    words = shlex.split(line)
    program = next((word for word in words if word == words[0] == "edge-gateway" or "/bin/edge-gateway" in word), None)
    if program is None:
        return
    arguments = words[words.index(program) + 1 :]
    has_subcommand = arguments[0] in GROUPS and not arguments[1].startswith("-")
    subcommand = arguments[: 1 + has_subcommand]
    shown = subprocess.run(
        [sys.executable, "-m", "edge_gateway", *subcommand, "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert shown.returncode == 0, shown.stderr
    for option in (word for word in arguments if word.startswith("--")):
        assert option in shown.stdout


NEEDS_HUB = ("bench/connections.json", "create_from_edge_environment")
"""In examples for a running local hub; tests/system/test_hub_command.py runs these."""


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=str(block))
        for block in blocks("python")
        if not any(sign in block.text for sign in NEEDS_HUB)
    ],
)
def test_python_examples_run(block: Block) -> None:
    """An example of code runs as it stands."""
    exec(compile(block.text, str(block), "exec"), {})


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in blocks("json")])
def test_json_examples_parse(block: Block) -> None:
    """An example of JSON is JSON."""
    orjson.loads(block.text)


@pytest.mark.parametrize("block", [pytest.param(block, id=str(block)) for block in blocks("yaml")])
def test_yaml_examples_are_good(block: Block) -> None:
    """A whole configuration or profile in a document is accepted; a part of one is YAML."""
    document: Any = yaml.safe_load(block.text)
    if isinstance(document, dict) and {"gateway", "links", "uplink"} <= set(document):
        parse_config(document, where=str(block), directory=ROOT)
    elif isinstance(document, dict) and "name" in document and {"frames", "decoder", "modbus"} & set(document):
        parse_profile(block.text, str(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """A link to another file finds it, and one to a heading finds that."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings}
            assert heading in anchors, target


PROOFS = sorted(set(re.findall(r"`\.venv/bin/pytest ([^`]+)`", (ROOT / "docs/proof.md").read_text())))


@pytest.mark.parametrize("arguments", PROOFS)
def test_proofs_select_tests(arguments: str) -> None:
    """Every command of the proof page finds tests to run; what they say is for the page to tell."""
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *shlex.split(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout


def test_the_configuration_reference_is_up_to_date() -> None:
    """The page is what `edge-gateway schema --markdown` prints now."""
    page = (ROOT / "docs/reference/configuration.md").read_text()
    assert page == explain_settings(GatewayConfig, title="gateway.yaml")


def test_every_setting_is_explained() -> None:
    """No row of the reference lacks a meaning."""
    page = (ROOT / "docs/reference/configuration.md").read_text()
    assert [line for line in page.splitlines() if line.endswith("|  |")] == []


def test_the_log_events_of_the_buffer_are_listed() -> None:
    """What operators read of the buffer's log events is what the code logs, each at its level."""
    page = (ROOT / "docs/how-to/operate-gateways.md").read_text()
    listed = set(re.findall(r"^\| `([\w.]+)` \| (info|warning|error) \|", page, re.MULTILINE))
    logged = {
        (name, level)
        for file in (ROOT / "edge_gateway/buffer").rglob("*.py")
        for level, name in re.findall(r"_log\.(\w+)\(\s*\"([\w.]+)\"", file.read_text())
    }
    assert listed == logged
