"""Several steps in one process of Airflow's: the loop of ``flow.run()``, as the log of an operator shows it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.plan import NodeKind
from pipedag_airflow.engine.sequential import SequentialRun
from pipedag_airflow.errors import FailedNodesError, StageBusyError
from pipedag_airflow.provider.telling import shown_begin, shown_publish, shown_task
from pipedag_airflow.run.begin import StageReport, begin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.core.plan import PlanNode
    from pipedag_airflow.provider.watching import StagesWatcher

__all__ = ["StagesRun"]

log = logging.getLogger(__name__)


class StagesRun(SequentialRun):
    """The loop, as the log of an operator shows it, and without waiting in the process.

    Attributes:
        at: The step that it is at.
        watcher: What is told of each task.
    """

    at: PlanNode
    watcher: StagesWatcher

    def begin(self, stage: str) -> StageReport:
        """Begin a stage, or say at once that it is busy."""
        return begin(self.session, stage)

    def visit(self, node: PlanNode) -> None:
        """Say which step it is, and call it."""
        self.at, self.watcher.task = node, node.id
        log.info("Step %s of %s: %s", self.nodes.index(node) + 1, len(self.nodes), node.id)
        super().visit(node)

    def note_failure(self, node: PlanNode, error: Exception) -> None:
        """Log the error with its traceback; that a stage is busy is for the operator to deal with."""
        if isinstance(error, StageBusyError):
            raise error
        super().note_failure(node, error)
        log.error("This is how %s failed", node.id, exc_info=error)

    @property
    def over(self) -> list[str]:
        """Names of the stages that need nothing more."""
        return [name for name, report in self.begun.items() if report.closed or name in self.published]

    def decisions(self) -> dict[str, Any]:
        """Return what each begin has decided, for a person to read."""
        return {name: shown_begin(report) for name, report in self.begun.items()}

    def told(self) -> dict[str, Any]:
        """Return what was made and published, for a person to read."""
        published = {name: shown_publish(report) for name, report in self.published.items()}
        return {"stages": published, "tasks": {node: shown_task(report) for node, report in self.executed.items()}}

    def failure(self, operator: str) -> FailedNodesError:
        """Return an error that names what failed, and what that kept from running."""
        failed = "; ".join(f"{node} ({type(error).__name__}: {error})" for node, error in self.failures.items())
        rest = [node.id for node in self.nodes if node.id not in self.done and node.id not in self.failures]
        stages = {node.stage for node in self.nodes if node.kind is NodeKind.COMMIT and node.id not in self.done}
        error = FailedNodesError(
            f"{operator}: failed: {failed}. Not run for that: {_listed(rest)}. Not published: "
            f"{_listed(sorted(stages))}; readers see there what they saw before. Mend it and clear this task, or start "
            "another run: what was finished is kept.",
            self.failures,
        )
        error.__cause__ = next(iter(self.failures.values()))
        return error


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
