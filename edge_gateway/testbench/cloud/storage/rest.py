"""The calls of Azure Storage by which devices write their files, and the bench reads them: block blobs, no more.

Put Blob, Put Block, Put Block List, Get Blob and Get Blob Properties, as unmodified storage SDKs make them (Azure
Storage's REST reference, Blob service). Each is allowed by a signed query and nothing else. Errors are XML with their
code in the header `x-ms-error-code`.

An MD5 that comes along is checked; a CRC-64, metadata and conditions on dates are ignored. Blocks that are in a blob
already cannot be put into another list. Other calls are refused.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import unquote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from aiohttp import web

from edge_gateway.clock import NS_PER_S
from edge_gateway.testbench.cloud.https import arriving
from edge_gateway.testbench.cloud.storage.blob_store import MAX_BLOCKS, Blob, BlobStore, StorageRefused

_MAX_BLOCK_LIST_BYTES = MAX_BLOCKS * 128
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")

_Call: TypeAlias = Callable[[BlobStore, str, web.Request], Coroutine[Any, Any, web.Response]]


def routes(blobs: BlobStore) -> list[web.RouteDef]:
    """What clients call, for the hub's own front door or another. The container is the first segment of the path."""

    def route(method: str, call: _Call, permission: str) -> web.RouteDef:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                name = _blob_name(request, blobs.container)
                blobs.check_sas(name, request.query, permission)
                response = await call(blobs, name, request)
            except StorageRefused as error:
                response = _refusal(error)
            response.headers["x-ms-version"] = request.headers.get("x-ms-version", "2021-08-06")
            if "x-ms-client-request-id" in request.headers:
                response.headers["x-ms-client-request-id"] = request.headers["x-ms-client-request-id"]
            return response

        return web.RouteDef(method, f"/{blobs.container}/{{blob:.+}}", handle, {})

    return [route("PUT", _write, "w"), route("GET", _get, "r")]  # aiohttp answers HEAD by GET, without the body


class _Range(NamedTuple):
    start: int
    end: int
    """The first byte that is not wanted."""


async def _write(blobs: BlobStore, name: str, request: web.Request) -> web.Response:
    match request.query.get("comp"):
        case None:
            return await _put_blob(blobs, name, request)
        case "block":
            return await _put_block(blobs, name, request)
        case "blocklist":
            return await _put_block_list(blobs, name, request)
        case _:
            raise StorageRefused(400, "InvalidQueryParameterValue", "the bench has no such call", where=name)


async def _put_blob(blobs: BlobStore, name: str, request: web.Request) -> web.Response:
    if request.headers.get("x-ms-blob-type", "").lower() != "blockblob":
        raise StorageRefused(400, "InvalidHeaderValue", "the bench has block blobs only", where=name)
    _check_may_write(blobs, name, request.headers)
    content = await _body(blobs, name, request)
    return _created(blobs.put(name, content, _content_type(request)), content)


async def _put_block(blobs: BlobStore, name: str, request: web.Request) -> web.Response:
    content = await _body(blobs, name, request)
    blobs.put_block(name, request.query.get("blockid", ""), content)
    return web.Response(status=201, headers={"Content-MD5": _md5(content)})


async def _put_block_list(blobs: BlobStore, name: str, request: web.Request) -> web.Response:
    _check_may_write(blobs, name, request.headers)
    body = await _body(blobs, name, request, _MAX_BLOCK_LIST_BYTES)
    return _created(blobs.put_block_list(name, parse_block_list(body, name), _content_type(request)), body)


async def _get(blobs: BlobStore, name: str, request: web.Request) -> web.Response:
    blob = blobs.blob(name)
    _check_etag(blob, name, request.headers)
    wanted = parse_range(request.headers.get("x-ms-range") or request.headers.get("Range"), blob.size_bytes, name)
    headers = _headers(blob)
    if wanted is None:
        return web.Response(body=blob.read(0, blob.size_bytes), headers=headers)
    headers["Content-Range"] = f"bytes {wanted.start}-{wanted.end - 1}/{blob.size_bytes}"
    return web.Response(status=206, body=blob.read(wanted.start, wanted.end), headers=headers)


def parse_block_list(body: bytes, name: str) -> list[str]:
    """The block ids of a Put Block List.

    Args:
        body: `<BlockList><Latest>{id}</Latest>...</BlockList>`, UTF-8; `Uncommitted` is the same as `Latest` here.
        name: the blob, for the error.

    Raises:
        StorageRefused: it is something else, or names committed blocks.
    """
    try:
        text = body.decode("utf-8-sig")
        # With no `<!` there is no document type, and so no entity that could swell or name a file.
        root = ElementTree.fromstring(text) if "<!" not in text else None  # noqa: S314 - see the line above
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError):
        root = None
    if root is None or root.tag != "BlockList" or not all(item.tag in {"Latest", "Uncommitted"} for item in root):
        raise StorageRefused(400, "InvalidXmlDocument", "not a list of blocks that no list has taken", where=name)
    return [(item.text or "").strip() for item in root]


def parse_range(header: str | None, size_bytes: int, name: str) -> _Range | None:
    """The part of a blob that a client wants; None is all of it.

    Args:
        header: `bytes={first}-[{last}]`; any other form asks for all, as HTTP has it (RFC 9110, 14.2).
        size_bytes: of the blob.
        name: the blob, for the error.

    Raises:
        StorageRefused: the part begins behind the blob's end.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None
    start = int(match[1])
    end = min(int(match[2]) + 1, size_bytes) if match[2] else size_bytes
    if match[2] and int(match[2]) < start:
        return None
    if start >= size_bytes:
        raise StorageRefused(416, "InvalidRange", "the range begins behind the end of the blob", where=name)
    return _Range(start, end)


async def _body(blobs: BlobStore, name: str, request: web.Request, max_bytes: int | None = None) -> bytes:
    size_bytes = request.content_length
    if size_bytes is None:
        raise StorageRefused(411, "MissingContentLengthHeader", "a length has to be told", where=name)
    if max_bytes is not None and size_bytes > max_bytes:
        raise StorageRefused(413, "RequestBodyTooLarge", f"at most {max_bytes} bytes", where=name)
    with blobs.reserved(name, size_bytes):
        # Without the condition, aiohttp takes an empty body for one that has broken off.
        content = await arriving(request.content.readexactly(size_bytes)) if size_bytes else b""
    told = request.headers.get("Content-MD5")
    if told is not None and told != _md5(content):
        raise StorageRefused(400, "Md5Mismatch", "the body is not what its MD5 says", where=name)
    return content


def _blob_name(request: web.Request, container: str) -> str:
    # Not from the route's match: it leaves the decoding of some letters to the reader.
    path = request.rel_url.raw_path.removeprefix(f"/{container}/")
    try:
        return unquote(path, errors="strict")
    except UnicodeDecodeError:
        raise StorageRefused(400, "InvalidUri", "the path is not percent-encoded UTF-8", where=container) from None


def _check_may_write(blobs: BlobStore, name: str, headers: Mapping[str, str]) -> None:
    if headers.get("If-None-Match") == "*" and name in blobs:
        raise StorageRefused(409, "BlobAlreadyExists", "the specified blob already exists", where=name)
    if "If-Match" in headers:
        _check_etag(blobs.blob(name), name, headers)


def _check_etag(blob: Blob, name: str, headers: Mapping[str, str]) -> None:
    wanted = headers.get("If-Match", "*")
    if wanted != "*" and wanted.strip('"') != blob.etag:
        raise StorageRefused(412, "ConditionNotMet", "the blob has changed", where=name)


def _content_type(request: web.Request) -> str:
    return request.headers.get("x-ms-blob-content-type", "application/octet-stream")


def _created(blob: Blob, body: bytes) -> web.Response:
    headers = {
        "ETag": f'"{blob.etag}"',
        "Last-Modified": _http_date(blob.last_updated_ns),
        "Content-MD5": _md5(body),
        "x-ms-request-server-encrypted": "false",
    }
    return web.Response(status=201, headers=headers)


def _headers(blob: Blob) -> dict[str, str]:
    return {
        "ETag": f'"{blob.etag}"',
        "Last-Modified": _http_date(blob.last_updated_ns),
        "Content-Type": blob.content_type,
        "Accept-Ranges": "bytes",
        "x-ms-blob-type": "BlockBlob",
    }


def _refusal(error: StorageRefused) -> web.Response:
    document = (
        '<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{error.code}</Code><Message>{escape(error.what)}</Message></Error>"
    )
    return web.Response(
        status=error.status, text=document, content_type="application/xml", headers={"x-ms-error-code": error.code}
    )


def _http_date(time_ns: int) -> str:
    return formatdate(time_ns / NS_PER_S, usegmt=True)


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
