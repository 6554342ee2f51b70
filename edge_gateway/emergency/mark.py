"""The file that says that this gateway's keys are being wiped, or were.

It is written before anything is destroyed and is never taken away: only whoever removes the data directory begins anew.
That it is there is what counts. A mark that cannot be read is one of a wipe that has begun.

```
DATA/wipe.begun   {"reason": "tamper input lid", "begun": "2026-11-23T01:36:37Z", "done": false, "left": []}
```
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from edge_gateway.durable_file import replace_durably
from edge_gateway.keystore.key_files import WIPE_MARK

MARK_FILE: Final = WIPE_MARK
"""In the data directory."""

MOST_REASON_CHARACTERS: Final = 200
_MOST_FILE_BYTES: Final = 64 * 1024
_MOST_LEFT: Final = 50
_MOST_LEFT_CHARACTERS: Final = 500


@dataclass(frozen=True, slots=True)
class WipeReport:
    """How far a wipe has come."""

    reason: str
    """Who or what asked for it."""
    begun: str
    """When, RFC 3339; empty if that is not known."""
    done: bool = False
    """Nothing is left that could be destroyed from here."""
    left: tuple[str, ...] = ()
    """What could not be destroyed, a sentence each with what to do about it."""


def read_mark(directory: Path) -> WipeReport | None:
    """What the mark in a data directory says; None if there is none.

    Args:
        directory: the gateway's.
    """
    try:
        with (directory / MARK_FILE).open("rb") as file:
            content = file.read(_MOST_FILE_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None  # whom it does not belong to is told so elsewhere
    except OSError:
        content = b""
    return parse_mark(content)


def write_mark(directory: Path, report: WipeReport) -> None:
    """Put a mark, safe from a power cut when this returns.

    Args:
        directory: the gateway's data directory.
        report: what it says.

    Raises:
        OSError: it could not be written; an older one is still there.
    """
    bounded = WipeReport(
        report.reason[:MOST_REASON_CHARACTERS],
        report.begun,
        report.done,
        tuple(each[:_MOST_LEFT_CHARACTERS] for each in report.left[:_MOST_LEFT]),
    )
    replace_durably(directory / MARK_FILE, orjson.dumps(asdict(bounded), option=orjson.OPT_APPEND_NEWLINE))


def parse_mark(content: bytes) -> WipeReport:
    """What a mark says; whatever cannot be understood says that a wipe has begun. Never raises."""
    try:
        document: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        document = None
    match document:
        case {"reason": str(reason), "begun": str(begun), "done": bool(done), "left": list(left)} if all(
            isinstance(each, str) for each in left
        ):
            return WipeReport(reason, begun, done, tuple(left))
        case _:
            return WipeReport("not known, as the mark cannot be read", "")
