"""DuckDB's file is not kept from others while code of the user runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import FairFileLock

if TYPE_CHECKING:
    from conftest import Project


@pytest.mark.parametrize("seconds", [20, 0], ids=["lazy task judged in begin", "in its own step"])
def test_the_database_is_free_while_functions_of_the_user_run(project: Project, seconds: float) -> None:
    project.settings["begin_query_seconds"] = seconds

    def open_the_file(name: str) -> str:
        project.call(name)
        with FairFileLock(project.folder / "pipeline.duckdb", timeout=0):
            return name

    @materialize(version="1", cache=lambda: open_the_file("cache function"))
    def source() -> Table[Any]:
        open_the_file("source")
        return Table(pl.DataFrame({"x": [1]}), "source")

    @materialize(lazy=True, input_type=sa.Table)
    def query(source: sa.Table) -> Table[Any]:
        open_the_file("query")
        return Table(sa.select(source), "query")

    @materialize(input_type=pl.DataFrame)
    def value(frame: pl.DataFrame) -> int:
        open_the_file("value")
        return frame.height

    with Flow("free") as flow:
        with Stage("one"):
            made = query(source())
        with Stage("two"):
            value(made)

    assert project.executed(flow) == ["cache function", "source", "query", "value"]
    assert project.executed(flow) == ["cache function", "query", "value"]
