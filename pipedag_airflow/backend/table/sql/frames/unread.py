"""What a frame that was stored is when it is read again, known without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["as_read"]


def as_read(stored: pa.Table, schema: pa.Schema) -> pa.Table | None:
    """Return the rows of a frame as a read of its table gives them, None where only the read can tell.

    Args:
        stored: The frame as it was given to the database, without types that the user chose for columns.
        schema: The names and types that the read gives.
    """
    if stored.column_names != schema.names:
        return None
    plain = [_plain(column.type) for column in stored.columns]
    if plain != [_plain(kind) for kind in schema.types] or not _exact().issuperset(plain):
        return None
    return stored.replace_schema_metadata(None).cast(schema)


def _exact() -> set[pa.DataType]:
    """Return the types of which every value comes back as it was, if the type does."""
    import pyarrow as pa

    numbers = {pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()}
    times = {pa.date32(), pa.time64("us"), pa.timestamp("us"), pa.timestamp("us", "UTC")}
    return numbers | times | {pa.bool_(), pa.string(), pa.binary()}


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type without how its values lie in memory."""
    import pyarrow as pa

    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    return kind
