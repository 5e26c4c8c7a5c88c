"""Rows of PostgreSQL as Arrow: by ADBC, or else by the driver's own rows, which are slower."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.postgres.catalog import as_text
from pipedag_airflow.backend.table.sql.frames.rows import arrow_type, fetch_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa

__all__ = ["fetch"]

log = logging.getLogger(__name__)


def fetch(connection: sa.Connection, query: sa.Select[Any], say: Callable[[str], None]) -> pa.Table:
    """Return the rows of a query as Arrow.

    ADBC has a connection of its own, so it is used only where the transaction has written nothing that the query may be
    about. It needs the extra; without it the rows of the driver are collected, with the same result.

    Args:
        connection: A connection within a transaction.
        query: A query of plain columns.
        say: Is told the statement where it goes past SQLAlchemy.
    """
    readable = query.with_only_columns(*(_readable(column) for column in query.selected_columns))
    if _has_adbc() and _has_written_nothing(connection):
        table = _fetch_by_adbc(connection, readable, say)
    else:
        table = fetch_rows(connection, readable, _plain)
    return _typed(table, query)


def _readable(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return a column as something that every way of reading has a type for."""
    target = _read_as(column.type)
    if isinstance(column.type, sa.Interval):
        microseconds = sa.extract("epoch", column) * 1_000_000
        return sa.cast(microseconds, sa.BigInteger).label(_name(column))
    return column if target is None else sa.cast(column, target).label(_name(column))


def _name(column: sa.ColumnElement[Any]) -> str:
    return str(getattr(column, "name", ""))


def _read_as(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any] | None:
    """Return the type that a column is cast to; None where it can be read as it is."""
    if isinstance(kind, sa.ARRAY):
        inner = _read_as(kind.item_type)
        return None if inner is None else sa.ARRAY(inner)
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float):
        return sa.Text() if kind.scale == 0 else sa.Double()
    if isinstance(kind, (sa.types.NullType, sa.Uuid)):
        return sa.Text()
    return None


def _typed(table: pa.Table, query: sa.Select[Any]) -> pa.Table:
    """Bring the columns to the types that they are to have."""
    import pyarrow as pa

    kinds = [arrow_type(column.type) for column in query.selected_columns]
    columns = [column.cast(kind) for column, kind in zip(table.columns, kinds, strict=True)]
    return pa.table(columns, names=[_name(column) for column in query.selected_columns])


@cache
def _has_adbc() -> bool:
    try:
        import adbc_driver_postgresql.dbapi  # noqa: F401 - whether it is there
    except ImportError:
        log.warning("Frames are read slowly without ADBC: pip install 'pipedag-airflow[postgres]'")
        return False
    return True


def _has_written_nothing(connection: sa.Connection) -> bool:
    return connection.execute(sa.select(sa.func.pg_current_xact_id_if_assigned().is_(None))).scalar_one() is True


def _fetch_by_adbc(connection: sa.Connection, query: sa.Select[Any], say: Callable[[str], None]) -> pa.Table:
    from adbc_driver_postgresql import dbapi

    statement = as_text(query, connection.dialect)
    say(statement)
    try:
        with dbapi.connect(_address(connection)) as own, own.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetch_arrow_table()
    except dbapi.Error as error:
        raise sa.exc.DBAPIError(statement, None, error) from error


def _address(connection: sa.Connection) -> str:
    """Return how the driver's own connection was made, in the words of libpq."""
    info: Any = connection.connection.driver_connection.info  # type: ignore[union-attr] # both drivers have it
    parameters = dict(info.get_parameters() if hasattr(info, "get_parameters") else info.dsn_parameters)
    if info.password:
        parameters["password"] = info.password
    quoted = {name: str(value).replace("\\", "\\\\").replace("'", "\\'") for name, value in parameters.items()}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def _plain(values: Sequence[Any], kind: sa.types.TypeEngine[Any]) -> Iterable[Any]:
    del kind
    return (bytes(value) if isinstance(value, memoryview) else value for value in values)
