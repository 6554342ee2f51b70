"""A contact on a serial port: a loop from an output line through the contact to an input line.

The port's RTS and DTR are switched on and feed the loop; CTS, DSR, DCD or RI comes back as long as it is closed.
Nothing is sent or received.

Source: termios(3), ioctl_tty(2) TIOCMGET.
"""

from __future__ import annotations

import contextlib
import termios
from typing import Any, Final, Literal, TypeAlias

from edge_gateway.emergency.tamper import InputUnreadable

ModemLineName: TypeAlias = Literal["cts", "dsr", "dcd", "ri"]

_ATTRIBUTES: Final[dict[ModemLineName, str]] = {"cts": "cts", "dsr": "dsr", "dcd": "cd", "ri": "ri"}
"""What pyserial calls them."""
_ERRORS: Final = (OSError, termios.error, ValueError)
"""What pyserial raises: OSErrors of its own, `termios.error` as it came, ValueError for a path it cannot use."""


class ModemLine:
    """`TamperInput` on a modem line.

    Args:
        port: path of the serial port, which nothing else may use.
        line: the line that comes back.
        tampered_when: the state of the loop that means that somebody is at it.
    """

    def __init__(self, port: str, line: ModemLineName, *, tampered_when: Literal["open", "closed"]) -> None:
        self._path = port
        self._line: ModemLineName = line
        self._tampered_when = tampered_when
        self._port: Any = None

    def is_tampered(self) -> bool:
        """See `TamperInput.is_tampered`."""
        try:
            port = self._port or self._open()
            is_closed = bool(getattr(port, _ATTRIBUTES[self._line]))
        except _ERRORS as error:
            self.close()
            raise InputUnreadable(
                f"{self._line.upper()} cannot be read: {error}",
                where=self._path,
                remedy="See that the port is there, has modem lines, is free, and may be used by the gateway's user "
                "(usermod -aG dialout USER)",
            ) from error
        return is_closed == (self._tampered_when == "closed")

    def close(self) -> None:
        """See `TamperInput.close`."""
        port, self._port = self._port, None
        if port is not None:
            with contextlib.suppress(*_ERRORS):  # it is gone; there is nothing to close
                port.close()

    def _open(self) -> Any:
        import serial  # for those who have such an input

        port = serial.Serial()
        port.port = self._path
        port.exclusive = True
        port.rts = True
        port.dtr = True
        port.open()
        self._port = port
        return port
