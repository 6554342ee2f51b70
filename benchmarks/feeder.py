"""The sensors and the receiver: a process of its own, so that neither product pays for its load.

It holds the device side of the pseudo-terminals, and writes frames encoded here, not by the gateway's codec, so that an
error in one of them shows. For what needs it, it also subscribes at the broker. At full load it does not: taking
delivery of everything would compete for the cores that are measured.

A frame's `uptime_ms` is the frame's number, which joins what was written to what arrived.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import ssl
import struct
import threading
import time
import tty
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import fastcrc
import orjson
from paho.mqtt import client as mqtt

_SAMPLE = struct.Struct("<BHHIhHHB")
_SAMPLE_KIND = 0x01
_MODES = ("idle", "measure", "fault")
_PROBE_PERIOD_S = 0.005
"""Between two frames while a product starts: the resolution of the figure."""
_QUIET_S = 10.0
"""Nothing new for so long means that nothing more will come."""


class Arrivals(NamedTuple):
    """What the subscriber got of a load."""

    latencies_s: list[float]
    """Write to arrival, for each frame that arrived, sorted."""
    missing: int
    repeated: int
    wrong: int
    """Readings whose values are not those that were written."""


def values_of(number: int, links: int) -> dict[str, Any]:
    """The values frame `number` carries. The address, from 1, is that of its link."""
    return {
        "uptime_ms": number,
        "temperature": (number * 7 % 5000 - 1000) / 100,
        "humidity": number * 13 % 10001 / 100,
        "battery": (2500 + number % 1100) / 1000,
        "door_open": number % 3 == 0,
        "low_battery": number % 5 == 0,
        "mode": _MODES[number // links % 3],
    }


def encode(number: int, links: int) -> bytes:
    """Frame `number` as it goes over the wire, COBS-stuffed."""
    sequence, link = divmod(number, links)
    frame = _SAMPLE.pack(
        _SAMPLE_KIND,
        link + 1,
        sequence & 0xFFFF,
        number,
        number * 7 % 5000 - 1000,
        number * 13 % 10001,
        2500 + number % 1100,
        (number % 3 == 0) | (number % 5 == 0) << 1 | sequence % 3 << 2,
    )
    frame += fastcrc.crc16.ibm_3740(frame).to_bytes(2, "little")
    # A frame has 18 bytes, so no block reaches COBS's limit of 254.
    return b"".join(bytes((len(run) + 1,)) + run for run in frame.split(b"\0")) + b"\0"


class Feeder:
    """Runs in the feeder process.

    Args:
        links: how many pseudo-terminals; each has one device.
        broker_port: where to subscribe.
        ca_file: whom to trust there (PEM).
    """

    def __init__(self, links: int, broker_port: int, ca_file: Path) -> None:
        self._links = links
        self._broker_port = broker_port
        self._tls = ssl.create_default_context(cafile=str(ca_file))
        self._masters: list[int] = []
        self.ports: list[str] = []
        for _ in range(links):
            # The other side stays open here too, so a product that ends does not hang up the line.
            master, slave = os.openpty()
            tty.setraw(slave)
            os.set_blocking(master, False)
            self._masters.append(master)
            self.ports.append(os.ttyname(slave))
        self._flood: tuple[int, list[bytes]] = (0, [])

    def prepare(self, frames: int) -> None:
        """Encode `frames` frames, so that flooding costs no encoding."""
        if self._flood[0] != frames:
            streams = [
                b"".join(encode(number, self._links) for number in range(link, frames, self._links))
                for link in range(self._links)
            ]
            self._flood = (frames, streams)

    def flood(self) -> float:
        """Write what was prepared, as fast as the ports take it.

        Returns:
            When the first write was, by `time.monotonic()`, which all processes share.
        """
        selector = selectors.DefaultSelector()
        rest = {}
        for master, stream in zip(self._masters, self._flood[1], strict=True):
            selector.register(master, selectors.EVENT_WRITE)
            rest[master] = memoryview(stream)
        first_write_s = time.monotonic()
        while rest:
            for key, _ in selector.select():
                try:
                    written = os.write(key.fd, rest[key.fd][:65536])
                except BlockingIOError:  # the terminal had room, and less than it said
                    continue
                rest[key.fd] = rest[key.fd][written:]
                if not rest[key.fd]:
                    selector.unregister(key.fd)
                    del rest[key.fd]
        selector.close()
        return first_write_s

    def flood_and_verify(self) -> Arrivals:
        """Write what was prepared and take delivery of all of it."""
        frames = self._flood[0]
        with self._subscribed() as arrived:
            self.flood()
            arrived.wait_for(frames)
        return arrived.judge(dict.fromkeys(range(frames), 0.0), self._links)

    def pace(self, frames: int, per_s: float, first_number: int) -> Arrivals:
        """Write one frame after the other, over the links in turn, and take delivery."""
        written_at_s: dict[int, float] = {}
        with self._subscribed() as arrived:
            start_s = time.monotonic()
            for position in range(frames):
                number = first_number + position
                frame = encode(number, self._links)
                time.sleep(max(0.0, start_s + position / per_s - time.monotonic()))
                written_at_s[number] = time.monotonic()
                os.write(self._masters[number % self._links], frame)
            arrived.wait_for(frames)
        return arrived.judge(written_at_s, self._links)

    def probe(self, connection: Connection) -> float:
        """Write a frame to the first link every 5 ms, say that this has begun, and return when one has arrived."""
        with self._subscribed() as arrived:
            number = 0
            connection.send(None)
            while not arrived.at_s:
                with contextlib.suppress(BlockingIOError):  # nobody reads the port yet, and it is full
                    os.write(self._masters[0], encode(number, self._links))
                number += self._links
                arrived.some.wait(_PROBE_PERIOD_S)
            return min(arrived.at_s.values())

    @contextlib.contextmanager
    def _subscribed(self) -> Iterator[_Arrived]:
        arrived = _Arrived()
        client = mqtt.Client("feeder")
        client.tls_set_context(self._tls)
        client.on_message = arrived.take
        client.connect("localhost", self._broker_port)
        confirmed = threading.Event()
        client.on_subscribe = lambda *_: confirmed.set()
        client.subscribe("edge-gateway/+/normal/+", qos=0)
        client.loop_start()
        confirmed.wait()
        try:
            yield arrived
        finally:
            client.disconnect()
            client.loop_stop()


class _Arrived:
    """What the subscriber's thread takes delivery of."""

    def __init__(self) -> None:
        self.some = threading.Event()
        self.at_s: dict[int, float] = {}
        self._values: dict[int, dict[str, Any]] = {}
        self._repeated = 0

    def take(self, _client: mqtt.Client, _userdata: None, message: mqtt.MQTTMessage) -> None:
        now_s = time.monotonic()
        for reading in orjson.loads(message.payload):
            number = reading["values"]["uptime_ms"]
            if number in self.at_s:
                self._repeated += 1
            else:
                self.at_s[number] = now_s
                self._values[number] = {**reading["values"], "device": reading["device"]}
        self.some.set()

    def wait_for(self, frames: int) -> None:
        """Wait until so many have come, or no more come."""
        seen, since_s = 0, time.monotonic()
        while len(self.at_s) < frames and time.monotonic() < since_s + _QUIET_S:
            if len(self.at_s) > seen:
                seen, since_s = len(self.at_s), time.monotonic()
            time.sleep(0.05)

    def judge(self, written_at_s: dict[int, float], links: int) -> Arrivals:
        latencies_s = sorted(self.at_s[number] - at_s for number, at_s in written_at_s.items() if number in self.at_s)
        wrong = sum(
            values != {**values_of(number, links), "device": f"sensor-{number % links + 1}"}
            for number, values in self._values.items()
            if number in written_at_s
        )
        return Arrivals(latencies_s, len(written_at_s) - len(latencies_s), self._repeated, wrong)


def feed(connection: Connection, links: int, broker_port: int, ca_file: Path) -> None:
    """Serve the benchmark: each request is a method's name and its arguments, each answer what it returns."""
    feeder = Feeder(links, broker_port, ca_file)
    connection.send(feeder.ports)
    while (request := connection.recv()) is not None:
        name, *arguments = request
        match name:
            case "prepare":
                feeder.prepare(*arguments)
                connection.send(None)
            case "flood":
                connection.send(feeder.flood())
            case "flood_and_verify":
                connection.send(feeder.flood_and_verify())
            case "pace":
                connection.send(feeder.pace(*arguments))
            case "probe":
                connection.send(feeder.probe(connection))
