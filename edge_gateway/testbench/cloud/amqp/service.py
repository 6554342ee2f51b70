"""What a hub's AMQP links lead to, for one connection: who may use them, and where their messages go.

| Link | Node |
| --- | --- |
| to and from `$cbs` | takes the tokens by which the connection gets its rights, and says whether they do |
| to `/messages/devicebound` | cloud-to-device messages |
| from `/messages/serviceBound/feedback` | how those ended |
| from `/messages/serviceBound/filenotifications` | what devices uploaded |
| to and from `$management` | what Event Hubs says about its partitions |
| from `{event hub}/ConsumerGroups/{group}/Partitions/0` | what devices sent |

Rights end with the token that gave them; links that need them end then, too.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

import structlog

from edge_gateway.clock import NS_PER_S, rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.amqp.composites import Error, Properties
from edge_gateway.testbench.cloud.amqp.events import PARTITION, feed_events, partition_properties, position
from edge_gateway.testbench.cloud.amqp.feeds import NS_PER_MS, Feed, feed_feedback, feed_file_notifications
from edge_gateway.testbench.cloud.amqp.message import Message
from edge_gateway.testbench.cloud.amqp.sessions import IncomingLink, OutgoingLink, Outlet, Refused
from edge_gateway.testbench.cloud.amqp.values import Array, Int, Symbol, Timestamp, Value
from edge_gateway.testbench.cloud.cloud_messages import MAX_C2D_BYTES, Ack
from edge_gateway.testbench.cloud.hub import LocalHub
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.refusals import AccessDenied, IdentityNotFound, LimitExceeded, QueueFull, Throttled
from edge_gateway.testbench.cloud.tokens import Right, Token, check, parse, sas_token

_log = structlog.get_logger()

_UNAUTHORISED = "amqp:unauthorized-access"
_STOLEN = "amqp:link:stolen"
_ACK = "iothub-ack"
_DEVICE_BOUND = re.compile(r"/?devices/([^/]+)/messages/devicebound", re.IGNORECASE)
_MAX_WAITING_REPLIES = 16
_MAX_READERS = 5
"""Of one consumer group, unless one of them claims it for itself (event-hubs-quotas)."""
_PLAIN_LIFETIME_S = 3600
_SAS_TOKEN = "servicebus.windows.net:sastoken"  # noqa: S105 - the name of a kind of token
_REASONS: Mapping[type[BenchError], str] = {
    IdentityNotFound: "amqp:not-found",
    LimitExceeded: "amqp:resource-limit-exceeded",
    QueueFull: "amqp:resource-limit-exceeded",
    Throttled: "com.microsoft:device-container-throttled",
    AccessDenied: _UNAUTHORISED,
}
"""How the hub's refusals are called in AMQP, as the service SDKs read them."""


class Readers:
    """Who reads events in one consumer group: up to five together, or one that claims it (an owner, "epoch").

    The errors' conditions are those of Event Hubs; that the sixth reader hears this one is UNVERIFIED.
    """

    def __init__(self) -> None:
        self._owners: dict[OutgoingLink, int | None] = {}

    def admit(self, link: OutgoingLink, owner: int | None) -> None:
        """Let a reader in; an owner sends away all others but owners of a higher level.

        Raises:
            Refused: there is an owner of a higher level, or there are too many readers.
        """
        present = {each: level for each, level in self._owners.items() if not each.over}
        highest = max((level for level in present.values() if level is not None), default=None)
        if highest is not None and (owner is None or owner < highest):
            raise Refused(_STOLEN, f"a reader of owner level {highest} is here")
        if owner is None and len(present) >= _MAX_READERS:
            raise Refused("amqp:resource-limit-exceeded", f"{_MAX_READERS} readers in a consumer group already")
        if owner is not None:
            for other in present:
                other.detach(Error(Symbol(_STOLEN), f"a reader of owner level {owner} has come"))
            present = {}
        self._owners = {**present, link: owner}


@dataclass(frozen=True, slots=True)
class Offer:
    """What a hub offers by AMQP, the same on all connections."""

    hub: LocalHub
    event_hub: str
    readers: Mapping[str, Readers]
    """By consumer group, in lower case: names are compared without regard to it."""
    gather_feedback_s: float


class HubService:
    """One client's way to a hub; see `connection.Service`."""

    mechanisms = ("MSSBCBS", "PLAIN", "ANONYMOUS")

    def __init__(self, offer: Offer) -> None:
        self.host_name = offer.hub.host_name
        self._offer = offer
        self._hub = offer.hub
        self._rights: dict[str, int] = {}
        """Below which paths the client may do things, and until which Unix second."""
        self._links: dict[IncomingLink | OutgoingLink, str] = {}
        """Those that need a right, and for which path."""
        self._expiry: asyncio.TimerHandle | None = None

    def authenticate(self, mechanism: str, response: bytes) -> bool:
        """PLAIN is a policy's name and key or token; with the others, rights come by `$cbs` later."""
        if mechanism != "PLAIN":
            return True
        try:
            _, user, password = response.decode().split("\0")
            if not password.startswith("SharedAccessSignature "):
                expires_s = self._hub.now_ns() // NS_PER_S + _PLAIN_LIFETIME_S
                password = sas_token(self.host_name, password, expires_s, policy=user.partition("@")[0])
            self._admit(password)
        except (AccessDenied, ValueError) as error:
            self._denied(error)
            return False
        return True

    def attach_incoming(self, link: IncomingLink) -> Callable[[Message], None]:
        """See `Nodes`."""
        path = _path(link.address)
        match path.lower().split("/"):
            case ["$cbs"]:
                return lambda message: self._put_token(link, message)
            case [*entity, "$management"]:
                self._need(link, "/".join(entity))
                return lambda message: self._manage(link, message)
            case ["messages", "devicebound"]:
                self._need(link, path)
                return self._send_c2d
        raise _not_found(path)

    def attach_outgoing(self, link: OutgoingLink) -> Outlet:
        """See `Nodes`."""
        hub, path = self._hub, _path(link.address)
        match path.lower().split("/"):
            case ["$cbs"]:
                return _Replies()
            case [*entity, "$management"]:
                self._need(link, "/".join(entity))
                return _Replies()
            case ["messages", "servicebound", "feedback"]:
                self._need(link, path)
                return Feed(link, lambda feed: feed_feedback(feed, hub, self._offer.gather_feedback_s))
            case ["messages", "servicebound", "filenotifications"]:
                self._need(link, path)
                return Feed(link, lambda feed: feed_file_notifications(feed, hub))
            case [*entity, "consumergroups", group, "partitions", partition]:
                readers = self._offer.readers.get(group)
                if not self._is_event_hub("/".join(entity)) or readers is None or partition != PARTITION:
                    raise _not_found(path)
                self._need(link, path)
                return self._read_events(link, readers)
        raise _not_found(path)

    def closed(self) -> None:
        """The connection has ended."""
        if self._expiry is not None:
            self._expiry.cancel()

    # Rights

    def _put_token(self, link: IncomingLink, message: Message) -> None:
        asked = message.application_properties
        token = message.value if message.data is None else message.data.decode(errors="replace")
        if asked.get("operation") != "put-token" or asked.get("type") != _SAS_TOKEN or not isinstance(token, str):
            self._reply(link, message, 400, f"only put-token of {_SAS_TOKEN} is known here")
            return
        try:
            self._admit(token)
        except AccessDenied as error:
            self._denied(error)
            self._reply(link, message, 401, "Unauthorized")
        else:
            self._reply(link, message, 200, "OK")

    def _admit(self, token: str) -> None:
        """Give the connection the rights of a token.

        Raises:
            AccessDenied: it gives none.
        """
        parsed = parse(token, "service")
        resource = unquote(parsed.raw_resource)
        scheme, _, rest = resource.rpartition("://")
        host_name, _, path = rest.partition("/")
        if scheme == "sb":
            self._admit_to_events(parsed, resource, host_name)
        else:
            self._hub.admit_service(token, Right.SERVICE_CONNECT, f"/{path}" if path else "")
        self._rights[path.strip("/").lower()] = parsed.expires_s
        self._watch()

    def _admit_to_events(self, token: Token, resource: str, host_name: str) -> None:
        """Check a token made by Event Hubs' rules: its host has `sb://` in front, and the key is what its base64 says.

        Raises:
            AccessDenied: it will not do.
        """
        policy = self._hub.policies.get(token.policy)
        if host_name.lower() != self.host_name.lower():
            raise AccessDenied("the token is for another host", where=host_name)
        if policy is None or Right.SERVICE_CONNECT not in policy.rights:
            raise AccessDenied("the token's policy does not allow this", where=token.policy or "no policy")
        keys = [base64.b64encode(key.encode()).decode() for key in (policy.primary_key, policy.secondary_key)]
        check(token, keys=keys, resource=resource, now_s=self._hub.now_ns() / NS_PER_S)

    def _denied(self, error: Exception) -> None:
        reason = error.what if isinstance(error, AccessDenied) else "what came by PLAIN cannot be read"
        _log.info("testbench.amqp.denied", reason=reason)

    def _need(self, link: IncomingLink | OutgoingLink, path: str) -> None:
        """Tie a link to the right it needs.

        Raises:
            Refused: the client has not got it.
        """
        if not self._may(path):
            raise Refused(_UNAUTHORISED, "no token for this has been put to $cbs")
        self._links = {each: needed for each, needed in self._links.items() if not each.over}
        self._links[link] = path

    def _may(self, path: str) -> bool:
        """Whether a right covers a path; an empty path is covered by any."""
        wanted = path.lower()
        return any(not wanted or not given or f"{wanted}/".startswith(f"{given}/") for given in self._rights)

    def _watch(self) -> None:
        """Take rights away that have ended, links with them, and look again when the next one ends."""
        if self._expiry is not None:
            self._expiry.cancel()
        now_s = self._hub.now_ns() / NS_PER_S
        self._rights = {path: expires_s for path, expires_s in self._rights.items() if expires_s > now_s}
        for link, path in self._links.items():
            if not self._may(path):
                link.detach(Error(Symbol(_UNAUTHORISED), "the token has expired"))
        if self._rights:
            left_s = min(self._rights.values()) - now_s
            self._expiry = asyncio.get_running_loop().call_later(left_s, self._watch)

    # Requests and replies

    def _manage(self, link: IncomingLink, message: Message) -> None:
        asked = message.application_properties
        name = asked.get("name")
        if asked.get("operation") != "READ" or not isinstance(name, str) or not self._is_event_hub(name.lower()):
            self._reply(link, message, 404, "only READ of the event hub and its partition is known here")
            return
        described: dict[str, Value] = {"name": name, "type": asked.get("type")}
        match asked.get("type"), asked.get("partition"):
            case "com.microsoft:eventhub", _:
                described |= {
                    "created_at": Timestamp(0),
                    "partition_count": Int(1),
                    "partition_ids": Array([PARTITION]),
                }
                self._reply(link, message, 200, "OK", described)
            case "com.microsoft:partition", "0":
                described |= {"partition": PARTITION, **partition_properties(self._hub)}
                self._reply(link, message, 200, "OK", described)
            case _:
                self._reply(link, message, 404, "no such thing")

    def _reply(self, link: IncomingLink, request: Message, status: int, description: str, value: Value = None) -> None:
        """Answer on the client's link from the same node: the one it named, or the first of the session.

        Raises:
            Refused: there is no such link, or it takes no replies.
        """
        reply_to, path = request.properties.reply_to, _path(link.address)
        links = [each for each in link.session.links if isinstance(each, OutgoingLink) and _path(each.address) == path]
        named = [each for each in links if reply_to in (each.name, each.reply_address)]
        if not links:
            raise Refused("amqp:precondition-failed", f"no link from {path} to reply on")
        answering = (named or links)[0]
        if answering.waiting >= _MAX_WAITING_REPLIES:
            raise Refused("amqp:resource-limit-exceeded", "replies are not taken")
        properties = Properties(to=reply_to, correlation_id=request.properties.message_id)
        said: dict[str, Value] = {"status-code": Int(status), "status-description": description}
        answering.send(Message(value=value, properties=properties, application_properties=said).encode())

    # Messages

    def _send_c2d(self, message: Message) -> None:
        properties, body = message.properties, message.data
        to = _DEVICE_BOUND.fullmatch(properties.to or "")
        if to is None:
            raise _not_found(properties.to or "no address")
        if body is None:
            raise Refused("amqp:not-implemented", "a body that is not bytes")
        if len(body) > MAX_C2D_BYTES:
            raise Refused("amqp:link:message-size-exceeded", f"more than {MAX_C2D_BYTES} bytes to a device")
        application = {name: _text(value) for name, value in message.application_properties.items()}
        system = {
            "correlation-id": _text(properties.correlation_id),
            "user-id": _text(properties.user_id),
            "content-type": properties.content_type,
            "content-encoding": properties.content_encoding,
        }
        expires_ns = None
        if properties.absolute_expiry_time is not None:
            expires_ns = properties.absolute_expiry_time * NS_PER_MS
            system["absolute-expiry-time"] = rfc3339(expires_ns)
        try:
            self._hub.send_c2d(
                self._device_id(to[1]),
                body,
                application,
                message_id=_text(properties.message_id),
                system_properties={name: value for name, value in system.items() if value is not None},
                expires_ns=expires_ns,
                ack=Ack(application.get(_ACK) or "none"),
            )
        except ValueError:
            raise Refused("com.microsoft:argument-error", f"{_ACK} is none, positive, negative or full") from None
        except BenchError as error:
            raise Refused(_REASONS.get(type(error), "com.microsoft:argument-error"), error.what) from None

    def _device_id(self, written: str) -> str:
        """A device's id from an address: Node percent-encodes it there, Python does not."""
        try:
            return self._hub.registry.get(IdentityName(written)).device_id
        except IdentityNotFound:
            return unquote(written)

    def _read_events(self, link: OutgoingLink, readers: Readers) -> Outlet:
        hub = self._hub
        start = position(link.source_filter, hub.statistics.messages - 1)
        owner = link.properties.get("com.microsoft:epoch")
        metrics = "com.microsoft:enable-receiver-runtime-metric" in link.desired_capabilities
        readers.admit(link, owner if isinstance(owner, int) else None)
        return Feed(link, lambda feed: feed_events(feed, hub, start, metrics=metrics))

    def _is_event_hub(self, name: str) -> bool:
        """Clients that know IoT Hub call its event hub `messages/events`."""
        return name in (self._offer.event_hub.lower(), "messages/events")


class _Replies:
    """Nothing is sent on the link but replies, which wait for credit there."""

    def wake(self) -> None:
        """See `Outlet`."""

    def closed(self) -> None:
        """See `Outlet`."""


def _path(address: str) -> str:
    """An address below the host, which some clients write in front."""
    _, scheme, rest = address.partition("://")
    return (rest.partition("/")[2] if scheme else address).strip("/")


def _not_found(path: str) -> Refused:
    return Refused("amqp:not-found", f"nothing is at {path}")


def _text(value: Value) -> str | None:
    """A value of a property as devices get it."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case bytes():
            return value.decode(errors="replace")
        case Timestamp():
            return rfc3339(value * NS_PER_MS)
        case _:
            return str(value)
