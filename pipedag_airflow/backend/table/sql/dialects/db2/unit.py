"""What has to be known of a transaction on Db2, a unit of work, beyond its connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.db2.errors import ended_unit, reason
from pipedag_airflow.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

    from pipedag_airflow.backend.metadata import Place
    from pipedag_airflow.backend.table.sql.store import SQLTableStore

__all__ = ["UnitOfWork", "collect_statistics", "note_limit", "watch"]

log = logging.getLogger(__name__)

_UNIT, _LIMITED = "pipedag_unit", "pipedag_lock_timeout"


@attrs.define
class UnitOfWork:
    """A transaction.

    Args:
        written: The tables that it has filled, whose statistics are collected when it has ended.
        rolled_back: Whether Db2 has rolled it back, so that what follows would be another one.
    """

    written: list[Place] = attrs.field(factory=list)
    rolled_back: bool = False

    @classmethod
    def begin(cls, connection: sa.Connection) -> None:
        """Note that a transaction begins on a connection."""
        connection.info[_UNIT] = cls()

    @classmethod
    def of(cls, connection: sa.Connection) -> UnitOfWork:
        """Return the transaction of a connection."""
        unit: UnitOfWork = connection.info.setdefault(_UNIT, cls())
        return unit


def note_limit(connection: sa.Connection) -> None:
    """Note that the connection waits for locks otherwise than as the database is configured."""
    connection.info[_LIMITED] = True


def watch(engine: sa.Engine) -> None:
    """Let an engine notice what Db2 rolls back, and give out only connections that wait for locks as configured."""

    def note_rollback(context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if isinstance(error, sa.exc.DBAPIError) and ended_unit(error) and context.connection is not None:
            UnitOfWork.of(context.connection).rolled_back = True

    def restore(dbapi_connection: Any, entry: ConnectionPoolEntry) -> None:
        if dbapi_connection is None or not entry.info.pop(_LIMITED, False):
            return
        try:
            cursor = dbapi_connection.cursor()
            cursor.execute("SET CURRENT LOCK TIMEOUT = NULL")
            cursor.close()
            dbapi_connection.commit()
        except engine.dialect.loaded_dbapi.Error as error:
            entry.invalidate(error)

    sa.event.listen(engine, "handle_error", note_rollback)
    sa.event.listen(engine, "checkin", restore)


def collect_statistics(store: SQLTableStore, places: Iterable[Place]) -> None:
    """Collect the statistics of tables that a transaction has committed; one that fails is a line in the log."""
    for place in places:
        try:
            with store.connection() as connection:
                connection.execute(ddl.Analyze(*place))
        except (StoreError, sa.exc.DBAPIError) as error:
            why = reason(error) if isinstance(error, sa.exc.DBAPIError) else error
            log.warning("Statistics of %s.%s were not collected, queries on it may be slow: %s", *place, why)
