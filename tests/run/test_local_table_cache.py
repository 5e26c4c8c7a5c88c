"""Local copies of tables: how often the database is read with each option, and that nobody sees a difference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pandas.testing
import polars as pl
import polars.testing
import pytest
import sqlalchemy as sa

from pipedag_airflow import ExternalTableReference, Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.backend.table.cache import ParquetTableCache

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project

    from pipedag_airflow import ConfigContext, Result

pytestmark = pytest.mark.databases("duckdb", "postgres")

FRAME = pl.DataFrame({"a": [1, 2, None], "b": ["x", "ü", None], "c": [0.5, float("nan"), None]})


@pytest.fixture
def reads(project: Project, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the tables whose rows were read from the database."""
    store = type(project.config().table_store)
    found: list[str] = []
    fetch = store.fetch_arrow

    def noted(self: Any, connection: sa.Connection, query: sa.Select[Any]) -> Any:
        if query.whereclause is None:  # else it asks only for the types
            found.append(query.get_final_froms()[0].name)
        return fetch(self, connection, query)

    monkeypatch.setattr(store, "fetch_arrow", noted)
    return found


def cached(project: Project, **options: bool) -> ConfigContext:
    """A configuration with a local table cache, whose folder all of a test share."""
    cache = {"class": "parquet", "args": {"base_path": str(project.folder / "cache")}, **options}
    return project.config(table_store=project.settings["table_store"] | {"local_table_cache": cache})


def copies(project: Project) -> list[Path]:
    return sorted((project.folder / "cache").rglob("*.parquet"))


def orders_and_readers(project: Project, readers: str = "1", input_type: Any = pl.DataFrame, obj: Any = FRAME) -> Flow:
    """A table, and two tasks in another stage that read it."""

    @materialize(version="1")
    def orders() -> Table[Any]:
        project.call("orders")
        return Table(obj, "orders")

    @materialize(version=readers, input_type=input_type)
    def first(table: Any) -> int:
        project.call("first")
        return len(table)

    @materialize(version=readers, input_type=input_type)
    def second(table: Any) -> int:
        project.call("second")
        return len(table)

    with Flow("readers") as flow:
        with Stage("raw"):
            table = orders()
        with Stage("mart"):
            first(table)
            second(table)
    return flow


#: store_input, store_output and use_stored_input_as_cache; then how often the table is read: when all runs for the
#: first time, when the readers run again, and by Result.get.
COUNTS = [
    (False, False, False, 2, 2, 1),
    (False, False, True, 2, 2, 1),
    (False, True, False, 2, 2, 1),
    (False, True, True, 0, 0, 0),
    (True, False, False, 2, 2, 1),
    (True, False, True, 1, 0, 0),
    (True, True, False, 2, 2, 1),
    (True, True, True, 0, 0, 0),
]


@pytest.mark.parametrize(("store_input", "store_output", "use", "first", "again", "got"), COUNTS)
def test_10_29_how_often_the_database_is_read(
    project: Project,
    reads: list[str],
    store_input: bool,
    store_output: bool,
    use: bool,
    first: int,
    again: int,
    got: int,
) -> None:
    config = cached(project, store_input=store_input, store_output=store_output, use_stored_input_as_cache=use)
    counts = []
    for readers in ("1", "2"):
        reads.clear()
        result = project.run(orders_and_readers(project, readers), config=config)
        counts.append(len(reads))
    assert project.called == ["first", "second"]
    reads.clear()
    assert result.get(result.flow["raw"]["orders"], as_type=pl.DataFrame).equals(FRAME)
    assert (*counts, len(reads)) == (first, again, got)
    assert len(copies(project)) == (store_input or store_output)


def test_without_a_cache_every_task_reads_the_database(project: Project, reads: list[str]) -> None:
    project.run(orders_and_readers(project))
    assert reads == ["orders", "orders"]
    assert copies(project) == []


@pytest.mark.parametrize(
    "input_type",
    [pd.DataFrame, (pd.DataFrame, "arrow"), pl.DataFrame, pl.LazyFrame],
    ids=["numpy", "arrow", "eager", "lazy"],
)
def test_a_frame_of_a_copy_is_as_one_of_the_database(project: Project, reads: list[str], input_type: Any) -> None:
    obj = FRAME.with_columns(d=pl.lit(7, pl.UInt64), e=pl.col("a").cast(pl.Date), f=pl.lit(None, pl.List(pl.String)))

    @materialize(version="1")
    def table() -> Table[Any]:
        return Table(obj, "orders")

    with Flow("frames") as flow, Stage("raw"):
        made = table()
    result = project.run(flow, config=cached(project))
    plain = project.config()
    fresh = [project.run(flow, config=plain).get(made, as_type=input_type)]
    found = [result.get(made, as_type=input_type, write_local_table_cache=True) for _ in range(2)]
    assert len(reads) == 2

    for frame in found:
        assert type(frame) is type(fresh[0])
        if isinstance(frame, pd.DataFrame):
            pandas.testing.assert_frame_equal(frame, fresh[0], check_exact=True)
            assert (frame.attrs, frame.index.equals(fresh[0].index)) == (fresh[0].attrs, True)
        else:
            polars.testing.assert_frame_equal(frame, fresh[0], check_exact=True)
    if input_type is pl.LazyFrame:
        assert "orders" in found[1].explain()  # it has not read the file yet


def test_who_reads_a_result_keeps_no_copy_unless_asked_to(project: Project, reads: list[str]) -> None:
    flow = orders_and_readers(project)
    config = cached(project, store_input=True, use_stored_input_as_cache=True)
    result = project.run(flow["raw"].flow, "stage:raw", config=config)
    orders = result.flow["raw"]["orders"]
    with config:
        assert orders.get_output_from_store(pl.DataFrame).equals(FRAME)
        assert result.get(orders, pl.DataFrame).equals(FRAME)
        assert (len(reads), copies(project)) == (2, [])
        assert orders.get_output_from_store(pl.DataFrame, write_local_table_cache=True).equals(FRAME)
        assert len(copies(project)) == 1
        assert result.get(orders, pl.DataFrame).equals(FRAME)
        assert orders.get_output_from_store(pl.DataFrame).equals(FRAME)
    assert len(reads) == 3


def test_tables_by_reference_never_ask_for_copies(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    for method in ("read", "scan", "write"):
        monkeypatch.setattr(ParquetTableCache, method, lambda _, location, *__: asked.append(location))

    @materialize(version="1")
    def orders() -> Table[Any]:
        return Table(sa.select(sa.literal(1).label("a")), "orders")

    @materialize(lazy=True, input_type=sa.Table)
    def mart(table: Any) -> Table[Any]:
        return Table(sa.select(table), "mart")

    with Flow("queries") as flow, Stage("raw"):
        mart(orders())
    assert project.run(flow, config=cached(project, store_output=True)).successful
    assert asked == []


def rows_of(project: Project, source: Any, config: ConfigContext) -> list[Any]:
    """Run a task that reads a table as a frame, in a version that never was before, and return the rows."""
    seen: list[Any] = []

    @materialize(input_type=pl.DataFrame)  # no version: it runs each time
    def look(table: pl.DataFrame) -> int:
        seen.extend(table.rows())
        return 0

    with Flow("look") as flow:
        with Stage("raw"):
            table = source()
        with Stage("mart"):
            look(table)
    project.run(flow, config=config)
    return seen


def test_a_table_of_somebody_else_is_read_each_time(project: Project) -> None:
    project.database.execute("create schema theirs")
    project.database.execute("create table theirs.prices as select 1 as price")
    config = cached(project)

    @materialize(version="1")
    def prices() -> Table[Any]:
        return Table(ExternalTableReference("prices", "theirs"))

    for price in (1, 2):
        project.database.execute(f"update theirs.prices set price = {price}")
        assert rows_of(project, prices, config) == [(price,)]
    assert copies(project) == []


def test_a_view_is_read_each_time(project: Project) -> None:
    project.database.execute("create schema theirs")
    project.database.execute("create table theirs.prices as select 1 as price")
    config = cached(project, store_output=True)

    @materialize(version="1")
    def prices() -> View:
        return View(sa.text("select price from theirs.prices"), "prices")

    for price in (1, 2):
        project.database.execute(f"update theirs.prices set price = {price}")
        assert rows_of(project, prices, config) == [(price,)]
    assert copies(project) == []


def test_the_tables_of_a_script_have_copies_and_its_views_have_none(project: Project, reads: list[str]) -> None:
    config = cached(project)

    @materialize(version="1")
    def script() -> RawSql:
        schema = flow["raw"].transaction_name
        return RawSql(f"create table {schema}.t as select 1 as a; create view {schema}.v as select 2 as b")

    @materialize(input_type=pl.DataFrame)
    def look(tables: Any) -> list[int]:
        return [tables["t"]["a"][0], tables["v"]["b"][0]]

    with Flow("scripts") as flow:
        with Stage("raw"):
            tables = script()
        with Stage("mart"):
            looked = look(tables)
    for _ in range(2):
        assert project.run(flow, config=config).get(looked) == [1, 2]
    assert reads == ["t", "v", "v"]
    assert [path.name.split(".")[0] for path in copies(project)] == ["t"]


def test_rows_that_are_made_anew_by_the_same_call_are_other_rows(project: Project) -> None:
    """The task is not told by its version that it gives other rows now; the rows are made anew as they were lost."""
    config, numbers = cached(project), iter([1, 2])

    @materialize(version="1")
    def orders() -> Table[Any]:
        return Table(pl.DataFrame({"a": [next(numbers)]}), "orders")

    assert rows_of(project, orders, config) == [(1,)]
    place = project.places("raw")["orders"]
    project.database.execute(f"drop table {place}.orders cascade")
    assert rows_of(project, orders, config) == [(2,)]


def test_a_run_before_still_reads_its_own_rows(project: Project, reads: list[str]) -> None:
    config = cached(project)
    results = []
    for version in ("1", "2"):

        @materialize(version=version)
        def orders() -> Table[Any]:
            return Table(pl.DataFrame({"a": [int(version)]}), "orders")  # noqa: B023 - called in this turn

        with Flow("versions") as flow, Stage("raw"):
            orders()
        results.append(project.run(flow, config=config))

    def get(result: Result) -> list[Any]:
        return result.get(result.flow["raw"]["orders"], pl.DataFrame, write_local_table_cache=True).rows()

    for _ in range(2):
        assert [get(result) for result in results] == [[(1,)], [(2,)]]
    assert len(reads) == 2


def test_a_result_that_is_computed_when_it_is_stored_is_not_computed_for_its_copy(project: Project) -> None:
    computed = []

    def note(frame: pl.DataFrame) -> pl.DataFrame:
        computed.append(frame)
        return frame

    flow = orders_and_readers(project, obj=FRAME.lazy().map_batches(note))
    project.run(flow, config=cached(project, store_output=True))
    assert (len(computed), len(copies(project))) == (1, 1)


def test_what_a_task_materializes_has_a_copy_as_it_was_then(project: Project, reads: list[str]) -> None:
    @materialize(version="1")
    def orders() -> Table[Any]:
        frame = pd.DataFrame({"a": [1]})
        table = Table(frame, "orders")
        table.materialize()
        frame.loc[0, "a"] = 2
        return table

    for _ in range(2):
        assert rows_of(project, orders, cached(project, store_output=True)) == [(1,)]
    assert (len(reads), len(copies(project))) == (1, 1)


def test_types_that_the_user_chose_are_read_from_the_database(project: Project, reads: list[str]) -> None:
    @materialize(version="1")
    def orders() -> Table[Any]:
        return Table(pl.DataFrame({"a": [0.1]}), "orders", type_map={"a": sa.Numeric(10, 0)})

    assert rows_of(project, orders, cached(project, store_output=True)) == [(0,)]
    assert reads == ["orders"]


@pytest.mark.parametrize("store_output", [True, False])
def test_a_broken_cache_fails_no_task(project: Project, caplog: pytest.LogCaptureFixture, store_output: bool) -> None:
    (project.folder / "cache").write_text("a file where the folder should be")
    result = project.run(orders_and_readers(project), config=cached(project, store_output=store_output))
    assert result.successful
    assert project.called == ["orders", "first", "second"]
    assert "No local copy of table raw.orders is kept; it will be read again: " in caplog.text


def test_a_damaged_copy_is_made_anew(project: Project, reads: list[str], caplog: pytest.LogCaptureFixture) -> None:
    config = cached(project)
    project.run(orders_and_readers(project), config=config)
    (path,) = copies(project)
    path.write_bytes(path.read_bytes()[:-50])
    reads.clear()
    project.run(orders_and_readers(project, "2"), config=config)
    assert reads == ["orders"]
    assert "The local copy of table raw.orders is not used; it is read from the database: " in caplog.text


def test_instances_have_folders_of_their_own(project: Project) -> None:
    project.run(orders_and_readers(project), config=cached(project))
    (path,) = copies(project)
    assert path.parent == project.folder / "cache" / "test" / "raw"
