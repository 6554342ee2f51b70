"""One AMQP 1.0 client from its first byte to its end, as a service sees it; no I/O, no clock.

Bytes go in by `receive`; bytes come out by the `write` it was made with. It knows protocol headers, SASL, the opening
and the closing; the rest is its sessions' matter.

- A client that breaks AMQP hears why, and the connection ends in order (amqp-core-transport-v1.0, 2.4 and 2.8).
- One that breaks it before it has opened the connection hears nothing: there is no way to say it.
- Bounded: frames, channels, and the parts of messages that are not whole yet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import structlog

from edge_gateway.testbench.cloud.amqp.composites import (
    Begin,
    Close,
    End,
    Error,
    Open,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    read_first,
    write,
)
from edge_gateway.testbench.cloud.amqp.frames import AMQP, AMQP_HEADER, SASL, SASL_HEADER, Frame, FrameReader
from edge_gateway.testbench.cloud.amqp.sessions import Nodes, Refused, Session
from edge_gateway.testbench.cloud.amqp.values import Array, Malformed, Symbol, Ubyte, Uint, Ushort

_log = structlog.get_logger()

MAX_FRAME_BYTES = 64 * 1024
_MAX_PARTIAL_BYTES = 1024 * 1024
"""Of all messages of one connection that are not whole yet."""
_MIN_FRAME_BYTES = 512
"""What any client takes (amqp-core-transport-v1.0, 2.4.1)."""
_MAX_CHANNEL = 63


class Service(Nodes, Protocol):
    """What is behind the connection."""

    host_name: str

    @property
    def mechanisms(self) -> Sequence[str]:
        """How clients may prove themselves by SASL, best first."""

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """Whether a client may go on, by one of the mechanisms."""


class Connection:
    """One client.

    Args:
        service: what is behind the connection.
        write: takes what is to be sent to the client.
        idle_time_s: the client is asked to say something at least this often.
    """

    def __init__(self, service: Service, write: Callable[[bytes], None], idle_time_s: float) -> None:
        self.nodes: Nodes = service
        self._service = service
        self.writable = True
        """Whether the client keeps up with what is written; see `resume`."""
        self.max_frame_bytes = _MIN_FRAME_BYTES
        """The client takes no larger ones."""
        self.remote_idle_s: float | None = None
        """The client gives the connection up if it hears nothing for so long."""
        self.over = False
        """Nothing more is read or written."""
        self._write = write
        self._idle_time_s = idle_time_s
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self._sessions: dict[int, Session] = {}
        self._kind: int | None = None
        """Which frames may come, None before any protocol header."""
        self._admitted = True
        """Not while SASL is under way."""
        self._open = False
        self._partial_bytes = 0

    def receive(self, data: bytes) -> None:
        """Take what the client has sent and answer it."""
        try:
            for each in self._reader.feed(data):
                if self.over:
                    return
                if isinstance(each, bytes):
                    self._header(each)
                else:
                    self._frame(each)
        except Malformed as error:
            self.close(Error(Symbol("amqp:decode-error"), error.what))
        except Refused as refused:
            self.close(refused.error)

    def beat(self) -> None:
        """Let the client hear that the service is there."""
        if self._open:
            self._write(Frame(AMQP, 0).encode())

    def resume(self) -> None:
        """The client keeps up again."""
        self.writable = True
        for session in self._sessions.values():
            session.wake()

    def close(self, error: Error | None = None) -> None:
        """End the connection; the client hears why."""
        if not self.over:
            if error is not None:
                _log.info("testbench.amqp.closed", condition=str(error.condition), reason=error.description)
            if self._open:
                self.send(Close(error), 0)
            self.end()

    def end(self) -> None:
        """Leave the connection as ended, and all that is in it. May be called again."""
        self.over = True
        for session in self._sessions.values():
            if not session.over:
                session.end()

    def send(self, composite: Any, channel: int) -> None:
        """Send a frame."""
        self.send_body(write(composite), channel)

    def send_body(self, body: bytes, channel: int) -> None:
        """Send a frame that is encoded already."""
        if not self.over:
            self._write(Frame(AMQP, channel, body).encode())

    def hold(self, size_bytes: int) -> None:
        """Count parts of messages that are kept, or let go of if negative.

        Raises:
            Refused: that is too much.
        """
        self._partial_bytes += size_bytes
        if self._partial_bytes > _MAX_PARTIAL_BYTES:
            raise Refused("amqp:resource-limit-exceeded", f"{_MAX_PARTIAL_BYTES} bytes of parts of messages")

    def _header(self, header: bytes) -> None:
        expected = (AMQP_HEADER, SASL_HEADER) if self._kind is None else (AMQP_HEADER,)
        if header not in expected or self._open or not self._admitted:
            self._write(SASL_HEADER)  # what is spoken here (section 2.2)
            self.end()
            return
        self._write(header)
        if header == AMQP_HEADER:
            self._kind = AMQP
        else:
            self._kind, self._admitted = SASL, False
            mechanisms = SaslMechanisms(Array(map(Symbol, self._service.mechanisms)))
            self._write(Frame(SASL, 0, write(mechanisms)).encode())

    def _frame(self, frame: Frame) -> None:
        if frame.kind != self._kind:
            raise Malformed("a frame of a kind that was not agreed on")
        if not frame.body:
            return
        composite, end = read_first(frame.body, 0)
        if self._kind == SASL:
            self._authenticate(composite)
        elif isinstance(composite, Open) == self._open:
            raise Refused("amqp:not-allowed", "Open is the first frame, and only that")
        elif isinstance(composite, Open):
            self._answer_open(composite)
        elif isinstance(composite, Close):
            self.close()
        elif isinstance(composite, Begin):
            self._begin(frame.channel, composite)
        else:
            self._in_session(frame.channel, composite, frame.body[end:])

    def _authenticate(self, init: Any) -> None:
        if not isinstance(init, SaslInit) or self._admitted:
            raise Malformed("a SASL frame other than one init")
        known = init.mechanism in self._service.mechanisms
        self._admitted = known and self._service.authenticate(init.mechanism, init.initial_response or b"")
        self._write(Frame(SASL, 0, write(SaslOutcome(Ubyte(not self._admitted)))).encode())
        if not self._admitted:
            self.end()

    def _answer_open(self, client: Open) -> None:
        if client.max_frame_size is not None:
            self.max_frame_bytes = min(max(client.max_frame_size, _MIN_FRAME_BYTES), MAX_FRAME_BYTES)
        else:
            self.max_frame_bytes = MAX_FRAME_BYTES
        self.remote_idle_s = client.idle_time_out / 1000 if client.idle_time_out else None
        self._open = True
        idle_ms = Uint(self._idle_time_s * 1000)
        self.send(Open(self._service.host_name, None, Uint(MAX_FRAME_BYTES), Ushort(_MAX_CHANNEL), idle_ms), 0)

    def _begin(self, channel: int, begin: Begin) -> None:
        if channel in self._sessions or channel > _MAX_CHANNEL or begin.remote_channel is not None:
            raise Refused("amqp:not-allowed", f"a session on channel {channel}")
        self._sessions[channel] = Session(self, channel, begin)

    def _in_session(self, channel: int, composite: Any, payload: bytes) -> None:
        session = self._sessions.get(channel)
        if session is None:
            raise Refused("amqp:not-allowed", f"{type(composite).__name__} on channel {channel} without a session")
        if isinstance(composite, End):
            del self._sessions[channel]
            if not session.over:
                session.end()
                session.send(End())
        elif not session.over:
            try:
                session.handle(composite, payload)
            except Refused as refused:
                session.end()
                session.send(End(refused.error))
