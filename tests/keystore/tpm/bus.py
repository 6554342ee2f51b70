"""The way to a TPM with somebody on it: who listens, answers in the TPM's place, or does something in between."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from edge_gateway.keystore.tpm.tcti import Tcti

pytest.importorskip("tpm2_pytss", reason="tpm2-pytss is not installed: pip install edge-gateway[tpm]")

from tpm2_pytss import PyTCTI, TCTILdr

LOAD = 0x157
HMAC = 0x155
HMAC_START = 0x15B
CREATE = 0x153
FLUSH = 0x165
SEQUENCE_UPDATE = 0x15C
CLEAR = 0x126
READ_PUBLIC = 0x173
START_AUTH_SESSION = 0x176
READ_CLOCK = 0x181
CREATE_PRIMARY = 0x131


class Bus:
    """Stands between a key store and its TPM: pass `connect` to the store."""

    def __init__(self) -> None:
        self.answers: dict[int, list[int]] = defaultdict(list)
        """Response codes to give in the TPM's place, by command, each once."""
        self.always: dict[int, int] = {}
        """Likewise, as long as they are here."""
        self.before: Callable[[int], object] = lambda command: None
        """Called before a command goes to the TPM."""
        self.changed: Callable[[int, bytes], bytes] = lambda command, answer: answer
        """What becomes of an answer."""
        self.commands: list[int] = []
        self.heard = b""
        """All that went over the bus, in both directions."""

    def connect(self, tcti: Tcti) -> Any:
        return _Way(self, TCTILdr(tcti.kind, tcti.settings))


class _Way(PyTCTI):  # type: ignore[misc]  # as above
    def __init__(self, bus: Bus, way: Any) -> None:
        super().__init__()
        self._bus = bus
        self._way = way
        self._command = 0
        self._answer: bytes | None = None

    def do_transmit(self, command: bytes) -> None:
        self._command = int.from_bytes(command[6:10], "big")
        self._bus.commands.append(self._command)
        self._bus.heard += command
        self._bus.before(self._command)
        code = self._bus.always.get(self._command, 0)
        if self._bus.answers[self._command]:
            code = self._bus.answers[self._command].pop(0)
        self._answer = bytes.fromhex("8001 0000000a") + code.to_bytes(4, "big") if code else None
        if self._answer is None:
            self._way.transmit(command)

    def do_receive(self, timeout: int) -> bytes:
        answer = self._answer
        if answer is None:
            answer = self._bus.changed(self._command, bytes(self._way.receive(timeout=timeout)))
        self._bus.heard += answer
        return answer

    def close(self) -> None:
        self._way.close()
