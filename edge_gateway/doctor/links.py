"""The serial ports: whether each is there, may be opened, is nobody else's, and takes its settings.

A port that is another program's, or a running gateway's, is not opened: opening one can reset the board behind it. Who
has it is found in /proc. A port nobody has is opened as the gateway would, and given back.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import os
import stat
from itertools import combinations
from pathlib import Path
from typing import Any, Final

from serial.tools import list_ports

from edge_gateway.config.devices import LinkSettings, PathPort, ReplayPort, UsbPort
from edge_gateway.config.link import SerialLine
from edge_gateway.doctor.finding import Fault, Finding, Findings
from edge_gateway.doctor.holders import holders
from edge_gateway.doctor.site import Site
from edge_gateway.doctor.user import User, WayIn, group_name, way_in
from edge_gateway.errors import LinkUnavailable
from edge_gateway.transport.serial_line import close_port, find_usb_port, open_port

GONE: Final = Fault(
    "serial.gone",
    "the link {link} has no port {path}",
    "Plug the adapter in, or set the link's port to one that is there now: {present}",
)
NONE_PRESENT: Final = Fault(
    "serial.none-present",
    "the link {link} has no port {path}, and no serial adapter is plugged in",
    "Plug the adapter in; if it is, try another cable and look at `dmesg`. In a container, pass the device on",
)
USB_NOT_FOUND: Final = Fault("serial.usb-not-found", "the link {link} finds no single adapter: {what}", "{remedy}")
NOT_A_PORT: Final = Fault(
    "serial.not-a-port", "{path} of the link {link} is no serial port", "Set the link's port to one: {present}"
)
NO_DEVICE: Final = Fault(
    "serial.no-device",
    "there is no hardware behind {path} of the link {link}",
    "Choose another port: {present}; a UART of the board may have to be switched on first",
)
NOT_IN_GROUP: Final = Fault(
    "serial.not-in-group",
    "{user} is not in the group {group}, which may open {path} of the link {link}",
    "`sudo usermod -aG {group} {user}`, and start the gateway again",
)
GROUP_NOT_IN_FORCE: Final = Fault(
    "serial.group-not-in-force",
    "{user} has been put into the group {group}, but not in this session, so {path} of the link {link} stays closed",
    "Log in again, or start the service again: groups are taken over at the start only",
)
NOT_ALLOWED: Final = Fault(
    "serial.not-allowed",
    "{user} may not open {path} of the link {link}, and there is no group that would help ({mode}, group {group})",
    'Add a udev rule for the adapter: `SUBSYSTEM=="tty", GROUP="dialout", MODE="0660"`, then `sudo udevadm trigger`',
)
BUSY: Final = Fault(
    "serial.busy",
    "{path} of the link {link} is in use by {holder}",
    "Stop that program (for ModemManager: `sudo systemctl disable --now ModemManager`), or give the link another port",
)
REFUSED: Final = Fault("serial.refused", "{path} of the link {link} cannot be used: {what}", "{remedy}")
SHARED: Final = Fault(
    "serial.shared",
    "the links {first} and {second} lead to the same port, {path}",
    "Give each its own port; /dev/serial/by-path tells equal adapters apart",
)
NO_CAPTURE: Final = Fault(
    "link.no-capture", "the capture {path} of the link {link} cannot be read: {reason}", "Give the path of a capture"
)
LINK_DOWN: Final = Fault("link.down", "the link {link} of the running gateway is down: {what}", "Do what it says")

_MOST_TOLD: Final = 5
_CLOSED: Final = {WayIn.GROUP: NOT_IN_GROUP, WayIn.LOGIN: GROUP_NOT_IN_FORCE, WayIn.MODE: NOT_ALLOWED}


def check_shared(site: Site) -> Findings:
    """Whether two links name one port by different paths."""
    ports = [(link.name, _real(path)) for link in site.config.links if (path := _path_of(link)) is not None]
    return [
        SHARED.found(first=first, second=second, path=path)
        for (first, path), (second, other) in combinations(ports, 2)
        if path == other and path.exists()
    ]


def check_links(site: Site) -> Findings:
    """Look at the port of each link."""
    told = {link["name"]: link for link in (site.learnt.status or {}).get("links", ())}
    found: list[Finding] = []
    for link in site.config.links:
        state = told.get(link.name)
        if state is not None and state["up"]:
            continue
        finding = _look_at(site, link)
        if finding is None and state is not None and state["fault"]:
            finding = LINK_DOWN.found("its status", link=link.name, what=state["fault"])
        if finding is not None:
            found.append(finding)
    return found


def _look_at(site: Site, link: LinkSettings) -> Finding | None:
    match link.port:
        case ReplayPort():
            return _look_at_capture(link.port.replay, link.name)
        case UsbPort():
            try:
                path = Path(find_usb_port(link.port.usb, list_ports.comports))
            except LinkUnavailable as error:
                return USB_NOT_FOUND.found(error.where, link=link.name, what=error.what, remedy=error.remedy)
        case PathPort():
            path = Path(link.port.path)
    return _look_at_port(site, link, path)


def _look_at_capture(path: Path, link: str) -> Finding | None:
    try:
        path.open("rb").close()
    except OSError as error:
        return NO_CAPTURE.found(path=path, link=link, reason=error.strerror)
    return None


def _look_at_port(site: Site, link: LinkSettings, path: Path) -> Finding | None:
    present = _present(site.devices, path.name)
    places: dict[str, Any] = {"link": link.name, "path": path, "present": ", ".join(present) or "none is plugged in"}
    try:
        info = path.stat()
    except PermissionError:
        return _not_allowed(site.gateway_user, path.parent.stat(), places)
    except OSError:
        return (GONE if present else NONE_PRESENT).found(**places)
    if not stat.S_ISCHR(info.st_mode):
        return NOT_A_PORT.found(**places)
    if not site.gateway_user.may(path, os.R_OK | os.W_OK):
        return _not_allowed(site.gateway_user, info, places)
    if holder := next(holders(path), ""):
        return BUSY.found("found in /proc", holder=holder, **places)
    if site.is_running:
        return None  # it is about to open the port itself
    line = link.line or site.learnt.codecs[link.profile].profile.line or SerialLine()
    return _try_opening(path, line, places)


def _not_allowed(user: User, info: os.stat_result, places: dict[str, Any]) -> Finding:
    mode = f"mode {stat.S_IMODE(info.st_mode):04o}"
    known = {"user": user.name, "group": group_name(info.st_gid), "mode": mode, **places}
    return _CLOSED[way_in(user, info)].found(mode, **known)


def _try_opening(path: Path, line: SerialLine, places: dict[str, Any]) -> Finding | None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as pyserial and the like take it
        finally:
            os.close(descriptor)
    except OSError as error:
        evidence = f"opening it: {error.strerror}"
        if error.errno in (errno.EBUSY, errno.EAGAIN):
            return BUSY.found(evidence, holder="another program", **places)
        if error.errno in (errno.ENXIO, errno.ENODEV, errno.EIO):
            return NO_DEVICE.found(evidence, **places)
        return REFUSED.found(
            evidence, what=error.strerror, remedy="Look at `dmesg`, and plug the adapter in again", **places
        )
    try:
        close_port(open_port(str(path), line))
    except LinkUnavailable as refusal:
        return REFUSED.found("opening it as the gateway does", what=refusal.what, remedy=refusal.remedy, **places)
    return None


def _present(devices: Path, wanted: str) -> list[str]:
    """The ports that are there, by names that last; the most similar to `wanted` first."""
    by_id = devices / "serial" / "by-id"
    names = sorted(os.listdir(by_id)) if by_id.is_dir() else []  # noqa: PTH208 - names are compared, not paths
    similar = difflib.get_close_matches(wanted, names, n=_MOST_TOLD, cutoff=0.0)
    ports = [str(by_id / name) for name in similar]
    return (
        ports
        or [str(path) for pattern in ("ttyUSB*", "ttyACM*") for path in sorted(devices.glob(pattern))][:_MOST_TOLD]
    )


def _path_of(link: LinkSettings) -> Path | None:
    return Path(link.port.path) if isinstance(link.port, PathPort) else None


def _real(path: Path) -> Path:
    return path.resolve()
