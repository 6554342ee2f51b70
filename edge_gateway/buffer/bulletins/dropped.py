"""`records-dropped`: what a policy cost, of which devices.

```json
{"lane": "normal", "since": "2026-05-01T12:00:00.250000Z", "over_s": 60.0,
 "records": {"evicted": 120, "expired": 3},
 "devices": {"boiler-3": {"evicted": 60, "expired": 3}}, "others": {"evicted": 60}}
```

| Word | Records that |
| --- | --- |
| `evicted` | were dropped because their lane or the disk was full |
| `expired` | were older than their lane's time to live |
| `rejected` | were refused or too large for a message; of a link, frames that the quarantine has given up |
| `damaged` | the disk has damaged |

`devices` names those that lost most; `others` is the rest, and what was lost before a restart, of which only the sum is
known. All is reckoned from the accounts, so nothing can be lost without being told, however long telling takes. While a
lane goes on losing records, the pause between two events doubles, up to an hour, and is short again only after an hour
without losses: events wait in the buffer too, and must not be what fills it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import orjson

from edge_gateway.buffer import Account
from edge_gateway.buffer.bulletins.sender import Books, Sender
from edge_gateway.records import Value

_FIRST_PAUSE_S: Final = 60.0
_LONGEST_PAUSE_S: Final = 3600.0

_MOST_DEVICES: Final = 50
"""Named in one event."""


class Losses(NamedTuple):
    """Records lost, by policy.

    When the quarantine gives damaged records up, `damaged` falls and `rejected` grows by as many. So of all lost since
    some time `damaged` may be below 0, but never the sum.
    """

    evicted: int = 0
    expired: int = 0
    rejected: int = 0
    damaged: int = 0

    @classmethod
    def sum(cls, several: Iterable[Losses]) -> Losses:
        """All together."""
        return cls(*map(sum, zip(*several, strict=True)))

    def since(self, before: Losses) -> Losses:
        """What came after `before`."""
        return Losses(*(now - then for now, then in zip(self, before, strict=True)))

    def news(self) -> Losses:
        """As it is told: what has been told as damaged is not told once more as rejected."""
        return self._replace(rejected=self.rejected + min(0, self.damaged), damaged=max(0, self.damaged))

    def document(self) -> dict[str, Value]:
        """For an event: what there is any of."""
        return {policy: count for policy, count in self._asdict().items() if count}


NO_LOSSES: Final = Losses()


def losses_of(account: Account, *, is_link: bool) -> Losses:
    """What has been lost of an account since its beginning.

    Args:
        account: of a device or a link.
        is_link: whether what it has in quarantine are bad frames, which are kept.
    """
    return Losses(account.evicted, account.expired, account.rejected, 0 if is_link else account.quarantined)


class Announced(NamedTuple):
    """What has been told of a lane, as it is noted."""

    losses: Losses
    time: str | None
    """When, RFC 3339; None if the clock did not know."""

    def text(self) -> str:
        """For a note."""
        return orjson.dumps({**self.losses._asdict(), "time": self.time}).decode()

    @classmethod
    def parse(cls, text: str | None) -> Announced:
        """Read a note; one that cannot be read, or is not there, says that nothing has been told."""
        try:
            noted = orjson.loads(text or "")
            counts = [noted[policy] for policy in Losses._fields]
            time = noted["time"]
        except (ValueError, TypeError, KeyError):
            return cls(NO_LOSSES, None)
        if not all(isinstance(count, int) for count in counts) or not isinstance(time, str | None):
            return cls(NO_LOSSES, None)
        return cls(Losses(*counts), time)


@dataclass(slots=True)
class _Lane:
    """What is known of a lane's losses."""

    told: Losses
    since_s: float | None
    """Event loop time since which what is not told was lost; None if some was before the process started."""
    since: str | None = None
    """The same as wall time, where it is known only so."""
    due_s: float = 0.0
    """When the next event may come."""
    pause_s: float = _FIRST_PAUSE_S
    """From the next event to the one after it."""


class DroppedRecords:
    """Compares the accounts with what was told.

    Args:
        sender: appends the events.
        books: the accounts, and notes of what was told.
        links: the accounts in which bad frames are.
    """

    def __init__(self, sender: Sender, books: Books, links: frozenset[str]) -> None:
        self._sender = sender
        self._books = books
        self._links = links
        self._lanes: dict[str, _Lane] = {}
        self._told: dict[tuple[str, str], Losses] = {}
        """Of each account, by device and lane, as far as there is anything."""
        self._looked_at_s = 0.0

    def start(self, now_s: float) -> None:
        """Remember where the accounts stand, and what was told before the restart. To be called once, first."""
        self._told = self._losses()
        for lane, losses in _by_lane(self._told).items():
            announced = Announced.parse(self._books.note(_key(lane)))
            is_told = sum(losses) <= sum(announced.losses)
            self._lanes[lane] = _Lane(announced.losses, now_s if is_told else None, announced.time)
        self._looked_at_s = now_s

    async def tell(self, now_s: float) -> None:
        """Tell of each lane what was lost since the last time, if it is due.

        Raises:
            BufferUnavailable: what could not be told will be the next time.
            LaneFull: the same.
        """
        accounts = self._losses()
        lanes = _by_lane(accounts)
        for name in lanes:
            self._lanes.setdefault(name, _Lane(NO_LOSSES, self._looked_at_s))
        for name, lane in self._lanes.items():
            losses = lanes.get(name, NO_LOSSES)
            if sum(losses) < sum(lane.told):
                # The sum only grows, so these are the books of a store that was made anew.
                self._reckon_from(name, losses, accounts)
            if sum(losses) == sum(lane.told):
                lane.since_s = now_s
                if now_s >= lane.due_s + _LONGEST_PAUSE_S:
                    lane.pause_s = _FIRST_PAUSE_S
            elif now_s >= lane.due_s:
                await self._tell(name, lane, losses, accounts, now_s)
        self._looked_at_s = now_s

    async def _tell(
        self, name: str, lane: _Lane, losses: Losses, accounts: Mapping[tuple[str, str], Losses], now_s: float
    ) -> None:
        of_devices = {}
        for key, now in accounts.items():
            lost = now.since(self._told.get(key, NO_LOSSES))
            if key[1] == name and sum(lost) > 0:
                of_devices[key[0]] = lost
        announced = Announced(losses, self._sender.time_of(now_s))
        values = self._values(name, lane, losses.since(lane.told), of_devices, now_s)
        await self._sender.send("records-dropped", values, {_key(name): announced.text()})
        self._reckon_from(name, losses, accounts)
        lane.since_s = now_s
        lane.due_s = now_s + lane.pause_s
        lane.pause_s = min(2 * lane.pause_s, _LONGEST_PAUSE_S)

    def _reckon_from(self, name: str, losses: Losses, accounts: Mapping[tuple[str, str], Losses]) -> None:
        """What was lost of a lane so far is told, or cannot be."""
        self._lanes[name].told = losses
        of_others = {key: told for key, told in self._told.items() if key[1] != name}
        self._told = of_others | {key: now for key, now in accounts.items() if key[1] == name}

    def _values(
        self, name: str, lane: _Lane, lost: Losses, of_devices: Mapping[str, Losses], now_s: float
    ) -> dict[str, Value]:
        values: dict[str, Value] = {
            "lane": name,
            "since": lane.since if lane.since_s is None else self._sender.time_of(lane.since_s),
            "over_s": None if lane.since_s is None else round(now_s - lane.since_s, 3),
            "records": {},
        }
        most = _MOST_DEVICES
        while True:
            named = heapq.nlargest(most, of_devices.items(), key=lambda item: (sum(item[1]), item[0]))
            others = lost.since(Losses.sum(each for _, each in named)).news()
            values["records"] = Losses.sum((*(each.news() for _, each in named), others)).document()
            values["devices"] = {device: each.news().document() for device, each in named}
            values["others"] = others.document()
            if not named or len(orjson.dumps(values)) <= self._sender.room_bytes:
                return values
            most = len(named) // 2

    def _losses(self) -> dict[tuple[str, str], Losses]:
        accounts = {
            (device, lane): losses_of(account, is_link=device in self._links)
            for (device, lane), account in self._books.accounts_now().items()
        }
        return {key: losses for key, losses in accounts.items() if any(losses)}


def _by_lane(accounts: Mapping[tuple[str, str], Losses]) -> dict[str, Losses]:
    lanes: dict[str, list[Losses]] = {}
    for (_, lane), losses in accounts.items():
        lanes.setdefault(lane, []).append(losses)
    return {lane: Losses.sum(several) for lane, several in lanes.items()}


def _key(lane: str) -> str:
    return f"dropped {lane}"
