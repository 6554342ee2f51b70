"""One AMQP connection without I/O: what a client that says this hears, and what it cannot break."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.testbench.cloud.amqp.composites import (
    Accepted,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Error,
    Flow,
    Modified,
    Open,
    Received,
    Rejected,
    Released,
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
from edge_gateway.testbench.cloud.amqp.connection import MAX_FRAME_BYTES, Connection
from edge_gateway.testbench.cloud.amqp.frames import AMQP, AMQP_HEADER, SASL, SASL_HEADER, Frame, FrameReader
from edge_gateway.testbench.cloud.amqp.message import Message
from edge_gateway.testbench.cloud.amqp.sessions import MAX_MESSAGE_BYTES, IncomingLink, OutgoingLink, Refused
from edge_gateway.testbench.cloud.amqp.values import Array, Malformed, Symbol, Ubyte, Uint, Ulong, Ushort

T = TypeVar("T")

OPEN = Open("client", "hub")
BEGIN = Begin(None, Uint(7), Uint(100), Uint(100))
TO_SERVICE = Attach("to", Uint(0), role=False, source=Source("client"), target=Target("in"))
TO_CLIENT = Attach("from", Uint(1), role=True, source=Source("out"), target=Target("client"))


class Tap:
    """An outlet that notes what it is told."""

    def __init__(self) -> None:
        self.wakes = 0
        self.ended = False

    def wake(self) -> None:
        self.wakes += 1

    def closed(self) -> None:
        self.ended = True


class Post:
    """A service with one node that takes messages and one that sends them."""

    host_name = "hub"
    mechanisms = ("MSSBCBS", "PLAIN")

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.outlets: list[Tap] = []
        self.links: list[OutgoingLink] = []

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        return mechanism != "PLAIN" or response == b"\0me\0right"

    def attach_incoming(self, link: IncomingLink) -> Callable[[Message], None]:
        if link.address != "in":
            raise Refused("amqp:not-found", "nothing there")
        return self._take

    def attach_outgoing(self, link: OutgoingLink) -> Tap:
        if link.address != "out":
            raise Refused("amqp:not-found", "nothing there")
        self.links.append(link)
        self.outlets.append(Tap())
        return self.outlets[-1]

    def _take(self, message: Message) -> None:
        if message.data == b"bad":
            raise Refused("com.example:bad", "not wanted")
        self.taken.append(message)


class Client:
    """Sends what a test says to a connection and reads what comes back."""

    def __init__(self) -> None:
        self.service = Post()
        self._written: list[bytes] = []
        self._reader = FrameReader(MAX_FRAME_BYTES)
        self.connection = Connection(self.service, self._written.append, 120)

    def send(self, *composites: Any, channel: int = 0, payload: bytes = b"", kind: int = AMQP) -> None:
        for composite in composites:
            self.connection.receive(Frame(kind, channel, write(composite) + payload).encode())

    def heard(self) -> list[Any]:
        """What was written since the last call: headers as bytes, frames as (composite, payload) or composite."""
        data = b"".join(self._written)
        self._written.clear()
        return list(self._read(data))

    def hears(self, kind: type[T]) -> T:
        """The one frame that was written since the last call."""
        [frame] = self.heard()
        assert isinstance(frame, kind), frame
        return frame

    def begin(self, *attaches: Attach) -> None:
        """Open, begin, attach; what comes back is not looked at."""
        self.connection.receive(AMQP_HEADER)
        self.send(OPEN, BEGIN, *attaches)
        self.heard()

    def credit(self, credit: int, delivery_count: int = 0, *, window: int = 100, drain: bool | None = None) -> None:
        count, granted = Uint(delivery_count), Uint(credit)
        self.send(Flow(Uint(0), Uint(window), Uint(7), Uint(100), TO_CLIENT.handle, count, granted, drain=drain))

    def _read(self, data: bytes) -> Iterator[Any]:
        for each in self._reader.feed(data):
            if isinstance(each, bytes):
                yield each
            elif each.body:
                composite, end = read_first(each.body, 0)
                yield (composite, each.body[end:]) if isinstance(composite, Transfer) else composite


def transfer(number: int, data: bytes = b"x", **fields: Any) -> tuple[Transfer, bytes]:
    return Transfer(TO_SERVICE.handle, Uint(number), b"%d" % number, **fields), Message(data).encode()


def condition(frame: Any) -> str:
    """Why a link, session or connection was ended, or a message rejected."""
    error = getattr(frame.state, "error", None) if isinstance(frame, Disposition) else frame.error
    assert isinstance(error, Error)
    return error.condition


@pytest.fixture
def client() -> Client:
    return Client()


# Beginning and end


def test_opening(client: Client) -> None:
    """Header, SASL, open, begin and attach are each answered in kind, and who may send is told how much."""
    client.connection.receive(SASL_HEADER)
    mechanisms = Array([Symbol("MSSBCBS"), Symbol("PLAIN")])
    assert client.heard() == [SASL_HEADER, SaslMechanisms(mechanisms)]
    client.send(SaslInit(Symbol("MSSBCBS")), kind=SASL)
    assert client.heard() == [SaslOutcome(Ubyte(0))]
    client.connection.receive(AMQP_HEADER)
    assert client.heard() == [AMQP_HEADER]
    client.send(OPEN)
    assert client.hears(Open).container_id == "hub"
    client.send(BEGIN, channel=3)
    assert client.hears(Begin).remote_channel == 3
    client.send(TO_SERVICE, channel=3)
    attach, flow = client.heard()
    assert (attach.name, attach.handle, attach.role, attach.target) == ("to", 0, True, Target("in"))
    assert (flow.handle, flow.link_credit) == (0, 100)
    client.send(TO_CLIENT, channel=3)
    attach = client.hears(Attach)
    assert (attach.name, attach.handle, attach.role, attach.initial_delivery_count) == ("from", 1, False, 0)


@pytest.mark.parametrize(
    ("mechanism", "response"), [("PLAIN", b"\0me\0wrong"), ("PLAIN", None), ("EXTERNAL", b"")], ids=repr
)
def test_sasl_refuses(client: Client, mechanism: str, response: bytes | None) -> None:
    """Who does not prove itself hears so, and nothing more."""
    client.connection.receive(SASL_HEADER)
    client.heard()
    client.send(SaslInit(Symbol(mechanism), response), kind=SASL)
    assert client.heard() == [SaslOutcome(Ubyte(1))]
    assert client.connection.over


@pytest.mark.parametrize("data", [b"AMQP\0\1\1\0", b"AMQP\0\0\x09\1", b"AMQP\2\1\0\0"])
def test_another_protocol(client: Client, data: bytes) -> None:
    """Who wants another protocol hears which one is spoken, and the connection ends (transport, 2.2)."""
    client.connection.receive(data)
    assert client.heard() == [SASL_HEADER]
    assert client.connection.over


def test_header_out_of_place(client: Client) -> None:
    """After the opening, a protocol header ends the connection."""
    client.begin()
    client.connection.receive(AMQP_HEADER)
    assert client.connection.over


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\0\1\0\1", bytes(8)])
def test_nothing_is_said_to_who_has_not_opened(client: Client, data: bytes) -> None:
    """What is not AMQP at all ends the connection without a word."""
    client.connection.receive(data)
    assert client.heard() == []
    assert client.connection.over


def test_malformed_frame(client: Client) -> None:
    """A frame that cannot be read closes the connection with the reason."""
    client.begin()
    client.connection.receive(Frame(AMQP, 0, b"\xff").encode())
    assert condition(client.hears(Close)) == "amqp:decode-error"
    assert client.connection.over
    client.send(BEGIN)
    assert client.heard() == []


def test_frame_of_another_kind(client: Client) -> None:
    """SASL frames after the opening, and a second proof, end the connection."""
    client.begin()
    client.send(SaslInit(Symbol("MSSBCBS")), kind=SASL)
    assert condition(client.hears(Close)) == "amqp:decode-error"
    other = Client()
    other.connection.receive(SASL_HEADER)
    for _ in range(2):
        other.send(SaslInit(Symbol("MSSBCBS")), kind=SASL)
    assert other.connection.over


@pytest.mark.parametrize("first", [BEGIN, TO_CLIENT, End()], ids=lambda each: type(each).__name__)
def test_open_comes_first(client: Client, first: Any) -> None:
    """A frame before Open ends the connection."""
    client.connection.receive(AMQP_HEADER)
    client.send(first)
    assert client.connection.over


def test_close(client: Client) -> None:
    """Close is answered, ends all links, and gives back what is not settled."""
    client.begin(TO_CLIENT)
    states: list[State] = []
    client.credit(1)
    client.service.links[0].send(b"message", states.append)
    client.heard()
    client.send(Close())
    assert client.heard() == [Close()]
    assert (client.service.outlets[0].ended, states) == (True, [Released()])


def test_connection_lost(client: Client) -> None:
    """A connection that is lost ends its links as well, once."""
    client.begin(TO_CLIENT)
    client.connection.end()
    client.connection.end()
    assert client.service.outlets[0].ended
    assert client.heard() == []


def test_beat(client: Client) -> None:
    """An empty frame says that the service is there, and one from the client is welcome."""
    client.connection.beat()
    client.begin()
    client.connection.beat()
    client.connection.receive(Frame(AMQP, 0).encode())
    assert client.heard() == []
    assert not client.connection.over


# Sessions and links


@pytest.mark.parametrize(("channel", "begin"), [(0, BEGIN), (64, BEGIN), (1, replace(BEGIN, remote_channel=Ushort(1)))])
def test_sessions_that_cannot_be(client: Client, channel: int, begin: Begin) -> None:
    """A channel that is taken, too high, or an answer to a session nobody began ends the connection."""
    client.begin()
    client.send(begin, channel=channel)
    assert condition(client.hears(Close)) == "amqp:not-allowed"


def test_frame_without_a_session(client: Client) -> None:
    """A frame on a channel without a session ends the connection."""
    client.begin()
    client.send(TO_CLIENT, channel=5)
    assert condition(client.hears(Close)) == "amqp:not-allowed"


def test_end(client: Client) -> None:
    """A session ends with its links, and its channel is free again."""
    client.begin(TO_CLIENT)
    client.send(End())
    assert client.heard() == [End()]
    assert client.service.outlets[0].ended
    client.send(BEGIN)
    client.hears(Begin)


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (TO_SERVICE, "amqp:session:handle-in-use"),
        (Attach("x", Uint(64), role=True), "amqp:resource-limit-exceeded"),
        (Detach(Uint(9)), "amqp:session:unattached-handle"),
        (Transfer(Uint(9), Uint(0)), "amqp:session:unattached-handle"),
        (Transfer(Uint(1), Uint(0)), "amqp:not-allowed"),
        (SaslOutcome(Ubyte(0)), "amqp:not-allowed"),
        (Flow(None, Uint(1), Uint(1), Uint(1), Uint(9)), "amqp:session:unattached-handle"),
    ],
)
def test_what_ends_a_session(client: Client, frame: Any, why: str) -> None:
    """What makes no sense in a session ends it with the reason; the connection goes on."""
    client.begin(TO_SERVICE, TO_CLIENT)
    client.send(frame)
    assert condition(client.hears(End)) == why
    client.send(TO_SERVICE)
    assert client.heard() == []
    client.send(BEGIN, channel=1)
    client.hears(Begin)


@pytest.mark.parametrize(
    "attach",
    [
        Attach("x", Uint(5), role=False, source=Source("me"), target=Target("elsewhere")),
        Attach("x", Uint(5), role=True, source=Source("elsewhere"), target=Target("me")),
        Attach("x", Uint(5), role=True),
    ],
)
def test_refused_link(client: Client, attach: Attach) -> None:
    """A link to nowhere is attached to nothing and detached with the reason (transport, 2.6.3)."""
    client.begin()
    client.send(attach)
    answer, detach = client.heard()
    assert (answer.source if attach.role else answer.target) is None
    assert (detach.handle, detach.closed, condition(detach)) == (5, True, "amqp:not-found")
    client.send(Detach(Uint(5), closed=True))
    assert client.heard() == []


def test_detach(client: Client) -> None:
    """A link is detached by the client or by the service; the handle is free when both have said so."""
    client.begin(TO_CLIENT)
    client.send(Detach(TO_CLIENT.handle, closed=True))
    assert client.heard() == [Detach(TO_CLIENT.handle, closed=True)]
    client.send(TO_CLIENT)
    client.heard()
    client.service.links[1].detach(Error(Symbol("com.example:enough")))
    assert condition(client.hears(Detach)) == "com.example:enough"
    client.credit(5)
    client.send(Detach(TO_CLIENT.handle, closed=True))
    assert client.heard() == []
    assert [outlet.ended for outlet in client.service.outlets] == [True, True]


# To the service


def test_message_is_taken(client: Client) -> None:
    """A message is handed over and settled as accepted."""
    client.begin(TO_SERVICE)
    frame, payload = transfer(4)
    client.send(frame, payload=payload)
    assert client.heard() == [Disposition(True, Uint(4), Uint(4), True, Accepted())]
    assert [message.data for message in client.service.taken] == [b"x"]


def test_message_is_rejected(client: Client) -> None:
    """A message the service does not want, or that is none, is rejected with the reason, and the link goes on."""
    client.begin(TO_SERVICE)
    frame, payload = transfer(0, b"bad")
    client.send(frame, payload=payload)
    assert condition(client.hears(Disposition)) == "com.example:bad"
    client.send(transfer(1)[0], payload=b"\x01")
    assert condition(client.hears(Disposition)) == "amqp:decode-error"
    client.send(transfer(2)[0], payload=payload)
    client.hears(Disposition)


def test_settled_message_needs_no_answer(client: Client) -> None:
    """A message the client has settled itself is taken without a word."""
    client.begin(TO_SERVICE)
    frame, payload = transfer(0, settled=True)
    client.send(frame, payload=payload)
    assert client.heard() == []
    assert len(client.service.taken) == 1


def test_message_in_parts(client: Client) -> None:
    """A message may come in several frames, and be taken back before the last."""
    client.begin(TO_SERVICE)
    payload = Message(b"12345678").encode()
    last = Transfer(TO_SERVICE.handle)
    client.send(transfer(0, more=True)[0], payload=payload[:5])
    client.send(Transfer(TO_SERVICE.handle, aborted=True))
    client.send(transfer(1, more=True)[0], payload=payload[:5])
    client.send(Transfer(TO_SERVICE.handle, more=True), payload=payload[5:6])
    assert client.heard() == []
    client.send(last, payload=payload[6:])
    assert client.hears(Disposition).first == 1
    assert [message.data for message in client.service.taken] == [b"12345678"]


def test_message_without_an_id(client: Client) -> None:
    """A first frame without a delivery id ends the link."""
    client.begin(TO_SERVICE)
    client.send(Transfer(TO_SERVICE.handle), payload=b"x")
    assert condition(client.hears(Detach)) == "amqp:invalid-field"


def test_message_that_is_too_large(client: Client) -> None:
    """More than the largest message ends the link, and what comes after it on the link is passed over."""
    client.begin(TO_SERVICE)
    frame, _ = transfer(0, more=True)
    for _ in range(MAX_MESSAGE_BYTES // 60_000 + 2):
        client.send(frame, payload=bytes(60_000))
    assert condition(client.hears(Detach)) == "amqp:link:message-size-exceeded"


def test_parts_are_bounded(client: Client) -> None:
    """Parts of messages on many links together are bounded, and the room is there again when a link ends."""
    client.begin(*(Attach(str(n), Uint(n), role=False, target=Target("in")) for n in range(6)))
    for handle in range(6):
        for _ in range(4):
            client.send(Transfer(Uint(handle), Uint(handle), more=True), payload=bytes(60_000))
    assert [condition(frame) for frame in client.heard()] == ["amqp:resource-limit-exceeded"] * 2
    client.send(Detach(Uint(0)))
    client.heard()
    client.send(Transfer(Uint(1), Uint(1)), payload=b"")
    assert isinstance(client.hears(Disposition).state, Rejected)


def test_credit_is_renewed(client: Client) -> None:
    """A client that keeps sending is never short of credit."""
    client.begin(TO_SERVICE)
    for number in range(250):
        frame, payload = transfer(number)
        client.send(frame, payload=payload)
    flows = [frame for frame in client.heard() if isinstance(frame, Flow)]
    assert [(flow.delivery_count, flow.link_credit) for flow in flows] == [(n, 100) for n in (51, 102, 153, 204)]
    assert len(client.service.taken) == 250


def test_window_is_renewed(client: Client) -> None:
    """Frames of a long session find the window open."""
    client.begin(TO_SERVICE)
    for _ in range(1500):
        client.send(transfer(0, more=True)[0])
    [flow] = client.heard()
    assert (flow.handle, flow.next_incoming_id, flow.incoming_window) == (None, 7 + 1025, 2048)


# To the client


def test_messages_wait_for_credit(client: Client) -> None:
    """Messages go out in order, as many as the client has given credit for."""
    client.begin(TO_CLIENT)
    [link], [tap] = client.service.links, client.service.outlets
    for message in (b"1", b"2", b"3"):
        link.send(message)
    assert (client.heard(), link.waiting, link.ready) == ([], 3, False)
    client.credit(2)
    assert [payload for _, payload in client.heard()] == [b"1", b"2"]
    client.credit(2, delivery_count=1)
    assert [payload for _, payload in client.heard()] == [b"3"]
    assert (link.ready, tap.wakes) == (False, 0)
    client.credit(1, delivery_count=3)
    assert (link.ready, tap.wakes) == (True, 1)


def test_window_holds_messages_back(client: Client) -> None:
    """A message larger than the client's frames is cut, and its parts wait for the client's window."""
    client.connection.receive(AMQP_HEADER)
    client.send(Open("client", max_frame_size=Uint(512)), BEGIN, TO_CLIENT)
    client.credit(5, window=2)
    client.heard()
    [link] = client.service.links
    link.send(bytes(1200))
    assert not link.ready
    parts = client.heard()
    client.credit(5, window=4)
    parts += client.heard()
    assert [frame.more for frame, _ in parts] == [True, True, False]
    assert b"".join(payload for _, payload in parts) == bytes(1200)
    assert all(len(write(frame) + payload) <= 504 for frame, payload in parts)
    assert link.ready


def test_slow_client(client: Client) -> None:
    """While the transport is full nothing is ready; afterwards the outlets are told."""
    client.begin(TO_CLIENT)
    client.connection.writable = False
    client.credit(5)
    [link], [tap] = client.service.links, client.service.outlets
    assert (link.ready, tap.wakes) == (False, 0)
    client.connection.resume()
    assert (link.ready, tap.wakes) == (True, 1)


def test_drain(client: Client) -> None:
    """A client that drains gets what waits and its credit back."""
    client.begin(TO_CLIENT)
    [link] = client.service.links
    link.send(b"1")
    client.credit(10, drain=True)
    (_, payload), flow = client.heard()
    assert (payload, flow.delivery_count, flow.link_credit, flow.drain) == (b"1", 10, 0, True)
    assert not link.ready


def test_echo(client: Client) -> None:
    """A client that asks how things are is told."""
    client.begin()
    client.send(Flow(Uint(0), Uint(1), Uint(7), Uint(1), echo=True))
    assert client.hears(Flow).next_incoming_id == 7


@pytest.mark.parametrize(
    "state", [Accepted(), Rejected(), Released(), Modified()], ids=lambda each: type(each).__name__
)
def test_outcome(client: Client, state: State) -> None:
    """What the client makes of messages is told to their sender, once for each."""
    client.begin(TO_CLIENT)
    client.credit(3)
    states: list[tuple[int, State]] = []

    def note(number: int, state: State) -> None:
        states.append((number, state))

    for number in range(3):
        client.service.links[0].send(b"x", partial(note, number))
    assert [frame.settled for frame, _ in client.heard()] == [False] * 3
    for _ in range(2):
        client.send(Disposition(True, Uint(0), Uint(1), settled=True, state=state))
    assert states == [(1, state), (0, state)], "last first, so that what is given back lines up as it was"
    client.send(Disposition(True, Uint(2), state=state))
    assert client.heard() == [Disposition(False, Uint(2), settled=True, state=state)]
    assert states[2:] == [(2, state)]


def test_settled_without_a_state(client: Client) -> None:
    """What is only half told changes nothing, and a message that is settled without an outcome was not taken."""
    client.begin(TO_CLIENT)
    client.credit(1)
    states: list[State] = []
    client.service.links[0].send(b"x", states.append)
    client.send(Disposition(True, Uint(0)))
    client.send(Disposition(True, Uint(0), state=Received(Uint(0), Ulong(0))))
    client.send(Disposition(False, Uint(0), settled=True))
    assert states == []
    client.send(Disposition(True, Uint(0), settled=True))
    assert states == [Released()]


def test_link_that_ends_gives_back(client: Client) -> None:
    """What was sent or waits on a link that ends comes back, last first; that of other links does not."""
    client.begin(TO_CLIENT, replace(TO_CLIENT, handle=Uint(2), name="other"))
    client.credit(2)
    returned: list[int] = []

    def note(number: int, state: State) -> None:
        assert state == Released()
        returned.append(number)

    mine, other = client.service.links
    for number in range(4):
        mine.send(b"x", partial(note, number))
    other.send(b"x", partial(note, 9))
    client.send(Detach(TO_CLIENT.handle, closed=True))
    assert returned == [3, 2, 1, 0]


def test_parts_of_a_link_that_ends(client: Client) -> None:
    """Parts of a message that wait for the window are not sent after their link has ended."""
    client.begin(TO_CLIENT)
    client.credit(1, window=1)
    client.service.links[0].send(bytes(100_000))
    [(part, _)] = client.heard()
    assert part.more
    client.send(Detach(TO_CLIENT.handle, closed=True))
    client.hears(Detach)
    client.send(Flow(Uint(0), Uint(100), Uint(7), Uint(100)))
    assert client.heard() == []


@pytest.mark.parametrize(
    ("mode", "tracked", "settled"), [(0, 0, 0), (1, 0, 1), (2, 0, 1), (0, 1, 0), (1, 1, 1), (2, 1, 0)]
)
def test_who_settles(client: Client, mode: int, tracked: int, settled: int) -> None:
    """A message is sent as settled where the client wants that, or leaves it open and nobody waits for the outcome."""
    client.begin(replace(TO_CLIENT, snd_settle_mode=Ubyte(mode)))
    client.credit(1)
    states: list[State] = []
    client.service.links[0].send(b"x", states.append if tracked else None)
    [(frame, _)] = client.heard()
    assert frame.settled == bool(settled)
    assert states == ([Accepted()] if tracked and settled else [])


# What no client can do

HOSTILE: list[Any] = [
    OPEN, BEGIN, TO_SERVICE, TO_CLIENT, End(), Close(), Detach(Uint(0)), Detach(Uint(1)),
    Transfer(Uint(0), Uint(0)), Transfer(Uint(0), more=True), Transfer(Uint(1), Uint(0), aborted=True),
    Disposition(True, Uint(0), Uint(2**32 - 1), settled=True), Disposition(False, Uint(0)),
    Flow(Uint(5), Uint(2**32 - 1), Uint(0), Uint(0), Uint(1), Uint(2**32 - 1), Uint(2**32 - 1)),
    Flow(None, Uint(0), Uint(2**32 - 1), Uint(0), drain=True, echo=True),
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(HOSTILE), st.integers(0, 2), st.binary(max_size=9)), max_size=30))
def test_any_order(said: list[tuple[Any, int, bytes]]) -> None:
    """Frames in any order never raise, and what is answered is AMQP; a connection that is over stays silent."""
    client = Client()
    client.begin(TO_SERVICE, TO_CLIENT)
    for composite, channel, payload in said:
        was_over = client.connection.over
        client.send(composite, channel=channel, payload=payload)
        for link in client.service.links:
            if not link.over and link.waiting < 5:
                link.send(b"message", lambda _: None)
        heard = client.heard()
        assert not (was_over and heard)


@settings(max_examples=200)
@given(st.sampled_from([b"", SASL_HEADER, AMQP_HEADER]), st.lists(st.binary(max_size=300), max_size=10))
def test_arbitrary_bytes(start: bytes, said: list[bytes]) -> None:
    """Any bytes end in a clean close or wait for more, and no more than a frame of them is kept."""
    client = Client()
    for data in (start, *said):
        client.connection.receive(data)
        assert len(client.connection._reader._partial) < MAX_FRAME_BYTES
    try:
        client.heard()
    except Malformed:
        pytest.fail("the answer is not AMQP")


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_damaged_stream(seed: int, damages: int) -> None:
    """A good stream with some bytes changed never raises."""
    rng, client = random.Random(seed), Client()
    data = bytearray(AMQP_HEADER)
    for composite in (OPEN, BEGIN, TO_SERVICE, TO_CLIENT):
        data += Frame(AMQP, 0, write(composite)).encode()
    frame, payload = transfer(0)
    data += Frame(AMQP, 0, write(frame) + payload).encode()
    for _ in range(damages):
        data[rng.randrange(len(data))] = rng.randrange(256)
    client.connection.receive(bytes(data))
    client.heard()
