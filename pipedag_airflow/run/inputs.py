"""The arguments of a task: references become values, descriptors become tables and objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.table.sql.frames.base import frame_type_for_input
from pipedag_airflow.core.containers import Blob, RawSql, Table
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.core.values import deep_map

if TYPE_CHECKING:
    import inspect

    import sqlalchemy as sa

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["bind", "load_arguments", "missing_inputs", "needs_no_data", "reads_open", "resolve_arguments"]


def missing_inputs(task: Task, snapshot: Snapshot) -> list[str]:
    """Return the ids of the tasks whose results are arguments, but not there yet."""
    return [source.id for source in task.inputs if snapshot.output_row(source.id) is None]


def resolve_arguments(task: Task, snapshot: Snapshot) -> dict[str, Any]:
    """Return the arguments by parameter, with values in place of references; tables and blobs are descriptors."""
    values: dict[str, Any] = {}

    def value_of(source: Task) -> Any:
        if source.id not in values:
            row = snapshot.output_row(source.id)
            assert row is not None, f"{source.id} was not checked by missing_inputs"
            values[source.id] = snapshot.value(row)
        return values[source.id]

    def resolve(value: Any) -> Any:
        if isinstance(value, Task):
            return value_of(value)
        if isinstance(value, TaskGetItem):
            return value.pick(value_of(value.task))
        return value

    return {name: deep_map(value, resolve) for name, value in task.bound.arguments.items()}


def reads_open(task: Task, snapshot: Snapshot) -> tuple[tuple[str, int], ...]:
    """Return the unpublished generations of enclosing stages whose tables the task reads.

    What is made from them is worth something only if they are published in the end.
    """
    rows: list[TaskRecord] = [row for source in task.inputs if (row := snapshot.output_row(source.id)) is not None]
    found = {
        (row.stage, row.produced_by if row.produced_by is not None else row.generation)
        for row in rows
        if row.stage != snapshot.stage and row.stage in snapshot.open_generations
    }
    return tuple(sorted(found))


def needs_connection(task: Task, arguments: dict[str, Any]) -> bool:
    """Say whether loading the arguments reads data from the database."""
    tables = _holds(arguments, (Table, RawSql))
    return tables and not frame_type_for_input(task.unbound.input_type, task.id).by_reference


def needs_no_data(task: Task, arguments: dict[str, Any]) -> bool:
    """Say whether the arguments can be had without reading data: values, and tables by reference."""
    return not _holds(arguments, (Blob,)) and not needs_connection(task, arguments)


def _holds(arguments: dict[str, Any], kinds: tuple[type, ...]) -> bool:
    found: list[Any] = []

    def note(value: Any) -> Any:
        if isinstance(value, kinds):
            found.append(value)
        return value

    deep_map(arguments, note)
    return bool(found)


def load_arguments(session: RunSession, task: Task, arguments: dict[str, Any], snapshot: Snapshot) -> dict[str, Any]:
    """Replace every table, script and blob in the arguments by the loaded object.

    The database is opened only if data are read from it, and closed again before the function is called.

    Raises:
        UnsupportedValueError: if the task gets tables, but has no usable ``input_type``.
        StoreError: if something cannot be read.
    """
    if not needs_connection(task, arguments):
        return _load(session, None, task, arguments, snapshot)
    with session.store.connection() as connection:
        return _load(session, connection, task, arguments, snapshot)


def _load(
    session: RunSession, connection: sa.Connection | None, task: Task, arguments: dict[str, Any], snapshot: Snapshot
) -> dict[str, Any]:
    def load(value: Any) -> Any:
        if isinstance(value, Blob):
            return session.blobs.read(snapshot.blob_location(value))
        if not isinstance(value, (Table, RawSql)):
            return value
        loaded = {
            name: session.store.read_table(connection, location, task.unbound.input_type, task.id)
            for name, location in snapshot.table_locations(value).items()
        }
        return value.loaded(loaded) if isinstance(value, RawSql) else loaded[str(value.name)]

    return {name: deep_map(value, load) for name, value in arguments.items()}


def bind(task: Task, arguments: dict[str, Any]) -> inspect.BoundArguments:
    """Return the arguments in the form in which the function is called with them."""
    bound = task.unbound.signature.bind_partial()
    bound.arguments.update(arguments)
    return bound
