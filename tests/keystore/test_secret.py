"""A key in the open: it does not leave by accident, and it can be erased."""

from __future__ import annotations

import base64
import binascii
import copy
import gc
import logging
import pickle
import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from edge_gateway.keystore import Secret

KEY = bytes(range(16))
PADDED_BASE64 = re.compile(rb"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def test_a_secret_does_not_leave_by_accident(caplog: pytest.LogCaptureFixture) -> None:
    """It cannot be pickled, copied, compared, hashed or written as JSON, and a log shows its length."""
    secret = Secret(KEY)
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="not for pickling or copying"):
            leave(secret)
    with pytest.raises(TypeError, match="not compared"):
        assert secret == Secret(KEY)
    uses: list[Callable[[Any], object]] = [hash, bytes, orjson.dumps]
    for use in uses:
        with pytest.raises(TypeError):
            use(secret)
    with caplog.at_level(logging.INFO):
        logging.getLogger("x").info("%s %r", secret, {"key": secret})
    assert caplog.messages == ["Secret(16 bytes) {'key': Secret(16 bytes)}"]
    with structlog.testing.capture_logs() as logs:
        structlog.get_logger().info("x", key=secret)
    assert str(logs[0]["key"]) == f"{secret}" == "Secret(16 bytes)"


def test_a_secret_can_be_erased() -> None:
    """Wiped, left as a context, or forgotten by all: what views saw is zeros, and the length stays."""
    wiped, left, forgotten = Secret(KEY), Secret(KEY), Secret(KEY)
    views = [secret.view() for secret in (wiped, left, forgotten)]
    wiped.wipe()
    with left as entered:
        assert entered.reveal() == KEY
    del forgotten
    gc.collect()
    assert [bytes(view) for view in views] == [bytes(16)] * 3
    assert len(wiped) == 16


def test_what_it_was_made_of_may_be_wiped() -> None:
    """It keeps a copy of its own, and is filled in place through its view."""
    source = bytearray(KEY)
    secret = Secret(source)
    source[:] = bytes(16)
    assert secret.reveal() == KEY
    secret.view()[:2] = b"ab"
    assert secret.reveal() == b"ab" + KEY[2:]


def test_a_random_secret_is_as_random_as_its_source() -> None:
    """Every byte comes from there."""
    drawn = iter(KEY)
    assert Secret.random(16, lambda size: bytes(next(drawn) for _ in range(size))).reveal() == KEY


@given(st.binary(max_size=100), st.sampled_from([b"", b"\n", b"\r\n", b" "]))
def test_text_forms_come_back(key: bytes, blank: bytes) -> None:
    """Base64 and hexadecimal digits give the bytes they were made of; blanks around are passed over."""
    assert Secret.from_base64(blank + base64.b64encode(key) + blank).reveal() == key
    assert Secret.from_hex(blank + key.hex().encode() + blank).reveal() == key
    assert Secret.from_hex(bytearray(key.hex(" ").upper().encode())).reveal() == key


@given(st.binary(max_size=60) | st.text("AZaz09+/=\n", max_size=40).map(str.encode))
@example(b"////////=")
@example(b"////====")
def test_any_other_text_is_refused(text: bytes) -> None:
    """Whatever is given, what comes out is what strict decoders make of it, or an error without it."""
    for decode, ours in ((strict_base64, Secret.from_base64), (strict_hex, Secret.from_hex)):
        expected = decode(text)
        if expected is not None:
            assert ours(text).reveal() == expected
        else:
            with pytest.raises(ValueError, match=r"\Anot (base64|base64: cut short|hexadecimal digits, two a byte)\Z"):
                ours(text)


def strict_base64(text: bytes) -> bytes | None:
    # By RFC 4648, section 3.2: Python's strict decoder takes padding behind what needs none.
    text = text.strip(b" \t\r\n")
    return base64.b64decode(text) if PADDED_BASE64.fullmatch(text) else None


def strict_hex(text: bytes) -> bytes | None:
    try:
        return binascii.a2b_hex(text.translate(None, b" \t\r\n"))
    except ValueError:
        return None
