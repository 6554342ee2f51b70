"""Azure IoT Hub under the gateway's own device identity, by azure-iot-device.

The SDK is thread-heavy (about 0.5 ms of CPU a message), so there is one client for the whole gateway and it is given
batches. Its own reconnecting is off: `uplink.delivery` does that for all uplinks, and knows what must be sent again.

A session lives as long as its SAS token. IoT Hub has no renewal within an MQTT connection (the SDK too disconnects and
connects again), so before the token ends the session lets what is in flight be confirmed and asks to be replaced. So it
does when its key has a newer generation.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from edge_gateway.clock import NS_PER_S, Clock
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink
from edge_gateway.errors import CommandInvalid, ConfigError, KeyStoreError, UplinkLost, UplinkRefused
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.keyring import Keyring
from edge_gateway.records import CommandResult, CommandStatus, Message
from edge_gateway.uplink import Downlink, Session
from edge_gateway.uplink.commands import HTTP_STATUS, describe_result, parse_command
from edge_gateway.uplink.hub_commands import COMMAND_METHOD
from edge_gateway.uplink.merge_patch import merge_patch
from edge_gateway.uplink.paho_losses import mend_paho
from edge_gateway.uplink.sas import CredentialRefused, by_newest_key, sas_token, unsigned
from edge_gateway.uplink.tls import connection_error

_log = structlog.get_logger()
_T = TypeVar("_T")

_RENEW_BEFORE_S: Final = 150.0
"""The SDK starts to renew on its own 120 s before a token's end; be earlier."""

_REPORT_EVERY_S: Final = 5.0
"""Reported properties are patched no more often; a unit of IoT Hub takes 50 twin updates a second for all devices."""

_FAREWELL_S: Final = 1.0
"""How long a silent hub may hold up the closing of a session."""

_SDK_LEAVES_WITHIN_S: Final = 30.0
"""How long the SDK may be about its farewell while the next session is tried."""


class IotHub:
    """`Uplink` to Azure IoT Hub.

    Args:
        settings: host and device, and the name of the key, or the files of the certificate.
        delivery: keep-alive and time-outs.
        key_store: signs the tokens.
        clock: tokens end at a wall time.
        keyring: looks out for newer keys, for all that use the key store; left out, for this one alone.

    Raises:
        ConfigError: `ca_file` cannot be read.
    """

    def __init__(
        self,
        settings: IotHubUplink,
        delivery: DeliverySettings,
        *,
        key_store: KeyStore,
        clock: Clock,
        keyring: Keyring | None = None,
    ) -> None:
        self._settings = settings
        self._delivery = delivery
        self._key_store = key_store
        self._key = (keyring or Keyring(key_store)).key(settings.key)
        self._clock = clock
        self._executor: ThreadPoolExecutor | None = None
        self._trusted_pem = _read_pem(settings.ca_file)

    @property
    def endpoint(self) -> str:
        """The hub's host and the device."""
        return f"mqtts://{self._settings.host_name}/{self._settings.device_id}"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        """See `Uplink.connect`."""
        loop = asyncio.get_running_loop()
        if self._executor is None:
            # The SDK runs each call on the loop's default executor. One thread there keeps calls in the order they
            # were made, and with it the order of messages.
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="iot-hub")
            loop.set_default_executor(self._executor)
            # Imported when first needed, and in a thread: it takes 0.2 s and 8 MiB, which a gateway with another
            # uplink should not pay at all, and in which one that has just started would read no link.
            await asyncio.to_thread(importlib.import_module, "azure.iot.device.aio")
            mend_paho()
        if self._settings.certificate_file is not None:
            async with self._connect_by(downlink, "") as session:
                yield session
            return
        async with by_newest_key(self._key, partial(self._connect_by, downlink), endpoint=self.endpoint) as session:
            with self._key.watching(session.go_over):
                yield session

    @asynccontextmanager
    async def _connect_by(self, downlink: Downlink, stored: str) -> AsyncIterator[_HubSession]:
        """A session by one generation of the key, or by the certificate if there is one."""
        from azure.iot.device import exceptions

        client = await self._client(stored)
        client.on_background_exception = _note_background_exception
        # A session that proves itself by certificate has no end.
        renew_after_s = self._settings.token_lifetime_s - _RENEW_BEFORE_S
        session = _HubSession(
            client,
            downlink,
            self.endpoint,
            renew_after_s=renew_after_s if self._settings.certificate_file is None else None,
        )
        client.on_connection_state_change = session.on_connection_state_change
        try:
            try:
                async with asyncio.timeout(self._delivery.connect_timeout_s):
                    await _uncancelled(client.connect())
                    await session.subscribe()
            except exceptions.CredentialError as error:
                raise CredentialRefused(
                    "the hub refuses this device or its key",
                    where=self.endpoint,
                    remedy="Check device_id, that the device is enabled, the key, and this box's clock",
                ) from error
            except (exceptions.ClientError, exceptions.ConnectionFailedError, TimeoutError) as error:
                raise connection_error(error, self.endpoint) from error
            except (exceptions.ConnectionDroppedError, exceptions.OperationCancelled) as error:
                raise UplinkLost("the hub closed the connection", where=self.endpoint) from error
            yield session
        finally:
            with contextlib.suppress(Exception):  # whatever the SDK says to its own end, this session is over
                async with asyncio.timeout(_FAREWELL_S):
                    await _uncancelled(_leave(client))

    async def _client(self, stored: str) -> Any:
        """A client of the SDK that has not connected yet."""
        from azure.iot.device import X509
        from azure.iot.device.aio import IoTHubDeviceClient

        settings = self._settings
        options: dict[str, Any] = {
            "server_verification_cert": self._trusted_pem,
            "keep_alive": self._delivery.keep_alive_s,
            "auto_connect": False,
            "connection_retry": False,
        }
        if settings.gateway_host_name is not None:
            options["gateway_hostname"] = settings.gateway_host_name
        try:
            if settings.certificate_file is not None:
                certificate = X509(str(settings.certificate_file), str(settings.private_key_file))
                return IoTHubDeviceClient.create_from_x509_certificate(
                    certificate, settings.host_name, settings.device_id, **options
                )
            return IoTHubDeviceClient.create_from_sastoken(await self._token(stored), **options)
        except ValueError as error:
            raise UplinkRefused(
                "the device SDK does not take the token or certificate",
                where=self.endpoint,
                remedy="Check host_name, device_id, and this box's clock",
            ) from error

    async def _token(self, stored: str) -> str:
        resource = f"{self._settings.host_name}/devices/{self._settings.device_id}"
        expiry_s = self._clock.now_ns() // NS_PER_S + self._settings.token_lifetime_s
        try:
            # In a thread, as a TPM takes its time.
            return await asyncio.to_thread(sas_token, self._key_store, stored, resource, expiry_s)
        except KeyStoreError as error:
            raise unsigned(error) from error


class _HubSession:
    """One connection to the hub."""

    def __init__(self, client: Any, downlink: Downlink, endpoint: str, *, renew_after_s: float | None) -> None:
        self._client = client
        self._downlink = downlink
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._renew_after_s = renew_after_s
        self._disconnected = asyncio.Event()
        self._renewing = False
        self._has_newer_key = asyncio.Event()
        self._in_flight = 0
        self._idle = asyncio.Event()
        self._desired: asyncio.Queue[tuple[dict[str, Any], bool]] = asyncio.Queue(maxsize=64)
        self._commands: asyncio.Queue[Callable[[], Any]] = asyncio.Queue(maxsize=64)
        self._reported_before: Mapping[str, Any] = {}

    def on_connection_state_change(self) -> None:
        """Called by the SDK, in a thread of its own."""
        if not self._client.connected:
            self._loop.call_soon_threadsafe(self._disconnected.set)

    async def subscribe(self) -> None:
        """Ask for all that can come down, and read the twin as it is now."""
        # Each assignment subscribes and blocks until the hub has answered, so not in the event loop.
        await asyncio.to_thread(self._assign_handlers)
        twin = await _uncancelled(self._client.get_twin())
        self._reported_before = twin.get("reported", {})
        self._desired.put_nowait((twin.get("desired", {}), True))

    def _assign_handlers(self) -> None:
        self._client.on_twin_desired_properties_patch_received = self._on_desired_patch
        self._client.on_method_request_received = self._on_method
        self._client.on_message_received = self._on_c2d

    def send(self, message: Message) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._send(message))

    async def _send(self, message: Message) -> None:
        from azure.iot.device import Message as HubMessage
        from azure.iot.device import exceptions

        if self._renewing:
            await asyncio.Event().wait()  # the session is about to be replaced; the next one sends this
        outgoing = HubMessage(
            message.body, message_id=message.id, content_encoding="utf-8", content_type="application/json"
        )
        outgoing.custom_properties["lane"] = message.lane
        self._in_flight += 1
        try:
            await _uncancelled(self._client.send_message(outgoing))
        except (
            exceptions.ClientError,
            exceptions.ConnectionDroppedError,
            exceptions.ConnectionFailedError,
            exceptions.NoConnectionError,
            exceptions.OperationCancelled,
            exceptions.OperationTimeout,
        ) as error:
            raise UplinkLost("the connection was lost", where=self._endpoint) from error
        except exceptions.CredentialError as error:
            raise UplinkRefused("the hub refuses this device or its key", where=self._endpoint) from error
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._idle.set()

    async def lost(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(), name="uplink-watch")
            group.create_task(self._renew(), name="uplink-renew")
            group.create_task(self._apply_desired(), name="uplink-desired")
            group.create_task(self._report(), name="uplink-report")
            for number in range(4):
                group.create_task(self._carry_out(), name=f"uplink-command-{number}")

    def go_over(self) -> None:
        """Ask to be replaced: there is a newer key."""
        self._has_newer_key.set()

    async def _watch(self) -> None:
        await self._disconnected.wait()
        raise UplinkLost("the hub closed the connection, or it broke", where=self._endpoint)

    async def _renew(self) -> None:
        reason = "there is a newer key"
        try:
            async with asyncio.timeout(self._renew_after_s):
                await self._has_newer_key.wait()
        except TimeoutError:
            reason = "the token is about to end"
        self._renewing = True
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()
        raise UplinkLost(reason, where=self._endpoint, planned=True)

    # --- twin ------------------------------------------------------------------------------------------------------

    def _on_desired_patch(self, patch: dict[str, Any]) -> None:
        self._loop.call_soon_threadsafe(self._put_desired, patch)

    def _put_desired(self, patch: dict[str, Any]) -> None:
        try:
            self._desired.put_nowait((patch, False))
        except asyncio.QueueFull:
            # None may be skipped: start over with the whole document in a new session.
            self._disconnected.set()

    async def _apply_desired(self) -> None:
        while True:
            await self._downlink.apply_desired(*await self._desired.get())

    async def _report(self) -> None:
        # What an earlier session reported is still in the twin; what another program did there is left alone.
        reported = {key: value for key, value in self._reported_before.items() if key in self._downlink.reported()}
        while True:
            latest = dict(self._downlink.reported())
            patch = merge_patch(reported, latest)
            if patch:
                try:
                    await _uncancelled(self._client.patch_twin_reported_properties(patch))
                except Exception as error:  # noqa: BLE001  # the SDK has a dozen; a lost report must not stop telemetry
                    _log.warning("uplink.report_failed", endpoint=self._endpoint, error=type(error).__name__)
                else:
                    reported = latest
            await asyncio.sleep(_REPORT_EVERY_S)

    # --- commands --------------------------------------------------------------------------------------------------

    def _on_method(self, request: Any) -> None:
        self._loop.call_soon_threadsafe(self._enqueue, lambda: self._answer_method(request))

    def _on_c2d(self, message: Any) -> None:
        self._loop.call_soon_threadsafe(self._enqueue, lambda: self._obey_c2d(message))

    def _enqueue(self, work: Callable[[], Any]) -> None:
        try:
            self._commands.put_nowait(work)
        except asyncio.QueueFull:
            # The hub gives up on an unanswered method by itself; of a C2D message the sender sees no result.
            _log.warning("uplink.command_dropped", reason="more than 64 commands are waiting")

    async def _carry_out(self) -> None:
        while True:
            work = await self._commands.get()
            await work()

    async def _answer_method(self, request: Any) -> None:
        from azure.iot.device import MethodResponse

        if request.name != COMMAND_METHOD:
            status = 404
            body: dict[str, Any] = {"status": "invalid", "detail": f"there is only the method {COMMAND_METHOD!r}"}
        else:
            try:
                command = parse_command(request.payload, source="method", correlation_id=request.request_id)
                result = await self._downlink.run_command(command)
            except CommandInvalid as error:
                result = CommandResult(CommandStatus.INVALID, str(error))
            status, body = HTTP_STATUS[result.status], describe_result(result)
        try:
            response = MethodResponse.create_from_method_request(request, status, body)
            await _uncancelled(self._client.send_method_response(response))
        except Exception as error:  # noqa: BLE001  # the SDK has a dozen; the asker gets a time-out either way
            _log.warning("uplink.answer_lost", request=request.request_id, error=type(error).__name__)

    async def _obey_c2d(self, message: Any) -> None:
        payload = message.data if isinstance(message.data, bytes) else str(message.data).encode()
        try:
            command = parse_command(payload, source="c2d", correlation_id=message.message_id or "")
        except CommandInvalid as error:
            _log.warning("uplink.command_invalid", source="c2d", message_id=message.message_id, reason=str(error))
            return
        await self._downlink.report_result(command, await self._downlink.run_command(command))


async def _uncancelled(call: Coroutine[Any, Any, _T]) -> _T:
    """Wait for a call of the SDK; cancelling ends the waiting and not the call.

    The SDK's threads complete the future a call waits for without a look whether it is cancelled, and asyncio would log
    an InvalidStateError with a traceback for each message in flight when a session ends.
    """
    task = asyncio.ensure_future(call)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to ask how it ended
    return await asyncio.shield(task)


async def _leave(client: Any) -> None:
    """Close a client of the SDK, and end what runs for it."""
    try:
        async with asyncio.timeout(_SDK_LEAVES_WITHIN_S):
            await _uncancelled(client.shutdown())
    finally:
        # A farewell that fails, as its connection does meanwhile, leaves the SDK's handlers running: four tasks and the
        # threads of each, for every such session.
        await asyncio.to_thread(client._handler_manager.stop)


def _note_background_exception(error: Exception) -> None:
    _log.warning("uplink.sdk_error", error=type(error).__name__)


def _read_pem(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        pem = path.read_text("ascii")
        # The SDK would find out when it connects, and take an empty text for the system's certificates.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "cannot be read as PEM", where=str(path), remedy="Give the path of a CA certificate"
        ) from error
    return pem
