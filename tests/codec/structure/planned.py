"""One frame, declared in a few lines of YAML, and what becomes of bytes."""

from __future__ import annotations

from typing import Any

from edge_gateway.codec import Codec, compile_profile
from edge_gateway.codec.payload_keys import PayloadKeys, no_payload_keys
from edge_gateway.codec.profile import Profile
from edge_gateway.config.strict_yaml import parse_yaml
from edge_gateway.errors import ProfileError


def frame_of(fields: str, *, keys: PayloadKeys = no_payload_keys, frame: str = "{}", profile: str = "{}") -> Codec:
    """A codec for one sample, big endian unless said.

    Args:
        fields: its items, a YAML list.
        keys: of what is encrypted.
        frame: further keys of the frame, YAML.
        profile: further keys of the profile, YAML.
    """
    declared: dict[str, Any] = {"role": "sample", "endian": "big", **_parsed(frame)}
    declared["fields"] = _parsed(fields)
    about = {"name": "one", "version": 1, "title": "One frame", "source": {"document": "none"}}
    return compile_profile(Profile.model_validate({**about, "frames": {"only": declared}, **_parsed(profile)}), keys)


def _parsed(text: str) -> Any:
    return parse_yaml(text, where="test", error_type=ProfileError)


def read(codec: Codec, frame: str) -> Any:
    """The values of a frame in hexadecimal digits, or the reason why it is rejected."""
    decoded = codec.decode([bytes.fromhex(frame)])
    if decoded.rejects:
        return decoded.rejects[0].reason
    return decoded.samples[0].values


def written(codec: Codec, values: dict[str, Any]) -> str:
    """The frame of these values in hexadecimal digits."""
    return codec.encode("only", None, None, values).hex(" ")
