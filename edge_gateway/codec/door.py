"""The door for code: a decoder somebody wrote in Python, where a declaration cannot reach.

A profile says `decoder: NAME` with `options` in place of `frames`. NAME is one of those that ship with the gateway, or
an entry point of the group `edge_gateway.decoders` of any installed package. It is a factory, called once for each
codec:

```python
class Doorbell:
    values = {"ringing": None}  # optional: the names rules may use, and their SenML units

    def __init__(self, options):  # the profile's `options`, checked here: raise CodecError
        self.address = options.get("address")

    def decode(self, frames):  # one reply for the whole batch
        return Decoded([Sample(self.address, None, {"ringing": frame == b"ring"}) for frame in frames], [], [])
```

What comes out of the door holds, whoever is behind it:

- `decode` raises for no frames. What the decoder raises is logged by its type (`decoder.failed`, the first time, then
  the second, fourth, eighth, ...), and the frame becomes a reject `decoder`.
- Values are what JSON can say, copied, so that nothing changes afterwards; NaN and the infinities are null. Bounds: the
  constants below. A decoder that gives anything else has failed for this frame.
- One bad frame does no harm to the others of its batch: after a failure each frame is given again, alone.

It is called on the gateway's own thread, between two reads of a link, as every codec is. A decoder that takes a moment
makes its link wait, and loses nothing; one that never returns stops the gateway. Give it no work that waits.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, Protocol, TypeAlias

import orjson
import structlog

from edge_gateway.codec.compile import Decoded
from edge_gateway.codec.units import SENML_UNITS
from edge_gateway.errors import CodecError, ProfileError
from edge_gateway.records import Reject, Sample, Value

_log = structlog.get_logger()

GROUP: Final = "edge_gateway.decoders"
"""The entry points that are decoders."""

SHIPPED: Final = {
    "senml": "edge_gateway.codec.decoders.senml:SenmlDecoder",
    "ble-devices": "edge_gateway.codec.decoders.ble_devices:BleDevices",
}
"""Found without an entry point, so that nothing installed can take their place."""

REASONS: Final = frozenset(
    {"length", "checksum", "unknown-frame", "value", "no-key", "decryption", "unsealed", "decoder"}
)
"""The words of rejects that count. Any other word of a decoder is counted as `decoder`."""

MOST_FRAME_BYTES: Final = 65_536
"""A longer frame is rejected before the decoder sees it (`length`)."""
MOST_SAMPLES: Final = 1_000
"""Of one frame."""
MOST_SAMPLE_BYTES: Final = 65_536
"""The values of one sample as JSON. Half a message, as the buffer makes them unless told otherwise."""
MOST_VALUES: Final = 1_000
"""Of one sample, those inside lists and mappings included."""
MOST_LEVELS: Final = 8
"""Lists and mappings inside each other, the sample's own mapping included."""
MOST_NAME_CHARACTERS: Final = 255
"""Of a name, and of an address that is text."""

_MOST_ERROR_TYPES: Final = 64
"""Errors told apart; code can make new types without end."""

_COPIED: Final = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME
_UNPRINTABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Decoder(Protocol):
    """What a factory makes. It may have an attribute `values`, see `Door.values`."""

    def decode(self, frames: Sequence[bytes], /) -> Decoded:
        """What became of a batch of frames, in their order. `answers` stays empty: code has no commands.

        A sample's `sequence` is None. A frame that nobody can use is a `Reject` with one of `REASONS`.
        """
        ...


DecoderFactory: TypeAlias = Callable[[Mapping[str, Any]], Decoder]
"""Takes the profile's `options`; raises CodecError for one it cannot use, `where` naming it."""


class _Nonsense(Exception):
    """What a decoder returned, and why it will not do."""


class Door:
    """A decoder, held to its word.

    Args:
        name: what the profile calls it.
        decoder: not trusted in anything.

    Raises:
        CodecError: `values` of the decoder name no names, or a unit that is no SenML code.
    """

    def __init__(self, name: str, decoder: Decoder) -> None:
        self.name = name
        self._decoder = decoder
        self._failures: Counter[str] = Counter()
        self.values: dict[str, str | None] | None = _checked_values(getattr(decoder, "values", None))
        """Names of values and their SenML units; None from a decoder that cannot say, whose names may be any."""

    def decode(self, frames: Sequence[bytes]) -> Decoded:
        """Decode whole frames; see the module on what holds for any decoder."""
        if any(len(frame) > MOST_FRAME_BYTES for frame in frames):
            return self._one_by_one(frames)
        try:
            return _checked(self._decoder.decode(frames), len(frames))
        except KeyboardInterrupt:
            raise
        # Foreign code: a decoder may call sys.exit(), and a panic of one written in Rust is no Exception.
        except BaseException as error:  # noqa: BLE001 -- told by `_failed`, and its frames are rejected
            if len(frames) == 1:
                self._failed(error)
                return Decoded([], [], [Reject(frames[0], "decoder")])
            return self._one_by_one(frames)

    def _one_by_one(self, frames: Sequence[bytes]) -> Decoded:
        together = Decoded([], [], [])
        for frame in frames:
            if len(frame) > MOST_FRAME_BYTES:
                together.rejects.append(Reject(frame, "length"))
                continue
            alone = self.decode([frame])
            together.samples.extend(alone.samples)
            together.rejects.extend(alone.rejects)
        return together

    def _failed(self, error: BaseException) -> None:
        kind = type(error).__name__[:MOST_NAME_CHARACTERS]
        if kind not in self._failures and len(self._failures) >= _MOST_ERROR_TYPES:
            kind = "other"
        self._failures[kind] += 1
        count = self._failures[kind]
        if count & (count - 1) == 0:
            # The text of foreign errors may hold the frame, or a key; only ours is told.
            what = str(error) if isinstance(error, _Nonsense) else ""
            _log.warning("decoder.failed", decoder=self.name, error=kind.lstrip("_"), what=what, failures=count)


def open_door(name: str, options: Mapping[str, Any]) -> Door:
    """Find a decoder by its name and make it.

    Args:
        name: as a profile gives it.
        options: for its factory.

    Raises:
        ProfileError: there is no such decoder, a package it needs is missing, or it does not take these options.
    """
    factory = _found(name)
    try:
        return Door(name, factory(options))
    except CodecError as error:
        where = ".".join(part for part in ("options", error.where) if part)
        raise ProfileError(error.what, where=where, remedy=error.remedy) from error
    except Exception as error:  # a foreign factory's error, told with its type
        raise ProfileError(
            f"the decoder {name!r} does not start: {type(error).__name__}",
            where="options",
            remedy="Its package says which options it takes",
        ) from error


def decoder_names() -> list[str]:
    """The decoders a profile can name on this machine, sorted."""
    return sorted({*SHIPPED, *(each.name for each in entry_points(group=GROUP))})


def _found(name: str) -> DecoderFactory:
    """The factory behind a name.

    Raises:
        ProfileError: see `open_door`.
    """
    if name in SHIPPED:
        module, _, attribute = SHIPPED[name].partition(":")
        factory: DecoderFactory = getattr(import_module(module), attribute)
        return factory
    found: list[EntryPoint] = list(entry_points(group=GROUP, name=name))
    if not found:
        near = difflib.get_close_matches(name, decoder_names(), n=2)
        meant = f"Did you mean {' or '.join(near)}? Else install" if near else "Install"
        raise ProfileError(
            f"there is no decoder {name!r}",
            where="decoder",
            remedy=f"{meant} the package with an entry point {name!r} in the group {GROUP}",
        )
    # The name alone: one package seen twice on the path is the same decoder.
    if len({each.value for each in found}) > 1:
        packages = sorted(each.dist.name for each in found if each.dist is not None)
        raise ProfileError(
            f"two packages have a decoder {name!r}: {', '.join(packages)}",
            where="decoder",
            remedy="Uninstall one of them",
        )
    try:
        loaded: DecoderFactory = found[0].load()
    except Exception as error:  # a foreign module's error at import, told with its type
        detail = f" {error.name!r}" if isinstance(error, ModuleNotFoundError) else ""
        raise ProfileError(
            f"the decoder {name!r} cannot be loaded: {type(error).__name__}{detail}",
            where="decoder",
            remedy=f"Its code is {found[0].value}: install what that needs",
        ) from error
    return loaded


def _checked_values(values: object) -> dict[str, str | None] | None:
    if values is None:
        return None
    if not isinstance(values, Mapping):
        raise CodecError("the decoder's `values` are no mapping of names to units")
    for name, unit in values.items():
        if not isinstance(name, str) or not 0 < len(name) <= MOST_NAME_CHARACTERS:
            raise CodecError(f"the decoder's `values` have a name that will not do: {name!r:.80}")
        if unit is not None and unit not in SENML_UNITS:
            raise CodecError(f"the decoder gives {name!r} the unit {unit!r:.80}, which is no SenML code")
    return dict(values)


def _checked(decoded: object, frames: int) -> Decoded:
    """What a decoder gave for so many frames, copied, if it is what the protocol says.

    Raises:
        _Nonsense: it is not.
    """
    if not isinstance(decoded, Decoded):
        raise _Nonsense(f"a {type(decoded).__name__} in place of a Decoded")
    if decoded.answers:
        raise _Nonsense("answers, without a command")
    samples, rejects = len(decoded.samples), len(decoded.rejects)
    if samples > MOST_SAMPLES * frames or rejects > frames:
        raise _Nonsense(f"{samples} samples and {rejects} rejects of {frames} frames")
    return Decoded([_sample(each) for each in decoded.samples], [], [_reject(each) for each in decoded.rejects])


def _sample(sample: object) -> Sample:
    if not isinstance(sample, Sample):
        raise _Nonsense(f"a {type(sample).__name__} in place of a Sample")
    if sample.sequence is not None:
        raise _Nonsense("a sequence; without its span it says nothing")
    if not isinstance(sample.values, Mapping):
        raise _Nonsense(f"a {type(sample.values).__name__} in place of values")
    try:
        document = orjson.dumps(dict(sample.values), option=_COPIED)
    except orjson.JSONEncodeError as error:
        raise _Nonsense("values that JSON cannot say") from error
    if len(document) > MOST_SAMPLE_BYTES:
        raise _Nonsense(f"values of {len(document)} bytes")
    copied: dict[str, Value] = orjson.loads(document)
    if _count(copied, MOST_LEVELS) > MOST_VALUES:
        raise _Nonsense(f"more than {MOST_VALUES} values in one sample")
    return Sample(_address(sample.address), None, copied)


def _address(address: object) -> int | str | None:
    if address is None or (type(address) is int and -(2**63) <= address < 2**63):
        return address
    if type(address) is not str or not 0 < len(address) <= MOST_NAME_CHARACTERS or _UNPRINTABLE.search(address):
        raise _Nonsense("an address that is no name and no number")
    # It stands in device names, logs and messages, which are UTF-8.
    if any("\ud800" <= character <= "\udfff" for character in address):
        raise _Nonsense("an address with half a character")
    return address


def _count(value: Value, levels: int) -> int:
    """How many values there are, each list and mapping and what is in it."""
    if not isinstance(value, (dict, list)):
        return 1
    if not levels:
        raise _Nonsense(f"more than {MOST_LEVELS} levels of lists and mappings")
    if isinstance(value, dict):
        if any(not 0 < len(name) <= MOST_NAME_CHARACTERS for name in value):
            raise _Nonsense("a name that is empty or too long")
        return 1 + sum(_count(each, levels - 1) for each in value.values())
    return 1 + sum(_count(each, levels - 1) for each in value)


def _reject(reject: object) -> Reject:
    if not isinstance(reject, Reject):
        raise _Nonsense(f"a {type(reject).__name__} in place of a Reject")
    data: object = reject.data
    reason: object = reject.reason
    if not isinstance(data, bytes) or len(data) > MOST_FRAME_BYTES:
        raise _Nonsense("a reject without its frame")
    return Reject(data, reason if isinstance(reason, str) and reason in REASONS else "decoder")
