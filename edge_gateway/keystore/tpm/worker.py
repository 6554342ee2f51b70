"""A thread that does one thing after the other for callers that wait, and that does not keep the process from ending.

The pools of the standard library are waited for at the end of a process. A TPM that never answers would then be, too.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

ANSWER_WITHIN_S: Final = 180.0
"""Making an RSA key takes a chip longest, up to a minute."""
CLOSE_WITHIN_S: Final = 5.0


class Worker:
    """Does what it is given in a thread of its own.

    Args:
        name: the thread's, for debuggers and `top -H`.
    """

    def __init__(self, name: str) -> None:
        self._work: SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __call__(self, call: Callable[[], _T], *, within_s: float) -> _T:
        """What `call` returns or raises, after all that was given before.

        Raises:
            TimeoutError: it takes longer than `within_s`, what was before included. What has begun goes on.
        """
        done: Future[_T] = Future()
        self._work.put((call, done))
        try:
            return done.result(within_s)
        except TimeoutError:
            done.cancel()
            raise

    def end(self) -> None:
        """Let the thread end after what it has been given."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            call, done = work
            if not done.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001  # whoever waits for the call is told, whatever it is
                done.set_exception(error)
            del work, call, done  # nothing of a caller's is kept while there is nothing to do
