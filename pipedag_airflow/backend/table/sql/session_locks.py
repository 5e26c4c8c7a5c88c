"""Locks that a database frees by itself when the process that took them dies."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import sqlalchemy as sa

from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from pipedag_airflow.backend.table.sql.store import SQLTableStore

__all__ = ["SessionLocks"]

log = logging.getLogger(__name__)


class SessionLocks(ABC):
    """The locks of this process: they live and die with one connection, which is open while there are any.

    It commits each statement by itself, so that it never sits in a transaction. Who wants a lock does not wait for it
    here: that somebody has a lock only tells that its process lives.

    Args:
        store: The table store of the database.
    """

    def __init__(self, store: SQLTableStore) -> None:
        self.store = store
        self._mutex = threading.Lock()
        self._connection: sa.Connection | None = None
        self._end: weakref.finalize[..., SessionLocks] | None = None
        self._wanted: dict[str, int] = {}
        self._taken: set[tuple[str, int]] = set()

    @abstractmethod
    def prepare(self, connection: sa.Connection) -> None:
        """Let the server notice within a minute that the machine at the other end of a new connection is gone."""

    @abstractmethod
    def take(self, connection: sa.Connection, name: str) -> bool:
        """Take a lock for as long as the connection lives, without waiting; return whether it was to be had."""

    @abstractmethod
    def free(self, connection: sa.Connection, name: str) -> None:
        """Give back a lock of the connection."""

    @abstractmethod
    def find(self, connection: sa.Connection, name: str) -> bool:
        """Return whether any connection to the database has a lock."""

    @abstractmethod
    def known_since(self, connection: sa.Connection) -> float:
        """Return since when the server has known of locks, in seconds since 1970: a restart frees all."""

    def hold(self, stage: str, token: int) -> None:
        """Take the lock of a lease, or make sure that this process still has it.

        If the connection has died, another one is opened, and takes all that the process had. Somebody may have seen
        meanwhile that nobody has the lock.

        Args:
            stage: The name of the stage; the process has one lock for each.
            token: The token of the lease.

        Raises:
            StoreError: If the database cannot be reached.
            LockError: If it refuses.
        """
        with self._mutex:
            self._drop_dead_connection()
            try:
                if self._connection is None:
                    self._connection = self._connect()
                if self._wanted.get(stage) != token:
                    self._free(stage)
                self._wanted[stage] = token
                for lease in sorted(self._wanted.items() - self._taken):
                    # Of a connection that has died the server may not know yet: then the next heartbeat has it.
                    if self.take(self._connection, self._name(*lease)):
                        self._taken.add(lease)
            except sa.exc.DBAPIError as error:
                self._close()
                reason = self.store.reason(error)
                raise LockError(f"The database {self.store.address} gives no locks: {reason}") from error

    def give_back(self, stage: str) -> None:
        """Give back the lock of a stage, if this process has one."""
        with self._mutex:
            try:
                self._free(stage)
            except sa.exc.DBAPIError as error:
                log.info("The lock of stage %r has ended already: %s", stage, self.store.reason(error))
                self._close()
            if not self._wanted:
                self._close()

    def token(self, stage: str) -> int | None:
        """Return the token of the lease whose lock this process took and has not given back; it may have lost it."""
        return self._wanted.get(stage)

    def is_held(self, connection: sa.Connection, stage: str, token: int) -> bool:
        """Return whether any process has the lock of a lease."""
        return self.token(stage) == token or self.find(connection, self._name(stage, token))

    def close(self) -> None:
        """Give back all locks of this process."""
        with self._mutex:
            self._wanted.clear()
            self._close()

    def _name(self, stage: str, token: int) -> str:
        return f"{self.store.metadata_tables.schema} lease {token} of {stage}"

    def _free(self, stage: str) -> None:
        lease = stage, self._wanted.pop(stage, -1)
        if lease in self._taken and self._connection is not None:
            self._taken.discard(lease)
            self.free(self._connection, self._name(*lease))

    def _drop_dead_connection(self) -> None:
        if self._connection is None:
            return
        try:
            self._connection.execute(sa.select(sa.literal(1))).all()
        except sa.exc.DBAPIError as error:
            log.warning(
                "The connection to %s whose life tells others that this process lives has ended: %s. Another one takes "
                "its place; the stages are still ours unless another run was faster.",
                self.store.address,
                self.store.reason(error),
            )
            self._close()

    def _connect(self) -> sa.Connection:
        connection = self.store.open().execution_options(isolation_level="AUTOCOMMIT")
        # Not of the pool any more: its end has to be the end of its locks.
        connection.detach()
        self._end = weakref.finalize(self, _close, connection, os.getpid())
        self.prepare(connection)
        return connection

    def _close(self) -> None:
        self._connection = None
        self._taken.clear()
        if self._end is not None:
            self._end()


def _close(connection: sa.Connection, process: int) -> None:
    """Close a connection; in a process that was forked since, it is the other one's."""
    if os.getpid() == process:
        connection.close()
