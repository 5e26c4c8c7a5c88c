"""Columns that may not hold NULL, from one run to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, Stage, Table, materialize

if TYPE_CHECKING:
    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")

IS_NULLABLE = """
    select column_name, is_nullable from information_schema.columns
    where table_name = 'people' and table_schema = 'clean__g1' order by ordinal_position
"""


def people(project: Project, *, extra: int = 1, non_nullable: tuple[str, ...] = ("id",)) -> Flow:
    """A lazy table with constraints, another table beside it, and a reader that notes what it is told."""

    @materialize(lazy=True)
    def people() -> Table[Any]:
        return Table(sa.text("SELECT 1 AS id, 'x' AS name"), "people", non_nullable=list(non_nullable))

    @materialize(version="1")
    def beside(value: int) -> Table[Any]:
        return Table(pd.DataFrame({"x": [value]}), "beside")

    @materialize(version=None, input_type=sa.Table)
    def reader(table: Any) -> None:
        project.call(", ".join(f"{column.name}: {column.nullable}" for column in table.c))

    with Flow("people") as flow:
        with Stage("clean"):
            made = people()
            beside(extra)
        with Stage("read"):
            reader(made)
    return flow


def test_10_35_a_table_that_is_carried_over_keeps_its_nullability(project: Project) -> None:
    project.settings["stage_commit_technique"] = "read_views"  # which leave a table where it was made
    assert project.executed(people(project)) == ["id: False, name: True"]
    assert project.executed(people(project, extra=2)) == ["id: False, name: True"]
    assert project.query(IS_NULLABLE) == [("id", "NO"), ("name", "YES")]


def test_a_lazy_table_whose_nullability_changes_is_made_anew(project: Project) -> None:
    project.run(people(project))
    assert project.executed(people(project, non_nullable=("id", "name"))) == ["id: False, name: False"]
