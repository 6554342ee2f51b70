"""How the codec asks for the key of an encrypted payload: by the profile's word for it and the device's address.

The codec has no keys and reads none. Whoever compiles a profile hands it a `PayloadKeys`; in the gateway that is
`keystore.device_keys`, in a test or for a vector a dictionary will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from edge_gateway.codec.structure.items import Array, Encrypted, Group, Item, Plain, Switch, Tlv

PayloadKeys: TypeAlias = Callable[[str, int | str | None], bytes | None]
"""Gives the key of 16, 24 or 32 bytes for a name in the profile and a device's address; None if there is none, and no
bytes if there should be one: such a device encrypts, and nobody can read it just now.

It is asked for every encrypted frame: it must be quick, and must not raise.
"""


def no_payload_keys(_name: str, _address: int | str | None) -> bytes | None:
    """`PayloadKeys` of somebody who has none: every encrypted frame is rejected as `no-key`."""
    return None


def same_payload_keys(keys: Mapping[str, bytes]) -> PayloadKeys:
    """`PayloadKeys` that gives every device the same keys, by their names in the profile.

    For vectors, simulators and `decode --key`, where one device is spoken of.
    """
    held = dict(keys)
    return lambda name, _address: held.get(name)


def key_names_in(items: Iterable[Item]) -> set[str]:
    """What these items, and those within them, call the keys they need."""
    names: set[str] = set()
    for item in items:
        match item:
            case Encrypted() | Plain():
                names.add(item.key)
                names |= key_names_in(item.fields)
            case Group():
                names |= key_names_in(item.fields)
            case Array():
                names |= key_names_in([item.of])
            case Switch():
                for case in [*item.cases.values(), item.default or ()]:
                    names |= key_names_in(case)
            case Tlv():
                for fields in item.items.values():
                    names |= key_names_in(fields)
            case _:
                pass  # fields, and parts, which are looked at where they are declared
    return names
