"""A site whose sensors all have identities of their own: one line with all of them on it, a TPM, and a cloud.

Everything is a process that does not know it is being tested: the gateway, the commands that provision it, the TPM, and
hub and provisioning service. The keys are known here because the group's key is: each is derived from it, as Azure
defines it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import random
import sys
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

import orjson

from edge_gateway.testbench import free_loopback_address
from edge_gateway.testbench.virtual_tpm import VirtualTpm

from .cloud_process import CHECKOUT, CloudProcess
from .feeder import sample, stuff
from .gateway_process import Absence, GatewayProcess
from .receiver import Receiver
from .site import GATEWAY, QUICK, write_config

StoreKind: TypeAlias = Literal["tpm", "software"]

WITHIN_S: Final = 300.0
"""Bounds a run that hangs: a thousand sensors on a busy machine take their time."""
_LOOK_EVERY_S: Final = 0.1
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def device_name(address: int) -> str:
    """What the gateway calls the sensor of this address."""
    return f"sensor-{address:04}"


def id_at_hub(device: str) -> str:
    """What the hub calls it."""
    return f"{GATEWAY}-{device}" if device else GATEWAY


class Bus:
    """Sensors that share one line and take turns. Use it as an async context manager.

    Args:
        port: where the gateway finds the line.
        count: how many sensors.
    """

    def __init__(self, port: Path, count: int) -> None:
        self.sent = dict.fromkeys(range(1, count + 1), 0)
        """Frames, by address."""
        self._port = port
        self._sending: asyncio.Task[None] | None = None
        self._is_silenced = False

    async def __aenter__(self) -> Self:
        self._fd, self._near_end = os.openpty()
        tty.setraw(self._near_end)
        os.set_blocking(self._fd, False)
        self._port.symlink_to(os.ttyname(self._near_end))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.silence()
        os.close(self._near_end)
        os.close(self._fd)

    async def send_round(self, over_s: float) -> None:
        """One frame from each, evenly in this time."""
        for pause_s, address in self._turns(over_s):
            await asyncio.sleep(pause_s)
            await self._send(address)

    def go_on_sending(self, round_s: float) -> None:
        """Send one round after the other until `silence`."""
        self._is_silenced = False

        async def send() -> None:
            while True:
                for pause_s, address in self._turns(round_s):
                    if self._is_silenced:  # never in the midst of a frame
                        return
                    await asyncio.sleep(pause_s)
                    await self._send(address)

        self._sending = asyncio.create_task(send(), name="bus")

    async def silence(self) -> None:
        """Send no more."""
        self._is_silenced = True
        sending, self._sending = self._sending, None
        if sending is not None:
            await sending

    def _turns(self, over_s: float) -> Iterator[tuple[float, int]]:
        """Whose turn it is, and after which pause."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for number, address in enumerate(self.sent, 1):
            yield max(0.0, began_s + over_s * number / len(self.sent) - loop.time()), address

    async def _send(self, address: int) -> None:
        frame = stuff(sample(address, self.sent[address]))
        while frame:
            try:
                frame = frame[os.write(self._fd, frame) :]
            except BlockingIOError:  # nobody reads just now, and a line does not say when there is room again
                await asyncio.sleep(_LOOK_EVERY_S)
        self.sent[address] += 1


class ShortTokens(GatewayProcess):
    """The gateway, its sensors' tokens renewed within a test.

    Args:
        config: the configuration file.
        lifetime_s: of a sensor's token; None leaves it as configured.
        environment: added to this process's own.
    """

    def __init__(
        self,
        config: Path,
        *,
        lifetime_s: int | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        super().__init__(config, environment=environment)
        program = ["edge_gateway"] if lifetime_s is None else ["tests.system.short_tokens", str(lifetime_s)]
        self._command = [sys.executable, "-m", *program, "run", "--json", "--config", str(config)]

    async def start(self) -> None:
        if not self.absences:
            self.absences.append(Absence(0.0, 0.0))
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            cwd=CHECKOUT,
            env=self._environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1 << 20,
        )
        self._listening = asyncio.create_task(self._listen(self._process), name="gateway log")

    @property
    def pid(self) -> int:
        return self.running.pid

    def sessions(self) -> dict[str, int]:
        """How often each identity has been connected since the beginning, by its name at the hub; by the log."""
        counts: dict[str, int] = {}
        for event in self.events:
            if event["event"] == "uplink.connected":
                name = str(event["endpoint"]).rpartition("/")[2]
                counts[name] = counts.get(name, 0) + 1
        return counts


@dataclass(frozen=True, slots=True)
class IdentitiesSite:
    """What a test plays with. The gateway is configured, and not provisioned."""

    directory: Path
    config: Path
    bus: Bus
    cloud: CloudProcess
    tpm: VirtualTpm | None

    @property
    def receiver(self) -> Receiver:
        return self.cloud.receiver

    @property
    def devices(self) -> list[str]:
        return [device_name(address) for address in self.bus.sent]

    def keys(self) -> list[bytes]:
        """The group's key, the gateway's and each sensor's: what nobody but the TPM and the cloud may have.

        Source: https://learn.microsoft.com/azure/iot-dps/concepts-symmetric-key-attestation#group-enrollments
        """
        group_key = self.cloud.group_key
        names = [id_at_hub(device) for device in ("", *self.devices)]
        return [group_key, *(hmac.digest(group_key, name.encode(), hashlib.sha256) for name in names)]

    async def provision(self) -> None:
        """As an installer does: two commands, each with the group's key in a file that it erases."""
        service = ("--id-scope", self.cloud.id_scope, "--host", self.cloud.address, "--ca-file", self.cloud.ca_file)
        options = (*map(str, service), "--port", str(self.cloud.https_port), "--config", str(self.config), "--json")
        for command in (("dps", "--method", "group"), ("leaves",)):
            secret = self.directory / "group.key"
            secret.touch(mode=0o600)
            secret.write_bytes(base64.b64encode(self.cloud.group_key))
            told = await _edge_gateway("provision", *command, "--from-file", str(secret), *options)
            assert not secret.exists()
            if command == ("leaves",):
                assert (told["provisioned"], told["refused"]) == (len(self.devices), []), told

    async def arrived(self) -> None:
        """Wait until everything that was sent is at the hub."""
        frames, sent = self.receiver.frames, self.bus.sent
        await until(
            lambda: all(len(frames[device_name(address)]) >= count for address, count in sent.items()),
            lambda: f"{self.receiver.records} of {sum(sent.values())} records arrived",
        )

    def faults(self) -> list[str]:
        """What is missing, repeated, out of order, mixed up, or under somebody else's identity; in words."""
        faults = self.receiver.faults()
        for address, count in self.bus.sent.items():
            device = device_name(address)
            if self.receiver.frames[device] != list(range(count)):
                faults.append(f"{device}: {count} frames sent, {len(self.receiver.frames[device])} arrived")
            if self.receiver.senders[device] != {id_at_hub(device)}:
                faults.append(f"{device} came under {self.receiver.senders[device]}")
        return faults


@asynccontextmanager
async def open_identities_site(directory: Path, count: int, store: StoreKind = "tpm") -> AsyncIterator[IdentitiesSite]:
    """Build a site.

    Args:
        directory: an empty one.
        count: how many sensors.
        store: where the gateway has its keys.
    """
    async with AsyncExitStack() as resources:
        tpm = await resources.enter_async_context(VirtualTpm(directory / "tpm")) if store == "tpm" else None
        cloud = await resources.enter_async_context(
            CloudProcess(directory / "cloud", free_loopback_address(random.Random()), Receiver())
        )
        bus = await resources.enter_async_context(Bus(directory / "line", count))
        config = configure(directory, bus, cloud, tpm)
        yield IdentitiesSite(directory, config, bus, cloud, tpm)


def configure(directory: Path, bus: Bus, cloud: CloudProcess, tpm: VirtualTpm | None) -> Path:
    """Write the configuration of a gateway in a directory of its own."""
    count = len(bus.sent)
    link = {
        "name": "bus",
        "port": {"path": str(directory / "line")},
        "profile": "reference-climate",
        "devices": [{"name": device_name(address), "address": address} for address in bus.sent],
    }
    uplink = {
        "kind": "iot-hub",
        "ca_file": str(cloud.ca_file),
        "sensors": {"most_sessions": count, "connects_per_s": 1000.0},
    }
    key_store = {"kind": "tpm", "tcti": tpm.tcti} if tpm is not None else {"kind": "software"}
    sections: dict[str, Any] = {**QUICK, "uplink": uplink, "key_store": key_store}
    return write_config(directory, links=[link], **sections)


async def until(
    condition: Callable[[], bool], told: Callable[[], object] = lambda: "", *, within_s: float = WITHIN_S
) -> None:
    """Look until something is so that nobody announces."""
    try:
        async with asyncio.timeout(within_s):
            while not condition():  # noqa: ASYNC110  # what is looked at is not announced
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise AssertionError(f"not within {within_s:.0f} s: {told()}") from None


def cpu_s(pid: int) -> float:
    """CPU-seconds, user and system, that a process has used; proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def memory_mib(pid: int, key: str = "VmRSS") -> float:
    """Memory that a process has in RAM; proc(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def swtpm_pid(tpm: VirtualTpm) -> int:
    """The process that is this TPM; it tells by its command line."""
    mark = tpm.tcti.partition("path=")[2].encode()
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        words = entry.read_bytes().split(b"\0")
        if words[0].endswith(b"swtpm") and any(mark in word for word in words):
            return int(entry.parent.name)
    raise AssertionError("the TPM is off")


async def dump_core(pid: int, path: Path) -> Path:
    """All that a process has in memory, as a core file; the process goes on. Root may, though it is not dumpable."""
    process = await asyncio.create_subprocess_exec(
        *("gcore", "-a", "-o", str(path), str(pid)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    core = path.with_name(f"{path.name}.{pid}")
    assert process.returncode == 0, said.decode(errors="replace")
    return core


async def _edge_gateway(*arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "edge_gateway", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        output, errors = await process.communicate()
    assert process.returncode == 0, (output, errors)
    document: dict[str, Any] = orjson.loads(output)
    return document
