"""Calls that block, each in a thread of its own, which does not keep the process from ending.

The event loop's own pool would not do: a client library makes it a single thread, which may be waiting for a silent hub
just when the keys have to go.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(call: Callable[[], _T], *, name: str) -> _T:
    """What `call` returns or raises. If the caller is cancelled, the call goes on and nobody hears of it.

    Args:
        call: blocks.
        name: the thread's, for debuggers and `top -H`.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  # whoever waits for the call is told, whatever it is
            errors.append(error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, name=name, daemon=True).start()
    await ended.wait()
    if errors:
        raise errors.pop()
    return results.pop()
