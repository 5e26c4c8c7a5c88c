"""One lock manager for all triggers of a process that wait at the same locks, however many runs wait."""

from __future__ import annotations

import asyncio
import contextvars
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pipedag_airflow.backend.lock import LockManager
    from pipedag_airflow.config import ConfigContext

__all__ = ["SharedLocks", "shared_locks"]

T = TypeVar("T")

_open: dict[str, SharedLocks] = {}


class SharedLocks:
    """A lock manager, and the one thread that uses it.

    A server admits few connections of a host: ZooKeeper sixty, if nobody says otherwise. And the threads of the event
    loop are few, and for all triggers of Airflow's. Locks that do not answer hold up only those who wait at the same
    locks, and so would have to wait in any case.

    Args:
        config: The configuration that says where the locks are.
    """

    def __init__(self, config: ConfigContext) -> None:
        self.users = 0
        self._config = config
        self._locks: LockManager | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pipedag-locks")

    async def ask(self, question: Callable[[LockManager], T]) -> T:
        """Put a question to the lock manager, in its thread.

        Args:
            question: The question.
        """
        return await self._in_thread(lambda: question(self._manager()))

    async def close(self) -> None:
        """Free what the lock manager uses, and end the thread."""
        try:
            await self._in_thread(self._dispose)
        finally:
            self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        # Airflow's log knows by the context which trigger speaks.
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: context.run(call))

    def _manager(self) -> LockManager:
        if self._locks is None:
            self._locks = self._config.create_lock_manager()
        return self._locks

    def _dispose(self) -> None:
        if self._locks is not None:
            self._locks.dispose()


@asynccontextmanager
async def shared_locks(config: ConfigContext) -> AsyncIterator[SharedLocks]:
    """Share the locks of a configuration with all who wait there; the last one to leave closes them.

    Args:
        config: The configuration.
    """
    # The locks may be in the database of the table store.
    parts = {name: config.config_dict.get(name) for name in ("instance_id", "lock_manager", "table_store")}
    key = json.dumps(parts, sort_keys=True, default=str)
    shared = _open.setdefault(key, SharedLocks(config))
    shared.users += 1
    try:
        yield shared
    finally:
        shared.users -= 1
        if shared.users == 0:
            del _open[key]
            await shared.close()
