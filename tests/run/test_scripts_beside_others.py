"""Scripts on PostgreSQL, where other tasks of the stage store their tables at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow.run.session import RunSession

pytestmark = pytest.mark.databases("postgres")

#: Makes something of each kind, also within subtransactions.
EVERYTHING = """
    create table {schema}.own (x int primary key);
    do $$ begin create table {schema}.guarded as select 1 as x; exception when others then raise; end $$;
    savepoint before_view;
    create view {schema}.seen as select x from {schema}.own;
    release savepoint before_view;
    create function {schema}.one() returns int language sql return 1;
    do $$ begin create type {schema}.kind as enum ('a'); exception when others then raise; end $$;
    create sequence {schema}.numbers
"""
MADE = {"own", "guarded", "seen", "function one()", "type kind", "sequence numbers"}


def stage_of(script: str) -> Flow:
    """A stage with a script, with a table, and with another script."""

    @materialize(lazy=True)
    def scripted() -> RawSql:
        return RawSql(script.format(schema=stage.transaction_name), "scripted")

    @materialize(version="1")
    def beside() -> list[Any]:
        first = Table(pl.DataFrame({"x": [1, 2]}), "first")
        first.materialize()
        return [first, Table(pl.DataFrame({"x": [1, 2]}), "second")]

    @materialize(lazy=True)
    def other() -> RawSql:
        schema = stage.transaction_name
        return RawSql(f"create table {schema}.third as select 1 as x; create sequence {schema}.others", "other")

    with Flow("parallel") as flow, Stage("stage") as stage:
        scripted()
        beside()
        other()
    return flow


def meanwhile(session: RunSession, words: str, what: Callable[[], object]) -> None:
    """Do something in other sessions, once, before a session sends a statement with these words."""

    @sa.event.listens_for(session.store.engine, "before_cursor_execute")
    def interrupt(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if words in statement and not done:
            done.append(statement)
            what()

    done: list[str] = []


@pytest.mark.parametrize("moment", ["create table", "create sequence"])
def test_a_script_does_not_claim_what_other_tasks_store_meanwhile(project: Project, moment: str) -> None:
    flow = stage_of(EVERYTHING)

    def others() -> None:
        execute(project.session(flow), "stage.beside")
        execute(project.session(flow), "stage.other")

    begin(project.session(flow), "stage")
    session = project.session(flow)
    meanwhile(session, moment, others)
    report = execute(session, "stage.scripted")

    assert {name for name, _, _ in report.tables} == {"own", "guarded", "seen"}
    publish(project.session(flow), "stage")
    owners = project.query("select node, name from pipedag_metadata.object where kind in ('table', 'definition')")
    assert {name for node, name in owners if node == "stage.scripted"} == MADE
    assert {name for node, name in owners if node == "stage.other"} == {"third", "sequence others"}
    assert project.query("select (select count(*) from stage.first), (select count(*) from stage.second)") == [(2, 2)]
    assert project.executed(flow) == []


def test_a_table_that_disappears_while_a_script_runs_is_none_of_it(project: Project) -> None:
    """What an earlier attempt of another task has left is dropped when that task is executed."""
    flow = stage_of(EVERYTHING)
    begin(project.session(flow), "stage")
    execute(project.session(flow), "stage.beside")
    session = project.session(flow)
    meanwhile(session, "create table", lambda: execute(project.session(flow), "stage.beside", revision=1))
    assert {name for name, _, _ in execute(session, "stage.scripted").tables} == {"own", "guarded", "seen"}


@pytest.mark.parametrize("table", ["create table {schema}.bare ()", "create view {schema}.bare as select"])
def test_a_table_without_columns_is_a_table(project: Project, table: str) -> None:
    flow = stage_of(table)
    project.run(flow)
    assert project.query("select count(*) from stage.bare") == [(int("view" in table),)]
    assert project.executed(flow) == []
    project.run(stage_of(f"{table}; comment on schema {{schema}} is 'another'"))
    assert project.query("select count(*) from stage.bare") == [(int("view" in table),)]


def test_a_query_without_columns_makes_a_table_that_can_be_read(project: Project) -> None:
    @materialize(version="1")
    def bare() -> Table[Any]:
        return Table(sa.text("SELECT FROM generate_series(1, 2)"), "bare")

    @materialize(version="1", input_type=pl.DataFrame)
    def width(table: pl.DataFrame) -> int:
        return table.width

    with Flow("bare") as flow, Stage("stage"):
        width(bare())
    result = project.run(flow)
    assert result.get(flow["stage"]["width"]) == 0
    assert project.tables(result) == {"stage": {"bare": 2}}
