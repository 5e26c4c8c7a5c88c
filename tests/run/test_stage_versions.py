"""Tasks that look at a stage before it is published, beside what readers see of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, input_stage_versions, materialize
from pipedag_airflow.errors import StageError

if TYPE_CHECKING:
    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")


def orders(
    project: Project,
    ids: tuple[int, ...],
    *,
    version: str | None = "1",
    beside: str = "beside",
    given: bool = False,
    limit: int = 0,
) -> Flow:
    """A stage of three tables, one of them made by a script, and an audit that lets no order get lost."""

    @materialize(lazy=True)
    def make_orders(ids: tuple[int, ...]) -> Table[Any]:
        return Table(sa.text(" UNION ALL ".join(f"SELECT {number} AS id" for number in ids)), "orders")

    @materialize(version="1")
    def make_beside(name: str) -> dict[str, Any]:
        return {"table": Table(pl.DataFrame({"x": [name]}), name), "value": 3}

    @materialize(lazy=True)
    def make_script(stage: Stage) -> RawSql:
        return RawSql(f"CREATE TABLE {stage.current_name}.scripted AS SELECT 1 AS y", "script")

    @input_stage_versions(input_type=pl.DataFrame, version=version)
    def audit(tables: dict[str, pl.DataFrame], published: dict[str, pl.DataFrame], limit: int = 0) -> Table[Any]:
        sizes = [{name: len(table) for name, table in sorted(side.items())} for side in (tables, published)]
        project.call(f"{sizes[0]} after {sizes[1]}")
        if published:
            lost = published["orders"].join(tables["orders"], on="id", how="anti")
            assert len(lost) <= limit, f"{len(lost)} orders got lost"
        return Table(tables["orders"].select(count=pl.len()), "counted")

    with Flow("orders") as flow, Stage("clean") as clean:
        made = make_orders(ids)
        make_beside(beside)
        make_script(clean)
        audit(*((made,) if given else ()), limit=limit)
    return flow


FIRST = "{'beside': 1, 'orders': 2, 'scripted': 1} after {}"


@on_both_databases
def test_an_audit_sees_the_tables_of_this_run_and_those_that_readers_see(project: Project) -> None:
    assert project.executed(orders(project, (1, 2))) == [FIRST]
    # Another table of the stage is renamed: under its old name readers still have it.
    assert project.executed(orders(project, (1, 2, 3), beside="other")) == [
        "{'orders': 3, 'other': 1, 'scripted': 1} after {'beside': 1, 'orders': 2, 'scripted': 1}"
    ]
    assert project.query("select * from clean.counted") == [(3,)]


@on_both_databases
def test_a_failing_audit_stops_the_publish_and_readers_keep_what_they_had(
    project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    project.run(orders(project, (1, 2)))

    with pytest.raises(AssertionError, match="2 orders got lost"):
        project.run(orders(project, (3,)))

    assert "clean.audit failed, so stage clean is not published; readers see generation 1 as before" in caplog.messages
    assert project.query("select id from clean.orders order by id") == [(1,), (2,)]
    # What the audit objected to is made already, and compared with what readers see all the same.
    assert project.executed(orders(project, (3,), limit=2)) == [
        "{'beside': 1, 'orders': 1, 'scripted': 1} after {'beside': 1, 'orders': 2, 'scripted': 1}"
    ]
    assert project.query("select id from clean.orders") == [(3,)]


def test_an_audit_with_a_version_runs_only_if_a_table_that_it_looks_at_is_made_anew(project: Project) -> None:
    project.run(orders(project, (1, 2)))
    assert project.executed(orders(project, (1, 2))) == []
    assert project.executed(orders(project, (1, 2), beside="other"))
    assert project.executed(orders(project, (1, 2), beside="other", version="2"))


@on_both_databases
def test_an_audit_without_a_version_runs_always_but_publishes_nothing_by_that(project: Project) -> None:
    @materialize(version="1")
    def table() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1]}), "t")

    @input_stage_versions(input_type=sa.Table)
    def audit(tables: dict[str, sa.Alias], published: dict[str, sa.Alias]) -> None:
        project.call("audit")
        assert tables.keys() == {"t"}
        assert [column.name for side in (tables, published) for column in side.get("t", tables["t"]).c] == ["x", "x"]

    with Flow("flow") as flow, Stage("clean"):
        table()
        audit()
    before = project.generations(project.run(flow))
    result = project.run(flow)
    assert project.called == ["audit"]
    assert project.generations(result) == before


def test_tables_that_are_given_are_all_that_an_audit_sees(project: Project) -> None:
    project.run(orders(project, (1, 2), given=True))
    assert project.executed(orders(project, (1, 2, 3), given=True)) == ["{'orders': 3} after {'orders': 2}"]
    assert project.executed(orders(project, (1, 2, 3), given=True, beside="other")) == []


@on_both_databases
def test_a_table_that_somebody_dropped_is_not_among_the_published_ones(project: Project) -> None:
    project.settings["stage_commit_technique"] = "read_views"
    project.run(orders(project, (1, 2)))
    project.database.execute("drop table clean__g1.orders cascade")
    with pytest.raises(KeyError, match="orders"):
        project.run(orders(project, (1, 2, 3)))
    assert project.called == ["{'beside': 1, 'orders': 3, 'scripted': 1} after {'beside': 1, 'scripted': 1}"]


def test_outside_of_a_flow_an_audit_is_its_function() -> None:
    @input_stage_versions(input_type=pl.DataFrame)
    def audit(tables: dict[str, int], published: dict[str, int], limit: int = 0) -> int:
        return tables["t"] - published["t"] + limit

    assert audit({"t": 5}, {"t": 3}, limit=1) == 3


def _check(tables: Any, published: Any, extra: Any = None) -> None:
    """Look at nothing."""


def test_an_audit_of_an_empty_stage_is_an_error() -> None:
    check = input_stage_versions(input_type=pl.DataFrame)(_check)
    with pytest.raises(StageError, match=r"'_check' in stage 's' .* call it last"), Flow(), Stage("s"):
        check()


def test_an_audit_looks_at_its_own_stage_only() -> None:
    check = input_stage_versions(input_type=pl.DataFrame)(_check)
    other = materialize(version="1")(lambda: 1)
    with Flow():
        with Stage("a"):
            elsewhere = other()
        with Stage("b"):
            other()
            check(extra=elsewhere)
            with pytest.raises(StageError, match=r"'_check' in stage 'b' .* 'a\.<lambda>' belongs to the stage 'a'"):
                check(elsewhere)
            with pytest.raises(StageError, match="takes tasks of its stage as positional arguments, and no 3"):
                check(3)
            with pytest.raises(TypeError, match=r"'_check' in stage 'b'.*surplus"):
                check(surplus=1)


def test_the_function_of_an_audit_takes_two_arguments_by_position() -> None:
    with pytest.raises(TypeError, match=r"def one\(tables, published\), not one\(tables: .*\*, published"):

        @input_stage_versions(input_type=pl.DataFrame)
        def one(tables: Any, *, published: Any) -> None:
            """Look at nothing."""


def test_audits_at_the_end_of_a_stage_do_not_wait_for_each_other() -> None:
    check = input_stage_versions(input_type=pl.DataFrame)(_check)
    make = materialize(version="1", name="make")(lambda: 1)
    with Flow() as flow, Stage("s"):
        make()
        check()
        check()
    assert flow.plan().node_by_id["s._check__2"].upstream == ("s.make",)
    assert flow.plan().node_by_id["s.commit_transaction"].upstream == ("s._check", "s._check__2")
