"""pymodbus's server on a serial line that the gateway polls, with a wire between them that can fail."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pymodbus.pdu import ModbusPDU
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge_gateway.testbench.sensor_line import PtyLine


@dataclass
class ModbusBus:
    """The wire: bytes from the gateway go to the server as they are, and the answers come back, or do not."""

    line: PtyLine
    spoil: Callable[[bytes], bytes] = bytes
    """What becomes of what the server sends."""
    written: list[tuple[int, int, list[int]]] = field(default_factory=list)
    """`(unit, register, values)` of each write that reached the server."""

    def note(self, sending: bool, pdu: ModbusPDU) -> ModbusPDU:
        """See pymodbus's `trace_pdu`."""
        if not sending and pdu.function_code in (6, 16):
            self.written.append((pdu.dev_id, pdu.address, list(pdu.registers)))
        return pdu


def transmitter(unit: int, temperature: int, humidity: int) -> SimDevice:
    """A device with the registers of an XY-MD02, all else missing."""
    return SimDevice(
        id=unit,
        simdata=[
            SimData(0x0001, values=[temperature, humidity], datatype=DataType.REGISTERS),
            SimData(0x0101, values=[unit, 9600], datatype=DataType.REGISTERS),
        ],
    )


@asynccontextmanager
async def open_bus(path: Path, devices: list[SimDevice]) -> AsyncIterator[ModbusBus]:
    """Start the server; a request to a unit that is not among the devices gets an exception.

    Args:
        path: the gateway's port.
        devices: what the server plays.
    """
    loop = asyncio.get_running_loop()
    master, slave = os.openpty()
    tty.setraw(slave)
    with PtyLine(path) as line:
        bus = ModbusBus(line)
        server = ModbusSerialServer(devices, port=os.ttyname(slave), trace_pdu=bus.note, baudrate=9600)
        line.listen(lambda data: _pass_on(master, data), lambda: None)
        loop.add_reader(master, lambda: line.write(bus.spoil(os.read(master, 4096))))
        await server.serve_forever(background=True)
        try:
            yield bus
        finally:
            await server.shutdown()  # type: ignore[no-untyped-call] # pymodbus annotates it not
            loop.remove_reader(master)
            os.close(master)
            os.close(slave)


def _pass_on(master: int, data: bytes) -> None:
    os.write(master, data)
