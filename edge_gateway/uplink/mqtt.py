"""Any MQTT 3.1.1 broker over TLS, by aiomqtt.

MQTT 3.1.1 has no message properties, so the message id stands in the topic. QoS 1: `send` returns on the broker's
PUBACK (OASIS MQTT 3.1.1, section 4.3.2).
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import aiomqtt
import orjson
import structlog
from aiomqtt.exceptions import MqttConnectError
from paho.mqtt import client as paho

from edge_gateway.config.model import DeliverySettings, MqttUplink
from edge_gateway.errors import CommandInvalid, UplinkError, UplinkLost, UplinkRefused
from edge_gateway.records import CommandResult, CommandStatus, Message
from edge_gateway.uplink import Downlink, Session
from edge_gateway.uplink.commands import describe_result, parse_command
from edge_gateway.uplink.paho_losses import mend_paho
from edge_gateway.uplink.tls import client_context, connection_error

_log = structlog.get_logger()

_MOST_COMMANDS_AT_ONCE: Final = 16
"""Commands being carried out; beyond it new ones wait in the broker's hands."""

_SUBSCRIPTION_FAILED: Final = 0x80
"""OASIS MQTT 3.1.1, section 3.9.3."""

_CONNACK_MEANS: Final = {
    1: "does not speak MQTT 3.1.1",
    2: "refuses this client id",
    3: "is not available now",
    4: "refuses this user name and password",
    5: "does not authorise this client",
}
"""OASIS MQTT 3.1.1, table 3.1."""


class MqttBroker:
    """`Uplink` to a broker.

    Args:
        settings: host, topics and credentials.
        delivery: keep-alive, window and time-outs.
        gateway: the gateway's name, for topics and as client id.

    Raises:
        ConfigError: a certificate file cannot be used.
    """

    def __init__(self, settings: MqttUplink, delivery: DeliverySettings, *, gateway: str) -> None:
        self._settings = settings
        self._delivery = delivery
        self._gateway = gateway
        mend_paho()
        self._tls = client_context(settings.ca_file, settings.certificate_file, settings.private_key_file)

    @property
    def endpoint(self) -> str:
        """Host and port."""
        return f"mqtts://{self._settings.host}:{self._settings.port}"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        client = _PromptClient(
            self.endpoint,
            self._settings.host,
            self._settings.port,
            identifier=self._settings.client_id or self._gateway,
            username=self._settings.username,
            password=self._password(),
            keepalive=self._delivery.keep_alive_s,
            tls_context=self._tls,
            max_inflight_messages=self._delivery.in_flight + _MOST_COMMANDS_AT_ONCE,
            timeout=self._delivery.connect_timeout_s,
        )
        client.pending_calls_threshold = self._delivery.in_flight + _MOST_COMMANDS_AT_ONCE
        command_topic = self._settings.command_topic.format(gateway=self._gateway)
        # Shielded, because it runs in a thread that nobody can stop. Unless it is given up in form, a connection that
        # comes up late lives on, and takes the place of a newer one under the same client id.
        connecting = asyncio.create_task(client.__aenter__(), name="uplink-connect")
        is_connected = False
        try:
            async with asyncio.timeout(self._delivery.connect_timeout_s):
                await asyncio.shield(connecting)
            is_connected = True
        except (aiomqtt.MqttError, TimeoutError, UnicodeError) as error:
            raise self._refusal(error) from error
        finally:
            if not is_connected:
                client.give_up(connecting)
        try:
            try:
                granted = await client.subscribe(command_topic, qos=1)
            except aiomqtt.MqttError as error:
                raise self._lost(error) from error
            if _SUBSCRIPTION_FAILED in granted:
                # Readings can still go up, so this is no reason to end the session.
                _log.warning("uplink.commands_denied", endpoint=self.endpoint, topic=command_topic)
            yield _BrokerSession(self, client, downlink)
        finally:
            # A broker that is silent would hold up the farewell, and aiomqtt raises once more what broke the
            # connection; whatever it is, this session is over.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await client.__aexit__(None, None, None)

    def topic(self, message: Message) -> str:
        """Where a message goes."""
        return self._settings.topic.format(gateway=self._gateway, lane=message.lane, message_id=message.id)

    def answer_topic(self, request: str) -> str:
        """Where the answer to a command goes."""
        return self._settings.answer_topic.format(gateway=self._gateway, request=request)

    def _password(self) -> str | None:
        path = self._settings.password_file
        if path is None:
            return None
        try:
            if path.stat().st_mode & 0o077:
                raise UplinkRefused("can be read by others", where=str(path), remedy=f"chmod go-rwx {path}")
            return path.read_text().rstrip("\n")
        except OSError as error:
            raise UplinkRefused(
                f"cannot be read: {error.strerror}", where=str(path), remedy="Give a password_file the gateway can read"
            ) from error
        except UnicodeDecodeError:
            # Without its cause, which holds what is in the file.
            raise UplinkRefused("is not UTF-8 text", where=str(path), remedy="Save the password as UTF-8") from None

    def _refusal(self, error: Exception) -> UplinkError:
        if isinstance(error, MqttConnectError) and isinstance(error.rc, int):
            what = _CONNACK_MEANS.get(error.rc, f"refuses the connection (return code {error.rc})")
            kind = UplinkLost if error.rc == 3 else UplinkRefused
            return kind(what, where=self.endpoint, remedy="Check username, password_file and the broker's access list")
        return connection_error(error, self.endpoint)

    def _lost(self, error: Exception) -> UplinkLost:
        return UplinkLost(f"the connection was lost ({error})", where=self.endpoint)


_MOST_READS: Final = 64
"""Packets, or a few more, that are read in one turn of the loop."""


class _PromptClient(aiomqtt.Client):
    """Writes a packet at once, tells of confirmations by futures, and can be given up.

    aiomqtt goes to the loop as if from another thread and waits for the socket to be writable, which it nearly always
    is: six system calls and two turns of the loop for each message. Only what the socket does not take waits. What has
    come is read to its end, where aiomqtt would leave some of it lying.
    """

    _is_given_up = False

    def __init__(self, endpoint: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._endpoint = endpoint
        self._unconfirmed: dict[int, asyncio.Future[None]] = {}
        self._disconnected.add_done_callback(self._lose_unconfirmed)

    def send(self, topic: str, payload: bytes) -> asyncio.Future[None]:
        """Publish at QoS 1; the future is done on PUBACK, and raises UplinkLost if the connection goes before."""
        confirmed: asyncio.Future[None] = self._loop.create_future()
        sent = self._client.publish(topic, payload, qos=1)
        if sent.rc != paho.MQTT_ERR_SUCCESS or self._disconnected.done():
            confirmed.set_exception(self._lost())
        else:
            self._unconfirmed[sent.mid] = confirmed
        return confirmed

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

    def _lost(self) -> UplinkLost:
        return UplinkLost("the connection was lost", where=self._endpoint)

    def give_up(self, connecting: asyncio.Task[aiomqtt.Client]) -> None:
        """End an attempt to connect, now or when its thread is through; nobody wants to hear of it any more."""
        self._is_given_up = True
        connecting.add_done_callback(self._hang_up)

    def _hang_up(self, connecting: asyncio.Task[aiomqtt.Client]) -> None:
        if not connecting.cancelled():
            connecting.exception()
        self._client.disconnect()  # aiomqtt leaves open what paho has opened

    def _on_socket_open(self, client: paho.Client, userdata: Any, sock: Any) -> None:
        """Called by paho, in the connecting thread, when TLS is up and before CONNECT is sent."""
        if self._is_given_up:
            raise ConnectionAbortedError("given up meanwhile")
        super()._on_socket_open(client, userdata, sock)
        self._loop.call_soon_threadsafe(self._loop.add_reader, sock.fileno(), self._read, client, sock)

    def _read(self, client: paho.Client, sock: Any) -> None:
        """Read all that has come.

        aiomqtt has paho read a packet or some. What came with them in one TLS record has left the socket by then, so
        that nothing would wake the loop for it before the next record.
        """
        try:
            for _ in range(_MOST_READS):
                client.loop_read()
                is_open = client.socket() is sock
                if not is_open or not sock.pending():
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
            super()._on_socket_register_write(client, userdata, sock)
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
            super()._on_socket_register_write(client, userdata, sock)


class _BrokerSession:
    """One connection to the broker."""

    def __init__(self, broker: MqttBroker, client: _PromptClient, downlink: Downlink) -> None:
        self._broker = broker
        self._client = client
        self._downlink = downlink
        self._slots = asyncio.Semaphore(_MOST_COMMANDS_AT_ONCE)

    def send(self, message: Message) -> asyncio.Future[None]:
        return self._client.send(self._broker.topic(message), message.body)

    async def lost(self) -> None:
        async with asyncio.TaskGroup() as group:
            try:
                async for arrived in self._client.messages:
                    self._read_what_tls_holds()
                    await self._slots.acquire()
                    request = arrived.topic.value.rpartition("/")[2]
                    payload = arrived.payload if isinstance(arrived.payload, bytes) else b""
                    group.create_task(self._carry_out(payload, request), name=f"uplink-command {request}")
            except aiomqtt.MqttError as error:
                raise UplinkLost(f"the connection was lost ({error})", where=self._broker.endpoint) from error

    def _read_what_tls_holds(self) -> None:
        """Fetch packets that came in one TLS record with the last one.

        paho reads one packet when the socket becomes readable; others that were decrypted with it make no socket
        readable and would wait for the next record, up to a keep-alive.
        """
        client = self._client._client  # aiomqtt has no public way to it
        while isinstance(tls := client.socket(), ssl.SSLSocket) and tls.pending():
            client.loop_read()

    async def _carry_out(self, payload: bytes, request: str) -> None:
        try:
            command = parse_command(payload, source="mqtt", correlation_id=request)
            result = await self._downlink.run_command(command)
        except CommandInvalid as error:
            result = CommandResult(CommandStatus.INVALID, str(error))
        finally:
            self._slots.release()
        answer = orjson.dumps(describe_result(result))
        try:
            await self._client.publish(self._broker.answer_topic(request), answer, qos=1)
        except aiomqtt.MqttError as error:
            _log.warning("uplink.answer_lost", request=request, reason=str(error))
