"""What columns of frames are in SQL Server, and what its columns are in frames. No server runs here."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql

from pipedag_airflow import Table
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.dialects.sqlserver.types import arrow_type, catalog_type, parse_type
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from sqlserver_double import Server


def store() -> SQLTableStore:
    return SQLTableStore("mssql+pyodbc://host/shop")


def written(server: Server, table: Table[Any]) -> tuple[str, list[Any]]:
    """The statement that makes the table, and the rows that are sent."""
    with store().transaction() as transaction:
        transaction.write_table("s", table, "s.t")
    create = next(sent for sent in server.sent if sent.startswith("CREATE TABLE s.t"))
    sent = [given for one, given in zip(server.sent, server.parameters, strict=True) if "INTO s.t" in one]
    rows = [row for given in sent for row in (given if isinstance(given, list) else [given])]
    return create.partition("(")[2][:-1], rows


UTC = dt.UTC
SMALLEST = dt.datetime.fromisoformat("0001-01-01 00:00:00.000001")
UTF8 = "Latin1_General_100_CI_AS_SC_UTF8"
#: Values of a column, the type that it gets, and the value that is sent.
COLUMNS: list[tuple[pl.Series, str, Any]] = [
    (pl.Series([True]), "BIT", True),
    (pl.Series([7], dtype=pl.Int8), "SMALLINT", 7),
    (pl.Series([7], dtype=pl.Int32), "INTEGER", 7),
    (pl.Series([-(2**63)]), "BIGINT", -(2**63)),
    (pl.Series([2**64 - 1], dtype=pl.UInt64), "NUMERIC(20, 0)", decimal.Decimal(2**64 - 1)),
    (pl.Series([1.5], dtype=pl.Float32), "FLOAT(24)", 1.5),
    (pl.Series([1.5]), "DOUBLE PRECISION", 1.5),
    (pl.Series([decimal.Decimal("1.25")], dtype=pl.Decimal(10, 2)), "NUMERIC(10, 2)", decimal.Decimal("1.25")),
    (pl.Series(["λ𝄞"]), "NVARCHAR(max)", "λ𝄞"),
    (pl.Series(["a"], dtype=pl.Categorical), "NVARCHAR(max)", "a"),
    (pl.Series([None]), "NVARCHAR(max)", None),
    (pl.Series([b"\0x"]), "VARBINARY(max)", b"\0x"),
    (pl.Series([dt.date(1, 1, 1)]), "DATE", dt.datetime.fromisoformat("0001-01-01")),
    (pl.Series([SMALLEST]), "DATETIME2(6)", SMALLEST),
    (pl.Series([dt.datetime(2020, 1, 1, tzinfo=UTC)]), "DATETIMEOFFSET(6)", "2020-01-01 00:00:00.000000+00:00"),
    (pl.Series([dt.time(23, 59, 59, 1)]), "TIME(6)", "23:59:59.000001"),
    (pl.Series([dt.timedelta(seconds=1)], dtype=pl.Duration("ms")), "BIGINT", 1_000_000),
]


@pytest.mark.parametrize(("values", "kind", "sent"), COLUMNS, ids=[f"{kind}-{v.dtype}" for v, kind, _ in COLUMNS])
def test_each_column_has_a_type_that_loses_nothing(server: Server, values: pl.Series, kind: str, sent: Any) -> None:
    create, rows = written(server, Table(pl.DataFrame({"c": values}), "t"))
    assert create == f"c {kind}"
    assert rows == [(sent,)]


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        (sa.String(20), "NVARCHAR(20)"),
        (sa.Text(), "NVARCHAR(max)"),
        (sa.VARCHAR(20), "VARCHAR(20)"),
        (mssql.VARCHAR(5, collation=UTF8), f"VARCHAR(5) COLLATE {UTF8}"),
        (mssql.DATETIME2(3), "DATETIME2(3)"),
    ],
)
def test_the_type_map_chooses_types(server: Server, chosen: Any, kind: str) -> None:
    create, _ = written(server, Table(pd.DataFrame({"c": ["x"]}), "t", type_map={"c": chosen}))
    assert create == f"c {kind}"


def test_a_missing_value_of_pandas_is_null(server: Server) -> None:
    frame = pd.DataFrame({"f": [1.5, None], "i": pd.array([1, None], "Int64"), "s": ["", None]})
    assert written(server, Table(frame, "t"))[1] == [(1.5, 1, ""), (None, None, None)]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(server: Server, number: float) -> None:
    with pytest.raises(UnsupportedValueError, match=r"Column 'f' of table 't' has a NaN or an infinite number"):
        written(server, Table(pl.DataFrame({"f": [1.0, None, number]}), "t"))


@pytest.mark.parametrize("values", [[[1, 2]], [{"a": 1}]])
def test_lists_and_records_are_refused(server: Server, values: list[Any]) -> None:
    with pytest.raises(UnsupportedValueError, match=r"which cannot be stored. Convert it, to text for example."):
        written(server, Table(pl.DataFrame({"c": values}), "t"))


def test_many_rows_are_sent_in_batches(server: Server) -> None:
    written(server, Table(pl.DataFrame({"i": range(25_000)}), "t"))
    sent = [len(rows) for one, rows in zip(server.sent, server.parameters, strict=True) if "INTO s.t" in one]
    assert sent == [10_000, 10_000, 5_000]


def test_a_table_without_rows_is_made_and_nothing_sent(server: Server) -> None:
    create, rows = written(server, Table(pl.DataFrame({"i": []}, schema={"i": pl.Int64}), "t"))
    assert (create, rows) == ("i BIGINT", [])


#: A type as sys.columns has it, and what a column of it is in Arrow.
CATALOG: list[tuple[tuple[str, int, int, int], str, Any]] = [
    (("nvarchar", 40, 0, 0), "nvarchar(20)", pa.string()),
    (("nvarchar", -1, 0, 0), "nvarchar(max)", pa.string()),
    (("varchar", 40, 0, 0), "varchar(40)", pa.string()),
    (("char", 3, 0, 0), "char(3)", pa.string()),
    (("varbinary", -1, 0, 0), "varbinary(max)", pa.binary()),
    (("timestamp", 8, 0, 0), "timestamp", pa.binary()),
    (("bit", 1, 1, 0), "bit", pa.bool_()),
    (("tinyint", 1, 3, 0), "tinyint", pa.int16()),
    (("smallint", 2, 5, 0), "smallint", pa.int16()),
    (("int", 4, 10, 0), "int", pa.int32()),
    (("bigint", 8, 19, 0), "bigint", pa.int64()),
    (("real", 4, 24, 0), "real", pa.float32()),
    (("float", 8, 53, 0), "float", pa.float64()),
    (("decimal", 9, 12, 3), "decimal(12,3)", pa.decimal128(12, 3)),
    (("money", 8, 19, 4), "money", pa.decimal128(19, 4)),
    (("date", 3, 10, 0), "date", pa.date32()),
    (("time", 5, 16, 7), "time(7)", pa.time64("us")),
    (("datetime", 8, 23, 3), "datetime", pa.timestamp("us")),
    (("datetime2", 8, 26, 6), "datetime2(6)", pa.timestamp("us")),
    (("datetimeoffset", 10, 33, 6), "datetimeoffset(6)", pa.timestamp("us", "UTC")),
    (("uniqueidentifier", 16, 0, 0), "uniqueidentifier", pa.string()),
    (("xml", -1, 0, 0), "xml", pa.string()),
]


@pytest.mark.parametrize(("row", "text", "kind"), CATALOG, ids=[text for _, text, _ in CATALOG])
def test_each_type_of_the_catalog_is_one_of_arrow(row: tuple[str, int, int, int], text: str, kind: Any) -> None:
    assert catalog_type(*row) == text
    assert arrow_type(parse_type(text)) == kind


def test_rows_are_read_in_the_types_of_the_catalog(server: Server) -> None:
    columns = {
        "i": sa.SmallInteger(),
        "b": sa.Boolean(),
        "n": sa.Numeric(20, 0),
        "u": sa.Uuid(),
        "t": sa.DateTime(True),
    }
    identity = uuid.uuid4()
    moment = dt.datetime(2020, 1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    server.answers.append(("FROM s.t", [(7, True, decimal.Decimal(5), str(identity).upper(), moment), (None,) * 5]))
    query = sa.select(*[sa.column(name, kind) for name, kind in columns.items()]).select_from(sa.table("t", schema="s"))
    with store().connection() as connection:
        table = SQLTableStore("mssql+pyodbc://host/shop").fetch_arrow(connection, query)
    assert table.schema.types == [pa.int16(), pa.bool_(), pa.decimal128(20, 0), pa.string(), pa.timestamp("us", "UTC")]
    assert table.to_pylist()[0] == {
        "i": 7, "b": True, "n": decimal.Decimal(5), "u": str(identity), "t": dt.datetime(2020, 1, 1, tzinfo=UTC)
    }  # fmt: skip
    assert set(table.to_pylist()[1].values()) == {None}


def test_a_table_without_rows_is_read_with_its_types(server: Server) -> None:
    server.answers.append(("FROM s.t", []))
    query = sa.select(sa.column("i", sa.SmallInteger())).select_from(sa.table("t", schema="s"))
    with store().connection() as connection:
        table = store().fetch_arrow(connection, query)
    assert (table.num_rows, table.schema.types) == (0, [pa.int16()])
