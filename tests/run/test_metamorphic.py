"""Random flows: run twice, and nothing is written; change one thing, and exactly what depends on it runs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow import Flow, Stage, Table, materialize

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project


@attrs.frozen
class Node:
    """A task of a random flow: its stage, its kind, its version and the tasks that it reads."""

    stage: int
    lazy: bool
    version: int
    reads: tuple[int, ...]


@st.composite
def flows(draw: st.DrawFn) -> list[Node]:
    stages = sorted(draw(st.lists(st.integers(0, 2), min_size=2, max_size=6)))
    nodes: list[Node] = []
    for index, stage in enumerate(stages):
        reads = draw(st.lists(st.integers(0, index - 1), max_size=2, unique=True)) if index else []
        nodes.append(Node(stage, draw(st.booleans()), 1, tuple(reads)))
    return nodes


def build(project: Project, nodes: list[Node]) -> Flow:
    """A flow in which each task adds its own number and version to the sum of what it reads."""
    made: list[Any] = []
    with Flow("random") as flow:
        for stage in sorted({node.stage for node in nodes}):
            with Stage(f"stage_{stage}"):
                for index, node in enumerate(nodes):
                    if node.stage == stage:
                        made.append(task_of(project, index, node)(*(made[source] for source in node.reads)))
    return flow


def task_of(project: Project, index: int, node: Node) -> Any:
    name, own = f"task_{index}", 100 * index + node.version

    @materialize(name=name, lazy=True, input_type=sa.Table)
    def lazy(*tables: Any) -> Table[Any]:
        total = sum((sa.select(table.c.x).scalar_subquery() for table in tables), sa.literal(own))
        return Table(sa.select(sa.cast(total, sa.BigInteger).label("x")), name)

    @materialize(name=name, version=str(node.version), input_type=pl.DataFrame)
    def eager(*tables: pl.DataFrame) -> Table[Any]:
        project.call(name)
        return Table(pl.DataFrame({"x": [own + sum(table["x"][0] for table in tables)]}), name)

    return lazy if node.lazy else eager


def expected(nodes: list[Node]) -> list[int]:
    values: list[int] = []
    for index, node in enumerate(nodes):
        values.append(100 * index + node.version + sum(values[source] for source in node.reads))
    return values


def dependants(nodes: list[Node], changed: int) -> set[int]:
    found = {changed}
    for index, node in enumerate(nodes):
        if found.intersection(node.reads):
            found.add(index)
    return found


def published(project: Project, nodes: list[Node]) -> list[int]:
    return [
        value
        for index, node in enumerate(nodes)
        for (value,) in project.query(f"select x from stage_{node.stage}.task_{index}")
    ]


def places(project: Project) -> dict[str, str]:
    """Where the data of each table are: a table that was not made again has not moved."""
    rows = project.query(
        "select name, container from pipedag_metadata.object join pipedag_metadata.stage using (stage)"
        " where generation = live"
    )
    return dict(rows)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=flows(), data=st.data())
def test_exactly_what_depends_on_a_change_is_made_again(
    project_in: Callable[[Path], Project], nodes: list[Node], data: st.DataObject
) -> None:
    changed = data.draw(st.integers(0, len(nodes) - 1))
    with TemporaryDirectory() as folder:
        project = project_in(Path(folder))
        first = project.generations(project.run(build(project, nodes)))
        assert published(project, nodes) == expected(nodes)

        second = project.generations(project.run(build(project, nodes)))
        assert (project.called, second) == ([], first)
        before = places(project)

        edited = list(nodes)
        edited[changed] = attrs.evolve(nodes[changed], version=2)
        project.run(build(project, edited))
        affected = dependants(nodes, changed)
        after = places(project)
        assert published(project, edited) == expected(edited)
        assert {f"task_{index}" for index in affected} == {name for name in after if after[name] != before[name]}
        assert project.called == [f"task_{index}" for index in sorted(affected) if not nodes[index].lazy]
