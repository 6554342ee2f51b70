"""From the settings of tamper inputs to what watches them."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from edge_gateway.config.tamper import AnyTamperInput, GpioInput, ModemLineInput, PcrInput, TamperSettings
from edge_gateway.emergency.tamper import TamperInput
from edge_gateway.emergency.tamper.arming import ARMED_FILE, Arming
from edge_gateway.emergency.tamper.gpio import GpioLine
from edge_gateway.emergency.tamper.modem_line import ModemLine
from edge_gateway.emergency.tamper.pcr import PcrChange, PcrReader
from edge_gateway.emergency.tamper.watch import TamperWatch
from edge_gateway.errors import ConfigError


def make_watches(settings: TamperSettings, directory: Path, pcr_reader: PcrReader | None) -> list[TamperWatch]:
    """A watch for each input. Nothing is opened yet.

    Args:
        settings: the inputs.
        directory: the data directory, where it is kept what is armed.
        pcr_reader: the key store, if it is on a TPM.

    Raises:
        ConfigError: an input needs what is not there: the library gpiod, or a TPM.
    """
    texts = {each.name: each.model_dump_json() for each in settings.inputs}
    arming = Arming(directory / ARMED_FILE, frozenset(texts.values()))
    return [
        TamperWatch(
            each.name,
            _input(each, pcr_reader),
            hold_s=each.hold_s,
            look_every_s=each.look_every_s,
            arming=arming,
            settings=texts[each.name],
        )
        for each in settings.inputs
    ]


def _input(settings: AnyTamperInput, pcr_reader: PcrReader | None) -> TamperInput:
    match settings:
        case ModemLineInput():
            return ModemLine(settings.port, settings.line, tampered_when=settings.tampered_when)
        case GpioInput():
            return GpioLine(settings.chip, settings.line, tampered_when=settings.tampered_when, bias=settings.bias)
        case PcrInput():
            if pcr_reader is None:
                raise ConfigError(
                    "PCRs are read by the key store's TPM, and there is none",
                    where=f"tamper: {settings.name}",
                    remedy="Say key_store: {kind: tpm}",
                )
            return PcrChange(pcr_reader, settings.pcrs)
        case _:
            assert_never(settings)
