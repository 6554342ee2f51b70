"""A device's MQTT session at the provisioning service: it asks on two topics and is answered on a third.

- `$dps/registrations/PUT/iotdps-register/?$rid={request}`, with the registration as JSON.
- `$dps/registrations/GET/iotdps-get-operationstatus/?$rid={request}&operationId={operation}`.
- Answers: `$dps/registrations/res/{status}/?$rid={request}[&retry-after={s}]`, JSON, QoS 0.

The service keeps nothing over a connection, whatever CleanSession says. Topics are those of "Communicate with DPS using
the MQTT protocol" in Azure's documentation.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import orjson
import structlog

from edge_gateway.testbench.cloud.mqtt.connection import MqttConnection, RuleBroken
from edge_gateway.testbench.cloud.mqtt.packets import Connect, Publish
from edge_gateway.testbench.cloud.provisioning.enrolments import Credentials, RegistrationIdRefused, check_id
from edge_gateway.testbench.cloud.refusals import AccessDenied

if TYPE_CHECKING:  # the service makes sessions
    from edge_gateway.testbench.cloud.provisioning.dps import Answer, LocalDps

_log = structlog.get_logger()

RESPONSES = "$dps/registrations/res/#"
_REGISTER = "$dps/registrations/PUT/iotdps-register/"
_OPERATION_STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"
_USER_NAME = re.compile(r"([^/]+)/registrations/([^/]+)/\??api-version=[^&]+(&.*)?")
_REQUEST_ID = re.compile(r"[^$&]{1,128}")
"""Clients split the answer's topic at `$` and `&`."""


class DpsSession:
    """See `mqtt.connection.Session` for what the connection asks of it.

    Args:
        dps: whose session it is.
        registration_id: who the client says it is.
        credentials: what it shows for that; judged with each request.
    """

    expires_s = None
    session_present = False

    def __init__(self, dps: LocalDps, registration_id: str, credentials: Credentials) -> None:
        self.label = registration_id
        self._dps = dps
        self._credentials = credentials
        self._listening = False

    @classmethod
    def admitted(cls, dps: LocalDps, connect: Connect, connection: MqttConnection) -> DpsSession:
        """A session for a client that has written its CONNECT as it has to.

        Raises:
            AccessDenied: it has not, or it brings neither a token nor a certificate.
        """
        written = _USER_NAME.fullmatch(connect.username or "")
        if written is None:
            raise AccessDenied("the user name is not one for provisioning", where=connect.client_id)
        registration_id = unquote(written[2])
        try:
            check_id(registration_id)
        except RegistrationIdRefused as error:
            raise AccessDenied(error.what, where=connect.client_id) from None
        if connect.client_id.lower() != registration_id.lower():
            raise AccessDenied("the client id is not the registration id", where=registration_id)
        token = (connect.password or b"").decode(errors="replace") or None
        credentials = Credentials(token, connection.client_chain)
        if token is None and not credentials.chain:
            raise AccessDenied("neither a token nor a certificate", where=registration_id)
        return cls(dps, registration_id, credentials)

    # mqtt.connection.Session

    def opened(self, connection: MqttConnection) -> None:
        """The client is in."""
        self._connection = connection

    def published(self, packet: Publish) -> None:
        """Answer a request.

        Raises:
            RuleBroken: the topic is none of the two, or names no request.
        """
        path, _, query = packet.topic.partition("?")
        fields = dict(part.partition("=")[::2] for part in query.split("&"))
        request_id = fields.get("$rid", "")
        if not _REQUEST_ID.fullmatch(request_id):
            raise RuleBroken("no request id in the topic")
        if path == _REGISTER:
            answer = self._dps.register(self.label, self._credentials, packet.payload)
        elif path == _OPERATION_STATUS:
            answer = self._dps.operation_status(self.label, self._credentials, unquote(fields.get("operationId", "")))
        else:
            raise RuleBroken("publishing to a topic that is not the service's")
        self._connection.confirm(packet)
        self._answer(request_id, answer)

    def confirmed(self, packet_id: int) -> None:
        """Nothing: answers are QoS 0."""

    def subscribed(self, topic_filter: str, qos: int) -> int | None:
        """Answers can be subscribed to, and nothing else."""
        if topic_filter != RESPONSES:
            return None
        self._listening = True
        return min(qos, 1)

    def after_suback(self) -> None:
        """Nothing: no answer waits for a subscription."""

    def unsubscribed(self, topic_filter: str) -> None:
        """The client wants no more answers."""
        if topic_filter == RESPONSES:
            self._listening = False

    def closed(self, *, orderly: bool) -> None:
        """Nothing is kept."""

    def _answer(self, request_id: str, answer: Answer) -> None:
        if not self._listening:
            _log.info("testbench.dps.unheard", registration_id=self.label, status=answer.status)
            return
        retry_after = "" if answer.retry_after_s is None else f"&retry-after={answer.retry_after_s}"
        topic = f"$dps/registrations/res/{answer.status}/?$rid={request_id}{retry_after}"
        self._connection.publish(topic, orjson.dumps(answer.body))
