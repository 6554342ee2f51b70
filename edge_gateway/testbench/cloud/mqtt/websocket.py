"""MQTT over WebSocket: an asyncio transport whose bytes travel in the binary messages of a WebSocket.

The protocol on it, `MqttConnection`, is the one that runs on TCP and does not see a difference. A message is a piece of
the stream and no more: a packet may be cut over several of them, and several may come in one (MQTT 3.1.1, section 6).

- A protocol that pauses reading pauses the peer: nothing is taken from the WebSocket, and soon nothing from TLS.
- Past a limit of what the peer has not read, the protocol is told to pause writing, as over TCP.
- `close` sends what is left, then a close frame; `abort` cuts the TCP connection at once.
- A text message, or one over `MAX_MESSAGE_BYTES`, ends the connection with the reason RFC 6455, 7.4.1 has for it.

Where IoT Hub and DPS have it: `/$iothub/websocket` with the subprotocol `mqtt`. How they
answer a client that offers another subprotocol is UNVERIFIED; here it is refused with 400.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import WSCloseCode, WSMsgType, web

from edge_gateway.testbench.cloud.https import HttpRefused, cut

_log = structlog.get_logger()

PATH = "/$iothub/websocket"
SUBPROTOCOL = "mqtt"
MAX_MESSAGE_BYTES = 1024 * 1024
"""Clients put one packet, or what they have gathered, into a message; a packet has at most 320 KB."""
_CLOSE_WITHIN_S = 1.0
"""For the peer's close frame; one that is silent is cut off."""
_HIGH_WATER_BYTES = 64 * 1024
"""As asyncio's own transports have it."""


def websocket_route(make_protocol: Callable[[], asyncio.Protocol]) -> web.RouteDef:
    """Where clients find MQTT over WebSocket; each gets a protocol of its own."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve_websocket(request, make_protocol)

    return web.get(PATH, handle)


async def serve_websocket(request: web.Request, make_protocol: Callable[[], asyncio.Protocol]) -> web.WebSocketResponse:
    """Run a protocol on the WebSocket a request asks for, until either side ends it.

    Raises:
        HttpRefused: the client does not offer the subprotocol `mqtt`.
        web.HTTPBadRequest: it asks for no WebSocket.
    """
    offered = request.headers.get("Sec-WebSocket-Protocol", "")
    if SUBPROTOCOL not in (name.strip() for name in offered.split(",")):
        raise HttpRefused(400, "BadRequest", f"the WebSocket subprotocol {SUBPROTOCOL} is not offered")
    websocket = web.WebSocketResponse(
        protocols=(SUBPROTOCOL,),
        compress=False,
        max_msg_size=MAX_MESSAGE_BYTES,
        timeout=_CLOSE_WITHIN_S,
    )
    await websocket.prepare(request)
    if request.transport is not None:
        await WebSocketTransport(websocket, request.transport).carry(make_protocol())
    return websocket


class WebSocketTransport(asyncio.Transport):
    """A stream in the binary messages of a WebSocket.

    Args:
        websocket: prepared.
        below: the transport the WebSocket is on, for `abort` and `get_extra_info`.
    """

    def __init__(self, websocket: web.WebSocketResponse, below: asyncio.Transport) -> None:
        super().__init__()
        self._websocket = websocket
        self._below = below
        self._outgoing = bytearray()
        self._sending_bytes = 0
        """Of the message that waits for the peer to read."""
        self._something_to_do = asyncio.Event()
        """For the writer: there are bytes to send, or the end has come."""
        self._reading = asyncio.Event()
        self._reading.set()
        self._closing = False
        self._backed_up = False
        self.set_write_buffer_limits()

    async def carry(self, protocol: asyncio.Protocol) -> None:
        """Run a protocol from `connection_made` to `connection_lost`.

        Raises:
            ExceptionGroup: what the protocol raised, which has ended it.
        """
        self._protocol = protocol
        cause: Exception | None = None
        try:
            async with asyncio.TaskGroup() as directions:
                writing = directions.create_task(self._write_all(), name="testbench-websocket-writer")
                protocol.connection_made(self)
                await self._read_all()
                writing.cancel()
        except Exception as error:
            cause = error
            raise
        finally:
            self._closing = True
            protocol.connection_lost(cause)

    # asyncio.Transport

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol on this transport."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Put a protocol on this transport."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a stream has to have an asyncio.Protocol")
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What the TLS connection below knows: `peername`, `socket`, `ssl_object`."""
        return self._below.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def close(self) -> None:
        """Send what is left and a close frame. Nothing is received any more."""
        self._closing = True
        self._reading.set()  # so that the end is seen though nothing is read
        self._something_to_do.set()

    def abort(self) -> None:
        """Cut the connection; what was not sent is lost."""
        self._closing = True
        self._outgoing.clear()
        self._reading.set()
        cut(self._below)

    def is_reading(self) -> bool:
        """Whether the protocol gets what the peer sends."""
        return self._reading.is_set() and not self._closing

    def pause_reading(self) -> None:
        """Give the protocol nothing until `resume_reading`. The peer is held up once some 200 KB wait."""
        if not self._closing:
            self._reading.clear()

    def resume_reading(self) -> None:
        """Give the protocol what comes."""
        self._reading.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send, together with what else is written in this turn of the event loop."""
        if self._closing or not data:
            return
        self._outgoing += data
        self._something_to_do.set()
        if self.get_write_buffer_size() > self._high_water_bytes and not self._backed_up:
            self._backed_up = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        """A WebSocket has no half-closed state."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes that wait here for the peer."""
        return len(self._outgoing) + self._sending_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Below which the protocol may write again, and above which it should not."""
        return self._low_water_bytes, self._high_water_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set these limits, in bytes; one alone puts the other four times higher or lower.

        Raises:
            ValueError: the high one is below the low one, or the low one below 0.
        """
        if high is None:
            high = _HIGH_WATER_BYTES if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"limits of {high} and {low} bytes")
        self._high_water_bytes, self._low_water_bytes = high, low

    # The two directions

    async def _read_all(self) -> None:
        while True:
            message = await self._websocket.receive()
            # As long as this one is held, aiohttp soon stops reading from TLS.
            await self._reading.wait()
            match message.type:
                case WSMsgType.BINARY if self._closing:
                    continue
                case WSMsgType.BINARY:
                    self._protocol.data_received(message.data)
                    continue
                case WSMsgType.TEXT:
                    await self._websocket.close(code=WSCloseCode.UNSUPPORTED_DATA)
                case WSMsgType.CLOSE | WSMsgType.CLOSED if not self._closing:
                    self._protocol.eof_received()
            _log.debug("testbench.websocket.ended", by=message.type.name, close_code=self._websocket.close_code)
            return

    async def _write_all(self) -> None:
        while True:
            await self._something_to_do.wait()
            self._something_to_do.clear()
            while self._outgoing:
                data = bytes(self._outgoing)
                self._outgoing.clear()
                self._sending_bytes = len(data)
                try:
                    await self._websocket.send_bytes(data)
                except ConnectionError:
                    return  # the reader hears of it as well
                self._sending_bytes = 0
                if self._backed_up and self.get_write_buffer_size() <= self._low_water_bytes:
                    self._backed_up = False
                    self._protocol.resume_writing()
            if self._closing:
                await self._websocket.close()
                return
