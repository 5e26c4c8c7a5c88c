"""Views as results: no rows are stored, and yet they are cached, carried over and read like tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")


@pytest.fixture(autouse=True)
def _published_by_views(project: Project) -> None:
    """So that the schemas of generations, at which these tests look, are the same in both databases."""
    project.settings["stage_commit_technique"] = "read_views"


def tables(project: Project) -> set[str]:
    return project.objects("*__g*", "BASE TABLE")


def years(
    project: Project, *, first: str = "1", second: str = "1", beside: str = "1", limit: int = 0, kind: type = View
) -> Flow:
    """Two tables, a view of both in another stage, a view of that view, and a task that reads it."""

    def year(name: str, version: str) -> Any:
        frame = pl.DataFrame({"x": [1, 2], "made": [f"{name} {version}"] * 2})
        return materialize(name=name, version=version)(lambda: Table(frame, name))

    @materialize(lazy=True, input_type=sa.Table)
    def all_years(tables: list[Any]) -> Any:
        return kind(sa.union_all(*(sa.select(table).where(table.c.x > limit) for table in tables)), "all_years")

    @materialize(version="1", input_type=sa.Table)
    def made(table: Any) -> Any:
        project.call("made")
        return View(sa.select(table.c.made).distinct(), "made")

    @materialize(version="1", input_type=pl.DataFrame)
    def reader(table: pl.DataFrame) -> list[str]:
        project.call("reader")
        return sorted(table["made"])

    with Flow("years") as flow:
        with Stage("raw"):
            tables = [year("first", first)(), year("second", second)()]
        with Stage("mart"):
            shown = made(all_years(tables))
            year("beside", beside)()
        with Stage("out"):
            reader(shown)
    return flow


@on_both_databases
def test_a_view_stores_no_rows_and_is_read_like_a_table(project: Project) -> None:
    flow = years(project)
    result = project.run(flow)

    assert result.get(flow["out"]["reader"]) == ["first 1", "second 1"]
    assert result.get(flow["mart"]["all_years"], as_type=pd.DataFrame)["x"].sum() == 6
    assert project.tables(result)["mart"] == {"all_years": 4, "made": 2, "beside": 2}
    assert project.query("select made from mart.made order by 1") == [("first 1",), ("second 1",)]
    assert tables(project) == {"raw__g1.first", "raw__g1.second", "mart__g1.beside"}


@on_both_databases
def test_an_unchanged_view_is_valid_and_one_beside_something_that_changed_is_carried_over(project: Project) -> None:
    before = project.generations(project.run(years(project)))
    result = project.run(years(project))
    assert project.called == []
    assert project.generations(result) == before

    result = project.run(years(project, beside="2"))
    assert project.called == []
    assert project.objects("*__g*", "VIEW") == {"mart__g1.all_years", "mart__g1.made"}
    assert project.query("select made from mart.made order by 1") == [("first 1",), ("second 1",)]


@pytest.mark.parametrize(
    ("edit", "calls", "shown"),
    [
        ({"limit": 1}, ["made", "reader"], ["first 1", "second 1"]),
        ({"second": "2"}, ["made", "reader"], ["first 1", "second 2"]),
        ({"kind": Table}, ["made", "reader"], ["first 1", "second 1"]),
    ],
    ids=str,
)
def test_a_view_follows_its_query_its_tables_and_what_it_is(
    project: Project, edit: dict[str, Any], calls: list[str], shown: list[str]
) -> None:
    project.run(years(project))
    assert project.executed(years(project, **edit)) == calls
    assert project.query("select made from mart.made order by 1") == [(text,) for text in shown]


@on_both_databases
def test_what_a_view_shows_is_kept_for_as_long_as_the_view_is_there(project: Project) -> None:
    config = project.config(generations_to_keep=1)
    project.run(years(project), config=config)
    for version in ("2", "3", "4"):  # the tables are made anew, but not the views, which belong to another stage
        flow = years(project, first=version, second=version)
        project.run(flow, flow["raw"], config=config)
        assert project.query("select made from mart.made order by 1") == [("first 1",), ("second 1",)]
    assert {name.partition(".")[0] for name in tables(project)} == {"raw__g1", "raw__g4", "mart__g1"}

    project.run(years(project, first="4", second="4"), config=config)
    assert project.query("select made from mart.made order by 1") == [("first 4",), ("second 4",)]
    project.run(years(project, first="5", second="4"), config=config)
    # The first generation went as soon as no view showed it; of the fourth one a table is still in use.
    assert {name.partition(".")[0] for name in tables(project)} == {"raw__g4", "raw__g6", "mart__g1"}


@on_both_databases
def test_a_view_whose_table_somebody_dropped_is_made_anew(project: Project) -> None:
    project.run(years(project))
    project.database.execute("drop table raw__g1.second cascade")
    result = project.run(years(project))
    assert {task.name: decision.reason.value for task, decision in result.decisions.items() if not decision.valid} == {
        "second": "table_missing",
        "all_years": "table_missing",
        "made": "table_missing",
    }
    assert project.called == ["made"]
    assert project.query("select made from mart.made order by 1") == [("first 1",), ("second 1",)]


def test_a_view_that_a_script_made_keeps_what_it_shows_as_well(project: Project) -> None:
    def flow(version: str) -> Flow:
        @materialize(version=version)
        def table() -> Table[Any]:
            return Table(pl.DataFrame({"x": [version]}), "t")

        @materialize(lazy=True, input_type=sa.Table)
        def script(stage: Stage, table: Any) -> RawSql:
            source = f"{table.original.schema}.{table.original.name}"
            return RawSql(f"CREATE VIEW {stage.current_name}.v AS SELECT * FROM {source}", "script")

        with Flow("scripted") as flow:
            with Stage("raw"):
                made = table()
            with Stage("mart") as mart:
                script(mart, made)
        return flow

    config = project.config(generations_to_keep=1)
    project.run(flow("1"), config=config)
    for version in ("2", "3"):
        changed = flow(version)
        project.run(changed, changed["raw"], config=config)
    assert project.query("select * from mart.v") == [("1",)]


def test_a_view_of_data_is_an_error(project: Project) -> None:
    @materialize(version="1")
    def task() -> View[Any]:
        return View(pl.DataFrame({"x": [1]}), "v")

    with Flow() as flow, Stage("s"):
        task()
    with pytest.raises(UnsupportedValueError, match=r"View 'v' of task 's\.task' holds an object of type DataFrame"):
        project.run(flow)


def test_a_view_has_neither_keys_nor_constraints() -> None:
    with pytest.raises(TypeError, match="primary_key"):
        View(sa.text("SELECT 1"), "v", primary_key="x")  # type: ignore[call-arg]  # that it is refused is the test
