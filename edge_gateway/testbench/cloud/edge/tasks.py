"""Tasks that belong to somebody: they end when their owner does, and what fails in one is not lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

_log = structlog.get_logger()


class OwnedTasks:
    """The tasks of one owner.

    Args:
        owner: in the names of its tasks.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._tasks: set[asyncio.Task[object]] = set()
        self._failures: list[BaseException] = []

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> None:
        """Do something beside."""
        task = asyncio.create_task(work, name=f"{self._owner}-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def end(self) -> None:
        """Cancel what is not done.

        Raises:
            BaseExceptionGroup: what failed in tasks since they were spawned.
        """
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failures:
            raise BaseExceptionGroup(f"tasks of {self._owner} failed", self._failures)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("testbench.task.failed", task=task.get_name(), exc_info=failure)
            self._failures.append(failure)
