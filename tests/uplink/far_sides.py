"""The other end of each uplink, real or simulated, behind a network that fails on command.

A new uplink joins the contract suite by one more `FarSide` in `FAR_SIDES`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from edge_gateway.clock import Clock, SystemClock
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink, MqttUplink
from edge_gateway.errors import UplinkError
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import CertificateKey, TpmKeyStore
from edge_gateway.records import Command, CommandResult, Value
from edge_gateway.testbench import FaultProxy, LocalAuthority, LocalHub, free_loopback_address
from edge_gateway.testbench.broker import MosquittoBroker, find_mosquitto
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Packet,
    PacketReader,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Subscription,
)
from edge_gateway.uplink import Downlink, Uplink, tpm_tls
from edge_gateway.uplink.certified import CertifiedUplink
from edge_gateway.uplink.hub_commands import HubCommands
from edge_gateway.uplink.hub_device import HubDevice
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.mqtt import MqttBroker
from edge_gateway.uplink.tls import client_context
from edge_gateway.uplink.tpm_tls import HeldKey
from tests.keystore.tpm.backend import tpm_key_store
from tests.keystore.tpm.backend import why_not as tpm_missing

from .memory_keys import MemoryKeys

GATEWAY = "gw-17"
PASSWORD = "correct horse"  # of a broker that lives as long as a test
QUICK = DeliverySettings(in_flight=8, confirm_timeout_s=5, keep_alive_s=5, connect_timeout_s=10)


T = TypeVar("T")

TIME_LIMIT_S = 30.0
"""Far beyond what anything here takes, so that a fault fails a test and does not hang it."""


async def soon(awaitable: Awaitable[T]) -> T:
    """Wait, within the time limit."""
    async with asyncio.timeout(TIME_LIMIT_S):
        return await awaitable


async def failure_to_connect(uplink: Uplink, gateway: RecordingDownlink) -> UplinkError:
    """Why a connection does not come up."""
    with pytest.raises(UplinkError) as caught:
        async with uplink.connect(gateway.downlink()):
            raise AssertionError("connected")
    return caught.value


class Arrival(NamedTuple):
    """A message at the far side."""

    id: str
    lane: str
    body: bytes


class RecordingDownlink:
    """The gateway's side of what comes down. Obeys every command unless told otherwise."""

    def __init__(self, obey: Callable[[Command], CommandResult]) -> None:
        self.obey = obey
        self.commands: list[Command] = []
        self.results: list[tuple[Command, CommandResult]] = []
        self.desired: list[tuple[Mapping[str, Value], bool]] = []
        self.to_report: dict[str, Value] = {}
        self._changed = asyncio.Event()

    def downlink(self) -> Downlink:
        return Downlink(self._run_command, self._report_result, self._apply_desired, lambda: self.to_report)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def _run_command(self, command: Command) -> CommandResult:
        self.commands.append(command)
        self._changed.set()
        return self.obey(command)

    async def _report_result(self, command: Command, result: CommandResult) -> None:
        self.results.append((command, result))
        self._changed.set()

    async def _apply_desired(self, desired: Mapping[str, Value], whole: bool) -> None:
        self.desired.append((desired, whole))
        self._changed.set()


class FarSide(ABC):
    """What the contract suite needs of a hub or broker."""

    proxy: FaultProxy
    """The network in between."""

    @abstractmethod
    def uplink(
        self,
        *,
        delivery: DeliverySettings = QUICK,
        right_key: bool = True,
        ca_file: Path | None = None,
        host: str | None = None,
    ) -> Uplink:
        """The uplink to here: as it should be, or with a wrong key, the wrong CA, or another host."""

    @abstractmethod
    async def arrivals(self, count: int) -> list[Arrival]:
        """Wait until that many messages came, and return all."""

    @abstractmethod
    async def command(self, document: object) -> dict[str, Any]:
        """Send a command down and return the answer's JSON."""


class HubFarSide(FarSide):
    """`LocalHub`. The device SDK knows one port only, so hub and network have an address each."""

    def __init__(self, hub: LocalHub, proxy: FaultProxy, authority: LocalAuthority, directory: Path) -> None:
        self.hub = hub
        self.proxy = proxy
        self.keys = MemoryKeys()
        self.ca_file = directory / "hub-ca.pem"
        self.ca_file.write_text(authority.ca_pem)
        self.keys.put("right", Secret(base64.b64decode(hub.add_device(GATEWAY).primary_key)))
        self.keys.put("wrong", Secret(bytes(32)))

    def uplink(
        self,
        *,
        delivery: DeliverySettings = QUICK,
        right_key: bool = True,
        ca_file: Path | None = None,
        host: str | None = None,
        token_lifetime_s: int = 3600,
    ) -> Uplink:
        settings = IotHubUplink(
            host_name=host or self.hub.host_name,
            device_id=GATEWAY,
            key="right" if right_key else "wrong",
            ca_file=ca_file or self.ca_file,
        )
        # Unchecked: a test may want a token that a configuration could not ask for.
        settings = settings.model_copy(update={"token_lifetime_s": token_lifetime_s})
        return IotHub(settings, delivery, key_store=self.keys, clock=SystemClock())

    async def arrivals(self, count: int) -> list[Arrival]:
        await self.hub.until(lambda: len(self.hub.messages) >= count)
        return [Arrival(each.message_id or "", each.properties["lane"], each.body) for each in self.hub.messages]

    async def command(self, document: object) -> dict[str, Any]:
        response = await self.hub.invoke_method(GATEWAY, "command", document)  # type: ignore[arg-type]  # JSON of any kind
        assert isinstance(response.payload, dict)
        return response.payload


@asynccontextmanager
async def hub_far_side(
    authority: LocalAuthority, directory: Path, *, clock: Clock | None = None
) -> AsyncIterator[HubFarSide]:
    async with _hub_and_proxy(clock, authority) as (hub, proxy):
        yield HubFarSide(hub, proxy, authority, directory)


@asynccontextmanager
async def _hub_and_proxy(clock: Clock | None, authority: LocalAuthority) -> AsyncIterator[tuple[LocalHub, FaultProxy]]:
    rng = random.Random()  # not seeded: several runs may share the machine
    near, far = free_loopback_address(rng), free_loopback_address(rng)
    async with (
        LocalHub(authority=authority, address=far, host_name=near, clock=clock, rng=random.Random(1)) as hub,
        FaultProxy(hub.address, hub.port, near, hub.port) as proxy,
    ):
        yield hub, proxy


class HubDeviceFarSide(HubFarSide):
    """`LocalHub`, and the gateway without the device SDK."""

    def __init__(self, hub: LocalHub, proxy: FaultProxy, authority: LocalAuthority, directory: Path) -> None:
        super().__init__(hub, proxy, authority, directory)
        self.threads = ThreadPoolExecutor(4, thread_name_prefix="hub-devices")

    def uplink(
        self,
        *,
        delivery: DeliverySettings = QUICK,
        right_key: bool = True,
        ca_file: Path | None = None,
        host: str | None = None,
        token_lifetime_s: int = 3600,
        key: str | None = None,
        commands: HubCommands | None = None,
        report_every_s: float = 0.02,
    ) -> HubDevice:
        return HubDevice(
            host or self.hub.host_name,
            GATEWAY,
            key or ("right" if right_key else "wrong"),
            delivery,
            key_store=self.keys,
            clock=SystemClock(),
            rng=random.Random(5),
            tls=client_context(ca_file or self.ca_file, None, None),
            threads=self.threads,
            commands=commands,
            token_lifetime_s=token_lifetime_s,
            report_every_s=report_every_s,
        )


@asynccontextmanager
async def hub_device_far_side(
    authority: LocalAuthority, directory: Path, *, clock: Clock | None = None
) -> AsyncIterator[HubDeviceFarSide]:
    async with _hub_and_proxy(clock, authority) as (hub, proxy):
        far_side = HubDeviceFarSide(hub, proxy, authority, directory)
        try:
            yield far_side
        finally:
            far_side.threads.shutdown(wait=False)


class CertifiedFarSide(HubDeviceFarSide):
    """`LocalHub`, which knows the gateway by its certificate, whose key is in a TPM."""

    def __init__(
        self, hub: LocalHub, proxy: FaultProxy, authority: LocalAuthority, directory: Path, store: TpmKeyStore
    ) -> None:
        super().__init__(hub, proxy, authority, directory)
        self.store = store
        right, wrong = (
            certified(authority, store.create_certificate_key(name), GATEWAY, directory) for name in ("right", "wrong")
        )
        hub.remove_device(GATEWAY)
        hub.add_device(GATEWAY, authentication=Thumbprints(thumbprint(right)))
        self.certificate_files = {"right": right, "wrong": wrong}

    def uplink(  # type: ignore[override]  # no token has a lifetime here
        self,
        *,
        delivery: DeliverySettings = QUICK,
        right_key: bool = True,
        ca_file: Path | None = None,
        host: str | None = None,
        report_every_s: float = 0.02,
    ) -> CertifiedUplink:
        key = "right" if right_key else "wrong"
        certificate_file = self.certificate_files[key]

        def hub_device(held: HeldKey) -> HubDevice:
            return HubDevice(
                host or self.hub.host_name,
                GATEWAY,
                None,
                delivery,
                key_store=self.keys,
                clock=SystemClock(),
                rng=random.Random(5),
                tls=client_context(ca_file or self.ca_file, certificate_file, held),
                threads=self.threads,
                report_every_s=report_every_s,
            )

        return CertifiedUplink(certificate_file, lambda: self.store.certificate_key(key), hub_device)


@asynccontextmanager
async def certified_far_side(
    authority: LocalAuthority, directory: Path, *, clock: Clock | None = None
) -> AsyncIterator[CertifiedFarSide]:
    if reason := tpm_missing() or tpm_tls.why_not():
        pytest.skip(reason)
    with tpm_key_store(directory) as store:
        async with _hub_and_proxy(clock, authority) as (hub, proxy):
            far_side = CertifiedFarSide(hub, proxy, authority, directory, store)
            try:
                yield far_side
            finally:
                far_side.threads.shutdown(wait=False)


def certified(authority: LocalAuthority, key: CertificateKey, common_name: str, directory: Path) -> Path:
    """A file with an authority's certificate for a key in a TPM."""
    return certified_request(authority, key.request(common_name), directory / f"{key.name}.pem")


def certified_request(authority: LocalAuthority, request: x509.CertificateSigningRequest, path: Path) -> Path:
    """What an authority answers to a request: a file with the certificate."""
    certificate = (
        x509.CertificateBuilder()
        .subject_name(request.subject)
        .issuer_name(authority.certificate.subject)
        .public_key(request.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(authority.certificate.not_valid_before_utc)
        .not_valid_after(authority.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority.key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path


def thumbprint(certificate_file: Path) -> str:
    """What a hub knows a certificate by."""
    certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
    return certificate.fingerprint(hashes.SHA256()).hex().upper()


class CertificateBroker(MosquittoBroker):
    """mosquitto that lets in who shows a certificate, under the name in it."""

    def _settings(self) -> list[str]:
        asks = ["require_certificate true", "use_identity_as_username true", f"cafile {self.ca_file}"]
        return [*super()._settings(), *asks]


class BrokerFarSide(FarSide):
    """mosquitto, with somebody who listens to all topics and sends commands, past the faulty network."""

    def __init__(self, broker: MosquittoBroker, proxy: FaultProxy, listener: Listener, directory: Path) -> None:
        self.broker = broker
        self.proxy = proxy
        self.listener = listener
        self._requests = itertools.count(1)
        for name, password in (("right", PASSWORD), ("wrong", "incorrect")):
            (directory / name).touch(mode=0o600)
            (directory / name).write_text(f"{password}\n")
        self.directory = directory

    def uplink(
        self,
        *,
        delivery: DeliverySettings = QUICK,
        right_key: bool = True,
        ca_file: Path | None = None,
        host: str | None = None,
    ) -> MqttBroker:
        settings = MqttUplink(
            host=host or self.proxy.address,
            port=self.proxy.port,
            username=GATEWAY,
            password_file=self.directory / ("right" if right_key else "wrong"),
            ca_file=ca_file or self.broker.ca_file,
        )
        return MqttBroker(settings, delivery, gateway=GATEWAY)

    async def arrivals(self, count: int) -> list[Arrival]:
        def messages() -> list[Arrival]:
            levels = [(topic.split("/"), body) for topic, body in self.listener.heard]
            return [Arrival(parts[3], parts[2], body) for parts, body in levels if parts[2] in ("alert", "normal")]

        await self.listener.until(lambda: len(messages()) >= count)
        return messages()

    async def command(self, document: object) -> dict[str, Any]:
        request = f"r{next(self._requests)}"
        self.listener.publish(f"edge-gateway/{GATEWAY}/commands/{request}", orjson.dumps(document))
        topic = f"edge-gateway/{GATEWAY}/answers/{request}"
        await self.listener.until(lambda: topic in dict(self.listener.heard))
        answer: dict[str, Any] = orjson.loads(dict(self.listener.heard)[topic])
        return answer


class Listener:
    """A client of the broker that hears everything, by the bench's own MQTT."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._packets = PacketReader()
        self._packet_ids = itertools.count(1)
        self._said: list[Packet] = []
        self.heard: list[tuple[str, bytes]] = []
        """Topics and payloads, in order."""
        self._changed = asyncio.Event()

    async def run(self) -> None:
        self._send(Connect("listener", True, 0, "listener", PASSWORD.encode(), None))
        while data := await self._reader.read(65_536):
            for packet in self._packets.feed(data):
                match packet:
                    case Connack(return_code=0):
                        self._send(Subscribe(1, (Subscription("edge-gateway/#", 1),)))
                    case Publish():
                        self.heard.append((packet.topic, packet.payload))
                        self._send(Puback(packet.packet_id))
                self._said.append(packet)
            self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def subscribed(self) -> None:
        await self.until(lambda: any(isinstance(packet, Suback) for packet in self._said))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._send(Publish(topic, payload, 1, next(self._packet_ids), retain=retain))

    def _send(self, packet: Packet) -> None:
        self._writer.write(packet.encode())


@asynccontextmanager
async def _listener(broker: MosquittoBroker, authority: LocalAuthority) -> AsyncIterator[Listener]:
    streams = await asyncio.open_connection(broker.address, broker.port, ssl=authority.client_context())
    listener = Listener(*streams)
    running = asyncio.create_task(listener.run())
    try:
        await listener.subscribed()
        yield listener
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        streams[1].transport.abort()


@asynccontextmanager
async def broker_far_side(authority: LocalAuthority, directory: Path) -> AsyncIterator[BrokerFarSide]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed; on Debian and Ubuntu: apt-get install mosquitto")
    users = {GATEWAY: PASSWORD, "listener": PASSWORD}
    async with (
        MosquittoBroker(authority=authority, users=users) as broker,
        _listener(broker, authority) as listener,
        FaultProxy(broker.address, broker.port) as proxy,
    ):
        yield BrokerFarSide(broker, proxy, listener, directory)


FAR_SIDES: dict[str, Callable[[LocalAuthority, Path], AbstractAsyncContextManager[FarSide]]] = {
    "iot-hub": hub_far_side,
    "hub-device": hub_device_far_side,
    "hub-certificate": certified_far_side,
    "mqtt": broker_far_side,
}
