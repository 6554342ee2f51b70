"""Which tamper inputs are armed, remembered over restarts.

An input is armed once it was seen untouched. To pull the plug, open the box and start it again is then no way around
it. What is remembered is a digest of the input's settings, so that one whose settings were changed, its polarity for
instance, is as one never seen.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from edge_gateway.durable_file import replace_durably

_log = structlog.get_logger()

ARMED_FILE: Final = "tamper.armed"
"""In the data directory."""

MOST_INPUTS: Final = 32
_DIGEST_CHARACTERS: Final = 32
_MOST_FILE_BYTES: Final = 64 * 1024


class Arming:
    """The armed inputs of a gateway. Its methods may block for a moment; any thread may call them.

    Args:
        path: the file.
        known: the settings of the inputs there are now, as text. What others were armed is forgotten.
    """

    def __init__(self, path: Path, known: frozenset[str]) -> None:
        self._path = path
        self._arming = threading.Lock()
        self._armed = _read(path) & {_digest(each) for each in known}

    def is_armed(self, settings: str) -> bool:
        """Whether the input of these settings was seen untouched."""
        return _digest(settings) in self._armed

    def arm(self, settings: str) -> None:
        """Remember that it was; a disk that cannot keep that is told of, and it holds until the next start."""
        with self._arming:
            armed = self._armed | {_digest(settings)}
            try:
                replace_durably(self._path, orjson.dumps(sorted(armed)))
            except OSError as error:
                _log.warning("tamper.arming_not_kept", path=str(self._path), reason=error.strerror)
            self._armed = armed  # told as armed when it is safe from a power cut


def parse_armed(content: bytes) -> set[str]:
    """The digests in a file's content; none if it is not as we write it. Never raises."""
    try:
        document: Any = orjson.loads(content)
    except orjson.JSONDecodeError:
        return set()
    return {each for each in document if isinstance(each, str)} if isinstance(document, list) else set()


def _read(path: Path) -> set[str]:
    try:
        with path.open("rb") as file:
            return parse_armed(file.read(_MOST_FILE_BYTES))
    except FileNotFoundError:
        return set()
    except OSError as error:
        _log.warning("tamper.arming_unreadable", path=str(path), reason=error.strerror)
        return set()


def _digest(settings: str) -> str:
    return hashlib.sha256(settings.encode()).hexdigest()[:_DIGEST_CHARACTERS]
