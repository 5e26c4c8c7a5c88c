"""The :class:`Result` of a run."""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.errors import LockError
from pipedag_airflow.run.explain import explain
from pipedag_airflow.run.loading import load
from pipedag_airflow.run.lock_context import StageLockContext

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydot

    from pipedag_airflow.backend.table.sql.store import SQLTableStore
    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.flow import Flow

__all__ = ["FinalTaskState", "Result"]

log = logging.getLogger(__name__)


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

    def get(self, task: Task | TaskGetItem, as_type: Any = None, write_local_table_cache: bool = False) -> Any:
        """Return the result of a task, with its tables and blobs loaded.

        It is what this run made or found valid, whatever other runs have published since.

        Args:
            task: The task, or a part of its result such as ``task["a"]``.
            as_type: Type in which tables are loaded; default is the ``input_type`` of the task itself.
            write_local_table_cache: Whether copies of the tables that are read are kept in the local table cache, if
                one is configured. They are read from there in any case.

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
            why = f"its state is {self._state(root)}" if root.id in self.subflow else "it was not selected"
            raise KeyError(f"Task {root.id!r} has no result in this run: {why}")
        return load(self.config_context, task, self.task_values[root], as_type, write_local_table_cache)

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
