"""Where devices upload files to: the storage account a hub has at Azure, as far as uploads need it.

A device asks the hub for an upload and is given a blob's name and a signed query (SAS) that lets it write and read this
one blob until an end; it writes the blob; it tells the hub how that went. If well, the hub notifies the solution.

- A device may have ten uploads open. One that it never ends holds its place until the query's end.
- A blob is written whole, or as blocks and then a list of them. Blocks that no list takes go with the upload or query.
- Nothing grows without end: sizes, blocks, queries and the sum of all bytes are limited, and notifications that nobody
  takes are dropped, oldest first.
- Blobs are kept in memory or, given a directory, each in a file there named after it, percent-encoded.

Azure Storage's calls on this are in `storage.rest`. What is signed is our own; only its place in the query is Azure's:
`?sv={version}&sr=b&sp={permissions}&se={end}&sig={signature}`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import random
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

from edge_gateway.clock import NS_PER_S, Clock, SystemClock, rfc3339
from edge_gateway.durable_file import replace_durably
from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.refusals import LimitExceeded

MAX_OPEN_UPLOADS = 10
"""Of one device (iot-hub-devguide-file-upload)."""
MAX_BLOB_BYTES = 64 * 1024 * 1024
MAX_STORE_BYTES = 256 * 1024 * 1024
"""Of all blobs and blocks together; the bench must not take the machine's memory."""
MAX_BLOCKS = 50_000
"""Of one blob (Put Block List)."""
MAX_QUERIES = 10_000
"""In force at a time, for the whole storage (azure-subscription-service-limits, IoT Hub)."""
MAX_NAME_CHARACTERS = 1024
SAS_LIFETIME_S = 3600
"""IoT Hub's default; it lets one choose a minute to a day."""
_MAX_NOTIFICATIONS = 1000
_ITEM_BYTES = 1024
"""What a blob or block counts beside its content, so that empty ones cannot come without end."""
_MAX_FILE_NAME_BYTES = 250
"""What file systems take, less the letters a file has while it is written."""
_SAS_VERSION = "2021-08-06"
_SIGNED_PARTS = ("sv", "sr", "sp", "se")


class StorageRefused(BenchError):
    """A call on the storage cannot be done.

    Args:
        status: HTTP status, 400 or above.
        code: Azure Storage's name for it (common-rest-api-error-codes, blob-service-error-codes).
        what: one sentence for the client.
        where: the blob.
    """

    def __init__(self, status: int, code: str, what: str, *, where: str) -> None:
        super().__init__(what, where=where)
        self.status = status
        self.code = code


class UploadLimitReached(LimitExceeded):
    """The device has as many uploads open as it may have, or the storage as many queries in force."""


class UploadNotFound(BenchError):
    """The device has no open upload of this correlation id."""


@dataclass(frozen=True, slots=True)
class FileNotification:
    """A device has uploaded a file; what a solution reads from the hub."""

    device_id: str
    blob_uri: str
    blob_name: str
    """With the device in front: `{device}/{file}`."""
    last_updated_ns: int
    """Of the blob; wall time, nanoseconds since 1970-01-01T00:00:00Z."""
    size_bytes: int
    enqueued_ns: int
    """When the device said that it was done."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload a device has begun and not ended."""

    correlation_id: str
    device_id: str
    host_name: str
    container: str
    blob_name: str
    sas_query: str = field(repr=False)
    """With the question mark; whoever has it may write and read the blob."""
    ends_s: int
    """Unix second from which on the query is worth nothing."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob that has been written."""

    content: bytes | Path = field(repr=False)
    """Or the file that has it."""
    size_bytes: int
    etag: str
    """Without quotes."""
    last_updated_ns: int
    content_type: str

    def read(self, start: int, end: int) -> bytes:
        """Bytes from `start` up to, and not with, `end`."""
        if isinstance(self.content, bytes):
            return self.content[start:end]
        with self.content.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


class BlobStore:
    """The blobs of one container and the uploads of a hub's devices.

    Args:
        host_name: where clients find the storage, with `:port` if it is not 443; None: at the host and port by which
            they have asked the hub, for a storage behind the hub's own front door.
        container: the first segment of each blob's path.
        directory: where blobs are kept, made if it is not there; None keeps them in memory.
        clock: wall time, by which queries end.
        rng: makes correlation ids.
        sas_lifetime_s: for how long a query is good.
        max_blob_bytes: of one blob.
        max_store_bytes: of all blobs and blocks together.
    """

    def __init__(
        self,
        *,
        host_name: str | None = None,
        container: str = "uploads",
        directory: Path | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        sas_lifetime_s: int = SAS_LIFETIME_S,
        max_blob_bytes: int = MAX_BLOB_BYTES,
        max_store_bytes: int = MAX_STORE_BYTES,
    ) -> None:
        self.host_name = host_name
        self.container = container
        self.file_notifications: deque[FileNotification] = deque(maxlen=_MAX_NOTIFICATIONS)
        """Oldest first; taken by who reads them."""
        self._max_blob_bytes = max_blob_bytes
        self._max_store_bytes = max_store_bytes
        self._directory = directory
        self._clock = clock if clock is not None else SystemClock()
        self._rng = rng if rng is not None else random.SystemRandom()
        self._sas_lifetime_s = sas_lifetime_s
        self._sas_key = secrets.token_bytes(32)
        self._uploads: dict[str, Upload] = {}
        """Open ones by correlation id."""
        self._writable_until_s: dict[str, int] = {}
        """By blob name; a query outlives its upload."""
        self._blobs: dict[str, Blob] = {}
        self._blocks: dict[str, dict[str, bytes]] = {}
        """By blob name and block id; those that no list has taken."""
        self._used_bytes = 0
        self._writes = 0

    # Uploads, as the hub sees them

    def begin_upload(self, device_id: str, file_name: str, host_name: str = "") -> Upload:
        """Give a device the right to write one blob.

        Args:
            device_id: whose upload; the blob's name begins with it.
            file_name: the rest of the name; may have slashes.
            host_name: where the device has asked the hub, for a storage that has no name of its own.

        Raises:
            UploadLimitReached: ten of the device's are open already, or too many queries are in force.
            BenchError: the name will not do.
        """
        self._forget_ended()
        blob_name = f"{device_id}/{file_name}"
        self._check_name(file_name, blob_name)
        if sum(upload.device_id == device_id for upload in self._uploads.values()) >= MAX_OPEN_UPLOADS:
            raise UploadLimitReached(
                f"{MAX_OPEN_UPLOADS} uploads are open already", where=device_id, remedy="End one, or wait for its end"
            )
        if len(self._writable_until_s) >= MAX_QUERIES and blob_name not in self._writable_until_s:
            raise UploadLimitReached(
                f"{MAX_QUERIES} queries are in force already", where=device_id, remedy="Wait for the end of some"
            )
        ends_s = self._now_s() + self._sas_lifetime_s
        upload = Upload(
            base64.b64encode(self._rng.randbytes(24)).decode(),
            device_id,
            self.host_name if self.host_name is not None else host_name,
            self.container,
            blob_name,
            self.sas_query(blob_name, ends_s),
            ends_s,
        )
        self._uploads[upload.correlation_id] = upload
        self._writable_until_s[blob_name] = ends_s
        return upload

    def end_upload(self, device_id: str, correlation_id: str, *, success: bool) -> FileNotification | None:
        """Hear from a device how an upload went; a notification is queued if it went well.

        Raises:
            UploadNotFound: the device has no open upload of this id.
            StorageRefused: it went well, it says, and there is no blob; the upload stays open.
        """
        self._forget_ended()
        upload = self._uploads.get(correlation_id)
        if upload is None or upload.device_id != device_id:
            raise UploadNotFound("no open upload of this correlation id", where=device_id, remedy="Begin a new one")
        blob = self.blob(upload.blob_name) if success else None
        del self._uploads[correlation_id]
        if all(other.blob_name != upload.blob_name for other in self._uploads.values()):
            self._drop_blocks(upload.blob_name)
        if blob is None:
            return None
        notification = FileNotification(
            device_id,
            f"https://{upload.host_name}/{quote(f'{upload.container}/{upload.blob_name}')}",
            upload.blob_name,
            blob.last_updated_ns,
            blob.size_bytes,
            self._clock.now_ns(),
        )
        self.file_notifications.append(notification)
        return notification

    @property
    def open_uploads(self) -> list[Upload]:
        """Those that hold a place, oldest first."""
        self._forget_ended()
        return list(self._uploads.values())

    # Signed queries

    def sas_query(self, blob_name: str, ends_s: int, permissions: str = "rw") -> str:
        """A query that lets its bearer read (`r`) and write (`w`) one blob until a Unix second."""
        parts = {"sv": _SAS_VERSION, "sr": "b", "sp": permissions, "se": _to_the_second(ends_s)}
        return f"?{urlencode({**parts, 'sig': self._signature(blob_name, parts)})}"

    def check_sas(self, blob_name: str, query: Mapping[str, str], permission: str) -> None:
        """Check that a query allows something on a blob.

        Raises:
            StorageRefused: it is not ours, has ended, or is for something else.
        """
        signed = hmac.compare_digest(self._signature(blob_name, query).encode(), query.get("sig", "").encode())
        # The end is compared as text: if it is signed, it is in the one form we write.
        if not signed or query["se"] <= _to_the_second(self._now_s()):
            raise StorageRefused(403, "AuthenticationFailed", "the signature is wrong or has ended", where=blob_name)
        if permission not in query.get("sp", ""):
            raise StorageRefused(
                403, "AuthorizationPermissionMismatch", "the signature does not allow this", where=blob_name
            )

    # Blobs

    @property
    def names(self) -> list[str]:
        """Of all blobs, in the order they were first written."""
        return list(self._blobs)

    def __contains__(self, name: str) -> bool:
        return name in self._blobs

    def blob(self, name: str) -> Blob:
        """A blob that has been written.

        Raises:
            StorageRefused: there is none of that name.
        """
        blob = self._blobs.get(name)
        if blob is None:
            raise StorageRefused(404, "BlobNotFound", "the specified blob does not exist", where=name)
        return blob

    def read(self, name: str) -> bytes:
        """A blob's whole content. Errors as for `blob`."""
        blob = self.blob(name)
        return blob.read(0, blob.size_bytes)

    def remove(self, name: str) -> None:
        """Forget a blob, and remove its file. Errors as for `blob`."""
        blob = self.blob(name)
        del self._blobs[name]
        self._used_bytes -= blob.size_bytes + _ITEM_BYTES
        if isinstance(blob.content, Path):
            blob.content.unlink(missing_ok=True)

    def check_room(self, name: str, size_bytes: int, *, freed_bytes: int = 0) -> None:
        """Check that a blob or block may come, before it does.

        Args:
            name: of the blob.
            size_bytes: of what is to come.
            freed_bytes: of what it will replace.

        Raises:
            StorageRefused: it is too large, or the storage is full.
        """
        self._forget_ended()
        if size_bytes > self._max_blob_bytes:
            raise StorageRefused(413, "RequestBodyTooLarge", f"at most {self._max_blob_bytes} bytes", where=name)
        if self._used_bytes - freed_bytes + size_bytes + _ITEM_BYTES > self._max_store_bytes:
            raise StorageRefused(413, "RequestBodyTooLarge", "the bench's storage is full", where=name)

    @contextmanager
    def reserved(self, name: str, size_bytes: int) -> Iterator[None]:
        """Keep room for something while it arrives. Errors as for `check_room`."""
        self.check_room(name, size_bytes)
        self._used_bytes += size_bytes
        try:
            yield
        finally:
            self._used_bytes -= size_bytes

    def put(self, name: str, content: bytes, content_type: str = "") -> Blob:
        """Write a blob whole, in the place of one of that name.

        Raises:
            StorageRefused: it is too large, or cannot be kept.
        """
        old = self._blobs.get(name)
        replaced_bytes = old.size_bytes + _ITEM_BYTES if old is not None else 0
        self.check_room(name, len(content), freed_bytes=replaced_bytes)
        return self._write(name, content, content_type, replaced_bytes)

    def put_block(self, name: str, block_id: str, content: bytes) -> None:
        """Keep a block until a list takes it, in the place of one of that id.

        Raises:
            StorageRefused: the id is none, of another length than the blob's others, or there is no room.
        """
        _check_block_id(name, block_id)
        blocks = self._blocks.get(name, {})
        if blocks and len(next(iter(blocks))) != len(block_id):
            raise StorageRefused(400, "InvalidBlobOrBlock", "block ids of different lengths", where=name)
        if len(blocks) >= MAX_BLOCKS and block_id not in blocks:
            raise StorageRefused(409, "BlockCountExceedsLimit", f"{MAX_BLOCKS} blocks already", where=name)
        replaced_bytes = len(blocks[block_id]) + _ITEM_BYTES if block_id in blocks else 0
        self.check_room(name, len(content), freed_bytes=replaced_bytes)
        self._used_bytes += len(content) + _ITEM_BYTES - replaced_bytes
        self._blocks.setdefault(name, blocks)[block_id] = content

    def put_block_list(self, name: str, block_ids: Sequence[str], content_type: str = "") -> Blob:
        """Write a blob from blocks, in this order, and drop its other blocks.

        Raises:
            StorageRefused: a block is not there, or the blob is too large or cannot be kept; the blocks are kept.
        """
        blocks = self._blocks.get(name, {})
        missing = [block_id for block_id in block_ids if block_id not in blocks]
        if missing or len(block_ids) > MAX_BLOCKS:
            raise StorageRefused(400, "InvalidBlockList", "a block of the list is not there", where=name)
        old = self._blobs.get(name)
        replaced_bytes = old.size_bytes + _ITEM_BYTES if old is not None else 0
        size_bytes = sum(len(blocks[block_id]) for block_id in block_ids)
        self.check_room(name, size_bytes, freed_bytes=replaced_bytes + _weight_bytes(blocks))
        content = b"".join(blocks[block_id] for block_id in block_ids)
        blob = self._write(name, content, content_type, replaced_bytes)
        self._drop_blocks(name)
        return blob

    # Own matters

    def _check_name(self, file_name: str, blob_name: str) -> None:
        too_long = len(blob_name) > MAX_NAME_CHARACTERS or (
            self._directory is not None and len(quote(blob_name, safe="")) > _MAX_FILE_NAME_BYTES
        )
        if not file_name or too_long or not file_name.isprintable() or file_name.endswith((".", "/")):
            raise BenchError(
                "not a blob name",
                where=blob_name[:MAX_NAME_CHARACTERS],
                remedy=f"Use up to {MAX_NAME_CHARACTERS} printable characters, no dot or slash at the end",
            )

    def _signature(self, blob_name: str, query: Mapping[str, str]) -> str:
        signed = "\n".join([f"{self.container}/{blob_name}", *(query.get(part, "") for part in _SIGNED_PARTS)])
        return base64.b64encode(hmac.digest(self._sas_key, signed.encode(), hashlib.sha256)).decode()

    def _now_s(self) -> int:
        return self._clock.now_ns() // NS_PER_S

    def _forget_ended(self) -> None:
        now_s = self._now_s()
        for upload in [each for each in self._uploads.values() if each.ends_s <= now_s]:
            del self._uploads[upload.correlation_id]
        for name in [name for name, until_s in self._writable_until_s.items() if until_s <= now_s]:
            del self._writable_until_s[name]
            self._drop_blocks(name)

    def _write(self, name: str, content: bytes, content_type: str, replaced_bytes: int) -> Blob:
        kept: bytes | Path = content
        if self._directory is not None:
            kept = self._directory / quote(name, safe="")
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
                replace_durably(kept, content)
            except OSError as error:
                raise StorageRefused(500, "InternalError", f"cannot keep it: {error.strerror}", where=name) from error
        self._writes += 1
        blob = Blob(kept, len(content), f"0x{self._writes:016X}", self._clock.now_ns(), content_type)
        self._blobs[name] = blob
        self._used_bytes += blob.size_bytes + _ITEM_BYTES - replaced_bytes
        return blob

    def _drop_blocks(self, name: str) -> None:
        self._used_bytes -= _weight_bytes(self._blocks.pop(name, {}))


def _weight_bytes(blocks: Mapping[str, bytes]) -> int:
    return sum(len(content) + _ITEM_BYTES for content in blocks.values())


def _to_the_second(time_s: int) -> str:
    return f"{rfc3339(time_s * NS_PER_S)[:19]}Z"


def _check_block_id(name: str, block_id: str) -> None:
    try:
        size_bytes = len(base64.b64decode(block_id, validate=True))
    except (binascii.Error, ValueError):
        size_bytes = 0
    if not 1 <= size_bytes <= 64:
        raise StorageRefused(400, "InvalidQueryParameterValue", "a block id has 1 to 64 bytes, base64", where=name)
