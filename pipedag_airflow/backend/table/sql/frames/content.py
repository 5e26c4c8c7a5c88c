"""The identity of data: a hash of names, types and rows, in their order."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["content_hash"]


def content_hash(table: pa.Table) -> str:
    """Return the hash of an Arrow table: equal hashes are equal names, types and rows, in this order.

    How the rows are cut into chunks does not count, nor what a library notes in the schema. Data that were built in
    different ways may hash differently though they are equal; a result is then made once more than needed.

    Args:
        table: The table.
    """
    import pyarrow as pa

    names, kinds = table.column_names, str(table.schema.remove_metadata())
    plain = pa.table([_canonical(column) for column in table.columns], names=names)
    sink = _HashSink()
    sink.write(kinds.encode())
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, plain.schema) as writer:
        writer.write_table(plain)
    return base64.b32encode(sink.digest.digest()).decode().lower()[:40]


def _canonical(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array in memory of its own; categories become their values."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    # A single array is not copied when it is concatenated, and the bytes of a slice depend on where it was cut.
    return pa.concat_arrays([*column.chunks, pa.array([], column.type)])


class _HashSink:
    """A file that keeps nothing but the hash of what is written, so that large tables need no second copy."""

    closed = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True
