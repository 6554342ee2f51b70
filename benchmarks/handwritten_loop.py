"""The limit: what one would write for this one sensor and this one broker, with nothing that can be left out.

One thread and one selector over the ports and the TLS socket. Each turn reads what has come, decodes it, makes it durable
with a single sync, and publishes it; a confirmed message is deleted in the next turn's transaction. No configuration, no
profiles, rules, accounts, lanes, identities or commands, no reconnecting, and it serves the reference sensor only. What
the gateway takes more than this is the price of all that.

It keeps the gateway's promise as far as the benchmark can see: at least once, durable before it is sent, deleted after
PUBACK, sent again after a crash.
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
import time
import tty
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import fastcrc
import orjson
from paho.mqtt import client as mqtt

SAMPLE = struct.Struct("<xHHIhHHBH")
SAMPLE_KIND = 0x01
MODES = {0: "idle", 1: "measure", 2: "fault", 3: "3"}
RECORDS_PER_MESSAGE = 500
MOST_UNCONFIRMED = 40
"""Messages beyond which the ports are not read, or a slow broker would fill the memory."""
DELETE_WITHIN_S = 0.25
"""How long a confirmed message may wait for another transaction to be deleted in."""


def decode(stuffed: bytearray, device: str, time_text: str) -> dict[str, Any] | None:
    """One COBS-stuffed frame, without its delimiter, as a reading; None if anything about it is wrong."""
    at, end = 0, len(stuffed)
    while at < end:
        code = stuffed[at]
        stuffed[at] = 0
        at += code
    if end != SAMPLE.size + 1 or at != end or stuffed[1] != SAMPLE_KIND:
        return None
    address, _, uptime_ms, temperature, humidity, battery, flags, crc = SAMPLE.unpack_from(stuffed, 1)
    if fastcrc.crc16.ibm_3740(bytes(stuffed[1:-2])) != crc:
        return None
    return {
        "device": f"{device}-{address}",
        "profile": "reference-climate",
        "seq": 0,
        "time": time_text,
        "values": {
            "uptime_ms": uptime_ms,
            "temperature": None if temperature == -32768 else temperature / 100,
            "humidity": None if humidity == 65535 else humidity / 100,
            "battery": battery / 1000,
            "door_open": flags & 1 != 0,
            "low_battery": flags & 2 != 0,
            "mode": MODES[flags >> 2 & 3],
        },
    }


def run(ports: list[str], directory: Path, broker_port: int, ca_file: Path) -> None:
    """Forward what the ports bring until SIGTERM; the number of confirmed records stands in the file `confirmed`."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    db = sqlite3.connect(directory / "handwritten.db", isolation_level=None)
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE IF NOT EXISTS message(id INTEGER PRIMARY KEY, records INTEGER, body BLOB)")
    unsent = list(db.execute("SELECT id, records, body FROM message ORDER BY id"))
    ids = count(unsent[-1][0] + 1 if unsent else 1)
    progress = os.open(directory / "confirmed", os.O_WRONLY | os.O_CREAT, 0o600)

    unconfirmed: dict[int, tuple[int, int]] = {}  # by MQTT packet id: the message's id and how many records it has
    deletable: list[tuple[int]] = []
    confirmed_records = 0

    def on_publish(_client: mqtt.Client, _userdata: None, packet_id: int) -> None:
        nonlocal confirmed_records
        message_id, records = unconfirmed.pop(packet_id)
        deletable.append((message_id,))
        confirmed_records += records

    client = mqtt.Client("handwritten-loop")
    client.tls_set_context(ssl.create_default_context(cafile=str(ca_file)))
    client.max_inflight_messages_set(2 * MOST_UNCONFIRMED)
    client.on_publish = on_publish
    client.connect("localhost", broker_port, keepalive=15)
    while not client.is_connected():
        client.loop(0.1)
    broker = client.socket()
    broker.setblocking(False)

    selector = selectors.DefaultSelector()
    selector.register(broker, selectors.EVENT_READ)
    held: dict[int, bytearray] = {}  # by port: the frame begun
    for port in ports:
        fd = os.open(port, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(fd)
        termios.tcflush(fd, termios.TCIFLUSH)
        selector.register(fd, selectors.EVENT_READ, Path(port).name)
        held[fd] = bytearray()
    numbers: dict[str, int] = {}  # by device: the last `seq` given out
    gc.freeze()

    while not stopping:
        readings: list[dict[str, Any]] = []
        waiting = len(unconfirmed) >= MOST_UNCONFIRMED
        time_text = ""
        idle = True
        events = [(key, 0) for key in [selector.get_key(broker)]] if waiting else []
        if waiting:
            client.loop(0.1)
        for key, _ in events or selector.select(DELETE_WITHIN_S if deletable else 5.0):
            idle = False
            if key.fileobj is broker:
                client.loop_read()
                while broker.pending():  # packets that came in one TLS record make no socket readable
                    client.loop_read()
                os.pwrite(progress, confirmed_records.to_bytes(8, "little"), 0)
                continue
            time_text = time_text or f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
            buffer = held[key.fd]
            buffer += os.read(key.fd, 65536)
            frames = buffer.split(b"\0")
            held[key.fd] = frames.pop()
            for frame in frames:
                reading = decode(frame, key.data, time_text)
                if reading is not None:
                    device = reading["device"]
                    reading["seq"] = numbers[device] = numbers.get(device, 0) + 1
                    readings.append(reading)
