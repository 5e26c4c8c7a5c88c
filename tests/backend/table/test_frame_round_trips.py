"""What a frame is when it comes back from the database: the same, or what is declared here, with the reason."""

from __future__ import annotations

import copy
import datetime as dt
import string
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import attrs
import pandas as pd
import polars as pl
import polars.testing
import pytest

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.errors import StoreError, UnsupportedValueError
from pipedag_airflow.testing.store_fixtures import location, read, write

if TYPE_CHECKING:
    from collections.abc import Iterator

NAN, INF = float("nan"), float("inf")
DAY, MOMENT, TIME = dt.date, dt.datetime, dt.time
WIDENED = "SQL has no integers of one byte and no unsigned ones: the next larger signed type keeps every value"
MICROSECONDS = "databases keep microseconds; what is finer is rounded or cut off"
TEXT = "categories are stored as text"
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

    @property
    def frame(self) -> pl.DataFrame:
        return pl.DataFrame({"x": pl.Series(self.values, dtype=self.dtype)})

    @property
    def expected(self) -> pl.DataFrame:
        values = self.values if self.values_back is None else self.values_back
        return pl.DataFrame({"x": pl.Series(values, dtype=self.back or self.dtype)})


CASES = {
    "int8": Case(pl.Int8, [-(2**7), 2**7 - 1, None], pl.Int16, why=WIDENED),
    "int16": Case(pl.Int16, [-(2**15), 2**15 - 1, None]),
    "int32": Case(pl.Int32, [-(2**31), 2**31 - 1, None]),
    "int64": Case(pl.Int64, [-(2**63), 2**63 - 1, None]),
    "uint8": Case(pl.UInt8, [0, 2**8 - 1, None], pl.Int16, why=WIDENED),
    "uint16": Case(pl.UInt16, [0, 2**16 - 1, None], pl.Int32, why=WIDENED),
    "uint32": Case(pl.UInt32, [0, 2**32 - 1, None], pl.Int64, why=WIDENED),
    "uint64": Case(pl.UInt64, [0, 2**64 - 1, None], empty=pl.Int64),
    "small uint64": Case(pl.UInt64, [0, 2**63 - 1, None], pl.Int64, why=INTEGERS),
    "float16": Case(pl.Float16, [1.5, -65504.0, None], pl.Float32, why="no database has floats of two bytes"),
    "float32": Case(pl.Float32, [3e38, 1e-38, -0.0, NAN, INF, -INF, None]),
    "float64": Case(pl.Float64, [1e300, 5e-324, 0.1, NAN, INF, -INF, None]),
    "bool": Case(pl.Boolean, [True, False, None]),
    "text": Case(pl.String, ["", None, string.printable, "\\N", "NULL", "äöü😀\U0010ffff", "a\x00b", "x" * 1024]),
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
    "decimal": Case(
        pl.Decimal(10, 2), [Decimal("-1.10"), None], pl.Float64, [-1.1, None], "decimals are read as floats"
    ),
    "whole decimal": Case(pl.Decimal(18, 0), [Decimal(7), None], pl.Int64, [7, None], INTEGERS),
    "large decimal": Case(pl.Decimal(38, 0), [Decimal(10**37), None], empty=pl.Int64),
    "categorical": Case(pl.Categorical, ["a", "b", "a", None], pl.String, why=TEXT),
    "enum": Case(pl.Enum(["b", "a"]), ["a", "b", None], pl.String, why=TEXT),
    "nothing": Case(pl.Null, [None, None], pl.String, why="a column without any value becomes text"),
    "list": Case(pl.List(pl.Int64), [[2**63 - 1, None], [], None]),
    "list of lists": Case(pl.List(pl.List(pl.String)), [[["a", None], []], None]),
    "array": Case(pl.Array(pl.Int64, 2), [[1, 2], None], pl.List(pl.Int64), why="lists have no fixed length"),
    "struct": Case(pl.Struct({"a b": pl.Int64, "B": pl.List(pl.String)}), [{"a b": 1, "B": ["x", None]}, None]),
    "all null int": Case(pl.Int32, [None, None]),
    "all null date": Case(pl.Date, [None, None]),
    "all null list": Case(pl.List(pl.Int64), [None]),
}


@pytest.fixture
def store() -> Iterator[SQLTableStore]:
    store = SQLTableStore("duckdb:///:memory:")
    yield store
    store.dispose()


def same(result: pl.DataFrame, expected: pl.DataFrame) -> None:
    polars.testing.assert_frame_equal(result, expected, check_exact=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("rows", [True, False], ids=["rows", "empty"])
def test_a_polars_frame_comes_back(store: SQLTableStore, case: Case, rows: bool) -> None:
    frame, expected = case.frame, case.expected
    if not rows:
        frame, expected = frame.clear(), expected.clear().cast(case.empty or expected.schema["x"])
    facts = write(store, frame)
    same(read(store, location(facts)), expected)
    same(read(store, location(facts), pl.LazyFrame).collect(), expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_loss_is_declared_if_and_only_if_there_is_one(case: Case) -> None:
    assert bool(case.why) == (not case.expected.equals(case.frame) or case.expected.schema != case.frame.schema)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_pandas_frame_of_arrow_dtypes_comes_back(store: SQLTableStore, case: Case) -> None:
    frame = case.frame.to_pandas(use_pyarrow_extension_array=True)
    before = copy.deepcopy(frame)
    result = read(store, location(write(store, frame)), (pd.DataFrame, "arrow"))
    assert isinstance(result["x"].dtype, pd.ArrowDtype)
    same(pl.DataFrame({"x": pl.from_arrow(result["x"].array.__arrow_array__())}), case.expected)
    pd.testing.assert_frame_equal(frame, before)


NAN_IS_NULL = "in pandas NaN is a missing value"
NULLABLE = "numpy's backend gives pandas' nullable dtypes"
ARROW = "numpy has no dtype for it"
#: Values, dtype, dtype that comes back, values that come back (None: the same), why.
NUMPY = {
    "int64": ([-(2**63), 2**63 - 1], "int64", "Int64", None, NULLABLE),
    "int8": ([-(2**7), 2**7 - 1], "int8", "Int16", None, WIDENED),
    "uint64": ([0, 2**64 - 1], "uint64", "UInt64", None, NULLABLE),
    "nullable int": ([2**63 - 1, pd.NA], "Int64", "Int64", None, ""),
    "nullable bool": ([True, False, pd.NA], "boolean", "boolean", None, ""),
    "bool": ([True, False], "bool", "boolean", None, NULLABLE),
    "object bool": ([True, None], "object", "boolean", [True, pd.NA], NULLABLE),
    "float16": ([1.5], "float16", "Float32", None, "no database has floats of two bytes"),
    "float32": ([float("inf"), 1.5], "float32", "Float32", None, NULLABLE),
    "float64": ([1e300, 5e-324, -INF, NAN], "float64", "Float64", [1e300, 5e-324, -INF, pd.NA], NAN_IS_NULL),
    "nullable float": ([1e300, pd.NA], "Float64", "Float64", None, ""),
    "text": (["", "😀", string.printable, None], "str", "string", ["", "😀", string.printable, pd.NA], NULLABLE),
    "object text": (["", None], "object", "string", ["", pd.NA], NULLABLE),
    "object nothing": ([None, None], "object", "string", [pd.NA, pd.NA], "a column without any value becomes text"),
    "nullable text": (["", pd.NA], "string", "string", None, ""),
    "object date": (
        [DAY(1, 1, 1), DAY(9999, 12, 31), None],
        "object",
        "datetime64[s]",
        [pd.Timestamp(DAY(1, 1, 1)).as_unit("s"), pd.Timestamp(DAY(9999, 12, 31)).as_unit("s"), pd.NaT],
        "pandas has no dates without a time",
    ),
    "moment": (
        [MOMENT(1, 1, 1), MOMENT(9999, 12, 31, 23, 59, 59), pd.NaT],
        "datetime64[us]",
        "datetime64[us]",
        None,
        "",
    ),
    "moment ns": ([MOMENT(2020, 1, 1), pd.NaT], "datetime64[ns]", "datetime64[us]", None, MICROSECONDS),
    "moment with zone": (
        [pd.Timestamp("2020-01-01", tz="Europe/Berlin")],
        "datetime64[us, Europe/Berlin]",
        "datetime64[us, UTC]",
        None,
        "the moment is kept, the name of its zone is not",
    ),
    "object time": ([TIME(0), TIME(23, 59, 59, 999999)], "object", "time64[us][pyarrow]", None, ARROW),
    "duration": ([dt.timedelta(days=-1, microseconds=1)], "timedelta64[us]", "timedelta64[us]", None, ""),
    "object decimal": ([Decimal("1.10"), None], "object", "Float64", [1.1, pd.NA], "decimals are read as floats"),
    "category": (["a", "b", "a"], "category", "string", None, TEXT),
    "object binary": ([b"\x00\xff", b""], "object", "binary[pyarrow]", None, ARROW),
    "object list": ([[2**63 - 1, None], []], "object", "list<l: int64>[pyarrow]", None, ARROW),
    "object dict": ([{"a": 1}], "object", "struct<a: int64>[pyarrow]", None, ARROW),
}


@pytest.mark.parametrize(("values", "dtype", "back", "values_back", "why"), NUMPY.values(), ids=NUMPY)
def test_a_pandas_frame_of_numpy_dtypes_comes_back(
    store: SQLTableStore, values: list[Any], dtype: str, back: str, values_back: list[Any] | None, why: str
) -> None:
    frame = pd.DataFrame({"x": pd.Series(values, dtype=dtype)}).set_index(pd.Index(range(7, 7 + len(values)), name="i"))
    before = copy.deepcopy(frame)
    result = read(store, location(write(store, frame)), pd.DataFrame)
    assert str(result["x"].dtype) == back
    assert (dtype == back) == (not why)
    expected = values if values_back is None else values_back
    assert [repr(value) for value in result["x"].tolist()] == [
        repr(value) for value in pd.Series(expected, dtype=result["x"].dtype).tolist()
    ]
    assert list(result.index) == list(range(len(values)))
    pd.testing.assert_frame_equal(frame, before)


def test_a_frame_that_was_read_can_be_stored_again(store: SQLTableStore) -> None:
    frame = pl.DataFrame({name: case.frame["x"].head(1) for name, case in CASES.items()})
    for input_type in (pl.DataFrame, pd.DataFrame, (pd.DataFrame, "arrow")):
        once = write(store, read(store, location(write(store, frame)), input_type))
        twice = write(store, read(store, location(once), input_type))
        assert twice == once


def test_columns_of_any_name_keep_their_order(store: SQLTableStore) -> None:
    frame = pl.DataFrame({"UPPER": [1], "Mixed": [2], "select": [3], "a": [4], "größe": [5], "x.y": [6], " ": [7]})
    assert read(store, location(write(store, frame))).equals(frame)
    assert list(read(store, location(write(store, frame.to_pandas())), pd.DataFrame).columns) == frame.columns


def test_pandas_column_labels_become_text(store: SQLTableStore) -> None:
    frame = pd.DataFrame([[1, 2]], columns=[0, ("a", 1)])
    assert [column.name for column in write(store, frame).columns] == ["0", "('a', 1)"]
    assert frame.columns.tolist() == [0, ("a", 1)]


def test_columns_that_differ_only_in_case_are_an_error_that_names_them(store: SQLTableStore) -> None:
    with pytest.raises(StoreError, match=r"Table 't' of task 'task'.*\"A\""):
        write(store, pl.DataFrame({"a": [1], "A": [2]}))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, "a"]),
        pd.Series(["a", 1]),
        pd.Series([b"a", "b"]),
        pd.Series([DAY(2020, 1, 1), 5]),
        pd.Series([DAY(2020, 1, 1), None, MOMENT(2020, 1, 1, 12)]),
        pd.Series([True, 1], dtype=object),
        pd.Series([1j]),
        pd.period_range("2020", periods=1),
        pd.interval_range(0, 1),
    ],
    ids=str,
)
def test_a_column_that_is_no_sql_is_an_error_that_names_it(store: SQLTableStore, column: Any) -> None:
    frame = pd.DataFrame({"good": [1] * len(column), "bad": column})
    with pytest.raises(UnsupportedValueError, match="Column 'bad' of table 't'"):
        write(store, frame)


def test_records_need_a_database_that_stores_them(store: SQLTableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store), "stores_structs", False)
    with pytest.raises(UnsupportedValueError, match="Column 'x' of table 't' is of type struct"):
        write(store, CASES["struct"].frame)
