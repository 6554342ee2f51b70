"""SenML packs from their bytes: JSON or CBOR, both to the same list of records with labels as text.

Of CBOR, SenML needs maps, arrays, text, bytes and numbers, and of its tags the decimal fraction (RFC 8428 section 6).
Every other tag is refused, whether the CBOR library knows it or not: a pack is from a stranger, and tags make regular
expressions, cycles, and numbers of any size.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final, TypeAlias

import cbor2
import orjson

Record: TypeAlias = Mapping[str, Any]
"""A record as it was sent; `vd` is bytes in both formats."""

_LABELS: Final = {
    -6: "bs", -5: "bv", -4: "bu", -3: "bt", -2: "bn", -1: "bver",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
"""The integers that stand for labels in CBOR (RFC 8428 table 4)."""

_MOST_LEVELS: Final = 8
"""A pack, its records, and a decimal fraction's two numbers make three; what unknown labels hold may have some more."""

_GREATEST_EXPONENT: Final = 400
"""Beyond it a decimal fraction is no finite float, whatever its digits."""


class NoPack(ValueError):
    """These bytes are no list of records."""


def records_of_json(text: bytes) -> list[Record]:
    """The records of a pack in JSON (RFC 8428 section 5).

    Raises:
        NoPack: it is none.
    """
    try:
        pack = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise NoPack("no JSON") from error
    return [{**record, "vd": _base64url(record["vd"])} if "vd" in record else record for record in _mappings(pack)]


def records_of_cbor(data: bytes) -> list[Record]:
    """The records of a pack in CBOR (RFC 8428 section 6); streams of unknown length too.

    Raises:
        NoPack: it is none.
    """
    source = io.BytesIO(data)
    decoder = cbor2.CBORDecoder(
        source, semantic_decoders=_DecimalFractionsOnly(), max_depth=_MOST_LEVELS, allow_duplicate_keys=False
    )
    try:
        pack = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise NoPack("no CBOR") from error
    if source.tell() != len(data):
        raise NoPack("bytes behind the pack")
    return [_with_labels(record) for record in _mappings(pack)]


def _with_labels(record: Mapping[Any, Any]) -> Record:
    """The record with its labels as text.

    Labels that are text are none of those with a number: all that matters of them is whether they must be understood.
    """
    named = {_LABELS[label]: value for label, value in record.items() if type(label) is int and label in _LABELS}
    return named | {label: value for label, value in record.items() if isinstance(label, str) and label.endswith("_")}


def _mappings(pack: object) -> list[Mapping[Any, Any]]:
    if not isinstance(pack, list) or not all(isinstance(record, Mapping) for record in pack):
        raise NoPack("no list of records")
    return pack


def _base64url(text: object) -> bytes:
    """Bytes from base64 with the URL alphabet and without padding (RFC 8428 section 5)."""
    if not isinstance(text, str):
        raise NoPack("data that is no text")
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise NoPack("data that is no base64") from error


def _decimal_fraction(parts: Any, _immutable: bool) -> float:
    match parts:
        case [int(exponent), int(digits)] if abs(exponent) <= _GREATEST_EXPONENT:
            try:
                return float(Decimal(digits).scaleb(exponent))
            except (InvalidOperation, OverflowError) as error:
                raise ValueError("no number") from error
    raise ValueError("no decimal fraction")


def _refused(_content: Any, _immutable: bool) -> Any:
    raise ValueError("a tag that SenML has no use for")


class _DecimalFractionsOnly(Mapping[int, Any]):
    """How to read a tag, for every tag there is: 4 is a decimal fraction, the others are refused."""

    def __getitem__(self, tag: int) -> Any:
        return _decimal_fraction if tag == 4 else _refused

    def __iter__(self) -> Iterator[int]:
        return iter((4,))

    def __len__(self) -> int:
        return 1
