"""Virtual sensors have to speak as their profiles say, obey, and give an account; on virtual time, gateway included."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.assembly import BUFFER_FILE, check_parts, open_gateway
from edge_gateway.codec import Codec, compile_profile, load_profile
from edge_gateway.config.devices import DeviceSettings, LinkSettings, PathPort
from edge_gateway.config.model import GatewayConfig, GatewaySettings
from edge_gateway.config.uplink import MqttUplink
from edge_gateway.errors import BenchError
from edge_gateway.framing import Framer, make_framer
from edge_gateway.offload import run_inline
from edge_gateway.records import Chunk, Message, Value
from edge_gateway.testbench import ReceivedMessage
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.demo.outcome import HubBook, SensorEntry, judge
from edge_gateway.testbench.sensor_line import MemoryLine, MemoryTransport
from edge_gateway.testbench.sensor_signals import ClimateSignal, ParticleSignal, Signal, TankSignal
from edge_gateway.testbench.virtual_sensor import ClimateSensor, VirtualSensor
from edge_gateway.testbench.virtual_time import VirtualClock, run_virtual
from edge_gateway.uplink import Downlink, Session

PROFILES = ("reference-climate", "pms5003", "tfmini")
ADDRESS = 7


def codec_and_framer(profile: str) -> tuple[Codec, Framer]:
    codec = compile_profile(load_profile(profile))
    return codec, make_framer(codec.profile.line_framing)


def sensor_of(
    profile: str, line: MemoryLine, seed: int = 1, *, period_s: float = 1.0, noise: float = 0.0, broken: float = 0.0
) -> VirtualSensor:
    rng = random.Random(seed)
    if profile == "reference-climate":
        return ClimateSensor(
            "climate",
            line,
            ClimateSignal(rng),
            address=ADDRESS,
            period_s=period_s,
            rng=rng,
            noise_share=noise,
            broken_share=broken,
        )
    signal: Signal = ParticleSignal(rng) if profile == "pms5003" else TankSignal(rng)
    return VirtualSensor(
        profile, line, signal, profile=profile, period_s=period_s, rng=rng, noise_share=noise, broken_share=broken
    )


async def run_for(sensor: VirtualSensor, seconds: float) -> None:
    task = asyncio.create_task(sensor.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def sent_in(line: MemoryLine, sensor: VirtualSensor, seconds: float) -> list[Chunk]:
    async with line.transport("port") as gateway:
        await run_for(sensor, seconds)
        return await gateway.read()


@pytest.mark.parametrize("profile", PROFILES)
def test_each_frame_decodes_to_what_the_sensor_measured(profile: str) -> None:
    """A sensor's frames are whole, right, numbered in order, and one comes each period."""

    async def main() -> None:
        line = MemoryLine()
        sensor = sensor_of(profile, line, period_s=0.5)
        codec, framer = codec_and_framer(profile)
        chunks = await sent_in(line, sensor, 100)
        assert 199 <= len(chunks) <= 201
        assert {round(later.at_s - sooner.at_s, 6) for sooner, later in itertools.pairwise(chunks)} == {0.5}
        decoded = codec.decode(framer.feed(chunks))
        assert len(decoded.samples) == len(chunks) == sensor.ledger.sent
        assert not decoded.rejects
        assert framer.counters.noise_bytes == 0
        assert decoded.samples[-1].values == sensor.latest
        if codec.sequence_span:
            assert [sample.sequence for sample in decoded.samples] == list(range(len(chunks)))
            assert {sample.address for sample in decoded.samples} == {ADDRESS}

    run_virtual(main())


@pytest.mark.parametrize("profile", PROFILES)
@given(seed=st.integers(min_value=0, max_value=1 << 32))
def test_noise_and_broken_frames_harm_no_good_frame(profile: str, seed: int) -> None:
    """Whatever noise is drawn, the framer finds every good frame, and rejects exactly the broken ones."""

    async def main() -> None:
        line = MemoryLine()
        sensor = sensor_of(profile, line, seed, noise=0.5, broken=0.3)
        codec, framer = codec_and_framer(profile)
        decoded = codec.decode(framer.feed(await sent_in(line, sensor, 40)))
        assert len(decoded.samples) == sensor.ledger.sent - sensor.ledger.broken
        assert [reject.reason for reject in decoded.rejects] == ["checksum"] * sensor.ledger.broken
        assert framer.counters.noise_bytes <= sensor.noise_bytes
        assert sensor.ledger.sent > sensor.ledger.broken > 0

    run_virtual(main())


def test_the_same_seed_gives_the_same_bytes() -> None:
    """All chance is handed in, so a run can be had again."""

    async def bytes_of(seed: int) -> list[Chunk]:
        line = MemoryLine()
        return await sent_in(line, sensor_of("pms5003", line, seed, noise=0.2, broken=0.2), 60)

    assert run_virtual(bytes_of(5)) == run_virtual(bytes_of(5))
    assert run_virtual(bytes_of(5)) != run_virtual(bytes_of(6))


def test_the_sequence_wraps_and_goes_on() -> None:
    """Frame 65536 has number 0 again."""

    async def main() -> None:
        line = MemoryLine()
        sensor = sensor_of("reference-climate", line)
        codec, framer = codec_and_framer("reference-climate")
        sensor._sequence = 65_534
        async with line.transport("port") as gateway:
            for _ in range(4):
                await asyncio.sleep(1)
                sensor.send()
            samples = codec.decode(framer.feed(await gateway.read())).samples
        assert [sample.sequence for sample in samples] == [65_534, 65_535, 0, 1]

    run_virtual(main())


def test_frames_due_while_nobody_listens_are_counted_as_lost() -> None:
    """They take their numbers along, as the gateway's count of missed frames will show."""

    async def main() -> None:
        line = MemoryLine()
        sensor = sensor_of("tfmini", line, broken=1.0, noise=1.0)
        sensor.send()
        assert (sensor.ledger.sent, sensor.ledger.lost_closed, sensor.ledger.broken) == (1, 1, 0)
        assert sensor.noise_bytes == 0

    run_virtual(main())


def test_a_signal_that_stands_still_is_refused() -> None:
    """Frames that cannot be told apart would make the account a guess."""

    class Still:
        def values(self, at_s: float) -> dict[str, Value]:
            return {"distance": 1.0, "strength": 500, "mode": "short"}

    async def main() -> None:
        sensor = VirtualSensor("still", MemoryLine(), Still(), profile="tfmini", period_s=1.0, rng=random.Random(1))
        sensor.send()
        with pytest.raises(BenchError, match="the same values again and again"):
            sensor.send()

    run_virtual(main())


class Commanding:
    """A gateway's end that sends commands and collects the answers."""

    def __init__(self, gateway: MemoryTransport) -> None:
        self._gateway = gateway
        self.codec, self.framer = codec_and_framer("reference-climate")

    async def send(self, payload: bytes) -> list[object]:
        await self._gateway.write(self.framer.encode(payload))
        await asyncio.sleep(0.001)
        try:
            async with asyncio.timeout(0.001):
                chunks = await self._gateway.read()
        except TimeoutError:
            return []
        answers = self.codec.decode(self.framer.feed(chunks)).answers
        assert {answer.address for answer in answers} == {ADDRESS}
        return [(answer.fields["code"], answer.fields["status"]) for answer in answers]

    async def command(self, name: str, arguments: dict[str, Value], address: int = ADDRESS) -> list[object]:
        return await self.send(self.codec.encode_command(name, arguments, address).payload)

    async def raw(self, code: Value, argument: int) -> list[object]:
        return await self.send(self.codec.encode("command", ADDRESS, None, {"code": code, "argument": argument}))


@asynccontextmanager
async def commanded() -> AsyncIterator[tuple[ClimateSensor, Commanding]]:
    line = MemoryLine()
    sensor = sensor_of("reference-climate", line)
    assert isinstance(sensor, ClimateSensor)
    async with line.transport("port") as gateway:
        yield sensor, Commanding(gateway)


def test_a_climate_sensor_does_what_it_is_told_and_says_so() -> None:
    """Relay, ping and period each are carried out and answered with the command's code and `done`."""

    async def main() -> None:
        async with commanded() as (sensor, gateway):
            assert await gateway.command("set-relay", {"state": 1}) == [("set-relay", "done")]
            assert sensor.relay_closed
            assert await gateway.command("set-relay", {"state": 0}) == [("set-relay", "done")]
            assert not sensor.relay_closed
            assert await gateway.command("ping", {}) == [("ping", "done")]
            assert await gateway.command("set-period", {"period_ms": 250}) == [("set-period", "done")]
            assert sensor.period_s == 0.25
            assert sensor.commands == {"set-relay": 2, "ping": 1, "set-period": 1}

    run_virtual(main())


def test_a_climate_sensor_declines_what_it_cannot_do() -> None:
    """Unknown codes and arguments out of bounds are answered so, and change nothing."""

    async def main() -> None:
        async with commanded() as (sensor, gateway):
            assert await gateway.raw(9, 0) == [("9", "unknown-command")]
            for code, argument in (("set-period", 49), ("set-period", 60_001), ("set-relay", 2), ("ping", 1)):
                assert await gateway.raw(code, argument) == [(code, "bad-argument")]
            assert not sensor.commands
            assert sensor.period_s == 1.0

    run_virtual(main())


def test_a_climate_sensor_is_silent_about_what_is_not_for_it() -> None:
    """Another address, a wrong checksum, or something that is no command gets no answer."""

    async def main() -> None:
        async with commanded() as (sensor, gateway):
            assert await gateway.command("ping", {}, address=ADDRESS + 1) == []
            ping = gateway.codec.encode_command("ping", {}, ADDRESS).payload
            assert await gateway.send(ping[:-1] + bytes([ping[-1] ^ 1])) == []
            assert await gateway.send(b"hello") == []
            assert not sensor.commands

    run_virtual(main())


def test_a_new_period_holds_from_the_command_on() -> None:
    """A sensor that slept for long does not finish that sleep first."""

    async def main() -> None:
        line = MemoryLine()
        sensor = sensor_of("reference-climate", line, period_s=60.0)
        async with line.transport("port") as transport:
            gateway = Commanding(transport)
            task = asyncio.create_task(sensor.run())
            await asyncio.sleep(90)
            await transport.read()
            await gateway.command("set-period", {"period_ms": 500})
            before = sensor.ledger.sent
            await asyncio.sleep(10)
            task.cancel()
            assert 19 <= sensor.ledger.sent - before <= 20

    run_virtual(main())


def test_the_relay_cools_the_room() -> None:
    """A rule that switches the relay sees what it has done; without it the day goes on."""
    rooms = [ClimateSignal(random.Random(4)) for _ in range(2)]
    rooms[0].relay_closed = True
    cooled, left = ([float(str(room.values(at_s)["temperature"])) for at_s in (0, 20)] for room in rooms)
    assert left[1] - cooled[1] > 3


def test_a_day_of_climate_is_a_wave() -> None:
    """Over a day the temperature goes up and down by what a room's does, and humidity against it."""
    room = ClimateSignal(random.Random(2))
    day = [room.values(hour * 3600.0) for hour in range(25)]
    temperatures = [float(str(values["temperature"])) for values in day]
    assert 7 < max(temperatures) - min(temperatures) < 9
    assert abs(temperatures[24] - temperatures[0]) < 0.5
    driest = min(day, key=lambda values: float(str(values["humidity"])))
    assert float(str(driest["temperature"])) > max(temperatures) - 0.5


def test_particle_counters_go_together() -> None:
    """Masses and counts of one frame are ordered by size, as dust's are."""
    dust = ParticleSignal(random.Random(3))
    for second in range(500):
        values = {key: float(str(value)) for key, value in dust.values(float(second)).items()}
        assert values["pm1_0"] <= values["pm2_5"] <= values["pm10"]
        assert values["particles_0_3um"] >= values["particles_0_5um"] >= values["particles_1_0um"]


class HubInMemory:
    """An `Uplink` whose hub is a `HubBook` in the same process, so that a gateway runs on virtual time."""

    def __init__(self, book: HubBook) -> None:
        self._book = book

    @property
    def endpoint(self) -> str:
        return "memory"

    @asynccontextmanager
    async def connect(self, downlink: Downlink) -> AsyncIterator[Session]:
        yield HubInMemorySession(self._book)


class HubInMemorySession:
    def __init__(self, book: HubBook) -> None:
        self._book = book

    def send(self, message: Message) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._book.add(ReceivedMessage("gw", message.id, {}, {}, message.body, loop.time(), 0))
        confirmed = loop.create_future()
        confirmed.set_result(None)
        return confirmed

    async def lost(self) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")


def test_an_hour_of_the_whole_gateway_on_virtual_time_balances(tmp_path: Path) -> None:
    """Three sensors, noise, broken frames and a pulled cable: every frame is accounted for, in a second or so."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lines = {profile: MemoryLine() for profile in PROFILES}
        sensors = {
            profile: sensor_of(profile, line, period_s=10.0, noise=0.1, broken=0.1) for profile, line in lines.items()
        }
        config = GatewayConfig(
            gateway=GatewaySettings(name="gw", data_directory=tmp_path),
            links=tuple(
                LinkSettings(
                    name=profile,
                    port=PathPort(path=f"memory-{profile}"),
                    profile=profile,
                    devices=(DeviceSettings(name=sensor.name + "-1", address=sensor.address),),
                )
                for profile, sensor in sensors.items()
            ),
            uplink=MqttUplink(host="memory"),
        )
        book = HubBook({f"{sensor.name}-1": sensor.ledger for sensor in sensors.values()})
        stop = asyncio.Event()
        clock = VirtualClock(loop)
        async with open_gateway(
            check_parts(config, clock=clock),
            clock=clock,
            rng=random.Random(1),
            make_transport=lambda link, _: lines[link.name].transport(link.name),
            uplink=HubInMemory(book),
            offload=run_inline,
        ) as gateway:
            running = asyncio.create_task(gateway.run(stop))
            sending = [asyncio.create_task(sensor.run()) for sensor in sensors.values()]
            await asyncio.sleep(1800)
            lines["tfmini"].unplug()
            await asyncio.sleep(600)
            lines["tfmini"].plug_in()
            await asyncio.sleep(1200)
            for task in sending:
                task.cancel()
            await asyncio.sleep(5)
            stop.set()
            await running
        store = open_bench_store(tmp_path / BUFFER_FILE)
        accounts = store.accounts()
        store.close()
        entries = {
            f"{sensor.name}-1": SensorEntry(profile, profile, sensor.ledger) for profile, sensor in sensors.items()
        }
        outcome = judge(entries, accounts, book, [])
        assert outcome.imbalances == []
        assert outcome.lost["port_closed"] == 60
        assert outcome.total.sent - outcome.total.broken == outcome.total.at_hub + 60
        assert outcome.total.broken == outcome.total.rejected > 50
        assert loop.time() >= 3605

    run_virtual(main())
