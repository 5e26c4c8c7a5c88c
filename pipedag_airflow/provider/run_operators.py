"""The operators that run several steps in one process: a stage with all that is nested in it, or a whole flow.

They call the steps that the operators of single steps call, in the loop of ``flow.run()``, so results, cache and
guarantees are the same. What a process that died had finished is found valid by the next try.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException

from pipedag_airflow.core.plan import NodeKind
from pipedag_airflow.engine.sequential import SequentialRun
from pipedag_airflow.errors import FailedNodesError, StageBusyError
from pipedag_airflow.provider.assets import announce
from pipedag_airflow.provider.form import RunOptions
from pipedag_airflow.provider.links import TablesLink
from pipedag_airflow.provider.operators import TransactionOperator
from pipedag_airflow.provider.telling import shown_publish, shown_task
from pipedag_airflow.run.abandon import set_aside
from pipedag_airflow.run.begin import StageReport, begin

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from pipedag_airflow.core.plan import Plan, PlanNode, PlanStage
    from pipedag_airflow.provider.watching import StagesWatcher
    from pipedag_airflow.run.session import RunSession

__all__ = ["FlowRunOperator", "StageRunOperator"]

log = logging.getLogger(__name__)


class StageRunOperator(TransactionOperator):
    """Runs a stage with all that is nested in it: begin, tasks, commit.

    When a task fails, what does not need it goes on; then the operator fails, and the stage is not published. While
    another run holds a stage, it waits without a worker slot.
    """

    ui_color = "#f4fbe8"
    custom_operator_name = "stage"
    operator_extra_links: Collection[BaseOperatorLink] = (TablesLink(),)
    template_fields: Sequence[str] = ("inputs", "sql")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "sql": "sql"}
    # As those of a single task; here they are by task.
    overwrite_rtif_after_execution = True
    inputs: dict[str, Any] | None = None
    sql: str | None = None
    #: The stages that this try had done before it waited.
    over: Sequence[str] = ()
    _waited_for: str | None = None

    def stages(self, plan: Plan) -> list[PlanStage]:
        """Return the stages that it runs."""
        return [stage for stage in plan.stages if stage.name == self.stage or plan.is_inside(stage.name, self.stage)]

    def execute_again(self, context: Context, event: Mapping[str, Any], over: Sequence[str] = ()) -> Any:
        """Go on after waiting, with the stages that are not over."""
        self.over, self._waited_for = over, event["stage"]
        return super().execute_again(context, event)

    def wait(self, session: RunSession, busy: StageBusyError, since: float | None) -> None:
        """Defer until the stage that is busy is free."""
        super().wait(session, busy, since if self.awaited == self._waited_for else None)

    def waits_with_it(self, session: RunSession) -> list[str]:
        """Return the names of the stages that it runs."""
        return [stage.name for stage in self.stages(session.plan)]

    def kept_while_waiting(self) -> dict[str, Any]:
        """Return what the next process is to know: done stages are not begun again."""
        return {"over": list(self.over)}

    def rehearse(self, session: RunSession, context: Context) -> None:
        """Say what the run would do if this is the first operator of all."""
        first = next(stage for stage in session.plan.stages if stage.tasks)
        if first not in self.stages(session.plan):
            super().rehearse(session, context)
        self.tell_of_all(session, context)

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Run what is selected of the stages."""
        from pipedag_airflow.provider.by_hand import refuse_marked
        from pipedag_airflow.provider.watching import StagesWatcher

        plan, selection = session.plan, session.selection
        selected = [stage for stage in self.stages(plan) if selection.of(stage)]
        if not selected:
            raise AirflowSkipException(f"{self.task_id}: nothing of it is selected in this run")
        refuse_marked(session, [stage.name for stage in selected], self.dag)
        names = {stage.name for stage in selected}.difference(self.over)
        nodes = [node for node in selection.nodes(plan) if plan.node_by_id[node].stage in names]
        session.watcher = watcher = StagesWatcher(self, {stage.name for stage in self.stages(plan)})
        run = _OperatorRun(session, nodes, fail_fast=RunOptions.of(context["params"]).fail_fast)
        run.watcher = watcher
        try:
            run.run()
        except StageBusyError:
            self.awaited, self.over = run.at.stage, [*self.over, *run.over]
            raise
        for report in run.published.values():
            watcher.lineage.makes(session.store, report.tables)
        context["ti"].xcom_push("decisions", run.decisions())
        if run.failures:
            raise run.failure(self.task_id)
        for stage in selected:
            if stage.name not in selection.stages:
                set_aside(session, stage.name)
                log.info("Stage %s is not selected as a whole: nothing of it is published", stage.name)
            announce(session, stage.name, context)
        return run.told()


class FlowRunOperator(StageRunOperator):
    """Runs a whole flow. Its ``stage`` is the one that is begun first."""

    custom_operator_name = "flow"

    def stages(self, plan: Plan) -> list[PlanStage]:
        """Return all stages."""
        return list(plan.stages)


class _OperatorRun(SequentialRun):
    """The loop, as the log of an operator shows it, and without waiting in the process."""

    at: PlanNode
    watcher: StagesWatcher

    def begin(self, stage: str) -> StageReport:
        return begin(self.session, stage)

    def visit(self, node: PlanNode) -> None:
        self.at, self.watcher.task = node, node.id
        log.info("Step %s of %s: %s", self.nodes.index(node) + 1, len(self.nodes), node.id)
        super().visit(node)

    def note_failure(self, node: PlanNode, error: Exception) -> None:
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
        return {
            name: {"generation": report.generation, "unchanged": report.closed, "tasks": _texts(report)}
            for name, report in self.begun.items()
        }

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


def _texts(report: StageReport) -> dict[str, str]:
    return {node: str(decision) for node, decision in report.decisions.items()}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
