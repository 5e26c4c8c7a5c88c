"""Rows of PostgreSQL as Arrow: by ADBC, or else by the driver's own rows, which are slower."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.postgres.catalog import as_text

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

__all__ = ["fetch"]

log = logging.getLogger(__name__)

#: Rows that are taken at once from a driver that has them one by one.
_BATCH = 10_000


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
        table = _fetch_rows(connection, readable)
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


def _arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    """Return the Arrow type in which a column is to arrive."""
    import pyarrow as pa

    if isinstance(kind, sa.ARRAY):
        return pa.list_(_arrow_type(kind.item_type))
    if isinstance(kind, sa.DateTime):
        return pa.timestamp("us", "UTC" if kind.timezone else None)
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float):
        return _decimal(kind.precision) if kind.scale == 0 else pa.float64()
    known: tuple[tuple[type[sa.types.TypeEngine[Any]], pa.DataType], ...] = (
        (sa.Double, pa.float64()),
        (sa.Float, pa.float32()),
        (sa.SmallInteger, pa.int16()),
        (sa.BigInteger, pa.int64()),
        (sa.Integer, pa.int32()),
        (sa.Boolean, pa.bool_()),
        (sa.Date, pa.date32()),
        (sa.Time, pa.time64("us")),
        (sa.Interval, pa.duration("us")),
        (sa.LargeBinary, pa.binary()),
    )
    return next((arrow for sql, arrow in known if isinstance(kind, sql)), pa.string())


def _decimal(precision: int | None) -> pa.DataType:
    import pyarrow as pa

    return pa.decimal128(38, 0) if precision is None or precision <= 38 else pa.decimal256(76, 0)


def _typed(table: pa.Table, query: sa.Select[Any]) -> pa.Table:
    """Bring the columns to the types that they are to have."""
    import pyarrow as pa

    kinds = [_arrow_type(column.type) for column in query.selected_columns]
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


def _fetch_rows(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """Return the rows of the driver, of which no more than a batch is there as Python's objects."""
    import pyarrow as pa

    fields = [(str(index), _arrow_type(column.type)) for index, column in enumerate(query.selected_columns)]
    schema = pa.schema(fields)
    result = connection.execute(query, execution_options={"yield_per": _BATCH})
    batches = []
    for rows in result.partitions():
        columns = zip(*rows, strict=True)
        arrays = [pa.array(map(_plain, values), kind) for values, kind in zip(columns, schema.types, strict=True)]
        batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value
