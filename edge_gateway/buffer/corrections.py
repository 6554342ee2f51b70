"""What a wrong clock did to records, undone when the clock is right: times, and ages.

A box without a battery starts in 1970, or at the date of its last shutdown, and goes on reading its sensors. Each
record stamped then says so in its JSON, with the one time that needs no setting, that since the boot:

```
{..., "time": "1970-01-01T00:02:00.000000Z", "values": {...},
 "time_trusted": false, "boot": "7426cafa-e6aa-4dfb-927c-560eb47a5787", "uptime_s": 120.0}
```

Once the clock of that boot is trusted, its offset is known: wall time = offset + time since the boot. Records that
nobody has seen yet are corrected on their way out, and say that too:

```
{..., "time": "2026-05-01T12:00:00.000000Z", "values": {...}, "time_corrected": true}
```

Records of a boot that never learnt the time keep their marks. A record marked without a boot, as one that has the
unbelieved time of its device, is never touched.

Pure: bytes in, bytes out; the same bytes for the same arguments, for ever, as a message that is sent again must be.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Never

import orjson

from edge_gateway.clock import EARLIEST_PLAUSIBLE_NS, NS_PER_S, rfc3339
from edge_gateway.errors import PayloadDamaged

_US_PER_S: Final = 1_000_000


def mark(document: dict[str, Any], boot: str, uptime_ns: int) -> None:
    """Say in a record's JSON that its time is not to be relied on, and by what it can be corrected.

    Args:
        document: a record as it will be written; the marks become its last keys.
        boot: the boot it was stamped in.
        uptime_ns: time since that boot, nanoseconds; below 0 for what was measured before it. Cut to microseconds,
            which `uptime_s` then carries exactly: a float holds them for 35 years.
    """
    document["time_trusted"] = False
    document["boot"] = boot
    document["uptime_s"] = uptime_ns // 1000 / _US_PER_S


def correct(payload: bytes, boot: str, offset_ns: int) -> bytes:
    """Give the records of one boot their times, now that they are known.

    Args:
        payload: records as JSON objects joined by commas, without brackets, as they are stored.
        boot: whose records; all others stay as they are, byte for byte.
        offset_ns: wall time at the beginning of that boot, nanoseconds since 1970-01-01T00:00:00Z.

    Returns:
        The payload with each record's `time` put right and its marks replaced by `"time_corrected": true`; other keys
        and their order stay. A time is cut to microseconds like all others, so it is at most one early and never late.
        Correcting again changes nothing.

    Raises:
        PayloadDamaged: these are no such records.
    """
    try:
        return b",".join(
            orjson.dumps(_corrected(document, offset_ns))
            if document.get("boot") == boot and "uptime_s" in document
            else text.encode()
            for text, document in _documents(payload.decode())
        )
    except (ValueError, OverflowError, RecursionError, orjson.JSONEncodeError) as error:
        raise PayloadDamaged(
            f"is not records joined by commas: {error}", where="payload", remedy="It is set aside; nothing else is"
        ) from error


def _corrected(document: dict[str, Any], offset_ns: int) -> dict[str, Any]:
    uptime_s = document["uptime_s"]
    if isinstance(uptime_s, bool) or not isinstance(uptime_s, int | float):
        raise ValueError(f"uptime_s is {uptime_s!r}")
    document["time"] = rfc3339(offset_ns + round(uptime_s * _US_PER_S) * 1000)
    for key in ("time_trusted", "boot", "uptime_s"):
        document.pop(key, None)
    document["time_corrected"] = True
    return document


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


# Not orjson, which does not say where a document ends.
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse)


def _documents(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each document as it is written, and what it says."""
    start = 0
    while text:
        document, end = _DECODER.raw_decode(text, start)
        if not isinstance(document, dict):
            raise ValueError(f"no object at {start}")
        yield text[start:end], document
        if end == len(text):
            return
        if text[end] != ",":
            raise ValueError(f"no comma at {end}")
        start = end + 1


def age_s(
    then_boot: int, then_uptime_s: float, now_boot: int, now_uptime_s: float, offsets_ns: Mapping[int, int | None]
) -> float:
    """How old something is; where nobody can know, the least it can be, so that nothing expires before its time.

    Within one boot that is the time since, whatever the wall clock did. What comes from an earlier boot is at least as
    old as this one. It is as old as wall time says if both boots have learnt theirs, and that can be true: a clock that
    was ahead then, or is behind now, makes it younger than this boot. What cannot be seen from here is a clock that was
    trusted and is ahead now, or was behind then.

    Args:
        then_boot: the boot in which it came, by its number in the store.
        then_uptime_s: time since that boot at which it came, seconds.
        now_boot: this boot; the same or a later one.
        now_uptime_s: time since this boot, seconds.
        offsets_ns: of each boot the wall time at its beginning, nanoseconds since 1970; None or left out if unknown.

    Returns:
        Seconds, 0 or more.
    """
    if then_boot == now_boot:
        return max(0.0, now_uptime_s - then_uptime_s)
    then_offset_ns, now_offset_ns = offsets_ns.get(then_boot), offsets_ns.get(now_boot)
    if then_offset_ns is None or now_offset_ns is None or then_offset_ns < EARLIEST_PLAUSIBLE_NS:
        return now_uptime_s
    between_s = (now_offset_ns - then_offset_ns) / NS_PER_S - then_uptime_s
    return now_uptime_s + max(0.0, between_s)
