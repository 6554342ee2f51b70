"""What a TPM's response codes mean for us: one table from a code to what to do and what to tell.

A code is of format zero (a number of its own) or of format one, where bits say which handle, parameter or session it is
about; those are taken off before the table is looked up. Above the TPM stand the layers of the TSS, each with its own
codes; that of the way to the TPM (TCTI) is the only one we can do something about.

Sources: TPM 2.0 Library part 2, section 6.6; TCG TSS 2.0 Overview and Common Structures, section 3.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from edge_gateway.errors import KeyStoreError, KeyStoreUnavailable

_LAYER: Final = 0x00FF0000
_LAYER_ESYS: Final = 0x00070000
_LAYER_TCTI: Final = 0x000A0000
_LAYERS_TPM: Final = (0x00000000, 0x000B0000, 0x000C0000)
"""The TPM itself, and resource managers that speak in its codes."""
_FORMAT_ONE: Final = 0x080
_FORMAT_ONE_MASK: Final = 0x0BF
"""Format one without the handle's, parameter's or session's number."""
_ABOUT_PARAMETER: Final = _FORMAT_ONE | 0x040

RC_AUTH_FAIL: Final = 0x08E
RC_BAD_AUTH: Final = 0x0A2
RC_INTEGRITY: Final = 0x09F
RC_SIGNATURE: Final = 0x09B
RC_VALUE: Final = 0x084
RC_HANDLE: Final = 0x08B
RC_POLICY_FAIL: Final = 0x09D
RC_INITIALIZE: Final = 0x100
RC_FAILURE: Final = 0x101
RC_DISABLED: Final = 0x120
RC_LOCKOUT: Final = 0x921
_RC_PCR_CHANGED: Final = 0x128
_RC_CONTEXT_GAP: Final = 0x901
_RC_OBJECT_MEMORY: Final = 0x902
_RC_SESSION_MEMORY: Final = 0x903
_RC_SESSION_HANDLES: Final = 0x905
_RC_REFERENCE_FIRST: Final = 0x910
_RC_REFERENCE_LAST: Final = 0x91E
_RC_YIELDED: Final = 0x908
_RC_TESTING: Final = 0x90A
_RC_NV_RATE: Final = 0x920
_RC_RETRY: Final = 0x922
_RC_NV_UNAVAILABLE: Final = 0x923


class Course(Enum):
    """What to do about a failure."""

    WAIT = "the TPM is busy: the same command may work in a moment"
    REOPEN = "what we hold in the TPM is gone, or in its own way: open the connection again"
    STOP = "the same again would fail again, or do harm"


class Failure(NamedTuple):
    """What one code means."""

    course: Course
    kind: type[KeyStoreError]
    what: str
    remedy: str


def base_code(code: int) -> int:
    """A TPM's code without the number of the handle, parameter or session; others as they are.

    `0x1df` and `0x3df` are both `RC_INTEGRITY`.
    """
    if code & _LAYER not in _LAYERS_TPM:
        return code
    code &= ~_LAYER
    return code & _FORMAT_ONE_MASK if code & _FORMAT_ONE else code


def is_about_parameter(code: int) -> bool:
    """Whether the TPM says that a parameter is wrong, and not a handle, a session or its own state."""
    return code & _LAYER in _LAYERS_TPM and code & _ABOUT_PARAMETER == _ABOUT_PARAMETER


_BUSY: Final = Failure(
    Course.WAIT, KeyStoreUnavailable, "the TPM is busy", "It is tried again; a TPM that stays busy needs a restart"
)
_NO_ROOM: Final = Failure(
    Course.REOPEN,
    KeyStoreUnavailable,
    "the TPM has no room for one more key or session",
    "Give device:/dev/tpmrm0, which shares the room; see what else uses the TPM by tpm2_getcap handles-transient",
)
_LOST: Final = Failure(
    Course.REOPEN,
    KeyStoreUnavailable,
    "the TPM has lost what we held in it, as by a restart",
    "It is opened again; if this goes on, see what else uses it",
)
_NO_CONNECTION: Final = Failure(
    Course.REOPEN,
    KeyStoreUnavailable,
    "the TPM does not answer",
    "See that it is there and running: dmesg | grep -i tpm, or the simulator's process",
)

_TABLE: Final = {
    _RC_RETRY: _BUSY,
    _RC_TESTING: _BUSY,
    _RC_YIELDED: _BUSY,
    _RC_NV_RATE: _BUSY._replace(what="the TPM limits how often its memory is written"),
    _RC_NV_UNAVAILABLE: _BUSY._replace(what="the TPM cannot write its memory now"),
    _RC_PCR_CHANGED: _BUSY._replace(what="the registers of the boot are being written"),
    _RC_OBJECT_MEMORY: _NO_ROOM,
    _RC_SESSION_MEMORY: _NO_ROOM,
    _RC_SESSION_HANDLES: _NO_ROOM,
    _RC_CONTEXT_GAP: _NO_ROOM,
    **dict.fromkeys(range(_RC_REFERENCE_FIRST, _RC_REFERENCE_LAST + 1), _LOST),
    RC_HANDLE: _LOST,
    # A session knows each key by its name: this is no wrong password, for we use none, but another key in its place.
    RC_BAD_AUTH: _LOST,
    RC_LOCKOUT: Failure(
        Course.STOP,
        KeyStoreUnavailable,
        "the TPM is locked after too many wrong passwords",
        "Wait, or unlock it: tpm2_dictionarylockout --clear-lockout",
    ),
    RC_AUTH_FAIL: Failure(
        Course.STOP,
        KeyStoreError,
        "the TPM says that a password is wrong, and counts it",
        "Give the TPM's owner password; do not just try again, as the TPM locks itself",
    ),
    RC_INTEGRITY: Failure(
        Course.STOP,
        KeyStoreError,
        "the TPM does not open it: it has been changed, or was made by another TPM, or before this one was cleared",
        "Bring the file back from this box's backup, or import the key again",
    ),
    # Nothing is lost: it opens again when the box is as it has to be.
    RC_POLICY_FAIL: Failure(
        Course.STOP,
        KeyStoreUnavailable,
        "the TPM does not open it: the box was not started as it has to be",
        "Start the software that it was sealed for, or an update that its maker has signed, with the settings of "
        "key_store.boot that it was sealed with",
    ),
    RC_DISABLED: Failure(
        Course.STOP, KeyStoreError, "the TPM has this switched off", "Switch it on in the firmware's setup"
    ),
    RC_INITIALIZE: Failure(
        Course.STOP,
        KeyStoreUnavailable,
        "the TPM was not started by the firmware",
        "Switch it on in the firmware's setup; a simulator needs the flag startup-clear",
    ),
    RC_FAILURE: Failure(
        Course.STOP,
        KeyStoreUnavailable,
        "the TPM is in failure mode: its self-test found a fault",
        "Power the box off and on; a TPM that stays so is broken",
    ),
}


def failure_of(code: int) -> Failure:
    """What a code means. One that is not in the table stops, and is told as it is."""
    known = _TABLE.get(base_code(code))
    if known is not None:
        return known
    if code & _LAYER == _LAYER_TCTI:
        return _NO_CONNECTION
    if code & _LAYER == _LAYER_ESYS:
        # The library checks each answer: it was cut, or is not from the TPM the session was made with.
        return _NO_CONNECTION._replace(what=f"the TPM's answer cannot be believed (0x{code:x})")
    return Failure(
        Course.STOP, KeyStoreError, f"the TPM refuses (0x{code:x})", f"`tpm2_rc_decode 0x{code:x}` says what it is"
    )
