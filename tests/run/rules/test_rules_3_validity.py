"""What makes a result valid: rules 3.1 to 3.9, as runs show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Blob, ExternalTableReference, Flow, Stage, Table, materialize
from pipedag_airflow.errors import ExternalTableError

if TYPE_CHECKING:
    from conftest import Project

on_both_databases = pytest.mark.databases("duckdb", "postgres")


def consumer(project: Project, name: str) -> Any:
    """A task of one argument that is valid for as long as its argument is the same."""

    @materialize(name=name, version="1", input_type=pl.DataFrame)
    def consume(value: Any) -> int:
        project.call(name)
        return len(value) if hasattr(value, "__len__") else 0

    return consume


def states(project: Project, flow: Flow) -> dict[str, str]:
    """Run the flow and return what became of each task."""
    return {task.name: state.name for task, state in project.run(flow).task_states.items()}


# --- 3.1, 3.2 and 3.3: identity and look-up -----------------------------------------------------------------------


@on_both_databases
def test_3_2_and_10_1_consumers_follow_a_table_that_is_made_anew_and_a_literal_that_is_another_one(
    project: Project,
) -> None:
    def flow(
        version: str = "1",
        literal: Any = 1,
        argument: Any = None,
        name: str = "made",
        index: str = "x",
        key: str | None = None,
        flow_name: str = "identity",
    ) -> Flow:
        @materialize(version=version)
        def table() -> Table[Any]:
            project.call("table")
            return Table(pd.DataFrame({"x": [1], "y": [2]}), "table", primary_key=key)

        @materialize(version=version)
        def value() -> Any:
            project.call("value")
            return literal

        @materialize(lazy=True)
        def query() -> Table[Any]:
            return Table(sa.text("select 1 as x, 2 as y"), name, indexes=[[index]])

        with Flow(flow_name) as flow:
            with Stage("source"):
                sources = {"table": table(), "value": value(), "query": query()}
            with Stage("use"):
                for kind, source in sources.items():
                    consumer(project, f"of {kind}")(source)
                consumer(project, "of argument")(argument or {"a": [1, 2], "b": 3})
        return flow

    def executed(**edit: Any) -> list[str]:
        return project.executed(flow(**edit))

    assert executed() == ["table", "value", "of table", "of value", "of query", "of argument"]
    # An equal literal is the same input, whoever made it; a table is another one if it was made anew.
    assert executed(version="2") == ["table", "value", "of table"]
    # Code without a new version changes nothing, nor does the name of the flow.
    assert executed(version="2", key="x", flow_name="other") == []
    assert executed(version="3", literal=5) == ["table", "value", "of table", "of value"]
    assert executed(version="3", literal=5, index="y") == ["of query"]
    # Neither the name of a table counts, nor the order of a dict, nor whether it is a list or a tuple.
    assert executed(version="3", index="y", name="renamed", argument={"b": 3, "a": (1, 2)}) == []
    assert executed(version="3", index="y", argument={"b": 3, "a": (2, 1)}) == ["of argument"]


@on_both_databases
def test_3_3_and_10_9_one_result_is_kept_and_without_a_version_there_is_always_another_one(project: Project) -> None:
    def flow(version: str | None) -> Flow:
        @materialize(version=version)
        def both() -> dict[str, Any]:
            project.call("both")
            return {"table": Table(pd.DataFrame({"x": [1]}), "made"), "literal": 1}

        with Flow("look-up") as flow:
            with Stage("source"):
                made = both()
            with Stage("use"):
                consumer(project, "of table")(made["table"])
                consumer(project, "of literal")(made["literal"])
        return flow

    assert project.executed(flow("1")) == ["both", "of table", "of literal"]
    assert project.executed(flow("2")) == ["both", "of table"]
    assert project.executed(flow("1")) == ["both", "of table"], "only the results of the last run are kept"
    assert project.executed(flow("1")) == []
    for _ in range(2):
        assert project.executed(flow(None)) == ["both", "of table"]


@on_both_databases
def test_3_3_and_10_6_a_task_that_moves_to_another_stage_runs_and_consumers_of_its_table_and_blob_follow(
    project: Project,
) -> None:
    def flow(place: str) -> Flow:
        @materialize(version="1", nout=3)
        def make() -> tuple[Any, ...]:
            project.call("make")
            return 1, Table(pd.DataFrame({"x": [1]}), "made"), Blob([1], "blob")

        @materialize(version="1")
        def stays() -> int:
            project.call("stays")
            return 1

        with Flow("move") as flow:
            made: tuple[Any, ...] = ()
            for name in ("one", "two"):
                with Stage(name):
                    stays()
                    made = make() if name == place else made
            with Stage("use"):
                for kind, part in zip(("literal", "table", "blob"), made, strict=True):
                    consumer(project, f"of {kind}")(part)
        return flow

    assert project.executed(flow("one")) == ["stays", "make", "stays", "of literal", "of table", "of blob"]
    assert project.executed(flow("two")) == ["make", "of table", "of blob"]
    assert ("one", "made") not in project.query(project.database.tables)
    assert project.executed(flow("two")) == []


# --- 3.4 and 3.5: lazy tasks --------------------------------------------------------------------------------------


@on_both_databases
def test_3_4_and_3_5_and_10_2_each_table_of_a_lazy_task_is_judged_by_its_own_query(project: Project) -> None:
    def flow(limit: int, arguments: int = 0) -> Flow:
        @materialize(version="1")
        def source() -> Table[Any]:
            return Table(pd.DataFrame({"x": [1, 2, 3]}), "source")

        @materialize(lazy=True, input_type=sa.Table)
        def two(table: Any, _: int) -> dict[str, Any]:
            project.call("two")
            some = sa.select(table.c.x).where(table.c.x <= limit)
            return {"some": Table(some, "some"), "all": Table(table, "everything"), "literal": 7}

        @materialize(lazy=True)
        def literal() -> int:
            project.call("literal")
            return 7

        with Flow("lazy") as flow:
            with Stage("raw"):
                table = source()
            with Stage("lazy"):
                made = two(table, arguments)
                literal()
            with Stage("use"):
                for name in ("some", "all", "literal"):
                    consumer(project, f"of {name}")(made[name])
        return flow

    def run(*edit: int) -> tuple[list[str], str]:
        state = states(project, flow(*edit))["two"]
        return sorted({*project.called} - {"two", "literal"}), state

    assert run(1) == (["of all", "of literal", "of some"], "COMPLETED")
    assert {"two", "literal"} <= {*project.called}
    assert run(1) == ([], "CACHE_VALID")
    assert "two" in project.called
    assert run(2) == (["of some"], "COMPLETED")
    assert project.query("select count(*) from lazy.some") == [(2,)]
    # Another argument is another call, even if the queries are the same.
    assert run(2, 1) == (["of all", "of some"], "COMPLETED")


@on_both_databases
def test_3_4_and_10_3_what_cannot_be_compared_is_made_in_every_run_and_what_stands_beside_it_is_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> str:
        raise OverflowError("too large")

    monkeypatch.setattr("pipedag_airflow.run.outputs.content_hash", refuse)

    def flow() -> Flow:
        @materialize(lazy=True, nout=2)
        def both() -> tuple[Any, Any]:
            return Table(pd.DataFrame({"x": [1]}), "frame"), Table(sa.text("select 1 as x"), "query")

        with Flow("poison") as flow, Stage("one"):
            for kind, part in zip(("frame", "query"), both(), strict=True):
                consumer(project, f"of {kind}")(part)
        return flow

    assert project.executed(flow()) == ["of frame", "of query"]
    for _ in range(2):
        assert project.executed(flow()) == ["of frame"]


# --- 3.7: cache functions -----------------------------------------------------------------------------------------


@on_both_databases
def test_3_7_and_10_5_another_result_of_a_cache_function_makes_values_tables_and_blobs_anew(project: Project) -> None:
    def flow(day: int) -> Flow:
        @materialize(version="1", cache=lambda: day, nout=3)
        def fetch() -> tuple[Any, ...]:
            project.call("fetch")
            return day, Table(pd.DataFrame({"x": [1]}), "made"), Blob([1], "blob")

        with Flow("fresh") as flow:
            with Stage("source"):
                made = fetch()
            with Stage("use"):
                for kind, part in zip(("value", "table", "blob"), made, strict=True):
                    consumer(project, f"of {kind}")(part)
        return flow

    everything = ["fetch", "of value", "of table", "of blob"]
    assert project.executed(flow(1)) == everything
    assert project.executed(flow(1)) == []
    assert project.executed(flow(2)) == everything


# --- 3.9: tables of somebody else's -------------------------------------------------------------------------------


@on_both_databases
def test_3_9_and_5_6_and_10_30_an_external_table_has_to_be_there_and_counts_by_its_name_and_call(
    project: Project,
) -> None:
    project.database.execute("create schema crm")
    project.database.execute('create table crm."Customers" as select 7 as id')
    project.database.execute('create view crm.recent as select id from crm."Customers"')

    def flow(name: str, schema: str = "crm", day: int = 1) -> Flow:
        @materialize(version="1", cache=lambda *_: day)
        def refer(name: str) -> list[Any]:
            reference = ExternalTableReference(name, schema)
            return [Table(reference), Table(reference)]  # one table twice is one table

        @materialize(version="1", input_type=pl.DataFrame)
        def read(tables: list[pl.DataFrame], wired: pl.DataFrame) -> list[int]:
            project.call("read")
            return [table["id"].item() for table in (*tables, wired)]

        with Flow("external") as flow:
            with Stage("source"):
                tables = refer(name)
            with Stage("use"):
                read(tables, ExternalTableReference("recent", "crm"))
        return flow

    first = flow("Customers")
    assert project.run(first).get(first["use"]["read"]) == [7, 7, 7]
    project.database.execute('update crm."Customers" set id = 8')
    assert project.executed(flow("Customers")) == [], "what is in the table is not looked at"
    assert project.executed(flow("Customers", day=2)) == ["read"]
    assert project.executed(flow("recent", day=2)) == ["read"]

    for name, schema in [("absent", "crm"), ("anything", "SOURCE")]:
        with pytest.raises(ExternalTableError, match=rf"(?i){schema}\.{name}") as error:
            project.run(flow(name, schema))
        assert isinstance(error.value, ValueError)
