"""`gateway.yaml`: what is wrong is told with key, value and what would do; what is right means the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_gateway.config.devices import PathPort, ReplayPort
from edge_gateway.config.load import MAX_CONFIG_BYTES, load_config, parse_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.uplink import MqttUplink
from edge_gateway.errors import ConfigError

from .documents import GOOD, IOT_HUB, REMOVED, changed

TWO_KEYS = {"certificate_file": "c.pem", "private_key_file": "k.pem", "certificate_key": "tls"}

LINK = ("links", 0)
PORT = (*LINK, "port")
FRAMING = (*LINK, "framing")
RULE = ("rules", 0)


def parse(document: dict[str, Any]) -> GatewayConfig:
    return parse_config(document, where="g.yaml", directory=Path("/etc/gateway"))


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(document)
    assert caught.value.where == "g.yaml"
    return caught.value.what


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        # Keys nobody knows.
        (("gateway", "nam"), "x", "`gateway.nam` is not a setting; `name` would do"),
        (("uplinks",), {}, "`uplinks` is not a setting; `uplink` would do"),
        (("delivery",), {"zzz": 1}, "`delivery.zzz` is not a setting; `confirm_timeout_s` or `connect_timeout_s` or "),
        ((*LINK, "devices", 0, "adress"), 1, "`links[0].devices[0].adress` is not a setting; `address` would do"),
        (("uplink", "hots"), "x", "`uplink.hots` is not a setting; `host` would do"),
        ((*RULE, "on_raise", "args"), {}, "`rules[0].on_raise.args` is not a setting; `"),
        (PORT, {"path": "/dev/a", "usb": {}}, "`links[0].port.usb` is not a setting; `path` would do"),
        (("gateway", 5), "x", "`gateway.5` is not a setting; `clock_trust` or `data_directory` or "),
        ((5,), "x", "`5` is not a setting; `buffer` or `delivery` or "),
        ((None,), "x", "`None` is not a setting; `buffer` or `delivery` or "),
        # Keys that are missing.
        (("gateway",), REMOVED, '`gateway` is missing; {"name": "plant-3"} would do'),
        (("gateway", "name"), REMOVED, '`gateway.name` is missing; "plant-3" would do'),
        (("links",), REMOVED, '`links` is missing; [{"name": "boiler-room", '),
        ((*PORT,), REMOVED, '`links[0].port` is missing; {"path": "/dev/serial/by-id/'),
        ((*LINK, "profile"), REMOVED, '`links[0].profile` is missing; "reference-climate" would do'),
        (("uplink",), REMOVED, '`uplink` is missing; {"kind": "iot-hub"} would do'),
        (("uplink", "host"), REMOVED, '`uplink.host` is missing; "broker.example.com" would do'),
        (("uplink", "kind"), REMOVED, "`uplink.kind` is missing; `iot-hub` or `mqtt` would do"),
        (FRAMING, {"kind": "fixed"}, "`links[0].framing.frame_bytes` is missing; 9 would do"),
        (PORT, {"usb": {"product_id": 1}}, "`links[0].port.usb.vendor_id` is missing; 1027 would do"),
        # Kinds.
        (("uplink", "kind"), "mqt", '`uplink.kind` is "mqt": not known; `mqtt` would do'),
        (FRAMING, {"kind": "x"}, '`links[0].framing.kind` is "x": not known; `cobs` or `slip` or '),
        (PORT, {}, "`links[0].port`: a port is given by `path`, by `usb` or by `replay`, for instance {path: "),
        (PORT, "/dev/a", '`links[0].port` is "/dev/a": a port is given by `path`, by `usb` or by `replay`'),
        # Types.
        (("gateway", "name"), 5, '`gateway.name` is 5: input should be a valid string; "plant-3" would do'),
        (("gateway",), "plant", '`gateway` is "plant": not a mapping; {"name": "plant-3"} would do'),
        (("links",), {}, '`links` is {}: not a list; [{"name": "boiler-room", '),
        (("links",), [], '`links` is []: nothing is listed; [{"name": "boiler-room", '),
        (LINK, 5, '`links[0]` is 5: not a mapping; {"name": "boiler-room", '),
        (PORT, {"usb": 5}, '`links[0].port.usb` is 5: not a mapping; {"vendor_id": 1027, "product_id": 24577} would'),
        (("uplink", "port"), "many", '`uplink.port` is "many": input should be a valid integer'),
        (("uplink", "ca_file"), 5, "`uplink.ca_file` is 5: input is not a valid path"),
        ((*LINK, "devices", 0, "address"), [1], "`links[0].devices[0].address` is [1]: not an address; a number or"),
        ((*LINK, "devices", 0, "address"), True, "`links[0].devices[0].address` is true: not an address; a number or"),
        ((*RULE, "on_raise", "arguments"), {"state": None}, "`rules[0].on_raise.arguments.state` is null: not a plain"),
        ((*RULE, "on_raise", "arguments"), {1: 1}, "`rules[0].on_raise.arguments.1` is 1: a key that is not text; "),
        ((*RULE, "on_raise", "arguments"), 5, '`rules[0].on_raise.arguments` is 5: not a mapping; {"state": 1} would'),
        # Bounds and forms.
        (("uplink", "port"), 0, "`uplink.port` is 0: input should be greater than or equal to 1; 8883 would do"),
        (
            ("delivery",),
            {"in_flight": 500},
            "`delivery.in_flight` is 500: input should be less than or equal to 100; 8",
        ),
        (
            ("buffer",),
            {"max_disk_bytes": 5},
            "`buffer.max_disk_bytes` is 5: input should be greater than or equal to 4194304; ",
        ),
        ((*LINK, "answer_timeout_s"), 0, "`links[0].answer_timeout_s` is 0: input should be greater than 0; 2.0 would"),
        (PORT, {"path": ""}, '`links[0].port.path` is "": string should have at least 1 character; "/dev/serial/'),
        (PORT, {"usb": {"vendor_id": 1, "product_id": 99_999}}, "`links[0].port.usb.product_id` is 99999: "),
        (PORT, {"replay": "a", "speed": 0}, "`links[0].port.speed` is 0: input should be greater than 0; 1.0 would do"),
        (("gateway", "name"), "a b", '`gateway.name` is "a b": not a name; at most 64 letters, digits, `.`, `_` and '),
        (("gateway", "name"), "a" * 65, '`gateway.name` is "aaaa'),
        (("gateway", "name"), "a\n", '`gateway.name` is "a\\n": not a name; '),
        (("gateway", "log_level"), "warn", "`gateway.log_level` is \"warn\": input should be 'debug', 'info', "),
        ((*LINK, "line"), {"parity": "evn"}, "`links[0].line.parity` is \"evn\": input should be 'none', "),
        ((*LINK, "line"), {"rs485": {"delay_before_send_s": 5}}, "`links[0].line.rs485.delay_before_send_s` is 5: "),
        (FRAMING, {"kind": "delimiter", "delimiter": "0g"}, '`links[0].framing.delimiter` is "0g": not bytes; pairs '),
        ((*RULE, "kind"), "window", "`rules[0].kind` is \"window\": input should be 'threshold'"),
        ((*RULE, "devices"), ["a", "b c"], '`rules[0].devices[1]` is "b c": not a name; '),
        ((*RULE, "raise_above"), float("nan"), "`rules[0].raise_above` is NaN: input should be a finite number; 30 wo"),
        ((*RULE, "raise_above"), float("inf"), "`rules[0].raise_above` is Infinity: input should be a finite number; "),
        (("uplink",), IOT_HUB | {"device_id": "a/b"}, '`uplink.device_id` is "a/b": string should match pattern '),
        (("uplink",), IOT_HUB | {"token_lifetime_s": 60}, "`uplink.token_lifetime_s` is 60: input should be greater "),
        (
            ("uplink", "host"),
            "mqtts://a.b",
            '`uplink.host` is "mqtts://a.b": not the name of a host; the name alone wo',
        ),
        (("uplink", "host"), "a.b:8883", '`uplink.host` is "a.b:8883": not the name of a host; '),
        (("uplink", "host"), "10.0.0.1:8883", '`uplink.host` is "10.0.0.1:8883": not the name of a host; '),
        (("uplink", "host"), "a.b\n", '`uplink.host` is "a.b\\n": not the name of a host; '),
        (("uplink", "host"), "a b", '`uplink.host` is "a b": not the name of a host; '),
        (("uplink",), IOT_HUB | {"host_name": "https://a.b"}, "`uplink.host_name` is something else: not the name of "),
        (("uplink",), IOT_HUB | {"gateway_host_name": "a/b"}, '`uplink.gateway_host_name` is "a/b": not the name of '),
        # What contradicts something else.
        ((*LINK, "devices", 1, "name"), "boiler", "two devices have the name 'boiler'; each needs its own"),
        ((*LINK, "devices", 1, "name"), "plant-3", "a device is called 'plant-3', as the gateway itself, which has"),
        ((*LINK, "devices", 1, "address"), 1, "`links[0]`: two devices have the address 1; each needs its own"),
        (
            (*LINK, "devices"),
            [{"name": "a"}, {"name": "b"}],
            "`links[0]`: two devices have no address; only one that is alone on its link can do without",
        ),
        (("links",), [GOOD["links"][0], GOOD["links"][0]], "two links have the name 'bus-1'; each needs its own"),
        (
            ("links",),
            [GOOD["links"][0], {"name": "bus-2", "port": {"path": "/dev/ttyUSB0"}, "profile": "sds011"}],
            "the links 'bus-1' and 'bus-2' have the same port; a port serves one link, with all devices behind it",
        ),
        (
            ("links",),
            [{"name": name, "port": {"usb": {"vendor_id": 1, "product_id": 2}}, "profile": "p"} for name in "ab"],
            "the links 'a' and 'b' have the same port; a port serves one link, with all devices behind it",
        ),
        (("rules",), [GOOD["rules"][0], GOOD["rules"][0]], "two rules have the name 'hot'; each needs its own"),
        ((*RULE, "clear_below"), REMOVED, "`rules[0]`: give either `raise_above` and `clear_below`, or `raise_below` "),
        ((*RULE, "raise_below"), 5, "`rules[0]`: give either `raise_above` and `clear_below`, or `raise_below` and "),
        ((*RULE, "clear_below"), 31, "`rules[0]`: clear_below (31) is above raise_above (30); 30 or less would do"),
        (("uplink", "password_file"), "p", "`uplink`: `password_file` needs a `username`: MQTT 3.1.1 has no password"),
        (("uplink", "private_key_file"), "k", "`uplink`: `private_key_file` needs a `certificate_file`, the certific"),
        (("uplink", "certificate_key"), "k", "`uplink`: `certificate_key` needs a `certificate_file`, the certific"),
        (("uplink", "certificate_key"), "a b", "`uplink.certificate_key` is something else: not a name; at most 64 "),
        (("uplink",), IOT_HUB | {"certificate_key": "k"}, "`uplink`: `certificate_key` needs a `certificate_file`, "),
        (("uplink",), IOT_HUB | {"certificate_file": "c"}, "`uplink`: `certificate_file` needs its key; give `private"),
        (("uplink",), IOT_HUB | TWO_KEYS, "`uplink`: `private_key_file` and `certificate_key` are two keys to one cer"),
        (
            ("uplink",),
            GOOD["uplink"] | TWO_KEYS,
            "`uplink`: `private_key_file` and `certificate_key` are two keys to one certif",
        ),
        (("key_store",), {"kind": "tpm", "tcti": "lib.so"}, '`key_store.tcti` is "lib.so": not a way to a TPM; device'),
        (("key_store",), {"tcti": "swtpm:"}, "`key_store`: `tcti` means nothing with kind: software; leave it out, "),
    ],
)
def test_a_mistake_is_told_with_its_key_its_value_and_what_would_do(
    path: tuple[str | int, ...], value: object, text: str
) -> None:
    """Every mistake is one sentence that names the key as a person writes it, its value, and one that would do."""
    assert refusal(changed(path, value)).startswith(text)


def test_a_low_limit_below_its_own_raise_is_refused() -> None:
    """The limits of a rule that watches for low values are checked the other way round."""
    rule = {"name": "r", "profile": "p", "value": "v", "raise_below": 5, "clear_above": 4}
    assert "clear_above (4) is below raise_below (5); 5 or more would do" in refusal(changed(("rules",), [rule]))


@pytest.mark.parametrize(
    ("key", "template", "text"),
    [
        ("topic", "{x}", "nothing fills in {x}"),
        ("topic", "{gateway.name}", "nothing fills in {gateway.name}"),
        ("topic", "{gateway!r}", "nothing fills in {gateway}"),
        ("topic", "{gateway:>9999999999}", "nothing fills in {gateway}"),
        ("topic", "{request}", "nothing fills in {request}"),
        ("topic", "{}", "nothing fills in {}"),
        ("topic", "{", "cannot be filled in"),
        ("topic", "a/+", "a message cannot go to a topic with wildcards"),
        ("topic", "", "string should have at least 1 character"),
        ("answer_topic", "{lane}", "nothing fills in {lane}"),
        ("answer_topic", "#", "a message cannot go to a topic with wildcards"),
        ("command_topic", "{lane}/+", "nothing fills in {lane}"),
        ("command_topic", "a+/b", "not a topic filter: `+` is a whole level and `#` the last"),
        ("command_topic", "#/a", "not a topic filter"),
    ],
)
def test_a_topic_that_cannot_be_used_is_refused(key: str, template: str, text: str) -> None:
    """What could only fail once the broker is connected is found before, with a topic that would do."""
    told = refusal(changed(("uplink", key), template))
    assert told.startswith(f"`uplink.{key}` is {json.dumps(template)}: {text}")
    assert f"{MqttUplink.model_fields[key].default}" in told
    assert told.endswith("would do")


@pytest.mark.parametrize("template", ["a", "{gateway}-{{x}}/{message_id}", "{lane}/{message_id}"])
def test_topics_that_can_be_filled_in_are_accepted(template: str) -> None:
    """A topic needs no places, may have its own braces, and its places may stand anywhere."""
    assert parse(changed(("uplink", "topic"), template)).uplink.model_dump()["topic"] == template


@pytest.mark.parametrize(
    ("topics", "key"),
    [
        ({"command_topic": "edge-gateway/{gateway}/#"}, "topic"),
        ({"command_topic": "edge-gateway/+/answers/+"}, "answer_topic"),
        ({"command_topic": "edge-gateway/plant-3/alert/+"}, "topic"),
        ({"command_topic": "c", "answer_topic": "c"}, "answer_topic"),
        ({"topic": "a/b", "command_topic": "a/b/#"}, "topic"),
        ({"topic": "a/x-{message_id}", "command_topic": "a/x-1"}, "topic"),
    ],
)
def test_commands_that_the_gateway_would_give_itself_are_refused(topics: dict[str, str], key: str) -> None:
    """What it sends would come back as a command, and the answer to that as the next one, without an end."""
    told = refusal(changed(("uplink",), GOOD["uplink"] | topics))
    assert told.startswith(f"`uplink.command_topic` takes in what `uplink.{key}` sends")
    assert told.endswith("'edge-gateway/{gateway}/commands/+' would do")


@pytest.mark.parametrize(
    "topics",
    [
        {"command_topic": "edge-gateway/+/commands/#"},
        {"topic": "a/b", "command_topic": "a/+/c"},
        {"topic": "a/b/c", "command_topic": "a/+"},
    ],
)
def test_commands_from_anywhere_else_are_accepted(topics: dict[str, str]) -> None:
    """A filter may be as wide as it likes beside what the gateway sends."""
    uplink = parse(changed(("uplink",), GOOD["uplink"] | topics)).uplink
    assert topics.items() <= uplink.model_dump().items()


def test_all_mistakes_are_told_at_once() -> None:
    """Two mistakes take one attempt to find, and each once."""
    document = changed(("gateway", "name"), "a b")
    document["links"][0]["port"] = {}
    told = refusal(document).split("; `")
    assert [each.lstrip("`").partition("`")[0] for each in told if "links" in each or "gateway" in each] == [
        "gateway.name",
        "links[0].port",
    ]


def test_a_key_that_was_put_into_the_configuration_is_not_shown() -> None:
    """Whoever writes the secret where its name belongs does not find it in the log."""
    told = refusal(changed(("uplink",), IOT_HUB | {"key": "c2VjcmV0LXNlY3JldA=="}))
    assert told.startswith("`uplink.key` is something else: not a name")
    assert "c2VjcmV0" not in told


def test_a_connection_string_in_the_hosts_place_is_not_shown() -> None:
    """It holds the key; neither the refusal nor a log of the endpoint may repeat it."""
    told = refusal(changed(("uplink",), IOT_HUB | {"host_name": "HostName=a.b;DeviceId=c;SharedAccessKey=c2VjcmV0"}))
    assert told.startswith("`uplink.host_name` is something else: not the name of a host")
    assert "c2VjcmV0" not in told


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%eth0", "hub_1", "zähler.example", "no..such.host"])
def test_what_may_be_a_host_is_accepted(host: str) -> None:
    """Whether there is such a host, is for the network to say."""
    assert parse(changed(("uplink", "host"), host)).uplink.model_dump()["host"] == host


def test_long_values_are_cut() -> None:
    """A value that fills the screen would hide what is wrong with it."""
    assert len(refusal(changed(("gateway", "log_level"), "x" * 5000))) < 300


# --- defaults and paths --------------------------------------------------------------------------------------------


def test_defaults_are_those_of_a_real_box() -> None:
    """The least configuration gives the documented defaults."""
    config = parse({key: GOOD[key] for key in ("gateway", "links", "uplink")})
    assert config.gateway.data_directory == Path("/var/lib/edge-gateway")
    assert config.gateway.log_level == "info"
    assert config.rules == ()
    assert config.links[0].unknown_devices == "accept"
    assert config.links[0].line is None
    assert config.links[0].framing is None
    assert isinstance(config.uplink, MqttUplink)
    assert config.uplink.port == 8883
    assert config.buffer.max_disk_bytes == 1 << 30
    assert config.buffer.max_message_age_s == 1.0
    assert config.delivery.in_flight == 8
    assert config.key_store.kind == "software"


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every relative path means a place beside the configuration, wherever the gateway is started."""
    document = changed(("gateway",), {"name": "g", "data_directory": "data", "profile_directories": ["mine", "/usr/x"]})
    first = document["links"][0]
    document["links"] = [
        first | {"name": "a", "port": {"path": "pty/a"}, "profile": "own.yaml", "devices": []},
        first | {"name": "b", "port": {"replay": "night.capture"}, "profile": "profiles/own", "devices": []},
        first | {"name": "c", "port": {"usb": {"vendor_id": 1, "product_id": 2}}, "profile": "own.json", "devices": []},
        first | {"name": "d", "port": {"path": "/dev/x"}, "profile": "/abs/own.yml", "devices": []},
        first | {"name": "e", "devices": []},
    ]
    document["uplink"] |= {"ca_file": "ca.pem", "certificate_file": "/pki/c.pem", "private_key_file": "k.pem"}
    document["key_store"] = {"wrapping_key_file": "stick/key"}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("g.yaml"))
    assert config.gateway.data_directory == tmp_path / "data"
    assert config.gateway.profile_directories == (tmp_path / "mine", Path("/usr/x"))
    ports = [link.port for link in config.links]
    assert isinstance(ports[0], PathPort)
    assert isinstance(ports[1], ReplayPort)
    assert isinstance(ports[3], PathPort)
    assert (ports[0].path, ports[1].replay, ports[3].path) == (
        str(tmp_path / "pty/a"),
        tmp_path / "night.capture",
        "/dev/x",
    )
    assert [link.profile for link in config.links] == [
        str(tmp_path / "own.yaml"),
        str(tmp_path / "profiles/own"),
        str(tmp_path / "own.json"),
        "/abs/own.yml",
        "reference-climate",
    ]
    assert isinstance(config.uplink, MqttUplink)
    assert config.uplink.ca_file == tmp_path / "ca.pem"
    assert config.uplink.certificate_file == Path("/pki/c.pem")
    assert config.uplink.private_key_file == tmp_path / "k.pem"
    assert config.uplink.password_file is None
    assert config.key_store.wrapping_key_file == tmp_path / "stick/key"


# --- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            b"gateway: {name: a}\ngateway: {name: b}\n",
            "g.yaml:2: the key 'gateway' is there twice. Keep one of the two",
        ),
        (b"gateway: [\n", "g.yaml:2: expected the node content, but found '<stream end>'. Mend the YAML there"),
        (b"- gateway\n", "g.yaml: is not a mapping of settings. Start it with `gateway:`"),
        (b"", "g.yaml: is not a mapping of settings. Start it with `gateway:`"),
        (b"a: \xff\xfe", "g.yaml: is not UTF-8 text. Save it as UTF-8"),
        (b"a: &x 1\nb: *x\n", "g.yaml:2: the alias *x. Write out what it stands for"),
        (b"? {a: b}\n: c\n", "g.yaml:1: a list or mapping as a key. Use a name or a number"),
        (b"5: x\n", "g.yaml: `gateway` is missing; "),
        (b"#" * (MAX_CONFIG_BYTES + 1), "g.yaml: is larger than 1048576 bytes. Is it the right file?"),
    ],
)
def test_a_file_that_is_no_configuration_says_why(tmp_path: Path, content: bytes, text: str) -> None:
    """What is wrong with the file itself is told with its name and, where there is one, the line."""
    path = tmp_path / "g.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{tmp_path}/{text}")


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    """A missing file and a directory are told apart."""
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file or directory. Give the path"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)
