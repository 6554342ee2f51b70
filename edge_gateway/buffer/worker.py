"""A thread for calls that block, one after the other.

`asyncio.to_thread` would do, but its pool passes every result through a second kind of future and two locks; at fifty
syncs a second that was a sixth of the gateway's whole work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

_T = TypeVar("_T")
_Work: TypeAlias = tuple[Callable[[], Any], asyncio.AbstractEventLoop, asyncio.Future[Any]]


class Worker:
    """An `Offload` to one thread. A context manager; leaving ends the thread after the calls given to it.

    Args:
        name: the thread's, for debuggers and `top -H`.
    """

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[_Work | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.put(None)

    def __call__(self, call: Callable[[], _T], /) -> asyncio.Future[_T]:
        """Run `call` in the thread, after those given before."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()
        self._work.put((call, loop, done))
        return done

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call, loop, done = work
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001  # whoever awaits the call is told, whatever it is
                loop.call_soon_threadsafe(_fail, done, error)
            else:
                loop.call_soon_threadsafe(_succeed, done, result)


def _succeed(done: asyncio.Future[_T], result: _T) -> None:
    if not done.done():
        done.set_result(result)


def _fail(done: asyncio.Future[Any], error: BaseException) -> None:
    if not done.done():
        done.set_exception(error)
