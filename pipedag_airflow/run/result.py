"""The :class:`Result` of a run."""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.backend.metadata import ObjectKind, ObjectRecord
from pipedag_airflow.core.containers import Blob, RawSql, Table
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.core.values import deep_map
from pipedag_airflow.errors import CacheError, LockError, UnsupportedValueError
from pipedag_airflow.run.explain import explain
from pipedag_airflow.run.lock_context import StageLockContext
from pipedag_airflow.run.snapshot import location_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydot

    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.flow import Flow

__all__ = ["FinalTaskState", "Result"]

log = logging.getLogger(__name__)


def _holds_tables(value: Any) -> bool:
    found: list[Any] = []
    deep_map(value, lambda leaf: found.append(leaf) if isinstance(leaf, (Table, RawSql)) else None)
    return bool(found)


class FinalTaskState(Enum):
    """What became of a task in a run."""

    UNKNOWN = "unknown"
    COMPLETED = "completed"
    CACHE_VALID = "cache_valid"
    FAILED = "failed"


@attrs.frozen(eq=False)
class Result:
    """What a run of a flow gave.

    Args:
        flow: The flow that was run.
        subflow: Ids of the plan's nodes that were selected.
        underlying: What the engine returned; its type depends on the engine.
        successful: Whether every selected task has a result and every selected stage was published.
        config_context: The configuration of the run.
        task_values: The results by task; tables and blobs are descriptors.
        task_states: What became of each task.
        exception: The first exception of the run, if there was one.
        decisions: Why tasks ran or were valid; without those that failed or were not reached.
        run_id: Id of the run, as the metadata know it.
    """

    flow: Flow
    subflow: tuple[str, ...]
    underlying: Any
    successful: bool
    config_context: ConfigContext
    task_values: Mapping[Task, Any]
    task_states: Mapping[Task, FinalTaskState]
    exception: Exception | None
    decisions: Mapping[Task, Decision] = attrs.field(factory=dict)
    run_id: str = ""

    def get(self, task: Task | TaskGetItem, as_type: Any = None) -> Any:
        """Return the result of a task, with its tables and blobs loaded.

        It is what this run made or found valid, whatever other runs have published since.

        Args:
            task: The task, or a part of its result such as ``task["a"]``.
            as_type: Type in which tables are loaded; default is the ``input_type`` of the task itself.

        Raises:
            KeyError: if the task has no result.
            LockError: if ``strict_result_get_locking`` is set and no :class:`StageLockContext` is open.
            CacheError: if a table of that run was removed since.
            UnsupportedValueError: if there are tables, and no type to load them as.
        """
        root = task.task if isinstance(task, TaskGetItem) else task
        if self.config_context.strict_result_get_locking and not StageLockContext.is_open():
            raise LockError(
                f"strict_result_get_locking is set, so the result of {root.id!r} can only be read within a "
                "StageLockContext that also surrounds flow.run(). Open one, or set strict_result_get_locking: false."
            )
        if not self.successful:
            log.warning("The run of flow %r was not successful; %r may be incomplete", self.flow.name, root.id)
        if root not in self.task_values:
            raise KeyError(f"Task {root.id!r} has no result in this run: its state is {self._state(root)}")
        value = self.task_values[root]
        if isinstance(task, TaskGetItem):
            value = task.pick(value)
        as_type = as_type or root.unbound.input_type
        if as_type is None and _holds_tables(value):
            raise UnsupportedValueError(
                f"The result of {root.id!r} holds tables, and the task has no input_type that says how to load them: "
                "call result.get(task, as_type=pandas.DataFrame), for example."
            )
        return self._load(root, value, as_type)

    def explain(self, task: Task) -> str:
        """Say why a task ran in this run, or why it is valid, with what its decision was based on.

        Raises:
            CacheError: if the run never came to the task.
        """
        store: SQLTableStore = self.config_context.table_store
        with store.transaction() as transaction:
            return explain(transaction.metadata, task.id, self.run_id)

    def visualize(self) -> None:
        """Show the flow and what became of it; see :meth:`Flow.visualize`."""
        self.flow.visualize(self)

    def visualize_url(self) -> str:
        """Return a link that shows the flow and what became of it; see :meth:`Flow.visualize_url`."""
        return self.flow.visualize_url(self)

    def visualize_pydot(self) -> pydot.Dot:
        """Return the flow and what became of it as a graph of pydot's; see :meth:`Flow.visualize_pydot`."""
        return self.flow.visualize_pydot(self)

    def _state(self, task: Task) -> str:
        return self.task_states.get(task, FinalTaskState.UNKNOWN).value

    def _load(self, task: Task, value: Any, as_type: Any) -> Any:
        store: SQLTableStore = self.config_context.table_store
        blobs = self.config_context.blob_store
        with store.transaction() as transaction:

            def record(kind: ObjectKind, container: Any, name: str) -> ObjectRecord:
                found = transaction.metadata.find_object(container.stage, container.generation, kind, name)
                if found is None:
                    raise CacheError(
                        f"The {kind.value} {container.stage}.{name} of task {task.id!r} is gone: generation "
                        f"{container.generation} of its stage was removed. Run the flow again."
                    )
                return found

            def load_table(container: Any, name: str) -> Any:
                location = location_of(record(ObjectKind.TABLE, container, name))
                return store.read_table(transaction.connection, location, as_type, task.id)

            def load(leaf: Any) -> Any:
                if isinstance(leaf, Table):
                    return load_table(leaf, str(leaf.name))
                if isinstance(leaf, RawSql):
                    return leaf.loaded({name: load_table(leaf, name) for name in leaf.table_names})
                if isinstance(leaf, Blob):
                    return blobs.read(str(record(ObjectKind.BLOB, leaf, str(leaf.name)).location))
                return leaf

            return deep_map(value, load)
