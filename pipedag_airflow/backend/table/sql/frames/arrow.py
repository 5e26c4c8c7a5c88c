"""Arrow as the way between frames and the database: which SQL type a column gets, and what comes back.

The decisions are those of the canonical type table: unsigned 64-bit integers need NUMERIC(20, 0), a column without any
value becomes text, decimals come back as floats unless they are whole numbers, moments come back in UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Struct", "array_of", "from_database", "sql_types", "to_database"]


class Struct(sa.types.UserDefinedType[dict[str, Any]]):
    """A record with named fields; a dialect that stores records says how it calls the type.

    Args:
        fields: Name to type.
    """

    cache_ok = False

    def __init__(self, fields: dict[str, sa.types.TypeEngine[Any]]) -> None:
        self.fields = fields


def sql_types(
    schema: pa.Schema, type_map: dict[str, Any], table: str, *, structs: bool
) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the SQL type of each column of an Arrow schema.

    Args:
        schema: Names and types of the columns.
        type_map: Types that the user chose for columns; they win.
        table: Name of the table, for messages.
        structs: Whether the database stores records.

    Raises:
        UnsupportedValueError: if a column has a type that cannot be stored, or ``type_map`` names an unknown column
            or something that is no SQLAlchemy type.
    """
    unknown = sorted(set(type_map) - set(schema.names))
    if unknown:
        raise UnsupportedValueError(
            f"type_map of table {table!r} names columns that the table does not have: {', '.join(unknown)}. "
            f"It has: {', '.join(schema.names)}"
        )
    return {
        field.name: _chosen_type(type_map[field.name], field.name, table)
        if field.name in type_map
        else _sql_type(field.type, f"Column {field.name!r} of table {table!r}", structs)
        for field in schema
    }


def _chosen_type(chosen: Any, column: str, table: str) -> sa.types.TypeEngine[Any]:
    if isinstance(chosen, sa.types.TypeEngine) or (
        isinstance(chosen, type) and issubclass(chosen, sa.types.TypeEngine)
    ):
        return sa.types.to_instance(chosen)
    raise UnsupportedValueError(
        f"type_map of table {table!r} has {chosen!r} for column {column!r}. Give an SQLAlchemy type, such as "
        "sqlalchemy.String(20)."
    )


def _sql_type(kind: pa.DataType, where: str, structs: bool) -> sa.types.TypeEngine[Any]:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _sql_type(kind.value_type, where, structs)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return array_of(_sql_type(kind.value_type, where, structs))
    if types.is_struct(kind) and structs:
        return Struct({field.name: _sql_type(field.type, where, structs) for field in kind})
    if types.is_decimal(kind):
        return sa.Numeric(kind.precision, kind.scale)
    if types.is_timestamp(kind):
        return sa.DateTime(timezone=kind.tz is not None)
    for test, sql_type in _SIMPLE:
        if getattr(types, test)(kind):
            return sql_type
    raise UnsupportedValueError(f"{where} is of type {kind}, which cannot be stored. Convert it, to text for example.")


_SIMPLE: tuple[tuple[str, sa.types.TypeEngine[Any]], ...] = (
    ("is_boolean", sa.Boolean()),
    ("is_int8", sa.SmallInteger()),
    ("is_int16", sa.SmallInteger()),
    ("is_int32", sa.Integer()),
    ("is_int64", sa.BigInteger()),
    ("is_uint8", sa.SmallInteger()),
    ("is_uint16", sa.Integer()),
    ("is_uint32", sa.BigInteger()),
    ("is_uint64", sa.Numeric(20, 0)),
    ("is_float16", sa.Float(24)),
    ("is_float32", sa.Float(24)),
    ("is_float64", sa.Double()),
    ("is_date", sa.Date()),
    ("is_time", sa.Time()),
    ("is_duration", sa.Interval()),
    ("is_string", sa.String()),
    ("is_large_string", sa.String()),
    ("is_string_view", sa.String()),
    ("is_binary", sa.LargeBinary()),
    ("is_large_binary", sa.LargeBinary()),
    ("is_binary_view", sa.LargeBinary()),
    ("is_null", sa.String()),
)


def array_of(kind: sa.types.TypeEngine[Any]) -> sa.ARRAY[Any]:
    """Return the type of lists of a type; SQLAlchemy counts the dimensions of lists of lists."""
    if isinstance(kind, sa.ARRAY):
        return sa.ARRAY(kind.item_type, dimensions=(kind.dimensions or 1) + 1)
    return sa.ARRAY(kind)


def to_database(table: pa.Table) -> pa.Table:
    """Bring a table into types that databases read: half floats become floats of 32 bits."""
    import pyarrow as pa

    fields = [field.with_type(pa.float32()) if pa.types.is_float16(field.type) else field for field in table.schema]
    target = pa.schema(fields)
    return table if target.equals(table.schema) else table.cast(target)


def from_database(table: pa.Table) -> pa.Table:
    """Bring a table that was read into the canonical types.

    Whole decimals become integers of 64 bits, and stay decimals where they do not fit; other decimals become floats.
    Times of day have microseconds, moments are in UTC wherever the code runs, a column without a type is text.

    Raises:
        ValueError: if a column is of a type that frames do not have; the message names it.
    """
    import pyarrow as pa

    for field in table.schema:
        if _is_foreign(field.type):
            raise ValueError(
                f"column {field.name!r} is of type {field.type}, which frames do not have. Cast it where it is made"
            )
    return pa.table([_canonical(column) for column in table.columns], names=table.column_names)


def _canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_decimal(kind):
        return _whole(column) if kind.scale <= 0 else column.cast(pa.float64())
    if pa.types.is_time(kind):
        return column.cast(pa.time64("us"))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return column.cast(pa.timestamp(kind.unit, "UTC"))
    return column.cast(pa.string()) if pa.types.is_null(kind) else column


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    for kind in (pa.int64(), pa.uint64()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue  # a number does not fit
    return column


def _is_foreign(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_interval(kind) or pa.types.is_union(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(_is_foreign(kind.field(index).type) for index in range(kind.num_fields))
