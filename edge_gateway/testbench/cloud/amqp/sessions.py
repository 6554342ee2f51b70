"""Sessions and links, as the service at their other end sees them; no I/O (OASIS amqp-core-transport-v1.0, 2.5-2.6).

What links lead to is not: that is asked of `Nodes` when the client attaches one, and they say no by `Refused`.

- The client begins everything: sessions, links. They are answered under the client's own channels and handles.
- On a link to the service each message is taken or refused at once, and settled with that. So credit and window are
  renewed before a client can run out of them.
- On a link to the client messages wait for credit. Delivered is what the client has settled.
- What breaks AMQP ends the smallest thing it concerns, a link, a session or the connection, with an error that says
  why (OASIS amqp-core-transport-v1.0, section 2.8).
- Bounded: frames, channels, handles, and the parts of messages that are not whole yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog

from edge_gateway.testbench.cloud.amqp.composites import (
    Accepted,
    Attach,
    Begin,
    Detach,
    Disposition,
    Error,
    Flow,
    Received,
    Rejected,
    Released,
    State,
    Transfer,
    write,
)
from edge_gateway.testbench.cloud.amqp.frames import FRAME_HEAD_BYTES
from edge_gateway.testbench.cloud.amqp.message import Message, decode_message
from edge_gateway.testbench.cloud.amqp.values import Malformed, Symbol, Uint, Ulong, Ushort

_log = structlog.get_logger()

MAX_MESSAGE_BYTES = 256 * 1024
_MAX_HANDLE = 63
_WINDOW_FRAMES = 2048
_CREDIT = 100
_MAX_LOGGED = 200
"""Characters of what a client has written."""
_MASK = 0xFFFF_FFFF
"""Counters of deliveries and frames go round at 2^32 (RFC 1982)."""
_SERVICE_RECEIVES, _SERVICE_SENDS = True, False
_UNSETTLED, _SETTLED = 0, 1


class Refused(Exception):
    """The service does not do what the client asks for.

    Args:
        condition: why, for the client's code, e.g. `amqp:not-found`.
        description: why, for people.
    """

    def __init__(self, condition: str, description: str) -> None:
        super().__init__(description)
        self.error = Error(Symbol(condition), description)

    def log(self, event: str, address: str) -> None:
        """Tell the bench's log what the client is told."""
        condition, reason = str(self.error.condition), self.error.description or ""
        _log.info(event, address=address[:_MAX_LOGGED], condition=condition, reason=reason[:_MAX_LOGGED])


class Outlet(Protocol):
    """Where the messages of a link to the client come from."""

    def wake(self) -> None:
        """More may be sent now; see `OutgoingLink.ready`."""

    def closed(self) -> None:
        """The link has ended. Called once."""


class Nodes(Protocol):
    """What links lead to."""

    def attach_incoming(self, link: IncomingLink) -> Callable[[Message], None]:
        """The client wants to send; return what takes its messages, and raises `Refused` for those it does not want.

        Raises:
            Refused: not there.
        """

    def attach_outgoing(self, link: OutgoingLink) -> Outlet:
        """The client wants to receive; return what sends to it.

        Raises:
            Refused: not from there.
        """


class Carrier(Protocol):
    """The connection sessions are in."""

    writable: bool
    """Whether the client keeps up with what is written."""
    max_frame_bytes: int
    """The client takes no larger ones."""

    @property
    def nodes(self) -> Nodes:
        """What links lead to."""

    def send(self, composite: Any, channel: int) -> None:
        """Send a frame."""

    def send_body(self, body: bytes, channel: int) -> None:
        """Send a frame that is encoded already."""

    def hold(self, size_bytes: int) -> None:
        """Count parts of messages that are kept, or let go of if negative.

        Raises:
            Refused: that is too much.
        """


class Link:
    """One end of a link, the service's."""

    def __init__(self, session: Session, attach: Attach, address: str) -> None:
        self.session = session
        self.handle = attach.handle
        self.name = attach.name
        self.address = address
        """Of the node at the service."""
        self.properties = attach.properties if attach.properties is not None else {}
        wanted = attach.desired_capabilities
        self.desired_capabilities = frozenset((wanted,) if isinstance(wanted, Symbol) else wanted or ())
        self.over = False
        """It has ended, and the client may not know yet."""

    def detach(self, error: Error | None = None) -> None:
        """End the link; the client hears why."""
        if not self.over:
            self.end()
            self.session.send(Detach(self.handle, closed=True, error=error))

    def end(self) -> None:
        """Leave the link as ended."""
        self.over = True


class IncomingLink(Link):
    """The client sends on it."""

    def __init__(self, session: Session, attach: Attach, address: str) -> None:
        super().__init__(session, attach, address)
        self._take: Callable[[Message], None] | None = None
        self._partial = bytearray()
        """Of the message that is coming, as `_delivery_id`, and whether it is `_settled` on the client's side."""
        self._delivery_id: Uint | None = None
        self._settled = False
        self._credit = 0
        self._delivery_count = attach.initial_delivery_count or 0

    def open(self, take: Callable[[Message], None]) -> None:
        """Let the client send."""
        self._take = take
        self._grant()

    def transfer(self, transfer: Transfer, payload: bytes) -> None:
        """A message or a part of one has come.

        Raises:
            Refused: the link has to end.
        """
        if self._delivery_id is None:
            self._delivery_id = transfer.delivery_id
        if self._delivery_id is None:
            raise Refused("amqp:invalid-field", "a delivery without an id")
        self._settled |= bool(transfer.settled)
        self._partial += payload
        self.session.connection.hold(len(payload))
        if len(self._partial) > MAX_MESSAGE_BYTES:
            raise Refused("amqp:link:message-size-exceeded", f"more than {MAX_MESSAGE_BYTES} bytes")
        if transfer.aborted:
            self._next()
        elif not transfer.more:
            delivery_id, settled, message = self._delivery_id, self._settled, bytes(self._partial)
            self._next()
            state = self._judge(message)
            if not settled:
                self.session.send(Disposition(_SERVICE_RECEIVES, delivery_id, delivery_id, True, state))
        if self._credit < _CREDIT // 2 and not self.over:
            self._grant()

    def end(self) -> None:
        """Leave the link as ended, and forget what has come of a message."""
        super().end()
        self._let_go()

    def _judge(self, message: bytes) -> State:
        assert self._take is not None, "the client has credit"  # noqa: S101 - only `open` gives it
        try:
            self._take(decode_message(message))
        except Malformed as error:
            return Rejected(Error(Symbol("amqp:decode-error"), error.what))
        except Refused as refused:
            refused.log("testbench.amqp.rejected", self.address)
            return Rejected(refused.error)
        return Accepted()

    def _grant(self) -> None:
        self._credit = _CREDIT
        self.session.flow(self, Uint(self._delivery_count), Uint(self._credit))

    def _next(self) -> None:
        self._delivery_count = self._delivery_count + 1 & _MASK
        self._credit -= 1
        self._let_go()

    def _let_go(self) -> None:
        self.session.connection.hold(-len(self._partial))
        self._partial.clear()
        self._delivery_id, self._settled = None, False


class OutgoingLink(Link):
    """The client receives on it."""

    def __init__(self, session: Session, attach: Attach, address: str) -> None:
        super().__init__(session, attach, address)
        self.source_filter = attach.source.filter if attach.source is not None and attach.source.filter else {}
        self.reply_address = attach.target.address if attach.target is not None else None
        self._settle_mode = attach.snd_settle_mode
        self._outlet: Outlet | None = None
        self._waiting: deque[tuple[bytes, Callable[[State], None] | None]] = deque()
        self._credit = 0
        self._delivery_count = 0

    def open(self, outlet: Outlet) -> None:
        """Let the service send."""
        self._outlet = outlet

    @property
    def waiting(self) -> int:
        """How many messages wait for credit."""
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether a message would go out at once."""
        return self._credit > len(self._waiting) and self.session.ready

    def send(self, message: bytes, on_settled: Callable[[State], None] | None = None) -> None:
        """Send a message as soon as there is credit.

        Args:
            message: encoded.
            on_settled: called once with what the client, or the end of the link, made of it. None: it is settled
                with being sent, if the client left that to the service.
        """
        self._waiting.append((message, on_settled))
        self._pump()

    def flow(self, flow: Flow) -> None:
        """The client has told how much it takes."""
        credit = (flow.delivery_count or 0) + (flow.link_credit or 0) - self._delivery_count & _MASK
        self._credit = credit if credit <= _MASK // 2 else 0
        self._pump()
        if flow.drain:  # nothing more is at hand: use the credit up
            self._delivery_count = self._delivery_count + self._credit & _MASK
            self._credit = 0
            self.session.flow(self, Uint(self._delivery_count), Uint(0), drain=True)
        self.wake()

    def wake(self) -> None:
        """Tell the outlet if more may be sent."""
        if self._outlet is not None and not self.over and self.ready:
            self._outlet.wake()

    def end(self) -> None:
        """Leave the link as ended; what is not settled is given back."""
        super().end()
        while self._waiting:  # last first, so that what is given back lines up as it was
            _, on_settled = self._waiting.pop()
            if on_settled is not None:
                on_settled(Released())
        self.session.forget(self)
        if self._outlet is not None:
            self._outlet.closed()

    def _pump(self) -> None:
        while self._waiting and self._credit and not self.over:
            message, on_settled = self._waiting.popleft()
            self._credit -= 1
            self._delivery_count = self._delivery_count + 1 & _MASK
            settled = self._settle_mode == _SETTLED or (on_settled is None and self._settle_mode != _UNSETTLED)
            self.session.deliver(self, message, on_settled, settled=settled)


class Session:
    """One of the client's sessions: links, and how many frames may be on their way."""

    def __init__(self, connection: Carrier, channel: int, begin: Begin) -> None:
        self.connection = connection
        self.over = False
        """It has ended, and the client may not know yet."""
        self._channel = channel
        self._links: dict[int, IncomingLink | OutgoingLink] = {}
        self._next_incoming_id = int(begin.next_outgoing_id)
        self._incoming_frames = _WINDOW_FRAMES
        """How many more transfers the client may send."""
        self._outgoing_frames = int(begin.incoming_window)
        """How many more transfers the client takes."""
        self._next_outgoing_id = 0
        self._next_delivery_id = 0
        self._waiting: deque[tuple[OutgoingLink, bytes]] = deque()
        """Transfers the client does not take yet."""
        self._unsettled: dict[int, tuple[OutgoingLink, Callable[[State], None]]] = {}
        window = Uint(_WINDOW_FRAMES)
        self.send(Begin(Ushort(channel), Uint(0), window, window, Uint(_MAX_HANDLE)))

    @property
    def ready(self) -> bool:
        """Whether a message would go out at once, were there credit."""
        return self._outgoing_frames > 0 and not self._waiting and self.connection.writable

    @property
    def links(self) -> Sequence[IncomingLink | OutgoingLink]:
        """Those that have not ended, in the order they were attached."""
        return [link for link in self._links.values() if not link.over]

    def send(self, composite: Any) -> None:
        """Send a frame."""
        self.connection.send(composite, self._channel)

    def flow(
        self,
        link: Link | None = None,
        delivery_count: Uint | None = None,
        credit: Uint | None = None,
        *,
        drain: bool | None = None,
    ) -> None:
        """Tell the client how much may be sent, in the session and on a link."""
        self._incoming_frames = _WINDOW_FRAMES
        handle = link.handle if link is not None else None
        incoming, outgoing = Uint(self._next_incoming_id), Uint(self._next_outgoing_id)
        window = Uint(_WINDOW_FRAMES)
        self.send(Flow(incoming, window, outgoing, window, handle, delivery_count, credit, drain=drain))

    def deliver(
        self, link: OutgoingLink, message: bytes, on_settled: Callable[[State], None] | None, *, settled: bool
    ) -> None:
        """Send a message, in as many frames as the client's size of frames asks for."""
        delivery_id = Uint(self._next_delivery_id)
        self._next_delivery_id = self._next_delivery_id + 1 & _MASK
        if on_settled is not None and settled:
            on_settled(Accepted())
        elif on_settled is not None:
            self._unsettled[delivery_id] = link, on_settled
        last = Transfer(link.handle, delivery_id, delivery_id.to_bytes(4, "big"), Uint(0), settled, more=False)
        head = write(last)
        room_bytes = self.connection.max_frame_bytes - FRAME_HEAD_BYTES - len(head)
        start = 0
        while len(message) - start > room_bytes:
            part = write(replace(last, more=True)) + message[start : start + room_bytes]
            self._waiting.append((link, part))
            start += room_bytes
        self._waiting.append((link, head + message[start:]))
        self._pump()

    def forget(self, link: OutgoingLink) -> None:
        """Give back what was sent on a link that has ended and is not settled."""
        mine = [delivery_id for delivery_id, (sender, _) in self._unsettled.items() if sender is link]
        for delivery_id in reversed(mine):
            self._unsettled.pop(delivery_id)[1](Released())

    def wake(self) -> None:
        """Tell all links to the client if more may be sent."""
        for link in self.links:
            if isinstance(link, OutgoingLink):
                link.wake()

    def end(self) -> None:
        """Leave the session as ended, and its links."""
        self.over = True
        for link in self.links:
            link.end()
        self._waiting.clear()

    def handle(self, composite: Any, payload: bytes) -> None:
        """Do what a frame of the client's asks for.

        Raises:
            Refused: the session has to end.
        """
        match composite:
            case Attach():
                self._attach(composite)
            case Flow():
                self._flow(composite)
            case Transfer():
                self._transfer(composite, payload)
            case Disposition():
                self._settle(composite)
            case Detach():
                link = self._links.pop(composite.handle, None)
                if link is None:
                    raise Refused("amqp:session:unattached-handle", f"no link has handle {composite.handle}")
                if not link.over:
                    link.end()
                    self.send(Detach(link.handle, composite.closed))
            case _:
                raise Refused("amqp:not-allowed", f"{type(composite).__name__} in a session")

    def _attach(self, attach: Attach) -> None:
        if attach.handle in self._links:
            raise Refused("amqp:session:handle-in-use", f"handle {attach.handle}")
        if attach.handle > _MAX_HANDLE:
            raise Refused("amqp:resource-limit-exceeded", f"{_MAX_HANDLE + 1} links in a session")
        terminus = attach.source if attach.role else attach.target
        address = terminus.address if terminus is not None and terminus.address is not None else ""
        answer = replace(
            attach,
            role=not attach.role,
            unsettled=None,
            incomplete_unsettled=None,
            max_message_size=Ulong(MAX_MESSAGE_BYTES),
            offered_capabilities=None,
            desired_capabilities=None,
            properties=None,
        )
        link: IncomingLink | OutgoingLink
        try:
            if attach.role:
                link = self._links[attach.handle] = OutgoingLink(self, attach, address)
                outlet = self.connection.nodes.attach_outgoing(link)
                self.send(replace(answer, initial_delivery_count=Uint(0)))
                link.open(outlet)
            else:
                link = self._links[attach.handle] = IncomingLink(self, attach, address)
                take = self.connection.nodes.attach_incoming(link)
                self.send(replace(answer, initial_delivery_count=None))
                link.open(take)
        except Refused as refused:
            refused.log("testbench.amqp.refused", address)
            # Attached to nothing and detached at once: how AMQP says no to a link (section 2.6.3).
            answer = replace(answer, initial_delivery_count=Uint(0) if attach.role else None)
            self.send(replace(answer, source=None) if attach.role else replace(answer, target=None))
            self._links[attach.handle].detach(refused.error)

    def _flow(self, flow: Flow) -> None:
        room = (flow.next_incoming_id or 0) + flow.incoming_window - self._next_outgoing_id & _MASK
        self._outgoing_frames = room if room <= _MASK // 2 else 0
        self._pump()
        if flow.handle is None:
            self.wake()
        else:
            link = self._link(flow.handle)
            if isinstance(link, OutgoingLink) and not link.over:
                link.flow(flow)
        if flow.echo:
            self.flow()

    def _transfer(self, transfer: Transfer, payload: bytes) -> None:
        self._next_incoming_id = self._next_incoming_id + 1 & _MASK
        self._incoming_frames -= 1
        link = self._link(transfer.handle)
        if not isinstance(link, IncomingLink):
            raise Refused("amqp:not-allowed", "a message on a link to the client")
        if not link.over:
            try:
                link.transfer(transfer, payload)
            except Refused as refused:
                link.detach(refused.error)
        if self._incoming_frames < _WINDOW_FRAMES // 2:
            self.flow()

    def _settle(self, disposition: Disposition) -> None:
        undecided = isinstance(disposition.state, Received | None)
        if not disposition.role or (undecided and not disposition.settled):
            return
        last = disposition.last if disposition.last is not None else disposition.first
        for delivery_id in [each for each in reversed(self._unsettled) if disposition.first <= each <= last]:
            _, on_settled = self._unsettled.pop(delivery_id)
            on_settled(disposition.state if disposition.state is not None else Released())
        if not disposition.settled:  # the client settles second: tell it that it may
            self.send(replace(disposition, role=_SERVICE_SENDS, settled=True))

    def _link(self, handle: int) -> IncomingLink | OutgoingLink:
        link = self._links.get(handle)
        if link is None:
            raise Refused("amqp:session:unattached-handle", f"no link has handle {handle}")
        return link

    def _pump(self) -> None:
        while self._waiting and self._outgoing_frames:
            link, body = self._waiting.popleft()
            if not link.over:
                self._outgoing_frames -= 1
                self._next_outgoing_id = self._next_outgoing_id + 1 & _MASK
                self.connection.send_body(body, self._channel)
