"""A stream over a WebSocket behaves as one over TCP, and MQTT on it as on its own port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
import aiomqtt
import pytest
from aiohttp import WSMsgType, web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.testbench import LocalAuthority, LocalHub
from edge_gateway.testbench.certificates import self_signed_certificate
from edge_gateway.testbench.cloud.https import HttpsService
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.mqtt.websocket import MAX_MESSAGE_BYTES, PATH, WebSocketTransport, websocket_route
from tests.log_events import log_events

from .https_peers import reset, served
from .mqtt_client import TIME_LIMIT_S, soon

HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n" % PATH.encode()
)


class Recorder(asyncio.Protocol):
    """Notes what a protocol is told, and lets a test wait for it."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.calls: list[str] = []
        self.lost_with: Exception | None = None
        self._called = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("WebSocketTransport", transport)
        self._note("made")

    def data_received(self, data: bytes) -> None:
        assert self.transport.is_reading()
        self.received += data
        self._note("data")

    def eof_received(self) -> None:
        self._note("eof")

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost_with = exc
        self._note("lost")

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self._called.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(TIME_LIMIT_S):
            while not condition():
                self._called.clear()
                await self._called.wait()


class Server:
    """A service with a WebSocket, and the protocols its clients have got."""

    def __init__(self, port: int, protocols: asyncio.Queue[Recorder]) -> None:
        self.port = port
        self.protocols = protocols

    @asynccontextmanager
    async def client(
        self, protocols: tuple[str, ...] = ("mqtt",), *, autoping: bool = True
    ) -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, Recorder]]:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{self.port}{PATH}"
            async with session.ws_connect(url, protocols=protocols, autoping=autoping) as websocket:
                yield websocket, await soon(self.protocols.get())

    async def raw_client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Recorder]:
        """A client that speaks for itself after the handshake."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HANDSHAKE)
        assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101")
        return reader, writer, await soon(self.protocols.get())


@asynccontextmanager
async def serve(make_protocol: Callable[[], Recorder] = Recorder) -> AsyncIterator[Server]:
    protocols: asyncio.Queue[Recorder] = asyncio.Queue()

    def make() -> Recorder:
        protocol = make_protocol()
        protocols.put_nowait(protocol)
        return protocol

    async with served(HttpsService([websocket_route(make)])) as port:
        yield Server(port, protocols)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


def frame(payload: bytes, opcode: int = 2) -> bytes:
    """A client's whole frame, masked with zeros (RFC 6455, 5.2)."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0xFF]) + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


# Bytes


async def test_subprotocol(server: Server) -> None:
    """The client hears that it speaks `mqtt`, whatever else it offers."""
    async with server.client(("other", "mqtt")) as (websocket, _):
        assert websocket.protocol == "mqtt"


@pytest.mark.parametrize("headers", [{}, {"Sec-WebSocket-Protocol": "mqttv3.1"}, {"Sec-WebSocket-Protocol": "mqtt"}])
async def test_no_websocket(server: Server, headers: dict[str, str]) -> None:
    """A request without the subprotocol, or for no WebSocket at all, is a bad one."""
    async with aiohttp.ClientSession() as session:
        response = await session.get(f"http://127.0.0.1:{server.port}{PATH}", headers=headers)
        assert response.status == 400
        assert response.headers["iothub-errorcode"] == "BadRequest"
    assert server.protocols.empty()


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 50))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_messages_are_a_stream(messages: list[bytes], cut: int) -> None:
    """However the bytes are cut into messages, and the messages into reads, the protocol gets them all in order."""

    async def send_all() -> None:
        async with serve() as server:
            _, writer, protocol = await server.raw_client()
            data = b"".join(map(frame, messages))
            for start in range(0, len(data), cut):
                writer.write(data[start : start + cut])
                await asyncio.sleep(0)
            wanted = b"".join(messages)
            await protocol.until(lambda: len(protocol.received) >= len(wanted))
            assert protocol.received == wanted
            writer.transport.abort()

    asyncio.run(send_all())


async def test_writes(server: Server) -> None:
    """What is written arrives in binary messages, in order; what is written at once, in one of them."""
    async with server.client() as (websocket, protocol):
        for data in (b"a", bytearray(b"b"), memoryview(b"c"), b""):
            protocol.transport.write(data)
        protocol.transport.writelines([b"d", b"e"])
        assert await soon(websocket.receive_bytes()) == b"abcde"
        protocol.transport.write(b"f" * 200_000)
        assert await soon(websocket.receive_bytes()) == b"f" * 200_000


async def test_pings_are_answered(server: Server) -> None:
    """A ping of the WebSocket is answered below the protocol, which does not hear of it."""
    async with server.client(autoping=False) as (websocket, protocol):
        await websocket.ping(b"there?")
        assert (await soon(websocket.receive())).type is WSMsgType.PONG
        assert protocol.calls == ["made"]


async def test_what_the_connection_below_knows(server: Server) -> None:
    """The protocol can ask who is on the other side of the TCP connection."""
    async with server.client() as (_, protocol):
        assert protocol.transport.get_extra_info("peername")[0] == "127.0.0.1"
        assert protocol.transport.get_extra_info("socket") is not None
        assert protocol.transport.get_extra_info("nothing", 7) == 7


# Ends


async def test_close(server: Server) -> None:
    """Closing sends what was written before and nothing after, then says good-bye; the protocol is told once."""
    async with server.client() as (websocket, protocol):
        protocol.transport.write(b"last words" * 10_000)
        protocol.transport.close()
        protocol.transport.write(b"too late")
        protocol.transport.close()
        assert protocol.transport.is_closing()
        assert await soon(websocket.receive_bytes()) == b"last words" * 10_000
        assert (await soon(websocket.receive())).type is WSMsgType.CLOSE
        assert websocket.close_code == 1000
        await protocol.until(lambda: protocol.calls[-1] == "lost")
        assert (protocol.calls.count("lost"), protocol.lost_with) == (1, None)


async def test_abort(server: Server) -> None:
    """Aborting cuts the connection without good-bye; what was not sent is lost."""
    _, writer, protocol = await server.raw_client()
    protocol.transport.write(b"lost")
    protocol.transport.abort()
    protocol.transport.abort()
    await protocol.until(lambda: protocol.calls[-1] == "lost")
    assert protocol.calls == ["made", "lost"]
    writer.transport.abort()


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_end_while_reading_is_paused(server: Server, end: str) -> None:
    """A protocol that does not read can still end the connection."""
    async with server.client() as (websocket, protocol):
        protocol.transport.pause_reading()
        await websocket.send_bytes(b"never received")
        getattr(protocol.transport, end)()
        await protocol.until(lambda: protocol.calls[-1] == "lost")
        assert protocol.received == b""


async def test_nothing_comes_after_closing() -> None:
    """Once it has closed, the protocol gets no more, though it has come already."""

    class Closing(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.close()

    async with serve(Closing) as server:
        _, writer, protocol = await server.raw_client()
        writer.write(frame(b"first") + frame(b"second"))
        await protocol.until(lambda: protocol.calls[-1] == "lost")
        assert (bytes(protocol.received), protocol.lost_with) == (b"first", None)
        writer.transport.abort()


async def test_client_closes(server: Server) -> None:
    """A client that says good-bye is an end of file, and the end."""
    async with server.client() as (websocket, protocol):
        await websocket.send_bytes(b"x")
        await websocket.close()
        await protocol.until(lambda: protocol.calls[-1] == "lost")
        assert protocol.calls == ["made", "data", "eof", "lost"]
        assert protocol.transport.is_closing()


async def test_client_vanishes(server: Server) -> None:
    """A client that is gone without a word is lost, too."""
    _, writer, protocol = await server.raw_client()
    reset(writer)
    await protocol.until(lambda: protocol.calls[-1] == "lost")


async def test_text(server: Server) -> None:
    """MQTT is binary: a text message is refused with the code for data nobody understands (RFC 6455, 7.4.1)."""
    async with server.client() as (websocket, protocol):
        await websocket.send_str("CONNECT please")
        assert (await soon(websocket.receive())).type is WSMsgType.CLOSE
        assert websocket.close_code == 1003
        await protocol.until(lambda: protocol.calls[-1] == "lost")
        assert protocol.received == b""


async def test_large_message(server: Server) -> None:
    """A message that says it is too large is refused before it has come (1009)."""
    reader, writer, protocol = await server.raw_client()
    writer.write(frame(bytes(MAX_MESSAGE_BYTES))[:1000])
    assert await soon(reader.readexactly(4)) == b"\x88\x02" + (1009).to_bytes(2, "big")
    await protocol.until(lambda: protocol.calls[-1] == "lost")
    writer.transport.abort()


async def test_protocol_that_fails() -> None:
    """What a protocol raises ends its connection and is logged, and it hears of it."""

    class Failing(Recorder):
        def data_received(self, data: bytes) -> None:
            raise RuntimeError("a bug")

    with log_events() as events:
        async with serve(Failing) as server, server.client() as (websocket, protocol):
            await websocket.send_bytes(b"x")
            assert (await soon(websocket.receive())).type in {WSMsgType.CLOSED, WSMsgType.CLOSE}
            await protocol.until(lambda: protocol.calls[-1] == "lost")
            assert isinstance(protocol.lost_with, ExceptionGroup)
    assert [event["event"] for event in events if event["log_level"] == "error"] == ["testbench.https.failed"]


def test_arbitrary_frames(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes after the handshake ends in a closed connection, with no traceback."""
    with asyncio.Runner() as runner, log_events() as events:
        serving = serve()
        server = runner.run(serving.__aenter__())

        @given(
            st.binary(max_size=100)
            | st.lists(st.builds(frame, st.binary(max_size=130), st.integers(0, 15))).map(b"".join)
        )
        @settings(max_examples=100, deadline=None)
        def ends(data: bytes) -> None:
            async def exchange() -> None:
                reader, writer, protocol = await server.raw_client()
                writer.write(data)
                writer.write_eof()
                await soon(reader.read())
                await protocol.until(lambda: protocol.calls[-1] == "lost")
                writer.transport.abort()

            runner.run(exchange())

        ends()
        runner.run(serving.__aexit__(None, None, None))
    assert [event for event in events if event["log_level"] not in {"debug", "info"}] == []
    assert caplog.records == []


# Back-pressure


async def test_paused_reading_holds_the_client_up(server: Server) -> None:
    """A protocol that does not read makes the client wait; once it reads, nothing is missing."""
    sent_bytes = 64 * 1024 * 1024
    message = bytes(64 * 1024)

    async with server.client() as (websocket, protocol):
        protocol.transport.pause_reading()

        async def send_all() -> None:
            for _ in range(sent_bytes // len(message)):
                await websocket.send_bytes(message)

        sending = asyncio.create_task(send_all())
        done, _ = await asyncio.wait([sending], timeout=0.3)
        assert not done  # the kernel's buffers, aiohttp's and ours together are far from 64 MB
        assert protocol.received == b""
        protocol.transport.resume_reading()
        await soon(sending)
        await protocol.until(lambda: len(protocol.received) == sent_bytes)


async def test_slow_client_holds_the_protocol_up(server: Server) -> None:
    """A client that does not read makes the protocol pause, and go on once it has read."""
    reader, writer, protocol = await server.raw_client()
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a whole asyncio.Transport
    written_bytes = 0
    while "pause" not in protocol.calls:
        protocol.transport.write(bytes(60_000))
        written_bytes += 60_000
        await asyncio.sleep(0)
        assert written_bytes < 64 * 1024 * 1024, "the protocol is never held up"
    low, high = protocol.transport.get_write_buffer_limits()
    assert high < protocol.transport.get_write_buffer_size() < high + 120_001
    writer.transport.resume_reading()  # type: ignore[attr-defined]  # see above
    read_bytes = 0
    while "resume" not in protocol.calls:
        read_bytes += len(await soon(reader.read(65_536)))
    assert protocol.transport.get_write_buffer_size() <= low
    protocol.transport.close()
    read_bytes += len(await soon(reader.read()))
    assert read_bytes > written_bytes  # all of it, and the frames' headers
    writer.transport.abort()


async def test_write_buffer_limits(server: Server) -> None:
    """Limits are set as on asyncio's own transports."""
    async with server.client() as (_, protocol):
        transport = protocol.transport
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError, match="limits"):
            transport.set_write_buffer_limits(high=1, low=2)
        assert not transport.can_write_eof()
        assert transport.get_protocol() is protocol


# MQTT


class WebSocketHub(LocalHub):
    """A hub with MQTT over WebSocket and no REST."""

    def routes(self) -> list[web.RouteDef]:
        return []


@pytest.fixture
async def websocket_hub(authority: LocalAuthority, address: str) -> AsyncIterator[LocalHub]:
    async with WebSocketHub(authority=authority, address=address, https_port=443) as hub:
        yield hub


def mqtt_client(hub: LocalHub, tls: ssl.SSLContext, token: str | None) -> aiomqtt.Client:
    return aiomqtt.Client(
        hub.address,
        443,
        identifier="dev",
        username=f"{hub.host_name}/dev/?api-version=2021-04-12",
        password=token,
        tls_context=tls,
        transport="websockets",
        websocket_path=PATH,
        clean_session=True,
    )


async def test_mqtt(websocket_hub: LocalHub, authority: LocalAuthority) -> None:
    """Aiomqtt does over WebSocket what it does over TCP."""
    websocket_hub.add_device("dev")
    token = websocket_hub.sas_token("dev")
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        mqtt_client(websocket_hub, authority.client_context(), token) as client,
    ):
        for size in (0, 1, 200_000):
            await client.publish("devices/dev/messages/events/a=b", bytes(size), qos=1)
        assert [len(message.body) for message in websocket_hub.messages] == [0, 1, 200_000]
        await client.subscribe("devices/dev/messages/devicebound/#", qos=1)
        sent = websocket_hub.send_c2d("dev", b"x" * 60_000)
        assert (await anext(client.messages)).payload == b"x" * 60_000
        await sent.completed()


async def test_client_certificate(websocket_hub: LocalHub, authority: LocalAuthority) -> None:
    """A device's certificate, shown to the TLS below, is seen through the WebSocket."""
    certificate = self_signed_certificate("dev")
    websocket_hub.add_device("dev", authentication=Thumbprints(certificate.sha256_thumbprint))
    tls = authority.client_context(certificate)
    async with asyncio.timeout(TIME_LIMIT_S), mqtt_client(websocket_hub, tls, None) as client:
        await client.publish("devices/dev/messages/events/", qos=1)
    assert '"x509"' in websocket_hub.messages[0].system_properties["iothub-connection-auth-method"]


async def test_dropped(websocket_hub: LocalHub, authority: LocalAuthority) -> None:
    """The hub drops and freezes connections over WebSocket as it does others."""
    websocket_hub.add_device("dev")
    url = f"wss://{websocket_hub.address}{PATH}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, protocols=("mqtt",), ssl=authority.client_context()) as websocket,
    ):
        websocket_hub.freeze(True)
        websocket_hub.drop_connections()
        assert (await soon(websocket.receive())).type in {WSMsgType.CLOSED, WSMsgType.ERROR}
        websocket_hub.freeze(False)
