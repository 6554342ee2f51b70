"""Advertisements for two: as the codec hears them, and as other people's decoders do."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import pytest

from edge_gateway.codec import Codec
from edge_gateway.records import Sample

ADDRESS = "a4:c1:38:01:02:03"
"""The sender, wherever a test does not care who it is."""
MISSING = "(missing)"
"""Stands for a value that a decoder does not give."""


def peer(module: str) -> Any:
    """A module of another decoder, of no type; what cannot be installed here is skipped.

    Raises:
        pytest.skip.Exception: it is not installed.
    """
    found: ModuleType = pytest.importorskip(module, reason=f"{module} is a development dependency and not installed")
    return found


def heard(number: int, data: bytes, address: str = ADDRESS) -> bytes:
    """The frame of one advertisement.

    Args:
        number: the 16-bit number of its company or service.
        data: what stands behind the number.
        address: the sender's.
    """
    return bytes.fromhex(address.replace(":", "")) + number.to_bytes(2, "little") + data


def said(codec: Codec, frame: bytes) -> Sample | str:
    """What the codec says of a frame: its sample, or the word it is rejected with."""
    samples, answers, rejects = codec.decode([frame])[:3]
    assert not answers
    assert len(samples) + len(rejects) == 1
    return samples[0] if samples else rejects[0].reason


def values_of(codec: Codec, frame: bytes) -> Mapping[str, Any]:
    """The values of a frame that must not be rejected."""
    sample = said(codec, frame)
    assert isinstance(sample, Sample), sample
    return sample.values


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], tolerance: Mapping[str, float] | None = None
) -> dict[str, tuple[Any, Any]]:
    """What two decoders say differently, ours and theirs by name; numbers may differ by rounding of the last digit.

    Args:
        ours: values by name.
        theirs: values by name, in the same units.
        tolerance: how far numbers of a name may lie apart, where a decoder rounds.
    """
    allowed = tolerance or {}
    found = {}
    for name in {**ours, **theirs}:
        one, other = ours.get(name, MISSING), theirs.get(name, MISSING)
        if _is_number(one) and _is_number(other):
            alike = one == pytest.approx(other, rel=1e-9, abs=allowed.get(name, 1e-9))
        else:
            alike = type(one) is type(other) and one == other
        if not alike:
            found[name] = (one, other)
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
