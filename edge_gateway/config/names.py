"""What settings have in common: names, addresses, and values somebody has typed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any, Final, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _name(text: str) -> str:
    if not re.match(_NAME, text) or text.endswith("\n"):
        raise ValueError("not a name; at most 64 letters, digits, `.`, `_` and `-` would do, for instance boiler-room")
    return text


Name: TypeAlias = Annotated[
    str, AfterValidator(_name), Field(examples=["boiler-room"], json_schema_extra={"pattern": _NAME})
]


_HOST: Final = r"^(?:[^\s:/=;,?#@\\]+|[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%\w+)?)$"
"""A name, an IPv4 address, or an IPv6 address, which has two colons at least."""


def _host(text: str) -> str:
    if not re.match(_HOST, text) or text.endswith("\n"):
        raise ValueError("not the name of a host; the name alone would do, without scheme, port and path")
    return text


HostName: TypeAlias = Annotated[str, AfterValidator(_host), Field(json_schema_extra={"pattern": _HOST})]


_MAY_BE_A_KEY: Final = re.compile(r"(?:[0-9A-Fa-f]{2}){12,}")
"""What an app shows as a key would do as a name, too."""


def _key_name(text: str) -> str:
    if _MAY_BE_A_KEY.fullmatch(text):
        raise ValueError(
            "hexadecimal digits like those of a key, and keys stand in the key store; a name would do, for instance "
            "kitchen, with the key under it: edge-gateway keys import kitchen --payload"
        )
    return _name(text)


def _key_name_for_address(text: str) -> str:
    _key_name(text.replace("{address}", "0"))
    return text


# Not shown in errors: whoever misreads the word puts the secret itself here.
PayloadKeyNames: TypeAlias = Annotated[
    dict[str, Annotated[str, AfterValidator(_key_name)]],
    Field(repr=False, examples=[{"bindkey": "kitchen-bindkey"}]),
]
"""Names in the key store, by what the profile calls the keys."""
PayloadKeyNamesForAddress: TypeAlias = Annotated[
    dict[str, Annotated[str, AfterValidator(_key_name_for_address)]],
    Field(repr=False, examples=[{"bindkey": "bindkey-{address}"}]),
]
"""The same; `{address}` stands for the device's."""


_MAC = re.compile("[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}")


def _number_or_text(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("not an address; a number or text would do, for instance 7")
    # Hardware addresses are printed in either case, and the codec says them in the lower one.
    return value.lower() if isinstance(value, str) and _MAC.fullmatch(value) else value


def _plain(value: Any) -> Any:
    if not isinstance(value, bool | int | float | str):
        raise ValueError("not a plain value; a number, true, false or text would do")
    return value


Address: TypeAlias = Annotated[int | str, BeforeValidator(_number_or_text)]
Argument: TypeAlias = Annotated[bool | int | float | str, BeforeValidator(_plain)]


def repeated(values: Iterable[object]) -> list[object]:
    """What stands more than once."""
    return [value for value, count in Counter(values).items() if count > 1]
