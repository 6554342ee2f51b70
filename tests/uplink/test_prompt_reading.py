"""How packets come in does not matter: TLS is read in pieces of its own, whatever the peer wrote at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_gateway.config.uplink import MqttUplink
from edge_gateway.records import Message
from edge_gateway.testbench import LocalAuthority
from edge_gateway.uplink.mqtt import MqttBroker

from .far_sides import GATEWAY, QUICK, TIME_LIMIT_S, RecordingDownlink, soon

COMMANDS = 3
LONG = b'{"device": "boiler", "command": "ping"}'.ljust(6_000)
"""More than is taken off TLS at once."""


def packet(kind: int, content: bytes) -> bytes:
    """An MQTT packet: OASIS MQTT 3.1.1, section 2.2."""
    length = []
    rest = len(content)
    while True:
        rest, digit = divmod(rest, 128)
        length.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes([kind, *length]) + content


class Peer:
    """A broker that confirms all and gives commands to who subscribes, in TLS records of so many bytes."""

    def __init__(self, piece_bytes: int) -> None:
        self._piece_bytes = piece_bytes

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while first := await reader.read(1):
            length = shift = 0
            while True:
                (digit,) = await reader.readexactly(1)
                length |= (digit & 0x7F) << shift
                shift += 7
                if digit < 0x80:
                    break
            for piece in self._pieces(b"".join(self._answers(first[0], await reader.readexactly(length)))):
                writer.write(piece)
                await asyncio.sleep(0)  # each in a record of its own
        writer.close()

    def _answers(self, kind: int, content: bytes) -> Iterator[bytes]:
        match kind >> 4:
            case 1:  # CONNECT
                yield packet(0x20, b"\0\0")
            case 8:  # SUBSCRIBE: packet id, length of the filter, filter, QoS
                yield packet(0x90, content[:2] + b"\x01")
                topic = content[4 : 4 + content[3]].rstrip(b"#+") + b"r1"
                yield COMMANDS * packet(0x30, bytes([0, len(topic)]) + topic + LONG)
            case 3 if kind & 6:  # PUBLISH at QoS 1: topic, packet id
                topic_bytes = int.from_bytes(content[:2], "big")
                yield packet(0x40, content[2 + topic_bytes : 4 + topic_bytes])

    def _pieces(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), self._piece_bytes):
            yield data[start : start + self._piece_bytes]


@pytest.mark.parametrize("piece_bytes", [97, 4095, 4096, 4097, 1_000_000])
async def test_packets_come_whole_however_they_were_cut(
    piece_bytes: int, gateway: RecordingDownlink, authority: LocalAuthority, tmp_path: Path
) -> None:
    """Long commands are obeyed and messages confirmed, be a packet in many TLS records or many packets in one."""
    (tmp_path / "ca.pem").write_text(authority.ca_pem)
    tls = authority.server_context(["127.0.0.1"])
    async with await asyncio.start_server(Peer(piece_bytes).serve, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        settings = MqttUplink(host="127.0.0.1", port=port, ca_file=tmp_path / "ca.pem")
        async with (
            asyncio.timeout(TIME_LIMIT_S),
            MqttBroker(settings, QUICK, gateway=GATEWAY).connect(gateway.downlink()) as session,
        ):
            lost = asyncio.create_task(session.lost())
            await asyncio.gather(*(session.send(Message(f"id-{n}", "normal", n, 1, b"[]")) for n in range(20)))
            await soon(gateway.until(lambda: len(gateway.commands) == COMMANDS))
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)
