"""Leases in the database of the table store, for runs that share nothing else."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from pipedag_airflow.backend.lock.codec import FORMAT, decode
from pipedag_airflow.backend.lock.files import InstanceContext, construct
from pipedag_airflow.backend.lock.lease import Lease, Owner
from pipedag_airflow.backend.lock.records import RecordLockManager
from pipedag_airflow.backend.lock.stage_record import StageRecord
from pipedag_airflow.errors import ConfigError, LockError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import sqlalchemy as sa

    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction

__all__ = ["DatabaseLockManager"]

T = TypeVar("T")

_OWNER = tuple(field.name for field in attrs.fields(Owner))
_TIMES = ("since", "heartbeat", "expires")


class DatabaseLockManager(RecordLockManager):
    """Keeps one row per stage in the metadata schema, changed by compare-and-set in transactions of milliseconds.

    Times are those of the database's clock, so the clocks of the hosts need not agree. For the lease form no connection
    has to live for the lease to count. In the session form, where the database has locks that end with a connection,
    the process has one such lock for each token that it holds: others see by it at once, from any host, whether the
    process lives. It is a sign of life and nothing more. Who holds the stage is said by the row alone, so a connection
    that was lost and found does no harm.

    Args:
        engine: The table store, in whose metadata schema the leases are; or an SQLAlchemy engine, whose URL is used.
        instance_id: The instance whose stages are locked.
        lock_schema: Schema of the lease table, with an engine; by default that of the metadata.
        create_lock_schema: Create the schema if it is not there.
        ticket_seconds: How long a refused caller keeps its place without asking again.
        clock: The present time in seconds since 1970; by default that of the database.

    Raises:
        ConfigError: If no other process sees the database, or a schema is given with a table store.
    """

    def __init__(
        self,
        engine: sa.Engine | SQLTableStore,
        instance_id: str,
        lock_schema: str | None = None,
        create_lock_schema: bool = True,
        *,
        ticket_seconds: float = 10.0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(ticket_seconds=ticket_seconds, clock=clock or self._database_time)
        #: How far the database's clock is ahead of this process's monotonic one, as of the last look.
        self._ahead: float | None = None
        self._store = _store_of(engine, instance_id, lock_schema, create_lock_schema)
        if self._store.is_private:
            raise ConfigError(
                f"DatabaseLockManager cannot keep leases in {self._store.address}: no other process sees a database "
                "in memory. Name a file in table_store.args.url, or set lock_manager.class to "
                "pipedag_airflow.backend.lock.NoLockManager."
            )
        self.silence_is_doubt = not self._store.admits_one_process
        kind = self._store.session_locks
        self._sessions = None if kind is None else kind(self._store)

    @classmethod
    def from_config(cls, context: InstanceContext, **args: Any) -> Self:
        """Make the lock manager that pipedag.yaml describes.

        Args:
            context: The configuration of the instance; the leases are in the database of its table store.
            **args: ``lock_manager.args``; none is needed.

        Returns:
            The manager.
        """
        given = {"engine": context.table_store, "instance_id": context.instance_id}
        return construct(cls, "lock_manager", given | args)

    def dispose(self) -> None:
        """Close the connections; the table store opens new ones when it needs them.

        The lease form's leases stay. Those of the session form are free for the next run, where the database can tell.
        """
        super().dispose()
        if self._sessions is not None:
            self._sessions.close()
        self._store.dispose()

    def _database_time(self) -> float:
        if self._ahead is None:
            with self._transaction():
                pass
        assert self._ahead is not None
        return time.monotonic() + self._ahead

    @contextmanager
    def _transaction(self) -> Iterator[SQLTransaction]:
        """Open a transaction, and set the clock by that of the database."""
        with self._store.transaction() as transaction:
            self._ahead = transaction.leases.now() - time.monotonic()
            yield transaction

    def _stages(self) -> list[str]:
        with self._transaction() as transaction:
            return transaction.leases.stages()

    def _read(self, stage: str) -> StageRecord:
        with self._transaction() as transaction:
            return self._record(stage, transaction.leases.read(stage))

    def _records(self) -> list[StageRecord]:
        with self._transaction() as transaction:
            return [self._record(row["stage"], row) for row in transaction.leases.read_all()]

    def _change(self, stage: str, change: Callable[[StageRecord], tuple[StageRecord, T]]) -> T:
        from pipedag_airflow.backend.metadata import LeaseConflictError

        while True:
            try:
                return self._try_to_change(stage, change)
            except LeaseConflictError:
                continue  # somebody else was faster, so all together are getting on

    def _try_to_change(self, stage: str, change: Callable[[StageRecord], tuple[StageRecord, T]]) -> T:
        with ExitStack() as undo:
            with self._transaction() as transaction:
                row = transaction.leases.read(stage)
                old = self._record(stage, row)
                new, result = change(old)
                if new != old:
                    self._prove_life(old, new, undo)
                    transaction.leases.replace(stage, None if row is None else row["version"], _columns(new))
            undo.pop_all()
        self._forget_session(new)
        return result

    def _prove_life(self, old: StageRecord, new: StageRecord, undo: ExitStack) -> None:
        """Have the lock of a session before others can see its lease, and look after it whenever that is renewed."""
        if self._sessions is None or new.lease is None or new.lease.owner.pid is None:
            return
        if new.token != old.token:
            undo.callback(self._sessions.give_back, new.stage)
            self._sessions.hold(new.stage, new.token)
        elif self._sessions.token(new.stage) == new.token:
            self._sessions.hold(new.stage, new.token)

    def _forget_session(self, record: StageRecord) -> None:
        """Give back the lock of a lease that is over, whoever ended it."""
        token = None if self._sessions is None else self._sessions.token(record.stage)
        if self._sessions is None or token is None:
            return
        session = record.lease is not None and record.lease.owner.pid is not None
        # One of a later token is about to be written by another thread.
        if token < record.token or (token == record.token and not session):
            self._sessions.give_back(record.stage)

    def _is_connected(self, lease: Lease) -> bool | None:
        """Whether the process of a session lives, as the database sees it; see the base class."""
        if self._sessions is None or lease.owner.pid is None:
            return None
        with self._store.connection() as connection:
            if self._sessions.is_held(connection, lease.stage, lease.token):
                return True
            # The lock may have ended with the server, and not with the process.
            return False if lease.heartbeat > self._sessions.known_since(connection) else None

    def _record(self, stage: str, row: Mapping[str, Any] | None) -> StageRecord:
        if row is None:
            return StageRecord(stage)
        owner = {name: row[name] for name in _OWNER}
        lease = {"stage": stage, "owner": owner, "token": row["token"], **{name: row[name] for name in _TIMES}}
        held = row["run_id"] is not None
        try:
            content = {"format": FORMAT, "stage": stage, "token": row["token"], "lease": lease if held else None}
            return decode(content | {"tickets": json.loads(row["tickets"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            table = self._store.metadata_tables.lease.fullname
            raise LockError(
                f"The row of stage {stage!r} in table {table} of {self._store.address} is not a lease "
                f"({type(error).__name__}: {error}). We never write such a row, so it was changed by hand. Make sure "
                "that no run of this instance is active and delete it."
            ) from error


def _store_of(
    engine: sa.Engine | SQLTableStore, instance_id: str, schema: str | None, create_schema: bool
) -> SQLTableStore:
    from pipedag_airflow.backend.metadata import MetadataTables
    from pipedag_airflow.backend.table import SQLTableStore

    if isinstance(engine, SQLTableStore):
        if schema is not None or not create_schema:
            raise ConfigError(
                "lock_schema and create_lock_schema are not for a table store: the leases are in the schema of its "
                f"metadata, {engine.metadata_tables.schema!r}. Leave them out."
            )
        return engine
    # A store, because some databases need more care than a pool of connections takes; it is of the dialect's class.
    make: Callable[..., SQLTableStore] = SQLTableStore
    store = make(engine.url.render_as_string(hide_password=False), avoid_drop_create_schema=not create_schema)
    store.instance_id = instance_id
    if schema is not None:
        store.metadata_tables = MetadataTables(schema)
    return store


def _columns(record: StageRecord) -> dict[str, Any]:
    """Return the columns of the row that stores a record."""
    lease = record.lease
    columns: dict[str, Any] = {name: None if lease is None else getattr(lease.owner, name) for name in _OWNER}
    columns |= {name: None if lease is None else getattr(lease, name) for name in _TIMES}
    tickets = json.dumps([attrs.asdict(ticket) for ticket in record.tickets])
    return columns | {"token": record.token, "tickets": tickets}
