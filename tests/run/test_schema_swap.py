"""SCHEMA_SWAP on a real PostgreSQL: tables move in and out of the schema that readers see."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.backend.table.sql.dialects.postgres.store import PostgresTableStore
from pipedag_airflow.errors import StoreError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.rollback import rollback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Project


#: What the tests run: two tables that change with the version, one that stays, and one that some flows lack.
NUMBER = "select distinct number from stage."


pytestmark = pytest.mark.databases("postgres")


@pytest.fixture
def project(project: Project) -> Project:
    project.settings["stage_commit_technique"] = "schema_swap"
    return project


def numbers(project: Project, version: int, *, extra: bool = False, columns: tuple[str, ...] = ("number",)) -> Flow:
    """A stage whose tables `one` and `two` hold a number, and `steady` does not change."""

    @materialize(version="1")
    def steady() -> Any:
        project.call("steady")
        return Table(pl.DataFrame({"x": [1, 2]}), "steady", primary_key=["x"], indexes=[["x"]])

    @materialize(version=str((version, columns)))
    def one() -> Any:
        project.call("one")
        return Table(pl.DataFrame({column: [version] for column in columns}), "one", primary_key=["number"])

    @materialize(input_type=pl.DataFrame, version="1")
    def two(table: Any) -> Any:
        project.call("two")
        return Table(table, "two")

    @materialize(version="1")
    def more() -> Any:
        project.call("more")
        return Table(pl.DataFrame({"x": [1]}), "more")

    with Flow("numbers") as flow, Stage("stage"):
        steady()
        two(one())
        if extra:
            more()
    return flow


@pytest.fixture
def reader(project: Project) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(project.database.url, autocommit=True) as connection:
        yield connection


def kinds(project: Project, schema: str = "stage") -> dict[str, str]:
    found = project.query(
        "select relname, relkind::text from pg_class"
        f" where relnamespace = '{schema}'::regnamespace and relkind in ('r', 'v')"
    )
    return dict(found)


def test_readers_see_tables_with_their_keys_and_indexes(project: Project) -> None:
    project.run(numbers(project, 1))

    assert kinds(project) == {"steady": "r", "one": "r", "two": "r"}
    indexes = project.query("select count(*) from pg_indexes where schemaname = 'stage'")
    assert indexes == [(3,)]


def test_only_what_changed_moves(project: Project) -> None:
    project.run(numbers(project, 1))
    before = dict(project.query("select relname, oid from pg_class where relkind = 'r'"))
    project.run(numbers(project, 2))
    after = dict(
        project.query("select relname, oid from pg_class where relkind = 'r' and relnamespace = 'stage'::regnamespace")
    )

    assert after["steady"] == before["steady"]
    assert after["one"] != before["one"]
    assert project.query(NUMBER + "one") == project.query(NUMBER + "two") == [(2,)]
    # What readers saw before is kept as long as its generation is.
    assert kinds(project, "stage__g1") == {"one": "r", "two": "r"}


def test_an_unchanged_run_does_nothing_and_results_can_be_read(project: Project) -> None:
    first = project.run(numbers(project, 1))
    assert project.executed(numbers(project, 1)) == []
    again = project.run(numbers(project, 1))

    assert project.generations(again) == project.generations(first)
    task = next(task for task in again.flow.tasks.values() if task.name == "two")
    assert again.get(task).rows() == [(1,)]


def test_an_older_result_reads_what_its_run_made(project: Project) -> None:
    first = project.run(numbers(project, 1))
    project.run(numbers(project, 2))
    task = next(task for task in first.flow.tasks.values() if task.name == "two")

    assert first.get(task).rows() == [(1,)]


def test_going_back_to_an_earlier_version_publishes_it_anew(project: Project) -> None:
    project.run(numbers(project, 1))
    project.run(numbers(project, 2))
    project.run(numbers(project, 1))

    assert project.query(NUMBER + "two") == [(1,)]


def test_a_table_that_leaves_the_flow_leaves_the_schema(project: Project) -> None:
    project.run(numbers(project, 1, extra=True))
    assert "more" in kinds(project)
    project.run(numbers(project, 1))

    assert "more" not in kinds(project)


def test_a_table_made_by_hand_is_not_replaced(project: Project) -> None:
    project.database.execute("create schema stage; create table stage.two (mine int); insert into stage.two values (7)")

    message = r"table stage__g1\.two is to go to schema 'stage', but the table stage\.two is there"
    with pytest.raises(StoreError, match=message):
        project.run(numbers(project, 1))
    assert project.query("select * from stage.two") == [(7,)]


def test_a_stage_may_change_from_one_technique_to_the_other_and_back(project: Project) -> None:
    project.run(numbers(project, 1))
    project.database.execute("create schema bi; create view bi.v as select * from stage.two")
    project.run(numbers(project, 2), config=project.config(stage_commit_technique="read_views"))
    assert set(kinds(project).values()) == {"v"}
    assert project.query("select * from bi.v") == [(2,)]
    assert project.query(NUMBER + "two") == [(2,)]
    project.run(numbers(project, 3))

    assert kinds(project)["two"] == "r"
    assert project.query(NUMBER + "two") == [(3,)]
    assert project.query("select count(*) from stage.steady") == [(2,)]
    assert project.query("select * from bi.v") == [(3,)]
    assert project.query("select count(*) from pg_class where relname like 'pipedag_hidden%'") == [(0,)]


def named(**queries: tuple[str, int]) -> Flow:
    """A stage of lazy tables with keys: for each task the name of its table, and the number that its query gives."""

    def task(function: str, table: str, number: int) -> Any:
        query = sa.select(sa.literal(number).label("number"))
        return materialize(name=function, lazy=True)(lambda: Table(query, table, primary_key="number"))

    with Flow("named") as flow, Stage("stage"):
        for function, (table, number) in queries.items():
            task(function, table, number)()
    return flow


def test_tables_that_exchange_their_names_do_so_in_place(project: Project) -> None:
    def shown() -> list[Any]:
        query = "select a.number, b.number, a.tableoid::int, b.tableoid::int from stage.a, stage.b"
        return [value for row in project.query(query) for value in row]

    project.run(named(one=("a", 1), two=("b", 2)))
    before = shown()
    project.run(named(one=("b", 1), two=("a", 2)))
    assert shown() == [before[1], before[0], before[3], before[2]]
    project.run(named(one=("b", 1), two=("a", 3)))
    assert shown()[:2] == [3, 1]
    project.run(named(one=("b", 4), two=("a", 3)))
    assert shown()[:2] == [3, 4]


def test_a_table_stored_in_mid_task_is_shown_under_its_name(project: Project) -> None:
    @materialize(lazy=True)
    def both() -> Any:
        table = Table(sa.select(sa.literal(1).label("x")), "stored").materialize()
        return Table(sa.select(table), "both"), Table(sa.select(table), "again")

    @materialize(version="1")
    def kept() -> Any:
        table = Table(pl.DataFrame({"x": [1]}), "kept", primary_key="x")
        table.materialize()
        return table

    with Flow("middle") as flow, Stage("stage"):
        both()
        kept()
    first = project.run(flow)

    assert {"kept": "r", "both": "r", "again": "r"}.items() <= kinds(project).items()
    assert first.get(flow["stage"]["kept"], as_type=pl.DataFrame)["x"].to_list() == [1]
    assert project.generations(project.run(flow)) == project.generations(first)


def test_what_a_view_of_another_stage_shows_is_kept_wherever_it_goes(project: Project) -> None:
    @materialize(version="1", input_type=sa.Table)
    def view(table: Any) -> Any:
        project.call("view")
        return View(sa.select(table.c.number), "shown")

    def flow(version: int) -> Flow:
        @materialize(version=str(version))
        def source() -> Any:
            return Table(pl.DataFrame({"number": [version]}), "source")

        with Flow("views") as flow:
            with Stage("raw"):
                made = source()
            with Stage("mart"):
                view(made)
        return flow

    config = project.config(generations_to_keep=1)
    project.run(flow(1), config=config)
    for version in (2, 3, 4):
        only = flow(version)
        project.run(only, only["raw"], config=config)
        assert project.query("select number from mart.shown") == [(1,)]
        assert project.query("select number from raw.source") == [(version,)]
    project.run(flow(4), config=config)
    assert project.called == ["view"]
    project.run(flow(5), config=config)

    assert project.query("select number from mart.shown") == [(5,)]
    assert "raw__g1" not in project.schemas()


@pytest.mark.parametrize("columns", [["number"], ["other"]], ids=["other data", "other columns"])
def test_what_is_published_while_a_task_computes_is_not_filed_under_what_was_read(
    project: Project, columns: list[str]
) -> None:
    """A name in the schema of a stage means another table after a publish."""

    def flow(version: int, columns: list[str]) -> Flow:
        @materialize(version=str(version))
        def source() -> Any:
            return Table(pl.DataFrame({column: [version] for column in columns}), "source")

        @materialize(version="1", input_type=sa.Table)
        def made(table: Any) -> Any:
            project.call(f"made of {table.original.schema}")
            if len(project.called) == 1:
                other = project.session(flow(2, columns), "other")
                begin(other, "raw")
                execute(other, "raw.source")
                publish(other, "raw")
            return Table(sa.select(table), "made")

        with Flow("flow") as built:
            with Stage("raw"):
                table = source()
            with Stage("mart"):
                made(table)
        return built

    first = flow(1, ["number"])
    project.run(first, first["raw"])
    session = project.session(flow(1, ["number"]), "run")
    begin(session, "mart")
    execute(session, "mart.made")
    publish(session, "mart")

    assert project.called == ["made of raw", "made of raw"]
    assert project.query("select * from mart.made") == [(2,)]


def test_what_was_moved_while_it_was_read_is_read_again(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    first = project.run(numbers(project, 1))
    read = PostgresTableStore.read_table

    def publish_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        project.run(numbers(project, 2, columns=("number", "other")))
        return read(*arguments)

    monkeypatch.setattr(PostgresTableStore, "read_table", publish_first)

    assert first.get(first.flow["stage"]["two"]).rows() == [(1,)]


def test_no_copy_is_kept_of_what_was_moved_while_it_was_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = {"class": "parquet", "args": {"base_path": str(project.folder / "cache")}}
    config = project.config(table_store=project.settings["table_store"] | {"local_table_cache": cache})
    first = project.run(numbers(project, 1), config=config)
    fetch = PostgresTableStore.fetch_arrow

    def publish_first(*arguments: Any) -> Any:
        monkeypatch.undo()
        project.run(numbers(project, 2), config=config)  # another table is where the first one was
        return fetch(*arguments)

    monkeypatch.setattr(PostgresTableStore, "fetch_arrow", publish_first)

    for _ in range(2):
        assert first.get(first.flow["stage"]["two"], write_local_table_cache=True).rows() == [(1,)]
    copies = [pl.read_parquet(path).item() for path in (project.folder / "cache").rglob("two.*.parquet")]
    assert copies == [1]


def test_no_copy_is_kept_of_what_was_moved_and_moved_back_while_it_was_read(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = {"class": "parquet", "args": {"base_path": str(project.folder / "cache")}}
    config = project.config(table_store=project.settings["table_store"] | {"local_table_cache": cache})
    first = project.run(numbers(project, 1), config=config)
    fetch = PostgresTableStore.fetch_arrow

    def publish_and_roll_back(*arguments: Any) -> Any:
        monkeypatch.undo()
        project.run(numbers(project, 2), config=config)
        found = fetch(*arguments)
        rollback(config, "stage")
        return found

    monkeypatch.setattr(PostgresTableStore, "fetch_arrow", publish_and_roll_back)

    first.get(first.flow["stage"]["two"], write_local_table_cache=True)
    assert first.get(first.flow["stage"]["two"]).rows() == [(1,)]


# --- what others have built -------------------------------------------------------------------------------------------


@pytest.fixture
def bi(project: Project) -> Iterator[str]:
    """A role that may only read what was granted to it."""
    name = "bi reader"
    project.database.execute(f'create role "{name}"')
    yield name
    project.database.execute(f'drop owned by "{name}"; drop role "{name}"')


def test_grants_on_schema_tables_and_columns_survive(project: Project, bi: str) -> None:
    project.run(numbers(project, 1))
    project.database.execute(
        f'grant usage on schema stage to "{bi}"; grant select on stage.one to "{bi}" with grant option;'
        f'grant select (number) on stage.two to "{bi}"; grant select on stage.steady to public'
    )
    project.run(numbers(project, 2))

    def look(table: str) -> list[Any]:
        with psycopg.connect(project.database.url) as connection:
            connection.execute(f'set role "{bi}"')
            return connection.execute(f"select count(*) from stage.{table}").fetchall()

    assert look("one") == [(1,)]
    assert look("steady") == [(2,)]
    granted = project.query(
        "select is_grantable from information_schema.table_privileges"
        f" where grantee = '{bi}' and table_schema = 'stage' and table_name = 'one'"
    )
    assert granted == [("YES",)]
    columns = project.query(
        f"select table_name, column_name from information_schema.column_privileges where grantee = '{bi}'"
    )
    assert ("two", "number") in columns

    project.database.execute(f'revoke all on stage.one from "{bi}" cascade')
    project.run(numbers(project, 1))
    assert project.query(f"select has_table_privilege('{bi}', 'stage.one', 'select')") == [(False,)]


def test_triggers_policies_and_comments_survive(project: Project, bi: str, caplog: pytest.LogCaptureFixture) -> None:
    config = project.config(generations_to_keep=1)
    project.run(numbers(project, 1))
    project.database.execute(
        f'''create function public.note() returns trigger language plpgsql as 'begin return new; end';
        create trigger "no%ted" before insert on stage.one for each row when (new.number % 2 = 1)
            execute function public.note();
        create trigger off before insert on stage.one execute function public.note();
        alter table stage.one disable trigger off;
        grant usage on schema stage to "{bi}"; grant select on stage.one to "{bi}";
        create policy "eve%n" on stage.one for select to "{bi}" using (number % 2 = 0);
        alter table stage.one enable row level security;
        comment on table stage.one is '100 % one''s';
        create publication copies for table stage.one'''
    )

    def looks(version: int) -> tuple[Any, ...]:
        project.run(numbers(project, version), config=config)
        with psycopg.connect(project.database.url) as connection:
            connection.execute(f'set role "{bi}"')
            seen = connection.execute("select number from stage.one").fetchall()
        state = "select tgname, tgenabled from pg_trigger where tgrelid = 'stage.one'::regclass order by tgname"
        comment = "select obj_description('stage.one'::regclass, 'pg_class')"
        return seen, project.query(state), project.query(comment)

    attached = [("no%ted", "O"), ("off", "D")], [("100 % one's",)]
    assert looks(2) == ([(2,)], *attached)
    assert "stage.one is replaced by a new table, which the publication copies does not have" in caplog.text
    assert looks(3) == ([], *attached)
    # What was attached to the tables of old generations goes with them.
    assert project.query("select nspname from pg_namespace where nspname = 'stage__g1'") == []


def test_a_policy_that_does_not_fit_the_new_table_stops_the_publish(project: Project) -> None:
    project.run(numbers(project, 1, columns=("number", "owner")))
    project.database.execute("create policy mine on stage.one using (owner = 1)")

    with pytest.raises(
        StoreError, match=r"the policy mine of table 'one' does not fit .*column \"owner\" does not exist"
    ):
        project.run(numbers(project, 2))
    assert project.query("select number, owner from stage.one") == [(1, 1)]


def test_a_new_table_gets_the_default_privileges_of_the_schema(project: Project, bi: str) -> None:
    project.run(numbers(project, 1))
    project.database.execute(f'alter default privileges in schema stage grant select on tables to "{bi}"')
    project.run(numbers(project, 1, extra=True))

    assert project.query(f"select has_table_privilege('{bi}', 'stage.more', 'select')") == [(True,)]


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_views_of_others_show_the_new_data_and_keep_their_grants_and_options(
    project: Project, bi: str, driver: str
) -> None:
    arguments = project.settings["table_store"]["args"]
    arguments["url"] = arguments["url"].replace("postgresql:", f"postgresql+{driver}:")
    project.run(numbers(project, 1))
    project.database.execute(
        "create schema bi;"
        "create view bi.both with (security_barrier) as"
        " select one.number, two.number as twice from stage.one join stage.two using (number)"
        " where one.number::text not like '%x%s%%';"
        f'grant select on bi.both to "{bi}";'
        "create view bi.above as select * from bi.both"
    )
    definition = "select pg_get_viewdef('bi.both'::regclass)"
    before = project.query(definition)
    project.run(numbers(project, 2))

    assert project.query(definition) == before
    assert project.query("select * from bi.above") == [(2, 2)]
    assert project.query(
        "select reloptions, has_table_privilege(oid, 'select') from pg_class where relname = 'both'"
    ) == [(["security_barrier=true"], True)]
    assert project.query(f"select has_table_privilege('{bi}', 'bi.both', 'select')") == [(True,)]


def test_what_cannot_be_repointed_stops_the_publish_with_its_name(project: Project) -> None:
    project.run(numbers(project, 1, columns=("number", "other")))
    project.database.execute(
        "create schema bi; create materialized view bi.m as select * from stage.one;"
        "create table bi.t (number bigint references stage.one (number));"
        "create function bi.f() returns bigint language sql begin atomic select number from stage.one; end;"
        "create view bi.v as select other from stage.one"
    )
    with pytest.raises(StoreError) as stopped:
        project.run(numbers(project, 2))
    why = r"\(only views can be made to read another table\)"
    for named in ("materialized view bi.m", "table with a foreign key bi.t", "function bi.f"):
        assert re.search(rf"on stage.one: .*{named} {why}", str(stopped.value))

    project.database.execute("drop materialized view bi.m; drop table bi.t; drop function bi.f")
    with pytest.raises(StoreError, match=r"view bi\.v reads tables that it replaces, and cannot be made to .*other"):
        project.run(numbers(project, 2))
    assert project.query(NUMBER + "one") == [(1,)]

    project.database.execute("drop schema bi cascade")
    assert project.executed(numbers(project, 2)) == []
    assert project.query(NUMBER + "one") == [(2,)]


def test_views_of_somebody_whose_views_we_may_not_change_stop_the_publish(project: Project) -> None:
    url = sa.make_url(project.database.url)
    role, stranger = f"{url.database}_loader", f"{url.database}_stranger"
    project.database.execute(
        f"create role {role} login password 'x'; create role {stranger};"
        f"grant create on database {url.database} to {role}"
    )
    try:
        project.settings["table_store"]["args"]["url"] = url.set(username=role, password="x").render_as_string(False)
        project.run(numbers(project, 1))
        project.database.execute(
            f"grant usage on schema stage to {stranger}; grant select on stage.one to {stranger};"
            f"create schema bi authorization {stranger}; set role {stranger};"
            "create view bi.v as select * from stage.one"
        )
        with pytest.raises(StoreError, match=rf"view bi\.v \(it belongs to '{stranger}', and we are no member"):
            project.run(numbers(project, 2))
        project.database.execute(f"grant {stranger} to {role}")
        project.run(numbers(project, 2))
        assert project.called == []
        assert project.query("select * from bi.v") == [(2,)]
    finally:
        project.database.execute(f"drop owned by {role}, {stranger} cascade; drop role {role}, {stranger}")


def test_views_of_others_stop_the_publish_where_the_configuration_says_so(project: Project) -> None:
    project.run(numbers(project, 1))
    project.database.execute("create schema bi; create view bi.v as select * from stage.one")

    with pytest.raises(StoreError, match=r"on stage\.one: view bi\.v \(the configuration says dependents: fail"):
        project.run(numbers(project, 2), config=project.config(dependents="fail"))
    assert project.query("select * from bi.v") == [(1,)]


def test_garbage_that_somebody_has_built_on_is_kept(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    config = project.config(generations_to_keep=1)
    project.run(numbers(project, 1))
    project.run(numbers(project, 2))
    project.database.execute("create schema bi; create view bi.old as select * from stage__g1.one")
    project.run(numbers(project, 3), config=config)

    assert project.query("select * from bi.old") == [(1,)]
    assert "generation 1 could not be removed, the next publish tries again" in caplog.text
    assert "because bi.old would be dropped with it" in caplog.text
    project.database.execute("drop view bi.old")
    project.run(numbers(project, 4), config=config)
    assert project.query("select nspname from pg_namespace where nspname = 'stage__g1'") == []


# --- readers ----------------------------------------------------------------------------------------------------------

TECHNIQUES = pytest.mark.parametrize("technique", ["schema_swap", "read_views"])


@TECHNIQUES
def test_a_publish_waits_for_a_reader_and_the_reader_sees_one_generation(
    project: Project, reader: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture, technique: str
) -> None:
    config = project.config(stage_commit_technique=technique)
    project.run(numbers(project, 1), config=config)
    caplog.set_level("INFO", "pipedag_airflow")
    seen: list[Any] = []
    with ThreadPoolExecutor() as threads:
        with reader.transaction():
            seen += reader.execute(NUMBER + "one").fetchall()
            publishing = threads.submit(project.run, numbers(project, 2), config=config)
            while "waiting for readers before the publish" not in caplog.text:
                assert not publishing.done()
            # Somebody who comes while we wait, is let through as soon as we give up for a moment.
            assert project.query(NUMBER + "one") == [(1,)]
            seen += reader.execute(NUMBER + "two").fetchall()
            assert not publishing.done()
        assert publishing.result().successful

    assert seen == [(1,), (1,)]
    assert f"process {reader.info.backend_pid} of " in caplog.text
    assert project.query(NUMBER + "two") == [(2,)]


@TECHNIQUES
def test_a_reader_who_stays_too_long_is_named_and_nothing_is_lost(
    project: Project, reader: psycopg.Connection[Any], technique: str
) -> None:
    config = project.config(stage_commit_technique=technique)
    project.run(numbers(project, 1), config=config)
    with reader.transaction():
        reader.execute(NUMBER + "one")
        with pytest.raises(StoreError, match=rf"(?s)others have been reading.*process {reader.info.backend_pid} of "):
            project.run(
                numbers(project, 2), config=project.config(commit_wait_seconds=0, stage_commit_technique=technique)
            )
        assert reader.execute(NUMBER + "two").fetchall() == [(1,)]

    project.run(numbers(project, 2), config=config)
    assert project.called == []
    assert project.query(NUMBER + "two") == [(2,)]


def test_a_transaction_that_has_begun_with_a_table_that_stays_sees_one_generation(
    project: Project, reader: psycopg.Connection[Any]
) -> None:
    project.run(numbers(project, 1))
    with reader.transaction():
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select * from stage.steady")
        with pytest.raises(StoreError, match="others have been reading"):
            project.run(numbers(project, 2), config=project.config(commit_wait_seconds=0))
        assert reader.execute(NUMBER + "two").fetchall() == [(1,)]

    project.run(numbers(project, 2))
    assert project.query(NUMBER + "two") == [(2,)]


def test_with_available_a_publish_goes_on_without_a_reader_who_stays(
    project: Project, reader: psycopg.Connection[Any], bi: str
) -> None:
    config = project.config(commit_consistency="available", commit_wait_seconds=0)
    project.run(numbers(project, 1, extra=True), config=config)
    project.database.execute(
        f'grant usage on schema stage to "{bi}"; grant select on stage.one, stage.steady to "{bi}";'
        f'alter default privileges in schema stage grant select on tables to "{bi}";'
        "create schema bi; create view bi.v as select x, number from stage.steady, stage.one;"
        "create table stage.mine as select 7 as x"
    )
    with reader.transaction():
        reader.execute(NUMBER + "one")
        reader.execute("select * from stage.steady")
        project.run(numbers(project, 2, extra=True), config=config)
        assert reader.execute(NUMBER + "two").fetchall() == [(2,)]

    assert kinds(project) == {"steady": "r", "one": "r", "two": "r", "more": "r", "mine": "r"}
    assert project.query("select number, x from bi.v order by x") == [(2, 1), (2, 2)]
    rights = ["'stage', 'usage'"], [f"'stage.{name}', 'select'" for name in ("one", "steady")]
    for kind, of_kind in zip(("schema", "table"), rights, strict=True):
        for right in of_kind:
            assert project.query(f"select has_{kind}_privilege('{bi}', {right})") == [(True,)]
    indexes = "select count(*) from pg_indexes where schemaname = 'stage' and tablename = 'steady'"
    assert project.query(indexes) == [(2,)]
    defaults = "select defaclobjtype::text from pg_default_acl where defaclnamespace = 'stage'::regnamespace"
    assert project.query(defaults) == [("r",)]

    project.run(numbers(project, 2, extra=True))
    assert project.called == []
    project.run(numbers(project, 3))
    assert project.called == ["one", "two"]
    assert project.query(NUMBER + "two") == [(3,)]
    assert project.query("select has_table_privilege('" + bi + "', 'stage.two', 'select')") == [(False,)]


@pytest.mark.parametrize("consistency", ["strict", "available"])
def test_what_stands_where_a_replaced_table_is_kept_does_not_stop_the_publish(
    project: Project, consistency: str
) -> None:
    """Of whomever it is, it stays; the table that is replaced is kept beside it, under another name."""
    config = project.config(commit_consistency=consistency)
    project.run(numbers(project, 1), config=config)
    project.database.execute("create table stage__g1.one (number int primary key, theirs int)")
    project.run(numbers(project, 2), config=config)

    assert project.query(NUMBER + "one") == [(2,)]
    (kept,) = {name for name in kinds(project, "stage__g1") if name.startswith("one__pipedag_")}
    assert project.query(f"select number from stage__g1.{kept}") == [(1,)]
    assert project.query("select count(theirs) from stage__g1.one") == [(0,)]
    assert project.executed(numbers(project, 2), config=config) == []
    project.run(numbers(project, 3), config=config)
    assert project.query(NUMBER + "one") == [(3,)]
    rollback(config, "stage", 1)
    assert project.query(NUMBER + "one") == [(1,)]
    project.run(numbers(project, 4), config=project.config(generations_to_keep=1))
    assert kinds(project, "stage__g1") == {"one": "r"}


# --- scripts ----------------------------------------------------------------------------------------------------------


def test_scripts_that_name_their_inputs_are_valid_wherever_the_inputs_are(project: Project) -> None:
    @materialize(version="1")
    def source() -> Any:
        return Table(pl.DataFrame({"x": [1]}), "source")

    @materialize(lazy=True, input_type=sa.Table)
    def script(table: Any) -> Any:
        return RawSql(f"create table {stage.transaction_name}.made as select * from {table.original}", "script")

    with Flow("scripts") as flow, Stage("stage") as stage:
        script(source())
    project.run(flow)
    result = project.run(flow)

    assert not any("query" in str(decision) for decision in result.decisions.values())
    assert all(decision.valid for decision in result.decisions.values())


def test_what_a_script_made_moves_with_its_indexes_and_views(project: Project) -> None:
    def flow(number: int) -> Flow:
        @materialize(version=str(number))
        def script() -> Any:
            schema = stage.transaction_name
            return RawSql(
                f"create table {schema}.base (id serial primary key, x int);"
                f"insert into {schema}.base (x) values ({number}), ({number});"
                f"create index partly on {schema}.base (x) where x > 0;"
                f"create view {schema}.seen as select x from {schema}.base;"
                f"create materialized view {schema}.stored as select sum(x) as x from {schema}.base;"
                f"create unique index on {schema}.stored (x)",
                "script",
            )

        with Flow("script") as built, Stage("stage") as stage:
            script()
        return built

    look = "select b.x, s.x, m.x from stage.base b, stage.seen s, stage.stored m limit 1"
    first = project.run(flow(1))
    assert project.query(look) == [(1, 1, 2)]
    assert project.generations(project.run(flow(1))) == project.generations(first)
    for _ in range(2):
        project.run(flow(2))
        assert project.query(look) == [(2, 2, 4)]
    partly = "select schemaname, indexdef from pg_indexes where indexname = 'partly' order by 1"
    assert [schema for schema, _ in project.query(partly)] == ["stage", "stage__g1"]
    assert project.query("select pg_get_serial_sequence('stage.base', 'id')") == [("stage.base_id_seq",)]


def test_types_and_sequences_that_a_table_needs_come_with_it(project: Project) -> None:
    def flow(version: int) -> Flow:
        @materialize(version="1")
        def script() -> Any:
            schema = stage.transaction_name
            return RawSql(
                f"create type {schema}.mood as enum ('ok'); create sequence {schema}.ids;"
                f"create table {schema}.typed (id int default nextval('{schema}.ids'), mood {schema}.mood);"
                f"insert into {schema}.typed (mood) values ('ok')",
                "script",
            )

        @materialize(version=str(version))
        def beside() -> Any:
            return Table(pl.DataFrame({"x": [version]}), "beside")

        with Flow("types") as built, Stage("stage") as stage:
            script()
            beside()
        return built

    config = project.config(generations_to_keep=1)
    for version in (1, 2, 3):
        project.run(flow(version), config=config)

    assert project.query("select id, mood::text, x from stage.typed, stage.beside") == [(1, "ok", 3)]
    project.database.execute("insert into stage.typed (mood) values ('ok')")
    assert project.query("select max(id) from stage.typed") == [(2,)]
