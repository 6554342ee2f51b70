"""What the suite asks of a client: one contract, kept by an adapter for each library and tool.

The cases are written against this contract and against the hub's own Python side, so that each is told once and every
client has to agree with it. An adapter adds nothing of its own: it says what its client's documentation says, and gives
back what the client gave. What a client cannot do is missing from its features, and cases that need it are not made
for it (`kinds.py`).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeAlias, TypeVar

from edge_gateway.records import Value

T = TypeVar("T")

Twin: TypeAlias = dict[str, dict[str, Value]]
"""`desired` and `reported`, each with its `$version`."""
Answer: TypeAlias = Callable[[str, Value], tuple[int, Value] | None]
"""From a method's name and payload to status and payload; None for a device that does not answer."""


class Feature(enum.Enum):
    """What a client may be able to do besides sending telemetry, which all can."""

    CONNECTION = "connection"
    """Holds a connection, and notices when it is gone."""
    TEXT = "any text"
    """Properties of any text, and system properties to its messages."""
    COMMANDS = "commands"
    """Cloud-to-device messages."""
    NULL = "null"
    """Tells a command's property without a value from an empty one."""
    SETTLING = "settling"
    """Puts commands back, or turns them down."""
    BATCH = "batch"
    """Sends several messages as one."""
    MODEL = "model"
    """Says which model it is a kind of."""
    TWIN = "twin"
    """Twin, reported properties."""
    DESIRED = "desired"
    """Desired properties as they change."""
    METHODS = "methods"
    MODULE = "module"
    """Module identities and their outputs."""
    INPUTS = "inputs"
    """A module's inputs, which other modules' messages come to on an edge device."""
    EDGE = "edge"
    """Is made from the environment of a module on an edge device; calls methods of other modules."""
    RENEWAL = "renewal"
    """Makes its own tokens, and the next one before one ends."""
    RETURN = "return"
    """Comes back by itself after the connection was lost."""
    SESSION = "session"
    """Asks the hub to keep its subscription to commands between connections."""
    CERTIFICATE = "certificate"
    """Proves who it is with a certificate."""
    MODULE_CERTIFICATE = "module certificate"
    """The same for a module."""
    UPLOAD = "upload"
    """File upload."""
    PROVISIONING = "provisioning"
    """Registers with the provisioning service."""
    PATIENCE = "patience"
    """Tries again when that service has too much to do."""


class Ending(enum.Enum):
    """What becomes of a command."""

    COMPLETE = "complete"
    REJECT = "reject"
    ABANDON = "abandon"


class NotAuthorised(Exception):
    """The client says that it may not connect."""


class Refused(Exception):
    """The client says that the hub, or itself, did not do what was asked."""


class Lost(Exception):
    """The client says that it has no connection, or that it has just lost it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to or from the cloud."""

    body: bytes = b""
    properties: Mapping[str, str | None] = field(default_factory=dict)
    """The application's."""
    system: Mapping[str, str] = field(default_factory=dict)
    """By their long names: `message-id`, `correlation-id`, `user-id`, `content-type`, `content-encoding`."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client's certificate with its chain, and its private key, both PEM."""

    chain_pem: str
    key_pem: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Access:
    """All that a client is told."""

    address: str
    """Where to connect to."""
    hub_name: str
    """The hub's, for user names and tokens; where it is not `address`, that is a gateway's."""
    device_id: str
    module_id: str = ""
    key: str = field(default="", repr=False)
    """Base64; empty for a client with a certificate or a token."""
    token: str = field(default="", repr=False)
    """A token somebody else has made."""
    certificate: ClientCertificate | None = None
    ca_pem: str = ""
    model_id: str = ""
    token_lifetime_s: int = 3600
    """Of those a client makes with its key."""
    returns: bool = False
    """Come back by itself after a loss."""
    keeps_session: bool = False
    """Let the hub keep the subscription to commands; the device SDKs always do."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Of a module on an edge device, which finds all the rest there."""


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a client tells the provisioning service."""

    address: str
    id_scope: str
    registration_id: str
    key: str = field(default="", repr=False)
    certificate: ClientCertificate | None = None
    ca_pem: str = ""
    payload: Value = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What the provisioning service told a client."""

    hub_name: str
    device_id: str
    payload: Value = None


class Inbox(Generic[T]):
    """Hands what a library's threads receive to the event loop it was made in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T] = asyncio.Queue()

    def put(self, item: T) -> None:
        """Take in; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)

    async def get(self) -> T:
        """The oldest; waits for one."""
        return await self._queue.get()

    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._queue.empty()


class Client:
    """One device or module, with one library. Methods that a client's features leave out are not there."""

    async def connect(self) -> None:
        """Be let in by the hub. A client without a connection does nothing.

        Raises:
            NotAuthorised: the hub does not let it in.
        """
        raise NotImplementedError

    async def send(self, message: Message) -> None:
        """Send telemetry; returns when the hub has confirmed it.

        Raises:
            NotAuthorised: a client without a connection is told so now.
            Refused: it was not taken.
            Lost: the hub has cut the connection.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Say farewell and leave nothing behind."""
        raise NotImplementedError

    async def lost(self) -> None:
        """Wait until the client has noticed that its connection is gone."""
        raise NotImplementedError

    async def send_batch(self, messages: Sequence[Message]) -> None:
        """Send several messages as one; returns when the hub has confirmed them."""
        raise NotImplementedError

    async def commands(self, ending: Ending = Ending.COMPLETE) -> Inbox[Message]:
        """Listen to cloud-to-device messages, each ended so as it is received.

        Called before `connect`, it misses none that a kept session brings at once: the device SDKs confirm those that
        come before anybody listens, and throw them away.
        """
        raise NotImplementedError

    async def twin(self) -> Twin:
        """Ask for the twin."""
        raise NotImplementedError

    async def report(self, patch: Value) -> None:
        """Patch the reported properties.

        Raises:
            Refused: the hub did not take the patch.
        """
        raise NotImplementedError

    async def desired_patches(self) -> Inbox[dict[str, Value]]:
        """Listen to changes of the desired properties; the hub has the subscription when this returns."""
        raise NotImplementedError

    async def answer_methods(self, names: Sequence[str], answer: Answer) -> None:
        """Answer these direct methods."""
        raise NotImplementedError

    async def send_output(self, output: str, message: Message) -> None:
        """Send a module's message by an output."""
        raise NotImplementedError

    async def inputs(self) -> Inbox[tuple[str, Message]]:
        """Listen to what comes to a module's inputs, with their names."""
        raise NotImplementedError

    async def call(self, device_id: str, module_id: str, method: str, payload: Value) -> tuple[int, Value]:
        """Call a method of another module on the same edge device; its status and payload."""
        raise NotImplementedError

    async def upload(self, blob_name: str, content: bytes) -> None:
        """Upload a file and tell the hub that it is there."""
        raise NotImplementedError


class ClientKind(Protocol):
    """A library with its way to the hub."""

    @property
    def name(self) -> str:
        """Unique; shown in the name of each case."""
        ...

    @property
    def features(self) -> frozenset[Feature]:
        """What its clients can do besides sending telemetry."""
        ...

    @property
    def soon_renewed_s(self) -> int:
        """How long a token has to live to be renewed after two seconds; for those that renew theirs."""
        ...

    def missing(self) -> str:
        """What has to be installed before it can be used; empty if nothing."""
        ...

    async def install(self) -> None:
        """Fetch what it can fetch by itself; takes a while the first time."""
        ...

    async def client(self, access: Access) -> Client:
        """A client, not connected yet."""
        ...

    async def register(self, enrolment: Enrolment) -> Registration:
        """Register with the provisioning service.

        Raises:
            NotAuthorised: the client says that its proof is wrong.
            Refused: the client was not registered, for whatever reason.
        """
        ...
