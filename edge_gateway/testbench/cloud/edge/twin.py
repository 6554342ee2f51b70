"""An edge hub's copy of a client's twin, so that the client has one while the hub cannot be reached.

Reported properties change here at once and wait for the hub as one patch, into which later ones merge. Desired
properties change only as the hub says; after a time apart, the difference to what the client knew is told to it as a
patch, as if it had come then.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from edge_gateway.testbench.cloud.twin import Section, Twin

_VERSION = "$version"


class TwinCopy:
    """One client's twin. Empty until the hub has given it once."""

    def __init__(self) -> None:
        self._desired: Section | None = None
        self._reported: Section = {}
        self.pending: Section = {}
        """Reported properties the hub does not have yet, as one patch."""

    @property
    def known(self) -> bool:
        """Whether the hub has ever given it."""
        return self._desired is not None

    def document(self) -> Section:
        """Both sections, as a client that asks for its twin gets them. Only if `known`."""
        return copy.deepcopy({"desired": self._desired, "reported": _merged(self._reported, self.pending)})

    def refresh(self, document: Mapping[str, Any]) -> Section:
        """Take the twin as the hub has it; return what desired properties changed by, with their version.

        Nothing is returned if nothing changed, or if the twin was not known before.
        """
        before, self._desired = self._desired, dict(document["desired"])
        self._reported = dict(document["reported"])
        if before is None or before.get(_VERSION) == self._desired.get(_VERSION):
            return {}
        return patch_between(before, self._desired)

    def patch_desired(self, patch: Mapping[str, Any]) -> bool:
        """Take a patch from the hub, with its version.

        Returns:
            False if it does not follow on what is here: the twin has to be fetched.
        """
        follows = self._desired is not None and self._desired[_VERSION] == patch[_VERSION] - 1
        if follows:
            self._desired = _merged(self._desired, patch)
        return follows

    def patch_reported(self, patch: Any) -> None:
        """Take a client's patch; it waits in `pending`.

        Raises:
            TwinRefused: the hub would not take it.
        """
        Twin().patch_reported(patch)
        members = {name: member for name, member in self._reported.items() if name != _VERSION}
        pending = _composed(self.pending, patch, members)
        Twin().patch_reported(_merged(members, pending))
        self.pending = pending

    def sent(self, patch: Section) -> None:
        """The hub has taken `patch`, which was `pending` when it was sent."""
        self._reported = _merged(self._reported, patch)
        self.pending = patch_between(patch, self.pending)


def _merged(old: Any, patch: Mapping[str, Any]) -> Section:
    """`old` with `patch` applied (RFC 7396)."""
    merged = dict(old) if isinstance(old, Mapping) else {}
    for name, member in patch.items():
        if isinstance(member, Mapping):
            merged[name] = _merged(merged.get(name), member)
        elif member is None:
            merged.pop(name, None)
        else:
            merged[name] = member
    return merged


def _composed(first: Mapping[str, Any], second: Mapping[str, Any], base: Any) -> Section:
    """One patch that does to `base` what `first` and then `second` would do."""
    members = base if isinstance(base, Mapping) else {}
    composed = dict(first)
    for name, member in second.items():
        if not isinstance(member, Mapping) or name not in first:
            composed[name] = member
        elif isinstance(earlier := first[name], Mapping):
            composed[name] = _composed(earlier, member, members.get(name))
        else:  # `first` took away what `base` has there, and the new object must not bring it back
            composed[name] = _replacing(members.get(name), _merged(None, member))
    return composed


def _replacing(old: Any, new: Mapping[str, Any]) -> Section:
    """The patch that makes `new` of `old` and says so of every member, also of those that are the same."""
    members = old if isinstance(old, Mapping) else {}
    patch: Section = dict.fromkeys(name for name in members if name not in new)
    for name, member in new.items():
        patch[name] = _replacing(members.get(name), member) if isinstance(member, Mapping) else member
    return patch


def patch_between(old: Mapping[str, Any], new: Mapping[str, Any]) -> Section:
    """The patch that makes `new` of `old`, neither of which has nulls but where a patch is made of two."""
    patch: Section = {name: None for name in old if name not in new}
    for name, member in new.items():
        before = old.get(name)
        if isinstance(before, Mapping) and isinstance(member, Mapping):
            inner = patch_between(before, member)
            if inner:
                patch[name] = inner
        elif name not in old or before != member:
            patch[name] = member
    return patch
