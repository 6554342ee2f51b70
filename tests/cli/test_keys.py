"""`edge-gateway keys` and what `check` says of keys: in from standard input or a file, listed, removed, never shown."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.assembly import key_store, payload_key_store
from edge_gateway.cli.app import collect
from edge_gateway.config.load import load_config
from edge_gateway.errors import KeyStoreError
from edge_gateway.keystore import PayloadKeyStore

KEY = bytes.fromhex("a115210eed7a88e50ad52662e732a9fb")
KITCHEN = {"name": "kitchen", "address": "a4:c1:38:56:53:84", "keys": {"bindkey": "kitchen"}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    link: dict[str, Any] = {"name": "air", "port": {"path": "/dev/null"}, "profile": "bthome-v2"}
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [link | {"framing": {"kind": "slip"}, "devices": [KITCHEN]}],
        "uplink": {"kind": "mqtt", "host": "unused"},
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(config: Path, *words: str, given: bytes | str | None = None) -> Result:
    return CliRunner().invoke(collect(words[0]), [*words, "--config", str(config)], input=given)


def shown(result: Result) -> str:
    return result.output + str(result.exception)


def payload_keys(config: Path) -> PayloadKeyStore:
    settings = load_config(config)
    return payload_key_store(settings, key_store(settings))


def test_a_payload_key_comes_from_standard_input(config: Path) -> None:
    """Hexadecimal digits as an app shows them, with or without a line's end; nothing of it is printed."""
    for text in (KEY.hex(), f"{KEY.hex().upper()}\n", KEY.hex(" ")):
        result = run(config, "keys", "import", "kitchen", "--payload", given=text)
        assert (result.exit_code, result.output) == (0, "key 'kitchen' is kept\n")
        assert payload_keys(config).open_key("kitchen").reveal() == KEY
    assert key_store(load_config(config)).names() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
@pytest.mark.parametrize("words", [("import", "gateway"), ("create", "gateway"), ("rotate", "gateway")])
def test_a_key_is_not_left_where_its_gateway_cannot_read_it(config: Path, words: tuple[str, ...]) -> None:
    """By sudo the files would be root's: it is refused before the file with the key is erased."""
    data, path = config.parent / "data", config.parent / "key.txt"
    data.mkdir(mode=0o700)
    os.chown(data, 12345, -1)
    path.write_text(base64.b64encode(KEY).decode())
    given = () if words[0] == "create" else ("--from-file", str(path))
    result = run(config, "keys", *words, *given)
    assert "belongs to the user #12345" in shown(result)
    assert "edge-gateway keys" in shown(result)
    assert path.exists()
    assert list(data.iterdir()) == []


def test_a_payload_key_comes_from_a_file(config: Path, tmp_path: Path) -> None:
    """By the file's name, where `-` is standard input."""
    (tmp_path / "key.txt").write_text(f"{KEY.hex()}\n")
    run(config, "keys", "import", "hall", "--payload", "--from-file", str(tmp_path / "key.txt"))
    run(config, "keys", "import", "kitchen", "--payload", "--from-file", "-", given=KEY.hex())
    assert orjson.loads(run(config, "keys", "list", "--payload", "--json").output) == ["hall", "kitchen"]
    assert run(config, "keys", "list", "--payload").output == "hall\nkitchen\n"
    missing = run(config, "keys", "import", "attic", "--payload", "--from-file", "nowhere.txt")
    assert "nowhere.txt: cannot be read: No such file" in shown(missing)


@pytest.mark.parametrize("given", [b"no digits", KEY.hex()[:-1].encode(), b"", KEY, b"\xff\xfe" + KEY, b"ab" * 1000])
def test_what_is_no_payload_key_is_refused_and_not_repeated(config: Path, given: bytes) -> None:
    """Too long, too short, cut in half or the bare bytes: an error without them, and nothing is kept."""
    result = run(config, "keys", "import", "kitchen", "--payload", given=given)
    assert isinstance(result.exception, KeyStoreError)
    assert "key 'kitchen'" in shown(result)
    assert KEY.hex()[:-1] not in shown(result)
    assert payload_keys(config).names() == []


def test_a_sensors_key_is_not_taken_for_an_identity(config: Path) -> None:
    """32 hexadecimal digits are base64, too, but of nothing a hub gives: the error says what was meant."""
    result = run(config, "keys", "import", "kitchen", given=KEY.hex())
    assert "is not base64" in shown(result)
    assert "--payload" in shown(result)
    assert key_store(load_config(config)).names() == []


def test_keys_of_both_kinds_are_removed_by_name(config: Path) -> None:
    """Each from its own store; one that is not there is an error that says which are."""
    run(config, "keys", "import", "same", given=base64.b64encode(bytes(range(32))))
    run(config, "keys", "import", "same", "--payload", given=KEY.hex())
    assert run(config, "keys", "remove", "same", "--payload").output == "key 'same' is removed\n"
    assert run(config, "keys", "list").output == "same\n"
    assert run(config, "keys", "remove", "same").exit_code == 0
    assert "there is no such key. Keys there: none" in shown(run(config, "keys", "remove", "same"))


def test_check_says_which_keys_are_missing(config: Path) -> None:
    """With the command that brings it; once it is there, nothing is said."""
    notes = orjson.loads(run(config, "check", "--json").output)["notes"]
    assert notes == [
        "links: air: there is no key 'kitchen' yet, the `bindkey` of kitchen; import it: "
        "edge-gateway keys import kitchen --payload"
    ]
    run(config, "keys", "import", "kitchen", "--payload", given=KEY.hex())
    assert orjson.loads(run(config, "check", "--json").output)["notes"] == []


def test_a_key_can_be_made_here(config: Path) -> None:
    """Nobody sees it; one that is there is not replaced by it."""
    assert run(config, "keys", "create", "signer").output == "key 'signer' is made\n"
    signature = key_store(load_config(config)).sign("signer", b"x")
    again = run(config, "keys", "create", "signer")
    assert "key 'signer': is there already, and would be lost. Choose another name" in shown(again)
    assert key_store(load_config(config)).sign("signer", b"x") == signature


def test_status_tells_where_keys_are_and_how_safe(config: Path) -> None:
    """The kind of store, its weakness, how many keys of each sort; for people and for programs."""
    run(config, "keys", "create", "signer")
    run(config, "keys", "import", "kitchen", "--payload", given=KEY.hex())
    answer = orjson.loads(run(config, "keys", "status", "--json").output)
    assert "lies beside them" in answer.pop("weakness")
    assert answer == {"kind": "software", "identity_keys": 1, "payload_keys": 1, "fault": ""}
    lines = run(config, "keys", "status").output.splitlines()
    assert lines[0] == "kind          software"
    assert lines[1].startswith("weakness      Keys are in files")
    assert lines[2:] == ["identity keys 1", "payload keys  1"]


def test_status_tells_what_is_wrong(config: Path) -> None:
    """The fault with its remedy, and an exit code that a script sees."""
    run(config, "keys", "create", "signer")
    keys = load_config(config).gateway.data_directory / "keys"
    (keys / "wrapping-key").unlink()
    result = run(config, "keys", "status", "--json")
    assert result.exit_code == 1
    assert "wrapping-key: the wrapping key is missing" in orjson.loads(result.output)["fault"]
    assert "fault         " in run(config, "keys", "status").output
