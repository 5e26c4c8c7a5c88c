"""A connection to ZooKeeper: reads and changes znodes, waits as long as makes sense, and fails with a clear error."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import partial
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

import attrs
from kazoo.exceptions import (
    BadVersionError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    OperationTimeoutError,
    SessionExpiredError,
    WriterNotClosedException,
)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState, KeeperState, ZnodeStat

from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kazoo.client import KazooClient, TransactionRequest

__all__ = ["Conflict", "Connection", "Node"]

logger = logging.getLogger(__name__)

#: Without an answer for so many seconds an operation fails. A new leader is elected in seconds.
ANSWER_SECONDS = 30.0
_PAUSE = 0.05
#: Somebody else was faster. These are answers, and nothing was changed.
_CONFLICTS = (BadVersionError, NodeExistsError, NoNodeError, NotEmptyError)
#: The server may have carried it out or not.
_UNKNOWN = (ConnectionLoss, OperationTimeoutError, SessionExpiredError)
_STOPPED = (KeeperState.CLOSED, KeeperState.AUTH_FAILED)


class Conflict(Exception):
    """A znode is not as it was read; nothing was changed."""


@attrs.frozen
class Node:
    """What is stored at a path.

    Args:
        data: The content.
        version: How often it was changed; counted by ZooKeeper.
        children: The names of the znodes below it.
    """

    data: bytes
    version: int
    children: frozenset[str]


class Connection:
    """A client that is started when it is first needed.

    Args:
        client: The client. If somebody else has started it, it is theirs to stop.
        changed: Called with kazoo's state whenever it changes, in the thread of the client; must not wait.
    """

    def __init__(self, client: KazooClient, changed: Callable[[str], None]) -> None:
        self._client = client
        self._changed = changed
        self._starting = Lock()
        self._started = False
        self._connected = Event()
        #: Since when there is no connection, by the monotonic clock.
        self._silent_since: float | None = None
        client.add_listener(self._listen)
        if client.connected:
            self._connected.set()

    @property
    def session_seconds(self) -> float:
        """How long ZooKeeper keeps a session that it does not hear from, as the client has asked for."""
        # kazoo says it nowhere else. A server may have granted more or less: then we give up earlier or later than it.
        return float(self._client._session_timeout) / 1000  # noqa: SLF001 - see above

    @property
    def address(self) -> str:
        """The servers, for messages."""
        hosts = ",".join(f"{host}:{port}" for host, port in self._client.hosts)
        return f"ZooKeeper at {hosts}{self._client.chroot}"

    @property
    def connected(self) -> bool:
        """Whether the client has a connection to a server."""
        return bool(self._client.connected)

    def _listen(self, state: str) -> None:
        if state == KazooState.CONNECTED:
            self._silent_since = None
            self._connected.set()
        else:
            self._silent_since = self._silent_since or time.monotonic()
            self._connected.clear()
        self._changed(state)

    def spawn(self, function: Callable[[], object]) -> None:
        """Call a function in a thread of its own."""
        self._client.handler.spawn(function)

    def stop(self) -> None:
        """End the session, if this object has begun it. The next operation begins another one."""
        with self._starting:
            if not self._started:
                return
            self._started = False
            try:
                self._client.stop()
                self._client.close()
            except WriterNotClosedException as error:
                # It waits for a server that does not answer, in a thread that keeps no process alive.
                logger.warning("%s: the connection could not be closed in good order. %s", self.address, error)

    def read(self, path: str) -> Node | None:
        """Read a znode as it is now, also when it was changed through another server.

        Args:
            path: The path.

        Returns:
            The znode; None if there is none.
        """
        # Sent together: one round trip. Without the first a server may give what was true a moment ago.
        requests = (self._client.sync_async, self._client.get_async, self._client.get_children_async)
        try:
            _, (data, stat), children = self._ask(f"read {path}", *(partial(request, path) for request in requests))
        except NoNodeError:
            return None
        return Node(data, stat.version, frozenset(children))

    def children(self, path: str) -> list[str]:
        """Return the names of the znodes below a path, as they are now; none if it is not there."""
        requests = (self._client.sync_async, self._client.get_children_async)
        try:
            _, names = self._ask(f"read {path}", *(partial(request, path) for request in requests))
        except NoNodeError:
            return []
        return sorted(names)

    def exists(self, path: str) -> bool:
        """Return whether a znode is there now."""
        return self._stat(path) is not None

    def owns(self, path: str) -> bool:
        """Return whether an ephemeral znode is there now and belongs to the session of this client."""
        stat = self._stat(path)
        # client_id would be None while there is no connection.
        return stat is not None and stat.ephemeralOwner == self._client._session_id  # noqa: SLF001 - see above

    def _stat(self, path: str) -> ZnodeStat | None:
        requests = (self._client.sync_async, self._client.exists_async)
        _, stat = self._ask(f"read {path}", *(partial(request, path) for request in requests))
        return stat

    def commit(self, path: str, transaction: TransactionRequest) -> float | None:
        """Change znodes, all or none.

        Args:
            path: The znode that it is about, for messages.
            transaction: What to do, with the versions that were read.

        Returns:
            When it was done, as :meth:`time` gives it; None if znodes were only made.

        Raises:
            Conflict: if a znode is not as expected, or it is not known whether it was changed: read it again.
        """
        try:
            (results,) = self._ask(f"change {path}", transaction.commit_async, again=False)
        except _UNKNOWN as error:
            raise Conflict(path) from error
        failures = [result for result in results if isinstance(result, Exception)]
        # Of the operations that did not fail themselves ZooKeeper says that they were rolled back.
        if any(isinstance(failure, _CONFLICTS) for failure in failures):
            raise Conflict(path)
        if failures:
            refused = [failure for failure in failures if isinstance(failure, NoAuthError)]
            raise self._error(f"change {path}", (refused or failures)[0])
        return next((_modified(result) for result in results if isinstance(result, ZnodeStat)), None)

    def transaction(self) -> TransactionRequest:
        """Return an empty transaction for :meth:`commit`."""
        return self._client.transaction()

    def time(self, path: str) -> float:
        """Write an empty znode anew and return when that was.

        Args:
            path: The znode.

        Returns:
            Seconds since 1970, by the clock of the server that leads.
        """
        (stat,) = self._ask(f"change {path}", partial(self._client.set_async, path, b""))
        return _modified(stat)

    def ensure(self, path: str) -> None:
        """Create an empty znode, and those above it, if it is not there.

        Raises:
            LockError: if the root that the hosts name is not there.
        """
        client = self._client
        if client.chroot and not self.exists("/"):
            raise LockError(
                f"{self.address}: there is no znode {client.chroot}, which the hosts name as the root of everything. "
                f"Create it (zkCli.sh create {client.chroot}), or leave it out of lock_manager.args.hosts."
            )
        self._ask(f"create {path}", partial(client.ensure_path_async, path))

    def delete(self, path: str) -> None:
        """Delete a znode; not an error when it is gone."""
        with contextlib.suppress(NoNodeError):
            self._ask(f"delete {path}", partial(self._client.delete_async, path))

    def _ask(self, what: str, *requests: Callable[[], Any], again: bool = True) -> list[Any]:
        """Send requests at once and wait for the answers; if the connection is lost, send them again."""
        self._begin()
        # Not anew for each operation: a run that ends since nothing can be reached has several more.
        deadline = (self._silent_since or time.monotonic()) + ANSWER_SECONDS
        while True:
            self._wait_until_connected(what, deadline)
            try:
                pending = [request() for request in requests]
                return [each.get(timeout=max(0.0, deadline - time.monotonic())) for each in pending]
            except _CONFLICTS:
                raise
            except _UNKNOWN:
                if not again:
                    raise
                time.sleep(_PAUSE)
            except KazooTimeoutError as error:
                raise self._silence(what) from error
            except KazooException as error:
                raise self._error(what, error) from error

    def _begin(self) -> None:
        with self._starting:
            if self._client.client_state in _STOPPED:
                self._started = True
                self._silent_since = time.monotonic()
                # Not start(): it would give up for good where we may be asked again.
                self._client.start_async()

    def _wait_until_connected(self, what: str, deadline: float) -> None:
        if not self._connected.wait(max(0.0, deadline - time.monotonic())):
            raise self._silence(what)

    def _silence(self, what: str) -> LockError:
        return LockError(
            f"Cannot {what}: {self.address} gave no answer for {ANSWER_SECONDS:g} s. Look whether a majority of its "
            "servers runs (echo srvr | nc HOST PORT), can be reached from here, and accepts lock_manager.args; the log "
            "above has what kazoo says. Leases stay as they are."
        )

    def _error(self, what: str, error: Exception) -> LockError:
        told = f"Cannot {what}: {self.address} says {type(error).__name__} {error}".rstrip() + "."
        if isinstance(error, NoAuthError):
            told += " Set lock_manager.args.auth_data to credentials that the ACL of this znode admits."
        return LockError(told)


def _modified(stat: ZnodeStat) -> float:
    return float(stat.mtime) / 1000
