"""The TPM that holds the keys: whether it can be reached, works, is not locked, has room, and is the one it was.

Everything is looked at by a `TpmProbe`, which changes nothing in the TPM.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, Final

from edge_gateway.assembly import KEYS_DIRECTORY
from edge_gateway.assembly.keys import tpm_of
from edge_gateway.doctor.finding import Fault, Findings, Level
from edge_gateway.doctor.holders import holders
from edge_gateway.doctor.site import Site
from edge_gateway.doctor.tpm_probe import (
    IN_LOCKOUT,
    LOADED_SESSIONS_FREE,
    LOCKOUT_COUNTER,
    LOCKOUT_INTERVAL_S,
    MOST_TRIES,
    PERMANENT,
    PERSISTENT_FREE,
    PERSISTENT_HANDLES,
    RC_FAILURE,
    RC_INITIALIZE,
    SESSION_HANDLES,
    TRANSIENT_FREE,
    TRANSIENT_HANDLES,
    TpmFailed,
    TpmLibraryMissing,
    TpmProbe,
)
from edge_gateway.doctor.user import WayIn, group_name, way_in
from edge_gateway.errors import ConfigError, KeyStoreError
from edge_gateway.keystore.tpm.key_directory import KeyDirectory
from edge_gateway.keystore.tpm.public_areas import SRK_HANDLE, is_storage_root, name_of, srk_template
from edge_gateway.keystore.tpm.tcti import Tcti

LIBRARY_MISSING: Final = Fault("tpm.library-missing", "a library is not installed: {what}", "{remedy}")
TCTI_WRONG: Final = Fault("tpm.tcti-wrong", "key_store.tcti is wrong: {what}", "{remedy}")
TCTI_MODULE_MISSING: Final = Fault(
    "tpm.tcti-module-missing",
    "the way to the TPM, {tcti}, cannot be opened: its library is not installed, or nobody answers there",
    "`sudo apt install libtss2-tcti-{kind}0`; a simulator or tpm2-abrmd has to run before the gateway starts",
)
NO_DEVICE: Final = Fault(
    "tpm.no-device",
    "this box has no TPM at {path}",
    "Switch the TPM on in the firmware's setup (`dmesg | grep -i tpm`), hand the device into the container, or set "
    "key_store.kind to `software`; devices there now: {present}",
)
NOT_IN_GROUP: Final = Fault(
    "tpm.not-in-group",
    "{user} is not in the group {group}, which may use the TPM at {path}",
    "`sudo usermod -aG {group} {user}`, and start the gateway again",
)
GROUP_NOT_IN_FORCE: Final = Fault(
    "tpm.group-not-in-force",
    "{user} has been put into the group {group}, but not in this session, so the TPM at {path} stays closed",
    "Log in again, or start the service again: groups are taken over at the start only",
)
NOT_ALLOWED: Final = Fault(
    "tpm.not-allowed",
    "{user} may not use the TPM at {path}, and there is no group that would help",
    "`sudo apt install tpm-udev` makes the group tss and gives it the TPM; then `sudo usermod -aG tss {user}`",
)
BUSY: Final = Fault(
    "tpm.busy",
    "{holder} has the TPM at {path} for itself",
    "Set key_store.tcti to device:/dev/tpmrm0, which programs can share; if tpm2-abrmd has it, tabrmd: would do too",
)
FAILURE_MODE: Final = Fault(
    "tpm.failure-mode",
    "the TPM is in failure mode: its self-test has found a fault, and it does nothing more",
    "Power the box off and on (a restart is not enough); a TPM that stays so is broken and has to be replaced, and the "
    "gateway provisioned anew",
)
NOT_STARTED: Final = Fault(
    "tpm.not-started",
    "the TPM was not started by the firmware (TPM2_Startup)",
    "Switch it on in the firmware's setup; `sudo tpm2_startup -T {tcti} -c` starts it once; a simulator needs "
    "`startup-clear`",
)
NO_ANSWER: Final = Fault(
    "tpm.no-answer", "the TPM does not answer as it should: {what}", "Power the box off and on, and look at `dmesg`"
)
LOCKED_OUT: Final = Fault(
    "tpm.locked-out",
    "the TPM is locked after {tries} wrong passwords of {most}",
    "It forgives one every {interval_s} s; at once: `sudo tpm2_dictionarylockout -T {tcti} --clear-lockout` (`-p` "
    "gives the lockout password, if there is one). Find out who tries",
)
NO_SLOT: Final = Fault(
    "tpm.no-slot",
    "the TPM has no room for another {what}: other programs hold all of it",
    "Set key_store.tcti to device:/dev/tpmrm0, which shares the room; `sudo tpm2_flushcontext -T {tcti} {which}` makes "
    "some at once",
)
STALE_HANDLES: Final = Fault(
    "tpm.stale-handles",
    "{count} objects or sessions that nobody uses are left in the TPM",
    "`sudo tpm2_flushcontext -T {tcti} {which}`; set key_store.tcti to device:/dev/tpmrm0, which tidies up",
    Level.WARNING,
)
OWNER_PASSWORD: Final = Fault(
    "tpm.owner-password",
    "the TPM's owner has {state}, and the storage root key has to be made with it",
    "Write the password that was set when the TPM was taken into ownership into a file that only {user} can read, and "
    "name it in key_store.owner_password_file. If nobody knows it, `sudo tpm2_clear -T {tcti}` makes a new TPM of it, "
    "and destroys every key that is in it",
)
OWNER_PASSWORD_FILE: Final = Fault(
    "tpm.owner-password-file", "the file with the TPM owner's password, {file}, cannot be used: {what}", "{remedy}"
)
NO_PERSISTENT_ROOM: Final = Fault(
    "tpm.no-persistent-room",
    "the TPM has no room to keep the storage root key",
    "`sudo tpm2_getcap -T {tcti} handles-persistent` lists what takes it; what nobody needs is removed by its handle, "
    "for instance the first: `sudo tpm2_evictcontrol -T {tcti} -C o -c {handle}`",
)
OCCUPIED: Final = Fault(
    "tpm.foreign-object",
    "something else is in the storage root key's place in the TPM ({handle})",
    "See what it is: `sudo tpm2_readpublic -T {tcti} -c {handle}`; if nobody needs it, `sudo tpm2_evictcontrol -T "
    "{tcti} -C o -c {handle}`",
)
_WAYS_OUT: Final = (
    "First look whether it is another TPM, as that harms nothing: key_store.tcti is {tcti} (TPM devices here: "
    "{present}), and board and disk have to be of one box. Only if it was cleared the keys are lost: `{edge_gateway} "
    "keys wipe --config {config}`, which clears this TPM too, and provision the gateway anew"
)
FOREIGN_ROOT: Final = Fault(
    "tpm.foreign-srk",
    "the storage root key in the TPM is not the one the keys in {directory} were made with: this is not their TPM, or "
    "it was cleared since and taken over anew",
    _WAYS_OUT,
)
CLEARED: Final = Fault(
    "tpm.cleared",
    "the TPM is blank, or has another owner's seed, and cannot make the storage root key that the keys in {directory} "
    "were made with: it was cleared since, or this is not their TPM",
    _WAYS_OUT,
)
NO_ROOT: Final = Fault(
    "tpm.no-root",
    "the storage root key was taken out of its place in the TPM ({handle}); it can be made again, the same, and the "
    "doctor does not: so no key was tried",
    "`{edge_gateway} keys status --config {config}` puts it back, as the gateway does when it starts",
    Level.WARNING,
)
BOOT_NOT_APPROVED: Final = Fault(
    "tpm.boot-not-approved", "what the gateway keeps on its disk does not open in a box started so: {what}", "{remedy}"
)
PIN_DAMAGED: Final = Fault("tpm.keys-damaged", "the key store's files are damaged: {what}", "{remedy}")

_CLOSED: Final = {WayIn.GROUP: NOT_IN_GROUP, WayIn.LOGIN: GROUP_NOT_IN_FORCE, WayIn.MODE: NOT_ALLOWED}


def is_used(site: Site) -> bool:
    """Whether keys are in a TPM."""
    return site.config.key_store.kind == "tpm"


def check_device(site: Site) -> Findings:
    """Whether the TPM's device is there, and the gateway's user may use it."""
    try:
        tcti = Tcti.parse(site.config.key_store.tcti)
    except ConfigError as error:
        return [TCTI_WRONG.found(what=error.what, remedy=error.remedy)]
    if tcti.kind != "device":
        return []
    path, user = Path(tcti.settings), site.gateway_user
    try:
        info = path.stat()
    except OSError:
        return [NO_DEVICE.found(path=path, present=_present(site))]
    if not user.may(path, os.R_OK | os.W_OK):
        return [_CLOSED[way_in(user, info)].found(user=user.name, group=group_name(info.st_gid), path=path)]
    if not site.is_running and _is_busy(path):
        holder = next(holders(path), "another program")
        return [BUSY.found("opening it: device or resource busy", path=path, holder=holder)]
    return []


def check_answer(site: Site) -> Findings:
    """Whether the TPM answers."""
    tcti = site.config.key_store.tcti
    try:
        with site.open_tpm(tcti):
            return []
    except TpmLibraryMissing as error:
        return [LIBRARY_MISSING.found(error.where, what=error.what, remedy=error.remedy)]
    except TpmFailed as error:
        evidence = f"code 0x{error.code:x}"
        if error.code == RC_FAILURE:
            return [FAILURE_MODE.found(evidence)]
        if error.code == RC_INITIALIZE:
            return [NOT_STARTED.found(evidence, tcti=tcti)]
        if error.is_of_the_way:
            return [TCTI_MODULE_MISSING.found(evidence, tcti=tcti, kind=tcti.partition(":")[0])]
        return [NO_ANSWER.found(evidence, what=error.what)]


def check_state(site: Site) -> Findings:
    """Whether the TPM is locked or full."""
    tcti = site.config.key_store.tcti
    with site.open_tpm(tcti) as probe:
        properties = probe.properties()
        if properties.get(PERMANENT, 0) & IN_LOCKOUT:
            tries, most = properties.get(LOCKOUT_COUNTER, 0), properties.get(MOST_TRIES, 0)
            interval_s = properties.get(LOCKOUT_INTERVAL_S, 0)
            return [LOCKED_OUT.found("inLockout", tries=tries, most=most, interval_s=interval_s, tcti=tcti)]
        objects = probe.handles(TRANSIENT_HANDLES)
        sessions = [handle for first in SESSION_HANDLES for handle in probe.handles(first)]
    left = [*objects, *sessions]
    held = f"held in it: {', '.join(f'0x{each:x}' for each in left) or 'nothing that we see'}"
    for number, what, which in ((TRANSIENT_FREE, "key", "-t"), (LOADED_SESSIONS_FREE, "session", "-l")):
        if properties.get(number, 1) == 0:
            return [NO_SLOT.found(held, what=what, tcti=tcti, which=which)]
    if left and not site.is_running:
        which = "-t" if objects else "-l"
        return [STALE_HANDLES.found(held, count=len(left), tcti=tcti, which=which)]
    return []


def check_root(site: Site) -> Findings:
    """Whether the storage root key is there, and is the one that the keys belong to."""
    directory = site.data_directory / KEYS_DIRECTORY
    try:
        pinned = KeyDirectory(directory).root_name()
    except KeyStoreError as error:
        return [PIN_DAMAGED.found(error.where, what=error.what, remedy=error.remedy)]
    places: dict[str, Any] = {
        "directory": directory,
        "handle": f"0x{SRK_HANDLE:x}",
        "tcti": site.config.key_store.tcti,
        "present": _present(site),
        "edge_gateway": site.edge_gateway,
        "config": site.config_argument,
    }
    site.learnt.may_sign = False
    with site.open_tpm(site.config.key_store.tcti) as probe:
        public = probe.public(SRK_HANDLE)
        if public is None:
            return _check_absent(site, probe, pinned, places)
    if not is_storage_root(public):
        return [OCCUPIED.found(**places)]
    if pinned is not None and name_of(public) != pinned:
        return [
            FOREIGN_ROOT.found(
                f"its name begins with {name_of(public).hex()[4:20]}, and was {pinned.hex()[4:20]}", **places
            )
        ]
    site.learnt.may_sign = pinned is not None
    return []


def check_boot(site: Site) -> Findings:
    """Whether what is sealed opens in a box that was started as this one was."""
    try:
        tpm_of(site.keys).check_boot()
    except KeyStoreError as error:
        return [BOOT_NOT_APPROVED.found(error.where, what=error.what, remedy=error.remedy)]
    return []


def is_sealed_to_boot(site: Site) -> bool:
    """Whether it matters how the box was started, and nothing has to be made in the TPM to find out."""
    return is_used(site) and site.config.key_store.boot is not None and site.learnt.may_sign


def _check_absent(site: Site, probe: TpmProbe, pinned: bytes | None, places: dict[str, Any]) -> Findings:
    """Whether the storage root key can be made, and would be the same."""
    if probe.properties().get(PERSISTENT_FREE, 1) == 0:
        first = next(iter(probe.handles(PERSISTENT_HANDLES)), SRK_HANDLE)
        return [NO_PERSISTENT_ROOM.found(**places | {"handle": f"0x{first:x}"})]
    try:
        password = site.owner_password()
    except KeyStoreError as error:
        file = site.config.key_store.owner_password_file
        return [OWNER_PASSWORD_FILE.found(error.where, file=file, what=error.what, remedy=error.remedy)]
    made = probe.made_root(srk_template(site.config.key_store.storage_key), password)
    if made is None:
        state = "a password" if password is None else "another password than the one configured"
        return [OWNER_PASSWORD.found(state=state, user=site.gateway_user.name, **places)]
    if pinned is None:
        return []
    if name_of(made) != pinned:
        return [CLEARED.found("the key it makes now has another name", **places)]
    return [NO_ROOT.found(**places)]


def _present(site: Site) -> str:
    return ", ".join(str(each) for each in sorted(site.devices.glob("tpm*"))) or "none"


def _is_busy(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.EBUSY
    return False
