"""The MQTT libraries of Python, each as a `Link`: connected, subscribed and confirmed in its own way."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from pathlib import Path
from typing import Any

import aiomqtt
from paho.mqtt import client as paho
from paho.mqtt.client import WebsocketWrapper

from .by_hand import Arrived, Login
from .client import Lost, NotAuthorised, Refused

_MQTT_PORT = 8883
_WEBSOCKET_PORT = 443
_WEBSOCKET_PATH = "/$iothub/websocket"
_NOT_AUTHORISED = 5
_SUBSCRIPTION_REFUSED = 0x80


class AiomqttLink:
    """aiomqtt: an async context manager, and an async iterator over what comes."""

    def __init__(self, login: Login, arrived: Arrived, *, websockets: bool = False) -> None:
        self._client = aiomqtt.Client(
            login.address,
            _WEBSOCKET_PORT if websockets else _MQTT_PORT,
            identifier=login.client_id,
            username=login.user_name,
            password=login.password,
            tls_context=_tls(login),
            clean_session=login.clean_session,
            transport="websockets" if websockets else "tcp",
            websocket_path=_WEBSOCKET_PATH if websockets else None,
        )
        self._arrived = arrived
        self._reading: asyncio.Task[None] | None = None

    async def open(self) -> None:
        try:
            await self._client.__aenter__()
        except aiomqtt.MqttError as error:
            raise _refusal(error.rc if isinstance(error, aiomqtt.MqttCodeError) else None) from error
        self._reading = asyncio.create_task(self._read(), name="aiomqtt-reading")
        self._read_what_tls_holds()

    async def publish(self, topic: str, payload: bytes) -> None:
        try:
            await self._unless_lost(self._client.publish(topic, payload, qos=1, timeout=60))
        except aiomqtt.MqttError as error:
            raise Lost(str(error)) from error

    async def subscribe(self, topic_filter: str) -> None:
        granted = await self._client.subscribe(topic_filter, qos=1)
        if granted[0] == _SUBSCRIPTION_REFUSED:
            raise Refused(f"subscription to {topic_filter}")
        self._read_what_tls_holds()

    async def lost(self) -> None:
        assert self._reading is not None, "not connected"
        await asyncio.wait([self._reading])

    async def close(self) -> None:
        if self._reading is None:
            return
        lost = self._reading.done()
        self._reading.cancel()
        if not lost:
            await self._client.__aexit__(None, None, None)

    async def _read(self) -> None:
        with contextlib.suppress(aiomqtt.MqttError):  # how it tells the end
            async for message in self._client.messages:
                assert isinstance(message.payload, bytes)
                self._arrived(str(message.topic), message.payload)
                self._read_what_tls_holds()

    def _read_what_tls_holds(self) -> None:
        """Fetch the packets that came in one TLS record with the last one.

        aiomqtt reads when the socket becomes readable, and paho then reads one packet; those that were decrypted with
        it would wait for the next record, up to a keep-alive. The hub does send several at once.
        """
        paho_client = self._client._client  # aiomqtt has no public way to it
        while isinstance(connection := paho_client.socket(), ssl.SSLSocket | WebsocketWrapper) and connection.pending():
            paho_client.loop_read()

    async def _unless_lost(self, operation: Any) -> None:
        """Aiomqtt tells a loss to whoever reads, and not to whoever waits for a confirmation."""
        assert self._reading is not None, "not connected"
        waiting = asyncio.ensure_future(operation)
        await asyncio.wait([waiting, self._reading], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            raise Lost("cut off before the confirmation")
        await waiting
        self._read_what_tls_holds()


class PahoLink:
    """paho: a thread of its own, and callbacks."""

    def __init__(self, login: Login, arrived: Arrived, *, websockets: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._login = login
        self._port = _WEBSOCKET_PORT if websockets else _MQTT_PORT
        self._arrived = arrived
        self._connected: asyncio.Future[int] = self._loop.create_future()
        self._disconnected = asyncio.Event()
        self._confirmations: dict[int, asyncio.Future[Any]] = {}
        self._client = client = paho.Client(
            login.client_id,
            login.clean_session,
            transport="websockets" if websockets else "tcp",
            reconnect_on_failure=False,
        )
        if websockets:
            client.ws_set_options(_WEBSOCKET_PATH)
        client.username_pw_set(login.user_name, login.password)
        client.tls_set_context(_tls(login))
        client.on_connect = lambda _, __, ___, code: self._soon(self._connected_with, code)
        client.on_disconnect = lambda _, __, ___: self._soon(self._gone)
        client.on_publish = lambda _, __, packet_id: self._soon(self._confirmed, packet_id, None)
        client.on_subscribe = lambda _, __, packet_id, granted: self._soon(self._confirmed, packet_id, granted)
        client.on_message = lambda _, __, message: self._soon(self._arrived, message.topic, message.payload)

    async def open(self) -> None:
        try:
            await asyncio.to_thread(self._client.connect, self._login.address, self._port)
        except (OSError, paho.WebsocketConnectionError) as error:
            raise Lost(str(error)) from error
        self._client.loop_start()
        code = await self._connected
        if code:
            await self.close()
            raise _refusal(code)

    async def publish(self, topic: str, payload: bytes) -> None:
        await self._confirmation(self._client.publish(topic, payload, qos=1).mid)

    async def subscribe(self, topic_filter: str) -> None:
        _, packet_id = self._client.subscribe(topic_filter, qos=1)
        granted = await self._confirmation(packet_id or 0)
        if granted[0] == _SUBSCRIPTION_REFUSED:
            raise Refused(f"subscription to {topic_filter}")

    async def lost(self) -> None:
        await self._disconnected.wait()

    async def close(self) -> None:
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def _confirmation(self, packet_id: int) -> Any:
        if self._disconnected.is_set():
            raise Lost("not connected any more")
        return await self._confirmations.setdefault(packet_id, self._loop.create_future())

    def _confirmed(self, packet_id: int, granted: Any) -> None:
        self._confirmations.setdefault(packet_id, self._loop.create_future()).set_result(granted)

    def _connected_with(self, code: int) -> None:
        if not self._connected.done():
            self._connected.set_result(code)

    def _gone(self) -> None:
        self._disconnected.set()
        if not self._connected.done():
            self._connected.set_exception(Lost("cut off before the hub answered"))
        for confirmation in self._confirmations.values():
            if not confirmation.done():
                confirmation.set_exception(Lost("cut off before the confirmation"))

    def _soon(self, function: Any, *arguments: Any) -> None:
        self._loop.call_soon_threadsafe(function, *arguments)


def _refusal(code: Any) -> Exception:
    return NotAuthorised(f"return code {code}") if code == _NOT_AUTHORISED else Lost(f"return code {code}")


def _tls(login: Login) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=login.ca_pem)
    if login.certificate is not None:
        with tempfile.TemporaryDirectory(prefix="conformance-") as directory:  # OpenSSL takes a chain from a file only
            chain = Path(directory, "chain.pem")
            chain.write_text(login.certificate.key_pem + login.certificate.chain_pem)
            context.load_cert_chain(chain)
    return context
