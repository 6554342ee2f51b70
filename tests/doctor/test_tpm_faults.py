"""What is wrong with a TPM. It is swtpm, brought into each state by commands as a person or a program would."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import shutil
import signal
import stat
import struct
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from edge_gateway.doctor import CHECKS, Enrolment, examine
from edge_gateway.doctor.user import User
from edge_gateway.keystore import Secret
from edge_gateway.keystore.tpm import TpmKeyStore
from edge_gateway.keystore.tpm.boot_approvals import approve, written
from edge_gateway.keystore.tpm.key_directory import KeyDirectory
from edge_gateway.keystore.tpm.public_areas import SRK_HANDLE, name_of, srk_template
from edge_gateway.testbench import IndividualEnrolment, VirtualTpm
from edge_gateway.testbench.certificates import DeviceCertificate
from edge_gateway.testbench.cloud.identity import Thumbprints
from edge_gateway.testbench.cloud.provisioning.tpm_attestation import EndorsementKey
from edge_gateway.testbench.virtual_tpm import find_swtpm
from tests.doctor.healthy_box import DEVICE, KEY, HealthyBox, follow, footprint, only

pytss: Any = pytest.importorskip("tpm2_pytss", reason="the extra `tpm` is not installed")
pytestmark = pytest.mark.skipif(find_swtpm() is None, reason="swtpm is not installed: apt-get install swtpm")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device files")
TSS = 110


@pytest.fixture
async def tpm() -> AsyncIterator[VirtualTpm]:
    async with VirtualTpm() as virtual:
        yield virtual


def uses(box: HealthyBox, tcti: str) -> None:
    box.settings["key_store"] = {"kind": "tpm", "tcti": tcti}


@contextmanager
def esys(tpm: VirtualTpm) -> Iterator[Any]:
    """The library's connection, for what another program does with the TPM."""
    way = pytss.TCTILdr(*tpm.tcti.partition(":")[::2])
    connection = pytss.ESAPI(way)
    try:
        yield connection
    finally:
        connection.close()
        way.close()


def make_root(tpm: VirtualTpm, template: bytes = srk_template("ecc")) -> bytes:
    """Lay a storage root key into its place; its Name is returned."""
    with esys(tpm) as tss:
        public, _ = pytss.TPM2B_PUBLIC.unmarshal(template)
        handle, made, *_ = tss.create_primary(
            in_sensitive=pytss.TPM2B_SENSITIVE_CREATE(), in_public=public, primary_handle=pytss.ESYS_TR.OWNER
        )
        name = name_of(bytes(made.marshal()))
        tss.evict_control(auth=pytss.ESYS_TR.OWNER, object_handle=handle, persistent_handle=SRK_HANDLE)
        tss.flush_context(handle)
    return name


def set_owner_password(tpm: VirtualTpm, password: str) -> None:
    with esys(tpm) as tss:
        tss.hierarchy_change_auth(auth_handle=pytss.ESYS_TR.OWNER, new_auth=password)


async def test_a_tpm_that_is_well(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A new TPM, and one with the key that was pinned, have no findings, and nothing is left in them."""
    uses(lone, tpm.tcti)
    assert await lone.find_on("TPM") == []
    KeyDirectory(lone.data / "keys").pin_root(await asyncio.to_thread(make_root, tpm))
    assert await lone.find_on("TPM") == []
    with esys(tpm) as tss:
        _, held = tss.get_capability(capability=pytss.TPM2_CAP.HANDLES, prop=0x80000000, property_count=10)
        assert [int(each) for each in held.data.handles] == []


async def test_no_tpm_is_looked_for_without_need(lone: HealthyBox) -> None:
    """A box that keeps its keys in files needs no TPM."""
    assert await lone.find_on("TPM") == []


async def test_no_device(lone: HealthyBox) -> None:
    """A device that is not there is told with those that are."""
    (lone.directory / "tpm0").touch()
    uses(lone, f"device:{lone.directory}/tpmrm0")
    finding = only(await lone.find_on("TPM", devices=lone.directory), "tpm.no-device", "tpmrm0", "firmware")
    assert f"{lone.directory}/tpm0" in finding.fix


async def test_a_tcti_without_a_path(lone: HealthyBox) -> None:
    """A way to the TPM that the stack's tools would guess at is refused, with one that would do."""
    uses(lone, "device")
    only(await lone.find_on("TPM"), "tpm.tcti-wrong", "device:/dev/tpmrm0")


async def test_a_simulator_that_does_not_run(lone: HealthyBox) -> None:
    """A way that leads nowhere is told."""
    uses(lone, f"swtpm:path={lone.directory}/nobody")
    only(await lone.find_on("TPM"), "tpm.tcti-module-missing", "libtss2-tcti-swtpm0", "nobody")


@pytest.mark.parametrize(
    ("enrolled", "mode", "fault", "fix"),
    [
        (frozenset[int](), 0o660, "tpm.not-in-group", "usermod -aG"),
        (frozenset({TSS}), 0o660, "tpm.group-not-in-force", "Log in again"),
        (frozenset({TSS}), 0o600, "tpm.not-allowed", "tpm-udev"),
    ],
)
@needs_root
async def test_no_permission(lone: HealthyBox, enrolled: frozenset[int], mode: int, fault: str, fix: str) -> None:
    """What keeps a user from the TPM is the group, its not being in force, or the mode."""
    path = lone.directory / "tpmrm0"
    os.mknod(path, stat.S_IFCHR, os.makedev(10, 224))
    os.chown(path, 0, TSS)
    path.chmod(mode)
    for each in (lone.data, lone.data / "keys", *(lone.data / "keys").iterdir()):
        os.chown(each, 65_000, 65_000)
    uses(lone, f"device:{path}")
    somebody = User("somebody", 65_000, frozenset({65_000}), enrolled)
    only(await lone.find_on("TPM", user=somebody), fault, fix, "somebody")


async def test_a_library_that_is_not_installed(lone: HealthyBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the way to install it is told."""
    monkeypatch.setitem(__import__("sys").modules, "tpm2_pytss", None)
    uses(lone, "swtpm:path=/nowhere")
    only(await lone.find_on("TPM"), "tpm.library-missing", "edge-gateway[tpm]", "libtss2-dev")


@asynccontextmanager
async def answering(tpm: VirtualTpm, code: int) -> AsyncIterator[str]:
    """A TPM that answers every command with a code, and its TCTI; its control channel is the real one's."""
    directory = Path(tempfile.mkdtemp(prefix="tpm-"))
    far = tpm.tcti.removeprefix("swtpm:path=")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(struct.pack(">HII", 0x8001, 10, code))
        writer.close()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(f"{far}.ctrl")
        while data := await reader.read(4096):
            far_writer.write(data)
            writer.write(await far_reader.read(4096))
        far_writer.close()
        writer.close()

    try:
        async with (
            await asyncio.start_unix_server(answer, directory / "s"),
            await asyncio.start_unix_server(pass_on, directory / "s.ctrl"),
        ):
            yield f"swtpm:path={directory}/s"
    finally:
        shutil.rmtree(directory)


async def control(tpm: VirtualTpm, command: bytes) -> None:
    """Give swtpm itself a command, as a firmware or a fault does to a chip (swtpm_ioctls.h)."""
    reader, writer = await asyncio.open_unix_connection(f"{tpm.tcti.removeprefix('swtpm:path=')}.ctrl")
    writer.write(command)
    assert await reader.readexactly(4) == bytes(4)
    writer.close()
    await writer.wait_closed()


STOP = struct.pack(">I", 14)
"""CMD_STOP: from then on every command is answered with TPM_RC_FAILURE."""
INITIALIZE = struct.pack(">II", 2, 0)
"""CMD_INIT: as after power on, and nobody has given TPM2_Startup yet."""


@pytest.mark.parametrize(
    ("command", "fault", "fix"),
    [(STOP, "tpm.failure-mode", "Power the box off"), (INITIALIZE, "tpm.not-started", "TPM2_Startup")],
)
async def test_a_tpm_that_fails(lone: HealthyBox, tpm: VirtualTpm, command: bytes, fault: str, fix: str) -> None:
    """A TPM in failure mode and one that was not started are told apart; each works again by what its fix says."""
    await control(tpm, command)
    uses(lone, tpm.tcti)
    finding = only(await lone.find_on("TPM"), fault, fix)
    if command == INITIALIZE:
        await follow(finding)
    else:
        await tpm.kill()
        await tpm.restart()
    assert await lone.find_on("TPM") == []


def process_of(tpm: VirtualTpm) -> int:
    """The swtpm behind it."""
    [pid] = [
        int(process.name)
        for process in Path("/proc").iterdir()
        if process.name.isdecimal() and _is_of((process / "cmdline"), tpm)
    ]
    return pid


def _is_of(command_line: Path, tpm: VirtualTpm) -> bool:
    with contextlib.suppress(OSError):
        words = command_line.read_bytes().split(b"\0")
        path = tpm.tcti.removeprefix("swtpm:path=").encode()
        return words[0].endswith(b"swtpm") and b"type=unixio,path=" + path in words
    return False


async def test_a_tpm_that_hangs(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A TPM that says nothing at all keeps nobody waiting, hides what follows from it, and nothing else."""
    uses(lone, tpm.tcti)
    lone.port.unlink()
    site = lone.site()
    swtpm = process_of(tpm)
    os.kill(swtpm, signal.SIGSTOP)
    try:
        checks = [replace(check, within_s=min(check.within_s, 1.0)) for check in CHECKS if check.group != "hub"]
        wanted = {check.id for check in checks} - {"keys.identity", "keys.leaves", "keys.data"}  # they need the hub's
        outcomes = await examine(site, [check for check in checks if check.id in wanted])
    finally:
        os.kill(swtpm, signal.SIGCONT)
    findings = {finding.id: finding for outcome in outcomes for finding in outcome.findings}
    assert set(findings) == {"doctor.no-end", "serial.none-present"}
    assert "TPM" in findings["doctor.no-end"].cause


async def test_a_tpm_that_answers_otherwise(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """Any other answer than that all is well is told in the TPM's words."""
    async with answering(tpm, 0x923) as tcti:  # TPM_RC_NV_UNAVAILABLE, which swtpm never gives
        uses(lone, tcti)
        only(await lone.find_on("TPM"), "tpm.no-answer", "dmesg", "NV")


async def test_a_box_that_was_started_otherwise(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A boot that nobody has approved is told with its policy, and opens again when it was started as approved."""
    maker = ec.generate_private_key(ec.SECP256R1())
    public = maker.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (lone.directory / "release.pem").write_bytes(public)
    (lone.directory / "approvals.json").write_bytes(written([approve({7: bytes(32)}, maker)]))
    uses(lone, tpm.tcti)
    lone.settings["key_store"]["boot"] = {
        "release_key_file": "release.pem",
        "approvals_file": "approvals.json",
        "pcrs": [7],
    }
    KeyDirectory(lone.data / "keys").pin_root(await asyncio.to_thread(make_root, tpm))
    assert await lone.find_on("TPM") == []

    def measure() -> None:
        with esys(tpm) as tss:
            value = pytss.TPMT_HA(hashAlg=pytss.TPM2_ALG.SHA256)
            value.digest.sha256 = hashlib.sha256(b"a kernel that nobody has approved").digest()
            tss.pcr_extend(pcr_handle=pytss.ESYS_TR.PCR7, digests=pytss.TPML_DIGEST_VALUES([value]))

    await asyncio.to_thread(measure)
    only(await lone.find_on("TPM"), "tpm.boot-not-approved", "approved release", "policy")
    await tpm.restart()
    assert await lone.find_on("TPM") == []


def try_wrong_passwords(tpm: VirtualTpm, times: int) -> None:
    with esys(tpm) as tss:
        template = srk_template("ecc")
        public, _ = pytss.TPM2B_PUBLIC.unmarshal(template)
        public.publicArea.objectAttributes &= ~pytss.TPMA_OBJECT.NODA
        sensitive = pytss.TPM2B_SENSITIVE_CREATE(pytss.TPMS_SENSITIVE_CREATE(userAuth="right"))
        handle, *_ = tss.create_primary(in_sensitive=sensitive, in_public=public, primary_handle=pytss.ESYS_TR.OWNER)
        tss.tr_set_auth(esys_handle=handle, auth_value="wrong")
        key = pytss.TPM2B_PUBLIC.parse("aes128", objectAttributes="decrypt|userwithauth|sensitivedataorigin")
        for _ in range(times):
            with pytest.raises(pytss.TSS2_Exception):
                tss.create(parent_handle=handle, in_sensitive=pytss.TPM2B_SENSITIVE_CREATE(), in_public=key)
        tss.flush_context(handle)


async def test_a_locked_tpm(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """Too many wrong passwords lock the TPM; when it forgives is told."""
    await asyncio.to_thread(try_wrong_passwords, tpm, 4)
    uses(lone, tpm.tcti)
    finding = only(await lone.find_on("TPM"), "tpm.locked-out", "--clear-lockout", "1000 s")
    await follow(finding)
    assert await lone.find_on("TPM") == []


async def test_sessions_that_others_have_left(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """Sessions that nobody ended are told with the command that ends them."""

    def leave() -> None:
        with esys(tpm) as tss:
            tss.start_auth_session(
                tpm_key=pytss.ESYS_TR.NONE,
                bind=pytss.ESYS_TR.NONE,
                session_type=pytss.TPM2_SE.POLICY,
                symmetric=pytss.TPMT_SYM_DEF(algorithm=pytss.TPM2_ALG.NULL),
                auth_hash=pytss.TPM2_ALG.SHA256,
            )

    await asyncio.to_thread(leave)
    uses(lone, tpm.tcti)
    await follow(only(await lone.find_on("TPM"), "tpm.stale-handles", "tpm2_flushcontext"))
    assert await lone.find_on("TPM") == []


def leave_behind(tpm: VirtualTpm, objects: int) -> None:
    with esys(tpm) as tss:
        public, _ = pytss.TPM2B_PUBLIC.unmarshal(srk_template("ecc"))
        for _ in range(objects):
            tss.create_primary(
                in_sensitive=pytss.TPM2B_SENSITIVE_CREATE(), in_public=public, primary_handle=pytss.ESYS_TR.OWNER
            )


@pytest.mark.parametrize(("objects", "fault"), [(1, "tpm.stale-handles"), (3, "tpm.no-slot")])
async def test_what_others_have_left(lone: HealthyBox, tpm: VirtualTpm, objects: int, fault: str) -> None:
    """Objects that nobody took out are a warning, and a fault once there is no room for another."""
    await asyncio.to_thread(leave_behind, tpm, objects)
    uses(lone, tpm.tcti)
    finding = only(await lone.find_on("TPM"), fault, "tpm2_flushcontext")
    assert finding.is_fault == (objects == 3)
    assert "0x80000000" in finding.evidence
    await follow(finding)
    assert await lone.find_on("TPM") == []


async def test_an_owner_password(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """Where the storage root key has to be made, a password of the owner's that is not given, or wrong, is told."""
    await asyncio.to_thread(set_owner_password, tpm, "open sesame")
    uses(lone, tpm.tcti)
    only(await lone.find_on("TPM"), "tpm.owner-password", "a password")
    file = lone.directory / "tpm-owner"
    lone.settings["key_store"]["owner_password_file"] = str(file)
    only(await lone.find_on("TPM"), "tpm.owner-password-file", str(file), "cannot be read")
    file.touch(mode=0o600)
    file.write_bytes(b"sesame\n")
    finding = only(await lone.find_on("TPM"), "tpm.owner-password", "another password")
    assert "sesame" not in repr(finding)
    file.write_bytes(b"open sesame\n")
    assert await lone.find_on("TPM") == []


async def test_an_owner_password_that_nobody_needs(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """Where the storage root key is there, the owner's password is nobody's business."""
    await asyncio.to_thread(make_root, tpm)
    await asyncio.to_thread(set_owner_password, tpm, "open sesame")
    uses(lone, tpm.tcti)
    assert await lone.find_on("TPM") == []


async def test_no_room_for_the_root(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A TPM that is full of persistent keys has no room for the storage root key."""

    def fill() -> None:
        with esys(tpm) as tss:
            public, _ = pytss.TPM2B_PUBLIC.unmarshal(srk_template("ecc"))
            handle, *_ = tss.create_primary(
                in_sensitive=pytss.TPM2B_SENSITIVE_CREATE(), in_public=public, primary_handle=pytss.ESYS_TR.OWNER
            )
            with contextlib.suppress(pytss.TSS2_Exception):
                for number in range(200):
                    place = SRK_HANDLE + 0x100 + number
                    tss.evict_control(auth=pytss.ESYS_TR.OWNER, object_handle=handle, persistent_handle=place)
            tss.flush_context(handle)

    await asyncio.to_thread(fill)
    uses(lone, tpm.tcti)
    finding = only(await lone.find_on("TPM"), "tpm.no-persistent-room", "tpm2_evictcontrol")
    await follow(finding, 0)
    await follow(finding, 1)
    assert await lone.find_on("TPM") == []


async def test_something_else_in_its_place(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """An object of another program where the storage root key belongs is told."""

    def occupy() -> None:
        with esys(tpm) as tss:
            public = pytss.TPM2B_PUBLIC.parse(
                "ecc:ecdsa", objectAttributes="sign|fixedtpm|fixedparent|userwithauth|sensitivedataorigin"
            )
            handle, *_ = tss.create_primary(
                in_sensitive=pytss.TPM2B_SENSITIVE_CREATE(), in_public=public, primary_handle=pytss.ESYS_TR.OWNER
            )
            tss.evict_control(auth=pytss.ESYS_TR.OWNER, object_handle=handle, persistent_handle=SRK_HANDLE)
            tss.flush_context(handle)

    await asyncio.to_thread(occupy)
    uses(lone, tpm.tcti)
    finding = only(await lone.find_on("TPM"), "tpm.foreign-object", "0x81000001", "tpm2_evictcontrol")
    await follow(finding, 0)
    await follow(finding, 1)
    assert await lone.find_on("TPM") == []


async def test_another_tpm(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A disk beside a TPM that its keys do not belong to is told, and what it had and has."""
    await asyncio.to_thread(make_root, tpm)
    KeyDirectory(lone.data / "keys").pin_root(b"\0\x0b" + bytes(32))
    uses(lone, tpm.tcti)
    only(await lone.find_on("TPM"), "tpm.foreign-srk", "another TPM", "keys wipe")


async def test_a_cleared_tpm(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A TPM that was cleared makes another key; one whose key was only taken out makes the same again."""
    KeyDirectory(lone.data / "keys").pin_root(await asyncio.to_thread(make_root, tpm))
    uses(lone, tpm.tcti)

    def take_out() -> None:
        with esys(tpm) as tss:
            root = tss.tr_from_tpmpublic(SRK_HANDLE)
            tss.evict_control(auth=pytss.ESYS_TR.OWNER, object_handle=root, persistent_handle=SRK_HANDLE)

    def clear() -> None:
        with esys(tpm) as tss:
            tss.clear(auth_handle=pytss.ESYS_TR.LOCKOUT)

    await asyncio.to_thread(take_out)
    warning = only(await lone.find_on("TPM"), "tpm.no-root", "keys status")
    assert not warning.is_fault
    await follow(warning)
    assert await lone.find_on("TPM") == []
    await asyncio.to_thread(clear)
    only(await lone.find_on("TPM"), "tpm.cleared", "cleared", "provision")


async def test_a_blank_second_tpm(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """A blank TPM beside keys of another may be a cleared or the wrong one: the way that harms nothing comes first.

    With the right TPM in its place all is well again.
    """
    KeyDirectory(lone.data / "keys").pin_root(await asyncio.to_thread(make_root, tpm))
    async with VirtualTpm() as second:
        uses(lone, second.tcti)
        finding = only(await lone.find_on("TPM"), "tpm.cleared", "cleared", "not their TPM", second.tcti)
    assert finding.fix.index("another TPM") < finding.fix.index("keys wipe")
    uses(lone, tpm.tcti)
    assert await lone.find_on("TPM") == []


async def test_a_damaged_pin(lone: HealthyBox, tpm: VirtualTpm) -> None:
    """The file that says which TPM the keys belong to is damaged."""
    uses(lone, tpm.tcti)
    path = lone.data / "keys" / "srk.name"
    path.write_bytes(b"?")
    path.chmod(0o600)
    only(await lone.find_on("TPM"), "tpm.keys-damaged", "backup")


async def test_an_endorsement_key_that_is_not_enrolled(healthy: HealthyBox, tpm: VirtualTpm) -> None:
    """An enrolment for another TPM is told, one with this TPM's key is well, and asking registers nothing."""
    uses(healthy, tpm.tcti)
    site = healthy.site()
    async with VirtualTpm() as other:
        for virtual, device in ((tpm, "mine"), (other, DEVICE)):
            with site.open_tpm(virtual.tcti) as probe:
                key = EndorsementKey.parse(probe.made_endorsement_key())
            healthy.hub.dps.add_enrolment(IndividualEnrolment(device, key))
    healthy.settings["key_store"]["storage_key"] = "rsa"
    known: dict[str, Any] = {"id_scope": healthy.hub.dps.id_scope, "host": healthy.hub.door.address, "by_tpm": True}
    findings = await healthy.find_on("provisioning", enrolment=Enrolment(registration_id=DEVICE, **known))
    only(findings, "dps.ek-mismatch", DEVICE, "endorsement key")
    registry = Secret(healthy.hub.dps.connection_string().encode())
    findings = await healthy.find_on(
        "provisioning", enrolment=Enrolment(registration_id="nobody", registry=registry, **known)
    )
    only(findings, "dps.no-tpm-enrolment", "nobody", "provision tpm-enrolment")
    assert await healthy.find_on("provisioning", enrolment=Enrolment(registration_id="mine", **known)) == []
    assert healthy.hub.dps.statistics.assigned == 0


async def test_a_gateway_whose_key_is_in_the_tpm(healthy: HealthyBox, tpm: VirtualTpm) -> None:
    """A gateway that signs by its TPM is let in by the hub, has no findings twice, and leaves nothing in the TPM."""
    uses(healthy, tpm.tcti)

    def move_key() -> None:
        store = TpmKeyStore(healthy.data / "keys", tcti=tpm.tcti)
        with Secret(base64.b64decode(KEY)) as key:
            store.put("gateway", key)
        store.close()

    await asyncio.to_thread(move_key)
    for path in (healthy.data / "keys").glob("*.key"):
        path.unlink()
    assert await healthy.find(sends=True) == []
    assert await healthy.find() == []
    assert healthy.hub.hub.statistics.connections == 2
    await asyncio.to_thread(set_owner_password, tpm, "open sesame")
    assert await healthy.find() == []


async def test_a_root_that_is_absent_is_not_made(healthy: HealthyBox, tpm: VirtualTpm) -> None:
    """Where a signature would first need the storage root key made, none is asked for: all stays as it is."""
    uses(healthy, tpm.tcti)

    def move_key_and_take_root_out() -> None:
        store = TpmKeyStore(healthy.data / "keys", tcti=tpm.tcti)
        with Secret(base64.b64decode(KEY)) as key:
            store.put("gateway", key)
        store.close()
        with esys(tpm) as tss:
            root = tss.tr_from_tpmpublic(SRK_HANDLE)
            tss.evict_control(auth=pytss.ESYS_TR.OWNER, object_handle=root, persistent_handle=SRK_HANDLE)

    await asyncio.to_thread(move_key_and_take_root_out)
    before = footprint(healthy.data)
    for _ in range(2):
        only(await healthy.find(sends=True), "tpm.no-root")
    assert footprint(healthy.data) == before
    assert healthy.hub.hub.statistics.connections == 0


async def test_a_gateway_whose_certificates_key_is_in_the_tpm(healthy: HealthyBox, tpm: VirtualTpm) -> None:
    """A gateway that proves itself by a certificate whose key the TPM keeps is let in; one of another key is told."""
    uses(healthy, tpm.tcti)

    def make_certificate(name: str) -> DeviceCertificate:
        store = TpmKeyStore(healthy.data / "keys", tcti=tpm.tcti)
        key = store.create_certificate_key(name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, DEVICE)])
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        built = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=90))
        certificate = built.sign(key, hashes.SHA256())
        store.close()
        return DeviceCertificate(certificate.public_bytes(Encoding.PEM).decode(), "")

    certificate = await asyncio.to_thread(make_certificate, "tls")
    file = healthy.directory / "device.pem"
    file.write_text(certificate.certificate_pem)
    healthy.hub.hub.remove_device(DEVICE)
    thumbprint = certificate.sha256_thumbprint
    healthy.hub.hub.add_device(DEVICE, authentication=Thumbprints(thumbprint, thumbprint))
    healthy.settings["uplink"] |= {"certificate_file": str(file), "certificate_key": "tls"}
    assert await healthy.find() == []
    assert healthy.hub.hub.statistics.connections == 1
    await asyncio.to_thread(make_certificate, "other")
    healthy.settings["uplink"]["certificate_key"] = "other"
    only(await healthy.find(), "configuration.contradiction", "keys csr other")
