"""A stage that is begun again in one run, because what it reads was made anew: what it had made by then is dropped."""

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
    from conftest import Project

    from pipedag_airflow.run.session import RunSession

pytestmark = pytest.mark.databases("duckdb", "postgres")

DROPS_FIRST = "drop table if exists {schema}.made; create table {schema}.made as select {number} as x"
PLAIN = "create table {schema}.made as select {number} as x"


class Upstream:
    """A flow whose stage `s` reads a number of the stage `up`; with tasks that are named, or not, and a script."""

    def __init__(self, project: Project, script: str = PLAIN) -> None:
        self.project = project
        self.number = 1
        self.other = 1
        self.flow = self._flow(script)

    def _flow(self, script: str) -> Flow:
        @materialize(name="u", version=None)
        def u() -> int:
            return self.number

        @materialize(name="named", version="1")
        def named(number: int) -> Any:
            return Table(pl.DataFrame({"x": [number]}), "named", primary_key=["x"])

        @materialize(name="nameless", version="1")
        def nameless(number: int) -> Any:
            return Table(pl.DataFrame({"x": [number]}))

        @materialize(name="scripted", version="1")
        def scripted(number: int) -> Any:
            return RawSql(script.format(schema=stage.current_name, number=number), "scripted")

        @materialize(name="beside", version=None)
        def beside() -> Any:
            return Table(pl.DataFrame({"x": [self.other]}), "beside")

        with Flow("again") as flow:
            with Stage("up"):
                number = u()
            with Stage("s") as stage:
                named(number)
                nameless(number)
                scripted(number)
                beside()
        return flow

    def begin(self, run_id: str, number: int, *, revision: int = 0) -> RunSession:
        """Publish the number, as if its task was cleared if the revision says so; then begin the stage."""
        self.number = number
        session = self.project.session(self.flow, run_id)
        begin(session, "up")
        execute(session, "up.u", revision=revision)
        publish(session, "up")
        begin(session, "s")
        return session


def made(project: Project) -> list[str]:
    """Return the tables in the schemas of generations, of nameless ones only the beginning."""
    return sorted(name.partition("_0000")[0][:16] for name in project.objects("s__g*", "BASE TABLE"))


@pytest.fixture(autouse=True)
def read_views(project: Project) -> None:
    """Tables stay where they were made."""
    project.settings["stage_commit_technique"] = "read_views"
    project.settings["generations_to_keep"] = 1


@pytest.mark.parametrize("script", [DROPS_FIRST, PLAIN], ids=["drops first", "plain"])
def test_a_script_that_runs_again_makes_what_readers_see(project: Project, script: str) -> None:
    upstream = Upstream(project, script)
    session = upstream.begin("run", 1)
    execute(session, "s.scripted")
    session = upstream.begin("run", 2, revision=1)
    assert project.objects("s__g*") == set()

    report = execute(session, "s.scripted", revision=1)

    assert [name for name, _, _ in report.tables] == ["made"]
    for task in ("named", "nameless", "beside"):
        execute(session, f"s.{task}")
    publish(session, "s")
    assert project.query("select x from s.made") == [(2,)]
    assert project.executed(upstream.flow) == []


def test_what_is_made_anew_leaves_nothing_of_the_first_time(project: Project) -> None:
    upstream = Upstream(project)
    for revision in (0, 1):
        session = upstream.begin("run", revision + 1, revision=revision)
        for task in ("named", "nameless", "scripted", "beside"):
            execute(session, f"s.{task}", revision=revision)
    assert len(project.objects("s__g1")) == 4
    publish(session, "s")
    upstream.number = upstream.other = 3
    project.run(upstream.flow)
    assert project.objects("s__g1") == set()
    assert len(project.objects("s__g2")) == 4


def test_what_was_made_is_dropped_where_what_is_published_is_valid_again(project: Project) -> None:
    project.settings["stage_commit_technique"] = "schema_swap"
    upstream = Upstream(project)
    project.run(upstream.flow)
    session = upstream.begin("run", 2)
    execute(session, "s.named")
    assert project.objects("s__g2") == {"s__g2.named"}

    session = upstream.begin("run", 1, revision=1)

    assert project.objects("s__g2") == set()
    upstream.other = 2
    execute(session, "s.beside")
    publish(session, "s")
    upstream.number = 3
    project.run(upstream.flow)
    assert project.query("select x from s.named") == [(3,)]


def test_what_another_task_made_by_the_same_call_is_kept_by_that_one(project: Project) -> None:
    numbers = {"one": 1, "two": 1}

    def make(name: str) -> Any:
        return materialize(name=name, version=None)(lambda: numbers[name])

    @materialize(name="made", version="1")
    def same(number: int) -> Any:
        return Table(pl.DataFrame({"x": [number]}))

    with Flow("calls") as flow:
        with Stage("up"):
            one, two = make("one")(), make("two")()
        with Stage("s"):
            first = same(one)
            second = same(two)
    session = project.session(flow)
    for revision in (0, 1):
        numbers["one"] = revision + 1
        begin(session, "up")
        for task in ("up.one", "up.two"):
            execute(session, task, revision=revision)
        publish(session, "up")
        begin(session, "s")
        if not revision:
            for task in (first, second):
                execute(session, task.id)
        session = project.session(flow)
    execute(session, first.id, revision=1)
    publish(session, "s")
    assert len(project.objects("s")) == 2
    names = sorted(project.objects("s"))
    assert sorted(project.query(f"select x from {names[0]} union all select x from {names[1]}")) == [(1,), (2,)]


@pytest.mark.parametrize("kind", ["table", "view"])
def test_a_script_claims_what_it_makes_in_the_place_of_something_that_nobody_recorded(
    project: Project, kind: str
) -> None:
    upstream = Upstream(project, DROPS_FIRST.replace("table", kind))
    session = upstream.begin("run", 2)
    schema = session.store.generation_schema("s", 1)
    project.database.execute(f"create schema if not exists {schema}")
    project.database.execute(f"create {kind} {schema}.made as select 1 as x")
    report = execute(session, "s.scripted")
    assert [name for name, _, _ in report.tables] == ["made"]


def test_a_script_does_not_claim_what_it_only_changes(project: Project) -> None:
    upstream = Upstream(project, "create index beside_x on {schema}.beside (x)")
    session = upstream.begin("run", 1)
    execute(session, "s.beside")
    assert execute(session, "s.scripted").tables == ()


def test_what_another_process_made_is_dropped_where_the_task_turns_out_to_be_valid(project: Project) -> None:
    """A zombie of the task has read other data, and its retry finds that nothing has changed."""
    project.settings["begin_query_seconds"] = 0
    numbers = [1]

    @materialize(lazy=True)
    def task() -> Any:
        return Table(sa.text(f"select {numbers[-1]} as x"), "t")

    with Flow("zombie") as flow, Stage("s"):
        task()
    project.run(flow)
    session = project.session(flow)
    before = begin(session, "s").snapshot
    numbers.append(2)
    execute(session, "s.task")
    assert project.objects("s__g2") == {"s__g2.t"}

    numbers.append(1)
    assert execute(session, "s.task", revision=1, known=before).decision.valid

    assert project.objects("s__g2") == set()
    publish(session, "s")
    assert project.query("select x from s.t") == [(1,)]
    assert project.query("select distinct container from pipedag_metadata.object where stage = 's'") == [("s__g1",)]
