"""A flow of many short tasks, as Airflow parses it: STAGES stages of TASKS queries, each of which reads two others."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from pipedag_airflow import Flow, Stage, Table, materialize

WIDTH = 10


@materialize(lazy=True)
def source(number: int) -> Any:
    """Make a table of one row."""
    return Table(sa.select(sa.literal(number).label("x")))


@materialize(lazy=True, input_type=sa.Table)
def add(one: Any, other: Any) -> Any:
    """Join two tables."""
    return Table(sa.select(((one.c.x + other.c.x) % 1_000).label("x")).join_from(one, other, sa.true()))


with Flow("NAME") as flow:
    made: list[Any] = []
    for stage in range(STAGES):  # noqa: F821 - written by the benchmark
        with Stage(f"stage_{stage}"):
            for number in range(TASKS):  # noqa: F821 - likewise
                made.append(add(made[-WIDTH], made[1 - WIDTH]) if len(made) >= WIDTH else source(number))
