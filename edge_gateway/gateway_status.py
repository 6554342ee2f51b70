"""What a gateway says of itself when it is asked: what runs, what is late, what is queued, what is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edge_gateway import __version__
from edge_gateway.buffer import ACCOUNT_COLUMNS
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.clock import Clock, rfc3339
from edge_gateway.emergency import Emergency
from edge_gateway.keystore.watch import KeyStoreWatch
from edge_gateway.link import Link
from edge_gateway.provisioning.rotation import KeyRotation
from edge_gateway.roster import Roster
from edge_gateway.rules.rule_set import RuleSet
from edge_gateway.uplink.delivery import Delivery
from edge_gateway.uplink.leaf_sessions import LeafSessions

MOST_SENSOR_FAULTS: Final = 10
"""Sensors whose sessions fail that status names; of the others it says how many they are."""


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """Where its answers come from."""

    name: str
    endpoint: str
    """Of the gateway's own uplink."""
    links: Sequence[Link]
    roster: Roster
    rules: RuleSet
    buffer: DurableBuffer
    delivery: Delivery
    leaves: LeafSessions
    keys: KeyStoreWatch
    rotation: KeyRotation
    emergency: Emergency
    clock: Clock

    def told(self, started_at_s: float) -> dict[str, Any]:
        """The whole, as JSON can say it.

        Args:
            started_at_s: when the gateway was started, in event loop time.
        """
        now_s = asyncio.get_running_loop().time()
        buffer = self.buffer.status()
        uplink = self.delivery.status
        return {
            "gateway": self.name,
            "version": __version__,
            "time": rfc3339(self.clock.now_ns()),
            "time_trusted": self.clock.trusted,
            "uptime_s": round(now_s - started_at_s, 3),
            "links": [link.status() for link in self.links],
            "devices": [device.status(now_s) for device in self.roster],
            "queue": buffer.queued,
            "account": {column: getattr(buffer.totals, column) for column in ACCOUNT_COLUMNS},
            "buffer": {"state": buffer.state, "fault": buffer.fault},
            "key_store": {"kind": self.keys.kind, "weakness": self.keys.weakness, "fault": self.keys.fault}
            | self.rotation.status(),
            "uplink": {
                "endpoint": self.endpoint,
                "connected": uplink.connected,
                "for_s": round(now_s - (uplink.since_s or started_at_s), 3),
                "fault": uplink.fault,
                "sessions": uplink.sessions,
                "messages": uplink.messages,
                "records": uplink.records,
                "in_flight": uplink.in_flight,
            },
            "sensors": self._sensors_status(),
            "tamper": self.emergency.status(),
            "alerts": self.rules.raised(),
            "faults": self._faults(
                buffer.fault,
                self.rotation.fault,
                uplink.fault,
                *self._sensors_faults(),
                *self.emergency.faults,
            ),
        }

    def _sensors_status(self) -> dict[str, Any]:
        """How those sensors fare at the hub that have an identity of their own."""
        sums = self.leaves.sums()
        return {
            "identities": sums.leaves,
            "states": dict(sums.states),
            "sessions": sums.sessions,
            "messages": sums.messages,
            "records": sums.records,
        }

    def _sensors_faults(self) -> list[str]:
        told = [f"{name}: {fault}" for name, each in self.leaves.statuses().items() if (fault := each.delivery.fault)]
        if len(told) > MOST_SENSOR_FAULTS:
            more = len(told) - MOST_SENSOR_FAULTS
            told = [*told[:MOST_SENSOR_FAULTS], f"{more} more sensors are not let in by the hub"]
        return told

    def _faults(self, *more: str) -> list[str]:
        of_links = [f"{link.name}: {fault}" for link in self.links if (fault := link.fault)]
        of_counters = dict.fromkeys(fault for link in self.links if link.arrivals and (fault := link.arrivals.fault))
        of_devices = [fault for link in self.links if link.polled is not None for fault in link.polled.faults]
        # A key store that is away has the same to say through the buffer, the hub and each sensor.
        of_keys = self.keys.fault
        others = [each for each in more if each and not (of_keys and of_keys in each)]
        return [*of_links, *of_devices, *of_counters, *([of_keys] if of_keys else []), *others]
