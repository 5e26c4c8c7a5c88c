"""Scripts in Transact-SQL: how they are taken apart, what is refused, and what they have made. No server runs here."""

from __future__ import annotations

import datetime as dt
import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, create_basic_pipedag_config, materialize
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects.sqlserver.scripts import (
    controls_transaction,
    other_database,
    split_batches,
    with_into,
)
from pipedag_airflow.errors import MissingExtraError, StoreError

if TYPE_CHECKING:
    from sqlserver_double import Server

URL = "mssql+pyodbc://host/shop"


@pytest.mark.parametrize(
    ("script", "batches"),
    [
        ("SELECT 1", ["SELECT 1"]),
        ("SELECT 1\nGO\nSELECT 2\ngo\n", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1\r\n  Go  \r\nSELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1\nGO -- that was it\nSELECT 2", ["SELECT 1", "SELECT 2"]),
        ("SELECT 1\nGO;\nSELECT 2", ["SELECT 1", "SELECT 2"]),
        ("INSERT t VALUES (1)\nGO 3", ["INSERT t VALUES (1)"] * 3),
        ("GO\nGO\n-- nothing\nGO\n/* nothing\n */", []),
        ("[calls a procedure]\nGO", ["[calls a procedure]"]),
        ("SELECT 'a\nGO\nb'", ["SELECT 'a\nGO\nb'"]),
        ("SELECT 'it''s\nGO\n'", ["SELECT 'it''s\nGO\n'"]),
        ("SELECT 1 AS [a\nGO\n]", ["SELECT 1 AS [a\nGO\n]"]),
        ('SELECT 1 AS "a\nGO\n"', ['SELECT 1 AS "a\nGO\n"']),
        ("SELECT 1 /* a /* b\nGO\n*/\nGO\n*/ + 1", ["SELECT 1 /* a /* b\nGO\n*/\nGO\n*/ + 1"]),
        ("SELECT 1 -- it's\nGO\nSELECT 2", ["SELECT 1 -- it's", "SELECT 2"]),
        ("SELECT go FROM t\nGOTO x", ["SELECT go FROM t\nGOTO x"]),
        ("DECLARE @a int = 1; SELECT @a; SELECT ';'", ["DECLARE @a int = 1; SELECT @a; SELECT ';'"]),
    ],
)
def test_batches_end_at_lines_that_consist_of_go(script: str, batches: list[str]) -> None:
    assert split_batches(script) == batches


@pytest.mark.parametrize(
    ("query", "made"),
    [
        ("SELECT a FROM t", "SELECT a\nINTO s.x\nFROM t"),
        ("SELECT 1 AS a", "SELECT 1 AS a\nINTO s.x"),
        ("SELECT 1 AS a;", "SELECT 1 AS a\nINTO s.x"),
        ("SELECT 1 AS a WHERE 1 = 1", "SELECT 1 AS a\nINTO s.x\nWHERE 1 = 1"),
        ("SELECT a FROM t ORDER BY a", "SELECT a\nINTO s.x\nFROM t ORDER BY a"),
        ("SELECT 1 AS a UNION ALL SELECT 2", "SELECT 1 AS a\nINTO s.x\nUNION ALL SELECT 2"),
        ("WITH c AS (SELECT a FROM t) SELECT a FROM c", "WITH c AS (SELECT a FROM t) SELECT a\nINTO s.x\nFROM c"),
        ("SELECT (SELECT 1 FROM u) AS a FROM t", "SELECT (SELECT 1 FROM u) AS a\nINTO s.x\nFROM t"),
        ("SELECT [from], \"from\", 'from' FROM t", "SELECT [from], \"from\", 'from'\nINTO s.x\nFROM t"),
        ("SELECT a /* FROM u */ FROM t", "SELECT a /* FROM u */\nINTO s.x\nFROM t"),
        ("SELECT IIF(a IS DISTINCT FROM b, 1, 0) AS c FROM t",
         "SELECT IIF(a IS DISTINCT FROM b, 1, 0) AS c\nINTO s.x\nFROM t"),
        ("SELECT CASE WHEN a IS DISTINCT FROM b THEN 1 END AS c FROM t",
         "SELECT CASE WHEN a IS DISTINCT FROM b THEN 1 END AS c\nINTO s.x\nFROM t"),
        ("SELECT DISTINCT TOP 5 a FROM t", "SELECT DISTINCT TOP 5 a\nINTO s.x\nFROM t"),
        ("(SELECT 1 AS a) UNION (SELECT 2)",
         "SELECT * INTO s.x FROM (\n(SELECT 1 AS a) UNION (SELECT 2)\n) AS pipedag_query"),
    ],
)  # fmt: skip
def test_into_stands_behind_the_columns_of_a_query(query: str, made: str) -> None:
    assert with_into(query, "s.x") == made


def test_a_query_is_sent_with_its_values(server: Server) -> None:
    t = sa.table("t", sa.column("d", sa.Date()), sa.column("x", sa.String()), schema="s")
    query = sa.select(t.c.d).where(t.c.x == "100% it's λ?", t.c.d == dt.date(2020, 1, 1))
    dialect = SQLTableStore(URL).engine.dialect
    assert str(ddl.CreateTableAs("s__g1", "Big one", query, {}).compile(dialect=dialect)) == (
        "SELECT s.t.d\nINTO s__g1.[Big one]\nFROM s.t \n"
        "WHERE s.t.x = N'100% it''s λ?' AND s.t.d = CAST(N'2020-01-01' AS DATE)"
    )


@pytest.mark.parametrize(
    ("batch", "controls"),
    [
        ("BEGIN TRAN; SELECT 1", True),
        ("SELECT 1; COMMIT", True),
        ("IF 1 = 1 ROLLBACK TRANSACTION", True),
        ("BEGIN SELECT 1 END", False),
        ("BEGIN TRY SELECT 1 END TRY BEGIN CATCH THROW END CATCH", False),
        ("SELECT 'COMMIT' AS [rollback] -- COMMIT", False),
        ("CREATE PROCEDURE s.p AS BEGIN TRAN; COMMIT", False),
        ("CREATE OR ALTER PROC s.p AS COMMIT", False),
    ],
)
def test_a_script_neither_begins_nor_ends_a_transaction(batch: str, controls: bool) -> None:
    assert controls_transaction(batch) is controls


@pytest.mark.parametrize(
    ("batch", "other"),
    [
        ("USE master", "master"),
        ("SELECT 1; use [my ]] db];", "my ] db"),
        ("USE [Shop]", None),
        ("SELECT 'USE master' AS [use]", None),
    ],
)
def test_a_script_stays_in_its_database(batch: str, other: str | None) -> None:
    assert other_database(batch, "shop") == other


def run(server: Server, script: str, **arguments: Any) -> Any:
    store = SQLTableStore(URL, **arguments)
    with store.transaction() as transaction:
        transaction.create_schema("s")
        server.sent.clear()
        return transaction.run_script("s", store.batches(script) or [], "s.task")


def sent_of(server: Server, *parts: str) -> list[str]:
    return [" ".join(sent.split()) for sent in server.sent if any(part in sent for part in parts)]


SCRIPT = "CREATE TABLE s.a (x INT); SELECT 1 AS y INTO s.b\nGO\nCREATE VIEW s.v AS SELECT 1 AS z"


def test_without_pytsql_a_batch_is_sent_as_it_is(server: Server) -> None:
    run(
        server,
        "DECLARE @x int = 1; DROP TABLE IF EXISTS s.a\nGO\nCREATE VIEW s.v AS SELECT 1 AS z",
        disable_pytsql=True,
    )
    assert sent_of(server, "DECLARE @x", "s.v") == [
        "DECLARE @x int = 1; DROP TABLE IF EXISTS s.a",
        "CREATE VIEW s.v AS SELECT 1 AS z",
        "SELECT count_big(*) AS count_big_1 FROM s.v",
    ]


def test_pytsql_sends_statements_by_themselves_in_the_transaction_of_the_task(server: Server) -> None:
    made = run(server, SCRIPT)
    sent = sent_of(server, "s . a", "s . b", "s.v", "COMMIT")
    assert sent[:2] == ["CREATE TABLE s . a ( x INT ) ;", "SELECT 1 AS y INTO s . b"]
    assert sent.count("COMMIT") == 1
    assert set(made.tables) == {"a", "b", "v"}


def test_pytsql_sends_whole_batches_if_asked_to(server: Server) -> None:
    run(server, "DECLARE @x int = 1; SET @x = 2", pytsql_isolate_top_level_statements=False)
    assert sent_of(server, "@x") == ["DECLARE @x int = 1 ; SET @x = 2"]


def test_pytsql_changes_no_colons_and_its_prints_are_fetched(server: Server) -> None:
    run(server, "SELECT 'a:b' AS x INTO s.c; PRINT 'half done'")
    assert sent_of(server, "s . c") == ["SELECT 'a:b' AS x INTO s . c ;"]
    assert server.sent.count("SELECT * FROM #pytsql_prints;") == 2


def test_a_missing_pytsql_is_named_with_the_way_around_it(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytsql", None)
    with pytest.raises(
        MissingExtraError, match=r"pipedag-airflow\[mssql\].*disable_pytsql: true.*lines that consist of GO"
    ):
        run(server, "SELECT 1")


def test_what_pytsql_does_not_understand_is_said_with_the_task(server: Server) -> None:
    with pytest.raises(StoreError, match=r"(?s)script of task 's.task': pytsql does not understand it.*disable_pytsql"):
        run(server, "SELEKT 1 FRM")


def test_what_a_script_has_made_is_found_in_the_catalog(server: Server) -> None:
    with SQLTableStore(URL).transaction() as transaction:
        transaction.create_schema("s")
        transaction.connection.exec_driver_sql("CREATE TABLE s.before (x INT)")
    server.modules.append(("s", "old", "P "))
    store = SQLTableStore(URL, disable_pytsql=True)
    with store.transaction() as transaction:
        made = transaction.run_script("s", ["CREATE TABLE s.a (x INT)", "CREATE PROCEDURE s.new AS SELECT 1"], "s.task")
    assert (set(made.tables), made.definitions) == ({"a"}, ("procedure new",))


def test_a_script_has_its_schema_for_itself_because_the_catalog_tells_not_who_made_what(server: Server) -> None:
    run(server, SCRIPT)
    modes = [values[1] for values in server.parameters if isinstance(values, tuple) and "Transaction" in values]
    assert modes[-1] == "Exclusive"


@pytest.mark.parametrize("disabled", [True, False])
@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("SELECT 1\nGO\nCOMMIT", "begins or ends a transaction"),
        ("USE master\nGO\nSELECT 1", "goes to the database 'master' with USE.*mssql.pyodbc://host/shop"),
    ],
)
def test_scripts_that_leave_their_transaction_or_database_are_refused(
    server: Server, script: str, message: str, disabled: bool
) -> None:
    with pytest.raises(StoreError, match=f"(?s)of the script of task 's.task'.*{message}"):
        run(server, script, disable_pytsql=disabled)


@pytest.mark.parametrize("disabled", [True, False])
def test_a_batch_that_fails_is_shown_and_nothing_is_committed(server: Server, disabled: bool) -> None:
    for part in ("s.no", "s . no"):
        server.fail(part, 208, "Invalid name.")
    with pytest.raises(StoreError, match=r"(?s)task 's.task' failed: Invalid name. \(208\).*DELETE s.no"):
        run(server, "DELETE s.no", disable_pytsql=disabled)
    assert "COMMIT" not in server.sent


@pytest.mark.parametrize("disabled", [True, False])
def test_an_error_after_the_first_result_of_a_batch_is_noticed(server: Server, disabled: bool) -> None:
    store = SQLTableStore(URL, disable_pytsql=disabled)
    with store.transaction() as transaction:
        transaction.create_schema("s")
    server.later.append(server.error(547, "A constraint is violated."))
    server.sent.clear()
    with pytest.raises(StoreError, match="constraint is violated"), store.transaction() as transaction:
        transaction.run_script("s", ["SET NOCOUNT ON"], "s.task")
    assert "COMMIT" not in server.sent


def test_what_a_batch_prints_is_logged(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipedag_airflow.sql")
    store = SQLTableStore(URL, disable_pytsql=True)
    with store.transaction() as transaction:
        server.messages = [("[01000] (0)", "[Microsoft][ODBC Driver 18 for SQL Server][SQL Server]half done")]
        store.run_statement(transaction.connection, "SET NOCOUNT ON; PRINT 'half done'")
    assert "SQL Server: half done" in caplog.messages


def test_what_a_script_has_made_is_called_in_the_schema_of_the_stage_and_stays_cached(server: Server) -> None:
    def flow(*procedures: str) -> Flow:
        @materialize(lazy=True)
        def script(stage: Stage) -> Any:
            made = [f"CREATE PROCEDURE {stage.transaction_name}.{name} AS SELECT 1" for name in procedures]
            return RawSql("\nGO\n".join([*made, f"CREATE VIEW {stage.transaction_name}.v AS SELECT 1 AS x"]), "made")

        with Flow("shop") as made, Stage("s") as stage:
            script(stage)
        return made

    config = create_basic_pipedag_config(URL).get()
    sent = []
    for procedures in (["p", "q"], ["p", "q"], ["p"]):
        assert flow(*procedures).run(config=config).successful
        sent.append(sent_of(server, "SYNONYM", "OR ALTER VIEW"))
        server.sent.clear()
    assert sent == [
        [
            "DROP SYNONYM IF EXISTS s.p",
            "CREATE SYNONYM s.p FOR s__g1.p",
            "DROP SYNONYM IF EXISTS s.q",
            "CREATE SYNONYM s.q FOR s__g1.q",
            "CREATE OR ALTER VIEW s.v AS SELECT * FROM s__g1.v",
        ],
        [],
        [
            "DROP SYNONYM IF EXISTS s.p",
            "CREATE SYNONYM s.p FOR s__g3.p",
            "CREATE OR ALTER VIEW s.v AS SELECT * FROM s__g3.v",
            "DROP SYNONYM IF EXISTS s.q",
        ],
    ]
