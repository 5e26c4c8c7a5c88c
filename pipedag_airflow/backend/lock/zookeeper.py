"""Leases in ZooKeeper, for runs on many machines; the death of a local run frees its stages wherever it is noticed."""

from __future__ import annotations

import json
import logging
import time
from threading import Timer
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote

import attrs
from kazoo.protocol.states import KazooState

from pipedag_airflow.backend.lock.codec import decode, encode
from pipedag_airflow.backend.lock.files import InstanceContext, file_name, instance_folder
from pipedag_airflow.backend.lock.lease import Lease, LockState, Owner
from pipedag_airflow.backend.lock.records import RecordLockManager
from pipedag_airflow.backend.lock.stage_record import StageRecord
from pipedag_airflow.backend.lock.znodes import Conflict, Node
from pipedag_airflow.backend.lock.znodes import Connection as Client
from pipedag_airflow.backend.lock.zookeeper_client import client_args, make_client
from pipedag_airflow.errors import ConfigError, LockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kazoo.client import KazooClient

    from pipedag_airflow.config.connections import Connection

__all__ = ["ZooKeeperLockManager"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

_ROOT = "/pipedag_airflow/locks"
_ANY_VERSION = -1


@attrs.frozen
class _Session:
    """What keeps a stage of a session: an ephemeral znode, and the life of the client in which it was made."""

    path: str
    life: int


class ZooKeeperLockManager(RecordLockManager):
    """Keeps one znode per stage, changed by compare-and-set on its version.

    In the session form there is an ephemeral znode below it, named by the token of the lease. ZooKeeper removes it when
    it has not heard from the process for the time-out of the session, and then the next run takes the stage over:
    neither clocks nor process ids are compared across machines.

    While there is no connection, no stage is certain: ``UNCERTAIN``. After the time-out of the session its stages are
    ``INVALID``, even if ZooKeeper turns out to have kept it, and are given back as soon as a server can be reached;
    they have to be acquired anew. The lease form does not depend on the session, and stays ``UNCERTAIN`` until then.

    Times are those of the clock of the ensemble's leader.

    Args:
        client: The client. It is started when it is needed, and then stopped by ``dispose``; one that runs already is
            used as it is.
        base_path: The znode above those of the stages; made when it is missing.
        ticket_seconds: How long a refused caller keeps its place without asking again.
        clock: The present time in seconds since 1970; by default that of the ensemble.

    Raises:
        ConfigError: If ``base_path`` is the root.
    """

    def __init__(
        self,
        client: KazooClient,
        base_path: str,
        *,
        ticket_seconds: float = 10.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(ticket_seconds=ticket_seconds, clock=clock or self._ensemble_time)
        self.base_path = "/" + base_path.strip("/")
        if self.base_path == "/":
            raise ConfigError("base_path of ZooKeeperLockManager is the root of ZooKeeper. Name a znode below it.")
        #: How far the ensemble's clock is ahead of this process's monotonic one.
        self._ahead: float | None = None
        self._connection = Client(client, self._connection_changed)
        self._sessions: dict[tuple[str, str], _Session] = {}
        #: Grows whenever the session of the client is over; what was acquired in an earlier life is lost.
        self._life = 0
        self._patience: Timer | None = None

    @classmethod
    def from_config(cls, context: InstanceContext, **args: Any) -> Self:
        """Make the lock manager that pipedag.yaml describes.

        Args:
            context: The configuration of the instance; the leases are below ``/pipedag_airflow/locks/<instance_id>``.
            **args: ``lock_manager.args``: the arguments of ``kazoo.client.KazooClient``.

        Returns:
            The manager.
        """
        return cls(make_client(args), f"{_ROOT}/{file_name(instance_folder(context.instance_id))}")

    @classmethod
    def connection_args(cls, connection: Connection) -> dict[str, Any]:
        """Return what an Airflow connection stands for: servers, root, credentials, and what its extra says.

        Args:
            connection: The connection.

        Raises:
            ConfigError: If it has no host, or something of its extra is a text that must not be one.
        """
        return client_args(connection)

    def dispose(self) -> None:
        """End the session of the client. The lease form's leases stay; the session form's are free for the next run."""
        super().dispose()
        self._connection.stop()
        with self._mutex:
            self._sessions.clear()

    def _ensemble_time(self) -> float:
        if self._ahead is None:
            self._connection.ensure(self.base_path)
            self._ahead = self._connection.time(self.base_path) - time.monotonic()
        return time.monotonic() + self._ahead

    def _path(self, stage: str) -> str:
        return f"{self.base_path}/{file_name(stage)}"

    def _stages(self) -> list[str]:
        stages = []
        for name in self._connection.children(self.base_path):
            try:
                record = self._record(unquote(name), self._connection.read(f"{self.base_path}/{name}"))
            except LockError:
                stages.append(unquote(name))  # whoever reads it gets the error
                continue
            stages.append(record.stage)  # not from the name, which may be shortened
        return stages

    def _read(self, stage: str) -> StageRecord:
        return self._record(stage, self._connection.read(self._path(stage)))

    def _change(self, stage: str, change: Callable[[StageRecord], tuple[StageRecord, T]]) -> T:
        path = self._path(stage)
        while True:
            node = self._connection.read(path)
            old = self._record(stage, node)
            new, result = change(old)
            if new == old:
                return result
            try:
                self._write(path, node, old, new)
            except Conflict:
                continue  # somebody else was faster, so all together are getting on
            return result

    def _write(self, path: str, node: Node | None, old: StageRecord, new: StageRecord) -> None:
        life = self._life
        transaction = self._connection.transaction()
        data = json.dumps(encode(new)).encode("ascii")
        if node is None:
            self._connection.ensure(self.base_path)
            transaction.create(path, data)
        else:
            transaction.set_data(path, data, node.version)
        before, after = _session_name(old.lease), _session_name(new.lease)
        children = frozenset() if node is None else node.children
        # All but the present one: what somebody left who did not know that it had come to be.
        for name in sorted(children - {after}):
            transaction.delete(f"{path}/{name}")
        if after in children:
            transaction.check(f"{path}/{after}", _ANY_VERSION)  # who judges it alive must not be late
        elif after is not None and after != before:
            transaction.create(f"{path}/{after}", ephemeral=True)
        written = self._connection.commit(path, transaction)
        if written is not None:
            self._ahead = written - time.monotonic()
        self._note_session(old, new, life)

    def _note_session(self, old: StageRecord, new: StageRecord, life: int) -> None:
        """Note what a change of a record has to do with the session of the client."""
        before, after = _session_name(old.lease), _session_name(new.lease)
        if old.lease is not None and before != after:
            with self._mutex:
                self._sessions.pop((old.stage, old.lease.owner.run_id), None)
        if new.lease is None or after is None:
            return
        key = (new.stage, new.lease.owner.run_id)
        path = f"{self._path(new.stage)}/{after}"
        # Made before, and not noted: perhaps by another process of the run, perhaps by us when the answer was lost.
        if after != before or (key not in self._sessions and self._connection.owns(path)):
            with self._mutex:
                self._sessions[key] = _Session(path, life)

    def _record(self, stage: str, node: Node | None) -> StageRecord:
        if node is None:
            return StageRecord(stage)
        try:
            return decode(json.loads(node.data))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            path = self._path(stage)
            raise LockError(
                f"The znode {path} of {self._connection.address} is not a lease record ({type(error).__name__}: "
                f"{error}). We never write such a one, so it was changed by hand. Make sure that no run of this "
                f"instance is active and delete it: zkCli.sh deleteall '{path}'"
            ) from error

    def _is_connected(self, lease: Lease) -> bool | None:
        """Whether ZooKeeper still hears from the process of a lease in session form; see the base class."""
        name = _session_name(lease)
        if name is None:
            return None
        path = f"{self._path(lease.stage)}/{name}"
        ours = self._sessions.get((lease.stage, lease.owner.run_id))
        given_up = ours is not None and ours.path == path and ours.life != self._life
        return not given_up and self._connection.exists(path)

    def _is_lost(self, lease: Lease) -> bool:
        """Whether ZooKeeper has ended the session, so that any other run may have the stage; see the base class."""
        return self._is_connected(lease) is False

    def state(self, stage: str, owner: Owner) -> LockState:
        """What a run may assume about a stage; known at once when there is no connection."""
        if self.tracked(stage, owner) and not self._connection.connected:
            return self.observe(stage, owner, LockState.UNCERTAIN)
        return super().state(stage, owner)

    def observe(self, stage: str, owner: Owner, new: LockState) -> LockState:
        """Note a state that was seen; ``LOCKED`` counts only while there is a connection, and in one life of it."""
        noted = super().observe(stage, owner, new)
        if noted is not LockState.LOCKED:
            return noted
        # Asked after it was noted: a connection that is lost from now on is noted later.
        with self._mutex:
            session = self._sessions.get((stage, owner.run_id))
            lost = session is not None and session.life != self._life
        if lost:
            return super().observe(stage, owner, LockState.INVALID)
        return noted if self._connection.connected else super().observe(stage, owner, LockState.UNCERTAIN)

    def _connection_changed(self, state: str) -> None:
        """Called by kazoo's thread, which must not wait for ZooKeeper."""
        if self._patience is not None:
            self._patience.cancel()
        if state == KazooState.CONNECTED:
            self._connection.spawn(self._look_again)
        elif state == KazooState.LOST:
            self._lose_sessions()
        else:
            for stage, run_id in self.all_tracked():
                self.observe(stage, Owner(run_id, ""), LockState.UNCERTAIN)
            # kazoo says LOST when a server tells it so, and while we are cut off none does.
            self._patience = Timer(self._connection.session_seconds, self._give_up, args=(self._life,))
            self._patience.daemon = True
            self._patience.start()

    def _give_up(self, life: int) -> None:
        if self._connection.connected or life != self._life:
            return
        logger.error(
            "%s was not heard of for %g s, the time-out of the session: all stages of local runs of this process count "
            "as lost.",
            self._connection.address,
            self._connection.session_seconds,
        )
        self._lose_sessions()

    def _lose_sessions(self) -> None:
        with self._mutex:
            self._life += 1
            sessions = list(self._sessions)
        for stage, run_id in sessions:
            owner = Owner(run_id, "")
            if self.tracked(stage, owner):
                self.observe(stage, owner, LockState.INVALID)

    def _look_again(self) -> None:
        """After a connection was lost and found: what was lost is given back, of the rest the records tell."""
        try:
            with self._mutex:
                lost = {key: session for key, session in self._sessions.items() if session.life != self._life}
            for key, session in lost.items():
                self._connection.delete(session.path)
                with self._mutex:
                    if self._sessions.get(key) is session:
                        del self._sessions[key]
            for stage, run_id in self.all_tracked():
                self.state(stage, Owner(run_id, ""))
        except LockError as error:
            # The connection was lost again, and will be found again; or the next heartbeat meets the same error.
            logger.warning("The leases could not be looked at after the connection was lost. %s", error)


def _session_name(lease: Lease | None) -> str | None:
    """Return the name of the ephemeral znode of a lease; None for the lease form, which has none."""
    return None if lease is None or lease.owner.pid is None else str(lease.token)
