"""Ends a gateway's secrets: when somebody asks for it, or when the box is opened.

`wipe` is the order in which things are destroyed, and holds over any power cut; `mark` is what tells the next start
that it was begun. `running` does it to a gateway that runs: it tells the hub first, for as long as a few seconds allow.
`tamper` watches the inputs that ask for it.

Nothing here knows the pipeline. What a running gateway has to do for it is the protocol `RunningGateway`.
"""

from edge_gateway.emergency.mark import WipeReport
from edge_gateway.emergency.revocable import RevocableKeyStore
from edge_gateway.emergency.running import WIPE_COMMAND, Emergency, RunningGateway
from edge_gateway.emergency.wipe import GatewayWiped, Wipe, wipe_of

__all__ = [
    "WIPE_COMMAND",
    "Emergency",
    "GatewayWiped",
    "RevocableKeyStore",
    "RunningGateway",
    "Wipe",
    "WipeReport",
    "wipe_of",
]
