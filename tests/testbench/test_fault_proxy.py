"""The network that fails on command."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from edge_gateway.testbench import FaultProxy, ProxyMode

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    """A proxy in front of a server that echoes, and says `bye` when the client has ended."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
            writer.write(b"bye")
        except ConnectionResetError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with FaultProxy("127.0.0.1", port) as proxy:
            yield proxy


async def dial(proxy: FaultProxy) -> Streams:
    return await asyncio.open_connection(proxy.address, proxy.port)


async def ask(streams: Streams, data: bytes) -> bytes:
    streams[1].write(data)
    async with asyncio.timeout(5):
        return await streams[0].readexactly(len(data))


async def test_pass(proxy: FaultProxy) -> None:
    """Bytes go both ways, and an end of one direction leaves the other open."""
    streams = await dial(proxy)
    assert await ask(streams, b"hello") == b"hello"
    streams[1].write_eof()
    assert await streams[0].read() == b"bye"
    streams[1].close()


async def test_much(proxy: FaultProxy) -> None:
    """More than all the buffers hold arrives whole: a slow reader slows the sender."""
    streams = await dial(proxy)
    data = bytes(range(256)) * 40_000
    streams[1].write(data)
    streams[1].write_eof()
    assert await streams[0].read() == data + b"bye"
    streams[1].close()


async def test_silent(proxy: FaultProxy) -> None:
    """Silence holds bytes back on old connections and new ones; nothing is lost when it ends."""
    old = await dial(proxy)
    assert await ask(old, b"1") == b"1"
    proxy.mode = ProxyMode.SILENT
    new = await dial(proxy)
    answers = [asyncio.create_task(ask(streams, b"2")) for streams in (old, new)]
    done, _ = await asyncio.wait(answers, timeout=0.1)
    assert not done
    proxy.mode = ProxyMode.PASS
    assert await asyncio.gather(*answers) == [b"2", b"2"]
    for streams in (old, new):
        streams[1].close()


async def test_refuse(proxy: FaultProxy) -> None:
    """New connections are refused, those there are go on, and passing again needs no new port."""
    old = await dial(proxy)
    proxy.mode = ProxyMode.REFUSE
    with pytest.raises(ConnectionRefusedError):
        await dial(proxy)
    assert await ask(old, b"still") == b"still"
    proxy.mode = ProxyMode.PASS
    new = await dial(proxy)
    assert await ask(new, b"again") == b"again"
    for streams in (old, new):
        streams[1].close()


async def test_reset(proxy: FaultProxy) -> None:
    """A reset is seen as one at once, in silence as well."""
    streams = await dial(proxy)
    assert await ask(streams, b"1") == b"1"
    proxy.mode = ProxyMode.SILENT
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await streams[0].read()


async def test_target_away() -> None:
    """Without a target a connection is reset, and the proxy goes on."""
    async with FaultProxy("127.0.0.1", 1) as proxy:
        for _ in range(2):
            streams = await dial(proxy)
            with pytest.raises(ConnectionResetError):
                await streams[0].read()
        assert proxy.connections == 2


async def test_leaving_while_silent(proxy: FaultProxy) -> None:
    """Leaving cuts what is there, connections that never reached the target included."""
    async with FaultProxy("127.0.0.1", proxy.port) as outer:
        outer.mode = ProxyMode.SILENT
        streams = await dial(outer)
        streams[1].write(b"x")
        while not outer.connections:  # noqa: ASYNC110 - one turn of the loop, without any time passing
            await asyncio.sleep(0)
    with pytest.raises(ConnectionResetError):
        await streams[0].read()
