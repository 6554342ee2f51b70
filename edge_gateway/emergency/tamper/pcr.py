"""Registers of the TPM (PCRs) that must not change while the gateway runs.

A PCR takes in what is measured into it and goes back to zero only when the TPM restarts. So a change says that
something was measured that had not been: a kernel module, a program, or what an integrator measures on purpose. All
zeros of a sudden say that somebody has reset the TPM and not the box, which is a known way to fake a boot.

What counts is what was there when the gateway first looked. Changes from one boot to the next come with every update;
for those the buffer's key can be sealed to approved boots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from edge_gateway.emergency.tamper import InputUnreadable
from edge_gateway.errors import KeyStoreError


class PcrReader(Protocol):
    """Reads registers; a key store on a TPM does."""

    def registers(self, pcrs: Sequence[int]) -> Mapping[int, bytes]:
        """The SHA-256 values of registers, 32 bytes each.

        Args:
            pcrs: their numbers, 0 to 23.

        Raises:
            KeyStoreError: the TPM does not give them.
        """
        ...


class PcrChange:
    """`TamperInput` on registers of a TPM.

    Args:
        reader: where they are.
        pcrs: their numbers.
    """

    def __init__(self, reader: PcrReader, pcrs: Sequence[int]) -> None:
        self._reader = reader
        self._pcrs = tuple(sorted(set(pcrs)))
        self._first: Mapping[int, bytes] | None = None

    def is_tampered(self) -> bool:
        """See `TamperInput.is_tampered`."""
        try:
            values = dict(self._reader.registers(self._pcrs))
        except KeyStoreError as error:
            raise InputUnreadable(
                f"the PCRs cannot be read: {error.what}", where=error.where, remedy=error.remedy
            ) from error
        if self._first is None:
            self._first = values
        return values != self._first

    def close(self) -> None:
        """See `TamperInput.close`. The reader is its owner's."""
