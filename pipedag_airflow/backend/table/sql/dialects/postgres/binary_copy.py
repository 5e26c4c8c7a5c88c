"""Arrow as the binary format of PostgreSQL's COPY: each column as a whole, no loop over rows.

A row is the number of its fields and the fields; a field is the length of its value (-1 for NULL) and the value, all
big-endian. Every column becomes an Arrow array of such fields, and joining the arrays row by row gives the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.table.sql.dialects.postgres.json import documents, is_document
from pipedag_airflow.backend.table.sql.frames.arrow import is_list
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa

__all__ = ["binary_copy"]

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
#: Bytes of Arrow data that are encoded at once, so that a large table needs little more memory than it has.
_BATCH = 16_000_000
#: PostgreSQL counts from the first of January 2000: days and microseconds from Arrow's epoch to that.
_EPOCH_DAYS = 10_957
_EPOCH_MICROSECONDS = 946_684_800_000_000
#: The ids of types that do not change between versions, for the elements of lists.
_ELEMENT_TYPES = {
    "bool": 16,
    "binary": 17,
    "int64": 20,
    "int16": 21,
    "int32": 23,
    "float32": 700,
    "float64": 701,
    "string": 1043,
    "date": 1082,
    "time": 1083,
    "timestamp": 1114,
    "timestamp with zone": 1184,
    "duration": 1186,
    "decimal": 1700,
}


def binary_copy(table: pa.Table, name: str) -> Iterator[memoryview]:
    """Yield a table as the input of ``COPY … FROM STDIN (FORMAT BINARY)``, in pieces of bounded size.

    Args:
        table: The data.
        name: Name of the table, for messages.

    Raises:
        UnsupportedValueError: if a value is none that PostgreSQL has; the message names the column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    count = pa.scalar(table.num_columns.to_bytes(2, "big"), pa.large_binary())
    rows = max(1, _BATCH * table.num_rows // max(1, table.nbytes))
    yield memoryview(_SIGNATURE)
    for batch in table.to_batches(max_chunksize=rows):
        named = zip(batch.schema.names, batch.columns, strict=True)
        fields = [_column(column, f"Column {label!r} of table {name!r}") for label, column in named]
        yield _content(pc.binary_join_element_wise(count, *fields, _binary(b"")))
    yield memoryview(_END)


def _column(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    return _documents(array, where) if is_document(array.type) else _fields(_storable(array, where), where)


def _binary(value: bytes) -> pa.Scalar:
    import pyarrow as pa

    return pa.scalar(value, pa.large_binary())


def _content(array: pa.LargeBinaryArray) -> memoryview:
    """Return the values of an array of Arrow's own making, one behind the other: they lie in memory like that."""
    _, _, data = array.buffers()
    return memoryview(b"" if data is None else data)


def _storable(array: pa.Array, where: str) -> pa.Array:
    """Cast an array to the type whose values are those of its column; what is finer than microseconds is cut off."""
    import pyarrow as pa

    target = _stored_type(array.type)
    try:
        return array if target == array.type else array.cast(target, safe="[ns" not in str(array.type))
    except pa.ArrowInvalid as error:
        raise UnsupportedValueError(
            f"{where} has a value that PostgreSQL cannot have: {error}. Convert it, to text for example."
        ) from error


def _stored_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _stored_type(kind.value_type)
    if is_list(kind):
        return pa.large_list(_stored_type(kind.value_type))
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_decimal(kind):
        wide = pa.decimal128 if kind.precision - min(kind.scale, 0) <= 38 else pa.decimal256
        return wide(kind.precision - min(kind.scale, 0), max(kind.scale, 0))
    simple = (
        (types.is_int8, pa.int16()),
        (types.is_uint8, pa.int16()),
        (types.is_uint16, pa.int32()),
        (types.is_uint32, pa.int64()),
        (types.is_uint64, pa.decimal128(20, 0)),
        (types.is_date, pa.date32()),
        (types.is_time, pa.time64("us")),
        (types.is_duration, pa.duration("us")),
        (_is_text, pa.large_string()),
        (types.is_null, pa.large_string()),
        (_is_bytes, pa.large_binary()),
    )
    return next((target for test, target in simple if test(kind)), kind)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _fields(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    """Return the fields of a column, those of NULLs too."""
    import pyarrow.compute as pc

    fields = _values(array, where)
    return pc.if_else(array.is_valid(), fields, _binary(_NULL)) if array.null_count else fields


def _values(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    """Return the fields of a column; those of NULLs are anything."""
    import pyarrow as pa

    kind = array.type
    if is_list(kind):
        return _lists(array, where)
    if _is_text(kind) or _is_bytes(kind):
        return _texts(array, where)
    if pa.types.is_decimal(kind):
        return _decimals(array)
    if pa.types.is_duration(kind):
        return _records((">i8", _numbers(array, pa.int64())), (">i8", 0))  # no days and no months
    if pa.types.is_timestamp(kind):
        return _records((">i8", _since_2000(_numbers(array, pa.int64()), _EPOCH_MICROSECONDS, where)))
    if pa.types.is_date(kind):
        return _records((">i4", _since_2000(_numbers(array, pa.int32()), _EPOCH_DAYS, where)))
    if pa.types.is_boolean(kind):
        return _records(("u1", _numbers(array, pa.uint8())))
    numbers = _numbers(array, pa.int64() if pa.types.is_time(kind) else kind)
    return _records((numbers.dtype.newbyteorder(">"), numbers))


def _numbers(array: pa.Array, kind: pa.DataType) -> np.ndarray[Any, Any]:
    import pyarrow.compute as pc

    numbers: np.ndarray[Any, Any] = pc.fill_null(array.cast(kind), 0).to_numpy(zero_copy_only=False)
    return numbers


def _since_2000(numbers: np.ndarray[Any, Any], epoch: int, where: str) -> np.ndarray[Any, Any]:
    import numpy as np

    if (numbers < np.iinfo(numbers.dtype).min + epoch).any():
        raise UnsupportedValueError(f"{where} has a time that is too long ago for PostgreSQL.")
    since: np.ndarray[Any, Any] = numbers - numbers.dtype.type(epoch)
    return since


def _records(*parts: tuple[Any, Any]) -> pa.LargeBinaryArray:
    """Return fields of one length from pairs of numpy's type of a part and its numbers; one of them is an array."""
    import numpy as np
    import pyarrow as pa

    rows = next(len(numbers) for _, numbers in parts if isinstance(numbers, np.ndarray))
    layout = np.dtype([("length", ">i4"), *((f"part{index}", kind) for index, (kind, _) in enumerate(parts))])
    records = np.empty(rows, layout)
    records["length"] = layout.itemsize - 4
    for index, (_, numbers) in enumerate(parts):
        records[f"part{index}"] = numbers
    fixed = pa.Array.from_buffers(pa.binary(layout.itemsize), rows, [None, pa.py_buffer(records)])
    return fixed.cast(pa.large_binary())


def _lengths(lengths: np.ndarray[Any, Any]) -> pa.LargeBinaryArray:
    import pyarrow as pa

    fixed = pa.Array.from_buffers(pa.binary(4), len(lengths), [None, pa.py_buffer(lengths.astype(">i4"))])
    return fixed.cast(pa.large_binary())


def _documents(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    """Return JSONB fields: the version of their form, and the text."""
    import pyarrow.compute as pc

    texts = documents(array, where)
    lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy(zero_copy_only=False) + 1
    fields = pc.binary_join_element_wise(_lengths(lengths), _binary(b"\x01"), texts, _binary(b""))
    return pc.if_else(texts.is_valid(), fields, _binary(_NULL))


def _texts(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if _is_text(array.type) and pc.any(pc.match_substring(array, "\0")).as_py():
        raise UnsupportedValueError(
            f"{where} has a text with a NUL character, which PostgreSQL cannot store. Remove it, or store bytes."
        )
    lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False)
    return pc.binary_join_element_wise(_lengths(lengths), array.cast(pa.large_binary()), _binary(b""))


def _decimals(array: pa.Array) -> pa.LargeBinaryArray:
    """Return NUMERIC fields: digits to the base of 10,000, groups of four from the decimal point on."""
    import numpy as np
    import pyarrow.compute as pc

    scale = array.type.scale
    padding = -scale % 4
    groups = -(-(array.type.precision + padding) // 4)
    negative = _words(array)[:, -1] >> 31
    # Room for the padding, and words of 64 bits for what is carried from one to the next.
    words = np.pad(_words(pc.abs(array)), ((0, 0), (0, 1))).astype("u8")
    words = _carried(words * np.uint64(10**padding))
    digits = np.empty((len(array), groups), ">i2")
    for group in reversed(range(groups)):
        digits[:, group] = _divide(words, 10_000)
    weight = groups - (scale + padding) // 4 - 1
    return _records(
        (">i2", groups), (">i2", weight), (">u2", negative * 0x4000), (">u2", scale), ((">i2", groups), digits)
    )


def _words(decimals: pa.Array) -> np.ndarray[Any, Any]:
    """Return decimals without their points as rows of words of 32 bits, the lowest first."""
    import numpy as np

    width = decimals.type.byte_width // 4
    words = np.frombuffer(decimals.buffers()[1], "<u4").reshape(-1, width)
    return words[decimals.offset : decimals.offset + len(decimals)]


def _carried(words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bring what does not fit into 32 bits of a word to the next one."""
    for index in range(words.shape[1] - 1):
        words[:, index + 1] += words[:, index] >> 32
        words[:, index] &= 0xFFFFFFFF
    return words


def _divide(words: np.ndarray[Any, Any], divisor: int) -> np.ndarray[Any, Any]:
    """Divide numbers, in place, and return the remainders."""
    import numpy as np

    rest = np.zeros(len(words), "u8")
    for index in reversed(range(words.shape[1])):
        rest = (rest << 32) | words[:, index]
        words[:, index], rest = rest // divisor, rest % divisor
    return rest


def _lists(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.fill_null(array.value_lengths(), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([np.zeros(1, "i8"), np.cumsum(lengths, dtype="i8")])
    elements = pa.LargeListArray.from_arrays(pa.array(offsets), _fields(array.flatten(), where))
    joined = pc.binary_join(elements, _binary(b""))
    element_type = _element_type(array.type.value_type)
    # One dimension (none in an empty list), a mark for NULLs, the type, the length, and the number of the first.
    shape = np.array([(1, 1, element_type, 0, 1)], ">i4").repeat(len(array), 0)
    shape[:, 3] = lengths
    shaped = pa.Array.from_buffers(pa.binary(20), len(array), [None, pa.py_buffer(shape)]).cast(pa.large_binary())
    sizes = pc.binary_length(joined).to_numpy(zero_copy_only=False) + 20
    filled = pc.binary_join_element_wise(_lengths(sizes), shaped, joined, _binary(b""))
    empty = np.array([12, 0, 0, element_type], ">i4").tobytes()
    return pc.if_else(pa.array(lengths == 0), _binary(empty), filled)


def _element_type(kind: pa.DataType) -> int:
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return _ELEMENT_TYPES["timestamp with zone"]
    name = str(kind).removeprefix("large_").split("[")[0].split("(")[0]
    plain = {"double": "float64", "float": "float32", "date32": "date", "time64": "time"}
    return _ELEMENT_TYPES["decimal" if name.startswith("decimal") else plain.get(name, name)]
