"""SQLite's own VFS with somebody in between who may refuse a call, as SQLite's interface in C has it.

apsw lets a VFS be written in Python, and an error is then an exception. SQLite ignores some errors on purpose: a failed
checkpoint after a commit, a log that cannot be cut short. apsw cannot know that it was ignored and raises it all the
same, so that a `COMMIT` that has succeeded looks failed. With the system's own VFS nothing is raised. Who tests what a
program does when a disk fails needs the difference; so the calls are caught here one floor below, where an error is a
result code: https://www.sqlite.org/c3ref/vfs.html and https://www.sqlite.org/c3ref/io_methods.html.

Only what may fail is caught; all else, locks and shared memory too, goes straight to SQLite's VFS.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

import apsw

from edge_gateway.errors import BenchError

_POINTER: Final = ctypes.c_void_p
_OPEN: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, _POINTER, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
_DELETE: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_int)
_CLOSE: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER)
_TRANSFER: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, _POINTER, ctypes.c_int, ctypes.c_int64)
_TRUNCATE: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int64)
_SYNC: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.c_int)
_SIZE: Final = ctypes.CFUNCTYPE(ctypes.c_int, _POINTER, ctypes.POINTER(ctypes.c_int64))


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`, version 3."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("szOsFile", ctypes.c_int),
        ("mxPathname", ctypes.c_int),
        ("pNext", _POINTER),
        ("zName", ctypes.c_char_p),
        ("pAppData", _POINTER),
        ("xOpen", _OPEN),
        ("xDelete", _DELETE),
        ("others", _POINTER * 13),  # xAccess to xNextSystemCall
    ]


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`, version 3."""

    _fields_ = [
        ("iVersion", ctypes.c_int),
        ("xClose", _CLOSE),
        ("xRead", _TRANSFER),
        ("xWrite", _TRANSFER),
        ("xTruncate", _TRUNCATE),
        ("xSync", _SYNC),
        ("xFileSize", _SIZE),
        ("others", _POINTER * 12),  # xLock to xUnfetch
    ]


class NativeFile:
    """A file that SQLite has open, with the calls of its own VFS.

    Args:
        path: of the file.
        address: of SQLite's `sqlite3_file`.
        methods: what its VFS does with it.
    """

    def __init__(self, path: str, address: int, methods: _Methods) -> None:
        self.path = path
        self._address = address
        self._methods = methods

    def size(self) -> int:
        """How long it is, bytes."""
        size = ctypes.c_int64()
        self._methods.xFileSize(self._address, size)
        return size.value

    def read(self, amount: int, offset: int) -> bytes:
        """What is there; shorter at the end of the file."""
        amount = max(0, min(amount, self.size() - offset))
        data = ctypes.create_string_buffer(amount)
        self._methods.xRead(self._address, ctypes.addressof(data), amount, offset)
        return data.raw

    def write(self, data: bytes, offset: int) -> None:
        """Put bytes there."""
        buffer = ctypes.create_string_buffer(data, len(data))  # in a variable, or it would be gone before the call
        self._methods.xWrite(self._address, ctypes.addressof(buffer), len(data), offset)


class FileCalls(Protocol):
    """Who is asked before each call: SQLITE_OK lets it pass, any other result code is SQLite's answer.

    Called in whatever thread SQLite is used in. Must not raise: in C there is nobody to raise to.
    """

    def opening(self, path: str, flags: int) -> tuple[int, int]:
        """A file is going to be opened; returns the result code and the flags to open it with."""
        ...

    def opened(self, file: NativeFile) -> None:
        """It is open."""
        ...

    def closed(self, file: NativeFile) -> None:
        """It is going to be closed, whatever anybody says."""
        ...

    def deleting(self, path: str) -> int:
        """A file is going to be deleted."""
        ...

    def reading(self, file: NativeFile) -> int:
        """Bytes are going to be read."""
        ...

    def writing(self, file: NativeFile, data: bytes, offset: int) -> int:
        """Bytes are going to be written."""
        ...

    def truncating(self, file: NativeFile, size: int) -> int:
        """A file is going to be cut to a size in bytes."""
        ...

    def syncing(self, file: NativeFile) -> int:
        """What a file holds shall be made durable. This is never passed down: it would only take time."""
        ...


class NativeVfs:
    """A VFS by name, registered when made.

    Args:
        name: for `apsw.Connection(vfs=)`.
        calls: is asked before each call.

    Raises:
        BenchError: there is a VFS of that name.
    """

    def __init__(self, name: str, calls: FileCalls) -> None:
        if name in apsw.vfs_names():
            raise BenchError(
                "there is a VFS of that name already", where=name, remedy="Leave it first, or take another"
            )
        self._calls = calls
        self._system = _system_vfs()
        self._files: dict[int, NativeFile] = {}
        self._methods: dict[int, tuple[_Methods, _Methods]] = {}
        """By address of the system's methods: those, and ours."""
        self._own = _Vfs.from_buffer_copy(self._system)
        self._own.zName = name.encode()
        self._own.xOpen = _OPEN(self._open)
        self._own.xDelete = _DELETE(self._delete)
        # What sqlite3_vfs_register does for one that is not to be the default.
        self._system.pNext = ctypes.addressof(self._own)

    def unregister(self) -> None:
        """Take it away. A connection that is still open goes on with it."""
        before = self._system
        while before.pNext != ctypes.addressof(self._own):
            before = _Vfs.from_address(before.pNext)
        before.pNext = self._own.pNext
        if self._files:
            _STILL_OPEN.append(self)

    def _open(self, _: int, name: int | None, address: int, flags: int, out_flags: Any) -> int:
        if not name:  # a temporary file; those lie elsewhere
            return int(self._system.xOpen(ctypes.addressof(self._system), name, address, flags, out_flags))
        # The name is passed on by its address: what follows it in memory, the parameters of a URI, is part of it.
        path = os.fsdecode(ctypes.string_at(name))
        code, flags = self._calls.opening(path, flags)
        if code == apsw.SQLITE_OK:
            code = self._system.xOpen(ctypes.addressof(self._system), name, address, flags, out_flags)
        methods_at = ctypes.c_void_p.from_address(address)
        if code != apsw.SQLITE_OK:
            methods_at.value = None  # so that SQLite does not close what is not open
            return code
        system, own = self._wrapped(methods_at.value or 0)
        methods_at.value = ctypes.addressof(own)
        file = self._files[address] = NativeFile(path, address, system)
        self._calls.opened(file)
        return apsw.SQLITE_OK

    def _delete(self, _: int, name: bytes, sync_directory: int) -> int:
        code = self._calls.deleting(os.fsdecode(name))
        if code != apsw.SQLITE_OK:
            return code
        return int(self._system.xDelete(ctypes.addressof(self._system), name, sync_directory))

    def _wrapped(self, methods_at: int) -> tuple[_Methods, _Methods]:
        if methods_at not in self._methods:
            system = _Methods.from_address(methods_at)
            own = _Methods.from_buffer_copy(system)
            own.xClose = _CLOSE(self._closer(system))
            own.xRead = _TRANSFER(self._reader(system))
            own.xWrite = _TRANSFER(self._writer(system))
            own.xTruncate = _TRUNCATE(self._truncater(system))
            own.xSync = _SYNC(lambda address, _: self._calls.syncing(self._files[address]))
            self._methods[methods_at] = system, own
        return self._methods[methods_at]

    def _closer(self, system: _Methods) -> Callable[[int], int]:
        def close(address: int) -> int:
            self._calls.closed(self._files.pop(address))
            return int(system.xClose(address))

        return close

    def _reader(self, system: _Methods) -> Callable[[int, int, int, int], int]:
        def read(address: int, data: int, amount: int, offset: int) -> int:
            return self._calls.reading(self._files[address]) or int(system.xRead(address, data, amount, offset))

        return read

    def _writer(self, system: _Methods) -> Callable[[int, int, int, int], int]:
        def write(address: int, data: int, amount: int, offset: int) -> int:
            code = self._calls.writing(self._files[address], ctypes.string_at(data, amount), offset)
            return code or int(system.xWrite(address, data, amount, offset))

        return write

    def _truncater(self, system: _Methods) -> Callable[[int, int], int]:
        def truncate(address: int, size: int) -> int:
            return self._calls.truncating(self._files[address], size) or int(system.xTruncate(address, size))

        return truncate


_STILL_OPEN: Final[list[NativeVfs]] = []
"""Those that SQLite may call until the process ends."""


def _system_vfs() -> _Vfs:
    """SQLite's own VFS, which is the last one that calls pass through."""
    pointer = ctypes.c_void_p()
    connection = apsw.Connection(":memory:", vfs="unix")
    connection.file_control("main", apsw.SQLITE_FCNTL_VFS_POINTER, ctypes.addressof(pointer))
    connection.close()
    return _Vfs.from_address(pointer.value or 0)
