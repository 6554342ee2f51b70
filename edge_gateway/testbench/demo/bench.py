"""The bench of the demonstration: builds it in a temporary directory, does things to it, and takes it down again.

The directory holds the gateway's configuration, key store and buffer, the hub's certificate, and the sensors' ports. It
and the gateway's process are gone however the bench is left.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import yaml

from edge_gateway.assembly import BUFFER_FILE, key_store
from edge_gateway.buffer import Account
from edge_gateway.codec import load_profile
from edge_gateway.codec.generated import ProfileSignal
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.devices import DeviceSettings, LinkSettings, PathPort
from edge_gateway.config.model import GatewayConfig, GatewaySettings
from edge_gateway.config.rules import CommandOnAlert, ThresholdRule
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink
from edge_gateway.errors import BenchError
from edge_gateway.keystore import Secret
from edge_gateway.records import Value
from edge_gateway.testbench import FaultProxy, LocalAuthority, LocalHub, ProxyMode, free_loopback_address
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.demo.gateway_process import GatewayProcess
from edge_gateway.testbench.demo.outcome import HubBook, Outcome, SensorEntry, judge
from edge_gateway.testbench.demo.script import Action
from edge_gateway.testbench.sensor_line import PtyLine
from edge_gateway.testbench.sensor_signals import ClimateSignal, ParticleSignal, TankSignal
from edge_gateway.testbench.virtual_sensor import ClimateSensor, VirtualSensor

_GATEWAY: Final = "demo-gateway"
_RULE: Final = "too-warm"
_DAY_S: Final = 30.0
"""A day in the virtual rooms: short enough that alerts come and go while somebody watches."""
_BROKEN_SHARE: Final = 0.01
_NOISE_SHARE: Final = 0.02
_EMPTIES_WITHIN_S: Final = 60.0
_LOOK_AGAIN_S: Final = 0.1
_QUIET_LOOKS: Final = 3
"""The queue has to be empty, and nothing new to have come, for so many looks in a row: a rule's command may still be on
its way, and its outcome is an event."""
_COMMAND_WITHIN_S: Final = 8.0


class DemoBench:
    """Sensors, gateway and hub. Use it as an async context manager; leaving stops all of it.

    Args:
        sensors: how many; half of them `reference-climate`, the others `pms5003`, `sds011` and `tfmini`.
        rng: what the sensors measure, and when.

    Raises:
        BenchError: on entering, the gateway does not start, or an address or port cannot be used.
    """

    def __init__(self, *, sensors: int, rng: random.Random) -> None:
        self._count = sensors
        self._rng = rng
        self._resources = AsyncExitStack()
        self._sending: list[asyncio.Task[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        """Actions and commands under way."""
        self._faults: list[str] = []
        self._unplugged: VirtualSensor | None = None
        self._turn = 0
        self._acting = asyncio.Lock()
        self.sensors: list[VirtualSensor] = []
        self.history: list[str] = []
        """What was done to the bench and what came of it, oldest first."""
        self.command_answers: list[str] = []
        """How the commands sent from the hub ended."""
        self.started_s = 0.0
        """Event loop time when the sensors began."""

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as resources:
            await self._build(resources)
            self._resources = resources.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def _build(self, resources: AsyncExitStack) -> None:
        self.directory = directory = Path(
            resources.enter_context(tempfile.TemporaryDirectory(prefix="edge-gateway-demo-"))
        )
        self._make_sensors(directory, resources)
        self.hub_book = HubBook({sensor.name: sensor.ledger for sensor in self.sensors})

        # The device SDK connects to port 8883 of the host the hub is called by: there stands the network that can be
        # cut, and the hub behind it.
        address = free_loopback_address(random.SystemRandom())
        authority = LocalAuthority()
        self.hub = await resources.enter_async_context(
            LocalHub(authority=authority, port=0, host_name=address, on_message=self.hub_book.add, keep_messages=0)
        )
        self.network = await resources.enter_async_context(
            FaultProxy(self.hub.address, self.hub.port, listen_host=address, listen_port=8883)
        )
        ca_file = directory / "hub-ca.pem"
        ca_file.write_text(authority.ca_pem)

        config = self._configuration(directory, address, ca_file)
        config_file = directory / "gateway.yaml"
        config_file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True), sort_keys=False))
        identity = self.hub.add_device(_GATEWAY)
        key_store(config).put("gateway", Secret.from_base64(identity.primary_key.encode()))
        self._data_directory = config.gateway.data_directory

        self.gateway = GatewayProcess(config_file, self._data_directory, directory / "gateway.log")
        resources.push_async_callback(self.gateway.kill)
        resources.push_async_callback(self._end_tasks)
        await self.gateway.start()
        await self.gateway.connected()

    def _make_sensors(self, directory: Path, resources: AsyncExitStack) -> None:
        few = self._count // 6
        counts = [self._count - self._count // 2, self._count // 2 - 2 * few, few, few]
        for make, count in zip((self._climate, self._tank, self._dust, self._smoke), counts, strict=True):
            for number in range(1, count + 1):
                # A generator for each, so that a sensor's values do not depend on when the others send.
                rng = random.Random(self._rng.getrandbits(64))  # noqa: S311 - simulated measurements, not secrets
                path = directory / f"tty-{make.__name__.strip('_')}-{number}"
                self.sensors.append(make(number, resources.enter_context(PtyLine(path)), rng))

    @staticmethod
    def _climate(number: int, line: PtyLine, rng: random.Random) -> VirtualSensor:
        return ClimateSensor(
            f"climate-{number}",
            line,
            ClimateSignal(rng, day_s=_DAY_S),
            address=number,
            period_s=0.1,
            rng=rng,
            noise_share=_NOISE_SHARE,
            broken_share=_BROKEN_SHARE,
        )

    @staticmethod
    def _dust(number: int, line: PtyLine, rng: random.Random) -> VirtualSensor:
        return VirtualSensor(
            f"dust-{number}",
            line,
            ParticleSignal(rng),
            profile="pms5003",
            period_s=0.2,
            rng=rng,
            noise_share=_NOISE_SHARE,
            broken_share=_BROKEN_SHARE,
        )

    @staticmethod
    def _smoke(number: int, line: PtyLine, rng: random.Random) -> VirtualSensor:
        # What any profile's sensor measures can be made from the profile alone.
        return VirtualSensor(
            f"smoke-{number}",
            line,
            ProfileSignal(load_profile("sds011"), rng, frame="measurement", day_s=_DAY_S),
            profile="sds011",
            address=f"a1{number:02x}",
            frame="measurement",
            period_s=0.2,
            rng=rng,
            noise_share=_NOISE_SHARE,
            broken_share=_BROKEN_SHARE,
        )

    @staticmethod
    def _tank(number: int, line: PtyLine, rng: random.Random) -> VirtualSensor:
        return VirtualSensor(
            f"tank-{number}",
            line,
            TankSignal(rng),
            profile="tfmini",
            period_s=0.1,
            rng=rng,
            noise_share=_NOISE_SHARE,
            broken_share=_BROKEN_SHARE,
        )

    def _configuration(self, directory: Path, hub: str, ca_file: Path) -> GatewayConfig:
        return GatewayConfig(
            gateway=GatewaySettings(name=_GATEWAY, data_directory=directory / "data"),
            links=tuple(
                LinkSettings(
                    name=_link_name(sensor),
                    port=PathPort(path=str(sensor.line.path)),
                    profile=sensor.profile,
                    devices=(DeviceSettings(name=sensor.name, address=sensor.address),),
                    unknown_devices="reject",
                )
                for sensor in self.sensors
                if isinstance(sensor.line, PtyLine)
            ),
            uplink=IotHubUplink(host_name=hub, device_id=_GATEWAY, ca_file=ca_file),
            rules=(
                ThresholdRule(
                    name=_RULE,
                    profile=ClimateSensor.PROFILE,
                    value="temperature",
                    raise_above=24.5,
                    clear_below=23.0,
                    on_raise=CommandOnAlert(name="set-relay", arguments={"state": 1}),
                    on_clear=CommandOnAlert(name="set-relay", arguments={"state": 0}),
                ),
            ),
            buffer=BufferSettings(max_message_age_s=0.2),
            # Impatient, so that a cut link is noticed, and taken up again, while somebody watches.
            delivery=DeliverySettings(
                keep_alive_s=5, confirm_timeout_s=2.0, connect_timeout_s=5.0, retry_first_s=0.25, retry_most_s=1.0
            ),
        )

    # --- what can be done to it ------------------------------------------------------------------------------------

    def start_sensors(self) -> None:
        """Let the sensors send."""
        self.started_s = asyncio.get_running_loop().time()
        self._sending = [asyncio.create_task(sensor.run(), name=f"sensor {sensor.name}") for sensor in self.sensors]

    async def act(self, action: Action) -> None:
        """Do something to the bench; what is so already stays so.

        Done to its end even if the caller is cancelled: a gateway that was killed has to be started again.
        """
        task = asyncio.create_task(self._act(action), name=f"demo {action.value}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _act(self, action: Action) -> None:
        async with self._acting:
            match action:
                case Action.CUT:
                    self.network.mode = ProxyMode.SILENT
                    self._note("the link to the hub is cut")
                case Action.RESTORE:
                    self.network.mode = ProxyMode.PASS
                    self._note("the link to the hub is back")
                case Action.UNPLUG:
                    self._unplug()
                case Action.PLUG_IN:
                    self._plug_in()
                case Action.KILL:
                    await self.gateway.kill()
                    await self.gateway.start()
                    self._note("the gateway was killed (SIGKILL) and started again")
                case Action.COMMAND:
                    self._command_soon()

    @property
    def is_cut(self) -> bool:
        """Whether the link to the hub is cut."""
        return self.network.mode is not ProxyMode.PASS

    @property
    def unplugged(self) -> VirtualSensor | None:
        """The sensor whose cable is out."""
        return self._unplugged

    def _unplug(self) -> None:
        if self._unplugged is None:
            self._unplugged = self.sensors[self._turn % len(self.sensors)]
            self._turn += 1
            self._unplugged.line.unplug()
            self._note(f"{self._unplugged.name} is unplugged")

    def _plug_in(self) -> None:
        if self._unplugged is not None:
            self._unplugged.line.plug_in()
            self._note(f"{self._unplugged.name} is plugged in again")
            self._unplugged = None

    def _command_soon(self) -> None:
        """Have the hub send a command; a hub that is cut off from the gateway shall not hold up the bench."""
        sensor = next((each for each in self.sensors if isinstance(each, ClimateSensor)), None)
        if sensor is None:
            self._note("no sensor here obeys commands")
            return
        task = asyncio.create_task(self._command(sensor, 0 if sensor.relay_closed else 1), name="hub command")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _command(self, sensor: ClimateSensor, state: int) -> None:
        command: dict[str, Value] = {"device": sensor.name, "command": "set-relay", "arguments": {"state": state}}
        try:
            response = await self.hub.invoke_method(_GATEWAY, "command", command, timeout_s=_COMMAND_WITHIN_S)
        except BenchError as error:  # a hub that finds no gateway says so; that is no fault of the demonstration
            answer = error.what
        else:
            status = response.payload.get("status") if isinstance(response.payload, dict) else None
            answer = f"{response.status} {status}"
        self.command_answers.append(answer)
        self._note(f"set-relay {state} to {sensor.name}: {answer}")

    def _note(self, what: str) -> None:
        self.history.append(f"{asyncio.get_running_loop().time() - self.started_s:.1f} s: {what}")

    # --- the end ---------------------------------------------------------------------------------------------------

    async def finish(self) -> Outcome:
        """Stop the sensors, let the gateway deliver what it has, stop it, and draw the account."""
        await self._cancel(self._sending)
        if self.is_cut:
            await self.act(Action.RESTORE)
        while self._tasks:  # an action may begin a command
            await asyncio.gather(*self._tasks)
        if not await self._emptied():
            self._faults.append(f"the gateway's queue was not empty {_EMPTIES_WITHIN_S:g} s after the sensors stopped")
        ended_before = self.gateway.pid is None
        exit_code = await self.gateway.stop()
        if ended_before or exit_code != 0:
            how = "by itself" if ended_before else "on SIGTERM"
            self._faults.append(f"the gateway ended {how} with {exit_code}: {self.gateway.last_words()}")
        return judge(
            {sensor.name: SensorEntry(sensor.profile, _link_name(sensor), sensor.ledger) for sensor in self.sensors},
            self._read_store(),
            self.hub_book,
            self._faults,
        )

    async def _emptied(self) -> bool:
        """Wait until every frame that has to arrive has arrived, and nothing is queued."""
        quiet_looks, last_received = 0, -1
        try:
            async with asyncio.timeout(_EMPTIES_WITHIN_S):
                while quiet_looks < _QUIET_LOOKS:
                    if self.gateway.pid is None:
                        return False
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    status = await self.gateway.status()
                    awaited = sum(sensor.ledger.awaited for sensor in self.sensors)
                    if status is None or awaited or status["account"]["queued"]:
                        quiet_looks = 0
                        continue
                    received = status["account"]["received"]
                    quiet_looks = quiet_looks + 1 if received == last_received else 1
                    last_received = received
        except TimeoutError:
            return False
        return True

    def _read_store(self) -> dict[tuple[str, str], Account]:
        store = open_bench_store(self._data_directory / BUFFER_FILE)
        try:
            return store.accounts()
        finally:
            store.close()

    async def _end_tasks(self) -> None:
        await self._cancel([*self._sending, *self._tasks])

    @staticmethod
    async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


def _link_name(sensor: VirtualSensor) -> str:
    return f"{sensor.name}-port"
