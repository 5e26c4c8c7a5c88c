"""One step after the other, in this process: the engine for a laptop, and the loop of whoever runs several steps."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.plan import NodeKind, PlanNode
from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.errors import StageBusyError
from pipedag_airflow.run.begin import StageReport, begin
from pipedag_airflow.run.execute import TaskReport, execute
from pipedag_airflow.run.publish import PublishReport, publish
from pipedag_airflow.run.result import FinalTaskState
from pipedag_airflow.run.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.session import RunSession
    from pipedag_airflow.run.snapshot import Snapshot

__all__ = ["SequentialEngine", "SequentialRun"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SAY_AGAIN_SECONDS = 30.0


class SequentialEngine(OrchestrationEngine):
    """Executes all tasks one after the other, in plan order.

    After a failure it stops if the run is to fail fast; else it goes on with everything that does not depend on what
    failed. A stage with a failed task is never published.
    """

    def run(self, session: RunSession, nodes: Sequence[str]) -> Outcome:
        """Run the given nodes of the plan."""
        return SequentialRun(session, nodes, fail_fast=session.config.fail_fast).run()


class SequentialRun:
    """The loop over nodes of a plan.

    Args:
        session: The run.
        nodes: Ids of the nodes, in plan order; what they need of others is done.
        fail_fast: Whether to stop after a failure.

    Attributes:
        begun: What the begin of each stage found.
        executed: What became of each task that begin did not find valid.
        published: What the publish of each stage did.
        failures: The errors by node id.
    """

    def __init__(self, session: RunSession, nodes: Sequence[str], *, fail_fast: bool) -> None:
        self.session = session
        self.nodes = [session.plan.node_by_id[node] for node in nodes]
        self.fail_fast = fail_fast
        self.selected = set(nodes)
        #: What is known of the stage that was begun last, until anything is published.
        self.known: Snapshot | None = None
        self.done: set[str] = set()
        self.begun: dict[str, StageReport] = {}
        self.executed: dict[str, TaskReport] = {}
        self.published: dict[str, PublishReport] = {}
        self.failures: dict[str, Exception] = {}
        self.outcome = Outcome(False, {}, {node.id: FinalTaskState.UNKNOWN for node in self._tasks()})

    def _tasks(self) -> list[PlanNode]:
        return [node for node in self.nodes if node.kind is NodeKind.TASK]

    def run(self) -> Outcome:
        """Call the steps; return what became of the nodes."""
        with self.session.store.kept_open():
            self._visit_all()
        self.outcome.successful = len(self.done) == len(self.nodes)
        return self.outcome

    def begin(self, stage: str) -> StageReport:
        """Begin a stage, waiting while another run holds it."""
        return _begin_when_free(self.session, stage)

    def note_failure(self, node: PlanNode, error: Exception) -> None:
        """Keep the error of a node in mind; whatever does not depend on the node goes on."""
        self.failures[node.id] = error
        self.outcome.exception = self.outcome.exception or error
        if node.kind is NodeKind.TASK:
            self.outcome.states[node.id] = FinalTaskState.FAILED
        log.error("%s failed: %s: %s", node.id, type(error).__name__, error)

    def visit(self, node: PlanNode) -> None:
        """Execute a task, beginning its stage before the first one, or publish a stage."""
        if node.kind is NodeKind.COMMIT:
            self.known = None
            report = self.begun.get(node.stage)
            if report is not None and not report.closed:
                self.published[node.stage] = publish(self.session, node.stage)
            return
        value, decision = self._task(node)
        self.outcome.values[node.id] = value
        self.outcome.states[node.id] = FinalTaskState.CACHE_VALID if decision.valid else FinalTaskState.COMPLETED
        self.outcome.decisions[node.id] = decision

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


def _begin_when_free(session: RunSession, stage: str) -> StageReport:
    """Begin a stage, waiting while another run holds it."""
    said = 0.0
    while True:
        try:
            return begin(session, stage)
        except StageBusyError as busy:
            wait_for(session, stage, busy, still=session.plan.stage_by_name)
            if time.monotonic() - said > _SAY_AGAIN_SECONDS:
                log.warning("Waiting for stage %s: %s", stage, busy)
                said = time.monotonic()
            session.store.let_go()
            time.sleep(_POLL_SECONDS)
