"""The engine for a laptop: one step after the other, in this process."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.plan import NodeKind, PlanNode
from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.errors import StageBusyError
from pipedag_airflow.run.begin import StageReport, begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.result import FinalTaskState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.session import RunSession

__all__ = ["SequentialEngine"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_SAY_AGAIN_SECONDS = 30.0


class SequentialEngine(OrchestrationEngine):
    """Executes all tasks one after the other, in plan order.

    After a failure it stops if the run is to fail fast; else it goes on with everything that does not depend on what
    failed. A stage with a failed task is never published.
    """

    def run(self, session: RunSession, nodes: Sequence[str]) -> Outcome:
        """Run the given nodes of the plan."""
        return _SequentialRun(session, nodes).run()


class _SequentialRun:
    def __init__(self, session: RunSession, nodes: Sequence[str]) -> None:
        self.session = session
        self.nodes = [session.plan.node_by_id[node] for node in nodes]
        self.selected = set(nodes)
        self.begun: dict[str, StageReport] = {}
        self.done: set[str] = set()
        self.outcome = Outcome(False, {}, {node.id: FinalTaskState.UNKNOWN for node in self._tasks()})

    def _tasks(self) -> list[PlanNode]:
        return [node for node in self.nodes if node.kind is NodeKind.TASK]

    def run(self) -> Outcome:
        for node in self.nodes:
            if not self.done.issuperset(self.selected.intersection(node.upstream)):
                continue
            try:
                self._visit(node)
            except Exception as error:
                self._note_failure(node, error)
                if self.session.config.fail_fast:
                    break
            else:
                self.done.add(node.id)
        self.outcome.successful = len(self.done) == len(self.nodes)
        return self.outcome

    def _note_failure(self, node: PlanNode, error: Exception) -> None:
        self.outcome.exception = self.outcome.exception or error
        if node.kind is NodeKind.TASK:
            self.outcome.states[node.id] = FinalTaskState.FAILED
        log.error("%s failed: %s: %s", node.id, type(error).__name__, error)

    def _visit(self, node: PlanNode) -> None:
        if node.kind is NodeKind.COMMIT:
            report = self.begun.get(node.stage)
            if report is not None and not report.closed:
                publish(self.session, node.stage)
            return
        value, decision = self._task(node)
        self.outcome.values[node.id] = value
        self.outcome.states[node.id] = FinalTaskState.CACHE_VALID if decision.valid else FinalTaskState.COMPLETED
        self.outcome.decisions[node.id] = decision

    def _task(self, node: PlanNode) -> tuple[Any, Decision]:
        if node.stage not in self.begun:
            self.begun[node.stage] = _begin_when_free(self.session, node.stage)
        report = self.begun[node.stage]
        decision = report.decisions[node.id]
        if decision.valid:
            return report.values[node.id], decision
        executed = execute(self.session, node.id)
        return executed.value, executed.decision


def _begin_when_free(session: RunSession, stage: str) -> StageReport:
    """Begin a stage, waiting while another run holds it."""
    said = 0.0
    while True:
        try:
            return begin(session, stage)
        except StageBusyError as busy:
            if time.monotonic() - said > _SAY_AGAIN_SECONDS:
                log.warning("Waiting for stage %s: %s", stage, busy)
                said = time.monotonic()
            time.sleep(_POLL_SECONDS)
