"""Tables that a task stores while its function runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.errors import DuplicateNameError, StaleRunError
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")


@pytest.fixture(autouse=True)
def _published_by_views(project: Project) -> None:
    """So that the schemas of generations, at which these tests look, are the same in both databases."""
    project.settings["stage_commit_technique"] = "read_views"


def stored(project: Project) -> list[str]:
    """Return what is in the schemas of generations, with the marks that make names unique left out."""
    tables = project.objects("*__g*", "BASE TABLE")
    return sorted(re.sub("__pipedag_[a-z2-7]{8}$", "__MARK", name) for name in tables)


def steps(project: Project, *, low: int = 1, high: int = 3, fail: bool = False, view: bool = False) -> Flow:
    """A lazy task of two steps, of which only the second one is returned, and a task that reads it."""

    @materialize(version="1")
    def source() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1, 2, 3, 4]}), "source")

    @materialize(lazy=True, input_type=sa.Table)
    def two_steps(table: Any) -> dict[str, Any]:
        project.call("two_steps")
        first = Table(sa.select(table).where(table.c.x > low), "first", primary_key="x").materialize()
        if fail:
            raise ZeroDivisionError("after the first step")
        kind = View if view else Table
        return {"second": kind(sa.select(first.c.x).where(first.c.x <= high), "second")}

    @materialize(version="1", input_type=pl.DataFrame)
    def reader(table: pl.DataFrame) -> list[int]:
        project.call("reader")
        return sorted(table["x"])

    with Flow("steps") as flow:
        with Stage("raw"):
            made = source()
        with Stage("mart"):
            result = two_steps(made)
        with Stage("out"):
            reader(result["second"])
    return flow


@on_both_databases
def test_a_table_is_stored_at_once_and_published_with_its_stage(project: Project) -> None:
    flow = steps(project)
    result = project.run(flow)
    assert result.get(flow["out"]["reader"]) == [2, 3]
    assert project.tables(result)["mart"] == {"first": 3, "second": 2}
    assert project.query("select x from mart.first order by x") == [(2,), (3,), (4,)]


@on_both_databases
def test_an_unchanged_lazy_task_finds_what_it_had_materialized_and_needs_no_step_of_its_own(project: Project) -> None:
    before = project.generations(project.run(steps(project)))
    result = project.run(steps(project))
    assert project.called == ["two_steps"]  # by begin, to see its queries
    assert project.generations(result) == before
    assert stored(project) == ["mart__g1.first__MARK", "mart__g1.second", "raw__g1.source"]


@on_both_databases
@pytest.mark.parametrize(
    ("edit", "made", "rows"),
    [
        # The text of the second query is the same, but what it reads is not.
        ({"low": 2}, ["mart__g2.first__MARK", "mart__g2.second"], [(3,)]),
        ({"high": 4}, ["mart__g2.second"], [(2,), (3,), (4,)]),
    ],
    ids=str,
)
def test_only_the_steps_that_changed_and_those_after_them_are_made(
    project: Project, edit: dict[str, Any], made: list[str], rows: list[tuple[int]]
) -> None:
    project.run(steps(project))
    project.run(steps(project, **edit))
    assert [name for name in stored(project) if name.startswith("mart__g2")] == made
    assert project.query("select x from mart.second order by x") == rows


@on_both_databases
def test_a_failure_afterwards_leaves_nothing(project: Project) -> None:
    project.run(steps(project))
    with pytest.raises(ZeroDivisionError, match="after the first step"):
        project.run(steps(project, low=2, fail=True))
    assert project.query("select x from mart.first order by x") == [(2,), (3,), (4,)]
    assert stored(project) == ["mart__g1.first__MARK", "mart__g1.second", "raw__g1.source"]
    # Nothing of the failed run is taken over, and nothing stands in the way.
    project.run(steps(project, low=2))
    assert project.query("select x from mart.first order by x") == [(3,), (4,)]


@on_both_databases
def test_a_view_may_show_what_the_task_has_materialized(project: Project) -> None:
    project.run(steps(project, view=True))
    # The table is found, the view is made anew in another schema; and it is noticed if what it shows is gone.
    project.run(steps(project, view=True, high=4))
    assert project.query("select x from mart.second order by x") == [(2,), (3,), (4,)]
    (name,) = project.objects("mart__g1", "BASE TABLE")
    project.database.execute(f"drop table {name} cascade")
    project.run(steps(project, view=True, high=4))
    assert project.query("select x from mart.second order by x") == [(2,), (3,), (4,)]


def returned_as(table: Table[Any], how: str) -> Any:
    reference = table.materialize()
    ways = {"container": table, "reference": reference, "nested": [(reference, 1)], "copy": Table(reference, "copy")}
    return ways[how]


@pytest.mark.parametrize(
    ("how", "pick", "tables"),
    [
        ("container", lambda task: task, {"t": 2}),
        ("reference", lambda task: task, {"t": 2}),
        ("nested", lambda task: task[0][0], {"t": 2}),
        ("copy", lambda task: task, {"t": 2, "copy": 2}),
    ],
)
def test_what_is_returned_stands_for_the_table_that_was_stored(
    project: Project, how: str, pick: Callable[[Any], Any], tables: dict[str, int]
) -> None:
    @materialize(version="1")
    def task() -> Any:
        table = Table(pl.DataFrame({"x": [1, 2]}), "t", non_nullable=["x"])
        assert table.materialize() is table.materialize()
        return returned_as(table, how)

    @materialize(version="1", input_type=pl.DataFrame)
    def reader(table: pl.DataFrame) -> int:
        return len(table)

    with Flow("flow") as flow:
        with Stage("s"):
            made = task()
        with Stage("out"):
            reader(pick(made))
    result = project.run(flow)
    assert project.tables(result)["s"] == tables
    assert result.get(flow["out"]["reader"]) == 2
    assert {state.value for state in project.run(flow).task_states.values()} == {"cache_valid"}


def test_many_tables_without_names_and_one_name_twice(project: Project) -> None:
    @materialize(version="1")
    def many() -> list[Any]:
        return [Table(sa.text(f"SELECT {number} AS x")).materialize() for number in range(50)]

    @materialize(version="1")
    def twice() -> None:
        Table(sa.text("SELECT 1 AS x"), "t").materialize()
        Table(sa.text("SELECT 2 AS x"), "T").materialize()

    with Flow("flow") as flow:
        with Stage("a"):
            many()
        with Stage("b"):
            twice()
    with pytest.raises(DuplicateNameError, match=r"'b\.twice' returns two tables of the name 't'"):
        project.run(flow)
    assert len(project.tables(project.run(flow, flow["a"]))["a"]) == 50


def test_two_tasks_that_materialize_one_name_are_an_error_and_what_the_first_one_stored_stays(project: Project) -> None:
    def make(value: int) -> None:
        Table(sa.text(f"SELECT {value} AS x"), "t").materialize()

    one, two = materialize(name="one", version="1")(make), materialize(name="two", version="1")(make)
    with Flow("flow") as flow, Stage("s"):
        one(1)
        two(2)
    with pytest.raises(DuplicateNameError, match=r"'s\.one' and 's\.two' both make a table of the name 't'"):
        project.run(flow)
    assert stored(project) == ["s__g1.t__MARK"]
    (name,) = project.objects("s__g1")
    assert project.query(f"select x from {name}") == [(1,)]


def test_a_zombie_changes_nothing_of_what_its_retry_has_stored(project: Project) -> None:
    inner: list[Any] = []

    @materialize(version="1")
    def task() -> Any:
        number = len(inner)
        if number == 0:
            inner.append(None)
            inner.append(execute(project.session(flow), "s.task"))  # the retry runs while the first attempt still does
        return Table(sa.text(f"SELECT {number} AS x"), "t").materialize()

    with Flow("flow") as flow, Stage("s"):
        task()
    session = project.session(flow)
    begin(session, "s")
    report = execute(session, "s.task")
    publish(session, "s")
    assert report.decision.valid
    assert "made by another process" in report.decision.detail
    assert project.query("select x from s.t") == [(1,)]
    assert stored(project) == ["s__g1.t__MARK"]


def test_a_run_that_lost_its_stage_stores_nothing(project: Project) -> None:
    @materialize(version="1")
    def task() -> None:
        begin(project.session(flow, "another run"), "s")
        Table(sa.text("SELECT 1 AS x"), "t").materialize()

    with Flow("flow") as flow, Stage("s"):
        task()
    session = project.session(flow, "run")
    begin(session, "s")
    with pytest.raises(StaleRunError, match="'another run'"):
        execute(session, "s.task")
    assert stored(project) == []


def test_what_was_materialized_under_a_hash_that_is_given_up_is_made_again(project: Project) -> None:
    def flow(digest: str, low: int) -> Flow:
        @materialize(lazy=True, cache=lambda: digest)
        def task() -> Any:
            project.call("task")
            first = Table(sa.text(f"SELECT '{digest}' AS x"), "first").materialize()
            return Table(sa.select(first.c.x, sa.literal(low).label("low")), "second")

        with Flow("flow") as flow, Stage("s"):
            task()
        return flow

    project.run(flow("a", 1))
    project.run(flow("b", 2), cache_validation_mode="ignore_fresh_input")
    assert project.query("select * from s.first, s.second") == [("b", "b", 2)]
    # It is found as what it is: made from what the cache function says now.
    assert {str(decision) for decision in project.run(flow("b", 2)).decisions.values()} == {"valid"}


def test_an_error_that_the_function_catches_ahead_decides_nothing(project: Project) -> None:
    @materialize(lazy=True)
    def careful() -> Any:
        project.call("careful")
        try:
            return Table(sa.text("SELECT 1 AS x"), "t").materialize()
        except Exception:
            project.call("caught")
            return None

    with Flow("flow") as flow, Stage("s"):
        careful()
    assert project.executed(flow) == ["careful", "caught", "careful"]
    assert project.query("select x from s.t") == [(1,)]


def test_a_script_may_name_what_was_materialized(project: Project) -> None:
    @materialize(lazy=True)
    def script(stage: Stage) -> RawSql:
        first = Table(sa.text("SELECT 7 AS x"), "first").materialize().original
        return RawSql(f'CREATE TABLE {stage.current_name}.t AS SELECT * FROM {first.schema}."{first.name}"', "script")

    with Flow("flow") as flow, Stage("s") as stage:
        script(stage)
    before = project.generations(project.run(flow))
    assert project.query("select x from s.t") == [(7,)]
    assert project.generations(project.run(flow)) == before


def test_outside_of_a_run_the_object_comes_back() -> None:
    frame = pl.DataFrame({"x": [1]})
    assert Table(frame, "t").materialize() is frame

    @materialize(version="1")
    def task() -> Any:
        return Table(frame, "t").materialize()

    assert task() is frame
