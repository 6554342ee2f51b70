"""A device's twin as one session sees it: desired properties without a gap, reported ones as they are now.

The hub tells of a change once, at QoS 0, to whoever is connected. So a session asks for the whole document first,
counts versions from there, and asks again when one is missing. Every few seconds it also looks what there is to report,
and sees to requests that were refused or never answered. Nothing here waits: a twin that the hub throttles holds up no
reading.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
import structlog

from edge_gateway.records import Value
from edge_gateway.uplink.hub_topics import DesiredPatch, TwinAnswer, reported_patch, twin_get
from edge_gateway.uplink.merge_patch import merge_patch

_log = structlog.get_logger()

REPORT_EVERY_S: Final = 5.0
"""Reported properties are patched no more often; a unit of IoT Hub takes 50 twin updates a second for all devices."""

_ANSWER_WITHIN_S: Final = 30.0
"""A request not answered by then is asked again."""

_OK: Final = 200
_NO_CONTENT: Final = 204


class HubTwin:
    """Follows one twin.

    Args:
        publish: sends a topic and a payload to the hub.
        apply: hands on desired properties; the flag tells a whole document (True) from a patch.
        reported: the properties to report now.
        endpoint: for the log.
        rng: jitter, so that a thousand twins are not asked for in the same moment.
        report_every_s: how often to look what there is to report.
    """

    def __init__(
        self,
        publish: Callable[[str, bytes], None],
        apply: Callable[[Mapping[str, Value], bool], None],
        reported: Callable[[], Mapping[str, Any]],
        *,
        endpoint: str,
        rng: random.Random,
        report_every_s: float = REPORT_EVERY_S,
    ) -> None:
        self._publish = publish
        self._apply = apply
        self._to_report = reported
        self._endpoint = endpoint
        self._rng = rng
        self._report_every_s = report_every_s
        self._loop = asyncio.get_running_loop()
        self._request_ids = itertools.count(1)
        self._request = ""
        """The one that is not answered yet; there is never a second."""
        self._ask_again_at_s = 0.0
        self._told: Mapping[str, Any] | None = None
        """What is reported once the request is granted; None while the request is for the document."""
        self._reported: Mapping[str, Any] = {}
        """What the twin has of what is ours."""
        self._version = 0
        """Of the desired properties that were handed on last."""
        self._newest = 0
        """The highest version the hub has told of."""
        self._is_whole = False
        """Whether desired properties are followed, as none is missing."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Ask for the document. What comes of it reaches `answered`."""
        self._look()

    def stop(self) -> None:
        """The session is over."""
        if self._timer is not None:
            self._timer.cancel()

    def ask_again(self) -> None:
        """What was handed on could not all be kept: begin with the whole document once more."""
        self._is_whole = False
        if not self._request:
            self._ask(None)

    def patched(self, patch: DesiredPatch, payload: bytes) -> None:
        """A change of desired properties has come."""
        self._newest = max(self._newest, patch.version)
        if not self._is_whole or patch.version <= self._version:
            return
        change = _json_object(payload)
        if patch.version == self._version + 1 and change is not None:
            self._version = patch.version
            self._apply(change, False)
        else:
            _log.info("uplink.twin_gap", endpoint=self._endpoint, have=self._version, came=patch.version)
            self.ask_again()

    def answered(self, answer: TwinAnswer, payload: bytes) -> None:
        """The hub has answered a request; an answer that comes too late is none."""
        if not self._request or answer.request_id != self._request:
            return
        self._request = ""
        if self._told is not None:
            self._granted(answer.status)
        elif answer.status == _OK and (document := _json_object(payload)) is not None:
            self._take_document(document)
        else:  # asked for again at the next look
            _log.warning("uplink.twin_refused", endpoint=self._endpoint, status=answer.status)

    def _granted(self, status: int) -> None:
        if status in (_OK, _NO_CONTENT):
            self._reported = self._told or {}
        else:
            _log.warning("uplink.report_failed", endpoint=self._endpoint, status=status)
        if not self._is_whole:
            self._ask(None)

    def _take_document(self, document: Mapping[str, Any]) -> None:
        desired, reported = (
            section if isinstance(section := document.get(name), Mapping) else {} for name in ("desired", "reported")
        )
        version = desired.get("$version")
        self._version = version if isinstance(version, int) else self._newest
        if self._version < self._newest:
            return  # a change has overtaken the document; the next look asks again
        self._is_whole = True
        # What an earlier session reported is still in the twin; what another program did there is left alone.
        ours = self._to_report()
        self._reported = {key: value for key, value in reported.items() if key in ours}
        self._apply(desired, True)
        self._report()

    def _look(self) -> None:
        """Do what is due, and come again."""
        pause_s = self._report_every_s * self._rng.uniform(0.8, 1.2)
        self._timer = self._loop.call_later(pause_s, self._look)
        if self._request:
            if self._loop.time() < self._ask_again_at_s:
                return
            # Whether a report has arrived nobody knows; the document says.
            self._is_whole = False
        if self._is_whole:
            self._report()
        else:
            self._ask(None)

    def _report(self) -> None:
        latest = dict(self._to_report())
        patch = merge_patch(self._reported, latest)
        if patch and not self._request:
            self._ask(latest, orjson.dumps(patch))

    def _ask(self, told: Mapping[str, Any] | None, payload: bytes = b"") -> None:
        self._request = f"{next(self._request_ids):x}"
        self._ask_again_at_s = self._loop.time() + _ANSWER_WITHIN_S
        self._told = told
        self._publish(twin_get(self._request) if told is None else reported_patch(self._request), payload)


def _json_object(payload: bytes) -> dict[str, Any] | None:
    try:
        document = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None
