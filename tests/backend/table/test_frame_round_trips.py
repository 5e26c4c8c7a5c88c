"""What a frame is when it comes back from the database: the same, or what is declared here, with the reason."""

from __future__ import annotations

import copy
import datetime as dt
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import polars.testing
import pytest

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.errors import StoreError, UnsupportedValueError
from pipedag_airflow.testing.store_fixtures import location, read, write
from pipedag_airflow.testing.type_cases import CASES, NUMPY, Case, NumpyCase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.testing.postgres import PostgresServer


@pytest.fixture(scope="module")
def postgres_store(postgres: PostgresServer) -> Iterator[SQLTableStore]:
    with postgres.database() as url:
        store = SQLTableStore(url.render_as_string(hide_password=False))
        yield store
        store.dispose()


@pytest.fixture(params=["duckdb", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[SQLTableStore]:
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres_store")
        return
    store = SQLTableStore("duckdb:///:memory:")
    yield store
    store.dispose()


def columns(cases: dict[str, dict[str, Any]]) -> pytest.MarkDecorator:
    """Each database with each of its columns."""
    each = [
        pytest.param(dialect, case, id=f"{dialect}-{name}")
        for dialect in cases
        for name, case in cases[dialect].items()
    ]
    return pytest.mark.parametrize(("store", "case"), each, indirect=["store"])


IN_PANDAS = {
    dialect: {name: case for name, case in cases.items() if case.in_pandas} for dialect, cases in CASES.items()
}


def same(result: pl.DataFrame, expected: pl.DataFrame) -> None:
    polars.testing.assert_frame_equal(result, expected, check_exact=True)


def refused(store: SQLTableStore, frame: Any, case: Case) -> None:
    """The error names the column and the table, and says what to do."""
    with pytest.raises(UnsupportedValueError, match=r"Column 'x' of table 't'.*\.") as caught:
        write(store, frame)
    assert case.refused in str(caught.value)
    assert "Convert it" in str(caught.value) or "Remove it" in str(caught.value)


@columns(CASES)
@pytest.mark.parametrize("rows", [True, False], ids=["rows", "empty"])
def test_a_polars_frame_comes_back(store: SQLTableStore, case: Case, rows: bool) -> None:
    if case.refused:
        refused(store, case.frame, case)
        return
    frame, expected = case.frame, case.expected
    if not rows:
        frame, expected = frame.clear(), expected.clear().cast(case.empty or expected.schema["x"])
    facts = write(store, frame)
    same(read(store, location(facts)), expected)
    same(read(store, location(facts), pl.LazyFrame).collect(), expected)


@pytest.mark.parametrize("case", [case for cases in CASES.values() for case in cases.values() if not case.refused])
def test_a_loss_is_declared_if_and_only_if_there_is_one(case: Case) -> None:
    assert bool(case.why) == (not case.expected.equals(case.frame) or case.expected.schema != case.frame.schema)


@columns(IN_PANDAS)
def test_a_pandas_frame_of_arrow_dtypes_comes_back(store: SQLTableStore, case: Case) -> None:
    frame = case.frame.to_pandas(use_pyarrow_extension_array=True)
    if case.refused:
        refused(store, frame, case)
        return
    before = copy.deepcopy(frame)
    result = read(store, location(write(store, frame)), (pd.DataFrame, "arrow"))
    assert isinstance(result["x"].dtype, pd.ArrowDtype)
    same(pl.DataFrame({"x": pl.from_arrow(result["x"].array.__arrow_array__())}), case.expected)
    pd.testing.assert_frame_equal(frame, before)


@columns(NUMPY)
def test_a_pandas_frame_of_numpy_dtypes_comes_back(store: SQLTableStore, case: NumpyCase) -> None:
    values, index = case.values, range(7, 7 + len(case.values))
    frame = pd.DataFrame({"x": pd.Series(values, dtype=case.dtype)}).set_index(pd.Index(index, name="i"))
    before = copy.deepcopy(frame)
    result = read(store, location(write(store, frame)), pd.DataFrame)
    # What the elements of a list are called is the driver's business.
    assert str(result["x"].dtype).replace("<item:", "<l:") == case.back
    assert (case.dtype == case.back) == (not case.why)
    expected = values if case.values_back is None else case.values_back
    assert [repr(value) for value in result["x"].tolist()] == [
        repr(value) for value in pd.Series(expected, dtype=result["x"].dtype).tolist()
    ]
    assert list(result.index) == list(range(len(values)))
    pd.testing.assert_frame_equal(frame, before)


def test_a_frame_that_was_read_can_be_stored_again(store: SQLTableStore) -> None:
    cases = {name: case for name, case in CASES[store.dialect_name].items() if not case.refused}
    frame = pl.DataFrame({name: case.frame["x"].head(1) for name, case in cases.items()})
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


def test_columns_that_differ_only_in_case_are_two_in_postgres(postgres_store: SQLTableStore) -> None:
    frame = pl.DataFrame({"a": [1], "A": [2]})
    assert read(postgres_store, location(write(postgres_store, frame))).equals(frame)


@pytest.mark.parametrize("store", ["duckdb"], indirect=True)
def test_columns_that_differ_only_in_case_are_an_error_that_names_them(store: SQLTableStore) -> None:
    with pytest.raises(StoreError, match=r"Table 't' of task 'task'.*\"A\""):
        write(store, pl.DataFrame({"a": [1], "A": [2]}))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1, "a"]),
        pd.Series(["a", 1]),
        pd.Series([b"a", "b"]),
        pd.Series([dt.date(2020, 1, 1), 5]),
        pd.Series([dt.date(2020, 1, 1), None, dt.datetime(2020, 1, 1, 12)]),  # noqa: DTZ001 - without a zone
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
    monkeypatch.setattr(type(store), "json_type", None)
    with pytest.raises(UnsupportedValueError, match="Column 'x' of table 't' is of type struct"):
        write(store, CASES["duckdb"]["struct"].frame)
