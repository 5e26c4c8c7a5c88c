"""Rows of a driver as Arrow, where no driver has Arrow itself: which type a column arrives in, and batches of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import pyarrow as pa

__all__ = ["arrow_type", "fetch_rows"]

#: Rows that are there as Python's objects at a time.
_BATCH = 10_000
#: Digits of the smaller of Arrow's decimals.
_DIGITS = 38


def arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    """Return the Arrow type in which a column of the database arrives: whole decimals are exact, others floats.

    Args:
        kind: The type of the column; one that is not known arrives as text.
    """
    import pyarrow as pa

    if isinstance(kind, sa.ARRAY):
        return pa.list_(arrow_type(kind.item_type))
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

    return pa.decimal128(_DIGITS, 0) if precision is None or precision <= _DIGITS else pa.decimal256(2 * _DIGITS, 0)


def fetch_rows(
    connection: sa.Connection,
    query: sa.Select[Any],
    plain: Callable[[Sequence[Any], sa.types.TypeEngine[Any]], Iterable[Any]],
    type_of: Callable[[sa.types.TypeEngine[Any]], pa.DataType] = arrow_type,
) -> pa.Table:
    """Return the rows of a query as Arrow, of which no more than a batch is there as Python's objects.

    Args:
        connection: A connection within a transaction.
        query: A query of plain columns.
        plain: Returns values of a column, given its type, as Arrow takes them.
        type_of: Returns the Arrow type of a column.
    """
    import pyarrow as pa

    columns = list(query.selected_columns)
    # Positions, as a view may have two columns of one name.
    schema = pa.schema([(str(index), type_of(column.type)) for index, column in enumerate(columns)])
    result = connection.execute(query, execution_options={"yield_per": _BATCH})
    batches = []
    for rows in result.partitions():
        values = zip(zip(*rows, strict=True), columns, schema.types, strict=True)
        arrays = [pa.array(plain(found, column.type), kind) for found, column, kind in values]
        batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema).rename_columns([str(getattr(c, "name", "")) for c in columns])
