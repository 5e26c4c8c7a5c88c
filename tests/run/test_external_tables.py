"""Tables that somebody else owns: as results, as arguments, and in the place of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import ExternalTableReference, Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.errors import CacheError, ExternalTableError, FlowError, SelectionError, UnsupportedValueError

if TYPE_CHECKING:
    from conftest import Project


def crm(project: Project, *statements: str) -> None:
    """Change the schema that somebody else owns."""
    with duckdb.connect(str(project.folder / "pipeline.duckdb")) as connection:
        for statement in ("create schema if not exists crm", *statements):
            connection.execute(statement)


@pytest.fixture
def owned(project: Project) -> Project:
    crm(project, "create table crm.Customers as select 7 as id", "create view crm.recent as select 8 as id")
    return project


def referring(project: Project, *, returns: Any = None, day: list[int] | None = None) -> Flow:
    """A task that refers to a table, a lazy consumer and one that loads it; and a reference that is an argument."""
    found = returns or Table(ExternalTableReference("Customers", "crm"))

    @materialize(version="1", cache=lambda: (day or [0])[0])
    def customers() -> Any:
        project.call("customers")
        return {"table": found, "number": 1}

    @materialize(lazy=True, input_type=sa.Table)
    def chosen(table: sa.Table) -> Table[Any]:
        project.call("chosen")
        return Table(sa.select(table.c.id), "chosen")

    @materialize(version="1", input_type=pl.DataFrame)
    def loaded(table: pl.DataFrame, other: pl.DataFrame) -> Table[Any]:
        project.call("loaded")
        return Table(pl.concat([table, other]), "loaded")

    with Flow("crm") as flow:
        with Stage("source"):
            table = customers()["table"]
        with Stage("use"):
            chosen(table)
            loaded(table, ExternalTableReference("recent", "crm"))
    return flow


def test_a_reference_is_read_where_it_is_and_valid_by_its_identity(owned: Project) -> None:
    day = [1]
    flow = referring(owned, day=day)
    result = owned.run(flow)
    assert owned.query("select id from use.chosen") == [(7,)]
    assert owned.query("select id from use.loaded order by id") == [(7,), (8,)]
    assert owned.tables(result)["source"] == {}
    assert result.get(flow["source"]["customers"], as_type=pd.DataFrame)["table"]["id"].tolist() == [7]

    crm(owned, "delete from crm.Customers", "insert into crm.Customers values (9)")
    result = owned.run(referring(owned, day=day))
    assert set(owned.called) <= {"chosen"}  # its query is looked at, and is the same
    assert owned.query("select id from use.chosen") == [(7,)]
    assert (
        repr(result.task_values[result.flow["source"]["customers"]])
        == "{'table': <Table source.Customers>, 'number': 1}"
    )

    day[0] = 2
    owned.run(referring(owned, day=day))
    assert set(owned.called) == {"customers", "chosen", "loaded"}
    assert owned.query("select id from use.chosen") == [(9,)]


def test_a_view_of_a_table_of_somebody_else_is_made_and_valid(owned: Project) -> None:
    @materialize(lazy=True, input_type=sa.Table)
    def seen(table: sa.Table) -> View[Any]:
        return View(sa.select(table.c.id), "seen")

    with Flow("seen") as flow, Stage("use"):
        seen(ExternalTableReference("Customers", "crm"))
    first = owned.run(flow)
    assert owned.query("select id from use.seen") == [(7,)]
    assert owned.generations(owned.run(flow)) == owned.generations(first)


def test_a_reference_to_another_table_makes_its_consumers_run(owned: Project) -> None:
    @materialize(lazy=True)
    def customers(name: str) -> ExternalTableReference:
        return ExternalTableReference(name, "crm")

    @materialize(version="1", input_type=pl.DataFrame)
    def loaded(table: pl.DataFrame) -> Table[Any]:
        return Table(table, "loaded")

    for name, number in (("Customers", 7), ("recent", 8)):
        with Flow("crm") as flow, Stage("use"):
            loaded(customers(name))
        owned.run(flow)
        assert owned.query("select id from use.loaded") == [(number,)]


def test_tables_of_one_name_from_two_schemas_stand_beside_each_other_in_a_query(owned: Project) -> None:
    crm(owned, "create schema erp", "create table erp.recent as select 6 as id")

    @materialize(lazy=True, input_type=sa.Table)
    def both(one: sa.Table, two: sa.Table) -> Table[Any]:
        return Table(sa.select(one.c.id, two.c.id.label("other")), "both")

    with Flow("crm") as flow, Stage("use"):
        both(ExternalTableReference("recent", "crm"), ExternalTableReference("recent", "erp"))
    owned.run(flow)
    assert owned.query("select * from use.both") == [(8, 6)]


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        (("customers", "crm"), r"Task 'source.customers' refers to .* 'crm.customers', .* Did you mean 'Customers'\?"),
        (("x", "nowhere"), "refers to the table or view 'nowhere.x', which is not in duckdb:"),
        (("x", "Source"), "'Source.x' as an external table, but that schema is where its own stage is stored"),
    ],
)
def test_a_reference_that_cannot_be_read_is_refused(owned: Project, reference: tuple[str, str], says: str) -> None:
    with pytest.raises(ExternalTableError, match=says):
        owned.run(referring(owned, returns=ExternalTableReference(*reference)))


def test_an_external_table_that_is_gone_is_named_with_the_task_that_reads_it(owned: Project) -> None:
    @materialize(version="1", input_type=pl.DataFrame)
    def loaded(table: pl.DataFrame) -> int:
        return len(table)

    with Flow("crm") as flow, Stage("use"):
        loaded({"t": Table(ExternalTableReference("gone", "crm"))})
    with pytest.raises(ExternalTableError, match=r"Task 'use.loaded' refers to the table or view 'crm.gone'"):
        owned.run(flow)


# --- inputs ------------------------------------------------------------------------------------------------------


def shop(project: Project) -> Flow:
    @materialize(version="1")
    def orders() -> tuple[Table[Any], int]:
        project.call("orders")
        return Table(pd.DataFrame({"id": [1]}), "orders"), 5

    @materialize(version="1", input_type=pl.DataFrame)
    def report(table: pl.DataFrame, limit: int) -> Table[Any]:
        project.call("report")
        return Table(table.with_columns(limit=pl.lit(limit)), "report")

    with Flow("shop") as flow:
        with Stage("raw"):
            table, limit = orders()[0], orders()[1]
        with Stage("out"):
            report(table, limit)
    return flow


def test_inputs_stand_in_for_results_that_nobody_has_made(owned: Project) -> None:
    flow = shop(owned)
    orders, again = flow["raw"]["orders", 0], flow["raw"]["orders", 1]
    inputs = {orders[0]: ExternalTableReference("Customers", "crm"), again: (None, 3)}

    result = owned.run(flow, "out.report", inputs=inputs)
    assert owned.called == ["report"]
    assert result.get(flow["out"]["report"]).rows() == [(7, 3)]

    owned.run(flow, "stage:out", inputs=inputs)
    assert owned.called == []  # valid: made by the run before, of the same inputs
    assert owned.query("select * from out.report") == [(7, 3)]
    owned.run(flow, "stage:out", inputs=inputs | {again: (None, 4)})
    assert owned.query("select * from out.report") == [(7, 4)]

    owned.run(flow)
    assert set(owned.called) == {"orders", "report"}
    assert owned.query("select * from out.report") == [(1, 5)]


@pytest.mark.parametrize(
    ("inputs", "error", "says"),
    [
        ({"raw.order": 1}, SelectionError, "has no such task"),
        ({"out.report": 1}, SelectionError, r"replaces out\.report, but no task that is selected reads it"),
        ({3: 1}, TypeError, "replaces results of tasks"),
        ({"raw.orders": 1}, SelectionError, r"no part <raw\.orders\[0\]>, which task 'out\.report' reads \(TypeError"),
        ({"raw.orders": ()}, SelectionError, r"no part <raw\.orders\[0\]>, .* \(IndexError"),
        ({"raw.orders": Table(pd.DataFrame())}, UnsupportedValueError, r"give ExternalTableReference\(name, schema\)"),
        ({"raw.orders": RawSql("select 1")}, UnsupportedValueError, "only a table that is in the database already"),
        ({"raw.orders": {1, 2}}, UnsupportedValueError, "A set has no order"),
    ],
)
def test_inputs_that_mean_nothing_are_refused_before_anything_runs(
    project: Project, inputs: dict[Any, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        project.run(shop(project), inputs=inputs)
    assert project.called == []


def test_inputs_are_of_the_flow_that_is_run_and_not_finer_than_what_is_read(project: Project) -> None:
    @materialize(version="1")
    def whole(value: Any) -> Any:
        return value

    with Flow("other") as other, Stage("raw"):
        one = whole(1)
        whole(one)
    with pytest.raises(FlowError, match="not in flow 'shop'"):
        project.run(shop(project), inputs={one: 1})
    with pytest.raises(SelectionError, match=r"replaces raw.whole\['part'\], but task 'raw.whole__2' reads all of"):
        project.run(other, inputs={one["part"]: 1})


# --- what is published, without a run ------------------------------------------------------------------------------


def test_what_is_published_of_a_task_can_be_had_without_a_run(owned: Project) -> None:
    flow = shop(owned)
    orders, report = flow["raw"]["orders", 0], flow["out"]["report"]
    with owned.config():
        with pytest.raises(CacheError, match=r"Nothing is published of task 'out\.report'"):
            report.get_output_from_store()
        owned.run(flow)
        owned.run(flow, "out.report", inputs={orders[0]: ExternalTableReference("Customers", "crm")})

        assert report.get_output_from_store().rows() == [(1, 5)]
        assert orders[1].get_output_from_store() == 5
        assert orders[0].get_output_from_store(as_type=pd.DataFrame)["id"].tolist() == [1]
        with pytest.raises(UnsupportedValueError, match="no input_type that says how to load them"):
            orders.get_output_from_store()
