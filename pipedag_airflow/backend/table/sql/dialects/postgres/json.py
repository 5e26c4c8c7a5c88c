"""Records, and lists of lists or records, as JSON: PostgreSQL has no type for them that a frame could bring along."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.table.sql.frames.arrow import is_list
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["documents", "is_document"]

#: How JSON writes a NUL character; an even number of backslashes before it are backslashes.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def is_document(kind: pa.DataType) -> bool:
    """Say whether the values of a type are stored as JSON."""
    import pyarrow as pa

    nested = is_list(kind) and (is_list(kind.value_type) or is_document(kind.value_type))
    return nested or bool(pa.types.is_struct(kind))


def documents(array: pa.Array, where: str) -> pa.LargeBinaryArray:
    """Return the values as texts of JSON in UTF-8.

    Args:
        array: Records or lists.
        where: The column, for messages.

    Raises:
        UnsupportedValueError: if there is a value that JSON, or PostgreSQL's, does not have.
    """
    import pyarrow as pa

    texts = [None if value is None else _document(value, where).encode() for value in array.to_pylist()]
    return pa.array(texts, pa.large_binary())


def _document(value: Any, where: str) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise UnsupportedValueError(
            f"{where} has a value that JSON does not have: {error}. Convert it, to text for example."
        ) from error
    if _NUL.search(text):
        raise UnsupportedValueError(
            f"{where} has a text with a NUL character, which PostgreSQL cannot store. Remove it, or store bytes."
        )
    return text


def _plain(value: Any) -> str:
    """Return what JSON has no word for as text: times as ISO 8601, decimals with all of their digits."""
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")
