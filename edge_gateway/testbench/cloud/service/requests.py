"""What the calls of services share: reading their requests, and answering them."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from edge_gateway.errors import BenchError
from edge_gateway.testbench.cloud.https import HttpRefused
from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.service.query import MAX_PAGE_ITEMS


def answer(document: Any, etag: str = "", *, status: int = 200) -> web.Response:
    """A document as JSON, with its etag if it has one."""
    headers = {"ETag": f'"{etag}"'} if etag else {}
    return web.Response(
        body=orjson.dumps(document), status=status, headers=headers, content_type="application/json", charset="utf-8"
    )


def paged(rows: Any, item_type: str, continuation: str | None) -> web.Response:
    """A page of documents.

    Args:
        rows: the documents.
        item_type: what they are.
        continuation: asks for the next page; None behind the last one.
    """
    response = answer(rows)
    response.headers["x-ms-item-type"] = item_type
    if continuation is not None:
        response.headers["x-ms-continuation"] = continuation
    return response


def name_of(request: web.Request) -> IdentityName:
    """The device or module in the path."""
    return IdentityName(request.match_info["device_id"], request.match_info.get("module_id", ""))


def known_etag(request: web.Request) -> str | None:
    """The etag of what the caller knows, from `If-Match`; None takes any."""
    etag = request.headers.get("If-Match", "*").strip().strip('"')
    return etag if etag not in ("*", "") else None


def top(request: web.Request) -> int:
    """How many items a list may have. The documentation says of a number beyond the limits that the limit counts."""
    top = request.query.get("top") or str(MAX_PAGE_ITEMS)
    return int(top) if top.isdecimal() and len(top) < 6 and 0 < int(top) <= MAX_PAGE_ITEMS else MAX_PAGE_ITEMS


def max_items(request: web.Request) -> int:
    """How many items a page may have.

    Raises:
        HttpRefused: the header is no number.
    """
    items = request.headers.get("x-ms-max-item-count") or str(MAX_PAGE_ITEMS)
    if not items.isdecimal() or len(items) > 9 or not int(items):
        raise HttpRefused(400, "ArgumentInvalid", "x-ms-max-item-count is no number of items", where=request.path)
    return int(items)


def sentence(error: BenchError) -> str:
    """An error for a client. The Node SDK takes only what stands before a second semicolon."""
    return str(error).replace(";", ",")
