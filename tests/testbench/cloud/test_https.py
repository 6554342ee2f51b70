"""HTTP on connections of somebody else: what a client hears when all is not well."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
import sys

import aiohttp
import orjson
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_gateway.errors import BenchError
from edge_gateway.testbench import LocalAuthority, TwinRefused
from edge_gateway.testbench.cloud.https import MAX_BODY_BYTES, Failure, HttpRefused, HttpsService, answering, read_json
from edge_gateway.testbench.cloud.refusals import (
    AccessDenied,
    DeviceNotOnline,
    EtagMismatch,
    IdentityExists,
    IdentityNotFound,
    LimitExceeded,
    MessageLockLost,
    MethodTimedOut,
    QuotaExceeded,
    Throttled,
)
from tests.log_events import log_events

from .https_peers import http_client, served
from .mqtt_client import soon


def raising(error: Exception) -> web.RouteDef:
    async def handle(request: web.Request) -> web.StreamResponse:
        raise error

    return web.get("/", handle)


async def echo_json(request: web.Request) -> web.StreamResponse:
    return web.json_response(await read_json(request))


ECHO = web.post("/echo", echo_json)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (IdentityNotFound("gone", where="d"), 404, "DeviceNotFound"),
        (DeviceNotOnline("off", where="d"), 404, "DeviceNotOnline"),
        (IdentityExists("there", where="d"), 409, "DeviceAlreadyExists"),
        (EtagMismatch("changed", where="d"), 412, "PreconditionFailed"),
        (MessageLockLost("lost", where="d"), 412, "DeviceMessageLockLost"),
        (AccessDenied("key", where="d"), 401, "IotHubUnauthorizedAccess"),
        (QuotaExceeded("day", where="d"), 403, "IotHubQuotaExceeded"),
        (LimitExceeded("large", where="d"), 413, "MessageTooLarge"),
        (Throttled("fast", where="d", retry_after_s=2.1), 429, "ThrottlingException"),
        (MethodTimedOut("late", where="d"), 504, "GatewayTimeout"),
        (TwinRefused("no", "a/b"), 400, "ArgumentInvalid"),
        (BenchError("odd", where="d"), 400, "ArgumentInvalid"),
        (HttpRefused(403, "Special", "so", where="d"), 403, "Special"),
        (web.HTTPForbidden(), 403, "Forbidden"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
async def test_refusals(error: Exception, status: int, code: str) -> None:
    """Each way of saying no has its status and its code, in the body as both SDKs read it and in a header."""
    async with http_client([raising(error)]) as client:
        response = await client.get("/")
        body = await response.json()
    assert (response.status, response.headers["iothub-errorcode"]) == (status, code)
    assert body["Message"].startswith(f"ErrorCode:{code};")
    assert body["ExceptionMessage"] == ""


async def test_no_reason_for_the_denied() -> None:
    """A client that is denied does not hear why; the log does."""
    with log_events() as events:
        async with http_client([raising(AccessDenied("signed with another key", where="d"))]) as client:
            text = await (await client.get("/")).text()
    assert "key" not in text
    refused = [event for event in events if event["event"] == "testbench.https.refused"]
    assert [event["reason"] for event in refused] == ["d: signed with another key"]


async def test_retry_after() -> None:
    """Who is throttled hears after how many whole seconds to come again."""
    async with http_client([raising(Throttled("fast", where="d", retry_after_s=2.1))]) as client:
        response = await client.get("/")
    assert response.headers["Retry-After"] == "3"


async def test_unknown_path_and_method() -> None:
    """What is not there is told in the hub's form, too, and which methods are."""
    async with http_client([ECHO]) as client:
        unknown = await client.get("/nowhere")
        method = await client.get("/echo")
        assert (unknown.status, (await unknown.json())["Message"]) == (404, "ErrorCode:NotFound;Not Found")
        assert (method.status, method.headers["Allow"]) == (405, "POST")


async def test_redirects_pass() -> None:
    """What a handler raises without meaning an error goes through as it is."""
    async with http_client([raising(web.HTTPFound("/echo"))]) as client:
        response = await client.get("/", allow_redirects=False)
    assert (response.status, response.headers["Location"]) == (302, "/echo")


async def test_another_form() -> None:
    """A service may answer in words of its own."""

    def form(failure: Failure) -> web.Response:
        return web.json_response({"errorCode": failure.status}, status=failure.status)

    route = raising(IdentityNotFound("gone", where="d"))
    handler = answering(route.handler, form)
    async with http_client([web.get("/", handler)]) as client:
        response = await client.get("/")
        assert (response.status, await response.json()) == (404, {"errorCode": 404})


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"NaN"])
async def test_bad_json(body: bytes) -> None:
    """A body that is not JSON is refused."""
    async with http_client([ECHO]) as client:
        response = await client.post("/echo", data=body)
        assert response.status == 400
        assert "IotHubFormatError" in await response.text()


async def test_large_body() -> None:
    """A body over the limit is refused without being read to its end."""
    async with http_client([ECHO]) as client:
        response = await client.post("/echo", data=io.BytesIO(bytes(MAX_BODY_BYTES + 1)))
        assert (response.status, response.headers["iothub-errorcode"]) == (413, "RequestEntityTooLarge")


async def test_compressed_body() -> None:
    """Nothing is unpacked, so that a small body stays one."""
    async with http_client([ECHO]) as client:
        response = await client.post("/echo", data=b"{}", compress="deflate")
        assert response.status == 400


@pytest.mark.parametrize("line", [b"X: \xc3\xa4", b"Authorization: \xff\xfe"])
async def test_letters_beyond_ascii(line: bytes) -> None:
    """A header beyond ASCII is refused before anybody reads it."""
    async with served(HttpsService([ECHO])) as port:
        answer = await exchange(port, b"POST /echo HTTP/1.1\r\nHost: a\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % line)
    assert answer.startswith(b"HTTP/1.1 400")


async def test_own_error(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the bench's own is logged with its cause, and the client hears only that there was one."""
    with log_events() as events:
        async with http_client([raising(RuntimeError("secret"))]) as client:
            response = await client.get("/")
            text = await response.text()
    assert (response.status, "secret" in text) == (500, False)
    failed = [event for event in events if event["event"] == "testbench.https.failed"]
    assert [str(event["exc_info"]) for event in failed] == ["secret"]
    assert caplog.records == []


async def test_access_log() -> None:
    """Each answer is an event for debugging, without the query, where signatures are."""
    with log_events() as events:
        async with http_client([ECHO]) as client:
            await client.post("/echo?sig=secret", data=b"{}")
    (event,) = [event for event in events if event["event"] == "testbench.https.answered"]
    assert (event["log_level"], event["method"], event["path"], event["status"]) == ("debug", "POST", "/echo", 200)
    assert "secret" not in str(events)


async def exchange(port: int, data: bytes) -> bytes:
    """What a client hears that sends this and, a moment later, that there is no more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        for _ in range(20):  # the service takes what has come, and begins to answer
            await asyncio.sleep(0)
        writer.write_eof()
        return await soon(reader.read())
    except ConnectionError:
        return b""  # the service has closed while there was something to read
    finally:
        writer.transport.abort()


token = st.text("abcXYZ019-_", min_size=1, max_size=8).map(str.encode)
header = st.tuples(token | st.sampled_from([b"Content-Length", b"Transfer-Encoding", b"Host"]), st.binary(max_size=20))
almost_http = st.builds(
    lambda method, path, headers, body: (
        b"%b /%b HTTP/1.1\r\n%b\r\n%b" % (method, path, b"".join(b"%b: %b\r\n" % each for each in headers), body)
    ),
    st.sampled_from([b"GET", b"POST", b"PUT", b"CONNECT"]) | token,
    st.binary(max_size=30) | st.just(b"echo"),
    st.lists(header, max_size=4),
    st.binary(max_size=60),
)


def test_arbitrary_bytes(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes in on the port ends in a closed connection, with no traceback for anybody."""
    with asyncio.Runner() as runner, log_events() as events:
        serving = served(HttpsService([ECHO]))
        port = runner.run(serving.__aenter__())

        @given(st.binary(max_size=200) | almost_http | st.lists(almost_http, max_size=4).map(b"".join))
        @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        def ends(data: bytes) -> None:
            answer = runner.run(exchange(port, data))
            assert answer == b"" or answer.startswith(b"HTTP/1.")
            assert b"Traceback" not in answer

        ends()
        runner.run(serving.__aexit__(None, None, None))
    assert [event for event in events if event["log_level"] not in {"debug", "info"}] == []
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("endless", [b"A" * 65_536, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000])
async def test_endless_headers(endless: bytes) -> None:
    """A request that does not come to its point is cut off before it has taken memory."""

    async def write_on(writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(endless)
            await writer.drain()

    async with served(HttpsService([ECHO])) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionError):
            await soon(write_on(writer))
        writer.transport.abort()


@pytest.mark.parametrize("body", [b"", b"2\r\n{}\r\n", b"zz\r\n"])
async def test_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """A body that is late, does not end, or is in pieces that are none, is waited for only so long."""
    monkeypatch.setattr("edge_gateway.testbench.cloud.https._BODY_WITHIN_S", 0.05)
    async with served(HttpsService([ECHO])) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):  # the service begins to read
            await asyncio.sleep(0)
        writer.write(body)
        assert await soon(reader.readexactly(12)) == b"HTTP/1.1 408"
        writer.transport.abort()


async def test_client_goes_in_the_middle() -> None:
    """A client that goes before its request is complete leaves nothing behind."""
    with log_events() as events:
        async with served(HttpsService([ECHO])) as port:
            answer = await exchange(port, b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
    assert b"Traceback" not in answer
    assert [event for event in events if event["log_level"] == "error"] == []


async def test_stop_ends_connections() -> None:
    """Stopping ends the connections there are, idle ones and those of handlers that do not come to an end."""
    begun = asyncio.Event()

    async def wait(request: web.Request) -> web.StreamResponse:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    service = HttpsService([web.get("/wait", wait)])
    async with served(service) as port:
        idle, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        waiting, waiting_writer = await asyncio.open_connection("127.0.0.1", port)
        waiting_writer.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await soon(begun.wait())
        await soon(service.stop())
        assert (await soon(idle.read()), await soon(waiting.read())) == (b"", b"")
        for writer in (idle_writer, waiting_writer):
            writer.close()
            await writer.wait_closed()


async def test_stop_does_not_wait_for_the_silent(authority: LocalAuthority) -> None:
    """A client that does not answer when TLS is closed is cut off."""
    service = HttpsService([ECHO])
    async with served(service, authority.server_context(["127.0.0.1"])) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=authority.client_context())
        writer.write(b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n")
        await writer.drain()
        writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a whole asyncio.Transport
        await soon(service.stop())
        writer.transport.abort()


async def test_not_started() -> None:
    """A service that is not running takes no connection."""
    with pytest.raises(BenchError, match="not running"):
        HttpsService([]).make_protocol()


async def test_middlewares() -> None:
    """Middlewares are within the one that answers errors."""

    @web.middleware
    async def deny(request: web.Request, handler: object) -> web.StreamResponse:
        raise AccessDenied("all of you", where=request.path)

    async with (
        served(HttpsService([ECHO], middlewares=[deny])) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.post("/echo", data=orjson.dumps(1))).status == 401


def test_the_bench_does_without_aiohttp() -> None:
    """Aiohttp is not imported until HTTPS is asked for: it takes a tenth of a second and 11 MB."""
    check = "import sys, edge_gateway.testbench; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
