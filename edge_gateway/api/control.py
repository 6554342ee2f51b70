"""The door of a running gateway: requests and answers over a Unix socket in its data directory.

One connection is one request. The asker writes a line, the gateway answers with lines, all of them JSON:

```
> {"request": "buffer.verify"}
< {"progress": {"done": 8000, "of": 20000}}
< {"damaged": {"lane": "normal", "chunk": 281474976710657, ...}}
< {"done": true}              or {"error": {"kind": "BufferUnavailable", "what": ..., "where": ..., "remedy": ...}}
```

Every line but the last says in its only key what it is; `api.records` and its neighbours say which there are.

- The socket has mode 0600: whoever may read the gateway's data may ask for it, and nobody else.
- A request is bounded in bytes and in the time it may take to come, and the askers are bounded in number.
- An answer is made no faster than it is read, so a slow asker waits for itself alone. One that leaves, or reads nothing
  for minutes, ends the work that was done for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from edge_gateway import errors
from edge_gateway.errors import GatewayError

SOCKET_NAME: Final = "control.sock"

LONGEST_REQUEST_BYTES: Final = 16 * 1024
LONGEST_ANSWER_BYTES: Final = 64 << 20
"""Of one line. A status names every device; a message of the buffer has 256 KiB at most by default."""

MOST_ASKERS: Final = 16

_ASKS_WITHIN_S: Final = 5.0
_READS_WITHIN_S: Final = 300.0
"""How long an asker may read nothing: somebody pages through an export. All it holds is a place among the askers."""
_ANSWERS_WITHIN_S: Final = 30.0
"""How long a gateway may take for a line: the slowest waits for a disk or a key store; long work tells its progress."""

Answer: TypeAlias = dict[str, Any]
"""A line of an answer. Its only key says what it is."""


def progress(done: int, of: int) -> Answer:
    """The line that says how far long work has come; what there is to do may grow meanwhile."""
    return {"progress": {"done": done, "of": max(done, of)}}


class Handler(NamedTuple):
    """What answers a request."""

    answer: Callable[..., AsyncGenerator[Answer, None]]
    """Called with the arguments given. Long work yields its progress every second or so: an asker that has left is
    noticed when the next line is sent, and then the work is closed. It may raise a GatewayError; anything else is a
    bug, and breaks off the answer."""
    arguments: Mapping[str, type] = MappingProxyType({})
    """The arguments it takes, all of which may be left out, with their types."""


class NotRunning(GatewayError):
    """No gateway runs on a data directory."""


class RequestInvalid(GatewayError):
    """A request that the gateway does not know, or with an argument it does not know."""


# --- the gateway's side -----------------------------------------------------------------------------------------------


@asynccontextmanager
async def serve_control(data_directory: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[None]:
    """Answer requests until left, which ends those under way.

    Args:
        data_directory: where the socket is made; another one there is taken for one that a killed gateway left.
        handlers: by the names of the requests.
    """
    askers: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asker = asyncio.create_task(_serve(reader, writer, handlers, busy=len(askers) >= MOST_ASKERS), name="asker")
        askers.add(asker)
        asker.add_done_callback(askers.discard)

    path = data_directory / SOCKET_NAME
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(connected, sock=_bound(data_directory), limit=LONGEST_REQUEST_BYTES)
    try:
        yield
    finally:
        server.close()
        path.unlink(missing_ok=True)
        for asker in askers:
            asker.cancel()
        await asyncio.gather(*askers, return_exceptions=True)


class _AskerLeft(Exception):
    """Nobody reads the answer."""


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handlers: Mapping[str, Handler], *, busy: bool
) -> None:
    """Answer one asker."""
    # A line is sent when the kernel has all of it, so nothing is left to be sent in the end.
    writer.transport.set_write_buffer_limits(high=0)
    try:
        try:
            request = await _read_request(reader)
            if busy:
                raise GatewayError(f"{MOST_ASKERS} others ask already", where="control", remedy="Try again in a moment")
            async with aclosing(_begin(request, handlers)) as answers:
                async for answer in answers:
                    await _send(writer, answer)
        except GatewayError as error:
            texts = {"what": error.what, "where": error.where, "remedy": error.remedy}
            await _send(writer, {"error": {"kind": type(error).__name__, **texts}})
        else:
            await _send(writer, {"done": True})
    except _AskerLeft:
        pass  # whoever left needs no answer
    finally:
        writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    try:
        async with asyncio.timeout(_ASKS_WITHIN_S):
            request = await reader.readline()
    except ValueError:
        raise _invalid(f"is longer than {LONGEST_REQUEST_BYTES} bytes") from None
    except (OSError, TimeoutError):
        raise _AskerLeft from None
    if not request:
        raise _AskerLeft
    return request


def _begin(request: bytes, handlers: Mapping[str, Handler]) -> AsyncGenerator[Answer, None]:
    """Start the work that a request asks for."""
    try:
        arguments = orjson.loads(request)
    except orjson.JSONDecodeError:
        raise _invalid("is not JSON") from None
    name = arguments.pop("request", None) if isinstance(arguments, dict) else None
    if not isinstance(name, str):
        raise _invalid("does not say what is asked for")
    handler = handlers.get(name)
    if handler is None:
        raise _invalid(f"{name[:60]!r} is not known", f"This gateway knows {', '.join(sorted(handlers))}")
    given = {key: value for key, value in arguments.items() if value is not None}
    for key, value in given.items():
        wanted = handler.arguments.get(key)
        if wanted is None:
            known = ", ".join(sorted(handler.arguments)) or "none"
            raise _invalid(f"{name} has no argument {key[:60]!r}", f"Arguments: {known}")
        # Whole numbers are good where fractions are; true and false are numbers to Python, but to nobody else.
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise _invalid(f"{name}: {key} is not of type {wanted.__name__}")
    return handler.answer(**given)


def _invalid(what: str, remedy: str = "") -> RequestInvalid:
    return RequestInvalid(f"the request {what}", where="control", remedy=remedy)


async def _send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Send a line, and wait until it is read."""
    try:
        writer.write(orjson.dumps(answer) + b"\n")
        async with asyncio.timeout(_READS_WITHIN_S):
            await writer.drain()
    except (OSError, TimeoutError):
        raise _AskerLeft from None
    await asyncio.sleep(0)  # an asker that reads fast must not keep the links waiting


def _bound(directory: Path) -> socket.socket:
    """A socket in `directory`, with mode 0600 from its first moment on."""
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        bound.bind(_short_path(descriptor))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(mask)
        os.close(descriptor)
    return bound


def _short_path(directory: int) -> str:
    """The socket in an open directory. A path may have 107 bytes; this one is short however deep the directory."""
    return f"/proc/self/fd/{directory}/{SOCKET_NAME}"


# --- the asker's side -------------------------------------------------------------------------------------------------


_KINDS: Final = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, GatewayError)
}
"""The errors a gateway may tell. They are raised as they were there, so that they end the asker's command alike."""


async def ask(data_directory: Path, request: str, **arguments: object) -> AsyncGenerator[Answer, None]:
    """Ask the gateway that runs on `data_directory`, and return the lines of its answer as they come.

    Args:
        data_directory: the gateway's.
        request: its name.
        arguments: the request's; None is the same as leaving it out.

    Raises:
        NotRunning: no gateway runs there.
        GatewayError: it cannot be asked, or breaks off its answer; or the error it answers with, of the same type.
    """
    reader, writer = await _connect(data_directory)
    try:
        writer.write(orjson.dumps({"request": request, **arguments}) + b"\n")
        while True:
            match await _receive(reader, data_directory):
                case {"done": True}:
                    return
                case {"error": {"kind": str(kind), "what": str(what), "where": str(where), "remedy": str(remedy)}}:
                    raise _KINDS.get(kind, GatewayError)(what, where=where, remedy=remedy)
                case answer:
                    yield answer
    finally:
        writer.close()


async def ask_status(data_directory: Path) -> dict[str, Any]:
    """The status of the gateway that runs on `data_directory`.

    Raises:
        NotRunning: none runs there.
        GatewayError: it does not answer.
    """
    [answer] = [each async for each in ask(data_directory, "status")]
    status: dict[str, Any] = answer["status"]
    return status


async def _connect(data_directory: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = str(data_directory)
    try:
        directory = os.open(data_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise GatewayError(
            f"cannot be opened: {error.strerror}", where=where, remedy="Check data_directory, and who may read it"
        ) from error
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            return await asyncio.open_unix_connection(_short_path(directory), limit=LONGEST_ANSWER_BYTES)
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise NotRunning(
            "no gateway answers here", where=where, remedy="Start it: edge-gateway run --config gateway.yaml"
        ) from error
    except PermissionError as error:
        raise GatewayError(
            "this user may not ask the gateway", where=where, remedy="Ask as the user it runs as, with sudo -u"
        ) from error
    except (OSError, TimeoutError) as error:
        raise _silent(data_directory) from error
    finally:
        os.close(directory)


async def _receive(reader: asyncio.StreamReader, data_directory: Path) -> Answer:
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN_S):
            line = await reader.readuntil(b"\n")
        answer = orjson.loads(line)
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, orjson.JSONDecodeError) as error:
        raise _silent(data_directory) from error
    if not isinstance(answer, dict):
        raise _silent(data_directory)
    return answer


def _silent(data_directory: Path) -> GatewayError:
    return GatewayError(
        "the gateway does not answer, or broke off its answer",
        where=str(data_directory),
        remedy="It may be stopping: try again, and look at its log",
    )
