"""What a column is when it comes back from the database: the same, or what is declared here, with the reason.

Each case is a test of its own on each database, and a row of docs/types.md.
"""

from __future__ import annotations

import datetime as dt
import string
from decimal import Decimal
from typing import Any

import attrs
import pandas as pd
import polars as pl

__all__ = ["CASES", "NUMPY", "Case", "NumpyCase"]

NAN, INF = float("nan"), float("inf")
DAY, MOMENT, TIME = dt.date, dt.datetime, dt.time
WIDENED = "SQL has no integers of one byte and no unsigned ones: the next larger signed type keeps every value"
MICROSECONDS = "databases keep microseconds; what is finer is rounded or cut off"
TEXT = "categories are stored as text"
HALF = "no database has floats of two bytes"
NOTHING = "a column without any value becomes text"
FLOATS = "decimals are read as floats"
INTEGERS = "whole decimals are read as integers where they fit"


@attrs.frozen
class Case:
    """A column: what goes in, what comes out, and why that is another thing, if it is."""

    dtype: Any
    values: list[Any]
    back: Any = None
    values_back: list[Any] | None = None
    why: str = ""
    #: The type of the column without rows, where the values decide what it is with rows.
    empty: Any = None
    #: What the error says of a column that is refused.
    refused: str = ""
    #: Whether pandas has the type with Arrow's dtypes.
    in_pandas: bool = True

    @property
    def frame(self) -> pl.DataFrame:
        """What goes in."""
        return pl.DataFrame({"x": pl.Series(self.values, dtype=self.dtype)})

    @property
    def expected(self) -> pl.DataFrame:
        """What comes out."""
        values = self.values if self.values_back is None else self.values_back
        return pl.DataFrame({"x": pl.Series(values, dtype=self.back or self.dtype)})


_DUCKDB = {
    "int8": Case(pl.Int8, [-(2**7), 2**7 - 1, None], pl.Int16, why=WIDENED),
    "int16": Case(pl.Int16, [-(2**15), 2**15 - 1, None]),
    "int32": Case(pl.Int32, [-(2**31), 2**31 - 1, None]),
    "int64": Case(pl.Int64, [-(2**63), 2**63 - 1, None]),
    "uint8": Case(pl.UInt8, [0, 2**8 - 1, None], pl.Int16, why=WIDENED),
    "uint16": Case(pl.UInt16, [0, 2**16 - 1, None], pl.Int32, why=WIDENED),
    "uint32": Case(pl.UInt32, [0, 2**32 - 1, None], pl.Int64, why=WIDENED),
    "uint64": Case(pl.UInt64, [0, 2**64 - 1, None], empty=pl.Int64),
    "small uint64": Case(pl.UInt64, [0, 2**63 - 1, None], pl.Int64, why=INTEGERS),
    "float16": Case(pl.Float16, [1.5, -65504.0, None], pl.Float32, why=HALF),
    "float32": Case(pl.Float32, [3e38, 1e-38, -0.0, NAN, INF, -INF, None]),
    "float64": Case(pl.Float64, [1e300, 5e-324, 0.1, NAN, INF, -INF, None]),
    "bool": Case(pl.Boolean, [True, False, None]),
    "text": Case(pl.String, ["", None, string.printable, "\\N", "NULL", "äöü😀\U0010ffff", "x" * 1024]),
    "text with NUL": Case(pl.String, ["a\x00b"]),
    "binary": Case(pl.Binary, [b"", None, bytes(range(256))]),
    "date": Case(pl.Date, [DAY(1, 1, 1), DAY(9999, 12, 31), None]),
    "moment": Case(pl.Datetime("us"), [MOMENT(1, 1, 1), MOMENT(9999, 12, 31, 23, 59, 59, 999999), None]),
    "moment ms": Case(pl.Datetime("ms"), [MOMENT(1, 1, 1, 1), None], pl.Datetime("us"), why=MICROSECONDS),
    "moment ns": Case(
        pl.Datetime("ns"), [1_600_000_000_123_456_789], pl.Datetime("us"), [1_600_000_000_123_457], MICROSECONDS
    ),
    "moment with zone": Case(
        pl.Datetime("us", "Europe/Berlin"),
        [1_600_000_000_123_456, None],
        pl.Datetime("us", "UTC"),
        why="the moment is kept, the name of its zone is not",
    ),
    "time": Case(pl.Time, [TIME(0), TIME(23, 59, 59), TIME(23, 59, 59, 999999), None]),
    "time ns": Case(pl.Time, [1_001], values_back=[1_000], why=MICROSECONDS),
    "duration": Case(
        pl.Duration("us"), [dt.timedelta(days=10**6, microseconds=1), dt.timedelta(microseconds=-1), None]
    ),
    "duration ms": Case(
        pl.Duration("ms"), [2**40, -5, None], pl.Duration("us"), [2**40 * 1000, -5000, None], MICROSECONDS
    ),
    "duration ns": Case(pl.Duration("ns"), [2**40, None], pl.Duration("us"), [2**40 // 1000, None], MICROSECONDS),
    "decimal": Case(pl.Decimal(10, 2), [Decimal("-1.10"), None], pl.Float64, [-1.1, None], FLOATS),
    "whole decimal": Case(pl.Decimal(18, 0), [Decimal(7), None], pl.Int64, [7, None], INTEGERS),
    "large decimal": Case(pl.Decimal(38, 0), [Decimal(10**37), None], empty=pl.Int64),
    "categorical": Case(pl.Categorical, ["a", "b", "a", None], pl.String, why=TEXT),
    "enum": Case(pl.Enum(["b", "a"]), ["a", "b", None], pl.String, why=TEXT),
    "nothing": Case(pl.Null, [None, None], pl.String, why=NOTHING),
    "list": Case(pl.List(pl.Int64), [[2**63 - 1, None], [], None]),
    "list of texts": Case(pl.List(pl.String), [["", None, "ü"], [], None]),
    "list of nothing": Case(pl.List(pl.Null), [[None], None], pl.List(pl.String), why=NOTHING),
    "list of uint64": Case(pl.List(pl.UInt64), [[2**64 - 1], None], empty=pl.List(pl.Int64)),
    "list of float16": Case(pl.List(pl.Float16), [[1.5, None]], pl.List(pl.Float32), why=HALF),
    "list of decimals": Case(pl.List(pl.Decimal(10, 2)), [[Decimal("1.10")]], pl.List(pl.Float64), [[1.1]], FLOATS),
    "list of moments with zone": Case(pl.List(pl.Datetime("us", "UTC")), [[1_600_000_000_123_456, None], None]),
    "list of durations": Case(pl.List(pl.Duration("us")), [[1]], refused="lists and structs cannot have durations"),
    "list of lists": Case(pl.List(pl.List(pl.String)), [[["a", None], []], None]),
    "list of structs": Case(pl.List(pl.Struct({"a": pl.Int64})), [[{"a": 1}], [], None]),
    "array": Case(pl.Array(pl.Int64, 2), [[1, 2], None], pl.List(pl.Int64), why="lists have no fixed length"),
    "struct": Case(pl.Struct({"b c": pl.Int64, "B": pl.List(pl.String)}), [{"b c": 1, "B": ["x", None]}, None]),
    "struct of a date": Case(pl.Struct({"a": pl.Date, "b": pl.Float64}), [{"a": DAY(2020, 2, 29), "b": None}]),
    "struct of a text": Case(pl.Struct({"a": pl.String}), [{"a": '"ü" \\u0000'}]),
    "struct of NUL": Case(pl.Struct({"a": pl.String}), [{"a": "\\\x00"}]),
    "struct of NaN": Case(pl.Struct({"a": pl.Float64}), [{"a": NAN}]),
    "struct without fields": Case(pl.Struct({}), [{}], refused="a struct needs a field", in_pandas=False),
    "int128": Case(pl.Int128, [1], refused="is of type Int128", in_pandas=False),
    "object": Case(pl.Object, [1], refused="cannot be stored", in_pandas=False),
    "all null int": Case(pl.Int32, [None, None]),
    "all null date": Case(pl.Date, [None, None]),
    "all null list": Case(pl.List(pl.Int64), [None]),
}


CUT_OFF = "PostgreSQL is sent microseconds; what is finer is cut off"
JSON = "PostgreSQL stores structs, and lists of lists or structs, as jsonb, which is read as text"
#: What is another thing in PostgreSQL.
_POSTGRES = {
    "text with NUL": Case(pl.String, ["a\x00b"], refused="has a text with a NUL character"),
    "moment ns": attrs.evolve(_DUCKDB["moment ns"], values_back=[1_600_000_000_123_456], why=CUT_OFF),
    "list of lists": attrs.evolve(
        _DUCKDB["list of lists"], back=pl.String, values_back=['[["a", null], []]', None], why=JSON
    ),
    "list of structs": attrs.evolve(
        _DUCKDB["list of structs"], back=pl.String, values_back=['[{"a": 1}]', "[]", None], why=JSON
    ),
    "struct": attrs.evolve(
        _DUCKDB["struct"], back=pl.String, values_back=['{"B": ["x", null], "b c": 1}', None], why=JSON
    ),
    "struct of a date": attrs.evolve(
        _DUCKDB["struct of a date"], back=pl.String, values_back=['{"a": "2020-02-29", "b": null}'], why=JSON
    ),
    "struct of a text": attrs.evolve(
        _DUCKDB["struct of a text"], back=pl.String, values_back=[r'{"a": "\"ü\" \\u0000"}'], why=JSON
    ),
    "struct of NUL": attrs.evolve(_DUCKDB["struct of NUL"], refused="has a text with a NUL character"),
    "struct of NaN": attrs.evolve(_DUCKDB["struct of NaN"], refused="has a value that JSON does not have"),
}
#: The cases of each database by the name of its dialect.
CASES: dict[str, dict[str, Case]] = {"duckdb": _DUCKDB, "postgresql": _DUCKDB | _POSTGRES}


NAN_IS_NULL = "in pandas NaN is a missing value"
NULLABLE = "numpy's backend gives pandas' nullable dtypes"
ARROW = "numpy has no dtype for it"


@attrs.frozen
class NumpyCase:
    """A column of a pandas frame with numpy's dtypes, and what comes back as pandas' own dtypes."""

    values: list[Any]
    dtype: str
    back: str
    #: None: the same.
    values_back: list[Any] | None
    why: str


_NUMPY_DUCKDB = {
    "int64": NumpyCase([-(2**63), 2**63 - 1], "int64", "Int64", None, NULLABLE),
    "int32": NumpyCase([-(2**31), 2**31 - 1], "int32", "Int32", None, NULLABLE),
    "int16": NumpyCase([-(2**15), 2**15 - 1], "int16", "Int16", None, NULLABLE),
    "int8": NumpyCase([-(2**7), 2**7 - 1], "int8", "Int16", None, WIDENED),
    "uint8": NumpyCase([0, 2**8 - 1], "uint8", "Int16", None, WIDENED),
    "uint16": NumpyCase([0, 2**16 - 1], "uint16", "Int32", None, WIDENED),
    "uint32": NumpyCase([0, 2**32 - 1], "uint32", "Int64", None, WIDENED),
    "uint64": NumpyCase([0, 2**64 - 1], "uint64", "UInt64", None, NULLABLE),
    "nullable int": NumpyCase([2**63 - 1, pd.NA], "Int64", "Int64", None, ""),
    "nullable bool": NumpyCase([True, False, pd.NA], "boolean", "boolean", None, ""),
    "bool": NumpyCase([True, False], "bool", "boolean", None, NULLABLE),
    "object bool": NumpyCase([True, None], "object", "boolean", [True, pd.NA], NULLABLE),
    "float16": NumpyCase([1.5], "float16", "Float32", None, HALF),
    "float32": NumpyCase([float("inf"), 1.5], "float32", "Float32", None, NULLABLE),
    "float64": NumpyCase([1e300, 5e-324, -INF, NAN], "float64", "Float64", [1e300, 5e-324, -INF, pd.NA], NAN_IS_NULL),
    "nullable float": NumpyCase([1e300, pd.NA], "Float64", "Float64", None, ""),
    "text": NumpyCase(
        ["", "😀", string.printable, None], "str", "string", ["", "😀", string.printable, pd.NA], NULLABLE
    ),
    "object text": NumpyCase(["", None], "object", "string", ["", pd.NA], NULLABLE),
    "object nothing": NumpyCase([None, None], "object", "string", [pd.NA, pd.NA], NOTHING),
    "nullable text": NumpyCase(["", pd.NA], "string", "string", None, ""),
    "object date": NumpyCase(
        [DAY(1, 1, 1), DAY(9999, 12, 31), None],
        "object",
        "datetime64[s]",
        [pd.Timestamp(DAY(1, 1, 1)).as_unit("s"), pd.Timestamp(DAY(9999, 12, 31)).as_unit("s"), pd.NaT],
        "pandas has no dates without a time",
    ),
    "moment": NumpyCase(
        [MOMENT(1, 1, 1), MOMENT(9999, 12, 31, 23, 59, 59), pd.NaT],
        "datetime64[us]",
        "datetime64[us]",
        None,
        "",
    ),
    "moment ns": NumpyCase([MOMENT(2020, 1, 1), pd.NaT], "datetime64[ns]", "datetime64[us]", None, MICROSECONDS),
    "moment with zone": NumpyCase(
        [pd.Timestamp("2020-01-01", tz="Europe/Berlin")],
        "datetime64[us, Europe/Berlin]",
        "datetime64[us, UTC]",
        None,
        "the moment is kept, the name of its zone is not",
    ),
    "object time": NumpyCase([TIME(0), TIME(23, 59, 59, 999999)], "object", "time64[us][pyarrow]", None, ARROW),
    "duration": NumpyCase([dt.timedelta(days=-1, microseconds=1)], "timedelta64[us]", "timedelta64[us]", None, ""),
    "object decimal": NumpyCase([Decimal("1.10"), None], "object", "Float64", [1.1, pd.NA], FLOATS),
    "category": NumpyCase(["a", "b", "a"], "category", "string", None, TEXT),
    "object binary": NumpyCase([b"\x00\xff", b""], "object", "binary[pyarrow]", None, ARROW),
    "object list": NumpyCase([[2**63 - 1, None], []], "object", "list<l: int64>[pyarrow]", None, ARROW),
    "object dict": NumpyCase([{"a": 1}], "object", "struct<a: int64>[pyarrow]", None, ARROW),
}
#: The cases of each database by the name of its dialect.
NUMPY: dict[str, dict[str, NumpyCase]] = {
    "duckdb": _NUMPY_DUCKDB,
    "postgresql": _NUMPY_DUCKDB | {"object dict": NumpyCase([{"a": 1}], "object", "string", ['{"a": 1}'], JSON)},
}
