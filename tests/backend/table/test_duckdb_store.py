"""DuckDB: the suite of table stores, and what is DuckDB's own."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.dialects import DuckDBTableStore
from pipedag_airflow.core.containers import Table
from pipedag_airflow.errors import ConfigError, StoreError
from pipedag_airflow.testing.store_fixtures import location, read, write
from pipedag_airflow.testing.store_suite import TableStoreSuite

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction

SECRET = "c4n4ry/:@ %d"


class TestDuckDBFile(TableStoreSuite):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, f"duckdb:///{tmp_path}/with blanks λ.duckdb")


class TestDuckDBInMemory(TableStoreSuite):
    @pytest.fixture
    def make_store(self) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, "duckdb:///:memory:")


@pytest.fixture
def store(tmp_path: Path) -> SQLTableStore:
    return SQLTableStore(f"duckdb:///{tmp_path}/x.duckdb")


def opened(path: Path) -> None:
    with SQLTableStore(f"duckdb:///{path}").transaction():
        pass


def test_the_url_chooses_the_store(store: SQLTableStore) -> None:
    assert type(store) is DuckDBTableStore


@pytest.mark.parametrize(
    ("cls", "url", "message"),
    [
        (SQLTableStore, "oracle://scott:tiger@host/db", "no table store for 'oracle'.*duckdb"),
        (SQLTableStore, "tiger", "no SQLAlchemy URL"),
        (SQLTableStore, "postgresql://scott:p@ss:tiger@host/db", "no SQLAlchemy URL.*%40"),
        (DuckDBTableStore, "duckdb://scott:p@ss:tiger@host/db", "no SQLAlchemy URL.*%40"),
    ],
)
def test_a_url_that_cannot_be_used_is_an_error_without_the_password(
    cls: type[SQLTableStore], url: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        cls(url)
    assert "tiger" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def _fail_in_a_script(transaction: SQLTransaction) -> None:
    transaction.run_script("s", [f"CREATE TABLE s.t AS SELECT '{SECRET}' FROM nowhere"], "a.task")


def _end_in_a_script(transaction: SQLTransaction) -> None:
    transaction.run_script("s", [f"COMMIT /* {SECRET} */"], "a.task")


def _fail_in_a_query(transaction: SQLTransaction) -> None:
    transaction.connection.exec_driver_sql(f"SELECT '{SECRET}' FROM nowhere")


def _fail_in_a_table(transaction: SQLTransaction) -> None:
    transaction.write_table("s", Table(sa.text(f'SELECT 1 FROM "{SECRET}"'), "t"), "a.task")


@pytest.mark.parametrize("fail", [_fail_in_a_script, _end_in_a_script, _fail_in_a_query, _fail_in_a_table])
def test_what_the_store_logs_and_raises_tells_no_secret(
    fail: Callable[[SQLTransaction], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = SQLTableStore(f"duckdb:///{tmp_path}/x.duckdb?token={quote(SECRET)}", print_sql=True)
    store.url = store.url.set(query={})  # DuckDB knows no such parameter
    with pytest.raises(StoreError, match=r"\*\*\*") as caught, store.transaction() as transaction:
        fail(transaction)
    assert SECRET not in "".join(traceback.format_exception(caught.value, limit=0))
    assert SECRET not in caplog.text


def test_after_a_swallowed_error_the_block_fails(store: SQLTableStore) -> None:
    def ignore_an_error() -> None:
        with store.transaction() as transaction, pytest.raises(sa.exc.DBAPIError):
            transaction.connection.exec_driver_sql("SELECT * FROM nowhere")

    with pytest.raises(StoreError, match="its error was caught"):
        ignore_an_error()
    write(store, pl.DataFrame({"a": [1]}))


def test_a_failed_load_leaves_the_connection_usable() -> None:
    store = SQLTableStore("duckdb:///:memory:")  # keeps its only connection
    with pytest.raises(StoreError, match="Could not convert"):
        write(store, pl.DataFrame({"a": ["x"]}), type_map={"a": sa.Integer})
    facts = write(store, pl.DataFrame({"a": ["y"]}))
    assert read(store, location(facts)).item() == "y"
    store.dispose()


def test_the_facts_are_what_the_catalog_says(store: SQLTableStore) -> None:
    frame = pl.DataFrame(
        {"Id": [1], "d": [1.5], "s": ["x"], "l": [[1]], "r": [{"a b": 1}]}, schema_overrides={"d": pl.Decimal(10, 2)}
    )
    facts = write(store, frame, primary_key="Id")
    with store.transaction() as transaction:
        rows = transaction.connection.exec_driver_sql(
            "SELECT column_name, data_type, is_nullable FROM information_schema.columns "
            "WHERE table_schema = 's__g1' ORDER BY ordinal_position"
        ).all()
    assert [(column.name, column.type, column.nullable) for column in facts.columns] == [
        (name, kind, nullable == "YES") for name, kind, nullable in rows
    ]


@pytest.mark.parametrize(
    ("expression", "dtype"),
    [
        ("1::HUGEINT", pl.Int64),
        ("sum(1)", pl.Int64),
        ("(2::HUGEINT ** 63)::HUGEINT", pl.UInt64),
        ("-123456789012345678901234567890::HUGEINT", pl.Decimal(38, 0)),
        ("1::UBIGINT", pl.UInt64),
        ("1::TINYINT", pl.Int8),
        ("1.25::DECIMAL(38, 10)", pl.Float64),
        ("NULL", pl.String),
        ("'550e8400-e29b-41d4-a716-446655440000'::UUID", pl.String),
        ("'{}'::JSON", pl.String),
        ("TIMESTAMP_NS '2020-01-01'", pl.Datetime("ns")),
        ("TIMESTAMP_S '2020-01-01'", pl.Datetime("ms")),
        ("TIMESTAMPTZ '2020-01-01 00:00+02'", pl.Datetime("us", "UTC")),
        ("INTERVAL '1 month 2 days'", pl.Duration("us")),
        ("[[1], NULL]", pl.List(pl.List(pl.Int32))),
        ("{'a': 1, 'b': ['x']}", pl.Struct({"a": pl.Int32, "b": pl.List(pl.String)})),
    ],
)
def test_what_sql_tasks_make_can_be_read(store: SQLTableStore, expression: str, dtype: pl.DataType) -> None:
    facts = write(store, sa.text(f"SELECT {expression} AS x"))
    assert read(store, location(facts)).schema == {"x": dtype}


@pytest.mark.parametrize("expression", ["union_value(num := 2)", "[INTERVAL '1 day']"])
def test_what_frames_do_not_have_is_an_error_that_names_the_column(store: SQLTableStore, expression: str) -> None:
    facts = write(store, sa.text(f"SELECT {expression} AS x"))
    with pytest.raises(StoreError, match=r"Table s\.t .*column 'x' is of type .*which frames do not have"):
        read(store, location(facts))


def test_moments_are_in_utc_wherever_the_code_runs(store: SQLTableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        store,
        "fetch_arrow",
        lambda connection, query: (
            connection.exec_driver_sql("SET TimeZone = 'Asia/Tokyo'"),
            DuckDBTableStore.fetch_arrow(store, connection, query),
        )[1],
    )
    facts = write(store, sa.text("SELECT TIMESTAMPTZ '2020-01-01 00:00+02' AS x"))
    assert str(read(store, location(facts)).item()) == "2019-12-31 22:00:00+00:00"


def test_every_statement_can_be_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SQLTableStore(f"duckdb:///{tmp_path}/x.duckdb", print_sql=True, print_materialize=True)
    with caplog.at_level(logging.INFO):
        write(store, pl.DataFrame({"a": [1]}))
    assert "CREATE TABLE s__g1.t (a BIGINT)" in caplog.text
    assert "Stored s__g1.t: 1 rows" in caplog.text


def test_the_folder_of_the_file_is_made(tmp_path: Path) -> None:
    path = tmp_path / "a b" / "c" / "x.duckdb"
    opened(path)
    assert path.exists()


@pytest.mark.parametrize("place", ["no.duckdb", ".", "no.duckdb/x.duckdb"], ids=["text", "folder", "folder is a file"])
def test_what_is_no_database_is_an_error_that_names_it(tmp_path: Path, place: str) -> None:
    (tmp_path / "no.duckdb").write_text("this is a text" * 1000)
    with pytest.raises(StoreError, match=r"The (folder of the )?database duckdb:///.* cannot be"):
        opened(tmp_path / place)
    assert (tmp_path / "no.duckdb").read_text() == "this is a text" * 1000


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.errors import MissingExtraError
try:
    with SQLTableStore("duckdb:///:memory:").transaction():
        pass
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize("missing", ["duckdb", "duckdb_sqlalchemy"])
def test_a_missing_driver_names_the_extra(missing: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, missing], capture_output=True, text=True, check=True)
    assert "pip install 'pipedag-airflow[duckdb]'" in done.stdout
