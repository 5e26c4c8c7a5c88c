"""Arrow as the way between frames and the database: which SQL type a column gets, and what comes back.

The decisions are those of the canonical type table: unsigned 64-bit integers need NUMERIC(20, 0), a column without any
value becomes text, decimals come back as floats unless they are whole numbers, moments come back in UTC.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from pipedag_airflow.backend.table.sql.store import SQLTableStore

__all__ = ["Struct", "array_of", "from_database", "is_list", "sql_types", "to_database"]


class Struct(sa.types.UserDefinedType[dict[str, Any]]):
    """A record with named fields; a dialect that stores records says how it calls the type.

    Args:
        fields: Name to type.
    """

    cache_ok = False

    def __init__(self, fields: dict[str, sa.types.TypeEngine[Any]]) -> None:
        self.fields = fields


def sql_types(
    schema: pa.Schema, type_map: dict[str, Any], table: str, store: SQLTableStore
) -> dict[str, sa.types.TypeEngine[Any]]:
    """Return the SQL type of each column of an Arrow schema.

    Args:
        schema: Names and types of the columns.
        type_map: Types that the user chose for columns; they win.
        table: Name of the table, for messages.
        store: The store, which says what columns can hold.

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
        else _sql_type(field.type, f"Column {field.name!r} of table {table!r}", store)
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


def _sql_type(kind: pa.DataType, where: str, store: SQLTableStore) -> sa.types.TypeEngine[Any]:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _sql_type(kind.value_type, where, store)
    _check_nested(kind, where)
    if store.json_type is not None and _needs_json(kind, store):
        return store.json_type
    if is_list(kind) and store.stores_lists and (store.stores_nested_lists or not is_list(kind.value_type)):
        return array_of(_sql_type(kind.value_type, where, store))
    if types.is_struct(kind) and store.stores_structs:
        return Struct({field.name: _sql_type(field.type, where, store) for field in kind})
    if types.is_decimal(kind):
        # Few databases have decimals of a negative scale: whole numbers with more digits hold them.
        return sa.Numeric(kind.precision - min(kind.scale, 0), max(kind.scale, 0))
    if types.is_timestamp(kind):
        return sa.DateTime(timezone=kind.tz is not None)
    if types.is_duration(kind):
        return store.duration_type
    for test, sql_type in _SIMPLE:
        if getattr(types, test)(kind):
            return sql_type
    raise UnsupportedValueError(f"{where} is of type {kind}, which cannot be stored. Convert it, to text for example.")


def _check_nested(kind: pa.DataType, where: str) -> None:
    """Refuse what databases store within lists and structs, but no driver reads, and structs that they do not store."""
    import pyarrow as pa

    reason = ""
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        reason = "a struct needs a field"
    elif any(pa.types.is_duration(inner) for inner in _inner_types(kind)):
        reason = "lists and structs cannot have durations"
    if reason:
        raise UnsupportedValueError(
            f"{where} is of type {kind}, which cannot be stored: {reason}. Convert it, to text for example."
        )
    for inner in _inner_types(kind):
        _check_nested(inner, where)


def _inner_types(kind: pa.DataType) -> list[pa.DataType]:
    return [kind.field(index).type for index in range(kind.num_fields)]


def _needs_json(kind: pa.DataType, store: SQLTableStore) -> bool:
    """Say whether a column of records or lists has no type of its own in the database."""
    import pyarrow as pa

    if pa.types.is_struct(kind) and not store.stores_structs:
        return True
    if is_list(kind) and is_list(kind.value_type) and not store.stores_nested_lists:
        return True
    return any(_needs_json(inner, store) for inner in _inner_types(kind))


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
    ("is_string", sa.String()),
    ("is_large_string", sa.String()),
    ("is_string_view", sa.String()),
    ("is_binary", sa.LargeBinary()),
    ("is_large_binary", sa.LargeBinary()),
    ("is_binary_view", sa.LargeBinary()),
    ("is_null", sa.String()),
)


def is_list(kind: pa.DataType) -> bool:
    """Say whether a type is one of lists, of any lengths or a fixed one."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def array_of(kind: sa.types.TypeEngine[Any]) -> sa.ARRAY[Any]:
    """Return the type of lists of a type; SQLAlchemy counts the dimensions of lists of lists."""
    if isinstance(kind, sa.ARRAY):
        return sa.ARRAY(kind.item_type, dimensions=(kind.dimensions or 1) + 1)
    return sa.ARRAY(kind)


def to_database(table: pa.Table) -> pa.Table:
    """Bring a table into types that databases read: half floats become floats of 32 bits, in lists and structs too."""
    import pyarrow as pa

    target = pa.schema([field.with_type(_without_half_floats(field.type)) for field in table.schema])
    return table if target.equals(table.schema) else table.cast(target)


def _without_half_floats(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    return pa.float32() if pa.types.is_float16(kind) else _with_inner(kind, _without_half_floats)


def _with_inner(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a type of lists or structs of which the inner types are changed; other types are as they are."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)), kind.list_size)
    if is_list(kind):
        of = pa.large_list if pa.types.is_large_list(kind) else pa.list_
        return of(kind.value_field.with_type(change(kind.value_type)))
    return kind


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

    for whole in (pa.int64(), pa.uint64()):
        try:
            return column.cast(_canonical_type(column.type, whole))
        except pa.ArrowInvalid:
            continue  # a number does not fit
    return column.cast(_canonical_type(column.type, None))


def _canonical_type(kind: pa.DataType, whole: pa.DataType | None) -> pa.DataType:
    """Return the type that frames have for one of the database; whole decimals become ``whole``, or stay decimals."""
    import pyarrow as pa

    if pa.types.is_decimal(kind):
        return (whole or kind) if kind.scale <= 0 else pa.float64()
    if pa.types.is_time(kind):
        return pa.time64("us")
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")
    return pa.string() if pa.types.is_null(kind) else _with_inner(kind, lambda inner: _canonical_type(inner, whole))


def _is_foreign(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_interval(kind) or pa.types.is_union(kind) or isinstance(kind, pa.BaseExtensionType):
        return True
    return any(map(_is_foreign, _inner_types(kind)))
