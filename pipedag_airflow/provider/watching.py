"""What a task reads and executes, shown among the rendered fields of its operator, also when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.provider.by_hand import refuse_if_read
from pipedag_airflow.run.lineage import Lineage
from pipedag_airflow.run.watching import Watcher, previous_run, shown_inputs, shown_queries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.backend.table.sql.transaction import SQLTransaction
    from pipedag_airflow.core.task import Task
    from pipedag_airflow.provider.operators import MaterializeOperator
    from pipedag_airflow.provider.run_operators import StagesOperator
    from pipedag_airflow.run.outputs import Output
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["OperatorWatcher", "StagesWatcher"]


class OperatorWatcher(Watcher):
    """Puts what is told of a step into the fields of its operator.

    Args:
        operator: The operator, as its process executes it.
        instance: The task instance of Airflow's.
    """

    def __init__(self, operator: MaterializeOperator, instance: Any) -> None:
        self.operator = operator
        self.lineage = operator.lineage = Lineage()
        self.instance = instance

    def reopened(self, task: Task, snapshot: Snapshot) -> None:
        """Refuse to make what could not be published."""
        stage = snapshot.session.plan.stage_by_name[snapshot.stage]
        refuse_if_read(snapshot.session, stage, task.id, self.instance)

    def opened(self, task: Task, snapshot: Snapshot, transaction: SQLTransaction) -> None:
        """Note the run that made what readers see."""
        self.operator.previous_run = previous_run(task, snapshot, transaction)

    def reads(self, snapshot: Snapshot, arguments: Mapping[str, Any]) -> None:
        """Show the arguments."""
        self.operator.inputs = shown_inputs(snapshot, arguments)
        self.lineage.reads(snapshot, arguments)

    def makes(self, session: RunSession, outputs: Iterable[Output]) -> None:
        """Show the queries."""
        self.operator.sql = shown_queries(session.store, outputs)
        self.lineage.executes(session, self.operator.sql)

    def made(self, session: RunSession, row: TaskRecord) -> None:
        """Note the tables."""
        self.lineage.makes(session.store, row.objects)


class StagesWatcher(Watcher):
    """Puts what is told of one task after the other into the fields of the operator that runs them all.

    Args:
        operator: The operator, as its process executes it.
        stages: The stages that it runs; what it reads of them is nothing that comes from elsewhere.
    """

    def __init__(self, operator: StagesOperator, stages: Collection[str]) -> None:
        self.operator = operator
        self.stages = stages
        self.lineage = operator.lineage = Lineage()
        #: Id of the task that is executed; the loop says it.
        self.task = ""

    def reads(self, snapshot: Snapshot, arguments: Mapping[str, Any]) -> None:
        """Show the arguments."""
        self.operator.inputs = {**(self.operator.inputs or {}), self.task: shown_inputs(snapshot, arguments)}
        self.lineage.reads(snapshot, arguments, within=self.stages)

    def makes(self, session: RunSession, outputs: Iterable[Output]) -> None:
        """Show the queries."""
        queries = shown_queries(session.store, outputs)
        if queries:
            told = f"-- task {self.task}\n{queries}\n\n"
            self.operator.sql = (self.operator.sql or "") + told
            self.lineage.executes(session, told)
