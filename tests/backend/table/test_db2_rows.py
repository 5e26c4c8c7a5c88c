"""Rows between frames and Db2: what is sent in batches, in columns of which type, and what comes back."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.facts import Column, TableLocation
from pipedag_airflow.core.containers import Table
from pipedag_airflow.errors import StoreError, UnsupportedValueError

if TYPE_CHECKING:
    from db2_server import Server

    from pipedag_airflow.backend.table import SQLTableStore

UTC = dt.UTC
MOMENT = dt.datetime.fromisoformat("2020-01-02 03:04:05.000678")

#: A column, its type in Db2, and what the driver is given.
STORED: dict[str, tuple[pl.Series, str, list[Any]]] = {
    "text": (pl.Series(["", None, "ü" * 4]), "VARCHAR(8)", ["", None, "ü" * 4]),
    "empty text": (pl.Series(["", None]), "VARCHAR(1)", ["", None]),
    "longest text": (pl.Series(["x" * 32_672]), "VARCHAR(32672)", ["x" * 32_672]),
    "large text": (pl.Series(["x" * 32_673]), "CLOB(32673)", ["x" * 32_673]),
    "category": (pl.Series(["b", "a", "b"], dtype=pl.Categorical()), "VARCHAR(1)", ["b", "a", "b"]),
    "nothing": (pl.Series([None], dtype=pl.Null), "VARCHAR(1)", [None]),
    "bytes": (pl.Series([b"\x00\xff", None]), "BLOB(2)", [b"\x00\xff", None]),
    "int8": (pl.Series([1, None], dtype=pl.Int8), "SMALLINT", [1, None]),
    "int32": (pl.Series([1], dtype=pl.Int32), "INTEGER", [1]),
    "int64": (pl.Series([2**62]), "BIGINT", [2**62]),
    "uint64": (pl.Series([2**64 - 1], dtype=pl.UInt64), "DECIMAL(20, 0)", [2**64 - 1]),
    "float32": (pl.Series([0.5], dtype=pl.Float32), "REAL", [0.5]),
    "float64": (pl.Series([0.1, None]), "DOUBLE", [0.1, None]),
    "decimal": (pl.Series([Decimal("1.10")], dtype=pl.Decimal(10, 2)), "DECIMAL(10, 2)", [Decimal("1.10")]),
    "bool": (pl.Series([True, False, None]), "BOOLEAN", ["1", "0", None]),
    "date": (pl.Series([dt.date(1, 1, 1)]), "DATE", ["0001-01-01"]),
    "moment": (pl.Series([MOMENT]), "TIMESTAMP", [MOMENT]),
    "moment ns": (
        pl.Series([MOMENT]).cast(pl.Datetime("ns")) + dt.timedelta(microseconds=1),
        "TIMESTAMP",
        [MOMENT + dt.timedelta(microseconds=1)],
    ),
    "moment with zone": (
        pl.Series([MOMENT]).dt.replace_time_zone("Europe/Berlin"),
        "TIMESTAMP",
        [MOMENT - dt.timedelta(hours=1)],
    ),
    "time": (pl.Series([dt.time(23, 59, 59), None]), "TIME", [dt.time(23, 59, 59), None]),
    "duration": (pl.Series([dt.timedelta(days=-1, microseconds=3)]), "BIGINT", [-86_399_999_997]),
}


@pytest.mark.parametrize("case", STORED)
def test_a_column_is_stored_in_a_type_that_has_all_its_values(case: str, db2_store: SQLTableStore, db2: Server) -> None:
    column, kind, values = STORED[case]
    with db2_store.transaction() as transaction:
        db2.forget()
        transaction.write_table("s", Table(pl.DataFrame({"x": column}), "t"), "task")
    assert f"CREATE TABLE s.t (x {kind})" in db2.of_the_stage
    assert db2.batches == [[(value,) for value in values]]


REFUSED: dict[str, tuple[pl.Series, str]] = {
    "not a number": (pl.Series([float("nan")]), "Column 'x' of table 't' has a value that is infinite or not a number"),
    "infinite": (pl.Series([float("-inf")], dtype=pl.Float32), "infinite or not a number, which Db2 cannot store"),
    "fractions": (pl.Series([dt.time(0, 0, 0, 1)]), "fractions of a second, which Db2's TIME cannot store"),
    "list": (pl.Series([[1]]), r"Column 'x' of table 't' is of type large_list.*, which cannot be stored"),
    "struct": (pl.Series([{"a": 1}]), "Column 'x' of table 't' is of type struct.*, which cannot be stored"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_db2_does_not_have_is_refused(case: str, db2_store: SQLTableStore) -> None:
    column, problem = REFUSED[case]
    with pytest.raises(UnsupportedValueError, match=problem), db2_store.transaction() as transaction:
        transaction.write_table("s", Table(pl.DataFrame({"x": column}), "t"), "task")


def test_a_decimal_of_38_digits_is_refused_with_the_task_and_the_table(db2_store: SQLTableStore) -> None:
    frame = pl.DataFrame({"x": pl.Series([Decimal(10**37)], dtype=pl.Decimal(38, 0))})
    refusal = "Table 't' of task 'task' could not be stored.*at most 31 digits, not 38"
    with pytest.raises(StoreError, match=refusal), db2_store.transaction() as transaction:
        transaction.write_table("s", Table(frame, "t"), "task")


def test_the_type_map_chooses_another_type(db2_store: SQLTableStore, db2: Server) -> None:
    types = {"x": sa.String(20), "y": sa.String, "z": sa.SmallInteger}
    with db2_store.transaction() as transaction:
        transaction.write_table(
            "s", Table(pl.DataFrame({"x": ["a"], "y": [123], "z": [1]}), "t", type_map=types), "task"
        )
    assert "CREATE TABLE s.t (x VARCHAR(20), y VARCHAR(3), z SMALLINT)" in db2.of_the_stage


def test_rows_are_sent_in_batches(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction() as transaction:
        db2.forget()
        facts = transaction.write_table("s", Table(pl.DataFrame({"a": range(2500), "b": "x"}), "t"), "task")
    assert [len(batch) for batch in db2.batches] == [1000, 1000, 500]
    assert db2.batches[2][-1] == (2499, "x")
    assert facts.rows == 2500


def test_a_frame_without_rows_makes_a_table_and_sends_none(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction() as transaction:
        db2.forget()
        transaction.write_table("s", Table(pl.DataFrame(schema={"a": pl.String}), "t"), "task")
    assert "CREATE TABLE s.t (a VARCHAR(1))" in db2.of_the_stage
    assert not any(sent.startswith("INSERT") for sent in db2.of_the_stage)


#: A type of the catalog, what the driver gives, and the Arrow type and the values that come of it.
READ: dict[str, tuple[list[Any], pa.DataType, list[Any]]] = {
    "SMALLINT": ([1, None], pa.int16(), [1, None]),
    "INTEGER": ([1], pa.int32(), [1]),
    "BIGINT": ([2**62], pa.int64(), [2**62]),
    "DECIMAL(20, 0)": ([Decimal(2**64 - 1)], pa.uint64(), [2**64 - 1]),
    "DECIMAL(10, 0)": ([Decimal(7), None], pa.int64(), [7, None]),
    "DECIMAL(10, 2)": ([1.5], pa.float64(), [1.5]),
    "DECFLOAT(34)": ([1.5], pa.float64(), [1.5]),
    "REAL": ([0.5], pa.float32(), [0.5]),
    "DOUBLE": ([0.1], pa.float64(), [0.1]),
    "BOOLEAN": ([1, 0, None], pa.bool_(), [True, False, None]),
    "VARCHAR(3)": (["", "ü", None], pa.string(), ["", "ü", None]),
    "CLOB(5)": (["abc"], pa.string(), ["abc"]),
    "VARCHAR(3) FOR BIT DATA": ([b"\x00"], pa.binary(), [b"\x00"]),
    "BLOB(5)": ([b"\xff", None], pa.binary(), [b"\xff", None]),
    "DATE": ([dt.date(9999, 12, 31)], pa.date32(), [dt.date(9999, 12, 31)]),
    "TIME": ([dt.time(1, 2, 3)], pa.time64("us"), [dt.time(1, 2, 3)]),
    "TIMESTAMP(6)": ([MOMENT], pa.timestamp("us"), [MOMENT]),
    "XML": (["<a/>"], pa.string(), ["<a/>"]),
}


@pytest.mark.parametrize("kind", READ)
def test_a_column_is_read_in_its_type(kind: str, db2_store: SQLTableStore, db2: Server) -> None:
    given, arrow, values = READ[kind]
    location = TableLocation("s", "t", "s", "t", (Column("Value", kind, True),))
    db2.replies["FROM s.t"] = (["Value"], [(value,) for value in given])
    with db2_store.connection() as connection:
        found = db2_store.fetch_table(connection, location)
    assert found.schema == pa.schema([("Value", arrow)])
    assert found.column(0).to_pylist() == values


def test_decimals_that_are_not_whole_are_read_as_floats_by_the_server(db2_store: SQLTableStore, db2: Server) -> None:
    location = TableLocation("s", "t", "s", "t", (Column("n", "DECIMAL(10, 2)", True),))
    db2.replies["FROM s.t"] = (["n"], [])
    with db2_store.connection() as connection:
        found = db2_store.fetch_table(connection, location)
    assert "SELECT CAST(s.t.n AS DOUBLE) AS n FROM s.t" in db2.of_the_stage
    assert found.schema == pa.schema([("n", pa.float64())])
    assert found.num_rows == 0


def test_times_of_the_metadata_are_stored_without_a_zone_and_read_in_utc(db2_store: SQLTableStore, db2: Server) -> None:
    moment = dt.datetime(2026, 1, 31, 14, 30, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    run = db2_store.metadata_tables.run
    values = {"run_id": "r", "flow": "f", "fingerprint": "", "nodes": "[]", "engine": "", "started": moment}
    with db2_store.transaction() as transaction:
        transaction.connection.execute(sa.insert(run).values(**values))
        (read,) = transaction.connection.scalars(sa.select(run.c.started))
    assert read == moment
    assert read.tzinfo is UTC
    stored = db2.data.execute("SELECT started::VARCHAR FROM pipedag_metadata.run").fetchone()
    assert stored == ("2026-01-31 12:30:00",)
