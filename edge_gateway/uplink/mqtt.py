"""Any MQTT 3.1.1 broker over TLS, by aiomqtt.

MQTT 3.1.1 has no message properties, so the message id stands in the topic. QoS 1: `send` returns on the broker's
PUBACK (OASIS MQTT 3.1.1, section 4.3.2).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final

import aiomqtt
import orjson
import structlog
from aiomqtt.exceptions import MqttConnectError

from edge_gateway.config.uplink import DeliverySettings, MqttUplink
from edge_gateway.errors import CommandInvalid, UplinkError, UplinkLost, UplinkRefused
from edge_gateway.records import CommandResult, CommandStatus, Message
from edge_gateway.uplink import Downlink, Session
from edge_gateway.uplink.commands import describe_result, parse_command
from edge_gateway.uplink.paho_losses import mend_paho
from edge_gateway.uplink.prompt_client import SUBSCRIPTION_FAILED, PromptClient
from edge_gateway.uplink.tls import client_context, connection_error

if TYPE_CHECKING:
    from edge_gateway.uplink.tpm_tls import HeldKey

_log = structlog.get_logger()

_MOST_COMMANDS_AT_ONCE: Final = 16
"""Commands being carried out; beyond it new ones wait, confirmed to the broker already."""

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
        certificate_key: the key to the certificate, if it stays in the TPM.

    Raises:
        ConfigError: a certificate file cannot be used, or is not for that key.
    """

    def __init__(
        self,
        settings: MqttUplink,
        delivery: DeliverySettings,
        *,
        gateway: str,
        certificate_key: HeldKey | None = None,
    ) -> None:
        self._settings = settings
        self._delivery = delivery
        self._gateway = gateway
        mend_paho()
        private_key = certificate_key or settings.private_key_file
        self._tls = client_context(settings.ca_file, settings.certificate_file, private_key)

    @property
    def endpoint(self) -> str:
        """Host and port."""
        return f"mqtts://{self._settings.host}:{self._settings.port}"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        client = PromptClient(
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
        async with AsyncExitStack() as resources:
            try:
                await resources.enter_async_context(client.connection(self._delivery.connect_timeout_s))
            except (aiomqtt.MqttError, TimeoutError, UnicodeError) as error:
                raise self._refusal(error) from error
            try:
                granted = await client.subscribe(command_topic, qos=1)
            except aiomqtt.MqttError as error:
                raise self._lost(error) from error
            if SUBSCRIPTION_FAILED in granted:
                # Readings can still go up, so this is no reason to end the session.
                _log.warning("uplink.commands_denied", endpoint=self.endpoint, topic=command_topic)
            yield _BrokerSession(self, client, downlink)

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
        return connection_error(error, self.endpoint, shows_certificate=self._settings.certificate_file is not None)

    def _lost(self, error: Exception) -> UplinkLost:
        return UplinkLost(f"the connection was lost ({error})", where=self.endpoint)


class _BrokerSession:
    """One connection to the broker."""

    def __init__(self, broker: MqttBroker, client: PromptClient, downlink: Downlink) -> None:
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
                    if arrived.retain:
                        # It comes with every connection, and would be carried out again each time.
                        _log.warning("uplink.command_retained", topic=arrived.topic.value)
                        continue
                    await self._slots.acquire()
                    request = arrived.topic.value.rpartition("/")[2]
                    payload = arrived.payload if isinstance(arrived.payload, bytes) else b""
                    group.create_task(self._carry_out(payload, request), name=f"uplink-command {request}")
            except aiomqtt.MqttError as error:
                raise UplinkLost(f"the connection was lost ({error})", where=self._broker.endpoint) from error

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
        except (aiomqtt.MqttError, ValueError) as error:  # the latter where the template makes a topic nobody can have
            _log.warning("uplink.answer_lost", request=request, reason=str(error))
