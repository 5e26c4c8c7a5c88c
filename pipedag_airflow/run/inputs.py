"""The arguments of a task: references become values, descriptors become tables and objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_input
from pipedag_airflow.cache.auto_version import check_blob
from pipedag_airflow.core.containers import Blob, ExternalTableReference, RawSql, Table
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.core.values import deep_map
from pipedag_airflow.errors import CacheError
from pipedag_airflow.run.versions import with_versions

if TYPE_CHECKING:
    import inspect
    from collections.abc import Iterable

    import sqlalchemy as sa

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.backend.table.sql.facts import TableLocation
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = [
    "bind",
    "check_unselected_inputs",
    "load_arguments",
    "missing_inputs",
    "needs_no_data",
    "reads_open",
    "resolve_arguments",
]


def missing_inputs(task: Task, snapshot: Snapshot) -> list[str]:
    """Return the ids of the tasks whose results are arguments, but not there yet."""
    sources = snapshot.session.overrides.sources(task)
    return [source.id for source in sources if snapshot.output_row(source.id) is None]


def check_unselected_inputs(session: RunSession, nodes: Iterable[str], snapshot: Snapshot) -> None:
    """Check that what the nodes read, but the run does not select, is published.

    Raises:
        CacheError: if it is not; the message names all of it.
    """
    missing = {
        source.id: node
        for node in nodes
        for source in session.overrides.sources(session.flow.tasks[node])
        if source.id not in session.selection.tasks and snapshot.output_row(source.id) is None
    }
    if missing:
        read = ", ".join(f"{source!r} (read by {node!r})" for source, node in missing.items())
        stages = sorted({session.plan.node_by_id[source].stage for source in missing})
        raise CacheError(
            f"What this run does not select is read as it is published, but nothing is published of {read}. Select it, "
            f"too, or first run {', '.join(f'stage:{stage}' for stage in stages)}. (What was published with other "
            "arguments than the flow has now, or by another function of the name, does not count.)"
        )


def resolve_arguments(task: Task, snapshot: Snapshot) -> dict[str, Any]:
    """Return the arguments by parameter, with values in place of references; tables and blobs are descriptors."""
    values: dict[str, Any] = {}
    overrides = snapshot.session.overrides

    def value_of(source: Task) -> Any:
        if source.id not in values:
            row = snapshot.output_row(source.id)
            assert row is not None, f"{source.id} was not checked by missing_inputs"
            values[source.id] = snapshot.value(row)
        return values[source.id]

    def resolve(value: Any) -> Any:
        if isinstance(value, ExternalTableReference):
            return Table(value)
        if isinstance(value, Task):
            value = TaskGetItem(value, ())
        if isinstance(value, TaskGetItem):
            given = overrides.value(value)
            return value.pick(value_of(value.task)) if given is None else given[0]
        return value

    return {name: deep_map(value, resolve) for name, value in snapshot.session.arguments[task.id].items()}


def reads_open(task: Task, snapshot: Snapshot) -> tuple[tuple[str, int], ...]:
    """Return the unpublished generations of other stages whose tables the task reads.

    What is made from them is worth something only if they are published in the end.
    """
    rows: list[TaskRecord] = [
        row
        for source in snapshot.session.overrides.sources(task)
        if (row := snapshot.output_row(source.id)) is not None
    ]
    found = {
        (row.stage, row.produced_by if row.produced_by is not None else row.generation)
        for row in rows
        if row.stage != snapshot.stage and row.generation != snapshot.stages[row.stage].live
    }
    return tuple(sorted(found))


def needs_connection(task: Task, arguments: dict[str, Any]) -> bool:
    """Say whether loading the arguments reads from the database: data, or the columns of an external table."""
    external = any(isinstance(table, Table) and table.external for table in _held(arguments, (Table,)))
    return external or _needs_data(task, arguments)


def needs_no_data(task: Task, arguments: dict[str, Any]) -> bool:
    """Say whether the arguments can be had without reading data: values, and tables by reference."""
    return not _held(arguments, (Blob,)) and not _needs_data(task, arguments)


def _needs_data(task: Task, arguments: dict[str, Any]) -> bool:
    tables = bool(_held(arguments, (Table, RawSql)))
    return tables and not frame_type_for_input(task.unbound.input_type, task.id).by_reference


def _held(arguments: dict[str, Any], kinds: tuple[type, ...]) -> list[Any]:
    found: list[Any] = []

    def note(value: Any) -> Any:
        if isinstance(value, kinds):
            found.append(value)
        return value

    deep_map(arguments, note)
    return found


def load_arguments(session: RunSession, task: Task, arguments: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Replace every table, script and blob in the arguments by the loaded object.

    The database is opened only if data are read from it, and closed again before the function is called.

    Raises:
        UnsupportedValueError: if the task gets tables, but has no usable ``input_type``.
        StoreError: if something cannot be read.
        AutoVersionError: if a blob for a task with AUTO_VERSION holds classes that its code does not name.
    """
    arguments = with_versions(task, arguments, snapshot)
    if not needs_connection(task, arguments):
        return _load(session, None, task, arguments, snapshot)
    with session.store.connection() as connection:
        return _load(session, connection, task, arguments, snapshot)


def _load(
    session: RunSession, connection: sa.Connection | None, task: Task, arguments: dict[str, Any], snapshot: Snapshot
) -> dict[str, Any]:
    aliases: set[str] = set()

    def read(location: TableLocation) -> Any:
        location = attrs.evolve(location, alias=_free(location.name, aliases))
        return session.store.read_table(connection, location, task.unbound.input_type, task.id)

    def load(value: Any) -> Any:
        if isinstance(value, Blob):
            blob = session.blobs.read(snapshot.blob_location(value))
            check_blob(task.unbound, blob, arguments, f"Task {task.id!r}")
            return blob
        if not isinstance(value, (Table, RawSql)):
            return value
        if isinstance(value, Table) and value.external:
            assert connection is not None, "needs_connection has said so"
            return read(session.store.external_location(connection, value.external, task.id))
        loaded = {name: read(location) for name, location in snapshot.table_locations(value).items()}
        return value.loaded(loaded) if isinstance(value, RawSql) else loaded[str(value.name)]

    return {name: deep_map(value, load) for name, value in arguments.items()}


def _free(name: str, taken: set[str]) -> str:
    """Return the name, with a number if it is taken, and take it. Case does not count: databases differ in it."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free.casefold())
    return free


def bind(task: Task, arguments: dict[str, Any]) -> inspect.BoundArguments:
    """Return the arguments in the form in which the function is called with them."""
    bound = task.unbound.signature.bind_partial()
    bound.arguments.update(arguments)
    return bound
