"""What every uplink does, against real far ends: mosquitto, and a hub that speaks as IoT Hub does.

A network that fails on command is in between. Each wait has a limit far beyond what anything here takes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.errors import UplinkLost, UplinkRefused
from edge_gateway.offload import run_inline
from edge_gateway.records import CommandResult, CommandStatus, Message, Reading
from edge_gateway.testbench import DeliveryAccount, LocalAuthority, ProxyMode, ReceivedMessage
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.uplink.delivery import Delivery

from .far_sides import QUICK, TIME_LIMIT_S, Arrival, FarSide, RecordingDownlink, failure_to_connect, soon


def message(number: int, lane: str = "normal", *, size_bytes: int = 10) -> Message:
    body = b'["' + b"x" * size_bytes + b'"]'
    return Message(f"5eed-{lane[0]}{number}", lane, number, 1, body)


def arrived(sent: Message) -> Arrival:
    return Arrival(sent.id, sent.lane, sent.body)


@asynccontextmanager
async def listening(far_side: FarSide, gateway: RecordingDownlink) -> AsyncIterator[None]:
    """A session that takes what comes down, as `Delivery` keeps one."""
    async with asyncio.timeout(TIME_LIMIT_S), far_side.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        try:
            yield
        finally:
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)


# --- the way up ----------------------------------------------------------------------------------------------------


async def test_a_message_arrives_as_it_was_sent(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """Id, lane and body, byte for byte, are at the far side when `send` returns, whatever the size."""
    sent = [message(1), message(1, "alert"), message(2, size_bytes=100_000), message(3, size_bytes=0)]
    async with asyncio.timeout(TIME_LIMIT_S), far_side.uplink().connect(gateway.downlink()) as session:
        for each in sent:
            await session.send(each)
        assert await far_side.arrivals(len(sent)) == [arrived(each) for each in sent]


async def test_a_message_sent_again_is_the_same(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """A repeat, in the same session or the next, has the id by which a receiver drops it."""
    uplink = far_side.uplink()
    for _ in range(2):
        async with asyncio.timeout(TIME_LIMIT_S), uplink.connect(gateway.downlink()) as session:
            await session.send(message(1))
            await session.send(message(1))
    assert await soon(far_side.arrivals(4)) == [arrived(message(1))] * 4


async def test_many_in_flight_keep_their_order(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """Messages started one after the other without waiting arrive in that order."""
    sent = [message(number) for number in range(200)]
    async with asyncio.timeout(TIME_LIMIT_S), far_side.uplink().connect(gateway.downlink()) as session:
        window = asyncio.Semaphore(QUICK.in_flight)

        async def send(each: Message) -> None:
            await session.send(each)
            window.release()

        async with asyncio.TaskGroup() as group:
            for each in sent:
                await window.acquire()
                group.create_task(send(each))
        assert await far_side.arrivals(len(sent)) == [arrived(each) for each in sent]


# --- the way down --------------------------------------------------------------------------------------------------


async def test_a_command_comes_down_and_its_outcome_goes_up(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """A command reaches the gateway with device, name and arguments, and the asker gets how it ended."""
    async with listening(far_side, gateway):
        document = {"device": "boiler", "command": "set-relay", "arguments": {"state": 1}}
        assert await far_side.command(document) == {
            "status": "acknowledged",
            "detail": "",
            "answer": {"echo": "set-relay"},
        }
        (command,) = gateway.commands
        assert (command.device, command.name, command.arguments) == ("boiler", "set-relay", {"state": 1})
        assert command.correlation_id


@pytest.mark.parametrize("status", CommandStatus)
async def test_every_outcome_is_told(far_side: FarSide, gateway: RecordingDownlink, status: CommandStatus) -> None:
    """However a command ends, the asker hears it by its name, with the detail."""
    gateway.obey = lambda _: CommandResult(status, "because")
    async with listening(far_side, gateway):
        answer = await far_side.command({"device": "boiler", "command": "ping"})
    assert answer == {"status": status.value, "detail": "because", "answer": {}}


@pytest.mark.parametrize(
    ("document", "detail"),
    [
        (5, "command: is not a JSON object. Send "),
        ({"command": "ping"}, "command: needs 'device' as text. Send "),
        ({"device": "", "command": "ping"}, "command: needs 'device' as text. Send "),
        ({"device": "a", "command": 5}, "command: needs 'command' as text. Send "),
        ({"device": "a", "command": "ping", "arguments": [1]}, "command: has 'arguments' that are no object. Send "),
        ({"device": "a", "command": "ping", "args": {}}, "command: has a key 'args' that means nothing. Send "),
    ],
)
async def test_what_is_no_command_is_answered(
    far_side: FarSide, gateway: RecordingDownlink, document: object, detail: str
) -> None:
    """The asker of nonsense is told what is wrong with it, with an example; the gateway never sees it."""
    async with listening(far_side, gateway):
        answer = await far_side.command(document)
    assert answer["status"] == "invalid"
    assert answer["detail"].startswith(detail)
    assert gateway.commands == []


async def test_many_commands_at_once(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """More commands than are carried out at once are all answered, each with its own outcome."""
    async with listening(far_side, gateway):
        answers = await asyncio.gather(
            *(far_side.command({"device": "a", "command": f"number-{number}"}) for number in range(40))
        )
    assert [each["answer"] for each in answers] == [{"echo": f"number-{number}"} for number in range(40)]


# --- connecting in vain --------------------------------------------------------------------------------------------


async def test_a_wrong_key_is_refused(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """Wrong credentials are the hub's refusal, which somebody has to look at, and the secret is not in its text."""
    error = await soon(failure_to_connect(far_side.uplink(right_key=False), gateway))
    assert isinstance(error, UplinkRefused)
    assert error.remedy.startswith("Check ")
    assert "incorrect" not in str(error)


async def test_an_unknown_ca_is_refused(far_side: FarSide, gateway: RecordingDownlink, tmp_path: Path) -> None:
    """A far side whose certificate nobody vouches for gets nothing, and the cause is told."""
    (tmp_path / "other-ca.pem").write_text(LocalAuthority().ca_pem)
    error = await soon(failure_to_connect(far_side.uplink(ca_file=tmp_path / "other-ca.pem"), gateway))
    assert isinstance(error, UplinkRefused)
    assert "certificate that cannot be trusted" in error.what
    assert "ca_file" in error.remedy


@pytest.mark.parametrize("host", ["no-such-host.invalid", "no..such.host", "x" * 70])
async def test_a_name_that_does_not_resolve_is_told(far_side: FarSide, gateway: RecordingDownlink, host: str) -> None:
    """A misspelt host, also one that cannot be a name at all, is told from one that is away."""
    error = await soon(failure_to_connect(far_side.uplink(host=host), gateway))
    assert isinstance(error, UplinkLost)
    assert error.what == "this name does not resolve"


async def test_nothing_listens(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """A port without a service is told from a silent one."""
    far_side.proxy.mode = ProxyMode.REFUSE
    error = await soon(failure_to_connect(far_side.uplink(), gateway))
    assert isinstance(error, UplinkLost)
    assert error.what == "nothing listens there"


async def test_a_silent_peer_is_given_up_in_time(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """A peer that accepts and says nothing costs the connect time-out and no more; later attempts work at once."""
    far_side.proxy.mode = ProxyMode.SILENT
    delivery = QUICK.model_copy(update={"connect_timeout_s": 0.5})
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    error = await soon(failure_to_connect(far_side.uplink(delivery=delivery), gateway))
    assert isinstance(error, UplinkLost)
    assert error.what == "does not answer"
    assert loop.time() - began_s < 5
    far_side.proxy.mode = ProxyMode.PASS
    async with asyncio.timeout(TIME_LIMIT_S), far_side.uplink().connect(gateway.downlink()) as session:
        await session.send(message(1))


async def test_after_a_failure_the_same_uplink_connects(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """One uplink serves any number of sessions, whatever became of those before."""
    uplink = far_side.uplink()
    far_side.proxy.mode = ProxyMode.REFUSE
    await soon(failure_to_connect(uplink, gateway))
    far_side.proxy.mode = ProxyMode.PASS
    async with asyncio.timeout(TIME_LIMIT_S), uplink.connect(gateway.downlink()) as session:
        await session.send(message(1))


# --- losing a connection -------------------------------------------------------------------------------------------


async def test_a_dropped_connection_is_noticed(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """When the connection breaks while nothing is sent, `lost` says so."""
    async with asyncio.timeout(TIME_LIMIT_S), far_side.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        await session.send(message(1))
        far_side.proxy.reset()
        with pytest.raises(BaseExceptionGroup) as caught:  # it watches several things at once
            await lost
        assert caught.group_contains(UplinkLost)


async def test_a_silent_link_confirms_nothing(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """While the network is silent `send` does not return; when it breaks, nothing pretends to have been delivered."""
    async with asyncio.timeout(TIME_LIMIT_S), far_side.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        await session.send(message(1))
        far_side.proxy.mode = ProxyMode.SILENT
        sending = [session.send(message(number)) for number in (2, 3)]
        done, _ = await asyncio.wait([*sending, lost], timeout=0.5)
        assert done == set()
        far_side.proxy.reset()
        await asyncio.wait([lost])
        for task in sending:
            task.cancel()
        outcomes = await asyncio.gather(*sending, return_exceptions=True)
        assert all(isinstance(each, UplinkLost | asyncio.CancelledError) for each in outcomes)
    assert await soon(far_side.arrivals(1)) == [arrived(message(1))]


async def test_leaving_a_silent_peer_never_hangs(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """A session over a silent network, with messages in flight, is left within the time a stopping gateway has."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIME_LIMIT_S):
        async with far_side.uplink().connect(gateway.downlink()) as session:
            far_side.proxy.mode = ProxyMode.SILENT
            sending = [session.send(message(number)) for number in range(4)]
            await asyncio.sleep(0)
            for task in sending:
                task.cancel()
            began_s = loop.time()
        assert loop.time() - began_s < 3
        await asyncio.gather(*sending, return_exceptions=True)
    far_side.proxy.mode = ProxyMode.PASS


async def test_cancelled_while_it_connects(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """A gateway that is stopped while it waits for a silent peer does not wait any longer."""
    far_side.proxy.mode = ProxyMode.SILENT
    connecting = asyncio.create_task(failure_to_connect(far_side.uplink(), gateway))
    await asyncio.wait([connecting], timeout=0.3)
    connecting.cancel()
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await asyncio.wait([connecting], timeout=TIME_LIMIT_S)
    assert connecting.cancelled()
    assert loop.time() - began_s < 3


async def test_the_endpoint_names_the_way_and_no_secret(far_side: FarSide) -> None:
    """What status shows of an uplink is its host."""
    uplink = far_side.uplink()
    assert uplink.endpoint.startswith(f"mqtts://{far_side.proxy.address}")
    assert "correct horse" not in repr(vars(uplink))


async def test_a_refusal_reads_like_a_sentence(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """An operator sees where, what, and what to do."""
    error = await soon(failure_to_connect(far_side.uplink(right_key=False), gateway))
    assert str(error).startswith(f"{far_side.uplink().endpoint}: ")
    assert error.what
    assert error.remedy
    assert not error.planned


# --- under delivery ------------------------------------------------------------------------------------------------


async def test_everything_arrives_over_a_network_that_breaks(far_side: FarSide, gateway: RecordingDownlink) -> None:
    """With connections cut again and again under load, all records arrive, after the filter once and in order."""
    delivery = QUICK.model_copy(update={"retry_first_s": 0.02, "retry_most_s": 0.1})
    limits = BufferSettings(max_message_age_s=0, max_records_per_message=3)
    records = 900
    async with (
        asyncio.timeout(TIME_LIMIT_S),
        DurableBuffer(
            open_bench_store(":memory:", limits), settle_within_s=0.05, commit_within_s=0.01, offload=run_inline
        ) as buffer,
        asyncio.TaskGroup() as group,
    ):
        runner = Delivery(far_side.uplink(delivery=delivery), buffer, gateway.downlink(), delivery, random.Random(2))
        delivering = group.create_task(runner.run())
        await buffer.append(Batch([Reading(f"d{number % 3}", "climate", 0, {}) for number in range(records)]))
        for cut in range(1, 4):
            await far_side.arrivals(cut * 40)
            far_side.proxy.reset()
        buffer.drain()
        await buffer.emptied()
        delivering.cancel()
        books = await buffer.accounts()
    assert sum(each.delivered for each in books.values()) == records
    assert runner.status.sessions >= 3
    account = DeliveryAccount(first_seq=1)
    for each in await soon(far_side.arrivals(records // 3)):
        account.add(ReceivedMessage("gw", each.id, {}, {}, each.body, 0.0, 0))
    assert account.faults() == []
    assert sum(account.records.values()) == records
