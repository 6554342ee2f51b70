"""From the buffer to the hub, whatever the hub does. All on virtual time."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.uplink import DeliverySettings
from edge_gateway.offload import run_inline
from edge_gateway.records import Command, CommandResult, Event, Message, Reading, Value
from edge_gateway.testbench import DeliveryAccount, ReceivedMessage
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.virtual_time import run_virtual
from edge_gateway.uplink import Downlink
from edge_gateway.uplink.delivery import Delivery
from tests.log_events import log_events

from .simulated_hub import Fate, Life, SimulatedHub

SETTINGS = DeliverySettings(in_flight=4, confirm_timeout_s=20, retry_first_s=1, retry_most_s=60)


async def _no_command(command: Command) -> CommandResult:
    raise AssertionError(command)


async def _no_result(command: Command, result: CommandResult) -> None:
    raise AssertionError(command)


async def _no_desired(desired: object, whole: bool) -> None:
    raise AssertionError(desired)


NOTHING_COMES_DOWN = Downlink(_no_command, _no_result, _no_desired, dict)


class CheckingBuffer(DurableBuffer):
    """Complains about a message that is settled before the hub has confirmed it, and knows when all are."""

    hub: SimulatedHub
    unsettled = 0

    async def append(self, batch: Batch) -> None:
        self.unsettled += len(batch.records)
        await super().append(batch)

    def settle(self, message: Message) -> None:
        assert message.id in self.hub.confirmed
        self.unsettled -= message.records
        super().settle(message)
        self.hub.note()


@dataclass
class Bench:
    hub: SimulatedHub
    buffer: CheckingBuffer
    delivery: Delivery

    async def append(self, count: int, device: str = "a") -> None:
        await self.buffer.append(Batch([Reading(device, "climate", 0, {"x": number}) for number in range(count)]))

    async def settled(self) -> None:
        """Wait until all that was appended has been confirmed and settled."""
        await self.hub.until(lambda: not self.buffer.unsettled)


@asynccontextmanager
async def bench(lives: Sequence[Life], delivery: DeliverySettings, records_a_message: int) -> AsyncIterator[Bench]:
    hub = SimulatedHub(lives)
    store = open_bench_store(":memory:", BufferSettings(max_message_age_s=0, max_records_per_message=records_a_message))
    async with CheckingBuffer(store, settle_within_s=0.25, commit_within_s=0.01, offload=run_inline) as buffer:
        buffer.hub = hub
        runner = Delivery(hub, buffer, NOTHING_COMES_DOWN, delivery, random.Random(2))
        async with asyncio.TaskGroup() as group:  # so that a delivery that raises ends the test
            running = group.create_task(runner.run())
            yield Bench(hub, buffer, runner)
            running.cancel()


def on_bench(
    test: Callable[[Bench], Awaitable[None]],
    *lives: Life,
    delivery: DeliverySettings = SETTINGS,
    records_a_message: int = 1,
) -> None:
    """Run a test on virtual time with a hub of these lives."""

    async def run() -> None:
        # Virtual: if nothing will ever happen again, this is what happens next.
        async with asyncio.timeout(1_000_000), bench(lives, delivery, records_a_message) as made:
            await test(made)

    run_virtual(run())


def numbers(messages: Sequence[Message]) -> list[Value]:
    return [record["values"]["x"] for message in messages for record in orjson.loads(message.body)]


# --- all is well ---------------------------------------------------------------------------------------------------


def test_what_is_appended_arrives_in_order_and_leaves_the_buffer() -> None:
    """Messages arrive in the order of the queue, once each, and what is confirmed is gone from the store."""

    async def test(bench: Bench) -> None:
        await bench.append(50)
        await bench.settled()
        assert numbers(bench.hub.arrived) == list(range(50))
        account = (await bench.buffer.accounts())["a", "normal"]
        assert (account.received, account.delivered, account.queued) == (50, 50, 0)
        assert (bench.delivery.status.messages, bench.delivery.status.records) == (50, 50)
        assert bench.delivery.status.sessions == 1

    on_bench(test)


@pytest.mark.parametrize("in_flight", [1, 4, 100])
def test_as_many_are_in_flight_as_configured(in_flight: int) -> None:
    """The window is used in full and never exceeded."""

    async def test(bench: Bench) -> None:
        await bench.append(300)
        await bench.hub.until(lambda: len(bench.hub.confirmed) >= 200)
        assert bench.hub.session is not None
        assert bench.hub.session.most_in_flight == in_flight
        assert bench.delivery.status.in_flight <= in_flight

    on_bench(test, delivery=SETTINGS.model_copy(update={"in_flight": in_flight}))


def test_a_slow_confirmation_does_not_hold_up_the_others() -> None:
    """Four in flight over a link of one second round trip take a quarter of the time of one."""

    async def test(bench: Bench) -> None:
        await bench.append(40)
        await bench.settled()
        assert asyncio.get_running_loop().time() == pytest.approx(10, abs=0.6)

    on_bench(test, Life(Fate.NEVER, confirm_after_s=1.0))


def test_the_status_tells_what_is_going_on() -> None:
    """Connected or not since when, and while not, why and what to do."""

    async def test(bench: Bench) -> None:
        status = bench.delivery.status
        await asyncio.sleep(0.2)
        assert (status.connected, status.fault) == (False, "simulated://hub: wrong key. Check the key")
        await bench.append(1)
        await bench.settled()
        assert (status.connected, status.fault, status.sessions) == (True, "", 1)
        assert status.since_s == pytest.approx(bench.hub.attempts_at_s[1] + 0.1)

    on_bench(test, Life(Fate.REFUSED))


# --- pauses --------------------------------------------------------------------------------------------------------


def pauses_s(hub: SimulatedHub) -> list[float]:
    """Between the end of one attempt, which takes 0.1 s, and the next."""
    return [later - at - 0.1 for at, later in zip(hub.attempts_at_s, hub.attempts_at_s[1:], strict=False)]


@pytest.mark.parametrize("fate", [Fate.UNREACHABLE, Fate.REFUSED])
def test_pauses_grow_and_are_jittered(fate: Fate) -> None:
    """While the hub is away the pause doubles up to its limit, each drawn between half and whole."""

    async def test(bench: Bench) -> None:
        await bench.append(1)
        await bench.settled()
        waited_s = pauses_s(bench.hub)
        for pause_s, ceiling_s in zip(waited_s, [1, 2, 4, 8, 16, 32, 60, 60, 60, 60], strict=True):
            assert ceiling_s / 2 <= pause_s <= ceiling_s
        assert len({pause_s / 60 for pause_s in waited_s[-4:]}) == 4

    on_bench(test, *[Life(fate)] * 10)


def test_a_confirmation_starts_the_pauses_over() -> None:
    """A session that confirmed something proves the way good; one that only connected proves nothing."""

    async def test(bench: Bench) -> None:
        await bench.append(3)
        await bench.settled()
        waited_s = pauses_s(bench.hub)
        ceilings_s = [1, 2, 4, 8, 1, 2]
        assert len(waited_s) == len(ceilings_s)
        for number, (pause_s, ceiling_s) in enumerate(zip(waited_s, ceilings_s, strict=True)):
            spent_s = 0.01 if number == 4 else 0  # the session that confirmed one
            assert ceiling_s / 2 <= pause_s - spent_s <= ceiling_s

    on_bench(
        test,
        *[Life(Fate.UNREACHABLE)] * 3,
        Life(Fate.DROPPED),
        Life(Fate.DROPPED, confirms=1),
        Life(Fate.UNREACHABLE),
        delivery=SETTINGS.model_copy(update={"in_flight": 1}),
    )


def test_a_planned_renewal_connects_again_at_once() -> None:
    """A session that ends on purpose is replaced without a pause, a warning or a fault, and nothing is sent twice."""

    async def test(bench: Bench) -> None:
        with log_events() as logs:
            await bench.append(5)
            await bench.settled()
        assert pauses_s(bench.hub) == [pytest.approx(0.02, abs=0.011)]
        assert numbers(bench.hub.arrived) == list(range(5))
        assert [each["event"] for each in logs] == ["uplink.connected", "uplink.closed", "uplink.connected"]

    on_bench(
        test, Life(Fate.RENEWED, confirms=2), delivery=SETTINGS.model_copy(update={"in_flight": 1}), records_a_message=1
    )


# --- losses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fate", [Fate.DROPPED, Fate.UNCONFIRMED, Fate.SILENT, Fate.REJECTS])
def test_what_was_not_confirmed_is_sent_again_in_order_under_its_id(fate: Fate) -> None:
    """After a session that confirmed two of many, the next one gets the rest from the third on, ids and bytes alike."""

    async def test(bench: Bench) -> None:
        await bench.append(20)
        await bench.settled()
        assert bench.delivery.status.sessions == 2
        by_id: dict[str, Message] = {}
        for message in bench.hub.arrived:
            assert by_id.setdefault(message.id, message) == message
        assert numbers(list(by_id.values())) == list(range(20))
        assert numbers(bench.hub.arrived)[-18:] == list(range(2, 20))

    on_bench(test, Life(fate, confirms=2))


def test_a_silent_hub_is_given_up_after_the_confirm_time_out() -> None:
    """A link that stays open and says nothing is replaced, and the fault says for how long nothing was confirmed."""

    async def test(bench: Bench) -> None:
        with log_events() as logs:
            await bench.append(3)
            await bench.settled()
        assert pauses_s(bench.hub)[0] == pytest.approx(20.75, abs=0.3)
        (lost,) = [each for each in logs if each["event"] == "uplink.disconnected"]
        assert lost["reason"] == "simulated://hub: confirmed nothing for 20 s. The gateway connects anew"
        assert lost["refused"] is False

    on_bench(test, Life(Fate.SILENT))


def test_a_refusal_is_told_rather_than_the_losses_beside_it() -> None:
    """When several messages fail together, the one the hub refused says why."""

    async def test(bench: Bench) -> None:
        with log_events() as logs:
            await bench.append(10)
            await bench.settled()
        (lost,) = [each for each in logs if each["event"] == "uplink.disconnected"]
        assert lost["reason"] == "simulated://hub: does not want it"
        assert lost["refused"] is True

    on_bench(test, Life(Fate.REJECTS, confirms=3))


def test_alerts_overtake_what_waits() -> None:
    """An alert that comes while the hub is away is the first to arrive when it is back."""

    async def test(bench: Bench) -> None:
        await bench.append(20)
        await bench.buffer.append(Batch([Event("a", "hot", "alert-raised", 0, {"x": -1})]))
        await bench.settled()
        assert numbers(bench.hub.arrived) == [-1, *range(20)]

    on_bench(test, Life(Fate.UNREACHABLE))


def test_a_stop_in_the_middle_is_clean() -> None:
    """Cancelled with messages in flight, delivery ends at once and leaves what is unconfirmed in the store."""

    async def test(bench: Bench) -> None:
        await bench.append(10)
        await bench.hub.until(lambda: len(bench.hub.confirmed) >= 3)

    on_bench(test, Life(Fate.NEVER, confirm_after_s=1.0))


@pytest.mark.parametrize("fate", [Fate.DROPPED, Fate.REJECTS, Fate.RENEWED])
def test_a_stop_in_the_moment_a_session_is_lost(fate: Fate) -> None:
    """A gateway that is told to stop just when its session ends stops, and does not connect again."""

    async def test(bench: Bench) -> None:
        await bench.append(2)
        await bench.hub.until(lambda: bool(bench.hub.confirmed))

    on_bench(test, Life(fate, confirms=1), delivery=SETTINGS.model_copy(update={"in_flight": 1}))


# --- any sequence of faults ----------------------------------------------------------------------------------------

_lives = st.lists(
    st.builds(
        Life,
        st.sampled_from([fate for fate in Fate if fate is not Fate.NEVER]),
        confirms=st.integers(0, 6),
        confirm_after_s=st.sampled_from([0.0, 0.01, 3.0]),
        connect_after_s=st.sampled_from([0.0, 0.1, 5.0]),
    ),
    max_size=8,
)
_appends = st.lists(
    st.tuples(st.sampled_from([0.0, 0.05, 1.0, 30.0]), st.lists(st.sampled_from(["a", "b", "c", "alert"]), max_size=9)),
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(_lives, _appends, st.integers(1, 6), st.integers(1, 4))
def test_whatever_fails_everything_arrives_in_order(
    lives: list[Life], appends: list[tuple[float, list[str]]], in_flight: int, records_a_message: int
) -> None:
    """For any sequence of faults and any records: all arrive, and after the receiver's filter once and in order."""

    async def test(bench: Bench) -> None:
        sent: dict[tuple[str, str], int] = {}
        for pause_s, devices in appends:
            await asyncio.sleep(pause_s)
            records: list[Reading | Event] = []
            for device in devices:
                if device == "alert":
                    records.append(Event("a", "hot", "alert-raised", 0, {}))
                    sent["a", "alert"] = sent.get(("a", "alert"), 0) + 1
                else:
                    records.append(Reading(device, "climate", 0, {}))
                    sent[device, "normal"] = sent.get((device, "normal"), 0) + 1
            await bench.buffer.append(Batch(records))
        await bench.settled()
        account = DeliveryAccount(first_seq=1)
        for message in bench.hub.arrived:
            account.add(_received(message))
        assert account.faults() == []
        assert account.records == sent
        books = await bench.buffer.accounts()
        assert {key: each.delivered for key, each in books.items() if each.received} == sent
        assert all(each.balance() == 0 and each.queued == 0 for each in books.values())

    on_bench(
        test,
        *lives,
        delivery=SETTINGS.model_copy(update={"in_flight": in_flight}),
        records_a_message=records_a_message,
    )


def _received(message: Message) -> ReceivedMessage:
    system: dict[str, Any] = {}
    return ReceivedMessage("gw", message.id, {}, system, message.body, 0.0, 0)
