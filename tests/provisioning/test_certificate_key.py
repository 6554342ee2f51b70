"""A gateway registers by a certificate whose key stays in a real TPM 2.0 (swtpm), and registers again by itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typer.testing import CliRunner, Result

from edge_gateway.assembly import key_store
from edge_gateway.assembly.certificates import certificate_key_names
from edge_gateway.assembly.keys import tpm_of
from edge_gateway.assembly.rotation import make_reregistration
from edge_gateway.cli import provision
from edge_gateway.clock import SystemClock
from edge_gateway.config.load import load_config
from edge_gateway.emergency import RevocableKeyStore
from edge_gateway.errors import ConfigError, KeyMissing, KeyStoreError
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities
from edge_gateway.testbench import LocalAuthority
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.provisioning.dps import DpsStatistics
from edge_gateway.testbench.cloud.provisioning.enrolments import IndividualEnrolment
from edge_gateway.uplink import tpm_tls
from tests.keystore.tpm.backend import BlockingTpm, why_not
from tests.provisioning.conftest import Site
from tests.uplink.far_sides import certified, thumbprint

pytestmark = pytest.mark.skipif(bool(why_not() or tpm_tls.why_not()), reason=why_not() or tpm_tls.why_not())

NAME = "plant-3"


class Box:
    """A gateway's box with a TPM, which has the key `tls` and a certificate for it."""

    def __init__(self, site: Site, tpm: BlockingTpm, authority: LocalAuthority, directory: Path) -> None:
        self.site = site
        self.config_file = directory / "gateway.yaml"
        document: dict[str, Any] = {
            "gateway": {"name": NAME, "data_directory": "data"},
            "links": [{"name": "a", "port": {"path": "/dev/null"}, "profile": "reference-climate"}],
            "uplink": {"kind": "iot-hub", "ca_file": str(site.ca_file)},
            "key_store": {"kind": "tpm", "tcti": tpm.tcti},
        }
        self.config_file.write_text(yaml.safe_dump(document))
        self.config = load_config(self.config_file)
        with closing(key_store(self.config)) as keys:
            store = tpm_of(keys)
            self.certificate_file = certified(authority, store.create_certificate_key("tls"), NAME, directory)
            store.create_certificate_key("other")
            store.create("token")

    @property
    def identities(self) -> Identities:
        return Identities(self.config.gateway.data_directory / IDENTITIES_FILE)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(provision.app, [*words, "--config", str(self.config_file)])

    async def register(self, *words: str) -> Result:
        site = self.site
        at = ("--id-scope", site.dps.id_scope, "--host", site.door.address, "--port", str(site.port))
        options = ("--certificate-file", str(self.certificate_file), "--ca-file", str(site.ca_file), *at)
        # In a thread: the command runs an event loop of its own, as the bench does.
        return await asyncio.to_thread(self.run, "dps", "--method", "x509", *options, *words)


@pytest.fixture
async def box(site: Site, authority: LocalAuthority, tmp_path: Path) -> AsyncIterator[Box]:
    with BlockingTpm() as tpm:
        yield Box(site, tpm, authority, tmp_path)


def enrol(box: Box) -> None:
    box.site.dps.add_enrolment(IndividualEnrolment(NAME, Thumbprints(thumbprint(box.certificate_file))))


async def test_the_service_believes_the_key_in_the_tpm(box: Box) -> None:
    """The identity names certificate and key, `list` finds the key there, and the hub knows the certificate."""
    enrol(box)
    result = await box.register("--certificate-key", "tls")
    assert (result.exit_code, result.output) == (0, f"this gateway is {NAME} at {box.site.hub.host_name}\n")
    own = box.identities.own
    assert own is not None
    assert (own.method, own.key, own.certificate_key, own.private_key_file) == ("dps-x509", "", "tls", "")
    assert own.certificate_file == str(box.certificate_file)
    (listed,) = orjson.loads(box.run("list", "--json").stdout)
    assert (listed["certificate_key"], listed["has_key"]) == ("tls", True)
    known = box.site.hub.identity(NAME).authentication
    assert isinstance(known, Thumbprints)
    assert thumbprint(box.certificate_file) in (known.primary, known.secondary)


async def test_the_gateway_registers_again_by_itself(box: Box) -> None:
    """By the same key, without anybody; once the keys are being wiped it does not."""
    enrol(box)
    await box.register("--certificate-key", "tls")
    before = box.identities.own
    with closing(key_store(box.config)) as raw:
        keys = RevocableKeyStore(raw)
        again = make_reregistration(box.config, raw, keys, SystemClock(), random.Random(1))
        assert await again.register() == before
        assert box.site.dps.statistics.assigned == 2
        keys.revoke()
        with pytest.raises(KeyStoreError, match="the keys are being wiped"):
            await again.register()
    assert box.identities.own == before


@pytest.mark.parametrize(
    ("words", "kind", "told"),
    [
        ((), ConfigError, "the key to the certificate is to be given, and once"),
        (("--certificate-key", "tls", "--private-key-file", "k.pem"), ConfigError, "is to be given, and once"),
        (("--certificate-key", "other"), ConfigError, "the certificate is not for the key 'other'"),
        (("--certificate-key", "gone"), KeyMissing, "edge-gateway keys csr gone"),
        (("--certificate-key", "token"), KeyStoreError, "key 'token': is not the key to a certificate"),
    ],
)
async def test_a_key_that_does_not_fit_is_told_before_anybody_is_asked(
    box: Box, words: tuple[str, ...], kind: type[Exception], told: str
) -> None:
    """The error says which key would do; the service has heard nothing, and nothing is kept."""
    enrol(box)
    result = await box.register(*words)
    assert isinstance(result.exception, kind)
    assert told in str(result.exception)
    assert box.site.dps.statistics == DpsStatistics()
    assert box.identities.own is None


async def test_a_removed_identity_leaves_its_certificate_a_key(box: Box) -> None:
    """A certificate costs somebody work, so its key goes only when that is asked for; the command is told."""
    enrol(box)
    await box.register("--certificate-key", "tls")
    result = box.run("remove", "--gateway")
    assert result.output.splitlines() == [
        "the identity of the gateway is removed",
        "the key tls to its certificate is still in the TPM: edge-gateway keys remove tls",
    ]
    with closing(key_store(box.config)) as keys:
        assert (keys.names(), certificate_key_names(keys)) == (["token"], ["other", "tls"])


async def test_a_key_that_has_gone_is_told(box: Box) -> None:
    """`list` says so in words, as of every other key."""
    enrol(box)
    await box.register("--certificate-key", "tls")
    with closing(key_store(box.config)) as keys:
        keys.remove("tls")
    assert box.run("list").output.rstrip().endswith("by dps-x509  key tls is missing")
