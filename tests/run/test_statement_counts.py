"""What a run in which everything is valid asks of the database does not depend on how many tasks there are."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, RawSql, Stage, Table, materialize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Project

pytestmark = pytest.mark.databases("duckdb", "postgres")

#: Tasks of each kind in a stage.
FEW, MANY = 1, 8


@materialize(version="1")
def literal(number: int) -> int:
    return number


@materialize(version="1")
def table(number: int) -> Table[Any]:
    return Table(sa.text(f"SELECT {number} AS n"), f"table_{number}")


@materialize(lazy=True)
def query(number: int) -> Table[Any]:
    return Table(sa.text(f"SELECT {number} AS n"), f"query_{number}")


@materialize(lazy=True, input_type=sa.Table)
def following(before: sa.Table, number: int) -> Table[Any]:
    return Table(sa.select(before.c.n + 1), f"following_{number}")


@materialize(lazy=True)
def script(stage: Any, number: int) -> RawSql:
    return RawSql(f"CREATE TABLE {stage.transaction_name}.script_{number} AS SELECT {number} AS n")


def flow_of(number: int) -> Flow:
    with Flow("counted") as flow, Stage("data") as stage:
        for index in range(number):
            literal(index)
            table(index)
            following(query(index), index)
            script(stage, index)
    return flow


@contextmanager
def sent() -> Iterator[list[str]]:
    """Give the statements that any database gets in the block; one of many rows stands there once for each."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        statements.extend([statement] * (len(parameters) if many else 1))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)


def test_an_unchanged_run_sends_as_many_statements_for_few_tasks_as_for_many(project: Project) -> None:
    def unchanged(number: int) -> list[str]:
        project.run(flow_of(number))
        with sent() as statements:
            assert project.run(flow_of(number)).successful
        return statements

    few, many = unchanged(FEW), unchanged(MANY)
    assert len(few) == len(many), "\n".join(many)
