"""What is remembered of runs: rules 4.1 to 4.9, as runs show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")


def flow_of(project: Project, **stages: list[str]) -> Flow:
    """Stages of tasks that make one table each, of the name of the task."""

    def task_named(name: str) -> Any:
        @materialize(name=name, version="1")
        def function() -> Table[Any]:
            project.call(name)
            return Table(pd.DataFrame({"x": [1]}), name)

        return function

    with Flow("metadata") as flow:
        for stage, tasks in stages.items():
            with Stage(stage):
                for name in tasks:
                    task_named(name)()
    return flow


def test_4_2_and_4_4_a_task_that_leaves_is_forgotten_and_a_stage_that_leaves_is_not(project: Project) -> None:
    project.run(flow_of(project, one=["a", "b"], two=["c"]))

    assert project.executed(flow_of(project, one=["a"])) == []
    assert {("one", "a"), ("two", "c")} <= {*project.query(project.database.tables)}
    assert ("one", "b") not in project.query(project.database.tables)

    assert project.executed(flow_of(project, one=["a", "b"], two=["c"])) == ["b"]


def test_4_7_names_and_versions_are_of_any_length(project: Project) -> None:
    name, version = "task" * 50, "1" * 1000

    def flow() -> Flow:
        @materialize(name=name, version=version)
        def value() -> str:
            project.call("value")
            return version

        with Flow("long") as flow, Stage("stage" * 30):
            value()
        return flow

    assert project.executed(flow()) == ["value"]
    last = flow()
    assert project.run(last).get(last["stage" * 30][name]) == version
    assert project.called == []


def test_4_8_without_its_metadata_an_instance_starts_anew_beside_what_readers_see(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.settings["stage_commit_technique"] = "read_views"
    first = project.generations(project.run(flow_of(project, one=["a"])))
    project.database.execute("drop schema pipedag_metadata cascade")
    result = project.run(flow_of(project, one=["a"]))

    assert project.called == ["a"]
    assert project.generations(result)["one"] > first["one"], "nothing is written to where readers look"
    assert "know nothing of one__g1 or older" in caplog.text
    assert project.query("select x from one.a") == [(1,)]
    assert project.executed(flow_of(project, one=["a"])) == []
