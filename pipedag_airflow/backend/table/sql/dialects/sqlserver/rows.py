"""Rows between Arrow and SQL Server: sent as arrays of parameters, read as rows of the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import arrow_type
from pipedag_airflow.backend.table.sql.frames.rows import fetch_rows
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

__all__ = ["fetch", "load_rows"]

#: Rows that are sent at once.
_BATCH = 10_000


def load_rows(
    connection: sa.Connection, target: sa.TableClause, arrow: pa.Table, types: dict[str, sa.types.TypeEngine[Any]]
) -> None:
    """Insert the rows of an Arrow table.

    Args:
        connection: The connection of the transaction.
        target: The table, by schema and name.
        arrow: The rows.
        types: The types of the columns.

    Raises:
        UnsupportedValueError: if a column has a NaN or an infinite number, which SQL Server has not.
    """
    sent = _sendable(arrow, target.name)
    columns: list[sa.ColumnClause[Any]] = [sa.column(name, kind) for name, kind in types.items()]
    into = sa.insert(sa.table(target.name, *columns, schema=target.schema))
    # Names of columns may be none that a parameter can have.
    into = into.values({name: sa.bindparam(f"c{index}") for index, name in enumerate(types)})
    keys = [f"c{index}" for index in range(len(types))]
    ordered = sent.select(list(types))
    for batch in ordered.to_batches(max_chunksize=_BATCH):
        values = zip(*(column.to_pylist() for column in batch.columns), strict=True)
        rows = [dict(zip(keys, row, strict=True)) for row in values]
        if rows:
            connection.execute(into, rows)


def _sendable(arrow: pa.Table, table: str) -> pa.Table:
    """Bring columns into types whose values the driver can send."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for index, field in enumerate(arrow.schema):
        column = arrow.column(index)
        if pa.types.is_floating(field.type) and pc.any(pc.invert(pc.is_finite(column))).as_py():
            raise UnsupportedValueError(
                f"Column {field.name!r} of table {table!r} has a NaN or an infinite number, which SQL Server does not "
                "have. Replace it, by NULL for example (fill_nan(None) in polars)."
            )
        arrow = arrow.set_column(index, field.name, _sent(column))
    return arrow


def _sent(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values as the driver sends them: with microseconds, and large numbers as decimals."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return _sent(column.cast(kind.value_type))
    if pa.types.is_uint64(kind):
        return column.cast(pa.decimal128(20, 0))
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if pa.types.is_time(kind):
        return column.cast(pa.time64("us"), safe=False)
    if pa.types.is_duration(kind):
        return column.cast(pa.duration("us"), safe=False).cast(pa.int64())
    return column


def fetch(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """Return the rows of a query as Arrow, in the types that its columns have."""
    return fetch_rows(connection, query, _plain, arrow_type)


def _plain(values: Sequence[Any], kind: sa.types.TypeEngine[Any]) -> Iterable[Any]:
    if isinstance(kind, sa.Uuid):
        return (value if value is None else str(value).lower() for value in values)
    if isinstance(kind, sa.types.NullType):
        return (value if value is None else str(value) for value in values)
    return values
