"""`edge-gateway doctor`: names the cause of what is wrong with a gateway, and the fix.

Checks form a tree: each says which others it needs, and is not tried while one of those has found something. So of a
broken DNS one line is told, and not five that follow from it.

```
finding.py         what can be found, and what was        examination.py  the tree, carried out
site.py            what is examined                       checks.py       the list of all checks
configuration.py   wiped.py   box.py   data_directory.py   open_files.py   running.py   keys.py   tpm.py   links.py
identity.py -> network.py -> server.py -> hub.py          the way to the hub
enrolment.py       the provisioning service
report.py          for people and for programs
```

It runs beside a gateway without disturbing it, and for one that is stopped: a running gateway is asked over its control
socket, its ports are not opened, and nobody logs in under its name. It writes nothing but a nameless file in the data
directory, to see whether the disk takes it: it ends no wipe, and makes no key in a TPM. Every check has a time of its
own; all of it takes less than half a minute.
"""

from edge_gateway.doctor.checks import CHECKS, all_faults
from edge_gateway.doctor.examination import Check, Outcome, examine
from edge_gateway.doctor.finding import Fault, Finding, Level
from edge_gateway.doctor.report import as_json, as_text
from edge_gateway.doctor.site import Enrolment, Site

__all__ = [
    "CHECKS",
    "Check",
    "Enrolment",
    "Fault",
    "Finding",
    "Level",
    "Outcome",
    "Site",
    "all_faults",
    "as_json",
    "as_text",
    "examine",
]
