"""Calls that block, kept off the event loop: what every room says that has some, and the thread that runs them.

Who is given an `Offload` does not know where its calls run: in the thread of a `Worker`, or, on virtual time, right
here by `run_inline`. A coroutine waits for a call by `run`; who cannot afford a turn of the event loop for that, as the
buffer with each of its commits, is told by a callback.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import Protocol, Self, TypeAlias, TypeVar

_T = TypeVar("_T")

Done: TypeAlias = Callable[[BaseException | None], None]
"""Is told what a call has raised, or None."""
_Work: TypeAlias = tuple[Callable[[], None], Done, asyncio.AbstractEventLoop]


class Offload(Protocol):
    """Runs blocking calls off the event loop, one after the other."""

    def __call__(self, call: Callable[[], None], done: Done, /) -> None:
        """Run `call`; then call `done` in the event loop, later than now, with what was raised or with None."""
        ...


async def run(offload: Offload, call: Callable[[], _T]) -> _T:
    """What `call` returns or raises. If the caller is cancelled, the call goes on and nobody hears of it.

    Args:
        offload: where it blocks, after the calls given before.
        call: blocks.
    """
    ran: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    results: list[_T] = []

    def done(error: BaseException | None) -> None:
        if ran.done():
            return  # the caller was cancelled
        if error is None:
            ran.set_result(None)
        else:
            ran.set_exception(error)

    offload(lambda: results.append(call()), done)
    await ran
    return results.pop()


def run_inline(call: Callable[[], None], done: Done, /) -> None:
    """An `Offload` that does not: for virtual time, where a thread would bring the real clock in."""
    raised: BaseException | None = None
    try:
        call()
    except Exception as error:  # noqa: BLE001  # whoever waits for the call is told, whatever it is
        raised = error
    asyncio.get_running_loop().call_soon(done, raised)


class Worker:
    """An `Offload` to one thread. A context manager; leaving ends the thread after the calls given to it.

    `asyncio.to_thread` would do, but its pool passes every result through two kinds of future and two locks, and the
    event loop takes one turn more for it; at fifty syncs a second that was a sixth of the gateway's whole work.

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

    def __call__(self, call: Callable[[], None], done: Done, /) -> None:
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
            del work, call, done, raised  # nothing of a caller's is kept while there is nothing to do
