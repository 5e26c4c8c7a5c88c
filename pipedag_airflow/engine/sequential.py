"""One step after the other, in this process: the engine for a laptop, and the loop of whoever runs several steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.plan import NodeKind, PlanNode
from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.engine.engine_run import EngineRun, begin_when_free
from pipedag_airflow.run.execute import TaskReport, execute
from pipedag_airflow.run.publish import publish

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.begin import StageReport
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["SequentialEngine", "SequentialRun"]


class SequentialEngine(OrchestrationEngine):
    """Executes all tasks one after the other, in plan order.

    After a failure it stops if the run is to fail fast; else it goes on with everything that does not depend on what
    failed. A stage with a failed task is never published.
    """

    def run(self, session: RunSession, nodes: Sequence[str]) -> Outcome:
        """Run the given nodes of the plan."""
        return SequentialRun(session, nodes, fail_fast=session.config.fail_fast).run()


class SequentialRun(EngineRun):
    """The loop over nodes of a plan.

    Attributes:
        executed: What became of each task that begin did not find valid.
    """

    def __init__(self, session: RunSession, nodes: Sequence[str], *, fail_fast: bool) -> None:
        super().__init__(session, nodes, fail_fast=fail_fast)
        #: What is known of the stage that was begun last, until anything is published.
        self.known: Snapshot | None = None
        self.executed: dict[str, TaskReport] = {}

    def run(self) -> Outcome:
        """Call the steps; return what became of the nodes."""
        with self.session.store.kept_open():
            self._visit_all()
        return self.concluded()

    def begin(self, stage: str) -> StageReport:
        """Begin a stage, waiting while another run holds it."""
        return begin_when_free(self.session, stage, lambda: self.session.plan.stage_by_name)

    def visit(self, node: PlanNode) -> None:
        """Execute a task, beginning its stage before the first one, or publish a stage."""
        if node.kind is NodeKind.COMMIT:
            self.known = None
            report = self.begun.get(node.stage)
            if report is not None and not report.closed:
                self.published[node.stage] = publish(self.session, node.stage)
            return
        self.note_result(node, *self._task(node))

    def _visit_all(self) -> None:
        for node in self.nodes:
            if not self.done.issuperset(self.selected.intersection(node.upstream)):
                continue
            try:
                self.visit(node)
            except Exception as error:
                self.note_failure(node, error)
                if self.fail_fast:
                    break
            else:
                self.done.add(node.id)

    def _task(self, node: PlanNode) -> tuple[Any, Decision]:
        if node.stage not in self.begun:
            self.begun[node.stage] = self.begin(node.stage)
            self.known = self.begun[node.stage].snapshot
        report = self.begun[node.stage]
        decision = report.decisions[node.id]
        if decision.valid:
            return report.values[node.id], decision
        known = self.known if self.known is not None and self.known.stage == node.stage else None
        executed = self.executed[node.id] = execute(self.session, node.id, known=known)
        return executed.value, executed.decision
