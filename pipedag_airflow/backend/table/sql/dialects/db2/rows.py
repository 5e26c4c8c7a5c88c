"""Rows between Arrow and Db2: by the driver's own rows, sent in batches and fetched in batches."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.dialects.db2.ddl import LONGEST_VARCHAR
from pipedag_airflow.backend.table.sql.frames.rows import fetch_rows
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

__all__ = ["fetch", "fitted_types", "load"]

#: How many rows are sent at once.
_BATCH = 1_000


def fitted_types(
    types: Mapping[str, sa.types.TypeEngine[Any]], arrow: pa.Table, name: str
) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the types of columns for data: a text or bytes without a length get that of the longest value.

    Args:
        types: The types.
        arrow: The data.
        name: The table, for messages.

    Raises:
        UnsupportedValueError: if there are lists.
    """
    return {column: _fitted(kind, arrow.column(column), _where(column, name)) for column, kind in types.items()}


def _where(column: str, name: str) -> str:
    return f"Column {column!r} of table {name!r}"


def _fitted(kind: sa.types.TypeEngine[Any], column: pa.ChunkedArray, where: str) -> sa.types.TypeEngine[Any]:
    if isinstance(kind, sa.LargeBinary) and kind.length is None:
        return sa.LargeBinary(_longest(column))
    if type(kind) in (sa.String, sa.Unicode, sa.VARCHAR) and kind.length is None:  # type: ignore[attr-defined] # a text
        longest = _longest(column)
        return sa.String(longest) if longest <= LONGEST_VARCHAR else sa.Text(longest)
    return kind


def _longest(column: pa.ChunkedArray) -> int:
    """Return the bytes of the longest value, at least one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    texts = column.cast(pa.large_binary() if is_bytes else pa.large_string())
    return max(pc.max(pc.binary_length(texts)).as_py() or 0, 1)


def load(
    connection: sa.Connection,
    schema: str,
    name: str,
    arrow: pa.Table,
    types: Mapping[str, sa.types.TypeEngine[Any]],
) -> None:
    """Insert the rows of an Arrow table.

    Args:
        connection: A connection within a transaction.
        schema: The schema, as SQLAlchemy takes it.
        name: The table.
        arrow: The rows.
        types: The types of the columns.

    Raises:
        UnsupportedValueError: if there is a value that Db2 cannot have; the message names the column.
    """
    import pyarrow as pa

    plain = [_plain_column(arrow.column(column), _where(column, name)) for column in types]
    sent = {column: sa.BigInteger() if isinstance(kind, sa.Interval) else kind for column, kind in types.items()}
    target = sa.table(name, *(sa.column(column, kind) for column, kind in sent.items()), schema=schema)
    for batch in pa.table(plain, names=list(types)).to_batches(max_chunksize=_BATCH):
        if batch.num_rows:
            connection.execute(sa.insert(target), batch.to_pylist())


def _plain_column(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Return a column in types whose values the driver takes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types, kind = pa.types, column.type
    if types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type), where)
    if types.is_floating(kind) and pc.any(pc.invert(pc.is_finite(column))).as_py():
        raise UnsupportedValueError(
            f"{where} has a value that is infinite or not a number, which Db2 cannot store. Make it NULL, or "
            "store text."
        )
    if types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=kind.unit != "ns")
    if types.is_duration(kind):
        return column.cast(pa.duration("us"), safe=kind.unit != "ns").cast(pa.int64())
    if types.is_time(kind):
        whole = column.cast(pa.time32("s"), safe=False)
        if not whole.cast(kind).equals(column):
            raise UnsupportedValueError(
                f"{where} has times with fractions of a second, which Db2's TIME cannot store. Round them, or store "
                "timestamps or text."
            )
        return whole
    return column


def fetch(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """Return the rows of a query of plain columns as Arrow.

    Args:
        connection: A connection within a transaction.
        query: The query.
    """
    readable = query.with_only_columns(*map(_readable, query.selected_columns))
    return fetch_rows(connection, readable, _plain)


def _readable(column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """Return a column as something that arrives as its Arrow type: decimals that are not whole as floats."""
    kind = column.type
    if isinstance(kind, sa.Numeric) and not isinstance(kind, sa.Float) and kind.scale != 0:
        return sa.cast(column, sa.Double()).label(str(getattr(column, "name", "")))
    return column


def _plain(values: Sequence[Any], kind: sa.types.TypeEngine[Any]) -> Iterable[Any]:
    # The driver gives decimals as Decimal or, of a whole number, as int.
    del kind
    return (value.to_integral_value() if isinstance(value, Decimal) else value for value in values)
