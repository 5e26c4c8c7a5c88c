"""What runs of flows do in PostgreSQL, and could not do in a database of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow.backend.table import SQLTableStore

pytestmark = pytest.mark.databases("postgres")


def tables(project: Project, *names: str, stage: str = "one") -> Flow:
    """A stage of independent tables of three rows."""

    def task_named(name: str) -> Any:
        @materialize(name=name, version="1")
        def function() -> Table[Any]:
            project.call(name)
            return Table(pl.DataFrame({"x": [1, 2, 3]}), name)

        return function

    with Flow("tables") as flow, Stage(stage):
        for name in names:
            task_named(name)()
    return flow


@pytest.mark.parametrize("letter", ["x", "ä"])
def test_a_flow_of_names_that_are_too_long_runs_and_is_valid(project: Project, letter: str) -> None:
    stage, name = letter * 80, letter * 70
    flow = tables(project, f"{name}a", f"{name}b", stage=stage)

    first = project.run(flow)
    assert project.called == [f"{name}a", f"{name}b"]
    second = project.run(flow)

    assert project.called == []
    assert project.tables(second) == {stage: {f"{name}a": 3, f"{name}b": 3}}
    assert project.generations(second) == project.generations(first)
    assert second.get(flow[stage][f"{name}b"], as_type=pl.DataFrame)["x"].to_list() == [1, 2, 3]
    store: SQLTableStore = project.config().table_store
    schema, table = store.shown_place(stage, f"{name}a")
    assert project.query(f'select count(*) from "{schema}"."{table}"') == [(3,)]


def test_a_flow_of_hostile_names_runs_and_is_valid(project: Project) -> None:
    names = ['quo"te', "from table", "a.b", "a%b", "%(a)s", "a;b--", "ünï😀"]
    flow = tables(project, *names, stage='sel"ect %s')

    project.run(flow)
    assert project.called == names
    second = project.run(flow)
    assert project.called == []
    assert project.tables(second) == {'sel"ect %s': dict.fromkeys(names, 3)}


def test_old_generations_that_a_user_reads_stay_with_a_line_in_the_log(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    config = project.config(generations_to_keep=1, stage_commit_technique="read_views")

    def flow(version: str) -> Flow:
        @materialize(version=version)
        def one() -> Table[Any]:
            return Table(pl.DataFrame({"x": [1]}), "one")

        with Flow("flow") as flow, Stage("stage"):
            one()
        return flow

    project.run(flow("1"), config=config)
    project.database.execute("create view public.mine as select * from stage__g1.one")
    project.run(flow("2"), config=config)
    project.run(flow("3"), config=config)

    assert "because public.mine would be dropped with it" in caplog.text
    assert project.query("select count(*) from public.mine") == [(1,)]
