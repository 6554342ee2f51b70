"""Whether the gateway may open enough files: each sensor with an identity of its own has a connection, which is one.

A gateway takes at its start as many as the system allows it (the hard limit), so that is what counts. Of one that runs
it is seen in /proc; of one that is stopped nobody knows how it will be started.
"""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Final

from edge_gateway.assembly import BUFFER_FILE
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.doctor.finding import Fault, Findings, Level
from edge_gateway.doctor.running import lock_holder
from edge_gateway.doctor.site import Site
from edge_gateway.errors import ConfigError
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities

_FIX: Final = (
    "As a service: `LimitNOFILE={needed}` below [Service] (`sudo systemctl edit edge-gateway`), then `sudo systemctl "
    "restart edge-gateway`. In a container: `--ulimit nofile={needed}`"
)
TOO_FEW: Final = Fault(
    "box.few-files",
    "the gateway may open {limit} files, and its {sensors} sensors with an identity of their own need about {needed}: "
    "some of them cannot connect",
    _FIX,
)
TOO_FEW_HERE: Final = Fault(
    "box.few-files-here",
    "a gateway that is started as this command was may open {limit} files, and its {sensors} sensors with an identity "
    "of their own need about {needed}",
    _FIX,
    Level.WARNING,
)

_FILES_OF_A_GATEWAY: Final = 64
"""With no sensor's session: libraries' sockets, store, ports, log. Measured: 23, and one more a session."""
_LIMIT: Final = re.compile(rb"^Max open files +\S+ +([0-9]+) ", re.MULTILINE)


def check_open_files(site: Site) -> Findings:
    """Whether all sensors with identities can be connected at once."""
    uplink = site.config.uplink
    if not isinstance(uplink, IotHubUplink):
        return []
    try:
        leaves = len(Identities(site.data_directory / IDENTITIES_FILE).leaves)
    except ConfigError:
        return []  # told where the gateway's own identity is looked for
    sensors = min(leaves, uplink.sensors.most_sessions)
    running = _limit_of(lock_holder(site.data_directory / BUFFER_FILE)) if site.is_running else None
    limit = running or resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = sensors + _FILES_OF_A_GATEWAY
    if not sensors or limit == resource.RLIM_INFINITY or limit >= needed:
        return []
    fault = TOO_FEW_HERE if running is None else TOO_FEW
    return [fault.found("hard limit of open files (RLIMIT_NOFILE)", limit=limit, sensors=sensors, needed=needed)]


def _limit_of(pid: int | None) -> int | None:
    """The hard limit of a process; None if nobody says."""
    if not pid:
        return None
    try:
        found = _LIMIT.search(Path(f"/proc/{pid}/limits").read_bytes())
    except OSError:
        return None
    return int(found[1]) if found else None
