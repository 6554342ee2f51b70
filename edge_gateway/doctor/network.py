"""The way to the hub: its name, and its port."""

from __future__ import annotations

import asyncio
import enum
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple, Self

from edge_gateway.config.uplink import MqttUplink
from edge_gateway.doctor.finding import Fault, Findings
from edge_gateway.doctor.site import Site

NO_DNS_SERVER: Final = Fault(
    "dns.no-server",
    "this box knows no DNS server, so the name {host} leads nowhere",
    "Let the network give it one (DHCP), or write one into {file}: `nameserver 9.9.9.9`",
)
DNS_SILENT: Final = Fault(
    "dns.no-answer",
    "no DNS server gives an answer, so the name {host} leads nowhere",
    "See that the box is on the network (`ip address`, `ip route`), that port 53 is open, and the servers in {file}",
)
UNKNOWN_NAME: Final = Fault(
    "dns.unknown-name",
    "DNS knows no host {host}",
    "Correct the host name in the configuration; if it is right, the hub was deleted, or this network's DNS hides it",
)
USELESS_ADDRESS: Final = Fault(
    "dns.useless-address",
    "the name {host} leads to {addresses}, where no hub can be",
    "A DNS filter or a line in /etc/hosts answers so: take the line out, or have the name allowed",
)
NO_ROUTE: Final = Fault(
    "net.no-route",
    "this box has no way out of its network: {addresses} cannot be reached",
    "Look at cable, modem and router: `ip route` has to show a line `default via`",
)
IPV6_ONLY: Final = Fault(
    "net.ipv6-only",
    "this network has IPv6 only, and {host} has IPv4 addresses only",
    "Ask the network's operator for DNS64/NAT64, or for IPv4",
)
PROXY: Final = Fault(
    "net.proxy",
    "this network wants to be left by the proxy {proxy}; {host} cannot be reached directly, and the gateway does not "
    "use proxies",
    "Have direct connections to {host}, port {port}, allowed for this box",
)
PORT_BLOCKED: Final = Fault(
    "net.port-blocked",
    "a firewall blocks port {port}: {host} answers on port 443 and not on this one",
    "Have outgoing TCP to {host}, port {port}, allowed for this box",
)
REFUSED: Final = Fault(
    "net.refused",
    "nothing listens at {host}, port {port}",
    "Check host and port in the configuration, and that the server runs",
)
SILENT: Final = Fault(
    "net.no-answer",
    "{host} does not answer on port {port}, nor on port 443",
    "A firewall drops what is sent there, or the host is down: have outgoing TCP to port {port} allowed, and ask who "
    "runs the host",
)

HTTPS_PORT: Final = 443
IOT_HUB_PORT: Final = 8883

_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_CONNECTS_WITHIN_S: Final = 4.0
_SHAKES_WITHIN_S: Final = 6.0
_MOST_ADDRESSES: Final = 8


class Endpoint(NamedTuple):
    """Where the hub is."""

    host: str
    port: int

    @classmethod
    def of(cls, site: Site) -> Self:
        """As the configuration says."""
        uplink = site.config.uplink
        if isinstance(uplink, MqttUplink):
            return cls(uplink.host, uplink.port)
        return cls(site.hub.parent or site.hub.host_name, IOT_HUB_PORT)


class Reach(enum.Enum):
    """What an attempt to connect comes to."""

    OPEN = "open"
    REFUSED = "refused"
    SILENT = "silent"
    NO_ROUTE = "no route"


async def check_name(site: Site) -> Findings:
    """Whether the hub's name leads somewhere."""
    host = Endpoint.of(site).host
    places = {"host": host, "file": _RESOLV_CONF}
    try:
        async with asyncio.timeout(_SHAKES_WITHIN_S):
            addresses = await site.resolve(host)
    except TimeoutError:
        return [DNS_SILENT.found("no answer in time", **places)]
    except socket.gaierror as error:
        if error.errno != socket.EAI_AGAIN:
            return [UNKNOWN_NAME.found(str(error.strerror), **places)]
        servers = _name_servers()
        fault = DNS_SILENT if servers else NO_DNS_SERVER
        return [fault.found(f"{error.strerror}; servers: {', '.join(servers) or 'none'}", **places)]
    except (OSError, UnicodeError) as error:
        return [UNKNOWN_NAME.found(str(error), **places)]
    useful = [each for each in addresses if not _is_useless(each)]
    if not useful:
        return [USELESS_ADDRESS.found(host=host, addresses=", ".join(addresses) or "no address")]
    site.learnt.addresses = tuple(useful[:_MOST_ADDRESSES])
    return []


async def check_port(site: Site) -> Findings:
    """Whether the hub's port can be reached."""
    host, port = Endpoint.of(site)
    addresses = site.learnt.addresses
    reached = dict(zip(addresses, await asyncio.gather(*(reach(each, port) for each in addresses)), strict=True))
    site.learnt.addresses = tuple(each for each in addresses if reached[each] is Reach.OPEN)
    if site.learnt.addresses:
        return []
    site.learnt.addresses = addresses
    seen = ", ".join(f"{address} port {port}: {reach.value}" for address, reach in reached.items())
    places = {"host": host, "port": port, "addresses": ", ".join(addresses)}
    if set(reached.values()) == {Reach.NO_ROUTE}:
        only_ipv4 = all(":" not in each for each in addresses)
        return [(IPV6_ONLY if only_ipv4 and _has_ipv6() else NO_ROUTE).found(seen, **places)]
    if _is_name(host) and all(ipaddress.ip_address(each).is_loopback for each in addresses):
        return [USELESS_ADDRESS.found(seen, **places)]
    if proxy := _proxy(site):
        return [PROXY.found(seen, proxy=proxy, **places)]
    if port != HTTPS_PORT and Reach.OPEN in await asyncio.gather(*(reach(each, HTTPS_PORT) for each in addresses)):
        return [PORT_BLOCKED.found(f"{seen}; port 443: open", **places)]
    return [(REFUSED if Reach.REFUSED in reached.values() else SILENT).found(seen, **places)]


@asynccontextmanager
async def connection(
    site: Site, host: str, port: int, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """TLS to a host at the address that was found to answer.

    Raises:
        OSError: it could not be made; `ssl.SSLError` if it was TLS.
    """
    async with _connected(site.learnt.addresses[0], host, port, context) as streams:
        yield streams


async def reach(address: str, port: int) -> Reach:
    """Try to connect, and hang up."""
    try:
        async with asyncio.timeout(_CONNECTS_WITHIN_S):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return Reach.SILENT
    except ConnectionRefusedError:
        return Reach.REFUSED
    except OSError:
        return Reach.NO_ROUTE
    writer.transport.abort()
    return Reach.OPEN


@asynccontextmanager
async def _connected(
    address: str, host: str, port: int, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(address, port, ssl=context, server_hostname=host)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def _name_servers() -> list[str]:
    try:
        lines = _RESOLV_CONF.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for line in lines if (words := line.split())[:1] == ["nameserver"] and len(words) > 1]


def _is_useless(address: str) -> bool:
    found = ipaddress.ip_address(address.partition("%")[0])
    return found.is_unspecified or found.is_multicast or (found.is_reserved and found.version == 4)


def _is_name(host: str) -> bool:
    """Whether a host is given by a name that should lead to another machine."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host != "localhost" and not host.endswith(".localhost")
    return False


def _has_ipv6() -> bool:
    """Whether this box has a way out by IPv6. Connecting a UDP socket looks for a route and sends nothing."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("2001:4860:4860::8888", 53))
        except OSError:
            return False
    return True


def _proxy(site: Site) -> str:
    """The proxy that this box's environment names, without its password."""
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        if value := site.environment.get(name, ""):
            return value.rpartition("@")[2] or value
    return ""
