"""Unlogged tables, which a crash of the server empties: that is noticed wherever somebody would read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.errors import CacheError, StageError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.history import show_history
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.rollback import rollback
from pipedag_airflow.testing.postgres import OwnPostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Project

    from pipedag_airflow import ConfigContext
    from pipedag_airflow.testing.postgres import PostgresServer

pytestmark = pytest.mark.databases("postgres")


@pytest.fixture(scope="module")
def own_server(postgres: PostgresServer) -> Iterator[OwnPostgresServer]:
    """A server that tests may crash."""
    if not isinstance(postgres, OwnPostgresServer):
        pytest.skip("the server is one of the user's, which is not crashed")
    server = OwnPostgresServer(postgres.binaries, durable=True)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def crash(project: Project, own_server: OwnPostgresServer) -> Iterator[Callable[[], None]]:
    """Gives the project a database in that server; to be called to crash the server, and to start it again."""
    arguments = project.settings["table_store"]["args"]
    arguments["materialization_details"] = {"fast": {"unlogged": True}}

    with own_server.database() as url:

        def connect() -> None:
            here = url.set(drivername="postgresql", port=own_server.url.port)
            arguments["url"] = project.database.url = here.render_as_string()

        def crash_and_start() -> None:
            own_server.crash()
            own_server.start()
            connect()

        connect()
        yield crash_and_start


def fast_table(project: Project, name: str = "fast", version: str = "1", rows: int = 3) -> Any:
    """A task that makes an unlogged table."""

    @materialize(name=name, version=version)
    def function() -> Table[Any]:
        project.call(name)
        frame = pl.DataFrame({"x": list(range(rows))}, schema={"x": pl.Int64})
        return Table(frame, name, materialization_details="fast")

    return function()


def safe_table(project: Project, name: str = "safe") -> Any:
    @materialize(name=name, version="1")
    def function() -> Table[Any]:
        project.call(name)
        return Table(pl.DataFrame({"x": [1, 2, 3]}), name)

    return function()


def count_of(project: Project, table: Any, version: str = "1") -> Any:
    """A task that reads a table and stores how many rows it has."""

    @materialize(version=version, input_type=pl.DataFrame)
    def count(table: pl.DataFrame) -> Table[Any]:
        project.call("count")
        return Table(pl.DataFrame({"rows": [table.height]}), "count")

    return count(table)


def counted(project: Project, version: str = "1", *, fast: str = "1", rows: int = 3) -> Flow:
    """An unlogged table in stage one, and the number of its rows in stage two."""
    with Flow("counted") as flow:
        with Stage("one"):
            table = fast_table(project, version=fast, rows=rows)
        with Stage("two"):
            count_of(project, table, version)
    return flow


def test_after_a_crash_of_the_server_unlogged_tables_are_made_again_and_no_others(
    project: Project, crash: Callable[[], None]
) -> None:
    with Flow("tables") as flow, Stage("one"):
        fast_table(project)
        safe_table(project)
    project.run(flow)
    crash()
    assert project.query("select (select count(*) from one.fast), (select count(*) from one.safe)") == [(0, 3)]

    assert project.executed(flow) == ["fast"]
    assert project.query("select (select count(*) from one.fast), (select count(*) from one.safe)") == [(3, 3)]
    assert project.executed(flow) == []


def test_a_stage_is_not_made_from_an_emptied_table_of_another_stage(
    project: Project, crash: Callable[[], None]
) -> None:
    project.run(counted(project))
    crash()
    changed = counted(project, "2")

    with pytest.raises(CacheError, match=r"'two.count' reads one\.fast.*crash of the server has emptied.*stage 'one'"):
        project.run(changed, changed["two"])
    assert project.called == [], "its function sees nothing of the empty table"
    assert project.query('select "rows" from two.count') == [(3,)]

    assert project.executed(changed) == ["fast", "count"]
    assert project.query('select "rows" from two.count') == [(3,)]


def test_a_local_copy_does_not_hide_that_a_table_was_emptied(project: Project, crash: Callable[[], None]) -> None:
    def cached() -> ConfigContext:
        cache = {"class": "parquet", "args": {"base_path": str(project.folder / "cache")}}
        return project.config(table_store=project.settings["table_store"] | {"local_table_cache": cache})

    first = project.run(counted(project), config=cached())
    assert [path.name.split(".")[0] for path in (project.folder / "cache").rglob("*.parquet")] == ["fast"]
    crash()
    changed = counted(project, "2")

    with pytest.raises(CacheError, match="crash of the server has emptied"):
        project.run(changed, changed["two"], config=cached())
    with cached(), pytest.raises(CacheError, match="crash of the server has emptied"):
        changed["one"]["fast"].get_output_from_store(pl.DataFrame)
    with pytest.raises(CacheError, match="crash of the server has emptied"):
        attrs.evolve(first, config_context=cached()).get(first.flow["one"]["fast"], pl.DataFrame)
    project.run(changed, config=cached())
    assert project.called == ["fast", "count"]


def test_a_result_stays_valid_when_what_it_was_made_from_is_emptied(
    project: Project, crash: Callable[[], None]
) -> None:
    flow = counted(project)
    project.run(flow)
    crash()
    assert project.executed(flow) == ["fast"]
    crash()
    project.run(flow, flow["two"])
    assert project.called == []


@pytest.mark.parametrize("rows", [0, 3])
def test_an_unlogged_table_that_never_had_rows_is_none_that_lost_them(
    project: Project, crash: Callable[[], None], rows: int
) -> None:
    flow = counted(project, rows=rows)
    project.run(flow)
    crash()
    assert project.executed(flow) == ["fast"] * bool(rows)
    changed = counted(project, "2", rows=rows)
    project.run(changed, changed["two"])
    assert project.query('select "rows" from two.count') == [(rows,)]


def lazy_query(project: Project, table: Any, kind: Any) -> Any:
    @materialize(lazy=True, input_type=sa.Table)
    def shown(table: sa.Table) -> Any:
        return kind(sa.select(table.c.x), "shown")

    return shown(table)


@pytest.mark.parametrize("stages", [("one", "one"), ("one", "two")])
def test_a_view_of_an_emptied_table_shows_the_table_that_replaces_it(
    project: Project, crash: Callable[[], None], stages: tuple[str, str]
) -> None:
    def flow() -> Flow:
        first, second = stages
        with Flow("viewed") as flow:
            with Stage(first) as stage:
                table = fast_table(project)
                if first == second:
                    lazy_query(project, table, View)
            if first != second:
                with Stage(second):
                    lazy_query(project, table, View)
        del stage
        return flow

    project.run(flow())
    crash()
    project.run(flow())
    assert project.query(f"select count(*) from {stages[1]}.shown") == [(3,)]
    first = project.run(flow())
    assert project.generations(project.run(flow())) == project.generations(first), "and then all is valid"


def test_a_lazy_table_is_not_made_from_an_emptied_table(project: Project, crash: Callable[[], None]) -> None:
    def flow(*, limit: int) -> Flow:
        @materialize(lazy=True, input_type=sa.Table)
        def some(table: sa.Table) -> Any:
            return Table(sa.select(table.c.x).where(table.c.x >= limit), "some")

        with Flow("lazy") as flow:
            with Stage("one"):
                table = fast_table(project)
            with Stage("two"):
                some(table)
        return flow

    project.run(flow(limit=0))
    crash()
    same, changed = flow(limit=0), flow(limit=1)
    assert project.run(same, same["two"]).successful, "its table is there, and its query is that of then"
    with pytest.raises(CacheError, match=r"one\.fast.*stage 'one'"):
        project.run(changed, changed["two"])
    assert project.query("select count(*) from two.some") == [(3,)]


def test_what_this_run_has_made_is_made_again_if_a_crash_empties_it_before_the_publish(
    project: Project, crash: Callable[[], None]
) -> None:
    with Flow("steps") as flow, Stage("one"):
        fast_table(project)
        safe_table(project)

    begin(project.session(flow), "one")
    execute(project.session(flow), "one.fast")
    crash()
    execute(project.session(flow), "one.safe")
    with pytest.raises(StageError, match=r"'one.fast'.*one__g1\.fast.*crash of the server has emptied.*clear it too"):
        publish(project.session(flow), "one")

    execute(project.session(flow), "one.fast")
    assert project.called == ["fast", "safe", "fast"]
    assert publish(project.session(flow), "one").published
    assert project.query("select count(*) from one.fast") == [(3,)]


def test_a_second_begin_of_a_run_does_not_keep_what_a_crash_has_emptied(
    project: Project, crash: Callable[[], None]
) -> None:
    with Flow("steps") as flow, Stage("one"):
        fast_table(project)
        safe_table(project)

    begin(project.session(flow), "one")
    execute(project.session(flow), "one.fast")
    execute(project.session(flow), "one.safe")
    crash()
    assert begin(project.session(flow), "one").valid == ["one.safe"]


def test_a_task_is_not_made_from_a_table_of_its_stage_that_a_crash_has_emptied(
    project: Project, crash: Callable[[], None]
) -> None:
    with Flow("steps") as flow, Stage("one"):
        count_of(project, fast_table(project))

    begin(project.session(flow), "one")
    execute(project.session(flow), "one.fast")
    crash()
    with pytest.raises(CacheError, match=r"'one.count' reads one__g1\.fast.*Run 'one.fast' again"):
        execute(project.session(flow), "one.count")
    execute(project.session(flow), "one.fast")
    execute(project.session(flow), "one.count")
    publish(project.session(flow), "one")
    assert project.query('select "rows" from one.count') == [(3,)]


def test_a_crash_between_two_tasks_of_one_process_is_noticed_too(
    project: Project, crash: Callable[[], None], own_server: OwnPostgresServer
) -> None:
    """What the process knows of the stage since its begin is older than the crash."""

    @materialize(input_type=pl.DataFrame, version="1")
    def count(table: pl.DataFrame, before: int) -> Table[Any]:
        return Table(pl.DataFrame({"rows": [table.height + before]}), "count")

    @materialize(version="1")
    def crashing() -> int:
        port = own_server.url.port
        own_server.crash()
        own_server._start(port)
        return 0

    with Flow("steps") as flow, Stage("one"):
        count(fast_table(project), crashing())
    with pytest.raises(CacheError, match=r"'one.count' reads one__g1\.fast"):
        project.run(flow)


def test_a_result_that_a_crash_has_emptied_is_not_given_to_anybody(project: Project, crash: Callable[[], None]) -> None:
    flow = counted(project)
    result = project.run(flow)
    crash()
    current = project.config()
    emptied = r"one\.fast.*crash of the server has emptied.*stage 'one'"
    object.__setattr__(result, "config_context", current)
    with pytest.raises(CacheError, match=emptied):
        result.get(flow["one"]["fast"], as_type=pl.DataFrame)
    with current, pytest.raises(CacheError, match=emptied):
        flow["one"]["fast"].get_output_from_store(as_type=pl.DataFrame)
    assert result.get(flow["two"]["count"], as_type=pl.DataFrame)["rows"].to_list() == [3]


def test_unlogged_tables_of_scripts_are_noticed_like_others(project: Project, crash: Callable[[], None]) -> None:
    @materialize(lazy=True)
    def script(stage: Any) -> RawSql:
        schema = stage.transaction_name
        return RawSql(
            f"create unlogged table {schema}.made as select 1 as x; create view {schema}.seen as table {schema}.made"
        )

    @materialize(lazy=True, input_type=sa.Table)
    def shown(tables: Any) -> Any:
        return View(sa.select(tables["seen"].c.x), "shown")

    with Flow("script") as flow:
        with Stage("one") as one:
            made = script(one)
        with Stage("two"):
            shown(made)
    project.run(flow)
    crash()
    assert project.query("select count(*) from two.shown") == [(0,)]
    project.run(flow)
    assert project.query("select (select count(*) from one.seen), (select count(*) from two.shown)") == [(1, 1)]


def test_history_and_rollback_say_that_a_crash_has_emptied_a_table(project: Project, crash: Callable[[], None]) -> None:
    project.run(counted(project, fast="1"))
    project.run(counted(project, fast="2"))
    crash()
    project.run(counted(project, fast="2"))
    assert any("EMPTIED" in line for line in show_history(project.config(), "one"))
    with pytest.raises(StageError, match=r"a crash of the server has emptied fast"):
        rollback(project.config(), "one", to=1)


@pytest.mark.parametrize(
    ("version", "made", "first"),
    [
        ("1", ["one.fast"], "one.fast__2"),
        ("1", ["one.fast", "one.fast__2", "one.fast__3"], "one.fast__2"),
        (None, ["one.fast"], "one.fast"),
        (None, ["one.fast", "one.fast__2", "one.fast__3"], "one.fast__2"),
    ],
)
def test_a_call_that_a_crash_has_emptied_is_made_again_by_whichever_task_comes_first(
    project: Project, crash: Callable[[], None], version: str | None, made: list[str], first: str
) -> None:
    @materialize(version=version)
    def fast() -> Table[Any]:
        project.call("fast")
        return Table(pl.DataFrame({"x": [1, 2, 3]}), "fast%%", materialization_details="fast")

    with Flow("calls") as flow, Stage("one"):
        fast(), fast(), fast()
    begin(project.session(flow), "one")
    for node in made:
        execute(project.session(flow), node)
    crash()

    tables = {execute(project.session(flow), first).tables}
    for node in ("one.fast", "one.fast__2", "one.fast__3"):
        tables.add(execute(project.session(flow), node).tables)
    assert project.called == ["fast", "fast"], "once before the crash, and once after it"
    assert len(tables) == 1
    assert publish(project.session(flow), "one").published
    [[(table, _, rows)]] = tables
    assert rows == 3
    assert project.query(f"select count(*) from one.{table}") == [(3,)]
