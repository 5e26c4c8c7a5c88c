"""What differs from other databases, to the letter: as IBM's manual has it, for no server has been asked yet."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa
from db2_server import URL

from pipedag_airflow.backend.metadata import MetadataTables
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.backend.table.sql.dialects import IBMDB2TableStore
from pipedag_airflow.backend.table.sql.dialects.db2 import ddl as db2_ddl
from pipedag_airflow.backend.table.sql.facts import Column
from pipedag_airflow.core.containers import RawSql, Table
from pipedag_airflow.errors import ConfigError, NullabilityError, StoreError

if TYPE_CHECKING:
    from db2_server import Server

DIALECT = SQLTableStore(URL).engine.dialect
TABLE = sa.table("t", sa.column("n", sa.Integer), sa.column("Text", sa.String), schema="s")


def said(statement: sa.sql.ClauseElement, *, literal: bool = False) -> str:
    """Return a statement on one line."""
    options = {"literal_binds": True} if literal else {"render_postcompile": True}
    return " ".join(str(statement.compile(dialect=DIALECT, compile_kwargs=options)).split())


@pytest.mark.parametrize("scheme", ["db2", "db2+ibm_db", "ibm_db_sa"])
def test_urls_of_db2_have_this_store(scheme: str) -> None:
    assert type(SQLTableStore(f"{scheme}://somebody@db2.example/warehouse")) is IBMDB2TableStore


NAMES = {
    "plain": "plain",
    "Mixed": '"Mixed"',
    "CAPITALS": '"CAPITALS"',
    "run": '"run"',
    "1st": '"1st"',
    "_x": '"_x"',
    'a"b.c': '"a""b.c"',
    "ä": '"ä"',
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_quoted_unless_it_may_be_folded_to_capitals(name: str) -> None:
    assert said(db2_ddl.DropRelation("TABLE", ("s", name))) == f"DROP TABLE s.{NAMES[name]}"


@pytest.mark.parametrize(("given", "found"), [("ORDERS", "orders"), ("orders", "orders"), ("Orders", "Orders")])
def test_a_table_in_capitals_is_called_as_the_catalog_is_read(given: str, found: str, db2_store: SQLTableStore) -> None:
    assert db2_store.physical_name(given) == found


VERBS = {
    "DROP SCHEMA s RESTRICT": ddl.DropSchema("s", cascade=True),
    'CREATE INDEX s.ix ON s.t (n, "Text")': ddl.CreateIndex("s", "t", "ix", ["n", "Text"]),
    "CREATE OR REPLACE ALIAS s.t FOR TABLE s__g7.t": ddl.CreateView("s", "t", "s__g7", "t"),
    "LOCK TABLE s.t IN EXCLUSIVE MODE": db2_ddl.LockTable(("s", "t")),
    "ALTER TABLE s.t VOLATILE CARDINALITY": db2_ddl.MakeVolatile(("s", "t")),
    "BEGIN DECLARE CONTINUE HANDLER FOR SQLSTATE '42710' BEGIN END; EXECUTE IMMEDIATE 'CREATE SCHEMA \"it''s\"'; END": (
        ddl.CreateSchema("it's")
    ),
    "CALL SYSPROC.ADMIN_CMD('RUNSTATS ON TABLE s.\"it''s\" ON ALL COLUMNS WITH DISTRIBUTION ON ALL COLUMNS AND SAMPLED "
    "DETAILED INDEXES ALL')": ddl.Analyze("s", "it's"),
    "CREATE TABLE s.t AS ( SELECT s.t.n FROM s.t ) DEFINITION ONLY COMPRESS YES ADAPTIVE IN ts": ddl.CreateTableAs(
        "s", "t", sa.select(TABLE.c.n), {"compression": "COMPRESS YES ADAPTIVE", "table_space_data": "ts"}
    ),
    "INSERT INTO s.t SELECT s.t.n FROM s.t WHERE s.t.\"Text\" = 'it''s 5%'": db2_ddl.InsertQuery(
        ("s", "t"), sa.select(TABLE.c.n).where(TABLE.c.Text == "it's 5%")
    ),
}


@pytest.mark.parametrize("text", VERBS)
def test_verbs_are_said_as_db2_has_them(text: str) -> None:
    assert said(VERBS[text]) == text


DETAILS: dict[str, dict[str, Any]] = {
    "": {"compression": ""},
    " COMPRESS YES": {"compression": "COMPRESS YES"},
    " VALUE COMPRESSION COMPRESS YES STATIC": {"compression": ["VALUE COMPRESSION", "COMPRESS YES STATIC"]},
    ' IN "Data" INDEX IN ix LONG IN large1': {
        "table_space_long": "large1",
        "table_space_index": "ix",
        "table_space_data": "Data",
    },
}


@pytest.mark.parametrize("suffix", DETAILS)
def test_materialization_details_stand_behind_the_columns(suffix: str) -> None:
    store = SQLTableStore(URL, materialization_details={"label": DETAILS[suffix]})
    details = store.details.of("label", "table t")
    verb = db2_ddl.CreateTable(("s", "t"), {"n": sa.Integer(), "d": "DECIMAL(5, 2)"}, {"n"}, details)
    assert said(verb) == f"CREATE TABLE s.t (n INTEGER NOT NULL, d DECIMAL(5, 2)){suffix}"


WRONG: dict[str, dict[str, Any]] = {
    "a IBMDB2TableStore has no such attribute": {"unlogged": True},
    "is one of '', 'COMPRESS YES'": {"compression": "COMPRESS MAYBE"},
    "or a list of them, not \\['COMPRESS YES', 1\\]": {"compression": ["COMPRESS YES", 1]},
    "is of type str, not 3": {"table_space_data": 3},
}


@pytest.mark.parametrize("problem", WRONG)
def test_details_that_db2_does_not_have_are_an_error_unless_they_are_not_strict(problem: str) -> None:
    labels = {"label": WRONG[problem]}
    with pytest.raises(ConfigError, match=problem):
        SQLTableStore(URL, materialization_details=labels)
    lenient = SQLTableStore(URL, materialization_details=labels, strict_materialization_details=False)
    assert lenient.details.of("label", "table t") == {}


TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "VARCHAR(20)": sa.String(20),
    "VARCHAR(32672)": sa.String(),
    "VARCHAR(5)": sa.Unicode(5),
    "CLOB(64M)": sa.Text(),
    "BLOB(7)": sa.LargeBinary(7),
    "SMALLINT": sa.SmallInteger(),
    "INTEGER": sa.Integer(),
    "BIGINT": sa.BigInteger(),
    "REAL": sa.Float(24),
    "DOUBLE": sa.Double(),
    "DECIMAL(20, 0)": sa.Numeric(20, 0),
    "DECFLOAT(34)": sa.Numeric(),
    "BOOLEAN": sa.Boolean(),
    "DATE": sa.Date(),
    "TIME": sa.Time(),
    "TIMESTAMP": sa.DateTime(timezone=True),
}


@pytest.mark.parametrize("text", TYPES)
def test_types_have_a_length_and_no_zone(text: str) -> None:
    assert DIALECT.type_compiler_instance.process(TYPES[text]) == text


def test_a_decimal_of_too_many_digits_is_an_error_that_says_so() -> None:
    with pytest.raises(sa.exc.CompileError, match="at most 31 digits, not 38"):
        DIALECT.type_compiler_instance.process(sa.Numeric(38, 0))


QUERIES = {
    "SELECT s.t.n FROM s.t OFFSET 2 ROWS FETCH FIRST 3 ROWS ONLY": sa.select(TABLE.c.n).limit(3).offset(2),
    "SELECT s.t.n FROM s.t WITH RS USE AND KEEP SHARE LOCKS": sa.select(TABLE.c.n).with_for_update(read=True),
    "SELECT s.t.n FROM s.t WITH RS USE AND KEEP EXCLUSIVE LOCKS": sa.select(TABLE.c.n).with_for_update(),
    "SELECT CAST(? AS INTEGER) AS one FROM SYSIBM.SYSDUMMY1": sa.select(sa.literal(1).label("one")),
    "SELECT s.t.n FROM s.t WHERE s.t.n IN (SELECT CAST(NULL AS INTEGER) FROM SYSIBM.SYSDUMMY1 WHERE 1 = 0)": (
        sa.select(TABLE.c.n).where(TABLE.c.n.in_([]))
    ),
}


@pytest.mark.parametrize("text", QUERIES)
def test_queries_are_said_as_db2_has_them(text: str) -> None:
    assert said(QUERIES[text]) == text


LITERALS = {
    "MOD(s.t.n, 2)": TABLE.c.n % 2,
    "CAST('2020-01-01 08:00:00.000000' AS TIMESTAMP)": sa.cast(sa.literal("2020-01-01T10:00:00+02:00"), sa.DateTime()),
    "CAST('2020-01-01' AS DATE)": sa.cast(sa.literal("2020-01-01"), sa.Date()),
    "true": sa.true(),
}


@pytest.mark.parametrize("text", LITERALS)
def test_values_within_a_query_that_makes_a_table_are_literals(text: str) -> None:
    assert said(sa.select(LITERALS[text].label("x")).select_from(TABLE), literal=True) == f"SELECT {text} AS x FROM s.t"


def test_a_moment_of_another_zone_is_printed_in_utc_where_a_table_is_made_of_it(db2_store: SQLTableStore) -> None:
    moment = dt.datetime(2020, 1, 1, 10, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    verb = db2_ddl.InsertQuery(("s", "t"), sa.select(sa.literal(moment).label("m")))
    text = " ".join(str(verb.compile(dialect=db2_store.engine.dialect)).split())
    assert "CAST('2020-01-01 08:00:00.000000' AS TIMESTAMP)" in text


def test_keys_of_the_metadata_fit_pages_of_4_kb() -> None:
    for table in MetadataTables("m").all.sorted_tables:
        columns = re.findall(r"(\w+)\"? VARCHAR\((\d+)\)", said(sa.schema.CreateTable(table)))
        assert sum(int(length) for name, length in columns if table.c[name].primary_key) <= 900


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "a key": ({"primary_key": ["a"]}, "(a INTEGER NOT NULL, b INTEGER)"),
    "nullable": ({"nullable": ["b"]}, "(a INTEGER NOT NULL, b INTEGER)"),
    "non_nullable": ({"non_nullable": ["b"]}, "(a INTEGER, b INTEGER NOT NULL)"),
    "both": ({"primary_key": ["a"], "non_nullable": ["b"]}, "(a INTEGER NOT NULL, b INTEGER NOT NULL)"),
}
TWO_COLUMNS = pl.DataFrame({"a": [1], "b": [2]}, schema={"a": pl.Int32, "b": pl.Int32})


@pytest.mark.parametrize("case", KEYS)
def test_what_may_not_be_null_is_said_when_the_table_is_made(case: str, db2_store: SQLTableStore, db2: Server) -> None:
    arguments, columns = KEYS[case]
    query = sa.select(sa.cast(1, sa.Integer).label("a"), sa.cast(2, sa.Integer).label("b"))
    with db2_store.transaction() as transaction:
        transaction.write_table("s", Table(TWO_COLUMNS, "frame", **arguments), "task")
        transaction.write_table("s", Table(query, "query", **arguments), "task")
    assert f"CREATE TABLE s.frame {columns}" in db2.of_the_stage
    assert f'CREATE TABLE s."query" {columns}' in db2.of_the_stage
    assert not any("SET NOT NULL" in sent or "REORG" in sent for sent in db2.sent)


def test_a_key_in_capitals_is_that_of_the_catalog(db2_store: SQLTableStore, db2: Server) -> None:
    query = sa.select(sa.cast(1, sa.Integer).label("ID"))
    with db2_store.transaction() as transaction:
        facts = transaction.write_table("s", Table(query, "T", primary_key=["ID"]), "task")
    assert "CREATE TABLE s.t (id INTEGER NOT NULL)" in db2.of_the_stage
    assert 'ALTER TABLE s.t ADD PRIMARY KEY ("ID")' in db2.of_the_stage
    assert facts.columns == (Column("id", "INTEGER", False),)


def test_nullability_that_does_not_fit_the_table_is_an_error(db2_store: SQLTableStore) -> None:
    with (
        pytest.raises(NullabilityError, match="names columns that it does not have: c"),
        db2_store.transaction() as opened,
    ):
        opened.write_table("s", Table(TWO_COLUMNS, "t", nullable=["c"]), "task")


@pytest.mark.parametrize(("no_db_locking", "locks"), [(True, 1), (False, 0)])
def test_a_table_that_is_filled_is_locked_as_a_whole_unless_db2_is_to_lock_rows(
    no_db_locking: bool, locks: int, db2: Server
) -> None:
    with SQLTableStore(URL, no_db_locking=no_db_locking).transaction() as transaction:
        transaction.write_table("s", Table(TWO_COLUMNS, "t"), "task")
    assert db2.sent.count("LOCK TABLE s.t IN EXCLUSIVE MODE") == locks


def test_without_the_right_to_make_schemas_none_is_made(db2: Server) -> None:
    db2.data.execute("CREATE SCHEMA pipedag_metadata; CREATE SCHEMA s")
    with SQLTableStore(URL, avoid_drop_create_schema=True).transaction() as transaction:
        transaction.write_table("s", Table(TWO_COLUMNS, "t"), "task")
        assert transaction.drop_generation_schema("s", ["t"]) == []
    assert "DROP TABLE s.t" in db2.sent
    assert not any("SCHEMA " in sent for sent in db2.of_the_stage)


CATALOG_TYPES = {
    ("VARCHAR", 7, 0, 1208): "VARCHAR(7)",
    ("VARCHAR", 7, 0, 0): "VARCHAR(7) FOR BIT DATA",
    ("CHARACTER", 3, 0, 1208): "CHARACTER(3)",
    ("DECIMAL", 10, 2, 0): "DECIMAL(10, 2)",
    ("DECFLOAT", 16, 0, 0): "DECFLOAT(34)",
    ("DECFLOAT", 8, 0, 0): "DECFLOAT(16)",
    ("TIMESTAMP", 10, 6, 0): "TIMESTAMP(6)",
    ("BOOLEAN", 1, 0, 0): "BOOLEAN",
    ("XML", 0, 0, 0): "XML",
}


@pytest.mark.parametrize("facts", CATALOG_TYPES)
def test_a_type_of_the_catalog_is_read_as_create_table_takes_it(
    facts: tuple[str, int, int, int], db2_store: SQLTableStore, db2: Server
) -> None:
    name, length, scale, codepage = facts
    row = ("ORDERS", "ID", name, length, scale, "N", codepage)
    db2.replies["SYSCAT.COLUMNS"] = (["", "", "", "", "", "", ""], [row])
    with db2_store.connection() as connection:
        found = db2_store.list_columns(connection, "crm", "orders")
    assert found == {"orders": (Column("id", CATALOG_TYPES[facts], False),)}


def test_views_of_others_on_an_old_generation_keep_its_tables(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction() as transaction:
        transaction.write_table("s__g1", Table(TWO_COLUMNS, "t"), "task")
    db2.replies["SYSCAT.TABDEP"] = (["", ""], [("FINANCE  ", "REPORT")])
    with (
        pytest.raises(StoreError, match=r"finance\.report would become inoperative"),
        db2_store.transaction() as opened,
    ):
        opened.drop_generation_schema("s__g1", ["t"])
    assert not any(sent.startswith("DROP") for sent in db2.sent)


def test_what_else_is_in_a_schema_keeps_it(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction() as transaction:
        transaction.write_table("s__g1", Table(TWO_COLUMNS, "t"), "task")
    db2.replies["SYSCAT.ROUTINES"] = ([""], [("routine F",)])
    with db2_store.transaction() as transaction:
        assert transaction.drop_generation_schema("s__g1", ["t"]) == ["routine F"]
    assert "DROP TABLE s__g1.t" in db2.sent
    assert not any(sent.startswith("DROP SCHEMA") for sent in db2.sent)


def test_a_view_made_by_hand_where_an_alias_was_is_left_alone(db2_store: SQLTableStore, db2: Server) -> None:
    db2.data.execute("CREATE SCHEMA s; CREATE VIEW s.t AS SELECT 1 AS x")
    with db2_store.transaction() as transaction:
        transaction.hide("s", "t")
    assert not any(sent.startswith("DROP") for sent in db2.sent)


def test_a_compound_statement_begins_no_transaction(db2_store: SQLTableStore, db2: Server) -> None:
    block = "BEGIN DECLARE CONTINUE HANDLER FOR SQLSTATE '42710' BEGIN END; EXECUTE IMMEDIATE 'CREATE SCHEMA x'; END"
    with db2_store.transaction() as transaction:
        transaction.run_script("s", [block], "task")
    assert block in db2.sent
    with pytest.raises(StoreError, match="begins or ends a transaction"), db2_store.transaction() as opened:
        opened.run_script("s", ["COMMIT"], "task")


def test_a_script_counts_what_is_new_in_its_schema(db2_store: SQLTableStore, db2: Server) -> None:
    with db2_store.transaction() as transaction:
        transaction.write_table("s", Table(TWO_COLUMNS, "before"), "task")
        script = RawSql("CREATE TABLE s.made (n INTEGER)", "script")
        facts = transaction.run_script("s", [str(script.sql)], "task")
    assert list(facts.tables) == ["made"]
    assert facts.tables["made"].columns == (Column("n", "INTEGER", True),)
    assert "SELECT count(*) AS count_1 FROM s.made" in db2.of_the_stage
