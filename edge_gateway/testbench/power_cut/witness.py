"""Knows what was promised when, and what the store may hold after a cut at any moment.

The promise, for a cut at any moment: the store opens by itself and holds exactly the state after transaction *k*, where
*k* is one that has begun, and not before the last that anybody was told is safe. From this follows what the buffer
promises: nothing acknowledged is lost, nothing whose removal was written comes back, what is under way is there whole
or not at all, every account balances. Which states these are a plain model says (`transition`). At least once on the
wire, with the same bytes under the same id, is looked at beside (`verdict`).

Somebody is told when `Store.write` returns, and again when `append` or `flush` of the buffer above return.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_gateway.buffer import Batch
from edge_gateway.buffer.store import Writes
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import LaneFull
from edge_gateway.records import Message
from edge_gateway.testbench.power_cut.contents import Contents, MessageKey, documents_of, entries_of
from edge_gateway.testbench.power_cut.keys import Nonces
from edge_gateway.testbench.power_cut.memory_disk import Began, Given, Operation, Promised, Said
from edge_gateway.testbench.power_cut.offers import Offers
from edge_gateway.testbench.power_cut.state import NEVER, Problem, State
from edge_gateway.testbench.power_cut.transition import Asked, after_transaction
from edge_gateway.testbench.power_cut.world import WorldClock

_HOUR_NS = 3600 * 1_000_000_000


class Witness:
    """Follows one store from its opening, transaction by transaction.

    Args:
        log: where the disk notes what it does; what was said goes there too.
        state: what the store begins with.
        offers: what is true of the records.
        nonces: what has been sealed with them.
        given: messages that left the store in earlier lives.
    """

    def __init__(
        self,
        log: list[Operation | Said],
        state: State,
        *,
        offers: Offers,
        nonces: Nonces,
        given: Iterable[MessageKey] = (),
    ) -> None:
        self._log = log
        self.states = [state]
        """After each transaction; the first is what it began with."""
        self.offers = offers
        self.nonces = nonces
        self._given = set(given)
        self._batches: dict[int, tuple[Batch, int]] = {}
        """Which transaction a batch was in, by its identity; the batch is kept so that no other gets the same."""
        self._settled: dict[str, int] = {}
        """Which transaction a message was removed in, by its id."""
        self._taken: dict[MessageKey, set[int]] = {}
        """Numbers of the records in each message given out since the last rewind."""

    def begins(self, writes: Writes) -> None:
        """A transaction begins."""
        number = len(self.states)
        self._log.append(Began(number))
        self._batches |= {id(batch): (batch, number) for batch in writes.batches}
        self._settled |= {message.id: number for message in writes.settled}

    def returned(
        self,
        writes: Writes,
        refused: Sequence[LaneFull | None],
        seen: Contents,
        *,
        settings: BufferSettings,
        clock: WorldClock,
    ) -> None:
        """It has returned, and this is what the store now holds."""
        asked = Asked(
            writes,
            refused,
            settings,
            in_flight=self._taken,
            given=frozenset(self._given),
            true_ns=clock.true_ns(),
            shown_hour=clock.now_ns() // _HOUR_NS,
            is_trusted=clock.trusted,
        )
        state = after_transaction(self.states[-1], asked, seen, self.offers)
        reused = tuple(Problem("nonce-reused", nonce.hex()) for nonce in self.nonces.reused())
        if reused:
            state = State(seen, state.last_seq, state.touched, state.open_hour, (*state.wrong, *reused))
        self.states.append(state)
        self._log.append(Promised(len(self.states) - 1))

    def given(self, message: Message) -> None:
        """The store has given out a message."""
        entries = entries_of(documents_of(message.body[1:-1]))
        key = message.lane, message.route, message.number
        self._taken[key] = {entry.number for entry in entries}
        self._given.add(key)
        self._log.append(Given(message.id, message.lane, message.number, message.body, message.route))

    def rewound(self, route: str | None = None) -> None:
        """The store has forgotten what it gave out, of one route or, as at every opening, of all."""
        for key in [key for key in self._taken if route in (None, key[1])]:
            del self._taken[key]

    def acknowledged(self, batch: Batch) -> None:
        """The buffer has said that a batch is durable, but for readings that it may have refused."""
        _, number = self._batches.get(id(batch), (batch, NEVER))
        self._log.append(Promised(number))

    def confirmed(self, settled: Iterable[Message]) -> None:
        """The buffer has said that the removal of these messages is durable."""
        self._log.append(Promised(max((self._settled.get(message.id, NEVER) for message in settled), default=0)))
