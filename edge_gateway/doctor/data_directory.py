"""The data directory: whose it is, and whether its disk takes anything.

All that is written is a file without a name, gone when it is closed.
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from edge_gateway.assembly import BUFFER_FILE, RESERVE_FILE
from edge_gateway.doctor.finding import Fault, Finding, Findings, Level
from edge_gateway.doctor.site import Site
from edge_gateway.doctor.user import User, user_name

CANNOT_BE_MADE: Final = Fault(
    "data.cannot-be-made",
    "there is no data directory {directory}, and {user} may not make it in {parent}",
    "`sudo install -d -m 700 -o {user} {directory}`, or choose another data_directory",
)
NOT_A_DIRECTORY: Final = Fault(
    "data.not-a-directory",
    "{path} is no directory, and the data directory is to be there",
    "Move it, or choose another data_directory",
)
OTHER_OWNER: Final = Fault(
    "data.other-owner",
    "the data directory {directory} belongs to {owner}, and {user} may not write there",
    "Run the gateway, and this command, as {owner} (`sudo -u {owner} ...`), or give it away: "
    "`sudo chown -R {user}: {directory}`",
)
FOREIGN_FILES: Final = Fault(
    "data.foreign-files",
    "files in the data directory are another user's, and {user} may not read or write them: somebody ran the gateway "
    "or a command as {owner}",
    "`sudo chown -R {user}: {directory}`",
)
FULL: Final = Fault(
    "disk.full",
    "the disk of the data directory is full",
    "Free space on {mount}: `sudo du -xh {mount} | sort -h | tail` shows what takes it, and `sudo journalctl "
    "--vacuum-size=50M` often helps",
)
NO_INODES: Final = Fault(
    "disk.no-inodes",
    "the disk of the data directory has room, but no more files fit on it (inodes)",
    "Remove small files on {mount}: `sudo du --inodes -x {mount} | sort -n | tail` shows where they are",
)
OVER_QUOTA: Final = Fault(
    "disk.over-quota",
    "the disk quota of {user} is used up",
    "Raise it (`sudo edquota {user}`), or remove files of {user}",
)
READ_ONLY: Final = Fault(
    "disk.read-only",
    "the disk of the data directory takes no writes: it is mounted read-only",
    "Look at `dmesg` for why (a worn SD card is the usual reason), then `sudo mount -o remount,rw {mount}`; in a "
    "container or systemd unit, add {directory} to the writable paths",
)
FAILING: Final = Fault(
    "disk.failing",
    "the disk of the data directory does not write: {reason}",
    "Look at `dmesg`; save what is there, and replace the disk or card",
)
SMALL: Final = Fault(
    "disk.small",
    "the buffer may grow by {wanted} MiB, and the disk has {free} MiB left",
    "Free space on {mount}, or set buffer.max_disk_bytes to what there is",
    Level.WARNING,
)

_PROBE_BYTES: Final = 64 * 1024
_LEAST_FREE_BYTES: Final = 1 << 20
"""Below it the next commit may fail; root writes on where others cannot any more."""
_MOST_FILES: Final = 2000
_BY_ERRNO: Final = {errno.ENOSPC: FULL, errno.EDQUOT: OVER_QUOTA, errno.EROFS: READ_ONLY}


def check_owner(site: Site) -> Findings:
    """Whether the gateway's user can work in the data directory."""
    directory, user = site.data_directory, site.gateway_user
    try:
        info = directory.stat()
    except FileNotFoundError:
        parent = _nearest(directory)
        if user.may(parent, os.W_OK | os.X_OK):
            return []  # the gateway makes it
        return [CANNOT_BE_MADE.found(directory=directory, parent=parent, user=user.name)]
    except NotADirectoryError:
        return [NOT_A_DIRECTORY.found(path=_nearest(directory))]
    except PermissionError:
        owner = user_name(_nearest(directory).stat().st_uid)
        return [OTHER_OWNER.found("it cannot even be looked at", directory=directory, owner=owner, user=user.name)]
    if not stat.S_ISDIR(info.st_mode):
        return [NOT_A_DIRECTORY.found(path=directory)]
    if not _may_use(user, directory, info):
        mode = f"mode {stat.S_IMODE(info.st_mode):04o}"
        return [OTHER_OWNER.found(mode, directory=directory, owner=user_name(info.st_uid), user=user.name)]
    return []


def check_files(site: Site) -> Findings:
    """Whether the gateway's user can work with what is in the data directory."""
    return _foreign_files(site.data_directory, site.gateway_user) if site.data_directory.is_dir() else []


def check_disk(site: Site) -> Findings:
    """Whether the data directory's disk takes what the gateway is going to write."""
    directory = site.data_directory
    mount = _mount_point(_nearest(directory))
    places = {"directory": directory, "mount": mount, "user": site.gateway_user.name}
    disk = os.statvfs(_nearest(directory))
    free_bytes = disk.f_bavail * disk.f_frsize
    room = f"{free_bytes >> 10} KiB free on {mount}"
    if disk.f_flag & os.ST_RDONLY:
        return [READ_ONLY.found(f"{mount} is mounted read-only", **places)]
    if disk.f_files and not disk.f_favail:
        return [NO_INODES.found(f"none of {disk.f_files} inodes is free; {room}", **places)]
    if free_bytes < _LEAST_FREE_BYTES:
        return [FULL.found(room, **places)]
    if directory.is_dir() and (error := _write_error(directory)) is not None:
        fault = _BY_ERRNO.get(error.errno or 0, FAILING)
        return [fault.found(f"writing there: {error.strerror}; {room}", reason=error.strerror, **places)]
    wanted_bytes = site.config.buffer.max_disk_bytes - _buffer_bytes(directory)
    if wanted_bytes > free_bytes:
        return [SMALL.found(room, wanted=wanted_bytes >> 20, free=free_bytes >> 20, mount=mount)]
    return []


def _may_use(user: User, directory: Path, info: os.stat_result) -> bool:
    # The owner is asked for too: root may write everywhere, and what it leaves there nobody else can read.
    return user.may(directory, os.R_OK | os.W_OK | os.X_OK) and (user.uid != 0 or info.st_uid == 0)


def _foreign_files(directory: Path, user: User) -> list[Finding]:
    foreign = [path for path in islice(_files(directory), _MOST_FILES) if not _may_open(user, path)]
    if not foreign:
        return []
    owner = user_name(foreign[0].stat().st_uid)
    return [FOREIGN_FILES.found(_listed(foreign), user=user.name, owner=owner, directory=directory)]


def _files(directory: Path) -> Iterator[Path]:
    """What lies in a directory and one level below it."""
    for path in directory.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK | os.X_OK):
            yield from path.iterdir()


def _may_open(user: User, path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            return True  # the socket is made anew at each start
        return user.may(path, os.R_OK | os.W_OK)
    except FileNotFoundError:
        return True  # a running gateway has put another in its place
    except PermissionError:
        return False


def _listed(paths: list[Path]) -> str:
    names = ", ".join(str(path) for path in paths[:3])
    return names if len(paths) <= 3 else f"{names} and {len(paths) - 3} more"


def _write_error(directory: Path) -> OSError | None:
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(os.urandom(_PROBE_BYTES))  # some file systems would store zeros for nothing
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error
    return None


def _buffer_bytes(directory: Path) -> int:
    paths = (directory / name for name in (BUFFER_FILE, f"{BUFFER_FILE}-wal", RESERVE_FILE))
    return sum(path.stat().st_blocks * 512 for path in paths if path.exists())


def _nearest(path: Path) -> Path:
    """The path, or what is there of it."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def _mount_point(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount() and path != path.parent:
        path = path.parent
    return path
