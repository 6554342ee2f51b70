"""`certificate_key` in a configuration: the key to the gateway's certificate stays in the TPM; hub and broker."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_gateway.assembly.uplinks import make_uplink
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import parse_config
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError, UplinkLost, UplinkRefused
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities, Identity
from edge_gateway.records import Message
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.broker import find_mosquitto
from edge_gateway.testbench.cloud.identity import CertificateAuthority, Thumbprints
from edge_gateway.uplink import Uplink, mqtt, tpm_tls
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.tls import client_context
from tests.keystore.tpm.backend import BlockingTpm, why_not

from .far_sides import (
    GATEWAY,
    TIME_LIMIT_S,
    CertificateBroker,
    HubFarSide,
    RecordingDownlink,
    certified,
    failure_to_connect,
    soon,
    thumbprint,
)

pytestmark = pytest.mark.skipif(bool(why_not() or tpm_tls.why_not()), reason=why_not() or tpm_tls.why_not())

BODY = b'[{"x": 1}]'


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def store(tpm: BlockingTpm, tmp_path: Path) -> Iterator[TpmKeyStore]:
    store = TpmKeyStore(tmp_path / "keys", tcti=tpm.tcti)
    yield store
    store.close()


@pytest.fixture
def certificate_file(store: TpmKeyStore, authority: LocalAuthority, tmp_path: Path) -> Path:
    """For the gateway, and for the key `tls` in the TPM."""
    return certified(authority, store.create_certificate_key("tls"), GATEWAY, tmp_path)


def uplink_of(directory: Path, raw: KeyStore, keys: RevocableKeyStore | None = None, **uplink: Any) -> Uplink:
    """The uplink as a configuration with these settings has it."""
    document = {
        "gateway": {"name": GATEWAY, "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/x"}, "profile": "reference-climate"}],
        "uplink": {key: str(value) if isinstance(value, Path) else value for key, value in uplink.items()},
        "delivery": {"connect_timeout_s": 10},
    }
    config = parse_config(document, where="test", directory=directory)
    keys = keys or RevocableKeyStore(raw)
    return make_uplink(config, raw, keys, Keyring(keys), clock=SystemClock(), rng=random.Random(1))


def hub_settings(hub: HubFarSide, certificate_file: Path) -> dict[str, Any]:
    return {
        "kind": "iot-hub",
        "host_name": hub.hub.host_name,
        "device_id": GATEWAY,
        "ca_file": hub.ca_file,
        "certificate_file": certificate_file,
        "certificate_key": "tls",
    }


def let_in(hub: HubFarSide, certificate_file: Path) -> None:
    """The hub knows the gateway by this certificate."""
    hub.hub.remove_device(GATEWAY)
    hub.hub.add_device(GATEWAY, authentication=Thumbprints(thumbprint(certificate_file)))


async def send(uplink: Uplink, gateway: RecordingDownlink) -> None:
    async with asyncio.timeout(TIME_LIMIT_S), uplink.connect(gateway.downlink()) as session:
        await session.send(Message("5eed-1", "normal", 1, 1, BODY))


# --- at the hub ----------------------------------------------------------------------------------------------------


async def test_the_hub_lets_the_gateway_in(
    hub: HubFarSide, gateway: RecordingDownlink, store: TpmKeyStore, certificate_file: Path, tmp_path: Path
) -> None:
    """By the thumbprint of the certificate, with no symmetric key anywhere; what is sent arrives under its identity."""
    let_in(hub, certificate_file)
    uplink = uplink_of(tmp_path, store, **hub_settings(hub, certificate_file))
    await send(uplink, gateway)
    assert [(each.device_id, each.body) for each in hub.hub.messages] == [(GATEWAY, BODY)]
    assert store.names() == []
    assert uplink.endpoint == f"mqtts://{hub.hub.host_name}/{GATEWAY}"


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_an_authority_vouches_for_the_gateway(
    hub: HubFarSide,
    gateway: RecordingDownlink,
    store: TpmKeyStore,
    certificate_file: Path,
    authority: LocalAuthority,
    tmp_path: Path,
    is_trusted: bool,
) -> None:
    """A hub that knows the device by an authority lets it in if it trusts that authority, and says no otherwise."""
    hub.hub.remove_device(GATEWAY)
    hub.hub.add_device(GATEWAY, authentication=CertificateAuthority())
    if is_trusted:
        hub.hub.trusted_cas.append(authority.certificate)
    uplink = uplink_of(tmp_path, store, **hub_settings(hub, certificate_file))
    if is_trusted:
        await send(uplink, gateway)
        assert len(hub.hub.messages) == 1
    else:
        error = await soon(failure_to_connect(uplink, gateway))
        assert isinstance(error, UplinkRefused)
        assert "refuses this device or its certificate" in error.what


async def test_a_gateway_that_was_provisioned_by_certificate_connects_so(
    hub: HubFarSide, gateway: RecordingDownlink, store: TpmKeyStore, certificate_file: Path, tmp_path: Path
) -> None:
    """The identity names the key; while that is missing the gateway runs on, and is told to have a key certified."""
    let_in(hub, certificate_file)
    (tmp_path / "data").mkdir()
    uplink = uplink_of(tmp_path, store, kind="iot-hub", ca_file=hub.ca_file)
    for key in ("none", "tls"):
        identity = Identity(
            "", hub.hub.host_name, GATEWAY, "", "dps-x509", certificate_file=str(certificate_file), certificate_key=key
        )
        Identities(tmp_path / "data" / IDENTITIES_FILE).put(identity)
        if key == "none":
            error = await soon(failure_to_connect(uplink, gateway))
            assert isinstance(error, UplinkRefused)
            assert "key 'none'" in error.where
    await send(uplink, gateway)
    assert [each.device_id for each in hub.hub.messages] == [GATEWAY]


async def test_a_key_in_a_file_goes_by_the_device_sdk(hub: HubFarSide, store: TpmKeyStore, tmp_path: Path) -> None:
    """Only a key that no file has needs the other way."""
    settings = hub_settings(hub, tmp_path / "c.pem") | {"private_key_file": "k.pem", "certificate_key": None}
    assert isinstance(uplink_of(tmp_path, store, **settings), IotHub)


# --- renewed, lost, wiped ------------------------------------------------------------------------------------------


async def test_a_renewed_certificate_is_shown_from_the_next_session_on(
    hub: HubFarSide,
    gateway: RecordingDownlink,
    store: TpmKeyStore,
    certificate_file: Path,
    authority: LocalAuthority,
    tmp_path: Path,
) -> None:
    """The file is replaced while the gateway runs, once by nonsense, which is told; what is right is used at once."""
    let_in(hub, certificate_file)
    uplink = uplink_of(tmp_path, store, **hub_settings(hub, certificate_file))
    await send(uplink, gateway)

    certificate_file.write_text("none")
    error = await soon(failure_to_connect(uplink, gateway))
    assert isinstance(error, UplinkRefused)
    assert (error.where, error.what) == (str(certificate_file), "cannot be used as PEM certificate")

    shutil.rmtree(tmp_path / "renewed", ignore_errors=True)
    (tmp_path / "renewed").mkdir()
    renewed = certified(authority, store.certificate_key("tls"), GATEWAY, tmp_path / "renewed")
    let_in(hub, renewed)
    renewed.replace(certificate_file)
    await send(uplink, gateway)
    assert len(hub.hub.messages) == 2


async def test_a_tpm_that_is_away_is_a_loss(
    hub: HubFarSide,
    gateway: RecordingDownlink,
    tpm: BlockingTpm,
    store: TpmKeyStore,
    certificate_file: Path,
    tmp_path: Path,
) -> None:
    """What is told is the TPM and no failed handshake; when the TPM is back, so is the gateway, without a restart."""
    let_in(hub, certificate_file)
    uplink = uplink_of(tmp_path, store, **hub_settings(hub, certificate_file))
    tpm.kill()
    error = await soon(failure_to_connect(uplink, gateway))
    assert isinstance(error, UplinkLost)
    assert "TPM" in error.what
    tpm.restart()
    await send(uplink, gateway)
    assert len(hub.hub.messages) == 1


async def test_nobody_signs_while_keys_are_wiped(
    hub: HubFarSide, gateway: RecordingDownlink, store: TpmKeyStore, certificate_file: Path, tmp_path: Path
) -> None:
    """Once the key store is revoked the gateway shows its certificate no more, though the key may still be there."""
    let_in(hub, certificate_file)
    keys = RevocableKeyStore(store)
    uplink = uplink_of(tmp_path, store, keys, **hub_settings(hub, certificate_file))
    await send(uplink, gateway)
    keys.revoke()
    error = await soon(failure_to_connect(uplink, gateway))
    assert isinstance(error, UplinkRefused)
    assert error.what == "the keys are being wiped"
    assert store.certificate_key_names() == ["tls"]
    with pytest.raises(KeyStoreError, match="the keys are being wiped"):
        uplink_of(tmp_path, store, keys, **hub_settings(hub, certificate_file))


async def test_after_a_wipe_a_copy_of_the_key_signs_nothing(
    hub: HubFarSide, gateway: RecordingDownlink, store: TpmKeyStore, certificate_file: Path, tmp_path: Path
) -> None:
    """The TPM has been cleared, so the wrapped key that somebody kept does not open."""
    let_in(hub, certificate_file)
    uplink = uplink_of(tmp_path, store, **hub_settings(hub, certificate_file))
    shutil.copytree(tmp_path / "keys", tmp_path / "copy")
    await asyncio.to_thread(store.wipe)
    shutil.rmtree(tmp_path / "keys")
    shutil.copytree(tmp_path / "copy", tmp_path / "keys")
    error = await soon(failure_to_connect(uplink, gateway))
    assert not hub.hub.messages
    assert isinstance(error, UplinkRefused | UplinkLost)
    assert "TPM" in str(error)


# --- at a broker ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def certificate_broker(authority: LocalAuthority) -> AsyncIterator[CertificateBroker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed; on Debian and Ubuntu: apt-get install mosquitto")
    async with CertificateBroker(authority=authority) as broker:
        yield broker


async def test_a_broker_lets_the_gateway_in(
    certificate_broker: CertificateBroker,
    gateway: RecordingDownlink,
    store: TpmKeyStore,
    certificate_file: Path,
    tmp_path: Path,
) -> None:
    """A broker that wants a certificate knows the gateway by it, and confirms what is sent."""
    uplink = uplink_of(
        tmp_path,
        store,
        kind="mqtt",
        host=certificate_broker.address,
        port=certificate_broker.port,
        ca_file=certificate_broker.ca_file,
        certificate_file=certificate_file,
        certificate_key="tls",
    )
    await send(uplink, gateway)
    await certificate_broker.logged(f"u'{GATEWAY}'")


@pytest.mark.parametrize("has_known_name", [False, True])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_broker_that_does_not_take_the_certificate_is_told(
    certificate_broker: CertificateBroker,
    gateway: RecordingDownlink,
    store: TpmKeyStore,
    tmp_path: Path,
    version: ssl.TLSVersion,
    has_known_name: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that a stranger has signed, maybe by a known name: the certificate is told, however late the broker's no."""
    signer = LocalAuthority() if has_known_name else LocalAuthority().intermediate("stranger")
    stranger = certified(signer, store.create_certificate_key("tls"), GATEWAY, tmp_path)
    monkeypatch.setattr(mqtt, "client_context", lambda *given: limited(client_context(*given), version))
    uplink = uplink_of(
        tmp_path,
        store,
        kind="mqtt",
        host=certificate_broker.address,
        port=certificate_broker.port,
        ca_file=certificate_broker.ca_file,
        certificate_file=stranger,
        certificate_key="tls",
    )
    error = await soon(failure_to_connect(uplink, gateway))
    assert "certificate" in error.what
    assert error.remedy == "Check that it has not expired, and that the other side trusts who has signed it"
    assert isinstance(error, UplinkRefused) == (version is ssl.TLSVersion.TLSv1_2)


def limited(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Settings that speak one version of TLS."""
    context.minimum_version = context.maximum_version = version
    return context


# --- what `check` tells --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iot-hub", "mqtt"])
def test_without_a_tpm_it_is_told_before_the_gateway_starts(hub: HubFarSide, tmp_path: Path, kind: str) -> None:
    """A software key store has no such keys; the error says what to configure."""
    settings = hub_settings(hub, tmp_path / "c.pem")
    if kind == "mqtt":
        settings = {"kind": "mqtt", "host": "b", "certificate_file": "c.pem", "certificate_key": "tls"}
    with pytest.raises(ConfigError, match=r"certificate_key 'tls': .* of kind software\. Say key_store: \{kind: tpm\}"):
        uplink_of(tmp_path, SoftwareKeyStore(tmp_path / "keys"), **settings)


def test_what_does_not_fit_is_told_before_the_gateway_starts(
    hub: HubFarSide, store: TpmKeyStore, certificate_file: Path, tmp_path: Path
) -> None:
    """A key that is missing, one that is no certificate's, one that the certificate is not for, and a missing file."""
    settings = hub_settings(hub, certificate_file)
    with pytest.raises(KeyMissing, match=r"key 'gone'.*edge-gateway keys csr gone"):
        uplink_of(tmp_path, store, **settings | {"certificate_key": "gone"})
    store.create("token")
    with pytest.raises(KeyStoreError, match="key 'token': is not the key to a certificate"):
        uplink_of(tmp_path, store, **settings | {"certificate_key": "token"})
    store.create_certificate_key("other")
    with pytest.raises(ConfigError, match="the certificate is not for the key 'other'"):
        uplink_of(tmp_path, store, **settings | {"certificate_key": "other"})
    with pytest.raises(ConfigError, match=r"gone\.pem: there is no such file"):
        uplink_of(tmp_path, store, **settings | {"certificate_file": tmp_path / "gone.pem"})
