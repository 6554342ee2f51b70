"""A device twin: the desired properties a solution sets and the reported ones the device answers with.

Both change by JSON merge patch: null deletes a member, objects merge, everything else replaces. Each section counts its
accepted changes in `$version`. A patch that would break one of the hub's limits changes nothing.

Limits are IoT Hub's: a bench that took more than the hub would hide a fault until the field.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeAlias

from edge_gateway.errors import BenchError
from edge_gateway.records import Value

Section: TypeAlias = dict[str, Value]

MAX_SECTION_BYTES = 32 * 1024
MAX_DEPTH = 10
MAX_KEY_BYTES = 1024
MAX_STRING_BYTES = 4096
MAX_INTEGER = 2**52
_NUMBER_BYTES = 8
_FLAG_BYTES = 4


class TwinRefused(BenchError):
    """A patch cannot be applied."""

    def __init__(self, what: str, path: str) -> None:
        super().__init__(what, where=path or "twin", remedy="See the limits of device twins")


class Twin:
    """One device's twin. What it hands out are copies."""

    def __init__(self) -> None:
        self._desired: Section = {}
        self._reported: Section = {}
        self.desired_version = 1
        self.reported_version = 1

    @property
    def desired(self) -> Section:
        """What the solution wants."""
        return copy.deepcopy(self._desired)

    @property
    def reported(self) -> Section:
        """What the device says."""
        return copy.deepcopy(self._reported)

    def document(self) -> Section:
        """Both sections with their versions, as a device that asks for its twin gets them."""
        return {
            "desired": {**self._desired, "$version": self.desired_version},
            "reported": {**self._reported, "$version": self.reported_version},
        }

    def patch_desired(self, patch: Value) -> int:
        """Merge a solution's patch and return the section's new version.

        Raises:
            TwinRefused: nothing was changed.
        """
        self._desired = _patched(self._desired, patch)
        self.desired_version += 1
        return self.desired_version

    def patch_reported(self, patch: Value) -> int:
        """Merge a device's patch and return the section's new version.

        Raises:
            TwinRefused: nothing was changed.
        """
        self._reported = _patched(self._reported, patch)
        self.reported_version += 1
        return self.reported_version


def _patched(section: Section, patch: Value) -> Section:
    if not isinstance(patch, Mapping):
        raise TwinRefused("a patch is a JSON object", "")
    _size_bytes(patch, "", 0)  # names the patch deletes have to be valid as well
    merged = _merged(section, patch)
    size_bytes = _size_bytes(merged, "", 0)
    if size_bytes > MAX_SECTION_BYTES:
        raise TwinRefused(f"{size_bytes} bytes of properties, {MAX_SECTION_BYTES} are allowed", "")
    return merged


def _merged(old: Value, patch: Mapping[str, Value]) -> Section:
    """`old` with `patch` applied, sharing no object with the patch (RFC 7396)."""
    merged = dict(old) if isinstance(old, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            merged[name] = _merged(merged.get(name), value)
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def _size_bytes(value: Value, path: str, depth: int) -> int:
    """What a value counts towards the section's limit, after checking that it is allowed."""
    if isinstance(value, str):
        if len(value.encode()) > MAX_STRING_BYTES:
            raise TwinRefused(f"a string of more than {MAX_STRING_BYTES} bytes", path)
        return len(value)
    if value is None:
        return 0
    if isinstance(value, bool):
        return _FLAG_BYTES
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            raise TwinRefused("an integer beyond 2^52", path)
        return _NUMBER_BYTES
    if depth >= MAX_DEPTH:
        raise TwinRefused(f"more than {MAX_DEPTH} levels", path)
    if isinstance(value, Mapping):
        return sum(
            _key_bytes(name, path) + _size_bytes(member, f"{path}/{name}", depth + 1) for name, member in value.items()
        )
    return sum(_size_bytes(member, f"{path}/{index}", depth + 1) for index, member in enumerate(value))


def _key_bytes(name: str, path: str) -> int:
    size_bytes = len(name.encode())
    if size_bytes > MAX_KEY_BYTES:
        raise TwinRefused(f"a name of more than {MAX_KEY_BYTES} bytes", path)
    if not name or any(letter in ".$ " or not letter.isprintable() for letter in name):
        raise TwinRefused("a name that is empty or has a dot, `$`, space or control character", f"{path}/{name}")
    return len(name)
