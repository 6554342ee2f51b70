"""One MQTT client of the local cloud, from its first byte to its end; what its topics mean is a session's matter.

A connection knows MQTT and nothing of IoT Hub: packets, CONNECT first, keep-alive, the end of a token, confirmations
and the faults among them. With CONNECT it asks the service the client wants for a `Session`, and from then on hands it
what the client says. What breaks MQTT or a session's rules is cut off without a reason, as IoT Hub does.

Replies are gathered while a batch of bytes is worked through and written at once: a TLS record and a system call for
each of them would cost more than all the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol, cast

import structlog
from cryptography import x509

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.testbench.cloud.faults import Faults
from edge_gateway.testbench.cloud.mqtt.packets import (
    Connack,
    Connect,
    Disconnect,
    MalformedPacket,
    Packet,
    PacketReader,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from edge_gateway.testbench.cloud.refusals import AccessDenied

_log = structlog.get_logger()

MAX_MESSAGE_BYTES = 256 * 1024
_MAX_PACKET_BYTES = MAX_MESSAGE_BYTES + 65_535 + 16
"""A message of the largest size under the longest topic MQTT has."""
_CONNECT_WITHIN_S = 30.0
_KEEP_ALIVE_FACTOR = 1.5
_MAX_SILENCE_S = 1767.0
NOT_AUTHORISED = 5
UNAVAILABLE = 3


class RuleBroken(Exception):
    """A client did what the service does not allow; its connection is cut."""


class ConnectRefused(Exception):
    """A CONNECT is answered with a code other than "not authorised".

    Args:
        code: MQTT 3.1.1, section 3.2.2.3.
        why: for the log.
    """

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


class Session(Protocol):
    """What a service does with one client that it has let in. Called by its connection, in order."""

    @property
    def label(self) -> str:
        """Who the client is, for the log and to cut its connection by."""

    @property
    def expires_s(self) -> int | None:
        """The Unix second at which the client's token ends and its connection with it; None: never."""

    @property
    def session_present(self) -> bool:
        """Whether the client finds a session of an earlier connection."""

    def opened(self, connection: MqttConnection) -> None:
        """The client is in; CONNACK is on its way and what is sent now follows it."""

    def published(self, packet: Publish) -> None:
        """A message of QoS 0 or 1 came. Call `connection.confirm` with it once it is safe, now or later.

        Raises:
            RuleBroken: the client is to be cut off.
        """

    def confirmed(self, packet_id: int) -> None:
        """The client has confirmed what was published to it under this id, or an id nobody knows."""

    def subscribed(self, topic_filter: str, qos: int) -> int | None:
        """The client wants a topic; return the QoS it gets, or None to refuse."""

    def after_suback(self) -> None:
        """SUBACK is on its way; what waited for the subscription may follow."""

    def unsubscribed(self, topic_filter: str) -> None:
        """The client wants a topic no more."""

    def closed(self, *, orderly: bool) -> None:
        """The connection is over; `orderly` if the client said so by DISCONNECT. Called once."""


class Reception(Protocol):
    """Where connections come to: the front door."""

    faults: Faults

    def admit(self, connect: Connect, connection: MqttConnection) -> Session:
        """Find the service a client wants and have it let the client in.

        Raises:
            AccessDenied: it may not come in.
            ConnectRefused: it is turned away for another reason.
        """

    def arrived(self, connection: MqttConnection) -> None:
        """A connection is there."""

    def gone(self, connection: MqttConnection) -> None:
        """A connection has ended."""

    def denied(self) -> None:
        """A client was not let in."""

    def violated(self) -> None:
        """A client broke a rule and was cut off."""

    def changed(self) -> None:
        """Something may have happened that somebody waits for."""


class MqttConnection(asyncio.Protocol):
    """One client.

    Args:
        reception: where it came to.
        clock: wall time, by which tokens end.
        client_chain: reads the client's certificates from the transport.
    """

    def __init__(
        self,
        reception: Reception,
        clock: Clock,
        client_chain: Callable[[asyncio.BaseTransport], Sequence[x509.Certificate]],
    ) -> None:
        self._reception = reception
        self._faults = reception.faults
        self._clock = clock
        self._client_chain = client_chain
        self._loop = asyncio.get_running_loop()
        self._reader = PacketReader(_MAX_PACKET_BYTES)
        self._outgoing: list[bytes] = []
        self._withheld: list[bytes] = []
        self._session: Session | None = None
        self._over = False
        self.heard_s = self._loop.time()
        """When the client last sent anything, event loop time."""
        self._silence_s = _CONNECT_WITHIN_S
        self._watching: asyncio.TimerHandle | None = None
        self._backed_up = False
        self._delayed_until_s = 0.0

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # TCP and WebSockets are streams
        self._reception.arrived(self)
        self.freeze(self._faults.frozen)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio calls it with this name
        """End."""
        self._end(orderly=False)
        self._reception.gone(self)
        self._reception.changed()

    def pause_writing(self) -> None:
        """Read no more from a client that does not read."""
        self._backed_up = True
        self._steer_reading()

    def resume_writing(self) -> None:
        """Read again."""
        self._backed_up = False
        self._steer_reading()

    def data_received(self, data: bytes) -> None:
        """Work through what came and answer all of it at once."""
        self.heard_s = self._loop.time()
        broken: Exception | None = None
        try:
            packets = self._reader.feed(data)
        except MalformedPacket as error:
            packets, broken = list(error.packets), error
        try:
            for packet in packets:
                if self._over:
                    return
                self._handle(packet)
        except RuleBroken as error:
            broken = error
        self.flush()
        if broken is not None and not self._over:
            self._reception.violated()
            self.drop(f"violation: {broken.args[0]}")
        self._reception.changed()

    # What sessions and the front door ask for

    @property
    def label(self) -> str:
        """Whose connection it is; empty before CONNECT."""
        return self._session.label if self._session is not None else ""

    @property
    def client_chain(self) -> Sequence[x509.Certificate]:
        """The client's certificates, its own first; empty if it showed none."""
        return self._client_chain(self._transport)

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, packet_id: int = 0, dup: bool = False) -> None:
        """Send a message with the next `flush`."""
        self._outgoing.append(Publish(topic, payload, qos, packet_id, dup=dup).encode())

    def confirm(self, packet: Publish) -> None:
        """Say with the next `flush` that a message is safe, if it asks for that and no fault forbids it."""
        if not packet.qos:
            return
        puback = Puback(packet.packet_id).encode()
        faults = self._faults
        if faults.pubacks_withheld:
            self._withheld.append(puback)
        elif faults.puback_delay_s:
            self._loop.call_later(faults.puback_delay_s, self._confirm_late, puback)
        else:
            self._outgoing += [puback] * faults.puback_copies

    def release_pubacks(self) -> None:
        """Send the confirmations that were withheld."""
        self._outgoing += self._withheld
        self._withheld.clear()
        self.flush()

    def freeze(self, on: bool) -> None:
        """Stop or go on reading, writing and watching the time."""
        self._steer_reading()
        if self._watching is not None:
            self._watching.cancel()
        if not on and not self._over:
            self.heard_s = self._loop.time()
            self.flush()
            self.watch()

    def flush(self) -> None:
        """Write what was gathered."""
        if not self._outgoing or self._over or self._faults.frozen:
            return
        data = b"".join(self._outgoing)
        self._outgoing.clear()
        now_s = self._loop.time()
        if self._faults.delay_s or self._delayed_until_s > now_s:
            # Never before what is under way already, though the delay may have become shorter.
            self._delayed_until_s = max(self._delayed_until_s, now_s + self._faults.delay_s)
            self._loop.call_at(self._delayed_until_s, self._write, data)
        else:
            self._transport.write(data)

    def watch(self) -> None:
        """End a client that was silent too long or whose token has ended; look again when that may be so."""
        if self._watching is not None:
            self._watching.cancel()
        look_s = self.heard_s + self._silence_s
        if look_s <= self._loop.time():
            self.drop("silent")
            return
        expires_s = self._session.expires_s if self._session is not None else None
        if expires_s is not None:
            left_s = expires_s - self._clock.now_ns() / NS_PER_S
            if left_s <= 0:
                self.drop("token ended")
                return
            look_s = min(look_s, self._loop.time() + left_s)
        self._watching = self._loop.call_at(look_s, self.watch)

    def expire(self) -> None:
        """Cut the connection off as at the end of its token, if it has one."""
        if self._session is not None and self._session.expires_s is not None:
            self.drop("token ended")

    def drop(self, reason: str) -> None:
        """Cut the connection without a word to the client."""
        if not self._over:
            _log.info("testbench.mqtt.dropped", client=self.label, reason=reason)
        self._end(orderly=False)
        self._transport.abort()

    # Packets

    def _handle(self, packet: Packet) -> None:
        if self._session is None:
            if not isinstance(packet, Connect):
                raise RuleBroken("the first packet is not CONNECT")
            self._connect(packet)
            return
        match packet:
            case Publish():
                if packet.qos > 1:
                    raise RuleBroken("QoS 2")
                if not self._faults.loses():
                    self._session.published(packet)
            case Puback():
                self._session.confirmed(packet.packet_id)
            case Subscribe():
                granted = [self._session.subscribed(wanted, qos) for wanted, qos in packet.subscriptions]
                self._outgoing.append(Suback(packet.packet_id, tuple(granted)).encode())
                self._session.after_suback()
            case Unsubscribe():
                for topic_filter in packet.topic_filters:
                    self._session.unsubscribed(topic_filter)
                self._outgoing.append(Unsuback(packet.packet_id).encode())
            case Pingreq():
                self._outgoing.append(Pingresp().encode())
            case Disconnect():
                self._close(orderly=True)
            case _:
                raise RuleBroken(f"{type(packet).__name__} from a client")

    def _connect(self, packet: Connect) -> None:
        try:
            session = self._reception.admit(packet, self)
        except AccessDenied as error:
            self._turn_away(packet, NOT_AUTHORISED, error.what)
            return
        except ConnectRefused as error:
            self._turn_away(packet, error.code, str(error))
            return
        self._session = session
        keep_alive_s = packet.keep_alive_s * _KEEP_ALIVE_FACTOR
        self._silence_s = min(keep_alive_s, _MAX_SILENCE_S) if keep_alive_s else _MAX_SILENCE_S
        self._outgoing.append(Connack(0, session.session_present).encode())
        session.opened(self)
        self.watch()
        _log.info("testbench.mqtt.connected", client=session.label, session_present=session.session_present)

    def _turn_away(self, packet: Connect, code: int, reason: str) -> None:
        _log.info("testbench.mqtt.denied", client_id=packet.client_id, reason=reason)
        self._reception.denied()
        self._outgoing.append(Connack(code).encode())
        self._close(orderly=True)

    # Time and end

    def _steer_reading(self) -> None:
        if self._faults.frozen or self._backed_up:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _confirm_late(self, puback: bytes) -> None:
        self._outgoing.append(puback)
        self.flush()

    def _write(self, data: bytes) -> None:
        if not self._over:
            self._transport.write(data)

    def _close(self, *, orderly: bool) -> None:
        """Say what is to be said, then close in order."""
        self.flush()
        self._end(orderly=orderly)
        self._transport.close()

    def _end(self, *, orderly: bool) -> None:
        """Leave the session. May be called again."""
        if self._over:
            return
        self._over = True
        if self._watching is not None:
            self._watching.cancel()
        if self._session is not None:
            self._session.closed(orderly=orderly)
        self._reception.changed()
