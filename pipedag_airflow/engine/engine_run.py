"""What an engine keeps in mind of a run: the base of its loop."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from pipedag_airflow.config.known_secrets import without_secrets
from pipedag_airflow.core.plan import NodeKind, PlanNode
from pipedag_airflow.engine.base import Outcome
from pipedag_airflow.errors import StageBusyError
from pipedag_airflow.run.begin import StageReport, begin
from pipedag_airflow.run.result import FinalTaskState
from pipedag_airflow.run.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from pipedag_airflow.cache.decision import Decision
    from pipedag_airflow.run.publish import PublishReport
    from pipedag_airflow.run.session import RunSession

__all__ = ["EngineRun", "begin_when_free"]

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_SAY_AGAIN_SECONDS = 30.0


class EngineRun:
    """A run of nodes of a plan, as an engine sees it.

    Args:
        session: The run.
        nodes: Ids of the nodes, in plan order; what they need of others is done.
        fail_fast: Whether to stop after a failure.

    Attributes:
        selected: The ids of the nodes.
        done: Those that are done.
        begun: What the begin of each stage found.
        published: What the publish of each stage did.
        failures: The errors by node id.
        outcome: What became of the nodes so far.
    """

    def __init__(self, session: RunSession, nodes: Sequence[str], *, fail_fast: bool) -> None:
        self.session = session
        self.nodes = [session.plan.node_by_id[node] for node in nodes]
        self.fail_fast = fail_fast
        self.selected = set(nodes)
        self.done: set[str] = set()
        self.begun: dict[str, StageReport] = {}
        self.published: dict[str, PublishReport] = {}
        self.failures: dict[str, Exception] = {}
        tasks = [node for node in self.nodes if node.kind is NodeKind.TASK]
        self.outcome = Outcome(False, {}, {node.id: FinalTaskState.UNKNOWN for node in tasks})

    def note_failure(self, node: PlanNode, error: Exception) -> None:
        """Keep the error of a node in mind; whatever does not depend on the node goes on."""
        self.failures[node.id] = error
        self.outcome.exception = self.outcome.exception or error
        if node.kind is NodeKind.TASK:
            self.outcome.states[node.id] = FinalTaskState.FAILED
        log.error("%s failed: %s", node.id, without_secrets(f"{type(error).__name__}: {error}"))

    def note_result(self, node: PlanNode, value: Any, decision: Decision) -> None:
        """Keep the result of a task, which was made or is valid."""
        self.outcome.values[node.id] = value
        self.outcome.states[node.id] = FinalTaskState.CACHE_VALID if decision.valid else FinalTaskState.COMPLETED
        self.outcome.decisions[node.id] = decision

    def concluded(self) -> Outcome:
        """Return what became of the nodes, now that the run is over."""
        self.outcome.successful = len(self.done) == len(self.nodes)
        return self.outcome


def begin_when_free(
    session: RunSession,
    stage: str,
    still: Callable[[], Collection[str]],
    pause: Callable[[float], Any] = time.sleep,
) -> StageReport:
    """Begin a stage, waiting in this thread while another run holds it.

    Args:
        session: The run.
        stage: Name of the stage.
        still: Gives the names of the stages that are not over before this one is begun, whatever they need.
        pause: Waits for some seconds; what it returns is true if there is nothing more to wait for.

    Raises:
        StageBusyError: if there is nothing more to wait for.
        DeadlockError: if runs wait for each other in a circle, and this one is to give up.
        Exception: whatever begin raises.
    """
    said = 0.0
    while True:
        try:
            return begin(session, stage)
        except StageBusyError as busy:
            wait_for(session, stage, busy, still=still())
            if time.monotonic() - said > _SAY_AGAIN_SECONDS:
                log.warning("Waiting for stage %s: %s", stage, busy)
                said = time.monotonic()
            session.store.let_go()
            if pause(_POLL_SECONDS):
                session.locks.withdraw(stage, session.owner)
                raise
