"""The types of SQL Server: which ones columns get, how the catalog says them, and what they are when they are read.

Texts are Unicode unless somebody asks for VARCHAR, and moments are DATETIME2: DATETIME begins in 1753 and counts in
steps of 3 ms.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql
from sqlalchemy.dialects.mssql.base import MSTypeCompiler

from pipedag_airflow.backend.table.sql.frames import rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

__all__ = ["SqlServerTypes", "arrow_type", "catalog_type", "key_type", "parse_type", "with_unicode"]

#: Bytes of the key of a table that is ordered by it, and of an index.
_PRIMARY_KEY, _INDEX = 900, 1700


class SqlServerTypes(MSTypeCompiler):
    """Names of types, the same before the first connection as after it."""

    def visit_string(self, type_: Any, **_: Any) -> str:
        """Return the type for texts of any language."""
        return _with_collation(f"NVARCHAR({type_.length or 'max'})", type_)

    visit_unicode = visit_text = visit_unicode_text = visit_string

    def visit_datetime(self, type_: Any, **_: Any) -> str:
        """Return the type for moments, with their distance from UTC where they have one."""
        return "DATETIMEOFFSET(6)" if type_.timezone else "DATETIME2(6)"

    def visit_date(self, type_: Any, **_: Any) -> str:
        """Return the type for days."""
        del type_
        return "DATE"

    def visit_time(self, type_: Any, **_: Any) -> str:
        """Return the type for times of day."""
        del type_
        return "TIME(6)"

    def visit_large_binary(self, type_: Any, **_: Any) -> str:
        """Return the type for bytes."""
        return f"VARBINARY({type_.length or 'max'})"


def _with_collation(text: str, kind: Any) -> str:
    return text if kind.collation is None else f"{text} COLLATE {kind.collation}"


def with_unicode(specific: Mapping[type, type]) -> dict[type, type]:
    """Return what a dialect makes of generic types, with texts in Unicode: also a value in a query is an ``N'...'``."""
    code_page = specific[sa.String]
    return {**specific, sa.String: specific[sa.Unicode], sa.VARCHAR: code_page, sa.CHAR: code_page}


def catalog_type(name: str, length: int, precision: int, scale: int) -> str:
    """Return a type as people write it, from what sys.columns has of it; -1 is the length of what has no limit."""
    if name in ("nvarchar", "nchar"):
        return f"{name}({'max' if length < 0 else length // 2})"
    if name in ("varchar", "char", "varbinary", "binary"):
        return f"{name}({'max' if length < 0 else length})"
    if name in ("decimal", "numeric"):
        return f"{name}({precision},{scale})"
    return f"{name}({scale})" if name in ("datetime2", "datetimeoffset", "time") else name


def parse_type(text: str) -> sa.types.TypeEngine[Any]:
    """Return the SQLAlchemy type for a type as :func:`catalog_type` gives it; unknown ones get no type."""
    name, _, arguments = text.removesuffix(")").partition("(")
    if name in ("decimal", "numeric"):
        precision, scale = map(int, arguments.split(","))
        return sa.Numeric(precision, scale)
    if name in _SIZED:
        sized: sa.types.TypeEngine[Any] = _SIZED[name](None if arguments == "max" else int(arguments))
        return sized
    return sa.types.to_instance(_TYPES.get(name, sa.types.NullType))


_SIZED: dict[str, Any] = {
    "binary": sa.LargeBinary,
    "char": sa.CHAR,
    "nchar": mssql.NCHAR,
    "nvarchar": mssql.NVARCHAR,
    "varbinary": sa.LargeBinary,
    "varchar": sa.VARCHAR,
}
_TYPES: dict[str, Any] = {
    "bigint": sa.BigInteger,
    "bit": sa.Boolean,
    "date": sa.Date,
    "datetime": sa.DateTime,
    "datetime2": sa.DateTime,
    "datetimeoffset": sa.DateTime(timezone=True),
    "float": sa.Double,
    "image": sa.LargeBinary,
    "int": sa.Integer,
    "money": sa.Numeric(19, 4),
    "ntext": sa.Text,
    "real": sa.Float(24),
    "smalldatetime": sa.DateTime,
    "smallint": sa.SmallInteger,
    "smallmoney": sa.Numeric(10, 4),
    "text": sa.Text,
    "time": sa.Time,
    "timestamp": sa.LargeBinary,  # a number that grows with each change
    "tinyint": sa.SmallInteger,
    "uniqueidentifier": sa.Uuid,
}


def key_type(text: str, *, primary: bool) -> str:
    """Return the type that a column of a key or an index gets: texts and bytes without a limit cannot be in one."""
    match = re.fullmatch(r"(n?varchar|varbinary)\((\w+)\)", text)
    if match is None:
        return text
    most = (_PRIMARY_KEY if primary else _INDEX) // (2 if match[1] == "nvarchar" else 1)
    return f"{match[1]}({most})" if match[2] == "max" else text


def arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    """Return the Arrow type of a column that is read; what has no type is read as text."""
    import pyarrow as pa

    if isinstance(kind, (sa.Float, sa.Double)):
        return pa.float32() if kind.precision == _SINGLE else pa.float64()
    if isinstance(kind, sa.Numeric):
        return pa.decimal128(kind.precision or _DIGITS, kind.scale or 0)
    return rows.arrow_type(kind)


_SINGLE, _DIGITS = 24, 38
