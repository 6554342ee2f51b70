"""A gateway's own buffer in a box that was tampered with: refused, untouched, and whole again when the box is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge_gateway.assembly import key_store, open_buffer
from edge_gateway.assembly.keys import data_keys
from edge_gateway.buffer import Batch
from edge_gateway.buffer.durable import DurableBuffer
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import parse_config
from edge_gateway.config.model import GatewayConfig
from edge_gateway.errors import DataKeyMissing
from edge_gateway.keystore.tpm.boot_approvals import approve, written
from edge_gateway.records import Reading
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.keystore.tpm.test_tpm_boot_policy import after, booted, pem

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())

TIME_LIMIT_S = 30.0


@pytest.fixture
def tpm() -> Iterator[BlockingTpm]:
    with BlockingTpm() as tpm:
        yield tpm


@pytest.fixture
def release() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def config(tpm: BlockingTpm, release: ec.EllipticCurvePrivateKey, tmp_path: Path) -> GatewayConfig:
    boot = {
        "release_key_file": str(pem(release.public_key(), tmp_path)),
        "approvals_file": str(tmp_path / "approvals.json"),
        "pcrs": [0, 7],
    }
    document = {
        "gateway": {"name": "plant", "data_directory": "data"},
        "links": [{"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate"}],
        "uplink": {"kind": "mqtt", "host": "unused"},
        "buffer": {"max_message_age_s": 0},
        "key_store": {"kind": "tpm", "tcti": tpm.tcti, "boot": boot},
    }
    return parse_config(document, where="test", directory=tmp_path)


@asynccontextmanager
async def buffer_of(config: GatewayConfig) -> AsyncIterator[DurableBuffer]:
    """The buffer as `edge-gateway run` opens it, with the key store as configured."""
    with closing(key_store(config)) as keys:
        async with (
            asyncio.timeout(TIME_LIMIT_S),
            open_buffer(config, clock=SystemClock(), rng=random.Random(1), keys=keys) as buffer,
        ):
            yield buffer


def reading(number: int) -> Reading:
    return Reading("boiler", "reference-climate", 1_700_000_000_000_000_000, {"n": number})


async def test_a_tampered_boot_reads_nothing_and_spoils_nothing(
    config: GatewayConfig, tpm: BlockingTpm, release: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    """It can neither take nor append, its state is `no-key`, and no other key is made in place of the one it has not.

    What was stored is there again in a box that was started as approved, be that the old release or an update.
    """
    approvals = tmp_path / "approvals.json"
    approvals.write_bytes(written([approve(after(b"v1"), release)]))
    booted(tpm, b"v1")
    async with buffer_of(config) as buffer:
        for number in range(3):
            await buffer.append(Batch([reading(number)]))
    kept = data_keys(config, key_store(config)).ids()
    assert kept == [1]

    booted(tpm, b"tampered")
    async with buffer_of(config) as buffer:
        with pytest.raises(DataKeyMissing, match="not started as any approved release starts") as refused:
            await buffer.append(Batch([reading(9)]))
        assert refused.value.state == "no-key"
        taking = asyncio.create_task(buffer.take())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(taking), 0.3)
        assert buffer.status().state == "no-key"
        assert "approved" in buffer.status().fault
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
    assert data_keys(config, key_store(config)).ids() == kept

    approvals.write_bytes(written([approve(after(kernel), release) for kernel in (b"v1", b"v2")]))
    booted(tpm, b"v2")
    async with buffer_of(config) as buffer:
        await buffer.append(Batch([reading(3)]))
        (account,) = (await buffer.accounts()).values()
        assert (account.received, account.queued) == (4, 4)
        seen: list[int] = []
        while len(seen) < 4:
            message = await buffer.take()
            seen += [each["values"]["n"] for each in orjson.loads(message.body)]
            buffer.settle(message)
    assert seen == [0, 1, 2, 3]
