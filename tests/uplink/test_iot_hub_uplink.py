"""IoT Hub by the device SDK: tokens and their renewal, twin, cloud-to-device messages, and its own refusals."""

from __future__ import annotations

import asyncio
import base64
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, unquote

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import hmac as other_hmac
from hypothesis import given
from hypothesis import strategies as st

from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.clock import NS_PER_S, SystemClock
from edge_gateway.config.buffer import BufferSettings
from edge_gateway.config.uplink import DeliverySettings, IotHubUplink
from edge_gateway.errors import ConfigError, UplinkRefused
from edge_gateway.offload import run_inline
from edge_gateway.records import Reading
from edge_gateway.testbench import DeliveryAccount, LocalAuthority
from edge_gateway.testbench.bench_store import open_bench_store
from edge_gateway.testbench.cloud import tokens
from edge_gateway.uplink import iot_hub
from edge_gateway.uplink.delivery import Delivery
from edge_gateway.uplink.iot_hub import IotHub
from edge_gateway.uplink.sas import sas_token
from tests.log_events import log_events

from .far_sides import (
    GATEWAY,
    QUICK,
    TIME_LIMIT_S,
    HubFarSide,
    RecordingDownlink,
    failure_to_connect,
    hub_far_side,
    soon,
)
from .memory_keys import MemoryKeys

COMMAND = {"device": "boiler", "command": "ping"}


class OneKey(MemoryKeys):
    """A key store with one key, under any name."""

    def __init__(self, key: bytes) -> None:
        super().__init__()
        self._key = key

    def sign(self, name: str, data: bytes) -> bytes:
        # Not by hmac, which a store would use.
        signer = other_hmac.HMAC(self._key, hashes.SHA256())
        signer.update(data)
        return signer.finalize()


class SetClock(SystemClock):
    """The real time and a difference."""

    def __init__(self, ahead_s: int) -> None:
        super().__init__()
        self._ahead_s = ahead_s

    def now_ns(self) -> int:
        return super().now_ns() + self._ahead_s * NS_PER_S


@asynccontextmanager
async def listening(hub: HubFarSide, gateway: RecordingDownlink) -> AsyncIterator[None]:
    async with asyncio.timeout(TIME_LIMIT_S), hub.uplink().connect(gateway.downlink()) as session:
        lost = asyncio.create_task(session.lost())
        try:
            yield
        finally:
            lost.cancel()
            await asyncio.gather(lost, return_exceptions=True)


# --- tokens --------------------------------------------------------------------------------------------------------


@given(
    st.binary(min_size=16, max_size=64),
    st.from_regex(r"[a-z0-9.-]{1,40}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9\-.+%_#*?!(),=@$':]{1,60}", fullmatch=True),
    st.integers(0, 2**33),
)
def test_a_token_is_what_the_documentation_says(key: bytes, host: str, device: str, expiry_s: int) -> None:
    """For any device a token names the percent-encoded resource and its end, signed with HMAC-SHA256 over both."""
    token = sas_token(OneKey(key), "any", f"{host}/devices/{device}", expiry_s)
    scheme, _, text = token.partition(" ")
    assert scheme == "SharedAccessSignature"
    fields = parse_qs(text, strict_parsing=True)
    assert fields["sr"] == [f"{host}/devices/{device}"]
    assert fields["se"] == [str(expiry_s)]
    raw = dict(part.split("=", 1) for part in text.split("&"))
    signer = other_hmac.HMAC(key, hashes.SHA256())
    signer.update(f"{raw['sr']}\n{expiry_s}".encode())
    signer.verify(base64.b64decode(unquote(raw["sig"]), validate=True))


@given(st.binary(min_size=16, max_size=64), st.from_regex(r"[A-Za-z0-9._-]{1,40}", fullmatch=True))
def test_the_hub_accepts_a_token_until_it_ends(key: bytes, device: str) -> None:
    """The bench's hub, which reads tokens by itself, takes it."""
    text = base64.b64encode(key).decode()
    token = sas_token(OneKey(key), "any", f"plant.example.net/devices/{device}", 1000)
    resource = f"plant.example.net/devices/{device}"
    assert tokens.check(token, keys=[text], resource=resource, now_s=999) == 1000


async def test_a_key_that_is_not_there_is_a_refusal(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """A missing key does not end the gateway: it is told, with the command that imports it, and tried again."""
    settings = IotHubUplink(host_name=hub.hub.host_name, device_id=GATEWAY, key="none")
    uplink = IotHub(settings, QUICK, key_store=hub.keys, clock=SetClock(0))
    error = await soon(failure_to_connect(uplink, gateway))
    assert isinstance(error, UplinkRefused)
    assert error.what == "there is no such key"
    assert "edge-gateway keys import none" in error.remedy


async def test_a_clock_that_is_behind_is_refused(
    authority: LocalAuthority, gateway: RecordingDownlink, tmp_path: Path
) -> None:
    """A token that has ended by the hub's clock is refused, and the gateway points to its own."""
    async with hub_far_side(authority, tmp_path, clock=SetClock(86_400)) as hub:
        error = await soon(failure_to_connect(hub.uplink(), gateway))
    assert isinstance(error, UplinkRefused)
    assert "this box's clock" in error.remedy


async def test_a_token_the_sdk_does_not_take_is_refused(hub: HubFarSide, gateway: RecordingDownlink) -> None:
    """A clock that steps back between the making of a token and its use does not end the gateway."""
    error = await soon(failure_to_connect(hub.uplink(token_lifetime_s=-3600), gateway))
    assert isinstance(error, UplinkRefused)
    assert error.what == "the device SDK does not take the token or certificate"
    assert "SharedAccessSignature" not in f"{error} {error.__cause__}"


async def test_tokens_are_renewed_before_they_end_and_nothing_is_lost(
    hub: HubFarSide, gateway: RecordingDownlink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over several renewals all records arrive once and in order, and no connection is taken over or mourned."""
    monkeypatch.setattr(iot_hub, "_RENEW_BEFORE_S", 3599.6)  # of 3600: a session lasts 0.4 s
    store = open_bench_store(":memory:", BufferSettings(max_message_age_s=0, max_records_per_message=5))
    appended = 0
    with log_events() as events:
        async with (
            asyncio.timeout(TIME_LIMIT_S),
            DurableBuffer(store, settle_within_s=0.05, commit_within_s=0.01, offload=run_inline) as buffer,
            asyncio.TaskGroup() as group,
        ):
            delivery = Delivery(hub.uplink(), buffer, gateway.downlink(), QUICK, random.Random(2))
            delivering = group.create_task(delivery.run())
            while hub.hub.statistics.connections < 4:
                await buffer.append(Batch([Reading("a", "climate", 0, {})]))
                appended += 1
                await asyncio.sleep(0.005)
            await hub.hub.until(lambda: _records(hub) >= appended)
            delivering.cancel()
    account = DeliveryAccount(first_seq=1)
    for message in hub.hub.messages:
        account.add(message)
    assert account.faults() == []
    assert sum(account.records.values()) == appended
    assert account.repeated_messages == 0
    assert (hub.hub.statistics.taken_over, hub.hub.door.statistics.denied) == (0, 0)
    names = [each["event"] for each in events]
    assert names.count("uplink.closed") >= 3
    assert "uplink.disconnected" not in names


def _records(hub: HubFarSide) -> int:
    return sum(each.body.count(b'"seq"') for each in hub.hub.messages)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe", None])
def test_a_ca_file_that_is_none_is_found_at_start(tmp_path: Path, content: bytes | None) -> None:
    """An empty, broken or missing CA file is the configuration's fault, told before anything is sent."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    settings = IotHubUplink(host_name="h", device_id="d", ca_file=path)
    with pytest.raises(ConfigError, match=r"ca.pem: cannot be read as PEM. Give the path of a CA certificate"):
        IotHub(settings, DeliverySettings(), key_store=OneKey(b""), clock=SetClock(0))
