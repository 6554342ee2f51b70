"""Contestants of `keys.py`: many sensors' sessions at a local hub, each contestant in a process of its own.

- `leaf`: the gateway's, `LeafSessions` over `HubDevice`, with keys in the software store;
- `bare`: TLS and MQTT by hand on asyncio's streams, no more than CONNECT and one message: the least work there is;
  of its memory most is the 256 KiB that asyncio keeps to read TLS into;
- `sdk`: the gateway's `IotHub`, one device SDK client for each, of which there are fewer.

A contestant is asked for one step after the other: connect all, rest, send from each, renew all tokens.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import multiprocessing
import os
import random
import resource
import ssl
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from process_usage import cpu_s, resident_mib

from edge_gateway.clock import SystemClock
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink
from edge_gateway.keystore import Secret
from edge_gateway.keystore.software import SoftwareKeyStore
from edge_gateway.observability.log import configure_log
from edge_gateway.records import Command, CommandResult, CommandStatus, Message
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Connect, Puback, Publish
from edge_gateway.testbench.cloud.tokens import sas_token
from edge_gateway.uplink import Downlink, Uplink
from edge_gateway.uplink.hub_device import HubDevice
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.leaf_sessions import Leaf, LeafLimits, LeafQueue, LeafSessions
from edge_gateway.uplink.tls import client_context

_AT_ONCE: Final = 8
"""Sessions that connect at the same time."""
_REST_S: Final = 5.0
_WITHIN_S: Final = 300.0
_BODY: Final = b'[{"device":"sensor-1","seq":4711,"values":{"t":21.5}}]'
_DELIVERY: Final = DeliverySettings(keep_alive_s=60)


class Place(NamedTuple):
    """A hub and the devices it knows."""

    address: str
    port: int
    ca_pem: str
    keys: dict[str, str]
    """Primary keys, base64, by device."""


def serve_hub(connection: Connection, devices: int) -> None:
    """A process with a hub; it answers each word with how many connections and messages there were."""
    configure_log("warning", as_json=False)
    _allow_files(devices)

    async def run() -> None:
        authority = LocalAuthority()
        # The device SDK knows no port but 8883.
        async with LocalHub(authority=authority, address="127.44.0.1", keep_messages=1000) as hub:
            keys = {name: hub.add_device(name).primary_key for name in (f"sensor-{n}" for n in range(devices))}
            connection.send(Place(hub.address, hub.port, authority.ca_pem, keys))
            while await asyncio.to_thread(connection.recv):
                connection.send((hub.statistics.connections, hub.statistics.messages, hub.door.statistics.denied))

    asyncio.run(run())


class Contestant(ABC):
    """Sessions of all the devices of a place."""

    def __init__(self, place: Place, directory: Path, token_lifetime_s: int) -> None:
        self.place = place
        self.token_lifetime_s = token_lifetime_s
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_text(place.ca_pem)
        self.key_store = SoftwareKeyStore(directory / "keys")
        for name, key in place.keys.items():
            self.key_store.put(name, Secret(base64.b64decode(key)))

    @abstractmethod
    async def connect(self, resources: AsyncExitStack) -> None:
        """Connect all."""

    @abstractmethod
    async def send(self) -> None:
        """One message from each, confirmed."""

    async def renew(self) -> float | None:
        """Wait until all have a new token; seconds since the first of them; None if this one cannot."""
        return None


class BareSessions(Contestant):
    """By hand."""

    async def connect(self, resources: AsyncExitStack) -> None:
        """See `Contestant.connect`."""
        tls = ssl.create_default_context(cadata=self.place.ca_pem)
        slots = asyncio.Semaphore(_AT_ONCE)
        self._streams: list[tuple[str, asyncio.StreamReader, asyncio.StreamWriter]] = []

        async def connect(name: str, key: str) -> None:
            async with slots:
                reader, writer = await asyncio.open_connection(self.place.address, self.place.port, ssl=tls)
                token = sas_token(f"{self.place.address}/devices/{name}", key, int(time.time()) + 3600)
                user = f"{self.place.address}/{name}/?api-version=2021-04-12"
                writer.write(Connect(name, True, 60, user, token.encode(), None).encode())
                await _expect(reader, Connack(session_present=False, return_code=0).encode())
                self._streams.append((name, reader, writer))
                resources.callback(writer.transport.abort)

        await asyncio.gather(*(connect(*each) for each in self.place.keys.items()))

    async def send(self) -> None:
        """See `Contestant.send`."""

        async def send(name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(Publish(f"devices/{name}/messages/events/%24.mid=1", _BODY, 1, 1).encode())
            await _expect(reader, Puback(1).encode())

        await asyncio.gather(*(send(*each) for each in self._streams))


class SdkSessions(Contestant):
    """The gateway's other uplink to IoT Hub."""

    async def connect(self, resources: AsyncExitStack) -> None:
        """See `Contestant.connect`."""
        self._sessions = []
        for name in self.place.keys:
            settings = IotHubUplink(host_name=self.place.address, device_id=name, key=name, ca_file=self.ca_file)
            uplink: Uplink = IotHub(settings, _DELIVERY, key_store=self.key_store, clock=SystemClock())
            self._sessions.append(await resources.enter_async_context(uplink.connect(_downlink())))

    async def send(self) -> None:
        """See `Contestant.send`."""
        await asyncio.gather(*(session.send(_message(1)) for session in self._sessions))


class Queue:
    """What `Delivery` and `LeafSessions` ask of a leaf's queue, in memory, so that sessions alone are measured."""

    def __init__(self) -> None:
        self._queued: deque[Message] = deque()
        self._unsettled = 0
        self._put = asyncio.Event()

    def put(self, message: Message) -> None:
        """Queue a message."""
        self._queued.append(message)
        self._unsettled += 1
        self._put.set()

    async def take(self) -> Message:
        """See `Buffer.take`."""
        while not self._queued:
            self._put.clear()
            await self._put.wait()
        return self._queued.popleft()

    def settle(self, _: Message) -> None:
        """See `Buffer.settle`."""
        self._unsettled -= 1

    def rewind(self) -> None:
        """Nothing is lost here, so nothing is sent again."""

    @property
    def has_queued(self) -> bool:
        """See `LeafQueue.has_queued`."""
        return self._unsettled > 0

    async def wait_queued(self) -> None:
        """See `LeafQueue.wait_queued`."""
        while not self._unsettled:
            self._put.clear()
            await self._put.wait()


class LeafContestant(Contestant):
    """The gateway's."""

    async def connect(self, resources: AsyncExitStack) -> None:
        """See `Contestant.connect`."""
        tls = client_context(self.ca_file, None, None)
        threads = ThreadPoolExecutor(_AT_ONCE)
        resources.callback(threads.shutdown, wait=False)
        rng = random.Random(1)
        self._queues = [Queue() for _ in self.place.keys]
        leaves = [
            Leaf(
                name,
                HubDevice(
                    self.place.address,
                    name,
                    name,
                    _DELIVERY,
                    key_store=self.key_store,
                    clock=SystemClock(),
                    rng=rng,
                    tls=tls,
                    threads=threads,
                    token_lifetime_s=self.token_lifetime_s,
                    port=self.place.port,
                ),
                cast("LeafQueue", queue),  # of a buffer, only this is asked for
                _downlink(),
                hold=True,
            )
            for name, queue in zip(self.place.keys, self._queues, strict=True)
        ]
        limits = LeafLimits(most_sessions=len(leaves), most_connecting=_AT_ONCE, connects_per_s=1e6)
        self._sessions = LeafSessions(leaves, _DELIVERY, limits, rng)
        running = asyncio.create_task(self._sessions.run())
        resources.push_async_callback(_end, running)
        await _until(lambda: self._sessions.sums().states.get("connected") == len(leaves))

    async def send(self) -> None:
        """See `Contestant.send`."""
        sent = self._sessions.sums().messages
        for queue in self._queues:
            queue.put(_message(1))
        await _until(lambda: self._sessions.sums().messages == sent + len(self._queues))

    async def renew(self) -> float | None:
        """See `Contestant.renew`."""
        first = self._sessions.sums().sessions
        await _until(lambda: self._sessions.sums().sessions > first, every_s=1)
        began_s = time.perf_counter()
        statuses = self._sessions.statuses().values()
        await _until(
            lambda: all(status.delivery.sessions >= 2 and status.delivery.connected for status in statuses), every_s=1
        )
        return time.perf_counter() - began_s


CONTESTANTS: Final[dict[str, type[Contestant]]] = {
    "leaf": LeafContestant,
    "bare": BareSessions,
    "sdk": SdkSessions,
}


def compete(connection: Connection, name: str, place: Place, token_lifetime_s: int) -> None:
    """A process that takes all steps and sends its figures."""
    configure_log("error", as_json=False)
    _allow_files(len(place.keys))
    figures: dict[str, float] = {}
    count = len(place.keys)
    with tempfile.TemporaryDirectory(prefix="benchmark-keys-") as directory:
        contestant = CONTESTANTS[name](place, Path(directory), token_lifetime_s)

        async def run() -> None:
            async with asyncio.timeout(_WITHIN_S), AsyncExitStack() as resources:
                gc.collect()
                before_mib = resident_mib(os.getpid())
                figures["connect_s"], cpu = await _costs(contestant.connect(resources))
                figures["connect_cpu_ms"] = cpu * 1000 / count
                gc.collect()
                figures["session_kib"] = (resident_mib(os.getpid()) - before_mib) * 1024 / count
                _, cpu = await _costs(asyncio.sleep(_REST_S))
                figures["rest_percent"] = cpu / _REST_S * 100
                figures["send_s"], cpu = await _costs(contestant.send())
                figures["send_cpu_ms"] = cpu * 1000 / count
                began_cpu_s = cpu_s(os.getpid())
                if (renewed_s := await contestant.renew()) is not None:
                    figures["renew_s"] = renewed_s
                    figures["renew_cpu_ms"] = (cpu_s(os.getpid()) - began_cpu_s) * 1000 / count
                    figures["loaded_kib"] = (resident_mib(os.getpid()) - before_mib) * 1024 / count

        asyncio.run(run())
    connection.send(figures)


@contextmanager
def process(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A process that is spoken with, and ended in the end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=target, args=(there, *arguments), daemon=True)
    child.start()
    there.close()
    try:
        yield here
    finally:
        child.terminate()
        child.join()


async def _costs(step: Awaitable[object]) -> tuple[float, float]:
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    await step
    return time.perf_counter() - began_s, time.process_time() - began_cpu_s


async def _until(condition: Callable[[], bool], *, every_s: float = 0.05) -> None:
    while not condition():  # noqa: ASYNC110  # looked at from outside, as status is; the sums cost 1 ms
        await asyncio.sleep(every_s)


async def _expect(reader: asyncio.StreamReader, packet: bytes) -> None:
    if await reader.readexactly(len(packet)) != packet:
        raise SystemExit("the hub has not confirmed")


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _message(number: int) -> Message:
    return Message(f"5eed-n{number}", "normal", number, 1, _BODY)


def _downlink() -> Downlink:
    async def run_command(_: Command) -> CommandResult:
        return CommandResult(CommandStatus.SENT)

    async def ignore(*_: object) -> None:
        """Nobody asks in a benchmark."""

    return Downlink(run_command, ignore, ignore, dict)


def _allow_files(sessions: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * sessions + 200)), hard))
