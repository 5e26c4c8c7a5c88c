"""Runs of a part of a flow: what is executed, what is published, and where inputs come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, Result, Stage, Table, materialize
from pipedag_airflow.backend.metadata import GenerationState
from pipedag_airflow.cache.decision import Reason
from pipedag_airflow.core.selector import select
from pipedag_airflow.errors import CacheError, SelectionError
from pipedag_airflow.run.abandon import set_aside
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute

if TYPE_CHECKING:
    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")


class Shop:
    """A flow whose source says something new whenever a test wants it to, without a change of version."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.price = 1
        self.version = "1"

    def flow(self) -> Flow:
        """A chain of raw, clean (with checks nested in it) and report."""
        project = self.project

        @materialize(version=self.version)
        def orders() -> Table[Any]:
            project.call("orders")
            return Table(pd.DataFrame({"price": [self.price]}), "orders")

        @materialize(version="1")
        def rate(value: int) -> int:
            project.call(f"rate {value}")
            return value

        @materialize(version="1", input_type=pl.DataFrame)
        def merged(table: pl.DataFrame, rates: tuple[int, int]) -> Table[Any]:
            project.call("merged")
            return Table(table.with_columns(rate=pl.lit(rates[0])), "merged")

        @materialize(lazy=True, input_type=sa.Table)
        def checked(table: sa.Table) -> Table[Any]:
            project.call("checked")
            return Table(sa.select(table), "checked")

        @materialize(version="1", input_type=pl.DataFrame)
        def done(table: pl.DataFrame) -> Table[Any]:
            project.call("done")
            return Table(table, "done")

        with Flow("shop") as flow:
            with Stage("raw"):
                table, rates = orders(), (rate(2), rate(3))
            with Stage("clean"):
                made = merged(table, (rates[1], rates[0]))
                with Stage("checks"):
                    fine = checked(made)
                done(fine)
            with Stage("report"):
                done(fine)
        return flow

    def run(self, *components: Any, **arguments: Any) -> Result:
        return self.project.run(self.flow(), *components, **arguments)

    def published(self, table: str) -> int:
        ((price,),) = self.project.query(f"select price from {table}")
        return int(price)


@pytest.fixture
def shop(project: Project) -> Shop:
    """The flow, run once."""
    shop = Shop(project)
    shop.run()
    shop.price = 2
    return shop


ALL = ["orders", "rate 2", "rate 3", "merged", "checked", "done", "done"]


def price(result: Result, stage: str, task: str) -> int:
    return int(result.get(result.flow[stage][task], as_type=pl.DataFrame)["price"].item())


def test_a_task_runs_though_it_is_valid_and_its_result_is_this_runs_alone(shop: Shop, project: Project) -> None:
    flow = shop.flow()
    result = project.run(flow, flow["raw"]["orders"])

    assert project.called == ["orders"]
    assert price(result, "raw", "orders") == 2
    assert shop.published("raw.orders") == 1
    assert result.decisions[flow["raw"]["orders"]].reason is Reason.SELECTED
    assert result.subflow == ("raw.orders",)
    with project.config().table_store.transaction() as transaction:
        states = [record.state for record in transaction.metadata.generations(stage="raw")]
    assert states == [GenerationState.PUBLISHED, GenerationState.ABANDONED]

    # What readers see is valid as before, so a run of everything does not take over the other result.
    after = shop.run()
    assert "orders" not in project.called
    assert shop.published("raw.orders") == 1
    assert price(after, "raw", "orders") == 1


@on_both_databases
def test_what_is_not_selected_is_read_as_it_is_published(shop: Shop, project: Project) -> None:
    shop.run("raw.orders")  # unpublished: nobody reads it
    result = shop.run("clean.merged")

    assert project.called == ["merged"]
    assert price(result, "clean", "merged") == 1
    merged = result.get(result.flow["clean"]["merged"])
    assert merged["rate"].to_list() == [3]  # of the two calls of one task, the one that the wiring means


@on_both_databases
def test_selected_tasks_read_each_other_across_stages_before_anything_is_published(
    shop: Shop, project: Project
) -> None:
    result = shop.run("+report.done")

    assert sorted(project.called) == sorted(ALL[:-1])
    assert price(result, "checks", "checked") == price(result, "report", "done") == 2
    assert shop.published("checks.checked") == shop.published("report.done") == 1
    assert set(project.generations(result).values()) == {1}


@on_both_databases
def test_a_task_reads_a_nested_stage_that_is_not_selected_as_it_is_published(shop: Shop, project: Project) -> None:
    result = shop.run("clean.merged clean.done")

    assert project.called == ["merged", "done"]
    assert price(result, "clean", "merged") == 1
    assert price(result, "clean", "done") == 1


@on_both_databases
def test_state_invalid_runs_no_task_just_because_it_is_named(shop: Shop, project: Project) -> None:
    shop.version = "2"
    result = shop.run("+clean.merged,state:invalid")

    assert project.called == ["orders", "merged"]
    assert price(result, "clean", "merged") == 2
    assert result.get(result.flow["raw"]["rate", 0]) == 2
    assert shop.published("clean.merged") == 1

    # The next run of everything takes over what is still valid of it.
    shop.run()
    assert "orders" not in project.called
    assert shop.published("report.done") == 2


def test_a_stage_is_published_with_what_is_nested_in_it_and_nothing_else_is(shop: Shop, project: Project) -> None:
    shop.version = "2"
    result = shop.run(shop.flow()["raw"])
    assert project.called == ["orders"]
    assert shop.published("raw.orders") == 2

    result = shop.run("stage:clean")
    assert list(dict.fromkeys(project.called)) == ["merged", "checked", "done"]  # a query is looked at ahead, too
    assert shop.published("checks.checked") == shop.published("clean.done") == 2
    assert shop.published("report.done") == 1
    assert [node for node in result.subflow if node.endswith("transaction")] == [
        "checks.commit_transaction",
        "clean.commit_transaction",
    ]


def test_a_task_named_beside_its_stage_is_made_anew_and_published(shop: Shop, project: Project) -> None:
    shop.run("stage:raw", "raw.orders", exclude="stage:report")

    assert project.called == ["orders"]
    assert shop.published("raw.orders") == 2


def test_an_input_that_nobody_has_published_is_named_before_anything_runs(project: Project) -> None:
    shop = Shop(project)
    with pytest.raises(CacheError) as raised:
        shop.run("clean.merged")

    assert project.called == []
    assert "nothing is published of 'raw.orders' (read by 'clean.merged'), 'raw.rate__2'" in str(raised.value)
    assert "first run stage:raw" in str(raised.value)
    shop.run()  # no lock, and no open generation, is left
    assert project.called[:1] == ["orders"]


def test_a_wrong_selection_runs_nothing(project: Project) -> None:
    with pytest.raises(SelectionError, match=r"Did you mean 'raw.orders'\?"):
        Shop(project).run("raw.order")
    with pytest.raises(TypeError, match=r"Neither Flow.run\(\) nor .* Did you mean 'exclude'"):
        Shop(project).run(exclud="raw.orders")
    assert project.called == []


def test_steps_in_separate_processes_read_what_an_earlier_stage_of_the_run_has_set_aside(
    shop: Shop, project: Project
) -> None:
    def session() -> Any:
        flow = shop.flow()
        return project.session(flow, selection=select(flow.plan(), "raw.orders clean.merged"))

    begin(session(), "raw")
    execute(session(), "raw.orders")
    set_aside(session(), "raw")
    assert session().locks.holder("raw") is not None  # clean still reads it
    begin(session(), "clean")
    report = execute(session(), "clean.merged")
    set_aside(session(), "clean")
    set_aside(session(), "clean")

    (name, schema, _rows) = report.tables[0]
    assert project.query(f"select price from {schema}.{name}") == [(2,)]
    assert session().locks.holder("raw") is None
    assert session().locks.holder("clean") is None
    assert shop.published("clean.merged") == 1
