"""Arrow as the way between frames and the database: which SQL type a column gets, and what comes back.

The decisions are those of the canonical type table: unsigned 64-bit integers need NUMERIC(20, 0), a column without any
value becomes text, decimals come back as floats unless they are whole numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["from_database", "sql_types"]


def sql_types(schema: pa.Schema, type_map: dict[str, Any], table: str) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the SQL type of each column of an Arrow schema.

    Args:
        schema: Names and types of the columns.
        type_map: Types that the user chose for columns; they win.
        table: Name of the table, for messages.

    Raises:
        UnsupportedValueError: if a column has a type that cannot be stored, or ``type_map`` names an unknown column.
    """
    unknown = sorted(set(type_map) - set(schema.names))
    if unknown:
        raise UnsupportedValueError(
            f"type_map of table {table!r} names columns that the table does not have: {', '.join(unknown)}. "
            f"It has: {', '.join(schema.names)}"
        )
    return {
        field.name: sa.types.to_instance(type_map[field.name])
        if field.name in type_map
        else _sql_type(field.type, f"Column {field.name!r} of table {table!r}")
        for field in schema
    }


def _sql_type(kind: pa.DataType, where: str) -> sa.types.TypeEngine[Any]:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _sql_type(kind.value_type, where)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return sa.ARRAY(_sql_type(kind.value_type, where))
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


def from_database(table: pa.Table) -> pa.Table:
    """Bring a table that was read into the canonical types.

    Whole decimals become 64-bit integers, other decimals floats; times of day have microseconds.

    Raises:
        pyarrow.ArrowInvalid: if a whole number does not fit into 64 bits.
    """
    import pyarrow as pa

    def canonical(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_decimal(kind):
            return pa.int64() if kind.scale == 0 else pa.float64()
        if pa.types.is_time(kind):
            return pa.time64("us")
        return kind

    target = pa.schema([pa.field(field.name, canonical(field.type)) for field in table.schema])
    return table if target.equals(table.schema) else table.cast(target)
