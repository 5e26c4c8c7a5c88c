"""How a session with SQL Server is set up, and what is known of its transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.sqlserver.errors import reason
from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import SqlServerTypes, with_unicode
from pipedag_airflow.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

__all__ = ["failure_of", "limit_lock_wait", "make_engine", "note_failure"]

_DRIVER = "ODBC Driver 18 for SQL Server"

# Any error ends the transaction. A time-out of an earlier transaction does not go on. ODBC begins a transaction with
# the first statement that reads or writes a table, and sp_getapplock, which wants one, is none: so a row of the catalog
# is read, which is there in every database.
_BEGIN = (
    "SET XACT_ABORT ON; SET LOCK_TIMEOUT -1; "
    "DECLARE @begun int; SELECT @begun = schema_id FROM sys.schemas WITH (NOLOCK) WHERE name = N'sys'"
)
#: Whoever comes after us to a view that we wait for waits, too.
_LOCK_TIMEOUT_MILLISECONDS = 100
_FAILURE = "pipedag_failure"


def make_engine(url: sa.URL, **options: Any) -> sa.Engine:
    """Return an engine that sets up every transaction and takes note of errors in it.

    After an error the server has rolled back, and goes on with the next statement in a new transaction, as if nothing
    had been.

    Args:
        url: The URL of the database.
        **options: Further arguments of SQLAlchemy's ``create_engine``.

    Raises:
        ConfigError: if the URL names another driver than pyodbc.
        MissingExtraError: if pyodbc or the driver manager of ODBC is not installed.
    """
    if url.get_driver_name() != "pyodbc":
        raise ConfigError(f"Write mssql+pyodbc://, not {url.drivername}://")
    # A connection that the server has ended is noticed before it is used. Comments on columns of the metadata would
    # need one more right, and a statement each.
    options |= {"pool_pre_ping": True, "supports_comments": False, "fast_executemany": True}
    try:
        engine = sa.create_engine(_with_driver(url), **options)
    except ImportError as error:
        raise MissingExtraError(
            f"SQL Server cannot be reached without pyodbc ({error}): pip install 'pipedag-airflow[mssql]', and install "
            "unixODBC and Microsoft's ODBC driver, which pip cannot."
        ) from error
    dialect: Any = engine.dialect
    # A closed connection has to be closed: with it its locks end.
    dialect.loaded_dbapi.pooling = False
    dialect.type_compiler_instance = SqlServerTypes(dialect)
    dialect.colspecs = with_unicode(dialect.colspecs)
    sa.event.listen(engine, "begin", _begin)
    sa.event.listen(engine, "handle_error", _note_error)
    return engine


def _with_driver(url: sa.URL) -> sa.URL:
    """Return the URL with a driver, where it needs one and names none."""
    is_source = not (url.host and url.database)  # the name of a data source says the driver
    if is_source or {"driver", "dsn", "odbc_connect"} & {name.lower() for name in url.query}:
        return url
    return url.update_query_dict({"driver": _DRIVER})


def _begin(connection: sa.Connection) -> None:
    connection.info.pop(_FAILURE, None)
    connection.exec_driver_sql(_BEGIN)


def _note_error(context: ExceptionContext) -> None:
    if context.connection is not None and isinstance(context.sqlalchemy_exception, sa.exc.DBAPIError):
        note_failure(context.connection, context.sqlalchemy_exception)


def note_failure(connection: sa.Connection, error: sa.exc.DBAPIError) -> None:
    """Note that the transaction is given up."""
    connection.info[_FAILURE] = reason(error)


def failure_of(connection: sa.Connection) -> str | None:
    """Return what the server said when it gave up the transaction; None if it has not."""
    found: Any = connection.info.get(_FAILURE)
    return None if found is None else str(found)


def limit_lock_wait(connection: sa.Connection) -> None:
    """Let no statement of the transaction wait long for a lock."""
    connection.exec_driver_sql(f"SET LOCK_TIMEOUT {_LOCK_TIMEOUT_MILLISECONDS}")
