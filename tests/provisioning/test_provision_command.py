"""`edge-gateway provision`: what an installer types, what it prints, and a power cut at every step of it."""

from __future__ import annotations

import asyncio
import base64
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.assembly import key_store
from edge_gateway.cli import provision
from edge_gateway.config.load import load_config
from edge_gateway.errors import ConfigError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.generations import generation_name
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.provisioning import leaves
from edge_gateway.provisioning.errors import ProvisioningRefused
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities
from edge_gateway.provisioning.symmetric_keys import holds
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.identity import SymmetricKeys, Thumbprints
from edge_gateway.testbench.cloud.provisioning.enrolments import EnrolmentGroup, IndividualEnrolment, drawn_keys
from tests.provisioning.conftest import Site

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()
CONNECTION = f"HostName=hub.example;DeviceId=plant-3;SharedAccessKey={KEY_TEXT}"
KEYS = drawn_keys()
GROUP = EnrolmentGroup("sensors", KEYS)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return gateway(tmp_path)


def gateway(directory: Path, uplink: dict[str, Any] | None = None) -> Path:
    """A configuration with two sensors, in a directory of its own."""
    devices = [{"name": "Boiler", "address": 7}, {"name": "attic", "address": 8}]
    document: dict[str, Any] = {
        "gateway": {"name": "Plant-3", "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate", "devices": devices}],
        "uplink": {"kind": "iot-hub"} if uplink is None else uplink,
    }
    path = directory / "gateway.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(config: Path, *words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(provision.app, [*words, "--config", str(config)], input=given)


def answer(result: Result) -> Any:
    assert result.exit_code == 0, (result.output, result.exception)
    return orjson.loads(result.stdout)


def secret_file(config: Path, text: str) -> Path:
    path = config.with_name("secret.txt")
    path.write_text(text)
    path.chmod(0o600)
    return path


def identities_of(config: Path) -> Identities:
    return Identities(config.parent / "data" / IDENTITIES_FILE)


def store_of(config: Path) -> SoftwareKeyStore:
    store = key_store(load_config(config))
    assert isinstance(store, SoftwareKeyStore)
    return store


# The gateway, by a connection string


def test_a_connection_string_from_a_file(config: Path) -> None:
    """The gateway is the device, its key is in the key store, and the file is gone."""
    path = secret_file(config, f"{CONNECTION}\n")
    result = run(config, "connection-string", "--from-file", str(path))
    assert (result.exit_code, result.output) == (
        0,
        f"this gateway is plant-3 at hub.example\n{path} is erased\n",
    )
    assert not path.exists()
    assert holds(store_of(config), "gateway", Secret(KEY))
    assert stat.S_IMODE((config.parent / "data").stat().st_mode) == 0o700


def test_a_connection_string_from_windows(config: Path) -> None:
    """Its editors put a mark in front, which does no harm; UTF-16, as its shell writes it, is told and not erased."""
    path = secret_file(config, "")
    path.write_bytes(f"{CONNECTION}\r\n".encode("utf-16"))
    result = run(config, "connection-string", "--from-file", str(path))
    assert "is text in UTF-16. Save it as UTF-8" in str(result.exception)
    path.write_bytes(f"{CONNECTION}\r\n".encode("utf-8-sig"))
    assert run(config, "connection-string", "--from-file", str(path)).exit_code == 0
    assert holds(store_of(config), "gateway", Secret(KEY))
    assert not path.exists()


def test_a_connection_string_from_standard_input(config: Path) -> None:
    """Nothing is to be erased; as JSON, the answer is the identity."""
    told = answer(run(config, "connection-string", "--json", given=CONNECTION))
    assert told["notes"] == []
    assert (told["identity"]["device_id"], told["identity"]["method"]) == ("plant-3", "connection-string")


@pytest.mark.parametrize(
    ("uplink", "told"),
    [
        ({"kind": "iot-hub", "host_name": "HUB.example", "device_id": "plant-3"}, None),
        ({"kind": "iot-hub", "host_name": "hub.example", "device_id": "other"}, "says other at hub.example, and that"),
        ({"kind": "mqtt", "host": "broker"}, "another uplink than iot-hub"),
    ],
)
def test_a_configuration_that_says_otherwise(tmp_path: Path, uplink: dict[str, Any], told: str | None) -> None:
    """Where the identity will not be used, that is said at once."""
    notes = answer(run(gateway(tmp_path, uplink), "connection-string", "--json", given=CONNECTION))["notes"]
    assert len(notes) == (told is not None)
    assert (told or "") in "".join(notes)


def test_a_file_that_is_kept(config: Path) -> None:
    """With --keep-file it stays, and that is said."""
    path = secret_file(config, CONNECTION)
    result = run(config, "connection-string", "--from-file", str(path), "--keep-file")
    assert "still has the secret" in result.output
    assert path.read_text() == CONNECTION


def test_what_is_refused_leaves_the_file(config: Path) -> None:
    """An error changes nothing: the file is there to be given again."""
    for text in ("HostName=h", f"{CONNECTION};ModuleId=m"):
        path = secret_file(config, text)
        result = run(config, "connection-string", "--from-file", str(path))
        assert isinstance(result.exception, ConfigError)
        assert path.read_text() == text
    assert identities_of(config).own is None
    assert store_of(config).names() == []


class PowerCut(BaseException):
    """From here on nothing happens."""


def cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Cut the power before the step of that number among those that reach the disk; tells how many there were."""
    steps = 0

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > step:
                raise PowerCut
            return function(*arguments, **options)

        return call

    for owner, name in ((os, "fsync"), (os, "pwrite"), (Path, "unlink"), (Path, "replace")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return lambda: steps


TABLE = f"device,device_id,key\na,id-a,{KEY_TEXT}\nb,id-b,{KEY_TEXT}\n"


@pytest.mark.parametrize(
    ("words", "text", "devices"),
    [
        (("connection-string", "--from-file"), CONNECTION, {""}),
        (("leaves", "--host-name", "hub.example", "--table"), TABLE, {"a", "b"}),
    ],
    ids=["a connection string", "a table"],
)
def test_a_power_cut_never_leaves_neither(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], text: str, devices: set[str]
) -> None:
    """Whenever the power fails, the file still has its keys, or all identities and their keys are there.

    The same command again brings it to its end, or says that only the file is left to be removed.
    """
    monkeypatch.setattr(leaves, "AT_A_TIME", 1)  # so that steps come in the same order each time
    ended_after_cut = told_after_cut = 0
    for step in range(200):
        directory = tmp_path / str(step)
        directory.mkdir()
        config = gateway(directory)
        path = secret_file(config, text)
        with monkeypatch.context() as patches:
            steps = cut_at(step, patches)
            try:
                run(config, *words, str(path))
                was_cut = False
            except (PowerCut, BaseExceptionGroup):  # the latter where tasks are at work
                was_cut = True
            assert steps() > 0
        there = {each.device for each in identities_of(config) if holds(store_of(config), each.key, Secret(KEY))}
        if there != devices:
            assert path.read_text() == text
        if not was_cut:
            break
        if path.exists():
            again = run(config, *words, str(path))
            if again.exit_code == 0:
                ended_after_cut += 1
                assert not path.exists()
            else:
                told_after_cut += 1
                assert there == devices
                assert "was about to be erased when that was cut short" in str(again.exception)
    assert not was_cut
    assert ended_after_cut > 5
    assert told_after_cut == 2  # with the bytes overwritten, before and after their sync


# The gateway, by the provisioning service


class Dps:
    """Runs a command that asks the provisioning service of a site."""

    def __init__(self, site: Site, config: Path) -> None:
        self.site = site
        self.config = config

    async def __call__(self, *words: str, given: str | None = None, id_scope: str | None = None) -> Result:
        scope = id_scope if id_scope is not None else self.site.dps.id_scope
        options = ("--host", self.site.door.address, "--port", str(self.site.port), "--ca-file", str(self.site.ca_file))
        words = (*words, "--id-scope", scope, *options)
        # In a thread: the command runs an event loop of its own, as the bench does.
        return await asyncio.to_thread(run, self.config, *words, given=given)


@pytest.fixture
def dps(site: Site, config: Path) -> Dps:
    return Dps(site, config)


async def test_by_a_symmetric_key(dps: Dps) -> None:
    """The registration id is the gateway's name in lower case, unless another is given; the file is erased."""
    dps.site.dps.add_enrolment(IndividualEnrolment("plant-3", KEYS))
    path = secret_file(dps.config, KEYS.primary)
    told = answer(await dps("dps", "--method", "symmetric-key", "--from-file", str(path), "--json"))
    assert told["identity"]["device_id"] == "plant-3"
    assert told["notes"] == [f"{path} is erased"]
    assert dps.site.admits("plant-3", store_of(dps.config), "gateway")


async def test_by_a_groups_key(dps: Dps) -> None:
    """The gateway's key is derived; the group's is kept only if asked for, and then serves again without the file."""
    dps.site.dps.add_group(GROUP)
    words = ("dps", "--method", "group")
    result = await dps(*words)
    assert "no group's key is given, and none is kept" in str(result.exception)
    assert (await dps(*words, "--from-file", "-", given=KEYS.primary)).exit_code == 0
    assert store_of(dps.config).names() == ["gateway"]
    assert (await dps(*words, "--from-file", "-", "--keep-group-key", given=KEYS.primary)).exit_code == 0
    assert store_of(dps.config).names() == ["dps-group", "gateway"]
    other = await dps(*words, "--registration-id", "other", "--replace", "--json")
    assert answer(other)["identity"]["device_id"] == "other"
    assert dps.site.admits("other", store_of(dps.config), "gateway")


async def test_a_refused_key_is_not_erased(dps: Dps) -> None:
    """The file is there to be compared, and nothing is kept."""
    dps.site.dps.add_enrolment(IndividualEnrolment("plant-3", KEYS))
    path = secret_file(dps.config, KEY_TEXT)
    result = await dps("dps", "--method", "symmetric-key", "--from-file", str(path))
    assert isinstance(result.exception, ProvisioningRefused)
    assert path.read_text() == KEY_TEXT
    assert store_of(dps.config).names() == []


async def test_by_a_certificate(dps: Dps, tmp_path: Path) -> None:
    """The registration id is the certificate's common name, and can be no other."""
    certificate = self_signed_certificate("plant-3")
    files = certificate.write(tmp_path)
    dps.site.dps.add_enrolment(IndividualEnrolment("plant-3", Thumbprints(certificate.sha1_thumbprint)))
    words = ("dps", "--method", "x509", "--certificate-file", str(files[0]), "--private-key-file", str(files[1]))
    told = answer(await dps(*words, "--json"))
    assert told["identity"]["certificate_file"] == str(files[0])
    assert told["identity"]["key"] == ""
    result = await dps(*words, "--registration-id", "other")
    assert "the certificate's common name is plant-3" in str(result.exception)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--method", "symmetric-key"), "--from-file: is needed"),
        (("--method", "x509"), "--certificate-file: is needed"),
        (("--method", "tpm"), "the keys are not in a TPM"),
    ],
)
async def test_what_a_method_needs(dps: Dps, words: tuple[str, ...], told: str) -> None:
    """It is said which option or setting is missing."""
    result = await dps("dps", *words)
    assert isinstance(result.exception, ConfigError)
    assert told in str(result.exception)


# Sensors


def test_a_sensor_is_not_called_as_the_gateway(config: Path) -> None:
    """Commands under that name are the gateway's, the wipe of all keys among them; nothing is kept or erased."""
    path = secret_file(config, f"device,device_id,key\nPlant-3,id-1,{KEY_TEXT}\n")
    result = run(config, "leaves", "--host-name", "hub.example", "--table", str(path))
    assert "the gateway's own name" in str(result.exception)
    assert path.exists()
    assert store_of(config).names() == []


async def test_a_wrong_group_key_takes_no_good_ones_place(dps: Dps) -> None:
    """Where all sensors have their keys nobody would try it; it is not kept, and its file is there to be compared.

    The right one, given again after a cut, is known by the sensors' keys, and its file is erased.
    """
    dps.site.dps.add_group(GROUP)
    words = ("leaves", "--keep-group-key", "--from-file")
    assert (await dps(*words, "-", given=KEYS.primary)).exit_code == 0
    wrong = secret_file(dps.config, KEY_TEXT)
    told = answer(await dps(*words, str(wrong), "--json"))
    assert (told["kept"], len(told["notes"])) == (2, 1)
    assert "neither kept nor erased" in told["notes"][0]
    assert wrong.read_text() == KEY_TEXT
    assert holds(store_of(dps.config), "dps-group", Secret.from_base64(KEYS.primary.encode()))
    right = secret_file(dps.config, KEYS.primary)
    assert answer(await dps(*words, str(right), "--json"))["notes"] == [f"{right} is erased"]


async def test_a_rotated_group_key_is_the_one_that_is_used(dps: Dps) -> None:
    """A kept group's key may be changed as every other; sensors to come have theirs from the newest."""
    dps.site.dps.add_group(GROUP)
    store = store_of(dps.config)
    store.put("dps-group", Secret(KEY))
    store.put(generation_name("dps-group", 2), Secret.from_base64(KEYS.primary.encode()))
    assert answer(await dps("leaves", "--json"))["provisioned"] == 2


async def test_the_sensors_of_the_configuration(dps: Dps) -> None:
    """All devices get identities by the group's key, which is erased; `list` shows them, and one can be removed."""
    dps.site.dps.add_group(GROUP)
    path = secret_file(dps.config, KEYS.primary)
    result = await dps("leaves", "--from-file", str(path))
    assert result.output == f"2 provisioned, 0 had their identities, 0 refused\n{path} is erased\n"
    assert not path.exists()
    listed = answer(run(dps.config, "list", "--json"))
    assert [(each["device"], each["device_id"], each["has_key"]) for each in listed] == [
        ("Boiler", "plant-3-boiler", True),
        ("attic", "plant-3-attic", True),
    ]
    assert run(dps.config, "remove", "attic").output.startswith("the identity of attic is removed; ")
    assert store_of(dps.config).names() == ["leaf.Boiler"]
    store_of(dps.config).remove("leaf.Boiler")
    line = f"Boiler  plant-3-boiler at {dps.site.hub.host_name}  by dps-group  key leaf.Boiler is missing\n"
    assert run(dps.config, "list").output == line
    assert run(dps.config, "remove", "Boiler").exit_code == 0  # as after a removal that was cut short
    assert run(dps.config, "list").output == ""


async def test_a_refused_sensor(dps: Dps) -> None:
    """Exit code 1, its cause, and the group's key is not erased: it is needed again."""
    dps.site.dps.add_group(GROUP)
    dps.site.dps.add_enrolment(IndividualEnrolment("plant-3-attic", enabled=False, attestation=drawn_keys()))
    path = secret_file(dps.config, KEYS.primary)
    result = await dps("leaves", "--from-file", str(path), "--json")
    assert result.exit_code == 1
    told = orjson.loads(result.stdout)
    assert told["provisioned"] == 1
    assert [each["device"] for each in told["refused"]] == ["attic"]
    assert told["refused"][0]["what"]
    assert path.exists()
    dps.site.dps.enrolments.remove("plant-3-attic")
    again = await dps("leaves", "--from-file", str(path))
    assert again.output.startswith("1 provisioned, 1 had their identities, 0 refused\n")
    assert not path.exists()


async def test_named_sensors(dps: Dps) -> None:
    """Those that are named and no others, by names of one's own."""
    dps.site.dps.add_group(GROUP)
    words = ("leaves", "--device", "attic", "--registration-id", "site9-{device}", "--from-file", "-")
    assert (await dps(*words, given=KEYS.primary)).exit_code == 0
    assert [each.device_id for each in identities_of(dps.config)] == ["site9-attic"]


def test_a_table_with_keys(config: Path) -> None:
    """Nobody is asked; the hub is the gateway's; the table is erased."""
    run(config, "connection-string", given=CONNECTION)
    path = secret_file(config, f"device,device_id,key\nattic,plant-3-attic,{KEY_TEXT}\n")
    told = answer(run(config, "leaves", "--table", str(path), "--json"))
    assert told == {"provisioned": 1, "kept": 0, "refused": [], "notes": [f"{path} is erased"]}
    assert not path.exists()
    leaf = identities_of(config).leaves["attic"]
    assert (leaf.host_name, leaf.device_id, leaf.method) == ("hub.example", "plant-3-attic", "csv")
    assert holds(store_of(config), "leaf.attic", Secret(KEY))


def test_a_table_with_a_fault(config: Path) -> None:
    """It is told with its line, nothing is done, and the file is there to be corrected."""
    path = secret_file(config, f"device,device_id,key\nattic,plant-3-attic,{KEY_TEXT}\nboiler,x,\n")
    result = run(config, "leaves", "--table", str(path))
    assert "line 3: either registration_id is needed" in str(result.exception)
    assert path.exists()
    assert list(identities_of(config)) == []


def test_a_table_needs_what_it_needs(config: Path) -> None:
    """A group's key, or one standard input for each of two."""
    path = secret_file(config, "device,registration_id\nattic,r\n")
    assert "no group's key is given" in str(run(config, "leaves", "--table", str(path)).exception)
    both = run(config, "leaves", "--table", "-", "--from-file", "-", given="x")
    assert "standard input can be one of both" in str(both.exception)


# Removing


def test_the_gateways_own_is_removed_on_purpose(config: Path) -> None:
    """Not by leaving out a name; its key goes with it."""
    run(config, "connection-string", given=CONNECTION)
    assert "Name one sensor, or give --gateway" in str(run(config, "remove").exception)
    assert "Name one sensor, or give --gateway" in str(run(config, "remove", "attic", "--gateway").exception)
    assert run(config, "remove", "--gateway").output == "the identity of the gateway is removed\n"
    assert store_of(config).names() == []
    assert "there is no such identity" in str(run(config, "remove", "--gateway").exception)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to somebody else")
def test_the_data_directory_of_another_user(config: Path) -> None:
    """Files are not left there that its gateway could not read; the error says as whom to do it."""
    data = config.parent / "data"
    data.mkdir()
    os.chown(data, 12345, -1)
    result = run(config, "connection-string", given=CONNECTION)
    assert "belongs to the user #12345" in str(result.exception)
    assert list(data.iterdir()) == []


def test_no_output_has_a_key(config: Path) -> None:
    """Neither what is printed nor what is written beside the key store."""
    result = run(config, "connection-string", "--json", given=CONNECTION)
    listed = run(config, "list", "--json")
    written = [path.read_bytes() for path in (config.parent / "data").rglob("*") if path.is_file()]
    for text in (result.output.encode(), listed.output.encode(), *written):
        assert KEY_TEXT[:12].encode() not in text
        assert KEY not in text
    assert isinstance(GROUP.attestation, SymmetricKeys)
