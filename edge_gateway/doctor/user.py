"""Whom a gateway runs as, and what that user may do."""

from __future__ import annotations

import enum
import grp
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class User:
    """A user, with the groups in force and those that will be after the next login."""

    name: str
    uid: int
    groups: frozenset[int]
    """Numbers of the groups in force."""
    enrolled: frozenset[int]
    """Numbers of the groups that the system's table names."""

    @classmethod
    def current(cls) -> Self:
        """Who asks."""
        uid = os.geteuid()
        name, enrolled = _entry(uid)
        return cls(name, uid, frozenset({os.getegid(), *os.getgroups()}), enrolled)

    @classmethod
    def of_gateway(cls, data_directory: Path) -> Self:
        """The owner of the data directory where root asks, as `sudo` makes easy; otherwise who asks."""
        try:
            uid = data_directory.stat().st_uid
        except OSError:
            return cls.current()
        if os.geteuid() != 0 or uid == 0:
            return cls.current()
        name, enrolled = _entry(uid)
        return cls(name, uid, enrolled, enrolled)

    def may(self, path: Path, wanted: int) -> bool:
        """Whether this user may do what `wanted` says (os.R_OK, os.W_OK, os.X_OK) with a path.

        On a read-only disk everybody may write: that nobody can is another fault.

        Raises:
            OSError: there is no such path.
        """
        info = path.stat()
        if os.statvfs(path).f_flag & os.ST_RDONLY:
            wanted &= ~os.W_OK
        if self.uid == os.geteuid():
            return os.access(path, wanted, effective_ids=True)  # access lists included
        if info.st_uid == self.uid:
            allowed = info.st_mode >> 6
        elif info.st_gid in self.groups:
            allowed = info.st_mode >> 3
        else:
            allowed = info.st_mode
        return allowed & wanted == wanted


def as_user(uid: int) -> str:
    """The words before a command that run it as a user, who may have no name."""
    name, _ = _entry(uid)
    return f"sudo -u '#{uid}'" if name == str(uid) else f"sudo -u {name}"


def group_name(number: int) -> str:
    """A group's name, or its number if it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def user_name(number: int) -> str:
    """A user's name, or the number if there is none."""
    return _entry(number)[0]


class WayIn(enum.Enum):
    """What would let a user use a device."""

    GROUP = "be put into the device's group"
    LOGIN = "log in again, as the group is not in force yet"
    MODE = "the device's mode or group has to change"


def way_in(user: User, info: os.stat_result) -> WayIn:
    """What would let a user use a device that is closed to him now."""
    both = stat.S_IRGRP | stat.S_IWGRP
    if info.st_mode & both != both or info.st_gid == 0:
        return WayIn.MODE
    return WayIn.LOGIN if info.st_gid in user.enrolled else WayIn.GROUP


def _entry(uid: int) -> tuple[str, frozenset[int]]:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return str(uid), frozenset()
    return entry.pw_name, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
