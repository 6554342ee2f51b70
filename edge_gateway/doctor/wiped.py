"""Whether the gateway's keys were wiped. Looked at before anything opens the key store.

Whatever opens the key store of a gateway whose wipe was cut short ends that wipe. The doctor looks at the mark alone,
and leaves it to who runs the command it names.
"""

from __future__ import annotations

from typing import Final

from edge_gateway.doctor.finding import Fault, Findings
from edge_gateway.doctor.site import Site
from edge_gateway.emergency.mark import read_mark

WIPED: Final = Fault(
    "keys.wiped",
    "all keys of this gateway were wiped ({begun}, {reason}), so it does not run any more",
    "Disable its devices at the hub if that is not done. To use the box again: `sudo rm -r {directory}`, then "
    "provision it anew: `{edge_gateway} provision connection-string --config {config}`",
)
WIPE_CUT_SHORT: Final = Fault(
    "keys.wipe-unfinished",
    "a wipe of all keys of this gateway was begun ({begun}, {reason}) and was cut short",
    "End it: `{edge_gateway} keys wipe --yes --config {config}`",
)


def check_wiped(site: Site) -> Findings:
    """Whether a wipe was begun on the data directory."""
    report = read_mark(site.data_directory)
    if report is None:
        return []
    evidence = f"it could not destroy: {'; '.join(report.left)}" if report.left else ""
    fault = WIPED if report.done else WIPE_CUT_SHORT
    return [
        fault.found(
            evidence,
            begun=report.begun or "nobody knows when",
            reason=report.reason,
            directory=site.data_directory,
            edge_gateway=site.edge_gateway,
            config=site.config_argument,
        )
    ]
