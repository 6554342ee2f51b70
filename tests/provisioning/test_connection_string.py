"""Connection strings: what is a device's is read, all else is refused with its reason, and no error has the key."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError
from edge_gateway.provisioning.connection_string import ConnectionString, parse_connection_string

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()
WHOLE = f"HostName=plant.azure-devices.net;DeviceId=gw-17;SharedAccessKey={KEY_TEXT}"


def parse(text: str) -> ConnectionString:
    return parse_connection_string(bytearray(text.encode()), where="connection.txt")


def parsed_or_told(text: str) -> ConnectionString | str:
    try:
        return parse(text)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(
    "text",
    [
        WHOLE,
        f"  {WHOLE}\r\n",
        f"{WHOLE};",
        f"SharedAccessKey={KEY_TEXT};DeviceId=gw-17;HostName=plant.azure-devices.net",
    ],
    ids=["as the portal shows it", "with blanks", "with a semicolon", "in another order"],
)
def test_a_devices_connection_string(text: str) -> None:
    """Host, id and key, in whatever order."""
    parsed = parse(text)
    assert (parsed.host_name, parsed.device_id, parsed.gateway_host_name) == ("plant.azure-devices.net", "gw-17", "")
    assert parsed.key.reveal() == KEY


def test_an_edge_device_in_between() -> None:
    """`GatewayHostName` names the IoT Edge device to go through."""
    assert parse(f"{WHOLE};GatewayHostName=edge.local").gateway_host_name == "edge.local"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lacks HostName, DeviceId, SharedAccessKey"),
        (KEY_TEXT, "is not a device's connection string"),
        (f"{WHOLE};Extra=1", "is not a device's connection string"),
        (f'"{WHOLE}"', "is not a device's connection string"),
        (f"{WHOLE};;HostName=x", "is not a device's connection string"),
        (f"{WHOLE};HostName=other", "has HostName twice"),
        (f"{WHOLE};ModuleId=m", "a module's"),
        (f"HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey={KEY_TEXT}", "a service's"),
        ("HostName=h;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=", "a token, which ends"),
        ("HostName=h;DeviceId=d;x509=true", "by certificate"),
        (f"HostName=h;SharedAccessKey={KEY_TEXT}", "lacks DeviceId"),
        (f"HostName=h;DeviceId=;SharedAccessKey={KEY_TEXT}", "lacks DeviceId"),
        (f"HostName=h h;DeviceId=d;SharedAccessKey={KEY_TEXT}", "HostName cannot be"),
        (f"HostName=h;DeviceId=d/e;SharedAccessKey={KEY_TEXT}", "DeviceId cannot be"),
        (f"{WHOLE};GatewayHostName=e e", "GatewayHostName cannot be"),
        (WHOLE[:-1], "is not a key"),
        (f"HostName=h;DeviceId=d;SharedAccessKey={KEY_TEXT[:16]}", "is not a key"),
        (f"{WHOLE};{'x' * 1000}=", "is longer than 1024 characters"),
    ],
)
def test_what_is_no_devices_connection_string(text: str, reason: str) -> None:
    """The error says what it is, where it came from and what to do, and has no piece of the key."""
    with pytest.raises(ConfigError, match=reason) as caught:
        parse(text)
    assert "connection.txt" in str(caught.value)
    assert caught.value.remedy
    assert KEY_TEXT[:8] not in str(caught.value)


@given(text=st.binary(max_size=1100))
def test_any_bytes_are_refused(text: bytes) -> None:
    """Arbitrary bytes end in ConfigError and nothing else."""
    with pytest.raises(ConfigError):
        parse_connection_string(text, where="x")


@given(
    parts=st.lists(
        st.sampled_from(
            ["HostName=h", "DeviceId=d", f"SharedAccessKey={KEY_TEXT}", "ModuleId=m", "=", "", "x509=true"]
        ),
        max_size=6,
    )
)
def test_any_parts_are_read_or_refused(parts: list[str]) -> None:
    """Parts in any number and order: all three once are a connection string, and an error never has the key."""
    parsed = parsed_or_told(";".join(parts))
    if isinstance(parsed, str):
        assert KEY_TEXT[:8] not in parsed
    else:
        assert sorted(filter(None, parts)) == sorted(["HostName=h", "DeviceId=d", f"SharedAccessKey={KEY_TEXT}"])
        assert parsed.key.reveal() == KEY


@given(
    key=st.binary(min_size=16, max_size=64),
    device_id=st.from_regex(r"[A-Za-z0-9\-.%_*?!(),=@$':]{1,128}", fullmatch=True),
)
def test_what_was_written_is_read(key: bytes, device_id: str) -> None:
    """Any id a hub allows, `=` and all, and any key comes out as it went in; neither is shown by repr."""
    text = base64.b64encode(key).decode()
    parsed = parse(f"HostName=hub.example;DeviceId={device_id};SharedAccessKey={text}")
    assert (parsed.device_id, parsed.key.reveal()) == (device_id, key)
    assert text not in repr(parsed)
