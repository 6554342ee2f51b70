"""The command line as a script sees it: exit codes, JSON on standard output, sentences on standard error.

0 done; 1 the work ran and its outcome is bad; 2 the call or the configuration is wrong; 3 something outside failed.
"""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.testbench import LocalAuthority

from .feeder import sample, sample_values
from .gateway_process import edge_gateway
from .site import GATEWAY, open_site, sensor_links, write_config

BROKER = {"kind": "mqtt", "host": "127.0.0.1", "port": 1}
"""Where nothing listens; most commands need no hub."""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, uplink=BROKER, links=sensor_links(tmp_path, 2))


def change(config: Path, section: str, **settings: Any) -> None:
    """Change settings of a section, or of the first link."""
    document = yaml.safe_load(config.read_text())
    (document["links"][0] if section == "links" else document[section]).update(settings)
    config.write_text(yaml.safe_dump(document))


@pytest.mark.parametrize("subcommand", ["run", "check"])
@pytest.mark.parametrize(
    ("section", "settings", "sentences"),
    [
        ("gateway", {"data_directroy": "/var/lib/x"}, ["data_directroy", "`data_directory` would do"]),
        ("links", {"profile": "reference-climat"}, ["reference-climat", "reference-climate"]),
        ("uplink", {"ca_file": "nowhere.pem"}, ["nowhere.pem", "Give the path of a PEM file"]),
        ("uplink", {"port": 0}, ["uplink.port", "0"]),
    ],
    ids=["unknown-setting", "unknown-profile", "missing-file", "value-out-of-range"],
)
async def test_a_configuration_that_is_wrong_is_refused(
    config: Path, subcommand: str, section: str, settings: dict[str, Any], sentences: list[str]
) -> None:
    """2 from `run` as from `check`: each mistake has its sentence with what would do, and nothing was made on disk."""
    change(config, section, **settings)
    code, output, errors = await edge_gateway(subcommand, "--config", str(config))
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert all(sentence in errors for sentence in sentences), errors
    assert not (config.parent / "data").exists()


async def test_a_configuration_that_is_wrong_is_told_as_json(config: Path) -> None:
    """2, and with `--json` a script finds what, where and the remedy apart."""
    change(config, "gateway", nam="x")
    code, output, errors = await edge_gateway("check", "--json", "--config", str(config))
    assert (code, errors) == (2, "")
    problem = json.loads(output)
    assert problem["error"] == "ConfigError"
    assert "`name` would do" in problem["what"]
    assert problem["where"] == str(config)
    assert problem["remedy"]


async def test_a_configuration_that_is_not_there_is_told(tmp_path: Path) -> None:
    """2: a file that is missing is as wrong as what may stand in it."""
    code, _, errors = await edge_gateway("run", "--config", str(tmp_path / "gateway.yaml"))
    assert code == 2
    assert "No such file" in errors


@pytest.mark.parametrize("subcommand", ["run", "check"])
@pytest.mark.parametrize("content", [None, "not a capture", '{"capture": 1}\n{"t": 0, "link": "a", "hex": "0"}\n'])
async def test_a_capture_that_cannot_be_played_is_refused(config: Path, subcommand: str, content: str | None) -> None:
    """3 from `run` as from `check`, which promises that the gateway would start."""
    capture = config.parent / "night.capture"
    if content is not None:
        capture.write_text(content)
    change(config, "links", port={"replay": str(capture)})
    code, output, errors = await edge_gateway(subcommand, "--config", str(config))
    assert (code, output) == (3, "")
    assert str(capture) in errors.splitlines()[-1]


async def test_check_says_what_would_run(config: Path) -> None:
    """0, with what is declared, and a note for what is not there yet but would not hinder the start."""
    code, output, errors = await edge_gateway("check", "--json", "--config", str(config))
    assert (code, errors) == (0, "")
    report = json.loads(output)
    assert report["ok"] is True
    assert report["gateway"] == GATEWAY
    assert (report["links"], report["profiles"], report["rules"]) == (2, ["reference-climate"], 0)
    assert report["uplink"] == "mqtts://127.0.0.1:1"
    assert len(report["notes"]) == 2
    assert all("the gateway starts and waits for it" in note for note in report["notes"])


async def test_status_needs_a_gateway(config: Path) -> None:
    """3, with what to do, if none runs there."""
    config.parent.joinpath("data").mkdir()
    code, output, errors = await edge_gateway("status", "--config", str(config))
    assert (code, output) == (3, "")
    assert "no gateway answers here. Start it" in errors


async def test_status_tells_of_a_running_gateway(tmp_path: Path, authority: LocalAuthority) -> None:
    """0 while all is well and 1 while something is faulty, as text and as JSON; and there is one gateway to a store."""
    async with open_site(tmp_path, authority, sensors=2) as site:
        config = str(site.gateway.config_file)
        await site.gateway.start_reading()
        await site.receiver.until(lambda: all(site.receiver.frames[sensor.name] for sensor in site.sensors))

        code, output, errors = await edge_gateway("status", "--json", "--config", config)
        assert (code, errors) == (0, "")
        status = json.loads(output)
        assert status["faults"] == []
        assert status["uplink"]["connected"] is True
        assert [device["name"] for device in status["devices"]] == ["sensor-01", "sensor-02"]
        assert status["account"]["received"] >= 2

        code, output, errors = await edge_gateway("run", "--config", config)
        assert (code, output) == (3, "")
        assert "is open in another process. Stop the other gateway" in errors

        site.sensors[0].unplug()
        await site.gateway.event("link.lost", link="sensor-01")
        code, output, errors = await edge_gateway("status", "--config", config)
        assert (code, errors) == (1, "")
        assert "fault: sensor-01: " in output
        assert "sensor-02" in output
        assert (await site.gateway.stop()).code == 0
        assert site.gateway.stray_lines == []


async def test_decode_tells_what_frames_say() -> None:
    """0 with a JSON line for each frame; 1 if one is rejected, and why; 2 if what was given are no frames."""
    frame = sample(7, 41).hex()
    code, output, _ = await edge_gateway("decode", "--profile", "reference-climate", frame)
    assert code == 0
    assert json.loads(output) == {"address": 7, "sequence": 41, "values": sample_values(41)}

    code, output, _ = await edge_gateway(
        "decode", "--profile", "reference-climate", stdin=f"{frame}\n{frame[:-2]}00\n".encode()
    )
    assert code == 1
    good, bad = map(json.loads, output.splitlines())
    assert good["sequence"] == 41
    assert (bad["where"], bad["rejected"]) == ("frame 2", "checksum")

    code, output, errors = await edge_gateway("decode", "--profile", "reference-climate", "nonsense")
    assert (code, output) == (2, "")
    assert "is not hexadecimal" in errors


@pytest.mark.parametrize(("document", "setting"), [("config", "uplink"), ("profile", "frames")])
async def test_schema_is_json_schema(document: str, setting: str) -> None:
    """0, with a JSON Schema of the file that was asked for."""
    code, output, errors = await edge_gateway("schema", document)
    assert (code, errors) == (0, "")
    schema = json.loads(output)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert setting in schema["properties"]


async def test_keys_are_imported_from_standard_input(config: Path) -> None:
    """0, the key is kept where only its owner can read it, is listed by name, and is never shown again."""
    secret = base64.b64encode(bytes(range(32))).decode()
    code, output, errors = await edge_gateway(
        "keys", "import", "gateway", "--config", str(config), stdin=f"{secret}\n".encode()
    )
    assert code == 0
    assert secret not in output + errors
    kept = list((config.parent / "data" / KEYS_DIRECTORY).iterdir())
    assert "gateway.key" in {path.name for path in kept}
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert not any(bytes(range(32)) in path.read_bytes() for path in kept)
    code, output, errors = await edge_gateway("keys", "list", "--json", "--config", str(config))
    assert (code, json.loads(output), errors) == (0, ["gateway"], "")


@pytest.mark.parametrize("text", ["not base64!", base64.b64encode(b"short").decode(), ""])
async def test_what_is_no_key_is_not_imported(config: Path, text: str) -> None:
    """2, a sentence that does not repeat what was given, and nothing is kept."""
    code, output, errors = await edge_gateway("keys", "import", "gateway", "--config", str(config), stdin=text.encode())
    assert (code, output) == (2, "")
    assert errors.startswith("error: key 'gateway'")
    assert not text or text not in errors
    assert not (config.parent / "data" / KEYS_DIRECTORY / "gateway.key").exists()
