"""aiomqtt's client, made prompt: what it says goes out at once, what comes is read to its end, and a loss is told.

aiomqtt goes to the loop as if from another thread and waits for the socket to be writable, which it nearly always is:
six system calls and two turns of the loop for each message. Only what the socket does not take waits. What has come is
taken off TLS at once, where paho asks for a packet byte by byte, and read to its end, where aiomqtt would leave some of
it lying. Confirmations are futures, and a connection that breaks
fails all of them, also while it is being made. See docs/decisions/0007-paho-stays-at-1.6-and-is-mended.md.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import aiomqtt
from paho.mqtt import client as paho

from edge_gateway.errors import UplinkLost

SUBSCRIPTION_FAILED: Final = 0x80
"""In place of a granted QoS. OASIS MQTT 3.1.1, section 3.9.3."""

_READ_BYTES: Final = 4096
"""Taken off TLS at once: a thousand confirmations. What is longer, is read in parts as it would be anyway."""

_MOST_READS: Final = 64
"""Packets, or a few more, that are read in one turn of the loop."""

_LOOKS_AT_KEEP_ALIVE: Final = 0.25
"""How often, in keep-alives: a ping is late by no more than this, and a peer allows for half of one."""

_FAREWELL_S: Final = 1.0
"""How long a silent peer may hold up the closing of a session."""


class PromptClient(aiomqtt.Client):
    """A client for one connection.

    Args:
        endpoint: for errors.
        args: aiomqtt's.
        threads: where connecting blocks; None is the loop's own threads, which the device SDK may have made one.
        on_message: called in the loop with topic and payload of what comes; None leaves it to aiomqtt's `messages`.
            What it raises ends the connection.
        kwargs: aiomqtt's.
    """

    def __init__(
        self,
        endpoint: str,
        *args: Any,
        threads: Executor | None = None,
        on_message: Callable[[str, bytes], None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._endpoint = endpoint
        self._threads = threads
        self._client.disable_logger()  # it would be asked for each packet, for lines that nobody reads
        self._take_off_tls = self._client._sock_recv  # type: ignore[attr-defined]  # where paho reads all it reads
        self._client._sock_recv = self._receive  # type: ignore[attr-defined]  # as above
        self._received = b""
        """Taken off TLS, and not asked for by paho yet."""
        self._is_writer_watched = False
        """Whether the loop tells when the socket can be written, which it does only while it could not."""
        self._tell_message = on_message
        self._arrived: list[tuple[str, bytes]] = []
        """What paho has read and nobody has been told yet."""
        self._is_given_up = False
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._disconnected.add_done_callback(self._lose_unconfirmed)

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done when the connection is over. Not to be cancelled."""
        return self._disconnected

    @asynccontextmanager
    async def connection(self, timeout_s: float) -> AsyncIterator[Self]:
        """Connect, and close the connection in the end, which never hangs and never raises.

        Args:
            timeout_s: for name, TCP, TLS and CONNACK together.

        Raises:
            aiomqtt.MqttError, TimeoutError, UnicodeError: on entering; the cause of the former is its context.
        """
        # Shielded, because it runs in a thread that nobody can stop. Unless it is given up in form, a connection that
        # comes up late lives on, and takes the place of a newer one under the same client id.
        connecting = asyncio.create_task(self.__aenter__(), name="uplink-connect")
        is_connected = False
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(connecting)
            is_connected = True
        finally:
            if not is_connected:
                self._give_up(connecting)
        try:
            yield self
        finally:
            # A peer that is silent would hold up the farewell, and aiomqtt raises once more what broke the
            # connection; whatever it is, this session is over.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_FAREWELL_S):
                    await self.__aexit__(None, None, None)

    def send(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        """Publish at QoS 1; the future is done on PUBACK, and raises UplinkLost if the connection goes before."""
        confirmed: asyncio.Future[None] = self._loop.create_future()
        sent = self._client.publish(topic, payload, qos=1)
        if sent.rc != paho.MQTT_ERR_SUCCESS or self._disconnected.done():
            confirmed.set_exception(self._lost())
        else:
            self._unconfirmed[sent.mid] = confirmed
        return confirmed

    def say(self, topic: str, payload: bytes) -> None:
        """Publish at QoS 0: nobody confirms it."""
        self._client.publish(topic, payload, qos=0)

    async def __aenter__(self) -> Self:
        """As aiomqtt's, but in threads of one's choice, and a connection that breaks before CONNACK is noticed."""
        try:
            await self._loop.run_in_executor(
                self._threads, self._client.connect, self._hostname, self._port, self._keepalive
            )
        except OSError as error:
            raise aiomqtt.MqttError(str(error)) from error
        await self._connected
        return self

    async def _misc_loop(self) -> None:
        """See to keep-alive. aiomqtt does every second, which is half of what a thousand idle sessions cost."""
        while self._client.loop_misc() == paho.MQTT_ERR_SUCCESS:  # noqa: ASYNC110  # paho's keep-alive has no event
            await asyncio.sleep(self._keepalive * _LOOKS_AT_KEEP_ALIVE)

    def _on_disconnect(self, client: paho.Client, userdata: Any, rc: Any, properties: Any = None) -> None:
        if self._is_given_up:
            return
        if not self._connected.done():
            self._connected.set_exception(aiomqtt.MqttCodeError(rc, "Disconnected while connecting"))
        super()._on_disconnect(client, userdata, rc, properties)

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        if self._tell_message is None:
            super()._on_message(client, userdata, message)
        else:
            # Not told from here: paho holds a lock meanwhile, and whoever answers at once would wait for it for ever.
            self._arrived.append((message.topic, bytes(message.payload)))

    def _tell_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        for topic, payload in arrived:
            if self._tell_message is not None:
                self._tell_message(topic, payload)

    def _on_publish(self, client: paho.Client, userdata: Any, mid: int) -> None:
        confirmed = self._unconfirmed.pop(mid, None)
        if confirmed is None:
            super()._on_publish(client, userdata, mid)
        elif not confirmed.done():
            confirmed.set_result(None)

    def _lose_unconfirmed(self, _: asyncio.Future[None]) -> None:
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for confirmed in unconfirmed.values():
            if not confirmed.done():
                confirmed.set_exception(self._lost())
        for granted in self._pending_subscribes.values():
            if not granted.done():
                granted.set_exception(aiomqtt.MqttError("Disconnected while subscribing"))

    def _lost(self) -> UplinkLost:
        return UplinkLost("the connection was lost", where=self._endpoint)

    def _give_up(self, connecting: asyncio.Task[Self]) -> None:
        """End an attempt to connect, now or when its thread is through; nobody wants to hear of it any more."""
        self._is_given_up = True
        connecting.add_done_callback(self._hang_up)
        if self._client.socket() is not None:
            connecting.cancel()  # the thread is through, and nobody need wait for CONNACK

    def _hang_up(self, connecting: asyncio.Task[Self]) -> None:
        if not connecting.cancelled():
            connecting.exception()
        self._client.disconnect()  # aiomqtt leaves open what paho has opened

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Called by paho, in the connecting thread, when TLS is up and before CONNECT is sent."""
        if self._is_given_up:
            raise ConnectionAbortedError("given up meanwhile")
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._read, client, sock)

    def _receive(self, most_bytes: int) -> bytes:
        """What paho gets where it asks the socket."""
        received = self._received or self._take_off_tls(max(most_bytes, _READ_BYTES))
        self._received = received[most_bytes:]
        return received[:most_bytes]

    def _read(self, client: paho.Client, sock: Any) -> None:
        """Read all that has come.

        aiomqtt has paho read a packet or some. What came with them in one TLS record has left the socket by then, so
        that nothing would wake the loop for it before the next record.
        """
        try:
            for _ in range(_MOST_READS):
                client.loop_read()
                if self._arrived:
                    self._tell_arrived()
                is_open = client.socket() is sock
                if not is_open or not (self._received or sock.pending()):
                    return
        except Exception as error:  # noqa: BLE001  # as aiomqtt does: whatever it is, the connection is over
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
            return
        self._loop.call_soon(self._read, client, sock)  # others have a turn between

    def _on_socket_register_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        try:
            if asyncio.get_running_loop() is not self._loop:
                raise RuntimeError
        except RuntimeError:  # connecting, in a thread of the executor
            self._watch_writer(client, userdata, sock)
        else:
            self._write(client, userdata, sock)

    def _write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        try:
            client.loop_write()
        except Exception as error:  # noqa: BLE001  # as aiomqtt does: whatever it is, the connection is over
            if not self._disconnected.done():
                self._disconnected.set_exception(error)
            return
        if client.want_write() and client.socket() is sock:
            self._watch_writer(client, userdata, sock)

    def _watch_writer(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        self._is_writer_watched = True
        super()._on_socket_register_write(client, userdata, sock)

    def _on_socket_unregister_write(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        if self._is_writer_watched:
            self._is_writer_watched = False
            super()._on_socket_unregister_write(client, userdata, sock)
