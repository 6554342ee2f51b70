"""An AMQP 1.0 client that does what a test says: links on one session, messages, outcomes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.cloud.amqp.composites import (
    Attach,
    Begin,
    Detach,
    Disposition,
    Error,
    Flow,
    Open,
    Properties,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    Source,
    State,
    Target,
    Transfer,
    read_first,
    write,
)
from edge_gateway.testbench.cloud.amqp.frames import AMQP, AMQP_HEADER, SASL, SASL_HEADER, Frame, FrameReader
from edge_gateway.testbench.cloud.amqp.message import Message, decode_message
from edge_gateway.testbench.cloud.amqp.values import Array, Described, Symbol, Ubyte, Uint, Ulong, Value

from .mqtt_client import soon

T = TypeVar("T")

SAS_TOKEN = "servicebus.windows.net:sastoken"
_PART_BYTES = 60_000
SELECTOR = Symbol("apache.org:selector-filter:string")


class Refusal(Exception):
    """The service has detached a link, or ended something else."""

    def __init__(self, error: Error | None) -> None:
        super().__init__(error)
        self.condition = str(error.condition) if error is not None else ""


class AmqpClient:
    """One connection with one session."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._stream, self._writer = reader, writer
        self._frames = FrameReader(1 << 20)
        self._heard: list[Any] = []
        self._parts: list[tuple[Transfer, bytes]] = []
        """Of messages that came while something else was waited for."""
        self._handles = itertools.count()
        self._deliveries = itertools.count()
        self._credits: dict[int, int] = {}

    def send(self, composite: Any, payload: bytes = b"", kind: int = AMQP) -> None:
        self._writer.write(Frame(kind, 0, write(composite) + payload).encode())

    async def hear(self) -> Any:
        """The next frame; a transfer with its bytes. An empty one is passed over."""
        while not self._heard:
            data = await soon(self._stream.read(65_536))
            if not data:
                raise ConnectionResetError("the service has closed the connection")
            for each in self._frames.feed(data):
                if isinstance(each, Frame) and each.body:
                    composite, end = read_first(each.body, 0)
                    self._heard.append((composite, each.body[end:]) if isinstance(composite, Transfer) else composite)
        return self._heard.pop(0)

    async def hears(self, kind: type[T]) -> T:
        """The next frame of this kind. Messages and flows that come before it are no surprise, a detach is one."""
        while True:
            frame = await self.hear()
            if isinstance(frame, kind):
                return frame
            if isinstance(frame, tuple):
                self._parts.append(frame)
            elif isinstance(frame, Detach):
                raise Refusal(frame.error)
            else:
                assert isinstance(frame, Flow | Disposition), frame

    async def sasl(self, mechanism: str, response: bytes | None = None) -> int:
        """Prove itself; the outcome's code."""
        self._writer.write(SASL_HEADER)
        await self.hears(SaslMechanisms)
        self.send(SaslInit(Symbol(mechanism), response), kind=SASL)
        return (await self.hears(SaslOutcome)).code

    async def open(self, *, max_frame_bytes: int | None = None) -> None:
        self._writer.write(AMQP_HEADER)
        largest = Uint(max_frame_bytes) if max_frame_bytes is not None else None
        self.send(Open("test", max_frame_size=largest))
        await self.hears(Open)
        self.send(Begin(None, Uint(0), Uint(1000), Uint(1000)))
        await self.hears(Begin)

    async def sender(self, address: str) -> int:
        """A link to the service; its handle."""
        handle = Uint(next(self._handles))
        self.send(Attach(f"to-{handle}", handle, role=False, source=Source("test"), target=Target(address)))
        await self.hears(Attach)
        # The service says yes by giving credit, or no by detaching.
        await self.hears(Flow)
        return handle

    async def receiver(
        self,
        address: str,
        *,
        selector: str | None = None,
        credit: int = 100,
        properties: Mapping[str, Value] | None = None,
        wants: str | None = None,
        settled: bool = False,
    ) -> int:
        """A link from the service; its handle. The service may still detach it."""
        handle = Uint(next(self._handles))
        filters = {SELECTOR: Described(Ulong(0x468C00000004), selector)} if selector is not None else None
        attach = Attach(
            f"from-{handle}",
            handle,
            role=True,
            snd_settle_mode=Ubyte(1 if settled else 0),
            source=Source(address, filter=filters),
            target=Target(f"reply-{handle}"),
            desired_capabilities=Array([Symbol(wants)]) if wants is not None else None,
            properties={Symbol(name): value for name, value in (properties or {}).items()} or None,
        )
        self.send(attach)
        answer = await self.hears(Attach)
        if answer.source is None:
            raise Refusal((await self.hear()).error)
        self.grant(handle, credit)
        return handle

    def grant(self, handle: int, credit: int) -> None:
        """Take so many more messages."""
        count = self._credits.get(handle, 0)
        self.send(Flow(Uint(0), Uint(1 << 30), Uint(0), Uint(1000), Uint(handle), Uint(count), Uint(credit)))

    async def put(self, handle: int, message: Message) -> State:
        """Send a message and wait for its outcome."""
        delivery_id, data = Uint(next(self._deliveries)), message.encode()
        first = Transfer(Uint(handle), delivery_id, b"x", more=len(data) > _PART_BYTES)
        self.send(first, data[:_PART_BYTES])
        for start in range(_PART_BYTES, len(data), _PART_BYTES):
            self.send(Transfer(Uint(handle), more=start + _PART_BYTES < len(data)), data[start : start + _PART_BYTES])
        state = (await self.hears(Disposition)).state
        assert state is not None
        return state

    async def take(self, handle: int | None = None) -> tuple[int, Message]:
        """The next message, on any link or one, with its delivery id."""
        whole = b""
        while True:
            known = [part for part in self._parts if handle in (None, part[0].handle)]
            if known:
                self._parts.remove(known[0])
            transfer, data = known[0] if known else await self.hears(tuple)
            if handle not in (None, transfer.handle):
                self._parts.append((transfer, data))
                continue
            whole += data
            if not transfer.more:
                self._credits[transfer.handle] = self._credits.get(transfer.handle, 0) + 1
                return transfer.delivery_id, decode_message(whole)

    def settle(self, delivery_id: int, state: State, *, first: int | None = None) -> None:
        """Settle a delivery, or all from another one up to it."""
        last = Uint(delivery_id)
        self.send(Disposition(True, Uint(first) if first is not None else last, last, settled=True, state=state))

    async def request(self, node: str, message: Message) -> Message:
        """Send a request on links of its own to and from a node; the reply."""
        answering = await self.receiver(node, credit=1)
        asking = await self.sender(node)
        properties = Properties(message_id=Ulong(7), reply_to=f"reply-{answering}")
        asked = Message(message.data, message.value, properties, message.application_properties)
        self.send(Transfer(Uint(asking), Uint(next(self._deliveries)), b"r", settled=True), asked.encode())
        _, reply = await self.take(answering)
        assert reply.properties.correlation_id == Ulong(7)
        return reply

    async def put_token(self, token: str, kind: str = SAS_TOKEN) -> int:
        """Ask for the rights of a token; the status."""
        operation: dict[str, Value] = {"operation": "put-token", "type": kind, "name": "test"}
        reply = await self.request("$cbs", Message(value=token, application_properties=operation))
        status = reply.application_properties["status-code"]
        assert isinstance(status, int)
        return status

    async def closed(self) -> list[Any]:
        """Wait until the service closes the connection; what it said before."""
        said = []
        with suppress(ConnectionResetError):
            while True:
                said.append(await self.hear())
        return said


@asynccontextmanager
async def amqp_client(address: str, port: int, authority: LocalAuthority) -> AsyncIterator[AmqpClient]:
    """A client with TLS up and nothing said."""
    reader, writer = await asyncio.open_connection(address, port, ssl=authority.client_context())
    try:
        yield AmqpClient(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):  # the service was first
            await writer.wait_closed()
