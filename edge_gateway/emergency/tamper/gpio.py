"""A contact on a line of a GPIO chip, by the kernel's character device.

Source: Linux, Documentation/userspace-api/gpio/chardev.rst; libgpiod 2.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias

from edge_gateway.emergency.tamper import InputUnreadable
from edge_gateway.errors import ConfigError

Bias: TypeAlias = Literal["as-is", "disabled", "pull-up", "pull-down"]

CONSUMER: Final = "edge-gateway tamper"
"""What `gpioinfo` shows as the line's user."""

_BOUNCE: Final = timedelta(milliseconds=10)
"""A switch has bounced by then; what holds for longer is `hold_s`'s business."""


class GpioLine:
    """`TamperInput` on a GPIO line.

    Args:
        chip: the chip's device, `/dev/gpiochip0` for instance.
        line: the line's offset on it.
        tampered_when: the level that means that somebody is at it.
        bias: what pulls the line when nothing drives it.
        request: asks the kernel for lines, as `gpiod.request_lines`; left out, that.

    Raises:
        ConfigError: the library gpiod is not installed.
    """

    def __init__(
        self,
        chip: str,
        line: int,
        *,
        tampered_when: Literal["high", "low"],
        bias: Bias,
        request: Callable[..., Any] | None = None,
    ) -> None:
        try:
            import gpiod
        except ImportError as error:
            raise ConfigError(
                "the library gpiod is not installed", where="tamper", remedy="pip install edge-gateway[gpio]"
            ) from error
        self._chip = chip
        self._line = line
        self._tampered_value = gpiod.line.Value.ACTIVE if tampered_when == "high" else gpiod.line.Value.INACTIVE
        self._settings = gpiod.LineSettings(
            direction=gpiod.line.Direction.INPUT,
            bias=getattr(gpiod.line.Bias, bias.replace("-", "_").upper()),
            debounce_period=_BOUNCE,
        )
        self._request = request or gpiod.request_lines
        self._held: Any = None

    def is_tampered(self) -> bool:
        """See `TamperInput.is_tampered`."""
        try:
            if self._held is None:
                self._held = self._request(self._chip, consumer=CONSUMER, config={self._line: self._settings})
            return bool(self._held.get_value(self._line) == self._tampered_value)
        except (OSError, ValueError) as error:
            self.close()
            raise InputUnreadable(
                f"GPIO line {self._line} cannot be read: {error}",
                where=self._chip,
                remedy="See with `gpioinfo` that the line is there and free, and that the gateway's user may use the "
                "chip (usermod -aG gpio USER)",
            ) from error

    def close(self) -> None:
        """See `TamperInput.close`."""
        held, self._held = self._held, None
        if held is not None:
            held.release()
