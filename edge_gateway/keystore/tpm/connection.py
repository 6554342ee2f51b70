"""The connection to the TPM: one thread, one session, and what is done when the TPM fails in the midst of something.

The library's objects belong to one thread, so all work is done in one of ours; callers wait for it.

**No wrong signature.** A TPM that restarts gives its handles away again. Somebody else's key may then lie where ours
was, and would sign without a complaint. So each use of a key goes through one *session*, made with the storage root
key whose Name was pinned. Under it, command and answer carry an HMAC over the Names of the keys they are about. A TPM
that has restarted no longer knows the session; one that has another key at this handle finds the HMAC wrong; an answer
from anything else does not have the session's key. All three are errors, and work starts again from the wrapped key.

The session is kept, as making it costs the TPM a private-key operation; `rest` ends it, so that an idle gateway holds
nothing in a TPM that it shares with others.

Source: TPM 2.0 Library part 1, sections 17 to 19 (sessions, names, parameter encryption).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias, TypeVar

import structlog

os.environ.setdefault("TSS2_LOG", "all+NONE")  # the library reads it when it is loaded, and would write to our stderr

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_CAP,
    TPM2_SE,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPMA_SESSION,
    TPMT_SYM_DEF,
    TCTILdr,
    TSS2_Exception,
)

from edge_gateway.errors import KeyStoreUnavailable
from edge_gateway.keystore.tpm import worker
from edge_gateway.keystore.tpm.response_codes import RC_HANDLE, RC_LOCKOUT, RC_VALUE, Course, base_code, failure_of
from edge_gateway.keystore.tpm.tcti import Tcti
from edge_gateway.keystore.tpm.worker import Worker
from edge_gateway.keystore.tpm.wrapped import Wrapped

_log = structlog.get_logger()

_T = TypeVar("_T")

Handle: TypeAlias = Any
"""An `ESYS_TR`: the library's number for something in the TPM, of which it also keeps the Name."""

Way: TypeAlias = Any
"""A `TCTI`: what carries commands to the TPM."""

_PAUSES_S: Final = (0.010, 0.020, 0.040, 0.080)
"""Between tries while the TPM is busy. The library itself has tried five times before each."""
_REOPENINGS: Final = 2
_FIRST_HANDLES: Final = (0x80000000, 0x02000000, 0x03000000)
"""Of loaded objects, loaded HMAC sessions and loaded policy sessions."""
_MOST_HANDLES: Final = 254
_PROPERTY_LOCKOUT_INTERVAL: Final = 0x210
"""TPM_PT_LOCKOUT_INTERVAL: after so many seconds one wrong password is forgiven."""


def load_tcti(tcti: Tcti) -> Way:
    """Load the library for a kind of TCTI, and connect."""
    return TCTILdr(tcti.kind, tcti.settings or None)


class Link:
    """One connection while it lasts, and what we hold in the TPM by it. For the connection's own thread.

    Args:
        esys: the library's connection.
        find_root: finds the storage root key, or makes it.
    """

    def __init__(self, esys: Any, find_root: Callable[[Any], Handle]) -> None:
        self.esys = esys
        self._find_root = find_root
        self._root: Handle | None = None
        self._session: Handle | None = None

    @property
    def root(self) -> Handle:
        """The storage root key, looked for when it is first needed."""
        if self._root is None:
            self._root = self._find_root(self.esys)
        return self._root

    def session(self, *, hides: bool = False) -> Handle:
        """The session that knows each key by its Name.

        Args:
            hides: the first parameter of command and answer is encrypted on its way to and from the TPM.
        """
        if self._session is None:
            self._session = self._start(TPM2_SE.HMAC)
        return self._with_attributes(self._session, hides=hides)

    @contextlib.contextmanager
    def policy_session(self) -> Iterator[Handle]:
        """A session to show a policy in. What it unseals is encrypted on its way here."""
        session = self._start(TPM2_SE.POLICY)
        with self.flushed(session):
            yield self._with_attributes(session, hides=True)

    @contextlib.contextmanager
    def loaded(self, wrapped: Wrapped) -> Iterator[Handle]:
        """A wrapped key or secret, in the TPM as long as the context."""
        private, _ = TPM2B_PRIVATE.unmarshal(wrapped.private)
        public, _ = TPM2B_PUBLIC.unmarshal(wrapped.public)
        handle = self.esys.load(parent_handle=self.root, in_private=private, in_public=public)
        with self.flushed(handle):
            yield handle

    @contextlib.contextmanager
    def flushed(self, handle: Handle) -> Iterator[None]:
        """Take something out of the TPM in the end."""
        try:
            yield
        except BaseException:
            with contextlib.suppress(TSS2_Exception):  # the first failure is the one to tell
                self._flush(handle)
            raise
        self._flush(handle)

    def root_public(self) -> bytes:
        """The TPM2B_PUBLIC of the storage root key, its size in front."""
        public, *_ = self.esys.read_public(object_handle=self.root)
        return bytes(public.marshal())

    def prove_root(self) -> None:
        """Have the TPM show that it has the storage root key's private part, and hold nothing of ours afterwards.

        It cannot open a session without that; that it did is shown by the first answer under the session.
        """
        self.rest()
        self.esys.get_random(bytes_requested=1, session1=self.session(hides=True))
        self.rest()

    def rest(self) -> None:
        """End the session; the next that needs one makes it anew."""
        session, self._session = self._session, None
        if session is not None:
            self._flush(session)

    def flush_leftovers(self) -> None:
        """Take everything out of the TPM that is loaded: for one that nobody else uses."""
        for first in _FIRST_HANDLES:
            _, data = self.esys.get_capability(capability=TPM2_CAP.HANDLES, prop=first, property_count=_MOST_HANDLES)
            for handle in [int(each) for each in data.data.handles]:
                self.esys.flush_context(self.esys.tr_from_tpmpublic(handle))

    def _flush(self, handle: Handle) -> None:
        try:
            self.esys.flush_context(handle)
        except TSS2_Exception as error:
            if base_code(int(error.rc)) not in (RC_VALUE, RC_HANDLE):  # so it says that a restart has done it for us
                raise

    def _start(self, kind: Any) -> Handle:
        return self.esys.start_auth_session(
            tpm_key=self.root,
            bind=ESYS_TR.NONE,
            session_type=kind,
            symmetric=aes_128_cfb(),
            auth_hash=TPM2_ALG.SHA256,
        )

    def _with_attributes(self, session: Handle, *, hides: bool) -> Handle:
        attributes = TPMA_SESSION.CONTINUESESSION
        if hides:
            attributes |= TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
        self.esys.trsess_set_attributes(session=session, attributes=attributes)
        return session


class Connection:
    """Runs operations on the TPM, one after the other, from any thread.

    It is opened by the first, and again after each loss.

    Args:
        tcti: where the TPM is.
        find_root: finds the storage root key, or makes it; may refuse with a `KeyStoreError`.
        connect: makes the way to the TPM.
        sleep: waits for so many seconds; while the TPM is busy.
    """

    def __init__(
        self,
        tcti: Tcti,
        find_root: Callable[[Any], Handle],
        *,
        connect: Callable[[Tcti], Way] = load_tcti,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._tcti = tcti
        self._find_root = find_root
        self._connect = connect
        self._sleep = sleep
        self._worker = Worker("tpm")
        self._way: Way = None
        self._link: Link | None = None
        self._closed = False

    def run(self, operation: Callable[[Link], _T], *, where: str) -> _T:
        """Do something with the TPM, and wait for it. It may be begun several times, so it must bear repeating.

        Args:
            operation: what; the link is good until it returns.
            where: what it is about, for errors.

        Raises:
            KeyStoreUnavailable: the TPM does not answer, has restarted again and again, is busy or locked.
            KeyStoreError: the TPM refuses.
        """
        try:
            return self._worker(lambda: self._run(operation, where), within_s=worker.ANSWER_WITHIN_S)
        except TimeoutError as error:
            raise KeyStoreUnavailable(
                f"the TPM does not answer within {worker.ANSWER_WITHIN_S:.0f} s",
                where=where,
                remedy="Restart the simulator; if it is a chip, power the box off and on",
            ) from error

    def drop(self) -> None:
        """Forget all that is held in the TPM and close the connection; the next operation opens it."""
        with contextlib.suppress(TimeoutError):  # it comes after whatever the TPM is stuck in
            self._worker(self._drop, within_s=worker.CLOSE_WITHIN_S)

    def close(self) -> None:
        """End the thread. Nothing may be run after it; closing again does nothing."""
        if not self._closed:
            self._closed = True
            self.drop()
            self._worker.end()

    def _run(self, operation: Callable[[Link], _T], where: str) -> _T:
        pauses_s = iter(_PAUSES_S)
        reopenings = 0
        while True:
            try:
                return operation(self._link or self._open())
            except TSS2_Exception as error:
                code = int(error.rc)
                failure = failure_of(code)
                pause_s = next(pauses_s, None) if failure.course is Course.WAIT else None
                if pause_s is not None:
                    self._sleep(pause_s)
                elif failure.course is Course.REOPEN and self._link is not None and reopenings < _REOPENINGS:
                    reopenings += 1
                    _log.warning("keystore.tpm.lost", tcti=str(self._tcti), code=f"0x{code:x}", cause=failure.what)
                    self._drop()
                else:
                    what = failure.what + (self._forgiven() if base_code(code) == RC_LOCKOUT else "")
                    if failure.course is Course.REOPEN:
                        self._drop()
                        self._tcti.check_device()
                    raise failure.kind(what, where=where, remedy=failure.remedy) from error

    def _open(self) -> Link:
        try:
            self._way = self._connect(self._tcti)
            link = Link(ESAPI(self._way), self._find_root)
        except TSS2_Exception as error:
            self._drop()
            self._tcti.check_device()
            raise KeyStoreUnavailable(
                f"the TPM cannot be reached: {error}",
                where=str(self._tcti),
                remedy=f"See that it is there, and that libtss2-tcti-{self._tcti.kind}0 is installed",
            ) from error
        self._link = link
        if self._tcti.is_ours_alone:
            link.flush_leftovers()
        time_info = link.esys.read_clock()
        clock = time_info.clockInfo
        _log.info("keystore.tpm.opened", tcti=str(self._tcti), resets=int(clock.resetCount))
        return link

    def _drop(self) -> None:
        link, self._link = self._link, None
        way, self._way = self._way, None
        if link is not None:
            with contextlib.suppress(TSS2_Exception):  # it is gone with the TPM, or goes with the connection
                link.rest()
            link.esys.close()
        if way is not None:
            way.close()

    def _forgiven(self) -> str:
        """When a TPM that is locked forgives, as far as it tells."""
        if self._link is None:
            return ""
        try:
            _, data = self._link.esys.get_capability(
                capability=TPM2_CAP.TPM_PROPERTIES, prop=_PROPERTY_LOCKOUT_INTERVAL, property_count=1
            )
        except TSS2_Exception:
            return ""  # a lock is told without its end, rather than another failure in its place
        interval_s = int(data.data.tpmProperties[0].value)
        return f"; it forgives one every {interval_s} s"


def aes_128_cfb() -> Any:
    """How a session encrypts parameters."""
    algorithm = TPMT_SYM_DEF(algorithm=TPM2_ALG.AES)
    algorithm.keyBits.sym = 128
    algorithm.mode.sym = TPM2_ALG.CFB
    return algorithm
