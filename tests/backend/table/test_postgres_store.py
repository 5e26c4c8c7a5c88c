"""PostgreSQL: the suite of table stores, and what is PostgreSQL's own."""

from __future__ import annotations

import functools
import logging
import subprocess
import sys
import threading
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.backend.table.sql.dialects import PostgresTableStore
from pipedag_airflow.backend.table.sql.dialects.postgres import binary_copy, catalog, pool
from pipedag_airflow.backend.table.sql.dialects.postgres import read as postgres_read
from pipedag_airflow.backend.table.sql.facts import ObjectType
from pipedag_airflow.backend.table.sql.frames import rows
from pipedag_airflow.core.containers import Table, View
from pipedag_airflow.errors import ConfigError, StoreError, UnsupportedValueError
from pipedag_airflow.testing.store_fixtures import FRAME, SCHEMA, location, objects, read, write
from pipedag_airflow.testing.store_suite import TableStoreSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pipedag_airflow.testing.postgres import PostgresServer


def text_of(url: sa.URL, driver: str = "psycopg") -> str:
    return url.set(drivername=f"postgresql+{driver}").render_as_string(hide_password=False)


class TestPsycopg(TableStoreSuite):
    @pytest.fixture
    def make_store(self, postgres_url: sa.URL) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, text_of(postgres_url))


class TestPsycopg2OnTheOldestServer(TableStoreSuite):
    @pytest.fixture
    def make_store(self, oldest_postgres_url: sa.URL) -> Callable[..., SQLTableStore]:
        return functools.partial(SQLTableStore, text_of(oldest_postgres_url, "psycopg2"))


#: Each driver and each end of the supported versions; that they meet crosswise keeps the number of tests small.
@pytest.fixture(params=["psycopg", "psycopg2 on the oldest server"])
def store(request: pytest.FixtureRequest) -> Iterator[SQLTableStore]:
    driver = str(request.param)
    url = request.getfixturevalue("oldest_postgres_url" if "oldest" in driver else "postgres_url")
    store = SQLTableStore(text_of(url, driver.split()[0]))
    yield store
    store.dispose()


def ask(store: SQLTableStore, sql: str) -> Any:
    """Return the only value that a query gives."""
    with store.connection() as connection:
        return connection.exec_driver_sql(sql).scalar_one()


def do(store: SQLTableStore, *statements: str) -> None:
    """Change something by hand."""
    with store.connection() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def at_once(*functions: Callable[[], object]) -> list[BaseException]:
    """Call functions at the same time, and return their errors."""
    together = threading.Barrier(len(functions), timeout=60)
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        together.wait()
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


# --- connecting -------------------------------------------------------------------------------------------------------


def test_the_url_chooses_the_store_and_psycopg_is_the_driver(postgres_url: sa.URL) -> None:
    store = SQLTableStore(postgres_url.set(drivername="postgresql").render_as_string())
    assert type(store) is PostgresTableStore
    assert store.engine.driver == "psycopg"


def test_another_driver_is_an_error_that_names_those_that_work() -> None:
    with pytest.raises(ConfigError, match=r"Write postgresql\+psycopg:// or postgresql\+psycopg2://, not .*pg8000"):
        SQLTableStore("postgresql+pg8000://host/db").open()


def test_a_server_that_is_not_there_is_an_error_without_the_password() -> None:
    store = SQLTableStore("postgresql://scott:tiger@127.0.0.1:1/db", create_database_if_not_exists=True)
    with pytest.raises(StoreError, match=r"The database postgresql://127\.0\.0\.1:1/db cannot be opened") as caught:
        store.open()
    assert "tiger" not in str(caught.value)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_the_database_is_made_if_the_configuration_says_so(postgres: PostgresServer, driver: str) -> None:
    url = postgres.url.set(database=f'Not "there" yet % {driver} ü')
    with pytest.raises(StoreError, match="cannot be opened"):
        write(SQLTableStore(text_of(url, driver)), FRAME)
    stores = [SQLTableStore(text_of(url, driver), create_database_if_not_exists=True) for _ in range(3)]
    assert at_once(*(functools.partial(write, store, FRAME, f"t{index}") for index, store in enumerate(stores))) == []
    assert len(objects(stores[0])) == 3
    for store in stores:
        store.dispose()
    quote = stores[0].engine.dialect.identifier_preparer.quote
    postgres.execute(f"DROP DATABASE {quote(str(url.database)).replace('%%', '%')} WITH (FORCE)")


def test_a_database_that_another_process_has_made_meanwhile_is_used(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_meanwhile(connection: sa.Connection, name: str) -> bool:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}"')
        return True

    monkeypatch.setattr(catalog, "has_database", made_meanwhile)
    store = SQLTableStore(text_of(postgres.url.set(database="meanwhile")), create_database_if_not_exists=True)
    store.open().close()
    store.dispose()
    postgres.execute("DROP DATABASE meanwhile WITH (FORCE)")


def test_a_connection_that_the_server_has_ended_is_made_anew(store: SQLTableStore) -> None:
    write(store, FRAME)
    other = sa.create_engine(store.url, poolclass=sa.NullPool)
    with other.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"  # it waits until they have gone
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert set(objects(store)) == {(SCHEMA, "t")}


def test_a_connection_that_was_just_used_is_not_asked_whether_it_lives(
    store: SQLTableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    ask(store, "SELECT 1")
    ping = store.engine.dialect.do_ping
    monkeypatch.setattr(store.engine.dialect, "do_ping", lambda raw: [asked.append(raw), ping(raw)][1])
    ask(store, "SELECT 1")
    assert not asked
    monkeypatch.setattr(pool, "_SILENT_SECONDS", 0.0)
    ask(store, "SELECT 1")
    assert asked


WITHOUT = """
import sys
sys.modules[sys.argv[1]] = None
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.errors import MissingExtraError
try:
    SQLTableStore(f"postgresql+{sys.argv[1]}://host/db").open()
except MissingExtraError as error:
    print(error)
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_a_missing_driver_names_the_extra(driver: str) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT, driver], capture_output=True, text=True, check=True)
    assert "pip install 'pipedag-airflow[postgres]'" in done.stdout


# --- writing ----------------------------------------------------------------------------------------------------------


def test_tasks_that_write_the_first_tables_of_a_schema_at_once_all_succeed(postgres_url: sa.URL) -> None:
    stores = [SQLTableStore(text_of(postgres_url)) for _ in range(4)]
    errors = at_once(*(functools.partial(write, store, FRAME, f"t{index}") for index, store in enumerate(stores)))
    assert errors == []
    assert len(objects(stores[0])) == 4


def test_a_frame_is_loaded_in_pieces(store: SQLTableStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary_copy, "_BATCH", 1000)
    frame = pl.DataFrame(
        {
            "n": range(1000),
            "text": ["ü" * (index % 50) if index % 3 else None for index in range(1000)],
            "list": [[index] * (index % 4) if index % 5 else None for index in range(1000)],
            "decimal": pl.Series([Decimal(index) / 100 for index in range(1000)], dtype=pl.Decimal(20, 2)),
        }
    )
    assert len(list(binary_copy.binary_copy(frame.to_arrow(), "t"))) > 50
    result = read(store, location(write(store, frame)))
    assert result.sort("n").equals(frame.with_columns(pl.col("decimal").cast(pl.Float64)))


@pytest.mark.parametrize(
    ("precision", "scale"), [(1, 0), (4, 4), (5, 1), (18, 3), (38, 0), (38, 38), (38, 17), (76, 20), (3, -2)]
)
def test_decimals_of_any_size_are_stored_exactly(store: SQLTableStore, precision: int, scale: int) -> None:
    largest = 10**precision - 1
    unscaled = [0, 1, -1, 7, largest, -largest, largest // 3, 10 ** (precision - 1), -(10 ** (precision // 2))]
    wide = pa.decimal128 if precision <= 38 else pa.decimal256
    values = [Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale)) for number in unscaled]
    frame = pa.table({"n": range(len(values) + 1), "x": pa.array([*values, None], wide(precision, scale))})
    with store.transaction() as transaction:
        transaction.create_schema(SCHEMA)
        transaction.create_from_arrow(SCHEMA, Table(None, "t"), frame.slice(0), {})
    with store.connection() as connection:
        stored = connection.exec_driver_sql(f"SELECT x FROM {SCHEMA}.t ORDER BY n").scalars().all()
    assert stored == [*values, None]


def test_a_text_with_a_nul_is_an_error_that_names_the_column(store: SQLTableStore) -> None:
    with pytest.raises(UnsupportedValueError, match="Column 'b' of table 't' has a text with a NUL character"):
        write(store, pl.DataFrame({"a": ["x"], "b": ["a\x00b"]}))
    assert not objects(store)


@pytest.mark.parametrize("dtype", [pl.Datetime("us"), pl.Date])
def test_a_time_before_all_times_is_an_error_that_names_the_column(store: SQLTableStore, dtype: Any) -> None:
    lowest = -(2**63) if dtype != pl.Date else -(2**31)
    frame = pl.DataFrame({"t": pl.Series([lowest + 1]).cast(pl.Int32 if dtype == pl.Date else pl.Int64).cast(dtype)})
    with pytest.raises(UnsupportedValueError, match="Column 't' of table 't' has a time that is too long ago"):
        write(store, frame)


def test_a_time_that_does_not_fit_into_microseconds_is_an_error_that_names_the_column(store: SQLTableStore) -> None:
    frame = pl.DataFrame({"x": pl.Series([2**61], dtype=pl.Datetime("ms"))})
    with pytest.raises(UnsupportedValueError, match=r"Column 'x' of table 't' has a value .* Convert it, to text"):
        write(store, frame)


def test_documents_can_be_asked_by_queries(store: SQLTableStore) -> None:
    write(store, pl.DataFrame({"x": [{"a": 7, "b": ["u"]}]}))
    assert ask(store, f"SELECT DISTINCT x ->> 'a' || (x -> 'b' ->> 0) FROM {SCHEMA}.t") == "7u"


def test_a_chosen_length_is_never_exceeded_in_silence(store: SQLTableStore) -> None:
    assert write(store, FRAME, type_map={"b": sa.String(1)}).columns[1].type == "character varying(1)"
    for frame in (pl.DataFrame({"b": ["xy"]}), pl.DataFrame({"b": [12]})):
        with pytest.raises(StoreError, match="value too long for type character varying"):
            write(store, frame, type_map={"b": sa.String(1)})


def test_types_that_have_no_binary_form_of_ours_can_be_chosen(store: SQLTableStore) -> None:
    frame = pl.DataFrame({"j": ['{"a": 1}', None], "n": [1.25, 2.5], "u": ["00000000-0000-0000-0000-00000000000f"] * 2})
    facts = write(store, frame, type_map={"j": sa.JSON, "n": sa.Numeric(10, 1), "u": sa.Uuid})
    assert [column.type for column in facts.columns] == ["json", "numeric(10,1)", "uuid"]
    assert read(store, location(facts)).rows() == [('{"a": 1}', 1.3, frame["u"][0]), (None, 2.5, frame["u"][0])]


def test_new_tables_have_statistics(store: SQLTableStore) -> None:
    write(store, FRAME)
    write(store, sa.text("SELECT 1 AS a"), "u")
    assert ask(store, "SELECT sum(reltuples) FROM pg_class WHERE relname IN ('t', 'u')") == 3


def test_a_script_makes_materialised_views_too(store: SQLTableStore) -> None:
    statements = [
        f"CREATE TABLE {SCHEMA}.t AS SELECT 1 AS a",
        f"CREATE MATERIALIZED VIEW {SCHEMA}.m AS SELECT a FROM {SCHEMA}.t",
    ]
    for _ in range(2):
        with store.transaction() as transaction:
            transaction.drop_objects(SCHEMA, ["m", "t"])
            made = transaction.run_script(SCHEMA, statements, "task").tables
            assert transaction.objects([SCHEMA])[SCHEMA, "m"] is ObjectType.MATERIALIZED_VIEW
        assert {name: facts.view for name, facts in made.items()} == {"t": False, "m": True}
        assert read(store, location(made["m"], "m")).item() == 1


# --- materialization details ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "default", "unlogged"),
    [(None, None, False), (None, "fast", True), ("fast", None, True), ("safe", "fast", False), ("plain", None, False)],
)
def test_a_label_says_whether_a_table_is_logged(
    postgres_url: sa.URL, label: str | None, default: str | None, unlogged: bool
) -> None:
    labels: Any = {"fast": {"unlogged": True}, "safe": {"unlogged": False}, "plain": {}}
    store = SQLTableStore(
        text_of(postgres_url), materialization_details=labels, default_materialization_details=default
    )
    details = store.details.of(label, "Table 't'")
    with store.transaction() as transaction:
        transaction.write_table(SCHEMA, Table(FRAME, "t"), "task", details)
        transaction.write_table(SCHEMA, Table(sa.text("SELECT 1 AS a"), "u"), "task", details)
    kinds = ask(store, "SELECT string_agg(DISTINCT relpersistence::text, '') FROM pg_class WHERE relname IN ('t', 'u')")
    assert kinds == ("u" if unlogged else "p")


def test_attributes_of_any_label_hold_for_all_others() -> None:
    labels: Any = {"__any__": {"unlogged": True}, "safe": {"unlogged": False}, "plain": {}}
    store = SQLTableStore("postgresql://host/db", materialization_details=labels)
    assert [store.details.of(label, "")["unlogged"] for label in (None, "plain", "safe")] == [True, True, False]


def test_a_detail_of_the_wrong_type_is_refused() -> None:
    labels: Any = {"fast": {"unlogged": "yes"}}
    with pytest.raises(ConfigError, match=r"materialization_details\.fast\.unlogged: is of type bool, not 'yes'"):
        SQLTableStore("postgresql://host/db", materialization_details=labels)


# --- publishing -------------------------------------------------------------------------------------------------------


def test_grants_on_a_view_survive_other_columns(store: SQLTableStore, postgres: PostgresServer) -> None:
    role = f'Reader "{store.url.database}"'
    quoted_role = '"' + role.replace('"', '""') + '"'
    first, second = write(store, FRAME), write(store, pl.DataFrame({"z": [1]}), "u")
    with store.transaction() as transaction:
        transaction.show("s", "shown", SCHEMA, first.table)
    do(store, f"CREATE ROLE {quoted_role}", f"GRANT SELECT ON s.shown TO {quoted_role} WITH GRANT OPTION")
    do(store, "GRANT SELECT ON s.shown TO PUBLIC")
    before = ask(store, "SELECT relacl::text FROM pg_class WHERE relname = 'shown'")
    with store.transaction() as transaction:
        transaction.show("s", "shown", SCHEMA, second.table)
    assert ask(store, "SELECT relacl::text FROM pg_class WHERE relname = 'shown'") == before
    assert "r*" in before
    do(store, f"DROP OWNED BY {quoted_role}", f"DROP ROLE {quoted_role}")


OTHER_COLUMNS = {
    "one is gone": (
        pl.DataFrame({"z": [1]}),
        True,
        r"view public\.mine reads .* and cannot be made to .*\ba\b\W* does not exist",
    ),
    "another type": (pl.DataFrame({"a": ["x"]}), True, r"view public\.mine reads .* change data type of view column"),
    "views are left alone": (pl.DataFrame({"z": [1], "a": [1]}), False, r"view public\.mine \(.*dependents: fail"),
}


@pytest.mark.parametrize(("frame", "repoint", "message"), OTHER_COLUMNS.values(), ids=OTHER_COLUMNS)
def test_a_view_of_a_user_stops_a_publish_of_other_columns_and_is_named(
    store: SQLTableStore, frame: pl.DataFrame, repoint: bool, message: str
) -> None:
    write(store, FRAME)
    write(store, frame, "u")
    with store.transaction() as transaction:
        transaction.show("s", "shown", SCHEMA, "t")
    do(store, "CREATE VIEW public.mine AS SELECT a FROM s.shown")
    with pytest.raises(StoreError, match=rf"(?s)'s' cannot be published.*{message}"):  # noqa: SIM117 - the error is raised within
        with store.transaction() as transaction:
            transaction.show("s", "shown", SCHEMA, "u", repoint=repoint)
    assert ask(store, "SELECT count(*) FROM public.mine") == 2


@pytest.mark.parametrize("frame", [FRAME.with_columns(c=pl.lit(1.5)), pl.DataFrame({"z": [1, 2], "a": [3, 4]})])
def test_a_view_of_a_user_reads_on_where_its_columns_are_still_there(store: SQLTableStore, frame: pl.DataFrame) -> None:
    write(store, FRAME)
    write(store, frame, "u")
    with store.transaction() as transaction:
        transaction.show("s", "shown", SCHEMA, "t")
    do(
        store,
        "CREATE VIEW public.mine AS SELECT a FROM s.shown",
        "CREATE VIEW public.more AS SELECT a FROM public.mine",
    )
    with store.transaction() as transaction:
        transaction.show("s", "shown", SCHEMA, "u")
    assert ask(store, "SELECT sum(a)::int FROM public.more") == frame["a"].sum()
    assert set(objects(store, "s")) == {("s", "shown")}


@pytest.mark.parametrize(
    "dependent",
    [
        f"CREATE VIEW public.mine AS SELECT * FROM {SCHEMA}.t",
        f"CREATE MATERIALIZED VIEW public.mine AS SELECT * FROM {SCHEMA}.t",
        f"CREATE TABLE public.mine (a bigint CONSTRAINT mine REFERENCES {SCHEMA}.t)",
    ],
    ids=["view", "materialised view", "foreign key"],
)
def test_a_schema_on_which_others_depend_is_not_dropped(store: SQLTableStore, dependent: str) -> None:
    write(store, FRAME, primary_key="a")
    do(store, f"CREATE VIEW {SCHEMA}.own AS SELECT * FROM {SCHEMA}.t", dependent)
    with pytest.raises(StoreError, match=r"is not dropped, because public\.mine"), store.transaction() as transaction:
        transaction.drop_generation_schema(SCHEMA, ["t", "own"])
    assert (SCHEMA, "t") in objects(store)


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["by ADBC", "by rows"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How rows are read; either way gives the same."""
    monkeypatch.setattr(postgres_read, "_has_adbc", lambda: request.param == "by ADBC")
    return str(request.param)


@pytest.mark.parametrize(
    ("expression", "dtype", "value"),
    [
        ("sum(1::bigint)", pl.Float64, 1.0),
        ("1.25", pl.Float64, 1.25),
        ("1::numeric(5)", pl.Int64, 1),
        ("1::numeric(38)", pl.Int64, 1),
        ("NULL", pl.String, None),
        ("'x'::char(3)", pl.String, "x  "),
        ("'x'::name", pl.String, "x"),
        ("'550e8400-e29b-41d4-a716-446655440000'::uuid", pl.String, "550e8400-e29b-41d4-a716-446655440000"),
        ("""'{"a": 1}'::jsonb""", pl.String, '{"a": 1}'),
        ("'10.0.0.1'::inet", pl.String, "10.0.0.1/32"),
        ("'12.50'::money::numeric", pl.Float64, 12.5),
        ("1::oid", pl.String, "1"),
        ("TIMESTAMPTZ '2020-01-01 00:00+02'", pl.Datetime("us", "UTC"), None),
        ("TIMESTAMP(0) '2020-01-01'", pl.Datetime("us"), None),
        ("INTERVAL '1 month 2 days 1 microsecond'", pl.Duration("us"), None),
        ("ARRAY[1.5, NULL]::numeric[]", pl.List(pl.Float64), [1.5, None]),
        ("ARRAY['a'::text]", pl.List(pl.String), ["a"]),
        ("'\\x00ff'::bytea", pl.Binary, b"\x00\xff"),
        ("true", pl.Boolean, True),
        ("1::real", pl.Float32, 1.0),
        ("1::smallint", pl.Int16, 1),
        ("TIME '23:59:59.999999'", pl.Time, None),
    ],
)
def test_what_sql_tasks_make_can_be_read(
    store: SQLTableStore, way: str, expression: str, dtype: pl.DataType, value: Any
) -> None:
    result = read(store, location(write(store, sa.text(f"SELECT {expression.replace(':', chr(92) + ':')} AS x"))))
    assert result.schema == {"x": dtype}
    if value is not None:
        assert result.to_dicts() == [{"x": value}]


def test_an_interval_is_exact_to_the_microsecond(store: SQLTableStore, way: str) -> None:
    facts = write(store, sa.text("SELECT INTERVAL '1 month 2 days 1 microsecond' AS x"))
    assert read(store, location(facts))["x"].dt.total_microseconds().item() == 32 * 86_400_000_000 + 1


def test_a_table_without_rows_can_be_read(store: SQLTableStore, way: str) -> None:
    frame = FRAME.clear()
    assert read(store, location(write(store, frame))).equals(frame)


def test_rows_that_are_more_than_a_batch_are_all_read(
    store: SQLTableStore, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "_BATCH", 2)
    frame = pl.DataFrame({"a": [1, 2, None, 4, 5], "b": ["x", None, "y", "", "z"]})
    assert read(store, location(write(store, frame))).equals(frame)


def test_pandas_reads_dates_that_python_does_not_have(store: SQLTableStore) -> None:
    facts = write(store, sa.text("SELECT DATE '12000-01-01' AS x UNION ALL SELECT NULL"))
    dates = read(store, location(facts), pd.DataFrame)["x"]
    assert (str(dates.dtype), dates.dt.year.max(), dates.isna().sum()) == ("datetime64[s]", 12000, 1)


def test_a_transaction_reads_what_it_has_written(store: SQLTableStore) -> None:
    with store.transaction() as transaction:
        facts = transaction.write_table(SCHEMA, Table(FRAME, "t"), "task")
        result = store.read_table(transaction.connection, location(facts), pl.DataFrame, "task")
    assert result.equals(FRAME)


def test_a_user_of_any_name_can_read(postgres_url: sa.URL, postgres: PostgresServer) -> None:
    facts = write(SQLTableStore(text_of(postgres_url)), FRAME)
    postgres.execute("""CREATE ROLE "we'ird ro\\le" LOGIN SUPERUSER""")
    store = SQLTableStore(text_of(postgres_url.set(username="we'ird ro\\le", password="p' \\%20 @/")))
    assert read(store, location(facts)).equals(FRAME)
    store.dispose()
    postgres.execute("""DROP ROLE "we'ird ro\\le" """)


@pytest.mark.parametrize("kind", [Table, View])
def test_a_label_of_a_query_that_would_be_cut_off_is_refused(store: SQLTableStore, kind: type[Table[Any]]) -> None:
    long, whole = sa.literal(0).label("ä" * 32), sa.literal(1).label("x" * 63)
    says = rf"Column '{'ä' * 32}' of (table|view) 't' has a name of 64 bytes"
    with store.transaction() as transaction:
        for query in (sa.select(whole, long), sa.union_all(sa.select(long), sa.select(whole))):
            with pytest.raises(UnsupportedValueError, match=says):
                transaction.write_table(SCHEMA, kind(query, "t"), "task")
        facts = transaction.write_table(SCHEMA, kind(sa.select(whole, sa.func.count(), sa.literal(1) + 1), "t"), "task")
    assert [column.name for column in facts.columns] == ["x" * 63, "count_1", "anon_1"]


def test_every_statement_and_every_table_can_be_logged(postgres_url: sa.URL, caplog: pytest.LogCaptureFixture) -> None:
    url = postgres_url.set(database=f"{postgres_url.database}_made")
    store = SQLTableStore(text_of(url), print_sql=True, print_materialize=True, create_database_if_not_exists=True)
    with caplog.at_level(logging.INFO):
        facts = write(store, pl.DataFrame({"a": [1]}))
        with store.connection() as connection:
            read_table = store.fetch_table(connection, location(facts))
        with store.transaction() as transaction:
            transaction.run_script(SCHEMA, [f"CREATE TABLE {SCHEMA}.scripted AS SELECT 1 AS x"], "task")
    store.dispose()
    with sa.create_engine(postgres_url, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {url.database} WITH (FORCE)")

    assert read_table.num_rows == 1
    statements = [record.getMessage() for record in caplog.records if record.name == "pipedag_airflow.sql"]
    for beginning in (f"CREATE DATABASE {url.database}", f"COPY {SCHEMA}.t", f"SELECT {SCHEMA}.t.a"):
        assert any(" ".join(statement.split()).startswith(beginning) for statement in statements), beginning
    for name in ("t", "scripted"):
        assert f"Stored {SCHEMA}.{name}: 1 rows" in caplog.text
