"""`buffer-fault`: the disk takes no records, or not all is well with what is on it; and when that was over.

```json
{"state": "disk-full", "since": "2026-05-01T12:00:00.250000Z", "until": null, "lasted_s": 0.013, "times": 1}
```

One event when a fault begins and one when it ends. A fault that does not let its own event be appended is told when it
is over, by one event with both times. If it has come and gone several times until then, that is still one event, and
`times` says how often. `lasted_s` is exact even if the clock was not set: then `since` and `until` are null.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from edge_gateway.buffer.bulletins.sender import Sender
from edge_gateway.records import Value

OK: Final = "ok"


@dataclass(slots=True)
class _Spell:
    """A time in which a state was in force, or several that nobody was told of in between."""

    state: str
    since_s: float
    until_s: float | None = None
    """None while it lasts."""
    times: int = 1
    is_told: bool = False
    """Whether its beginning is."""


class BufferFaults:
    """Remembers the states of the buffer until they are told.

    Args:
        sender: appends the events.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._state = OK
        self._spells: dict[str, _Spell] = {}
        """By state: what is not told to its end. There are few states, so this does not grow."""

    def state_changed(self, state: str, now_s: float) -> None:
        """The buffer is in another state, or in the same."""
        if state == self._state:
            return
        if self._state != OK:
            self._spells[self._state].until_s = now_s
        self._state = state
        if state == OK:
            return
        spell = self._spells.get(state)
        if spell is None:
            self._spells[state] = _Spell(state, now_s)
        else:
            spell.until_s = None
            spell.times += 1

    async def tell(self) -> None:
        """Tell what is new.

        Raises:
            BufferUnavailable: what could not be told will be the next time.
            LaneFull: the same.
        """
        for spell in sorted(self._spells.values(), key=lambda each: each.since_s):
            if spell.is_told and spell.until_s is None:
                continue
            was_told, spell.is_told = spell.is_told, True
            has_ended = spell.until_s is not None
            if has_ended:
                del self._spells[spell.state]
            try:
                await self._sender.send("buffer-fault", self._values(spell))
            except BaseException:
                spell.is_told = was_told
                if has_ended:
                    self._put_back(spell)
                raise

    def _put_back(self, spell: _Spell) -> None:
        """Remember what could not be told, together with what has come since."""
        later = self._spells.get(spell.state)
        if later is not None:
            spell.until_s = later.until_s
            spell.times += later.times
        self._spells[spell.state] = spell

    def _values(self, spell: _Spell) -> dict[str, Value]:
        until_s = asyncio.get_running_loop().time() if spell.until_s is None else spell.until_s
        return {
            "state": spell.state,
            "since": self._sender.time_of(spell.since_s),
            "until": None if spell.until_s is None else self._sender.time_of(spell.until_s),
            "lasted_s": round(until_s - spell.since_s, 3),
            "times": spell.times,
        }
