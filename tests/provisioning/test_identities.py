"""The file of identities: kept through power cuts and other writers, and never two devices of the same identity."""

from __future__ import annotations

import re
import stat
import threading
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import ConfigError
from edge_gateway.provisioning import identities as identities_module
from edge_gateway.provisioning.identities import Identities, Identity, leaf_key_name

OWN = Identity("", "hub.example", "plant-3", "gateway", "connection-string", gateway_host_name="edge.example")
BOILER = Identity("boiler", "hub.example", "plant-3-boiler", "leaf.boiler", "dps-symmetric-key")
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def kept(identities: Identities) -> list[Identity]:
    """What another process finds in the file."""
    return list(Identities(identities._path))


def test_identities_are_there_after_a_restart(identities: Identities) -> None:
    """What was put is what the next start finds, the gateway's and the sensors'."""
    assert identities.own is None
    assert dict(identities.leaves) == {}
    identities.put(BOILER, OWN)
    again = Identities(identities._path)
    assert again.own == OWN
    assert dict(again.leaves) == {"boiler": BOILER}
    assert stat.S_IMODE(identities._path.stat().st_mode) == 0o600


def test_nothing_secret_is_in_the_file(identities: Identities) -> None:
    """The file is JSON with these members and no others."""
    identities.put(BOILER)
    assert orjson.loads(identities._path.read_bytes()) == {
        "version": 1,
        "identities": [
            {
                "device": "boiler",
                "host_name": "hub.example",
                "device_id": "plant-3-boiler",
                "key": "leaf.boiler",
                "method": "dps-symmetric-key",
            }
        ],
    }


def test_a_new_identity_takes_the_old_ones_place(identities: Identities) -> None:
    """A device has one identity: the last that was put."""
    identities.put(BOILER)
    moved = replace(BOILER, host_name="other.example")
    identities.put(moved)
    assert kept(identities) == [moved]


def test_identities_are_removed_by_device(identities: Identities) -> None:
    """A sensor by its name, the gateway by none; what is not there cannot be removed."""
    identities.put(BOILER, OWN)
    identities.remove("boiler")
    identities.remove("")
    assert kept(identities) == []
    with pytest.raises(ConfigError, match="there is no such identity"):
        identities.remove("boiler")


@pytest.mark.parametrize(
    "double",
    [
        replace(BOILER, device="attic", key="leaf.attic"),
        replace(BOILER, device="attic", key="leaf.attic", host_name="HUB.example"),
        replace(BOILER, device="attic", device_id="plant-3-attic"),
        replace(OWN, device_id="plant-3-boiler"),
    ],
    ids=["id", "host in upper case", "key", "the gateway's"],
)
def test_two_devices_are_never_one(identities: Identities, double: Identity) -> None:
    """The same id at the same hub, or the same key, is refused with both names, and nothing is changed."""
    identities.put(BOILER)
    with pytest.raises(ConfigError, match="the sensor boiler") as caught:
        identities.put(double)
    assert double.told in str(caught.value)
    assert kept(identities) == [BOILER]


def test_the_same_id_at_two_hubs_is_two_identities(identities: Identities) -> None:
    """An id names a device at one hub only."""
    identities.put(BOILER, replace(BOILER, device="attic", key="leaf.attic", host_name="other.example"))
    assert len(kept(identities)) == 2


def test_identities_may_change_places_in_one_go(identities: Identities) -> None:
    """What counts is how all are afterwards, not the way there."""
    attic = Identity("attic", "hub.example", "plant-3-attic", "leaf.attic", "csv")
    identities.put(BOILER, attic)
    swapped = replace(BOILER, device_id=attic.device_id), replace(attic, device_id=BOILER.device_id)
    identities.put(*swapped)
    assert set(kept(identities)) == set(swapped)


def test_there_is_a_most(identities: Identities, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than a gateway may have is refused."""
    monkeypatch.setattr(identities_module, "MOST_IDENTITIES", 2)
    identities.put(OWN, BOILER)
    with pytest.raises(ConfigError, match="3 identities are too many"):
        identities.put(Identity("attic", "hub.example", "attic", "leaf.attic", "csv"))


def test_writers_wait_for_each_other(identities: Identities) -> None:
    """Of what several commands put at the same time, nothing is lost."""

    def put(number: int) -> None:
        own_view = Identities(identities._path)
        for count in range(5):
            name = f"s{number}-{count}"
            own_view.put(Identity(name, "hub.example", name, f"leaf.{name}", "csv"))

    writers = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert len(kept(identities)) == 20


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "a b"},
        {"device": "x" * 65},
        {"host_name": ""},
        {"host_name": "hub.example/"},
        {"device_id": ""},
        {"device_id": "a/b"},
        {"device_id": "a+b"},
        {"device_id": "a#b"},
        {"key": ""},
        {"key": "../key"},
        {"method": "by-post"},
        {"gateway_host_name": "edge example"},
        {"certificate_file": "cert.pem"},
        {"method": "dps-x509"},
        {"certificate_key": "tls"},
        {"method": "dps-x509", "key": "", "certificate_key": "tls"},
        {"method": "dps-x509", "key": "", "certificate_file": "cert.pem"},
        {"method": "dps-x509", "key": "", "certificate_file": "cert.pem", "certificate_key": "../tls"},
        {
            "method": "dps-x509",
            "key": "",
            "certificate_file": "cert.pem",
            "private_key_file": "key.pem",
            "certificate_key": "tls",
        },
        {"method": "dps-x509", "key": "", "certificate_file": "a\0b", "private_key_file": "key.pem"},
    ],
)
def test_what_cannot_be_an_identity_is_refused(changes: dict[str, str]) -> None:
    """Each member has its rule, whoever brings it: the service, a table, or the file."""
    with pytest.raises(ConfigError, match="cannot be used"):
        replace(BOILER, **changes)  # type: ignore[arg-type]  # wrong values are what is tested


def test_a_certificate_is_named_in_place_of_a_key(identities: Identities) -> None:
    """An identity proved by certificate has the certificate's file, and its key's, or that key's name in the store."""
    own = Identity("", "hub.example", "plant-3", "", "dps-x509", "", "/etc/cert.pem", "/etc/key.pem")
    for each in (own, replace(own, private_key_file="", certificate_key="tls")):
        identities.put(each)
        assert kept(identities) == [each]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{",
        b'{"version": 2, "identities": []}',
        b'{"version": 1}',
        b'{"version": 1, "identities": [{"device": "a"}]}',
        b'{"version": 1, "identities": [{"device": "a", "host_name": 7}]}',
        b'{"version": 1, "identities": [{"device": "", "host_name": "h", "device_id": "d", "key": "k", "method": "csv",'
        b' "more": ""}]}',
    ],
)
def test_a_file_that_is_none_of_ours(tmp_path: Path, content: bytes) -> None:
    """An error that names the file and what to do, and the file is left as it is."""
    path = tmp_path / "identities.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be understood") as caught:
        Identities(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert path.read_bytes() == content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    """Arbitrary bytes end in identities or in ConfigError."""
    path = tmp_path / "identities.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError):
        Identities(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(devices=st.sets(names, min_size=1, max_size=10))
def test_any_identities_come_back(tmp_path: Path, devices: set[str]) -> None:
    """Whatever names devices have, what is read is what was written."""
    path = tmp_path / "identities.json"
    path.unlink(missing_ok=True)
    put = [Identity(device, "hub.example", device, leaf_key_name(device), "csv") for device in sorted(devices)]
    Identities(path).put(*put)
    assert list(Identities(path)) == put


@given(device=names)
def test_a_sensors_key_has_a_name_the_key_store_takes(device: str) -> None:
    """However long the sensor's name is; a short one is readable."""
    name = leaf_key_name(device)
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name)
    assert name.startswith(f"leaf.{device[:40]}")


def test_long_names_stay_apart() -> None:
    """Names that differ at their end only have different keys."""
    assert leaf_key_name("x" * 59) == "leaf." + "x" * 59
    assert len({leaf_key_name("x" * 60 + end) for end in "abcd"}) == 4


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It is told as what it is, with what to do."""
    with pytest.raises(ConfigError, match="cannot be written"):
        Identities(tmp_path / "nowhere" / "identities.json").put(OWN)
