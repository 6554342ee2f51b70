"""Where `edge-gateway decode` gets its frames and keys from: arguments, standard input, captures, files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_gateway.assembly import key_store, payload_key_store
from edge_gateway.codec import Profile
from edge_gateway.codec.payload_keys import PayloadKeys, same_payload_keys
from edge_gateway.codec.sealed import KEY_BYTES
from edge_gateway.config.load import load_config
from edge_gateway.errors import CodecError, KeyStoreError
from edge_gateway.framing import Framer, make_framer
from edge_gateway.records import Chunk
from edge_gateway.transport.capture import read_capture

_MOST_KEY_CHARACTERS = 1024
_SENDER = re.compile(r"[0-9a-fA-F]{2}(?::?[0-9a-fA-F]{2}){5}")


class Given(NamedTuple):
    """A frame, and where it is from."""

    where: str
    """For errors."""
    data: bytes
    link: str | None = None
    """The link of a capture that it was heard on."""
    at_s: float | None = None
    """When its last bytes were read, in seconds since the capture began."""


def frames_in_text(lines: Iterable[str]) -> Iterator[Given]:
    """Frames in hexadecimal digits, one a line; empty lines are passed over.

    Raises:
        CodecError: a line is something else.
    """
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        try:
            yield Given(f"frame {number}", bytes.fromhex(text))
        except ValueError as error:
            raise CodecError(
                f"is not hexadecimal: {text[:40]!r}",
                where=f"frame {number}",
                remedy='Give pairs of hexadecimal digits, for instance "01 07 00"',
            ) from error


def frames_in_capture(profile: Profile, path: Path, links: Sequence[str]) -> Iterator[Given]:
    """The frames of a capture, found as the gateway finds them; what comes without framing is a frame as it was read.

    Args:
        profile: says how frames are found.
        path: the capture.
        links: only what these links heard; all unless given.

    Raises:
        TransportError: the file cannot be read, or is no capture.
    """
    framers: dict[str, Framer] = {}
    last_at_s: dict[str, float] = {}
    for chunk in read_capture(path):
        if links and chunk.link not in links:
            continue
        if profile.framing is None:
            yield Given(f"{path}, {chunk.link} at {chunk.at_s} s", chunk.data, chunk.link, chunk.at_s)
            continue
        if chunk.link not in framers:
            framers[chunk.link] = make_framer(profile.framing)
        framer = framers[chunk.link]
        yield from _heard(path, chunk.link, chunk.at_s, framer.feed([Chunk(chunk.at_s, chunk.data)]))
        last_at_s[chunk.link] = chunk.at_s
    for link, framer in framers.items():
        # Where silence ends a frame, the end of the capture is one.
        ended = framer.flush(last_at_s[link] + (framer.silence_s or 0.0))
        yield from _heard(path, link, last_at_s[link], ended)


def _heard(path: Path, link: str, at_s: float, frames: Iterable[bytes]) -> Iterator[Given]:
    for frame in frames:
        yield Given(f"{path}, {link} at {at_s} s", frame, link, at_s)


def sender_bytes(text: str) -> bytes:
    """A device's address as a radio's frames begin with it: 6 bytes, in printed order.

    Raises:
        CodecError: it is none.
    """
    if not _SENDER.fullmatch(text):
        raise CodecError(f"{text!r} is no address", where="--sender", remedy="For instance: a1:b2:c3:d4:e5:f6")
    return bytes.fromhex(text.replace(":", ""))


def payload_keys(profile: Profile, given: Sequence[str], config: Path | None) -> PayloadKeys:
    """The keys of what is encrypted, as `NAME=FILE`; with a configuration, as NAME=NAME-IN-ITS-KEY-STORE.

    No key itself is an argument, because arguments are seen by every user of the machine.

    Args:
        profile: names the keys.
        given: of the command line.
        config: of the gateway whose key store has them.

    Raises:
        CodecError: the profile has no such key, or the text is no pair.
        KeyStoreError: there is no key in the file, or none of that name in the store.
    """
    keys: dict[str, bytes] = {}
    for pair in given:
        name, is_pair, source = pair.partition("=")
        if not is_pair or name not in profile.key_names:
            raise CodecError(
                f"{profile.name} has no key {name!r}" if is_pair else "a key is given as NAME=FILE",
                where="--key",
                remedy=f"Its keys: {', '.join(sorted(profile.key_names)) or 'none'}",
            )
        keys[name] = _key_in(Path(source)) if config is None else _stored_key(config, source)
    return same_payload_keys(keys)


def _stored_key(config: Path, name: str) -> bytes:
    settings = load_config(config)
    return payload_key_store(settings, key_store(settings)).open_key(name).reveal()


def _key_in(path: Path) -> bytes:
    remedy = "Name a file with the key in hexadecimal digits, and nothing else"
    try:
        with path.open("rb") as file:
            digits = file.read(_MOST_KEY_CHARACTERS)
    except OSError as error:
        reason = error.strerror or "unknown error"
        raise KeyStoreError(f"cannot be read: {reason}", where=str(path), remedy=remedy) from error
    try:
        key = bytes.fromhex(digits.decode("ascii"))
    except ValueError:  # its text quotes what was read
        key = b""
    if len(key) not in KEY_BYTES:
        raise KeyStoreError("holds no key of 16, 24 or 32 bytes", where=str(path), remedy=remedy)
    return key
