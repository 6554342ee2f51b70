"""A thread for calls that block, one after the other.

`asyncio.to_thread` would do, but its pool passes every result through two kinds of future and two locks, and the event
loop takes one turn more for it; at fifty syncs a second that was a sixth of the gateway's whole work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeAlias

_Done: TypeAlias = Callable[[BaseException | None], None]
_Work: TypeAlias = tuple[Callable[[], None], _Done, asyncio.AbstractEventLoop]


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

    def __call__(self, call: Callable[[], None], done: _Done, /) -> None:
        """Run `call` in the thread, after those given before; then `done` in the event loop."""
        self._work.put((call, done, asyncio.get_running_loop()))

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call, done, loop = work
            raised: BaseException | None = None
            try:
                call()
            except BaseException as error:  # noqa: BLE001  # whoever waits for the call is told, whatever it is
                raised = error
            loop.call_soon_threadsafe(done, raised)
