"""Values that stand in for results of tasks in one run: ``flow.run(inputs=...)``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.core.containers import ExternalTableReference, Stored, Table
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.core.values import deep_map, dump_identity
from pipedag_airflow.errors import FlowError, SelectionError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.selector import Selection

__all__ = ["Overrides", "overrides_of"]

#: Id of a task, and the keys that lead to a part of its result.
_Place = tuple[str, tuple[Any, ...]]


@attrs.frozen
class Overrides:
    """What the tasks of a run read instead of results, by the place of these."""

    values: Mapping[_Place, Any] = attrs.field(factory=dict)

    def sources(self, task: Task) -> tuple[Task, ...]:
        """Return the tasks whose results a task still reads."""
        if not self.values:
            return task.inputs
        return tuple(dict.fromkeys(ref.task for ref in _references(task) if self._covering(ref) is None))

    def value(self, reference: TaskGetItem) -> tuple[Any] | None:
        """Return what stands in for a result or a part of it, in a tuple; None if nothing does."""
        place = self._covering(reference)
        if place is None:
            return None
        rest = TaskGetItem(reference.task, reference.keys[len(place[1]) :])
        return (rest.pick(self.values[place]),)

    def _covering(self, reference: TaskGetItem) -> _Place | None:
        keys = reference.keys
        places = ((reference.task.id, keys[:length]) for length in range(len(keys), -1, -1))
        return next((place for place in places if place in self.values), None)


def overrides_of(flow: Flow, selection: Selection, inputs: Mapping[Any, Any] | None) -> Overrides:
    """Check the overrides of a run.

    Args:
        flow: The flow.
        selection: What the run executes.
        inputs: By task, reference into a result, or id of a task: an :class:`ExternalTableReference`, a
            :class:`Table` of one, or any value that may pass between tasks; tables may stand within values.

    Raises:
        SelectionError: if no selected task reads what is replaced, if one reads it together with other parts of the
            same result, or if one reads a part that the value does not have.
        FlowError: if a task is not of this flow.
        TypeError: if a key is something else.
        UnsupportedValueError: if a value cannot pass between tasks, or is a table that is stored nowhere.
    """
    overrides = Overrides({_place(flow, key): _checked(key, value) for key, value in (inputs or {}).items()})
    read = [(task, ref) for task in _selected(flow, selection) for ref in _references(task)]
    for place in overrides.values:
        _check_read(place, read)
    for task, ref in read:
        try:
            overrides.value(ref)
        except (LookupError, TypeError) as error:
            raise SelectionError(
                f"inputs= replaces a result with a value that has no part {ref!r}, which task {task.id!r} reads "
                f"({type(error).__name__}: {error}). Replace the parts one by one, or give a value of the same form."
            ) from error
    return overrides


def _selected(flow: Flow, selection: Selection) -> Iterable[Task]:
    return [task for node, task in flow.tasks.items() if node in selection.tasks]


def _references(task: Task) -> Iterator[TaskGetItem]:
    found: list[TaskGetItem] = []

    def note(value: Any) -> Any:
        if isinstance(value, Task):
            found.append(TaskGetItem(value, ()))
        elif isinstance(value, TaskGetItem):
            found.append(value)
        return value

    deep_map(dict(task.bound.arguments), note)
    return iter(found)


def _place(flow: Flow, key: Any) -> _Place:
    if isinstance(key, str):
        if key not in flow.tasks:
            raise SelectionError(f"inputs= replaces the result of {key!r}, but flow {flow.name!r} has no such task.")
        return key, ()
    if not isinstance(key, (Task, TaskGetItem)):
        raise TypeError(f"inputs= replaces results of tasks, parts of them, or ids like 'stage.task', not {key!r}.")
    task, keys = (key.task, key.keys) if isinstance(key, TaskGetItem) else (key, ())
    if task.flow.name != flow.name or task.id not in flow.tasks:
        raise FlowError(f"inputs= replaces the result of {key!r}, which is not in flow {flow.name!r}.")
    return task.id, keys


def _checked(key: Any, value: Any) -> Any:
    def as_argument(leaf: Any) -> Any:
        if isinstance(leaf, ExternalTableReference):
            return Table(leaf)
        if isinstance(leaf, Stored) and not (isinstance(leaf, Table) and leaf.external):
            raise UnsupportedValueError(
                f"inputs= puts {leaf!r} in the place of {key!r}: only a table that is in the database already can be "
                "read. Store it there, and give ExternalTableReference(name, schema)."
            )
        return leaf

    value = deep_map(value, as_argument)
    dump_identity(value, f"inputs= for {key!r}")
    return value


def _check_read(place: _Place, read: list[tuple[Task, TaskGetItem]]) -> None:
    node, keys = place
    shown = f"{node}{''.join(f'[{key!r}]' for key in keys)}"
    of_node = [(task, ref) for task, ref in read if ref.task.id == node]
    for task, ref in of_node:
        if len(ref.keys) < len(keys) and ref.keys == keys[: len(ref.keys)]:
            raise SelectionError(
                f"inputs= replaces {shown}, but task {task.id!r} reads all of {ref!r}: replace that as a whole."
            )
    if not any(ref.keys[: len(keys)] == keys for _, ref in of_node):
        raise SelectionError(f"inputs= replaces {shown}, but no task that is selected reads it.")
