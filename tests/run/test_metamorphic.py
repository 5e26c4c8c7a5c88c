"""Random flows: run twice, and nothing is written; change one thing, and exactly what depends on it runs.

What comes from earlier runs in part is what a run makes that has nothing to come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import polars as pl
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from conftest import Project

    from pipedag_airflow import Result

#: Where tasks stand, in the order of wiring: in a stage, around a nested one, in that, and after it.
PLACES = ["first", "around", "nested", "around"]
EAGER = ["table", "value", "blob"]
LAZY = ["query", "script"]


@attrs.frozen
class Node:
    """A task of a random flow: where it stands, what it makes, what it depends on, and the tasks that it reads.

    Attributes:
        place: An index of PLACES.
        kind: What it makes.
        version: Its version; of a lazy task, what stands in its query.
        day: What its cache function returns; 0 if it has none.
        reads: The numbers of the tasks that it reads.
    """

    place: int
    kind: str
    version: int
    day: int
    reads: tuple[int, ...]

    @property
    def stage(self) -> str:
        return PLACES[self.place]


@st.composite
def flows(draw: st.DrawFn) -> list[Node]:
    nodes: list[Node] = []
    for index, place in enumerate(sorted(draw(st.lists(st.integers(0, 3), min_size=3, max_size=8)))):
        reads = draw(st.lists(st.integers(0, index - 1), max_size=2, unique=True)) if index else []
        kind = draw(st.sampled_from(EAGER + LAZY))
        nodes.append(Node(place, kind, 1, draw(st.integers(0, 1)), tuple(reads)))
    return nodes


@st.composite
def edits(draw: st.DrawFn) -> tuple[list[Node], int, Node]:
    """A flow, the number of one of its tasks, and what becomes of that task."""
    nodes = draw(flows())
    changed = draw(st.integers(0, len(nodes) - 1))
    node = nodes[changed]
    by_cache_function = node.day and draw(st.booleans())
    return nodes, changed, attrs.evolve(node, **({"day": 2} if by_cache_function else {"version": 2}))


def build(project: Project, nodes: list[Node]) -> Flow:
    """A flow in which each task adds a number of its own to the sum of what it reads."""
    made: list[Any] = []

    def wire(place: int, *before: Any) -> None:
        for index, node in enumerate(nodes):
            if node.place == place:
                made.append(task_of(project, index, node)(*before, *(made[source] for source in node.reads)))

    with Flow("random") as flow:
        with Stage("first") as first:
            wire(0, first)
        with Stage("around") as around:
            wire(1, around)
            with Stage("nested") as nested:
                wire(2, nested)
            wire(3, around)
    return flow


def own(index: int, node: Node) -> int:
    return 100 * index + 10 * node.day + node.version


def number_in(given: Any) -> Any:
    """Return the number in what a task reads, or the expression of SQL for it."""
    if isinstance(given, RawSql):
        (given,) = dict(given.items()).values()
    if isinstance(given, pl.DataFrame):
        return given["x"].item()
    return given if isinstance(given, int) else sa.select(given.c.x).scalar_subquery()


def text_of(given: Any) -> str:
    """Return the text of SQL for the number in what a script reads."""
    if isinstance(given, RawSql):
        (given,) = dict(given.items()).values()
    if isinstance(given, int):
        return str(given)
    return f'(select x from "{given.original.schema}"."{given.original.name}")'


def task_of(project: Project, index: int, node: Node) -> Any:
    name, number = f"task_{index}", own(index, node)
    cache = (lambda *_: node.day) if node.day else None

    @materialize(name=name, lazy=True, input_type=sa.Table, cache=cache)
    def lazy(stage: Stage, *inputs: Any) -> Any:
        if node.kind == "script":
            total = " + ".join([str(number), *map(text_of, inputs)])
            return RawSql(f"create table {stage.current_name}.{name} as select cast({total} as bigint) as x", name)
        query = sum(map(number_in, inputs), sa.literal(number))
        return Table(sa.select(sa.cast(query, sa.BigInteger).label("x")), name)

    @materialize(name=name, version=str(node.version), input_type=pl.DataFrame, cache=cache)
    def eager(stage: Stage, *inputs: Any) -> Any:
        project.call(name)
        total = sum(map(number_in, inputs), number)
        return {"table": Table(pl.DataFrame({"x": [total]}), name), "blob": Blob(total, name)}.get(node.kind, total)

    return lazy if node.kind in LAZY else eager


def expected(nodes: list[Node]) -> list[int]:
    values: list[int] = []
    for index, node in enumerate(nodes):
        values.append(own(index, node) + sum(values[source] for source in node.reads))
    return values


def dependants(nodes: list[Node], changed: int) -> set[int]:
    found = {changed}
    for index, node in enumerate(nodes):
        if found.intersection(node.reads):
            found.add(index)
    return found


def results(result: Result, nodes: list[Node]) -> list[Any]:
    """Return what each task has made as a user gets it, in the order of the numbers of tasks."""
    tasks = {task.name: task for task in result.task_states}
    found = []
    for index in range(len(nodes)):
        value = result.get(tasks[f"task_{index}"], as_type=pl.DataFrame)
        value = dict(value.items()) if isinstance(value, RawSql) else value
        found.append(value)
    return found


def published(project: Project, nodes: list[Node]) -> list[int]:
    """Return the numbers in tables as readers see them who know nothing of us."""
    tables = [f"{node.stage}.task_{index}" for index, node in enumerate(nodes) if node.kind in ("table", *LAZY)]
    return [value for table in tables for (value,) in project.query(f"select x from {table}")]


def written(project: Project) -> list[Any]:
    """Return what is remembered of what readers see, and all tables and views that are there.

    A run that finds only late that nothing changed has rows of its own, in a generation that is never published: a
    query from a blob is not looked at ahead. These are left out.
    """
    live = "join pipedag_metadata.stage as shown on shown.stage = r.stage and shown.live = r.generation"
    queries = [f"select r.* from pipedag_metadata.{table} as r {live}" for table in ("task", "object")]
    queries += ["select * from pipedag_metadata.event", "select stage, live from pipedag_metadata.stage"]
    return [sorted(project.objects("*")), *(sorted(map(repr, project.query(query))) for query in queries)]


def check(new_project: Callable[[], AbstractContextManager[Project]], edit: tuple[list[Node], int, Node]) -> None:
    nodes, changed, into = edit
    edited = [*nodes[:changed], into, *nodes[changed + 1 :]]
    tables = [index for index, node in enumerate(nodes) if node.kind in ("table", *LAZY)]

    with new_project() as project:
        project.run(build(project, nodes))
        assert published(project, nodes) == [expected(nodes)[index] for index in tables]
        before = written(project)

        project.run(build(project, nodes))
        assert (project.called, written(project)) == ([], before)

        result = project.run(build(project, edited))
        affected = sorted(dependants(nodes, changed))
        assert {task.name for task, decision in result.decisions.items() if not decision.valid} == {
            f"task_{index}" for index in affected
        }
        assert project.called == [f"task_{index}" for index in affected if nodes[index].kind in EAGER]
        assert published(project, edited) == [expected(edited)[index] for index in tables]
        in_part_cached = results(result, edited)

    with new_project() as project:
        assert repr(results(project.run(build(project, edited)), edited)) == repr(in_part_cached)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(edit=edits())
def test_exactly_what_depends_on_a_change_is_made_again(
    new_project: Callable[[str], AbstractContextManager[Project]], edit: tuple[list[Node], int, Node]
) -> None:
    check(lambda: new_project("duckdb"), edit)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(edit=edits())
def test_so_it_is_in_postgres(
    new_project: Callable[[str], AbstractContextManager[Project]], edit: tuple[list[Node], int, Node]
) -> None:
    check(lambda: new_project("postgres"), edit)
