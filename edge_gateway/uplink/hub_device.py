"""One device identity at IoT Hub, by MQTT 3.1.1 over TLS on the hub's own topics.

This is how a sensor has an identity of its own: without the device SDK and its dozen threads, a session costs some
memory and no thread, so one box holds a thousand. What arrives at the hub is the same as the SDK would send.

Directly, or through an edge hub as the parent: then the connection goes to that host, while user name and token name
the hub.

A session lives as long as its SAS token, as MQTT 3.1.1 knows no renewal. Somewhere between 70 and 90 % of that life, by
lot, so that a thousand sessions which began together do not end together, it lets be confirmed and answered what is
under way and asks to be replaced. So it does when its key has a newer generation. A device that proves itself by
certificate sends no token, and its session has no end.

Source: https://learn.microsoft.com/azure/iot/iot-mqtt-connect-to-iot-hub
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import aiomqtt
import orjson
import structlog
from aiomqtt.exceptions import MqttConnectError

from edge_gateway import __version__
from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.errors import CommandInvalid, KeyStoreError, UplinkError, UplinkLost, UplinkRefused
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.records import CommandResult, CommandStatus, Message, Value
from edge_gateway.uplink import Downlink, Session
from edge_gateway.uplink.commands import HTTP_STATUS, describe_result
from edge_gateway.uplink.hub_commands import HubCommands, MethodUnknown
from edge_gateway.uplink.hub_topics import (
    CloudMessage,
    DesiredPatch,
    DeviceTopics,
    MethodCall,
    TwinAnswer,
    method_answer,
)
from edge_gateway.uplink.hub_twin import REPORT_EVERY_S, HubTwin
from edge_gateway.uplink.paho_losses import mend_paho
from edge_gateway.uplink.prompt_client import SUBSCRIPTION_FAILED, PromptClient
from edge_gateway.uplink.sas import CredentialRefused, by_newest_key, sas_token, unsigned
from edge_gateway.uplink.tls import connection_error

_log = structlog.get_logger()

HUB_PORT: Final = 8883
"""IoT Hub and edge hub listen on no other."""

_API_VERSION: Final = "2021-04-12"

_RENEW_AFTER: Final = (0.7, 0.9)
"""Of a token's life; between the two by lot."""

_MOST_COMMANDS: Final = 64
"""Being carried out or waiting for it, in one session."""

_MOST_DESIRED: Final = 64
"""Changes of desired properties that wait to be handed on; beyond, the whole document is asked for."""

_SERVER_UNAVAILABLE: Final = 3
"""CONNACK; OASIS MQTT 3.1.1, table 3.1. All others mean that somebody has to act."""

_BAD_CREDENTIALS: Final = (4, 5)
"""CONNACK likewise: another key might do."""

_WILDCARDS: Final = frozenset("+#")
"""No topic has them. OASIS MQTT 3.1.1, section 4.7.1."""

_Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class HubDevice:
    """`Uplink` to Azure IoT Hub under one device identity.

    Args:
        host_name: the hub.
        device_id: the identity.
        key: name of its symmetric key in the key store, which may be there in several generations; None if the
            certificate that `tls` shows proves the identity.
        delivery: keep-alive, window and time-outs.
        key_store: signs the tokens, off the event loop.
        clock: tokens end at a wall time.
        rng: when to renew.
        tls: from `uplink.tls.client_context`; many devices share one.
        threads: where signing and connecting block; how many there are is how many connect at once. Left out, the
            loop's own.
        commands: how methods and messages are read; left out, as for the gateway itself.
        gateway_host_name: an edge hub to connect to as the parent; empty for none.
        port: of the hub or the edge hub.
        token_lifetime_s: how long a token lives.
        report_every_s: how often to look what there is to report.
        keyring: looks out for newer keys, for all devices; left out, a newer one is found when the token ends.
    """

    def __init__(
        self,
        host_name: str,
        device_id: str,
        key: str | None,
        delivery: DeliverySettings,
        *,
        key_store: KeyStore,
        clock: Clock,
        rng: random.Random,
        tls: ssl.SSLContext,
        threads: Executor | None = None,
        commands: HubCommands | None = None,
        gateway_host_name: str = "",
        port: int = HUB_PORT,
        token_lifetime_s: int = 3600,
        report_every_s: float = REPORT_EVERY_S,
        keyring: Keyring | None = None,
    ) -> None:
        self._host_name = host_name
        self._device_id = device_id
        self._key = (
            None if key is None else (keyring or Keyring(key_store, threads=threads, look_every_s=None)).key(key)
        )
        self._delivery = delivery
        self._key_store = key_store
        self._clock = clock
        self._rng = rng
        self._tls = tls
        self._threads = threads
        self._commands = commands if commands is not None else HubCommands()
        self._peer = gateway_host_name or host_name
        self._port = port
        self._token_lifetime_s = token_lifetime_s
        self._report_every_s = report_every_s
        mend_paho()

    @property
    def endpoint(self) -> str:
        """The host that is connected to, and the device."""
        return f"mqtts://{self._peer}/{self._device_id}"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        if not _WILDCARDS.isdisjoint(self._device_id):
            # The library would raise what nobody expects, and with this device all others would stop.
            raise UplinkRefused(
                "a device with + or # in its id cannot connect by MQTT",
                where=self.endpoint,
                remedy="Make a device of another name at the hub, and provision that",
            )
        if self._key is None:
            async with self._connect_by(downlink, None) as session:
                yield session
            return
        connect = partial(self._connect_by, downlink)
        async with by_newest_key(self._key, connect, endpoint=self.endpoint) as session:
            with self._key.watching(session.go_over):
                yield session

    @asynccontextmanager
    async def _connect_by(self, downlink: Downlink, stored: str | None) -> AsyncIterator[_DeviceSession]:
        """A session by one generation of the key, or by the certificate."""
        topics = DeviceTopics(self._device_id)
        token = None if stored is None else await self._token(stored)
        session = _DeviceSession(
            topics,
            self._commands,
            downlink,
            self.endpoint,
            renew_after_s=None if token is None else self._token_lifetime_s * self._rng.uniform(*_RENEW_AFTER),
            renew_within_s=self._delivery.confirm_timeout_s,
        )
        product = quote(f"edge-gateway/{__version__}", safe="")
        client = PromptClient(
            self.endpoint,
            self._peer,
            self._port,
            threads=self._threads,
            on_message=session.arrived,
            identifier=self._device_id,
            username=f"{self._host_name}/{self._device_id}/?api-version={_API_VERSION}&DeviceClientType={product}",
            password=token,
            clean_session=False,  # what is sent to the device while it is away then waits for it
            keepalive=self._delivery.keep_alive_s,
            tls_context=self._tls,
            max_inflight_messages=self._delivery.in_flight + _MOST_COMMANDS,
            timeout=self._delivery.connect_timeout_s,
        )
        async with AsyncExitStack() as resources:
            try:
                await resources.enter_async_context(client.connection(self._delivery.connect_timeout_s))
                granted = await client.subscribe([(each, 1) for each in topics.subscriptions])
            except (aiomqtt.MqttError, TimeoutError, UnicodeError) as error:
                raise self._refusal(error) from error
            for topic_filter, qos in zip(topics.subscriptions, granted, strict=False):
                if qos == SUBSCRIPTION_FAILED:
                    # Readings can still go up, so this is no reason to end the session.
                    _log.warning("uplink.commands_denied", endpoint=self.endpoint, topic=topic_filter)
            twin = HubTwin(
                client.say,
                session.put_desired,
                downlink.reported,
                endpoint=self.endpoint,
                rng=self._rng,
                report_every_s=self._report_every_s,
            )
            resources.callback(session.close)
            session.open(client, twin)
            yield session

    async def _token(self, stored: str) -> str:
        resource = f"{self._host_name}/devices/{self._device_id}"
        # Rounded up: a token never lives shorter than it is said to.
        expiry_s = -(-self._clock.now_ns() // NS_PER_S) + self._token_lifetime_s
        signing = asyncio.get_running_loop().run_in_executor(
            self._threads, sas_token, self._key_store, stored, resource, expiry_s
        )
        try:
            async with asyncio.timeout(self._delivery.connect_timeout_s):
                return await signing
        except TimeoutError:
            raise UplinkLost(
                "the key store does not sign in time", where=f"key {stored!r}", remedy="Check the key store"
            ) from None
        except KeyStoreError as error:
            raise unsigned(error) from error

    def _refusal(self, error: Exception) -> UplinkError:
        if isinstance(error, MqttConnectError) and isinstance(error.rc, int):
            if error.rc == _SERVER_UNAVAILABLE:
                return UplinkLost(
                    "the hub is not available now", where=self.endpoint, remedy="The gateway tries again by itself"
                )
            kind = CredentialRefused if error.rc in _BAD_CREDENTIALS else UplinkRefused
            proof = "certificate" if self._key is None else "key"
            return kind(
                f"the hub refuses this device or its {proof} (return code {error.rc})",
                where=self.endpoint,
                remedy=f"Check device_id, that the device is enabled, the {proof}, and this box's clock",
            )
        return connection_error(error, self.endpoint, shows_certificate=self._key is None)


class _DeviceSession:
    """One connection to the hub. What goes on in it needs no task while nothing happens.

    Args:
        topics: the device's.
        commands: how methods and messages are read.
        downlink: what they are handed to.
        endpoint: for errors.
        renew_after_s: when to ask to be replaced; None for never.
        renew_within_s: how long that may wait for what is under way.
    """

    def __init__(
        self,
        topics: DeviceTopics,
        commands: HubCommands,
        downlink: Downlink,
        endpoint: str,
        *,
        renew_after_s: float | None,
        renew_within_s: float,
    ) -> None:
        self._topics = topics
        self._commands = commands
        self._downlink = downlink
        self._endpoint = endpoint
        self._renew_after_s = renew_after_s
        self._renew_within_s = renew_within_s
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._client: PromptClient | None = None
        self._twin: HubTwin | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_renewing = False
        self._renewed_because = "the token is about to end"
        self._in_flight = 0
        self._carried_out = 0
        """Commands under way."""
        self._desired: deque[tuple[Mapping[str, Value], bool]] = deque()
        self._is_applying = False
        self._group: asyncio.TaskGroup | None = None
        self._is_left = False
        """Nobody listens any more."""
        self._early: list[_Work] = []
        """What came before anybody listened."""

    def open(self, client: PromptClient, twin: HubTwin) -> None:
        """The connection is there."""
        self._client = client
        self._twin = twin
        client.gone.add_done_callback(self._lose)
        if self._renew_after_s is not None:
            self._timer = self._loop.call_later(self._renew_after_s, self._renew)
        twin.start()

    def close(self) -> None:
        """The session is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._twin is not None:
            self._twin.stop()
        self._over.cancel()

    def send(self, message: Message) -> asyncio.Future[None]:
        if self._is_renewing or self._client is None:
            return self._loop.create_future()  # the session is about to be replaced; the next one sends this
        sent = self._client.send(self._topics.event(message.id, message.lane), message.body)
        self._in_flight += 1
        sent.add_done_callback(self._landed)
        return sent

    async def lost(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._group = group
            early, self._early = self._early, []
            for work in early:
                group.create_task(work(), name="uplink-command")
            try:
                await asyncio.shield(self._over)
            finally:
                self._is_left = True

    def arrived(self, topic: str, payload: bytes) -> None:
        """Something has come from the hub. Never raises."""
        match self._topics.read(topic):
            case MethodCall() as call:
                self._carry_out(partial(self._answer_method, call, payload))
            case CloudMessage() as message:
                self._carry_out(partial(self._obey, message, payload))
            case DesiredPatch() as patch if self._twin is not None:
                self._twin.patched(patch, payload)
            case TwinAnswer() as answer if self._twin is not None:
                self._twin.answered(answer, payload)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _landed(self, _: asyncio.Future[None]) -> None:
        self._in_flight -= 1
        self._renew_if_idle()

    def _lose(self, _: asyncio.Future[None]) -> None:
        self._end(UplinkLost("the hub closed the connection, or it broke", where=self._endpoint))

    def go_over(self) -> None:
        """Ask to be replaced: there is a newer key."""
        if self._timer is not None and not self._is_renewing:
            self._timer.cancel()
            self._renewed_because = "there is a newer key"
            self._renew()

    def _renew(self) -> None:
        self._is_renewing = True
        self._timer = self._loop.call_later(self._renew_within_s, self._end_planned)
        self._renew_if_idle()

    def _renew_if_idle(self) -> None:
        if self._is_renewing and not self._in_flight and not self._carried_out:
            self._end_planned()

    def _end_planned(self) -> None:
        self._end(UplinkLost(self._renewed_because, where=self._endpoint, planned=True))

    def _end(self, error: UplinkLost) -> None:
        if not self._over.done():
            self._over.set_exception(error)
            self._over.exception()  # nobody may be listening

    # --- twin ---------------------------------------------------------------------------------------------------------

    def put_desired(self, desired: Mapping[str, Value], whole: bool) -> None:
        """Hand on desired properties, one after the other."""
        if whole:
            self._desired.clear()
        if len(self._desired) >= _MOST_DESIRED:
            self._desired.clear()
            if self._twin is not None:
                self._twin.ask_again()
            return
        self._desired.append((desired, whole))
        if not self._is_applying:
            self._is_applying = True
            self._spawn(self._apply_desired)

    async def _apply_desired(self) -> None:
        try:
            while self._desired:
                await self._downlink.apply_desired(*self._desired.popleft())
        finally:
            self._is_applying = False

    # --- commands -----------------------------------------------------------------------------------------------------

    def _carry_out(self, work: _Work) -> None:
        if self._carried_out >= _MOST_COMMANDS:
            # The hub gives up on an unanswered method by itself; of a C2D message the sender sees no result.
            _log.warning("uplink.command_dropped", endpoint=self._endpoint, reason=f"{_MOST_COMMANDS} are under way")
            return
        self._carried_out += 1
        self._spawn(partial(self._counted, work))

    async def _counted(self, work: _Work) -> None:
        try:
            await work()
        finally:
            self._carried_out -= 1
            self._renew_if_idle()

    def _spawn(self, work: _Work) -> None:
        if self._group is None:
            self._early.append(work)
        elif not self._is_left:
            self._group.create_task(work(), name="uplink-command")

    async def _answer_method(self, call: MethodCall, payload: bytes) -> None:
        try:
            command = self._commands.of_method(call.name, payload, call.request_id)
        except MethodUnknown as error:
            status, body = 404, {"status": "invalid", "detail": str(error)}
        except CommandInvalid as error:
            result = CommandResult(CommandStatus.INVALID, str(error))
            status, body = HTTP_STATUS[result.status], describe_result(result)
        else:
            result = await self._downlink.run_command(command)
            status, body = HTTP_STATUS[result.status], describe_result(result)
        if self._client is None:
            return
        try:
            await self._client.send(method_answer(status, call.request_id), orjson.dumps(body))
        except UplinkLost as error:
            _log.warning("uplink.answer_lost", request=call.request_id, reason=str(error))

    async def _obey(self, message: CloudMessage, payload: bytes) -> None:
        try:
            command = self._commands.of_message(payload, message.message_id)
        except CommandInvalid as error:
            _log.warning("uplink.command_invalid", source="c2d", message_id=message.message_id, reason=str(error))
            return
        await self._downlink.report_result(command, await self._downlink.run_command(command))
