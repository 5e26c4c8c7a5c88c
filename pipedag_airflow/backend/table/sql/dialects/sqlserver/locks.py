"""SQL Server's clock for leases, and its application locks: for a transaction, or for as long as a connection lives.

Facts from the documentation of Transact-SQL: `sp_getapplock` answers 0 or 1 when the lock was to be had, -1 when its
time-out has passed, -3 when its transaction was chosen to break a deadlock, and -999 for a call that makes no sense.
Resources have at most 255 characters and belong to a database.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from pipedag_airflow.backend.metadata.leases import PresentTime
from pipedag_airflow.backend.table.sql.session_locks import SessionLocks
from pipedag_airflow.errors import LockError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.sql.compiler import SQLCompiler

__all__ = ["SqlServerSessionLocks", "lock_in_transaction"]

# NOCOUNT, as the driver would else take the count of a statement for the first result.
_TAKE = sa.text(
    "SET NOCOUNT ON; DECLARE @answer int; "
    "EXEC @answer = sp_getapplock @Resource = :resource, @LockMode = :mode, @LockOwner = :owner, "
    "@LockTimeout = :milliseconds; SELECT @answer"
)
_FREE = sa.text("EXEC sp_releaseapplock @Resource = :resource, @LockOwner = 'Session'")
_IS_FREE = sa.text("SELECT APPLOCK_TEST('public', :resource, 'Exclusive', 'Session')")
#: The database for what is temporary is made anew whenever the server starts; everybody may see when that was.
_STARTED = sa.text(
    "SELECT DATEDIFF_BIG(millisecond, '1970-01-01', DATEADD(minute, -DATEPART(tzoffset, SYSDATETIMEOFFSET()), "
    "create_date)) FROM sys.databases WHERE name = 'tempdb'"
)
_NOT_AT_ONCE = -1
_FOREVER = -1


@compiles(PresentTime, "mssql")
def _present_time(_element: PresentTime, _compiler: SQLCompiler, **_: Any) -> str:
    return "DATEDIFF_BIG(microsecond, '1970-01-01', SYSUTCDATETIME()) / 1000000.0"


def _resource(name: str) -> str:
    return f"pipedag {hashlib.sha256(name.encode()).hexdigest()}"


def _take(connection: sa.Connection, name: str, owner: str, milliseconds: int, mode: str = "Exclusive") -> bool:
    given = {"resource": _resource(name), "mode": mode, "owner": owner, "milliseconds": milliseconds}
    answer = connection.execute(_TAKE, given).scalar_one()
    if answer < _NOT_AT_ONCE:
        raise LockError(
            f"SQL Server refused the lock {name!r}: sp_getapplock answered {answer} (-2: cancelled, -3: chosen to "
            "break a deadlock, -999: the call makes no sense, or there is no transaction). Start the run again; if it "
            "happens again, ask for the server's error log."
        )
    return bool(answer > _NOT_AT_ONCE)


def lock_in_transaction(connection: sa.Connection, names: Iterable[str], mode: str = "Exclusive") -> None:
    """Wait for one lock after the other, and keep them until the transaction ends.

    Args:
        connection: The connection of the transaction.
        names: What is locked.
        mode: Shared, or Exclusive.

    Raises:
        LockError: If the server refuses one.
    """
    for name in names:
        _take(connection, name, "Transaction", _FOREVER, mode)


class SqlServerSessionLocks(SessionLocks):
    """Application locks of a connection."""

    def prepare(self, connection: sa.Connection) -> None:
        """Do nothing: the server probes a silent connection after 30 s, and ends it a few seconds later."""
        del connection

    def take(self, connection: sa.Connection, name: str) -> bool:
        """Take a lock for as long as the connection lives.

        Raises:
            LockError: If the server refuses for another reason than that somebody has it.
        """
        return _take(connection, name, "Session", 0)

    def free(self, connection: sa.Connection, name: str) -> None:
        """Give back a lock of the connection."""
        connection.execute(_FREE, {"resource": _resource(name)})

    def find(self, connection: sa.Connection, name: str) -> bool:
        """Return whether any other connection to the database has a lock."""
        return bool(connection.execute(_IS_FREE, {"resource": _resource(name)}).scalar_one() == 0)

    def known_since(self, connection: sa.Connection) -> float:
        """Return when the server was started, in seconds since 1970 by its clock."""
        return float(connection.execute(_STARTED).scalar_one()) / 1000
