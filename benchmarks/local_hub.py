"""What the local hub costs and takes, so that it never is the bottleneck of a test. Goals: docs/performance.md.

Two things are measured, both from outside:

- **Footprint**, of `edge-gateway hub` as a user starts it: seconds to the line that says where it is; resident memory
  with everything on, with MQTT only, after a first call over HTTPS, and with many devices connected.
- **Throughput**, of a hub on one core with clients on another: small messages of QoS 1 over TLS, messages and CPU. A
  mosquitto without subscribers takes the same load in turns with the hub, as a yardstick: it does much less with a
  message than a hub does, and does it in C.

Clients send what was encoded before and compare every confirmation byte by byte. How busy their core is says whether
they were the limit. A lone client that waits for each confirmation takes turns with the server, and both are idle in
between; so the goal is for what a core-second takes: a million over the microseconds of CPU for a message.

    python benchmarks/local_hub.py --json result.json

Needs mosquitto and two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, cast

from process_usage import cpu_s, resident_mib

from edge_gateway.observability.log import configure_log
from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.broker import MosquittoBroker, find_mosquitto
from edge_gateway.testbench.certificates import CA_FILE
from edge_gateway.testbench.cloud.local_cloud import CONNECTIONS_FILE
from edge_gateway.testbench.cloud.mqtt.packets import Connack, Connect, Puback, Publish
from edge_gateway.testbench.cloud.property_bag import format_property_bag
from edge_gateway.testbench.cloud.service.client import HubClient

_PAYLOAD = b'{"device":"sensor-1","seq":4711,"values":{"t":21.5}}'
_SYSTEM_PROPERTIES = {
    "message-id": "0123456789abcdef",
    "content-type": "application/json",
    "content-encoding": "utf-8",
}
_PACKET_IDS = range(1, 257)
"""Used in turn; more than wait for their confirmation at any time."""
_PUBACK_BYTES = 4
_PUBACKS = b"".join(Puback(packet_id).encode() for packet_id in _PACKET_IDS)
_AT_ONCE = 50
"""Clients that connect at the same time."""
_WITHIN_S = 60.0
_POLL_S = 0.01
_IDLE_S = 1.0
"""Left alone for so long, the hub is idle."""


# --- clients ---------------------------------------------------------------------------------------------------------


class Server(NamedTuple):
    """Where a hub or broker listens, whom its clients trust, and with what each of them comes."""

    address: str
    port: int
    ca_pem: str
    clients: Sequence[Connect]


class Load(NamedTuple):
    """How messages are sent."""

    clients: int
    window: int
    """Messages of a client that wait for their confirmation at a time."""

    @property
    def title(self) -> str:
        """For the table."""
        return f"{self.clients} client{'s' * (self.clients > 1)}, window {self.window}"


LOADS = (Load(1, 1), Load(1, 10), Load(1, 100), Load(50, 1))


class Published(NamedTuple):
    """What the clients together have done."""

    messages: int
    """Sent and confirmed."""
    duration_s: float
    """From the first message to the last confirmation."""
    client_cpu_s: float


class Publisher(asyncio.Protocol):
    """A device that is connected, and sends when it is told to."""

    def __init__(self, connect: Connect) -> None:
        loop = asyncio.get_running_loop()
        self._connect = connect
        topic = f"devices/{connect.client_id}/messages/events/{format_property_bag({}, _SYSTEM_PROPERTIES)}"
        self._packets = [Publish(topic, _PAYLOAD, 1, packet_id).encode() for packet_id in _PACKET_IDS]
        self._sent, self._confirmed_bytes, self._window = 0, 0, 0
        self.connected: asyncio.Future[None] = loop.create_future()
        self._drained: asyncio.Future[int] = loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Introduce itself."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._connect.encode())

    def data_received(self, data: bytes) -> None:
        """Check confirmations, and send as many messages as are confirmed."""
        if not self.connected.done():
            if data != Connack(0).encode():
                raise SystemExit(f"{self._connect.client_id} is not let in: {data.hex()}")
            self.connected.set_result(None)
            return
        at = self._confirmed_bytes % len(_PUBACKS)
        if not (_PUBACKS + _PUBACKS).startswith(data, at):
            raise SystemExit(f"{self._connect.client_id} was sent what confirms no message: {data[:80].hex()}")
        self._confirmed_bytes += len(data)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail: clients stay connected until their process ends."""
        raise SystemExit(f"{self._connect.client_id} was cut off: {exc}")

    def start(self, window: int) -> None:
        """Send, and keep so many messages under way."""
        self._window = window
        self._send()

    def stop(self) -> asyncio.Future[int]:
        """Send no more; the result is the number of messages, once all are confirmed."""
        self._window = 0
        self._send()
        return self._drained

    def _send(self) -> None:
        confirmed = self._confirmed_bytes // _PUBACK_BYTES
        number = confirmed + self._window - self._sent
        if number > 0:
            packets = self._packets
            first = self._sent
            self._transport.write(b"".join([packets[each % len(packets)] for each in range(first, first + number)]))
            self._sent += number
        elif not self._window and confirmed == self._sent and not self._drained.done():
            self._drained.set_result(confirmed)


async def _connected(server: Server, number: int) -> list[Publisher]:
    """So many clients that have been let in."""
    loop = asyncio.get_running_loop()
    tls = ssl.create_default_context(cadata=server.ca_pem)
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(connect: Connect) -> Publisher:
        async with places:
            _, client = await loop.create_connection(
                lambda: Publisher(connect), server.address, server.port, ssl=tls, ssl_handshake_timeout=_WITHIN_S
            )
            await client.connected
            return client

    return await asyncio.gather(*(one(connect) for connect in server.clients[:number]))


def publish(connection: Connection, core: int, server: Server, load: Load, seconds: float) -> None:
    """The clients' process: say when all are connected, wait for a word, send, and say what was done."""
    os.sched_setaffinity(0, {core})

    async def run() -> None:
        async with asyncio.timeout(_WITHIN_S + seconds):
            clients = await _connected(server, load.clients)
            connection.send("connected")
            await asyncio.to_thread(connection.recv)
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            for client in clients:
                client.start(load.window)
            await asyncio.sleep(seconds)
            messages = sum(await asyncio.gather(*(client.stop() for client in clients)))
            duration_s, client_cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
            connection.send(Published(messages, duration_s, client_cpu_s))

    asyncio.run(run())


def stay(connection: Connection, server: Server) -> None:
    """Another process of clients: connect all, say how long that took, and stay until there is a word."""

    async def run() -> None:
        async with asyncio.timeout(_WITHIN_S):
            began_s = time.perf_counter()
            clients = await _connected(server, len(server.clients))
            connection.send(time.perf_counter() - began_s)
            await asyncio.to_thread(connection.recv)
            connection.send(f"{len(clients)} are still connected")

    asyncio.run(run())


# --- throughput ------------------------------------------------------------------------------------------------------


def serve_hub(connection: Connection, core: int) -> None:
    """A process with a hub on one core."""
    os.sched_setaffinity(0, {core})
    configure_log("warning", as_json=False)

    async def run() -> None:
        authority = LocalAuthority()
        async with LocalHub(authority=authority, port=0, keep_messages=1000) as hub:
            names = [hub.add_device(f"sensor-{number}").device_id for number in range(_most_clients())]
            clients = [_login(hub.host_name, name, hub.sas_token(name)) for name in names]
            connection.send(Server(hub.address, hub.port, authority.ca_pem, clients))
            await asyncio.to_thread(connection.recv)

    asyncio.run(run())


def serve_mosquitto(connection: Connection, core: int) -> None:
    """A process with a mosquitto as its child, on one core both."""
    os.sched_setaffinity(0, {core})

    async def run() -> None:
        authority = LocalAuthority()
        async with MosquittoBroker(authority=authority) as broker:
            clients = [Connect(f"sensor-{number}", keep_alive_s=60) for number in range(_most_clients())]
            connection.send(Server(broker.address, broker.port, authority.ca_pem, clients))
            await asyncio.to_thread(connection.recv)

    asyncio.run(run())


PRODUCTS: dict[str, Callable[[Connection, int], None]] = {"hub": serve_hub, "mosquitto": serve_mosquitto}


@dataclass(frozen=True)
class Throughput:
    """What one load on one product gave."""

    messages_per_s: float
    cpu_us_per_message: float
    """Of the server."""
    client_core_percent: float
    """How busy the clients' core was: near 100, they were the limit."""


def measure_throughput(product: str, seconds: float) -> list[Throughput]:
    """One turn of a product: all loads, one after the other."""
    server_core, client_core = sorted(os.sched_getaffinity(0))[:2]
    figures = []
    with _process(PRODUCTS[product], server_core) as (server_pid, server_end):
        server: Server = server_end.recv()
        for load in LOADS:
            with _process(publish, client_core, server, load, seconds) as (_, client_end):
                client_end.recv()
                before_s = cpu_s(server_pid)
                client_end.send("go")
                done: Published = client_end.recv()
                server_cpu_s = cpu_s(server_pid) - before_s
            figures.append(
                Throughput(
                    messages_per_s=done.messages / done.duration_s,
                    cpu_us_per_message=server_cpu_s / done.messages * 1e6,
                    client_core_percent=done.client_cpu_s / done.duration_s * 100,
                )
            )
        server_end.send("stop")
    return figures


def _most_clients() -> int:
    return max(load.clients for load in LOADS)


def _login(host_name: str, device_id: str, token: str) -> Connect:
    user_name = f"{host_name}/{device_id}/?api-version=2021-04-12"
    return Connect(device_id, keep_alive_s=240, username=user_name, password=token.encode())


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[tuple[int, Connection]]:
    """A process of our own, by its id, and our end of a pipe to it; it has ended when this is left."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    try:
        yield cast("int", process.pid), ours
        process.join(_WITHIN_S)
    except EOFError:
        raise SystemExit(f"{target.__name__} has ended before its time") from None
    finally:
        process.terminate()
        process.join()


# --- footprint -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Footprint:
    """What the command takes of the machine."""

    start_s: float
    idle_mib: float
    """With everything on, before any client came."""
    called_mib: float
    """After one call over HTTPS."""
    mqtt_only_mib: float
    connected_mib: float
    """With all devices connected."""
    connect_s: float
    """That all devices took for it, TLS handshakes and tokens included."""


def measure_footprint(directory: Path, devices: int) -> Footprint:
    """One turn of the command, in fresh directories."""
    with _command(directory, ["--device", "sensor-0"]) as (hub, state, start_s):
        time.sleep(_IDLE_S)
        idle_mib = resident_mib(hub.pid)
        HubClient(state).call("GET", "/twins/sensor-0")
        called_mib = resident_mib(hub.pid)
    with _command(directory, ["--https-port", "-1", "--amqp-port", "-1"]) as (hub, _, _):
        time.sleep(_IDLE_S)
        mqtt_only_mib = resident_mib(hub.pid)
    names = [f"sensor-{number}" for number in range(devices)]
    with _command(directory, [argument for name in names for argument in ("--device", name)]) as (hub, state, _):
        known = _connections(state, devices)
        bench = HubClient(state)
        clients = [_login(known["hub"], name, bench.token(name)) for name in names]
        server = Server(known["address"], known["ports"]["mqtt"], (state / CA_FILE).read_text(), clients)
        with _process(stay, server) as (_, connected):
            connect_s: float = connected.recv()
            time.sleep(_IDLE_S)
            connected_mib = resident_mib(hub.pid)
            connected.send("go")
            connected.recv()  # or EOFError, had one been cut off
    return Footprint(start_s, idle_mib, called_mib, mqtt_only_mib, connected_mib, connect_s)


def _connections(state: Path, devices: int) -> dict[str, Any]:
    """The hub's file with all devices in it, which it writes a moment after it has said that it runs."""
    end_s = time.monotonic() + _WITHIN_S
    while time.monotonic() < end_s:
        known: dict[str, Any] = json.loads((state / CONNECTIONS_FILE).read_bytes())
        if len(known["devices"]) == devices:
            return known
        time.sleep(_POLL_S)
    raise SystemExit(f"the hub's {CONNECTIONS_FILE} has not got {devices} devices in it")


@contextmanager
def _command(directory: Path, options: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    """A running `edge-gateway hub` with everything on, the directory it keeps its state in, and the seconds it took."""
    with tempfile.TemporaryDirectory(prefix="hub-", dir=directory) as path:
        ports = ["--mqtt-port", "0", "--https-port", "0", "--amqp-port", "0"]
        command = [sys.executable, "-m", "edge_gateway", "hub", "--json", "--directory", path, *ports, *options]
        # What pip installs is compiled; a checkout whose modules are compiled at each start would be another product.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(directory / "compiled")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began_s = time.monotonic()
        hub = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
        try:
            assert hub.stderr is not None  # asked for in the line above
            if b"hub.started" not in (line := hub.stderr.readline()):
                raise SystemExit(f"the hub does not start: {line.decode()}")
            yield hub, Path(path), time.monotonic() - began_s
        finally:
            hub.terminate()
            hub.communicate(timeout=_WITHIN_S)


# --- the result ------------------------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """A row of the footprint, and the most it shall be; None where nothing was promised."""

    figure: str
    title: str
    digits: int
    most: float | None


GOALS = (
    Goal("start_s", "start, everything on, s", 2, 2.0),
    Goal("idle_mib", "resident memory idle, everything on and unused, MiB", 1, 60.0),
    Goal("called_mib", "the same after a first call over HTTPS, MiB", 1, None),
    Goal("mqtt_only_mib", "resident memory idle, MQTT only, MiB", 1, None),
    Goal("connected_mib", "resident memory, {devices:,} devices connected, MiB", 1, None),
    Goal("connect_s", "until these are connected, s", 1, None),
)
LEAST_MESSAGES_PER_CORE_S = 5000


def report(
    footprints: Sequence[Footprint], throughputs: dict[str, list[list[Throughput]]], devices: int
) -> dict[str, Any]:
    """Print the tables, and return the same as a JSON document with every round in it."""
    print(f"\n{f'median of {len(footprints)} rounds':<54}{'hub':>9}  goal")
    rows: list[dict[str, Any]] = []
    for goal in GOALS:
        value = statistics.median(getattr(each, goal.figure) for each in footprints)
        verdict = "" if goal.most is None else f"<= {goal.most:<8g}{_verdict(value <= goal.most)}"
        print(f"{goal.title.format(devices=devices):<54}{value:>9.{goal.digits}f}  {verdict}")
        rows.append({"figure": goal.figure, "hub": value, "most": goal.most})

    heads = "".join(f"{product + '/s':>13}{'us CPU':>8}{'clients':>9}" for product in throughputs)
    print(f"\n{'QoS 1 over TLS':<22}{heads}{'ratio':>7}{'hub per core-s':>16}  goal")
    for at, load in enumerate(LOADS):
        medians = {product: _median([turn[at] for turn in turns]) for product, turns in throughputs.items()}
        hub, mosquitto = medians["hub"], medians["mosquitto"]
        columns = "".join(
            f"{each.messages_per_s:>13,.0f}{each.cpu_us_per_message:>8.1f}{each.client_core_percent:>7.0f} %"
            for each in medians.values()
        )
        per_core_s = 1e6 / hub.cpu_us_per_message
        print(
            f"{load.title:<22}{columns}{hub.messages_per_s / mosquitto.messages_per_s:>7.2f}{per_core_s:>16,.0f}  "
            f">= {LEAST_MESSAGES_PER_CORE_S:<8,}{_verdict(per_core_s >= LEAST_MESSAGES_PER_CORE_S)}"
        )
        rows.append({"load": load._asdict(), **{product: asdict(each) for product, each in medians.items()}})
    return {
        "medians": rows,
        "footprints": [asdict(each) for each in footprints],
        "throughputs": {
            product: [[asdict(each) for each in turn] for turn in turns] for product, turns in throughputs.items()
        },
        "devices": devices,
        "machine": {"cores": os.cpu_count(), "kernel": os.uname().release, "python": sys.version.split()[0]},
    }


def _median(turns: Sequence[Throughput]) -> Throughput:
    """Figure by figure."""
    return Throughput(*(statistics.median(figures) for figures in zip(*map(astuple, turns), strict=True)))


def _verdict(met: bool) -> str:
    return "pass" if met else "FAIL"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="turns of hub and mosquitto")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each load")
    parser.add_argument("--devices", type=int, default=1000, help="connected for the last row of the footprint")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the result, with every round, to this file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.devices = 1, 0.5, 100
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("needs two cores: one for the server, one for the clients")
    if find_mosquitto() is None:
        raise SystemExit("needs mosquitto; on Debian and Ubuntu: apt-get install mosquitto")

    footprints: list[Footprint] = []
    throughputs: dict[str, list[list[Throughput]]] = {product: [] for product in PRODUCTS}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as path:
        directory = Path(path)
        measure_footprint(directory, devices=1)  # compiles all modules
        for number in range(arguments.rounds):
            footprints.append(measure_footprint(directory, arguments.devices))
            print(f"round {number + 1}, footprint: {footprints[-1].idle_mib:.1f} MiB idle", flush=True)
            # The order changes too, so that neither always finds the machine as the other left it.
            for product in sorted(PRODUCTS, reverse=number % 2 == 1):
                turn = measure_throughput(product, arguments.seconds)
                throughputs[product].append(turn)
                per_s = ", ".join(f"{each.messages_per_s:,.0f}" for each in turn)
                print(f"round {number + 1}, {product}: {per_s} messages/s", flush=True)
    result = report(footprints, throughputs, arguments.devices)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
