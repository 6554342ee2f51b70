"""Holds our reading of a frame against another program's, and knows the differences that have a reason.

A `Peer` is an independent decoder from PyPI. It reads the same frames, and gives what it found under our names and in
our units. Where the two differ, an `Explained` must say why, with a frame that shows it; a difference nobody explains
fails the test, and so does an explanation that nothing shows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from hypothesis.strategies import SearchStrategy

from edge_gateway.codec import Codec, compile_profile, load_profile
from edge_gateway.records import Value

Values = Mapping[str, Value]


class Peer(NamedTuple):
    """Another decoder of one profile's frames."""

    package: str
    """On PyPI."""
    module: str
    """What is imported, and the reason to skip where it cannot be."""
    profile: str
    frames: SearchStrategy[bytes]
    """Frames of the right shape with any content."""
    read: Callable[[bytes], Values]
    """What it says of a frame: a value for every name it knows; None where it gives none."""

    @property
    def name(self) -> str:
        """Of the test."""
        return f"{self.package}-{self.profile}"


class Explained(NamedTuple):
    """A difference that has a reason."""

    package: str
    profile: str
    value: str
    """The name the two differ in."""
    when: Callable[[Value, Value], bool]
    """Whether it is this difference, from our value and theirs."""
    why: str
    shown_by: str
    """A frame in hexadecimal digits."""


@functools.cache
def codec_of(profile: str) -> Codec:
    """A packaged profile, compiled once."""
    return compile_profile(load_profile(profile))


def our_values(profile: str, frame: bytes) -> Values:
    """What we say of a frame; nothing of one we refuse."""
    decoded = codec_of(profile).decode([frame])
    return decoded.samples[0].values if decoded.samples else {}


def is_same(ours: Value, theirs: Value) -> bool:
    """Whether two values are the same number, text or truth; a float may differ in its last digits."""
    if isinstance(ours, (int, float)) and isinstance(theirs, (int, float)) and not isinstance(ours, bool):
        return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-9)
    return ours == theirs


def differences(peer: Peer, frame: bytes) -> dict[str, tuple[Value, Value]]:
    """The names that mean another value to us than to the peer, with ours and theirs."""
    ours = our_values(peer.profile, frame)
    return {
        name: (ours.get(name), theirs)
        for name, theirs in peer.read(frame).items()
        if not is_same(ours.get(name), theirs)
    }


def unexplained(peer: Peer, frame: bytes, table: tuple[Explained, ...]) -> dict[str, tuple[Value, Value]]:
    """Those of the differences for which the table has no reason."""
    return {
        name: (ours, theirs)
        for name, (ours, theirs) in differences(peer, frame).items()
        if not any(
            (each.package, each.profile, each.value) == (peer.package, peer.profile, name) and each.when(ours, theirs)
            for each in table
        )
    }
