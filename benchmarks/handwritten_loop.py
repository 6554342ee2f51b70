"""The limit: what one would write for this one sensor and this one broker, with nothing in it that can be left out.

One thread waits for the ports and the TLS socket. Each turn decodes what has come, makes it durable with one sync, and
publishes it; what the broker confirmed is deleted in the next turn's transaction. No configuration, profiles, rules,
accounts, lanes, commands or reconnecting. What the gateway takes more than this is the price of all that.

Readings are stored a row each, as one would write it first. `--store messages` stores a row for each message instead,
as the gateway does: the tightest limit we know.

It keeps the gateway's promise as far as the benchmark looks: durable before it is sent, deleted only after PUBACK, and
sent again after a crash.
"""

from __future__ import annotations

import argparse
import gc
import os
import selectors
import signal
import sqlite3
import ssl
import struct
import termios
import tty
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import fastcrc
import orjson
from paho.mqtt import client as mqtt

_SAMPLE = struct.Struct("<BHHIhHHBH")
_SAMPLE_KIND = 0x01
_MODES = ("idle", "measure", "fault", "3")
_RECORDS_PER_MESSAGE = 500
_MOST_UNCONFIRMED = 40
"""Messages, beyond which no port is read: a slow broker must not fill the memory."""
_DELETE_WITHIN_S = 0.25
"""How long a confirmed message may wait for a transaction to be deleted in."""

_crc16 = fastcrc.crc16.ibm_3740


def _decode(stuffed: bytearray) -> tuple[int, dict[str, Any]] | None:
    """Address and values of one COBS-stuffed frame without its delimiter; None if anything about it is wrong."""
    at, end = 0, len(stuffed)
    while at < end:
        code = stuffed[at]
        stuffed[at] = 0
        at += code
    if at != end or end != _SAMPLE.size + 1 or stuffed[1] != _SAMPLE_KIND:
        return None
    _, address, _, uptime_ms, temperature, humidity, battery, flags, crc = _SAMPLE.unpack_from(stuffed, 1)
    if _crc16(bytes(stuffed[1:-2])) != crc:
        return None
    return address, {
        "uptime_ms": uptime_ms,
        "temperature": None if temperature == -32768 else temperature / 100,
        "humidity": None if humidity == 65535 else humidity / 100,
        "battery": battery / 1000,
        "door_open": flags & 1 != 0,
        "low_battery": flags & 2 != 0,
        "mode": _MODES[flags >> 2 & 3],
    }


class _Ports:
    """The serial ports: bytes to readings."""

    def __init__(self, paths: list[str]) -> None:
        self._held: dict[int, bytearray] = {}  # by descriptor: the frame begun
        self._numbers: dict[int, int] = {}  # by address: the last `seq` given out
        for path in paths:
            fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            tty.setraw(fd)
            termios.tcflush(fd, termios.TCIFLUSH)
            self._held[fd] = bytearray()

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def read(self, fd: int, time: str, readings: list[dict[str, Any]]) -> None:
        held = self._held[fd]
        held += os.read(fd, 65536)
        frames = held.split(b"\0")
        self._held[fd] = frames.pop()
        numbers = self._numbers
        for frame in frames:
            decoded = _decode(frame)
            if decoded is None:
                continue
            address, values = decoded
            numbers[address] = seq = numbers.get(address, 0) + 1
            device = f"sensor-{address}"
            readings.append(
                {"device": device, "profile": "reference-climate", "seq": seq, "time": time, "values": values}
            )


class _Messages:
    """The store and the broker: readings to confirmed messages."""

    def __init__(self, directory: Path, broker_port: int, ca_file: Path, *, row_per_message: bool) -> None:
        self._row_per_message = row_per_message
        self._db = sqlite3.connect(directory / "handwritten.db", isolation_level=None)
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS record(id INTEGER PRIMARY KEY, records INTEGER, body BLOB)")
        self._sent: dict[int, tuple[int, int, int]] = {}
        """By packet id: the first and the last row, and how many records."""
        self.deletable: list[tuple[int, int]] = []
        self._confirmed_records = 0
        self._progress = os.open(directory / "confirmed", os.O_WRONLY | os.O_CREAT, 0o600)
        self._client = mqtt.Client("handwritten-loop")
        self._client.tls_set_context(ssl.create_default_context(cafile=str(ca_file)))
        self._client.max_inflight_messages_set(2 * _MOST_UNCONFIRMED)
        self._client.on_publish = self._on_confirmed
        self._client.connect("localhost", broker_port, keepalive=15)
        while not self._client.is_connected():
            self._client.loop(0.1)
        tls = self._client.socket()
        assert isinstance(tls, ssl.SSLSocket)
        self.socket = tls
        unsent = list(self._db.execute("SELECT id, records, body FROM record ORDER BY id"))
        self._ids = count(unsent[-1][0] + 1 if unsent else 1)
        self._publish(unsent)

    @property
    def are_many(self) -> bool:
        return len(self._sent) >= _MOST_UNCONFIRMED

    @property
    def are_unwritten(self) -> bool:
        return self._client.want_write()

    def append(self, readings: list[dict[str, Any]]) -> None:
        if self._row_per_message:
            parts = [readings[at : at + _RECORDS_PER_MESSAGE] for at in range(0, len(readings), _RECORDS_PER_MESSAGE)]
            rows = [(next(self._ids), len(part), orjson.dumps(part)) for part in parts]
        else:
            rows = [(next(self._ids), 1, orjson.dumps(reading)) for reading in readings]
        self._db.execute("BEGIN")
        self._db.executemany("INSERT INTO record VALUES (?, ?, ?)", rows)
        self._db.executemany("DELETE FROM record WHERE id BETWEEN ? AND ?", self.deletable)
        self._db.execute("COMMIT")
        self.deletable.clear()
        self._publish(rows)

    def _publish(self, rows: list[tuple[int, int, bytes]]) -> None:
        rows_per_message = 1 if self._row_per_message else _RECORDS_PER_MESSAGE
        for at in range(0, len(rows), rows_per_message):
            part = rows[at : at + rows_per_message]
            first, last, records = part[0][0], part[-1][0], sum(row[1] for row in part)
            body = part[0][2] if self._row_per_message else b"[" + b",".join(row[2] for row in part) + b"]"
            packet = self._client.publish(f"edge-gateway/handwritten/normal/h{first}", body, qos=1)
            self._sent[packet.mid] = (first, last, records)

    def _on_confirmed(self, _client: mqtt.Client, _userdata: None, packet_id: int) -> None:
        first, last, records = self._sent.pop(packet_id)
        self.deletable.append((first, last))
        self._confirmed_records += records

    def exchange(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._client.loop_write()
        if events & selectors.EVENT_READ:
            self._client.loop_read()
            while self.socket.pending():  # packets that came in one TLS record make no socket readable
                self._client.loop_read()
            os.pwrite(self._progress, self._confirmed_records.to_bytes(8, "little"), 0)
        self._client.loop_misc()


def run(paths: list[str], directory: Path, broker_port: int, ca_file: Path, *, row_per_message: bool) -> None:
    """Forward what the ports bring until SIGTERM; the file `confirmed` holds how many records the broker has.

    Args:
        paths: the serial ports.
        directory: for the store and `confirmed`, a little-endian u64.
        broker_port: of an MQTT broker on this machine.
        ca_file: whom to trust (PEM).
        row_per_message: store a row for each message instead of one for each reading.
    """
    stopped_by: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped_by.append(number))
    messages = _Messages(directory, broker_port, ca_file, row_per_message=row_per_message)
    ports = _Ports(paths)
    broker_only, all_of_them = selectors.DefaultSelector(), selectors.DefaultSelector()
    for selector in (broker_only, all_of_them):
        selector.register(messages.socket, selectors.EVENT_READ)
    for fd in ports:
        all_of_them.register(fd, selectors.EVENT_READ)
    gc.freeze()
    while not stopped_by:
        selector = broker_only if messages.are_many else all_of_them
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if messages.are_unwritten else 0)
        if selector.get_key(messages.socket).events != wanted:
            selector.modify(messages.socket, wanted)
        ready = selector.select(_DELETE_WITHIN_S if messages.deletable else 5.0)
        time = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        readings: list[dict[str, Any]] = []
        for key, events in ready:
            if key.fileobj is messages.socket:
                messages.exchange(events)
            else:
                ports.read(key.fd, time, readings)
        if readings or (messages.deletable and not ready):
            messages.append(readings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--broker-port", type=int, required=True)
    parser.add_argument("--ca-file", type=Path, required=True)
    parser.add_argument("--store", choices=["readings", "messages"], default="readings")
    parser.add_argument("ports", nargs="+")
    arguments = parser.parse_args()
    run(
        arguments.ports,
        arguments.directory,
        arguments.broker_port,
        arguments.ca_file,
        row_per_message=arguments.store == "messages",
    )
