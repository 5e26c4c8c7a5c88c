"""What is known of a stored frame without reading it is what the read gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.frames.arrow import from_database
from pipedag_airflow.backend.table.sql.frames.unread import as_read
from pipedag_airflow.testing.store_fixtures import location, write
from pipedag_airflow.testing.type_cases import CASES, Case

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.testing.postgres import PostgresServer

EACH = [
    pytest.param(dialect, case, id=f"{dialect}-{name}")
    for dialect, cases in CASES.items()
    for name, case in cases.items()
    if not case.refused
]
#: Columns of which nothing has to be read.
KNOWN = ("int16", "int32", "int64", "float32", "float64", "bool", "text", "binary", "date", "moment")


@pytest.fixture(scope="module")
def postgres_store(postgres: PostgresServer) -> Iterator[SQLTableStore]:
    with postgres.database() as url:
        store = SQLTableStore(url.render_as_string(hide_password=False))
        yield store
        store.dispose()


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Iterator[SQLTableStore]:
    if request.param == "postgresql":
        yield request.getfixturevalue("postgres_store")
        return
    store = SQLTableStore("duckdb:///:memory:")
    yield store
    store.dispose()


def known_and_read(store: SQLTableStore, frame: pl.DataFrame) -> tuple[pa.Table | None, pa.Table]:
    place = location(write(store, frame))
    with store.transaction() as transaction:
        nothing = sa.select(store.table_reference(place)).where(sa.false())
        schema = from_database(store.fetch_arrow(transaction.connection, nothing)).schema
        return as_read(frame.to_arrow(), schema), store.fetch_table(transaction.connection, place)


def same(known: pa.Table, read: pa.Table) -> None:
    assert known.schema.equals(read.schema, check_metadata=True)
    assert pl.DataFrame(known).equals(pl.DataFrame(read))


@pytest.mark.parametrize(("store", "case"), EACH, indirect=["store"])
def test_what_is_known_is_what_is_read(store: SQLTableStore, case: Case) -> None:
    known, read = known_and_read(store, case.frame)
    if known is not None:
        same(known, read)


@pytest.mark.parametrize("store", CASES, indirect=True)
def test_the_usual_types_are_known(store: SQLTableStore) -> None:
    cases = CASES["duckdb"]
    assert [name for name in KNOWN if known_and_read(store, cases[name].frame)[0] is None] == []


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        ({"a": pa.array([1])}, {"b": pa.array([1])}),
        ({"a": pa.array([1])}, {"a": pa.array([1.0])}),
        ({"a": pa.array([1]), "b": pa.array([1])}, {"b": pa.array([1]), "a": pa.array([1])}),
        ({"a": pa.array([1], pa.uint64())}, {"a": pa.array([1], pa.uint64())}),
    ],
    ids=["another name", "another type", "another order", "a type whose values may change"],
)
def test_anything_else_has_to_be_read(stored: dict[str, Any], read: dict[str, Any]) -> None:
    assert as_read(pa.table(stored), pa.table(read).schema) is None


ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(),
        st.none() | st.floats(width=32),
        st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        st.none() | st.binary(),
        st.none() | st.dates(),
        st.none() | st.datetimes(),
        st.none() | st.booleans(),
    ),
    max_size=5,
)
TYPES: tuple[Any, ...] = (
    pl.Int64,
    pl.Float64,
    pl.Float32,
    pl.String,
    pl.Binary,
    pl.Date,
    pl.Datetime("us"),
    pl.Boolean,
)


@pytest.mark.parametrize("store", CASES, indirect=True)
@given(ROWS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_rows_are_known_are_those_that_are_read(store: SQLTableStore, rows: list[tuple[Any, ...]]) -> None:
    schema = {f"c{number}": kind for number, kind in enumerate(TYPES)}
    frame = pl.DataFrame(rows, schema, orient="row")
    known, read = known_and_read(store, frame)
    assert known is not None
    same(known, read)
