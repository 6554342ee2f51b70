"""A device on the far side of a pseudo-terminal, which can be unplugged and plugged in again under another number."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Self


class PtyDevice:
    """The far end of a serial cable: what it sends, the gateway reads. It sends and receives in the event loop."""

    def __init__(self) -> None:
        self._fd, near_end = os.openpty()
        tty.setraw(near_end)
        self.path = os.ttyname(near_end)
        os.close(near_end)
        os.set_blocking(self._fd, False)
        self._is_plugged_in = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()

    def fileno(self) -> int:
        return self._fd

    def unplug(self) -> None:
        if self._is_plugged_in:
            self._is_plugged_in = False
            os.close(self._fd)

    def link(self, name: Path) -> str:
        """Have `name` lead here, as udev does with /dev/serial/by-id, and return it."""
        aside = name.with_name(f"{name.name}.new")
        aside.symlink_to(self.path)
        aside.replace(name)
        return str(name)

    def send_what_fits(self, data: bytes) -> int:
        """Write until the kernel takes no more, and return how many bytes it took."""
        sent = 0
        while sent < len(data):
            try:
                sent += os.write(self._fd, data[sent:])
            except BlockingIOError:
                break
        return sent

    async def send(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        while data:
            data = data[self.send_what_fits(data) :]
            if data:
                await _ready(loop.add_writer, loop.remove_writer, self._fd)

    async def receive(self, count: int) -> bytes:
        """Wait for exactly `count` bytes from the gateway."""
        loop = asyncio.get_running_loop()
        received = bytearray()
        while len(received) < count:
            try:
                received += os.read(self._fd, count - len(received))
            except BlockingIOError:
                await _ready(loop.add_reader, loop.remove_reader, self._fd)
        return bytes(received)


async def _ready(watch: Callable[..., None], unwatch: Callable[[int], bool], fd: int) -> None:
    ready = asyncio.Event()
    watch(fd, ready.set)
    try:
        await ready.wait()
    finally:
        unwatch(fd)
