"""Destroys all that makes this gateway what it is, in an order that leaves nothing usable wherever it is cut.

1. The mark, durable: from here on no gateway and no command runs on this data directory; the next start goes on here.
2. The key store. Software: the wrapping key first, with which every key and all that was sealed goes at one stroke.
   TPM: the files, then TPM2_Clear, which makes copies worthless too. From here on nothing signs or unseals.
3. The data keys, and with them the content of the buffer; then the payload keys.
4. What proves an identity by other files that the configuration names: a certificate's private key, a password.
5. The private keys that identities name, then the identities.
6. What else lies where keys are kept, from a key store of another kind for instance.
7. The mark says that it is done, and what could not be destroyed.

Step 2 has a thread of its own beside 3 to 5, since a TPM that hangs, or whose bus somebody holds, may take minutes.

Whatever fails, the rest is destroyed all the same. Every step may be repeated. No lock is waited for but that of
another wipe: a process that was stopped in the midst of something holds nothing up. What it, or a command that was
bringing keys, would still write is refused behind the mark, or destroyed by whoever comes next.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import structlog

from edge_gateway.clock import Clock, rfc3339
from edge_gateway.config.model import GatewayConfig
from edge_gateway.config.uplink import IotHubUplink
from edge_gateway.emergency.mark import MARK_FILE, WipeReport, read_mark, write_mark
from edge_gateway.errors import ConfigError, GatewayError, KeyStoreError, KeyStoreUnavailable
from edge_gateway.keystore import KeyStore
from edge_gateway.keystore.key_files import aside_of, destroy_file, sync_directory
from edge_gateway.provisioning.identities import IDENTITIES_FILE, Identities

_log = structlog.get_logger()


class GatewayWiped(KeyStoreError):
    """The keys on this data directory were wiped, so nothing runs on it any more."""


class Wipeable(Protocol):
    """Keys in files; `SealedDataKeys` and `SealedPayloadKeys` are."""

    def wipe(self) -> None:
        """Destroy all keys.

        Raises:
            KeyStoreError: something may be left; the text says what.
        """
        ...


class Wipe:
    """The wipe of one gateway. All methods block; any thread may call them.

    Args:
        directory: the data directory.
        keys: the key store. It may be a `RevocableKeyStore` that is revoked.
        sealed: what it has sealed: first the data keys of the buffer, then the payload keys.
        key_directories: where keys are kept; every file in them goes in the end.
        credential_files: files that prove an identity, of which the configuration knows.
        spare_file: removed if the disk is full, so that there is room for the mark.
        clock: tells when.
    """

    def __init__(
        self,
        directory: Path,
        keys: KeyStore,
        sealed: Sequence[Wipeable],
        *,
        key_directories: Sequence[Path],
        credential_files: Sequence[Path],
        spare_file: Path,
        clock: Clock,
    ) -> None:
        self._directory = directory
        self._keys = keys
        self._sealed = tuple(sealed)
        self._key_directories = tuple(key_directories)
        self._credential_files = tuple(credential_files)
        self._spare_file = spare_file
        self._clock = clock
        self._known: WipeReport | None = None
        """What the mark should say; a disk may not take it, or lose it."""

    @property
    def found(self) -> WipeReport | None:
        """How far a wipe has come; None if none was begun."""
        return read_mark(self._directory) or self._known

    def begin(self, reason: str) -> WipeReport:
        """Mark the data directory, durable when this returns. A wipe that was begun stays what it is.

        A disk that takes no mark keeps nobody from the rest; then a cut may leave what was not yet destroyed.

        Args:
            reason: who or what asks for it; at most 200 characters are kept.

        Raises:
            ConfigError: there is no such directory, so there is nothing to wipe.
        """
        if not self._directory.is_dir():
            raise ConfigError(
                "there is nothing to wipe", where=f"data_directory {self._directory}", remedy="Check data_directory"
            )
        found = self.found
        if found is not None and (not found.done or not found.left):
            return found
        self._known = report = WipeReport(reason, rfc3339(self._clock.now_ns()))
        failure = self._mark(report)
        _log.warning("wipe.begun", reason=reason, marked=not failure)
        return report

    def finish(self) -> WipeReport:
        """Destroy what is left of what was begun. One at a time does so; who comes second finds it done.

        Raises:
            ConfigError: nothing was begun.
        """
        with self._alone():
            found = self.found
            if found is None:
                raise ConfigError("no wipe was begun", where=str(self._directory), remedy="Begin one first")
            if found.done:
                return found
            report = self._destroy(found)
            failure = self._mark(report)
            if failure:
                report = replace(report, done=False, left=(*report.left, failure))
            self._known = report
        _log.warning("wipe.ended", reason=report.reason, done=report.done, left=list(report.left))
        return report

    def refuse(self) -> None:
        """End a wipe that was cut short, and refuse to go on if there ever was one. Cheap where there was none.

        Of one that has ended, files are destroyed again: a command that died meanwhile may have left some.

        Raises:
            GatewayWiped: there was one.
        """
        found = self.found
        if found is None:
            return
        if not found.done:
            found = self.finish()
        else:
            for step in (*self._file_steps(), self._destroy_leftovers):
                _failure_of(step)  # what could not be destroyed is told as it was then
        raise wiped(self._directory, found)

    def _destroy(self, begun: WipeReport) -> WipeReport:
        with ThreadPoolExecutor(1, thread_name_prefix="wipe") as beside:
            wiping = beside.submit(self._keys.wipe)
            of_files = [_failure_of(step) for step in self._file_steps()]
            of_keys = _failure_of(wiping.result)
        of_files.append(_failure_of(self._destroy_leftovers))
        # A TPM that says no has done what it will do. To ask it at each start would lock its password, which whoever
        # clears it by hand needs.
        is_done = not any(of_files) and not isinstance(of_keys, KeyStoreUnavailable)
        return replace(begun, done=is_done, left=tuple(_told(error) for error in (of_keys, *of_files) if error))

    def _file_steps(self) -> Iterator[Callable[[], None]]:
        for each in self._sealed:
            yield each.wipe
        yield self._destroy_credentials
        yield self._destroy_identities

    def _destroy_credentials(self) -> None:
        _destroy_all(self._credential_files)

    def _destroy_identities(self) -> None:
        """The private keys that identities name go first: as long as one is there, they say where."""
        identities = self._directory / IDENTITIES_FILE
        unreadable: ConfigError | None = None
        try:
            _destroy_all([Path(each.private_key_file) for each in Identities(identities) if each.private_key_file])
        except ConfigError as error:
            unreadable = error
        # Nothing secret is in it. Overwritten first, it could not be read if that was cut short.
        for path in (identities, aside_of(identities)):
            path.unlink(missing_ok=True)
        sync_directory(self._directory)
        if unreadable is not None:
            raise KeyStoreError(
                f"private keys that it named were not looked for: {unreadable.what}",
                where=str(identities),
                remedy="Destroy what there was of them: shred -u FILE",
            )

    def _destroy_leftovers(self) -> None:
        _destroy_all(
            [
                path
                for each in self._key_directories
                if each.is_dir()
                for path in sorted(each.iterdir())
                if path.is_file()
            ]
        )

    def _mark(self, report: WipeReport) -> str:
        """Write the mark, on a full disk in the place of what is kept free for that; or why it could not be."""
        try:
            try:
                write_mark(self._directory, report)
            except OSError:
                self._spare_file.unlink(missing_ok=True)
                write_mark(self._directory, report)
        except OSError as error:
            return _told(error, self._directory / MARK_FILE)
        return ""

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            lock = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            yield  # somebody has removed it meanwhile; the TPM and files elsewhere have yet to follow
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def wipe_of(
    config: GatewayConfig,
    *,
    keys: KeyStore,
    data_keys: Wipeable,
    payload_keys: Wipeable,
    key_directories: Sequence[str],
    spare_file: str,
    clock: Clock,
) -> Wipe:
    """The wipe of the gateway that a configuration describes.

    Args:
        config: the gateway's.
        keys: its key store.
        data_keys: the keys of its buffer.
        payload_keys: the keys of its sensors' payloads.
        key_directories: names of those directories in the data directory in which keys are kept.
        spare_file: name of the file in the data directory that keeps room for a full disk.
        clock: tells when.
    """
    directory = config.gateway.data_directory
    uplink = config.uplink
    of_uplink = (
        [uplink.private_key_file]
        if isinstance(uplink, IotHubUplink)
        else [
            uplink.private_key_file,
            uplink.password_file,
        ]
    )
    return Wipe(
        directory,
        keys,
        (data_keys, payload_keys),
        key_directories=[directory / each for each in key_directories],
        credential_files=[each for each in of_uplink if each is not None],
        spare_file=directory / spare_file,
        clock=clock,
    )


def wiped(directory: Path, report: WipeReport) -> GatewayWiped:
    """The error of whoever wants to use a data directory that was wiped."""
    left = f"; what could not be destroyed: {'; '.join(report.left)}" if report.left else ""
    when = f" on {report.begun}" if report.begun else ""
    return GatewayWiped(
        f"the keys of this gateway were wiped{when} (reason: {report.reason}){left}",
        where=str(directory),
        remedy="Disable its devices at the hub if that is not done. To use the box again, remove the data directory "
        f"(rm -r {directory}), then: edge-gateway provision",
    )


def _destroy_all(paths: Sequence[Path]) -> None:
    """Overwrite files and take them away; those that are not there are no matter.

    Raises:
        KeyStoreError: some are still there; all that could go are gone.
    """
    left: list[str] = []
    for path in paths:
        try:
            _destroy(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            left.append(f"{path} ({error.strerror})")
    if left:
        raise KeyStoreError(f"could not be destroyed: {', '.join(left)}", remedy="Destroy them as root: shred -u FILE")


def _destroy(path: Path) -> None:
    real = path.resolve()
    try:
        destroy_file(real)
    except FileNotFoundError:
        raise
    except OSError:
        real.unlink()  # a file that cannot be overwritten may still be taken away
    with suppress(OSError):  # the mark is there: if its name comes back, it is destroyed again
        sync_directory(real.parent)


def _failure_of(step: Callable[[], None]) -> GatewayError | OSError | None:
    try:
        step()
    except (GatewayError, OSError) as error:
        return error
    return None


def _told(error: GatewayError | OSError, path: Path | None = None) -> str:
    if isinstance(error, GatewayError):
        return str(error)
    where = path or error.filename
    return f"{where}: {error.strerror}" if where else str(error.strerror)
