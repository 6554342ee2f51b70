"""A power cut before any step that changes the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest


class PowerCut(BaseException):
    """The box is off."""


class Cutter:
    """Counts the steps that change the disk, opening a file among them, and cuts before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cut_at = 0
        self.steps = 0
        for name in ("open", "write", "pwrite", "fsync", "unlink", "rename", "replace"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name), name))

    def _counting(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.steps += 1
            if self.cut_at and self.steps >= self.cut_at:
                if name == "pwrite" and self.steps == self.cut_at:  # a write is cut in its middle
                    file, content, offset = arguments
                    function(file, content[: len(content) // 2], offset)
                raise PowerCut
            return function(*arguments, **more)

        return counted

    def cuts(self, call: Callable[[], object], at: int) -> bool:
        """Whether the call was cut."""
        self.steps, self.cut_at = 0, at
        try:
            call()
        except PowerCut:
            return True
        finally:
            self.cut_at = 0
        return False
