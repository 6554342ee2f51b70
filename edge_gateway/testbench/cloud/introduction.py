"""How a client of a hub or an edge hub introduces itself: who it is, in the client id and the user name of its CONNECT.

The user name is `{hub}/{client id}/?api-version=...&...`; an older form has no question mark. The client id is that of
the device, or `{device}/{module}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import parse_qs

from edge_gateway.testbench.cloud.identity import IdentityName
from edge_gateway.testbench.cloud.mqtt.packets import Connect
from edge_gateway.testbench.cloud.refusals import AccessDenied


class Introduction(NamedTuple):
    """What a client says, which nobody has checked."""

    name: IdentityName
    token: str | None
    """Its password; None if it has a certificate instead."""
    query: Mapping[str, Sequence[str]]
    """What stands behind the question mark."""


def hub_named(connect: Connect) -> str:
    """The host name of the hub that a client means, in lower case."""
    return (connect.username or "").partition("/")[0].lower()


def introduction(connect: Connect) -> Introduction:
    """Read what a client says of itself.

    Raises:
        AccessDenied: it is nothing that a client says.
    """
    rest = (connect.username or "").partition("/")[2]
    if not connect.client_id or not rest.startswith(f"{connect.client_id}/"):
        raise AccessDenied("the user name is not for this client id", where=connect.client_id)
    query = parse_qs(rest[len(connect.client_id) + 1 :].removeprefix("?"))
    if "api-version" not in query:
        raise AccessDenied("the user name has no api-version", where=connect.client_id)
    name = IdentityName(*connect.client_id.partition("/")[::2])
    token = connect.password.decode(errors="replace") if connect.password is not None else None
    return Introduction(name, token, query)
