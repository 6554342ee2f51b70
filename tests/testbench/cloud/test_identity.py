"""Who is let in, by token."""

from __future__ import annotations

import base64
from urllib.parse import quote

import pytest
from azure.iot.device.common.auth.sastoken import NonRenewableSasToken
from azure.iot.device.common.auth.signing_mechanism import SymmetricKeySigningMechanism
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud import tokens
from edge_gateway.testbench.cloud.identity import Identity, IdentityName, SymmetricKeys
from edge_gateway.testbench.cloud.refusals import AccessDenied
from edge_gateway.testbench.cloud.tokens import sas_token

PRIMARY = base64.b64encode(b"p" * 32).decode()
SECONDARY = base64.b64encode(b"s" * 32).decode()
DEVICE = Identity(IdentityName("Sensor-1"), SymmetricKeys(PRIMARY, SECONDARY), "1")
HUB = "hub.example"


def check(token: str, now_s: float = 1000) -> int:
    return tokens.check(token, keys=(PRIMARY, SECONDARY), resource=f"{HUB}/devices/Sensor-1", now_s=now_s)


@pytest.mark.parametrize("key", [PRIMARY, SECONDARY])
def test_either_key(key: str) -> None:
    """A token signed with either key lets the device in until the token's end."""
    assert check(sas_token(f"{HUB}/devices/Sensor-1", key, 2000)) == 2000


def test_known_token() -> None:
    """A token made by another implementation is accepted, and ours is the same, letter for letter."""
    signing = SymmetricKeySigningMechanism(PRIMARY)
    token = NonRenewableSasToken  # parses tokens by the SDK's own rules
    ours = sas_token(f"{HUB}/devices/Sensor-1", PRIMARY, 2_000_000_000)
    assert token(ours).resource_uri == f"{HUB}/devices/Sensor-1"
    signed = signing.sign(quote(f"{HUB}/devices/Sensor-1", safe="") + "\n2000000000")
    assert f"sig={quote(signed, safe='')}&" in ours


def test_order_and_encoding_are_free() -> None:
    """Parts come in any order, and the signature is over the resource as the token has it, encoded or not."""
    resource = f"{HUB}/devices/sensor-1"
    encoded = sas_token(resource, PRIMARY, 2000).removeprefix("SharedAccessSignature ").split("&")
    assert check("SharedAccessSignature " + "&".join(reversed(encoded))) == 2000
    upper = quote(resource, safe="").upper()
    with pytest.raises(AccessDenied, match="another key"):
        check("SharedAccessSignature " + "&".join([f"sr={upper}", *encoded[1:]]))


@pytest.mark.parametrize(
    "resource",
    [
        HUB,
        f"{HUB}/devices",
        f"{HUB}/devices/sensor-1",
        f"{HUB.upper()}/devices/Sensor-1",
        f"{HUB}/devices/Sensor-1/api-version=2016-11-14",
    ],
)
def test_resources_that_cover_the_device(resource: str) -> None:
    """The resource is the device or a part of its path, in upper or lower case."""
    assert check(sas_token(resource, PRIMARY, 2000)) == 2000


@pytest.mark.parametrize(
    "resource",
    ["", "hub", "hub.example.org/devices/Sensor-1", f"{HUB}/devices/Sensor", f"{HUB}/devices/Sensor-1/modules/m"],
)
def test_resources_that_do_not(resource: str) -> None:
    """A resource is compared by whole segments."""
    with pytest.raises(AccessDenied, match="another resource"):
        check(sas_token(resource, PRIMARY, 2000))


def test_another_key() -> None:
    """A token signed with a key that is not the device's is denied."""
    key = base64.b64encode(b"x" * 32).decode()
    with pytest.raises(AccessDenied, match="another key"):
        check(sas_token(f"{HUB}/devices/Sensor-1", key, 2000))


def test_end() -> None:
    """A token is over from its end on."""
    token = sas_token(f"{HUB}/devices/Sensor-1", PRIMARY, 2000)
    assert check(token, 1999.9) == 2000
    with pytest.raises(AccessDenied, match="expired"):
        check(token, 2000)


def test_end_cannot_be_changed() -> None:
    """The end is signed with the rest."""
    token = sas_token(f"{HUB}/devices/Sensor-1", PRIMARY, 2000).replace("se=2000", "se=9000")
    with pytest.raises(AccessDenied, match="another key"):
        check(token)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"SharedAccessSignature {text}"))
def test_arbitrary_passwords(token: str) -> None:
    """Any text that is no token is denied, with no other error."""
    with pytest.raises(AccessDenied):
        check(token)


@given(st.text("%0az=&", max_size=12), st.text("1-e ٣", max_size=6))
def test_arbitrary_signatures(signature: str, end: str) -> None:
    """A token with the right form and any content is denied, with no other error."""
    with pytest.raises(AccessDenied):
        check(f"SharedAccessSignature sr={HUB}&sig={signature}&se={end}")


@pytest.mark.parametrize("device_id", ["", "a b", "a/b", "ü", "x" * 129])
def test_device_ids(device_id: str) -> None:
    """Ids the hub would not have are refused."""
    with pytest.raises(BenchError):
        Identity(IdentityName(device_id), SymmetricKeys(PRIMARY, SECONDARY), "1")


@pytest.mark.parametrize("key", ["", "no base64!", base64.b64encode(b"x" * 15).decode()])
def test_keys(key: str) -> None:
    """Keys the hub would not have are refused, without showing them."""
    with pytest.raises(BenchError) as raised:
        Identity(IdentityName("d"), SymmetricKeys(PRIMARY, key), "1")
    assert not key or key not in str(raised.value)


def test_repr_hides_keys() -> None:
    """Keys do not show when an identity is printed."""
    assert PRIMARY not in repr(DEVICE)
    assert SECONDARY not in repr(DEVICE)
