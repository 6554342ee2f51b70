"""What the doctor advises can be done: its commands exist, and what they mend is mended."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections import defaultdict

import pytest
from typer.testing import CliRunner

from edge_gateway.cli.app import collect
from edge_gateway.doctor import Fault, all_faults
from edge_gateway.keystore.generations import generation_name
from tests.doctor.healthy_box import KEY, HealthyBox, follow, only
from tests.doctor.test_hub_faults import registry_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
NOBODY = 65534


def commands_in(fault: Fault) -> list[list[str]]:
    """The calls of our program that a fix names, with something in each place."""
    places = defaultdict(lambda: "x", edge_gateway="edge-gateway", bring="import")
    texts = re.findall("`([^`]+)`", fault.fix.format_map(places))
    return [shlex.split(text)[1:] for text in texts if text.startswith("edge-gateway ")]


@pytest.mark.parametrize("fault", [each for each in all_faults() if commands_in(each)], ids=lambda fault: fault.id)
def test_our_commands_exist(fault: Fault) -> None:
    """Every call of our own program in a fix names a command there is, with options it takes."""
    for words in commands_in(fault):
        # Asked for help a command does nothing, and says no to what it does not know.
        result = CliRunner().invoke(collect(words[0]), [*words, "--help"])
        assert result.exit_code == 0, result.output


@pytest.mark.skipif(shutil.which("tpm2_getcap") is None, reason="tpm2-tools are not installed")
def test_the_tpms_commands_exist() -> None:
    """Every command for the TPM in a fix is one of tpm2-tools."""
    named = {name for fault in all_faults() for name in re.findall(r"\b(tpm2_[a-z]+)", fault.fix)}
    assert named
    assert [name for name in sorted(named) if shutil.which(name) is None] == []


async def test_a_key_that_others_may_read(lone: HealthyBox) -> None:
    """The mode that is advised is accepted."""
    (lone.data / "keys" / "gateway.key").chmod(0o644)
    await follow(only(await lone.find_on("keys"), "keys.open-to-others"))
    assert await lone.find_on("keys") == []


async def test_a_key_that_was_not_imported(lone: HealthyBox) -> None:
    """The key that is imported as advised is the one that was missing."""
    lone.settings["uplink"]["key"] = "plant"
    await follow(only(await lone.find_on("keys"), "keys.not-imported"), given=KEY.encode())
    assert await lone.find_on("keys") == []


async def test_a_wrong_key(healthy: HealthyBox) -> None:
    """The key that is imported as advised is let in."""
    healthy.put_key(bytes(32))
    await follow(only(await healthy.find(registry=registry_of(healthy)), "hub.key-wrong"), given=KEY.encode())
    assert await healthy.find() == []


async def test_a_wrong_key_that_was_rotated(healthy: HealthyBox) -> None:
    """A key of which there are several is rotated once more, as an import would be refused."""
    healthy.put_key(bytes(32), generation_name("gateway", 2))
    healthy.put_key(bytes(32))
    finding = only(await healthy.find(registry=registry_of(healthy)), "hub.key-wrong", "keys rotate gateway")
    await follow(finding, given=KEY.encode())
    assert await healthy.find() == []


@needs_root
async def test_files_that_root_has_left(lone: HealthyBox) -> None:
    """The owner that is advised may use all of it."""
    os.chown(lone.data, NOBODY, NOBODY)
    await follow(only(await lone.find_on("data directory"), "data.foreign-files"))
    assert await lone.find_on("data directory") == []
    assert (lone.data / "keys").stat().st_uid == NOBODY


async def test_a_gateway_that_is_not_provisioned(lone: HealthyBox) -> None:
    """What is advised for a gateway without an identity makes it one."""
    del lone.settings["uplink"]["host_name"], lone.settings["uplink"]["device_id"]
    text = f"HostName=plant.azure-devices.net;DeviceId=gw-17;SharedAccessKey={KEY}"
    await follow(only(await lone.find_on("keys"), "hub.not-provisioned"), given=text.encode())
    assert await lone.find_on("keys") == []
