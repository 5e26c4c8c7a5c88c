"""Rows between Arrow and SQL Server: sent as arrays of parameters, read as rows of the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import arrow_type
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

__all__ = ["fetch_rows", "load_rows"]

#: Rows that are sent at once, and rows that are read at once.
_SENT, _READ = 10_000, 50_000


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
    for batch in ordered.to_batches(max_chunksize=_SENT):
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


def fetch_rows(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """Return the rows of a query as Arrow, in the types that its columns have."""
    import pyarrow as pa

    columns = list(query.selected_columns)
    kinds = [column.type for column in columns]
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in columns])
    result = connection.execute(query, execution_options={"yield_per": _READ})
    batches = [
        pa.record_batch([_array(*column) for column in zip(zip(*rows, strict=True), kinds, strict=True)], schema=schema)
        for rows in result.partitions()
    ]
    return pa.Table.from_batches(batches, schema)


def _array(values: Sequence[Any], kind: sa.types.TypeEngine[Any]) -> pa.Array:
    import pyarrow as pa

    if isinstance(kind, sa.Uuid):
        values = [value if value is None else str(value).lower() for value in values]
    elif isinstance(kind, sa.types.NullType):
        values = [value if value is None else str(value) for value in values]
    return pa.array(values, arrow_type(kind))
