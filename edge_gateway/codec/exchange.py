"""A poll ready to be sent, and what a frame that comes after it says.

Pure, as all of the codec: who asks when, and how long to wait, is `edge_gateway.polling`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import NamedTuple

from edge_gateway.codec.codec import Codec
from edge_gateway.records import Reject, Sample, Value

_USUAL_ANSWER_BYTES = 256


class Verdict(enum.Enum):
    """What a frame is to the one who asked; the values are words for counting."""

    ANSWERED = "answered"
    NOTHING_NEW = "nothing-new"
    REFUSED = "refused"
    """The device said no; asking again at once would not help."""
    DAMAGED = "damaged"
    """It was the answer, and cannot be used."""
    STRANGE = "strange"
    """Some other frame; the answer may still come."""
    ANOTHER_ADDRESS = "another-address"
    """An answer of somebody who was not asked; the right one may still come."""


class Heard(NamedTuple):
    """One frame after a request."""

    verdict: Verdict
    sample: Sample | None = None
    """Of ANSWERED."""
    reject: Reject | None = None
    """Of DAMAGED, STRANGE and ANOTHER_ADDRESS."""
    detail: str = ""
    """Of REFUSED: what the device said."""


class PreparedPoll:
    """One poll of a profile.

    Args:
        codec: the profile's.
        name: the poll's.
    """

    def __init__(self, codec: Codec, name: str) -> None:
        self.name = name
        self.settings = codec.profile.polls[name]
        self._codec = codec
        poll = self.settings
        self._nothing_new = "" if poll.nothing_new is None else poll.nothing_new.frame
        frames = dict.fromkeys([poll.answer, self._nothing_new, *poll.refused_by])
        self._frames = tuple(frame for frame in frames if frame)

    @property
    def longest_answer_bytes(self) -> int:
        """The bytes of the longest frame that may answer, before framing; of one without a limit, what is usual."""
        layouts = self._codec.profile.layouts
        return max(layouts[frame].most_bytes or _USUAL_ANSWER_BYTES for frame in self._frames)

    def request(self, address: int | str | None) -> bytes:
        """The frame that asks a device.

        Raises:
            CodecError: no device of this profile can have this address.
        """
        return self._codec.encode(self.settings.frame, address, None, self.settings.set)

    def judge(self, frame: bytes, address: int | str | None) -> Heard:
        """What a frame says that came after the request to `address`. Raises for no bytes."""
        samples, answers, rejects, *_ = self._codec.decoder_of(self._frames)([frame])
        if rejects:
            is_answer = rejects[0].reason in ("checksum", "value")
            return Heard(Verdict.DAMAGED if is_answer else Verdict.STRANGE, reject=rejects[0])
        heard = samples[0] if samples else answers[0]
        if heard.address != address:
            return Heard(Verdict.ANOTHER_ADDRESS, reject=Reject(frame, Verdict.ANOTHER_ADDRESS.value))
        if samples:
            return Heard(Verdict.ANSWERED, sample=samples[0])
        answer = answers[0]
        nothing_new = self.settings.nothing_new
        if nothing_new is not None and answer.frame == nothing_new.frame:
            expected = self._codec.as_decoded(answer.frame, nothing_new.match)
            if all(answer.fields.get(name) == value for name, value in expected.items()):
                return Heard(Verdict.NOTHING_NEW)
        return Heard(Verdict.REFUSED, detail=f"{answer.frame}: {_told(answer.fields)}")


def _told(fields: Mapping[str, Value]) -> str:
    return ", ".join(f"{name} is {value}" for name, value in fields.items())
