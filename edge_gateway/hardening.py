"""What the process and its files show to others: as little as can be.

`harden_process` is for the start of a gateway, and of every command that has keys in memory, before it reads one.
`check_modes` names the files of a data directory that somebody else could read or change.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_gateway.errors import ConfigError

MOST_FILES: Final = 100_000
"""Looked at by `check_modes`; a data directory has up to nine for each of ten thousand sensors."""

_PR_SET_DUMPABLE: Final = 4
_OWNER_ALONE: Final = 0o077

_ACCESS_LIST: Final = "system.posix_acl_access"
_ACCESS_LIST_HEAD: Final = struct.Struct("<I")
_ACCESS_LIST_ENTRY: Final = struct.Struct("<HHI")
_ACCESS_LIST_VERSION: Final = 2
_NAMED_USER, _OWNING_GROUP, _NAMED_GROUP = 0x02, 0x04, 0x08
"""Whom an entry is about; Linux, include/uapi/linux/posix_acl.h."""


@dataclass(frozen=True, slots=True)
class ModeProblem:
    """A file that is not the gateway's alone."""

    path: Path
    what: str
    remedy: str
    """The command to run."""

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.remedy}"


def harden_process() -> None:
    """Leave no core file, keep other processes of this user out of the memory, make files for the owner alone.

    Processes started from here begin anew with the second of these, and keep the others.

    Raises:
        ConfigError: the system does not allow it.
    """
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        # Also where a program collects cores: it is not asked for a process that is not dumpable (man 5 core).
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        raise ConfigError(
            f"memory could be dumped to disk: {error.strerror}",
            where="process",
            remedy="Allow setrlimit and prctl in the service's or container's profile",
        ) from error
    os.umask(_OWNER_ALONE)


def allow_many_files() -> None:
    """Raise the limit of open files to what the system allows: a thousand sensors' sessions need more than is usual."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check_modes(directory: Path, *, user_id: int | None = None) -> list[ModeProblem]:
    """What in a data directory others could read or write, and what does not belong to the gateway's user.

    Args:
        directory: it is looked at itself, also where a link leads to it, and all in it; links there are not followed.
        user_id: of the gateway; this process's if left out.

    Returns:
        In the order of their paths; empty if all is well, or there is no such directory.

    Raises:
        ConfigError: something in it cannot be looked at.
    """
    user_id = os.geteuid() if user_id is None else user_id
    try:
        # A link's own mode means nothing, and would hide that of what it leads to.
        paths = _paths(Path(os.path.realpath(directory)))
        return [problem for path in sorted(paths) for problem in _problems(path, user_id)]
    except OSError as error:
        raise ConfigError(
            f"cannot be looked at: {error.strerror}",
            where=str(error.filename or directory),
            remedy="See that it is a directory, and run as the gateway's user",
        ) from error


def shared_with_others(path: Path | int) -> bool:
    """Whether anybody but the owner and this process's user may read, write or enter.

    Args:
        path: or an open file's number.

    Raises:
        OSError: it cannot be told.
    """
    mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116  # takes an open file's number too
    if not mode & _OWNER_ALONE:
        return False
    if mode & 0o007:
        return True
    # With an access list the group's bits are the most that any entry may give, and not the group's: systemd gives a
    # service its credentials as mode 0440 and a list that names the service's user alone.
    try:
        return list_admits_others(os.getxattr(path, _ACCESS_LIST), os.geteuid())
    except OSError:
        return True  # no list, or a file system that has none: the bits are the group's


def list_admits_others(access_list: bytes, user_id: int) -> bool:
    """Whether a POSIX access list lets in anybody but the owner and a user; true also for what is no such list.

    Source: Linux, include/uapi/linux/posix_acl_xattr.h.
    """
    entries = access_list[_ACCESS_LIST_HEAD.size :]
    if (
        access_list[: _ACCESS_LIST_HEAD.size] != _ACCESS_LIST_HEAD.pack(_ACCESS_LIST_VERSION)
        or len(entries) % _ACCESS_LIST_ENTRY.size
    ):
        return True
    return any(
        permissions and (tag in (_OWNING_GROUP, _NAMED_GROUP) or (tag == _NAMED_USER and number != user_id))
        for tag, permissions, number in _ACCESS_LIST_ENTRY.iter_unpack(entries)
    )


def _paths(directory: Path) -> Iterator[Path]:
    if not directory.exists():
        return
    yield directory
    found = 0
    for parent, directories, files in os.walk(directory, onerror=_raise):
        for name in (*directories, *files):
            found += 1
            if found > MOST_FILES:
                raise ConfigError(
                    f"holds more than {MOST_FILES} files", where=str(directory), remedy="Keep only the gateway's in it"
                )
            yield Path(parent, name)


def _raise(error: OSError) -> None:
    raise error


def _problems(path: Path, user_id: int) -> Iterator[ModeProblem]:
    try:
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            return  # its mode means nothing
        shared = shared_with_others(path)
    except FileNotFoundError:
        return  # a running gateway has just taken it away
    if shared:
        mode = stat.S_IMODE(status.st_mode)
        yield ModeProblem(path, f"others can reach it (mode {mode:04o})", f"chmod go-rwx {path}")
    if status.st_uid != user_id:
        yield ModeProblem(path, f"belongs to user {status.st_uid} and not {user_id}", f"chown {user_id} {path}")
