"""Tasks that receive and return Ibis expressions: what is stored, and what makes them run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ibis
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import ExternalTableReference, Flow, RawSql, Stage, Table, View, materialize
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")


@materialize(version="1", input_type=pl.DataFrame)
def rows(tables: list[pl.DataFrame]) -> list[Any]:
    return [sorted(table.rows()) for table in tables]


def report(
    project: Project, expression: Callable[..., Any], *, name: str = "orders", prices: tuple[int, ...] = (1, 5)
) -> Flow:
    """Two tables of one stage, a lazy task that makes an expression of them in another, and its consumer."""

    @materialize(lazy=True)
    def orders() -> Table[Any]:
        orders = enumerate(prices, 1)
        rows = [sa.select(sa.literal(number).label("id"), sa.literal(price).label("price")) for number, price in orders]
        return Table(sa.union_all(*rows), name)

    @materialize(version="1")
    def names() -> Table[Any]:
        return Table(pl.DataFrame({"id": [1, 2], "name": ["x", "y"]}), "names")

    @materialize(lazy=True, input_type=ibis.Table)
    def lazy(orders: ibis.Table, names: ibis.Table) -> Any:
        return Table(expression(orders, names), "report")

    @materialize(version="1", input_type=pl.DataFrame)
    def reader(table: pl.DataFrame) -> list[Any]:
        project.call("reader")
        return sorted(table.rows())

    with Flow("report") as flow:
        with Stage("raw"):
            tables = orders(), names()
        with Stage("mart"):
            reader(lazy(*tables))
    return flow


def joined(orders: ibis.Table, names: ibis.Table, least: int = 2, text: str = "A") -> ibis.Table:
    return orders.join(names, "id").filter(ibis._.price >= least).select("name", "price", text=ibis.literal(text))


def test_an_expression_of_two_stages_tables_is_stored_and_then_valid(project: Project) -> None:
    result = project.run(report(project, joined))
    assert result.get(result.flow["mart"]["reader"]) == [("y", 5, "A")]
    assert project.query("select name, price from mart.report") == [("y", 5)]
    assert project.executed(report(project, joined)) == []


@pytest.mark.parametrize(
    ("edit", "runs"),
    [
        ({"expression": lambda *tables: joined(*tables, least=1)}, True),
        ({"expression": lambda *tables: joined(*tables, text="a")}, True),
        ({"expression": lambda *tables: joined(*tables).order_by("price")}, True),
        ({"prices": (1, 6)}, True),
        ({"name": "renamed"}, False),
        ({"expression": lambda orders, names: joined(orders, names)}, False),
    ],
    ids=["a literal", "the case of a text", "an order", "a table", "the name of a table", "another function"],
)
def test_an_expression_runs_again_for_what_it_says_and_what_its_tables_are(
    project: Project, edit: dict[str, Any], runs: bool
) -> None:
    project.run(report(project, joined))
    assert project.executed(report(project, **{"expression": joined} | edit)) == ["reader"] * runs


def test_tables_that_change_places_in_an_expression_make_it_run(project: Project) -> None:
    def flow(*order: int) -> Flow:
        @materialize(lazy=True)
        def number(value: int, name: str) -> Table[Any]:
            return Table(sa.select(sa.literal(value).label("x")), name)

        @materialize(lazy=True, input_type=ibis.Table)
        def difference(tables: list[ibis.Table]) -> Table[Any]:
            left, right = (tables[index] for index in order)
            return Table(left.cross_join(right).select(x=left.x - right.x), "difference")

        with Flow("places") as flow, Stage("one"):
            difference([number(5, "five"), number(3, "three")])
        return flow

    for order, expected in (((0, 1), 2), ((1, 0), -2), ((1, 1), 0)):
        project.run(flow(*order))
        assert project.query("select x from one.difference") == [(expected,)]


def test_results_of_any_kind_of_task_and_place_are_expressions(project: Project) -> None:
    project.settings["auto_table"] = ["ibis.api.Table"]
    project.database.execute("create schema theirs")
    project.database.execute("create table theirs.seeds as select 7 as x")

    @materialize(version="1", input_type=ibis.Table)
    def eager(table: ibis.Table) -> dict[str, Any]:
        return {"unnamed": table.mutate(y=table.x * 2), "named": [table.filter(table.x > 1).alias("large")]}

    @materialize(lazy=True, input_type=ibis.Table)
    def shown(table: ibis.Table) -> View[Any]:
        return View(table.select("x"), "shown")

    @materialize(lazy=True, input_type=ibis.Table)
    def of_script(script: RawSql) -> Table[Any]:
        return Table(script["made"], "copied")

    @materialize(lazy=True)
    def script(stage: Stage) -> RawSql:
        return RawSql(f"create table {stage.transaction_name}.made as select 3 as x", "script")

    with Flow("kinds") as flow, Stage("one") as stage:
        seeds = ExternalTableReference("seeds", "theirs")
        results = eager(seeds)
        rows([results["unnamed"], results["named"][0], shown(results["unnamed"]), of_script(script(stage))])
    result = project.run(flow)

    assert result.get(flow["one"]["rows"]) == [[(7, 14)], [(7,)], [(7,)], [(3,)]]
    assert "large" in project.tables(result)["one"]
    assert project.objects("one__g*", "VIEW") <= {"one__g1.shown"}
    assert project.executed(flow) == []


def test_a_table_that_is_materialized_within_a_task_is_one_of_ibis(project: Project) -> None:
    def flow(low: int) -> Flow:
        @materialize(version="1")
        def source() -> Table[Any]:
            return Table(pl.DataFrame({"x": [1, 2, 3]}), "source")

        @materialize(lazy=True, input_type=ibis.Table)
        def steps(table: ibis.Table) -> list[Any]:
            first = Table(table.filter(table.x > low), "first", primary_key="x").materialize()
            assert isinstance(first, ibis.Table)
            return [first, Table(first.mutate(y=first.x + 1), "second")]

        with Flow("steps") as flow, Stage("one"):
            rows(steps(source()))
        return flow

    for low, expected in ((1, [[(2,), (3,)], [(2, 3), (3, 4)]]), (2, [[(3,)], [(3, 4)]])):
        result = project.run(flow(low))
        assert result.get(result.flow["one"]["rows"]) == expected
    assert {state.name for state in project.run(flow(2)).task_states.values()} == {"CACHE_VALID"}


def test_a_task_that_wants_the_data_of_an_expression_is_told_what_to_do(project: Project) -> None:
    @materialize(version="1")
    def source() -> Table[Any]:
        return Table(pl.DataFrame({"x": [1, 2, 3]}), "source")

    @materialize(version="1", input_type=ibis.Table)
    def wanting(table: ibis.Table) -> int:
        return int(table.count().execute())

    with Flow("wanting") as flow, Stage("one"):
        wanting(source())
    with pytest.raises(UnsupportedValueError, match=r"one\.source has no connection .*polars\.DataFrame"):
        project.run(flow)


def test_a_result_can_be_had_as_an_expression(project: Project) -> None:
    result = project.run(report(project, joined))
    table = result.get(result.flow["mart"]["lazy"], as_type=ibis.Table)
    assert table.columns == ("name", "price", "text")
