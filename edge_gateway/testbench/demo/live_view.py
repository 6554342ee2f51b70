"""The demonstration to look at: one screen of 80 by 24 characters, and five keys.

Everything shown comes from outside the gateway: its status socket, the sensors' ledgers and the hub's book.
"""

from __future__ import annotations

import asyncio
import os
import sys
import termios
import tty
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge_gateway.testbench.demo.bench import DemoBench
from edge_gateway.testbench.demo.script import Action
from edge_gateway.testbench.virtual_sensor import VirtualSensor

_DRAWS_A_SECOND: Final = 4
_ASK_EVERY_S: Final = 1.0
_RATE_OVER_S: Final = 2.0
_LINES_BESIDE_DEVICES: Final = 12
_STALE_AFTER_S: Final = 1.5
"""A sensor silent for so long is shown as such; the slowest sends every 0.2 s."""

_SHOWN: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "reference-climate": (("temperature", "{:.2f} °C"), ("humidity", "{:.2f} %RH"), ("battery", "{:.3f} V")),
    "pms5003": (("pm1_0", "{}"), ("pm2_5", "{}"), ("pm10", "{} µg/m³")),
    "sds011": (("pm2_5", "{:.1f}"), ("pm10", "{:.1f} µg/m³")),
    "tfmini": (("distance", "{:.2f} m"), ("strength", "strength {}")),
}
"""The values shown of each profile, and how."""


class LiveView:
    """Shows a bench and obeys keys. Needs a terminal on standard input and output.

    Args:
        seed: shown, so that what was seen can be run again.
    """

    def __init__(self, *, seed: int) -> None:
        self._seed = seed
        self._keys: asyncio.Queue[str] = asyncio.Queue()
        self._arrivals: deque[tuple[float, int]] = deque()
        """Event loop time and readings at the hub then, of the last seconds."""
        self._status: dict[str, Any] | None = None

    async def watch(self, bench: DemoBench, stop: asyncio.Event) -> None:
        """Show the bench until cancelled. `q` sets `stop`."""
        console = Console(highlight=False)
        try:
            with _single_keys(self._keys), Live(console=console, screen=True, auto_refresh=False) as live:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._obey_keys(bench, stop), name="demo keys")
                    tasks.create_task(self._ask(bench), name="demo status")
                    while True:
                        live.update(self.render(bench, console.height), refresh=True)
                        await asyncio.sleep(1 / _DRAWS_A_SECOND)
        finally:
            console.print("The sensors are stopped; the gateway delivers what it has, and the account is drawn.")

    async def _ask(self, bench: DemoBench) -> None:
        """Beside the drawing, because a gateway that hangs may take its time to answer."""
        while True:
            self._status = await bench.gateway.status()
            await asyncio.sleep(_ASK_EVERY_S)

    async def _obey_keys(self, bench: DemoBench, stop: asyncio.Event) -> None:
        while True:
            match await self._keys.get():
                case "c":
                    await bench.act(Action.RESTORE if bench.is_cut else Action.CUT)
                case "u":
                    await bench.act(Action.UNPLUG if bench.unplugged is None else Action.PLUG_IN)
                case "k":
                    await bench.act(Action.KILL)
                case "m":
                    await bench.act(Action.COMMAND)
                case "q":
                    stop.set()

    def render(self, bench: DemoBench, height: int) -> RenderableType:
        """One screen.

        Args:
            bench: what to show.
            height: lines there are.
        """
        now_s = asyncio.get_running_loop().time()
        return Group(
            self._title(now_s - bench.started_s),
            self._way(bench),
            Text(),
            self._figures(bench, now_s),
            Text(),
            self._devices(bench, max(1, height - _LINES_BESIDE_DEVICES)),
            Text(),
            self._troubles(bench),
            _line(("did      ", "dim"), (bench.history[-1] if bench.history else "nothing yet: press a key", "")),
            self._help(bench),
        )

    def _title(self, up_s: float) -> Text:
        minutes, seconds = divmod(int(up_s), 60)
        return _line(("Edge Gateway demo", "bold"), (f"   {minutes:02d}:{seconds:02d}   seed {self._seed}", "dim"))

    def _way(self, bench: DemoBench) -> Text:
        plugged = len(bench.sensors) - (bench.unplugged is not None)
        uplink = self._status["uplink"] if self._status else None
        process = f"pid {bench.gateway.pid}" if bench.gateway.pid else "not running"
        if bench.gateway.kills:
            process += f", killed {bench.gateway.kills}x"
        connected = uplink is not None and uplink["connected"]
        return _line(
            (f"{plugged} sensors", "green" if bench.unplugged is None else "yellow"),
            (" ──> ", "dim"),
            (f"gateway ({process})", "green" if self._status else "red"),
            (" ──TLS──> " if not bench.is_cut else " ──✂ cut ✂──> ", "dim" if not bench.is_cut else "bold red"),
            ("hub" if connected else "hub (not connected)", "green" if connected else "red"),
        )

    def _figures(self, bench: DemoBench, now_s: float) -> Table:
        hub, status = bench.hub_book, self._status
        self._arrivals.append((now_s, hub.readings))
        while now_s - self._arrivals[0][0] > _RATE_OVER_S:
            self._arrivals.popleft()
        (then_s, then), (_, now) = self._arrivals[0], self._arrivals[-1]
        rate = f"{(now - then) / (now_s - then_s):.0f}" if now_s > then_s else "-"
        ledgers = [sensor.ledger for sensor in bench.sensors]
        queue = status["queue"] if status else {"alert": "?", "normal": "?"}
        raised = len(status["alerts"]) if status else "?"
        p50, p99 = hub.latency_ms(0.5), hub.latency_ms(0.99)
        latency = f"{p50:.0f} / {p99:.0f} ms" if p50 is not None and p99 is not None else "-"
        repeats = hub.delivery.repeated_messages
        at_hub = f"{hub.readings} ({repeats} repeats)" if repeats else f"{hub.readings}"
        table = Table.grid(padding=(0, 1))
        for width in (8, 12, 7, 16, 9, 22):
            table.add_column(width=width, no_wrap=True)
        for row in (
            ("sent", sum(each.sent for each in ledgers), "queued", f"{queue['normal']} readings", "at hub", at_hub),
            ("broken", sum(each.broken for each in ledgers), "", f"{queue['alert']} alerts", "frames/s", rate),
            ("lost", sum(each.lost_good for each in ledgers), "alerts", f"{raised} raised", "p50/p99", latency),
        ):
            table.add_row(*(Text(str(cell), "dim" if place % 2 == 0 else "bold") for place, cell in enumerate(row)))
        return table

    def _devices(self, bench: DemoBench, most: int) -> Table:
        known = {device["name"]: device for device in self._status["devices"]} if self._status else {}
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("device", width=10, no_wrap=True)
        table.add_column("profile", width=17, no_wrap=True)
        table.add_column("sent", width=7, justify="right")
        table.add_column("lost", width=5, justify="right")
        table.add_column("age", width=6, justify="right")
        table.add_column("last values", no_wrap=True)
        shown = bench.sensors if len(bench.sensors) <= most else bench.sensors[: most - 1]
        for sensor in shown:
            table.add_row(*_device_cells(sensor, known.get(sensor.name)))
        if len(shown) < len(bench.sensors):
            table.add_row(f"and {len(bench.sensors) - len(shown)} more")
        return table

    def _troubles(self, bench: DemoBench) -> Text:
        if self._status is None:
            return _line(("fault    ", "dim"), ("the gateway does not answer", "red"))
        if faults := self._status["faults"]:
            more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
            return _line(("fault    ", "dim"), (faults[0].replace(f"{bench.directory}/", "") + more, "red"))
        raised = ", ".join(alert["device"] for alert in self._status["alerts"])
        return _line(("fault    ", "dim"), ("none", "green"), (f"   too warm: {raised}" if raised else "", "yellow"))

    def _help(self, bench: DemoBench) -> Text:
        keys = (
            ("c", "restore link" if bench.is_cut else "cut link"),
            ("u", "unplug sensor" if bench.unplugged is None else f"plug in {bench.unplugged.name}"),
            ("k", "kill"),
            ("m", "relay"),
            ("q", "quit"),
        )
        return _line(*(part for key, what in keys for part in ((f"[{key}]", "bold cyan"), (f" {what}  ", ""))))


def _device_cells(sensor: VirtualSensor, device: Mapping[str, Any] | None) -> tuple[Text, ...]:
    age_s = device["age_s"] if device else None
    stale = age_s is None or age_s > _STALE_AFTER_S
    values = (device["values"] or {}) if device else {}
    shown = [
        "-" if values.get(key) is None else template.format(values[key]) for key, template in _SHOWN[sensor.profile]
    ]
    lost = sensor.ledger.lost_good
    return (
        Text(sensor.name, "red" if stale else "green"),
        Text(sensor.profile, "dim"),
        Text(str(sensor.ledger.sent)),
        Text(str(lost), "yellow" if lost else "dim"),
        Text("-" if age_s is None else f"{age_s:.1f} s", "red" if stale else ""),
        Text("  ".join(shown) if values else "-", "dim" if stale else ""),
    )


def _line(*parts: tuple[str, str]) -> Text:
    """One line of the screen; what does not fit is cut off, because wrapping would push the lines below out."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


@contextmanager
def _single_keys(keys: asyncio.Queue[str]) -> Iterator[None]:
    """Have each key go to `keys` as it is pressed, without echo; Ctrl-C goes on to interrupt."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    loop = asyncio.get_running_loop()

    def take() -> None:
        try:
            pressed = os.read(fd, 64)
        except OSError:
            pressed = b""
        if not pressed:  # the terminal is gone; SIGHUP tells the rest
            loop.remove_reader(fd)
        for key in pressed.decode(errors="ignore").lower():
            keys.put_nowait(key)

    tty.setcbreak(fd)
    loop.add_reader(fd, take)
    try:
        yield
    finally:
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
