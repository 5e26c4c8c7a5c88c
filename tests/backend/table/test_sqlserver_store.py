"""What the table store sends to SQL Server. None runs here: statements are looked at, and answers are made up."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import sqlalchemy as sa
from antlr4 import InputStream
from pytsql.grammar import SA_ErrorListener, parse

from pipedag_airflow import Flow, Stage, Table, View, create_basic_pipedag_config, materialize
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.dialects import MSSqlTableStore
from pipedag_airflow.errors import ConfigError, MissingExtraError, NullabilityError, StoreError, TableBusyError

if TYPE_CHECKING:
    from sqlserver_double import Server

    from pipedag_airflow.config import ConfigContext

URL = "mssql+pyodbc://me:s3cret@host/shop"
#: What is sent besides that is no part of what the tests are about.
OTHER = ("SELECT ", "SET ", "EXEC sp_releaseapplock", "INSERT INTO pipedag", "UPDATE pipedag", "DELETE FROM pipedag")


@pytest.fixture
def store(server: Server) -> SQLTableStore:
    """A store whose metadata are there already."""
    store = SQLTableStore(URL)
    with store.transaction():
        pass
    server.sent.clear()
    return store


@pytest.fixture
def config(server: Server) -> ConfigContext:
    return create_basic_pipedag_config(URL).get()


def changes(server: Server) -> list[str]:
    """What was sent that makes, fills, changes or drops something outside of the metadata; it is forgotten then."""
    sent = [" ".join(statement.split()) for statement in server.sent]
    server.sent.clear()
    made = [one for one in sent if "\nINTO " in one or not one.startswith(OTHER) or " INTO s" in one]
    return [one for one in made if "pipedag_metadata" not in one and one not in ("COMMIT", "ROLLBACK")]


# --- connections ------------------------------------------------------------------------------------------------------


def test_the_url_chooses_the_store(server: Server) -> None:
    assert isinstance(SQLTableStore("mssql://host/shop"), MSSqlTableStore)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("mssql+pyodbc://me:pw@host/shop", "Driver={ODBC Driver 18 for SQL Server}"),
        ("mssql://me:pw@host/shop", "Driver={ODBC Driver 18 for SQL Server}"),
        ("mssql+pyodbc://host/shop?driver=FreeTDS", "Driver={FreeTDS}"),
        ("mssql+pyodbc://me:pw@source", "dsn=source"),
        ("mssql+pyodbc:///?odbc_connect=DRIVER%3Dmine%3BSERVER%3Dx", "DRIVER=mine;SERVER=x"),
    ],
)
def test_a_driver_is_named_where_the_url_names_none(server: Server, url: str, driver: str) -> None:
    SQLTableStore(url).open().close()
    assert driver.lower() in server.connected[0].lower()


def test_a_closed_connection_is_closed_so_that_its_locks_end(server: Server) -> None:
    SQLTableStore(URL).open().close()
    assert sys.modules["pyodbc"].pooling is False


def test_other_drivers_are_refused(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"Write mssql\+pyodbc://, not mssql\+pymssql://"):
        SQLTableStore("mssql+pymssql://host/shop").open()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyodbc", None)
    with pytest.raises(MissingExtraError, match=r"pipedag-airflow\[mssql\].*unixODBC and Microsoft's ODBC driver"):
        SQLTableStore(URL).open()


@pytest.mark.parametrize("affix", ["schema_prefix", "schema_suffix"])
def test_an_affix_names_no_other_database(server: Server, affix: str) -> None:
    with pytest.raises(ConfigError, match=r"has a dot.*A store is one database"):
        SQLTableStore(URL, **{affix: "other.x"})


def test_a_refused_login_is_told_without_user_and_password(server: Server) -> None:
    server.fail("DRIVER=", 18456, "Login failed for user 'me' with s3cret.", "28000")
    with pytest.raises(StoreError) as error:
        SQLTableStore(URL).open()
    assert "mssql+pyodbc://host/shop cannot be opened: Login failed" in str(error.value)
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_database_that_is_not_there_is_made(server: Server) -> None:
    server.fail("Database=shop", 4060, 'Cannot open database "shop" requested by the login.')
    with pytest.raises(StoreError, match="Cannot open database"):
        SQLTableStore(URL, create_database_if_not_exists=True).open()
    assert "Database=master" in server.connected[1]
    assert "IF DB_ID(N'shop') IS NULL CREATE DATABASE shop" in server.sent
    assert len(server.connected) == 3  # it was tried again


def test_a_database_is_made_only_if_the_configuration_says_so(server: Server) -> None:
    server.fail("Database=shop", 4060, "Cannot open database.")
    with pytest.raises(StoreError, match="Cannot open database"):
        SQLTableStore(URL).open()
    assert len(server.connected) == 1


# --- transactions -----------------------------------------------------------------------------------------------------


def test_a_transaction_ends_with_any_error_and_waits_as_long_as_it_takes(store: SQLTableStore, server: Server) -> None:
    with store.transaction():
        pass
    ping, begin, end = server.sent[:3]
    assert ping == "SELECT 1"
    assert begin.startswith("SET XACT_ABORT ON; SET LOCK_TIMEOUT -1; ")
    # ODBC begins a transaction with a statement that reads a table, and sp_getapplock wants one.
    assert begin.endswith("SELECT @begun = schema_id FROM sys.schemas WITH (NOLOCK) WHERE name = N'sys'")
    assert end == "COMMIT"


def test_nothing_is_committed_after_an_error_that_was_caught(store: SQLTableStore, server: Server) -> None:
    server.fail("no_such", 208, "Invalid object name 'no_such'.")

    def go_on_after_an_error() -> None:
        with store.transaction() as transaction:
            with pytest.raises(sa.exc.DBAPIError):
                transaction.connection.execute(sa.text("SELECT * FROM no_such"))
            transaction.connection.execute(sa.text("SELECT 1 AS x"))

    with pytest.raises(StoreError, match=r"rolled back.*It said: Invalid object name 'no_such'. \(208\)$"):
        go_on_after_an_error()
    assert "COMMIT" not in server.sent
    server.sent.clear()
    with store.transaction():
        pass
    assert "COMMIT" in server.sent


@pytest.mark.parametrize(
    ("number", "kind"), [(1205, TableBusyError), (1222, TableBusyError), (208, StoreError), (547, StoreError)]
)
def test_deadlocks_and_locks_that_are_not_given_are_no_failure(
    store: SQLTableStore, server: Server, number: int, kind: type[StoreError]
) -> None:
    server.fail("FROM t", number, "No.")
    with pytest.raises(StoreError) as error, store.transaction() as transaction:
        transaction.connection.execute(sa.text("SELECT * FROM t"))
    assert type(error.value) is kind


def test_the_row_of_a_stage_is_locked_by_hints(store: SQLTableStore, server: Server) -> None:
    with store.transaction() as transaction:
        number = transaction.metadata.open_generation("s", "run", "here").number
        transaction.metadata.check_fence("s", number)
    fences = [sent.split("FROM ")[1] for sent in server.sent if "HOLDLOCK" in sent]
    assert fences == [
        "pipedag_metadata.stage WITH (ROWLOCK, XLOCK, HOLDLOCK) \nWHERE pipedag_metadata.stage.stage = ?",
        "pipedag_metadata.stage WITH (ROWLOCK, HOLDLOCK) \nWHERE pipedag_metadata.stage.stage = ?",
    ]


def test_the_metadata_have_keys_of_900_bytes_that_tell_cases_apart(server: Server) -> None:
    with SQLTableStore(URL, schema_prefix="p_").transaction():
        pass
    made = {sent.split()[2]: sent for sent in server.sent if "CREATE TABLE" in sent}
    assert len(made) == 8
    assert "IF SCHEMA_ID(N'p_pipedag_metadata') IS NULL EXEC(N'CREATE SCHEMA p_pipedag_metadata')" in server.sent
    keys = [line for sent in made.values() for line in sent.splitlines() if "COLLATE" in line]
    assert all("COLLATE Latin1_General_100_BIN2 NOT NULL" in line for line in keys)
    lengths = [int(line.split("NVARCHAR(")[1].split(")")[0]) for line in made["p_pipedag_metadata.object"].splitlines()
               if "COLLATE" in line]  # fmt: skip
    assert sum(lengths) * 2 + 8 <= 900
    assert "TEXT" not in "".join(made.values())


# --- the life of a stage ----------------------------------------------------------------------------------------------


def flow(version: str = "1") -> Flow:
    @materialize(version=version)
    def numbers() -> Any:
        frame = pd.DataFrame({"id": [1, 2], "word": ["a", None]})
        return Table(frame, "numbers", primary_key=["id"], indexes=[["word"]])

    @materialize(lazy=True, input_type=sa.Table)
    def big(numbers: Any) -> Any:
        return Table(sa.select(numbers.c.id, (numbers.c.id * 2).label("twice")).where(numbers.c.id > 1), "big")

    @materialize(lazy=True, input_type=sa.Table)
    def shown(numbers: Any) -> Any:
        return View(sa.select(numbers.c.word), "shown")

    with Flow("shop") as made, Stage("s"):
        made_numbers = numbers()
        big(made_numbers)
        shown(made_numbers)
    return made


FIRST_RUN = [
    "IF SCHEMA_ID(N's__g1') IS NULL EXEC(N'CREATE SCHEMA s__g1')",
    "CREATE TABLE s__g1.numbers (id BIGINT, word NVARCHAR(max))",
    "INSERT INTO s__g1.numbers (id, word) VALUES (?, ?)",
    "ALTER TABLE s__g1.numbers ALTER COLUMN id bigint NOT NULL",
    "ALTER TABLE s__g1.numbers ALTER COLUMN word nvarchar(850) COLLATE Latin1_General_CI_AS NULL",
    "ALTER TABLE s__g1.numbers ADD PRIMARY KEY (id)",
    "CREATE INDEX idx_numbers_word_* ON s__g1.numbers (word)",
    "SELECT numbers.id, numbers.id * 2 AS twice INTO s__g1.big FROM s__g1.numbers AS numbers WHERE numbers.id > 1",
    "CREATE VIEW s__g1.shown AS SELECT numbers.word FROM s__g1.numbers AS numbers",
    "IF SCHEMA_ID(N's') IS NULL EXEC(N'CREATE SCHEMA s')",
    "CREATE OR ALTER VIEW s.big AS SELECT * FROM s__g1.big",
    "CREATE OR ALTER VIEW s.numbers AS SELECT * FROM s__g1.numbers",
    "CREATE OR ALTER VIEW s.shown AS SELECT * FROM s__g1.shown",
]


def test_a_stage_is_built_published_found_valid_and_built_anew(server: Server, config: ConfigContext) -> None:
    assert flow().run(config=config).successful
    first = [re.sub(r"_\w{20} ON", "_* ON", sent) for sent in changes(server)]
    assert first == FIRST_RUN

    assert flow().run(config=config).successful
    assert changes(server) == []

    assert flow(version="2").run(config=config).successful
    third = changes(server)
    assert third[0] == "IF SCHEMA_ID(N's__g3') IS NULL EXEC(N'CREATE SCHEMA s__g3')"
    assert third[-3:] == [sent.replace("s__g1", "s__g3") for sent in FIRST_RUN[-3:]]


def test_all_that_is_sent_is_transact_sql_by_the_grammar_of_pytsql(server: Server, config: ConfigContext) -> None:
    flow().run(config=config)
    flow(version="2").run(config=config)
    with config.table_store.transaction() as transaction:
        transaction.drop_generation_schema("s__g1", {"numbers", "big", "shown"})
        transaction.sizes(["s"])
    server.answers.append(("HAS_PERMS_BY_NAME", [(1,)]))
    server.answers.append(("sys.dm_tran_locks", []))
    with config.table_store.connection() as connection:
        config.table_store.lock_holders(connection, ["s"])
    for sent in set(server.sent) - {"COMMIT", "ROLLBACK"}:
        parse(InputStream(sent.replace("?", "1")), "tsql_file", Strict())


class Strict(SA_ErrorListener):
    def syntaxError(self, _stream: Any, _symbol: Any, _index: int, line: int, column: int, message: str) -> None:
        raise AssertionError(f"{line}:{column} {message}")


def test_a_publish_is_one_transaction_that_waits_for_readers_only_briefly(
    server: Server, config: ConfigContext
) -> None:
    flow().run(config=config)
    sent = server.sent
    start = sent.index("SET LOCK_TIMEOUT 100")
    views = [index for index, one in enumerate(sent) if one.startswith("CREATE OR ALTER VIEW")]
    live = next(index for index, one in enumerate(sent) if "UPDATE pipedag_metadata.stage SET live=?" in one)
    assert start < views[0] < views[-1] < live
    # The only commit in between is that of the schema of the stage, which is made by itself.
    assert sent[start:live].count("COMMIT") == 1
    assert sent[views[0] : live].count("COMMIT") == 0


def test_a_publish_that_meets_a_reader_or_a_deadlock_is_tried_again(server: Server, config: ConfigContext) -> None:
    server.fail("CREATE OR ALTER VIEW s.shown", 1205, "Deadlock victim.", "40001")
    meeting = server.check

    def once(text: str) -> None:
        try:
            meeting(text)
        except Exception:
            server.failures.clear()
            raise

    server.check = once
    assert flow().run(config=config).successful
    assert sum(sent.startswith("CREATE OR ALTER VIEW s.shown") for sent in server.sent) == 2


def test_a_table_that_is_no_more_is_hidden(store: SQLTableStore, server: Server) -> None:
    with store.transaction() as transaction:
        transaction.show("s", "t", "s__g1", "t")
        transaction.hide("s", "t")
    assert changes(server)[1:] == [
        "CREATE OR ALTER VIEW s.t AS SELECT * FROM s__g1.t",
        "DROP VIEW IF EXISTS s.t",
    ]


def test_a_generation_is_dropped_with_all_that_is_ours_and_nothing_else(store: SQLTableStore, server: Server) -> None:
    with store.transaction() as transaction:
        for name in ("t", "theirs"):
            transaction.write_table("s__g1", Table(pd.DataFrame({"x": [1]}), name), "s.t")
        server.modules += [("s__g1", "p", "P "), ("s__g1", "now", "SN")]
        server.sent.clear()
        left = transaction.drop_generation_schema("s__g1", {"t", "procedure p"})
        assert left == ["synonym now", "theirs"]
        assert changes(server) == ["DROP TABLE IF EXISTS s__g1.t", "DROP PROCEDURE IF EXISTS s__g1.p"]
        server.modules.clear()
        assert transaction.drop_generation_schema("s__g1", {"theirs"}) == []
        assert changes(server) == ["DROP TABLE IF EXISTS s__g1.theirs", "DROP SCHEMA IF EXISTS s__g1"]


def test_who_reads_is_told_if_our_user_may_know(store: SQLTableStore, server: Server) -> None:
    with store.connection() as connection:
        assert "grant it VIEW SERVER STATE" in store.lock_holders(connection, ["s"])[0]


# --- tables -----------------------------------------------------------------------------------------------------------


def written(store: SQLTableStore, server: Server, table: Table[Any]) -> list[str]:
    with store.transaction() as transaction:
        transaction.write_table("s", table, "s.t")
    return changes(server)[1:]


@pytest.mark.parametrize(
    ("nullable", "non_nullable", "altered"),
    [
        (["a"], None, ["b"]),
        (None, ["b"], ["b"]),
        (["a", "b"], None, []),
        (None, None, []),
    ],
)
def test_columns_say_whether_they_hold_null(
    store: SQLTableStore, server: Server, nullable: Any, non_nullable: Any, altered: list[str]
) -> None:
    frame = pd.DataFrame({"a": [1], "b": ["x"]})
    sent = written(store, server, Table(frame, "t", nullable=nullable, non_nullable=non_nullable))
    kinds = {"a": "bigint", "b": "nvarchar(max) COLLATE Latin1_General_CI_AS"}
    assert sent[2:] == [f"ALTER TABLE s.t ALTER COLUMN {name} {kinds[name]} NOT NULL" for name in altered]


def test_a_column_that_took_not_null_from_a_query_holds_null_again(store: SQLTableStore, server: Server) -> None:
    with store.transaction() as transaction:
        server.execute("IF SCHEMA_ID(N's') IS NULL EXEC(N'CREATE SCHEMA s')", ())
        server.execute("CREATE TABLE s.t (a BIGINT NOT NULL)", ())
        store.refuse_null(transaction.connection, "s", "t", [])
    assert [sent for sent in server.sent if "ALTER" in sent] == ["ALTER TABLE s.t ALTER COLUMN a bigint NULL"]


def test_lists_that_contradict_each_other_are_refused(store: SQLTableStore, server: Server) -> None:
    with pytest.raises(NullabilityError):
        written(store, server, Table(pd.DataFrame({"a": [1]}), "t", nullable=["a"], non_nullable=["a"]))


def test_texts_in_keys_get_the_length_that_keys_can_have(store: SQLTableStore, server: Server) -> None:
    frame = pd.DataFrame({"k": ["x"], "i": ["y"], "v": ["z"]})
    sent = written(store, server, Table(frame, "t", primary_key=["k"], indexes=[["i", "k"]]))
    assert sent[2:5] == [
        "ALTER TABLE s.t ALTER COLUMN k nvarchar(450) COLLATE Latin1_General_CI_AS NOT NULL",
        "ALTER TABLE s.t ALTER COLUMN i nvarchar(850) COLLATE Latin1_General_CI_AS NULL",
        "ALTER TABLE s.t ADD PRIMARY KEY (k)",
    ]
    assert sent[5].endswith(" ON s.t (i, k)")


def test_names_are_quoted_where_they_must_be(store: SQLTableStore, server: Server) -> None:
    sent = written(store, server, Table(pd.DataFrame({"select": [1], "a b": [2]}), "My Table"))
    assert sent == [
        "CREATE TABLE s.[My Table] ([select] BIGINT, [a b] BIGINT)",
        "INSERT INTO s.[My Table] ([select], [a b]) VALUES (?, ?)",
    ]
