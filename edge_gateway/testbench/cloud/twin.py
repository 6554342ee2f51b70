"""A device twin: the desired properties a solution sets and the reported ones the device answers with.

Both change by JSON merge patch: null deletes a member, objects merge, everything else replaces. Each section counts
its accepted changes in `$version` and keeps for every member when it was last set (`$metadata`). Beside them are tags,
which a device never sees. A patch that would break one of the hub's limits changes nothing.

Limits are IoT Hub's: a bench that took more than the hub would hide a fault until the field.
"""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from edge_gateway.clock import Clock, SystemClock, rfc3339
from edge_gateway.errors import BenchError
from edge_gateway.records import Value

Section: TypeAlias = dict[str, Value]

MAX_SECTION_BYTES = 32 * 1024
MAX_TAGS_BYTES = 8 * 1024
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
    """The twin of one device or module. What it hands out are copies.

    Args:
        clock: tells when a member was set.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock if clock is not None else SystemClock()
        self._desired = _Section()
        self._reported = _Section()
        self._tags: Section = {}
        self.version = 2
        """Counts changes of all three."""

    @property
    def desired(self) -> Section:
        """What the solution wants."""
        return copy.deepcopy(self._desired.members)

    @property
    def reported(self) -> Section:
        """What the device says."""
        return copy.deepcopy(self._reported.members)

    @property
    def tags(self) -> Section:
        """What the solution notes about the device."""
        return copy.deepcopy(self._tags)

    @property
    def desired_version(self) -> int:
        """Accepted changes of the desired properties, from 1."""
        return self._desired.version

    @property
    def reported_version(self) -> int:
        """Accepted changes of the reported properties, from 1."""
        return self._reported.version

    @property
    def etag(self) -> str:
        """Changes with `version`."""
        return base64.b64encode((self.version - 1).to_bytes(8, "big")).decode()

    def document(self) -> Section:
        """Both sections with their versions, as a device that asks for its twin gets them."""
        return {"desired": self._desired.document(), "reported": self._reported.document()}

    def service_document(self) -> Section:
        """Tags, properties with metadata, version and etag, as services get them."""
        return {
            "etag": self.etag,
            "version": self.version,
            "tags": self.tags,
            "properties": {
                "desired": {**copy.deepcopy(self._desired.document()), "$metadata": self._desired.metadata()},
                "reported": {**copy.deepcopy(self._reported.document()), "$metadata": self._reported.metadata()},
            },
        }

    def patch_desired(self, patch: Value) -> int:
        """Merge a solution's patch and return the section's new version.

        Raises:
            TwinRefused: nothing was changed.
        """
        return self._change(self._desired, _checked(patch))

    def replace_desired(self, members: Value) -> int:
        """Put other desired properties in the place of all there are; return the section's new version.

        Raises:
            TwinRefused: nothing was changed.
        """
        members = _checked(members)
        return self._change(self._desired, replacing_patch(self._desired.members, members))

    def patch_reported(self, patch: Value) -> int:
        """Merge a device's patch and return the section's new version.

        Raises:
            TwinRefused: nothing was changed.
        """
        return self._change(self._reported, _checked(patch))

    def patch_tags(self, patch: Value) -> None:
        """Merge a patch into the tags.

        Raises:
            TwinRefused: nothing was changed.
        """
        tags = _merged(self._tags, _checked(patch))
        _check_size(tags, MAX_TAGS_BYTES)
        self._tags = tags
        self.version += 1

    def replace_tags(self, tags: Value) -> None:
        """Put other tags in the place of all there are.

        Raises:
            TwinRefused: nothing was changed.
        """
        self.patch_tags(replacing_patch(self._tags, _checked(tags)))

    def state(self) -> Section:
        """All of it, to be kept; `Twin.restored` makes the twin again."""
        return {
            "version": self.version,
            "tags": self.tags,
            "desired": self._desired.state(),
            "reported": self._reported.state(),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], clock: Clock | None = None) -> Self:
        """The twin whose `state` was kept."""
        twin = cls(clock)
        twin.version = state["version"]
        twin._tags = state["tags"]
        twin._desired = _Section(**state["desired"])
        twin._reported = _Section(**state["reported"])
        return twin

    def _change(self, section: _Section, patch: Mapping[str, Value]) -> int:
        section.change(patch, rfc3339(self._clock.now_ns()))
        self.version += 1
        return section.version


@dataclass(slots=True)
class _Section:
    """Desired or reported properties."""

    members: Section = field(default_factory=dict)
    version: int = 1
    stamps: Section = field(default_factory=dict)
    """As `members`, with a stamp under `$` in place of each value, and one in each object."""

    def document(self) -> Section:
        return {**self.members, "$version": self.version}

    def metadata(self) -> Section:
        return _stamped(self.stamps or {"$": ["0001-01-01T00:00:00Z", self.version]})

    def state(self) -> Section:
        return {"members": copy.deepcopy(self.members), "version": self.version, "stamps": copy.deepcopy(self.stamps)}

    def change(self, patch: Mapping[str, Value], now: str) -> None:
        merged = _merged(self.members, patch)
        _check_size(merged, MAX_SECTION_BYTES)
        self.members = merged
        self.version += 1
        self.stamps = _restamped(self.stamps, patch, [now, self.version])


def replacing_patch(old: Mapping[str, Value], new: Mapping[str, Value]) -> Section:
    """The smallest merge patch that makes `new` of `old`; empty if they are equal."""
    patch: Section = dict.fromkeys(name for name in old if name not in new)
    for name, value in new.items():
        before = old.get(name)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            if below := replacing_patch(before, value):
                patch[name] = below
        elif name not in old or value != before or isinstance(value, bool) is not isinstance(before, bool):
            patch[name] = value
    return patch


def _checked(patch: Value) -> Mapping[str, Value]:
    """A patch whose names and values are all allowed; names it deletes have to be valid as well."""
    if not isinstance(patch, Mapping):
        raise TwinRefused("a patch is a JSON object", "")
    _size_bytes(patch, "", 0)
    return patch


def _check_size(section: Section, limit_bytes: int) -> None:
    size_bytes = _size_bytes(section, "", 0)
    if size_bytes > limit_bytes:
        raise TwinRefused(f"{size_bytes} bytes of properties, {limit_bytes} are allowed", "")


def _restamped(stamps: Value, patch: Mapping[str, Value], stamp: list[Value]) -> Section:
    """`stamps` after a patch at the time and version of `stamp`."""
    changed = dict(stamps) if isinstance(stamps, Mapping) else {}
    changed["$"] = stamp
    for name, value in patch.items():
        if value is None:
            changed.pop(name, None)
        elif isinstance(value, Mapping):
            changed[name] = _restamped(changed.get(name), value, stamp)
        else:
            changed[name] = {"$": stamp}
    return changed


def _stamped(stamps: Mapping[str, Any]) -> Section:
    """Stamps as services read them."""
    at, version = stamps["$"]
    members = {name: _stamped(below) for name, below in stamps.items() if name != "$"}
    return {"$lastUpdated": at, "$lastUpdatedVersion": version, **members}


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
