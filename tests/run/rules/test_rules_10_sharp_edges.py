"""Rules of section 10 that are no case of another rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import duckdb
import pandas as pd
import polars as pl
import psycopg
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, PipedagConfig, Stage, Table, View, materialize

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project


on_both_databases = pytest.mark.databases("duckdb", "postgres")


@on_both_databases
def test_2_5_and_10_10_valid_tables_are_shown_beside_those_that_are_made_anew_however_many_they_are(
    project: Project,
) -> None:
    def flow(value: int) -> Flow:
        @materialize(version="1")
        def kept(number: int) -> Table[Any]:
            project.call("kept")
            return Table(pd.DataFrame({"x": [number]}), f"kept_{number}", primary_key="x")

        @materialize(version="1")
        def changed(value: int) -> Table[Any]:
            project.call("changed")
            return Table(pd.DataFrame({"x": [value]}), "changed")

        with Flow("partly") as flow:
            for count in (1, 2, 15):
                with Stage(f"with_{count}"):
                    for number in range(count):
                        kept(number)
                    changed(value)
        return flow

    project.run(flow(1))
    assert project.executed(flow(2)) == ["changed"] * 3
    for count in (1, 2, 15):
        tables = " union all ".join(f"select x from with_{count}.kept_{number}" for number in range(count))
        assert sorted(project.query(tables)) == [(number,) for number in range(count)]
        assert project.query(f"select x from with_{count}.changed") == [(2,)]


@on_both_databases
@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, [2, 2]),
        ({"version": "1"}, [2, 0]),
        ({"version": "1", "cache": lambda: 1}, [2, 0]),
        # The function of a lazy task is called wherever it stands, to see its query; the table is made once.
        ({"lazy": True}, [3, 3]),
    ],
    ids=["no version", "version", "cache function", "lazy"],
)
def test_10_7_the_same_call_is_one_in_a_stage_and_another_one_in_another_stage(
    project: Project, options: dict[str, Any], calls: list[int]
) -> None:
    project.settings["begin_query_seconds"] = 0  # a lazy task is not called ahead

    @materialize(**options)
    def numbers() -> Table[Any]:
        project.call("numbers")
        return Table(sa.text("select 1 as x"), "numbers")

    for called in calls:
        with Flow("memo") as flow:
            with Stage("one"):
                numbers(), numbers()
            with Stage("two"):
                numbers()
        result = project.run(flow)
        assert project.called == ["numbers"] * called
        assert project.tables(result) == {"one": {"numbers": 1}, "two": {"numbers": 1}}


@on_both_databases
def test_10_33_a_stage_is_published_though_a_view_that_readers_see_of_it_is_broken(project: Project) -> None:
    if "duckdb" in project.database.url:
        make, breaks = "create macro crm.numbers() as table select 1 as x", "drop macro table crm.numbers"
    else:
        function = "create or replace function crm.numbers() returns table (x int) language"
        make, breaks = f"{function} sql as 'select 1'", f"{function} plpgsql as 'begin raise division_by_zero; end'"

    def flow(kind: Any, query: str) -> Flow:
        with Flow("broken") as flow, Stage("one"):
            materialize(name="make", lazy=True)(lambda: kind(sa.text(query), "shown"))()
        return flow

    project.database.execute("create schema crm")
    project.database.execute(make)
    project.run(flow(View, "select x from crm.numbers()"))
    assert project.query("select x from one.shown") == [(1,)]
    project.database.execute(breaks)
    with pytest.raises((duckdb.CatalogException, psycopg.errors.DivisionByZero)):
        project.query("select x from one.shown")

    project.run(flow(Table, "select 2 as x"))
    assert project.query("select x from one.shown") == [(2,)]


def test_10_27_annotations_of_one_consumer_change_nothing_for_another_one(project: Project) -> None:
    def flow(*, with_annotated: bool) -> Flow:
        @materialize(version="1", input_type=pl.DataFrame)
        def annotated(table: pl.DataFrame) -> int:
            project.call("annotated")
            return table.height

        @materialize(version="1", input_type=pl.DataFrame)
        def plain(table):  # type: ignore[no-untyped-def]  # that it has none is the point
            project.call("plain")
            return table.height

        with Flow("annotations") as flow, Stage("one"):
            made = materialize(name="make", lazy=True)(lambda: Table(sa.text("select 1 as x"), "made"))()
            if with_annotated:
                annotated(made)
            plain(made)
        return flow

    assert project.executed(flow(with_annotated=True)) == ["annotated", "plain"]
    assert project.executed(flow(with_annotated=False)) == []


def test_10_38_one_instance_that_is_described_in_four_ways_is_one_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WHERE", str(tmp_path))
    (tmp_path / "attributes.yaml").write_text(f"folder: {tmp_path}\nfile: data")
    url, prefix = f"duckdb:///{tmp_path}/data.duckdb", "full_"

    def described(store: dict[str, Any], **more: Any) -> Any:
        section = {"instance_id": "full", "table_store": {"class": "pipedag_airflow.backend.table.SQLTableStore"}}
        return PipedagConfig({"instances": {"full": section | {"table_store": section["table_store"] | store}}} | more)

    plain = described({"args": {"url": url, "schema_prefix": prefix}})
    from_environment = described({"args": {"url": "duckdb:///{$WHERE}/data.duckdb", "schema_prefix": "{instance_id}_"}})
    from_file = described(
        {
            "args": {
                "url": "duckdb:///{folder}/{file}.duckdb",
                "url_attrs_file": "{$WHERE}/attributes.yaml",
                "schema_prefix": prefix,
            }
        }
    )
    of_the_flow = described(
        {"args": {"url": url, "schema_prefix": "other_"}},
        flows={"shop": {"instances": {"full": {"table_store": {"args": {"schema_prefix": prefix}}}}}},
    )
    file = tmp_path / "pipedag.yaml"
    file.write_text(
        f"""
        _shared: &store
          class: pipedag_airflow.backend.table.SQLTableStore
          args: {{url: "{url}", schema_prefix: {prefix}}}
        instances:
          full: {{instance_id: full, table_store: *store}}
        """
    )

    stores = [
        config.get("full", flow="shop").table_store
        for config in (plain, from_environment, from_file, of_the_flow, PipedagConfig(file))
    ]
    assert {(str(store.url), store.schema("x")) for store in stores} == {(url, "full_x")}
